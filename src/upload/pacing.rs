//! The files that are dealt out in several stripes, and how fast others are given chunks of them.
//!
//! Whoever keeps trees of several stripes, or has a place in such, holds the pace of that file; connections ask
//! how long their next bytes are to wait. Invariant: nothing is kept of a file whose pace nobody holds.

use crate::content::FileId;
use crate::swarm::trees::Pace;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Shared {
    holders: usize,
    pace: Pace<SocketAddr>,
}

/// The files whose pace is held. Clones are the same.
#[derive(Clone)]
pub struct Pacing {
    files: Arc<Mutex<HashMap<FileId, Shared>>>,
    started: Instant,
}

impl Default for Pacing {
    fn default() -> Self {
        Self { files: Arc::default(), started: Instant::now() }
    }
}

impl Pacing {
    fn files(&self) -> MutexGuard<'_, HashMap<FileId, Shared>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is dealt out in several stripes, for as long as what is returned lives.
    pub fn hold(&self, file: FileId) -> Held {
        self.files().entry(file).or_default().holders += 1;
        Held { pacing: self.clone(), file }
    }

    /// Somebody is about to be given bytes of a file. Returns how long they are to wait.
    pub fn give(&self, file: FileId, to: SocketAddr, bytes: u64) -> Duration {
        self.give_at(file, to, bytes, self.started.elapsed())
    }

    fn give_at(&self, file: FileId, to: SocketAddr, bytes: u64, now: Duration) -> Duration {
        let mut files = self.files();
        let Some(Shared { pace, .. }) = files.get_mut(&file) else { return Duration::ZERO };
        let wait = pace.wait(to, bytes, now);
        pace.gave(to, bytes, now);
        wait
    }
}

/// Holds the pace of a file.
pub struct Held {
    pacing: Pacing,
    file: FileId,
}

impl Held {
    /// Of which file.
    pub fn file(&self) -> FileId {
        self.file
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut files = self.pacing.files();
        let Some(shared) = files.get_mut(&self.file) else { return };
        shared.holders -= 1;
        if shared.holders == 0 {
            files.remove(&self.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_whose_pace_is_held_waits_and_nothing_is_kept_of_others() {
        let (pacing, file) = (Pacing::default(), FileId([4; 32]));
        let to = SocketAddr::from(([10, 0, 0, 1], 7000));
        let give = |seconds: u64| pacing.give_at(file, to, 4_000_000, Duration::from_secs(seconds));
        assert!((0..9).all(|second| give(second).is_zero()));
        let (one, other) = (pacing.hold(file), pacing.clone().hold(file));
        assert!((10..19).all(|second| give(second).is_zero()));
        assert!(give(19).is_zero() && !give(19).is_zero(), "a second has gone by then");
        drop(one);
        assert!(!give(19).is_zero(), "somebody holds it still");
        drop(other);
        assert!(give(19).is_zero() && pacing.files().is_empty());
    }
}
