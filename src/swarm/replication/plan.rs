//! Planning: which under-replicated chunk is copied next, and in which order the sources take turns.
//!
//! Sources with an open window take turns, each with the chunk of highest priority that it has, so that no
//! source is idle while another has several copies to give. A chunk that no volunteer can take is parked, and
//! copied back to the tracker if the tracker has no copy.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::priority::{PRIORITIES, Priority};
use super::selection::Target;
use super::traffic::Traffic;
use crate::swarm::Moment;
use crate::swarm::keeping::Location;

/// Chunks that one source tries in one turn.
const TURN_TRIES_MAX: usize = 16;
/// Failed attempts permitted in one planning run.
pub(super) const PLAN_TRIES_MAX: usize = 1_024;

/// Result of a source's turn.
#[derive(PartialEq, Eq)]
enum Turn {
    /// It started a copy.
    Started,
    /// It can start no copy now.
    Finished,
}

impl ReplicationPlanner {
    /// Orders all copies that the windows permit.
    pub(super) fn plan(&mut self, now: Moment) {
        if !self.may_copy(now) {
            return;
        }
        let mut tries = PLAN_TRIES_MAX;
        // A new copy can only lower the priority of its chunk.
        for priority in (0..PRIORITIES).map(Priority) {
            if self.files.counts.waiting == 0 || tries == 0 || !self.can_find_target() {
                break;
            }
            if !self.waiting.counts.any(priority) || !self.may_copy_priority(now, priority) {
                continue;
            }
            let mut sources = self.ready_sources(priority);
            while !sources.is_empty() && tries > 0 && self.can_find_target() {
                sources.retain(|source| self.take_turn(now, *source, priority, &mut tries) == Turn::Started);
            }
        }
        self.plan_copies_back(now);
    }

    /// Whether planning can succeed: a window is open, or there are no volunteers and chunks must be parked.
    fn can_find_target(&self) -> bool {
        self.volunteers.targets.is_open() || self.volunteers.targets.is_empty()
    }

    /// The sources with an open window and chunks of this priority, the least busy first.
    fn ready_sources(&self, priority: Priority) -> Vec<Location> {
        let bit = 1u32 << priority.0;
        let is_ready =
            |filled: u32, outgoing: Traffic| filled & bit != 0 && self.transfers.window.is_open(outgoing);
        let volunteers =
            self.volunteers.iter().filter(|volunteer| is_ready(volunteer.queue.filled(), volunteer.outgoing));
        let mut ready: Vec<(u32, Location)> = volunteers
            .map(|volunteer| (volunteer.outgoing.copies, Location::Volunteer(volunteer.record.number)))
            .collect();
        if is_ready(self.waiting.tracker_queue.filled(), self.transfers.tracker_outgoing) {
            ready.push((self.transfers.tracker_outgoing.copies, Location::Tracker));
        }
        ready.sort_unstable();
        ready.into_iter().map(|(_, location)| location).collect()
    }

    /// The copies in flight from a source.
    fn outgoing(&self, source: Location) -> Traffic {
        match source {
            Location::Tracker => self.transfers.tracker_outgoing,
            Location::Volunteer(number) => {
                self.volunteers.get(number).map(|volunteer| volunteer.outgoing).unwrap_or_default()
            }
        }
    }

    /// Returns a chunk to the queue of a source after a failed attempt or a copy.
    fn push(&mut self, source: Location, priority: Priority, key: ChunkKey) {
        if let Some(queue) = self.queue_mut(source) {
            queue.push(priority, key);
        }
    }

    /// Starts one copy of a chunk of this priority that `location` has, if possible. The best source of that
    /// chunk may be another location.
    fn take_turn(&mut self, now: Moment, location: Location, priority: Priority, tries: &mut usize) -> Turn {
        let mut failed = 0;
        while failed < TURN_TRIES_MAX && *tries > 0 {
            let is_open = self.transfers.window.is_open(self.outgoing(location));
            if !is_open || !self.may_copy_priority(now, priority) {
                return Turn::Finished;
            }
            let Some(key) = self.queue_mut(location).and_then(|queue| queue.pop(priority)) else {
                return Turn::Finished;
            };
            if !self.is_valid_entry(location, key, priority) {
                continue;
            }
            let target = self.best_target(key);
            let source = self.best_source(key);
            match (source, target) {
                (Some(from), Target::Volunteer(to)) => {
                    self.start_transfer(now, key, from, Location::Volunteer(to));
                    if self.is_valid_entry(location, key, priority) {
                        self.push(location, priority, key);
                    }
                    return Turn::Started;
                }
                (_, Target::None) => self.park_or_copy_back(now, key),
                (None, _) | (_, Target::Later) => {
                    self.push(location, priority, key);
                    failed += 1;
                    *tries -= 1;
                }
            }
        }
        Turn::Finished
    }
}
