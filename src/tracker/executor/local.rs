//! Tasks that need only the tracker's own disk: drop chunks, offload, withdraw and forget files.

use super::Inner;
use crate::content::fmt::counted;
use crate::content::{ChunkIndex, FileId};
use crate::protocol::volunteer::KeptFile;
use crate::storage::shared_folder::Deletion;
use crate::storage::{ChunkSource as _, StoreError};
use crate::swarm::keeping::{CorruptFile, OffloadResult, TaskOutcome};
use crate::sync::lock;

impl Inner {
    /// Drops chunks from the own store, as long as the permit is valid, and reports those that were dropped.
    pub(super) fn drop_chunks(&self, file: FileId, chunks: &[ChunkIndex], permit: u64) {
        let mut dropped = Vec::new();
        for index in chunks {
            if !self.permits.allows(permit) {
                log::info!(
                    "kept {} of {}: the order to drop them was revoked",
                    counted((chunks.len() - dropped.len()) as u64, "chunk"),
                    file.short()
                );
                break;
            }
            if let Err(error) = self.store.remove(file, &[*index]) {
                // The chunk is no longer served. If it still exists at the next start, it is reported again.
                log::warn!("{error}");
            }
            dropped.push(*index);
        }
        self.serve_by_id(file);
        self.report(TaskOutcome::Dropped(file, dropped));
    }

    /// Stops serving the copy of a file in the folder, which was found corrupt, and reports it.
    ///
    /// The file belongs to the user: it remains there. Its name is offered again when the file changes.
    pub(super) fn withdraw_corrupt(&self, id: FileId) {
        let _offer_lock = self.lock_offers();
        if let Some(folder) = &self.folder {
            for file in folder.files().into_iter().filter(|file| file.id == id) {
                let mark = folder.stamp(&file.name).map(|stamp| CorruptFile { id, stamp });
                if let Some(Err(error)) = mark.map(|mark| self.mark_corrupt(&file.name, mark)) {
                    self.fail(error);
                }
                self.offers.withdraw_file(&file.name, id);
            }
        }
        self.serve_by_id(id);
        self.report(TaskOutcome::Withdrawn(id));
    }

    /// Deletes the tracker's own copy of a file, if the permit is still valid immediately before the deletion.
    ///
    /// The caller holds [`Inner::offer_lock`].
    pub(super) fn offload(&self, kept: &KeptFile, permit: u64) -> OffloadResult {
        let (id, name) = (kept.file.id, &kept.file.name);
        let Some(folder) = &self.folder else {
            log::warn!("{name} not deleted: the tracker runs without --files");
            return OffloadResult::Failed;
        };
        let other = folder.files().into_iter().find(|file| file.id == id && file.name != *name);
        if let Some(other) = other {
            log::warn!("{name} not deleted: {} has the same content", other.name);
            return OffloadResult::Failed;
        }
        // Before the deletion, so that the manifest is served without a gap.
        self.serve_by_id(id);
        let permitted = || self.permits.allows(permit);
        match folder.delete(name, id, &permitted, &|| self.offers.withdraw_file(name, id)) {
            Ok(Deletion::Deleted) => {
                log::info!("offloaded {name}: volunteers store it, the tracker's copy was deleted");
                OffloadResult::Deleted
            }
            Ok(Deletion::NotPermitted) => {
                log::info!("{name} not deleted: the order was revoked");
                OffloadResult::Revoked
            }
            Ok(Deletion::Changed) => {
                log::warn!("{name} not deleted: it has changed since it was published");
                OffloadResult::Failed
            }
            Err(error) => {
                log::warn!("{name} not deleted: {error}");
                self.withdraw_missing(id, &error);
                OffloadResult::Failed
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
        lock(&self.forgetting).remove(&id);
        self.forget_corrupt(id);
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
