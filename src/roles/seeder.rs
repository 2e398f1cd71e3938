//! A seeder: one file, hashed, registered and served until it is told to stop.
//!
//! The state thread is the caller's own: it looks at the file now and then, and hashes it again when it has changed.
//! Invariant: what is offered is what the file was when it was hashed as a whole, and nobody has written to it since.

use crate::content::limits::FOLDER_SCAN_INTERVAL;
use crate::content::{FileName, PeerName};
use crate::net::{Listener, Shutdown, Threads};
use crate::protocol::tracker::{FileSummary, Registration};
use crate::report::error::{DaemonError, Fault};
use crate::report::next_step::{self, quoted};
use crate::report::watch::Watch;
use crate::storage::{ChunkSource, CompleteFile, FileStamp, StoreError};
use crate::tracker_client::announcer::Announcer;
use crate::upload::offers::{Offer, Offers};
use crate::upload::server::{ServeOptions, serve};
use crossbeam_channel::bounded;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a seeder is told to do.
#[derive(Debug, Clone)]
pub struct SeederConfig {
    /// The file.
    pub file: PathBuf,
    /// The name to offer it under, when that is not its own.
    pub offer_as: Option<FileName>,
    /// Where to serve.
    pub listen: SocketAddr,
    /// The tracker.
    pub tracker: SocketAddr,
    /// What people call this peer; by default after its port.
    pub name: Option<PeerName>,
    /// Its address, when that is not what the tracker sees.
    pub advertise: Option<SocketAddr>,
    /// Bytes in a chunk; by default according to the file's size.
    pub chunk_size: Option<u32>,
    /// How to serve.
    pub serve: ServeOptions,
    /// How long to wait for a tracker that does not answer.
    pub timeout: Option<Duration>,
}

/// Seeds until the shutdown.
///
/// # Errors
/// The file cannot be read, the port is taken, or the tracker does not answer in time.
pub fn run(config: SeederConfig, watch: &dyn Watch, shutdown: &Shutdown) -> Result<(), DaemonError> {
    let name = match &config.offer_as {
        Some(name) => name.clone(),
        None => own_name(&config.file)?,
    };
    // First the port: it is known at once whether it is free, hashing may take minutes.
    let listener = Listener::bind(config.listen).map_err(DaemonError::bind("-p PORT"))?;
    let glance = FileStamp::at(&config.file);
    let file = match hash(&config, &name, watch, shutdown) {
        Ok(file) => Arc::new(file),
        // Ctrl-C is how a seeder ends, also before it serves.
        Err(_) if shutdown.is_stopped() => return Ok(()),
        Err(error) => return Err(error),
    };
    let threads = Threads::new();
    let result = serve_until(&config, name, listener, (file, glance), watch, &threads, shutdown);
    shutdown.trigger();
    threads.join();
    result
}

/// Serves a file until the shutdown, and what it is later on.
fn serve_until(
    config: &SeederConfig,
    name: FileName,
    listener: Listener,
    (file, glance): (Arc<CompleteFile>, Option<FileStamp>),
    watch: &dyn Watch,
    threads: &Threads,
    shutdown: &Shutdown,
) -> Result<(), DaemonError> {
    let (address, shelf) = (listener.address(), Offers::new());
    shelf.offer(offer_of(&name, &file));
    serve(listener, shelf.clone(), &config.serve, None, threads, shutdown)?;
    log::info!("seeder listening on {address}");
    log::info!("{}", next_step::download(name.as_str(), config.tracker));
    let (failures, failed) = bounded(1);
    let registration = Registration {
        name: config.name.clone().map_or_else(|| default_name("seeder", address.port()), Ok)?,
        port: address.port(),
        advertise: config.advertise,
    };
    let (tracker, timeout) = (config.tracker, config.timeout);
    let announcer =
        Announcer::start(tracker, registration, shelf.clone(), timeout, failures, threads, shutdown)?;
    let said = String::new();
    let mut kept = Kept { config, name, shelf, announcer, file, glance, seen: None, offered: true, said };
    loop {
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => break Ok(()),
            recv(failed) -> failure => break failure.map_or(Ok(()), Err),
            default(FOLDER_SCAN_INTERVAL) => kept.look(watch, shutdown),
        }
    }
}

/// Makes an offer of a file, and says so.
fn offer_of(name: &FileName, file: &Arc<CompleteFile>) -> Offer {
    let layout = file.layout();
    let summary =
        FileSummary { id: file.id(), name: name.clone(), size: layout.size(), chunks: layout.count() };
    let FileSummary { id, size, chunks, .. } = &summary;
    log::info!("serving {name} ({size} bytes, {chunks} chunks) with id {id}");
    Offer { file: summary, source: file.clone() }
}

/// The file that is offered, which somebody may change, replace or remove meanwhile.
struct Kept<'a> {
    config: &'a SeederConfig,
    name: FileName,
    shelf: Offers,
    announcer: Announcer,
    file: Arc<CompleteFile>,
    /// What the path led to when the file was hashed.
    glance: Option<FileStamp>,
    /// Something else that the path led to at the last look: hashed when it stays so.
    seen: Option<FileStamp>,
    offered: bool,
    /// What has been said of what is wrong.
    said: String,
}

impl Kept<'_> {
    /// Looks at the path. What has changed is withdrawn at once, hashed when nobody writes to it any more, and offered
    /// as what it is then.
    fn look(&mut self, watch: &dyn Watch, shutdown: &Shutdown) {
        let now = FileStamp::at(&self.config.file);
        if now == self.glance && self.offered {
            self.seen = None;
            self.said.clear();
            return;
        }
        let intact = self.file.is_intact();
        if !intact && std::mem::take(&mut self.offered) {
            self.shelf.withdraw(&self.name);
            self.announcer.nudge();
        }
        self.tell(match (now.is_some(), intact) {
            (false, true) => "has been removed; it is served until this program ends",
            (true, true) => "has been touched or replaced: it is hashed again",
            (false, false) => "has been removed and is offered no more",
            (true, false) => "has changed: it is offered no more until it has been hashed again",
        });
        let settled = now.is_some() && std::mem::replace(&mut self.seen, now) == now;
        if settled {
            self.hash_again(now, watch, shutdown);
        }
    }

    /// Says what is wrong, once.
    fn tell(&mut self, text: &str) {
        if self.said != text {
            log::warn!("{} {text}", self.name);
            text.clone_into(&mut self.said);
        }
    }

    fn hash_again(&mut self, now: Option<FileStamp>, watch: &dyn Watch, shutdown: &Shutdown) {
        let file = match hash(self.config, &self.name, watch, shutdown) {
            Ok(file) => Arc::new(file),
            Err(_) if shutdown.is_stopped() => return,
            // It is tried again when it has settled.
            Err(error) => {
                self.tell(&format!("cannot be hashed again: {error}"));
                self.seen = None;
                return;
            }
        };
        if file.id() != self.file.id() && self.file.is_intact() {
            // It was replaced: whoever is in the middle of the old one can finish.
            self.shelf.put(self.file.id(), self.file.clone());
        }
        let same = if file.id() == self.file.id() { "is what it was" } else { "is another file now" };
        log::info!("{} was hashed again and {same}", self.name);
        self.shelf.offer(offer_of(&self.name, &file));
        self.announcer.nudge();
        (self.file, self.glance, self.offered) = (file, now, true);
    }
}

/// The name of a peer that was given none.
///
/// # Errors
/// Never, as long as `role` is a plain word.
pub(super) fn default_name(role: &str, port: u16) -> Result<PeerName, DaemonError> {
    PeerName::new(format!("{role}-{port}")).map_err(|error| DaemonError::new(Fault::Other, error.to_string()))
}

fn own_name(path: &Path) -> Result<FileName, DaemonError> {
    let name = path.file_name().ok_or_else(|| {
        DaemonError::new(Fault::Usage, format!("{} is not the path of a file", path.display()))
    })?;
    let unusable = |why: &dyn std::fmt::Display| {
        let text =
            format!("{} cannot be offered under its name: {why}; give another with --as", path.display());
        DaemonError::new(Fault::Usage, text)
    };
    let name = name.to_str().ok_or_else(|| unusable(&"it is not UTF-8"))?;
    FileName::new(name).map_err(|error| unusable(&error))
}

fn hash(
    config: &SeederConfig,
    name: &FileName,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<CompleteFile, DaemonError> {
    let size = std::fs::metadata(&config.file).map_or(0, |metadata| metadata.len());
    watch.begin(&format!("hashing {name}"), size, 0);
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let file = CompleteFile::publish(&config.file, config.chunk_size, &hashed, &stop);
    watch.end();
    file.map_err(|error| explained(error, &config.file))
}

/// Adds the next command to the two likely mistakes: a missing file, and a folder in place of a file.
fn explained(error: StoreError, path: &Path) -> DaemonError {
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
    let DaemonError { fault, text } = error.into();
    DaemonError::new(fault, format!("{text}; {advice}"))
}
