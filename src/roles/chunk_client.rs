//! Chunk client: claims the chunks of a folder, downloads missing ones, serves the others.
//!
//! The calling thread is the state thread. It owns the [`DownloadScheduler`] and the state of the chunk set;
//! the tracker session, the sources and the upload server run in threads that send it events. Invariants:
//! each held chunk was hashed by this client; a chunk is claimed only after its line is in
//! `local_chunks.txt`; a chunk that differs from the agreed hash is not served until it has been replaced.

use crate::content::fmt::counted;
use crate::content::limits::{CHUNK_SIZE, EVENT_TARGET, RETRY_MAX, RETRY_MIN};
use crate::content::{Bitfield, ChunkIndex, Digest, FileId, PeerName, SetName};
use crate::download::events::{Expected, Job, SourceEvent};
use crate::download::scheduler::{DownloadScheduler, SchedulerEvent, TICK_INTERVAL};
use crate::net::{Listener, Shutdown, Threads};
use crate::protocol::tracker::{Claim, Registration, SetKey, Token, TrackerRequest, TrackerResponse};
use crate::report::error::DaemonError;
use crate::report::next_step;
use crate::report::watch::Watch;
use crate::storage::chunk_folder::StagedChunk;
use crate::storage::verify::VerifyCallbacks;
use crate::storage::{ChunkFolder, ChunkSink, ChunkSource, HeldChunk, StoreError};
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use crate::tracker_client::session::{self, SessionConfig, SessionEvent};
use crate::upload::offers::Offers;
use crate::upload::server::{ServeOptions, serve};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Capacity of each event queue of the state thread.
const QUEUE: usize = 1_024;
/// Interval of checks of chunk files and of chunks without connected holder.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Chunk files checked per interval.
const FILES_CHECKED_MAX: usize = 256;
/// Largest number of chunks queued for a commit, and committed at once.
const COMMIT_MAX: usize = 1_024;
/// Largest number of unanswered chunk lookups at the tracker.
const LOOKUPS_MAX: usize = 256;
/// A client with `exit_when_complete` stays until the tracker reports that all members are complete, or until
/// it has served no chunk for this time.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);

/// Configuration of a client.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Folder with `local_chunks.txt`.
    pub folder: PathBuf,
    /// Listening address of the upload server.
    pub listen: SocketAddr,
    /// Name of this client in logs and event lines.
    pub name: PeerName,
    /// Address of the tracker.
    pub tracker: SocketAddr,
    /// Chunk set of the folder.
    pub set: SetName,
    /// Advertised address, if it differs from the source address that the tracker sees.
    pub advertise: Option<SocketAddr>,
    /// Whether to exit when the folder is complete.
    pub exit_when_complete: bool,
    /// Options of the upload server.
    pub serve: ServeOptions,
    /// Time without an answer of the tracker after which to give up.
    pub timeout: Option<Duration>,
}

/// Agreed digest and size of each chunk.
#[derive(Default)]
struct AgreedChunks(RwLock<HashMap<ChunkIndex, Claim>>);

impl AgreedChunks {
    fn set(&self, index: ChunkIndex, claim: Claim) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(index, claim);
    }
}

impl Expected for AgreedChunks {
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u32)> {
        let agreed = self.0.read().unwrap_or_else(PoisonError::into_inner);
        agreed.get(&index).map(|claim| (claim.sha256, claim.size))
    }
}

/// Sink for verified chunks: writes each to its file and queues it for a commit.
struct FolderSink {
    folder: Arc<ChunkFolder>,
    agreed: Arc<AgreedChunks>,
    kept: Sender<StagedChunk>,
}

impl ChunkSink for FolderSink {
    fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        // The agreed hash may have changed during the download of the chunk.
        let agreed = self.agreed.expected(index).map(|(digest, _)| digest);
        let sealed = self.folder.manifest().and_then(|manifest| manifest.digest(index));
        if agreed != Some(digest) || sealed.is_some_and(|sealed| sealed != digest) {
            return Ok(false);
        }
        let loose = self.folder.stage(index, digest, bytes)?;
        // Closed only at the end of the client.
        self.kept.send(loose).map_err(|_| StoreError::Stopped)?;
        Ok(true)
    }
}

/// Starts the thread that commits queued chunks to the folder, as many at once as are queued. It commits the
/// rest and ends when the sink is dropped.
fn commit_kept(
    folder: Arc<ChunkFolder>,
    kept: Receiver<StagedChunk>,
    threads: &Threads,
) -> std::io::Result<Receiver<Result<Vec<HeldChunk>, StoreError>>> {
    let (tell, committed) = bounded(COMMIT_MAX);
    threads.spawn("commit", move || {
        while let Ok(first) = kept.recv() {
            let chunks: Vec<StagedChunk> =
                std::iter::once(first).chain(kept.try_iter().take(COMMIT_MAX - 1)).collect();
            let held: Vec<HeldChunk> = chunks.iter().map(StagedChunk::chunk).collect();
            // The receiver is gone while the client ends.
            let _ = tell.send(folder.commit(chunks).map(|()| held));
        }
    })?;
    Ok(committed)
}

/// Runs until the shutdown, or until the folder is complete with `exit_when_complete`.
///
/// # Errors
/// The folder is invalid, the port is in use, the tracker exceeds its timeout, or a chunk cannot be stored.
pub fn run(config: ClientConfig, watch: &dyn Watch, shutdown: &Shutdown) -> Result<(), DaemonError> {
    let listener = Listener::bind(config.listen).map_err(DaemonError::bind("-transfer_port PORT"))?;
    let folder = match open(&config, watch, shutdown) {
        Ok(folder) => Arc::new(folder),
        // Ctrl-C before the client serves is no error.
        Err(_) if shutdown.is_stopped() => return Ok(()),
        Err(error) => return Err(error),
    };
    let threads = Threads::new();
    let result = serve_and_fetch(&config, listener, folder, &threads, shutdown);
    shutdown.trigger();
    threads.join();
    result
}

fn open(config: &ClientConfig, watch: &dyn Watch, shutdown: &Shutdown) -> Result<ChunkFolder, DaemonError> {
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let begin = |bytes| watch.begin(&format!("hashing {}", config.folder.display()), bytes, 0);
    let folder =
        ChunkFolder::open(&config.folder, VerifyCallbacks { begin: &begin, hashed: &hashed, stop: &stop });
    watch.end();
    Ok(folder?)
}

fn serve_and_fetch(
    config: &ClientConfig,
    listener: Listener,
    folder: Arc<ChunkFolder>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> Result<(), DaemonError> {
    let address = listener.address();
    let set = SetKey { set: config.set.clone(), count: folder.count() };
    let key = FileId::of_set(&set.set, set.count);
    let offers = Offers::new();
    offers.put(key, folder.clone());
    serve(listener, offers.clone(), &config.serve, None, threads, shutdown)?;
    log::info!("{} listening on {address}", config.name);
    let held = folder.held();
    log::info!("{} holds {} of {} chunks", folder.path().display(), held.len(), set.count);
    log::info!("{}", next_step::join_set(&config.set, config.tracker));

    let (session_sender, session_events) = bounded(QUEUE);
    let port = address.port();
    let registration = Registration { name: config.name.clone(), port, advertise: config.advertise };
    let session = SessionConfig {
        role: "tracker",
        tracker: config.tracker,
        registration,
        timeout: config.timeout,
        timeouts: config.serve.timeouts,
    };
    session::start(session, session_sender, threads, shutdown)?;
    let (events, source_events) = bounded(QUEUE);
    let mut have = Bitfield::none(set.count);
    for chunk in &held {
        have.insert(chunk.index);
    }
    let (keep, kept) = bounded(COMMIT_MAX);
    let committed = commit_kept(folder.clone(), kept, threads)?;
    let mut state = ClientState::new(config, set, key, folder, offers, have, keep, events, threads, shutdown);
    let result = state.run(&session_events, &source_events, &committed, shutdown);
    // Before `state` and its tracker queue are dropped: the session must see a shutdown, not a lost connection.
    shutdown.trigger();
    result
}

/// Registration at the tracker, while connected.
struct Joined {
    token: Token,
    address: SocketAddr,
    requests: Sender<TrackerRequest>,
}

struct ClientState<'a> {
    config: &'a ClientConfig,
    set: SetKey,
    folder: Arc<ChunkFolder>,
    offers: Offers,
    agreed: Arc<AgreedChunks>,
    fetch: DownloadScheduler,
    started: Instant,
    joined: Option<Joined>,
    /// Requests waiting for capacity in the session's queue.
    outbox: VecDeque<TrackerRequest>,
    /// Chunks to look up at the tracker, and the number of unanswered lookups.
    lookups: VecDeque<ChunkIndex>,
    unanswered: usize,
    /// Time of the next lookup of chunks without connected holder.
    ask_again: Option<Moment>,
    /// Time of the next check of chunk files and unavailable chunks.
    look_again: Moment,
    backoff: Backoff,
    random: fastrand::Rng,
    complete: bool,
    /// Whether the tracker has reported that all members are complete.
    all_complete: bool,
    /// Number of served chunks, and the time of its last change.
    served: (u64, Moment),
    /// Never ready: replaces the session's queue when nothing is to be sent.
    no_queue: (Sender<TrackerRequest>, Receiver<TrackerRequest>),
}

impl<'a> ClientState<'a> {
    #[allow(clippy::too_many_arguments)]
    fn new(
        config: &'a ClientConfig,
        set: SetKey,
        key: FileId,
        folder: Arc<ChunkFolder>,
        offers: Offers,
        have: Bitfield,
        kept: Sender<StagedChunk>,
        events: Sender<SourceEvent>,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> Self {
        let agreed = Arc::new(AgreedChunks::default());
        let job = Job {
            relay: None,
            download: 0,
            file: key,
            count: set.count,
            // Initial value from the chunks in the folder; later raised by the tracker's answers.
            longest: folder.held().iter().map(|chunk| chunk.length).max().unwrap_or(CHUNK_SIZE),
            expected: agreed.clone(),
            sink: Arc::new(FolderSink { folder: folder.clone(), agreed: agreed.clone(), kept }),
            port: None,
            subscribe: false,
            timeouts: config.serve.timeouts,
        };
        Self {
            config,
            set,
            fetch: DownloadScheduler::new(job, have, false, events, threads, shutdown),
            folder,
            offers,
            agreed,
            started: Instant::now(),
            joined: None,
            outbox: VecDeque::new(),
            lookups: VecDeque::new(),
            unanswered: 0,
            ask_again: None,
            look_again: Moment::ZERO,
            backoff: Backoff::new(RETRY_MIN * 4, RETRY_MAX),
            random: fastrand::Rng::new(),
            complete: false,
            all_complete: false,
            served: (0, Moment::ZERO),
            no_queue: bounded(0),
        }
    }

    /// Processes events until the shutdown or the end of the work.
    fn run(
        &mut self,
        session_events: &Receiver<SessionEvent>,
        source_events: &Receiver<SourceEvent>,
        committed: &Receiver<Result<Vec<HeldChunk>, StoreError>>,
        shutdown: &Shutdown,
    ) -> Result<(), DaemonError> {
        let ticks = crossbeam_channel::tick(TICK_INTERVAL);
        self.check_complete();
        loop {
            let (requests, next) = self.outgoing();
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => return Ok(()),
                recv(session_events) -> event => match event {
                    Ok(SessionEvent::TimedOut(error)) => return Err(error),
                    Ok(event) => self.handle_session_event(event)?,
                    Err(_) => return Ok(()),
                },
                recv(source_events) -> event => match event {
                    Ok(event) => self.handle_source_event(event)?,
                    Err(_) => return Ok(()),
                },
                recv(committed) -> chunks => match chunks {
                    Ok(chunks) => self.committed(&chunks?),
                    Err(_) => return Ok(()),
                },
                send(requests, next) -> sent => if sent.is_ok() { self.sent() },
                recv(ticks) -> _ => {
                    self.tick()?;
                    if self.may_leave() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn now(&self) -> Moment {
        self.started.elapsed()
    }

    fn event(&self, line: std::fmt::Arguments<'_>) {
        log::info!(target: EVENT_TARGET, "{},{line}", self.config.name);
    }

    /// The next request to the tracker, and the queue for it.
    fn outgoing(&mut self) -> (Sender<TrackerRequest>, TrackerRequest) {
        if self.outbox.is_empty() && self.unanswered < LOOKUPS_MAX {
            self.ask_next();
        }
        match (&self.joined, self.outbox.front()) {
            (Some(joined), Some(request)) => (joined.requests.clone(), request.clone()),
            _ => (self.no_queue.0.clone(), TrackerRequest::Unknown),
        }
    }

    fn sent(&mut self) {
        self.outbox.pop_front();
    }

    fn ask_next(&mut self) {
        let Some(Joined { token, .. }) = self.joined else { return };
        if let Some(index) = self.lookups.pop_front() {
            self.unanswered += 1;
            self.event(format_args!("WHERE_CHUNK,{index}"));
            self.outbox.push_back(TrackerRequest::WhereChunk { token, set: self.set.clone(), index });
        }
    }

    fn claim(&mut self, chunk: HeldChunk) {
        let Some(Joined { token, address, .. }) = self.joined else { return };
        let HeldChunk { index, digest, length } = chunk;
        self.event(format_args!("LOCAL_CHUNKS,{index},{digest},{},{}", address.ip(), address.port()));
        let (set, claim) = (self.set.clone(), Claim { sha256: digest, size: length });
        self.outbox.push_back(TrackerRequest::Claim { token, set, index, claim });
    }

    fn handle_session_event(&mut self, event: SessionEvent) -> Result<(), DaemonError> {
        match event {
            SessionEvent::Joined { token, address, requests } => {
                self.joined = Some(Joined { token, address, requests });
                self.send_state(token);
            }
            SessionEvent::Lost => {
                self.joined = None;
                self.outbox.clear();
            }
            SessionEvent::Manifest(manifest) => {
                let id = manifest.id();
                self.folder.set_manifest(manifest);
                self.offers.put(id, self.folder.clone());
                log::info!("serving set {} as a file with id {id}", self.set.set);
            }
            SessionEvent::Message(response) => self.handle_response(response)?,
            SessionEvent::Peers(_) => log::debug!("ignoring a list of peers from a tracker"),
            SessionEvent::TimedOut(error) => return Err(error),
        }
        Ok(())
    }

    /// Sends the complete state (set, claims, lookups): a restarted tracker knows nothing.
    fn send_state(&mut self, token: Token) {
        self.outbox.clear();
        self.lookups.clear();
        self.unanswered = 0;
        self.outbox.push_back(TrackerRequest::JoinSet { token, set: self.set.clone() });
        let held = self.folder.held();
        let mut have = Bitfield::none(self.set.count);
        for chunk in held {
            have.insert(chunk.index);
            self.claim(chunk);
        }
        self.lookups.extend(have.missing());
    }

    fn handle_response(&mut self, response: TrackerResponse) -> Result<(), DaemonError> {
        match response {
            TrackerResponse::ChunkLocation { set, index, claim, holders } if set == self.set => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.locate(index, claim, &holders)?;
            }
            TrackerResponse::ChunkUnknown { set, index } if set == self.set => {
                self.unanswered = self.unanswered.saturating_sub(1);
                log::debug!("chunk {index} has no known holder yet");
            }
            TrackerResponse::ClaimDiffers { set, index, claim } if set == self.set => {
                log::warn!(
                    "chunk {index} differs from the agreed SHA-256 {}; downloading it again",
                    claim.sha256
                );
                self.folder.distrust(index);
                self.agree(index, claim);
                self.complete = false;
                self.all_complete = false;
                self.lookups.push_back(index);
            }
            TrackerResponse::SetJoined { set, others } if set == self.set => {
                for other in others {
                    log::warn!(
                        "set {} has {other} chunks at other peers but in {} it has {}: these are different sets",
                        set.set,
                        self.folder.path().display(),
                        set.count
                    );
                }
            }
            TrackerResponse::SetSealed { set, file } if set == self.set => {
                self.outbox.push_back(TrackerRequest::Manifest { file });
            }
            TrackerResponse::SetComplete { set } if set == self.set => self.all_complete = true,
            TrackerResponse::Error { code, text } => {
                // The error may answer a lookup.
                self.unanswered = self.unanswered.saturating_sub(1);
                log::warn!("the tracker on {} refused a request ({code:?}): {text}", self.config.tracker);
            }
            other => log::debug!("ignoring {other:?} from the tracker"),
        }
        Ok(())
    }

    /// Records an agreed hash. A sealed manifest that contradicts it is discarded.
    fn agree(&mut self, index: ChunkIndex, claim: Claim) {
        self.agreed.set(index, claim);
        if let Some(manifest) = self.folder.manifest()
            && manifest.digest(index) != Some(claim.sha256)
        {
            self.offers.take(manifest.id());
            self.folder.unset_manifest();
        }
    }

    /// Processes the location of a chunk: its agreed hash and its holders.
    fn locate(&mut self, index: ChunkIndex, claim: Claim, holders: &[SocketAddr]) -> Result<(), DaemonError> {
        if index.0 >= self.set.count {
            return Ok(());
        }
        self.agree(index, claim);
        self.fetch.expect_up_to(claim.size);
        if self.folder.holds(index).is_some_and(|chunk| chunk.digest == claim.sha256) {
            self.fetch.have(index);
            return Ok(());
        }
        // The last run may have stored the chunk without its line in `local_chunks.txt`.
        if self.folder.adopt(index, claim.sha256, claim.size)? {
            log::info!("chunk {index} found in the folder without its line in local_chunks.txt");
            self.fetch.have(index);
            self.announce(index);
            return Ok(());
        }
        let now = self.now();
        let mut scheduler_events = self.fetch.want(index, now);
        for holder in holders {
            scheduler_events.extend(self.fetch.source_has(*holder, index, now));
        }
        self.handle_scheduler_events(scheduler_events)
    }

    fn handle_source_event(&mut self, event: SourceEvent) -> Result<(), DaemonError> {
        let now = self.now();
        let scheduler_events = self.fetch.handle(event, now);
        self.handle_scheduler_events(scheduler_events)
    }

    fn handle_scheduler_events(&mut self, scheduler_events: Vec<SchedulerEvent>) -> Result<(), DaemonError> {
        for event in scheduler_events {
            match event {
                SchedulerEvent::Requested(index, from) => {
                    self.event(format_args!("REQUEST_CHUNK,{index},{},{}", from.ip(), from.port()));
                }
                // Claimed only after its commit to the folder.
                SchedulerEvent::Stored(..) => self.backoff.reset(),
                SchedulerEvent::Failed(error) => return Err(error.into()),
                SchedulerEvent::Lost(_) | SchedulerEvent::Corrupt(_) => {}
            }
        }
        Ok(())
    }

    /// Announces committed chunks.
    fn committed(&mut self, chunks: &[HeldChunk]) {
        for chunk in chunks {
            if self.folder.holds(chunk.index) == Some(*chunk) {
                log::info!("chunk {} downloaded and verified, {} bytes", chunk.index, chunk.length);
                self.announce(chunk.index);
            }
        }
    }

    fn announce(&mut self, index: ChunkIndex) {
        if let Some(chunk) = self.folder.holds(index) {
            self.claim(chunk);
        }
        self.check_complete();
    }

    fn check_complete(&mut self) {
        if !self.complete && self.folder.progress().is_complete() {
            self.complete = true;
            self.served.1 = self.now();
            let (folder, count) = (self.folder.path().display(), self.set.count);
            log::info!(
                "{folder} is complete: all {} of set {}",
                counted(count.into(), "chunk"),
                self.set.set
            );
        }
    }

    fn tick(&mut self) -> Result<(), DaemonError> {
        let now = self.now();
        let scheduler_events = self.fetch.tick(now);
        self.handle_scheduler_events(scheduler_events)?;
        if now < self.look_again {
            return Ok(());
        }
        self.look_again = now + CHECK_INTERVAL;
        self.check_files();
        let mut unavailable = self.fetch.unavailable();
        match self.ask_again {
            _ if unavailable.is_empty() => self.ask_again = None,
            None => self.ask_again = Some(now + self.backoff.pause(&mut self.random)),
            Some(at) if at <= now && self.lookups.is_empty() => {
                self.ask_again = None;
                // In random order, since the first ones may be lost for good.
                self.random.shuffle(&mut unavailable);
                self.lookups.extend(unavailable.into_iter().take(LOOKUPS_MAX));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Withdraws the claim of chunks whose files were changed or removed, and downloads them again.
    fn check_files(&mut self) {
        for index in self.folder.sweep(FILES_CHECKED_MAX) {
            if self.folder.recheck(index) {
                continue;
            }
            log::warn!("the file of chunk {index} was changed or removed; downloading it again");
            self.complete = false;
            self.all_complete = false;
            if let Some(Joined { token, .. }) = self.joined {
                self.outbox.push_back(TrackerRequest::Unclaim { token, set: self.set.clone(), index });
                self.lookups.push_back(index);
            }
        }
    }

    fn may_leave(&mut self) -> bool {
        let (served, now) = (self.offers.served().load(Ordering::Relaxed), self.now());
        if served != self.served.0 {
            self.served = (served, now);
        }
        self.complete
            && self.config.exit_when_complete
            && self.outbox.is_empty()
            && (self.all_complete || now.saturating_sub(self.served.1) >= LINGER_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_is_stored_only_while_its_digest_is_the_agreed_one() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("local_chunks.txt"), "2,LASTCHUNK\n").unwrap();
        let folder = Arc::new(ChunkFolder::open(place.path(), VerifyCallbacks::NONE).unwrap());
        let agreed = Arc::new(AgreedChunks::default());
        let (keep, kept) = bounded(2);
        let sink = FolderSink { folder: folder.clone(), agreed: agreed.clone(), kept: keep };
        let (index, old, new) = (ChunkIndex(0), Digest::of(b"old"), Digest::of(b"new"));
        assert!(!sink.store(index, old, b"old").unwrap(), "no hash is agreed");
        // The agreed hash has changed during the download of the chunk.
        agreed.set(index, Claim { sha256: new, size: 3 });
        assert!(!sink.store(index, old, b"old").unwrap());
        assert_eq!(folder.holds(index), None);
        assert!(sink.store(index, new, b"new").unwrap());
        assert_eq!(folder.holds(index), None, "held only after the commit");
        folder.commit(kept.try_iter().collect()).unwrap();
        assert_eq!(folder.holds(index).map(|chunk| chunk.digest), Some(new));
    }
}
