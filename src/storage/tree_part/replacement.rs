//! Replacement of the different entries of an existing folder by staged ones, one by one, with a journal.
//!
//! The journal is written when all staged entries are complete and durable. From then on, a staged file that is not in the
//! staging folder any more is in the target: a run that was killed is continued by the next one. Invariants: an entry that the
//! receiver has added is never removed, except an empty directory in the place of a file; links are never followed.

use super::completion::{file_of, refused};
use super::folder::{EntryStamp, TreeFolder, kind_of};
use super::places::{Places, ROOT};
use super::state::TreeState;
use crate::content::tree::{Entry, EntryKind};
use crate::storage::error::{self, StoreError};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::os::unix::fs::FileExt as _;

/// Name of a new hard link in the staged tree before it gets its place.
const NEW_LINK: &str = ".shoal-link";

/// Bytes of two files that are compared at a time.
const COMPARED_BYTES: usize = 64 * 1024;

/// A replacement in progress.
pub(super) struct Replacement<'a> {
    pub staged: &'a TreeFolder,
    pub target: &'a TreeFolder,
    pub places: &'a Places,
}

impl Replacement<'_> {
    /// Checks that no folder with content is in the place of a file or link.
    pub fn check(&self) -> Result<(), StoreError> {
        for (number, entry) in self.places.entries().filter(|(_, entry)| entry.kind != EntryKind::Directory) {
            let is_folder = |stat| kind_of(&stat) == FileType::Directory;
            if self.target.stat(self.places, number)?.is_some_and(is_folder) && !self.is_empty(number)? {
                let reason =
                    "is a folder with content at the target: remove it, or choose another path with --out";
                return Err(refused(&entry.path, reason));
            }
        }
        Ok(())
    }

    /// The staged files that equal those of the target: they share a chunk with a file that differs.
    pub fn equal_files(&self, in_place: &[bool]) -> Result<Vec<u32>, StoreError> {
        let Self { staged, target, places } = self;
        let mut equal = Vec::new();
        let mut blocks = [vec![0; COMPARED_BYTES], vec![0; COMPARED_BYTES]];
        for (number, entry) in places.entries().filter(|(number, _)| !in_place[*number as usize]) {
            let EntryKind::File { size, .. } = entry.kind else { continue };
            let is_as_long =
                |stat| kind_of(&stat) == FileType::RegularFile && EntryStamp::of(&stat).size == size;
            if !target.stat(places, number)?.is_some_and(is_as_long) {
                continue;
            }
            let files = [staged, target].map(|folder| folder.open_for_reading(places, number, false));
            let [Ok(one), Ok(other)] = files else { continue };
            let mut offset = 0;
            let is_equal = loop {
                let length = (size - offset).min(COMPARED_BYTES as u64) as usize;
                if length == 0 {
                    break true;
                }
                let [first, second] = &mut blocks;
                let are_read = one.read_exact_at(&mut first[..length], offset).is_ok()
                    && other.read_exact_at(&mut second[..length], offset).is_ok();
                if !are_read || first[..length] != second[..length] {
                    break false;
                }
                offset += length as u64;
            };
            if is_equal {
                equal.push(number);
            }
        }
        Ok(equal)
    }

    fn is_empty(&self, number: u32) -> Result<bool, StoreError> {
        let parent = self.target.parent(self.places, number)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let error = self.target.error(self.places, number, "read the folder");
        let open =
            rustix::fs::openat(&*parent, self.places.name(number), flags, Mode::empty()).map_err(&error)?;
        for found in Dir::new(open).map_err(&error)? {
            if ![&b"."[..], b".."].contains(&found.map_err(&error)?.file_name().to_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves all staged entries that are still in the staging folder to the target.
    pub fn apply(&self) -> Result<(), StoreError> {
        for (number, entry) in self.places.entries().filter(|(number, _)| *number != ROOT) {
            match &entry.kind {
                EntryKind::Directory => self.place_directory(number)?,
                EntryKind::File { .. } | EntryKind::Link { .. } => self.place_staged(number)?,
                EntryKind::HardLink { .. } => self.place_hard_link((number, &entry))?,
            }
            #[cfg(test)]
            faults::step()?;
        }
        Ok(())
    }

    fn place_directory(&self, number: u32) -> Result<(), StoreError> {
        let is_other = |stat| kind_of(&stat) != FileType::Directory;
        if self.target.stat(self.places, number)?.is_some_and(is_other) {
            self.target.remove(self.places, number)?;
            #[cfg(test)]
            faults::step()?;
        }
        self.target.create_directory(self.places, number)
    }

    fn place_staged(&self, number: u32) -> Result<(), StoreError> {
        let Self { staged, target, places } = self;
        if staged.stat(places, number)?.is_none() {
            return Ok(());
        }
        if target.stat(places, number)?.is_some_and(|stat| kind_of(&stat) == FileType::Directory) {
            target.remove(places, number)?;
        }
        let (from, to) = (staged.parent(places, number)?, target.parent(places, number)?);
        let name = places.name(number);
        rustix::fs::renameat(&*from, name, &*to, name).map_err(target.error(places, number, "replace"))?;
        staged.forget(number);
        target.forget(number);
        Ok(())
    }

    fn place_hard_link(&self, (number, entry): (u32, &Entry)) -> Result<(), StoreError> {
        let Self { staged, target, places } = self;
        let file = file_of(places, entry)?;
        let inode = |at| Ok::<_, StoreError>(target.stat(places, at)?.map(|stat| (stat.st_dev, stat.st_ino)));
        if inode(number)?.is_some() && inode(number)? == inode(file)? {
            return Ok(());
        }
        if target.stat(places, number)?.is_some_and(|stat| kind_of(&stat) == FileType::Directory) {
            target.remove(places, number)?;
        }
        let (aside, from, to) =
            (staged.directory(places, ROOT)?, target.parent(places, file)?, target.parent(places, number)?);
        let link = || -> Result<(), Errno> {
            match rustix::fs::unlinkat(&*aside, NEW_LINK, AtFlags::empty()) {
                Err(Errno::NOENT) => {}
                removed => removed?,
            }
            rustix::fs::linkat(&*from, places.name(file), &*aside, NEW_LINK, AtFlags::empty())?;
            rustix::fs::renameat(&*aside, NEW_LINK, &*to, places.name(number))
        };
        link().map_err(target.error(places, number, "create the hard link"))?;
        target.forget(number);
        Ok(())
    }

    /// Whether each file of the target is the one that the journal names.
    pub fn is_as_in(&self, journal: &TreeState) -> Result<bool, StoreError> {
        for (number, entry) in self.places.entries() {
            if !matches!(entry.kind, EntryKind::File { .. }) {
                continue;
            }
            let found = self.target.stat(self.places, number)?.map(|stat| EntryStamp::of(&stat));
            let expected = journal.stamps.get(number as usize);
            let (Some(found), Some(expected)) = (found, expected) else { return Ok(false) };
            // The earlier run may have set the time of a file that was in place.
            let modified = (entry.modified.seconds, entry.modified.nanoseconds);
            let timed = EntryStamp { modified, ..*expected };
            if !found.is_same_content(expected) && !found.is_same_content(&timed) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Makes all data of the file system of a folder durable.
pub(super) fn sync_file_system(folder: &std::fs::File, path: &std::path::Path) -> Result<(), StoreError> {
    rustix::fs::syncfs(folder).map_err(|errno| error::write("write all data to", path, 0)(errno.into()))
}

/// Ends of a replacement that tests inject.
#[cfg(test)]
pub(super) mod faults {
    use crate::storage::StoreError;
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<Option<u32>> = const { Cell::new(None) };
    }

    /// Ends the next replacement of this thread after `steps` steps; `None` for no end.
    pub fn end_after(steps: Option<u32>) {
        STEPS.set(steps);
    }

    /// Counts a step.
    pub fn step() -> Result<(), StoreError> {
        match STEPS.get() {
            Some(0) => Err(StoreError::Stopped),
            left => {
                STEPS.set(left.map(|left| left - 1));
                Ok(())
            }
        }
    }
}
