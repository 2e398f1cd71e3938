//! Open chunks (wanted, not verified, not in flight), grouped by rarity.
//!
//! Invariant: a chunk is in at most one bucket, at the position stored in `places`.

use crate::content::{Bitfield, ChunkIndex};

/// Open chunks by the number of partial sources that have them. Complete sources do not count: they add one
/// to the rarity of every chunk.
pub(super) struct Open {
    buckets: Vec<Vec<ChunkIndex>>,
    /// Priority and position of each chunk; [`NOT_OPEN`] for a chunk that is not open.
    places: Vec<(u32, u32)>,
    pub(super) map: Bitfield,
}

/// Up to this many common chunks are scanned one by one instead of bucket by bucket.
const SCAN_MAX: usize = 64;
/// Position of a chunk that is not open.
const NOT_OPEN: (u32, u32) = (u32::MAX, u32::MAX);

impl Open {
    pub(super) fn new(count: u32) -> Self {
        Self { buckets: Vec::new(), places: vec![NOT_OPEN; count as usize], map: Bitfield::none(count) }
    }

    pub(super) fn put(&mut self, index: ChunkIndex, rarity: u32) {
        self.take(index);
        let at = rarity as usize;
        if self.buckets.len() <= at {
            self.buckets.resize_with(at + 1, Vec::new);
        }
        self.places[index.at()] = (rarity, self.buckets[at].len() as u32);
        self.buckets[at].push(index);
        self.map.insert(index);
    }

    pub(super) fn take(&mut self, index: ChunkIndex) -> bool {
        let Some(place) = self.places.get_mut(index.at()).filter(|place| **place != NOT_OPEN) else {
            return false;
        };
        let (rarity, at) = std::mem::replace(place, NOT_OPEN);
        let bucket = &mut self.buckets[rarity as usize];
        bucket.swap_remove(at as usize);
        if let Some(moved) = bucket.get(at as usize) {
            self.places[moved.at()] = (rarity, at);
        }
        self.map.remove(index);
        true
    }

    /// Whether a partial source has an open chunk.
    pub(super) fn is_any_held(&self) -> bool {
        self.buckets.iter().skip(1).any(|bucket| !bucket.is_empty())
    }

    pub(super) fn contains(&self, index: ChunkIndex) -> bool {
        self.rarity(index).is_some()
    }

    pub(super) fn rarity(&self, index: ChunkIndex) -> Option<u32> {
        self.places.get(index.at()).filter(|place| **place != NOT_OPEN).map(|(rarity, _)| *rarity)
    }

    /// The rarest chunk that `have` contains, that is `allowed` and that at least `least` partial sources
    /// have, with its rarity. Ties are broken at random.
    pub(super) fn rarest(
        &self,
        have: &Bitfield,
        least: usize,
        allowed: impl Fn(ChunkIndex) -> bool,
        random: &mut fastrand::Rng,
    ) -> Option<(u32, ChunkIndex)> {
        if self.map.common_count(have) <= SCAN_MAX {
            let rarity = |index: &ChunkIndex| self.places[index.at()].0;
            let few =
                self.map.common(have).filter(|index| rarity(index) as usize >= least && allowed(*index));
            let rarest = few.min_by_key(|index| (rarity(index), random.u32(..)));
            return rarest.map(|index| (rarity(&index), index));
        }
        let buckets = self.buckets.iter().enumerate().skip(least).filter(|(_, bucket)| !bucket.is_empty());
        buckets.into_iter().find_map(|(rarity, bucket)| {
            let start = random.usize(..bucket.len());
            let around = bucket[start..].iter().chain(&bucket[..start]);
            let found = around.copied().find(|index| have.has(*index) && allowed(*index));
            found.map(|index| (rarity as u32, index))
        })
    }
}
