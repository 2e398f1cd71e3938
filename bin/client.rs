//! `client`: completes a chunk folder, or shares a plain folder.
#![forbid(unsafe_code)]
#![warn(clippy::print_stderr, clippy::print_stdout)]

use clap::Parser;
use shoal::cli::flags::{self, DiscoveryFlag, DownloadLimitFlag, ServeFlags};
use shoal::cli::folder::{self, FolderKind};
use shoal::cli::help::{FILES, NETWORK, TIMEOUTS, VOLUNTEERS};
use shoal::cli::{self, BarWatch, LogOptions, chunk_prompt, member, state_folder};
use shoal::content::{PeerName, SetName, limits};
use shoal::discovery::hub::{self, Hub};
use shoal::net::Endpoint;
use shoal::net::Shutdown;
use shoal::report::{Fault, RoleError};
use shoal::roles::chunk_client::ClientConfig;
use shoal::roles::folder_client::MemberConfig;
use shoal::storage::{StoreMemory, split_file};
use shoal::tracker_client::selection::Item;
use shoal::volunteer::VolunteerConfig;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Exchanges files with other peers. In a chunk folder (with a local_chunks.txt) it downloads the missing chunks. It
/// shares every file of a plain folder, and downloads files of other peers into it.
#[derive(Parser)]
#[command(name = "client", version)]
pub(crate) struct Flags {
    /// Chunk folder or plain folder
    #[arg(long, value_name = "PATH", required_unless_present = "split", help_heading = FILES)]
    folder: Option<PathBuf>,
    /// Split this file into the chunk folders DIR, which must be empty, and exit; each chunk goes into two of them
    #[arg(long, value_name = "FILE", requires_all = ["parts", "dirs"], help_heading = FILES)]
    split: Option<PathBuf>,
    /// Number of chunks for --split
    #[arg(long, value_name = "N", requires = "split", value_parser = clap::value_parser!(u32).range(1..),
        help_heading = FILES)]
    parts: Option<u32>,
    /// Folders for --split, at least two
    #[arg(value_name = "DIR", requires = "split")]
    dirs: Vec<PathBuf>,
    /// Chunk folder: write the whole file to this path when the folder is complete; a different file there is kept (exit
    /// code 13)
    #[arg(long, value_name = "PATH", help_heading = FILES)]
    join: Option<PathBuf>,
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
        required_unless_present = "split", help_heading = NETWORK)]
    transfer_port: Option<u16>,
    #[arg(long, value_name = "NAME", value_parser = PeerName::of_peer, help = flags::NAME_HELP,
        required_unless_present = "split", help_heading = NETWORK)]
    name: Option<PeerName>,
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
    let Some(arguments) = cli::questions::client_arguments(std::env::args_os().collect()) else {
        return cli::ExitCode::Usage.into();
    };
    let flags: Flags = cli::args::parse_from(arguments);
    if flags.get.is_empty() && !flags.all && flags.split.is_none() {
        cli::job_control::prepare();
    }
    flags.serve.connect_from_listen_address();
    let log = flags.log.clone().with_name(flags.name.as_ref());
    cli::run(&log, |watch, shutdown| {
        let mut flags = flags;
        if let Some(file) = &flags.split {
            return split(file, flags.parts.unwrap_or(0), &flags.dirs);
        }
        for (address, hub) in [(&mut flags.tracker, Hub::Tracker), (&mut flags.manager, Hub::Manager)] {
            if let Some(given) = address {
                *given = hub::resolve(given, hub, flags.timeout, shutdown)?;
            }
        }
        let is_default = flags.tracker.is_none() && flags.manager.is_none();
        let suggests = is_default && !flags.discovery.no_discovery;
        hub::suggesting(suggests, shutdown, || run(flags, watch, shutdown))
    })
}

/// Splits a file into chunk folders.
fn split(file: &Path, parts: u32, folders: &[PathBuf]) -> Result<(), RoleError> {
    split_file::split(file, parts, folders)?;
    log::info!("{} split into {parts} chunks in {} folders", file.display(), folders.len());
    Ok(())
}

/// The flags that every use of a folder needs.
struct Own {
    folder: PathBuf,
    port: u16,
    name: PeerName,
}

fn run(mut flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    let (Some(folder), Some(port), Some(name)) =
        (flags.folder.take(), flags.transfer_port, flags.name.take())
    else {
        return Err(RoleError::new(
            Fault::Usage,
            "-folder PATH, -transfer_port PORT and -name NAME are required",
        ));
    };
    let own = Own { folder, port, name };
    let downloads = flags.all || !flags.get.is_empty();
    let shares_plain_folder =
        flags.manager.is_some() || flags.plain || flags.volunteer.is_some() || downloads;
    match (folder::kind(&own.folder)?, shares_plain_folder) {
        (FolderKind::Chunks, false) if flags.on_complete.is_some() => {
            Err(folder::plain_flags_refused(&own.folder))
        }
        (FolderKind::Chunks, false) => complete(own, flags, watch, shutdown),
        (FolderKind::Plain, _) if flags.join.is_some() => Err(RoleError::new(
            Fault::Usage,
            "--join is for a chunk folder: omit it, or choose one with -folder PATH",
        )),
        (FolderKind::Plain, true) => share(own, flags, watch, shutdown),
        (FolderKind::Chunks, true) => Err(folder::plain_flags_refused(&own.folder)),
        (FolderKind::Plain, false) => {
            Err(folder::sharing_mode_missing(&own.folder, own.port, own.name.as_str()))
        }
    }
}

/// Completes a chunk folder.
fn complete(own: Own, flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    let config = ClientConfig {
        folder: own.folder,
        listen: flags.serve.address(own.port),
        widens: flags.serve.widens(),
        name: own.name,
        tracker: flags.tracker.unwrap_or_else(|| limits::TRACKER_ADDRESS.into()),
        set: flags.set,
        advertise: flags.serve.advertise,
        join: flags.join,
        exit_when_complete: flags.exit_when_complete,
        download_limit: flags.limit.download_limit,
        serve: flags.serve.options(),
        timeout: flags.timeout,
    };
    chunk_prompt::run(config, watch, shutdown)
}

/// Shares a plain folder.
fn share(own: Own, flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    let has_tickets_only = !flags.all
        && !flags.get.is_empty()
        && !flags.plain
        && flags.get.iter().all(|item| matches!(item, Item::Ticket(_)));
    let without_tracker = (flags.manager.is_some() || has_tickets_only) && flags.volunteer.is_none();
    let default = if without_tracker { None } else { Some(limits::TRACKER_ADDRESS.into()) };
    let replicas = flags.volunteer_dir.unwrap_or_else(|| own.folder.join(limits::VOLUNTEER_FOLDER));
    let config = MemberConfig {
        folder: own.folder,
        listen: flags.serve.address(own.port),
        widens: flags.serve.widens(),
        name: own.name,
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
