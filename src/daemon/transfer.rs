//! One file from being named to being in place: find it, choose, get its manifest, download, rename.
//!
//! What a leecher does once and a client does at each `get`. Invariant: the file appears under its name only when
//! every chunk of it has been verified, and its MD5 where the tracker tells one; until then what is verified is kept beside it, and a later run goes on
//! from there.

use super::announcer::Outage;
use super::download::{self, Download};
use super::error::{DaemonError, Fault};
use super::fetch::Conversation;
use super::finder::{Finder, find_with_retries, interrupted};
use super::lookup::Query;
use super::next_step::quoted;
use super::peer::DiscoveredPeer;
use super::relay::Relay;
use super::watch::Watch;
use crate::content::limits::{LOOKUP_INTERVAL_ALONE, VERIFY_SAMPLE};
use crate::content::{FileId, FileName, Manifest, Md5};
use crate::net::{Shutdown, Threads, Timeouts, side_by_side};
use crate::protocol::tracker::{FileSummary, FoundFile};
use crate::storage::verify::CheckWatch;
use crate::storage::{PartFile, StoreError, Verify, WholeFile};
use crossbeam_channel::Receiver;
use std::borrow::Cow;
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Holders that are asked for a manifest at once.
const ASKED_AT_ONCE: usize = 4;
/// What is watched when the download itself is over.
pub const CHECKING_MD5: &str = "checking MD5";
/// How often it is asked again whether somebody has the file by now.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What to tell people who have a choice: each program lets them make it in its own way.
#[derive(Debug, Clone)]
pub struct Advice {
    /// What to write before the id of one of several files of the same name.
    pub choose: &'static str,
    /// What to do about another file that is in the way.
    pub in_the_way: &'static str,
    /// The command that lists the offered files.
    pub list: Cow<'static, str>,
}

/// How much of what is there already is read again before it counts.
#[derive(Debug, Clone, Copy)]
pub struct Recheck {
    /// Of a file that is in place. Nothing vouches for it but its bytes.
    pub in_place: Verify,
    /// Of what an earlier run has left, for which its have-map vouches.
    pub resumed: Verify,
}

impl Recheck {
    /// What the user says, for both; or else all of a file in place, and nothing that the have-map vouches for.
    pub fn new(asked: Option<Verify>) -> Self {
        Self { in_place: asked.unwrap_or(Verify::Full), resumed: asked.unwrap_or(Verify::None) }
    }
}

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Order {
    /// The file: its name, its id, or both.
    pub query: Query,
    /// Where the file goes: a path, or a folder; by default its name in the working directory.
    pub out: Option<PathBuf>,
    /// Whether a different file that is in the way is replaced.
    pub overwrite: bool,
    /// How much of what is there already is read again.
    pub recheck: Recheck,
    /// Whether the end waits until the file is on the disk and not just with the system.
    pub durable: bool,
    /// Gives up when nothing has arrived for so long.
    pub timeout: Option<Duration>,
    /// How long sources are waited for.
    pub timeouts: Timeouts,
    /// How long to wait for somebody to have the file, when nobody does at first.
    pub patience: Duration,
    /// What to tell people.
    pub advice: Advice,
}

/// A file that is there.
#[derive(Debug, Clone)]
pub struct Downloaded {
    /// What it is, under the name that it was offered under.
    pub file: FileSummary,
    /// Where it is.
    pub path: PathBuf,
    /// What its bytes are.
    pub manifest: Arc<Manifest>,
    /// The MD5 of the whole, where the tracker tells it.
    pub md5: Option<Md5>,
}

/// A file that has been found, and what it must be.
pub struct Located {
    /// The file, the place it goes to, its manifest.
    pub file: Downloaded,
    /// The holders known so far.
    pub holders: Vec<SocketAddr>,
}

/// What is there of a file already.
pub enum Start {
    /// All of it, in place.
    Whole(Box<WholeFile>),
    /// Some of it, or nothing yet.
    Part(Arc<PartFile>),
}

/// Finds the one file that is meant, and its manifest.
///
/// # Errors
/// Not found, ambiguous, nobody answers in time, or the shutdown.
pub fn locate(
    order: &Order,
    finder: &mut dyn Finder,
    outage: Outage,
    shutdown: &Shutdown,
) -> Result<Located, DaemonError> {
    let began = Instant::now();
    let mut files = find_with_retries(finder, &order.query, outage.clone(), shutdown)?;
    while files.is_empty() && began.elapsed() < order.patience {
        if shutdown.wait(ASK_AGAIN) {
            return Err(interrupted());
        }
        files = find_with_retries(finder, &order.query, outage.clone(), shutdown)?;
    }
    let found = choose(files, order)?;
    let path = target(order, &found.file.name)?;
    let FileSummary { id, name, size, chunks } = &found.file;
    log::info!("{name} has {size} bytes in {chunks} chunks, {} holders, id {id}", found.holders);
    let (manifest, holders) = manifest(order, finder, &found, shutdown)?;
    let layout = manifest.layout();
    let file = FileSummary { size: layout.size(), chunks: layout.count(), ..found.file };
    Ok(Located { file: Downloaded { file, path, manifest, md5: found.md5 }, holders })
}

/// The one file that is meant.
fn choose(mut files: Vec<FoundFile>, order: &Order) -> Result<FoundFile, DaemonError> {
    let what = match (&order.query.name, &order.query.id) {
        (_, Some(id)) => id.to_string(),
        (Some(name), None) => name.to_string(),
        (None, None) => "nothing".into(),
    };
    match files.len() {
        0 => {
            let list = &order.advice.list;
            let text = format!("{what} not found: no peer offers it; list the offered files with: {list}");
            Err(DaemonError::new(Fault::NotFound, text))
        }
        1 => Ok(files.remove(0)),
        count => {
            let choose = order.advice.choose;
            let mut text = format!("{count} different files are called {what}; choose one with {choose}:");
            for found in &files {
                text += &format!("\n  {choose} {}  {} bytes, held by", found.file.id, found.file.size);
                for holder in found.whole.iter().chain(&found.partial) {
                    text += &format!(" {holder}");
                }
            }
            Err(DaemonError::new(Fault::Usage, text))
        }
    }
}

/// Where the file goes. A name that the user gave is used as it was given; one that others gave must not be hidden,
/// since what is hidden may be read by programs that nobody thinks of.
fn target(order: &Order, offered: &FileName) -> Result<PathBuf, DaemonError> {
    let name = order.query.name.as_ref().unwrap_or(offered);
    let named_here = order.out.as_ref().is_none_or(|out| out.is_dir());
    if named_here && order.query.name.is_none() && name.as_str().starts_with('.') {
        let text =
            format!("the file is called {name}, which would be hidden; say with --out where to put it");
        return Err(DaemonError::new(Fault::Usage, text));
    }
    let target = match &order.out {
        None => PathBuf::from(name.as_str()),
        Some(out) if out.is_dir() => out.join(name.as_str()),
        // The rename at the end would fail, after the whole download.
        Some(out) if out.as_os_str().as_encoded_bytes().ends_with(b"/") => {
            return Err(no_folder(out));
        }
        Some(out) => out.clone(),
    };
    let folder = match target.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    match folder.is_dir() {
        true => Ok(target),
        false => Err(no_folder(folder)),
    }
}

fn no_folder(path: &Path) -> DaemonError {
    let text = format!(
        "{} is not a folder that the file can be put in; create it with: mkdir -p {}",
        path.display(),
        quoted(&path.display().to_string())
    );
    DaemonError::new(Fault::FileAccess, text)
}

/// Fetches the manifest from a holder: from any, because it is checked against the id.
fn manifest(
    order: &Order,
    finder: &mut dyn Finder,
    found: &FoundFile,
    shutdown: &Shutdown,
) -> Result<(Arc<Manifest>, Vec<SocketAddr>), DaemonError> {
    let started = Instant::now();
    let id = found.file.id;
    let query = Query { name: None, id: Some(id) };
    let mut found = found.clone();
    loop {
        let holders: Vec<SocketAddr> = found.whole.iter().chain(&found.partial).copied().collect();
        if let Some(manifest) = first_manifest(id, &holders, order.timeouts, shutdown) {
            return Ok((Arc::new(manifest), holders));
        }
        if order.timeout.is_some_and(|timeout| started.elapsed() >= timeout) {
            let text = format!("none of {} holders gives the manifest of {id}", holders.len());
            return Err(DaemonError::new(Fault::NobodyHasAll, text));
        }
        if shutdown.wait(LOOKUP_INTERVAL_ALONE) {
            return Err(interrupted());
        }
        if let Some(file) = finder.find(&query, shutdown).ok().and_then(|files| files.into_iter().next()) {
            found = file;
        }
    }
}

/// Asks a few holders at once, so that one that is silent delays nobody, and takes the first answer.
fn first_manifest(
    id: FileId,
    holders: &[SocketAddr],
    timeouts: Timeouts,
    shutdown: &Shutdown,
) -> Option<Manifest> {
    let race = shutdown.child();
    let next = AtomicUsize::new(0);
    let won = Mutex::new(None);
    side_by_side("manifest", holders.len().min(ASKED_AT_ONCE), || {
        while let Some(holder) = holders.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = Conversation::open(*holder, None, timeouts, &race)
                .and_then(|mut conversation| conversation.manifest(id, &race));
            match answer {
                Ok(manifest) => {
                    won.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(manifest);
                    race.trigger();
                }
                Err(_) if race.is_stopped() => return,
                Err(why) => log::info!("no manifest from {holder}: {why}"),
            }
        }
    });
    won.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at what is there already: the finished file, or what an earlier run has got of it.
///
/// # Errors
/// Another file is in the way, another process downloads it, no room, or the shutdown.
pub fn start(
    order: &Order,
    file: &Downloaded,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<Start, DaemonError> {
    let Downloaded { path, manifest, .. } = file;
    if path.exists() {
        let verify = order.recheck.in_place;
        let check = |watch: CheckWatch<'_>| WholeFile::check(path, manifest.clone(), verify, watch);
        match checking(&path.display(), watch, shutdown, check)? {
            Some(whole) => {
                log::info!("{} is already here and complete{}", path.display(), how_sure(verify));
                return Ok(Start::Whole(Box::new(whole)));
            }
            None if !order.overwrite => {
                let (path, advice) = (path.display(), order.advice.in_the_way);
                let text = format!("{path} is there already and is another file; {advice}");
                return Err(DaemonError::new(Fault::ExistsAndDiffers, text));
            }
            None => {}
        }
    } else if path.is_symlink() && !order.overwrite {
        let text = format!(
            "{} is there already, a link that leads nowhere; --overwrite replaces it, --out puts the file elsewhere",
            path.display()
        );
        return Err(DaemonError::new(Fault::ExistsAndDiffers, text));
    }
    let part = PartFile::open(path, manifest.clone())?;
    if part.is_doubtful() {
        log::warn!("what the last run left of {} is read again, since a have-map is no use", path.display());
    }
    let what = format!("what is here of {}", path.display());
    let checked = checking(&what, watch, shutdown, |watch| part.check(order.recheck.resumed, watch))?;
    if checked.bad > 0 {
        log::warn!("{} chunks that were here are not what they should be and are fetched again", checked.bad);
    }
    if checked.found > 0 {
        log::info!("{} chunks are here that no have-map named", checked.found);
    }
    Ok(Start::Part(Arc::new(part)))
}

/// Checks something while somebody looks on.
fn checking<T>(
    what: &dyn std::fmt::Display,
    watch: &dyn Watch,
    shutdown: &Shutdown,
    check: impl FnOnce(CheckWatch<'_>) -> Result<T, StoreError>,
) -> Result<T, DaemonError> {
    let began = Cell::new(false);
    let end = || {
        if began.replace(false) {
            watch.end()
        }
    };
    let begin = |bytes| {
        end();
        began.set(true);
        log::debug!("checking {what}: {bytes} bytes to read");
        watch.begin(&format!("checking {what}"), bytes, 0);
    };
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let checked = check(CheckWatch { begin: &begin, hashed: &hashed, stop: &stop });
    end();
    match checked {
        Err(StoreError::Stopped) => Err(interrupted()),
        checked => Ok(checked?),
    }
}

/// What less than a full check leaves open.
fn how_sure(verify: Verify) -> String {
    match verify {
        Verify::Full => String::new(),
        Verify::Sample => format!(", as far as {VERIFY_SAMPLE} chunks of it tell"),
        Verify::None => ", as far as its size tells: it was not read".to_owned(),
    }
}

/// What a download takes from whoever serves beside it.
pub struct ServingContext {
    /// Joined by whoever serves, when that ends.
    pub threads: Threads,
    /// Passes chunks on as they come, if this peer serves.
    pub relay: Option<Relay>,
    /// Where this peer serves, if it does.
    pub port: Option<u16>,
    /// Peers that have asked this one.
    pub discovered: Option<Receiver<DiscoveredPeer>>,
}

/// Downloads what is missing and puts the file in place. One of the threads beside it may wait for the disk
/// a little longer.
///
/// # Errors
/// Nobody has it all, nothing arrives, it cannot be stored, or the shutdown.
pub fn complete(
    order: &Order,
    located: Located,
    part: &Arc<PartFile>,
    finder: Box<dyn Finder>,
    beside: ServingContext,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<Downloaded, DaemonError> {
    let Located { file, holders } = located;
    let download = Download {
        id: file.file.id,
        manifest: file.manifest.clone(),
        part: part.clone(),
        holders,
        finder,
        relay: beside.relay,
        port: beside.port,
        discovered: beside.discovered,
        timeout: order.timeout,
        timeouts: order.timeouts,
        watch,
    };
    download::run(download, &beside.threads, shutdown)?;
    log::info!("All download threads completed");
    if let Some(md5) = file.md5 {
        check_md5(md5, &file, part, watch, shutdown)?;
    }
    part.finish(order.overwrite, order.durable)?;
    log::info!("Download complete. File size: {} bytes", file.file.size);
    Ok(file)
}

/// A second look at a file whose chunks are all right, before it gets its name.
fn check_md5(
    wanted: Md5,
    file: &Downloaded,
    part: &PartFile,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<(), DaemonError> {
    watch.begin(CHECKING_MD5, file.file.size, 0);
    let got = part.md5(&|bytes| watch.advance(bytes), &|| shutdown.is_stopped());
    watch.end();
    match got {
        Ok(got) if got == wanted => {
            log::info!("MD5 {got} of {} is right", file.file.name);
            Ok(())
        }
        Ok(got) => {
            let path = file.path.display();
            let text = format!("{path}: the MD5 of what arrived is {got}, and the tracker says {wanted}");
            Err(DaemonError::new(Fault::VerificationFailed, text))
        }
        Err(StoreError::Stopped) => Err(interrupted()),
        Err(error) => Err(error.into()),
    }
}
