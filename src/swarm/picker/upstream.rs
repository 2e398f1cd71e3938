//! The source to be asked before all others: who is ahead in a line ([`line`](crate::swarm::line)).
//!
//! As long as it keeps up, nobody else is asked. Whether it does is told by four signs: how much more it has than this
//! peer, how much more anybody has, how long nothing has come from it, and, for who stands behind the first in the line, how long a chunk takes from
//! the one who has the file.
//!
//! Invariant: beside a source ahead that does not keep up others are asked, a few at once; without one, or when nothing
//! comes from it, everybody is.

use super::super::Moment;
use super::{Picker, Source, SourceId};
use crate::content::ChunkIndex;
use std::time::Duration;

/// A peer may have so many chunks less than the one it asks, and what that one gets in so much time, before it is behind.
const LAG_CHUNKS: u32 = 2;
const LAG_TIME: Duration = Duration::from_millis(100);
/// The same against the one who has most.
const FAR_CHUNKS: u32 = 8;
const FAR_TIME: Duration = Duration::from_secs(1);
/// Nobody else is asked for so long while the one upstream is being connected to.
const AWAITED: Duration = Duration::from_millis(250);
/// Nothing may come from the one ahead for so many times as long as a chunk takes, and for that long in any case.
const SILENT: u32 = 3;
const SILENT_MIN: Duration = Duration::from_secs(2);
/// So many times as long as from the first holder a chunk may take from the one to be asked, and a little more.
const TRIAL: u32 = 3;
const TRIAL_MIN: Duration = Duration::from_millis(100);

/// What is known of the source to be asked before all others.
#[derive(Default)]
pub(super) struct Ahead {
    upstream: Option<SourceId>,
    trial: Option<Trial>,
    /// What the one before it owes.
    stuck: Vec<ChunkIndex>,
    /// Since when it is ahead.
    since: Moment,
    /// Whether it kept this peer waiting when that was last looked at.
    waited: bool,
    /// The least gaps since it is ahead: who comes late begins with wide ones.
    least: (u32, u32),
    /// Until when nobody is asked, as that source is not connected yet.
    pub(super) awaited: Option<Moment>,
}

impl Ahead {
    /// A source is gone.
    pub(super) fn lose(&mut self, id: SourceId) {
        self.upstream = self.upstream.filter(|upstream| *upstream != id);
    }

    /// Whether a source is to be asked for one chunk, to be compared.
    pub(super) fn tries(&self, id: SourceId) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.first == id && trial.asked.is_none())
    }

    /// A source is asked for a chunk.
    pub(super) fn asked(&mut self, id: SourceId, index: ChunkIndex, now: Moment) {
        if let Some(trial) = self.trial.as_mut().filter(|trial| trial.first == id) {
            trial.asked.get_or_insert((index, now));
        }
    }

    /// A chunk has come.
    pub(super) fn arrived(&mut self, id: SourceId, index: ChunkIndex, now: Moment) {
        if let Some(trial) = self.trial.as_mut().filter(|trial| trial.first == id && trial.took.is_none()) {
            let asked = trial.asked.filter(|(asked, _)| *asked == index);
            trial.took = asked.map(|(_, since)| now.saturating_sub(since));
        }
    }
}

/// One chunk from the first holder, to see whether the one who is to be asked instead is slower.
struct Trial {
    first: SourceId,
    asked: Option<(ChunkIndex, Moment)>,
    took: Option<Duration>,
}

impl Trial {
    fn new(first: SourceId) -> Self {
        Self { first, asked: None, took: None }
    }

    fn is_lost(&self, upstream: &Source, now: Moment) -> bool {
        let Some(took) = self.took else { return false };
        let asked = self.asked.map_or(now, |(_, since)| since);
        let waits = now.saturating_sub(asked.max(upstream.last_arrival));
        upstream.pace.unwrap_or_default().max(waits) > took * TRIAL + TRIAL_MIN
    }
}

impl Picker {
    /// The source that is to be asked before all others, or none. One that has everything by now is kept: it does not
    /// need to be replaced by one that others wait for. With `first`, which has what that one gets, the two are compared.
    pub fn follow(&mut self, id: Option<SourceId>, first: Option<SourceId>, now: Moment) {
        let id = id.filter(|id| self.sources.contains_key(id));
        let is_done = |id| self.sources.get(&id).is_some_and(|one| !one.origin && !one.partial);
        let kept = self.ahead.upstream.is_some_and(|old| id.is_some_and(|id| id == old || is_done(old)));
        if kept {
            return;
        }
        // What the one before owes may take long: it is asked of the new one, too, and first.
        let before =
            self.ahead.upstream.and_then(|before| self.sources.get(&before)).filter(|before| !before.origin);
        let owed = before.into_iter().flat_map(|before| before.flights.iter().map(|(index, _)| *index));
        self.ahead.stuck = owed.collect();
        self.ahead.upstream = id;
        self.ahead.least = (u32::MAX, u32::MAX);
        self.ahead.waited = false;
        self.ahead.since = now;
        self.note_gaps();
        self.ahead.trial = first.filter(|_| id.is_some()).map(Trial::new);
        if id.is_some() {
            self.ahead.awaited = None;
        }
    }

    /// A source to be asked before all others is being connected to, and for a short while nobody else is asked.
    pub fn expect_upstream(&mut self, now: Moment) {
        if self.ahead.upstream.is_none() {
            self.ahead.awaited = Some(now + AWAITED);
        }
    }

    /// The one source that is asked, as long as that is no slower than asking all.
    pub(super) fn keeps_to(&self, now: Moment) -> Option<SourceId> {
        self.ahead.upstream.filter(|_| !self.is_held_up(now))
    }

    /// Whether the source that is to be asked before all others is slower than the first holder.
    pub fn is_slower_than_first(&self, now: Moment) -> bool {
        let upstream = self.ahead.upstream.and_then(|upstream| self.sources.get(&upstream));
        upstream.zip(self.ahead.trial.as_ref()).is_some_and(|(upstream, trial)| trial.is_lost(upstream, now))
    }

    /// Whether that source keeps this peer waiting, and did the last time when this was asked. Called now and then.
    pub fn waits_long(&mut self, now: Moment) -> bool {
        let waits = self.is_held_up(now);
        std::mem::replace(&mut self.ahead.waited, waits) && waits
    }

    /// Whether the source that is to be asked before all others keeps this peer waiting, or does not get more itself.
    fn is_held_up(&self, now: Moment) -> bool {
        let Some(upstream) = self.ahead.upstream.and_then(|upstream| self.sources.get(&upstream)) else {
            return false;
        };
        if upstream.origin {
            return !self.open.map.meets(&upstream.have) || self.is_silent(upstream, now);
        }
        let (near, far) = self.gaps(upstream);
        self.is_behind(near, self.ahead.least.0, upstream.have.held(), (LAG_CHUNKS, LAG_TIME), now)
            || self.is_behind(far, self.ahead.least.1, self.most(), (FAR_CHUNKS, FAR_TIME), now)
            || self.is_slower_than_first(now)
            || self.is_silent(upstream, now)
    }

    /// Whether nothing has come from the one ahead in a long time: then it does not matter why.
    fn is_silent(&self, upstream: &Source, now: Moment) -> bool {
        let waits = now.saturating_sub(upstream.last_arrival.max(self.ahead.since));
        waits > (upstream.pace.unwrap_or_default() * SILENT).max(SILENT_MIN)
    }

    /// Whether a source is only a help, beside one ahead from which something comes.
    pub(super) fn only_helps(&self, id: SourceId, now: Moment) -> bool {
        let ahead = self.ahead.upstream.filter(|upstream| *upstream != id);
        ahead.and_then(|ahead| self.sources.get(&ahead)).is_some_and(|ahead| !self.is_silent(ahead, now))
    }

    /// The most chunks that one of those has who are not done.
    fn most(&self) -> u32 {
        let others = self.sources.values().filter(|source| source.partial);
        others.map(|source| source.have.held()).max().unwrap_or(0)
    }

    /// How many chunks more than this peer the one upstream has, and the one who has most.
    fn gaps(&self, upstream: &Source) -> (u32, u32) {
        let own = self.done.held() + self.flights.len() as u32;
        (upstream.have.held().saturating_sub(own), self.most().saturating_sub(own))
    }

    /// Whether a gap has become wider: by more than those chunks, and what somebody who has `held` gets in that time.
    fn is_behind(
        &self,
        gap: u32,
        least: u32,
        held: u32,
        (chunks, time): (u32, Duration),
        now: Moment,
    ) -> bool {
        let elapsed = now.saturating_sub(self.began.unwrap_or(now)).max(time);
        let lag = f64::from(held) * time.as_secs_f64() / elapsed.as_secs_f64();
        gap > least.saturating_add(chunks + lag as u32)
    }

    pub(super) fn note_gaps(&mut self) {
        if let Some(upstream) = self.ahead.upstream.and_then(|upstream| self.sources.get(&upstream)) {
            let (near, far) = self.gaps(upstream);
            self.ahead.least = (self.ahead.least.0.min(near), self.ahead.least.1.min(far));
        }
    }

    /// A chunk that the one before owes still, and that this one, who is ahead now, can give.
    pub(super) fn owed_before(&self, id: SourceId, source: &Source) -> Option<ChunkIndex> {
        let mut stuck = self.ahead.stuck.iter().copied().filter(|_| self.ahead.upstream == Some(id));
        stuck.find(|index| {
            source.have.has(*index)
                && !self.done.has(*index)
                && self.flights.get(index).is_some_and(|from| !from.contains(&id))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::HaveMap;

    const FIRST: SourceId = SourceId(1);
    const AHEAD: SourceId = SourceId(2);
    const OTHER: SourceId = SourceId(3);

    /// Everybody is there, and `AHEAD` is to be asked.
    fn picker(first: Option<SourceId>) -> (Picker, fastrand::Rng) {
        let mut picker = Picker::new(HaveMap::none(100), true);
        picker.add_source(FIRST, HaveMap::all(100), ms(0));
        picker.add_source(AHEAD, HaveMap::none(100), ms(0));
        picker.add_source(OTHER, HaveMap::none(100), ms(0));
        picker.follow(Some(AHEAD), first, ms(0));
        (picker, fastrand::Rng::with_seed(1))
    }

    fn ms(time: u64) -> Moment {
        Duration::from_millis(time)
    }

    fn gets(picker: &mut Picker, id: SourceId, chunks: std::ops::Range<u32>) {
        chunks.for_each(|index| picker.source_has(id, ChunkIndex(index)));
    }

    #[test]
    fn nobody_but_the_one_ahead_is_asked_while_it_keeps_up() {
        let (mut picker, mut random) = picker(None);
        gets(&mut picker, AHEAD, 0..1);
        gets(&mut picker, OTHER, 0..5);
        assert_eq!(picker.pick(FIRST, ms(10), &mut random), None);
        assert_eq!(picker.pick(OTHER, ms(10), &mut random), None);
        assert_eq!(picker.pick(AHEAD, ms(10), &mut random), Some(ChunkIndex(0)));
        assert!(!picker.waits_long(ms(10)) && !picker.waits_long(ms(20)));
        picker.remove_source(AHEAD);
        assert!(picker.pick(OTHER, ms(30), &mut random).is_some(), "it is gone");
    }

    #[test]
    fn who_falls_behind_the_one_ahead_asks_everybody() {
        let (mut picker, mut random) = picker(None);
        gets(&mut picker, AHEAD, 0..30);
        assert!(picker.pick(OTHER, ms(1_000), &mut random).is_none(), "it has nothing");
        gets(&mut picker, OTHER, 0..30);
        assert!(picker.pick(OTHER, ms(1_000), &mut random).is_some());
        assert!(!picker.waits_long(ms(1_000)), "once is nothing");
        assert!(picker.waits_long(ms(1_100)));
    }

    #[test]
    fn who_comes_late_is_not_behind_as_long_as_it_catches_up() {
        let mut picker = Picker::new(HaveMap::none(100), true);
        picker.add_source(AHEAD, HaveMap::none(100), ms(0));
        gets(&mut picker, AHEAD, 0..60);
        picker.follow(Some(AHEAD), None, ms(0));
        (0..30).for_each(|index| _ = picker.arrived(AHEAD, ChunkIndex(index), ms(1_000)));
        gets(&mut picker, AHEAD, 60..63);
        picker.ahead.since = ms(1_000);
        assert_eq!(picker.keeps_to(ms(2_000)), Some(AHEAD), "33 less, after 60");
        gets(&mut picker, AHEAD, 63..80);
        assert_eq!(picker.keeps_to(ms(2_000)), None, "50 less, after 30");
    }

    #[test]
    fn one_ahead_who_gets_nothing_itself_is_seen_by_what_others_have() {
        let (mut picker, _) = picker(None);
        gets(&mut picker, OTHER, 0..90);
        assert!(!picker.waits_long(ms(1_800)) && picker.waits_long(ms(1_900)));
    }

    #[test]
    fn one_ahead_who_gives_nothing_is_not_waited_for_whoever_else_there_is() {
        let (mut picker, mut random) = picker(None);
        assert_eq!(picker.pick(FIRST, SILENT_MIN, &mut random), None);
        assert!(picker.pick(FIRST, SILENT_MIN + ms(1), &mut random).is_some());
        // Not even by three more who give nothing.
        for id in (4..9).map(SourceId) {
            picker.add_source(id, HaveMap::all(100), SILENT_MIN);
            assert!(picker.pick(id, SILENT_MIN + ms(1), &mut random).is_some());
        }
    }

    #[test]
    fn the_second_takes_one_chunk_past_the_first_and_compares() {
        let (mut picker, mut random) = picker(Some(FIRST));
        let tried = picker.pick(FIRST, ms(0), &mut random).unwrap();
        assert_eq!(picker.pick(FIRST, ms(0), &mut random), None, "one will do");
        assert!(!picker.is_slower_than_first(ms(9_000)), "nothing to compare with");
        picker.arrived(FIRST, tried, ms(100));
        assert!(!picker.is_slower_than_first(ms(300)));
        assert!(picker.is_slower_than_first(ms(600)));
        gets(&mut picker, AHEAD, 0..20);
        let index = picker.pick(AHEAD, ms(600), &mut random).unwrap();
        picker.arrived(AHEAD, index, ms(700));
        assert!(!picker.is_slower_than_first(ms(800)));
    }

    #[test]
    fn what_the_one_before_owes_is_asked_of_the_new_one_first() {
        let (mut picker, mut random) = picker(None);
        gets(&mut picker, AHEAD, 0..1);
        assert_eq!(picker.pick(AHEAD, ms(0), &mut random), Some(ChunkIndex(0)));
        gets(&mut picker, OTHER, 0..9);
        picker.follow(Some(OTHER), None, ms(0));
        assert_eq!(picker.pick(OTHER, ms(0), &mut random), Some(ChunkIndex(0)));
        assert_ne!(picker.pick(OTHER, ms(0), &mut random), Some(ChunkIndex(0)));
    }

    #[test]
    fn a_first_holder_that_has_given_its_chunks_up_is_not_kept_to() {
        let (mut picker, mut random) = picker(None);
        picker.follow(Some(FIRST), None, ms(0));
        gets(&mut picker, OTHER, 0..100);
        assert_eq!(picker.pick(OTHER, ms(0), &mut random), None);
        (0..100).for_each(|index| picker.refused(FIRST, ChunkIndex(index)));
        assert!(picker.pick(OTHER, ms(0), &mut random).is_some());
    }

    #[test]
    fn nobody_is_asked_while_the_one_ahead_is_being_connected_to() {
        let mut picker = Picker::new(HaveMap::none(9), true);
        let mut random = fastrand::Rng::with_seed(1);
        picker.add_source(FIRST, HaveMap::all(9), ms(0));
        picker.expect_upstream(ms(0));
        assert_eq!(picker.pick(FIRST, ms(1), &mut random), None);
        assert!(picker.pick(FIRST, AWAITED, &mut random).is_some(), "it takes too long");
    }
}
