//! A volunteer: lends space to a tracker, which has chunks kept there.
//!
//! Runs beside a [`Member`](crate::roles::folder_client::Member) and serves what it keeps from the same listener. It decides nothing:
//! it says what it holds, carries out what the tracker orders, answers each order, and hashes what it has kept since
//! before it was started. Invariants: it says that it has a chunk only when that is durable and was verified by this
//! process, or is said to be unchecked; orders of one session have come to their end before the next one begins; the
//! state thread never waits for a socket or a disk.

mod checker;
mod chores;
mod copier;
mod diary;
mod report;
mod state;

use crate::content::FileId;
use crate::content::fmt::{counted, size};
use crate::content::limits::{COPY_WORKERS_MAX, ORDERS_MAX, SOURCE_IDLE_TIMEOUT};
use crate::net::{Shutdown, Threads, Timeouts};
use crate::protocol::tracker::Registration;
use crate::protocol::volunteer::VolunteerReport;
use crate::report::error::DaemonError;
use crate::storage::ReplicaStore;
use crate::tracker_client::session::{self, SessionConfig};
use crate::upload::offers::Offers;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Events of the session, and results of workers, that may wait for the state thread.
const QUEUE: usize = 1_024;

/// What a volunteer is told to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolunteerConfig {
    /// Bytes that it lends.
    pub offered: u64,
    /// Where the chunks are kept.
    pub folder: PathBuf,
}

/// What a volunteer runs beside.
pub struct Surroundings<'a> {
    /// The tracker that it lends to.
    pub tracker: SocketAddr,
    /// As whom, and where it serves.
    pub registration: Registration,
    /// What it serves from.
    pub shelf: Offers,
    /// How long to wait for a tracker that does not answer.
    pub timeout: Option<Duration>,
    /// How long the tracker and sources of copies are waited for within a connection.
    pub timeouts: Timeouts,
    /// Where it is said that the tracker has not answered for so long.
    pub failures: Sender<DaemonError>,
    /// Its threads.
    pub threads: &'a Threads,
    /// Its end.
    pub shutdown: &'a Shutdown,
}

/// How a volunteer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolunteerStatus {
    /// Bytes that it lends.
    pub offered: u64,
    /// Bytes of chunks that it keeps.
    pub used: u64,
    /// The chunks.
    pub chunks: u64,
    /// The files that they are of.
    pub files: usize,
    /// The tracker has said that it is welcome.
    pub welcome: bool,
    /// How many chunks have yet to be copied elsewhere before it may leave, when it is to be emptied.
    pub left: Option<u64>,
    /// The tracker does not want to hear of it.
    pub refused: bool,
}

/// A running volunteer.
#[derive(Clone)]
pub struct Volunteer {
    store: Arc<ReplicaStore>,
    told: Arc<Told>,
}

/// What the state thread tells those who look, and the other way round.
struct Told {
    by_tracker: Mutex<ByTracker>,
    changed: (Sender<()>, Receiver<()>),
    drain: (Sender<()>, Receiver<()>),
}

#[derive(Default, Clone, Copy)]
struct ByTracker {
    welcome: bool,
    left: Option<u64>,
    refused: bool,
}

impl Volunteer {
    /// Opens the store and starts. It runs until the shutdown, and says goodbye then.
    ///
    /// # Errors
    /// The store cannot be opened or another program has it, or there is no thread to be had.
    pub fn start(config: &VolunteerConfig, beside: Surroundings<'_>) -> Result<Self, DaemonError> {
        let store = Arc::new(ReplicaStore::open(&config.folder, config.offered)?);
        let told = Arc::new(Told { by_tracker: Mutex::default(), changed: bounded(1), drain: bounded(1) });
        let volunteer = Self { store: store.clone(), told: told.clone() };
        log::info!("{}, in {}", volunteer.status(), config.folder.display());
        if store.used() > store.offered() {
            log::warn!("more is kept than is lent by now; nothing is taken in until it is less");
        }
        let Surroundings { threads, shutdown, .. } = beside;
        let replicas =
            Arc::new(HeldReplicas { store: store.clone(), shelf: beside.shelf, shelving: Mutex::default() });
        store.files().iter().for_each(|file| replicas.sync_offer(file.id()));
        let (done, results) = bounded(QUEUE);
        let (copies, to_copy) = bounded(ORDERS_MAX);
        let copier = Arc::new(copier::Copier::new(replicas.clone(), beside.tracker, beside.timeouts));
        for _ in 0..COPY_WORKERS_MAX {
            let (copier, jobs, done, stop) =
                (copier.clone(), to_copy.clone(), done.clone(), shutdown.clone());
            threads.spawn("volunteer-copy", move || copier.run(&jobs, &done, &stop))?;
        }
        let (chores, to_do) = bounded(ORDERS_MAX);
        let (own, stop) = (replicas.clone(), shutdown.clone());
        threads.spawn("volunteer-chores", move || chores::run(&own, &to_do, &done, &stop))?;
        let (passed, checked) = bounded(QUEUE);
        let (own, stop) = (store.clone(), shutdown.clone());
        threads.spawn("volunteer-check", move || checker::run(&own, &passed, &stop))?;
        // The session outlives the shutdown for a moment: it is what goodbye is said over.
        let session = Shutdown::new();
        let (says, said) = bounded(QUEUE);
        let Surroundings { tracker, registration, timeout, timeouts, .. } = beside;
        let inputs = state::Inputs { said, results, checked };
        let outputs = state::Outputs { copies, chores, failures: beside.failures, session: session.clone() };
        let state = state::State::new(replicas, told, outputs, tracker, shutdown);
        threads.spawn("volunteer", move || state.run(&inputs))?;
        let config = SessionConfig { role: "tracker", tracker, registration, timeout, timeouts };
        session::start(config, says, threads, &session)?;
        Ok(volunteer)
    }

    /// How it is.
    pub fn status(&self) -> VolunteerStatus {
        let files = self.store.files();
        let held = files.iter().map(|file| u64::from(file.held())).filter(|held| *held > 0);
        let ByTracker { welcome, left, refused } = *self.told.by_tracker();
        VolunteerStatus {
            offered: self.store.offered(),
            used: self.store.used(),
            chunks: held.clone().sum(),
            files: held.count(),
            welcome,
            left,
            refused,
        }
    }

    /// Asks the tracker to have everything copied elsewhere, now and after each loss of the connection. How far that
    /// is, [`status`](Self::status) says.
    pub fn drain(&self) {
        // What was said of an earlier wish does not count.
        self.told.by_tracker().left = None;
        let _ = self.told.drain.0.try_send(());
    }

    /// Gets a message when the tracker has said something that [`status`](Self::status) shows.
    pub fn changed(&self) -> &Receiver<()> {
        &self.told.changed.1
    }
}

impl fmt::Display for VolunteerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offered, used, chunks, files, .. } = *self;
        write!(f, "lending {}, {} used", size(offered), size(used))?;
        match chunks {
            0 => Ok(()),
            _ => write!(f, " in {} of {}", counted(chunks, "chunk"), counted(files as u64, "file")),
        }
    }
}

impl Told {
    fn by_tracker(&self) -> MutexGuard<'_, ByTracker> {
        self.by_tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut ByTracker)) {
        change(&mut self.by_tracker());
        let _ = self.changed.0.try_send(());
    }
}

/// An order of the tracker, for a worker.
struct Job<O> {
    order: O,
    /// Ends with the session that it was given in: nobody waits for an answer then.
    here: Shutdown,
    session: u64,
}

/// What has come of an order. Answers of a session that is over are not sent.
struct Done {
    answers: Vec<VolunteerReport>,
    session: u64,
}

/// What the workers have in common.
struct HeldReplicas {
    store: Arc<ReplicaStore>,
    shelf: Offers,
    /// Held while the shelf is put in step with the store, so that the last word on a file is the right one.
    shelving: Mutex<()>,
}

impl HeldReplicas {
    /// Serves a file of which there are chunks, and no longer one of which there are none.
    fn sync_offer(&self, id: FileId) {
        let _shelving = self.shelving.lock().unwrap_or_else(PoisonError::into_inner);
        match self.store.file(id).filter(|file| file.held() > 0) {
            Some(file) => self.shelf.put(id, file),
            None => self.shelf.take(id),
        }
    }
}

/// Takes jobs until the shutdown. A job whose session is over is passed over, but answered for. When there has been
/// none for a while `idle` is called.
fn work<O>(
    jobs: &Receiver<Job<O>>,
    done: &Sender<Done>,
    shutdown: &Shutdown,
    idle: impl Fn(),
    mut carry_out: impl FnMut(O, &Shutdown) -> Vec<VolunteerReport>,
) {
    loop {
        let Job { order, here, session } = crossbeam_channel::select! {
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
        let answers = if here.is_stopped() { Vec::new() } else { carry_out(order, &here) };
        // The state thread takes these as long as it lives, and it never waits for this one.
        if done.send(Done { answers, session }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_said_in_words() {
        let status = |used, chunks, files| {
            let (offered, welcome, left, refused) = (2 << 30, true, None, false);
            VolunteerStatus { offered, used, chunks, files, welcome, left, refused }.to_string()
        };
        assert_eq!(status(512 << 20, 1_024, 3), "lending 2.0 GiB, 512.0 MiB used in 1,024 chunks of 3 files");
        assert_eq!(status(16 << 10, 1, 1), "lending 2.0 GiB, 16.0 KiB used in 1 chunk of 1 file");
        assert_eq!(status(32 << 10, 2, 1), "lending 2.0 GiB, 32.0 KiB used in 2 chunks of 1 file");
        assert_eq!(status(0, 0, 0), "lending 2.0 GiB, 0 B used");
    }
}
