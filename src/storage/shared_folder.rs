//! A plain folder whose regular files are all shared.
//!
//! [`rescan`](SharedFolder::rescan) compares the folder with what is known of it and says what has gone and what
//! is to be hashed; [`hash`](SharedFolder::hash) does that, one file at a time, and takes its time;
//! [`adopt`](SharedFolder::adopt) takes in what has just been downloaded, and [`delete`](SharedFolder::delete) removes
//! what need not be here any more. Nothing here writes into a file, watches or decides when to look, and nobody who asks what is shared waits while the folder is read. No file is kept
//! open. Invariant: a file is shared only after it was hashed as a whole and not written to meanwhile, and its
//! chunks are given only while exactly that file is there, also between two looks.

mod removal;

use super::complete_file::CompleteFile;
use super::disk::{self, Identity};
use super::error::{self, StoreError};
use super::folder_scan::{self, Scan};
use super::{ChunkSource as _, lock};
use crate::content::{ChunkIndex, FileId, FileName, Manifest, limits, names};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// A file that is shared.
#[derive(Debug, Clone)]
pub struct SharedFile {
    /// Its name in the folder.
    pub name: FileName,
    /// Where its chunks come from.
    pub file: Arc<CompleteFile>,
    /// What it is known by. Files of equal content have the same id.
    pub id: FileId,
    /// Bytes.
    pub size: u64,
    /// How many chunks it has.
    pub chunks: u32,
}

/// What happened to the folder. A file that has changed is removed, and added when it has been hashed.
#[derive(Debug, Clone)]
pub enum FolderChange {
    /// A file is shared from now on.
    Added(SharedFile),
    /// A file is no longer shared under this name. Another name may still have the same content:
    /// [`by_id`](SharedFolder::by_id) tells.
    Removed {
        /// The name that it had.
        name: FileName,
        /// What it was known by.
        id: FileId,
    },
    /// A file is not shared. Said once for each name and reason, as long as the name is skipped.
    Skipped {
        /// The name; where it is not UTF-8, with replacement characters.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What a look at the folder found.
#[derive(Debug, Clone, Default)]
pub struct FolderDiff {
    /// What is different from the look before; never [`FolderChange::Added`].
    pub changes: Vec<FolderChange>,
    /// Every file that is ready to be hashed, in order, also those that earlier looks named and that have
    /// not been hashed since: it replaces the earlier list.
    pub to_hash: Vec<FileName>,
    /// How many more files there are that have to be looked at once more before they can be hashed.
    pub unsettled: usize,
}

/// A folder that is shared.
pub struct SharedFolder {
    folder: PathBuf,
    state: Mutex<State>,
    /// Held while the folder is read and compared, so that nothing becomes known in between and is then
    /// missed in what was read before. The state is not locked while the folder is read.
    comparing: Mutex<()>,
    /// No other program shares the folder meanwhile.
    _lock: Option<File>,
}

#[derive(Default)]
struct State {
    shared: BTreeMap<FileName, (SharedFile, Identity)>,
    /// The names of what is shared.
    names: HashMap<FileId, BTreeSet<FileName>>,
    /// The files that the last look found and that are not shared.
    waiting: BTreeMap<FileName, Waiting>,
    /// What has been said of names that the last look still skipped.
    told: BTreeMap<OsString, BTreeSet<String>>,
    looked: bool,
}

/// A file that is not shared yet.
struct Waiting {
    identity: Identity,
    readiness: Readiness,
}

enum Readiness {
    /// Seen once: somebody may still be writing to it.
    Seen,
    /// The same for long enough to be hashed.
    Settled,
    /// Could not be hashed, and will not be before it changes.
    Unusable(String),
}

impl SharedFolder {
    /// Takes a folder that can be read. Nothing is looked at or hashed yet.
    ///
    /// # Errors
    /// It is not there, no folder, or not readable.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        fs::read_dir(folder).map_err(error::io("read", folder))?;
        let lock = disk::lock_folder(folder)?;
        let (state, comparing) = (Mutex::default(), Mutex::default());
        Ok(Self { folder: folder.to_owned(), state, comparing, _lock: lock })
    }

    /// The folder, as it was named.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Looks at the folder once: reads it and the metadata of its files, and opens none. Files that have
    /// vanished or changed are no longer shared at once. New and changed ones are to be hashed when two looks
    /// in a row find them the same, since somebody may still be writing to them; at the first look, also those
    /// that nobody wrote to for [`limits::FILE_SETTLED`]. How far apart looks are is the caller's to decide.
    ///
    /// Subfolders and hidden files, which ours are while they are not finished, are passed over. Other things
    /// that are no files, links that lead out of the folder or to something hidden, unfinished downloads of
    /// others (`*.part`) and names that are no [`FileName`] are skipped with a reason.
    ///
    /// # Errors
    /// The folder cannot be read; what is known of it stays.
    pub fn rescan(&self) -> Result<FolderDiff, StoreError> {
        let _comparing = lock(&self.comparing);
        let scan = folder_scan::scan(&self.folder)?;
        Ok(lock(&self.state).compare(scan))
    }

    /// Hashes a file that the last look named, on all cores, and shares it. `hashed` is called with byte
    /// counts as they get hashed, on any thread; `stop` is polled at least every 256 KiB. `None` when the file
    /// is not what the look saw, is shared already, or changes meanwhile: that is left for the next look. A
    /// file that cannot be read is [`FolderChange::Skipped`] and not named again before it changes, which
    /// new rights are, too.
    ///
    /// # Errors
    /// [`StoreError::Stopped`], or the system is short of files or memory. The next look names the file again.
    pub fn hash(
        &self,
        name: &FileName,
        hashed: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<FolderChange>, StoreError> {
        let Some(identity) = lock(&self.state).settled(name) else { return Ok(None) };
        let whole = CompleteFile::publish(&self.folder.join(name.as_str()), None, hashed, stop)
            .and_then(|whole| whole.by_path(identity));
        let mut state = lock(&self.state);
        let whole = match whole {
            Err(error) if is_passing(&error) => return Err(error),
            // Meanwhile a look saw something else, or the file became known by another way.
            _ if state.settled(name) != Some(identity) => return Ok(None),
            whole => whole,
        };
        match whole {
            Ok(whole) => Ok(Some(FolderChange::Added(state.share(name, whole, identity)))),
            Err(error) if is_change(&error) => {
                state.waiting.remove(name);
                Ok(None)
            }
            Err(error) => {
                let why = error.to_string();
                let waiting = Waiting { identity, readiness: Readiness::Unusable(why.clone()) };
                state.waiting.insert(name.clone(), waiting);
                Ok(state.tell(name.as_str().into(), why))
            }
        }
    }

    /// Shares a file that has just been downloaded into the folder, without hashing it: **the caller has
    /// verified its bytes** against the manifest. Returns what is different now: the file was added, after
    /// what was shared under its name before, if anything, was removed; nothing if it is known already.
    ///
    /// # Errors
    /// The file is not there, cannot be opened, has another size than the manifest says, or is one that
    /// [`rescan`](Self::rescan) would skip or pass over.
    pub fn adopt(&self, name: FileName, manifest: Arc<Manifest>) -> Result<Vec<FolderChange>, StoreError> {
        let path = self.folder.join(name.as_str());
        let refused = |why| error::invalid_input("share", &path, why);
        let root = fs::canonicalize(&self.folder).map_err(error::io("open", &self.folder))?;
        let _comparing = lock(&self.comparing);
        let (name, identity) = folder_scan::classify(&root, OsStr::new(name.as_str()))
            .map_err(refused)?
            .ok_or_else(|| invalid_input("it is hidden, or no file, or not there".to_owned()))?;
        let whole = CompleteFile::verified(&path, manifest)?.by_path(identity)?;
        let mut state = lock(&self.state);
        let known =
            state.shared.get(&name).is_some_and(|(file, seen)| *seen == identity && file.id == whole.id());
        if known {
            return Ok(Vec::new());
        }
        let before = state.forget(&name);
        let added = FolderChange::Added(state.share(&name, whole, identity));
        Ok(before.into_iter().chain([added]).collect())
    }

    /// Everything that is shared, by name. Some of it may have changed since the last look; its chunks are
    /// not given then.
    pub fn files(&self) -> Vec<SharedFile> {
        lock(&self.state).shared.values().map(|(file, _)| file.clone()).collect()
    }

    /// The file that is shared under a name.
    pub fn by_name(&self, name: &FileName) -> Option<SharedFile> {
        lock(&self.state).shared.get(name).map(|(file, _)| file.clone())
    }

    /// A file of that id; where several names have it, one that is as it was hashed, if there is one.
    pub fn by_id(&self, id: FileId) -> Option<SharedFile> {
        let mut files = lock(&self.state).of_id(id);
        let first = files.pop()?;
        // Only with several the disk is asked, and not while anything is locked.
        let intact = |file: &SharedFile| file.file.stored(ChunkIndex(0)).is_ok();
        match files.is_empty() || intact(&first) {
            true => Some(first),
            false => Some(files.into_iter().find(intact).unwrap_or(first)),
        }
    }

    /// A name in the folder, be it of a file or of anything else, that is not `name` but would be the same on
    /// a system that tells neither case nor Unicode normalisation apart ([`FileName::folded`]).
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn collides(&self, name: &FileName) -> Result<Option<String>, StoreError> {
        let folded = name.folded();
        let mut first = None;
        for entry in fs::read_dir(&self.folder).map_err(error::io("read", &self.folder))? {
            let other = entry.map_err(error::io("read", &self.folder))?.file_name();
            // A name that is not UTF-8 cannot be on such a system.
            let Ok(other) = other.into_string() else { continue };
            if other != name.as_str() && names::fold(&other) == folded {
                first = Some(first.into_iter().fold(other, Ord::min));
            }
        }
        Ok(first)
    }
}

impl State {
    /// Compares what is known with what was found.
    fn compare(&mut self, scan: Scan) -> FolderDiff {
        let first = !std::mem::replace(&mut self.looked, true);
        let long_ago = SystemTime::now().checked_sub(limits::FILE_SETTLED).filter(|_| first);
        let Scan { files, mut skipped } = scan;
        let changed = |(name, (_, identity)): (&FileName, &(_, Identity))| {
            (files.get(name) != Some(identity)).then(|| name.clone())
        };
        let changed: Vec<_> = self.shared.iter().filter_map(changed).collect();
        let mut look = FolderDiff::default();
        look.changes.extend(changed.iter().filter_map(|name| self.forget(name)));
        let mut before = std::mem::take(&mut self.waiting);
        for (name, identity) in files {
            if self.shared.contains_key(&name) {
                continue;
            }
            let readiness = match before.remove(&name).filter(|waiting| waiting.identity == identity) {
                Some(Waiting { readiness: Readiness::Unusable(why), .. }) => {
                    skipped.insert(name.as_str().into(), why.clone());
                    Readiness::Unusable(why)
                }
                Some(_) => Readiness::Settled,
                None if long_ago.is_some_and(|time| identity.written_before(time)) => Readiness::Settled,
                None => Readiness::Seen,
            };
            match readiness {
                Readiness::Settled => look.to_hash.push(name.clone()),
                Readiness::Seen => look.unsettled += 1,
                Readiness::Unusable(_) => {}
            }
            self.waiting.insert(name, Waiting { identity, readiness });
        }
        self.told.retain(|name, _| skipped.contains_key(name));
        look.changes.extend(skipped.into_iter().filter_map(|(name, why)| self.tell(name, why)));
        look
    }

    /// What a file that is ready to be hashed looked like.
    fn settled(&self, name: &FileName) -> Option<Identity> {
        let waiting = self.waiting.get(name)?;
        matches!(waiting.readiness, Readiness::Settled).then_some(waiting.identity)
    }

    fn share(&mut self, name: &FileName, whole: CompleteFile, identity: Identity) -> SharedFile {
        let (id, size, chunks) = (whole.id(), whole.layout().size(), whole.layout().count());
        let file = SharedFile { name: name.clone(), file: Arc::new(whole), id, size, chunks };
        self.waiting.remove(name);
        self.names.entry(file.id).or_default().insert(name.clone());
        self.shared.insert(name.clone(), (file.clone(), identity));
        file
    }

    fn forget(&mut self, name: &FileName) -> Option<FolderChange> {
        let (SharedFile { name, id, .. }, _) = self.shared.remove(name)?;
        if let Some(names) = self.names.get_mut(&id) {
            names.remove(&name);
            if names.is_empty() {
                self.names.remove(&id);
            }
        }
        Some(FolderChange::Removed { name, id })
    }

    /// Every file of an id, the first name last.
    fn of_id(&self, id: FileId) -> Vec<SharedFile> {
        let names = self.names.get(&id).into_iter().flatten().rev();
        names.filter_map(|name| self.shared.get(name)).map(|(file, _)| file.clone()).collect()
    }

    /// Says why a name is skipped, unless that has been said.
    fn tell(&mut self, name: OsString, why: String) -> Option<FolderChange> {
        let text = name.to_string_lossy().into_owned();
        let news = self.told.entry(name).or_default().insert(why.clone());
        news.then_some(FolderChange::Skipped { name: text, why })
    }
}

/// Whether the file is no longer the one that was seen.
fn is_change(error: &StoreError) -> bool {
    match error {
        StoreError::Changed(_) | StoreError::NotAFile(_) => true,
        StoreError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// Whether it is not the file's fault that it could not be hashed.
fn is_passing(error: &StoreError) -> bool {
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
