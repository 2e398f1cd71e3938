//! Super-seeding: a seeder with a complete file hints to each leecher different chunks that it has not
//! uploaded yet.
//!
//! A second upload of a chunk costs the swarm one chunk time while other chunks have not been uploaded at
//! all. Leechers cannot see the requests of other leechers, but the seeder can. So it hints a few chunks to
//! each leecher, different ones to each, that no leecher has requested. Hints are advice: a request for any
//! other chunk is served.
//!
//! Invariant: a chunk is in the hints of at most one leecher. A request for it removes it from all hints; it
//! is hinted again only to replace a slow or lost upload.

use crate::content::{Bitfield, ChunkIndex};
use std::collections::BTreeMap;

/// Number of outstanding hints of each leecher.
const HINTS: usize = 2;

/// Tracks which chunks have been requested from this seeder and uploaded, for leechers identified by `C`.
#[derive(Debug)]
pub struct SuperSeeder<C> {
    /// Chunks that have been neither requested nor hinted, in random order.
    waiting: Vec<ChunkIndex>,
    hinted: BTreeMap<C, Vec<ChunkIndex>>,
    /// Uploads in flight, the oldest first: chunk, leecher, and whether it has since been hinted to a second
    /// leecher.
    in_flight: Vec<(ChunkIndex, C, bool)>,
}

impl<C: Copy + Ord> SuperSeeder<C> {
    /// Starts with all chunks of `have` neither requested nor hinted.
    pub fn new(have: &Bitfield, random: &mut fastrand::Rng) -> Self {
        let mut waiting: Vec<ChunkIndex> = have.iter().collect();
        random.shuffle(&mut waiting);
        Self { waiting, hinted: BTreeMap::new(), in_flight: Vec::new() }
    }

    /// Adds a leecher that uploads the chunks that it receives. Returns its hints.
    pub fn join(&mut self, client: C) -> Vec<ChunkIndex> {
        self.hinted.entry(client).or_default();
        self.fill(client)
    }

    /// Handles a request for a chunk. Returns new hints for a leecher that has joined.
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
            self.in_flight.push((index, client, false));
        }
        self.fill(client)
    }

    /// Handles the end of an upload: the chunk need not be hinted again. Returns new hints for the receiver.
    pub fn left(&mut self, client: C, index: ChunkIndex) -> Vec<ChunkIndex> {
        self.in_flight.retain(|(other, ..)| *other != index);
        self.fill(client)
    }

    /// Removes a leecher. Its hints, and the chunks in flight to it alone, become available for other
    /// leechers.
    pub fn leave(&mut self, client: C) {
        let mut released = self.hinted.remove(&client).unwrap_or_default();
        let lost = self.in_flight.iter().filter(|(_, owner, _)| *owner == client);
        released.extend(lost.map(|(index, ..)| *index));
        self.in_flight.retain(|(_, owner, _)| *owner != client);
        for index in released {
            let is_hinted = self.hinted.values().any(|hinted| hinted.contains(&index));
            let is_in_flight = self.in_flight.iter().any(|(other, ..)| *other == index);
            if !is_hinted && !is_in_flight && !self.waiting.contains(&index) {
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

    /// Picks a hint for a leecher that has none once all chunks are hinted: takes one from the leecher with
    /// the most open hints, otherwise the oldest upload in flight to another leecher.
    fn take_over(&mut self, client: C) -> Option<ChunkIndex> {
        let most = self.hinted.values_mut().max_by_key(|hinted| hinted.len());
        if let Some(index) = most.and_then(Vec::pop) {
            return Some(index);
        }
        let slow = self.in_flight.iter_mut().find(|(_, owner, rehinted)| *owner != client && !rehinted);
        slow.map(|(index, _, rehinted)| {
            *rehinted = true;
            *index
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_is_hinted_to_one_leecher_and_requested_chunks_to_none() {
        let mut seeder = SuperSeeder::new(&Bitfield::all(7), &mut fastrand::Rng::with_seed(3));
        let (one, two) = (seeder.join(1), seeder.join(2));
        assert_eq!((one.len(), two.len()), (HINTS, HINTS));
        assert!(one.iter().all(|index| !two.contains(index)));
        let more = seeder.asked(1, one[0]);
        assert_eq!(more.len(), 1, "a new hint replaces the requested chunk");
        assert!(seeder.asked(9, two[0]).is_empty(), "a leecher that has not joined gets no hints");
        assert!(seeder.asked(9, two[0]).is_empty(), "a repeated request");
        assert_eq!(seeder.asked(2, two[1]).len(), HINTS);
        assert!(seeder.asked(2, two[1]).is_empty(), "no chunk is left to hint");
        assert!(seeder.left(1, one[0]).is_empty(), "it has two open hints");
        seeder.leave(1);
        let mut left = seeder.join(3);
        left.sort_unstable();
        let mut given_back = vec![one[1], more[0]];
        given_back.sort_unstable();
        assert_eq!(left, given_back, "the hints of the leecher that left");
    }

    #[test]
    fn a_leecher_without_hints_takes_over_and_lost_uploads_are_hinted_again() {
        let mut seeder = SuperSeeder::new(&Bitfield::all(4), &mut fastrand::Rng::with_seed(3));
        let (one, two) = (seeder.join(1), seeder.join(2));
        for index in &one {
            seeder.asked(1, *index);
        }
        assert!(
            seeder.left(1, one[0]).iter().all(|index| two.contains(index)),
            "hints that leecher 2 has not requested"
        );
        let mut seeder = SuperSeeder::new(&Bitfield::all(1), &mut fastrand::Rng::with_seed(3));
        let (slow, none) = (seeder.join(1), seeder.join(2));
        assert_eq!((slow.len(), none.len()), (1, 1), "the file has one chunk");
        seeder.asked(2, slow[0]);
        assert_eq!(seeder.join(3), slow, "the slow upload is hinted to a second leecher");
        (2..=3).for_each(|client| seeder.leave(client));
        assert_eq!(seeder.join(5), slow);
    }
}
