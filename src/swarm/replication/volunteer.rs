//! State of one volunteer, and the index from which targets of copies are chosen.
//!
//! Invariant: the [`Index`] contains exactly the volunteers that may take copies, in the state in which they
//! were last [put](Index::put) there.

use super::chunk::CopyState;
use super::queue::Queue;
use crate::swarm::Moment;
use crate::swarm::keeping::{VolunteerNumber, VolunteerRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Liveness of a volunteer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Liveness {
    /// It is connected. `reported`: it has reported all its chunks.
    Alive { reported: bool },
    /// Its connection has closed, and it may return until this time.
    Away { until: Moment },
    /// It is dead: not expected back.
    Dead,
}

/// Copies in flight into or out of a location.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Traffic {
    pub copies: u32,
    pub bytes: u64,
}

/// Limit of copies and bytes in flight in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window {
    pub copies: u32,
    pub bytes: u64,
}

impl Window {
    /// Whether one more copy may start. One copy is always permitted, however large.
    pub fn takes(self, traffic: Traffic, length: u64) -> bool {
        traffic.copies == 0 || (self.is_open(traffic) && traffic.bytes.saturating_add(length) <= self.bytes)
    }

    /// Whether a small copy may start.
    pub fn is_open(self, traffic: Traffic) -> bool {
        traffic.copies == 0 || (traffic.copies < self.copies && traffic.bytes < self.bytes)
    }
}

impl Traffic {
    pub fn add(&mut self, length: u64) {
        self.copies += 1;
        self.bytes += length;
    }

    pub fn subtract(&mut self, length: u64) {
        self.copies = self.copies.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(length);
    }
}

/// The copies that a volunteer has of one file.
#[derive(Default, Debug)]
pub(super) struct Holding {
    /// Chunks of which it has, or may have, a copy; without those in flight to it.
    pub chunks: BTreeSet<u32>,
    /// Number of these that it serves now.
    pub served: u32,
    /// The catalogue entry is out of date.
    pub dirty: bool,
    /// The registry entry is out of date.
    pub changed: bool,
}

#[derive(Debug)]
pub(super) struct Volunteer {
    pub record: VolunteerRecord,
    pub liveness: Liveness,
    /// Time of its last message in this session.
    pub heard: Option<Moment>,
    pub draining: bool,
    /// Time and value of the last progress report of its drain.
    pub told: Option<(Moment, u64)>,
    /// After a disk error, no chunk is copied to it before this time.
    pub rests_until: Moment,
    /// Free space in bytes, as it reported last.
    pub free: u64,
    /// Bytes of its copies that count.
    pub held: u64,
    /// Number of its copies that count, and of the verified ones among them.
    pub chunks: u64,
    pub verified: u64,
    pub incoming: Traffic,
    pub outgoing: Traffic,
    pub holdings: BTreeMap<u32, Holding>,
    pub queue: Queue,
    /// Its current entry in the [`Index`].
    pub indexed: Option<Indexed>,
}

impl Volunteer {
    pub fn new(record: VolunteerRecord, liveness: Liveness) -> Self {
        Self {
            record,
            liveness,
            heard: None,
            draining: false,
            told: None,
            rests_until: Moment::ZERO,
            free: 0,
            held: 0,
            chunks: 0,
            verified: 0,
            incoming: Traffic::default(),
            outgoing: Traffic::default(),
            holdings: BTreeMap::new(),
            queue: Queue::default(),
            indexed: None,
        }
    }

    pub fn is_here(&self) -> bool {
        matches!(self.liveness, Liveness::Alive { .. })
    }

    pub fn has_reported(&self) -> bool {
        self.liveness == Liveness::Alive { reported: true }
    }

    /// Whether it may take copies, apart from free space and window.
    pub fn is_able(&self, now: Moment) -> bool {
        self.has_reported() && !self.draining && self.rests_until <= now
    }

    /// Free space in bytes once all copies in flight have arrived.
    pub fn room(&self) -> u64 {
        self.free.saturating_sub(self.incoming.bytes)
    }

    /// Fill level, including copies in flight, in units of 2^-32 of the offered storage.
    pub fn fill(&self) -> u64 {
        let bytes = u128::from(self.held) + u128::from(self.incoming.bytes);
        u64::try_from((bytes << 32) / u128::from(self.record.offered.max(1))).unwrap_or(u64::MAX)
    }

    /// Updates its counters after a change of a copy.
    pub fn count(&mut self, length: u64, from: Option<CopyState>, to: Option<CopyState>) {
        let counts = |state: Option<CopyState>| state.is_some_and(CopyState::counts);
        match (counts(from), counts(to)) {
            (false, true) => {
                self.held += length;
                self.chunks += 1;
            }
            (true, false) => {
                self.held = self.held.saturating_sub(length);
                self.chunks = self.chunks.saturating_sub(1);
            }
            _ => {}
        }
        match (from == Some(CopyState::Verified), to == Some(CopyState::Verified)) {
            (false, true) => self.verified += 1,
            (true, false) => self.verified = self.verified.saturating_sub(1),
            _ => {}
        }
    }

    /// The entry that the index should have.
    pub fn to_index(&self, now: Moment, window: Window) -> Option<Indexed> {
        let open = window.is_open(self.incoming).then(|| (self.fill(), self.incoming.copies));
        self.is_able(now).then(|| Indexed { room: self.room(), ip: self.record.address.ip(), open })
    }
}

/// Sort keys of a volunteer that may take copies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Indexed {
    room: u64,
    ip: IpAddr,
    /// Fill level and copies in flight, if its window is open.
    open: Option<(u64, u32)>,
}

/// The volunteers that may take copies.
#[derive(Default, Debug)]
pub(super) struct Index {
    /// Volunteers with an open window: the emptiest first, then the one with the fewest copies in flight.
    open: BTreeSet<(u64, u32, VolunteerNumber)>,
    by_room: BTreeSet<(u64, VolunteerNumber)>,
    by_ip: BTreeMap<IpAddr, BTreeSet<(u64, VolunteerNumber)>>,
}

impl Index {
    /// Replaces the entry `from` of a volunteer by `to`.
    pub fn put(&mut self, number: VolunteerNumber, from: Option<Indexed>, to: Option<Indexed>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.by_room.remove(&(from.room, number));
            if let Some(there) = self.by_ip.get_mut(&from.ip) {
                there.remove(&(from.room, number));
                if there.is_empty() {
                    self.by_ip.remove(&from.ip);
                }
            }
            if let Some((fill, copies)) = from.open {
                self.open.remove(&(fill, copies, number));
            }
        }
        if let Some(to) = to {
            self.by_room.insert((to.room, number));
            self.by_ip.entry(to.ip).or_default().insert((to.room, number));
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
        self.by_room.is_empty()
    }

    /// Whether any volunteer that `eligible` accepts has enough free space, with its window open or closed.
    pub fn has_room(&self, length: u64, eligible: impl Fn(VolunteerNumber) -> bool) -> bool {
        any_with_room(&self.by_room, length, eligible)
    }

    /// Like [`has_room`](Self::has_room), only at IP addresses that are not `near`.
    pub fn has_room_elsewhere(
        &self,
        length: u64,
        near: impl Fn(IpAddr) -> bool,
        eligible: impl Fn(VolunteerNumber) -> bool,
    ) -> bool {
        self.by_ip.iter().any(|(ip, there)| !near(*ip) && any_with_room(there, length, &eligible))
    }
}

fn any_with_room(
    volunteers: &BTreeSet<(u64, VolunteerNumber)>,
    length: u64,
    eligible: impl Fn(VolunteerNumber) -> bool,
) -> bool {
    let with_room = volunteers.iter().rev().take_while(|(room, _)| *room >= length);
    with_room.map(|(_, number)| *number).any(eligible)
}
