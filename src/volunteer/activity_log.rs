//! Log summaries of a volunteer: numbers of stored, dropped and failed chunks.

use super::VolunteerStatus;
use crate::content::fmt::counted;
use crate::content::limits::SUMMARY_INTERVAL;
use crate::content::{FileId, FileName};
use crate::protocol::volunteer::{CopyFailure, VolunteerReport};
use crate::storage::ReplicaStore;
use crossbeam_channel::{Receiver, after, never};
use std::collections::HashMap;
use std::time::Instant;

/// Counts the results of orders and logs a summary from time to time.
pub(super) struct ActivityLog {
    /// Names of the files of which chunks are stored.
    files: HashMap<FileId, FileName>,
    stored: u64,
    dropped: u64,
    failed: u64,
    /// Cause of the last failed copy.
    last_failure: String,
    /// Timer of the next summary; `None` if there is nothing to report.
    due: Option<Receiver<Instant>>,
}

impl ActivityLog {
    /// Starts with the files of the store, which are not logged as new.
    pub(super) fn new(store: &ReplicaStore) -> Self {
        let files = store.files().iter().map(|file| (file.id(), file.kept().file.name.clone())).collect();
        Self { files, stored: 0, dropped: 0, failed: 0, last_failure: String::new(), due: None }
    }

    /// Timer of the next [summary](Self::summarise), for `select!`.
    pub(super) fn due(&self) -> Receiver<Instant> {
        self.due.clone().unwrap_or_else(never)
    }

    /// Counts a message to the tracker.
    pub(super) fn note(&mut self, answer: &VolunteerReport, store: &ReplicaStore) {
        match answer {
            VolunteerReport::Stored { file, .. } => {
                if let Some(there) = store.file(*file).filter(|_| !self.files.contains_key(file)) {
                    let name = there.kept().file.name.clone();
                    log::info!("storing chunks of {name} for the tracker");
                    self.files.insert(*file, name);
                }
                self.stored += 1;
            }
            VolunteerReport::NotStored { index, why, text, .. } => {
                self.failed += 1;
                self.last_failure = match why {
                    CopyFailure::NoRoom => format!("not enough space for chunk {index}: {text}"),
                    _ => format!("chunk {index}: {text}"),
                };
            }
            VolunteerReport::Dropped { file, chunks, .. } => {
                self.dropped += chunks.len() as u64;
                if store.file(*file).is_none()
                    && let Some(name) = self.files.remove(file)
                {
                    log::info!("dropped the last chunk of {name}");
                }
            }
            _ => return,
        }
        self.due.get_or_insert_with(|| after(SUMMARY_INTERVAL));
    }

    /// Logs the counts since the last summary.
    pub(super) fn summarise(&mut self, status: &VolunteerStatus) {
        self.due = None;
        let counts = [(&mut self.stored, "stored"), (&mut self.dropped, "dropped")];
        let counts = counts.into_iter().map(|(count, verb)| (std::mem::take(count), verb));
        let parts: Vec<String> = counts
            .filter(|(count, _)| *count > 0)
            .map(|(count, verb)| format!("{verb} {}", counted(count, "chunk")))
            .collect();
        if !parts.is_empty() {
            log::info!("{}; {status}", parts.join(", "));
        }
        let failed = std::mem::take(&mut self.failed);
        if failed > 0 {
            log::info!("failed to copy {}; last cause: {}", counted(failed, "chunk"), self.last_failure);
        }
    }
}
