//! Which chunk to ask of which source next.
//!
//! Rarest first with random ties. A chunk is asked of one source at a time, until every wanted chunk is on
//! its way: then those that are late are asked of others too. What a source that has failed held goes back to the
//! open chunks at once.
//!
//! Invariants: a chunk that is done is never picked; no source is asked twice for one chunk at a time; the open
//! chunks are exactly those that are wanted, not done and not on their way.

mod open;
mod upstream;

use super::Moment;
use super::trees::stripe_of;
use crate::content::limits::{
    ENDGAME_COPIES_MAX, PIPELINE_LONG_RTT_MAX, PIPELINE_MAX, PIPELINE_MIN, PIPELINE_TIME_MAX,
};
use crate::content::{Bitfield, ChunkIndex};
use open::Open;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;
use upstream::{Allowed, Counts, Upstreams};

pub use upstream::{Place, STRIPES_MAX};

/// A source of a download.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceId(pub u32);

/// Sources are looked up at every turn, and numbered by this program itself: no need to defend their table.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The table takes its places from the low bits, and tells those of one place apart by the high ones.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// How long a source that has delivered nothing yet is thought to need for a chunk.
const PACE_UNKNOWN: Duration = Duration::from_secs(1);
/// A chunk on its way is asked of another source once it takes this many times what that source needs.
const LATE: u32 = 2;
/// Nothing is late before this: on fast links the pace is shorter than what the system's scheduling adds.
const LATE_MIN: Duration = Duration::from_millis(200);
/// How many times later than others a source is asked for what is late that has what nobody else has.
const SPARED: u32 = 4;
/// While fewer other sources than this are busy, a source is asked for more than one chunk at once.
const FEW_SOURCES: usize = 3;
/// Sources that are asked at once in a line, when the one ahead does not keep up.
const HELPERS: usize = 2;
/// The way to a source and back takes no time to speak of when it takes less than this.
const NEAR: Duration = Duration::from_millis(10);
/// Hints of one source that are kept.
const HINTS_MAX: usize = 64;

struct Source {
    have: Bitfield,
    /// How many chunks it had when it appeared.
    had: u32,
    /// How many chunks of each stripe those are.
    counts: Counts,
    /// What it would like to be asked for.
    hints: Vec<ChunkIndex>,
    /// Whether its chunks count for rarity: it has never had all of them.
    partial: bool,
    /// Whether it had all of them when it appeared. From such a source come the chunks that nobody else has: as long
    /// as others are busy it is spared for these.
    origin: bool,
    /// Whether it says what it would like to be asked for.
    steers: bool,
    flights: Vec<(ChunkIndex, Moment)>,
    /// Moving average of the time from one arrival (or the request, and the way there and back) to the next.
    pace: Option<Duration>,
    /// How long a request and the beginning of its answer take, however fast the link is.
    round_trip: Duration,
    last_arrival: Moment,
    /// When it last had one more chunk.
    gained: Moment,
    /// When something of a chunk has last come from it.
    heard: Moment,
}

impl Source {
    /// Twice the time that it needs for a chunk, about.
    fn patience(&self) -> Duration {
        ((self.pace.unwrap_or(PACE_UNKNOWN) + self.round_trip) * LATE).max(LATE_MIN)
    }

    /// Whether nothing has been asked of it for as long as a chunk takes.
    fn is_left_alone(&self, now: Moment) -> bool {
        let pause = self.pace.unwrap_or_default().max(LATE_MIN);
        self.flights.is_empty() && now.saturating_sub(self.last_arrival) >= pause
    }
}

/// Decides what to ask of whom.
pub struct Picker {
    done: Bitfield,
    wanted: Bitfield,
    open: Open,
    /// How many partial sources have each chunk.
    rarity: Vec<u32>,
    sources: HashMap<SourceId, Source, BuildHasherDefault<IdHasher>>,
    /// How many of them have something on its way.
    busy: usize,
    /// Nothing that is on its way and not done was asked for before.
    oldest: Cell<Moment>,
    /// The sources that each chunk is on its way from.
    flights: BTreeMap<ChunkIndex, Vec<SourceId>>,
    /// Who is to be asked before all others, if anybody is.
    upstreams: Upstreams,
    /// When the first source appeared.
    began: Option<Moment>,
}

impl Picker {
    /// A picker for the chunks that `done` does not have. With `all` every one of them is wanted from the start;
    /// without, each is once [`want`](Self::want) names it.
    pub fn new(done: Bitfield, all: bool) -> Self {
        let count = done.count();
        let mut picker = Self {
            wanted: Bitfield::none(count),
            open: Open::new(count),
            rarity: vec![0; count as usize],
            sources: HashMap::default(),
            busy: 0,
            oldest: Cell::new(Moment::MAX),
            flights: BTreeMap::new(),
            upstreams: Upstreams::new(&done, 1),
            began: None,
            done,
        };
        if all {
            let missing: Vec<ChunkIndex> = picker.done.missing().collect();
            missing.into_iter().for_each(|index| picker.want(index));
        }
        picker
    }

    /// A chunk is wanted, also if it was thought to be done.
    pub fn want(&mut self, index: ChunkIndex) {
        if self.done.remove(index) {
            // It may be on its way still.
            self.oldest.set(Moment::ZERO);
            self.upstreams.done.shift(index, -1);
        }
        if index.0 < self.done.count() {
            self.wanted.insert(index);
            self.reopen(index);
        }
    }

    /// Which chunks are done.
    pub fn done(&self) -> &Bitfield {
        &self.done
    }

    /// Whether nothing is wanted that is not done.
    pub fn is_complete(&self) -> bool {
        self.open.map.held() == 0 && self.flights.keys().all(|index| self.done.has(*index))
    }

    /// A source has appeared, with what it has.
    pub fn add_source(&mut self, id: SourceId, have: Bitfield, now: Moment) {
        self.remove_source(id);
        self.began.get_or_insert(now);
        let partial = !have.is_complete();
        if partial {
            have.iter().for_each(|index| self.shift_rarity(index, 1));
        }
        let (hints, flights) = (Vec::new(), Vec::new());
        let source = Source {
            counts: Counts::of(&have, self.upstreams.stripes()),
            had: have.held(),
            have,
            hints,
            partial,
            origin: !partial,
            steers: false,
            flights,
            pace: None,
            round_trip: Duration::ZERO,
            last_arrival: now,
            gained: now,
            heard: now,
        };
        self.sources.insert(id, source);
    }

    /// How long it takes at least until the answer of a source begins. While nothing is known it is near.
    pub fn set_round_trip(&mut self, id: SourceId, time: Duration) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.round_trip = time;
        }
    }

    /// Something of a chunk has come from a source.
    pub fn heard(&mut self, id: SourceId, now: Moment) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.heard = now;
        }
    }

    /// Whether a source lacks something.
    pub fn is_partial(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| source.partial)
    }

    /// How many chunks a source has.
    pub fn held_by(&self, id: SourceId) -> u32 {
        self.sources.get(&id).map_or(0, |source| source.have.held())
    }

    /// Whether a source had everything when it appeared.
    pub fn has_had_all(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| source.origin)
    }

    /// A source has one more chunk, or begins to receive it: it can be asked for it.
    pub fn source_has(&mut self, id: SourceId, index: ChunkIndex, now: Moment) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if !source.have.insert(index) {
            return;
        }
        source.gained = now;
        source.counts.shift(index, 1);
        if !source.partial {
            return;
        }
        if !source.have.is_complete() {
            return self.shift_rarity(index, 1);
        }
        // From now on it does not count, like any source that has everything.
        source.partial = false;
        let others = (0..self.done.count()).map(ChunkIndex).filter(|other| *other != index);
        others.for_each(|other| self.shift_rarity(other, -1));
    }

    /// A source is gone; what it held is open again.
    pub fn remove_source(&mut self, id: SourceId) {
        let Some(source) = self.sources.remove(&id) else { return };
        self.busy -= usize::from(!source.flights.is_empty());
        self.upstreams.lose(id);
        if source.partial {
            source.have.iter().for_each(|index| self.shift_rarity(index, -1));
        }
        for (index, _) in source.flights {
            self.land(id, index);
            self.reopen(index);
        }
    }

    /// The next chunk to ask of a source, noted as on its way. `None` when it has nothing that is needed now,
    /// or enough to do. Among equally rare ones those that the source has [hinted](Self::hint) at go first.
    pub fn pick(&mut self, id: SourceId, now: Moment, random: &mut fastrand::Rng) -> Option<ChunkIndex> {
        let source = self.sources.get(&id)?;
        if source.flights.len() >= self.depth(id, source) {
            return None;
        }
        let allowed = self.allowed(id, source, now);
        if allowed.is_none() {
            let late = (allowed.is_kept_from && self.open.map.held() == 0)
                .then(|| self.late(id, source, allowed, now));
            return late.flatten().and_then(|index| self.take_off(id, index, now));
        }
        if let Some(index) = self.owed_before(id, source) {
            return self.take_off(id, index, now);
        }
        // What a partial source has is had by one at least.
        let least = usize::from(source.partial);
        let fresh = |index: &&ChunkIndex| {
            self.open.rarity(**index) == Some(0) && source.have.has(**index) && allowed.has(**index)
        };
        let index = match source.hints.iter().find(fresh) {
            Some(hint) => *hint,
            None => match self.open.rarest(&source.have, least, |index| allowed.has(index), random) {
                Some((rarity, _)) if (rarity > 0 || source.steers) && !self.may_give(id, source, now) => {
                    return None;
                }
                Some((_, any)) => any,
                None => self.late(id, source, allowed, now)?,
            },
        };
        self.take_off(id, index, now)
    }

    fn take_off(&mut self, id: SourceId, index: ChunkIndex, now: Moment) -> Option<ChunkIndex> {
        self.open.take(index);
        self.flights.entry(index).or_default().push(id);
        self.upstreams.asked(id, index, now);
        let source = self.sources.get_mut(&id)?;
        self.busy += usize::from(source.flights.is_empty());
        self.oldest.set(self.oldest.get().min(now));
        source.flights.push((index, now));
        source.hints.retain(|hint| *hint != index && !self.done.has(*hint));
        Some(index)
    }

    /// How many chunks a source is asked for at once. A chunk that waits behind another one is of no use to anybody;
    /// it saves a round trip, which matters only where few others fill it, or where a chunk takes less time than a
    /// request takes to get there: through the threads of two busy machines, or over a long way.
    fn depth(&self, id: SourceId, source: &Source) -> usize {
        let least = if self.upstreams.has(id) || self.few_others_busy(source) { PIPELINE_MIN } else { 1 };
        let Some(pace) = source.pace else { return least };
        let pace = pace.as_nanos().max(1);
        let limited = |count: u128, most: usize| usize::try_from(count).unwrap_or(most).min(most);
        let fast = limited(PIPELINE_TIME_MAX.as_nanos() / pace, PIPELINE_MAX);
        if source.round_trip < NEAR {
            return least.max(fast);
        }
        // One that is coming, and as many as come in a round trip. As long as requests are what it waits for that is as
        // many as it is asked for: it takes more to find out whether there could be more.
        let far = limited((source.round_trip * 2).as_nanos().div_ceil(pace) + 1, PIPELINE_LONG_RTT_MAX);
        least.max(fast).max(far)
    }

    fn busy(&self) -> usize {
        self.busy
    }

    fn few_others_busy(&self, source: &Source) -> bool {
        self.busy() - usize::from(!source.flights.is_empty()) < FEW_SOURCES
    }

    /// Whether a source may be asked for what others can give as well.
    fn may_give(&self, id: SourceId, source: &Source, now: Moment) -> bool {
        !source.origin || self.upstreams.has(id) || source.is_left_alone(now) || self.few_others_busy(source)
    }

    /// A source names chunks that it would like to be asked for, among equals.
    pub fn hint(&mut self, id: SourceId, hints: &[ChunkIndex]) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.steers = true;
            let room = HINTS_MAX.saturating_sub(source.hints.len());
            source.hints.extend(hints.iter().take(room));
        }
    }

    /// The chunk that has been on its way longest, if this source can be expected to be faster. Where it is not
    /// `allowed`, since another one is kept to and gives, it is only in the way.
    fn late(&self, id: SourceId, source: &Source, allowed: Allowed, now: Moment) -> Option<ChunkIndex> {
        // Most of the time nothing is, which is seen without a look at everything.
        let least = source.patience();
        if now.saturating_sub(self.oldest.get()) < least {
            return None;
        }
        let spared = source.origin && self.sources.values().any(|source| source.partial);
        let patience =
            |index: &ChunkIndex| match !allowed.has(*index) || spared && !source.hints.contains(index) {
                true => least * SPARED,
                false => least,
            };
        let mut oldest = Moment::MAX;
        let mut late = None;
        for (index, from) in self.flights.iter().filter(|(index, _)| !self.done.has(**index)) {
            let Some((first, since)) = self.asked(*index, from) else { continue };
            oldest = oldest.min(first);
            let asks = from.len() < ENDGAME_COPIES_MAX && !from.contains(&id) && source.have.has(*index);
            if asks && now.saturating_sub(since) >= patience(index) {
                late = late.into_iter().chain([(since, *index)]).min();
            }
        }
        self.oldest.set(oldest);
        late.map(|(_, index)| index)
    }

    /// When a chunk was asked of those from whom it is on its way: first, and last.
    fn asked(&self, index: ChunkIndex, from: &[SourceId]) -> Option<(Moment, Moment)> {
        let flights = from.iter().filter_map(|id| self.sources.get(id)).flat_map(|source| &source.flights);
        let times = flights.filter(|(flying, _)| *flying == index).map(|(_, since)| (*since, *since));
        times.reduce(|one, two| (one.0.min(two.0), one.1.max(two.1)))
    }

    /// The chunk that a source owes, and for how long by now, if that is far longer than it can be expected to take.
    pub fn overdue(&self, id: SourceId, now: Moment) -> Option<(ChunkIndex, Duration)> {
        let source = self.sources.get(&id)?;
        let (index, since) = source.flights.first()?;
        let waited = now.saturating_sub(source.last_arrival.max(*since));
        (waited >= source.patience().max(PACE_UNKNOWN)).then_some((*index, waited))
    }

    /// A chunk has arrived and is verified. Returns whether that is news: it may have come from another
    /// source before.
    pub fn arrived(&mut self, id: SourceId, index: ChunkIndex, now: Moment) -> bool {
        let mut pace = None;
        if let Some(since) = self.land(id, index)
            && let Some(source) = self.sources.get_mut(&id)
        {
            // What an idle source is asked for has the whole way to go first.
            let way = if since >= source.last_arrival { source.round_trip } else { Duration::ZERO };
            let took = now.saturating_sub(since.max(source.last_arrival)).saturating_sub(way);
            pace = Some(source.pace.map_or(took, |pace| (pace * 3 + took) / 4));
            (source.pace, source.last_arrival) = (pace, now);
        }
        self.upstreams.arrived(id, index, pace, now);
        self.open.take(index);
        let is_new = self.is_done(index);
        self.note_gaps(stripe_of(index, self.upstreams.stripes()));
        is_new
    }

    /// A source will not deliver a chunk that it was asked for. It is not asked for it again until it says that it
    /// has it.
    pub fn refused(&mut self, id: SourceId, index: ChunkIndex) {
        self.land(id, index);
        if let Some(source) = self.sources.get_mut(&id) {
            let partial = source.partial;
            if source.have.remove(index) {
                source.counts.shift(index, -1);
                if partial {
                    self.shift_rarity(index, -1);
                }
            }
        }
        self.reopen(index);
    }

    /// A chunk is there by other ways than a source of this download.
    pub fn have(&mut self, index: ChunkIndex) {
        self.open.take(index);
        self.is_done(index);
    }

    /// Notes that a chunk is there. Returns whether that is news.
    fn is_done(&mut self, index: ChunkIndex) -> bool {
        let is_new = self.done.insert(index);
        if is_new {
            self.upstreams.done.shift(index, 1);
        }
        is_new
    }

    /// Whether a source is busy, or has a chunk that is needed.
    pub fn is_useful(&self, id: SourceId) -> bool {
        let needed = |have: &Bitfield| {
            let mut flying = self.flights.keys();
            self.open.map.intersects(have) || flying.any(|index| have.has(*index) && !self.done.has(*index))
        };
        self.sources.get(&id).is_some_and(|source| !source.flights.is_empty() || needed(&source.have))
    }

    /// How many chunks are on their way from a source.
    pub fn in_flight(&self, id: SourceId) -> usize {
        self.sources.get(&id).map_or(0, |source| source.flights.len())
    }

    /// The wanted chunks that no source has.
    pub fn unavailable(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        let nowhere = |index: &ChunkIndex| !self.sources.values().any(|source| source.have.has(*index));
        self.done.missing().filter(|index| self.wanted.has(*index)).filter(nowhere)
    }

    /// Takes a chunk off a source's flights; returns when it was asked for.
    fn land(&mut self, id: SourceId, index: ChunkIndex) -> Option<Moment> {
        if let Some(from) = self.flights.get_mut(&index) {
            from.retain(|source| *source != id);
            if from.is_empty() {
                self.flights.remove(&index);
            }
        }
        let flights = &mut self.sources.get_mut(&id)?.flights;
        let at = flights.iter().position(|(flying, _)| *flying == index)?;
        let (_, since) = flights.remove(at);
        self.busy -= usize::from(flights.is_empty());
        Some(since)
    }

    fn reopen(&mut self, index: ChunkIndex) {
        if self.wanted.has(index) && !self.done.has(index) && !self.flights.contains_key(&index) {
            self.open.put(index, self.rarity[index.at()]);
        }
    }

    fn shift_rarity(&mut self, index: ChunkIndex, by: i32) {
        let Some(rarity) = self.rarity.get_mut(index.at()) else { return };
        *rarity = rarity.saturating_add_signed(by);
        if self.open.contains(index) {
            self.open.put(index, self.rarity[index.at()]);
        }
    }
}

#[cfg(test)]
mod tests;
