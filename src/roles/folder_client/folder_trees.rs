//! Offers each sub-folder of a folder as one item: scans it, hashes it when it no longer changes, and follows its changes.

use super::Inner;
use crate::content::fmt::counted;
use crate::content::limits::FOLDER_SCAN_INTERVAL;
use crate::content::{Digest, FileName};
use crate::protocol::tracker::FileSummary;
use crate::storage::tree::{PublishError, ScanOptions, TreeScan, TreeSource};
use crate::storage::{ChunkSource as _, StoreError};
use crate::upload::offers::Offer;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The scans of large folders are repeated after a multiple of their duration, which limits their share of the processor.
const SCAN_PAUSE_FACTOR: u32 = 30;

/// Thread that offers the sub-folders.
pub(super) struct FolderTrees {
    inner: Arc<Inner>,
    trees: BTreeMap<FileName, Tree>,
    /// Names of sub-folders that cannot be offered: each is logged once.
    refused: BTreeSet<String>,
}

/// A sub-folder at its last scans.
#[derive(Default)]
struct Tree {
    /// Digest of the index at the last scan. The folder is hashed when two scans find the same.
    scanned: Option<Digest>,
    /// The offered version, and the digest of its index.
    offered: Option<(Arc<TreeSource>, Digest)>,
    /// The last warning: each is logged once.
    warning: String,
}

impl FolderTrees {
    /// Starts the thread; it ends at the shutdown.
    pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
        let mut trees = Self { inner: inner.clone(), trees: BTreeMap::new(), refused: BTreeSet::new() };
        inner.threads.spawn("trees", move || {
            let mut pause = Duration::ZERO;
            while !trees.inner.shutdown.wait(pause) {
                let began = Instant::now();
                trees.scan();
                pause = FOLDER_SCAN_INTERVAL.max(began.elapsed() * SCAN_PAUSE_FACTOR);
            }
        })
    }

    fn scan(&mut self) {
        let mut names = BTreeSet::new();
        for name in self.inner.folder.subfolders() {
            match FileName::new(&name[..]) {
                Ok(name) => _ = names.insert(name),
                Err(error) if self.refused.insert(name.clone()) => {
                    log::warn!("folder {name} is not shared: {error}");
                }
                Err(_) => {}
            }
        }
        let removed: Vec<FileName> =
            self.trees.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in removed {
            if self.trees.remove(&name).is_some_and(|tree| tree.withdraw(&name, &self.inner)) {
                log::info!("stopped sharing folder {name}: it was removed");
            }
        }
        for name in names {
            if self.inner.shutdown.is_stopped() {
                return;
            }
            let mut tree = self.trees.remove(&name).unwrap_or_default();
            match tree.follow(&name, &self.inner) {
                Ok(()) => {}
                Err(_) if self.inner.shutdown.is_stopped() => return,
                Err(error) => tree.warn_once(format!("folder {name} is not shared: {error}")),
            }
            self.trees.insert(name, tree);
        }
    }
}

impl Tree {
    /// Scans the folder, and hashes and offers it if it has changed and then settled.
    fn follow(&mut self, name: &FileName, inner: &Inner) -> Result<(), PublishError> {
        let stop = || inner.shutdown.is_stopped();
        let path = inner.folder.path().join(name.as_str());
        let options = ScanOptions { omitted: Some(inner.config.log_file.clone()), ..ScanOptions::default() };
        let scan = TreeScan::new(&path, &options, &|_| (), &stop)?;
        let index = Digest::of(scan.entries().map_err(StoreError::from)?.bytes());
        let last = self.scanned.replace(index);
        // A chunk leaves the offer if its file was changed without a trace in the index.
        let is_intact = |(source, offered): &(Arc<TreeSource>, Digest)| {
            *offered == index && source.progress().is_complete()
        };
        if self.offered.as_ref().is_some_and(is_intact) {
            return Ok(());
        }
        if self.withdraw(name, inner) {
            log::warn!("folder {name} has changed; it is not offered until it has been hashed again");
        }
        self.offered = None;
        if last != Some(index) {
            if last.is_some() {
                self.warn_once(format!("folder {name} is changing; it is shared when it no longer does"));
            }
            return Ok(());
        }
        let watch = inner.watch.separate();
        watch.begin(&format!("hashing {name}"), scan.content_bytes(), 0);
        let published = TreeSource::publish(scan, None, true, &|bytes| watch.advance(bytes), &stop);
        watch.end();
        let (source, left_out) = published?;
        if let Some(first) = left_out.first() {
            let count = counted(left_out.len() as u64, "entry");
            self.warn_once(format!(
                "{count} of folder {name} cannot be sent and is left out, for example {}: {}",
                first.path, first.reason
            ));
        }
        let layout = source.content().layout();
        let (id, size) = (source.id(), layout.size());
        let file = FileSummary { id, name: name.clone(), size, chunks: layout.count() };
        let source = Arc::new(source);
        inner.offers.offer(Offer { file, source: source.clone() });
        self.offered = Some((source, index));
        log::info!("sharing folder {name}, {size} bytes, id {id}");
        inner.nudge();
        Ok(())
    }

    /// Stops offering the folder. Returns whether it was offered.
    fn withdraw(&self, name: &FileName, inner: &Inner) -> bool {
        let Some((source, _)) = &self.offered else { return false };
        inner.offers.withdraw_file(name, source.id());
        inner.nudge();
        true
    }

    fn warn_once(&mut self, text: String) {
        if self.warning != text {
            log::warn!("{text}");
            self.warning = text;
        }
    }
}
