//! State of one volunteer.

use super::chunk::{ChunkKey, Standing};
use super::queue::SourceQueue;
use super::replicas::CopyState;
use super::target_index::IndexEntry;
use super::traffic::{Traffic, Window};
use super::trust::Trust;
use crate::swarm::Moment;
use crate::swarm::keeping::{Approval, VolunteerRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// Liveness of a volunteer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Liveness {
    /// It is connected. `reported`: it has reported all its chunks.
    Alive { reported: bool },
    /// Its connection has closed, and it is expected back.
    Away {
        /// End of its lease, after which its copies are silent; they stay awaited if it has announced its absence.
        silent_at: Moment,
        /// Time at which it counts as lost.
        lost_at: Moment,
        /// It has announced this absence.
        announced: bool,
    },
    /// It is not expected back.
    Lost,
}

/// The copies that a volunteer has of one file.
#[derive(Default, Debug)]
pub(super) struct Holding {
    /// Chunks of which it has, or may have, a copy; without those in flight to it.
    pub chunks: BTreeSet<u32>,
    /// Number of these that it serves now.
    pub served: u32,
    /// Number of these whose proof is pending.
    pub unproven: u32,
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
    /// Source address of its connection.
    pub source: IpAddr,
    /// It has proven its registration at a loopback address.
    pub proven_on_loopback: bool,
    /// Absence that it has announced for each orderly disconnect.
    pub away: Option<Duration>,
    /// It is away within an announced absence, or has returned from it and not reported yet.
    pub announced: bool,
    /// Results of its proofs.
    pub trust: Trust,
    /// Time of its last message in this session.
    pub last_message: Option<Moment>,
    /// Time at which it connected last.
    pub connected_at: Option<Moment>,
    pub draining: bool,
    /// Time of the last progress report of its drain, and the number of chunks in it.
    pub last_drain_report: Option<(Moment, u64)>,
    /// After a disk error, no chunk is copied to it before this time.
    pub disk_retry_at: Moment,
    /// Free space in bytes, as it reported last.
    pub free: u64,
    /// Bytes of its copies.
    pub held_bytes: u64,
    /// Number of its copies.
    pub copies: u64,
    /// Number of its proven copies.
    pub proven_copies: u64,
    /// Number of its copies whose proof is pending.
    pub unproven: u64,
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
        let source = record.address.ip();
        Self {
            record,
            liveness,
            source,
            proven_on_loopback: false,
            away: None,
            announced: false,
            trust: Trust::default(),
            last_message: None,
            connected_at: None,
            draining: false,
            last_drain_report: None,
            disk_retry_at: Moment::ZERO,
            free: 0,
            held_bytes: 0,
            copies: 0,
            proven_copies: 0,
            unproven: 0,
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

    pub fn has_reported(&self) -> bool {
        self.liveness == Liveness::Alive { reported: true }
    }

    pub fn is_denied(&self) -> bool {
        self.record.history.approval == Approval::Denied
    }

    /// Whether it connects over loopback and is reached over loopback: it runs on the tracker's own host.
    pub fn is_on_loopback(&self) -> bool {
        let named = self.record.address.ip().to_canonical();
        self.source.to_canonical().is_loopback() && (named.is_loopback() || self.proven_on_loopback)
    }

    /// Whether its proven copies may justify deletions. `approve`: only those of approved volunteers do.
    pub fn is_approved(&self, approve: bool) -> bool {
        match self.record.history.approval {
            Approval::Denied => false,
            Approval::Approved => true,
            Approval::Pending => !approve || self.is_on_loopback(),
        }
    }

    /// How its copies count.
    pub fn standing(&self, approve: bool) -> Standing {
        Standing {
            draining: self.draining,
            approved: self.is_approved(true),
            denied: self.is_denied(),
            announced: self.announced,
            justifies: self.has_reported()
                && !self.draining
                && !self.trust.is_unreachable()
                && self.is_approved(approve),
        }
    }

    /// Whether it may take copies, apart from free space and window.
    pub fn may_take_copies(&self, now: Moment) -> bool {
        self.has_reported()
            && !self.draining
            && !self.is_denied()
            && self.disk_retry_at <= now
            && (self.trust.may_take_copies() || self.copies == 0)
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
        let held = |state: Option<CopyState>| state.is_some_and(CopyState::is_held);
        match (held(from), held(to)) {
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
        let one = |is: bool, was: bool, sum: &mut u64| {
            *sum = (*sum + u64::from(is)).saturating_sub(u64::from(was));
        };
        let proven = |state: Option<CopyState>| state == Some(CopyState::Proven);
        one(proven(to), proven(from), &mut self.proven_copies);
        let unproven = |state: Option<CopyState>| state.is_some_and(CopyState::needs_proof);
        one(unproven(to), unproven(from), &mut self.unproven);
    }

    /// All chunks of which it has, or may have, a copy; without those in flight to it.
    pub fn keys(&self) -> impl Iterator<Item = ChunkKey> + '_ {
        self.holdings.iter().flat_map(|(file, holding)| {
            holding.chunks.iter().map(|index| ChunkKey { file: *file, index: *index })
        })
    }

    /// The entry that the index of targets should have; `None` if it may not take copies.
    pub fn new_index_entry(&self, now: Moment, window: Window) -> Option<IndexEntry> {
        let open = window.is_open(self.incoming).then(|| (self.fill_level(), self.incoming.copies));
        let entry = IndexEntry { space: self.unreserved_space(), ip: self.record.address.ip(), open };
        self.may_take_copies(now).then_some(entry)
    }
}
