//! Expiry queue for the leases of very many peers, nearly all of which renew their lease before it expires.
//!
//! A calendar queue: each page holds the peers whose lease was to expire in its time span when they were last
//! checked. A heartbeat does not touch the queue. When a page begins, renewed peers move to a later page and
//! only the others are sorted. So each peer is checked about once per lease, in constant time for any number
//! of peers.
//!
//! Invariant: each peer that has been [noted](Leases::note) is on one page or in `soon` until
//! [`due`](Leases::due) returns it, when its lease has expired.

use super::PeerId;
use crate::swarm::Moment;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// Pages per lease. More pages are more exact; fewer pages are longer.
const PAGES: u32 = 32;

/// Peers, each with its next check time.
#[derive(Debug)]
pub(super) struct Leases {
    page: Duration,
    /// Pages that have not begun, by the number of page spans before each.
    later: BTreeMap<u64, Vec<PeerId>>,
    /// Peers of the pages that have begun.
    soon: BinaryHeap<Reverse<(Moment, PeerId)>>,
}

impl Leases {
    /// An empty queue for leases of about this duration.
    pub(super) fn new(lease: Duration) -> Self {
        let page = (lease / PAGES).max(Duration::from_nanos(1));
        Self { page, later: BTreeMap::new(), soon: BinaryHeap::new() }
    }

    /// Schedules a check of a peer for the time when its lease expires.
    pub(super) fn note(&mut self, peer: PeerId, expires: Moment) {
        let page = self.page_of(expires);
        self.later.entry(page).or_default().push(peer);
    }

    /// The number of the page that contains a moment.
    fn page_of(&self, moment: Moment) -> u64 {
        (moment.as_nanos() / self.page.as_nanos()).try_into().unwrap_or(u64::MAX)
    }

    /// The time at which a page begins.
    fn begin_of(&self, page: u64) -> Moment {
        let nanoseconds = u128::from(page) * self.page.as_nanos();
        Moment::from_nanos(nanoseconds.try_into().unwrap_or(u64::MAX))
    }

    /// The next peer whose lease has expired, if any. `expires` returns the current end of a lease, or `None`
    /// for a peer that has been removed.
    pub(super) fn due(&mut self, now: Moment, expires: impl Fn(PeerId) -> Option<Moment>) -> Option<PeerId> {
        while let Some((&page, _)) = self.later.first_key_value()
            && self.begin_of(page) <= now
        {
            for peer in self.later.remove(&page).unwrap_or_default() {
                match expires(peer) {
                    Some(expires) if self.page_of(expires) > page => self.note(peer, expires),
                    Some(expires) => self.soon.push(Reverse((expires, peer))),
                    None => {}
                }
            }
        }
        while let Some(&Reverse((due, peer))) = self.soon.peek()
            && due <= now
        {
            self.soon.pop();
            match expires(peer) {
                Some(expires) if expires > now => self.note(peer, expires),
                Some(_) => return Some(peer),
                None => {}
            }
        }
        None
    }

    /// Time at which [`due`](Self::due) has peers to check next.
    pub(super) fn next(&self) -> Option<Moment> {
        let page = self.later.keys().next().map(|page| self.begin_of(*page));
        let soon = self.soon.peek().map(|Reverse((due, _))| *due);
        page.into_iter().chain(soon).min()
    }
}
