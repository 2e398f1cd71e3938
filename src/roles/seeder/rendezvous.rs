//! The tracker that a seeder runs on its own port, so that a ticket needs no other tracker.
//!
//! It is the same pure machine that a tracker runs. It starts with the first address that other hosts can reach, or at once
//! for a seeder that gives tickets. Invariant: it answers over UDP and TCP on the port of the upload server.

use crate::content::limits::LEASE_TIMEOUT;
use crate::content::{FileId, PeerName};
use crate::net::{FrameWriter, InFlightBudget, Shutdown, StreamError, Threads, bind_udp};
use crate::protocol::tokens::ReportId;
use crate::protocol::tracker::{FileSummary, Token, TrackerRequest, TrackerResponse};
use crate::swarm::Moment;
use crate::swarm::distribution::{CompletionReport, ReceiverKey};
use crate::swarm::keeping::TaskOutcome;
use crate::swarm::machine::{ConnectionId, Effect, Machine, Origin};
use crate::swarm::membership::{Exposure, is_public};
use crate::swarm::reach::DialResult;
use crate::swarm::shares::Budgets;
use crate::swarm::tracker::{Rules, Tracker};
use crate::sync::lock;
use crate::tracker::server::{SharedPortServer, draw};
use crate::upload::offers::Offers;
use crate::upload::server::{OpenedConnection, ServeOptions, TrackerConnections};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Most registrations that are shown with their names.
const NAMED_MAX: usize = 4_096;
/// Entries of the tracker, about 100 MiB at most: its peers download the files of one program.
const BUDGETS: Budgets = Budgets { files: 32_768, holders: 262_144, claims: 16_384 };
/// Interval at which ended registrations are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(1);

/// Handle of the tracker of a seeder. Clones are the same tracker.
#[derive(Clone)]
pub(super) struct Rendezvous(Arc<Inner>);

struct Inner {
    offers: Offers,
    serve: ServeOptions,
    threads: Threads,
    shutdown: Shutdown,
    /// The server, and the address at which this program reaches it.
    running: Mutex<Option<(SharedPortServer, SocketAddr)>>,
}

impl Rendezvous {
    /// A tracker that has not started. It reports to the receivers of `offers`.
    pub(super) fn new(offers: &Offers, serve: &ServeOptions, threads: &Threads, shutdown: &Shutdown) -> Self {
        let (offers, threads, shutdown) = (offers.clone(), threads.clone(), shutdown.clone());
        let serve = serve.clone();
        Self(Arc::new(Inner { offers, serve, threads, shutdown, running: Mutex::default() }))
    }

    /// Receives the datagrams of a socket; the first one starts the tracker.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn listen(&self, socket: UdpSocket) -> io::Result<()> {
        let address = socket.local_addr()?;
        let mut running = lock(&self.0.running);
        let server = match &*running {
            Some((server, _)) => server.clone(),
            None => {
                let server = self.start(address.ip())?;
                running.insert((server, reached_at(address))).0.clone()
            }
        };
        server.receive_from(socket)
    }

    /// Also listens on an address of the upload server, unless only this host can reach it.
    pub(super) fn extend(&self, address: SocketAddr) {
        if address.ip().is_loopback() {
            return;
        }
        let listening = bind_udp(address).map_err(io::Error::other).and_then(|socket| self.listen(socket));
        if let Err(error) = listening {
            log::warn!("{error}; peers with a ticket find each other by TCP only");
        }
    }

    /// The address at which this program reaches the tracker; `None` while it does not run.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        lock(&self.0.running).as_ref().map(|(_, address)| *address)
    }

    fn start(&self, listen: IpAddr) -> io::Result<SharedPortServer> {
        let Inner { offers, serve, threads, shutdown, .. } = &*self.0;
        let exposure = Exposure { public: is_public(listen), trust_advertised: false };
        let rules = Rules { exposure, budgets: BUDGETS, ..Rules::default() };
        let tracker = Tracker::new(rules, fastrand::Rng::with_seed(draw() as u64), draw);
        let tracker = ObservedTracker::new(tracker, offers.clone());
        let in_flight = InFlightBudget::new(serve.in_flight);
        SharedPortServer::start(tracker, in_flight, serve.timeouts, threads, shutdown)
    }
}

/// The address at which a program reaches its own socket.
fn reached_at(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        false => address,
    }
}

impl TrackerConnections for Rendezvous {
    fn is_running(&self) -> bool {
        self.address().is_some()
    }

    fn serve(&self, connection: OpenedConnection<'_>, writer: FrameWriter) -> StreamError {
        let server = lock(&self.0.running).as_ref().map(|(server, _)| server.clone());
        match server {
            Some(server) => server.serve(connection, writer),
            None => StreamError::Closed,
        }
    }
}

/// A registration at the tracker.
struct Registered {
    key: ReceiverKey,
    connection: Option<ConnectionId>,
    /// Time of the last request with its token.
    seen: Moment,
}

/// A tracker that tells the record of receivers the names, the announcements and the completion reports of its peers.
struct ObservedTracker {
    tracker: Tracker,
    offers: Offers,
    registered: HashMap<Token, Registered>,
    expires: Moment,
}

impl ObservedTracker {
    fn new(tracker: Tracker, offers: Offers) -> Self {
        Self { tracker, offers, registered: HashMap::new(), expires: Moment::ZERO }
    }

    /// Notes the registration of a peer.
    fn note_registered(&mut self, now: Moment, origin: Origin, (name, port): (PeerName, u16), token: Token) {
        if self.registered.len() < NAMED_MAX {
            let (ip, connection) = match origin {
                Origin::Datagram(from, _) => (from.ip(), None),
                Origin::Connection(id, ip) => (ip, Some(id)),
            };
            let key = ReceiverKey { ip, port: Some(port) };
            self.offers.receivers().registered(key, Some(&name));
            self.registered.insert(token, Registered { key, connection, seen: now });
        }
    }

    /// Notes a request with a token.
    fn note_seen(&mut self, now: Moment, token: Token) {
        if let Some(registered) = self.registered.get_mut(&token) {
            registered.seen = now;
        }
    }

    /// Notes the chunks that a peer holds, and the bytes that it has sent to others.
    fn note_announced(
        &mut self,
        now: Moment,
        token: Token,
        file: &FileSummary,
        (held, sent): (u32, Option<u64>),
    ) {
        self.note_seen(now, token);
        if let Some(registered) = self.registered.get(&token) {
            self.offers.receivers().announced(registered.key, file, held, sent);
        }
    }

    fn note_completed(&self, origin: Origin, (file, report): (FileId, ReportId), name: PeerName) {
        let ip = match origin {
            Origin::Datagram(from, _) => from.ip(),
            Origin::Connection(_, ip) => ip,
        };
        let offered = self.offers.get(file).and_then(|source| source.manifest());
        if let Some(manifest) = offered {
            let size = manifest.layout().size();
            let label = self.offers.label(file);
            let completion = CompletionReport { file, label, size, report, name };
            self.offers.receivers().completed(ReceiverKey { ip, port: None }, &completion);
        }
    }

    /// Removes the registrations that have ended.
    fn remove(&mut self, has_ended: impl Fn(&Token, &Registered) -> bool) {
        let receivers = self.offers.receivers();
        self.registered.retain(|token, registered| {
            let ended = has_ended(token, registered);
            if ended {
                receivers.registered(registered.key, None);
            }
            !ended
        });
    }
}

impl Machine for ObservedTracker {
    fn prefetch(&self, request: &TrackerRequest) {
        self.tracker.prefetch(request);
    }

    fn request(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Vec<Effect> {
        let mut registering = None;
        match &request {
            TrackerRequest::Register(registration) => {
                registering = Some((registration.name.clone(), registration.port));
            }
            TrackerRequest::Heartbeat { token } | TrackerRequest::Reachability { token } => {
                self.note_seen(now, *token);
            }
            TrackerRequest::Lookup { token: Some(token), .. } => self.note_seen(now, *token),
            TrackerRequest::Announce { token, file, held, sent } => {
                self.note_announced(now, *token, file, (*held, *sent));
            }
            TrackerRequest::Goodbye { token } => self.remove(|known, _| known == token),
            TrackerRequest::Completed { file, report, name } => {
                self.note_completed(origin, (*file, *report), name.clone());
            }
            _ => {}
        }
        let effects = self.tracker.request(now, origin, request);
        if let (Some(peer), Some(Effect::Reply(_, TrackerResponse::Registered { token, .. }))) =
            (registering, effects.first())
        {
            self.note_registered(now, origin, peer, *token);
        }
        effects
    }

    fn closed(&mut self, now: Moment, connection: ConnectionId) -> Vec<Effect> {
        self.remove(|_, registered| registered.connection == Some(connection));
        self.tracker.closed(now, connection)
    }

    fn task_outcome(&mut self, now: Moment, outcome: TaskOutcome) -> Vec<Effect> {
        self.tracker.task_outcome(now, outcome)
    }

    fn dialled(&mut self, now: Moment, result: DialResult) -> Vec<Effect> {
        self.tracker.dialled(now, result)
    }

    fn tick(&mut self, now: Moment) -> Vec<Effect> {
        if now >= self.expires {
            self.expires = now + EXPIRY_INTERVAL;
            self.remove(|_, registered| now.saturating_sub(registered.seen) >= LEASE_TIMEOUT);
        }
        self.tracker.tick(now)
    }

    fn next_tick(&self) -> Option<Moment> {
        self.tracker.next_tick()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tracker::Registration;
    use crate::swarm::distribution::Stage;
    use crate::upload::receivers::Receivers;

    const FILE: FileId = FileId([7; 32]);

    /// A record in which a peer at 10.0.0.2:7000 downloads a file.
    fn observed() -> (ObservedTracker, Receivers, Origin) {
        let offers = Offers::new();
        let receivers = offers.receivers().clone();
        receivers.record();
        let tracker = Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), draw);
        let origin = Origin::Datagram("10.0.0.2:999".parse().unwrap(), 1);
        let key = ReceiverKey { ip: "10.0.0.2".parse().unwrap(), port: Some(7000) };
        let name = PeerName::new("x").unwrap();
        let completion =
            CompletionReport { file: FILE, label: FILE.short(), size: 9, report: ReportId(1), name };
        receivers.completed(key, &completion);
        (ObservedTracker::new(tracker, offers), receivers, origin)
    }

    fn register(machine: &mut ObservedTracker, origin: Origin) -> Token {
        let registration = Registration::new(PeerName::new("anna").unwrap(), 7000);
        let effects = machine.request(Moment::ZERO, origin, TrackerRequest::Register(registration));
        match effects.first() {
            Some(Effect::Reply(_, TrackerResponse::Registered { token, .. })) => *token,
            other => panic!("{other:?}"),
        }
    }

    fn row(receivers: &Receivers) -> (String, Stage) {
        let row = receivers.view().rows.remove(0);
        (row.peer, row.stage)
    }

    #[test]
    fn a_registered_peer_is_shown_with_its_name_until_its_lease_ends() {
        let (mut machine, receivers, origin) = observed();
        assert_eq!(row(&receivers), ("x".to_owned(), Stage::Complete));
        let token = register(&mut machine, origin);
        assert_eq!(row(&receivers), ("anna".to_owned(), Stage::Serving));
        let later = Duration::from_secs(6);
        machine.request(later, origin, TrackerRequest::Heartbeat { token });
        machine.tick(later + Duration::from_secs(6));
        assert_eq!(row(&receivers).1, Stage::Serving);
        machine.tick(later + LEASE_TIMEOUT + EXPIRY_INTERVAL);
        assert_eq!(row(&receivers).1, Stage::Complete);
        assert!(machine.registered.is_empty());
    }

    #[test]
    fn a_goodbye_and_the_end_of_a_connection_end_a_registration() {
        let (mut machine, receivers, origin) = observed();
        let token = register(&mut machine, origin);
        machine.request(Moment::ZERO, origin, TrackerRequest::Goodbye { token });
        assert_eq!(row(&receivers).1, Stage::Complete);
        let connection = ConnectionId(3);
        register(&mut machine, Origin::Connection(connection, "10.0.0.2".parse().unwrap()));
        assert_eq!(row(&receivers).1, Stage::Serving);
        machine.closed(Moment::ZERO, connection);
        assert_eq!(row(&receivers).1, Stage::Complete);
    }
}
