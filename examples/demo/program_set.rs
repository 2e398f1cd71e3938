//! The programs of the demo: started, listened to, and ended whatever happens.

use crate::{DEADLINE, SERVING, say, title};
use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::{Pid, Signal, kill_process};
use std::env;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take to end after it was asked to.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long it may take until Ctrl-C is heard of here.
const HEARING: Duration = Duration::from_millis(300);
/// How many chunks go by between two lines about them.
const CHUNKS_A_LINE: usize = 8;
const INTERRUPTED: &str = "interrupted";

/// What the threads that read the programs' output tell.
enum Event {
    /// A program, by its place, has written a line.
    Line(usize, String),
    /// One of a program's two outputs has ended.
    Closed(usize),
}

/// A program that was started.
pub struct Program {
    who: &'static str,
    child: Child,
    /// Everything that it said.
    lines: Vec<String>,
    /// How many chunks it has begun to send.
    pub served: usize,
    /// Outputs that have not ended: none when the program has.
    outputs: usize,
    /// How it ended, once it was waited for.
    status: Option<ExitStatus>,
    /// Whether it is to end by now; any other end is a failure.
    may_end: bool,
}

impl Program {
    fn said(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }

    /// Asks it to end in good order, as Ctrl-C does.
    fn interrupt(&mut self) {
        self.may_end = true;
        // The number is surely its own only while nobody has waited for it.
        if let (None, Ok(id)) = (self.status, i32::try_from(self.child.id()))
            && let Some(id) = Pid::from_raw(id)
        {
            let _ = kill_process(id, Signal::INT);
        }
    }
}

/// The running programs, what they say, and the folder that they work in.
pub struct Stage {
    /// Where the programs are.
    binaries: PathBuf,
    /// Where they work.
    pub folder: PathBuf,
    programs: Vec<Program>,
    tell: Sender<Event>,
    told: Receiver<Event>,
    interrupted: Receiver<()>,
    deadline: Instant,
}

impl Stage {
    pub fn new(binaries: PathBuf, folder: PathBuf, deadline: Instant, interrupted: Receiver<()>) -> Self {
        let (tell, told) = bounded(1_024);
        Self { binaries, folder, programs: Vec::new(), tell, told, interrupted, deadline }
    }

    /// Starts a program under a name. When the name was used before it now means this one.
    pub fn start<'a>(
        &mut self,
        who: &'static str,
        binary: &str,
        flags: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let flags: Vec<&str> = flags.into_iter().collect();
        say("demo", &format!("starting {binary} {}", flags.join(" ")));
        let path = self.binaries.join(binary).with_extension(env::consts::EXE_EXTENSION);
        let mut command = Command::new(&path);
        command.args(&flags).current_dir(&self.folder).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", path.display()))?;
        let (at, stdout, stderr) = (self.programs.len(), child.stdout.take(), child.stderr.take());
        // Who only asks or gets something ends when that is done, the others when they are told to.
        let has = |flag| flags.contains(&flag);
        let may_end = binary == "leecher" || has("status") || has("--get") && !has("--stay");
        let (lines, status) = (Vec::new(), None);
        self.programs.push(Program { who, child, lines, served: 0, outputs: 2, status, may_end });
        self.listen(at, stdout)?;
        self.listen(at, stderr)
    }

    /// Reads one output of a program, in a thread of its own that ends with that output.
    fn listen(&self, at: usize, output: Option<impl Read + Send + 'static>) -> Result<()> {
        let output = output.context("a program without output")?;
        let tell = self.tell.clone();
        let read = move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                if tell.send(Event::Line(at, String::from_utf8_lossy(&line).into_owned())).is_err() {
                    return;
                }
            }
            let _ = tell.send(Event::Closed(at));
        };
        thread::Builder::new().name("listen".to_owned()).spawn(read).context("cannot start a thread")?;
        Ok(())
    }

    pub fn program(&self, who: &str) -> Option<&Program> {
        self.programs.iter().rfind(|program| program.who == who)
    }

    /// Waits until `done`, while everything that is said is shown.
    pub fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) {
            let ended = self.programs.iter().find(|program| program.outputs == 0 && !program.may_end);
            if let Some(program) = ended {
                // Ctrl-C in a terminal reaches all programs at once, and this one may be the last to hear of it.
                ensure!(self.interrupted.recv_timeout(HEARING).is_err(), INTERRUPTED);
                bail!("{} has ended by itself", program.who);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "after {} s still waiting: {what}", DEADLINE.as_secs());
            crossbeam_channel::select! {
                recv(self.interrupted) -> _ => bail!(INTERRUPTED),
                recv(self.told) -> event => self.take(event.context("nobody is there any more")?),
                default(left) => {}
            }
        }
        Ok(())
    }

    /// Waits until a program says something, or has ended without saying it.
    pub fn until_said(&mut self, who: &str, text: &str) -> Result<()> {
        let what = format!("{who} is to say {text:?}");
        self.until(&what, |stage| {
            stage.program(who).is_none_or(|program| program.said(text) || program.outputs == 0)
        })?;
        let said = self.program(who).is_some_and(|program| program.said(text));
        ensure!(said, "{who} has ended without saying {text:?}");
        Ok(())
    }

    /// The address that a program listens on.
    pub fn address(&mut self, who: &str) -> Result<SocketAddr> {
        const LISTENING: &str = "listening on ";
        self.until_said(who, LISTENING)?;
        let mut lines = self.program(who).into_iter().flat_map(|program| &program.lines);
        let (_, rest) = lines.find_map(|line| line.split_once(LISTENING)).context("it listens nowhere")?;
        let address: String =
            rest.chars().take_while(|c| c.is_ascii_hexdigit() || "[].:".contains(*c)).collect();
        address.parse().with_context(|| format!("{who} listens on {address:?}, which is no address"))
    }

    /// Waits until a program has ended, which must be with exit code 0.
    pub fn until_success(&mut self, who: &str) -> Result<()> {
        let what = format!("{who} is to end");
        self.until(&what, |stage| stage.program(who).is_none_or(|program| program.outputs == 0))?;
        let program = self.programs.iter_mut().rfind(|program| program.who == who);
        let program = program.with_context(|| format!("{who} was never started"))?;
        let status = wait(program).with_context(|| format!("{who} cannot be waited for"))?;
        ensure!(status.success(), "{who} has ended with {status}");
        Ok(())
    }

    /// Ends some programs at once, as Ctrl-C does. Each must end with exit code 0.
    pub fn end(&mut self, whom: &[&str]) -> Result<()> {
        say("demo", &format!("Ctrl-C to {}", whom.join(", ")));
        for who in whom {
            let program = self.programs.iter_mut().rfind(|program| program.who == *who);
            program.with_context(|| format!("{who} was never started"))?.interrupt();
        }
        whom.iter().try_for_each(|who| self.until_success(who))
    }

    /// `kill -9`.
    pub fn kill(&mut self, who: &str) -> Result<()> {
        let program = self.programs.iter_mut().rfind(|program| program.who == who);
        let program = program.with_context(|| format!("{who} was never started"))?;
        let sending = match program.served {
            0 => String::new(),
            served => format!(", which is sending its chunk number {served}"),
        };
        say("demo", &format!("kill -9 {} ({who}{sending})", program.child.id()));
        program.may_end = true;
        program.child.kill().with_context(|| format!("cannot kill {who}"))?;
        wait(program).map(drop).with_context(|| format!("{who} cannot be waited for"))
    }

    /// Shows and keeps what a program says.
    fn take(&mut self, event: Event) {
        let (Event::Line(at, _) | Event::Closed(at)) = event;
        let Some(program) = self.programs.get_mut(at) else { return };
        match event {
            Event::Closed(_) => program.outputs = program.outputs.saturating_sub(1),
            Event::Line(_, line) => {
                if line.contains(SERVING) {
                    program.served += 1;
                    if program.served.is_multiple_of(CHUNKS_A_LINE) {
                        say(program.who, &format!("{} chunks sent", program.served));
                    }
                } else if let Some(text) = readable(&line) {
                    say(program.who, &text);
                }
                program.lines.push(line);
            }
        }
    }

    /// Ends every program that still runs, as Ctrl-C does. Each must end with exit code 0.
    pub fn end_all(&mut self) -> Result<()> {
        title("Ctrl-C to all that still run");
        // The tracker last, so that it hears the others say goodbye.
        for at in (0..self.programs.len()).rev() {
            let Program { who, status: None, may_end: false, .. } = self.programs[at] else { continue };
            self.programs[at].interrupt();
            self.until_success(who)?;
            say("demo", &format!("{who} has ended with exit code 0"));
        }
        Ok(())
    }
}

impl Drop for Stage {
    /// Whatever happened: nothing that was started here stays.
    fn drop(&mut self) {
        self.programs.iter_mut().for_each(Program::interrupt);
        let limit = Instant::now() + FAREWELL;
        while self.programs.iter().any(|program| program.status.is_none() && program.outputs > 0) {
            match self.told.recv_deadline(limit) {
                Ok(event) => self.take(event),
                Err(_) => break,
            }
        }
        for program in self.programs.iter_mut().filter(|program| program.status.is_none()) {
            let _ = program.child.kill();
            let _ = wait(program);
        }
    }
}

fn wait(program: &mut Program) -> io::Result<ExitStatus> {
    let status = program.child.wait()?;
    program.status = Some(status);
    Ok(status)
}

/// A line as it is shown: without the time, which `logs.log` has, and with the first digits of each digest. Lines
/// for debugging are not shown.
fn readable(line: &str) -> Option<String> {
    let mut parts = line.splitn(3, " - ");
    let text = match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some("INFO"), Some(text)) => text.to_owned(),
        (Some(_), Some("DEBUG"), Some(_)) => return None,
        (Some(_), Some(level @ ("WARNING" | "ERROR")), Some(text)) => format!("{level}: {text}"),
        _ => line.to_owned(),
    };
    let shorten = |word: &str| match matches!(word.len(), 32 | 64)
        && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        true => format!("{}…", &word[..8]),
        false => word.to_owned(),
    };
    let words = text.split_inclusive([' ', ',']).map(|word| {
        let end = word.trim_end_matches([' ', ',']).len();
        shorten(&word[..end]) + &word[end..]
    });
    Some(words.collect())
}
