//! The peers of a registry, each in a numbered place, so that whoever refers to one needs four bytes, and a token leads
//! straight to its peer.
//!
//! Invariants: a place without a peer has a mark that is not alive; a [`PeerId`] and a [`Token`] name the registration that they were made for and no other, also after its place
//! has been taken by the next.

use super::holders::Held;
use crate::content::PeerName;
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
    /// Where nobody is, nobody is alive at any moment.
    const NOBODY: Self = Self(0);

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
    pub name: PeerName,
    /// Where it serves.
    pub address: SocketAddr,
    pub(super) held: Held,
}

/// A peer that has been taken out.
#[derive(Debug)]
pub struct Gone {
    /// What was known of it.
    pub peer: Peer,
    /// When its lease ended, or would have ended.
    pub expires: Moment,
}

/// Who is in a place, and until when: all that a heartbeat looks at, together in half of what a processor fetches at
/// once, and apart from what is told to others. Of very many peers few are in the processor's memory already.
#[derive(Clone, Debug)]
#[repr(align(32))]
struct Mark {
    /// Of the one who is here, or was here last.
    id: PeerId,
    expires: Expiry,
    /// Of the tracker itself, whose lease never ends, it is none that anybody is told.
    token: u128,
}

/// Peers in numbered places.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// As many as there are places.
    marks: Vec<Mark>,
    peers: Vec<Option<Peer>>,
    /// Places without a peer.
    free: Vec<u32>,
    /// How many have ever been here.
    registrations: u64,
}

impl Peers {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.peers.len() - self.free.len()
    }

    /// Takes a peer in until `expires`. Returns what it is known by: `secret` must be unguessable in its lower 104 bits,
    /// and new.
    pub(super) fn insert(
        &mut self,
        secret: u128,
        name: PeerName,
        address: SocketAddr,
        expires: Moment,
    ) -> (PeerId, Token) {
        let token = Token(secret << TOKEN_PLACE_BITS | u128::from(self.next_place()));
        (self.put(Peer { name, address, held: Held::default() }, token, Expiry::at(expires)), token)
    }

    /// Takes in a peer that needs no lease and has no token.
    pub(super) fn enroll(&mut self, name: PeerName, address: SocketAddr) -> PeerId {
        self.put(Peer { name, address, held: Held::default() }, Token(0), Expiry::NEVER)
    }

    /// The last free place, or a new one.
    fn next_place(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.peers.len() as u32)
    }

    /// Puts a peer in the next place.
    fn put(&mut self, peer: Peer, token: Token, expires: Expiry) -> PeerId {
        let id = PeerId::new(self.registrations, self.next_place());
        self.registrations += 1;
        let mark = Mark { id, expires, token: token.0 };
        match self.free.pop() {
            Some(free) => {
                self.marks[free as usize] = mark;
                self.peers[free as usize] = Some(peer);
            }
            None => {
                self.marks.push(mark);
                self.peers.push(Some(peer));
            }
        }
        id
    }

    /// The mark of a peer, if it is or was the last in its place.
    fn mark(&self, id: PeerId) -> Option<&Mark> {
        self.marks.get(id.place() as usize).filter(|mark| mark.id == id)
    }

    /// What is known of a peer.
    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.mark(id)?;
        self.peers[id.place() as usize].as_ref()
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.mark(id)?;
        self.peers[id.place() as usize].as_mut()
    }

    /// When the lease of a peer ends, unless it is renewed.
    pub(super) fn expires(&self, id: PeerId) -> Option<Moment> {
        self.get(id).and(self.mark(id)).map(|mark| mark.expires.moment())
    }

    /// The mark in a place, if the lease of who is there has not ended.
    fn live_mark(&self, now: Moment, place: u32) -> Option<&Mark> {
        self.marks.get(place as usize).filter(|mark| Expiry::at(now) < mark.expires)
    }

    /// The peer in a place, if its lease has not ended.
    pub(super) fn live_at(&self, now: Moment, place: u32) -> Option<&Peer> {
        self.live_mark(now, place)?;
        self.peers[place as usize].as_ref()
    }

    /// What a peer in a place has.
    pub(super) fn held_at(&mut self, place: u32) -> Option<&mut Held> {
        self.peers.get_mut(place as usize)?.as_mut().map(|peer| &mut peer.held)
    }

    /// The peer with a token, if its lease has not ended.
    pub(super) fn by_token(&self, now: Moment, token: Token) -> Option<PeerId> {
        let mark = self.live_mark(now, token.0 as u32 & ((1 << TOKEN_PLACE_BITS) - 1))?;
        let told = mark.expires != Expiry::NEVER;
        (told && mark.token == token.0).then_some(mark.id)
    }

    /// Renews the lease of a peer that is here.
    pub(super) fn renew(&mut self, id: PeerId, expires: Moment) {
        let mark = self.marks.get_mut(id.place() as usize).filter(|mark| mark.id == id);
        if let Some(mark) = mark.filter(|mark| mark.expires != Expiry::NOBODY) {
            mark.expires = Expiry::at(expires);
        }
    }

    /// Takes a peer out.
    pub(super) fn remove(&mut self, id: PeerId) -> Option<Gone> {
        let mark = self.marks.get_mut(id.place() as usize).filter(|mark| mark.id == id)?;
        let peer = self.peers[id.place() as usize].take()?;
        let expires = std::mem::replace(&mut mark.expires, Expiry::NOBODY).moment();
        self.free.push(id.place());
        Some(Gone { peer, expires })
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }

    #[cfg(test)]
    pub(super) fn token(&self, id: PeerId) -> Option<Token> {
        self.get(id).and(self.mark(id)).map(|mark| Token(mark.token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_takes_little_room() {
        // A million of them, with their names and what they hold, are to fit in 200 MiB.
        assert!(size_of::<Mark>() + size_of::<Option<Peer>>() <= 96);
    }

    #[test]
    fn a_place_that_is_taken_again_is_another_peer() {
        let mut peers = Peers::default();
        let name = || PeerName::new("x").unwrap();
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let (now, then) = (Moment::from_secs(0), Moment::from_secs(1));
        let (first, old) = peers.insert(7, name(), address, then);
        assert_eq!(peers.by_token(now, old), Some(first));
        assert_eq!(peers.remove(first).map(|gone| gone.expires), Some(then));
        assert!(peers.remove(first).is_none() && peers.expires(first).is_none());
        peers.renew(first, then);
        assert_eq!(peers.by_token(now, old), None, "nobody is there");
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
        let id = peers.enroll(PeerName::new("own").unwrap(), SocketAddr::from(([10, 0, 0, 1], 1)));
        assert_eq!(peers.by_token(Moment::ZERO, Token(0)), None);
        assert_eq!(peers.expires(id), Some(Moment::MAX));
        assert!(peers.live_at(Moment::from_secs(1 << 40), 0).is_some());
    }
}
