//! Drops over-replicated copies.
//!
//! Invariant: at least `replicas` of the remaining copies are verified and not being dropped.

use super::chunk::{CopyState, Key};
use super::volunteer::Volunteer;
use super::{Order, ReplicationPlanner};
use crate::content::{ChunkIndex, limits};
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::net::IpAddr;

impl ReplicationPlanner {
    /// Orders drops of over-replicated copies.
    pub(super) fn shed(&mut self) {
        while let Some(key) = self.surplus.pop_first() {
            while let Some(number) = self.too_much(key) {
                self.drop_copy(key, number);
            }
        }
    }

    /// The copy of a chunk to drop first, if there are too many: an unverified copy before a verified one,
    /// then a copy that shares its IP address with another copy, then the copy at the fullest volunteer.
    fn too_much(&self, key: Key) -> Option<VolunteerNumber> {
        let replicas = self.settings.replicas;
        let chunk = self.chunk(key)?;
        let verified = usize::from(chunk.copy_counts.verified);
        let under_way =
            chunk.copy_counts.coming > 0 || self.transfers.contains_key(&(key, Location::Tracker));
        if verified < replicas || under_way {
            return None;
        }
        let sources = chunk.replicas.iter().filter(|replica| replica.state().is_source());
        let copies: Vec<(bool, &Volunteer)> = sources
            .filter_map(|replica| {
                let volunteer = self.at(replica.volunteer())?;
                (!volunteer.draining).then_some((replica.state() == CopyState::Claimed, volunteer))
            })
            .collect();
        if copies.len() <= replicas {
            return None;
        }
        let ip = |volunteer: &Volunteer| -> IpAddr { volunteer.record.address.ip() };
        let shares = |one: &Volunteer| copies.iter().filter(|(_, other)| ip(one) == ip(other)).count() > 1;
        let may_go = copies.iter().filter(|(claimed, volunteer)| {
            // A volunteer gets no orders before it has reported all its chunks.
            volunteer.has_reported() && (*claimed || verified > replicas)
        });
        let first = may_go.max_by_key(|(claimed, volunteer)| {
            (*claimed, shares(volunteer), volunteer.fill(), volunteer.record.number)
        });
        first.map(|(_, volunteer)| volunteer.record.number)
    }

    /// Orders a volunteer to drop its copy of a chunk. The copy no longer counts.
    pub(super) fn drop_copy(&mut self, key: Key, number: VolunteerNumber) {
        let Some(file) = self.file(key.file).map(|file| file.id) else { return };
        self.set(key, number, Some(CopyState::Dropping));
        let chunks = self.drops.entry((Location::Volunteer(number), file)).or_default();
        chunks.push(ChunkIndex(key.index));
    }

    /// Sends the drop orders, up to [`limits::DROP_MAX`] chunks in each.
    pub(super) fn send_drops(&mut self) {
        if self.drops.is_empty() {
            return;
        }
        let drops = std::mem::take(&mut self.drops);
        for ((at, file), chunks) in drops {
            let ready = match at {
                Location::Tracker => true,
                Location::Volunteer(number) => self.at(number).is_some_and(Volunteer::has_reported),
            };
            if ready {
                let orders = chunks.chunks(limits::DROP_MAX);
                self.orders.extend(orders.map(|part| Order::Drop { at, file, chunks: part.to_vec() }));
            } else {
                self.drops.insert((at, file), chunks);
            }
        }
    }
}
