//! Records: changes to write to the catalogue, in the order in which they become durable.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::file::{File, Offload};
use super::replicas::CopyState;
use crate::content::{Bitfield, ChunkIndex, FileId, limits};
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, VolunteerNumber};
use std::collections::{BTreeSet, VecDeque};

/// Changes that are in no record yet, and deletions that wait until a record is durable.
#[derive(Default, Debug)]
pub(super) struct Records {
    changes: Vec<Change>,
    /// Volunteers and slots of files whose catalogue entry is out of date.
    pub outdated_holdings: Vec<(VolunteerNumber, u32)>,
    /// Time of the oldest change that is in no record yet.
    oldest_change: Option<Moment>,
    /// The owner waits for the next record.
    is_urgent: bool,
    /// Number of the last record that was taken.
    last_taken: u64,
    /// Number of the last record that is durable.
    pub last_durable: u64,
    /// Slots of files whose complete copy at the tracker may be offloaded after the next record.
    pub offloadable: BTreeSet<u32>,
    /// Chunks that may be dropped from the tracker's chunk store after the next record.
    pub store_surplus: Vec<ChunkKey>,
    /// Chunks that may be dropped from there once the record with this number is durable.
    pub store_drops: VecDeque<(u64, Vec<ChunkKey>)>,
}

impl Records {
    /// Adds a change to the next record.
    pub fn push(&mut self, now: Moment, change: Change) {
        self.changes.push(change);
        self.oldest_change.get_or_insert(now);
    }

    /// Time at which the next record is due.
    pub fn due(&self) -> Option<Moment> {
        if self.last_taken - self.last_durable >= limits::PENDING_RECORDS_MAX {
            return None;
        }
        match self.offloadable.is_empty() && !self.is_urgent {
            true => self.oldest_change.map(|since| since + limits::RECORD_INTERVAL),
            // Only the record is missing, so do not wait for more changes.
            false => Some(self.oldest_change.unwrap_or_default()),
        }
    }

    /// Lets the next record be due now. Returns the number of the record that contains all changes so far; `None` if
    /// they are durable.
    pub fn hasten(&mut self) -> Option<u64> {
        if self.oldest_change.is_some() {
            self.is_urgent = true;
            return Some(self.last_taken + 1);
        }
        Some(self.last_taken).filter(|last| *last > self.last_durable)
    }

    /// Removes the change that a file is forgotten, because it would delete the file from the catalogue again.
    pub fn cancel_forgotten(&mut self, id: FileId) {
        self.changes.retain(|change| *change != Change::Forgotten(id));
    }

    /// Removes the changes about a volunteer that is forgotten.
    pub fn forget_volunteer(&mut self, number: VolunteerNumber) {
        self.outdated_holdings.retain(|(volunteer, _)| *volunteer != number);
        self.changes.retain(|change| match change {
            Change::Volunteer(record) => record.number != number,
            Change::Held { volunteer, .. } => *volunteer != number,
            _ => true,
        });
    }

    /// Replaces the changes of a file by the change that it is forgotten.
    pub fn forget_file(&mut self, now: Moment, slot: u32, id: FileId) {
        self.offloadable.remove(&slot);
        self.outdated_holdings.retain(|(_, file)| *file != slot);
        self.changes.retain(|change| match change {
            Change::Offloaded(file, _) | Change::Kept(file, _) | Change::OffloadWanted(file, _) => {
                *file != id
            }
            _ => true,
        });
        self.push(now, Change::Forgotten(id));
    }
}

impl ReplicationPlanner {
    /// The next record: changes to write atomically, and its number, which increases by one each time.
    /// Changes are collected for [`limits::RECORD_INTERVAL`], unless an offload waits for the record.
    pub fn take_record(&mut self, now: Moment) -> Option<(u64, Vec<Change>)> {
        self.records.due().filter(|due| *due <= now)?;
        self.records.oldest_change = None;
        self.records.is_urgent = false;
        self.records.last_taken += 1;
        let number = self.records.last_taken;
        let mut changes = std::mem::take(&mut self.records.changes);
        for (volunteer, slot) in std::mem::take(&mut self.records.outdated_holdings) {
            changes.extend(self.held_change(volunteer, slot));
        }
        for slot in std::mem::take(&mut self.records.offloadable) {
            if let Some(file) = self.files.get_mut(slot) {
                file.offload = Offload::Recording(number);
                file.copy_lost_since_record = false;
                changes.push(Change::Offloaded(file.id, true));
            }
        }
        self.assign_store_drops(number);
        Some((number, changes))
    }

    /// The change that contains all copies that a volunteer has of a file.
    fn held_change(&mut self, volunteer: VolunteerNumber, slot: u32) -> Option<Change> {
        let holding = self.volunteers.get_mut(volunteer)?.holdings.get_mut(&slot)?;
        holding.record_outdated = false;
        let file = self.files.get(slot)?;
        let mut chunks = Bitfield::none(file.layout.count());
        for index in &holding.chunks {
            let state = file.chunks.get(*index as usize)?.replicas.get(volunteer);
            if state.is_some_and(CopyState::is_in_catalogue) {
                chunks.insert(ChunkIndex(*index));
            }
        }
        Some(Change::Held { file: file.id, volunteer, chunks })
    }

    /// Lets the chunks that may be dropped from the tracker's chunk store wait for this record.
    fn assign_store_drops(&mut self, record: u64) {
        let keys = std::mem::take(&mut self.records.store_surplus);
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            if let Some(chunk) = self.files.chunk_mut(*key) {
                chunk.copy_lost_since_record = false;
            }
        }
        self.records.store_drops.push_back((record, keys));
    }

    /// Updates the content of the next record, and releases the deletions whose record is durable.
    pub(super) fn update_records(&mut self, now: Moment) {
        if !self.records.outdated_holdings.is_empty() {
            self.records.oldest_change.get_or_insert(now);
        }
        let files = &self.files;
        self.records.offloadable.retain(|slot| files.get(*slot).is_some_and(File::is_ready_for_offload));
        if self.records.oldest_change.is_none() {
            // All changes are in records that have been taken already.
            self.assign_store_drops(self.records.last_taken);
        }
        self.release_store_drops();
    }

    /// Notes that this record, and all before it, is durable.
    pub fn recorded(&mut self, now: Moment, number: u64) {
        let number = number.min(self.records.last_taken);
        self.records.last_durable = self.records.last_durable.max(number);
        self.release_offloads(now);
        self.settle(now);
    }
}
