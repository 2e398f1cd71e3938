//! Data types of a tracker that keeps files: locations of copies, tasks for its executor, and their outcomes.
//!
//! The decisions are in [`replication`](super::replication), the exchange with volunteers in
//! [`tracker`](super::tracker). Everything that needs a disk or a socket leaves the state machine as an
//! [`ExecutorTask`] and returns as [`TaskOutcome`]. Invariant: tasks of one file are executed in order, and
//! each task gets exactly one outcome unless its description says otherwise.

use super::command::Command;
use crate::content::{Bitfield, ChunkIndex, DurableStamp, FileId, FileName, Layout, PeerName};
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::{CopyFailure, KeptFile};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

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
    /// Approval and times.
    pub history: VolunteerHistory,
}

/// Part of a volunteer's catalogue entry that outlives its sessions. Times are Unix times in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct VolunteerHistory {
    /// The owner's decision about its key.
    pub approval: Approval,
    /// Whether it has ever passed a proof.
    pub proven: bool,
    /// First registration; 0 if unknown.
    pub first_seen_s: u64,
    /// Last message; 0 if unknown.
    pub last_seen_s: u64,
    /// End of its announced absence; `None` if it has announced none or is connected.
    pub away_until_s: Option<u64>,
}

/// The owner's decision about the key of a volunteer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// None yet: its copies justify no deletion, unless it connects over loopback.
    #[default]
    Pending,
    /// Its proven copies justify deletions.
    Approved,
    /// Its copies do not count.
    Denied,
}

/// A holder that has to prove its copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The volunteer.
    pub volunteer: VolunteerNumber,
    /// Its key.
    pub key: VolunteerKey,
    /// The address to dial.
    pub address: SocketAddr,
}

/// The tracker's own copy of a chunk, compared with the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnCopy {
    /// The bytes have the right digest.
    Right,
    /// The bytes are corrupt.
    Corrupt,
    /// The tracker has no copy, or cannot read it.
    Absent,
}

/// Result of the deletion of the tracker's own copy of a complete file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffloadResult {
    /// The copy is deleted.
    Deleted,
    /// The permit was revoked before the deletion.
    Revoked,
    /// The file has changed, or cannot be deleted.
    Failed,
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
    /// The owner keeps the tracker's own copy: it is never offloaded.
    pub kept_here: bool,
    /// The owner has ordered its offload, which has not been carried out yet.
    pub offload_wanted: bool,
    /// Number of its last publication: of two files with one name, the one with the higher number is the newer version.
    pub version: u64,
}

/// A file of the tracker's folder whose bytes differ from its id, although its metadata is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CorruptFile {
    /// The id of its right content.
    pub id: FileId,
    /// Its stamp. A file with another stamp has been edited or replaced.
    #[serde(flatten)]
    pub stamp: DurableStamp,
}

/// A change to store in the catalogue.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new volunteer, or a changed entry.
    Volunteer(VolunteerRecord),
    /// The entry of a volunteer is removed: it expired, or the owner has forgotten the volunteer.
    VolunteerForgotten(VolunteerNumber),
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
    /// Whether the owner keeps the tracker's own copy.
    Kept(FileId, bool),
    /// Whether the owner has ordered the offload of the tracker's own copy.
    OffloadWanted(FileId, bool),
    /// The file of this name in the folder is corrupt; `None`: it is not, or not any more.
    Corrupt(FileName, Option<CorruptFile>),
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
    /// Drop chunks from the tracker's chunk store, unless the permit is [revoked](Self::Revoke):
    /// [`TaskOutcome::Dropped`] with the chunks that were dropped.
    Drop {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
        /// Number of the permit.
        permit: u64,
    },
    /// Delete the tracker's own copy of a complete file, unless it has changed or the permit is
    /// [revoked](Self::Revoke): [`TaskOutcome::Offloaded`].
    Offload {
        /// The file.
        kept: KeptFile,
        /// Number of the permit.
        permit: u64,
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
    /// Let holders prove their copies of a chunk: [`TaskOutcome::Proved`].
    ///
    /// The proofs are compared with bytes that are verified against the manifest: the tracker's own copy, or else a
    /// download from one of the holders.
    ProveCopies {
        /// Number of the task, repeated in the outcome.
        number: u64,
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// The holders.
        holders: Vec<Holder>,
    },
    /// Stop serving the tracker's complete copy of a file, which is corrupt: [`TaskOutcome::Withdrawn`].
    Withdraw(FileId),
    /// The deletion with this permit is no longer justified: do not carry it out. Has no outcome; takes effect at once,
    /// before the tasks that are queued.
    Revoke(u64),
    /// Bring a file back into the folder of offered files, from the chunk store and these volunteers:
    /// [`TaskOutcome::Recalled`].
    Recall {
        /// The file.
        kept: KeptFile,
        /// Addresses of volunteers that hold chunks of it.
        from: Vec<SocketAddr>,
    },
}

/// Result of an audit or a proof of one copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The chunk has the right digest.
    Right,
    /// The holder, identified by its key, has corrupt bytes or no copy.
    Wrong,
    /// The holder could not be reached or asked, or no verified bytes were available for the comparison.
    CannotTell,
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
    /// The folder has a published file under a further name; or (`false`) under this name no longer, but under another one.
    Named(FileId, FileName, bool),
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
    /// The deletion of the tracker's own copy of a complete file has ended.
    Offloaded(FileId, OffloadResult),
    /// A file that volunteers hold was added to the catalogue; or (`None`) its manifest could not be
    /// downloaded.
    Adopted(FileId, Option<(KeptFile, Layout)>),
    /// The holders of a chunk were asked to prove their copies.
    Proved {
        /// Number of the task.
        number: u64,
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// The tracker's own copy.
        own: OwnCopy,
        /// The result for each holder.
        verdicts: Vec<(VolunteerNumber, Verdict)>,
    },
    /// A file was brought back into the folder of offered files and published; or the reason of the failure.
    Recalled(FileId, Result<(), String>),
    /// A command of the owner. The number is returned with the answer.
    Command(u64, Command),
}
