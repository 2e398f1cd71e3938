//! Proves the chunks of the replica store to the tracker, over the upload server of this program.

use crate::content::{ChunkIndex, Digest, FileId};
use crate::net::Shutdown;
use crate::protocol::tokens::{KeyPrint, Nonce};
use crate::storage::{ReplicaStore, StoreError};
use crate::upload::prover::{NoProof, Prover};
use std::sync::Arc;

/// The prover of a replica store.
pub(super) struct StoreProver {
    store: Arc<ReplicaStore>,
    print: KeyPrint,
    shutdown: Shutdown,
}

impl StoreProver {
    pub(super) fn new(store: Arc<ReplicaStore>, shutdown: Shutdown) -> Self {
        let print = store.key().print();
        Self { store, print, shutdown }
    }
}

impl Prover for StoreProver {
    fn has_key(&self, holder: KeyPrint) -> bool {
        holder == self.print
    }

    fn prove(&self, file: FileId, index: ChunkIndex, nonce: Nonce) -> Result<Digest, NoProof> {
        let held = self.store.file(file).ok_or(NoProof::NotHere)?;
        let stop = || self.shutdown.is_stopped();
        held.prove(index, self.store.key(), nonce, &stop).map_err(|error| match error {
            StoreError::Missing(_) => NoProof::NotHere,
            // Says nothing about the chunk: no free descriptor, a failing disk, the shutdown.
            error => {
                log::debug!("cannot prove chunk {index} of {}: {error}", file.short());
                NoProof::CannotTell
            }
        })
    }
}
