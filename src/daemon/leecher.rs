//! A leecher: finds the holders of a file, fetches it from all of them at once, and puts it in place.
//!
//! The state thread is the caller's own. Invariant: the file appears under its name only when every chunk of it
//! has been verified; until then what is verified is kept beside it, and a later run goes on from there.

use super::announcer::{Announcer, Identity, Offer, Outage};
use super::download::{self, Download};
use super::error::{DaemonError, Fault};
use super::fetch::Conversation;
use super::lookup::{Query, lookup};
use super::peer::{Met, ServeOptions, Shelf, serve};
use super::seeder::default_name;
use super::watch::Watch;
use crate::content::limits::{LOOKUP_INTERVAL_ALONE, SOURCES_MAX};
use crate::content::{EntityName, FileName, Manifest};
use crate::net::{AskError, Asker, Listener, Shutdown, Threads};
use crate::protocol::tracker::{FileSummary, FoundFile};
use crate::storage::{ChunkSource, PartFile, StoreError, WholeFile};
use crossbeam_channel::{Receiver, bounded};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Peers met that may wait for the state thread.
const QUEUE: usize = 1_024;

/// What a leecher is told to do.
#[derive(Debug, Clone)]
pub struct LeecherConfig {
    /// The file: its name, its id, or both.
    pub query: Query,
    /// The tracker.
    pub tracker: SocketAddr,
    /// Where the file goes: a path, or a folder; by default its name in the working directory.
    pub out: Option<PathBuf>,
    /// Whether a different file that is in the way is replaced.
    pub overwrite: bool,
    /// Whether the end waits until the file is on the disk and not just with the system.
    pub durable: bool,
    /// Serves what is there while downloading, and goes on when done.
    pub stay: Option<StayConfig>,
    /// Gives up when nothing has arrived for so long.
    pub timeout: Option<Duration>,
}

/// How a leecher serves.
#[derive(Debug, Clone)]
pub struct StayConfig {
    /// Where.
    pub listen: SocketAddr,
    /// What people call this peer; by default after its port.
    pub name: Option<EntityName>,
    /// Its address, when that is not what the tracker sees.
    pub advertise: Option<SocketAddr>,
    /// How.
    pub serve: ServeOptions,
}

/// A file that is there.
#[derive(Debug, Clone)]
pub struct Downloaded {
    /// Its name.
    pub name: FileName,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes in it.
    pub size: u64,
}

/// Downloads, calls `done` when the file is in place, and with [`LeecherConfig::stay`] serves it until the
/// shutdown.
///
/// # Errors
/// Not found, ambiguous, not to be had, no room, interrupted: [`Fault`] tells which.
pub fn run(
    config: &LeecherConfig,
    watch: &dyn Watch,
    shutdown: &Shutdown,
    done: &mut dyn FnMut(&Downloaded),
) -> Result<(), DaemonError> {
    let threads = Threads::new();
    let result = Leecher { config, watch, shutdown, threads: threads.clone() }.run(done);
    shutdown.trigger();
    threads.join();
    result
}

struct Leecher<'a> {
    config: &'a LeecherConfig,
    watch: &'a dyn Watch,
    shutdown: &'a Shutdown,
    threads: Threads,
}

/// What serving needs besides the shelf.
struct Stay {
    listener: Listener,
    port: u16,
}

impl Leecher<'_> {
    fn run(&self, done: &mut dyn FnMut(&Downloaded)) -> Result<(), DaemonError> {
        let stay = self.config.stay.as_ref().map(|stay| Listener::bind(stay.listen)).transpose()?;
        let stay = stay.map(|listener| Stay { port: listener.address().port(), listener });
        let mut asker = Asker::new(self.config.tracker, self.shutdown)?;
        let found = self.find(&mut asker)?;
        let target = self.target(&found.file.name)?;
        log::info!(
            "{} has {} bytes in {} chunks, {} holders, id {}",
            found.file.name,
            found.file.size,
            found.file.chunks,
            found.holders,
            found.file.id
        );
        let (manifest, holders) = self.manifest(&mut asker, found.clone())?;
        let downloaded = Downloaded {
            name: found.file.name.clone(),
            path: target.clone(),
            size: manifest.layout().size(),
        };
        let summary = FileSummary {
            size: manifest.layout().size(),
            chunks: manifest.layout().count(),
            ..found.file.clone()
        };
        if let Some(whole) = self.in_place(&target, &manifest)? {
            log::info!("{} is already here and complete", target.display());
            done(&downloaded);
            return match stay {
                Some(stay) => self.seed(stay, summary, Arc::new(whole)),
                None => Ok(()),
            };
        }
        let part = Arc::new(PartFile::open(&target, manifest.clone())?);
        let (serving, met) = match stay {
            Some(stay) => {
                let (serving, met) = self.serve(stay, summary, part.clone())?;
                (Some(serving), Some(met))
            }
            None => (None, None),
        };
        let announcer = serving.as_ref().map(|serving| serving.announcer.clone());
        let download = Download {
            id: found.file.id,
            manifest,
            part: part.clone(),
            holders,
            asker,
            token: Box::new(move || announcer.as_ref().and_then(Announcer::token)),
            port: serving.as_ref().map(|serving| serving.port),
            met,
            timeout: self.config.timeout,
            watch: self.watch,
        };
        download::run(download, self.shutdown)?;
        log::info!("All download threads completed");
        part.finish(self.config.overwrite, self.config.durable)?;
        log::info!("Download complete. File size: {} bytes", downloaded.size);
        done(&downloaded);
        match serving {
            Some(serving) => self.stay(&serving, &part),
            None => Ok(()),
        }
    }

    /// Where the file goes.
    fn target(&self, name: &FileName) -> Result<PathBuf, DaemonError> {
        let target = match &self.config.out {
            None => PathBuf::from(name.as_str()),
            Some(out) if out.is_dir() => out.join(name.as_str()),
            Some(out) => out.clone(),
        };
        let folder = match target.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        match folder.is_dir() {
            true => Ok(target),
            false => {
                let text = format!("{} is not a folder that the file can be put in", folder.display());
                Err(DaemonError::new(Fault::FileAccess, text))
            }
        }
    }

    /// Asks the tracker until it answers, and chooses the one file that is meant.
    fn find(&self, asker: &mut Asker) -> Result<FoundFile, DaemonError> {
        let mut outage = Outage::new(self.config.tracker, self.config.timeout);
        let query = &self.config.query;
        let files = loop {
            match lookup(asker, query, SOURCES_MAX as u32, None, self.shutdown) {
                Ok(files) => break files,
                Err(AskError::Stopped) => return Err(interrupted()),
                Err(why) => {
                    let pause = outage.failed(&why)?;
                    if self.shutdown.wait(pause) {
                        return Err(interrupted());
                    }
                }
            }
        };
        choose(files, query)
    }

    /// Fetches the manifest from a holder: from any, because it is checked against the id.
    fn manifest(
        &self,
        asker: &mut Asker,
        mut found: FoundFile,
    ) -> Result<(Arc<Manifest>, Vec<SocketAddr>), DaemonError> {
        let started = Instant::now();
        let id = found.file.id;
        let query = Query { name: Some(found.file.name.clone()), id: Some(id) };
        loop {
            let holders: Vec<SocketAddr> = found.whole.iter().chain(&found.partial).copied().collect();
            for holder in &holders {
                match Conversation::open(*holder, None, self.shutdown)
                    .and_then(|mut conversation| conversation.manifest(id, self.shutdown))
                {
                    Ok(manifest) => return Ok((Arc::new(manifest), holders)),
                    Err(_) if self.shutdown.is_stopped() => return Err(interrupted()),
                    Err(why) => log::info!("no manifest from {holder}: {why}"),
                }
            }
            if self.config.timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
                let text = format!("none of {} holders gives the manifest of {id}", holders.len());
                return Err(DaemonError::new(Fault::NobodyHasAll, text));
            }
            if self.shutdown.wait(LOOKUP_INTERVAL_ALONE) {
                return Err(interrupted());
            }
            let again = lookup(asker, &query, SOURCES_MAX as u32, None, self.shutdown);
            if let Some(file) = again.ok().and_then(|files| files.into_iter().next()) {
                found = file;
            }
        }
    }

    /// A file that is in place already: the same one, or in the way.
    fn in_place(&self, target: &Path, manifest: &Arc<Manifest>) -> Result<Option<WholeFile>, DaemonError> {
        if !target.exists() {
            return Ok(None);
        }
        self.watch.begin(&format!("checking {}", target.display()), manifest.layout().size(), 0);
        let hashed = |bytes| self.watch.advance(bytes);
        let stop = || self.shutdown.is_stopped();
        let checked = WholeFile::check(target, manifest.clone(), &hashed, &stop);
        self.watch.end();
        match checked {
            Err(StoreError::Stopped) => Err(interrupted()),
            Ok(None) if !self.config.overwrite => {
                let text = format!(
                    "{} is there already and is another file; --overwrite replaces it, --out puts this one elsewhere",
                    target.display()
                );
                Err(DaemonError::new(Fault::ExistsAndDiffers, text))
            }
            other => Ok(other?),
        }
    }

    /// Serves a file, and announces it. Whom it meets is told to the receiver.
    fn serve(
        &self,
        stay: Stay,
        summary: FileSummary,
        source: Arc<dyn ChunkSource>,
    ) -> Result<(Serving, Receiver<Met>), DaemonError> {
        let Some(config) = &self.config.stay else {
            return Err(DaemonError::new(Fault::Other, "this leecher does not serve"));
        };
        let (shelf, address) = (Shelf::new(), stay.listener.address());
        shelf.put(summary.id, source.clone());
        let (met, meeting) = bounded(QUEUE);
        serve(stay.listener, shelf, &config.serve, Some(met), &self.threads, self.shutdown)?;
        log::info!("leecher listening on {address}");
        let identity = Identity {
            name: config.name.clone().map_or_else(|| default_name("leecher", stay.port), Ok)?,
            port: stay.port,
            advertise: config.advertise,
        };
        let offers = vec![Offer { file: summary, source }];
        // A download in progress does not end because the tracker is away: no time-out, so nothing fails.
        let (failures, _) = bounded(1);
        let (tracker, threads) = (self.config.tracker, &self.threads);
        let announcer = Announcer::start(tracker, identity, offers, None, failures, threads, self.shutdown)?;
        Ok((Serving { port: stay.port, announcer }, meeting))
    }

    fn seed(&self, stay: Stay, summary: FileSummary, whole: Arc<WholeFile>) -> Result<(), DaemonError> {
        self.serve(stay, summary, whole)?;
        self.shutdown.wait_forever();
        Ok(())
    }

    /// Goes on serving a file that has just been completed.
    fn stay(&self, serving: &Serving, part: &PartFile) -> Result<(), DaemonError> {
        serving.announcer.nudge();
        log::info!("complete, serving until interrupted");
        // Nobody waits for the disk, but once it is done nothing can take the file away.
        if let Err(error) = part.make_durable() {
            log::warn!("{error}");
        }
        self.shutdown.wait_forever();
        Ok(())
    }
}

struct Serving {
    port: u16,
    announcer: Announcer,
}

fn interrupted() -> DaemonError {
    DaemonError::new(Fault::Interrupted, "interrupted; the same command goes on from here")
}

/// The one file that is meant.
fn choose(mut files: Vec<FoundFile>, query: &Query) -> Result<FoundFile, DaemonError> {
    let what = match (&query.name, &query.id) {
        (_, Some(id)) => id.to_string(),
        (Some(name), None) => name.to_string(),
        (None, None) => "nothing".into(),
    };
    match files.len() {
        0 => Err(DaemonError::new(Fault::NotFound, format!("nobody has {what}, says the tracker"))),
        1 => Ok(files.remove(0)),
        count => {
            let mut text = format!("{count} different files are called {what}; choose one with --id:");
            for found in &files {
                text += &format!("\n  --id {}  {} bytes, held by", found.file.id, found.file.size);
                for holder in found.whole.iter().chain(&found.partial) {
                    text += &format!(" {holder}");
                }
            }
            Err(DaemonError::new(Fault::Usage, text))
        }
    }
}
