//! Stores chunks in a chunk folder in batches: each is staged at once, and all staged chunks are
//! committed together.
//!
//! One commit costs several fsyncs and a rewrite of the list, so it covers as many chunks as are
//! staged. Invariant: a chunk's bytes and its name are durable before its line is in the list.

use super::super::chunk_list::ChunkList;
use super::super::disk::{self, Stamp};
use super::super::error::{self, StoreError};
use super::super::hashing::{self, HashCallbacks};
use super::written::{Content, WrittenFiles};
use super::{ChunkFolder, HeldChunk, file_names};
use crate::content::{ChunkIndex, Digest, FileName};
use crate::sync::lock;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};
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

    /// Appends bytes of the chunk. They are dropped if the folder has the chunk already.
    ///
    /// # Errors
    /// The file cannot be written, or the disk is full.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let written = file.write_all(bytes);
        written.map_err(error::write("write", file.path(), self.chunk.length))
    }
}

impl ChunkFolder {
    /// Writes a chunk under a temporary name; **the caller has verified its bytes** against
    /// `digest`. [`commit`](Self::commit) adds it to the folder. No fsync.
    ///
    /// # Errors
    /// The chunk does not exist, or differs from the manifest; the folder cannot be written to, or the disk
    /// is full.
    pub fn stage(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<StagedChunk, StoreError> {
        let mut staged = self.stage_in_parts(index, digest, bytes.len() as u64)?;
        staged.write(bytes)?;
        Ok(staged)
    }

    /// Creates a chunk under a temporary name for [`write`](StagedChunk::write); **the caller verifies all its bytes**
    /// against `digest` before [`commit`](Self::commit). No fsync.
    ///
    /// # Errors
    /// The chunk does not exist, or differs from the manifest; the folder cannot be written to.
    pub fn stage_in_parts(
        &self,
        index: ChunkIndex,
        digest: Digest,
        length: u64,
    ) -> Result<StagedChunk, StoreError> {
        let chunk = HeldChunk { index, digest, length };
        self.check_acceptable(chunk)?;
        let file = match self.is_intact(chunk) {
            true => None,
            // Only the folder of this path matters.
            false => Some(disk::temporary(&self.root.join("chunk"), b"", false)?),
        };
        Ok(StagedChunk { chunk, file })
    }

    /// Adds staged chunks to the folder: first their files, durably, then their lines.
    ///
    /// The name of a chunk's file is `chunk_<number>`, or the listed name if no file has it. A file
    /// that this client did not write is never replaced: the chunk is stored beside it, with 8
    /// digits of the digest appended to the name, and the line is changed. A chunk that is present
    /// and unchanged is not replaced. A chunk that differs from the manifest, which may be newer, is left out.
    ///
    /// # Errors
    /// The folder cannot be written, the disk is full, or its `local_chunks.txt` is invalid or has
    /// another number of chunks. None of the chunks is added then.
    pub fn commit(&self, chunks: Vec<StagedChunk>) -> Result<(), StoreError> {
        for StagedChunk { chunk, file } in &chunks {
            let Some(file) = file else { continue };
            let needed = chunk.length;
            disk::sync(file.as_file()).map_err(error::write("write", file.path(), needed))?;
        }
        let mut written = lock(&self.writing);
        let list = self.read_list()?;
        // Two sources may have sent the same chunk. If the agreed hash has changed, the last counts.
        let mut staged = BTreeMap::new();
        for StagedChunk { chunk, file } in chunks {
            let Some(file) = file.filter(|_| !self.is_intact(chunk)) else { continue };
            // Another hash may have been sealed since the chunk was staged: the other chunks are right.
            match self.check_acceptable(chunk) {
                Ok(()) => _ = staged.insert(chunk.index, (chunk, file)),
                Err(error) => log::info!("chunk {} not stored: {error}", chunk.index),
            }
        }
        let mut plans = Vec::new();
        for (chunk, file) in staged.into_values() {
            plans.push((chunk, file, self.plan(chunk, &list, &written)?));
        }
        written.add(&plans.iter().filter_map(|(chunk, _, plan)| plan.record(*chunk)).collect::<Vec<_>>())?;
        let mut placed: Vec<(HeldChunk, FileName, Stamp)> = Vec::new();
        for (chunk, file, plan) in plans {
            let (name, stamp) = self.place(file, chunk, plan, &list, &mut written)?;
            placed.push((chunk, name, stamp));
        }
        if placed.is_empty() {
            return Ok(());
        }
        disk::sync_folder(&self.root)?;
        let unlisted = self.unlisted(&placed, &list, &written)?;
        list.add(placed.iter().map(|(chunk, name, _)| (chunk.index, name.clone())))?;
        placed.into_iter().for_each(|(chunk, name, stamp)| self.insert_trusted(chunk, &name, stamp));
        for path in unlisted {
            disk::remove(&path).err().into_iter().for_each(|error| log::warn!("{error}"));
        }
        Ok(())
    }

    /// Decides the file name of a chunk. Changes nothing.
    fn plan(&self, chunk: HeldChunk, list: &ChunkList, written: &WrittenFiles) -> Result<Plan, StoreError> {
        let listed = list.chunks.files.get(&chunk.index);
        let mut names: Vec<FileName> = file_names(chunk).collect();
        if let Some(name) = listed {
            // A name with the digest of another chunk is not used again.
            let reusable = names.contains(name) || !has_digest(name, chunk.index);
            match self.found(name, chunk, written)? {
                Found::Nothing | Found::Written if !reusable => {}
                Found::Users => _ = names.remove(0),
                _ => names.insert(0, name.clone()),
            }
        }
        for name in names {
            if list.is_listed_for_another_chunk(&name, chunk.index) {
                continue;
            }
            match self.found(&name, chunk, written)? {
                Found::Nothing => return Ok(Plan::Create(name)),
                Found::Written => return Ok(Plan::Replace(name)),
                Found::SameContent(stamp) => return Ok(Plan::Keep(name, stamp)),
                Found::Users => {}
            }
        }
        Err(StoreError::Exists(self.root.join(format!("chunk_{}", chunk.index))))
    }

    /// Inspects the file of a name.
    fn found(&self, name: &FileName, chunk: HeldChunk, written: &WrittenFiles) -> Result<Found, StoreError> {
        if let Some(stamp) = self.stamp_if_equal(name, chunk)? {
            return Ok(Found::SameContent(stamp));
        }
        let path = self.root.join(name.as_str());
        match path.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(error) => Err(error::io("read the metadata of", &path)(error)),
            Ok(_) if self.is_written(name, written)? => Ok(Found::Written),
            Ok(_) => Ok(Found::Users),
        }
    }

    /// Whether the content of a file is what this client wrote to it.
    fn is_written(&self, name: &FileName, written: &WrittenFiles) -> Result<bool, StoreError> {
        let path = self.root.join(name.as_str());
        let Ok(metadata) = path.symlink_metadata() else { return Ok(false) };
        if !metadata.is_file() || !written.may_contain(name, metadata.len()) {
            return Ok(false);
        }
        let mut buffer = hashing::buffer(metadata.len());
        match hashing::hash_file(&path, &mut buffer, HashCallbacks::NONE) {
            Ok((digest, stamp)) => Ok(written.contains(name, (stamp.size, digest))),
            Err(StoreError::Changed(_) | StoreError::NotAFile(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives a staged chunk its name.
    fn place(
        &self,
        mut file: NamedTempFile,
        chunk: HeldChunk,
        mut plan: Plan,
        list: &ChunkList,
        written: &mut WrittenFiles,
    ) -> Result<(FileName, Stamp), StoreError> {
        let stamp = Stamp::read(file.as_file(), file.path())?;
        loop {
            match plan {
                Plan::Keep(name, stamp) => return Ok((name, stamp)),
                Plan::Replace(name) => {
                    disk::replace(&self.root.join(name.as_str()), file)?;
                    return Ok((name, stamp));
                }
                Plan::Create(name) => {
                    let path = self.root.join(name.as_str());
                    match file.persist_noclobber(&path) {
                        Ok(_) => return Ok((name, stamp)),
                        Err(error) if path.symlink_metadata().is_ok() => file = error.file,
                        Err(error) => return Err(error::io("rename a chunk to", &path)(error.error)),
                    }
                }
            }
            // The user has created a file of that name meanwhile.
            plan = self.plan(chunk, list, written)?;
            written.add(&plan.record(chunk).into_iter().collect::<Vec<_>>())?;
        }
    }

    /// The listed files that other files replace in the list, if this client wrote them: they are
    /// removed once the list is durable. A file of the user stays; the log names it.
    fn unlisted(
        &self,
        placed: &[(HeldChunk, FileName, Stamp)],
        list: &ChunkList,
        written: &WrittenFiles,
    ) -> Result<Vec<PathBuf>, StoreError> {
        let mut unlisted = Vec::new();
        for (chunk, name, _) in placed {
            let Some(before) = list.chunks.files.get(&chunk.index).filter(|before| *before != name) else {
                continue;
            };
            match self.is_written(before, written)? {
                true => unlisted.push(self.root.join(before.as_str())),
                false => log::info!(
                    "{before} is kept in {}: it differs from the agreed chunk {}, which is stored as {name}",
                    self.folder.display(),
                    chunk.index
                ),
            }
        }
        Ok(unlisted)
    }

    pub(super) fn read_list(&self) -> Result<ChunkList, StoreError> {
        let list = ChunkList::read(&self.folder)?;
        match list.chunks.count == self.count {
            true => Ok(list),
            false => Err(StoreError::Changed(list.path().to_owned())),
        }
    }
}

/// What a commit does with a chunk.
enum Plan {
    /// A file has the chunk's content already.
    Keep(FileName, Stamp),
    /// No file has the name.
    Create(FileName),
    /// This client wrote the file of that name.
    Replace(FileName),
}

impl Plan {
    /// The line for the record of written files, if a file is written.
    fn record(&self, chunk: HeldChunk) -> Option<(FileName, Content)> {
        match self {
            Self::Keep(..) => None,
            Self::Create(name) | Self::Replace(name) => Some((name.clone(), (chunk.length, chunk.digest))),
        }
    }
}

/// The file of a name, from the view of a chunk that is to be stored.
enum Found {
    Nothing,
    SameContent(Stamp),
    /// Another content, written by this client.
    Written,
    /// Another content, or no regular file, of the user.
    Users,
}

/// Whether a file name is `chunk_<number>_<digits of a digest>`.
fn has_digest(name: &FileName, index: ChunkIndex) -> bool {
    let digits = name.as_str().strip_prefix(&format!("chunk_{index}_"));
    digits.is_some_and(|digits| {
        matches!(digits.len(), 8 | 64) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
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
