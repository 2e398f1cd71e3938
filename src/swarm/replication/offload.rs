//! Deletion of the tracker's own copies of files, and of single chunks in its chunk store.
//!
//! Invariant: the tracker deletes its own copy of a file, or of a chunk in its chunk store, only when
//! `replicas` copies justify it which are in a durable record, and none of these has been lost since the record
//! was assembled. If one is lost before the deletion is reported, the permit of the deletion is revoked.

use super::ReplicationPlanner;
use super::chunk::{ChunkKey, StoreCopy};
use super::file::Offload;
use super::order::{DropReason, Order};
use crate::content::FileId;
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, OffloadResult};

impl ReplicationPlanner {
    /// The number of a new permit for a deletion.
    pub(super) fn new_permit(&mut self) -> u64 {
        self.last_permit += 1;
        self.last_permit
    }

    /// Orders or cancels the offloads whose record is durable.
    pub(super) fn release_offloads(&mut self, now: Moment) {
        for slot in 0..self.files.slot_count() {
            self.release_offload(now, slot);
        }
    }

    fn release_offload(&mut self, now: Moment, slot: u32) {
        let last_durable = self.records.last_durable;
        let Some(file) = self.files.get(slot) else { return };
        if !matches!(file.offload, Offload::Recording(record) if record <= last_durable) {
            return;
        }
        let id = file.id;
        let is_justified =
            file.complete && file.counts.unjustified == 0 && !file.copy_lost_since_record && !file.kept_here;
        let offload = match is_justified {
            true => Offload::Ordered(self.new_permit()),
            false => Offload::No,
        };
        if let Some(file) = self.files.get_mut(slot) {
            file.offload = offload;
        }
        match offload {
            Offload::Ordered(permit) => self.orders.push(Order::Offload { file: id, permit }),
            _ => self.records.push(now, Change::Offloaded(id, false)),
        }
        self.recompute_file(slot);
    }

    /// Handles the result of the deletion of the tracker's own copy of a file.
    pub fn offloaded(&mut self, now: Moment, id: FileId, result: OffloadResult) {
        let Some(slot) = self.files.slot_of(id) else { return };
        let is_ordered = |offload| matches!(offload, Offload::Ordered(_) | Offload::Revoked);
        let Some(file) = self.files.get_mut(slot).filter(|file| is_ordered(file.offload)) else { return };
        if result == OffloadResult::Deleted {
            file.complete = false;
            file.offload = Offload::Done;
            // A copy that the owner puts there later needs a new order.
            self.set_offload_wanted(now, slot, false);
        } else {
            file.offload = Offload::No;
            file.offload_failed = result == OffloadResult::Failed;
            self.records.push(now, Change::Offloaded(id, false));
        }
        self.recompute_file(slot);
        self.settle(now);
    }

    /// Revokes the deletions that a chunk no longer justifies. `store`: the drop of the copy in the tracker's
    /// chunk store is one of them.
    pub(super) fn revoke_unjustified(&mut self, key: ChunkKey, store: bool) {
        if store {
            self.revoke_own_drop(key);
        }
        let Some(file) = self.files.get(key.file) else { return };
        let is_unjustified = file.chunks.get(key.index as usize).is_some_and(|one| one.deficits.unjustified);
        if is_unjustified {
            self.revoke_offload(key.file);
        }
    }

    fn revoke_offload(&mut self, slot: u32) {
        let Some(file) = self.files.get_mut(slot) else { return };
        if let Offload::Ordered(permit) = file.offload {
            file.offload = Offload::Revoked;
            self.orders.push(Order::Revoke(permit));
        }
    }

    fn set_offload_wanted(&mut self, now: Moment, slot: u32, wanted: bool) {
        if let Some(file) = self.files.get_mut(slot).filter(|file| file.offload_wanted != wanted) {
            file.offload_wanted = wanted;
            let change = Change::OffloadWanted(file.id, wanted);
            self.records.push(now, change);
        }
    }

    /// Marks a file as kept by the owner: the tracker keeps its own copy. Or (`on` is false) removes the mark.
    pub fn set_kept_here(&mut self, now: Moment, id: FileId, on: bool) {
        let Some(slot) = self.files.slot_of(id) else { return };
        let Some(file) = self.files.get_mut(slot) else { return };
        file.kept_here = on;
        if on {
            self.set_offload_wanted(now, slot, false);
            self.revoke_offload(slot);
            for index in self.files.get(slot).map(|file| 0..file.chunks.len() as u32).into_iter().flatten() {
                self.revoke_own_drop(ChunkKey { file: slot, index });
            }
        }
        self.recompute_file(slot);
        self.settle(now);
    }

    /// Orders the offload of a file, even if files are not offloaded in general. The order is recorded until it is
    /// carried out, or the owner keeps the file.
    pub fn want_offload(&mut self, now: Moment, id: FileId) {
        let Some(slot) = self.files.slot_of(id) else { return };
        let Some(file) = self.files.get_mut(slot) else { return };
        file.kept_here = false;
        file.offload_failed = false;
        if file.offload != Offload::Done {
            self.set_offload_wanted(now, slot, true);
        }
        self.recompute_file(slot);
        self.settle(now);
    }

    /// Drops the chunks of the tracker's chunk store whose record is durable.
    pub(super) fn release_store_drops(&mut self) {
        while let Some((record, _)) = self.records.store_drops.front()
            && *record <= self.records.last_durable
        {
            for key in self.records.store_drops.pop_front().into_iter().flat_map(|(_, keys)| keys) {
                self.drop_from_store(key);
            }
        }
    }

    /// Drops a chunk of the tracker's chunk store, if the copies that replace it remain.
    fn drop_from_store(&mut self, key: ChunkKey) {
        match self.files.get(key.file).map(|file| file.id) {
            Some(id) if self.may_drop_from_store(key) => {
                self.drops.drop_own(id, key, DropReason::Offloaded);
            }
            _ => self.keep_in_store(key),
        }
    }

    /// Whether the copy of a chunk in the tracker's chunk store is recorded for a drop that is justified.
    pub(super) fn may_drop_from_store(&self, key: ChunkKey) -> bool {
        self.files.file_and_chunk(key).is_some_and(|(file, chunk)| {
            chunk.in_store == StoreCopy::Recording
                && !chunk.deficits.unjustified
                && !chunk.copy_lost_since_record
                && file.offload == Offload::Done
                && !file.kept_here
        })
    }

    /// Keeps a chunk in the tracker's chunk store that was to be dropped after a record.
    pub(super) fn keep_in_store(&mut self, key: ChunkKey) {
        let chunk = self.files.chunk_mut(key).filter(|chunk| chunk.in_store == StoreCopy::Recording);
        if let Some(chunk) = chunk {
            chunk.in_store = StoreCopy::Kept;
            self.recompute(key);
        }
    }
}
