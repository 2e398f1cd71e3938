//! `tracker`: answers lookups for files and peers, and replicates files at volunteers.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

use clap::{Parser, Subcommand};
use shoal::cli::flags::{
    self, BudgetFlags, ConnectionsFlag, ControlFlags, DiscoveryFlag, LeaseFlags, OwnerCommand,
    ReplicationFlags,
};
use shoal::cli::flags::{TimeoutFlags, TrackerFlag};
use shoal::cli::help::{LIMITS, NETWORK, OUTPUT};
use shoal::cli::{self, LogOptions, tracker_prompt};
use shoal::content::limits;
use shoal::roles::tracker::{self, TrackerConfig};
use shoal::swarm::membership::{Exposure, is_public};
use shoal::swarm::tracker::Rules;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

/// Keeps the list of files and of the peers that offer them, and answers lookups. With --files it also replicates the
/// files of a folder at volunteers. Runs until Ctrl-C.
#[derive(Parser)]
#[command(name = "tracker", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: Option<Query>,
    #[command(flatten)]
    replication: ReplicationFlags,
    /// Address to listen on, TCP and UDP; port 0 selects any free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = limits::TRACKER_ADDRESS, display_order = 0,
        value_parser = |text: &str| flags::parse_listen(text, limits::TRACKER_ADDRESS), help_heading = NETWORK)]
    listen: SocketAddr,
    /// Chunk folders: number of clients that must agree on the hash of a chunk before it is distributed
    #[arg(long, value_name = "N", default_value_t = limits::QUORUM_MIN as u32,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = LIMITS)]
    quorum: u32,
    /// Number of files that each peer may announce; files above it are not listed
    #[arg(long, value_name = "N", default_value_t = limits::FILES_PER_PEER_MAX as u32,
        value_parser = clap::value_parser!(u32).range(1..=1_048_576), help_heading = LIMITS)]
    files_per_peer: u32,
    #[command(flatten)]
    budgets: BudgetFlags,
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

/// Queries and commands to a running tracker.
#[derive(Subcommand)]
enum Query {
    /// Shows the peers, files and volunteers of a running tracker on this host
    Status {
        #[command(flatten)]
        tracker: TrackerFlag,
        /// Show all 64 digits of each id
        #[arg(long, help_heading = OUTPUT)]
        long: bool,
        #[command(flatten)]
        log: LogOptions,
    },
    #[command(flatten)]
    Owner(OwnerCommand),
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    match flags.command {
        Some(Query::Status { tracker, long, log }) => {
            return cli::run(&log, |_, shutdown| {
                tracker_prompt::status::run("tracker", &tracker.tracker, long, shutdown)
            });
        }
        Some(Query::Owner(owner)) => {
            let (command, ControlFlags { state, log }) = owner.command();
            return cli::run(&log, |_, shutdown| tracker_prompt::owner::run(&state, &command, shutdown));
        }
        None => {}
    }
    cli::job_control::prepare();
    let log = flags.log.clone();
    cli::run(&log, |watch, shutdown| {
        let (leases, local) = (flags.leases.leases()?, flags.listen.ip());
        let (connections, timeouts) = (flags.connections.max_connections, flags.timeouts.timeouts());
        let in_flight = flags.connections.in_flight();
        let exposure = Exposure { public: is_public(local), trust_advertised: false };
        let (quorum, files_max) = (flags.quorum as usize, flags.files_per_peer as usize);
        let rules = Rules { leases, files_max, budgets: flags.budgets.budgets(), quorum, exposure };
        let keep = flags.replication.config(&rules, &flags.connections, timeouts, &flags.log)?;
        let is_discoverable = !flags.discovery.no_discovery;
        let config = TrackerConfig {
            listen: flags.listen,
            rules,
            is_discoverable,
            connections,
            in_flight,
            timeouts,
            keep,
        };
        let tracker = tracker::start(&config, &(Arc::clone(watch) as _), shutdown)?;
        let result = tracker_prompt::run(&tracker, watch, shutdown);
        tracker.stop(shutdown);
        result
    })
}
