//! Hashing what is on disk, on all cores.
//!
//! Each thread takes the next chunks that nobody has, so that none waits for another; memory is a buffer of
//! at most 256 KiB for each or, where several chunks are hashed at once, of [`HASH_MEMORY`](limits::HASH_MEMORY) for all of them.
//! Callbacks get the bytes hashed and say when to stop, at least once a buffer.

use super::disk::{self, Stamp};
use super::error::{self, StoreError};
use crate::content::md5::{Md5, Md5Hasher};
use crate::content::{ChunkIndex, ChunkSpan, Digest, Hasher, Layout, TOGETHER, limits};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::{panic, thread};

/// Most bytes that are read at once: little enough that they are still in a core's own cache when they are hashed, which
/// makes reading nearly free, and so many that the calls do not count.
pub(super) const READ_BYTES_MAX: u32 = 256 * 1024;

/// What the caller of a long hashing run wants to be told, and to say.
#[derive(Clone, Copy)]
pub(super) struct HashCallbacks<'a> {
    /// Called with the number of bytes that have just been hashed, on any thread.
    pub hashed: &'a (dyn Fn(u64) + Sync),
    /// Polled between pieces.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

impl HashCallbacks<'_> {
    /// Tells nobody, and does not stop.
    pub(super) const NONE: HashCallbacks<'static> = HashCallbacks { hashed: &|_| (), stop: &|| false };
}

/// Hashes chunks of a file and hands each digest to `each`, in no particular order, until that says
/// `false`.
pub(super) fn hash_chunks(
    file: &File,
    path: &Path,
    layout: &Layout,
    chunks: &[ChunkIndex],
    watch: HashCallbacks<'_>,
    each: &(dyn Fn(ChunkIndex, Digest) -> bool + Sync),
) -> Result<(), StoreError> {
    let longest = layout.longest();
    // All cores have something to do, and not much memory is taken.
    let groups = cores() * TOGETHER;
    let fits = (1..=limits::HASH_MEMORY / groups).contains(&(longest as usize));
    if chunks.len() < 2 * groups || !fits {
        return on_all_cores(chunks.len() as u32, longest.min(READ_BYTES_MAX), &|item, buffer| {
            let index = chunks[item as usize];
            let span = layout.span(index).ok_or(StoreError::Missing(index))?;
            Ok(each(index, hash_span(file, path, span, buffer, watch)?))
        });
    }
    let groups: Vec<&[ChunkIndex]> = chunks.chunks(TOGETHER).collect();
    on_all_cores(groups.len() as u32, longest * TOGETHER as u32, &|item, buffer| {
        let group = groups[item as usize];
        let digests = hash_group(file, path, layout, group, buffer, watch)?;
        Ok(group.iter().zip(digests).all(|(index, digest)| each(*index, digest)))
    })
}

/// Hashes up to [`TOGETHER`] chunks at once; the buffer holds as many.
fn hash_group(
    file: &File,
    path: &Path,
    layout: &Layout,
    group: &[ChunkIndex],
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
) -> Result<Vec<Digest>, StoreError> {
    let mut read = Vec::with_capacity(group.len());
    for (index, room) in group.iter().zip(buffer.chunks_mut(layout.longest() as usize)) {
        if (watch.stop)() {
            return Err(StoreError::Stopped);
        }
        let span = layout.span(*index).ok_or(StoreError::Missing(*index))?;
        let bytes = &mut room[..span.length as usize];
        file.read_exact_at(bytes, span.offset).map_err(|error| match error.kind() {
            // It was longer when it was opened.
            io::ErrorKind::UnexpectedEof => StoreError::Changed(path.to_owned()),
            _ => error::io("read", path)(error),
        })?;
        read.push(&*bytes);
    }
    let digests = Digest::of_each(&read);
    (watch.hashed)(read.iter().map(|bytes| bytes.len() as u64).sum());
    Ok(digests)
}

/// Hashes a whole file; one that changes meanwhile is [`StoreError::Changed`]. It must not be longer than
/// a chunk may be.
pub(super) fn hash_file(
    path: &Path,
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
) -> Result<(Digest, Stamp), StoreError> {
    let (file, stamp) = disk::open_regular(path)?;
    let length = u32::try_from(stamp.size).unwrap_or(u32::MAX);
    if length > limits::CHUNK_SIZE_MAX {
        return Err(error::invalid_input("hash", path, too_long(stamp.size)));
    }
    let digest = hash_span(&file, path, ChunkSpan { offset: 0, length }, buffer, watch)?;
    stamp.check(&file, path)?;
    Ok((digest, stamp))
}

/// What is wrong with a chunk of that many bytes.
pub(super) fn too_long(size: u64) -> String {
    format!("{size} bytes are more than a chunk may have, {}", limits::CHUNK_SIZE_MAX)
}

/// A buffer for chunks of up to `longest` bytes.
pub(super) fn buffer(longest: u32) -> Vec<u8> {
    vec![0; longest.clamp(1, READ_BYTES_MAX) as usize]
}

/// Hashes a part of a file, which must be that long.
pub(super) fn hash_span(
    file: &File,
    path: &Path,
    span: ChunkSpan,
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
) -> Result<Digest, StoreError> {
    let mut hasher = Hasher::new();
    let range = span.offset..span.offset + u64::from(span.length);
    read_range(file, path, range, buffer, watch, |bytes| hasher.update(bytes))?;
    Ok(hasher.finish())
}

/// The MD5 of the first `size` bytes of a file. It is serial: there is nothing for other cores to do.
pub(super) fn md5(file: &File, path: &Path, size: u64, watch: HashCallbacks<'_>) -> Result<Md5, StoreError> {
    let mut hasher = Md5Hasher::new();
    let mut buffer = buffer(u32::try_from(size).unwrap_or(u32::MAX));
    read_range(file, path, 0..size, &mut buffer, watch, |bytes| hasher.update(bytes))?;
    Ok(hasher.finish())
}

/// Reads a part of a file, which must be that long, piece by piece.
fn read_range(
    file: &File,
    path: &Path,
    range: Range<u64>,
    buffer: &mut [u8],
    watch: HashCallbacks<'_>,
    mut each: impl FnMut(&[u8]),
) -> Result<(), StoreError> {
    let (mut at, end) = (range.start, range.end);
    loop {
        if (watch.stop)() {
            return Err(StoreError::Stopped);
        }
        let wanted = (end - at).min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(());
        }
        match file.read_at(&mut buffer[..wanted], at) {
            // It was longer when it was opened.
            Ok(0) => return Err(StoreError::Changed(path.to_owned())),
            Ok(read) => {
                each(&buffer[..read]);
                at += read as u64;
                (watch.hashed)(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error::io("read", path)(error)),
        }
    }
}

/// How many threads can run at once.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Work on one item, with the thread's buffer; `false` ends it all without an error.
type Work<'a> = &'a (dyn Fn(u32, &mut [u8]) -> Result<bool, StoreError> + Sync);

/// Does `work` for `0..count`, on this thread and as many others as there are cores and items, each with a buffer of
/// `room` bytes. The first error ends it all.
pub(super) fn on_all_cores(count: u32, room: u32, work: Work<'_>) -> Result<(), StoreError> {
    let (next, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let worker = || {
        let mut buffer = vec![0; room as usize];
        while !over.load(Relaxed) {
            let item = next.fetch_add(1, Relaxed);
            if item >= count {
                break;
            }
            match work(item, &mut buffer) {
                Ok(true) => {}
                end => {
                    over.store(true, Relaxed);
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
        // Without further threads it takes longer, and that is all.
        let others: Vec<_> = (1..cores)
            .filter_map(|number| {
                spawn(number).inspect_err(|error| log::warn!("cannot start a hashing thread: {error}")).ok()
            })
            .collect();
        let mut result = worker();
        for other in others {
            // Only a callback can have panicked; that is its owner's to see.
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
    fn many_chunks_of_any_lengths_are_each_hashed_once() {
        let bytes: Vec<u8> = (0..200_000u32).map(|at| (at * 7 % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let count = 3 * cores() * TOGETHER + 1;
        // Alike, of all lengths, and all empty.
        for length in [|_| 40, |at| at as u32 % 9 * 11, |_| 0] {
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
                let at = span.offset as usize;
                (*index, Digest::of(&bytes[at..at + span.length as usize]))
            });
            assert!(found.into_iter().eq(expected));
        }
    }
}
