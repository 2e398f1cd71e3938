//! Proofs of all copies of a file, requested by the owner.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::{Order, VerifySummary};
use super::proofs::WANTED_MAX;
use crate::content::FileId;
use crate::swarm::Moment;
use crate::swarm::keeping::{OwnCopy, Verdict, VolunteerNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Chunks of one verification whose proof is requested at a time.
const REQUESTED_MAX: usize = WANTED_MAX / 4;

/// Time for which a verification waits for holders whose last proof was wrong or could not be had.
const PATIENCE: Duration = Duration::from_secs(60);

/// A verification in progress.
#[derive(Default, Debug)]
pub(super) struct Verification {
    /// Time of the request.
    since: Moment,
    /// Index of the next chunk to request.
    next: u32,
    /// Chunks whose proof is requested.
    requested: BTreeSet<u32>,
    summary: VerifySummary,
}

/// The verifications in progress, by the slot of their file.
pub(super) type Verifications = BTreeMap<u32, Verification>;

impl ReplicationPlanner {
    /// Requests proofs of all copies of a file: [`Order::Verified`] follows. Returns whether the file is kept.
    pub fn verify(&mut self, now: Moment, file: FileId) -> bool {
        let Some(slot) = self.files.slot_of(file) else { return false };
        self.verifications
            .entry(slot)
            .or_insert_with(|| Verification { since: now, ..Verification::default() });
        self.settle(now);
        true
    }

    /// Requests the next proofs, and reports the verifications that have ended.
    pub(super) fn feed_verifications(&mut self) {
        let mut ended = Vec::new();
        for (slot, verification) in &mut self.verifications {
            let count = self.files.get(*slot).map_or(0, |file| file.chunks.len() as u32);
            verification.requested.retain(|index| {
                let key = ChunkKey { file: *slot, index: *index };
                self.proofs.wanted.contains(&key) || self.proofs.is_outstanding(key)
            });
            while verification.next < count
                && verification.requested.len() < REQUESTED_MAX
                && self.proofs.wanted.len() < WANTED_MAX
            {
                self.proofs.wanted.insert(ChunkKey { file: *slot, index: verification.next });
                verification.requested.insert(verification.next);
                verification.next += 1;
            }
            if verification.next >= count && verification.requested.is_empty() {
                ended.push(*slot);
            }
        }
        for slot in ended {
            let Some(Verification { summary, .. }) = self.verifications.remove(&slot) else { continue };
            let Some(file) = self.files.get(slot) else { continue };
            let chunks = file.chunks.len() as u64;
            let summary = VerifySummary { chunks, under_replicated: file.counts.under_replicated, ..summary };
            self.orders.push(Order::Verified { file: file.id, summary });
        }
    }

    /// Whether a proof waits until all holders can be asked, because the file is being verified.
    pub(super) fn waits_for_all_holders(&self, now: Moment, slot: u32) -> bool {
        self.verifications.get(&slot).is_some_and(|verification| now < verification.since + PATIENCE)
    }

    /// Counts holders of a chunk that could not be asked, if its file is being verified.
    pub(super) fn note_unasked(&mut self, slot: u32, holders: usize) {
        if let Some(verification) = self.verifications.get_mut(&slot) {
            verification.summary.cannot_tell += holders as u64;
        }
    }

    /// Counts the results of a proof for the verification of its file.
    pub(super) fn note_verification(
        &mut self,
        key: ChunkKey,
        own: OwnCopy,
        holders: &[VolunteerNumber],
        verdicts: &[(VolunteerNumber, Verdict)],
    ) {
        let Some(verification) = self.verifications.get_mut(&key.file) else { return };
        let summary = &mut verification.summary;
        summary.own_corrupt += u64::from(own == OwnCopy::Corrupt);
        for holder in holders.iter().filter(|_| own != OwnCopy::Corrupt) {
            let verdict = verdicts.iter().find(|(volunteer, _)| volunteer == holder);
            match verdict.map(|(_, verdict)| *verdict) {
                Some(Verdict::Right) => summary.proven += 1,
                Some(Verdict::Wrong) => summary.wrong += 1,
                Some(Verdict::CannotTell) | None => summary.cannot_tell += 1,
            }
        }
    }
}
