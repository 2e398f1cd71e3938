//! Chunks in the order of the file, for a receiver that takes them in this order.
//!
//! The owner wants the chunks of a window and moves it. Every source is asked for the first open chunk that it
//! has; rarity does not count, since it serves a swarm to which such a receiver gives nothing.

use super::super::Moment;
use super::{Picker, SourceId};
use crate::content::ChunkIndex;

impl Picker {
    /// Picks chunks in the order of the file from now on, and expects that more of them are wanted later.
    pub fn pick_in_order(&mut self) {
        (self.in_order, self.expects_more) = (true, true);
    }

    /// Whether chunks are picked in the order of the file.
    pub fn picks_in_order(&self) -> bool {
        self.in_order
    }

    /// All chunks of the file are wanted by now: the download is complete when they are verified.
    pub fn expect_no_more(&mut self) {
        self.expects_more = false;
    }

    /// Whether all chunks that are wanted by now are verified.
    pub fn is_idle(&self) -> bool {
        self.open.map.held() == 0 && self.flights.keys().all(|index| self.done.has(*index))
    }

    /// The first open chunk that a source has; if it has none, one that is late elsewhere.
    pub(super) fn first_open(&mut self, id: SourceId, now: Moment) -> Option<ChunkIndex> {
        let source = self.sources.get(&id)?;
        let first = self.open.map.common(&source.have).next();
        let index = first.or_else(|| self.late(id, source, now))?;
        self.take_off(id, index, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Bitfield;
    use std::time::Duration;

    const ONE: SourceId = SourceId(1);
    const TWO: SourceId = SourceId(2);

    fn at(millis: u64) -> Moment {
        Duration::from_millis(millis)
    }

    fn window(picker: &mut Picker, range: std::ops::Range<u32>) {
        range.for_each(|index| picker.want(ChunkIndex(index)));
    }

    #[test]
    fn only_chunks_of_the_window_are_picked_and_the_first_ones_first() {
        let random = &mut fastrand::Rng::with_seed(1);
        let mut picker = Picker::new(Bitfield::none(100), false);
        picker.pick_in_order();
        window(&mut picker, 0..5);
        picker.add_source(ONE, Bitfield::all(100), at(0));
        // Rarity does not change the order.
        let mut rare = Bitfield::none(100);
        [0, 1, 3].into_iter().for_each(|index| _ = rare.insert(ChunkIndex(index)));
        picker.add_source(TWO, rare, at(0));
        let mut order = Vec::new();
        for turn in 0.. {
            let Some(index) = picker.pick(ONE, at(turn), random) else { break };
            order.push(index.0);
            picker.arrived(ONE, index, at(turn));
        }
        assert_eq!(order, [0, 1, 2, 3, 4]);
        assert!(picker.is_idle() && !picker.is_complete(), "more chunks are wanted later");
        window(&mut picker, 5..100);
        assert!(!picker.is_idle());
        assert_eq!(picker.pick(ONE, at(200), random), Some(ChunkIndex(5)));
        (5..100).for_each(|index| _ = picker.arrived(ONE, ChunkIndex(index), at(200)));
        assert!(!picker.is_complete());
        picker.expect_no_more();
        assert!(picker.is_complete());
    }

    #[test]
    fn the_first_chunk_of_a_full_window_is_requested_again_if_its_source_is_slow() {
        let random = &mut fastrand::Rng::with_seed(1);
        let mut picker = Picker::new(Bitfield::none(100), false);
        picker.pick_in_order();
        window(&mut picker, 0..2);
        picker.add_source(ONE, Bitfield::all(100), at(0));
        picker.add_source(TWO, Bitfield::all(100), at(0));
        assert_eq!(picker.pick(ONE, at(0), random), Some(ChunkIndex(0)));
        assert_eq!(picker.pick(TWO, at(0), random), Some(ChunkIndex(1)));
        picker.arrived(TWO, ChunkIndex(1), at(10));
        assert_eq!(picker.pick(TWO, at(20), random), None);
        assert_eq!(picker.pick(TWO, at(500), random), Some(ChunkIndex(0)));
    }
}
