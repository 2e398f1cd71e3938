//! What has not left its only holder yet, and to whom it should go: hints of a peer that has a whole file.
//!
//! A chunk that leaves the only one who has it a second time costs the whole swarm the time of a chunk as long as
//! others have not left it once. Those who ask cannot know what others ask for in the same moment; the one that is
//! asked does. So it names to each of them a few chunks that nobody has asked for yet, different ones to each.
//! Hints are no more than that: whoever wants another chunk gets it.
//!
//! Invariant: a chunk is hinted to one client at most, and to none once somebody has asked for it.

use crate::content::{Bitfield, ChunkIndex};
use std::collections::BTreeMap;

/// Chunks hinted to each client: what it is asked for ahead.
const HINTS: usize = 2;

/// Keeps account of what has left this peer, for clients named by `C`.
#[derive(Debug)]
pub struct Fresh<C> {
    /// What nobody has asked for and nobody has been told of, in random order.
    waiting: Vec<ChunkIndex>,
    hinted: BTreeMap<C, Vec<ChunkIndex>>,
    /// What is on its way to whom, the oldest first, and whether it has been hinted to somebody else since.
    leaving: Vec<(ChunkIndex, C, bool)>,
}

impl<C: Copy + Ord> Fresh<C> {
    /// Nothing has left yet.
    pub fn new(have: &Bitfield, random: &mut fastrand::Rng) -> Self {
        let mut waiting: Vec<ChunkIndex> = have.iter().collect();
        random.shuffle(&mut waiting);
        Self { waiting, hinted: BTreeMap::new(), leaving: Vec::new() }
    }

    /// A client is there, that passes on what it gets. Returns its hints.
    pub fn join(&mut self, client: C) -> Vec<ChunkIndex> {
        self.hinted.entry(client).or_default();
        self.fill(client)
    }

    /// Whoever asks for a chunk. Returns new hints for a client that has joined.
    pub fn asked(&mut self, client: C, index: ChunkIndex) -> Vec<ChunkIndex> {
        let hinted = self.hinted.values_mut();
        let lists = std::iter::once(&mut self.waiting).chain(hinted);
        for list in lists {
            if let Some(at) = list.iter().position(|other| *other == index) {
                list.remove(at);
                break;
            }
        }
        if self.hinted.contains_key(&client) {
            self.leaving.push((index, client, false));
        }
        self.fill(client)
    }

    /// A chunk has left this peer, and so need not be hinted again. Returns new hints for the client that got it.
    pub fn left(&mut self, client: C, index: ChunkIndex) -> Vec<ChunkIndex> {
        self.leaving.retain(|(other, ..)| *other != index);
        self.fill(client)
    }

    /// A client is gone: what it was told of, and what was on its way to it alone, goes to others.
    pub fn leave(&mut self, client: C) {
        let mut back = self.hinted.remove(&client).unwrap_or_default();
        let lost = self.leaving.iter().filter(|(_, whose, _)| *whose == client);
        back.extend(lost.map(|(index, ..)| *index));
        self.leaving.retain(|(_, whose, _)| *whose != client);
        for index in back {
            let is_told = self.hinted.values().any(|hinted| hinted.contains(&index));
            let is_leaving = self.leaving.iter().any(|(other, ..)| *other == index);
            if !is_told && !is_leaving && !self.waiting.contains(&index) {
                self.waiting.push(index);
            }
        }
    }

    fn fill(&mut self, client: C) -> Vec<ChunkIndex> {
        let Some(hinted) = self.hinted.get(&client) else { return Vec::new() };
        let count = HINTS.saturating_sub(hinted.len()).min(self.waiting.len());
        let mut hints = self.waiting.split_off(self.waiting.len() - count);
        if hints.is_empty() && hinted.is_empty() {
            hints.extend(self.take_over(client));
        }
        self.hinted.entry(client).or_default().extend(&hints);
        hints
    }

    /// When everything has been hinted to somebody, those who are done help those who are behind: with what these have
    /// not asked for yet, or what takes long to reach them.
    fn take_over(&mut self, client: C) -> Option<ChunkIndex> {
        let most = self.hinted.values_mut().max_by_key(|hinted| hinted.len());
        if let Some(index) = most.and_then(Vec::pop) {
            return Some(index);
        }
        let slow = self.leaving.iter_mut().find(|(_, whose, told)| *whose != client && !told);
        slow.map(|(index, _, told)| {
            *told = true;
            *index
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_hinted_to_one_client_and_what_is_asked_for_to_none() {
        let mut fresh = Fresh::new(&Bitfield::all(7), &mut fastrand::Rng::with_seed(3));
        let (one, two) = (fresh.join(1), fresh.join(2));
        assert_eq!((one.len(), two.len()), (HINTS, HINTS));
        assert!(one.iter().all(|index| !two.contains(index)));
        let more = fresh.asked(1, one[0]);
        assert_eq!(more.len(), 1, "one in place of that one");
        assert!(fresh.asked(9, two[0]).is_empty(), "who has not joined gets none");
        assert!(fresh.asked(9, two[0]).is_empty(), "asked for again");
        assert_eq!(fresh.asked(2, two[1]).len(), HINTS);
        assert!(fresh.asked(2, two[1]).is_empty(), "none is left");
        assert!(fresh.left(1, one[0]).is_empty(), "it knows two");
        fresh.leave(1);
        let mut left = fresh.join(3);
        left.sort_unstable();
        let mut given_back = vec![one[1], more[0]];
        given_back.sort_unstable();
        assert_eq!(left, given_back, "what a client that is gone was told of");
    }

    #[test]
    fn who_is_done_helps_who_is_behind_and_what_was_lost_on_its_way_waits_again() {
        let mut fresh = Fresh::new(&Bitfield::all(4), &mut fastrand::Rng::with_seed(3));
        let (one, two) = (fresh.join(1), fresh.join(2));
        for index in &one {
            fresh.asked(1, *index);
        }
        assert!(fresh.left(1, one[0]).iter().all(|index| two.contains(index)), "what 2 has not asked for");
        let mut fresh = Fresh::new(&Bitfield::all(1), &mut fastrand::Rng::with_seed(3));
        let (slow, none) = (fresh.join(1), fresh.join(2));
        assert_eq!((slow.len(), none.len()), (1, 1), "there is but one");
        fresh.asked(2, slow[0]);
        assert_eq!(fresh.join(3), slow, "it takes long");
        (2..=3).for_each(|client| fresh.leave(client));
        assert_eq!(fresh.join(5), slow);
    }
}
