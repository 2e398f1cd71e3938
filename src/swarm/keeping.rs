//! Data types of a tracker that keeps files: locations of copies, tasks for its executor, and their outcomes.
//!
//! The decisions are in [`replication`](super::replication), the exchange with volunteers in
//! [`tracker`](super::tracker). Everything that needs a disk or a socket leaves the state machine as an
//! [`ExecutorTask`] and returns as [`TaskOutcome`]. Invariant: tasks of one file are executed in order, and
//! each task gets exactly one outcome unless its description says otherwise.

use crate::content::{Bitfield, ChunkIndex, Digest, FileId, FileName, Layout, PeerName};
use crate::protocol::status::Status;
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::{ChallengedRange, CopyFailure, KeptFile};
use std::net::SocketAddr;
use std::sync::Arc;

/// A volunteer's number in the catalogue: counted from 0, never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VolunteerNumber(pub u32);

/// Location of a copy of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Location {
    /// The tracker: the file itself, or a single chunk in the tracker's chunk store.
    Tracker,
    /// A volunteer.
    Volunteer(VolunteerNumber),
}

/// Catalogue entry of a volunteer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolunteerRecord {
    /// Its number.
    pub number: VolunteerNumber,
    /// The key by which a returning volunteer is recognised.
    pub key: VolunteerKey,
    /// The name that it registered with.
    pub name: PeerName,
    /// Its last address.
    pub address: SocketAddr,
    /// Bytes of storage that it offers.
    pub offered: u64,
}

/// Catalogue entry of a file, without its manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRecord {
    /// Id, name, size and MD5.
    pub kept: KeptFile,
    /// Sizes and offsets of its chunks.
    pub layout: Layout,
    /// The tracker has deleted its own copy, or is about to.
    pub offloaded: bool,
}

/// A change to store in the catalogue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new volunteer, or a changed entry.
    Volunteer(VolunteerRecord),
    /// The chunks of a file of which a volunteer has a durable copy. Empty: it holds none any more.
    Held {
        /// The file.
        file: FileId,
        /// The volunteer.
        volunteer: VolunteerNumber,
        /// The chunks.
        chunks: Bitfield,
    },
    /// Whether the tracker's own copy is offloaded.
    Offloaded(FileId, bool),
    /// The file is not kept any more. Its id stays, so that a volunteer that returns later is told to drop
    /// it.
    Forgotten(FileId),
}

/// A task for the tracker's executor (threads with access to disk and network).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExecutorTask {
    /// Write to the catalogue, atomically: [`TaskOutcome::Recorded`] once it is durable.
    Record {
        /// Increases by one with each record.
        number: u64,
        /// The changes in order.
        changes: Vec<Change>,
    },
    /// Download a chunk from a volunteer into the tracker's chunk store: [`TaskOutcome::Stored`] or
    /// [`TaskOutcome::NotStored`].
    Download {
        /// The file.
        kept: KeptFile,
        /// The chunk.
        index: ChunkIndex,
        /// Address of the holder.
        from: SocketAddr,
    },
    /// Drop chunks from the tracker's chunk store: [`TaskOutcome::Dropped`].
    Drop {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Delete the tracker's own copy of a complete file, unless it has changed: [`TaskOutcome::Offloaded`].
    Offload(KeptFile),
    /// Download a chunk from a volunteer and verify it: [`TaskOutcome::Audited`].
    Audit {
        /// The volunteer.
        volunteer: VolunteerNumber,
        /// Its address.
        from: SocketAddr,
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
    },
    /// Compute the proof for a challenge from the tracker's own copy: [`TaskOutcome::Proof`].
    Prove {
        /// The challenge's number.
        challenge: u64,
        /// The range of the chunk and the nonce to hash.
        range: ChallengedRange,
    },
    /// Add a file to the catalogue whose manifest comes from a volunteer that holds chunks of it:
    /// [`TaskOutcome::Adopted`].
    Adopt {
        /// The file as described by the volunteer.
        kept: KeptFile,
        /// Address of the volunteer.
        from: SocketAddr,
    },
    /// Stop serving a file and drop its chunks from the tracker's chunk store. Has no outcome.
    Forget(FileId),
}

/// Result of an audit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The chunk has the right digest.
    Right,
    /// The chunk is corrupt or missing.
    Wrong,
    /// The holder could not be reached.
    Unknown,
}

/// A command of the operator at the tracker's prompt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Show the status.
    Status,
    /// Drain a volunteer, or (`false`) cancel the drain.
    Drain(PeerName, bool),
    /// Pause new copies, or (`false`) resume them.
    Pause(bool),
    /// Stop keeping a file, given by name or id.
    Forget(Wanted),
}

/// A file as named by the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// By name.
    Name(FileName),
    /// By id.
    Id(FileId),
}

/// Answer to a command at the tracker's prompt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The status.
    Status(Arc<Status>),
    /// The command was carried out; text for the operator.
    Done(String),
    /// The command was refused; the reason.
    Refused(String),
}

/// Outcome of a task, or another event from the executor or the prompt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskOutcome {
    /// This record, and all before it, is durable.
    Recorded(u64),
    /// The tracker has this complete file, and its manifest is in the catalogue.
    Published {
        /// The file.
        kept: KeptFile,
        /// Sizes and offsets of its chunks.
        layout: Layout,
    },
    /// The tracker no longer has this complete file: it was removed or changed on disk.
    Withdrawn(FileId),
    /// The scan at start is complete: all files that are there have been published.
    ScanComplete,
    /// A chunk is durable in the tracker's chunk store.
    Stored(FileId, ChunkIndex),
    /// A chunk could not be stored in the tracker's chunk store.
    NotStored(FileId, ChunkIndex, CopyFailure),
    /// Chunks have been dropped from the tracker's chunk store.
    Dropped(FileId, Vec<ChunkIndex>),
    /// Chunks in the tracker's chunk store were found corrupt and have been removed.
    Spoiled(FileId, Vec<ChunkIndex>),
    /// The tracker's own copy of a complete file was deleted; or (`false`) it has changed or cannot be
    /// deleted.
    Offloaded(FileId, bool),
    /// A volunteer's copy was audited.
    Audited(VolunteerNumber, FileId, ChunkIndex, Verdict),
    /// The tracker's own proof for a challenge; `None` if it has no copy (any more).
    Proof(u64, Option<Digest>),
    /// A file that volunteers hold was added to the catalogue; or (`None`) its manifest could not be
    /// downloaded.
    Adopted(FileId, Option<(KeptFile, Layout)>),
    /// A command from the prompt. The number is returned with the answer.
    Command(u64, Command),
}
