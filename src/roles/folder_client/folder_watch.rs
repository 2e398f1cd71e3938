//! Offers the files of a folder: polls it, hashes new files, withdraws changed and removed ones.

use super::Inner;
use crate::content::FileName;
use crate::content::fmt::counted;
use crate::content::limits::FOLDER_SCAN_INTERVAL;
use crate::protocol::tracker::FileSummary;
use crate::storage::shared_folder::{FolderChange, SharedFile};
use crate::upload::offers::Offer;
use std::io;
use std::sync::Arc;

/// Thread that polls the folder.
pub(super) struct FolderWatch {
    inner: Arc<Inner>,
    /// Name of this program's log, if the log is in the folder.
    own_log: Option<FileName>,
    /// Whether the last scan failed: the error is logged once.
    unreadable: bool,
}

impl FolderWatch {
    /// Starts the thread; it ends at the shutdown.
    pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
        let own_log = inner.folder.name_of(&inner.config.log_file);
        if let Some(name) = &own_log {
            log::info!("{name} is not shared: it is the log of this program");
        }
        let mut watch = Self { inner: inner.clone(), own_log, unreadable: false };
        inner.threads.spawn("folder", move || {
            watch.scan();
            let files = counted(watch.inner.offers.list().len() as u64, "file");
            log::info!("sharing {files} of {}", watch.inner.folder.path().display());
            while !watch.inner.shutdown.wait(FOLDER_SCAN_INTERVAL) {
                watch.scan();
            }
        })
    }

    fn scan(&mut self) {
        let scan = match self.inner.folder.rescan() {
            Ok(scan) => scan,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    log::warn!("{error}");
                }
                return;
            }
        };
        self.unreadable = false;
        scan.changes.into_iter().for_each(|change| apply(&self.inner, change));
        for name in scan.to_hash {
            if Some(&name) == self.own_log.as_ref() {
                continue;
            }
            let stop = || self.inner.shutdown.is_stopped();
            match self.inner.folder.hash(&name, &|_| {}, &stop) {
                Ok(Some(change)) => apply(&self.inner, change),
                Ok(None) => {}
                Err(_) if self.inner.shutdown.is_stopped() => return,
                Err(error) => log::warn!("{error}"),
            }
        }
    }
}

/// Applies a change of the folder to the offers, then logs it: a logged file is already offered.
pub(super) fn apply(inner: &Inner, change: FolderChange) {
    match change {
        FolderChange::Added(SharedFile { name, file, id, size, chunks }) => {
            let summary = FileSummary { id, name: name.clone(), size, chunks };
            inner.offers.offer(Offer { file: summary, source: file });
            log::info!("sharing {name}, {size} bytes, id {id}");
        }
        FolderChange::Removed { name, id, .. } => {
            // Unless another file has been offered under this name meanwhile.
            inner.offers.withdraw_file(&name, id);
            log::info!("stopped sharing {name}: it was changed or removed");
        }
        FolderChange::Skipped { name, why } => log::warn!("{name} is not shared: {why}"),
    }
    inner.nudge();
}
