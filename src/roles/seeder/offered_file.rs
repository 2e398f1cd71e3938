//! An offered file, which the user may change, replace or remove at any time.

use super::hash::hash;
use crate::content::FileName;
use crate::net::Shutdown;
use crate::protocol::tracker::FileSummary;
use crate::report::error::RoleError;
use crate::report::events::{self, Event, FileEvent, FileState};
use crate::report::watch::Watch;
use crate::storage::{ChunkSource, CompleteFile, FileStamp};
use crate::upload::offers::{Offer, Offers};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time without a download after which a replaced version of a file is released.
const REPLACED_TIMEOUT: Duration = Duration::from_secs(10);

/// The offered file, which the user may change, replace or remove at any time.
pub(super) struct OfferedFile {
    path: PathBuf,
    name: FileName,
    chunk_size: Option<u32>,
    offers: Offers,
    file: Arc<CompleteFile>,
    /// State of the path (inode, size, time) when the file was hashed.
    stamp: Option<FileStamp>,
    /// The state at the last check, if it differs. The file is hashed when two checks see the same state.
    last_stamp: Option<FileStamp>,
    /// Whether the file is offered: not after it was written to, until it has been hashed again.
    offered: bool,
    /// The last warning: each is logged once.
    last_warning: String,
    /// Versions that were replaced and are still served, each with the time at which a peer was last seen to download it.
    replaced: Vec<(Arc<CompleteFile>, Instant)>,
}

impl OfferedFile {
    /// Hashes a file. It is not offered yet.
    ///
    /// # Errors
    /// Those of [`hash`].
    pub(super) fn new(
        path: &Path,
        name: FileName,
        chunk_size: Option<u32>,
        offers: &Offers,
        watch: &dyn Watch,
        shutdown: &Shutdown,
    ) -> Result<Self, RoleError> {
        let stamp = FileStamp::at(path);
        let file = Arc::new(hash(path, &name, chunk_size, watch, shutdown)?);
        Ok(Self {
            path: path.to_owned(),
            name,
            chunk_size,
            offers: offers.clone(),
            file,
            stamp,
            last_stamp: None,
            offered: false,
            last_warning: String::new(),
            replaced: Vec::new(),
        })
    }

    /// Offers the file.
    pub(super) fn offer(&mut self) {
        let file = summary_of(&self.name, &self.file);
        let FileSummary { id, name, size, chunks } = file.clone();
        events::emit(|| Event::File(FileEvent::new(FileState::Offered, file.clone())));
        self.offers.offer(Offer { file, source: self.file.clone() });
        self.offered = true;
        let chunks = if chunks == 1 { "1 chunk".to_owned() } else { format!("{chunks} chunks") };
        log::info!("serving {name} ({size} bytes, {chunks}) with id {id}");
    }

    /// Id, name and size of the file; `None` while it is not offered.
    pub(super) fn summary(&self) -> Option<FileSummary> {
        self.offered.then(|| summary_of(&self.name, &self.file))
    }

    /// Checks the path for changes. Returns whether the offer has changed.
    ///
    /// A file that was written to is withdrawn at once, hashed when it no longer changes, and offered again.
    pub(super) fn check(&mut self, watch: &dyn Watch, shutdown: &Shutdown) -> bool {
        if self.file.is_spooled() {
            return false;
        }
        let now = FileStamp::at(&self.path);
        // A file can have changed without a trace at its path: `ChunkSource::check_reported`.
        let intact = self.file.is_intact();
        if now == self.stamp && self.offered && intact {
            self.last_stamp = None;
            self.last_warning.clear();
            return false;
        }
        let withdrawn = !intact && std::mem::take(&mut self.offered);
        if withdrawn {
            self.offers.withdraw(&self.name);
        }
        self.warn_once(match (now.is_some(), intact) {
            (false, true) => "was removed; it is served until this program ends",
            (true, true) => "was replaced or has a new modification time; it will be hashed again",
            (false, false) => "was removed; it is no longer offered",
            (true, false) => "has changed; it is not offered until it has been hashed again",
        });
        let settled = now.is_some() && std::mem::replace(&mut self.last_stamp, now) == now;
        let offered = settled && self.hash_again(now, watch, shutdown);
        withdrawn || offered
    }

    /// Stops serving replaced versions that no peer has downloaded for [`REPLACED_TIMEOUT`]: each occupies disk space and a
    /// descriptor.
    pub(super) fn release_replaced(&mut self) {
        let Self { replaced, offers, name, .. } = self;
        replaced.retain_mut(|(file, used)| {
            // Beside this reference and that of the offers, each connection that downloads it has one.
            if Arc::strong_count(file) > 2 {
                *used = Instant::now();
            }
            let is_kept = used.elapsed() < REPLACED_TIMEOUT;
            if !is_kept {
                offers.take(file.id());
                log::info!("stopped serving the replaced version of {name} with id {}", file.id().short());
            }
            is_kept
        });
    }

    /// Logs a warning about the file, unless it repeats the last one.
    fn warn_once(&mut self, text: &str) {
        if self.last_warning != text {
            log::warn!("{} {text}", self.name);
            text.clone_into(&mut self.last_warning);
        }
    }

    /// Hashes the file again and offers it. Returns whether it is offered.
    fn hash_again(&mut self, now: Option<FileStamp>, watch: &dyn Watch, shutdown: &Shutdown) -> bool {
        let file = match hash(&self.path, &self.name, self.chunk_size, watch, shutdown) {
            Ok(file) => Arc::new(file),
            Err(_) if shutdown.is_stopped() => return false,
            // Hashed again after two more checks that see the same state.
            Err(error) => {
                self.warn_once(&format!("could not be hashed again: {error}"));
                self.last_stamp = None;
                return false;
            }
        };
        if file.id() != self.file.id() {
            self.offers.note_replaced(self.file.id(), &self.name);
            if self.file.is_intact() {
                // The file was replaced: downloads of the old one can finish from the open file.
                self.offers.put(self.file.id(), self.file.clone());
                self.replaced.retain(|(file, _)| file.id() != self.file.id());
                self.replaced.push((self.file.clone(), Instant::now()));
            }
        }
        let result = if file.id() == self.file.id() { "is unchanged" } else { "has changed" };
        log::info!("hashed {} again: its content {result}", self.name);
        (self.file, self.stamp) = (file, now);
        self.offer();
        true
    }
}

fn summary_of(name: &FileName, file: &CompleteFile) -> FileSummary {
    let layout = file.layout();
    FileSummary { id: file.id(), name: name.clone(), size: layout.size(), chunks: layout.count() }
}
