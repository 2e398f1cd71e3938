//! Volunteers join, report their chunks, disconnect and die.

use super::chunk::{CopyState, Key, VOLUNTEERS_MAX};
use super::file::Offload;
use super::queue::Queue;
use super::volunteer::{Liveness, Volunteer};
use super::{ReplicationPlanner, Timer};
use crate::content::fmt::{counted, size};
use crate::content::{Bitfield, ChunkIndex, FileId, PeerName};
use crate::protocol::tokens::VolunteerKey;
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, Location, VolunteerNumber, VolunteerRecord};
use std::net::SocketAddr;

impl ReplicationPlanner {
    /// Restores a volunteer from the catalogue, before any other event. It counts as away since `now`.
    /// Numbers that no catalogue can contain are ignored.
    pub fn restore_volunteer(&mut self, now: Moment, record: VolunteerRecord) {
        self.begin(now);
        let number = record.number;
        if number.0 >= VOLUNTEERS_MAX || self.at(number).is_some() {
            return;
        }
        let until = now + self.settings.lease;
        self.add_volunteer(record, Liveness::Away { until });
        self.after(until, Timer::Dead(number));
        self.count_volunteers();
    }

    /// Restores the copies that a volunteer had of a file according to the catalogue.
    pub fn restore_held(&mut self, file: FileId, volunteer: VolunteerNumber, held: &Bitfield) {
        for index in held.iter() {
            if let Some(key) = self.key(file, index) {
                self.set(key, volunteer, Some(CopyState::Awaited));
            }
        }
        // The catalogue contains these copies already.
        let slot = self.by_id.get(&file).copied();
        let holding = slot.and_then(|slot| self.at_mut(volunteer)?.holdings.get_mut(&slot));
        if let (Some(slot), Some(holding)) = (slot, holding) {
            holding.dirty = false;
            self.dirty.retain(|pair| *pair != (volunteer, slot));
        }
    }

    fn add_volunteer(&mut self, record: VolunteerRecord, liveness: Liveness) {
        let at = record.number.0 as usize;
        if self.volunteers.len() <= at {
            self.volunteers.resize_with(at + 1, || None);
        }
        self.by_key.insert(record.key, record.number);
        if let Some(slot) = self.volunteers.get_mut(at) {
            *slot = Some(Box::new(Volunteer::new(record, liveness)));
        }
    }

    /// Connects a volunteer. An unknown key gets the next number; a returning volunteer keeps its own. Its
    /// copies are unknown until it [reports them](Self::holds); expected copies stay expected until its
    /// report is [complete](Self::reported).
    pub fn join(
        &mut self,
        now: Moment,
        key: VolunteerKey,
        name: PeerName,
        address: SocketAddr,
        offered: u64,
        free: u64,
    ) -> VolunteerNumber {
        let known = self.by_key.get(&key).copied();
        let number = known.unwrap_or(VolunteerNumber(self.volunteers.len() as u32));
        let record = VolunteerRecord { number, key, name, address, offered };
        if known.is_none() {
            self.add_volunteer(record.clone(), Liveness::Dead);
        }
        self.sever(number);
        self.expect(number);
        let told = self.at(number).is_some_and(|volunteer| known.is_some() && volunteer.record == record);
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.record = record.clone();
            volunteer.liveness = Liveness::Alive { reported: false };
            volunteer.heard = Some(now);
            volunteer.free = free;
            volunteer.rests_until = Moment::ZERO;
        }
        if !told {
            self.change(now, Change::Volunteer(record));
        }
        self.stale.insert(number);
        self.count_volunteers();
        self.settle(now);
        number
    }

    /// Notes a message from a volunteer.
    pub fn heard(&mut self, now: Moment, number: VolunteerNumber) {
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.heard = Some(now);
        }
    }

    /// Handles a report of chunks: `checked` if the volunteer has hashed them in this session. Returns
    /// whether the file is known; chunks of a forgotten file are dropped.
    pub fn holds(
        &mut self,
        now: Moment,
        number: VolunteerNumber,
        file: FileId,
        chunks: &[ChunkIndex],
        checked: bool,
    ) -> bool {
        if !self.is_known(file) {
            if self.was_forgotten(file) {
                self.drops.entry((Location::Volunteer(number), file)).or_default().extend(chunks);
                self.settle(now);
            }
            return false;
        }
        if self.at(number).is_some_and(Volunteer::is_here) {
            for key in chunks.iter().filter_map(|index| self.key(file, *index)).collect::<Vec<_>>() {
                self.has(key, number, checked);
            }
            self.settle(now);
        }
        true
    }

    fn has(&mut self, key: Key, number: VolunteerNumber, checked: bool) {
        let before = self.state(key, number);
        let after = match before {
            // The drop order stands, even if it crossed this report on the wire.
            Some(CopyState::Dropping) => return,
            Some(CopyState::Verified | CopyState::Suspect) if !checked => return,
            _ if checked => CopyState::Verified,
            _ => CopyState::Claimed,
        };
        self.end_transfer(key, Location::Volunteer(number));
        self.set(key, number, Some(after));
    }

    /// Ends the report of a volunteer: copies that were expected and not reported do not exist.
    pub fn reported(&mut self, now: Moment, number: VolunteerNumber) {
        if !self.at(number).is_some_and(Volunteer::is_here) {
            return;
        }
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.liveness = Liveness::Alive { reported: true };
        }
        self.count_volunteers();
        for key in self.keys_of(number) {
            match self.state(key, number) {
                Some(CopyState::Awaited | CopyState::Missed) => self.set(key, number, None),
                // The chunk may be over-replicated, and copies here may be dropped only now.
                _ => self.touch(key),
            }
        }
        self.stale.insert(number);
        self.reindex(now);
        self.unpark_all();
        self.settle(now);
    }

    /// Handles a closed connection: the volunteer is dead if it does not return within a lease after its last
    /// message.
    pub fn away(&mut self, now: Moment, number: VolunteerNumber) {
        if !self.at(number).is_some_and(Volunteer::is_here) {
            return;
        }
        self.sever(number);
        let lease = self.settings.lease;
        if let Some(volunteer) = self.at_mut(number) {
            let until = volunteer.heard.unwrap_or(now) + lease;
            volunteer.liveness = Liveness::Away { until };
            self.after(until, Timer::Dead(number));
        }
        self.expect(number);
        self.stale.insert(number);
        self.count_volunteers();
        self.settle(now);
    }

    /// Ends the copies in flight to a volunteer and its pending drops, which end with the connection.
    fn sever(&mut self, number: VolunteerNumber) {
        self.fail_transfers_to(number);
        self.drops.retain(|(at, _), _| *at != Location::Volunteer(number));
    }

    /// Marks the copies of a volunteer as expected until it reports again.
    fn expect(&mut self, number: VolunteerNumber) {
        for key in self.keys_of(number) {
            let state = self.state(key, number);
            let expected = match state {
                // It is unknown whether the drop took place before the connection closed.
                Some(CopyState::Dropping) => CopyState::Missed,
                _ => CopyState::Awaited,
            };
            self.set(key, number, Some(expected));
        }
    }

    pub(super) fn lease_over(&mut self, now: Moment, number: VolunteerNumber) {
        let over =
            |volunteer: &Volunteer| matches!(volunteer.liveness, Liveness::Away { until } if until <= now);
        if self.at(number).is_some_and(over) {
            self.leave(now, number);
        }
    }

    /// Marks a volunteer as dead, after an orderly disconnect or at the end of its lease. Repair begins.
    pub fn gone(&mut self, now: Moment, number: VolunteerNumber) {
        self.leave(now, number);
        self.settle(now);
    }

    fn leave(&mut self, now: Moment, number: VolunteerNumber) {
        let Some(volunteer) = self.at_mut(number) else { return };
        if volunteer.liveness == Liveness::Dead {
            return;
        }
        let name = volunteer.record.name.clone();
        let (chunks, bytes) = (volunteer.chunks, volunteer.held);
        volunteer.liveness = Liveness::Dead;
        volunteer.queue = Queue::default();
        self.sever(number);
        self.abandon_transfers_from(number);
        for key in self.keys_of(number) {
            self.set(key, number, Some(CopyState::Missed));
        }
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.draining = false;
            volunteer.told = None;
        }
        self.stale.insert(number);
        self.count_volunteers();
        self.reindex(now);
        // Chunks that waited for its return wait no longer.
        self.unpark_all();
        if chunks > 0 {
            let with = format!("{name} is gone with {}, {}", counted(chunks, "chunk"), size(bytes));
            let text = match self.counts.impaired {
                0 => format!("{with}: no repair needed"),
                waiting => format!("{with}: repairing {}", counted(waiting, "chunk")),
            };
            self.note(None, text);
        }
    }

    /// Catalogue entry of a volunteer.
    pub fn volunteer(&self, number: VolunteerNumber) -> Option<&VolunteerRecord> {
        self.at(number).map(|volunteer| &volunteer.record)
    }

    /// The volunteers with this name.
    pub fn volunteer_by_name(&self, name: &PeerName) -> Vec<VolunteerNumber> {
        let named = self.volunteers.iter().flatten().filter(|volunteer| volunteer.record.name == *name);
        named.map(|volunteer| volunteer.record.number).collect()
    }

    /// Number of chunks of a file that an alive volunteer serves.
    pub fn held_by(&self, number: VolunteerNumber, file: FileId) -> u32 {
        let holding = self.by_id.get(&file).and_then(|slot| self.at(number)?.holdings.get(slot));
        holding.map_or(0, |holding| holding.served)
    }

    /// The pairs for which [`held_by`](Self::held_by) has changed since the last call.
    pub fn changed_holdings(&mut self) -> Vec<(VolunteerNumber, FileId)> {
        let changed = std::mem::take(&mut self.changed);
        for (number, file) in &changed {
            let slot = self.by_id.get(file).copied();
            if let Some(holding) = slot.and_then(|slot| self.at_mut(*number)?.holdings.get_mut(&slot)) {
                holding.changed = false;
            }
        }
        changed
    }

    /// Whether the tracker has the complete file, and the number of its chunks in the tracker's chunk store.
    pub fn own(&self, file: FileId) -> (bool, u32) {
        let file = self.by_id.get(&file).and_then(|slot| self.file(*slot));
        file.map_or((false, 0), |file| (file.whole && file.offload != Offload::Done, file.own))
    }
}
