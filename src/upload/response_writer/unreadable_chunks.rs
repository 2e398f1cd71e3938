//! Chunks of offered files that could not be read when they were sent.
//!
//! The error appears after the length of the chunk was announced, so that connection ends. The next request of the
//! chunk reads it once before the response, and is refused while that fails.

use crate::content::limits::READ_ERROR_LOG_INTERVAL;
use crate::content::{ChunkIndex, FileId};
use crate::storage::StoredChunk;
use crate::sync::lock;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

/// Largest number of unreadable chunks that are remembered.
const CHUNKS_MAX: usize = 4_096;
/// Largest number of files whose last log line is remembered.
const FILES_MAX: usize = 1_024;
/// Size of one read of a check, bytes.
const READ_BYTES: usize = 128 * 1024;

/// Chunks that could not be read, and the times of the log lines about them.
#[derive(Default)]
pub(super) struct UnreadableChunks {
    chunks: Mutex<BTreeSet<(FileId, ChunkIndex)>>,
    logged: Mutex<HashMap<FileId, Instant>>,
}

impl UnreadableChunks {
    /// Checks a chunk whose send has failed, and remembers it if it cannot be read.
    pub fn report(&self, (file, index): (FileId, ChunkIndex), stored: &StoredChunk) {
        let Err(error) = read(stored) else { return };
        let mut chunks = lock(&self.chunks);
        if chunks.len() < CHUNKS_MAX {
            chunks.insert((file, index));
        }
        drop(chunks);
        self.log((file, index), &path_of(&stored.file), &error);
    }

    /// Reads a chunk if it could not be read before.
    ///
    /// # Errors
    /// It still cannot be read.
    pub fn check(&self, chunk: (FileId, ChunkIndex), stored: &StoredChunk) -> io::Result<()> {
        if !lock(&self.chunks).contains(&chunk) {
            return Ok(());
        }
        let result = read(stored);
        match &result {
            Ok(()) => _ = lock(&self.chunks).remove(&chunk),
            Err(error) => self.log(chunk, &path_of(&stored.file), error),
        }
        result
    }

    /// Logs a read error, at most once in [`READ_ERROR_LOG_INTERVAL`] for each file.
    pub fn log(&self, (file, index): (FileId, ChunkIndex), path: &Path, error: &io::Error) {
        let text = format!("cannot read chunk {index} of {}: {error}", path.display());
        let mut logged = lock(&self.logged);
        let is_recent = |at: &Instant| at.elapsed() < READ_ERROR_LOG_INTERVAL;
        if logged.get(&file).is_some_and(is_recent) {
            return log::debug!("{text}");
        }
        if logged.len() >= FILES_MAX {
            logged.retain(|_, at| is_recent(at));
        }
        logged.insert(file, Instant::now());
        drop(logged);
        log::error!("{text}; peers are told, and ask again");
    }
}

fn read(stored: &StoredChunk) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES.min(stored.length as usize)];
    let (mut offset, end) = (stored.offset, stored.offset + stored.length);
    while offset < end {
        let count = buffer.len().min((end - offset) as usize);
        stored.file.read_exact_at(&mut buffer[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// Path of an open file, for a log line.
fn path_of(file: &File) -> PathBuf {
    let fd = file.as_raw_fd();
    std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_else(|_| PathBuf::from("an open file"))
}
