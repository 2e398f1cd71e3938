//! What keeping files consists of, as plain data: who and where, what the tracker's own hands are to do, and what they
//! report.
//!
//! The decisions are in [`placement`](super::placement), the conversation with volunteers in
//! [`tracker`](super::tracker). Whatever needs a disk or a socket leaves the state machine as a [`Task`] and comes back
//! as [`News`]. Invariant: a task is carried out in the order in which it was given among those of its file, and is
//! always answered.

use crate::content::{Bitfield, ChunkIndex, Digest, FileId, FileName, Layout, PeerName};
use crate::protocol::status::Status;
use crate::protocol::tokens::VolunteerKey;
use crate::protocol::volunteer::{ChallengedRange, CopyFailure, KeptFile};
use std::net::SocketAddr;
use std::sync::Arc;

/// A volunteer, as the catalogue numbers it: from 0, never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VolunteerNumber(pub u32);

/// Where a copy of a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Place {
    /// Here: the file itself, or a chunk that came back.
    Tracker,
    /// At a volunteer.
    Volunteer(VolunteerNumber),
}

/// What the catalogue knows of a volunteer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolunteerRecord {
    /// Its number.
    pub number: VolunteerNumber,
    /// What it proves by that it is the one.
    pub key: VolunteerKey,
    /// What people call it.
    pub name: PeerName,
    /// Where it served last.
    pub address: SocketAddr,
    /// Bytes that it lends.
    pub offered: u64,
}

/// What the catalogue knows of a file, beside its manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRecord {
    /// What it is.
    pub kept: KeptFile,
    /// How it is cut.
    pub layout: Layout,
    /// The tracker has given up its own copy, or is about to.
    pub offloaded: bool,
}

/// A change that the catalogue is to remember.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A volunteer is new, or something about it is.
    Volunteer(VolunteerRecord),
    /// What a volunteer has of a file by now: durable copies. None of it: it holds nothing of the file any more.
    Held {
        /// The file.
        file: FileId,
        /// The volunteer.
        volunteer: VolunteerNumber,
        /// The chunks.
        chunks: Bitfield,
    },
    /// Whether the tracker does without a copy of its own.
    Offloaded(FileId, bool),
    /// The file is not kept any more. Its id is remembered, so that a volunteer that comes back later can be told.
    Forgotten(FileId),
}

/// What the tracker's own hands are to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// Write to the catalogue, all or nothing: [`News::Recorded`] once it is durable.
    Record {
        /// Rises by one each time.
        ticket: u64,
        /// In order.
        changes: Vec<Change>,
    },
    /// Copy a chunk from a volunteer into the tracker's own store: [`News::Stored`] or [`News::NotStored`].
    Fetch {
        /// The file.
        kept: KeptFile,
        /// The chunk.
        index: ChunkIndex,
        /// Who has it.
        from: SocketAddr,
    },
    /// Drop chunks from the tracker's own store: [`News::Dropped`].
    Drop {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Delete the tracker's own copy of a whole file, if it still is that file: [`News::Offloaded`].
    Offload(KeptFile),
    /// Fetch a chunk from a volunteer and see whether it is right: [`News::Audited`].
    Audit {
        /// The volunteer.
        volunteer: VolunteerNumber,
        /// Where it serves.
        from: SocketAddr,
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
    },
    /// Answer a challenge from the tracker's own copy: [`News::Proof`].
    Prove {
        /// The challenge's number.
        challenge: u64,
        /// What of it.
        range: ChallengedRange,
    },
    /// Get the manifest of a file that is not in the catalogue from a volunteer that holds chunks of it, and take it
    /// into the catalogue: [`News::Adopted`].
    Adopt {
        /// The file, as the volunteer knows it.
        kept: KeptFile,
        /// Where the volunteer serves.
        from: SocketAddr,
    },
    /// Serve nothing of a file any more, and drop what the tracker's own store has of it. Not answered.
    Forget(FileId),
}

/// Whether a copy is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It has the chunk's digest.
    Right,
    /// It is wrong, or not there.
    Wrong,
    /// Its holder could not be asked.
    Unknown,
}

/// What a person at the tracker's prompt wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// How everything is.
    Status,
    /// Empty a volunteer, or (`false`) no longer.
    Drain(PeerName, bool),
    /// Copy nothing new, or (`false`) go on.
    Pause(bool),
    /// No longer keep a file, by name or id.
    Forget(Wanted),
}

/// A file, as a person names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// By what it is called.
    Name(FileName),
    /// By what it is.
    Id(FileId),
}

/// What a person at the tracker's prompt is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// How everything is.
    Status(Arc<Status>),
    /// It is done; a word on it.
    Done(String),
    /// It cannot be done, and why.
    Refused(String),
}

/// What the tracker's own hands report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// What was to be recorded under this ticket, and all before it, is durable.
    Recorded(u64),
    /// The tracker has this whole file, and the catalogue has its manifest.
    Published {
        /// The file.
        kept: KeptFile,
        /// How it is cut.
        layout: Layout,
    },
    /// The tracker does not have this whole file any more: somebody has removed or changed it.
    Withdrawn(FileId),
    /// All files that were there at the start have been published: what has not been is not here.
    Looked,
    /// A chunk is in the tracker's own store, and durable.
    Stored(FileId, ChunkIndex),
    /// A chunk is not in the tracker's own store.
    NotStored(FileId, ChunkIndex, CopyFailure),
    /// Chunks have been dropped from the tracker's own store.
    Dropped(FileId, Vec<ChunkIndex>),
    /// Chunks in the tracker's own store have turned out to be wrong, and are gone.
    Spoiled(FileId, Vec<ChunkIndex>),
    /// The tracker's own copy of a whole file is deleted; or (`false`) it is another file by now, or cannot be deleted.
    Offloaded(FileId, bool),
    /// A volunteer's copy has been looked at.
    Audited(VolunteerNumber, FileId, ChunkIndex, Verdict),
    /// The tracker's own answer to a challenge; nothing when it has no copy (any more).
    Proof(u64, Option<Digest>),
    /// A file that volunteers hold has been taken into the catalogue; or (`None`) its manifest could not be had.
    Adopted(FileId, Option<(KeptFile, Layout)>),
    /// Somebody at the prompt wants something. The number goes back with the answer.
    Command(u64, Command),
}
