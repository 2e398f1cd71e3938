//! The peers of a simulated swarm, and the events of the simulation in order of time.

mod clients;
mod connections;
mod membership;
mod peer;
mod setting;
mod transfers;
mod trees;

pub use setting::{Outcome, Setting};

use crate::agenda::Agenda;
use crate::network::{Forecast, Link, Network};
use clients::Clients;
use connections::draw_connections;
use peer::Peer;
use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::Moment;
use shoal::swarm::picker::SourceId;
use shoal::swarm::super_seeding::SuperSeeder;
use shoal::swarm::trees::{Moved, Trees};
use std::time::Duration;

/// Interval at which a peer checks for late chunks, as in the daemons.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// An event of the simulation. Peers are named by their index.
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
            self.handle(event);
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

    fn handle(&mut self, event: Event) {
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

    fn length(&self, index: ChunkIndex) -> u64 {
        let whole = self.setting.chunk;
        whole.min(self.setting.size - u64::from(index.0) * whole)
    }
}
