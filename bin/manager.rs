//! `manager`: keeps the list of active peers, and tells it to everybody on it.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::{self, LogOptions, flags};
use shoal::content::limits;
use shoal::daemon::DaemonError;
use shoal::daemon::manager::{self, ManagerConfig};
use shoal::swarm::membership::Leases;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

/// Keeps the list of active peers, and tells it to everybody on it. Runs until Ctrl-C.
#[derive(Parser)]
#[command(name = "manager", version)]
struct Flags {
    /// Where to listen, TCP and UDP; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value_t = limits::MANAGER_ADDRESS,
        value_parser = |text: &str| flags::parse_listen(text, limits::MANAGER_ADDRESS.port()))]
    listen: SocketAddr,
    /// How often peers are to say that they are alive, seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = flags::parse_seconds)]
    heartbeat: Duration,
    /// How long a peer counts as alive after its last heartbeat, seconds
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = flags::parse_seconds)]
    lease: Duration,
    /// Let peers advertise an address of another machine than they come from
    #[arg(long)]
    trust_advertised: bool,
    /// Connections served at once
    #[arg(long, value_name = "N", default_value_t = limits::CONNECTIONS_MAX)]
    max_connections: usize,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    let config = ManagerConfig {
        listen: flags.listen,
        leases: Leases { heartbeat: flags.heartbeat, lease: flags.lease },
        trust_advertised: flags.trust_advertised,
        connections: flags.max_connections,
    };
    cli::run(&flags.log, |_, shutdown| {
        let manager = manager::start(&config, shutdown).map_err(DaemonError::from)?;
        shutdown.wait_forever();
        manager.join();
        Ok(())
    })
}
