//! Repeated lookups of chunks that no connected source has, with backoff.

use super::requests::LOOKUPS_MAX;
use crate::content::ChunkIndex;
use crate::content::limits::{RETRY_MAX, RETRY_MIN};
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;

/// Time of the next lookup of unavailable chunks.
pub(super) struct LookupRetry {
    /// `None` while all wanted chunks are available.
    next: Option<Moment>,
    backoff: Backoff,
    random: fastrand::Rng,
}

impl LookupRetry {
    pub(super) fn new() -> Self {
        Self { next: None, backoff: Backoff::new(RETRY_MIN * 4, RETRY_MAX), random: fastrand::Rng::new() }
    }

    /// Resets the backoff, after a chunk has arrived.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
    }

    /// Returns the chunks to look up now. `waiting` says whether earlier lookups have not been sent yet.
    pub(super) fn due(
        &mut self,
        mut unavailable: Vec<ChunkIndex>,
        waiting: bool,
        now: Moment,
    ) -> Vec<ChunkIndex> {
        match self.next {
            _ if unavailable.is_empty() => self.next = None,
            None => self.next = Some(now + self.backoff.pause(&mut self.random)),
            Some(next) if next <= now && !waiting => {
                self.next = None;
                // In random order: the first chunks may have no holder at all.
                self.random.shuffle(&mut unavailable);
                unavailable.truncate(LOOKUPS_MAX);
                return unavailable;
            }
            Some(_) => {}
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unavailable_chunks_are_looked_up_after_the_backoff_and_not_before_waiting_lookups() {
        let mut retry = LookupRetry::new();
        let chunks = || (0..999).map(ChunkIndex).collect::<Vec<_>>();
        let late = RETRY_MAX * 2;
        assert!(retry.due(chunks(), false, Moment::ZERO).is_empty());
        assert!(retry.due(chunks(), false, Moment::ZERO).is_empty());
        assert!(retry.due(chunks(), true, late).is_empty());
        assert_eq!(retry.due(chunks(), false, late).len(), LOOKUPS_MAX);
        assert!(retry.due(chunks(), false, late).is_empty(), "the next backoff has begun");
        assert!(retry.due(Vec::new(), false, late * 2).is_empty());
    }
}
