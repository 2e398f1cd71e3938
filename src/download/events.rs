//! Events of a download's sources, their errors, and the job that all sources of a download share.

use crate::content::{ChunkIndex, Digest, FileId, HaveMap, Manifest};
use crate::net::{LinkError, Timeouts};
use crate::protocol::peer::Upstream;
use crate::storage::{ChunkSink, StoreError};
use crate::swarm::picker::SourceId;
use crate::upload::relay::Relay;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a chunk must be.
pub trait Expected: Send + Sync {
    /// The SHA-256 and the length, bytes; `None` while nobody knows.
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u32)>;
}

impl Expected for Manifest {
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u32)> {
        Some((self.digest(index)?, self.layout().span(index)?.length))
    }
}

/// What is to be fetched.
pub struct Job {
    /// Tells several downloads of one daemon apart.
    pub download: u32,
    /// What sources are asked for.
    pub file: FileId,
    /// How many chunks it has.
    pub count: u32,
    /// The longest chunk, bytes, as far as it is known: bounds how many sources are used at once.
    pub longest: u32,
    /// What each chunk must be.
    pub expected: Arc<dyn Expected>,
    /// Where verified chunks go.
    pub sink: Arc<dyn ChunkSink>,
    /// Passes chunks on as they come, if this peer serves.
    pub relay: Option<Relay>,
    /// Where this peer serves, so that sources can fetch from it in turn.
    pub port: Option<u16>,
    /// Whether sources say themselves what they have. Otherwise [`Fetch::source_has`](super::scheduler::Fetch::source_has)
    /// does, and nothing else counts.
    pub subscribe: bool,
    /// How long sources are waited for.
    pub timeouts: Timeouts,
}

/// A chunk that is verified and stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The chunk.
    pub index: ChunkIndex,
    /// Its bytes.
    pub bytes: u32,
}

/// Something has happened to a source.
#[derive(Debug)]
pub struct SourceEvent {
    /// The download that the source belongs to.
    pub download: u32,
    pub(super) source: SourceId,
    pub(super) update: SourceUpdate,
}

#[derive(Debug)]
pub(super) enum SourceUpdate {
    Connected { have: Option<HaveMap>, upstreams: Vec<Upstream>, round_trip: Duration },
    Has(Vec<ChunkIndex>),
    Hints(Vec<ChunkIndex>),
    Upstream(Upstream),
    Peers(Vec<SocketAddr>),
    Stored(Arrival),
    Refused(ChunkIndex),
    Lost(SourceError),
}

/// Why a source is no good.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection has ended, or was never made.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It says what does not fit the conversation.
    #[error("it {0}")]
    Protocol(String),
    /// It says that it cannot or will not.
    #[error("it refuses: {0}")]
    Refused(String),
    /// A chunk does not have its digest.
    #[error("chunk {index} does not have the SHA-256 that it must have ({bytes} bad bytes)")]
    BadChunk {
        /// The chunk.
        index: ChunkIndex,
        /// How many bytes came for nothing.
        bytes: u32,
    },
    /// It cannot be stored here; the source is not to blame.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The download is not interested any more.
    #[error("stopped")]
    Stopped,
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        SourceError::Link(error.into())
    }
}
