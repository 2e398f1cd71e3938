//! Bytes on disk: finished files and folders of them, files being downloaded, chunk folders, chunks that are kept for
//! others, and the tracker's catalogue.
//!
//! Whatever holds chunks is a [`ChunkSource`], so that serving does not care which of these it is;
//! whatever takes verified chunks in is a [`ChunkSink`]. Nothing here opens a socket or decides what to
//! fetch, and nothing here checks a chunk that comes from outside: its bytes have been verified by whoever
//! hands them in. Invariant: a chunk that [`Progress`] names has been verified, and
//! [`ChunkSource::stored`] gives only such chunks.
//!
//! Memory does not grow with the file beyond its digests and maps; files are hashed with buffers of 256 KiB.

pub mod catalogue;
pub mod chunk_folder;
mod chunk_list;
pub mod complete_file;
mod disk;
pub mod error;
mod folder_scan;
mod hashing;
pub mod part;
pub mod progress;
pub mod replica_file;
pub mod replica_store;
mod resume_file;
pub mod shared_folder;
mod space;
pub mod verify;

pub use catalogue::{Catalogue, CatalogueError, RedbCatalogue};
pub use chunk_folder::{ChunkFolder, HeldChunk};
pub use complete_file::{CompleteFile, FileStamp};
pub use error::StoreError;
pub use part::PartFile;
pub use progress::Progress;
pub use replica_file::ReplicaFile;
pub use replica_store::ReplicaStore;
pub use shared_folder::{FolderChange, FolderDiff, SharedFile, SharedFolder};
pub use verify::Verify;

use crate::content::{ChunkIndex, Digest, Manifest};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a chunk's bytes lie: what `sendfile(2)` needs.
#[derive(Debug, Clone)]
pub struct StoredChunk {
    /// The open file. Its cursor is shared: read with an offset.
    pub file: Arc<File>,
    /// Where the chunk begins in it, bytes.
    pub offset: u64,
    /// How long the chunk is, bytes.
    pub length: u32,
}

/// Something that chunks can be served from.
pub trait ChunkSource: Send + Sync {
    /// What the file is; `None` for a chunk set that has not been sealed yet.
    fn manifest(&self) -> Option<Arc<Manifest>>;

    /// Which chunks are there, and which are added.
    fn progress(&self) -> &Progress;

    /// Whether what lies on the disk is still what was verified, as far as a look at it can tell.
    fn is_intact(&self) -> bool {
        true
    }

    /// Where a chunk lies.
    ///
    /// # Errors
    /// [`StoreError::Missing`] for a chunk that is not there or not verified, [`StoreError::Changed`]
    /// when somebody else wrote to the file since it was verified.
    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError>;
}

/// Something that takes in the chunks of one file.
pub trait ChunkSink: Send + Sync {
    /// Stores bytes that the caller has verified against `digest`. Returns `true` when the chunk can be served and
    /// [`Progress`] names it, `false` when a chunk of that digest is not what is wanted any more. A chunk that is
    /// already there is left as it is.
    ///
    /// # Errors
    /// The disk is full or fails, or there is no such chunk, or it has another length.
    fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError>;
}

/// Locks. What the mutexes of this floor guard is whole between any two statements, so a thread that
/// panicked while it held one has broken nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
