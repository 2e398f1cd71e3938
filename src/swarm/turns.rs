//! Whom a serving peer sends to next: the giving half of the fan-out.
//!
//! Nobody here is selfish, so the one that gives decides. A link is used best when one chunk at a time goes
//! out at full speed: then the receiver can pass it on soonest. Clients say whether they have room for a chunk (a
//! *wish*); whoever gives offers a *turn* to one of them, which answers with the chunk that it wants, or passes. The
//! next turn is given away while the chunk before is on its way, so that no round trip stands between two chunks.
//!
//! A peer that has the whole file names in each turn chunks that nobody has got from it yet, different ones to each
//! client: among equally rare chunks these are better, because a chunk that leaves the only holder twice has cost
//! everybody the time of one.
//!
//! A client whose downlink is narrower than this peer's uplink (it says how wide it is), or that turns out to be
//! slow, does not fill the link; then another chunk goes out beside it.
//!
//! Invariants: a client has at most one turn that it has not answered; what was asked for goes out in the order in
//! which it was asked for; whoever leaves frees its place.

use super::Moment;
use super::meter::Meter;
use crate::content::{ChunkIndex, FileId, HaveMap};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// A client of a serving peer: one connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ClientId(pub u64);

/// What is to be said to a client, or done for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Offer it a turn.
    Turn {
        /// The client.
        client: ClientId,
        /// The file that it wishes for.
        file: FileId,
        /// Chunks that nobody has got from here yet.
        fresh: Vec<ChunkIndex>,
    },
    /// Send it the chunk that it has asked for first.
    Send(ClientId),
}

/// Chunks named in a turn, at most.
const NAMED: usize = 8;
/// While the chunks on their way fill less than this share of the link, another goes out beside them.

/// What is nearly as wide as this link counts as just as wide: neither is known exactly.
const WIDE: f64 = 0.65;
/// The next turn is offered when so much of a chunk is still to go.
const AHEAD: f64 = 0.55;
/// A client counts for no less than this share of the link, however narrow it is: no more than so many at once.
const SHARE_MIN: f64 = 1.0 / 16.0;
/// A chunk takes no place on the link any more when it has been on its way for this many times what it should take.
const SLOW: u32 = 3;
/// A turn that has not been answered for this many times what a chunk takes is not waited for: the way there is long,
/// or nobody is there.
const SILENT: u32 = 2;
/// Nothing is slow before this.
const SLOW_MIN: Duration = Duration::from_millis(200);
/// No turn is unanswered before this.
const SILENT_MIN: Duration = Duration::from_millis(100);

/// A chunk on its way out.
struct Running {
    since: Moment,
    bytes: u64,
    length: u64,
}

impl Running {
    /// Which part of it is still to go.
    fn left(&self) -> f64 {
        match self.length {
            0 => 1.0,
            length => 1.0 - (self.bytes as f64 / length as f64).min(1.0),
        }
    }
}

#[derive(Default)]
struct Client {
    wish: Option<FileId>,
    /// How wide its downlink is, bytes a second, as far as it knows.
    rate: Option<f64>,
    /// Whether nothing at all is on its way to it.
    hungry: bool,
    /// The turn that it has not answered, and what was named in it.
    turn: Option<(Moment, FileId, Vec<ChunkIndex>)>,
    /// How many of its requests wait, and go out.
    waiting: usize,
    /// The chunk that goes out to it.
    running: Option<Running>,
    /// When it was served last, counted in turns.
    served: u64,
}

/// Decides whom to send to.
pub struct Turns {
    clients: BTreeMap<ClientId, Client>,
    queue: VecDeque<ClientId>,
    meter: Meter,
    /// What nobody has got from here yet, of each file that is whole here, in random order.
    fresh: HashMap<FileId, Vec<ChunkIndex>>,
    /// Bytes in a chunk, as far as has been seen.
    length: u64,
    turns: u64,
    calls: Vec<Call>,
}

impl Turns {
    /// Nobody is there yet.
    pub fn new(now: Moment) -> Self {
        Self {
            clients: BTreeMap::new(),
            queue: VecDeque::new(),
            meter: Meter::new(now),
            fresh: HashMap::new(),
            length: 0,
            turns: 0,
            calls: Vec::new(),
        }
    }

    /// temporary
    pub fn fresh_left(&self) -> usize {
        self.fresh.values().map(Vec::len).sum()
    }

    /// The best rate of this peer's uplink, bytes a second.
    pub fn rate(&self) -> Option<f64> {
        self.meter.rate()
    }

    /// A file is here. While it is whole from the start, what has left this peer is kept account of.
    pub fn know(&mut self, file: FileId, have: &HaveMap, random: &mut fastrand::Rng) {
        if have.is_complete() && !self.fresh.contains_key(&file) {
            let mut fresh: Vec<ChunkIndex> = have.iter().collect();
            random.shuffle(&mut fresh);
            self.fresh.insert(file, fresh);
        }
    }

    /// A client has room for a chunk of a file (`Some`), or no wish any more. It says how wide its downlink is, and
    /// whether nothing at all is on its way to it.
    pub fn wish(
        &mut self,
        id: ClientId,
        wish: Option<FileId>,
        rate: Option<f64>,
        hungry: bool,
        now: Moment,
    ) -> Vec<Call> {
        let client = self.clients.entry(id).or_default();
        client.wish = wish;
        client.hungry = hungry;
        client.rate = rate.filter(|rate| rate.is_finite() && *rate > 0.0).or(client.rate);
        self.advance(now)
    }

    /// A client does not use its turn. It has no wish until it says so again.
    pub fn pass(&mut self, id: ClientId, now: Moment) -> Vec<Call> {
        if let Some(client) = self.clients.get_mut(&id) {
            client.turn = None;
            client.wish = None;
        }
        self.advance(now)
    }

    /// A client asks for a chunk; it is to be sent once [`Call::Send`] says so.
    pub fn asked(&mut self, id: ClientId, file: FileId, index: ChunkIndex, now: Moment) -> Vec<Call> {
        let client = self.clients.entry(id).or_default();
        client.turn = None;
        client.waiting += 1;
        self.queue.push_back(id);
        if let Some(fresh) = self.fresh.get_mut(&file)
            && let Some(at) = fresh.iter().position(|other| *other == index)
        {
            fresh.swap_remove(at);
        }
        self.advance(now)
    }

    /// Bytes of a chunk, which is so long, have gone out to a client.
    pub fn moved(&mut self, id: ClientId, bytes: u64, length: u64, now: Moment) -> Vec<Call> {
        self.meter.add(bytes, now);
        self.length = self.length.max(length);
        if let Some(running) = self.clients.get_mut(&id).and_then(|client| client.running.as_mut()) {
            running.bytes += bytes;
            running.length = length;
        }
        self.advance(now)
    }

    /// What was to be sent to a client is out, or cannot be.
    pub fn sent(&mut self, id: ClientId, now: Moment) -> Vec<Call> {
        if let Some(client) = self.clients.get_mut(&id) {
            client.running = None;
        }
        self.advance(now)
    }

    /// A client is gone.
    pub fn leave(&mut self, id: ClientId, now: Moment) -> Vec<Call> {
        self.clients.remove(&id);
        self.queue.retain(|other| *other != id);
        self.advance(now)
    }

    /// Time has passed: what is slow or silent holds up nobody.
    pub fn tick(&mut self, now: Moment) -> Vec<Call> {
        self.advance(now)
    }

    /// When to call [`tick`](Self::tick) at the latest, if nothing else happens.
    pub fn next_tick(&self) -> Option<Moment> {
        let (slow, silent) = (self.slow(), self.silent());
        let times = self.clients.values().flat_map(|client| {
            let running = client.running.as_ref().map(|running| running.since + slow);
            running.into_iter().chain(client.turn.as_ref().map(|(since, ..)| *since + silent))
        });
        times.min()
    }

    fn slow(&self) -> Duration {
        self.meter.time_for(self.length).map_or(Duration::from_secs(1), |time| time * SLOW).max(SLOW_MIN)
    }

    fn silent(&self) -> Duration {
        let time = self.meter.time_for(self.length);
        time.map_or(Duration::from_secs(1), |time| time * SILENT).max(SILENT_MIN)
    }

    /// How much of the link the chunks on their way fill.
    fn load(&self, now: Moment) -> f64 {
        let slow = self.slow() * (super::knob("K", 1.0) as u32);
        let running = self.clients.values().filter_map(|client| Some((client.running.as_ref()?, client)));
        let fast = running.filter(|(running, _)| now.saturating_sub(running.since) < slow && running.left() > super::knob("SREADY", 0.0));
        fast.map(|(_, client)| self.share(client)).sum()
    }

    /// How much of the link one chunk to this client fills.
    fn share(&self, client: &Client) -> f64 {
        match (client.rate, self.meter.rate()) {
            (Some(theirs), Some(ours)) if theirs < ours * WIDE => (theirs / ours).max(SHARE_MIN),
            _ => 1.0,
        }
    }

    fn advance(&mut self, now: Moment) -> Vec<Call> {
        let mut load = self.load(now);
        // One chunk goes out to a client at a time: its connection has one order.
        let mut at = 0;
        let hungry = self.clients.values().filter(|client| client.hungry).count() as f64;
        let full = super::knob("K", 1.0) - if hungry >= super::knob("HUNGRY", 99.0) { super::knob("K", 1.0) - 1.0 } else { 0.0 } - 0.5;
        while load <= full && at < self.queue.len() {
            let id = self.queue[at];
            match self.clients.get_mut(&id) {
                Some(client) if client.running.is_none() => {
                    client.running = Some(Running { since: now, bytes: 0, length: 0 });
                    client.waiting -= 1;
                    self.queue.remove(at);
                    let share = self.clients.get(&id).map_or(1.0, |client| self.share(client));
                    load += share;
                    self.calls.push(Call::Send(id));
                }
                _ => at += 1,
            }
        }
        let silent = self.silent();
        let promised = |client: &&Client| {
            client.turn.as_ref().is_some_and(|(since, ..)| now.saturating_sub(*since) < silent)
        };
        let mut ahead = self.queue.len() + self.clients.values().filter(promised).count();
        while ahead < super::knob("AHEADN", 1.0) as usize && self.offer(false, now) {
            ahead += 1;
        }
        while ahead < super::knob("AHEADN", 1.0) as usize + 1 && load <= full && self.offer(true, now) {
            ahead += 1;
        }
        // A turn goes before the chunk that would hold it up on the same connection.
        self.calls.sort_by_key(|call| matches!(call, Call::Send(_)));
        std::mem::take(&mut self.calls)
    }

    /// Offers a turn to the client that should have it; returns whether there is one.
    fn offer(&mut self, hungry: bool, now: Moment) -> bool {
        let wishing = self.clients.iter().filter(|(_, client)| {
            client.wish.is_some() && client.turn.is_none() && (client.hungry || !hungry)
        });
        let chosen = wishing.min_by_key(|(_, client)| {
            let busy = client.waiting + usize::from(client.running.is_some());
            let narrow = self.share(client) <= super::knob("FULL", 0.5);
            (busy, narrow, !client.hungry, client.served)
        });
        let Some((id, file)) = chosen.and_then(|(id, client)| Some((*id, client.wish?))) else { return false };
        let fresh = self.name_fresh(file);
        self.turns += 1;
        if let Some(client) = self.clients.get_mut(&id) {
            client.turn = Some((now, file, fresh.clone()));
            client.served = self.turns;
        }
        self.calls.push(Call::Turn { client: id, file, fresh });
        true
    }

    /// Chunks that have not left this peer yet, and that nobody else has been told of just now.
    fn name_fresh(&self, file: FileId) -> Vec<ChunkIndex> {
        let Some(fresh) = self.fresh.get(&file) else { return Vec::new() };
        let named: Vec<ChunkIndex> = self
            .clients
            .values()
            .filter_map(|client| client.turn.as_ref())
            .filter(|(_, other, _)| *other == file)
            .flat_map(|(.., named)| named.iter().copied())
            .collect();
        // Near the end few, so that something is left for the next.
        let count = (fresh.len() / 4).clamp(1, NAMED);
        fresh.iter().rev().filter(|index| !named.contains(index)).take(count).copied().collect()
    }
}
