//! Queues of chunks that wait for a copy, by source and priority.
//!
//! Each source has its own queues, so that an idle source finds work without a search. A chunk is in the
//! queues of all its sources, under the priority stored in the chunk; an entry with another priority is stale
//! and is discarded when it is seen. So no entry needs to be searched for.

use super::chunk::ChunkKey;
use super::priority::{PRIORITIES, Priority};
use std::collections::{HashSet, VecDeque};

/// Minimum number of entries at which stale entries are removed from a queue.
const STALE_REMOVAL_MIN: usize = 4_096;

/// Number of waiting chunks of each priority.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct WaitingCounts([u32; PRIORITIES as usize]);

impl WaitingCounts {
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

/// The chunks of one priority that one source can give.
#[derive(Default, Debug)]
struct PriorityQueue {
    keys: VecDeque<ChunkKey>,
    /// Number of entries after stale ones were last removed.
    valid: usize,
}

/// The chunks that one source can give, by priority.
#[derive(Default, Debug)]
pub(super) struct SourceQueue {
    queues: Vec<PriorityQueue>,
    /// A bit for each priority that has entries.
    filled: u32,
}

impl SourceQueue {
    /// The priorities that have entries, as a bit mask.
    pub fn filled(&self) -> u32 {
        self.filled
    }

    /// Appends a chunk. Returns whether the queue has grown enough to be [cleared of stale entries](Self::remove_stale).
    pub fn push(&mut self, priority: Priority, key: ChunkKey) -> bool {
        if !priority.is_queue() {
            return false;
        }
        let at = usize::from(priority.0);
        if self.queues.len() <= at {
            self.queues.resize_with(at + 1, PriorityQueue::default);
        }
        let Some(queue) = self.queues.get_mut(at) else { return false };
        queue.keys.push_back(key);
        self.filled |= 1 << priority.0;
        queue.keys.len() > STALE_REMOVAL_MIN.max(4 * queue.valid)
    }

    /// Takes the first entry of a priority.
    pub fn pop(&mut self, priority: Priority) -> Option<ChunkKey> {
        let queue = self.queues.get_mut(usize::from(priority.0))?;
        let key = queue.keys.pop_front();
        if queue.keys.is_empty() {
            self.filled &= !(1 << priority.0);
        }
        key
    }

    /// Removes stale and duplicate entries.
    pub fn remove_stale(&mut self, priority: Priority, is_valid: impl Fn(ChunkKey) -> bool) {
        let Some(queue) = self.queues.get_mut(usize::from(priority.0)) else { return };
        let mut seen = HashSet::new();
        queue.keys.retain(|key| is_valid(*key) && seen.insert(*key));
        queue.valid = queue.keys.len();
        if queue.keys.is_empty() {
            self.filled &= !(1 << priority.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_knows_its_priorities_with_entries() {
        let mut queue = SourceQueue::default();
        let key = |index| ChunkKey { file: 0, index };
        assert_eq!(queue.pop(Priority(3)), None);
        for index in [1, 2, 1] {
            assert!(!queue.push(Priority(3), key(index)));
        }
        assert_eq!(queue.filled(), 1 << 3);
        queue.remove_stale(Priority(3), |key| key.index == 1);
        assert_eq!(queue.pop(Priority(3)), Some(key(1)));
        assert_eq!((queue.pop(Priority(3)), queue.filled()), (None, 0));
    }

    #[test]
    fn stale_entries_are_removed_only_after_large_growth() {
        let mut queue = SourceQueue::default();
        let asks = (0..5_000).filter(|_| queue.push(Priority(0), ChunkKey { file: 0, index: 7 })).count();
        assert!(asks > 0);
        queue.remove_stale(Priority(0), |_| true);
        assert!(!queue.push(Priority(0), ChunkKey { file: 0, index: 7 }));
    }
}
