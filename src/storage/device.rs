//! Device file: a file that is written to a block device in place.
//!
//! The bytes go to the start of the device; the bytes behind the file stay as they are. There is no
//! resume file: the device itself is hashed by the next run, since any program can have written to it
//! in between. Invariants: no byte is written before the size of the device has been compared with that
//! of the file; a chunk in [`Progress`] has been verified.

use super::disk;
use super::error::{self, StoreError};
use super::hashing::{self, HashCallbacks};
use super::in_place::{ChunkWriters, InPlaceFile};
use super::progress::Progress;
use super::verify::{Verify, VerifyCallbacks};
use super::{ChunkSink, ChunkSource, LargeChunk, StoredChunk};
use crate::content::{Bitfield, ChunkIndex, Digest, Manifest, Md5};
use crate::sync::lock;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// A download that is written to a block device.
pub struct DeviceFile {
    path: PathBuf,
    file: Arc<File>,
    size: u64,
    manifest: Arc<Manifest>,
    progress: Progress,
    found: AtomicU64,
    /// Locked during each write.
    writers: Mutex<ChunkWriters>,
    /// A chunk was found to differ from its digest: no chunk is served.
    is_corrupt: AtomicBool,
}

impl DeviceFile {
    /// Opens a block device for this process alone, and writes nothing.
    ///
    /// # Errors
    /// [`StoreError::NotAFile`] if the path is not a block device, [`StoreError::DeviceTooSmall`], or the
    /// device is mounted, in use by another program or not accessible.
    pub fn open(path: &Path, manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        // For a block device without O_CREAT, Linux defines O_EXCL: it fails if the device is mounted or opened so.
        let exclusive = OFlags::EXCL.bits() as i32;
        let file = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => {
                let cause = "it is mounted, or another program uses it";
                error::io("open", path)(io::Error::new(io::ErrorKind::ResourceBusy, cause))
            }
            _ => error::io("open", path)(error),
        })?;
        let metadata = file.metadata().map_err(error::io("read the metadata of", path))?;
        if !metadata.file_type().is_block_device() {
            return Err(StoreError::NotAFile(path.to_owned()));
        }
        let size = disk::device_size(&file, path)?;
        Self::on(file, path, size, manifest)
    }

    fn on(file: File, path: &Path, size: u64, manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        let needed = manifest.layout().size();
        if size < needed {
            return Err(StoreError::DeviceTooSmall { path: path.to_owned(), size, needed });
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            size,
            progress: Progress::new(Bitfield::none(manifest.layout().count())),
            found: AtomicU64::new(0),
            manifest,
            writers: Mutex::default(),
            is_corrupt: AtomicBool::new(false),
        })
    }

    /// Path of the device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the device, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of the chunks that [`check`](Self::check) found on the device.
    pub fn found_bytes(&self) -> u64 {
        self.found.load(Relaxed)
    }

    /// Looks for chunks of the file that the device already has, and returns their number.
    ///
    /// [`Verify::Full`] hashes all chunks, [`Verify::None`] none. [`Verify::Sample`] hashes a few, and all
    /// of them if one of the few is on the device.
    ///
    /// # Errors
    /// The device cannot be read, or [`StoreError::Stopped`].
    pub fn check(&self, verify: Verify, callbacks: VerifyCallbacks<'_>) -> Result<u32, StoreError> {
        let all = Bitfield::all(self.manifest.layout().count());
        let chosen = verify.choose(&all);
        let mut matching = self.matching(&chosen, callbacks)?;
        if verify == Verify::Sample && !matching.is_empty() && chosen.len() < all.count() as usize {
            matching = self.matching(&Verify::Full.choose(&all), callbacks)?;
        }
        let length = |index: &ChunkIndex| self.manifest.layout().span(*index).map_or(0, |span| span.length);
        self.found.store(matching.iter().map(length).sum(), Relaxed);
        matching.iter().for_each(|index| _ = self.progress.add(*index));
        Ok(matching.len() as u32)
    }

    /// Hashes chunks and returns those whose digest matches the manifest.
    fn matching(
        &self,
        chunks: &[ChunkIndex],
        callbacks: VerifyCallbacks<'_>,
    ) -> Result<Vec<ChunkIndex>, StoreError> {
        let layout = self.manifest.layout();
        let length = |index: &ChunkIndex| layout.span(*index).map_or(0, |span| span.length);
        if !chunks.is_empty() {
            (callbacks.begin)(chunks.iter().map(length).sum());
        }
        let callbacks = HashCallbacks { hashed: callbacks.hashed, stop: callbacks.stop };
        let matching = Mutex::new(Vec::new());
        hashing::hash_chunks(&self.file, &self.path, layout, chunks, callbacks, &|index, digest| {
            if self.manifest.digest(index) == Some(digest) {
                lock(&matching).push(index);
            }
            true
        })?;
        Ok(std::mem::take(&mut *lock(&matching)))
    }

    /// MD5 of the file on the device. For the callbacks see
    /// [`CompleteFile::publish`](super::CompleteFile::publish).
    ///
    /// # Errors
    /// The device cannot be read, or [`StoreError::Stopped`].
    pub fn md5(
        &self,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Md5, StoreError> {
        let size = self.manifest.layout().size();
        hashing::md5(&self.file, &self.path, size, HashCallbacks { hashed, stop })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.file.write_all_at(bytes, offset).map_err(error::io("write", &self.path))
    }

    /// Makes all chunks durable. May take minutes.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if a chunk is missing; the device has lost data.
    pub fn finish(&self) -> Result<(), StoreError> {
        if let Some(missing) = self.progress.have().0.missing().next() {
            return Err(StoreError::Missing(missing));
        }
        self.file.sync_all().map_err(error::io("write all data to", &self.path))
    }
}

impl ChunkSource for DeviceFile {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn is_intact(&self) -> bool {
        !self.is_corrupt.load(Relaxed)
    }

    fn check_reported(&self, index: ChunkIndex) -> bool {
        let matches = hashing::matches(self, index, &self.path);
        if !matches && !self.is_corrupt.swap(true, Relaxed) {
            log::warn!(
                "{}: chunk {index} differs from its SHA-256, although it was stored correctly (a peer reported it): \
                 another program or the device has damaged it; the file is no longer offered",
                self.path.display()
            );
        }
        matches
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        if !self.is_intact() {
            return Err(StoreError::Changed(self.path.clone()));
        }
        let span = self.manifest.layout().span(index).filter(|_| self.progress.has(index));
        let span = span.ok_or(StoreError::Missing(index))?;
        Ok(StoredChunk { file: Arc::clone(&self.file), offset: span.offset, length: span.length })
    }
}

impl ChunkSink for DeviceFile {
    fn store(&self, index: ChunkIndex, _: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        let span = self.manifest.layout().span(index).ok_or(StoreError::Missing(index))?;
        if bytes.len() as u64 != span.length {
            let reason = format!("chunk {index} has {} bytes, not {}", bytes.len(), span.length);
            return Err(error::invalid_input("write", &self.path, reason));
        }
        if !self.progress.has(index) {
            let writers = lock(&self.writers);
            self.write_at(bytes, span.offset)?;
            drop(writers);
            self.progress.add(index);
        }
        Ok(true)
    }

    fn begin(
        &self,
        index: ChunkIndex,
        _: Digest,
        length: u64,
    ) -> Result<Box<dyn LargeChunk + '_>, StoreError> {
        let span = self.manifest.layout().span(index).filter(|span| span.length == length);
        let file = InPlaceFile {
            path: &self.path,
            progress: &self.progress,
            writers: &self.writers,
            write_at: Box::new(|bytes, offset| self.write_at(bytes, offset)),
        };
        Ok(file.begin(index, span.ok_or(StoreError::Missing(index))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::complete_file::manifest_in_chunks;
    use std::sync::atomic::AtomicUsize;

    const CHUNK: usize = 16 * 1024;

    /// A device with this content; a regular file stands for it.
    fn device(bytes: &[u8], manifest: Arc<Manifest>) -> Result<DeviceFile, StoreError> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        DeviceFile::on(file, Path::new("device"), bytes.len() as u64, manifest)
    }

    fn bytes() -> Vec<u8> {
        (0..100 * CHUNK).map(|at| (at / CHUNK * 7 + at) as u8).collect()
    }

    #[test]
    fn a_device_that_is_too_small_is_refused() {
        let bytes = bytes();
        let manifest = manifest_in_chunks(CHUNK as u32, &bytes);
        let error = device(&bytes[1..], manifest.clone()).err().unwrap();
        assert_eq!(error.to_string(), "device is too small: it has 1638399 bytes, the file has 1638400",);
        assert!(device(&bytes, manifest).is_ok());
    }

    #[test]
    fn only_a_block_device_is_opened() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let manifest = manifest_in_chunks(CHUNK as u32, b"");
        for path in [file.path(), Path::new("/dev/null")] {
            assert!(
                matches!(DeviceFile::open(path, manifest.clone()), Err(StoreError::NotAFile(_))),
                "{path:?}"
            );
        }
    }

    #[test]
    fn chunks_that_the_device_already_has_are_found_and_others_are_written() {
        let bytes = bytes();
        let manifest = manifest_in_chunks(CHUNK as u32, &bytes);
        let mut other = bytes.clone();
        other[42 * CHUNK] ^= 1;
        other.extend([9; 1_000]);
        let device = device(&other, manifest.clone()).unwrap();
        assert_eq!(device.check(Verify::Full, VerifyCallbacks::NONE).unwrap(), 99);
        assert_eq!(device.found_bytes(), 99 * CHUNK as u64);
        assert!(matches!(device.finish(), Err(StoreError::Missing(ChunkIndex(42)))));
        assert!(matches!(device.stored(ChunkIndex(42)), Err(StoreError::Missing(_))));
        let chunk = &bytes[42 * CHUNK..43 * CHUNK];
        assert!(device.store(ChunkIndex(42), Digest::of(chunk), chunk).unwrap());
        device.finish().unwrap();
        let mut got = vec![0; other.len()];
        device.file.read_exact_at(&mut got, 0).unwrap();
        assert!(got[..bytes.len()] == bytes && got[bytes.len()..] == [9; 1_000]);
    }

    #[test]
    fn a_sample_without_a_match_is_all_that_is_read() {
        let bytes = bytes();
        let manifest = manifest_in_chunks(CHUNK as u32, &bytes);
        let read = |content: &[u8], verify| {
            let count = AtomicUsize::new(0);
            let hashed = |bytes| _ = count.fetch_add(bytes as usize, Relaxed);
            let callbacks = VerifyCallbacks { begin: &|_| (), hashed: &hashed, stop: &|| false };
            let found = device(content, manifest.clone()).unwrap().check(verify, callbacks).unwrap();
            (found, count.into_inner() / CHUNK)
        };
        let empty = vec![0; bytes.len()];
        assert_eq!(read(&empty, Verify::None), (0, 0));
        assert_eq!(read(&empty, Verify::Sample), (0, 32));
        assert_eq!(read(&empty, Verify::Full), (0, 100));
        assert_eq!(read(&bytes, Verify::Sample), (100, 132));
    }

    #[test]
    fn a_reported_chunk_that_was_changed_ends_the_offer() {
        let bytes = bytes();
        let device = device(&bytes, manifest_in_chunks(CHUNK as u32, &bytes)).unwrap();
        device.check(Verify::Full, VerifyCallbacks::NONE).unwrap();
        assert!(device.check_reported(ChunkIndex(3)) && device.stored(ChunkIndex(3)).is_ok());
        device.file.write_all_at(&[0xEE, 0xEE], 3 * CHUNK as u64).unwrap();
        assert!(!device.check_reported(ChunkIndex(3)) && !device.is_intact());
        assert!(matches!(device.stored(ChunkIndex(4)), Err(StoreError::Changed(_))));
    }
}
