//! Inputs about files: added, complete at the tracker, forgotten.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::file::{File, Offload};
use super::priority::Priority;
use super::replicas::CopyState;
use super::schedule::Timer;
use crate::content::{ChunkIndex, FileId, Layout};
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, VolunteerNumber};

impl ReplicationPlanner {
    /// Restores a file from the catalogue, before any other event. `offloaded`: the tracker has deleted its
    /// own copy.
    pub fn restore_file(&mut self, id: FileId, layout: Layout, offloaded: bool) {
        let known_since = self.schedule.start.unwrap_or_default();
        let slot = self.insert_file(known_since, id, layout);
        if let Some(file) = slot.and_then(|slot| self.files.get_mut(slot)).filter(|_| offloaded) {
            file.offload = Offload::Done;
        }
    }

    /// Restores the id of a forgotten file from the catalogue.
    pub fn restore_forgotten(&mut self, file: FileId) {
        self.files.forgotten.insert(file);
    }

    /// Adds a file. A known file is left unchanged.
    pub fn add_file(&mut self, now: Moment, id: FileId, layout: Layout) {
        self.note_start(now);
        if self.insert_file(now, id, layout).is_some() {
            self.schedule.add(now + self.settings.lease, Timer::ScanForLost);
            self.settle(now);
        }
    }

    /// Adds an unknown file and returns its slot.
    fn insert_file(&mut self, known_since: Moment, id: FileId, layout: Layout) -> Option<u32> {
        if self.is_known(id) {
            return None;
        }
        if self.files.forgotten.remove(&id) {
            // The publisher has already written the file to the catalogue again.
            self.records.cancel_forgotten(id);
        }
        let slot = self.files.insert(File::new(id, layout, known_since));
        self.recompute_file(slot);
        for (number, chunks) in self.drops.take_forgotten(id) {
            for key in chunks.iter().filter_map(|index| self.files.key(id, *index)).collect::<Vec<_>>() {
                self.set_copy(key, number, Some(CopyState::Claimed));
            }
        }
        Some(slot)
    }

    /// Notes that the tracker has the complete file, or (`complete` is false) has it no longer.
    pub fn set_complete_at_tracker(&mut self, now: Moment, id: FileId, complete: bool) {
        let Some(slot) = self.files.slot_of(id) else { return };
        let Some(file) = self.files.get_mut(slot) else { return };
        if file.complete == complete {
            return;
        }
        file.complete = complete;
        let is_back = complete && file.offload == Offload::Done;
        if complete {
            file.offload_failed = false;
            file.superseded = false;
        } else if matches!(file.offload, Offload::Recording(_)) {
            file.copy_lost_since_record = true;
        }
        if !complete && file.offload == Offload::No {
            // A file that was edited is published again under another id: its chunks are not lost before that.
            file.grace_over = false;
            file.known_since = now;
            self.schedule.add(now + self.settings.lease, Timer::ScanForLost);
        }
        if is_back {
            file.offload = Offload::No;
            self.records.push(now, Change::Offloaded(id, false));
        }
        self.recompute_file(slot);
        self.settle(now);
    }

    /// Notes that a file with another id has replaced this one under its name. Of the previous version, chunks
    /// without a copy are not reported as lost.
    pub fn supersede(&mut self, now: Moment, id: FileId) {
        let slot = self.files.slot_of(id);
        let Some(file) = slot.and_then(|slot| self.files.get_mut(slot)).filter(|file| !file.complete) else {
            return;
        };
        file.superseded = true;
        self.settle(now);
    }

    /// Adds a file that only volunteers have, as an offloaded file.
    pub fn adopt_file(&mut self, now: Moment, id: FileId, layout: Layout) {
        self.add_file(now, id, layout);
        let slot = self.files.slot_of(id);
        let adopted = slot.and_then(|slot| self.files.get_mut(slot));
        if let Some(file) = adopted.filter(|file| !file.complete && file.offload == Offload::No) {
            file.offload = Offload::Done;
            self.records.push(now, Change::Offloaded(id, true));
        }
        self.settle(now);
    }

    /// Notes that all complete files of the tracker are known. No chunk is reported lost before that.
    pub fn scan_complete(&mut self, now: Moment) {
        self.note_start(now);
        self.lost.scan_complete = true;
        let first = self.schedule.start.unwrap_or(now) + self.settings.lease;
        self.schedule.add(first.max(now), Timer::ScanForLost);
        self.settle(now);
    }

    /// Stops keeping a file: all its chunks are dropped, and its id is remembered.
    pub fn forget(&mut self, now: Moment, id: FileId) {
        let Some(slot) = self.files.slot_of(id) else { return };
        for (key, to) in self.transfers.select(|key, _, _| key.file == slot) {
            self.fail_transfer(key, to);
        }
        self.transfers.forget_file(slot);
        self.proofs.forget_file(slot);
        self.drops.forget_file(slot);
        self.verifications.remove(&slot);
        self.waiting.retries.retain(|key, _| key.file != slot);
        for number in self.volunteers.numbers() {
            self.forget_at(number, slot, id);
        }
        if let Some(file) = self.files.forget(slot) {
            for chunk in &file.chunks {
                self.waiting.counts.move_one(chunk.priority, Priority::NONE);
            }
        }
        self.lost.forget_file(slot);
        self.records.forget_file(now, slot, id);
        self.unpark_all();
        self.settle(now);
    }

    /// Removes the copies of a file at a volunteer, and drops them if it is connected.
    fn forget_at(&mut self, number: VolunteerNumber, slot: u32, id: FileId) {
        let volunteer = self.volunteers.get(number);
        let Some(holding) = volunteer.and_then(|volunteer| volunteer.holdings.get(&slot)) else { return };
        let keys: Vec<ChunkKey> =
            holding.chunks.iter().map(|index| ChunkKey { file: slot, index: *index }).collect();
        let is_alive = self.volunteers.is_alive(number);
        let mut dropped = Vec::new();
        for key in keys {
            let state = self.files.copy_state(key, number);
            self.set_copy(key, number, None);
            if is_alive && state.is_some_and(|state| state != CopyState::Dropping) {
                dropped.push(ChunkIndex(key.index));
            }
        }
        if !dropped.is_empty() {
            self.drops.forget(number, id, &dropped);
        }
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.holdings.remove(&slot);
        }
    }

    /// Whether a file is kept.
    pub fn is_known(&self, file: FileId) -> bool {
        self.files.slot_of(file).is_some()
    }

    /// Whether a file was kept before and has been forgotten.
    pub fn was_forgotten(&self, file: FileId) -> bool {
        self.files.forgotten.contains(&file)
    }
}
