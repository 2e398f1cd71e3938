//! Simulated world for tests: volunteers with disks, a tracker with a disk and a catalogue.
//!
//! It carries out orders, at once or on request, and checks each of them: sources have the chunks that they
//! give, no needed copy is dropped, no file is offloaded before its copies are recorded.

use super::super::replicas::CopyState;
use super::super::{DropReason, Order, ReplicationPlanner, Settings, StorageOffer};
use crate::content::{Bitfield, ChunkIndex, FileId, Layout, PeerName};
use crate::protocol::tokens::VolunteerKey;
use crate::swarm::Moment;
use crate::swarm::keeping::{
    Change, Location, OffloadResult, OwnCopy, Verdict, VolunteerNumber, VolunteerRecord,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

pub const CHUNK: u64 = 16 * 1024;
pub const TRACKER: Location = Location::Tracker;

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn id(number: u8) -> FileId {
    FileId([number; 32])
}

pub fn layout(chunks: u32) -> Layout {
    Layout::even(u64::from(chunks) * CHUNK, Some(CHUNK as u32)).unwrap()
}

pub fn v(number: u32) -> VolunteerNumber {
    VolunteerNumber(number)
}

pub fn at(number: u32) -> Location {
    Location::Volunteer(v(number))
}

/// Settings with which all volunteers count as approved, and no surplus copy is kept.
pub fn settings() -> Settings {
    Settings { challenge_every: None, approve: false, replicas_max: 0, ..Settings::default() }
}

/// A copy of a chunk: location, file, chunk index.
pub type StoredCopy = (Location, FileId, u32);

pub struct World {
    pub planner: ReplicationPlanner,
    pub now: Moment,
    /// Copies on all disks.
    pub disk: BTreeSet<StoredCopy>,
    /// Complete files at the tracker.
    pub whole: BTreeSet<FileId>,
    /// Copies that are corrupt.
    pub bad: BTreeSet<StoredCopy>,
    /// Complete files at the tracker with a corrupt chunk.
    pub rotten: BTreeSet<(FileId, u32)>,
    /// Volunteers whose address cannot be reached.
    pub unreachable: BTreeSet<VolunteerNumber>,
    /// Revoked permits.
    pub revoked: BTreeSet<u64>,
    /// Absence that volunteers announce when they connect.
    pub away: Option<Duration>,
    /// Orders that have not been carried out.
    pub orders: Vec<Order>,
    /// All orders so far.
    pub log: Vec<Order>,
    /// The content of the catalogue.
    pub volunteers: BTreeMap<VolunteerNumber, VolunteerRecord>,
    pub held: BTreeMap<(FileId, VolunteerNumber), Bitfield>,
    pub offloaded: BTreeMap<FileId, bool>,
    pub forgotten: BTreeSet<FileId>,
    /// Records that are not durable yet.
    pub pending: Vec<(u64, Vec<Change>)>,
    pub offered: BTreeMap<VolunteerNumber, u64>,
    pub layouts: BTreeMap<FileId, Layout>,
    /// Whether records become durable at once.
    pub records: bool,
    /// Whether all counters are compared with recomputed ones after each step.
    pub recounts: bool,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        Self {
            planner: ReplicationPlanner::new(settings, fastrand::Rng::with_seed(1)),
            now: Duration::ZERO,
            disk: BTreeSet::new(),
            whole: BTreeSet::new(),
            bad: BTreeSet::new(),
            rotten: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            revoked: BTreeSet::new(),
            away: None,
            orders: Vec::new(),
            log: Vec::new(),
            volunteers: BTreeMap::new(),
            held: BTreeMap::new(),
            offloaded: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            pending: Vec::new(),
            offered: BTreeMap::new(),
            layouts: BTreeMap::new(),
            records: true,
            recounts: true,
        }
    }

    /// A world with volunteers at different addresses, each with space for `chunks` chunks; all complete
    /// files of the tracker are known.
    pub fn with(settings: Settings, volunteers: u32, chunks: u64) -> Self {
        let mut world = Self::new(settings);
        world.planner.scan_complete(world.now);
        for number in 0..volunteers {
            world.join(number, number, chunks);
        }
        world
    }

    pub fn free(&self, number: VolunteerNumber) -> u64 {
        let held =
            self.disk.iter().filter(|(location, ..)| *location == Location::Volunteer(number)).count() as u64;
        self.offered.get(&number).copied().unwrap_or(0).saturating_sub(held * CHUNK)
    }

    /// Connects a volunteer with storage for `chunks` chunks that has not reported its chunks.
    pub fn connect(&mut self, number: u32, host: u32, chunks: u64) {
        let [.., a, b] = host.to_be_bytes();
        self.connect_at(number, SocketAddr::from(([10, 0, a, b], 1000 + number as u16)), chunks);
    }

    /// Connects a volunteer with this address.
    pub fn connect_at(&mut self, number: u32, address: SocketAddr, chunks: u64) {
        self.offered.insert(v(number), chunks * CHUNK);
        let name = PeerName::new(format!("volunteer-{number}")).unwrap();
        let key = VolunteerKey(u128::from(number) + 1);
        let free = self.free(v(number));
        let (source, away, offered) = (address.ip(), self.away, chunks * CHUNK);
        let offer = StorageOffer { key, name, address, source, offered, free, away };
        assert_eq!(self.planner.join(self.now, offer), Ok(v(number)), "volunteers of a test come in order");
        self.take();
    }

    /// Reports all chunks on the disk of a volunteer.
    pub fn report(&mut self, number: u32, checked: bool) {
        for (file, chunks) in self.chunks_of(number) {
            self.planner.holds(self.now, v(number), file, &chunks, checked);
            self.take();
        }
        self.planner.report_complete(self.now, v(number));
        self.take();
    }

    pub fn join(&mut self, number: u32, host: u32, chunks: u64) {
        self.connect(number, host, chunks);
        self.report(number, false);
    }

    pub fn chunks_of(&self, number: u32) -> BTreeMap<FileId, Vec<ChunkIndex>> {
        let mut chunks: BTreeMap<FileId, Vec<ChunkIndex>> = BTreeMap::new();
        for (_, file, index) in self.disk.iter().filter(|(location, ..)| *location == at(number)) {
            chunks.entry(*file).or_default().push(ChunkIndex(*index));
        }
        chunks
    }

    pub fn mark_lost(&mut self, number: u32) {
        self.planner.mark_lost(self.now, v(number));
        self.take();
    }

    pub fn publish(&mut self, file: FileId, chunks: u32) {
        self.layouts.insert(file, layout(chunks));
        self.whole.insert(file);
        // Publishing writes to the same catalogue, after the record that forgot the file.
        if self.planner.was_forgotten(file) {
            self.record();
            self.forgotten.remove(&file);
        }
        self.planner.add_file(self.now, file, layout(chunks));
        self.planner.set_complete_at_tracker(self.now, file, true);
        self.take();
    }

    /// Lets time pass, with a tick whenever one is due.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            let Some(next) = self.planner.next_tick().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            self.planner.tick(self.now);
            self.take();
        }
        panic!("time does not pass");
    }

    /// Takes the orders, and the records that are due.
    pub fn take(&mut self) {
        loop {
            let orders = self.planner.take_orders();
            for order in &orders {
                self.check(order);
                if let Order::Revoke(permit) = order {
                    self.revoked.insert(*permit);
                }
            }
            self.log.extend(orders.iter().cloned());
            self.orders.extend(orders);
            let Some((number, changes)) = self.planner.take_record(self.now) else { break };
            self.pending.push((number, changes));
            if self.records {
                self.record();
            }
        }
        if self.recounts {
            self.planner.recount();
        }
    }

    /// Makes all records durable.
    pub fn record(&mut self) {
        for (number, changes) in std::mem::take(&mut self.pending) {
            for change in changes {
                self.write(change);
            }
            self.planner.recorded(self.now, number);
        }
    }

    fn write(&mut self, change: Change) {
        match change {
            Change::Volunteer(record) => drop(self.volunteers.insert(record.number, record)),
            Change::VolunteerForgotten(number) => {
                self.volunteers.remove(&number);
                self.held.retain(|(_, volunteer), _| *volunteer != number);
            }
            Change::Held { file, volunteer, chunks } if chunks.held() == 0 => {
                self.held.remove(&(file, volunteer));
            }
            Change::Held { file, volunteer, chunks } => {
                assert!(self.volunteers.contains_key(&volunteer) && !self.forgotten.contains(&file));
                self.held.insert((file, volunteer), chunks);
            }
            Change::Offloaded(file, done) => drop(self.offloaded.insert(file, done)),
            Change::Kept(..) | Change::OffloadWanted(..) | Change::Corrupt(..) => {}
            Change::Forgotten(file) => {
                self.held.retain(|(held, _), _| *held != file);
                self.offloaded.remove(&file);
                self.forgotten.insert(file);
            }
        }
    }

    /// Number of proven copies of a chunk on the disks of connected volunteers that are not draining and are
    /// approved.
    fn safe(&self, file: FileId, index: u32, recorded: bool) -> usize {
        let key = self.planner.files.key(file, ChunkIndex(index)).unwrap();
        let replicas = self.planner.files.chunk(key).unwrap().replicas.clone();
        let safe = replicas.iter().filter(|replica| {
            let number = replica.volunteer();
            let volunteer = self.planner.volunteers.get(number).unwrap();
            let held = self.held.get(&(file, number)).is_some_and(|held| held.has(ChunkIndex(index)));
            replica.state() == CopyState::Proven
                && volunteer.has_reported()
                && !volunteer.draining
                && volunteer.is_approved(self.planner.settings.approve)
                && self.disk.contains(&(Location::Volunteer(number), file, index))
                && (held || !recorded)
        });
        safe.count()
    }

    /// Checks an order at the time when it is issued.
    fn check(&self, order: &Order) {
        let replicas = self.planner.settings.replicas;
        match order {
            Order::Drop { file, chunks, .. } if self.planner.is_known(*file) => {
                for index in chunks {
                    let safe = self.safe(*file, index.0, false);
                    assert!(safe >= replicas, "{order:?} with {safe} safe");
                }
            }
            Order::DropOwn { file, chunks, reason: DropReason::Offloaded, .. } => {
                for index in chunks {
                    let safe = self.safe(*file, index.0, true);
                    assert!(safe >= replicas, "{order:?} with {safe} safe");
                }
            }
            Order::Offload { file, .. } => {
                assert_eq!(self.offloaded.get(file), Some(&true));
                for index in self.layouts[file].indices() {
                    assert!(self.safe(*file, index.0, true) >= replicas, "{order:?}: {index}");
                }
            }
            Order::Copy { from, to, .. } => assert_ne!(from, to),
            _ => {}
        }
    }

    /// Whether a location has a chunk to give.
    pub fn gives(&self, from: Location, file: FileId, index: u32) -> bool {
        self.disk.contains(&(from, file, index)) || (from == TRACKER && self.whole.contains(&file))
    }

    /// Carries out one order.
    pub fn carry_out(&mut self, order: Order) {
        use crate::protocol::volunteer::CopyFailure::{Corrupt, NoRoom, Unreachable};
        let free = |world: &Self, location: Location| match location {
            Location::Tracker => None,
            Location::Volunteer(number) => Some(world.free(number)),
        };
        match order {
            Order::Copy { file, index, from, to } => {
                let why = if !self.gives(from, file, index.0) {
                    Some(Unreachable)
                } else if self.bad.contains(&(from, file, index.0)) {
                    Some(Corrupt)
                } else if free(self, to).is_some_and(|free| free < CHUNK) {
                    Some(NoRoom)
                } else {
                    None
                };
                match why {
                    Some(why) => {
                        let free = free(self, to);
                        self.planner.not_stored(self.now, to, file, index, why, free);
                    }
                    None => {
                        self.disk.insert((to, file, index.0));
                        self.bad.remove(&(to, file, index.0));
                        let free = free(self, to);
                        self.planner.stored(self.now, to, file, index, free);
                    }
                }
            }
            Order::Drop { at: number, file, chunks, .. } => {
                let location = Location::Volunteer(number);
                for index in &chunks {
                    self.disk.remove(&(location, file, index.0));
                    self.bad.remove(&(location, file, index.0));
                }
                let free = free(self, location);
                self.planner.dropped(self.now, location, file, &chunks, free);
            }
            Order::DropOwn { file, chunks, permit, .. } => {
                let chunks = if self.revoked.contains(&permit) { Vec::new() } else { chunks };
                for index in &chunks {
                    self.disk.remove(&(TRACKER, file, index.0));
                    self.bad.remove(&(TRACKER, file, index.0));
                }
                self.planner.dropped(self.now, TRACKER, file, &chunks, None);
            }
            Order::Prove { number, file, index, holders } => self.prove(number, file, index, &holders),
            Order::Check { volunteer, file, chunks } => self.check_again(volunteer, file, &chunks),
            Order::Offload { file, permit } => {
                let result = match self.revoked.contains(&permit) {
                    true => OffloadResult::Revoked,
                    false => OffloadResult::Deleted,
                };
                if result == OffloadResult::Deleted {
                    self.whole.remove(&file);
                }
                self.planner.offloaded(self.now, file, result);
            }
            Order::Withdraw { file, .. } => _ = self.whole.remove(&file),
            Order::Drained { .. }
            | Order::Lost { .. }
            | Order::Note(..)
            | Order::Warn(_)
            | Order::Revoke(_)
            | Order::Verified { .. } => {}
        }
        self.take();
    }

    /// The tracker's own copy of a chunk, compared with the manifest.
    fn own_copy(&self, file: FileId, index: u32) -> OwnCopy {
        let is_corrupt = self.rotten.contains(&(file, index)) || self.bad.contains(&(TRACKER, file, index));
        match self.gives(TRACKER, file, index) {
            true if is_corrupt => OwnCopy::Corrupt,
            true => OwnCopy::Right,
            false => OwnCopy::Absent,
        }
    }

    /// Lets holders prove their copies, like the tracker's executor.
    fn prove(&mut self, number: u64, file: FileId, index: ChunkIndex, holders: &[VolunteerNumber]) {
        let own = self.own_copy(file, index.0);
        let copy = |holder: VolunteerNumber| (Location::Volunteer(holder), file, index.0);
        let is_right = |holder: &VolunteerNumber| {
            self.disk.contains(&copy(*holder)) && !self.bad.contains(&copy(*holder))
        };
        let is_reachable = |holder: &VolunteerNumber| !self.unreachable.contains(holder);
        let has_bytes =
            own == OwnCopy::Right || holders.iter().any(|holder| is_right(holder) && is_reachable(holder));
        let verdicts: Vec<(VolunteerNumber, Verdict)> = holders
            .iter()
            .map(|holder| {
                let verdict = match (has_bytes && is_reachable(holder), is_right(holder)) {
                    (false, _) => Verdict::CannotTell,
                    (true, true) => Verdict::Right,
                    (true, false) => Verdict::Wrong,
                };
                (*holder, verdict)
            })
            .collect();
        self.planner.proved(self.now, number, own, &verdicts);
    }

    /// Lets a volunteer hash chunks again and report them.
    fn check_again(&mut self, volunteer: VolunteerNumber, file: FileId, chunks: &[ChunkIndex]) {
        let location = Location::Volunteer(volunteer);
        for index in chunks {
            let copy = (location, file, index.0);
            if self.disk.contains(&copy) && !self.bad.contains(&copy) {
                self.planner.holds(self.now, volunteer, file, &[*index], true);
            } else {
                self.disk.remove(&copy);
                self.bad.remove(&copy);
                let free = Some(self.free(volunteer));
                self.planner.spoiled(self.now, location, file, &[*index], free);
            }
            self.take();
        }
    }

    /// Carries out all orders, including those that result from them.
    pub fn run(&mut self) {
        for _ in 0..100_000 {
            let Some(order) = (!self.orders.is_empty()).then(|| self.orders.remove(0)) else { return };
            self.carry_out(order);
        }
        panic!("the orders do not end");
    }

    /// Carries out all orders and lets a second pass, so that records are taken and copies are proven.
    pub fn settle(&mut self) {
        for _ in 0..4 {
            self.run();
            self.pass(Duration::from_millis(250));
        }
        self.run();
    }

    /// The copies that have been ordered and not carried out.
    pub fn copies(&self) -> Vec<(u32, Location, Location)> {
        let copies = self.orders.iter().filter_map(|order| match order {
            Order::Copy { index, from, to, .. } => Some((index.0, *from, *to)),
            _ => None,
        });
        copies.collect()
    }

    /// Numbers of the volunteers that have a chunk on disk. The tracker is not counted.
    pub fn holders(&self, file: FileId, index: u32) -> Vec<u32> {
        let holders = self.disk.iter().filter_map(|(location, held, at)| match location {
            Location::Volunteer(number) if (*held, *at) == (file, index) => Some(number.0),
            _ => None,
        });
        holders.collect()
    }

    pub fn notes(&self) -> Vec<&str> {
        let notes = self.log.iter().filter_map(|order| match order {
            Order::Note(_, text) => Some(text.as_str()),
            _ => None,
        });
        notes.collect()
    }

    /// Restarts the tracker with the content of its catalogue and its disk.
    pub fn restart(&mut self, settings: Settings) {
        self.orders.clear();
        self.pending.clear();
        self.planner = ReplicationPlanner::new(settings, fastrand::Rng::with_seed(2));
        // The clock goes on.
        self.planner.set_clock(0);
        for record in self.volunteers.values() {
            self.planner.restore_volunteer(self.now, record.clone());
        }
        for (file, layout) in self.layouts.iter().filter(|(file, _)| !self.forgotten.contains(*file)) {
            let offloaded = self.offloaded.get(file).copied().unwrap_or(false);
            self.planner.restore_file(*file, layout.clone(), offloaded);
        }
        for ((file, volunteer), held) in &self.held {
            self.planner.restore_held(*file, *volunteer, held);
        }
        for file in &self.forgotten {
            self.planner.restore_forgotten(*file);
        }
        let own = self.disk.iter().filter(|(location, ..)| *location == TRACKER);
        for (_, file, index) in own.copied().collect::<Vec<_>>() {
            self.planner.stored(self.now, TRACKER, file, ChunkIndex(index), None);
        }
        for file in self.whole.iter().copied().collect::<Vec<_>>() {
            self.planner.set_complete_at_tracker(self.now, file, true);
        }
        self.planner.scan_complete(self.now);
        self.take();
    }
}
