//! Who is here for a file and serves it as well: what a serving peer tells them of each other, and what it hints at.
//!
//! Peers who begin together would otherwise know nobody but the seeder until the tracker is asked again. Only the one
//! that comes is told of those who are here: it connects to them, and so they learn of it.
//!
//! Invariant: nothing is kept of a file that nobody is here for.

use crate::content::limits::PEERS_NAMED;
use crate::content::{ChunkIndex, FileId, HaveMap};
use crate::swarm::fresh::Fresh;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A connection, counted from the first.
pub type VisitorId = u64;

#[derive(Default)]
struct Visited {
    here: HashMap<VisitorId, SocketAddr>,
    /// What has not left this peer yet, if it had the whole file when the first one came.
    fresh: Option<Fresh<VisitorId>>,
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

    /// Somebody who serves at `address` is here for a file, of which this peer has `have`. Returns others who are here,
    /// and hints.
    pub fn join(
        &self,
        id: VisitorId,
        address: SocketAddr,
        file: FileId,
        have: &HaveMap,
    ) -> (Vec<SocketAddr>, Vec<ChunkIndex>) {
        let mut random = fastrand::Rng::new();
        let mut state = self.state();
        let visited = state.files.entry(file).or_insert_with(|| Visited {
            here: HashMap::new(),
            fresh: have.is_complete().then(|| Fresh::new(have, &mut random)),
        });
        let others = visited.here.values().copied().filter(|other| *other != address);
        let others = random.choose_multiple(others, PEERS_NAMED);
        visited.here.insert(id, address);
        (others, visited.fresh.as_mut().map(|fresh| fresh.join(id)).unwrap_or_default())
    }

    /// A chunk is asked for. Returns new hints for who asks.
    pub fn asked(&self, id: VisitorId, file: FileId, index: ChunkIndex) -> Vec<ChunkIndex> {
        let mut state = self.state();
        let fresh = state.files.get_mut(&file).and_then(|visited| visited.fresh.as_mut());
        fresh.map(|fresh| fresh.asked(id, index)).unwrap_or_default()
    }

    /// A connection has ended.
    pub fn leave(&self, id: VisitorId, file: FileId) {
        let mut state = self.state();
        let Some(visited) = state.files.get_mut(&file) else { return };
        visited.here.remove(&id);
        if let Some(fresh) = &mut visited.fresh {
            fresh.leave(id);
        }
        if visited.here.is_empty() {
            state.files.remove(&file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_is_told_of_those_who_are_here_and_hints_differ() {
        let (visitors, file) = (Visitors::default(), FileId([1; 32]));
        let [one, two] = [7001, 7002].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        let (first, second) = (visitors.name(), visitors.name());
        let (peers, hints) = visitors.join(first, one, file, &HaveMap::all(9));
        assert!(peers.is_empty() && !hints.is_empty());
        let (peers, other) = visitors.join(second, two, file, &HaveMap::all(9));
        assert_eq!(peers, [one]);
        assert!(!other.is_empty() && other.iter().all(|index| !hints.contains(index)));
        let (peers, _) = visitors.join(visitors.name(), two, file, &HaveMap::all(9));
        assert_eq!(peers, [one], "nobody is told of itself");
        assert!(!visitors.asked(first, file, hints[0]).is_empty());
        (1..=3).for_each(|id| visitors.leave(id, file));
        assert!(visitors.state().files.is_empty());
    }
}
