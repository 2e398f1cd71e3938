//! `manager`: keeps the list of active peers, and tells it to everybody on it.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, LeaseFlags, TimeoutFlags};
use shoal::cli::{self, LogOptions};
use shoal::content::limits;
use shoal::daemon::DaemonError;
use shoal::daemon::manager::{self, ManagerConfig};
use std::net::SocketAddr;
use std::process::ExitCode;

/// Keeps the list of active peers, and tells it to everybody on it. Runs until Ctrl-C.
#[derive(Parser)]
#[command(name = "manager", version)]
struct Flags {
    /// Where to listen, TCP and UDP; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value_t = limits::MANAGER_ADDRESS,
        value_parser = |text: &str| flags::parse_listen(text, limits::MANAGER_ADDRESS.port()))]
    listen: SocketAddr,
    #[command(flatten)]
    leases: LeaseFlags,
    /// Let peers advertise an address of another machine than they come from
    #[arg(long)]
    trust_advertised: bool,
    /// Connections served at once
    #[arg(long, value_name = "N", default_value_t = limits::CONNECTIONS_MAX)]
    max_connections: usize,
    #[command(flatten)]
    timeouts: TimeoutFlags,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    cli::run(&flags.log, |_, shutdown| {
        let config = ManagerConfig {
            listen: flags.listen,
            leases: flags.leases.leases()?,
            trust_advertised: flags.trust_advertised,
            connections: flags.max_connections,
            timeouts: flags.timeouts.timeouts(),
        };
        let manager = manager::start(&config, shutdown).map_err(DaemonError::from)?;
        shutdown.wait_forever();
        manager.join();
        Ok(())
    })
}
