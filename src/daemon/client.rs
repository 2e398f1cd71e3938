//! A chunk folder in a swarm: claims what it holds, fetches what it lacks, serves what it has.
//!
//! The state thread is the caller's own. It owns the [`DownloadScheduler`] and what is known of the set; the tracker session,
//! the sources and the serving side are threads that send it events. Invariants: what the folder holds is what was
//! hashed here; a chunk is claimed only when its line stands in `local_chunks.txt`; a chunk that the others agree to be
//! different is not served until it has been replaced.

use super::error::DaemonError;
use super::fetch::{DownloadScheduler, Expected, Job, SchedulerEvent, SourceEvent, TICK};
use super::next_step;
use super::peer::{ServeOptions, serve};
use super::shelf::Offers;
use super::tracker_session::{self, SessionConfig, SessionEvent};
use super::watch::Watch;
use crate::content::limits::{CHUNK_SIZE, EVENT_TARGET, RETRY_MAX, RETRY_MIN};
use crate::content::{ChunkIndex, Digest, EntityName, FileId, HaveMap};
use crate::net::{Listener, Shutdown, Threads};
use crate::protocol::tracker::{Claim, Registration, SetKey, Token, TrackerRequest, TrackerResponse};
use crate::storage::chunk_folder::Loose;
use crate::storage::verify::CheckWatch;
use crate::storage::{ChunkFolder, ChunkSink, ChunkSource, HeldChunk, StoreError};
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Events that may wait for the state thread, of each kind.
const QUEUE: usize = 1_024;
/// How often it is looked whether chunks have lost all their holders.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Files that are looked at each time.
const SWEPT: usize = 256;
/// Chunks that wait to become part of the folder, and that do so at once.
const COMMIT_MOST: usize = 1_024;
/// Questions that the tracker is asked ahead of its answers.
const QUESTIONS: usize = 256;
/// A client that ends when its folder is complete waits until the tracker says that all others are complete, too; if
/// they never are, until nobody has asked it for anything for so long.
const LINGER: Duration = Duration::from_secs(10);

/// What a client is told to do.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The folder with its `local_chunks.txt`.
    pub folder: PathBuf,
    /// Where to serve.
    pub listen: SocketAddr,
    /// What people call this client; stands in its event lines.
    pub name: EntityName,
    /// The tracker.
    pub tracker: SocketAddr,
    /// The set that the chunks belong to.
    pub set: EntityName,
    /// The client's address, when that is not what the tracker sees.
    pub advertise: Option<SocketAddr>,
    /// Ends when the folder is complete.
    pub exit_when_complete: bool,
    /// How to serve.
    pub serve: ServeOptions,
    /// How long to wait for a tracker that does not answer.
    pub timeout: Option<Duration>,
}

/// What the chunks of the set must be, as far as it is agreed upon.
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

/// Verified chunks on their way into the folder: kept at once, and committed together by a thread of its own.
struct FolderSink {
    folder: Arc<ChunkFolder>,
    agreed: Arc<AgreedChunks>,
    kept: Sender<Loose>,
}

impl ChunkSink for FolderSink {
    fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
        // Others may have agreed upon something else while the chunk was on its way.
        let agreed = self.agreed.expected(index).map(|(digest, _)| digest);
        let sealed = self.folder.manifest().and_then(|manifest| manifest.digest(index));
        if agreed != Some(digest) || sealed.is_some_and(|sealed| sealed != digest) {
            return Ok(false);
        }
        let loose = self.folder.keep(index, digest, bytes)?;
        // Closed only when the client ends.
        self.kept.send(loose).map_err(|_| StoreError::Stopped)?;
        Ok(true)
    }
}

/// Starts the thread that makes chunks part of the folder, as many at once as wait for it. Ends when whoever keeps them
/// is gone, and has committed all then.
fn commit_kept(
    folder: Arc<ChunkFolder>,
    kept: Receiver<Loose>,
    threads: &Threads,
) -> std::io::Result<Receiver<Result<Vec<HeldChunk>, StoreError>>> {
    let (tell, committed) = bounded(COMMIT_MOST);
    threads.spawn("commit", move || {
        while let Ok(first) = kept.recv() {
            let chunks: Vec<Loose> =
                std::iter::once(first).chain(kept.try_iter().take(COMMIT_MOST - 1)).collect();
            let held: Vec<HeldChunk> = chunks.iter().map(Loose::chunk).collect();
            // While the client ends nobody listens any more.
            let _ = tell.send(folder.commit(chunks).map(|()| held));
        }
    })?;
    Ok(committed)
}

/// Runs until the shutdown, or until the folder is complete if that was asked for.
///
/// # Errors
/// The folder is not in order, the port is taken, the tracker does not answer in time, or nothing can be stored.
pub fn run(config: ClientConfig, watch: &dyn Watch, shutdown: &Shutdown) -> Result<(), DaemonError> {
    let listener = Listener::bind(config.listen).map_err(DaemonError::bind("-transfer_port PORT"))?;
    let folder = match open(&config, watch, shutdown) {
        Ok(folder) => Arc::new(folder),
        // Ctrl-C is how a client ends, also before it serves.
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
        ChunkFolder::open(&config.folder, CheckWatch { begin: &begin, hashed: &hashed, stop: &stop });
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

    let (says, said) = bounded(QUEUE);
    let port = address.port();
    let registration = Registration { name: config.name.clone(), port, advertise: config.advertise };
    let session = SessionConfig {
        role: "tracker",
        tracker: config.tracker,
        registration,
        timeout: config.timeout,
        timeouts: config.serve.timeouts,
    };
    tracker_session::start(session, says, threads, shutdown)?;
    let (events, received) = bounded(QUEUE);
    let mut have = HaveMap::none(set.count);
    for chunk in &held {
        have.insert(chunk.index);
    }
    let (keep, kept) = bounded(COMMIT_MOST);
    let committed = commit_kept(folder.clone(), kept, threads)?;
    let mut state = ClientState::new(config, set, key, folder, offers, have, keep, events, threads, shutdown);
    let result = state.run(&said, &received, &committed, shutdown);
    // Before the state goes, and with it the queue to the tracker: the session is to see an end that is wanted.
    shutdown.trigger();
    result
}

/// The connection to the tracker, while there is one.
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
    /// What waits for room on the connection.
    outbox: VecDeque<TrackerRequest>,
    /// Chunks to ask the tracker about, and how many answers are due.
    questions: VecDeque<ChunkIndex>,
    unanswered: usize,
    /// When chunks whose holders are all gone are asked about again.
    ask_again: Option<Moment>,
    /// When it is looked again whether there are such chunks.
    look_again: Moment,
    backoff: Backoff,
    random: fastrand::Rng,
    complete: bool,
    /// The tracker says that all members have everything.
    all_complete: bool,
    /// How much had been served when somebody was last seen to ask, and when that was.
    served: (u64, Moment),
    /// Never ready: stands in for a connection when there is nothing to send.
    nowhere: (Sender<TrackerRequest>, Receiver<TrackerRequest>),
}

impl<'a> ClientState<'a> {
    #[allow(clippy::too_many_arguments)]
    fn new(
        config: &'a ClientConfig,
        set: SetKey,
        key: FileId,
        folder: Arc<ChunkFolder>,
        offers: Offers,
        have: HaveMap,
        kept: Sender<Loose>,
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
            // Not known beforehand; the folder's own chunks tell what to expect, and then the tracker.
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
            questions: VecDeque::new(),
            unanswered: 0,
            ask_again: None,
            look_again: Moment::ZERO,
            backoff: Backoff::new(RETRY_MIN * 4, RETRY_MAX),
            random: fastrand::Rng::new(),
            complete: false,
            all_complete: false,
            served: (0, Moment::ZERO),
            nowhere: bounded(0),
        }
    }

    /// Handles whatever happens until the shutdown, or until there is nothing left to do.
    fn run(
        &mut self,
        said: &Receiver<SessionEvent>,
        received: &Receiver<SourceEvent>,
        committed: &Receiver<Result<Vec<HeldChunk>, StoreError>>,
        shutdown: &Shutdown,
    ) -> Result<(), DaemonError> {
        let ticks = crossbeam_channel::tick(TICK);
        self.check_complete();
        loop {
            let (requests, next) = self.outgoing();
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => return Ok(()),
                recv(said) -> event => match event {
                    Ok(SessionEvent::GivenUp(error)) => return Err(error),
                    Ok(event) => self.hear(event)?,
                    Err(_) => return Ok(()),
                },
                recv(received) -> event => match event {
                    Ok(event) => self.arrive(event)?,
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

    /// What is to be sent to the tracker next, and where.
    fn outgoing(&mut self) -> (Sender<TrackerRequest>, TrackerRequest) {
        if self.outbox.is_empty() && self.unanswered < QUESTIONS {
            self.ask_next();
        }
        match (&self.joined, self.outbox.front()) {
            (Some(joined), Some(request)) => (joined.requests.clone(), request.clone()),
            _ => (self.nowhere.0.clone(), TrackerRequest::Unknown),
        }
    }

    fn sent(&mut self) {
        self.outbox.pop_front();
    }

    fn ask_next(&mut self) {
        let Some(Joined { token, .. }) = self.joined else { return };
        if let Some(index) = self.questions.pop_front() {
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

    fn hear(&mut self, event: SessionEvent) -> Result<(), DaemonError> {
        match event {
            SessionEvent::Joined { token, address, requests } => {
                self.joined = Some(Joined { token, address, requests });
                self.introduce(token);
            }
            SessionEvent::Lost => {
                self.joined = None;
                self.outbox.clear();
            }
            SessionEvent::Manifest(manifest) => {
                let id = manifest.id();
                self.folder.set_manifest(manifest);
                self.offers.put(id, self.folder.clone());
                log::info!("serving the set {} as a file with id {id}", self.set.set);
            }
            SessionEvent::Said(response) => self.listen(response)?,
            SessionEvent::Peers(_) => log::debug!("a tracker sends a list of peers, which is a manager's"),
            SessionEvent::GivenUp(error) => return Err(error),
        }
        Ok(())
    }

    /// Says everything that a tracker must know, which may have been restarted and know nothing.
    fn introduce(&mut self, token: Token) {
        self.outbox.clear();
        self.questions.clear();
        self.unanswered = 0;
        self.outbox.push_back(TrackerRequest::JoinSet { token, set: self.set.clone() });
        let held = self.folder.held();
        let mut have = HaveMap::none(self.set.count);
        for chunk in held {
            have.insert(chunk.index);
            self.claim(chunk);
        }
        self.questions.extend(have.missing());
    }

    fn listen(&mut self, response: TrackerResponse) -> Result<(), DaemonError> {
        match response {
            TrackerResponse::ChunkLocation { set, index, claim, holders } if set == self.set => {
                self.unanswered = self.unanswered.saturating_sub(1);
                self.locate(index, claim, &holders)?;
            }
            TrackerResponse::ChunkUnknown { set, index } if set == self.set => {
                self.unanswered = self.unanswered.saturating_sub(1);
                log::debug!("nobody is known to have chunk {index}; waiting to be told");
            }
            TrackerResponse::ClaimDiffers { set, index, claim } if set == self.set => {
                log::warn!(
                    "chunk {index} here is not what the others agree upon ({}): it is replaced",
                    claim.sha256
                );
                self.folder.distrust(index);
                self.agree(index, claim);
                self.complete = false;
                self.all_complete = false;
                self.questions.push_back(index);
            }
            TrackerResponse::SetJoined { set, others } if set == self.set => {
                for other in others {
                    log::warn!(
                        "others say that the set {} has {other} chunks, and {} says {}: these are different sets",
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
                // It may have been the answer to a question.
                self.unanswered = self.unanswered.saturating_sub(1);
                log::warn!("the program on {} refuses ({code:?}): {text}", self.config.tracker);
            }
            other => log::debug!("the tracker says {other:?}"),
        }
        Ok(())
    }

    /// The set may have been sealed differently, with a manifest that does not hold any more.
    fn agree(&mut self, index: ChunkIndex, claim: Claim) {
        self.agreed.set(index, claim);
        if let Some(manifest) = self.folder.manifest()
            && manifest.digest(index) != Some(claim.sha256)
        {
            self.offers.take(manifest.id());
            self.folder.unset_manifest();
        }
    }

    /// The tracker has told what a chunk is and who has it.
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
        // It may be there without its line, if the last run was cut off between the two.
        if self.folder.adopt(index, claim.sha256, claim.size)? {
            log::info!("chunk {index} was here already, without its line");
            self.fetch.have(index);
            self.announce(index);
            return Ok(());
        }
        let now = self.now();
        let mut news = self.fetch.want(index, now);
        for holder in holders {
            news.extend(self.fetch.source_has(*holder, index, now));
        }
        self.take(news)
    }

    fn arrive(&mut self, event: SourceEvent) -> Result<(), DaemonError> {
        let now = self.now();
        let news = self.fetch.handle(event, now);
        self.take(news)
    }

    fn take(&mut self, news: Vec<SchedulerEvent>) -> Result<(), DaemonError> {
        for news in news {
            match news {
                SchedulerEvent::Requested(index, from) => {
                    self.event(format_args!("REQUEST_CHUNK,{index},{},{}", from.ip(), from.port()));
                }
                // It is claimed when it has become a part of the folder.
                SchedulerEvent::Stored(..) => self.backoff.reset(),
                SchedulerEvent::Failed(error) => return Err(error.into()),
                SchedulerEvent::Lost(_) | SchedulerEvent::Corrupt(_) => {}
            }
        }
        Ok(())
    }

    /// Chunks that came have their lines now.
    fn committed(&mut self, chunks: &[HeldChunk]) {
        for chunk in chunks {
            if self.folder.holds(chunk.index) == Some(*chunk) {
                log::info!("chunk {} is here, {} bytes, verified", chunk.index, chunk.length);
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
            log::info!("{folder} is complete: all {count} chunks of the set {} are here", self.set.set);
        }
    }

    fn tick(&mut self) -> Result<(), DaemonError> {
        let now = self.now();
        let news = self.fetch.tick(now);
        self.take(news)?;
        if now < self.look_again {
            return Ok(());
        }
        self.look_again = now + LOOK_AGAIN;
        self.look_at_files();
        let mut gone = self.fetch.unavailable();
        match self.ask_again {
            _ if gone.is_empty() => self.ask_again = None,
            None => self.ask_again = Some(now + self.backoff.pause(&mut self.random)),
            Some(at) if at <= now && self.questions.is_empty() => {
                self.ask_again = None;
                // Any of them: the first ones may be lost for good.
                self.random.shuffle(&mut gone);
                self.questions.extend(gone.into_iter().take(QUESTIONS));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Somebody may have changed or removed a chunk's file: then it is claimed no more, and fetched again.
    fn look_at_files(&mut self) {
        for index in self.folder.sweep(SWEPT) {
            if self.folder.recheck(index) {
                continue;
            }
            log::warn!("the file of chunk {index} has changed or is gone: the chunk is fetched again");
            self.complete = false;
            self.all_complete = false;
            if let Some(Joined { token, .. }) = self.joined {
                self.outbox.push_back(TrackerRequest::Unclaim { token, set: self.set.clone(), index });
                self.questions.push_back(index);
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
            && (self.all_complete || now.saturating_sub(self.served.1) >= LINGER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_stored_only_under_the_digest_that_they_were_verified_against() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("local_chunks.txt"), "2,LASTCHUNK\n").unwrap();
        let folder = Arc::new(ChunkFolder::open(place.path(), CheckWatch::NOBODY).unwrap());
        let agreed = Arc::new(AgreedChunks::default());
        let (keep, kept) = bounded(2);
        let deposit = FolderSink { folder: folder.clone(), agreed: agreed.clone(), kept: keep };
        let (index, old, new) = (ChunkIndex(0), Digest::of(b"old"), Digest::of(b"new"));
        assert!(!deposit.store(index, old, b"old").unwrap(), "nothing is agreed upon");
        // What was agreed upon has changed while the old bytes were on their way.
        agreed.set(index, Claim { sha256: new, size: 3 });
        assert!(!deposit.store(index, old, b"old").unwrap());
        assert_eq!(folder.holds(index), None);
        assert!(deposit.store(index, new, b"new").unwrap());
        assert_eq!(folder.holds(index), None, "not before it has its line");
        folder.commit(kept.try_iter().collect()).unwrap();
        assert_eq!(folder.holds(index).map(|chunk| chunk.digest), Some(new));
    }
}
