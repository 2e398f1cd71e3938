//! Tasks that need only the tracker's own disk: answer challenges, drop chunks, offload and forget files.

use super::Inner;
use crate::content::{ChunkIndex, Digest, FileId};
use crate::protocol::volunteer::{ChallengedRange, KeptFile};
use crate::storage::{ChunkSource as _, SharedFile, StoreError};
use crate::swarm::keeping::TaskOutcome;
use crate::sync::lock;
use std::os::unix::fs::FileExt as _;

impl Inner {
    /// The proof for a challenge, computed from the complete file or from a chunk in the own store.
    pub(super) fn prove(&self, range: &ChallengedRange) -> Option<Digest> {
        let whole = self.folder.as_ref().and_then(|folder| folder.by_id(range.file));
        let proof = whole.and_then(|file| self.prove_from_file(&file, range));
        proof.or_else(|| self.store.file(range.file)?.prove(range))
    }

    fn prove_from_file(&self, file: &SharedFile, range: &ChallengedRange) -> Option<Digest> {
        let stored = file.file.stored(range.index).ok()?;
        range.offset.checked_add(range.length).filter(|end| *end <= stored.length)?;
        let mut bytes = vec![0; range.length as usize];
        stored.file.read_exact_at(&mut bytes, stored.offset + u64::from(range.offset)).ok()?;
        // A file that changed while it was read proves nothing.
        file.file.is_intact().then(|| range.proof(&bytes))
    }

    /// Drops chunks from the own store and reports it.
    pub(super) fn drop_chunks(&self, file: FileId, chunks: Vec<ChunkIndex>) {
        if let Err(error) = self.store.remove(file, &chunks) {
            // The chunks are no longer served. If they still exist at the next start, they are reported again.
            log::warn!("{error}");
        }
        self.serve_by_id(file);
        self.report(TaskOutcome::Dropped(file, chunks));
    }

    /// Deletes the tracker's own copy of a file.
    ///
    /// Returns whether it was deleted. The caller holds [`Inner::offer_lock`].
    pub(super) fn offload(&self, kept: &KeptFile) -> bool {
        let (id, name) = (kept.file.id, &kept.file.name);
        let Some(folder) = &self.folder else {
            log::warn!("{name} not deleted: the tracker runs without --files");
            return false;
        };
        let other = folder.files().into_iter().find(|file| file.id == id && file.name != *name);
        if let Some(other) = other {
            log::warn!("{name} not deleted: {} has the same content", other.name);
            return false;
        }
        // Before the deletion, so that the manifest is served without a gap.
        self.serve_by_id(id);
        match folder.delete(name, id, &|| self.offers.withdraw_file(name, id)) {
            Ok(true) => {
                log::info!("offloaded {name}: volunteers store it, the tracker's copy was deleted");
                true
            }
            Ok(false) => {
                log::warn!("{name} not deleted: it has changed since it was published");
                false
            }
            Err(error) => {
                log::warn!("{name} not deleted: {error}");
                self.withdraw_missing(id, &error);
                false
            }
        }
    }

    /// Reports a file as withdrawn if a failed deletion removed it from the folder's list.
    ///
    /// The publisher hashes the file again if it still exists, and then reports it as published.
    fn withdraw_missing(&self, id: FileId, error: &StoreError) {
        let folder = self.folder.as_ref();
        if folder.is_none_or(|folder| folder.by_id(id).is_none()) {
            log::debug!("withdrew {} until it has been hashed again: {error}", id.short());
            self.report(TaskOutcome::Withdrawn(id));
        }
    }

    /// Stops serving a file and drops its chunks from the own store.
    ///
    /// The file in the folder belongs to the user: it remains there, not offered. It is published again after a
    /// restart, or when the user removes it and puts it back.
    pub(super) fn forget(&self, id: FileId) {
        let _offer_lock = self.lock_offers();
        let kept = lock(&self.known).remove(&id);
        lock(&self.last_manifest).take();
        let copies = self.folder.iter().flat_map(|folder| folder.files()).filter(|file| file.id == id);
        for file in copies {
            self.offers.withdraw_file(&file.name, id);
            self.ignore(id, true);
            log::warn!(
                "{} remains in the folder; remove it, or it is published again after a restart",
                file.name
            );
        }
        self.offers.take(id);
        if let Some(file) = self.store.file(id) {
            let (have, _) = file.progress().have();
            if let Err(error) = self.store.remove(id, &have.iter().collect::<Vec<_>>()) {
                log::warn!("{error}");
            }
        }
        if let Some(kept) = kept {
            log::info!("forgot {}: it is no longer stored or served", kept.file.name);
        }
    }
}
