//! Commands of the owner: removal of volunteers, the mark of kept files, offload, and the state that they need.

use super::ReplicationPlanner;
use super::file::{File, Offload};
use super::volunteer::Volunteer;
use crate::content::{FileId, limits};
use crate::protocol::status::Copies;
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, VolunteerNumber};
use std::net::SocketAddr;

/// The tracker's own complete copy of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnCopyState {
    /// The tracker has no complete copy.
    Absent,
    /// Its deletion is in progress.
    Leaving,
    /// The copies at volunteers do not justify its deletion; the missing condition.
    Needed(String),
    /// The copies at volunteers justify its deletion.
    Replaced,
}

impl ReplicationPlanner {
    /// Lets the changes so far be recorded at once. Returns the number of the record that contains them all; `None` if
    /// they are durable.
    pub fn hasten_record(&mut self) -> Option<u64> {
        self.records.hasten()
    }

    /// Whether a volunteer is connected.
    pub fn is_connected(&self, number: VolunteerNumber) -> bool {
        self.volunteers.is_alive(number)
    }

    /// Number of chunks of which a volunteer is the last known holder.
    pub fn last_holder_of(&self, number: VolunteerNumber) -> u64 {
        let volunteer = self.volunteers.get(number);
        volunteer.map_or(0, |volunteer| self.only_holder_of(volunteer, usize::MAX) as u64)
    }

    /// Restores the mark of a kept file from the catalogue.
    pub fn restore_kept(&mut self, id: FileId) {
        let slot = self.files.slot_of(id);
        if let Some(file) = slot.and_then(|slot| self.files.get_mut(slot)) {
            file.kept_here = true;
        }
    }

    /// Restores the order to offload a file from the catalogue.
    pub fn restore_offload_order(&mut self, id: FileId) {
        let slot = self.files.slot_of(id);
        if let Some(file) = slot.and_then(|slot| self.files.get_mut(slot)) {
            file.offload_wanted = true;
        }
    }

    /// Whether the owner keeps the tracker's own copy of a file.
    pub fn is_kept_here(&self, id: FileId) -> bool {
        self.file_of(id).is_some_and(|file| file.kept_here)
    }

    /// Sets or removes the mark of a kept file: a file with the mark is never offloaded. It is recorded.
    pub fn set_kept(&mut self, now: Moment, id: FileId, kept_here: bool) {
        if self.file_of(id).is_some_and(|file| file.kept_here != kept_here) {
            self.records.push(now, Change::Kept(id, kept_here));
            self.set_kept_here(now, id, kept_here);
        }
    }

    /// Offloads a file as soon as the copies at volunteers justify it, also without `--offload`. Removes the mark of
    /// a kept file.
    pub fn offload_now(&mut self, now: Moment, id: FileId) {
        self.set_kept(now, id, false);
        self.want_offload(now, id);
    }

    /// State of the tracker's own complete copy of a file.
    pub fn own_copy(&self, id: FileId) -> OwnCopyState {
        let Some(file) = self.file_of(id).filter(|file| file.complete) else { return OwnCopyState::Absent };
        match (file.offload, file.counts.unjustified) {
            (Offload::Ordered(_), _) => OwnCopyState::Leaving,
            (_, 0) => OwnCopyState::Replaced,
            _ => OwnCopyState::Needed(self.missing_condition(file)),
        }
    }

    /// Copies of a file.
    pub fn file_copies(&self, id: FileId) -> Option<Copies> {
        let file = self.file_of(id)?;
        Some(Copies {
            lost: file.counts.without_copy,
            ..super::status::copies(&file.counts, file.chunks.len() as u64 * self.settings.replicas as u64)
        })
    }

    /// Addresses of connected volunteers that serve chunks of a file, the fullest holders first.
    pub fn recall_sources(&self, id: FileId) -> Vec<SocketAddr> {
        let Some(slot) = self.files.slot_of(id) else { return Vec::new() };
        let served = |volunteer: &&Volunteer| {
            volunteer
                .holdings
                .get(&slot)
                .map_or(0, |holding| if volunteer.is_alive() { holding.served } else { 0 })
        };
        let mut holders: Vec<&Volunteer> =
            self.volunteers.iter().filter(|volunteer| served(volunteer) > 0).collect();
        holders.sort_by_key(|volunteer| std::cmp::Reverse(served(volunteer)));
        holders.into_iter().take(limits::HOLDERS_MAX).map(|volunteer| volunteer.record.address).collect()
    }

    fn file_of(&self, id: FileId) -> Option<&File> {
        self.files.slot_of(id).and_then(|slot| self.files.get(slot))
    }
}
