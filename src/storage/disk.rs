//! File system operations shared by all stores.
//!
//! Opening a pipe never blocks. A file is replaced by an atomic rename of a temporary file, so a
//! reader sees either the old content or the new content, never a mixture. Temporary files have
//! hidden names; only a killed process leaves them behind.

use super::error::{self, StoreError};
pub(super) use super::free_space::{folder_of, free_space, free_space_after_reserve};
use crate::content::DurableStamp;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::NamedTempFile;

/// The permission bits that are passed on: neither set-uid, set-gid nor sticky.
pub(super) const PERMISSION_BITS: u32 = 0o777;
/// Prefix and suffix of temporary file names.
const TEMPORARY: (&str, &str) = (".shoal-", ".tmp");

/// Size and modification time of a file when it was hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub size: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok() }
    }

    /// Reads size and modification time of an open file. A block device has a size, and no time that
    /// tells when it was written.
    pub(super) fn read(file: &File, path: &Path) -> Result<Self, StoreError> {
        let metadata = file.metadata().map_err(error::io("read the metadata of", path))?;
        match metadata.file_type().is_block_device() {
            true => Ok(Self { size: device_size(file, path)?, modified: None }),
            false => Ok(Self::of(&metadata)),
        }
    }

    /// Fails with [`StoreError::Changed`] if size or modification time of the file differ.
    pub(crate) fn check(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        match Self::read(file, path)? == *self {
            true => Ok(()),
            false => Err(StoreError::Changed(path.to_owned())),
        }
    }
}

/// Identity of the file under a path: device, inode, size, modification time and change time
/// (ctime).
///
/// The ctime also reveals bytes overwritten by a program that restored the modification time,
/// because no program can set it. New permissions and new hard links alter it, too.
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

    /// Whether the file was last modified before `time`.
    pub(super) fn written_before(&self, time: SystemTime) -> bool {
        self.stamp.modified.is_some_and(|modified| modified < time)
    }

    /// The part of it that stays valid over a restart; `None` if the file system has no modification times.
    pub(super) fn durable(&self) -> Option<DurableStamp> {
        let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).ok();
        let modified_ns = match self.stamp.modified?.duration_since(UNIX_EPOCH) {
            Ok(since) => nanoseconds(since)?,
            Err(before) => -nanoseconds(before.duration())?,
        };
        Some(DurableStamp { size: self.stamp.size, modified_ns, inode: self.inode })
    }

    /// Whether this is the file `before` after a rename, which alters only the ctime.
    pub(super) fn is_moved(&self, before: &Self) -> bool {
        Self { changed: before.changed, ..*self } == *before
    }

    /// Fails with [`StoreError::Changed`] if the open file is another file or has changed.
    pub(super) fn check(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        match Self::of(&file.metadata().map_err(error::io("read the metadata of", path))?) == *self {
            true => Ok(()),
            false => Err(StoreError::Changed(path.to_owned())),
        }
    }
}

/// Opens a regular file for reading; everything else is [`StoreError::NotAFile`].
pub(crate) fn open_regular(path: &Path) -> Result<(File, Stamp), StoreError> {
    // Opening a device can have side effects, so check the type first.
    let metadata = fs::metadata(path).map_err(error::io("open", path))?;
    if !metadata.is_file() {
        return Err(StoreError::NotAFile(path.to_owned()));
    }
    open_as_file(OpenOptions::new().read(true), OFlags::empty(), path)
}

/// Size of an open block device, bytes.
pub(super) fn device_size(device: &File, path: &Path) -> Result<u64, StoreError> {
    // The cursor is not used: all reads and writes are at an offset.
    rustix::fs::seek(device, SeekFrom::End(0))
        .map_err(|errno| error::io("read the size of", path)(errno.into()))
}

/// Opens a regular file or a block device for reading; everything else is [`StoreError::NotAFile`].
pub(super) fn open_file_or_device(path: &Path) -> Result<(File, Stamp), StoreError> {
    let metadata = fs::metadata(path).map_err(error::io("open", path))?;
    if !metadata.file_type().is_block_device() {
        return open_regular(path);
    }
    let device = File::open(path).map_err(error::io("open", path))?;
    let stamp = Stamp::read(&device, path)?;
    Ok((device, stamp))
}

/// Opens a file without blocking on a pipe; everything but a regular file is
/// [`StoreError::NotAFile`].
pub(super) fn open_as_file(
    options: &mut OpenOptions,
    flags: OFlags,
    path: &Path,
) -> Result<(File, Stamp), StoreError> {
    let flags = flags | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits() as i32).open(path).map_err(error::io("open", path))?;
    let metadata = file.metadata().map_err(error::io("read the metadata of", path))?;
    if !metadata.is_file() {
        return Err(StoreError::NotAFile(path.to_owned()));
    }
    rustix::fs::fcntl_getfl(&file)
        .and_then(|flags| rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK))
        .map_err(|errno| error::io("open", path)(errno.into()))?;
    Ok((file, Stamp::of(&metadata)))
}

/// Calls fsync on a file, and reports the errors that its file system reports only at close.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    file.sync_all()?;
    check_writes(file)
}

/// Fails if a write to the file has failed that its file system reports only at close, as network
/// file systems do.
///
/// The file stays open: a duplicate of its descriptor is closed. Local file systems do nothing
/// then. The error is reported once, so the caller must remember it.
pub(super) fn check_writes(file: &File) -> io::Result<()> {
    loop {
        let Ok(duplicate) = file.try_clone() else {
            // No free descriptor. fsync reports the errors, too, but takes longer.
            return file.sync_data();
        };
        match close(duplicate) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            closed => return closed,
        }
    }
}

/// Whether a file is on a local file system, which reports a failed write only at fsync. Every other
/// file system may report it at close.
pub(super) fn is_local(file: &File) -> bool {
    // Magic numbers from statfs(2): ext2 to ext4, XFS, Btrfs, tmpfs, F2FS, ZFS, overlayfs.
    const LOCAL: [u32; 7] =
        [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0x2FC1_2FC1, 0x794C_7630];
    rustix::fs::fstatfs(file).is_ok_and(|found| LOCAL.contains(&(found.f_type as u32)))
}

/// Closes a file and returns the error of close, which reports failed writes on network file
/// systems. A drop ignores it.
pub(super) fn close(file: File) -> io::Result<()> {
    #[cfg(test)]
    if let Some(error) = faults::take_close_error() {
        return Err(error);
    }
    Ok(nix::unistd::close(file)?)
}

/// Errors that tests inject into [`close`].
#[cfg(test)]
pub(super) mod faults {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static CLOSE: Cell<Option<(u32, rustix::io::Errno)>> = const { Cell::new(None) };
    }

    /// Makes one close of this thread fail: the next one, or after `skipped` closes.
    pub(in crate::storage) fn fail_close(skipped: u32, errno: rustix::io::Errno) {
        CLOSE.set(Some((skipped, errno)));
    }

    /// Whether the injected error has been returned.
    pub(in crate::storage) fn close_has_failed() -> bool {
        CLOSE.get().is_none()
    }

    pub(super) fn take_close_error() -> Option<io::Error> {
        let (skipped, errno) = CLOSE.get()?;
        CLOSE.set(skipped.checked_sub(1).map(|skipped| (skipped, errno)));
        (skipped == 0).then(|| errno.into())
    }
}

/// Longest name of a file in a folder, bytes.
pub(super) fn name_bytes_max(folder: &Path) -> usize {
    const USUAL: usize = 255;
    // Some file systems of user space report no limit, or 0.
    let reported = rustix::fs::statvfs(folder).map_or(0, |space| space.f_namemax as usize);
    if reported == 0 { USUAL } else { reported.min(USUAL) }
}

/// Why another user may have written a file, or may write it later; `None` if only this user can.
pub(super) fn writable_by_others(metadata: &Metadata) -> Option<&'static str> {
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Some("it belongs to another user");
    }
    if metadata.nlink() > 1 {
        return Some("it has a second name (hard link)");
    }
    (metadata.mode() & 0o022 != 0).then_some("its permissions let other users write to it")
}

/// Calls fsync on a folder, which makes the names in it durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    match synced {
        // Some file systems do not support fsync on a folder, and do not need it.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced.map_err(error::io("sync the folder", folder)),
    }
}

/// Locks a folder against other shoal processes until the returned file is dropped. `None` if the
/// file system has no locks.
///
/// # Errors
/// [`StoreError::Busy`] if another process has locked the folder, or the folder cannot be opened.
pub(crate) fn lock_folder(folder: &Path) -> Result<Option<File>, StoreError> {
    let handle = File::open(folder).map_err(error::io("open", folder))?;
    match handle.try_lock() {
        Ok(()) => Ok(Some(handle)),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Busy(folder.to_owned())),
        Err(fs::TryLockError::Error(error)) => {
            log::debug!("cannot lock {}: {error}", folder.display());
            Ok(None)
        }
    }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|piece| *piece == ZEROS[..piece.len()])
}

/// Punches a hole: the range reads as zeros and occupies no disk space. Returns whether the file
/// system supports it.
pub(super) fn punch_hole(file: &File, offset: u64, length: usize) -> bool {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    length > 0 && rustix::fs::fallocate(file, flags, offset, length as u64).is_ok()
}

/// Removes a file and returns whether it existed.
pub(super) fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true).map_err(error::io("remove", path)),
    }
}

/// Whether this is the name of one of our temporary files. Under the folder's lock, such a file is
/// left from a killed process.
pub(super) fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(TEMPORARY.0.as_bytes()) && name.ends_with(TEMPORARY.1.as_bytes())
}

/// Creates a temporary file beside `path` with this content and the permissions of an ordinary new
/// file.
pub(super) fn temporary(path: &Path, bytes: &[u8], durable: bool) -> Result<NamedTempFile, StoreError> {
    temporary_for(path, bytes, durable, 0o666)
}

/// Creates a temporary file as [`temporary`] does, with the permissions `mode` less the umask.
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
            // tempfile wraps the system's error with its own path; [`StoreError`] names the path
            // already.
            let source = error.raw_os_error().map_or(error, io::Error::from_raw_os_error);
            error::write("create a file in", folder, bytes.len() as u64)(source)
        })?;
    file.write_all(bytes)
        .and_then(|()| if durable { sync(file.as_file()) } else { Ok(()) })
        .map_err(error::write("write", path, bytes.len() as u64))?;
    Ok(file)
}

/// Renames a temporary file to `path`, which replaces an existing file atomically.
pub(super) fn replace(path: &Path, temporary: NamedTempFile) -> Result<File, StoreError> {
    temporary.persist(path).map_err(|error| error::io("replace", path)(error.error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode};
    use std::os::unix::fs::FileExt as _;

    #[test]
    fn only_regular_files_are_opened_and_a_pipe_does_not_block() {
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
    fn a_hole_reads_as_zeros_and_occupies_no_disk_space() {
        let file = NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        file.as_file().write_all_at(&[7; 8192], 0).unwrap();
        assert!(is_zero(&[]) && is_zero(&[0; 5000]) && !is_zero(&[[0; 5000], [1; 5000]].concat()));
        // Without hole support, zeros are written.
        if punch_hole(file.as_file(), 0, 8192) {
            assert!(is_zero(&fs::read(file.path()).unwrap()));
            assert_eq!(file.as_file().metadata().unwrap().blocks(), 0);
        }
    }

    #[test]
    fn an_opened_file_is_in_blocking_mode() {
        let file = NamedTempFile::new().unwrap();
        let (file, _) = open_regular(file.path()).unwrap();
        assert!(!rustix::fs::fcntl_getfl(&file).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn folder_of_a_bare_name_is_the_working_directory() {
        assert_eq!(folder_of(Path::new("name")), Path::new("."));
        assert_eq!(folder_of(Path::new("a/name")), Path::new("a"));
        let (total, reduced) = (free_space(Path::new(".")), free_space_after_reserve(Path::new("."), 5));
        assert!(
            reduced.is_some() && reduced < total && free_space_after_reserve(Path::new("."), 100) == Some(0)
        );
    }

    #[test]
    fn a_temporary_file_is_hidden_and_has_ordinary_permissions() {
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
