//! Inputs about the absence of volunteers: away, silent, lost.
//!
//! A volunteer whose connection has ended is expected back. Its copies are awaited until its lease ends, or
//! until the end of the absence that it announced. After the lease they are silent: they count only while
//! enough other copies are safe. When it has not returned in time, it is lost and its copies do not count.

use super::ReplicationPlanner;
use super::queue::SourceQueue;
use super::replicas::CopyState;
use super::schedule::Timer;
use super::volunteer::Liveness;
use crate::content::fmt::{counted, size};
use crate::content::limits;
use crate::swarm::Moment;
use crate::swarm::keeping::VolunteerNumber;

impl ReplicationPlanner {
    /// Handles a connection that was closed without a message.
    pub fn mark_away(&mut self, now: Moment, number: VolunteerNumber) {
        let last = self.volunteers.get(number).and_then(|volunteer| volunteer.last_message).unwrap_or(now);
        let silent_at = (last + self.settings.lease).max(now + limits::REPAIR_DELAY_MIN);
        self.leave(now, number, silent_at, false);
    }

    /// Handles the end of the lease of a connected volunteer: it has been silent for that time.
    pub fn expire(&mut self, now: Moment, number: VolunteerNumber) {
        let last = self.volunteers.get(number).and_then(|volunteer| volunteer.last_message).unwrap_or(now);
        let silent_at = now.max(last + self.settings.lease.max(limits::REPAIR_DELAY_MIN));
        self.leave(now, number, silent_at, false);
    }

    /// Handles an orderly disconnection, to which the announced absence applies.
    pub fn disconnect(&mut self, now: Moment, number: VolunteerNumber) {
        let silent_at = now + self.settings.lease.max(limits::REPAIR_DELAY_MIN);
        self.leave(now, number, silent_at, true);
    }

    fn leave(&mut self, now: Moment, number: VolunteerNumber, silent_at: Moment, in_order: bool) {
        if !self.volunteers.is_alive(number) {
            return;
        }
        self.end_session(number);
        let repair_after = self.settings.repair_after;
        let unix_s = self.unix_s(now);
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        // Copies of a volunteer that has never proven one are not waited for.
        let is_believed = in_order && volunteer.record.history.proven && !volunteer.trust.is_doubtful();
        let absence = volunteer.away.filter(|_| is_believed).map(|absence| absence.min(limits::ABSENCE_MAX));
        let lost_at = match absence {
            Some(absence) => now + absence,
            None => silent_at.max(now + repair_after),
        };
        volunteer.liveness = Liveness::Away { silent_at, lost_at, announced: absence.is_some() };
        let was_announced = std::mem::replace(&mut volunteer.announced, absence.is_some());
        volunteer.record.history.last_seen_s = unix_s;
        volunteer.record.history.away_until_s = absence.map(|absence| unix_s + absence.as_secs());
        self.record_volunteer(now, number);
        self.schedule.add(silent_at, Timer::Silence(number));
        self.schedule.add(lost_at, Timer::Loss(number));
        self.mark_expected(number);
        if was_announced != absence.is_some() {
            self.recompute_volunteer(number);
        }
        self.volunteers.mark_target_outdated(number);
        self.volunteers.recount(now);
        self.settle(now);
    }

    /// Ends the copies in flight to a volunteer and its pending drops, which end with the connection.
    pub(super) fn end_session(&mut self, number: VolunteerNumber) {
        self.fail_transfers_to(number);
        self.drops.cancel_at(number);
    }

    /// Marks the copies of a volunteer as awaited until it reports again.
    pub(super) fn mark_expected(&mut self, number: VolunteerNumber) {
        let has_proven = self.volunteers.get(number).is_some_and(|volunteer| volunteer.record.history.proven);
        for key in self.volunteers.keys_of(number) {
            let to = match self.files.copy_state(key, number) {
                Some(CopyState::Proven | CopyState::Stored) => Some(CopyState::Awaited),
                // It is unknown whether the drop took place before the connection closed.
                Some(CopyState::Dropping) => Some(CopyState::Missed),
                Some(CopyState::Claimed | CopyState::Suspected) if has_proven => Some(CopyState::Missed),
                Some(CopyState::Claimed | CopyState::Suspected | CopyState::Refuted) => None,
                other => other,
            };
            self.set_copy(key, number, to);
        }
    }

    /// Handles the end of a lease: the copies of a volunteer that is away without announcement, or that has
    /// connected and not reported its chunks, are silent.
    pub(super) fn end_lease(&mut self, now: Moment, number: VolunteerNumber) {
        let Some(volunteer) = self.volunteers.get(number) else { return };
        let is_silent = match volunteer.liveness {
            Liveness::Alive { reported } => {
                !reported && volunteer.connected_at.is_some_and(|at| at + limits::REPORT_TIMEOUT <= now)
            }
            Liveness::Away { silent_at, announced, .. } => !announced && silent_at <= now,
            Liveness::Lost => false,
        };
        let is_awaited = |key: &_| self.files.copy_state(*key, number) == Some(CopyState::Awaited);
        if is_silent && volunteer.keys().any(|key| is_awaited(&key)) {
            let (name, copies, bytes) =
                (volunteer.record.name.clone(), volunteer.copies, volunteer.held_bytes);
            self.change_copies(number, CopyState::Awaited, CopyState::Silent);
            // Chunks were parked until it returns.
            self.unpark_all();
            self.note_absence(format!("{name} is away with {}, {}", counted(copies, "chunk"), size(bytes)));
        }
        self.volunteers.recount(now);
    }

    /// Handles the end of the time within which a volunteer was expected back.
    pub(super) fn end_absence(&mut self, now: Moment, number: VolunteerNumber) {
        let liveness = self.volunteers.get(number).map(|volunteer| volunteer.liveness);
        if matches!(liveness, Some(Liveness::Away { lost_at, .. }) if lost_at <= now) {
            self.lose(now, number);
        }
    }

    /// Counts a volunteer as lost. Its copies are replaced.
    pub fn mark_lost(&mut self, now: Moment, number: VolunteerNumber) {
        self.lose(now, number);
        self.settle(now);
    }

    /// Ends everything that depends on a lost volunteer.
    fn lose(&mut self, now: Moment, number: VolunteerNumber) {
        let unix_s = self.unix_s(now);
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        if volunteer.liveness == Liveness::Lost {
            return;
        }
        if volunteer.is_alive() {
            volunteer.record.history.last_seen_s = unix_s;
        }
        let name = volunteer.record.name.clone();
        volunteer.liveness = Liveness::Lost;
        volunteer.announced = false;
        volunteer.queue = SourceQueue::default();
        self.end_session(number);
        self.mark_expected(number);
        self.abandon_transfers_from(number);
        let (copies, bytes) =
            self.volunteers.get(number).map_or((0, 0), |volunteer| (volunteer.copies, volunteer.held_bytes));
        for state in [CopyState::Awaited, CopyState::Silent] {
            self.change_copies(number, state, CopyState::Missed);
        }
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.draining = false;
            volunteer.last_drain_report = None;
        }
        self.recompute_volunteer(number);
        self.volunteers.mark_target_outdated(number);
        self.volunteers.recount(now);
        self.update_targets(now);
        // Chunks were parked until it returns.
        self.unpark_all();
        if copies > 0 {
            self.note_absence(format!("{name} is gone with {}, {}", counted(copies, "chunk"), size(bytes)));
        }
    }

    /// Reports an absence, and the repair that follows.
    fn note_absence(&mut self, text: String) {
        let text = match self.files.counts.needs_repair {
            0 => format!("{text}: no repair needed"),
            waiting => format!("{text}: repairing {}", counted(waiting, "chunk")),
        };
        self.note(None, text);
    }

    /// Changes the state of all copies of a volunteer that have the state `from`.
    pub(super) fn change_copies(&mut self, number: VolunteerNumber, from: CopyState, to: CopyState) {
        for key in self.volunteers.keys_of(number) {
            if self.files.copy_state(key, number) == Some(from) {
                self.set_copy(key, number, Some(to));
            }
        }
    }

    /// Recomputes all chunks of a volunteer after a change of how its copies count.
    pub(super) fn recompute_volunteer(&mut self, number: VolunteerNumber) {
        for key in self.volunteers.keys_of(number) {
            self.recompute(key);
        }
    }
}
