//! Inputs about orders: copies stored or failed, chunks dropped or found corrupt.

use super::ReplicationPlanner;
use super::chunk::{ChunkKey, StoreCopy};
use super::replicas::CopyState;
use super::schedule::Timer;
use super::transfers::Transfer;
use crate::content::fmt::counted;
use crate::content::{ChunkIndex, FileId, limits};
use crate::protocol::volunteer::CopyFailure;
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};

/// When a volunteer has more free space, one parked chunk is tried again for this number of bytes.
const UNPARK_BYTES: u64 = 64 * 1024;
/// Number of parked chunks that are tried again in addition.
const UNPARK_MIN: usize = 64;

impl ReplicationPlanner {
    /// Notes that a chunk is stored and durable. Chunks that were in the tracker's chunk store at start are
    /// reported in this way, too. `free`: free space of the volunteer in bytes.
    pub fn stored(&mut self, now: Moment, at: Location, file: FileId, index: ChunkIndex, free: Option<u64>) {
        let Some(key) = self.files.key(file, index) else {
            if self.was_forgotten(file) {
                if let Location::Volunteer(number) = at {
                    self.drops.forget(number, file, &[index]);
                }
                self.settle(now);
            }
            return;
        };
        let length = self.files.length(key);
        let mut was_ordered = false;
        if let Location::Volunteer(number) = at {
            was_ordered = self.transfers.take_abandoned(key, number);
            if !self.volunteers.is_alive(number) {
                return;
            }
        }
        if self.end_transfer(key, at).is_some() {
            was_ordered = true;
            self.repair.count_copy(length);
            self.clear_retry(key);
        }
        match at {
            Location::Tracker => {
                if was_ordered {
                    self.note_tracker_space();
                }
                self.set_in_store(key, StoreCopy::Kept);
            }
            Location::Volunteer(number) => {
                let before = self.volunteers.get(number).map_or(0, |volunteer| volunteer.free);
                self.set_free(number, free.unwrap_or(before.saturating_sub(length)));
                match self.files.copy_state(key, number) {
                    // A drop was ordered after the copy: the copy is about to be removed.
                    Some(CopyState::Dropping) => {}
                    Some(state) if state.is_present() && !was_ordered => {}
                    _ if was_ordered => self.set_stored(now, key, number),
                    _ => self.set_copy(key, number, Some(CopyState::Claimed)),
                }
            }
        }
        self.settle(now);
    }

    /// Notes that a copy has failed.
    pub fn not_stored(
        &mut self,
        now: Moment,
        at: Location,
        file: FileId,
        index: ChunkIndex,
        why: CopyFailure,
        free: Option<u64>,
    ) {
        let key = self.files.key(file, index);
        if let (Location::Volunteer(number), Some(free)) = (at, free) {
            self.set_free(number, free);
        }
        let Some(key) = key else { return };
        if let Location::Volunteer(number) = at
            && self.transfers.take_abandoned(key, number)
        {
            return;
        }
        if let Some(transfer) = self.fail_transfer(key, at) {
            self.handle_failure(now, key, at, transfer, why);
        }
        self.settle(now);
    }

    /// Handles a failed copy to `at`.
    fn handle_failure(
        &mut self,
        now: Moment,
        key: ChunkKey,
        at: Location,
        transfer: Transfer,
        why: CopyFailure,
    ) {
        let Transfer { from, length, .. } = transfer;
        match (why, at, from) {
            (CopyFailure::NoRoom, Location::Volunteer(number), _) => {
                // This chunk does not fit, even if the volunteer reports enough free space.
                let free = self.volunteers.get(number).map_or(0, |volunteer| volunteer.free);
                self.set_free(number, free.min(length.saturating_sub(1)));
                return;
            }
            (CopyFailure::Disk, Location::Volunteer(number), _) => {
                let until = now + limits::DISK_RETRY_INTERVAL;
                if let Some(volunteer) = self.volunteers.get_mut(number) {
                    volunteer.disk_retry_at = until;
                    let text = format!(
                        "{} could not write a chunk to disk: it gets no copies for {} s",
                        volunteer.record.name,
                        limits::DISK_RETRY_INTERVAL.as_secs()
                    );
                    self.note(None, text);
                }
                self.volunteers.mark_target_outdated(number);
                self.schedule.add(until, Timer::DiskRetry(number));
                return;
            }
            (CopyFailure::NoRoom, Location::Tracker, _) => {
                self.note_tracker_full(now);
                self.waiting.copy_back.push_back(key);
                return;
            }
            (CopyFailure::Corrupt, _, Location::Volunteer(source)) => {
                self.refute(key, source, "a receiver got other bytes");
            }
            // The proof compares the tracker's own copy with the manifest.
            (CopyFailure::Corrupt, _, Location::Tracker) => _ = self.want_proof(key),
            _ => {}
        }
        self.schedule_retry(now, key, from, at);
    }

    /// Notes that chunks have been dropped as ordered.
    pub fn dropped(
        &mut self,
        now: Moment,
        at: Location,
        file: FileId,
        chunks: &[ChunkIndex],
        free: Option<u64>,
    ) {
        let mut bytes = 0;
        match at {
            Location::Tracker => self.end_own_drop(file, chunks),
            Location::Volunteer(number) => self.drops.note_answer(number, file, chunks.len()),
        }
        for key in chunks.iter().filter_map(|index| self.files.key(file, *index)).collect::<Vec<_>>() {
            match at {
                // The end of the order has removed those that it concerned.
                Location::Tracker => {}
                Location::Volunteer(number) => {
                    let state = self.files.copy_state(key, number);
                    // A copy in flight was ordered after this drop.
                    if state.is_some_and(|state| state != CopyState::Coming) {
                        self.set_copy(key, number, None);
                        bytes += self.files.length(key);
                    }
                }
            }
        }
        if let Location::Volunteer(number) = at {
            let before = self.volunteers.get(number).map_or(0, |volunteer| volunteer.free);
            self.set_free(number, free.unwrap_or(before.saturating_add(bytes)));
        }
        self.settle(now);
    }

    /// Handles chunks that a holder found corrupt or missing.
    pub fn spoiled(
        &mut self,
        now: Moment,
        at: Location,
        file: FileId,
        chunks: &[ChunkIndex],
        free: Option<u64>,
    ) {
        let name = match at {
            Location::Tracker => Some("the tracker".to_owned()),
            Location::Volunteer(number) => self.volunteer(number).map(|record| record.name.to_string()),
        };
        if let Some(name) = name.filter(|_| self.is_known(file)) {
            let bad = counted(chunks.len() as u64, "copy");
            self.note(Some(file), format!("{bad} at {name} found to be bad"));
        }
        if at == Location::Tracker {
            for key in chunks.iter().filter_map(|index| self.files.key(file, *index)).collect::<Vec<_>>() {
                self.set_in_store(key, StoreCopy::None);
            }
            return self.settle(now);
        }
        self.dropped(now, at, file, chunks, free);
    }

    /// Notes the free space of a volunteer in bytes. More of it may admit parked chunks.
    fn set_free(&mut self, number: VolunteerNumber, free: u64) {
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        let more = free.saturating_sub(volunteer.free);
        volunteer.free = free;
        self.volunteers.mark_target_outdated(number);
        if more > 0 && !self.waiting.parked.is_empty() {
            let count = usize::try_from(more / UNPARK_BYTES).unwrap_or(usize::MAX);
            self.unpark(count.saturating_add(UNPARK_MIN));
        }
    }
}
