//! `tracker`: answers lookups for files and peers, and replicates files at volunteers.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use shoal::cli::flags::{self, ConnectionsFlag, LeaseFlags, TimeoutFlags, TrackerFlag};
use shoal::cli::help::{FILES, LIMITS, NETWORK, OUTPUT, TIMEOUTS, VOLUNTEERS};
use shoal::cli::{self, LogOptions, tracker_prompt};
use shoal::content::limits;
use shoal::net::Timeouts;
use shoal::report::Fault;
use shoal::report::RoleError;
use shoal::report::next_step::quoted;
use shoal::roles::tracker::{self, KeepConfig, TrackerConfig};
use shoal::swarm::replication::Settings;
use shoal::swarm::tracker::Rules;
use shoal::upload::server::ServeOptions;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Keeps the list of files and of the peers that offer them, and answers lookups. With --files it also replicates the
/// files of a folder at volunteers. Runs until Ctrl-C.
#[derive(Parser)]
#[command(name = "tracker", version, args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    query: Option<Query>,
    #[command(flatten)]
    replication: ReplicationFlags,
    /// Address to listen on, TCP and UDP; port 0 selects any free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = limits::TRACKER_ADDRESS, display_order = 0,
        value_parser = |text: &str| flags::parse_listen(text, limits::TRACKER_ADDRESS.port()), help_heading = NETWORK)]
    listen: SocketAddr,
    /// Chunk folders: number of clients that must agree on the hash of a chunk before it is distributed
    #[arg(long, value_name = "N", default_value_t = limits::QUORUM_MIN as u32,
        value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = LIMITS)]
    quorum: u32,
    #[command(flatten)]
    connections: ConnectionsFlag,
    #[command(flatten)]
    leases: LeaseFlags,
    #[command(flatten)]
    timeouts: TimeoutFlags,
    #[command(flatten)]
    log: LogOptions,
}

/// Queries to a running tracker.
#[derive(Subcommand)]
enum Query {
    /// Shows the volunteers and files of a running tracker on this host
    Status {
        #[command(flatten)]
        tracker: TrackerFlag,
        /// Print JSON instead of tables
        #[arg(long, help_heading = OUTPUT)]
        json: bool,
        #[command(flatten)]
        log: LogOptions,
    },
}

/// Replication of files at volunteers.
#[derive(Args, Clone)]
struct ReplicationFlags {
    /// Offer the files of this folder and replicate them at volunteers
    #[arg(long, value_name = "DIR", requires = "state", help_heading = FILES)]
    files: Option<PathBuf>,
    /// Folder for the catalogue of files and replicas; it is created if it does not exist
    #[arg(long, value_name = "DIR", help_heading = FILES)]
    state: Option<PathBuf>,
    /// Delete a file from the folder after volunteers have stored all replicas; it is still offered
    #[arg(long, requires = "files", help_heading = FILES)]
    offload: bool,
    /// Move the catalogue aside and build a new one from the reports of volunteers
    #[arg(long, requires = "state", help_heading = FILES)]
    rebuild: bool,
    /// Number of replicas of each chunk, 1 to 16
    #[arg(long, value_name = "N", default_value_t = limits::REPLICA_COUNT as u32, requires = "state",
        value_parser = clap::value_parser!(u32).range(1..=16), help_heading = VOLUNTEERS)]
    replicas: u32,
    /// Number of volunteers that must be active before files are distributed
    #[arg(long, value_name = "N", default_value_t = limits::VOLUNTEERS_MIN as u32, requires = "state",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = VOLUNTEERS)]
    min_volunteers: u32,
    #[arg(long = "transfer_port", short = 'p', visible_alias = "port", value_name = "PORT", default_value_t = 0,
        requires = "state", help = flags::PORT_HELP, help_heading = NETWORK)]
    transfer_port: u16,
    #[arg(long, value_name = "IP:PORT", requires = "state", help = flags::ADVERTISE_HELP, help_heading = NETWORK)]
    advertise: Option<SocketAddr>,
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = flags::parse_rate, requires = "state",
        help = flags::UPLOAD_LIMIT_HELP, help_heading = LIMITS)]
    upload_limit: u64,
    /// Maximum rate of copies for repair in bytes per second, for example 50MB; 0 means no limit
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = flags::parse_rate, requires = "state",
        help_heading = LIMITS)]
    repair_limit: u64,
    /// Interval at which the holders of a random chunk must prove that they have it
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = flags::parse_seconds,
        requires = "state", help_heading = TIMEOUTS)]
    challenge: Duration,
}

impl ReplicationFlags {
    /// The configuration of the replication; `None` without `--state`.
    fn config(
        self,
        rules: &Rules,
        (connections, timeouts): (usize, Timeouts),
        log: &LogOptions,
    ) -> Option<KeepConfig> {
        let settings = Settings {
            replicas: self.replicas as usize,
            volunteers_min: self.min_volunteers as usize,
            lease: rules.leases.lease,
            offload: self.offload,
            repair_limit: self.repair_limit,
            challenge_every: Some(self.challenge),
            ..Settings::default()
        };
        Some(KeepConfig {
            files: self.files,
            state: self.state?,
            port: self.transfer_port,
            advertise: self.advertise,
            serve: ServeOptions { connections, upload_limit: self.upload_limit, timeouts },
            settings,
            rebuild: self.rebuild,
            log_file: log.log_file.clone(),
        })
    }
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    if let Some(Query::Status { tracker, json, log }) = flags.query {
        return cli::run(&log, |_, shutdown| tracker_prompt::status::run(tracker.tracker, json, shutdown));
    }
    let log = flags.log.clone();
    cli::run(&log, |watch, shutdown| {
        let (leases, local) = (flags.leases.leases()?, flags.listen.ip());
        let (connections, timeouts) = (flags.connections.max_connections, flags.timeouts.timeouts());
        let rules = Rules { leases, quorum: flags.quorum as usize, local };
        if let Some(folder) = flags.replication.files.as_ref().filter(|folder| !folder.is_dir()) {
            let text = format!(
                "{} is not a folder; create it with: mkdir -p {} (or choose another with --files DIR)",
                folder.display(),
                quoted(&folder.display().to_string())
            );
            return Err(RoleError::new(Fault::FileAccess, text));
        }
        let keep = flags.replication.config(&rules, (connections, timeouts), &flags.log);
        let replicates = keep.is_some();
        let config = TrackerConfig { listen: flags.listen, rules, connections, timeouts, keep };
        let tracker = tracker::start(&config, &(Arc::clone(watch) as _), shutdown)?;
        let result = match replicates {
            true => tracker_prompt::run(&tracker, watch, shutdown),
            false => tracker.wait(shutdown),
        };
        tracker.stop(shutdown);
        result
    })
}
