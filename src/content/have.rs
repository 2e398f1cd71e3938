//! The have-map: a bit for each chunk, set when the chunk is there and verified.
//!
//! On the wire and on disk chunk `i` is bit `i % 8`, counted from the lowest, of byte `i / 8`.
//! Bits past the last chunk are 0.

use super::layout::ChunkIndex;
use fixedbitset::FixedBitSet;

/// Why bytes are not a have-map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HaveMapError {
    /// Not as many bytes as the chunks need.
    #[error("the have-map has {got} bytes, not {expected}")]
    Length {
        /// What the chunks need.
        expected: usize,
        /// What there is.
        got: usize,
    },
    /// A bit past the last chunk is set.
    #[error("the have-map names a chunk past the last one")]
    PastEnd,
}

/// Which chunks of a file are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HaveMap {
    bits: FixedBitSet,
    held: u32,
}

impl HaveMap {
    /// A map of `count` chunks, none of them there.
    pub fn none(count: u32) -> Self {
        Self { bits: FixedBitSet::with_capacity(count as usize), held: 0 }
    }

    /// A map of `count` chunks, all of them there.
    pub fn all(count: u32) -> Self {
        let mut map = Self::none(count);
        map.bits.insert_range(..);
        map.held = count;
        map
    }

    /// How many chunks the file has.
    pub fn count(&self) -> u32 {
        self.bits.len() as u32
    }

    /// How many chunks are there.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Whether every chunk is there.
    pub fn is_complete(&self) -> bool {
        self.held == self.count()
    }

    /// Whether a chunk is there; false for a chunk that the file does not have.
    pub fn has(&self, index: ChunkIndex) -> bool {
        self.bits.contains(index.at())
    }

    /// Notes that a chunk is there. Returns whether that is news; a chunk that the file does not have
    /// is ignored.
    pub fn insert(&mut self, index: ChunkIndex) -> bool {
        let news = index.at() < self.bits.len() && !self.bits.put(index.at());
        self.held += u32::from(news);
        news
    }

    /// Notes that a chunk is no longer there. Returns whether it was.
    pub fn remove(&mut self, index: ChunkIndex) -> bool {
        let there = self.has(index);
        if there {
            self.bits.remove(index.at());
            self.held -= 1;
        }
        there
    }

    /// Whether some chunk is in both.
    pub fn meets(&self, other: &HaveMap) -> bool {
        !self.bits.is_disjoint(&other.bits)
    }

    /// The chunks that are in both, in order.
    pub fn common<'a>(&'a self, other: &'a HaveMap) -> impl Iterator<Item = ChunkIndex> + 'a {
        self.bits.intersection(&other.bits).map(|at| ChunkIndex(at as u32))
    }

    /// How many chunks are in both.
    pub fn shared(&self, other: &HaveMap) -> usize {
        self.bits.intersection_count(&other.bits)
    }

    /// The chunks that are there, in order.
    pub fn iter(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        self.bits.ones().map(|at| ChunkIndex(at as u32))
    }

    /// The chunks that are not there, in order.
    pub fn missing(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        self.bits.zeroes().map(|at| ChunkIndex(at as u32))
    }

    /// How many bytes the map of `count` chunks takes.
    pub fn byte_length(count: u32) -> usize {
        (count as usize).div_ceil(8)
    }

    /// The map as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::byte_length(self.count())];
        for at in self.bits.ones() {
            bytes[at / 8] |= 1 << (at % 8);
        }
        bytes
    }

    /// Reads a map of `count` chunks back.
    ///
    /// # Errors
    /// Too few or too many bytes, or a bit past the end.
    pub fn from_bytes(count: u32, bytes: &[u8]) -> Result<Self, HaveMapError> {
        let expected = Self::byte_length(count);
        if bytes.len() != expected {
            return Err(HaveMapError::Length { expected, got: bytes.len() });
        }
        let mut map = Self::none(count);
        for at in 0..bytes.len() * 8 {
            if bytes[at / 8] >> (at % 8) & 1 == 1 && !map.insert(ChunkIndex(at as u32)) {
                return Err(HaveMapError::PastEnd);
            }
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_are_counted_from_the_lowest() {
        let mut map = HaveMap::none(10);
        assert!(map.insert(ChunkIndex(0)) && map.insert(ChunkIndex(9)));
        assert!(!map.insert(ChunkIndex(9)) && !map.insert(ChunkIndex(10)));
        assert_eq!(map.to_bytes(), [1, 2]);
        assert_eq!(map.held(), 2);
        assert!(map.remove(ChunkIndex(0)) && !map.remove(ChunkIndex(0)));
        assert_eq!(map.held(), 1);
        assert_eq!(map.missing().count(), 9);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let length = HaveMapError::Length { expected: 2, got: 1 };
        assert_eq!(HaveMap::from_bytes(10, &[0]), Err(length));
        assert_eq!(HaveMap::from_bytes(10, &[0, 4]), Err(HaveMapError::PastEnd));
        assert!(HaveMap::from_bytes(10, &[255, 3]).unwrap().is_complete());
        assert_eq!(HaveMap::all(10), HaveMap::from_bytes(10, &[255, 3]).unwrap());
    }

    proptest! {
        #[test]
        fn maps_survive_the_wire(held in prop::collection::vec(any::<bool>(), 1..300)) {
            let mut map = HaveMap::none(held.len() as u32);
            for (at, _) in held.iter().enumerate().filter(|(_, held)| **held) {
                map.insert(ChunkIndex(at as u32));
            }
            prop_assert_eq!(map.held() as usize, map.iter().count());
            prop_assert_eq!(HaveMap::from_bytes(map.count(), &map.to_bytes()), Ok(map));
        }
    }
}
