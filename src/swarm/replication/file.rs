//! What is known of one file: its chunks, and what the tracker itself has of it.

use super::chunk::{Aspects, Chunk, CopyState};
use crate::content::{ChunkIndex, FileId, Layout};
use crate::swarm::Moment;

/// How far the tracker is with giving up its own copy of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Offload {
    /// It keeps it.
    No,
    /// It will, once this record is durable and all copies in it are still there.
    Recording(u64),
    /// It has been ordered to.
    Ordered,
    /// It has none.
    Done,
}

/// A file.
#[derive(Debug)]
pub(super) struct File {
    pub id: FileId,
    pub layout: Layout,
    pub chunks: Vec<Chunk>,
    /// The tracker has the whole file.
    pub whole: bool,
    pub offload: Offload,
    /// It could not be given up, and is not tried again before it has been gone.
    pub kept_for_good: bool,
    /// A verified copy has been lost since what is being recorded was put together.
    pub disturbed: bool,
    /// It has been told that all copies are there.
    pub announced: bool,
    /// Since when it is known.
    pub since: Moment,
    /// Everybody has had the time to tell what there is of it: what has no copy now is lost.
    pub examined: bool,
    /// Chunks in the tracker's own store.
    pub own: u32,
    pub counts: Counts,
}

/// Sums over chunks, of one file or of all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Counts {
    /// Copies at volunteers who are here that have been checked.
    pub verified: u64,
    /// And that have not.
    pub claimed: u64,
    /// Chunks with fewer verified copies than are wanted.
    pub short: u64,
    /// Chunks of which a copy is to be made.
    pub waiting: u64,
    /// Chunks without any copy.
    pub bare: u64,
    /// Chunks that had all copies once, have fewer now and can be repaired.
    pub impaired: u64,
    /// Chunks that have been called lost.
    pub lost: u64,
}

impl Counts {
    /// A chunk has changed.
    pub fn change(&mut self, from: Aspects, to: Aspects) {
        for (sum, from, to) in [
            (&mut self.short, from.short, to.short),
            (&mut self.waiting, from.waiting, to.waiting),
            (&mut self.bare, from.bare, to.bare),
            (&mut self.impaired, from.impaired, to.impaired),
        ] {
            *sum = sum.saturating_add(to.into()).saturating_sub(from.into());
        }
    }

    /// A copy has changed.
    pub fn change_copy(&mut self, from: Option<CopyState>, to: Option<CopyState>) {
        let verified = |state: Option<CopyState>| u64::from(state == Some(CopyState::Verified));
        let here = |state: Option<CopyState>| u64::from(state.is_some_and(CopyState::is_here));
        let claimed = |state: Option<CopyState>| here(state) - verified(state);
        self.verified = (self.verified + verified(to)).saturating_sub(verified(from));
        self.claimed = (self.claimed + claimed(to)).saturating_sub(claimed(from));
    }

    /// All of another are taken out.
    pub fn subtract(&mut self, other: &Counts) {
        for (sum, part) in [
            (&mut self.verified, other.verified),
            (&mut self.claimed, other.claimed),
            (&mut self.short, other.short),
            (&mut self.waiting, other.waiting),
            (&mut self.bare, other.bare),
            (&mut self.impaired, other.impaired),
            (&mut self.lost, other.lost),
        ] {
            *sum = sum.saturating_sub(part);
        }
    }
}

impl File {
    pub fn new(id: FileId, layout: Layout, since: Moment) -> Self {
        let chunks = vec![Chunk::default(); layout.count() as usize];
        Self {
            id,
            layout,
            chunks,
            whole: false,
            offload: Offload::No,
            kept_for_good: false,
            disturbed: false,
            announced: false,
            since,
            examined: false,
            own: 0,
            counts: Counts::default(),
        }
    }

    /// Bytes of a chunk.
    pub fn length(&self, index: u32) -> u64 {
        self.layout.span(ChunkIndex(index)).map_or(0, |span| span.length.into())
    }

    /// Whether the tracker has the whole file, and will go on having it.
    pub fn keeps_whole(&self) -> bool {
        self.whole && self.offload != Offload::Ordered
    }

    /// Whether the tracker has a chunk.
    pub fn has(&self, chunk: &Chunk) -> bool {
        chunk.own || self.keeps_whole()
    }
}
