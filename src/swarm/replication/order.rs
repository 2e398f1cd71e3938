//! Orders of the replication planner to the tracker.

use crate::content::{ChunkIndex, FileId};
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::fmt;

/// An action for the tracker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Copy a chunk. Copies to the tracker go to its chunk store.
    Copy {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// The source.
        from: Location,
        /// The target.
        to: Location,
    },
    /// Drop chunks at a volunteer.
    Drop {
        /// The volunteer.
        at: VolunteerNumber,
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
        /// Why they are dropped.
        reason: DropReason,
    },
    /// Drop chunks of the tracker's chunk store, unless the permit is revoked.
    DropOwn {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
        /// Number of the permit.
        permit: u64,
        /// Why they are dropped.
        reason: DropReason,
    },
    /// Let holders prove their copies of a chunk.
    Prove {
        /// Number of the task, repeated in the outcome.
        number: u64,
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// The holders.
        holders: Vec<VolunteerNumber>,
    },
    /// Tell a volunteer to hash chunks again and to report each of them.
    Check {
        /// The volunteer.
        volunteer: VolunteerNumber,
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Delete the tracker's own copy of a complete file, unless the permit is revoked.
    Offload {
        /// The file.
        file: FileId,
        /// Number of the permit.
        permit: u64,
    },
    /// The deletion with this permit is no longer justified.
    Revoke(u64),
    /// Stop serving the tracker's own copy of a complete file, which is corrupt.
    Withdraw {
        /// The file.
        file: FileId,
        /// A corrupt chunk.
        index: ChunkIndex,
    },
    /// Report that the proofs of all copies of a file that were requested with `verify` have ended.
    Verified {
        /// The file.
        file: FileId,
        /// Results.
        summary: VerifySummary,
    },
    /// Report the progress of a drain to the volunteer.
    Drained {
        /// The volunteer.
        volunteer: VolunteerNumber,
        /// Chunks that still depend on it.
        left: u64,
    },
    /// Report lost chunks, once for each chunk.
    Lost {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
        /// The volunteers that had them last.
        last: Vec<VolunteerNumber>,
    },
    /// A log line, and the file that it concerns.
    Note(Option<FileId>, String),
    /// A log line at warning level.
    Warn(String),
}

/// Why copies are dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DropReason {
    /// The chunk has more copies than are kept in reserve.
    Surplus,
    /// Other chunks need the space.
    Space,
    /// The file was forgotten.
    Forgotten,
    /// Volunteers have all copies of the chunk.
    Offloaded,
    /// The tracker's own copy is corrupt.
    Corrupt,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DropReason::Surplus => "more copies than --replicas-max",
            DropReason::Space => "surplus copies, other chunks need the space",
            DropReason::Forgotten => "the file was forgotten",
            DropReason::Offloaded => "volunteers have proven all copies",
            DropReason::Corrupt => "the copy is corrupt",
        })
    }
}

/// Result of the proofs of all copies of a file.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VerifySummary {
    /// Chunks of the file.
    pub chunks: u64,
    /// Copies that were proven.
    pub proven: u64,
    /// Copies with wrong bytes, or missing.
    pub wrong: u64,
    /// Copies whose holder could not be asked.
    pub cannot_tell: u64,
    /// Corrupt copies at the tracker.
    pub own_corrupt: u64,
    /// Chunks with fewer proven copies than wanted.
    pub under_replicated: u64,
}
