//! Deleting a file of a shared folder because it is kept elsewhere by now.
//!
//! The file is first moved into a hidden folder in the shared one, under its own name, and looked at there, where
//! nobody else writes: only what was hashed is ever deleted. Invariant: at every instant the file is whole under one of
//! the two names until it is gone; what a crash leaves in the hidden folder [`restore`](SharedFolder::restore) puts
//! back.

use super::{SharedFolder, error, lock};
use crate::content::{FileId, FileName};
use crate::storage::StoreError;
use crate::storage::disk::{self, Identity};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where files are on their way out, in the shared folder.
const ASIDE: &str = ".shoal-leaving";

impl SharedFolder {
    /// Deletes a file, if exactly the file that was hashed as `id` is there under that name, durably. `sure` is called
    /// when that is certain, before it is deleted. No look ever reports that it is gone. `false` when it is not shared
    /// under that name, another file by now, or a link.
    ///
    /// # Errors
    /// It cannot be moved or deleted. It may have to be hashed again then.
    pub fn delete(&self, name: &FileName, id: FileId, sure: &dyn Fn()) -> Result<bool, StoreError> {
        let _comparing = lock(&self.comparing);
        let shared = lock(&self.state).shared.get(name).cloned();
        let Some((_, identity)) = shared.filter(|(file, _)| file.id == id) else { return Ok(false) };
        let path = self.path().join(name.as_str());
        if !is_exactly(&path, |found| found == identity)? {
            return Ok(false);
        }
        let aside = self.aside();
        if let Err(error) = fs::create_dir(&aside)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error::io("create", &aside)(error));
        }
        let leaving = aside.join(name.as_str());
        rename(&path, &leaving)?;
        if !is_exactly(&leaving, |found| found.is_moved(&identity))? {
            // Somebody has put another file there in the very last moment.
            rename(&leaving, &path)?;
            return Ok(false);
        }
        sure();
        lock(&self.state).forget(name);
        let deleted = disk::remove(&leaving);
        if deleted.is_err() {
            rename(&leaving, &path)?;
        }
        deleted?;
        // Fails while something else is in it, which the next start sees to.
        let _ = fs::remove_dir(&aside);
        disk::sync_folder(self.path())?;
        Ok(true)
    }

    /// Puts back what a crash has left half deleted. What cannot be put back, because there is something else under its
    /// name, is left where it is, with a warning.
    ///
    /// # Errors
    /// The hidden folder cannot be read.
    pub fn restore(&self) -> Result<(), StoreError> {
        let aside = self.aside();
        let entries = match fs::read_dir(&aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(error::io("read", &aside))?,
        };
        for entry in entries {
            let entry = entry.map_err(error::io("read", &aside))?;
            let path = self.path().join(entry.file_name());
            match rename(&entry.path(), &path) {
                Ok(()) => log::info!("{} was about to be deleted, and is back", path.display()),
                Err(error) => log::warn!("{} stays where it is: {error}", entry.path().display()),
            }
        }
        let _ = fs::remove_dir(&aside);
        disk::sync_folder(self.path())
    }

    fn aside(&self) -> PathBuf {
        self.path().join(ASIDE)
    }
}

/// Whether a regular file, and no link, is there, and is the right one.
fn is_exactly(path: &Path, right: impl Fn(Identity) -> bool) -> Result<bool, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(metadata.is_file() && right(Identity::of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error::io("look at", path)(error)),
    }
}

/// Renames, and replaces nothing.
fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    let renamed = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do that at once.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => match fs::symlink_metadata(to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        },
        renamed => renamed.map_err(io::Error::from),
    };
    renamed.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => StoreError::Exists(to.to_owned()),
        _ => error::io("move", from)(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FolderChange;
    use std::fs::{File, FileTimes};
    use std::time::{Duration, SystemTime};
    use tempfile::TempDir;

    fn name() -> FileName {
        FileName::new("a").unwrap()
    }

    /// A folder that shares `a`, which says `one`.
    fn sharing() -> (TempDir, SharedFolder, FileId) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "one").unwrap();
        let old = FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(99));
        File::options().append(true).open(&path).unwrap().set_times(old).unwrap();
        let shared = SharedFolder::open(folder.path()).unwrap();
        assert_eq!(shared.rescan().unwrap().to_hash, [name()]);
        let Ok(Some(FolderChange::Added(file))) = shared.hash(&name(), &|_| (), &|| false) else { panic!() };
        (folder, shared, file.id)
    }

    fn names(folder: &TempDir) -> Vec<std::ffi::OsString> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_deleted_and_no_look_wonders() {
        let (folder, shared, id) = sharing();
        let sure = std::cell::Cell::new(false);
        assert!(shared.delete(&name(), id, &|| sure.set(true)).unwrap() && sure.get());
        assert!(names(&folder).is_empty() && shared.files().is_empty());
        assert!(shared.rescan().unwrap().changes.is_empty());
        assert!(!shared.delete(&name(), id, &|| panic!()).unwrap());
    }

    #[test]
    fn what_is_not_exactly_the_file_that_was_hashed_is_left_alone() {
        let path = |folder: &TempDir| folder.path().join("a");
        let replaced = |folder: &TempDir| {
            fs::remove_file(path(folder)).unwrap();
            fs::write(path(folder), "two").unwrap();
        };
        let written = |folder: &TempDir| fs::write(path(folder), "two").unwrap();
        let linked = |folder: &TempDir| {
            fs::rename(path(folder), folder.path().join("b")).unwrap();
            std::os::unix::fs::symlink("b", path(folder)).unwrap();
        };
        let gone = |folder: &TempDir| fs::remove_file(path(folder)).unwrap();
        let changes: [&dyn Fn(&TempDir); 4] = [&replaced, &written, &linked, &gone];
        for change in changes {
            let (folder, shared, id) = sharing();
            change(&folder);
            let before = names(&folder);
            assert!(!shared.delete(&name(), id, &|| panic!()).unwrap());
            assert_eq!(names(&folder), before);
        }
        let (folder, shared, _) = sharing();
        assert!(!shared.delete(&name(), FileId([1; 32]), &|| panic!()).unwrap());
        assert_eq!(fs::read(path(&folder)).unwrap(), b"one");
    }

    #[test]
    fn what_a_crash_left_half_deleted_comes_back_unless_something_is_in_its_place() {
        let (folder, shared, _) = sharing();
        let aside = folder.path().join(ASIDE);
        shared.restore().unwrap();
        fs::create_dir(&aside).unwrap();
        fs::rename(folder.path().join("a"), aside.join("a")).unwrap();
        shared.restore().unwrap();
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"one");
        fs::create_dir(&aside).unwrap();
        fs::write(aside.join("a"), "other").unwrap();
        shared.restore().unwrap();
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"one");
        assert_eq!(fs::read(aside.join("a")).unwrap(), b"other");
    }
}
