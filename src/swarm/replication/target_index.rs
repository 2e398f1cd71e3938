//! Index of the volunteers that may take copies, from which the targets of copies are chosen.

use crate::swarm::keeping::VolunteerNumber;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Sort keys of a volunteer that may take copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct IndexEntry {
    /// Free space in bytes that no copy in flight will use.
    pub space: u64,
    pub ip: IpAddr,
    /// Fill level and number of copies in flight to it, if its window is open.
    pub open: Option<(u64, u32)>,
}

/// The volunteers that may take copies, sorted for the choice of targets.
#[derive(Default, Debug)]
pub(super) struct TargetIndex {
    /// Volunteers with an open window: the emptiest first, then the one with the fewest copies in flight.
    open: BTreeSet<(u64, u32, VolunteerNumber)>,
    /// All volunteers by free space.
    by_space: BTreeSet<(u64, VolunteerNumber)>,
    /// The same by IP address.
    by_ip: BTreeMap<IpAddr, BTreeSet<(u64, VolunteerNumber)>>,
}

impl TargetIndex {
    /// Replaces the entry `from` of a volunteer by `to`.
    pub fn put(&mut self, number: VolunteerNumber, from: Option<IndexEntry>, to: Option<IndexEntry>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.by_space.remove(&(from.space, number));
            if let Some(volunteers) = self.by_ip.get_mut(&from.ip) {
                volunteers.remove(&(from.space, number));
                if volunteers.is_empty() {
                    self.by_ip.remove(&from.ip);
                }
            }
            if let Some((fill, copies)) = from.open {
                self.open.remove(&(fill, copies, number));
            }
        }
        if let Some(to) = to {
            self.by_space.insert((to.space, number));
            self.by_ip.entry(to.ip).or_default().insert((to.space, number));
            if let Some((fill, copies)) = to.open {
                self.open.insert((fill, copies, number));
            }
        }
    }

    /// Volunteers with an open window, the emptiest first.
    pub fn open(&self) -> impl Iterator<Item = VolunteerNumber> + '_ {
        self.open.iter().map(|(_, _, number)| *number)
    }

    /// Whether any window is open.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether no volunteer may take copies.
    pub fn is_empty(&self) -> bool {
        self.by_space.is_empty()
    }

    /// Whether any volunteer that `eligible` accepts has enough free space, with its window open or closed.
    pub fn has_space(&self, length: u64, eligible: impl Fn(VolunteerNumber) -> bool) -> bool {
        any_with_space(&self.by_space, length, eligible)
    }

    /// Like [`has_space`](Self::has_space), but only at IP addresses that are not `used`.
    pub fn has_space_elsewhere(
        &self,
        length: u64,
        used: impl Fn(IpAddr) -> bool,
        eligible: impl Fn(VolunteerNumber) -> bool,
    ) -> bool {
        self.by_ip.iter().any(|(ip, volunteers)| !used(*ip) && any_with_space(volunteers, length, &eligible))
    }
}

fn any_with_space(
    volunteers: &BTreeSet<(u64, VolunteerNumber)>,
    length: u64,
    eligible: impl Fn(VolunteerNumber) -> bool,
) -> bool {
    let with_space = volunteers.iter().rev().take_while(|(space, _)| *space >= length);
    with_space.map(|(_, number)| *number).any(eligible)
}
