//! The peers of a simulated swarm, and what happens to them in order of time.

use crate::network::{Link, Moved, Network};
use shoal::content::{ChunkIndex, FileId, HaveMap};
use shoal::swarm::Moment;
use shoal::swarm::fresh::Fresh;
use shoal::swarm::intake::{Ask, Intake};
use shoal::swarm::picker::SourceId;
use shoal::swarm::turns::{Call, ClientId, Turns};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

const FILE: FileId = FileId([1; 32]);
/// How often a peer looks whether something is late, as the daemons do.
const TICK: Duration = Duration::from_millis(100);

/// What is simulated. Rates are in bytes a second.
pub struct Setting {
    pub peers: usize,
    pub seeders: usize,
    pub size: u64,
    pub chunk: u64,
    pub up: (f64, f64),
    pub down: (f64, f64),
    pub seeder_up: f64,
    pub slow: Option<f64>,
    pub dying: f64,
    pub kill: Option<Duration>,
    pub apart: Duration,
    pub neighbours: usize,
    pub latency: Duration,
    pub startup: Duration,
    pub overhead: f64,
    pub seed: u64,
    pub turns: bool,
    pub relay: bool,
    pub block: u64,
}

/// What came of it.
pub struct Outcome {
    pub bound: f64,
    pub last: f64,
    pub median: f64,
    pub unfinished: usize,
    pub seeder_sent: f64,
    pub wasted: f64,
    pub messages: f64,
}

enum Message {
    Wish(Option<bool>, Option<f64>),
    Turn(Vec<ChunkIndex>, Option<f64>),
    Chunk(ChunkIndex),
    Pass,
    Hint(Vec<ChunkIndex>),
}

/// A chunk on its way from one to another, block by block.
struct Transfer {
    index: ChunkIndex,
    blocks: u32,
    total: u32,
    parked: bool,
}

enum Event {
    Join(usize),
    Die(usize),
    Tick(usize),
    /// From, to.
    Message(usize, usize, Message),
    /// Everybody who knows this peer learns that it has a chunk.
    Got(usize, ChunkIndex),
    FlowEnds(usize, u32),
}

struct Peer {
    intake: Intake,
    turns: Turns,
    fresh: Option<Fresh<usize>>,
    neighbours: Vec<usize>,
    /// What each client has asked for and not got yet.
    asked: HashMap<usize, VecDeque<ChunkIndex>>,
    alive: bool,
    began: Moment,
    done: Option<Moment>,
}

struct Timed(Moment, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// A swarm at a moment.
pub struct World {
    setting: Setting,
    count: u32,
    peers: Vec<Peer>,
    network: Network,
    events: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    now: Moment,
    random: fastrand::Rng,
    waiting: usize,
    seeder_sent: u64,
    sent: u64,
    wasted: u64,
    messages: u64,
    hist: [[f64; 6]; 3],
    transfers: HashMap<(usize, usize), Transfer>,
}

impl World {
    /// Peers who know each other, with links drawn.
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
        let graph = acquaint(total, setting.neighbours, &mut random);
        let peers = graph.into_iter().enumerate().map(|(peer, neighbours)| {
            let have = match peer < setting.seeders {
                true => HaveMap::all(count),
                false => HaveMap::none(count),
            };
            let mut turns = Turns::new(Moment::ZERO);
            turns.know(FILE, &have, &mut random);
            let fresh = have.is_complete().then(|| Fresh::new(&have, &mut random));
            Peer {
                intake: Intake::new(have, true),
                turns,
                fresh,
                neighbours,
                asked: HashMap::new(),
                alive: peer < setting.seeders,
                began: Moment::ZERO,
                done: None,
            }
        });
        let peers = peers.collect();
        let mut world = Self {
            count,
            peers,
            network: Network::new(links),
            events: BinaryHeap::new(),
            sequence: 0,
            now: Moment::ZERO,
            random,
            waiting: 0,
            seeder_sent: 0,
            sent: 0,
            wasted: 0,
            messages: 0,
            hist: [[0.0; 6]; 3],
            transfers: HashMap::new(),
            setting,
        };
        world.foretell();
        world
    }

    /// What will happen whatever the peers do.
    fn foretell(&mut self) {
        let first = self.setting.seeders;
        self.waiting = self.setting.peers;
        for peer in first..self.peers.len() {
            let began = self.setting.apart * (peer - first) as u32;
            self.peers[peer].began = began;
            // Nobody connects to everybody in the same moment.
            let jitter = self.setting.startup.mul_f64(0.5 + 0.5 * self.random.f64());
            self.at(began + jitter, Event::Join(peer));
        }
        let horizon = self.bound();
        for peer in first..self.peers.len() {
            if self.random.f64() < self.setting.dying {
                let at = Duration::from_secs_f64(self.random.f64() * horizon);
                self.at(at, Event::Die(peer));
            }
        }
        if let Some(at) = self.setting.kill {
            self.at(at, Event::Die(self.peers.len() - 1));
        }
    }

    /// The least time in which all leechers that count can have the file, seconds.
    fn bound(&self) -> f64 {
        let (seeders, leechers) = self.network.links.split_at(self.setting.seeders);
        let leechers = &leechers[..leechers.len() - usize::from(self.setting.slow.is_some())];
        let size = self.setting.size as f64;
        let seed: f64 = seeders.iter().map(|link| link.up).sum();
        let up: f64 = leechers.iter().map(|link| link.up).sum();
        let narrowest = leechers.iter().map(|link| link.down).fold(f64::INFINITY, f64::min);
        (size / seed).max(size / narrowest).max(leechers.len() as f64 * size / (seed + up))
    }

    fn at(&mut self, time: Moment, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse(Timed(time, self.sequence, event)));
    }

    fn say(&mut self, from: usize, to: usize, message: Message) {
        self.messages += 1;
        self.at(self.now + self.setting.latency, Event::Message(from, to, message));
    }

    /// Runs until every leecher that lives has the file.
    pub fn run(mut self) -> Outcome {
        let limit = Duration::from_secs_f64(self.bound() * 20.0 + 60.0);
        while self.waiting > 0
            && let Some(Reverse(Timed(time, _, event))) = self.events.pop()
        {
            if std::env::var("DEBUG").is_ok() {
                let d = (time - self.now).as_secs_f64();
                for p in 0..self.peers.len() {
                    let (g, c) = self.network.counts(p);
                    self.hist[0][g.min(5)] += d;
                    self.hist[1][c.min(5)] += d;
                    if p == 0 {
                        self.hist[2][g.min(5)] += d;
                    }
                }
            }
            if std::env::var("TRACE").is_ok()
                && (time.as_secs_f64() / 0.0439) as u64 != (self.now.as_secs_f64() / 0.0439) as u64
            {
                let held: Vec<u32> = self.peers.iter().map(|p| p.intake.picker().done().held()).collect();
                let flows: Vec<String> = (0..self.peers.len())
                    .map(|p| {
                        let (g, c) = self.network.counts(p);
                        format!("{g}/{c}")
                    })
                    .collect();
                eprintln!(
                    "{:3} fresh {:3} held {:?} {:?}",
                    (time.as_secs_f64() / 0.0439) as u64,
                    self.peers[0].turns.fresh_left(),
                    held,
                    flows
                );
            }
            self.now = time;
            if time > limit {
                break;
            }
            self.happen(event);
        }
        if std::env::var("DEBUG").is_ok() {
            for h in &self.hist {
                let t: f64 = h.iter().sum();
                eprintln!("{:?}", h.map(|x| (x / t * 100.0).round()));
            }
            for p in &self.peers {
                eprintln!("{:?} {:?}", p.turns.rate().map(|r| r * 8e-6), p.intake.rate().map(|r| r * 8e-6));
            }
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        let leechers = &self.peers[self.setting.seeders..];
        let counted = &leechers[..leechers.len() - usize::from(self.setting.slow.is_some())];
        let times =
            counted.iter().filter_map(|peer| Some((peer.done?.checked_sub(peer.began)?).as_secs_f64()));
        let mut times: Vec<f64> = times.collect();
        times.sort_by(f64::total_cmp);
        Outcome {
            bound: self.bound(),
            last: times.last().copied().unwrap_or(f64::NAN),
            median: times.get(times.len() / 2).copied().unwrap_or(f64::NAN),
            unfinished: counted.iter().filter(|peer| peer.alive && peer.done.is_none()).count(),
            seeder_sent: self.seeder_sent as f64 * self.setting.overhead,
            wasted: self.wasted as f64 / self.sent.max(1) as f64,
            messages: self.messages as f64 / self.peers.len() as f64,
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Join(peer) => self.join(peer),
            Event::Die(peer) => self.die(peer),
            Event::Tick(peer) if self.peers[peer].alive => {
                let now = self.now;
                let calls = self.peers[peer].turns.tick(now);
                self.follow(peer, calls);
                self.ask(peer, None);
                self.at(now + TICK, Event::Tick(peer));
            }
            Event::Message(from, to, message) if self.peers[from].alive && self.peers[to].alive => {
                self.hear(from, to, message);
            }
            Event::Got(peer, index) if self.peers[peer].alive => {
                for at in 0..self.peers[peer].neighbours.len() {
                    let other = self.peers[peer].neighbours[at];
                    if self.peers[other].alive && self.peers[other].done.is_none() {
                        self.messages += 1;
                        self.peers[other].intake.source_has(SourceId(peer as u32), index);
                        self.ask(other, Some(peer));
                    }
                }
            }
            Event::FlowEnds(flow, version) if self.network.current(flow, version) => {
                let now = self.now.as_secs_f64();
                match self.network.through(flow, now) {
                    true => self.flow_ends(flow),
                    false => {
                        let moved: Vec<Moved> = self.network.look(flow, now).into_iter().collect();
                        let ends = moved.first().map(|moved| (moved.from, moved.to));
                        self.settle(moved, Vec::new());
                        if let Some((from, to)) = ends {
                            self.ask(to, Some(from));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn join(&mut self, peer: usize) {
        self.peers[peer].alive = true;
        for other in self.peers[peer].neighbours.clone() {
            if self.peers[other].alive {
                for (one, two) in [(peer, other), (other, peer)] {
                    let have = self.peers[two].intake.picker().done().clone();
                    let (turns, now) = (self.setting.turns, self.now);
                    self.peers[one].intake.add_source(SourceId(two as u32), have, turns, now);
                    if let Some(fresh) = &mut self.peers[two].fresh {
                        let hints = fresh.join(one);
                        if std::env::var("NOHINT").is_err() {
                            self.peers[one].intake.hint(SourceId(two as u32), &hints);
                        }
                    }
                }
            }
        }
        self.ask(peer, None);
        for other in self.peers[peer].neighbours.clone() {
            if self.peers[other].alive {
                self.ask(other, Some(peer));
            }
        }
        let first = TICK.mul_f64(self.random.f64());
        self.at(self.now + first, Event::Tick(peer));
    }

    fn die(&mut self, peer: usize) {
        if self.peers[peer].done.is_none() {
            self.waiting -= 1;
        }
        self.peers[peer].alive = false;
        for flow in self.network.of(peer) {
            let (mut moved, mut changed) = (Vec::new(), Vec::new());
            self.network.end(flow, self.now.as_secs_f64(), &mut moved, &mut changed);
            self.settle(moved, changed);
        }
        for other in self.peers[peer].neighbours.clone() {
            self.peers[other].intake.remove_source(SourceId(peer as u32));
            self.peers[other].asked.remove(&peer);
            let calls = self.peers[other].turns.leave(ClientId(peer as u64), self.now);
            self.follow(other, calls);
            self.ask(other, None);
        }
    }

    fn hear(&mut self, from: usize, to: usize, message: Message) {
        let now = self.now;
        let (client, peer) = (ClientId(from as u64), &mut self.peers[to]);
        let calls = match message {
            Message::Wish(wish, rate) => {
                peer.turns.wish(client, wish.map(|_| FILE), rate, wish == Some(true), now)
            }
            Message::Pass => peer.turns.pass(client, now),
            Message::Chunk(index) if self.setting.turns => {
                peer.asked.entry(from).or_default().push_back(index);
                peer.turns.asked(client, FILE, index, now)
            }
            Message::Hint(hints) => {
                peer.intake.hint(SourceId(from as u32), &hints);
                return self.ask(to, Some(from));
            }
            Message::Chunk(index) => {
                if let Some(fresh) = &mut peer.fresh {
                    let hints = fresh.asked(from, index);
                    if !hints.is_empty() && std::env::var("NOHINT").is_err() {
                        self.say(to, from, Message::Hint(hints));
                    }
                }
                let peer = &mut self.peers[to];
                let asked = peer.asked.entry(from).or_default();
                asked.push_back(index);
                if asked.len() == 1 {
                    self.send(to, from, index);
                }
                return;
            }
            Message::Turn(fresh, rate) => {
                peer.intake.turn(SourceId(from as u32), &fresh, rate, now, &mut self.random);
                return self.ask(to, Some(from));
            }
        };
        self.follow(to, calls);
    }

    /// Does what a peer's giving half says.
    fn follow(&mut self, peer: usize, calls: Vec<Call>) {
        for call in calls {
            match call {
                Call::Turn { client, fresh, .. } => {
                    let rate = self.peers[peer].turns.rate();
                    self.say(peer, client.0 as usize, Message::Turn(fresh, rate));
                }
                Call::Send(client) => {
                    let to = client.0 as usize;
                    let asked = self.peers[peer].asked.get(&to).and_then(|asked| asked.front().copied());
                    if let Some(index) = asked {
                        self.send(peer, to, index);
                    }
                }
            }
        }
    }

    /// Says what a peer's taking half has to say.
    fn ask(&mut self, peer: usize, changed: Option<usize>) {
        if peer < self.setting.seeders {
            return;
        }
        let changed = changed.map(|other| SourceId(other as u32));
        let asks = self.peers[peer].intake.asks(changed, self.now, &mut self.random);
        for ask in asks {
            let rate = self.peers[peer].intake.rate();
            match ask {
                Ask::Chunk(source, index) => self.say(peer, source.0 as usize, Message::Chunk(index)),
                Ask::Pass(source) => self.say(peer, source.0 as usize, Message::Pass),
                Ask::Wish { source, room, hungry } => {
                    self.say(peer, source.0 as usize, Message::Wish(room.then_some(hungry), rate));
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, index: ChunkIndex) {
        let total =
            if self.setting.relay { self.length(index).div_ceil(self.setting.block) as u32 } else { 1 };
        self.transfers.insert((from, to), Transfer { index, blocks: 0, total, parked: true });
        self.block(from, to);
    }

    /// How many blocks of a chunk a peer has.
    fn blocks(&self, peer: usize, index: ChunkIndex, total: u32) -> u32 {
        if self.peers[peer].intake.picker().done().has(index) {
            return total;
        }
        let neighbours = self.peers[peer].neighbours.iter();
        let coming = neighbours.filter_map(|other| self.transfers.get(&(*other, peer)));
        coming.filter(|transfer| transfer.index == index).map(|transfer| transfer.blocks).max().unwrap_or(0)
    }

    /// Sends the next block, if it is there.
    fn block(&mut self, from: usize, to: usize) {
        let Some(transfer) = self.transfers.get(&(from, to)) else { return };
        let (index, blocks, total) = (transfer.index, transfer.blocks, transfer.total);
        let there = self.blocks(from, index, total) > blocks;
        if let Some(transfer) = self.transfers.get_mut(&(from, to)) {
            transfer.parked = !there;
        }
        if !there {
            return;
        }
        let bytes = self.length(index) as f64 * self.setting.overhead / f64::from(total);
        let (mut moved, mut changed) = (Vec::new(), Vec::new());
        let now = self.now.as_secs_f64();
        self.network.start((from, to, index), bytes, now, &mut moved, &mut changed);
        self.settle(moved, changed);
    }

    fn wake(&mut self, peer: usize, index: ChunkIndex) {
        for other in self.peers[peer].neighbours.clone() {
            let transfer = self.transfers.get(&(peer, other));
            if transfer.is_some_and(|transfer| transfer.parked && transfer.index == index) {
                self.block(peer, other);
            }
        }
    }

    fn length(&self, index: ChunkIndex) -> u64 {
        let whole = self.setting.chunk;
        whole.min(self.setting.size - u64::from(index.0) * whole)
    }

    fn settle(&mut self, moved: Vec<Moved>, changed: Vec<(usize, u32, f64)>) {
        for Moved { from, to, index, bytes } in moved {
            let (bytes, length) = ((bytes / self.setting.overhead) as u64, self.length(index));
            let calls = self.peers[from].turns.moved(ClientId(to as u64), bytes, length, self.now);
            self.follow(from, calls);
            self.peers[to].intake.moved(SourceId(from as u32), bytes, length, self.now);
        }
        for (flow, version, end) in changed {
            self.at(Duration::from_secs_f64(end).max(self.now), Event::FlowEnds(flow, version));
        }
    }

    fn flow_ends(&mut self, flow: usize) {
        let (mut moved, mut changed) = (Vec::new(), Vec::new());
        let ended = self.network.end(flow, self.now.as_secs_f64(), &mut moved, &mut changed);
        self.settle(moved, changed);
        let Some(flow) = ended else { return };
        let (now, bytes) = (self.now, self.length(flow.index));
        let Some(transfer) = self.transfers.get_mut(&(flow.from, flow.to)) else { return };
        transfer.blocks += 1;
        let (blocks, total) = (transfer.blocks, transfer.total);
        if self.setting.relay && blocks == 1 && !self.peers[flow.to].intake.picker().done().has(flow.index) {
            self.at(now + self.setting.latency, Event::Got(flow.to, flow.index));
        }
        if blocks == total {
            self.transfers.remove(&(flow.from, flow.to));
        } else {
            self.block(flow.from, flow.to);
        }
        if blocks < total || total > 1 {
            // wake those who wait for this block (the map of done chunks is brought up to date below)
            if blocks < total {
                self.wake(flow.to, flow.index);
                return;
            }
        }
        self.sent += bytes;
        if flow.from < self.setting.seeders {
            self.seeder_sent += bytes;
        }
        let giver = &mut self.peers[flow.from];
        let left = giver.asked.get_mut(&flow.to).and_then(|asked| {
            asked.pop_front();
            asked.front().copied()
        });
        match self.setting.turns {
            true => {
                let calls = giver.turns.sent(ClientId(flow.to as u64), now);
                self.follow(flow.from, calls);
            }
            false => left.into_iter().for_each(|index| self.send(flow.from, flow.to, index)),
        }
        let source = SourceId(flow.from as u32);
        let taker = &mut self.peers[flow.to];
        let news = taker.intake.arrived(source, flow.index, now);
        self.wake(flow.to, flow.index);
        match news {
            true if self.setting.relay => {}
            true => self.at(now + self.setting.latency, Event::Got(flow.to, flow.index)),
            false => self.wasted += bytes,
        }
        let taker = &mut self.peers[flow.to];
        if taker.done.is_none() && taker.intake.picker().done().held() == self.count {
            taker.done = Some(now);
            self.waiting -= 1;
        }
        self.ask(flow.to, Some(flow.from));
    }
}

/// Who knows whom: everybody knows as many others as there may be neighbours, about, and all ways lead both ways.
fn acquaint(total: usize, most: usize, random: &mut fastrand::Rng) -> Vec<Vec<usize>> {
    if total - 1 <= most {
        return (0..total).map(|peer| (0..total).filter(|other| *other != peer).collect()).collect();
    }
    let mut graph = vec![Vec::new(); total];
    for peer in 0..total {
        while graph[peer].len() < most / 2 {
            let other = random.usize(..total);
            if other != peer && !graph[peer].contains(&other) {
                graph[peer].push(other);
            }
        }
    }
    for peer in 0..total {
        for at in 0..most / 2 {
            let other: usize = graph[peer][at];
            if graph[other].len() < most && !graph[other].contains(&peer) {
                graph[other].push(peer);
            } else if !graph[other].contains(&peer) {
                graph[peer][at] = usize::MAX;
            }
        }
    }
    for known in &mut graph {
        known.retain(|other| *other != usize::MAX);
    }
    graph
}
