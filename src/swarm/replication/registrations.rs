//! Records of volunteers: approval, limits, expiry, removal.

use super::ReplicationPlanner;
use super::replicas::{CopyState, VOLUNTEERS_MAX};
use super::schedule::Timer;
use super::volunteer::{Liveness, Volunteer};
use crate::content::fmt::counted;
use crate::content::limits;
use crate::swarm::Moment;
use crate::swarm::keeping::{Approval, Change, VolunteerNumber};
use std::net::IpAddr;
use std::time::Duration;

/// Interval at which expired records are removed.
pub(super) const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);

impl ReplicationPlanner {
    /// Sets the Unix time in seconds at [`Moment`] zero.
    pub fn set_clock(&mut self, unix_s: u64) {
        self.unix_at_start_s = unix_s;
    }

    /// The Unix time in seconds.
    pub fn unix_s(&self, now: Moment) -> u64 {
        self.unix_at_start_s.saturating_add(now.as_secs())
    }

    /// Sets the owner's decision about a volunteer. It is recorded.
    pub fn set_approval(&mut self, now: Moment, number: VolunteerNumber, approval: Approval) {
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        if volunteer.record.history.approval == approval {
            return;
        }
        volunteer.record.history.approval = approval;
        self.record_volunteer(now, number);
        self.recompute_volunteer(number);
        self.volunteers.mark_target_outdated(number);
        self.volunteers.recount(now);
        self.update_targets(now);
        self.unpark_all();
        self.settle(now);
    }

    /// Removes the record of a volunteer.
    ///
    /// # Errors
    /// The reason, if it is connected, or the last known holder of a chunk.
    pub fn forget_volunteer(&mut self, now: Moment, number: VolunteerNumber) -> Result<(), String> {
        let chunks = self.last_holder_of(number);
        if chunks > 0 && !self.is_connected(number) {
            return Err(format!("it is the last known holder of {}", counted(chunks, "chunk")));
        }
        self.forget_last_holder(now, number)
    }

    /// Removes the record of a volunteer, also if it is the last known holder of chunks.
    ///
    /// # Errors
    /// The reason, if it is unknown or connected.
    pub fn forget_last_holder(&mut self, now: Moment, number: VolunteerNumber) -> Result<(), String> {
        match self.volunteers.get(number).map(Volunteer::is_alive) {
            None => Err("no such volunteer is known".into()),
            Some(true) => Err("it is connected; stop it first".into()),
            Some(false) => {
                self.remove_volunteer(now, number);
                self.settle(now);
                Ok(())
            }
        }
    }

    /// Number of chunks whose last known copy a volunteer has, counted up to `most`.
    pub(super) fn only_holder_of(&self, volunteer: &Volunteer, most: usize) -> usize {
        let number = volunteer.record.number;
        let is_last = |key: &_| {
            let Some((file, chunk)) = self.files.file_and_chunk(*key) else { return false };
            let known = |state: CopyState| state.is_in_catalogue();
            let others = chunk.replicas.iter().any(|replica| {
                replica.volunteer() != number && (known(replica.state()) || replica.state().is_source())
            });
            chunk.replicas.get(number).is_some_and(known) && !others && !file.tracker_has(chunk)
        };
        volunteer.keys().filter(is_last).take(most).count()
    }

    /// Removes a volunteer that is not connected.
    pub(super) fn remove_volunteer(&mut self, now: Moment, number: VolunteerNumber) {
        if !matches!(self.volunteers.get(number).map(|volunteer| volunteer.liveness), Some(Liveness::Lost)) {
            self.mark_lost(now, number);
        }
        for key in self.volunteers.keys_of(number) {
            self.set_copy(key, number, None);
        }
        self.volunteers.remove(number);
        self.proofs.pending.remove(&number);
        self.records.forget_volunteer(number);
        self.records.push(now, Change::VolunteerForgotten(number));
        self.volunteers.recount(now);
    }

    /// Removes the records that have expired: of volunteers that have not been connected for
    /// [`limits::VOLUNTEER_RECORD_EXPIRY`] and that are not the last known holder of a chunk.
    pub(super) fn expire_records(&mut self, now: Moment) {
        self.schedule.add(now + EXPIRY_INTERVAL, Timer::ExpireRecords);
        let oldest_s = self.unix_s(now).saturating_sub(limits::VOLUNTEER_RECORD_EXPIRY.as_secs());
        let is_expired = |volunteer: &&Volunteer| {
            volunteer.liveness == Liveness::Lost && volunteer.record.history.last_seen_s < oldest_s
        };
        let expired = self.volunteers.iter().filter(is_expired);
        let expired: Vec<VolunteerNumber> = expired
            .filter(|volunteer| self.only_holder_of(volunteer, 1) == 0)
            .map(|volunteer| volunteer.record.number)
            .collect();
        for number in expired {
            self.remove_volunteer(now, number);
        }
    }

    /// Makes space for the record of another volunteer from this address, and returns its number.
    pub(super) fn make_space_for_record(
        &mut self,
        now: Moment,
        source: IpAddr,
    ) -> Result<VolunteerNumber, String> {
        let number = self.volunteers.next_number();
        if number.0 >= VOLUNTEERS_MAX {
            return Err("this tracker has used up its numbers for volunteers".into());
        }
        let most = limits::VOLUNTEER_RECORDS_MAX;
        let free = most.saturating_sub(self.volunteers.count());
        let share = (free / 8).max(limits::ADDRESS_RECORDS_MIN);
        let unproven_here = self.volunteers.iter().filter(|volunteer| {
            volunteer.source == source && !volunteer.record.history.proven && !is_decided(volunteer)
        });
        let is_full_here = unproven_here.count() >= share;
        if !is_full_here && free > 0 {
            return Ok(number);
        }
        let removable = self
            .volunteers
            .iter()
            .filter(|volunteer| is_removable(volunteer) && (!is_full_here || volunteer.source == source));
        let mut removable: Vec<&Volunteer> = removable.collect();
        removable.sort_unstable_by_key(|volunteer| age_key(volunteer));
        let oldest = removable.into_iter().find(|volunteer| self.only_holder_of(volunteer, 1) == 0);
        match oldest.map(|volunteer| volunteer.record.number) {
            Some(oldest) => self.remove_volunteer(now, oldest),
            None if is_full_here => return Err(format!("too many new volunteers from {source}")),
            None => return Err("this tracker knows too many volunteers".into()),
        }
        Ok(number)
    }
}

/// Whether the owner has decided about a volunteer.
fn is_decided(volunteer: &Volunteer) -> bool {
    volunteer.record.history.approval != Approval::Pending
}

/// Whether the record may be removed for another one: it has never passed a proof and is not connected.
fn is_removable(volunteer: &Volunteer) -> bool {
    !volunteer.is_alive() && !volunteer.record.history.proven && !is_decided(volunteer)
}

/// Records with the smallest value are removed first.
fn age_key(volunteer: &Volunteer) -> (u64, VolunteerNumber) {
    (volunteer.record.history.last_seen_s, volunteer.record.number)
}
