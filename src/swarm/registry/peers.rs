//! The peers of a registry, each in a numbered place, so that whoever refers to one needs four bytes, and a token leads
//! straight to its peer.
//!
//! Invariant: a [`PeerId`] and a [`Token`] name the registration that they were made for and no other, also after its place
//! has been taken by the next.

use super::holders::Held;
use crate::content::EntityName;
use crate::protocol::tracker::Token;
use crate::swarm::Moment;
use std::net::SocketAddr;

/// Bits of a [`PeerId`] that say where the peer is; the others count registrations.
const PLACE_BITS: u32 = 24;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
/// Bits of a [`Token`] that say where the peer is; the others are the secret.
const TOKEN_PLACE_BITS: u32 = 24;

/// A registration. Not used twice, so that several peers behind one address are never mixed up: it counts
/// registrations, and would begin again after 2^40 of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(pub u64);

impl PeerId {
    fn new(number: u64, place: u32) -> Self {
        Self(number << PLACE_BITS | u64::from(place))
    }

    /// Where the peer is, or was.
    pub(super) fn place(self) -> u32 {
        (self.0 & PLACE_MASK) as u32
    }
}

/// When a lease ends: nanoseconds, which fit for five hundred years, at half the size of a [`Moment`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Expiry(u64);

impl Expiry {
    const NEVER: Self = Self(u64::MAX);

    fn at(moment: Moment) -> Self {
        // One less than never.
        Self(moment.as_nanos().try_into().unwrap_or(u64::MAX).min(u64::MAX - 1))
    }

    fn moment(self) -> Moment {
        match self {
            Self::NEVER => Moment::MAX,
            Self(nanoseconds) => Moment::from_nanos(nanoseconds),
        }
    }
}

/// A peer that is alive.
#[derive(Debug)]
pub struct Peer {
    /// What people call it.
    pub name: EntityName,
    /// Where it serves.
    pub address: SocketAddr,
    /// The token, as bytes: as a number it would be kept at multiples of its size, with room between the peers. Of the
    /// tracker itself, whose lease never ends, it is none that anybody is told.
    token: [u8; 16],
    expires: Expiry,
    pub(super) held: Held,
}

impl Peer {
    /// When its lease ends, unless it is renewed.
    pub fn expires(&self) -> Moment {
        self.expires.moment()
    }
}

#[derive(Debug)]
struct Place {
    /// Of the one who is here, or was here last.
    id: PeerId,
    peer: Option<Peer>,
}

/// Peers in numbered places.
#[derive(Debug, Default)]
pub(super) struct Peers {
    places: Vec<Place>,
    /// Places without a peer.
    free: Vec<u32>,
    /// How many have ever been here.
    registrations: u64,
}

impl Peers {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Takes a peer in until `expires`. Returns what it is known by: `secret` must be unguessable in its lower 104 bits,
    /// and new.
    pub(super) fn insert(
        &mut self,
        secret: u128,
        name: EntityName,
        address: SocketAddr,
        expires: Moment,
    ) -> (PeerId, Token) {
        let place = self.free.last().copied().unwrap_or(self.places.len() as u32);
        let token = Token(secret << TOKEN_PLACE_BITS | u128::from(place));
        let (bytes, expires) = (token.0.to_ne_bytes(), Expiry::at(expires));
        (self.put(place, Peer { name, address, token: bytes, expires, held: Held::default() }), token)
    }

    /// Takes in a peer that needs no lease and has no token.
    pub(super) fn enroll(&mut self, name: EntityName, address: SocketAddr) -> PeerId {
        let place = self.free.last().copied().unwrap_or(self.places.len() as u32);
        let (token, expires) = ([0; 16], Expiry::NEVER);
        self.put(place, Peer { name, address, token, expires, held: Held::default() })
    }

    /// Puts a peer in the place that is the last free one, or a new one.
    fn put(&mut self, place: u32, peer: Peer) -> PeerId {
        let id = PeerId::new(self.registrations, place);
        self.registrations += 1;
        match self.free.pop() {
            Some(free) => self.places[free as usize] = Place { id, peer: Some(peer) },
            None => self.places.push(Place { id, peer: Some(peer) }),
        }
        id
    }

    /// What is known of a peer.
    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        let place = self.places.get(id.place() as usize).filter(|place| place.id == id)?;
        place.peer.as_ref()
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        let place = self.places.get_mut(id.place() as usize).filter(|place| place.id == id)?;
        place.peer.as_mut()
    }

    /// The peer in a place, if its lease has not ended.
    pub(super) fn live_at(&self, now: Moment, place: u32) -> Option<&Peer> {
        let peer = self.places.get(place as usize)?.peer.as_ref()?;
        (Expiry::at(now) < peer.expires).then_some(peer)
    }

    /// What a peer in a place has.
    pub(super) fn held_at(&mut self, place: u32) -> Option<&mut Held> {
        self.places.get_mut(place as usize)?.peer.as_mut().map(|peer| &mut peer.held)
    }

    /// The peer with a token, if its lease has not ended.
    pub(super) fn by_token(&self, now: Moment, token: Token) -> Option<PeerId> {
        let place = token.0 as u32 & ((1 << TOKEN_PLACE_BITS) - 1);
        let peer = self.live_at(now, place)?;
        let told = peer.expires != Expiry::NEVER;
        (told && peer.token == token.0.to_ne_bytes()).then(|| self.places[place as usize].id)
    }

    /// Renews the lease of a peer.
    pub(super) fn renew(&mut self, id: PeerId, expires: Moment) {
        if let Some(peer) = self.get_mut(id) {
            peer.expires = Expiry::at(expires);
        }
    }

    /// Takes a peer out.
    pub(super) fn remove(&mut self, id: PeerId) -> Option<Peer> {
        let place = self.places.get_mut(id.place() as usize).filter(|place| place.id == id)?;
        let peer = place.peer.take()?;
        self.free.push(id.place());
        Some(peer)
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.places.iter().filter_map(|place| place.peer.as_ref())
    }

    #[cfg(test)]
    pub(super) fn token(&self, id: PeerId) -> Option<Token> {
        self.get(id).map(|peer| Token(u128::from_ne_bytes(peer.token)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_takes_little_room() {
        // A million of them, with their names and what they hold, are to fit in 200 MiB.
        assert!(size_of::<Place>() <= 96);
    }

    #[test]
    fn a_place_that_is_taken_again_is_another_peer() {
        let mut peers = Peers::default();
        let name = || EntityName::new("x").unwrap();
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let (now, then) = (Moment::from_secs(0), Moment::from_secs(1));
        let (first, old) = peers.insert(7, name(), address, then);
        assert_eq!(peers.by_token(now, old), Some(first));
        assert!(peers.remove(first).is_some() && peers.remove(first).is_none());
        let (second, new) = peers.insert(8, name(), address, then);
        assert_eq!(first.place(), second.place());
        assert!(first < second && peers.get(first).is_none());
        assert_eq!((peers.by_token(now, old), peers.by_token(now, new)), (None, Some(second)));
        assert_eq!(peers.by_token(then, new), None, "its lease has ended");
        assert_eq!(peers.by_token(now, Token(new.0 + 1)), None, "nobody is there");
        assert_eq!(peers.by_token(now, Token(u128::MAX)), None);
        assert_eq!(peers.len(), 1);
    }

    #[test]
    fn nobody_speaks_for_the_tracker_itself() {
        let mut peers = Peers::default();
        let id = peers.enroll(EntityName::new("own").unwrap(), SocketAddr::from(([10, 0, 0, 1], 1)));
        assert_eq!(peers.by_token(Moment::ZERO, Token(0)), None);
        assert_eq!(peers.get(id).map(Peer::expires), Some(Moment::MAX));
        assert!(peers.live_at(Moment::from_secs(1 << 40), 0).is_some());
    }
}
