//! Selection of the source and the target of a copy.
//!
//! The target is the emptiest volunteer with an open window, preferably at an IP address that has no copy
//! yet. The source is the least busy holder with an open window, a volunteer before the tracker.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::replicas::{CopyState, Replicas};
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::net::IpAddr;

/// Target of the next copy of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// This volunteer.
    Volunteer(VolunteerNumber),
    /// Only volunteers whose window is closed now.
    Later,
    /// No volunteer has enough free space.
    None,
}

impl ReplicationPlanner {
    /// The best target for the next copy of a chunk.
    pub(super) fn best_target(&self, key: ChunkKey) -> Target {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return Target::None };
        let length = file.length(key.index);
        let replicas = &chunk.replicas;
        let targets = &self.volunteers.targets;
        let has_no_copy = |number: VolunteerNumber| replicas.get(number).is_none();
        if !targets.has_space(length, has_no_copy) {
            return Target::None;
        }
        let used = |ip: IpAddr| self.has_copy_at(replicas, ip);
        let elsewhere = targets.has_space_elsewhere(length, used, has_no_copy);
        let failed = self.waiting.retries.get(&key).map(|retry| retry.to);
        let mut fallback = Target::Later;
        for number in targets.open() {
            let Some(volunteer) = self.volunteers.get(number) else { continue };
            let fits = volunteer.unreserved_space() >= length
                && self.transfers.window.permits(volunteer.incoming, length);
            if !fits || !has_no_copy(number) || (elsewhere && used(volunteer.record.address.ip())) {
                continue;
            }
            if failed != Some(Location::Volunteer(number)) {
                return Target::Volunteer(number);
            }
            // The target of the failed attempt is chosen only if there is no other.
            fallback = Target::Volunteer(number);
        }
        fallback
    }

    /// Whether a copy that stays is, or will be, at this IP address.
    fn has_copy_at(&self, replicas: &Replicas, ip: IpAddr) -> bool {
        replicas.iter().any(|replica| {
            let state = replica.state();
            let volunteer = self.volunteers.get(replica.volunteer());
            (state.counts() || state == CopyState::InFlight)
                && volunteer
                    .is_some_and(|volunteer| !volunteer.draining && volunteer.record.address.ip() == ip)
        })
    }

    /// The best source for a copy of a chunk among those with an open window: verified copies before claimed
    /// ones. The source of a failed attempt comes last.
    pub(super) fn best_source(&self, key: ChunkKey) -> Option<Location> {
        let (file, chunk) = self.files.file_and_chunk(key)?;
        let length = file.length(key.index);
        let window = self.transfers.window;
        let failed = self.waiting.retries.get(&key).map(|retry| retry.from);
        let holders = chunk.replicas.iter().filter(|replica| replica.state().is_source());
        let open = holders.filter_map(|replica| {
            let number = replica.volunteer();
            let outgoing = self.volunteers.get(number)?.outgoing;
            let location = Location::Volunteer(number);
            let claimed = replica.state() == CopyState::Claimed;
            let order = (failed == Some(location), claimed, outgoing.copies, number);
            window.permits(outgoing, length).then_some((order, location))
        });
        let best = open.min().map(|((failed, ..), location)| (failed, location));
        let tracker_can_give =
            file.tracker_has(chunk) && window.permits(self.transfers.tracker_outgoing, length);
        match best {
            Some((false, location)) => Some(location),
            _ if tracker_can_give => Some(Location::Tracker),
            other => other.map(|(_, location)| location),
        }
    }
}
