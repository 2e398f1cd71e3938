//! Chunk whose bytes are in memory, in a form that `sendfile(2)` can send.

use super::StoredChunk;
use super::error::{self, StoreError};
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

/// Copies bytes into an anonymous file.
///
/// # Errors
/// No free descriptor or memory.
pub(super) fn memory_chunk(bytes: &[u8]) -> Result<StoredChunk, StoreError> {
    let file = rustix::fs::memfd_create("shoal-chunk", MemfdFlags::CLOEXEC).map(File::from);
    let written =
        file.map_err(std::io::Error::from).and_then(|file| file.write_all_at(bytes, 0).map(|()| file));
    let file = written.map_err(error::io("create", Path::new("an anonymous file")))?;
    Ok(StoredChunk { file: Arc::new(file), offset: 0, length: bytes.len() as u64 })
}
