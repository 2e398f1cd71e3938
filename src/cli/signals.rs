//! Ctrl-C, and what service managers send instead (SIGTERM, SIGHUP).
//!
//! The first signal asks the program to end in good order, the second ends it at once: whoever presses
//! Ctrl-C twice means it. A program that has something to do before it ends can have one signal more. Invariant: the
//! terminal is left as it was found, also when the second signal ends it.

use super::exit::ExitCode;
use super::terminal;
use anyhow::Context;
use rustix::process::{Signal, getpid, kill_process};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What the next signal does instead of ending the program.
static INSTEAD: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);
/// When this process last interrupted itself.
static OWN: Mutex<Option<Instant>> = Mutex::new(None);
/// How long a signal of its own may be under way.
const OWN_TIME: Duration = Duration::from_millis(500);

/// Calls `f` at the first SIGINT, SIGTERM or SIGHUP, on a thread of its own, so that it may take its
/// time. The second signal ends the process with [`ExitCode::Interrupted`], even while `f` runs.
///
/// # Errors
/// Signals cannot be caught, or somebody catches them already.
pub fn on_interrupt(f: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    let mut first = Some(f);
    let handler = move || {
        if is_own() {
            return;
        }
        let instead = INSTEAD.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(instead) = instead
            && std::thread::Builder::new().name("interrupt".to_owned()).spawn(instead).is_ok()
        {
            return;
        }
        let Some(f) = first.take() else { return exit_now() };
        // Without a thread nobody can be told to end in good order.
        if std::thread::Builder::new().name("interrupt".to_owned()).spawn(f).is_err() {
            exit_now();
        }
    };
    ctrlc::set_handler(handler).context("cannot catch Ctrl-C")
}

/// Has the next signal call `f`, on a thread of its own, instead of what [`on_interrupt`] was given: the one after it
/// does that.
pub fn on_next_interrupt(f: impl FnOnce() + Send + 'static) {
    *INSTEAD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(f));
}

/// The next signal does again what [`on_interrupt`] was given.
pub fn cancel_next_interrupt() {
    INSTEAD.lock().unwrap_or_else(PoisonError::into_inner).take();
}

/// Wakes the line editor, which catches SIGINT while it reads. A signal that comes when it has just ended is not
/// taken for a user's.
pub fn wake_editor() {
    *OWN.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    if let Err(error) = kill_process(getpid(), Signal::INT) {
        log::debug!("the line editor cannot be woken: {error}");
    }
}

fn is_own() -> bool {
    let own = OWN.lock().unwrap_or_else(PoisonError::into_inner).take();
    own.is_some_and(|when| when.elapsed() < OWN_TIME)
}

fn exit_now() {
    terminal::restore();
    std::process::exit(ExitCode::Interrupted as i32)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};

    const CHILD: &str = "SHOAL_TEST_WAITS_FOR_SIGNALS";

    /// Not a test of its own: what the test below runs as another process.
    #[test]
    fn a_program_that_waits() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        on_interrupt(|| {
            println!("\nfirst");
            let _ = std::io::stdout().flush();
            // It never comes to an end, and the second signal must get through all the same.
            loop {
                std::thread::park();
            }
        })
        .unwrap();
        println!("\nready");
        loop {
            std::thread::park();
        }
    }

    /// Nothing is left running when the test fails.
    struct Killed(Child);

    impl Drop for Killed {
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
            let mut child = Killed(child.unwrap());
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
