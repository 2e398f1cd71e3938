//! The chunks of one file that are kept for others, a file each, named by their numbers.
//!
//! A chunk is made durable before it counts. What was there before this process was started counts, too, but is
//! hashed before it is given to anybody, and again whenever its file has been changed since it was hashed; what is
//! wrong is removed then. No file is kept open. Invariants: what [`stored`](ReplicaFile::stored) gives was hashed by
//! this process and not written to since; a chunk that is named by [`Progress`] is durable.

use super::disk;
use super::error::{self, StoreError};
use super::hashing::{self, HashCallbacks};
use super::progress::Progress;
use super::space::Space;
use super::{ChunkSource, StoredChunk, lock};
use crate::content::{ChunkIndex, ChunkSpan, Digest, FileId, HaveMap, Manifest};
use crate::protocol::volunteer::{ChallengedRange, KeptFile};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How often a chunk is looked at anew that somebody changes while it is looked at.
const TRIES: usize = 3;

/// Some chunks of a file.
pub struct ReplicaFile {
    kept: KeptFile,
    manifest: Arc<Manifest>,
    folder: PathBuf,
    progress: Progress,
    state: Mutex<State>,
    space: Arc<Space>,
}

struct State {
    /// The chunks that have their names; those that are durable as well are in the progress.
    present: HaveMap,
    /// The chunks that have been hashed and were right, and what their files were then.
    checked: HashMap<ChunkIndex, Version>,
    /// Threads that are about to add a chunk.
    writing: usize,
    /// The folder is gone.
    gone: bool,
}

/// When a file was last changed in any way, nanoseconds: nobody can set it, so what was overwritten is seen.
type Version = i64;

/// What came of looking at a chunk.
enum Looked {
    Right(Version),
    /// Not what it should be, and which file that was, if any.
    Wrong(Option<Version>),
}

impl ReplicaFile {
    /// Takes over what is in a folder. Nothing is hashed yet.
    pub(super) fn load(
        folder: PathBuf,
        kept: KeptFile,
        manifest: Arc<Manifest>,
        space: Arc<Space>,
    ) -> Result<Self, StoreError> {
        let mut present = HaveMap::none(manifest.layout().count());
        let mut used = 0;
        for entry in fs::read_dir(&folder).map_err(error::io("read", &folder))? {
            let entry = entry.map_err(error::io("read", &folder))?;
            let Some(index) = chunk_of(&entry.file_name()) else { continue };
            let Some(span) = manifest.layout().span(index) else { continue };
            let metadata = entry.metadata().map_err(error::io("look at", &entry.path()))?;
            if metadata.is_file() && metadata.len() == u64::from(span.length) {
                present.insert(index);
                used += u64::from(span.length);
            } else if metadata.is_file() {
                // A crash leaves none such.
                log::warn!("{} is not as long as the chunk is, and is removed", entry.path().display());
                disk::remove(&entry.path())?;
            }
        }
        space.add(used);
        let progress = Progress::new(present.clone());
        let state = State { present, checked: HashMap::new(), writing: 0, gone: false };
        Ok(Self { kept, manifest, folder, progress, state: Mutex::new(state), space })
    }

    /// What the file is.
    pub fn kept(&self) -> &KeptFile {
        &self.kept
    }

    /// What the file is known by.
    pub fn id(&self) -> FileId {
        self.kept.file.id
    }

    /// How many chunks are here.
    pub fn held(&self) -> u32 {
        self.progress.held()
    }

    /// Those of some chunks that are here.
    pub fn held_of<'a>(&self, chunks: &'a [ChunkIndex]) -> impl Iterator<Item = ChunkIndex> + use<'a> {
        let (have, _) = self.progress.have();
        chunks.iter().copied().filter(move |index| have.has(*index))
    }

    /// The chunks that are here: those that have been hashed since the start or were stored since, and the others.
    pub fn chunks(&self) -> (Vec<ChunkIndex>, Vec<ChunkIndex>) {
        let (have, _) = self.progress.have();
        let state = lock(&self.state);
        have.iter().partition(|index| state.checked.contains_key(index))
    }

    /// The chunks that are here and have not been hashed since the start.
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
        let length = u64::from(self.span(index)?.length);
        if bytes.len() as u64 != length {
            let why = format!("chunk {index} has {} bytes, not {length}", bytes.len());
            return Err(error::invalid_input("write", &self.folder, why));
        }
        if self.progress.has(index) && self.stored(index).is_ok() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        if state.gone {
            return Err(StoreError::Missing(index));
        }
        state.writing += 1;
        drop(state);
        let written = self.write(index, bytes);
        lock(&self.state).writing -= 1;
        written
    }

    fn write(&self, index: ChunkIndex, bytes: &[u8]) -> Result<(), StoreError> {
        let room = self.space.reserve(bytes.len() as u64)?;
        let path = self.path(index);
        let temporary = disk::temporary(&path, bytes, true)?;
        let mut state = lock(&self.state);
        // Another thread may have stored the same meanwhile; it may not have come to the end yet.
        if !state.present.has(index) {
            let file = disk::replace(&path, temporary)?;
            let metadata = file.metadata().map_err(error::io("look at", &path))?;
            state.present.insert(index);
            state.checked.insert(index, version(&metadata));
            room.keep();
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

    /// Removes chunks; those that are not here are passed over.
    pub(super) fn remove(&self, chunks: &[ChunkIndex]) -> Result<(), StoreError> {
        for index in chunks {
            let mut state = lock(&self.state);
            if state.present.has(*index) {
                // First, so that it is not given to anybody any more.
                self.progress.remove(*index);
                disk::remove(&self.path(*index))?;
                self.forget(&mut state, *index);
            }
        }
        Ok(())
    }

    /// Whether nothing is here, nor about to be: nothing can be added from now on then.
    pub(super) fn close(&self) -> bool {
        let mut state = lock(&self.state);
        state.gone |= state.present.held() == 0 && state.writing == 0;
        state.gone
    }

    fn forget(&self, state: &mut State, index: ChunkIndex) {
        state.present.remove(index);
        state.checked.remove(&index);
        self.space.release(self.span(index).map_or(0, |span| span.length.into()));
    }

    /// Hashes a chunk. Returns whether it is what it should be; one that is not is removed.
    ///
    /// # Errors
    /// It cannot be told: the system has no room for another open file, for example.
    pub fn check(&self, index: ChunkIndex) -> Result<bool, StoreError> {
        let span = self.span(index)?;
        for _ in 0..TRIES {
            if !lock(&self.state).present.has(index) {
                return Ok(false);
            }
            match self.look(index, span)? {
                Looked::Right(version) => {
                    let mut state = lock(&self.state);
                    let there = state.present.has(index);
                    if there {
                        state.checked.insert(index, version);
                    }
                    return Ok(there);
                }
                Looked::Wrong(seen) if self.spoil(index, seen) => return Ok(false),
                // Another one has taken its place meanwhile.
                Looked::Wrong(_) => {}
            }
        }
        Err(StoreError::Changed(self.path(index)))
    }

    fn look(&self, index: ChunkIndex, span: ChunkSpan) -> Result<Looked, StoreError> {
        let path = self.path(index);
        let seen = fs::symlink_metadata(&path).ok().map(|metadata| version(&metadata));
        let Some((file, version)) = self.open(index)? else { return Ok(Looked::Wrong(seen)) };
        let whole = ChunkSpan { offset: 0, length: span.length };
        let mut buffer = hashing::buffer(span.length);
        match hashing::hash_span(&file, &path, whole, &mut buffer, HashCallbacks::NONE) {
            Ok(digest) if self.manifest.digest(index) == Some(digest) => Ok(Looked::Right(version)),
            Ok(_) | Err(StoreError::Changed(_)) => Ok(Looked::Wrong(Some(version))),
            Err(StoreError::Io { source, .. }) if is_unreadable(&source) => Ok(Looked::Wrong(Some(version))),
            Err(error) => Err(error),
        }
    }

    /// A chunk's file, open; `None` when nothing is there that could be the chunk.
    fn open(&self, index: ChunkIndex) -> Result<Option<(File, Version)>, StoreError> {
        let path = self.path(index);
        // A link under this name is not ours, and is not followed.
        match disk::open_as_file(OpenOptions::new().read(true), OFlags::NOFOLLOW, &path) {
            Ok((file, _)) => {
                let metadata = file.metadata().map_err(error::io("look at", &path))?;
                let right = metadata.len() == u64::from(self.span(index)?.length);
                Ok(right.then(|| (file, version(&metadata))))
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

    /// Removes a chunk that is wrong, unless its file is not the one any more that was looked at. Returns whether it
    /// is gone.
    fn spoil(&self, index: ChunkIndex, seen: Option<Version>) -> bool {
        let path = self.path(index);
        let mut state = lock(&self.state);
        if !state.present.has(index) {
            return true;
        }
        if fs::symlink_metadata(&path).ok().map(|metadata| version(&metadata)) != seen {
            return false;
        }
        self.progress.remove(index);
        if let Err(error) = disk::remove(&path) {
            log::warn!("{error}");
        }
        self.forget(&mut state, index);
        drop(state);
        log::warn!("chunk {index} of {} is damaged or missing, and is kept no more", self.kept.file.name);
        self.space.report_damaged(self.id(), index);
        true
    }

    /// Proves that a part of a chunk is here, from the bytes that are on the disk now; nothing when it is not here.
    pub fn prove(&self, range: &ChallengedRange) -> Option<Digest> {
        let span = self.manifest.layout().span(range.index)?;
        let end = range.offset.checked_add(range.length)?;
        if end > span.length || !self.progress.has(range.index) {
            return None;
        }
        let (file, _) = self.open(range.index).ok()??;
        let mut bytes = vec![0; range.length as usize];
        file.read_exact_at(&mut bytes, range.offset.into()).ok()?;
        Some(range.proof(&bytes))
    }
}

impl ChunkSource for ReplicaFile {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        let length = self.span(index)?.length;
        for _ in 0..TRIES {
            if !self.progress.has(index) {
                break;
            }
            if let Some((file, version)) = self.open(index)?
                && lock(&self.state).checked.get(&index) == Some(&version)
            {
                return Ok(StoredChunk { file: Arc::new(file), offset: 0, length });
            }
            self.check(index)?;
        }
        Err(StoreError::Missing(index))
    }
}

/// The chunk that a name in the folder of a file stands for.
pub(super) fn chunk_of(name: &std::ffi::OsStr) -> Option<ChunkIndex> {
    let name = name.to_str()?;
    let index = name.parse::<u32>().ok()?;
    // No other way to write the number is ours.
    (index.to_string() == name).then_some(ChunkIndex(index))
}

fn version(metadata: &Metadata) -> Version {
    metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec())
}

/// Whether the disk cannot give what is there, or it is a link: there is no such chunk then.
fn is_unreadable(error: &io::Error) -> bool {
    [Errno::IO, Errno::LOOP].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// The folder of a file, in that of a store.
pub(super) fn folder_of(root: &Path, id: FileId) -> PathBuf {
    root.join(id.to_string())
}
