//! Queues of chunks that wait for a copy, by source and priority.
//!
//! Each source has its own queues, so that an idle source finds work without a search. A chunk is in the
//! queues of all its sources, under the priority stored in the chunk; an entry with another priority is stale
//! and is discarded when it is met. So no entry must be searched for and removed.

use super::chunk::{Chunk, Key};
use super::priority::{LEVELS, PRIORITIES, Priority};
use std::collections::{HashSet, VecDeque};

/// Minimum number of entries at which a queue is cleared of stale entries.
const CLEAR_MIN: usize = 4_096;

impl Priority {
    /// The priority of an under-replicated chunk.
    pub fn of(chunk: &Chunk, at_tracker: bool) -> Self {
        let copy_counts = chunk.copy_counts;
        let copies = copy_counts.live.saturating_add(copy_counts.leaving).saturating_add(copy_counts.coming);
        let level = copies.min(LEVELS - 1);
        match (at_tracker, chunk.full, chunk.placed) {
            (false, true, _) => Priority(2 * level),
            (false, false, _) => Priority(2 * level + 1),
            (true, true, _) => Priority(2 * LEVELS + 3 * level),
            (true, false, true) => Priority(2 * LEVELS + 3 * level + 1),
            (true, false, false) => Priority(2 * LEVELS + 3 * level + 2),
        }
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority::NONE
    }
}

/// Number of waiting chunks of each priority.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Queued([u32; PRIORITIES as usize]);

impl Queued {
    /// Moves a chunk from one priority to another.
    pub fn move_one(&mut self, from: Priority, to: Priority) {
        if let Some(count) = self.0.get_mut(usize::from(from.0)) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.0.get_mut(usize::from(to.0)) {
            *count += 1;
        }
    }

    /// Whether any chunk of this priority waits.
    pub fn any(&self, priority: Priority) -> bool {
        self.0.get(usize::from(priority.0)).is_some_and(|count| *count > 0)
    }
}

#[derive(Default, Debug)]
struct PriorityQueue {
    keys: VecDeque<Key>,
    /// Number of entries left after the last clearing.
    cleared: usize,
}

/// The chunks that one source can give, by priority.
#[derive(Default, Debug)]
pub(super) struct Queue {
    lines: Vec<PriorityQueue>,
    /// A bit for each priority that has entries.
    filled: u32,
}

impl Queue {
    /// The priorities that have entries, as a bit mask.
    pub fn filled(&self) -> u32 {
        self.filled
    }

    /// Appends a chunk. Returns whether the queue has grown enough to be [cleared](Self::clear).
    pub fn push(&mut self, priority: Priority, key: Key) -> bool {
        if !priority.is_queue() {
            return false;
        }
        let at = usize::from(priority.0);
        if self.lines.len() <= at {
            self.lines.resize_with(at + 1, PriorityQueue::default);
        }
        let Some(line) = self.lines.get_mut(at) else { return false };
        line.keys.push_back(key);
        self.filled |= 1 << priority.0;
        line.keys.len() > CLEAR_MIN.max(4 * line.cleared)
    }

    /// Takes the first entry of a priority.
    pub fn pop(&mut self, priority: Priority) -> Option<Key> {
        let line = self.lines.get_mut(usize::from(priority.0))?;
        let key = line.keys.pop_front();
        if line.keys.is_empty() {
            self.filled &= !(1 << priority.0);
        }
        key
    }

    /// Removes stale and duplicate entries.
    pub fn clear(&mut self, priority: Priority, holds: impl Fn(Key) -> bool) {
        let Some(line) = self.lines.get_mut(usize::from(priority.0)) else { return };
        let mut met = HashSet::new();
        line.keys.retain(|key| holds(*key) && met.insert(*key));
        line.cleared = line.keys.len();
        if line.keys.is_empty() {
            self.filled &= !(1 << priority.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(live: u8, full: bool, placed: bool) -> Chunk {
        let copy_counts = super::super::chunk::CopyCounts { live, ..Default::default() };
        Chunk { copy_counts, full, placed, ..Chunk::default() }
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
        let priorities: Vec<Priority> = order.iter().map(|(chunk, own)| Priority::of(chunk, *own)).collect();
        assert!(priorities.is_sorted(), "{priorities:?}");
        for ((chunk, _), priority) in order.iter().zip(priorities) {
            assert!(priority.is_queue());
            assert_eq!(priority.is_repair(), chunk.full, "{priority:?}");
            assert_eq!(priority.is_new(), !chunk.placed, "{priority:?}");
        }
        for other in [Priority::NONE, Priority::PARKED, Priority::RESTING] {
            assert!(!other.is_queue() && !other.is_repair() && !other.is_new());
        }
    }

    #[test]
    fn a_queue_knows_its_priorities_with_entries() {
        let mut queue = Queue::default();
        let key = |index| Key { file: 0, index };
        assert_eq!(queue.pop(Priority(3)), None);
        for index in [1, 2, 1] {
            assert!(!queue.push(Priority(3), key(index)));
        }
        assert_eq!(queue.filled(), 1 << 3);
        queue.clear(Priority(3), |key| key.index == 1);
        assert_eq!(queue.pop(Priority(3)), Some(key(1)));
        assert_eq!((queue.pop(Priority(3)), queue.filled()), (None, 0));
    }

    #[test]
    fn a_queue_asks_for_clearing_only_after_large_growth() {
        let mut queue = Queue::default();
        let asks = (0..5_000).filter(|_| queue.push(Priority(0), Key { file: 0, index: 7 })).count();
        assert!(asks > 0);
        queue.clear(Priority(0), |_| true);
        assert!(!queue.push(Priority(0), Key { file: 0, index: 7 }));
    }
}
