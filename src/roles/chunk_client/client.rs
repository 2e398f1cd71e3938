//! State machine of a chunk client: handles events of the tracker session, the sources and the folder.

use super::agreed::{AgreedChunks, Committed};
use super::completion::Completion;
use super::lookup_retry::LookupRetry;
use super::requests::{ActiveSession, RequestQueue};
use super::{ClientConfig, Inputs};
use crate::content::fmt::counted;
use crate::content::{Bitfield, ChunkIndex};
use crate::download::events::SourceEvent;
use crate::download::scheduler::{DownloadScheduler, SchedulerEvent, TICK_INTERVAL};
use crate::net::Shutdown;
use crate::protocol::PeerAddress;
use crate::protocol::tracker::{Claim, SetKey, TrackerResponse};
use crate::report::error::RoleError;
use crate::storage::{ChunkFolder, ChunkSource, HeldChunk};
use crate::swarm::Moment;
use crate::tracker_client::session::SessionEvent;
use crate::upload::offers::Offers;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Interval of checks of chunk files and of chunks without connected holder.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Chunk files checked per interval.
const FILES_CHECKED_MAX: usize = 256;

/// State that the state thread owns.
pub(super) struct ChunkClient<'a> {
    config: &'a ClientConfig,
    set: SetKey,
    folder: Arc<ChunkFolder>,
    offers: Offers,
    agreed: Arc<AgreedChunks>,
    scheduler: DownloadScheduler,
    requests: RequestQueue,
    lookup_retry: LookupRetry,
    completion: Completion,
    started: Instant,
    /// Time of the next check of chunk files and unavailable chunks.
    next_check: Moment,
}

impl<'a> ChunkClient<'a> {
    pub(super) fn new(
        config: &'a ClientConfig,
        set: SetKey,
        folder: Arc<ChunkFolder>,
        offers: Offers,
        agreed: Arc<AgreedChunks>,
        scheduler: DownloadScheduler,
    ) -> Self {
        Self {
            config,
            requests: RequestQueue::new(config.name.clone(), set.clone()),
            set,
            folder,
            offers,
            agreed,
            scheduler,
            lookup_retry: LookupRetry::new(),
            completion: Completion::default(),
            started: Instant::now(),
            next_check: Moment::ZERO,
        }
    }

    /// Processes events until the shutdown or the end of the work.
    pub(super) fn run(&mut self, inputs: &Inputs, shutdown: &Shutdown) -> Result<(), RoleError> {
        let ticks = crossbeam_channel::tick(TICK_INTERVAL);
        self.check_complete();
        loop {
            let (requests, next) = self.requests.next();
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
        self.started.elapsed()
    }

    fn handle_session_event(&mut self, event: SessionEvent) -> Result<(), RoleError> {
        match event {
            SessionEvent::Joined { token, address, requests, .. } => {
                self.send_state(ActiveSession { token, address, requests });
            }
            SessionEvent::Lost => self.requests.end(),
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
                log::warn!(
                    "chunk {index} differs from the agreed SHA-256 {}; downloading it again",
                    claim.sha256
                );
                self.folder.distrust(index);
                self.agree(index, claim);
                self.completion.chunk_lost();
                self.requests.look_up([index]);
            }
            TrackerResponse::SetJoined { set, others } if set == self.set => self.warn_of_other_sets(&others),
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
        if self.folder.adopt(index, claim.sha256, claim.size)? {
            log::info!("chunk {index} found in the folder without its line in local_chunks.txt");
            self.scheduler.have(index);
            self.announce(index);
            return Ok(());
        }
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
                SchedulerEvent::Stored(..) => self.lookup_retry.reset(),
                SchedulerEvent::Failed(error) => return Err(error.into()),
                SchedulerEvent::Lost(_) | SchedulerEvent::Corrupt(_) => {}
            }
        }
        Ok(())
    }

    /// Announces the chunks of a commit.
    fn handle_commit(&mut self, committed: Committed) -> Result<(), RoleError> {
        for HeldChunk { index, digest, length } in committed? {
            if self.folder.holds(index) == Some(HeldChunk { index, digest, length }) {
                log::info!("chunk {index} downloaded and verified, {length} bytes");
                self.announce(index);
            }
        }
        Ok(())
    }

    fn announce(&mut self, index: ChunkIndex) {
        if let Some(chunk) = self.folder.holds(index) {
            self.requests.claim(chunk);
        }
        self.check_complete();
    }

    fn check_complete(&mut self) {
        if self.folder.progress().is_complete() && self.completion.folder_completed(self.now()) {
            let (folder, count) = (self.folder.path().display(), self.set.count);
            log::info!(
                "{folder} is complete: all {} of set {}",
                counted(count.into(), "chunk"),
                self.set.set
            );
        }
    }

    fn tick(&mut self) -> Result<(), RoleError> {
        let now = self.now();
        let scheduler_events = self.scheduler.tick(now);
        self.handle_scheduler_events(scheduler_events)?;
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
        may_exit && self.config.exit_when_complete && self.requests.is_empty()
    }
}
