//! Marker of a volunteer's store: a file with a random id, and the check that the store is still at its path.
//!
//! Where a disk is not mounted, the path of its store leads to the folder below the mount point, which has no
//! marker. Invariant: [`StoreRoot::require`] and [`StoreRoot::confirm`] succeed only while the path leads to the
//! folder that was opened, and after a failure only after [`StoreRoot::restore`].

use super::disk;
use super::error::{self, StoreError};
use crate::content::serde_str;
use crate::sync::lock;
use rustix::fs::Advice;
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

/// Name of the marker file in a store.
pub(super) const MARKER: &str = "store-id";
/// Longest marker file, bytes.
const MARKER_BYTES_MAX: u64 = 256;

/// Id of a store: random, not secret. It is not the key, which identifies the volunteer to its tracker.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreId(u128);

impl StoreId {
    /// A new random id.
    pub(super) fn random() -> io::Result<Self> {
        let mut number = [0; 16];
        getrandom::fill(&mut number).map_err(io::Error::other)?;
        Ok(Self(u128::from_be_bytes(number)))
    }

    /// The first 12 digits, for messages.
    pub fn short(self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

impl FromStr for StoreId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match serde_str::hex_number(text.as_bytes()) {
            Some(number) if text.len() == 32 => Ok(Self(number)),
            _ => Err("expected 32 hexadecimal digits"),
        }
    }
}

impl Serialize for StoreId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoreId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        serde_str::deserialize(from, "32 hexadecimal digits", str::parse)
    }
}

/// Reads the marker of a store; `None` if the folder or the marker does not exist.
///
/// # Errors
/// The marker cannot be read, or is damaged ([`io::ErrorKind::InvalidData`]).
pub(super) fn read(root: &Path) -> Result<Option<StoreId>, StoreError> {
    match open(root) {
        Ok((mut file, path)) => parse(&mut file, &path).map(Some),
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a marker was read, but has no id.
pub(super) fn is_damaged(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::InvalidData)
}

/// Writes the marker of a store, durably.
pub(super) fn write(root: &Path, id: StoreId) -> Result<(), StoreError> {
    let path = root.join(MARKER);
    disk::replace(&path, disk::temporary(&path, format!("{id}\n").as_bytes(), true)?)?;
    disk::sync_folder(root)
}

fn open(root: &Path) -> Result<(File, PathBuf), StoreError> {
    let path = root.join(MARKER);
    disk::open_regular(&path).map(|(file, _)| (file, path))
}

fn parse(file: &mut File, path: &Path) -> Result<StoreId, StoreError> {
    let mut text = String::new();
    file.take(MARKER_BYTES_MAX).read_to_string(&mut text).map_err(error::io("read", path))?;
    text.trim()
        .parse()
        .map_err(|reason| error::io("use", path)(io::Error::new(io::ErrorKind::InvalidData, reason)))
}

/// The folder of a store, and whether its path still leads to it.
pub(super) struct StoreRoot {
    path: PathBuf,
    state: Mutex<RootState>,
}

struct RootState {
    /// The id in the marker; `None` for a store without a marker, which is never checked.
    id: Option<StoreId>,
    /// The opened folder. It has the lock against other processes, where the file system has locks.
    folder: File,
    /// Cause of the absence; `None` while the store is there.
    absence: Option<String>,
}

impl StoreRoot {
    /// Opens and locks a folder. It is not checked before [`set_id`](Self::set_id).
    ///
    /// # Errors
    /// [`StoreError::Busy`] if another process has locked the folder, or the folder cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let state = RootState { id: None, folder: lock_folder(path)?, absence: None };
        Ok(Self { path: path.to_owned(), state: Mutex::new(state) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the id that the marker has.
    pub(super) fn set_id(&self, id: StoreId) {
        lock(&self.state).id = Some(id);
    }

    /// Whether the last check found the store.
    pub(super) fn is_present(&self) -> bool {
        lock(&self.state).absence.is_none()
    }

    /// Checks that the path leads to the opened folder. Opens no file.
    ///
    /// # Errors
    /// [`StoreError::StoreAbsent`].
    pub(super) fn require(&self) -> Result<(), StoreError> {
        self.check(|_| Ok(()))
    }

    /// Checks as [`require`](Self::require) does, and reads the marker.
    ///
    /// # Errors
    /// [`StoreError::StoreAbsent`], or another error that says nothing about the store, such as too many open files.
    pub(super) fn inspect(&self) -> Result<(), StoreError> {
        self.check(|id| self.read_marker(id, false))
    }

    /// Checks as [`inspect`](Self::inspect) does, and reads the marker from the disk, not from the page cache.
    ///
    /// # Errors
    /// As [`inspect`](Self::inspect).
    pub(super) fn confirm(&self) -> Result<(), StoreError> {
        self.check(|id| self.read_marker(id, true))
    }

    /// Whether the marker can be read at the path again. Alters nothing.
    ///
    /// # Errors
    /// The store is absent, or its marker cannot be read.
    pub(super) fn look(&self) -> Result<(), StoreError> {
        let id = lock(&self.state).id;
        id.map_or(Ok(()), |id| self.read_marker(id, true))
    }

    /// Opens and locks the folder at the path again, for [`restore`](Self::restore).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn reopen(&self) -> Result<File, StoreError> {
        let state = lock(&self.state);
        // This process has the lock already if it is the same folder.
        match is_same(&state.folder, &self.path) {
            Ok(true) => state.folder.try_clone().map_err(error::io("open", &self.path)),
            _ => lock_folder(&self.path),
        }
    }

    /// Ends the absence: the folder is that of the path from now on.
    pub(super) fn restore(&self, folder: File) {
        let mut state = lock(&self.state);
        state.folder = folder;
        state.absence = None;
    }

    fn check(&self, more: impl FnOnce(StoreId) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let Some(id) = state.id else { return Ok(()) };
        if let Some(reason) = &state.absence {
            return Err(self.absent(reason.clone()));
        }
        let checked = match is_same(&state.folder, &self.path) {
            Ok(true) => more(id),
            Ok(false) => Err(self.absent("another folder is at its path".to_owned())),
            Err(error) => Err(error::io("read the metadata of", &self.path)(error)),
        };
        match checked {
            Err(error) if !is_inconclusive(&error) => {
                let reason = match error {
                    StoreError::StoreAbsent { reason, .. } => reason,
                    error => error.to_string(),
                };
                state.absence = Some(reason.clone());
                Err(self.absent(reason))
            }
            checked => checked,
        }
    }

    fn read_marker(&self, id: StoreId, from_disk: bool) -> Result<(), StoreError> {
        let (mut file, path) = open(&self.path)?;
        if from_disk {
            // Clean pages are dropped. A failure only means that the cache is read.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        }
        let found = parse(&mut file, &path)?;
        match found == id {
            true => Ok(()),
            false => Err(self.absent(format!("store {} is at its path", found.short()))),
        }
    }

    fn absent(&self, reason: String) -> StoreError {
        StoreError::StoreAbsent { path: self.path.clone(), reason }
    }
}

/// Locks a folder; without locks of the file system, only opens it.
fn lock_folder(path: &Path) -> Result<File, StoreError> {
    match disk::lock_folder(path)? {
        Some(folder) => Ok(folder),
        None => File::open(path).map_err(error::io("open", path)),
    }
}

/// Whether a path leads to an open folder.
fn is_same(folder: &File, path: &Path) -> io::Result<bool> {
    let (opened, found) = (folder.metadata()?, fs::metadata(path)?);
    Ok((opened.dev(), opened.ino()) == (found.dev(), found.ino()))
}

/// Whether an error is a lack of resources of this process or host, which says nothing about the store.
fn is_inconclusive(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else { return false };
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
    passing.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_back_and_a_damaged_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), None);
        assert_eq!(read(&folder.path().join("missing")).unwrap(), None);
        let id = StoreId::random().unwrap();
        write(folder.path(), id).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some(id));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(serde_json::from_str::<StoreId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
        for damaged in ["", "2a\n", "\u{e9}", &"x".repeat(1 << 20)] {
            fs::write(folder.path().join(MARKER), damaged).unwrap();
            assert!(is_damaged(&read(folder.path()).unwrap_err()));
        }
    }

    #[test]
    fn a_store_is_absent_until_its_marker_is_back_and_it_is_restored() {
        let place = tempfile::tempdir().unwrap();
        let (path, away) = (place.path().join("store"), place.path().join("away"));
        fs::create_dir(&path).unwrap();
        let id = StoreId::random().unwrap();
        write(&path, id).unwrap();
        let root = StoreRoot::open(&path).unwrap();
        root.set_id(id);
        assert!(root.require().is_ok() && root.inspect().is_ok() && root.confirm().is_ok());
        let absent = |checked: Result<(), StoreError>| matches!(checked, Err(StoreError::StoreAbsent { .. }));
        fs::rename(&path, &away).unwrap();
        let error = root.require().unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains("No such file"), "{error}");
        // An empty folder at the path is not the store.
        fs::create_dir(&path).unwrap();
        assert!(absent(root.require()) && root.look().is_err() && !root.is_present());
        fs::remove_dir(&path).unwrap();
        fs::rename(&away, &path).unwrap();
        assert!(root.look().is_ok());
        assert!(absent(root.require()), "only `restore` ends an absence");
        root.restore(root.reopen().unwrap());
        assert!(root.confirm().is_ok() && root.is_present());
        // A store without its marker, and another store.
        fs::remove_file(path.join(MARKER)).unwrap();
        assert!(root.require().is_ok() && absent(root.inspect()));
        write(&path, StoreId::random().unwrap()).unwrap();
        assert!(absent(root.inspect()) && absent(root.look()));
    }

    #[test]
    fn a_store_without_a_marker_is_never_absent() {
        let folder = tempfile::tempdir().unwrap();
        let root = StoreRoot::open(folder.path()).unwrap();
        folder.close().unwrap();
        assert!(root.require().is_ok() && root.confirm().is_ok() && root.is_present());
    }

    #[test]
    fn a_lack_of_descriptors_does_not_make_a_store_absent() {
        let path = Path::new("/x");
        assert!(is_inconclusive(&error::io("open", path)(Errno::MFILE.into())));
        assert!(!is_inconclusive(&error::io("open", path)(Errno::IO.into())));
    }
}
