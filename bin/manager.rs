//! `manager`: keeps the list of active peers and sends it to all of them.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, ConnectionsFlag, DiscoveryFlag, LeaseFlags, TimeoutFlags};
use shoal::cli::help::NETWORK;
use shoal::cli::{self, LogOptions, manager_prompt};
use shoal::content::limits;
use shoal::report::RoleError;
use shoal::roles::manager::{self, ManagerConfig};
use std::net::SocketAddr;
use std::process::ExitCode;

/// Keeps the list of active peers and sends it to all of them at each change, so that clients find each other. Runs
/// until Ctrl-C.
#[derive(Parser)]
#[command(name = "manager", version)]
struct Flags {
    /// Address to listen on, TCP and UDP; port 0 selects any free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = limits::MANAGER_ADDRESS,
        value_parser = |text: &str| flags::parse_listen(text, limits::MANAGER_ADDRESS), help_heading = NETWORK)]
    listen: SocketAddr,
    /// Believe advertised addresses at which this manager cannot reach the peer
    #[arg(long, help_heading = NETWORK)]
    trust_advertised: bool,
    #[command(flatten)]
    discovery: DiscoveryFlag,
    #[command(flatten)]
    connections: ConnectionsFlag,
    #[command(flatten)]
    leases: LeaseFlags,
    #[command(flatten)]
    timeouts: TimeoutFlags,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    cli::job_control::prepare();
    cli::run(&flags.log, |watch, shutdown| {
        let config = ManagerConfig {
            listen: flags.listen,
            leases: flags.leases.leases()?,
            trust_advertised: flags.trust_advertised,
            is_discoverable: !flags.discovery.no_discovery,
            connections: flags.connections.max_connections,
            timeouts: flags.timeouts.timeouts(),
        };
        let manager = manager::start(&config, shutdown).map_err(RoleError::from)?;
        let result = manager_prompt::run(&manager, watch.console(), shutdown);
        manager.stop(shutdown);
        result
    })
}
