//! The `local_chunks.txt` of a chunk folder, and the files that it lists.
//!
//! The user may edit the list, too: it is read again before each change, keeps the user's lines,
//! and is replaced by an atomic rename. Invariant: a file returned by [`locate`](ChunkList::locate)
//! lies inside the folder after links have been resolved.

use super::disk;
use super::error::{self, StoreError};
use crate::content::limits::{CHUNKS_MAX, FILE_NAME_MAX};
use crate::content::local_chunks::{self, LocalChunks};
use crate::content::{ChunkIndex, FileName};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Longest `local_chunks.txt`, bytes: every chunk listed with the longest name and some spaces.
const LIST_BYTES_MAX: u64 = CHUNKS_MAX as u64 * (FILE_NAME_MAX as u64 + 16);

/// A parsed list, with its path, raw bytes and permissions.
pub(super) struct ChunkList {
    path: PathBuf,
    bytes: Vec<u8>,
    mode: u32,
    names: HashMap<FileName, ChunkIndex>,
    pub chunks: LocalChunks,
}

impl ChunkList {
    /// Reads the list of a folder.
    pub(super) fn read(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(local_chunks::FILE);
        let (file, _) = disk::open_regular(&path)?;
        let mode = file.metadata().map_err(error::io("read the metadata of", &path))?.mode();
        let mut bytes = Vec::new();
        let read = file.take(LIST_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(error::io("read", &path))?;
        if read as u64 > LIST_BYTES_MAX {
            return Err(error::invalid_input("read", &path, format!("longer than {LIST_BYTES_MAX} bytes")));
        }
        let chunks =
            LocalChunks::parse(&bytes).map_err(|error| StoreError::Chunks { path: path.clone(), error })?;
        let names = chunks.files.iter().map(|(&index, name)| (name.clone(), index)).collect();
        Ok(Self { path, bytes, mode, names, chunks })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the list has this file name for another chunk.
    pub(super) fn is_listed_for_another_chunk(&self, name: &FileName, index: ChunkIndex) -> bool {
        self.names.get(name).is_some_and(|other| *other != index)
    }

    /// Adds lines for chunks, durably. Nothing is written if all are listed under these names. All other
    /// bytes and the permissions are kept.
    pub(super) fn add(
        self,
        chunks: impl IntoIterator<Item = (ChunkIndex, FileName)>,
    ) -> Result<(), StoreError> {
        let is_new = |(index, name): &(ChunkIndex, FileName)| self.chunks.files.get(index) != Some(name);
        let new: BTreeMap<ChunkIndex, FileName> = chunks.into_iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        let text = LocalChunks::with_lines(&self.bytes, &new);
        let temporary = disk::temporary(&self.path, &text, true)?;
        let set = temporary.as_file().set_permissions(Permissions::from_mode(self.mode & 0o7777));
        set.map_err(error::io("replace", &self.path))?;
        disk::replace(&self.path, temporary)?;
        disk::sync_folder(disk::folder_of(&self.path))
    }

    /// Path of the file of a listed chunk. `root` is the folder with its links resolved.
    ///
    /// # Errors
    /// The file is missing, not regular, not readable, or outside the folder.
    pub(super) fn locate(&self, root: &Path, index: ChunkIndex) -> Result<PathBuf, StoreError> {
        let Some(name) = self.chunks.files.get(&index) else { return Err(StoreError::Missing(index)) };
        let path = match fs::canonicalize(root.join(name.as_str())) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.fault(index, "file not found".into()));
            }
            Err(error) => return Err(self.fault(index, error.to_string())),
        };
        if !path.starts_with(root) {
            return Err(self.fault(index, format!("outside the folder: {}", path.display())));
        }
        if path == root.join(local_chunks::FILE) {
            return Err(self.fault(index, "the list itself cannot be a chunk".into()));
        }
        match disk::open_regular(&path) {
            Ok(_) => Ok(path),
            Err(error) => Err(self.unreadable(index, error)),
        }
    }

    /// Adds the line that lists the file to an error of that file.
    pub(super) fn unreadable(&self, index: ChunkIndex, error: StoreError) -> StoreError {
        match error {
            StoreError::NotAFile(_) => self.fault(index, "not a regular file".into()),
            StoreError::Io { action, source, .. } => {
                self.fault(index, format!("cannot {action} the file: {source}"))
            }
            other => other,
        }
    }

    fn fault(&self, index: ChunkIndex, reason: String) -> StoreError {
        let file = self.chunks.files.get(&index).map_or("", FileName::as_str).to_owned();
        let line = LocalChunks::line_of(&self.bytes, index).unwrap_or(0);
        StoreError::ChunkFile { path: self.path.clone(), line, index, file, reason }
    }
}
