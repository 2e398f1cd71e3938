//! The main job in one command: `cargo run --release --example demo`.
//!
//! It starts the real programs on free ports of this machine, and shows what each of them says as it comes:
//!
//! 1. a tracker and three clients, on copies of the sample folders, complete each other's chunks; a leecher then
//!    fetches the whole set as one file;
//! 2. two seeders offer a file of 64 MiB, a leecher fetches it from both at once, and one of the seeders is killed
//!    in the middle.
//!
//! In the end it compares every byte itself. It exits with 0 when everything is as it should be, and otherwise
//! says what is not. Everything happens in a new folder under the system's temporary folder. That folder is kept,
//! with `logs.log` in it.
//!
//! Invariants: whatever ends the demo (an error, Ctrl-C, a panic), the programs that it started are ended and
//! waited for; every wait ends at the deadline.

use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::process::{Pid, Signal, kill_process};
use shoal::content::Digest;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than this, and something is wrong.
const DEADLINE: Duration = Duration::from_secs(28);
/// How long a program may take to end after it was asked to.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long it may take until Ctrl-C is heard of here.
const HEARING: Duration = Duration::from_millis(300);
const INTERRUPTED: &str = "interrupted";

/// Where the sample folders are.
const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
/// The clients, and so many sample folders, each of which lacks another one of so many chunks.
const CLIENTS: [&str; 3] = ["client1", "client2", "client3"];

const LARGE_NAME: &str = "large.bin";
const LARGE_SIZE: usize = 64 << 20;
/// What each seeder may upload: slow enough to see something happen.
const UPLOAD_LIMIT: &str = "16MiB";
/// The first seeder is killed when it has begun to send this many of the 128 chunks.
const CHUNKS_BEFORE_THE_KILL: usize = 24;
/// How many chunks go by between two lines about them.
const CHUNKS_A_LINE: usize = 8;
/// What a seeder logs, with `-v`, for each chunk that it sends.
const SERVING: &str = " - DEBUG - serving chunk ";

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say("demo", &format!("FAILED: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let (interrupt, interrupted) = bounded(1);
    ctrlc::set_handler(move || {
        let _ = interrupt.try_send(());
    })
    .context("cannot catch Ctrl-C")?;
    let programs = build()?;
    let started = Instant::now();
    let folder =
        tempfile::Builder::new().prefix("shoal-demo-").tempdir().context("no temporary folder")?.keep();
    say("demo", &format!("everything happens in {}", folder.display()));
    let stage = Stage::new(programs, folder.clone(), started + DEADLINE, interrupted);
    let result = play(stage);
    say("demo", &format!("logs.log is {}", folder.join("logs.log").display()));
    result?;
    say("demo", &format!("the folder is kept (130 MiB); remove it with: rm -r {}", folder.display()));
    say("demo", &format!("done in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Builds the programs, since an example brings along only itself, and returns the folder that they are in: the one
/// above the demo's own.
fn build() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find this program")?;
    let folder = own.parent().and_then(Path::parent).context("this program is not in a target folder")?;
    let target = folder.parent().context("this program is not in a target folder")?;
    let profile = match folder.file_name().and_then(OsStr::to_str) {
        Some("debug") => "dev",
        Some(name) => name,
        None => bail!("{} is not the folder of a profile", folder.display()),
    };
    say("demo", &format!("building tracker, seeder, leecher and client ({profile})"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // With the demo itself, which is there already, so that the library is the same and is not built once more.
    let what = ["--bins", "--example", "demo", "--profile", profile];
    command.args(["build", "--quiet"]).args(what).arg("--target-dir").arg(target);
    command.arg("--manifest-path").arg(Path::new(REPOSITORY).join("Cargo.toml"));
    let status = command.stdin(Stdio::null()).status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo build has failed");
    Ok(folder.to_owned())
}

/// The whole story. The programs end with the stage.
fn play(mut stage: Stage) -> Result<()> {
    // A short lease, so that the tracker can be seen to notice a death.
    let flags = ["--listen", "127.0.0.1:0", "--heartbeat", "1", "--lease", "3"];
    stage.start("tracker", "tracker", flags)?;
    let tracker = stage.address("tracker")?.to_string();
    let mut verified = chunk_folders(&mut stage, &tracker)?;
    verified.push(large_file(&mut stage, &tracker)?);
    stage.end_all()?;
    title("complete and verified");
    verified.iter().for_each(|line| say("demo", line));
    Ok(())
}

/// Three clients complete each other's folders, and a leecher fetches the set. Returns what was verified.
fn chunk_folders(stage: &mut Stage, tracker: &str) -> Result<Vec<String>> {
    title("three folders that lack a chunk each");
    for (folder, client) in ["folder1", "folder2", "folder3"].into_iter().zip(CLIENTS) {
        copy_folder(&Path::new(REPOSITORY).join(folder), &stage.folder.join(folder))?;
        let flags = ["-folder", folder, "-transfer_port", "0", "-name", client, "--tracker", tracker];
        stage.start(client, "client", flags)?;
    }
    for client in CLIENTS {
        stage.until_said(client, " is complete: all 3 chunks ")?;
    }
    title("the set as one file");
    stage.start("leecher", "leecher", ["default", "--tracker", tracker])?;
    stage.until_success("leecher")?;
    let mut whole = Vec::new();
    for number in 1..=CLIENTS.len() {
        let name = format!("chunk_{number}");
        let chunk = read(&Path::new(REPOSITORY).join(format!("folder{number}")).join(&name))?;
        for folder in ["folder1", "folder2", "folder3"] {
            let copy = stage.folder.join(folder).join(&name);
            ensure!(read(&copy)? == chunk, "{} is not the chunk that it should be", copy.display());
        }
        whole.extend(chunk);
    }
    ensure!(read(&stage.folder.join("default"))? == whole, "the set was not put together as it should be");
    Ok(vec![
        "folder1, folder2, folder3: all 3 chunks in each, the same bytes as in the samples".to_owned(),
        format!("default: the set as a file, {} bytes, SHA-256 {}", whole.len(), Digest::of(&whole)),
    ])
}

/// A leecher fetches a file from two seeders, of which one is killed. Returns what was verified.
fn large_file(stage: &mut Stage, tracker: &str) -> Result<String> {
    title("64 MiB from two seeders, one of which is killed");
    let mut bytes = vec![0; LARGE_SIZE];
    fastrand::Rng::with_seed(64).fill(&mut bytes);
    let original = stage.folder.join(LARGE_NAME);
    fs::write(&original, &bytes).with_context(|| format!("cannot write {}", original.display()))?;
    for seeder in ["seeder1", "seeder2"] {
        let offer = ["-f", LARGE_NAME, "-p", "0", "--name", seeder, "--tracker", tracker];
        stage.start(seeder, "seeder", offer.into_iter().chain(["--upload-limit", UPLOAD_LIMIT, "-v"]))?;
    }
    for seeder in ["seeder1", "seeder2"] {
        stage.until_said("tracker", &format!("{seeder} has 128 of 128 chunks"))?;
    }
    let downloads = stage.folder.join("downloads");
    fs::create_dir(&downloads).context("cannot make a folder for the download")?;
    stage.start("leecher", "leecher", [LARGE_NAME, "--out", "downloads", "--tracker", tracker])?;
    stage.until("seeder1 is in the middle of it", |stage| {
        stage.program("seeder1").is_some_and(|seeder| seeder.served >= CHUNKS_BEFORE_THE_KILL)
    })?;
    stage.kill("seeder1")?;
    stage.until_success("leecher")?;
    stage.until_said("tracker", "seeder1 at ")?;
    let copy = read(&downloads.join(LARGE_NAME))?;
    ensure!(copy == bytes, "the file that was downloaded is not the one that was offered");
    Ok(format!(
        "{LARGE_NAME}: {} bytes, the same as those offered, SHA-256 {}",
        copy.len(),
        Digest::of(&copy)
    ))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let copy = || -> io::Result<()> {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
        Ok(())
    };
    copy().with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What the threads that read the programs' output tell.
enum Event {
    /// A program, by its place, has written a line.
    Line(usize, String),
    /// One of a program's two outputs has ended.
    Closed(usize),
}

/// A program that was started.
struct Program {
    who: &'static str,
    child: Child,
    /// Everything that it said.
    lines: Vec<String>,
    /// How many chunks it has begun to send.
    served: usize,
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
struct Stage {
    /// Where the programs are.
    binaries: PathBuf,
    /// Where they work.
    folder: PathBuf,
    programs: Vec<Program>,
    tell: Sender<Event>,
    told: Receiver<Event>,
    interrupted: Receiver<()>,
    deadline: Instant,
}

impl Stage {
    fn new(binaries: PathBuf, folder: PathBuf, deadline: Instant, interrupted: Receiver<()>) -> Self {
        let (tell, told) = bounded(1_024);
        Self { binaries, folder, programs: Vec::new(), tell, told, interrupted, deadline }
    }

    /// Starts a program under a name. When the name was used before it now means this one.
    fn start<'a>(
        &mut self,
        who: &'static str,
        binary: &str,
        flags: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let flags: Vec<&str> = flags.into_iter().collect();
        say("demo", &format!("starting {binary} {}", flags.join(" ")));
        let path = self.binaries.join(binary).with_extension(env::consts::EXE_EXTENSION);
        let mut command = Command::new(&path);
        command.args(flags).current_dir(&self.folder).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", path.display()))?;
        let (at, stdout, stderr) = (self.programs.len(), child.stdout.take(), child.stderr.take());
        // A leecher ends when it is done, the others when they are told to.
        let (lines, status, may_end) = (Vec::new(), None, binary == "leecher");
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

    fn program(&self, who: &str) -> Option<&Program> {
        self.programs.iter().rfind(|program| program.who == who)
    }

    /// Waits until `done`, while everything that is said is shown.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
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
    fn until_said(&mut self, who: &str, text: &str) -> Result<()> {
        let what = format!("{who} is to say {text:?}");
        self.until(&what, |stage| {
            stage.program(who).is_none_or(|program| program.said(text) || program.outputs == 0)
        })?;
        let said = self.program(who).is_some_and(|program| program.said(text));
        ensure!(said, "{who} has ended without saying {text:?}");
        Ok(())
    }

    /// The address that a program listens on.
    fn address(&mut self, who: &str) -> Result<SocketAddr> {
        const LISTENING: &str = "listening on ";
        self.until_said(who, LISTENING)?;
        let mut lines = self.program(who).into_iter().flat_map(|program| &program.lines);
        let (_, rest) = lines.find_map(|line| line.split_once(LISTENING)).context("it listens nowhere")?;
        let address: String =
            rest.chars().take_while(|c| c.is_ascii_hexdigit() || "[].:".contains(*c)).collect();
        address.parse().with_context(|| format!("{who} listens on {address:?}, which is no address"))
    }

    /// Waits until a program has ended, which must be with exit code 0.
    fn until_success(&mut self, who: &str) -> Result<()> {
        let what = format!("{who} is to end");
        self.until(&what, |stage| stage.program(who).is_none_or(|program| program.outputs == 0))?;
        let program = self.programs.iter_mut().rfind(|program| program.who == who);
        let program = program.with_context(|| format!("{who} was never started"))?;
        let status = wait(program).with_context(|| format!("{who} cannot be waited for"))?;
        ensure!(status.success(), "{who} has ended with {status}");
        Ok(())
    }

    /// `kill -9`.
    fn kill(&mut self, who: &str) -> Result<()> {
        let program = self.programs.iter_mut().rfind(|program| program.who == who);
        let program = program.with_context(|| format!("{who} was never started"))?;
        say(
            "demo",
            &format!(
                "kill -9 {} ({who}, which is sending its chunk number {})",
                program.child.id(),
                program.served
            ),
        );
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
    fn end_all(&mut self) -> Result<()> {
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
    let shorten = |word: &str| match word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => format!("{}…", &word[..8]),
        false => word.to_owned(),
    };
    let words = text.split_inclusive([' ', ',']).map(|word| {
        let end = word.trim_end_matches([' ', ',']).len();
        shorten(&word[..end]) + &word[end..]
    });
    Some(words.collect())
}

/// A heading.
fn title(text: &str) {
    say("", "");
    say("demo", &format!("== {text}"));
}

/// One line: who says what. That nobody reads it any more is no reason to fail.
fn say(who: &str, text: &str) {
    let line = match (who, colour(who)) {
        ("", _) => text.to_owned(),
        (_, Some(colour)) => format!("\u{1b}[{colour}m{who:<8} |\u{1b}[0m {text}"),
        (_, None) => format!("{who:<8} | {text}"),
    };
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// The colour of a name, where colours are shown and wanted (<https://no-color.org>).
fn colour(who: &str) -> Option<u8> {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
    if unwanted || dumb || !io::stdout().is_terminal() {
        return None;
    }
    Some(match who {
        "demo" => 1,
        "tracker" => 35,
        "leecher" => 32,
        _ if who.starts_with("seeder") => 36,
        _ => 34,
    })
}
