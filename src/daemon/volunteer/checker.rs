//! Hashes, once after the start, what has been kept since before it.
//!
//! In no hurry: it rests several times as long as it works, so that serving does not starve. What passes is told in
//! batches; what does not, the store tells of.

use crate::content::limits::{CHECK_REST, NAMED_CHUNKS_MAX};
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
    let (began, mut right, mut wrong) = (Instant::now(), 0u64, 0u64);
    for file in store.files() {
        let Some(counts) = check(&file, passed, shutdown) else { return };
        right += counts.0;
        wrong += counts.1;
    }
    if right + wrong > 0 {
        let seconds = began.elapsed().as_secs_f64();
        log::info!(
            "what was kept before has been checked: {right} chunks are right, {wrong} were not, in {seconds:.1} s"
        );
    }
}

/// Looks at one file. Returns how many chunks were right, and how many were not; `None` at the shutdown.
fn check(file: &ReplicaFile, passed: &Sender<Batch>, shutdown: &Shutdown) -> Option<(u64, u64)> {
    let (mut right, mut wrong) = (0, 0);
    let (mut batch, mut since) = (Vec::new(), Instant::now());
    let mut complained = false;
    for index in file.unchecked() {
        let began = Instant::now();
        match file.check(index) {
            Ok(true) => {
                right += 1;
                batch.push(index);
            }
            Ok(false) => wrong += 1,
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
        if shutdown.wait((began.elapsed() * CHECK_REST).min(REST_MAX)) {
            return None;
        }
    }
    if !batch.is_empty() {
        passed.send((file.id(), batch)).ok()?;
    }
    Some((right, wrong))
}
