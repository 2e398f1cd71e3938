//! Drains a volunteer before it leaves.
//!
//! The copies of a draining volunteer no longer count, so its chunks are under-replicated and repaired as
//! usual. This module reports the progress.

use super::chunk::{CopyState, Key};
use super::{Order, ReplicationPlanner, Timer};
use crate::swarm::Moment;
use crate::swarm::keeping::VolunteerNumber;
use std::time::Duration;

/// Minimum time between two progress reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of progress checks, so that the end is reported soon.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Number of chunks challenged at each check, among those whose other copies only need verification.
const CHALLENGES_MAX: usize = 4;

impl ReplicationPlanner {
    /// Drains a volunteer, or (`on` is false) cancels the drain.
    pub fn drain(&mut self, now: Moment, number: VolunteerNumber, on: bool) {
        let Some(volunteer) = self.at_mut(number) else { return };
        if volunteer.draining == on {
            return;
        }
        volunteer.draining = on;
        volunteer.told = None;
        self.count_volunteers();
        for key in self.keys_of(number) {
            self.touch(key);
        }
        self.stale.insert(number);
        self.reindex(now);
        self.unpark_all();
        self.settle(now);
        if on {
            self.look_at_drain(now, number);
        }
    }

    /// Reports the progress of a drain if it has changed.
    pub(super) fn look_at_drain(&mut self, now: Moment, number: VolunteerNumber) {
        let Some(volunteer) = self.at(number).filter(|volunteer| volunteer.draining) else { return };
        let told = volunteer.told;
        let mut left = 0;
        let mut unchecked = Vec::new();
        for key in self.keys_of(number) {
            if self.depends(key, number) {
                left += 1;
                let chunk = self.chunk(key);
                if unchecked.len() < CHALLENGES_MAX && chunk.is_some_and(|chunk| !chunk.deficits.waiting) {
                    unchecked.push(key);
                }
            }
        }
        for key in unchecked {
            self.challenge_chunk(now, key);
        }
        let news =
            told.is_none_or(|(at, before)| before != left && (left == 0 || now >= at + REPORT_INTERVAL));
        if news {
            self.orders.push(Order::Drained { volunteer: number, left });
            if let Some(volunteer) = self.at_mut(number) {
                volunteer.told = Some((now, left));
            }
        }
        let pause = if left == 0 { REPORT_INTERVAL } else { CHECK_INTERVAL };
        self.timers.retain(|(_, timer)| *timer != Timer::Drain(number));
        self.after(now + pause, Timer::Drain(number));
    }

    /// Whether a chunk depends on a draining volunteer: the tracker has no copy, and other volunteers have
    /// fewer verified copies than are wanted or can be made.
    fn depends(&self, key: Key, number: VolunteerNumber) -> bool {
        let Some(file) = self.file(key.file) else { return false };
        let Some(chunk) = file.chunks.get(key.index as usize) else { return false };
        let counts = chunk.replicas.get(number).is_some_and(CopyState::counts);
        let verified = usize::from(chunk.copy_counts.verified);
        counts
            && !file.has(chunk)
            && verified < self.settings.replicas
            && (verified == 0 || chunk.copy_counts.coming > 0 || self.could_go_on(key))
    }
}
