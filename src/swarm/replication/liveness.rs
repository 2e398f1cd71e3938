//! Inputs about connected volunteers: join, report of chunks.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::replicas::{CopyState, VOLUNTEERS_MAX};
use super::schedule::Timer;
use super::volunteer::Liveness;
use crate::content::{Bitfield, ChunkIndex, FileId, PeerName, limits};
use crate::protocol::tokens::VolunteerKey;
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, VolunteerHistory, VolunteerNumber, VolunteerRecord};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The storage that a peer offers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StorageOffer {
    /// Identifies the volunteer across sessions.
    pub key: VolunteerKey,
    /// The name that it registered with.
    pub name: PeerName,
    /// Address at which it serves chunks.
    pub address: SocketAddr,
    /// Source address of its connection.
    pub source: IpAddr,
    /// Space that it offers, bytes.
    pub offered: u64,
    /// Free space, bytes.
    pub free: u64,
    /// Absence that it announces for each orderly disconnect.
    pub away: Option<Duration>,
}

impl ReplicationPlanner {
    /// The number of the volunteer with this key.
    pub fn number_of(&self, key: VolunteerKey) -> Option<VolunteerNumber> {
        self.volunteers.number_of(key)
    }

    /// Restores a volunteer from the catalogue, before any other event. It counts as away since `now`, or
    /// until the end of its announced absence. Numbers that no catalogue can contain are ignored.
    pub fn restore_volunteer(&mut self, now: Moment, mut record: VolunteerRecord) {
        self.note_start(now);
        let number = record.number;
        if number.0 >= VOLUNTEERS_MAX || self.volunteers.get(number).is_some() {
            return;
        }
        let unix_s = self.unix_s(now);
        let history = &mut record.history;
        if history.last_seen_s == 0 {
            history.last_seen_s = unix_s;
        }
        let left_s = history.away_until_s.map(|until| until.saturating_sub(unix_s));
        let left = left_s.map(|left| Duration::from_secs(left).min(limits::ABSENCE_MAX));
        let left = left.filter(|left| *left > Duration::ZERO);
        let silent_at = now + self.settings.lease.max(limits::REPAIR_DELAY_MIN);
        let lost_at = left.map_or(silent_at.max(now + self.settings.repair_after), |left| now + left);
        self.volunteers.insert(record, Liveness::Away { silent_at, lost_at, announced: left.is_some() });
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.announced = left.is_some();
        }
        self.schedule.add(silent_at, Timer::Silence(number));
        self.schedule.add(lost_at, Timer::Loss(number));
        self.volunteers.recount(now);
    }

    /// Restores the copies that a volunteer had of a file according to the catalogue.
    pub fn restore_held(&mut self, file: FileId, volunteer: VolunteerNumber, held: &Bitfield) {
        for index in held.iter() {
            if let Some(key) = self.files.key(file, index) {
                self.set_copy(key, volunteer, Some(CopyState::Awaited));
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
    /// copies are unknown until it [reports them](Self::holds); awaited copies stay awaited until its report
    /// is [complete](Self::report_complete).
    ///
    /// # Errors
    /// The text for the volunteer, if there are too many records of volunteers.
    pub fn join(&mut self, now: Moment, offer: StorageOffer) -> Result<VolunteerNumber, String> {
        let StorageOffer { key, name, address, source, offered, free, away } = offer;
        let known = self.volunteers.number_of(key);
        let number = match known {
            Some(number) => number,
            None => self.make_space_for_record(now, source)?,
        };
        let unix_s = self.unix_s(now);
        let before = self.volunteers.get(number).map(|volunteer| volunteer.record.clone());
        let history = match &before {
            Some(record) => record.history,
            None => VolunteerHistory { first_seen_s: unix_s, ..VolunteerHistory::default() },
        };
        let history = VolunteerHistory { last_seen_s: unix_s, away_until_s: None, ..history };
        let record = VolunteerRecord { number, key, name, address, offered, history };
        if known.is_none() {
            self.volunteers.insert(record.clone(), Liveness::Lost);
        }
        self.end_session(number);
        self.mark_expected(number);
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.record = record;
            volunteer.source = source;
            volunteer.proven_on_loopback = false;
            volunteer.away = away;
            volunteer.liveness = Liveness::Alive { reported: false };
            volunteer.last_message = Some(now);
            volunteer.connected_at = Some(now);
            volunteer.free = free;
            volunteer.disk_retry_at = Moment::ZERO;
        }
        self.record_volunteer(now, number);
        self.schedule.add(now + limits::REPORT_TIMEOUT, Timer::Silence(number));
        self.volunteers.mark_target_outdated(number);
        self.volunteers.recount(now);
        self.settle(now);
        Ok(number)
    }

    /// Notes the address at which other peers reach a volunteer, and whether it has proven itself at a loopback address.
    pub fn set_address(
        &mut self,
        now: Moment,
        number: VolunteerNumber,
        address: SocketAddr,
        proven_on_loopback: bool,
    ) {
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        let changed =
            volunteer.record.address != address || volunteer.proven_on_loopback != proven_on_loopback;
        volunteer.record.address = address;
        volunteer.proven_on_loopback = proven_on_loopback;
        if changed {
            self.record_volunteer(now, number);
            self.volunteers.mark_target_outdated(number);
            self.recompute_volunteer(number);
            self.settle(now);
        }
    }

    /// Adds the entry of a volunteer to the next record.
    pub(super) fn record_volunteer(&mut self, now: Moment, number: VolunteerNumber) {
        if let Some(record) = self.volunteer(number).cloned() {
            self.records.push(now, Change::Volunteer(record));
        }
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
                self.drops.forget(number, file, chunks);
                self.settle(now);
            }
            return false;
        }
        if self.volunteers.is_alive(number) {
            for key in chunks.iter().filter_map(|index| self.files.key(file, *index)).collect::<Vec<_>>() {
                self.handle_reported_chunk(now, key, number, checked);
            }
            self.settle(now);
        }
        true
    }

    /// Handles the reports of chunks of a file that was added because volunteers hold it: the copies count until
    /// their proof, like those of a volunteer that has returned.
    pub fn holds_adopted(
        &mut self,
        now: Moment,
        file: FileId,
        reports: &[(VolunteerNumber, Vec<ChunkIndex>)],
    ) {
        for (number, chunks) in reports {
            let number = *number;
            if !self.volunteers.is_alive(number) {
                continue;
            }
            for key in chunks.iter().filter_map(|index| self.files.key(file, *index)).collect::<Vec<_>>() {
                if self.files.copy_state(key, number).is_none() {
                    self.set_stored(now, key, number);
                }
            }
        }
        self.settle(now);
    }

    /// Handles one chunk of a report.
    fn handle_reported_chunk(&mut self, now: Moment, key: ChunkKey, number: VolunteerNumber, checked: bool) {
        match self.files.copy_state(key, number) {
            // A drop order stands, even if it crossed this report on the wire.
            Some(
                CopyState::Dropping
                | CopyState::Proven
                | CopyState::Stored
                | CopyState::Claimed
                | CopyState::Suspected,
            ) => {}
            Some(CopyState::Refuted) if !checked => {}
            Some(CopyState::Refuted | CopyState::Missed) | None => {
                self.set_copy(key, number, Some(CopyState::Claimed));
            }
            Some(CopyState::Awaited | CopyState::Silent | CopyState::Coming) => {
                self.end_transfer(key, crate::swarm::keeping::Location::Volunteer(number));
                self.set_stored(now, key, number);
            }
        }
    }

    /// Marks a copy as stored. Its proof follows when nothing is in flight, or after
    /// [`limits::PROOF_DELAY_MAX`].
    pub(super) fn set_stored(&mut self, now: Moment, key: ChunkKey, number: VolunteerNumber) {
        if let Some(volunteer) = self.volunteers.get_mut(number)
            && volunteer.unproven == 0
        {
            volunteer.trust.due_at = now + limits::PROOF_DELAY_MAX;
        }
        let trust = self.volunteers.get(number).map(|volunteer| &volunteer.trust);
        let to = match trust.map(|trust| (trust.has_failed(), trust.is_suspected())) {
            Some((true, true)) => CopyState::Suspected,
            Some((true, false)) => CopyState::Claimed,
            _ => CopyState::Stored,
        };
        self.set_copy(key, number, Some(to));
    }

    /// Ends the report of a volunteer: copies that were awaited and not reported do not exist.
    pub fn report_complete(&mut self, now: Moment, number: VolunteerNumber) {
        if !self.volunteers.is_alive(number) {
            return;
        }
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.liveness = Liveness::Alive { reported: true };
            volunteer.announced = false;
        }
        self.volunteers.recount(now);
        for key in self.volunteers.keys_of(number) {
            match self.files.copy_state(key, number) {
                Some(CopyState::Awaited | CopyState::Silent | CopyState::Missed) => {
                    self.set_copy(key, number, None);
                }
                // The chunk may be over-replicated, and copies here may be dropped only now.
                _ => self.recompute(key),
            }
        }
        self.volunteers.mark_target_outdated(number);
        self.update_targets(now);
        self.unpark_all();
        self.settle(now);
    }
}
