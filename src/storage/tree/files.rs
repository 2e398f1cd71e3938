//! The files of a scanned folder: opened by their entry, and compared with their state at the scan.

use super::beneath;
use super::scan::Stamp;
use crate::content::tree::{Entry, Piece, TreeContent};
use crate::storage::StoredChunk;
use crate::storage::error::{self, StoreError};
use rustix::fs::{AtFlags, OFlags, fstat, statat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of a scanned folder.
pub(super) struct TreeFiles {
    path: PathBuf,
    root: OwnedFd,
    content: TreeContent,
    /// State of each entry at the scan.
    stamps: Vec<Stamp>,
}

impl TreeFiles {
    pub fn new(path: PathBuf, root: OwnedFd, content: TreeContent, stamps: Vec<Stamp>) -> Self {
        Self { path, root, content, stamps }
    }

    pub fn content(&self) -> &TreeContent {
        &self.content
    }

    /// Path of the folder.
    pub fn folder(&self) -> &Path {
        &self.path
    }

    /// Path of an entry, for messages.
    pub fn path_of(&self, entry: u32) -> PathBuf {
        self.path.join(OsStr::from_bytes(self.content.index().path(entry).unwrap_or_default()))
    }

    /// Opens the file of an entry.
    ///
    /// # Errors
    /// [`StoreError::Changed`] if it was removed, or replaced by something else.
    pub fn open(&self, entry: u32) -> Result<File, StoreError> {
        let path = self.content.index().path(entry).unwrap_or_default();
        // A FIFO that has replaced the file would block.
        let opened = beneath::open(self.root.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK);
        opened.map(File::from).map_err(|error| match is_gone(&error) {
            true => StoreError::Changed(self.path_of(entry)),
            false => error::io("open", &self.path_of(entry))(error),
        })
    }

    /// Fails with [`StoreError::Changed`] if the open file is not the one of the scan, or has changed since.
    pub fn check(&self, entry: u32, file: &File) -> Result<(), StoreError> {
        let stat = fstat(file).map_err(|errno| {
            error::io("read the metadata of", &self.path_of(entry))(io::Error::from(errno))
        })?;
        match self.matches(entry, &stat) {
            true => Ok(()),
            false => Err(StoreError::Changed(self.path_of(entry))),
        }
    }

    /// Whether the file at the path of an entry is the one of the scan, judged by its metadata. True if that cannot be
    /// read now.
    pub fn is_unchanged(&self, entry: u32) -> bool {
        let path = OsStr::from_bytes(self.content.index().path(entry).unwrap_or_default());
        match statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => self.matches(entry, &stat),
            Err(errno) => !is_gone(&errno.into()),
        }
    }

    fn matches(&self, number: u32, stat: &rustix::fs::Stat) -> bool {
        let entry: Option<Entry> = self.content.index().entry(number);
        let stamp = self.stamps.get(number as usize);
        entry.zip(stamp).is_some_and(|(entry, stamp)| stamp.matches(&entry, stat))
    }

    /// The bytes of these pieces: a range of the file if it is one piece, otherwise assembled in memory.
    ///
    /// # Errors
    /// The entry whose file has changed or cannot be read, with the cause.
    pub fn stored(&self, pieces: &[Piece]) -> Result<StoredChunk, (u32, StoreError)> {
        if let [Piece { entry, offset_in_file, length }] = *pieces {
            let file = self.open(entry).and_then(|file| self.check(entry, &file).map(|()| file));
            let file = file.map_err(|error| (entry, error))?;
            return Ok(StoredChunk { file: Arc::new(file), offset: offset_in_file, length });
        }
        let length = pieces.iter().map(|piece| piece.length as usize).sum();
        let mut bytes = vec![0; length];
        let mut rest = &mut bytes[..];
        for piece in pieces {
            let (here, after) = rest.split_at_mut(piece.length as usize);
            self.read(piece, here).map_err(|error| (piece.entry, error))?;
            rest = after;
        }
        let memory = || error::io("assemble a chunk of", &self.path);
        let first = pieces.first().map_or(0, |piece| piece.entry);
        StoredChunk::in_memory(&bytes).map_err(|error| (first, memory()(error)))
    }

    fn read(&self, piece: &Piece, bytes: &mut [u8]) -> Result<(), StoreError> {
        let file = self.open(piece.entry)?;
        file.read_exact_at(bytes, piece.offset_in_file).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => StoreError::Changed(self.path_of(piece.entry)),
            _ => error::io("read", &self.path_of(piece.entry))(error),
        })?;
        self.check(piece.entry, &file)
    }
}

/// Whether an error says that the file was removed, or replaced by something else.
fn is_gone(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}
