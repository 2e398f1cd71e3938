//! Staging folder of a tree: the hidden folder `.NAME.part` beside the target.
//!
//! It has the files `resume` (the resume file), `index` and, during a replacement, `journal`, and the folder `tree`, which
//! is renamed to the target. Only this user has access to it. Invariant: an existing folder is used only if it has a resume
//! file of the wanted part of the tree; every other folder of that name is left alone, and the staging folder is named
//! `.NAME.2.part` and so on.

use crate::content::{Bitfield, FileId};
use crate::storage::disk;
use crate::storage::error::{self, StoreError};
use crate::storage::part::names::{PART, path_refers_to};
use crate::storage::resume_file::{self, Found, Owner, ResumeMaps, Turns};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Name of the resume file.
pub(in crate::storage) const RESUME: &str = "resume";
/// Name of the staged index.
const INDEX: &str = "index";
/// Name of the journal of a replacement.
pub(in crate::storage) const JOURNAL: &str = "journal";
/// Name of the staged tree.
const TREE: &str = "tree";
/// Names that are tried before the download is refused.
const NAMES_MAX: u32 = 32;

/// An open, locked staging folder.
pub(super) struct Staging {
    path: PathBuf,
    folder: File,
    inode: u64,
    boot: Option<String>,
    part: FileId,
    count: u32,
}

/// A staging folder and what its resume file lists.
pub(super) struct OpenedStaging {
    pub staging: Staging,
    pub maps: ResumeMaps,
    pub turns: Turns,
    /// Only hashing the staged files can find their chunks.
    pub is_unlisted: bool,
}

enum Candidate {
    Free,
    Taken,
    Own(Box<OpenedStaging>),
}

impl Staging {
    /// Opens and locks the staging folder of an earlier run, or creates one.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if another process downloads the same part of the tree to the same target, or an I/O error.
    pub fn open(target: &Path, part: FileId, count: u32) -> Result<OpenedStaging, StoreError> {
        let name = target.file_name().ok_or_else(|| StoreError::NotAFile(target.to_owned()))?;
        let folder = disk::folder_of(target);
        let boot = resume_file::boot_id();
        let mut free = None;
        for number in 1..=NAMES_MAX {
            let path = folder.join(folder_name(name, part, number, disk::name_bytes_max(folder)));
            match look_at(&path, part, count, boot.clone())? {
                Candidate::Own(opened) => return Ok(*opened),
                Candidate::Free if free.is_none() => free = Some(path),
                Candidate::Free | Candidate::Taken => {}
            }
        }
        let Some(path) = free else {
            let reason = format!("{NAMES_MAX} other files have its names");
            return Err(error::invalid_input("create a staging folder for", target, reason));
        };
        create(path, part, count, boot)
    }

    /// The staging folder of an earlier run, if there is one that no other process uses.
    pub fn find(target: &Path, part: FileId, count: u32) -> Option<Self> {
        let (name, folder) = (target.file_name()?, disk::folder_of(target));
        let name_bytes_max = disk::name_bytes_max(folder);
        (1..=NAMES_MAX).find_map(|number| {
            let path = folder.join(folder_name(name, part, number, name_bytes_max));
            match look_at(&path, part, count, resume_file::boot_id()) {
                Ok(Candidate::Own(opened)) => Some(opened.staging),
                _ => None,
            }
        })
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open folder.
    pub fn folder(&self) -> &File {
        &self.folder
    }

    /// Path of the resume file.
    pub fn resume(&self) -> PathBuf {
        self.path.join(RESUME)
    }

    /// Path of the journal.
    pub fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// Path of the staged tree.
    pub fn tree_path(&self) -> PathBuf {
        self.path.join(TREE)
    }

    /// Owner of the resume file.
    pub fn owner(&self) -> Owner<'_> {
        Owner { id: self.part, count: self.count, inode: self.inode, boot: self.boot.as_deref() }
    }

    /// Whether the folder is still at its path.
    pub fn is_here(&self) -> Result<bool, StoreError> {
        path_refers_to(&self.folder, &self.path)
    }

    /// Opens the file of the index with its size.
    pub fn open_index(&self, bytes: u64) -> Result<File, StoreError> {
        let path = self.path.join(INDEX);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::openat(&self.folder, INDEX, flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(opened.map_err(|errno| error::write("create", &path, bytes)(errno.into()))?);
        let metadata = file.metadata().map_err(error::io("read the metadata of", &path))?;
        if !metadata.is_file() || metadata.nlink() != 1 {
            return Err(StoreError::NotAFile(path));
        }
        if metadata.len() != bytes {
            file.set_len(bytes).map_err(error::write("set the size of", &path, bytes))?;
        }
        Ok(file)
    }

    /// Opens the folder of the staged tree, and creates it if need be. Returns whether it is new.
    pub fn open_tree(&self) -> Result<(OwnedFd, bool), StoreError> {
        let path = self.tree_path();
        let error = |errno: Errno| error::write("create the folder", &path, 0)(errno.into());
        let is_new = match rustix::fs::mkdirat(&self.folder, TREE, Mode::RWXU) {
            Err(Errno::EXIST) => false,
            created => created.map(|()| true).map_err(error)?,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let tree = rustix::fs::openat(&self.folder, TREE, flags, Mode::empty()).map_err(error)?;
        Ok((tree, is_new))
    }

    /// Renames the staged tree to `target`. With `exchange` it takes the place of an existing file, which is removed.
    pub fn publish(&self, target: &Path, exchange: bool) -> Result<(), StoreError> {
        let rename = |flags| rustix::fs::renameat_with(&self.folder, TREE, CWD, target, flags);
        let renamed = match exchange {
            true => rename(RenameFlags::EXCHANGE),
            false => match rename(RenameFlags::NOREPLACE) {
                // Not supported by this kernel or file system: check and rename, which is not atomic.
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match target.symlink_metadata() {
                    Ok(_) => Err(Errno::EXIST),
                    Err(_) => rename(RenameFlags::empty()),
                },
                renamed => renamed,
            },
        };
        match renamed {
            Err(Errno::EXIST) => return Err(StoreError::Exists(target.to_owned())),
            renamed => {
                renamed.map_err(|errno| error::io("rename the complete folder to", target)(errno.into()))?
            }
        }
        if exchange && let Err(errno) = rustix::fs::unlinkat(&self.folder, TREE, AtFlags::empty()) {
            log::warn!("cannot remove the file that was replaced, {}: {errno}", self.tree_path().display());
        }
        Ok(())
    }

    /// Removes the folder with its content.
    pub fn remove(&self) -> Result<(), StoreError> {
        match self.is_here()? {
            true => remove_folder(&self.path),
            false => Ok(()),
        }
    }
}

/// Removes a staging folder with its content, also directories that their modes protect.
pub(in crate::storage) fn remove_folder(path: &Path) -> Result<(), StoreError> {
    let removed = std::fs::remove_dir_all(path);
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            make_accessible(path, 0);
            std::fs::remove_dir_all(path).map_err(error::io("remove", path))
        }
        removed => removed.map_err(error::io("remove", path)),
    }
}

/// Lets this user read and write the directories below a path. Links are not followed.
fn make_accessible(path: &Path, depth: usize) {
    use std::os::unix::fs::PermissionsExt as _;
    let is_directory = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if !is_directory || depth > crate::content::limits::TREE_LEVELS_MAX + 1 {
        return;
    }
    let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_accessible(&entry.path(), depth + 1);
        }
    }
}

/// The name that is tried as number `number`, from 1. A name that is too long for the file system is cut and gets the
/// first digits of the id.
fn folder_name(name: &OsStr, part: FileId, number: u32, name_bytes_max: usize) -> OsString {
    let ending = if number == 1 { PART.to_owned() } else { format!(".{number}{PART}") };
    let name = name.as_bytes();
    let excess = (1 + name.len() + ending.len()).saturating_sub(name_bytes_max);
    let kept = match excess {
        0 => name.to_vec(),
        _ => {
            let digits = format!(".{}", part.short());
            let kept = name.len().saturating_sub(excess + digits.len());
            [&name[..kept], digits.as_bytes()].concat()
        }
    };
    OsString::from_vec([b".", &kept[..], ending.as_bytes()].concat())
}

/// Opens and locks a staging folder.
///
/// # Errors
/// The reason why it cannot be used: it is locked, not a folder, or another user's.
pub(in crate::storage) fn open_locked(path: &Path) -> Result<File, String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| errno.to_string())?);
    let metadata = folder.metadata().map_err(|error| error.to_string())?;
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
        return Err("other users can have written to it".to_owned());
    }
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(TryLockError::WouldBlock) => Err("a program is downloading it".to_owned()),
        Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => Ok(folder),
        Err(TryLockError::Error(error)) => Err(format!("its lock cannot be read: {error}")),
    }
}

fn look_at(path: &Path, part: FileId, count: u32, boot: Option<String>) -> Result<Candidate, StoreError> {
    let Ok(found) = path.symlink_metadata() else { return Ok(Candidate::Free) };
    if !found.is_dir() {
        return Ok(Candidate::Taken);
    }
    let inode = found.ino();
    let read =
        || resume_file::read(&path.join(RESUME), Owner { id: part, count, inode, boot: boot.as_deref() });
    let folder = match open_locked(path) {
        Ok(folder) => folder,
        Err(_) => {
            return match read() {
                Found::Usable(..) => Err(StoreError::Busy(path.to_owned())),
                _ => Ok(Candidate::Taken),
            };
        }
    };
    if !path_refers_to(&folder, path)? {
        return Ok(Candidate::Free);
    }
    let (maps, turns, is_unlisted) = match read() {
        Found::Absent | Found::OtherFile => return Ok(Candidate::Taken),
        Found::Usable(maps, turns) => (maps, turns, false),
        Found::Unusable => (
            ResumeMaps { durable: Bitfield::none(count), written: Bitfield::none(count) },
            Turns::default(),
            true,
        ),
    };
    let staging = Staging { path: path.to_owned(), folder, inode, boot, part, count };
    Ok(Candidate::Own(Box::new(OpenedStaging { staging, maps, turns, is_unlisted })))
}

/// Creates a staging folder. It gets its name when it is locked and has its resume file.
fn create(
    path: PathBuf,
    part: FileId,
    count: u32,
    boot: Option<String>,
) -> Result<OpenedStaging, StoreError> {
    let beside = disk::folder_of(&path).to_owned();
    let temporary = tempfile::Builder::new()
        .prefix(".shoal-")
        .suffix(".tmp")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .tempdir_in(&beside)
        .map_err(|error| {
            let source = error.raw_os_error().map_or(error, std::io::Error::from_raw_os_error);
            error::write("create a folder in", &beside, 0)(source)
        })?;
    let folder = open_locked(temporary.path()).map_err(|why| error::invalid_input("lock", &path, why))?;
    let inode = folder.metadata().map_err(error::io("read the metadata of", &path))?.ino();
    let owner = Owner { id: part, count, inode, boot: boot.as_deref() };
    resume_file::create(&temporary.path().join(RESUME), owner)?;
    let renamed = rustix::fs::renameat_with(CWD, temporary.path(), CWD, &path, RenameFlags::NOREPLACE);
    let renamed = match renamed {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => rustix::fs::rename(temporary.path(), &path),
        renamed => renamed,
    };
    match renamed {
        Ok(()) => _ = temporary.keep(),
        // Another process has created one.
        Err(Errno::EXIST | Errno::NOTEMPTY) => return Err(StoreError::Busy(path)),
        Err(errno) => return Err(error::io("create", &path)(errno.into())),
    }
    let staging = Staging { path, folder, inode, boot, part, count };
    let maps = ResumeMaps { durable: Bitfield::none(count), written: Bitfield::none(count) };
    Ok(OpenedStaging { staging, maps, turns: Turns::default(), is_unlisted: false })
}

/// Whether the file system below a folder takes different names for one: names that differ in case, or in the
/// normalisation of a letter with an accent.
pub(super) fn merges_names(folder: &OwnedFd) -> bool {
    const NAMES: [(&str, &str); 2] =
        [(".shoal-probe-a", ".shoal-probe-A"), (".shoal-\u{e9}", ".shoal-e\u{301}")];
    NAMES.iter().any(|(one, other)| {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_created = rustix::fs::openat(folder, *one, flags, Mode::RUSR).is_ok();
        let is_found = rustix::fs::statat(folder, *other, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let _ = rustix::fs::unlinkat(folder, *one, AtFlags::empty());
        is_created && is_found
    })
}
