//! Drops copies: over-replicated ones, and those of forgotten files.
//!
//! Invariant: a copy is dropped as over-replicated only if at least `replicas` of the remaining copies are
//! verified and not being dropped.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::Order;
use super::replicas::CopyState;
use super::volunteer::Volunteer;
use crate::content::{ChunkIndex, FileId, limits};
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Copies to drop.
#[derive(Default, Debug)]
pub(super) struct Drops {
    /// Chunks that may have too many copies.
    pub over_replicated: BTreeSet<ChunkKey>,
    /// Chunks to drop that are in no order yet.
    pending: BTreeMap<(Location, FileId), Vec<ChunkIndex>>,
}

impl Drops {
    /// Adds a chunk to the next drop orders.
    pub fn add(&mut self, at: Location, file: FileId, index: ChunkIndex) {
        self.extend(at, file, &[index]);
    }

    /// Adds chunks of a file to the next drop orders.
    pub fn extend(&mut self, at: Location, file: FileId, chunks: &[ChunkIndex]) {
        self.pending.entry((at, file)).or_default().extend(chunks);
    }

    /// Cancels the pending drops at a volunteer whose connection closed.
    pub fn cancel_at(&mut self, number: VolunteerNumber) {
        self.pending.retain(|(at, _), _| *at != Location::Volunteer(number));
    }
}

impl ReplicationPlanner {
    /// Orders drops of over-replicated copies.
    pub(super) fn drop_surplus(&mut self) {
        while let Some(key) = self.drops.over_replicated.pop_first() {
            while let Some(number) = self.copy_to_drop(key) {
                self.drop_copy(key, number);
            }
        }
    }

    /// The copy of a chunk to drop first, if there are too many: an unverified copy before a verified one,
    /// then a copy that shares its IP address with another copy, then the copy at the fullest volunteer.
    fn copy_to_drop(&self, key: ChunkKey) -> Option<VolunteerNumber> {
        let replicas = self.settings.replicas;
        let chunk = self.files.chunk(key)?;
        let verified = usize::from(chunk.copy_counts.verified);
        let in_flight =
            chunk.copy_counts.in_flight > 0 || self.transfers.is_in_flight(key, Location::Tracker);
        if verified < replicas || in_flight {
            return None;
        }
        let sources = chunk.replicas.iter().filter(|replica| replica.state().is_source());
        let copies: Vec<(bool, &Volunteer)> = sources
            .filter_map(|replica| {
                let volunteer = self.volunteers.get(replica.volunteer())?;
                (!volunteer.draining).then_some((replica.state() == CopyState::Claimed, volunteer))
            })
            .collect();
        if copies.len() <= replicas {
            return None;
        }
        let ip = |volunteer: &Volunteer| -> IpAddr { volunteer.record.address.ip() };
        let shares = |one: &Volunteer| copies.iter().filter(|(_, other)| ip(one) == ip(other)).count() > 1;
        let droppable = copies.iter().filter(|(claimed, volunteer)| {
            // A volunteer gets no orders before it has reported all its chunks.
            volunteer.has_reported() && (*claimed || verified > replicas)
        });
        let first = droppable.max_by_key(|(claimed, volunteer)| {
            (*claimed, shares(volunteer), volunteer.fill_level(), volunteer.record.number)
        });
        first.map(|(_, volunteer)| volunteer.record.number)
    }

    /// Orders a volunteer to drop its copy of a chunk. The copy no longer counts.
    pub(super) fn drop_copy(&mut self, key: ChunkKey, number: VolunteerNumber) {
        let Some(file) = self.files.get(key.file).map(|file| file.id) else { return };
        self.set_copy(key, number, Some(CopyState::Dropping));
        self.drops.add(Location::Volunteer(number), file, ChunkIndex(key.index));
    }

    /// Issues the drop orders, up to [`limits::DROP_MAX`] chunks in each.
    pub(super) fn send_drops(&mut self) {
        for ((at, file), chunks) in std::mem::take(&mut self.drops.pending) {
            let ready = match at {
                Location::Tracker => true,
                Location::Volunteer(number) => self.volunteers.has_reported(number),
            };
            if ready {
                let orders = chunks.chunks(limits::DROP_MAX);
                self.orders.extend(orders.map(|part| Order::Drop { at, file, chunks: part.to_vec() }));
            } else {
                self.drops.pending.insert((at, file), chunks);
            }
        }
    }
}
