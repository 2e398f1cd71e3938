//! Scan of a folder: all its entries with their metadata, and those that cannot be sent.
//!
//! The directories of one level are read together, on all cores. No file is opened except sparse ones.

use super::beneath;
use super::holes::holes_of;
use crate::content::Digest;
use crate::content::digest::Hasher;
use crate::content::limits::{TREE_ENTRIES_MAX, TREE_FILE_SIZE_MAX, TREE_SECONDS_MAX};
use crate::content::tree::{Entry, EntryKind, Mtime, TreeError, TreeIndex, TreePath};
use crate::storage::error::{self, StoreError};
use crate::storage::hashing::on_all_cores;
use crate::sync::lock;
use rustix::fs::{Access, AtFlags, Dir, FileType, OFlags, Stat, accessat, fstat, readlinkat, statat};
use std::collections::{BTreeSet, HashMap};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

/// Directories that are open at the same time.
const OPEN_DIRECTORIES_MAX: usize = 256;
/// Entries whose metadata one thread reads at a time.
const ENTRIES_AT_A_TIME: usize = 128;

/// What a scan leaves out or adds.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// Records user id and group id of each entry.
    pub has_owners: bool,
    /// A file that is left out wherever it is, such as the log of this program.
    pub omitted: Option<PathBuf>,
    /// Largest number of entries.
    pub entries_max: u32,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { has_owners: false, omitted: None, entries_max: TREE_ENTRIES_MAX }
    }
}

/// An entry that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefusedEntry {
    /// Path in the folder.
    pub path: TreePath,
    /// The cause, as a clause: "it is a FIFO".
    pub reason: String,
}

/// Identity and state of a file that its [`Entry`] does not record. The ctime reveals changes that keep size and
/// modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, u32),
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        let changed = (stat.st_ctime, stat.st_ctime_nsec as u32);
        Self { device: stat.st_dev, inode: stat.st_ino, changed }
    }

    /// Whether a file with this metadata is still the one of the stamp and the entry.
    pub(super) fn matches(&self, entry: &Entry, stat: &Stat) -> bool {
        let EntryKind::File { size, .. } = entry.kind else { return false };
        Self::of(stat) == *self && stat.st_size as u64 == size && modified(stat) == entry.modified
    }
}

/// State of a folder. Two equal states mean the same entries, unmodified in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeState {
    digest: Digest,
    /// Latest modification time of an entry, seconds since 1970.
    newest: i64,
    /// Bytes of all files, with their holes.
    bytes: u64,
}

impl TreeState {
    /// Whether all entries were last modified before `time`.
    pub(in crate::storage) fn written_before(&self, time: SystemTime) -> bool {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.newest < i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// Bytes of all files, with their holes.
    pub(in crate::storage) fn bytes(&self) -> u64 {
        self.bytes
    }
}

struct Found {
    entry: Entry,
    stamp: Stamp,
    has_other_names: bool,
}

/// The entries of a folder at the time of the scan.
pub struct TreeScan {
    pub(super) path: PathBuf,
    pub(super) root: OwnedFd,
    found: Vec<Found>,
    refused: Vec<RefusedEntry>,
    omitted: Vec<TreePath>,
    entries_max: u32,
}

impl TreeScan {
    /// Scans a folder; a symbolic link to a folder is followed, links inside are not.
    ///
    /// `found` receives the number of entries just found, from any thread; `stop` is polled.
    ///
    /// # Errors
    /// The folder cannot be opened, it has more than `entries_max` entries, or [`StoreError::Stopped`].
    pub fn new(
        path: &Path,
        options: &ScanOptions,
        found: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, StoreError> {
        let root = File::open(path).map_err(error::io("open", path))?;
        let stat = fstat(&root).map_err(|errno| error::io("read the metadata of", path)(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(StoreError::NotAFile(path.to_owned()));
        }
        let omitted = options.omitted.as_deref().and_then(|path| rustix::fs::stat(path).ok());
        let walk = Walk {
            root: root.into(),
            options,
            omitted_file: omitted.map(|stat| (stat.st_dev, stat.st_ino)),
            is_superuser: rustix::process::geteuid().is_root(),
            result: Mutex::default(),
        };
        let root_entry = walk.entry(TreePath::root(), &stat, EntryKind::Directory);
        lock(&walk.result).found.push(Found {
            entry: root_entry,
            stamp: Stamp::default(),
            has_other_names: false,
        });
        let mut level = vec![TreePath::root()];
        while !level.is_empty() {
            let mut below = Vec::new();
            for directories in level.chunks(OPEN_DIRECTORIES_MAX) {
                walk.read_directories(directories, found, stop)?;
                below.append(&mut lock(&walk.result).directories);
                if lock(&walk.result).found.len() > options.entries_max as usize {
                    return Err(TreeError::TooMany(options.entries_max).into());
                }
            }
            level = below;
        }
        Ok(walk.finish(path))
    }

    /// The entries that cannot be sent, in order.
    pub fn refused(&self) -> &[RefusedEntry] {
        &self.refused
    }

    /// The entries that were left out as [`ScanOptions::omitted`].
    pub fn omitted(&self) -> &[TreePath] {
        &self.omitted
    }

    /// Bytes of all files that can be sent, without their holes.
    pub fn content_bytes(&self) -> u64 {
        let bytes = self.found.iter().filter(|found| !found.has_other_names);
        let bytes = bytes.map(|found| found.entry.content_bytes()).sum::<u64>();
        let mut seen = BTreeSet::new();
        let linked = self.found.iter().filter(|found| found.has_other_names);
        let linked = linked.filter(|found| seen.insert((found.stamp.device, found.stamp.inode)));
        bytes + linked.map(|found| found.entry.content_bytes()).sum::<u64>()
    }

    /// The state of the folder: all entries with their metadata, sent or not.
    pub(in crate::storage) fn state(&self) -> TreeState {
        let mut hasher = Hasher::new();
        let mut number = |number: u64| hasher.update(&number.to_be_bytes());
        let (mut newest, mut bytes) = (0, 0);
        number(self.found.len() as u64);
        let refused = self.refused.iter().map(|refused| (&refused.path, refused.reason.as_bytes()));
        let links = self.found.iter().map(|found| match &found.entry.kind {
            EntryKind::Link { target } => (&found.entry.path, &target[..]),
            _ => (&found.entry.path, &b""[..]),
        });
        for Found { entry, stamp, .. } in &self.found {
            let size = match entry.kind {
                EntryKind::File { size, .. } => size,
                _ => 0,
            };
            let Mtime { seconds, nanoseconds } = entry.modified;
            newest = newest.max(seconds);
            bytes += size;
            number(seconds as u64);
            number(u64::from(nanoseconds) << 32 | u64::from(entry.mode));
            number(size);
            [stamp.device, stamp.inode, stamp.changed.0 as u64, u64::from(stamp.changed.1)]
                .into_iter()
                .for_each(&mut number);
        }
        for (path, text) in links.chain(refused) {
            hasher.update(path.bytes());
            hasher.update(&[0]);
            hasher.update(text);
            hasher.update(&[0]);
        }
        TreeState { digest: hasher.finish(), newest, bytes }
    }

    /// Leaves out further entries.
    pub(super) fn leave_out(&mut self, paths: &BTreeSet<TreePath>) {
        self.found.retain(|found| !paths.contains(&found.entry.path));
    }

    /// The index of the entries that can be sent, and the stamp of each entry.
    ///
    /// # Errors
    /// The folder is too large for an index.
    pub(super) fn index(&self) -> Result<(TreeIndex, Vec<Stamp>), TreeError> {
        let mut first_names: HashMap<(u64, u64), &Entry> = HashMap::new();
        let entries = self.found.iter().map(|found| {
            if !found.has_other_names {
                return found.entry.clone();
            }
            let inode = (found.stamp.device, found.stamp.inode);
            match first_names.get(&inode) {
                Some(first) => Entry {
                    path: found.entry.path.clone(),
                    kind: EntryKind::HardLink { to: first.path.clone() },
                    ..(*first).clone()
                },
                None => {
                    first_names.insert(inode, &found.entry);
                    found.entry.clone()
                }
            }
        });
        let index = TreeIndex::new(entries, self.entries_max)?;
        Ok((index, self.found.iter().map(|found| found.stamp).collect()))
    }
}

/// A running scan.
struct Walk<'a> {
    root: OwnedFd,
    options: &'a ScanOptions,
    /// Device and inode of the file that is left out.
    omitted_file: Option<(u64, u64)>,
    is_superuser: bool,
    result: Mutex<WalkResult>,
}

#[derive(Default)]
struct WalkResult {
    found: Vec<Found>,
    refused: Vec<RefusedEntry>,
    omitted: Vec<TreePath>,
    /// Directories of the next level.
    directories: Vec<TreePath>,
    /// Directories that cannot be read.
    unreadable: BTreeSet<TreePath>,
}

/// Directory that is being read: its path, its descriptor and the names in it.
type OpenDirectory<'a> = (&'a TreePath, OwnedFd, Vec<CString>);

impl Walk<'_> {
    fn read_directories(
        &self,
        paths: &[TreePath],
        found: &(dyn Fn(u64) + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), StoreError> {
        let open: Mutex<Vec<OpenDirectory<'_>>> = Mutex::default();
        on_all_cores(paths.len() as u32, 0, &|item, _| {
            if stop() {
                return Err(StoreError::Stopped);
            }
            let path = &paths[item as usize];
            match self.names(path) {
                Ok((directory, names)) => lock(&open).push((path, directory, names)),
                Err(error) => {
                    let mut result = lock(&self.result);
                    result.refused.push(RefusedEntry { path: path.clone(), reason: unreadable(&error) });
                    result.unreadable.insert(path.clone());
                }
            }
            Ok(true)
        })?;
        let open = std::mem::take(&mut *lock(&open));
        let groups: Vec<(&OpenDirectory<'_>, &[CString])> = open
            .iter()
            .flat_map(|directory| directory.2.chunks(ENTRIES_AT_A_TIME).map(move |names| (directory, names)))
            .collect();
        on_all_cores(groups.len() as u32, 0, &|item, _| {
            if stop() {
                return Err(StoreError::Stopped);
            }
            let ((path, directory, _), names) = groups[item as usize];
            let mut result = WalkResult::default();
            names.iter().for_each(|name| self.classify(path, directory, name, &mut result));
            found(result.found.len() as u64);
            let mut all = lock(&self.result);
            all.found.append(&mut result.found);
            all.refused.append(&mut result.refused);
            all.omitted.append(&mut result.omitted);
            all.directories.append(&mut result.directories);
            Ok(true)
        })
    }

    fn names(&self, path: &TreePath) -> io::Result<(OwnedFd, Vec<CString>)> {
        let directory = beneath::open(self.root.as_fd(), path.bytes(), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok((directory, names))
    }

    /// Adds the entry of a name to the result.
    fn classify(&self, parent: &TreePath, directory: &OwnedFd, name: &CString, result: &mut WalkResult) {
        let path = match parent.join(name.to_bytes()) {
            Ok(path) => path,
            Err(error) => {
                let reason = format!("it has the entry {:?}, and {error}", name.to_string_lossy());
                return result.refused.push(RefusedEntry { path: parent.clone(), reason });
            }
        };
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed since the directory was read.
            Err(rustix::io::Errno::NOENT) => return,
            Err(errno) => {
                return result.refused.push(RefusedEntry { path, reason: unreadable(&errno.into()) });
            }
        };
        let stamp = Stamp::of(&stat);
        if self.omitted_file == Some((stamp.device, stamp.inode)) {
            return result.omitted.push(path);
        }
        match self.kind(directory, name, &stat) {
            Ok(kind) => {
                if kind == EntryKind::Directory {
                    result.directories.push(path.clone());
                }
                let has_other_names = matches!(kind, EntryKind::File { .. }) && stat.st_nlink > 1;
                result.found.push(Found { entry: self.entry(path, &stat, kind), stamp, has_other_names });
            }
            Err(reason) => result.refused.push(RefusedEntry { path, reason }),
        }
    }

    /// The kind of an entry, or the reason why it cannot be sent.
    fn kind(&self, directory: &OwnedFd, name: &CString, stat: &Stat) -> Result<EntryKind, String> {
        let Mtime { seconds, .. } = modified(stat);
        if seconds.unsigned_abs() > TREE_SECONDS_MAX {
            return Err(format!("its modification time is out of range: {seconds} s since 1970"));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok(EntryKind::Directory),
            FileType::Symlink => {
                let target =
                    readlinkat(directory, name, Vec::new()).map_err(|errno| unreadable(&errno.into()))?;
                Ok(EntryKind::Link { target: target.into_bytes() })
            }
            FileType::RegularFile => self.regular_file(directory, name, stat),
            FileType::Fifo => Err("it is a FIFO".to_owned()),
            FileType::Socket => Err("it is a socket".to_owned()),
            FileType::CharacterDevice | FileType::BlockDevice => Err("it is a device".to_owned()),
            FileType::Unknown => Err("it is of an unknown type".to_owned()),
        }
    }

    fn regular_file(&self, directory: &OwnedFd, name: &CString, stat: &Stat) -> Result<EntryKind, String> {
        let size = stat.st_size as u64;
        if size > TREE_FILE_SIZE_MAX {
            return Err(format!("it has {size} bytes, more than {TREE_FILE_SIZE_MAX}"));
        }
        if !self.is_superuser {
            accessat(directory, name, Access::READ_OK, AtFlags::EACCESS)
                .map_err(|errno| unreadable(&errno.into()))?;
        }
        let mut holes = Vec::new();
        if (stat.st_blocks as u64).saturating_mul(512) < size {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let file = beneath::open(directory.as_fd(), name.to_bytes(), flags);
            holes = file.map(|file| holes_of(&file, size)).map_err(|error| unreadable(&error))?;
        }
        Ok(EntryKind::File { size, holes })
    }

    fn entry(&self, path: TreePath, stat: &Stat, kind: EntryKind) -> Entry {
        let owner = self.options.has_owners.then_some((stat.st_uid, stat.st_gid));
        Entry { path, mode: (stat.st_mode & 0o777) as u16, modified: modified(stat), owner, kind }
    }

    fn finish(self, path: &Path) -> TreeScan {
        let WalkResult { mut found, mut refused, omitted, unreadable, .. } =
            self.result.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        refused.sort_unstable();
        found.retain(|found| !unreadable.contains(&found.entry.path) || found.entry.path.is_root());
        found.sort_unstable_by(|one, other| one.entry.path.cmp(&other.entry.path));
        let entries_max = self.options.entries_max;
        TreeScan { path: path.to_owned(), root: self.root, found, refused, omitted, entries_max }
    }
}

fn modified(stat: &Stat) -> Mtime {
    Mtime { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 }
}

fn unreadable(error: &io::Error) -> String {
    format!("it cannot be read: {error}")
}
