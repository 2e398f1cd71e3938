//! Seeder role: hashes files, registers them with trackers and serves them until the shutdown.
//!
//! Runs on the caller's thread, which checks the files at intervals and hashes each again when it has changed. A seeder that
//! other hosts can reach prints tickets and runs a tracker on its own port (module `rendezvous`), at which it is registered, too.
//! Invariant: an offered file has not been written to since it was hashed completely.

mod hash;
mod offered_file;
mod offered_item;
mod offered_tree;
mod progress;
mod rendezvous;
mod tickets;

pub use offered_tree::TreeOptions;
pub use progress::Until;

use crate::content::limits::{FOLDER_SCAN_INTERVAL, TRACKER_ADDRESS};
use crate::content::{FileName, PeerName};
use crate::discovery::responder::respond;
use crate::net::{BindError, Endpoint, Listener, Listening, PortRange, Shutdown, Threads, UdpClient};
use crate::protocol::tracker::{TrackerRequest, TrackerResponse};
use crate::report::error::{Fault, RoleError};
use crate::report::events;
use crate::report::next_step;
use crate::report::watch::Watch;
use crate::roles::discoverable::of_peer;
use crate::storage::STDIN;
use crate::swarm::distribution::DistributionView;
use crate::tracker_client::announcer::{AnnounceTarget, Announcer};
use crate::tracker_client::presence::{FOUND_TRACKER, OWN_TRACKER, Presence, PresenceConfig, SHARED_FILES};
use crate::upload::offers::Offers;
use crate::upload::server::{ServeOptions, serve_with_tracker};
use crossbeam_channel::{Receiver, Sender, bounded};
use offered_item::OfferedItem;
use progress::Reports;
use rendezvous::Rendezvous;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tickets::Tickets;

/// Interval at which the reports about peers are updated.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// Interval at which a tracker on this host is looked for.
const FIND_TRACKER_INTERVAL: Duration = Duration::from_secs(30);
/// Time for the answer of a tracker on this host.
const FIND_TRACKER_TIMEOUT: Duration = Duration::from_secs(2);

/// The addresses on which a seeder listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenRule {
    /// Loopback, and the addresses by which the tracker is reached once other hosts can reach it, see [`Presence`].
    WithTracker,
    /// All addresses of this host, IPv4 and IPv6.
    All,
    /// This address.
    Only(IpAddr),
}

/// Configuration of a seeder.
#[derive(Debug, Clone)]
pub struct SeederConfig {
    /// Paths of the files, folders or block devices; a FIFO or `-` (standard input, which needs `offer_as`) is read to its end
    /// first.
    pub files: Vec<PathBuf>,
    /// Name under which the only file is offered; `None` for its own name.
    pub offer_as: Option<FileName>,
    /// Addresses on which the seeder serves.
    pub listen: ListenRule,
    /// Ports to serve on; the first free one is used.
    pub ports: PortRange,
    /// Gives tickets from the start, and so needs no tracker.
    pub gives_tickets: bool,
    /// Address of the tracker; `None` to use the one on this host if there is one.
    pub tracker: Option<Endpoint>,
    /// Name of this peer; `None` for `seeder-PORT`.
    pub name: Option<PeerName>,
    /// Address of this peer for other peers, if it differs from the source address that the tracker
    /// sees.
    pub advertise: Option<SocketAddr>,
    /// What is sent of a folder.
    pub tree: TreeOptions,
    /// Chunk size in bytes; `None` to derive it from the file size.
    pub chunk_size: Option<u32>,
    /// Limits and timeouts of the serving side.
    pub serve: ServeOptions,
    /// Time after which an unreachable tracker is an error; `None` to retry without limit.
    pub timeout: Option<Duration>,
    /// Answers questions of other hosts about its files in the local network, unless it listens only on loopback.
    pub is_discoverable: bool,
    /// When the seeder ends by itself.
    pub until: Until,
}

/// Runs a seeder until the shutdown, or until the conditions of [`Until`] are met.
///
/// # Errors
/// A file cannot be read, the port is taken, or the tracker does not answer in time.
pub fn run(config: SeederConfig, watch: &dyn Watch, shutdown: &Shutdown) -> Result<(), RoleError> {
    let names = names(&config)?;
    // Binds before it hashes: hashing can take minutes, and a port in use is reported at once.
    let (listener, socket) =
        config.ports.bind_first_free(|port| bind(&config, port)).map_err(RoleError::bind("-p PORT"))?;
    let offers = Offers::new();
    let mut files = Vec::new();
    for (path, name) in config.files.iter().zip(names) {
        match OfferedItem::new(path, name, &config, &offers, watch, shutdown) {
            Ok(file) => files.push(file),
            // A shutdown while hashing is a normal end.
            Err(_) if shutdown.is_stopped() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    let threads = Threads::new();
    let seeder =
        Seeder { config: &config, offers: offers.clone(), watch, threads: threads.clone(), shutdown };
    let result = seeder.serve_until((listener, socket), files);
    shutdown.trigger();
    threads.join();
    let view = offers.receivers().view();
    watch.receivers(&view);
    watch.receivers(&DistributionView::default());
    if view.known > 0 {
        log::info!("{}", progress::result(&view));
    }
    result
}

/// The name under which each file is offered.
fn names(config: &SeederConfig) -> Result<Vec<FileName>, RoleError> {
    if let (Some(name), [_]) = (&config.offer_as, &config.files[..]) {
        return Ok(vec![name.clone()]);
    }
    if config.offer_as.is_some() {
        return Err(RoleError::new(Fault::Usage, "--as names one file, and there are several"));
    }
    let mut names: Vec<FileName> = Vec::new();
    for path in &config.files {
        let name = own_name(path)?;
        if let Some(other) = names.iter().position(|known| *known == name) {
            let (first, second) = (config.files[other].display(), path.display());
            let text =
                format!("{first} and {second} would both be offered as {name}; start a seeder for each");
            return Err(RoleError::new(Fault::Usage, text));
        }
        names.push(name);
    }
    Ok(names)
}

/// Listens for peers, and for datagrams if the own tracker runs from the start.
fn bind(config: &SeederConfig, port: u16) -> Result<(Listener, Option<UdpSocket>), BindError> {
    let ip = match config.listen {
        ListenRule::Only(ip) => ip,
        ListenRule::WithTracker => Ipv4Addr::LOCALHOST.into(),
        ListenRule::All => {
            match Listener::bind_tcp_and_udp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
                // The system has no IPv6.
                Err(BindError::Other(..)) => Ipv4Addr::UNSPECIFIED.into(),
                bound => return bound.map(|(listener, socket)| (listener, Some(socket))),
            }
        }
    };
    let address = SocketAddr::new(ip, port);
    match config.gives_tickets || !ip.is_loopback() {
        true => Listener::bind_tcp_and_udp(address).map(|(listener, socket)| (listener, Some(socket))),
        false => Listener::bind(address).map(|listener| (listener, None)),
    }
}

/// A seeder whose files have been hashed.
struct Seeder<'a> {
    config: &'a SeederConfig,
    offers: Offers,
    watch: &'a dyn Watch,
    threads: Threads,
    shutdown: &'a Shutdown,
}

impl Seeder<'_> {
    /// Registers and serves the files, in their current version, until the shutdown.
    fn serve_until(
        &self,
        (listener, socket): (Listener, Option<UdpSocket>),
        mut files: Vec<OfferedItem>,
    ) -> Result<(), RoleError> {
        let (address, config) = (listener.address(), self.config);
        files.iter_mut().for_each(OfferedItem::offer);
        self.offers.receivers().record();
        let rendezvous = Rendezvous::new(&self.offers, &config.serve, &self.threads, self.shutdown);
        let listening = self.listen(listener, socket, &rendezvous)?;
        if config.is_discoverable {
            respond(of_peer(listening.clone(), self.offers.clone()), &self.threads, self.shutdown);
        }
        match config.listen {
            ListenRule::All => log::info!(
                "seeder listening on {address}, all addresses of this host, TCP and UDP; --listen IP selects one"
            ),
            _ => log::info!("seeder listening on {address}"),
        }
        events::listening(address);
        let (failures, failed) = bounded(1);
        let name = config.name.clone().map_or_else(|| default_name("seeder", address.port()), Ok)?;
        let presence = PresenceConfig {
            name,
            advertise: config.advertise,
            widens: config.listen == ListenRule::WithTracker,
            shared_files: None,
        };
        let presence = Presence::new(presence, listening.clone(), self.offers.registrations().clone());
        let mut announcers = Announcers { seeder: self, presence, rendezvous, all: Vec::new(), own: false };
        announcers.start(&files, address.port(), failures)?;
        self.watch_files(files, &listening, &mut announcers, &failed)
    }

    /// Starts the upload server, and the own tracker on the same port.
    fn listen(
        &self,
        listener: Listener,
        socket: Option<UdpSocket>,
        rendezvous: &Rendezvous,
    ) -> Result<Listening, RoleError> {
        if let Some(socket) = socket {
            rendezvous.listen(socket)?;
        }
        let (offers, options) = (self.offers.clone(), &self.config.serve);
        let tracker = Arc::new(rendezvous.clone());
        let listening = serve_with_tracker(listener, offers, options, tracker, &self.threads, self.shutdown)?;
        let rendezvous = rendezvous.clone();
        Ok(listening.with(move |address| rendezvous.extend(address)))
    }

    /// Checks the files and reports on the peers until the end.
    fn watch_files(
        &self,
        mut files: Vec<OfferedItem>,
        listening: &Listening,
        announcers: &mut Announcers<'_>,
        failed: &Receiver<RoleError>,
    ) -> Result<(), RoleError> {
        let Self { config, offers, watch, shutdown, .. } = self;
        let mut tickets = Tickets::new(config.advertise, config.tracker.as_ref(), config.gives_tickets);
        let (mut reports, mut checked) = (Reports::new(), Instant::now());
        let mut shown: Option<Instant> = None;
        loop {
            tickets.update(&files, &listening.addresses(), listening.port(), *watch);
            announcers.register_at_own_tracker()?;
            if shown.is_none_or(|shown| shown.elapsed() >= REPORT_INTERVAL) {
                let now = *shown.insert(Instant::now());
                reports.update(&offers.receivers().view(), *watch, now);
            }
            if let Some(reason) = config.until.reason(offers) {
                log::info!("ending: {reason}");
                return Ok(());
            }
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => return Ok(()),
                recv(failed) -> failure => return failure.map_or(Ok(()), Err),
                recv(offers.receivers().reported()) -> _ => {}
                recv(offers.load().became_idle()) -> _ => {}
                default(REPORT_INTERVAL) => {}
            }
            if checked.elapsed() >= FOLDER_SCAN_INTERVAL {
                checked = Instant::now();
                // Each file is checked, also after one that has changed.
                let changed =
                    files.iter_mut().filter_map(|file| file.check(*watch, shutdown).then_some(())).count();
                if changed > 0 {
                    announcers.nudge();
                }
            }
        }
    }
}

/// The registrations of a seeder.
struct Announcers<'a> {
    seeder: &'a Seeder<'a>,
    presence: Presence,
    rendezvous: Rendezvous,
    all: Vec<Announcer>,
    /// Whether the seeder registers at its own tracker.
    own: bool,
}

impl Announcers<'_> {
    /// Registers at the tracker that the user has named, or else at one on this host if it answers.
    fn start(
        &mut self,
        files: &[OfferedItem],
        port: u16,
        failures: Sender<RoleError>,
    ) -> Result<(), RoleError> {
        let Seeder { config, threads, shutdown, .. } = self.seeder;
        let Some(tracker) = &config.tracker else {
            // On this port the own tracker would answer.
            if port != TRACKER_ADDRESS.port() {
                let (presence, offers) = (self.presence.clone(), self.seeder.offers.clone());
                let (group, shutdown) = (threads.clone(), (*shutdown).clone());
                let find = move || register_when_found(&presence, &offers, &failures, &group, &shutdown);
                threads.spawn("find-tracker", find)?;
            }
            return Ok(());
        };
        for file in files.iter().filter_map(OfferedItem::summary) {
            log::info!("{}", next_step::download(file.name.as_str(), tracker));
        }
        let timeout = config.timeout;
        self.register(AnnounceTarget::new(tracker.clone(), SHARED_FILES, timeout), failures)
    }

    /// Registers at the own tracker once it runs.
    fn register_at_own_tracker(&mut self) -> Result<(), RoleError> {
        let Some(address) = self.rendezvous.address().filter(|_| !self.own) else { return Ok(()) };
        self.own = true;
        let target = AnnounceTarget::new(address.into(), OWN_TRACKER, None);
        self.register(target, bounded(1).0)
    }

    fn register(&mut self, target: AnnounceTarget, failures: Sender<RoleError>) -> Result<(), RoleError> {
        let Seeder { offers, threads, shutdown, .. } = self.seeder;
        let (presence, offers) = (self.presence.clone(), offers.clone());
        self.all.push(Announcer::start_at(target, presence, offers, failures, threads, shutdown)?);
        Ok(())
    }

    /// Announces changed offers now. An announcer that was found later announces them with its next heartbeat.
    fn nudge(&self) {
        self.all.iter().for_each(Announcer::nudge);
    }
}

/// Registers at the tracker on this host as soon as one answers.
fn register_when_found(
    presence: &Presence,
    offers: &Offers,
    failures: &Sender<RoleError>,
    threads: &Threads,
    shutdown: &Shutdown,
) {
    let tracker = Endpoint::from(TRACKER_ADDRESS);
    loop {
        let mut client = UdpClient::new(tracker.clone(), shutdown).with_timeout(Some(FIND_TRACKER_TIMEOUT));
        // A lookup without a name and an id finds no file.
        let question = TrackerRequest::Lookup { name: None, id: None, limit: 1, token: None };
        match client.request(&question) {
            Ok(TrackerResponse::Found { .. }) => break,
            Ok(other) => log::debug!("no tracker on this host: {other:?}"),
            Err(error) => log::debug!("no tracker on this host: {error}"),
        }
        if shutdown.wait(FIND_TRACKER_INTERVAL) {
            return;
        }
    }
    let target = AnnounceTarget::new(tracker, FOUND_TRACKER, None);
    let (presence, offers, failures) = (presence.clone(), offers.clone(), failures.clone());
    if let Err(error) = Announcer::start_at(target, presence, offers, failures, threads, shutdown) {
        log::warn!("not registered with the tracker on this host: {error}");
    }
}

/// The default name of a peer: `ROLE-PORT`.
///
/// # Errors
/// Never for a valid `role`.
pub(super) fn default_name(role: &str, port: u16) -> Result<PeerName, RoleError> {
    PeerName::new(format!("{role}-{port}")).map_err(|error| RoleError::from_error(Fault::Other, error))
}

fn own_name(path: &Path) -> Result<FileName, RoleError> {
    // The name of `.` and of `dir/..` is in the whole path only. A link to a folder keeps its own name.
    let whole = path.file_name().is_none().then(|| std::fs::canonicalize(path).ok()).flatten();
    let path = whole.as_deref().unwrap_or(path);
    if path == Path::new(STDIN) {
        return Err(RoleError::new(Fault::Usage, "standard input has no name; choose one with --as NAME"));
    }
    let name = path.file_name().ok_or_else(|| {
        RoleError::new(Fault::Usage, format!("{} is not the path of a file", path.display()))
    })?;
    let unusable = |cause: &dyn std::fmt::Display| {
        let text =
            format!("{} cannot be offered under its own name: {cause}; choose one with --as", path.display());
        RoleError::new(Fault::Usage, text)
    };
    let name = name.to_str().ok_or_else(|| unusable(&"it is not UTF-8"))?;
    FileName::new(name).map_err(|error| unusable(&error).with_source(error))
}
