//! Why bytes could not be kept or given.

use super::disk;
use crate::content::ChunkIndex;
use crate::content::layout::LayoutError;
use crate::content::local_chunks::LineError;
use crate::content::manifest::ManifestError;
use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with bytes on disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb: "read".
        action: String,
        /// With which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody wrote to the file, or removed it, since it was hashed.
    #[error("{} has changed since it was hashed", .0.display())]
    Changed(PathBuf),
    /// Somebody removed what was being written to.
    #[error("{} has been removed, and what was got of it with it", .0.display())]
    Gone(PathBuf),
    /// The chunk is not here, or not verified, or there is no such chunk.
    #[error("chunk {0} is not here")]
    Missing(ChunkIndex),
    /// The disk, or the user's quota, is full.
    #[error(
        "no space for {}: {needed} bytes needed, {available} available, {} missing",
        path.display(), needed.saturating_sub(*available)
    )]
    Full {
        /// The file that would have been written.
        path: PathBuf,
        /// Bytes that it still needs.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// Another file is in place, and replacing it was not asked for.
    #[error("{} is already there", .0.display())]
    Exists(PathBuf),
    /// Another program, or another part of this one, downloads to the same part file or shares the same folder.
    #[error("{} is in use by another program of shoal", .0.display())]
    Busy(PathBuf),
    /// A folder, a device, a pipe: not a file with bytes in it.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// The file cannot be cut like that.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The manifest does not fit together.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
    /// A line of a `local_chunks.txt` is not as it should be.
    #[error("{}: {error}", path.display())]
    Chunks {
        /// The `local_chunks.txt`.
        path: PathBuf,
        /// The line, and what is wrong with it.
        error: LineError,
    },
    /// A file that a `local_chunks.txt` lists is missing, outside the folder, too large ...
    #[error("{}: line {line}: chunk {index}, file {file:?}: {reason}", path.display())]
    ChunkFile {
        /// The `local_chunks.txt`.
        path: PathBuf,
        /// The line that lists the file, counted from 1.
        line: usize,
        /// The chunk.
        index: ChunkIndex,
        /// The file, as it is listed.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Makes an error of the operating system's one, for `map_err`.
pub(super) fn io(action: &str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { action: action.to_owned(), path: path.to_owned(), source }
}

/// The same for writing `needed` bytes: says how much is missing when the disk is full.
pub(super) fn write(action: &str, path: &Path, needed: u64) -> impl FnOnce(io::Error) -> StoreError {
    move |source| {
        let available = match source.kind() {
            io::ErrorKind::StorageFull => disk::free_space(disk::folder_of(path)).unwrap_or(0),
            // The file system may have plenty, but none for this user.
            io::ErrorKind::QuotaExceeded => 0,
            _ => return io(action, path)(source),
        };
        StoreError::Full { path: path.to_owned(), needed, available }
    }
}

/// The caller asked for something that makes no sense.
pub(super) fn invalid_input(action: &str, path: &Path, why: String) -> StoreError {
    io(action, path)(io::Error::new(io::ErrorKind::InvalidInput, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_full_disk_says_how_much_is_missing() {
        let path = Path::new("/no/such/folder/file");
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let error = write("write", path, 10)(errno.into());
            assert!(matches!(error, StoreError::Full { needed: 10, available: 0, .. }), "{error}");
        }
        let error = StoreError::Full { path: path.to_owned(), needed: 10, available: 4 };
        assert!(error.to_string().ends_with("10 bytes needed, 4 available, 6 missing"), "{error}");
        let error = write("write", path, 10)(Errno::IO.into());
        assert!(error.to_string().starts_with("cannot write /no/such/folder/file: "), "{error}");
    }
}
