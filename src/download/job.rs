//! Steps of a download after the file was [located](super::locate): check existing data, download, check, rename.
//!
//! Used once by a leecher, and at each `get` by a client. Invariant: the file appears under its name only
//! after every chunk has been verified, and the MD5 if the tracker states one. Until then verified chunks are
//! kept in a part file beside it, from which a later run resumes.

mod tree;

use crate::content::fmt::counted;
use crate::content::limits::{RESULT_TARGET, VERIFY_SAMPLE_COUNT};
use crate::content::tree::TreeIndex;
use crate::content::{FileName, Manifest, Md5, PeerName};
use crate::download::destination::{Destination, DestinationKind};
use crate::download::driver::{self, Download, KnownHolders};
use crate::download::finder::{Finder, SharedFinder, interrupted};
use crate::net::{RateLimit, Shutdown, Threads, Timeouts};
use crate::protocol::tracker::FileSummary;
use crate::report::error::{Fault, RoleError};
use crate::report::next_step::quoted;
use crate::report::watch::Watch;
use crate::storage::verify::VerifyCallbacks;
use crate::storage::{
    ChunkSource, CompleteFile, DeviceFile, PartFile, StoreError, StreamFile, TreePart, TreeReceiveOptions,
    Verify,
};
use crate::tracker_client::lookup::Query;
use crate::tracker_client::ticket::Ticket;
use crate::upload::relay::Relay;
use crate::upload::server::DiscoveredPeer;
use crossbeam_channel::Receiver;
use std::borrow::Cow;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Begin of the title of the progress display during the MD5 check.
pub const CHECKING_MD5: &str = "checking MD5";
/// Interval at which a part file that another process has locked is tried again.
const BUSY_INTERVAL: Duration = Duration::from_millis(250);

/// Advice in error texts; the commands differ between programs.
#[derive(Debug, Clone)]
pub struct Advice {
    /// Command or flag that chooses a file by its id.
    pub choose: &'static str,
    /// Action to take if another file exists at the destination.
    pub target_exists: &'static str,
    /// Command that lists the offered files.
    pub list: Cow<'static, str>,
}

/// Share of existing data that is rehashed.
#[derive(Debug, Clone, Copy)]
pub struct Recheck {
    /// For a file in place: only its bytes prove its content.
    pub in_place: Verify,
    /// For a part file: its resume file lists the verified chunks.
    pub resumed: Verify,
    /// Whether the stored state of a complete folder tells that its files need not be read.
    pub trusts_state: bool,
}

impl Recheck {
    /// The user's choice for all; by default all of a file in place, and nothing that a resume file or a stored state lists.
    pub fn new(chosen: Option<Verify>) -> Self {
        Self {
            in_place: chosen.unwrap_or(Verify::Full),
            resumed: chosen.unwrap_or(Verify::None),
            trusts_state: chosen != Some(Verify::Full),
        }
    }
}

/// File to download, destination, limits and texts of a download.
#[derive(Debug, Clone)]
pub struct DownloadOrder {
    /// Name, id, or both.
    pub query: Query,
    /// The ticket that names the file, if any: name and size come from it.
    pub ticket: Option<Arc<Ticket>>,
    /// Name of the local file, if it differs from the file's name.
    pub local_name: Option<FileName>,
    /// Destination: a path or a folder; by default the file's name in the working directory.
    pub out: Option<PathBuf>,
    /// Kind of the destination.
    pub kind: DestinationKind,
    /// Whether to replace a different file at the destination.
    pub overwrite: bool,
    /// Share of existing data that is rehashed.
    pub recheck: Recheck,
    /// What is received of a folder, and what is accepted.
    pub tree: TreeReceiveOptions,
    /// Whether to fsync the file before the end.
    pub durable: bool,
    /// Time without data after which the download fails.
    pub timeout: Option<Duration>,
    /// Download limit, if any.
    pub limit: Option<RateLimit>,
    /// Timeouts of the connections to sources.
    pub timeouts: Timeouts,
    /// Time to wait for the tracker or manager and a first holder.
    pub wait_timeout: Duration,
    /// Whether a file of this name is at the destination already, so that no holder is awaited.
    pub is_here: bool,
    /// Advice in error texts.
    pub advice: Advice,
}

/// A file and its local path.
#[derive(Debug, Clone)]
pub struct Downloaded {
    /// Name (as offered), id and size.
    pub file: FileSummary,
    /// Local path.
    pub path: PathBuf,
    /// Manifest of the file.
    pub manifest: Arc<Manifest>,
    /// Permission bits that a holder states.
    pub mode: Option<u32>,
    /// MD5 of the file, if the tracker states one.
    pub md5: Option<Md5>,
}

/// Result of a successful lookup.
pub struct Located {
    /// File, destination and manifest.
    pub file: Downloaded,
    /// Holders known so far.
    pub holders: KnownHolders,
}

/// Data that exists before the download.
pub enum ExistingData {
    /// The complete file or folder, in place.
    Complete(Arc<dyn ChunkSource>),
    /// An open destination that lacks chunks.
    Part(Arc<Destination>),
}

/// Destination path. A name given by the user may begin with a dot; a name given by other peers may not,
/// since hidden files can be configuration files of other programs.
pub(super) fn target(order: &DownloadOrder, offered: &FileSummary) -> Result<PathBuf, RoleError> {
    if let (Some(out), true) = (&order.out, !matches!(order.kind, DestinationKind::File)) {
        return Ok(out.clone());
    }
    let asked = order.query.name.as_ref().filter(|_| !order.query.is_found_by_id(offered));
    let given = order.local_name.as_ref().or(asked);
    let name = given.unwrap_or(&offered.name);
    let named_here = order.out.as_ref().is_none_or(|out| out.is_dir());
    if named_here && given.is_none() && name.as_str().starts_with('.') {
        let text = format!("the file is named {name}, which would be hidden; choose another path with --out");
        return Err(RoleError::new(Fault::Usage, text));
    }
    let target = match &order.out {
        None => PathBuf::from(name.as_str()),
        Some(out) if out.is_dir() => out.join(name.as_str()),
        Some(out) if order.local_name.is_some() => return Err(no_folder(out)),
        // Otherwise the final rename would fail, after the whole download.
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

/// The error of a path that must be a folder.
pub fn no_folder(path: &Path) -> RoleError {
    let text = format!(
        "{} is not a folder; create it with: mkdir -p {}",
        path.display(),
        quoted(&path.display().to_string())
    );
    RoleError::new(Fault::FileAccess, text)
}

/// Opens the destination and checks existing data: a file in place, the part file of an earlier run, or a device. While
/// another process downloads the file to the same path, waits for its end; so for the reader of a FIFO.
///
/// # Errors
/// A different file exists, no free space, not confirmed, a chunk is too large for a stream, or the shutdown.
pub fn check_existing(
    order: &DownloadOrder,
    file: &Downloaded,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<ExistingData, RoleError> {
    if file.manifest.is_tree() {
        return tree::open(order, file, watch, shutdown);
    }
    if order.kind.is_stream() {
        file.manifest.layout().check_fits_memory().map_err(StoreError::from)?;
    }
    let destination = match order.kind {
        DestinationKind::File => return check_file(order, file, watch, shutdown),
        DestinationKind::Stdout => stream_of(file, StreamFile::stdout(file.manifest.clone())?),
        DestinationKind::Fifo => stream_of(file, open_fifo(file, shutdown)?),
        DestinationKind::Device(confirm) => {
            let device = DeviceFile::open(&file.path, file.manifest.clone())?;
            let (path, size, name) = (file.path.display(), device.size(), &file.file.name);
            confirm(&format!("{path} ({size} bytes) will be overwritten with {name}"), shutdown)?;
            check_device(order, &device, watch, shutdown)?;
            Destination::Device(device)
        }
    };
    Ok(ExistingData::Part(Arc::new(destination)))
}

fn stream_of(file: &Downloaded, stream: StreamFile) -> Destination {
    Destination::Stream(if file.md5.is_some() { stream.with_md5() } else { stream })
}

/// Opens a FIFO; waits for its reader.
fn open_fifo(file: &Downloaded, shutdown: &Shutdown) -> Result<StreamFile, RoleError> {
    let mut is_waiting = false;
    loop {
        if let Some(stream) = StreamFile::fifo(&file.path, file.manifest.clone())? {
            return Ok(stream);
        }
        if !std::mem::replace(&mut is_waiting, true) {
            log::info!(
                "waiting for a program that reads from {} (Ctrl-C ends this wait)",
                file.path.display()
            );
        }
        if shutdown.wait(BUSY_INTERVAL) {
            return Err(RoleError::new(Fault::Interrupted, "interrupted; nothing was written"));
        }
    }
}

/// Looks for chunks of the file that a device already has.
fn check_device(
    order: &DownloadOrder,
    device: &DeviceFile,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    let path = device.path().display();
    let found = checking(&path, watch, shutdown, |watch| device.check(order.recheck.in_place, watch))?;
    let count = device.progress().have().0.count();
    log::info!("{path} already has {found} of {}", counted(count.into(), "chunk"));
    Ok(())
}

/// As [`check_existing`], for a file.
fn check_file(
    order: &DownloadOrder,
    file: &Downloaded,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<ExistingData, RoleError> {
    let mut is_waiting = false;
    loop {
        match check_once(order, file, watch, shutdown)? {
            // The other process may have finished the file between the two checks.
            Some(ExistingData::Part(part)) if is_waiting && file.path.exists() => drop(part),
            Some(existing) => return Ok(existing),
            None => {
                if !std::mem::replace(&mut is_waiting, true) {
                    log::info!(
                        "another process downloads {}; waiting for its end (Ctrl-C ends this wait)",
                        file.path.display()
                    );
                }
                if shutdown.wait(BUSY_INTERVAL) {
                    return Err(interrupted());
                }
            }
        }
    }
}

/// As [`check_existing`]. `None` if another process downloads the file to the same path.
fn check_once(
    order: &DownloadOrder,
    file: &Downloaded,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<Option<ExistingData>, RoleError> {
    let Downloaded { path, manifest, .. } = file;
    let mut replaces = false;
    if path.exists() {
        let verify = order.recheck.in_place;
        let check = |watch: VerifyCallbacks<'_>| CompleteFile::check(path, manifest.clone(), verify, watch);
        match checking(&path.display(), watch, shutdown, check)? {
            Some(whole) => {
                log::info!("{} exists and is complete{}", path.display(), describe_check(verify));
                return Ok(Some(ExistingData::Complete(Arc::new(whole))));
            }
            None if !order.overwrite => {
                let (path, advice) = (path.display(), order.advice.target_exists);
                let text = format!("{path} exists and is a different file; {advice}");
                return Err(RoleError::new(Fault::ExistsAndDiffers, text));
            }
            None => replaces = true,
        }
    } else if path.is_symlink() && !order.overwrite {
        let text = format!(
            "{} exists and is a dangling symbolic link; --overwrite replaces it, --out puts the file elsewhere",
            path.display()
        );
        return Err(RoleError::new(Fault::ExistsAndDiffers, text));
    }
    let part = match PartFile::open(path, manifest.clone()) {
        Err(StoreError::Busy(_)) => return Ok(None),
        part => part?.with_mode(file.mode),
    };
    if part.needs_full_check() {
        log::warn!("rehashing the part file of {}: its resume files cannot be used", path.display());
    }
    let subject = format!("the part file of {}", path.display());
    let checked = checking(&subject, watch, shutdown, |watch| part.check(order.recheck.resumed, watch))?;
    if checked.bad > 0 {
        log::warn!(
            "{} in the part file failed verification; downloading again",
            counted(checked.bad.into(), "chunk")
        );
    }
    if checked.found > 0 {
        log::info!("{} recovered that the resume file does not list", counted(checked.found.into(), "chunk"));
    }
    if replaces && !part.progress().is_complete() {
        reuse_chunks(path, &part, watch, shutdown)?;
    }
    Ok(Some(ExistingData::Part(Arc::new(Destination::File(part)))))
}

/// Copies the chunks of the file to be replaced that agree with the manifest.
fn reuse_chunks(
    path: &Path,
    part: &PartFile,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    let subject = format!("{} for chunks to reuse", path.display());
    let reused = checking(&subject, watch, shutdown, |watch| part.reuse(path, watch))?;
    let missing = part.progress().have().0.missing().count() as u64;
    if reused > 0 {
        let reused = counted(reused.into(), "chunk");
        log::info!("reusing {reused} of {}; {missing} to be downloaded", path.display());
    }
    Ok(())
}

/// Runs a check with a progress display.
fn checking<T>(
    subject: &dyn std::fmt::Display,
    watch: &dyn Watch,
    shutdown: &Shutdown,
    check: impl FnOnce(VerifyCallbacks<'_>) -> Result<T, StoreError>,
) -> Result<T, RoleError> {
    let is_shown = Cell::new(false);
    let end = || {
        if is_shown.replace(false) {
            watch.end()
        }
    };
    let begin = |bytes| {
        end();
        is_shown.set(true);
        log::debug!("checking {subject}: {bytes} bytes to read");
        watch.begin(&format!("checking {subject}"), bytes, 0);
    };
    let hashed = |bytes| watch.advance(bytes);
    let stop = || shutdown.is_stopped();
    let checked = check(VerifyCallbacks { begin: &begin, hashed: &hashed, stop: &stop });
    end();
    match checked {
        Err(StoreError::Stopped) => Err(interrupted()),
        checked => Ok(checked?),
    }
}

/// Describes the limits of a partial check.
fn describe_check(verify: Verify) -> String {
    match verify {
        Verify::Full => String::new(),
        Verify::Sample => format!(" (a sample of {VERIFY_SAMPLE_COUNT} chunks verified)"),
        Verify::None => " (only its size verified)".to_owned(),
    }
}

/// Upload server of the downloading peer, as far as a download uses it.
pub struct ServingContext {
    /// Threads of the server, joined at its end.
    pub threads: Threads,
    /// Cut-through relay of chunks that are still being received; `None` if this peer does not serve.
    pub relay: Option<Relay>,
    /// Port of the upload server, if any.
    pub port: Option<u16>,
    /// Name of the site of this peer, if its user has given it.
    pub site: Option<PeerName>,
    /// Peers that have requested this file from this peer.
    pub discovered: Option<Receiver<DiscoveredPeer>>,
}

/// Downloads the missing chunks and renames the file into place. A thread of `serving` may still be in an
/// fsync afterwards.
///
/// # Errors
/// No source has a chunk, the timeout has elapsed, a chunk cannot be stored, or the shutdown.
pub fn complete(
    order: &DownloadOrder,
    located: Located,
    destination: &Arc<Destination>,
    finder: Box<dyn Finder>,
    serving: ServingContext,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<Downloaded, RoleError> {
    let Located { file, holders } = located;
    let finder: SharedFinder = Arc::new(Mutex::new(finder));
    let download = || download_of(order, &file, (&holders, &finder), destination, &serving, watch);
    if let Some(tree) = destination.tree() {
        if !tree.has_index() {
            log::info!("{} is a folder; downloading its index first", file.file.name);
            driver::run(download(), &serving.threads, shutdown)?;
        }
        if tree::prepare(order, &file, tree, watch, shutdown)? {
            return Ok(file);
        }
    }
    let resumed = destination.present_bytes();
    let tally = driver::run(download(), &serving.threads, shutdown)?;
    log::info!(target: RESULT_TARGET, "All download threads completed");
    // Of a folder, parts can be left out, and small files share chunks: each chunk has been verified.
    if let Some(md5) = file.md5.filter(|_| destination.tree().is_none()) {
        check_md5(md5, &file, destination, watch, shutdown)?;
    }
    destination.finish(order.overwrite, order.durable)?;
    log::info!(target: RESULT_TARGET, "Download complete. File size: {} bytes", file.file.size);
    log::info!("{}", tally.summary(file.file.name.as_str(), resumed));
    Ok(file)
}

/// Downloads the index of a folder; `None` for a file. `folder` is for temporary files.
///
/// # Errors
/// No source has a chunk, the timeout has elapsed, the index is refused, or the shutdown.
pub fn fetch_index(
    order: &DownloadOrder,
    located: Located,
    folder: &Path,
    finder: Box<dyn Finder>,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<Option<TreeIndex>, RoleError> {
    let Located { file, holders } = located;
    if !file.manifest.is_tree() {
        return Ok(None);
    }
    let part = TreePart::open(&folder.join("folder"), file.manifest.clone(), order.tree.clone())?;
    let destination = Arc::new(Destination::Tree(part));
    let threads = Threads::new();
    let serving =
        ServingContext { threads: threads.clone(), relay: None, port: None, site: None, discovered: None };
    let finder: SharedFinder = Arc::new(Mutex::new(finder));
    let download = download_of(order, &file, (&holders, &finder), &destination, &serving, watch);
    let result = driver::run(download, &threads, shutdown);
    threads.join();
    result?;
    let index = destination.tree().map(TreePart::read_index).transpose()?;
    Ok(index)
}

/// The download of the chunks that a destination wants now.
fn download_of<'a>(
    order: &DownloadOrder,
    file: &Downloaded,
    (holders, finder): (&KnownHolders, &SharedFinder),
    destination: &Arc<Destination>,
    serving: &ServingContext,
    watch: &'a dyn Watch,
) -> Download<'a> {
    Download {
        id: file.file.id,
        name: file.file.name.to_string(),
        manifest: file.manifest.clone(),
        destination: destination.clone(),
        holders: holders.clone(),
        finder: finder.clone(),
        relay: serving.relay.clone(),
        port: serving.port,
        site: serving.site.clone(),
        discovered: serving.discovered.clone(),
        timeout: order.timeout,
        limit: order.limit.clone(),
        timeouts: order.timeouts,
        watch,
    }
}

/// Checks the MD5 of the received file: that of a part file before it is renamed.
fn check_md5(
    wanted: Md5,
    file: &Downloaded,
    destination: &Destination,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    watch.begin(&format!("{CHECKING_MD5} of {}", file.file.name), file.file.size, 0);
    let actual = destination.md5(&|bytes| watch.advance(bytes), &|| shutdown.is_stopped());
    watch.end();
    match actual {
        Ok(actual) if actual == wanted => {
            log::info!("MD5 {actual} of {} verified", file.file.name);
            Ok(())
        }
        Ok(actual) => {
            let path = file.path.display();
            let text =
                format!("{path}: the MD5 of the received file is {actual}, but the tracker states {wanted}");
            Err(RoleError::new(Fault::VerificationFailed, text))
        }
        Err(StoreError::Stopped) => Err(interrupted()),
        Err(error) => Err(error.into()),
    }
}
