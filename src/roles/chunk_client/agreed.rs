//! Agreed chunks of a set, and the sink that stores downloaded chunks only if they have the agreed hash.

use crate::content::{ChunkIndex, Digest};
use crate::download::events::Expected;
use crate::net::Threads;
use crate::protocol::tracker::Claim;
use crate::storage::chunk_folder::StagedChunk;
use crate::storage::{ChunkFolder, ChunkSink, ChunkSource, HeldChunk, StoreError};
use crate::sync::{read, write};
use crossbeam_channel::{Receiver, Sender, bounded};
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

/// Result of a commit: the chunks that are now in the folder.
pub(super) type Committed = Result<Vec<HeldChunk>, StoreError>;

/// Sink for verified chunks: writes each to its file and queues it for a commit.
pub(super) struct FolderSink {
    folder: Arc<ChunkFolder>,
    agreed: Arc<AgreedChunks>,
    staged: Sender<StagedChunk>,
}

impl FolderSink {
    /// Creates a sink and starts its thread `commit`. The receiver gets the result of each commit.
    pub(super) fn start(
        folder: &Arc<ChunkFolder>,
        agreed: &Arc<AgreedChunks>,
        threads: &Threads,
    ) -> io::Result<(Self, Receiver<Committed>)> {
        let (staged, to_commit) = bounded(COMMIT_MAX);
        let (results, committed) = bounded(COMMIT_MAX);
        let committing = folder.clone();
        threads.spawn("commit", move || commit_staged(&committing, &to_commit, &results))?;
        Ok((Self { folder: folder.clone(), agreed: agreed.clone(), staged }, committed))
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

/// Commits queued chunks to the folder, as many at once as are queued.
///
/// After the sink has been dropped, commits the rest and returns.
fn commit_staged(folder: &ChunkFolder, staged: &Receiver<StagedChunk>, results: &Sender<Committed>) {
    while let Ok(first) = staged.recv() {
        let chunks: Vec<StagedChunk> =
            std::iter::once(first).chain(staged.try_iter().take(COMMIT_MAX - 1)).collect();
        let held: Vec<HeldChunk> = chunks.iter().map(StagedChunk::chunk).collect();
        // Fails only at the end of the client, when the receiver has been dropped.
        let _ = results.send(folder.commit(chunks).map(|()| held));
    }
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
