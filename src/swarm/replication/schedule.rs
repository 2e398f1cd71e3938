//! Actions that the planner has scheduled for later.

use super::chunk::ChunkKey;
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::collections::BTreeSet;

/// An action at a scheduled time; it has no effect if its condition no longer applies then.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// The lease of a volunteer that is away ends, or the time within which a connected one must report.
    Silence(VolunteerNumber),
    /// A volunteer that is away counts as lost.
    Loss(VolunteerNumber),
    /// A volunteer that had a disk error may get copies again.
    DiskRetry(VolunteerNumber),
    /// The progress of a drain is checked.
    DrainCheck(VolunteerNumber),
    /// The backoff of a chunk after a failed copy ends.
    BackoffEnd(ChunkKey),
    /// A copy to this location times out.
    CopyTimeout(ChunkKey, Location),
    /// The suspicion against a volunteer after its first wrong proof ends.
    Suspicion(VolunteerNumber),
    /// The next challenge is sent.
    Challenge,
    /// Pending proofs are planned.
    Proofs,
    /// A proof with this number times out.
    ProofTimeout(u64),
    /// Deferred drops of surplus copies are tried again.
    Surplus,
    /// Expired records of volunteers are removed.
    ExpireRecords,
    /// Copies may start again, at the end of a delay or because the rate limit of repair permits it.
    Plan,
    /// Chunks that have no copy by now are reported as lost.
    ScanForLost,
    /// Parked chunks are tried again.
    Unpark,
}

/// The timers, and the time of the planner's first event.
#[derive(Default, Debug)]
pub(super) struct Schedule {
    /// Time of the first event; `None` before it.
    pub start: Option<Moment>,
    timers: BTreeSet<(Moment, Timer)>,
}

impl Schedule {
    /// Adds a timer.
    pub fn add(&mut self, at: Moment, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// Removes a timer that is due at a known time.
    pub fn cancel(&mut self, at: Moment, timer: Timer) {
        self.timers.remove(&(at, timer));
    }

    /// Replaces a timer that is due at any time.
    pub fn replace(&mut self, at: Moment, timer: Timer) {
        self.timers.retain(|(_, other)| *other != timer);
        self.add(at, timer);
    }

    /// Removes and returns the first timer that is due at `now`.
    pub fn pop_due(&mut self, now: Moment) -> Option<Timer> {
        let first = self.timers.first().copied().filter(|(at, _)| *at <= now)?;
        self.timers.remove(&first);
        Some(first.1)
    }

    /// Time of the first timer.
    pub fn next_due(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at)
    }
}
