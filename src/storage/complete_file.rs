//! Complete file: a verified file that is served.
//!
//! Its chunks are hashed once. A file published by its path stays open, so that it can be renamed
//! or replaced meanwhile. A file of a [shared folder](super::SharedFolder) is opened for each
//! chunk, so that a folder of any size keeps no file open. The file is never written to. Invariant:
//! as long as the file's metadata is as it was when hashing began, its bytes match the manifest;
//! after a change, no chunk is served. A program that writes through a memory map can change bytes
//! without a change of the metadata: [`check_reported`](ChunkSource::check_reported) finds it.

use super::disk::{self, Identity, Stamp};
use super::error::StoreError;
use super::hashing::{self, HashCallbacks};
use super::progress::Progress;
use super::spool::Spool;
use super::verify::{Verify, VerifyCallbacks};
use super::{ChunkSource, StoredChunk};
use crate::content::{Bitfield, ChunkIndex, Digest, DurableStamp, FileId, Layout, Manifest, Md5};
use crate::sync::lock;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::{fmt, io};

/// A complete, verified file.
pub struct CompleteFile {
    path: PathBuf,
    access: Access,
    manifest: Arc<Manifest>,
    id: FileId,
    progress: Progress,
    /// A chunk was found to differ from its digest: no chunk is served.
    is_corrupt: AtomicBool,
    /// The bytes are in a temporary file without a name, and no longer at the path.
    is_spooled: bool,
}

/// Identity of the file under a path. Two equal stamps mean the same file, unmodified in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp(Identity);

impl FileStamp {
    /// Reads the stamp of a path; `None` if the path is neither a regular file nor a block device. That of
    /// a device tells only that it is the same device.
    pub fn at(path: &Path) -> Option<Self> {
        let is_served = |metadata: &Metadata| metadata.is_file() || metadata.file_type().is_block_device();
        let metadata = std::fs::metadata(path).ok().filter(is_served)?;
        Some(Self(Identity::of(&metadata)))
    }

    /// The part of it that stays valid over a restart; `None` if the file system has no modification times.
    pub fn durable(&self) -> Option<DurableStamp> {
        self.0.durable()
    }
}

/// How the file is reached for each chunk.
enum Access {
    /// An open file, which may have been renamed since.
    Open { file: Arc<File>, stamp: Stamp },
    /// The path, as long as it refers to exactly this file.
    Named(Identity),
}

impl CompleteFile {
    /// Hashes a file on all cores and publishes it. An empty file is one empty chunk.
    ///
    /// `chunk_size` is in bytes; `None` selects the default. `hashed` receives the number of bytes
    /// just hashed, from any thread; `stop` is polled at least every 256 KiB.
    ///
    /// # Errors
    /// The path is not a regular file or cannot be read, the chunk size is invalid, the file
    /// changes while it is hashed ([`StoreError::Changed`]), or `stop` returned `true`
    /// ([`StoreError::Stopped`]).
    pub fn publish(
        path: &Path,
        chunk_size: Option<u32>,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, StoreError> {
        let (file, stamp) = disk::open_regular(path)?;
        Self::publish_open(path, file, stamp, chunk_size, HashCallbacks { hashed, stop })
    }

    /// Publishes a regular file, the content of a block device, or with `spool` what was read from the
    /// stream at this path. A device must not be written to while it is served.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub fn publish_input(
        path: &Path,
        spool: Option<Spool>,
        chunk_size: Option<u32>,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, StoreError> {
        let is_spooled = spool.is_some();
        let (file, stamp) = match spool {
            Some(spool) => {
                let file = spool.into_file();
                let stamp = Stamp::read(&file, path)?;
                (file, stamp)
            }
            None => disk::open_file_or_device(path)?,
        };
        let published = Self::publish_open(path, file, stamp, chunk_size, HashCallbacks { hashed, stop })?;
        Ok(Self { is_spooled, ..published })
    }

    /// Hashes an open file and publishes it.
    fn publish_open(
        path: &Path,
        file: File,
        stamp: Stamp,
        chunk_size: Option<u32>,
        callbacks: HashCallbacks<'_>,
    ) -> Result<Self, StoreError> {
        let layout = Layout::even(stamp.size, chunk_size)?;
        let digests = Mutex::new(vec![Digest([0; 32]); layout.count() as usize]);
        let all: Vec<ChunkIndex> = layout.indices().collect();
        hashing::hash_chunks(&file, path, &layout, &all, callbacks, &|index, digest| {
            lock(&digests)[index.at()] = digest;
            true
        })?;
        let digests = std::mem::take(&mut *lock(&digests));
        Self::unchanged(path, file, stamp, Arc::new(Manifest::new(layout, digests)?))
    }

    /// Verifies an existing file against a manifest, to the extent of `verify`: `Some` if the
    /// hashed chunks match, `None` if the file differs.
    ///
    /// A file of another size is not read; reading ends at the first chunk that differs. **Only a
    /// file verified in full may be served.**
    ///
    /// # Errors
    /// As for [`publish`](Self::publish); a missing file is [`StoreError::Io`].
    pub fn check(
        path: &Path,
        manifest: Arc<Manifest>,
        verify: Verify,
        callbacks: VerifyCallbacks<'_>,
    ) -> Result<Option<Self>, StoreError> {
        let (file, stamp) = disk::open_regular(path)?;
        let layout = manifest.layout();
        if stamp.size != layout.size() {
            return Ok(None);
        }
        let chosen = verify.choose(&Bitfield::all(layout.count()));
        let length = |index: &ChunkIndex| layout.span(*index).map_or(0, |span| span.length);
        (callbacks.begin)(chosen.iter().map(length).sum());
        let callbacks = HashCallbacks { hashed: callbacks.hashed, stop: callbacks.stop };
        let same = AtomicBool::new(true);
        hashing::hash_chunks(&file, path, layout, &chosen, callbacks, &|index, digest| {
            let equal = manifest.digest(index) == Some(digest);
            same.fetch_and(equal, Relaxed);
            equal
        })?;
        match same.into_inner() {
            true => Self::unchanged(path, file, stamp, manifest).map(Some),
            false => Ok(None),
        }
    }

    /// Accepts an existing file for a manifest without reading it: **the caller has verified its
    /// bytes**, as a finished download has. Only the size is compared.
    ///
    /// # Errors
    /// The path is not a regular file or cannot be opened, or the size differs from the manifest
    /// ([`StoreError::Changed`]).
    pub fn verified(path: &Path, manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        let (file, stamp) = disk::open_regular(path)?;
        match stamp.size == manifest.layout().size() {
            true => Self::unchanged(path, file, stamp, manifest),
            false => Err(StoreError::Changed(path.to_owned())),
        }
    }

    /// Closes the open file; from now on it is opened by its path for each chunk.
    ///
    /// The path must refer to the file with this identity now and at each later open, otherwise the
    /// result is [`StoreError::Changed`]. An identity read before hashing began therefore stands
    /// for the hashed bytes.
    pub(super) fn by_path(mut self, identity: Identity) -> Result<Self, StoreError> {
        if let Access::Open { file, .. } = &self.access {
            identity.check(file, &self.path)?;
        }
        self.access = Access::Named(identity);
        Ok(self)
    }

    fn unchanged(path: &Path, file: File, stamp: Stamp, manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        stamp.check(&file, path)?;
        let id = manifest.id();
        let progress = Progress::new(Bitfield::all(manifest.layout().count()));
        let access = Access::Open { file: Arc::new(file), stamp };
        let is_corrupt = AtomicBool::new(false);
        let path = path.to_owned();
        Ok(Self { path, access, manifest, id, progress, is_corrupt, is_spooled: false })
    }

    /// MD5 of the file, from a second pass on this thread. For the callbacks see
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub fn md5(
        &self,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Md5, StoreError> {
        let md5 =
            hashing::md5(&*self.open()?, &self.path, self.layout().size(), HashCallbacks { hashed, stop })?;
        self.open().map(|_| md5)
    }

    /// Id of the file: the hash of its manifest.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Path of the file when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the bytes are in a temporary file without a name: no other program can change them, and
    /// the path says nothing about them.
    pub fn is_spooled(&self) -> bool {
        self.is_spooled
    }

    /// Chunk layout of the file.
    pub fn layout(&self) -> &Layout {
        self.manifest.layout()
    }

    /// Whether a chunk was found to differ from its digest, although the metadata is unchanged.
    pub(super) fn is_corrupt(&self) -> bool {
        self.is_corrupt.load(Relaxed)
    }

    /// Opens the file, or returns the open one; fails if it is no longer the hashed file.
    fn open(&self) -> Result<Arc<File>, StoreError> {
        if self.is_corrupt() {
            return Err(StoreError::Changed(self.path.clone()));
        }
        match &self.access {
            Access::Open { file, stamp } => stamp.check(file, &self.path).map(|()| Arc::clone(file)),
            Access::Named(identity) => {
                let (file, _) = disk::open_regular(&self.path).map_err(missing_as_changed)?;
                identity.check(&file, &self.path)?;
                Ok(Arc::new(file))
            }
        }
    }
}

impl fmt::Debug for CompleteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompleteFile").field("path", &self.path).field("id", &self.id).finish_non_exhaustive()
    }
}

/// Treats a missing or non-regular file as changed.
fn missing_as_changed(error: StoreError) -> StoreError {
    match error {
        StoreError::NotAFile(path) => StoreError::Changed(path),
        StoreError::Io { path, source, .. }
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            StoreError::Changed(path)
        }
        other => other,
    }
}

impl ChunkSource for CompleteFile {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn mode(&self) -> Option<u32> {
        let metadata = match &self.access {
            Access::Open { file, .. } => file.metadata(),
            Access::Named(_) => std::fs::metadata(&self.path),
        };
        let metadata = metadata.ok().filter(|metadata| metadata.is_file() && !self.is_spooled)?;
        Some(metadata.mode() & disk::PERMISSION_BITS)
    }

    fn is_intact(&self) -> bool {
        self.open().is_ok()
    }

    fn check_reported(&self, index: ChunkIndex) -> bool {
        let matches = hashing::matches(self, index, &self.path);
        if !matches && !self.is_corrupt.swap(true, Relaxed) {
            log::warn!(
                "{}: chunk {index} differs from its SHA-256, although size and modification time of the file are \
                 unchanged (a peer reported it); the file is not offered until it has been hashed again",
                self.path.display()
            );
        }
        matches
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        let span = self.manifest.layout().span(index).ok_or(StoreError::Missing(index))?;
        Ok(StoredChunk { file: self.open()?, offset: span.offset, length: span.length })
    }
}

/// The manifest of these bytes, for tests.
#[cfg(test)]
pub(super) fn manifest_in_chunks(chunk_size: u32, bytes: &[u8]) -> Arc<Manifest> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let complete = CompleteFile::publish(file.path(), Some(chunk_size), &|_| (), &|| false).unwrap();
    complete.manifest().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs::{self, FileTimes, OpenOptions};
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::AtomicU64;
    use std::time::SystemTime;
    use tempfile::TempDir;

    const CHUNK: usize = 16 * 1024;

    fn file_of(bytes: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        // A name that is not UTF-8 is valid.
        let path = folder.path().join(OsStr::from_bytes(b"odd \xff\nname"));
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn publish(path: &Path) -> Result<CompleteFile, StoreError> {
        CompleteFile::publish(path, Some(CHUNK as u32), &|_| (), &|| false)
    }

    fn check(path: &Path, manifest: Arc<Manifest>) -> Option<CompleteFile> {
        CompleteFile::check(path, manifest, Verify::Full, VerifyCallbacks::NONE).unwrap()
    }

    #[test]
    fn a_file_of_any_size_is_hashed_and_served_completely() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 7 * CHUNK, 7 * CHUNK + 1] {
            let bytes: Vec<u8> = (0..size).map(|at| (at / 7) as u8).collect();
            let (_folder, path) = file_of(&bytes);
            let count = AtomicU64::new(0);
            let counted = |bytes| _ = count.fetch_add(bytes, Relaxed);
            let complete = CompleteFile::publish(&path, Some(CHUNK as u32), &counted, &|| false).unwrap();
            assert_eq!(count.into_inner(), size as u64);
            let manifest = complete.manifest().unwrap();
            let mut served = Vec::new();
            for index in manifest.layout().indices() {
                let chunk = complete.stored(index).unwrap();
                let mut bytes = vec![0; chunk.length as usize];
                chunk.file.read_exact_at(&mut bytes, chunk.offset).unwrap();
                assert_eq!(manifest.digest(index), Some(Digest::of(&bytes)));
                served.extend(bytes);
            }
            assert!(served == bytes && complete.progress().is_complete());
            let past = ChunkIndex(manifest.layout().count());
            assert!(matches!(complete.stored(past), Err(StoreError::Missing(_))));
            assert_eq!(check(&path, manifest).unwrap().id(), complete.id());
        }
    }

    #[test]
    fn chunks_larger_than_the_read_buffer_are_hashed() {
        let (_folder, path) = file_of(&vec![7; 5 << 20]);
        let complete = CompleteFile::publish(&path, Some(4 << 20), &|_| (), &|| false).unwrap();
        let manifest = complete.manifest().unwrap();
        assert_eq!(manifest.digest(ChunkIndex(0)), Some(Digest::of(&vec![7; 4 << 20])));
        assert_eq!(manifest.digest(ChunkIndex(1)), Some(Digest::of(&vec![7; 1 << 20])));
    }

    #[test]
    fn check_rejects_a_different_file_and_does_not_read_another_size() {
        let (_folder, path) = file_of(&vec![1; 3 * CHUNK]);
        let manifest = publish(&path).unwrap().manifest().unwrap();
        let mut bytes = vec![1; 3 * CHUNK];
        bytes[2 * CHUNK] = 2;
        fs::write(&path, &bytes).unwrap();
        assert!(check(&path, Arc::clone(&manifest)).is_none());
        fs::write(&path, &bytes[1..]).unwrap();
        let unread = |_| unreachable!("a file of another size is not read");
        for verify in [Verify::Full, Verify::Sample, Verify::None] {
            let callbacks = VerifyCallbacks { begin: &unread, hashed: &unread, stop: &|| false };
            assert!(CompleteFile::check(&path, manifest.clone(), verify, callbacks).unwrap().is_none());
        }
    }

    #[test]
    fn a_sample_check_reads_only_the_sampled_chunks() {
        let (_folder, path) = file_of(&vec![1; 100 * CHUNK]);
        let manifest = publish(&path).unwrap().manifest().unwrap();
        let size = CHUNK as u64;
        for (verify, wanted) in [(Verify::Full, 100 * size), (Verify::Sample, 32 * size), (Verify::None, 0)] {
            let (read, told) = (AtomicU64::new(0), AtomicU64::new(0));
            let hashed = |bytes| _ = read.fetch_add(bytes, Relaxed);
            let begin = |bytes| told.store(bytes, Relaxed);
            let callbacks = VerifyCallbacks { begin: &begin, hashed: &hashed, stop: &|| false };
            assert!(CompleteFile::check(&path, manifest.clone(), verify, callbacks).unwrap().is_some());
            assert_eq!((read.into_inner(), told.into_inner()), (wanted, wanted));
        }
        fs::write(&path, vec![2; 100 * CHUNK]).unwrap();
        let check =
            |verify| CompleteFile::check(&path, manifest.clone(), verify, VerifyCallbacks::NONE).unwrap();
        assert!(check(Verify::Sample).is_none() && check(Verify::None).is_some());
    }

    #[test]
    fn a_changed_file_is_not_served() {
        let (_folder, path) = file_of(&[1; 100]);
        let complete = publish(&path).unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
        assert!(matches!(complete.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));

        let complete = publish(&path).unwrap();
        file.set_len(101).unwrap();
        assert!(matches!(complete.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
    }

    #[test]
    fn a_replaced_file_is_still_served() {
        let (folder, path) = file_of(&[1; 100]);
        let complete = publish(&path).unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "other").unwrap();
        fs::rename(other, &path).unwrap();
        assert_eq!(complete.stored(ChunkIndex(0)).unwrap().length, 100);
    }

    #[test]
    fn verified_compares_the_size_and_reads_nothing() {
        let (_folder, path) = file_of(&[1; 100]);
        let manifest = publish(&path).unwrap().manifest().unwrap();
        let complete = CompleteFile::verified(&path, Arc::clone(&manifest)).unwrap();
        assert_eq!(complete.stored(ChunkIndex(0)).unwrap().length, 100);
        fs::write(&path, [2; 100]).unwrap();
        assert!(matches!(complete.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
        assert!(CompleteFile::verified(&path, Arc::clone(&manifest)).is_ok());
        fs::write(&path, [1; 99]).unwrap();
        assert!(matches!(CompleteFile::verified(&path, manifest), Err(StoreError::Changed(_))));
    }

    #[test]
    fn a_file_opened_by_path_is_served_only_while_it_is_the_same_file() {
        let (folder, path) = file_of(&[1; 100]);
        let identity = Identity::of(&fs::metadata(&path).unwrap());
        let complete = publish(&path).unwrap().by_path(identity).unwrap();
        assert_eq!(complete.stored(ChunkIndex(0)).unwrap().length, 100);
        assert!(complete.open().is_ok_and(|file| Arc::strong_count(&file) == 1), "no handle is kept open");
        fs::remove_file(&path).unwrap();
        assert!(matches!(complete.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
        fs::create_dir(&path).unwrap();
        assert!(matches!(complete.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
        let other = folder.path().join("other");
        fs::write(&other, [1; 100]).unwrap();
        assert!(matches!(publish(&other).unwrap().by_path(identity), Err(StoreError::Changed(_))));
    }

    #[test]
    fn a_file_that_changes_while_it_is_hashed_is_refused() {
        let (_folder, path) = file_of(&vec![1; 20 * CHUNK]);
        let touch = |_| {
            let file = OpenOptions::new().append(true).open(&path).unwrap();
            file.set_len(20 * CHUNK as u64 + 1).unwrap();
        };
        let grown = CompleteFile::publish(&path, Some(CHUNK as u32), &touch, &|| false);
        assert!(matches!(grown, Err(StoreError::Changed(_))));
        let cut = |_| OpenOptions::new().append(true).open(&path).unwrap().set_len(1).unwrap();
        let shrunk = CompleteFile::publish(&path, Some(CHUNK as u32), &cut, &|| false);
        assert!(matches!(shrunk, Err(StoreError::Changed(_))));
    }

    #[test]
    fn hashing_stops_when_the_callback_returns_true() {
        let (_folder, path) = file_of(&vec![1; 20 * CHUNK]);
        let count = AtomicU64::new(0);
        let counted = |bytes| _ = count.fetch_add(bytes, Relaxed);
        let stop = || count.load(Relaxed) > 0;
        let stopped = CompleteFile::publish(&path, Some(CHUNK as u32), &counted, &stop);
        assert!(matches!(stopped, Err(StoreError::Stopped)));
        assert!(count.load(Relaxed) < 20 * CHUNK as u64);
    }

    #[test]
    fn folders_missing_files_and_bad_chunk_sizes_are_rejected() {
        let (folder, path) = file_of(b"x");
        assert!(matches!(publish(folder.path()), Err(StoreError::NotAFile(_))));
        assert!(matches!(publish(&folder.path().join("none")), Err(StoreError::Io { .. })));
        let odd = CompleteFile::publish(&path, Some(3), &|_| (), &|| false);
        assert!(matches!(odd, Err(StoreError::Layout(_))));
    }

    /// Changes a byte and restores the modification time, as a write through a memory map leaves it.
    fn change_unnoticed(path: &Path, offset: u64) {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"\xEE", offset).unwrap();
        file.set_modified(modified).unwrap();
    }

    #[test]
    fn a_reported_chunk_withdraws_the_file_only_if_it_has_changed() {
        let (_folder, path) = file_of(&vec![1; 3 * CHUNK]);
        let complete = publish(&path).unwrap();
        assert!((0..4).all(|index| complete.check_reported(ChunkIndex(index))));
        change_unnoticed(&path, CHUNK as u64);
        // The metadata shows nothing, and neither does a report of another chunk.
        assert!(complete.is_intact() && complete.check_reported(ChunkIndex(0)));
        assert!(complete.stored(ChunkIndex(1)).is_ok());
        assert!(!complete.check_reported(ChunkIndex(1)) && !complete.is_intact());
        assert!(matches!(complete.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
    }
}
