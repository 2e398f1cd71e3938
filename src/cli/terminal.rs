//! Saves and restores the mode of the terminal, which the line editor changes while it reads.
//!
//! The editor restores the mode when it returns; this module covers exits of the process during a read. Invariant:
//! while a [`SavedMode`] exists, every end of the process except SIGKILL and an abort restores the mode.

use crate::sync::lock;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, Write};
use std::sync::Mutex;

/// The saved mode of standard input.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);
/// Escape sequence that disables bracketed paste.
const BRACKETED_PASTE_OFF: &[u8] = b"\x1b[?2004l";

/// Restores the saved mode on drop.
#[must_use = "the mode is restored on drop"]
pub struct SavedMode(());

/// Saves the present mode of standard input.
pub fn save_mode() -> SavedMode {
    *lock(&SAVED) = tcgetattr(io::stdin()).ok();
    SavedMode(())
}

/// Restores the saved mode, if there is one. A second call has no effect.
pub fn restore() {
    let Some(saved) = lock(&SAVED).take() else { return };
    let changed = tcgetattr(io::stdin()).is_ok_and(|now| now.local_modes != saved.local_modes);
    // Errors of a closed terminal are ignored. `Now` does not wait for output: the user may have stopped it with
    // Ctrl-S.
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, &saved);
    if changed {
        let mut out = io::stdout().lock();
        let _ =
            out.write_all(BRACKETED_PASTE_OFF).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    }
}

impl Drop for SavedMode {
    fn drop(&mut self) {
        restore();
    }
}
