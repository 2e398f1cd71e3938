//! The errors with which a chunk client ends: timeouts, disagreements, and a Ctrl-C during one.

use super::ChunkClient;
use crate::content::ChunkIndex;
use crate::content::fmt::counted;
use crate::download::events::Expected as _;
use crate::report::error::{Fault, RoleError};
use crate::storage::ChunkSource as _;
use crate::swarm::Moment;
use std::time::Duration;

/// Time after which a client that has all chunks and may exit gives up to wait for an agreement, while other clients
/// contradict its chunks. Shorter than the interval of the tracker's reports, so that all of these clients end with the
/// same report.
const DISPUTE_TIMEOUT: Duration = Duration::from_secs(20);
/// Chunks that an error text names.
const NAMED_CHUNKS_MAX: usize = 8;

impl ChunkClient<'_> {
    /// Ends a client with `exit_when_complete` whose folder belongs to another set, or that waits only for an agreement on
    /// chunks that other clients contradict.
    pub(super) fn check_dispute(&self, now: Moment) -> Result<(), RoleError> {
        if !self.config.exit_when_complete {
            return Ok(());
        }
        if self.own.is_other_set() {
            return Err(self.disagreement("no agreement possible"));
        }
        match self.dispute.since() {
            Some(since)
                if self.folder.progress().is_complete() && now.saturating_sub(since) >= DISPUTE_TIMEOUT =>
            {
                Err(self.disagreement(&format!("no agreement for {} s", DISPUTE_TIMEOUT.as_secs())))
            }
            _ => Ok(()),
        }
    }

    /// The result after a Ctrl-C: an error if a listed chunk still disagrees.
    pub(super) fn interrupted(&self) -> Result<(), RoleError> {
        match self.differing.is_empty() && self.dispute.chunks() == 0 {
            true => Ok(()),
            false => Err(self.disagreement("interrupted")),
        }
    }

    /// The error of a client whose listed chunks still disagree with the set at the end.
    fn disagreement(&self, cause: &str) -> RoleError {
        let (folder, set) = (self.folder.path().display(), &self.set.set);
        let text = match self.differing.is_empty() {
            false => {
                let chunks = name_chunks(self.differing.iter().copied());
                let differs = agreeing(self.differing.len(), "differs", "differ");
                format!("{cause}: {chunks} of {folder} {differs} from the agreed SHA-256 of set {set}")
            }
            true => {
                let chunks = self.dispute.chunks();
                format!(
                    "{cause}: {} of {folder} {} from {} of other clients of set {set}, and no hash is agreed",
                    counted(chunks.into(), "chunk"),
                    agreeing(chunks as usize, "differs", "differ"),
                    agreeing(chunks as usize, "that", "those"),
                )
            }
        };
        RoleError::new(Fault::ExistsAndDiffers, text)
    }

    /// Gives up when no data has arrived for the timeout while the folder waits for chunks or for an agreement.
    pub(super) fn check_timeout(&mut self, now: Moment) -> Result<(), RoleError> {
        let is_waiting = match self.config.exit_when_complete {
            true => !self.completion.is_folder_complete(),
            // A client with all chunks serves them until it is stopped.
            false => !self.folder.progress().is_complete(),
        };
        if self.scheduler.received_at() > self.last_arrival || !is_waiting {
            self.last_arrival = self.scheduler.received_at();
            self.stall.reset();
        }
        let waited = self.stall.advance(now, self.requests.is_registered());
        match self.config.timeout {
            Some(timeout) if is_waiting && waited >= timeout => Err(self.timed_out(waited)),
            _ => Ok(()),
        }
    }

    /// The error after the timeout, by the state of the folder.
    fn timed_out(&self, waited: Duration) -> RoleError {
        let (folder, set) = (self.folder.path().display(), &self.set.set);
        let waited = format!("no data received for {} s", waited.as_secs());
        if !self.differing.is_empty() || self.dispute.chunks() > 0 {
            return self.disagreement(&waited);
        }
        let missing: Vec<ChunkIndex> =
            (0..self.set.count).map(ChunkIndex).filter(|index| self.folder.holds(*index).is_none()).collect();
        if missing.is_empty() {
            let text = format!("{waited}: {folder} has all chunks, but not all are agreed in set {set}");
            return RoleError::new(Fault::TimedOut, text);
        }
        let is_held = |index: &ChunkIndex| self.agreed.expected(*index).is_some();
        let has_holder = missing.iter().all(is_held) && self.scheduler.unavailable().is_empty();
        let fault = if has_holder { Fault::TimedOut } else { Fault::ChunksMissing };
        let chunks = name_chunks(missing.into_iter());
        RoleError::new(fault, format!("{waited}: {folder} still needs {chunks} of set {set}"))
    }
}

/// Names the first chunks in words: `chunks 3, 5 and 2 more`.
fn name_chunks(chunks: impl Iterator<Item = ChunkIndex>) -> String {
    let all: Vec<String> = chunks.map(|index| index.to_string()).collect();
    let word = agreeing(all.len(), "chunk", "chunks");
    let named = all[..all.len().min(NAMED_CHUNKS_MAX)].join(", ");
    match all.len().saturating_sub(NAMED_CHUNKS_MAX) {
        0 => format!("{word} {named}"),
        more => format!("{word} {named} and {more} more"),
    }
}

/// The form of a word that agrees with a number.
fn agreeing<'a>(count: usize, singular: &'a str, plural: &'a str) -> &'a str {
    if count == 1 { singular } else { plural }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_named_up_to_a_limit() {
        let name = |count| name_chunks((0..count).map(ChunkIndex));
        assert_eq!(name(1), "chunk 1");
        assert_eq!(name(2), "chunks 1, 2");
        assert_eq!(name(10), "chunks 1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }
}
