//! Programs on a pseudo-terminal: the test sends keys and reads the screen.

use super::{FAULT, PATIENCE, binary};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Opens a pseudo-terminal; returns the controlling end, and the end for programs.
pub fn open(size: Winsize) -> (File, File) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let path = ptsname(&controller, Vec::new()).unwrap();
    // Close-on-exec: if another program kept it open, the reader would never reach the end of the stream.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let screen = rustix::fs::open(path, flags, Mode::empty()).unwrap();
    tcsetwinsize(&screen, size).unwrap();
    (File::from(controller), File::from(screen))
}

/// A program on its own pseudo-terminal.
pub struct AtTerminal {
    child: Child,
    keys: File,
    /// The program's end of the terminal; kept open until the program has ended, to read the terminal mode.
    screen: Option<File>,
    reader: Option<JoinHandle<()>>,
    shown: Arc<(Mutex<String>, Condvar)>,
    /// Number of shown bytes that earlier waits have consumed.
    seen: usize,
}

impl AtTerminal {
    /// Starts a client with a plain folder.
    pub fn client(dir: &Path, folder: &Path, name: &str, extra: &[&str]) -> Self {
        let folder = folder.to_str().unwrap();
        let identity = ["-folder", folder, "-transfer_port", "0", "-name", name];
        Self::start(dir, "client", &[&identity, extra].concat())
    }

    /// Starts any of the programs.
    pub fn start(dir: &Path, program: &str, args: &[&str]) -> Self {
        Self::start_sized(dir, program, args, (200, 50))
    }

    /// Starts any of the programs on a terminal with this number of columns and rows.
    pub fn start_sized(dir: &Path, program: &str, args: &[&str], (columns, rows): (u16, u16)) -> Self {
        Self::start_with(Command::new(binary(program)), dir, args, (columns, rows))
    }

    /// Starts any of the programs through a wrapper command that executes it.
    pub fn start_by(by: &[&str], program: &str, args: &[&str], dir: &Path) -> Self {
        let mut command = Command::new(by[0]);
        command.args(&by[1..]).arg(binary(program));
        Self::start_with(command, dir, args, (200, 50))
    }

    /// Starts an interactive shell with job control, which finds the programs.
    pub fn shell(dir: &Path) -> Self {
        let programs = Path::new(binary("client")).parent().unwrap().display();
        let mut command = Command::new("setsid");
        command.args(["--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]);
        command.env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap())).env("PS1", "$ ");
        command.env("HISTFILE", "/dev/null");
        Self::start_with(command, dir, &[], (200, 50))
    }

    fn start_with(mut command: Command, dir: &Path, args: &[&str], (columns, rows): (u16, u16)) -> Self {
        let (keys, screen) = open(Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
        let end = || screen.try_clone().unwrap();
        super::clear_variables(&mut command);
        let child = command
            .args(args)
            .current_dir(dir)
            .env_remove("RUST_LOG")
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .env("XDG_STATE_HOME", std::path::absolute(dir).unwrap().join("history"))
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let shown = Arc::new((Mutex::new(String::new()), Condvar::new()));
        let (mut from, into) = (keys.try_clone().unwrap(), shown.clone());
        // While `screen` is open the reader does not reach the end of the stream.
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                *into.0.lock().unwrap() += &String::from_utf8_lossy(&piece[..count]);
                into.1.notify_all();
            }
        });
        Self { child, keys, screen: Some(screen), reader: Some(reader), shown, seen: 0 }
    }

    /// Waits for a text after the part consumed so far, and returns the screen output up to the end of the text.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_for_all(&[text])
    }

    /// Waits for several texts in any order after the part consumed so far, and returns the screen output up to the
    /// end of the last text.
    #[track_caller]
    pub fn wait_for_all(&mut self, texts: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut shown = self.shown.0.lock().unwrap();
        loop {
            let new = &shown[self.seen..];
            let ends: Option<Vec<usize>> =
                texts.iter().map(|text| Some(new.find(text)? + text.len())).collect();
            if let Some(end) = ends.map(|ends| ends.into_iter().max().unwrap_or_default()) {
                let passed = new[..end].to_owned();
                self.seen += end;
                return passed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the screen does not show all of {texts:?}: {new:?}");
            shown = self.shown.1.wait_timeout(shown, left).unwrap().0;
        }
    }

    /// All output so far; complete only after the program has ended.
    pub fn output(&self) -> String {
        self.shown.0.lock().unwrap().clone()
    }

    /// Waits until the line editor has taken the terminal again and shows the prompt.
    #[track_caller]
    pub fn wait_for_prompt(&mut self) {
        self.wait_for("\x1b[?2004h");
        self.wait_for("> ");
    }

    /// Sends keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Whether the terminal is in the mode that it had before the prompt.
    pub fn is_cooked(&self) -> bool {
        let modes = tcgetattr(self.screen.as_ref().unwrap()).unwrap().local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Whether the program is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits up to `patience` until the program has ended, and returns its exit code.
    #[track_caller]
    pub fn exit_code(&mut self, patience: Duration) -> Option<i32> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            let shown = self.shown.0.lock().unwrap();
            assert!(Instant::now() < deadline, "the program did not end in time: {shown:?}");
            // The standard library has no wait for a process with a timeout, so that this loop polls.
            drop(self.shown.1.wait_timeout(shown, Duration::from_millis(10)));
        }
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.screen.take());
        drop(self.reader.take().map(JoinHandle::join));
        if !std::thread::panicking() {
            let shown = self.shown.0.lock().unwrap();
            assert!(!shown.contains(FAULT), "{shown:?}");
        }
    }
}
