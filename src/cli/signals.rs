//! Ctrl-C (SIGINT), SIGTERM and SIGHUP.
//!
//! SIGHUP ends a program of a terminal, and makes a service, which has none, open its log file again. The first signal
//! triggers a graceful shutdown, the second ends the process at once. A program can handle one signal before that, for
//! example to drain a volunteer. Invariant: the terminal mode is restored, also if the second signal
//! ends the process.

use super::exit::ExitCode;
use super::{logging, terminal};
use crate::content::limits::STACK_BYTES;
use crate::net::spawn_detached;
use crate::sync::lock;
use anyhow::Context;
use crossbeam_channel::bounded;
use nix::sys::signal::{SigSet, Signal as BlockedSignal};
use rustix::process::{Signal, getpid, kill_process};
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Handler of the next signal; it replaces the graceful shutdown once.
static NEXT_HANDLER: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);
/// Time of the last SIGINT that this process sent to itself.
static OWN_SIGNAL: Mutex<Option<Instant>> = Mutex::new(None);
/// Maximum time for the delivery of a signal that this process sent to itself.
const OWN_SIGNAL_TIMEOUT: Duration = Duration::from_millis(500);

/// Blocks SIGXFSZ, so that a write above the limit on file sizes (`ulimit -f`) is an error and does not end the process.
/// Blocks SIGHUP if the program was started with that signal ignored, as by `nohup`: the end of a terminal then changes
/// nothing. A program without a terminal is a service: at SIGHUP it opens its log file again. To be called before the
/// first thread is started: threads inherit the blocked signals.
pub fn block_unwanted() {
    let mut signals = SigSet::empty();
    signals.add(BlockedSignal::SIGXFSZ);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let is_hangup_ignored = is_ignored(&status, BlockedSignal::SIGHUP);
    let is_service = !is_hangup_ignored && !has_terminal();
    if is_hangup_ignored || is_service {
        signals.add(BlockedSignal::SIGHUP);
    }
    // A failure is ignored: the signals then have the actions of the system.
    if signals.thread_block().is_ok() && is_service {
        reopen_log_at_hangup();
    }
}

/// Whether this process has a terminal, whose end would be a SIGHUP.
fn has_terminal() -> bool {
    std::io::stdin().is_terminal() || std::fs::File::open("/dev/tty").is_ok()
}

/// Opens the log file again at each SIGHUP, as log rotation expects it of a service. The signal is blocked in all threads.
fn reopen_log_at_hangup() {
    let hangup: SigSet = [BlockedSignal::SIGHUP].into_iter().collect();
    // It runs until the process ends. Without it the signal has no effect.
    let _ = spawn_detached("hangup", move || {
        while hangup.wait().is_ok() {
            logging::reopen();
        }
    });
}

/// Whether a process ignores a signal, by the text of its `/proc/PID/status`.
fn is_ignored(status: &str, signal: BlockedSignal) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal as u32 - 1) & 1 == 1)
}

/// Calls `f` at the first SIGINT, SIGTERM or SIGHUP, in a thread of its own, so that `f` may block. The second signal
/// ends the process with [`ExitCode::Interrupted`], even while `f` runs.
///
/// # Errors
/// Signals cannot be caught, or a handler is set already.
pub fn on_interrupt(f: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    // The thread is started now: at a limit on threads, none could be started later.
    let (begin, begun) = bounded::<()>(1);
    let wait = move || {
        if begun.recv().is_ok() {
            f();
        }
    };
    spawn(wait).context("cannot start a thread for Ctrl-C")?;
    let mut first = Some(begin);
    let handler = move || {
        if is_own() {
            return;
        }
        let next = lock(&NEXT_HANDLER).take();
        // Without a thread, the graceful shutdown follows.
        if next.is_some_and(|next| spawn(next).is_ok()) {
            return;
        }
        match first.take() {
            Some(begin) => _ = begin.send(()),
            None => exit_now(),
        }
    };
    ctrlc::set_handler(handler).context("cannot catch Ctrl-C")
}

fn spawn(f: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name("interrupt".to_owned()).stack_size(STACK_BYTES).spawn(f).map(drop)
}

/// Calls `f` at the next signal, in a thread of its own, in place of the handler of [`on_interrupt`]. The signal after
/// it calls that handler.
pub fn on_next_interrupt(f: impl FnOnce() + Send + 'static) {
    *lock(&NEXT_HANDLER) = Some(Box::new(f));
}

/// Cancels [`on_next_interrupt`]: the next signal calls the handler of [`on_interrupt`].
pub fn cancel_next_interrupt() {
    lock(&NEXT_HANDLER).take();
}

/// Sends SIGINT to this process, to wake the line editor, which catches it while it reads. If the editor has returned
/// in the meantime, the signal is ignored: it does not count as a Ctrl-C of the user.
pub fn wake_editor() {
    *lock(&OWN_SIGNAL) = Some(Instant::now());
    if let Err(error) = kill_process(getpid(), Signal::INT) {
        log::debug!("cannot wake the line editor: {error}");
    }
}

fn is_own() -> bool {
    let own = lock(&OWN_SIGNAL).take();
    own.is_some_and(|when| when.elapsed() < OWN_SIGNAL_TIMEOUT)
}

fn exit_now() {
    terminal::restore();
    super::json::end(ExitCode::Interrupted as u8);
    std::process::exit(ExitCode::Interrupted as i32)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};

    #[test]
    fn an_ignored_signal_is_found_in_the_status_of_a_process() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000000\n";
        assert!(is_ignored(status, BlockedSignal::SIGHUP) && is_ignored(status, BlockedSignal::SIGPIPE));
        assert!(!is_ignored(status, BlockedSignal::SIGINT) && !is_ignored("", BlockedSignal::SIGHUP));
    }

    const CHILD: &str = "SHOAL_TEST_WAITS_FOR_SIGNALS";

    /// The child process of the test below; without the environment variable it does nothing.
    #[test]
    fn a_program_that_waits() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        on_interrupt(|| {
            let _ = std::io::stdout().write_all(b"\nfirst\n");
            let _ = std::io::stdout().flush();
            // The handler never returns; the second signal must end the process nevertheless.
            loop {
                std::thread::park();
            }
        })
        .unwrap();
        std::io::stdout().write_all(b"\nready\n").unwrap();
        loop {
            std::thread::park();
        }
    }

    /// Kills the child process if the test fails.
    struct KillOnDrop(Child);

    impl Drop for KillOnDrop {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_second_signal_ends_the_process() {
        for signals in [["INT", "INT"], ["TERM", "INT"], ["HUP", "TERM"]] {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "cli::signals::tests::a_program_that_waits", "--nocapture"])
                .env(CHILD, "1")
                .stdout(Stdio::piped())
                .spawn();
            let mut child = KillOnDrop(child.unwrap());
            let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
            for (signal, sign) in signals.iter().zip(["ready", "first"]) {
                assert!(lines.by_ref().any(|line| line.unwrap() == sign));
                let kill = format!("kill -{signal} {}", child.0.id());
                assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
            }
            assert_eq!(child.0.wait().unwrap().code(), Some(ExitCode::Interrupted as i32));
        }
    }
}
