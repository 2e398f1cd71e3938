//! Job control of a shell: the foreground and the background of the terminal, and Ctrl-Z (SIGTSTP).
//!
//! In a program with a prompt the signals of job control are blocked in all threads: in the background it neither stops
//! when it writes a log line nor when it looks at the terminal. Thread `stop-signal` receives SIGTSTP; the prompt then
//! restores the terminal before the process stops. Invariant: a program that was not prepared keeps the actions of the
//! system.

use crate::net::spawn_detached;
use crossbeam_channel::{Receiver, bounded};
use nix::sys::signal::{SigSet, Signal, raise};
use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;
use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Receives a message for each SIGTSTP while the prompt is shown.
static SUSPENSIONS: OnceLock<Receiver<()>> = OnceLock::new();
/// Whether the prompt is shown, and stops the process itself.
static IS_PROMPT_SHOWN: AtomicBool = AtomicBool::new(false);

/// Prepares a program for a prompt, if it has a terminal. To be called before the first thread is started: threads
/// inherit the blocked signals.
pub fn prepare() {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return;
    }
    let stop: SigSet = [Signal::SIGTSTP].into_iter().collect();
    let signals: SigSet = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU].into_iter().collect();
    if signals.thread_block().is_err() {
        return;
    }
    let (sender, suspensions) = bounded(1);
    let _ = SUSPENSIONS.set(suspensions);
    let wait = move || {
        while stop.wait().is_ok() {
            match IS_PROMPT_SHOWN.load(Ordering::SeqCst) {
                true => _ = sender.try_send(()),
                false => stop_process(),
            }
        }
    };
    // It runs until the process ends.
    if spawn_detached("stop-signal", wait).is_err() {
        let _ = signals.thread_unblock();
    }
}

/// Stops the process as Ctrl-Z does, and returns when it continues. Without a shell that could continue it, it does not
/// stop.
pub(super) fn stop_process() {
    let stop: SigSet = [Signal::SIGTSTP].into_iter().collect();
    let _ = stop.thread_unblock().and_then(|()| raise(Signal::SIGTSTP)).and_then(|()| stop.thread_block());
}

/// The prompt is shown: SIGTSTP is received from [`suspensions`](Self::suspensions) until this value is dropped.
pub(super) struct ShownPrompt(Receiver<()>);

impl ShownPrompt {
    /// Marks the prompt as shown.
    pub(super) fn new() -> Self {
        let suspensions = SUSPENSIONS.get().cloned().unwrap_or_else(crossbeam_channel::never);
        suspensions.try_iter().for_each(drop);
        IS_PROMPT_SHOWN.store(true, Ordering::SeqCst);
        Self(suspensions)
    }

    /// Receives a message for each SIGTSTP.
    pub(super) fn suspensions(&self) -> &Receiver<()> {
        &self.0
    }
}

impl Drop for ShownPrompt {
    fn drop(&mut self) {
        IS_PROMPT_SHOWN.store(false, Ordering::SeqCst);
    }
}

/// Position of this process in relation to its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    /// It may read the terminal.
    Foreground,
    /// Another job of the shell has the terminal.
    Background,
    /// The terminal does not exist any more.
    Lost,
}

/// The terminal of standard input.
pub(super) struct JobTerminal {
    /// Whether it has job control: it is the controlling terminal of this process.
    is_controlling: bool,
}

impl JobTerminal {
    /// The terminal of standard input.
    pub(super) fn new() -> Self {
        Self { is_controlling: tcgetpgrp(io::stdin()).is_ok() }
    }

    /// Whether this process is in the foreground now.
    pub(super) fn ground(&self) -> Ground {
        match tcgetpgrp(io::stdin()) {
            Ok(group) if group == getpgrp() => Ground::Foreground,
            Ok(_) => Ground::Background,
            Err(_) if !self.is_controlling => Ground::Foreground,
            Err(_) => Ground::Lost,
        }
    }
}
