//! What has become of what was ordered.

use super::chunk::{CopyState, Key};
use super::volunteer::Volunteer;
use super::{Order, Placement, Timer};
use crate::content::fmt::counted;
use crate::content::{ChunkIndex, FileId, limits};
use crate::protocol::volunteer::CopyFailure;
use crate::swarm::Moment;
use crate::swarm::keeping::{Place, Verdict, VolunteerNumber};

/// When room has been made, as many parked chunks are tried as chunks of this size would fit there, and some more.
const PARKED_CHUNK: u64 = 64 * 1024;
const UNPARK_MORE: usize = 64;

impl Placement {
    /// A chunk has been copied, and is durable; or, when it was not ordered, is there: this is how the chunks are told
    /// that the tracker's own store has at the start. `free`: bytes that the volunteer can still take.
    pub fn stored(&mut self, now: Moment, at: Place, file: FileId, index: ChunkIndex, free: Option<u64>) {
        let Some(key) = self.key(file, index) else {
            if self.was_forgotten(file) {
                self.drops.entry((at, file)).or_default().push(index);
                self.settle(now);
            }
            return;
        };
        let length = self.file(key.file).map_or(0, |file| file.length(key.index));
        if let Place::Volunteer(number) = at {
            self.is_ignored(key, number);
            if !self.at(number).is_some_and(Volunteer::is_here) {
                return;
            }
        }
        if self.land(key, at).is_some() {
            self.copied += 1;
            self.copied_bytes += length;
            self.end_rest(key);
        }
        match at {
            Place::Tracker => self.set_own(key, true),
            Place::Volunteer(number) => {
                let before = self.at(number).map_or(0, |volunteer| volunteer.free);
                self.set_free(number, free.unwrap_or(before.saturating_sub(length)));
                // What is ordered to be dropped is about to go, whatever was ordered before that.
                if self.state(key, number) != Some(CopyState::Dropping) {
                    self.set(key, number, Some(CopyState::Verified));
                }
            }
        }
        self.settle(now);
    }

    /// A chunk has not been copied.
    pub fn not_stored(
        &mut self,
        now: Moment,
        at: Place,
        file: FileId,
        index: ChunkIndex,
        why: CopyFailure,
        free: Option<u64>,
    ) {
        let key = self.key(file, index);
        if let (Place::Volunteer(number), Some(free)) = (at, free) {
            self.set_free(number, free);
        }
        let Some(key) = key else { return };
        if let Place::Volunteer(number) = at
            && self.is_ignored(key, number)
        {
            return;
        }
        if let Some(flight) = self.crash(key, at) {
            self.failed(now, key, at, flight.from, flight.length, why);
        }
        self.settle(now);
    }

    fn failed(&mut self, now: Moment, key: Key, at: Place, from: Place, length: u64, why: CopyFailure) {
        match (why, at, from) {
            (CopyFailure::NoRoom, Place::Volunteer(number), _) => {
                // Whatever it says: there is less room than this chunk takes.
                let free = self.at(number).map_or(0, |volunteer| volunteer.free);
                self.set_free(number, free.min(length.saturating_sub(1)));
                return;
            }
            (CopyFailure::Disk, Place::Volunteer(number), _) => {
                let until = now + limits::DISK_RETRY_INTERVAL;
                if let Some(volunteer) = self.at_mut(number) {
                    volunteer.rests_until = until;
                    let name = volunteer.record.name.clone();
                    self.note(None, format!("{name} could not store a chunk: it gets none for a while"));
                }
                self.stale.insert(number);
                self.after(until, Timer::Rested(number));
                return;
            }
            (CopyFailure::Corrupt, _, Place::Volunteer(source)) => self.suspect(key, source),
            _ => {}
        }
        self.rest(now, key, from, at);
    }

    /// Somebody got something else than the chunk from a volunteer: its copy is looked at.
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

    /// A volunteer's copy has been looked at.
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
            // It says that it has the chunk, and nobody knows better.
            Verdict::Unknown if state == Some(CopyState::Suspect) => {
                self.set(key, number, Some(CopyState::Claimed));
            }
            Verdict::Unknown => {}
        }
        self.settle(now);
    }

    /// A copy is right.
    pub(super) fn prove(&mut self, key: Key, number: VolunteerNumber) {
        if self.state(key, number).is_some_and(CopyState::is_here) {
            self.set(key, number, Some(CopyState::Verified));
        }
    }

    /// A copy is wrong: it is none, and is to be dropped.
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

    /// Chunks have been dropped, as ordered.
    pub fn dropped(
        &mut self,
        now: Moment,
        at: Place,
        file: FileId,
        chunks: &[ChunkIndex],
        free: Option<u64>,
    ) {
        let mut bytes = 0;
        for key in chunks.iter().filter_map(|index| self.key(file, *index)).collect::<Vec<_>>() {
            match at {
                Place::Tracker => self.set_own(key, false),
                Place::Volunteer(number) => {
                    let state = self.state(key, number);
                    // One that is coming is ordered later than what this is about.
                    if state.is_some_and(|state| state != CopyState::Coming) {
                        self.set(key, number, None);
                        bytes += self.file(key.file).map_or(0, |file| file.length(key.index));
                    }
                }
            }
        }
        if let Place::Volunteer(number) = at {
            let before = self.at(number).map_or(0, |volunteer| volunteer.free);
            self.set_free(number, free.unwrap_or(before.saturating_add(bytes)));
        }
        self.settle(now);
    }

    /// Chunks have turned out to be wrong or not there.
    pub fn spoiled(
        &mut self,
        now: Moment,
        at: Place,
        file: FileId,
        chunks: &[ChunkIndex],
        free: Option<u64>,
    ) {
        let name = match at {
            Place::Tracker => Some("the tracker".to_owned()),
            Place::Volunteer(number) => self.at(number).map(|volunteer| volunteer.record.name.to_string()),
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
