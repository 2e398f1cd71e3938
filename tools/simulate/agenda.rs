//! What will happen, in order of time.
//!
//! Most of it happens within a second, and there is very much of it: a heap of all would be too large for the
//! processor's caches. So what comes soon lies in slots by time, unordered, and only the slot whose time has come is put
//! in order.
//!
//! Invariant: what is of one moment happens in the order in which it was noted.

use shoal::swarm::Moment;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// A slot takes two to the power of this many nanoseconds.
const SLOT_BITS: u32 = 18;
/// How many slots there are; what is later waits in a heap.
const SLOTS: u64 = 4096;

/// Something that will happen; the number keeps those of one moment in order.
struct Noted<E> {
    time: u64,
    number: u64,
    event: E,
}

impl<E> PartialEq for Noted<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Noted<E> {}

impl<E> PartialOrd for Noted<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Noted<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.time, self.number).cmp(&(other.time, other.number))
    }
}

/// Events to come.
pub struct Agenda<E> {
    /// Those of the slot that is now, and of all before.
    now: BinaryHeap<Reverse<Noted<E>>>,
    slots: Vec<Vec<Noted<E>>>,
    later: BinaryHeap<Reverse<Noted<E>>>,
    slot: u64,
    number: u64,
    /// How many are in the slots.
    near: usize,
}

impl<E> Agenda<E> {
    /// Nothing will happen.
    pub fn new() -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { now: BinaryHeap::new(), slots, later: BinaryHeap::new(), slot: 0, number: 0, near: 0 }
    }

    /// Something will happen then.
    pub fn note(&mut self, time: Moment, event: E) {
        self.number += 1;
        let time = time.as_nanos() as u64;
        self.put(Noted { time, number: self.number, event });
    }

    fn put(&mut self, noted: Noted<E>) {
        let slot = noted.time >> SLOT_BITS;
        if slot <= self.slot {
            self.now.push(Reverse(noted));
        } else if slot < self.slot + SLOTS {
            self.near += 1;
            self.slots[(slot % SLOTS) as usize].push(noted);
        } else {
            self.later.push(Reverse(noted));
        }
    }

    /// What happens next, and when.
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
            // What was too late for the slots may not be any more.
            while self.later.peek().is_some_and(|first| first.0.time >> SLOT_BITS < self.slot + SLOTS) {
                let Some(Reverse(noted)) = self.later.pop() else { break };
                self.put(noted);
            }
        }
        let Reverse(Noted { time, event, .. }) = self.now.pop()?;
        Some((Moment::from_nanos(time), event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_happens_in_order_however_far_apart() {
        let mut random = fastrand::Rng::with_seed(2);
        let mut agenda = Agenda::new();
        let (mut noted, mut happened, mut now) = (Vec::new(), Vec::new(), Moment::ZERO);
        for number in 0..20_000 {
            let most = 1 << random.u32(10..36);
            let time = now + Moment::from_nanos(random.u64(..most) >> 8 << 8);
            agenda.note(time, number);
            noted.push((time, number));
            if random.bool() {
                let next = agenda.take_next().unwrap();
                assert!(next.0 >= now);
                now = next.0;
                happened.push(next);
            }
        }
        happened.extend(std::iter::from_fn(|| agenda.take_next()));
        noted.sort_unstable();
        assert_eq!(happened, noted);
    }
}
