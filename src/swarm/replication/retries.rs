//! Retries of failed copies.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::priority::Priority;
use super::schedule::Timer;
use crate::content::limits;
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use crate::swarm::keeping::Location;

/// Retry state of a chunk of which a copy has failed.
#[derive(Debug)]
pub(super) struct Retry {
    backoff: Backoff,
    until: Moment,
    /// Source of the last attempt.
    pub from: Location,
    /// Target of the last attempt.
    pub to: Location,
}

impl ReplicationPlanner {
    /// Schedules a retry after a failed copy: after a backoff, and if possible with another source and
    /// target.
    pub(super) fn schedule_retry(&mut self, now: Moment, key: ChunkKey, from: Location, to: Location) {
        let first = || Backoff::new(limits::RETRY_MIN, limits::RETRY_MAX);
        let mut backoff = self.waiting.retries.remove(&key).map_or_else(first, |retry| retry.backoff);
        let until = now + backoff.pause(&mut self.random);
        self.waiting.retries.insert(key, Retry { backoff, until, from, to });
        self.schedule.add(until, Timer::BackoffEnd(key));
        self.set_priority(key, Priority::BACKOFF);
        self.recompute(key);
    }

    /// Ends the backoff of a chunk.
    pub(super) fn end_backoff(&mut self, now: Moment, key: ChunkKey) {
        if self.waiting.retries.get(&key).is_none_or(|retry| retry.until > now) {
            return;
        }
        self.requeue(key, Priority::BACKOFF);
        // The failed source and target are remembered until a copy succeeds or none is needed any more.
        if self.files.chunk(key).is_none_or(|chunk| !chunk.priority.is_queue()) {
            self.waiting.retries.remove(&key);
        }
    }

    /// Removes the retry state of a chunk after a successful copy.
    pub(super) fn clear_retry(&mut self, key: ChunkKey) {
        if self.waiting.retries.remove(&key).is_some() {
            self.requeue(key, Priority::BACKOFF);
        }
    }
}
