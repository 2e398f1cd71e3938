//! Selection of the source and the target of a copy.
//!
//! The target is the emptiest volunteer with an open window, preferably at an IP address that has no copy
//! yet, and preferably one that is approved. The source is the least busy holder with an open window, a volunteer before the tracker.

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
        // There are enough copies, but too few at approved volunteers.
        let needs_approved = chunk.copy_counts.planned(file.tracker_has(chunk)) >= self.settings.replicas;
        let may_take = |number: VolunteerNumber| {
            replicas.get(number).is_none()
                && self.volunteers.get(number).is_some_and(|volunteer| {
                    let needed = length.saturating_add(self.reserved_space(file, volunteer));
                    volunteer.unreserved_space() >= needed && (!needs_approved || volunteer.is_approved(true))
                })
        };
        if !targets.has_space(length, may_take) {
            return Target::None;
        }
        let used = |ip: IpAddr| self.has_copy_at(replicas, ip);
        let elsewhere = targets.has_space_elsewhere(length, used, may_take);
        let failed = self.waiting.retries.get(&key).map(|retry| retry.to);
        // Without any approved volunteer, all are equal.
        let prefers_approved = self.settings.approve && self.volunteers.counts.approved > 0;
        let mut best: Option<((bool, bool), VolunteerNumber)> = None;
        for number in targets.open() {
            let Some(volunteer) = self.volunteers.get(number) else { continue };
            let is_permitted = self.transfers.window.permits(volunteer.incoming, length);
            if !is_permitted || !may_take(number) || (elsewhere && used(volunteer.record.address.ip())) {
                continue;
            }
            // The target of the failed attempt is chosen only if there is no other.
            let is_failed = failed == Some(Location::Volunteer(number));
            let rank = (is_failed, prefers_approved && !volunteer.is_approved(true));
            if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, number));
            }
            if rank == (false, false) {
                break;
            }
        }
        best.map_or(Target::Later, |(_, number)| Target::Volunteer(number))
    }

    /// Whether a copy that stays is, or will be, at this IP address.
    fn has_copy_at(&self, replicas: &Replicas, ip: IpAddr) -> bool {
        replicas.iter().any(|replica| {
            let state = replica.state();
            let volunteer = self.volunteers.get(replica.volunteer());
            (state.counts() || matches!(state, CopyState::Silent | CopyState::Coming | CopyState::Suspected))
                && volunteer
                    .is_some_and(|volunteer| !volunteer.draining && volunteer.record.address.ip() == ip)
        })
    }

    /// The best source for a copy of a chunk among those with an open window: claimed copies come after
    /// the others. The source of a failed attempt comes last.
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
            let claimed = matches!(replica.state(), CopyState::Claimed | CopyState::Suspected);
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
