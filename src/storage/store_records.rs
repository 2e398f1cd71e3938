//! Records of the stores of this user: the path and the file system of each, kept outside of the stores.
//!
//! A volunteer whose disk is not mounted finds an empty folder. The record of the path tells that a store belongs
//! there. Each store has a record of its own, a small file named by its id, so that programs that start at the same
//! time do not overwrite each other's records. Invariant: unreadable and damaged records are ignored with one
//! warning and never end the program.

use super::disk;
use super::error::{self, StoreError};
use super::store_marker::StoreId;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Extension of the record files.
const EXTENSION: &str = "json";
/// Most records that are read.
const RECORDS_MAX: usize = 4_096;
/// Longest record, bytes.
const RECORD_BYTES_MAX: u64 = 64 * 1024;
/// Folder in which udev names each block device by the UUID of its file system.
const UUIDS: &str = "/dev/disk/by-uuid";

/// The record of one store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoreRecord {
    /// Id in the store's marker.
    pub id: StoreId,
    /// Canonical path of the store at its last start.
    pub path: RecordedPath,
    /// File system of the store at its last start, for messages: numbers of devices change at a reboot.
    pub file_system: Option<String>,
}

/// A path in a record. Bytes, where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum RecordedPath {
    Text(String),
    Bytes(Vec<u8>),
}

impl RecordedPath {
    pub(super) fn new(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_owned()),
        }
    }

    fn is(&self, path: &Path) -> bool {
        match self {
            Self::Text(text) => Path::new(text) == path,
            Self::Bytes(bytes) => Path::new(&OsString::from_vec(bytes.clone())) == path,
        }
    }
}

/// All records, and the first problem with them.
pub(super) struct StoreRecords {
    /// Folder of the records; `None` if this user has none.
    folder: Option<PathBuf>,
    records: Vec<StoreRecord>,
    problem: Option<String>,
}

impl StoreRecords {
    /// Reads the records in a folder, which need not exist.
    pub(super) fn load(folder: Option<&Path>) -> Self {
        let mut records = Self { folder: folder.map(Path::to_owned), records: Vec::new(), problem: None };
        match folder {
            Some(folder) => records.read(folder),
            None => records.note("there is no folder for it: HOME is not set".to_owned()),
        }
        records
    }

    fn read(&mut self, folder: &Path) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.note(error::io("read", folder)(error).to_string()),
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => return self.note(error::io("read", folder)(error).to_string()),
            };
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            if self.records.len() >= RECORDS_MAX {
                return self.note(format!("{} has more than {RECORDS_MAX} records", folder.display()));
            }
            match read_record(&path) {
                Ok(record) => self.records.push(record),
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.note(format!("{error}; remove this record of a store if it is damaged")),
            }
        }
    }

    /// The stores recorded at a path.
    pub(super) fn at<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a StoreRecord> {
        self.records.iter().filter(move |record| record.path.is(path))
    }

    /// Whether a store is recorded, at any path.
    pub(super) fn knows(&self, id: StoreId) -> bool {
        self.records.iter().any(|record| record.id == id)
    }

    /// Records a store, unless its record is up to date.
    pub(super) fn remember(&mut self, record: StoreRecord) {
        if self.records.contains(&record) {
            return;
        }
        let Some(folder) = &self.folder else { return };
        match write_record(folder, &record) {
            Ok(()) => {
                self.records.retain(|known| known.id != record.id);
                self.records.push(record);
            }
            Err(error) => self.note(error.to_string()),
        }
    }

    /// Removes the records of all other stores at a path.
    pub(super) fn forget_others(&mut self, path: &Path, id: StoreId) {
        let Some(folder) = self.folder.clone() else { return };
        let others: Vec<StoreId> =
            self.at(path).filter(|record| record.id != id).map(|record| record.id).collect();
        for other in others {
            match disk::remove(&path_of(&folder, other)) {
                Ok(_) => self.records.retain(|record| record.id != other),
                Err(error) => self.note(error.to_string()),
            }
        }
    }

    fn note(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }

    /// The first problem, if there was one.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

fn path_of(folder: &Path, id: StoreId) -> PathBuf {
    folder.join(id.to_string()).with_extension(EXTENSION)
}

fn read_record(path: &Path) -> Result<StoreRecord, StoreError> {
    let (file, _) = disk::open_regular(path)?;
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX).read_to_end(&mut bytes).map_err(error::io("read", path))?;
    serde_json::from_slice(&bytes).map_err(|error| error::invalid_input("use", path, error.to_string()))
}

fn write_record(folder: &Path, record: &StoreRecord) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(error::io("create the folder", folder))?;
    let path = path_of(folder, record.id);
    let mut text = serde_json::to_vec(record).map_err(|error| error::io("write", &path)(error.into()))?;
    text.push(b'\n');
    disk::replace(&path, disk::temporary_for(&path, &text, true, 0o600)?)?;
    disk::sync_folder(folder)
}

/// The canonical form of a path of which the last parts need not exist.
pub(super) fn canonical(path: &Path) -> Result<PathBuf, StoreError> {
    let path = std::path::absolute(path).map_err(error::io("find", path))?;
    for existing in path.ancestors() {
        match fs::canonicalize(existing) {
            Ok(found) => {
                let missing = path.strip_prefix(existing).unwrap_or(Path::new(""));
                return Ok(if missing.as_os_str().is_empty() { found } else { found.join(missing) });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error::io("find", existing)(error)),
        }
    }
    Ok(path)
}

/// The file system that has a path or its nearest existing parent: the UUID, or else the id that the file system
/// reports; `None` if it reports none.
pub(super) fn file_system(path: &Path) -> Option<String> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let device = fs::metadata(existing).ok()?.dev();
    let named = fs::read_dir(UUIDS).into_iter().flatten().flatten();
    let mut of_device =
        named.filter(|entry| fs::metadata(entry.path()).is_ok_and(|metadata| metadata.rdev() == device));
    if let Some(entry) = of_device.next() {
        return Some(entry.file_name().to_string_lossy().into_owned());
    }
    let id = rustix::fs::statvfs(existing).ok()?.f_fsid;
    (id != 0).then(|| format!("{id:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(path: &Path) -> StoreRecord {
        let file_system = Some("1234".to_owned());
        StoreRecord { id: StoreId::random().unwrap(), path: RecordedPath::new(path), file_system }
    }

    #[test]
    fn records_are_found_by_path_and_a_moved_store_has_one_record() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("state/stores");
        let load = || StoreRecords::load(Some(&folder));
        let path = Path::new(&std::ffi::OsStr::from_bytes(b"/disk/\xff")).to_owned();
        let (one, two) = (record(Path::new("/disk/one")), record(&path));
        let mut records = load();
        records.remember(one.clone());
        records.remember(two.clone());
        let records = load();
        assert_eq!(records.at(&path).collect::<Vec<_>>(), [&two]);
        assert!(records.knows(one.id) && records.at(Path::new("/disk")).next().is_none());
        let moved = StoreRecord { path: RecordedPath::new(Path::new("/other")), ..one.clone() };
        load().remember(moved.clone());
        let mut records = load();
        assert!(records.at(Path::new("/disk/one")).next().is_none());
        assert_eq!(records.at(Path::new("/other")).collect::<Vec<_>>(), [&moved]);
        records.forget_others(Path::new("/other"), two.id);
        assert!(!load().knows(one.id) && load().knows(two.id) && records.problem().is_none());
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn damaged_records_are_one_problem_and_the_others_are_used() {
        let place = tempfile::tempdir().unwrap();
        let good = record(Path::new("/disk"));
        let mut records = StoreRecords::load(Some(place.path()));
        records.remember(good.clone());
        for (name, text) in [("a.json", "{"), ("b.json", "[]"), ("c.json", "\u{0}"), ("notes", "x")] {
            fs::write(place.path().join(name), text).unwrap();
        }
        fs::create_dir(place.path().join("d.json")).unwrap();
        let records = StoreRecords::load(Some(place.path()));
        assert_eq!(records.at(Path::new("/disk")).collect::<Vec<_>>(), [&good]);
        let problem = records.problem().unwrap();
        assert!(problem.contains(".json") && problem.lines().count() == 1, "{problem}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_problem() {
        let place = tempfile::tempdir().unwrap();
        let blocked = place.path().join("file");
        fs::write(&blocked, "").unwrap();
        let mut records = StoreRecords::load(Some(&blocked.join("stores")));
        records.remember(record(Path::new("/disk")));
        assert!(records.problem().unwrap().contains("Not a directory"), "{:?}", records.problem());
        let mut records = StoreRecords::load(None);
        records.remember(record(Path::new("/disk")));
        assert!(records.problem().unwrap().contains("HOME"));
    }

    #[test]
    fn a_path_is_canonical_also_where_its_last_parts_do_not_exist() {
        let place = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(place.path()).unwrap();
        fs::create_dir(place.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", place.path().join("link")).unwrap();
        assert_eq!(canonical(&place.path().join("link/a/b")).unwrap(), real.join("real/a/b"));
        assert_eq!(canonical(&place.path().join("link/")).unwrap(), real.join("real"));
        assert!(file_system(&place.path().join("link/a")).is_none_or(|text| !text.is_empty()));
    }
}
