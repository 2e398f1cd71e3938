//! A finished file that is served.
//!
//! Its chunks were hashed once. A file that was published by its path stays open, so that it can be renamed
//! or replaced meanwhile; one of a [shared folder](super::SharedFolder) is opened for each chunk, so that a
//! folder of any number of files keeps none open. It is never written to. Invariant: as long as the file
//! looks as it did when hashing began, the bytes are those that the manifest describes; after that nothing
//! is served any more.

use super::disk::{self, Identity, Stamp};
use super::error::StoreError;
use super::hashing::{self, HashCallbacks};
use super::progress::Progress;
use super::verify::{Verify, VerifyCallbacks};
use super::{ChunkSource, StoredChunk, lock};
use crate::content::{ChunkIndex, Digest, FileId, HaveMap, Layout, Manifest, Md5};
use std::fs::File;
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
}

/// What a path leads to, seen from outside: two that are equal are the same file, and nobody has touched it in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp(Identity);

impl FileStamp {
    /// Looks at a path; `None` when there is no regular file.
    pub fn at(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
        Some(Self(Identity::of(&metadata)))
    }
}

/// How the bytes are reached again.
enum Access {
    /// They are in this open file, whatever its name is by now.
    Open { file: Arc<File>, stamp: Stamp },
    /// They are under the path, as long as exactly this file is there.
    Named(Identity),
}

impl CompleteFile {
    /// Hashes a file, on all cores. `chunk_size` of `None` takes the default. `hashed` is called with
    /// byte counts as they get hashed, on any thread; `stop` is polled at least every 256 KiB. An empty file
    /// is one empty chunk.
    ///
    /// # Errors
    /// The path is no regular file or cannot be read, the chunk size is none, the file changes while it is
    /// hashed ([`StoreError::Changed`]), or `stop` said so ([`StoreError::Stopped`]).
    pub fn publish(
        path: &Path,
        chunk_size: Option<u32>,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, StoreError> {
        let (file, stamp) = disk::open_regular(path)?;
        let layout = Layout::even(stamp.size, chunk_size)?;
        let digests = Mutex::new(vec![Digest([0; 32]); layout.count() as usize]);
        let all: Vec<ChunkIndex> = layout.indices().collect();
        hashing::hash_chunks(
            &file,
            path,
            &layout,
            &all,
            HashCallbacks { hashed, stop },
            &|index, digest| {
                lock(&digests)[index.at()] = digest;
                true
            },
        )?;
        let digests = std::mem::take(&mut *lock(&digests));
        Self::unchanged(path, file, stamp, Arc::new(Manifest::new(layout, digests)?))
    }

    /// Checks a file that is there against a manifest, all of it or what `verify` says: `Some` when it has that
    /// content, as far as has been looked, `None` when it differs. A file of another size is not read; reading ends
    /// at the first chunk that differs. **Only what was checked in full may be served.**
    ///
    /// # Errors
    /// As for [`publish`](Self::publish); a file that is not there is [`StoreError::Io`].
    pub fn check(
        path: &Path,
        manifest: Arc<Manifest>,
        verify: Verify,
        watch: VerifyCallbacks<'_>,
    ) -> Result<Option<Self>, StoreError> {
        let (file, stamp) = disk::open_regular(path)?;
        let layout = manifest.layout();
        if stamp.size != layout.size() {
            return Ok(None);
        }
        let chosen = verify.choose(&HaveMap::all(layout.count()));
        let length = |index: &ChunkIndex| layout.span(*index).map_or(0, |span| u64::from(span.length));
        (watch.begin)(chosen.iter().map(length).sum());
        let watch = HashCallbacks { hashed: watch.hashed, stop: watch.stop };
        let same = AtomicBool::new(true);
        hashing::hash_chunks(&file, path, layout, &chosen, watch, &|index, digest| {
            let equal = manifest.digest(index) == Some(digest);
            same.fetch_and(equal, Relaxed);
            equal
        })?;
        match same.into_inner() {
            true => Self::unchanged(path, file, stamp, manifest).map(Some),
            false => Ok(None),
        }
    }

    /// Takes a file that is there for what a manifest says, without reading it: **the caller vouches for its
    /// bytes**, having just verified each of them, as a finished download has. Only the size is compared.
    ///
    /// # Errors
    /// The path is no regular file or cannot be opened, or it has another size than the manifest says
    /// ([`StoreError::Changed`]).
    pub fn verified(path: &Path, manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        let (file, stamp) = disk::open_regular(path)?;
        match stamp.size == manifest.layout().size() {
            true => Self::unchanged(path, file, stamp, manifest),
            false => Err(StoreError::Changed(path.to_owned())),
        }
    }

    /// Lets go of the open file: from now on it is opened by its path for each chunk, and has to be exactly
    /// the file of this identity. It must be that now, or else it is [`StoreError::Changed`]; an identity
    /// that was taken before hashing began therefore stands for the bytes that were hashed.
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
        let progress = Progress::new(HaveMap::all(manifest.layout().count()));
        let access = Access::Open { file: Arc::new(file), stamp };
        Ok(Self { path: path.to_owned(), access, manifest, id, progress })
    }

    /// The MD5 of all of it, read once more from its beginning to its end, on this thread. The callbacks are those of
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

    /// What the file is known by.
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Where the file was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the file is cut.
    pub fn layout(&self) -> &Layout {
        self.manifest.layout()
    }

    /// The file, open, if it is still the one that was hashed.
    fn open(&self) -> Result<Arc<File>, StoreError> {
        match &self.access {
            Access::Open { file, stamp } => stamp.check(file, &self.path).map(|()| Arc::clone(file)),
            Access::Named(identity) => {
                let (file, _) = disk::open_regular(&self.path).map_err(gone)?;
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

/// That nothing, or no file, is there any more is a change.
fn gone(error: StoreError) -> StoreError {
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

    fn is_intact(&self) -> bool {
        self.open().is_ok()
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        let span = self.manifest.layout().span(index).ok_or(StoreError::Missing(index))?;
        Ok(StoredChunk { file: self.open()?, offset: span.offset, length: span.length })
    }
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
        // A name that is not UTF-8 is nothing special here.
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
    fn every_size_is_hashed_and_served_whole() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 7 * CHUNK, 7 * CHUNK + 1] {
            let bytes: Vec<u8> = (0..size).map(|at| (at / 7) as u8).collect();
            let (_folder, path) = file_of(&bytes);
            let count = AtomicU64::new(0);
            let counted = |bytes| _ = count.fetch_add(bytes, Relaxed);
            let whole = CompleteFile::publish(&path, Some(CHUNK as u32), &counted, &|| false).unwrap();
            assert_eq!(count.into_inner(), size as u64);
            let manifest = whole.manifest().unwrap();
            let mut served = Vec::new();
            for index in manifest.layout().indices() {
                let chunk = whole.stored(index).unwrap();
                let mut piece = vec![0; chunk.length as usize];
                chunk.file.read_exact_at(&mut piece, chunk.offset).unwrap();
                assert_eq!(manifest.digest(index), Some(Digest::of(&piece)));
                served.extend(piece);
            }
            assert!(served == bytes && whole.progress().is_complete());
            let past = ChunkIndex(manifest.layout().count());
            assert!(matches!(whole.stored(past), Err(StoreError::Missing(_))));
            assert_eq!(check(&path, manifest).unwrap().id(), whole.id());
        }
    }

    #[test]
    fn chunks_larger_than_the_buffer() {
        let (_folder, path) = file_of(&vec![7; 5 << 20]);
        let whole = CompleteFile::publish(&path, Some(4 << 20), &|_| (), &|| false).unwrap();
        let manifest = whole.manifest().unwrap();
        assert_eq!(manifest.digest(ChunkIndex(0)), Some(Digest::of(&vec![7; 4 << 20])));
        assert_eq!(manifest.digest(ChunkIndex(1)), Some(Digest::of(&vec![7; 1 << 20])));
    }

    #[test]
    fn a_file_that_differs_is_told_and_one_of_another_size_is_not_read() {
        let (_folder, path) = file_of(&vec![1; 3 * CHUNK]);
        let manifest = publish(&path).unwrap().manifest().unwrap();
        let mut bytes = vec![1; 3 * CHUNK];
        bytes[2 * CHUNK] = 2;
        fs::write(&path, &bytes).unwrap();
        assert!(check(&path, Arc::clone(&manifest)).is_none());
        fs::write(&path, &bytes[1..]).unwrap();
        let unread = |_| unreachable!("the size was enough");
        for verify in [Verify::Full, Verify::Sample, Verify::None] {
            let watch = VerifyCallbacks { begin: &unread, hashed: &unread, stop: &|| false };
            assert!(CompleteFile::check(&path, manifest.clone(), verify, watch).unwrap().is_none());
        }
    }

    #[test]
    fn less_than_a_full_check_reads_less() {
        let (_folder, path) = file_of(&vec![1; 100 * CHUNK]);
        let manifest = publish(&path).unwrap().manifest().unwrap();
        let size = CHUNK as u64;
        for (verify, wanted) in [(Verify::Full, 100 * size), (Verify::Sample, 32 * size), (Verify::None, 0)] {
            let (read, told) = (AtomicU64::new(0), AtomicU64::new(0));
            let hashed = |bytes| _ = read.fetch_add(bytes, Relaxed);
            let begin = |bytes| told.store(bytes, Relaxed);
            let watch = VerifyCallbacks { begin: &begin, hashed: &hashed, stop: &|| false };
            assert!(CompleteFile::check(&path, manifest.clone(), verify, watch).unwrap().is_some());
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
        let whole = publish(&path).unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH)).unwrap();
        assert!(matches!(whole.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));

        let whole = publish(&path).unwrap();
        file.set_len(101).unwrap();
        assert!(matches!(whole.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
    }

    #[test]
    fn a_replaced_file_is_still_served() {
        let (folder, path) = file_of(&[1; 100]);
        let whole = publish(&path).unwrap();
        let other = folder.path().join("other");
        fs::write(&other, "other").unwrap();
        fs::rename(other, &path).unwrap();
        assert_eq!(whole.stored(ChunkIndex(0)).unwrap().length, 100);
    }

    #[test]
    fn a_verified_file_is_not_read_but_must_have_the_size() {
        let (_folder, path) = file_of(&[1; 100]);
        let manifest = publish(&path).unwrap().manifest().unwrap();
        let whole = CompleteFile::verified(&path, Arc::clone(&manifest)).unwrap();
        assert_eq!(whole.stored(ChunkIndex(0)).unwrap().length, 100);
        fs::write(&path, [2; 100]).unwrap();
        assert!(matches!(whole.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
        assert!(CompleteFile::verified(&path, Arc::clone(&manifest)).is_ok());
        fs::write(&path, [1; 99]).unwrap();
        assert!(matches!(CompleteFile::verified(&path, manifest), Err(StoreError::Changed(_))));
    }

    #[test]
    fn a_file_reached_by_its_path_has_to_be_there_and_the_same() {
        let (folder, path) = file_of(&[1; 100]);
        let identity = Identity::of(&fs::metadata(&path).unwrap());
        let whole = publish(&path).unwrap().by_path(identity).unwrap();
        assert_eq!(whole.stored(ChunkIndex(0)).unwrap().length, 100);
        assert!(whole.open().is_ok_and(|file| Arc::strong_count(&file) == 1), "it is not kept open");
        fs::remove_file(&path).unwrap();
        assert!(matches!(whole.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
        fs::create_dir(&path).unwrap();
        assert!(matches!(whole.stored(ChunkIndex(0)), Err(StoreError::Changed(_))));
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
    fn hashing_stops_when_told_to() {
        let (_folder, path) = file_of(&vec![1; 20 * CHUNK]);
        let count = AtomicU64::new(0);
        let counted = |bytes| _ = count.fetch_add(bytes, Relaxed);
        let stop = || count.load(Relaxed) > 0;
        let stopped = CompleteFile::publish(&path, Some(CHUNK as u32), &counted, &stop);
        assert!(matches!(stopped, Err(StoreError::Stopped)));
        assert!(count.load(Relaxed) < 20 * CHUNK as u64);
    }

    #[test]
    fn what_is_not_a_file_or_not_a_chunk_size_is_refused() {
        let (folder, path) = file_of(b"x");
        assert!(matches!(publish(folder.path()), Err(StoreError::NotAFile(_))));
        assert!(matches!(publish(&folder.path().join("none")), Err(StoreError::Io { .. })));
        let odd = CompleteFile::publish(&path, Some(3), &|_| (), &|| false);
        assert!(matches!(odd, Err(StoreError::Layout(_))));
    }
}
