//! Sources of other sites: groups of hosts behind a thin link.
//!
//! From a *far* source, one of another site that is slower than those of the own site, the chunks that the own site
//! lacks are requested first, and of these first the share of its ring, so that each chunk crosses a thin link once. From
//! a far source that is no predecessor, one at a time and only such chunks.
//! Invariant: a chunk that only a far source has is requested from it.

use super::super::Moment;
use super::super::rings::RINGS;
use super::{Picker, Source, SourceId};
use crate::content::ChunkIndex;
use std::time::Duration;

/// A source of another site is far while its chunk time exceeds this share of the median in the own site, percent.
/// Chunk times of equal links differ by up to a third within a second; behind a thin link they are twice as long.
const FAR_PERCENT: u32 = 150;
/// Time without a completed chunk after which no source is far any more: the shortest one, and in chunk times.
const STALL_MIN: Duration = Duration::from_secs(1);
const STALL_CHUNK_TIMES: u32 = 4;

impl Picker {
    /// Notes whether a source is in the site of this peer, and the rings in which it is a predecessor (a bit for each).
    pub fn set_position(&mut self, id: SourceId, is_near: bool, rings: u8) {
        if let Some(source) = self.sources.get_mut(&id) {
            (source.is_near, source.rings) = (is_near, rings);
        }
    }

    /// Whether a source is in another site and not known to be as fast as the sources of the own site. No source is
    /// without a partial source of the own site, or while the download has stalled.
    pub(super) fn is_far(&self, source: &Source, now: Moment) -> bool {
        if source.is_near || !self.sources.values().any(|source| source.is_near && source.partial) {
            return false;
        }
        let near = self.sources.values().filter(|source| source.is_near);
        let mut times: Vec<Duration> = near.filter_map(|source| source.chunk_time).collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied();
        let is_slow = match (source.chunk_time, median) {
            (Some(own), Some(median)) => own > median * FAR_PERCENT / 100,
            _ => true,
        };
        is_slow && !self.has_stalled(now)
    }

    /// Whether no chunk has been completed for long.
    pub fn has_stalled(&self, now: Moment) -> bool {
        let times = self.sources.values().filter_map(|source| source.chunk_time);
        let (sum, count) = times.fold((Duration::ZERO, 0), |(sum, count), time| (sum + time, count + 1));
        let limit = (sum / count.max(1) * STALL_CHUNK_TIMES).max(STALL_MIN);
        now.saturating_sub(self.received_at) > limit
    }

    /// The open chunk to request from a far source.
    pub(super) fn rarest_beyond_site(
        &self,
        source: &Source,
        random: &mut fastrand::Rng,
    ) -> Option<ChunkIndex> {
        let near: Vec<&Source> = self.sources.values().filter(|source| source.is_near).collect();
        let is_near = |index: ChunkIndex| near.iter().any(|source| source.have.has(index));
        let is_own = |index: ChunkIndex| source.rings == 0 || source.rings >> (index.at() % RINGS) & 1 == 1;
        let orders = [(false, true), (false, false), (true, true), (true, false)];
        let is_limited = source.rings == 0 && source.chunk_time.is_some();
        let mut orders = orders.into_iter().filter(|(near, _)| !near || !is_limited);
        orders.find_map(|(near, own)| {
            self.rarest(source, |index| is_near(index) == near && is_own(index) == own, random)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Bitfield;

    const NEAR: SourceId = SourceId(1);
    const FAR: SourceId = SourceId(2);

    fn at(millis: u64) -> Moment {
        Duration::from_millis(millis)
    }

    fn having(chunks: impl IntoIterator<Item = u32>) -> Bitfield {
        let mut have = Bitfield::none(40);
        chunks.into_iter().for_each(|index| _ = have.insert(ChunkIndex(index)));
        have
    }

    /// A near source with chunks 0 to 19, and one of another site with 10 to 39 that is a predecessor in these rings.
    fn picker(rings: u8) -> Picker {
        let mut picker = Picker::new(Bitfield::none(40), true);
        picker.add_source(NEAR, having(0..20), at(0));
        picker.add_source(FAR, having(10..39), at(0));
        picker.set_position(FAR, false, rings);
        picker
    }

    /// Chunks picked from a source, each delivered after so many milliseconds.
    fn pick(picker: &mut Picker, id: SourceId, count: usize, each: u64, now: &mut u64) -> Vec<u32> {
        let mut random = fastrand::Rng::with_seed(5);
        let mut picked = Vec::new();
        for _ in 0..count {
            let Some(index) = picker.pick(id, at(*now), &mut random) else { break };
            *now += each;
            picker.arrived(id, index, at(*now));
            picked.push(index.0);
        }
        picked
    }

    #[test]
    fn a_far_predecessor_is_asked_first_for_what_the_own_site_lacks_and_first_for_the_share_of_its_ring() {
        let (mut picker, mut now) = (picker(0b0010), 0);
        let first = pick(&mut picker, FAR, 5, 1, &mut now);
        assert!(first.iter().all(|index| *index >= 20 && index % 4 == 1), "{first:?}");
        let more = pick(&mut picker, FAR, 14, 1, &mut now);
        assert!(more.iter().all(|index| *index >= 20), "{more:?}");
        let rest = pick(&mut picker, FAR, 40, 1, &mut now);
        assert_eq!(rest.len(), 10, "all that it has");
    }

    #[test]
    fn a_far_source_that_is_no_predecessor_is_asked_only_for_what_the_own_site_lacks_unless_it_is_fast() {
        let (mut picker, mut now) = (picker(0), 0);
        pick(&mut picker, NEAR, 4, 10, &mut now);
        let picked = pick(&mut picker, FAR, 40, 40, &mut now);
        assert!(picked.len() >= 19 && picked.iter().skip(1).all(|index| *index >= 20), "{picked:?}");
        picker.source_has(FAR, ChunkIndex(39));
        let mut random = fastrand::Rng::with_seed(5);
        assert_eq!(picker.pick(FAR, at(now), &mut random), Some(ChunkIndex(39)));
        picker.source_has(FAR, ChunkIndex(0));
        assert_eq!(picker.pick(FAR, at(now), &mut random), None, "one at a time");
        let (mut picker, mut now) = (self::picker(0), 0);
        pick(&mut picker, NEAR, 4, 10, &mut now);
        assert_eq!(pick(&mut picker, FAR, 25, 5, &mut now).len(), 25);
    }

    #[test]
    fn no_source_is_far_to_a_peer_alone_in_its_site_or_when_the_download_has_stalled() {
        let is_far = |picker: &Picker, now| picker.is_far(&picker.sources[&FAR], at(now));
        let mut picker = picker(0);
        assert!(is_far(&picker, 0) && is_far(&picker, 1_000) && !is_far(&picker, 1_001));
        picker.remove_source(NEAR);
        assert!(!is_far(&picker, 0));
    }
}
