//! Who holds what, what is short, what to copy from where to where, what to drop, and whom to challenge.
//!
//! A [`Placement`] is told what happens, and orders what is to be done about it. It keeps `replicas` copies of each
//! chunk at volunteers: it distributes what is published, repairs what a death has left short, scarcest chunks first,
//! drops what is too much, and lets the tracker give up its own copy of a file once the volunteers have it.
//!
//! It never names a socket, a file, a thread or a clock: the time and the randomness are arguments, and so the same
//! code runs in the tracker, in the simulation among its tests, and under random events. Invariants: no volunteer has
//! two copies of a chunk; a copy counts as verified only when its volunteer has acknowledged it as durable, or has
//! checked it, in this session, or has passed a challenge for it; no copy is dropped as surplus unless `replicas`
//! verified ones stay; the tracker's own copy goes only after a record of all that replaces it is durable and while
//! all of that is still there. The module `books` is the only place where a copy changes, so that all counters are kept there.

mod answers;
mod books;
mod challenge;
mod chunk;
mod drain;
mod file;
mod files;
mod flights;
mod lost;
mod members;
mod plan;
mod queue;
mod record;
mod status;
mod surplus;
mod volunteer;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use super::Moment;
use super::backoff::Backoff;
use super::keeping::{Change, Place, VolunteerNumber};
use super::token_bucket::TokenBucket;
use crate::content::{ChunkIndex, FileId, limits};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::ChallengedRange;
use challenge::Challenge;
use chunk::Key;
use file::{Counts, File};
use flights::Flight;
use queue::{Queue, Queued};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;
use volunteer::{Index, Traffic, Volunteer, Window};

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Copies of each chunk at volunteers.
    pub replicas: usize,
    /// Volunteers that must be here before anything new is distributed.
    pub volunteers_min: usize,
    /// How long a volunteer whose connection has ended has to come back.
    pub lease: Duration,
    /// The tracker gives up its own copy of a file once the volunteers have it.
    pub offload: bool,
    /// Bytes a second that may be copied to repair; 0 for as fast as it goes.
    pub repair_limit: u64,
    /// How often the holders of a chunk are challenged.
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

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Copy a chunk. To the tracker: into its own store of chunks.
    Copy {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// Who has it.
        from: Place,
        /// Who is to have it.
        to: Place,
    },
    /// Drop chunks. At the tracker: only from its own store of chunks, never a whole file.
    Drop {
        /// Where.
        at: Place,
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Have a chunk proven.
    Challenge {
        /// The challenge's number.
        number: u64,
        /// What of it.
        range: ChallengedRange,
        /// By whom: all holders that are here, and the tracker if it has it.
        to: Vec<Place>,
    },
    /// Look at a volunteer's copy.
    Audit {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// The volunteer.
        at: VolunteerNumber,
    },
    /// Delete the tracker's own copy of a whole file.
    Offload {
        /// The file.
        file: FileId,
    },
    /// Tell a volunteer how far it is emptied.
    Drained {
        /// The volunteer.
        volunteer: VolunteerNumber,
        /// Chunks that still depend on it.
        left: u64,
    },
    /// Chunks are lost: said once.
    Lost {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
        /// Who had them last.
        last: Vec<VolunteerNumber>,
    },
    /// A line for the log, and the file that it is about.
    Note(Option<FileId>, String),
}

/// Something to do at a time, if it still applies by then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    /// A volunteer that is away is gone.
    Gone(VolunteerNumber),
    /// A volunteer that could not store may be tried again.
    Rested(VolunteerNumber),
    /// How far a drain is is to be looked at.
    Drain(VolunteerNumber),
    /// A chunk of which a copy has failed may be tried again.
    Retry(Key),
    /// A copy has taken too long.
    Late(Key, Place),
    /// Something is to be challenged.
    Challenge,
    /// A challenge is over.
    Answered(u64),
    /// Repair may go on, as far as its limit goes.
    Repair,
    /// What has no copy by now is lost.
    Examine,
    /// What has been parked is to be tried again.
    Unpark,
}

/// A chunk of which a copy has failed.
#[derive(Debug)]
struct Retry {
    backoff: Backoff,
    until: Moment,
    /// What was tried last.
    from: Place,
    to: Place,
}

/// How many volunteers are here, and how many may come.
#[derive(Clone, Copy, Default, Debug)]
struct Census {
    /// Have reported and are not being emptied.
    staying: usize,
    /// Are away, or have not reported.
    expected: usize,
    draining: usize,
}

/// The state of all files and volunteers.
#[derive(Debug)]
pub struct Placement {
    settings: Settings,
    window: Window,
    random: fastrand::Rng,
    /// When it was first told the time.
    start: Option<Moment>,
    looked: bool,
    paused: bool,
    /// Nothing is copied before: volunteers that nobody knows of yet may have it.
    held_until: Moment,

    files: Vec<Option<File>>,
    by_id: HashMap<FileId, u32>,
    forgotten: HashSet<FileId>,
    counts: Counts,

    volunteers: Vec<Option<Box<Volunteer>>>,
    by_key: HashMap<VolunteerKey, VolunteerNumber>,
    census: Census,
    index: Index,
    /// Volunteers that the index has to look at again.
    stale: BTreeSet<VolunteerNumber>,

    /// The tracker's own part in copying.
    incoming: Traffic,
    outgoing: Traffic,
    queue: Queue,
    queued: Queued,
    flights: BTreeMap<(Key, Place), Flight>,
    /// Copies that were given up before they were answered, and how many answers are still to come.
    ignored: BTreeMap<(Key, VolunteerNumber), u32>,
    retries: BTreeMap<Key, Retry>,
    parked: VecDeque<Key>,
    /// Parked chunks that are to come back to the tracker.
    homebound: VecDeque<Key>,
    bucket: Option<TokenBucket>,
    /// When the limit lets the next repair begin.
    repair_from: Moment,
    copied: u64,
    copied_bytes: u64,
    /// Since when there is something to repair.
    repair_since: Option<Moment>,

    surplus: BTreeSet<Key>,
    drops: BTreeMap<(Place, FileId), Vec<ChunkIndex>>,
    newly_bare: Vec<Key>,
    /// Chunks that were called lost and are back, of each file.
    found: BTreeMap<u32, u64>,
    challenges: BTreeMap<u64, Challenge>,
    challenge_last: u64,

    changes: Vec<Change>,
    dirty: Vec<(VolunteerNumber, u32)>,
    changed: Vec<(VolunteerNumber, FileId)>,
    /// Since when there is something to record.
    unrecorded: Option<Moment>,
    ticket: u64,
    recorded: u64,
    /// Files that the tracker could give up.
    offloadable: BTreeSet<u32>,
    /// Chunks of the tracker's own store that could go, and those for which a record is awaited.
    own_surplus: Vec<Key>,
    own_waiting: VecDeque<(u64, Vec<Key>)>,

    timers: BTreeSet<(Moment, Timer)>,
    orders: Vec<Order>,
}

impl Placement {
    /// Nothing is known yet.
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
            flights: BTreeMap::new(),
            ignored: BTreeMap::new(),
            retries: BTreeMap::new(),
            parked: VecDeque::new(),
            homebound: VecDeque::new(),
            bucket: None,
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

    /// Lets another number of copies, and of their bytes, be under way at once into each place and out of it. One copy
    /// always may be.
    pub fn set_window(&mut self, copies: u32, bytes: u64) {
        self.window = Window { copies, bytes };
        let everybody: Vec<VolunteerNumber> = self.numbers().collect();
        self.stale.extend(everybody);
    }

    /// What is to be done, in order, since this was last asked.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// Copies nothing new, or goes on.
    pub fn pause(&mut self, now: Moment, on: bool) {
        self.paused = on;
        self.settle(now);
    }

    /// Copies nothing before a time, by when all who are there can have told what they hold.
    pub fn hold(&mut self, until: Moment) {
        self.held_until = until;
        self.after(until, Timer::Repair);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Moment) {
        self.begin(now);
        while let Some((at, timer)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, timer));
            match timer {
                Timer::Gone(volunteer) => self.lease_over(now, volunteer),
                Timer::Rested(volunteer) => {
                    self.stale.insert(volunteer);
                    self.unpark_all();
                }
                Timer::Drain(volunteer) => self.look_at_drain(now, volunteer),
                Timer::Retry(key) => self.rested(now, key),
                Timer::Late(key, to) => self.late(now, key, to),
                Timer::Challenge => self.challenge(now),
                Timer::Answered(number) => self.challenge_over(number),
                Timer::Repair => {}
                Timer::Examine => self.examine(now),
                Timer::Unpark => self.unpark_all(),
            }
        }
        self.settle(now);
    }

    /// When [`tick`](Self::tick), and after it [`take_record`](Self::take_record), has something to do next.
    pub fn next_tick(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at).into_iter().chain(self.record_due()).min()
    }

    fn after(&mut self, at: Moment, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// The first time that it hears of the time.
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

    /// What follows from what has happened. Ends every input.
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

    /// The chunk of a file, if there is one.
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

    /// How a volunteer's copy of a chunk is.
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

    /// All chunks of which a volunteer has, or may have, a copy; not those on their way.
    fn keys_of(&self, number: VolunteerNumber) -> Vec<Key> {
        let holdings = self.at(number).into_iter().flat_map(|volunteer| &volunteer.holdings);
        let keys = holdings.flat_map(|(file, holding)| {
            holding.chunks.iter().map(|index| Key { file: *file, index: *index })
        });
        keys.collect()
    }
}
