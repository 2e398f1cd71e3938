//! The few things that every store does with the file system.
//!
//! Opening never hangs on a pipe; replacing a file is a temporary file and a rename, so that a reader
//! sees the old one or the new one whole. Temporary files have hidden names and are left behind only
//! by a process that was killed.

use super::error::{self, StoreError};
use rustix::fs::{FallocateFlags, OFlags};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::SystemTime;
use tempfile::NamedTempFile;

/// How the name of a temporary file begins and ends.
const TEMPORARY: (&str, &str) = (".shoal-", ".tmp");

/// What a file must still look like to be the one that was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok() }
    }

    /// Looks at an open file.
    pub(super) fn read(file: &File, path: &Path) -> Result<Self, StoreError> {
        file.metadata().map(|metadata| Self::of(&metadata)).map_err(error::io("look at", path))
    }

    /// Refuses a file that no longer looks like this.
    pub(super) fn check(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        match Self::read(file, path)? == *self {
            true => Ok(()),
            false => Err(StoreError::Changed(path.to_owned())),
        }
    }
}

/// What must still be found under a name for it to be the file that was seen there: the same file, not only
/// one of the same size and time. The time of its last change of any sort tells also of bytes that were
/// overwritten and whose time was put back, since nobody can set it. New rights and new links alter it, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    stamp: Stamp,
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            stamp: Stamp::of(metadata),
            device: metadata.dev(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the bytes were last written to before that time.
    pub(super) fn written_before(&self, time: SystemTime) -> bool {
        self.stamp.modified.is_some_and(|modified| modified < time)
    }

    /// Whether this is the file that was `before`, under another name: a move is a change of its own sort.
    pub(super) fn is_moved(&self, before: &Self) -> bool {
        Self { changed: before.changed, ..*self } == *before
    }

    /// Refuses an open file that is another one, or no longer looks like this.
    pub(super) fn check(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        match Self::of(&file.metadata().map_err(error::io("look at", path))?) == *self {
            true => Ok(()),
            false => Err(StoreError::Changed(path.to_owned())),
        }
    }
}

/// Opens a regular file for reading; anything else is [`StoreError::NotAFile`].
pub(super) fn open_regular(path: &Path) -> Result<(File, Stamp), StoreError> {
    // Looked at first because to open a device can have an effect.
    let metadata = fs::metadata(path).map_err(error::io("open", path))?;
    if !metadata.is_file() {
        return Err(StoreError::NotAFile(path.to_owned()));
    }
    open_as_file(OpenOptions::new().read(true), OFlags::empty(), path)
}

/// Opens, without waiting for the other end of what turns out to be a pipe, and refuses what is no file.
pub(super) fn open_as_file(
    options: &mut OpenOptions,
    flags: OFlags,
    path: &Path,
) -> Result<(File, Stamp), StoreError> {
    let flags = flags | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path).map_err(error::io("open", path))?;
    let metadata = file.metadata().map_err(error::io("look at", path))?;
    if !metadata.is_file() {
        return Err(StoreError::NotAFile(path.to_owned()));
    }
    rustix::fs::fcntl_getfl(&file)
        .and_then(|flags| rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK))
        .map_err(|errno| error::io("open", path)(errno.into()))?;
    Ok((file, Stamp::of(&metadata)))
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Bytes that this user may still write below a folder; `None` where the file system does not say.
pub(super) fn free_space(folder: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok().filter(|space| space.f_blocks > 0)?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// The same, less a share of the whole disk that is to stay free.
pub(super) fn free_space_after_reserve(folder: &Path, percent: u64) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok().filter(|space| space.f_blocks > 0)?;
    let kept = space.f_blocks / 100 * percent;
    Some(space.f_bavail.saturating_sub(kept).saturating_mul(space.f_frsize))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    match synced {
        // Some file systems cannot sync a folder, and need not.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced.map_err(error::io("sync the folder", folder)),
    }
}

/// Locks a folder for as long as the value lives, so that two programs do not take the same one for theirs.
/// `None` where the file system has no locks.
///
/// # Errors
/// [`StoreError::Busy`] when another program has it, or it cannot be opened.
pub(super) fn lock_folder(folder: &Path) -> Result<Option<File>, StoreError> {
    let handle = File::open(folder).map_err(error::io("open", folder))?;
    match handle.try_lock() {
        Ok(()) => Ok(Some(handle)),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Busy(folder.to_owned())),
        Err(fs::TryLockError::Error(error)) => {
            log::debug!("{} cannot be locked: {error}", folder.display());
            Ok(None)
        }
    }
}

/// Whether all bytes are 0.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| *piece == ZEROS[..piece.len()])
}

/// Makes a range of a file zeros that take up no room. Returns whether the file system can.
pub(super) fn punch_hole(file: &File, offset: u64, length: usize) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    length > 0 && rustix::fs::fallocate(file, flags, offset, length as u64).is_ok()
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).map_err(error::io("remove", path)),
    }
}

/// Whether a file of that name is a temporary one of ours: left behind, when no other process has the folder.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(TEMPORARY.0.as_bytes()) && name.ends_with(TEMPORARY.1.as_bytes())
}

/// A temporary file beside `path` with these bytes in it and the rights of an ordinary new file.
pub(super) fn temporary(path: &Path, bytes: &[u8], durable: bool) -> Result<NamedTempFile, StoreError> {
    temporary_for(path, bytes, durable, 0o666)
}

/// The same with other rights, less those that the umask takes away.
pub(super) fn temporary_for(
    path: &Path,
    bytes: &[u8],
    durable: bool,
    mode: u32,
) -> Result<NamedTempFile, StoreError> {
    let folder = folder_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(TEMPORARY.0)
        .suffix(TEMPORARY.1)
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(folder)
        .map_err(|error| {
            // tempfile wraps the system's error together with its own path; ours is said already.
            let source = error.raw_os_error().map_or(error, io::Error::from_raw_os_error);
            error::write("create a file in", folder, bytes.len() as u64)(source)
        })?;
    file.write_all(bytes)
        .and_then(|()| if durable { file.as_file().sync_all() } else { Ok(()) })
        .map_err(error::write("write", path, bytes.len() as u64))?;
    Ok(file)
}

/// Puts a temporary file in the place of `path`, whatever is there.
pub(super) fn replace(path: &Path, temporary: NamedTempFile) -> Result<File, StoreError> {
    temporary.persist(path).map_err(|error| error::io("replace", path)(error.error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn only_regular_files_are_opened_and_a_pipe_does_not_hang() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_bits_truncate(0o600), 0).unwrap();
        for path in [&pipe, folder.path(), Path::new("/dev/null")] {
            assert!(matches!(open_regular(path), Err(StoreError::NotAFile(_))), "{path:?}");
            let again = open_as_file(OpenOptions::new().read(true), OFlags::empty(), path);
            assert!(matches!(again, Err(StoreError::NotAFile(_))), "{path:?}");
        }
        let missing = open_regular(&folder.path().join("missing")).unwrap_err().to_string();
        assert!(missing.starts_with("cannot open ") && missing.contains("/missing: "), "{missing}");
    }

    #[test]
    fn a_hole_reads_as_zeros_and_takes_no_room() {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file.as_file().write_all_at(&[7; 8192], 0).unwrap();
        assert!(is_zero(&[]) && is_zero(&[0; 5000]) && !is_zero(&[[0; 5000], [1; 5000]].concat()));
        // Where the file system cannot, zeros are written.
        if punch_hole(file.as_file(), 0, 8192) {
            assert!(is_zero(&fs::read(file.path()).unwrap()));
            assert_eq!(file.as_file().metadata().unwrap().blocks(), 0);
        }
    }

    #[test]
    fn a_file_is_left_in_blocking_mode() {
        let file = NamedTempFile::new().unwrap();
        let (file, _) = open_regular(file.path()).unwrap();
        assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_bare_name_is_in_the_working_directory() {
        assert_eq!(folder_of(Path::new("name")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/name")), Path::new("a"));
        let (all, less) = (free_space(Path::new(".")), free_space_after_reserve(Path::new("."), 5));
        assert!(less.is_some() && less < all && free_space_after_reserve(Path::new("."), 100) == Some(0));
    }

    #[test]
    fn a_temporary_file_is_hidden_and_has_ordinary_rights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let temporary = temporary(&path, b"new", true).unwrap();
        let name = temporary.path().file_name().unwrap();
        assert!(name.to_str().unwrap().starts_with('.') && is_temporary(name));
        assert!(!is_temporary(OsStr::new(".shoal-notes")) && !is_temporary(OsStr::new("7")));
        fs::write(&path, "old").unwrap();
        let ordinary = fs::metadata(&path).unwrap().permissions().mode();
        replace(&path, temporary).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode(), ordinary);
        assert!(remove(&path).unwrap() && !remove(&path).unwrap());
    }
}
