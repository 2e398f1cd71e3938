//! `seeder`: offers one file to whoever asks.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, ServeFlags, TrackerFlag};
use shoal::cli::{self, LogOptions};
use shoal::content::{EntityName, FileName, limits};
use shoal::daemon::seeder::{self, SeederConfig};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Offers one file: hashes it, registers with a tracker, serves it until Ctrl-C.
#[derive(Parser)]
#[command(name = "seeder", version)]
struct Flags {
    /// The file to offer
    #[arg(short, long, value_name = "FILE", default_value = limits::SEEDER_FILE)]
    file: PathBuf,
    /// The port to serve on; 0 takes any free one
    #[arg(short, long, value_name = "PORT", default_value_t = limits::SEEDER_PORT)]
    port: u16,
    /// The name to offer the file under, instead of its own
    #[arg(long = "as", value_name = "NAME")]
    offer_as: Option<FileName>,
    /// Bytes in a chunk, a power of two from 16KiB to 64MiB [default: 512KiB, more for files over 32 GiB]
    #[arg(long, value_name = "SIZE", value_parser = flags::parse_chunk_size)]
    chunk_size: Option<u32>,
    /// What this peer is called in the tracker's log [default: seeder-PORT]
    #[arg(long, value_name = "NAME")]
    name: Option<EntityName>,
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
    let config = SeederConfig {
        file: flags.file,
        offer_as: flags.offer_as,
        listen: flags.serve.address(flags.port),
        tracker: flags.tracker.tracker,
        name: flags.name,
        advertise: flags.serve.advertise,
        chunk_size: flags.chunk_size,
        serve: flags.serve.options(),
        timeout: flags.timeout,
    };
    cli::run(&flags.log, |watch, shutdown| seeder::run(config, &**watch, shutdown))
}
