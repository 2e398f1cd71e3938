//! How a chunk gets into a folder: kept at once, and made part of the folder together with all that came meanwhile.
//!
//! Making one chunk durable costs several waits for the disk and the whole list written anew; so it is done for as many
//! at once as there are. Invariant: a chunk's bytes and its name are on the disk before its line is in the list.

use super::super::chunk_list::ChunkList;
use super::super::disk::{self, Stamp};
use super::super::error::{self, StoreError};
use super::{ChunkFolder, HeldChunk, file_names, lock};
use crate::content::{ChunkIndex, Digest, FileName};
use std::fs;
use std::path::Path;
use tempfile::NamedTempFile;

/// A chunk that is in the folder under a temporary name: neither durable nor listed. When it is dropped it is gone.
#[derive(Debug)]
pub struct StagedChunk {
    chunk: HeldChunk,
    /// `None` when the folder had it already.
    file: Option<NamedTempFile>,
}

impl StagedChunk {
    /// Which chunk it is.
    pub fn chunk(&self) -> HeldChunk {
        self.chunk
    }
}

impl ChunkFolder {
    /// Takes in a chunk whose bytes the caller has verified against `digest`, under a temporary name;
    /// [`commit`](Self::commit) makes it part of the folder. Waits for no disk, unless the system does.
    ///
    /// # Errors
    /// No such chunk, too large, not what the manifest says; the folder cannot be written to or is full.
    pub fn stage(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<StagedChunk, StoreError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let chunk = HeldChunk { index, digest, length };
        self.check_acceptable(chunk)?;
        let file = match self.is_intact(chunk) {
            true => None,
            // Any name in the folder will do.
            false => Some(disk::temporary(&self.root.join("chunk"), bytes, false)?),
        };
        Ok(StagedChunk { chunk, file })
    }

    /// Makes chunks part of the folder: their files first, durably, then their lines. Each takes the name that is
    /// listed for the chunk and replaces that file; else `chunk_<number>`, or the same with a part of the digest
    /// behind it where other content has that name. A chunk that is there and unchanged is left as it is.
    ///
    /// # Errors
    /// The folder cannot be written to, is full, or its `local_chunks.txt` is no longer right or for another number
    /// of chunks. None of the chunks counts then.
    pub fn commit(&self, chunks: Vec<StagedChunk>) -> Result<(), StoreError> {
        for StagedChunk { file, .. } in &chunks {
            let Some(file) = file else { continue };
            file.as_file().sync_all().map_err(error::io("sync", file.path()))?;
        }
        let _writing = lock(&self.writing);
        let list = self.read_list()?;
        let mut placed: Vec<(HeldChunk, FileName, Stamp)> = Vec::new();
        for StagedChunk { chunk, file } in chunks {
            let Some(file) = file.filter(|_| !self.is_intact(chunk)) else { continue };
            // Two sources may have sent the same one.
            if placed.iter().any(|(other, ..)| *other == chunk) {
                continue;
            }
            self.check_acceptable(chunk)?;
            let stamp = Stamp::read(file.as_file(), file.path())?;
            let before =
                placed.iter().find(|(other, ..)| other.index == chunk.index).map(|(_, name, _)| name);
            let (name, stamp) = match list.chunks.files.get(&chunk.index).or(before).cloned() {
                Some(name) => {
                    disk::replace(&self.root.join(name.as_str()), file)?;
                    (name, stamp)
                }
                None => self.place(file, stamp, chunk, &list)?,
            };
            placed.retain(|(other, ..)| other.index != chunk.index);
            placed.push((chunk, name, stamp));
        }
        if placed.is_empty() {
            return Ok(());
        }
        disk::sync_folder(&self.root)?;
        list.add(placed.iter().map(|(chunk, name, _)| (chunk.index, name.clone())))?;
        placed.into_iter().for_each(|(chunk, name, stamp)| self.insert_trusted(chunk, &name, stamp));
        Ok(())
    }

    pub(super) fn read_list(&self) -> Result<ChunkList, StoreError> {
        let list = ChunkList::read(&self.folder)?;
        match list.chunks.count == self.count {
            true => Ok(list),
            false => Err(StoreError::Changed(list.path().to_owned())),
        }
    }

    /// Gives the file of a chunk that is not listed a name that nothing else has.
    fn place(
        &self,
        mut temporary: NamedTempFile,
        stamp: Stamp,
        chunk: HeldChunk,
        list: &ChunkList,
    ) -> Result<(FileName, Stamp), StoreError> {
        for name in file_names(chunk) {
            if list.is_listed_for_another_chunk(&name, chunk.index) {
                continue;
            }
            let path = self.root.join(name.as_str());
            match temporary.persist_noclobber(&path) {
                Ok(_) => return Ok((name, stamp)),
                Err(error) if path.symlink_metadata().is_ok() => temporary = error.file,
                Err(error) => return Err(error::io("rename a chunk to", &path)(error.error)),
            }
            if let Some(stamp) = self.stamp_if_equal(&name, chunk)? {
                return Ok((name, stamp));
            }
        }
        Err(StoreError::Exists(self.root.join(format!("chunk_{}", chunk.index))))
    }
}

/// Removes what an earlier run had under temporary names when it was killed. The folder is locked, so that nobody
/// writes to them any more.
pub(super) fn remove_leftovers(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten().filter(|entry| disk::is_temporary(&entry.file_name())) {
        if let Err(error) = disk::remove(&entry.path()) {
            log::warn!("{error}");
        }
    }
}
