//! `seeder`: shares files with tickets, or through a tracker.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

use clap::Parser;
use shoal::cli::flags::{self, DiscoveryFlag, PublishTreeFlags, ServeFlags};
use shoal::cli::help::{FILES, LIMITS, NETWORK, TIMEOUTS};
use shoal::cli::{self, LogOptions};
use shoal::content::{FileName, PeerName, limits};
use shoal::discovery::hub::{self, Hub};
use shoal::net::{Endpoint, PortRange};
use shoal::roles::seeder::{self, ListenRule, SeederConfig, Until};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Shares files and folders: hashes them, prints the command that downloads them on other machines, and uploads their chunks to
/// other peers until Ctrl-C. With -f it registers the file with a tracker in place of that.
#[derive(Parser)]
#[command(name = "seeder", version)]
pub(crate) struct Flags {
    /// Files and folders to share with other machines: listens on all addresses, prints a ticket for each, and needs no
    /// tracker. A folder is one item with all its entries, hidden ones included. A block device is shared in place; a FIFO or - (standard input, with --as) is read to its end into a temporary
    /// file first
    #[arg(value_name = "FILE", conflicts_with = "file")]
    files: Vec<PathBuf>,
    /// File or folder to share through the tracker, and with other machines only if they can reach the tracker; devices
    /// and FIFOs as above
    #[arg(short, long, value_name = "FILE", default_value = limits::SEEDER_FILE, help_heading = FILES)]
    file: PathBuf,
    /// Name under which the file is offered [default: its own name]
    #[arg(long = "as", value_name = "NAME", help_heading = FILES)]
    offer_as: Option<FileName>,
    /// Size of a chunk: a power of two from 16KiB to 64MiB [default: file size / 4096, from 64KiB to 512KiB, larger for
    /// files above 32 GiB]
    #[arg(long, value_name = "SIZE", value_parser = flags::parse_chunk_size, help_heading = FILES)]
    chunk_size: Option<u32>,
    #[arg(short, long, visible_alias = "transfer_port", value_name = "PORT", help_heading = NETWORK,
        help = format!("{} [default: {}, or the next free port]", flags::PORTS_HELP, limits::SEEDER_PORT))]
    port: Option<PortRange>,
    #[arg(long, value_name = "NAME", value_parser = PeerName::of_peer,
        help = format!("{} [default: seeder-PORT]", flags::NAME_HELP), help_heading = NETWORK)]
    name: Option<PeerName>,
    #[arg(long, value_name = "HOST:PORT", value_parser = flags::parse_tracker,
        help = format!("{} [default: {}]", flags::TRACKER_HELP, limits::TRACKER_ADDRESS), help_heading = NETWORK)]
    tracker: Option<Endpoint>,
    #[command(flatten)]
    tree: PublishTreeFlags,
    #[command(flatten)]
    serve: ServeFlags,
    #[arg(long, value_name = "SECONDS", value_parser = flags::parse_seconds,
        help = format!("{} [default: never]", flags::TIMEOUT_HELP), help_heading = TIMEOUTS)]
    timeout: Option<Duration>,
    /// End with code 0 when this number of leechers have reported the completion of a file and no peer downloads. Each run
    /// of a leecher counts once, with any number of files
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), help_heading = LIMITS)]
    until: Option<u32>,
    /// End with code 0 after this time without a request and without a transfer, also counted from the start
    #[arg(long, value_name = "SECONDS", value_parser = flags::parse_seconds, help_heading = TIMEOUTS)]
    until_idle: Option<Duration>,
    #[command(flatten)]
    discovery: DiscoveryFlag,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    flags.serve.connect_from_listen_address();
    let log = flags.log.with_name(flags.name.as_ref());
    let gives_tickets = !flags.files.is_empty();
    let listen = match flags.serve.listen {
        Some(ip) => ListenRule::Only(ip),
        None if gives_tickets => ListenRule::All,
        None => ListenRule::WithTracker,
    };
    let suggests = !gives_tickets && flags.tracker.is_none() && !flags.discovery.no_discovery;
    let default_tracker = || (!gives_tickets).then(|| limits::TRACKER_ADDRESS.into());
    let mut config = SeederConfig {
        files: if gives_tickets { flags.files } else { vec![flags.file] },
        offer_as: flags.offer_as,
        listen,
        ports: flags.port.unwrap_or(PortRange::starting_at(limits::SEEDER_PORT, limits::SEEDER_PORTS_COUNT)),
        gives_tickets,
        tracker: flags.tracker.or_else(default_tracker),
        name: flags.name,
        advertise: flags.serve.advertise,
        tree: flags.tree.options(&log.log_file),
        chunk_size: flags.chunk_size,
        serve: flags.serve.options(),
        timeout: flags.timeout,
        is_discoverable: !flags.discovery.no_discovery,
        until: Until { complete: flags.until.map(|count| count as usize), idle: flags.until_idle },
    };
    cli::run(&log, |watch, shutdown| {
        if let Some(tracker) = &mut config.tracker {
            *tracker = hub::resolve(tracker, Hub::Tracker, config.timeout, shutdown)?;
        }
        hub::suggesting(suggests, shutdown, || seeder::run(config, &**watch, shutdown))
    })
}
