//! Chunks with which the folder began, compared with the agreed hashes: another set may have the name of this one.
//!
//! While at least two of them are known, one differs from its agreed hash, and none agrees, the folder is left as it is.

use crate::content::{ChunkIndex, Digest};
use std::collections::{BTreeMap, BTreeSet};

/// Fewest chunks that can show that another set has the name: a single chunk may be corrupt.
const EVIDENCE_MIN: usize = 2;

/// The chunks, and those of them whose agreed hash is known.
pub(super) struct OwnChunks {
    digests: BTreeMap<ChunkIndex, Digest>,
    agreeing: BTreeSet<ChunkIndex>,
    differing: BTreeSet<ChunkIndex>,
}

impl OwnChunks {
    pub(super) fn new(chunks: impl IntoIterator<Item = (ChunkIndex, Digest)>) -> Self {
        let digests = chunks.into_iter().collect();
        Self { digests, agreeing: BTreeSet::new(), differing: BTreeSet::new() }
    }

    /// Whether a chunk is the only one.
    pub(super) fn is_only(&self, index: ChunkIndex) -> bool {
        self.digests.len() == 1 && self.digests.contains_key(&index)
    }

    /// Records the agreed hash of a chunk. Returns whether it ends the suspicion that another set has the name.
    pub(super) fn record(&mut self, index: ChunkIndex, agreed: Digest) -> bool {
        let Some(digest) = self.digests.get(&index) else { return false };
        let was_suspected = self.is_other_set_suspected();
        let (to, from) = match *digest == agreed {
            true => (&mut self.agreeing, &mut self.differing),
            false => (&mut self.differing, &mut self.agreeing),
        };
        from.remove(&index);
        to.insert(index);
        was_suspected && !self.is_other_set_suspected()
    }

    /// Whether one of at least two chunks differs from its agreed hash, and none agrees.
    pub(super) fn is_other_set_suspected(&self) -> bool {
        self.digests.len() >= EVIDENCE_MIN && !self.differing.is_empty() && self.agreeing.is_empty()
    }

    /// Whether each of at least two chunks differs from its agreed hash.
    pub(super) fn is_other_set(&self) -> bool {
        self.digests.len() >= EVIDENCE_MIN && self.differing.len() == self.digests.len()
    }

    /// The chunks whose agreed hash is not known.
    pub(super) fn unknown(&self) -> Vec<ChunkIndex> {
        let is_known = |index: &ChunkIndex| self.agreeing.contains(index) || self.differing.contains(index);
        self.digests.keys().copied().filter(|index| !is_known(index)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_set_is_suspected_until_one_chunk_agrees() {
        let (own, other) = (Digest::of(b"own"), Digest::of(b"other"));
        let [first, second, third] = [0, 1, 2].map(ChunkIndex);
        let mut chunks = OwnChunks::new([(first, own), (second, own)]);
        assert!(!chunks.is_other_set_suspected());
        assert!(!chunks.record(third, other) && !chunks.is_other_set_suspected(), "not an own chunk");
        assert!(!chunks.record(first, other) && chunks.is_other_set_suspected() && !chunks.is_other_set());
        assert_eq!(chunks.unknown(), [second]);
        assert!(!chunks.record(second, other) && chunks.is_other_set());
        assert!(chunks.record(second, own), "the agreement has changed");
        assert!(!chunks.is_other_set_suspected() && !chunks.is_other_set() && chunks.unknown().is_empty());
        assert!(!chunks.record(first, other) && !chunks.is_other_set_suspected());
    }

    #[test]
    fn one_chunk_alone_may_be_corrupt() {
        let mut chunks = OwnChunks::new([(ChunkIndex(0), Digest::of(b"own"))]);
        chunks.record(ChunkIndex(0), Digest::of(b"other"));
        assert!(!chunks.is_other_set_suspected() && !chunks.is_other_set());
        assert!(chunks.is_only(ChunkIndex(0)) && !chunks.is_only(ChunkIndex(1)));
    }
}
