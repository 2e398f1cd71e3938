//! Verification of the data that an earlier run left in a part file.
//!
//! Invariant: from the first bad chunk on, the resume file on disk does not list a chunk found to be bad, also
//! if the check is interrupted; every chunk added by the check has been hashed.

use super::super::error::StoreError;
use super::super::hashing::{self, HashCallbacks};
use super::super::verify::{Verify, VerifyCallbacks};
use super::super::{disk, resume_file};
use super::PartFile;
use crate::content::{Bitfield, ChunkIndex};
use crate::sync::lock;
use rustix::fs::SeekFrom;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// Result of a check of a part file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckResult {
    /// Chunks listed in a resume file whose digest is wrong: they must be downloaded again.
    pub bad: u32,
    /// Chunks with the right digest that no usable resume file lists: they need no download.
    pub found: u32,
}

impl PartFile {
    /// Whether only hashing the part file can find its chunks: a resume file is torn or belongs to
    /// another file, or another user can have written one of the files.
    pub fn needs_full_check(&self) -> bool {
        self.unusable_map
    }

    /// Verifies the chunks that an earlier run left. Call it before anything is stored.
    ///
    /// [`Verify::None`] reads nothing, unless the part file [needs a full
    /// check](Self::needs_full_check). [`Verify::Sample`] reads a few chunks, and all of them if
    /// one is bad. A full check also finds chunks that no resume file lists.
    ///
    /// # Errors
    /// The part file cannot be read, the resume files cannot be written, or
    /// [`StoreError::Stopped`].
    pub fn check(&self, verify: Verify, callbacks: VerifyCallbacks<'_>) -> Result<CheckResult, StoreError> {
        let (have, _) = self.progress.have();
        let sample = match (self.unusable_map, verify) {
            (true, _) | (false, Verify::Full) => None,
            (false, Verify::Sample | Verify::None) => Some(verify.choose(&have)),
        };
        if let Some(sample) = sample
            && self.hash_and_match(&sample, callbacks)?.len() == sample.len()
        {
            return Ok(CheckResult::default());
        }
        let candidates = self.chunks_with_data();
        let matching = self.hash_and_match(&candidates, callbacks)?;
        let mut verified = Bitfield::none(have.count());
        matching.into_iter().for_each(|index| _ = verified.insert(index));
        let bad: Vec<ChunkIndex> = have.iter().filter(|index| !verified.has(*index)).collect();
        let found: Vec<ChunkIndex> = verified.iter().filter(|index| !have.has(*index)).collect();
        bad.iter().for_each(|index| _ = self.progress.remove(*index));
        found.iter().for_each(|index| _ = self.progress.add(*index));
        self.resumed.store(self.bytes_of(&verified), Relaxed);
        if self.unusable_map || !bad.is_empty() || !found.is_empty() {
            self.rewrite_resume_file()?;
        }
        Ok(CheckResult { bad: bad.len() as u32, found: found.len() as u32 })
    }

    /// Hashes chunks and returns those whose digest matches the manifest. The first chunk that does
    /// not match, but is listed in a resume file, empties the resume files durably.
    fn hash_and_match(
        &self,
        chunks: &[ChunkIndex],
        callbacks: VerifyCallbacks<'_>,
    ) -> Result<Vec<ChunkIndex>, StoreError> {
        let length = |index: &ChunkIndex| super::length_of(&self.manifest, *index);
        if !chunks.is_empty() {
            (callbacks.begin)(chunks.iter().map(length).sum());
        }
        let callbacks = HashCallbacks { hashed: callbacks.hashed, stop: callbacks.stop };
        let (layout, matching) = (self.manifest.layout(), Mutex::new(Vec::new()));
        let (listed, _) = self.progress.have();
        let emptied = Mutex::new(None);
        hashing::hash_chunks(&self.file, &self.paths.part, layout, chunks, callbacks, &|index, digest| {
            if self.manifest.digest(index) == Some(digest) {
                lock(&matching).push(index);
                return true;
            }
            !listed.has(index) || lock(&emptied).get_or_insert_with(|| self.empty_resume_files()).is_ok()
        })?;
        lock(&emptied).take().transpose()?;
        Ok(std::mem::take(&mut *lock(&matching)))
    }

    pub(super) fn empty_resume_files(&self) -> Result<(), StoreError> {
        self.paths.resume_files().try_for_each(resume_file::invalidate)
    }

    /// The chunks with data in the file; never-written ranges are skipped as holes. A chunk listed
    /// in a resume file is included even if it is a hole, because a chunk of zeros is stored as
    /// one.
    fn chunks_with_data(&self) -> Vec<ChunkIndex> {
        let (layout, (have, _)) = (self.manifest.layout(), self.progress.have());
        let mut data = None;
        let has_data = |index: &ChunkIndex| {
            let Some(span) = layout.span(*index) else { return false };
            if have.has(*index) {
                return true;
            }
            if data.is_none_or(|data| data < span.offset) {
                // `NXIO`: no data after this offset. Without support for `SEEK_DATA`, any range may
                // have data.
                let next = match rustix::fs::seek(&*self.file, SeekFrom::Data(span.offset)) {
                    Ok(next) => next,
                    Err(rustix::io::Errno::NXIO) => u64::MAX,
                    Err(_) => span.offset,
                };
                data = Some(next);
            }
            data.is_some_and(|data| data < span.offset + span.length)
        };
        layout.indices().filter(has_data).collect()
    }

    /// Rewrites the resume file so that it lists exactly the chunks that are present.
    fn rewrite_resume_file(&self) -> Result<(), StoreError> {
        let (have, _) = self.progress.have();
        // Treat no chunk as durable, so that `make_durable` syncs all of them.
        lock(&self.listed).durable = Bitfield::none(have.count());
        if have.held() == 0 {
            resume_file::create(&self.paths.resume, self.owner())?;
            disk::sync_folder(disk::folder_of(&self.target))?;
        } else {
            self.make_durable()?;
        }
        lock(&self.listed).count = have.held();
        self.paths.remove_older()
    }
}
