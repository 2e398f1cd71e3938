//! The manager: the pure [`Manager`] behind sockets.

use crate::content::limits;
use crate::net::{Shutdown, Timeouts};
use crate::report::next_step;
use crate::swarm::manager::Manager;
use crate::swarm::membership::Leases;
use crate::tracker::server::{ExecutorChannels, Hub, HubConfig, StartError, draw};
use std::net::SocketAddr;

/// What a manager is told to do.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Where to listen, TCP and UDP.
    pub listen: SocketAddr,
    /// When peers are alive.
    pub leases: Leases,
    /// Peers may advertise an address of another machine than they come from.
    pub trust_advertised: bool,
    /// Connections served at once.
    pub connections: usize,
    /// How long connections are waited for.
    pub timeouts: Timeouts,
}

/// Starts a manager, which runs until the shutdown.
///
/// # Errors
/// When the port is taken, or the system gives no threads or randomness.
pub fn start(config: &ManagerConfig, shutdown: &Shutdown) -> Result<Hub, StartError> {
    let manager = Manager::new(config.leases, config.trust_advertised, draw);
    let ManagerConfig { listen, connections, timeouts, .. } = *config;
    let hub = HubConfig { listen, connections, outbox: limits::OUTBOX_LISTS_MAX, timeouts };
    let hub = Hub::start(&hub, manager, ExecutorChannels::none(), shutdown)?;
    log::info!("manager listening on {}, TCP and UDP", hub.address());
    log::info!("{}", next_step::share_with_manager(hub.address()));
    Ok(hub)
}
