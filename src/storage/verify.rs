//! How much of what is there already is read again before it counts.

use crate::content::limits::VERIFY_SAMPLE;
use crate::content::{ChunkIndex, HaveMap};

/// How much of what is there already is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// All of it.
    Full,
    /// A random sample of [`VERIFY_SAMPLE`] chunks.
    Sample,
    /// Nothing: the size of a finished file, and what the have-maps vouch for, are believed.
    None,
}

impl Verify {
    /// Which of some chunks to hash, rising.
    pub(super) fn choose(self, of: &HaveMap) -> Vec<ChunkIndex> {
        let mut chunks: Vec<ChunkIndex> = of.iter().collect();
        match self {
            Verify::Full => {}
            Verify::Sample => {
                fastrand::shuffle(&mut chunks);
                chunks.truncate(VERIFY_SAMPLE);
                chunks.sort_unstable();
            }
            Verify::None => chunks.clear(),
        }
        chunks
    }
}

/// Who looks on while what is there is read again.
#[derive(Clone, Copy)]
pub struct VerifyCallbacks<'a> {
    /// So many bytes are to be read. Said again when a sample was not enough.
    pub begin: &'a dyn Fn(u64),
    /// So many more have been, called on any thread.
    pub hashed: &'a (dyn Fn(u64) + Sync),
    /// Polled at least every 1 MiB: whether to stop.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

#[cfg(test)]
impl VerifyCallbacks<'_> {
    /// Nobody does, and nobody stops it.
    pub(crate) const NONE: VerifyCallbacks<'static> =
        VerifyCallbacks { begin: &|_| (), hashed: &|_| (), stop: &|| false };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_some_of_what_is_there() {
        let mut have = HaveMap::none(1_000);
        (500..1_000).for_each(|index| _ = have.insert(ChunkIndex(index)));
        assert_eq!(Verify::Full.choose(&have).len(), 500);
        assert_eq!(Verify::None.choose(&have), []);
        let sample = Verify::Sample.choose(&have);
        assert_eq!(sample.len(), VERIFY_SAMPLE);
        assert!(sample.is_sorted() && sample.iter().all(|index| have.has(*index)));
        assert_ne!(sample, Verify::Sample.choose(&have));
        assert_eq!(Verify::Sample.choose(&HaveMap::all(3)).len(), 3);
    }
}
