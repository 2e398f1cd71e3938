//! Keeps the shelf in step with the folder: looks at it now and then, hashes what is new, withdraws what is gone.

use super::Inner;
use crate::content::FileName;
use crate::content::limits::FOLDER_LOOK;
use crate::daemon::shelf::Offer;
use crate::protocol::tracker::FileSummary;
use crate::storage::shared_folder::{FolderChange, SharedFile};
use std::sync::Arc;
use std::{fs, io};

/// The thread that looks at the folder.
pub(super) struct FolderWatch {
    inner: Arc<Inner>,
    /// This program's log, when it is in the folder.
    own_log: Option<FileName>,
    /// The folder could not be read the last time.
    unreadable: bool,
}

impl FolderWatch {
    /// Starts the thread, which ends at the shutdown.
    pub(super) fn start(inner: &Arc<Inner>) -> io::Result<()> {
        let own_log = own_log(inner);
        if let Some(name) = &own_log {
            log::info!("{name} is not shared: it is the log of this program");
        }
        let mut watch = Self { inner: inner.clone(), own_log, unreadable: false };
        inner.threads.spawn("folder", move || {
            watch.look();
            let offers = watch.inner.offers.list().len();
            log::info!("sharing {offers} files of {}", watch.inner.folder.path().display());
            while !watch.inner.shutdown.wait(FOLDER_LOOK) {
                watch.look();
            }
        })
    }

    fn look(&mut self) {
        let look = match self.inner.folder.look() {
            Ok(look) => look,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    log::warn!("{error}");
                }
                return;
            }
        };
        self.unreadable = false;
        look.changes.into_iter().for_each(|change| apply(&self.inner, change));
        for name in look.to_hash {
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

/// The name of this program's log in the folder.
fn own_log(inner: &Inner) -> Option<FileName> {
    let log = fs::canonicalize(&inner.config.log_file).ok()?;
    let folder = fs::canonicalize(inner.folder.path()).ok()?;
    let name = log.file_name()?.to_str()?;
    (log.parent() == Some(folder.as_path())).then(|| FileName::new(name).ok()).flatten()
}

/// Puts a change of the folder on the shelf, and then says so: what is said is so already.
pub(super) fn apply(inner: &Inner, change: FolderChange) {
    match change {
        FolderChange::Added(SharedFile { name, file, id, size, chunks }) => {
            let summary = FileSummary { id, name: name.clone(), size, chunks };
            inner.offers.offer(Offer { file: summary, source: file });
            log::info!("sharing {name}, {size} bytes, id {id}");
        }
        FolderChange::Removed { name, id } => {
            // Something else may have taken its place since.
            inner.offers.withdraw_file(&name, id);
            log::info!("{name} is gone or has changed and is not shared any more");
        }
        FolderChange::Skipped { name, why } => log::warn!("{name} is not shared: {why}"),
    }
    inner.nudge();
}
