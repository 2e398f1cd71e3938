//! Replication planner: which chunks need copies, from where to where they are copied, which copies are
//! dropped, and which holders are challenged.
//!
//! A [`ReplicationPlanner`] is notified of events and returns orders. It keeps `replicas` copies of each chunk at
//! volunteers: it distributes published files, repairs under-replicated chunks (fewest copies first), drops
//! over-replicated copies, and offloads the tracker's own copy of a file once the volunteers have it.
//!
//! It uses no socket, file, thread or clock: time and randomness are arguments, so the same code runs in the
//! tracker, in a simulation and under random events. Invariants: no volunteer has two copies of a chunk; a
//! copy counts as verified only when its volunteer has acknowledged it as durable, or has hashed it in this
//! session, or has passed a challenge or an audit; no copy is dropped as over-replicated unless `replicas`
//! verified ones remain; the tracker's own copy is deleted only after a record of all copies that replace it
//! is durable, and while all of these copies remain. Copies change only in the module `ledger`, which updates
//! all counters.

mod answers;
mod challenge;
mod chunk;
mod drain;
mod file;
mod files;
mod ledger;
mod lost;
mod members;
mod plan;
mod priority;
mod queue;
mod record;
mod status;
mod surplus;
mod transfers;
mod volunteer;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use super::Moment;
use super::backoff::Backoff;
use super::keeping::{Change, Location, VolunteerNumber};
use super::token_bucket::TokenBucket;
use crate::content::{ChunkIndex, FileId, limits};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::ChallengedRange;
use challenge::Challenge;
use chunk::Key;
use file::{Counts, File};
use queue::{Queue, Queued};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;
use transfers::Transfer;
use volunteer::{Index, Traffic, Volunteer, Window};

/// Replication settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Copies of each chunk at volunteers.
    pub replicas: usize,
    /// Number of connected volunteers required before new files are distributed.
    pub volunteers_min: usize,
    /// Time within which a volunteer whose connection closed may return before it counts as dead.
    pub lease: Duration,
    /// Delete the tracker's own copy of a file once the volunteers have all copies.
    pub offload: bool,
    /// Rate limit of repair in bytes a second; 0 for none.
    pub repair_limit: u64,
    /// Interval between challenges; `None` for none.
    pub challenge_every: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: limits::REPLICA_COUNT,
            volunteers_min: limits::VOLUNTEERS_MIN,
            lease: limits::LEASE_TIMEOUT,
            offload: false,
            repair_limit: 0,
            challenge_every: Some(limits::CHALLENGE_INTERVAL),
        }
    }
}

/// An action for the tracker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Copy a chunk. Copies to the tracker go to its chunk store.
    Copy {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// The source.
        from: Location,
        /// The target.
        to: Location,
    },
    /// Drop chunks. At the tracker: only chunks of its chunk store, never a complete file.
    Drop {
        /// The location of the copies.
        at: Location,
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Challenge the holders of a chunk.
    Challenge {
        /// The challenge's number.
        number: u64,
        /// The range of the chunk and the nonce to hash.
        range: ChallengedRange,
        /// All alive holders, and the tracker if it has the chunk.
        to: Vec<Location>,
    },
    /// Download and verify a volunteer's copy.
    Audit {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// The volunteer.
        at: VolunteerNumber,
    },
    /// Delete the tracker's own copy of a complete file.
    Offload {
        /// The file.
        file: FileId,
    },
    /// Report the progress of a drain to the volunteer.
    Drained {
        /// The volunteer.
        volunteer: VolunteerNumber,
        /// Chunks that still depend on it.
        left: u64,
    },
    /// Report lost chunks, once for each chunk.
    Lost {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
        /// The volunteers that had them last.
        last: Vec<VolunteerNumber>,
    },
    /// A log line, and the file that it concerns.
    Note(Option<FileId>, String),
}

/// An action at a scheduled time; it is skipped if it no longer applies then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    /// A volunteer that is away counts as dead.
    Dead(VolunteerNumber),
    /// A volunteer that could not write a chunk may get copies again.
    Rested(VolunteerNumber),
    /// The progress of a drain is checked.
    Drain(VolunteerNumber),
    /// A failed copy of a chunk may be retried.
    Retry(Key),
    /// A copy times out.
    CopyTimeout(Key, Location),
    /// The next challenge is sent.
    Challenge,
    /// A challenge times out.
    Answered(u64),
    /// The rate limit permits the next repair.
    Repair,
    /// Chunks that have no copy by now are lost.
    Examine,
    /// Parked chunks are tried again.
    Unpark,
}

/// Retry state of a chunk of which a copy has failed.
#[derive(Debug)]
struct Retry {
    backoff: Backoff,
    until: Moment,
    /// Source and target of the last attempt.
    from: Location,
    to: Location,
}

/// Numbers of alive and expected volunteers.
#[derive(Clone, Copy, Default, Debug)]
struct Census {
    /// Have reported their chunks and are not draining.
    staying: usize,
    /// Are away, or have not reported yet.
    expected: usize,
    draining: usize,
}

/// State of all files, volunteers and copies.
#[derive(Debug)]
pub struct ReplicationPlanner {
    settings: Settings,
    window: Window,
    random: fastrand::Rng,
    /// Time of the first event.
    start: Option<Moment>,
    looked: bool,
    paused: bool,
    /// No copy starts earlier: volunteers that are not known yet may have the chunks.
    held_until: Moment,

    files: Vec<Option<File>>,
    by_id: HashMap<FileId, u32>,
    forgotten: HashSet<FileId>,
    counts: Counts,

    volunteers: Vec<Option<Box<Volunteer>>>,
    by_key: HashMap<VolunteerKey, VolunteerNumber>,
    census: Census,
    index: Index,
    /// Volunteers whose index entry is out of date.
    stale: BTreeSet<VolunteerNumber>,

    /// Copies in flight to and from the tracker.
    incoming: Traffic,
    outgoing: Traffic,
    queue: Queue,
    queued: Queued,
    transfers: BTreeMap<(Key, Location), Transfer>,
    /// Copies that were abandoned before an answer came, with the number of answers still to ignore.
    ignored: BTreeMap<(Key, VolunteerNumber), u32>,
    retries: BTreeMap<Key, Retry>,
    parked: VecDeque<Key>,
    /// Parked chunks that should be copied back to the tracker.
    homebound: VecDeque<Key>,
    repair_limiter: Option<TokenBucket>,
    /// Time at which the rate limit permits the next repair.
    repair_from: Moment,
    copied: u64,
    copied_bytes: u64,
    /// Start of the current repair, if chunks need repair.
    repair_since: Option<Moment>,

    surplus: BTreeSet<Key>,
    drops: BTreeMap<(Location, FileId), Vec<ChunkIndex>>,
    newly_bare: Vec<Key>,
    /// Number of chunks of each file that were lost and have been found again.
    found: BTreeMap<u32, u64>,
    challenges: BTreeMap<u64, Challenge>,
    challenge_last: u64,

    changes: Vec<Change>,
    dirty: Vec<(VolunteerNumber, u32)>,
    changed: Vec<(VolunteerNumber, FileId)>,
    /// Time of the oldest change that is not in a record yet.
    unrecorded: Option<Moment>,
    ticket: u64,
    recorded: u64,
    /// Files whose own copy at the tracker may be offloaded.
    offloadable: BTreeSet<u32>,
    /// Chunks of the tracker's chunk store that may be dropped, and those that wait for a record.
    own_surplus: Vec<Key>,
    own_waiting: VecDeque<(u64, Vec<Key>)>,

    timers: BTreeSet<(Moment, Timer)>,
    orders: Vec<Order>,
}

impl ReplicationPlanner {
    /// Starts without files and volunteers.
    pub fn new(settings: Settings, random: fastrand::Rng) -> Self {
        Self {
            settings: Settings { replicas: settings.replicas.clamp(1, 100), ..settings },
            window: Window { copies: limits::COPY_WINDOW_MAX, bytes: limits::COPY_WINDOW_BYTES },
            random,
            start: None,
            looked: false,
            paused: false,
            held_until: Moment::ZERO,
            files: Vec::new(),
            by_id: HashMap::new(),
            forgotten: HashSet::new(),
            counts: Counts::default(),
            volunteers: Vec::new(),
            by_key: HashMap::new(),
            census: Census::default(),
            index: Index::default(),
            stale: BTreeSet::new(),
            incoming: Traffic::default(),
            outgoing: Traffic::default(),
            queue: Queue::default(),
            queued: Queued::default(),
            transfers: BTreeMap::new(),
            ignored: BTreeMap::new(),
            retries: BTreeMap::new(),
            parked: VecDeque::new(),
            homebound: VecDeque::new(),
            repair_limiter: None,
            repair_from: Moment::ZERO,
            copied: 0,
            copied_bytes: 0,
            repair_since: None,
            surplus: BTreeSet::new(),
            drops: BTreeMap::new(),
            newly_bare: Vec::new(),
            found: BTreeMap::new(),
            challenges: BTreeMap::new(),
            challenge_last: 0,
            changes: Vec::new(),
            dirty: Vec::new(),
            changed: Vec::new(),
            unrecorded: None,
            ticket: 0,
            recorded: 0,
            offloadable: BTreeSet::new(),
            own_surplus: Vec::new(),
            own_waiting: VecDeque::new(),
            timers: BTreeSet::new(),
            orders: Vec::new(),
        }
    }

    /// Sets the limits of copies and bytes in flight into and out of each location. One copy is always
    /// permitted.
    pub fn set_window(&mut self, copies: u32, bytes: u64) {
        self.window = Window { copies, bytes };
        let everybody: Vec<VolunteerNumber> = self.numbers().collect();
        self.stale.extend(everybody);
    }

    /// The orders issued since the last call, in order.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Pauses new copies, or (`on` is false) resumes them.
    pub fn pause(&mut self, now: Moment, on: bool) {
        self.paused = on;
        self.settle(now);
    }

    /// Starts no copy before `until`, so that all volunteers can report their chunks first.
    pub fn hold(&mut self, until: Moment) {
        self.held_until = until;
        self.after(until, Timer::Repair);
    }

    /// Does everything that is due at `now`.
    pub fn tick(&mut self, now: Moment) {
        self.begin(now);
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Dead(volunteer) => self.lease_over(now, volunteer),
                Timer::Rested(volunteer) => {
                    self.stale.insert(volunteer);
                    self.unpark_all();
                }
                Timer::Drain(volunteer) => self.look_at_drain(now, volunteer),
                Timer::Retry(key) => self.rested(now, key),
                Timer::CopyTimeout(key, to) => self.time_out(now, key, to),
                Timer::Challenge => self.challenge(now),
                Timer::Answered(number) => self.challenge_over(number),
                Timer::Repair => {}
                Timer::Examine => self.examine(now),
                Timer::Unpark => self.unpark_all(),
            }
        }
        self.settle(now);
    }

    /// Time at which [`tick`](Self::tick), followed by [`take_record`](Self::take_record), is due next.
    pub fn next_tick(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.record_due()).min()
    }

    fn after(&mut self, at: Moment, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// Notes the time of the first event.
    fn begin(&mut self, now: Moment) {
        if self.start.is_none() {
            self.start = Some(now);
            if let Some(every) = self.settings.challenge_every {
                self.after(now + every, Timer::Challenge);
            }
        }
    }

    fn note(&mut self, file: Option<FileId>, text: String) {
        self.orders.push(Order::Note(file, text));
    }

    /// Computes the consequences of an event. Called at the end of every input.
    fn settle(&mut self, now: Moment) {
        self.begin(now);
        self.reindex(now);
        self.name_lost();
        self.shed();
        self.send_drops();
        self.plan(now);
        self.look_at_repair(now);
        self.look_at_record(now);
        self.send_drops();
    }

    /// The key of a chunk, if the file and the chunk exist.
    fn key(&self, file: FileId, index: ChunkIndex) -> Option<Key> {
        let slot = *self.by_id.get(&file)?;
        self.file(slot)?.chunks.get(index.at())?;
        Some(Key { file: slot, index: index.0 })
    }

    fn file(&self, slot: u32) -> Option<&File> {
        self.files.get(slot as usize)?.as_ref()
    }

    fn file_mut(&mut self, slot: u32) -> Option<&mut File> {
        self.files.get_mut(slot as usize)?.as_mut()
    }

    fn chunk(&self, key: Key) -> Option<&chunk::Chunk> {
        self.file(key.file)?.chunks.get(key.index as usize)
    }

    fn chunk_mut(&mut self, key: Key) -> Option<&mut chunk::Chunk> {
        self.file_mut(key.file)?.chunks.get_mut(key.index as usize)
    }

    /// State of a volunteer's copy of a chunk.
    fn state(&self, key: Key, number: VolunteerNumber) -> Option<chunk::CopyState> {
        self.chunk(key)?.replicas.get(number)
    }

    fn at(&self, number: VolunteerNumber) -> Option<&Volunteer> {
        self.volunteers.get(number.0 as usize)?.as_deref()
    }

    fn at_mut(&mut self, number: VolunteerNumber) -> Option<&mut Volunteer> {
        self.volunteers.get_mut(number.0 as usize)?.as_deref_mut()
    }

    fn numbers(&self) -> impl Iterator<Item = VolunteerNumber> + '_ {
        let known = self.volunteers.iter().flatten();
        known.map(|volunteer| volunteer.record.number)
    }

    /// All chunks of which a volunteer has, or may have, a copy; without those in flight to it.
    fn keys_of(&self, number: VolunteerNumber) -> Vec<Key> {
        let holdings = self.at(number).into_iter().flat_map(|volunteer| &volunteer.holdings);
        let keys = holdings.flat_map(|(file, holding)| {
            holding.chunks.iter().map(|index| Key { file: *file, index: *index })
        });
        keys.collect()
    }
}
