//! A plain folder in a swarm: shares every file in it, and gets what others have into it.
//!
//! Whom it can ask it learns from a manager, from a tracker, or from both. The state thread takes in what the
//! manager says and whom the serving side meets; a thread looks at the folder; each transfer has a thread of its
//! own, which is the state thread of that download. Invariant: what is on the shelf was hashed here or verified on
//! arrival, and is what is in the folder now.

mod folder_watch;
mod transfers;

pub use transfers::{Stage, Transfer, TransferStatus};

use super::announcer::Announcer;
use super::error::DaemonError;
use super::finder::{Both, Finder, Peers, PeersFinder, TrackerFinder};
use super::lookup::Query;
use super::peer::{DiscoveredPeer, ServeOptions, serve};
use super::shelf::Offers;
use super::tracker_session::{self, SessionConfig, SessionEvent};
use super::volunteer::{Surroundings, Volunteer, VolunteerConfig};
use super::watch::Watch;
use crate::content::limits::LEASE;
use crate::content::{EntityName, FileId};
use crate::net::{Asker, Listener, Shutdown, Threads};
use crate::protocol::tracker::{FoundFile, PeerSummary, Registration, TrackerRequest};
use crate::storage::SharedFolder;
use crossbeam_channel::{Receiver, Sender, after, bounded, never};
use folder_watch::FolderWatch;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Events that may wait for the state thread, of each kind.
const QUEUE: usize = 1_024;
/// Time after which a manager must have sent its list of peers.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);

/// What a member is told to do.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// The folder.
    pub folder: PathBuf,
    /// Where to serve.
    pub listen: SocketAddr,
    /// What people call this peer.
    pub name: EntityName,
    /// The manager that tells of peers, if any.
    pub manager: Option<SocketAddr>,
    /// The tracker to register with, if any.
    pub tracker: Option<SocketAddr>,
    /// The peer's address, when that is not what others see.
    pub advertise: Option<SocketAddr>,
    /// How to serve.
    pub serve: ServeOptions,
    /// The file that this program logs to: it is not shared, since each word on it would change it.
    pub log_file: PathBuf,
    /// How long to wait for a manager or tracker that does not answer, and for chunks that do not come.
    pub timeout: Option<Duration>,
    /// The space that is lent to the tracker, if any.
    pub volunteer: Option<VolunteerConfig>,
}

/// What the threads of a member share.
struct Inner {
    config: MemberConfig,
    port: u16,
    folder: SharedFolder,
    offers: Offers,
    peers: Peers,
    /// Whether the manager has told of peers yet.
    told: Mutex<bool>,
    announcer: Option<Announcer>,
    volunteer: Option<Volunteer>,
    /// Where peers that ask for a file are reported while it is being downloaded.
    routes: Mutex<Vec<(FileId, Sender<DiscoveredPeer>)>>,
    transfers: Mutex<Vec<Arc<Transfer>>>,
    watch: Arc<dyn Watch>,
    threads: Threads,
    shutdown: Shutdown,
}

/// A running member.
#[derive(Clone)]
pub struct Member {
    inner: Arc<Inner>,
    failed: Receiver<DaemonError>,
}

impl Member {
    /// Starts to share a folder. `watch` sees the hashing and the transfers. It runs until the shutdown.
    ///
    /// # Errors
    /// The folder cannot be read, or the port is taken.
    pub fn start(
        config: MemberConfig,
        watch: Arc<dyn Watch>,
        shutdown: &Shutdown,
    ) -> Result<Self, DaemonError> {
        let threads = Threads::new();
        threads.unless_failed(Self::start_in(&threads, config, watch, shutdown), shutdown)
    }

    fn start_in(
        threads: &Threads,
        config: MemberConfig,
        watch: Arc<dyn Watch>,
        shutdown: &Shutdown,
    ) -> Result<Self, DaemonError> {
        let listener = Listener::bind(config.listen).map_err(DaemonError::bind("-transfer_port PORT"))?;
        let folder = SharedFolder::open(&config.folder)?;
        let (address, offers) = (listener.address(), Offers::new());
        let (discovered, discoveries) = bounded(QUEUE);
        serve(listener, offers.clone(), &config.serve, Some(discovered), threads, shutdown)?;
        log::info!("{} listening on {address}", config.name);
        let (failures, failed) = bounded(1);
        let registration =
            Registration { name: config.name.clone(), port: address.port(), advertise: config.advertise };
        let announce = |tracker| {
            let (registration, failures) = (registration.clone(), failures.clone());
            Announcer::start(
                tracker,
                registration,
                offers.clone(),
                config.timeout,
                failures,
                threads,
                shutdown,
            )
        };
        let announcer = config.tracker.map(announce).transpose()?;
        let (says, said) = bounded(QUEUE);
        let (timeout, timeouts) = (config.timeout, config.serve.timeouts);
        if let Some(tracker) = config.manager {
            let registration = registration.clone();
            let session = SessionConfig { role: "manager", tracker, registration, timeout, timeouts };
            tracker_session::start(session, says, threads, shutdown)?;
        }
        let lend = |(tracker, volunteer): (SocketAddr, &VolunteerConfig)| {
            let (offers, failures) = (offers.clone(), failures.clone());
            let beside = Surroundings {
                tracker,
                registration,
                shelf: offers,
                timeout,
                timeouts,
                failures,
                threads,
                shutdown,
            };
            Volunteer::start(volunteer, beside)
        };
        if config.volunteer.is_some() && config.tracker.is_none() {
            return Err(DaemonError::new(
                super::Fault::Usage,
                "--volunteer needs a tracker; name it with --tracker HOST:PORT",
            ));
        }
        let volunteer = config.tracker.zip(config.volunteer.as_ref()).map(lend).transpose()?;
        let inner = Arc::new(Inner {
            port: address.port(),
            folder,
            offers,
            peers: Peers::default(),
            told: Mutex::new(false),
            announcer,
            volunteer,
            routes: Mutex::default(),
            transfers: Mutex::default(),
            watch,
            threads: threads.clone(),
            shutdown: shutdown.clone(),
            config,
        });
        let state = PeerDirectory {
            inner: inner.clone(),
            own: None,
            _requests: None,
            list: Vec::new(),
            patient: false,
            grace: never(),
            unlisted: never(),
            failures,
        };
        threads.spawn("member", move || state.run(&said, &discoveries))?;
        FolderWatch::start(&inner)?;
        Ok(Self { inner, failed })
    }

    /// Where it serves.
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    /// Waits until the shutdown, or until a manager or tracker has not answered for too long.
    ///
    /// # Errors
    /// The latter.
    pub fn wait(&self) -> Result<(), DaemonError> {
        crossbeam_channel::select! {
            recv(self.inner.shutdown.signal()) -> _ => Ok(()),
            recv(self.failed) -> failure => failure.map_or(Ok(()), Err),
        }
    }

    /// Tells when a manager or tracker has not answered for too long: what [`wait`](Self::wait) waits for, for
    /// `select!`.
    pub fn failed(&self) -> &Receiver<DaemonError> {
        &self.failed
    }

    /// Triggers the shutdown and waits until every thread has ended.
    pub fn stop(self) {
        self.inner.shutdown.trigger();
        self.inner.threads.join();
    }

    /// The other active peers, as the manager last told.
    pub fn peers(&self) -> Vec<PeerSummary> {
        self.inner.peers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is offered here, whole and partial.
    pub fn mine(&self) -> Vec<super::shelf::Offer> {
        self.inner.offers.list()
    }

    /// What lends space to the tracker, if anything does.
    pub fn volunteer(&self) -> Option<&Volunteer> {
        self.inner.volunteer.as_ref()
    }

    /// What others offer: all of it, or what a query names. Asks now.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn files(&self, query: &Query) -> Result<Vec<FoundFile>, DaemonError> {
        let found = self.inner.finder()?.find(query, &self.inner.shutdown);
        found.map_err(|why| DaemonError::new(super::Fault::Unreachable, why))
    }

    /// Starts to get a file, in a thread of its own.
    ///
    /// # Errors
    /// When there is no thread to be had, or the same is being got already.
    pub fn get(&self, wish: Wish) -> Result<Arc<Transfer>, DaemonError> {
        transfers::start(&self.inner, wish)
    }

    /// All transfers of this run, in the order in which they were started.
    pub fn transfers(&self) -> Vec<Arc<Transfer>> {
        self.inner.transfers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A file that is wanted.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Its name, its id, or both.
    pub query: Query,
    /// Where it goes: a name in the folder, or a path elsewhere. By default the name that it is offered under.
    pub out: Option<PathBuf>,
    /// Replaces a different file that is in the way.
    pub overwrite: bool,
    /// How long to wait for somebody to have it, when nobody does at first.
    pub patience: Duration,
}

impl Inner {
    /// A finder that asks everybody there is to ask.
    fn finder(&self) -> Result<Both, DaemonError> {
        let mut finders: Vec<Box<dyn Finder>> = Vec::new();
        let timeouts = self.config.serve.timeouts;
        if self.config.manager.is_some() {
            finders.push(Box::new(PeersFinder::new(self.peers.clone(), timeouts)));
        }
        if let Some(tracker) = self.config.tracker {
            let announcer = self.announcer.clone();
            let token = move || announcer.as_ref().and_then(Announcer::token);
            let asker = Asker::new(tracker, &self.shutdown)?;
            finders.push(Box::new(TrackerFinder::new(asker, timeouts, token)));
        }
        Ok(Both(finders))
    }

    /// Whether there is anybody to ask yet.
    fn is_ready(&self) -> bool {
        self.config.manager.is_none() || *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something on the shelf has changed.
    fn nudge(&self) {
        if let Some(announcer) = &self.announcer {
            announcer.nudge();
        }
    }
}

/// The state thread: what the manager says, and whom the serving side meets.
struct PeerDirectory {
    inner: Arc<Inner>,
    /// This peer's own address, as the manager tells it to others.
    own: Option<SocketAddr>,
    /// The manager is asked for nothing more, but the connection lasts as long as it could be.
    _requests: Option<Sender<TrackerRequest>>,
    /// The list as the manager last told it.
    list: Vec<PeerSummary>,
    /// Until `grace` is over, those who are not on the list (any more) are kept.
    patient: bool,
    grace: Receiver<Instant>,
    /// Fires if the manager has not sent its list in time.
    unlisted: Receiver<Instant>,
    failures: Sender<DaemonError>,
}

impl PeerDirectory {
    fn run(mut self, said: &Receiver<SessionEvent>, discoveries: &Receiver<DiscoveredPeer>) {
        let shutdown = self.inner.shutdown.clone();
        let silence = never();
        // Without a manager nobody holds the other end, which would read as closed all the time.
        let said = if self.inner.config.manager.is_some() { said } else { &silence };
        loop {
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => return,
                recv(said) -> event => match event {
                    Ok(event) => self.hear(event),
                    Err(_) => return,
                },
                recv(self.grace) -> _ => {
                    self.grace = never();
                    self.patient = false;
                    self.update(self.list.clone());
                }
                recv(self.unlisted) -> _ => {
                    self.unlisted = never();
                    self.warn_unlisted();
                }
                recv(discoveries) -> discovered => if let Ok(discovered) = discovered {
                    let routes = self.inner.routes.lock().unwrap_or_else(PoisonError::into_inner);
                    let wanted = routes.iter().filter(|(file, _)| *file == discovered.file);
                    wanted.for_each(|(_, route)| _ = route.try_send(discovered));
                },
            }
        }
    }

    fn hear(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Joined { address, requests, .. } => {
                // A manager that was restarted gets its peers back one by one: those that this one knows and it does
                // not, yet, are given a while.
                if self.own.replace(address).is_some() {
                    self.grace = after(LEASE);
                    self.patient = true;
                }
                self._requests = Some(requests);
                self.unlisted = after(LIST_TIMEOUT);
            }
            SessionEvent::Peers(mut peers) => {
                self.unlisted = never();
                peers.retain(|peer| Some(peer.address) != self.own);
                self.list.clone_from(&peers);
                if self.patient {
                    let known = self.inner.peers.read().unwrap_or_else(PoisonError::into_inner);
                    let missing = known.iter().filter(|peer| !self.list.contains(peer));
                    peers.extend(missing.cloned());
                }
                self.update(peers);
            }
            SessionEvent::GivenUp(error) => _ = self.failures.try_send(error),
            // Peers that know each other go on without the manager.
            SessionEvent::Lost => {}
            other => log::debug!("the manager says {other:?}"),
        }
    }

    /// A tracker accepts the registration, too, but sends no list of peers.
    fn warn_unlisted(&self) {
        let Some(manager) = self.inner.config.manager else { return };
        log::warn!(
            "no list of peers from {manager}: it may be a tracker; use a tracker with --tracker {manager} --plain, or \
             choose a manager with --manager HOST:PORT"
        );
    }

    fn update(&self, peers: Vec<PeerSummary>) {
        let mut known = self.inner.peers.write().unwrap_or_else(PoisonError::into_inner);
        for gone in known.iter().filter(|peer| !peers.contains(peer)) {
            log::info!("{} at {} is gone", gone.name, gone.address);
        }
        for new in peers.iter().filter(|peer| !known.contains(peer)) {
            log::info!("{} at {} is here", new.name, new.address);
        }
        if *known != peers {
            log::info!("{} other peers are active", peers.len());
        }
        *known = peers;
        drop(known);
        *self.inner.told.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}
