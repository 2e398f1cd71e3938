//! Download scheduler: tracks the sources of one download and sends each its chunk requests.
//!
//! [`DownloadScheduler`] has no thread. The state thread of a leecher or client owns it, feeds it the
//! [`SourceEvent`]s of its sources, and calls [`DownloadScheduler::tick`]. The threads of each source read,
//! verify and store the chunks. The pure [`Picker`] decides which chunk is requested from which source.
//!
//! Invariants: the owner of a scheduler never blocks on a source; a source that sent a corrupt chunk is
//! banned; a lost source is retried with backoff.

mod refusals;
mod rings;

use super::events::{Arrival, Job, SourceError, SourceEvent, SourceUpdate};
use super::source_reader::{FragmentCount, Source, SourceCommand};
use super::summary::Tally;
use super::workers::Workers;
use crate::content::fmt::counted;
use crate::content::limits::{
    CANDIDATES_MAX, CHUNK_SIZE_MAX, LIMITED_PART_BYTES, PIPELINE_SMALL_BATCHES_MAX, RECEIVE_MEMORY_BYTES,
    RETRY_MAX, RETRY_MIN, SOURCES_MAX, SOURCES_MIN,
};
use crate::content::{Bitfield, ChunkIndex, HASH_LANES_MAX, hash_lanes};
use crate::net::{RateLimit, Shutdown, Threads, address_space};
use crate::protocol::PeerAddress;
use crate::storage::StoreError;
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use crate::swarm::picker::{Picker, SourceId};
use crossbeam_channel::{Sender, bounded};
use refusals::Refusals;
use rings::RingMember;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Sources whose loss is remembered, so that it is logged once.
const LOGGED_LOSSES_MAX: usize = 1_024;
/// Consecutive failed connection attempts after which an address is forgotten.
const FAILURES_MAX: u32 = 8;
/// Protocol errors after which a source is banned.
const OFFENCES_MAX: u32 = 3;
/// A source that has not sent its bitfield for this time does not count for the number of sources, and is logged when
/// the download ends without it.
const BITFIELD_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval between calls of [`DownloadScheduler::tick`].
pub const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// Events that a scheduler reports to its owner.
#[derive(Debug)]
pub enum SchedulerEvent {
    /// A chunk was requested from a source.
    Requested(ChunkIndex, SocketAddr),
    /// A chunk was verified and stored; `false` if it had been stored before.
    Stored(Arrival, bool),
    /// A source was banned because it sent a corrupt chunk or violated the protocol repeatedly.
    Corrupt(SocketAddr),
    /// The connection to a source was lost.
    Lost(SocketAddr),
    /// A chunk could not be stored locally; the download cannot continue.
    Failed(StoreError),
}

enum CandidateState {
    /// Not connected; the next attempt is due at this time.
    Idle(Moment),
    Active(SourceId),
    /// Sent a corrupt chunk or violated the protocol repeatedly; never connected to again.
    Banned,
}

struct Candidate {
    /// All addresses known; the first one is its key.
    address: PeerAddress,
    link: CandidateState,
    backoff: Backoff,
    /// Consecutive failed connection attempts.
    failures: u32,
    /// Protocol errors so far.
    offences: u32,
    /// Chunks of this source as reported by the owner ([`DownloadScheduler::source_has`]).
    reported: Bitfield,
    /// Whether it is said to have the whole file.
    is_complete: bool,
    /// Bytes of corrupt chunks so far.
    bad_bytes: u64,
}

impl Candidate {
    /// Whether it may be connected to now.
    fn is_due(&self, now: Moment) -> bool {
        matches!(self.link, CandidateState::Idle(at) if at <= now)
    }
}

struct ActiveSource {
    address: SocketAddr,
    /// Start of the connection attempt.
    since: Moment,
    /// Whether the handshake has been completed.
    connected: bool,
    commands: Sender<SourceCommand>,
    /// Counter of received chunk fragments, and its value when the picker was last notified.
    pieces: FragmentCount,
    heard: usize,
    /// Chunks that it could not send.
    refusals: Refusals,
    /// Whether it is in the site of this peer.
    is_near: bool,
    /// Whether chunks from other peers would save no link.
    is_direct: bool,
    /// Whether it is a root that has not sent each chunk, and the chunks that were reported to it.
    has_unsent: bool,
    told: Bitfield,
    shutdown: Shutdown,
}

/// Scheduler of a download in progress.
pub struct DownloadScheduler {
    job: Arc<Job>,
    /// Length of the longest chunk known so far, bytes.
    longest: u64,
    picker: Picker,
    candidates: BTreeMap<SocketAddr, Candidate>,
    /// The key in `candidates` of each further address of a source.
    aliases: HashMap<SocketAddr, SocketAddr>,
    /// Connected sources, and those being connected to.
    live: HashMap<SourceId, ActiveSource>,
    /// Id of the next source.
    next: u32,
    random: fastrand::Rng,
    events: Sender<SourceEvent>,
    threads: Threads,
    workers: Workers,
    shutdown: Shutdown,
    /// Events that have not been returned to the owner.
    reports: Vec<SchedulerEvent>,
    /// Membership in the rings of a root; `None` if sources send no bitfield: then all of them are connected to.
    rings: Option<RingMember>,
    /// Last tick before which bytes of a chunk arrived.
    received_at: Moment,
    /// Sources whose loss was logged since they were last connected, up to [`LOGGED_LOSSES_MAX`].
    logged_losses: HashSet<SocketAddr>,
    tally: Tally,
}

impl DownloadScheduler {
    /// Prepares a download of the chunks missing in `done`: all of them (`all`), or those passed to
    /// [`want`](Self::want). Sources report to `events`.
    pub fn new(
        job: Job,
        done: Bitfield,
        all: bool,
        events: Sender<SourceEvent>,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> Self {
        let (job, shutdown) = (Arc::new(job), shutdown.child());
        let mut picker = Picker::new(done, all);
        picker.set_batch(hash_lanes());
        if job.longest > CHUNK_SIZE_MAX.into() {
            picker.wait_while_bytes_arrive();
        }
        Self {
            longest: job.longest,
            workers: Workers::new(threads),
            rings: job.subscribe.then(|| RingMember::new(&job)),
            job,
            picker,
            candidates: BTreeMap::new(),
            aliases: HashMap::new(),
            live: HashMap::new(),
            next: 0,
            random: fastrand::Rng::new(),
            events,
            threads: threads.clone(),
            shutdown,
            reports: Vec::new(),
            received_at: Moment::ZERO,
            logged_losses: HashSet::new(),
            tally: Tally::default(),
        }
    }

    /// Whether all wanted chunks are stored.
    pub fn is_complete(&self) -> bool {
        self.picker.is_complete()
    }

    /// Stored chunks.
    pub fn done(&self) -> &Bitfield {
        self.picker.done()
    }

    /// Number of connected sources.
    pub fn connected(&self) -> usize {
        self.live.values().filter(|live| live.connected).count()
    }

    /// Counts of the download so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Last [`tick`](Self::tick) at which bytes of a chunk had arrived since the previous one.
    pub fn received_at(&self) -> Moment {
        self.received_at
    }

    /// Wanted chunks that no connected source has.
    pub fn unavailable(&self) -> Vec<ChunkIndex> {
        self.picker.unavailable().collect()
    }

    /// Adds a chunk to the wanted ones, also if it was stored before.
    pub fn want(&mut self, index: ChunkIndex, now: Moment) -> Vec<SchedulerEvent> {
        self.picker.want(index);
        self.request_from_all(now);
        std::mem::take(&mut self.reports)
    }

    /// Requests chunks in the order of the file from now on, and only those passed to [`want_window`](Self::want_window).
    pub fn request_in_order(&mut self) {
        self.picker.pick_in_order();
    }

    /// Wants further chunks of a download in order; with `is_last` the last ones.
    pub fn want_window(
        &mut self,
        chunks: impl Iterator<Item = ChunkIndex>,
        is_last: bool,
        now: Moment,
    ) -> Vec<SchedulerEvent> {
        chunks.for_each(|index| self.picker.want(index));
        if is_last {
            self.picker.expect_no_more();
        }
        self.request_from_all(now);
        std::mem::take(&mut self.reports)
    }

    /// Whether all chunks wanted by now are stored; more may be wanted later.
    pub fn is_idle(&self) -> bool {
        self.picker.is_idle()
    }

    /// Marks a chunk as stored that was obtained by other means than this download.
    pub fn have(&mut self, index: ChunkIndex) {
        self.picker.have(index);
    }

    /// Bytes received so far of chunks above [`CHUNK_SIZE_MAX`] that are still arriving.
    pub fn large_chunk_bytes(&self) -> u64 {
        self.job.large_chunk_bytes.load(Ordering::Relaxed)
    }

    /// Raises the length of the longest chunk, bytes; limits the number of connected sources.
    pub fn expect_up_to(&mut self, length: u64) {
        self.longest = self.longest.max(length);
        if length > CHUNK_SIZE_MAX.into() {
            self.picker.wait_while_bytes_arrive();
        }
    }

    /// Adds a possible source. A complete one is connected to as soon as a connection is free; others when they are
    /// needed ([`rings`](crate::swarm::rings)), or, without rings, as soon as a connection is free.
    pub fn add_source(&mut self, address: impl Into<PeerAddress>, is_complete: bool, now: Moment) {
        let address = self.note_source(address.into(), now);
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.is_complete |= is_complete;
        }
        self.connect(now);
    }

    /// Notes the addresses of a possible source. Returns its key: a source with an address in common is the same one.
    fn note_source(&mut self, address: PeerAddress, now: Moment) -> SocketAddr {
        let known = address.all().map(|one| self.key_of(one)).find(|key| self.candidates.contains_key(key));
        let key = known.unwrap_or(address.first());
        if let Some(candidate) = self.candidates.get_mut(&key) {
            let all = PeerAddress::new(candidate.address.all().chain(address.all()));
            candidate.address = all.unwrap_or(address);
        } else if self.candidates.len() < CANDIDATES_MAX {
            let candidate = Candidate {
                address,
                link: CandidateState::Idle(now),
                backoff: Backoff::new(RETRY_MIN, RETRY_MAX),
                failures: 0,
                offences: 0,
                reported: Bitfield::none(self.job.count),
                is_complete: false,
                bad_bytes: 0,
            };
            self.candidates.insert(key, candidate);
        }
        let others = self.candidates.get(&key).into_iter().flat_map(|candidate| candidate.address.all());
        self.aliases.extend(others.filter(|one| *one != key).map(|one| (one, key)));
        key
    }

    /// The key in `candidates` of the source with an address.
    fn key_of(&self, address: SocketAddr) -> SocketAddr {
        match self.candidates.contains_key(&address) {
            true => address,
            false => self.aliases.get(&address).copied().unwrap_or(address),
        }
    }

    /// Records that a source has a chunk (for downloads whose sources send no bitfield).
    pub fn source_has(
        &mut self,
        address: PeerAddress,
        index: ChunkIndex,
        now: Moment,
    ) -> Vec<SchedulerEvent> {
        let address = self.note_source(address, now);
        self.connect(now);
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.reported.insert(index);
            if let CandidateState::Active(id) = candidate.link {
                self.picker.source_has(id, index);
                self.request_chunks(id, now);
            }
        }
        std::mem::take(&mut self.reports)
    }

    /// Processes an event of a source.
    pub fn handle(&mut self, event: SourceEvent, now: Moment) -> Vec<SchedulerEvent> {
        let SourceEvent { source: id, update, .. } = event;
        match update {
            SourceUpdate::Connected { have, role, is_near, rtt } => {
                self.connected_to(id, have, now);
                self.picker.set_rtt(id, rtt);
                self.connected_member(id, role, is_near, now);
                // Chunks of this source may be the ones that the other sources do not have.
                self.request_from_all(now);
            }
            SourceUpdate::Has(chunks) => {
                self.trace_announced(id, chunks.len());
                chunks.into_iter().for_each(|index| self.picker.source_has(id, index));
                self.request_chunks(id, now);
            }
            SourceUpdate::Receives(index) => {
                self.picker.source_receives(id, index);
                self.request_chunks(id, now);
            }
            SourceUpdate::Gives(index) => self.given(id, index, now),
            SourceUpdate::Place { ring, peer } => self.placed(id, ring, peer, now),
            SourceUpdate::Spent => self.spent(id, now),
            SourceUpdate::Peers(peers) => {
                peers.into_iter().for_each(|peer| _ = self.note_source(peer.into(), now));
                self.connect(now);
            }
            SourceUpdate::Stored(arrivals) => {
                self.stored(id, &arrivals, now);
                self.delivered(id);
                self.request_chunks(id, now);
            }
            SourceUpdate::Refused(index) => {
                self.picker.refused(id, index);
                self.request_from_all(now);
            }
            SourceUpdate::Unable { index, cause } => self.postpone(id, index, cause, now),
            SourceUpdate::Lost(error) => self.lost(id, error, now),
        }
        std::mem::take(&mut self.reports)
    }

    fn trace_announced(&self, id: SourceId, chunks: usize) {
        if let Some(live) = self.live.get(&id) {
            log::trace!("{} announced {}", live.address, counted(chunks as u64, "chunk"));
        }
    }

    /// Records chunks that arrived together.
    fn stored(&mut self, id: SourceId, arrivals: &[Arrival], now: Moment) {
        let chunks: Vec<ChunkIndex> = arrivals.iter().map(|arrival| arrival.index).collect();
        let are_new = self.picker.arrived_together(id, &chunks, now);
        for (arrival, is_new) in arrivals.iter().zip(are_new) {
            self.note_stored(id, *arrival, is_new, now);
            // Only a delivered chunk resets the backoff; a successful connection does not.
            if let Some(live) = self.live.get_mut(&id) {
                live.refusals.sent(arrival.index);
                if let Some(candidate) = self.candidates.get_mut(&live.address) {
                    candidate.backoff.reset();
                }
            }
            self.reports.push(SchedulerEvent::Stored(*arrival, is_new));
        }
    }

    /// Counts and logs a stored chunk.
    fn note_stored(&mut self, id: SourceId, Arrival { index, bytes }: Arrival, is_new: bool, now: Moment) {
        let from = self.live.get(&id).map(|live| live.address);
        if is_new {
            self.tally.stored(now, from, bytes);
        }
        if let Some(from) = from {
            log::debug!("received chunk {index} of {} from {from}, {bytes} bytes", self.job.file.short());
        }
    }

    /// Connects to sources whose retry is due and reassigns overdue requests. To be called every [`TICK_INTERVAL`].
    pub fn tick(&mut self, now: Moment) -> Vec<SchedulerEvent> {
        if self.is_complete() {
            self.disconnect_all(now);
        } else if self.free_slots() == 0 {
            self.replace_useless_source(now);
        }
        self.note_received(now);
        self.retry_refused(now);
        self.check_standing(now);
        self.connect(now);
        self.request_from_all(now);
        std::mem::take(&mut self.reports)
    }

    /// Handles a transient refusal: the source is asked for this chunk again after a pause.
    fn postpone(&mut self, id: SourceId, index: ChunkIndex, cause: String, now: Moment) {
        self.picker.refused(id, index);
        if let Some(live) = self.live.get_mut(&id) {
            let text = format!("{} cannot send chunk {index} now: {cause}", live.address);
            match live.refusals.record(index, cause, now, &mut self.random) {
                true => log::info!("{text}; it will be asked again"),
                false => log::debug!("{text}"),
            }
        }
        self.request_from_all(now);
    }

    /// Makes refused chunks available again when their pauses have ended.
    fn retry_refused(&mut self, now: Moment) {
        for (id, live) in &mut self.live {
            for index in live.refusals.take_due(now) {
                self.picker.source_has(*id, index);
            }
        }
    }

    /// A missing chunk that a connected source could not send: the source, the chunk and the cause.
    pub fn refused(&self) -> Option<(SocketAddr, ChunkIndex, &str)> {
        let done = |index| self.done().has(index);
        self.live
            .values()
            .find_map(|live| live.refusals.first(done).map(|(index, cause)| (live.address, index, cause)))
    }

    /// Notifies the picker of the sources that have sent data since the last tick.
    fn note_received(&mut self, now: Moment) {
        for (id, live) in &mut self.live {
            let pieces = live.pieces.load(Ordering::Relaxed);
            if std::mem::replace(&mut live.heard, pieces) != pieces {
                self.picker.heard(*id, now);
                self.received_at = now;
            }
        }
    }

    /// Logs the sources that delayed the end of the download: they are still within their stall timeouts.
    pub fn log_slow_sources(&self, now: Moment) {
        for (id, live) in &self.live {
            let (address, waited) = (live.address, now.saturating_sub(live.since));
            if let Some((index, waited)) = self.picker.overdue(*id, now) {
                let waited = waited.as_secs();
                log::warn!("{address} has not sent chunk {index}, requested {waited} s ago (0 bad bytes)");
            } else if !live.connected && waited >= BITFIELD_TIMEOUT {
                let waited = waited.as_secs();
                log::warn!("{address} has sent no bitfield in {waited} s (0 bad bytes)");
            }
        }
    }

    /// Closes the connections to all sources.
    pub fn stop(&self) {
        self.shutdown.trigger();
    }

    /// Replaces a useless source when all connections are in use, chunks are missing that no connected source
    /// has, and another candidate is due.
    fn replace_useless_source(&mut self, now: Moment) {
        if self.picker.unavailable().next().is_none() {
            return;
        }
        if !self.candidates.values().any(|candidate| candidate.is_due(now)) {
            return;
        }
        let useless = self.live.iter().find(|(id, live)| live.connected && !self.picker.is_useful(**id));
        if let Some(id) = useless.map(|(id, _)| *id)
            && let Some(live) = self.live.remove(&id)
        {
            live.shutdown.trigger();
            self.picker.remove_source(id);
            self.lost_member(id, live.address, true);
            if let Some(candidate) = self.candidates.get_mut(&live.address) {
                candidate.link = CandidateState::Idle(now + RETRY_MAX);
            }
        }
    }

    /// Disconnects from all sources; they are connected to again when a chunk is wanted.
    fn disconnect_all(&mut self, now: Moment) {
        self.rings = self.rings.is_some().then(|| RingMember::new(&self.job));
        for (id, live) in self.live.drain() {
            live.shutdown.trigger();
            self.picker.remove_source(id);
            if let Some(candidate) = self.candidates.get_mut(&live.address) {
                candidate.link = CandidateState::Idle(now);
            }
        }
    }

    fn connected_to(&mut self, id: SourceId, have: Option<Bitfield>, now: Moment) {
        let Some(live) = self.live.get_mut(&id) else { return };
        live.connected = true;
        let address = live.address;
        self.logged_losses.remove(&address);
        let candidate = self.candidates.get_mut(&address);
        let reported = candidate.map(|candidate| {
            candidate.failures = 0;
            candidate.reported.clone()
        });
        let have = have.or(reported).unwrap_or_else(|| Bitfield::none(self.job.count));
        log::debug!("connected to {address}, which has {} of {} chunks", have.held(), have.count());
        self.picker.add_source(id, have, now);
    }

    fn lost(&mut self, id: SourceId, error: SourceError, now: Moment) {
        self.picker.remove_source(id);
        let Some(live) = self.live.remove(&id) else { return };
        live.shutdown.trigger();
        let address = live.address;
        self.lost_member(id, address, live.connected);
        let Some(candidate) = self.candidates.get_mut(&address) else { return };
        match error {
            SourceError::Store(error) => self.reports.push(SchedulerEvent::Failed(error)),
            SourceError::BadChunk { bytes, .. } => {
                candidate.link = CandidateState::Banned;
                candidate.bad_bytes += bytes;
                self.tally.rejected();
                log::warn!("banned {address}: {error}");
                self.reports.push(SchedulerEvent::Corrupt(address));
            }
            SourceError::Protocol(_) if candidate.offences + 1 >= OFFENCES_MAX => {
                candidate.link = CandidateState::Banned;
                let bytes = candidate.bad_bytes;
                log::warn!("banned {address}: {error}; repeated offence ({bytes} bad bytes)");
                self.reports.push(SchedulerEvent::Corrupt(address));
            }
            error => {
                candidate.offences += u32::from(matches!(error, SourceError::Protocol(_)));
                let pause = candidate.backoff.pause(&mut self.random);
                candidate.link = CandidateState::Idle(now + pause);
                candidate.reported = Bitfield::none(self.job.count);
                if !matches!(error, SourceError::Stopped) {
                    // One line, although the source may be tried again many times.
                    let is_new =
                        self.logged_losses.len() < LOGGED_LOSSES_MAX && self.logged_losses.insert(address);
                    let level = if is_new { log::Level::Info } else { log::Level::Debug };
                    log::log!(level, "disconnected from {address}, a source of {}: {error}", self.job.name);
                }
                candidate.failures += u32::from(!live.connected);
                if candidate.failures >= FAILURES_MAX {
                    // It is added again if a tracker or peer reports it; until then it uses no slot.
                    self.candidates.remove(&address);
                    self.aliases.retain(|_, key| *key != address);
                }
                self.reports.push(SchedulerEvent::Lost(address));
            }
        }
        self.connect(now);
        self.request_from_all(now);
    }

    /// Largest number of connected sources, limited by the memory for receive buffers.
    fn sources_max(&self) -> usize {
        let by_memory = RECEIVE_MEMORY_BYTES / self.longest.max(1);
        let by_memory = (by_memory as usize).clamp(SOURCES_MIN, SOURCES_MAX);
        // A source with a small share of the limit would appear to stall.
        let rate = self.job.limit.as_ref().map_or(u64::MAX, RateLimit::rate);
        by_memory.min((rate / LIMITED_PART_BYTES as u64).max(1) as usize)
    }

    fn free_slots(&self) -> usize {
        self.sources_max().saturating_sub(self.live.len())
    }

    fn connect(&mut self, now: Moment) {
        if self.is_complete() || self.shutdown.is_stopped() {
            return;
        }
        if self.rings.is_some() {
            return self.connect_members(now);
        }
        let due = self.candidates.iter().filter(|(_, candidate)| {
            // A source without a bitfield is useful only if the owner has reported chunks of it.
            candidate.is_due(now) && candidate.reported.held() > 0
        });
        let mut due: Vec<SocketAddr> = due.map(|(address, _)| *address).collect();
        self.random.shuffle(&mut due);
        due.into_iter().take(self.free_slots()).for_each(|address| self.start(address, now));
    }

    fn start(&mut self, address: SocketAddr, now: Moment) {
        let id = SourceId(self.next);
        self.next += 1;
        if let Some(rings) = &mut self.rings {
            rings.begin(now);
        }
        // Never full: requests in flight to a source are limited by the pipeline depth.
        let (commands, queued) = bounded(PIPELINE_SMALL_BATCHES_MAX * HASH_LANES_MAX * 2);
        let shutdown = self.shutdown.child();
        let (job, events, workers) = (self.job.clone(), self.events.clone(), self.workers.clone());
        let pieces = FragmentCount::default();
        let (counted, ended) = (pieces.clone(), shutdown.clone());
        let addresses =
            self.candidates.get(&address).map_or(address.into(), |candidate| candidate.address.clone());
        let source = Source {
            id,
            address: addresses,
            job,
            events,
            fragments: counted,
            shutdown: ended,
            download: self.shutdown.clone(),
            failure: Mutex::default(),
        };
        let has_room = address_space::check(self.live.len());
        let spawned = has_room
            .and_then(|()| self.threads.spawn("fetch", move || workers.run(Arc::new(source), queued)));
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
                    refusals: Refusals::default(),
                    is_near: true,
                    is_direct: false,
                    has_unsent: false,
                    told: Bitfield::none(self.job.count),
                    shutdown,
                };
                self.live.insert(id, live);
            }
            Err(error) => {
                log::warn!("cannot start a thread for {address}: {error}");
                candidate.link = CandidateState::Idle(now + candidate.backoff.pause(&mut self.random));
            }
        }
    }

    fn request_from_all(&mut self, now: Moment) {
        let mut ids: Vec<SourceId> = self.live.keys().copied().collect();
        self.random.shuffle(&mut ids);
        ids.into_iter().for_each(|id| self.request_chunks(id, now));
    }

    /// Fills the pipeline of a source with chunk requests.
    fn request_chunks(&mut self, id: SourceId, now: Moment) {
        let is_paused = self.live.get(&id).is_some_and(|live| live.refusals.is_paused(now));
        if is_paused {
            return;
        }
        self.request_next(id, now);
        while let Some(index) = self.picker.pick(id, now, &mut self.random) {
            let Some(live) = self.live.get(&id) else { return };
            if live.commands.try_send(SourceCommand::Chunk(index)).is_err() {
                // The source has just ended; the event of its loss is queued and returns the chunk to the
                // picker.
                return;
            }
            log::trace!("requested chunk {index} of {} from {}", self.job.file.short(), live.address);
            self.tally.requested(now);
            self.reports.push(SchedulerEvent::Requested(index, live.address));
        }
    }
}

impl Drop for DownloadScheduler {
    fn drop(&mut self) {
        self.stop();
    }
}
