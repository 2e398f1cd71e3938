//! Copies back to the tracker of chunks that no volunteer can take.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::plan::PLAN_TRIES_MAX;
use super::priority::Priority;
use crate::swarm::Moment;
use crate::swarm::keeping::Location;

impl ReplicationPlanner {
    /// Parks a chunk that no volunteer can take. If the tracker has no copy and no further volunteer is
    /// expected, the chunk is to be copied back.
    pub(super) fn park_or_copy_back(&mut self, now: Moment, key: ChunkKey) {
        self.note_lack_of_space(now, key);
        self.park(now, key);
        let missing = self.files.file_and_chunk(key).is_some_and(|(file, chunk)| !file.tracker_has(chunk));
        let in_flight = self.transfers.is_in_flight(key, Location::Tracker);
        if missing && self.volunteers.counts.expected == 0 && !in_flight {
            self.waiting.copy_back.push_back(key);
        }
    }

    /// Orders the copies back to the tracker that its window permits.
    pub(super) fn plan_copies_back(&mut self, now: Moment) {
        if now < self.space.tracker_retry_at {
            return;
        }
        let mut tries = self.waiting.copy_back.len().min(PLAN_TRIES_MAX);
        while tries > 0
            && self.transfers.window.is_open(self.transfers.tracker_incoming)
            && self.may_copy_priority(now, Priority(0))
        {
            let Some(key) = self.waiting.copy_back.pop_front() else { return };
            if !self.needs_copy_back(key) {
                continue;
            }
            let length = self.files.length(key);
            let permitted = self.transfers.window.permits(self.transfers.tracker_incoming, length);
            match self.best_source(key).filter(|_| permitted) {
                Some(from) => self.start_transfer(now, key, from, Location::Tracker),
                None => {
                    self.waiting.copy_back.push_back(key);
                    tries -= 1;
                }
            }
        }
    }

    fn needs_copy_back(&self, key: ChunkKey) -> bool {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return false };
        let has_source = chunk.replicas.iter().any(|replica| replica.state().is_source());
        has_source
            && chunk.priority == Priority::PARKED
            && !file.tracker_has(chunk)
            && !self.transfers.is_in_flight(key, Location::Tracker)
    }
}
