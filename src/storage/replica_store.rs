//! Replica store: chunks stored on behalf of the tracker, addressed by file id and chunk index.
//!
//! The folder has a `key`, and a subfolder for each file, named by its id: `file.json` describes
//! the file, `manifest` has its digests, and each chunk is a file named by its index, from 0. The
//! owner of the store (a volunteer, or the tracker for chunks copied back to it) decides which
//! chunks to store and to remove. No name from the network becomes a path. Invariants: the bytes of
//! stored chunks never exceed the storage offer; after a crash, the store has complete chunks only;
//! files that cannot be interpreted are neither removed nor served.

use super::disk;
use super::error::{self, StoreError};
use super::replica_file::{self, ReplicaFile};
use super::space::Space;
use super::store_marker::{self, StoreId, StoreRoot};
use crate::content::{ChunkIndex, FileId, Manifest, ManifestSizes, limits};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::KeptFile;
use crate::sync::{lock, read, write};
use crossbeam_channel::Receiver;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, DirEntry};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// File with the secret key of the store.
const KEY: &str = "key";
/// Description of a file.
const FILE: &str = "file.json";
/// Manifest of a file: a line with the sizes, then the digests.
const MANIFEST: &str = "manifest";
/// Longest `key`, longest `file.json` and longest first line of a `manifest`, bytes.
const TEXT_MAX: u64 = 64 * 1024;

type Files = BTreeMap<FileId, Arc<ReplicaFile>>;

/// A folder of replicas.
pub struct ReplicaStore {
    root: Arc<StoreRoot>,
    key: VolunteerKey,
    files: RwLock<Files>,
    /// Bytes of chunks whose `file.json` or `manifest` is unusable.
    unusable: Mutex<HashMap<FileId, u64>>,
    space: Arc<Space>,
    /// Held while subfolders are created and removed.
    folders: Mutex<()>,
}

impl ReplicaStore {
    /// Opens or creates a store for at most `offered` bytes of chunks, and removes leftovers of a
    /// crash.
    ///
    /// Existing chunks are not hashed here but by [`ReplicaFile::check`]; no chunk is served before
    /// that.
    ///
    /// # Errors
    /// The folder cannot be created, read or written; another process uses it
    /// ([`StoreError::Busy`]); its key is damaged.
    pub fn open(root: &Path, offered: u64) -> Result<Self, StoreError> {
        make_folder(root)?;
        let opened = Arc::new(StoreRoot::open(root)?);
        remove_leftovers(root)?;
        let store = Self {
            root: opened,
            key: key(&root.join(KEY))?,
            files: RwLock::default(),
            unusable: Mutex::default(),
            space: Arc::new(Space::new(root.to_owned(), offered)),
            folders: Mutex::default(),
        };
        store.load_entries()?;
        Ok(store)
    }

    fn load_entries(&self) -> Result<(), StoreError> {
        let root = self.root.path();
        for entry in fs::read_dir(root).map_err(error::io("read", root))? {
            self.load_entry(&entry.map_err(error::io("read", root))?);
        }
        Ok(())
    }

    /// Reads the store's marker, or creates it, and checks from now on that the store is there. `expected` is the
    /// id that the caller has read before the store was opened.
    ///
    /// # Errors
    /// The marker cannot be read or written, or is no longer that of `expected`.
    pub(super) fn mark(&self, expected: Option<StoreId>) -> Result<StoreId, StoreError> {
        let root = self.root.path();
        let id = match (store_marker::read(root), expected) {
            (Ok(Some(id)), Some(wanted)) if id == wanted => id,
            (Ok(_), Some(wanted)) => {
                let reason = format!("the marker of store {} has disappeared", wanted.short());
                return Err(StoreError::StoreAbsent { path: root.to_owned(), reason });
            }
            (Ok(Some(id)), None) => id,
            (Ok(None), None) => self.create_marker()?,
            (Err(error), None) if store_marker::is_damaged(&error) => {
                log::warn!("{error}; it is replaced");
                self.create_marker()?
            }
            (Err(error), _) => return Err(error),
        };
        self.root.set_id(id);
        Ok(id)
    }

    fn create_marker(&self) -> Result<StoreId, StoreError> {
        let root = self.root.path();
        let id = StoreId::random().map_err(error::io("create the marker of", root))?;
        store_marker::write(root, id)?;
        Ok(id)
    }

    /// Whether the last check found the store at its path. A store without a marker is never absent.
    pub fn is_present(&self) -> bool {
        self.root.is_present()
    }

    /// Checks that the store is at its path and that its marker can be read. Other operations check it, too.
    ///
    /// # Errors
    /// [`StoreError::StoreAbsent`]; until [`restore`](Self::restore) succeeds, every later call fails.
    pub fn inspect(&self) -> Result<(), StoreError> {
        self.root.inspect()
    }

    /// Checks as [`inspect`](Self::inspect) does, and reads the marker from the disk, not from the page cache.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect).
    pub fn confirm(&self) -> Result<(), StoreError> {
        self.root.confirm()
    }

    /// Ends the absence of a store whose marker is back: locks its folder and reads all of it again, unhashed.
    ///
    /// # Errors
    /// The store is still absent, another process uses it, or it has another key.
    pub fn restore(&self) -> Result<(), StoreError> {
        self.root.look()?;
        let root = self.root.path();
        let folder = self.root.reopen()?;
        let path = root.join(KEY);
        if read_key(&path)? != Some(self.key) {
            return Err(error::invalid_input(
                "use",
                &path,
                "the key has changed; start the client again".into(),
            ));
        }
        let _folders = lock(&self.folders);
        // Writes that still run fail from now on; chunks that they have renamed are found below.
        std::mem::take(&mut *self.write()).values().for_each(|file| file.abandon());
        lock(&self.unusable).clear();
        self.space.reset();
        remove_leftovers(root)?;
        self.load_entries()?;
        self.root.restore(folder);
        Ok(())
    }

    fn read(&self) -> RwLockReadGuard<'_, Files> {
        read(&self.files)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Files> {
        write(&self.files)
    }

    /// The key that identifies the store; created once and never changed.
    pub fn key(&self) -> VolunteerKey {
        self.key
    }

    /// Storage offer, bytes.
    pub fn offered(&self) -> u64 {
        self.space.offered()
    }

    /// Bytes of stored chunks.
    pub fn used(&self) -> u64 {
        self.space.used()
    }

    /// Bytes that can still be stored: within the offer, and without the disk's reserve
    /// ([`limits::DISK_RESERVE_PERCENT`]).
    pub fn free(&self) -> u64 {
        self.space.free()
    }

    /// The files with stored chunks or chunks being written.
    pub fn files(&self) -> Vec<Arc<ReplicaFile>> {
        self.read().values().cloned().collect()
    }

    /// A file with stored chunks or chunks being written.
    pub fn file(&self, id: FileId) -> Option<Arc<ReplicaFile>> {
        self.read().get(&id).cloned()
    }

    /// Receives a message after chunks were found damaged; [`take_damaged`](Self::take_damaged)
    /// returns them.
    pub fn damaged(&self) -> &Receiver<()> {
        self.space.damaged()
    }

    /// The chunks found damaged since the last call. They have been removed.
    pub fn take_damaged(&self) -> BTreeSet<(FileId, ChunkIndex)> {
        self.space.take_damaged()
    }

    /// Adds a file, so that its chunks can be stored. Description and manifest are durable when
    /// this returns.
    ///
    /// A known file is not altered. Chunks found in the folder of an unknown file are counted,
    /// unhashed.
    ///
    /// # Errors
    /// The folder cannot be written, or the manifest is not that of the file.
    pub fn add_file(&self, kept: &KeptFile, manifest: Arc<Manifest>) -> Result<Arc<ReplicaFile>, StoreError> {
        let id = kept.file.id;
        let _folders = lock(&self.folders);
        if let Some(file) = self.file(id) {
            return Ok(file);
        }
        self.root.require()?;
        let folder = replica_file::folder_of(self.root.path(), id);
        if !sizes_match(kept, &manifest) || manifest.id() != id {
            return Err(error::invalid_input(
                "keep chunks in",
                &folder,
                "the manifest belongs to another file".into(),
            ));
        }
        make_subfolder(&folder)?;
        let text = serde_json::to_vec(kept).map_err(|error| error::io("write", &folder)(error.into()))?;
        for (name, bytes) in [(MANIFEST, encode_manifest(&manifest, &folder)?), (FILE, text)] {
            let path = folder.join(name);
            disk::replace(&path, disk::temporary(&path, &bytes, true)?)?;
        }
        disk::sync_folder(&folder)?;
        if let Some(bytes) = lock(&self.unusable).remove(&id) {
            self.space.release(bytes);
        }
        let file = Arc::new(self.load_file(folder, kept.clone(), manifest)?);
        self.write().insert(id, file.clone());
        Ok(file)
    }

    /// Stores a chunk of an [added](Self::add_file) file; **the caller has verified its bytes**.
    /// The chunk is durable when this returns. Space is reserved before the first byte is written.
    /// Can be called from many threads.
    ///
    /// # Errors
    /// [`StoreError::Full`] if the offer or the disk has too little space, [`StoreError::Missing`]
    /// if the chunk does not exist or its file was removed meanwhile, or an I/O error.
    pub fn store(&self, id: FileId, index: ChunkIndex, bytes: &[u8]) -> Result<(), StoreError> {
        self.file(id).ok_or(StoreError::Missing(index))?.store(index, bytes)
    }

    /// Removes chunks of a file; absent chunks are ignored. A file without chunks is removed from
    /// the store.
    ///
    /// # Errors
    /// The chunks cannot be removed.
    pub fn remove(&self, id: FileId, chunks: &[ChunkIndex]) -> Result<(), StoreError> {
        let Some(file) = self.file(id) else { return Ok(()) };
        file.remove(chunks)?;
        let _folders = lock(&self.folders);
        if file.close() && self.write().remove(&id).is_some() {
            self.root.require()?;
            let folder = replica_file::folder_of(self.root.path(), id);
            for name in [FILE, MANIFEST] {
                disk::remove(&folder.join(name))?;
            }
            remove_leftovers(&folder)?;
            remove_empty(&folder);
        }
        Ok(())
    }

    /// Hashes a chunk and returns whether it is present and intact. A damaged chunk is removed.
    ///
    /// # Errors
    /// The chunk cannot be hashed for a reason that says nothing about its content.
    pub fn check(&self, id: FileId, index: ChunkIndex) -> Result<bool, StoreError> {
        self.file(id).map_or(Ok(false), |file| file.check(index))
    }

    /// Loads an entry of the store's folder at startup.
    fn load_entry(&self, entry: &DirEntry) {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<FileId>().ok());
        let folder = entry.path();
        let Some(id) = id.filter(|id| replica_file::folder_of(self.root.path(), *id) == folder) else {
            return;
        };
        match self.load(id, &folder) {
            Ok(Some(file)) => _ = self.write().insert(id, Arc::new(file)),
            Ok(None) => {}
            Err(error) => {
                let bytes = chunk_bytes(&folder);
                log::warn!("{bytes} bytes of chunks in {} cannot be used: {error}", folder.display());
                lock(&self.unusable).insert(id, bytes);
                self.space.add(bytes);
            }
        }
    }

    /// Loads a file stored earlier; `None` if it has no chunk left.
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
        let manifest =
            decode_manifest(id, &read_file(&path, u64::from(limits::CHUNKS_MAX) * 36 + TEXT_MAX)?, &path)?;
        if kept.file.id != id || !sizes_match(&kept, &manifest) {
            return Err(error::invalid_input(
                "use",
                folder,
                "file.json and manifest belong to another file".to_owned(),
            ));
        }
        self.load_file(folder.to_owned(), kept, Arc::new(manifest)).map(Some)
    }

    fn load_file(
        &self,
        folder: PathBuf,
        kept: KeptFile,
        manifest: Arc<Manifest>,
    ) -> Result<ReplicaFile, StoreError> {
        ReplicaFile::load(folder, kept, manifest, self.space.clone(), self.root.clone())
    }
}

/// Whether the file's sizes match its manifest.
fn sizes_match(kept: &KeptFile, manifest: &Manifest) -> bool {
    let layout = manifest.layout();
    (kept.file.size, kept.file.chunks) == (layout.size(), layout.count())
}

/// Creates a folder, durably.
fn make_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(error::io("create the folder", folder))?;
    disk::sync_folder(disk::folder_of(folder))
}

/// Creates a folder in the store, durably. The store itself is never created again.
fn make_subfolder(folder: &Path) -> Result<(), StoreError> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        created => {
            created.map_err(error::io("create the folder", folder))?;
            disk::sync_folder(disk::folder_of(folder))
        }
    }
}

/// Removes a folder if it is empty.
fn remove_empty(folder: &Path) {
    if let Err(error) = fs::remove_dir(folder) {
        log::debug!("folder {} not removed: {error}", folder.display());
    }
}

/// Removes temporary files of a killed process.
fn remove_leftovers(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(error::io("read", folder))? {
        let entry = entry.map_err(error::io("read", folder))?;
        if disk::is_temporary(&entry.file_name()) {
            disk::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// The files in a folder whose names are chunk indices.
fn chunk_files(folder: &Path) -> impl Iterator<Item = DirEntry> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| replica_file::chunk_of(&entry.file_name()).is_some())
}

fn chunk_bytes(folder: &Path) -> u64 {
    let length = |entry: DirEntry| entry.metadata().ok().filter(|file| file.is_file()).map(|file| file.len());
    chunk_files(folder).filter_map(length).sum()
}

/// Reads a file of at most `bytes_max` bytes.
fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
    let (file, stamp) = disk::open_regular(path)?;
    if stamp.size > bytes_max {
        return Err(error::invalid_input(
            "read",
            path,
            format!("{} bytes exceed the limit of {bytes_max}", stamp.size),
        ));
    }
    let mut bytes = Vec::with_capacity(stamp.size as usize);
    file.take(bytes_max).read_to_end(&mut bytes).map_err(error::io("read", path))?;
    Ok(bytes)
}

fn encode_manifest(manifest: &Manifest, path: &Path) -> Result<Vec<u8>, StoreError> {
    // The first line of the file.
    let line =
        serde_json::to_vec(&manifest.sizes()).map_err(|error| error::io("write", path)(error.into()))?;
    Ok([line, b"\n".to_vec(), manifest.payload()].concat())
}

fn decode_manifest(id: FileId, bytes: &[u8], path: &Path) -> Result<Manifest, StoreError> {
    let invalid = |reason: String| error::invalid_input("use", path, reason);
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| invalid("truncated".into()))?;
    let sizes: ManifestSizes =
        serde_json::from_slice(&bytes[..end]).map_err(|error| invalid(error.to_string()))?;
    Manifest::decode(id, sizes, &bytes[end + 1..]).map_err(|error| invalid(error.to_string()))
}

/// Reads the key, or creates one. Only the owner may read it: a process that has the key can pass
/// for this store.
fn key(path: &Path) -> Result<VolunteerKey, StoreError> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let mut number = [0; 16];
    getrandom::fill(&mut number).map_err(|error| error::io("create", path)(io::Error::other(error)))?;
    let key = VolunteerKey(u128::from_be_bytes(number));
    let text = format!("{:032x}\n", key.0);
    disk::replace(path, disk::temporary_for(path, text.as_bytes(), true, 0o600)?)?;
    disk::sync_folder(disk::folder_of(path))?;
    Ok(key)
}

/// Reads the key; `None` if there is none.
fn read_key(path: &Path) -> Result<Option<VolunteerKey>, StoreError> {
    let bytes = match read_file(path, TEXT_MAX) {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    String::from_utf8_lossy(&bytes).trim().parse().map(Some).map_err(|_| {
        let reason =
            "damaged key; restore the file from a backup, or remove it to register as a new volunteer";
        error::invalid_input("use", path, reason.to_owned())
    })
}

#[cfg(test)]
#[path = "replica_store_tests.rs"]
mod tests;
