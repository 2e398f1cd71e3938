//! Progress and rate of repair.

use super::ReplicationPlanner;
use super::order::Order;
use super::priority::Priority;
use crate::swarm::Moment;
use crate::swarm::token_bucket::TokenBucket;
use std::time::Duration;

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
                let seconds = now.saturating_sub(since).as_secs_f64();
                self.orders.push(Order::Note(None, format!("repair is done: it took {seconds:.1} s")));
            }
            (None, needs_repair) if needs_repair > 0 => self.repair.since = Some(now),
            _ => {}
        }
    }
}
