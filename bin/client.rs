//! `client`: a folder in a swarm.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, ServeFlags, TrackerFlag};
use shoal::cli::{self, LogOptions};
use shoal::content::{EntityName, limits};
use shoal::daemon::client::{self, ClientConfig};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Completes a chunk folder from others that have the missing chunks, and serves what it has.
#[derive(Parser)]
#[command(name = "client", version)]
struct Flags {
    /// The folder with the chunks and their local_chunks.txt
    #[arg(long, value_name = "PATH")]
    folder: PathBuf,
    /// The port on which other clients fetch chunks; 0 takes any free one
    #[arg(long = "transfer_port", value_name = "PORT")]
    transfer_port: u16,
    /// The name of this client, as it stands in logs.log
    #[arg(long, value_name = "NAME")]
    name: EntityName,
    /// The set that the chunks belong to
    #[arg(long, value_name = "NAME", default_value = limits::DEFAULT_SET)]
    set: EntityName,
    /// End when the folder is complete and nobody asks for its chunks
    #[arg(long)]
    exit_when_complete: bool,
    /// Give up when the tracker has not answered for so long [default: never]
    #[arg(long, value_name = "SECONDS", value_parser = flags::parse_seconds)]
    timeout: Option<Duration>,
    #[command(flatten)]
    serve: ServeFlags,
    #[command(flatten)]
    tracker: TrackerFlag,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    let config = ClientConfig {
        folder: flags.folder,
        listen: flags.serve.address(flags.transfer_port),
        name: flags.name,
        tracker: flags.tracker.tracker,
        set: flags.set,
        advertise: flags.serve.advertise,
        exit_when_complete: flags.exit_when_complete,
        serve: flags.serve.options(),
        timeout: flags.timeout,
    };
    cli::run(&flags.log, |watch, shutdown| client::run(config, watch, shutdown))
}
