//! Drains a volunteer before it leaves.
//!
//! The copies of a draining volunteer no longer count, so its chunks are under-replicated and repaired as
//! usual. This module reports the progress.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::Order;
use super::replicas::CopyState;
use super::schedule::Timer;
use super::selection::Target;
use crate::swarm::Moment;
use crate::swarm::keeping::VolunteerNumber;
use std::time::Duration;

/// Minimum time between two progress reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of progress checks, so that the end is reported soon.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Number of chunks challenged at each check: those whose other copies exist and only need verification.
const CHALLENGES_MAX: usize = 4;

impl ReplicationPlanner {
    /// Drains a volunteer, or (`on` is false) cancels the drain.
    pub fn drain(&mut self, now: Moment, number: VolunteerNumber, on: bool) {
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        if volunteer.draining == on {
            return;
        }
        volunteer.draining = on;
        volunteer.last_drain_report = None;
        self.volunteers.recount();
        for key in self.volunteers.keys_of(number) {
            self.recompute(key);
        }
        self.volunteers.mark_target_outdated(number);
        self.update_targets(now);
        self.unpark_all();
        self.settle(now);
        if on {
            self.report_drain_progress(now, number);
        }
    }

    /// Reports the progress of a drain if it has changed, and challenges copies that only need verification.
    pub(super) fn report_drain_progress(&mut self, now: Moment, number: VolunteerNumber) {
        let Some(volunteer) = self.volunteers.get(number).filter(|volunteer| volunteer.draining) else {
            return;
        };
        let last = volunteer.last_drain_report;
        let mut left = 0;
        let mut unverified = Vec::new();
        for key in self.volunteers.keys_of(number) {
            if self.depends_on(key, number) {
                left += 1;
                let chunk = self.files.chunk(key);
                if unverified.len() < CHALLENGES_MAX && chunk.is_some_and(|chunk| !chunk.deficits.waiting) {
                    unverified.push(key);
                }
            }
        }
        for key in unverified {
            self.challenge_chunk(now, key);
        }
        let is_due =
            last.is_none_or(|(at, before)| before != left && (left == 0 || now >= at + REPORT_INTERVAL));
        if is_due {
            self.orders.push(Order::Drained { volunteer: number, left });
            if let Some(volunteer) = self.volunteers.get_mut(number) {
                volunteer.last_drain_report = Some((now, left));
            }
        }
        let interval = if left == 0 { REPORT_INTERVAL } else { CHECK_INTERVAL };
        self.schedule.replace(now + interval, Timer::DrainCheck(number));
    }

    /// Whether a chunk depends on a draining volunteer: the tracker has no copy, and other volunteers have
    /// fewer verified copies than are wanted or can be made.
    fn depends_on(&self, key: ChunkKey, number: VolunteerNumber) -> bool {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return false };
        let counts = chunk.replicas.get(number).is_some_and(CopyState::counts);
        let verified = usize::from(chunk.copy_counts.verified);
        counts
            && !file.tracker_has(chunk)
            && verified < self.settings.replicas
            && (verified == 0 || chunk.copy_counts.in_flight > 0 || self.best_target(key) != Target::None)
    }
}
