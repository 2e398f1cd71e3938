//! State machine of a chunk client: handles events of the tracker session, the sources and the folder.

mod ending;

use super::agreed::{Adoptions, AgreedChunks, Committed, Handled};
use super::completion::Completion;
use super::dispute::Dispute;
use super::join::JoinTask;
use super::lookup_retry::LookupRetry;
use super::own_chunks::OwnChunks;
use super::progress::FolderProgress;
use super::questions::{Answer, Asked, Question};
use super::requests::{ActiveSession, RequestQueue};
use super::stall::StallTimer;
use super::unreachable::UnreachableChunks;
use super::{ClientConfig, Inputs};
use crate::content::fmt::counted;
use crate::content::{Bitfield, ChunkIndex, Digest, FileId, Manifest};
use crate::download::events::SourceEvent;
use crate::download::scheduler::{DownloadScheduler, SchedulerEvent, TICK_INTERVAL};
use crate::net::{Shutdown, running_time};
use crate::protocol::set_report::WaitingChunk;
use crate::protocol::tracker::{Claim, SetKey, TrackerResponse};
use crate::protocol::{ErrorCode, PeerAddress};
use crate::report::error::{Fault, RoleError};
use crate::report::events::{self, Event};
use crate::report::watch::Watch;
use crate::storage::{ChunkFolder, ChunkSource, HeldChunk};
use crate::swarm::Moment;
use crate::tracker_client::session::SessionEvent;
use crate::upload::offers::Offers;
use crossbeam_channel::{Sender, never};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Interval of checks of chunk files and of chunks without connected holder.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Chunks without a reachable holder that are logged at a time.
const LOGGED_CHUNKS_MAX: usize = 8;
/// Time after the commit of the last chunk for which the report of its source is awaited.
const REPORT_TIMEOUT: Duration = Duration::from_millis(500);
/// Chunk files checked per interval.
const FILES_CHECKED_MAX: usize = 256;
/// The agreed chunks, and the queue of those whose files may be in the folder.
pub(super) struct Agreed {
    pub chunks: Arc<AgreedChunks>,
    pub adoptions: Adoptions,
}

/// State that the state thread owns.
pub(super) struct ChunkClient<'a> {
    config: &'a ClientConfig,
    set: SetKey,
    folder: Arc<ChunkFolder>,
    offers: Offers,
    agreed: Arc<AgreedChunks>,
    adoptions: Adoptions,
    /// Chunks that were queued for an adoption, and those of them without a file.
    adopting: BTreeSet<ChunkIndex>,
    absent: BTreeSet<ChunkIndex>,
    scheduler: DownloadScheduler,
    requests: RequestQueue,
    lookup_retry: LookupRetry,
    completion: Completion,
    join: JoinTask,
    progress: FolderProgress<'a>,
    stall: StallTimer,
    unreachable: UnreachableChunks,
    /// Chunks that the folder held at the start, and their length in bytes.
    own: OwnChunks,
    own_bytes: u64,
    /// Listed chunks that differ from the agreed hash and have not been replaced.
    differing: BTreeSet<ChunkIndex>,
    /// The agreed hashes of `own` have been looked up.
    own_looked_up: bool,
    dispute: Dispute,
    other_set_logged: bool,
    /// The set as a file that was last logged as served.
    logged_file: Option<FileId>,
    /// Time at which all chunks of the sealed set were found to be held.
    complete_since: Option<Moment>,
    /// Questions for the state of the set that the tracker has not answered.
    unanswered: VecDeque<Sender<Answer>>,
    /// Start, in [`running_time`]: pauses of the process do not count.
    started: Duration,
    /// Time at which bytes of a chunk last arrived.
    last_arrival: Moment,
    /// Time of the next check of chunk files and unavailable chunks.
    next_check: Moment,
}

impl<'a> ChunkClient<'a> {
    #[allow(clippy::too_many_arguments)]
    pub(super) fn new(
        config: &'a ClientConfig,
        set: SetKey,
        folder: Arc<ChunkFolder>,
        offers: Offers,
        agreed: Agreed,
        scheduler: DownloadScheduler,
        join: JoinTask,
        watch: &'a dyn Watch,
    ) -> Self {
        let name = folder.path().file_name().unwrap_or(folder.path().as_os_str());
        Self {
            progress: FolderProgress::new(watch, name.to_string_lossy().into_owned()),
            config,
            requests: RequestQueue::new(config.name.clone(), set.clone()),
            set,
            own_bytes: folder.held().iter().map(|chunk| chunk.length).sum(),
            own: OwnChunks::new(folder.held().into_iter().map(|chunk| (chunk.index, chunk.digest))),
            folder,
            offers,
            agreed: agreed.chunks,
            adoptions: agreed.adoptions,
            adopting: BTreeSet::new(),
            absent: BTreeSet::new(),
            scheduler,
            lookup_retry: LookupRetry::new(),
            completion: Completion::default(),
            join,
            stall: StallTimer::default(),
            unreachable: UnreachableChunks::default(),
            differing: BTreeSet::new(),
            own_looked_up: false,
            dispute: Dispute::default(),
            other_set_logged: false,
            logged_file: None,
            complete_since: None,
            unanswered: VecDeque::new(),
            started: running_time(),
            last_arrival: Moment::ZERO,
            next_check: Moment::ZERO,
        }
    }

    /// Processes events until the shutdown or the end of the work.
    pub(super) fn run(&mut self, inputs: &Inputs, shutdown: &Shutdown) -> Result<(), RoleError> {
        let ticks = crossbeam_channel::tick(TICK_INTERVAL);
        let mut asked = inputs.asked.clone();
        loop {
            let (requests, next) = self.requests.next();
            let joined = self.join.result();
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => return self.interrupted(),
                // At the shutdown the threads that send end, too.
                recv(inputs.session) -> event => match event {
                    Ok(event) => self.handle_session_event(event)?,
                    Err(_) => return self.interrupted(),
                },
                recv(inputs.sources) -> event => match event {
                    Ok(event) => self.handle_source_event(event)?,
                    Err(_) => return self.interrupted(),
                },
                recv(inputs.committed) -> committed => match committed {
                    Ok(committed) => self.handle_commit(committed)?,
                    Err(_) => return self.interrupted(),
                },
                recv(asked) -> question => match question {
                    Ok(question) => self.answer(question),
                    Err(_) => asked = never(),
                },
                recv(joined) -> joined => {
                    self.join.finished();
                    if let Ok(joined) = joined {
                        log::info!("all chunks joined into {}", joined?.display());
                    }
                },
                send(requests, next) -> sent => if sent.is_ok() { self.requests.sent() },
                recv(ticks) -> _ => {
                    self.tick()?;
                    if self.may_exit() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Answers a question of the prompt, or passes it on to the tracker.
    fn answer(&mut self, Asked { question, answer }: Asked) {
        let known = match question {
            Question::Mine => Some(Answer::Mine { held: self.folder.held(), count: self.set.count }),
            Question::Set if !self.requests.is_registered() => {
                Some(Answer::None(format!("no connection to the tracker on {}", self.config.tracker)))
            }
            Question::Set => None,
        };
        match known {
            // The prompt may no longer wait for it.
            Some(known) => _ = answer.try_send(known),
            None => {
                self.requests.request_set_status();
                self.unanswered.push_back(answer);
            }
        }
    }

    fn now(&self) -> Moment {
        running_time().saturating_sub(self.started)
    }

    fn handle_session_event(&mut self, event: SessionEvent) -> Result<(), RoleError> {
        match event {
            SessionEvent::Joined { token, address, requests, .. } => {
                self.send_state(ActiveSession { token, address, requests });
            }
            SessionEvent::Lost => {
                self.requests.end();
                self.dispute.session_lost();
                self.unanswered.clear();
            }
            SessionEvent::Manifest(manifest) => {
                self.serve_as_file(manifest)?;
            }
            SessionEvent::Message(response) => self.handle_response(response)?,
            SessionEvent::Peers(_) => log::debug!("ignoring a list of peers from a tracker"),
            SessionEvent::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Serves the sealed set as a file. The folder may be complete now.
    fn serve_as_file(&mut self, manifest: Arc<Manifest>) -> Result<(), RoleError> {
        let id = manifest.id();
        self.dispute.end();
        self.folder.set_manifest(manifest.clone());
        self.offers.put(id, self.folder.clone());
        for index in manifest.layout().indices() {
            if let Some(digest) = manifest.digest(index) {
                self.record_agreed(index, digest);
            }
        }
        if !self.own.is_other_set() && self.logged_file.replace(id) != Some(id) {
            log::info!("serving set {} as a file with id {id}", self.set.set);
        }
        self.check_complete()
    }

    /// Stops serving a chunk that differs from the agreed hash, and downloads the agreed chunk, unless another set may have
    /// the name of this one.
    fn replace_differing(&mut self, index: ChunkIndex, claim: Claim) {
        self.folder.distrust(index);
        self.differing.insert(index);
        self.agree(index, claim);
        self.completion.chunk_lost();
        if !self.own.is_other_set_suspected() {
            log::warn!(
                "chunk {index} differs from the agreed SHA-256 {}; downloading it again",
                claim.sha256
            );
            if self.own.is_only(index) {
                log::warn!(
                    "chunk {index} is the only one of {}: if it is correct, another set has the name {set}; then start \
                     all clients of this folder's set with another name, for example --set {set}-2",
                    self.folder.path().display(),
                    set = self.set.set
                );
            }
            return self.requests.look_up([index]);
        }
        log::warn!("chunk {index} differs from the agreed SHA-256 {}", claim.sha256);
        if !self.own_looked_up {
            self.own_looked_up = true;
            // The answers tell whether one of these chunks agrees.
            self.requests.look_up(self.own.unknown());
        }
    }

    /// Compares an agreed hash with the chunk with which the folder began.
    fn record_agreed(&mut self, index: ChunkIndex, digest: Digest) {
        if self.own.record(index, digest) {
            let missing = (0..self.set.count).map(ChunkIndex);
            let missing = missing.filter(|index| self.folder.holds(*index).is_none());
            self.requests.look_up(missing.collect::<Vec<_>>());
        }
        if self.own.is_other_set() {
            self.warn_of_other_set();
        }
    }

    /// Logs the chunks that the set waits for. `disputed` is the number of chunks of this folder that differ from those
    /// of other clients while no hash is agreed.
    fn log_waiting(&mut self, chunks: &[WaitingChunk], more: u32, disputed: u32) {
        self.dispute.reported(disputed, self.now());
        for chunk in chunks {
            let level = if chunk.differ.is_empty() { log::Level::Info } else { log::Level::Warn };
            log::log!(level, "{chunk}");
        }
        if more > 0 {
            log::info!("{} without an agreed hash", counted(more.into(), "more chunk"));
        }
        let held = self.folder.progress().held();
        if disputed > 1 && disputed >= held {
            let (folder, set) = (self.folder.path().display(), &self.set.set);
            log::warn!(
                "each chunk of {folder} differs from those of other clients: perhaps another set has the name {set}; \
                 then start all clients of this folder's set with another name, for example --set {set}-2"
            );
        }
    }

    /// Logs agreed chunks that have had no reachable holder for a while, and reports them to the tracker.
    fn log_unreachable(&mut self, unavailable: &[ChunkIndex], now: Moment) {
        let due = self.unreachable.due(unavailable, now);
        for (index, waited) in due.iter().take(LOGGED_CHUNKS_MAX) {
            log::info!("chunk {index}: no reachable holder for {} s", waited.as_secs());
            self.requests.report_unreachable(*index, *waited);
        }
        let more = due.len().saturating_sub(LOGGED_CHUNKS_MAX);
        if more > 0 {
            log::info!("{} without a reachable holder", counted(more as u64, "more chunk"));
        }
    }

    /// Warns once that no chunk with which the folder began agrees with the set.
    fn warn_of_other_set(&mut self) {
        if self.other_set_logged {
            return;
        }
        self.other_set_logged = true;
        let (folder, set) = (self.folder.path().display(), &self.set.set);
        log::warn!(
            "no chunk of {folder} agrees with set {set}: another set has this name. Nothing more is downloaded into {folder}. \
             Start all clients of this folder's set with another name, for example --set {set}-2. If instead the chunks \
             of {folder} are wrong, remove their lines from local_chunks.txt and start this client again"
        );
    }

    /// Sends the complete state (set, claims, lookups): a restarted tracker knows nothing.
    fn send_state(&mut self, session: ActiveSession) {
        self.requests.begin(session);
        let mut have = Bitfield::none(self.set.count);
        for chunk in self.folder.held() {
            have.insert(chunk.index);
            self.requests.claim(chunk);
        }
        self.requests.look_up(have.missing());
    }

    fn handle_response(&mut self, response: TrackerResponse) -> Result<(), RoleError> {
        match response {
            TrackerResponse::ChunkLocation { set, index, claim, holders } if set == self.set => {
                self.requests.lookup_answered();
                self.locate(index, claim, &holders)?;
            }
            TrackerResponse::ChunkUnknown { set, index } if set == self.set => {
                self.requests.lookup_answered();
                log::debug!("chunk {index} has no known holder yet");
            }
            TrackerResponse::ClaimDiffers { set, index, claim } if set == self.set => {
                self.replace_differing(index, claim);
            }
            TrackerResponse::SetJoined { set, others } if set == self.set => self.warn_of_other_sets(&others),
            TrackerResponse::SetWaits { set, chunks, more, disputed } if set == self.set => {
                self.log_waiting(&chunks, more, disputed);
            }
            TrackerResponse::SameName { set, address } if set == self.set => {
                log::warn!(
                    "another client of set {} has the name {}, too, at {address}: event lines cannot be told apart; \
                     choose another --name",
                    set.set,
                    self.config.name
                );
            }
            TrackerResponse::SetStatus { status } if status.set == self.set.set => {
                if let Some(asked) = self.unanswered.pop_front() {
                    // The prompt may no longer wait for it.
                    let _ = asked.try_send(Answer::Set(status));
                }
            }
            TrackerResponse::SetSealed { set, file } if set == self.set => {
                self.requests.request_manifest(file);
            }
            TrackerResponse::SetComplete { set } if set == self.set => self.completion.members_completed(),
            TrackerResponse::Error { code: ErrorCode::UnknownMessage | ErrorCode::NotATracker, text } => {
                let text = format!("the program on {} refuses chunk sets: {text}", self.config.tracker);
                return Err(RoleError::new(Fault::Usage, text));
            }
            TrackerResponse::Error { code, text } => {
                // The error may answer a lookup.
                self.requests.lookup_answered();
                log::warn!("the tracker on {} refused a request ({code:?}): {text}", self.config.tracker);
            }
            other => log::debug!("ignoring {other:?} from the tracker"),
        }
        Ok(())
    }

    /// Warns of peers whose sets have the same name, but another number of chunks.
    fn warn_of_other_sets(&self, counts: &[u32]) {
        for other in counts {
            log::warn!(
                "set {} has {other} chunks at other peers but in {} it has {}: these are different sets",
                self.set.set,
                self.folder.path().display(),
                self.set.count
            );
        }
    }

    /// Records an agreed hash. A sealed manifest that contradicts it is discarded.
    fn agree(&mut self, index: ChunkIndex, claim: Claim) {
        self.agreed.set(index, claim);
        self.record_agreed(index, claim.sha256);
        if let Some(manifest) = self.folder.manifest()
            && manifest.digest(index) != Some(claim.sha256)
        {
            self.offers.take(manifest.id());
            self.folder.unset_manifest();
            self.completion.chunk_lost();
        }
    }

    /// Processes the location of a chunk: its agreed hash and its holders.
    fn locate(&mut self, index: ChunkIndex, claim: Claim, holders: &[PeerAddress]) -> Result<(), RoleError> {
        if index.0 >= self.set.count {
            return Ok(());
        }
        self.agree(index, claim);
        self.scheduler.expect_up_to(claim.size);
        if self.folder.holds(index).is_some_and(|chunk| chunk.digest == claim.sha256) {
            self.scheduler.have(index);
            return Ok(());
        }
        if self.own.is_other_set_suspected() {
            return Ok(());
        }
        // The last run may have stored the chunk without its line in `local_chunks.txt`.
        let chunk = HeldChunk { index, digest: claim.sha256, length: claim.size };
        if self.adopting.contains(&index) {
            return Ok(());
        }
        if !self.absent.contains(&index) && self.folder.may_adopt(chunk) {
            self.adopting.insert(index);
            // The queue is closed only at the end of the client.
            let _ = self.adoptions.send(chunk);
            return Ok(());
        }
        self.progress.wanted(index, claim.size);
        let now = self.now();
        let mut scheduler_events = self.scheduler.want(index, now);
        for holder in holders {
            scheduler_events.extend(self.scheduler.source_has(holder.clone(), index, now));
        }
        self.handle_scheduler_events(scheduler_events)
    }

    fn handle_source_event(&mut self, event: SourceEvent) -> Result<(), RoleError> {
        let now = self.now();
        let scheduler_events = self.scheduler.handle(event, now);
        self.handle_scheduler_events(scheduler_events)?;
        self.check_complete()
    }

    fn handle_scheduler_events(&mut self, scheduler_events: Vec<SchedulerEvent>) -> Result<(), RoleError> {
        for event in scheduler_events {
            match event {
                SchedulerEvent::Requested(index, from) => {
                    self.requests.log_event(format_args!(
                        "REQUEST_CHUNK,{index},{},{}",
                        from.ip(),
                        from.port()
                    ));
                }
                // Claimed only after its commit to the folder.
                SchedulerEvent::Stored(arrival, _) => {
                    self.lookup_retry.reset();
                    self.progress.present(arrival.index);
                }
                SchedulerEvent::Failed(error) => return Err(error.into()),
                SchedulerEvent::Lost(_) | SchedulerEvent::Corrupt(_) => {}
            }
        }
        Ok(())
    }

    /// Announces the chunks of a commit or an adoption.
    fn handle_commit(&mut self, committed: Committed) -> Result<(), RoleError> {
        match committed? {
            Handled::Committed(chunks) => self.announce_downloaded(chunks),
            Handled::Adopted { adopted, absent } => {
                for HeldChunk { index, .. } in adopted {
                    log::info!("chunk {index} found in the folder without its line in local_chunks.txt");
                    self.adopting.remove(&index);
                    self.progress.present(index);
                    self.scheduler.have(index);
                    self.announce(index);
                }
                for index in absent {
                    self.adopting.remove(&index);
                    self.absent.insert(index);
                    self.requests.look_up([index]);
                }
            }
        }
        self.check_complete()
    }

    fn announce_downloaded(&mut self, chunks: Vec<HeldChunk>) {
        for HeldChunk { index, digest, length } in chunks {
            if self.folder.holds(index) == Some(HeldChunk { index, digest, length }) {
                log::info!("chunk {index} downloaded and verified, {length} bytes");
                self.announce(index);
            } else if self.folder.holds(index).is_none() {
                // Another hash was agreed meanwhile.
                self.requests.look_up([index]);
            }
        }
    }

    fn announce(&mut self, index: ChunkIndex) {
        if let Some(chunk) = self.folder.holds(index) {
            self.differing.remove(&index);
            self.requests.claim(chunk);
        }
    }

    /// Logs the completion: the folder holds each chunk, and all of them agree with the sealed set.
    fn check_complete(&mut self) -> Result<(), RoleError> {
        let is_complete = self.folder.progress().is_complete() && self.folder.manifest().is_some();
        if !is_complete {
            self.complete_since = None;
            return Ok(());
        }
        let now = self.now();
        let since = *self.complete_since.get_or_insert(now);
        // A source may report a chunk shortly after its commit: the summary counts it, too.
        if !self.scheduler.is_idle() && now.saturating_sub(since) < REPORT_TIMEOUT {
            return Ok(());
        }
        if self.completion.folder_completed(now) {
            let (folder, count) = (self.folder.path().display(), self.set.count);
            if !self.scheduler.tally().is_empty() {
                log::info!("{}", self.scheduler.tally().summary(&folder.to_string(), self.own_bytes));
            }
            log::info!(
                "{folder} is complete: all {} of set {}",
                counted(count.into(), "chunk"),
                self.set.set
            );
            events::emit(|| Event::FolderComplete {
                path: self.folder.path().to_owned(),
                set: self.set.set.to_string(),
                chunks: count,
            });
            self.join.start(&self.folder)?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), RoleError> {
        let now = self.now();
        let scheduler_events = self.scheduler.tick(now);
        self.handle_scheduler_events(scheduler_events)?;
        self.check_complete()?;
        self.progress.update(self.scheduler.connected(), self.scheduler.large_chunk_bytes());
        self.check_timeout(now)?;
        self.check_dispute(now)?;
        if now < self.next_check {
            return Ok(());
        }
        self.next_check = now + CHECK_INTERVAL;
        self.check_files();
        let unavailable = self.scheduler.unavailable();
        self.log_unreachable(&unavailable, now);
        let lookups = self.lookup_retry.due(unavailable, self.requests.has_lookups(), now);
        self.requests.look_up(lookups);
        Ok(())
    }

    /// Withdraws the claim of chunks whose files were changed or removed, and downloads them again.
    fn check_files(&mut self) {
        for index in self.folder.sweep(FILES_CHECKED_MAX) {
            if self.folder.recheck(index) {
                continue;
            }
            log::warn!("the file of chunk {index} was changed or removed; downloading it again");
            self.completion.chunk_lost();
            self.requests.withdraw_claim(index);
        }
    }

    fn may_exit(&mut self) -> bool {
        let served = self.offers.served().load(Ordering::Relaxed);
        let may_exit = self.completion.may_exit(served, self.now());
        may_exit && self.config.exit_when_complete && !self.join.is_running() && self.requests.is_empty()
    }
}
