//! `leecher`: downloads files from all peers that offer them.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

use clap::Parser;
use shoal::cli::confirm::{self, DestinationFlags};
use shoal::cli::flags::{self, DiscoveryFlag, DownloadLimitFlag, ReceiveTreeFlags, ServeFlags, VerifyFlag};
use shoal::cli::help::{FILES, NETWORK, TIMEOUTS};
use shoal::cli::{self, LogOptions};
use shoal::content::{FileName, IdPrefix, PeerName, limits};
use shoal::discovery::hub::{self, Hub};
use shoal::download::job::{Advice, DownloadOrder, Recheck};
use shoal::net::{Endpoint, PortRange, RateLimit};
use shoal::report::watch::Watch;
use shoal::report::{Fault, RoleError, next_step};
use shoal::roles::leecher::{self, LeecherConfig, LocalNetwork, ServeConfig};
use shoal::tracker_client::lookup::Query;
use shoal::tracker_client::selection::Item;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Help of `--linger`.
const LINGER_HELP: &str = "Serve peers that still download from this one for at most this time after the download; 0 \
    exits at once [default: a tenth of the download time, from 2 to 60]";

/// Downloads files, each from all peers that offer it at the same time, and verifies every chunk.
#[derive(Parser)]
#[command(name = "leecher", version)]
pub(crate) struct Flags {
    /// Files to download, each by its ticket, name, id, the first 8 digits of its id or more, or a pattern such as '*.iso'
    /// [default: large_text_file.txt, unless --id or --all is given]
    #[arg(value_name = "ITEM")]
    items: Vec<Item>,
    /// Id of the file, or at least its first 8 digits; selects one of several files with the same name
    #[arg(long, value_name = "HEX", help_heading = FILES)]
    id: Option<IdPrefix>,
    #[arg(long, conflicts_with_all = ["items", "id"], help = flags::ALL_HELP, help_heading = FILES)]
    all: bool,
    /// List the files that the tracker knows, or the entries of the folders that are named, and exit
    #[arg(long, conflicts_with_all = ["all", "out", "local_name", "overwrite", "stay", "durable",
        "on_complete"], help_heading = FILES)]
    list: bool,
    /// Show all 64 digits of each id
    #[arg(long, requires = "list", help_heading = FILES)]
    long: bool,
    /// List the part files that interrupted downloads left in this folder and that no program uses, and remove them after
    /// a confirmation or with --yes [default: the current folder]
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = ".", conflicts_with_all = ["items", "id",
        "all", "list", "out", "local_name", "overwrite", "stay", "durable", "on_complete"], help_heading = FILES)]
    clean: Option<PathBuf>,
    /// Path or folder for the downloaded file, a folder for several; a block device is written in place; - (standard
    /// output) or a FIFO receives the verified bytes in order, and no peer is served [default: the file's name in the
    /// current folder]
    #[arg(short, long, value_name = "PATH", help_heading = FILES)]
    out: Option<PathBuf>,
    /// Local name of the downloaded file; only for one file [default: its own name]
    #[arg(long = "as", value_name = "NAME", conflicts_with = "all", help_heading = FILES)]
    local_name: Option<FileName>,
    /// Replace a different file at the target path
    #[arg(long, help_heading = FILES)]
    overwrite: bool,
    /// Take only a file that this host offers in the local network
    #[arg(long, value_name = "HOST", conflicts_with_all = ["tracker", "no_discovery", "all", "list"],
        help_heading = NETWORK)]
    from: Option<String>,
    /// Do not ask for a confirmation
    #[arg(long, help_heading = FILES)]
    yes: bool,
    #[command(flatten)]
    tree: ReceiveTreeFlags,
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
    #[arg(long, value_name = "CMD", help = flags::ON_COMPLETE_HELP, help_heading = FILES)]
    on_complete: Option<String>,
    #[arg(long, conflicts_with = "stay", help = flags::NO_SERVE_HELP, help_heading = NETWORK)]
    no_serve: bool,
    #[arg(long = "name", value_name = "NAME", value_parser = PeerName::of_peer,
        help = format!("{} [default: leecher-PORT]", flags::NAME_HELP), help_heading = NETWORK)]
    peer_name: Option<PeerName>,
    #[arg(long, value_name = "HOST:PORT", value_parser = flags::parse_tracker, help_heading = NETWORK,
        help = format!("{} [default: 127.0.0.1:5100; none with tickets only]", flags::TRACKER_HELP))]
    tracker: Option<Endpoint>,
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
    discovery: DiscoveryFlag,
    #[command(flatten)]
    limit: DownloadLimitFlag,
    #[command(flatten)]
    log: LogOptions,
}

impl Flags {
    /// The files to download.
    ///
    /// # Errors
    /// `--id` and arguments that do not fit it.
    fn items(&self) -> Result<Vec<Item>, RoleError> {
        match (&self.id, &self.items[..]) {
            _ if self.all => Ok(vec![Item::All]),
            (None, []) => Ok(FileName::new(limits::SEEDER_FILE)
                .map(Query::of_name)
                .map(Item::File)
                .into_iter()
                .collect()),
            (None, items) => Ok(items.to_vec()),
            (Some(id), []) => Ok(vec![Item::File(Query::of_id(id))]),
            (Some(id), [Item::File(Query { name: Some(name), .. })]) => {
                Ok(vec![Item::File(Query { name: Some(name.clone()), ..Query::of_id(id) })])
            }
            (Some(_), _) => {
                Err(RoleError::new(Fault::Usage, "--id belongs to one file name: omit it, or the arguments"))
            }
        }
    }

    /// The tracker to ask; `None` if tickets name all files.
    fn tracker(&self) -> Option<Endpoint> {
        let has_tickets_only =
            !self.items.is_empty() && self.items.iter().all(|item| matches!(item, Item::Ticket(_)));
        let default = || Some(limits::TRACKER_ADDRESS.into()).filter(|_| !has_tickets_only);
        self.tracker.clone().or_else(default)
    }
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    flags.serve.connect_from_listen_address();
    let log = flags.log.clone().with_name(flags.peer_name.as_ref());
    cli::run(&log, |watch, shutdown| {
        if let Some(folder) = &flags.clean {
            return cli::clean::run(folder, flags.yes, shutdown);
        }
        let resolve = |tracker| hub::resolve(&tracker, Hub::Tracker, Some(flags.wait), shutdown);
        let tracker = flags.tracker().map(resolve).transpose()?;
        let asked = tracker.clone().unwrap_or_else(|| limits::TRACKER_ADDRESS.into());
        if flags.list && flags.items.is_empty() && flags.id.is_none() {
            return cli::list::run(&asked, flags.long, flags.serve.timeouts.timeouts(), shutdown);
        }
        let config = config(flags, tracker, &asked)?;
        let is_stream = config.order.kind.is_stream();
        let progress: Arc<dyn Watch> = watch.clone();
        leecher::run(&config, &progress, shutdown, &mut |file| {
            let result = format!("Successfully downloaded {}\n", file.file.name);
            match is_stream {
                true => watch.console().print_aside(&result),
                false => watch.console().print_answer(&result),
            }
        })
    })
}

fn config(flags: Flags, tracker: Option<Endpoint>, asked: &Endpoint) -> Result<LeecherConfig, RoleError> {
    let given = DestinationFlags {
        yes: flags.yes,
        overwrite: flags.overwrite,
        verify: flags.verify.verify().is_some(),
        stay: flags.stay,
        durable: flags.durable,
    };
    let kind = confirm::destination(flags.out.as_deref(), given)?;
    let searches = flags.tracker.is_none() && !flags.discovery.no_discovery;
    Ok(LeecherConfig {
        items: flags.items()?,
        lists_entries: flags.list,
        order: DownloadOrder {
            query: Query::default(),
            ticket: None,
            local_name: flags.local_name,
            out: flags.out,
            kind,
            overwrite: flags.overwrite,
            recheck: Recheck::new(flags.verify.verify()),
            tree: flags.tree.options(),
            durable: flags.durable,
            timeout: Some(flags.timeout),
            limit: RateLimit::from_flag(flags.limit.download_limit),
            timeouts: flags.serve.timeouts.timeouts(),
            wait_timeout: flags.wait,
            is_here: false,
            advice: Advice {
                choose: "--id",
                target_exists: "--overwrite replaces it, --out puts this one elsewhere",
                list: next_step::list(asked).into(),
            },
        },
        local_network: searches
            .then(|| LocalNetwork { from: flags.from, confirm: confirm::found_file(flags.yes) }),
        tracker,
        name: flags.peer_name,
        stay: flags.stay,
        linger: flags.linger,
        serve: (!flags.no_serve && !flags.list && !kind.is_stream()).then(|| ServeConfig {
            listen: flags.serve.listen_ip(),
            widens: flags.serve.widens(),
            ports: flags.port,
            advertise: flags.serve.advertise,
            serve: flags.serve.options(),
        }),
        on_complete: flags.on_complete,
    })
}
