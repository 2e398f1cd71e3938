//! Events of a download's sources, their errors, and the job that all sources of a download share.

use crate::content::{Bitfield, ChunkIndex, Digest, FileId, Manifest, PeerName};
use crate::net::{RateLimit, StreamError, Timeouts};
use crate::report::LimitedLines;
use crate::storage::{ChunkSink, StoreError};
use crate::swarm::picker::SourceId;
use crate::upload::relay::Relay;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Source of the expected digest and length of each chunk.
pub trait Expected: Send + Sync {
    /// SHA-256 and length in bytes; `None` while they are not known.
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u64)>;
}

impl Expected for Manifest {
    fn expected(&self, index: ChunkIndex) -> Option<(Digest, u64)> {
        Some((self.digest(index)?, self.layout().span(index)?.length))
    }
}

/// Parameters of a download.
pub struct Job {
    /// Number of the download within its program.
    pub download: u32,
    /// Id under which sources are asked for chunks.
    pub file: FileId,
    /// Name of the file or chunk set, for log lines.
    pub name: String,
    /// Number of chunks of the file.
    pub count: u32,
    /// Length of the longest chunk known so far, bytes; limits the number of connected sources.
    pub longest: u64,
    /// Bytes received so far of chunks above [`CHUNK_SIZE_MAX`](crate::content::limits::CHUNK_SIZE_MAX) that are still
    /// arriving.
    pub large_chunk_bytes: AtomicU64,
    /// Expected digest and length of each chunk.
    pub expected: Arc<dyn Expected>,
    /// Destination of verified chunks.
    pub sink: Arc<dyn ChunkSink>,
    /// Cut-through relay of chunks that are still being received; `None` if this peer does not serve.
    pub relay: Option<Relay>,
    /// Port on which this peer serves; sources learn it from the hello and can download from this peer.
    pub port: Option<u16>,
    /// Name of the site of this peer, if its user has given it.
    pub site: Option<PeerName>,
    /// Whether sources report their own chunks with a bitfield. If not, only
    /// [`DownloadScheduler::source_has`](super::scheduler::DownloadScheduler::source_has) does.
    pub subscribe: bool,
    /// Download limit of all sources together, if any.
    pub limit: Option<RateLimit>,
    /// Timeouts of the connections to sources.
    pub timeouts: Timeouts,
    /// Log lines that sources cause.
    pub lines: LimitedLines,
}

/// A verified and stored chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// Index of the chunk.
    pub index: ChunkIndex,
    /// Length in bytes.
    pub bytes: u64,
}

/// An event of one source, sent to the owner of its scheduler.
#[derive(Debug)]
pub struct SourceEvent {
    /// Number of the download that the source belongs to.
    pub download: u32,
    pub(super) source: SourceId,
    pub(super) update: SourceUpdate,
}

/// What a source offers besides its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceRole {
    /// It keeps rings.
    Root {
        /// Number of their members.
        members: u32,
    },
    /// It has the whole file, and chunks from other peers would save no link.
    Direct,
    /// Nothing.
    Ordinary,
}

#[derive(Debug)]
pub(super) enum SourceUpdate {
    Connected {
        have: Option<Bitfield>,
        role: SourceRole,
        /// Whether the source is in the site of this peer.
        is_near: bool,
        rtt: Duration,
    },
    Has(Vec<ChunkIndex>),
    /// The source begins to receive the chunk.
    Receives(ChunkIndex),
    /// The source sends a chunk of its choice.
    Gives(ChunkIndex),
    /// The predecessor in a ring of the source.
    Place {
        ring: usize,
        peer: SocketAddr,
    },
    /// The source has sent each chunk.
    Spent,
    Peers(Vec<SocketAddr>),
    /// Chunks that were verified together.
    Stored(Vec<Arrival>),
    /// The source does not have the chunk.
    Refused(ChunkIndex),
    /// The source cannot send the chunk now.
    Unable {
        index: ChunkIndex,
        cause: String,
    },
    Lost(SourceError),
}

/// Cause of the loss of a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection could not be made or was lost.
    #[error(transparent)]
    Connection(#[from] StreamError),
    /// The source violated the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The source answered with an error.
    #[error("request refused: {0}")]
    Refused(String),
    /// The source offers another file under this name; its text.
    #[error("request refused: {0}")]
    Replaced(String),
    /// A received chunk has a wrong digest or length.
    #[error("chunk {index} has a wrong SHA-256 ({bytes} bad bytes)")]
    BadChunk {
        /// Index of the chunk.
        index: ChunkIndex,
        /// Number of useless bytes.
        bytes: u64,
    },
    /// The chunk could not be stored locally; the source is not at fault.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The download was stopped.
    #[error("stopped")]
    Stopped,
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        SourceError::Connection(error.into())
    }
}
