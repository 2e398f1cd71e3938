//! Replica file: the stored chunks of one file, each in a file named by its index.
//!
//! A chunk counts when it is durable. Chunks stored before this process started count, too, but are
//! hashed before they are served, and again after each change of their file; a damaged chunk is
//! then removed. No file is kept open. Invariants: [`stored`](ReplicaFile::stored) returns only
//! chunks hashed by this process and not modified since; each chunk in [`Progress`] is durable.

use super::disk;
use super::error::{self, StoreError};
use super::hashing::{self, HashCallbacks};
use super::progress::Progress;
use super::space::Space;
use super::store_marker::StoreRoot;
use super::{ChunkSource, StoredChunk};
use crate::content::fmt::counted;
use crate::content::{Bitfield, ChunkIndex, ChunkSpan, Digest, FileId, Manifest};
use crate::protocol::tokens::{Nonce, VolunteerKey};
use crate::protocol::volunteer::{KeptFile, possession_hasher};
use crate::sync::lock;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Attempts to inspect a chunk that another program changes meanwhile.
const ATTEMPTS_MAX: usize = 3;

/// The stored chunks of one file.
pub struct ReplicaFile {
    kept: KeptFile,
    manifest: Arc<Manifest>,
    folder: PathBuf,
    progress: Progress,
    state: Mutex<State>,
    space: Arc<Space>,
    root: Arc<StoreRoot>,
}

struct State {
    /// The chunks renamed to their final names; those in the progress are durable, too.
    present: Bitfield,
    /// The chunks hashed and found intact, with the ctime of their files at that time.
    verified: HashMap<ChunkIndex, ChangeTime>,
    /// Number of threads writing a chunk.
    writing: usize,
    /// The file has been removed from the store.
    closed: bool,
}

/// A file's ctime, nanoseconds since 1970. No program can set it, so it reveals every overwrite.
type ChangeTime = i64;

/// Result of the inspection of a chunk.
enum Inspection {
    Intact(ChangeTime),
    /// Damaged or absent, with the ctime of the inspected file, if there was one.
    Damaged(Option<ChangeTime>),
}

impl ReplicaFile {
    /// Loads the chunks in a folder. None is hashed yet.
    pub(super) fn load(
        folder: PathBuf,
        kept: KeptFile,
        manifest: Arc<Manifest>,
        space: Arc<Space>,
        root: Arc<StoreRoot>,
    ) -> Result<Self, StoreError> {
        let mut present = Bitfield::none(manifest.layout().count());
        let mut used = 0;
        for entry in fs::read_dir(&folder).map_err(error::io("read", &folder))? {
            let entry = entry.map_err(error::io("read", &folder))?;
            let Some(index) = chunk_of(&entry.file_name()) else { continue };
            let Some(span) = manifest.layout().span(index) else { continue };
            let metadata = entry.metadata().map_err(error::io("read the metadata of", &entry.path()))?;
            if metadata.is_file() && metadata.len() == span.length {
                present.insert(index);
                used += span.length;
            } else if metadata.is_file() {
                // A crash cannot cause this: chunks are renamed when they are complete.
                log::warn!("{} removed: its length is not that of the chunk", entry.path().display());
                disk::remove(&entry.path())?;
            }
        }
        space.add(used);
        let progress = Progress::new(present.clone());
        let state = State { present, verified: HashMap::new(), writing: 0, closed: false };
        Ok(Self { kept, manifest, folder, progress, state: Mutex::new(state), space, root })
    }

    /// Description of the file.
    pub fn kept(&self) -> &KeptFile {
        &self.kept
    }

    /// Id of the file: the hash of its manifest.
    pub fn id(&self) -> FileId {
        self.kept.file.id
    }

    /// Number of stored chunks.
    pub fn held(&self) -> u32 {
        self.progress.held()
    }

    /// The stored chunks among `chunks`.
    pub fn held_of<'a>(&self, chunks: &'a [ChunkIndex]) -> impl Iterator<Item = ChunkIndex> + use<'a> {
        let (have, _) = self.progress.have();
        chunks.iter().copied().filter(move |index| have.has(*index))
    }

    /// The stored chunks: verified since the start (hashed, or stored by this process), and the
    /// others.
    pub fn chunks(&self) -> (Vec<ChunkIndex>, Vec<ChunkIndex>) {
        let (have, _) = self.progress.have();
        let state = lock(&self.state);
        have.iter().partition(|index| state.verified.contains_key(index))
    }

    /// The stored chunks not hashed since the start.
    pub fn unverified(&self) -> Vec<ChunkIndex> {
        self.chunks().1
    }

    fn path(&self, index: ChunkIndex) -> PathBuf {
        self.folder.join(index.0.to_string())
    }

    fn span(&self, index: ChunkIndex) -> Result<ChunkSpan, StoreError> {
        self.manifest.layout().span(index).ok_or(StoreError::Missing(index))
    }

    /// Stores a chunk; see [`ReplicaStore::store`](super::ReplicaStore::store).
    pub(super) fn store(&self, index: ChunkIndex, bytes: &[u8]) -> Result<(), StoreError> {
        let length = self.span(index)?.length;
        if bytes.len() as u64 != length {
            let reason = format!("chunk {index} has {} bytes, not {length}", bytes.len());
            return Err(error::invalid_input("write", &self.folder, reason));
        }
        if self.progress.has(index) && self.stored(index).is_ok() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::Missing(index));
        }
        state.writing += 1;
        drop(state);
        let written = self.write(index, bytes);
        lock(&self.state).writing -= 1;
        written
    }

    fn write(&self, index: ChunkIndex, bytes: &[u8]) -> Result<(), StoreError> {
        self.root.require()?;
        let reservation = self.space.reserve(bytes.len() as u64)?;
        let path = self.path(index);
        let temporary = disk::temporary(&path, bytes, true).or_else(|error| {
            if let StoreError::Io { .. } = error {
                // A disk that fails is noticed here first.
                self.root.confirm()?;
            }
            Err(error)
        })?;
        let mut state = lock(&self.state);
        if state.closed {
            return Err(StoreError::Missing(index));
        }
        // Another thread may have renamed the same chunk meanwhile, and may not have synced it yet.
        if !state.present.has(index) {
            let file = disk::replace(&path, temporary)?;
            let metadata = file.metadata().map_err(error::io("read the metadata of", &path))?;
            state.present.insert(index);
            state.verified.insert(index, change_time(&metadata));
            reservation.commit();
        }
        drop(state);
        if let Err(error) = disk::sync_folder(&self.folder) {
            self.remove(&[index])?;
            return Err(error);
        }
        match lock(&self.state).present.has(index) {
            true => _ = self.progress.add(index),
            false => return Err(StoreError::Missing(index)),
        }
        Ok(())
    }

    /// Removes chunks; absent chunks are ignored.
    pub(super) fn remove(&self, chunks: &[ChunkIndex]) -> Result<(), StoreError> {
        for index in chunks {
            let mut state = lock(&self.state);
            if state.present.has(*index) {
                self.root.require()?;
                // First, so that the chunk is no longer served.
                self.progress.remove(*index);
                disk::remove(&self.path(*index))?;
                self.forget(&mut state, *index);
            }
        }
        Ok(())
    }

    /// Closes the file if no chunk is stored or being written; none can be added then. Returns
    /// whether it is closed.
    pub(super) fn close(&self) -> bool {
        let mut state = lock(&self.state);
        state.closed |= state.present.held() == 0 && state.writing == 0;
        state.closed
    }

    /// Closes the file because its store is read again: nothing is stored or served any more. The files on disk stay.
    pub(super) fn abandon(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        state.present.iter().for_each(|index| _ = self.progress.remove(index));
        state.present = Bitfield::none(self.manifest.layout().count());
        state.verified.clear();
    }

    fn forget(&self, state: &mut State, index: ChunkIndex) {
        state.present.remove(index);
        state.verified.remove(&index);
        self.space.release(self.span(index).map_or(0, |span| span.length));
    }

    /// Hashes a chunk and returns whether it is present and intact. A damaged chunk is removed.
    ///
    /// # Errors
    /// The chunk cannot be hashed for a reason that says nothing about its content, for example too
    /// many open files, or the absence of the whole store.
    pub fn check(&self, index: ChunkIndex) -> Result<bool, StoreError> {
        let span = self.span(index)?;
        for _ in 0..ATTEMPTS_MAX {
            if !lock(&self.state).present.has(index) {
                return Ok(false);
            }
            match self.inspect(index, span)? {
                Inspection::Intact(change_time) => {
                    let mut state = lock(&self.state);
                    let present = state.present.has(index);
                    if present {
                        state.verified.insert(index, change_time);
                    }
                    return Ok(present);
                }
                Inspection::Damaged(seen) => {
                    self.root.confirm()?;
                    if self.remove_damaged(index, seen) {
                        let name = &self.kept.file.name;
                        log::warn!(
                            "chunk {index} of {name} is damaged or missing and was removed from the replica store"
                        );
                        return Ok(false);
                    }
                    // Another program has replaced the file meanwhile.
                }
            }
        }
        Err(StoreError::Changed(self.path(index)))
    }

    fn inspect(&self, index: ChunkIndex, span: ChunkSpan) -> Result<Inspection, StoreError> {
        let path = self.path(index);
        let seen = fs::symlink_metadata(&path).ok().map(|metadata| change_time(&metadata));
        let Some((file, change_time)) = self.open(index)? else { return Ok(Inspection::Damaged(seen)) };
        let whole = ChunkSpan { offset: 0, length: span.length };
        let mut buffer = hashing::buffer(span.length);
        match hashing::hash_span(&file, &path, whole, &mut buffer, HashCallbacks::NONE) {
            Ok(digest) if self.manifest.digest(index) == Some(digest) => Ok(Inspection::Intact(change_time)),
            Ok(_) | Err(StoreError::Changed(_)) => Ok(Inspection::Damaged(Some(change_time))),
            Err(StoreError::Io { source, .. }) if is_unreadable(&source) => {
                Ok(Inspection::Damaged(Some(change_time)))
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a chunk's file; `None` if it cannot be the chunk.
    fn open(&self, index: ChunkIndex) -> Result<Option<(File, ChangeTime)>, StoreError> {
        let path = self.path(index);
        // Do not follow a link: it was not created by shoal.
        match disk::open_as_file(OpenOptions::new().read(true), OFlags::NOFOLLOW, &path) {
            Ok((file, _)) => {
                let metadata = file.metadata().map_err(error::io("read the metadata of", &path))?;
                let right = metadata.len() == self.span(index)?.length;
                Ok(right.then(|| (file, change_time(&metadata))))
            }
            Err(StoreError::NotAFile(_)) => Ok(None),
            Err(StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::NotFound || is_unreadable(&source) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a damaged chunk, unless its file has been replaced since the inspection. Returns
    /// whether it is removed.
    fn remove_damaged(&self, index: ChunkIndex, seen: Option<ChangeTime>) -> bool {
        let path = self.path(index);
        let mut state = lock(&self.state);
        if !state.present.has(index) {
            return true;
        }
        if fs::symlink_metadata(&path).ok().map(|metadata| change_time(&metadata)) != seen {
            return false;
        }
        self.progress.remove(index);
        if let Err(error) = disk::remove(&path) {
            log::warn!("{error}");
        }
        self.forget(&mut state, index);
        drop(state);
        self.space.report_damaged(self.id(), index);
        true
    }

    /// Looks for chunks whose files are missing, without hashing any, and removes them as [`check`](Self::check)
    /// does. Returns their number.
    ///
    /// # Errors
    /// The whole store is absent, or its marker cannot be read.
    pub fn remove_missing(&self) -> Result<u64, StoreError> {
        let (have, _) = self.progress.have();
        let is_missing = |path: PathBuf| {
            fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let missing: Vec<ChunkIndex> = have.iter().filter(|index| is_missing(self.path(*index))).collect();
        if missing.is_empty() {
            return Ok(0);
        }
        self.root.confirm()?;
        let removed = missing.into_iter().filter(|index| self.remove_damaged(*index, None)).count() as u64;
        let name = &self.kept.file.name;
        log::warn!("{} of {name} disappeared from the replica store", counted(removed, "chunk"));
        Ok(removed)
    }

    /// Proof that a chunk is stored, hashed from its bytes on disk.
    ///
    /// A chunk that is damaged or missing on disk is removed. `stop` is polled at least every 256 KiB.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the chunk is absent. Any other error says nothing about the chunk, for example
    /// too many open files.
    pub fn prove(
        &self,
        index: ChunkIndex,
        key: VolunteerKey,
        nonce: Nonce,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Digest, StoreError> {
        let span = self.span(index)?;
        if !self.progress.has(index) {
            return Err(StoreError::Missing(index));
        }
        let path = self.path(index);
        if let Some((file, _)) = self.open(index)? {
            let whole = ChunkSpan { offset: 0, length: span.length };
            let hasher = possession_hasher(key, nonce);
            let mut buffer = hashing::buffer(span.length);
            let watch = HashCallbacks { stop, ..HashCallbacks::NONE };
            match hashing::hash_span_with(hasher, &file, &path, whole, &mut buffer, watch) {
                Err(StoreError::Changed(_)) => {}
                Err(StoreError::Io { source, .. }) if is_unreadable(&source) => {}
                proof => return proof,
            }
        }
        match self.check(index)? {
            true => Err(StoreError::Changed(path)),
            false => Err(StoreError::Missing(index)),
        }
    }

    /// Treats these chunks as not verified.
    pub fn distrust_chunks(&self, chunks: &[ChunkIndex]) {
        let mut state = lock(&self.state);
        chunks.iter().for_each(|index| _ = state.verified.remove(index));
    }
}

impl ChunkSource for ReplicaFile {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn check_reported(&self, index: ChunkIndex) -> bool {
        !self.progress.has(index) || self.check(index).unwrap_or(true)
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        let length = self.span(index)?.length;
        for _ in 0..ATTEMPTS_MAX {
            if !self.progress.has(index) {
                break;
            }
            if let Some((file, change_time)) = self.open(index)?
                && lock(&self.state).verified.get(&index) == Some(&change_time)
            {
                return Ok(StoredChunk { file: Arc::new(file), offset: 0, length });
            }
            self.check(index)?;
        }
        Err(StoreError::Missing(index))
    }
}

/// The chunk index that a file name stands for.
pub(super) fn chunk_of(name: &std::ffi::OsStr) -> Option<ChunkIndex> {
    let name = name.to_str()?;
    let index = name.parse::<u32>().ok()?;
    // Reject other spellings of the number, such as leading zeros.
    (index.to_string() == name).then_some(ChunkIndex(index))
}

fn change_time(metadata: &Metadata) -> ChangeTime {
    metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec())
}

/// Whether the disk cannot read the file, or the file is a link: the chunk counts as absent.
fn is_unreadable(error: &io::Error) -> bool {
    [Errno::IO, Errno::LOOP].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The folder of a file in the store.
pub(super) fn folder_of(root: &Path, id: FileId) -> PathBuf {
    root.join(id.to_string())
}
