//! Records: changes to write to the catalogue, and the actions that wait until a record is durable.
//!
//! Invariant: the tracker deletes its own copy of a file, or of a chunk in its chunk store, only when every
//! copy that replaces it is in a durable record and none of these has been lost since the record was
//! assembled.

use super::chunk::{CopyState, Key};
use super::file::Offload;
use super::{Order, ReplicationPlanner};
use crate::content::{Bitfield, ChunkIndex, FileId, limits};
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, Location, VolunteerNumber};

impl ReplicationPlanner {
    pub(super) fn change(&mut self, now: Moment, change: Change) {
        self.changes.push(change);
        self.unrecorded.get_or_insert(now);
    }

    /// Time at which the next record is due.
    pub(super) fn record_due(&self) -> Option<Moment> {
        if self.ticket - self.recorded >= limits::PENDING_RECORDS_MAX {
            return None;
        }
        match self.offloadable.is_empty() {
            true => self.unrecorded.map(|since| since + limits::RECORD_INTERVAL),
            // All copies exist; only the record is missing, so do not wait for more changes.
            false => Some(self.unrecorded.unwrap_or_default()),
        }
    }

    /// The next record: changes to write atomically, and its number, which increases by one each time.
    /// Changes are collected for [`limits::RECORD_INTERVAL`], unless an offload waits for the record.
    pub fn take_record(&mut self, now: Moment) -> Option<(u64, Vec<Change>)> {
        self.record_due().filter(|due| *due <= now)?;
        self.unrecorded = None;
        self.ticket += 1;
        let ticket = self.ticket;
        let mut changes = std::mem::take(&mut self.changes);
        for (volunteer, slot) in std::mem::take(&mut self.dirty) {
            changes.extend(self.held(volunteer, slot));
        }
        for slot in std::mem::take(&mut self.offloadable) {
            if let Some(file) = self.files.get_mut(slot as usize).and_then(Option::as_mut) {
                file.offload = Offload::Recording(ticket);
                file.disturbed = false;
                changes.push(Change::Offloaded(file.id, true));
            }
        }
        self.await_record(ticket);
        Some((ticket, changes))
    }

    /// All durable copies that a volunteer has of a file.
    fn held(&mut self, volunteer: VolunteerNumber, slot: u32) -> Option<Change> {
        self.at_mut(volunteer)?.holdings.get_mut(&slot)?.dirty = false;
        let file = self.file(slot)?;
        let mut chunks = Bitfield::none(file.layout.count());
        for index in &self.at(volunteer)?.holdings.get(&slot)?.chunks {
            let state = file.chunks.get(*index as usize)?.replicas.get(volunteer);
            if state.is_some_and(CopyState::is_durable) {
                chunks.insert(ChunkIndex(*index));
            }
        }
        Some(Change::Held { file: file.id, volunteer, chunks })
    }

    /// Chunks of the tracker's chunk store that volunteers have by now may be dropped once this record is
    /// durable.
    fn await_record(&mut self, ticket: u64) {
        let keys = std::mem::take(&mut self.own_surplus);
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            if let Some(chunk) = self.chunk_mut(*key) {
                chunk.disturbed = false;
            }
        }
        self.own_waiting.push_back((ticket, keys));
    }

    /// Notes that this record, and all before it, is durable.
    pub fn recorded(&mut self, now: Moment, ticket: u64) {
        self.recorded = self.recorded.max(ticket.min(self.ticket));
        for slot in 0..self.files.len() as u32 {
            self.record_of(now, slot);
        }
        self.settle(now);
    }

    fn record_of(&mut self, now: Moment, slot: u32) {
        let recorded = self.recorded;
        let Some(file) = self.file_mut(slot) else { return };
        if !matches!(file.offload, Offload::Recording(ticket) if ticket <= recorded) {
            return;
        }
        let id = file.id;
        if file.whole && file.counts.under_replicated == 0 && !file.disturbed {
            file.offload = Offload::Ordered;
            self.orders.push(Order::Offload { file: id });
        } else {
            file.offload = Offload::No;
            self.change(now, Change::Offloaded(id, false));
        }
        self.touch_file(slot);
    }

    /// Handles the deletion of the tracker's own copy of a file; or (`done` is false) its failure.
    pub fn offloaded(&mut self, now: Moment, id: FileId, done: bool) {
        let Some(slot) = self.by_id.get(&id).copied() else { return };
        let Some(file) = self.file_mut(slot).filter(|file| file.offload == Offload::Ordered) else { return };
        if done {
            file.whole = false;
            file.offload = Offload::Done;
        } else {
            file.offload = Offload::No;
            file.kept_for_good = true;
            self.change(now, Change::Offloaded(id, false));
        }
        self.touch_file(slot);
        self.settle(now);
    }

    /// Updates the pending records and releases the actions that no longer wait for one.
    pub(super) fn look_at_record(&mut self, now: Moment) {
        if !self.dirty.is_empty() {
            self.unrecorded.get_or_insert(now);
        }
        let files = &self.files;
        self.offloadable.retain(|slot| {
            let file = files.get(*slot as usize).and_then(Option::as_ref);
            file.is_some_and(|file| {
                file.whole && file.offload == Offload::No && file.counts.under_replicated == 0
            })
        });
        if self.unrecorded.is_none() {
            // All changes are in records that have been taken already.
            self.await_record(self.ticket);
        }
        while let Some((ticket, _)) = self.own_waiting.front()
            && *ticket <= self.recorded
        {
            for key in self.own_waiting.pop_front().into_iter().flat_map(|(_, keys)| keys) {
                self.give_up_own(key);
            }
        }
    }

    /// Drops a chunk of the tracker's chunk store, if the copies that replace it remain.
    fn give_up_own(&mut self, key: Key) {
        let replicas = self.settings.replicas;
        let Some(file) = self.file(key.file) else { return };
        let Some(chunk) = file.chunks.get(key.index as usize).filter(|chunk| chunk.own_leaving) else {
            return;
        };
        let safe = usize::from(chunk.copy_counts.verified) >= replicas && !chunk.disturbed;
        let (id, offloaded) = (file.id, file.offload == Offload::Done);
        if safe && offloaded {
            self.set_own(key, false);
            self.drops.entry((Location::Tracker, id)).or_default().push(ChunkIndex(key.index));
        } else {
            if let Some(chunk) = self.chunk_mut(key) {
                chunk.own_leaving = false;
            }
            self.touch(key);
        }
    }
}
