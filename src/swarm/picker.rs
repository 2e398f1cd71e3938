//! Chunk picker: which chunk to request from which source next.
//!
//! Chunks that the source has completely before chunks that it is receiving, then rarest first, ties broken at random.
//! Each chunk is requested from one source at a time until all wanted chunks are in flight; then endgame begins and
//! late chunks are requested from a second or third source, which has them completely: two sources that relay a chunk
//! to each other would wait for each other. When a source fails, its chunks in flight are open again at once.
//!
//! Invariants: a verified chunk is never picked; no chunk is requested twice from one source at a time; the
//! open chunks are exactly those that are wanted, not verified and not in flight.

mod in_order;
mod open;
mod sites;
mod super_seeded;

use super::Moment;
use crate::content::limits::{
    ENDGAME_COPIES_MAX, PIPELINE_BATCH_TIME_MAX, PIPELINE_BATCHES_MAX, PIPELINE_FAST_TIME,
    PIPELINE_LONG_RTT_MAX, PIPELINE_MIN, PIPELINE_SHARE_MIN, PIPELINE_SMALL_BATCHES_MAX, VERIFY_PAUSE_MAX,
};
use crate::content::{Bitfield, ChunkIndex};
use open::Open;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

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
/// RTT below which the pipeline depth ignores the RTT.
const SHORT_RTT_MAX: Duration = Duration::from_millis(10);
/// Chunks that a verifier hashes at once, unless [`Picker::set_batch`] sets another number.
const BATCH_DEFAULT: usize = 4;

struct Source {
    /// Chunks that it has or is receiving, and those that it has completely.
    have: Bitfield,
    whole: Bitfield,
    /// Whether its chunks count for rarity: it has never had all of them.
    partial: bool,
    /// Number of chunks that it had when it appeared, and of those that this download had received by then.
    had: u32,
    received_before: u32,
    /// Whether it chooses the chunks that it sends (super-seeding), and the requests for such chunks in flight.
    chooses: bool,
    nexts: usize,
    /// Whether it is in the site of this peer, and the rings in which it is a predecessor: a bit for each.
    is_near: bool,
    rings: u8,
    flights: Vec<(ChunkIndex, Moment)>,
    /// Moving average of the time from one arrival (or from the request plus RTT) to the next.
    chunk_time: Option<Duration>,
    /// RTT: time from a request to the first byte of its response on an idle connection.
    rtt: Duration,
    last_arrival: Moment,
    /// When the last bytes of a chunk arrived from it.
    heard: Moment,
}

impl Source {
    /// Time after which a chunk in flight elsewhere is late from the view of this source: twice its chunk
    /// time plus RTT.
    fn patience(&self) -> Duration {
        ((self.chunk_time.unwrap_or(CHUNK_TIME_UNKNOWN) + self.rtt) * LATE_FACTOR).max(LATE_TIMEOUT_MIN)
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
    /// Lower bound for the request times of all chunks in flight that are not verified.
    oldest: Cell<Moment>,
    /// Sources that each chunk in flight was requested from.
    flights: BTreeMap<ChunkIndex, Vec<SourceId>>,
    /// Number of chunks received, and the time of the last one.
    received: u32,
    received_at: Moment,
    /// Further requests in flight to each source.
    boost: usize,
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
            oldest: Cell::new(Moment::MAX),
            flights: BTreeMap::new(),
            received: 0,
            received_at: Moment::ZERO,
            boost: 0,
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
        if self.sources.is_empty() {
            self.received_at = now;
        }
        let partial = !have.is_complete();
        if partial {
            have.iter().for_each(|index| self.shift_rarity(index, 1));
        }
        let source = Source {
            had: have.held(),
            whole: have.clone(),
            have,
            partial,
            received_before: self.received,
            chooses: false,
            nexts: 0,
            is_near: true,
            rings: 0,
            flights: Vec::new(),
            chunk_time: None,
            rtt: Duration::ZERO,
            last_arrival: now,
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

    /// Whether a source is known to have all chunks.
    pub fn is_complete_source(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| !source.partial)
    }

    /// Whether a source lacks some chunk.
    pub fn is_partial(&self, id: SourceId) -> bool {
        self.sources.get(&id).is_some_and(|source| source.partial)
    }

    /// Further requests in flight to each source from now on, except to those of slower sites.
    pub fn set_boost(&mut self, boost: usize) {
        self.boost = boost;
    }

    /// Number of chunks that this download has received less than its median partial source gained, each in the time
    /// since that source appeared (the upper median). `None` without a partial source.
    pub fn deficit(&self) -> Option<i64> {
        let partial = self.sources.values().filter(|source| source.partial);
        // Chunks that a source is receiving count, so those that arrive here do as well: one from each busy source.
        let arriving = self.sources.values().filter(|source| !source.flights.is_empty()).count() as i64;
        let deficit = |source: &Source| {
            let gained = source.have.held().saturating_sub(source.had);
            i64::from(gained) - i64::from(self.received - source.received_before) - arriving
        };
        let mut deficits: Vec<i64> = partial.map(deficit).collect();
        deficits.sort_unstable();
        deficits.get(deficits.len() / 2).copied()
    }

    /// Chunk time of a source; `None` if it has not delivered any chunk yet.
    pub fn chunk_time(&self, id: SourceId) -> Option<Duration> {
        self.sources.get(&id)?.chunk_time
    }

    /// Adds a chunk to a source that begins to receive it, so that it can be requested there.
    pub fn source_receives(&mut self, id: SourceId, index: ChunkIndex) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if !source.have.insert(index) || !source.partial {
            return;
        }
        self.shift_rarity(index, 1);
    }

    /// Adds a chunk to a source that has it completely.
    pub fn source_has(&mut self, id: SourceId, index: ChunkIndex) {
        self.source_receives(id, index);
        let Some(source) = self.sources.get_mut(&id) else { return };
        if !source.whole.insert(index) || !source.partial || !source.whole.is_complete() {
            return;
        }
        // A complete source does not count for rarity.
        source.partial = false;
        (0..self.done.count()).map(ChunkIndex).for_each(|other| self.shift_rarity(other, -1));
    }

    /// Removes a source. Its chunks in flight are open again.
    pub fn remove_source(&mut self, id: SourceId) {
        let Some(source) = self.sources.remove(&id) else { return };
        if source.partial {
            source.have.iter().for_each(|index| self.shift_rarity(index, -1));
        }
        for (index, _) in source.flights {
            self.land(id, index);
            self.reopen(index);
        }
    }

    /// Picks the next chunk to request from a source and marks it as in flight. `None` if the source has no
    /// chunk that is needed now, has enough requests outstanding, or chooses the chunks that it sends.
    pub fn pick(&mut self, id: SourceId, now: Moment, random: &mut fastrand::Rng) -> Option<ChunkIndex> {
        let source = self.sources.get(&id)?;
        let is_far = self.is_far(source, now);
        if source.chooses || source.flights.len() >= self.depth(source, is_far) {
            return None;
        }
        if self.in_order {
            return self.first_open(id, now);
        }
        let index = match is_far {
            true => self.rarest_beyond_site(source, random)?,
            false => self.rarest(source, |_| true, random).or_else(|| self.late(id, source, now))?,
        };
        self.take_off(id, index, now)
    }

    /// The open chunk to request from a source among those that are `allowed`.
    fn rarest(
        &self,
        source: &Source,
        allowed: impl Fn(ChunkIndex) -> bool,
        random: &mut fastrand::Rng,
    ) -> Option<ChunkIndex> {
        // A chunk that a partial source has is held by at least one source.
        let least = usize::from(source.partial);
        let whole = self.open.rarest(&source.whole, least, &allowed, random);
        whole.or_else(|| self.open.rarest(&source.have, least, &allowed, random)).map(|(_, index)| index)
    }

    fn take_off(&mut self, id: SourceId, index: ChunkIndex, now: Moment) -> Option<ChunkIndex> {
        self.open.take(index);
        self.flights.entry(index).or_default().push(id);
        let source = self.sources.get_mut(&id)?;
        self.oldest.set(self.oldest.get().min(now));
        source.flights.push((index, now));
        Some(index)
    }

    /// Number of requests that a source may have outstanding. With one, its uplink is idle for an RTT after each
    /// chunk; more pay where a chunk takes less time than its request: on fast local links, or at a high RTT.
    fn depth(&self, source: &Source, is_far: bool) -> usize {
        if is_far && source.rings == 0 {
            // So that its speed is known, and the download goes on if all other sources with a chunk have left.
            return 1;
        }
        let least = PIPELINE_MIN + if is_far { 0 } else { self.boost };
        let Some(chunk_time) = source.chunk_time else { return least };
        let chunk_time = chunk_time.as_nanos().max(1);
        let limited = |count: u128, most: usize| usize::try_from(count).unwrap_or(most).min(most);
        let in_flight = PIPELINE_BATCH_TIME_MAX.as_nanos() * self.batch as u128;
        let few = PIPELINE_BATCHES_MAX * self.batch;
        let many = PIPELINE_SMALL_BATCHES_MAX * self.batch;
        let fast = match chunk_time < VERIFY_PAUSE_MAX.as_nanos() {
            true => few.max(limited(PIPELINE_FAST_TIME.as_nanos() / chunk_time, many)),
            false => limited(in_flight / chunk_time, few),
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

    /// Endgame: the chunk that has been in flight longest, if this source has it completely and is expected to deliver
    /// it sooner.
    fn late(&self, id: SourceId, source: &Source, now: Moment) -> Option<ChunkIndex> {
        // Usually no chunk is late; this check avoids the scan.
        let patience = source.patience();
        if self.open.map.held() > 0 || now.saturating_sub(self.oldest.get()) < patience {
            return None;
        }
        let mut oldest = Moment::MAX;
        let mut late = None;
        for (index, from) in self.flights.iter().filter(|(index, _)| !self.done.has(**index)) {
            let Some((first, since)) = self.asked(*index, from) else { continue };
            oldest = oldest.min(first);
            let asks = from.len() < ENDGAME_COPIES_MAX && !from.contains(&id) && source.whole.has(*index);
            let asks = asks && !(self.is_patient && self.is_arriving(from, patience, now));
            if asks && now.saturating_sub(since) >= patience {
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
        if let Some(since) = self.land(id, index)
            && let Some(source) = self.sources.get_mut(&id)
        {
            // A request to an idle source takes a whole RTT before data arrives.
            let way = if since >= source.last_arrival { source.rtt } else { Duration::ZERO };
            let took = now.saturating_sub(since.max(source.last_arrival)).saturating_sub(way);
            let chunk_time = source.chunk_time.map_or(took, |chunk_time| (chunk_time * 3 + took) / 4);
            (source.chunk_time, source.last_arrival) = (Some(chunk_time), now);
        }
        self.open.take(index);
        let is_new = self.done.insert(index);
        if is_new {
            (self.received, self.received_at) = (self.received + 1, now);
        }
        is_new
    }

    /// Handles a refusal: the source is not asked for this chunk again until it announces it.
    pub fn refused(&mut self, id: SourceId, index: ChunkIndex) {
        self.land(id, index);
        if let Some(source) = self.sources.get_mut(&id) {
            source.whole.remove(index);
            if source.have.remove(index) && source.partial {
                self.shift_rarity(index, -1);
            }
        }
        self.reopen(index);
    }

    /// Marks a chunk as available from elsewhere than a source of this download.
    pub fn have(&mut self, index: ChunkIndex) {
        self.open.take(index);
        self.done.insert(index);
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
