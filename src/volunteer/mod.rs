//! Volunteer: offers disk space to a tracker, which stores replicas of chunks there.
//!
//! Runs beside a [`Member`](crate::roles::folder_client::Member) and serves its replicas from the same listener. It makes no
//! decisions: it reports its chunks, carries out the tracker's orders, answers each order, and hashes the chunks of
//! previous runs. Invariants: a chunk is reported as verified only if it is durable and was verified by this process,
//! otherwise as unverified; all orders of one session have ended before the next session begins; the state thread never
//! waits for a socket or a disk.

mod activity_log;
mod checker;
mod copier;
mod disk_orders;
mod prover;
mod report;
mod state;
mod store_watch;

#[cfg(feature = "fuzzing")]
pub use state::drive::drive;

use crate::content::FileId;
use crate::content::fmt::{counted, size};
use crate::content::limits::{COPY_WORKERS_MAX, ORDERS_MAX, SOURCE_IDLE_TIMEOUT};
use crate::net::{Endpoint, Shutdown, Threads, Timeouts};
use crate::protocol::volunteer::VolunteerReport;
use crate::report::error::{Fault, RoleError};
use crate::storage::{self, ReplicaStore, StoreMemory};
use crate::sync::lock;
use crate::tracker_client::presence::{Presence, VOLUNTEER};
use crate::tracker_client::session::{self, SessionConfig};
use crate::upload::offers::Offers;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Capacity of each queue to the state thread: session events, worker results, verified chunks.
const QUEUE: usize = 1_024;

/// Storage offer of a volunteer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolunteerConfig {
    /// Offered space, in bytes.
    pub offered: u64,
    /// Folder of the replica store.
    pub folder: PathBuf,
    /// Announced absence: time after each orderly disconnect within which the volunteer returns.
    pub away: Option<Duration>,
    /// Records of the stores of this user.
    pub memory: StoreMemory,
}

/// Parts of the program that a volunteer runs in.
pub struct VolunteerContext<'a> {
    /// The tracker that receives the storage offer.
    pub tracker: Endpoint,
    /// Name and serving addresses for the registration.
    pub presence: Presence,
    /// Files that the program serves.
    pub offers: Offers,
    /// Time after which an unreachable tracker is an error; `None` to retry without limit.
    pub timeout: Option<Duration>,
    /// Timeouts of connections to the tracker and to the sources of copies.
    pub timeouts: Timeouts,
    /// Receives the error when `timeout` has passed.
    pub failures: Sender<RoleError>,
    /// The program's threads.
    pub threads: &'a Threads,
    /// The program's shutdown.
    pub shutdown: &'a Shutdown,
}

/// Space, chunks and acceptance of a volunteer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolunteerStatus {
    /// Offered space, in bytes.
    pub offered: u64,
    /// Space used by chunks, in bytes.
    pub used: u64,
    /// Number of stored chunks.
    pub chunks: u64,
    /// Number of files of these chunks.
    pub files: usize,
    /// The tracker has accepted the storage offer.
    pub welcome: bool,
    /// Chunks that must still be copied to other volunteers before this one may leave; `None` if it
    /// is not draining.
    pub left: Option<u64>,
    /// The tracker has refused the storage offer.
    pub refused: bool,
    /// The store is not at its path: nothing is offered until it is back.
    pub absent: bool,
}

/// A running volunteer.
#[derive(Clone)]
pub struct Volunteer {
    store: Arc<ReplicaStore>,
    shared: Arc<SharedStatus>,
}

/// State shared between the state thread and the handles of a volunteer.
struct SharedStatus {
    tracker_view: Mutex<TrackerView>,
    /// Notifies the handles of a changed status.
    changed: (Sender<()>, Receiver<()>),
    /// Requests a drain from the state thread.
    drain: (Sender<()>, Receiver<()>),
}

/// The part of the status that the state thread decides; the fields are those of [`VolunteerStatus`].
#[derive(Default, Clone, Copy)]
struct TrackerView {
    welcome: bool,
    left: Option<u64>,
    refused: bool,
    absent: bool,
}

impl Volunteer {
    /// Opens the store and starts the threads.
    ///
    /// At the shutdown the volunteer sends a goodbye to the tracker.
    ///
    /// # Errors
    /// The store cannot be opened, another program uses it, or no thread can be started.
    pub fn start(config: &VolunteerConfig, context: VolunteerContext<'_>) -> Result<Self, RoleError> {
        let store = Arc::new(config.memory.open(&config.folder, config.offered)?);
        check_offer(config, store.used())?;
        let shared =
            Arc::new(SharedStatus { tracker_view: Mutex::default(), changed: bounded(1), drain: bounded(1) });
        let volunteer = Self { store: store.clone(), shared: shared.clone() };
        log::info!("{}, in {}", volunteer.status(), config.folder.display());
        if store.used() > store.offered() {
            log::warn!("stored chunks exceed the offered space; no chunk is accepted until they fit");
        }
        let VolunteerContext { threads, shutdown, .. } = context;
        let replicas = Arc::new(HeldReplicas {
            store: store.clone(),
            offers: context.offers,
            syncing: Mutex::default(),
        });
        replicas.sync_offers();
        let prover = prover::StoreProver::new(store.clone(), shutdown.clone());
        replicas.offers.set_prover(Arc::new(prover));
        let (done, results) = bounded(QUEUE);
        let (copies, copy_jobs) = bounded(ORDERS_MAX);
        let copier = Arc::new(copier::Copier::new(replicas.clone(), context.timeouts));
        for _ in 0..COPY_WORKERS_MAX {
            let (copier, jobs, done, stop) =
                (copier.clone(), copy_jobs.clone(), done.clone(), shutdown.clone());
            threads.spawn("volunteer-copy", move || copier.run(&jobs, &done, &stop))?;
        }
        let (disk_orders, disk_jobs) = bounded(ORDERS_MAX);
        let (own, stop) = (replicas.clone(), shutdown.clone());
        threads.spawn("volunteer-disk", move || disk_orders::run(&own, &disk_jobs, &done, &stop))?;
        let ((passed, checked), (checks, check_requests)) = (bounded(QUEUE), bounded(QUEUE));
        let (own, stop) = (store.clone(), shutdown.clone());
        threads.spawn("volunteer-check", move || checker::run(&own, &check_requests, &passed, &stop))?;
        let (changes, store_changes) = bounded(QUEUE);
        let (own, stop) = (replicas.clone(), shutdown.clone());
        threads.spawn("volunteer-store", move || store_watch::run(&own, &changes, &stop))?;
        // The session outlives the shutdown, because it carries the goodbye.
        let session = Shutdown::new();
        let (event_sender, events) = bounded(QUEUE);
        let VolunteerContext { tracker, presence, timeout, timeouts, .. } = context;
        let inputs = state::Inputs { events, results, checked, store_changes };
        let outputs = state::Outputs {
            copies,
            disk_orders,
            checks,
            failures: context.failures,
            session: session.clone(),
        };
        let state = state::State::new(replicas, shared, outputs, tracker.clone(), config.away, shutdown);
        threads.spawn("volunteer", move || state.run(&inputs))?;
        let (role, purpose) = ("tracker", VOLUNTEER);
        let config = SessionConfig { role, tracker, presence, purpose, timeout, timeouts };
        session::start(config, event_sender, threads, &session)?;
        Ok(volunteer)
    }

    /// The current status.
    pub fn status(&self) -> VolunteerStatus {
        let files = self.store.files();
        let held = files.iter().map(|file| u64::from(file.held())).filter(|held| *held > 0);
        let TrackerView { welcome, left, refused, absent } = *self.shared.tracker_view();
        VolunteerStatus {
            offered: self.store.offered(),
            used: self.store.used(),
            chunks: held.clone().sum(),
            files: held.count(),
            welcome,
            left,
            refused,
            absent,
        }
    }

    /// Requests a drain from the tracker: all chunks are copied to other volunteers.
    ///
    /// The request is repeated after each reconnect. [`VolunteerStatus::left`] shows the progress.
    pub fn drain(&self) {
        // The progress of an earlier drain does not count.
        self.shared.tracker_view().left = None;
        let _ = self.shared.drain.0.try_send(());
    }

    /// Receives a message when a message of the tracker has changed the [`status`](Self::status).
    pub fn changed(&self) -> &Receiver<()> {
        &self.shared.changed.1
    }
}

/// Refuses an offer of more space than the disk of the store has, and warns if it is not free now.
fn check_offer(config: &VolunteerConfig, used: u64) -> Result<(), RoleError> {
    let VolunteerConfig { offered, folder, .. } = config;
    if let Some(all) = storage::disk_size(folder).filter(|all| all < offered) {
        let text = format!(
            "cannot offer {} of storage: the disk of {} has {}; offer less with --volunteer SIZE, or choose another \
             disk with --volunteer-dir PATH",
            size(*offered),
            folder.display(),
            size(all)
        );
        return Err(RoleError::new(Fault::Usage, text));
    }
    if let Some(free) = storage::free_space(folder).filter(|free| free.saturating_add(used) < *offered) {
        log::warn!(
            "only {} of {} offered are free on the disk of {}; the tracker gets no more chunks than fit",
            size(free),
            size(*offered),
            folder.display()
        );
    }
    Ok(())
}

impl fmt::Display for VolunteerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offered, used, chunks, files, .. } = *self;
        write!(f, "offering {} of storage, {} used", size(offered), size(used))?;
        match chunks {
            0 => Ok(()),
            _ => write!(f, " in {} of {}", counted(chunks, "chunk"), counted(files as u64, "file")),
        }
    }
}

impl SharedStatus {
    fn tracker_view(&self) -> MutexGuard<'_, TrackerView> {
        lock(&self.tracker_view)
    }

    /// Changes the tracker's view and notifies the handles.
    fn update(&self, change: impl FnOnce(&mut TrackerView)) {
        change(&mut self.tracker_view());
        let _ = self.changed.0.try_send(());
    }
}

/// An order of the tracker, for a worker.
struct Job<O> {
    order: O,
    /// Triggered at the end of the order's session: the answer is not needed after that.
    session_end: Shutdown,
    /// Number of the order's session.
    session: u64,
}

/// The end of an order, with its answers. They are not sent if the order's session has ended.
struct Done {
    answers: Vec<VolunteerReport>,
    /// Number of the order's session.
    session: u64,
}

/// The replica store, and the served files that follow it.
struct HeldReplicas {
    store: Arc<ReplicaStore>,
    offers: Offers,
    /// Held while the served files are updated from the store, so that the last update of a file is
    /// the right one.
    syncing: Mutex<()>,
}

impl HeldReplicas {
    /// Serves a file if the store is there and has chunks of it, otherwise stops serving it.
    fn sync_offer(&self, id: FileId) {
        let _syncing = lock(&self.syncing);
        match self.store.file(id).filter(|file| file.held() > 0 && self.store.is_present()) {
            Some(file) => self.offers.put(id, file),
            None => self.offers.take(id),
        }
    }

    /// Does the same for each file of the store.
    fn sync_offers(&self) {
        self.store.files().iter().for_each(|file| self.sync_offer(file.id()));
    }
}

/// Loop of a worker: carries out jobs until the shutdown.
///
/// A job of an ended session is skipped, but its end is reported. `idle` is called after [`SOURCE_IDLE_TIMEOUT`] without a
/// job.
fn work<O>(
    jobs: &Receiver<Job<O>>,
    done: &Sender<Done>,
    shutdown: &Shutdown,
    idle: impl Fn(),
    mut carry_out: impl FnMut(O, &Shutdown) -> Vec<VolunteerReport>,
) {
    loop {
        let Job { order, session_end, session } = crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => return,
            recv(jobs) -> job => match job {
                Ok(job) => job,
                Err(_) => return,
            },
            default(SOURCE_IDLE_TIMEOUT) => {
                idle();
                continue;
            }
        };
        let answers = if session_end.is_stopped() { Vec::new() } else { carry_out(order, &session_end) };
        // Cannot deadlock: the state thread never waits for a worker. Fails only when the state thread has ended.
        if done.send(Done { answers, session }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_text_agrees_in_singular_and_plural() {
        let status = |used, chunks, files| {
            let (offered, welcome, left, refused, absent) = (2 << 30, true, None, false, false);
            VolunteerStatus { offered, used, chunks, files, welcome, left, refused, absent }.to_string()
        };
        assert_eq!(
            status(512 << 20, 1_024, 3),
            "offering 2.0 GiB of storage, 512.0 MiB used in 1,024 chunks of 3 files"
        );
        assert_eq!(status(16 << 10, 1, 1), "offering 2.0 GiB of storage, 16.0 KiB used in 1 chunk of 1 file");
        assert_eq!(
            status(32 << 10, 2, 1),
            "offering 2.0 GiB of storage, 32.0 KiB used in 2 chunks of 1 file"
        );
        assert_eq!(status(0, 0, 0), "offering 2.0 GiB of storage, 0 B used");
    }
}
