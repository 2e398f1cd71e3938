//! How fast all connections of a serving peer together may send chunks, where that is limited.
//!
//! Invariant: with so many chunks on their way at once as have a place, none of them is so slow that it is given up.

use crate::net::Shutdown;
use crate::net::link::SLICE;
use crate::swarm::token_bucket::TokenBucket;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No slice of a chunk waits longer than this for the other chunks on their way, seconds.
const SLICE_WAIT_MAX_SECONDS: u64 = 10;
/// Chunks on their way at once, however high the limit is.
const SLOTS_MAX: u64 = 64;

/// A limit for all connections together.
pub struct UploadLimit {
    bucket: Mutex<TokenBucket>,
    started: Instant,
    slots: (Sender<()>, Receiver<()>),
}

/// One of the chunks that may be on their way; gives its place back when dropped.
pub struct UploadSlot<'a>(&'a Receiver<()>);

impl Drop for UploadSlot<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}

impl UploadLimit {
    /// So many bytes a second, which are not none.
    pub fn new(rate: u64) -> Self {
        let at_once = (rate.saturating_mul(SLICE_WAIT_MAX_SECONDS) / SLICE).clamp(1, SLOTS_MAX);
        Self {
            bucket: Mutex::new(TokenBucket::new(rate, Duration::ZERO)),
            started: Instant::now(),
            slots: bounded(at_once as usize),
        }
    }

    /// Waits until one more chunk may be on its way. `None` at the shutdown.
    pub fn slot(&self, shutdown: &Shutdown) -> Option<UploadSlot<'_>> {
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => None,
            send(self.slots.0, ()) -> _ => Some(UploadSlot(&self.slots.1)),
        }
    }

    /// Waits until so many bytes may go, or for the shutdown.
    pub fn pace(&self, bytes: u64, shutdown: &Shutdown) {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = bucket.take(bytes, self.started.elapsed());
        drop(bucket);
        if !wait.is_zero() {
            shutdown.wait(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_limit_lets_one_chunk_go_at_a_time_and_the_shutdown_ends_the_waiting() {
        let (limit, shutdown) = (UploadLimit::new(1_000), Shutdown::new());
        let first = limit.slot(&shutdown);
        assert!(first.is_some());
        drop(first);
        let _second = limit.slot(&shutdown).expect("the first one is through");
        shutdown.trigger();
        assert!(limit.slot(&shutdown).is_none());
        limit.pace(1 << 40, &shutdown);
    }

    #[test]
    fn the_highest_limit_there_is_lets_many_go() {
        assert_eq!(UploadLimit::new(u64::MAX).slots.0.capacity(), Some(SLOTS_MAX as usize));
    }
}
