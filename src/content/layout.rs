//! Chunk arithmetic: the offset and length of each chunk of a file.
//!
//! No other module computes offsets, lengths or chunk counts. Invariant: the spans of chunks `0..count`
//! are contiguous, do not overlap, and end at `size`.

use super::limits;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Index of a chunk in its file, counted from 0.
/// Displayed, and written in `local_chunks.txt`, as a [`number`](Self::number) counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChunkIndex(pub u32);

impl ChunkIndex {
    /// The index of a chunk number counted from 1; `None` for 0.
    pub fn from_number(number: u32) -> Option<Self> {
        number.checked_sub(1).map(ChunkIndex)
    }
    /// The chunk number, counted from 1.
    pub fn number(self) -> u64 {
        u64::from(self.0) + 1
    }
    /// The index as a `usize`, for slices.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

/// Byte range of a chunk in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSpan {
    /// Start of the chunk, bytes from the start of the file.
    pub offset: u64,
    /// Length of the chunk, bytes.
    pub length: u64,
}

/// Sizes that are not a valid layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The chunk size is not a power of two within the limits.
    #[error("chunk size {0} is not a power of two from {min} to {max} bytes",
        min = limits::CHUNK_SIZE_MIN, max = limits::CHUNK_SIZE_MAX)]
    ChunkSize(u64),
    /// More chunks than [`limits::CHUNKS_MAX`].
    #[error("{0} chunks are more than {max}; use larger chunks", max = limits::CHUNKS_MAX)]
    TooMany(u64),
    /// A chunk of a set is larger than [`limits::CHUNK_SIZE_MAX`], so that it is not received in memory.
    #[error("chunk {0} is larger than {max} bytes: it is not kept in memory until it is verified; download it to a file \
        (--out FILE)", max = limits::CHUNK_SIZE_MAX)]
    ChunkTooLarge(ChunkIndex),
    /// The chunks add up to more than [`limits::FILE_SIZE_MAX`].
    #[error("the chunks add up to more than {max} bytes", max = limits::FILE_SIZE_MAX)]
    TooLarge,
    /// A chunk set without chunks.
    #[error("the chunk set has no chunks")]
    Empty,
}

/// Division of a file into chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Layout {
    /// Chunks of equal size; the last one may be shorter. An empty file has one empty chunk.
    Even {
        /// Size of the file, bytes.
        size: u64,
        /// Size of each chunk except the last, bytes.
        chunk_size: u32,
    },
    /// Chunks of unequal length, as in chunk folders.
    Uneven {
        /// `count + 1` offsets in bytes: the start of each chunk, then the file size. Starts at 0, never
        /// decreases.
        offsets: Vec<u64>,
    },
}

impl Layout {
    /// A layout of equal chunks of `chunk_size` bytes.
    ///
    /// With `None`, the chunk size is a function of the size alone: the largest power of two with which the file has at
    /// least half of [`limits::DEFAULT_CHUNKS_MIN`] chunks, from [`limits::CHUNK_SIZE`] to [`limits::CHUNK_SIZE_LARGE`];
    /// above, it is doubled until the file has at most [`limits::DEFAULT_CHUNKS_MAX`] chunks.
    ///
    /// # Errors
    /// The chunk size is not a power of two within the limits, or the file has too many chunks.
    pub fn even(size: u64, chunk_size: Option<u32>) -> Result<Self, LayoutError> {
        let chunk_size = chunk_size.unwrap_or_else(|| default_chunk_size(size));
        let allowed = limits::CHUNK_SIZE_MIN..=limits::CHUNK_SIZE_MAX;
        if !chunk_size.is_power_of_two() || !allowed.contains(&chunk_size) {
            return Err(LayoutError::ChunkSize(chunk_size.into()));
        }
        match size.div_ceil(chunk_size.into()) {
            count if count > limits::CHUNKS_MAX.into() => Err(LayoutError::TooMany(count)),
            _ => Ok(Layout::Even { size, chunk_size }),
        }
    }

    /// A layout of chunks of the given lengths, bytes.
    ///
    /// # Errors
    /// There is no chunk, there are too many, or they add up to more than [`limits::FILE_SIZE_MAX`].
    pub fn uneven(lengths: impl IntoIterator<Item = u64>) -> Result<Self, LayoutError> {
        let mut offsets = vec![0u64];
        let mut end = 0u64;
        for (index, length) in (0u32..).zip(lengths) {
            if index >= limits::CHUNKS_MAX {
                return Err(LayoutError::TooMany(u64::from(index) + 1));
            }
            let sum = end.checked_add(length).filter(|sum| *sum <= limits::FILE_SIZE_MAX);
            end = sum.ok_or(LayoutError::TooLarge)?;
            offsets.push(end);
        }
        match offsets.len() {
            1 => Err(LayoutError::Empty),
            _ => Ok(Layout::Uneven { offsets }),
        }
    }

    /// Size of the file, bytes.
    pub fn size(&self) -> u64 {
        match self {
            Layout::Even { size, .. } => *size,
            Layout::Uneven { offsets } => offsets.last().copied().unwrap_or(0),
        }
    }

    /// Size of each chunk except the last, bytes; 0 for unequal chunks.
    pub fn chunk_size(&self) -> u32 {
        match self {
            Layout::Even { chunk_size, .. } => *chunk_size,
            Layout::Uneven { .. } => 0,
        }
    }

    /// Number of chunks, at least 1.
    pub fn count(&self) -> u32 {
        match self {
            // The constructor limits the count to CHUNKS_MAX, so that it fits in a u32.
            Layout::Even { size, chunk_size } => size.div_ceil(u64::from(*chunk_size)).max(1) as u32,
            Layout::Uneven { offsets } => (offsets.len() - 1) as u32,
        }
    }

    /// Byte range of a chunk; `None` past the last chunk.
    pub fn span(&self, index: ChunkIndex) -> Option<ChunkSpan> {
        if index.0 >= self.count() {
            return None;
        }
        let (offset, end) = match self {
            Layout::Even { size, chunk_size } => {
                let offset = u64::from(index.0) * u64::from(*chunk_size);
                (offset, (offset + u64::from(*chunk_size)).min(*size))
            }
            Layout::Uneven { offsets } => (offsets[index.at()], offsets[index.at() + 1]),
        };
        Some(ChunkSpan { offset, length: end - offset })
    }

    /// Length of the longest chunk, bytes.
    pub fn longest(&self) -> u64 {
        match self {
            Layout::Even { size, chunk_size } => (*size).min((*chunk_size).into()),
            Layout::Uneven { offsets } => offsets.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0),
        }
    }

    /// Checks that each chunk can be received in memory, as in a download to a stream.
    ///
    /// # Errors
    /// [`LayoutError::ChunkTooLarge`].
    pub fn check_fits_memory(&self) -> Result<(), LayoutError> {
        let is_large = |index: &ChunkIndex| {
            self.span(*index).is_some_and(|span| span.length > limits::CHUNK_SIZE_MAX.into())
        };
        match self.longest() > limits::CHUNK_SIZE_MAX.into() {
            true => {
                self.indices().find(is_large).map_or(Ok(()), |index| Err(LayoutError::ChunkTooLarge(index)))
            }
            false => Ok(()),
        }
    }

    /// All chunk indices in ascending order.
    pub fn indices(&self) -> impl Iterator<Item = ChunkIndex> + use<> {
        (0..self.count()).map(ChunkIndex)
    }
}

fn default_chunk_size(size: u64) -> u32 {
    let wanted = size.div_ceil(limits::DEFAULT_CHUNKS_MIN).min(limits::CHUNK_SIZE_LARGE.into()) as u32;
    let mut chunk_size = wanted.next_power_of_two().max(limits::CHUNK_SIZE);
    while chunk_size < limits::CHUNK_SIZE_MAX && size.div_ceil(chunk_size.into()) > limits::DEFAULT_CHUNKS_MAX
    {
        chunk_size *= 2;
    }
    chunk_size
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spans(layout: &Layout) -> Vec<ChunkSpan> {
        layout.indices().map(|index| layout.span(index).unwrap()).collect()
    }

    #[test]
    fn an_empty_file_has_one_empty_chunk() {
        let layout = Layout::even(0, None).unwrap();
        assert_eq!(spans(&layout), [ChunkSpan { offset: 0, length: 0 }]);
        assert_eq!(layout.longest(), 0);
    }

    #[test]
    fn the_last_chunk_holds_the_remainder() {
        let chunk = u64::from(limits::CHUNK_SIZE);
        for (size, count, last) in [
            (1, 1, 1),
            (chunk - 1, 1, chunk - 1),
            (chunk, 1, chunk),
            (chunk + 1, 2, 1),
            (3 * chunk, 3, chunk),
        ] {
            let layout = Layout::even(size, None).unwrap();
            assert_eq!(layout.count(), count, "{size}");
            assert_eq!(spans(&layout).last().unwrap().length, last, "{size}");
        }
    }

    #[test]
    fn the_default_chunk_size_grows_with_the_file() {
        let chunk_size = |size| Layout::even(size, None).unwrap().chunk_size();
        let largest = u64::from(limits::CHUNK_SIZE_LARGE) * limits::DEFAULT_CHUNKS_MAX;
        let sizes = [0, 1, 256 << 20, (256 << 20) + 1, 512 << 20, 1 << 30, (1 << 30) + 1, 10 << 30];
        assert_eq!(sizes.map(|size| chunk_size(size) >> 10), [64, 64, 64, 128, 128, 256, 512, 512]);
        assert_eq!(chunk_size(largest), limits::CHUNK_SIZE_LARGE);
        assert_eq!(chunk_size(largest + 1), 2 * limits::CHUNK_SIZE_LARGE);
        assert_eq!(chunk_size(1 << 40), 16 * 1024 * 1024);
        assert_eq!(chunk_size(1 << 43), limits::CHUNK_SIZE_MAX);
    }

    #[test]
    fn chunk_sizes_out_of_range_are_refused() {
        for bad in [0, 1, 8 * 1024, 20_000, 512 * 1024 - 1, 128 * 1024 * 1024] {
            assert_eq!(Layout::even(1, Some(bad)), Err(LayoutError::ChunkSize(bad.into())));
        }
        assert!(matches!(Layout::even(1 << 40, Some(16 * 1024)), Err(LayoutError::TooMany(_))));
        assert!(Layout::even(u64::MAX, None).is_err());
        assert_eq!(Layout::uneven([]), Err(LayoutError::Empty));
        let large = Layout::uneven([1, 5 << 30, 7 << 40, 2]).unwrap();
        assert_eq!(large.size(), (5 << 30) + (7 << 40) + 3);
        assert_eq!(large.longest(), 7 << 40);
        assert_eq!(large.check_fits_memory(), Err(LayoutError::ChunkTooLarge(ChunkIndex(1))));
        assert_eq!(Layout::uneven([1, limits::CHUNK_SIZE_MAX.into()]).unwrap().check_fits_memory(), Ok(()));
    }

    #[test]
    fn sizes_that_no_file_can_have_are_refused() {
        let max = limits::FILE_SIZE_MAX;
        assert_eq!(Layout::uneven([max - 1, 1]).map(|layout| layout.size()), Ok(max));
        assert_eq!(Layout::uneven([max, 1]), Err(LayoutError::TooLarge));
        assert_eq!(Layout::uneven([1, u64::MAX]), Err(LayoutError::TooLarge));
    }

    proptest! {
        #[test]
        fn even_spans_tile_the_file(size in 0u64..1 << 33, power in 14u32..=26) {
            let layout = Layout::even(size, Some(1 << power)).unwrap();
            let mut end = 0;
            for span in spans(&layout) {
                prop_assert_eq!(span.offset, end);
                prop_assert!(span.length <= layout.longest());
                end += span.length;
            }
            prop_assert_eq!(end, size);
            prop_assert_eq!(layout.span(ChunkIndex(layout.count())), None);
        }

        #[test]
        fn uneven_spans_have_the_given_lengths(lengths in prop::collection::vec(0u64..1 << 40, 1..50)) {
            let layout = Layout::uneven(lengths.iter().copied()).unwrap();
            let got: Vec<u64> = spans(&layout).iter().map(|span| span.length).collect();
            prop_assert_eq!(layout.size(), lengths.iter().sum::<u64>());
            prop_assert_eq!(layout.longest(), lengths.iter().copied().max().unwrap());
            prop_assert_eq!(got, lengths);
        }
    }
}
