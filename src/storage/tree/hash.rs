//! Hashes the chunks of a folder on all cores.
//!
//! Large files are hashed one after the other, each by all cores, with several chunks at a time. All other chunks, which
//! are packs of small files and short ends of large ones, are divided among the cores.

use super::files::TreeFiles;
use crate::content::tree::{Piece, TreePath};
use crate::content::{ChunkIndex, Digest, Hasher, Layout};
use crate::storage::error::StoreError;
use crate::storage::hashing::{HashCallbacks, READ_BYTES_MAX, hash_chunks, on_all_cores, read_range};
use crate::sync::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Fewest chunks of a file that is hashed by all cores together.
const SHARED_FILE_CHUNKS_MIN: u64 = 64;

/// Digests of all chunks, and the files that could not be hashed, with the reason.
pub(super) type Hashed = (Vec<Digest>, BTreeMap<TreePath, String>);

struct Run<'a> {
    files: &'a TreeFiles,
    callbacks: HashCallbacks<'a>,
    digests: Mutex<Vec<Digest>>,
    failed: Mutex<BTreeMap<TreePath, String>>,
}

/// Hashes all chunks. A file that changes or cannot be read does not end the run.
///
/// # Errors
/// [`StoreError::Stopped`].
pub(super) fn hash_all(files: &TreeFiles, callbacks: HashCallbacks<'_>) -> Result<Hashed, StoreError> {
    let content = files.content();
    let digests = Mutex::new(vec![Digest([0; 32]); content.layout().count() as usize]);
    let run = Run { files, callbacks, digests, failed: Mutex::default() };
    let mut rest: Vec<ChunkIndex> = Vec::new();
    let mut index = 0;
    while index < content.layout().count() {
        let large = content
            .large_file_at(ChunkIndex(index))
            .filter(|(_, bytes)| bytes.div_ceil(content.chunk_size().into()) >= SHARED_FILE_CHUNKS_MIN);
        match large {
            Some((entry, bytes)) => {
                run.hash_large_file(ChunkIndex(index), entry, bytes)?;
                index += bytes.div_ceil(content.chunk_size().into()) as u32;
            }
            None => {
                rest.push(ChunkIndex(index));
                index += 1;
            }
        }
    }
    on_all_cores(rest.len() as u32, READ_BYTES_MAX, &|item, buffer| {
        let index = rest[item as usize];
        let digest = run.hash_chunk(index, buffer)?;
        lock(&run.digests)[index.at()] = digest;
        Ok(true)
    })?;
    let take = |digests: Mutex<Vec<Digest>>| std::mem::take(&mut *lock(&digests));
    let failed = std::mem::take(&mut *lock(&run.failed));
    Ok((take(run.digests), failed))
}

impl Run<'_> {
    /// Hashes the chunks of a file without holes, of which `first` is the first.
    fn hash_large_file(&self, first: ChunkIndex, entry: u32, bytes: u64) -> Result<(), StoreError> {
        let layout = Layout::even(bytes, Some(self.files.content().chunk_size()))?;
        let all: Vec<ChunkIndex> = layout.indices().collect();
        let hash = || {
            let file = self.files.open(entry)?;
            hash_chunks(
                &file,
                &self.files.path_of(entry),
                &layout,
                &all,
                self.callbacks,
                &|index, digest| {
                    lock(&self.digests)[first.at() + index.at()] = digest;
                    true
                },
            )?;
            self.files.check(entry, &file)
        };
        self.note(entry, hash()).map(|_| ())
    }

    fn hash_chunk(&self, index: ChunkIndex, buffer: &mut [u8]) -> Result<Digest, StoreError> {
        if (self.callbacks.stop)() {
            return Err(StoreError::Stopped);
        }
        if let Some(bytes) = self.files.content().index_chunk(index) {
            return Ok(Digest::of(bytes));
        }
        let mut hasher = Hasher::new();
        for Piece { entry, offset_in_file, length } in self.files.content().pieces(index) {
            let range = offset_in_file..offset_in_file + length;
            let mut add = || {
                let file = self.files.open(entry)?;
                let path = self.files.path_of(entry);
                read_range(&file, &path, range.clone(), buffer, self.callbacks, |bytes| {
                    hasher.update(bytes)
                })?;
                self.files.check(entry, &file)
            };
            let added = add();
            self.note(entry, added)?;
        }
        Ok(hasher.finish())
    }

    /// Records that a file could not be hashed. Passes on [`StoreError::Stopped`].
    fn note(&self, entry: u32, result: Result<(), StoreError>) -> Result<(), StoreError> {
        let reason = match result {
            Ok(()) => return Ok(()),
            Err(StoreError::Stopped) => return Err(StoreError::Stopped),
            Err(StoreError::Changed(_)) => "it changed while it was read".to_owned(),
            Err(StoreError::Io { source, .. }) => format!("it cannot be read: {source}"),
            Err(error) => error.to_string(),
        };
        let path = self.files.content().index().path(entry).and_then(|path| TreePath::new(path).ok());
        path.map(|path| lock(&self.failed).insert(path, reason));
        Ok(())
    }
}
