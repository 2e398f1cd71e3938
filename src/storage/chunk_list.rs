//! A folder's `local_chunks.txt` on disk, and the files that it lists.
//!
//! The list is the user's too: it is read again before each change, keeps what the user wrote, and is
//! replaced as a whole. Invariant: a listed file that [`locate`](ChunkList::locate) gives lies in the folder,
//! also when links are followed.

use super::disk;
use super::error::{self, StoreError};
use super::hashing;
use crate::content::limits::{CHUNK_SIZE_MAX, CHUNKS_MAX, FILE_NAME_MAX};
use crate::content::local_chunks::{self, LocalChunks};
use crate::content::{ChunkIndex, FileName};
use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Longest `local_chunks.txt`, bytes: every chunk listed, with the longest name and some spaces.
const LIST_MAX: u64 = CHUNKS_MAX as u64 * (FILE_NAME_MAX as u64 + 16);

/// What was read, and where.
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
        let mode = file.metadata().map_err(error::io("look at", &path))?.mode();
        let mut bytes = Vec::new();
        let read = file.take(LIST_MAX + 1).read_to_end(&mut bytes).map_err(error::io("read", &path))?;
        if read as u64 > LIST_MAX {
            return Err(error::invalid_input("read", &path, format!("it is longer than {LIST_MAX} bytes")));
        }
        let chunks =
            LocalChunks::parse(&bytes).map_err(|error| StoreError::Chunks { path: path.clone(), error })?;
        let names = chunks.files.iter().map(|(&index, name)| (name.clone(), index)).collect();
        Ok(Self { path, bytes, mode, names, chunks })
    }

    /// Where the list is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a name is in use for another chunk.
    pub(super) fn is_listed_for_another_chunk(&self, name: &FileName, index: ChunkIndex) -> bool {
        self.names.get(name).is_some_and(|other| *other != index)
    }

    /// Lists chunks, durably, unless all are listed with these names. Line ends and rights stay.
    pub(super) fn add(
        mut self,
        chunks: impl IntoIterator<Item = (ChunkIndex, FileName)>,
    ) -> Result<(), StoreError> {
        let mut news = false;
        for (index, name) in chunks {
            news |= self.chunks.files.insert(index, name.clone()).as_ref() != Some(&name);
        }
        if !news {
            return Ok(());
        }
        let mut text = self.chunks.render();
        if self.bytes.contains(&b'\r') {
            text = text.replace('\n', "\r\n");
        }
        let temporary = disk::temporary(&self.path, text.as_bytes(), true)?;
        let rights = temporary.as_file().set_permissions(Permissions::from_mode(self.mode & 0o7777));
        rights.map_err(error::io("replace", &self.path))?;
        disk::replace(&self.path, temporary)?;
        disk::sync_folder(disk::folder_of(&self.path))
    }

    /// Finds the file of a listed chunk, and refuses one that is missing, no file, too large, not
    /// readable, or outside the folder. `root` is the folder with all links followed.
    pub(super) fn locate(&self, root: &Path, index: ChunkIndex) -> Result<PathBuf, StoreError> {
        let Some(name) = self.chunks.files.get(&index) else { return Err(StoreError::Missing(index)) };
        let path = match fs::canonicalize(root.join(name.as_str())) {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.fault(index, "the file is missing".into()));
            }
            Err(error) => return Err(self.fault(index, error.to_string())),
        };
        if !path.starts_with(root) {
            return Err(self.fault(index, format!("it is outside the folder, at {}", path.display())));
        }
        if path == root.join(local_chunks::FILE) {
            return Err(self.fault(index, "this is the list itself".into()));
        }
        match disk::open_regular(&path) {
            Ok((_, stamp)) if stamp.size > CHUNK_SIZE_MAX.into() => {
                Err(self.fault(index, hashing::too_long(stamp.size)))
            }
            Ok(_) => Ok(path),
            Err(error) => Err(self.unreadable(index, error)),
        }
    }

    /// Tells the trouble with a listed file together with the line that lists it.
    pub(super) fn unreadable(&self, index: ChunkIndex, error: StoreError) -> StoreError {
        match error {
            StoreError::NotAFile(_) => self.fault(index, "it is not a regular file".into()),
            StoreError::Io { action, source, .. } => {
                self.fault(index, format!("cannot {action} it: {source}"))
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
