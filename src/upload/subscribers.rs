//! Subscribers of a serving peer: leechers that download a file from it and serve it as well.
//!
//! The peer tells each new subscriber the addresses of the present ones, super-seeds chunks by hints, and, as
//! a root, assigns the predecessors in its trees. Leechers that start together would otherwise know only the
//! seeder until the next lookup. Only the new subscriber is told: it connects to the others, and so they
//! discover it.
//!
//! Invariant: no state is kept for a file without subscribers.

use crate::content::limits::NAMED_PEERS_MAX;
use crate::content::{Bitfield, ChunkIndex, FileId};
use crate::protocol::peer::Upstream;
use crate::swarm::super_seeding::SuperSeeder;
use crate::swarm::trees::{self, Moved, Trees};
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};

/// Capacity of a subscriber's queue of changed predecessors.
const MOVES_MAX: usize = 64;

/// Number of a connection.
pub type SubscriberId = u64;

struct Subscriber {
    address: SocketAddr,
    /// Receives the subscriber's predecessors: another subscriber, or this peer.
    upstream: Sender<Upstream>,
}

#[derive(Default)]
struct FileSubscribers {
    present: HashMap<SubscriberId, Subscriber>,
    /// Super-seeding state and trees; `None` if this peer did not have the whole file when the first
    /// subscriber came.
    root: Option<RootState>,
}

struct RootState {
    super_seeder: SuperSeeder<SubscriberId>,
    trees: Trees<SubscriberId>,
}

impl FileSubscribers {
    /// Sends changed predecessors to their successors.
    fn send_upstreams(&self, moved: impl IntoIterator<Item = Moved<SubscriberId>>) {
        for Moved { who, stripe, stripes, ahead, beyond, second: first, steps, slow, left } in moved {
            let (stripe, stripes, steps) = (stripe as u8, stripes as u8, steps as u32);
            let address =
                |id: Option<SubscriberId>| id.and_then(|id| self.present.get(&id)).map(|one| one.address);
            let (peer, beyond) = (address(ahead), address(beyond));
            if let Some(subscriber) = self.present.get(&who) {
                // Dropped if the queue is full: a subscriber that does not read is about to be disconnected.
                let upstream = Upstream { peer, beyond, first, stripe, stripes, steps, slow, left };
                let _ = subscriber.upstream.try_send(upstream);
            }
        }
    }
}

/// Initial information for a new subscriber.
pub struct JoinInfo {
    /// Addresses of the other subscribers.
    pub peers: Vec<SocketAddr>,
    /// Chunks to request first (super-seeding).
    pub hints: Vec<ChunkIndex>,
    /// Changes of the predecessors: an address, or `None` for this peer.
    pub upstream: Receiver<Upstream>,
}

#[derive(Default)]
struct SubscriberTable {
    files: HashMap<FileId, FileSubscribers>,
    last: SubscriberId,
}

/// Subscribers of a peer, by file.
#[derive(Default)]
pub struct Subscribers(Mutex<SubscriberTable>);

impl Subscribers {
    fn state(&self) -> MutexGuard<'_, SubscriberTable> {
        lock(&self.0)
    }

    /// Allocates a number for a connection.
    pub fn new_id(&self) -> SubscriberId {
        let mut state = self.state();
        state.last += 1;
        state.last
    }

    /// Adds a subscriber that serves at `address`; `have` is this peer's bitfield of the file.
    pub fn join(&self, id: SubscriberId, address: SocketAddr, file: FileId, have: &Bitfield) -> JoinInfo {
        let mut random = fastrand::Rng::new();
        let mut state = self.state();
        let entry = state.files.entry(file).or_insert_with(|| FileSubscribers {
            present: HashMap::new(),
            root: have.is_complete().then(|| RootState {
                super_seeder: SuperSeeder::new(have, &mut random),
                trees: Trees::new(trees::line_max(have.count()), trees::STRIPES),
            }),
        });
        let others = entry.present.values().map(|subscriber| subscriber.address);
        let peers = random.choose_multiple(others.filter(|other| *other != address), NAMED_PEERS_MAX);
        let (upstream_sender, upstream) = bounded(MOVES_MAX);
        entry.present.insert(id, Subscriber { address, upstream: upstream_sender });
        let moved = entry.root.as_mut().map(|root| root.trees.join(id)).unwrap_or_default();
        entry.send_upstreams(moved);
        let hints = entry.root.as_mut().map(|root| root.super_seeder.join(id)).unwrap_or_default();
        JoinInfo { peers, hints, upstream }
    }

    /// Whether this peer distributes the file in several stripes.
    pub fn is_split(&self, file: FileId) -> bool {
        let state = self.state();
        let root = state.files.get(&file).and_then(|entry| entry.root.as_ref());
        root.is_some_and(|root| root.trees.stripes() > 1)
    }

    /// Reassigns a subscriber whose predecessor in a stripe is slow; `sure` if that was measured.
    pub fn reassign(&self, id: SubscriberId, file: FileId, stripe: usize, sure: bool) {
        self.rearrange(file, |trees, _| trees.overtake(id, stripe, sure));
    }

    /// Processes the report of subscriber `id` that its successor at `slow` receives slowly.
    pub fn report_slow(&self, id: SubscriberId, file: FileId, slow: SocketAddr) {
        self.rearrange(file, |trees, present| {
            let slow = present.iter().find(|(_, other)| other.address == slow);
            slow.map(|(slow, _)| trees.found_slow(id, *slow)).unwrap_or_default()
        });
    }

    /// Changes the trees of a file, if any, and tells all reassigned subscribers.
    fn rearrange(
        &self,
        file: FileId,
        change: impl FnOnce(
            &mut Trees<SubscriberId>,
            &HashMap<SubscriberId, Subscriber>,
        ) -> Vec<Moved<SubscriberId>>,
    ) {
        let mut state = self.state();
        let Some(entry) = state.files.get_mut(&file) else { return };
        let FileSubscribers { present, root } = entry;
        let moved = root.as_mut().map(|root| change(&mut root.trees, present)).unwrap_or_default();
        entry.send_upstreams(moved);
    }

    /// Records the request of a chunk; returns new hints for the subscriber.
    pub fn record_request(&self, id: SubscriberId, file: FileId, index: ChunkIndex) -> Vec<ChunkIndex> {
        let mut state = self.state();
        let root = state.files.get_mut(&file).and_then(|entry| entry.root.as_mut());
        root.map(|root| root.super_seeder.asked(id, index)).unwrap_or_default()
    }

    /// Records that a chunk was sent; returns new hints for its receiver.
    pub fn record_sent(&self, id: SubscriberId, file: FileId, index: ChunkIndex) -> Vec<ChunkIndex> {
        let mut state = self.state();
        let root = state.files.get_mut(&file).and_then(|entry| entry.root.as_mut());
        root.map(|root| root.super_seeder.left(id, index)).unwrap_or_default()
    }

    /// Removes a subscriber whose connection has ended.
    pub fn leave(&self, id: SubscriberId, file: FileId) {
        let mut state = self.state();
        let Some(entry) = state.files.get_mut(&file) else { return };
        entry.present.remove(&id);
        if let Some(root) = &mut entry.root {
            root.super_seeder.leave(id);
            let moved = root.trees.leave(id);
            entry.send_upstreams(moved);
        }
        if entry.present.is_empty() {
            state.files.remove(&file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Upstream = Upstream::SERVER;

    fn second_behind(peer: SocketAddr) -> Upstream {
        Upstream { peer: Some(peer), first: true, steps: 2, ..FIRST }
    }

    #[test]
    fn new_subscriber_learns_of_the_others_and_gets_other_hints() {
        let (subscribers, file) = (Subscribers::default(), FileId([1; 32]));
        let [one, two] = [7001, 7002].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let (first, second) = (subscribers.new_id(), subscribers.new_id());
        let JoinInfo { peers, hints, upstream } = subscribers.join(first, one, file, &Bitfield::all(9));
        assert!(peers.is_empty() && !hints.is_empty());
        assert_eq!(upstream.try_recv(), Ok(FIRST), "it is the first in the chain");
        let other = subscribers.join(second, two, file, &Bitfield::all(9));
        assert_eq!(other.peers, [one]);
        assert!(!other.hints.is_empty() && other.hints.iter().all(|index| !hints.contains(index)));
        assert_eq!(other.upstream.try_recv(), Ok(second_behind(one)));
        subscribers.reassign(second, file, 0, true);
        assert_eq!((other.upstream.try_recv(), upstream.try_recv()), (Ok(FIRST), Ok(second_behind(two))));
        let peers = subscribers.join(subscribers.new_id(), two, file, &Bitfield::all(9)).peers;
        assert_eq!(peers, [one], "a subscriber is not told of itself");
        assert!(!subscribers.record_request(first, file, hints[0]).is_empty());
        (1..=3).for_each(|id| subscribers.leave(id, file));
        assert!(subscribers.state().files.is_empty());
    }
}
