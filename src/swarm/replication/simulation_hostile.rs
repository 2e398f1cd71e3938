//! Simulation of hostile volunteers beside three honest ones. They claim all chunks, store nothing, and answer
//! challenges with random bytes, with bytes that they fetch from honest volunteers, or not at all. A seed draws
//! number, kind and times. No chunk is ever lost: the tracker or an honest volunteer has it.

use super::{Order, ReplicationPlanner, Settings, StorageOffer};
use crate::content::{ChunkIndex, FileId, Layout, PeerName};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::CopyFailure;
use crate::swarm::Moment;
use crate::swarm::keeping::{Approval, Location, OffloadResult, OwnCopy, Verdict, VolunteerNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

const FILE: FileId = FileId([5; 32]);
const CHUNKS: u32 = 12;
const CHUNK: u64 = 16 * 1024;
const HONEST: u32 = 3;
const RUNS: u64 = 200;
/// Time at which all hostile volunteers have left.
const END_OF_ATTACK: u64 = 150;
/// Time at which all copies have been repaired.
const END: u64 = 1_500;

/// How a hostile volunteer answers challenges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    Random,
    Fetched,
    None,
}

/// A key of a hostile volunteer.
#[derive(Clone, Debug)]
struct Hostile {
    key: u128,
    address: SocketAddr,
    answer: Answer,
    /// It claims all chunks when it joins.
    claims_all: bool,
    /// It reports honest sources as corrupt instead of claiming that it has stored a chunk.
    accuses: bool,
    away: Option<Duration>,
    joins_s: u64,
    leaves_s: u64,
}

struct Simulation {
    planner: ReplicationPlanner,
    random: fastrand::Rng,
    now: Moment,
    /// Chunks that honest volunteers have.
    disk: BTreeSet<(VolunteerNumber, u32)>,
    whole: bool,
    store: BTreeSet<u32>,
    hostile: BTreeMap<VolunteerNumber, Hostile>,
    revoked: BTreeSet<u64>,
    seed: u64,
}

fn draw_hostile(random: &mut fastrand::Rng, can_answer: bool) -> Vec<Hostile> {
    let leaves_together_s = random.u64(40..END_OF_ATTACK);
    let mut hostile = Vec::new();
    for program in 0..random.u32(1..=20) {
        let answers = [Answer::Random, Answer::None, Answer::Fetched];
        let answer = answers[random.usize(..if can_answer { 3 } else { 2 })];
        let [claims_all, accuses, stays] = [random.bool(), random.u8(..5) == 0, random.u8(..4) == 0];
        let joins_s = random.u64(..60);
        for key in 0..random.u32(1..=4) {
            let port = 1_000 + if random.bool() { key as u16 } else { 0 };
            hostile.push(Hostile {
                key: u128::from(1_000 + program * 10 + key),
                address: SocketAddr::from(([10, 1, 0, program as u8], port)),
                answer,
                claims_all,
                accuses,
                away: random.bool().then_some(Duration::from_secs(600)),
                joins_s,
                leaves_s: if stays { END_OF_ATTACK } else { leaves_together_s.max(joins_s + 1) },
            });
        }
    }
    hostile
}

impl Simulation {
    fn new(seed: u64, approve: bool) -> Self {
        let settings = Settings { offload: true, approve, ..Settings::default() };
        let mut planner = ReplicationPlanner::new(settings, fastrand::Rng::with_seed(seed));
        planner.scan_complete(Duration::ZERO);
        Self {
            planner,
            random: fastrand::Rng::with_seed(seed),
            now: Duration::ZERO,
            disk: BTreeSet::new(),
            whole: false,
            store: BTreeSet::new(),
            hostile: BTreeMap::new(),
            revoked: BTreeSet::new(),
            seed,
        }
    }

    fn join(&mut self, key: u128, address: SocketAddr, away: Option<Duration>) -> Option<VolunteerNumber> {
        let name = PeerName::new(format!("v{key}")).unwrap();
        let (source, space) = (address.ip(), 1 << 30);
        let key = VolunteerKey(key);
        let offer = StorageOffer { key, name, address, source, offered: space, free: space, away };
        self.planner.join(self.now, offer).ok()
    }

    fn claim_all(&mut self, number: VolunteerNumber) {
        let chunks: Vec<ChunkIndex> = (0..CHUNKS).map(ChunkIndex).collect();
        self.planner.holds(self.now, number, FILE, &chunks, true);
    }

    fn answer(&mut self, holder: VolunteerNumber, index: u32) -> Verdict {
        let is_at_tracker = self.whole || self.store.contains(&index);
        let is_fetched = is_at_tracker || self.disk.iter().any(|(_, held)| *held == index);
        match self.hostile.get(&holder).map(|hostile| hostile.answer) {
            None if self.disk.contains(&(holder, index)) => Verdict::Right,
            None | Some(Answer::Random) => Verdict::Wrong,
            Some(Answer::Fetched) if is_fetched => Verdict::Right,
            Some(Answer::Fetched | Answer::None) => Verdict::CannotTell,
        }
    }

    fn carry_out(&mut self, order: Order) {
        let now = self.now;
        match order {
            Order::Copy { index, from, to, .. } => self.copy(index, from, to),
            Order::Drop { at, file, chunks, .. } => {
                self.disk.retain(|(holder, index)| *holder != at || !chunks.contains(&ChunkIndex(*index)));
                self.planner.dropped(now, Location::Volunteer(at), file, &chunks, None);
            }
            Order::DropOwn { file, chunks, permit, .. } => {
                let chunks = if self.revoked.contains(&permit) { Vec::new() } else { chunks };
                self.store.retain(|index| !chunks.contains(&ChunkIndex(*index)));
                self.planner.dropped(now, Location::Tracker, file, &chunks, None);
            }
            Order::Offload { permit, .. } => {
                let result = match self.revoked.contains(&permit) {
                    true => OffloadResult::Revoked,
                    false => OffloadResult::Deleted,
                };
                self.whole &= result != OffloadResult::Deleted;
                self.planner.offloaded(now, FILE, result);
            }
            Order::Prove { number, index, holders, .. } => {
                let own = match self.whole || self.store.contains(&index.0) {
                    true => OwnCopy::Right,
                    false => OwnCopy::Absent,
                };
                let mut verdicts: Vec<(VolunteerNumber, Verdict)> =
                    holders.iter().map(|holder| (*holder, self.answer(*holder, index.0))).collect();
                let has_bytes =
                    own == OwnCopy::Right || verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Right);
                if !has_bytes {
                    verdicts.iter_mut().for_each(|(_, verdict)| *verdict = Verdict::CannotTell);
                }
                self.planner.proved(now, number, own, &verdicts);
            }
            Order::Check { volunteer, file, chunks } => {
                let is_hostile = self.hostile.contains_key(&volunteer);
                for index in chunks {
                    if is_hostile || self.disk.contains(&(volunteer, index.0)) {
                        self.planner.holds(now, volunteer, file, &[index], true);
                    } else {
                        self.planner.spoiled(now, Location::Volunteer(volunteer), file, &[index], None);
                    }
                }
            }
            Order::Lost { chunks, .. } => panic!("seed {}: {chunks:?} reported as lost", self.seed),
            Order::Withdraw { .. } => panic!("the tracker's copy is right"),
            _ => {}
        }
    }

    fn copy(&mut self, index: ChunkIndex, from: Location, to: Location) {
        let now = self.now;
        let has = match from {
            Location::Tracker => self.whole || self.store.contains(&index.0),
            Location::Volunteer(number) => self.disk.contains(&(number, index.0)),
        };
        if let Location::Volunteer(number) = to
            && let Some(hostile) = self.hostile.get(&number)
        {
            if hostile.accuses {
                self.planner.not_stored(now, to, FILE, index, CopyFailure::Corrupt, None);
            } else {
                self.planner.stored(now, to, FILE, index, None);
            }
            return;
        }
        if !has {
            self.planner.not_stored(now, to, FILE, index, CopyFailure::Corrupt, None);
            return;
        }
        match to {
            Location::Tracker => _ = self.store.insert(index.0),
            Location::Volunteer(number) => _ = self.disk.insert((number, index.0)),
        }
        self.planner.stored(now, to, FILE, index, None);
    }

    /// Carries out orders, in random order.
    fn settle(&mut self, most: usize) {
        let mut orders: Vec<Order> = Vec::new();
        for _ in 0..most {
            orders.extend(self.planner.take_orders());
            for order in &orders {
                if let Order::Revoke(permit) = order {
                    self.revoked.insert(*permit);
                }
            }
            while let Some((number, _)) = self.planner.take_record(self.now) {
                self.planner.recorded(self.now, number);
            }
            if orders.is_empty() {
                return;
            }
            let order = orders.swap_remove(self.random.usize(..orders.len()));
            self.carry_out(order);
            self.check();
        }
        self.planner.recount();
        for order in orders {
            self.carry_out(order);
        }
        self.check();
    }

    fn check(&self) {
        for index in (0..CHUNKS).filter(|_| !self.whole) {
            let is_there = self.store.contains(&index) || self.disk.iter().any(|(_, held)| *held == index);
            assert!(is_there, "seed {}: chunk {index} is lost at {:?}", self.seed, self.now);
        }
    }

    fn pass_to(&mut self, end: Moment) {
        for _ in 0..200 {
            let Some(due) = self.planner.next_tick().filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            self.planner.tick(self.now);
            self.settle(60);
        }
        self.now = end;
    }

    fn run(&mut self, mut hostile: Vec<Hostile>) {
        let publishes_s = self.random.u64(..40);
        for honest in 0..HONEST {
            let address = SocketAddr::from(([10, 0, 0, honest as u8], 7_000));
            let number = self.join(honest.into(), address, None).unwrap();
            self.planner.set_approval(self.now, number, Approval::Approved);
            self.planner.report_complete(self.now, number);
        }
        let mut second = 0;
        while second < END {
            if second == publishes_s {
                self.whole = true;
                let layout = Layout::even(u64::from(CHUNKS) * CHUNK, Some(CHUNK as u32)).unwrap();
                self.planner.add_file(self.now, FILE, layout);
                self.planner.set_complete_at_tracker(self.now, FILE, true);
                let liars: Vec<VolunteerNumber> = self.hostile.keys().copied().collect();
                liars.into_iter().for_each(|number| self.claim_all(number));
            }
            for one in hostile.extract_if(.., |one| one.joins_s <= second).collect::<Vec<_>>() {
                let Some(number) = self.join(one.key, one.address, one.away) else { continue };
                if one.claims_all && self.whole {
                    self.claim_all(number);
                }
                self.hostile.insert(number, one);
                self.planner.report_complete(self.now, number);
            }
            let leaving = self.hostile.extract_if(.., |_, one| one.leaves_s <= second);
            for (number, one) in leaving.collect::<Vec<_>>() {
                match one.away {
                    Some(_) => self.planner.disconnect(self.now, number),
                    None => self.planner.mark_away(self.now, number),
                }
            }
            self.settle(40);
            // Without hostile volunteers, time passes faster.
            second += if second > END_OF_ATTACK { 30 } else { 1 };
            self.pass_to(Duration::from_secs(second));
        }
    }
}

#[test]
fn hostile_volunteers_destroy_no_chunk_if_volunteers_need_approval() {
    for seed in 0..RUNS {
        let mut simulation = Simulation::new(seed, true);
        let hostile = draw_hostile(&mut simulation.random, true);
        simulation.run(hostile);
        assert!(!simulation.whole, "seed {seed}: approved volunteers have proven all copies");
    }
}

#[test]
fn hostile_volunteers_that_cannot_answer_challenges_destroy_no_chunk_if_all_volunteers_count() {
    for seed in 0..RUNS {
        let mut simulation = Simulation::new(seed, false);
        let hostile = draw_hostile(&mut simulation.random, false);
        simulation.run(hostile);
        assert!(!simulation.whole, "seed {seed}: honest volunteers have proven all copies");
        for index in 0..CHUNKS {
            let holders = simulation.disk.iter().filter(|(_, held)| *held == index).count();
            assert!(holders >= 2, "seed {seed}: chunk {index} has {holders} honest copies");
        }
    }
}
