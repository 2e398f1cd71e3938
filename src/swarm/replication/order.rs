//! Orders of the replication planner to the tracker.

use crate::content::{ChunkIndex, FileId};
use crate::protocol::volunteer::ChallengedRange;
use crate::swarm::keeping::{Location, VolunteerNumber};

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
    /// Drop chunks. At the tracker: only chunks of its chunk store, never a complete file.
    Drop {
        /// The location of the copies.
        at: Location,
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Challenge the holders of a chunk.
    Challenge {
        /// The challenge's number.
        number: u64,
        /// The range of the chunk and the nonce to hash.
        range: ChallengedRange,
        /// All alive holders, and the tracker if it has the chunk.
        to: Vec<Location>,
    },
    /// Download and verify a volunteer's copy.
    Audit {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// The volunteer.
        at: VolunteerNumber,
    },
    /// Delete the tracker's own copy of a complete file.
    Offload {
        /// The file.
        file: FileId,
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
}
