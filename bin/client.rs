//! `client`: completes a chunk folder, or shares a plain folder.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, DiscoveryFlag, DownloadLimitFlag, ServeFlags};
use shoal::cli::folder::{self, FolderKind};
use shoal::cli::help::{FILES, NETWORK, TIMEOUTS, VOLUNTEERS};
use shoal::cli::{self, BarWatch, LogOptions, member, state_folder};
use shoal::content::{PeerName, SetName, limits};
use shoal::discovery::hub::{self, Hub};
use shoal::net::Endpoint;
use shoal::net::Shutdown;
use shoal::report::RoleError;
use shoal::roles::chunk_client::{self, ClientConfig};
use shoal::roles::folder_client::MemberConfig;
use shoal::storage::StoreMemory;
use shoal::tracker_client::selection::Item;
use shoal::volunteer::VolunteerConfig;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Exchanges files with other peers. In a chunk folder (with a local_chunks.txt) it downloads the missing chunks. It
/// shares every file of a plain folder, and downloads files of other peers into it.
#[derive(Parser)]
#[command(name = "client", version)]
struct Flags {
    /// Chunk folder or plain folder
    #[arg(long, value_name = "PATH", help_heading = FILES)]
    folder: PathBuf,
    /// Chunk folder: name of the chunk set
    #[arg(long, value_name = "NAME", default_value = limits::DEFAULT_SET, help_heading = FILES)]
    set: SetName,
    /// Chunk folder: exit when this folder and those of all other peers are complete, or after 10 s without a request
    #[arg(long, help_heading = FILES)]
    exit_when_complete: bool,
    /// Plain folder: download files and exit, each by its ticket, name, id, 8 digits of its id or more, or a pattern such as
    /// '*.iso'; may be repeated
    #[arg(long, value_name = "ITEM", num_args = 1.., group = "downloads", help_heading = FILES)]
    get: Vec<Item>,
    #[arg(long, group = "downloads", help = flags::ALL_HELP, help_heading = FILES)]
    all: bool,
    #[arg(long, requires = "downloads", help = flags::STAY_HELP, help_heading = FILES)]
    stay: bool,
    #[arg(long, value_name = "CMD", help = flags::ON_COMPLETE_HELP, help_heading = FILES)]
    on_complete: Option<String>,
    /// Plain folder: offer this amount of storage to the tracker for replicas of its chunks, for example 2GiB
    #[arg(long, value_name = "SIZE", value_parser = flags::parse_storage, help_heading = VOLUNTEERS)]
    volunteer: Option<u64>,
    /// Folder for the replicas [default: .volunteer in the folder]
    #[arg(long, value_name = "PATH", requires = "volunteer", help_heading = VOLUNTEERS)]
    volunteer_dir: Option<PathBuf>,
    /// At the first Ctrl-C wait until the replicas have been copied to other volunteers; exit at the second
    #[arg(long, requires = "volunteer", help_heading = VOLUNTEERS)]
    drain_on_exit: bool,
    /// Announce that this volunteer returns within this time after each orderly exit, for example 14h: until then its
    /// replicas are not replaced
    #[arg(long, value_name = "TIME", value_parser = flags::parse_away, requires = "volunteer",
        help_heading = VOLUNTEERS)]
    away: Option<Duration>,
    /// Lend the folder for the replicas also if another store was last used at its path, for example if the disk of that
    /// store is gone
    #[arg(long, requires = "volunteer", help_heading = VOLUNTEERS)]
    new_store: bool,
    #[arg(short = 'p', long = "transfer_port", visible_alias = "port", value_name = "PORT", help = flags::PORT_HELP,
        help_heading = NETWORK)]
    transfer_port: u16,
    #[arg(long, value_name = "NAME", help = flags::NAME_HELP, help_heading = NETWORK)]
    name: PeerName,
    #[arg(long, value_name = "HOST:PORT", value_parser = flags::parse_tracker, help_heading = NETWORK,
        help = format!("{} [default: 127.0.0.1:5100; none with --manager or with tickets only]", flags::TRACKER_HELP))]
    tracker: Option<Endpoint>,
    /// Plain folder: address or host name of the manager; the port is 10000 if omitted
    #[arg(long, value_name = "HOST:PORT", value_parser = flags::parse_manager, help_heading = NETWORK)]
    manager: Option<Endpoint>,
    /// Plain folder: share it through the tracker, without a manager
    #[arg(long, help_heading = NETWORK)]
    plain: bool,
    #[arg(long, requires = "downloads", conflicts_with_all = ["stay", "volunteer"], help = flags::NO_SERVE_HELP,
        help_heading = NETWORK)]
    no_serve: bool,
    #[command(flatten)]
    serve: ServeFlags,
    #[arg(long, value_name = "SECONDS", value_parser = flags::parse_seconds, help_heading = TIMEOUTS,
        help = format!("{} [default: never; 90 for a download]", flags::TIMEOUT_HELP))]
    timeout: Option<Duration>,
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = flags::parse_wait,
        help = flags::WAIT_HELP, help_heading = TIMEOUTS)]
    wait: Duration,
    #[command(flatten)]
    discovery: DiscoveryFlag,
    #[command(flatten)]
    limit: DownloadLimitFlag,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    flags.serve.connect_from_listen_address();
    let log = flags.log.clone();
    cli::run(&log, |watch, shutdown| {
        let mut flags = flags;
        for (address, hub) in [(&mut flags.tracker, Hub::Tracker), (&mut flags.manager, Hub::Manager)] {
            if let Some(given) = address {
                *given = hub::resolve(given, hub, flags.timeout, shutdown)?;
            }
        }
        run(flags, watch, shutdown)
    })
}

fn run(flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    let downloads = flags.all || !flags.get.is_empty();
    let shares_plain_folder =
        flags.manager.is_some() || flags.plain || flags.volunteer.is_some() || downloads;
    match (folder::kind(&flags.folder)?, shares_plain_folder) {
        (FolderKind::Chunks, false) if flags.on_complete.is_some() => {
            Err(folder::plain_flags_refused(&flags.folder))
        }
        (FolderKind::Chunks, false) => complete(flags, watch, shutdown),
        (FolderKind::Plain, true) => share(flags, watch, shutdown),
        (FolderKind::Chunks, true) => Err(folder::plain_flags_refused(&flags.folder)),
        (FolderKind::Plain, false) => {
            Err(folder::sharing_mode_missing(&flags.folder, flags.transfer_port, flags.name.as_str()))
        }
    }
}

/// Completes a chunk folder.
fn complete(flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    let config = ClientConfig {
        folder: flags.folder,
        listen: flags.serve.address(flags.transfer_port),
        widens: flags.serve.widens(),
        name: flags.name,
        tracker: flags.tracker.unwrap_or_else(|| limits::TRACKER_ADDRESS.into()),
        set: flags.set,
        advertise: flags.serve.advertise,
        exit_when_complete: flags.exit_when_complete,
        download_limit: flags.limit.download_limit,
        serve: flags.serve.options(),
        timeout: flags.timeout,
    };
    chunk_client::run(config, &**watch, shutdown)
}

/// Shares a plain folder.
fn share(flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    let has_tickets_only = !flags.all
        && !flags.get.is_empty()
        && !flags.plain
        && flags.get.iter().all(|item| matches!(item, Item::Ticket(_)));
    let without_tracker = (flags.manager.is_some() || has_tickets_only) && flags.volunteer.is_none();
    let default = if without_tracker { None } else { Some(limits::TRACKER_ADDRESS.into()) };
    let replicas = flags.volunteer_dir.unwrap_or_else(|| flags.folder.join(limits::VOLUNTEER_FOLDER));
    let config = MemberConfig {
        folder: flags.folder,
        listen: flags.serve.address(flags.transfer_port),
        widens: flags.serve.widens(),
        name: flags.name,
        manager: flags.manager,
        tracker: flags.tracker.or(default),
        advertise: flags.serve.advertise,
        download_limit: flags.limit.download_limit,
        serve: flags.serve.options(),
        shares: !flags.no_serve,
        is_discoverable: !flags.discovery.no_discovery && !flags.no_serve,
        log_file: flags.log.log_file,
        timeout: flags.timeout,
        on_complete: flags.on_complete,
        volunteer: flags.volunteer.map(|offered| VolunteerConfig {
            offered,
            folder: replicas,
            away: flags.away,
            memory: StoreMemory { records: state_folder::store_records(), new_store: flags.new_store },
        }),
    };
    let task = member::Task {
        get: if flags.all { vec![Item::All] } else { flags.get },
        stay: flags.stay,
        wait: flags.wait,
        drain_on_exit: flags.drain_on_exit,
    };
    member::run(config, &task, watch, shutdown)
}
