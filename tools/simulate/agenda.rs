//! A queue of future events in order of time.
//!
//! Most events occur within a second, and there are so very many of them that a single heap would not fit in the
//! processor's caches. So the events of the near future are stored unordered in slots by time, and only the slot
//! whose time has come is sorted.
//!
//! Invariant: events with the same time are taken in the order in which they were scheduled.

use shoal::swarm::Moment;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Binary logarithm of the length of a slot, nanoseconds.
const SLOT_BITS: u32 = 18;
/// Number of slots; later events wait in a heap.
const SLOTS: u64 = 4096;

/// A scheduled event; the number orders events with the same time.
struct Scheduled<E> {
    time: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Scheduled<E> {}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}

/// A queue of future events.
pub struct Agenda<E> {
    /// Events of the current slot and of all earlier ones.
    now: BinaryHeap<Reverse<Scheduled<E>>>,
    slots: Vec<Vec<Scheduled<E>>>,
    later: BinaryHeap<Reverse<Scheduled<E>>>,
    slot: u64,
    number: u64,
    /// Number of events in the slots.
    near: usize,
}

impl<E> Agenda<E> {
    /// An empty queue.
    pub fn new() -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { now: BinaryHeap::new(), slots, later: BinaryHeap::new(), slot: 0, number: 0, near: 0 }
    }

    /// Schedules an event.
    pub fn schedule(&mut self, time: Moment, event: E) {
        self.number += 1;
        let time = time.as_nanos() as u64;
        self.put(Scheduled { time, number: self.number, event });
    }

    fn put(&mut self, scheduled: Scheduled<E>) {
        let slot = scheduled.time >> SLOT_BITS;
        if slot <= self.slot {
            self.now.push(Reverse(scheduled));
        } else if slot < self.slot + SLOTS {
            self.near += 1;
            self.slots[(slot % SLOTS) as usize].push(scheduled);
        } else {
            self.later.push(Reverse(scheduled));
        }
    }

    /// Takes the next event, with its time.
    pub fn take_next(&mut self) -> Option<(Moment, E)> {
        while self.now.is_empty() {
            if self.near == 0 {
                self.slot = self.later.peek()?.0.time >> SLOT_BITS;
            } else {
                self.slot += 1;
                let mut slot = std::mem::take(&mut self.slots[(self.slot % SLOTS) as usize]);
                self.near -= slot.len();
                self.now.extend(slot.drain(..).map(Reverse));
                self.slots[(self.slot % SLOTS) as usize] = slot;
            }
            // Events that were too late for the slots may fit now.
            while self.later.peek().is_some_and(|first| first.0.time >> SLOT_BITS < self.slot + SLOTS) {
                let Some(Reverse(scheduled)) = self.later.pop() else { break };
                self.put(scheduled);
            }
        }
        let Reverse(Scheduled { time, event, .. }) = self.now.pop()?;
        Some((Moment::from_nanos(time), event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_in_order_of_time() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut agenda = Agenda::new();
        let (mut scheduled, mut happened, mut now) = (Vec::new(), Vec::new(), Moment::ZERO);
        for number in 0..20_000 {
            let most = 1 << random.u32(10..36);
            let time = now + Moment::from_nanos(random.u64(..most) >> 8 << 8);
            agenda.schedule(time, number);
            scheduled.push((time, number));
            if random.bool() {
                let next = agenda.take_next().unwrap();
                assert!(next.0 >= now);
                now = next.0;
                happened.push(next);
            }
        }
        happened.extend(std::iter::from_fn(|| agenda.take_next()));
        scheduled.sort_unstable();
        assert_eq!(happened, scheduled);
    }
}
