//! Orders of the tracker that need only the volunteer's disk: drop chunks, hash chunks again.
//!
//! Thread `volunteer-disk` carries them out, so that they do not wait for copies from a slow peer.

use super::report::holds;
use super::{Done, HeldReplicas, Job, work};
use crate::content::limits::NAMED_CHUNKS_MAX;
use crate::content::{ChunkIndex, FileId};
use crate::net::Shutdown;
use crate::protocol::volunteer::VolunteerReport;
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeSet;
use std::time::Duration;

/// Attempts to hash a chunk that cannot be read for a reason that says nothing about it.
const CHECK_ATTEMPTS_MAX: usize = 5;
/// Pause between two attempts.
const CHECK_RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// An order that needs only the disk.
pub(super) enum DiskOrder {
    /// Drop chunks.
    Drop(FileId, Vec<ChunkIndex>),
    /// Hash chunks again and report them.
    Check(FileId, Vec<ChunkIndex>),
}

/// Carries out orders one after the other, until the shutdown.
pub(super) fn run(
    replicas: &HeldReplicas,
    jobs: &Receiver<Job<DiskOrder>>,
    done: &Sender<Done>,
    shutdown: &Shutdown,
) {
    work(jobs, done, shutdown, || {}, |order, session_end| carry_out(replicas, order, session_end));
}

/// Carries out one order, and returns the answers to it.
pub(super) fn carry_out(
    replicas: &HeldReplicas,
    order: DiskOrder,
    session_end: &Shutdown,
) -> Vec<VolunteerReport> {
    match order {
        DiskOrder::Drop(file, chunks) => drop_chunks(replicas, file, chunks),
        DiskOrder::Check(file, chunks) => check_chunks(replicas, file, &chunks, session_end),
    }
}

fn drop_chunks(replicas: &HeldReplicas, file: FileId, mut chunks: Vec<ChunkIndex>) -> Vec<VolunteerReport> {
    if let Err(error) = replicas.store.remove(file, &chunks) {
        log::warn!("{error}");
    }
    replicas.sync_offer(file);
    let mut still_held = Vec::new();
    if let Some(file) = replicas.store.file(file) {
        let left: BTreeSet<ChunkIndex> = file.held_of(&chunks).collect();
        chunks.retain(|index| !left.contains(index));
        let left: Vec<ChunkIndex> = left.into_iter().collect();
        still_held.extend(holds(&file, &left, false));
    }
    // `as_of_now` fills in the free space when the message is sent.
    let free = 0;
    let pieces = chunks.chunks(NAMED_CHUNKS_MAX);
    let dropped = pieces.map(|chunks| VolunteerReport::Dropped { file, chunks: chunks.to_vec(), free });
    dropped.chain(still_held).collect()
}

/// Hashes chunks and reports them: as verified, as not verified if they cannot be read now, or as spoiled.
///
/// A chunk that this check finds damaged is reported by the state thread, which learns of it from the store.
fn check_chunks(
    replicas: &HeldReplicas,
    id: FileId,
    chunks: &[ChunkIndex],
    session_end: &Shutdown,
) -> Vec<VolunteerReport> {
    let (mut right, mut unknown, mut absent) = (Vec::new(), Vec::new(), Vec::new());
    for index in chunks {
        let held = replicas.store.file(id).is_some_and(|file| file.held_of(&[*index]).next().is_some());
        if !held {
            absent.push(*index);
            continue;
        }
        match check_patiently(replicas, id, *index, session_end) {
            Some(true) => right.push(*index),
            Some(false) => {}
            None => unknown.push(*index),
        }
    }
    let mut reports = Vec::new();
    if let Some(file) = replicas.store.file(id) {
        reports.extend(holds(&file, &right, true));
        reports.extend(holds(&file, &unknown, false));
    }
    let free = 0;
    let absent = absent.chunks(NAMED_CHUNKS_MAX);
    reports.extend(absent.map(|chunks| VolunteerReport::Spoiled { file: id, chunks: chunks.to_vec(), free }));
    reports
}

/// Hashes a chunk and returns whether it is right; `None` if it cannot be read, or at the end of the session.
fn check_patiently(
    replicas: &HeldReplicas,
    id: FileId,
    index: ChunkIndex,
    session_end: &Shutdown,
) -> Option<bool> {
    for attempt in 1..=CHECK_ATTEMPTS_MAX {
        match replicas.store.check(id, index) {
            Ok(right) => return Some(right),
            Err(error) if attempt == CHECK_ATTEMPTS_MAX => {
                log::warn!("failed to verify chunk {index} of {}: {error}", id.short());
            }
            Err(error) => log::debug!("failed to verify chunk {index} of {}: {error}", id.short()),
        }
        if attempt < CHECK_ATTEMPTS_MAX && session_end.wait(CHECK_RETRY_INTERVAL) {
            return None;
        }
    }
    None
}
