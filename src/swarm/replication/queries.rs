//! Queries: catalogue entries of volunteers, and the holdings that the registry names.

use super::ReplicationPlanner;
use super::file::Offload;
use crate::content::FileId;
use crate::swarm::keeping::{VolunteerNumber, VolunteerRecord};

impl ReplicationPlanner {
    /// Catalogue entry of a volunteer.
    pub fn volunteer(&self, number: VolunteerNumber) -> Option<&VolunteerRecord> {
        self.volunteers.get(number).map(|volunteer| &volunteer.record)
    }

    /// Catalogue entries of all known volunteers.
    pub fn volunteers(&self) -> impl Iterator<Item = &VolunteerRecord> + '_ {
        self.volunteers.iter().map(|volunteer| &volunteer.record)
    }

    /// Number of chunks of a file that an alive volunteer serves.
    pub fn held_by(&self, number: VolunteerNumber, file: FileId) -> u32 {
        let slot = self.files.slot_of(file);
        let holding = slot.and_then(|slot| self.volunteers.get(number)?.holdings.get(&slot));
        holding.map_or(0, |holding| holding.served)
    }

    /// The pairs for which [`held_by`](Self::held_by) has changed since the last call.
    pub fn changed_holdings(&mut self) -> Vec<(VolunteerNumber, FileId)> {
        let changed = std::mem::take(&mut self.volunteers.registry_changes);
        for (number, file) in &changed {
            let slot = self.files.slot_of(*file);
            let holding = slot.and_then(|slot| self.volunteers.get_mut(*number)?.holdings.get_mut(&slot));
            if let Some(holding) = holding {
                holding.registry_outdated = false;
            }
        }
        changed
    }

    /// Number of chunks of a file without a proven copy at a volunteer.
    pub fn unproven_chunks(&self, file: FileId) -> u64 {
        let file = self.files.slot_of(file).and_then(|slot| self.files.get(slot));
        let chunks = file.map_or(&[][..], |file| &file.chunks);
        chunks.iter().filter(|chunk| chunk.copy_counts.proven == 0).count() as u64
    }

    /// Whether the tracker has the complete file, and the number of its chunks in the tracker's chunk store.
    pub fn tracker_copy(&self, file: FileId) -> (bool, u32) {
        let file = self.files.slot_of(file).and_then(|slot| self.files.get(slot));
        file.map_or((false, 0), |file| (file.complete && file.offload != Offload::Done, file.stored_chunks))
    }
}
