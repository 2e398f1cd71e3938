//! The tracker: the pure [`Tracker`] behind sockets.

use super::hub::{Hands, Hub, HubConfig, StartError, draw, secret};
use crate::content::limits;
use crate::net::Shutdown;
use crate::swarm::tracker::{Rules, Tracker};
use std::net::SocketAddr;

/// What a tracker is told to do.
#[derive(Debug, Clone)]
pub struct TrackerConfig {
    /// Where to listen, TCP and UDP.
    pub listen: SocketAddr,
    /// Leases and quorum.
    pub rules: Rules,
    /// Connections served at once.
    pub connections: usize,
}

/// Starts a tracker, which runs until the shutdown.
///
/// # Errors
/// When the port is taken, or the system gives no threads or randomness.
pub fn start(config: &TrackerConfig, shutdown: &Shutdown) -> Result<Hub, StartError> {
    let [a, b, c, d, e, f, g, h, ..] = secret()?;
    let seed = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let tracker = Tracker::new(config.rules, fastrand::Rng::with_seed(seed), draw);
    let hub = HubConfig { listen: config.listen, connections: config.connections, outbox: limits::OUTBOX };
    let hub = Hub::start(&hub, tracker, Hands::none(), shutdown)?;
    log::info!("tracker listening on {}, TCP and UDP", hub.address());
    Ok(hub)
}
