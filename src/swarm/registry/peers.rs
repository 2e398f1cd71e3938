//! Slot table of registered peers: references take four bytes, and a token leads directly to its peer.
//!
//! Invariants: the mark of an empty slot is never alive; a [`PeerId`] and a [`Token`] refer to one
//! registration only, also after its slot has been reused.

use super::holders::{Held, Rank};
use crate::content::PeerName;
use crate::protocol::tracker::Token;
use crate::swarm::Moment;
use std::net::{IpAddr, SocketAddr};

/// Bits of a [`PeerId`] for the slot; the others count registrations.
const SLOT_BITS: u32 = 24;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
/// Bits of a [`Token`] for the slot; the others are the secret.
const TOKEN_SLOT_BITS: u32 = 24;

/// Id of a registration. Never reused, so that several peers behind one address cannot be confused. It
/// contains a counter of registrations that would wrap around after 2^40 of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PeerId(pub u64);

impl PeerId {
    fn new(number: u64, slot: u32) -> Self {
        Self(number << SLOT_BITS | u64::from(slot))
    }

    /// The slot of the peer.
    pub(in crate::swarm) fn slot(self) -> u32 {
        (self.0 & SLOT_MASK) as u32
    }
}

/// End of a lease in nanoseconds. 64 bits suffice for 500 years, at half the size of a [`Moment`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Expiry(u64);

impl Expiry {
    const NEVER: Self = Self(u64::MAX);
    /// Value of an empty slot: expired at all times.
    const EXPIRED: Self = Self(0);

    fn at(moment: Moment) -> Self {
        // Keep the maximum free for [`Self::NEVER`].
        Self(moment.as_nanos().try_into().unwrap_or(u64::MAX).min(u64::MAX - 1))
    }

    fn moment(self) -> Moment {
        match self {
            Self::NEVER => Moment::MAX,
            Self(nanoseconds) => Moment::from_nanos(nanoseconds),
        }
    }
}

/// A registered peer.
#[derive(Debug)]
pub struct Peer {
    /// The name that it registered with.
    pub name: PeerName,
    /// The address at which it accepts connections.
    pub address: SocketAddr,
    pub(super) held: Held,
}

/// A peer that has been removed.
#[derive(Debug)]
pub struct RemovedPeer {
    /// The peer as it was registered.
    pub peer: Peer,
    /// When its lease expired, or would have expired.
    pub expires: Moment,
    /// The source address from which it registered.
    pub source: IpAddr,
}

/// The data of a slot that a heartbeat needs: 32 bytes, half a cache line, kept apart from the data for
/// lookups. With very many peers most accesses miss the cache.
#[derive(Clone, Debug)]
#[repr(align(32))]
struct Mark {
    /// Id of the current or last peer in this slot.
    id: PeerId,
    expires: Expiry,
    /// The token, unused for the tracker itself, whose lease never expires.
    token: u128,
}

/// Peers in numbered slots.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// One for each slot.
    marks: Vec<Mark>,
    peers: Vec<Option<Peer>>,
    ranks: Vec<Rank>,
    /// Slots without a peer.
    free: Vec<u32>,
    /// Number of registrations so far.
    registrations: u64,
}

impl Peers {
    /// Number of peers.
    pub(super) fn len(&self) -> usize {
        self.peers.len() - self.free.len()
    }

    /// Registers a peer until `expires` and returns its id and token. The lower 104 bits of `secret` must be
    /// unguessable and new.
    pub(super) fn insert(
        &mut self,
        secret: u128,
        name: PeerName,
        address: SocketAddr,
        expires: Moment,
    ) -> (PeerId, Token) {
        let token = Token(secret << TOKEN_SLOT_BITS | u128::from(self.next_slot()));
        (self.put(Peer { name, address, held: Held::default() }, token, Expiry::at(expires)), token)
    }

    /// Adds a peer that needs no lease and has no token. Its rank is the first one.
    pub(super) fn enroll(&mut self, name: PeerName, address: SocketAddr) -> PeerId {
        self.put(Peer { name, address, held: Held::default() }, Token(0), Expiry::NEVER)
    }

    /// The next slot to use: the last free one, or a new one.
    fn next_slot(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.peers.len() as u32)
    }

    /// Puts a peer into the next slot.
    fn put(&mut self, peer: Peer, token: Token, expires: Expiry) -> PeerId {
        let id = PeerId::new(self.registrations, self.next_slot());
        self.registrations += 1;
        let mark = Mark { id, expires, token: token.0 };
        match self.free.pop() {
            Some(free) => {
                self.marks[free as usize] = mark;
                self.peers[free as usize] = Some(peer);
                self.ranks[free as usize] = Rank::default();
            }
            None => {
                self.marks.push(mark);
                self.peers.push(Some(peer));
                self.ranks.push(Rank::default());
            }
        }
        id
    }

    /// The mark of a peer, if it is or was the last in its slot.
    fn mark(&self, id: PeerId) -> Option<&Mark> {
        self.marks.get(id.slot() as usize).filter(|mark| mark.id == id)
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.mark(id)?;
        self.peers[id.slot() as usize].as_ref()
    }

    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.mark(id)?;
        self.peers[id.slot() as usize].as_mut()
    }

    /// When the lease of a peer expires, unless it is renewed.
    pub(super) fn expires(&self, id: PeerId) -> Option<Moment> {
        self.get(id).and(self.mark(id)).map(|mark| mark.expires.moment())
    }

    /// The mark of a slot, if the lease of its peer has not expired.
    fn live_mark(&self, now: Moment, slot: u32) -> Option<&Mark> {
        self.marks.get(slot as usize).filter(|mark| Expiry::at(now) < mark.expires)
    }

    /// The peer in a slot, if its lease has not expired.
    pub(super) fn live_at(&self, now: Moment, slot: u32) -> Option<&Peer> {
        self.live_mark(now, slot)?;
        self.peers[slot as usize].as_ref()
    }

    /// The rank of the peer in a slot as a holder of files.
    pub(super) fn rank(&self, slot: u32) -> Rank {
        self.ranks.get(slot as usize).copied().unwrap_or_default()
    }

    /// Sets the rank of a peer.
    pub(super) fn set_rank(&mut self, id: PeerId, rank: Rank) {
        if self.mark(id).is_some() {
            self.ranks[id.slot() as usize] = rank;
        }
    }

    /// The files of the peer in a slot.
    pub(super) fn held_at(&mut self, slot: u32) -> Option<&mut Held> {
        self.peers.get_mut(slot as usize)?.as_mut().map(|peer| &mut peer.held)
    }

    /// The peer with this token, if its lease has not expired.
    pub(super) fn by_token(&self, now: Moment, token: Token) -> Option<PeerId> {
        let mark = self.live_mark(now, token.0 as u32 & ((1 << TOKEN_SLOT_BITS) - 1))?;
        let told = mark.expires != Expiry::NEVER;
        (told && mark.token == token.0).then_some(mark.id)
    }

    /// Renews the lease of a registered peer.
    pub(super) fn renew(&mut self, id: PeerId, expires: Moment) {
        let mark = self.marks.get_mut(id.slot() as usize).filter(|mark| mark.id == id);
        if let Some(mark) = mark.filter(|mark| mark.expires != Expiry::EXPIRED) {
            mark.expires = Expiry::at(expires);
        }
    }

    /// Removes a peer that registered from `source`.
    pub(super) fn remove(&mut self, id: PeerId, source: IpAddr) -> Option<RemovedPeer> {
        let mark = self.marks.get_mut(id.slot() as usize).filter(|mark| mark.id == id)?;
        let peer = self.peers[id.slot() as usize].take()?;
        let expires = std::mem::replace(&mut mark.expires, Expiry::EXPIRED).moment();
        self.free.push(id.slot());
        Some(RemovedPeer { peer, expires, source })
    }

    /// All peers, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten()
    }

    /// All peers with their ids, in no particular order.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        let both = self.marks.iter().zip(&self.peers);
        both.filter_map(|(mark, peer)| peer.as_ref().map(|peer| (mark.id, peer)))
    }

    /// Whether a slot is that of the tracker itself.
    pub(super) fn is_enrolled(&self, slot: u32) -> bool {
        self.marks.get(slot as usize).is_some_and(|mark| mark.expires == Expiry::NEVER)
    }

    /// The id of the peer in a slot.
    pub(super) fn id_at(&self, slot: u32) -> Option<PeerId> {
        self.marks.get(slot as usize).map(|mark| mark.id)
    }

    #[cfg(test)]
    pub(super) fn token(&self, id: PeerId) -> Option<Token> {
        self.get(id).and(self.mark(id)).map(|mark| Token(mark.token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_peer_takes_at_most_96_bytes() {
        // A million peers, with names and files, must fit in 200 MiB.
        assert!(size_of::<Mark>() + size_of::<Option<Peer>>() <= 96);
    }

    #[test]
    fn a_reused_slot_is_another_peer() {
        let mut peers = Peers::default();
        let name = || PeerName::new("x").unwrap();
        let address = SocketAddr::from(([10, 0, 0, 1], 1));
        let (now, then) = (Moment::from_secs(0), Moment::from_secs(1));
        let (first, old) = peers.insert(7, name(), address, then);
        assert_eq!(peers.by_token(now, old), Some(first));
        assert_eq!(peers.remove(first, SOURCE).map(|gone| gone.expires), Some(then));
        assert!(peers.remove(first, SOURCE).is_none() && peers.expires(first).is_none());
        peers.renew(first, then);
        assert_eq!(peers.by_token(now, old), None, "the slot is empty");
        let (second, new) = peers.insert(8, name(), address, then);
        assert_eq!(first.slot(), second.slot());
        assert!(first < second && peers.get(first).is_none());
        assert_eq!((peers.by_token(now, old), peers.by_token(now, new)), (None, Some(second)));
        assert_eq!(peers.by_token(then, new), None, "its lease has expired");
        assert_eq!(peers.by_token(now, Token(new.0 + 1)), None, "a wrong secret");
        assert_eq!(peers.by_token(now, Token(u128::MAX)), None);
        assert_eq!(peers.len(), 1);
    }

    #[test]
    fn no_token_is_valid_for_the_tracker_itself() {
        let mut peers = Peers::default();
        let id = peers.enroll(PeerName::new("own").unwrap(), SocketAddr::from(([10, 0, 0, 1], 1)));
        assert_eq!(peers.by_token(Moment::ZERO, Token(0)), None);
        assert_eq!(peers.expires(id), Some(Moment::MAX));
        assert!(peers.live_at(Moment::from_secs(1 << 40), 0).is_some());
    }
}
