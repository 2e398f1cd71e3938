//! Starts the real binaries, each test in its own folder, and waits for their output.
//!
//! Tests do not sleep and do not guess ports: programs bind port 0, and each wait ends with a line of output,
//! with the exit of the program, or with a timeout that only a hang reaches. Invariant: a program that a test
//! started ends before the test does. If the test fails, the complete output of its programs is printed.
#![allow(dead_code, reason = "each test module uses only some of these helpers")]

pub mod events;
pub mod keeping;
pub mod network;
pub mod proxy;
pub mod scripted;
pub mod terminal;
pub mod wire;

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Timeout of each single wait. Only a hang reaches it: a busy disk can block a program for a minute.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A temporary folder, removed at the end of the test.
pub fn place() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("shoal-test-").tempdir().unwrap()
}

/// Creates a folder in a folder and returns its path.
pub fn subfolder(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// The folder in which the programs of a test remember their stores, instead of that of the user.
pub fn state_home(cwd: &Path) -> PathBuf {
    std::path::absolute(cwd).unwrap().join(".state-home")
}

/// The output of a program so far.
#[derive(Default)]
struct Said {
    lines: Vec<(Stream, String)>,
    /// Number of streams that are still open; at 0 the program has ended.
    open: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    Out,
    Err,
}

#[derive(Default)]
struct Transcript {
    said: Mutex<Said>,
    more: Condvar,
}

impl Transcript {
    fn read(&self, stream: Stream, from: impl Read) {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            self.said.lock().unwrap().lines.push((stream, text));
            self.more.notify_all();
            line.clear();
        }
        self.said.lock().unwrap().open -= 1;
        self.more.notify_all();
    }

    /// Waits until `look` returns a value. `None` if the program ends or the timeout expires first.
    fn wait<T>(&self, timeout: Duration, look: impl Fn(&Said) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut said = self.said.lock().unwrap();
        loop {
            if let Some(found) = look(&said) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.open == 0 || left.is_zero() {
                return None;
            }
            said = self.more.wait_timeout(said, left).unwrap().0;
        }
    }
}

/// Message of a program in which a thread panicked or was not joined before exit.
pub const FAULT: &str = "this is a bug in shoal";

/// The path of one of the binaries.
fn binary(name: &str) -> &'static str {
    match name {
        "tracker" => env!("CARGO_BIN_EXE_tracker"),
        "seeder" => env!("CARGO_BIN_EXE_seeder"),
        "leecher" => env!("CARGO_BIN_EXE_leecher"),
        "manager" => env!("CARGO_BIN_EXE_manager"),
        "client" => env!("CARGO_BIN_EXE_client"),
        other => panic!("there is no binary {other}"),
    }
}

/// Removes the settings of the user from the environment of a command.
pub fn clear_variables(command: &mut Command) {
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("SHOAL_")) {
        command.env_remove(name);
    }
}

/// A running program.
pub struct Program {
    command_line: String,
    child: Child,
    transcript: Arc<Transcript>,
    readers: Vec<JoinHandle<()>>,
}

impl Program {
    /// Starts one of the binaries in the working directory `cwd`.
    pub fn start<A: AsRef<OsStr>>(bin: &str, args: &[A], cwd: &Path) -> Self {
        Self::start_by(&[], bin, args, cwd)
    }

    /// Starts one of the binaries with the default action for SIGINT. A shell ignores SIGINT in its background jobs; a
    /// program that inherits this ignores it, too, until it has installed its own handler. A signal that this process
    /// handles has the default action in the programs that it starts.
    pub fn start_interruptible<A: AsRef<OsStr>>(bin: &str, args: &[A], cwd: &Path) -> Self {
        static HANDLE_SIGINT: Once = Once::new();
        HANDLE_SIGINT.call_once(|| ctrlc::set_handler(|| std::process::exit(130)).unwrap());
        Self::start(bin, args, cwd)
    }

    /// Starts one of the binaries through a wrapper command that executes it, such as `ip netns exec`.
    pub fn start_by<A: AsRef<OsStr>>(by: &[&str], bin: &str, args: &[A], cwd: &Path) -> Self {
        let path = binary(bin);
        let mut command = match by {
            [] => Command::new(path),
            [by, with @ ..] => {
                let mut command = Command::new(by);
                command.args(with).arg(path);
                command
            }
        };
        clear_variables(&mut command);
        let mut child = command
            .args(args)
            .current_dir(cwd)
            .env_remove("RUST_LOG")
            .env("XDG_STATE_HOME", state_home(cwd))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let transcript = Arc::new(Transcript::default());
        transcript.said.lock().unwrap().open = 2;
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let readers = vec![
            std::thread::spawn({
                let transcript = transcript.clone();
                move || transcript.read(Stream::Out, out)
            }),
            std::thread::spawn({
                let transcript = transcript.clone();
                move || transcript.read(Stream::Err, err)
            }),
        ];
        let args: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        let command_line = format!("{bin} {} (pid {})", args.join(" "), child.id());
        Self { command_line, child, transcript, readers }
    }

    /// Waits for a line that satisfies `wanted`, searching from the first line of output, and returns it.
    #[track_caller]
    pub fn wait_for(&self, description: &str, wanted: impl Fn(&str) -> bool) -> String {
        let look =
            |said: &Said| said.lines.iter().find(|(_, line)| wanted(line)).map(|found| found.1.clone());
        match self.transcript.wait(PATIENCE, look) {
            Some(line) => line,
            None => panic!("{} never printed {description}", self.command_line),
        }
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub fn wait_for_text(&self, text: &str) -> String {
        self.wait_for(&format!("{text:?}"), |line| line.contains(text))
    }

    /// Waits until at least `count` lines contain `text`.
    #[track_caller]
    pub fn wait_for_count(&self, text: &str, count: usize) {
        let look = |said: &Said| {
            (said.lines.iter().filter(|(_, line)| line.contains(text)).count() >= count).then_some(())
        };
        if self.transcript.wait(PATIENCE, look).is_none() {
            panic!("{} did not print {text:?} {count} times", self.command_line);
        }
    }

    /// Waits until `wanted` accepts the complete list of output lines.
    #[track_caller]
    pub fn wait_until(&self, description: &str, wanted: impl Fn(&[&str]) -> bool) {
        let look = |said: &Said| {
            let lines: Vec<&str> = said.lines.iter().map(|(_, line)| line.as_str()).collect();
            wanted(&lines).then_some(())
        };
        if self.transcript.wait(PATIENCE, look).is_none() {
            panic!("{} never printed {description}", self.command_line);
        }
    }

    /// All lines of output so far.
    pub fn lines(&self) -> Vec<String> {
        self.transcript.said.lock().unwrap().lines.iter().map(|(_, line)| line.clone()).collect()
    }

    /// The lines on standard output so far; complete only after the program has ended.
    pub fn stdout(&self) -> Vec<String> {
        let said = self.transcript.said.lock().unwrap();
        said.lines.iter().filter(|(from, _)| *from == Stream::Out).map(|(_, line)| line.clone()).collect()
    }

    /// Whether a line of output so far contains `text`.
    pub fn has_said(&self, text: &str) -> bool {
        self.lines().iter().any(|line| line.contains(text))
    }

    /// The listen address that the program prints.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let line = self.wait_for_text(" listening on ");
        let address = line.rsplit(" listening on ").next().unwrap();
        address.split(',').next().unwrap().trim().parse().unwrap()
    }

    /// Waits until the program has exited, and returns its exit code; `None` if a signal ended it.
    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        // The kernel closes the streams when the process ends, so that `wait` below returns at once.
        let ended = self.transcript.wait(PATIENCE, |said| (said.open == 0).then_some(()));
        if ended.is_none() && self.transcript.said.lock().unwrap().open > 0 {
            panic!("{} does not end", self.command_line);
        }
        let code = self.child.wait().unwrap().code();
        self.has_no_fault();
        code
    }

    /// Asserts that no thread of the program panicked or was left unjoined at exit.
    #[track_caller]
    fn has_no_fault(&self) {
        let fault = self.lines().into_iter().find(|line| line.contains(FAULT));
        assert_eq!(fault, None, "{}", self.command_line);
    }

    /// Waits until the program exits, and asserts its exit code.
    #[track_caller]
    pub fn ends_with(&mut self, code: i32) {
        let got = self.exit_code();
        assert_eq!(got, Some(code), "the exit code of {}", self.command_line);
    }

    /// Peak resident memory of the running program, bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
    }

    /// Processor time that the running program has used, in clock ticks of 10 ms.
    pub fn processor_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // After the name in parentheses: the state, ten numbers, then user time and system time.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    /// The process id. It cannot be reused while this value exists.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends SIGINT (Ctrl-C).
    pub fn interrupt(&self) {
        // The child has not been waited for, so that its process id cannot have been reused.
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the process until [`resume`](Self::resume); to its peers it looks like a host that hangs.
    pub fn pause(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Continues the process after [`pause`](Self::pause).
    pub fn resume(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait();
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
        if std::thread::panicking() {
            eprintln!("--- {}: {status:?}", self.command_line);
            self.lines().iter().for_each(|line| eprintln!("    {line}"));
        } else {
            self.has_no_fault();
        }
    }
}

/// Starts a tracker or manager, on a free port unless `extra` has `--listen`, and returns when it listens.
#[track_caller]
fn start_listening(program: &str, dir: &Path, extra: &[&str]) -> Program {
    let mut args = vec![];
    if !extra.contains(&"--listen") {
        args.extend(["--listen", "127.0.0.1:0"]);
    }
    args.extend(extra);
    let program = Program::start(program, &args, dir);
    program.address();
    program
}

/// Starts a tracker, on a free port unless `extra` has `--listen`, and returns when it listens.
#[track_caller]
pub fn tracker(dir: &Path, extra: &[&str]) -> Program {
    start_listening("tracker", dir, extra)
}

/// Starts a seeder and does not wait for its registration.
pub fn start_seeder(dir: &Path, file: &Path, tracker: SocketAddr, extra: &[&str]) -> Program {
    let tracker = tracker.to_string();
    let mut args = vec!["-f", file.to_str().unwrap(), "--tracker", &tracker];
    if !extra.contains(&"-p") {
        args.extend(["-p", "0"]);
    }
    args.extend(extra);
    Program::start("seeder", &args, dir)
}

/// Starts a seeder and returns when the tracker knows its file.
#[track_caller]
pub fn seeder(dir: &Path, file: &Path, tracker: &Program, extra: &[&str]) -> Program {
    let program = start_seeder(dir, file, tracker.address(), extra);
    let name = match extra.iter().position(|arg| *arg == "--name") {
        Some(at) => extra[at + 1].to_owned(),
        None => format!("seeder-{}", program.address().port()),
    };
    tracker.wait_for_text(&format!("- {name} has "));
    program
}

/// Starts a leecher.
pub fn leecher(dir: &Path, tracker: SocketAddr, args: &[&str]) -> Program {
    let tracker = tracker.to_string();
    let args: Vec<&str> = args.iter().copied().chain(["--tracker", &tracker]).collect();
    Program::start("leecher", &args, dir)
}

/// Starts a client with the one-dash flags that manual runs use.
pub fn client(dir: &Path, folder: &Path, name: &str, tracker: SocketAddr, extra: &[&str]) -> Program {
    let tracker = tracker.to_string();
    let folder = folder.to_str().unwrap();
    let mut args = vec!["-folder", folder, "-transfer_port", "0", "-name", name, "--tracker", &tracker];
    args.extend(extra);
    Program::start("client", &args, dir)
}

/// Starts a manager, on a free port unless `extra` has `--listen`, and returns when it listens.
#[track_caller]
pub fn manager(dir: &Path, extra: &[&str]) -> Program {
    start_listening("manager", dir, extra)
}

/// Starts a client with a plain folder; `extra` selects its tracker or manager.
pub fn plain(dir: &Path, folder: &Path, name: &str, extra: &[&str]) -> Program {
    let folder = folder.to_str().unwrap();
    let mut args = vec!["-folder", folder, "-transfer_port", "0", "-name", name];
    args.extend(extra);
    Program::start("client", &args, dir)
}

/// Starts a member of a manager's swarm and does not wait for its registration.
pub fn start_member(dir: &Path, folder: &Path, name: &str, manager: SocketAddr, extra: &[&str]) -> Program {
    let manager = manager.to_string();
    plain(dir, folder, name, &[&["--manager", &manager], extra].concat())
}

/// Starts a member and returns when it has registered with the manager and has received the list of peers.
#[track_caller]
pub fn member(dir: &Path, folder: &Path, name: &str, manager: SocketAddr, extra: &[&str]) -> Program {
    let program = start_member(dir, folder, name, manager, extra);
    program.wait_for_text("registered with the manager on ");
    program
}

/// Pseudo-random bytes, the same for the same seed.
pub fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Writes a file and returns its path.
pub fn write(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Asserts that a file has exactly these bytes; the failure message does not print them.
#[track_caller]
pub fn assert_holds(path: &Path, bytes: &[u8]) {
    let got = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // Comparing whole slices is much faster than searching for the first difference.
    if got == bytes {
        return;
    }
    let same = got.iter().zip(bytes).take_while(|(a, b)| a == b).count();
    panic!(
        "{} has {} bytes instead of {}, different from byte {same} on",
        path.display(),
        got.len(),
        bytes.len()
    );
}

/// The sorted names of all files in a folder, hidden files included.
pub fn names_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Creates a chunk folder with some chunks of a set, each `(number, bytes)` counted from 1, and its list.
pub fn chunk_folder(dir: &Path, name: &str, count: usize, chunks: &[(usize, &[u8])]) -> PathBuf {
    let folder = subfolder(dir, name);
    let mut list = String::new();
    for (number, bytes) in chunks {
        write(&folder, &format!("chunk_{number}"), bytes);
        list += &format!("{number},chunk_{number}\n");
    }
    write(&folder, "local_chunks.txt", format!("{list}{count},LASTCHUNK\n").as_bytes());
    folder
}

/// Asserts that a chunk folder holds every chunk of a set, listed and with the right bytes.
#[track_caller]
pub fn assert_complete(folder: &Path, chunks: &[Vec<u8>]) {
    let text = std::fs::read(folder.join("local_chunks.txt")).unwrap();
    let list = shoal::content::local_chunks::LocalChunks::parse(&text).unwrap();
    assert_eq!(list.count as usize, chunks.len());
    assert_eq!(list.files.len(), chunks.len(), "{}", String::from_utf8_lossy(&text));
    for ((_, file), bytes) in list.files.iter().zip(chunks) {
        assert_holds(&folder.join(file.as_str()), bytes);
    }
}
