//! Selection of the source and the target of a copy.
//!
//! The target is the emptiest volunteer with an open window, preferably at an IP address that has no copy
//! yet, and preferably one that is approved. The source is the least busy holder with an open window, a volunteer before
//! the tracker, and the tracker before a claim.

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

/// Kind of a source, the preferred one first. A claim is no proof: hostile claims must not come before the tracker's own
/// copy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum SourceClass {
    Stored,
    Tracker,
    Claimed,
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
        let failures = self.waiting.retries.get(&key).map(|retry| &retry.targets);
        // Without any approved volunteer, all are equal.
        let prefers_approved = self.settings.approve && self.volunteers.counts.approved > 0;
        let mut best: Option<((usize, bool), VolunteerNumber)> = None;
        for number in targets.open() {
            let Some(volunteer) = self.volunteers.get(number) else { continue };
            let is_permitted = self.transfers.window.permits(volunteer.incoming, length);
            if !is_permitted || !may_take(number) || (elsewhere && used(volunteer.record.address.ip())) {
                continue;
            }
            let failed = failures.map_or(0, |failures| failures.rank(Location::Volunteer(number)));
            let rank = (failed, prefers_approved && !volunteer.is_approved(true));
            if best.is_none_or(|(other, _)| rank < other) {
                best = Some((rank, number));
            }
            if rank == (0, false) {
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

    /// The best source for a copy of a chunk among those with an open window: a volunteer, or else the tracker, or else
    /// a volunteer that only claims a copy. Sources that have failed come last.
    pub(super) fn best_source(&self, key: ChunkKey) -> Option<Location> {
        let (file, chunk) = self.files.file_and_chunk(key)?;
        let length = file.length(key.index);
        let window = self.transfers.window;
        let failures = self.waiting.retries.get(&key).map(|retry| &retry.sources);
        let failed = |location| failures.map_or(0, |failures| failures.rank(location));
        let holders = chunk.replicas.iter().filter(|replica| replica.state().is_source());
        let volunteers = holders.filter_map(|replica| {
            let number = replica.volunteer();
            let outgoing = self.volunteers.get(number)?.outgoing;
            let location = Location::Volunteer(number);
            let class = match replica.state() {
                CopyState::Claimed | CopyState::Suspected => SourceClass::Claimed,
                _ => SourceClass::Stored,
            };
            let order = (failed(location), class, outgoing.copies, location);
            window.permits(outgoing, length).then_some(order)
        });
        let outgoing = self.transfers.tracker_outgoing;
        let tracker_can_give = file.tracker_has(chunk) && window.permits(outgoing, length);
        let tracker = (failed(Location::Tracker), SourceClass::Tracker, outgoing.copies, Location::Tracker);
        volunteers.chain(tracker_can_give.then_some(tracker)).min().map(|(.., location)| location)
    }
}
