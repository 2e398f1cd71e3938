//! The chunk stream of a tree: which bytes of which file each chunk has.

use super::boundaries::Grouping;
use super::entry::Entry;
use super::index::{TreeError, TreeIndex};
use crate::content::layout::LayoutError;
use crate::content::limits::{CHUNK_SIZE_MAX, TREE_INDEX_CHUNK_BYTES, TREE_PACK_FACTOR};
use crate::content::manifest::ItemKind;
use crate::content::{ChunkIndex, Layout, Manifest};
use std::ops::Range;

/// Part of a file that is, or is part of, a chunk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Piece {
    /// Number of the file's entry in the index.
    pub entry: u32,
    /// Start in the file, bytes.
    pub offset_in_file: u64,
    /// Length, bytes; at least 1.
    pub length: u64,
}

/// Index of a tree, with the place of each file in the chunk stream. Pure; memory for each file is constant.
pub struct TreeContent {
    index: TreeIndex,
    layout: Layout,
    chunk_size: u32,
    index_chunks: u32,
    /// The files that have content, in the order of the stream.
    files: Vec<FileSpan>,
}

/// Place of a file's content in the chunk stream.
struct FileSpan {
    entry: u32,
    has_holes: bool,
    start: u64,
    end: u64,
}

impl TreeContent {
    /// Divides a tree into chunks of `chunk_size` bytes; `None` selects the default for the size of its content.
    ///
    /// # Errors
    /// The chunk size is not valid, or there would be too many chunks.
    pub fn new(index: TreeIndex, chunk_size: Option<u32>) -> Result<Self, LayoutError> {
        let content_bytes = index.entries().map(|entry| entry.content_bytes()).sum();
        let chunk_size = Layout::even(content_bytes, chunk_size)?.chunk_size();
        let mean = u64::from(chunk_size).min(u64::from(CHUNK_SIZE_MAX) / TREE_PACK_FACTOR);
        let mut packs = Grouping::new(mean, TREE_PACK_FACTOR * mean);
        let index_max = TREE_PACK_FACTOR * TREE_INDEX_CHUNK_BYTES;
        let mut index_groups = Grouping::new(TREE_INDEX_CHUNK_BYTES, index_max);
        let mut content = Vec::new();
        let mut files = Vec::new();
        let mut start = index.bytes().len() as u64;
        for (number, entry) in (0..).zip(index.entries()) {
            let (hash, bytes) = (entry.path.hash64(), entry.content_bytes());
            index_groups.push(hash, index.entry_bytes(number));
            if bytes == 0 {
                continue;
            }
            if bytes < u64::from(chunk_size) {
                packs.push(hash, bytes);
            } else {
                packs.end_group();
                content.append(&mut packs.take());
                content.extend(chunks_of_file(bytes, chunk_size.into()));
            }
            let end = start + bytes;
            files.push(FileSpan { entry: number, has_holes: has_holes(&entry), start, end });
            start = end;
        }
        packs.end_group();
        index_groups.end_group();
        content.append(&mut packs.take());
        let of_index = index_groups.take();
        let index_chunks = of_index.len() as u32;
        let layout = Layout::uneven(of_index.into_iter().chain(content))?;
        Ok(Self { index, layout, chunk_size, index_chunks, files })
    }

    /// Checks that the index has exactly the chunks of a manifest.
    ///
    /// # Errors
    /// [`TreeError::OtherLayout`]: the sizes in the index are wrong, or the manifest is not that of a tree.
    pub fn of_manifest(index: TreeIndex, manifest: &Manifest) -> Result<Self, TreeError> {
        let ItemKind::Tree { index_bytes, chunk_size } = manifest.kind() else {
            return Err(TreeError::OtherLayout);
        };
        let is_index = index.bytes().len() as u64 == index_bytes;
        let content = Self::new(index, Some(chunk_size)).map_err(|_| TreeError::OtherLayout)?;
        match is_index && content.layout == *manifest.layout() {
            true => Ok(content),
            false => Err(TreeError::OtherLayout),
        }
    }

    /// The index.
    pub fn index(&self) -> &TreeIndex {
        &self.index
    }

    /// The chunks of the stream.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Size of the chunks of a large file, bytes.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// What the manifest of the tree states besides its chunks.
    pub fn kind(&self) -> ItemKind {
        ItemKind::Tree { index_bytes: self.index.bytes().len() as u64, chunk_size: self.chunk_size }
    }

    /// Number of chunks of the index, which are the first ones of the stream.
    pub fn index_chunks(&self) -> u32 {
        self.index_chunks
    }

    /// The bytes of a chunk of the index; `None` for all other chunks.
    pub fn index_chunk(&self, index: ChunkIndex) -> Option<&[u8]> {
        let span = self.layout.span(index).filter(|_| index.0 < self.index_chunks)?;
        self.index.bytes().get(span.offset as usize..(span.offset + span.length) as usize)
    }

    /// The pieces of a chunk, in order; none for a chunk of the index.
    pub fn pieces(&self, index: ChunkIndex) -> Vec<Piece> {
        let Some(span) = self.layout.span(index).filter(|_| index.0 >= self.index_chunks) else {
            return Vec::new();
        };
        let range = span.offset..span.offset + span.length;
        let first = self.files.partition_point(|file| file.end <= range.start);
        let files = self.files[first..].iter().take_while(|file| file.start < range.end);
        let mut pieces = Vec::new();
        for file in files {
            let from = range.start.max(file.start) - file.start;
            let to = range.end.min(file.end) - file.start;
            self.add_pieces(file, from..to, &mut pieces);
        }
        pieces
    }

    /// The file without holes that has chunks of its own, of which this is the first: its entry and its size in bytes.
    pub fn large_file_at(&self, index: ChunkIndex) -> Option<(u32, u64)> {
        let span = self.layout.span(index).filter(|_| index.0 >= self.index_chunks)?;
        let found = self.files.binary_search_by_key(&span.offset, |file| file.start).ok()?;
        let FileSpan { entry, has_holes, start, end } = self.files[found];
        let is_large = !has_holes && end - start >= u64::from(self.chunk_size);
        is_large.then_some((entry, end - start))
    }

    /// The chunks that have content of a file; an empty range for an entry without content.
    pub fn chunks_of(&self, entry: u32) -> Range<u32> {
        let Ok(found) = self.files.binary_search_by_key(&entry, |file| file.entry) else { return 0..0 };
        let file = &self.files[found];
        self.chunk_at(file.start)..self.chunk_at(file.end - 1) + 1
    }

    /// The chunk that has this byte of the stream.
    fn chunk_at(&self, at: u64) -> u32 {
        let mut range = 0..self.layout.count();
        while range.len() > 1 {
            let middle = range.start + range.len() as u32 / 2;
            match self.layout.span(ChunkIndex(middle)).is_some_and(|span| span.offset <= at) {
                true => range.start = middle,
                false => range.end = middle,
            }
        }
        range.start
    }

    /// Adds the pieces of a range of a file's content.
    fn add_pieces(&self, file: &FileSpan, range: Range<u64>, pieces: &mut Vec<Piece>) {
        let entry = file.entry;
        if !file.has_holes {
            let length = range.end - range.start;
            return pieces.push(Piece { entry, offset_in_file: range.start, length });
        }
        let data = self.index.entry(entry).map(|entry| entry.data_ranges()).unwrap_or_default();
        let mut before = 0;
        for data in data {
            let length = data.end - data.start;
            let from = range.start.clamp(before, before + length) - before;
            let to = range.end.clamp(before, before + length) - before;
            if from < to {
                pieces.push(Piece { entry, offset_in_file: data.start + from, length: to - from });
            }
            before += length;
        }
    }
}

fn has_holes(entry: &Entry) -> bool {
    matches!(&entry.kind, super::EntryKind::File { holes, .. } if !holes.is_empty())
}

/// Sizes of the chunks of a file of at least one chunk; the last one is shorter if need be.
fn chunks_of_file(bytes: u64, chunk_size: u64) -> impl Iterator<Item = u64> {
    let whole = (bytes / chunk_size) as usize;
    let rest = Some(bytes % chunk_size).filter(|rest| *rest > 0);
    std::iter::repeat_n(chunk_size, whole).chain(rest)
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
