//! Leecher role: finds the holders of a file and downloads it from all of them at the same time.
//!
//! Runs on the caller's thread; [`job`] has the steps of the download. The leecher serves each chunk as soon as it is
//! verified. After the download it serves the peers that still download from it, for a limited time, or with
//! [`LeecherConfig::stay`] all peers until the shutdown.

use crate::content::PeerName;
use crate::content::fmt::counted;
use crate::content::limits::{LINGER_DIVISOR, LINGER_MAX, LINGER_MIN};
use crate::download::finder::TrackerFinder;
use crate::download::job::{self, DownloadOrder, Downloaded, ExistingData, Located, ServingContext};
use crate::download::locate::locate;
use crate::net::{Endpoint, Listener, PortRange, Shutdown, Threads, UdpClient};
use crate::report::error::RoleError;
use crate::report::watch::Watch;
use crate::roles::seeder::default_name;
use crate::storage::{ChunkSource, CompleteFile, PartFile, Verify};
use crate::tracker_client::announcer::{Announcer, Outage};
use crate::tracker_client::presence::{Presence, PresenceConfig};
use crate::upload::load::UploadLoad;
use crate::upload::offers::{Offer, Offers};
use crate::upload::relay::Relay;
use crate::upload::server::{DiscoveredPeer, ServeOptions, serve};
use crossbeam_channel::{Receiver, after, bounded};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Capacity of the queue of discovered peers for the download.
const QUEUE: usize = 1_024;

/// Configuration of a leecher.
#[derive(Debug, Clone)]
pub struct LeecherConfig {
    /// The file to download, its destination and its checks.
    pub order: DownloadOrder,
    /// Address of the tracker.
    pub tracker: Endpoint,
    /// Serves verified chunks during the download; `None` not to serve.
    pub serve: Option<ServeConfig>,
    /// Serves the complete file until the shutdown. A port that cannot be bound is an error then.
    pub stay: bool,
    /// Longest time for which peers are served that still download when this download is complete; `None` to derive it
    /// from the download time.
    pub linger: Option<Duration>,
}

/// Configuration of a leecher's serving side.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// IP address on which the leecher serves.
    pub listen: IpAddr,
    /// The listening address is a default and may be widened, see [`Presence`].
    pub widens: bool,
    /// Ports to serve on; the first free one is used.
    pub ports: PortRange,
    /// Name of this peer; `None` for `leecher-PORT`.
    pub name: Option<PeerName>,
    /// Address of this peer for other peers, if it differs from the source address that the tracker
    /// sees.
    pub advertise: Option<SocketAddr>,
    /// Limits and timeouts of the serving side.
    pub serve: ServeOptions,
}

/// Downloads a file and calls `done` when it is complete and renamed.
///
/// Then it serves peers that still download from this one, with [`LeecherConfig::stay`] until the shutdown.
///
/// # Errors
/// The file is not found or ambiguous, chunks are missing, the disk is full, the user interrupted, and others: see
/// [`Fault`](crate::report::Fault).
pub fn run(
    config: &LeecherConfig,
    watch: &dyn Watch,
    shutdown: &Shutdown,
    done: &mut dyn FnMut(&Downloaded),
) -> Result<(), RoleError> {
    let threads = Threads::new();
    let result = Leecher { config, watch, shutdown, threads: threads.clone() }.run(done);
    shutdown.trigger();
    threads.join();
    result
}

struct Leecher<'a> {
    config: &'a LeecherConfig,
    watch: &'a dyn Watch,
    shutdown: &'a Shutdown,
    threads: Threads,
}

/// The running serving side of a leecher.
struct Serving {
    relay: Relay,
    port: u16,
    discovered: Receiver<DiscoveredPeer>,
    announcer: Announcer,
    load: UploadLoad,
}

impl Leecher<'_> {
    fn run(&self, done: &mut dyn FnMut(&Downloaded)) -> Result<(), RoleError> {
        let LeecherConfig { order, tracker, stay, .. } = self.config;
        // Binds before the download, so that a port in use is reported at once.
        let listener = self.bind()?;
        // Set when the serving side has started: the tracker then excludes this peer from its responses.
        let announcer: Arc<OnceLock<Announcer>> = Arc::default();
        let token_source = announcer.clone();
        let token = move || token_source.get().and_then(Announcer::token);
        // Without a wait, one request with all of its attempts.
        let request_timeout = Some(order.wait_timeout).filter(|wait| !wait.is_zero());
        let client = UdpClient::new(tracker.clone(), self.shutdown).with_timeout(request_timeout);
        let mut finder = TrackerFinder::new(client, order.timeouts, token);
        let outage = Outage::new("tracker", tracker.clone(), None);
        let located = locate(order, &mut finder, outage, self.shutdown)?;
        let mut order = order.clone();
        if *stay && order.recheck.in_place != Verify::Full {
            log::debug!("an existing file is verified completely, because it will be served");
            order.recheck.in_place = Verify::Full;
        }
        let order = &order;
        let part = match job::check_existing(order, &located.file, self.watch, self.shutdown)? {
            ExistingData::Complete(whole) => {
                let listener = listener.filter(|_| *stay);
                let serving = self.serve(listener, &located, Arc::<CompleteFile>::from(whole))?;
                done(&located.file);
                if serving.is_some() {
                    self.shutdown.wait_forever();
                }
                return Ok(());
            }
            ExistingData::Part(part) => part,
        };
        let threads = self.threads.clone();
        let mut serving_context = ServingContext { threads, relay: None, port: None, discovered: None };
        let mut load = None;
        if let Some(serving) = self.serve(listener, &located, part.clone())? {
            let Serving { relay, port, discovered, announcer: started, load: served } = serving;
            load = Some(served);
            serving_context = ServingContext {
                relay: Some(relay),
                port: Some(port),
                discovered: Some(discovered),
                ..serving_context
            };
            let _ = announcer.set(started);
        }
        let (watch, shutdown) = (self.watch, self.shutdown);
        let finder = Box::new(finder);
        let started = Instant::now();
        let downloaded = job::complete(order, located, &part, finder, serving_context, watch, shutdown)?;
        done(&downloaded);
        match (announcer.get(), load) {
            (Some(announcer), _) if *stay => self.stay(announcer, &part),
            (_, Some(load)) => self.linger(&load, started.elapsed()),
            _ => {}
        }
        Ok(())
    }

    /// Listens for other peers. Without [`LeecherConfig::stay`] a failure is only a warning.
    fn bind(&self) -> Result<Option<Listener>, RoleError> {
        let LeecherConfig { serve: Some(serve), stay, .. } = self.config else { return Ok(None) };
        let bind = |port| Listener::bind(SocketAddr::new(serve.listen, port));
        match serve.ports.bind_first_free(bind).map_err(RoleError::bind("--port PORT")) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) if *stay => Err(error),
            Err(error) => {
                log::warn!("{error}; downloading without serving other peers");
                Ok(None)
            }
        }
    }

    /// Serves the peers that still download from this one, for a limited time.
    fn linger(&self, load: &UploadLoad, took: Duration) {
        let longest = self.config.linger.unwrap_or((took / LINGER_DIVISOR).clamp(LINGER_MIN, LINGER_MAX));
        if load.users() == 0 || longest.is_zero() {
            return;
        }
        log::info!(
            "complete; serving {} for at most {:.0} s (Ctrl-C exits now)",
            counted(load.users() as u64, "peer"),
            longest.as_secs_f64()
        );
        let deadline = after(longest);
        while load.users() > 0 {
            crossbeam_channel::select! {
                recv(self.shutdown.signal()) -> _ => return,
                recv(deadline) -> _ => return,
                recv(load.became_idle()) -> _ => {}
            }
        }
    }

    /// Starts the serving side and registers it. Returns `None` if the leecher does not serve.
    fn serve(
        &self,
        listener: Option<Listener>,
        located: &Located,
        source: Arc<dyn ChunkSource>,
    ) -> Result<Option<Serving>, RoleError> {
        let (Some(listener), Some(config)) = (listener, &self.config.serve) else { return Ok(None) };
        let (address, offers) = (listener.address(), Offers::new());
        let (relay, load) = (offers.relay().clone(), offers.load().clone());
        offers.offer(Offer { file: located.file.file.clone(), source });
        let (discovered, discoveries) = bounded(QUEUE);
        let listening =
            serve(listener, offers.clone(), &config.serve, Some(discovered), &self.threads, self.shutdown)?;
        log::info!("leecher listening on {address}");
        let port = address.port();
        let name = config.name.clone().map_or_else(|| default_name("leecher", port), Ok)?;
        let presence =
            PresenceConfig { name, advertise: config.advertise, widens: config.widens, shared_files: None };
        let presence = Presence::new(presence, listening, offers.registrations().clone());
        // No timeout: an unreachable tracker does not end a download in progress.
        let (failures, _) = bounded(1);
        let (tracker, threads) = (self.config.tracker.clone(), &self.threads);
        let announcer = Announcer::start(tracker, presence, offers, None, failures, threads, self.shutdown)?;
        Ok(Some(Serving { relay, port, discovered: discoveries, announcer, load }))
    }

    /// Serves a completed file until the shutdown.
    fn stay(&self, announcer: &Announcer, part: &PartFile) {
        announcer.nudge();
        log::info!("complete, serving until interrupted");
        // The download is reported as complete before this fsync; after it, the file survives a power failure.
        if let Err(error) = part.make_durable() {
            log::warn!("{error}");
        }
        self.shutdown.wait_forever();
    }
}
