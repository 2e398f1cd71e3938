//! A leecher: finds the holders of a file, fetches it from all of them at once, and puts it in place.
//!
//! The state thread is the caller's own; what it does is in [`transfer`]. With
//! [`LeecherConfig::stay`] it serves each chunk as soon as it is verified.

use crate::content::PeerName;
use crate::download::finder::TrackerFinder;
use crate::download::job::{self, ServingContext, Downloaded, Located, Order, Start};
use crate::net::{Listener, Shutdown, Threads, UdpClient};
use crate::protocol::tracker::Registration;
use crate::report::error::DaemonError;
use crate::report::watch::Watch;
use crate::roles::seeder::default_name;
use crate::storage::{ChunkSource, CompleteFile, PartFile, Verify};
use crate::tracker_client::announcer::{Announcer, Outage};
use crate::upload::offers::{Offer, Offers};
use crate::upload::relay::Relay;
use crate::upload::server::{DiscoveredPeer, ServeOptions, serve};
use crossbeam_channel::{Receiver, bounded};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

/// Peers met that may wait for the state thread.
const QUEUE: usize = 1_024;

/// What a leecher is told to do.
#[derive(Debug, Clone)]
pub struct LeecherConfig {
    /// What is wanted.
    pub order: Order,
    /// The tracker.
    pub tracker: SocketAddr,
    /// Serves what is there while downloading, and goes on when done.
    pub stay: Option<StayConfig>,
}

/// How a leecher serves.
#[derive(Debug, Clone)]
pub struct StayConfig {
    /// Where.
    pub listen: SocketAddr,
    /// What people call this peer; by default after its port.
    pub name: Option<PeerName>,
    /// Its address, when that is not what the tracker sees.
    pub advertise: Option<SocketAddr>,
    /// How.
    pub serve: ServeOptions,
}

/// Downloads, calls `done` when the file is in place, and with [`LeecherConfig::stay`] serves it until the
/// shutdown.
///
/// # Errors
/// Not found, ambiguous, not to be had, no room, interrupted: [`Fault`](crate::report::Fault) tells which.
pub fn run(
    config: &LeecherConfig,
    watch: &dyn Watch,
    shutdown: &Shutdown,
    done: &mut dyn FnMut(&Downloaded),
) -> Result<(), DaemonError> {
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

/// The serving side, once it has begun.
struct Serving {
    relay: Relay,
    port: u16,
    discovered: Receiver<DiscoveredPeer>,
    announcer: Announcer,
}

impl Leecher<'_> {
    fn run(&self, done: &mut dyn FnMut(&Downloaded)) -> Result<(), DaemonError> {
        let LeecherConfig { order, tracker, stay } = self.config;
        // First the port: it is known at once whether it is free.
        let listener = stay.as_ref().map(|stay| Listener::bind(stay.listen)).transpose();
        let listener = listener.map_err(DaemonError::bind("--port PORT"))?;
        // Known once the serving side has registered.
        let announcer: Arc<OnceLock<Announcer>> = Arc::default();
        let own = announcer.clone();
        let token = move || own.get().and_then(Announcer::token);
        let asker = UdpClient::new(*tracker, self.shutdown)?.with_timeout(order.timeout);
        let mut finder = TrackerFinder::new(asker, order.timeouts, token);
        let outage = Outage::new("tracker", *tracker, order.timeout);
        let located = job::locate(order, &mut finder, outage, self.shutdown)?;
        let mut order = order.clone();
        if stay.is_some() && order.recheck.in_place != Verify::Full {
            log::debug!("what is served must have been read: a file in place is checked in full");
            order.recheck.in_place = Verify::Full;
        }
        let order = &order;
        let part = match job::start(order, &located.file, self.watch, self.shutdown)? {
            Start::Whole(whole) => {
                let serving = self.serve(listener, &located, Arc::<CompleteFile>::from(whole))?;
                done(&located.file);
                if serving.is_some() {
                    self.shutdown.wait_forever();
                }
                return Ok(());
            }
            Start::Part(part) => part,
        };
        let threads = self.threads.clone();
        let mut beside = ServingContext { threads, relay: None, port: None, discovered: None };
        if let Some(serving) = self.serve(listener, &located, part.clone())? {
            let Serving { relay, port, discovered, announcer: own } = serving;
            beside = ServingContext {
                relay: Some(relay),
                port: Some(port),
                discovered: Some(discovered),
                ..beside
            };
            let _ = announcer.set(own);
        }
        let (watch, shutdown) = (self.watch, self.shutdown);
        let finder = Box::new(finder);
        let downloaded = job::complete(order, located, &part, finder, beside, watch, shutdown)?;
        done(&downloaded);
        if let Some(announcer) = announcer.get() {
            self.stay(announcer, &part);
        }
        Ok(())
    }

    /// Serves a file, and announces it.
    fn serve(
        &self,
        listener: Option<Listener>,
        located: &Located,
        source: Arc<dyn ChunkSource>,
    ) -> Result<Option<Serving>, DaemonError> {
        let (Some(listener), Some(config)) = (listener, &self.config.stay) else { return Ok(None) };
        let (address, shelf) = (listener.address(), Offers::new());
        let relay = shelf.relay().clone();
        shelf.offer(Offer { file: located.file.file.clone(), source });
        let (discovered, discoveries) = bounded(QUEUE);
        serve(listener, shelf.clone(), &config.serve, Some(discovered), &self.threads, self.shutdown)?;
        log::info!("leecher listening on {address}");
        let port = address.port();
        let name = config.name.clone().map_or_else(|| default_name("leecher", port), Ok)?;
        let registration = Registration { name, port, advertise: config.advertise };
        // A download in progress does not end because the tracker is away: no time-out, so nothing fails.
        let (failures, _) = bounded(1);
        let (tracker, threads) = (self.config.tracker, &self.threads);
        let announcer =
            Announcer::start(tracker, registration, shelf, None, failures, threads, self.shutdown)?;
        Ok(Some(Serving { relay, port, discovered: discoveries, announcer }))
    }

    /// Goes on serving a file that has just been completed.
    fn stay(&self, announcer: &Announcer, part: &PartFile) {
        announcer.nudge();
        log::info!("complete, serving until interrupted");
        // Nobody waits for the disk, but once it is done nothing can take the file away.
        if let Err(error) = part.make_durable() {
            log::warn!("{error}");
        }
        self.shutdown.wait_forever();
    }
}
