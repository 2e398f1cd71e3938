//! State of one volunteer.

use super::queue::SourceQueue;
use super::replicas::CopyState;
use super::target_index::IndexEntry;
use super::traffic::{Traffic, Window};
use crate::swarm::Moment;
use crate::swarm::keeping::VolunteerRecord;
use std::collections::{BTreeMap, BTreeSet};

/// Liveness of a volunteer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Liveness {
    /// It is connected. `reported`: it has reported all its chunks.
    Alive { reported: bool },
    /// Its connection has closed, and it may return until this time.
    Away { until: Moment },
    /// It is not expected back.
    Dead,
}

/// The copies that a volunteer has of one file.
#[derive(Default, Debug)]
pub(super) struct Holding {
    /// Chunks of which it has, or may have, a copy; without those in flight to it.
    pub chunks: BTreeSet<u32>,
    /// Number of these that it serves now.
    pub served: u32,
    /// The catalogue entry is out of date.
    pub record_outdated: bool,
    /// The registry entry is out of date.
    pub registry_outdated: bool,
}

/// A volunteer, the copies that it has, and the copies in flight to and from it.
#[derive(Debug)]
pub(super) struct Volunteer {
    pub record: VolunteerRecord,
    pub liveness: Liveness,
    /// Time of its last message in this session.
    pub last_message: Option<Moment>,
    pub draining: bool,
    /// Time of the last progress report of its drain, and the number of chunks in it.
    pub last_drain_report: Option<(Moment, u64)>,
    /// After a disk error, no chunk is copied to it before this time.
    pub disk_retry_at: Moment,
    /// Free space in bytes, as it reported last.
    pub free: u64,
    /// Bytes of its copies that count.
    pub held_bytes: u64,
    /// Number of its copies that count.
    pub copies: u64,
    /// Number of its verified copies.
    pub verified_copies: u64,
    pub incoming: Traffic,
    pub outgoing: Traffic,
    /// Its copies by the slot of their file.
    pub holdings: BTreeMap<u32, Holding>,
    /// Waiting chunks that it can give.
    pub queue: SourceQueue,
    /// Its current entry in the index of targets.
    pub index_entry: Option<IndexEntry>,
}

impl Volunteer {
    pub fn new(record: VolunteerRecord, liveness: Liveness) -> Self {
        Self {
            record,
            liveness,
            last_message: None,
            draining: false,
            last_drain_report: None,
            disk_retry_at: Moment::ZERO,
            free: 0,
            held_bytes: 0,
            copies: 0,
            verified_copies: 0,
            incoming: Traffic::default(),
            outgoing: Traffic::default(),
            holdings: BTreeMap::new(),
            queue: SourceQueue::default(),
            index_entry: None,
        }
    }

    pub fn is_alive(&self) -> bool {
        matches!(self.liveness, Liveness::Alive { .. })
    }

    /// Whether it is not expected back.
    pub fn is_gone(&self) -> bool {
        self.liveness == Liveness::Dead
    }

    pub fn has_reported(&self) -> bool {
        self.liveness == Liveness::Alive { reported: true }
    }

    /// Whether it may take copies, apart from free space and window.
    pub fn may_take_copies(&self, now: Moment) -> bool {
        self.has_reported() && !self.draining && self.disk_retry_at <= now
    }

    /// Free space in bytes that no copy in flight will use.
    pub fn unreserved_space(&self) -> u64 {
        self.free.saturating_sub(self.incoming.bytes)
    }

    /// Fill level, including copies in flight, in units of 2^-32 of the offered storage.
    pub fn fill_level(&self) -> u64 {
        let bytes = u128::from(self.held_bytes) + u128::from(self.incoming.bytes);
        u64::try_from((bytes << 32) / u128::from(self.record.offered.max(1))).unwrap_or(u64::MAX)
    }

    /// Updates its counters after a change of a copy.
    pub fn count(&mut self, length: u64, from: Option<CopyState>, to: Option<CopyState>) {
        let counts = |state: Option<CopyState>| state.is_some_and(CopyState::counts);
        match (counts(from), counts(to)) {
            (false, true) => {
                self.held_bytes += length;
                self.copies += 1;
            }
            (true, false) => {
                self.held_bytes = self.held_bytes.saturating_sub(length);
                self.copies = self.copies.saturating_sub(1);
            }
            _ => {}
        }
        match (from == Some(CopyState::Verified), to == Some(CopyState::Verified)) {
            (false, true) => self.verified_copies += 1,
            (true, false) => self.verified_copies = self.verified_copies.saturating_sub(1),
            _ => {}
        }
    }

    /// The entry that the index of targets should have; `None` if it may not take copies.
    pub fn new_index_entry(&self, now: Moment, window: Window) -> Option<IndexEntry> {
        let open = window.is_open(self.incoming).then(|| (self.fill_level(), self.incoming.copies));
        let entry = IndexEntry { space: self.unreserved_space(), ip: self.record.address.ip(), open };
        self.may_take_copies(now).then_some(entry)
    }
}
