//! Commands of the owner: approval and removal of volunteers, the mark of kept files, offload, and verification.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::file::Offload;
use super::order::Order;
use super::replicas::CopyState;
use super::volunteer::Volunteer;
use crate::content::fmt::counted;
use crate::content::{ChunkIndex, FileId, limits};
use crate::protocol::status::Copies;
use crate::swarm::Moment;
use crate::swarm::keeping::{Approval, Change, OwnCopy, Verdict, VolunteerNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Number of chunks of one verification that are in progress at the same time.
const VERIFIED_CHUNKS_MAX: usize = 8;

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

/// Result of a verification.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VerificationReport {
    /// Number of chunks of the file.
    pub chunks: u64,
    /// Wanted copies.
    pub wanted: u64,
    /// Proven copies among the wanted ones: at most the wanted number for each chunk.
    pub proven: u64,
    /// Chunks with fewer proven copies than wanted.
    pub short: u64,
    /// Copies that are corrupt or missing at their holder.
    pub wrong: u64,
    /// Copies without an answer.
    pub unanswered: u64,
    /// Copies at volunteers that are not connected.
    pub absent: u64,
    /// Chunks that are corrupt in the tracker's own copy.
    pub own_corrupt: u64,
    /// The file was forgotten meanwhile.
    pub forgotten: bool,
}

/// Copies of one chunk that are being verified.
#[derive(Default, Debug)]
struct VerifiedChunk {
    pending: BTreeSet<VolunteerNumber>,
    proven: u64,
}

/// A verification in progress.
#[derive(Default, Debug)]
struct VerificationProgress {
    /// The next chunk to verify.
    next: u32,
    chunks: BTreeMap<u32, VerifiedChunk>,
    report: VerificationReport,
}

/// Verifications in progress, and the results that the tracker has not taken yet.
#[derive(Default, Debug)]
pub(super) struct Verifications {
    running: BTreeMap<FileId, VerificationProgress>,
    finished: Vec<(FileId, VerificationReport)>,
}

impl ReplicationPlanner {
    /// Sets the owner's decision about a volunteer.
    pub fn set_approval(&mut self, now: Moment, number: VolunteerNumber, approval: Approval) {
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        if volunteer.record.history.approval == approval {
            return;
        }
        volunteer.record.history.approval = approval;
        let record = volunteer.record.clone();
        self.records.push(now, Change::Volunteer(record));
        for key in self.volunteers.keys_of(number) {
            self.recompute(key);
        }
        self.settle(now);
    }

    /// Lets the changes so far be recorded at once. Returns the number of the record that contains them all; `None` if
    /// they are durable.
    pub fn hasten_record(&mut self) -> Option<u64> {
        self.records.hasten()
    }

    /// Whether a volunteer is connected.
    pub fn is_connected(&self, number: VolunteerNumber) -> bool {
        self.volunteers.is_alive(number)
    }

    /// Number of chunks of which a volunteer is the only known holder.
    pub fn only_holder_of(&self, number: VolunteerNumber) -> u64 {
        let is_only = |key: &ChunkKey| {
            self.files.file_and_chunk(*key).is_some_and(|(file, chunk)| {
                let mut others = chunk.replicas.iter().filter(|replica| replica.volunteer() != number);
                !file.tracker_has(chunk) && !others.any(|replica| replica.state().is_in_catalogue())
            })
        };
        self.volunteers.keys_of(number).iter().filter(|key| is_only(key)).count() as u64
    }

    /// Removes the record of a volunteer that is not connected, and its copies.
    pub fn forget_volunteer(&mut self, now: Moment, number: VolunteerNumber) {
        if self.volunteers.get(number).is_none_or(Volunteer::is_alive) {
            return;
        }
        for key in self.volunteers.keys_of(number) {
            self.set_copy(key, number, None);
        }
        self.volunteers.remove(number);
        self.records.push(now, Change::VolunteerForgotten(number));
        self.settle(now);
    }

    /// Restores the mark of a kept file from the catalogue.
    pub fn restore_kept(&mut self, id: FileId) {
        let slot = self.files.slot_of(id);
        if let Some(file) = slot.and_then(|slot| self.files.get_mut(slot)) {
            file.kept_here = true;
        }
    }

    /// Whether the owner keeps the tracker's own copy of a file.
    pub fn is_kept_here(&self, id: FileId) -> bool {
        let file = self.files.slot_of(id).and_then(|slot| self.files.get(slot));
        file.is_some_and(|file| file.kept_here)
    }

    /// Sets or removes the mark of a kept file: a file with the mark is never offloaded.
    pub fn set_kept(&mut self, now: Moment, id: FileId, kept_here: bool) {
        let Some(slot) = self.files.slot_of(id) else { return };
        let Some(file) = self.files.get_mut(slot) else { return };
        file.offload_requested &= !kept_here;
        if file.kept_here != kept_here {
            file.kept_here = kept_here;
            self.records.push(now, Change::Kept(id, kept_here));
            self.recompute_file(slot);
        }
        self.settle(now);
    }

    /// Offloads a file as soon as the copies at volunteers justify it, also without `--offload`. Removes the mark of
    /// a kept file.
    pub fn offload_now(&mut self, now: Moment, id: FileId) {
        let Some(slot) = self.files.slot_of(id) else { return };
        if let Some(file) = self.files.get_mut(slot) {
            file.offload_requested = true;
            file.offload_failed = false;
        }
        self.set_kept(now, id, false);
        self.recompute_file(slot);
        self.settle(now);
    }

    /// State of the tracker's own complete copy of a file.
    // Minimal version over verified copies; to be connected with the justifying copies.
    pub fn own_copy(&self, id: FileId) -> OwnCopyState {
        let file = self.files.slot_of(id).and_then(|slot| self.files.get(slot));
        let Some(file) = file.filter(|file| file.complete) else { return OwnCopyState::Absent };
        match (file.offload, file.counts.under_replicated) {
            (Offload::Ordered, _) => OwnCopyState::Leaving,
            (_, 0) => OwnCopyState::Replaced,
            (_, short) => OwnCopyState::Needed(format!(
                "{} with fewer than {} proven copies",
                counted(short, "chunk"),
                self.settings.replicas
            )),
        }
    }

    /// Copies of a file.
    pub fn file_copies(&self, id: FileId) -> Option<Copies> {
        let file = self.files.slot_of(id).and_then(|slot| self.files.get(slot))?;
        let wanted = file.chunks.len() as u64 * self.settings.replicas as u64;
        let counts = &file.counts;
        Some(Copies {
            wanted,
            verified: counts.verified,
            claimed: counts.claimed,
            short: counts.under_replicated,
            lost: counts.without_copy,
            ..Copies::default()
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

    /// Bytes by which the storage of all volunteers that are expected is smaller than the wanted copies of all files;
    /// `None` if it is large enough, or if too few volunteers are connected for a distribution.
    pub fn missing_space(&self) -> Option<u64> {
        let connected = self.volunteers.iter().filter(|volunteer| volunteer.is_alive());
        if connected.count() < self.settings.volunteers_min {
            return None;
        }
        let expected = self.volunteers.iter().filter(|volunteer| !volunteer.is_gone() && !volunteer.draining);
        let space = |volunteer: &Volunteer| match volunteer.is_alive() {
            true => volunteer.free.saturating_add(volunteer.held_bytes).min(volunteer.record.offered),
            false => volunteer.record.offered,
        };
        let offered = expected.map(space).fold(0, u64::saturating_add);
        let bytes = self.files.iter().map(|file| file.layout.size()).fold(0, u64::saturating_add);
        let wanted = bytes.saturating_mul(self.settings.replicas as u64);
        wanted.checked_sub(offered).filter(|missing| *missing > 0)
    }

    /// Begins to verify all copies of a file. Returns whether it was begun: the file is known, and fewer than
    /// [`limits::VERIFICATIONS_MAX`] others are in progress.
    pub fn verify(&mut self, now: Moment, id: FileId) -> bool {
        let Some(file) = self.files.slot_of(id).and_then(|slot| self.files.get(slot)) else { return false };
        let chunks = file.chunks.len() as u64;
        let report = VerificationReport {
            chunks,
            wanted: chunks * self.settings.replicas as u64,
            ..Default::default()
        };
        if self.verifications.running.contains_key(&id) {
            return true;
        }
        if self.verifications.running.len() >= limits::VERIFICATIONS_MAX {
            return false;
        }
        self.verifications.running.insert(id, VerificationProgress { report, ..Default::default() });
        self.continue_verification(id);
        self.settle(now);
        true
    }

    /// Counts verdicts about copies of a chunk, if the file is being verified.
    pub fn note_verdicts(
        &mut self,
        now: Moment,
        id: FileId,
        index: ChunkIndex,
        own: OwnCopy,
        verdicts: &[(VolunteerNumber, Verdict)],
    ) {
        let Some(progress) = self.verifications.running.get_mut(&id) else { return };
        let Some(chunk) = progress.chunks.get_mut(&index.0) else { return };
        for (number, verdict) in verdicts {
            if !chunk.pending.remove(number) {
                continue;
            }
            match verdict {
                Verdict::Right => chunk.proven += 1,
                Verdict::Wrong => progress.report.wrong += 1,
                Verdict::CannotTell => progress.report.unanswered += 1,
            }
        }
        progress.report.own_corrupt += u64::from(own == OwnCopy::Corrupt);
        if chunk.pending.is_empty() {
            let proven = chunk.proven;
            progress.chunks.remove(&index.0);
            progress.count_chunk(proven, self.settings.replicas as u64);
            self.continue_verification(id);
            self.settle(now);
        }
    }

    /// The results of verifications that have ended since the last call.
    pub fn finished_verifications(&mut self) -> Vec<(FileId, VerificationReport)> {
        std::mem::take(&mut self.verifications.finished)
    }

    /// Asks for the proofs of the next chunks, and ends the verification after the last one.
    fn continue_verification(&mut self, id: FileId) {
        let Some(mut progress) = self.verifications.running.remove(&id) else { return };
        let slot = self.files.slot_of(id);
        progress.report.forgotten = slot.is_none();
        let count = slot.and_then(|slot| self.files.get(slot)).map_or(0, |file| file.chunks.len() as u32);
        while let Some(slot) = slot
            && progress.next < count
            && progress.chunks.len() < VERIFIED_CHUNKS_MAX
        {
            let key = ChunkKey { file: slot, index: progress.next };
            progress.next += 1;
            let (pending, absent) = self.copies_to_verify(key);
            progress.report.absent += absent;
            if pending.is_empty() {
                progress.count_chunk(0, self.settings.replicas as u64);
                continue;
            }
            self.request_proofs(key, &pending);
            progress.chunks.insert(key.index, VerifiedChunk { pending, proven: 0 });
        }
        if progress.report.forgotten || progress.chunks.is_empty() {
            self.verifications.finished.push((id, progress.report));
        } else {
            self.verifications.running.insert(id, progress);
        }
    }

    /// The connected holders of a chunk, and the number of its copies at other volunteers.
    fn copies_to_verify(&self, key: ChunkKey) -> (BTreeSet<VolunteerNumber>, u64) {
        let (mut present, mut absent) = (BTreeSet::new(), 0);
        for replica in self.files.chunk(key).into_iter().flat_map(|chunk| chunk.replicas.iter()) {
            if replica.state().is_available() {
                present.insert(replica.volunteer());
            } else if matches!(replica.state(), CopyState::Expected | CopyState::Unavailable) {
                absent += 1;
            }
        }
        (present, absent)
    }

    /// Asks for a proof of each of these copies. [`note_verdicts`](Self::note_verdicts) gets the results.
    // Minimal version over audits; to be connected with the proof queue.
    fn request_proofs(&mut self, key: ChunkKey, holders: &BTreeSet<VolunteerNumber>) {
        let Some(file) = self.files.get(key.file).map(|file| file.id) else { return };
        let audit = |at: &VolunteerNumber| Order::Audit { file, index: ChunkIndex(key.index), at: *at };
        self.orders.extend(holders.iter().map(audit));
    }
}

impl VerificationProgress {
    /// Counts a chunk whose copies have been verified.
    fn count_chunk(&mut self, proven: u64, replicas: u64) {
        self.report.proven += proven.min(replicas);
        self.report.short += u64::from(proven < replicas);
    }
}
