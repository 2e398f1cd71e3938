//! State of one chunk: its copies, their counts, and its priority.

use super::priority::{LEVELS, Priority};
use super::replicas::{CopyState, Replicas};

/// Key of a chunk: the file's slot in the table of files, and the chunk's index in the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct ChunkKey {
    pub file: u32,
    pub index: u32,
}

/// Copy counts of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct CopyCounts {
    /// Verified copies at volunteers that are not draining.
    pub verified: u8,
    /// Copies that count, at volunteers that are not draining.
    pub staying: u8,
    /// Copies that count, at draining volunteers.
    pub draining: u8,
    /// Copies at alive volunteers.
    pub available: u8,
    /// Copies in flight.
    pub in_flight: u8,
}

impl CopyCounts {
    pub fn add(&mut self, state: CopyState, draining: bool) {
        let one = |condition: bool, sum: &mut u8| *sum = sum.saturating_add(condition.into());
        one(state == CopyState::Verified && !draining, &mut self.verified);
        one(state.counts() && !draining, &mut self.staying);
        one(state.counts() && draining, &mut self.draining);
        one(state.is_available(), &mut self.available);
        one(state == CopyState::InFlight, &mut self.in_flight);
    }
}

/// Deficits of a chunk, which are summed per file and in total.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Deficits {
    /// Fewer verified copies than wanted.
    pub under_replicated: bool,
    /// A copy is needed that is not in flight yet.
    pub waiting: bool,
    /// There is no copy and none in flight.
    pub without_copy: bool,
    /// It had all its copies once, has fewer now, and can be repaired.
    pub needs_repair: bool,
}

/// State of a chunk.
#[derive(Clone, Default, Debug)]
pub(super) struct Chunk {
    pub replicas: Replicas,
    pub copy_counts: CopyCounts,
    pub deficits: Deficits,
    /// Its current priority.
    pub priority: Priority,
    /// The tracker's chunk store has it.
    pub in_store: bool,
    /// The copy in the tracker's chunk store is to be dropped after the next record.
    pub store_drop_pending: bool,
    /// It has been at a volunteer before.
    pub was_at_volunteer: bool,
    /// It had all its copies before.
    pub was_replicated: bool,
    /// It has been reported as lost.
    pub reported_lost: bool,
    /// A verified copy was lost since the drop of the copy in the tracker's chunk store was scheduled.
    pub copy_lost_since_record: bool,
}

impl Chunk {
    /// Recomputes counts, deficits and priority. `replicas`: wanted number of copies; `tracker_has`: the
    /// tracker has a copy.
    pub fn recompute(&mut self, copy_counts: CopyCounts, replicas: usize, tracker_has: bool) {
        // A copy that replaces the lost one may be missing from the record that is being written.
        self.copy_lost_since_record |= copy_counts.verified < self.copy_counts.verified;
        self.copy_counts = copy_counts;
        let CopyCounts { verified, staying, draining, in_flight, .. } = copy_counts;
        let too_few = |copies: u8| usize::from(copies) < replicas;
        self.was_replicated |= !too_few(staying);
        let without_copy = !tracker_has && [staying, draining, in_flight] == [0; 3];
        let waiting = too_few(staying.saturating_add(in_flight));
        self.deficits = Deficits {
            under_replicated: too_few(verified),
            waiting,
            without_copy,
            needs_repair: self.was_replicated && too_few(staying) && !without_copy,
        };
        self.priority = match (waiting, self.priority) {
            (false, _) => Priority::NONE,
            (true, Priority::BACKOFF) => Priority::BACKOFF,
            (true, _) => self.waiting_priority(tracker_has),
        };
    }

    /// The priority of this chunk if it waits for a copy. `tracker_has`: the tracker has a copy.
    fn waiting_priority(&self, tracker_has: bool) -> Priority {
        let CopyCounts { staying, draining, in_flight, .. } = self.copy_counts;
        let copies = staying.saturating_add(draining).saturating_add(in_flight);
        let level = copies.min(LEVELS - 1);
        match (tracker_has, self.was_replicated, self.was_at_volunteer) {
            (false, true, _) => Priority(2 * level),
            (false, false, _) => Priority(2 * level + 1),
            (true, true, _) => Priority(2 * LEVELS + 3 * level),
            (true, false, true) => Priority(2 * LEVELS + 3 * level + 1),
            (true, false, false) => Priority(2 * LEVELS + 3 * level + 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_takes_at_most_56_bytes() {
        assert!(size_of::<Chunk>() <= 56, "{}", size_of::<Chunk>());
    }

    fn chunk(staying: u8, was_replicated: bool, was_at_volunteer: bool) -> Chunk {
        let copy_counts = CopyCounts { staying, ..Default::default() };
        Chunk { copy_counts, was_replicated, was_at_volunteer, ..Chunk::default() }
    }

    #[test]
    fn priority_rises_with_fewer_copies_and_without_a_tracker_copy() {
        let order = [
            (chunk(1, true, true), false),
            (chunk(1, false, true), false),
            (chunk(2, true, true), false),
            (chunk(0, true, true), true),
            (chunk(0, false, false), true),
            (chunk(1, true, true), true),
            (chunk(1, false, true), true),
            (chunk(9, false, true), true),
        ];
        let priorities: Vec<Priority> =
            order.iter().map(|(chunk, tracker_has)| chunk.waiting_priority(*tracker_has)).collect();
        assert!(priorities.is_sorted(), "{priorities:?}");
        for ((chunk, _), priority) in order.iter().zip(priorities) {
            assert!(priority.is_queue());
            assert_eq!(priority.is_repair(), chunk.was_replicated, "{priority:?}");
            assert_eq!(priority.is_new(), !chunk.was_at_volunteer, "{priority:?}");
        }
        for other in [Priority::NONE, Priority::PARKED, Priority::BACKOFF] {
            assert!(!other.is_queue() && !other.is_repair() && !other.is_new());
        }
    }
}
