//! Deletion of the tracker's own copies of files, and of single chunks in its chunk store.
//!
//! Invariant: the tracker deletes its own copy of a file, or of a chunk in its chunk store, only when every
//! copy that replaces it is in a durable record and none of these has been lost since the record was
//! assembled.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::file::Offload;
use super::order::Order;
use crate::content::{ChunkIndex, FileId};
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, Location};

impl ReplicationPlanner {
    /// Orders or cancels the offloads whose record is durable.
    pub(super) fn release_offloads(&mut self, now: Moment) {
        for slot in 0..self.files.slot_count() {
            self.release_offload(now, slot);
        }
    }

    fn release_offload(&mut self, now: Moment, slot: u32) {
        let last_durable = self.records.last_durable;
        let Some(file) = self.files.get_mut(slot) else { return };
        if !matches!(file.offload, Offload::Recording(record) if record <= last_durable) {
            return;
        }
        let id = file.id;
        if file.complete
            && !file.kept_here
            && file.counts.under_replicated == 0
            && !file.copy_lost_since_record
        {
            file.offload = Offload::Ordered;
            self.orders.push(Order::Offload { file: id });
        } else {
            file.offload = Offload::No;
            self.records.push(now, Change::Offloaded(id, false));
        }
        self.recompute_file(slot);
    }

    /// Handles the deletion of the tracker's own copy of a file; or (`done` is false) its failure.
    pub fn offloaded(&mut self, now: Moment, id: FileId, done: bool) {
        let Some(slot) = self.files.slot_of(id) else { return };
        let Some(file) = self.files.get_mut(slot).filter(|file| file.offload == Offload::Ordered) else {
            return;
        };
        if done {
            file.complete = false;
            file.offload = Offload::Done;
        } else {
            file.offload = Offload::No;
            file.offload_failed = true;
            self.records.push(now, Change::Offloaded(id, false));
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
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return };
        if !chunk.store_drop_pending {
            return;
        }
        let safe = !chunk.deficits.under_replicated && !chunk.copy_lost_since_record;
        let (id, offloaded) = (file.id, file.offload == Offload::Done);
        if safe && offloaded {
            self.set_in_store(key, false);
            self.drops.add(Location::Tracker, id, ChunkIndex(key.index));
        } else {
            if let Some(chunk) = self.files.chunk_mut(key) {
                chunk.store_drop_pending = false;
            }
            self.recompute(key);
        }
    }
}
