//! Upload limit shared by all connections of a peer.
//!
//! Invariant: no more chunks are sent at once than have a slot, so that each is fast enough for its
//! receiver's stall timeout.

use crate::content::limits::UPLOAD_SLOT_TIMEOUT;
use crate::net::framed_stream::SENDFILE_BYTES_MAX;
use crate::net::{RateLimit, Shutdown};
use crossbeam_channel::{Receiver, Sender, bounded};

/// Longest wait of a slice of a chunk for the slices of the other chunks, seconds.
const SLICE_WAIT_MAX_SECONDS: u64 = 10;
/// Largest number of chunks sent at once, at any limit.
const SLOTS_MAX: u64 = 64;

/// Upload limit for all connections together.
pub struct UploadLimit {
    rate: RateLimit,
    slots: (Sender<()>, Receiver<()>),
}

/// Permission to send one chunk; released when dropped.
pub struct UploadSlot<'a>(&'a Receiver<()>);

impl Drop for UploadSlot<'_> {
    fn drop(&mut self) {
        let _ = self.0.try_recv();
    }
}

impl UploadLimit {
    /// Creates a limit of `rate` bytes per second, at least 1.
    pub fn new(rate: u64) -> Self {
        let at_once = (rate.saturating_mul(SLICE_WAIT_MAX_SECONDS) / SENDFILE_BYTES_MAX).clamp(1, SLOTS_MAX);
        Self { rate: RateLimit::new(rate), slots: bounded(at_once as usize) }
    }

    /// Waits for a free slot. `None` at the shutdown, or if all slots are in use for [`UPLOAD_SLOT_TIMEOUT`].
    pub fn slot(&self, shutdown: &Shutdown) -> Option<UploadSlot<'_>> {
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => None,
            send(self.slots.0, ()) -> _ => Some(UploadSlot(&self.slots.1)),
            default(UPLOAD_SLOT_TIMEOUT) => None,
        }
    }

    /// Waits until `bytes` may be sent, or for the shutdown.
    pub fn throttle(&self, bytes: u64, shutdown: &Shutdown) {
        self.rate.throttle(bytes, shutdown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_limit_has_one_slot_and_shutdown_ends_waits() {
        let (limit, shutdown) = (UploadLimit::new(1_000), Shutdown::new());
        let first = limit.slot(&shutdown);
        assert!(first.is_some());
        drop(first);
        let _second = limit.slot(&shutdown).expect("the first slot was released");
        shutdown.trigger();
        assert!(limit.slot(&shutdown).is_none());
        limit.throttle(1 << 40, &shutdown);
    }

    #[test]
    fn number_of_slots_is_limited_at_the_highest_limit() {
        assert_eq!(UploadLimit::new(u64::MAX).slots.0.capacity(), Some(SLOTS_MAX as usize));
    }
}
