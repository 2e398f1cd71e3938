//! Transient refusals of one source: its chunks are requested again with backoff.
//!
//! Invariant: a source that can send a chunk again is asked for it again within [`RETRY_MAX`] and a tick.

use crate::content::ChunkIndex;
use crate::content::limits::{RETRY_MAX, RETRY_MIN};
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use std::collections::BTreeMap;

/// A chunk that the source could not send.
struct RefusedChunk {
    /// Time of the next request; `None` while it may be requested.
    retry_at: Option<Moment>,
    backoff: Backoff,
    cause: String,
}

/// Chunks that one source could not send, and the pause of that source.
pub(super) struct Refusals {
    chunks: BTreeMap<ChunkIndex, RefusedChunk>,
    backoff: Backoff,
    paused_until: Moment,
}

impl Default for Refusals {
    fn default() -> Self {
        let backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        Self { chunks: BTreeMap::new(), backoff, paused_until: Moment::ZERO }
    }
}

impl Refusals {
    /// Records a refusal. Returns whether it is the first one of this chunk.
    pub fn record(
        &mut self,
        index: ChunkIndex,
        cause: String,
        now: Moment,
        random: &mut fastrand::Rng,
    ) -> bool {
        // The other requests in flight are probably refused for the same reason: one pause for all of them.
        if now >= self.paused_until {
            self.paused_until = now + self.backoff.pause(random);
        }
        let is_first = !self.chunks.contains_key(&index);
        let backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let chunk = self.chunks.entry(index).or_insert(RefusedChunk { retry_at: None, backoff, cause });
        chunk.retry_at = Some(now + chunk.backoff.pause(random));
        is_first
    }

    /// Records that the source has sent a chunk.
    pub fn sent(&mut self, index: ChunkIndex) {
        self.backoff.reset();
        self.paused_until = Moment::ZERO;
        self.chunks.remove(&index);
    }

    /// Whether the source is not asked for any chunk now.
    pub fn is_paused(&self, now: Moment) -> bool {
        now < self.paused_until
    }

    /// Takes the chunks that may be requested again.
    pub fn take_due(&mut self, now: Moment) -> Vec<ChunkIndex> {
        let is_due = |chunk: &RefusedChunk| chunk.retry_at.is_some_and(|at| at <= now);
        let due = self.chunks.iter_mut().filter(|(_, chunk)| is_due(chunk));
        due.map(|(index, chunk)| {
            chunk.retry_at = None;
            *index
        })
        .collect()
    }

    /// The first refused chunk that is not yet `done`, and the cause.
    pub fn first(&self, done: impl Fn(ChunkIndex) -> bool) -> Option<(ChunkIndex, &str)> {
        let missing = self.chunks.iter().find(|(index, _)| !done(**index));
        missing.map(|(index, chunk)| (*index, chunk.cause.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn refused_chunks_are_due_after_pauses_that_grow() {
        let (mut refusals, mut random) = (Refusals::default(), fastrand::Rng::with_seed(1));
        let (one, two) = (ChunkIndex(1), ChunkIndex(2));
        assert!(refusals.record(one, "busy".into(), Moment::ZERO, &mut random));
        assert!(refusals.record(two, "busy".into(), Moment::ZERO, &mut random));
        assert!(refusals.is_paused(Duration::from_millis(100)) && !refusals.is_paused(RETRY_MIN));
        assert!(refusals.take_due(Duration::from_millis(100)).is_empty());
        assert_eq!(refusals.take_due(RETRY_MIN), [one, two]);
        assert!(refusals.take_due(RETRY_MAX).is_empty(), "each is due once");
        let mut now = RETRY_MIN;
        for _ in 0..20 {
            assert!(!refusals.record(one, "busy".into(), now, &mut random));
            now += RETRY_MAX;
            assert_eq!(refusals.take_due(now), [one]);
        }
        refusals.record(one, "busy".into(), now, &mut random);
        assert!(refusals.take_due(now + RETRY_MAX / 2).is_empty());
        assert_eq!(refusals.first(|index| index == one), Some((two, "busy")));
        refusals.sent(two);
        assert!(!refusals.is_paused(now) && refusals.first(|index| index == one).is_none());
    }
}
