//! Hashes, once after the start, what has been kept since before it.
//!
//! In no hurry: it rests several times as long as it works, so that serving does not starve. What passes is told in
//! batches; what does not, the store tells of.

use crate::content::fmt::counted;
use crate::content::limits::{CHECK_PAUSE_FACTOR, NAMED_CHUNKS_MAX};
use crate::content::{ChunkIndex, FileId};
use crate::net::Shutdown;
use crate::storage::{ReplicaFile, ReplicaStore};
use crossbeam_channel::Sender;
use std::time::{Duration, Instant};

/// A batch is told after so long at the latest.
const BATCH_TIME: Duration = Duration::from_secs(1);
/// No rest is longer.
const REST_MAX: Duration = Duration::from_secs(1);

/// Chunks of a file that have been hashed and are right.
pub(super) type Batch = (FileId, Vec<ChunkIndex>);

/// Runs until everything has been looked at, or the shutdown.
pub(super) fn run(store: &ReplicaStore, passed: &Sender<Batch>, shutdown: &Shutdown) {
    let (began, mut right) = (Instant::now(), 0u64);
    for file in store.files() {
        let Some(count) = check(&file, file.unverified(), passed, shutdown) else { return };
        right += count;
    }
    if right > 0 {
        let (right, seconds) = (counted(right, "chunk"), began.elapsed().as_secs_f64());
        log::info!("what was kept before has been checked: {right} right, in {seconds:.1} s");
    }
}

/// Looks at chunks of one file. Returns how many were right; `None` at the shutdown. Of each that was not the store
/// says so itself, and those that have been dropped meanwhile are neither.
fn check(
    file: &ReplicaFile,
    chunks: Vec<ChunkIndex>,
    passed: &Sender<Batch>,
    shutdown: &Shutdown,
) -> Option<u64> {
    let mut right = 0;
    let (mut batch, mut since) = (Vec::new(), Instant::now());
    let mut complained = false;
    for index in chunks {
        let began = Instant::now();
        match file.check(index) {
            Ok(true) => {
                right += 1;
                batch.push(index);
            }
            Ok(false) => {}
            Err(error) if complained => log::debug!("{error}"),
            Err(error) => {
                complained = true;
                log::warn!("what is kept cannot be checked: {error}");
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
    Some(right)
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
    fn what_is_right_is_counted_and_told() {
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
