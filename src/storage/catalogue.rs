//! What a tracker must not forget: which files it keeps, their manifests, who its volunteers are, and what they hold.
//!
//! Behind [`Catalogue`] so that tests can put something else in its place; [`RedbCatalogue`] keeps it in one file,
//! `catalogue.redb` in the state folder. Nothing here decides anything, and nothing that changes every few seconds, as
//! heartbeats do, comes near it. Invariants: what a call has acknowledged is durable and survives `kill -9` and a power
//! cut at any instant, all of a call or nothing; a catalogue is taken as a whole or refused as a whole: before it is
//! opened for writing, every checksum and every value in it has been looked at, on a copy in memory of what opening
//! would change, so that a refused file is left exactly as it was found.

mod rehearsal;
mod rows;

use super::disk;
use super::error::{self, StoreError};
use crate::content::{FileId, HaveMap, Manifest, limits};
use crate::protocol::volunteer::KeptFile;
use crate::swarm::keeping::{Change, FileRecord, VolunteerNumber, VolunteerRecord};
use redb::backends::FileBackend;
use redb::{Builder, Database, Durability, StorageBackend, WriteTransaction};
use rehearsal::CopyOnWriteFile;
use rows::{FILES, FORGOTTEN, HELD, MANIFESTS, META, SCHEMA, SCHEMA_KEY, VOLUNTEERS};
use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

/// The catalogue's file in the state folder.
const FILE: &str = "catalogue.redb";
/// What it is written under before it is complete for the first time.
const NEW_FILE: &str = "catalogue.redb.new";

/// Everything that a catalogue says, but for the manifests.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// The files that are kept, by id.
    pub files: Vec<FileRecord>,
    /// The volunteers, by number.
    pub volunteers: Vec<VolunteerRecord>,
    /// What each volunteer holds of each file: never nothing, and only of files and volunteers above.
    pub held: Vec<(FileId, VolunteerNumber, HaveMap)>,
    /// Files that are not kept any more.
    pub forgotten: Vec<FileId>,
}

/// Where a tracker remembers what it keeps. Calls may come from several threads; each waits for the one before.
pub trait Catalogue: Send + Sync {
    /// All of it.
    ///
    /// # Errors
    /// It cannot be read, or says what cannot be.
    fn load(&self) -> Result<Contents, CatalogueError>;

    /// Takes a file in, durably, with its manifest; one that was forgotten is kept again. Of a file that is known only
    /// the name is altered, if it differs.
    ///
    /// # Errors
    /// It cannot be written, or the manifest is not that of the file.
    fn add_file(&self, kept: &KeptFile, manifest: &Manifest) -> Result<(), CatalogueError>;

    /// The manifest of a file, checked against the id; `None` for a file that is not kept.
    ///
    /// # Errors
    /// It cannot be read, or is another file's.
    fn manifest(&self, id: FileId) -> Result<Option<Arc<Manifest>>, CatalogueError>;

    /// Makes changes, in order, all or none, durably. What is said of a file that is not kept is passed over.
    ///
    /// # Errors
    /// They cannot be written, or do not fit what is there: a volunteer that is not known, a map of another file. After
    /// an error that is not [`CatalogueError::Inconsistent`] further calls may fail, too.
    fn commit(&self, changes: &[Change]) -> Result<(), CatalogueError>;
}

/// Why a catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file cannot be read or written, the disk is full, or another tracker uses the folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not a catalogue, or not as it was written.
    #[error(
        "the catalogue {} is damaged and has been left as it is: {why}. With --rebuild it is moved aside, and a new one \
         is made from --files and from what the volunteers report", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Written by another version of this program.
    #[error("the catalogue {} is of version {found}; this program knows version {SCHEMA}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// What is to be written does not fit together, which is the caller's fault. Nothing has been written.
    #[error("the catalogue is to say what cannot be: {0}")]
    Inconsistent(String),
}

/// What goes wrong on the way, before it is known with which file.
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

/// A catalogue in a file.
pub struct RedbCatalogue {
    database: Database,
    path: PathBuf,
    /// No other tracker uses the folder meanwhile.
    _lock: Option<File>,
}

impl RedbCatalogue {
    /// Opens the catalogue in a state folder; folder and catalogue are made where there are none.
    ///
    /// # Errors
    /// [`CatalogueError::Damaged`] and [`CatalogueError::Version`], which leave the file as it is; another tracker uses
    /// the folder; it cannot be read or written.
    pub fn open(folder: &Path) -> Result<Self, CatalogueError> {
        let lock = take_folder(folder)?;
        Self::open_locked(folder, lock)
    }

    /// Moves a catalogue that is there aside, to `catalogue.redb.before-rebuild-` and the first free number, and starts
    /// with an empty one.
    ///
    /// # Errors
    /// As for [`open`](Self::open), and when the file cannot be moved.
    pub fn rebuild(folder: &Path) -> Result<Self, CatalogueError> {
        let lock = take_folder(folder)?;
        let path = folder.join(FILE);
        if exists(&path)? {
            let aside = (1..).map(|number: u32| folder.join(format!("{FILE}.before-rebuild-{number}")));
            for aside in aside {
                if !exists(&aside)? {
                    fs::rename(&path, &aside).map_err(error::io("move aside", &path))?;
                    disk::sync_folder(folder)?;
                    log::warn!("the catalogue that was there is {} now", aside.display());
                    break;
                }
            }
        }
        Self::open_locked(folder, lock)
    }

    fn open_locked(folder: &Path, lock: Option<File>) -> Result<Self, CatalogueError> {
        let path = folder.join(FILE);
        match exists(&path)? {
            true => rehearse(&path)?,
            false => create(folder, &path)?,
        }
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(error::io("open", &path))?;
        let database =
            catch_redb_panic(&path, || Ok(builder().create_with_backend(FileBackend::new(file)?)?))?;
        Ok(Self { database, path, _lock: lock })
    }

    /// A catalogue on something else than a file, which is made ready if it is empty.
    #[cfg(test)]
    fn on(backend: impl StorageBackend) -> Result<Self, CatalogueError> {
        let path = PathBuf::from("memory");
        let database = catch_redb_panic(&path, || {
            let database = builder().create_with_backend(backend)?;
            if redb::ReadableDatabase::begin_read(&database)?.list_tables()?.count() == 0 {
                prepare(&database)?;
            }
            Ok(database)
        })?;
        Ok(Self { database, path, _lock: None })
    }

    /// A transaction that is durable once this returns.
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
            Some(row) if row.kept.file.name == kept.file.name => Ok(()),
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
    builder.set_cache_size(limits::CATALOGUE_CACHE);
    builder
}

fn begin(database: &Database) -> Result<WriteTransaction, DbError> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    // After a crash it is opened at once, and as it was acknowledged: nothing is guessed from checksums.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Makes the state folder if there is none, and takes it for this tracker alone.
fn take_folder(folder: &Path) -> Result<Option<File>, StoreError> {
    fs::create_dir_all(folder).map_err(error::io("create", folder))?;
    disk::lock_folder(folder)
}

fn exists(path: &Path) -> Result<bool, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error::io("look at", path)(error)),
    }
}

/// Makes an empty catalogue. It appears under its name when it is complete: one that is there and is not as it should
/// be has therefore been damaged, and not merely begun.
fn create(folder: &Path, path: &Path) -> Result<(), CatalogueError> {
    let new = folder.join(NEW_FILE);
    let mut options = OpenOptions::new();
    // What volunteers prove themselves by is in it.
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&new).map_err(error::io("create", &new))?;
    let synced = file.try_clone().map_err(error::io("create", &new))?;
    catch_redb_panic(&new, || prepare(&builder().create_with_backend(FileBackend::new(file)?)?))?;
    synced.sync_all().map_err(error::io("sync", &new))?;
    fs::rename(&new, path).map_err(error::io("create", path))?;
    Ok(disk::sync_folder(folder)?)
}

/// Makes every table, so that a table that is missing later has been lost.
fn prepare(database: &Database) -> Result<(), DbError> {
    let transaction = begin(database)?;
    transaction.open_table(META)?.insert(SCHEMA_KEY, SCHEMA)?;
    transaction.open_table(FILES)?;
    transaction.open_table(MANIFESTS)?;
    transaction.open_table(VOLUNTEERS)?;
    transaction.open_table(HELD)?;
    transaction.open_table(FORGOTTEN)?;
    Ok(transaction.commit()?)
}

/// Opens, checks and reads a catalogue without writing to it.
fn rehearse(path: &Path) -> Result<(), CatalogueError> {
    let (file, stamp) = disk::open_regular(path)?;
    if stamp.size == 0 {
        let why = "it is empty".to_owned();
        return Err(CatalogueError::Damaged { path: path.to_owned(), why });
    }
    catch_redb_panic(path, || verify_on(CopyOnWriteFile::of(file, stamp.size)))
}

fn verify_on(backend: impl StorageBackend) -> Result<(), DbError> {
    let mut database = builder().create_with_backend(backend)?;
    rows::check_version(&database)?;
    // What it would repair, it would repair to an earlier state.
    if !database.check_integrity()? {
        return Err(DbError::Invalid("checksums do not match".to_owned()));
    }
    rows::read_all(&database).map(drop)
}

thread_local! {
    /// A panic of this thread is expected, and will be said in other words.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Does something whose panic is caught, so that people see the error that it becomes and not a stack trace.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = work();
    QUIET.set(before);
    result
}

/// Does something with redb, which may panic on a file that it did not write.
fn catch_redb_panic<T>(path: &Path, work: impl FnOnce() -> Result<T, DbError>) -> Result<T, CatalogueError> {
    let damaged = |why| CatalogueError::Damaged { path: path.to_owned(), why };
    // What panicked is not used again: every call after it fails, or nobody has it any more.
    let caught = quietly(|| catch_unwind(AssertUnwindSafe(work)));
    let done = caught.map_err(|_| damaged("it does not hang together".into()))?;
    done.map_err(|trouble| match trouble {
        DbError::Invalid(why) => damaged(why),
        DbError::Version(found) => CatalogueError::Version { path: path.to_owned(), found },
        DbError::Inconsistent(why) => CatalogueError::Inconsistent(why),
        DbError::Redb(error) => match error {
            redb::Error::Io(source) => match source.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => damaged(source.to_string()),
                // How much it would have grown by is not known; it does so in steps.
                _ => error::write("write", path, limits::CATALOGUE_GROWTH)(source).into(),
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

#[cfg(test)]
#[path = "catalogue/crash_tests.rs"]
mod crash_tests;
#[cfg(test)]
mod tests;
