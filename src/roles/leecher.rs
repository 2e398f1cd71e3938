//! Leecher role: finds the holders of a file and downloads it from all of them at the same time.
//!
//! Runs on the caller's thread; [`job`] has the steps of the download. With [`LeecherConfig::stay`] the leecher
//! serves each chunk as soon as it is verified.

use crate::content::PeerName;
use crate::download::finder::TrackerFinder;
use crate::download::job::{self, DownloadOrder, Downloaded, ExistingData, Located, ServingContext};
use crate::download::locate::locate;
use crate::net::{Endpoint, Listener, Shutdown, Threads, UdpClient};
use crate::report::error::RoleError;
use crate::report::watch::Watch;
use crate::roles::seeder::default_name;
use crate::storage::{ChunkSource, CompleteFile, PartFile, Verify};
use crate::tracker_client::announcer::{Announcer, Outage};
use crate::tracker_client::presence::{Presence, PresenceConfig};
use crate::upload::offers::{Offer, Offers};
use crate::upload::relay::Relay;
use crate::upload::server::{DiscoveredPeer, ServeOptions, serve};
use crossbeam_channel::{Receiver, bounded};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// Capacity of the queue of discovered peers for the download.
const QUEUE: usize = 1_024;

/// Configuration of a leecher.
#[derive(Debug, Clone)]
pub struct LeecherConfig {
    /// The file to download, its destination and its checks.
    pub order: DownloadOrder,
    /// Address of the tracker.
    pub tracker: Endpoint,
    /// Serves verified chunks during the download, and the complete file after it; `None` not to
    /// serve.
    pub stay: Option<StayConfig>,
}

/// Configuration of a leecher's serving side.
#[derive(Debug, Clone)]
pub struct StayConfig {
    /// Address on which the leecher serves.
    pub listen: SocketAddr,
    /// The listening address is a default and may be widened, see [`Presence`].
    pub widens: bool,
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
/// With [`LeecherConfig::stay`] it then serves the file until the shutdown.
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
}

impl Leecher<'_> {
    fn run(&self, done: &mut dyn FnMut(&Downloaded)) -> Result<(), RoleError> {
        let LeecherConfig { order, tracker, stay } = self.config;
        // Binds before the download, so that a port in use is reported at once.
        let listener = stay.as_ref().map(|stay| Listener::bind(stay.listen)).transpose();
        let listener = listener.map_err(RoleError::bind("--port PORT"))?;
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
        if stay.is_some() && order.recheck.in_place != Verify::Full {
            log::debug!("an existing file is verified completely, because it will be served");
            order.recheck.in_place = Verify::Full;
        }
        let order = &order;
        let part = match job::check_existing(order, &located.file, self.watch, self.shutdown)? {
            ExistingData::Complete(whole) => {
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
        if let Some(serving) = self.serve(listener, &located, part.clone())? {
            let Serving { relay, port, discovered, announcer: started } = serving;
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
        let downloaded = job::complete(order, located, &part, finder, serving_context, watch, shutdown)?;
        done(&downloaded);
        if let Some(announcer) = announcer.get() {
            self.stay(announcer, &part);
        }
        Ok(())
    }

    /// Starts the serving side and registers it. Returns `None` if the leecher does not serve.
    fn serve(
        &self,
        listener: Option<Listener>,
        located: &Located,
        source: Arc<dyn ChunkSource>,
    ) -> Result<Option<Serving>, RoleError> {
        let (Some(listener), Some(config)) = (listener, &self.config.stay) else { return Ok(None) };
        let (address, offers) = (listener.address(), Offers::new());
        let relay = offers.relay().clone();
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
        Ok(Some(Serving { relay, port, discovered: discoveries, announcer }))
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
