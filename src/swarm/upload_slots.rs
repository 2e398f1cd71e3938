//! Distribution of upload slots among the connections of a peer with an upload limit.
//!
//! Invariants: at most as many transfers count as there are slots; a transfer whose receiver takes nothing for
//! [`SLOT_STALL_TIMEOUT`] does not count until the receiver takes bytes again, so that receivers that do not read hold no
//! slots; of the source addresses that wait, the one with the fewest slots gets the next one; of the requests of one address,
//! those of connections whose transfers have not stalled come first.

use super::Moment;
use super::shares::Source;
use crate::content::limits::SLOT_STALL_TIMEOUT;
use std::collections::{BTreeMap, HashMap};

/// Id of a request for a slot; later requests have larger ids.
pub type SlotId = u64;

/// State of a request for a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SlotState {
    /// It waits for a slot.
    Waits,
    /// It has a slot and waits for the upload limit.
    Holds,
    /// It has a slot; its receiver may take bytes since this time.
    Sends(Moment),
}

impl SlotState {
    fn counts(self, now: Moment) -> bool {
        match self {
            SlotState::Waits => false,
            SlotState::Holds => true,
            SlotState::Sends(since) => now < since + SLOT_STALL_TIMEOUT,
        }
    }
}

/// A request for a slot.
#[derive(Debug)]
struct Request {
    source: Source,
    state: SlotState,
    /// Whether the receiver took nothing for [`SLOT_STALL_TIMEOUT`] in this transfer.
    has_stalled: bool,
    /// Whether other requests of the address come first, because the last transfer of the connection has stalled.
    comes_last: bool,
}

/// All requests for slots.
#[derive(Debug)]
pub struct UploadSlots {
    slots: usize,
    next: SlotId,
    requests: BTreeMap<SlotId, Request>,
}

impl UploadSlots {
    /// A number of slots, at least 1.
    pub fn new(slots: usize) -> Self {
        Self { slots: slots.max(1), next: 0, requests: BTreeMap::new() }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Adds a request, which waits for a slot. If `comes_last`, as after a transfer that has
    /// stalled, other requests of the address come first.
    pub fn request(&mut self, source: Source, comes_last: bool) -> SlotId {
        let id = self.next;
        self.next += 1;
        self.requests.insert(id, Request { source, state: SlotState::Waits, has_stalled: false, comes_last });
        id
    }

    /// Whether the transfer of a request has stalled.
    pub fn has_stalled(&self, now: Moment, id: SlotId) -> bool {
        self.requests.get(&id).is_some_and(|request| {
            let stalls = matches!(request.state, SlotState::Sends(_)) && !request.state.counts(now);
            request.has_stalled || stalls
        })
    }

    /// Removes a request, and frees its slot.
    pub fn remove(&mut self, id: SlotId) {
        self.requests.remove(&id);
    }

    /// Gives a waiting request a slot if one is free and no other request comes first. Returns whether the request has one.
    pub fn take(&mut self, now: Moment, id: SlotId) -> bool {
        let Some(request) = self.requests.get(&id) else { return false };
        if request.state != SlotState::Waits {
            return true;
        }
        if self.first_waiting(now) != Some(id) {
            return false;
        }
        self.set(id, SlotState::Holds);
        true
    }

    /// The request that gets the next slot; `None` while none is free.
    fn first_waiting(&self, now: Moment) -> Option<SlotId> {
        let mut held: HashMap<Source, usize> = HashMap::new();
        for request in self.requests.values() {
            *held.entry(request.source).or_default() += usize::from(request.state.counts(now));
        }
        if held.values().sum::<usize>() >= self.slots {
            return None;
        }
        let waiting = self.requests.iter().filter(|(_, request)| request.state == SlotState::Waits);
        let rank = |request: &Request| {
            let held = held.get(&request.source).copied().unwrap_or(0);
            (held, request.has_stalled || request.comes_last)
        };
        waiting.min_by_key(|(id, request)| (rank(request), **id)).map(|(id, _)| *id)
    }

    /// Notes that the receiver may take bytes from now on.
    pub fn sends(&mut self, now: Moment, id: SlotId) {
        self.set(id, SlotState::Sends(now));
    }

    /// Notes that a transfer has bytes to send again. If its slot was given away because its receiver took nothing, it waits
    /// for another one.
    pub fn continues(&mut self, now: Moment, id: SlotId) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        match request.state {
            SlotState::Waits => {}
            state if state.counts(now) => request.state = SlotState::Holds,
            _ => (request.state, request.has_stalled) = (SlotState::Waits, true),
        }
    }

    fn set(&mut self, id: SlotId, state: SlotState) {
        if let Some(request) = self.requests.get_mut(&id) {
            request.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn source(number: u8) -> Source {
        Source::of([10, 0, 0, number].into())
    }

    fn at(milliseconds: u64) -> Moment {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_receiver_that_takes_nothing_loses_its_slot_until_it_continues() {
        let mut slots = UploadSlots::new(1);
        let (slow, honest) = (slots.request(source(1), false), slots.request(source(1), false));
        assert!(slots.take(at(0), slow) && !slots.take(at(0), honest));
        slots.sends(at(0), slow);
        let end = SLOT_STALL_TIMEOUT.as_millis() as u64;
        assert!(!slots.take(at(end - 1), honest));
        assert!(slots.take(at(end), honest));
        slots.continues(at(end + 5), slow);
        assert!(!slots.take(at(end + 5), slow), "it waits until the other transfer ends");
        slots.remove(honest);
        assert!(slots.take(at(end + 5), slow));
    }

    #[test]
    fn of_one_address_receivers_that_have_stalled_come_last() {
        let mut slots = UploadSlots::new(1);
        let end = SLOT_STALL_TIMEOUT.as_millis() as u64;
        let slow = slots.request(source(1), false);
        assert!(slots.take(at(0), slow));
        slots.sends(at(0), slow);
        assert!(!slots.has_stalled(at(end - 1), slow) && slots.has_stalled(at(end), slow));
        slots.continues(at(end), slow);
        assert!(slots.has_stalled(at(end), slow));
        let (again, honest) = (slots.request(source(1), true), slots.request(source(1), false));
        assert!(!slots.take(at(end), slow) && !slots.take(at(end), again));
        assert!(slots.take(at(end), honest));
        slots.remove(honest);
        let other = slots.request(source(2), true);
        assert!(slots.take(at(end), slow), "the earliest of those that have stalled");
        slots.remove(slow);
        assert!(slots.take(at(end), again));
        slots.sends(at(end), again);
        assert!(!slots.has_stalled(at(end), again), "it takes bytes again");
        slots.remove(again);
        assert!(slots.take(at(end), other));
    }

    #[test]
    fn the_source_address_with_the_fewest_slots_comes_first() {
        let mut slots = UploadSlots::new(3);
        let attacker: Vec<SlotId> = (0..5).map(|_| slots.request(source(1), false)).collect();
        assert!(attacker[..3].iter().all(|id| slots.take(at(0), *id)));
        let honest = slots.request(source(2), false);
        slots.remove(attacker[0]);
        assert!(!slots.take(at(0), attacker[3]));
        assert!(slots.take(at(0), honest));
        slots.remove(attacker[1]);
        let second = slots.request(source(2), false);
        assert!(slots.take(at(0), attacker[3]), "both have one slot: the earlier request");
        assert!(!slots.take(at(0), second));
    }

    proptest! {
        #[test]
        fn no_more_transfers_count_than_there_are_slots(
            steps in prop::collection::vec((0..5_u8, 0..8_u64, 0..3_u8), 0..200),
        ) {
            let mut slots = UploadSlots::new(3);
            for (now, (step, id, from)) in (0..).step_by(300).zip(steps) {
                match step {
                    0 => _ = slots.request(source(from), id % 2 == 0),
                    1 => _ = slots.take(at(now), id),
                    2 => slots.sends(at(now), id),
                    3 => slots.continues(at(now), id),
                    _ => slots.remove(id),
                }
                // A transfer sends only with a slot: give it back if the step invented one.
                let counting = slots.requests.values().filter(|request| request.state.counts(at(now))).count();
                if step != 2 && step != 3 {
                    let free = slots.slots.saturating_sub(counting);
                    let waiting = slots.requests.values().any(|request| request.state == SlotState::Waits);
                    prop_assert_eq!(slots.first_waiting(at(now)).is_some(), free > 0 && waiting);
                }
            }
        }
    }
}
