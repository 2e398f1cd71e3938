//! Agreed chunks none of whose holders can be reached: they are reported at intervals.

use crate::content::ChunkIndex;
use crate::swarm::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// Interval of the reports, as at the tracker.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// Chunks that are watched.
const WATCHED_MAX: usize = 1_024;

/// The chunks, and the time since which each has had no reachable holder.
#[derive(Default)]
pub(super) struct UnreachableChunks {
    since: BTreeMap<ChunkIndex, Moment>,
    reported: Option<Moment>,
}

impl UnreachableChunks {
    /// Records the chunks without a connected holder. Returns those to report now, with their waiting times.
    pub(super) fn due(&mut self, unavailable: &[ChunkIndex], now: Moment) -> Vec<(ChunkIndex, Duration)> {
        self.since.retain(|index, _| unavailable.binary_search(index).is_ok());
        for index in unavailable.iter().take(WATCHED_MAX) {
            self.since.entry(*index).or_insert(now);
        }
        if self.reported.is_some_and(|at| now.saturating_sub(at) < REPORT_INTERVAL) {
            return Vec::new();
        }
        let waited = self.since.iter().map(|(index, since)| (*index, now.saturating_sub(*since)));
        let due: Vec<_> = waited.filter(|(_, waited)| *waited >= REPORT_INTERVAL).collect();
        if !due.is_empty() {
            self.reported = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_reported_after_an_interval_without_a_reachable_holder() {
        let at = Duration::from_secs;
        let [first, second] = [ChunkIndex(0), ChunkIndex(1)];
        let mut chunks = UnreachableChunks::default();
        assert_eq!(chunks.due(&[first, second], at(5)), []);
        assert_eq!(chunks.due(&[first], at(34)), []);
        assert_eq!(chunks.due(&[first, second], at(35)), [(first, at(30))]);
        assert_eq!(chunks.due(&[first, second], at(64)), []);
        assert_eq!(chunks.due(&[first, second], at(65)), [(first, at(60)), (second, at(30))]);
        assert_eq!(chunks.due(&[], at(99)), []);
        assert_eq!(chunks.due(&[first], at(100)), []);
    }
}
