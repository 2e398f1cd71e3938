//! What a volunteer writes into the log: not each chunk, but enough to follow what happens to it.

use super::VolunteerStatus;
use crate::content::fmt::counted;
use crate::content::limits::SUMMARY_INTERVAL;
use crate::content::{FileId, FileName};
use crate::protocol::volunteer::{CopyFailure, VolunteerReport};
use crate::storage::ReplicaStore;
use crossbeam_channel::{Receiver, after, never};
use std::collections::HashMap;
use std::time::Instant;

/// Counts, and says now and then what it has counted.
pub(super) struct ActivityLog {
    /// The files that are known to be kept, and their names.
    files: HashMap<FileId, FileName>,
    stored: u64,
    dropped: u64,
    failed: u64,
    why: String,
    /// When to say it, when there is something to say.
    due: Option<Receiver<Instant>>,
}

impl ActivityLog {
    /// What is there at the start is no news.
    pub(super) fn new(store: &ReplicaStore) -> Self {
        let files = store.files().iter().map(|file| (file.id(), file.kept().file.name.clone())).collect();
        Self { files, stored: 0, dropped: 0, failed: 0, why: String::new(), due: None }
    }

    /// Gets a message when it is time to [summarise](Self::summarise).
    pub(super) fn due(&self) -> Receiver<Instant> {
        self.due.clone().unwrap_or_else(never)
    }

    /// Notes what the tracker is told.
    pub(super) fn note(&mut self, answer: &VolunteerReport, store: &ReplicaStore) {
        match answer {
            VolunteerReport::Stored { file, .. } => {
                if let Some(there) = store.file(*file).filter(|_| !self.files.contains_key(file)) {
                    let name = there.kept().file.name.clone();
                    log::info!("keeping chunks of {name} for the tracker");
                    self.files.insert(*file, name);
                }
                self.stored += 1;
            }
            VolunteerReport::NotStored { index, why, text, .. } => {
                self.failed += 1;
                self.why = match why {
                    CopyFailure::NoRoom => format!("no room for chunk {index}: {text}"),
                    _ => format!("chunk {index}: {text}"),
                };
            }
            VolunteerReport::Dropped { file, chunks, .. } => {
                self.dropped += chunks.len() as u64;
                if store.file(*file).is_none()
                    && let Some(name) = self.files.remove(file)
                {
                    log::info!("no chunk of {name} is kept any more");
                }
            }
            _ => return,
        }
        self.due.get_or_insert_with(|| after(SUMMARY_INTERVAL));
    }

    /// Says what has happened since the last time.
    pub(super) fn summarise(&mut self, status: &VolunteerStatus) {
        self.due = None;
        let counts = [(&mut self.stored, "stored"), (&mut self.dropped, "dropped")];
        let said = counts.into_iter().map(|(count, what)| (std::mem::take(count), what));
        let said: Vec<String> = said
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{what} {}", counted(count, "chunk")))
            .collect();
        if !said.is_empty() {
            log::info!("{}; {status}", said.join(", "));
        }
        let failed = std::mem::take(&mut self.failed);
        if failed > 0 {
            log::info!(
                "could not copy {}, the last one for this reason: {}",
                counted(failed, "chunk"),
                self.why
            );
        }
    }
}
