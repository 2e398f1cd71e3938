//! Results of possession proofs. A wrong proof never orders a drop: the copy stops counting, and its volunteer
//! is told to hash it again.

use super::ReplicationPlanner;
use super::chunk::{ChunkKey, StoreCopy};
use super::file::Offload;
use super::order::{DropReason, Order};
use super::replicas::CopyState;
use super::schedule::Timer;
use super::trust::SUSPICION_TIMEOUT;
use crate::content::{ChunkIndex, limits};
use crate::swarm::Moment;
use crate::swarm::keeping::{OwnCopy, Verdict, VolunteerNumber};

impl ReplicationPlanner {
    /// Handles the results of the proofs of the copies of a chunk. `own`: the tracker's own copy, compared with
    /// the manifest.
    pub fn proved(
        &mut self,
        now: Moment,
        number: u64,
        own: OwnCopy,
        verdicts: &[(VolunteerNumber, Verdict)],
    ) {
        let Some(proof) = self.end_proof(number) else { return };
        let key = proof.key;
        // The outcome is about the file that was kept when the proof was ordered.
        if self.files.chunk(key).is_none() {
            return self.settle(now);
        }
        self.note_verification(key, own, &proof.holders, verdicts);
        if own == OwnCopy::Corrupt {
            // The bytes of the holders were compared with the corrupt copy: no verdict counts.
            if self.withdraw_own_copy(key) {
                self.want_proof(key);
            } else {
                proof.holders.into_iter().for_each(|holder| self.postpone_proof(now, key, holder));
            }
            return self.settle(now);
        }
        // Without right bytes for the comparison, it is unknown whose fault it is.
        let has_bytes =
            own == OwnCopy::Right || verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Right);
        for holder in proof.holders {
            let verdict = verdicts.iter().find(|(volunteer, _)| *volunteer == holder);
            let verdict = verdict.map_or(Verdict::CannotTell, |(_, verdict)| *verdict);
            if has_bytes {
                self.apply_verdict(now, key, holder, verdict);
            } else {
                self.postpone_proof(now, key, holder);
            }
        }
        self.drops.over_replicated.insert(key);
        if proof.is_wanted {
            self.drops.just_proven.insert(key);
        }
        self.settle(now);
    }

    /// Handles a proof without an outcome.
    pub(super) fn time_out_proof(&mut self, now: Moment, number: u64) {
        let Some(proof) = self.end_proof(number) else { return };
        self.note_verification(proof.key, OwnCopy::Absent, &proof.holders, &[]);
        for holder in proof.holders {
            self.apply_verdict(now, proof.key, holder, Verdict::CannotTell);
        }
    }

    fn apply_verdict(&mut self, now: Moment, key: ChunkKey, holder: VolunteerNumber, verdict: Verdict) {
        let state = self.files.copy_state(key, holder);
        if !state.is_some_and(CopyState::is_source) || !self.volunteers.has_reported(holder) {
            return;
        }
        match verdict {
            Verdict::Right => self.accept_proof(now, key, holder),
            Verdict::Wrong => self.handle_wrong_proof(now, key, holder),
            Verdict::CannotTell => self.doubt(now, key, holder),
        }
    }

    fn accept_proof(&mut self, now: Moment, key: ChunkKey, holder: VolunteerNumber) {
        let Some(volunteer) = self.volunteers.get_mut(holder) else { return };
        let had_failed = volunteer.trust.has_failed();
        let was_excluded = !volunteer.trust.may_take_copies();
        let was_unreachable = volunteer.trust.is_unreachable();
        volunteer.trust.pass();
        if !volunteer.record.history.proven {
            volunteer.record.history.proven = true;
            self.record_volunteer(now, holder);
        }
        self.proofs.note_proof(now, key, holder);
        self.proofs.undecided.remove(&(holder, key));
        self.set_copy(key, holder, Some(CopyState::Proven));
        if had_failed {
            self.change_copies(holder, CopyState::Suspected, CopyState::Stored);
        }
        if was_unreachable {
            self.recompute_volunteer(holder);
        }
        if was_excluded {
            self.volunteers.mark_target_outdated(holder);
            self.update_targets(now);
            self.unpark_all();
        }
    }

    /// After a wrong proof, no other copy of the volunteer counts before its next right proof: its store may have been
    /// wiped. Copies replace them after the second wrong proof in a row, or after [`SUSPICION_TIMEOUT`], so that one
    /// corrupt chunk does not cause a copy of the whole store. The chunk itself is copied at once.
    fn handle_wrong_proof(&mut self, now: Moment, key: ChunkKey, holder: VolunteerNumber) {
        self.refute(key, holder, "its proof was wrong");
        let Some(volunteer) = self.volunteers.get_mut(holder) else { return };
        volunteer.trust.fail(now, &mut self.random);
        let is_suspected = volunteer.trust.is_suspected();
        let to = if is_suspected { CopyState::Suspected } else { CopyState::Claimed };
        if is_suspected {
            self.schedule.add(now + SUSPICION_TIMEOUT, Timer::Suspicion(holder));
        }
        self.volunteers.mark_target_outdated(holder);
        for from in [CopyState::Proven, CopyState::Stored, CopyState::Suspected] {
            self.change_copies(holder, from, to);
        }
    }

    /// Lets copies replace those of a volunteer that has not proven another copy since its first wrong proof.
    pub(super) fn end_suspicion(&mut self, now: Moment, holder: VolunteerNumber) {
        let volunteer = self.volunteers.get_mut(holder);
        if volunteer.is_some_and(|volunteer| volunteer.trust.end_suspicion(now)) {
            self.change_copies(holder, CopyState::Suspected, CopyState::Claimed);
        }
    }

    /// Stops counting a copy and tells its volunteer to hash it again.
    pub(super) fn refute(&mut self, key: ChunkKey, holder: VolunteerNumber, why: &str) {
        if !self.files.copy_state(key, holder).is_some_and(CopyState::is_source) {
            return;
        }
        let Some(file) = self.files.get(key.file).map(|file| file.id) else { return };
        let index = ChunkIndex(key.index);
        if let Some(name) = self.volunteer(holder).map(|record| record.name.clone()) {
            self.note(Some(file), format!("the copy of chunk {index} at {name} does not count: {why}"));
        }
        self.set_copy(key, holder, Some(CopyState::Refuted));
        self.orders.push(Order::Check { volunteer: holder, file, chunks: vec![index] });
    }

    /// Handles a proof that could not be had. A stored copy stops counting after
    /// [`limits::PROOF_PATIENCE`]; a copy that was proven in this session stays proven.
    fn doubt(&mut self, now: Moment, key: ChunkKey, holder: VolunteerNumber) {
        let Some(volunteer) = self.volunteers.get_mut(holder) else { return };
        let was_unreachable = volunteer.trust.is_unreachable();
        volunteer.trust.doubt(now, &mut self.random);
        let is_unreachable = volunteer.trust.is_unreachable();
        let (name, address) = (volunteer.record.name.clone(), volunteer.record.address);
        self.end_patience(now, key, holder);
        if is_unreachable && !was_unreachable {
            self.change_copies(holder, CopyState::Stored, CopyState::Claimed);
            self.recompute_volunteer(holder);
            self.volunteers.mark_target_outdated(holder);
            self.orders.push(Order::Warn(format!(
                "{name} does not prove its copies: it cannot be reached at {address}, or is busy; they do not \
                 count and it gets no more (check --listen and --advertise there)"
            )));
        }
    }

    /// Handles a proof for which no right bytes could be had.
    fn postpone_proof(&mut self, now: Moment, key: ChunkKey, holder: VolunteerNumber) {
        if let Some(volunteer) = self.volunteers.get_mut(holder) {
            volunteer.trust.postpone(now, &mut self.random);
            self.end_patience(now, key, holder);
        }
    }

    /// A stored copy counts for [`limits::PROOF_PATIENCE`] after the first proof that could not be had.
    fn end_patience(&mut self, now: Moment, key: ChunkKey, holder: VolunteerNumber) {
        if self.files.copy_state(key, holder) == Some(CopyState::Stored) {
            let first = *self.proofs.undecided.entry((holder, key)).or_insert(now);
            if now.saturating_sub(first) >= limits::PROOF_PATIENCE {
                self.set_copy(key, holder, Some(CopyState::Claimed));
            }
        }
    }

    /// Handles a corrupt copy of a chunk at the tracker: it is not served or compared with any more. Returns
    /// whether the tracker had one.
    fn withdraw_own_copy(&mut self, key: ChunkKey) -> bool {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return false };
        let (id, keeps_complete, is_in_store) = (file.id, file.keeps_complete(), chunk.is_in_store());
        let index = ChunkIndex(key.index);
        if keeps_complete {
            if let Some(file) = self.files.get_mut(key.file) {
                file.complete = false;
                file.copy_lost_since_record |= matches!(file.offload, Offload::Recording(_));
            }
            self.orders.push(Order::Withdraw { file: id, index });
            self.recompute_file(key.file);
        } else if is_in_store {
            self.note(Some(id), format!("the copy of chunk {index} in the tracker's chunk store is corrupt"));
            self.set_in_store(key, StoreCopy::None);
            self.drops.drop_own(id, key, DropReason::Corrupt);
        }
        keeps_complete || is_in_store
    }
}
