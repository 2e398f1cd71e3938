//! Chunks that are kept for others, by the ids of their files and their numbers alone.
//!
//! The folder has a `key`, and a folder for each file, named by its id: `file.json` says what the file is, `manifest`
//! what its chunks must be, and each chunk is a file named by its number, from 0. Whoever keeps them (a volunteer, or
//! the tracker for what came back to it) decides what to store and to drop; nothing here does, and no name from
//! outside ever becomes a path. Invariants: never more bytes of chunks than were offered; what a crash leaves behind
//! is the chunks that were stored and nothing half of one; what is not understood is left alone and not served.

use super::disk;
use super::error::{self, StoreError};
use super::lock;
use super::replica_file::{self, ReplicaFile};
use super::space::Space;
use crate::content::{ChunkIndex, FileId, Manifest, limits};
use crate::protocol::numbers::VolunteerKey;
use crate::protocol::volunteer::KeptFile;
use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, DirEntry, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What the store is known by.
const KEY: &str = "key";
/// What a file is.
const FILE: &str = "file.json";
/// What its chunks must be: a line with the sizes, and the digests behind it.
const MANIFEST: &str = "manifest";
/// Longest `key` and `file.json`, and longest line of a `manifest`, bytes.
const TEXT_MAX: u64 = 64 * 1024;

type Files = BTreeMap<FileId, Arc<ReplicaFile>>;

/// A folder of chunks that are kept for others.
pub struct ReplicaStore {
    root: PathBuf,
    key: VolunteerKey,
    files: RwLock<Files>,
    /// Bytes of chunks of files that cannot be made use of.
    stranded: Mutex<HashMap<FileId, u64>>,
    space: Arc<Space>,
    /// Held while folders of files are made and removed.
    folders: Mutex<()>,
    /// No other program has the folder meanwhile.
    _lock: Option<File>,
}

/// The first line of a manifest on disk.
#[derive(Serialize, Deserialize)]
struct Sizes {
    size: u64,
    chunk_size: u32,
}

impl ReplicaStore {
    /// Opens a store, and makes it if it is not there, for at most `offered` bytes of chunks. What a crash left
    /// behind is removed. What is there is not hashed: [`ReplicaFile::check`] does that, and nothing is given to
    /// anybody before.
    ///
    /// # Errors
    /// The folder cannot be made, read or written; another program has it ([`StoreError::Busy`]); its key is damaged.
    pub fn open(root: &Path, offered: u64) -> Result<Self, StoreError> {
        make_folder(root)?;
        let lock = disk::lock_folder(root)?;
        remove_leftovers(root)?;
        let store = Self {
            root: root.to_owned(),
            key: key(&root.join(KEY))?,
            files: RwLock::default(),
            stranded: Mutex::default(),
            space: Arc::new(Space::new(root.to_owned(), offered)),
            folders: Mutex::default(),
            _lock: lock,
        };
        for entry in fs::read_dir(root).map_err(error::io("read", root))? {
            store.find(&entry.map_err(error::io("read", root))?);
        }
        Ok(store)
    }

    fn read(&self) -> RwLockReadGuard<'_, Files> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Files> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store is known by: made once, and kept.
    pub fn key(&self) -> VolunteerKey {
        self.key
    }

    /// Bytes of chunks that it may have.
    pub fn offered(&self) -> u64 {
        self.space.offered()
    }

    /// Bytes of chunks that it has.
    pub fn used(&self) -> u64 {
        self.space.used()
    }

    /// Bytes that it can still take: within what was offered, and without the disk's reserve
    /// ([`limits::DISK_RESERVE_PERCENT`]).
    pub fn free(&self) -> u64 {
        self.space.free()
    }

    /// The files that it has chunks of, or is about to.
    pub fn files(&self) -> Vec<Arc<ReplicaFile>> {
        self.read().values().cloned().collect()
    }

    /// A file that it has chunks of, or is about to.
    pub fn file(&self, id: FileId) -> Option<Arc<ReplicaFile>> {
        self.read().get(&id).cloned()
    }

    /// Gets a message when a chunk has turned out to be wrong, or more: [`take_damaged`](Self::take_damaged) says which.
    pub fn damaged(&self) -> &Receiver<()> {
        self.space.damaged()
    }

    /// The chunks that have turned out to be wrong since this was asked for the last time. They are gone.
    pub fn take_damaged(&self) -> BTreeSet<(FileId, ChunkIndex)> {
        self.space.take_damaged()
    }

    /// Prepares for chunks of a file: what it is, and what they must be, is durable when this returns. A file that is
    /// known is left as it is. Chunks that are there although the file was not known are taken in, unhashed.
    ///
    /// # Errors
    /// It cannot be written, or is not the file of that manifest.
    pub fn add_file(&self, kept: &KeptFile, manifest: Arc<Manifest>) -> Result<Arc<ReplicaFile>, StoreError> {
        let id = kept.file.id;
        let _folders = lock(&self.folders);
        if let Some(file) = self.file(id) {
            return Ok(file);
        }
        let folder = replica_file::folder_of(&self.root, id);
        if !fits(kept, &manifest) || manifest.id() != id {
            return Err(error::invalid_input(
                "keep chunks in",
                &folder,
                "the manifest is of another file".into(),
            ));
        }
        make_folder(&folder)?;
        let text = serde_json::to_vec(kept).map_err(|error| error::io("write", &folder)(error.into()))?;
        for (name, bytes) in [(MANIFEST, encode(&manifest, &folder)?), (FILE, text)] {
            let path = folder.join(name);
            disk::replace(&path, disk::temporary(&path, &bytes, true)?)?;
        }
        disk::sync_folder(&folder)?;
        if let Some(bytes) = lock(&self.stranded).remove(&id) {
            self.space.release(bytes);
        }
        let file = Arc::new(ReplicaFile::load(folder, kept.clone(), manifest, self.space.clone())?);
        self.write().insert(id, file.clone());
        Ok(file)
    }

    /// Stores a chunk of a file that was [added](Self::add_file); **the caller has verified its bytes**. It is durable
    /// when this returns. Room is taken before the first byte is written. From many threads at once.
    ///
    /// # Errors
    /// [`StoreError::Full`] when there is no room for it within what was offered or on the disk,
    /// [`StoreError::Missing`] when there is no such chunk or the file has been removed meanwhile, and whatever the
    /// system says.
    pub fn store(&self, id: FileId, index: ChunkIndex, bytes: &[u8]) -> Result<(), StoreError> {
        self.file(id).ok_or(StoreError::Missing(index))?.store(index, bytes)
    }

    /// Removes chunks of a file, those that are there; when it has none any more, what is known of the file as well.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn remove(&self, id: FileId, chunks: &[ChunkIndex]) -> Result<(), StoreError> {
        let Some(file) = self.file(id) else { return Ok(()) };
        file.remove(chunks)?;
        let _folders = lock(&self.folders);
        if file.close() && self.write().remove(&id).is_some() {
            let folder = replica_file::folder_of(&self.root, id);
            for name in [FILE, MANIFEST] {
                disk::remove(&folder.join(name))?;
            }
            remove_leftovers(&folder)?;
            remove_empty(&folder);
        }
        Ok(())
    }

    /// Hashes a chunk. Returns whether it is here and what it should be; one that is not is removed.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn check(&self, id: FileId, index: ChunkIndex) -> Result<bool, StoreError> {
        self.file(id).map_or(Ok(false), |file| file.check(index))
    }

    /// Takes in what is found in the store's folder when it is opened.
    fn find(&self, entry: &DirEntry) {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<FileId>().ok());
        let folder = entry.path();
        let Some(id) = id.filter(|id| replica_file::folder_of(&self.root, *id) == folder) else { return };
        match self.load(id, &folder) {
            Ok(Some(file)) => _ = self.write().insert(id, Arc::new(file)),
            Ok(None) => {}
            Err(error) => {
                let bytes = chunk_bytes(&folder);
                log::warn!("{bytes} bytes of chunks in {} are of no use: {error}", folder.display());
                lock(&self.stranded).insert(id, bytes);
                self.space.add(bytes);
            }
        }
    }

    /// A file that was kept before; `None` when nothing of it is left.
    fn load(&self, id: FileId, folder: &Path) -> Result<Option<ReplicaFile>, StoreError> {
        remove_leftovers(folder)?;
        if chunk_files(folder).next().is_none() {
            for name in [FILE, MANIFEST] {
                disk::remove(&folder.join(name))?;
            }
            remove_empty(folder);
            return Ok(None);
        }
        let path = folder.join(FILE);
        let kept: KeptFile = serde_json::from_slice(&read_file(&path, TEXT_MAX)?)
            .map_err(|error| error::invalid_input("use", &path, error.to_string()))?;
        let path = folder.join(MANIFEST);
        let manifest = decode(id, &read_file(&path, u64::from(limits::CHUNKS_MAX) * 36 + TEXT_MAX)?, &path)?;
        if kept.file.id != id || !fits(&kept, &manifest) {
            return Err(error::invalid_input("use", folder, "it says that it is another file".to_owned()));
        }
        ReplicaFile::load(folder.to_owned(), kept, Arc::new(manifest), self.space.clone()).map(Some)
    }
}

/// Whether a file has the sizes that its manifest says.
fn fits(kept: &KeptFile, manifest: &Manifest) -> bool {
    let layout = manifest.layout();
    (kept.file.size, kept.file.chunks) == (layout.size(), layout.count())
}

/// Makes a folder, durably.
fn make_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(error::io("make the folder", folder))?;
    disk::sync_folder(disk::folder_of(folder))
}

/// Removes a folder; something of somebody else's in it keeps it.
fn remove_empty(folder: &Path) {
    if let Err(error) = fs::remove_dir(folder) {
        log::debug!("{} is not removed: {error}", folder.display());
    }
}

/// Removes the temporary files of a process that was killed.
fn remove_leftovers(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(error::io("read", folder))? {
        let entry = entry.map_err(error::io("read", folder))?;
        if disk::is_temporary(&entry.file_name()) {
            disk::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The files in a folder that are called as chunks are.
fn chunk_files(folder: &Path) -> impl Iterator<Item = DirEntry> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| replica_file::chunk_of(&entry.file_name()).is_some())
}

fn chunk_bytes(folder: &Path) -> u64 {
    let length = |entry: DirEntry| entry.metadata().ok().filter(|file| file.is_file()).map(|file| file.len());
    chunk_files(folder).filter_map(length).sum()
}

/// Reads a file that must not be longer than `most` bytes.
fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, StoreError> {
    let (file, stamp) = disk::open_regular(path)?;
    if stamp.size > most {
        return Err(error::invalid_input("read", path, format!("{} bytes are too many", stamp.size)));
    }
    let mut bytes = Vec::with_capacity(stamp.size as usize);
    file.take(most).read_to_end(&mut bytes).map_err(error::io("read", path))?;
    Ok(bytes)
}

fn encode(manifest: &Manifest, path: &Path) -> Result<Vec<u8>, StoreError> {
    let layout = manifest.layout();
    let sizes = Sizes { size: layout.size(), chunk_size: layout.chunk_size() };
    let line = serde_json::to_vec(&sizes).map_err(|error| error::io("write", path)(error.into()))?;
    Ok([line, b"\n".to_vec(), manifest.payload()].concat())
}

fn decode(id: FileId, bytes: &[u8], path: &Path) -> Result<Manifest, StoreError> {
    let refused = |why: String| error::invalid_input("use", path, why);
    let end =
        bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| invalid_input("it is cut off".into()))?;
    let sizes: Sizes = serde_json::from_slice(&bytes[..end]).map_err(|error| refused(error.to_string()))?;
    Manifest::decode(id, sizes.size, sizes.chunk_size, &bytes[end + 1..])
        .map_err(|error| refused(error.to_string()))
}

/// Reads the key, or makes one. Nobody else may read it: whoever has it can pass for this store.
fn key(path: &Path) -> Result<VolunteerKey, StoreError> {
    match read_file(path, TEXT_MAX) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            text.trim().parse().map_err(|_| {
                let why = "it is damaged; without it nobody knows whose chunks these are. Put it back, or remove \
                           it to begin anew";
                error::invalid_input("use", path, why.to_owned())
            })
        }
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let mut number = [0; 16];
            getrandom::fill(&mut number).map_err(|error| error::io("make", path)(io::Error::other(error)))?;
            let key = VolunteerKey(u128::from_be_bytes(number));
            let text = format!("{:032x}\n", key.0);
            disk::replace(path, disk::temporary_for(path, text.as_bytes(), true, 0o600)?)?;
            disk::sync_folder(disk::folder_of(path))?;
            Ok(key)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[path = "replica_store_tests.rs"]
mod tests;
