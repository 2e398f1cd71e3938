//! A download: which sources there are, what each is asked for, and what becomes of it.
//!
//! [`DownloadScheduler`] has no thread of its own. The state thread of whatever daemon downloads owns it, feeds it the
//! [`SourceEvent`]s that its sources send, and calls [`DownloadScheduler::tick`]; the sources do the reading, checking and
//! storing in threads of theirs. What to ask of whom is decided by the pure
//! [`Picker`].
//!
//! Invariants: the owner of a fetch never waits for a source; a source that sent a bad chunk is never used
//! again; a source that is lost is tried again later, at growing intervals.

mod conversations;
mod source;
#[cfg(test)]
mod staging;
mod upstreams;
mod verify;

pub use conversations::Conversations;
pub use source::{Conversation, SourceError, manifest_payload};

use super::relay::Relay;
use crate::content::limits::{
    PIPELINE_FAR_MAX, RECEIVE_MEMORY, RETRY_MAX, RETRY_MIN, SOURCES_MAX, SOURCES_MIN,
};
use crate::content::{ChunkIndex, Digest, FileId, HaveMap, Manifest};
use crate::net::{Shutdown, Threads, Timeouts};
use crate::protocol::peer::Upstream;
use crate::storage::{ChunkSink, StoreError};
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use crate::swarm::picker::{Picker, SourceId};
use crate::swarm::trees::STRIPES;
use crossbeam_channel::{Sender, bounded};
use source::{Pieces, SourceCommand, SourceReader};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use upstreams::Upstreams;
use verify::Verifier;

/// Addresses remembered as possible sources.
const CANDIDATES_MAX: usize = 4_096;
/// An address that cannot be connected to so often in a row is forgotten.
const FAILURES_MAX: u32 = 8;
/// A source that has not kept to the protocol so often is not used any more.
const OFFENCES_MAX: u32 = 3;
/// Whoever has not said for so long what it has is named when the download ends without it.
const SILENCE: Duration = Duration::from_secs(1);
/// Sources that are connected to in the time of a tick beside those that are to be asked before all others.
const STARTS: usize = 4;
/// How often a fetch wants to be ticked.
pub const TICK: Duration = Duration::from_millis(100);

/// What a chunk must be.
pub trait Expected: Send + Sync {
    /// The SHA-256 and the length, bytes; `None` while nobody knows.
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u32)>;
}

impl Expected for Manifest {
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u32)> {
        Some((self.digest(index)?, self.layout().span(index)?.length))
    }
}

/// What is to be fetched.
pub struct Job {
    /// Tells several downloads of one daemon apart.
    pub download: u32,
    /// What sources are asked for.
    pub file: FileId,
    /// How many chunks it has.
    pub count: u32,
    /// The longest chunk, bytes, as far as it is known: bounds how many sources are used at once.
    pub longest: u32,
    /// What each chunk must be.
    pub expected: Arc<dyn Expected>,
    /// Where verified chunks go.
    pub sink: Arc<dyn ChunkSink>,
    /// Passes chunks on as they come, if this peer serves.
    pub relay: Option<Relay>,
    /// Where this peer serves, so that sources can fetch from it in turn.
    pub port: Option<u16>,
    /// Whether sources say themselves what they have. Otherwise [`DownloadScheduler::source_has`] does, and nothing else counts.
    pub subscribe: bool,
    /// How long sources are waited for.
    pub timeouts: Timeouts,
}

/// A chunk that is verified and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The chunk.
    pub index: ChunkIndex,
    /// Its bytes.
    pub bytes: u32,
}

/// Something has happened to a source.
#[derive(Debug)]
pub struct SourceEvent {
    /// The download that the source belongs to.
    pub download: u32,
    source: SourceId,
    update: SourceUpdate,
}

#[derive(Debug)]
enum SourceUpdate {
    Connected { have: Option<HaveMap>, upstreams: Vec<Upstream>, rtt: Duration },
    Has(Vec<ChunkIndex>),
    Hints(Vec<ChunkIndex>),
    Upstream(Upstream),
    Peers(Vec<SocketAddr>),
    Stored(Arrival),
    Refused(ChunkIndex),
    Lost(SourceError),
}

/// What the owner of a fetch learns.
#[derive(Debug)]
pub enum SchedulerEvent {
    /// A chunk is asked for.
    Requested(ChunkIndex, SocketAddr),
    /// A chunk is verified and stored; `false` when it was there already.
    Stored(Arrival, bool),
    /// A source has sent a wrong chunk and is not used any more.
    Corrupt(SocketAddr),
    /// A source is lost.
    Lost(SocketAddr),
    /// Chunks cannot be stored here: there is no point in going on.
    Failed(StoreError),
}

enum CandidateState {
    /// Not tried yet, or lost; to be tried at that time.
    Idle(Moment),
    Active(SourceId),
    /// It sent a bad chunk.
    Banned,
}

struct Candidate {
    link: CandidateState,
    backoff: Backoff,
    /// How often in a row it could not be connected to.
    failures: u32,
    /// How often it did not keep to the protocol.
    offences: u32,
    /// What it has, where the owner says so.
    told: HaveMap,
    bad_bytes: u64,
}

struct ActiveSource {
    address: SocketAddr,
    since: Moment,
    connected: bool,
    commands: Sender<SourceCommand>,
    /// Pieces of chunks that have come from it, and how many of them the picker knows of.
    pieces: Pieces,
    heard: usize,
    shutdown: Shutdown,
}

/// A download in progress.
pub struct DownloadScheduler {
    job: Arc<Job>,
    longest: u32,
    picker: Picker,
    candidates: BTreeMap<SocketAddr, Candidate>,
    live: HashMap<SourceId, ActiveSource>,
    next: u32,
    random: fastrand::Rng,
    events: Sender<SourceEvent>,
    threads: Threads,
    verifier: Verifier,
    shutdown: Shutdown,
    news: Vec<SchedulerEvent>,
    upstreams: Upstreams,
    /// How many more may be connected to until the next tick, once there is one to be asked before all others.
    starts: usize,
}

impl DownloadScheduler {
    /// Prepares a download of what `done` does not have: all of it (`all`), or what is
    /// [wanted](Self::want). Sources report to `events`.
    pub fn new(
        job: Job,
        done: HaveMap,
        all: bool,
        events: Sender<SourceEvent>,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> Self {
        let (job, shutdown) = (Arc::new(job), shutdown.child());
        Self {
            longest: job.longest,
            verifier: Verifier::new(job.clone(), events.clone(), threads, &shutdown),
            job,
            picker: Picker::new(done, all),
            candidates: BTreeMap::new(),
            live: HashMap::new(),
            next: 0,
            random: fastrand::Rng::new(),
            events,
            threads: threads.clone(),
            shutdown,
            news: Vec::new(),
            upstreams: Upstreams::default(),
            starts: STARTS,
        }
    }

    /// Whether everything that is wanted is there.
    pub fn is_complete(&self) -> bool {
        self.picker.is_complete()
    }

    /// Which chunks are there.
    pub fn done(&self) -> &HaveMap {
        self.picker.done()
    }

    /// How many sources are connected.
    pub fn connected(&self) -> usize {
        self.live.values().filter(|live| live.connected).count()
    }

    /// The wanted chunks that no connected source has.
    pub fn unavailable(&self) -> Vec<ChunkIndex> {
        self.picker.unavailable().collect()
    }

    /// A chunk is wanted, also if it was thought to be done.
    pub fn want(&mut self, index: ChunkIndex, now: Moment) -> Vec<SchedulerEvent> {
        self.picker.want(index);
        self.ask_all(now);
        std::mem::take(&mut self.news)
    }

    /// A chunk is there by other ways than this download.
    pub fn have(&mut self, index: ChunkIndex) {
        self.picker.have(index);
    }

    /// Chunks may be as long as this, bytes: bounds how many sources are used at once.
    pub fn expect_up_to(&mut self, length: u32) {
        self.longest = self.longest.max(length);
    }

    /// An address may be a source. It is connected to when there is room.
    pub fn add_source(&mut self, address: SocketAddr, now: Moment) {
        self.note_source(address, now);
        self.connect(now);
    }

    fn note_source(&mut self, address: SocketAddr, now: Moment) {
        let full = self.candidates.len() >= CANDIDATES_MAX;
        let known = self.candidates.contains_key(&address);
        if !known && !full {
            let candidate = Candidate {
                link: CandidateState::Idle(now),
                backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
                failures: 0,
                offences: 0,
                told: HaveMap::none(self.job.count),
                bad_bytes: 0,
            };
            self.candidates.insert(address, candidate);
        }
    }

    /// The owner knows that a source has a chunk (where sources do not say so themselves).
    pub fn source_has(&mut self, address: SocketAddr, index: ChunkIndex, now: Moment) -> Vec<SchedulerEvent> {
        self.add_source(address, now);
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.told.insert(index);
            if let CandidateState::Active(id) = candidate.link {
                self.picker.source_has(id, index, now);
                self.ask(id, now);
            }
        }
        std::mem::take(&mut self.news)
    }

    /// Something has happened to one of the sources.
    pub fn handle(&mut self, event: SourceEvent, now: Moment) -> Vec<SchedulerEvent> {
        let SourceEvent { source: id, update, .. } = event;
        match update {
            SourceUpdate::Connected { have, upstreams, rtt } => {
                self.connected_to(id, have, now);
                self.picker.set_round_trip(id, rtt);
                self.follow(now);
                upstreams.into_iter().for_each(|upstream| self.placed(id, upstream, now));
                // It may have been what the others waited for.
                self.ask_all(now);
            }
            SourceUpdate::Has(chunks) => {
                chunks.into_iter().for_each(|index| self.picker.source_has(id, index, now));
                self.ask(id, now);
            }
            SourceUpdate::Hints(chunks) => {
                self.picker.hint(id, &chunks);
                self.ask(id, now);
            }
            SourceUpdate::Upstream(upstream) => {
                self.placed(id, upstream, now);
                self.ask_all(now);
            }
            SourceUpdate::Peers(peers) => peers.into_iter().for_each(|peer| self.add_source(peer, now)),
            SourceUpdate::Stored(arrival) => {
                let fresh = self.picker.arrived(id, arrival.index, now);
                // Only what it delivers makes up for what it failed at.
                let address = self.live.get(&id).map(|live| live.address);
                if let Some(candidate) = address.and_then(|address| self.candidates.get_mut(&address)) {
                    candidate.backoff.reset();
                }
                self.news.push(SchedulerEvent::Stored(arrival, fresh));
                self.ask(id, now);
            }
            SourceUpdate::Refused(index) => {
                self.picker.refused(id, index);
                self.ask_all(now);
            }
            SourceUpdate::Lost(why) => self.lost(id, why, now),
        }
        std::mem::take(&mut self.news)
    }

    /// To be called every [`TICK`]: connects to sources whose time has come and asks others for what is late.
    pub fn tick(&mut self, now: Moment) -> Vec<SchedulerEvent> {
        if self.is_complete() {
            self.release(now);
        } else if self.room() == 0 {
            self.make_room(now);
        }
        self.starts = STARTS;
        self.hear(now);
        self.connect(now);
        self.overtake(now);
        self.name_slow();
        self.ask_all(now);
        std::mem::take(&mut self.news)
    }

    /// Notes from whom something has come.
    fn hear(&mut self, now: Moment) {
        for (id, live) in &mut self.live {
            let pieces = live.pieces.load(Ordering::Relaxed);
            if std::mem::replace(&mut live.heard, pieces) != pieces {
                self.picker.heard(*id, now);
            }
        }
    }

    /// Names those in the log that have kept a download waiting until its end: their time-outs are yet to come.
    pub fn name_silent(&self, now: Moment) {
        for (id, live) in &self.live {
            let (address, waited) = (live.address, now.saturating_sub(live.since));
            if let Some((index, waited)) = self.picker.overdue(*id, now) {
                let waited = waited.as_secs();
                log::warn!(
                    "{address} was asked for chunk {index} {waited} s ago and has not sent it (0 bad bytes)"
                );
            } else if !live.connected && waited >= SILENCE {
                let waited = waited.as_secs();
                log::warn!("{address} has not said what it has in {waited} s (0 bad bytes)");
            }
        }
    }

    /// Lets go of all sources.
    pub fn stop(&self) {
        self.shutdown.trigger();
    }

    /// When every place is taken and chunks are missing that no source has, one that has nothing to give makes room
    /// for another candidate.
    fn make_room(&mut self, now: Moment) {
        if self.picker.unavailable().next().is_none() {
            return;
        }
        let waits = |candidate: &Candidate| matches!(candidate.link, CandidateState::Idle(at) if at <= now);
        if !self.candidates.values().any(waits) {
            return;
        }
        let idle = self.live.iter().find(|(id, live)| live.connected && !self.picker.is_useful(**id));
        if let Some(id) = idle.map(|(id, _)| *id)
            && let Some(live) = self.live.remove(&id)
        {
            live.shutdown.trigger();
            self.picker.remove_source(id);
            self.upstreams.lose(id);
            if let Some(candidate) = self.candidates.get_mut(&live.address) {
                candidate.link = CandidateState::Idle(now + RETRY_MAX);
            }
        }
    }

    /// Lets go of sources that are not needed any more; they are connected to again if something is wanted.
    fn release(&mut self, now: Moment) {
        self.upstreams.clear();
        for (id, live) in self.live.drain() {
            live.shutdown.trigger();
            self.picker.remove_source(id);
            if let Some(candidate) = self.candidates.get_mut(&live.address) {
                candidate.link = CandidateState::Idle(now);
            }
        }
    }

    fn connected_to(&mut self, id: SourceId, have: Option<HaveMap>, now: Moment) {
        let Some(live) = self.live.get_mut(&id) else { return };
        live.connected = true;
        let address = live.address;
        let candidate = self.candidates.get_mut(&address);
        let told = candidate.map(|candidate| {
            candidate.failures = 0;
            candidate.told.clone()
        });
        let have = have.or(told).unwrap_or_else(|| HaveMap::none(self.job.count));
        log::debug!("connected to {address}, which has {} of {} chunks", have.held(), have.count());
        self.picker.add_source(id, have, now);
    }

    fn lost(&mut self, id: SourceId, why: SourceError, now: Moment) {
        self.picker.remove_source(id);
        self.upstreams.lose(id);
        let Some(live) = self.live.remove(&id) else { return };
        live.shutdown.trigger();
        self.follow(now);
        let address = live.address;
        let Some(candidate) = self.candidates.get_mut(&address) else { return };
        match why {
            SourceError::Store(error) => self.news.push(SchedulerEvent::Failed(error)),
            SourceError::BadChunk { bytes, .. } => {
                candidate.link = CandidateState::Banned;
                candidate.bad_bytes += u64::from(bytes);
                log::warn!("{address} is not used any more: {why}");
                self.news.push(SchedulerEvent::Corrupt(address));
            }
            SourceError::Protocol(_) if candidate.offences + 1 >= OFFENCES_MAX => {
                candidate.link = CandidateState::Banned;
                let bytes = candidate.bad_bytes;
                log::warn!(
                    "{address} is not used any more: {why}, and not for the first time ({bytes} bad bytes)"
                );
                self.news.push(SchedulerEvent::Corrupt(address));
            }
            why => {
                candidate.offences += u32::from(matches!(why, SourceError::Protocol(_)));
                let pause = candidate.backoff.pause(&mut self.random);
                candidate.link = CandidateState::Idle(now + pause);
                candidate.told = HaveMap::none(self.job.count);
                if !matches!(why, SourceError::Stopped) {
                    log::info!("lost {address}: {why}");
                }
                candidate.failures += u32::from(!live.connected);
                if candidate.failures >= FAILURES_MAX {
                    // It is named again if it comes back; until then it takes no place.
                    self.candidates.remove(&address);
                }
                self.news.push(SchedulerEvent::Lost(address));
            }
        }
        self.connect(now);
        self.ask_all(now);
    }

    /// As many sources at once as the memory for their buffers allows.
    fn places(&self) -> usize {
        let by_memory = RECEIVE_MEMORY / u64::from(self.longest.max(1));
        (by_memory as usize).clamp(SOURCES_MIN, SOURCES_MAX)
    }

    fn room(&self) -> usize {
        self.places().saturating_sub(self.live.len())
    }

    fn connect(&mut self, now: Moment) {
        // Who knows whom to ask is in no hurry to know more: all who begin together would make each other wait.
        let room = if self.upstreams.is_kept() { self.room().min(self.starts) } else { self.room() };
        if room == 0 || self.is_complete() || self.shutdown.is_stopped() {
            return;
        }
        let subscribe = self.job.subscribe;
        let due = self.candidates.iter().filter(|(_, candidate)| {
            // A source that is only known by what the owner says of it is of use only while it has something.
            matches!(candidate.link, CandidateState::Idle(at) if at <= now)
                && (subscribe || candidate.told.held() > 0)
        });
        let mut due: Vec<SocketAddr> = due.map(|(address, _)| *address).collect();
        self.random.shuffle(&mut due);
        due.into_iter().take(room).for_each(|address| self.start(address, now));
    }

    /// Connects to an address that is known, also when every place is taken: one more for each stripe.
    fn reach(&mut self, address: SocketAddr, now: Moment) {
        let link = self.candidates.get(&address).map(|candidate| &candidate.link);
        let is_due = matches!(link, Some(CandidateState::Idle(at)) if *at <= now);
        let has_room = self.live.len() < self.places() + STRIPES;
        if is_due && has_room && !self.is_complete() && !self.shutdown.is_stopped() {
            self.start(address, now);
        }
    }

    fn start(&mut self, address: SocketAddr, now: Moment) {
        let id = SourceId(self.next);
        self.next += 1;
        self.upstreams.begin(now);
        self.starts = self.starts.saturating_sub(1);
        // Never full: a source is never asked for more than the pipeline holds.
        let (commands, asked) = bounded(PIPELINE_FAR_MAX * 2);
        let shutdown = self.shutdown.child();
        let (job, events, verifier) = (self.job.clone(), self.events.clone(), self.verifier.clone());
        let pieces = Pieces::default();
        let (counted, ended) = (pieces.clone(), shutdown.clone());
        let reader = SourceReader { id, address, job, events, verifier, pieces: counted, shutdown: ended };
        let threads = self.threads.clone();
        let spawned = self.threads.spawn("fetch", move || reader.run(asked, &threads));
        let Some(candidate) = self.candidates.get_mut(&address) else { return };
        match spawned {
            Ok(()) => {
                candidate.link = CandidateState::Active(id);
                let live = ActiveSource {
                    address,
                    since: now,
                    connected: false,
                    commands,
                    pieces,
                    heard: 0,
                    shutdown,
                };
                self.live.insert(id, live);
            }
            Err(error) => {
                log::warn!("no thread for {address}: {error}");
                candidate.link = CandidateState::Idle(now + candidate.backoff.pause(&mut self.random));
            }
        }
    }

    fn ask_all(&mut self, now: Moment) {
        let mut ids: Vec<SourceId> = self.live.keys().copied().collect();
        self.random.shuffle(&mut ids);
        ids.into_iter().for_each(|id| self.ask(id, now));
    }

    /// Asks a source for as much as the pipeline holds.
    fn ask(&mut self, id: SourceId, now: Moment) {
        if self.awaits_word(id, now) {
            return;
        }
        while let Some(index) = self.picker.pick(id, now, &mut self.random) {
            let Some(live) = self.live.get(&id) else { return };
            if live.commands.try_send(SourceCommand::Chunk(index)).is_err() {
                // It has just ended; its loss is on the way and gives the chunk back.
                return;
            }
            self.news.push(SchedulerEvent::Requested(index, live.address));
        }
    }
}

impl Drop for DownloadScheduler {
    fn drop(&mut self) {
        self.stop();
    }
}
