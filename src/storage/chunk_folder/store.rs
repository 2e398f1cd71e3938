//! Stores chunks in a chunk folder in batches: each is staged at once, and all staged chunks are
//! committed together.
//!
//! One commit costs several fsyncs and a rewrite of the list, so it covers as many chunks as are
//! staged. Invariant: a chunk's bytes and its name are durable before its line is in the list.

use super::super::chunk_list::ChunkList;
use super::super::disk::{self, Stamp};
use super::super::error::{self, StoreError};
use super::{ChunkFolder, HeldChunk, file_names};
use crate::content::{ChunkIndex, Digest, FileName};
use crate::sync::lock;
use std::fs;
use std::path::Path;
use tempfile::NamedTempFile;

/// A chunk in the folder under a temporary name, neither durable nor listed. Removed when dropped.
#[derive(Debug)]
pub struct StagedChunk {
    chunk: HeldChunk,
    /// `None` if the folder has the chunk already.
    file: Option<NamedTempFile>,
}

impl StagedChunk {
    /// Index, digest and length of the chunk.
    pub fn chunk(&self) -> HeldChunk {
        self.chunk
    }
}

impl ChunkFolder {
    /// Writes a chunk under a temporary name; **the caller has verified its bytes** against
    /// `digest`. [`commit`](Self::commit) adds it to the folder. No fsync.
    ///
    /// # Errors
    /// The chunk does not exist, is too large, or differs from the manifest; the folder cannot be
    /// written to, or the disk is full.
    pub fn stage(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<StagedChunk, StoreError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let chunk = HeldChunk { index, digest, length };
        self.check_acceptable(chunk)?;
        let file = match self.is_intact(chunk) {
            true => None,
            // Only the folder of this path matters.
            false => Some(disk::temporary(&self.root.join("chunk"), bytes, false)?),
        };
        Ok(StagedChunk { chunk, file })
    }

    /// Adds staged chunks to the folder: first their files, durably, then their lines.
    ///
    /// A chunk takes the file name that is listed for it and replaces that file. Otherwise its name
    /// is `chunk_<number>`, with a part of the digest appended if other content has that name. A
    /// chunk that is present and unchanged is not replaced.
    ///
    /// # Errors
    /// The folder cannot be written, the disk is full, or its `local_chunks.txt` is invalid or has
    /// another number of chunks. None of the chunks is added then.
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
            // Two sources may have sent the same chunk.
            if placed.iter().any(|(other, ..)| *other == chunk) {
                continue;
            }
            self.check_acceptable(chunk)?;
            let stamp = Stamp::read(file.as_file(), file.path())?;
            let earlier_name =
                placed.iter().find(|(other, ..)| other.index == chunk.index).map(|(_, name, _)| name);
            let (name, stamp) = match list.chunks.files.get(&chunk.index).or(earlier_name).cloned() {
                Some(name) => {
                    disk::replace(&self.root.join(name.as_str()), file)?;
                    (name, stamp)
                }
                None => self.rename_to_free_name(file, stamp, chunk, &list)?,
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

    /// Renames the file of an unlisted chunk to a free name.
    fn rename_to_free_name(
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

/// Removes temporary files of a killed process. The folder is locked, so no other process writes to
/// them.
pub(super) fn remove_leftovers(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten().filter(|entry| disk::is_temporary(&entry.file_name())) {
        if let Err(error) = disk::remove(&entry.path()) {
            log::warn!("{error}");
        }
    }
}
