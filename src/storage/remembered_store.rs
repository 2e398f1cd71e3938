//! Opens the store of a volunteer only if it is the one that was last used at its path.
//!
//! Rules: the marker in the store decides, and the records of this user tell which store belongs at a path. A marked
//! store that is recorded at any path is opened, so that a store can be moved. A path at which another store is
//! recorded is refused unless [`StoreMemory::new_store`] is set, because the disk of that store may not be mounted.
//! A refusal creates and changes nothing.

use super::ReplicaStore;
use super::error::StoreError;
use super::store_marker::{self, StoreId};
use super::store_records::{RecordedPath, StoreRecord, StoreRecords, canonical, file_system};
use std::path::{Path, PathBuf};

/// Where the stores of this user are recorded, and whether another store is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreMemory {
    /// Folder of the records; `None` if this user has no folder for them.
    pub records: Option<PathBuf>,
    /// Accept the folder, although another store was last used at its path.
    pub new_store: bool,
}

impl StoreMemory {
    /// Opens or creates a store as [`ReplicaStore::open`] does, marks it and records it.
    ///
    /// A record that cannot be read or written is logged as one warning.
    ///
    /// # Errors
    /// [`StoreError::StoreElsewhere`] if another store belongs at the path; otherwise as [`ReplicaStore::open`].
    pub fn open(&self, folder: &Path, offered: u64) -> Result<ReplicaStore, StoreError> {
        let path = canonical(folder)?;
        let mut records = StoreRecords::load(self.records.as_deref());
        let found = match store_marker::read(&path) {
            Err(error) if store_marker::is_damaged(&error) => None,
            found => found?,
        };
        if !self.new_store {
            permit(&path, found, &records)?;
        }
        let store = ReplicaStore::open(folder, offered)?;
        let id = store.mark(found)?;
        if self.new_store {
            records.forget_others(&path, id);
        }
        records.remember(StoreRecord { id, path: RecordedPath::new(&path), file_system: file_system(&path) });
        if let Some(problem) = records.problem() {
            log::warn!(
                "cannot remember the store in {}: {problem}; if its disk is not mounted at the next start, the folder \
                 below it may be lent as a new store",
                path.display()
            );
        }
        Ok(store)
    }
}

/// Refuses a folder if another store is recorded at its path and this one is unknown.
fn permit(path: &Path, found: Option<StoreId>, records: &StoreRecords) -> Result<(), StoreError> {
    let Some(expected) = records.at(path).next() else { return Ok(()) };
    let state = match found {
        Some(id) if records.knows(id) => return Ok(()),
        Some(id) => format!("store {} is there now", id.short()),
        None if !path.exists() => "this folder does not exist".to_owned(),
        None => "this folder has no valid marker of a store".to_owned(),
    };
    let found = match file_system(path) {
        Some(now) if Some(&now) != expected.file_system.as_ref() => {
            format!("{state} (file system {now} is there)")
        }
        _ => state,
    };
    let (store, file_system) = (expected.id.short(), expected.file_system.clone());
    Err(StoreError::StoreElsewhere { path: path.to_owned(), store, file_system, found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    struct Place {
        place: tempfile::TempDir,
        memory: StoreMemory,
    }

    impl Place {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            let records = Some(place.path().join("state/shoal/stores"));
            Self { place, memory: StoreMemory { records, new_store: false } }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.place.path().join(name)
        }

        fn open(&self, name: &str) -> Result<ReplicaStore, StoreError> {
            self.memory.open(&self.path(name), 1 << 20)
        }

        #[track_caller]
        fn is_refused(&self, name: &str) -> String {
            let error = self.open(name).err().unwrap();
            assert!(matches!(error, StoreError::StoreElsewhere { .. }), "{error}");
            error.to_string()
        }

        fn marker(&self, name: &str) -> String {
            fs::read_to_string(self.path(name).join(store_marker::MARKER)).unwrap()
        }
    }

    #[test]
    fn a_path_without_its_store_is_refused_and_not_touched() {
        let place = Place::new();
        fs::create_dir(place.path("disk")).unwrap();
        let key = place.open("disk/store").unwrap().key();
        let marker = place.marker("disk/store");
        assert!(place.open("disk/store").unwrap().key() == key);
        // The disk is not mounted: its mount point is empty.
        fs::rename(place.path("disk"), place.path("unmounted")).unwrap();
        fs::create_dir(place.path("disk")).unwrap();
        let text = place.is_refused("disk/store");
        let path = fs::canonicalize(place.path("disk")).unwrap().join("store");
        for part in [path.to_str().unwrap(), &marker[..12], "does not exist", "--new-store"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(fs::read_dir(place.path("disk")).unwrap().count(), 0);
        // The store is a mount point itself.
        fs::create_dir(place.path("disk/store")).unwrap();
        assert!(place.is_refused("disk/store").contains("has no valid marker"));
        assert_eq!(fs::read_dir(place.path("disk/store")).unwrap().count(), 0);
        // It is mounted again.
        fs::remove_dir_all(place.path("disk")).unwrap();
        fs::rename(place.path("unmounted"), place.path("disk")).unwrap();
        assert!(place.open("disk/store").unwrap().key() == key);
    }

    #[test]
    fn a_new_store_replaces_the_remembered_one_on_request() {
        let mut place = Place::new();
        let key = place.open("store").unwrap().key();
        fs::rename(place.path("store"), place.path("old")).unwrap();
        place.is_refused("store");
        place.memory.new_store = true;
        assert!(place.open("store").unwrap().key() != key);
        let marker = place.marker("store");
        // The flag does not make a store new again.
        drop(place.open("store").unwrap());
        assert_eq!(place.marker("store"), marker);
        place.memory.new_store = false;
        drop(place.open("store").unwrap());
        // The replaced store is unknown now.
        fs::remove_dir_all(place.path("store")).unwrap();
        fs::rename(place.path("old"), place.path("store")).unwrap();
        assert!(place.is_refused("store").contains(" is there now"));
    }

    #[test]
    fn a_moved_store_keeps_its_identity_and_its_record_follows() {
        let place = Place::new();
        let key = place.open("one").unwrap().key();
        fs::rename(place.path("one"), place.path("two")).unwrap();
        assert!(place.open("two").unwrap().key() == key);
        // A new store can be created at the old path, but not at the new one.
        assert!(place.open("one").unwrap().key() != key);
        fs::rename(place.path("two"), place.path("three")).unwrap();
        place.is_refused("two");
        // Two known stores exchange their paths.
        let place = Place::new();
        let keys = ["one", "two"].map(|name| place.open(name).unwrap().key());
        for (from, to) in [("one", "aside"), ("two", "one"), ("aside", "two")] {
            fs::rename(place.path(from), place.path(to)).unwrap();
        }
        assert!(place.open("one").unwrap().key() == keys[1] && place.open("two").unwrap().key() == keys[0]);
    }

    #[test]
    fn a_store_of_the_previous_version_is_marked_and_recorded() {
        let place = Place::new();
        let key = ReplicaStore::open(&place.path("store"), 1).unwrap().key();
        assert!(place.open("store").unwrap().key() == key);
        let marker = place.marker("store");
        assert_eq!(marker.trim().len(), 32);
        fs::remove_file(place.path("store").join(store_marker::MARKER)).unwrap();
        place.is_refused("store");
    }

    #[test]
    fn a_damaged_marker_is_refused_at_a_remembered_path_and_replaced_elsewhere() {
        let place = Place::new();
        drop(place.open("store").unwrap());
        fs::write(place.path("store").join(store_marker::MARKER), "garbage").unwrap();
        place.is_refused("store");
        fs::rename(place.path("store"), place.path("other")).unwrap();
        drop(place.open("other").unwrap());
        assert_eq!(place.marker("other").trim().len(), 32);
    }

    #[test]
    fn a_store_opens_without_a_usable_folder_for_its_record() {
        let mut place = Place::new();
        fs::write(place.path("file"), "").unwrap();
        for records in [None, Some(place.path("file/stores"))] {
            place.memory.records = records;
            drop(place.open("store").unwrap());
        }
    }

    #[test]
    fn clients_that_start_at_the_same_time_record_all_stores() {
        let place = Place::new();
        std::thread::scope(|scope| {
            for number in 0..8 {
                let place = &place;
                scope.spawn(move || drop(place.open(&format!("store {number}")).unwrap()));
            }
        });
        for number in 0..8 {
            fs::remove_dir_all(place.path(&format!("store {number}"))).unwrap();
            place.is_refused(&format!("store {number}"));
        }
    }
}
