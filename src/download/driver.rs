//! State thread of one file's download: owns the scheduler, and feeds it new holders.
//!
//! Invariant: the state thread blocks neither on a socket nor on the disk; separate threads look up holders
//! and write the resume file. They have ended when [`run`] returns, except that an fsync in progress is not
//! awaited after the last chunk.

use crate::content::fmt::counted;
use crate::content::limits::{LOOKUP_INTERVAL, URGENT_LOOKUP_INTERVAL};
use crate::content::{ChunkIndex, FileId, Manifest, PeerName};
use crate::download::destination::Destination;
use crate::download::events::{Job, SourceEvent};
use crate::download::finder::SharedFinder;
use crate::download::scheduler::{DownloadScheduler, SchedulerEvent, TICK_INTERVAL};
use crate::download::summary::Tally;
use crate::net::{RateLimit, Shutdown, Threads, Timeouts};
use crate::protocol::PeerAddress;
use crate::report::LimitedLines;
use crate::report::error::{Fault, RoleError};
use crate::report::watch::{DOWNLOADING, ShownBytes, Watch};
use crate::storage::{StoreError, StreamFile};
use crate::swarm::Moment;
use crate::sync::{RunningClock, lock};
use crate::tracker_client::lookup::Query;
use crate::upload::relay::Relay;
use crate::upload::server::DiscoveredPeer;
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Capacity of the queue of source events.
const EVENTS_QUEUED_MAX: usize = 1_024;
/// Time without data after which the missing chunks are shown to the watcher.
const SHOW_STALL_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without data after which the missing chunks are logged.
const LOG_STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest number of chunks named in a message.
const CHUNKS_NAMED_MAX: usize = 8;

/// Holders of a file that are known before its download.
#[derive(Debug, Clone, Default)]
pub struct KnownHolders {
    /// Holders of the whole file.
    pub whole: Vec<PeerAddress>,
    /// Holders of some chunks.
    pub partial: Vec<PeerAddress>,
}

/// Parameters of a download.
pub struct Download<'a> {
    /// Id of the file.
    pub id: FileId,
    /// Name of the file, for log lines.
    pub name: String,
    /// Manifest of the file.
    pub manifest: Arc<Manifest>,
    /// Where the received chunks go.
    pub destination: Arc<Destination>,
    /// Holders known so far.
    pub holders: KnownHolders,
    /// Finds further holders.
    pub finder: SharedFinder,
    /// Cut-through relay of chunks that are still being received; `None` if this peer does not serve.
    pub relay: Option<Relay>,
    /// Port of this peer's upload server, if any.
    pub port: Option<u16>,
    /// Name of the site of this peer, if its user has given it.
    pub site: Option<PeerName>,
    /// Peers that have requested this file from this peer.
    pub discovered: Option<Receiver<DiscoveredPeer>>,
    /// Time without data after which the download fails.
    pub timeout: Option<Duration>,
    /// Download limit, if any.
    pub limit: Option<RateLimit>,
    /// Timeouts of the connections to sources.
    pub timeouts: Timeouts,
    /// Receives the progress.
    pub watch: &'a dyn Watch,
}

/// Downloads all missing chunks, and counts them. A thread that is still in an fsync may be left in `syncing`.
///
/// # Errors
/// No source has a chunk, the timeout has elapsed, a chunk cannot be stored, or the shutdown.
pub fn run(download: Download<'_>, syncing: &Threads, shutdown: &Shutdown) -> Result<Tally, RoleError> {
    let work = shutdown.child();
    let threads = Threads::new();
    let watch = download.watch;
    let destination = download.destination.clone();
    let result = destination.start(syncing, &work).map_err(RoleError::from).and_then(|lost| {
        let result = run_with(download, lost.clone(), &threads, &work);
        work.trigger();
        if !destination.is_complete() {
            // Releases the destination, so that a retry can open it.
            while lost.recv().is_ok() {}
        }
        result
    });
    watch.end();
    threads.join();
    // Also after an interruption: the next run resumes from this resume file.
    match destination.note() {
        Ok(()) | Err(StoreError::Gone(_)) => {}
        Err(error) => log::warn!("{error}"),
    }
    match shutdown.is_stopped() && !destination.is_complete() {
        true => Err(destination.interrupted()),
        false => result,
    }
}

fn run_with(
    download: Download<'_>,
    destination_lost: Receiver<StoreError>,
    threads: &Threads,
    work: &Shutdown,
) -> Result<Tally, RoleError> {
    let Download {
        id,
        name,
        manifest,
        destination,
        holders,
        finder,
        relay,
        port,
        site,
        discovered,
        timeout,
        limit,
        timeouts,
        watch,
    } = download;
    let layout = manifest.layout();
    let (have, wanted) = (destination.done(), destination.wanted());
    let (size, resumed) = (destination.wanted_bytes(layout.size()), destination.present_bytes());
    if resumed > 0 {
        log::info!("resuming at {resumed} of {size} bytes ({} %)", resumed.saturating_mul(100) / size.max(1));
    }
    watch.begin(DOWNLOADING, size, resumed);
    let (source_events, received) = bounded(EVENTS_QUEUED_MAX);
    let job = Job {
        relay,
        download: 0,
        file: id,
        name,
        count: layout.count(),
        longest: layout.longest(),
        large_chunk_bytes: AtomicU64::new(0),
        expected: manifest.clone(),
        sink: destination.clone(),
        port,
        site,
        subscribe: true,
        limit,
        timeouts,
        lines: LimitedLines::default(),
    };
    let all = destination.stream().is_none() && wanted.is_none();
    let missing = wanted.map(|wanted| wanted.iter().filter(|index| !have.has(*index)).collect::<Vec<_>>());
    let written = destination.stream().map_or_else(never, |stream| stream.written().clone());
    let mut state = DownloadState {
        file: id,
        scheduler: DownloadScheduler::new(job, have, all, source_events, threads, work),
        destination,
        window_end: ChunkIndex(0),
        watch,
        shown: ShownBytes::default(),
        missing_bytes: size.saturating_sub(resumed),
        timeout,
        clock: RunningClock::new(),
        last_arrival: Moment::ZERO,
        stall_logged: false,
        idle_since: None,
        corrupt_sources: 0,
        without_source: Arc::new(AtomicBool::new(true)),
    };
    let found = find_holders(finder, id, state.without_source.clone(), threads, work)?;
    if !all {
        state.scheduler.request_in_order();
    }
    state.add_sources(holders);
    match missing {
        Some(missing) => {
            let now = state.clock.now();
            let events = state.scheduler.want_window(missing.into_iter(), true, now);
            state.handle(events)?;
        }
        None if !all => _ = state.move_window(),
        None => {}
    }
    let discovered = discovered.unwrap_or_else(never);
    let inputs = Inputs { received, found, discovered, destination_lost, written };
    state.run(inputs, work)?;
    Ok(state.scheduler.tally().clone())
}

/// Channels that the thread of a download receives from. A closed one is replaced by one that is never ready.
struct Inputs {
    received: Receiver<SourceEvent>,
    found: Receiver<KnownHolders>,
    discovered: Receiver<DiscoveredPeer>,
    destination_lost: Receiver<StoreError>,
    /// A message when the window of a stream has moved.
    written: Receiver<()>,
}

struct DownloadState<'a> {
    file: FileId,
    scheduler: DownloadScheduler,
    destination: Arc<Destination>,
    /// The first chunk of a stream that has not been wanted yet.
    window_end: ChunkIndex,
    watch: &'a dyn Watch,
    shown: ShownBytes,
    /// Bytes that were missing at the start.
    missing_bytes: u64,
    timeout: Option<Duration>,
    /// Excludes the times for which this process was stopped; read at each tick.
    clock: RunningClock,
    /// Time at which bytes of a chunk last arrived.
    last_arrival: Moment,
    /// A log line has reported the current stall.
    stall_logged: bool,
    /// Time since which all chunks of the window are stored: the reader of the stream is slower than the sources.
    idle_since: Option<Moment>,
    corrupt_sources: usize,
    /// Whether no source is connected; the finder then looks more often.
    without_source: Arc<AtomicBool>,
}

impl DownloadState<'_> {
    /// Processes events until the file is complete, or the shutdown.
    fn run(&mut self, mut inputs: Inputs, work: &Shutdown) -> Result<(), RoleError> {
        let ticks = crossbeam_channel::tick(TICK_INTERVAL);
        let is_written = |destination: &Destination| destination.stream().is_none_or(StreamFile::is_complete);
        while !(self.scheduler.is_complete() && is_written(&self.destination)) {
            let events = crossbeam_channel::select! {
                recv(work.signal()) -> _ => return Ok(()),
                recv(inputs.received) -> event => match event {
                    Ok(event) => self.scheduler.handle(event, self.clock.now()),
                    Err(_) => return Ok(()),
                },
                recv(inputs.found) -> holders => {
                    match holders {
                        Ok(holders) => self.add_sources(holders),
                        Err(_) => inputs.found = never(),
                    }
                    Vec::new()
                }
                recv(inputs.discovered) -> peer => {
                    match peer {
                        Ok(peer) if peer.file == self.file => {
                            let partial = vec![peer.address.into()];
                            self.add_sources(KnownHolders { partial, ..KnownHolders::default() });
                        }
                        Ok(_) => {}
                        Err(_) => inputs.discovered = never(),
                    }
                    Vec::new()
                }
                recv(inputs.written) -> _ => self.move_window(),
                recv(inputs.destination_lost) -> error => match error {
                    Ok(error) => return Err(error.into()),
                    Err(_) => {
                        inputs.destination_lost = never();
                        Vec::new()
                    }
                },
                recv(ticks) -> _ => self.tick()?,
            };
            self.handle(events)?;
        }
        self.scheduler.log_slow_sources(self.clock.now());
        Ok(())
    }

    /// Wants the chunks that have come into the window of a stream.
    fn move_window(&mut self) -> Vec<SchedulerEvent> {
        let Some(end) = self.destination.stream().map(StreamFile::window_end) else { return Vec::new() };
        let added = (self.window_end.0..end.0).map(ChunkIndex);
        self.window_end = end;
        let is_last = end.0 == self.scheduler.done().count();
        self.scheduler.want_window(added, is_last, self.clock.now())
    }

    fn add_sources(&mut self, KnownHolders { whole, partial }: KnownHolders) {
        let now = self.clock.now();
        whole.into_iter().for_each(|holder| self.scheduler.add_source(holder, true, now));
        partial.into_iter().for_each(|holder| self.scheduler.add_source(holder, false, now));
    }

    fn tick(&mut self) -> Result<Vec<SchedulerEvent>, RoleError> {
        let connected = self.scheduler.connected();
        self.without_source.store(connected == 0, Ordering::Relaxed);
        self.watch.note(&counted(connected as u64, "source"));
        let arrived = self.shown.arriving(self.scheduler.large_chunk_bytes(), self.missing_bytes);
        if arrived > 0 {
            self.watch.advance(arrived);
        }
        let now = self.clock.now();
        let paused = self.clock.take_paused();
        if !paused.is_zero() {
            log::info!("the process was stopped for {} s; the download continues", paused.as_secs());
        }
        let events = self.scheduler.tick(now);
        // A chunk can take longer than any timeout: each of its bytes is progress.
        if self.scheduler.received_at() > self.last_arrival {
            self.note_arrival(self.scheduler.received_at());
        }
        self.check_stall(now)?;
        Ok(events)
    }

    fn handle(&mut self, events: Vec<SchedulerEvent>) -> Result<(), RoleError> {
        for event in events {
            match event {
                SchedulerEvent::Stored(arrival, is_new) => {
                    let now = self.clock.now();
                    self.note_arrival(now);
                    if is_new {
                        self.watch.advance(self.shown.store(arrival.bytes));
                    }
                }
                SchedulerEvent::Corrupt(_) => self.corrupt_sources += 1,
                SchedulerEvent::Failed(error) => return Err(error.into()),
                SchedulerEvent::Requested(..) | SchedulerEvent::Lost(_) => {}
            }
        }
        Ok(())
    }

    fn note_arrival(&mut self, at: Moment) {
        self.last_arrival = at;
        self.stall_logged = false;
        self.watch.trouble("");
    }

    fn check_stall(&mut self, now: Moment) -> Result<(), RoleError> {
        if let Some(stream) = self.destination.stream().filter(|_| self.scheduler.is_idle()) {
            // The time of a slow reader is not that of a source.
            let idle_since = *self.idle_since.get_or_insert(now);
            if now.saturating_sub(idle_since) >= SHOW_STALL_TIMEOUT {
                let text = format!("waiting for the reader of {}", stream.name());
                if !std::mem::replace(&mut self.stall_logged, true) {
                    log::debug!("{text}; chunks from {} on are not requested yet", self.window_end);
                }
                self.watch.trouble(&text);
            }
            self.last_arrival = now;
            return Ok(());
        }
        self.idle_since = None;
        let waited = now.saturating_sub(self.last_arrival);
        if self.timeout.is_some_and(|timeout| waited >= timeout) {
            // A refused chunk counts as missing also while its request is repeated.
            let all_sent = self.scheduler.unavailable().is_empty() && self.scheduler.refused().is_none();
            let fault = match all_sent {
                _ if self.corrupt_sources > 0 && self.scheduler.connected() == 0 => Fault::VerificationFailed,
                true => Fault::TimedOut,
                false => Fault::ChunksMissing,
            };
            let text = format!("no data received for {} s: {}", waited.as_secs(), self.missing());
            return Err(RoleError::new(fault, text));
        }
        if waited >= SHOW_STALL_TIMEOUT {
            self.watch.trouble(&self.missing());
        }
        if waited >= LOG_STALL_TIMEOUT && !self.stall_logged {
            self.stall_logged = true;
            log::warn!("download stalled: {}", self.missing());
        }
        Ok(())
    }

    /// Describes the missing chunks and the cause.
    fn missing(&self) -> String {
        let done = self.scheduler.done();
        let wanted = self.destination.wanted();
        let (missing, count) = match &wanted {
            Some(wanted) => (wanted.held() - wanted.common_count(done) as u32, wanted.held()),
            None => (done.count() - done.held(), done.count()),
        };
        let unavailable = self.scheduler.unavailable();
        let mut text = format!(
            "{missing} of {} missing, {} connected",
            counted(count.into(), "chunk"),
            counted(self.scheduler.connected() as u64, "source")
        );
        if !unavailable.is_empty() {
            let named: Vec<String> =
                unavailable.iter().take(CHUNKS_NAMED_MAX).map(ChunkIndex::to_string).collect();
            let more = if unavailable.len() > CHUNKS_NAMED_MAX { " ..." } else { "" };
            text += &format!("; no source has chunk {}{more}", named.join(", "));
        }
        if let Some((address, index, cause)) = self.scheduler.refused() {
            text += &format!("; {address} cannot send chunk {index}: {cause}");
        }
        if self.corrupt_sources > 0 {
            text +=
                &format!("; {} banned for corrupt chunks", counted(self.corrupt_sources as u64, "source"));
        }
        text
    }
}

/// Looks up holders at intervals, shorter ones while no source is connected.
fn find_holders(
    finder: SharedFinder,
    id: FileId,
    without_source: Arc<AtomicBool>,
    threads: &Threads,
    work: &Shutdown,
) -> std::io::Result<Receiver<KnownHolders>> {
    let (found, finding): (Sender<KnownHolders>, _) = bounded(1);
    let work = work.clone();
    let mut is_logged = false;
    threads.spawn("find", move || {
        let mut last = Instant::now();
        while !work.wait(URGENT_LOOKUP_INTERVAL) {
            if last.elapsed() < LOOKUP_INTERVAL && !without_source.load(Ordering::Relaxed) {
                continue;
            }
            last = Instant::now();
            let query = Query { id: Some(id), ..Query::default() };
            match lock(&finder).find(&query, &work) {
                Ok(files) => {
                    is_logged = false;
                    let (whole, partial): (Vec<_>, Vec<_>) =
                        files.into_iter().map(|file| (file.whole, file.partial)).unzip();
                    let (whole, partial) = (whole.concat(), partial.concat());
                    let _ = found.try_send(KnownHolders { whole, partial });
                }
                Err(error) if !is_logged && !work.is_stopped() => {
                    is_logged = true;
                    log::info!("{error}; the download continues");
                }
                Err(_) => {}
            }
        }
    })?;
    Ok(finding)
}
