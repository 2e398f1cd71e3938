//! When to look at which peer again, for very many peers of which nearly all are alive when their time comes.
//!
//! A calendar of pages: each page lists the peers whose lease was to end within its span when they were last looked at.
//! A heartbeat does not touch it. Once a page's time has come, those of its peers that have been renewed go onto a later
//! page, and only those that may really end within the page's span are sorted. So each peer is looked at about once a
//! lease, in constant time, whatever the number of peers.
//!
//! Invariant: each peer that has been [noted](Leases::note) is on one page or among the soon, until it is
//! [due](Leases::due), no later than its lease ends.

use super::PeerId;
use crate::swarm::Moment;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

/// Pages within a lease: more are exacter, fewer are longer.
const PAGES: u32 = 32;

/// Peers, each with the time to look at it.
#[derive(Debug)]
pub(super) struct Leases {
    page: Duration,
    /// Pages that have not begun, by the number of page spans before each.
    later: BTreeMap<u64, Vec<PeerId>>,
    /// Peers of the pages that have begun.
    soon: BinaryHeap<Reverse<(Moment, PeerId)>>,
}

impl Leases {
    /// Nobody yet. Leases are about so long.
    pub(super) fn new(lease: Duration) -> Self {
        let page = (lease / PAGES).max(Duration::from_nanos(1));
        Self { page, later: BTreeMap::new(), soon: BinaryHeap::new() }
    }

    /// Looks at a peer when its lease ends.
    pub(super) fn note(&mut self, peer: PeerId, expires: Moment) {
        let page = self.page_of(expires);
        self.later.entry(page).or_default().push(peer);
    }

    /// The number of the page that a moment is on.
    fn page_of(&self, moment: Moment) -> u64 {
        (moment.as_nanos() / self.page.as_nanos()).try_into().unwrap_or(u64::MAX)
    }

    /// When a page begins.
    fn begin_of(&self, page: u64) -> Moment {
        let nanoseconds = u128::from(page) * self.page.as_nanos();
        Moment::from_nanos(nanoseconds.try_into().unwrap_or(u64::MAX))
    }

    /// A peer whose time has come, if there is one: its lease, of which `expires` tells, has ended. `None` from `expires`
    /// is a peer that nobody needs to look at any more.
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

    /// When [`due`](Self::due) has something to look at next.
    pub(super) fn next(&self) -> Option<Moment> {
        let page = self.later.keys().next().map(|page| self.begin_of(*page));
        let soon = self.soon.peek().map(|Reverse((due, _))| *due);
        page.into_iter().chain(soon).min()
    }
}
