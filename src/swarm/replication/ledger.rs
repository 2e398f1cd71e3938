//! Ledger of copies: the only code that changes the state of a copy.
//!
//! Every change of a copy goes through [`ReplicationPlanner::set_copy`]; every other change that a chunk
//! depends on ends in [`ReplicationPlanner::recompute`]. They update all counters, queues and work lists in
//! time independent of the number of chunks.

use super::ReplicationPlanner;
use super::chunk::{ChunkKey, CopyCounts};
use super::file::Offload;
use super::order::Order;
use super::replicas::CopyState;
use crate::swarm::keeping::{Location, VolunteerNumber};

impl ReplicationPlanner {
    /// Sets the state of a volunteer's copy; `None` if it has none.
    pub(super) fn set_copy(&mut self, key: ChunkKey, number: VolunteerNumber, to: Option<CopyState>) {
        let Some((file, sums)) = self.files.get_with_counts(key.file) else { return };
        let (length, id) = (file.length(key.index), file.id);
        let Some(chunk) = file.chunks.get_mut(key.index as usize) else { return };
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        let from = chunk.replicas.set(number, to);
        if from == to {
            return;
        }
        let in_catalogue = |state: Option<CopyState>| state.is_some_and(CopyState::is_in_catalogue);
        let available = |state: Option<CopyState>| state.is_some_and(CopyState::is_available);
        let source = |state: Option<CopyState>| state.is_some_and(CopyState::is_source);
        let held = |state: Option<CopyState>| state.is_some_and(|state| state != CopyState::InFlight);
        chunk.was_at_volunteer |= in_catalogue(to);
        file.counts.change_copy(from, to);
        sums.change_copy(from, to);

        volunteer.count(length, from, to);
        let holding = volunteer.holdings.entry(key.file).or_default();
        match (held(from), held(to)) {
            (false, true) => _ = holding.chunks.insert(key.index),
            (true, false) => _ = holding.chunks.remove(&key.index),
            _ => {}
        }
        if in_catalogue(from) != in_catalogue(to) && !holding.record_outdated {
            holding.record_outdated = true;
            self.records.outdated_holdings.push((number, key.file));
        }
        let (served, serves) = (available(from), available(to));
        if served != serves {
            holding.served = (holding.served + u32::from(serves)).saturating_sub(served.into());
            if !holding.registry_outdated {
                holding.registry_outdated = true;
                self.volunteers.registry_changes.push((number, id));
            }
        }
        self.volunteers.mark_target_outdated(number);
        self.recompute(key);
        if source(to) && !source(from) {
            self.enqueue_at(Location::Volunteer(number), key);
        }
    }

    /// Recomputes the counts and the priority of a chunk after any change that they depend on, and updates
    /// everything that depends on them.
    pub(super) fn recompute(&mut self, key: ChunkKey) {
        let copy_counts = self.count_copies(key);
        let replicas = self.settings.replicas;
        let Some((file, sums)) = self.files.get_with_counts(key.file) else { return };
        let keeps_complete = file.keeps_complete();
        let Some(chunk) = file.chunks.get_mut(key.index as usize) else { return };
        let before = (chunk.deficits, chunk.priority);
        file.copy_lost_since_record |= copy_counts.verified < chunk.copy_counts.verified;
        let tracker_has = chunk.in_store || keeps_complete;
        chunk.recompute(copy_counts, replicas, tracker_has);
        let after = (chunk.deficits, chunk.priority);
        if chunk.in_store
            && !chunk.store_drop_pending
            && !chunk.deficits.under_replicated
            && file.offload == Offload::Done
        {
            chunk.store_drop_pending = true;
            self.records.store_surplus.push(key);
        }
        if chunk.reported_lost && (copy_counts.available > 0 || tracker_has) {
            chunk.reported_lost = false;
            file.counts.lost = file.counts.lost.saturating_sub(1);
            sums.lost = sums.lost.saturating_sub(1);
            self.lost.note_found(key.file);
        }
        file.counts.change(before.0, after.0);
        sums.change(before.0, after.0);
        if after.0.without_copy && !before.0.without_copy && file.grace_over {
            self.lost.candidates.push(key);
        }
        if file.counts.under_replicated == 0 {
            self.handle_full_replication(key.file);
        }
        let staying = usize::from(copy_counts.staying);
        if !after.0.under_replicated && staying > replicas && copy_counts.in_flight == 0 {
            self.drops.over_replicated.insert(key);
        }
        if before.1 != after.1 {
            self.waiting.counts.move_one(before.1, after.1);
            self.enqueue(key);
        }
    }

    /// Reports that every chunk of a file has its copies, and marks the file for offload if that is enabled.
    fn handle_full_replication(&mut self, slot: u32) {
        let Some(file) = self.files.get_mut(slot) else { return };
        if !file.replication_noted {
            file.replication_noted = true;
            let text = format!("every chunk has its {} copies at volunteers", self.settings.replicas);
            self.orders.push(Order::Note(Some(file.id), text));
        }
        if (self.settings.offload || file.offload_requested)
            && file.is_ready_for_offload()
            && !file.offload_failed
        {
            self.records.offloadable.insert(slot);
        }
    }

    fn count_copies(&self, key: ChunkKey) -> CopyCounts {
        let mut copy_counts = CopyCounts::default();
        for replica in self.files.chunk(key).into_iter().flat_map(|chunk| chunk.replicas.iter()) {
            let draining = self.volunteers.counts.draining > 0
                && self.volunteers.get(replica.volunteer()).is_some_and(|volunteer| volunteer.draining);
            copy_counts.add(replica.state(), draining);
        }
        copy_counts
    }

    /// Recomputes all chunks of a file.
    pub(super) fn recompute_file(&mut self, slot: u32) {
        let count = self.files.get(slot).map_or(0, |file| file.chunks.len() as u32);
        for index in 0..count {
            self.recompute(ChunkKey { file: slot, index });
        }
    }

    /// Adds a chunk to the tracker's chunk store, or removes it.
    pub(super) fn set_in_store(&mut self, key: ChunkKey, in_store: bool) {
        let Some(file) = self.files.get_mut(key.file) else { return };
        let Some(chunk) = file.chunks.get_mut(key.index as usize) else { return };
        if chunk.in_store != in_store {
            chunk.in_store = in_store;
            chunk.store_drop_pending = false;
            match in_store {
                true => file.stored_chunks += 1,
                false => file.stored_chunks = file.stored_chunks.saturating_sub(1),
            }
            self.recompute(key);
        }
    }
}
