//! Comparing the first one of a line with the one who has the file: nobody but the second one can see whether the first
//! one is slow.
//!
//! The second one takes a chunk from the one who has the file, and when that says little, one more. A first holder that gives to
//! somebody else at full speed meanwhile takes twice as long as alone; one whose first one is slow, hardly longer.
//!
//! Invariant: two chunks at most are asked of the first holder for that.

use super::super::super::Moment;
use super::super::{Source, SourceId};
use super::{TRIAL, TRIAL_MIN};
use crate::content::ChunkIndex;
use std::time::Duration;

/// There is a second trial when so many chunks have come, and one takes more than this share of what it took in the first one,
/// in percent, and a little more; and it is lost when that is so again.
pub(super) const AGAIN_AFTER: u32 = 4;
const AGAIN_PERCENT: u32 = 80;
const AGAIN_MIN: Duration = Duration::from_millis(5);

/// One chunk from the first holder, to see whether the one who is to be asked instead is slower.
pub(super) struct Trial {
    first: SourceId,
    asked: Option<(ChunkIndex, Moment)>,
    took: Option<Duration>,
    /// What the other one took before, when this is the second trial.
    again: Option<Duration>,
}

impl Trial {
    pub(super) fn new(first: SourceId) -> Self {
        Self { first, asked: None, took: None, again: None }
    }

    /// Whether it is with this first holder.
    pub(super) fn is_with(&self, id: SourceId) -> bool {
        self.first == id
    }

    /// Whether a chunk is yet to be asked for.
    pub(super) fn is_open(&self) -> bool {
        self.asked.is_none()
    }

    /// The first holder is asked for a chunk.
    pub(super) fn asked(&mut self, index: ChunkIndex, now: Moment) {
        self.asked.get_or_insert((index, now));
    }

    /// A chunk has come from the first holder.
    pub(super) fn arrived(&mut self, index: ChunkIndex, now: Moment) {
        if self.took.is_none() {
            let asked = self.asked.filter(|(asked, _)| *asked == index);
            self.took = asked.map(|(_, since)| now.saturating_sub(since));
        }
    }

    /// So many chunks have come from the other one, and one takes so long. When that is no faster than the first holder there is a
    /// second trial. Only at the beginning: later others may ask the other one as well, which is not its fault.
    pub(super) fn upstream_gave(&mut self, chunks: u32, pace: Duration) {
        if chunks == AGAIN_AFTER && self.again.is_none() && self.is_close(pace) {
            *self = Self { again: Some(pace), ..Self::new(self.first) };
        }
    }

    /// Whether a chunk takes from the other one about as long as from the first holder, or longer.
    fn is_close(&self, pace: Duration) -> bool {
        self.took.is_some_and(|took| pace > took * AGAIN_PERCENT / 100 + AGAIN_MIN)
    }

    /// Whether the other one is slower than the first holder.
    pub(super) fn is_lost(&self, upstream: &Source, now: Moment) -> bool {
        let Some(took) = self.took else { return false };
        let pace = upstream.chunk_time.unwrap_or_default();
        if self.again.is_some_and(|before| self.is_close(before.min(pace))) {
            return true;
        }
        let asked = self.asked.map_or(now, |(_, since)| since);
        let waits = now.saturating_sub(asked.max(upstream.last_arrival));
        pace.max(waits) > took * TRIAL + TRIAL_MIN
    }
}
