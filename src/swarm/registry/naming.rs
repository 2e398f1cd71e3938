//! Choice of the holders that a lookup names.
//!
//! Holders are drawn at random from each rank. Invariant: holders of one rank do not take all places of another.

use super::Registry;
use super::holders::{Holder, RANKS};
use super::peers::PeerId;
use crate::content::limits::HOLDERS_MAX;
use crate::protocol::PeerAddress;
use crate::swarm::Moment;
use std::net::{IpAddr, SocketAddr};

/// Live holders examined for each address wanted in a lookup result.
pub(super) const SAMPLE_TRIES: usize = 8;

impl Registry {
    /// At most `wanted` live holders, each address once, in the order of their ranks. The holders of each rank get half of
    /// the places that are left, and those that the others leave free.
    pub(super) fn sample(
        &self,
        now: Moment,
        by_rank: [&[Holder]; RANKS],
        except: Option<PeerId>,
        wanted: usize,
        requester: IpAddr,
        random: &mut fastrand::Rng,
    ) -> Vec<PeerAddress> {
        // The slot of a removed peer may belong to another peer by now.
        let except = except.filter(|peer| self.peers.get(*peer).is_some()).map(PeerId::slot);
        let mut seen = Seen::default();
        let mut drawn = by_rank.map(|list| {
            self.draw(list, wanted, random, &mut seen, |holder| {
                let live = self.peers.live_at(now, holder.peer).filter(|_| Some(holder.peer) != except);
                live.and_then(|peer| self.view(holder.peer, peer, requester))
            })
        });
        let places = divide(drawn.each_ref().map(Vec::len), wanted);
        drawn.iter_mut().zip(places).for_each(|(drawn, places)| drawn.truncate(places));
        drawn.into_iter().flatten().collect()
    }

    /// At most `wanted` of the holders in a list that have a `view`, drawn at random.
    fn draw(
        &self,
        list: &[Holder],
        wanted: usize,
        random: &mut fastrand::Rng,
        seen: &mut Seen,
        view: impl Fn(&Holder) -> Option<PeerAddress>,
    ) -> Vec<PeerAddress> {
        let mut found = Vec::with_capacity(wanted.min(list.len()));
        if list.is_empty() {
            return found;
        }
        // Many holders may share one address: the search is limited.
        let mut tries = SAMPLE_TRIES * wanted;
        // A random start and one pass around the list: a random choice without a scan of the whole list.
        let (before, after) = list.split_at(random.usize(..list.len()));
        for holder in [after, before].into_iter().flatten() {
            if found.len() >= wanted || tries == 0 {
                break;
            }
            let Some(peer) = view(holder) else { continue };
            tries -= 1;
            if seen.insert(peer.first()) {
                // All holders together must fit into a frame.
                found.push(peer.limited(HOLDERS_MAX / wanted.max(1)));
            }
        }
        found
    }
}

/// Addresses that have been drawn.
#[derive(Default)]
struct Seen {
    keys: Vec<u64>,
    addresses: Vec<SocketAddr>,
}

impl Seen {
    /// Adds an address. Returns whether it is new.
    fn insert(&mut self, address: SocketAddr) -> bool {
        let key = key_of(address);
        // A scan of a short array of numbers is faster than any tree or hash table.
        if self.keys.contains(&key) && self.addresses.contains(&address) {
            return false;
        }
        self.keys.push(key);
        self.addresses.push(address);
        true
    }
}

/// Divides places among ranks by their numbers of holders: each gets half of the places that are left, and the first ones those
/// that are free then.
pub(super) fn divide(holders: [usize; RANKS], places: usize) -> [usize; RANKS] {
    let mut left = places;
    let mut shares = holders.map(|holders| {
        let share = holders.min(left.div_ceil(2));
        left -= share;
        share
    });
    for (share, holders) in shares.iter_mut().zip(holders) {
        let more = (holders - *share).min(left);
        (*share, left) = (*share + more, left - more);
    }
    shares
}

/// Hash of an address: equal for equal addresses, rarely equal for different ones.
fn key_of(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ (ip.to_bits() as u64).rotate_left(7),
    };
    ip << 16 ^ ip >> 48 ^ u64::from(address.port())
}
