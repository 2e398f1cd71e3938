//! Copies in flight.
//!
//! Invariant: a copy in flight to a volunteer exists exactly while the state of the chunk's copy there is
//! `Coming`.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::Order;
use super::replicas::CopyState;
use super::schedule::Timer;
use super::traffic::{Traffic, Window};
use crate::content::{ChunkIndex, limits};
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::collections::BTreeMap;
use std::time::Duration;

/// A copy in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub from: Location,
    pub length: u64,
    deadline: Moment,
}

/// The copies in flight, their limit, and the copies to and from the tracker.
#[derive(Debug)]
pub(super) struct Transfers {
    /// Limit of copies in flight in each direction of each location.
    pub window: Window,
    pub tracker_incoming: Traffic,
    pub tracker_outgoing: Traffic,
    /// By chunk and target.
    in_flight: BTreeMap<(ChunkKey, Location), Transfer>,
    /// Copies that were abandoned before an answer came, with the number of answers still to ignore.
    abandoned: BTreeMap<(ChunkKey, VolunteerNumber), u32>,
}

impl Transfers {
    pub fn new(window: Window) -> Self {
        Self {
            window,
            tracker_incoming: Traffic::default(),
            tracker_outgoing: Traffic::default(),
            in_flight: BTreeMap::new(),
            abandoned: BTreeMap::new(),
        }
    }

    /// Number of copies in flight.
    pub fn count(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether a copy of a chunk is in flight to a location.
    pub fn is_in_flight(&self, key: ChunkKey, to: Location) -> bool {
        self.in_flight.contains_key(&(key, to))
    }

    /// Chunk and target of the copies in flight that `accept` accepts.
    pub fn select(
        &self,
        accept: impl Fn(ChunkKey, Location, &Transfer) -> bool,
    ) -> Vec<(ChunkKey, Location)> {
        let selected = self.in_flight.iter().filter(|((key, to), transfer)| accept(*key, *to, transfer));
        selected.map(|(key, _)| *key).collect()
    }

    /// Whether an answer belongs to an abandoned copy. The answer is then counted as ignored.
    pub fn take_abandoned(&mut self, key: ChunkKey, number: VolunteerNumber) -> bool {
        let Some(left) = self.abandoned.get_mut(&(key, number)) else { return false };
        *left -= 1;
        if *left == 0 {
            self.abandoned.remove(&(key, number));
        }
        true
    }

    /// Removes the abandoned copies of a file.
    pub fn forget_file(&mut self, slot: u32) {
        self.abandoned.retain(|(key, _), _| key.file != slot);
    }

    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = (&(ChunkKey, Location), &Transfer)> + '_ {
        self.in_flight.iter()
    }
}

impl ReplicationPlanner {
    /// Orders a copy.
    pub(super) fn start_transfer(&mut self, now: Moment, key: ChunkKey, from: Location, to: Location) {
        let Some(file) = self.files.get(key.file) else { return };
        let (id, length) = (file.id, file.length(key.index));
        let was_replicated = file.chunks.get(key.index as usize).is_some_and(|chunk| chunk.was_replicated);
        if was_replicated && self.settings.repair_limit > 0 {
            let wait_until = self.repair.charge(now, self.settings.repair_limit, length);
            if let Some(until) = wait_until {
                self.schedule.add(until, Timer::Plan);
            }
        }
        let deadline = now + limits::COPY_TIMEOUT + Duration::from_secs(length / limits::COPY_RATE_MIN);
        self.transfers.in_flight.insert((key, to), Transfer { from, length, deadline });
        self.schedule.add(deadline, Timer::CopyTimeout(key, to));
        self.change_outgoing(from, |traffic| traffic.add(length));
        self.change_incoming(to, |traffic| traffic.add(length));
        if let Location::Volunteer(number) = to {
            self.set_copy(key, number, Some(CopyState::Coming));
        }
        self.update_targets(now);
        self.orders.push(Order::Copy { file: id, index: ChunkIndex(key.index), from, to });
    }

    fn change_outgoing(&mut self, location: Location, change: impl FnOnce(&mut Traffic)) {
        match location {
            Location::Tracker => change(&mut self.transfers.tracker_outgoing),
            Location::Volunteer(number) => {
                if let Some(volunteer) = self.volunteers.get_mut(number) {
                    change(&mut volunteer.outgoing);
                }
            }
        }
    }

    fn change_incoming(&mut self, location: Location, change: impl FnOnce(&mut Traffic)) {
        match location {
            Location::Tracker => change(&mut self.transfers.tracker_incoming),
            Location::Volunteer(number) => {
                if let Some(volunteer) = self.volunteers.get_mut(number) {
                    change(&mut volunteer.incoming);
                }
                self.volunteers.mark_target_outdated(number);
            }
        }
    }

    /// Ends a copy in flight. The caller sets the resulting state.
    pub(super) fn end_transfer(&mut self, key: ChunkKey, to: Location) -> Option<Transfer> {
        let transfer = self.transfers.in_flight.remove(&(key, to))?;
        self.schedule.cancel(transfer.deadline, Timer::CopyTimeout(key, to));
        self.change_outgoing(transfer.from, |traffic| traffic.subtract(transfer.length));
        self.change_incoming(to, |traffic| traffic.subtract(transfer.length));
        Some(transfer)
    }

    /// Ends a copy that will not arrive.
    pub(super) fn fail_transfer(&mut self, key: ChunkKey, to: Location) -> Option<Transfer> {
        let transfer = self.end_transfer(key, to)?;
        match to {
            Location::Volunteer(number) => self.set_copy(key, number, None),
            // The chunk may be waiting for the end of this copy.
            Location::Tracker => self.recompute(key),
        }
        Some(transfer)
    }

    /// Abandons a copy without the knowledge of its target: the next answer from there is ignored, because it
    /// does not belong to a later order.
    fn abandon_transfer(&mut self, key: ChunkKey, to: Location) -> Option<Transfer> {
        let transfer = self.fail_transfer(key, to)?;
        if let Location::Volunteer(number) = to {
            *self.transfers.abandoned.entry((key, number)).or_default() += 1;
        }
        Some(transfer)
    }

    /// Ends all copies to a volunteer that is no longer connected.
    pub(super) fn fail_transfers_to(&mut self, number: VolunteerNumber) {
        let target = Location::Volunteer(number);
        for (key, to) in self.transfers.select(|_, to, _| to == target) {
            self.fail_transfer(key, to);
        }
        self.transfers.abandoned.retain(|(_, to), _| *to != number);
    }

    /// Abandons all copies from a volunteer that is lost.
    pub(super) fn abandon_transfers_from(&mut self, number: VolunteerNumber) {
        let source = Location::Volunteer(number);
        for (key, to) in self.transfers.select(|_, _, transfer| transfer.from == source) {
            self.abandon_transfer(key, to);
        }
    }

    /// Handles a copy that has timed out.
    pub(super) fn time_out(&mut self, now: Moment, key: ChunkKey, to: Location) {
        if let Some(transfer) = self.abandon_transfer(key, to) {
            self.schedule_retry(now, key, transfer.from, to);
        }
    }
}
