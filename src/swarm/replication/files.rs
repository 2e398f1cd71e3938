//! Files that are added and forgotten, and the tracker's own copies of them.

use super::chunk::{CopyState, Deficits, Key};
use super::file::{File, Offload};
use super::priority::Priority;
use super::volunteer::Volunteer;
use super::{ReplicationPlanner, Timer};
use crate::content::{ChunkIndex, FileId, Layout};
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, Location, VolunteerNumber};

impl ReplicationPlanner {
    /// Restores a file from the catalogue, before any other event. `offloaded`: the tracker has deleted its
    /// own copy.
    pub fn restore_file(&mut self, id: FileId, layout: Layout, offloaded: bool) {
        let since = self.start.unwrap_or_default();
        let slot = self.insert_file(since, id, layout);
        if let Some(file) = slot.and_then(|slot| self.file_mut(slot)).filter(|_| offloaded) {
            file.offload = Offload::Done;
        }
    }

    /// Restores the id of a forgotten file from the catalogue.
    pub fn restore_forgotten(&mut self, file: FileId) {
        self.forgotten.insert(file);
    }

    /// Adds a file. A known file is left unchanged.
    pub fn add_file(&mut self, now: Moment, id: FileId, layout: Layout) {
        self.begin(now);
        if self.insert_file(now, id, layout).is_some() {
            self.after(now + self.settings.lease, Timer::Examine);
            self.settle(now);
        }
    }

    fn insert_file(&mut self, since: Moment, id: FileId, layout: Layout) -> Option<u32> {
        if self.by_id.contains_key(&id) {
            return None;
        }
        if self.forgotten.remove(&id) {
            // The publisher has already written the file to the catalogue; a pending deletion would remove it
            // again.
            self.changes.retain(|change| *change != Change::Forgotten(id));
        }
        let slot = self.files.len() as u32;
        self.files.push(Some(File::new(id, layout, since)));
        self.by_id.insert(id, slot);
        self.touch_file(slot);
        Some(slot)
    }

    /// Notes that the tracker's own complete copy of a file has appeared or disappeared.
    pub fn own_whole(&mut self, now: Moment, id: FileId, there: bool) {
        let Some(slot) = self.by_id.get(&id).copied() else { return };
        let Some(file) = self.file_mut(slot) else { return };
        if file.whole == there {
            return;
        }
        file.whole = there;
        let is_back = there && file.offload == Offload::Done;
        if there {
            file.kept_for_good = false;
        } else if matches!(file.offload, Offload::Recording(_)) {
            file.disturbed = true;
        }
        if is_back {
            file.offload = Offload::No;
            self.change(now, Change::Offloaded(id, false));
        }
        self.touch_file(slot);
        self.settle(now);
    }

    /// Adds a file that only volunteers have, as an offloaded file.
    pub fn adopt_file(&mut self, now: Moment, id: FileId, layout: Layout) {
        self.add_file(now, id, layout);
        let slot = self.by_id.get(&id).copied();
        let adopted = slot.and_then(|slot| self.file_mut(slot));
        if let Some(file) = adopted.filter(|file| !file.whole && file.offload == Offload::No) {
            file.offload = Offload::Done;
            self.change(now, Change::Offloaded(id, true));
        }
        self.settle(now);
    }

    /// Notes that all complete files of the tracker are known. No chunk is reported lost before that.
    pub fn looked(&mut self, now: Moment) {
        self.begin(now);
        self.looked = true;
        let first = self.start.unwrap_or(now) + self.settings.lease;
        self.after(first.max(now), Timer::Examine);
        self.settle(now);
    }

    /// Stops keeping a file: all its chunks are dropped, and its id is remembered.
    pub fn forget(&mut self, now: Moment, id: FileId) {
        let Some(slot) = self.by_id.get(&id).copied() else { return };
        let transfers: Vec<(Key, Location)> =
            self.transfers.keys().filter(|(key, _)| key.file == slot).copied().collect();
        for (key, to) in transfers {
            self.fail_transfer(key, to);
        }
        self.ignored.retain(|(key, _), _| key.file != slot);
        self.retries.retain(|key, _| key.file != slot);
        for number in self.numbers().collect::<Vec<_>>() {
            self.forget_at(number, slot, id);
        }
        if let Some(file) = self.files.get_mut(slot as usize).and_then(Option::take) {
            self.counts.subtract(&file.counts);
            for chunk in &file.chunks {
                self.queued.move_one(chunk.priority, Priority::NONE);
            }
        }
        self.by_id.remove(&id);
        self.forgotten.insert(id);
        self.offloadable.remove(&slot);
        self.found.remove(&slot);
        self.dirty.retain(|(_, file)| *file != slot);
        self.changes.retain(|change| !matches!(change, Change::Offloaded(file, _) if *file == id));
        self.change(now, Change::Forgotten(id));
        self.unpark_all();
        self.settle(now);
    }

    fn forget_at(&mut self, number: VolunteerNumber, slot: u32, id: FileId) {
        let Some(holding) = self.at(number).and_then(|volunteer| volunteer.holdings.get(&slot)) else {
            return;
        };
        let keys: Vec<Key> = holding.chunks.iter().map(|index| Key { file: slot, index: *index }).collect();
        let here = self.at(number).is_some_and(Volunteer::is_here);
        let mut dropped = Vec::new();
        for key in keys {
            let state = self.state(key, number);
            self.set(key, number, None);
            if here && state.is_some_and(|state| state != CopyState::Dropping) {
                dropped.push(ChunkIndex(key.index));
            }
        }
        if !dropped.is_empty() {
            self.drops.entry((Location::Volunteer(number), id)).or_default().extend(dropped);
        }
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.holdings.remove(&slot);
        }
    }

    /// Whether a file is kept.
    pub fn is_known(&self, file: FileId) -> bool {
        self.by_id.contains_key(&file)
    }

    /// Whether a file was kept before and has been forgotten.
    pub fn was_forgotten(&self, file: FileId) -> bool {
        self.forgotten.contains(&file)
    }

    /// Adds a chunk to the tracker's chunk store, or removes it.
    pub(super) fn set_own(&mut self, key: Key, there: bool) {
        let Some(file) = self.file_mut(key.file) else { return };
        let Some(chunk) = file.chunks.get_mut(key.index as usize) else { return };
        if chunk.own != there {
            chunk.own = there;
            chunk.own_leaving = false;
            match there {
                true => file.own += 1,
                false => file.own = file.own.saturating_sub(1),
            }
            self.touch(key);
        }
    }

    /// Whether a chunk has no copy.
    pub(super) fn is_bare(&self, key: Key) -> bool {
        self.chunk(key).is_some_and(|chunk| chunk.deficits == Deficits { bare: true, ..chunk.deficits })
    }
}
