//! Executor of a tracker that keeps files: carries out its state machine's disk and network tasks.
//!
//! One thread publishes the files of a folder, one writes the catalogue, one distributes tasks to workers, and two
//! verify the chunks in the tracker's own store. Proofs have their own workers and connections, so that they delay no
//! copy. The executor never decides which peer stores which replica.
//! Invariants: each task gets an outcome while the tracker runs, conflicting tasks of one file in their order; an
//! outcome that reports data as durable comes after its fsync; the manifest of each file in the catalogue is served by
//! its id at all times; a file of the folder is deleted only on an order of the machine, only if it is unchanged, and only
//! if the order has not been revoked immediately before.
//!
//! If the catalogue cannot be read or written, the executor acknowledges nothing more and reports the failure: the
//! tracker must end then.

mod chunks;
mod corrupt;
mod local;
mod proofs;
mod publish;
mod recall;
mod record;
mod schedule;
mod source;
mod workers;

use crate::content::limits::{PROOF_MEMORY_BYTES, PROOF_TIMEOUT, RECEIVE_MEMORY_BYTES};
use crate::content::{FileId, FileName, Manifest};
use crate::download::connection_pool::ConnectionPool;
use crate::net::{MemoryBudget, Shutdown, Threads, Timeouts};
use crate::protocol::volunteer::KeptFile;
use crate::report::RoleError;
use crate::report::watch::Watch;
use crate::storage::{ChunkSource, ReplicaStore, SharedFolder};
use crate::swarm::keeping::{CorruptFile, TaskOutcome};
use crate::sync::lock;
use crate::tracker::permits::Permits;
use crate::tracker::store::{Catalogue, CatalogueError};
use crate::tracker::tasks::TaskReceiver;
use crate::upload::offers::Offers;
use crossbeam_channel::{Sender, unbounded};
use proofs::Stalled;
use source::ManifestOnly;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// Folders, catalogue and timeouts of an executor.
pub struct ExecutorConfig {
    /// The folder whose files are published (`--files`); `None` if the tracker keeps only the files
    /// of the catalogue.
    pub files: Option<PathBuf>,
    /// Log file of this program; never published, because each log line would change it.
    pub log_file: PathBuf,
    /// Durable records of files, volunteers and replicas.
    pub catalogue: Arc<dyn Catalogue>,
    /// The tracker's own store, for chunks that no volunteer has space for.
    pub store: ReplicaStore,
    /// Files that the tracker serves.
    pub offers: Offers,
    /// Shows the progress of hashing.
    pub watch: Arc<dyn Watch>,
    /// Timeouts of connections to volunteers.
    pub timeouts: Timeouts,
}

/// The executor's ends of the channels to the state machine and to the program.
pub struct TaskChannels {
    /// Tasks of the state machine.
    pub tasks: TaskReceiver,
    /// Outcomes of tasks, and changes in the folder and the store.
    pub outcomes: Sender<TaskOutcome>,
    /// Receives at most one error, after which the tracker must end: the catalogue has failed.
    pub failures: Sender<RoleError>,
}

/// Proof that the executor's threads were started. They end at the shutdown.
pub struct Executor {
    #[cfg(test)]
    inner: Arc<Inner>,
}

/// State that the executor's threads share.
struct Inner {
    folder: Option<Arc<SharedFolder>>,
    catalogue: Arc<dyn Catalogue>,
    store: ReplicaStore,
    offers: Offers,
    watch: Arc<dyn Watch>,
    /// The files in the catalogue, by id.
    known: Mutex<HashMap<FileId, KeptFile>>,
    /// Forgotten files that remain in the folder; not published until they change there.
    ignored: Mutex<HashSet<FileId>>,
    /// Files of the folder that were found corrupt, by name; not served until they change there.
    corrupt: Mutex<BTreeMap<FileName, CorruptFile>>,
    /// Files whose MD5 only volunteers have named; it is computed when the complete file is there.
    claimed_md5: Mutex<HashSet<FileId>>,
    /// Files with a queued order to forget them: a recall of them ends early.
    forgetting: Mutex<HashSet<FileId>>,
    /// Permits of the deletions that are queued or running.
    permits: Arc<Permits>,
    /// Held while a file of the folder is offered or withdrawn and the change is reported, so that
    /// both are atomic.
    offer_lock: Mutex<()>,
    /// The manifest that was read last.
    last_manifest: Mutex<Option<(FileId, Arc<Manifest>)>>,
    /// Connections to volunteers.
    pool: ConnectionPool,
    /// Budget for chunks that are being downloaded.
    memory: MemoryBudget,
    /// Connections to volunteers for proofs.
    proof_pool: ConnectionPool,
    /// Budget for chunks that proofs are compared with.
    proof_memory: MemoryBudget,
    /// Addresses at which the last demand for a proof stalled.
    stalled: Stalled,
    outcomes: Sender<TaskOutcome>,
    failures: Sender<RoleError>,
    threads: Threads,
    shutdown: Shutdown,
}

impl Executor {
    /// Serves all files of the catalogue by their ids and starts the threads.
    ///
    /// If the store has chunks of a file that is not in the catalogue, the file is added and reported as
    /// [`TaskOutcome::Adopted`]. Chunks of forgotten files are dropped.
    ///
    /// # Errors
    /// The catalogue or the folder cannot be read, another program shares the folder, or no thread can be started.
    pub fn start(
        config: ExecutorConfig,
        channels: TaskChannels,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> Result<Self, RoleError> {
        let ExecutorConfig { files, log_file, catalogue, store, offers, watch, timeouts } = config;
        let TaskChannels { tasks, outcomes, failures } = channels;
        let open = |files: PathBuf| {
            SharedFolder::open(&files).map(|folder| folder.with_shareable_files().without(&log_file))
        };
        let folder = files.map(open).transpose()?.map(Arc::new);
        if let Some(folder) = &folder {
            folder.restore()?;
        }
        let contents = catalogue.load()?;
        let known = contents.files.into_iter().map(|file| (file.kept.file.id, file.kept)).collect();
        let inner = Arc::new(Inner {
            folder: folder.clone(),
            catalogue,
            store,
            offers,
            watch,
            known: Mutex::new(known),
            ignored: Mutex::default(),
            corrupt: Mutex::new(contents.corrupt.into_iter().collect()),
            claimed_md5: Mutex::default(),
            forgetting: Mutex::default(),
            permits: tasks.permits,
            offer_lock: Mutex::default(),
            last_manifest: Mutex::default(),
            pool: ConnectionPool::new(timeouts),
            memory: MemoryBudget::new(RECEIVE_MEMORY_BYTES),
            proof_pool: ConnectionPool::new(proof_timeouts(timeouts)),
            proof_memory: MemoryBudget::new(PROOF_MEMORY_BYTES),
            stalled: Stalled::default(),
            outcomes,
            failures,
            threads: threads.clone(),
            shutdown: shutdown.clone(),
        });
        chunks::adopt_stored(&inner, &contents.forgotten)?;
        let ids: Vec<_> = lock(&inner.known).keys().copied().collect();
        ids.into_iter().for_each(|id| inner.serve_by_id(id));
        let (records, recorded) = unbounded();
        let recorder = inner.clone();
        threads.spawn("record", move || record::run(&recorder, &recorded))?;
        workers::start(&inner, tasks.tasks, records)?;
        chunks::start(&inner)?;
        match folder {
            Some(folder) => publish::Publisher::start(&inner, folder, &log_file)?,
            None => inner.report(TaskOutcome::ScanComplete),
        }
        Ok(Self {
            #[cfg(test)]
            inner,
        })
    }
}

impl Inner {
    /// Reports an outcome to the state machine.
    fn report(&self, outcome: TaskOutcome) {
        // Fails only when the tracker ends.
        let _ = self.outcomes.send(outcome);
    }

    /// Reports a failed catalogue, which ends the tracker.
    fn fail(&self, error: CatalogueError) {
        // The channel holds one error: only the first failure is reported.
        let _ = self.failures.try_send(error.into());
    }

    fn lock_offers(&self) -> MutexGuard<'_, ()> {
        lock(&self.offer_lock)
    }

    fn known(&self, id: FileId) -> Option<KeptFile> {
        lock(&self.known).get(&id).cloned()
    }

    fn is_ignored(&self, id: FileId) -> bool {
        lock(&self.ignored).contains(&id)
    }

    /// Sets whether a file is ignored: not published although it is in the folder.
    fn ignore(&self, id: FileId, ignored: bool) {
        let mut all = lock(&self.ignored);
        match ignored {
            true => _ = all.insert(id),
            false => _ = all.remove(&id),
        }
    }

    /// Notes that an order to forget the file is queued, until [`forget`](Self::forget) carries it out.
    fn begin_forgetting(&self, id: FileId) {
        lock(&self.forgetting).insert(id);
    }

    fn is_being_forgotten(&self, id: FileId) -> bool {
        lock(&self.forgetting).contains(&id)
    }

    /// Adds a file to the catalogue and serves it by its id.
    fn add_to_catalogue(&self, kept: &KeptFile, manifest: &Manifest) -> Result<(), CatalogueError> {
        self.catalogue.add_file(kept, manifest)?;
        lock(&self.known).insert(kept.file.id, kept.clone());
        self.serve_by_id(kept.file.id);
        Ok(())
    }

    /// Serves a file of the catalogue by its id: the chunks in the own store, or else only the
    /// manifest.
    fn serve_by_id(&self, id: FileId) {
        let Some(kept) = self.known(id) else { return };
        let source: Arc<dyn ChunkSource> = match self.store.file(id) {
            Some(file) => file,
            None => Arc::new(ManifestOnly::new(id, kept.file.chunks, self.catalogue.clone())),
        };
        self.offers.put(id, source);
    }

    /// The manifest of a file, from the catalogue. Reports a failed catalogue.
    fn manifest(&self, id: FileId) -> Option<Arc<Manifest>> {
        if let Some((_, manifest)) = lock(&self.last_manifest).as_ref().filter(|(last, _)| *last == id) {
            return Some(manifest.clone());
        }
        let manifest = self.catalogue.manifest(id).unwrap_or_else(|error| {
            self.fail(error);
            None
        })?;
        *lock(&self.last_manifest) = Some((id, manifest.clone()));
        Some(manifest)
    }
}

/// Timeouts of connections for proofs: a stalled holder must not occupy a worker for long.
fn proof_timeouts(timeouts: Timeouts) -> Timeouts {
    Timeouts {
        hello: timeouts.hello.min(PROOF_TIMEOUT),
        stall: timeouts.stall.min(PROOF_TIMEOUT),
        ..timeouts
    }
}

#[cfg(test)]
mod tests;
