//! Bytes on disk: complete files, part files, devices, streams, shared folders, chunk folders and replicas.
//!
//! A [`ChunkSource`] gives chunks to the upload path, a [`ChunkSink`] accepts verified chunks from
//! the download path. This layer opens no socket and does not decide which chunks to download. It
//! does not verify bytes that come from the network: the caller verifies them before it stores
//! them. Invariant: a chunk listed in [`Progress`] has been verified, and [`ChunkSource::stored`]
//! returns only such chunks.
//!
//! Memory per file is limited to its digests and its bitmaps. Files are hashed with buffers of at
//! most 256 KiB, or within [`HASH_MEMORY_BYTES`](crate::content::limits::HASH_MEMORY_BYTES) where several
//! chunks are hashed together.

pub mod chunk_folder;
mod chunk_list;
pub mod complete_file;
pub mod device;
pub(crate) mod disk;
pub mod error;
mod folder_scan;
mod free_space;
mod hashing;
mod in_place;
pub mod leftovers;
pub mod part;
pub mod progress;
pub mod remembered_store;
pub mod replica_file;
pub mod replica_store;
mod resume_file;
pub mod shared_folder;
mod space;
pub mod split_file;
mod spool;
mod store_marker;
mod store_records;
pub mod stream;
pub mod tree;
pub mod tree_part;
pub mod verify;

pub use chunk_folder::{ChunkFolder, HeldChunk};
pub use complete_file::{CompleteFile, FileStamp};
pub use device::DeviceFile;
pub use error::{Resource, StoreError};
pub use free_space::{disk_size, free_space};
pub use part::PartFile;
pub use progress::Progress;
pub use remembered_store::StoreMemory;
pub use replica_file::ReplicaFile;
pub use replica_store::ReplicaStore;
pub use shared_folder::{FolderChange, FolderDiff, SharedFile, SharedFolder};
pub use spool::{STDIN, Spool};
pub use stream::StreamFile;
pub use tree_part::{Prepared, TreePart, TreeReceiveOptions, TreeRecheck};
pub use verify::Verify;

use crate::content::layout::LayoutError;
use crate::content::{ChunkIndex, Digest, Manifest};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Location of a chunk's bytes, as `sendfile(2)` needs it.
#[derive(Debug, Clone)]
pub struct StoredChunk {
    /// The open file. Threads share its cursor, so always read at an offset.
    pub file: Arc<File>,
    /// Start of the chunk in the file, bytes.
    pub offset: u64,
    /// Length of the chunk, bytes.
    pub length: u64,
}

impl StoredChunk {
    /// A chunk that is assembled in memory, for example from several files. The memory is freed with the last reference
    /// to the file.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub fn in_memory(bytes: &[u8]) -> io::Result<Self> {
        let create = |flags| rustix::fs::memfd_create(c"shoal-chunk", MemfdFlags::CLOEXEC | flags);
        // Kernels before 6.3 do not know the flag; later ones may demand it.
        let file = create(MemfdFlags::NOEXEC_SEAL).or_else(|_| create(MemfdFlags::empty()))?;
        let file = File::from(file);
        file.write_all_at(bytes, 0)?;
        Ok(Self { file: Arc::new(file), offset: 0, length: bytes.len() as u64 })
    }
}

/// A store that chunks can be read from.
pub trait ChunkSource: Send + Sync {
    /// The manifest of the file; `None` for a chunk set that has not been sealed yet.
    fn manifest(&self) -> Option<Arc<Manifest>>;

    /// The chunks that can be served, and a log of those added since the start.
    fn progress(&self) -> &Progress;

    /// Permission bits of the file, 0777 at most; `None` if it has none to pass on.
    fn mode(&self) -> Option<u32> {
        None
    }

    /// Whether the file on disk is still the verified file, judged by its metadata alone.
    fn is_intact(&self) -> bool {
        true
    }

    /// Hashes a chunk again, because a receiver has reported it as corrupt, and returns whether it
    /// matches its digest. If it does not, the source stops serving it, and the log says why.
    ///
    /// A chunk that cannot be read counts as matching: only a wrong digest is a proof.
    fn check_reported(&self, index: ChunkIndex) -> bool {
        let _ = index;
        true
    }

    /// Location of a chunk's bytes.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the chunk is absent or not verified, [`StoreError::Changed`] if
    /// another program has written to the file since it was verified.
    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError>;
}

/// A type whose chunks are those of one of several stores. It is a [`ChunkSource`], too.
pub trait DelegatedSource: Send + Sync {
    /// The store.
    fn source(&self) -> &dyn ChunkSource;
}

impl<T: DelegatedSource> ChunkSource for T {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        self.source().manifest()
    }

    fn progress(&self) -> &Progress {
        self.source().progress()
    }

    fn mode(&self) -> Option<u32> {
        self.source().mode()
    }

    fn is_intact(&self) -> bool {
        self.source().is_intact()
    }

    fn check_reported(&self, index: ChunkIndex) -> bool {
        self.source().check_reported(index)
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        self.source().stored(index)
    }
}

/// A store that accepts the chunks of one file.
pub trait ChunkSink: Send + Sync {
    /// Stores a chunk; **the caller has verified its bytes** against `digest`.
    ///
    /// Returns `true` when the chunk can be served and is listed in [`Progress`], `false` if a
    /// chunk with this digest is no longer wanted. A chunk that is already stored is not written
    /// again.
    ///
    /// # Errors
    /// The disk is full or fails, the chunk does not exist, or its length is wrong.
    fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError>;

    /// Begins a chunk above [`CHUNK_SIZE_MAX`](crate::content::limits::CHUNK_SIZE_MAX), which is written while it
    /// arrives.
    ///
    /// # Errors
    /// This store does not accept such chunks, or the disk fails.
    fn begin(
        &self,
        index: ChunkIndex,
        digest: Digest,
        length: u64,
    ) -> Result<Box<dyn LargeChunk + '_>, StoreError> {
        let _ = (digest, length);
        Err(LayoutError::ChunkTooLarge(index).into())
    }
}

/// A chunk that is written in parts, before it is verified. Without [`finish`](Self::finish) it leaves no trace.
pub trait LargeChunk {
    /// Appends bytes of the chunk.
    ///
    /// # Errors
    /// The disk is full or fails.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;

    /// Stores the chunk; **the caller has verified all its bytes**.
    ///
    /// # Errors
    /// The disk is full or fails.
    fn finish(self: Box<Self>) -> Result<LargeChunkOutcome, StoreError>;
}

/// Result of a [`LargeChunk`] whose bytes have all arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LargeChunkOutcome {
    /// The chunk is stored, by this writer or another one.
    Stored,
    /// A chunk with this digest is no longer wanted.
    Unwanted,
    /// Another source sends the chunk, and its bytes replace those of this one.
    TakenOver,
}
