//! The tracker: the pure [`Tracker`] behind sockets, and, when it keeps files, the hands that carry out what it
//! decides.
//!
//! A tracker that keeps files is a serving peer, too: it has a port of its own for chunks and manifests. Invariant:
//! it serves nothing and takes no volunteer in before its catalogue has been read whole.

use crate::content::PeerName;
use crate::content::fmt::counted;
use crate::content::limits::{self, TRACKER_NAME};
use crate::net::{Listener, Shutdown, Threads, Timeouts};
use crate::report::error::{DaemonError, Fault};
use crate::report::next_step;
use crate::report::watch::Watch;
use crate::storage::ReplicaStore;
use crate::swarm::keeping::{Answer, Command, TaskOutcome};
use crate::swarm::replication::Settings;
use crate::swarm::tracker::{KeepRules, Remembered, Rules, Tracker};
use crate::tracker::executor::{Executor, TaskChannels, ExecutorConfig};
use crate::tracker::server::{ExecutorChannels, Hub, HubConfig, draw, secret};
use crate::tracker::store::{Catalogue, Contents, RedbCatalogue};
use crate::upload::offers::Offers;
use crate::upload::server::{ServeOptions, serve};
use crossbeam_channel::{Receiver, Sender, bounded, never, unbounded};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the prompt waits for an answer, which takes no disk and no socket.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// The folder below the state folder for chunks that came back.
const CHUNKS: &str = "chunks";

/// What a tracker is told to do.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// Where to listen, TCP and UDP.
    pub listen: SocketAddr,
    /// Leases and quorum.
    pub rules: Rules,
    /// Connections served at once.
    pub connections: usize,
    /// How long connections are waited for.
    pub timeouts: Timeouts,
    /// What it keeps, if it does.
    pub keep: Option<KeepConfig>,
}

/// What a tracker that keeps files is told.
#[derive(Debug, Clone)]
pub struct KeepConfig {
    /// The folder whose files it offers and has kept.
    pub files: Option<PathBuf>,
    /// The folder of its catalogue and of chunks that came back.
    pub state: PathBuf,
    /// The port on which it serves; 0 takes any free one.
    pub port: u16,
    /// Where others reach that port, when it is not the address that they know the tracker by.
    pub advertise: Option<SocketAddr>,
    /// How to serve.
    pub serve: ServeOptions,
    /// How many copies, and when.
    pub settings: Settings,
    /// Starts with an empty catalogue and fills it from what volunteers report.
    pub rebuild: bool,
    /// The file that this program logs to: it is not offered.
    pub log_file: PathBuf,
}

/// A running tracker. Clones are the same tracker.
#[derive(Clone)]
pub struct RunningTracker(Arc<Inner>);

struct Inner {
    hub: Mutex<Option<Hub>>,
    address: SocketAddr,
    keeping: Option<CommandChannels>,
    failed: Receiver<DaemonError>,
    threads: Threads,
}

/// Where commands go in and answers come out.
struct CommandChannels {
    serving: SocketAddr,
    news: Sender<TaskOutcome>,
    answers: Receiver<(u64, Answer)>,
    next: AtomicU64,
}

/// Starts a tracker, which runs until the shutdown.
///
/// # Errors
/// A port is taken, a folder cannot be used, the catalogue is damaged, or the system gives no threads or randomness.
pub fn start(
    config: &TrackerConfig,
    watch: &Arc<dyn Watch>,
    shutdown: &Shutdown,
) -> Result<RunningTracker, DaemonError> {
    let threads = Threads::new();
    threads.join_on_error(start_in(&threads, config, watch, shutdown), shutdown)
}

fn start_in(
    threads: &Threads,
    config: &TrackerConfig,
    watch: &Arc<dyn Watch>,
    shutdown: &Shutdown,
) -> Result<RunningTracker, DaemonError> {
    let mut seeds = seeds()?;
    let mut tracker = Tracker::new(config.rules, fastrand::Rng::with_seed(seeds.0), draw);
    let (failures, failed) = bounded(1);
    let (mut hands, mut keeping, mut failed_keeping) = (ExecutorChannels::none(), None, never());
    if let Some(keep) = &config.keep {
        let random = fastrand::Rng::with_seed(std::mem::take(&mut seeds.1));
        let (given, desk) =
            keep_files(keep, config.listen.ip(), &mut tracker, random, watch, failures, threads, shutdown)?;
        (hands, keeping, failed_keeping) = (given, Some(desk), failed);
    }
    let TrackerConfig { listen, connections, timeouts, .. } = *config;
    let hub = HubConfig { listen, connections, outbox: limits::OUTBOX_MESSAGES_MAX, timeouts };
    let hub = Hub::start(&hub, tracker, hands, shutdown)?;
    let address = hub.address();
    log::info!("tracker listening on {address}, TCP and UDP");
    match config.keep {
        Some(_) => log::info!("{}", next_step::volunteer(address)),
        None => log::info!("{}", next_step::share_with_tracker(address)),
    }
    Ok(RunningTracker(Arc::new(Inner {
        hub: Mutex::new(Some(hub)),
        address,
        keeping,
        failed: failed_keeping,
        threads: threads.clone(),
    })))
}

/// Two numbers to begin random sequences with.
fn seeds() -> Result<(u64, u64), DaemonError> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = secret()?;
    Ok((u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])))
}

/// Reads the catalogue, serves, and starts the hands.
#[allow(clippy::too_many_arguments)]
fn keep_files(
    keep: &KeepConfig,
    ip: IpAddr,
    tracker: &mut Tracker,
    random: fastrand::Rng,
    watch: &Arc<dyn Watch>,
    failures: Sender<DaemonError>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> Result<(ExecutorChannels, CommandChannels), DaemonError> {
    let listener =
        Listener::bind(SocketAddr::new(ip, keep.port)).map_err(DaemonError::bind("--transfer_port PORT"))?;
    let catalogue: Arc<dyn Catalogue> = Arc::new(match keep.rebuild {
        true => RedbCatalogue::rebuild(&keep.state)?,
        false => RedbCatalogue::open(&keep.state)?,
    });
    let Contents { files, volunteers, held, forgotten } = catalogue.load()?;
    let store = ReplicaStore::open(&keep.state.join(CHUNKS), u64::MAX)?;
    let known = (counted(files.len() as u64, "file"), counted(volunteers.len() as u64, "volunteer"));
    log::info!("the catalogue has {} and {}", known.0, known.1);
    let port = listener.address().port();
    let own = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let name = PeerName::new(TRACKER_NAME);
    let rules = KeepRules {
        settings: keep.settings.clone(),
        name: name.map_err(|error| DaemonError::new(Fault::Other, error.to_string()))?,
        serving: keep.advertise.unwrap_or(own),
        rebuild: keep.rebuild,
    };
    tracker.keep(rules, Remembered { files, volunteers, held, forgotten }, random);
    let shelf = Offers::new();
    let (tasks, given) = unbounded();
    let (tell, news) = unbounded();
    let (answer, answers) = unbounded();
    let config = ExecutorConfig {
        files: keep.files.clone(),
        log_file: keep.log_file.clone(),
        catalogue,
        store,
        shelf: shelf.clone(),
        watch: watch.clone(),
        timeouts: keep.serve.timeouts,
    };
    let channels = TaskChannels { tasks: given, news: tell.clone(), failures };
    Executor::start(config, channels, threads, shutdown)?;
    serve(listener, shelf, &keep.serve, None, threads, shutdown)?;
    let serving = SocketAddr::new(ip, port);
    log::info!("tracker serving on {serving}");
    let desk = CommandChannels { serving, news: tell, answers, next: AtomicU64::new(0) };
    Ok((ExecutorChannels { tasks, answers: answer, news }, desk))
}

impl RunningTracker {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Where it serves, when it keeps files.
    pub fn serving(&self) -> Option<SocketAddr> {
        self.0.keeping.as_ref().map(|desk| desk.serving)
    }

    /// Asks for something, one question at a time.
    ///
    /// # Errors
    /// For people: it cannot be done, and why.
    pub fn command(&self, command: Command) -> Result<Answer, String> {
        let Some(desk) = &self.0.keeping else {
            return Err("this tracker keeps no files; it would with --files and --state".into());
        };
        let number = desk.next.fetch_add(1, Ordering::Relaxed);
        desk.news.send(TaskOutcome::Command(number, command)).map_err(|_| "the tracker is ending")?;
        loop {
            match desk.answers.recv_timeout(ANSWER_WAIT) {
                Ok((answered, Answer::Refused(why))) if answered == number => return Err(why),
                Ok((answered, answer)) if answered == number => return Ok(answer),
                // To a question that was not waited for.
                Ok(_) => {}
                Err(_) => return Err("the tracker is too busy to answer".into()),
            }
        }
    }

    /// Tells when it cannot go on, for `select!`.
    pub fn failed(&self) -> &Receiver<DaemonError> {
        &self.0.failed
    }

    /// Waits until the shutdown, or until it cannot go on.
    ///
    /// # Errors
    /// The latter.
    pub fn wait(&self, shutdown: &Shutdown) -> Result<(), DaemonError> {
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => Ok(()),
            recv(self.0.failed) -> failure => failure.map_or(Ok(()), Err),
        }
    }

    /// Triggers the shutdown and waits until every thread has ended.
    pub fn stop(&self, shutdown: &Shutdown) {
        shutdown.trigger();
        if let Some(hub) = self.0.hub.lock().unwrap_or_else(PoisonError::into_inner).take() {
            hub.join();
        }
        self.0.threads.join();
    }
}
