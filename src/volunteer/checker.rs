//! Verifies the stored chunks that this process has not hashed: those of previous runs after the start, and all after a
//! chunk was found damaged.
//!
//! Runs at low priority: it pauses for a multiple of the time that each hash takes, so that serving is not slowed down.
//! Correct chunks are reported in batches; the store itself reports corrupt ones.

use crate::content::fmt::counted;
use crate::content::limits::{CHECK_PAUSE_FACTOR, NAMED_CHUNKS_MAX};
use crate::content::{ChunkIndex, FileId};
use crate::net::Shutdown;
use crate::storage::{ReplicaFile, ReplicaStore};
use crossbeam_channel::{Receiver, Sender};
use std::time::{Duration, Instant};

/// Maximum delay of the report of a verified chunk.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Maximum pause after a chunk.
const REST_MAX: Duration = Duration::from_secs(1);

/// Result of the verification.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// Verified chunks of one file.
    Right(FileId, Vec<ChunkIndex>),
    /// All chunks have been verified.
    All,
}

/// Verifies all chunks of previous runs, and all unverified chunks again at each request. Ends at the shutdown.
pub(super) fn run(
    store: &ReplicaStore,
    requests: &Receiver<()>,
    passed: &Sender<Checked>,
    shutdown: &Shutdown,
) {
    let mut which = "of previous runs";
    loop {
        let (began, mut verified) = (Instant::now(), 0u64);
        for file in store.files() {
            let Some(count) = check(&file, file.unverified(), passed, shutdown) else { return };
            verified += count;
        }
        if verified > 0 {
            let (chunks, seconds) = (counted(verified, "chunk"), began.elapsed().as_secs_f64());
            log::info!("verified {chunks} {which} in {seconds:.1} s");
        }
        if passed.send(Checked::All).is_err() {
            return;
        }
        which = "again";
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => return,
            recv(requests) -> request => if request.is_err() {
                return;
            },
        }
    }
}

/// Verifies chunks of one file. Returns the number of correct ones, or `None` at the shutdown.
///
/// The store reports corrupt chunks. Chunks that were dropped in the meantime count as neither.
fn check(
    file: &ReplicaFile,
    chunks: Vec<ChunkIndex>,
    passed: &Sender<Checked>,
    shutdown: &Shutdown,
) -> Option<u64> {
    let mut verified = 0;
    let (mut batch, mut since) = (Vec::new(), Instant::now());
    let mut warned = false;
    for index in chunks {
        let began = Instant::now();
        match file.check(index) {
            Ok(true) => {
                verified += 1;
                batch.push(index);
            }
            Ok(false) => {}
            Err(error) if warned => log::debug!("{error}"),
            Err(error) => {
                warned = true;
                log::warn!("failed to verify a stored chunk: {error}");
            }
        }
        if batch.len() >= NAMED_CHUNKS_MAX || since.elapsed() >= BATCH_TIME {
            since = Instant::now();
            passed.send(Checked::Right(file.id(), std::mem::take(&mut batch))).ok()?;
        }
        if shutdown.wait((began.elapsed() * CHECK_PAUSE_FACTOR).min(REST_MAX)) {
            return None;
        }
    }
    if !batch.is_empty() {
        passed.send(Checked::Right(file.id(), batch)).ok()?;
    }
    Some(verified)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Digest, FileName, Layout, Manifest, Md5};
    use crate::protocol::tracker::FileSummary;
    use crate::protocol::volunteer::KeptFile;
    use crossbeam_channel::unbounded;
    use std::sync::Arc;

    #[test]
    fn correct_chunks_are_counted_and_reported() {
        let place = tempfile::tempdir().unwrap();
        let store = ReplicaStore::open(place.path(), 1 << 30).unwrap();
        let bytes = vec![7; 48 << 10];
        let layout = Layout::even(bytes.len() as u64, Some(16 << 10)).unwrap();
        let manifest = Manifest::new(layout, bytes.chunks(16 << 10).map(Digest::of).collect()).unwrap();
        let (id, name) = (manifest.id(), FileName::new("f").unwrap());
        let file = FileSummary { id, name, size: bytes.len() as u64, chunks: 3 };
        let file = store.add_file(&KeptFile { file, md5: Md5([0; 16]) }, Arc::new(manifest)).unwrap();
        let chunks: Vec<ChunkIndex> = (0..3).map(ChunkIndex).collect();
        chunks.iter().for_each(|index| store.store(id, *index, &bytes[..16 << 10]).unwrap());
        store.remove(id, &[ChunkIndex(1)]).unwrap();
        let (passed, batches) = unbounded();
        assert_eq!(check(&file, chunks, &passed, &Shutdown::new()), Some(2));
        assert_eq!(batches.recv().unwrap(), Checked::Right(id, vec![ChunkIndex(0), ChunkIndex(2)]));
    }
}
