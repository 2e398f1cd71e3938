//! State machine of a chunk client: handles events of the tracker session, the sources and the folder.

use super::agreed::{Adoptions, AgreedChunks, Committed, Handled};
use super::completion::Completion;
use super::dispute::Dispute;
use super::join::JoinTask;
use super::lookup_retry::LookupRetry;
use super::progress::FolderProgress;
use super::requests::{ActiveSession, RequestQueue};
use super::stall::StallTimer;
use super::{ClientConfig, Inputs};
use crate::content::fmt::counted;
use crate::content::{Bitfield, ChunkIndex, Digest, Manifest};
use crate::download::events::{Expected, SourceEvent};
use crate::download::scheduler::{DownloadScheduler, SchedulerEvent, TICK_INTERVAL};
use crate::net::{Shutdown, running_time};
use crate::protocol::PeerAddress;
use crate::protocol::set_report::WaitingChunk;
use crate::protocol::tracker::{Claim, SetKey, TrackerResponse};
use crate::report::error::{Fault, RoleError};
use crate::report::watch::Watch;
use crate::storage::{ChunkFolder, ChunkSource, HeldChunk};
use crate::swarm::Moment;
use crate::tracker_client::session::SessionEvent;
use crate::upload::offers::Offers;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Interval of checks of chunk files and of chunks without connected holder.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Chunk files checked per interval.
const FILES_CHECKED_MAX: usize = 256;
/// Time after which a client that has all chunks and may exit gives up to wait for an agreement, while other clients
/// contradict its chunks. Shorter than the interval of the tracker's reports, so that all of these clients end with the
/// same report.
const DISPUTE_TIMEOUT: Duration = Duration::from_secs(20);
/// Chunks that an error text names.
const NAMED_CHUNKS_MAX: usize = 8;

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
    /// Chunks that the folder held at the start, and their length in bytes.
    own: BTreeMap<ChunkIndex, Digest>,
    own_bytes: u64,
    /// Listed chunks that differ from the agreed hash and have not been replaced.
    differing: BTreeSet<ChunkIndex>,
    /// Chunks of `own` that the agreed hash differed from.
    own_differing: BTreeSet<ChunkIndex>,
    dispute: Dispute,
    other_set_logged: bool,
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
            own_bytes: folder.held().iter().map(|chunk| u64::from(chunk.length)).sum(),
            own: folder.held().into_iter().map(|chunk| (chunk.index, chunk.digest)).collect(),
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
            differing: BTreeSet::new(),
            own_differing: BTreeSet::new(),
            dispute: Dispute::default(),
            other_set_logged: false,
            started: running_time(),
            last_arrival: Moment::ZERO,
            next_check: Moment::ZERO,
        }
    }

    /// Processes events until the shutdown or the end of the work.
    pub(super) fn run(&mut self, inputs: &Inputs, shutdown: &Shutdown) -> Result<(), RoleError> {
        let ticks = crossbeam_channel::tick(TICK_INTERVAL);
        loop {
            let (requests, next) = self.requests.next();
            let joined = self.join.result();
            crossbeam_channel::select! {
                recv(shutdown.signal()) -> _ => return Ok(()),
                recv(inputs.session) -> event => match event {
                    Ok(event) => self.handle_session_event(event)?,
                    Err(_) => return Ok(()),
                },
                recv(inputs.sources) -> event => match event {
                    Ok(event) => self.handle_source_event(event)?,
                    Err(_) => return Ok(()),
                },
                recv(inputs.committed) -> committed => match committed {
                    Ok(committed) => self.handle_commit(committed)?,
                    Err(_) => return Ok(()),
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
                self.dispute.end();
            }
            SessionEvent::Manifest(manifest) => {
                self.serve_as_file(manifest)?;
            }
            SessionEvent::Message(response) => self.handle_response(response)?,
            SessionEvent::Peers(_) => log::debug!("ignoring a list of peers from a tracker"),
            SessionEvent::TimedOut(error) => return Err(error),
        }
        Ok(())
    }

    /// Serves the sealed set as a file. The folder may be complete now.
    fn serve_as_file(&mut self, manifest: Arc<Manifest>) -> Result<(), RoleError> {
        let id = manifest.id();
        let is_known = self.folder.manifest().is_some_and(|known| known.id() == id);
        let agrees = |(index, digest): (&ChunkIndex, &Digest)| manifest.digest(*index) == Some(*digest);
        if !self.own.iter().any(agrees) {
            self.warn_of_other_set();
        }
        self.dispute.end();
        self.folder.set_manifest(manifest);
        self.offers.put(id, self.folder.clone());
        if !is_known {
            log::info!("serving set {} as a file with id {id}", self.set.set);
        }
        self.check_complete()
    }

    /// Stops serving a chunk that differs from the agreed hash, and downloads the agreed chunk.
    fn replace_differing(&mut self, index: ChunkIndex, claim: Claim) {
        log::warn!("chunk {index} differs from the agreed SHA-256 {}; downloading it again", claim.sha256);
        self.folder.distrust(index);
        self.differing.insert(index);
        if self.own.get(&index).is_some_and(|digest| *digest != claim.sha256) {
            self.own_differing.insert(index);
        }
        if self.own_differing.len() == self.own.len() {
            self.warn_of_other_set();
        }
        self.agree(index, claim);
        self.completion.chunk_lost();
        self.requests.look_up([index]);
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
            log::warn!(
                "each chunk of {} differs from those of other clients: perhaps another set has the name {}; then \
                 start the clients of this folder's set with --set NAME, all with the same other name",
                self.folder.path().display(),
                self.set.set
            );
        }
    }

    /// Ends a client that waits only for an agreement on chunks that other clients contradict.
    fn check_dispute(&self, now: Moment) -> Result<(), RoleError> {
        let waits_only = self.config.exit_when_complete && self.folder.progress().is_complete();
        match self.dispute.since() {
            Some(since) if waits_only && now.saturating_sub(since) >= DISPUTE_TIMEOUT => {
                Err(self.disagreement(&format!("no agreement for {} s", DISPUTE_TIMEOUT.as_secs())))
            }
            _ => Ok(()),
        }
    }

    /// The error of a client whose listed chunks still disagree with the set at the end.
    fn disagreement(&self, cause: &str) -> RoleError {
        let (folder, set) = (self.folder.path().display(), &self.set.set);
        let text = match self.differing.is_empty() {
            false => {
                let chunks = name_chunks(self.differing.iter().copied());
                format!("{cause}: {chunks} of {folder} differs from the agreed SHA-256 of set {set}")
            }
            true => format!(
                "{cause}: {} of {folder} differ from those of other clients of set {set}, and no hash is agreed",
                counted(self.dispute.chunks().into(), "chunk")
            ),
        };
        RoleError::new(Fault::ExistsAndDiffers, text)
    }

    /// Warns once that no chunk with which the folder began agrees with the set.
    fn warn_of_other_set(&mut self) {
        if self.own.is_empty() || self.other_set_logged {
            return;
        }
        self.other_set_logged = true;
        let (folder, set) = (self.folder.path().display(), &self.set.set);
        log::warn!(
            "no chunk of {folder} agrees with set {set}: another set has this name. If the chunks of {folder} are \
             correct, start the clients of this folder's set with --set NAME, all with the same other name. The \
             files of {folder} are kept; local_chunks.txt names the chunks of set {set}"
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
            TrackerResponse::SetSealed { set, file } if set == self.set => {
                self.requests.request_manifest(file);
            }
            TrackerResponse::SetComplete { set } if set == self.set => self.completion.members_completed(),
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
        self.handle_scheduler_events(scheduler_events)
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
        if is_complete && self.completion.folder_completed(self.now()) {
            let (folder, count) = (self.folder.path().display(), self.set.count);
            if !self.scheduler.tally().is_empty() {
                log::info!("{}", self.scheduler.tally().summary(&folder.to_string(), self.own_bytes));
            }
            log::info!(
                "{folder} is complete: all {} of set {}",
                counted(count.into(), "chunk"),
                self.set.set
            );
            self.join.start(&self.folder)?;
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), RoleError> {
        let now = self.now();
        let scheduler_events = self.scheduler.tick(now);
        self.handle_scheduler_events(scheduler_events)?;
        self.progress.sources(self.scheduler.connected());
        self.check_timeout(now)?;
        self.check_dispute(now)?;
        if now < self.next_check {
            return Ok(());
        }
        self.next_check = now + CHECK_INTERVAL;
        self.check_files();
        let unavailable = self.scheduler.unavailable();
        let lookups = self.lookup_retry.due(unavailable, self.requests.has_lookups(), now);
        self.requests.look_up(lookups);
        Ok(())
    }

    /// Gives up when no data has arrived for the timeout while the folder waits for chunks or for an agreement.
    fn check_timeout(&mut self, now: Moment) -> Result<(), RoleError> {
        let is_waiting = match self.config.exit_when_complete {
            true => !self.completion.is_folder_complete(),
            // A client with all chunks serves them until it is stopped.
            false => !self.folder.progress().is_complete(),
        };
        if self.scheduler.received_at() > self.last_arrival || !is_waiting {
            self.last_arrival = self.scheduler.received_at();
            self.stall.reset();
        }
        let waited = self.stall.advance(now, self.requests.is_registered());
        match self.config.timeout {
            Some(timeout) if is_waiting && waited >= timeout => Err(self.timed_out(waited)),
            _ => Ok(()),
        }
    }

    /// The error after the timeout, by the state of the folder.
    fn timed_out(&self, waited: Duration) -> RoleError {
        let (folder, set) = (self.folder.path().display(), &self.set.set);
        let waited = format!("no data received for {} s", waited.as_secs());
        if !self.differing.is_empty() || self.dispute.chunks() > 0 {
            return self.disagreement(&waited);
        }
        let missing: Vec<ChunkIndex> =
            (0..self.set.count).map(ChunkIndex).filter(|index| self.folder.holds(*index).is_none()).collect();
        if missing.is_empty() {
            let text = format!("{waited}: {folder} has all chunks, but not all are agreed in set {set}");
            return RoleError::new(Fault::TimedOut, text);
        }
        let is_held = |index: &ChunkIndex| self.agreed.expected(*index).is_some();
        let has_holder = missing.iter().all(is_held) && self.scheduler.unavailable().is_empty();
        let fault = if has_holder { Fault::TimedOut } else { Fault::ChunksMissing };
        let chunks = name_chunks(missing.into_iter());
        RoleError::new(fault, format!("{waited}: {folder} still needs {chunks} of set {set}"))
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

/// Names the first chunks in words: `chunk 3, 5 and 2 more`.
fn name_chunks(chunks: impl Iterator<Item = ChunkIndex>) -> String {
    let all: Vec<String> = chunks.map(|index| index.to_string()).collect();
    let named = all[..all.len().min(NAMED_CHUNKS_MAX)].join(", ");
    match all.len().saturating_sub(NAMED_CHUNKS_MAX) {
        0 => format!("chunk {named}"),
        more => format!("chunk {named} and {more} more"),
    }
}
