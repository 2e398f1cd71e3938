//! Member: shares all files of a folder and downloads files of other peers into it.
//!
//! A manager, a tracker, or both provide the peers. The state thread processes the manager's messages and the
//! discovered peers; one thread polls the folder; each transfer has a thread, which is the state thread of
//! that download. Invariant: an offered file was hashed or verified by this peer and is unchanged since.

mod folder_watch;
mod transfers;

pub use transfers::{Stage, Transfer, TransferStatus};

use crate::content::fmt::counted;
use crate::content::limits::LEASE_TIMEOUT;
use crate::content::{FileId, PeerName};
use crate::discovery::responder::respond;
use crate::download::completion::Reporter;
use crate::download::finder::{CombinedFinder, Finder, Peers, PeersFinder, TrackerFinder};
use crate::net::{Endpoint, Listener, RateLimit, Shutdown, Threads, UdpClient};
use crate::protocol::tracker::{FoundFile, PeerSummary, TrackerRequest};
use crate::report::LimitedLines;
use crate::report::error::{Fault, RoleError};
use crate::report::events::{self, PeerState};
use crate::report::watch::{TotalProgress, Watch};
use crate::roles::discoverable::of_peer;
use crate::roles::on_complete::OnComplete;
use crate::storage::SharedFolder;
use crate::storage::leftovers::{self, Unfinished};
use crate::swarm::line_limit::LineKind;
use crate::sync::{lock, read, write};
use crate::tracker_client::announcer::Announcer;
use crate::tracker_client::lookup::Query;
use crate::tracker_client::presence::{MEMBER, Presence, PresenceConfig};
use crate::tracker_client::selection::{Item, Wanted};
use crate::tracker_client::session::{self, SessionConfig, SessionEvent};
use crate::tracker_client::ticket::Ticket;
use crate::upload::offers::{Offer, Offers};
use crate::upload::server::{DiscoveredPeer, ServeOptions, serve};
use crate::volunteer::{Volunteer, VolunteerConfig, VolunteerContext};
use crossbeam_channel::{Receiver, Sender, after, bounded, never};
use folder_watch::FolderWatch;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Capacity of each event queue of the state thread.
const QUEUE: usize = 1_024;
/// Time within which a manager sends its list of peers after the registration.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);

/// Configuration of a member.
#[derive(Debug, Clone)]
pub struct MemberConfig {
    /// Shared folder.
    pub folder: PathBuf,
    /// Listening address of the upload server.
    pub listen: SocketAddr,
    /// The listening address is a default and may be widened, see [`Presence`].
    pub widens: bool,
    /// Name of this peer in logs and lists.
    pub name: PeerName,
    /// Manager that provides peers, if any.
    pub manager: Option<Endpoint>,
    /// Tracker to register with, if any.
    pub tracker: Option<Endpoint>,
    /// Advertised address, if it differs from the source address that others see.
    pub advertise: Option<SocketAddr>,
    /// Download limit of all transfers together, bytes per second; 0 for no limit.
    pub download_limit: u64,
    /// Options of the upload server.
    pub serve: ServeOptions,
    /// Shares the files of the folder and the verified chunks of downloads.
    pub shares: bool,
    /// Answers questions of other hosts about its files in the local network, unless it listens only on loopback.
    pub is_discoverable: bool,
    /// Log file of this program; never shared, since each log line changes it.
    pub log_file: PathBuf,
    /// Time without an answer of the manager or tracker, or without data, after which to give up.
    pub timeout: Option<Duration>,
    /// Storage offer to the tracker, if any.
    pub volunteer: Option<VolunteerConfig>,
    /// Command to run for each completed file.
    pub on_complete: Option<String>,
}

/// State shared by the threads of a member.
struct Inner {
    config: MemberConfig,
    /// Port of the upload server.
    port: u16,
    folder: SharedFolder,
    offers: Offers,
    presence: Presence,
    peers: Peers,
    /// Whether the manager has sent its list of peers.
    listed: Mutex<bool>,
    announcer: Option<Announcer>,
    limit: Option<RateLimit>,
    volunteer: Option<Volunteer>,
    reporter: Reporter,
    on_complete: Option<OnComplete>,
    /// Channels of the running downloads: a discovered peer that requests a file is reported to the download of it.
    routes: Mutex<Vec<(FileId, Sender<DiscoveredPeer>)>>,
    transfers: Mutex<Vec<Arc<Transfer>>>,
    watch: Arc<dyn Watch>,
    threads: Threads,
    shutdown: Shutdown,
}

/// A running member. Clones share it.
#[derive(Clone)]
pub struct Member {
    inner: Arc<Inner>,
    failed: Receiver<RoleError>,
}

impl Member {
    /// Starts to share a folder, until the shutdown. `watch` receives the progress of hashing and of transfers.
    ///
    /// # Errors
    /// The folder cannot be read, or the port is in use.
    pub fn start(
        config: MemberConfig,
        watch: Arc<dyn Watch>,
        shutdown: &Shutdown,
    ) -> Result<Self, RoleError> {
        let threads = Threads::new();
        threads.join_on_error(Self::start_in(&threads, config, watch, shutdown), shutdown)
    }

    fn start_in(
        threads: &Threads,
        config: MemberConfig,
        watch: Arc<dyn Watch>,
        shutdown: &Shutdown,
    ) -> Result<Self, RoleError> {
        let listener = Listener::bind(config.listen).map_err(RoleError::bind("-transfer_port PORT"))?;
        let folder = SharedFolder::open(&config.folder)?.with_shareable_files().without(&config.log_file);
        let (address, offers) = (listener.address(), Offers::new());
        let (discovered, discoveries) = bounded(QUEUE);
        let listening = serve(listener, offers.clone(), &config.serve, Some(discovered), threads, shutdown)?;
        if config.is_discoverable {
            respond(of_peer(listening.clone(), offers.clone()), threads, shutdown);
        }
        log::info!("{} listening on {address}", config.name);
        events::listening(address);
        let (failures, failed) = bounded(1);
        let presence = PresenceConfig {
            name: config.name.clone(),
            advertise: config.advertise,
            widens: config.widens,
            shared_files: Some(if config.shares { folder.count_files() } else { 0 }),
        };
        let presence = Presence::new(presence, listening, offers.registrations().clone());
        let (timeout, timeouts) = (config.timeout, config.serve.timeouts);
        let announce = |tracker: &Endpoint| {
            let (presence, failures) = (presence.clone(), failures.clone());
            Announcer::start(tracker.clone(), presence, offers.clone(), timeout, failures, threads, shutdown)
        };
        let announcer = config.tracker.as_ref().map(announce).transpose()?;
        let (session_sender, session_events) = bounded(QUEUE);
        if let Some(tracker) = config.manager.clone() {
            let (role, presence) = ("manager", presence.clone());
            let session = SessionConfig { role, tracker, presence, purpose: MEMBER, timeout, timeouts };
            session::start(session, session_sender, threads, shutdown)?;
        }
        let volunteer = start_volunteer(&config, presence.clone(), &offers, &failures, threads, shutdown)?;
        let on_complete = config.on_complete.as_ref();
        let on_complete = on_complete.map(|command| OnComplete::start(command, threads, shutdown));
        let inner = Arc::new(Inner {
            port: address.port(),
            folder,
            offers,
            presence,
            peers: Peers::default(),
            listed: Mutex::new(false),
            announcer,
            limit: RateLimit::from_flag(config.download_limit),
            volunteer,
            reporter: Reporter::new(config.name.clone()),
            on_complete: on_complete.transpose()?,
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
            keeps_unlisted: false,
            grace: never(),
            list_deadline: never(),
            failures,
            lines: LimitedLines::default(),
        };
        threads.spawn("member", move || state.run(&session_events, &discoveries))?;
        if inner.config.shares {
            FolderWatch::start(&inner)?;
        }
        Ok(Self { inner, failed })
    }

    /// Port of the upload server.
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    /// Waits for the shutdown, or for a manager or tracker that exceeds its timeout.
    ///
    /// # Errors
    /// The manager or tracker has exceeded its timeout.
    pub fn wait(&self) -> Result<(), RoleError> {
        crossbeam_channel::select! {
            recv(self.inner.shutdown.signal()) -> _ => Ok(()),
            recv(self.failed) -> failure => failure.map_or(Ok(()), Err),
        }
    }

    /// Waits for a shutdown of the caller.
    ///
    /// # Errors
    /// The manager or tracker did not answer within the timeout.
    pub fn wait_for(&self, shutdown: &Shutdown) -> Result<(), RoleError> {
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => Ok(()),
            recv(self.failed()) -> failure => failure.map_or(Ok(()), Err),
        }
    }

    /// Receives an error when a manager or tracker has exceeded its timeout; [`wait`](Self::wait) as a
    /// channel for `select!`.
    pub fn failed(&self) -> &Receiver<RoleError> {
        &self.failed
    }

    /// Triggers the shutdown and joins all threads.
    pub fn stop(self) {
        self.inner.shutdown.trigger();
        self.inner.threads.join();
    }

    /// Other active peers, as last listed by the manager.
    pub fn peers(&self) -> Vec<PeerSummary> {
        read(&self.inner.peers).clone()
    }

    /// Number of visible files in the folder, shared or not.
    pub fn count_files(&self) -> usize {
        self.inner.folder.count_files()
    }

    /// Files offered by this peer, complete and partial.
    pub fn mine(&self) -> Vec<Offer> {
        self.inner.offers.list()
    }

    /// The downloads in the folder, also of earlier runs, that can be resumed and do not run in this program.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, RoleError> {
        let mut found = leftovers::unfinished(self.inner.folder.path())?;
        let offers = self.inner.offers.list();
        let running: Vec<String> = self
            .transfers()
            .iter()
            .filter(|transfer| transfer.is_running())
            .map(|transfer| transfer.status().wanted)
            .collect();
        found.retain(|download| {
            let is_running = |id| offers.iter().any(|offer| offer.file.id == id);
            !running.contains(&download.name) && !download.progress.is_some_and(|(id, ..)| is_running(id))
        });
        Ok(found)
    }

    /// The storage offer to the tracker, if any.
    pub fn volunteer(&self) -> Option<&Volunteer> {
        self.inner.volunteer.as_ref()
    }

    /// Requests the files that other peers offer and that match the query (an empty query matches all).
    ///
    /// # Errors
    /// No peer or tracker answered.
    pub fn files(&self, query: &Query) -> Result<Vec<FoundFile>, RoleError> {
        let found = self.inner.finder()?.find(query, &self.inner.shutdown);
        found.map_err(|error| RoleError::from_error(Fault::Unreachable, error))
    }

    /// Waits until the manager has sent its list of peers, if there is a manager.
    ///
    /// # Errors
    /// No list within `wait`, or the shutdown.
    pub fn wait_for_peers(&self, wait: Duration, shutdown: &Shutdown) -> Result<(), RoleError> {
        transfers::wait_for_peer_list(&self.inner, wait, shutdown).map(drop)
    }

    /// The files that an argument selects: at least one. Waits up to `wait` for a first match.
    ///
    /// # Errors
    /// No file matches, no answer within `wait`, or the shutdown.
    pub fn select(&self, item: &Item, wait: Duration, shutdown: &Shutdown) -> Result<Vec<Wanted>, RoleError> {
        transfers::select(&self.inner, item, wait, shutdown)
    }

    /// Waits for the commands of all completed files.
    ///
    /// # Errors
    /// A command has failed.
    pub fn finish_commands(&self) -> Result<(), RoleError> {
        self.inner.on_complete.as_ref().map_or(Ok(()), OnComplete::finish)
    }

    /// Starts a download in a thread of its own.
    ///
    /// # Errors
    /// No thread can be started, or the file is already being downloaded.
    pub fn get(&self, request: DownloadRequest) -> Result<Arc<Transfer>, RoleError> {
        transfers::start(&self.inner, request)
    }

    /// All transfers of this run, in order of their start.
    pub fn transfers(&self) -> Vec<Arc<Transfer>> {
        lock(&self.inner.transfers).clone()
    }
}

/// A requested download.
#[derive(Debug, Clone, Default)]
pub struct DownloadRequest {
    /// Name, id, or both.
    pub query: Query,
    /// The ticket that names the file, if any.
    pub ticket: Option<Arc<Ticket>>,
    /// The total to which the progress is added, and the size that is in it already, bytes.
    pub total: Option<(TotalProgress, u64)>,
    /// Destination: a name in the folder or a path elsewhere; `None` for the offered name.
    pub out: Option<PathBuf>,
    /// Whether to replace a different file at the destination.
    pub overwrite: bool,
    /// Time to wait for a first holder.
    pub wait_timeout: Duration,
}

impl Inner {
    /// Creates a finder that asks the tracker and the peers listed by the manager.
    fn finder(&self) -> Result<CombinedFinder, RoleError> {
        let mut finders: Vec<Box<dyn Finder>> = Vec::new();
        let timeouts = self.config.serve.timeouts;
        if self.config.manager.is_some() {
            finders.push(Box::new(PeersFinder::new(self.peers.clone(), timeouts)));
        }
        if let Some(tracker) = &self.config.tracker {
            let announcer = self.announcer.clone();
            let token = move || announcer.as_ref().and_then(Announcer::token);
            let client = UdpClient::new(tracker.clone(), &self.shutdown);
            finders.push(Box::new(TrackerFinder::new(client, timeouts, token)));
        }
        Ok(CombinedFinder(finders))
    }

    /// Whether the peers are known: the manager, if any, has sent its list.
    fn is_ready(&self) -> bool {
        self.config.manager.is_none() || *lock(&self.listed)
    }

    /// Announces changed offers to the tracker now.
    fn nudge(&self) {
        if let Some(announcer) = &self.announcer {
            announcer.nudge();
        }
    }
}

/// State thread: maintains the list of peers and distributes discovered peers.
struct PeerDirectory {
    inner: Arc<Inner>,
    /// This peer's own address in the manager's list.
    own: Option<SocketAddr>,
    /// Kept only because dropping it would end the session.
    _requests: Option<Sender<TrackerRequest>>,
    /// Last list received from the manager.
    list: Vec<PeerSummary>,
    /// Whether peers missing from the list are kept, until `grace` fires.
    keeps_unlisted: bool,
    grace: Receiver<Instant>,
    /// Fires if the manager has not sent its list in time.
    list_deadline: Receiver<Instant>,
    failures: Sender<RoleError>,
    /// Log lines about peers.
    lines: LimitedLines,
}

impl PeerDirectory {
    fn run(mut self, session_events: &Receiver<SessionEvent>, discoveries: &Receiver<DiscoveredPeer>) {
        let shutdown = self.inner.shutdown.clone();
        let no_events = never();
        // Without a session the sender is dropped, and a closed channel would always be ready.
        let session_events = if self.inner.config.manager.is_some() { session_events } else { &no_events };
        loop {
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => return,
                recv(session_events) -> event => match event {
                    Ok(event) => self.handle_session_event(event),
                    Err(_) => return,
                },
                recv(self.grace) -> _ => {
                    self.grace = never();
                    self.keeps_unlisted = false;
                    self.update(self.list.clone());
                }
                recv(self.list_deadline) -> _ => {
                    self.list_deadline = never();
                    self.warn_without_list();
                }
                recv(discoveries) -> discovered => if let Ok(discovered) = discovered {
                    let routes = lock(&self.inner.routes);
                    let wanted = routes.iter().filter(|(file, _)| *file == discovered.file);
                    wanted.for_each(|(_, route)| _ = route.try_send(discovered));
                },
            }
        }
    }

    fn handle_session_event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Joined { address, requests, .. } => {
                // The peers of a restarted manager register one by one: known peers are kept for a grace
                // period.
                if self.own.replace(address).is_some() {
                    self.grace = after(LEASE_TIMEOUT);
                    self.keeps_unlisted = true;
                }
                self._requests = Some(requests);
                self.list_deadline = after(LIST_TIMEOUT);
            }
            SessionEvent::Peers(mut peers) => {
                self.list_deadline = never();
                let is_own = |address| self.own == Some(address) || self.inner.presence.is_own(address);
                peers.retain(|peer| !peer.address.all().any(is_own));
                self.list.clone_from(&peers);
                if self.keeps_unlisted {
                    let known = read(&self.inner.peers);
                    let missing = known.iter().filter(|peer| !is_listed(peer, &self.list));
                    peers.extend(missing.cloned());
                }
                self.update(peers);
            }
            SessionEvent::Failed(error) => _ = self.failures.try_send(error),
            // Known peers are used also without the manager.
            SessionEvent::Lost => {}
            other => log::debug!("ignoring {other:?} from the manager"),
        }
    }

    /// Warns that the manager has accepted the registration but sent no list of peers.
    fn warn_without_list(&self) {
        let Some(manager) = &self.inner.config.manager else { return };
        log::warn!("the manager on {manager} has sent no list of peers; waiting for it");
    }

    fn update(&self, peers: Vec<PeerSummary>) {
        let mut known = write(&self.inner.peers);
        for gone in known.iter().filter(|peer| !is_listed(peer, &peers)) {
            let line = || format!("{} at {} disconnected", gone.name, gone.address);
            self.lines.info(gone.address.first().ip(), LineKind::Departures, line);
            events::peer(&gone.name, gone.address.clone(), PeerState::Left);
        }
        for new in peers.iter().filter(|peer| !is_listed(peer, &known)) {
            let line = || format!("{} at {} connected", new.name, new.address);
            self.lines.info(new.address.first().ip(), LineKind::Joins, line);
            events::peer(&new.name, new.address.clone(), PeerState::Joined);
        }
        if known.len() != peers.len() || peers.iter().any(|peer| !is_listed(peer, &known)) {
            log::info!("{} active", counted(peers.len() as u64, "other peer"));
        }
        *known = peers;
        drop(known);
        *lock(&self.inner.listed) = true;
    }
}

fn is_listed(peer: &PeerSummary, list: &[PeerSummary]) -> bool {
    list.iter().any(|listed| listed.is_same_peer(peer))
}

/// Starts the volunteer, if this client offers storage.
fn start_volunteer(
    config: &MemberConfig,
    presence: Presence,
    offers: &Offers,
    failures: &Sender<RoleError>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> Result<Option<Volunteer>, RoleError> {
    let Some(volunteer) = &config.volunteer else { return Ok(None) };
    let Some(tracker) = config.tracker.clone() else {
        return Err(RoleError::new(
            Fault::Usage,
            "--volunteer needs a tracker; name it with --tracker HOST:PORT",
        ));
    };
    let context = VolunteerContext {
        tracker,
        presence,
        offers: offers.clone(),
        timeout: config.timeout,
        timeouts: config.serve.timeouts,
        failures: failures.clone(),
        threads,
        shutdown,
    };
    Volunteer::start(volunteer, context).map(Some)
}
