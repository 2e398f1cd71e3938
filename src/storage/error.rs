//! Errors of the storage layer.

use super::free_space::{folder_of, free_space, has_free_inodes};
use crate::content::ChunkIndex;
use crate::content::layout::LayoutError;
use crate::content::local_chunks::LineError;
use crate::content::manifest::ManifestError;
use crate::content::tree::TreeError;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on stored bytes failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system returned an error.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The attempted action, as a verb: "read".
        action: String,
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// Another program has written to the file, or removed it, since it was hashed.
    #[error("{} has changed since it was hashed", .0.display())]
    Changed(PathBuf),
    /// Another program has removed the part file during the download.
    #[error(
        "{} was removed during the download and its chunks are lost; run the command again",
        .0.display()
    )]
    Gone(PathBuf),
    /// The chunk is absent, not verified, or outside the file.
    #[error("chunk {0} is missing")]
    Missing(ChunkIndex),
    /// The disk is full.
    #[error(
        "not enough free space for {}: {needed} bytes needed, {available} available, {} missing",
        path.display(), needed.saturating_sub(*available)
    )]
    Full {
        /// The file to be written.
        path: PathBuf,
        /// Bytes that remain to be written.
        needed: u64,
        /// Free space, bytes.
        available: u64,
    },
    /// A resource other than the bytes that the disk reports as free is used up.
    #[error("cannot {action} {}: {resource}", path.display())]
    Exhausted {
        /// The attempted action, as a verb: "write".
        action: String,
        /// The file or folder.
        path: PathBuf,
        /// The resource.
        resource: Resource,
    },
    /// The target exists, and the caller did not ask to overwrite it.
    #[error("{} already exists", .0.display())]
    Exists(PathBuf),
    /// Another process, or another part of this one, has locked the part file or the folder.
    #[error("{} is in use by another shoal process", .0.display())]
    Busy(PathBuf),
    /// The folder of a running volunteer's store has disappeared, or its marker cannot be read.
    #[error("store {} is not available: {reason}", path.display())]
    StoreAbsent {
        /// Path of the store.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The store that was last used at this path is not there.
    #[error(
        "store {store} was last used at {}{}, but {found}: mount its disk, or lend this folder as a new store with \
         --new-store",
        path.display(),
        file_system.as_ref().map(|name| format!(" (file system {name})")).unwrap_or_default()
    )]
    StoreElsewhere {
        /// Path of the store.
        path: PathBuf,
        /// Id of the remembered store, abbreviated.
        store: String,
        /// File system of the remembered store.
        file_system: Option<String>,
        /// State of the path now, as a clause.
        found: String,
    },
    /// The file does not fit on the block device.
    #[error("{} is too small: it has {size} bytes, the file has {needed}", path.display())]
    DeviceTooSmall {
        /// Path of the device.
        path: PathBuf,
        /// Size of the device, bytes.
        size: u64,
        /// Size of the file, bytes.
        needed: u64,
    },
    /// The reader of the output stream has closed it before the end of the file.
    #[error("{name} was closed by its reader after {written} of {size} bytes")]
    ReaderClosed {
        /// Name of the stream.
        name: String,
        /// Bytes of the whole chunks written.
        written: u64,
        /// Size of the file, bytes.
        size: u64,
    },
    /// A folder, a device or a pipe instead of a regular file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The file cannot be divided into chunks of this size.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// An entry of a folder is refused, or cannot be stored.
    #[error("the folder is refused: {entry} {reason}")]
    Entry {
        /// Path of the entry, escaped.
        entry: String,
        /// The cause, after the path.
        reason: String,
    },
    /// The manifest is inconsistent.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The folder, or the index of a folder, is not valid.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
    /// A line of a `local_chunks.txt` is invalid.
    #[error("{}: {error}", path.display())]
    Chunks {
        /// Path of the `local_chunks.txt`.
        path: PathBuf,
        /// The line number and the cause.
        error: LineError,
    },
    /// A file listed in a `local_chunks.txt` is missing, outside the folder, too large or
    /// unreadable.
    #[error("{}: line {line}: chunk {index}, file {file:?}: {reason}", path.display())]
    ChunkFile {
        /// Path of the `local_chunks.txt`.
        path: PathBuf,
        /// The line that lists the file, counted from 1.
        line: usize,
        /// Index of the listed chunk.
        index: ChunkIndex,
        /// The file name, as written in the list.
        file: String,
        /// The cause.
        reason: String,
    },
}

/// A resource of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Resource {
    /// The number of files.
    #[error("the file system has no free inodes, so it can hold no more files")]
    Inodes,
    /// The quota of the user.
    #[error("the disk quota of this user (bytes or number of files) is exceeded")]
    Quota,
    /// Space, with the free bytes that the file system reports.
    #[error("the file system accepts no more data, although it reports {0} bytes as free")]
    Space(u64),
}

/// Converts an I/O error into a [`StoreError`], for `map_err`. An exhausted resource of the file
/// system becomes [`StoreError::Exhausted`].
pub(crate) fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| convert(action, path, None, source)
}

/// Converts an error of a write of `needed` bytes; a full disk becomes [`StoreError::Full`] with
/// the free space.
pub(crate) fn write(action: &str, path: &Path, needed: u64) -> impl FnOnce(io::Error) -> StoreError {
    move |source| convert(action, path, Some(needed), source)
}

fn convert(action: &str, path: &Path, needed: Option<u64>, source: io::Error) -> StoreError {
    let (action, path) = (action.to_owned(), path.to_owned());
    let resource = match source.kind() {
        io::ErrorKind::StorageFull => {
            // The path may name a folder or not exist.
            let existing = if path.exists() { &path } else { folder_of(&path) };
            match (needed, free_space(existing).unwrap_or(0)) {
                (Some(needed), available) if available < needed => {
                    return StoreError::Full { path, needed, available };
                }
                (_, available) if available > 0 && !has_free_inodes(existing) => Resource::Inodes,
                (_, available) => Resource::Space(available),
            }
        }
        // The file system may have free space.
        io::ErrorKind::QuotaExceeded => Resource::Quota,
        _ => return StoreError::Io { action, path, source },
    };
    StoreError::Exhausted { action, path, resource }
}

/// An [`StoreError::Io`] for a request with invalid input.
pub(super) fn invalid_input(action: &str, path: &Path, reason: String) -> StoreError {
    io(action, path)(io::Error::new(io::ErrorKind::InvalidInput, reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn full_disk_error_states_the_missing_bytes() {
        let path = Path::new("/no/such/folder/file");
        let error = write("write", path, 10)(Errno::NOSPC.into());
        assert!(matches!(error, StoreError::Full { needed: 10, available: 0, .. }), "{error}");
        let error = StoreError::Full { path: path.to_owned(), needed: 10, available: 4 };
        assert!(error.to_string().ends_with("10 bytes needed, 4 available, 6 missing"), "{error}");
        let error = write("write", path, 10)(Errno::IO.into());
        assert!(error.to_string().starts_with("cannot write /no/such/folder/file: "), "{error}");
    }

    #[test]
    fn an_exhausted_resource_is_named_and_never_reported_as_0_missing_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for error in
            [io("create", &path)(Errno::DQUOT.into()), write("write", &path, 10)(Errno::DQUOT.into())]
        {
            assert!(matches!(error, StoreError::Exhausted { resource: Resource::Quota, .. }), "{error}");
            assert!(
                error
                    .to_string()
                    .ends_with("/file: the disk quota of this user (bytes or number of files) is exceeded")
            );
        }
        // The file system has free space and free inodes.
        for error in [io("create", &path)(Errno::NOSPC.into()), write("write", &path, 0)(Errno::NOSPC.into())]
        {
            assert!(matches!(error, StoreError::Exhausted { resource: Resource::Space(1..), .. }), "{error}");
        }
    }
}
