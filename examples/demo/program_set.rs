//! The programs of the demo: starts them, reads their output, and ends them, also after an error.

use crate::{DEMO_TIMEOUT, SERVING, print_line, title};
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

/// Maximum time for a program to end after an interrupt; after it the program is killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum delay between the end of a program by Ctrl-C and the arrival of the same Ctrl-C at the demo.
const INTERRUPT_TIMEOUT: Duration = Duration::from_millis(300);
/// Number of sent chunks between two lines about them.
const CHUNKS_PER_LINE_COUNT: usize = 64;
const INTERRUPTED: &str = "interrupted";

/// Event from a thread that reads the output of a program.
enum Event {
    /// A program, given by its index, has written a line.
    Line(usize, String),
    /// One of the two output streams of a program has ended.
    Closed(usize),
}

/// A program that was started.
pub struct Program {
    name: &'static str,
    child: Child,
    /// All lines that it has written.
    lines: Vec<String>,
    /// Number of chunks that it has started to send.
    pub served: usize,
    /// Number of open output streams; 0 after the program has ended.
    outputs: usize,
    /// Its exit status, after it was waited for.
    status: Option<ExitStatus>,
    /// Whether its end is expected; an unexpected end is an error.
    may_end: bool,
}

impl Program {
    /// Whether it has written a line that contains `text`.
    fn has_written(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }

    /// Sends SIGINT, as Ctrl-C does, for a graceful shutdown.
    fn interrupt(&mut self) {
        self.may_end = true;
        // The process id is valid only until the program is waited for.
        if let (None, Ok(id)) = (self.status, i32::try_from(self.child.id()))
            && let Some(id) = Pid::from_raw(id)
        {
            let _ = kill_process(id, Signal::INT);
        }
    }
}

/// The programs of the demo and their working folder.
pub struct ProgramSet {
    /// Folder of the executables.
    binaries: PathBuf,
    /// Working folder of the programs.
    pub folder: PathBuf,
    programs: Vec<Program>,
    sender: Sender<Event>,
    events: Receiver<Event>,
    interrupted: Receiver<()>,
    deadline: Instant,
}

impl ProgramSet {
    pub fn new(binaries: PathBuf, folder: PathBuf, deadline: Instant, interrupted: Receiver<()>) -> Self {
        let (sender, events) = bounded(1_024);
        Self { binaries, folder, programs: Vec::new(), sender, events, interrupted, deadline }
    }

    /// Starts a program under a name. A name that was used before now refers to the new program.
    pub fn start<'a>(
        &mut self,
        name: &'static str,
        binary: &str,
        flags: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let flags: Vec<&str> = flags.into_iter().collect();
        print_line("demo", &format!("starting {binary} {}", flags.join(" ")));
        let path = self.binaries.join(binary).with_extension(env::consts::EXE_EXTENSION);
        let mut command = Command::new(&path);
        command.args(&flags).current_dir(&self.folder).env_remove("RUST_LOG");
        // The records of the stores are removed with the demo.
        command.env("XDG_STATE_HOME", self.folder.join("state-home"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", path.display()))?;
        let (at, stdout, stderr) = (self.programs.len(), child.stdout.take(), child.stderr.take());
        // A status query and a download without --stay end by themselves; the other programs end after an interrupt.
        let has = |flag| flags.contains(&flag);
        let may_end = binary == "leecher" || has("status") || has("--get") && !has("--stay");
        let (lines, status) = (Vec::new(), None);
        self.programs.push(Program { name, child, lines, served: 0, outputs: 2, status, may_end });
        self.listen(at, stdout)?;
        self.listen(at, stderr)
    }

    /// Reads one output stream of a program, in a thread that ends with the stream.
    fn listen(&self, at: usize, output: Option<impl Read + Send + 'static>) -> Result<()> {
        let output = output.context("a program has no output stream")?;
        let sender = self.sender.clone();
        let read = move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                if sender.send(Event::Line(at, String::from_utf8_lossy(&line).into_owned())).is_err() {
                    return;
                }
            }
            let _ = sender.send(Event::Closed(at));
        };
        thread::Builder::new().name("listen".to_owned()).spawn(read).context("cannot start a thread")?;
        Ok(())
    }

    /// The latest program with a name.
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().rfind(|program| program.name == name)
    }

    /// Waits until `done` returns true and shows the output of all programs. `awaited` describes the condition in an
    /// error.
    pub fn until(&mut self, awaited: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        while !done(self) {
            let ended = self.programs.iter().find(|program| program.outputs == 0 && !program.may_end);
            if let Some(program) = ended {
                // Ctrl-C in a terminal reaches all programs at once, perhaps the demo last.
                ensure!(self.interrupted.recv_timeout(INTERRUPT_TIMEOUT).is_err(), INTERRUPTED);
                bail!("{} ended unexpectedly", program.name);
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "timeout after {} s: waited for {awaited}", DEMO_TIMEOUT.as_secs());
            crossbeam_channel::select! {
                recv(self.interrupted) -> _ => bail!(INTERRUPTED),
                recv(self.events) -> event => self.take(event.context("all output streams have ended")?),
                default(left) => {}
            }
        }
        Ok(())
    }

    /// Waits until a program writes a line that contains `text`.
    ///
    /// # Errors
    /// The program ended without that line, or the deadline passed.
    pub fn until_written(&mut self, name: &str, text: &str) -> Result<()> {
        let awaited = format!("{name} to write {text:?}");
        self.until(&awaited, |programs| {
            programs.program(name).is_none_or(|program| program.has_written(text) || program.outputs == 0)
        })?;
        let has_written = self.program(name).is_some_and(|program| program.has_written(text));
        ensure!(has_written, "{name} ended without writing {text:?}");
        Ok(())
    }

    /// The address that a program listens on.
    pub fn address(&mut self, name: &str) -> Result<SocketAddr> {
        const LISTENING: &str = "listening on ";
        self.until_written(name, LISTENING)?;
        let mut lines = self.program(name).into_iter().flat_map(|program| &program.lines);
        let (_, rest) = lines
            .find_map(|line| line.split_once(LISTENING))
            .context("no listening address in the output")?;
        let address: String =
            rest.chars().take_while(|c| c.is_ascii_hexdigit() || "[].:".contains(*c)).collect();
        address.parse().with_context(|| format!("{name} reported the invalid address {address:?}"))
    }

    /// Waits until a program has ended. Its exit code must be 0.
    pub fn until_success(&mut self, name: &str) -> Result<()> {
        let awaited = format!("{name} to end");
        self.until(&awaited, |programs| programs.program(name).is_none_or(|program| program.outputs == 0))?;
        let program = self.programs.iter_mut().rfind(|program| program.name == name);
        let program = program.with_context(|| format!("{name} was not started"))?;
        let status = wait(program).with_context(|| format!("cannot wait for {name}"))?;
        ensure!(status.success(), "{name} ended with {status}");
        Ok(())
    }

    /// Interrupts some programs at the same time, as Ctrl-C does. Each must end with exit code 0.
    pub fn end(&mut self, names: &[&str]) -> Result<()> {
        print_line("demo", &format!("Ctrl-C to {}", names.join(", ")));
        for name in names {
            let program = self.programs.iter_mut().rfind(|program| program.name == *name);
            program.with_context(|| format!("{name} was not started"))?.interrupt();
        }
        names.iter().try_for_each(|name| self.until_success(name))
    }

    /// Kills a program with SIGKILL.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        let program = self.programs.iter_mut().rfind(|program| program.name == name);
        let program = program.with_context(|| format!("{name} was not started"))?;
        let progress = match program.served {
            0 => String::new(),
            served => format!(", while it sends its chunk number {served}"),
        };
        print_line("demo", &format!("kill -9 {} ({name}{progress})", program.child.id()));
        program.may_end = true;
        program.child.kill().with_context(|| format!("cannot kill {name}"))?;
        wait(program).map(drop).with_context(|| format!("cannot wait for {name}"))
    }

    /// Shows and stores a line of output, or counts a closed stream.
    fn take(&mut self, event: Event) {
        let (Event::Line(at, _) | Event::Closed(at)) = event;
        let Some(program) = self.programs.get_mut(at) else { return };
        match event {
            Event::Closed(_) => program.outputs = program.outputs.saturating_sub(1),
            Event::Line(_, line) => {
                if line.contains(SERVING) {
                    program.served += 1;
                    if program.served.is_multiple_of(CHUNKS_PER_LINE_COUNT) {
                        print_line(program.name, &format!("{} chunks sent", program.served));
                    }
                } else if let Some(text) = readable(&line) {
                    print_line(program.name, &text);
                }
                program.lines.push(line);
            }
        }
    }

    /// Interrupts all running programs, as Ctrl-C does. Each must end with exit code 0.
    pub fn end_all(&mut self) -> Result<()> {
        title("Ctrl-C to all running programs");
        // The tracker ends last, so that it receives the goodbye messages of the others.
        for at in (0..self.programs.len()).rev() {
            let Program { name, status: None, may_end: false, .. } = self.programs[at] else { continue };
            self.programs[at].interrupt();
            self.until_success(name)?;
            print_line("demo", &format!("{name} ended with exit code 0"));
        }
        Ok(())
    }
}

impl Drop for ProgramSet {
    /// Ends all programs, also after an error or a panic.
    fn drop(&mut self) {
        self.programs.iter_mut().for_each(Program::interrupt);
        let limit = Instant::now() + EXIT_TIMEOUT;
        while self.programs.iter().any(|program| program.status.is_none() && program.outputs > 0) {
            match self.events.recv_deadline(limit) {
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

/// Shortens a log line for display: removes the time and all but the first digits of each digest. Returns `None` for a
/// debug line.
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
