//! Reuse of chunks of an existing file that a download is about to replace.
//!
//! Invariants: the existing file is only read; a copied chunk is listed only after the bytes in the part
//! file have been hashed, so a file that changes meanwhile does no harm.

use super::super::disk;
use super::super::error::{self, StoreError};
use super::super::hashing::{self, HashCallbacks};
use super::super::verify::VerifyCallbacks;
use super::PartFile;
use crate::content::{ChunkIndex, ChunkSpan};
use crate::sync::lock;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

/// Longest copy of one call where the kernel cannot copy from file to file, bytes.
const COPY_BYTES_MAX: usize = 256 * 1024;

impl PartFile {
    /// Copies the missing chunks that an existing file has at their place, and returns their number.
    ///
    /// The file is hashed, the agreeing chunks are copied (shared between both files where the file system
    /// supports it), and the copies are hashed. Call it before the download begins.
    ///
    /// # Errors
    /// A file cannot be read or written, the disk is full, or [`StoreError::Stopped`].
    pub fn reuse(&self, existing: &Path, callbacks: VerifyCallbacks<'_>) -> Result<u32, StoreError> {
        let (file, stamp) = disk::open_regular(existing)?;
        let layout = self.manifest.layout();
        let fits = |span: ChunkSpan| span.offset + span.length <= stamp.size;
        let missing: Vec<ChunkIndex> = self.progress.have().0.missing().collect();
        let candidates: Vec<ChunkIndex> =
            missing.into_iter().filter(|index| layout.span(*index).is_some_and(fits)).collect();
        let bytes: u64 = candidates.iter().map(|index| super::length_of(&self.manifest, *index)).sum();
        if bytes > 0 {
            (callbacks.begin)(bytes);
        }
        let found = match self.agreeing(&file, existing, &candidates, callbacks) {
            // It became shorter: another program writes to it.
            Err(StoreError::Changed(_)) => return Ok(0),
            found => found?,
        };
        for index in &found {
            if (callbacks.stop)() {
                return Err(StoreError::Stopped);
            }
            self.copy(&file, existing, *index)?;
        }
        let silent = VerifyCallbacks { hashed: &|_| (), ..callbacks };
        let verified = self.agreeing(&self.file, &self.paths.part, &found, silent)?;
        let bytes: u64 = verified.iter().map(|index| super::length_of(&self.manifest, *index)).sum();
        verified.iter().for_each(|index| _ = self.progress.add(*index));
        self.resumed.fetch_add(bytes, Relaxed);
        Ok(verified.len() as u32)
    }

    /// The chunks of `chunks` that agree with the manifest in a file.
    fn agreeing(
        &self,
        file: &File,
        path: &Path,
        chunks: &[ChunkIndex],
        callbacks: VerifyCallbacks<'_>,
    ) -> Result<Vec<ChunkIndex>, StoreError> {
        let callbacks = HashCallbacks { hashed: callbacks.hashed, stop: callbacks.stop };
        let agreeing = Mutex::new(Vec::new());
        hashing::hash_chunks(file, path, self.manifest.layout(), chunks, callbacks, &|index, digest| {
            if self.manifest.digest(index) == Some(digest) {
                lock(&agreeing).push(index);
            }
            true
        })?;
        let mut agreeing = std::mem::take(&mut *lock(&agreeing));
        agreeing.sort_unstable();
        Ok(agreeing)
    }

    fn copy(&self, from: &File, path: &Path, index: ChunkIndex) -> Result<(), StoreError> {
        let span = self.manifest.layout().span(index).ok_or(StoreError::Missing(index))?;
        let (mut offset, end) = (span.offset, span.offset + span.length);
        while offset < end {
            let (mut read_at, mut write_at, length) = (offset, offset, (end - offset) as usize);
            let copied = rustix::fs::copy_file_range(
                from,
                Some(&mut read_at),
                &*self.file,
                Some(&mut write_at),
                length,
            );
            match copied {
                // The file became shorter: the hash of the copy will differ.
                Ok(0) => return Ok(()),
                Ok(count) => offset += count as u64,
                Err(Errno::INTR) => {}
                Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => {
                    return Err(error::write("write", &self.paths.part, self.missing_bytes())(errno.into()));
                }
                // Not supported between these files.
                Err(_) => return self.copy_by_hand(from, path, offset..end),
            }
        }
        Ok(())
    }

    fn copy_by_hand(&self, from: &File, path: &Path, range: std::ops::Range<u64>) -> Result<(), StoreError> {
        let mut buffer = vec![0; COPY_BYTES_MAX];
        let mut offset = range.start;
        while offset < range.end {
            let length = (range.end - offset).min(COPY_BYTES_MAX as u64) as usize;
            let count = match from.read_at(&mut buffer[..length], offset) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error::io("read", path)(error)),
            };
            let written = self.file.write_all_at(&buffer[..count], offset);
            written.map_err(error::write("write", &self.paths.part, self.missing_bytes()))?;
            offset += count as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Manifest;
    use crate::storage::{ChunkSink as _, ChunkSource as _, CompleteFile};
    use std::path::PathBuf;
    use std::sync::Arc;
    use tempfile::TempDir;

    const CHUNK: usize = 16 * 1024;
    const COUNT: usize = 20;

    struct Fixture {
        folder: TempDir,
        bytes: Vec<u8>,
        manifest: Arc<Manifest>,
    }

    fn fixture() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..COUNT * CHUNK + 5).map(|at| (at / CHUNK * 7 + at) as u8).collect();
        let path = folder.path().join("right");
        std::fs::write(&path, &bytes).unwrap();
        let complete = CompleteFile::publish(&path, Some(CHUNK as u32), &|_| (), &|| false).unwrap();
        Fixture { manifest: complete.manifest().unwrap(), folder, bytes }
    }

    impl Fixture {
        fn existing(&self, bytes: &[u8]) -> PathBuf {
            let path = self.folder.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            path
        }

        fn part(&self) -> PartFile {
            PartFile::open(&self.folder.path().join("file"), self.manifest.clone()).unwrap()
        }
    }

    #[test]
    fn all_chunks_but_the_bad_one_are_copied_and_the_existing_file_is_untouched() {
        let fixture = fixture();
        let mut damaged = fixture.bytes.clone();
        damaged[7 * CHUNK + 3] ^= 1;
        let path = fixture.existing(&damaged);
        let part = fixture.part();
        assert_eq!(part.reuse(&path, VerifyCallbacks::NONE).unwrap(), COUNT as u32);
        assert_eq!(part.progress().have().0.missing().collect::<Vec<_>>(), [ChunkIndex(7)]);
        assert_eq!(part.resumed_bytes(), ((COUNT - 1) * CHUNK + 5) as u64);
        assert!(std::fs::read(&path).unwrap() == damaged);
        let chunk = &fixture.bytes[7 * CHUNK..8 * CHUNK];
        part.store(ChunkIndex(7), crate::content::Digest::of(chunk), chunk).unwrap();
        part.finish(true, false).unwrap();
        assert!(std::fs::read(&path).unwrap() == fixture.bytes);
    }

    #[test]
    fn of_a_shorter_longer_or_different_file_only_agreeing_chunks_are_reused() {
        for (change, reused) in [
            ((|bytes: &mut Vec<u8>| bytes.truncate(3 * CHUNK + 1)) as fn(&mut Vec<u8>), 3),
            (|bytes| bytes.extend([1; 100]), COUNT as u32 + 1),
            (|bytes| bytes.iter_mut().for_each(|byte| *byte ^= 1), 0),
            (Vec::clear, 0),
        ] {
            let fixture = fixture();
            let mut other = fixture.bytes.clone();
            change(&mut other);
            let path = fixture.existing(&other);
            let part = fixture.part();
            assert_eq!(part.reuse(&path, VerifyCallbacks::NONE).unwrap(), reused);
            assert_eq!(part.progress().held(), reused);
            drop(part);
            // A reused chunk is not trusted for its origin: the part file is what was hashed.
            let part = fixture.part();
            let checked = part.check(crate::storage::Verify::Full, VerifyCallbacks::NONE).unwrap();
            assert_eq!((checked.bad, part.progress().held()), (0, reused));
        }
    }

    #[test]
    fn chunks_are_copied_by_hand_where_the_kernel_cannot_copy() {
        let fixture = fixture();
        let part = fixture.part();
        let path = fixture.folder.path().join("right");
        let file = File::open(&path).unwrap();
        part.copy_by_hand(&file, &path, 0..fixture.bytes.len() as u64).unwrap();
        let all: Vec<ChunkIndex> = fixture.manifest.layout().indices().collect();
        let found = part.agreeing(&part.file, &part.paths.part, &all, VerifyCallbacks::NONE).unwrap();
        assert_eq!(found, all);
    }

    #[test]
    fn chunks_of_a_copy_that_differs_are_not_listed() {
        let fixture = fixture();
        let path = fixture.existing(&fixture.bytes);
        let part = fixture.part();
        // Another program writes to the file when it has been hashed, before the first chunk is copied.
        let stop = || {
            let mut changed = fixture.bytes.clone();
            changed[0] ^= 1;
            std::fs::write(&path, changed).unwrap();
            false
        };
        let begun = std::sync::atomic::AtomicU64::new(0);
        let hashed = |bytes| _ = begun.fetch_add(bytes, Relaxed);
        let stop_after_hash = || begun.load(Relaxed) == fixture.bytes.len() as u64 && stop();
        let callbacks = VerifyCallbacks { begin: &|_| (), hashed: &hashed, stop: &stop_after_hash };
        let reused = part.reuse(&path, callbacks).unwrap();
        assert_eq!((reused, part.progress().has(ChunkIndex(0))), (COUNT as u32, false));
    }
}
