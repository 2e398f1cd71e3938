//! Keeps the catalogue and the shelf in step with the folder of files that a tracker offers.
//!
//! Invariant: a file is on the shelf under its name only after its manifest is durable in the catalogue, and is
//! reported only after it is on the shelf.

use super::Inner;
use crate::content::fmt::counted;
use crate::content::limits::FOLDER_SCAN_INTERVAL;
use crate::content::{FileName, Md5};
use crate::protocol::tracker::FileSummary;
use crate::protocol::volunteer::KeptFile;
use crate::storage::shared_folder::{FolderChange, SharedFile, SharedFolder};
use crate::storage::{ChunkSource as _, StoreError};
use crate::swarm::keeping::TaskOutcome;
use crate::upload::offers::Offer;
use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

/// That there is nothing more to do: the shutdown has come, or the catalogue cannot be written.
struct Halt;

/// The thread that looks at the folder.
pub(super) struct Publisher {
    inner: Arc<Inner>,
    folder: Arc<SharedFolder>,
    /// This program's log, when it is in the folder.
    own_log: Option<FileName>,
    /// The folder could not be read the last time.
    unreadable: bool,
    /// Looks that have gone well.
    looks: u64,
    /// It has been said that all is published that was there.
    looked: bool,
}

impl Publisher {
    /// Starts the thread, which ends at the shutdown.
    pub(super) fn start(inner: &Arc<Inner>, folder: Arc<SharedFolder>, log_file: &Path) -> io::Result<()> {
        let own_log = own_log(&folder, log_file);
        let mut publisher =
            Self { inner: inner.clone(), folder, own_log, unreadable: false, looks: 0, looked: false };
        inner.threads.spawn("publish", move || {
            while publisher.look().is_ok() && !publisher.inner.shutdown.wait(FOLDER_SCAN_INTERVAL) {}
        })
    }

    fn look(&mut self) -> Result<(), Halt> {
        let look = match self.folder.rescan() {
            Ok(look) => look,
            Err(error) => {
                if !std::mem::replace(&mut self.unreadable, true) {
                    log::warn!("{error}");
                }
                return Ok(());
            }
        };
        self.unreadable = false;
        self.looks += 1;
        for change in look.changes {
            self.apply(change)?;
        }
        for name in look.to_hash {
            if Some(&name) != self.own_log.as_ref() {
                self.hash(&name)?;
            }
        }
        // What is still being written to at the second look is a new file, and not one that was there.
        if !self.looked && (look.unsettled == 0 || self.looks > 1) {
            self.looked = true;
            let files = counted(self.folder.files().len() as u64, "file");
            log::info!("offering {files} of {}", self.folder.path().display());
            self.inner.tell(TaskOutcome::Looked);
        }
        Ok(())
    }

    fn hash(&self, name: &FileName) -> Result<(), Halt> {
        let size = fs::metadata(self.folder.path().join(name.as_str())).map_or(0, |metadata| metadata.len());
        let watch = &self.inner.watch;
        watch.begin(&format!("hashing {name}"), size, 0);
        let hashed = |bytes| watch.advance(bytes);
        let hashed = self.folder.hash(name, &hashed, &|| self.inner.shutdown.is_stopped());
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

    fn apply(&self, change: FolderChange) -> Result<(), Halt> {
        match change {
            FolderChange::Added(file) => self.added(&file),
            FolderChange::Removed { name, id } => {
                let _placing = self.inner.placing();
                self.inner.shelf.withdraw_file(&name, id);
                let other = self.folder.by_id(id);
                match (other, self.inner.known(id)) {
                    (None, Some(_)) => self.gone(&name, id),
                    (None, None) => self.inner.ignore(id, false),
                    // It goes by the name that is left.
                    (Some(other), Some(kept)) if kept.file.name == name => {
                        return self.publish(&other, KeptFile { file: summary(&other), ..kept });
                    }
                    (Some(_), _) => {
                        log::info!("{name} is gone or has changed; it is here by another name, too")
                    }
                }
                Ok(())
            }
            FolderChange::Skipped { name, why } => {
                log::warn!("{name} is not offered: {why}");
                Ok(())
            }
        }
    }

    /// A file that is kept is not in the folder any more.
    fn gone(&self, name: &FileName, id: crate::content::FileId) {
        match fs::symlink_metadata(self.folder.path().join(name.as_str())) {
            Ok(_) => {
                log::warn!("{name} has changed: what it was stays kept by the volunteers until `forget {id}`")
            }
            Err(_) => log::warn!("{name} is gone: it stays kept by the volunteers until `forget {id}`"),
        }
        self.inner.tell(TaskOutcome::Withdrawn(id));
    }

    fn added(&self, file: &SharedFile) -> Result<(), Halt> {
        let SharedFile { name, id, .. } = file;
        if self.inner.is_ignored(*id) {
            log::info!("{name} is not offered: it was forgotten, and will be kept again after a restart");
            return Ok(());
        }
        let known = self.inner.known(*id);
        let named = |kept: &KeptFile| self.folder.by_name(&kept.file.name).is_some_and(|file| file.id == *id);
        let kept = match known {
            // A further copy of what is published already changes nothing.
            Some(kept) if kept.file.name != *name && named(&kept) => kept,
            Some(kept) => KeptFile { file: summary(file), ..kept },
            None => match self.md5(file) {
                Ok(md5) => KeptFile { file: summary(file), md5 },
                Err(_) if self.inner.shutdown.is_stopped() => return Err(Halt),
                Err(error) => {
                    // The next look sees that it has changed, or has gone.
                    log::warn!("{name} is not offered: {error}");
                    return Ok(());
                }
            },
        };
        let _placing = self.inner.placing();
        self.publish(file, kept)
    }

    /// Takes a file into the catalogue, puts it on the shelf and reports it; a further copy of one that is published is
    /// reported as the file that it is. The caller holds [`Inner::placing`].
    fn publish(&self, file: &SharedFile, kept: KeptFile) -> Result<(), Halt> {
        let SharedFile { name, file: whole, id, .. } = file;
        let Some(manifest) = whole.manifest().filter(|_| !self.inner.is_ignored(*id)) else { return Ok(()) };
        self.inner.take_in(&kept, &manifest).map_err(|error| {
            self.inner.fail(error);
            Halt
        })?;
        // While it was being looked through the tracker itself may have deleted it.
        if self.folder.by_name(name).is_none_or(|there| there.id != *id) {
            return Ok(());
        }
        self.inner.shelf.offer(Offer { file: summary(file), source: whole.clone() });
        log::info!("offering {name}, {} bytes, id {id}, MD5 {}", file.size, kept.md5);
        self.inner.tell(TaskOutcome::Published { kept, layout: manifest.layout().clone() });
        Ok(())
    }

    fn md5(&self, file: &SharedFile) -> Result<Md5, StoreError> {
        let watch = &self.inner.watch;
        watch.begin(&format!("MD5 of {}", file.name), file.size, 0);
        let hashed = |bytes| watch.advance(bytes);
        let md5 = file.file.md5(&hashed, &|| self.inner.shutdown.is_stopped());
        watch.end();
        md5
    }
}

fn summary(file: &SharedFile) -> FileSummary {
    FileSummary { id: file.id, name: file.name.clone(), size: file.size, chunks: file.chunks }
}

/// The name of this program's log in the folder.
fn own_log(folder: &SharedFolder, log_file: &Path) -> Option<FileName> {
    let log = fs::canonicalize(log_file).ok()?;
    let folder = fs::canonicalize(folder.path()).ok()?;
    let name = log.file_name()?.to_str()?;
    (log.parent() == Some(folder.as_path())).then(|| FileName::new(name).ok()).flatten()
}
