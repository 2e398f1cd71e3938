//! The peers of a simulated swarm, and the events of the simulation in order of time.

mod clients;
mod faults;
mod membership;
mod peer;
mod rings;
mod setting;
mod transfers;

pub use faults::Fault;
pub use setting::{Outcome, Setting};

use crate::agenda::Agenda;
use crate::network::{Forecast, Link, Network};
use peer::Peer;
use shoal::content::{Bitfield, ChunkIndex};
use shoal::swarm::Moment;
use shoal::swarm::rings::Placement;
use shoal::swarm::super_seeding::SuperSeeder;
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
    /// From, to: a request for a chunk of the seeder's choice, and the chunks that the peer has gained.
    Next(usize, usize, Vec<ChunkIndex>),
    /// From, to: the seeder has sent each chunk once.
    Spent(usize, usize),
    /// The transfer from a seeder to a peer may begin now.
    Serve(usize, usize),
    /// A connection of the first peer to the second one has been made.
    Meet(usize, usize),
    /// The clients of this peer that are told immediately learn that a chunk started to arrive at this time.
    Coming(usize, ChunkIndex, Moment),
    /// All clients of this peer learn which chunks it has received.
    News(usize),
    BlockEnds(usize, u32),
    /// A peer has a new predecessor in the rings of a seeder.
    Placed(usize, Placement<usize>),
    /// A peer has lost a source, or could not connect to it.
    Lost(usize, usize),
    /// A peer tries again to connect to another one.
    Redial(usize, usize),
    /// A partition begins or ends.
    Cut(bool),
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
    /// Whether a partition is present.
    is_cut: bool,
    seeder_sent: u64,
    sent: u64,
    wasted: u64,
    messages: u64,
}

impl World {
    /// A swarm with random links.
    pub fn new(setting: Setting) -> Self {
        let mut random = fastrand::Rng::with_seed(setting.seed);
        let count = setting.size.div_ceil(setting.chunk) as u32;
        let total = setting.seeders + setting.peers;
        let mut draw = |(least, most): (f64, f64)| least * (most / least).powf(random.f64());
        let of = |ranges: &[(f64, f64)], peer: usize| ranges[peer % ranges.len()];
        let mut links: Vec<Link> = (0..total)
            .map(|peer| match peer.checked_sub(setting.seeders) {
                None => Link::new(setting.seeder_up, setting.seeder_up),
                Some(leecher) => Link::new(draw(of(&setting.up, leecher)), draw(of(&setting.down, leecher))),
            })
            .collect();
        if let (Some(slow), Some(last)) = (setting.slow_up, links.last_mut()) {
            last.up = slow;
        }
        if let (Some(slow), Some(last)) = (setting.slow, links.last_mut()) {
            *last = Link::new(slow, slow);
        }
        let peers = (0..total).map(|peer| {
            let seeds = peer < setting.seeders;
            let have = if seeds { Bitfield::all(count) } else { Bitfield::none(count) };
            let have = match setting.fault {
                Some(Fault::Resumed) if !seeds => half(have, &mut random),
                _ => have,
            };
            let mut one = Peer::new(have, setting.seeders);
            if seeds {
                one.super_seeder = setting.super_seeds.then(|| SuperSeeder::new(count, &mut random));
                one.has = vec![Bitfield::none(count); total];
                one.alive = true;
            } else {
                one.sources = (0..setting.seeders).collect();
            }
            one
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
            is_cut: false,
            seeder_sent: 0,
            sent: 0,
            wasted: 0,
            messages: 0,
            setting,
        };
        world.schedule_joins_and_deaths();
        world.schedule_fault();
        world
    }

    /// Schedules the events that do not depend on the behaviour of the peers.
    fn schedule_joins_and_deaths(&mut self) {
        let first = self.setting.seeders;
        let horizon = self.bound();
        for peer in first..self.peers.len() {
            let mut start = self.setting.apart * (peer - first) as u32;
            if self.random.f64() < self.setting.late {
                start += Duration::from_secs_f64(self.random.f64() * horizon);
            }
            self.peers[peer].began = start;
            // Peers do not connect at the same moment.
            let jitter = self.setting.startup.mul_f64(0.5 + 0.5 * self.random.f64());
            self.at(start + jitter, Event::Join(peer));
            if self.random.f64() < self.setting.dying {
                let at = start + jitter + Duration::from_secs_f64(self.random.f64() * horizon);
                self.at(at, Event::Die(peer));
            }
        }
        self.waiting = (first..self.peers.len()).filter(|peer| self.counts(*peer)).count();
        if let Some(at) = self.setting.kill {
            self.at(at, Event::Die(self.peers.len() - 1));
        }
    }

    /// Whether a peer is in the result: each leecher, except one with a deliberately slow link, and silent ones.
    fn counts(&self, peer: usize) -> bool {
        let is_slow = self.setting.slow.is_some() && peer + 1 == self.peers.len();
        peer >= self.setting.seeders && !is_slow && !self.is_silent(peer)
    }

    /// The fluid bound: the least time in which all counted leechers can have the file, seconds.
    fn bound(&self) -> f64 {
        let counted = (self.setting.seeders..self.peers.len()).filter(|peer| self.counts(*peer));
        let counted: Vec<usize> = counted.collect();
        let links = &self.network.links;
        let size = self.setting.size as f64;
        let left_seeders = match self.setting.fault {
            Some(Fault::RootLeaves) => 1..self.setting.seeders,
            _ => 0..self.setting.seeders,
        };
        let (missing, from_seeders) = match self.setting.fault {
            Some(Fault::Resumed) => (size / 2.0, 0.0),
            _ => (size, size),
        };
        let seed: f64 = links[left_seeders].iter().map(|link| link.up).sum();
        let sources = counted.iter().filter(|peer| self.is_source(**peer));
        let up: f64 = sources.map(|peer| links[*peer].up).sum();
        let narrowest = counted.iter().map(|peer| links[*peer].down).fold(f64::INFINITY, f64::min);
        let all = counted.len() as f64 * missing / (seed + up);
        (from_seeders / seed).max(missing / narrowest).max(all)
    }

    fn at(&mut self, time: Moment, event: Event) {
        self.agenda.schedule(time, event);
    }

    /// Sends a message of a peer. On a saturated uplink it waits behind the queued bytes of chunks.
    fn send_message(&mut self, from: usize, event: Event) {
        self.messages += 1;
        let queued = match self.setting.queue > 0.0 && self.network.is_saturated(from) {
            true => Duration::from_secs_f64(self.setting.queue / self.network.links[from].up),
            false => Duration::ZERO,
        };
        self.at(self.now + self.setting.latency + queued, event);
    }

    /// Runs until each counted leecher that is alive has the file.
    pub fn run(mut self) -> Outcome {
        let apart = self.setting.apart * self.setting.peers as u32;
        let limit = Duration::from_secs_f64(self.bound() * 10.0 + 120.0) + apart;
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
        let counted = self.peers.iter().enumerate().filter(|(number, _)| self.counts(*number));
        let times = counted.filter_map(|(_, peer)| Some(peer.done?.saturating_sub(peer.began)));
        let mut times: Vec<f64> = times.map(|time| time.as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        Outcome {
            bound: self.bound() + self.fault_duration().as_secs_f64(),
            last: times.last().copied().unwrap_or(f64::NAN),
            median: times.get(times.len() / 2).copied().unwrap_or(f64::NAN),
            mean: times.iter().sum::<f64>() / times.len().max(1) as f64,
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
                self.reconnect_to_seeders(peer);
                self.join_rings(peer);
                self.check_standing(peer);
                self.ask_all(peer);
                self.at(self.now + TICK_INTERVAL, Event::Tick(peer));
            }
            Event::Asks(from, to, _) if self.is_silent(to) => self.ignore_request(from, to),
            Event::Asks(from, to, index) if self.peers[from].alive && self.peers[to].alive => {
                self.asked(from, to, index);
            }
            Event::Next(from, to, news) if self.peers[from].alive && self.peers[to].alive => {
                self.asked_next(from, to, news);
            }
            Event::Spent(from, to) if self.peers[to].alive => self.spent(from, to),
            Event::Serve(from, to) => self.serve(from, to),
            Event::Meet(peer, other) if self.peers[peer].sources.contains(&other) => self.meet(peer, other),
            Event::Coming(peer, index, began) if self.peers[peer].alive => {
                self.announce_arrival(peer, index, began)
            }
            Event::News(peer) if self.peers[peer].alive => self.announce_received(peer),
            Event::Placed(root, placement) => self.placed(root, placement),
            Event::Lost(peer, other) if self.peers[peer].fetches() => self.lost(peer, other),
            Event::Redial(peer, other) => self.redial(peer, other),
            Event::Cut(is_cut) => self.set_cut(is_cut),
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

/// A random half of some chunks.
fn half(mut have: Bitfield, random: &mut fastrand::Rng) -> Bitfield {
    let count = have.count();
    for index in random.choose_multiple(0..count, count as usize / 2) {
        have.insert(ChunkIndex(index));
    }
    have
}
