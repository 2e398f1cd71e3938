//! Reading again what an earlier run left in a part file.
//!
//! Invariant: a chunk that turns out to be wrong is no longer named by any map on the disk when this returns, and one
//! that is taken in because it turned out to be right has been hashed.

use super::super::error::StoreError;
use super::super::hashing::{self, HashCallbacks};
use super::super::verify::{Verify, VerifyCallbacks};
use super::super::{disk, lock, resume_file};
use super::PartFile;
use crate::content::{ChunkIndex, HaveMap};
use rustix::fs::SeekFrom;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// What a check of a part file found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckResult {
    /// Chunks that a map named and that are not what they should be: they are fetched again.
    pub bad: u32,
    /// Chunks that no usable map named and that are as they should be: they need not be fetched.
    pub found: u32,
}

impl PartFile {
    /// Whether a have-map is there that is torn or belongs to another file, so that only reading the part file can
    /// tell what is in it.
    pub fn needs_full_check(&self) -> bool {
        self.doubtful
    }

    /// Reads what an earlier run left: with [`Verify::None`] nothing, unless the part file
    /// [is doubtful](Self::needs_full_check); with [`Verify::Sample`] a few chunks, and all when one of them is bad. A
    /// check of all also finds what no map vouches for. To be called before anything is stored.
    ///
    /// # Errors
    /// The file cannot be read, the maps cannot be written, or [`StoreError::Stopped`].
    pub fn check(&self, verify: Verify, watch: VerifyCallbacks<'_>) -> Result<CheckResult, StoreError> {
        let (have, _) = self.progress.have();
        let sample = match (self.doubtful, verify) {
            (true, _) | (false, Verify::Full) => None,
            (false, Verify::Sample | Verify::None) => Some(verify.choose(&have)),
        };
        if let Some(sample) = sample
            && self.right_ones(&sample, watch)?.len() == sample.len()
        {
            return Ok(CheckResult::default());
        }
        let there = self.with_data();
        let right = self.right_ones(&there, watch)?;
        let mut checked = HaveMap::none(have.count());
        right.into_iter().for_each(|index| _ = checked.insert(index));
        let bad: Vec<ChunkIndex> = have.iter().filter(|index| !checked.has(*index)).collect();
        let found: Vec<ChunkIndex> = checked.iter().filter(|index| !have.has(*index)).collect();
        bad.iter().for_each(|index| _ = self.progress.remove(*index));
        found.iter().for_each(|index| _ = self.progress.add(*index));
        self.resumed.store(self.bytes_of(&checked), Relaxed);
        if self.doubtful || !bad.is_empty() || !found.is_empty() {
            self.rewrite_maps()?;
        }
        Ok(CheckResult { bad: bad.len() as u32, found: found.len() as u32 })
    }

    /// The chunks among these that are what the manifest says.
    fn right_ones(
        &self,
        chunks: &[ChunkIndex],
        watch: VerifyCallbacks<'_>,
    ) -> Result<Vec<ChunkIndex>, StoreError> {
        let length = |index: &ChunkIndex| super::length_of(&self.manifest, *index);
        if !chunks.is_empty() {
            (watch.begin)(chunks.iter().map(length).sum());
        }
        let watch = HashCallbacks { hashed: watch.hashed, stop: watch.stop };
        let (layout, right) = (self.manifest.layout(), Mutex::new(Vec::new()));
        hashing::hash_chunks(&self.file, &self.paths.part, layout, chunks, watch, &|index, digest| {
            if self.manifest.digest(index) == Some(digest) {
                lock(&right).push(index);
            }
            true
        })?;
        Ok(std::mem::take(&mut *lock(&right)))
    }

    /// The chunks that the file has any data for: what was never written takes no time. What was named by a map
    /// is among them even if it is all zeros, which take up no room.
    fn with_data(&self) -> Vec<ChunkIndex> {
        let (layout, (have, _)) = (self.manifest.layout(), self.progress.have());
        let mut data = None;
        let has_data = |index: &ChunkIndex| {
            let Some(span) = layout.span(*index) else { return false };
            if have.has(*index) {
                return true;
            }
            if data.is_none_or(|data| data < span.offset) {
                // Past the last data there is none; where the system cannot say, everything may be data.
                let next = match rustix::fs::seek(&*self.file, SeekFrom::Data(span.offset)) {
                    Ok(next) => next,
                    Err(rustix::io::Errno::NXIO) => u64::MAX,
                    Err(_) => span.offset,
                };
                data = Some(next);
            }
            data.is_some_and(|data| data < span.offset + u64::from(span.length))
        };
        layout.indices().filter(has_data).collect()
    }

    /// Makes the maps on the disk say what is there now, and nothing else.
    fn rewrite_maps(&self) -> Result<(), StoreError> {
        let (have, _) = self.progress.have();
        if have.held() == 0 {
            self.paths.remove_maps()?;
            lock(&self.saved).durable = have;
            return disk::sync_folder(disk::folder_of(&self.target));
        }
        // As if none of it were durable: then all of it is made so.
        lock(&self.saved).durable = HaveMap::none(have.count());
        self.make_durable()?;
        resume_file::remove(&self.paths.note)?;
        lock(&self.saved).noted = have.held();
        Ok(())
    }
}
