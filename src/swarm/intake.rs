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

/// Chunks on their way may fill the downlink so many times.

/// A chunk of which so much is still to come takes no room any more: before the next one can come, it is through.

/// What is nearly as wide as this link counts as just as wide: neither is known exactly.
const WIDE: f64 = 0.65;
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

/// A turn that has been offered and not been used yet.
struct Turn {
    source: SourceId,
    fresh: Vec<ChunkIndex>,
}

struct Flight {
    source: SourceId,
    index: ChunkIndex,
    since: Moment,
    /// Which part of it is still to come.
    left: f64,
}

/// Decides what to ask of whom, and when.
pub struct Intake {
    picker: Picker,
    sources: BTreeMap<SourceId, Source>,
    flights: Vec<Flight>,
    held: Vec<Turn>,
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
            held: Vec::new(),
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
        self.held.retain(|turn| turn.source != id);
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
        let Some(source) = self.sources.get_mut(&id) else { return };
        source.rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0);
        let turn = Turn { source: id, fresh: fresh.to_vec() };
        match self.can_hold(id) {
            true => self.held.push(turn),
            false => match self.held.iter().position(|other| other.fresh.is_empty()) {
                Some(at) if !turn.fresh.is_empty() => {
                    let other = std::mem::replace(&mut self.held[at], turn);
                    self.pass(other.source);
                }
                _ => self.pass(id),
            },
        }
        self.use_turns(now, random);
    }

    fn pass(&mut self, id: SourceId) {
        if let Some(source) = self.sources.get_mut(&id) {
            // It takes this as the end of the wish.
            self.wishes -= usize::from(source.told.take().is_some());
            self.asks.push(Ask::Pass(id));
        }
    }

    /// Whether another turn may be held: as many as fill the downlink.
    fn can_hold(&self, id: SourceId) -> bool {
        let held: f64 = self.held.iter().map(|turn| self.share(turn.source)).sum();
        held + self.share(id) <= (super::knob("D", 1.0) + 0.1)
    }

    /// Uses held turns while there is room for their chunks.
    fn use_turns(&mut self, now: Moment, random: &mut fastrand::Rng) {
        while !self.held.is_empty() {
            let at = self.held.iter().position(|turn| !turn.fresh.is_empty()).unwrap_or(0);
            if self.load(now) + self.share(self.held[at].source) > (super::knob("D", 1.0) + 0.1) {
                return;
            }
            let Turn { source: id, fresh } = self.held.remove(at);
            match self.picker.pick(id, &fresh, now, random) {
                Some(index) => self.ask_for(id, index, now),
                None => self.pass(id),
            }
        }
    }

    /// Bytes of the chunk that a source is sending, which is so long, have come.
    pub fn moved(&mut self, id: SourceId, bytes: u64, length: u64, now: Moment) {
        self.meter.add(bytes, now);
        self.length = self.length.max(length);
        // A source sends in the order in which it was asked.
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.source == id) {
            flight.left = (flight.left - bytes as f64 / length.max(1) as f64).max(0.0);
        }
    }

    /// A chunk has arrived and is verified. Returns whether that is news.
    pub fn arrived(&mut self, id: SourceId, index: ChunkIndex, now: Moment) -> bool {
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
        self.flights.push(Flight { source: id, index, since: now, left: 1.0 });
        self.asks.push(Ask::Chunk(id, index));
    }

    /// How much of the downlink is taken by what is on its way and will be for a while.
    fn load(&self, now: Moment) -> f64 {
        let slow = self.meter.time_for(self.length).map_or(SLOW_UNKNOWN, |time| time * SLOW).max(SLOW_MIN);
        let takes = |flight: &&Flight| flight.left > super::knob("READY", 0.3) && now.saturating_sub(flight.since) < slow;
        self.flights.iter().filter(takes).map(|flight| self.share(flight.source)).sum()
    }

    /// How much of the downlink a chunk of this source fills.
    fn share(&self, id: SourceId) -> f64 {
        let theirs = self.sources.get(&id).and_then(|source| source.rate);
        match (theirs, self.meter.rate()) {
            (Some(theirs), Some(ours)) if theirs < ours * WIDE => (theirs / ours).max(SHARE_MIN),
            _ => 1.0,
        }
    }

    /// What is to be said now that `changed` may have news for this side (`None`: any of them). To be called after
    /// whatever happens, and now and then.
    pub fn asks(
        &mut self,
        changed: Option<SourceId>,
        now: Moment,
        random: &mut fastrand::Rng,
    ) -> Vec<Ask> {
        self.use_turns(now, random);
        let held: f64 = self.held.iter().map(|turn| self.share(turn.source)).sum();
        let said = (held < (super::knob("D", 1.0) + 0.1) * 0.9, self.flights.is_empty() && self.held.is_empty());
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
        let holds = self.held.iter().any(|turn| turn.source == id);
        let wish = room && !holds && wishes < WISHES_MAX && self.picker.could_pick(id, now);
        let told = wish.then_some(hungry);
        if source.told != told {
            source.told = told;
            self.wishes = wishes + usize::from(wish);
            self.asks.push(Ask::Wish { source: id, room: wish, hungry });
        }
    }
}
