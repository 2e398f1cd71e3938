//! Folder that is received: a tree in progress, and the complete tree afterwards.
//!
//! The chunks of the index come first; then [`prepare`](TreePart::prepare) checks it and compares an existing folder, and
//! the content follows. Pieces of chunks are written straight into the files of a staging folder, which is renamed
//! once to the target. An existing folder is changed only on request, file by file, with a journal (`replacement`).
//!
//! Invariants: nothing outside the staging folder is written before all content is verified; a resume file never lists a
//! chunk before its pieces are in the staged files; a chunk of which a piece is not wanted is never served.

mod completion;
mod existing;
mod finishing;
mod folder;
mod places;
mod preparation;
mod recent;
mod replacement;
pub(super) mod staging;
mod state;

#[cfg(test)]
mod tests;

pub use preparation::{Prepared, TreeRecheck};

use super::disk;
use super::error::{self, StoreError};
use super::hashing::on_all_cores;
use super::progress::Progress;
use super::resume_file::{self, Kind, ResumeMaps, Turns};
use super::verify::{Verify, VerifyCallbacks};
use super::{ChunkSink, ChunkSource, StoredChunk};
use crate::content::tree::{EntryKind, PathFilter};
use crate::content::{Bitfield, ChunkIndex, Digest, FileId, Hasher, Manifest, limits};
use crate::sync::{lock, read};
use folder::{EntryStamp, TreeFolder};
use places::Places;
use replacement::sync_file_system;
use staging::{OpenedStaging, Staging};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

/// Chunks that can be written at the same time.
const WRITERS: usize = 16;

/// What is received of a folder, and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeReceiveOptions {
    /// The wanted entries.
    pub filter: PathFilter,
    /// Whether the owners of the tree are set.
    pub with_owners: bool,
    /// Whether symbolic links that lead outside the tree are accepted.
    pub with_any_links: bool,
    /// Largest number of entries.
    pub entries_max: u32,
}

impl Default for TreeReceiveOptions {
    fn default() -> Self {
        let (filter, entries_max) = (PathFilter::default(), limits::TREE_ENTRIES_MAX);
        Self { filter, with_owners: false, with_any_links: false, entries_max }
    }
}

/// A folder in progress: staging folder, resume file and target.
pub struct TreePart {
    target: PathBuf,
    /// `None` if the complete tree was found at the target.
    staging: Option<Staging>,
    index_file: Option<File>,
    manifest: Arc<Manifest>,
    /// Id of the wanted part of the tree.
    part: FileId,
    options: TreeReceiveOptions,
    /// The chunks that can be served.
    served: Progress,
    listed: Mutex<Listed>,
    writers: [Mutex<()>; WRITERS],
    /// The tree, once its index is known.
    tree: RwLock<Option<Arc<Tree>>>,
    /// The resume file is unusable: only hashing can find the staged chunks.
    is_unlisted: bool,
    present_bytes: AtomicU64,
    /// Files of the complete tree that have changed: each is named in one ERROR.
    changed: Mutex<HashSet<u32>>,
}

/// Chunks of this run and earlier ones.
struct Listed {
    /// Stored chunks, and those in place.
    done: Bitfield,
    /// Chunks of files in place: they are not staged, so that a resume file does not list them.
    in_place: Bitfield,
    durable: Bitfield,
    /// Number of chunks listed in any record.
    count: u32,
    turns: Turns,
    finished: bool,
    has_failed: bool,
}

/// A tree whose index is known, and where its entries are.
struct Tree {
    places: Arc<Places>,
    staged: Option<Arc<TreeFolder>>,
    /// The existing folder at the target.
    target: Option<Arc<TreeFolder>>,
    /// Entries that are at the target.
    in_place: Vec<bool>,
    /// Stamps of the files of a complete tree.
    stamps: Option<Vec<EntryStamp>>,
    replaces: Replaces,
}

/// What a staged tree replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replaces {
    Nothing,
    File,
    Folder,
}

impl Listed {
    /// The stored chunks that a resume file lists.
    fn staged(&self) -> Bitfield {
        let mut staged = self.done.clone();
        self.in_place.iter().for_each(|index| _ = staged.remove(index));
        staged
    }
}

impl Tree {
    /// The folder that has an entry.
    fn folder_of(&self, place: u32) -> Option<&TreeFolder> {
        let in_place = self.in_place.get(place as usize).copied().unwrap_or(false);
        if in_place { self.target.as_deref() } else { self.staged.as_deref() }
    }

    fn read_chunk(&self, index: ChunkIndex, bytes: &mut [u8]) -> Result<(), StoreError> {
        existing::read_pieces(&self.places, index, bytes, |place| {
            self.folder_of(place).ok_or(StoreError::Missing(index))
        })
    }

    /// Returns the first file with a piece of the chunk that is no longer the one that was verified, and its path.
    fn changed_file(&self, index: ChunkIndex) -> Result<Option<(u32, PathBuf)>, StoreError> {
        let (Some(stamps), Some(target)) = (&self.stamps, &self.target) else { return Ok(None) };
        for piece in self.places.content().pieces(index) {
            let Some(place) = self.places.of_file(piece.entry) else { continue };
            let found = target.stat(&self.places, place)?.map(|stat| EntryStamp::of(&stat));
            if found.as_ref() != stamps.get(place as usize) {
                return Ok(Some((piece.entry, target.path_of(&self.places, place))));
            }
        }
        Ok(None)
    }
}

fn in_memory(bytes: &[u8]) -> Result<StoredChunk, StoreError> {
    StoredChunk::in_memory(bytes).map_err(error::io("create", Path::new("a chunk in memory")))
}

/// Id of a part of a tree: that of the tree if all of it is wanted.
fn part_id(id: FileId, filter: &PathFilter) -> FileId {
    if filter.is_all() {
        return id;
    }
    let mut hasher = Hasher::new();
    hasher.update(b"shoal tree part\n");
    hasher.update(&id.0);
    hasher.update(filter.to_string().as_bytes());
    FileId(hasher.finish().0)
}

impl TreePart {
    /// Opens the staging folder of a tree, or that of an earlier run, and locks it until this value is dropped.
    ///
    /// The folder of the target must exist; the target itself is not accessed.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if the same part of the tree is being downloaded to the same target, or an I/O error.
    pub fn open(
        target: &Path,
        manifest: Arc<Manifest>,
        options: TreeReceiveOptions,
    ) -> Result<Self, StoreError> {
        preparation::index_bytes(&manifest)?;
        let part = part_id(manifest.id(), &options.filter);
        let count = manifest.layout().count();
        let OpenedStaging { staging, maps, turns, is_unlisted } = Staging::open(target, part, count)?;
        let ResumeMaps { durable, written } = maps;
        let index_file = staging.open_index(manifest.sizes().index.unwrap_or(0))?;
        let served = Bitfield::none(count);
        let listed = Listed {
            count: written.held(),
            done: written,
            in_place: Bitfield::none(count),
            durable,
            turns,
            finished: false,
            has_failed: false,
        };
        let opened = Self::new(target, Some((staging, index_file)), manifest, options, served, listed);
        let index_chunks = opened.manifest.index_chunks();
        // The content is served when it is known which pieces are stored.
        let done = lock(&opened.listed).done.clone();
        index_chunks
            .map(ChunkIndex)
            .filter(|index| done.has(*index))
            .for_each(|index| _ = opened.served.add(index));
        Ok(Self { is_unlisted, ..opened })
    }

    fn new(
        target: &Path,
        staging: Option<(Staging, File)>,
        manifest: Arc<Manifest>,
        options: TreeReceiveOptions,
        served: Bitfield,
        listed: Listed,
    ) -> Self {
        let (staging, index_file) = staging.unzip();
        Self {
            target: target.to_owned(),
            staging,
            index_file,
            part: part_id(manifest.id(), &options.filter),
            manifest,
            options,
            served: Progress::new(served),
            listed: Mutex::new(listed),
            writers: Default::default(),
            tree: RwLock::new(None),
            is_unlisted: false,
            present_bytes: AtomicU64::new(0),
            changed: Mutex::default(),
        }
    }

    /// Path of the complete folder.
    pub fn target(&self) -> &Path {
        &self.target
    }

    fn tree(&self) -> Option<Arc<Tree>> {
        read(&self.tree).clone()
    }

    fn set_tree(&self, tree: Tree) {
        *crate::sync::write(&self.tree) = Some(Arc::new(tree));
    }

    /// The chunks that are wanted now: those of the index, or those with wanted content once the index is known.
    pub fn wanted(&self) -> Bitfield {
        match self.tree() {
            Some(tree) => tree.places.chunks().clone(),
            None => {
                let mut wanted = Bitfield::none(self.manifest.layout().count());
                self.manifest.index_chunks().for_each(|index| _ = wanted.insert(ChunkIndex(index)));
                wanted
            }
        }
    }

    /// The stored chunks.
    pub fn done(&self) -> Bitfield {
        lock(&self.listed).done.clone()
    }

    /// Whether all chunks of the index are stored.
    pub fn has_index(&self) -> bool {
        let listed = lock(&self.listed);
        self.manifest.index_chunks().all(|index| listed.done.has(ChunkIndex(index)))
    }

    /// Whether all chunks that are [wanted](Self::wanted) now are stored.
    pub fn is_complete(&self) -> bool {
        let wanted = self.wanted();
        let listed = lock(&self.listed);
        wanted.iter().all(|index| listed.done.has(index))
    }

    /// Bytes of the chunks that are wanted now, without the index once it is known, and of those that need no download.
    pub fn sizes(&self) -> (u64, u64) {
        (self.bytes_of(self.wanted().iter()), self.present_bytes.load(Relaxed))
    }

    fn count_present(&self) {
        let (wanted, done) = (self.wanted(), self.done());
        self.present_bytes.store(self.bytes_of(wanted.common(&done)), Relaxed);
    }

    fn bytes_of(&self, chunks: impl Iterator<Item = ChunkIndex>) -> u64 {
        let first = if self.tree().is_some() { self.manifest.index_chunks().end } else { 0 };
        chunks.filter(|index| index.0 >= first).map(|index| self.length_of(index)).sum()
    }

    fn length_of(&self, index: ChunkIndex) -> u64 {
        self.manifest.layout().span(index).map_or(0, |span| span.length)
    }

    /// Bytes of the wanted chunks that are not stored.
    fn missing_bytes(&self) -> u64 {
        let done = self.done();
        self.wanted().iter().filter(|index| !done.has(*index)).map(|index| self.length_of(index)).sum()
    }

    /// Writes a note to the resume file, so that a killed process loses no chunk stored so far.
    ///
    /// # Errors
    /// The note cannot be written; [`StoreError::Gone`] if the staging folder was removed.
    pub fn note(&self) -> Result<(), StoreError> {
        let Some(staging) = &self.staging else { return Ok(()) };
        let mut listed = lock(&self.listed);
        if listed.finished || listed.has_failed || listed.staged().held() == listed.count {
            return Ok(());
        }
        if !staging.is_here()? {
            return Err(StoreError::Gone(staging.path().to_owned()));
        }
        let maps = ResumeMaps { durable: listed.durable.clone(), written: listed.staged() };
        resume_file::write(&staging.resume(), staging.owner(), &maps, Kind::Note, &mut listed.turns)?;
        listed.count = maps.written.held();
        Ok(())
    }

    /// Makes the chunks stored so far durable: first the data, by one syncfs, then the resume file. After
    /// [`finish`](Self::finish) it syncs the finished tree.
    ///
    /// # Errors
    /// The disk fails. Chunks that were not yet durable are then no longer listed.
    pub fn make_durable(&self) -> Result<(), StoreError> {
        let Some(staging) = &self.staging else { return Ok(()) };
        let (present, finished) = {
            let listed = lock(&self.listed);
            if !listed.finished && listed.durable == listed.staged() {
                return Ok(());
            }
            (listed.staged(), listed.finished)
        };
        if let Err(error) = sync_file_system(staging.folder(), staging.path()) {
            let mut listed = lock(&self.listed);
            listed.has_failed = true;
            if !listed.finished {
                resume_file::clear_notes(&staging.resume(), staging.owner())?;
            }
            return Err(error);
        }
        if finished {
            return Ok(());
        }
        let mut listed = lock(&self.listed);
        if !listed.finished && !listed.has_failed {
            let maps = ResumeMaps { written: present.clone(), durable: present };
            resume_file::write(&staging.resume(), staging.owner(), &maps, Kind::Durable, &mut listed.turns)?;
            listed.count = listed.count.max(maps.durable.held());
            listed.durable = maps.durable;
        }
        drop(listed);
        disk::sync_folder(disk::folder_of(&self.target))
    }

    /// Removes chunks from the stored ones, on disk too.
    fn forget(&self, bad: &[ChunkIndex]) -> Result<(), StoreError> {
        let Some(staging) = &self.staging else { return Ok(()) };
        let mut listed = lock(&self.listed);
        for index in bad {
            listed.done.remove(*index);
            listed.durable.remove(*index);
            self.served.remove(*index);
        }
        resume_file::create(&staging.resume(), staging.owner())?;
        listed.turns = Turns::default();
        let maps = ResumeMaps { durable: listed.durable.clone(), written: listed.staged() };
        resume_file::write(&staging.resume(), staging.owner(), &maps, Kind::Durable, &mut listed.turns)?;
        listed.count = maps.written.held();
        Ok(())
    }

    /// Adds a chunk of files in place.
    fn add_in_place(&self, index: ChunkIndex) {
        let mut listed = lock(&self.listed);
        listed.done.insert(index);
        listed.in_place.insert(index);
    }

    /// Adds a stored chunk.
    fn add(&self, index: ChunkIndex, is_whole: bool) {
        lock(&self.listed).done.insert(index);
        if is_whole {
            self.served.add(index);
        }
    }

    /// Writes the pieces of a chunk whose files are staged.
    fn write_chunk(&self, tree: &Tree, index: ChunkIndex, mut bytes: &[u8]) -> Result<(), StoreError> {
        let places = &tree.places;
        let Some(staged) = &tree.staged else { return Err(StoreError::Missing(index)) };
        for piece in places.content().pieces(index) {
            let (written, rest) =
                bytes.split_at_checked(piece.length as usize).ok_or(StoreError::Missing(index))?;
            bytes = rest;
            let Some(place) = places.of_file(piece.entry) else { continue };
            if tree.in_place[place as usize] {
                continue;
            }
            let entry = places.entry(place).ok_or(StoreError::Missing(index))?;
            let EntryKind::File { size, .. } = entry.kind else { return Err(StoreError::Missing(index)) };
            if piece.length == size {
                staged.write_file(places, &entry, place, written)?;
                continue;
            }
            let file = staged.open_for_writing(places, place, size)?;
            file.write_all_at(written, piece.offset_in_file).map_err(|source| {
                error::write("write", &staged.path_of(places, place), self.missing_bytes())(source)
            })?;
        }
        Ok(())
    }

    /// Hashes stored chunks again; those that differ are wanted again. Returns their number.
    fn check_done(&self, verify: Verify, callbacks: VerifyCallbacks<'_>) -> Result<u32, StoreError> {
        let Some(tree) = self.tree() else { return Ok(0) };
        let mut staged = Bitfield::none(self.manifest.layout().count());
        let done = self.done();
        done.iter().filter(|index| tree.places.is_whole(*index)).for_each(|index| _ = staged.insert(index));
        let chosen = verify.choose(&staged);
        (callbacks.begin)(chosen.iter().map(|index| self.length_of(*index)).sum());
        let bad = Mutex::new(Vec::new());
        on_all_cores(chosen.len() as u32, self.manifest.layout().longest() as usize, &|item, buffer| {
            if (callbacks.stop)() {
                return Err(StoreError::Stopped);
            }
            let index = chosen[item as usize];
            let bytes = &mut buffer[..self.length_of(index) as usize];
            if self.read_stored(&tree, index, bytes).is_err()
                || self.manifest.digest(index) != Some(Digest::of(bytes))
            {
                lock(&bad).push(index);
            }
            (callbacks.hashed)(bytes.len() as u64);
            Ok(true)
        })?;
        let bad = bad.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !bad.is_empty() {
            self.forget(&bad)?;
        }
        Ok(bad.len() as u32)
    }

    /// Stops serving the chunks of a file of the complete tree that has changed.
    fn withdraw(&self, tree: &Tree, file: u32, path: &Path) {
        let chunks = tree.places.content().chunks_of(file);
        chunks.clone().for_each(|index| _ = self.served.remove(ChunkIndex(index)));
        if lock(&self.changed).insert(file) {
            let count = crate::content::fmt::counted(chunks.len() as u64, "chunk");
            log::error!("{} has changed since it was verified: {count} left the offer", path.display());
        }
    }

    fn read_stored(&self, tree: &Tree, index: ChunkIndex, bytes: &mut [u8]) -> Result<(), StoreError> {
        if let Some(index_bytes) = tree.places.content().index_chunk(index) {
            bytes.copy_from_slice(index_bytes);
            return Ok(());
        }
        match tree.changed_file(index)? {
            Some((_, path)) => Err(StoreError::Changed(path)),
            None => tree.read_chunk(index, bytes),
        }
    }
}

impl ChunkSource for TreePart {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(Arc::clone(&self.manifest))
    }

    fn progress(&self) -> &Progress {
        &self.served
    }

    fn check_reported(&self, index: ChunkIndex) -> bool {
        let Some(tree) = self.tree() else { return true };
        let mut bytes = vec![0; self.length_of(index) as usize];
        match self.read_stored(&tree, index, &mut bytes) {
            Ok(()) if self.manifest.digest(index) != Some(Digest::of(&bytes)) => {
                self.served.remove(index);
                let _ = self.forget(&[index]);
                let path = self.target.display();
                log::warn!(
                    "{path}: chunk {index} differs from its SHA-256 (a peer reported it); it is no longer offered"
                );
                false
            }
            _ => true,
        }
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        let span = self.manifest.layout().span(index).filter(|_| self.served.has(index));
        let span = span.ok_or(StoreError::Missing(index))?;
        if index.0 < self.manifest.index_chunks().end {
            return match &self.index_file {
                Some(file) => {
                    let file = file.try_clone().map_err(error::io("open the index of", &self.target))?;
                    Ok(StoredChunk { file: Arc::new(file), offset: span.offset, length: span.length })
                }
                None => {
                    let tree = self.tree().ok_or(StoreError::Missing(index))?;
                    in_memory(tree.places.content().index_chunk(index).ok_or(StoreError::Missing(index))?)
                }
            };
        }
        let tree = self.tree().ok_or(StoreError::Missing(index))?;
        if let Some((file, path)) = tree.changed_file(index)? {
            self.withdraw(&tree, file, &path);
            return Err(StoreError::Changed(path));
        }
        if let [piece] = tree.places.content().pieces(index)[..] {
            let place = tree.places.of_file(piece.entry).ok_or(StoreError::Missing(index))?;
            let folder = tree.folder_of(place).ok_or(StoreError::Missing(index))?;
            let file = folder.open_for_reading(&tree.places, place, true)?;
            return Ok(StoredChunk { file, offset: piece.offset_in_file, length: piece.length });
        }
        let mut bytes = vec![0; span.length as usize];
        tree.read_chunk(index, &mut bytes)?;
        in_memory(&bytes)
    }
}

impl ChunkSink for TreePart {
    fn store(&self, index: ChunkIndex, _: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        let span = self.manifest.layout().span(index).ok_or(StoreError::Missing(index))?;
        if bytes.len() as u64 != span.length {
            let reason = format!("chunk {index} has {} bytes, not {}", bytes.len(), span.length);
            return Err(error::invalid_input("write", &self.target, reason));
        }
        // A chunk is written once: a second writer would replace its small files by incomplete ones.
        let _writer = lock(&self.writers[index.at() % WRITERS]);
        if lock(&self.listed).done.has(index) {
            return Ok(true);
        }
        if index.0 < self.manifest.index_chunks().end {
            if let (Some(file), Some(staging)) = (&self.index_file, &self.staging) {
                let written = file.write_all_at(bytes, span.offset);
                written
                    .map_err(|source| error::write("write", staging.path(), self.missing_bytes())(source))?;
            }
            self.add(index, true);
            return Ok(true);
        }
        let Some(tree) = self.tree() else { return Ok(false) };
        self.write_chunk(&tree, index, bytes)?;
        self.add(index, tree.places.is_whole(index));
        Ok(true)
    }
}
