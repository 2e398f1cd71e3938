//! Surplus copies: those above `replicas_max`, or above `replicas` while chunks wait for space.
//!
//! Invariant: a copy is dropped as surplus only if `replicas` other copies justify it, each with a proof of the
//! last [`limits::PROOF_AGE_MAX`](crate::content::limits::PROOF_AGE_MAX).

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::DropReason;
use super::replicas::CopyState;
use super::schedule::Timer;
use super::volunteer::Volunteer;
use crate::content::{ChunkIndex, FileId};
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// Interval at which chunks with deferred drops are tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// What to do about the surplus of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Surplus {
    /// There is none that may be dropped.
    None,
    /// Drop the copy at this volunteer.
    Drop(VolunteerNumber, DropReason),
    /// The proofs that justify a drop are too old.
    NeedsProofs,
    /// Too many drops are in flight.
    Deferred,
}

/// Drops to order in this run.
type Batch = BTreeMap<(VolunteerNumber, FileId, DropReason), Vec<ChunkIndex>>;

impl ReplicationPlanner {
    /// Orders drops of surplus copies.
    pub(super) fn drop_surplus(&mut self, now: Moment) {
        let mut batch = Batch::new();
        while let Some(key) = self.drops.over_replicated.pop_first() {
            match self.surplus_of(now, key, &batch) {
                Surplus::None => {}
                Surplus::Drop(number, reason) => {
                    let Some(file) = self.files.get(key.file).map(|file| file.id) else { continue };
                    self.set_copy(key, number, Some(CopyState::Dropping));
                    batch.entry((number, file, reason)).or_default().push(ChunkIndex(key.index));
                }
                Surplus::NeedsProofs => {
                    // A proof that could not be had is not requested again at once.
                    if self.drops.just_proven.contains(&key) || !self.want_proof(key) {
                        self.defer_surplus(now, key);
                    }
                }
                Surplus::Deferred => self.defer_surplus(now, key),
            }
        }
        self.drops.just_proven.clear();
        for ((number, file, reason), chunks) in batch {
            for part in chunks.chunks(crate::content::limits::DROP_MAX) {
                self.send_drop(now, number, file, part.to_vec(), reason);
            }
        }
    }

    fn defer_surplus(&mut self, now: Moment, key: ChunkKey) {
        if self.drops.deferred.is_empty() {
            self.schedule.add(now + RETRY_INTERVAL, Timer::Surplus);
        }
        self.drops.deferred.insert(key);
    }

    /// Tries the deferred drops again.
    pub(super) fn retry_surplus(&mut self) {
        let deferred = std::mem::take(&mut self.drops.deferred);
        self.drops.over_replicated.extend(deferred);
    }

    /// The surplus copy of a chunk to drop first: one that has not been proven before a proven one, then one at
    /// a volunteer that is not approved, then one that shares its IP address with another copy, then the one
    /// at the fullest volunteer.
    fn surplus_of(&self, now: Moment, key: ChunkKey, batch: &Batch) -> Surplus {
        let Some(chunk) = self.files.chunk(key) else { return Surplus::None };
        let replicas = self.settings.replicas;
        let is_moving =
            chunk.copy_counts.in_flight > 0 || self.transfers.is_in_flight(key, Location::Tracker);
        let copies = chunk.replicas.iter().filter(|replica| replica.state().is_readable());
        let copies: Vec<(CopyState, &Volunteer)> = copies
            .filter_map(|replica| {
                let volunteer = self.volunteers.get(replica.volunteer())?;
                let stays = volunteer.has_reported() && !volunteer.draining && !volunteer.is_denied();
                stays.then_some((replica.state(), volunteer))
            })
            .collect();
        let lacks_space = self.space.is_lacking;
        let reason = match (copies.len() > self.settings.replicas_max, lacks_space) {
            _ if is_moving => return Surplus::None,
            (true, _) => DropReason::Surplus,
            (false, true) if copies.len() > replicas => DropReason::Space,
            _ => return Surplus::None,
        };
        let approve = self.settings.approve;
        let ip = |volunteer: &Volunteer| volunteer.record.address.ip();
        let shares = |one: &Volunteer| copies.iter().filter(|(_, other)| ip(one) == ip(other)).count() > 1;
        let mut order: Vec<&(CopyState, &Volunteer)> = copies.iter().collect();
        order.sort_by_key(|(state, volunteer)| {
            let unproven = *state != CopyState::Proven;
            let number = volunteer.record.number;
            Reverse((
                unproven,
                !volunteer.is_approved(approve),
                shares(volunteer),
                volunteer.fill_level(),
                number,
            ))
        });
        for (_, dropped) in order {
            let number = dropped.record.number;
            let (others, recent) = self.justifying_copies(now, key, &copies, dropped);
            if others < replicas {
                continue;
            }
            if recent < replicas {
                return Surplus::NeedsProofs;
            }
            let batched = batch.keys().filter(|(at, ..)| *at == number).count();
            let is_limited = self.drops.free_orders(number) <= batched
                || (reason == DropReason::Space
                    && self.drops.chunks_in_flight() + batch.len() >= self.waiting.parked.len());
            return if is_limited { Surplus::Deferred } else { Surplus::Drop(number, reason) };
        }
        Surplus::None
    }

    /// Number of copies of a chunk that justify the drop of another one, and of those with a recent proof.
    fn justifying_copies(
        &self,
        now: Moment,
        key: ChunkKey,
        copies: &[(CopyState, &Volunteer)],
        dropped: &Volunteer,
    ) -> (usize, usize) {
        let mut seen: Vec<SocketAddr> = vec![dropped.record.address];
        let (mut others, mut recent) = (0, 0);
        for (state, other) in copies {
            let address = other.record.address;
            let justifies = other.standing(self.settings.approve).justifies;
            if *state == CopyState::Proven && justifies && !seen.contains(&address) {
                seen.push(address);
                others += 1;
                recent += usize::from(self.proofs.is_recent(now, key, other.record.number));
            }
        }
        (others, recent)
    }
}
