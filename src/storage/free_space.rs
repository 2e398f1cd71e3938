//! Free space of the disk that a path is on.

use std::path::Path;

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
pub(super) fn free_space_beyond(folder: &Path, percent: u64) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok().filter(|space| space.f_blocks > 0)?;
    let kept = space.f_blocks / 100 * percent;
    Some(space.f_bavail.saturating_sub(kept).saturating_mul(space.f_frsize))
}
