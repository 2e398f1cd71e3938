//! Stream file: verified bytes of a file, written in order to standard output or a FIFO.
//!
//! Chunks that arrive ahead of their turn wait in memory, within a window of [`STREAM_WINDOW_BYTES`]
//! bytes behind the last written byte. The downloader requests only chunks inside the window, so a slow
//! reader slows the download down. Invariants: bytes are written in the order of the file, each once,
//! and only whole chunks that the caller has verified; a write never blocks for longer than
//! [`POLL_INTERVAL`] without a look at `stop`.

use super::error::{self, StoreError};
use super::progress::Progress;
use super::{ChunkSink, ChunkSource, StoredChunk};
use crate::content::limits::{STREAM_CHUNKS_MIN, STREAM_WINDOW_BYTES};
use crate::content::md5::{Md5, Md5Hasher};
use crate::content::{Bitfield, ChunkIndex, Digest, Manifest};
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The path that stands for standard output.
pub const STDOUT: &str = "-";
/// Longest wait for the reader or for a chunk, before `stop` is looked at.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Bytes that a pipe with free space takes without blocking (POSIX `PIPE_BUF`).
const BLOCKING_WRITE_BYTES: usize = 4096;
/// Longest single write, bytes.
const WRITE_BYTES_MAX: usize = 256 * 1024;

/// A download whose bytes are written to a stream.
pub struct StreamFile {
    name: String,
    output: OwnedFd,
    /// Longest write that does not block after the output was found to be writable, bytes.
    write_bytes_max: usize,
    manifest: Arc<Manifest>,
    progress: Progress,
    window: Mutex<Window>,
    /// Whether the MD5 of the written bytes is computed, which takes longer than anything else.
    hashes_md5: bool,
    /// Number of chunks in the window.
    window_count: u32,
    /// Wakes the writer: a chunk was stored.
    stored: (Sender<()>, Receiver<()>),
    /// Wakes the downloader: a chunk was written.
    written: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct Window {
    /// The chunk to be written next; those before it have been written.
    next: u32,
    /// Verified chunks that wait for their turn.
    chunks: BTreeMap<u32, Vec<u8>>,
    /// Bytes of the chunks before `next`.
    written: u64,
    /// MD5 of the written bytes, once all are written.
    md5: Option<Md5>,
}

impl StreamFile {
    /// Prepares the output of a file to standard output.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn stdout(manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        let (name, stdout) = (Path::new("standard output"), io::stdout());
        let metadata = stdout.as_fd().try_clone_to_owned().map(File::from).and_then(|file| {
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        let (output, metadata) = metadata.map_err(error::io("write to", name))?;
        let kind = metadata.file_type();
        if kind.is_fifo() {
            // Another open file description: O_NONBLOCK set on the inherited one would hit other programs that share it.
            let nonblocking = OFlags::NONBLOCK.bits() as i32;
            let reopened = OpenOptions::new().write(true).custom_flags(nonblocking).open("/proc/self/fd/1");
            if let Ok(output) = reopened {
                return Ok(Self::to(name, output.into(), WRITE_BYTES_MAX, manifest));
            }
        }
        let write_bytes_max = if kind.is_file() { WRITE_BYTES_MAX } else { BLOCKING_WRITE_BYTES };
        Ok(Self::to(name, output.into(), write_bytes_max, manifest))
    }

    /// Opens a FIFO for the output of a file; `None` if no program reads from it yet.
    ///
    /// # Errors
    /// [`StoreError::NotAFile`] if the path is not a FIFO, or it cannot be opened.
    pub fn fifo(path: &Path, manifest: Arc<Manifest>) -> Result<Option<Self>, StoreError> {
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let opened = OpenOptions::new().write(true).custom_flags(nonblocking).open(path);
        let output = match opened {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NXIO) => return Ok(None),
            opened => opened.map_err(error::io("open", path))?,
        };
        let metadata = output.metadata().map_err(error::io("read the metadata of", path))?;
        match metadata.file_type().is_fifo() {
            true => Ok(Some(Self::to(path, output.into(), WRITE_BYTES_MAX, manifest))),
            false => Err(StoreError::NotAFile(path.to_owned())),
        }
    }

    fn to(name: &Path, output: OwnedFd, write_bytes_max: usize, manifest: Arc<Manifest>) -> Self {
        let layout = manifest.layout();
        let window_count = u64::from(STREAM_WINDOW_BYTES) / layout.longest().max(1);
        // At most the window's bytes.
        let window_count = (window_count as u32).max(STREAM_CHUNKS_MIN);
        Self {
            name: name.display().to_string(),
            output,
            write_bytes_max,
            progress: Progress::new(Bitfield::none(layout.count())),
            manifest,
            window: Mutex::default(),
            hashes_md5: false,
            window_count,
            stored: bounded(1),
            written: bounded(1),
        }
    }

    /// Computes the MD5 of the written bytes.
    #[must_use]
    pub fn with_md5(self) -> Self {
        Self { hashes_md5: true, ..self }
    }

    /// Name of the stream for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first chunk behind the window: this one and later ones must not be requested yet.
    pub fn window_end(&self) -> ChunkIndex {
        let next = lock(&self.window).next;
        ChunkIndex(next.saturating_add(self.window_count).min(self.manifest.layout().count()))
    }

    /// A channel that receives a message after chunks were written, so that the window has moved.
    pub fn written(&self) -> &Receiver<()> {
        &self.written.1
    }

    /// Bytes written so far: those of whole chunks.
    pub fn written_bytes(&self) -> u64 {
        lock(&self.window).written
    }

    /// Whether all bytes of the file have been written.
    pub fn is_complete(&self) -> bool {
        lock(&self.window).next == self.manifest.layout().count()
    }

    /// MD5 of the written bytes; `None` before all are written, and without [`with_md5`](Self::with_md5).
    pub fn md5(&self) -> Option<Md5> {
        lock(&self.window).md5
    }

    /// Writes the chunks in their order as they are stored, until all are written.
    ///
    /// # Errors
    /// [`StoreError::ReaderClosed`] if the reader has closed the stream, [`StoreError::Stopped`] if `stop`
    /// returned `true`, or another error of a write.
    pub fn write(&self, stop: &dyn Fn() -> bool) -> Result<(), StoreError> {
        let count = self.manifest.layout().count();
        let mut md5 = Md5Hasher::new();
        for index in 0..count {
            let bytes = self.await_chunk(index, stop)?;
            if self.hashes_md5 {
                md5.update(&bytes);
            }
            self.write_chunk(&bytes, stop)?;
            let mut window = lock(&self.window);
            window.next = index + 1;
            window.written += bytes.len() as u64;
            if window.next == count && self.hashes_md5 {
                window.md5 = Some(std::mem::take(&mut md5).finish());
            }
            drop(window);
            let _ = self.written.0.try_send(());
        }
        Ok(())
    }

    /// Waits for a chunk, and for the end of the reader.
    fn await_chunk(&self, index: u32, stop: &dyn Fn() -> bool) -> Result<Vec<u8>, StoreError> {
        loop {
            if let Some(bytes) = lock(&self.window).chunks.remove(&index) {
                return Ok(bytes);
            }
            if self.stored.1.recv_timeout(POLL_INTERVAL).is_err() {
                if stop() {
                    return Err(StoreError::Stopped);
                }
                self.poll_output(PollFlags::empty(), Duration::ZERO)?;
            }
        }
    }

    fn write_chunk(&self, mut bytes: &[u8], stop: &dyn Fn() -> bool) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            if stop() {
                return Err(StoreError::Stopped);
            }
            if !self.poll_output(PollFlags::OUT, POLL_INTERVAL)? {
                continue;
            }
            match rustix::io::write(&self.output, &bytes[..bytes.len().min(self.write_bytes_max)]) {
                Ok(count) => bytes = &bytes[count..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(self.failed(errno)),
            }
        }
        Ok(())
    }

    /// Waits until the output is ready for `wanted`, at most `time`; fails if its reader has closed it.
    fn poll_output(&self, wanted: PollFlags, time: Duration) -> Result<bool, StoreError> {
        let time = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
        let mut ready = [PollFd::new(&self.output, wanted)];
        match poll(&mut ready, Some(&time)) {
            Err(Errno::INTR) => return Ok(false),
            Err(errno) => return Err(self.failed(errno)),
            Ok(_) => {}
        }
        match ready[0].revents() {
            events if events.contains(PollFlags::ERR) => Err(self.failed(Errno::PIPE)),
            events => Ok(events.contains(PollFlags::OUT)),
        }
    }

    fn failed(&self, errno: Errno) -> StoreError {
        let (size, written) = (self.manifest.layout().size(), self.written_bytes());
        match errno {
            Errno::PIPE | Errno::CONNRESET => {
                StoreError::ReaderClosed { name: self.name.clone(), written, size }
            }
            _ => error::write("write to", Path::new(&self.name), size - written)(errno.into()),
        }
    }
}

/// A stream serves no chunk: its bytes are gone once they are written.
impl ChunkSource for StreamFile {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        Err(StoreError::Missing(index))
    }
}

impl ChunkSink for StreamFile {
    fn store(&self, index: ChunkIndex, _: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        let span = self.manifest.layout().span(index).ok_or(StoreError::Missing(index))?;
        if bytes.len() as u64 != span.length {
            let reason = format!("chunk {index} has {} bytes, not {}", bytes.len(), span.length);
            return Err(error::invalid_input("write", Path::new(&self.name), reason));
        }
        // Only a chunk inside the window is requested: memory is bounded.
        if self.progress.add(index) {
            lock(&self.window).chunks.insert(index.0, bytes.to_vec());
            let _ = self.stored.0.try_send(());
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::complete_file::manifest_in_chunks;
    use std::io::{PipeReader, Read as _};

    const CHUNK: usize = 16 * 1024;

    fn stream(bytes: &[u8]) -> (StreamFile, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (
            StreamFile::to(
                Path::new("pipe"),
                writer.into(),
                BLOCKING_WRITE_BYTES,
                manifest_in_chunks(CHUNK as u32, bytes),
            ),
            reader,
        )
    }

    fn bytes(chunks: usize) -> Vec<u8> {
        (0..chunks * CHUNK + 1).map(|at| (at / CHUNK * 7 + at) as u8).collect()
    }

    fn store(stream: &StreamFile, bytes: &[u8], index: usize) {
        let chunk = bytes.chunks(CHUNK).nth(index).unwrap();
        assert!(stream.store(ChunkIndex(index as u32), Digest::of(chunk), chunk).unwrap());
    }

    #[test]
    fn chunks_that_arrive_out_of_order_are_written_in_order_and_once() {
        let bytes = bytes(40);
        let (stream, mut reader) = stream(&bytes);
        let stream = stream.with_md5();
        let mut order: Vec<usize> = (0..41).chain(0..5).collect();
        fastrand::shuffle(&mut order);
        let got = std::thread::spawn(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).map(|_| got)
        });
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| stream.write(&|| false));
            order.into_iter().for_each(|index| store(&stream, &bytes, index));
            writer.join().unwrap().unwrap();
        });
        let mut hasher = Md5Hasher::new();
        hasher.update(&bytes);
        assert!(stream.is_complete() && stream.md5() == Some(hasher.finish()));
        assert_eq!(stream.written_bytes(), bytes.len() as u64);
        drop(stream);
        assert!(got.join().unwrap().unwrap() == bytes);
    }

    #[test]
    fn the_window_moves_with_the_written_bytes() {
        let bytes = bytes(1);
        let mut stream = stream(&bytes).0;
        assert_eq!(
            (stream.window_count, stream.window_end()),
            (STREAM_WINDOW_BYTES / CHUNK as u32, ChunkIndex(2))
        );
        stream.window_count = 1;
        assert_eq!(stream.window_end(), ChunkIndex(1));
        lock(&stream.window).next = 1;
        assert_eq!(stream.window_end(), ChunkIndex(2));
    }

    #[test]
    fn a_closed_reader_is_reported_also_while_no_chunk_is_there() {
        let bytes = bytes(40);
        let (stream, reader) = stream(&bytes);
        drop(reader);
        let error = stream.write(&|| false).unwrap_err();
        assert_eq!(error.to_string(), "pipe was closed by its reader after 0 of 655361 bytes");
        store(&stream, &bytes, 0);
        assert!(matches!(stream.write(&|| false), Err(StoreError::ReaderClosed { written: 0, .. })));
    }

    #[test]
    fn a_reader_that_takes_nothing_does_not_block_the_end_of_the_program() {
        let bytes = bytes(40);
        let (stream, _reader) = stream(&bytes);
        (0..41).for_each(|index| store(&stream, &bytes, index));
        let polls = std::cell::Cell::new(0);
        // A pipe holds at least one chunk; after that each look at `stop` follows a wait.
        let stop = || polls.replace(polls.get() + 1) > 20;
        assert!(matches!(stream.write(&stop), Err(StoreError::Stopped)));
        assert!(stream.written_bytes() < bytes.len() as u64 && !stream.is_complete());
    }

    #[test]
    fn a_fifo_without_a_reader_is_not_opened_and_a_file_is_refused() {
        use rustix::fs::{CWD, FileType, Mode};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_bits_truncate(0o600), 0).unwrap();
        let manifest = manifest_in_chunks(CHUNK as u32, b"bytes");
        assert!(StreamFile::fifo(&path, manifest.clone()).unwrap().is_none());
        let reader = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path);
        assert!(StreamFile::fifo(&path, manifest.clone()).unwrap().is_some());
        drop(reader);
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(StreamFile::fifo(&file, manifest), Err(StoreError::NotAFile(_))));
    }
}
