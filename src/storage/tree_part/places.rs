//! Places of the entries of a tree below its root: the parent and the name of each, and which of them are wanted.
//!
//! A file that is not wanted, but has a wanted hard link, is stored in the place of the first of these links.

use crate::content::tree::{Entry, EntryKind, PathFilter, Piece, TreeContent, TreePath};
use crate::content::{Bitfield, ChunkIndex};
use std::collections::HashMap;

/// Number of the entry of the root.
pub(super) const ROOT: u32 = 0;

/// A tree, the places of its entries, and the part of it that is wanted.
pub(super) struct Places {
    content: TreeContent,
    /// Number of the directory of each entry.
    parents: Vec<u32>,
    wanted: Vec<bool>,
    /// The hard link in whose place a file is stored, and the reverse.
    moved: HashMap<u32, u32>,
    stands_for: HashMap<u32, u32>,
    /// Chunks with content of a wanted file, and the chunks of the index.
    chunks: Bitfield,
    /// Chunks of which each piece is stored: only these can be served.
    whole_chunks: Bitfield,
}

impl Places {
    /// The places of the entries that `filter` selects, and of the directories above them.
    pub fn new(content: TreeContent, filter: &PathFilter) -> Self {
        let index = content.index();
        let count = index.count();
        let mut parents = Vec::with_capacity(count as usize);
        let mut wanted = vec![filter.is_all(); count as usize];
        // The directories above the current entry.
        let mut above: Vec<(usize, u32)> = Vec::new();
        for (number, entry) in (0..count).zip(index.entries()) {
            let depth = entry.path.components().count();
            above.truncate(above.partition_point(|(other, _)| *other < depth));
            parents.push(above.last().map_or(ROOT, |(_, directory)| *directory));
            if entry.kind == EntryKind::Directory {
                above.push((depth, number));
            }
            if !filter.is_all() && filter.selects(&entry.path) {
                wanted[number as usize] = true;
                above.iter().for_each(|(_, directory)| wanted[*directory as usize] = true);
            }
        }
        let (mut moved, mut stands_for) = (HashMap::new(), HashMap::new());
        if !filter.is_all() {
            for (number, entry) in
                (0..count).zip(index.entries()).filter(|(number, _)| wanted[*number as usize])
            {
                let EntryKind::HardLink { to } = &entry.kind else { continue };
                let Some(file) = index.find(to.bytes()).filter(|file| !wanted[*file as usize]) else {
                    continue;
                };
                if *moved.entry(file).or_insert(number) == number {
                    stands_for.insert(number, file);
                }
            }
        }
        let layout = content.layout();
        let (mut chunks, mut whole_chunks) = (Bitfield::none(layout.count()), Bitfield::none(layout.count()));
        for index in layout.indices() {
            let is_stored = |piece: &Piece| wanted[piece.entry as usize] || moved.contains_key(&piece.entry);
            let pieces = if filter.is_all() { Vec::new() } else { content.pieces(index) };
            if filter.is_all() || index.0 < content.index_chunks() || pieces.iter().any(is_stored) {
                chunks.insert(index);
            }
            if pieces.iter().all(is_stored) {
                whole_chunks.insert(index);
            }
        }
        Self { content, parents, wanted, moved, stands_for, chunks, whole_chunks }
    }

    /// The tree.
    pub fn content(&self) -> &TreeContent {
        &self.content
    }

    /// Number of entries, wanted or not.
    pub fn count(&self) -> u32 {
        self.parents.len() as u32
    }

    /// The entry that is stored in the place of this number: a hard link in whose place a file is stored becomes that file.
    /// `None` if nothing is stored there.
    pub fn entry(&self, number: u32) -> Option<Entry> {
        if !*self.wanted.get(number as usize)? {
            return None;
        }
        let entry = self.content.index().entry(number)?;
        match &entry.kind {
            EntryKind::HardLink { to } => {
                let file = self.content.index().find(to.bytes())?;
                if self.stands_for.contains_key(&number) {
                    return Some(Entry { path: entry.path, ..self.content.index().entry(file)? });
                }
                match self.moved.get(&file) {
                    Some(place) => {
                        let to = TreePath::new(self.content.index().path(*place)?).ok()?;
                        Some(Entry { kind: EntryKind::HardLink { to }, ..entry })
                    }
                    None => Some(entry),
                }
            }
            _ => Some(entry),
        }
    }

    /// All entries that are stored, with the numbers of their places.
    pub fn entries(&self) -> impl Iterator<Item = (u32, Entry)> + '_ {
        (0..self.count()).filter_map(|number| Some((number, self.entry(number)?)))
    }

    /// The place of the file of a piece; `None` if it is not stored.
    pub fn of_file(&self, file: u32) -> Option<u32> {
        match *self.wanted.get(file as usize)? {
            true => Some(file),
            false => self.moved.get(&file).copied(),
        }
    }

    /// Place of the directory that contains an entry.
    pub fn parent(&self, number: u32) -> u32 {
        self.parents.get(number as usize).copied().unwrap_or(ROOT)
    }

    /// Last component of the path of an entry.
    pub fn name(&self, number: u32) -> &[u8] {
        let path = self.content.index().path(number).unwrap_or_default();
        path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Path of an entry as text, escaped.
    pub fn path(&self, number: u32) -> String {
        crate::content::tree::Escaped(self.content.index().path(number).unwrap_or_default()).to_string()
    }

    /// Chunks that are needed.
    pub fn chunks(&self) -> &Bitfield {
        &self.chunks
    }

    /// Whether each piece of a chunk is stored, so that it can be served.
    pub fn is_whole(&self, index: ChunkIndex) -> bool {
        self.whole_chunks.has(index)
    }
}
