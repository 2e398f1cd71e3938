//! Serving side of a leecher: one for all files of a run. It starts with the first file.

use super::LeecherConfig;
use super::trackers::{Registrar, Registrations};
use crate::content::fmt::counted;
use crate::content::limits::{LINGER_DIVISOR, LINGER_MAX, LINGER_MIN};
use crate::content::{FileId, FileName, PeerName};
use crate::download::destination::Destination;
use crate::download::job::{Downloaded, ServingContext};
use crate::net::{Listener, Shutdown, Threads};
use crate::report::error::{Fault, RoleError};
use crate::report::events;
use crate::roles::seeder::default_name;
use crate::storage::ChunkSource;
use crate::tracker_client::presence::{Presence, PresenceConfig};
use crate::upload::offers::{Offer, Offers};
use crate::upload::server::{DiscoveredPeer, serve};
use crossbeam_channel::{Receiver, after, bounded};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Capacity of the queue of discovered peers for the download.
const QUEUE: usize = 1_024;
/// Largest number of files that are served without [`LeecherConfig::stay`]: the last ones.
const OFFERED_MAX: usize = 512;
/// Name of a leecher that does not serve.
const NAME_WITHOUT_PORT: &str = "leecher";

/// Serving side of a leecher.
pub(super) struct Serving<'a> {
    config: &'a LeecherConfig,
    threads: Threads,
    shutdown: &'a Shutdown,
    registrations: Registrations,
    name: PeerName,
    offers: Offers,
    /// The offered files, the oldest first.
    offered: VecDeque<(FileName, FileId)>,
    /// `None` without a serving side, and after its start.
    listener: Option<Listener>,
    started: Option<Started>,
}

struct Started {
    port: u16,
    discovered: Receiver<DiscoveredPeer>,
}

/// Binds the port of the serving side, if there is one. Without [`LeecherConfig::stay`] a failure is only a warning.
pub(super) fn bind(config: &LeecherConfig) -> Result<Option<Listener>, RoleError> {
    let Some(serve) = &config.serve else { return Ok(None) };
    let bind = |port| Listener::bind(SocketAddr::new(serve.listen, port));
    match serve.ports.bind_first_free(bind).map_err(RoleError::bind("--port PORT")) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if config.stay => Err(error),
        Err(error) => {
            log::warn!("{error}; downloading without serving other peers");
            Ok(None)
        }
    }
}

impl<'a> Serving<'a> {
    /// A serving side that listens with `listener`, if there is one.
    pub fn new(
        config: &'a LeecherConfig,
        listener: Option<Listener>,
        registrations: Registrations,
        threads: Threads,
        shutdown: &'a Shutdown,
    ) -> Result<Self, RoleError> {
        let name = match (&config.name, &listener) {
            (Some(name), _) => name.clone(),
            (None, Some(listener)) => default_name("leecher", listener.address().port())?,
            (None, None) => PeerName::new(NAME_WITHOUT_PORT)
                .map_err(|error| RoleError::from_error(Fault::Other, error))?,
        };
        let (offers, offered, started) = (Offers::new(), VecDeque::new(), None);
        Ok(Self { config, threads, shutdown, registrations, name, offers, offered, listener, started })
    }

    /// Name of this peer.
    pub fn name(&self) -> &PeerName {
        &self.name
    }

    /// Serves a file, if this leecher serves, and registers with the trackers at the first one.
    pub fn offer(&mut self, file: &Downloaded, source: Arc<dyn ChunkSource>) -> Result<(), RoleError> {
        if self.listener.is_none() && self.started.is_none() {
            return Ok(());
        }
        self.offers.offer(Offer { file: file.file.clone(), source });
        self.offered.push_back((file.file.name.clone(), file.file.id));
        // Each offered file is open.
        if self.offered.len() > OFFERED_MAX
            && !self.config.stay
            && let Some((name, id)) = self.offered.pop_front()
        {
            self.offers.withdraw_file(&name, id);
        }
        match (self.listener.take(), &self.config.serve) {
            (Some(listener), Some(config)) => {
                let address = listener.address();
                let (discovered, discoveries) = bounded(QUEUE);
                let (offers, threads, shutdown) =
                    (self.offers.clone(), self.threads.clone(), self.shutdown.clone());
                let discovered = Some(discovered);
                let listening =
                    serve(listener, offers.clone(), &config.serve, discovered, &threads, &shutdown)?;
                log::info!("leecher listening on {address}");
                events::listening(address);
                let presence = PresenceConfig {
                    name: self.name.clone(),
                    advertise: config.advertise,
                    widens: config.widens,
                    shared_files: None,
                };
                let presence = Presence::new(presence, listening, offers.registrations().clone());
                self.registrations.start(Registrar { presence, offers, threads, shutdown });
                self.started = Some(Started { port: address.port(), discovered: discoveries });
            }
            _ => self.registrations.nudge(),
        }
        Ok(())
    }

    /// Stops serving a file whose download has failed.
    pub fn withdraw(&self, file: &Downloaded) {
        self.offers.withdraw_file(&file.file.name, file.file.id);
        self.registrations.nudge();
    }

    /// The serving side, as far as a download uses it.
    pub fn context(&self) -> ServingContext {
        let started = self.started.as_ref();
        ServingContext {
            threads: self.threads.clone(),
            relay: started.map(|_| self.offers.relay().clone()),
            port: started.map(|started| started.port),
            site: self.config.serve.as_ref().and_then(|serve| serve.serve.site.clone()),
            discovered: started.map(|started| started.discovered.clone()),
        }
    }

    /// Serves the peers that still download from this one, for a limited time.
    pub fn linger(&self, took: Duration) {
        let load = self.offers.load();
        let longest = self.config.linger.unwrap_or((took / LINGER_DIVISOR).clamp(LINGER_MIN, LINGER_MAX));
        if self.started.is_none() || load.users() == 0 || longest.is_zero() {
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

    /// Serves the completed files until the shutdown.
    pub fn stay(&self, parts: &[Arc<Destination>]) {
        if self.started.is_none() {
            return;
        }
        self.registrations.nudge();
        log::info!("complete, serving until interrupted");
        // The downloads are reported as complete before this fsync; after it, the files survive a power failure.
        for part in parts {
            if let Err(error) = part.make_durable() {
                log::warn!("{error}");
            }
        }
        self.shutdown.wait_forever();
    }
}
