//! A seeder: one file, hashed, registered and served until it is told to stop.

use super::announcer::Announcer;
use super::error::{DaemonError, Fault};
use super::peer::{ServeOptions, serve};
use super::shelf::{Offer, Shelf};
use super::watch::Watch;
use crate::content::{EntityName, FileName};
use crate::net::{Listener, Shutdown, Threads};
use crate::protocol::tracker::{FileSummary, Registration};
use crate::storage::{ChunkSource, WholeFile};
use crossbeam_channel::bounded;
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
    pub name: Option<EntityName>,
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
    let listener = Listener::bind(config.listen)?;
    let address = listener.address();
    let file = match hash(&config, &name, watch, shutdown) {
        Ok(file) => Arc::new(file),
        // Ctrl-C is how a seeder ends, also before it serves.
        Err(_) if shutdown.is_stopped() => return Ok(()),
        Err(error) => return Err(error),
    };
    let layout = file.manifest().map(|manifest| manifest.layout().clone());
    let (size, chunks) = layout.map_or((0, 0), |layout| (layout.size(), layout.count()));
    let summary = FileSummary { id: file.id(), name, size, chunks };
    log::info!("serving {} ({size} bytes, {chunks} chunks) with id {}", summary.name, summary.id);
    let threads = Threads::new();
    let shelf = Shelf::new();
    shelf.offer(Offer { file: summary, source: file });
    serve(listener, shelf.clone(), &config.serve, None, &threads, shutdown)?;
    log::info!("seeder listening on {address}");
    let (failures, failed) = bounded(1);
    let registration = Registration {
        name: config.name.map_or_else(|| default_name("seeder", address.port()), Ok)?,
        port: address.port(),
        advertise: config.advertise,
    };
    Announcer::start(config.tracker, registration, shelf, config.timeout, failures, &threads, shutdown)?;
    let result = crossbeam_channel::select! {
        recv(shutdown.signal()) -> _ => Ok(()),
        recv(failed) -> failure => failure.map_or(Ok(()), Err),
    };
    shutdown.trigger();
    threads.join();
    result
}

/// The name of a peer that was given none.
///
/// # Errors
/// Never, as long as `role` is a plain word.
pub(super) fn default_name(role: &str, port: u16) -> Result<EntityName, DaemonError> {
    EntityName::new(format!("{role}-{port}"))
        .map_err(|error| DaemonError::new(Fault::Other, error.to_string()))
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
) -> Result<WholeFile, DaemonError> {
    let size = std::fs::metadata(&config.file).map_or(0, |metadata| metadata.len());
    watch.begin(&format!("hashing {name}"), size, 0);
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let file = WholeFile::publish(&config.file, config.chunk_size, &hashed, &stop);
    watch.end();
    Ok(file?)
}
