//! Verifies the chunks of the store: after a start those of previous runs, and all of them after damage was found.
//!
//! Runs at low priority: it pauses for a multiple of the time that each hash takes, so that serving is not slowed down.
//! Correct chunks are reported in batches; the store itself reports corrupt ones.

use crate::content::fmt::{counted, elapsed};
use crate::content::limits::{CHECK_PAUSE_FACTOR, NAMED_CHUNKS_MAX};
use crate::content::{ChunkIndex, FileId};
use crate::net::Shutdown;
use crate::storage::{ReplicaFile, ReplicaStore, StoreError};
use crossbeam_channel::{Receiver, Sender};
use std::time::{Duration, Instant};

/// Maximum delay of the report of a verified chunk.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// Maximum pause after a chunk.
const REST_MAX: Duration = Duration::from_secs(1);

/// Verified chunks of one file.
pub(super) type Batch = (FileId, Vec<ChunkIndex>);

/// Which chunks a pass over the store verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Those that this process has not verified since the store was opened or came back.
    Unverified,
    /// All: damage was found.
    All,
}

/// Verifies the chunks of previous runs, and then those of each requested pass, until the shutdown.
pub(super) fn run(
    store: &ReplicaStore,
    requests: &Receiver<Pass>,
    passed: &Sender<Batch>,
    shutdown: &Shutdown,
) {
    let mut next = Some(Pass::Unverified);
    loop {
        let pass = match next.take() {
            Some(pass) => pass,
            None => crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => return,
                recv(requests) -> request => match request {
                    Ok(pass) => pass,
                    Err(_) => return,
                },
            },
        };
        let is_complete = run_pass(store, pass, passed, shutdown).is_some();
        if shutdown.is_stopped() {
            return;
        }
        if is_complete && pass == Pass::All {
            // Damage that this pass has found itself needs no further pass.
            next = requests.try_iter().filter(|pass| *pass == Pass::Unverified).last();
        }
    }
}

/// Verifies the chunks of one pass. `None` if it was ended early: at the shutdown, or without the store.
fn run_pass(store: &ReplicaStore, pass: Pass, passed: &Sender<Batch>, shutdown: &Shutdown) -> Option<()> {
    let (began, mut verified) = (Instant::now(), 0u64);
    let files = store.files();
    if pass == Pass::All {
        // Needs little time, and shows a store of which many files were deleted.
        for file in &files {
            match file.remove_missing() {
                Ok(_) => {}
                Err(StoreError::StoreAbsent { .. }) => return None,
                Err(error) => log::warn!("failed to look for stored chunks: {error}"),
            }
        }
    }
    for file in files {
        let chunks = match pass {
            Pass::Unverified => file.unverified(),
            Pass::All => [file.chunks().0, file.chunks().1].concat(),
        };
        verified += check(&file, chunks, passed, shutdown)?;
    }
    if verified > 0 {
        let (chunks, took) = (counted(verified, "chunk"), elapsed(began.elapsed()));
        match pass {
            Pass::Unverified => log::info!("verified {chunks} of previous runs in {took}"),
            Pass::All => log::info!("verified {chunks} again after damage in {took}"),
        }
    }
    Some(())
}

/// Verifies chunks of one file. Returns the number of correct ones, or `None` at the shutdown or without the store.
///
/// The store reports corrupt chunks. Chunks that were dropped in the meantime count as neither.
fn check(
    file: &ReplicaFile,
    chunks: Vec<ChunkIndex>,
    passed: &Sender<Batch>,
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
            Err(StoreError::StoreAbsent { .. }) => return None,
            Err(error) if warned => log::debug!("{error}"),
            Err(error) => {
                warned = true;
                log::warn!("failed to verify a stored chunk: {error}");
            }
        }
        if batch.len() >= NAMED_CHUNKS_MAX || since.elapsed() >= BATCH_TIME {
            since = Instant::now();
            passed.send((file.id(), std::mem::take(&mut batch))).ok()?;
        }
        if shutdown.wait((began.elapsed() * CHECK_PAUSE_FACTOR).min(REST_MAX)) {
            return None;
        }
    }
    if !batch.is_empty() {
        passed.send((file.id(), batch)).ok()?;
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
        assert_eq!(batches.recv().unwrap(), (id, vec![ChunkIndex(0), ChunkIndex(2)]));
    }
}
