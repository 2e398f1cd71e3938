//! Removes a file or a sub-folder from a shared folder after it has been replicated elsewhere.
//!
//! The file is first renamed into a hidden subfolder, where no other program writes, and checked
//! there: only the hashed file is ever deleted. Invariant: until it is deleted, the complete file
//! exists under one of the two names. A file that a crash leaves in the hidden subfolder is moved
//! back by [`restore`](SharedFolder::restore).

use super::{ItemState, SharedFolder, error};
use crate::content::{DurableStamp, FileId, FileName};
use crate::storage::StoreError;
use crate::storage::disk::{self, Identity};
use crate::storage::tree::ScanOptions;
use crate::sync::lock;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Hidden subfolder for files about to be deleted.
const REMOVAL_FOLDER: &str = ".shoal-leaving";
/// First part of the name of a folder in it whose entries are being deleted. No item has a hidden name.
const DELETED_PREFIX: &str = ".deleted-";

/// Result of the deletion of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// The file is deleted, durably.
    Deleted,
    /// The caller did not permit the deletion any more; the file is in place.
    NotPermitted,
    /// The name is not shared, is another file by now, or is a link.
    Changed,
}

impl SharedFolder {
    /// Deletes a file durably, if exactly the file hashed as `id` has this name. No scan reports
    /// the deletion.
    ///
    /// `permitted` is asked before the file is moved, and again immediately before it is deleted; `confirmed` is
    /// called between the last answer and the deletion.
    ///
    /// # Errors
    /// The file cannot be moved or deleted. It may have to be hashed again then.
    pub fn delete(
        &self,
        name: &FileName,
        id: FileId,
        permitted: &dyn Fn() -> bool,
        confirmed: &dyn Fn(),
    ) -> Result<Deletion, StoreError> {
        let _comparing = lock(&self.comparing);
        let shared = lock(&self.state).shared.get(name).cloned();
        let Some((_, identity)) = shared.filter(|(file, _)| file.id == id && !file.file.is_corrupt()) else {
            return Ok(Deletion::Changed);
        };
        let path = self.path_of(name);
        if !is_exactly(&path, (&identity, &self.options), |found| *found == identity)? {
            return Ok(Deletion::Changed);
        }
        if !permitted() {
            return Ok(Deletion::NotPermitted);
        }
        let removal_folder = self.removal_folder();
        if let Err(error) = fs::create_dir(&removal_folder)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error::io("create", &removal_folder)(error));
        }
        let leaving = removal_folder.join(name.as_str());
        rename(&path, &leaving)?;
        if !is_exactly(&leaving, (&identity, &self.options), |found| found.is_moved(&identity))? {
            // Another program has replaced the file between check and rename.
            rename(&leaving, &path)?;
            return Ok(Deletion::Changed);
        }
        if !permitted() {
            // The move has changed the file's ctime: the next scan withdraws the file and hashes it again.
            rename(&leaving, &path)?;
            let _ = fs::remove_dir(&removal_folder);
            return Ok(Deletion::NotPermitted);
        }
        confirmed();
        lock(&self.state).forget(name, false);
        match identity {
            ItemState::File(_) => {
                let deleted = disk::remove(&leaving);
                if deleted.is_err() {
                    rename(&leaving, &path)?;
                }
                deleted?;
            }
            ItemState::Folder(_) => {
                // From this name on, a folder is not restored: some of its entries may be deleted.
                let deleted = removal_folder.join(format!("{DELETED_PREFIX}{name}"));
                rename(&leaving, &deleted)?;
                fs::remove_dir_all(&deleted).map_err(error::io("delete", &deleted))?;
            }
        }
        // Fails if another file is left in the subfolder; the next start restores that file.
        let _ = fs::remove_dir(&removal_folder);
        disk::sync_folder(self.path())?;
        Ok(Deletion::Deleted)
    }

    /// Renames a file within the folder, durably, if the file under `name` has this stamp. Returns whether it has.
    ///
    /// # Errors
    /// [`StoreError::Exists`] if the new name is taken, or the file cannot be renamed.
    pub fn set_aside(
        &self,
        name: &FileName,
        aside: &FileName,
        stamp: DurableStamp,
    ) -> Result<bool, StoreError> {
        let _comparing = lock(&self.comparing);
        let path = self.path().join(name.as_str());
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() && Identity::of(&found).durable() == Some(stamp) => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error::io("read the metadata of", &path)(error));
            }
            _ => return Ok(false),
        }
        rename(&path, &self.path().join(aside.as_str()))?;
        disk::sync_folder(self.path())?;
        Ok(true)
    }

    /// Moves files back that a crash left half deleted. A file whose name is taken meanwhile stays
    /// in the hidden subfolder, with a warning.
    ///
    /// # Errors
    /// The hidden subfolder cannot be read.
    pub fn restore(&self) -> Result<(), StoreError> {
        let removal_folder = self.removal_folder();
        let entries = match fs::read_dir(&removal_folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(error::io("read", &removal_folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(error::io("read", &removal_folder))?;
            if entry.file_name().as_encoded_bytes().starts_with(DELETED_PREFIX.as_bytes()) {
                fs::remove_dir_all(entry.path()).map_err(error::io("delete", &entry.path()))?;
                continue;
            }
            let path = self.path().join(entry.file_name());
            match rename(&entry.path(), &path) {
                Ok(()) => log::info!("restored {}, whose deletion was interrupted", path.display()),
                Err(error) => {
                    log::warn!("cannot restore {}: {error}; move it back by hand", entry.path().display())
                }
            }
        }
        let _ = fs::remove_dir(&removal_folder);
        disk::sync_folder(self.path())
    }

    fn removal_folder(&self) -> PathBuf {
        self.path().join(REMOVAL_FOLDER)
    }
}

/// Whether the item at the path is of the same type as `before`, no link, and its state is accepted by `matches`.
fn is_exactly(
    path: &Path,
    (before, options): (&ItemState, &ScanOptions),
    matches: impl Fn(&ItemState) -> bool,
) -> Result<bool, StoreError> {
    match (fs::symlink_metadata(path), before) {
        (Ok(metadata), ItemState::File(_)) => {
            Ok(metadata.is_file() && matches(&ItemState::File(Identity::of(&metadata))))
        }
        (Ok(metadata), ItemState::Folder(_)) => {
            Ok(metadata.is_dir() && matches(&ItemState::of_folder(path, options)?))
        }
        (Err(error), _) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        (Err(error), _) => Err(error::io("read the metadata of", path)(error)),
    }
}

/// Renames without replacing an existing file.
fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    let renamed = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not supported by this kernel or file system: check and rename, which is not atomic.
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

    /// A folder that shares `a` with the content `one`.
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
    fn a_deleted_file_is_not_reported_by_the_next_scan() {
        let (folder, shared, id) = sharing();
        let confirmed = std::cell::Cell::new(false);
        let deleted = shared.delete(&name(), id, &|| true, &|| confirmed.set(true)).unwrap();
        assert!(deleted == Deletion::Deleted && confirmed.get());
        assert!(names(&folder).is_empty() && shared.files().is_empty());
        assert!(shared.rescan().unwrap().changes.is_empty());
        assert_eq!(shared.delete(&name(), id, &|| true, &|| panic!()).unwrap(), Deletion::Changed);
    }

    #[test]
    fn delete_leaves_any_file_but_the_hashed_one() {
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
        let removed = |folder: &TempDir| fs::remove_file(path(folder)).unwrap();
        let changes: [&dyn Fn(&TempDir); 4] = [&replaced, &written, &linked, &removed];
        for change in changes {
            let (folder, shared, id) = sharing();
            change(&folder);
            let before = names(&folder);
            assert_eq!(shared.delete(&name(), id, &|| true, &|| panic!()).unwrap(), Deletion::Changed);
            assert_eq!(names(&folder), before);
        }
        let (folder, shared, _) = sharing();
        let other = shared.delete(&name(), FileId([1; 32]), &|| true, &|| panic!()).unwrap();
        assert_eq!(other, Deletion::Changed);
        assert_eq!(fs::read(path(&folder)).unwrap(), b"one");
    }

    #[test]
    fn a_deletion_whose_permission_ends_before_the_last_step_is_undone() {
        for last in 0..2 {
            let (folder, shared, id) = sharing();
            let asked = std::cell::Cell::new(0);
            let permitted = || asked.replace(asked.get() + 1) < last;
            let deletion = shared.delete(&name(), id, &permitted, &|| panic!()).unwrap();
            assert_eq!((deletion, asked.get()), (Deletion::NotPermitted, last + 1));
            assert_eq!(names(&folder), ["a"]);
            assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"one");
        }
    }

    #[test]
    fn restore_moves_half_deleted_files_back_and_replaces_none() {
        let (folder, shared, _) = sharing();
        let removal_folder = folder.path().join(REMOVAL_FOLDER);
        shared.restore().unwrap();
        fs::create_dir(&removal_folder).unwrap();
        fs::rename(folder.path().join("a"), removal_folder.join("a")).unwrap();
        shared.restore().unwrap();
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"one");
        fs::create_dir(&removal_folder).unwrap();
        fs::write(removal_folder.join("a"), "other").unwrap();
        shared.restore().unwrap();
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), b"one");
        assert_eq!(fs::read(removal_folder.join("a")).unwrap(), b"other");
    }

    #[test]
    fn a_folder_is_deleted_only_as_it_was_hashed_and_its_rest_is_not_restored() {
        let folder = TempDir::new().unwrap();
        let data = folder.path().join("data");
        fs::create_dir_all(data.join("sub")).unwrap();
        fs::write(data.join("sub/one"), "one").unwrap();
        let shared = SharedFolder::open(folder.path()).unwrap();
        let name = FileName::new("data").unwrap();
        let share = || {
            while shared.by_name(&name).is_none() {
                for name in shared.rescan().unwrap().to_hash {
                    shared.hash(&name, &|_| (), &|| false).unwrap();
                }
            }
            shared.by_name(&name).unwrap().id
        };
        let id = share();
        let asked = std::cell::Cell::new(0);
        let once = || asked.replace(asked.get() + 1) < 1;
        assert_eq!(shared.delete(&name, id, &once, &|| panic!()).unwrap(), Deletion::NotPermitted);
        fs::write(data.join("sub/new"), "").unwrap();
        assert_eq!(shared.delete(&name, id, &|| true, &|| panic!()).unwrap(), Deletion::Changed);
        assert_eq!(fs::read(data.join("sub/one")).unwrap(), b"one");
        shared.rescan().unwrap();
        let id = share();
        assert_eq!(shared.delete(&name, id, &|| true, &|| ()).unwrap(), Deletion::Deleted);
        assert!(names(&folder).is_empty());
        let rest = folder.path().join(REMOVAL_FOLDER).join(format!("{DELETED_PREFIX}data"));
        fs::create_dir_all(rest.join("sub")).unwrap();
        shared.restore().unwrap();
        assert!(names(&folder).is_empty(), "an interrupted deletion is completed");
    }
}
