//! Last steps of a staged tree: entries without content, links, then owners, permissions and times.
//!
//! Directories come last, the deepest first: a new entry would change their times, and their permissions may allow nothing
//! any more. Invariant: the result of [`set_file_metadata`] describes regular files, each of its own.

use super::folder::{EntryStamp, TreeFolder, kind_of};
use super::places::{Places, ROOT};
use crate::content::tree::{Entry, EntryKind};
use crate::storage::error::StoreError;
use crate::storage::hashing::on_all_cores;
use crate::sync::lock;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::sync::Mutex;

/// Creates the entries that have no content: empty files, files of holes, symbolic links and hard links. Those of
/// `in_place`, and hard links with `without_hard_links`, are left out.
pub(super) fn create_entries(
    folder: &TreeFolder,
    places: &Places,
    in_place: &[bool],
    without_hard_links: bool,
) -> Result<(), StoreError> {
    for (number, entry) in places.entries().filter(|(number, _)| !in_place[*number as usize]) {
        match &entry.kind {
            EntryKind::Directory => {}
            EntryKind::File { .. } if entry.content_bytes() > 0 => {}
            EntryKind::File { size: 0, .. } => folder.write_file(places, &entry, number, &[])?,
            EntryKind::File { size, .. } => _ = folder.open_for_writing(places, number, *size)?,
            EntryKind::Link { target } => create_link(folder, places, number, target)?,
            EntryKind::HardLink { .. } if without_hard_links => {}
            EntryKind::HardLink { .. } => {
                let file = file_of(places, &entry)?;
                folder.remove(places, number)?;
                let (from, to) = (folder.parent(places, file)?, folder.parent(places, number)?);
                rustix::fs::linkat(&*from, places.name(file), &*to, places.name(number), AtFlags::empty())
                    .map_err(folder.error(places, number, "create the hard link"))?;
            }
        }
    }
    folder.close_files()
}

fn create_link(folder: &TreeFolder, places: &Places, number: u32, target: &[u8]) -> Result<(), StoreError> {
    folder.remove(places, number)?;
    let parent = folder.parent(places, number)?;
    rustix::fs::symlinkat(target, &*parent, places.name(number)).map_err(folder.error(
        places,
        number,
        "create the link",
    ))
}

/// The file that a hard link stands for.
pub(super) fn file_of(places: &Places, entry: &Entry) -> Result<u32, StoreError> {
    let EntryKind::HardLink { to } = &entry.kind else {
        return Err(refused(&entry.path, "is not a hard link"));
    };
    places.content().index().find(to.bytes()).ok_or_else(|| refused(&entry.path, "has no file"))
}

/// The error that names an entry.
pub(super) fn refused(entry: &impl ToString, reason: impl Into<String>) -> StoreError {
    StoreError::Entry { entry: entry.to_string(), reason: reason.into() }
}

/// Sets owners (`with_owners`), permissions and times of the files and links that are not in `left_out`, and returns the
/// stamps of the files.
///
/// # Errors
/// An entry is missing or of another kind, or two files are one on this file system.
pub(super) fn set_file_metadata(
    folder: &TreeFolder,
    places: &Places,
    left_out: &[bool],
    with_owners: bool,
) -> Result<Vec<EntryStamp>, StoreError> {
    let stamps = Mutex::new(vec![EntryStamp::default(); places.count() as usize]);
    on_all_cores(places.count(), 0, &|number, _| {
        let is_left_out = left_out.get(number as usize).copied().unwrap_or(false);
        let Some(entry) = places.entry(number).filter(|_| !is_left_out) else { return Ok(true) };
        let (expected, size) = match &entry.kind {
            EntryKind::Directory | EntryKind::HardLink { .. } => return Ok(true),
            EntryKind::File { size, .. } => (FileType::RegularFile, Some(*size)),
            EntryKind::Link { .. } => (FileType::Symlink, None),
        };
        let stat = folder.set_metadata(places, (number, &entry), with_owners)?;
        if kind_of(&stat) != expected || size.is_some_and(|size| stat.st_size as u64 != size) {
            return Err(refused(&entry.path, "was changed by another program"));
        }
        if expected == FileType::RegularFile {
            lock(&stamps)[number as usize] = EntryStamp::of(&stat);
        }
        Ok(true)
    })?;
    let stamps = stamps.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    check_distinct(places, &stamps)?;
    Ok(stamps)
}

/// Sets owners (`with_owners`), permissions and times of the directories, the deepest first.
///
/// The root keeps its permissions if they do not let this user rename it: see [`set_root_mode`].
pub(super) fn set_directory_metadata(
    folder: &TreeFolder,
    places: &Places,
    with_owners: bool,
) -> Result<(), StoreError> {
    for number in (0..places.count()).rev() {
        let Some(mut entry) = places.entry(number) else { continue };
        if entry.kind != EntryKind::Directory {
            continue;
        }
        if number == ROOT && !can_be_renamed(&entry) {
            entry.mode |= 0o700;
        }
        let stat = folder.set_metadata(places, (number, &entry), with_owners)?;
        if kind_of(&stat) != FileType::Directory {
            return Err(refused(&entry.path, "was changed by another program"));
        }
    }
    Ok(())
}

/// Whether this user can rename a directory with these permissions to another folder: that writes to the directory.
fn can_be_renamed(root: &Entry) -> bool {
    root.mode & 0o200 != 0 || rustix::process::geteuid().is_root()
}

/// Gives the root its permissions after it was renamed.
pub(super) fn set_root_mode(folder: &TreeFolder, places: &Places) -> Result<(), StoreError> {
    match places.entry(ROOT) {
        Some(root) if !can_be_renamed(&root) => folder.set_mode(places, ROOT, root.mode.into()),
        _ => Ok(()),
    }
}

/// Refuses a tree of which two files are one file on this file system.
fn check_distinct(places: &Places, stamps: &[EntryStamp]) -> Result<(), StoreError> {
    let mut inodes: Vec<(u64, u32)> =
        (0..).zip(stamps).map(|(number, stamp)| (stamp.inode, number)).collect();
    inodes.retain(|(inode, _)| *inode != 0);
    inodes.sort_unstable();
    match inodes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(collision(places, pair[0].1, pair[1].1)),
        None => Ok(()),
    }
}

fn collision(places: &Places, one: u32, other: u32) -> StoreError {
    let reason =
        format!("has the same name as {} on this file system (case or normalisation)", places.path(one));
    refused(&places.path(other), reason)
}

/// Creates all entries as empty ones in a new folder, so that names that are one on this file system are found before any
/// content is received.
pub(super) fn check_names(folder: &TreeFolder, places: &Places) -> Result<(), StoreError> {
    let refuse = |number: u32| {
        move |error: StoreError| match error {
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => refused(
                &places.path(number),
                "has the same name as another entry on this file system (case or normalisation)",
            ),
            error => error,
        }
    };
    for (number, entry) in places.entries().filter(|(number, _)| *number != ROOT) {
        let parent = folder.parent(places, number)?;
        let created = match &entry.kind {
            EntryKind::Directory => rustix::fs::mkdirat(&*parent, places.name(number), Mode::RWXU),
            _ => {
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&*parent, places.name(number), flags, Mode::RUSR | Mode::WUSR).map(drop)
            }
        };
        created.map_err(folder.error(places, number, "create")).map_err(refuse(number))?;
    }
    for (number, entry) in places.entries() {
        if entry.kind != EntryKind::Directory {
            folder.remove(places, number)?;
        }
    }
    Ok(())
}
