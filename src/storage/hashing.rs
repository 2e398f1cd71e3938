//! Hashes files on all cores.
//!
//! Each thread takes the next chunk that no other thread has taken. A thread's buffer is at most
//! 256 KiB or, if several chunks are hashed together, all buffers are at most
//! [`HASH_MEMORY_BYTES`](limits::HASH_MEMORY_BYTES) bytes. Callbacks are called at least once per buffer: they
//! receive the number of bytes hashed and can stop the run.

use super::disk::{self, Stamp};
use super::error::{self, StoreError};
use super::{ChunkSource, StoredChunk};
use crate::content::md5::{Md5, Md5Hasher};
use crate::content::{ChunkIndex, ChunkSpan, Digest, Hasher, Layout, hash_lanes, limits};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::{panic, thread};

/// Longest single read, bytes. It fits into a core's L2 cache, so the bytes are still cached when
/// they are hashed, and it is large enough to make the cost of the system calls negligible.
pub(super) const READ_BYTES_MAX: usize = 256 * 1024;

/// Progress and stop callbacks of a hashing run.
#[derive(Clone, Copy)]
pub(super) struct HashCallbacks<'a> {
    /// Receives the number of bytes just hashed; called from any thread.
    pub hashed: &'a (dyn Fn(u64) + Sync),
    /// Whether to stop; polled before each read.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl HashCallbacks<'_> {
    /// Reports no progress and never stops.
    pub(super) const NONE: HashCallbacks<'static> = HashCallbacks { hashed: &|_| (), stop: &|| false };
}

/// Hashes chunks of a file on all cores and passes each digest to `on_digest`, in no particular
/// order. A result of `false` ends the run without an error.
pub(super) fn hash_chunks(
    file: &File,
    path: &Path,
    layout: &Layout,
    chunks: &[ChunkIndex],
    watch: HashCallbacks<'_>,
    on_digest: &(dyn Fn(ChunkIndex, Digest) -> bool + Sync),
) -> Result<(), StoreError> {
    let longest = usize::try_from(layout.longest()).unwrap_or(usize::MAX);
    // Group chunks only if every core then still gets work and the buffers fit into the memory
    // limit.
    let fitting = limits::HASH_MEMORY_BYTES / cores() / longest.max(1);
    let lanes = hash_lanes().min(fitting).min(chunks.len() / (2 * cores()));
    if lanes < 2 || longest == 0 {
        return on_all_cores(chunks.len() as u32, longest.min(READ_BYTES_MAX), &|item, buffer| {
            let index = chunks[item as usize];
            let span = layout.span(index).ok_or(StoreError::Missing(index))?;
            Ok(on_digest(index, hash_span(file, path, span, buffer, watch)?))
        });
    }
    let groups: Vec<&[ChunkIndex]> = chunks.chunks(lanes).collect();
    on_all_cores(groups.len() as u32, longest * lanes, &|item, buffer| {
        let group = groups[item as usize];
        let digests = hash_group(file, path, layout, group, buffer, watch)?;
        Ok(group.iter().zip(digests).all(|(index, digest)| on_digest(*index, digest)))
    })
}

/// Hashes a group of chunks together; `buffer` has a slot of the longest chunk's length for each.
fn hash_group(
    file: &File,
    path: &Path,
    layout: &Layout,
    group: &[ChunkIndex],
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
) -> Result<Vec<Digest>, StoreError> {
    let mut read = Vec::with_capacity(group.len());
    for (index, slot) in group.iter().zip(buffer.chunks_mut(layout.longest() as usize)) {
        if (watch.stop)() {
            return Err(StoreError::Stopped);
        }
        let span = layout.span(*index).ok_or(StoreError::Missing(*index))?;
        let bytes = &mut slot[..span.length as usize];
        file.read_exact_at(bytes, span.offset).map_err(|error| match error.kind() {
            // The file was truncated after it was opened.
            io::ErrorKind::UnexpectedEof => StoreError::Changed(path.to_owned()),
            _ => error::io("read", path)(error),
        })?;
        read.push(&*bytes);
    }
    let digests = Digest::of_each(&read);
    (watch.hashed)(read.iter().map(|bytes| bytes.len() as u64).sum());
    Ok(digests)
}

/// Hashes a complete file. A file that changes meanwhile is [`StoreError::Changed`].
pub(super) fn hash_file(
    path: &Path,
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
) -> Result<(Digest, Stamp), StoreError> {
    let (file, stamp) = disk::open_regular(path)?;
    let digest = hash_span(&file, path, ChunkSpan { offset: 0, length: stamp.size }, buffer, watch)?;
    stamp.check(&file, path)?;
    Ok((digest, stamp))
}

/// A read buffer for chunks of up to `longest` bytes.
pub(super) fn buffer(longest: u64) -> Vec<u8> {
    vec![0; longest.clamp(1, READ_BYTES_MAX as u64) as usize]
}

/// Hashes a span of a file; [`StoreError::Changed`] if the file is shorter than the span's end.
pub(super) fn hash_span(
    file: &File,
    path: &Path,
    span: ChunkSpan,
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
) -> Result<Digest, StoreError> {
    hash_span_with(Hasher::new(), file, path, span, buffer, watch)
}

/// Adds a span of a file to a hasher; [`StoreError::Changed`] if the file is shorter than the span's end.
pub(super) fn hash_span_with(
    mut hasher: Hasher,
    file: &File,
    path: &Path,
    span: ChunkSpan,
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
) -> Result<Digest, StoreError> {
    let range = span.offset..span.offset + span.length;
    read_range(file, path, range, buffer, watch, |bytes| hasher.update(bytes))?;
    Ok(hasher.finish())
}

/// Hashes a chunk of a source again and returns whether it matches the manifest. A chunk that cannot
/// be read counts as matching.
pub(super) fn matches(source: &dyn ChunkSource, index: ChunkIndex, path: &Path) -> bool {
    let Some(expected) = source.manifest().and_then(|manifest| manifest.digest(index)) else { return true };
    let digest = source.stored(index).and_then(|StoredChunk { file, offset, length }| {
        hash_span(&file, path, ChunkSpan { offset, length }, &mut buffer(length), HashCallbacks::NONE)
    });
    match digest {
        Ok(digest) => digest == expected,
        Err(error) => {
            log::debug!("cannot hash chunk {index} again: {error}");
            true
        }
    }
}

/// MD5 of the first `size` bytes of a file, on this thread: MD5 is serial.
pub(super) fn md5(file: &File, path: &Path, size: u64, watch: HashCallbacks<'_>) -> Result<Md5, StoreError> {
    let mut hasher = Md5Hasher::new();
    let mut buffer = buffer(size);
    read_range(file, path, 0..size, &mut buffer, watch, |bytes| hasher.update(bytes))?;
    Ok(hasher.finish())
}

/// Reads a range of a file buffer by buffer; [`StoreError::Changed`] if the file is shorter than
/// the range's end.
pub(super) fn read_range(
    file: &File,
    path: &Path,
    range: Range<u64>,
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
    mut on_bytes: impl FnMut(&[u8]),
) -> Result<(), StoreError> {
    let (mut offset, end) = (range.start, range.end);
    loop {
        if (watch.stop)() {
            return Err(StoreError::Stopped);
        }
        let length = (end - offset).min(buffer.len() as u64) as usize;
        if length == 0 {
            return Ok(());
        }
        match file.read_at(&mut buffer[..length], offset) {
            // The file was truncated after it was opened.
            Ok(0) => return Err(StoreError::Changed(path.to_owned())),
            Ok(read) => {
                on_bytes(&buffer[..read]);
                offset += read as u64;
                (watch.hashed)(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error::io("read", path)(error)),
        }
    }
}

/// Number of threads that can run in parallel.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Processes one item with the thread's buffer; `false` ends the run without an error.
type Work<'a> = &'a (dyn Fn(u32, &mut [u8]) -> Result<bool, StoreError> + Sync);

/// Calls `work` for each of `0..count` on all cores, this thread included. Each thread has a buffer
/// of `buffer_bytes` bytes. The first error ends the run.
pub(super) fn on_all_cores(count: u32, buffer_bytes: usize, work: Work<'_>) -> Result<(), StoreError> {
    let (next, finished) = (AtomicU32::new(0), AtomicBool::new(false));
    let worker = || {
        let mut buffer = vec![0; buffer_bytes];
        while !finished.load(Relaxed) {
            let item = next.fetch_add(1, Relaxed);
            if item >= count {
                break;
            }
            match work(item, &mut buffer) {
                Ok(true) => {}
                end => {
                    finished.store(true, Relaxed);
                    return end.map(|_| ());
                }
            }
        }
        Ok(())
    };
    let cores = cores().min(count as usize);
    thread::scope(|scope| {
        let spawn =
            |number| thread::Builder::new().name(format!("hash {number}")).spawn_scoped(scope, worker);
        // If a thread cannot be spawned, the remaining threads do its work.
        let others: Vec<_> = (1..cores)
            .filter_map(|number| {
                spawn(number)
                    .inspect_err(|error| {
                        log::warn!("cannot start a hashing thread, continuing with fewer: {error}")
                    })
                    .ok()
            })
            .collect();
        let mut result = worker();
        for other in others {
            // Only a callback can have panicked: pass the panic on to the caller.
            result = result.and(other.join().unwrap_or_else(|cause| panic::resume_unwind(cause)));
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::sync::Mutex;

    #[test]
    fn each_chunk_is_hashed_once_for_equal_unequal_and_zero_lengths() {
        let bytes: Vec<u8> = (0..200_000u32).map(|offset| (offset * 7 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let count = 3 * cores() * hash_lanes() + 1;
        // Equal lengths, different lengths, and all empty.
        for length in [|_| 40, |offset| offset as u64 % 9 * 11, |_| 0] {
            let layout = Layout::uneven((0..count).map(length)).unwrap();
            let chunks: Vec<ChunkIndex> = layout.indices().collect();
            let found = Mutex::new(Vec::new());
            let each = |index, digest| {
                found.lock().unwrap().push((index, digest));
                true
            };
            hash_chunks(&file, Path::new("it"), &layout, &chunks, HashCallbacks::NONE, &each).unwrap();
            let mut found = found.into_inner().unwrap();
            found.sort_unstable_by_key(|(index, _)| *index);
            let expected = chunks.iter().map(|index| {
                let span = layout.span(*index).unwrap();
                let offset = span.offset as usize;
                (*index, Digest::of(&bytes[offset..offset + span.length as usize]))
            });
            assert!(found.into_iter().eq(expected));
        }
    }
}
