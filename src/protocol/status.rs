//! What a tracker tells of its files and its volunteers: the answer to `status`, and what `tracker status --json` prints.
//!
//! Programs read it: fields are added, never renamed or taken away.

use crate::content::{EntityName, FileId, FileName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// All of it. Sizes are bytes; a replica is one copy of one chunk at a volunteer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Copies of each chunk that are wanted.
    pub replicas: u32,
    /// Volunteers that must be there before anything is distributed.
    pub volunteers_needed: u32,
    /// Bytes that volunteers who are there have lent.
    pub offered: u64,
    /// Bytes that they can still take.
    pub free: u64,
    /// Copies, over all files.
    pub copies: Copies,
    /// Every volunteer that is known and not forgotten.
    pub volunteers: Vec<VolunteerStatus>,
    /// How many files there are.
    pub files_known: u64,
    /// The files: the first ones by name, when they are very many.
    pub files: Vec<FileStatus>,
    /// What is being copied.
    pub repair: RepairStatus,
}

/// How many copies there are, in chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Copies {
    /// Chunks times wanted copies.
    pub wanted: u64,
    /// Copies at volunteers who are there that have been checked.
    pub verified: u64,
    /// Copies that a volunteer says it has and that have not been checked since it came (back).
    pub claimed: u64,
    /// Chunks with fewer verified copies than are wanted.
    pub short: u64,
    /// Chunks of which no copy is left, neither at a volunteer nor here.
    pub lost: u64,
}

/// How a volunteer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolunteerState {
    /// There.
    #[default]
    Here,
    /// There, and being emptied.
    Draining,
    /// Its connection has ended, and its lease has not.
    Away,
    /// Its lease has ended, or it has said goodbye.
    Gone,
}

/// A volunteer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolunteerStatus {
    /// What people call it.
    pub name: EntityName,
    /// Where it serves.
    pub address: SocketAddr,
    /// How it is.
    pub state: VolunteerState,
    /// Bytes that it lends.
    pub offered: u64,
    /// Bytes that it can still take.
    pub free: u64,
    /// Chunks that it holds, as far as is known.
    pub chunks: u64,
    /// How many of them have been checked.
    pub verified: u64,
    /// Chunks that are being copied to it.
    pub incoming: u32,
}

/// A file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileStatus {
    /// What it is known by.
    pub id: FileId,
    /// What people call it.
    pub name: FileName,
    /// Bytes.
    pub size: u64,
    /// Chunks.
    pub chunks: u32,
    /// How many of them the tracker has itself.
    pub here: u32,
    /// Whether the tracker gave up its own copy, because the volunteers have it.
    pub offloaded: bool,
    /// Copies of its chunks.
    pub copies: Copies,
}

/// What is being copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Nothing new is copied until it is resumed.
    pub paused: bool,
    /// Chunks that wait for a copy to be made.
    pub waiting: u64,
    /// Chunks that are being copied.
    pub running: u64,
    /// Chunks that have been copied since the tracker was started.
    pub copied: u64,
    /// Bytes that have been copied since the tracker was started.
    pub copied_bytes: u64,
    /// Bytes a second that may be copied to repair; 0 for as fast as it goes.
    pub limit: u64,
}
