//! A published folder on disk, whose chunks are served.
//!
//! Invariant: the chunks in [`Progress`] were hashed when each of their files was as it is in the index. A file that changes
//! takes its chunks out of the offer.

use super::files::TreeFiles;
use super::hash::hash_all;
use super::scan::{RefusedEntry, TreeScan};
use crate::content::tree::{EntryKind, TreeContent, TreePath};
use crate::content::{Bitfield, ChunkIndex, FileId, Manifest};
use crate::storage::error::{self, StoreError};
use crate::storage::hashing::{self, HashCallbacks};
use crate::storage::{ChunkSource, Progress, StoredChunk};
use crate::sync::lock;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Times that a folder is hashed without the files that change meanwhile.
const ATTEMPTS_MAX: u32 = 3;
/// Changed files that one check names in lines of their own.
const NAMED_FILES_MAX: usize = 20;

/// Why a folder was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The folder cannot be read, is too large, or the caller asked to stop.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Some entries cannot be sent.
    #[error("{} entries cannot be sent", .0.len())]
    Refused(Vec<RefusedEntry>),
}

/// A folder that has been scanned and hashed.
pub struct TreeSource {
    files: TreeFiles,
    manifest: Arc<Manifest>,
    id: FileId,
    progress: Progress,
    /// Entries of the files that have changed.
    withdrawn: Mutex<BTreeSet<u32>>,
}

impl TreeSource {
    /// Hashes a scanned folder on all cores and publishes it. Returns also the entries that were left out.
    ///
    /// `chunk_size` is in bytes; `None` selects the default. `hashed` receives the number of bytes just hashed, from any
    /// thread; `stop` is polled.
    ///
    /// # Errors
    /// Entries cannot be sent, or change while they are hashed, and `skips_refused` is not set; the chunk size is invalid;
    /// or `stop` returned `true` ([`StoreError::Stopped`]).
    pub fn publish(
        mut scan: TreeScan,
        chunk_size: Option<u32>,
        skips_refused: bool,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Self, Vec<RefusedEntry>), PublishError> {
        let mut refused = scan.refused().to_vec();
        if !refused.is_empty() && !skips_refused {
            return Err(PublishError::Refused(refused));
        }
        for _ in 0..ATTEMPTS_MAX {
            let (index, stamps) = scan.index().map_err(StoreError::from)?;
            let content = TreeContent::new(index, chunk_size).map_err(StoreError::from)?;
            let root = scan.root.try_clone().map_err(error::io("open", &scan.path))?;
            let files = TreeFiles::new(scan.path.clone(), root, content, stamps);
            let (digests, failed) = hash_all(&files, HashCallbacks { hashed, stop })?;
            if failed.is_empty() {
                let content = files.content();
                let manifest = Manifest::of_kind(content.kind(), content.layout().clone(), digests);
                let manifest = Arc::new(manifest.map_err(StoreError::from)?);
                return Ok((Self::new(files, manifest), refused));
            }
            let paths: BTreeSet<TreePath> = failed.keys().cloned().collect();
            refused.extend(failed.into_iter().map(|(path, reason)| RefusedEntry { path, reason }));
            if !skips_refused {
                break;
            }
            scan.leave_out(&paths);
        }
        Err(PublishError::Refused(refused))
    }

    fn new(files: TreeFiles, manifest: Arc<Manifest>) -> Self {
        let progress = Progress::new(Bitfield::all(manifest.layout().count()));
        Self { id: manifest.id(), files, manifest, progress, withdrawn: Mutex::default() }
    }

    /// Id of the folder: the hash of its manifest.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The index and the chunks of the folder.
    pub fn content(&self) -> &TreeContent {
        self.files.content()
    }

    /// Compares the metadata of all files with the scan, and stops offering the chunks of those that have changed. Returns
    /// how many have. Takes about a microsecond for each file; `stop` is polled.
    pub fn check_files(&self, stop: &dyn Fn() -> bool) -> usize {
        let mut changed = Vec::new();
        for number in 0..self.content().index().count() {
            if number % 1_024 == 0 && stop() {
                break;
            }
            let is_withdrawn = || lock(&self.withdrawn).contains(&number);
            let is_file = || {
                let entry = self.content().index().entry(number);
                entry.is_some_and(|entry| matches!(entry.kind, EntryKind::File { .. }))
            };
            if is_file() && !is_withdrawn() && !self.files.is_unchanged(number) {
                changed.push(number);
            }
        }
        for (position, number) in changed.iter().enumerate() {
            self.withdraw(*number, position < NAMED_FILES_MAX);
        }
        if changed.len() > NAMED_FILES_MAX {
            log::error!(
                "{}: {} more files have changed, and are no longer offered",
                self.files.folder().display(),
                changed.len() - NAMED_FILES_MAX
            );
        }
        changed.len()
    }

    /// Stops offering the chunks that have content of a file.
    fn withdraw(&self, entry: u32, is_named: bool) {
        if !lock(&self.withdrawn).insert(entry) {
            return;
        }
        let chunks = self.content().chunks_of(entry);
        chunks.clone().for_each(|index| _ = self.progress.remove(ChunkIndex(index)));
        if is_named {
            let count = crate::content::fmt::counted(chunks.len() as u64, "chunk");
            log::error!(
                "{} has changed since it was hashed: {count} left the offer; start the seeder again to offer the new version \
                 of the folder",
                crate::content::tree::Escaped(self.files.path_of(entry).as_os_str().as_encoded_bytes())
            );
        }
    }
}

impl std::fmt::Debug for TreeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let folder = self.files.folder();
        f.debug_struct("TreeSource").field("folder", &folder).field("id", &self.id).finish_non_exhaustive()
    }
}

impl ChunkSource for TreeSource {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn check_reported(&self, index: ChunkIndex) -> bool {
        let matches = hashing::matches(self, index, self.files.folder());
        if !matches && self.progress.remove(index) {
            let pieces = self.content().pieces(index);
            let first = pieces.first().map_or(0, |piece| piece.entry);
            log::error!(
                "{}: chunk {index} differs from its SHA-256, although size and times of its files are unchanged (a peer \
                 reported it); the chunk is no longer offered",
                crate::content::tree::Escaped(self.files.path_of(first).as_os_str().as_encoded_bytes())
            );
        }
        matches
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        if !self.progress.has(index) {
            return Err(StoreError::Missing(index));
        }
        if let Some(bytes) = self.content().index_chunk(index) {
            let memory = error::io("assemble the index of", self.files.folder());
            return StoredChunk::in_memory(bytes).map_err(memory);
        }
        self.files.stored(&self.content().pieces(index)).map_err(|(entry, error)| match error {
            StoreError::Changed(_) => {
                self.withdraw(entry, true);
                StoreError::Missing(index)
            }
            other => other,
        })
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
