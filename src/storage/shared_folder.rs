//! Shared folder: a plain folder whose files and sub-folders are all offered for download, each as one item.
//!
//! [`rescan`](SharedFolder::rescan) compares the folder with the known files and returns the
//! changes and the files to hash. [`hash`](SharedFolder::hash) hashes one file and shares it.
//! [`adopt`](SharedFolder::adopt) shares a finished download without hashing it, and
//! [`delete`](SharedFolder::delete) removes a file that has enough replicas elsewhere. The module
//! never writes into a file and does not decide when to scan. Queries never wait for a scan, and no
//! file is kept open. Invariant: a file is shared only after all of it was hashed while it did not
//! change, and its chunks are served only while exactly that file is in place, also between two
//! scans.

mod item;
mod removal;

pub(super) use item::ItemState;
pub use item::SharedContent;
pub use removal::Deletion;

use item::Unshared;

use super::ChunkSource as _;
use super::complete_file::CompleteFile;
use super::disk;
use super::error::{self, StoreError};
use super::folder_scan::{self, Scan};
use super::tree::ScanOptions;
use crate::content::{ChunkIndex, DurableStamp, FileId, FileName, Manifest, limits, names};
use crate::sync::lock;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

/// A shared file or sub-folder.
#[derive(Debug, Clone)]
pub struct SharedFile {
    /// Its name in the folder.
    pub name: FileName,
    /// Source of its chunks.
    pub file: Arc<SharedContent>,
    /// Its id; items of equal content have the same id.
    pub id: FileId,
    /// Size, bytes; of a folder with its index and without holes.
    pub size: u64,
    /// Number of chunks.
    pub chunks: u32,
}

/// A change of the folder. A modified file is first `Removed`, then `Added` after it has been
/// hashed.
#[derive(Debug, Clone)]
pub enum FolderChange {
    /// The file is shared from now on.
    Added(SharedFile),
    /// The file is no longer shared under this name. Another name may have the same content, see
    /// [`by_id`](SharedFolder::by_id).
    Removed {
        /// Its former name.
        name: FileName,
        /// Its id.
        id: FileId,
        /// Its stamp, if its bytes were found to differ from the id although its metadata is unchanged.
        corrupt: Option<DurableStamp>,
    },
    /// The file is not shared. Reported once for each name and reason, as long as the name is
    /// skipped.
    Skipped {
        /// The name, with replacement characters where it is not UTF-8.
        name: String,
        /// The reason.
        why: String,
    },
}

/// Result of a scan of the folder.
#[derive(Debug, Clone, Default)]
pub struct FolderDiff {
    /// Changes since the previous scan; never [`FolderChange::Added`].
    pub changes: Vec<FolderChange>,
    /// All files ready to be hashed, in order, including those of earlier scans that have not been
    /// hashed yet. Replaces the earlier list.
    pub to_hash: Vec<FileName>,
    /// Number of new or modified files that need another scan before they can be hashed.
    pub unsettled: usize,
}

/// A folder whose files are shared.
pub struct SharedFolder {
    folder: PathBuf,
    state: Mutex<State>,
    /// Held during a scan and its comparison, so that no file is added in between and then missed
    /// in the older scan. The state is not locked while the folder is read.
    comparing: Mutex<()>,
    /// Whether the items of the sub-folder `shareable_files` are shared, too.
    shares_nested: bool,
    /// How sub-folders are scanned.
    options: ScanOptions,
    /// The folder's lock, against other processes.
    _lock: Option<File>,
}

#[derive(Default)]
struct State {
    shared: BTreeMap<FileName, (SharedFile, ItemState)>,
    /// The shared names of each file id.
    names: HashMap<FileId, BTreeSet<FileName>>,
    /// The files of the last scan that are not shared.
    candidates: BTreeMap<FileName, Candidate>,
    /// Names of the files of the last scan that are in the sub-folder `shareable_files`.
    nested: BTreeSet<FileName>,
    /// The reasons already reported for names that the last scan skipped.
    reported: BTreeMap<OsString, BTreeSet<String>>,
    scanned: bool,
}

/// A file that is not shared yet.
struct Candidate {
    identity: ItemState,
    readiness: Readiness,
    /// Number of failed attempts to hash this state of the file.
    failures: u32,
}

enum Readiness {
    /// Found by one scan; another program may still be writing to it.
    Seen,
    /// Unchanged for long enough to be hashed.
    Settled,
    /// Could not be hashed; hashed again at `retry`, or after the file changes.
    Unusable { why: String, retry: Instant },
}

impl SharedFolder {
    /// Opens a readable folder and locks it. Nothing is scanned or hashed yet.
    ///
    /// # Errors
    /// The folder does not exist, is no folder, or is not readable.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        fs::read_dir(folder).map_err(error::io("read", folder))?;
        let lock = disk::lock_folder(folder)?;
        let (state, comparing) = (Mutex::default(), Mutex::default());
        Ok(Self {
            folder: folder.to_owned(),
            state,
            comparing,
            shares_nested: false,
            options: ScanOptions::default(),
            _lock: lock,
        })
    }

    /// Also shares the files of the sub-folder `shareable_files`, under their own names.
    pub fn with_shareable_files(self) -> Self {
        Self { shares_nested: true, ..self }
    }

    /// Leaves a file out of the sub-folders: the log of this program.
    pub fn without(self, log_file: &Path) -> Self {
        let options = ScanOptions { omitted: Some(log_file.to_owned()), ..self.options };
        Self { options, ..self }
    }

    /// Path of a file found by the last scan.
    pub fn path_of(&self, name: &FileName) -> PathBuf {
        match lock(&self.state).nested.contains(name) {
            true => self.folder.join(folder_scan::SHAREABLE_FOLDER).join(name.as_str()),
            false => self.folder.join(name.as_str()),
        }
    }

    /// Size of an item in the folder, bytes; 0 if it is not there. Of a folder, as the last scan found it.
    pub fn size_of(&self, name: &FileName) -> u64 {
        let state = lock(&self.state);
        let candidate = state.candidates.get(name).map(|candidate| candidate.identity);
        let found = candidate.or_else(|| state.shared.get(name).map(|(_, found)| *found));
        drop(state);
        match found {
            Some(ItemState::Folder(tree)) => tree.bytes(),
            _ => self.path_of(name).metadata().map_or(0, |metadata| metadata.len()),
        }
    }

    /// The sub-folder `shareable_files`, if there is one and its items are shared.
    fn shareable_files(&self) -> Option<PathBuf> {
        let below = self.folder.join(folder_scan::SHAREABLE_FOLDER);
        // A link would leave the folder.
        let is_folder = || fs::symlink_metadata(&below).is_ok_and(|metadata| metadata.is_dir());
        (self.shares_nested && is_folder()).then_some(below)
    }

    /// The folder for downloads: the sub-folder `shareable_files` if there is one and its items are shared, otherwise the
    /// folder itself.
    pub fn download_folder(&self) -> PathBuf {
        self.shareable_files().unwrap_or_else(|| self.folder.clone())
    }

    /// The path of an item of this name, scanned or not; `None` if there is none.
    pub fn find(&self, name: &FileName) -> Option<PathBuf> {
        let folders = [Some(self.folder.clone()), self.shareable_files()];
        let paths = folders.into_iter().flatten().map(|folder| folder.join(name.as_str()));
        paths.into_iter().find(|path| path.exists())
    }

    /// The folder, as passed to [`open`](Self::open).
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Number of visible files and sub-folders in the folder, hashed or not; 0 if it cannot be read.
    pub fn count_files(&self) -> usize {
        let nested = self.shares_nested.then(|| self.folder.join(folder_scan::SHAREABLE_FOLDER));
        let entries = [Some(self.folder.clone()), nested].into_iter().flatten().map(std::fs::read_dir);
        let entries = entries.flatten().flatten().flatten();
        let is_shared = |entry: &std::fs::DirEntry| {
            let name = entry.file_name();
            let is_item =
                |path: PathBuf| path.is_file() || path.is_dir() && name != folder_scan::SHAREABLE_FOLDER;
            !name.as_encoded_bytes().starts_with(b".") && is_item(entry.path())
        };
        entries.filter(is_shared).count()
    }

    /// The name of a file in this folder, given by any path to it; `None` if it is elsewhere or does not exist.
    pub fn name_of(&self, path: &Path) -> Option<FileName> {
        let path = fs::canonicalize(path).ok()?;
        let folder = fs::canonicalize(&self.folder).ok()?;
        let name = path.file_name()?.to_str()?;
        (path.parent() == Some(folder.as_path())).then(|| FileName::new(name).ok()).flatten()
    }

    /// Scans the folder: reads the metadata of its files and opens none. The caller decides on the
    /// interval.
    ///
    /// Files that were removed or modified are no longer shared at once. New and modified files are
    /// ready to be hashed when two scans in a row find them unchanged, because another program may
    /// still be writing to them. At the first scan, files not modified for [`limits::FILE_SETTLED_MIN`]
    /// are ready, too.
    ///
    /// Hidden files and folders are ignored; our own unfinished files are hidden. A folder is one item, except
    /// `shareable_files`, whose entries are items if [wanted](Self::with_shareable_files). Skipped with a
    /// reason: other types, links to folders, links to a target outside the folder or to a hidden
    /// one, unfinished downloads of other programs (`*.part`), and names that are no [`FileName`].
    ///
    /// # Errors
    /// The folder cannot be read; the known files are kept.
    pub fn rescan(&self) -> Result<FolderDiff, StoreError> {
        self.rescan_at(Instant::now())
    }

    fn rescan_at(&self, now: Instant) -> Result<FolderDiff, StoreError> {
        let _comparing = lock(&self.comparing);
        let scan = folder_scan::scan(&self.folder, self.shares_nested, &self.options)?;
        Ok(lock(&self.state).compare(scan, now))
    }

    /// Hashes a file returned by the last scan, on all cores, and shares it.
    ///
    /// `hashed` receives the number of bytes just hashed, from any thread; `stop` is polled at
    /// least every 256 KiB. Returns `None` if the file is not as the scan found it, is shared
    /// already, or changes meanwhile; the next scan deals with it. A file that cannot be read is
    /// [`FolderChange::Skipped`] and retried after it changes, which includes new permissions, and after a
    /// [pause](limits::FILE_RETRY_MIN) that doubles with each failure.
    ///
    /// # Errors
    /// [`StoreError::Stopped`], or the system has too few file handles or too little memory. The
    /// next scan returns the file again.
    pub fn hash(
        &self,
        name: &FileName,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<FolderChange>, StoreError> {
        self.hash_in_chunks(name, None, hashed, stop)
    }

    /// As [`hash`](Self::hash), with chunks of `chunk_size` bytes.
    ///
    /// # Errors
    /// As [`hash`](Self::hash).
    pub fn hash_in_chunks(
        &self,
        name: &FileName,
        chunk_size: Option<u32>,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<FolderChange>, StoreError> {
        let Some(identity) = lock(&self.state).settled(name) else { return Ok(None) };
        let published =
            item::publish(&self.path_of(name), (&identity, &self.options), chunk_size, hashed, stop);
        let mut state = lock(&self.state);
        let why = match published {
            Err(Unshared::Store(error)) if is_transient(&error) => return Err(error),
            // Meanwhile, a scan found another state, or the file was shared by `adopt`.
            _ if state.settled(name) != Some(identity) => return Ok(None),
            Ok(content) => return Ok(Some(FolderChange::Added(state.share(name, content, identity)))),
            Err(Unshared::Store(error)) if has_changed(&error) => {
                state.candidates.remove(name);
                return Ok(None);
            }
            Err(Unshared::Store(error)) => error.to_string(),
            Err(Unshared::Refused(why)) => why,
        };
        state.failed(name, identity, why.clone(), Instant::now());
        Ok(state.report_skipped(name.as_str().into(), why))
    }

    /// Shares a file that was just downloaded into the folder, without hashing it: **the caller has
    /// verified its bytes** against the manifest.
    ///
    /// Returns the changes: `Added`, preceded by `Removed` if another file was shared under the
    /// name; empty if the file is shared already.
    ///
    /// # Errors
    /// The file does not exist, cannot be opened, has another size than the manifest, or is one
    /// that [`rescan`](Self::rescan) would skip or ignore.
    pub fn adopt(&self, name: FileName, manifest: Arc<Manifest>) -> Result<Vec<FolderChange>, StoreError> {
        let is_in = |folder: &Path| folder.join(name.as_str()).symlink_metadata().is_ok();
        let below = self.shareable_files().filter(|below| !is_in(&self.folder) && is_in(below));
        let (is_nested, folder) = (below.is_some(), below.unwrap_or_else(|| self.folder.clone()));
        let path = folder.join(name.as_str());
        let invalid = |reason| error::invalid_input("share", &path, reason);
        let root = fs::canonicalize(&folder).map_err(error::io("open", &folder))?;
        let _comparing = lock(&self.comparing);
        let (name, identity) = folder_scan::classify(&root, OsStr::new(name.as_str()), &self.options)
            .map_err(invalid)?
            .ok_or_else(|| invalid("hidden, not a file, or removed".to_owned()))?;
        let ItemState::File(stamp) = identity else {
            // A downloaded folder stays offered; the scan hashes it, and it has the same id then.
            return match manifest.is_tree() {
                true => Ok(Vec::new()),
                false => Err(invalid("it is a folder".to_owned())),
            };
        };
        let complete = SharedContent::File(CompleteFile::verified(&path, manifest)?.by_path(stamp)?);
        let mut state = lock(&self.state);
        let known = state.shared.get(&name).is_some_and(|(file, seen)| {
            *seen == identity && file.id == complete.id() && !file.file.is_corrupt()
        });
        if known {
            return Ok(Vec::new());
        }
        let before = state.forget(&name, false);
        match is_nested {
            true => _ = state.nested.insert(name.clone()),
            false => _ = state.nested.remove(&name),
        }
        let added = FolderChange::Added(state.share(&name, complete, identity));
        Ok(before.into_iter().chain([added]).collect())
    }

    /// The reason why no file of this name is shared, if there is one.
    pub fn refusal(name: &FileName) -> Option<&'static str> {
        folder_scan::refusal(name.as_str())
    }

    /// All shared files, by name. A file may have changed since the last scan; its chunks are not
    /// served then.
    pub fn files(&self) -> Vec<SharedFile> {
        lock(&self.state).shared.values().map(|(file, _)| file.clone()).collect()
    }

    /// The file shared under a name.
    pub fn by_name(&self, name: &FileName) -> Option<SharedFile> {
        lock(&self.state).shared.get(name).map(|(file, _)| file.clone())
    }

    /// The stamp of a shared file when it was hashed.
    pub fn stamp(&self, name: &FileName) -> Option<DurableStamp> {
        lock(&self.state).shared.get(name).and_then(|(_, identity)| identity.durable())
    }

    /// A file with this id. If several names have it, one that is intact is preferred.
    pub fn by_id(&self, id: FileId) -> Option<SharedFile> {
        let mut files = lock(&self.state).of_id(id);
        let first = files.pop()?;
        // The disk is accessed only for several candidates, and without a lock held.
        let intact = |file: &SharedFile| file.file.stored(ChunkIndex(0)).is_ok();
        match files.is_empty() || intact(&first) {
            true => Some(first),
            false => Some(files.into_iter().find(intact).unwrap_or(first)),
        }
    }

    /// Another name in the folder that equals `name` on a system that ignores case or Unicode
    /// normalisation ([`FileName::folded`]). Names of folders and other types count, too.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn collides(&self, name: &FileName) -> Result<Option<String>, StoreError> {
        let folded = name.folded();
        let mut first = None;
        for entry in fs::read_dir(&self.folder).map_err(error::io("read", &self.folder))? {
            let other = entry.map_err(error::io("read", &self.folder))?.file_name();
            // A name that is not UTF-8 cannot exist on such a system.
            let Ok(other) = other.into_string() else { continue };
            if other != name.as_str() && names::fold(&other) == folded {
                first = Some(first.into_iter().fold(other, Ord::min));
            }
        }
        Ok(first)
    }
}

impl State {
    /// Compares the known files with a scan and updates them.
    fn compare(&mut self, scan: Scan, now: Instant) -> FolderDiff {
        let first = !std::mem::replace(&mut self.scanned, true);
        let settled_before = SystemTime::now().checked_sub(limits::FILE_SETTLED_MIN).filter(|_| first);
        let Scan { items, nested, mut skipped } = scan;
        let before = std::mem::replace(&mut self.nested, nested);
        let changed = |(name, (file, identity)): (&FileName, &(SharedFile, ItemState))| {
            let has_moved = before.contains(name) != self.nested.contains(name);
            let is_same = items.get(name) == Some(identity) && !has_moved && !file.file.is_corrupt();
            (!is_same).then(|| name.clone())
        };
        let changed: Vec<_> = self.shared.iter().filter_map(changed).collect();
        let mut diff = FolderDiff::default();
        for name in changed {
            let is_in_place = self.shared.get(&name).is_some_and(|(_, seen)| items.get(&name) == Some(seen));
            diff.changes.extend(self.forget(&name, is_in_place));
        }
        let mut before = std::mem::take(&mut self.candidates);
        for (name, identity) in items {
            if self.shared.contains_key(&name) {
                continue;
            }
            let before = before.remove(&name).filter(|candidate| candidate.identity == identity);
            let failures = before.as_ref().map_or(0, |candidate| candidate.failures);
            let readiness = match before {
                Some(Candidate { readiness: Readiness::Unusable { why, retry }, .. }) => {
                    skipped.insert(name.as_str().into(), why.clone());
                    match retry > now {
                        true => Readiness::Unusable { why, retry },
                        false => Readiness::Settled,
                    }
                }
                Some(_) => Readiness::Settled,
                None if settled_before.is_some_and(|time| identity.written_before(time)) => {
                    Readiness::Settled
                }
                None => Readiness::Seen,
            };
            match readiness {
                Readiness::Settled => diff.to_hash.push(name.clone()),
                Readiness::Seen => diff.unsettled += 1,
                Readiness::Unusable { .. } => {}
            }
            self.candidates.insert(name, Candidate { identity, readiness, failures });
        }
        self.reported.retain(|name, _| skipped.contains_key(name));
        diff.changes.extend(skipped.into_iter().filter_map(|(name, why)| self.report_skipped(name, why)));
        diff
    }

    /// Records that a file could not be hashed. The pause before the next attempt doubles with each failure.
    fn failed(&mut self, name: &FileName, identity: ItemState, why: String, now: Instant) {
        let failures = self.candidates.get(name).map_or(0, |candidate| candidate.failures);
        let pause = limits::FILE_RETRY_MIN.saturating_mul(1 << failures.min(16)).min(limits::FILE_RETRY_MAX);
        let readiness = Readiness::Unusable { why, retry: now + pause };
        self.candidates.insert(name.clone(), Candidate { identity, readiness, failures: failures + 1 });
    }

    /// Identity of a file that is ready to be hashed.
    fn settled(&self, name: &FileName) -> Option<ItemState> {
        let candidate = self.candidates.get(name)?;
        matches!(candidate.readiness, Readiness::Settled).then_some(candidate.identity)
    }

    fn share(&mut self, name: &FileName, content: SharedContent, identity: ItemState) -> SharedFile {
        let (id, size, chunks) = (content.id(), content.layout().size(), content.layout().count());
        let file = SharedFile { name: name.clone(), file: Arc::new(content), id, size, chunks };
        self.candidates.remove(name);
        self.names.entry(file.id).or_default().insert(name.clone());
        self.shared.insert(name.clone(), (file.clone(), identity));
        file
    }

    /// Removes a file. `is_in_place`: the file under this name is unmodified.
    fn forget(&mut self, name: &FileName, is_in_place: bool) -> Option<FolderChange> {
        let (SharedFile { name, id, file, .. }, identity) = self.shared.remove(name)?;
        let corrupt = if is_in_place && file.is_corrupt() { identity.durable() } else { None };
        if let Some(names) = self.names.get_mut(&id) {
            names.remove(&name);
            if names.is_empty() {
                self.names.remove(&id);
            }
        }
        Some(FolderChange::Removed { name, id, corrupt })
    }

    /// Every file with this id, in descending order of names.
    fn of_id(&self, id: FileId) -> Vec<SharedFile> {
        let names = self.names.get(&id).into_iter().flatten().rev();
        names.filter_map(|name| self.shared.get(name)).map(|(file, _)| file.clone()).collect()
    }

    /// Reports a skipped name, unless it was reported with this reason before.
    fn report_skipped(&mut self, name: OsString, why: String) -> Option<FolderChange> {
        let text = name.to_string_lossy().into_owned();
        let is_new = self.reported.entry(name).or_default().insert(why.clone());
        is_new.then_some(FolderChange::Skipped { name: text, why })
    }
}

/// Whether the error means that the file has changed since the scan.
fn has_changed(error: &StoreError) -> bool {
    match error {
        StoreError::Changed(_) | StoreError::NotAFile(_) => true,
        StoreError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Whether the error is transient and not caused by the file.
fn is_transient(error: &StoreError) -> bool {
    match error {
        StoreError::Stopped => true,
        StoreError::Io { source, .. } => {
            matches!(Errno::from_io_error(source), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "shared_folder_tests.rs"]
mod tests;
