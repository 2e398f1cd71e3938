//! Ledger of copies: the only code that changes the state of a copy.
//!
//! Every change of a copy goes through [`ReplicationPlanner::set`]; every other change that a chunk depends on ends in
//! [`ReplicationPlanner::touch`]. They update all counters, queues and work lists in time independent of the number of
//! chunks.

use super::chunk::{CopyCounts, CopyState, Deficits, Key};
use super::file::Offload;
use super::priority::Priority;
use super::{ReplicationPlanner, Timer};
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};

impl ReplicationPlanner {
    /// Sets the state of a volunteer's copy; `None` if it has none.
    pub(super) fn set(&mut self, key: Key, number: VolunteerNumber, to: Option<CopyState>) {
        let Some(file) = self.files.get_mut(key.file as usize).and_then(Option::as_mut) else { return };
        let (length, id) = (file.length(key.index), file.id);
        let Some(chunk) = file.chunks.get_mut(key.index as usize) else { return };
        let Some(volunteer) = self.volunteers.get_mut(number.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        let from = chunk.replicas.set(number, to);
        if from == to {
            return;
        }
        let is = |state: Option<CopyState>, what: fn(CopyState) -> bool| state.is_some_and(what);
        chunk.placed |= is(to, CopyState::is_durable);
        file.counts.change_copy(from, to);
        self.counts.change_copy(from, to);

        volunteer.count(length, from, to);
        let holding = volunteer.holdings.entry(key.file).or_default();
        let there = |state: Option<CopyState>| state.is_some_and(|state| state != CopyState::Coming);
        match (there(from), there(to)) {
            (false, true) => _ = holding.chunks.insert(key.index),
            (true, false) => _ = holding.chunks.remove(&key.index),
            _ => {}
        }
        if is(from, CopyState::is_durable) != is(to, CopyState::is_durable) && !holding.dirty {
            holding.dirty = true;
            self.dirty.push((number, key.file));
        }
        let (served, serves) = (is(from, CopyState::is_here), is(to, CopyState::is_here));
        if served != serves {
            holding.served = (holding.served + u32::from(serves)).saturating_sub(served.into());
            if !holding.changed {
                holding.changed = true;
                self.changed.push((number, id));
            }
        }
        self.stale.insert(number);
        self.touch(key);
        if is(to, CopyState::is_source) && !is(from, CopyState::is_source) {
            self.enqueue_at(Location::Volunteer(number), key);
        }
    }

    /// Recomputes the counts and the priority of a chunk after any change that they depend on.
    pub(super) fn touch(&mut self, key: Key) {
        let copy_counts = self.count_copies(key);
        let (replicas, offload) = (self.settings.replicas, self.settings.offload);
        let Some(file) = self.files.get_mut(key.file as usize).and_then(Option::as_mut) else { return };
        let whole = file.keeps_whole();
        let Some(chunk) = file.chunks.get_mut(key.index as usize) else { return };
        let before = (chunk.deficits, chunk.priority);
        // A copy that replaces the lost one may be missing from the record that is being written.
        let fewer = copy_counts.verified < chunk.copy_counts.verified;
        chunk.disturbed |= fewer;
        file.disturbed |= fewer;
        chunk.copy_counts = copy_counts;
        let (verified, live) = (usize::from(copy_counts.verified), usize::from(copy_counts.live));
        let (coming, leaving) = (usize::from(copy_counts.coming), usize::from(copy_counts.leaving));
        let at_tracker = chunk.own || whole;
        chunk.full |= live >= replicas;
        let bare = live + leaving + coming == 0 && !at_tracker;
        let waiting = live + coming < replicas;
        let impaired = chunk.full && live < replicas && !bare;
        chunk.deficits = Deficits { under_replicated: verified < replicas, waiting, bare, impaired };
        let resting = chunk.priority == Priority::RESTING;
        chunk.priority = match (waiting, resting) {
            (false, _) => Priority::NONE,
            (true, true) => Priority::RESTING,
            (true, false) => Priority::of(chunk, at_tracker),
        };
        let after = (chunk.deficits, chunk.priority);
        let is_back = chunk.lost && (copy_counts.here > 0 || at_tracker);
        chunk.lost &= !is_back;
        if chunk.own && !chunk.own_leaving && verified >= replicas && file.offload == Offload::Done {
            chunk.own_leaving = true;
            self.own_surplus.push(key);
        }
        if is_back {
            file.counts.lost = file.counts.lost.saturating_sub(1);
            self.counts.lost = self.counts.lost.saturating_sub(1);
            *self.found.entry(key.file).or_default() += 1;
        }
        file.counts.change(before.0, after.0);
        self.counts.change(before.0, after.0);
        if bare && !before.0.bare && file.examined {
            self.newly_bare.push(key);
        }
        if file.counts.under_replicated == 0 {
            if !file.announced {
                file.announced = true;
                let text = format!("every chunk has its {replicas} copies at volunteers");
                self.orders.push(super::Order::Note(Some(file.id), text));
            }
            if offload && file.whole && file.offload == Offload::No && !file.kept_for_good {
                self.offloadable.insert(key.file);
            }
        }
        if verified >= replicas && live > replicas && coming == 0 {
            self.surplus.insert(key);
        }
        if before.1 != after.1 {
            self.queued.move_one(before.1, after.1);
            self.enqueue(key);
        }
    }

    fn count_copies(&self, key: Key) -> CopyCounts {
        let mut copy_counts = CopyCounts::default();
        for replica in self.chunk(key).into_iter().flat_map(|chunk| chunk.replicas.iter()) {
            let draining = self.census.draining > 0
                && self.at(replica.volunteer()).is_some_and(|volunteer| volunteer.draining);
            copy_counts.add(replica.state(), draining);
        }
        copy_counts
    }

    /// Recomputes all chunks of a file.
    pub(super) fn touch_file(&mut self, slot: u32) {
        let count = self.file(slot).map_or(0, |file| file.chunks.len() as u32);
        for index in 0..count {
            self.touch(Key { file: slot, index });
        }
    }

    /// Changes the priority of a chunk: takes it out of the queues, or ends its backoff.
    pub(super) fn move_to(&mut self, key: Key, to: Priority) {
        if let Some(chunk) = self.chunk_mut(key) {
            let from = std::mem::replace(&mut chunk.priority, to);
            self.queued.move_one(from, to);
        }
    }

    /// Appends a chunk to the queues of all its sources.
    fn enqueue(&mut self, key: Key) {
        let Some(file) = self.file(key.file) else { return };
        let Some(chunk) = file.chunks.get(key.index as usize) else { return };
        if !chunk.priority.is_queue() {
            return;
        }
        let replicas = chunk.replicas.clone();
        if file.has(chunk) {
            self.enqueue_at(Location::Tracker, key);
        }
        for replica in replicas.iter().filter(|replica| replica.state().is_source()) {
            self.enqueue_at(Location::Volunteer(replica.volunteer()), key);
        }
    }

    fn enqueue_at(&mut self, location: Location, key: Key) {
        let Some(priority) = self.chunk(key).map(|chunk| chunk.priority) else { return };
        let queue = match location {
            Location::Tracker => Some(&mut self.queue),
            Location::Volunteer(number) => {
                let volunteer = self.volunteers.get_mut(number.0 as usize).and_then(Option::as_mut);
                volunteer.map(|volunteer| &mut volunteer.queue)
            }
        };
        if queue.is_some_and(|queue| queue.push(priority, key)) {
            self.clear_queue(location, priority);
        }
    }

    fn clear_queue(&mut self, location: Location, priority: Priority) {
        let mut queue = match location {
            Location::Tracker => std::mem::take(&mut self.queue),
            Location::Volunteer(number) => match self.at_mut(number) {
                Some(volunteer) => std::mem::take(&mut volunteer.queue),
                None => return,
            },
        };
        queue.clear(priority, |key| self.could_give(location, key, priority));
        match location {
            Location::Tracker => self.queue = queue,
            Location::Volunteer(number) => {
                if let Some(volunteer) = self.at_mut(number) {
                    volunteer.queue = queue;
                }
            }
        }
    }

    /// Whether a chunk still has this priority and the source still has a copy.
    pub(super) fn could_give(&self, location: Location, key: Key, priority: Priority) -> bool {
        let Some(file) = self.file(key.file) else { return false };
        let Some(chunk) = file.chunks.get(key.index as usize) else { return false };
        let gives = match location {
            Location::Tracker => file.has(chunk),
            Location::Volunteer(number) => chunk.replicas.get(number).is_some_and(CopyState::is_source),
        };
        gives && chunk.priority == priority
    }

    /// Updates the index entries of all volunteers that have changed.
    pub(super) fn reindex(&mut self, now: Moment) {
        while let Some(number) = self.stale.pop_first() {
            let window = self.window;
            let Some(volunteer) = self.volunteers.get_mut(number.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            let indexed = volunteer.to_index(now, window);
            self.index.put(number, volunteer.indexed, indexed);
            volunteer.indexed = indexed;
        }
    }

    /// Counts the volunteers by liveness.
    pub(super) fn count_volunteers(&mut self) {
        let mut census = super::Census::default();
        for volunteer in self.volunteers.iter().flatten() {
            let dead = volunteer.liveness == super::volunteer::Liveness::Dead;
            census.staying += usize::from(volunteer.has_reported() && !volunteer.draining);
            census.expected += usize::from(!volunteer.has_reported() && !dead);
            census.draining += usize::from(volunteer.draining);
        }
        self.census = census;
    }

    /// Parks a chunk that no volunteer can take at present. Parked chunks are retried at an interval.
    pub(super) fn park(&mut self, now: Moment, key: Key) {
        self.move_to(key, Priority::PARKED);
        if self.parked.is_empty() {
            self.after(now + super::plan::UNPARK_INTERVAL, Timer::Unpark);
        }
        self.parked.push_back(key);
    }

    /// Tries up to `most` parked chunks again.
    pub(super) fn unpark(&mut self, most: usize) {
        for _ in 0..most.min(self.parked.len()) {
            let Some(key) = self.parked.pop_front() else { break };
            if self.chunk(key).is_some_and(|chunk| chunk.priority == Priority::PARKED) {
                self.move_to(key, Priority::NONE);
                self.touch(key);
            }
        }
    }

    /// Tries all parked chunks again.
    pub(super) fn unpark_all(&mut self) {
        self.unpark(usize::MAX);
    }
}
