//! State of one file: its chunks and the tracker's own copy.

use super::chunk::{Chunk, CopyCounts, Deficits};
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
    /// The deletion is ordered under this permit.
    Ordered(u64),
    /// The permit was revoked before the deletion was reported.
    Revoked,
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
    /// The owner keeps the tracker's own copy.
    pub kept_here: bool,
    /// The owner has ordered the offload of this file.
    pub offload_wanted: bool,
    /// A newer file has its name: chunks of which no copy remains are not reported as lost.
    pub superseded: bool,
    /// A justifying copy was lost after the current record was assembled.
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
    /// Proven copies at connected volunteers.
    pub proven: u64,
    /// Other copies at connected volunteers.
    pub claimed: u64,
    /// Copies at connected volunteers that count.
    pub readable: u64,
    /// Copies at volunteers that are away and expected back.
    pub away: u64,
    /// Copies that justify the deletion of others.
    pub justifying: u64,
    /// Chunks with fewer proven copies than wanted.
    pub under_replicated: u64,
    /// Chunks with fewer copies that justify the deletion of others than wanted.
    pub unjustified: u64,
    /// Chunks that need a copy that is not in flight yet.
    pub waiting: u64,
    /// Chunks without any copy.
    pub without_copy: u64,
    /// Chunks of which no copy can be read now.
    pub unreadable: u64,
    /// Chunks of which no copy can be read now, whose holders are expected back.
    pub waits_for_holders: u64,
    /// Chunks that had all copies once, have fewer now and can be repaired.
    pub needs_repair: u64,
    /// Chunks reported as lost.
    pub lost: u64,
}

impl Counts {
    /// Updates the sums after a change of a chunk.
    pub fn change(&mut self, from: (Deficits, CopyCounts), to: (Deficits, CopyCounts)) {
        let ((from, few), (to, many)) = (from, to);
        let waits = |deficits: Deficits, counts: CopyCounts| deficits.unreadable && counts.away > 0;
        for (sum, from, to) in [
            (&mut self.justifying, few.justifying, many.justifying),
            (&mut self.under_replicated, from.under_replicated.into(), to.under_replicated.into()),
            (&mut self.unjustified, from.unjustified.into(), to.unjustified.into()),
            (&mut self.waiting, from.waiting.into(), to.waiting.into()),
            (&mut self.without_copy, from.without_copy.into(), to.without_copy.into()),
            (&mut self.unreadable, from.unreadable.into(), to.unreadable.into()),
            (&mut self.waits_for_holders, waits(from, few).into(), waits(to, many).into()),
            (&mut self.needs_repair, from.needs_repair.into(), to.needs_repair.into()),
        ] {
            *sum = sum.saturating_add(to.into()).saturating_sub(from.into());
        }
    }

    /// Updates the sums after a change of a copy.
    pub fn change_copy(&mut self, from: Option<CopyState>, to: Option<CopyState>) {
        let is = |state: Option<CopyState>, test: fn(CopyState) -> bool| u64::from(state.is_some_and(test));
        let unproven = |state: CopyState| state.is_present() && state != CopyState::Proven;
        for (sum, test) in [
            (&mut self.proven, (|state| state == CopyState::Proven) as fn(CopyState) -> bool),
            (&mut self.claimed, unproven),
            (&mut self.readable, CopyState::is_readable),
            (&mut self.away, CopyState::is_away),
        ] {
            *sum = (*sum + is(to, test)).saturating_sub(is(from, test));
        }
    }

    /// Subtracts the sums of a file.
    pub fn subtract(&mut self, other: &Counts) {
        for (sum, part) in [
            (&mut self.proven, other.proven),
            (&mut self.claimed, other.claimed),
            (&mut self.readable, other.readable),
            (&mut self.away, other.away),
            (&mut self.justifying, other.justifying),
            (&mut self.under_replicated, other.under_replicated),
            (&mut self.unjustified, other.unjustified),
            (&mut self.waiting, other.waiting),
            (&mut self.without_copy, other.without_copy),
            (&mut self.unreadable, other.unreadable),
            (&mut self.waits_for_holders, other.waits_for_holders),
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
            offload_wanted: false,
            superseded: false,
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
        self.layout.span(ChunkIndex(index)).map_or(0, |span| span.length)
    }

    /// Whether the tracker's copy may be offloaded once the copies at volunteers are in a durable record.
    pub fn is_ready_for_offload(&self) -> bool {
        self.complete && self.offload == Offload::No && self.counts.unjustified == 0 && !self.kept_here
    }

    /// Whether the tracker has the complete file and is not deleting it.
    pub fn keeps_complete(&self) -> bool {
        self.complete && !matches!(self.offload, Offload::Ordered(_) | Offload::Revoked)
    }

    /// Whether the tracker has a chunk, in the file or in its chunk store.
    pub fn tracker_has(&self, chunk: &Chunk) -> bool {
        chunk.is_in_store() || self.keeps_complete()
    }
}
