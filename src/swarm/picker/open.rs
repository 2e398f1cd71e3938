//! The chunks that are wanted and not on their way, by how rare they are.
//!
//! Invariant: a chunk is in one bucket at most, and where `places` says.

use crate::content::{Bitfield, ChunkIndex};

/// Open chunks by how many partial sources have them. Sources that have everything do not count: they make
/// every chunk less rare alike.
pub(super) struct Open {
    buckets: Vec<Vec<ChunkIndex>>,
    /// The bucket of each chunk and its place there; [`NOWHERE`] for a chunk that is not open.
    places: Vec<(u32, u32)>,
    pub(super) map: Bitfield,
}

/// So many chunks are looked at one by one sooner than all that are as rare as the rarest.
const FEW: usize = 64;
/// The place of a chunk that is not open.
const NOWHERE: (u32, u32) = (u32::MAX, u32::MAX);

impl Open {
    pub(super) fn new(count: u32) -> Self {
        Self { buckets: Vec::new(), places: vec![NOWHERE; count as usize], map: Bitfield::none(count) }
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
        let Some(place) = self.places.get_mut(index.at()).filter(|place| **place != NOWHERE) else {
            return false;
        };
        let (rarity, at) = std::mem::replace(place, NOWHERE);
        let bucket = &mut self.buckets[rarity as usize];
        bucket.swap_remove(at as usize);
        if let Some(moved) = bucket.get(at as usize) {
            self.places[moved.at()] = (rarity, at);
        }
        self.map.remove(index);
        true
    }

    pub(super) fn contains(&self, index: ChunkIndex) -> bool {
        self.rarity(index).is_some()
    }

    pub(super) fn rarity(&self, index: ChunkIndex) -> Option<u32> {
        self.places.get(index.at()).filter(|place| **place != NOWHERE).map(|(rarity, _)| *rarity)
    }

    /// The rarest chunk that `have` has and that is `allowed`, and how rare it is, among those that at least `least` have;
    /// among equals any.
    pub(super) fn rarest(
        &self,
        have: &Bitfield,
        least: usize,
        allowed: impl Fn(ChunkIndex) -> bool,
        random: &mut fastrand::Rng,
    ) -> Option<(u32, ChunkIndex)> {
        if self.map.common_count(have) <= FEW {
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
