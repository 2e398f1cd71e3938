//! What is known of one volunteer, and the order in which volunteers are chosen from.
//!
//! Invariant: the [`Index`] names exactly the volunteers that may take copies, as they were when they were last
//! [put](Index::put) there.

use super::chunk::CopyState;
use super::queue::Queue;
use crate::swarm::Moment;
use crate::swarm::keeping::{VolunteerNumber, VolunteerRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Whether a volunteer is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Its connection is there. `reported`: it has told of all that it holds.
    Here { reported: bool },
    /// Its connection has ended, and it has until then to come back.
    Away { until: Moment },
    /// It is not expected back.
    Gone,
}

/// Copies under way into or out of a place.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Traffic {
    pub copies: u32,
    pub bytes: u64,
}

/// How much may be under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window {
    pub copies: u32,
    pub bytes: u64,
}

impl Window {
    /// Whether one more copy may begin. One always may, however large.
    pub fn takes(self, traffic: Traffic, length: u64) -> bool {
        traffic.copies == 0 || (self.is_open(traffic) && traffic.bytes.saturating_add(length) <= self.bytes)
    }

    /// Whether some copy may begin, if it is small.
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

/// What a volunteer has of one file.
#[derive(Default, Debug)]
pub(super) struct Holding {
    /// The chunks of which it has, or may have, a copy; not those on their way.
    pub chunks: BTreeSet<u32>,
    /// How many of them can be had from it now.
    pub served: u32,
    /// The catalogue is to be told.
    pub dirty: bool,
    /// The registry is to be told.
    pub changed: bool,
}

/// A volunteer.
#[derive(Debug)]
pub(super) struct Volunteer {
    pub record: VolunteerRecord,
    pub standing: Standing,
    /// Its last sign of life in this session.
    pub heard: Option<Moment>,
    pub draining: bool,
    /// Since when the drain's progress is told, and what was told last.
    pub told: Option<(Moment, u64)>,
    /// It could not store a chunk: nothing is copied to it before this.
    pub rests_until: Moment,
    /// Bytes that it can still take, as it said last.
    pub free: u64,
    /// Bytes of its copies that count.
    pub held: u64,
    /// Copies that count, and those of them that have been checked.
    pub chunks: u64,
    pub verified: u64,
    pub incoming: Traffic,
    pub outgoing: Traffic,
    pub holdings: BTreeMap<u32, Holding>,
    pub queue: Queue,
    /// As what the [`Index`] has it.
    pub indexed: Option<Indexed>,
}

impl Volunteer {
    pub fn new(record: VolunteerRecord, standing: Standing) -> Self {
        Self {
            record,
            standing,
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
        matches!(self.standing, Standing::Here { .. })
    }

    pub fn has_reported(&self) -> bool {
        self.standing == Standing::Here { reported: true }
    }

    /// Whether copies may go to it, room and windows aside.
    pub fn is_able(&self, now: Moment) -> bool {
        self.has_reported() && !self.draining && self.rests_until <= now
    }

    /// Bytes for which there is room, when all that is on its way has arrived.
    pub fn room(&self) -> u64 {
        self.free.saturating_sub(self.incoming.bytes)
    }

    /// How full it is, with what is on its way: parts of 2^32.
    pub fn fill(&self) -> u64 {
        let bytes = u128::from(self.held) + u128::from(self.incoming.bytes);
        u64::try_from((bytes << 32) / u128::from(self.record.offered.max(1))).unwrap_or(u64::MAX)
    }

    /// Counts a copy that has changed.
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

    /// As what the index is to have it.
    pub fn to_index(&self, now: Moment, window: Window) -> Option<Indexed> {
        let open = window.is_open(self.incoming).then(|| (self.fill(), self.incoming.copies));
        self.is_able(now).then(|| Indexed { room: self.room(), ip: self.record.address.ip(), open })
    }
}

/// What a volunteer that may take copies is chosen by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Indexed {
    room: u64,
    ip: IpAddr,
    /// Its window is open; how full it is, and how much is under way to it.
    open: Option<(u64, u32)>,
}

/// The volunteers that may take copies.
#[derive(Default, Debug)]
pub(super) struct Index {
    /// Those whose window is open, the emptiest first, then the one with the least on its way.
    open: BTreeSet<(u64, u32, VolunteerNumber)>,
    by_room: BTreeSet<(u64, VolunteerNumber)>,
    by_ip: BTreeMap<IpAddr, BTreeSet<(u64, VolunteerNumber)>>,
}

impl Index {
    /// Has a volunteer in it as `to` says instead of as `from` says.
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

    /// Those whose window is open, the emptiest first.
    pub fn open(&self) -> impl Iterator<Item = VolunteerNumber> + '_ {
        self.open.iter().map(|(_, _, number)| *number)
    }

    /// Whether some window is open.
    pub fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether there is anybody at all.
    pub fn is_empty(&self) -> bool {
        self.by_room.is_empty()
    }

    /// Whether any of those who are meant has room, whether its window is open or not.
    pub fn has_room(&self, length: u64, meant: impl Fn(VolunteerNumber) -> bool) -> bool {
        any_with_room(&self.by_room, length, meant)
    }

    /// The same, of those at other addresses than those that are near.
    pub fn has_room_elsewhere(
        &self,
        length: u64,
        near: impl Fn(IpAddr) -> bool,
        meant: impl Fn(VolunteerNumber) -> bool,
    ) -> bool {
        self.by_ip.iter().any(|(ip, there)| !near(*ip) && any_with_room(there, length, &meant))
    }
}

fn any_with_room(
    those: &BTreeSet<(u64, VolunteerNumber)>,
    length: u64,
    meant: impl Fn(VolunteerNumber) -> bool,
) -> bool {
    let with_room = those.iter().rev().take_while(|(room, _)| *room >= length);
    with_room.map(|(_, number)| *number).any(meant)
}
