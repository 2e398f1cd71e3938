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
/// Number of chunks whose proofs are requested at each check: those whose other copies exist.
const PROOFS_WANTED_MAX: usize = 16;

impl ReplicationPlanner {
    /// Drains a volunteer, or (`on` is false) cancels the drain.
    pub fn drain(&mut self, now: Moment, number: VolunteerNumber, on: bool) {
        let Some(volunteer) = self.volunteers.get_mut(number) else { return };
        if volunteer.draining == on {
            return;
        }
        volunteer.draining = on;
        volunteer.last_drain_report = None;
        self.volunteers.recount(now);
        self.recompute_volunteer(number);
        self.volunteers.mark_target_outdated(number);
        self.update_targets(now);
        self.unpark_all();
        self.settle(now);
        if on {
            self.report_drain_progress(now, number);
        }
    }

    /// Reports the progress of a drain if it has changed, and requests the proofs of the copies elsewhere.
    pub(super) fn report_drain_progress(&mut self, now: Moment, number: VolunteerNumber) {
        let Some(volunteer) = self.volunteers.get(number).filter(|volunteer| volunteer.draining) else {
            return;
        };
        let last = volunteer.last_drain_report;
        let mut left = 0;
        let mut unproven = Vec::new();
        for key in self.volunteers.keys_of(number) {
            if self.depends_on(key, number) {
                left += 1;
                let chunk = self.files.chunk(key);
                if unproven.len() < PROOFS_WANTED_MAX && chunk.is_some_and(|chunk| !chunk.deficits.waiting) {
                    unproven.push(key);
                }
            }
        }
        for key in unproven {
            self.want_proof(key);
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

    /// Whether a chunk depends on a draining volunteer: the tracker has no copy, and other volunteers have fewer
    /// copies that justify a deletion than are wanted or can be made.
    fn depends_on(&self, key: ChunkKey, number: VolunteerNumber) -> bool {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return false };
        let is_held = chunk
            .replicas
            .get(number)
            .is_some_and(|state| state.is_readable() || state == CopyState::Suspected);
        let justifying = usize::from(chunk.copy_counts.justifying);
        is_held
            && !file.tracker_has(chunk)
            && justifying < self.settings.replicas
            && (justifying == 0 || chunk.copy_counts.in_flight > 0 || self.best_target(key) != Target::None)
    }
}
