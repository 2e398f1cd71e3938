//! `tracker`: knows who has what, and tells whoever asks.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, LeaseFlags};
use shoal::cli::{self, LogOptions};
use shoal::content::limits;
use shoal::daemon::DaemonError;
use shoal::daemon::tracker::{self, TrackerConfig};
use shoal::swarm::tracker::Rules;
use std::net::SocketAddr;
use std::process::ExitCode;

/// Knows who has what, and tells whoever asks. Runs until Ctrl-C.
#[derive(Parser)]
#[command(name = "tracker", version)]
struct Flags {
    /// Where to listen, TCP and UDP; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value_t = limits::TRACKER_ADDRESS,
        value_parser = |text: &str| flags::parse_listen(text, limits::TRACKER_ADDRESS.port()))]
    listen: SocketAddr,
    /// How many clients must agree on a chunk's hash before it is handed out
    #[arg(long, value_name = "N", default_value_t = limits::QUORUM as u32,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    quorum: u32,
    #[command(flatten)]
    leases: LeaseFlags,
    /// Connections served at once
    #[arg(long, value_name = "N", default_value_t = limits::CONNECTIONS_MAX)]
    max_connections: usize,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    cli::run(&flags.log, |_, shutdown| {
        let rules = Rules { leases: flags.leases.leases()?, quorum: flags.quorum as usize };
        let config = TrackerConfig { listen: flags.listen, rules, connections: flags.max_connections };
        let tracker = tracker::start(&config, shutdown).map_err(DaemonError::from)?;
        shutdown.wait_forever();
        tracker.join();
        Ok(())
    })
}
