//! Bitfield: one bit for each chunk of a file, set if the chunk is held and verified.
//!
//! As bytes (on the wire and on disk), chunk `i` is bit `i % 8`, counted from the least significant, of
//! byte `i / 8`. Bits past the last chunk are 0. Invariant: `held` is the number of set bits.

use super::layout::ChunkIndex;
use fixedbitset::FixedBitSet;

/// Bytes that are not a bitfield of the expected number of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BitfieldError {
    /// Too few or too many bytes for the number of chunks.
    #[error("the bitfield has {got} bytes, expected {expected}")]
    Length {
        /// Bytes that the number of chunks requires.
        expected: usize,
        /// Bytes received.
        got: usize,
    },
    /// A bit past the last chunk is set.
    #[error("the bitfield sets a bit past the last chunk")]
    PastEnd,
}

/// The chunks of a file that a peer holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bitfield {
    bits: FixedBitSet,
    held: u32,
}

impl Bitfield {
    /// A bitfield of `count` chunks, none of them held.
    pub fn none(count: u32) -> Self {
        Self { bits: FixedBitSet::with_capacity(count as usize), held: 0 }
    }

    /// A bitfield of `count` chunks, all of them held.
    pub fn all(count: u32) -> Self {
        let mut map = Self::none(count);
        map.bits.insert_range(..);
        map.held = count;
        map
    }

    /// Number of chunks of the file.
    pub fn count(&self) -> u32 {
        self.bits.len() as u32
    }

    /// Number of chunks held.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Whether every chunk is held.
    pub fn is_complete(&self) -> bool {
        self.held == self.count()
    }

    /// Whether a chunk is held; false for an index past the last chunk.
    pub fn has(&self, index: ChunkIndex) -> bool {
        self.bits.contains(index.at())
    }

    /// Marks a chunk as held. Returns true if it was not held before.
    /// An index past the last chunk is ignored and returns false.
    pub fn insert(&mut self, index: ChunkIndex) -> bool {
        let added = index.at() < self.bits.len() && !self.bits.put(index.at());
        self.held += u32::from(added);
        added
    }

    /// Marks a chunk as missing. Returns true if it was held before.
    pub fn remove(&mut self, index: ChunkIndex) -> bool {
        let removed = self.has(index);
        if removed {
            self.bits.remove(index.at());
            self.held -= 1;
        }
        removed
    }

    /// Whether at least one chunk is held in both bitfields.
    pub fn intersects(&self, other: &Bitfield) -> bool {
        !self.bits.is_disjoint(&other.bits)
    }

    /// The chunks held in both bitfields, in ascending order.
    pub fn common<'a>(&'a self, other: &'a Bitfield) -> impl Iterator<Item = ChunkIndex> + 'a {
        self.bits.intersection(&other.bits).map(|at| ChunkIndex(at as u32))
    }

    /// Number of chunks held in both bitfields.
    pub fn common_count(&self, other: &Bitfield) -> usize {
        self.bits.intersection_count(&other.bits)
    }

    /// The chunks held, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        self.bits.ones().map(|at| ChunkIndex(at as u32))
    }

    /// The chunks not held, in ascending order.
    pub fn missing(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        self.bits.zeroes().map(|at| ChunkIndex(at as u32))
    }

    /// Length of a bitfield of `count` chunks, bytes.
    pub fn byte_length(count: u32) -> usize {
        (count as usize).div_ceil(8)
    }

    /// Encodes the bitfield as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; Self::byte_length(self.count())];
        for at in self.bits.ones() {
            bytes[at / 8] |= 1 << (at % 8);
        }
        bytes
    }

    /// Decodes a bitfield of `count` chunks.
    ///
    /// # Errors
    /// Too few or too many bytes, or a bit set past the last chunk.
    pub fn from_bytes(count: u32, bytes: &[u8]) -> Result<Self, BitfieldError> {
        let expected = Self::byte_length(count);
        if bytes.len() != expected {
            return Err(BitfieldError::Length { expected, got: bytes.len() });
        }
        let mut map = Self::none(count);
        for at in 0..bytes.len() * 8 {
            if bytes[at / 8] >> (at % 8) & 1 == 1 && !map.insert(ChunkIndex(at as u32)) {
                return Err(BitfieldError::PastEnd);
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
    fn first_chunk_is_the_least_significant_bit() {
        let mut map = Bitfield::none(10);
        assert!(map.insert(ChunkIndex(0)) && map.insert(ChunkIndex(9)));
        assert!(!map.insert(ChunkIndex(9)) && !map.insert(ChunkIndex(10)));
        assert_eq!(map.to_bytes(), [1, 2]);
        assert_eq!(map.held(), 2);
        assert!(map.remove(ChunkIndex(0)) && !map.remove(ChunkIndex(0)));
        assert_eq!(map.held(), 1);
        assert_eq!(map.missing().count(), 9);
    }

    #[test]
    fn wrong_length_and_excess_bits_are_refused() {
        let length = BitfieldError::Length { expected: 2, got: 1 };
        assert_eq!(Bitfield::from_bytes(10, &[0]), Err(length));
        assert_eq!(Bitfield::from_bytes(10, &[0, 4]), Err(BitfieldError::PastEnd));
        assert!(Bitfield::from_bytes(10, &[255, 3]).unwrap().is_complete());
        assert_eq!(Bitfield::all(10), Bitfield::from_bytes(10, &[255, 3]).unwrap());
    }

    proptest! {
        #[test]
        fn encoding_and_decoding_preserve_a_bitfield(held in prop::collection::vec(any::<bool>(), 1..300)) {
            let mut map = Bitfield::none(held.len() as u32);
            for (at, _) in held.iter().enumerate().filter(|(_, held)| **held) {
                map.insert(ChunkIndex(at as u32));
            }
            prop_assert_eq!(map.held() as usize, map.iter().count());
            prop_assert_eq!(Bitfield::from_bytes(map.count(), &map.to_bytes()), Ok(map));
        }
    }
}
