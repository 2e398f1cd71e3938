//! Manager role: the pure [`Manager`] state machine behind TCP and UDP sockets.

use crate::content::limits;
use crate::discovery::responder::{Discoverable, respond};
use crate::net::{InFlightBudget, Shutdown, Timeouts};
use crate::report::events;
use crate::report::next_step;
use crate::swarm::command::{Answer, Command, PeerList};
use crate::swarm::discovery::Services;
use crate::swarm::manager::Manager;
use crate::swarm::membership::Leases;
use crate::swarm::membership::{Exposure, is_public};
use crate::tracker::commands::Commands;
use crate::tracker::server::{ExecutorChannels, ServerConfig, StartError, SwarmServer, draw};
use std::net::SocketAddr;

/// Configuration of a manager.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Address for both TCP and UDP.
    pub listen: SocketAddr,
    /// Lease and heartbeat interval of peers.
    pub leases: Leases,
    /// Peers may advertise an address other than their source address.
    pub trust_advertised: bool,
    /// Answers questions of other hosts about managers in the local network, unless it listens only on loopback.
    pub is_discoverable: bool,
    /// Maximum number of connections.
    pub connections: usize,
    /// Bytes of responses that wait for their readers, over all connections.
    pub in_flight: u64,
    /// Timeouts of connections.
    pub timeouts: Timeouts,
}

/// A running manager.
pub struct RunningManager {
    server: SwarmServer,
    commands: Commands,
}

impl RunningManager {
    /// The registered peers; an empty list during the shutdown.
    pub fn peers(&self, shutdown: &Shutdown) -> PeerList {
        let answer = self.commands.send(Command::Peers);
        let answer = crossbeam_channel::select! {
            recv(answer) -> answer => answer.ok(),
            recv(shutdown.signal()) -> _ => None,
        };
        match answer {
            Some(Answer::Peers(list)) => list,
            _ => PeerList { count: 0, peers: Vec::new() },
        }
    }

    /// Triggers the shutdown and waits until every thread has ended.
    pub fn stop(self, shutdown: &Shutdown) {
        shutdown.trigger();
        self.server.join();
    }
}

/// Starts a manager, which runs until the shutdown.
///
/// # Errors
/// The address cannot be bound, no thread can be started, or no random bytes are available.
pub fn start(config: &ManagerConfig, shutdown: &Shutdown) -> Result<RunningManager, StartError> {
    let exposure =
        Exposure { public: is_public(config.listen.ip()), trust_advertised: config.trust_advertised };
    let manager = Manager::new(config.leases, exposure, draw);
    let ManagerConfig { listen, connections, timeouts, .. } = *config;
    let in_flight = InFlightBudget::new(config.in_flight);
    let outbox = limits::OUTBOX_LISTS_MAX;
    let server = ServerConfig { listen, connections, outbox, in_flight, timeouts };
    let (channels, commands) = ExecutorChannels::of_commands();
    let server = SwarmServer::start(&server, manager, channels, shutdown)?;
    if config.is_discoverable && exposure.public {
        let services = Services { manager: Some(server.address().port()), ..Services::default() };
        respond(Discoverable::without_files(services), server.threads(), shutdown);
    }
    log::info!("manager listening on {}, TCP and UDP", server.address());
    events::listening(server.address());
    log::info!("{}", next_step::share_with_manager(&server.address().into()));
    Ok(RunningManager { server, commands })
}
