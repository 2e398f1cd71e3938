//! `tracker`: knows who has what, and tells whoever asks; keeps files alive at volunteers.
#![forbid(unsafe_code)]

use clap::{Args, Parser, Subcommand};
use shoal::cli::flags::{self, LeaseFlags, TimeoutFlags, TrackerFlag};
use shoal::cli::{self, LogOptions, keeper};
use shoal::content::limits;
use shoal::daemon::peer::ServeOptions;
use shoal::daemon::tracker::{self, KeepConfig, TrackerConfig};
use shoal::daemon::{DaemonError, Fault};
use shoal::net::Timeouts;
use shoal::swarm::placement::Settings;
use shoal::swarm::tracker::Rules;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Knows who has what, and tells whoever asks. With --state it keeps the files of a folder alive at volunteers. Runs
/// until Ctrl-C.
#[derive(Parser)]
#[command(name = "tracker", version, args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    question: Option<Question>,
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
    timeouts: TimeoutFlags,
    #[command(flatten)]
    keep: KeepFlags,
    #[command(flatten)]
    log: LogOptions,
}

/// Questions to a tracker that runs on this machine.
#[derive(Subcommand)]
enum Question {
    /// How its volunteers and files are
    Status {
        #[command(flatten)]
        tracker: TrackerFlag,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        log: LogOptions,
    },
}

/// Keeping files.
#[derive(Args, Clone)]
#[command(next_help_heading = "Keeping files at volunteers")]
struct KeepFlags {
    /// Offer the files of this folder, and have volunteers keep copies of their chunks
    #[arg(long, value_name = "DIR", requires = "state")]
    files: Option<PathBuf>,
    /// Where the tracker remembers which files there are and who has them
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The port on which files are served; 0 takes any free one
    #[arg(long = "transfer_port", value_name = "PORT", default_value_t = 0, requires = "state")]
    transfer_port: u16,
    /// Where others reach that port, when it is not the address by which they know the tracker
    #[arg(long, value_name = "ADDR", requires = "state")]
    advertise: Option<SocketAddr>,
    /// Copies of each chunk
    #[arg(long, value_name = "N", default_value_t = limits::REPLICAS as u32, requires = "state",
        value_parser = clap::value_parser!(u32).range(1..=16))]
    replicas: u32,
    /// Volunteers that must be there before anything is distributed
    #[arg(long, value_name = "N", default_value_t = limits::VOLUNTEERS_MIN as u32, requires = "state",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    min_volunteers: u32,
    /// Delete files from the folder once volunteers have every copy, to save space; they are still kept and offered
    #[arg(long, requires = "files")]
    offload: bool,
    /// Copy at most so much a second to repair, for example 50MB; 0 for as fast as it goes
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = flags::parse_rate, requires = "state")]
    repair_limit: u64,
    /// How often a random chunk's holders have to prove that they have it
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = flags::parse_seconds,
        requires = "state")]
    challenge: Duration,
    /// Upload at most so much a second, for example 5MB; 0 for as fast as it goes
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = flags::parse_rate, requires = "state")]
    upload_limit: u64,
    /// Forget what is remembered (a copy is put aside) and learn it again from what volunteers report
    #[arg(long, requires = "state")]
    rebuild: bool,
}

impl KeepFlags {
    fn config(
        self,
        leases: &Rules,
        (connections, timeouts): (usize, Timeouts),
        log: &LogOptions,
    ) -> Option<KeepConfig> {
        let settings = Settings {
            replicas: self.replicas as usize,
            volunteers_min: self.min_volunteers as usize,
            lease: leases.leases.lease,
            offload: self.offload,
            repair_limit: self.repair_limit,
            challenge_every: Some(self.challenge),
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
    if let Some(Question::Status { tracker, json, log }) = flags.question {
        return cli::run(&log, |_, shutdown| keeper::status::run(tracker.tracker, json, shutdown));
    }
    let log = flags.log.clone();
    cli::run(&log, |watch, shutdown| {
        let (leases, local) = (flags.leases.leases()?, flags.listen.ip());
        let (connections, timeouts) = (flags.max_connections, flags.timeouts.timeouts());
        let rules = Rules { leases, quorum: flags.quorum as usize, local };
        if let Some(folder) = flags.keep.files.as_ref().filter(|folder| !folder.is_dir()) {
            let text = format!("{} is not a folder whose files could be offered", folder.display());
            return Err(DaemonError::new(Fault::FileAccess, text));
        }
        let keep = flags.keep.config(&rules, (connections, timeouts), &flags.log);
        let keeps = keep.is_some();
        let config = TrackerConfig { listen: flags.listen, rules, connections, timeouts, keep };
        let tracker = tracker::start(&config, &(Arc::clone(watch) as _), shutdown)?;
        let result = match keeps {
            true => keeper::run(&tracker, watch, shutdown),
            false => tracker.wait(shutdown),
        };
        tracker.stop(shutdown);
        result
    })
}
