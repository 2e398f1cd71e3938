//! State of one chunk: its copies, their counts, and its priority.

use super::priority::{LEVELS, Priority};
use super::replicas::{CopyState, Replicas};

/// Key of a chunk: the file's slot in the table of files, and the chunk's index in the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct ChunkKey {
    pub file: u32,
    pub index: u32,
}

/// How the copies of a volunteer count.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Standing {
    /// The volunteer is leaving.
    pub draining: bool,
    /// The owner has approved its key, or it runs on the tracker's own host.
    pub approved: bool,
    /// The owner has denied its key.
    pub denied: bool,
    /// It is away within the absence that it has announced.
    pub announced: bool,
    /// Its proven copies justify deletions: it is connected, has reported, is approved and is not leaving.
    pub justifies: bool,
}

/// Copy counts of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct CopyCounts {
    /// Proven copies at volunteers that stay: neither draining nor denied.
    pub proven: u8,
    /// Proven copies that justify the deletion of others.
    pub justifying: u8,
    /// Copies that count in any case, at volunteers that stay.
    pub staying: u8,
    /// Silent copies at volunteers that stay.
    pub silent: u8,
    /// Copies at volunteers that stay which are present, or expected back within an announced absence.
    pub safe: u8,
    /// Copies that count or are in flight, at approved volunteers that stay.
    pub approved: u8,
    /// Copies that count, at draining volunteers.
    pub draining: u8,
    /// Copies from which others can be made.
    pub sources: u8,
    /// Copies at connected volunteers that count.
    pub readable: u8,
    /// Copies at volunteers that are away and expected back.
    pub away: u8,
    /// Copies at volunteers that are not lost, proven or not.
    pub held: u8,
    /// Copies in flight.
    pub in_flight: u8,
}

impl CopyCounts {
    pub fn add(&mut self, state: CopyState, standing: Standing) {
        let one = |condition: bool, sum: &mut u8| *sum = sum.saturating_add(condition.into());
        let stays = !standing.draining && !standing.denied;
        one(state == CopyState::Proven && stays, &mut self.proven);
        one(state == CopyState::Proven && standing.justifies, &mut self.justifying);
        one(state.counts() && stays, &mut self.staying);
        one(state == CopyState::Silent && stays, &mut self.silent);
        let is_safe = state.is_readable() || (state == CopyState::Awaited && standing.announced);
        one(is_safe && stays, &mut self.safe);
        let is_planned = state.counts() || state == CopyState::Coming;
        one(is_planned && stays && standing.approved, &mut self.approved);
        one(state.counts() && standing.draining, &mut self.draining);
        one(state.is_source(), &mut self.sources);
        one(state.is_readable(), &mut self.readable);
        one(state.is_away(), &mut self.away);
        one(state.is_held(), &mut self.held);
        one(state == CopyState::Coming, &mut self.in_flight);
    }

    /// Number of copies that count. Silent copies count while at least [`SAFE_MIN`] copies are safe, the
    /// tracker's own copy included.
    pub fn counted(self, tracker_has: bool) -> usize {
        let safe = usize::from(self.safe) + usize::from(tracker_has);
        usize::from(self.staying) + if safe >= SAFE_MIN { usize::from(self.silent) } else { 0 }
    }

    /// Number of copies that will count once all copies in flight have arrived.
    pub fn planned(self, tracker_has: bool) -> usize {
        let coming = self.in_flight;
        let arrived = Self {
            staying: self.staying.saturating_add(coming),
            safe: self.safe.saturating_add(coming),
            ..self
        };
        arrived.counted(tracker_has)
    }
}

/// Number of safe copies with which the copies at silent volunteers still count.
const SAFE_MIN: usize = 2;

/// Wanted numbers of copies of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Wanted {
    /// Copies at any volunteers.
    pub replicas: usize,
    /// Copies at approved volunteers, without which the tracker's own copy cannot be deleted.
    pub approved: usize,
    /// Number of these that no copy replaces yet, because the next proof of their volunteers decides.
    pub suspended: usize,
}

/// Deficits of a chunk, which are summed per file and in total.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Deficits {
    /// Fewer proven copies than wanted.
    pub under_replicated: bool,
    /// Fewer copies that justify the deletion of others than wanted.
    pub unjustified: bool,
    /// A copy is needed that is not in flight yet.
    pub waiting: bool,
    /// There is no copy and none in flight.
    pub without_copy: bool,
    /// No copy can be read now.
    pub unreadable: bool,
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
    /// State of the copy in the tracker's chunk store.
    pub in_store: StoreCopy,
    /// It has been at a volunteer before.
    pub was_at_volunteer: bool,
    /// It had all its copies before.
    pub was_replicated: bool,
    /// It has been reported as lost.
    pub reported_lost: bool,
    /// A justifying copy was lost since the drop of the copy in the tracker's chunk store was scheduled.
    pub copy_lost_since_record: bool,
}

/// State of the copy of a chunk in the tracker's chunk store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum StoreCopy {
    /// There is none.
    #[default]
    None,
    /// It stays.
    Kept,
    /// It is to be dropped after the next record.
    Recording,
    /// A drop is ordered.
    Dropping,
}

impl Chunk {
    /// Whether the tracker's chunk store has it, and no drop is ordered.
    pub fn is_in_store(&self) -> bool {
        matches!(self.in_store, StoreCopy::Kept | StoreCopy::Recording)
    }

    /// Recomputes counts, deficits and priority. `wanted`: wanted numbers of copies; `tracker_has`: the
    /// tracker has a copy.
    pub fn recompute(&mut self, copy_counts: CopyCounts, wanted: Wanted, tracker_has: bool) {
        let Wanted { replicas, approved, suspended } = wanted;
        // A copy that replaces the lost one may be missing from the record that is being written.
        self.copy_lost_since_record |= copy_counts.justifying < self.copy_counts.justifying;
        self.copy_counts = copy_counts;
        let counted = copy_counts.counted(tracker_has);
        self.was_replicated |= counted >= replicas;
        let without_copy = !tracker_has && copy_counts.held == 0 && copy_counts.in_flight == 0;
        let waiting = copy_counts.planned(tracker_has) + suspended < replicas
            || usize::from(copy_counts.approved) + suspended < approved;
        let unreadable = !tracker_has && copy_counts.readable == 0;
        let can_be_copied = tracker_has || copy_counts.sources > 0;
        self.deficits = Deficits {
            under_replicated: usize::from(copy_counts.proven) < replicas,
            unjustified: usize::from(copy_counts.justifying) < replicas,
            waiting,
            without_copy,
            unreadable,
            needs_repair: self.was_replicated && counted < replicas && can_be_copied,
        };
        self.priority = match (waiting, self.priority) {
            (false, _) => Priority::NONE,
            (true, Priority::BACKOFF) => Priority::BACKOFF,
            (true, _) => self.waiting_priority(tracker_has),
        };
    }

    /// The priority of this chunk if it waits for a copy. `tracker_has`: the tracker has a copy.
    fn waiting_priority(&self, tracker_has: bool) -> Priority {
        let CopyCounts { draining, .. } = self.copy_counts;
        let copies = self.copy_counts.planned(tracker_has) + usize::from(draining);
        let level = u8::try_from(copies).unwrap_or(LEVELS).min(LEVELS - 1);
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
