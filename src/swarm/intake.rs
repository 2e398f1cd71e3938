//! What a download takes in, and from whom: the taking half of the fan-out.
//!
//! Sources that [take turns](super::turns) are told whether there is room for a chunk, and asked for one when they
//! offer a turn; which one is the [`Picker`]'s choice. Sources that do not are simply asked for a few chunks ahead.
//!
//! There is room while what is on its way does not fill the downlink and one chunk more, which comes when the one
//! before is through. How much a chunk fills is measured and not configured: the source says how wide its uplink has
//! shown to be, and this side knows how fast it has received. With equal links that makes one chunk that comes and
//! one that is promised: two that come at once would each take twice as long, while somebody else gets nothing.
//!
//! Invariant: what is on its way here is on its way in the picker.

use super::Moment;
use super::meter::Meter;
use super::picker::{Picker, SourceId};
use crate::content::limits::WISHES_MAX;
use crate::content::{ChunkIndex, HaveMap};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is to be said to a source.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Ask {
    /// Ask for a chunk.
    Chunk(SourceId, ChunkIndex),
    /// Its turn is not used.
    Pass(SourceId),
    /// Say whether there is room for a chunk that it has.
    Wish {
        /// The source.
        source: SourceId,
        /// Whether there is.
        room: bool,
        /// Whether nothing at all is on its way.
        hungry: bool,
    },
}

/// There is room while the chunks on their way fill the downlink less than this many times.
const ROOM: f64 = 1.5;
/// A chunk counts for no less than this share of the downlink.
const SHARE_MIN: f64 = 1.0 / 16.0;
/// A chunk that takes this many times what it should take takes no room any more.
const SLOW: u32 = 4;
/// Nothing is slow before this.
const SLOW_MIN: Duration = Duration::from_millis(200);
/// As long as nothing has been measured, a chunk may take so long.
const SLOW_UNKNOWN: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Source {
    takes_turns: bool,
    /// What it has been told last: whether there is room, and whether nothing is on its way.
    told: Option<bool>,
    /// How wide its uplink is, bytes a second, as far as it has said.
    rate: Option<f64>,
}

struct Flight {
    source: SourceId,
    index: ChunkIndex,
    since: Moment,
}

/// Decides what to ask of whom, and when.
pub struct Intake {
    picker: Picker,
    sources: BTreeMap<SourceId, Source>,
    flights: Vec<Flight>,
    meter: Meter,
    /// Bytes in a chunk, as far as has been seen.
    length: u64,
    /// How many sources have been told that there is room.
    wishes: usize,
    said: (bool, bool),
    asks: Vec<Ask>,
}

impl Intake {
    /// An intake of the chunks that `done` does not have: of all of them, or of what is
    /// [wanted](Picker::want).
    pub fn new(done: HaveMap, all: bool) -> Self {
        Self {
            picker: Picker::new(done, all),
            sources: BTreeMap::new(),
            flights: Vec::new(),
            meter: Meter::new(Moment::ZERO),
            length: 0,
            wishes: 0,
            said: (true, true),
            asks: Vec::new(),
        }
    }

    /// What is known of chunks and sources.
    pub fn picker(&self) -> &Picker {
        &self.picker
    }

    /// The best rate of the downlink, bytes a second, as far as it has shown.
    pub fn rate(&self) -> Option<f64> {
        self.meter.rate()
    }

    /// A chunk is wanted, also if it was thought to be done.
    pub fn want(&mut self, index: ChunkIndex) {
        self.picker.want(index);
    }

    /// A chunk is there by other ways than a source of this download.
    pub fn have(&mut self, index: ChunkIndex) {
        self.picker.have(index);
    }

    /// A source has appeared, with what it has.
    pub fn add_source(&mut self, id: SourceId, have: HaveMap, takes_turns: bool, now: Moment) {
        self.remove_source(id);
        self.picker.add_source(id, have, now);
        self.sources.insert(id, Source { takes_turns, ..Source::default() });
    }

    /// A source has one more chunk.
    pub fn source_has(&mut self, id: SourceId, index: ChunkIndex) {
        self.picker.source_has(id, index);
    }

    /// A source is gone.
    pub fn remove_source(&mut self, id: SourceId) {
        self.picker.remove_source(id);
        self.flights.retain(|flight| flight.source != id);
        let gone = self.sources.remove(&id);
        self.wishes -= usize::from(gone.is_some_and(|source| source.told.is_some()));
    }

    /// A source offers a turn, and says which of its chunks nobody has got from it yet and how wide its uplink has
    /// shown to be.
    pub fn turn(
        &mut self,
        id: SourceId,
        fresh: &[ChunkIndex],
        rate: Option<f64>,
        now: Moment,
        random: &mut fastrand::Rng,
    ) {
        let room = self.has_room(now);
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0);
        let picked = room.then(|| self.picker.pick(id, fresh, now, random)).flatten();
        match picked {
            Some(index) => self.ask_for(id, index, now),
            None => {
                // It takes this as the end of the wish.
                self.wishes -= usize::from(source.told.take().is_some());
                self.asks.push(Ask::Pass(id));
            }
        }
    }

    /// Bytes of chunks have come, from whomever.
    pub fn moved(&mut self, bytes: u64, now: Moment) {
        self.meter.add(bytes, now);
    }

    /// A chunk has arrived and is verified. Returns whether that is news.
    pub fn arrived(&mut self, id: SourceId, index: ChunkIndex, bytes: u64, now: Moment) -> bool {
        self.length = self.length.max(bytes);
        self.landed(id, index);
        self.picker.arrived(id, index, now)
    }

    /// A source will not deliver a chunk that it was asked for.
    pub fn refused(&mut self, id: SourceId, index: ChunkIndex) {
        self.landed(id, index);
        self.picker.refused(id, index);
    }

    fn landed(&mut self, id: SourceId, index: ChunkIndex) {
        self.flights.retain(|flight| (flight.source, flight.index) != (id, index));
    }

    fn ask_for(&mut self, id: SourceId, index: ChunkIndex, now: Moment) {
        self.flights.push(Flight { source: id, index, since: now });
        self.asks.push(Ask::Chunk(id, index));
    }

    /// Whether there is room for another chunk.
    fn has_room(&self, now: Moment) -> bool {
        let slow = self.meter.time_for(self.length).map_or(SLOW_UNKNOWN, |time| time * SLOW).max(SLOW_MIN);
        let fast = self.flights.iter().filter(|flight| now.saturating_sub(flight.since) < slow);
        let share = |flight: &Flight| {
            let theirs = self.sources.get(&flight.source).and_then(|source| source.rate);
            match (theirs, self.meter.rate()) {
                (Some(theirs), Some(ours)) => (theirs / ours).clamp(SHARE_MIN, 1.0),
                _ => 1.0,
            }
        };
        fast.map(share).sum::<f64>() < ROOM
    }

    /// What is to be said now that `changed` may have news for this side (`None`: any of them). To be called after
    /// whatever happens, and now and then.
    pub fn asks(
        &mut self,
        changed: Option<SourceId>,
        now: Moment,
        random: &mut fastrand::Rng,
    ) -> Vec<Ask> {
        let said = (self.has_room(now), self.flights.is_empty());
        let all = changed.is_none() || self.said != said;
        self.said = said;
        match changed.filter(|_| !all) {
            Some(id) => self.tell(id, now, random),
            None => {
                let mut ids: Vec<SourceId> = self.sources.keys().copied().collect();
                random.shuffle(&mut ids);
                ids.into_iter().for_each(|id| self.tell(id, now, random));
            }
        }
        std::mem::take(&mut self.asks)
    }

    fn tell(&mut self, id: SourceId, now: Moment, random: &mut fastrand::Rng) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if !source.takes_turns {
            while let Some(index) = self.picker.pick(id, &[], now, random) {
                self.ask_for(id, index, now);
            }
            return;
        }
        let (room, hungry) = self.said;
        let wishes = self.wishes - usize::from(source.told.is_some());
        let wish = room && wishes < WISHES_MAX && self.picker.could_pick(id, now);
        let told = wish.then_some(hungry);
        if source.told != told {
            source.told = told;
            self.wishes = wishes + usize::from(wish);
            self.asks.push(Ask::Wish { source: id, room: wish, hungry });
        }
    }
}
