//! Table of all known volunteers.
//!
//! Invariant: once [updated](VolunteerTable::update_targets), the index of targets contains exactly the
//! volunteers that may take copies, in their current state.

use super::chunk::ChunkKey;
use super::target_index::TargetIndex;
use super::traffic::Window;
use super::volunteer::{Liveness, Volunteer};
use crate::content::FileId;
use crate::protocol::tokens::VolunteerKey;
use crate::swarm::Moment;
use crate::swarm::keeping::{VolunteerNumber, VolunteerRecord};
use std::collections::{BTreeSet, HashMap};

/// Numbers of volunteers by liveness.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct VolunteerCounts {
    /// Have reported their chunks and are not draining.
    pub staying: usize,
    /// Are away, or have not reported yet.
    pub expected: usize,
    pub draining: usize,
}

/// The known volunteers by number and by key, and the index of those that may take copies.
#[derive(Default, Debug)]
pub(super) struct VolunteerTable {
    /// The position is the volunteer's number.
    slots: Vec<Option<Box<Volunteer>>>,
    by_key: HashMap<VolunteerKey, VolunteerNumber>,
    pub counts: VolunteerCounts,
    pub targets: TargetIndex,
    /// Volunteers whose entry in `targets` is out of date.
    outdated_targets: BTreeSet<VolunteerNumber>,
    /// Pairs whose entry in the registry is out of date.
    pub registry_changes: Vec<(VolunteerNumber, FileId)>,
}

impl VolunteerTable {
    pub fn get(&self, number: VolunteerNumber) -> Option<&Volunteer> {
        self.slots.get(number.0 as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, number: VolunteerNumber) -> Option<&mut Volunteer> {
        self.slots.get_mut(number.0 as usize)?.as_deref_mut()
    }

    pub fn number_of(&self, key: VolunteerKey) -> Option<VolunteerNumber> {
        self.by_key.get(&key).copied()
    }

    /// The number that a new volunteer gets.
    pub fn next_number(&self) -> VolunteerNumber {
        VolunteerNumber(self.slots.len() as u32)
    }

    /// Adds a volunteer under the number in its record.
    pub fn insert(&mut self, record: VolunteerRecord, liveness: Liveness) {
        let at = record.number.0 as usize;
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        self.by_key.insert(record.key, record.number);
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(Box::new(Volunteer::new(record, liveness)));
        }
    }

    /// Removes a volunteer and returns it. Its copies must have been removed before.
    pub fn remove(&mut self, number: VolunteerNumber) -> Option<Volunteer> {
        let volunteer = self.slots.get_mut(number.0 as usize)?.take()?;
        self.targets.put(number, volunteer.index_entry, None);
        self.outdated_targets.remove(&number);
        self.by_key.remove(&volunteer.record.key);
        self.recount();
        Some(*volunteer)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Volunteer> + '_ {
        self.slots.iter().flatten().map(|volunteer| &**volunteer)
    }

    pub fn numbers(&self) -> Vec<VolunteerNumber> {
        self.iter().map(|volunteer| volunteer.record.number).collect()
    }

    /// All chunks of which a volunteer has, or may have, a copy; without those in flight to it.
    pub fn keys_of(&self, number: VolunteerNumber) -> Vec<ChunkKey> {
        let holdings = self.get(number).into_iter().flat_map(|volunteer| &volunteer.holdings);
        let keys = holdings.flat_map(|(file, holding)| {
            holding.chunks.iter().map(|index| ChunkKey { file: *file, index: *index })
        });
        keys.collect()
    }

    pub fn is_alive(&self, number: VolunteerNumber) -> bool {
        self.get(number).is_some_and(Volunteer::is_alive)
    }

    pub fn has_reported(&self, number: VolunteerNumber) -> bool {
        self.get(number).is_some_and(Volunteer::has_reported)
    }

    /// Recomputes the counts after a change of liveness or a drain.
    pub fn recount(&mut self) {
        let mut counts = VolunteerCounts::default();
        for volunteer in self.iter() {
            let dead = volunteer.liveness == Liveness::Dead;
            counts.staying += usize::from(volunteer.has_reported() && !volunteer.draining);
            counts.expected += usize::from(!volunteer.has_reported() && !dead);
            counts.draining += usize::from(volunteer.draining);
        }
        self.counts = counts;
    }

    /// Notes that a volunteer's entry in the index of targets is out of date.
    pub fn mark_target_outdated(&mut self, number: VolunteerNumber) {
        self.outdated_targets.insert(number);
    }

    /// Notes that the entries of all volunteers are out of date.
    pub fn mark_all_targets_outdated(&mut self) {
        self.outdated_targets.extend(self.slots.iter().flatten().map(|volunteer| volunteer.record.number));
    }

    /// Updates the index entries that are out of date.
    pub fn update_targets(&mut self, now: Moment, window: Window) {
        while let Some(number) = self.outdated_targets.pop_first() {
            let Some(volunteer) = self.slots.get_mut(number.0 as usize).and_then(Option::as_mut) else {
                continue;
            };
            let entry = volunteer.new_index_entry(now, window);
            self.targets.put(number, volunteer.index_entry, entry);
            volunteer.index_entry = entry;
        }
    }
}
