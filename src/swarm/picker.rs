//! Chunk picker: which chunk to request from which source next.
//!
//! Rarest first, ties broken at random. Each chunk is requested from one source at a time until all wanted
//! chunks are in flight; then endgame begins and late chunks are requested from a second or third source.
//! When a source fails, its chunks in flight are open again at once.
//!
//! Invariants: a verified chunk is never picked; no chunk is requested twice from one source at a time; the
//! open chunks are exactly those that are wanted, not verified and not in flight.

mod in_order;
mod open;
mod upstream;

use super::Moment;
use super::trees::stripe_of;
use crate::content::limits::{
    ENDGAME_COPIES_MAX, PIPELINE_BATCH_TIME_MAX, PIPELINE_BATCHES_MAX, PIPELINE_LONG_RTT_MAX, PIPELINE_MIN,
    PIPELINE_SHARE_MIN, VERIFY_PAUSE_MAX,
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

/// Hash function for source ids. They are assigned by this program, so no defence against collision attacks
/// is needed.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The table takes the slot from the low bits and tells keys in one slot apart by the high bits.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Assumed chunk time of a source that has not delivered any chunk yet.
const CHUNK_TIME_UNKNOWN: Duration = Duration::from_secs(1);
/// Endgame: a chunk in flight is late after this many times the chunk time plus RTT of the source that would
/// repeat it.
const LATE_FACTOR: u32 = 2;
/// Lower limit for "late": on fast links the chunk time is shorter than scheduling delays.
const LATE_TIMEOUT_MIN: Duration = Duration::from_millis(200);
/// Factor on the late limit for a source that should be spared, as the only holder of some chunks.
const SPARED_LATE_FACTOR: u32 = 4;
/// A source is asked for more than one chunk at once while fewer other sources than this are busy.
const BUSY_SOURCES_MIN: usize = 3;
/// Sources that are asked at once for the chunks of a stripe while its predecessor does not keep up.
const HELPERS_MAX: usize = 2;
/// RTT below which the pipeline depth ignores the RTT.
const SHORT_RTT_MAX: Duration = Duration::from_millis(10);
/// Chunks that a verifier hashes at once, unless [`Picker::set_batch`] sets another number.
const BATCH_DEFAULT: usize = 4;
/// Maximum number of hints kept for one source.
const HINTS_MAX: usize = 64;

struct Source {
    have: Bitfield,
    /// Number of chunks that it had when it appeared.
    had: u32,
    /// Number of its chunks in each stripe.
    counts: Counts,
    /// Chunks that it hinted: it prefers requests for these.
    hints: Vec<ChunkIndex>,
    /// Whether its chunks count for rarity: it has never had all of them.
    partial: bool,
    /// Whether it was complete when it appeared. Only such a source has the chunks that no other source has,
    /// so it is spared for these while other sources are busy.
    origin: bool,
    /// Whether it sends hints (super-seeding).
    steers: bool,
    flights: Vec<(ChunkIndex, Moment)>,
    /// Moving average of the time from one arrival (or from the request plus RTT) to the next.
    chunk_time: Option<Duration>,
    /// RTT: time from a request to the first byte of its response on an idle connection.
    rtt: Duration,
    last_arrival: Moment,
    /// When it last gained a chunk.
    gained: Moment,
    /// When the last bytes of a chunk arrived from it.
    heard: Moment,
}

impl Source {
    /// Time after which a chunk in flight elsewhere is late from the view of this source: twice its chunk
    /// time plus RTT.
    fn patience(&self) -> Duration {
        ((self.chunk_time.unwrap_or(CHUNK_TIME_UNKNOWN) + self.rtt) * LATE_FACTOR).max(LATE_TIMEOUT_MIN)
    }

    /// Whether it has had no request outstanding for at least one chunk time.
    fn is_left_alone(&self, now: Moment) -> bool {
        let pause = self.chunk_time.unwrap_or_default().max(LATE_TIMEOUT_MIN);
        self.flights.is_empty() && now.saturating_sub(self.last_arrival) >= pause
    }
}

/// State of a download that decides which source gets the next request, and for which chunk.
pub struct Picker {
    done: Bitfield,
    wanted: Bitfield,
    open: Open,
    /// Number of partial sources that have each chunk.
    rarity: Vec<u32>,
    sources: HashMap<SourceId, Source, BuildHasherDefault<IdHasher>>,
    /// Number of sources with chunks in flight.
    busy: usize,
    /// Lower bound for the request times of all chunks in flight that are not verified.
    oldest: Cell<Moment>,
    /// Sources that each chunk in flight was requested from.
    flights: BTreeMap<ChunkIndex, Vec<SourceId>>,
    /// Predecessors in the rings, which are asked before all other sources.
    upstreams: Upstreams,
    /// When the first source appeared.
    began: Option<Moment>,
    /// Whether chunks are picked in the order of the file.
    in_order: bool,
    /// Whether further chunks will be wanted.
    expects_more: bool,
    /// Whether a chunk is not late while bytes arrive from a source that it was requested from.
    is_patient: bool,
    /// Chunks that the verifier hashes at once.
    batch: usize,
}

impl Picker {
    /// A picker for the chunks that `done` lacks. With `all`, all of them are wanted from the start;
    /// otherwise each is wanted once [`want`](Self::want) names it.
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
            in_order: false,
            expects_more: false,
            is_patient: false,
            batch: BATCH_DEFAULT,
            done,
        };
        if all {
            let missing: Vec<ChunkIndex> = picker.done.missing().collect();
            missing.into_iter().for_each(|index| picker.want(index));
        }
        picker
    }

    /// Sets the number of chunks that the verifier hashes at once; fast sources get requests for full batches.
    pub fn set_batch(&mut self, batch: usize) {
        self.batch = batch.max(1);
    }

    /// Lets no chunk count as late while bytes arrive from a source that it was requested from: chunks are so large that
    /// a second copy would take much longer than the rest of the first.
    pub fn wait_while_bytes_arrive(&mut self) {
        self.is_patient = true;
    }

    /// Marks a chunk as wanted, even if it counted as verified before.
    pub fn want(&mut self, index: ChunkIndex) {
        if self.done.remove(index) {
            // It may still be in flight.
            self.oldest.set(Moment::ZERO);
            self.upstreams.done.shift(index, -1);
        }
        if index.0 < self.done.count() {
            self.wanted.insert(index);
            self.reopen(index);
        }
    }

    /// The verified chunks.
    pub fn done(&self) -> &Bitfield {
        &self.done
    }

    /// Whether all wanted chunks are verified.
    pub fn is_complete(&self) -> bool {
        !self.expects_more && self.is_idle()
    }

    /// Adds a source with its bitfield.
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
            chunk_time: None,
            rtt: Duration::ZERO,
            last_arrival: now,
            gained: now,
            heard: now,
        };
        self.sources.insert(id, source);
    }

    /// Sets the RTT of a source. Until it is known, it counts as zero.
    pub fn set_rtt(&mut self, id: SourceId, time: Duration) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.rtt = time;
        }
    }

    /// Notes that bytes of a chunk have arrived from a source.
    pub fn heard(&mut self, id: SourceId, now: Moment) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.heard = now;
        }
    }

    /// Whether a source lacks some chunk.
    pub fn is_partial(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| source.partial)
    }

    /// Number of chunks that a source has.
    pub fn held_by(&self, id: SourceId) -> u32 {
        self.sources.get(&id).map_or(0, |source| source.have.held())
    }

    /// Whether a source was complete when it appeared.
    pub fn has_had_all(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| source.origin)
    }

    /// Adds a chunk to a source that has it, or begins to receive it, so that it can be requested there.
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
        // A complete source does not count for rarity.
        source.partial = false;
        let others = (0..self.done.count()).map(ChunkIndex).filter(|other| *other != index);
        others.for_each(|other| self.shift_rarity(other, -1));
    }

    /// Removes a source. Its chunks in flight are open again.
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

    /// Picks the next chunk to request from a source and marks it as in flight. `None` if the source has no
    /// chunk that is needed now, or has enough requests outstanding. Among equally rare chunks,
    /// [hinted](Self::hint) ones go first.
    pub fn pick(&mut self, id: SourceId, now: Moment, random: &mut fastrand::Rng) -> Option<ChunkIndex> {
        let source = self.sources.get(&id)?;
        if source.flights.len() >= self.depth(id, source) {
            return None;
        }
        if self.in_order {
            return self.first_open(id, now);
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
        // A chunk that a partial source has is held by at least one source.
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

    /// Number of requests that a source may have outstanding. A queued request saves one RTT but delays its
    /// chunk for all other sources, so more than one pays only while few other sources are busy, or where a
    /// chunk takes less time than its request: on fast local links, or at a high RTT.
    fn depth(&self, id: SourceId, source: &Source) -> usize {
        let least = if self.upstreams.has(id) || self.few_others_busy(source) { PIPELINE_MIN } else { 1 };
        let Some(chunk_time) = source.chunk_time else { return least };
        let chunk_time = chunk_time.as_nanos().max(1);
        let limited = |count: u128, most: usize| usize::try_from(count).unwrap_or(most).min(most);
        let in_flight = PIPELINE_BATCH_TIME_MAX.as_nanos() * self.batch as u128;
        let fast = match chunk_time < VERIFY_PAUSE_MAX.as_nanos() {
            true => PIPELINE_BATCHES_MAX * self.batch,
            false => limited(in_flight / chunk_time, PIPELINE_BATCHES_MAX * self.batch),
        };
        // A fast source must not get all chunks that are left while others have them, too.
        let share = (self.open.map.held() as usize + self.flights.len()) / self.sources.len();
        let fast = fast.min(share.max(PIPELINE_SHARE_MIN));
        if source.rtt < SHORT_RTT_MAX {
            return least.max(fast);
        }
        // One chunk in transfer plus as many as arrive within one RTT. While requests limit the rate, the
        // measured chunk time is RTT / depth, which hides that the link could carry more: hence twice the
        // RTT.
        let far = limited((source.rtt * 2).as_nanos().div_ceil(chunk_time) + 1, PIPELINE_LONG_RTT_MAX);
        least.max(fast).max(far)
    }

    fn busy(&self) -> usize {
        self.busy
    }

    fn few_others_busy(&self, source: &Source) -> bool {
        self.busy() - usize::from(!source.flights.is_empty()) < BUSY_SOURCES_MIN
    }

    /// Whether a source may be asked for a chunk that other sources have as well.
    fn may_give(&self, id: SourceId, source: &Source, now: Moment) -> bool {
        !source.origin || self.upstreams.has(id) || source.is_left_alone(now) || self.few_others_busy(source)
    }

    /// Notes chunks for which a source prefers requests (super-seeding).
    pub fn hint(&mut self, id: SourceId, hints: &[ChunkIndex]) {
        if let Some(source) = self.sources.get_mut(&id) {
            source.steers = true;
            let room = HINTS_MAX.saturating_sub(source.hints.len());
            source.hints.extend(hints.iter().take(room));
        }
    }

    /// Endgame: the chunk that has been in flight longest, if this source is expected to deliver it sooner. A
    /// source that is not `allowed`, because a predecessor delivers these chunks, waits longer before it
    /// repeats one.
    fn late(&self, id: SourceId, source: &Source, allowed: Allowed, now: Moment) -> Option<ChunkIndex> {
        // Usually no chunk is late; this check avoids the scan.
        let least = source.patience();
        if now.saturating_sub(self.oldest.get()) < least {
            return None;
        }
        let spared = source.origin && self.sources.values().any(|source| source.partial);
        let patience =
            |index: &ChunkIndex| match !allowed.has(*index) || spared && !source.hints.contains(index) {
                true => least * SPARED_LATE_FACTOR,
                false => least,
            };
        let mut oldest = Moment::MAX;
        let mut late = None;
        for (index, from) in self.flights.iter().filter(|(index, _)| !self.done.has(**index)) {
            let Some((first, since)) = self.asked(*index, from) else { continue };
            oldest = oldest.min(first);
            let asks = from.len() < ENDGAME_COPIES_MAX && !from.contains(&id) && source.have.has(*index);
            let asks = asks && !(self.is_patient && self.is_arriving(from, least, now));
            if asks && now.saturating_sub(since) >= patience(index) {
                late = late.into_iter().chain([(since, *index)]).min();
            }
        }
        self.oldest.set(oldest);
        late.map(|(_, index)| index)
    }

    /// Whether bytes have arrived from one of these sources within a time.
    fn is_arriving(&self, from: &[SourceId], within: Duration, now: Moment) -> bool {
        let sources = from.iter().filter_map(|id| self.sources.get(id));
        sources.map(|source| now.saturating_sub(source.heard)).any(|quiet| quiet < within)
    }

    /// First and last time at which a chunk in flight was requested.
    fn asked(&self, index: ChunkIndex, from: &[SourceId]) -> Option<(Moment, Moment)> {
        let flights = from.iter().filter_map(|id| self.sources.get(id)).flat_map(|source| &source.flights);
        let times = flights.filter(|(flying, _)| *flying == index).map(|(_, since)| (*since, *since));
        times.reduce(|one, two| (one.0.min(two.0), one.1.max(two.1)))
    }

    /// The oldest outstanding chunk of a source and its waiting time, if that is far longer than expected.
    pub fn overdue(&self, id: SourceId, now: Moment) -> Option<(ChunkIndex, Duration)> {
        let source = self.sources.get(&id)?;
        let (index, since) = source.flights.first()?;
        let waited = now.saturating_sub(source.last_arrival.max(*since));
        (waited >= source.patience().max(CHUNK_TIME_UNKNOWN)).then_some((*index, waited))
    }

    /// As [`arrived`](Self::arrived), for chunks that were verified together: they have arrived one after the other since
    /// the last arrival from their source.
    pub fn arrived_together(&mut self, id: SourceId, chunks: &[ChunkIndex], now: Moment) -> Vec<bool> {
        let last = self.sources.get(&id).map_or(now, |source| source.last_arrival);
        let count = chunks.len() as u32;
        let at = |place: u32| last + now.saturating_sub(last) * (place + 1) / count;
        (0..).zip(chunks).map(|(place, index)| self.arrived(id, *index, at(place))).collect()
    }

    /// Marks a chunk as received and verified. Returns whether it is new: another source may have delivered
    /// it before.
    pub fn arrived(&mut self, id: SourceId, index: ChunkIndex, now: Moment) -> bool {
        let mut chunk_time = None;
        if let Some(since) = self.land(id, index)
            && let Some(source) = self.sources.get_mut(&id)
        {
            // A request to an idle source takes a whole RTT before data arrives.
            let way = if since >= source.last_arrival { source.rtt } else { Duration::ZERO };
            let took = now.saturating_sub(since.max(source.last_arrival)).saturating_sub(way);
            chunk_time = Some(source.chunk_time.map_or(took, |chunk_time| (chunk_time * 3 + took) / 4));
            (source.chunk_time, source.last_arrival) = (chunk_time, now);
        }
        self.upstreams.arrived(id, index, chunk_time, now);
        self.open.take(index);
        let is_new = self.is_done(index);
        self.note_gaps(stripe_of(index, self.upstreams.stripes()));
        is_new
    }

    /// Handles a refusal: the source is not asked for this chunk again until it announces it.
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

    /// Marks a chunk as available from elsewhere than a source of this download.
    pub fn have(&mut self, index: ChunkIndex) {
        self.open.take(index);
        self.is_done(index);
    }

    /// Marks a chunk as verified. Returns whether it is new.
    fn is_done(&mut self, index: ChunkIndex) -> bool {
        let is_new = self.done.insert(index);
        if is_new {
            self.upstreams.done.shift(index, 1);
        }
        is_new
    }

    /// Whether a source is busy or has a chunk that is needed.
    pub fn is_useful(&self, id: SourceId) -> bool {
        let needed = |have: &Bitfield| {
            let mut flying = self.flights.keys();
            self.open.map.intersects(have) || flying.any(|index| have.has(*index) && !self.done.has(*index))
        };
        self.sources.get(&id).is_some_and(|source| !source.flights.is_empty() || needed(&source.have))
    }

    /// Number of chunks in flight from a source.
    pub fn in_flight(&self, id: SourceId) -> usize {
        self.sources.get(&id).map_or(0, |source| source.flights.len())
    }

    /// The wanted chunks that no source has.
    pub fn unavailable(&self) -> impl Iterator<Item = ChunkIndex> + '_ {
        let nowhere = |index: &ChunkIndex| !self.sources.values().any(|source| source.have.has(*index));
        self.done.missing().filter(|index| self.wanted.has(*index)).filter(nowhere)
    }

    /// Removes a chunk from the chunks in flight of a source. Returns its request time.
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
