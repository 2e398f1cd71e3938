//! Budget of the bytes of responses that wait for their readers, shared fairly among source addresses.

use crate::swarm::shares::{Source, share_limit};
use crate::sync::lock;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// Bytes in memory that wait to be written to other hosts. Clones share one budget.
///
/// One source address gets at most half of what the others leave free, so that hosts that do not read cannot exclude all
/// others; a response to an address that has nothing in flight may take all of it. Invariant: the use is the sum over the
/// addresses.
#[derive(Clone, Debug)]
pub struct InFlightBudget {
    limit: u64,
    state: Arc<Mutex<State>>,
}

#[derive(Default, Debug)]
struct State {
    used: u64,
    by_source: HashMap<Source, u64>,
    /// Payloads that several responses share, by their address in memory: number of responses, source that is charged.
    shared: HashMap<usize, (usize, Source)>,
}

/// A part of the budget, returned when dropped.
#[derive(Debug)]
pub struct InFlight {
    budget: InFlightBudget,
    source: Source,
    bytes: u64,
    /// Keeps the payload alive, so that its address stays its own.
    payload: Option<Arc<[u8]>>,
}

impl InFlightBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, state: Arc::default() }
    }

    /// Reserves bytes for a response to a source address, and the bytes of a payload that other responses may share:
    /// those count once. `None` if they exceed the budget or the share of the address.
    pub fn reserve(&self, ip: IpAddr, bytes: u64, payload: Option<&Arc<[u8]>>) -> Option<InFlight> {
        let source = Source::of(ip);
        let mut state = lock(&self.state);
        let new = payload.filter(|payload| !state.shared.contains_key(&key_of(payload)));
        let charged = bytes + new.map_or(0, |payload| payload.len() as u64);
        let own = state.by_source.get(&source).copied().unwrap_or(0);
        let others = state.used - own;
        let share =
            if own == 0 { self.limit.saturating_sub(others) } else { share_limit(self.limit, others) };
        if own.checked_add(charged).is_none_or(|total| total > share) {
            return None;
        }
        state.add(source, charged);
        if let Some(payload) = payload {
            state.shared.entry(key_of(payload)).or_insert((0, source)).0 += 1;
        }
        Some(InFlight { budget: self.clone(), source, bytes, payload: payload.cloned() })
    }
}

/// The address of a payload in memory.
fn key_of(payload: &Arc<[u8]>) -> usize {
    Arc::as_ptr(payload).cast::<u8>() as usize
}

impl State {
    fn add(&mut self, source: Source, bytes: u64) {
        self.used += bytes;
        *self.by_source.entry(source).or_default() += bytes;
    }

    fn subtract(&mut self, source: Source, bytes: u64) {
        self.used -= bytes;
        if let Some(own) = self.by_source.get_mut(&source) {
            *own -= bytes;
            if *own == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = lock(&self.budget.state);
        state.subtract(self.source, self.bytes);
        let Some(payload) = &self.payload else { return };
        let Some((responses, charged)) = state.shared.get_mut(&key_of(payload)) else { return };
        *responses -= 1;
        let charged = *charged;
        if *responses == 0 {
            state.shared.remove(&key_of(payload));
            state.subtract(charged, payload.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 66));
    const HONEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn used(budget: &InFlightBudget) -> u64 {
        lock(&budget.state).used
    }

    #[test]
    fn one_address_leaves_space_for_the_others() {
        let budget = InFlightBudget::new(100);
        let held: Vec<InFlight> = std::iter::from_fn(|| budget.reserve(ATTACKER, 10, None)).collect();
        assert_eq!(held.len(), 5);
        let honest = budget.reserve(HONEST, 50, None).expect("nothing of this address is in flight");
        assert!(budget.reserve(HONEST, 1, None).is_none());
        drop((held, honest));
        assert_eq!((used(&budget), lock(&budget.state).by_source.len()), (0, 0));
    }

    #[test]
    fn a_shared_payload_counts_once_until_its_last_response_is_written() {
        let budget = InFlightBudget::new(100);
        let payload: Arc<[u8]> = vec![0; 60].into();
        let first = budget.reserve(ATTACKER, 1, Some(&payload)).unwrap();
        let second = budget.reserve(HONEST, 1, Some(&payload)).unwrap();
        assert_eq!(used(&budget), 62);
        let other: Arc<[u8]> = vec![0; 60].into();
        assert!(budget.reserve(HONEST, 1, Some(&other)).is_none());
        drop(first);
        assert_eq!(used(&budget), 61);
        drop(second);
        assert_eq!((used(&budget), lock(&budget.state).shared.len()), (0, 0));
        assert!(budget.reserve(HONEST, 1, Some(&other)).is_some());
        assert!(budget.reserve(HONEST, u64::MAX, None).is_none());
    }
}
