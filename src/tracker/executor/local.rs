//! Tasks that need only the tracker's own disk.

use super::Inner;
use crate::content::{ChunkIndex, Digest, FileId};
use crate::protocol::volunteer::{ChallengedRange, KeptFile};
use crate::storage::{ChunkSource as _, SharedFile, StoreError};
use crate::swarm::keeping::TaskOutcome;
use std::os::unix::fs::FileExt as _;

impl Inner {
    /// The tracker's own answer to a challenge: from the whole file, or from the chunk that came back.
    pub(super) fn prove(&self, range: &ChallengedRange) -> Option<Digest> {
        let whole = self.folder.as_ref().and_then(|folder| folder.by_id(range.file));
        let of_whole = whole.and_then(|file| self.prove_of(&file, range));
        of_whole.or_else(|| self.store.file(range.file)?.prove(range))
    }

    fn prove_of(&self, file: &SharedFile, range: &ChallengedRange) -> Option<Digest> {
        let stored = file.file.stored(range.index).ok()?;
        range.offset.checked_add(range.length).filter(|end| *end <= stored.length)?;
        let mut bytes = vec![0; range.length as usize];
        stored.file.read_exact_at(&mut bytes, stored.offset + u64::from(range.offset)).ok()?;
        // What was written to meanwhile proves nothing.
        file.file.is_intact().then(|| range.proof(&bytes))
    }

    /// Drops chunks from the own store.
    pub(super) fn drop_chunks(&self, file: FileId, chunks: Vec<ChunkIndex>) {
        if let Err(error) = self.store.remove(file, &chunks) {
            // They are served no more; when they are still there at the next start they are reported then.
            log::warn!("{error}");
        }
        self.place(file);
        self.tell(TaskOutcome::Dropped(file, chunks));
    }

    /// Deletes the tracker's own copy of a whole file. Returns whether it is gone. The caller holds [`Inner::placing`].
    pub(super) fn offload(&self, kept: &KeptFile) -> bool {
        let (id, name) = (kept.file.id, &kept.file.name);
        let Some(folder) = &self.folder else {
            log::warn!("{name} is not deleted: the tracker has no folder of files");
            return false;
        };
        let other = folder.files().into_iter().find(|file| file.id == id && file.name != *name);
        if let Some(other) = other {
            log::warn!("{name} is not deleted: {} has the same content", other.name);
            return false;
        }
        // Before it goes: whoever asks finds the manifest at every instant.
        self.place(id);
        match folder.delete(name, id, &|| self.shelf.withdraw_file(name, id)) {
            Ok(true) => {
                log::info!("{name} is with the volunteers, and deleted here");
                true
            }
            Ok(false) => {
                log::warn!("{name} is not deleted: it is not the file any more that was published");
                false
            }
            Err(error) => {
                log::warn!("{name} is not deleted: {error}");
                self.reinstate(id, &error);
                false
            }
        }
    }

    /// What could not be deleted is hashed again when it is there; until then it is not here.
    fn reinstate(&self, id: FileId, error: &StoreError) {
        let folder = self.folder.as_ref();
        if folder.is_none_or(|folder| folder.by_id(id).is_none()) {
            log::debug!("{} is hashed again after {error}", id.short());
            self.tell(TaskOutcome::Withdrawn(id));
        }
    }

    /// Serves nothing of a file any more and drops its chunks. The file in the folder is somebody else's: it stays, is
    /// not offered any more, and is kept again after a restart, or when it is removed and put there anew.
    pub(super) fn forget(&self, id: FileId) {
        let _placing = self.placing();
        let kept = super::lock(&self.known).remove(&id);
        super::lock(&self.manifest).take();
        let copies = self.folder.iter().flat_map(|folder| folder.files()).filter(|file| file.id == id);
        for file in copies {
            self.shelf.withdraw_file(&file.name, id);
            self.ignore(id, true);
            log::warn!("{} stays in the folder; remove it, or it is kept again after a restart", file.name);
        }
        self.shelf.take(id);
        if let Some(file) = self.store.file(id) {
            let (have, _) = file.progress().have();
            if let Err(error) = self.store.remove(id, &have.iter().collect::<Vec<_>>()) {
                log::warn!("{error}");
            }
        }
        if let Some(kept) = kept {
            log::info!("{} is not kept any more", kept.file.name);
        }
    }
}
