//! Offers the files of a folder: polls it, hashes new files, withdraws changed and removed ones.
//!
//! Small files are hashed by the thread that polls, the smallest first; large files by a thread of their own, so that they
//! delay no small file.

use super::Inner;
use crate::content::FileName;
use crate::content::fmt::counted;
use crate::content::limits::FOLDER_SCAN_INTERVAL;
use crate::protocol::tracker::FileSummary;
use crate::report::watch::Watch;
use crate::storage::shared_folder::{FolderChange, SharedFile};
use crate::sync::lock;
use crate::upload::offers::Offer;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Size from which on a file is hashed by the thread for large files.
const LARGE_FILE_BYTES: u64 = 16 * 1024 * 1024;
/// Number of changes of one scan up to which each has a log line of its own.
const LOGGED_CHANGES_MAX: usize = 16;
/// Interval at which the files hashed so far are announced during a long scan.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(5);
/// A scan of a large folder is repeated after a multiple of its duration, which limits its share of the processor.
const SCAN_PAUSE_FACTOR: u32 = 4;

/// Large files to hash, the smallest first, and the signal that there are some.
#[derive(Clone)]
struct LargeFiles {
    names: Arc<Mutex<VecDeque<FileName>>>,
    /// Whether one is being hashed that is not in the queue any more.
    is_hashing: Arc<AtomicBool>,
    wake: Sender<()>,
}

/// Thread that polls the folder.
pub(super) struct FolderWatch {
    inner: Arc<Inner>,
    /// Name of this program's log, if the log is in the folder.
    own_log: Option<FileName>,
    /// Whether the last scan failed: the error is logged once.
    unreadable: bool,
    large: LargeFiles,
}

impl FolderWatch {
    /// Starts the threads; they end at the shutdown.
    pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
        let own_log = inner.folder.name_of(&inner.config.log_file);
        if let Some(name) = &own_log {
            log::info!("{name} is not shared: it is the log of this program");
        }
        let (wake, woken) = bounded(1);
        let large = LargeFiles { names: Arc::default(), is_hashing: Arc::default(), wake };
        let mut watch = Self { inner: inner.clone(), own_log, unreadable: false, large: large.clone() };
        let hashing = inner.clone();
        inner.threads.spawn("hash", move || hash_large_files(&hashing, &large, &woken))?;
        inner.threads.spawn("folder", move || {
            let mut pause = watch.scan();
            watch.log_shared();
            while !watch.inner.shutdown.wait(pause) {
                pause = watch.scan();
            }
        })
    }

    /// Logs the number of shared files, and of those that are being hashed.
    fn log_shared(&self) {
        let folder = self.inner.folder.path().display();
        let files = |count: usize| counted(count as u64, "file");
        let (shared, hashing) = (self.inner.offers.list().len(), self.large.unhashed());
        match (shared, hashing) {
            (0, 0) => log::info!("{folder} has no files to share; files that are put there will be shared"),
            (0, hashing) => log::info!("hashing {} of {folder}", files(hashing)),
            (shared, 0) => log::info!("sharing {} of {folder}", files(shared)),
            (shared, hashing) => {
                log::info!("sharing {} of {folder}, hashing {}", files(shared), files(hashing));
            }
        }
    }

    /// Scans the folder and hashes new files. Returns the pause before the next scan.
    fn scan(&mut self) -> Duration {
        let started = Instant::now();
        let scan = match self.inner.folder.rescan() {
            Ok(scan) => scan,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    log::warn!("{error}");
                }
                return FOLDER_SCAN_INTERVAL;
            }
        };
        let pause = FOLDER_SCAN_INTERVAL.max(started.elapsed() * SCAN_PAUSE_FACTOR);
        self.unreadable = false;
        let mut changes = Changes::new(&self.inner, scan.changes.len());
        scan.changes.into_iter().for_each(|change| changes.apply(change));
        changes.finish();
        let (small, large) = self.by_size(scan.to_hash);
        self.large.replace(large);
        let mut changes = Changes::new(&self.inner, small.len());
        let watch = self.inner.watch.separate();
        if !small.is_empty() {
            let title = format!("hashing {}", counted(small.len() as u64, "file"));
            watch.begin(&title, small.iter().map(|name| size(&self.inner, name)).sum(), 0);
        }
        for name in small {
            match hash(&self.inner, &name, &*watch) {
                Some(change) => changes.apply(change),
                None if self.inner.shutdown.is_stopped() => break,
                None => {}
            }
        }
        watch.end();
        changes.finish();
        pause
    }

    /// Splits files into small and large ones, each the smallest first.
    fn by_size(&self, names: Vec<FileName>) -> (Vec<FileName>, Vec<FileName>) {
        let names = names.into_iter().filter(|name| Some(name) != self.own_log.as_ref());
        let mut sized: Vec<(u64, FileName)> = names.map(|name| (size(&self.inner, &name), name)).collect();
        sized.sort_unstable();
        let large = sized.partition_point(|(size, _)| *size < LARGE_FILE_BYTES);
        let large = sized.split_off(large);
        let names = |sized: Vec<(u64, FileName)>| sized.into_iter().map(|(_, name)| name).collect();
        (names(sized), names(large))
    }
}

impl LargeFiles {
    /// Number of files that are not hashed yet.
    fn unhashed(&self) -> usize {
        lock(&self.names).len() + usize::from(self.is_hashing.load(Ordering::Relaxed))
    }

    /// Replaces the queue by the files of a newer scan.
    fn replace(&self, names: Vec<FileName>) {
        let is_empty = names.is_empty();
        *lock(&self.names) = names.into();
        if !is_empty {
            let _ = self.wake.try_send(());
        }
    }
}

/// Hashes and offers large files until the shutdown.
fn hash_large_files(inner: &Inner, large: &LargeFiles, woken: &Receiver<()>) {
    loop {
        let mut names = lock(&large.names);
        let next = names.pop_front();
        large.is_hashing.store(next.is_some(), Ordering::Relaxed);
        drop(names);
        match next {
            Some(name) => {
                let watch = inner.watch.separate();
                watch.begin(&format!("hashing {name}"), size(inner, &name), 0);
                let change = hash(inner, &name, &*watch);
                watch.end();
                change.into_iter().for_each(|change| apply(inner, change));
            }
            None => crossbeam_channel::select! {
                recv(inner.shutdown.signal()) -> _ => return,
                recv(woken) -> _ => {}
            },
        }
        if inner.shutdown.is_stopped() {
            return;
        }
    }
}

/// Size of a file of the folder, bytes; 0 if it is not there.
fn size(inner: &Inner, name: &FileName) -> u64 {
    inner.folder.path_of(name).metadata().map_or(0, |metadata| metadata.len())
}

/// Hashes a file. `None` without a change, or after an error that is logged.
fn hash(inner: &Inner, name: &FileName, watch: &dyn Watch) -> Option<FolderChange> {
    match inner.folder.hash(name, &|bytes| watch.advance(bytes), &|| inner.shutdown.is_stopped()) {
        Ok(change) => change,
        Err(_) if inner.shutdown.is_stopped() => None,
        Err(error) => {
            log::warn!("{error}");
            None
        }
    }
}

/// Changes of one scan: a line of the log for each of a few, and one line for all of many.
struct Changes<'a> {
    inner: &'a Inner,
    level: log::Level,
    added: u64,
    bytes: u64,
    removed: u64,
    skipped: u64,
    /// The first skipped file, with the reason.
    example: Option<(String, String)>,
    announced: Instant,
}

impl<'a> Changes<'a> {
    /// Expects a number of changes.
    fn new(inner: &'a Inner, expected: usize) -> Self {
        let level = if expected > LOGGED_CHANGES_MAX { log::Level::Debug } else { log::Level::Info };
        let (added, bytes, removed, skipped, example) = (0, 0, 0, 0, None);
        Self { inner, level, added, bytes, removed, skipped, example, announced: Instant::now() }
    }

    fn apply(&mut self, change: FolderChange) {
        match &change {
            FolderChange::Added(file) => (self.added, self.bytes) = (self.added + 1, self.bytes + file.size),
            FolderChange::Removed { .. } => self.removed += 1,
            FolderChange::Skipped { name, why } => {
                self.skipped += 1;
                self.example.get_or_insert_with(|| (name.clone(), why.clone()));
            }
        }
        record(self.inner, change, self.level);
        if self.announced.elapsed() >= ANNOUNCE_INTERVAL {
            self.inner.nudge();
            self.announced = Instant::now();
        }
    }

    /// Logs the sums of many changes, and announces all of them.
    fn finish(self) {
        let files = |count| counted(count, "file");
        if self.level == log::Level::Debug {
            if self.added > 0 {
                log::info!("added {}, {} bytes", files(self.added), self.bytes);
            }
            if self.removed > 0 {
                log::info!("stopped sharing {} that were changed or removed", files(self.removed));
            }
            if let Some((name, why)) = self.example {
                log::warn!("{} not shared, for example {name}: {why}", files(self.skipped));
            }
        }
        if self.added + self.removed > 0 {
            self.inner.nudge();
        }
    }
}

/// Applies a change of the folder to the offers and announces it.
pub(super) fn apply(inner: &Inner, change: FolderChange) {
    record(inner, change, log::Level::Info);
    inner.nudge();
}

/// Applies a change of the folder to the offers, then logs it: a logged file is already offered.
fn record(inner: &Inner, change: FolderChange, level: log::Level) {
    match change {
        FolderChange::Added(SharedFile { name, file, id, size, chunks }) => {
            let summary = FileSummary { id, name: name.clone(), size, chunks };
            inner.offers.offer(Offer { file: summary, source: file });
            log::log!(level, "sharing {name}, {size} bytes, id {id}");
        }
        FolderChange::Removed { name, id, .. } => {
            // Unless another file has been offered under this name meanwhile.
            inner.offers.withdraw_file(&name, id);
            log::log!(level, "stopped sharing {name}: it was changed or removed");
        }
        FolderChange::Skipped { name, why } => {
            let level = if level == log::Level::Info { log::Level::Warn } else { level };
            log::log!(level, "{name} is not shared: {why}");
        }
    }
}
