//! Drop orders: their queues, and the limit of orders in flight.
//!
//! Surplus copies are chosen in [`surplus`](super::surplus) and are ordered at once or not at all. Drops of
//! forgotten files and of the tracker's own chunks wait here while too many orders are in flight, and are
//! checked again when they are sent.

use super::ReplicationPlanner;
use super::chunk::{ChunkKey, StoreCopy};
use super::order::{DropReason, Order};
use super::schedule::Timer;
use crate::content::{ChunkIndex, FileId, limits};
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::collections::{BTreeMap, BTreeSet};

/// Chunks of forgotten files that wait for a drop order to one volunteer; it reports the others again in its next
/// session.
const FORGOTTEN_CHUNKS_MAX: usize = 1 << 20;

/// Copies to drop, and the drop orders in flight.
#[derive(Default, Debug)]
pub(super) struct Drops {
    /// Chunks that may have too many copies.
    pub over_replicated: BTreeSet<ChunkKey>,
    /// Chunks with more copies than wanted, which are kept while there is space.
    pub in_reserve: BTreeSet<ChunkKey>,
    /// Chunks with too many copies of which none can be dropped now.
    pub deferred: BTreeSet<ChunkKey>,
    /// Chunks whose proofs have ended since the last run.
    pub just_proven: BTreeSet<ChunkKey>,
    /// Chunks of forgotten files to drop at volunteers.
    forgotten: BTreeMap<VolunteerNumber, Forgotten>,
    /// Chunks to drop from the tracker's chunk store.
    own: BTreeMap<(u32, DropReason), (FileId, BTreeSet<u32>)>,
    /// Orders in flight to volunteers.
    in_flight: BTreeMap<VolunteerNumber, InFlight>,
    /// Orders in flight to the tracker's own chunk store, by permit.
    pub own_orders: BTreeMap<u64, OwnDrop>,
}

/// Chunks of forgotten files at one volunteer.
#[derive(Default, Debug)]
struct Forgotten {
    files: BTreeMap<FileId, BTreeSet<ChunkIndex>>,
    chunks: usize,
}

/// Drop orders in flight to one volunteer.
#[derive(Default, Debug)]
struct InFlight {
    /// Numbers of orders and of chunks without an answer, by file.
    files: BTreeMap<FileId, (usize, usize)>,
    /// Time of the last order.
    last: Moment,
    /// A check of the time limit is scheduled.
    check_scheduled: bool,
}

impl InFlight {
    fn orders(&self) -> usize {
        self.files.values().map(|(orders, _)| orders).sum()
    }
}

/// A drop order in flight to the tracker's own chunk store.
#[derive(Debug)]
pub(super) struct OwnDrop {
    slot: u32,
    file: FileId,
    chunks: BTreeSet<u32>,
    /// It needs no justification: the copies are corrupt.
    is_unconditional: bool,
    revoked: bool,
}

impl Drops {
    /// Adds chunks of a forgotten file at a volunteer.
    pub fn forget(&mut self, at: VolunteerNumber, file: FileId, chunks: &[ChunkIndex]) {
        let waiting = self.forgotten.entry(at).or_default();
        for index in chunks {
            if waiting.chunks >= FORGOTTEN_CHUNKS_MAX {
                return;
            }
            waiting.chunks += usize::from(waiting.files.entry(file).or_default().insert(*index));
        }
    }

    /// Removes the pending drops of a file that is kept again.
    pub fn take_forgotten(&mut self, file: FileId) -> Vec<(VolunteerNumber, BTreeSet<ChunkIndex>)> {
        let mut taken = Vec::new();
        for (number, waiting) in &mut self.forgotten {
            if let Some(chunks) = waiting.files.remove(&file) {
                waiting.chunks = waiting.chunks.saturating_sub(chunks.len());
                taken.push((*number, chunks));
            }
        }
        taken
    }

    /// Adds a chunk to drop from the tracker's chunk store.
    pub fn drop_own(&mut self, file: FileId, key: ChunkKey, reason: DropReason) {
        let entry = self.own.entry((key.file, reason));
        entry.or_insert_with(|| (file, BTreeSet::new())).1.insert(key.index);
    }

    /// Cancels the pending drops at a volunteer whose connection closed.
    pub fn cancel_at(&mut self, number: VolunteerNumber) {
        self.forgotten.remove(&number);
        self.in_flight.remove(&number);
    }

    /// Notes the number of readable copies of a chunk.
    pub fn note_copies(&mut self, key: ChunkKey, readable: usize, replicas: usize) {
        if readable > replicas {
            self.in_reserve.insert(key);
            self.over_replicated.insert(key);
        } else {
            self.in_reserve.remove(&key);
        }
    }

    /// Removes everything about a file that is forgotten, except drop orders.
    pub fn forget_file(&mut self, slot: u32) {
        for keys in
            [&mut self.over_replicated, &mut self.in_reserve, &mut self.deferred, &mut self.just_proven]
        {
            keys.retain(|key| key.file != slot);
        }
        self.own.retain(|(file, _), _| *file != slot);
    }

    /// Number of orders that may still be sent to a volunteer.
    pub fn free_orders(&self, number: VolunteerNumber) -> usize {
        let used = self.in_flight.get(&number).map_or(0, InFlight::orders);
        limits::DROPS_IN_FLIGHT_MAX.saturating_sub(used)
    }

    /// Number of chunks in the drop orders in flight to volunteers.
    pub fn chunks_in_flight(&self) -> usize {
        self.in_flight.values().flat_map(|orders| orders.files.values()).map(|(_, chunks)| chunks).sum()
    }

    fn note_order(&mut self, now: Moment, at: VolunteerNumber, file: FileId, chunks: usize) {
        let in_flight = self.in_flight.entry(at).or_default();
        in_flight.last = now;
        let (orders, left) = in_flight.files.entry(file).or_default();
        *orders += 1;
        *left += chunks;
    }

    /// Notes the answer to a drop order.
    pub fn note_answer(&mut self, at: VolunteerNumber, file: FileId, chunks: usize) {
        let Some(in_flight) = self.in_flight.get_mut(&at) else { return };
        let Some((orders, left)) = in_flight.files.get_mut(&file) else { return };
        *left = left.saturating_sub(chunks);
        // An order has at most this number of chunks.
        *orders = (*orders).min(*left);
        if *left == 0 {
            in_flight.files.remove(&file);
        }
    }
}

impl ReplicationPlanner {
    /// Orders a volunteer to drop chunks.
    pub(super) fn send_drop(
        &mut self,
        now: Moment,
        at: VolunteerNumber,
        file: FileId,
        chunks: Vec<ChunkIndex>,
        reason: DropReason,
    ) {
        self.drops.note_order(now, at, file, chunks.len());
        self.orders.push(Order::Drop { at, file, chunks, reason });
    }

    /// Sends the drop orders that the limits permit.
    pub(super) fn send_drops(&mut self, now: Moment) {
        self.expire_drop_orders(now);
        let waiting: Vec<VolunteerNumber> = self.drops.forgotten.keys().copied().collect();
        for number in waiting {
            while self.volunteers.has_reported(number) && self.drops.free_orders(number) > 0 {
                let Some((file, chunks)) = self.next_forgotten(number) else { break };
                self.send_drop(now, number, file, chunks, DropReason::Forgotten);
            }
        }
        while self.drops.own_orders.len() < limits::OWN_DROPS_IN_FLIGHT_MAX {
            let Some(((slot, reason), (file, chunks))) = self.drops.own.pop_first() else { break };
            self.send_own_drop(slot, file, chunks, reason);
        }
    }

    /// Up to [`limits::DROP_MAX`] chunks of one forgotten file that a volunteer has to drop.
    fn next_forgotten(&mut self, number: VolunteerNumber) -> Option<(FileId, Vec<ChunkIndex>)> {
        let waiting = self.drops.forgotten.get_mut(&number)?;
        let Some((file, mut chunks)) = waiting.files.pop_first() else {
            self.drops.forgotten.remove(&number);
            return None;
        };
        let rest = match chunks.iter().nth(limits::DROP_MAX).copied() {
            Some(first) => chunks.split_off(&first),
            None => BTreeSet::new(),
        };
        waiting.chunks = waiting.chunks.saturating_sub(chunks.len());
        if !rest.is_empty() {
            waiting.files.insert(file, rest);
        }
        Some((file, chunks.into_iter().collect()))
    }

    /// Orders to drop chunks from the tracker's chunk store, if that is still justified.
    fn send_own_drop(&mut self, slot: u32, file: FileId, chunks: BTreeSet<u32>, reason: DropReason) {
        let is_unconditional = reason != DropReason::Offloaded;
        let mut dropped = BTreeSet::new();
        for index in chunks {
            let key = ChunkKey { file: slot, index };
            let may_drop = match is_unconditional {
                // A right copy may have arrived meanwhile, or be on its way.
                true => {
                    self.files.chunk(key).is_some_and(|chunk| !chunk.is_in_store())
                        && !self.transfers.is_in_flight(key, Location::Tracker)
                }
                false => self.may_drop_from_store(key),
            };
            if may_drop && dropped.len() < limits::DROP_MAX {
                dropped.insert(index);
            } else if may_drop {
                self.drops.drop_own(file, key, reason);
            } else if !is_unconditional {
                self.keep_in_store(key);
            }
        }
        if dropped.is_empty() {
            return;
        }
        if !is_unconditional {
            for index in &dropped {
                self.set_in_store(ChunkKey { file: slot, index: *index }, StoreCopy::Dropping);
            }
        }
        let permit = self.new_permit();
        let chunks = dropped.iter().copied().map(ChunkIndex).collect();
        let order = OwnDrop { slot, file, chunks: dropped, is_unconditional, revoked: false };
        self.drops.own_orders.insert(permit, order);
        self.orders.push(Order::DropOwn { file, chunks, permit, reason });
    }

    /// Handles the outcome of the oldest drop order of a file to the tracker's own chunk store.
    pub(super) fn end_own_drop(&mut self, file: FileId, dropped: &[ChunkIndex]) {
        let oldest = self.drops.own_orders.iter().find(|(_, order)| order.file == file);
        let order =
            oldest.map(|(permit, _)| *permit).and_then(|permit| self.drops.own_orders.remove(&permit));
        let Some(order) = order.filter(|order| !order.is_unconditional) else { return };
        for index in order.chunks {
            let key = ChunkKey { file: order.slot, index };
            if self.files.chunk(key).is_some_and(|chunk| chunk.in_store == StoreCopy::Dropping) {
                let is_gone = dropped.contains(&ChunkIndex(index));
                self.set_in_store(key, if is_gone { StoreCopy::None } else { StoreCopy::Kept });
            }
        }
    }

    /// Revokes the drop of a chunk from the tracker's chunk store.
    pub(super) fn revoke_own_drop(&mut self, key: ChunkKey) {
        for (permit, order) in &mut self.drops.own_orders {
            let concerns = order.slot == key.file && order.chunks.contains(&key.index);
            if concerns && !order.revoked && !order.is_unconditional {
                order.revoked = true;
                self.orders.push(Order::Revoke(*permit));
            }
        }
    }

    /// Orders without an answer no longer count as in flight after [`limits::DROP_TIMEOUT`].
    fn expire_drop_orders(&mut self, now: Moment) {
        for in_flight in self.drops.in_flight.values_mut() {
            if in_flight.orders() < limits::DROPS_IN_FLIGHT_MAX {
                continue;
            }
            let end = in_flight.last + limits::DROP_TIMEOUT;
            if end <= now {
                in_flight.files.clear();
                in_flight.check_scheduled = false;
            } else if !in_flight.check_scheduled {
                in_flight.check_scheduled = true;
                self.schedule.add(end, Timer::Plan);
            }
        }
    }
}
