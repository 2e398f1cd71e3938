//! Membership of peers: registrations, leases, and the connections that peers registered over.
//!
//! Shared by tracker and manager. Invariants: a connection has at most one peer, and a peer that registered
//! over a connection is removed when the connection closes; a token is valid only while its peer is
//! registered; no IP address has more than its share of the peers.

use super::Moment;
use super::machine::{ConnectionId, Effect, Origin, PeerChange};
use super::reach::{Candidates, DialBack, DialResult, DialState, is_dialable};
use super::registry::{Peer, PeerId, Registry, RemovedPeer};
use crate::content::fmt::counted;
use crate::content::limits;
use crate::protocol::ErrorCode;
use crate::protocol::tokens::Nonce;
use crate::protocol::tracker::{HubRole, Reachability, Registration, Token, TrackerResponse};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Timing of heartbeats and leases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leases {
    /// Interval at which peers send heartbeats.
    pub heartbeat: Duration,
    /// Time for which a peer counts as alive after a heartbeat.
    pub lease: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        Self { heartbeat: limits::HEARTBEAT_INTERVAL, lease: limits::LEASE_TIMEOUT }
    }
}

/// Addresses that a tracker or manager tells to its peers and believes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exposure {
    /// It listens on an address that is not a loopback address.
    pub public: bool,
    /// Advertised addresses count although the peer has not been reached there.
    pub trust_advertised: bool,
}

/// Whether a program that listens on this IP address can be reached from other hosts.
pub fn is_public(listen: IpAddr) -> bool {
    !listen.to_canonical().is_loopback()
}

/// Result of a registration.
#[derive(Debug)]
pub struct Joined {
    /// Id of the new peer.
    pub id: PeerId,
    /// The reply to the peer.
    pub response: TrackerResponse,
    /// The peer that had registered over the same connection before, now removed.
    pub replaced: Option<(PeerId, RemovedPeer)>,
    /// Line for the log, and the report for other programs; none for the second registration of a volunteer.
    pub notes: Vec<Effect>,
    /// Addresses to dial.
    pub dials: Vec<Effect>,
}

/// Consequence of the result of dialling a peer.
#[derive(Debug, Default)]
pub struct Dialled {
    /// The peer, if it is still registered.
    pub peer: Option<PeerId>,
    /// Peers at whose address another peer has proven itself.
    pub displaced: Vec<PeerId>,
    /// The results of this peer, if all are known.
    pub complete: Option<Reachability>,
    /// Requesters may get other addresses than before.
    pub is_view_changed: bool,
}

/// Registered peers and their connections.
pub struct Membership {
    leases: Leases,
    /// Registry of peers, leases and files.
    pub registry: Registry,
    connections: HashMap<PeerId, ConnectionId>,
    registered: HashMap<ConnectionId, PeerId>,
    /// Registrations of volunteers: each counts as one peer together with the registration of its shared folder.
    volunteers: HashSet<PeerId>,
    /// Largest number of peers registered from one IP address.
    share_max: usize,
    /// Listening address, advertised addresses.
    exposure: Exposure,
    /// Returns unguessable numbers for tokens.
    draw: Box<dyn FnMut() -> u128 + Send>,
}

impl Membership {
    /// Starts without peers. `draw` returns unguessable numbers.
    pub fn new(leases: Leases, exposure: Exposure, draw: impl FnMut() -> u128 + Send + 'static) -> Self {
        Self {
            leases,
            registry: Registry::new(leases.lease),
            connections: HashMap::new(),
            registered: HashMap::new(),
            volunteers: HashSet::new(),
            share_max: limits::PEERS_PER_IP_MAX,
            exposure,
            draw: Box::new(draw),
        }
    }

    /// Time for which a peer counts as alive after a heartbeat.
    pub fn lease(&self) -> Duration {
        self.leases.lease
    }

    /// The address by which a peer with this registration would be named.
    pub fn named_address(&self, origin: Origin, registration: &Registration) -> Option<SocketAddr> {
        Candidates::new(source_of(origin), registration, self.exposure.trust_advertised).preferred()
    }

    /// Registers a peer.
    ///
    /// # Errors
    /// The error to send: an address that no peer can connect to, or too many peers in total or from this IP
    /// address.
    pub fn register(
        &mut self,
        now: Moment,
        origin: Origin,
        registration: Registration,
    ) -> Result<Joined, TrackerResponse> {
        let source_address = SocketAddr::new(source(origin), registration.port);
        for address in registration.advertise.iter().chain([&source_address]) {
            if !is_dialable(*address) {
                let text = format!("{address} is not an address that others can connect to");
                return Err(error(ErrorCode::Malformed, text));
            }
        }
        if registration.name.is_of_tracker() {
            let text =
                format!("the name {} belongs to trackers; choose another one with --name", registration.name);
            return Err(error(ErrorCode::Malformed, text));
        }
        let candidates = Candidates::new(source_of(origin), &registration, self.exposure.trust_advertised);
        let address = candidates.preferred().unwrap_or(source_address);
        let name = registration.name;
        let ip = source(origin).to_canonical();
        if self.registry.shares.peers(ip) as usize >= self.share_max {
            let text = format!("peer limit of {ip} reached ({})", self.share_max);
            return Err(error(ErrorCode::Busy, text));
        }
        let registered = self.registry.register(now, (self.draw)(), name.clone(), address);
        let (id, token) = registered.map_err(|full| error(ErrorCode::Busy, full.to_string()))?;
        self.registry.set_source(id, ip);
        if registration.volunteer {
            self.volunteers.insert(id);
        }
        let dials = self.dial(id, candidates);
        let replaced = match origin {
            Origin::Connection(connection, _) => {
                let replaced = self.closed(connection);
                self.connections.insert(id, connection);
                self.registered.insert(connection, id);
                replaced
            }
            Origin::Datagram(..) => None,
        };
        let milliseconds = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
        let response = TrackerResponse::Registered {
            token,
            address,
            heartbeat_ms: milliseconds(self.leases.heartbeat),
            lease_ms: milliseconds(self.leases.lease),
            public: self.exposure.public,
            role: Some(HubRole::Tracker),
        };
        // The log line of a volunteer is its storage offer.
        let notes = match registration.volunteer {
            true => Vec::new(),
            false => vec![
                Effect::Note(format!("{name} joined at {address}, {}", self.count_text())),
                Effect::Peer(PeerChange { name, address, has_joined: true }),
            ],
        };
        Ok(Joined { id, response, replaced, notes, dials })
    }

    /// Orders to dial the candidates of a peer.
    fn dial(&mut self, peer: PeerId, candidates: Candidates) -> Vec<Effect> {
        let pending = self.registry.reaches.put(peer, candidates);
        self.registry.rank_again(peer);
        let order = |address| Effect::DialBack(DialBack { peer, address, nonce: Nonce((self.draw)()) });
        pending.into_iter().map(order).collect()
    }

    /// Replaces the addresses of a peer. Returns the reply and the orders to dial them.
    pub fn replace_addresses(
        &mut self,
        now: Moment,
        origin: Origin,
        token: Token,
        addresses: Vec<IpAddr>,
    ) -> (TrackerResponse, Vec<Effect>) {
        let Some(id) = self.registry.heartbeat(now, token) else { return (unknown_token(), Vec::new()) };
        let Some(candidates) = self.registry.reaches.of(id) else {
            return (TrackerResponse::Alive, Vec::new());
        };
        let candidates = candidates.replaced(source_of(origin), candidates.port(), &addresses);
        let preferred = candidates.preferred();
        let dials = self.dial(id, candidates);
        if let Some(address) = preferred {
            self.registry.set_address(id, address);
        }
        (TrackerResponse::Alive, dials)
    }

    /// The addresses at which a peer has been reached.
    pub fn reachability(&mut self, now: Moment, token: Token) -> TrackerResponse {
        let Some(id) = self.registry.heartbeat(now, token) else { return unknown_token() };
        TrackerResponse::Reachability(self.registry.reaches.reachability(id).unwrap_or_default())
    }

    /// Notes the result of a [`DialBack`].
    pub fn dialled(&mut self, now: Moment, result: &DialResult) -> Dialled {
        let DialBack { peer, address, .. } = result.dialled;
        let mut outcome = Dialled::default();
        let state = match self.registry.reaches.key(peer) {
            _ if result.proofs.is_none() => DialState::Fails,
            Some(key) if result.proves(key) => DialState::Works,
            _ => DialState::Other,
        };
        // A program may have several registrations, which all prove themselves at its address.
        let others = self.registry.reaches.note(peer, address, state);
        let missed = (now + self.leases.heartbeat * 3 / 2).min(now + self.leases.lease);
        for other in others {
            let is_same_program = self.registry.reaches.key(other).is_some_and(|key| result.proves(key));
            if !is_same_program && self.registry.reaches.displace(other, address) {
                self.registry.rank_again(other);
                self.registry.displace(other, missed);
                outcome.displaced.push(other);
            }
        }
        self.registry.rank_again(peer);
        if let Some(address) = self.registry.reaches.of(peer).and_then(Candidates::preferred) {
            self.registry.set_address(peer, address);
            outcome.peer = Some(peer);
        }
        outcome.complete = self.registry.reaches.reachability(peer).filter(|results| results.pending == 0);
        let has_choice = self.registry.reaches.of(peer).is_some_and(|candidates| candidates.len() > 1);
        outcome.is_view_changed = has_choice || state == DialState::Other || !outcome.displaced.is_empty();
        outcome
    }

    /// Number of peers, as text. A volunteer, which registers twice, counts once.
    pub fn count_text(&self) -> String {
        counted(self.peer_count(), "peer")
    }

    /// Number of peers. A volunteer, which registers twice, counts once.
    pub fn peer_count(&self) -> u64 {
        self.registry.len().saturating_sub(self.volunteers.len()) as u64
    }

    /// Whether this is the registration of a volunteer.
    pub fn is_volunteer(&self, id: PeerId) -> bool {
        self.volunteers.contains(&id)
    }

    /// Source IP address of a registered peer.
    pub fn source_ip(&self, id: PeerId) -> Option<IpAddr> {
        let current = self.registry.reaches.of(id).map(Candidates::source);
        current.or_else(|| self.registry.source(id))
    }

    /// Renews a lease. Returns the reply to the heartbeat.
    pub fn heartbeat(&mut self, now: Moment, token: Token) -> TrackerResponse {
        self.registry.heartbeat(now, token).map_or_else(unknown_token, |_| TrackerResponse::Alive)
    }

    /// Removes a peer that disconnects.
    pub fn leave(&mut self, now: Moment, token: Token) -> Option<(PeerId, RemovedPeer)> {
        let id = self.registry.by_token(now, token)?;
        self.remove(id)
    }

    /// Removes the peer that registered over a closed connection.
    pub fn closed(&mut self, connection: ConnectionId) -> Option<(PeerId, RemovedPeer)> {
        let id = *self.registered.get(&connection)?;
        self.remove(id)
    }

    /// Removes the peers whose lease has expired.
    pub fn expire(&mut self, now: Moment) -> Vec<(PeerId, RemovedPeer)> {
        let all = self.registry.expire(now);
        all.iter().for_each(|(id, _)| self.forget(*id));
        all
    }

    fn remove(&mut self, id: PeerId) -> Option<(PeerId, RemovedPeer)> {
        let gone = self.registry.remove(id)?;
        self.forget(id);
        Some((id, gone))
    }

    fn forget(&mut self, id: PeerId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.registered.remove(&connection);
        }
        self.volunteers.remove(&id);
    }

    /// The connection that a peer registered over.
    pub fn connection(&self, id: PeerId) -> Option<ConnectionId> {
        self.connections.get(&id).copied()
    }

    /// The peer that registered over a connection.
    pub fn registered_over(&self, connection: ConnectionId) -> Option<&Peer> {
        self.registry.peer(*self.registered.get(&connection)?)
    }

    /// All peers that registered over a connection.
    pub fn connections(&self) -> impl Iterator<Item = (PeerId, ConnectionId)> + '_ {
        self.connections.iter().map(|(id, connection)| (*id, *connection))
    }

    /// The peer with this token, for requests that are accepted only over the connection that it registered
    /// over. Renews its lease.
    ///
    /// # Errors
    /// The error to send.
    pub fn over_connection(
        &mut self,
        now: Moment,
        token: Token,
        origin: Origin,
    ) -> Result<PeerId, TrackerResponse> {
        let Origin::Connection(connection, _) = origin else {
            return Err(error(ErrorCode::Malformed, "this request needs a TCP connection"));
        };
        let id = self.registry.by_token(now, token);
        let id = id.filter(|id| self.connection(*id) == Some(connection)).ok_or_else(unknown_token)?;
        self.registry.heartbeat(now, token);
        Ok(id)
    }

    #[cfg(test)]
    pub(super) fn is_clean(&self) -> bool {
        let unconnected = self.connections.is_empty() && self.registered.is_empty();
        self.registry.is_empty() && unconnected && self.registry.shares.is_empty()
    }
}

/// The source address of a request; the port of a connection is unknown and 0.
fn source_of(origin: Origin) -> SocketAddr {
    match origin {
        Origin::Datagram(source, _) => source,
        Origin::Connection(_, ip) => SocketAddr::new(ip, 0),
    }
}

/// The source IP address of a request.
pub(super) fn source(origin: Origin) -> IpAddr {
    source_of(origin).ip()
}

/// An error reply.
pub(super) fn error(code: ErrorCode, text: impl Into<String>) -> TrackerResponse {
    TrackerResponse::Error { code, text: text.into() }
}

/// The error for a token that is unknown, expired, or not valid for this connection.
pub(super) fn unknown_token() -> TrackerResponse {
    error(ErrorCode::UnknownToken, "unknown or expired token: register again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::PeerName;

    #[test]
    fn an_ip_address_cannot_exceed_its_share_of_peers() {
        let mut next = 0;
        let mut members = Membership::new(Leases::default(), Exposure::default(), move || {
            next += 1;
            next
        });
        members.share_max = 2;
        let join = |members: &mut Membership, now, from: &str| {
            let origin = Origin::Datagram(from.parse().unwrap(), 1);
            // The advertised address is the peer's own choice and does not count.
            let advertise = Some(SocketAddr::from(([10, 0, 0, 9], 1_000)));
            let name = PeerName::new("x").unwrap();
            let registration = Registration {
                name,
                port: 1,
                advertise,
                addresses: Vec::new(),
                identity: None,
                volunteer: false,
            };
            match members.register(Duration::from_secs(now), origin, registration).ok()?.response {
                TrackerResponse::Registered { token, .. } => Some(token),
                other => panic!("{other:?}"),
            }
        };
        let first = join(&mut members, 0, "10.0.0.1:1").unwrap();
        assert!(join(&mut members, 0, "10.0.0.1:2").is_some());
        assert!(join(&mut members, 0, "10.0.0.1:3").is_none());
        assert!(join(&mut members, 0, "10.0.0.2:3").is_some());
        assert!(members.leave(Duration::ZERO, first).is_some());
        assert!(join(&mut members, 1, "10.0.0.1:3").is_some());
        assert!(join(&mut members, 1, "10.0.0.1:4").is_none());
        assert_eq!(members.expire(Duration::from_secs(99)).len(), 3);
        assert!(members.is_clean());
    }
}
