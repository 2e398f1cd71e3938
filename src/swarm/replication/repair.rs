//! Progress and rate of repair.

use super::ReplicationPlanner;
use super::order::Order;
use super::priority::Priority;
use crate::content::FileId;
use crate::content::fmt::elapsed;
use crate::swarm::Moment;
use crate::swarm::token_bucket::TokenBucket;
use std::time::Duration;

/// Progress of the copies that are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyProgress {
    /// Wanted copies of the chunks of the files with too few copies, and those that are there.
    pub wanted: u64,
    /// Copies that count among them.
    pub present: u64,
    /// Bytes of the copies that are missing.
    pub left_bytes: u64,
    /// Live volunteers.
    pub volunteers: u64,
    /// Files with too few copies.
    pub files: u64,
    /// One of them.
    pub file: Option<FileId>,
}

/// Conditions under which copies may start, the rate limit of repair, and totals for the status.
#[derive(Default, Debug)]
pub(super) struct Repair {
    /// The operator has paused new copies.
    pub paused: bool,
    /// No copy starts earlier: volunteers that are not known yet may have the chunks.
    pub no_copy_before: Moment,
    /// The rate limit, once a copy was charged to it.
    limiter: Option<TokenBucket>,
    /// Time at which the rate limit permits the next repair.
    next_repair_at: Moment,
    /// Start of the current repair, if chunks need repair.
    since: Option<Moment>,
    /// Number of copies that have arrived.
    pub copied: u64,
    /// Bytes of copies that have arrived.
    pub copied_bytes: u64,
}

impl Repair {
    /// Charges a repair of `length` bytes to the rate limit. Returns the time at which the limit permits the
    /// next one, if that is later than `now`.
    pub fn charge(&mut self, now: Moment, limit: u64, length: u64) -> Option<Moment> {
        let wait = self.limiter.get_or_insert_with(|| TokenBucket::new(limit, now)).take(length, now);
        self.next_repair_at = now + wait;
        (wait > Duration::ZERO).then_some(self.next_repair_at)
    }

    /// Whether the rate limit permits the next repair.
    pub fn permits(&self, now: Moment) -> bool {
        now >= self.next_repair_at
    }

    /// Counts a copy that has arrived.
    pub fn count_copy(&mut self, length: u64) {
        self.copied += 1;
        self.copied_bytes += length;
    }
}

impl ReplicationPlanner {
    /// Bytes of all copies so far, and whether copies are running or waiting.
    pub fn copied_bytes(&self) -> (u64, bool) {
        let is_active = self.transfers.count() > 0 || self.files.counts.waiting > 0;
        (self.repair.copied_bytes, is_active)
    }

    /// Progress of the files with too few copies. It visits each file.
    pub fn copy_progress(&self) -> CopyProgress {
        let replicas = self.settings.replicas as u64;
        let volunteers = self.volunteers.iter().filter(|volunteer| volunteer.is_alive()).count() as u64;
        let mut progress =
            CopyProgress { wanted: 0, present: 0, left_bytes: 0, volunteers, files: 0, file: None };
        for file in self.files.iter().filter(|file| file.counts.under_replicated > 0) {
            let wanted = file.chunks.len() as u64 * replicas;
            let present = file.counts.readable.min(wanted);
            let left = u128::from(wanted - present) * u128::from(file.layout.size()) * u128::from(replicas);
            progress.wanted += wanted;
            progress.present += present;
            progress.left_bytes += u64::try_from(left / u128::from(wanted.max(1))).unwrap_or(u64::MAX);
            progress.files += 1;
            progress.file = Some(file.id);
        }
        progress
    }

    /// Whether any copy may start now.
    pub(super) fn may_copy(&self, now: Moment) -> bool {
        !self.repair.paused && now >= self.repair.no_copy_before
    }

    /// Whether chunks of this priority may be copied now.
    pub(super) fn may_copy_priority(&self, now: Moment, priority: Priority) -> bool {
        let limited = self.settings.repair_limit > 0 && now < self.repair.next_repair_at;
        let too_few = self.volunteers.counts.staying < self.settings.volunteers_min;
        let waits = (priority.is_repair() && limited) || (priority.is_new() && too_few);
        !waits
    }

    /// Reports the end of a repair, and notes its start.
    pub(super) fn note_repair_progress(&mut self, now: Moment) {
        match (self.repair.since, self.files.counts.needs_repair) {
            (Some(since), 0) => {
                self.repair.since = None;
                let took = elapsed(now.saturating_sub(since));
                self.orders.push(Order::Note(None, format!("repair is done: it took {took}")));
            }
            (None, needs_repair) if needs_repair > 0 => self.repair.since = Some(now),
            _ => {}
        }
    }
}
