//! `leecher`: gets a file from everybody who has it.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, ServeFlags, TrackerFlag, VerifyFlag};
use shoal::cli::{self, LogOptions};
use shoal::content::{EntityName, FileId, FileName, limits};
use shoal::daemon::leecher::{self, LeecherConfig, StayConfig};
use shoal::daemon::lookup::Query;
use shoal::daemon::transfer::{Advice, Order, Recheck};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Gets a file from everybody who has it, at once, and checks every byte.
#[derive(Parser)]
#[command(name = "leecher", version)]
struct Flags {
    /// The file's name [default: large_text_file.txt, unless --id is given]
    #[arg(value_name = "NAME")]
    name: Option<FileName>,
    /// The file's id, which decides when several files have the same name
    #[arg(long, value_name = "HEX")]
    id: Option<FileId>,
    /// List the files that the tracker knows, and exit
    #[arg(long, conflicts_with_all = ["name", "id", "out", "overwrite", "stay", "durable"])]
    list: bool,
    /// Where to put the file: a path, or a folder [default: its name, in this folder]
    #[arg(short, long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Replace a different file that is in the way
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    verify: VerifyFlag,
    /// Serve what is there while downloading, and go on serving when done
    #[arg(long)]
    stay: bool,
    /// With --stay: the port to serve on; 0 takes any free one
    #[arg(short, long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// With --stay: what this peer is called in the tracker's log [default: leecher-PORT]
    #[arg(long = "name", value_name = "NAME")]
    peer_name: Option<EntityName>,
    /// Wait until the finished file is on the disk, not just with the system
    #[arg(long)]
    durable: bool,
    /// Give up when the tracker has not answered, or nothing has arrived, for so long
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = flags::parse_seconds)]
    timeout: Duration,
    /// Wait so long for somebody to have the file, when nobody does at first
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = flags::parse_wait)]
    wait: Duration,
    #[command(flatten)]
    serve: ServeFlags,
    #[command(flatten)]
    tracker: TrackerFlag,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    if flags.list {
        let (tracker, timeouts) = (flags.tracker.tracker, flags.serve.timeouts.timeouts());
        return cli::run(&flags.log, |_, shutdown| cli::list::run(tracker, timeouts, shutdown));
    }
    let default = || FileName::new(limits::SEEDER_FILE).ok().filter(|_| flags.id.is_none());
    let config = LeecherConfig {
        order: Order {
            query: Query { name: flags.name.clone().or_else(default), id: flags.id },
            out: flags.out,
            overwrite: flags.overwrite,
            recheck: Recheck::new(flags.verify.verify()),
            durable: flags.durable,
            timeout: Some(flags.timeout),
            timeouts: flags.serve.timeouts.timeouts(),
            patience: flags.wait,
            advice: Advice {
                choose: "--id",
                in_the_way: "--overwrite replaces it, --out puts this one elsewhere",
            },
        },
        tracker: flags.tracker.tracker,
        stay: flags.stay.then(|| StayConfig {
            listen: flags.serve.address(flags.port),
            name: flags.peer_name,
            advertise: flags.serve.advertise,
            serve: flags.serve.options(),
        }),
    };
    cli::run(&flags.log, |watch, shutdown| {
        leecher::run(&config, &**watch, shutdown, &mut |file| {
            println!("Successfully downloaded {}", file.file.name)
        })
    })
}
