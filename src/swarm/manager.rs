//! The manager as a pure state machine: it keeps the list of active peers and broadcasts it.
//!
//! A peer that joins gets the whole list at once; all peers get it again after each join, leave and expiry.
//! Changes close together share one broadcast. Invariant: [`BROADCAST_INTERVAL`] after the last change, the
//! current list has been sent to every connected peer.

use super::Moment;
use super::command::{Answer, Command, PeerEntry, PeerList, Refusal};
use super::keeping::TaskOutcome;
use super::machine::{ConnectionId, Effect, Machine, Origin, PeerChange};
use super::membership::{Dialled, Exposure, Leases, Membership, error};
use super::reach::DialResult;
use super::registry::{Peer, PeerId, RemovedPeer};
use crate::content::limits::{BROADCAST_INTERVAL, PEERS_LISTED_MAX, PROTOCOL_VERSION};
use crate::protocol::ErrorCode;
use crate::protocol::status::{DaemonKind, Status};
use crate::protocol::tracker::{HubRole, PeerSummary, Registration, TrackerRequest, TrackerResponse};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The state of a manager.
pub struct Manager {
    peers: Membership,
    /// The list has changed since the last broadcast.
    changed: bool,
    sent: Option<Moment>,
    effects: Vec<Effect>,
}

impl Manager {
    /// A manager without peers. `draw` returns unguessable numbers.
    pub fn new(leases: Leases, exposure: Exposure, draw: impl FnMut() -> u128 + Send + 'static) -> Self {
        let peers = Membership::new(leases, exposure, draw);
        Self { peers, changed: false, sent: None, effects: Vec::new() }
    }

    fn respond(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> TrackerResponse {
        match request {
            TrackerRequest::Hello { .. } => TrackerResponse::Hello { version: PROTOCOL_VERSION },
            TrackerRequest::Register(registration) => {
                self.register(now, origin, registration).unwrap_or_else(|refusal| refusal)
            }
            TrackerRequest::Heartbeat { token } => self.peers.heartbeat(now, token),
            TrackerRequest::Addresses { token, addresses } => {
                let (response, dials) = self.peers.replace_addresses(now, origin, token, addresses);
                self.effects.extend(dials);
                self.changed = true;
                response
            }
            TrackerRequest::Reachability { token } => self.peers.reachability(now, token),
            TrackerRequest::Goodbye { token } => {
                if let Some((_, gone)) = self.peers.leave(now, token) {
                    self.depart(&gone, "it disconnected");
                }
                TrackerResponse::Farewell
            }
            TrackerRequest::Unknown => error(ErrorCode::UnknownMessage, "unknown message"),
            _ => error(
                ErrorCode::NotATracker,
                "this is a manager, not a tracker; give the address of a tracker with --tracker HOST:PORT",
            ),
        }
    }

    fn register(
        &mut self,
        now: Moment,
        origin: Origin,
        registration: Registration,
    ) -> Result<TrackerResponse, TrackerResponse> {
        let Origin::Connection(connection, source) = origin else {
            return Err(error(
                ErrorCode::NotATracker,
                "this is a manager, which peers join over TCP; give the address of a tracker with --tracker HOST:PORT",
            ));
        };
        let address = self.peers.named_address(origin, &registration);
        let taken = self.peers.registry.peers().find(|peer| Some(peer.address) == address);
        // Registering again over the same connection is not a collision.
        if let (Some(taken), Some(address)) = (taken, address)
            && self.peers.registered_over(connection).is_none_or(|own| own.address != address)
        {
            let (name, owner) = (&registration.name, &taken.name);
            let text = format!("{address} is the address of {owner} already");
            self.effects.push(Effect::Note(format!("{name} from {source} is refused: {text}")));
            return Err(error(ErrorCode::Refused, text));
        }
        // A manager takes no storage offers: each registration is a peer.
        let mut joined =
            self.peers.register(now, origin, Registration { volunteer: false, ..registration })?;
        if let TrackerResponse::Registered { role, .. } = &mut joined.response {
            *role = Some(HubRole::Manager);
        }
        self.effects.extend(joined.notes);
        self.effects.extend(joined.dials);
        self.changed = true;
        Ok(joined.response)
    }

    fn depart(&mut self, removed: &RemovedPeer, why: &str) {
        self.changed = true;
        let RemovedPeer { peer, source, .. } = removed;
        let (name, address, left) = (&peer.name, peer.address, self.peers.count_text());
        self.effects.push(Effect::Departure(*source, format!("{name} at {address} is gone: {why}, {left}")));
        self.effects.push(Effect::Peer(PeerChange { name: name.clone(), address, has_joined: false }));
    }

    /// The list for a requester with this source address, and the message that announces it.
    fn list(&self, requester: IpAddr) -> (TrackerResponse, Arc<[u8]>) {
        let registry = &self.peers.registry;
        let summary = |(id, peer): (PeerId, &Peer)| {
            let address = registry.reaches.view(id, peer.address, requester)?;
            Some(PeerSummary { name: peer.name.clone(), address })
        };
        let mut list: Vec<PeerSummary> = registry.numbered_peers().filter_map(summary).collect();
        list.sort_by(|one, other| one.address.cmp(&other.address));
        // Names and addresses always serialise.
        let payload = serde_json::to_vec(&list).unwrap_or_else(|_| b"[]".to_vec());
        let (count, length) = (list.len() as u32, payload.len() as u64);
        (TrackerResponse::Peers { count, length }, payload.into())
    }

    /// The registered peers, for the prompt.
    fn peer_list(&self) -> PeerList {
        let entry =
            |peer: &Peer| PeerEntry { name: peer.name.clone(), address: peer.address, volunteer: false };
        let mut peers: Vec<_> = self.peers.registry.peers().map(entry).collect();
        peers.sort_unstable();
        peers.truncate(PEERS_LISTED_MAX);
        PeerList { count: self.peers.peer_count(), peers }
    }

    /// Status for a client on the same host; the server has verified that it is.
    fn status(&self) -> Status {
        let PeerList { count, peers } = self.peer_list();
        let summary = |peer: PeerEntry| PeerSummary { name: peer.name, address: peer.address.into() };
        let peers = peers.into_iter().map(summary).collect();
        Status { kind: DaemonKind::Manager, peers_known: count, peers, ..Status::default() }
    }

    /// Time at which the next broadcast is due.
    fn due(&self) -> Option<Moment> {
        self.changed.then(|| self.sent.map_or(Moment::ZERO, |sent| sent + BROADCAST_INTERVAL))
    }

    fn broadcast(&mut self, now: Moment) {
        self.changed = false;
        self.sent = Some(now);
        // Most requesters share one list: no peer has the unspecified address as its source.
        let private = self.peers.registry.reaches.private_sources();
        let mut lists = BTreeMap::new();
        for (id, connection) in self.peers.connections() {
            let Some(source) = self.peers.source_ip(id) else { continue };
            let requester = match source {
                IpAddr::V4(ip) if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_loopback() || ip.is_unicast_link_local() => source,
                _ if private.contains(&source) => source,
                _ => Ipv4Addr::UNSPECIFIED.into(),
            };
            let (response, payload) = lists.entry(requester).or_insert_with(|| self.list(requester));
            self.effects.push(Effect::PushWith(connection, response.clone(), payload.clone()));
        }
    }
}

impl Machine for Manager {
    fn request(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Vec<Effect> {
        if let (TrackerRequest::Status, Origin::Connection(connection, _)) = (&request, origin) {
            // Names, numbers and addresses always serialise.
            let payload: Arc<[u8]> = serde_json::to_vec(&self.status()).unwrap_or_default().into();
            let response = TrackerResponse::Status { length: payload.len() as u64 };
            return vec![Effect::PushWith(connection, response, payload)];
        }
        let response = self.respond(now, origin, request);
        let joined = matches!(response, TrackerResponse::Registered { .. });
        self.effects.insert(0, Effect::Reply(origin, response));
        if let (true, Origin::Connection(connection, requester)) = (joined, origin) {
            let (response, payload) = self.list(requester);
            self.effects.push(Effect::PushWith(connection, response, payload));
        }
        std::mem::take(&mut self.effects)
    }

    fn closed(&mut self, _: Moment, connection: ConnectionId) -> Vec<Effect> {
        if let Some((_, gone)) = self.peers.closed(connection) {
            self.depart(&gone, "its connection ended");
        }
        std::mem::take(&mut self.effects)
    }

    fn dialled(&mut self, now: Moment, result: DialResult) -> Vec<Effect> {
        let Dialled { peer, complete, is_view_changed, .. } = self.peers.dialled(now, &result);
        self.changed |= is_view_changed;
        if let (Some(id), Some(reachability)) = (peer, complete)
            && let Some(connection) = self.peers.connection(id)
        {
            self.effects.push(Effect::Push(connection, TrackerResponse::Reachability(reachability)));
        }
        std::mem::take(&mut self.effects)
    }

    fn task_outcome(&mut self, _: Moment, outcome: TaskOutcome) -> Vec<Effect> {
        let TaskOutcome::Command(number, command) = outcome else { return Vec::new() };
        let answer = match command {
            Command::Peers => Answer::Peers(self.peer_list()),
            _ => Answer::refused(Refusal::State, "this is a manager, which keeps no files"),
        };
        vec![Effect::Answer(number, answer)]
    }

    fn tick(&mut self, now: Moment) -> Vec<Effect> {
        for (_, gone) in self.peers.expire(now) {
            self.depart(&gone, "its lease ended");
        }
        if self.due().is_some_and(|due| due <= now) {
            self.broadcast(now);
        }
        std::mem::take(&mut self.effects)
    }

    fn next_tick(&self) -> Option<Moment> {
        self.peers.registry.next_expiry().into_iter().chain(self.due()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::PeerName;
    use crate::protocol::tracker::Token;
    use std::net::IpAddr;
    use std::time::Duration;

    fn manager() -> Manager {
        let mut next = 0;
        let draw = move || {
            next += 1;
            next
        };
        Manager::new(Leases::default(), Exposure::default(), draw)
    }

    fn at(milliseconds: u64) -> Moment {
        Duration::from_millis(milliseconds)
    }

    fn from(number: u64) -> Origin {
        Origin::Connection(ConnectionId(number), IpAddr::from([10, 0, 0, number as u8]))
    }

    fn register(port: u16, advertise: Option<&str>) -> TrackerRequest {
        let name = PeerName::new(format!("peer{port}")).unwrap();
        let advertise = advertise.map(|text| text.parse().unwrap());
        TrackerRequest::Register(Registration {
            name,
            port,
            advertise,
            addresses: Vec::new(),
            identity: None,
            volunteer: false,
        })
    }

    /// The lists that were sent, by connection.
    fn lists(effects: &[Effect]) -> Vec<(u64, Vec<u16>)> {
        let lists = effects.iter().filter_map(|effect| match effect {
            Effect::PushWith(connection, TrackerResponse::Peers { .. }, payload) => {
                let list: Vec<PeerSummary> = serde_json::from_slice(payload).unwrap();
                Some((connection.0, list.iter().map(|peer| peer.address.first().port()).collect()))
            }
            _ => None,
        });
        let mut lists: Vec<(u64, Vec<u16>)> = lists.collect();
        lists.sort();
        lists
    }

    /// The token that a peer got when it joined.
    fn token(joined: &[Effect]) -> Token {
        let told = joined.iter().find_map(|effect| match effect {
            Effect::Reply(_, TrackerResponse::Registered { token, .. }) => Some(*token),
            _ => None,
        });
        told.expect("it has joined")
    }

    #[test]
    fn the_list_is_broadcast_to_all_peers_after_each_change() {
        let mut manager = manager();
        let joined = manager.request(at(0), from(1), register(1, None));
        assert_eq!(lists(&joined), [(1, vec![1])]);
        assert_eq!(lists(&manager.tick(at(0))), [(1, vec![1])]);
        assert_eq!(lists(&manager.request(at(10), from(2), register(2, None))), [(2, vec![1, 2])]);
        manager.request(at(20), from(3), register(3, None));
        assert!(lists(&manager.tick(at(20))).is_empty(), "changes close together share a broadcast");
        assert_eq!(manager.next_tick(), Some(BROADCAST_INTERVAL));
        let all = vec![1, 2, 3];
        let sent = lists(&manager.tick(BROADCAST_INTERVAL));
        assert_eq!(sent, [(1, all.clone()), (2, all.clone()), (3, all)]);
        manager.closed(at(5000), ConnectionId(2));
        assert_eq!(lists(&manager.tick(at(5000))), [(1, vec![1, 3]), (3, vec![1, 3])]);
        manager.request(at(6000), from(1), TrackerRequest::Goodbye { token: token(&joined) });
        assert_eq!(lists(&manager.tick(at(6000))), [(3, vec![3])]);
    }

    #[test]
    fn a_lease_expires_without_heartbeats_and_is_renewed_by_them() {
        let mut manager = manager();
        let joined = manager.request(at(0), from(1), register(1, None));
        manager.request(at(0), from(2), register(2, None));
        manager.tick(at(0));
        let heartbeat = TrackerRequest::Heartbeat { token: token(&joined) };
        let datagram = Origin::Datagram("10.0.0.1:9".parse().unwrap(), 1);
        let alive = manager.request(at(9_000), datagram, heartbeat);
        assert_eq!(alive, [Effect::Reply(datagram, TrackerResponse::Alive)]);
        assert_eq!(lists(&manager.tick(at(10_000))), [(1, vec![1])]);
    }

    #[test]
    fn the_address_of_another_peer_is_refused() {
        let mut manager = manager();
        let mut code = |origin, request| match manager.request(at(0), origin, request).remove(0) {
            Effect::Reply(_, TrackerResponse::Error { code, .. }) => Some(code),
            _ => None,
        };
        assert_eq!(code(from(1), register(1, None)), None);
        assert_eq!(code(from(1), register(1, None)), None, "again over the same connection");
        let same_host = Origin::Connection(ConnectionId(9), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(code(same_host, register(1, None)), Some(ErrorCode::Refused));
        assert_eq!(code(same_host, register(2, Some("10.0.0.1:1"))), Some(ErrorCode::Refused));
        assert_eq!(
            code(from(2), register(2, Some("10.0.0.1:77"))),
            None,
            "it counts once it was reached there"
        );
        let datagram = Origin::Datagram("10.0.0.1:9".parse().unwrap(), 1);
        assert_eq!(code(datagram, register(3, None)), Some(ErrorCode::NotATracker));
        let lookup = TrackerRequest::Lookup { name: None, id: None, limit: 1, token: None };
        assert_eq!(code(from(1), lookup), Some(ErrorCode::NotATracker));
    }
}
