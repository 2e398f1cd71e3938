//! Chunks that are written at their place in a file while they arrive, before they are verified.
//!
//! Each chunk has at most one writer that is valid: a later writer takes over, since the source of the earlier one
//! has stalled. Invariants: bytes of a chunk in [`Progress`] are never overwritten; a chunk is added to it only if the
//! valid writer has written all of its bytes.

use super::error::StoreError;
use super::progress::Progress;
use super::{LargeChunk, LargeChunkOutcome};
use crate::content::{ChunkIndex, ChunkSpan};
use crate::sync::lock;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

/// The valid writers of the chunks that arrive. Its lock is held during each write to the file: the kernel serialises
/// writes to one file, and threads that wait for it there use up CPU time.
#[derive(Default)]
pub(super) struct ChunkWriters {
    /// Number of the valid writer of each chunk.
    valid: BTreeMap<ChunkIndex, u64>,
    /// Number of the next writer.
    next: u64,
}

impl ChunkWriters {
    /// Makes a new writer the valid one of a chunk, and returns its number.
    fn take_over(&mut self, index: ChunkIndex) -> u64 {
        let number = self.next;
        self.next += 1;
        self.valid.insert(index, number);
        number
    }
}

/// Writes bytes at an offset of the file.
type WriteAt<'a> = Box<dyn Fn(&[u8], u64) -> Result<(), StoreError> + 'a>;

/// File that chunks are written to in place.
pub(super) struct InPlaceFile<'a> {
    /// Path for error texts.
    pub path: &'a Path,
    pub progress: &'a Progress,
    pub writers: &'a Mutex<ChunkWriters>,
    pub write_at: WriteAt<'a>,
}

impl<'a> InPlaceFile<'a> {
    /// Begins a chunk with this span. Its bytes are dropped if the chunk is stored already.
    pub(super) fn begin(self, index: ChunkIndex, span: ChunkSpan) -> Box<dyn LargeChunk + 'a> {
        let mut writers = lock(self.writers);
        let number = (!self.progress.has(index)).then(|| writers.take_over(index));
        drop(writers);
        let end = span.offset + span.length;
        Box::new(ChunkWriter { file: self, index, number, at: span.offset, end })
    }
}

/// A chunk on its way into the file.
struct ChunkWriter<'a> {
    file: InPlaceFile<'a>,
    index: ChunkIndex,
    /// Number of this writer; `None` if the chunk was stored already.
    number: Option<u64>,
    /// Offset of the next byte.
    at: u64,
    /// Offset behind the last byte.
    end: u64,
}

impl ChunkWriter<'_> {
    fn is_valid(&self, writers: &ChunkWriters) -> bool {
        self.number.is_some() && writers.valid.get(&self.index) == self.number.as_ref()
    }
}

impl LargeChunk for ChunkWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() as u64 > self.end - self.at {
            let reason = format!("chunk {} has more bytes than its length", self.index);
            return Err(super::error::invalid_input("write", self.file.path, reason));
        }
        let writers = lock(self.file.writers);
        if self.is_valid(&writers) {
            (self.file.write_at)(bytes, self.at)?;
        }
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<LargeChunkOutcome, StoreError> {
        // A later writer must not begin between the look at the numbers and the entry in the progress.
        let writers = lock(self.file.writers);
        if self.is_valid(&writers) && self.at == self.end {
            self.file.progress.add(self.index);
        }
        Ok(match self.file.progress.has(self.index) {
            true => LargeChunkOutcome::Stored,
            false => LargeChunkOutcome::TakenOver,
        })
    }
}

impl Drop for ChunkWriter<'_> {
    fn drop(&mut self) {
        let mut writers = lock(self.file.writers);
        if self.is_valid(&writers) {
            writers.valid.remove(&self.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChunkSink as _, ChunkSource as _, PartFile};
    use super::*;
    use crate::content::{Digest, Layout, Manifest};
    use crate::storage::Verify;
    use crate::storage::verify::VerifyCallbacks;
    use std::sync::Arc;
    use tempfile::TempDir;

    const BYTES: &[u8] = b"firstsecond";
    const FIRST: ChunkIndex = ChunkIndex(0);
    const SECOND: ChunkIndex = ChunkIndex(1);

    /// A part file of the chunks `first` and `second`.
    fn part() -> (TempDir, PartFile) {
        let folder = tempfile::tempdir().unwrap();
        let part = open(&folder);
        (folder, part)
    }

    fn open(folder: &TempDir) -> PartFile {
        let layout = Layout::uneven([5, 6]).unwrap();
        let digests = vec![Digest::of(b"first"), Digest::of(b"second")];
        let manifest = Arc::new(Manifest::new(layout, digests).unwrap());
        PartFile::open(&folder.path().join("file"), manifest).unwrap()
    }

    fn begin(part: &PartFile, index: ChunkIndex) -> Box<dyn LargeChunk + '_> {
        let length = part.manifest().unwrap().layout().span(index).unwrap().length;
        part.begin(index, Digest::of(b""), length).unwrap()
    }

    #[test]
    fn chunk_is_stored_only_when_it_is_finished() {
        let (folder, part) = part();
        let mut chunk = begin(&part, SECOND);
        chunk.write(b"sec").unwrap();
        assert!(matches!(part.stored(SECOND), Err(StoreError::Missing(SECOND))));
        part.note().unwrap();
        chunk.write(b"ond").unwrap();
        assert!(matches!(chunk.write(b"more"), Err(StoreError::Io { .. })));
        assert_eq!(chunk.finish().unwrap(), LargeChunkOutcome::Stored);
        assert_eq!(part.stored(SECOND).unwrap().offset, 5);
        // A chunk that was given up, and one whose last bytes are missing.
        begin(&part, FIRST).write(b"wrong").unwrap();
        let mut short = begin(&part, FIRST);
        short.write(b"fir").unwrap();
        assert_eq!(short.finish().unwrap(), LargeChunkOutcome::TakenOver);
        assert_eq!(part.progress().have().0.missing().collect::<Vec<_>>(), [FIRST]);
        part.note().unwrap();
        drop(part);
        // The resume file lists only the finished chunk.
        let part = open(&folder);
        part.check(Verify::None, VerifyCallbacks::NONE).unwrap();
        assert_eq!(part.resumed_bytes(), 6);
        let mut chunk = begin(&part, FIRST);
        chunk.write(b"first").unwrap();
        assert_eq!(chunk.finish().unwrap(), LargeChunkOutcome::Stored);
        part.finish(false, false).unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), BYTES);
    }

    #[test]
    fn a_second_writer_takes_over_and_a_stored_chunk_is_not_overwritten() {
        let (folder, part) = part();
        let (mut slow, mut fast) = (begin(&part, FIRST), begin(&part, FIRST));
        fast.write(b"fi").unwrap();
        slow.write(b"wrong").unwrap();
        assert_eq!(slow.finish().unwrap(), LargeChunkOutcome::TakenOver);
        fast.write(b"rst").unwrap();
        let mut late = begin(&part, SECOND);
        assert_eq!(fast.finish().unwrap(), LargeChunkOutcome::Stored);
        let mut again = begin(&part, FIRST);
        again.write(b"wrong").unwrap();
        assert_eq!(again.finish().unwrap(), LargeChunkOutcome::Stored);
        late.write(b"second").unwrap();
        assert_eq!(late.finish().unwrap(), LargeChunkOutcome::Stored);
        part.finish(false, false).unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), BYTES);
    }
}
