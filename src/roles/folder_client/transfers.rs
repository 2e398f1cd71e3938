//! Downloads into the folder of a member, one thread per transfer.

use super::folder_watch::apply;
use super::{DownloadRequest, Inner};
use crate::content::FileName;
use crate::content::limits::{LEECHER_TIMEOUT, RESULT_TARGET};
use crate::download::destination::{Destination, DestinationKind};
use crate::download::finder::Finder;
use crate::download::job::{
    self, Advice, CHECKING_MD5, DownloadOrder, Downloaded, ExistingData, Recheck, ServingContext,
};
use crate::download::locate::locate;
use crate::download::selection::{self, SelectionWait};
use crate::download::ticket_finder::{AnsweredTrackers, TicketFinder, TicketTrackers};
use crate::net::Shutdown;
use crate::protocol::tracker::FileSummary;
use crate::report::Fault;
use crate::report::RoleError;
use crate::report::events;
use crate::report::next_step;
use crate::report::watch::{DOWNLOADING, FileProgress, Watch};
use crate::storage::shared_folder::FolderChange;
use crate::storage::{SharedFolder, TreeReceiveOptions};
use crate::sync::{RunningClock, lock};
use crate::tracker_client::announcer::Outage;
use crate::tracker_client::lookup::Query;
use crate::tracker_client::selection::{Item, Wanted};
use crate::upload::offers::Offer;
use crate::upload::server::DiscoveredPeer;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Capacity of a transfer's queue of discovered peers.
const QUEUE: usize = 256;
/// Interval at which the list of peers of a manager is checked before a download.
const LIST_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Time within which a manager must send its list of peers, also without a wait.
const LIST_TIMEOUT_MIN: Duration = Duration::from_secs(10);

/// Advice for the flag `--get` and for the prompt.
fn advice(inner: &Inner) -> Advice {
    let at_prompt = Cow::Borrowed("files (at the prompt of a client)");
    Advice {
        choose: "get",
        list: inner.config.tracker.as_ref().map_or(at_prompt, |tracker| next_step::list(tracker).into()),
        target_exists: "move it away, or download this one under another name (get NAME as OTHER)",
    }
}

/// State of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Looking up holders and downloading the manifest.
    Finding,
    /// Downloading chunks.
    Downloading,
    /// The file is complete and in place.
    Done,
    /// Failed, with the cause.
    Failed(Fault, String),
}

/// Snapshot of a transfer for display.
#[derive(Debug, Clone)]
pub struct TransferStatus {
    /// Requested name or id.
    pub wanted: String,
    /// State of the transfer.
    pub stage: Stage,
    /// Bytes present and size of the file.
    pub bytes: (u64, u64),
    /// Average download rate since the start, bytes per second.
    pub rate: u64,
    /// Number of sources, as text.
    pub note: String,
    /// Missing chunks while no data arrives; empty otherwise.
    pub trouble: String,
}

struct TransferState {
    stage: Stage,
    /// Size of the file, bytes.
    total: u64,
    /// Bytes present.
    done: u64,
    /// Bytes that an earlier run had downloaded.
    resumed: u64,
    /// Whether the MD5 is being checked: its progress is not that of the download.
    checking: bool,
    began: Option<Instant>,
    /// Duration of an ended transfer.
    took: Option<Duration>,
    note: String,
    trouble: String,
}

/// A download into or through the folder.
pub struct Transfer {
    wanted: String,
    request: DownloadRequest,
    state: Mutex<TransferState>,
    /// Closed when the transfer has ended.
    ended: Receiver<()>,
    /// Dropped at the end of the transfer, which closes `ended`.
    ending: Mutex<Option<Sender<()>>>,
    shutdown: Shutdown,
    /// Whether the user has cancelled it.
    is_abandoned: AtomicBool,
    watch: Arc<dyn Watch>,
    /// The part of this transfer in the total of several.
    progress: Option<Arc<FileProgress>>,
}

impl Transfer {
    fn state(&self) -> MutexGuard<'_, TransferState> {
        lock(&self.state)
    }

    /// Snapshot for display.
    pub fn status(&self) -> TransferStatus {
        let state = self.state();
        let elapsed = state.took.or(state.began.map(|began| began.elapsed()));
        let seconds = elapsed.unwrap_or_default().as_secs_f64().max(0.001);
        TransferStatus {
            wanted: self.wanted.clone(),
            stage: state.stage.clone(),
            bytes: (state.done, state.total),
            rate: ((state.done - state.resumed) as f64 / seconds) as u64,
            note: state.note.clone(),
            trouble: state.trouble.clone(),
        }
    }

    /// Waits for the end of the transfer.
    ///
    /// # Errors
    /// The cause of a failed transfer.
    pub fn wait(&self) -> Result<(), RoleError> {
        let _ = self.ended.recv();
        match &self.state().stage {
            Stage::Failed(fault, text) => Err(RoleError::new(*fault, text.clone())),
            _ => Ok(()),
        }
    }

    /// Cancels the transfer; verified chunks are kept.
    pub fn cancel(&self) {
        self.shutdown.trigger();
    }

    /// Cancels the transfer for the user; verified chunks are kept.
    pub fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
        self.cancel();
    }

    /// Whether the transfer has neither completed nor failed.
    pub fn is_running(&self) -> bool {
        !self.is_over()
    }

    fn is_over(&self) -> bool {
        matches!(self.state().stage, Stage::Done | Stage::Failed(..))
    }

    /// The file is complete. Its completion may still have to be reported to others.
    fn completed(&self) {
        let mut state = self.state();
        state.took = state.began.map(|began| began.elapsed());
        state.stage = Stage::Done;
    }

    fn end(&self, result: Result<(), RoleError>) {
        if let Some(progress) = &self.progress {
            progress.ended(result.is_ok());
        }
        match result {
            Ok(()) if self.is_over() => {}
            Ok(()) => self.completed(),
            Err(mut error) => {
                let level = match error.fault {
                    Fault::Interrupted if self.is_abandoned.load(Ordering::Relaxed) => {
                        let (name, command) = (&self.wanted, next_step::quoted(&self.wanted));
                        error.text = format!("{name} cancelled; resume it with: get {command}");
                        log::Level::Info
                    }
                    Fault::Interrupted => log::Level::Warn,
                    _ => log::Level::Error,
                };
                error.text.lines().for_each(|line| log::log!(level, "{line}"));
                events::failed(&error);
                let mut state = self.state();
                state.took = state.began.map(|began| began.elapsed());
                state.stage = Stage::Failed(error.fault, error.text);
            }
        }
        lock(&self.ending).take();
    }
}

impl Watch for Transfer {
    fn begin(&self, title: &str, total: u64, done: u64) {
        let mut state = self.state();
        state.checking = title.starts_with(CHECKING_MD5);
        if !state.checking {
            (state.total, state.done, state.resumed) = (total, done, done);
            state.began = Some(Instant::now());
        }
        drop(state);
        // The total of several downloads replaces this title by the name itself.
        let is_named = title == DOWNLOADING && self.progress.is_none();
        self.watch.begin(if is_named { &self.wanted } else { title }, total, done);
    }

    fn advance(&self, bytes: u64) {
        let mut state = self.state();
        // Rehashing is not counted as downloaded.
        if !state.checking {
            state.done += bytes;
        }
        drop(state);
        self.watch.advance(bytes);
    }

    fn note(&self, text: &str) {
        text.clone_into(&mut self.state().note);
        self.watch.note(text);
    }

    fn trouble(&self, text: &str) {
        text.clone_into(&mut self.state().trouble);
    }

    fn end(&self) {
        self.watch.end();
    }
}

/// Starts a transfer.
pub(super) fn start(inner: &Arc<Inner>, request: DownloadRequest) -> Result<Arc<Transfer>, RoleError> {
    let wanted = match (&request.ticket, &request.query.name, &request.query.id) {
        (Some(ticket), ..) => ticket.name.to_string(),
        (None, Some(name), _) => name.to_string(),
        (None, None, Some(id)) => id.to_string(),
        (None, None, None) => return Err(RoleError::new(Fault::Usage, "name a file")),
    };
    let (ending, ended) = bounded(0);
    let own = inner.watch.separate();
    let progress = request
        .total
        .clone()
        .map(|(total, expected)| Arc::new(FileProgress::new(wanted.clone(), expected, own.clone(), total)));
    let watch = progress.clone().map_or(own, |progress| progress);
    let transfer = Arc::new(Transfer {
        wanted,
        request,
        state: Mutex::new(TransferState {
            stage: Stage::Finding,
            total: 0,
            done: 0,
            resumed: 0,
            checking: false,
            began: None,
            took: None,
            note: String::new(),
            trouble: String::new(),
        }),
        ended,
        ending: Mutex::new(Some(ending)),
        shutdown: inner.shutdown.child(),
        is_abandoned: AtomicBool::new(false),
        watch,
        progress,
    });
    let mut transfers = lock(&inner.transfers);
    if transfers.iter().any(|other| !other.is_over() && other.wanted == transfer.wanted) {
        let text = format!("{} is already being downloaded", transfer.wanted);
        return Err(RoleError::new(Fault::Usage, text));
    }
    transfers.push(transfer.clone());
    drop(transfers);
    let (own, running) = (inner.clone(), transfer.clone());
    let spawned = inner.threads.spawn("transfer", move || {
        let result = run(&own, &running);
        running.end(result);
    });
    if let Err(error) = spawned {
        transfer.end(Err(error.into()));
    }
    Ok(transfer)
}

fn run(inner: &Inner, transfer: &Transfer) -> Result<(), RoleError> {
    let shutdown = &transfer.shutdown;
    let mut order = DownloadOrder {
        query: transfer.request.query.clone(),
        ticket: transfer.request.ticket.clone(),
        local_name: None,
        out: Some(destination(inner, transfer.request.out.as_deref())),
        kind: DestinationKind::File,
        overwrite: transfer.request.overwrite,
        recheck: Recheck::new(None),
        tree: TreeReceiveOptions::default(),
        durable: false,
        timeout: inner.config.timeout.or(Some(LEECHER_TIMEOUT)),
        limit: inner.limit.clone(),
        timeouts: inner.config.serve.timeouts,
        wait_timeout: transfer.request.wait_timeout,
        is_here: transfer.request.out.is_none() && is_in_folder(inner, &transfer.request.query),
        advice: advice(inner),
    };
    let answered = Arc::new(AnsweredTrackers::default());
    let mut finder: Box<dyn Finder> = Box::new(inner.finder()?);
    if let Some(tracker) = &inner.config.tracker {
        answered.answered(tracker, &[]);
    }
    match &order.ticket {
        Some(ticket) => {
            let (ticket, timeouts, answered) = (ticket.clone(), order.timeouts, answered.clone());
            finder = Box::new(TicketFinder::new(ticket, vec![finder], answered, timeouts, shutdown));
        }
        None => {
            let waited = wait_for_peer_list(inner, order.wait_timeout, shutdown)?;
            order.wait_timeout = order.wait_timeout.saturating_sub(waited);
        }
    }
    let located = match locate(&order, &mut *finder, outage(inner), shutdown) {
        Err(error) if error.fault == Fault::NotFound && order.is_here => {
            log::info!("{} exists already, and no other peer offers it", transfer.wanted);
            return Ok(());
        }
        located => located?,
    };
    let name = shared_name(inner, &located.file.path)?;
    let seeders = located.holders.whole.clone();
    let file = match job::check_existing(&order, &located.file, transfer, shutdown)? {
        ExistingData::Complete(_) => located.file,
        ExistingData::Part(part) => {
            transfer.state().stage = Stage::Downloading;
            let offered = name.clone().map(|name| offer(inner, name, &located.file, &part));
            let (route, serving) = serving_context(inner, &located.file);
            let result = job::complete(&order, located, &part, finder, serving, transfer, shutdown);
            let mut routes = lock(&inner.routes);
            routes.retain(|(_, other)| !other.same_channel(&route));
            drop(routes);
            // Either the complete file replaces the offer, or the partial file is no longer offered.
            if let (Some(name), Err(_)) = (&offered, &result) {
                inner.offers.withdraw(name);
                // The previous file of this name is still in the folder.
                if let Some(before) = inner.folder.by_name(name) {
                    apply(inner, FolderChange::Added(before));
                }
            }
            result?
        }
    };
    // A folder stays offered as it was received.
    if let Some(name) = name.filter(|_| !file.manifest.is_tree()) {
        let changes = inner.folder.adopt(name, file.manifest.clone())?;
        changes.into_iter().for_each(|change| apply(inner, change));
    }
    transfer.completed();
    log::info!(target: RESULT_TARGET, "Successfully downloaded {}", file.file.name);
    let FileSummary { id, name, size, chunks } = &file.file;
    events::completed(*id, name, (*size, *chunks), &file.path);
    if let Some(on_complete) = &inner.on_complete {
        on_complete.completed(&file.path, file.file.name.as_str(), file.file.id);
    }
    inner.reporter.report(file.file.id, &seeders, &answered.list(), order.timeouts, shutdown);
    Ok(())
}

/// The files that an argument selects, see [`selection::select`].
pub(super) fn select(
    inner: &Inner,
    item: &Item,
    wait: Duration,
    shutdown: &Shutdown,
) -> Result<Vec<Wanted>, RoleError> {
    let waited = wait_for_peer_list(inner, wait, shutdown)?;
    let wait = SelectionWait { wait_timeout: wait.saturating_sub(waited), list: &advice(inner).list };
    selection::select(item, &mut inner.finder()?, outage(inner), &wait, shutdown)
}

/// Whether an item of the requested name is in the folder.
fn is_in_folder(inner: &Inner, query: &Query) -> bool {
    query.name.as_ref().is_some_and(|name| inner.folder.find(name).is_some())
}

/// Destination of a download: a plain name is resolved in the folder, a path is used unchanged.
fn destination(inner: &Inner, out: Option<&Path>) -> PathBuf {
    let folder = inner.folder.download_folder();
    match out {
        None => folder,
        Some(out) if out.components().count() == 1 && out.file_name().is_some() => folder.join(out),
        Some(out) => out.to_owned(),
    }
}

/// Name under which the file will be shared; `None` if its destination is outside the folder, if no file of this name is
/// shared, or if this client shares nothing.
fn shared_name(inner: &Inner, path: &Path) -> Result<Option<FileName>, RoleError> {
    let folders = [inner.folder.path().to_owned(), inner.folder.download_folder()];
    if !folders.iter().any(|folder| path.parent() == Some(folder)) || !inner.config.shares {
        return Ok(None);
    }
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = FileName::new(name).map_err(|error| RoleError::from_error(Fault::Usage, error))?;
    if let Some(reason) = SharedFolder::refusal(&name) {
        log::info!("{name} is downloaded but not shared: {reason}");
        return Ok(None);
    }
    match inner.folder.collides(&name)? {
        None => Ok(Some(name)),
        Some(other) => {
            let text = format!(
                "{name} and the existing {other} would be one file on systems that ignore case or Unicode form; \
                 download it under another name (get NAME as OTHER)"
            );
            Err(RoleError::new(Fault::ExistsAndDiffers, text))
        }
    }
}

/// Waits for the manager's list of peers. Returns the time that this took.
pub(super) fn wait_for_peer_list(
    inner: &Inner,
    wait: Duration,
    shutdown: &Shutdown,
) -> Result<Duration, RoleError> {
    // The registration takes some time, also if the manager is there.
    let timeout = wait.max(LIST_TIMEOUT_MIN);
    let mut clock = RunningClock::new();
    while !inner.is_ready() {
        if clock.now() >= timeout {
            let manager = inner.config.manager.as_ref().map(|manager| format!(" on {manager}"));
            let text = format!(
                "no list of peers from the manager{} for {} s; start the manager, then repeat the command",
                manager.unwrap_or_default(),
                timeout.as_secs()
            );
            return Err(RoleError::new(Fault::Unreachable, text));
        }
        if shutdown.wait(LIST_CHECK_INTERVAL) {
            return Err(crate::download::finder::interrupted());
        }
    }
    Ok(clock.now())
}

fn outage(inner: &Inner) -> Outage {
    let role = if inner.config.tracker.is_some() { "tracker" } else { "manager" };
    let asked = inner.config.tracker.clone().or_else(|| inner.config.manager.clone());
    let asked = asked.unwrap_or_else(|| crate::content::limits::TRACKER_ADDRESS.into());
    Outage::new(role, asked, None)
}

/// Offers the verified chunks of a file during its download.
fn offer(inner: &Inner, name: FileName, file: &Downloaded, part: &Arc<Destination>) -> FileName {
    let file = FileSummary { name: name.clone(), ..file.file.clone() };
    inner.offers.offer(Offer { file, source: part.clone() });
    inner.nudge();
    name
}

/// Registers a channel for discovered peers and returns it with the context of this peer's upload server.
fn serving_context(inner: &Inner, file: &Downloaded) -> (Sender<DiscoveredPeer>, ServingContext) {
    let (discovered, discoveries) = bounded(QUEUE);
    let mut routes = lock(&inner.routes);
    routes.push((file.file.id, discovered.clone()));
    let (relay, threads) = (inner.offers.relay().clone(), inner.threads.clone());
    (
        discovered,
        ServingContext {
            relay: Some(relay),
            port: Some(inner.port),
            site: inner.config.serve.site.clone(),
            discovered: Some(discoveries),
            threads,
        },
    )
}
