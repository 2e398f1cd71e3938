//! Free space of the file system of a folder.

use std::path::Path;

/// The parent folder of a file; `.` for a bare name.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Free space for this user on the file system of a folder, bytes; `None` if the file system
/// reports none.
pub fn free_space(folder: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok().filter(|space| space.f_blocks > 0)?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Whether the file system of a path can hold another file. File systems without a fixed number of
/// inodes report none at all.
pub(super) fn has_free_inodes(path: &Path) -> bool {
    rustix::fs::statvfs(path).map_or(true, |space| space.f_files == 0 || space.f_favail > 0)
}

/// Size of the file system of an existing folder, bytes; `None` if the file system reports none.
pub fn disk_size(folder: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok().filter(|space| space.f_blocks > 0)?;
    Some(space.f_blocks.saturating_mul(space.f_frsize))
}

/// Free space as in [`free_space`], less a reserve of `percent` percent of the file system's size.
pub(super) fn free_space_after_reserve(folder: &Path, percent: u64) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok().filter(|space| space.f_blocks > 0)?;
    let reserve = space.f_blocks / 100 * percent;
    Some(space.f_bavail.saturating_sub(reserve).saturating_mul(space.f_frsize))
}
