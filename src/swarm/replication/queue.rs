//! The chunks that wait for a copy, by who could give it and how scarce they are.
//!
//! Each source has queues of its own, so that a source that is free finds work without looking at what others have to
//! give. A chunk stands in the queues of all its sources, in the bucket that it says itself; an entry of which that
//! is not true any more is thrown away when it is met. So nothing has to be searched for and taken out.

use super::bucket::{BUCKETS, Bucket, LEVELS};
use super::chunk::{Chunk, Key};
use std::collections::{HashSet, VecDeque};

/// Below this many entries a bucket is never cleared of what is not true any more.
const CLEAR_MIN: usize = 4_096;

impl Bucket {
    /// Where a chunk that is short belongs.
    pub fn of(chunk: &Chunk, at_tracker: bool) -> Self {
        let weights = chunk.weights;
        let copies = weights.live.saturating_add(weights.leaving).saturating_add(weights.coming);
        let level = copies.min(LEVELS - 1);
        match (at_tracker, chunk.full, chunk.placed) {
            (false, true, _) => Bucket(2 * level),
            (false, false, _) => Bucket(2 * level + 1),
            (true, true, _) => Bucket(2 * LEVELS + 3 * level),
            (true, false, true) => Bucket(2 * LEVELS + 3 * level + 1),
            (true, false, false) => Bucket(2 * LEVELS + 3 * level + 2),
        }
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Bucket::NONE
    }
}

/// How many chunks wait in each bucket.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Queued([u32; BUCKETS as usize]);

impl Queued {
    /// A chunk goes from one bucket to another.
    pub fn move_one(&mut self, from: Bucket, to: Bucket) {
        if let Some(count) = self.0.get_mut(usize::from(from.0)) {
            *count = count.saturating_sub(1);
        }
        if let Some(count) = self.0.get_mut(usize::from(to.0)) {
            *count += 1;
        }
    }

    /// Whether any chunk waits in a bucket.
    pub fn any(&self, bucket: Bucket) -> bool {
        self.0.get(usize::from(bucket.0)).is_some_and(|count| *count > 0)
    }
}

#[derive(Default, Debug)]
struct Line {
    keys: VecDeque<Key>,
    /// How many were left when it was cleared last.
    cleared: usize,
}

/// What one source could give.
#[derive(Default, Debug)]
pub(super) struct Queue {
    lines: Vec<Line>,
    /// A bit for each bucket that is not empty.
    filled: u32,
}

impl Queue {
    /// Which buckets have entries: a bit for each.
    pub fn filled(&self) -> u32 {
        self.filled
    }

    /// Puts a chunk at the end of a bucket. Returns whether the bucket has so many entries that it had better be
    /// [cleared](Self::clear).
    pub fn push(&mut self, bucket: Bucket, key: Key) -> bool {
        if !bucket.is_queue() {
            return false;
        }
        let at = usize::from(bucket.0);
        if self.lines.len() <= at {
            self.lines.resize_with(at + 1, Line::default);
        }
        let Some(line) = self.lines.get_mut(at) else { return false };
        line.keys.push_back(key);
        self.filled |= 1 << bucket.0;
        line.keys.len() > CLEAR_MIN.max(4 * line.cleared)
    }

    /// Takes the first entry of a bucket.
    pub fn pop(&mut self, bucket: Bucket) -> Option<Key> {
        let line = self.lines.get_mut(usize::from(bucket.0))?;
        let key = line.keys.pop_front();
        if line.keys.is_empty() {
            self.filled &= !(1 << bucket.0);
        }
        key
    }

    /// Throws away entries that are not true any more, or are there twice.
    pub fn clear(&mut self, bucket: Bucket, holds: impl Fn(Key) -> bool) {
        let Some(line) = self.lines.get_mut(usize::from(bucket.0)) else { return };
        let mut met = HashSet::new();
        line.keys.retain(|key| holds(*key) && met.insert(*key));
        line.cleared = line.keys.len();
        if line.keys.is_empty() {
            self.filled &= !(1 << bucket.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(live: u8, full: bool, placed: bool) -> Chunk {
        let weights = super::super::chunk::Weights { live, ..Default::default() };
        Chunk { weights, full, placed, ..Chunk::default() }
    }

    #[test]
    fn the_scarcest_come_first_and_those_that_only_volunteers_have_before_all() {
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
        let buckets: Vec<Bucket> = order.iter().map(|(chunk, own)| Bucket::of(chunk, *own)).collect();
        assert!(buckets.is_sorted(), "{buckets:?}");
        for ((chunk, _), bucket) in order.iter().zip(buckets) {
            assert!(bucket.is_queue());
            assert_eq!(bucket.is_repair(), chunk.full, "{bucket:?}");
            assert_eq!(bucket.is_first(), !chunk.placed, "{bucket:?}");
        }
        for other in [Bucket::NONE, Bucket::PARKED, Bucket::RESTING] {
            assert!(!other.is_queue() && !other.is_repair() && !other.is_first());
        }
    }

    #[test]
    fn a_queue_knows_which_buckets_have_something() {
        let mut queue = Queue::default();
        let key = |index| Key { file: 0, index };
        assert_eq!(queue.pop(Bucket(3)), None);
        for index in [1, 2, 1] {
            assert!(!queue.push(Bucket(3), key(index)));
        }
        assert_eq!(queue.filled(), 1 << 3);
        queue.clear(Bucket(3), |key| key.index == 1);
        assert_eq!(queue.pop(Bucket(3)), Some(key(1)));
        assert_eq!((queue.pop(Bucket(3)), queue.filled()), (None, 0));
    }

    #[test]
    fn a_bucket_asks_to_be_cleared_only_when_it_has_grown_by_much() {
        let mut queue = Queue::default();
        let asks = (0..5_000).filter(|_| queue.push(Bucket(0), Key { file: 0, index: 7 })).count();
        assert!(asks > 0);
        queue.clear(Bucket(0), |_| true);
        assert!(!queue.push(Bucket(0), Key { file: 0, index: 7 }));
    }
}
