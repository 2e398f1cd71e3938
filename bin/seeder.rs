//! `seeder`: shares one file through a tracker.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, ServeFlags, TrackerFlag};
use shoal::cli::help::{FILES, NETWORK, TIMEOUTS};
use shoal::cli::{self, LogOptions};
use shoal::content::{FileName, PeerName, limits};
use shoal::net::PortRange;
use shoal::roles::seeder::{self, SeederConfig};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Shares one file: hashes it, registers it with a tracker, and uploads its chunks to other peers until Ctrl-C.
#[derive(Parser)]
#[command(name = "seeder", version)]
struct Flags {
    /// File to share; a block device is shared in place, a FIFO or - (standard input, with --as) is read to its end
    /// into a temporary file first
    #[arg(short, long, value_name = "FILE", default_value = limits::SEEDER_FILE, help_heading = FILES)]
    file: PathBuf,
    /// Name under which the file is offered [default: its own name]
    #[arg(long = "as", value_name = "NAME", help_heading = FILES)]
    offer_as: Option<FileName>,
    /// Size of a chunk: a power of two from 16KiB to 64MiB [default: 512KiB, larger for
    /// files above 32 GiB]
    #[arg(long, value_name = "SIZE", value_parser = flags::parse_chunk_size, help_heading = FILES)]
    chunk_size: Option<u32>,
    #[arg(short, long, visible_alias = "transfer_port", value_name = "PORT", help_heading = NETWORK,
        help = format!("{} [default: {}, or the next free port]", flags::PORTS_HELP, limits::SEEDER_PORT))]
    port: Option<PortRange>,
    #[arg(long, value_name = "NAME", help = format!("{} [default: seeder-PORT]", flags::NAME_HELP),
        help_heading = NETWORK)]
    name: Option<PeerName>,
    #[command(flatten)]
    tracker: TrackerFlag,
    #[command(flatten)]
    serve: ServeFlags,
    #[arg(long, value_name = "SECONDS", value_parser = flags::parse_seconds,
        help = format!("{} [default: never]", flags::TIMEOUT_HELP), help_heading = TIMEOUTS)]
    timeout: Option<Duration>,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    flags.serve.connect_from_listen_address();
    let config = SeederConfig {
        file: flags.file,
        offer_as: flags.offer_as,
        listen: flags.serve.listen_ip(),
        widens: flags.serve.widens(),
        ports: flags.port.unwrap_or(PortRange::starting_at(limits::SEEDER_PORT, limits::SEEDER_PORTS_COUNT)),
        tracker: flags.tracker.tracker,
        name: flags.name,
        advertise: flags.serve.advertise,
        chunk_size: flags.chunk_size,
        serve: flags.serve.options(),
        timeout: flags.timeout,
    };
    cli::run(&flags.log, |watch, shutdown| seeder::run(config, &**watch, shutdown))
}
