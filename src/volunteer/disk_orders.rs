//! Orders of the tracker that need only the volunteer's disk: drop chunks, answer a challenge.
//!
//! Thread `volunteer-disk` carries them out, so that a proof does not wait for copies from a slow peer.

use super::{Done, HeldReplicas, Job, work};
use crate::content::limits::NAMED_CHUNKS_MAX;
use crate::content::{ChunkIndex, Digest, FileId};
use crate::net::Shutdown;
use crate::protocol::volunteer::{ChallengedRange, VolunteerReport};
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeSet;

/// An order that needs only the disk.
pub(super) enum DiskOrder {
    /// Drop chunks.
    Drop(FileId, Vec<ChunkIndex>),
    /// Answer a challenge, given by its number.
    Prove(u64, ChallengedRange),
}

/// Carries out orders one after the other, until the shutdown.
pub(super) fn run(
    replicas: &HeldReplicas,
    jobs: &Receiver<Job<DiskOrder>>,
    done: &Sender<Done>,
    shutdown: &Shutdown,
) {
    work(
        jobs,
        done,
        shutdown,
        || {},
        |order, _| match order {
            DiskOrder::Drop(file, chunks) => drop_chunks(replicas, file, chunks),
            DiskOrder::Prove(challenge, range) => {
                vec![VolunteerReport::Proof { challenge, sha256: prove(replicas, &range) }]
            }
        },
    );
}

fn drop_chunks(replicas: &HeldReplicas, file: FileId, mut chunks: Vec<ChunkIndex>) -> Vec<VolunteerReport> {
    if let Err(error) = replicas.store.remove(file, &chunks) {
        log::warn!("{error}");
    }
    replicas.sync_offer(file);
    if let Some(file) = replicas.store.file(file) {
        let left: BTreeSet<ChunkIndex> = file.held_of(&chunks).collect();
        chunks.retain(|index| !left.contains(index));
    }
    // `as_of_now` fills in the free space when the message is sent.
    let free = 0;
    let pieces = chunks.chunks(NAMED_CHUNKS_MAX);
    pieces.map(|chunks| VolunteerReport::Dropped { file, chunks: chunks.to_vec(), free }).collect()
}

/// The proof for a challenge, read from the disk; `None` if the chunk is missing or corrupt.
fn prove(replicas: &HeldReplicas, range: &ChallengedRange) -> Option<Digest> {
    let file = replicas.store.file(range.file);
    // The whole chunk is verified: it may be corrupt outside the challenged range.
    let checked = file.as_ref().map_or(Ok(false), |file| file.check(range.index));
    let proof = match (file, checked) {
        (Some(file), Ok(true)) => file.prove(range),
        (_, Ok(_)) => None,
        (_, Err(error)) => {
            log::debug!("failed to read a challenged chunk: {error}");
            None
        }
    };
    if proof.is_none() {
        let (index, file) = (range.index, range.file.short());
        log::warn!("challenge failed: chunk {index} of {file} is missing or corrupt");
    }
    proof
}
