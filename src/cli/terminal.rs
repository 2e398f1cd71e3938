//! The mode of the terminal, which the line editor changes while it reads, kept so that it can be put back.
//!
//! The editor puts it back itself when it returns. This is for the ends at which it does not. Invariant: while a
//! [`SavedMode`] lives, every end of the process but SIGKILL and an abort leaves the terminal as it was found.

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// The mode that standard input was found in.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);
/// Tells a terminal not to mark what is pasted.
const PLAIN_PASTE: &[u8] = b"\x1b[?2004l";

/// Puts the mode back when it is dropped.
#[must_use = "the mode is put back when this is dropped"]
pub struct SavedMode(());

/// Keeps the mode that standard input is in now.
pub fn save_mode() -> SavedMode {
    *FOUND.lock().unwrap_or_else(PoisonError::into_inner) = tcgetattr(io::stdin()).ok();
    SavedMode(())
}

/// Puts back what was kept, if anything was. Again is fine.
pub fn restore() {
    let Some(found) = FOUND.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let changed = tcgetattr(io::stdin()).is_ok_and(|now| now.local_modes != found.local_modes);
    // A terminal that is gone needs no mode. Never waits for output to drain: it may have been stopped.
    let _ = tcsetattr(io::stdin(), OptionalActions::Now, &found);
    if changed {
        let mut out = io::stdout().lock();
        let _ = out.write_all(PLAIN_PASTE).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    }
}

impl Drop for SavedMode {
    fn drop(&mut self) {
        restore();
    }
}
