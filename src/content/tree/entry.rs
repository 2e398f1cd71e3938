//! Entry of a tree: a directory, a file, a symbolic link or a hard link, with its metadata.

use super::path::TreePath;
use std::ops::Range;

/// Entry of a tree. The content of a file is not part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Path, relative to the root of the tree; empty for the root.
    pub path: TreePath,
    /// Permission bits, 0777 at most.
    pub mode: u16,
    /// Modification time.
    pub modified: Mtime,
    /// Numeric user id and group id, if the publisher states them.
    pub owner: Option<(u32, u32)>,
    /// What the entry is.
    pub kind: EntryKind,
}

/// Modification time since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mtime {
    /// Whole seconds, negative before 1970.
    pub seconds: i64,
    /// Nanoseconds after `seconds`, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// Kind of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Size of the file with its holes, bytes.
        size: u64,
        /// Ranges without data, in ascending order; they neither overlap nor touch.
        holes: Vec<Hole>,
    },
    /// A symbolic link.
    Link {
        /// Target, as it is written in the link.
        target: Vec<u8>,
    },
    /// A further name of a file.
    ///
    /// Its mode, modification time and owner are those of the file.
    HardLink {
        /// Path of an earlier entry, which is a [`File`](Self::File).
        to: TreePath,
    },
}

/// Range of a file without data, which reads as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hole {
    /// Start in the file, bytes.
    pub offset: u64,
    /// Length, bytes; at least 1.
    pub length: u64,
}

impl Entry {
    /// Bytes of the entry in the content of the tree: the size of a file less its holes, 0 for all other entries.
    pub fn content_bytes(&self) -> u64 {
        match &self.kind {
            EntryKind::File { size, holes } => size - holes.iter().map(|hole| hole.length).sum::<u64>(),
            _ => 0,
        }
    }

    /// Ranges of the file that have data, in ascending order; none for all other entries.
    pub fn data_ranges(&self) -> Vec<Range<u64>> {
        let EntryKind::File { size, holes } = &self.kind else { return Vec::new() };
        let mut ranges = Vec::with_capacity(holes.len() + 1);
        let mut start = 0;
        for hole in holes {
            ranges.push(start..hole.offset);
            start = hole.offset + hole.length;
        }
        ranges.push(start..*size);
        ranges.retain(|range| !range.is_empty());
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(size: u64, holes: &[(u64, u64)]) -> Entry {
        let holes = holes.iter().map(|(offset, length)| Hole { offset: *offset, length: *length }).collect();
        Entry {
            path: TreePath::root(),
            mode: 0o644,
            modified: Mtime::default(),
            owner: None,
            kind: EntryKind::File { size, holes },
        }
    }

    #[test]
    fn holes_are_not_content() {
        let sparse = file(100, &[(0, 10), (40, 20), (90, 10)]);
        assert_eq!(sparse.content_bytes(), 60);
        assert_eq!(sparse.data_ranges(), [10..40, 60..90]);
        assert_eq!(file(100, &[(0, 100)]).data_ranges(), []);
        assert_eq!(file(5, &[]).data_ranges(), std::slice::from_ref(&(0..5)));
        assert_eq!(file(0, &[]).data_ranges(), []);
    }
}
