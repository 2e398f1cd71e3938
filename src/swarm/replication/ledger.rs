//! Ledger of copies: the only code that changes the state of a copy.
//!
//! Every change of a copy goes through [`ReplicationPlanner::set_copy`]; every other change that a chunk
//! depends on ends in [`ReplicationPlanner::recompute`]. They update all counters, queues and work lists in
//! time independent of the number of chunks.

use super::ReplicationPlanner;
use super::chunk::{ChunkKey, CopyCounts, StoreCopy, Wanted};
use super::file::Offload;
use super::order::Order;
use super::replicas::CopyState;
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::net::SocketAddr;

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
        let source = |state: Option<CopyState>| state.is_some_and(CopyState::is_source);
        let unproven = |state: Option<CopyState>| u32::from(state.is_some_and(CopyState::needs_proof));
        let held = |state: Option<CopyState>| state.is_some_and(|state| state != CopyState::Coming);
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
        holding.unproven = (holding.unproven + unproven(to)).saturating_sub(unproven(from));
        if in_catalogue(from) != in_catalogue(to) && !holding.record_outdated {
            holding.record_outdated = true;
            self.records.outdated_holdings.push((number, key.file));
        }
        let (served, serves) = (source(from), source(to));
        if served != serves {
            holding.served = (holding.served + u32::from(serves)).saturating_sub(served.into());
            if !holding.registry_outdated {
                holding.registry_outdated = true;
                self.volunteers.registry_changes.push((number, id));
            }
        }
        if unproven(to) > 0 {
            self.proofs.pending.insert(number);
        }
        if from == Some(CopyState::Stored) {
            self.proofs.undecided.remove(&(number, key));
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
        let wanted = Wanted { suspended: self.suspended_copies(key), ..self.wanted_copies(key.file) };
        let Some((file, sums)) = self.files.get_with_counts(key.file) else { return };
        let keeps_complete = file.keeps_complete();
        let Some(chunk) = file.chunks.get_mut(key.index as usize) else { return };
        let before = (chunk.deficits, chunk.copy_counts, chunk.priority);
        file.copy_lost_since_record |= copy_counts.justifying < chunk.copy_counts.justifying;
        let tracker_has = chunk.is_in_store() || keeps_complete;
        chunk.recompute(copy_counts, wanted, tracker_has);
        let after = (chunk.deficits, chunk.copy_counts, chunk.priority);
        if chunk.in_store == StoreCopy::Kept
            && !chunk.deficits.unjustified
            && file.offload == Offload::Done
            && !file.kept_here
        {
            chunk.in_store = StoreCopy::Recording;
            self.records.store_surplus.push(key);
        }
        let revoked = chunk.deficits.unjustified && chunk.in_store == StoreCopy::Dropping;
        if chunk.reported_lost && (copy_counts.sources > 0 || tracker_has) {
            chunk.reported_lost = false;
            file.counts.lost = file.counts.lost.saturating_sub(1);
            sums.lost = sums.lost.saturating_sub(1);
            self.lost.note_found(key.file);
        }
        file.counts.change((before.0, before.1), (after.0, after.1));
        sums.change((before.0, before.1), (after.0, after.1));
        if after.0.without_copy && !before.0.without_copy && file.grace_over {
            self.lost.candidates.push(key);
        }
        if file.counts.under_replicated == 0 || file.counts.unjustified == 0 {
            self.handle_full_replication(key.file);
        }
        self.revoke_unjustified(key, revoked);
        self.drops.note_copies(key, copy_counts.readable.into(), wanted.replicas);
        if before.2 != after.2 {
            self.waiting.counts.move_one(before.2, after.2);
            self.enqueue(key);
        }
    }

    /// Reports that every chunk of a file has its copies, and marks the file for offload if that is wanted.
    fn handle_full_replication(&mut self, slot: u32) {
        let Some(file) = self.files.get_mut(slot) else { return };
        if !file.replication_noted && file.counts.under_replicated == 0 {
            file.replication_noted = true;
            let text = format!("every chunk has its {} copies at volunteers", self.settings.replicas);
            self.orders.push(Order::Note(Some(file.id), text));
        }
        let wanted = self.settings.offload || file.offload_wanted;
        if wanted && file.is_ready_for_offload() && !file.offload_failed {
            self.records.offloadable.insert(slot);
        }
    }

    /// Wanted numbers of copies of the chunks of a file.
    pub(super) fn wanted_copies(&self, slot: u32) -> Wanted {
        let replicas = self.settings.replicas;
        let waits_for_offload = self.files.get(slot).is_some_and(|file| {
            let is_wanted = self.settings.offload || file.offload_wanted;
            is_wanted && file.complete && file.offload == Offload::No && !file.kept_here
        });
        let approved = if waits_for_offload { self.approved_wanted } else { 0 };
        Wanted { replicas, approved, suspended: 0 }
    }

    /// Number of suspected copies of a chunk at volunteers that stay.
    fn suspended_copies(&self, key: ChunkKey) -> usize {
        let replicas = self.files.chunk(key).into_iter().flat_map(|chunk| chunk.replicas.iter());
        let suspected = replicas.filter(|replica| replica.state() == CopyState::Suspected);
        let stays = |number| {
            self.volunteers.get(number).is_some_and(|volunteer| !volunteer.draining && !volunteer.is_denied())
        };
        suspected.filter(|replica| stays(replica.volunteer())).count()
    }

    /// Updates the wanted number of copies at approved volunteers after a change of their number.
    pub(super) fn update_approved_wanted(&mut self) {
        let approved = if self.settings.approve { self.volunteers.counts.approved } else { 0 };
        let wanted = approved.min(self.settings.replicas);
        let before = std::mem::replace(&mut self.approved_wanted, wanted);
        if before == wanted {
            return;
        }
        for slot in 0..self.files.slot_count() {
            if self.files.get(slot).is_some_and(|file| file.complete) {
                self.recompute_file(slot);
            }
        }
    }

    fn count_copies(&self, key: ChunkKey) -> CopyCounts {
        let mut copy_counts = CopyCounts::default();
        let Some(chunk) = self.files.chunk(key) else { return copy_counts };
        let mut justifying: Vec<SocketAddr> = Vec::new();
        for replica in chunk.replicas.iter() {
            let state = replica.state();
            let volunteer = self.volunteers.get(replica.volunteer());
            let mut standing =
                volunteer.map(|volunteer| volunteer.standing(self.settings.approve)).unwrap_or_default();
            // Several volunteers at one address and port may be one program: they count once.
            if let Some(volunteer) = volunteer.filter(|_| state == CopyState::Proven && standing.justifies) {
                let address = volunteer.record.address;
                standing.justifies = !justifying.contains(&address);
                justifying.push(address);
            }
            copy_counts.add(state, standing);
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
    pub(super) fn set_in_store(&mut self, key: ChunkKey, to: StoreCopy) {
        let Some(file) = self.files.get_mut(key.file) else { return };
        let Some(chunk) = file.chunks.get_mut(key.index as usize) else { return };
        let (was, is) = (chunk.is_in_store(), matches!(to, StoreCopy::Kept | StoreCopy::Recording));
        chunk.in_store = to;
        match (was, is) {
            (false, true) => file.stored_chunks += 1,
            (true, false) => file.stored_chunks = file.stored_chunks.saturating_sub(1),
            _ => {}
        }
        self.recompute(key);
    }
}
