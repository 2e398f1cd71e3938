//! Audits: the tracker downloads a suspect copy and verifies it.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::Order;
use super::replicas::CopyState;
use crate::content::{ChunkIndex, FileId};
use crate::swarm::Moment;
use crate::swarm::keeping::{Verdict, VolunteerNumber};

impl ReplicationPlanner {
    /// Marks a copy as suspect, because a receiver got other bytes or its proof differs, and audits it.
    pub(super) fn mark_suspect(&mut self, key: ChunkKey, number: VolunteerNumber) {
        let state = self.files.copy_state(key, number);
        if !state.is_some_and(CopyState::is_source) {
            return;
        }
        self.set_copy(key, number, Some(CopyState::Suspect));
        self.audit(key, number);
    }

    /// Orders the audit of a copy.
    pub(super) fn audit(&mut self, key: ChunkKey, at: VolunteerNumber) {
        if let Some(file) = self.files.get(key.file).map(|file| file.id) {
            self.orders.push(Order::Audit { file, index: ChunkIndex(key.index), at });
        }
    }

    /// Handles the result of an audit.
    pub fn audited(
        &mut self,
        now: Moment,
        number: VolunteerNumber,
        file: FileId,
        index: ChunkIndex,
        verdict: Verdict,
    ) {
        let Some(key) = self.files.key(file, index) else { return };
        let state = self.files.copy_state(key, number);
        match verdict {
            Verdict::Right => self.mark_verified(key, number),
            Verdict::Wrong => self.discard_corrupt(key, number),
            // The volunteer claims the chunk, and the audit did not disprove it.
            Verdict::CannotTell if state == Some(CopyState::Suspect) => {
                self.set_copy(key, number, Some(CopyState::Claimed));
            }
            Verdict::CannotTell => {}
        }
        self.settle(now);
    }

    /// Marks a copy as verified.
    pub(super) fn mark_verified(&mut self, key: ChunkKey, number: VolunteerNumber) {
        if self.files.copy_state(key, number).is_some_and(CopyState::is_available) {
            self.set_copy(key, number, Some(CopyState::Verified));
        }
    }

    /// Handles a corrupt copy: it no longer counts and is dropped.
    pub(super) fn discard_corrupt(&mut self, key: ChunkKey, number: VolunteerNumber) {
        if !self.files.copy_state(key, number).is_some_and(CopyState::is_available) {
            return;
        }
        let Some(file) = self.files.get(key.file).map(|file| file.id) else { return };
        let index = ChunkIndex(key.index);
        if let Some(name) = self.volunteer(number).map(|record| record.name.clone()) {
            self.note(Some(file), format!("the copy of chunk {index} at {name} is bad"));
        }
        self.drop_copy(key, number);
    }
}
