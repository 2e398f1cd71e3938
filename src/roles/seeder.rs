//! Seeder role: hashes one file, registers it with a tracker and serves it until the shutdown.
//!
//! Runs on the caller's thread, which checks the file at intervals and hashes it again when it has changed. Invariant:
//! an offered file has not been written to since it was hashed completely.

use crate::content::limits::FOLDER_SCAN_INTERVAL;
use crate::content::{FileName, PeerName};
use crate::net::{Endpoint, Listener, PortRange, Shutdown, Threads};
use crate::protocol::tracker::FileSummary;
use crate::report::error::{Fault, RoleError};
use crate::report::next_step::{self, quoted};
use crate::report::watch::Watch;
use crate::storage::{ChunkSource, CompleteFile, FileStamp, STDIN, Spool, StoreError};
use crate::tracker_client::announcer::Announcer;
use crate::tracker_client::presence::{Presence, PresenceConfig};
use crate::upload::offers::{Offer, Offers};
use crate::upload::server::{ServeOptions, serve};
use crossbeam_channel::bounded;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Configuration of a seeder.
#[derive(Debug, Clone)]
pub struct SeederConfig {
    /// Path of the file or block device; a FIFO or `-` (standard input, which needs `offer_as`) is read to its end
    /// first.
    pub file: PathBuf,
    /// Name under which the file is offered; `None` for its own name.
    pub offer_as: Option<FileName>,
    /// IP address on which the seeder serves.
    pub listen: IpAddr,
    /// The listening address is a default and may be widened, see [`Presence`].
    pub widens: bool,
    /// Ports to serve on; the first free one is used.
    pub ports: PortRange,
    /// Address of the tracker.
    pub tracker: Endpoint,
    /// Name of this peer; `None` for `seeder-PORT`.
    pub name: Option<PeerName>,
    /// Address of this peer for other peers, if it differs from the source address that the tracker
    /// sees.
    pub advertise: Option<SocketAddr>,
    /// Chunk size in bytes; `None` to derive it from the file size.
    pub chunk_size: Option<u32>,
    /// Limits and timeouts of the serving side.
    pub serve: ServeOptions,
    /// Time after which an unreachable tracker is an error; `None` to retry without limit.
    pub timeout: Option<Duration>,
}

/// Runs a seeder until the shutdown.
///
/// # Errors
/// The file cannot be read, the port is taken, or the tracker does not answer in time.
pub fn run(config: SeederConfig, watch: &dyn Watch, shutdown: &Shutdown) -> Result<(), RoleError> {
    let name = match &config.offer_as {
        Some(name) => name.clone(),
        None => own_name(&config.file)?,
    };
    // Binds before it hashes: hashing can take minutes, and a port in use is reported at once.
    let bind = |port| Listener::bind(SocketAddr::new(config.listen, port));
    let listener = config.ports.bind_first_free(bind).map_err(RoleError::bind("-p PORT"))?;
    let stamp = FileStamp::at(&config.file);
    let file = match hash(&config, &name, watch, shutdown) {
        Ok(file) => Arc::new(file),
        // A shutdown while hashing is a normal end.
        Err(_) if shutdown.is_stopped() => return Ok(()),
        Err(error) => return Err(error),
    };
    let threads = Threads::new();
    let result = serve_until(&config, name, listener, (file, stamp), watch, &threads, shutdown);
    shutdown.trigger();
    threads.join();
    result
}

/// Registers and serves the file, in its current version, until the shutdown.
fn serve_until(
    config: &SeederConfig,
    name: FileName,
    listener: Listener,
    (file, stamp): (Arc<CompleteFile>, Option<FileStamp>),
    watch: &dyn Watch,
    threads: &Threads,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    let (address, offers) = (listener.address(), Offers::new());
    offers.offer(offer_of(&name, &file));
    let listening = serve(listener, offers.clone(), &config.serve, None, threads, shutdown)?;
    log::info!("seeder listening on {address}");
    log::info!("{}", next_step::download(name.as_str(), &config.tracker));
    let (failures, failed) = bounded(1);
    let presence = PresenceConfig {
        name: config.name.clone().map_or_else(|| default_name("seeder", address.port()), Ok)?,
        advertise: config.advertise,
        widens: config.widens,
        shared_files: None,
    };
    let presence = Presence::new(presence, listening, offers.registrations().clone());
    let (tracker, timeout) = (config.tracker.clone(), config.timeout);
    let announcer =
        Announcer::start(tracker, presence, offers.clone(), timeout, failures, threads, shutdown)?;
    let last_warning = String::new();
    let mut offered_file = OfferedFile {
        config,
        name,
        offers,
        announcer,
        file,
        stamp,
        last_stamp: None,
        offered: true,
        last_warning,
    };
    loop {
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => break Ok(()),
            recv(failed) -> failure => break failure.map_or(Ok(()), Err),
            default(FOLDER_SCAN_INTERVAL) => offered_file.check(watch, shutdown),
        }
    }
}

/// Creates the offer of a file and logs it.
fn offer_of(name: &FileName, file: &Arc<CompleteFile>) -> Offer {
    let layout = file.layout();
    let summary =
        FileSummary { id: file.id(), name: name.clone(), size: layout.size(), chunks: layout.count() };
    let FileSummary { id, size, chunks, .. } = &summary;
    let chunks = if *chunks == 1 { "1 chunk".to_owned() } else { format!("{chunks} chunks") };
    log::info!("serving {name} ({size} bytes, {chunks}) with id {id}");
    Offer { file: summary, source: file.clone() }
}

/// The offered file, which the user may change, replace or remove at any time.
struct OfferedFile<'a> {
    config: &'a SeederConfig,
    name: FileName,
    offers: Offers,
    announcer: Announcer,
    file: Arc<CompleteFile>,
    /// State of the path (inode, size, time) when the file was hashed.
    stamp: Option<FileStamp>,
    /// The state at the last check, if it differs. The file is hashed when two checks see the same state.
    last_stamp: Option<FileStamp>,
    /// Whether the file is offered: not after it was written to, until it has been hashed again.
    offered: bool,
    /// The last warning: each is logged once.
    last_warning: String,
}

impl OfferedFile<'_> {
    /// Checks the path for changes.
    ///
    /// A file that was written to is withdrawn at once, hashed when it no longer changes, and offered again.
    fn check(&mut self, watch: &dyn Watch, shutdown: &Shutdown) {
        if self.file.is_spooled() {
            return;
        }
        let now = FileStamp::at(&self.config.file);
        // A file can have changed without a trace at its path: `ChunkSource::check_reported`.
        let intact = self.file.is_intact();
        if now == self.stamp && self.offered && intact {
            self.last_stamp = None;
            self.last_warning.clear();
            return;
        }
        if !intact && std::mem::take(&mut self.offered) {
            self.offers.withdraw(&self.name);
            self.announcer.nudge();
        }
        self.warn_once(match (now.is_some(), intact) {
            (false, true) => "was removed; it is served until this program ends",
            (true, true) => "was replaced or has a new modification time; it will be hashed again",
            (false, false) => "was removed; it is no longer offered",
            (true, false) => "has changed; it is not offered until it has been hashed again",
        });
        let settled = now.is_some() && std::mem::replace(&mut self.last_stamp, now) == now;
        if settled {
            self.hash_again(now, watch, shutdown);
        }
    }

    /// Logs a warning about the file, unless it repeats the last one.
    fn warn_once(&mut self, text: &str) {
        if self.last_warning != text {
            log::warn!("{} {text}", self.name);
            text.clone_into(&mut self.last_warning);
        }
    }

    fn hash_again(&mut self, now: Option<FileStamp>, watch: &dyn Watch, shutdown: &Shutdown) {
        let file = match hash(self.config, &self.name, watch, shutdown) {
            Ok(file) => Arc::new(file),
            Err(_) if shutdown.is_stopped() => return,
            // Hashed again after two more checks that see the same state.
            Err(error) => {
                self.warn_once(&format!("could not be hashed again: {error}"));
                self.last_stamp = None;
                return;
            }
        };
        if file.id() != self.file.id() && self.file.is_intact() {
            // The file was replaced: downloads of the old one can finish from the open file.
            self.offers.put(self.file.id(), self.file.clone());
        }
        let result = if file.id() == self.file.id() { "is unchanged" } else { "has changed" };
        log::info!("hashed {} again: its content {result}", self.name);
        self.offers.offer(offer_of(&self.name, &file));
        self.announcer.nudge();
        (self.file, self.stamp, self.offered) = (file, now, true);
    }
}

/// The default name of a peer: `ROLE-PORT`.
///
/// # Errors
/// Never for a valid `role`.
pub(super) fn default_name(role: &str, port: u16) -> Result<PeerName, RoleError> {
    PeerName::new(format!("{role}-{port}")).map_err(|error| RoleError::from_error(Fault::Other, error))
}

fn own_name(path: &Path) -> Result<FileName, RoleError> {
    if path == Path::new(STDIN) {
        return Err(RoleError::new(Fault::Usage, "standard input has no name; choose one with --as NAME"));
    }
    let name = path.file_name().ok_or_else(|| {
        RoleError::new(Fault::Usage, format!("{} is not the path of a file", path.display()))
    })?;
    let unusable = |cause: &dyn std::fmt::Display| {
        let text =
            format!("{} cannot be offered under its own name: {cause}; choose one with --as", path.display());
        RoleError::new(Fault::Usage, text)
    };
    let name = name.to_str().ok_or_else(|| unusable(&"it is not UTF-8"))?;
    FileName::new(name).map_err(|error| unusable(&error).with_source(error))
}

fn hash(
    config: &SeederConfig,
    name: &FileName,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<CompleteFile, RoleError> {
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let path = &config.file;
    let spool = match Spool::is_needed(path) {
        true => Some(spool(path, name, watch, shutdown)?),
        false => None,
    };
    let size = match &spool {
        Some(spool) => spool.size(),
        None => std::fs::metadata(path).map_or(0, |metadata| metadata.len()),
    };
    watch.begin(&format!("hashing {name}"), size, 0);
    let file = CompleteFile::publish_input(path, spool, config.chunk_size, &hashed, &stop);
    watch.end();
    file.map_err(|error| explained(error, &config.file))
}

/// Reads standard input or a FIFO to its end into a temporary file.
fn spool(path: &Path, name: &FileName, watch: &dyn Watch, shutdown: &Shutdown) -> Result<Spool, RoleError> {
    let folder = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from("."), PathBuf::from);
    watch.begin(&format!("reading {name}"), 0, 0);
    let copied = |bytes| watch.advance(bytes);
    let spool = Spool::read(path, &folder, &copied, &|| shutdown.is_stopped());
    watch.end();
    Ok(spool?)
}

/// Adds the next command to the two likely mistakes: a missing file, and a folder in place of a
/// file.
fn explained(error: StoreError, path: &Path) -> RoleError {
    let advice = match &error {
        StoreError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            "choose an existing file with: seeder -f FILE".to_owned()
        }
        StoreError::NotAFile(_) if path.is_dir() => format!(
            "share the files of a folder with: client -folder {} -transfer_port 7001 -name NAME --plain",
            quoted(&path.display().to_string())
        ),
        _ => return error.into(),
    };
    RoleError::from(error).with_advice(&advice)
}
