//! Marks of corrupt files in the folder: their bytes differ from their id, although their metadata is unchanged.
//!
//! Such a file is neither served nor compared with, and its bytes are no new version of its name, also after a restart.
//! The mark ends when the file is edited, replaced or removed, or when its bytes are found right. Invariant: a mark is
//! durable before it takes effect.

use super::Inner;
use crate::content::{DurableStamp, FileId, FileName};
use crate::storage::{FileStamp, SharedFile, SharedFolder};
use crate::swarm::keeping::{Change, CorruptFile};
use crate::sync::lock;
use crate::tracker::store::CatalogueError;

/// Suffix of the name to which a recall renames a corrupt file.
pub(super) const ASIDE_SUFFIX: &str = ".corrupt";

impl Inner {
    /// The mark of the file of this name.
    fn corrupt_file(&self, name: &FileName) -> Option<CorruptFile> {
        lock(&self.corrupt).get(name).copied()
    }

    /// Whether the file of this name was found corrupt.
    pub(super) fn is_corrupt(&self, name: &FileName) -> bool {
        lock(&self.corrupt).contains_key(name)
    }

    /// The mark of a name, if the present file of this name is unchanged since it was found corrupt.
    pub(super) fn corrupt_file_in_place(
        &self,
        folder: &SharedFolder,
        name: &FileName,
    ) -> Option<CorruptFile> {
        self.corrupt_file(name).filter(|mark| stamp_at(folder, name) == Some(mark.stamp))
    }

    /// Marks a file as corrupt.
    pub(super) fn mark_corrupt(&self, name: &FileName, mark: CorruptFile) -> Result<(), CatalogueError> {
        self.catalogue.commit(&[Change::Corrupt(name.clone(), Some(mark))])?;
        lock(&self.corrupt).insert(name.clone(), mark);
        Ok(())
    }

    /// Removes the mark of a file, if it has one.
    pub(super) fn unmark_corrupt(&self, name: &FileName) -> Result<(), CatalogueError> {
        if !self.is_corrupt(name) {
            return Ok(());
        }
        self.catalogue.commit(&[Change::Corrupt(name.clone(), None)])?;
        lock(&self.corrupt).remove(name);
        Ok(())
    }

    /// Removes the marks of a file from memory; the record that it is forgotten removes them from the catalogue.
    pub(super) fn forget_corrupt(&self, id: FileId) {
        lock(&self.corrupt).retain(|_, mark| mark.id != id);
    }

    /// Handles that a file is no longer shared. `found`: its stamp, if it was found corrupt.
    pub(super) fn update_corrupt(
        &self,
        folder: &SharedFolder,
        (name, id): (&FileName, FileId),
        found: Option<DurableStamp>,
    ) -> Result<(), CatalogueError> {
        match found {
            // Bytes that are marked already have the id of the corrupt content.
            Some(_) if self.corrupt_file_in_place(folder, name).is_some() => Ok(()),
            Some(stamp) if self.known(id).is_some() => self.mark_corrupt(name, CorruptFile { id, stamp }),
            _ if self.corrupt_file_in_place(folder, name).is_some() => Ok(()),
            _ => self.unmark_corrupt(name),
        }
    }

    /// Whether a file that has just been hashed is a marked one, and still corrupt. Removes the mark otherwise.
    pub(super) fn is_still_corrupt(
        &self,
        folder: &SharedFolder,
        file: &SharedFile,
    ) -> Result<bool, CatalogueError> {
        let name = &file.name;
        let mark = self.corrupt_file(name);
        let is_same = |mark: &CorruptFile| folder.stamp(name) == Some(mark.stamp);
        match mark.filter(|mark| mark.id != file.id && is_same(mark)) {
            Some(mark) => {
                let id = mark.id.short();
                match self.known(mark.id).is_some_and(|kept| kept.file.name == *name) {
                    true => log::warn!(
                        "{name} is corrupt and not offered: its bytes differ from id {id}, although size and \
                         modification time are unchanged; restore it with `recall {name}`, or replace the file"
                    ),
                    false => log::warn!("{name} is not offered: it is a corrupt copy of {id}; remove it"),
                }
                Ok(true)
            }
            None => self.unmark_corrupt(name).map(|()| false),
        }
    }
}

/// The stamp of the file under a name.
fn stamp_at(folder: &SharedFolder, name: &FileName) -> Option<DurableStamp> {
    FileStamp::at(&folder.path_of(name))?.durable()
}
