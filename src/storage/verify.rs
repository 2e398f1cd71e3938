//! Choice of the chunks that are hashed again before data from an earlier run is used.

use crate::content::limits::VERIFY_SAMPLE_COUNT;
use crate::content::{Bitfield, ChunkIndex};

/// How many of the chunks already on disk are hashed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// All chunks.
    Full,
    /// A random sample of [`VERIFY_SAMPLE_COUNT`] chunks.
    Sample,
    /// None: a complete file is accepted by its size, a part file by its resume file.
    None,
}

impl Verify {
    /// The chunks of a bitmap to hash, in ascending order.
    pub(super) fn choose(self, of: &Bitfield) -> Vec<ChunkIndex> {
        let mut chunks: Vec<ChunkIndex> = of.iter().collect();
        match self {
            Verify::Full => {}
            Verify::Sample => {
                fastrand::shuffle(&mut chunks);
                chunks.truncate(VERIFY_SAMPLE_COUNT);
                chunks.sort_unstable();
            }
            Verify::None => chunks.clear(),
        }
        chunks
    }
}

/// Progress and stop callbacks of a verification.
#[derive(Clone, Copy)]
pub struct VerifyCallbacks<'a> {
    /// Receives the number of bytes to be read. Called again if a sample finds a bad chunk and all
    /// chunks are to be read.
    pub begin: &'a dyn Fn(u64),
    /// Receives the number of bytes just hashed; called from any thread.
    pub hashed: &'a (dyn Fn(u64) + Sync),
    /// Whether to stop; polled at least every 1 MiB.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

#[cfg(test)]
impl VerifyCallbacks<'_> {
    /// Reports no progress and never stops.
    pub(crate) const NONE: VerifyCallbacks<'static> =
        VerifyCallbacks { begin: &|_| (), hashed: &|_| (), stop: &|| false };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_random_sorted_subset_of_the_chunks_on_disk() {
        let mut have = Bitfield::none(1_000);
        (500..1_000).for_each(|index| _ = have.insert(ChunkIndex(index)));
        assert_eq!(Verify::Full.choose(&have).len(), 500);
        assert_eq!(Verify::None.choose(&have), []);
        let sample = Verify::Sample.choose(&have);
        assert_eq!(sample.len(), VERIFY_SAMPLE_COUNT);
        assert!(sample.is_sorted() && sample.iter().all(|index| have.has(*index)));
        assert_ne!(sample, Verify::Sample.choose(&have));
        assert_eq!(Verify::Sample.choose(&Bitfield::all(3)).len(), 3);
    }
}
