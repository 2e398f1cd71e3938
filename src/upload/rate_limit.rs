//! Upload limit shared by all connections of a peer.
//!
//! Invariant: no more chunks are sent at once than have a slot, so that each is fast enough for its receiver's stall
//! timeout; chunks whose receivers take nothing do not count ([`UploadSlots`]).

use crate::content::limits::UPLOAD_SLOT_TIMEOUT;
use crate::net::framed_stream::SENDFILE_BYTES_MAX;
use crate::net::{POLL_INTERVAL, RateLimit, Shutdown};
use crate::swarm::Moment;
use crate::swarm::shares::Source;
use crate::swarm::upload_slots::{SlotId, UploadSlots};
use crate::sync::{lock, wait_timeout_while};
use std::net::IpAddr;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

/// Longest wait of a slice of a chunk for the slices of the other chunks, seconds.
const SLICE_WAIT_MAX_SECONDS: u64 = 10;
/// Largest number of chunks sent at once, at any limit.
const SLOTS_MAX: u64 = 64;

/// Upload limit for all connections together.
pub struct UploadLimit {
    rate: RateLimit,
    slots: Mutex<UploadSlots>,
    changed: Condvar,
    started: Instant,
}

/// Permission to send one chunk; released when dropped.
pub struct UploadSlot<'a> {
    limit: &'a UploadLimit,
    id: SlotId,
}

impl Drop for UploadSlot<'_> {
    fn drop(&mut self) {
        lock(&self.limit.slots).remove(self.id);
        self.limit.changed.notify_all();
    }
}

impl UploadSlot<'_> {
    /// Whether the receiver took nothing for some time in this transfer.
    pub fn has_stalled(&self) -> bool {
        lock(&self.limit.slots).has_stalled(self.limit.now(), self.id)
    }

    /// Notes that a write to the receiver begins, which may block until the receiver takes bytes.
    pub fn begin_write(&self) {
        lock(&self.limit.slots).sends(self.limit.now(), self.id);
    }

    /// Waits until `bytes` may be sent, and for another slot if this one was given away, or for the shutdown. The caller
    /// sends the bytes at once.
    pub fn throttle(&self, bytes: u64, shutdown: &Shutdown) {
        let limit = self.limit;
        lock(&limit.slots).continues(limit.now(), self.id);
        while !limit.wait_for_slot(self.id, shutdown) && !shutdown.is_stopped() {}
        limit.rate.throttle(bytes, shutdown);
        lock(&limit.slots).sends(limit.now(), self.id);
    }
}

impl UploadLimit {
    /// Creates a limit of `rate` bytes per second, at least 1.
    pub fn new(rate: u64) -> Self {
        let at_once = (rate.saturating_mul(SLICE_WAIT_MAX_SECONDS) / SENDFILE_BYTES_MAX).clamp(1, SLOTS_MAX);
        Self {
            rate: RateLimit::new(rate),
            slots: Mutex::new(UploadSlots::new(at_once as usize)),
            changed: Condvar::new(),
            started: Instant::now(),
        }
    }

    /// Waits for a free slot for a source address. If `comes_last`, as after a transfer that has stalled, others of
    /// that address come first. `None` at the shutdown, or if all slots are in use for
    /// [`UPLOAD_SLOT_TIMEOUT`].
    pub fn slot(&self, from: IpAddr, comes_last: bool, shutdown: &Shutdown) -> Option<UploadSlot<'_>> {
        let id = lock(&self.slots).request(Source::of(from), comes_last);
        let slot = UploadSlot { limit: self, id };
        self.wait_for_slot(id, shutdown).then_some(slot)
    }

    /// Waits for a free slot, at most for [`UPLOAD_SLOT_TIMEOUT`] or until the shutdown. Returns whether the request has one.
    fn wait_for_slot(&self, id: SlotId, shutdown: &Shutdown) -> bool {
        let began = Instant::now();
        let mut slots = lock(&self.slots);
        loop {
            // Slots become free also by the time that passes.
            let waits = |slots: &mut UploadSlots| !slots.take(self.now(), id);
            slots = wait_timeout_while(&self.changed, slots, POLL_INTERVAL, waits);
            if slots.take(self.now(), id) {
                return true;
            }
            if shutdown.is_stopped() || began.elapsed() >= UPLOAD_SLOT_TIMEOUT {
                return false;
            }
        }
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    #[test]
    fn low_limit_has_one_slot_and_shutdown_ends_waits() {
        let (limit, shutdown) = (UploadLimit::new(1_000), Shutdown::new());
        let first = limit.slot(PEER, false, &shutdown);
        assert!(first.is_some());
        drop(first);
        let second = limit.slot(PEER, false, &shutdown).expect("the first slot was released");
        shutdown.trigger();
        assert!(limit.slot(PEER, false, &shutdown).is_none());
        second.throttle(1 << 40, &shutdown);
    }

    #[test]
    fn a_waiting_request_gets_the_slot_that_becomes_free() {
        let (limit, shutdown) = (UploadLimit::new(1_000), Shutdown::new());
        let first = limit.slot(PEER, false, &shutdown).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| limit.slot(PEER, false, &shutdown).is_some());
            drop(first);
            assert!(waits.join().unwrap());
        });
    }

    #[test]
    fn number_of_slots_is_limited_at_the_highest_limit() {
        assert_eq!(lock(&UploadLimit::new(u64::MAX).slots).slots(), SLOTS_MAX as usize);
    }
}
