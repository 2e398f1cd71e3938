//! Copies in flight.
//!
//! Invariant: a copy in flight to a volunteer exists exactly while the state of the chunk's copy there is
//! `Coming`.

use super::chunk::{CopyState, Key};
use super::plan::gives;
use super::priority::Priority;
use super::{Order, ReplicationPlanner, Retry, Timer};
use crate::content::{ChunkIndex, limits};
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use crate::swarm::keeping::{Location, VolunteerNumber};
use crate::swarm::token_bucket::TokenBucket;
use std::time::Duration;

/// A copy in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub from: Location,
    pub length: u64,
    pub deadline: Moment,
}

impl ReplicationPlanner {
    /// Orders a copy.
    pub(super) fn start_transfer(&mut self, now: Moment, key: Key, from: Location, to: Location) {
        let Some(file) = self.file(key.file) else { return };
        let (id, length) = (file.id, file.length(key.index));
        let full = file.chunks.get(key.index as usize).is_some_and(|chunk| chunk.full);
        if full && self.settings.repair_limit > 0 {
            let limit = self.settings.repair_limit;
            let wait =
                self.repair_limiter.get_or_insert_with(|| TokenBucket::new(limit, now)).take(length, now);
            self.repair_from = now + wait;
            if wait > Duration::ZERO {
                self.after(self.repair_from, Timer::Repair);
            }
        }
        let deadline = now + limits::COPY_TIMEOUT + Duration::from_secs(length / limits::COPY_RATE_MIN);
        self.transfers.insert((key, to), Transfer { from, length, deadline });
        self.after(deadline, Timer::CopyTimeout(key, to));
        self.traffic_out(from, |traffic| traffic.add(length));
        self.traffic_in(to, |traffic| traffic.add(length));
        if let Location::Volunteer(number) = to {
            self.set(key, number, Some(CopyState::Coming));
        }
        self.reindex(now);
        self.orders.push(Order::Copy { file: id, index: ChunkIndex(key.index), from, to });
    }

    fn traffic_out(&mut self, location: Location, change: impl FnOnce(&mut super::Traffic)) {
        match location {
            Location::Tracker => change(&mut self.outgoing),
            Location::Volunteer(number) => {
                if let Some(volunteer) = self.at_mut(number) {
                    change(&mut volunteer.outgoing);
                }
            }
        }
    }

    fn traffic_in(&mut self, location: Location, change: impl FnOnce(&mut super::Traffic)) {
        match location {
            Location::Tracker => change(&mut self.incoming),
            Location::Volunteer(number) => {
                if let Some(volunteer) = self.at_mut(number) {
                    change(&mut volunteer.incoming);
                }
                self.stale.insert(number);
            }
        }
    }

    /// Ends a copy in flight. The caller sets the resulting state.
    pub(super) fn end_transfer(&mut self, key: Key, to: Location) -> Option<Transfer> {
        let transfer = self.transfers.remove(&(key, to))?;
        self.timers.remove(&(transfer.deadline, Timer::CopyTimeout(key, to)));
        self.traffic_out(transfer.from, |traffic| traffic.subtract(transfer.length));
        self.traffic_in(to, |traffic| traffic.subtract(transfer.length));
        Some(transfer)
    }

    /// Ends a copy that will not arrive.
    pub(super) fn fail_transfer(&mut self, key: Key, to: Location) -> Option<Transfer> {
        let transfer = self.end_transfer(key, to)?;
        match to {
            Location::Volunteer(number) => self.set(key, number, None),
            // The chunk may be waiting for the end of this copy.
            Location::Tracker => self.touch(key),
        }
        Some(transfer)
    }

    /// Abandons a copy without the knowledge of its target: the next answer from there is ignored, because it
    /// does not belong to a later order.
    fn abandon_transfer(&mut self, key: Key, to: Location) -> Option<Transfer> {
        let transfer = self.fail_transfer(key, to)?;
        if let Location::Volunteer(number) = to {
            *self.ignored.entry((key, number)).or_default() += 1;
        }
        Some(transfer)
    }

    /// Whether an answer belongs to an abandoned copy.
    pub(super) fn is_ignored(&mut self, key: Key, number: VolunteerNumber) -> bool {
        let Some(left) = self.ignored.get_mut(&(key, number)) else { return false };
        *left -= 1;
        if *left == 0 {
            self.ignored.remove(&(key, number));
        }
        true
    }

    /// Ends all copies to a volunteer that is no longer connected.
    pub(super) fn fail_transfers_to(&mut self, number: VolunteerNumber) {
        let to = Location::Volunteer(number);
        let keys: Vec<Key> = self.transfers.keys().filter(|(_, at)| *at == to).map(|(key, _)| *key).collect();
        for key in keys {
            self.fail_transfer(key, to);
        }
        self.ignored.retain(|(_, at), _| *at != number);
    }

    /// Abandons all copies from a volunteer that is dead.
    pub(super) fn abandon_transfers_from(&mut self, number: VolunteerNumber) {
        let from = Location::Volunteer(number);
        let transfers = self.transfers.iter().filter(|(_, transfer)| transfer.from == from);
        let keys: Vec<(Key, Location)> = transfers.map(|(key, _)| *key).collect();
        for (key, to) in keys {
            self.abandon_transfer(key, to);
        }
    }

    /// Handles a copy that has timed out.
    pub(super) fn time_out(&mut self, now: Moment, key: Key, to: Location) {
        if let Some(transfer) = self.abandon_transfer(key, to) {
            self.schedule_retry(now, key, transfer.from, to);
        }
    }

    /// Schedules a retry after a failed copy: after a backoff, and if possible with another source and
    /// target.
    pub(super) fn schedule_retry(&mut self, now: Moment, key: Key, from: Location, to: Location) {
        let first = || Backoff::new(limits::RETRY_MIN, limits::RETRY_MAX);
        let mut backoff = self.retries.remove(&key).map_or_else(first, |retry| retry.backoff);
        let until = now + backoff.pause(&mut self.random);
        self.retries.insert(key, Retry { backoff, until, from, to });
        self.after(until, Timer::Retry(key));
        self.move_to(key, Priority::RESTING);
        self.touch(key);
    }

    /// Ends the backoff of a chunk.
    pub(super) fn rested(&mut self, now: Moment, key: Key) {
        if self.retries.get(&key).is_none_or(|retry| retry.until > now) {
            return;
        }
        self.wake(key);
        // The failed source and target are remembered until a copy succeeds or none is needed any more.
        if self.chunk(key).is_none_or(|chunk| !chunk.priority.is_queue()) {
            self.retries.remove(&key);
        }
    }

    fn wake(&mut self, key: Key) {
        if self.chunk(key).is_some_and(|chunk| chunk.priority == Priority::RESTING) {
            self.move_to(key, Priority::NONE);
            self.touch(key);
        }
    }

    /// Ends the retry state of a chunk after a successful copy.
    pub(super) fn end_rest(&mut self, key: Key) {
        if self.retries.remove(&key).is_some() {
            self.wake(key);
        }
    }

    /// The best source for a copy of a chunk among those with an open window.
    pub(super) fn source(&self, key: Key) -> Option<Location> {
        let file = self.file(key.file)?;
        let chunk = file.chunks.get(key.index as usize)?;
        let length = file.length(key.index);
        let failed = self.retries.get(&key).map(|retry| retry.from);
        let holders = chunk.replicas.iter().filter(|replica| replica.state().is_source());
        let open = holders.filter_map(|replica| {
            let number = replica.volunteer();
            let outgoing = self.at(number)?.outgoing;
            let location = Location::Volunteer(number);
            let claimed = replica.state() == CopyState::Claimed;
            let order = (failed == Some(location), claimed, outgoing.copies, number);
            gives(self.window, outgoing, length).then_some((order, location))
        });
        let best = open.min().map(|(order, location)| (order.0, location));
        let tracker = file.has(chunk) && gives(self.window, self.outgoing, length);
        match best {
            Some((false, location)) => Some(location),
            _ if tracker => Some(Location::Tracker),
            other => other.map(|(_, location)| location),
        }
    }
}
