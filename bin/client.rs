//! `client`: a folder in a swarm.
#![forbid(unsafe_code)]

use clap::Parser;
use shoal::cli::flags::{self, ServeFlags};
use shoal::cli::{self, BarWatch, LogOptions, member};
use shoal::content::{EntityName, limits, local_chunks};
use shoal::daemon::client::{self, ClientConfig};
use shoal::daemon::member::MemberConfig;
use shoal::daemon::volunteer::VolunteerConfig;
use shoal::daemon::{DaemonError, Fault};
use shoal::net::Shutdown;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// A folder in a swarm. A folder with a local_chunks.txt is completed from others that have the missing chunks; of
/// any other folder every file is shared, and files of others can be got into it.
#[derive(Parser)]
#[command(name = "client", version)]
struct Flags {
    /// The folder
    #[arg(long, value_name = "PATH")]
    folder: PathBuf,
    /// The port on which others fetch chunks; 0 takes any free one
    #[arg(long = "transfer_port", value_name = "PORT")]
    transfer_port: u16,
    /// The name of this client, as it stands in logs.log
    #[arg(long, value_name = "NAME")]
    name: EntityName,
    /// The tracker: an address or a name; without a port, port 5100
    /// [default: 127.0.0.1:5100, unless a manager is given]
    #[arg(long, value_name = "ADDR", value_parser = flags::parse_tracker)]
    tracker: Option<SocketAddr>,
    /// Plain folder: the manager that tells of other peers; without a port, port 10000
    #[arg(long, value_name = "ADDR",
        value_parser = |text: &str| flags::parse_address(text, limits::MANAGER_ADDRESS.port()))]
    manager: Option<SocketAddr>,
    /// Plain folder: share it through the tracker, without a manager
    #[arg(long)]
    plain: bool,
    /// Plain folder: lend so much space to the tracker, which keeps chunks of its files there; for example 2GiB
    #[arg(long, value_name = "SIZE", value_parser = flags::parse_lent)]
    volunteer: Option<u64>,
    /// With --volunteer: where those chunks are kept [default: .volunteer in the folder]
    #[arg(long, value_name = "PATH", requires = "volunteer")]
    volunteer_dir: Option<PathBuf>,
    /// With --volunteer: before leaving, wait until what is kept here has been copied elsewhere; a second Ctrl-C
    /// leaves at once
    #[arg(long, requires = "volunteer")]
    drain_on_exit: bool,
    /// Plain folder: get a file, by name or id, and exit; may be given several times
    #[arg(long, value_name = "NAME")]
    get: Vec<String>,
    /// With --get: go on serving afterwards
    #[arg(long, requires = "get")]
    stay: bool,
    /// With --get: wait so long for somebody to have the file, when nobody does at first
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = flags::parse_wait)]
    wait: Duration,
    /// Chunk folder: the set that the chunks belong to
    #[arg(long, value_name = "NAME", default_value = limits::DEFAULT_SET)]
    set: EntityName,
    /// Chunk folder: end when the folder is complete and those of the others are, too, or nobody asks for its chunks
    #[arg(long)]
    exit_when_complete: bool,
    /// Give up when the tracker or manager has not answered, or no chunk has come, for so long
    /// [default: never; 90 for a chunk]
    #[arg(long, value_name = "SECONDS", value_parser = flags::parse_seconds)]
    timeout: Option<Duration>,
    #[command(flatten)]
    serve: ServeFlags,
    #[command(flatten)]
    log: LogOptions,
}

fn main() -> ExitCode {
    let flags: Flags = cli::parse();
    let log = flags.log.clone();
    cli::run(&log, |watch, shutdown| run(flags, watch, shutdown))
}

fn run(flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), DaemonError> {
    let has_list = flags.folder.join(local_chunks::FILE).exists();
    let wants_plain =
        flags.manager.is_some() || flags.plain || flags.volunteer.is_some() || !flags.get.is_empty();
    match (has_list, wants_plain) {
        (true, true) => {
            let text = format!(
                "{} has a {} and is a chunk folder; --manager, --plain, --volunteer and --get are for plain \
                 folders",
                flags.folder.display(),
                local_chunks::FILE
            );
            Err(DaemonError::new(Fault::Usage, text))
        }
        (false, true) => share(flags, watch, shutdown),
        // A folder without the list is an error that names it.
        (_, false) => complete(flags, watch, shutdown),
    }
}

/// A chunk folder.
fn complete(flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), DaemonError> {
    let list = flags.folder.join(local_chunks::FILE);
    if flags.folder.is_dir() && list.symlink_metadata().is_err() {
        let text = format!(
            "cannot open {}: No such file or directory; a folder without it is shared with --manager or --plain",
            list.display()
        );
        return Err(DaemonError::new(Fault::FileAccess, text));
    }
    let config = ClientConfig {
        folder: flags.folder,
        listen: flags.serve.address(flags.transfer_port),
        name: flags.name,
        tracker: flags.tracker.unwrap_or(limits::TRACKER_ADDRESS),
        set: flags.set,
        advertise: flags.serve.advertise,
        exit_when_complete: flags.exit_when_complete,
        serve: flags.serve.options(),
        timeout: flags.timeout,
    };
    client::run(config, &**watch, shutdown)
}

/// A plain folder.
fn share(flags: Flags, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), DaemonError> {
    let without_tracker = flags.manager.is_some() && flags.volunteer.is_none();
    let default = if without_tracker { None } else { Some(limits::TRACKER_ADDRESS) };
    let kept = flags.volunteer_dir.unwrap_or_else(|| flags.folder.join(limits::VOLUNTEER_FOLDER));
    let config = MemberConfig {
        folder: flags.folder,
        listen: flags.serve.address(flags.transfer_port),
        name: flags.name,
        manager: flags.manager,
        tracker: flags.tracker.or(default),
        advertise: flags.serve.advertise,
        serve: flags.serve.options(),
        log_file: flags.log.log_file,
        timeout: flags.timeout,
        volunteer: flags.volunteer.map(|offered| VolunteerConfig { offered, folder: kept }),
    };
    let task = member::Task {
        get: flags.get,
        stay: flags.stay,
        wait: flags.wait,
        drain_on_exit: flags.drain_on_exit,
    };
    member::run(config, &task, watch, shutdown)
}
