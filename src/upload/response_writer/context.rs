//! State that the response writers of all connections share.

use super::corrupt_reports::CorruptReports;
use super::unreadable_chunks::UnreadableChunks;
use crate::content::{ChunkIndex, FileId};
use crate::net::{InFlightBudget, Shutdown, StreamError};
use crate::storage::{StoreError, StoredChunk};
use crate::sync::lock;
use crate::upload::offers::Offers;
use crate::upload::prover::ProofSlots;
use crate::upload::rate_limit::{UploadLimit, UploadSlot};
use crate::upload::subscribers::Subscribers;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// State that the response writers of all connections share.
pub(in crate::upload) struct ResponseContext {
    pub(super) offers: Offers,
    pub(super) subscribers: Subscribers,
    pub(super) shutdown: Shutdown,
    /// Time without progress after which a relayed chunk is abandoned.
    pub(super) stall_timeout: Duration,
    pub(super) proof_slots: ProofSlots,
    pub(super) unreadable: UnreadableChunks,
    pub(super) in_flight: InFlightBudget,
    limit: Option<UploadLimit>,
    /// Files for which a storage error has been logged.
    warned: Mutex<BTreeSet<FileId>>,
    started: Instant,
    corrupt_reports: Mutex<CorruptReports>,
}

impl ResponseContext {
    /// Creates the state of a server without connections. `upload_limit` is in bytes per second, 0 for no limit;
    /// `in_flight` is the number of bytes of responses that may wait for their readers.
    pub fn new(
        offers: Offers,
        upload_limit: u64,
        in_flight: u64,
        stall_timeout: Duration,
        shutdown: &Shutdown,
    ) -> Self {
        Self {
            offers,
            subscribers: Subscribers::default(),
            shutdown: shutdown.clone(),
            stall_timeout,
            proof_slots: ProofSlots::new(),
            unreadable: UnreadableChunks::default(),
            in_flight: InFlightBudget::new(in_flight),
            limit: (upload_limit > 0).then(|| UploadLimit::new(upload_limit)),
            warned: Mutex::default(),
            started: Instant::now(),
            corrupt_reports: Mutex::default(),
        }
    }

    /// Logs a storage error: once per file as a warning, then at debug level.
    pub(super) fn warn_once(&self, file: FileId, error: &StoreError) {
        let mut warned = lock(&self.warned);
        match warned.insert(file) {
            true => log::warn!("stopped serving {}: {error}", file.short()),
            false => log::debug!("cannot serve a chunk of {}: {error}", file.short()),
        }
    }

    /// Hashes a chunk again that a peer has reported as corrupt, within the limits of [`CorruptReports`]. If it
    /// differs from its digest, its source withdraws it.
    pub(super) fn check_reported(&self, from: IpAddr, file: FileId, index: ChunkIndex) {
        for source in self.offers.all(file) {
            let Ok(stored) = source.stored(index) else { continue };
            let now = self.started.elapsed();
            if !lock(&self.corrupt_reports).accept(from, stored.length, now) {
                log::debug!("ignored a report of {from}: too many reports of corrupt chunks");
                return;
            }
            drop(stored);
            let file = file.short();
            // At debug level if the report is false: any host can send some, which must not fill the log.
            match source.check_reported(index) {
                true => log::debug!("{from} reported chunk {index} of {file} as corrupt, but it is intact"),
                false => log::info!("{from} reported chunk {index} of {file} as corrupt, and it is"),
            }
        }
    }

    /// With an upload limit, waits for a free slot. `comes_last` is that of [`UploadLimit::slot`]. `None` if all slots remain in use.
    ///
    /// # Errors
    /// The shutdown.
    pub(super) fn slot(
        &self,
        from: IpAddr,
        comes_last: bool,
    ) -> Result<Option<Option<UploadSlot<'_>>>, StreamError> {
        match &self.limit {
            Some(_) if self.shutdown.is_stopped() => Err(StreamError::Closed),
            Some(limit) => Ok(limit.slot(from, comes_last, &self.shutdown).map(Some)),
            None => Ok(Some(None)),
        }
    }

    /// Whether there is an upload limit.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Handles a failed send: if the chunk cannot be read, logs it, and refuses it until it can be read again.
    pub(super) fn report_read_error(
        &self,
        (file, index): (FileId, ChunkIndex),
        stored: &StoredChunk,
        error: &io::Error,
    ) {
        // The usual cause is the network.
        if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            self.unreadable.report((file, index), stored);
        }
    }

    /// Waits until the upload limit, and during a download of the file its send rate, allow these bytes.
    pub(super) fn throttle(&self, slot: Option<&UploadSlot<'_>>, file: FileId, bytes: u64) {
        if let Some(slot) = slot {
            slot.throttle(bytes, &self.shutdown);
        }
        let wait = self.offers.relay().pace(file, bytes);
        if !wait.is_zero() {
            self.shutdown.wait(wait);
        }
    }
}
