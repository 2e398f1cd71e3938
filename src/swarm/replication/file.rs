//! State of one file: its chunks and the tracker's own copy.

use super::chunk::{Chunk, Deficits};
use super::replicas::CopyState;
use crate::content::{ChunkIndex, FileId, Layout};
use crate::swarm::Moment;

/// Progress of offloading the tracker's own copy of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offload {
    /// The tracker keeps its copy.
    No,
    /// The copy is deleted once this record is durable, if all copies in the record remain.
    Recording(u64),
    /// The deletion is ordered.
    Ordered,
    /// The tracker has no copy.
    Done,
}

/// A file and its chunks.
#[derive(Debug)]
pub(super) struct File {
    pub id: FileId,
    pub layout: Layout,
    pub chunks: Vec<Chunk>,
    /// The tracker has the complete file.
    pub complete: bool,
    pub offload: Offload,
    /// Offloading failed, and is not retried until the file is withdrawn and published again.
    pub offload_failed: bool,
    /// The owner keeps the tracker's own copy: it is never offloaded.
    pub kept_here: bool,
    /// The owner has ordered to offload the tracker's own copy, also without `--offload`.
    pub offload_requested: bool,
    /// A verified copy was lost after the current record was assembled.
    pub copy_lost_since_record: bool,
    /// A log line has reported that all copies exist.
    pub replication_noted: bool,
    /// Time at which the file became known.
    pub known_since: Moment,
    /// The grace period is over: all volunteers have had time to report, so a chunk without a copy is lost.
    pub grace_over: bool,
    /// Number of chunks in the tracker's chunk store.
    pub stored_chunks: u32,
    pub counts: Counts,
}

/// Sums over the chunks of one file, or of all files.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Counts {
    /// Verified copies at alive volunteers.
    pub verified: u64,
    /// Other copies at alive volunteers.
    pub claimed: u64,
    /// Chunks with fewer verified copies than wanted.
    pub under_replicated: u64,
    /// Chunks that need a copy that is not in flight yet.
    pub waiting: u64,
    /// Chunks without any copy.
    pub without_copy: u64,
    /// Chunks that had all copies once, have fewer now and can be repaired.
    pub needs_repair: u64,
    /// Chunks reported as lost.
    pub lost: u64,
}

impl Counts {
    /// Updates the sums after a change of a chunk.
    pub fn change(&mut self, from: Deficits, to: Deficits) {
        for (sum, from, to) in [
            (&mut self.under_replicated, from.under_replicated, to.under_replicated),
            (&mut self.waiting, from.waiting, to.waiting),
            (&mut self.without_copy, from.without_copy, to.without_copy),
            (&mut self.needs_repair, from.needs_repair, to.needs_repair),
        ] {
            *sum = sum.saturating_add(to.into()).saturating_sub(from.into());
        }
    }

    /// Updates the sums after a change of a copy.
    pub fn change_copy(&mut self, from: Option<CopyState>, to: Option<CopyState>) {
        let verified = |state: Option<CopyState>| u64::from(state == Some(CopyState::Verified));
        let available = |state: Option<CopyState>| u64::from(state.is_some_and(CopyState::is_available));
        let claimed = |state: Option<CopyState>| available(state) - verified(state);
        self.verified = (self.verified + verified(to)).saturating_sub(verified(from));
        self.claimed = (self.claimed + claimed(to)).saturating_sub(claimed(from));
    }

    /// Subtracts the sums of a file.
    pub fn subtract(&mut self, other: &Counts) {
        for (sum, part) in [
            (&mut self.verified, other.verified),
            (&mut self.claimed, other.claimed),
            (&mut self.under_replicated, other.under_replicated),
            (&mut self.waiting, other.waiting),
            (&mut self.without_copy, other.without_copy),
            (&mut self.needs_repair, other.needs_repair),
            (&mut self.lost, other.lost),
        ] {
            *sum = sum.saturating_sub(part);
        }
    }
}

impl File {
    pub fn new(id: FileId, layout: Layout, known_since: Moment) -> Self {
        let chunks = vec![Chunk::default(); layout.count() as usize];
        Self {
            id,
            layout,
            chunks,
            complete: false,
            offload: Offload::No,
            offload_failed: false,
            kept_here: false,
            offload_requested: false,
            copy_lost_since_record: false,
            replication_noted: false,
            known_since,
            grace_over: false,
            stored_chunks: 0,
            counts: Counts::default(),
        }
    }

    /// Length of a chunk in bytes.
    pub fn length(&self, index: u32) -> u64 {
        self.layout.span(ChunkIndex(index)).map_or(0, |span| span.length.into())
    }

    /// Whether the tracker's copy may be offloaded once the copies at volunteers are in a durable record.
    pub fn is_ready_for_offload(&self) -> bool {
        self.complete && !self.kept_here && self.offload == Offload::No && self.counts.under_replicated == 0
    }

    /// Whether the tracker has the complete file and is not deleting it.
    pub fn keeps_complete(&self) -> bool {
        self.complete && self.offload != Offload::Ordered
    }

    /// Whether the tracker has a chunk, in the file or in its chunk store.
    pub fn tracker_has(&self, chunk: &Chunk) -> bool {
        chunk.in_store || self.keeps_complete()
    }
}
