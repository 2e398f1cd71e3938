//! Leecher role: finds the holders of files and downloads each file from all of them at the same time.
//!
//! Runs on the caller's thread, one file after another; [`job`](crate::download::job) has the steps of a download. A file
//! that is not found at once is tried again after the others. The leecher serves each chunk as soon as it is verified, all
//! files over one port. After the downloads it serves the peers that still download from it, for a limited time, or with
//! [`LeecherConfig::stay`] all peers until the shutdown.

mod file;
mod listing;
mod local_network;
mod serving;
mod trackers;

pub use local_network::{Confirm, LocalNetwork};

use crate::content::{FileId, PeerName};
use crate::download::completion::Reporter;
use crate::download::destination::Destination;
use crate::download::finder::{TrackerFinder, interrupted};
use crate::download::job::{DownloadOrder, Downloaded, no_folder};
use crate::download::selection::{SelectionWait, select};
use crate::net::{Endpoint, Listener, PortRange, Shutdown, Threads, UdpClient, running_time};
use crate::report::error::{Fault, RoleError};
use crate::report::events;
use crate::report::watch::{TotalProgress, Watch};
use crate::roles::on_complete::OnComplete;
use crate::tracker_client::announcer::Outage;
use crate::tracker_client::selection::{Item, Wanted, without_repetitions};
use crate::upload::server::ServeOptions;
use serving::Serving;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trackers::Registrations;

/// Configuration of a leecher.
#[derive(Debug, Clone)]
pub struct LeecherConfig {
    /// The files to download.
    pub items: Vec<Item>,
    /// Shows the entries of folders instead of downloading them.
    pub lists_entries: bool,
    /// Destination and checks of each file. With several files the destination is a folder.
    pub order: DownloadOrder,
    /// Address of the tracker; `None` if the files are named by tickets.
    pub tracker: Option<Endpoint>,
    /// Searches the local network for named files that the tracker on this host does not offer; `None` not to.
    pub local_network: Option<LocalNetwork>,
    /// Name of this peer; `None` for `leecher-PORT`.
    pub name: Option<PeerName>,
    /// Serves verified chunks during the download; `None` not to serve.
    pub serve: Option<ServeConfig>,
    /// Serves the complete files until the shutdown. A port that cannot be bound is an error then.
    pub stay: bool,
    /// Longest time for which peers are served that still download when this download is complete; `None` to derive it
    /// from the download time.
    pub linger: Option<Duration>,
    /// Command to run for each completed file.
    pub on_complete: Option<String>,
}

/// Configuration of a leecher's serving side.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// IP address on which the leecher serves.
    pub listen: IpAddr,
    /// The listening address is a default and may be widened, see [`Presence`](crate::tracker_client::presence::Presence).
    pub widens: bool,
    /// Ports to serve on; the first free one is used.
    pub ports: PortRange,
    /// Address of this peer for other peers, if it differs from the source address that the tracker
    /// sees.
    pub advertise: Option<SocketAddr>,
    /// Limits and timeouts of the serving side.
    pub serve: ServeOptions,
}

/// Downloads files and calls `done` for each that is complete and renamed.
///
/// Then it serves peers that still download from this one, with [`LeecherConfig::stay`] until the shutdown.
///
/// # Errors
/// A file is not found or ambiguous, chunks are missing, the disk is full, the user interrupted, and others: see
/// [`Fault`]. With several files the others are downloaded, and the kind is that of the last failure.
pub fn run(
    config: &LeecherConfig,
    watch: &Arc<dyn Watch>,
    shutdown: &Shutdown,
    done: &mut dyn FnMut(&Downloaded),
) -> Result<(), RoleError> {
    let (threads, reports) = (Threads::new(), Threads::new());
    check_destination(config)?;
    // A port in use is reported before the file is searched for.
    let listener = serving::bind(config)?;
    let mut config = config.clone();
    local_network::resolve(&mut config, shutdown)?;
    // Tickets need no tracker.
    if config.local_network.is_some() && config.items.iter().all(|item| matches!(item, Item::Ticket(_))) {
        config.tracker = None;
    }
    let result = run_with(&config, listener, watch, (&threads, &reports), shutdown, done);
    // A report takes 2 s at most.
    reports.join();
    shutdown.trigger();
    threads.join();
    result
}

/// Refuses one destination for several files.
fn check_destination(config: &LeecherConfig) -> Result<(), RoleError> {
    if !takes_several(&without_repetitions(config.items.clone())) {
        return Ok(());
    }
    if let Some(out) = config.order.out.as_ref().filter(|out| !out.is_dir()) {
        return Err(no_folder(out));
    }
    match config.order.local_name {
        Some(_) => Err(RoleError::new(Fault::Usage, "--as names one file, but several are to be downloaded")),
        None => Ok(()),
    }
}

/// Whether the arguments may name several files.
fn takes_several(items: &[Item]) -> bool {
    items.len() > 1 || items.iter().any(Item::may_name_several)
}

fn run_with(
    config: &LeecherConfig,
    listener: Option<Listener>,
    watch: &Arc<dyn Watch>,
    (threads, reports): (&Threads, &Threads),
    shutdown: &Shutdown,
    done: &mut dyn FnMut(&Downloaded),
) -> Result<(), RoleError> {
    let items = without_repetitions(config.items.clone());
    let takes_several = takes_several(&items);
    let registrations = Registrations::new(config.tracker.clone());
    let serving = Serving::new(config, listener, registrations.clone(), threads.clone(), shutdown)?;
    let on_complete = config.on_complete.as_ref();
    let leecher = Leecher {
        config,
        shutdown,
        total: TotalProgress::new(watch.clone()),
        watch: watch.clone(),
        reporter: Reporter::new(serving.name().clone()),
        on_complete: on_complete.map(|command| OnComplete::start(command, threads, shutdown)).transpose()?,
        reports: reports.clone(),
        registrations,
        serving,
        parts: Vec::new(),
        finished: HashMap::new(),
        done,
    };
    leecher.run(items, takes_several)
}

/// The downloads of a run.
struct Leecher<'a> {
    config: &'a LeecherConfig,
    watch: Arc<dyn Watch>,
    total: TotalProgress,
    shutdown: &'a Shutdown,
    registrations: Registrations,
    serving: Serving<'a>,
    reporter: Reporter,
    /// Threads that report completed files.
    reports: Threads,
    on_complete: Option<OnComplete>,
    /// Downloaded files, if they are served until the shutdown.
    parts: Vec<Arc<Destination>>,
    /// Complete files by their paths, so that none is downloaded twice or replaced by another one.
    finished: HashMap<PathBuf, FileId>,
    done: &'a mut dyn FnMut(&Downloaded),
}

/// An entry of the queue of downloads.
enum Task {
    Select(Item),
    Download(Wanted),
}

impl Task {
    fn has_ticket(&self) -> bool {
        matches!(self, Task::Download(Wanted { ticket: Some(_), .. }))
    }

    /// Whether a later attempt may succeed. For a ticket, unreachable means that its seeder has replaced the file.
    fn is_worth_a_wait(&self, fault: Fault) -> bool {
        fault == Fault::NotFound || (fault == Fault::Unreachable && !self.has_ticket())
    }
}

/// Results of the downloads so far.
#[derive(Default)]
struct Results {
    count: usize,
    failed: usize,
    last_fault: Option<Fault>,
}

impl Leecher<'_> {
    fn run(mut self, items: Vec<Item>, takes_several: bool) -> Result<(), RoleError> {
        let started = Instant::now();
        let mut tasks: VecDeque<Task> = items.into_iter().map(|item| self.task(item)).collect();
        let result = match (takes_several, tasks.pop_front()) {
            (false, Some(Task::Download(wanted))) => self.download(&wanted, self.config.order.wait_timeout),
            (_, first) => {
                tasks.extend(first);
                tasks.rotate_right(1);
                self.run_all(tasks)
            }
        };
        self.total.end();
        let serves = (result.is_ok() || !self.finished.is_empty()) && !self.shutdown.is_stopped();
        match self.config.stay {
            true if serves => self.serving.stay(&self.parts),
            false if serves => self.serving.linger(started.elapsed()),
            _ => {}
        }
        let commands = self.on_complete.as_ref().map_or(Ok(()), OnComplete::finish);
        result.and(commands)
    }

    /// The first step for an argument: a list of files is needed for some.
    fn task(&self, item: Item) -> Task {
        match item.only() {
            Some(wanted) => Task::Download(self.counted(wanted)),
            None => Task::Select(item),
        }
    }

    /// Adds a file to the total.
    fn counted(&self, wanted: Wanted) -> Wanted {
        self.total.add_files(1);
        self.total.add_bytes(wanted.size.unwrap_or(0));
        wanted
    }

    /// Downloads several files. Those that are not found at once are tried again after the others, and then waited for.
    fn run_all(&mut self, mut tasks: VecDeque<Task>) -> Result<(), RoleError> {
        let mut results = Results::default();
        let mut postponed: VecDeque<Task> = VecDeque::new();
        if tasks.len() == 1 {
            std::mem::swap(&mut tasks, &mut postponed);
        }
        while let Some(task) = tasks.pop_front() {
            let result = self.attempt(&task, Duration::ZERO, &mut tasks, &mut results);
            if self.shutdown.is_stopped() {
                return Err(interrupted());
            }
            match result {
                Err(error) if task.is_worth_a_wait(error.fault) => {
                    log::warn!("{error}; trying again after the other files");
                    postponed.push_back(task);
                    if error.fault == Fault::Unreachable {
                        // Each further request to the tracker would take as long.
                        let (own, others) = tasks.drain(..).partition(Task::has_ticket);
                        tasks = own;
                        postponed.extend::<VecDeque<Task>>(others);
                    }
                }
                Err(error) => results.failed(&error),
                Ok(()) => {}
            }
        }
        let started = running_time();
        while let Some(task) = postponed.pop_front() {
            let waited = running_time().saturating_sub(started);
            let wait = whole_milliseconds(self.config.order.wait_timeout.saturating_sub(waited));
            let result = self.attempt(&task, wait, &mut postponed, &mut results);
            if self.shutdown.is_stopped() {
                return Err(interrupted());
            }
            if let Err(error) = result {
                results.failed(&error);
            }
        }
        results.end()
    }

    /// Downloads a file, or adds the files that an argument selects to the queue.
    fn attempt(
        &mut self,
        task: &Task,
        wait: Duration,
        tasks: &mut VecDeque<Task>,
        results: &mut Results,
    ) -> Result<(), RoleError> {
        match task {
            Task::Download(wanted) => {
                self.download(wanted, wait)?;
                results.count += 1;
            }
            Task::Select(item) => {
                let wanted = self.select(item, wait)?;
                for wanted in wanted.into_iter().rev() {
                    tasks.push_front(Task::Download(self.counted(wanted)));
                }
            }
        }
        Ok(())
    }

    fn select(&self, item: &Item, wait_timeout: Duration) -> Result<Vec<Wanted>, RoleError> {
        let Some(tracker) = &self.config.tracker else {
            return Err(RoleError::new(
                Fault::Usage,
                format!("{item} needs a tracker; name it with --tracker"),
            ));
        };
        let order = &self.config.order;
        let wait = SelectionWait { wait_timeout, list: &order.advice.list };
        let mut finder = self.tracker_finder(tracker, wait_timeout);
        let outage = Outage::new("tracker", tracker.clone(), None);
        select(item, &mut finder, outage, &wait, self.shutdown)
    }

    fn tracker_finder(&self, tracker: &Endpoint, wait: Duration) -> TrackerFinder {
        let (registrations, at) = (self.registrations.clone(), tracker.clone());
        // Without a wait, one request with all of its attempts.
        let request_timeout = Some(wait).filter(|wait| !wait.is_zero());
        let client = UdpClient::new(tracker.clone(), self.shutdown).with_timeout(request_timeout);
        TrackerFinder::new(client, self.config.order.timeouts, move || registrations.token(&at))
    }
}

/// A time for messages, without the digits below a millisecond, rounded up.
fn whole_milliseconds(time: Duration) -> Duration {
    Duration::from_millis(time.as_nanos().div_ceil(1_000_000) as u64)
}

impl Results {
    /// Counts and logs a failure.
    fn failed(&mut self, error: &RoleError) {
        error.text.lines().for_each(|line| log::error!("{line}"));
        events::failed(error);
        self.count += 1;
        self.failed += 1;
        self.last_fault = Some(error.fault);
    }

    fn end(self) -> Result<(), RoleError> {
        let Self { count, failed, last_fault } = self;
        match last_fault {
            None => Ok(()),
            // The cause has been logged.
            Some(fault) if count == 1 => Err(RoleError::new(fault, "")),
            Some(fault) => Err(RoleError::new(fault, format!("{failed} of {count} downloads failed"))),
        }
    }
}
