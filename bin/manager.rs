//! `manager`: keeps the list of active peers and sends it to all of them.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

use clap::{Parser, Subcommand};
use shoal::cli::flags::{self, ConnectionsFlag, DiscoveryFlag, LeaseFlags, TimeoutFlags};
use shoal::cli::help::NETWORK;
use shoal::cli::{self, LogOptions, manager_prompt, tracker_prompt};
use shoal::content::limits;
use shoal::net::Endpoint;
use shoal::report::RoleError;
use shoal::roles::manager::{self, ManagerConfig};
use std::net::SocketAddr;
use std::process::ExitCode;

/// Keeps the list of active peers and sends it to all of them at each change, so that clients find each other. Runs
/// until Ctrl-C.
#[derive(Parser)]
#[command(name = "manager", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: Option<Query>,
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

/// Queries to a running manager.
#[derive(Subcommand)]
enum Query {
    /// Shows the peers of a running manager on this host
    Status {
        /// Address or host name of the manager; the port is 10000 if omitted
        #[arg(long, value_name = "HOST:PORT", default_value_t = limits::MANAGER_ADDRESS.into(),
            value_parser = flags::parse_manager, help_heading = NETWORK)]
        manager: Endpoint,
        #[command(flatten)]
        log: LogOptions,
    },
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    if let Some(Query::Status { manager, log }) = flags.command {
        return cli::run(&log, |_, shutdown| {
            tracker_prompt::status::run("manager", &manager, false, shutdown)
        });
    }
    cli::job_control::prepare();
    cli::run(&flags.log, |watch, shutdown| {
        let config = ManagerConfig {
            listen: flags.listen,
            leases: flags.leases.leases()?,
            trust_advertised: flags.trust_advertised,
            is_discoverable: !flags.discovery.no_discovery,
            connections: flags.connections.max_connections,
            in_flight: flags.connections.in_flight(),
            timeouts: flags.timeouts.timeouts(),
        };
        let manager = manager::start(&config, shutdown).map_err(RoleError::from)?;
        let result = manager_prompt::run(&manager, watch.console(), shutdown);
        manager.stop(shutdown);
        result
    })
}
