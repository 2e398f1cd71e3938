//! Content of a shared item, a file or a folder, and its state as a scan finds it.

use crate::content::{DurableStamp, FileId, Layout, Md5};
use crate::storage::complete_file::CompleteFile;
use crate::storage::disk::Identity;
use crate::storage::tree::{PublishError, RefusedEntry, ScanOptions, TreeScan, TreeSource, TreeState};
use crate::storage::{ChunkSource, DelegatedSource, StoreError};
use std::path::Path;

use std::time::SystemTime;

/// Content of a shared item.
#[derive(Debug)]
pub enum SharedContent {
    /// A regular file.
    File(CompleteFile),
    /// A folder, which is one item.
    Folder(TreeSource),
}

impl SharedContent {
    /// Id of the item.
    pub fn id(&self) -> FileId {
        match self {
            Self::File(file) => file.id(),
            Self::Folder(tree) => tree.id(),
        }
    }

    /// Chunk layout of the item.
    pub fn layout(&self) -> &Layout {
        match self {
            Self::File(file) => file.layout(),
            Self::Folder(tree) => tree.content().layout(),
        }
    }

    /// MD5 of the bytes of a file, or of all chunks of a folder in their order. For the callbacks see
    /// [`CompleteFile::publish`].
    ///
    /// # Errors
    /// The item cannot be read, has changed, or [`StoreError::Stopped`].
    pub fn md5(
        &self,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Md5, StoreError> {
        match self {
            Self::File(file) => file.md5(hashed, stop),
            Self::Folder(tree) => tree.md5(hashed, stop),
        }
    }

    /// Whether a chunk of a file was found to differ from its digest although the metadata is unchanged. Of a folder, only
    /// the chunk itself is no longer served.
    pub(super) fn is_corrupt(&self) -> bool {
        matches!(self, Self::File(file) if file.is_corrupt())
    }
}

impl DelegatedSource for SharedContent {
    fn source(&self) -> &dyn ChunkSource {
        match self {
            Self::File(file) => file,
            Self::Folder(tree) => tree,
        }
    }
}

/// State of an item. Two equal states mean the same content, unmodified in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::storage) enum ItemState {
    File(Identity),
    Folder(TreeState),
}

impl ItemState {
    /// The state of a folder at a path.
    ///
    /// # Errors
    /// The folder cannot be read, or has too many entries.
    pub fn of_folder(path: &Path, options: &ScanOptions) -> Result<Self, StoreError> {
        TreeScan::new(path, options, &|_| (), &|| false).map(|scan| Self::Folder(scan.state()))
    }

    /// Whether the item was last modified before `time`.
    pub fn written_before(&self, time: SystemTime) -> bool {
        match self {
            Self::File(identity) => identity.written_before(time),
            Self::Folder(state) => state.written_before(time),
        }
    }

    /// The part of it that stays valid over a restart; `None` for folders and without modification times.
    pub fn durable(&self) -> Option<DurableStamp> {
        match self {
            Self::File(identity) => identity.durable(),
            Self::Folder(_) => None,
        }
    }

    /// Whether this is the item `before` after a rename.
    pub fn is_moved(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::File(now), Self::File(before)) => now.is_moved(before),
            _ => self == before,
        }
    }
}

/// Why an item cannot be shared.
pub(super) enum Unshared {
    Store(StoreError),
    /// Entries of a folder cannot be sent.
    Refused(String),
}

/// Hashes the item at a path whose state was `state`.
///
/// # Errors
/// It cannot be read, has entries that cannot be sent, or has changed ([`StoreError::Changed`]).
pub(super) fn publish(
    path: &Path,
    (state, options): (&ItemState, &ScanOptions),
    chunk_size: Option<u32>,
    hashed: &(dyn Fn(u64) + Sync),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<SharedContent, Unshared> {
    match state {
        ItemState::File(identity) => {
            let complete = CompleteFile::publish(path, chunk_size, hashed, stop);
            let complete = complete.and_then(|complete| complete.by_path(*identity));
            complete.map(SharedContent::File).map_err(Unshared::Store)
        }
        ItemState::Folder(state) => {
            let scan = TreeScan::new(path, options, &|_| (), stop).map_err(Unshared::Store)?;
            if scan.state() != *state {
                return Err(Unshared::Store(StoreError::Changed(path.to_owned())));
            }
            let published = TreeSource::publish(scan, chunk_size, false, hashed, stop);
            published.map(|(tree, _)| SharedContent::Folder(tree)).map_err(|error| match error {
                PublishError::Store(error) => Unshared::Store(error),
                PublishError::Refused(refused) => Unshared::Refused(reason(&refused)),
            })
        }
    }
}

/// Names the first entry that cannot be sent, and the number of all.
fn reason(refused: &[RefusedEntry]) -> String {
    let count = crate::content::fmt::counted(refused.len() as u64, "entry");
    match refused.first() {
        Some(RefusedEntry { path, reason }) => {
            format!("{count} of this folder cannot be sent, for example {path}: {reason}")
        }
        None => "entries of this folder cannot be sent".to_owned(),
    }
}
