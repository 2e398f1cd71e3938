//! Emptying a volunteer before it leaves.
//!
//! Its copies do not count any more, so that they are made elsewhere like any that are short; what this adds is to say
//! how far that is.

use super::chunk::{CopyState, Key};
use super::{Order, Placement, Timer};
use crate::swarm::Moment;
use crate::swarm::keeping::VolunteerNumber;
use std::time::Duration;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked at, so that the end is told soon.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Chunks of which the copies elsewhere only have to be checked: so many are challenged at each look.
const CHALLENGES: usize = 4;

impl Placement {
    /// Empties a volunteer, or (`on` is false) lets it be filled again.
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

    /// Says how far a drain is, when there is something new to say.
    pub(super) fn look_at_drain(&mut self, now: Moment, number: VolunteerNumber) {
        let Some(volunteer) = self.at(number).filter(|volunteer| volunteer.draining) else { return };
        let told = volunteer.told;
        let mut left = 0;
        let mut unchecked = Vec::new();
        for key in self.keys_of(number) {
            if self.depends(key, number) {
                left += 1;
                let chunk = self.chunk(key);
                if unchecked.len() < CHALLENGES && chunk.is_some_and(|chunk| !chunk.aspects.waiting) {
                    unchecked.push(key);
                }
            }
        }
        for key in unchecked {
            self.challenge_chunk(now, key);
        }
        let news = told.is_none_or(|(at, before)| before != left && (left == 0 || now >= at + TELL_EVERY));
        if news {
            self.orders.push(Order::Drained { volunteer: number, left });
            if let Some(volunteer) = self.at_mut(number) {
                volunteer.told = Some((now, left));
            }
        }
        let pause = if left == 0 { TELL_EVERY } else { LOOK_EVERY };
        self.timers.retain(|(_, timer)| *timer != Timer::Drain(number));
        self.after(now + pause, Timer::Drain(number));
    }

    /// Whether a chunk would be missed if a volunteer left: there are fewer verified copies elsewhere than are wanted or
    /// could be made, and none at the tracker.
    fn depends(&self, key: Key, number: VolunteerNumber) -> bool {
        let Some(file) = self.file(key.file) else { return false };
        let Some(chunk) = file.chunks.get(key.index as usize) else { return false };
        let counts = chunk.replicas.get(number).is_some_and(CopyState::counts);
        let verified = usize::from(chunk.weights.verified);
        counts
            && !file.has(chunk)
            && verified < self.settings.replicas
            && (verified == 0 || chunk.weights.coming > 0 || self.could_go_on(key))
    }
}
