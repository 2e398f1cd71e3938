//! What a volunteer is ordered that needs its disk alone: to drop chunks, and to prove that it has one.
//!
//! A thread of its own, so that a proof does not wait behind copies from a slow peer.

use super::{Done, HeldReplicas, Job, work};
use crate::content::limits::NAMED_CHUNKS_MAX;
use crate::content::{ChunkIndex, Digest, FileId};
use crate::net::Shutdown;
use crate::protocol::volunteer::{ChallengedRange, VolunteerReport};
use crossbeam_channel::{Receiver, Sender};
use std::collections::BTreeSet;

/// Something that needs the disk alone.
pub(super) enum Chore {
    /// Drop chunks.
    Drop(FileId, Vec<ChunkIndex>),
    /// Prove that a chunk is here.
    Prove(u64, ChallengedRange),
}

/// Does what is to be done, one after the other, until the shutdown.
pub(super) fn run(
    replicas: &HeldReplicas,
    jobs: &Receiver<Job<Chore>>,
    done: &Sender<Done>,
    shutdown: &Shutdown,
) {
    work(
        jobs,
        done,
        shutdown,
        || {},
        |chore, _| match chore {
            Chore::Drop(file, chunks) => drop_chunks(replicas, file, chunks),
            Chore::Prove(challenge, range) => {
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
    // How much can be taken then is filled in when it is said.
    let free = 0;
    let pieces = chunks.chunks(NAMED_CHUNKS_MAX);
    pieces.map(|chunks| VolunteerReport::Dropped { file, chunks: chunks.to_vec(), free }).collect()
}

/// The proof, from the disk; nothing when the chunk is not here, or is not right.
fn prove(replicas: &HeldReplicas, range: &ChallengedRange) -> Option<Digest> {
    let file = replicas.store.file(range.file);
    // All of it is looked at: damage beside the range is damage, too.
    let checked = file.as_ref().map_or(Ok(false), |file| file.check(range.index));
    let proof = match (file, checked) {
        (Some(file), Ok(true)) => file.prove(range),
        (_, Ok(_)) => None,
        (_, Err(error)) => {
            log::debug!("a challenge cannot be met: {error}");
            None
        }
    };
    if proof.is_none() {
        let (index, file) = (range.index, range.file.short());
        log::warn!("chunk {index} of {file} was challenged and cannot be proven to be here");
    }
    proof
}
