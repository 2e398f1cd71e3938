//! Entries of a tree in a folder on disk, reached by open directory descriptors.
//!
//! Each entry is opened by its last component from the descriptor of its parent, without following a link. Invariant: no
//! operation leaves the root, also if another program replaces a directory by a link at the same time.

use super::places::{Places, ROOT};
use super::recent::Recent;
use crate::content::tree::{Entry, EntryKind, Mtime};
use crate::storage::disk;
use crate::storage::error::{self, StoreError};
use crate::sync::lock;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Open directories that are kept.
const DIRECTORIES_MAX: usize = 64;
/// Open files that are kept.
const FILES_MAX: usize = 64;
/// Permissions of a directory or file until the tree is complete.
const PRIVATE: Mode = Mode::RWXU;
/// Access to a directory as a starting point; its permission to be read is not needed.
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Root of a tree on disk.
pub(super) struct TreeFolder {
    root: Arc<OwnedFd>,
    path: PathBuf,
    directories: Mutex<Recent<Arc<OwnedFd>>>,
    files: Mutex<Recent<Arc<File>>>,
}

/// State of an entry on disk. Two equal stamps mean the same file, unmodified in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct EntryStamp {
    pub inode: u64,
    pub size: u64,
    pub modified: (i64, u32),
    pub changed: (i64, u32),
}

impl EntryStamp {
    pub fn of(stat: &Stat) -> Self {
        Self {
            inode: stat.st_ino,
            size: stat.st_size as u64,
            modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    /// Whether this is the file `before` after a rename or new permissions, which alter only the change time.
    pub fn is_same_content(&self, before: &Self) -> bool {
        Self { changed: before.changed, ..*self } == *before
    }
}

/// Kind of an entry on disk.
pub(super) fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl TreeFolder {
    /// The tree below an open directory; `path` is used in messages.
    pub fn new(root: OwnedFd, path: PathBuf) -> Self {
        let (directories, files) = (Recent::new(DIRECTORIES_MAX), Recent::new(FILES_MAX));
        Self { root: Arc::new(root), path, directories: Mutex::new(directories), files: Mutex::new(files) }
    }

    /// Opens the tree in a directory. `path` may be a link to it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let root = rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self::new(root.map_err(|errno| error::io("open", path)(errno.into()))?, path.to_owned()))
    }

    /// Path of an entry, for messages.
    pub fn path_of(&self, places: &Places, entry: u32) -> PathBuf {
        self.path.join(OsStr::from_bytes(places.content().index().path(entry).unwrap_or_default()))
    }

    /// Converts an error that concerns an entry.
    pub fn error<'a>(
        &'a self,
        places: &'a Places,
        entry: u32,
        action: &'a str,
    ) -> impl Fn(Errno) -> StoreError + 'a {
        move |errno| error::write(action, &self.path_of(places, entry), 0)(errno.into())
    }

    /// Opens a directory of the tree.
    pub fn directory(&self, places: &Places, entry: u32) -> Result<Arc<OwnedFd>, StoreError> {
        if entry == ROOT {
            return Ok(self.root.clone());
        }
        if let Some(open) = lock(&self.directories).get(entry) {
            return Ok(open);
        }
        let parent = self.directory(places, places.parent(entry))?;
        let opened = rustix::fs::openat(&*parent, places.name(entry), DIRECTORY, Mode::empty());
        let opened = Arc::new(opened.map_err(self.error(places, entry, "open the folder"))?);
        lock(&self.directories).put(entry, opened.clone());
        Ok(opened)
    }

    /// The directory that contains an entry.
    pub fn parent(&self, places: &Places, entry: u32) -> Result<Arc<OwnedFd>, StoreError> {
        self.directory(places, places.parent(entry))
    }

    /// Metadata of an entry; `None` if it does not exist, or a directory above it does not.
    pub fn stat(&self, places: &Places, entry: u32) -> Result<Option<Stat>, StoreError> {
        let found = match entry {
            ROOT => rustix::fs::fstat(&*self.root),
            _ => match self.parent(places, entry) {
                Ok(parent) => rustix::fs::statat(&*parent, places.name(entry), AtFlags::SYMLINK_NOFOLLOW),
                Err(error) if is_absent(&error) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        match found {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some).map_err(self.error(places, entry, "read the metadata of")),
        }
    }

    /// Creates a directory; an existing one is made accessible.
    pub fn create_directory(&self, places: &Places, entry: u32) -> Result<(), StoreError> {
        let parent = self.parent(places, entry)?;
        match rustix::fs::mkdirat(&*parent, places.name(entry), PRIVATE) {
            Err(Errno::EXIST) => {
                let mode = self.stat(places, entry)?.map_or(0, |stat| stat.st_mode);
                if FileType::from_raw_mode(mode) != FileType::Directory {
                    return Err(self.error(places, entry, "create the folder")(Errno::EXIST));
                }
                match Mode::from_raw_mode(mode).contains(PRIVATE) {
                    true => Ok(()),
                    false => self.set_mode(places, entry, mode | PRIVATE.bits()),
                }
            }
            created => created.map_err(self.error(places, entry, "create the folder")),
        }
    }

    /// Writes a file as a whole, with its modification time. A file of its name is replaced.
    pub fn write_file(
        &self,
        places: &Places,
        file: &Entry,
        entry: u32,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let (parent, name) = (self.parent(places, entry)?, places.name(entry));
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(&*parent, name, flags, Mode::from_raw_mode(file.mode.into()));
        let created = match create() {
            // A file that an earlier run did not complete.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&*parent, name, AtFlags::empty()).and_then(|()| create())
            }
            created => created,
        };
        let created = File::from(created.map_err(self.error(places, entry, "create"))?);
        let written = created.write_all_at(bytes, 0).and_then(|()| {
            rustix::fs::futimens(&created, &times(file.modified))?;
            disk::close(created)
        });
        written
            .map_err(|source| error::write("write", &self.path_of(places, entry), bytes.len() as u64)(source))
    }

    /// Opens a file for writing at offsets, creates it if need be, and sets its size.
    pub fn open_for_writing(&self, places: &Places, entry: u32, size: u64) -> Result<Arc<File>, StoreError> {
        if let Some(open) = lock(&self.files).get(entry) {
            return Ok(open);
        }
        let parent = self.parent(places, entry)?;
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::openat(&*parent, places.name(entry), flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(opened.map_err(self.error(places, entry, "open"))?);
        let stat = rustix::fs::fstat(&file).map_err(self.error(places, entry, "read the metadata of"))?;
        if kind_of(&stat) != FileType::RegularFile {
            return Err(StoreError::NotAFile(self.path_of(places, entry)));
        }
        if stat.st_nlink != 1 {
            let reason = "it has a second name (hard link)".to_owned();
            return Err(error::invalid_input("write", &self.path_of(places, entry), reason));
        }
        if stat.st_size as u64 != size {
            file.set_len(size).map_err(error::write(
                "set the size of",
                &self.path_of(places, entry),
                size,
            ))?;
        }
        let file = Arc::new(file);
        lock(&self.files).put(entry, file.clone());
        Ok(file)
    }

    /// Opens a file for reading.
    pub fn open_for_reading(&self, places: &Places, entry: u32, keep: bool) -> Result<Arc<File>, StoreError> {
        if let Some(open) = lock(&self.files).get(entry) {
            return Ok(open);
        }
        let parent = self.parent(places, entry)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::openat(&*parent, places.name(entry), flags, Mode::empty());
        let file = Arc::new(File::from(opened.map_err(self.error(places, entry, "open"))?));
        if keep {
            lock(&self.files).put(entry, file.clone());
        }
        Ok(file)
    }

    /// Closes the open files. A write error that their file system reports only at close is returned.
    pub fn close_files(&self) -> Result<(), StoreError> {
        let mut files = lock(&self.files);
        let checked = files.values().iter().try_for_each(|file| disk::check_writes(file));
        files.clear();
        checked.map_err(error::io("write all data to", &self.path))
    }

    /// Forgets the open descriptors of an entry that was renamed or removed.
    pub fn forget(&self, entry: u32) {
        lock(&self.files).remove(entry);
        lock(&self.directories).remove(entry);
    }

    /// Removes a file, a link or an empty directory; nothing if it does not exist.
    pub fn remove(&self, places: &Places, entry: u32) -> Result<(), StoreError> {
        self.forget(entry);
        let (parent, name) = (self.parent(places, entry)?, places.name(entry));
        let removed = match rustix::fs::unlinkat(&*parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => rustix::fs::unlinkat(&*parent, name, AtFlags::REMOVEDIR),
            removed => removed,
        };
        match removed {
            Err(Errno::NOENT) => Ok(()),
            removed => removed.map_err(self.error(places, entry, "remove")),
        }
    }

    /// Target of a symbolic link.
    pub fn link_target(&self, places: &Places, entry: u32) -> Result<Vec<u8>, StoreError> {
        let parent = self.parent(places, entry)?;
        let target = rustix::fs::readlinkat(&*parent, places.name(entry), Vec::new());
        target.map(|target| target.into_bytes()).map_err(self.error(places, entry, "read the link"))
    }

    /// Sets the permission bits of a file or directory, never those of the target of a link.
    pub fn set_mode(&self, places: &Places, entry: u32, mode: u32) -> Result<(), StoreError> {
        use std::os::fd::AsRawFd as _;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match entry {
            ROOT => self.root.try_clone().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            _ => rustix::fs::openat(&*self.parent(places, entry)?, places.name(entry), flags, Mode::empty()),
        };
        let set = opened.and_then(|opened| {
            // fchmod does not accept a descriptor that allows no reading.
            let path = format!("/proc/self/fd/{}", opened.as_raw_fd());
            rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty())
        });
        set.map_err(self.error(places, entry, "set the permissions of"))
    }

    /// Gives an entry the owner, permissions and modification time of the tree, as far as they differ, and returns its
    /// metadata then.
    pub fn set_metadata(
        &self,
        places: &Places,
        (number, entry): (u32, &Entry),
        with_owner: bool,
    ) -> Result<Stat, StoreError> {
        let gone = || self.error(places, number, "set the metadata of")(Errno::NOENT);
        let stat = self.stat(places, number)?.ok_or_else(gone)?;
        let (is_link, mut is_changed) = (matches!(entry.kind, EntryKind::Link { .. }), false);
        if let Some((user, group)) =
            entry.owner.filter(|owner| with_owner && *owner != (stat.st_uid, stat.st_gid))
        {
            self.set_owner(places, number, user, group)?;
            is_changed = true;
        }
        let Mtime { seconds, nanoseconds } = entry.modified;
        if EntryStamp::of(&stat).modified != (seconds, nanoseconds) {
            let (directory, name) = self.named(places, number)?;
            rustix::fs::utimensat(&*directory, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(self.error(places, number, "set the modification time of"))?;
            is_changed = true;
        }
        let mode = Mode::from_raw_mode(stat.st_mode).bits();
        if !is_link && (mode != u32::from(entry.mode)) {
            self.set_mode(places, number, entry.mode.into())?;
            is_changed = true;
        }
        match is_changed {
            true => self.stat(places, number)?.ok_or_else(gone),
            false => Ok(stat),
        }
    }

    fn set_owner(&self, places: &Places, entry: u32, user: u32, group: u32) -> Result<(), StoreError> {
        use rustix::fs::{Gid, Uid};
        let (directory, name) = self.named(places, entry)?;
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::fs::chownat(&*directory, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.error(places, entry, "set the owner of"))
    }

    /// A directory and a name that stand for an entry.
    fn named<'a>(&self, places: &'a Places, entry: u32) -> Result<(Arc<OwnedFd>, &'a [u8]), StoreError> {
        match entry {
            ROOT => Ok((self.root.clone(), b".")),
            _ => Ok((self.parent(places, entry)?, places.name(entry))),
        }
    }
}

/// Times that set only the modification time.
fn times(modified: Mtime) -> Timestamps {
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let modified = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    Timestamps { last_access: omitted, last_modification: modified }
}

/// Whether a directory above an entry is missing, or is none.
pub(super) fn is_absent(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else { return false };
    matches!(Errno::from_io_error(source), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}
