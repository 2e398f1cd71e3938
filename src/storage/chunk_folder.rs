//! Chunk folder: a folder with a `local_chunks.txt` and some chunks of a set, each in its own file.
//!
//! Listed chunks are hashed when the folder is opened. A received chunk is written under a
//! temporary name ([`stage`](ChunkFolder::stage)), synced, renamed, and listed
//! ([`commit`](ChunkFolder::commit)), in this order, so that a crash leaves at most an unlisted
//! file. Only files that a client wrote into this folder (module `written`) are ever replaced: a chunk
//! that differs from a file of the user is stored beside it. Invariant: each served chunk was
//! hashed, and matches the agreed hash or the manifest as far as the folder knows them.

mod store;
mod written;

pub use store::StagedChunk;

use super::chunk_list::ChunkList;
use super::disk::{self, Stamp};
use super::error::{self, StoreError};
use super::hashing::{self, HashCallbacks};
use super::progress::Progress;
use super::verify::VerifyCallbacks;
use super::{ChunkSource, StoredChunk};
use crate::content::{Bitfield, ChunkIndex, Digest, FileName, Manifest};
use crate::sync::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use written::WrittenFiles;

/// A verified chunk of the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldChunk {
    /// Index in the set.
    pub index: ChunkIndex,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Length, bytes.
    pub length: u64,
}

/// A folder with chunks of a set.
pub struct ChunkFolder {
    folder: PathBuf,
    /// The folder's path with all links resolved.
    root: PathBuf,
    count: u32,
    progress: Progress,
    state: Mutex<State>,
    /// Held while the list is read, changed and written. The state is not locked during that time.
    writing: Mutex<WrittenFiles>,
    /// The folder's lock, against other processes.
    _lock: Option<File>,
}

struct State {
    entries: BTreeMap<ChunkIndex, Entry>,
    manifest: Option<Arc<Manifest>>,
    /// Index at which the next sweep starts.
    next_sweep: ChunkIndex,
    /// Chunks that a receiver has reported, found to be damaged: the next sweep returns them.
    damaged: BTreeSet<ChunkIndex>,
}

/// A hashed chunk file.
#[derive(Clone)]
struct Entry {
    chunk: HeldChunk,
    path: PathBuf,
    stamp: Stamp,
    trusted: bool,
}

impl ChunkFolder {
    /// Reads a folder's `local_chunks.txt`, checks the listed files, and hashes them on all cores.
    /// Temporary files of a killed process are removed.
    ///
    /// # Errors
    /// [`StoreError::Chunks`] for an invalid line. [`StoreError::ChunkFile`] for a file that is
    /// missing, not regular, not readable or outside the folder (also through a link). [`StoreError::Changed`] for
    /// a file that changes while it is hashed. [`StoreError::Stopped`].
    pub fn open(folder: &Path, callbacks: VerifyCallbacks<'_>) -> Result<Self, StoreError> {
        let list = ChunkList::read(folder)?;
        let root = fs::canonicalize(folder).map_err(error::io("open", folder))?;
        // Two clients in one folder would count as two witnesses in the quorum.
        let folder_lock = disk::lock_folder(&root)?;
        if folder_lock.is_some() {
            store::remove_leftovers(&root);
        }
        // Check all files before the first is hashed, so that the first error in the list is
        // reported at once.
        let files = list.chunks.files.keys();
        let files = files.map(|&index| Ok((index, list.locate(&root, index)?)));
        let files = files.collect::<Result<Vec<_>, StoreError>>()?;
        let size = |(_, path): &(_, PathBuf)| fs::metadata(path).map_or(0, |metadata| metadata.len());
        (callbacks.begin)(files.iter().map(size).sum());
        let callbacks = HashCallbacks { hashed: callbacks.hashed, stop: callbacks.stop };
        let entries = Mutex::new(BTreeMap::new());
        hashing::on_all_cores(files.len() as u32, hashing::READ_BYTES_MAX, &|item, buffer| {
            let (index, path) = &files[item as usize];
            let entry = Entry::hash(*index, path, buffer, callbacks);
            let entry = entry.map_err(|error| list.unreadable(*index, error))?;
            lock(&entries).insert(*index, entry);
            Ok(true)
        })?;
        let entries = std::mem::take(&mut *lock(&entries));
        let written = WrittenFiles::read(&root);
        let count = list.chunks.count;
        let mut have = Bitfield::none(count);
        entries.keys().for_each(|&index| _ = have.insert(index));
        Ok(Self {
            folder: folder.to_owned(),
            root,
            count,
            progress: Progress::new(have),
            state: Mutex::new(State {
                entries,
                manifest: None,
                next_sweep: ChunkIndex(0),
                damaged: BTreeSet::new(),
            }),
            writing: Mutex::new(written),
            _lock: folder_lock,
        })
    }

    /// Number of chunks in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The folder, as passed to [`open`](Self::open).
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// The trusted chunks, in order: all but those that are [distrusted](Self::distrust) or differ
    /// from the manifest.
    pub fn held(&self) -> Vec<HeldChunk> {
        let state = lock(&self.state);
        state.entries.values().filter(|entry| entry.trusted).map(|entry| entry.chunk).collect()
    }

    /// A chunk, if it is trusted.
    pub fn holds(&self, index: ChunkIndex) -> Option<HeldChunk> {
        self.trusted(index).map(|entry| entry.chunk)
    }

    /// Whether the folder may have a chunk that is not listed: a file with its name and length, or a distrusted one with
    /// its content. Reads metadata only.
    pub fn may_adopt(&self, chunk: HeldChunk) -> bool {
        let has_length = |name: FileName| {
            let metadata = self.root.join(name.as_str()).symlink_metadata();
            metadata.is_ok_and(|file| file.is_file() && file.len() == chunk.length)
        };
        let is_known = lock(&self.state).entries.get(&chunk.index).is_some_and(|entry| entry.chunk == chunk);
        is_known || file_names(chunk).any(has_length)
    }

    /// Lists chunk files that exist but are not listed, as after a crash between rename and listing: syncs them, and
    /// writes the list once.
    ///
    /// Returns the chunks that are now trusted: not those without such a file, with another digest or length, and those
    /// for which another file is listed.
    ///
    /// # Errors
    /// A file cannot be read, or the list cannot be written.
    pub fn adopt(&self, chunks: &[HeldChunk]) -> Result<Vec<HeldChunk>, StoreError> {
        let mut adopted = Vec::new();
        let mut found = Vec::new();
        for &chunk in chunks.iter().filter(|chunk| self.check_acceptable(**chunk).is_ok()) {
            match self.is_intact(chunk) {
                true => adopted.push(chunk),
                false => found.extend(self.find_unlisted(chunk)?),
            }
        }
        if found.is_empty() {
            return Ok(adopted);
        }
        disk::sync_folder(&self.root)?;
        let _writing = lock(&self.writing);
        let list = self.read_list()?;
        found.retain(|(chunk, name, _)| {
            let is_listed = list.chunks.files.contains_key(&chunk.index);
            !is_listed && !list.is_listed_for_another_chunk(name, chunk.index)
        });
        list.add(found.iter().map(|(chunk, name, _)| (chunk.index, name.clone())))?;
        for (chunk, name, stamp) in found {
            self.insert_trusted(chunk, &name, stamp);
            adopted.push(chunk);
        }
        Ok(adopted)
    }

    /// The file with the content of a chunk, synced.
    fn find_unlisted(&self, chunk: HeldChunk) -> Result<Option<(HeldChunk, FileName, Stamp)>, StoreError> {
        for name in file_names(chunk) {
            let Some(stamp) = self.stamp_if_equal(&name, chunk)? else { continue };
            let path = self.root.join(name.as_str());
            let file = File::open(&path).map_err(error::io("open", &path))?;
            disk::sync(&file).map_err(error::write("write", &path, 0))?;
            return Ok(Some((chunk, name, stamp)));
        }
        Ok(None)
    }

    /// Stops serving a chunk because the agreed hash differs from the folder's. Its line stays until
    /// [`commit`](Self::commit) changes it.
    pub fn distrust(&self, index: ChunkIndex) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.entries.get_mut(&index) {
            entry.trusted = false;
        }
        self.progress.remove(index);
    }

    /// Sets the manifest of the sealed set. From now on, only chunks that match it are served.
    ///
    /// A manifest with another number of chunks belongs to another set: it is ignored with a
    /// warning.
    pub fn set_manifest(&self, manifest: Arc<Manifest>) {
        if manifest.layout().count() != self.count {
            let (got, count) = (manifest.layout().count(), self.count);
            log::warn!(
                "{}: ignored the manifest of another set: it has {got} chunks instead of {count}",
                self.folder.display()
            );
            return;
        }
        let mut state = lock(&self.state);
        for entry in state.entries.values_mut() {
            entry.trusted = matches_manifest(&manifest, entry.chunk);
            match entry.trusted {
                true => self.progress.add(entry.chunk.index),
                false => self.progress.remove(entry.chunk.index),
            };
        }
        state.manifest = Some(manifest);
    }

    /// Checks the metadata of the next `at_most` chunk files, in turn, and returns the chunks whose
    /// files have changed or are missing. Chunks found to be damaged after a report come first.
    pub fn sweep(&self, at_most: usize) -> Vec<ChunkIndex> {
        let mut found = Vec::new();
        let next: Vec<Entry> = {
            let mut state = lock(&self.state);
            found.extend(std::mem::take(&mut state.damaged));
            let from = state.next_sweep;
            let after = state.entries.range(from..).map(|(_, entry)| entry);
            let before = state.entries.range(..from).map(|(_, entry)| entry);
            let next: Vec<Entry> =
                after.chain(before).filter(|entry| entry.trusted).take(at_most).cloned().collect();
            state.next_sweep = next.last().map_or(ChunkIndex(0), |last| ChunkIndex(last.chunk.index.0 + 1));
            next
        };
        found.extend(next.iter().filter(|entry| entry.open().is_err()).map(|entry| entry.chunk.index));
        found
    }

    /// Hashes a chunk's file again and returns whether the chunk is intact. A damaged chunk is
    /// distrusted.
    pub fn recheck(&self, index: ChunkIndex) -> bool {
        let Some(entry) = self.trusted(index) else { return false };
        let mut buffer = hashing::buffer(entry.chunk.length);
        match hashing::hash_file(&entry.path, &mut buffer, HashCallbacks::NONE) {
            Ok((digest, stamp)) if digest == entry.chunk.digest => {
                self.insert(Entry { stamp, ..entry });
                true
            }
            _ => {
                self.distrust(index);
                false
            }
        }
    }

    /// Removes the manifest: the set is no longer sealed, and each chunk counts by its agreed hash.
    pub fn unset_manifest(&self) {
        lock(&self.state).manifest = None;
    }

    fn trusted(&self, index: ChunkIndex) -> Option<Entry> {
        lock(&self.state).entries.get(&index).filter(|entry| entry.trusted).cloned()
    }

    fn check_acceptable(&self, chunk: HeldChunk) -> Result<(), StoreError> {
        if chunk.index.0 >= self.count {
            return Err(StoreError::Missing(chunk.index));
        }
        match &lock(&self.state).manifest {
            Some(manifest) if !matches_manifest(manifest, chunk) => {
                let reason = format!("chunk {} differs from the manifest", chunk.index);
                Err(error::invalid_input("write to", &self.folder, reason))
            }
            _ => Ok(()),
        }
    }

    /// Whether this chunk is present and its file unchanged; if so, the chunk is trusted again.
    fn is_intact(&self, chunk: HeldChunk) -> bool {
        let entry = lock(&self.state).entries.get(&chunk.index).filter(|e| e.chunk == chunk).cloned();
        let Some(entry) = entry else { return false };
        let intact = entry.open().is_ok();
        if intact && !entry.trusted {
            self.insert(Entry { trusted: true, ..entry });
        }
        intact
    }

    /// Size and time of a file if its content is exactly this chunk.
    fn stamp_if_equal(&self, name: &FileName, chunk: HeldChunk) -> Result<Option<Stamp>, StoreError> {
        let path = self.root.join(name.as_str());
        let there = path.symlink_metadata();
        if !there.is_ok_and(|file| file.is_file() && file.len() == chunk.length) {
            return Ok(None);
        }
        let (digest, stamp) =
            hashing::hash_file(&path, &mut hashing::buffer(chunk.length), HashCallbacks::NONE)?;
        Ok((digest == chunk.digest).then_some(stamp))
    }

    fn insert_trusted(&self, chunk: HeldChunk, name: &FileName, stamp: Stamp) {
        self.insert(Entry { chunk, path: self.root.join(name.as_str()), stamp, trusted: true });
    }

    fn insert(&self, mut entry: Entry) {
        let index = entry.chunk.index;
        let mut state = lock(&self.state);
        // The set may have been sealed while the chunk was being written.
        entry.trusted =
            state.manifest.as_ref().is_none_or(|manifest| matches_manifest(manifest, entry.chunk));
        match entry.trusted {
            true => self.progress.add(index),
            false => self.progress.remove(index),
        };
        state.entries.insert(index, entry);
    }
}

impl ChunkSource for ChunkFolder {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        lock(&self.state).manifest.clone()
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn check_reported(&self, index: ChunkIndex) -> bool {
        let Some(entry) = self.trusted(index) else { return true };
        let mut buffer = hashing::buffer(entry.chunk.length);
        match hashing::hash_file(&entry.path, &mut buffer, HashCallbacks::NONE) {
            Ok((digest, stamp)) if digest != entry.chunk.digest && stamp == entry.stamp => {}
            // The next sweep finds a file that is missing or has another time.
            _ => return true,
        }
        self.progress.remove(index);
        {
            let mut state = lock(&self.state);
            // Its stamp no longer stands for its content.
            state.entries.remove(&index);
            state.damaged.insert(index);
        }
        log::warn!(
            "{}: chunk {index} differs from its SHA-256, although size and modification time of its file are \
             unchanged (a peer reported it); it is not served until it has been replaced",
            entry.path.display()
        );
        false
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        self.trusted(index).ok_or(StoreError::Missing(index))?.open()
    }
}

impl Entry {
    fn hash(
        index: ChunkIndex,
        path: &Path,
        buffer: &mut [u8],
        callbacks: HashCallbacks<'_>,
    ) -> Result<Self, StoreError> {
        let (digest, stamp) = hashing::hash_file(path, buffer, callbacks)?;
        let chunk = HeldChunk { index, digest, length: stamp.size };
        Ok(Self { chunk, path: path.to_owned(), stamp, trusted: true })
    }

    /// Opens the chunk file, if it is still the hashed file.
    fn open(&self) -> Result<StoredChunk, StoreError> {
        match disk::open_regular(&self.path) {
            Ok((file, stamp)) if stamp == self.stamp => {
                Ok(StoredChunk { file: Arc::new(file), offset: 0, length: self.chunk.length })
            }
            Err(StoreError::Io { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(error::io("open", &self.path)(source))
            }
            _ => Err(StoreError::Changed(self.path.clone())),
        }
    }
}

fn matches_manifest(manifest: &Manifest, chunk: HeldChunk) -> bool {
    let length = manifest.layout().span(chunk.index).map(|span| span.length);
    manifest.digest(chunk.index) == Some(chunk.digest) && length == Some(chunk.length)
}

/// Candidate names for a chunk's file, preferred name first: `chunk_N`, then names with the digest.
fn file_names(chunk: HeldChunk) -> impl Iterator<Item = FileName> {
    let digest = chunk.digest.to_string();
    let plain = format!("chunk_{}", chunk.index);
    let names = [plain.clone(), format!("{plain}_{}", &digest[..8]), format!("{plain}_{digest}")];
    names.into_iter().filter_map(|name| FileName::new(name).ok())
}

#[cfg(test)]
#[path = "chunk_folder_tests.rs"]
mod tests;
