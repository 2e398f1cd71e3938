//! Catalogue: the durable records of a tracker: its files, their manifests, its volunteers, and
//! their replicas.
//!
//! The trait [`Catalogue`] allows other implementations in tests; [`RedbCatalogue`] stores the
//! records in one file, `catalogue.redb`, in the state folder. The module decides nothing, and
//! heartbeats never access it.
//!
//! Invariants: an acknowledged call is durable and atomic, and survives `kill -9` and a power cut
//! at any time. A catalogue is accepted or rejected as a whole: before the file is opened for
//! writing, every checksum and every record is verified on a copy-on-write view, so a rejected file
//! stays exactly as it was.

mod copy_on_write;
mod rows;

use crate::content::{Bitfield, FileId, FileName, Manifest, limits};
use crate::protocol::volunteer::KeptFile;
use crate::report::{Fault, RoleError};
use crate::storage::disk;
use crate::storage::error::{self, StoreError};
use crate::swarm::keeping::{Change, CorruptFile, FileRecord, VolunteerNumber, VolunteerRecord};
use copy_on_write::CopyOnWriteFile;
use redb::backends::FileBackend;
use redb::{Builder, Database, Durability, StorageBackend, WriteTransaction};
use rows::{FILES, FORGOTTEN, HELD, MANIFESTS, META, SCHEMA, SCHEMA_KEY, VOLUNTEERS};
use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

/// File name of the catalogue in the state folder.
const FILE: &str = "catalogue.redb";
/// Its name until it is complete for the first time.
const NEW_FILE: &str = "catalogue.redb.new";

/// All records of a catalogue except the manifests.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// The tracker's files, by id.
    pub files: Vec<FileRecord>,
    /// The volunteers, by number.
    pub volunteers: Vec<VolunteerRecord>,
    /// The chunks that each volunteer holds of each file. No bitmap is empty, and each refers to a
    /// file and a volunteer above.
    pub held: Vec<(FileId, VolunteerNumber, Bitfield)>,
    /// Files that the tracker no longer keeps.
    pub forgotten: Vec<FileId>,
    /// The corrupt files of the folder, by name.
    pub corrupt: Vec<(FileName, CorruptFile)>,
}

/// Durable records of a tracker. Calls may come from several threads and are serialised.
pub trait Catalogue: Send + Sync {
    /// Reads all records.
    ///
    /// # Errors
    /// The catalogue cannot be read, or its records are inconsistent.
    fn load(&self) -> Result<Contents, CatalogueError>;

    /// Adds a file with its manifest, durably. A forgotten file is kept again; of a known file,
    /// only name and MD5 are updated.
    ///
    /// # Errors
    /// The catalogue cannot be written, or the manifest belongs to another file.
    fn add_file(&self, kept: &KeptFile, manifest: &Manifest) -> Result<(), CatalogueError>;

    /// Reads the manifest of a file and verifies it against the id; `None` if the file is not kept.
    ///
    /// # Errors
    /// The catalogue cannot be read, or the manifest belongs to another file.
    fn manifest(&self, id: FileId) -> Result<Option<Arc<Manifest>>, CatalogueError>;

    /// Applies changes in order, durably, all or none. Changes of a file that is not kept are
    /// ignored.
    ///
    /// # Errors
    /// The catalogue cannot be written, or the changes are inconsistent with it: an unknown
    /// volunteer, or a bitmap of another file. After any error but
    /// [`CatalogueError::Inconsistent`], further calls may fail, too.
    fn commit(&self, changes: &[Change]) -> Result<(), CatalogueError>;
}

/// Why a catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file cannot be read or written, the disk is full, or another tracker uses the folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file is no catalogue, or has been damaged.
    #[error(
        "the catalogue {} is damaged and was not changed: {why}. Run with --rebuild to rename it and \
         to create a new one from --files and the reports of the volunteers", path.display()
    )]
    Damaged {
        /// Path of the catalogue file.
        path: PathBuf,
        /// The damage.
        why: String,
    },
    /// The file was written by another version of this program.
    #[error(
        "the catalogue {} has version {found}; this program supports version {SCHEMA}: use the program \
         that wrote it, or --rebuild",
        path.display()
    )]
    Version {
        /// Path of the catalogue file.
        path: PathBuf,
        /// Its schema version.
        found: u64,
    },
    /// The records to be written are inconsistent, which is an error of the caller. Nothing has
    /// been written.
    #[error("inconsistent change of the catalogue: {0}")]
    Inconsistent(String),
}

/// An error before the path of the file is added.
enum DbError {
    Redb(redb::Error),
    Invalid(String),
    Version(u64),
    Inconsistent(String),
}

macro_rules! from_redb {
    ($($error:ident)+) => {$(
        impl From<redb::$error> for DbError {
            fn from(error: redb::$error) -> Self {
                DbError::Redb(error.into())
            }
        }
    )+};
}

from_redb! { StorageError TableError TransactionError CommitError DatabaseError SetDurabilityError }

/// A catalogue in a redb file.
pub struct RedbCatalogue {
    database: Database,
    path: PathBuf,
    /// The state folder's lock, against other trackers.
    _lock: Option<File>,
}

impl RedbCatalogue {
    /// Opens the catalogue in a state folder; creates folder and catalogue if they do not exist.
    ///
    /// # Errors
    /// [`CatalogueError::Damaged`] and [`CatalogueError::Version`], which leave the file unchanged;
    /// another tracker uses the folder; an I/O error.
    pub fn open(folder: &Path) -> Result<Self, CatalogueError> {
        let lock = lock_state_folder(folder)?;
        Self::open_locked(folder, lock)
    }

    /// Renames an existing catalogue to `catalogue.redb.before-rebuild-` and the first free number,
    /// and creates an empty one.
    ///
    /// # Errors
    /// As for [`open`](Self::open), or the file cannot be renamed.
    pub fn rebuild(folder: &Path) -> Result<Self, CatalogueError> {
        let lock = lock_state_folder(folder)?;
        let path = folder.join(FILE);
        if exists(&path)? {
            let aside = (1..).map(|number: u32| folder.join(format!("{FILE}.before-rebuild-{number}")));
            for aside in aside {
                if !exists(&aside)? {
                    fs::rename(&path, &aside).map_err(error::io("rename", &path))?;
                    disk::sync_folder(folder)?;
                    log::warn!("renamed the old catalogue to {}", aside.display());
                    break;
                }
            }
        }
        Self::open_locked(folder, lock)
    }

    fn open_locked(folder: &Path, lock: Option<File>) -> Result<Self, CatalogueError> {
        let path = folder.join(FILE);
        match exists(&path)? {
            true => verify_read_only(&path)?,
            false => create(folder, &path)?,
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(error::io("open", &path))?;
        let database =
            catch_redb_panic(&path, || Ok(builder().create_with_backend(FileBackend::new(file)?)?))?;
        Ok(Self { database, path, _lock: lock })
    }

    /// Opens a catalogue on any backend; an empty backend is initialised.
    #[cfg(test)]
    fn on(backend: impl StorageBackend) -> Result<Self, CatalogueError> {
        let path = PathBuf::from("memory");
        let database = catch_redb_panic(&path, || {
            let database = builder().create_with_backend(backend)?;
            if redb::ReadableDatabase::begin_read(&database)?.list_tables()?.count() == 0 {
                create_tables(&database)?;
            }
            Ok(database)
        })?;
        Ok(Self { database, path, _lock: None })
    }

    /// Runs one transaction; it is durable when this returns.
    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, DbError>,
    ) -> Result<T, CatalogueError> {
        catch_redb_panic(&self.path, || {
            let transaction = begin(&self.database)?;
            let done = work(&transaction)?;
            transaction.commit()?;
            Ok(done)
        })
    }
}

impl Catalogue for RedbCatalogue {
    fn load(&self) -> Result<Contents, CatalogueError> {
        catch_redb_panic(&self.path, || rows::read_all(&self.database))
    }

    fn add_file(&self, kept: &KeptFile, manifest: &Manifest) -> Result<(), CatalogueError> {
        let known = catch_redb_panic(&self.path, || rows::file(&self.database, kept.file.id))?;
        match known {
            Some(row) if row.kept == *kept => Ok(()),
            _ => self.write(|transaction| rows::put_file(transaction, kept, manifest)),
        }
    }

    fn manifest(&self, id: FileId) -> Result<Option<Arc<Manifest>>, CatalogueError> {
        catch_redb_panic(&self.path, || rows::manifest(&self.database, id)).map(|found| found.map(Arc::new))
    }

    fn commit(&self, changes: &[Change]) -> Result<(), CatalogueError> {
        match changes {
            [] => Ok(()),
            changes => self.write(|transaction| rows::apply(transaction, changes)),
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(limits::CATALOGUE_CACHE_BYTES);
    builder
}

fn begin(database: &Database) -> Result<WriteTransaction, DbError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // After a crash, the file opens at once in its last acknowledged state, without a scan of all
    // checksums.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Creates the state folder if it does not exist, and locks it against other trackers.
fn lock_state_folder(folder: &Path) -> Result<Option<File>, StoreError> {
    fs::create_dir_all(folder).map_err(error::io("create", folder))?;
    disk::lock_folder(folder)
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error::io("read the metadata of", path)(error)),
    }
}

/// Creates an empty catalogue. It gets its name when it is complete: an invalid file of that name
/// was therefore damaged, not left half created.
fn create(folder: &Path, path: &Path) -> Result<(), CatalogueError> {
    let new = folder.join(NEW_FILE);
    let mut options = OpenOptions::new();
    // It contains the keys by which volunteers prove their identity.
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&new).map_err(error::io("create", &new))?;
    let synced = file.try_clone().map_err(error::io("create", &new))?;
    catch_redb_panic(&new, || create_tables(&builder().create_with_backend(FileBackend::new(file)?)?))?;
    disk::sync(&synced).map_err(error::io("sync", &new))?;
    fs::rename(&new, path).map_err(error::io("create", path))?;
    Ok(disk::sync_folder(folder)?)
}

/// Creates all tables, so that a table missing later was lost.
fn create_tables(database: &Database) -> Result<(), DbError> {
    let transaction = begin(database)?;
    transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
    transaction.open_table(FILES)?;
    transaction.open_table(MANIFESTS)?;
    transaction.open_table(VOLUNTEERS)?;
    transaction.open_table(HELD)?;
    transaction.open_table(FORGOTTEN)?;
    Ok(transaction.commit()?)
}

/// Verifies a catalogue without writing to its file.
fn verify_read_only(path: &Path) -> Result<(), CatalogueError> {
    let (file, stamp) = disk::open_regular(path)?;
    if stamp.size == 0 {
        let why = "the file is empty".to_owned();
        return Err(CatalogueError::Damaged { path: path.to_owned(), why });
    }
    catch_redb_panic(path, || verify_on(CopyOnWriteFile::of(file, stamp.size)))
}

fn verify_on(backend: impl StorageBackend) -> Result<(), DbError> {
    let mut database = builder().create_with_backend(backend)?;
    rows::check_version(&database)?;
    // A repair would go back to an earlier state, so reject the file instead.
    if !database.check_integrity()? {
        return Err(DbError::Invalid("checksums do not match".to_owned()));
    }
    rows::read_all(&database).map(drop)
}

thread_local! {
    /// Whether a panic of this thread is expected; it becomes an error and is not printed.
    static PANIC_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` without printing its panic, which the caller converts to an error.
fn without_panic_output<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !PANIC_EXPECTED.get() {
                usual(info);
            }
        }));
    });
    let before = PANIC_EXPECTED.replace(true);
    let result = work();
    PANIC_EXPECTED.set(before);
    result
}

/// Runs `work` with redb and converts a panic to an error: redb may panic on a damaged file.
fn catch_redb_panic<T>(path: &Path, work: impl FnOnce() -> Result<T, DbError>) -> Result<T, CatalogueError> {
    let damaged = |why| CatalogueError::Damaged { path: path.to_owned(), why };
    // The database is not used after a panic: later calls fail, or it has been dropped.
    let caught = without_panic_output(|| catch_unwind(AssertUnwindSafe(work)));
    let done = caught.map_err(|_| damaged("its structure is inconsistent".into()))?;
    done.map_err(|error| match error {
        DbError::Invalid(why) => damaged(why),
        DbError::Version(found) => CatalogueError::Version { path: path.to_owned(), found },
        DbError::Inconsistent(why) => CatalogueError::Inconsistent(why),
        DbError::Redb(error) => match error {
            redb::Error::Io(source) => match source.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => damaged(source.to_string()),
                // The growth of the file is not known; it grows in steps.
                _ => error::write("write", path, limits::CATALOGUE_GROWTH_BYTES)(source).into(),
            },
            redb::Error::DatabaseAlreadyOpen => StoreError::Busy(path.to_owned()).into(),
            redb::Error::PreviousIo
            | redb::Error::DatabaseClosed
            | redb::Error::LockPoisoned(_)
            | redb::Error::ValueTooLarge(_) => error::io("write", path)(io::Error::other(error)).into(),
            error => damaged(error.to_string()),
        },
    })
}

impl From<CatalogueError> for RoleError {
    fn from(error: CatalogueError) -> Self {
        match error {
            CatalogueError::Store(error) => error.into(),
            CatalogueError::Damaged { .. } | CatalogueError::Version { .. } => {
                Self::from_error(Fault::FileAccess, error)
            }
            CatalogueError::Inconsistent(_) => Self::from_error(Fault::Other, error),
        }
    }
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
