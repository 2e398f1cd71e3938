//! Index of a tree: all its entries, in one checked sequence of bytes.
//!
//! Invariants: the root comes first and the others follow in the order of their paths; the parent of each entry is a
//! directory of the index; each hard link refers to an earlier file. One list of entries has one index.

use super::codec;
use super::entry::{Entry, EntryKind};
use super::path::{self, TreePath};
use crate::content::limits::{
    FILE_SIZE_MAX, TREE_FILE_SIZE_MAX, TREE_HOLES_MAX, TREE_INDEX_BYTES_MAX, TREE_LINK_BYTES_MAX,
    TREE_SECONDS_MAX,
};

/// First bytes of each index.
pub const INDEX_HEADER: &[u8] = b"shoal index 1\n";

/// Entries, or bytes of an index, that are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The bytes do not begin as an index does.
    #[error("these bytes are not the index of a folder")]
    NotAnIndex,
    /// The index has no entry for the root.
    #[error("the index is empty")]
    Empty,
    /// The bytes at this offset are not an entry.
    #[error("the index is invalid at byte {offset}{}", after.as_ref().map(|path| format!(", after {path}")).unwrap_or_default())]
    Form {
        /// Offset in the index, bytes.
        offset: u64,
        /// Path of the entry before.
        after: Option<TreePath>,
    },
    /// An entry is not valid.
    #[error("{path}: {reason}")]
    Entry {
        /// Path of the entry.
        path: TreePath,
        /// The cause.
        reason: EntryError,
    },
    /// More entries than allowed.
    #[error("the folder has more than {0} entries; allow more with --entries-max")]
    TooMany(u32),
    /// The index is longer than [`TREE_INDEX_BYTES_MAX`].
    #[error("the index of the folder has more than {max} bytes", max = TREE_INDEX_BYTES_MAX)]
    TooLong,
    /// The index does not have the chunks of its manifest.
    #[error("the sizes in the index differ from the chunks of the manifest")]
    OtherLayout,
}

/// Why an entry is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// The first entry is not the root, or the root is not a directory.
    #[error("the first entry is not the root directory")]
    Root,
    /// The entry is not in the order of the paths, or its path appears twice.
    #[error("the entry is not in order, or is named twice")]
    Order,
    /// The index has no directory for the entry.
    #[error("the index has no directory for this entry")]
    NoParent,
    /// Bits other than the permissions.
    #[error("mode {0:o} has other bits than permissions (set-uid, set-gid or sticky)")]
    Mode(u16),
    /// The modification time cannot be written.
    #[error("modification time out of range: {0} s and {1} ns since 1970")]
    Time(i64, u32),
    /// The id 4294967295 stands for no user and no group.
    #[error("invalid owner")]
    Owner,
    /// The file is larger than [`TREE_FILE_SIZE_MAX`], or all files are larger than [`FILE_SIZE_MAX`].
    #[error("{0} bytes are too large")]
    Size(u64),
    /// The holes are empty, overlap, touch, exceed the file, or are more than [`TREE_HOLES_MAX`].
    #[error("invalid holes")]
    Holes,
    /// The target of the link is empty, too long or contains a NUL byte.
    #[error("the link has no valid target")]
    Target,
    /// A hard link to something that is not an earlier file.
    #[error("hard link to {0}, which is not an earlier file of the folder")]
    HardLink(TreePath),
}

/// Index of a tree.
#[derive(Clone, PartialEq, Eq)]
pub struct TreeIndex {
    bytes: Vec<u8>,
    /// Offset of each entry in `bytes`.
    starts: Vec<u32>,
}

impl TreeIndex {
    /// The index of entries in the order of their paths, the root first; `entries_max` at most.
    ///
    /// # Errors
    /// [`TreeError`] names the entry that is not valid.
    pub fn new(entries: impl IntoIterator<Item = Entry>, entries_max: u32) -> Result<Self, TreeError> {
        let mut builder = Builder::new(INDEX_HEADER.to_vec(), entries_max);
        for entry in entries {
            builder.check(&entry)?;
            let start = builder.index.bytes.len();
            codec::write(&entry, &mut builder.index.bytes);
            builder.push(start, &entry)?;
        }
        builder.finish()
    }

    /// Reads and checks an index of at most `entries_max` entries.
    ///
    /// # Errors
    /// [`TreeError`]: the bytes are not the index that [`new`](Self::new) makes of the same entries.
    pub fn decode(bytes: Vec<u8>, entries_max: u32) -> Result<Self, TreeError> {
        if !bytes.starts_with(INDEX_HEADER) {
            return Err(TreeError::NotAnIndex);
        }
        let mut at = INDEX_HEADER.len();
        let mut builder = Builder::new(bytes, entries_max);
        let mut again = Vec::new();
        while at < builder.index.bytes.len() {
            let after = || builder.index.last().map(|entry| entry.path);
            let form = || TreeError::Form { offset: at as u64, after: after() };
            let hard_link = std::cell::Cell::new(None);
            let file_of = |to: &[u8]| {
                let file = builder.index.file(to);
                if file.is_none() {
                    hard_link.set(TreePath::new(to).ok());
                }
                file
            };
            let rest = &builder.index.bytes[at..];
            let Some((entry, length)) = codec::read(rest, file_of) else {
                let path = codec::read_path(rest).and_then(|path| TreePath::new(path).ok());
                return Err(match (hard_link.take(), path) {
                    (Some(to), Some(path)) => TreeError::Entry { path, reason: EntryError::HardLink(to) },
                    _ => form(),
                });
            };
            again.clear();
            codec::write(&entry, &mut again);
            if again != rest[..length] {
                return Err(form());
            }
            builder.check(&entry)?;
            builder.push(at, &entry)?;
            at += length;
        }
        builder.finish()
    }

    /// The bytes of the index, with which the chunk stream of the tree begins.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of entries, the root included.
    pub fn count(&self) -> u32 {
        self.starts.len() as u32
    }

    /// The entry of a number counted from 0, the root; `None` past the last one.
    pub fn entry(&self, number: u32) -> Option<Entry> {
        let start = *self.starts.get(number as usize)? as usize;
        codec::read(&self.bytes[start..], |to| self.file(to)).map(|(entry, _)| entry)
    }

    /// All entries in order, the root first.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        (0..self.count()).filter_map(|number| self.entry(number))
    }

    /// The path of an entry, as bytes.
    pub fn path(&self, number: u32) -> Option<&[u8]> {
        codec::read_path(&self.bytes[*self.starts.get(number as usize)? as usize..])
    }

    /// The number of the entry of this path.
    pub fn find(&self, path: &[u8]) -> Option<u32> {
        let path_at = |start: &u32| codec::read_path(&self.bytes[*start as usize..]).unwrap_or_default();
        let found = self.starts.binary_search_by(|start| path::compare(path_at(start), path));
        found.ok().map(|number| number as u32)
    }

    /// Length of the binary form of an entry, bytes. That of the root includes the header.
    pub(super) fn entry_bytes(&self, number: u32) -> u64 {
        let start = if number == 0 { 0 } else { self.starts[number as usize].into() };
        let end = self.starts.get(number as usize + 1).map_or(self.bytes.len() as u64, |end| (*end).into());
        end - start
    }

    fn last(&self) -> Option<Entry> {
        self.entry(self.count().checked_sub(1)?)
    }

    /// The file of this path; `None` if the entry is absent or not a file.
    fn file(&self, path: &[u8]) -> Option<Entry> {
        let entry = self.entry_without_links(self.find(path)?)?;
        matches!(entry.kind, EntryKind::File { .. }).then_some(entry)
    }

    /// The entry of a number unless it is a hard link: so a chain of hard links is not followed.
    fn entry_without_links(&self, number: u32) -> Option<Entry> {
        let start = *self.starts.get(number as usize)? as usize;
        codec::read(&self.bytes[start..], |_| None).map(|(entry, _)| entry)
    }
}

impl std::fmt::Debug for TreeIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// Checks entries one after the other.
struct Builder {
    index: TreeIndex,
    entries_max: u32,
    previous: Option<(TreePath, bool)>,
    content: u64,
}

impl Builder {
    fn new(bytes: Vec<u8>, entries_max: u32) -> Self {
        let index = TreeIndex { bytes, starts: Vec::new() };
        Self { index, entries_max, previous: None, content: 0 }
    }

    /// Checks the next entry.
    fn check(&self, entry: &Entry) -> Result<(), TreeError> {
        if self.index.count() >= self.entries_max {
            return Err(TreeError::TooMany(self.entries_max));
        }
        let checked = self.check_place(entry).and_then(|()| self.check_metadata(entry));
        checked.map_err(|reason| TreeError::Entry { path: entry.path.clone(), reason })
    }

    /// Adds a checked entry, whose binary form begins at `start`.
    fn push(&mut self, start: usize, entry: &Entry) -> Result<(), TreeError> {
        if self.index.bytes.len() > TREE_INDEX_BYTES_MAX {
            return Err(TreeError::TooLong);
        }
        self.content = self.content.saturating_add(entry.content_bytes());
        if self.content > FILE_SIZE_MAX - TREE_INDEX_BYTES_MAX as u64 {
            let reason = EntryError::Size(self.content);
            return Err(TreeError::Entry { path: entry.path.clone(), reason });
        }
        self.previous = Some((entry.path.clone(), entry.kind == EntryKind::Directory));
        self.index.starts.push(start as u32);
        Ok(())
    }

    fn check_place(&self, entry: &Entry) -> Result<(), EntryError> {
        let Some((previous, is_directory)) = &self.previous else {
            let is_root = entry.path.is_root() && entry.kind == EntryKind::Directory;
            return is_root.then_some(()).ok_or(EntryError::Root);
        };
        if entry.path <= *previous {
            return Err(EntryError::Order);
        }
        let parent = entry.path.parent().ok_or(EntryError::Order)?;
        // The directories above the entry before are in the index.
        let has_parent =
            (parent == previous.bytes() && *is_directory) || path::is_below(previous.bytes(), parent);
        has_parent.then_some(()).ok_or(EntryError::NoParent)
    }

    fn check_metadata(&self, entry: &Entry) -> Result<(), EntryError> {
        if entry.mode > 0o777 {
            return Err(EntryError::Mode(entry.mode));
        }
        let modified = entry.modified;
        if modified.nanoseconds >= 1_000_000_000 || modified.seconds.unsigned_abs() > TREE_SECONDS_MAX {
            return Err(EntryError::Time(modified.seconds, modified.nanoseconds));
        }
        if entry.owner.is_some_and(|(user, group)| user == u32::MAX || group == u32::MAX) {
            return Err(EntryError::Owner);
        }
        match &entry.kind {
            EntryKind::Directory => Ok(()),
            EntryKind::File { size, .. } if *size > TREE_FILE_SIZE_MAX => Err(EntryError::Size(*size)),
            EntryKind::File { size, holes } => {
                let mut touches = None;
                let mut is_valid = holes.len() <= TREE_HOLES_MAX;
                for hole in holes {
                    let end = hole.offset.checked_add(hole.length).filter(|end| end <= size);
                    is_valid &= end.is_some() && hole.length > 0;
                    is_valid &= touches.is_none_or(|touches| hole.offset > touches);
                    touches = end;
                }
                is_valid.then_some(()).ok_or(EntryError::Holes)
            }
            EntryKind::Link { target } => {
                let is_valid =
                    !target.is_empty() && target.len() <= TREE_LINK_BYTES_MAX && !target.contains(&0);
                is_valid.then_some(()).ok_or(EntryError::Target)
            }
            EntryKind::HardLink { to } => {
                let file = self.index.file(to.bytes());
                let is_same = file.is_some_and(|file| {
                    (file.mode, file.modified, file.owner) == (entry.mode, entry.modified, entry.owner)
                });
                is_same.then_some(()).ok_or_else(|| EntryError::HardLink(to.clone()))
            }
        }
    }

    fn finish(self) -> Result<TreeIndex, TreeError> {
        match self.index.count() {
            0 => Err(TreeError::Empty),
            _ => Ok(self.index),
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
pub(super) mod tests;
