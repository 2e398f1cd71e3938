//! Agreed chunks of a set, and the sink that stores downloaded chunks only if they have the agreed hash.

use crate::content::{ChunkIndex, Digest};
use crate::download::events::Expected;
use crate::net::Threads;
use crate::protocol::tracker::Claim;
use crate::storage::chunk_folder::StagedChunk;
use crate::storage::{
    ChunkFolder, ChunkSink, ChunkSource, HeldChunk, LargeChunk, LargeChunkOutcome, StoreError,
};
use crate::sync::{read, write};
use crossbeam_channel::{Receiver, Sender, bounded, never, select, unbounded};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, RwLock};

/// Largest number of chunks queued for a commit, and committed at once.
const COMMIT_MAX: usize = 1_024;

/// Agreed digest and size of each chunk.
#[derive(Default)]
pub(super) struct AgreedChunks(RwLock<HashMap<ChunkIndex, Claim>>);

impl AgreedChunks {
    pub(super) fn set(&self, index: ChunkIndex, claim: Claim) {
        write(&self.0).insert(index, claim);
    }
}

impl Expected for AgreedChunks {
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u64)> {
        let agreed = read(&self.0);
        agreed.get(&index).map(|claim| (claim.sha256, claim.size))
    }
}

/// Chunks that a commit, or an adoption of files without a line, has handled.
pub(super) enum Handled {
    /// Downloaded chunks.
    Committed(Vec<HeldChunk>),
    /// Chunks whose files were in the folder, and those to download.
    Adopted {
        /// Now in the list.
        adopted: Vec<HeldChunk>,
        /// No file has the content.
        absent: Vec<ChunkIndex>,
    },
}

/// Result of a commit or an adoption.
pub(super) type Committed = Result<Handled, StoreError>;

/// Queue of chunks whose files may be in the folder without a line.
pub(super) type Adoptions = Sender<HeldChunk>;

/// Sink for verified chunks: writes each to its file and queues it for a commit.
pub(super) struct FolderSink {
    folder: Arc<ChunkFolder>,
    agreed: Arc<AgreedChunks>,
    staged: Sender<StagedChunk>,
}

impl FolderSink {
    /// Creates a sink and starts its thread `commit`. The receiver gets the result of each commit and adoption.
    pub(super) fn start(
        folder: &Arc<ChunkFolder>,
        agreed: &Arc<AgreedChunks>,
        threads: &Threads,
    ) -> io::Result<(Self, Adoptions, Receiver<Committed>)> {
        let (staged, to_commit) = bounded(COMMIT_MAX);
        // At most one entry for each chunk of the set.
        let (adoptions, to_adopt) = unbounded();
        let (results, committed) = bounded(COMMIT_MAX);
        let committing = folder.clone();
        threads.spawn("commit", move || commit_staged(&committing, &to_commit, to_adopt, &results))?;
        Ok((Self { folder: folder.clone(), agreed: agreed.clone(), staged }, adoptions, committed))
    }
}

impl FolderSink {
    /// Whether this is the agreed digest, which may have changed during the download of the chunk.
    fn is_agreed(&self, index: ChunkIndex, digest: Digest) -> bool {
        let agreed = self.agreed.expected(index).map(|(digest, _)| digest);
        let sealed = self.folder.manifest().and_then(|manifest| manifest.digest(index));
        agreed == Some(digest) && sealed.is_none_or(|sealed| sealed == digest)
    }

    fn queue(&self, staged: StagedChunk) -> Result<(), StoreError> {
        // The queue is closed only at the end of the client.
        self.staged.send(staged).map_err(|_| StoreError::Stopped)
    }
}

impl ChunkSink for FolderSink {
    fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        match self.is_agreed(index, digest) {
            true => self.queue(self.folder.stage(index, digest, bytes)?).map(|()| true),
            false => Ok(false),
        }
    }

    fn begin(
        &self,
        index: ChunkIndex,
        digest: Digest,
        length: u64,
    ) -> Result<Box<dyn LargeChunk + '_>, StoreError> {
        let staged = match self.is_agreed(index, digest) {
            true => Some(self.folder.stage_in_parts(index, digest, length)?),
            false => None,
        };
        Ok(Box::new(LargeFolderChunk { sink: self, staged }))
    }
}

/// A large chunk on its way into the folder; `None` if its hash is not the agreed one.
struct LargeFolderChunk<'a> {
    sink: &'a FolderSink,
    staged: Option<StagedChunk>,
}

impl LargeChunk for LargeFolderChunk<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.staged.as_mut().map_or(Ok(()), |staged| staged.write(bytes))
    }

    fn finish(self: Box<Self>) -> Result<LargeChunkOutcome, StoreError> {
        let is_agreed = |chunk: HeldChunk| self.sink.is_agreed(chunk.index, chunk.digest);
        match self.staged {
            Some(staged) if is_agreed(staged.chunk()) => {
                self.sink.queue(staged)?;
                Ok(LargeChunkOutcome::Stored)
            }
            _ => Ok(LargeChunkOutcome::Unwanted),
        }
    }
}

/// Commits queued chunks to the folder, and adopts queued files, as many at once as are queued.
///
/// After the sink has been dropped, commits the rest and returns.
fn commit_staged(
    folder: &ChunkFolder,
    staged: &Receiver<StagedChunk>,
    mut adoptions: Receiver<HeldChunk>,
    results: &Sender<Committed>,
) {
    loop {
        let result = select! {
            recv(staged) -> first => match first {
                Ok(first) => commit(folder, batch(first, staged)),
                Err(_) => return,
            },
            recv(adoptions) -> first => match first {
                Ok(first) => adopt(folder, &batch(first, &adoptions)),
                Err(_) => {
                    adoptions = never();
                    continue;
                }
            },
        };
        // Fails only at the end of the client, when the receiver has been dropped.
        let _ = results.send(result);
    }
}

/// An item and the queued ones.
fn batch<T>(first: T, queued: &Receiver<T>) -> Vec<T> {
    std::iter::once(first).chain(queued.try_iter().take(COMMIT_MAX - 1)).collect()
}

fn commit(folder: &ChunkFolder, chunks: Vec<StagedChunk>) -> Committed {
    let held = chunks.iter().map(StagedChunk::chunk).collect();
    folder.commit(chunks).map(|()| Handled::Committed(held))
}

fn adopt(folder: &ChunkFolder, chunks: &[HeldChunk]) -> Committed {
    let adopted = folder.adopt(chunks)?;
    let absent = chunks.iter().filter(|chunk| !adopted.contains(chunk)).map(|chunk| chunk.index).collect();
    Ok(Handled::Adopted { adopted, absent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::verify::VerifyCallbacks;

    #[test]
    fn chunk_is_stored_only_while_its_digest_is_the_agreed_one() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("local_chunks.txt"), "2,LASTCHUNK\n").unwrap();
        let folder = Arc::new(ChunkFolder::open(place.path(), VerifyCallbacks::NONE).unwrap());
        let agreed = Arc::new(AgreedChunks::default());
        let (staged, to_commit) = bounded(2);
        let sink = FolderSink { folder: folder.clone(), agreed: agreed.clone(), staged };
        let (index, old, new) = (ChunkIndex(0), Digest::of(b"old"), Digest::of(b"new"));
        assert!(!sink.store(index, old, b"old").unwrap(), "no hash is agreed");
        // The agreed hash has changed during the download of the chunk.
        agreed.set(index, Claim { sha256: new, size: 3 });
        assert!(!sink.store(index, old, b"old").unwrap());
        assert_eq!(folder.holds(index), None);
        assert!(sink.store(index, new, b"new").unwrap());
        assert_eq!(folder.holds(index), None, "held only after the commit");
        folder.commit(to_commit.try_iter().collect()).unwrap();
        assert_eq!(folder.holds(index).map(|chunk| chunk.digest), Some(new));
    }

    #[test]
    fn chunk_written_in_parts_is_stored_only_if_its_digest_is_agreed_at_the_end() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("local_chunks.txt"), "1,LASTCHUNK\n").unwrap();
        let folder = Arc::new(ChunkFolder::open(place.path(), VerifyCallbacks::NONE).unwrap());
        let agreed = Arc::new(AgreedChunks::default());
        let (staged, to_commit) = bounded(2);
        let sink = FolderSink { folder: folder.clone(), agreed: agreed.clone(), staged };
        let (index, first, second) = (ChunkIndex(0), Digest::of(b"first"), Digest::of(b"second"));
        agreed.set(index, Claim { sha256: first, size: 5 });
        let write = |change: &dyn Fn()| {
            let mut chunk = sink.begin(index, first, 5).unwrap();
            chunk.write(b"fir").unwrap();
            change();
            chunk.write(b"st").unwrap();
            chunk.finish().unwrap() == LargeChunkOutcome::Stored
        };
        assert!(!write(&|| agreed.set(index, Claim { sha256: second, size: 6 })));
        assert!(!write(&|| ()), "another hash is agreed from the start");
        agreed.set(index, Claim { sha256: first, size: 5 });
        assert!(write(&|| ()));
        folder.commit(to_commit.try_iter().collect()).unwrap();
        assert_eq!(folder.holds(index).map(|chunk| chunk.digest), Some(first));
    }
}
