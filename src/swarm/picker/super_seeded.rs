//! Sources that choose the chunks that they send: roots with chunks that they have not sent yet (super-seeding).
//!
//! Invariant: a chunk that was not requested is accepted only as the answer to a request for a chunk of the source's
//! choice, and only if it is wanted.

use super::super::Moment;
use super::{Picker, SourceId};
use crate::content::{Bitfield, ChunkIndex};

/// Requests for chunks of a source's choice in flight: one in transfer, the next one known to the source.
const NEXT_MAX: usize = 2;

impl Picker {
    /// Sets whether a source chooses the chunks that it sends. Requests in flight end when it no longer does.
    pub fn set_chooses(&mut self, id: SourceId, chooses: bool) {
        if let Some(source) = self.sources.get_mut(&id).filter(|source| source.chooses != chooses) {
            (source.chooses, source.nexts) = (chooses, 0);
        }
    }

    /// Number of requests in flight for chunks of the sources' choice.
    pub fn nexts(&self) -> usize {
        self.sources.values().map(|source| source.nexts).sum()
    }

    /// Whether a source should be asked for a chunk of its choice now.
    pub fn is_next_due(&self, id: SourceId) -> bool {
        let is_left = self.open.map.held() > 0;
        let source = self.sources.get(&id).filter(|source| source.chooses && is_left && !self.in_order);
        source.is_some_and(|source| source.nexts + source.flights.len() < NEXT_MAX)
    }

    /// Whether another peer that is downloading has a chunk that this one lacks and has not requested. If not, this peer is
    /// ahead of the others, which want older chunks first.
    pub fn can_download_from_peers(&self) -> bool {
        self.open.is_any_held()
    }

    /// Notes that a source was asked for a chunk of its choice.
    pub fn asked_next(&mut self, id: SourceId) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.nexts += 1;
        }
    }

    /// A source has begun to send a chunk of its choice, which is in flight from now on. Returns whether it is wanted.
    pub fn given(&mut self, id: SourceId, index: ChunkIndex, now: Moment) -> bool {
        let Some(source) = self.sources.get_mut(&id).filter(|source| source.nexts > 0) else { return false };
        source.nexts -= 1;
        let is_wanted = self.wanted.has(index) && !self.done.has(index);
        let is_new = !source.flights.iter().any(|(flying, _)| *flying == index);
        is_wanted && is_new && self.take_off(id, index, now).is_some()
    }

    /// The chunks that this peer has, is receiving or has requested.
    pub fn taken(&self) -> Bitfield {
        let mut taken = self.done.clone();
        self.flights.keys().for_each(|index| _ = taken.insert(*index));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_chooses_is_asked_for_two_chunks_and_sends_no_others() {
        let (one, now, random) = (SourceId(1), Moment::ZERO, &mut fastrand::Rng::with_seed(1));
        let mut picker = Picker::new(Bitfield::none(9), true);
        picker.add_source(one, Bitfield::all(9), now);
        assert!(!picker.is_next_due(one), "it does not choose");
        picker.set_chooses(one, true);
        assert_eq!(picker.pick(one, now, random), None);
        assert!(!picker.given(one, ChunkIndex(3), now), "nothing was asked for");
        for _ in 0..NEXT_MAX {
            assert!(picker.is_next_due(one));
            picker.asked_next(one);
        }
        assert!(!picker.is_next_due(one));
        assert!(picker.given(one, ChunkIndex(3), now) && !picker.is_next_due(one));
        assert_eq!(picker.taken().iter().collect::<Vec<_>>(), [ChunkIndex(3)]);
        picker.arrived(one, ChunkIndex(3), now);
        assert!(picker.is_next_due(one) && !picker.given(one, ChunkIndex(3), now), "it is there");
        picker.set_chooses(one, false);
        assert!(picker.pick(one, now, random).is_some() && picker.nexts() == 0);
    }

    #[test]
    fn a_peer_is_ahead_while_no_other_one_that_downloads_has_a_chunk_for_it() {
        let (root, other, now) = (SourceId(1), SourceId(2), Moment::ZERO);
        let mut picker = Picker::new(Bitfield::none(9), true);
        picker.add_source(root, Bitfield::all(9), now);
        picker.add_source(other, Bitfield::none(9), now);
        assert!(!picker.can_download_from_peers());
        picker.source_has(other, ChunkIndex(3));
        assert!(picker.can_download_from_peers());
        picker.arrived(root, ChunkIndex(3), now);
        assert!(!picker.can_download_from_peers());
    }
}
