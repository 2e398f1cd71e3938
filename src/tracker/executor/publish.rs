//! Publishes the files of the tracker's folder: updates the catalogue and the offered files when the folder changes.
//!
//! Invariant: a file is offered under its name only after its manifest is durable in the catalogue, and is reported
//! only after it is offered.

use super::Inner;
use crate::content::fmt::counted;
use crate::content::limits::{FOLDER_SCAN_INTERVAL, FOLDER_SCAN_PAUSE_FACTOR};
use crate::content::{FileId, FileName, Md5};
use crate::protocol::tracker::FileSummary;
use crate::protocol::volunteer::KeptFile;
use crate::storage::shared_folder::{FolderChange, SharedContent, SharedFile, SharedFolder};
use crate::storage::{ChunkSource as _, StoreError};
use crate::swarm::keeping::TaskOutcome;
use crate::sync::lock;
use crate::tracker::store::CatalogueError;
use crate::upload::offers::Offer;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fs, io};

/// The publisher must end: at the shutdown, or because the catalogue cannot be written.
struct Halt;

/// State of the thread that scans the folder.
pub(super) struct Publisher {
    inner: Arc<Inner>,
    folder: Arc<SharedFolder>,
    /// Name of this program's log file, if it is in the folder.
    own_log: Option<FileName>,
    /// Whether the last scan failed: the error is logged once.
    unreadable: bool,
    /// Number of successful scans.
    scans: u64,
    /// Whether [`TaskOutcome::ScanComplete`] has been sent.
    first_scan_reported: bool,
}

impl Publisher {
    /// Starts the thread, which ends at the shutdown.
    pub(super) fn start(inner: &Arc<Inner>, folder: Arc<SharedFolder>, log_file: &Path) -> io::Result<()> {
        let own_log = folder.name_of(log_file);
        let mut publisher = Self {
            inner: inner.clone(),
            folder,
            own_log,
            unreadable: false,
            scans: 0,
            first_scan_reported: false,
        };
        inner.threads.spawn("publish", move || {
            while let Ok(pause) = publisher.scan() {
                if publisher.inner.shutdown.wait(pause) {
                    break;
                }
            }
        })
    }

    /// Scans the folder once: publishes new items, withdraws removed and changed ones. Returns the pause until the next
    /// scan.
    fn scan(&mut self) -> Result<Duration, Halt> {
        let started = Instant::now();
        let scan = match self.folder.rescan() {
            Ok(scan) => scan,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    log::warn!("{error}");
                }
                return Ok(FOLDER_SCAN_INTERVAL);
            }
        };
        let pause = FOLDER_SCAN_INTERVAL.max(started.elapsed() * FOLDER_SCAN_PAUSE_FACTOR);
        self.unreadable = false;
        self.scans += 1;
        for change in scan.changes {
            self.apply(change)?;
        }
        for name in scan.to_hash {
            if Some(&name) != self.own_log.as_ref() {
                self.hash(&name)?;
            }
        }
        // A file that is still being written at the second scan counts as new: the report does not wait for it.
        if !self.first_scan_reported && (scan.unsettled == 0 || self.scans > 1) {
            self.first_scan_reported = true;
            log::info!("offering {} of {}", self.offered(), self.folder.path().display());
            self.inner.report(TaskOutcome::ScanComplete);
        }
        Ok(pause)
    }

    /// The number of offered files, and of folders if there are some.
    fn offered(&self) -> String {
        let items = self.folder.files();
        let is_folder = |item: &&SharedFile| matches!(*item.file, SharedContent::Folder(_));
        let folders = items.iter().filter(is_folder).count();
        let files = counted((items.len() - folders) as u64, "file");
        match folders {
            0 => files,
            _ => format!("{files} and {}", counted(folders as u64, "folder")),
        }
    }

    fn hash(&self, name: &FileName) -> Result<(), Halt> {
        let size = self.folder.size_of(name);
        let watch = self.inner.watch.separate();
        watch.begin(&format!("hashing {name}"), size, 0);
        let hashed = |bytes| watch.advance(bytes);
        let chunk_size = self.kept_chunk_size(name, size);
        let stop = || self.inner.shutdown.is_stopped();
        let hashed = self.folder.hash_in_chunks(name, chunk_size, &hashed, &stop);
        watch.end();
        match hashed {
            Ok(Some(change)) => self.apply(change),
            Ok(None) => Ok(()),
            Err(_) if self.inner.shutdown.is_stopped() => Err(Halt),
            Err(error) => {
                log::warn!("{error}");
                Ok(())
            }
        }
    }

    /// The chunk size of a file in the catalogue with this name and size. With the default chunk size of another
    /// version, an unchanged file would be a new one, without replicas.
    fn kept_chunk_size(&self, name: &FileName, size: u64) -> Option<u32> {
        let known = lock(&self.inner.known);
        let mut same = known.values().filter(|kept| kept.file.name == *name && kept.file.size == size);
        let id = same.next().map(|kept| kept.file.id)?;
        drop(known);
        let chunk_size = self.inner.manifest(id)?.layout().chunk_size();
        (chunk_size > 0).then_some(chunk_size)
    }

    fn apply(&self, change: FolderChange) -> Result<(), Halt> {
        match change {
            FolderChange::Added(file) => self.publish_new(&file),
            FolderChange::Removed { name, id, corrupt } => {
                let _offer_lock = self.inner.lock_offers();
                self.inner.offers.withdraw_file(&name, id);
                let updated = self.inner.update_corrupt(&self.folder, (&name, id), corrupt);
                self.or_halt(updated)?;
                let other = self.folder.by_id(id);
                if other.is_some() {
                    self.inner.report(TaskOutcome::Named(id, name.clone(), false));
                }
                match (other, self.inner.known(id)) {
                    (None, Some(_)) => self.report_withdrawn(&name, id),
                    (None, None) => self.inner.ignore(id, false),
                    // The remaining name becomes the file's name.
                    (Some(other), Some(kept)) if kept.file.name == name => {
                        return self.publish(&other, KeptFile { file: summary(&other), ..kept });
                    }
                    (Some(_), _) => {
                        log::info!(
                            "{name} was removed or changed; its content is still offered under another name"
                        )
                    }
                }
                Ok(())
            }
            FolderChange::Skipped { name, why } => {
                log::warn!("{name} not offered: {why}");
                Ok(())
            }
        }
    }

    /// Reports that a file of the catalogue is no longer in the folder. The state machine knows which copies remain.
    fn report_withdrawn(&self, name: &FileName, id: FileId) {
        match fs::symlink_metadata(self.folder.path_of(name)) {
            Ok(_) => log::info!("{name} has changed ({})", id.short()),
            Err(_) => log::info!("{name} was removed ({})", id.short()),
        }
        self.inner.report(TaskOutcome::Withdrawn(id));
    }

    /// Publishes a new file, unless it was forgotten. Computes its MD5 if the catalogue does not have it.
    fn publish_new(&self, file: &SharedFile) -> Result<(), Halt> {
        let SharedFile { name, id, .. } = file;
        if self.or_halt(self.inner.is_still_corrupt(&self.folder, file))? {
            return Ok(());
        }
        if self.inner.is_ignored(*id) {
            log::info!("{name} not offered: it was forgotten; restart the tracker to offer it again");
            return Ok(());
        }
        let known = self.inner.known(*id);
        let has_its_name =
            |kept: &KeptFile| self.folder.by_name(&kept.file.name).is_some_and(|file| file.id == *id);
        let kept = match known {
            // A second copy of a published file changes nothing.
            Some(kept) if kept.file.name != *name && has_its_name(&kept) => kept,
            Some(kept) if !lock(&self.inner.claimed_md5).contains(id) => {
                KeptFile { file: summary(file), ..kept }
            }
            _ => match self.md5(file) {
                Ok(md5) => KeptFile { file: summary(file), md5 },
                Err(_) if self.inner.shutdown.is_stopped() => return Err(Halt),
                Err(error) => {
                    // The next scan detects that the file was changed or removed.
                    log::warn!("{name} not offered: {error}");
                    return Ok(());
                }
            },
        };
        let _offer_lock = self.inner.lock_offers();
        lock(&self.inner.claimed_md5).remove(id);
        self.publish(file, kept)
    }

    fn publish(&self, file: &SharedFile, kept: KeptFile) -> Result<(), Halt> {
        self.or_halt(self.inner.publish(&self.folder, file, kept))
    }

    /// Reports a failed catalogue.
    fn or_halt<T>(&self, result: Result<T, CatalogueError>) -> Result<T, Halt> {
        result.map_err(|error| {
            self.inner.fail(error);
            Halt
        })
    }

    fn md5(&self, file: &SharedFile) -> Result<Md5, StoreError> {
        let watch = self.inner.watch.separate();
        watch.begin(&format!("MD5 of {}", file.name), file.size, 0);
        let hashed = |bytes| watch.advance(bytes);
        let md5 = file.file.md5(&hashed, &|| self.inner.shutdown.is_stopped());
        watch.end();
        md5
    }
}

impl Inner {
    /// Adds a file to the catalogue, offers it and reports it. The caller holds [`Inner::offer_lock`].
    ///
    /// A second copy of a published file is reported under the name of the first, with its own as a further name.
    pub(super) fn publish(
        &self,
        folder: &SharedFolder,
        file: &SharedFile,
        kept: KeptFile,
    ) -> Result<(), CatalogueError> {
        let SharedFile { name, file: whole, id, .. } = file;
        let Some(manifest) = whole.manifest().filter(|_| !self.is_ignored(*id)) else { return Ok(()) };
        self.add_to_catalogue(&kept, &manifest)?;
        // The tracker itself may have deleted the file while it was hashed.
        if folder.by_name(name).is_none_or(|there| there.id != *id) {
            return Ok(());
        }
        self.offers.offer(Offer { file: summary(file), source: whole.clone() });
        log::info!("offering {name}, {} bytes, id {id}, MD5 {}", file.size, kept.md5);
        let further_name = (kept.file.name != *name).then(|| TaskOutcome::Named(*id, name.clone(), true));
        self.report(TaskOutcome::Published { kept, layout: manifest.layout().clone() });
        further_name.into_iter().for_each(|named| self.report(named));
        Ok(())
    }
}

fn summary(file: &SharedFile) -> FileSummary {
    FileSummary { id: file.id, name: file.name.clone(), size: file.size, chunks: file.chunks }
}
