//! Simulation of 1,000 volunteers, a tenth of which die within an hour.
//!
//! Only the links are simulated. A link carries one copy at a time, at the rate of the slower end; further
//! copies wait. A volunteer that dies loses its disk and its copies in flight, and the tracker notices at the
//! end of the lease.

use super::{Order, ReplicationPlanner, Settings, StorageOffer};
use crate::content::{ChunkIndex, FileId, Layout, PeerName, limits};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::CopyFailure;
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, Location, OffloadResult, OwnCopy, Verdict, VolunteerNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

const VOLUNTEERS: u32 = 1_000;
const DEATHS: u32 = VOLUNTEERS / 10;
const CHUNKS: u32 = 20_000;
const CHUNK: u64 = limits::CHUNK_SIZE as u64;
const HOUR: Duration = Duration::from_secs(3_600);
const FILE: FileId = FileId([5; 32]);
/// Link rates of volunteers in bytes a second.
const RATES: [u64; 3] = [6_000_000, 12_500_000, 25_000_000];
/// Duration of a proof.
const PROOF_TIME: Duration = Duration::from_millis(20);
const TRACKER_RATE: u64 = 1_250_000_000;
/// Upper limit of the time, beyond the lease, that the links need to repair one volunteer: its 40 chunks wait
/// for about 40 sources, each of which may be busy with a few copies to the slowest targets.
const REPAIR_TIME_MAX: Duration = Duration::from_secs(5);

/// A scheduled event.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Arrived { index: u32, from: Location, to: Location },
    Recorded(u64),
    Proved { number: u64, index: u32, holders: Vec<VolunteerNumber> },
    Dies(u32),
}

/// Time from which each direction of each link is free.
#[derive(Default)]
struct Links {
    up: BTreeMap<Location, Moment>,
    down: BTreeMap<Location, Moment>,
}

fn rate(location: Location) -> u64 {
    match location {
        Location::Tracker => TRACKER_RATE,
        Location::Volunteer(number) => RATES[number.0 as usize % RATES.len()],
    }
}

impl Links {
    /// Arrival time of a copy that is ordered now.
    fn carry(&mut self, now: Moment, from: Location, to: Location) -> Moment {
        let free =
            |links: &BTreeMap<Location, Moment>, location| links.get(&location).copied().unwrap_or_default();
        let begins = now.max(free(&self.up, from)).max(free(&self.down, to));
        let took = |rate: u64| Duration::from_secs_f64(CHUNK as f64 / rate as f64);
        // The faster end finishes its part earlier and starts the next copy.
        self.up.insert(from, begins + took(rate(from)));
        self.down.insert(to, begins + took(rate(to)));
        begins + took(rate(from).min(rate(to)))
    }
}

struct Simulation {
    planner: ReplicationPlanner,
    now: Moment,
    events: BTreeSet<(Moment, u64, Event)>,
    number: u64,
    links: Links,
    dead: BTreeSet<VolunteerNumber>,
    /// The actual holders of each chunk.
    holders: Vec<BTreeSet<VolunteerNumber>>,
    /// Time since which each chunk has fewer copies than wanted.
    short_since: Vec<Option<Moment>>,
    whole: bool,
    lost: BTreeSet<u32>,
    named: BTreeSet<u32>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let settings = Settings { offload: true, approve: false, ..Settings::default() };
        let mut planner = ReplicationPlanner::new(settings, fastrand::Rng::with_seed(seed));
        planner.scan_complete(Duration::ZERO);
        for number in 0..VOLUNTEERS {
            let [.., a, b] = number.to_be_bytes();
            let address = SocketAddr::from(([10, 0, a, b], 6000));
            let name = PeerName::new(format!("v{number}")).unwrap();
            let key = VolunteerKey(number.into());
            let (source, offered, free) = (address.ip(), 1 << 30, 1 << 30);
            let offer = StorageOffer { key, name, address, source, offered, free, away: None };
            let number = planner.join(Duration::ZERO, offer).unwrap();
            planner.report_complete(Duration::ZERO, number);
        }
        Self {
            planner,
            now: Duration::ZERO,
            events: BTreeSet::new(),
            number: 0,
            links: Links::default(),
            dead: BTreeSet::new(),
            holders: vec![BTreeSet::new(); CHUNKS as usize],
            short_since: vec![None; CHUNKS as usize],
            whole: true,
            lost: BTreeSet::new(),
            named: BTreeSet::new(),
        }
    }

    fn after(&mut self, at: Moment, event: Event) {
        self.number += 1;
        self.events.insert((at, self.number, event));
    }

    fn is_dead(&self, location: Location) -> bool {
        matches!(location, Location::Volunteer(number) if self.dead.contains(&number))
    }

    fn carry_out(&mut self) {
        for order in self.planner.take_orders() {
            match order {
                Order::Copy { index, from, to, .. } => {
                    let arrives = self.links.carry(self.now, from, to);
                    self.after(arrives, Event::Arrived { index: index.0, from, to });
                }
                Order::Offload { .. } => {
                    self.whole = false;
                    self.planner.offloaded(self.now, FILE, OffloadResult::Deleted);
                }
                Order::Lost { chunks, .. } => self.named.extend(chunks.iter().map(|index| index.0)),
                Order::Prove { number, index, holders, .. } => {
                    self.after(self.now + PROOF_TIME, Event::Proved { number, index: index.0, holders });
                }
                Order::Drop { .. } | Order::DropOwn { .. } => {
                    panic!("no volunteer returns, so no chunk is over-replicated: {order:?}")
                }
                Order::Check { .. } | Order::Withdraw { .. } | Order::Warn(_) | Order::Verified { .. } => {
                    panic!("no copy is bad: {order:?}")
                }
                Order::Drained { .. } | Order::Note(..) | Order::Revoke(_) => {}
            }
        }
        while let Some((number, changes)) = self.planner.take_record(self.now) {
            assert!(changes.iter().all(|change| !matches!(change, Change::Forgotten(_))));
            self.after(self.now + Duration::from_millis(5), Event::Recorded(number));
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Arrived { to, .. } if self.is_dead(to) => {}
            Event::Arrived { index, from, to } if self.is_dead(from) => {
                let why = CopyFailure::Unreachable;
                self.planner.not_stored(self.now, to, FILE, ChunkIndex(index), why, None);
            }
            Event::Arrived { index, to, .. } => {
                let Location::Volunteer(number) = to else { panic!("there is room at volunteers") };
                let holders = &mut self.holders[index as usize];
                assert!(holders.insert(number), "one copy per volunteer");
                if holders.len() >= 2 {
                    self.short_since[index as usize] = None;
                }
                self.planner.stored(self.now, to, FILE, ChunkIndex(index), None);
            }
            Event::Recorded(number) => self.planner.recorded(self.now, number),
            Event::Proved { number, index, holders } => {
                let verdict = |holder: VolunteerNumber| match self.dead.contains(&holder) {
                    true => Verdict::CannotTell,
                    false => {
                        assert!(self.holders[index as usize].contains(&holder));
                        Verdict::Right
                    }
                };
                let verdicts: Vec<_> = holders.iter().map(|holder| (*holder, verdict(*holder))).collect();
                let own = if self.whole { OwnCopy::Right } else { OwnCopy::Absent };
                self.planner.proved(self.now, number, own, &verdicts);
            }
            Event::Dies(number) => self.die(VolunteerNumber(number)),
        }
    }

    fn die(&mut self, number: VolunteerNumber) {
        self.dead.insert(number);
        for (index, holders) in (0u32..).zip(&mut self.holders) {
            if !holders.remove(&number) {
                continue;
            }
            let since = &mut self.short_since[index as usize];
            if holders.is_empty() {
                self.lost.insert(index);
                let open = self.now - since.expect("it had two copies");
                assert!(
                    open <= limits::LEASE_TIMEOUT + REPAIR_TIME_MAX,
                    "chunk {index} was left with one copy for {open:?}"
                );
            }
            *since = Some(self.now);
        }
        self.planner.mark_away(self.now, number);
    }

    fn run_until(&mut self, end: Moment) {
        loop {
            self.carry_out();
            let event = self.events.first().map(|(at, ..)| *at);
            let tick = self.planner.next_tick();
            let Some(next) = event.into_iter().chain(tick).min().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            match event.filter(|at| *at <= self.now) {
                Some(_) => {
                    let (_, _, event) = self.events.pop_first().expect("it was there");
                    self.apply(event);
                }
                None => self.planner.tick(self.now),
            }
        }
    }

    /// Minimum, maximum and mean number of copies at the alive volunteers.
    fn balance(&self) -> (f64, f64, f64) {
        let mut copies: BTreeMap<VolunteerNumber, u32> = BTreeMap::new();
        for number in self.holders.iter().flatten() {
            *copies.entry(*number).or_default() += 1;
        }
        let living = f64::from(VOLUNTEERS) - self.dead.len() as f64;
        let mean = f64::from(copies.values().sum::<u32>()) / living;
        assert_eq!(copies.len() as f64, living, "each volunteer has a copy");
        let extreme = |extreme: Option<&u32>| f64::from(*extreme.expect("there are some"));
        (extreme(copies.values().min()), extreme(copies.values().max()), mean)
    }
}

#[test]
fn repair_survives_the_death_of_100_of_1000_volunteers_in_an_hour() {
    let mut simulation = Simulation::new(11);
    let layout = Layout::even(u64::from(CHUNKS) * CHUNK, Some(limits::CHUNK_SIZE)).unwrap();
    simulation.planner.add_file(Duration::ZERO, FILE, layout);
    simulation.planner.set_complete_at_tracker(Duration::ZERO, FILE, true);
    let day = Duration::from_secs(400);
    simulation.run_until(day);
    assert!(!simulation.whole, "the file is distributed, recorded and offloaded");
    assert!(simulation.holders.iter().all(|holders| holders.len() == 2));
    let (fewest, most, mean) = simulation.balance();
    assert!(fewest >= 0.9 * mean && most <= 1.1 * mean, "{fewest} to {most} copies, {mean} on average");

    let mut random = fastrand::Rng::with_seed(3);
    let mut victims: Vec<u32> = (0..VOLUNTEERS).collect();
    random.shuffle(&mut victims);
    for number in victims.into_iter().take(DEATHS as usize) {
        let at = day + Duration::from_millis(random.u64(..HOUR.as_millis() as u64));
        simulation.after(at, Event::Dies(number));
    }
    simulation.run_until(day + HOUR + Duration::from_secs(60));

    assert_eq!(simulation.dead.len() as u32, DEATHS);
    assert_eq!(simulation.named, simulation.lost, "exactly the lost chunks are reported");
    for (index, holders) in (0u32..).zip(&simulation.holders) {
        let wanted = if simulation.lost.contains(&index) { 0 } else { 2 };
        assert_eq!(holders.len(), wanted, "chunk {index}");
    }
    let (fewest, most, mean) = simulation.balance();
    assert!(fewest >= 0.9 * mean && most <= 1.1 * mean, "{fewest} to {most} copies, {mean} on average");
    let status = simulation.planner.status(simulation.now, |_| None);
    assert_eq!((status.copies.short, status.copies.lost), (status.copies.lost, simulation.lost.len() as u64));
    simulation.planner.recount();
}
