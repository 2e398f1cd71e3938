//! The peers of a simulated swarm, and the events of the simulation in order of time.

mod clients;
mod peer;
mod trees;

use crate::agenda::Agenda;
use crate::network::{Forecast, Link, Network};
use clients::Clients;
use peer::{Peer, Transfer};
use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::Moment;
use shoal::swarm::picker::SourceId;
use shoal::swarm::super_seeding::SuperSeeder;
use shoal::swarm::trees::{Moved, Trees};
use std::time::Duration;

/// Interval at which a peer checks for late chunks, as in the daemons.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum ratio of the rate at which an incomplete chunk is forwarded to the rate at which it arrives.
const CATCH_UP_FACTOR: f64 = 1.02;

/// Parameters of a simulation. Rates are in bytes per second.
pub struct Setting {
    pub peers: usize,
    pub seeders: usize,
    pub size: u64,
    pub chunk: u64,
    pub block: u64,
    pub up: (f64, f64),
    pub down: (f64, f64),
    pub seeder_up: f64,
    pub slow: Option<f64>,
    pub dying: f64,
    pub kill: Option<Duration>,
    pub apart: Duration,
    pub neighbours: usize,
    pub seeder_connections: usize,
    pub latency: Duration,
    pub startup: Duration,
    pub overhead: f64,
    pub seed: u64,
    pub hints: bool,
    pub trees: bool,
    pub line_max: usize,
    pub stripes: usize,
    pub unfair: f64,
}

/// Results of a simulation.
pub struct Outcome {
    pub bound: f64,
    pub last: f64,
    pub median: f64,
    pub unfinished: usize,
    pub seeder_sent: f64,
    pub wasted: f64,
    pub messages: f64,
}

enum Event {
    Join(usize),
    Die(usize),
    Tick(usize),
    /// From, to: a request for a chunk.
    Asks(usize, usize, ChunkIndex),
    /// From, to: the sender recommends chunks to request.
    Hints(usize, usize, Vec<ChunkIndex>),
    /// The clients of this peer that are told immediately learn that a chunk started to arrive at this time.
    Coming(usize, ChunkIndex, Moment),
    /// All clients of this peer learn which chunks it has received.
    News(usize),
    BlockEnds(usize, u32),
    /// Peers have a new predecessor in the trees of a seeder.
    Placed(usize, Vec<Moved<usize>>),
    /// From, to: a peer reports that its predecessor in a stripe is slow.
    Overtakes(usize, usize, usize, bool),
}

/// The state of a simulated swarm.
pub struct World {
    setting: Setting,
    peers: Vec<Peer>,
    network: Network,
    /// New forecasts of block ends; empty between changes.
    forecasts: Vec<Forecast>,
    agenda: Agenda<Event>,
    /// The sources of a peer in the order of requests; empty between events.
    order: Vec<usize>,
    now: Moment,
    random: fastrand::Rng,
    waiting: usize,
    seeder_sent: u64,
    sent: u64,
    wasted: u64,
    messages: u64,
}

impl World {
    /// A swarm with a random graph of connections and random links.
    pub fn new(setting: Setting) -> Self {
        let mut random = fastrand::Rng::with_seed(setting.seed);
        let count = setting.size.div_ceil(setting.chunk) as u32;
        let total = setting.seeders + setting.peers;
        let mut draw = |(least, most): (f64, f64)| least * (most / least).powf(random.f64());
        let mut links: Vec<Link> = (0..total)
            .map(|peer| match peer < setting.seeders {
                true => Link::new(setting.seeder_up, setting.seeder_up),
                false => Link::new(draw(setting.up), draw(setting.down)),
            })
            .collect();
        if let (Some(slow), Some(last)) = (setting.slow, links.last_mut()) {
            *last = Link::new(slow, slow);
        }
        let graph = draw_connections(&setting, &mut random);
        let mut clients: Vec<Clients> = (0..total).map(|_| Clients::default()).collect();
        for (peer, sources) in graph.iter().enumerate() {
            sources.iter().for_each(|source| clients[*source].push(peer));
        }
        let peers = graph.into_iter().zip(clients).enumerate().map(|(peer, (sources, clients))| {
            let seeds = peer < setting.seeders;
            let have = if seeds { Bitfield::all(count) } else { Bitfield::none(count) };
            let fresh = (seeds && setting.hints).then(|| SuperSeeder::new(&have, &mut random));
            let mut peer = Peer::new(have, sources, clients);
            (peer.fresh, peer.alive) = (fresh, seeds);
            peer.trees = Trees::new(setting.line_max, setting.stripes);
            peer
        });
        let mut world = Self {
            peers: peers.collect(),
            network: Network::new(links),
            forecasts: Vec::new(),
            agenda: Agenda::new(),
            order: Vec::new(),
            now: Moment::ZERO,
            random,
            waiting: 0,
            seeder_sent: 0,
            sent: 0,
            wasted: 0,
            messages: 0,
            setting,
        };
        world.schedule_joins_and_deaths();
        world
    }

    /// Schedules the events that do not depend on the behaviour of the peers.
    fn schedule_joins_and_deaths(&mut self) {
        let first = self.setting.seeders;
        let horizon = self.bound();
        for peer in first..self.peers.len() {
            let start = self.setting.apart * (peer - first) as u32;
            self.peers[peer].began = start;
            // Peers do not connect at the same moment.
            let jitter = self.setting.startup.mul_f64(0.5 + 0.5 * self.random.f64());
            self.at(start + jitter, Event::Join(peer));
            if self.random.f64() < self.setting.dying {
                let at = start + jitter + Duration::from_secs_f64(self.random.f64() * horizon);
                self.at(at, Event::Die(peer));
            }
        }
        self.waiting = self.counted();
        if let Some(at) = self.setting.kill {
            self.at(at, Event::Die(self.peers.len() - 1));
        }
    }

    /// Number of leechers in the result: all of them, except a leecher with a deliberately slow link.
    fn counted(&self) -> usize {
        self.setting.peers - usize::from(self.setting.slow.is_some())
    }

    /// The fluid bound: the least time in which all counted leechers can have the file, seconds.
    fn bound(&self) -> f64 {
        let (seeders, leechers) = self.network.links.split_at(self.setting.seeders);
        let leechers = &leechers[..self.counted()];
        let size = self.setting.size as f64;
        let seed: f64 = seeders.iter().map(|link| link.up).sum();
        let up: f64 = leechers.iter().map(|link| link.up).sum();
        let narrowest = leechers.iter().map(|link| link.down).fold(f64::INFINITY, f64::min);
        (size / seed).max(size / narrowest).max(leechers.len() as f64 * size / (seed + up))
    }

    fn at(&mut self, time: Moment, event: Event) {
        self.agenda.schedule(time, event);
    }

    fn send_message(&mut self, event: Event) {
        self.messages += 1;
        self.at(self.now + self.setting.latency, event);
    }

    /// Runs until each counted leecher that is alive has the file.
    pub fn run(mut self) -> Outcome {
        let limit = Duration::from_secs_f64(self.bound() * 10.0 + 60.0);
        while self.waiting > 0
            && let Some((time, event)) = self.agenda.take_next()
            && time <= limit
        {
            self.now = time;
            self.happen(event);
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        let counted = &self.peers[self.setting.seeders..][..self.counted()];
        let times = counted.iter().filter_map(|peer| Some(peer.done?.saturating_sub(peer.began)));
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        Outcome {
            bound: self.bound(),
            last: times.last().copied().unwrap_or(f64::NAN),
            median: times.get(times.len() / 2).copied().unwrap_or(f64::NAN),
            unfinished: self.waiting,
            seeder_sent: self.seeder_sent as f64 * self.setting.overhead,
            wasted: self.wasted as f64 / self.sent.max(1) as f64,
            messages: self.messages as f64 / self.peers.len() as f64,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Join(peer) => self.join(peer),
            Event::Die(peer) => self.die(peer),
            Event::Tick(peer) if self.peers[peer].fetches() => {
                self.overtake(peer);
                self.ask_all(peer);
                self.at(self.now + TICK_INTERVAL, Event::Tick(peer));
            }
            Event::Asks(from, to, index) if self.peers[from].alive && self.peers[to].alive => {
                self.asked(from, to, index);
            }
            Event::Hints(from, to, hints) if self.peers[from].alive && self.peers[to].alive => {
                self.peers[to].picker.hint(SourceId(from as u32), &hints);
                self.ask(to, from);
            }
            Event::Coming(peer, index, began) if self.peers[peer].alive => {
                self.announce_arrival(peer, index, began)
            }
            Event::News(peer) if self.peers[peer].alive => self.announce_received(peer),
            Event::Placed(seeder, moved) => self.placed(seeder, moved),
            Event::Overtakes(from, to, stripe, sure) if self.peers[from].alive => {
                let moved = self.peers[to].trees.overtake(from, stripe, sure);
                self.send_placements(to, moved);
            }
            Event::BlockEnds(flow, version) => {
                match self.network.ends(flow, version, self.now.as_secs_f64(), &mut self.forecasts) {
                    true => self.block_ends(flow),
                    false => self.schedule_forecasts(),
                }
            }
            _ => {}
        }
    }

    /// Clients that are told immediately learn of a chunk that started to arrive.
    fn announce_arrival(&mut self, peer: usize, index: ChunkIndex, began: Moment) {
        for at in 0..self.peers[peer].clients.count() {
            if let Some(other) = self.peers[peer].clients.told_at_once(at, began) {
                self.messages += 1;
                self.peers[other].picker.source_has(SourceId(peer as u32), index, self.now);
                self.ask(other, peer);
            }
        }
    }

    /// All clients learn of received chunks in one message; only clients that missed an earlier message gain from it.
    fn announce_received(&mut self, peer: usize) {
        let batch = self.peers[peer].clients.take_batch(self.now);
        for at in 0..self.peers[peer].clients.count() {
            let Some((other, missed)) = self.peers[peer].clients.active(at) else { continue };
            self.messages += 1;
            let mut any = false;
            for (index, _) in batch.iter().filter(|(_, began)| *began <= missed) {
                self.peers[other].picker.source_has(SourceId(peer as u32), *index, self.now);
                any = true;
            }
            if any {
                self.ask(other, peer);
            }
        }
    }

    fn join(&mut self, peer: usize) {
        self.peers[peer].alive = true;
        for source in self.peers[peer].sources.clone() {
            self.meet(peer, source);
        }
        for client in self.peers[peer].clients.all_ids() {
            self.meet(client, peer);
        }
        self.ask_all(peer);
        let first = TICK_INTERVAL.mul_f64(self.random.f64());
        self.at(self.now + first, Event::Tick(peer));
    }

    fn meet(&mut self, client: usize, source: usize) {
        if self.peers[client].alive && self.peers[source].alive {
            let have = self.peers[source].picker.done().clone();
            self.peers[source].clients.misses(client, self.now);
            let hints = self.peers[source].fresh.as_mut().map(|fresh| fresh.join(client)).unwrap_or_default();
            let picker = &mut self.peers[client].picker;
            picker.add_source(SourceId(source as u32), have, self.now);
            picker.hint(SourceId(source as u32), &hints);
            if source < self.setting.seeders && self.setting.trees {
                let moved = self.peers[source].trees.join(client);
                self.placed(source, moved);
            }
            self.follow(client);
            self.ask(client, source);
        }
    }

    fn die(&mut self, peer: usize) {
        let counts = peer < self.setting.seeders + self.counted();
        if counts && self.peers[peer].done.is_none() {
            self.waiting -= 1;
        }
        self.peers[peer].alive = false;
        self.step_out(peer);
        for source in self.peers[peer].sources.clone() {
            self.peers[source].clients.gone(peer);
            self.abort(source, peer);
            self.peers[source].forget(peer);
            if let Some(fresh) = &mut self.peers[source].fresh {
                fresh.leave(peer);
            }
        }
        for client in self.peers[peer].clients.all_ids() {
            self.abort(peer, client);
            self.peers[client].picker.remove_source(SourceId(peer as u32));
            self.follow(client);
            self.ask_all(client);
        }
    }

    /// Ends a transfer without its last block, and each transfer that forwards the same chunk.
    fn abort(&mut self, from: usize, to: usize) {
        let Some(Transfer { index, flow, .. }) = self.peers[to].received(from) else { return };
        self.peers[from].sent(to);
        if let Some(flow) = flow {
            self.network.end(flow, self.now.as_secs_f64(), &mut self.forecasts);
            self.schedule_forecasts();
        }
        self.peers[to].picker.refused(SourceId(from as u32), index);
        let elsewhere = self.peers[to].received_blocks(index) > 0;
        if !elsewhere {
            self.peers[to].clients.lost(index);
        }
        for other in self.peers[to].sending.clone() {
            let same = self.peers[other].coming(to).is_some_and(|transfer| transfer.index == index);
            if same && !elsewhere {
                self.abort(to, other);
            }
        }
    }

    fn asked(&mut self, from: usize, to: usize, index: ChunkIndex) {
        self.peers[to].clients.asked(from);
        if let Some(fresh) = &mut self.peers[to].fresh {
            let hints = fresh.asked(from, index);
            if !hints.is_empty() {
                self.send_message(Event::Hints(to, from, hints));
            }
        }
        self.peers[to].is_asked(from, index);
        self.serve(to, from);
    }

    /// Starts the next requested transfer to a client, unless it already receives from this peer.
    fn serve(&mut self, from: usize, to: usize) {
        if self.peers[to].coming(from).is_some() {
            return;
        }
        let Some(index) = self.peers[from].next_asked(to) else { return };
        if self.peers[from].received_blocks(index) == 0 {
            self.messages += 1;
            self.peers[from].clients.misses(to, self.now);
            self.peers[to].picker.refused(SourceId(from as u32), index);
            self.ask(to, from);
            return self.serve(from, to);
        }
        let total = self.length(index).div_ceil(self.setting.block) as u32;
        self.peers[to].receive(from, Transfer { index, blocks: 0, total, flow: None });
        self.peers[from].sending.push(to);
        self.block(from, to);
    }

    /// Sends the next block, if the sender has it.
    fn block(&mut self, from: usize, to: usize) {
        let Some(&mut Transfer { index, blocks, total, flow }) = self.peers[to].coming(from) else { return };
        if flow.is_some() || self.peers[from].received_blocks(index) <= blocks {
            return;
        }
        let bytes = self.length(index) as f64 * self.setting.overhead / f64::from(total);
        let (weight, now) = (self.weight(from, to), self.now.as_secs_f64());
        let most = self
            .forward_rate_max(from, index, blocks + 1)
            .min(self.peers[from].gives() * self.setting.overhead);
        let flow = self.network.start((from, to), bytes, (weight, most), now, &mut self.forecasts);
        if let Some(transfer) = self.peers[to].coming(from) {
            transfer.flow = Some(flow);
        }
        self.schedule_forecasts();
    }

    /// Maximum rate at which a peer can forward the blocks after the first `blocks` of a chunk.
    fn forward_rate_max(&self, peer: usize, index: ChunkIndex, blocks: u32) -> f64 {
        let peer = &self.peers[peer];
        let rates = peer.flows(index).filter_map(|flow| self.network.rate(flow));
        match rates.fold(0.0, f64::max) {
            most if most > 0.0 && peer.received_blocks(index) <= blocks => most * CATCH_UP_FACTOR,
            _ => f64::INFINITY,
        }
    }

    /// Weight of a connection: TCP does not share a link equally.
    fn weight(&self, from: usize, to: usize) -> f64 {
        let pair = (self.setting.seed << 48) ^ ((from as u64) << 24) ^ to as u64;
        self.setting.unfair.powf(fastrand::Rng::with_seed(pair).f64() - 0.5)
    }

    fn schedule_forecasts(&mut self) {
        let mut forecasts = std::mem::take(&mut self.forecasts);
        for Forecast { flow, version, end } in forecasts.drain(..) {
            self.at(Duration::from_secs_f64(end).max(self.now), Event::BlockEnds(flow, version));
        }
        self.forecasts = forecasts;
    }

    fn block_ends(&mut self, flow: usize) {
        let Some((from, to)) = self.network.between(flow) else { return };
        self.network.end(flow, self.now.as_secs_f64(), &mut self.forecasts);
        self.schedule_forecasts();
        let Some(transfer) = self.peers[to].coming(from) else { return };
        transfer.flow = None;
        transfer.blocks += 1;
        let (index, blocks, total) = (transfer.index, transfer.blocks, transfer.total);
        let bytes = self.length(index) / u64::from(total);
        self.peers[from].pace.gave(to, bytes, self.now);
        self.peers[to].picker.heard(SourceId(from as u32), self.now);
        let is_new = blocks == 1 && !self.peers[to].picker.done().has(index);
        if is_new && self.peers[to].clients.begins(index, self.now) {
            self.at(self.now + self.setting.latency, Event::Coming(to, index, self.now));
        }
        match blocks == total {
            true => self.transferred(from, to, index),
            false => self.block(from, to),
        }
        for at in 0..self.peers[to].sending.len() {
            self.block(to, self.peers[to].sending[at]);
        }
    }

    fn transferred(&mut self, from: usize, to: usize, index: ChunkIndex) {
        let bytes = self.length(index);
        self.peers[to].received(from);
        self.peers[from].sent(to);
        self.sent += bytes;
        if from < self.setting.seeders {
            self.seeder_sent += bytes;
        }
        self.serve(from, to);
        let hints = self.peers[from].fresh.as_mut().map(|fresh| fresh.left(to, index)).unwrap_or_default();
        if !hints.is_empty() {
            self.send_message(Event::Hints(from, to, hints));
        }
        let peer = &mut self.peers[to];
        if !peer.picker.arrived(SourceId(from as u32), index, self.now) {
            self.wasted += bytes;
        } else if let Some(when) = peer.clients.ends(index, self.now) {
            self.at(when + self.setting.latency, Event::News(to));
        }
        let peer = &self.peers[to];
        if peer.done.is_none() && peer.picker.is_complete() {
            self.complete(to);
        }
        self.ask(to, from);
        if self.setting.peers < 100 {
            self.ask_all(to);
        }
    }

    fn complete(&mut self, peer: usize) {
        self.peers[peer].done = Some(self.now);
        self.waiting -= usize::from(peer < self.setting.seeders + self.counted());
        self.step_out(peer);
        for at in 0..self.peers[peer].sources.len() {
            let source = self.peers[peer].sources[at];
            self.peers[source].clients.gone(peer);
        }
    }

    fn ask_all(&mut self, peer: usize) {
        if !self.peers[peer].fetches() {
            return;
        }
        let mut order = std::mem::take(&mut self.order);
        order.clone_from(&self.peers[peer].sources);
        self.random.shuffle(&mut order);
        order.drain(..).for_each(|other| self.ask(peer, other));
        self.order = order;
    }

    /// Sends the requests that the picker of a peer makes to a source.
    fn ask(&mut self, peer: usize, other: usize) {
        if peer < self.setting.seeders || self.peers[peer].done.is_some() {
            return;
        }
        let source = SourceId(other as u32);
        while let Some(index) = self.peers[peer].picker.pick(source, self.now, &mut self.random) {
            self.send_message(Event::Asks(peer, other, index));
        }
    }

    fn length(&self, index: ChunkIndex) -> u64 {
        let whole = self.setting.chunk;
        whole.min(self.setting.size - u64::from(index.0) * whole)
    }
}

/// The sources of each peer: randomly drawn other peers. A seeder has no sources and a limited number of clients.
fn draw_connections(setting: &Setting, random: &mut fastrand::Rng) -> Vec<Vec<usize>> {
    let &Setting { seeders, peers: leechers, neighbours: most, .. } = setting;
    let total = seeders + leechers;
    let mut graph: Vec<Vec<usize>> = vec![Vec::new(); total];
    for seeder in 0..seeders {
        for leecher in random.choose_multiple(seeders..total, setting.seeder_connections.min(leechers)) {
            graph[leecher].push(seeder);
        }
    }
    for (peer, sources) in graph.iter_mut().enumerate().skip(seeders) {
        let left = most.saturating_sub(sources.len()).min(leechers - 1);
        if left == leechers - 1 {
            sources.extend((seeders..total).filter(|other| *other != peer));
            continue;
        }
        let full = sources.len() + left;
        while sources.len() < full {
            let other = random.usize(seeders..total);
            if other != peer && !sources.contains(&other) {
                sources.push(other);
            }
        }
    }
    graph
}
