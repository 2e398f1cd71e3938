//! Addresses of peers: candidates from registrations, results of dialling them, and the addresses for a requester.
//!
//! A peer registers the addresses on which it serves. The tracker dials each of them; the peer proves its registration
//! over that connection ([`identity_proof`]). Invariants: an address at which another peer answered is given to no
//! requester, except an address of the peer's own network to requesters with the same source address, because the tracker
//! may have dialled a host of another network; a loopback address is dialled and given only if its peer and the requester use loopback; an address that
//! differs from the source address is given only after the peer answered there, or to a requester with the same source
//! address, which may be behind the same NAT.

use super::registry::PeerId;
use crate::content::Digest;
use crate::content::limits::{DIALS_OUTSTANDING_MAX, PEER_ADDRESSES_MAX};
use crate::protocol::PeerAddress;
use crate::protocol::peer_address::canonical_address;
use crate::protocol::tokens::{IdentityKey, Nonce, identity_proof};
use crate::protocol::tracker::{Reachability, Registration};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// An order to dial an address of a peer and to demand its identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DialBack {
    /// The registration.
    pub peer: PeerId,
    /// The address to dial.
    pub address: SocketAddr,
    /// Random number for the proof.
    pub nonce: Nonce,
}

/// Result of a [`DialBack`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DialResult {
    /// The order.
    pub dialled: DialBack,
    /// The proofs that a peer sent; `None` if no peer answered.
    pub proofs: Option<Vec<Digest>>,
}

impl DialResult {
    /// Whether the peer that answered has the registration with this key.
    pub fn proves(&self, key: IdentityKey) -> bool {
        let proof = identity_proof(key, self.dialled.nonce);
        self.proofs.as_ref().is_some_and(|proofs| proofs.contains(&proof))
    }
}

/// Result of dialling an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum DialState {
    Works,
    Unknown,
    Fails,
    /// Another peer answered.
    Other,
}

/// Origin of an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Advertised,
    Source,
    Own,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Candidate {
    address: SocketAddr,
    kind: Kind,
    state: DialState,
}

impl Candidate {
    fn is_loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }
}

/// The candidates of one peer.
#[derive(Debug)]
pub(super) struct Candidates {
    source: IpAddr,
    /// `None` if the peer cannot prove its identity: it is not dialled.
    key: Option<IdentityKey>,
    list: Vec<Candidate>,
}

impl Candidates {
    /// The usable addresses of a registration from `source`. With `trust_advertised`, the advertised address counts
    /// without a result.
    pub(super) fn new(source: SocketAddr, registration: &Registration, trust_advertised: bool) -> Self {
        let state = if trust_advertised { DialState::Works } else { DialState::Unknown };
        let advertised = registration.advertise.map(canonical_address);
        let usable = |address: &SocketAddr| is_usable(*address, Kind::Advertised, source.ip());
        let list =
            advertised.filter(usable).map(|address| Candidate { address, kind: Kind::Advertised, state });
        let advertised =
            Self { source: source.ip(), key: registration.identity, list: list.into_iter().collect() };
        advertised.replaced(source, registration.port, &registration.addresses)
    }

    /// The source IP address of the last registration or change.
    pub(super) fn source(&self) -> IpAddr {
        self.source
    }

    /// Number of addresses.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    /// The port on which the peer serves.
    pub(super) fn port(&self) -> u16 {
        self.list.iter().find(|one| one.kind != Kind::Advertised).map_or(0, |one| one.address.port())
    }

    /// The candidates after the peer has sent other addresses of its host, or from another source address.
    pub(super) fn replaced(&self, source: SocketAddr, port: u16, addresses: &[IpAddr]) -> Self {
        let advertised = self.list.iter().find(|one| one.kind == Kind::Advertised);
        let mut all: Vec<Candidate> = advertised.copied().into_iter().collect();
        let own = addresses.iter().take(PEER_ADDRESSES_MAX);
        let own = own.map(|ip| (SocketAddr::new(ip.to_canonical(), port), Kind::Own));
        for (address, kind) in std::iter::once((with_port(source, port), Kind::Source)).chain(own) {
            if is_usable(address, kind, source.ip()) && all.iter().all(|one| one.address != address) {
                all.push(Candidate { address, kind, state: DialState::Unknown });
            }
        }
        Self { source: source.ip().to_canonical(), key: self.key, list: all }
    }

    /// The address by which the tracker names the peer to all requesters: one that works, or else one with the source IP
    /// address.
    pub(super) fn preferred(&self) -> Option<SocketAddr> {
        let usable = self.list.iter().filter(|one| match one.state {
            DialState::Works => true,
            DialState::Unknown | DialState::Fails => one.address.ip() == self.source,
            DialState::Other => false,
        });
        let rank = |one: &&Candidate| match one.state {
            // An own link-local address has no scope here: only its peers can complete it.
            DialState::Works => {
                let has_no_scope = one.kind == Kind::Own && is_link_local_v6(one.address.ip());
                (0, 2 * u8::from(has_no_scope) + u8::from(one.is_loopback()), one.kind)
            }
            _ => (1, u8::from(self.source_counts() != (one.kind == Kind::Source)), one.kind),
        };
        usable.min_by_key(rank).map(|one| one.address)
    }

    /// Whether the source address is used without a result: not beside an advertised address that may be right.
    fn source_counts(&self) -> bool {
        let advertised = self.list.iter().find(|one| one.kind == Kind::Advertised);
        advertised.is_none_or(|one| one.state >= DialState::Fails)
    }

    /// The addresses for a requester with this source address; `None` if it can use none.
    fn view(&self, requester: IpAddr) -> Option<PeerAddress> {
        let local = requester.is_loopback();
        let shown = |one: &&Candidate| {
            let same_source = requester == self.source || one.address.ip() == self.source;
            match one.state {
                _ if one.is_loopback() && !local => false,
                _ if is_link_local_v6(one.address.ip()) && !is_link_local_v6(requester) => false,
                DialState::Other => one.kind == Kind::Own && requester == self.source,
                DialState::Works => one.kind != Kind::Source || self.source_counts() || local,
                DialState::Unknown | DialState::Fails if one.kind == Kind::Source => self.source_counts(),
                DialState::Unknown | DialState::Fails => same_source,
            }
        };
        let mut some = self.list.iter().filter(shown);
        let (first, second) = (some.next()?, some.next());
        // Most peers have one address.
        let Some(second) = second else { return Some(without_scope(first.address).into()) };
        let mut all: Vec<&Candidate> = [first, second].into_iter().chain(some).collect();
        all.sort_by_key(|one| (one.state, one.is_loopback() != local, one.kind));
        PeerAddress::new(all.into_iter().map(|one| without_scope(one.address)))
    }

    fn reachability(&self) -> Reachability {
        let with = |state| self.list.iter().filter(move |one| one.state == state);
        let addresses = |state| with(state).map(|one| without_scope(one.address)).collect();
        Reachability {
            working: addresses(DialState::Works),
            failed: addresses(DialState::Fails),
            other: addresses(DialState::Other),
            pending: with(DialState::Unknown).count() as u32,
        }
    }
}

/// Candidates by the slot of their peer. A lookup reads those of each holder: an index is faster than a hash.
#[derive(Debug, Default)]
struct SlotTable(Vec<Option<Box<(PeerId, Candidates)>>>);

impl SlotTable {
    fn get(&self, id: PeerId) -> Option<&Candidates> {
        let entry = self.0.get(id.slot() as usize)?.as_ref()?;
        // The slot may belong to another registration by now.
        (entry.0 == id).then_some(&entry.1)
    }

    fn get_mut(&mut self, id: PeerId) -> Option<&mut Candidates> {
        let entry = self.0.get_mut(id.slot() as usize)?.as_mut()?;
        (entry.0 == id).then_some(&mut entry.1)
    }

    fn insert(&mut self, id: PeerId, candidates: Candidates) {
        let slot = id.slot() as usize;
        if self.0.len() <= slot {
            self.0.resize_with(slot + 1, || None);
        }
        self.0[slot] = Some(Box::new((id, candidates)));
    }

    fn remove(&mut self, id: PeerId) -> Option<Candidates> {
        let entry = self.0.get_mut(id.slot() as usize)?;
        let removed = entry.take_if(|entry| entry.0 == id)?;
        Some(removed.1)
    }

    fn iter(&self) -> impl Iterator<Item = &Candidates> {
        self.0.iter().flatten().map(|entry| &entry.1)
    }
}

/// The candidates of all peers that are dialled.
#[derive(Debug, Default)]
pub struct Reaches {
    peers: SlotTable,
    /// The registrations with each address.
    claimed: HashMap<SocketAddr, Vec<PeerId>>,
    outstanding: usize,
}

impl Reaches {
    /// Notes the candidates of a peer. Returns the addresses to dial.
    pub(super) fn put(&mut self, id: PeerId, mut candidates: Candidates) -> Vec<SocketAddr> {
        if let Some(before) = self.peers.get(id) {
            for one in &mut candidates.list {
                let known = before.list.iter().find(|known| known.address == one.address);
                if known.is_some_and(|known| known.state == DialState::Works) {
                    one.state = DialState::Works;
                }
            }
        }
        let pending = candidates.list.iter().filter(|one| one.state == DialState::Unknown);
        let dialled: Vec<SocketAddr> = pending.map(|one| one.address).collect();
        if candidates.key.is_none() || self.outstanding + dialled.len() > DIALS_OUTSTANDING_MAX {
            return Vec::new();
        }
        self.outstanding += dialled.len();
        self.remove(id);
        for one in &candidates.list {
            let claims = self.claimed.entry(one.address).or_default();
            if !claims.contains(&id) {
                claims.push(id);
            }
        }
        self.peers.insert(id, candidates);
        dialled
    }

    /// Forgets a peer.
    pub(super) fn remove(&mut self, id: PeerId) {
        let Some(gone) = self.peers.remove(id) else { return };
        for one in gone.list {
            if let Some(claims) = self.claimed.get_mut(&one.address) {
                claims.retain(|peer| *peer != id);
                if claims.is_empty() {
                    self.claimed.remove(&one.address);
                }
            }
        }
    }

    /// Notes a result. If the peer has proven itself, returns the other peers that have registered this address.
    pub(super) fn note(&mut self, id: PeerId, address: SocketAddr, state: DialState) -> Vec<PeerId> {
        self.outstanding = self.outstanding.saturating_sub(1);
        let peer = self.peers.get_mut(id).into_iter().flat_map(|peer| &mut peer.list);
        let mut known = false;
        for one in peer.filter(|one| one.address == address) {
            (one.state, known) = (state, true);
        }
        let claims = self.claimed.get(&address).filter(|_| known && state == DialState::Works);
        claims.into_iter().flatten().copied().filter(|other| *other != id).collect()
    }

    /// Notes that another peer answers at an address of a peer. Returns whether the peer has no other address.
    pub(super) fn displace(&mut self, id: PeerId, address: SocketAddr) -> bool {
        let Some(peer) = self.peers.get_mut(id) else { return false };
        for one in peer.list.iter_mut().filter(|one| one.address == address) {
            one.state = DialState::Other;
        }
        peer.list.iter().all(|one| one.state != DialState::Works)
    }

    /// The candidates of a peer, if it is dialled.
    pub(super) fn of(&self, id: PeerId) -> Option<&Candidates> {
        self.peers.get(id)
    }

    /// Whether a peer has proven itself at some address, or is trusted to be there.
    pub(super) fn is_reached(&self, id: PeerId) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.list.iter().any(|one| one.state == DialState::Works))
    }

    /// Whether a peer has proven itself at a loopback address.
    pub(super) fn works_on_loopback(&self, id: PeerId) -> bool {
        let works = |one: &Candidate| one.is_loopback() && one.state == DialState::Works;
        self.peers.get(id).is_some_and(|peer| peer.list.iter().any(works))
    }

    /// The key by which a peer proves its identity.
    pub(super) fn key(&self, id: PeerId) -> Option<IdentityKey> {
        self.peers.get(id)?.key
    }

    /// The results of a peer; `None` if it is not dialled.
    pub fn reachability(&self, id: PeerId) -> Option<Reachability> {
        self.peers.get(id).map(Candidates::reachability)
    }

    /// Source addresses of peers with an address that is given only to requesters with the same source address. All other
    /// requesters get the same view, apart from loopback and link-local ones.
    pub(super) fn private_sources(&self) -> HashSet<IpAddr> {
        let is_private = |one: &Candidate| one.kind != Kind::Source && one.state != DialState::Works;
        let private = self.peers.iter().filter(|peer| peer.list.iter().any(is_private));
        private.map(|peer| peer.source).collect()
    }

    /// The addresses of a peer, which the tracker names `address`, for a requester; `None` if it can use none.
    pub(super) fn view(&self, id: PeerId, address: SocketAddr, requester: IpAddr) -> Option<PeerAddress> {
        match self.peers.get(id) {
            Some(candidates) => candidates.view(requester.to_canonical()),
            None if address.ip().is_loopback() && !requester.to_canonical().is_loopback() => None,
            None => Some(address.into()),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.peers.iter().next().is_none() && self.claimed.is_empty()
    }
}

/// The source address with another port; keeps the scope of a link-local address.
fn with_port(source: SocketAddr, port: u16) -> SocketAddr {
    let mut address = canonical_address(source);
    address.set_port(port);
    address
}

/// Whether a peer with this source address can be dialled at an address.
fn is_usable(address: SocketAddr, kind: Kind, source: IpAddr) -> bool {
    is_dialable(address)
        && (!address.ip().is_loopback() || source.to_canonical().is_loopback())
        // A link-local address is valid only on the interface of the source address, or on this host itself.
        && (!is_link_local_v6(address.ip())
            || kind == Kind::Source
            || (kind == Kind::Own && source.to_canonical().is_loopback()))
}

/// Whether peers can connect to an address at all.
pub fn is_dialable(address: SocketAddr) -> bool {
    why_not_dialable(address).is_none()
}

/// Why no peer can connect to an address; `None` if peers may be able to.
pub fn why_not_dialable(address: SocketAddr) -> Option<&'static str> {
    match address.ip().to_canonical() {
        _ if address.port() == 0 => Some("port 0 is not a port"),
        ip if ip.is_unspecified() => Some("it is the unspecified address"),
        ip if ip.is_multicast() => Some("it is a multicast address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("it is the broadcast address"),
        _ => None,
    }
}

fn is_link_local_v6(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The address without the scope, which has no meaning on another host.
fn without_scope(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::PeerName;

    const PEER: PeerId = PeerId(1);
    const LATER: PeerId = PeerId(2);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn registration(advertise: Option<&str>, addresses: &[&str]) -> Registration {
        Registration {
            name: PeerName::new("x").unwrap(),
            port: 7000,
            advertise: advertise.map(address),
            addresses: addresses.iter().map(|text| ip(text)).collect(),
            identity: Some(IdentityKey(7)),
            volunteer: false,
        }
    }

    /// The reaches of a peer that registered from `source`.
    fn reaches(source: &str, registration: &Registration) -> (Reaches, Vec<SocketAddr>) {
        let mut reaches = Reaches::default();
        let dialled = reaches.put(PEER, Candidates::new(address(source), registration, false));
        (reaches, dialled)
    }

    fn view(reaches: &Reaches, requester: &str) -> Vec<String> {
        let view = reaches.view(PEER, address("9.9.9.9:9"), ip(requester));
        view.map_or_else(Vec::new, |view| view.all().map(|one| one.to_string()).collect())
    }

    #[test]
    fn a_loopback_address_is_given_only_on_its_host() {
        let (mut reaches, dialled) = reaches("127.0.0.1:4000", &registration(None, &["10.0.0.5"]));
        assert_eq!(dialled, ["127.0.0.1:7000", "10.0.0.5:7000"].map(address));
        assert_eq!(view(&reaches, "10.0.0.9"), [""; 0]);
        reaches.note(PEER, address("10.0.0.5:7000"), DialState::Works);
        assert_eq!(view(&reaches, "10.0.0.9"), ["10.0.0.5:7000"]);
        reaches.note(PEER, address("127.0.0.1:7000"), DialState::Works);
        assert_eq!(view(&reaches, "127.0.0.1"), ["127.0.0.1:7000", "10.0.0.5:7000"]);
        assert_eq!(reaches.of(PEER).unwrap().preferred(), Some(address("10.0.0.5:7000")));
    }

    #[test]
    fn an_address_that_no_peer_can_dial_is_no_candidate() {
        let unusable = [
            "10.0.0.5:0",
            "0.0.0.0:7000",
            "[::]:7000",
            "[::ffff:0.0.0.0]:7000",
            "255.255.255.255:7000",
            "[::ffff:255.255.255.255]:7000",
            "224.0.0.1:7000",
            "[ff02::1]:7000",
        ];
        for text in unusable {
            assert!(!is_dialable(address(text)) && why_not_dialable(address(text)).is_some(), "{text}");
            let (_, dialled) = reaches("10.0.0.5:4000", &registration(Some(text), &["255.255.255.255"]));
            assert_eq!(dialled, [address("10.0.0.5:7000")], "{text}");
        }
        for text in ["10.0.0.5:7000", "127.0.0.1:1", "[::1]:1", "[fe80::1]:1"] {
            assert!(is_dialable(address(text)), "{text}");
        }
    }

    #[test]
    fn a_loopback_address_from_another_host_is_never_dialled() {
        let registration = registration(Some("127.0.0.1:22"), &["127.0.0.1", "::1", "0.0.0.0", "10.0.0.7"]);
        let (_, dialled) = reaches("10.0.0.5:4000", &registration);
        assert_eq!(dialled, ["10.0.0.5:7000", "10.0.0.7:7000"].map(address));
    }

    #[test]
    fn an_address_that_differs_from_the_source_counts_once_it_was_reached() {
        let advertising = registration(Some("198.51.100.1:9000"), &[]);
        let (mut reaches, _) = reaches("10.0.0.5:4000", &advertising);
        assert_eq!(view(&reaches, "10.0.0.9"), [""; 0], "the result is awaited");
        assert_eq!(reaches.of(PEER).unwrap().preferred(), Some(address("10.0.0.5:7000")));
        reaches.note(PEER, address("198.51.100.1:9000"), DialState::Other);
        assert_eq!(view(&reaches, "10.0.0.9"), ["10.0.0.5:7000"], "the source address takes its place");
        reaches.note(PEER, address("198.51.100.1:9000"), DialState::Works);
        assert_eq!(view(&reaches, "10.0.0.9"), ["198.51.100.1:9000"]);
    }

    #[test]
    fn peers_behind_one_nat_get_their_inner_addresses() {
        let (mut reaches, _) = reaches("203.0.113.1:4000", &registration(None, &["192.168.0.2"]));
        for inner in ["203.0.113.1:7000", "192.168.0.2:7000"] {
            reaches.note(PEER, address(inner), DialState::Fails);
        }
        assert_eq!(view(&reaches, "203.0.113.1"), ["203.0.113.1:7000", "192.168.0.2:7000"]);
        assert_eq!(view(&reaches, "198.51.100.1"), ["203.0.113.1:7000"], "the tracker itself may be cut off");
        reaches.note(PEER, address("203.0.113.1:7000"), DialState::Other);
        assert_eq!(view(&reaches, "198.51.100.1"), [""; 0]);
        assert_eq!(reaches.reachability(PEER).unwrap().other, [address("203.0.113.1:7000")]);
        // A peer in the tracker's own network has this address, too.
        reaches.note(PEER, address("192.168.0.2:7000"), DialState::Other);
        assert_eq!(view(&reaches, "203.0.113.1"), ["192.168.0.2:7000"]);
        assert_eq!(view(&reaches, "198.51.100.1"), [""; 0]);
    }

    #[test]
    fn a_later_peer_at_the_same_address_displaces_the_earlier_one() {
        let (mut reaches, _) = reaches("10.0.0.5:4000", &registration(None, &[]));
        let at = address("10.0.0.5:7000");
        assert_eq!(reaches.note(PEER, at, DialState::Works), []);
        reaches.put(LATER, Candidates::new(address("10.0.0.5:4001"), &registration(None, &[]), false));
        assert_eq!(reaches.note(LATER, at, DialState::Works), [PEER]);
        assert!(reaches.displace(PEER, at), "it has no other address");
        assert_eq!(view(&reaches, "10.0.0.9"), [""; 0]);
        reaches.remove(PEER);
        reaches.remove(LATER);
        assert!(reaches.is_empty() && reaches.outstanding == 0);
    }

    #[test]
    fn mapped_and_link_local_addresses_are_canonical() {
        let (_, dialled) =
            reaches("[::ffff:10.0.0.5]:4000", &registration(None, &["::ffff:10.0.0.6", "fe80::2"]));
        assert_eq!(dialled, ["10.0.0.5:7000", "10.0.0.6:7000"].map(address));
        let mut source = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 4000, 0, 3);
        let mut reaches = Reaches::default();
        let dialled =
            reaches.put(PEER, Candidates::new(source.into(), &registration(None, &["fe80::9"]), false));
        source.set_port(7000);
        assert_eq!(dialled, [SocketAddr::from(source)], "only through the interface of the source address");
        assert_eq!(view(&reaches, "fe80::7"), ["[fe80::1]:7000"]);
        assert_eq!(view(&reaches, "fd00::7"), [""; 0]);
    }

    #[test]
    fn a_peer_on_the_host_of_the_tracker_may_have_a_link_local_address() {
        let (mut reaches, dialled) = reaches("127.0.0.1:4000", &registration(None, &["fe80::9"]));
        assert_eq!(dialled, ["127.0.0.1:7000", "[fe80::9]:7000"].map(address));
        reaches.note(PEER, address("127.0.0.1:7000"), DialState::Works);
        reaches.note(PEER, address("[fe80::9]:7000"), DialState::Works);
        assert_eq!(view(&reaches, "fe80::7"), ["[fe80::9]:7000"]);
        assert_eq!(view(&reaches, "127.0.0.1"), ["127.0.0.1:7000"]);
        assert_eq!(reaches.of(PEER).unwrap().preferred(), Some(address("127.0.0.1:7000")));
    }

    #[test]
    fn other_addresses_of_a_peer_are_dialled_anew() {
        let (mut reaches, _) = reaches("10.0.0.5:4000", &registration(None, &["10.0.0.6"]));
        reaches.note(PEER, address("10.0.0.5:7000"), DialState::Works);
        let before = reaches.of(PEER).unwrap();
        let after = before.replaced(address("10.0.0.5:4000"), before.port(), &[ip("10.0.0.7")]);
        assert_eq!(reaches.put(PEER, after), [address("10.0.0.7:7000")]);
        assert_eq!(reaches.reachability(PEER).unwrap().working, [address("10.0.0.5:7000")]);
    }
}
