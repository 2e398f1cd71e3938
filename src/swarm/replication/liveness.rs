//! Inputs about volunteers: join, report of chunks, disconnect, death.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::queue::SourceQueue;
use super::replicas::{CopyState, VOLUNTEERS_MAX};
use super::schedule::Timer;
use super::volunteer::Liveness;
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
        self.note_start(now);
        let number = record.number;
        if number.0 >= VOLUNTEERS_MAX || self.volunteers.get(number).is_some() {
            return;
        }
        let until = now + self.settings.lease;
        self.volunteers.insert(record, Liveness::Away { until });
        self.schedule.add(until, Timer::LeaseEnd(number));
        self.volunteers.recount();
    }

    /// Restores the copies that a volunteer had of a file according to the catalogue.
    pub fn restore_held(&mut self, file: FileId, volunteer: VolunteerNumber, held: &Bitfield) {
        for index in held.iter() {
            if let Some(key) = self.files.key(file, index) {
                self.set_copy(key, volunteer, Some(CopyState::Expected));
            }
        }
        // The catalogue contains these copies already.
        let slot = self.files.slot_of(file);
        let holding = slot.and_then(|slot| self.volunteers.get_mut(volunteer)?.holdings.get_mut(&slot));
        if let (Some(slot), Some(holding)) = (slot, holding) {
            holding.record_outdated = false;
            self.records.outdated_holdings.retain(|pair| *pair != (volunteer, slot));
        }
    }

    /// Connects a volunteer. An unknown key gets the next number; a returning volunteer keeps its own. Its
    /// copies are unknown until it [reports them](Self::holds); expected copies stay expected until its
    /// report is [complete](Self::report_complete).
    pub fn join(
        &mut self,
        now: Moment,
        key: VolunteerKey,
        name: PeerName,
        address: SocketAddr,
        offered: u64,
        free: u64,
    ) -> VolunteerNumber {
        let known = self.volunteers.number_of(key);
        let number = known.unwrap_or(self.volunteers.next_number());
        let history = known.and_then(|number| self.volunteer(number)).map(|record| record.history);
        let history = history.unwrap_or_default();
        let record = VolunteerRecord { number, key, name, address, offered, history };
        if known.is_none() {
            self.volunteers.insert(record.clone(), Liveness::Dead);
        }
        self.end_session(number);
        self.mark_expected(number);
        let mut changed = known.is_none();
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            changed |= volunteer.record != record;
            volunteer.record = record.clone();
            volunteer.liveness = Liveness::Alive { reported: false };
            volunteer.last_message = Some(now);
            volunteer.free = free;
            volunteer.disk_retry_at = Moment::ZERO;
        }
        if changed {
            self.records.push(now, Change::Volunteer(record));
        }
        self.volunteers.mark_target_outdated(number);
        self.volunteers.recount();
        self.settle(now);
        number
    }

    /// Notes a message from a volunteer.
    pub fn note_message(&mut self, now: Moment, number: VolunteerNumber) {
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.last_message = Some(now);
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
                self.drops.extend(Location::Volunteer(number), file, chunks);
                self.settle(now);
            }
            return false;
        }
        if self.volunteers.is_alive(number) {
            for key in chunks.iter().filter_map(|index| self.files.key(file, *index)).collect::<Vec<_>>() {
                self.handle_reported_chunk(key, number, checked);
            }
            self.settle(now);
        }
        true
    }

    /// Handles one chunk of a report.
    fn handle_reported_chunk(&mut self, key: ChunkKey, number: VolunteerNumber, checked: bool) {
        let before = self.files.copy_state(key, number);
        let after = match before {
            // The drop order stands, even if it crossed this report on the wire.
            Some(CopyState::Dropping) => return,
            Some(CopyState::Verified | CopyState::Suspect) if !checked => return,
            _ if checked => CopyState::Verified,
            _ => CopyState::Claimed,
        };
        self.end_transfer(key, Location::Volunteer(number));
        self.set_copy(key, number, Some(after));
    }

    /// Ends the report of a volunteer: copies that were expected and not reported do not exist.
    pub fn report_complete(&mut self, now: Moment, number: VolunteerNumber) {
        if !self.volunteers.is_alive(number) {
            return;
        }
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.liveness = Liveness::Alive { reported: true };
        }
        self.volunteers.recount();
        for key in self.volunteers.keys_of(number) {
            match self.files.copy_state(key, number) {
                Some(CopyState::Expected | CopyState::Unavailable) => self.set_copy(key, number, None),
                // The chunk may be over-replicated, and copies here may be dropped only now.
                _ => self.recompute(key),
            }
        }
        self.volunteers.mark_target_outdated(number);
        self.update_targets(now);
        self.unpark_all();
        self.settle(now);
    }

    /// Handles a closed connection: the volunteer is dead if it does not return within a lease after its last
    /// message.
    pub fn mark_away(&mut self, now: Moment, number: VolunteerNumber) {
        if !self.volunteers.is_alive(number) {
            return;
        }
        self.end_session(number);
        let lease = self.settings.lease;
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            let until = volunteer.last_message.unwrap_or(now) + lease;
            volunteer.liveness = Liveness::Away { until };
            self.schedule.add(until, Timer::LeaseEnd(number));
        }
        self.mark_expected(number);
        self.volunteers.mark_target_outdated(number);
        self.volunteers.recount();
        self.settle(now);
    }

    /// Ends the copies in flight to a volunteer and its pending drops, which end with the connection.
    fn end_session(&mut self, number: VolunteerNumber) {
        self.fail_transfers_to(number);
        self.drops.cancel_at(number);
    }

    /// Marks the copies of a volunteer as expected until it reports again.
    fn mark_expected(&mut self, number: VolunteerNumber) {
        for key in self.volunteers.keys_of(number) {
            let state = self.files.copy_state(key, number);
            let expected = match state {
                // It is unknown whether the drop took place before the connection closed.
                Some(CopyState::Dropping) => CopyState::Unavailable,
                _ => CopyState::Expected,
            };
            self.set_copy(key, number, Some(expected));
        }
    }

    /// Marks a volunteer as dead if its lease has ended.
    pub(super) fn expire_lease(&mut self, now: Moment, number: VolunteerNumber) {
        let liveness = self.volunteers.get(number).map(|volunteer| volunteer.liveness);
        if matches!(liveness, Some(Liveness::Away { until }) if until <= now) {
            self.die(now, number);
        }
    }

    /// Marks a volunteer as dead, after an orderly disconnect or at the end of its lease. Repair begins.
    pub fn mark_dead(&mut self, now: Moment, number: VolunteerNumber) {
        self.die(now, number);
        self.settle(now);
    }

    /// Ends everything that depends on a dead volunteer.
    fn die(&mut self, now: Moment, number: VolunteerNumber) {
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        if volunteer.liveness == Liveness::Dead {
            return;
        }
        let name = volunteer.record.name.clone();
        let (copies, bytes) = (volunteer.copies, volunteer.held_bytes);
        volunteer.liveness = Liveness::Dead;
        volunteer.queue = SourceQueue::default();
        self.end_session(number);
        self.abandon_transfers_from(number);
        for key in self.volunteers.keys_of(number) {
            self.set_copy(key, number, Some(CopyState::Unavailable));
        }
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.draining = false;
            volunteer.last_drain_report = None;
        }
        self.volunteers.mark_target_outdated(number);
        self.volunteers.recount();
        self.update_targets(now);
        // Chunks were parked until it returns.
        self.unpark_all();
        if copies > 0 {
            let with = format!("{name} is gone with {}, {}", counted(copies, "chunk"), size(bytes));
            let text = match self.files.counts.needs_repair {
                0 => format!("{with}: no repair needed"),
                waiting => format!("{with}: repairing {}", counted(waiting, "chunk")),
            };
            self.note(None, text);
        }
    }
}
