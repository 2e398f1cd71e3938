//! Lack of space: at volunteers, and at the tracker.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::file::File;
use super::order::Order;
use super::volunteer::Volunteer;
use crate::content::fmt::{counted, size};
use crate::content::limits;
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;

/// Divisor of the offered space that a file larger than all space leaves to other files.
const RESERVE_DIVISOR: u64 = 8;

/// State of the lack of space.
#[derive(Debug)]
pub(super) struct Space {
    /// Chunks are parked because volunteers have too little space.
    pub is_lacking: bool,
    /// A log line has reported that volunteers have too little space.
    warned: bool,
    /// The tracker's disk is full: no chunk is copied back before this time.
    pub tracker_retry_at: Moment,
    backoff: Backoff,
}

impl Default for Space {
    fn default() -> Self {
        let backoff = Backoff::new(limits::TRACKER_SPACE_RETRY_MIN, limits::TRACKER_SPACE_RETRY_MAX);
        Self { is_lacking: false, warned: false, tracker_retry_at: Moment::ZERO, backoff }
    }
}

impl ReplicationPlanner {
    /// Handles a copy to the tracker for which its disk has too little space: no further one starts for a time
    /// that grows.
    pub(super) fn note_tracker_full(&mut self, now: Moment) {
        // Copies that were in flight together fail together.
        if now < self.space.tracker_retry_at {
            return;
        }
        let pause = self.space.backoff.pause(&mut self.random);
        self.space.tracker_retry_at = now + pause;
        self.schedule.add(self.space.tracker_retry_at, super::schedule::Timer::Plan);
        self.orders.push(Order::Warn(format!(
            "the tracker's disk is full: no chunk is copied back to it for {} s",
            pause.as_secs()
        )));
    }

    /// Notes that a chunk was stored in the tracker's chunk store.
    pub(super) fn note_tracker_space(&mut self) {
        self.space.backoff.reset();
        self.space.tracker_retry_at = Moment::ZERO;
    }

    /// Space that a chunk of a file must leave free at a volunteer. A file that is larger than the space of all
    /// volunteers leaves some of it to files that fit.
    pub(super) fn reserved_space(&self, file: &File, volunteer: &Volunteer) -> u64 {
        let wanted = file.layout.size().saturating_mul(self.settings.replicas as u64);
        match wanted > self.volunteers.counts.offered {
            true => volunteer.record.offered / RESERVE_DIVISOR,
            false => 0,
        }
    }

    /// Notes that no volunteer can take a chunk. If that is a lack of space, copies in reserve may be dropped, and
    /// the lack is reported once.
    pub(super) fn note_lack_of_space(&mut self, now: Moment, key: ChunkKey) {
        let Some(chunk) = self.files.chunk(key) else { return };
        let could_take = |volunteer: &Volunteer| {
            volunteer.may_take_copies(now) && chunk.replicas.get(volunteer.record.number).is_none()
        };
        if (self.space.is_lacking && self.space.warned) || !self.volunteers.iter().any(could_take) {
            return;
        }
        if !self.space.is_lacking {
            self.space.is_lacking = true;
            self.drops.over_replicated.extend(self.drops.in_reserve.iter().copied());
        }
        if !self.space.warned && self.volunteers.counts.staying >= self.settings.volunteers_min {
            self.warn_of_lack_of_space(key);
        }
    }

    fn warn_of_lack_of_space(&mut self, key: ChunkKey) {
        self.space.warned = true;
        let free: u64 = self.volunteers.iter().filter(|one| one.has_reported()).map(|one| one.free).sum();
        let needed = self.files.iter().map(|file| self.waiting_bytes(file)).fold(0, u64::saturating_add);
        let missing = needed.saturating_sub(free).max(self.files.length(key));
        let waiting = counted(self.files.counts.waiting, "chunk");
        self.orders.push(Order::Warn(format!(
            "volunteers have too little space: {waiting} without all copies, {} missing; add volunteers, or raise \
             --volunteer SIZE there",
            size(missing)
        )));
    }

    /// Bytes of the copies that are needed of a file and not in flight.
    fn waiting_bytes(&self, file: &File) -> u64 {
        let waiting = (0u32..).zip(&file.chunks).filter(|(_, chunk)| chunk.deficits.waiting);
        let bytes = waiting.map(|(index, chunk)| {
            let planned = chunk.copy_counts.planned(file.tracker_has(chunk));
            file.length(index).saturating_mul(self.settings.replicas.saturating_sub(planned) as u64)
        });
        bytes.fold(0, u64::saturating_add)
    }

    /// Notes that no chunk waits for a copy: the next lack of space is reported again.
    pub(super) fn note_no_lack_of_space(&mut self) {
        if self.space.warned && self.files.counts.waiting == 0 {
            self.space.warned = false;
        }
    }
}
