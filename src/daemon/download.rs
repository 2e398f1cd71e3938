//! The state thread of one file's download: sources, holders that are found, peers met, and the part file
//! that all of it ends up in.
//!
//! Invariant: the state thread waits neither for a socket nor for the disk; looking up holders and writing the
//! have-map are threads of their own. When [`run`] returns all of them have ended, except that a sync which the disk is
//! still at is not waited for by one who has every chunk.

use super::error::{DaemonError, Fault};
use super::fetch::{DownloadScheduler, Job, SchedulerEvent, TICK};
use super::finder::{Finder, interrupted};
use super::lookup::Query;
use super::peer::DiscoveredPeer;
use super::relay::Relay;
use super::watch::Watch;
use crate::content::limits::{DURABLE_INTERVAL, LOOKUP_INTERVAL, LOOKUP_INTERVAL_ALONE, NOTE_INTERVAL};
use crate::content::{ChunkIndex, FileId, Manifest};
use crate::net::{Shutdown, Threads, Timeouts};
use crate::storage::{ChunkSource, PartFile, StoreError};
use crate::swarm::Moment;
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Events of sources that may wait for the state thread.
const QUEUE: usize = 1_024;
/// When nothing arrives for so long, whoever looks on is told what is missing.
const UNEASY: Duration = Duration::from_secs(1);
/// When nothing arrives for so long, the log says what is missing.
const STUCK: Duration = Duration::from_secs(10);
/// Chunks named in a message about what is missing.
const NAMED: usize = 8;

/// What a download needs.
pub struct Download<'a> {
    /// The file's id.
    pub id: FileId,
    /// What it must be.
    pub manifest: Arc<Manifest>,
    /// Where it goes.
    pub part: Arc<PartFile>,
    /// The holders known so far.
    pub holders: Vec<SocketAddr>,
    /// Finds more.
    pub finder: Box<dyn Finder>,
    /// Passes chunks on as they come, if this peer serves.
    pub relay: Option<Relay>,
    /// Where this peer serves, if it does.
    pub port: Option<u16>,
    /// Peers that have asked this one.
    pub discovered: Option<Receiver<DiscoveredPeer>>,
    /// Gives up when nothing has arrived for so long.
    pub timeout: Option<Duration>,
    /// How long sources are waited for.
    pub timeouts: Timeouts,
    /// Who looks on.
    pub watch: &'a dyn Watch,
}

/// Downloads until every chunk is there. A thread that waits for the disk may be left in `syncing`.
///
/// # Errors
/// Nobody has it all, nothing arrives, it cannot be stored, or the shutdown.
pub fn run(download: Download<'_>, syncing: &Threads, shutdown: &Shutdown) -> Result<(), DaemonError> {
    let work = shutdown.child();
    let threads = Threads::new();
    let watch = download.watch;
    let part = download.part.clone();
    let result = keep_map(part.clone(), syncing, &work).map_err(DaemonError::from).and_then(|lost| {
        let result = run_with(download, lost.clone(), &threads, &work);
        work.trigger();
        if !part.progress().is_complete() {
            // Whoever tries again finds the part file free.
            while lost.recv().is_ok() {}
        }
        result
    });
    watch.end();
    threads.join();
    // After an interruption, too: the next run goes on from here.
    match part.note() {
        Ok(()) | Err(StoreError::Gone(_)) => {}
        Err(error) => log::warn!("{error}"),
    }
    match shutdown.is_stopped() && !part.progress().is_complete() {
        true => Err(interrupted()),
        false => result,
    }
}

fn run_with(
    download: Download<'_>,
    mut lost: Receiver<StoreError>,
    threads: &Threads,
    work: &Shutdown,
) -> Result<(), DaemonError> {
    let Download { id, manifest, part, holders, finder, relay, port, discovered, timeout, timeouts, watch } =
        download;
    let layout = manifest.layout();
    let (have, _) = part.progress().have();
    let (size, resumed) = (layout.size(), part.resumed_bytes());
    if resumed > 0 {
        log::info!("going on where the last run stopped: {resumed} of {size} bytes are here");
    }
    watch.begin("downloading", size, resumed);
    let (events, received) = bounded(QUEUE);
    let job = Job {
        relay,
        download: 0,
        file: id,
        count: layout.count(),
        longest: layout.longest(),
        expected: manifest.clone(),
        sink: part.clone(),
        port,
        subscribe: true,
        timeouts,
    };
    let started = Instant::now();
    let mut state = DownloadState {
        fetch: DownloadScheduler::new(job, have, true, events, threads, work),
        watch,
        timeout,
        last_arrival: started,
        said_stuck: false,
        corrupt: 0,
    };
    let alone = Arc::new(AtomicBool::new(true));
    let mut found = find_more(finder, id, alone.clone(), threads, work)?;
    let mut discovered = discovered.unwrap_or_else(never);
    holders.into_iter().for_each(|holder| state.fetch.add_source(holder, Moment::ZERO));
    let ticks = crossbeam_channel::tick(TICK);
    while !state.fetch.is_complete() {
        let news = crossbeam_channel::select! {
            recv(work.signal()) -> _ => return Ok(()),
            recv(received) -> event => match event {
                Ok(event) => state.fetch.handle(event, started.elapsed()),
                Err(_) => return Ok(()),
            },
            recv(found) -> heard => {
                let Ok(holders) = heard else {
                    found = never();
                    continue;
                };
                holders.into_iter().for_each(|holder| state.fetch.add_source(holder, started.elapsed()));
                Vec::new()
            }
            recv(discovered) -> heard => {
                match heard {
                    Ok(DiscoveredPeer { address, file }) if file == id => {
                        state.fetch.add_source(address, started.elapsed());
                    }
                    Ok(_) => {}
                    // Nobody will be met any more; a closed channel would be ready all the time.
                    Err(_) => discovered = never(),
                }
                Vec::new()
            }
            recv(lost) -> error => match error {
                Ok(error) => return Err(error.into()),
                Err(_) => {
                    lost = never();
                    Vec::new()
                }
            },
            recv(ticks) -> _ => {
                let connected = state.fetch.connected();
                alone.store(connected == 0, Ordering::Relaxed);
                watch.note(&format!("{connected} sources"));
                state.check_patience()?;
                state.fetch.tick(started.elapsed())
            }
        };
        state.take(news)?;
    }
    state.fetch.log_silent(started.elapsed());
    Ok(())
}

struct DownloadState<'a> {
    fetch: DownloadScheduler,
    watch: &'a dyn Watch,
    timeout: Option<Duration>,
    last_arrival: Instant,
    said_stuck: bool,
    corrupt: usize,
}

impl DownloadState<'_> {
    fn take(&mut self, news: Vec<SchedulerEvent>) -> Result<(), DaemonError> {
        for news in news {
            match news {
                SchedulerEvent::Stored(arrival, fresh) => {
                    self.last_arrival = Instant::now();
                    self.said_stuck = false;
                    self.watch.trouble("");
                    if fresh {
                        self.watch.advance(arrival.bytes.into());
                    }
                }
                SchedulerEvent::Corrupt(_) => self.corrupt += 1,
                SchedulerEvent::Failed(error) => return Err(error.into()),
                SchedulerEvent::Requested(..) | SchedulerEvent::Lost(_) => {}
            }
        }
        Ok(())
    }

    fn check_patience(&mut self) -> Result<(), DaemonError> {
        let waited = self.last_arrival.elapsed();
        if self.timeout.is_some_and(|timeout| waited >= timeout) {
            let fault = match self.fetch.unavailable().is_empty() {
                _ if self.corrupt > 0 && self.fetch.connected() == 0 => Fault::VerificationFailed,
                true => Fault::TimedOut,
                false => Fault::NobodyHasAll,
            };
            let text = format!("nothing has arrived for {} s: {}", waited.as_secs(), self.missing());
            return Err(DaemonError::new(fault, text));
        }
        if waited >= UNEASY {
            self.watch.trouble(&self.missing());
        }
        if waited >= STUCK && !self.said_stuck {
            self.said_stuck = true;
            log::warn!("waiting: {}", self.missing());
        }
        Ok(())
    }

    /// What is missing, and why.
    fn missing(&self) -> String {
        let done = self.fetch.done();
        let unavailable = self.fetch.unavailable();
        let mut text = format!(
            "{} of {} chunks are missing, {} sources are connected",
            done.count() - done.held(),
            done.count(),
            self.fetch.connected()
        );
        if !unavailable.is_empty() {
            let named: Vec<String> = unavailable.iter().take(NAMED).map(ChunkIndex::to_string).collect();
            let more = if unavailable.len() > NAMED { " ..." } else { "" };
            text += &format!(", and none of them has chunk {}{more}", named.join(", "));
        }
        if self.corrupt > 0 {
            text += &format!("; {} sources sent wrong bytes and are not used any more", self.corrupt);
        }
        text
    }
}

/// Asks for holders now and then, more often while there is none.
fn find_more(
    mut finder: Box<dyn Finder>,
    id: FileId,
    alone: Arc<AtomicBool>,
    threads: &Threads,
    work: &Shutdown,
) -> std::io::Result<Receiver<Vec<SocketAddr>>> {
    let (found, finding): (Sender<Vec<SocketAddr>>, _) = bounded(1);
    let work = work.clone();
    let mut said = false;
    threads.spawn("find", move || {
        let mut last = Instant::now();
        while !work.wait(LOOKUP_INTERVAL_ALONE) {
            if last.elapsed() < LOOKUP_INTERVAL && !alone.load(Ordering::Relaxed) {
                continue;
            }
            last = Instant::now();
            let query = Query { name: None, id: Some(id) };
            match finder.find(&query, &work) {
                Ok(files) => {
                    said = false;
                    let holders = files.into_iter().flat_map(|file| [file.whole, file.partial]).flatten();
                    let _ = found.try_send(holders.collect());
                }
                Err(why) if !said && !work.is_stopped() => {
                    said = true;
                    log::info!("{why}; the download goes on");
                }
                Err(_) => {}
            }
        }
    })?;
    Ok(finding)
}

/// Keeps the have-map in step with what has arrived, and now and then makes both durable. Says when the part file is
/// lost, so that nothing more is got for it; other trouble is told once and may pass.
fn keep_map(
    part: Arc<PartFile>,
    threads: &Threads,
    work: &Shutdown,
) -> std::io::Result<Receiver<StoreError>> {
    let (tell, lost) = bounded(1);
    let work = work.clone();
    threads.spawn("keep-map", move || {
        let mut durable = Instant::now();
        let mut said = false;
        while !work.wait(NOTE_INTERVAL) {
            let written = match durable.elapsed() >= DURABLE_INTERVAL {
                true => {
                    durable = Instant::now();
                    part.make_durable()
                }
                false => part.note(),
            };
            match written {
                Ok(()) => said = false,
                Err(error @ StoreError::Gone(_)) => {
                    let _ = tell.try_send(error);
                    return;
                }
                Err(_) if said => {}
                Err(error) => {
                    said = true;
                    log::warn!("{error}");
                }
            }
        }
    })?;
    Ok(lost)
}
