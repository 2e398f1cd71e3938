//! Chunks that wait for a copy: in the queues of their sources, parked, or in a backoff.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::priority::Priority;
use super::queue::{SourceQueue, WaitingCounts};
use super::replicas::CopyState;
use super::retries::Retry;
use super::schedule::Timer;
use crate::swarm::Moment;
use crate::swarm::keeping::Location;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Interval at which parked chunks are tried again even if nothing seems to have changed.
const UNPARK_INTERVAL: Duration = Duration::from_secs(60);

/// Chunks that wait for a copy. Those that volunteers can give are also in the queues of these volunteers.
#[derive(Default, Debug)]
pub(super) struct WaitingChunks {
    /// Chunks that the tracker can give.
    pub tracker_queue: SourceQueue,
    /// Numbers of chunks in queues, by priority.
    pub counts: WaitingCounts,
    /// Chunks of which a copy has failed.
    pub retries: BTreeMap<ChunkKey, Retry>,
    /// Chunks that no volunteer can take at present.
    pub parked: VecDeque<ChunkKey>,
    /// Parked chunks that should be copied back to the tracker.
    pub copy_back: VecDeque<ChunkKey>,
}

impl ReplicationPlanner {
    /// Appends a chunk to the queues of all its sources.
    pub(super) fn enqueue(&mut self, key: ChunkKey) {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return };
        if !chunk.priority.is_queue() {
            return;
        }
        let replicas = chunk.replicas.clone();
        if file.tracker_has(chunk) {
            self.enqueue_at(Location::Tracker, key);
        }
        for replica in replicas.iter().filter(|replica| replica.state().is_source()) {
            self.enqueue_at(Location::Volunteer(replica.volunteer()), key);
        }
    }

    /// Appends a chunk to the queue of one source.
    pub(super) fn enqueue_at(&mut self, source: Location, key: ChunkKey) {
        let Some(priority) = self.files.chunk(key).map(|chunk| chunk.priority) else { return };
        if self.queue_mut(source).is_some_and(|queue| queue.push(priority, key)) {
            self.remove_stale_entries(source, priority);
        }
    }

    /// The queue of a source.
    pub(super) fn queue_mut(&mut self, source: Location) -> Option<&mut SourceQueue> {
        match source {
            Location::Tracker => Some(&mut self.waiting.tracker_queue),
            Location::Volunteer(number) => Some(&mut self.volunteers.get_mut(number)?.queue),
        }
    }

    fn remove_stale_entries(&mut self, source: Location, priority: Priority) {
        let Some(queue) = self.queue_mut(source) else { return };
        let mut queue = std::mem::take(queue);
        queue.remove_stale(priority, |key| self.is_valid_entry(source, key, priority));
        if let Some(slot) = self.queue_mut(source) {
            *slot = queue;
        }
    }

    /// Whether a chunk still has this priority and the source still has a copy.
    pub(super) fn is_valid_entry(&self, source: Location, key: ChunkKey, priority: Priority) -> bool {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return false };
        let has_copy = match source {
            Location::Tracker => file.tracker_has(chunk),
            Location::Volunteer(number) => chunk.replicas.get(number).is_some_and(CopyState::is_source),
        };
        has_copy && chunk.priority == priority
    }

    /// Changes the priority of a chunk, which takes it out of the queues or ends its backoff.
    pub(super) fn set_priority(&mut self, key: ChunkKey, to: Priority) {
        if let Some(chunk) = self.files.chunk_mut(key) {
            let from = std::mem::replace(&mut chunk.priority, to);
            self.waiting.counts.move_one(from, to);
        }
    }

    /// Parks a chunk that no volunteer can take at present. Parked chunks are retried at an interval.
    pub(super) fn park(&mut self, now: Moment, key: ChunkKey) {
        self.set_priority(key, Priority::PARKED);
        if self.waiting.parked.is_empty() {
            self.schedule.add(now + UNPARK_INTERVAL, Timer::Unpark);
        }
        self.waiting.parked.push_back(key);
    }

    /// Returns up to `count` parked chunks to the queues.
    pub(super) fn unpark(&mut self, count: usize) {
        for _ in 0..count.min(self.waiting.parked.len()) {
            let Some(key) = self.waiting.parked.pop_front() else { break };
            self.requeue(key, Priority::PARKED);
        }
        self.space.is_lacking &= !self.waiting.parked.is_empty();
    }

    /// Returns all parked chunks to the queues.
    pub(super) fn unpark_all(&mut self) {
        self.unpark(usize::MAX);
    }

    /// Returns a chunk to the queues if it has the priority `from`.
    pub(super) fn requeue(&mut self, key: ChunkKey, from: Priority) {
        if self.files.chunk(key).is_some_and(|chunk| chunk.priority == from) {
            self.set_priority(key, Priority::NONE);
            self.recompute(key);
        }
    }
}
