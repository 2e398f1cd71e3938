//! `leecher`: downloads a file from all peers that offer it.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::confirm::{self, DestinationFlags};
use shoal::cli::flags::{self, DownloadLimitFlag, ServeFlags, TrackerFlag, VerifyFlag};
use shoal::cli::help::{FILES, NETWORK, TIMEOUTS};
use shoal::cli::{self, LogOptions};
use shoal::content::{FileName, IdPrefix, PeerName, limits};
use shoal::download::job::{Advice, DownloadOrder, Recheck};
use shoal::net::{PortRange, RateLimit};
use shoal::report::next_step;
use shoal::roles::leecher::{self, LeecherConfig, ServeConfig};
use shoal::tracker_client::lookup::Query;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Help of `--linger`.
const LINGER_HELP: &str = "Serve peers that still download from this one for at most this time after the download; 0 \
    exits at once [default: a tenth of the download time, from 2 to 60]";

/// Downloads a file from all peers that offer it at the same time, and verifies every chunk.
#[derive(Parser)]
#[command(name = "leecher", version)]
struct Flags {
    /// Name of the file, or the first 8 digits of its id or more [default: large_text_file.txt, unless --id is given]
    #[arg(value_name = "NAME")]
    name: Option<FileName>,
    /// Id of the file, or at least its first 8 digits; selects one of several files with the same name
    #[arg(long, value_name = "HEX", help_heading = FILES)]
    id: Option<IdPrefix>,
    /// List the files that the tracker knows, and exit
    #[arg(long, conflicts_with_all = ["name", "id", "out", "overwrite", "stay", "durable"], help_heading = FILES)]
    list: bool,
    /// Path or folder for the downloaded file; a block device is written in place; - (standard output) or a FIFO
    /// receives the verified bytes in order, and no peer is served [default: NAME in the current folder]
    #[arg(short, long, value_name = "PATH", help_heading = FILES)]
    out: Option<PathBuf>,
    /// Replace a different file at the target path
    #[arg(long, help_heading = FILES)]
    overwrite: bool,
    /// Do not ask for a confirmation
    #[arg(long, help_heading = FILES)]
    yes: bool,
    #[command(flatten)]
    verify: VerifyFlag,
    #[arg(long, help = flags::STAY_HELP, help_heading = FILES)]
    stay: bool,
    /// fsync the file before exiting
    #[arg(long, help_heading = FILES)]
    durable: bool,
    #[arg(short, long, visible_alias = "transfer_port", value_name = "PORT", default_value_t = PortRange::ANY,
        help = flags::PORTS_HELP, help_heading = NETWORK)]
    port: PortRange,
    /// Do not serve verified chunks during the download
    #[arg(long, conflicts_with = "stay", help_heading = NETWORK)]
    no_serve: bool,
    #[arg(long = "name", value_name = "NAME", help = format!("{} [default: leecher-PORT]", flags::NAME_HELP),
        help_heading = NETWORK)]
    peer_name: Option<PeerName>,
    #[command(flatten)]
    tracker: TrackerFlag,
    #[command(flatten)]
    serve: ServeFlags,
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = flags::parse_seconds,
        help = flags::TIMEOUT_HELP, help_heading = TIMEOUTS)]
    timeout: Duration,
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = flags::parse_wait,
        help = flags::WAIT_HELP, help_heading = TIMEOUTS)]
    wait: Duration,
    #[arg(long, value_name = "SECONDS", value_parser = flags::parse_wait, conflicts_with_all = ["stay", "no_serve"],
        help = LINGER_HELP, help_heading = TIMEOUTS)]
    linger: Option<Duration>,
    #[command(flatten)]
    limit: DownloadLimitFlag,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    flags.serve.connect_from_listen_address();
    if flags.list {
        let (tracker, timeouts) = (flags.tracker.tracker, flags.serve.timeouts.timeouts());
        return cli::run(&flags.log, |_, shutdown| cli::list::run(&tracker, timeouts, shutdown));
    }
    let given = DestinationFlags {
        yes: flags.yes,
        overwrite: flags.overwrite,
        verify: flags.verify.verify().is_some(),
        stay: flags.stay,
        durable: flags.durable,
    };
    let kind = confirm::destination(flags.out.as_deref(), given);
    let is_stream = kind.as_ref().is_ok_and(|kind| kind.is_stream());
    let default = || FileName::new(limits::SEEDER_FILE).ok().filter(|_| flags.id.is_none());
    let config = LeecherConfig {
        order: DownloadOrder {
            query: Query {
                name: flags.name.clone().or_else(default),
                ..flags.id.as_ref().map(Query::of_id).unwrap_or_default()
            },
            out: flags.out,
            kind: kind.as_ref().copied().unwrap_or_default(),
            overwrite: flags.overwrite,
            recheck: Recheck::new(flags.verify.verify()),
            durable: flags.durable,
            timeout: Some(flags.timeout),
            limit: RateLimit::from_flag(flags.limit.download_limit),
            timeouts: flags.serve.timeouts.timeouts(),
            wait_timeout: flags.wait,
            is_here: false,
            advice: Advice {
                choose: "--id",
                target_exists: "--overwrite replaces it, --out puts this one elsewhere",
                list: next_step::list(&flags.tracker.tracker).into(),
            },
        },
        tracker: flags.tracker.tracker,
        stay: flags.stay,
        linger: flags.linger,
        serve: (!flags.no_serve && !is_stream).then(|| ServeConfig {
            listen: flags.serve.listen_ip(),
            widens: flags.serve.widens(),
            ports: flags.port,
            name: flags.peer_name,
            advertise: flags.serve.advertise,
            serve: flags.serve.options(),
        }),
    };
    cli::run(&flags.log, |watch, shutdown| {
        kind?;
        leecher::run(&config, &**watch, shutdown, &mut |file| {
            let result = format!("Successfully downloaded {}\n", file.file.name);
            match is_stream {
                true => watch.console().print_aside(&result),
                false => watch.console().print_answer(&result),
            }
        })
    })
}
