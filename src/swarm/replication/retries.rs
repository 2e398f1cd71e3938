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
    pub sources: Failures,
    pub targets: Failures,
}

/// Number of locations whose failures are remembered for one chunk.
const FAILURES_MAX: usize = 64;

/// Locations at which attempts have failed, in the order of their last failure.
///
/// The next attempt takes the one that failed longest ago, or never: two locations that always fail cannot take turns and
/// exclude a third one.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<Location>);

impl Failures {
    fn note(&mut self, location: Location) {
        self.0.retain(|other| *other != location);
        if self.0.len() >= FAILURES_MAX {
            self.0.remove(0);
        }
        self.0.push(location);
    }

    /// 0 for a location without a failure; higher for a later failure.
    pub fn rank(&self, location: Location) -> usize {
        self.0.iter().position(|other| *other == location).map_or(0, |at| at + 1)
    }
}

impl ReplicationPlanner {
    /// Schedules a retry after a failed copy: after a backoff, and if possible with another source and another
    /// target.
    pub(super) fn schedule_retry(&mut self, now: Moment, key: ChunkKey, from: Location, to: Location) {
        let retry = self.waiting.retries.entry(key).or_insert_with(|| Retry {
            backoff: Backoff::new(limits::RETRY_MIN, limits::RETRY_MAX),
            until: now,
            sources: Failures::default(),
            targets: Failures::default(),
        });
        retry.sources.note(from);
        retry.targets.note(to);
        retry.until = now + retry.backoff.pause(&mut self.random);
        let until = retry.until;
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
        // The failed sources and targets are remembered until a copy succeeds or none is needed any more.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::keeping::VolunteerNumber;

    #[test]
    fn locations_that_always_fail_do_not_exclude_another_one() {
        let [a, b, c] = [0, 1, 2].map(|number| Location::Volunteer(VolunteerNumber(number)));
        let mut failures = Failures::default();
        for next in [a, b, c, a, b] {
            let best = [a, b, c].into_iter().min_by_key(|location| (failures.rank(*location), *location));
            assert_eq!(best, Some(next));
            failures.note(next);
        }
        (0..200).for_each(|number| failures.note(Location::Volunteer(VolunteerNumber(number))));
        assert_eq!(failures.0.len(), FAILURES_MAX);
    }
}
