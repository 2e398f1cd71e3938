//! Outcomes of orders.

use super::chunk::{CopyState, Key};
use super::volunteer::Volunteer;
use super::{Order, ReplicationPlanner, Timer};
use crate::content::fmt::counted;
use crate::content::{ChunkIndex, FileId, limits};
use crate::protocol::volunteer::CopyFailure;
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, Verdict, VolunteerNumber};

/// When a volunteer has more free space, parked chunks are tried again: as many as fit at this size in bytes,
/// plus some.
const PARKED_CHUNK: u64 = 64 * 1024;
const UNPARK_MORE: usize = 64;

impl ReplicationPlanner {
    /// Notes that a chunk is stored and durable. Chunks that were in the tracker's chunk store at start are
    /// reported in this way, too. `free`: free space of the volunteer in bytes.
    pub fn stored(&mut self, now: Moment, at: Location, file: FileId, index: ChunkIndex, free: Option<u64>) {
        let Some(key) = self.key(file, index) else {
            if self.was_forgotten(file) {
                self.drops.entry((at, file)).or_default().push(index);
                self.settle(now);
            }
            return;
        };
        let length = self.file(key.file).map_or(0, |file| file.length(key.index));
        if let Location::Volunteer(number) = at {
            self.is_ignored(key, number);
            if !self.at(number).is_some_and(Volunteer::is_here) {
                return;
            }
        }
        if self.end_transfer(key, at).is_some() {
            self.copied += 1;
            self.copied_bytes += length;
            self.end_rest(key);
        }
        match at {
            Location::Tracker => self.set_own(key, true),
            Location::Volunteer(number) => {
                let before = self.at(number).map_or(0, |volunteer| volunteer.free);
                self.set_free(number, free.unwrap_or(before.saturating_sub(length)));
                // A drop was ordered after the copy: the copy is about to be removed.
                if self.state(key, number) != Some(CopyState::Dropping) {
                    self.set(key, number, Some(CopyState::Verified));
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
        let key = self.key(file, index);
        if let (Location::Volunteer(number), Some(free)) = (at, free) {
            self.set_free(number, free);
        }
        let Some(key) = key else { return };
        if let Location::Volunteer(number) = at
            && self.is_ignored(key, number)
        {
            return;
        }
        if let Some(transfer) = self.fail_transfer(key, at) {
            self.failed(now, key, at, transfer.from, transfer.length, why);
        }
        self.settle(now);
    }

    fn failed(&mut self, now: Moment, key: Key, at: Location, from: Location, length: u64, why: CopyFailure) {
        match (why, at, from) {
            (CopyFailure::NoRoom, Location::Volunteer(number), _) => {
                // Whatever free space it reports, this chunk does not fit.
                let free = self.at(number).map_or(0, |volunteer| volunteer.free);
                self.set_free(number, free.min(length.saturating_sub(1)));
                return;
            }
            (CopyFailure::Disk, Location::Volunteer(number), _) => {
                let until = now + limits::DISK_RETRY_INTERVAL;
                if let Some(volunteer) = self.at_mut(number) {
                    volunteer.rests_until = until;
                    let name = volunteer.record.name.clone();
                    self.note(
                        None,
                        format!(
                            "{name} could not write a chunk to disk: it gets no copies for {} s",
                            limits::DISK_RETRY_INTERVAL.as_secs()
                        ),
                    );
                }
                self.stale.insert(number);
                self.after(until, Timer::Rested(number));
                return;
            }
            (CopyFailure::Corrupt, _, Location::Volunteer(source)) => self.suspect(key, source),
            _ => {}
        }
        self.schedule_retry(now, key, from, at);
    }

    /// A peer got other bytes than the chunk from a volunteer: its copy is audited.
    pub(super) fn suspect(&mut self, key: Key, number: VolunteerNumber) {
        let state = self.state(key, number);
        if !state.is_some_and(CopyState::is_source) {
            return;
        }
        self.set(key, number, Some(CopyState::Suspect));
        self.audit(key, number);
    }

    pub(super) fn audit(&mut self, key: Key, at: VolunteerNumber) {
        if let Some(file) = self.file(key.file).map(|file| file.id) {
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
        let Some(key) = self.key(file, index) else { return };
        let state = self.state(key, number);
        match verdict {
            Verdict::Right => self.prove(key, number),
            Verdict::Wrong => self.condemn(key, number),
            // The volunteer claims the chunk, and the audit did not disprove it.
            Verdict::Unknown if state == Some(CopyState::Suspect) => {
                self.set(key, number, Some(CopyState::Claimed));
            }
            Verdict::Unknown => {}
        }
        self.settle(now);
    }

    /// Marks a copy as verified.
    pub(super) fn prove(&mut self, key: Key, number: VolunteerNumber) {
        if self.state(key, number).is_some_and(CopyState::is_here) {
            self.set(key, number, Some(CopyState::Verified));
        }
    }

    /// Handles a corrupt copy: it no longer counts and is dropped.
    pub(super) fn condemn(&mut self, key: Key, number: VolunteerNumber) {
        if !self.state(key, number).is_some_and(CopyState::is_here) {
            return;
        }
        let Some(file) = self.file(key.file).map(|file| file.id) else { return };
        let index = ChunkIndex(key.index);
        if let Some(name) = self.at(number).map(|volunteer| volunteer.record.name.clone()) {
            self.note(Some(file), format!("the copy of chunk {index} at {name} is bad"));
        }
        self.drop_copy(key, number);
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
        for key in chunks.iter().filter_map(|index| self.key(file, *index)).collect::<Vec<_>>() {
            match at {
                Location::Tracker => self.set_own(key, false),
                Location::Volunteer(number) => {
                    let state = self.state(key, number);
                    // A copy in flight was ordered after this drop.
                    if state.is_some_and(|state| state != CopyState::Coming) {
                        self.set(key, number, None);
                        bytes += self.file(key.file).map_or(0, |file| file.length(key.index));
                    }
                }
            }
        }
        if let Location::Volunteer(number) = at {
            let before = self.at(number).map_or(0, |volunteer| volunteer.free);
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
            Location::Volunteer(number) => self.at(number).map(|volunteer| volunteer.record.name.to_string()),
        };
        if let Some(name) = name.filter(|_| self.is_known(file)) {
            let bad = counted(chunks.len() as u64, "copy");
            self.note(Some(file), format!("{bad} at {name} found to be bad"));
        }
        self.dropped(now, at, file, chunks, free);
    }

    fn set_free(&mut self, number: VolunteerNumber, free: u64) {
        let Some(volunteer) = self.at_mut(number) else { return };
        let more = free.saturating_sub(volunteer.free);
        volunteer.free = free;
        self.stale.insert(number);
        if more > 0 && !self.parked.is_empty() {
            self.unpark(
                usize::try_from(more / PARKED_CHUNK).unwrap_or(usize::MAX).saturating_add(UNPARK_MORE),
            );
        }
    }
}
