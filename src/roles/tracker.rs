//! Tracker role: the pure [`Tracker`] state machine behind sockets, with an executor for kept files.
//!
//! A tracker that keeps files is also a serving peer, with a separate port for chunks and manifests. Invariant: it
//! serves no file and accepts no volunteer before it has read the whole catalogue.

use crate::content::PeerName;
use crate::content::fmt::counted;
use crate::content::limits::{self, TRACKER_NAME};
use crate::discovery::responder::{Discoverable, respond};
use crate::net::{InFlightBudget, Listener, Shutdown, Threads, Timeouts};
use crate::report::error::{Fault, RoleError};
use crate::report::events;
use crate::report::next_step;
use crate::report::watch::Watch;
use crate::storage::ReplicaStore;
use crate::swarm::command::{Answer, Command, Refusal};
use crate::swarm::discovery::Services;
use crate::swarm::replication::Settings;
use crate::swarm::tracker::{KeepRules, Remembered, Rules, Tracker};
use crate::sync::lock;
use crate::tracker::commands::Commands;
use crate::tracker::control;
use crate::tracker::executor::{Executor, ExecutorConfig, TaskChannels};
use crate::tracker::server::{ExecutorChannels, ServerConfig, SwarmServer, draw, secret};
use crate::tracker::store::{Catalogue, Contents, RedbCatalogue};
use crate::tracker::tasks::task_channel;
use crate::upload::offers::Offers;
use crate::upload::server::{ServeOptions, serve};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, never, unbounded};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time that the prompt waits for an answer. Only `verify` and `recall` may take longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Subfolder of the state folder for the tracker's own chunk store.
const CHUNKS: &str = "chunks";

/// Configuration of a tracker.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// Address for both TCP and UDP.
    pub listen: SocketAddr,
    /// Leases and quorum.
    pub rules: Rules,
    /// Answers questions of other hosts about trackers in the local network, unless it listens only on loopback.
    pub is_discoverable: bool,
    /// Maximum number of connections.
    pub connections: usize,
    /// Bytes of responses that wait for their readers, over all connections.
    pub in_flight: u64,
    /// Timeouts of connections.
    pub timeouts: Timeouts,
    /// Settings of a tracker that keeps files; `None` if it keeps none.
    pub keep: Option<KeepConfig>,
}

/// Configuration of a tracker that keeps files.
#[derive(Debug, Clone)]
pub struct KeepConfig {
    /// Folder of the files that the tracker offers and replicates (`--files`).
    pub files: Option<PathBuf>,
    /// Folder of the catalogue and of the tracker's own chunk store (`--state`).
    pub state: PathBuf,
    /// Port on which the tracker serves chunks; 0 chooses a free port.
    pub port: u16,
    /// Address at which peers reach this port, if it differs from the tracker's address.
    pub advertise: Option<SocketAddr>,
    /// Limits and timeouts of the serving side.
    pub serve: ServeOptions,
    /// Number of replicas, repair delay and further replication settings.
    pub settings: Settings,
    /// Starts with an empty catalogue and rebuilds it from the reports of volunteers.
    pub rebuild: bool,
    /// Log file of this program; never offered.
    pub log_file: PathBuf,
}

/// Handle of a running tracker. All clones refer to the same tracker.
#[derive(Clone)]
pub struct RunningTracker(Arc<Inner>);

struct Inner {
    /// `None` after [`stop`](RunningTracker::stop).
    server: Mutex<Option<SwarmServer>>,
    address: SocketAddr,
    /// Address on which the tracker serves chunks; `None` if it keeps no files.
    serving: Option<SocketAddr>,
    commands: Commands,
    /// Receives the failure of the catalogue.
    failed: Receiver<RoleError>,
    threads: Threads,
}

/// Starts a tracker, which runs until the shutdown.
///
/// # Errors
/// An address cannot be bound, a folder cannot be used, the catalogue is damaged, no thread can be started, or no random
/// bytes are available.
pub fn start(
    config: &TrackerConfig,
    watch: &Arc<dyn Watch>,
    shutdown: &Shutdown,
) -> Result<RunningTracker, RoleError> {
    let threads = Threads::new();
    threads.join_on_error(start_in(&threads, config, watch, shutdown), shutdown)
}

fn start_in(
    threads: &Threads,
    config: &TrackerConfig,
    watch: &Arc<dyn Watch>,
    shutdown: &Shutdown,
) -> Result<RunningTracker, RoleError> {
    let mut seeds = seeds()?;
    let mut tracker = Tracker::new(config.rules, fastrand::Rng::with_seed(seeds.0), draw);
    let (failures, failed) = bounded(1);
    let (mut executor, mut commands) = ExecutorChannels::of_commands();
    let (mut serving, mut catalogue_failed) = (None, never());
    if let Some(keep) = &config.keep {
        let random = fastrand::Rng::with_seed(std::mem::take(&mut seeds.1));
        let (executor_channels, keep_commands, address) =
            keep_files(keep, config.listen.ip(), &mut tracker, random, watch, failures, threads, shutdown)?;
        (executor, commands) = (executor_channels, keep_commands);
        (serving, catalogue_failed) = (Some(address), failed);
    }
    let TrackerConfig { listen, connections, timeouts, .. } = *config;
    let in_flight = InFlightBudget::new(config.in_flight);
    let outbox = limits::OUTBOX_MESSAGES_MAX;
    let server = ServerConfig { listen, connections, outbox, in_flight, timeouts };
    let server = SwarmServer::start(&server, tracker, executor, shutdown)?;
    let address = server.address();
    if config.is_discoverable && config.rules.exposure.public {
        let services = Services { tracker: Some(address.port()), ..Services::default() };
        respond(Discoverable::without_files(services), threads, shutdown);
    }
    log::info!("tracker listening on {address}, TCP and UDP");
    events::listening(address);
    match config.keep {
        Some(_) => log::info!("{}", next_step::volunteer(&address.into())),
        None => log::info!("{}", next_step::share_with_tracker(&address.into())),
    }
    Ok(RunningTracker(Arc::new(Inner {
        server: Mutex::new(Some(server)),
        address,
        serving,
        commands,
        failed: catalogue_failed,
        threads: threads.clone(),
    })))
}

/// Two random seeds.
fn seeds() -> Result<(u64, u64), RoleError> {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = secret()?;
    Ok((u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])))
}

/// Reads the catalogue, starts the executor, and serves the files.
#[allow(clippy::too_many_arguments)]
fn keep_files(
    keep: &KeepConfig,
    ip: IpAddr,
    tracker: &mut Tracker,
    random: fastrand::Rng,
    watch: &Arc<dyn Watch>,
    failures: Sender<RoleError>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> Result<(ExecutorChannels, Commands, SocketAddr), RoleError> {
    let listener =
        Listener::bind(SocketAddr::new(ip, keep.port)).map_err(RoleError::bind("--transfer_port PORT"))?;
    let catalogue: Arc<dyn Catalogue> = Arc::new(match keep.rebuild {
        true => RedbCatalogue::rebuild(&keep.state)?,
        false => RedbCatalogue::open(&keep.state)?,
    });
    let Contents { files, volunteers, held, forgotten, .. } = catalogue.load()?;
    let store = ReplicaStore::open(&keep.state.join(CHUNKS), u64::MAX)?;
    let known = (counted(files.len() as u64, "file"), counted(volunteers.len() as u64, "volunteer"));
    log::info!("read the catalogue: {}, {}", known.0, known.1);
    let port = listener.address().port();
    let own = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let name = PeerName::new(TRACKER_NAME);
    let rules = KeepRules {
        settings: keep.settings.clone(),
        name: name.map_err(|error| RoleError::from_error(Fault::Other, error))?,
        serving: keep.advertise.unwrap_or(own),
        rebuild: keep.rebuild,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_s = now.map_or(0, |since| since.as_secs());
    tracker.keep(rules, Remembered { files, volunteers, held, forgotten, unix_s }, random);
    let offers = Offers::new();
    let (tasks, task_receiver) = task_channel();
    let (outcome_sender, outcomes) = unbounded();
    let config = ExecutorConfig {
        files: keep.files.clone(),
        log_file: keep.log_file.clone(),
        catalogue,
        store,
        offers: offers.clone(),
        watch: watch.clone(),
        timeouts: keep.serve.timeouts,
    };
    let channels = TaskChannels { tasks: task_receiver, outcomes: outcome_sender.clone(), failures };
    Executor::start(config, channels, threads, shutdown)?;
    serve(listener, offers, &keep.serve, None, threads, shutdown)?;
    let serving = SocketAddr::new(ip, port);
    log::info!("tracker serving on {serving}");
    let commands = Commands::new(outcome_sender);
    control::serve(&keep.state, commands.clone(), threads, shutdown)?;
    let answers = commands.answers();
    Ok((ExecutorChannels { tasks, answers, outcomes }, commands, serving))
}

impl RunningTracker {
    /// The address on which the tracker listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// The address on which the tracker serves chunks; `None` if it keeps no files.
    pub fn serving(&self) -> Option<SocketAddr> {
        self.0.serving
    }

    /// Executes a command of the prompt. The answers to `verify` and `recall` may come too late for it; the log has them.
    pub fn command(&self, command: Command) -> Answer {
        let is_long = matches!(command, Command::Verify { .. } | Command::Recall { .. });
        match self.0.commands.send(command).recv_timeout(ANSWER_TIMEOUT) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => {
                Answer::refused(Refusal::State, "the tracker is shutting down")
            }
            Err(RecvTimeoutError::Timeout) if is_long => {
                Answer::done("in progress; the log reports the result")
            }
            Err(RecvTimeoutError::Timeout) => {
                let seconds = ANSWER_TIMEOUT.as_secs();
                let text = format!("the tracker did not answer within {seconds} s; try again");
                Answer::refused(Refusal::Failed, text)
            }
        }
    }

    /// Executes a command and waits for its answer, also if its work takes long, or for the shutdown.
    pub fn finish(&self, command: Command, shutdown: &Shutdown) -> Answer {
        let answer = self.0.commands.send(command);
        crossbeam_channel::select! {
            recv(answer) -> answer => answer.ok(),
            recv(shutdown.signal()) -> _ => None,
        }
        .unwrap_or_else(|| Answer::refused(Refusal::State, "the tracker is shutting down"))
    }

    /// Receives the error that ends the tracker, for `select!`.
    pub fn failed(&self) -> &Receiver<RoleError> {
        &self.0.failed
    }

    /// Waits for the shutdown or for the failure of the catalogue.
    ///
    /// # Errors
    /// The catalogue has failed.
    pub fn wait(&self, shutdown: &Shutdown) -> Result<(), RoleError> {
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => Ok(()),
            recv(self.0.failed) -> failure => failure.map_or(Ok(()), Err),
        }
    }

    /// Triggers the shutdown and waits until every thread has ended.
    pub fn stop(&self, shutdown: &Shutdown) {
        shutdown.trigger();
        if let Some(server) = lock(&self.0.server).take() {
            server.join();
        }
        self.0.threads.join();
    }
}
