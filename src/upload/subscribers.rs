//! Who is here for a file and serves it as well: what a serving peer tells them of each other, what it hints at, and the
//! trees in which they hang.
//!
//! Peers who begin together would otherwise know nobody but the seeder until the tracker is asked again. Only the one
//! that comes is told of those who are here: it connects to them, and so they learn of it.
//!
//! Invariant: nothing is kept of a file that nobody is here for.

use crate::content::limits::NAMED_PEERS_MAX;
use crate::content::{Bitfield, ChunkIndex, FileId};
use crate::protocol::peer::Upstream;
use crate::swarm::super_seeding::SuperSeeder;
use crate::swarm::trees::{self, Moved, Trees};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Changes of one's places in a tree that may wait for its connection.
const MOVES_MAX: usize = 64;

/// A connection, counted from the first.
pub type VisitorId = u64;

struct Visitor {
    address: SocketAddr,
    /// Learns whom to ask first: another visitor, or this peer.
    upstream: Sender<Upstream>,
}

#[derive(Default)]
struct Visited {
    here: HashMap<VisitorId, Visitor>,
    /// What has not left this peer yet, and the trees, if it had the whole file when the first one came.
    origin: Option<Origin>,
}

struct Origin {
    fresh: SuperSeeder<VisitorId>,
    trees: Trees<VisitorId>,
}

impl Visited {
    /// Tells those who have another one ahead of them now.
    fn tell(&self, moved: impl IntoIterator<Item = Moved<VisitorId>>) {
        for Moved { who, stripe, stripes, ahead, beyond, second: first, steps, slow, left } in moved {
            let (stripe, stripes, steps) = (stripe as u8, stripes as u8, steps as u32);
            let address = |id: Option<VisitorId>| id.and_then(|id| self.here.get(&id)).map(|one| one.address);
            let (peer, beyond) = (address(ahead), address(beyond));
            if let Some(visitor) = self.here.get(&who) {
                // Who does not read what it is told has other troubles.
                let upstream = Upstream { peer, beyond, first, stripe, stripes, steps, slow, left };
                let _ = visitor.upstream.try_send(upstream);
            }
        }
    }
}

/// What one who comes is told.
pub struct Welcome {
    /// Others who are here.
    pub peers: Vec<SocketAddr>,
    /// What it had better ask for.
    pub hints: Vec<ChunkIndex>,
    /// Whom it had better ask first, whenever that changes: an address, or none for this peer.
    pub upstream: Receiver<Upstream>,
}

#[derive(Default)]
struct State {
    files: HashMap<FileId, Visited>,
    last: VisitorId,
}

/// The visitors of a serving peer.
#[derive(Default)]
pub struct Visitors(Mutex<State>);

impl Visitors {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name for a connection.
    pub fn name(&self) -> VisitorId {
        let mut state = self.state();
        state.last += 1;
        state.last
    }

    /// Somebody who serves at `address` is here for a file, of which this peer has `have`. Returns what it is
    /// to be told.
    pub fn join(&self, id: VisitorId, address: SocketAddr, file: FileId, have: &Bitfield) -> Welcome {
        let mut random = fastrand::Rng::new();
        let mut state = self.state();
        let visited = state.files.entry(file).or_insert_with(|| Visited {
            here: HashMap::new(),
            origin: have.is_complete().then(|| Origin {
                fresh: SuperSeeder::new(have, &mut random),
                trees: Trees::new(trees::line_max(have.count()), trees::STRIPES),
            }),
        });
        let others = visited.here.values().map(|visitor| visitor.address);
        let peers = random.choose_multiple(others.filter(|other| *other != address), NAMED_PEERS_MAX);
        let (teller, upstream) = bounded(MOVES_MAX);
        visited.here.insert(id, Visitor { address, upstream: teller });
        let moved = visited.origin.as_mut().map(|origin| origin.trees.join(id)).unwrap_or_default();
        visited.tell(moved);
        let hints = visited.origin.as_mut().map(|origin| origin.fresh.join(id)).unwrap_or_default();
        Welcome { peers, hints, upstream }
    }

    /// Whether a file is dealt out from here in several stripes.
    pub fn is_split(&self, file: FileId) -> bool {
        let state = self.state();
        let origin = state.files.get(&file).and_then(|visited| visited.origin.as_ref());
        origin.is_some_and(|origin| origin.trees.stripes() > 1)
    }

    /// Somebody is kept waiting by the one ahead of it in a stripe.
    pub fn overtake(&self, id: VisitorId, file: FileId, stripe: usize, sure: bool) {
        self.rearrange(file, |trees, _| trees.overtake(id, stripe, sure));
    }

    /// Somebody finds that the one who serves at `slow`, and whom it gives to, takes that slowly.
    pub fn found_slow(&self, id: VisitorId, file: FileId, slow: SocketAddr) {
        self.rearrange(file, |trees, here| {
            let slow = here.iter().find(|(_, other)| other.address == slow);
            slow.map(|(slow, _)| trees.found_slow(id, *slow)).unwrap_or_default()
        });
    }

    /// Changes the trees of a file, if there are any, and tells all who have moved.
    fn rearrange(
        &self,
        file: FileId,
        change: impl FnOnce(&mut Trees<VisitorId>, &HashMap<VisitorId, Visitor>) -> Vec<Moved<VisitorId>>,
    ) {
        let mut state = self.state();
        let Some(visited) = state.files.get_mut(&file) else { return };
        let Visited { here, origin } = visited;
        let moved = origin.as_mut().map(|origin| change(&mut origin.trees, here)).unwrap_or_default();
        visited.tell(moved);
    }

    /// A chunk is asked for. Returns new hints for who asks.
    pub fn asked(&self, id: VisitorId, file: FileId, index: ChunkIndex) -> Vec<ChunkIndex> {
        let mut state = self.state();
        let origin = state.files.get_mut(&file).and_then(|visited| visited.origin.as_mut());
        origin.map(|origin| origin.fresh.asked(id, index)).unwrap_or_default()
    }

    /// A chunk has gone out. Returns new hints for who has got it.
    pub fn left(&self, id: VisitorId, file: FileId, index: ChunkIndex) -> Vec<ChunkIndex> {
        let mut state = self.state();
        let origin = state.files.get_mut(&file).and_then(|visited| visited.origin.as_mut());
        origin.map(|origin| origin.fresh.left(id, index)).unwrap_or_default()
    }

    /// A connection has ended.
    pub fn leave(&self, id: VisitorId, file: FileId) {
        let mut state = self.state();
        let Some(visited) = state.files.get_mut(&file) else { return };
        visited.here.remove(&id);
        if let Some(origin) = &mut visited.origin {
            origin.fresh.leave(id);
            let moved = origin.trees.leave(id);
            visited.tell(moved);
        }
        if visited.here.is_empty() {
            state.files.remove(&file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Upstream = Upstream {
        peer: None,
        beyond: None,
        first: false,
        stripe: 0,
        stripes: 1,
        steps: 1,
        slow: false,
        left: false,
    };

    fn second_behind(peer: SocketAddr) -> Upstream {
        Upstream { peer: Some(peer), first: true, steps: 2, ..FIRST }
    }

    #[test]
    fn who_comes_is_told_of_those_who_are_here_and_hints_differ() {
        let (visitors, file) = (Visitors::default(), FileId([1; 32]));
        let [one, two] = [7001, 7002].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let (first, second) = (visitors.name(), visitors.name());
        let Welcome { peers, hints, upstream } = visitors.join(first, one, file, &Bitfield::all(9));
        assert!(peers.is_empty() && !hints.is_empty());
        assert_eq!(upstream.try_recv(), Ok(FIRST), "it is the first in the line");
        let other = visitors.join(second, two, file, &Bitfield::all(9));
        assert_eq!(other.peers, [one]);
        assert!(!other.hints.is_empty() && other.hints.iter().all(|index| !hints.contains(index)));
        assert_eq!(other.upstream.try_recv(), Ok(second_behind(one)));
        visitors.overtake(second, file, 0, true);
        assert_eq!((other.upstream.try_recv(), upstream.try_recv()), (Ok(FIRST), Ok(second_behind(two))));
        let peers = visitors.join(visitors.name(), two, file, &Bitfield::all(9)).peers;
        assert_eq!(peers, [one], "nobody is told of itself");
        assert!(!visitors.asked(first, file, hints[0]).is_empty());
        (1..=3).for_each(|id| visitors.leave(id, file));
        assert!(visitors.state().files.is_empty());
    }
}
