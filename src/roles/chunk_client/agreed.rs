//! Agreed chunks of a set, and the sink that stores downloaded chunks only if they have the agreed hash.

use crate::content::{ChunkIndex, Digest};
use crate::download::events::Expected;
use crate::net::Threads;
use crate::protocol::tracker::Claim;
use crate::storage::chunk_folder::StagedChunk;
use crate::storage::{ChunkFolder, ChunkSink, ChunkSource, HeldChunk, StoreError};
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
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u32)> {
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

impl ChunkSink for FolderSink {
    fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        // The agreed hash may have changed during the download of the chunk.
        let agreed = self.agreed.expected(index).map(|(digest, _)| digest);
        let sealed = self.folder.manifest().and_then(|manifest| manifest.digest(index));
        if agreed != Some(digest) || sealed.is_some_and(|sealed| sealed != digest) {
            return Ok(false);
        }
        let staged = self.folder.stage(index, digest, bytes)?;
        // The queue is closed only at the end of the client.
        self.staged.send(staged).map_err(|_| StoreError::Stopped)?;
        Ok(true)
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
}
