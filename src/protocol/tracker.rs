//! What a tracker is asked and what it answers, over TCP and in datagrams alike.
//!
//! Over TCP a conversation opens with `hello` from both sides; a datagram carries the version itself.
//! Chunk sets need a connection, because the tracker speaks up when something changes
//! (`chunk_location`, `claim_differs`, `set_sealed`).

pub use super::file_summary::FileSummary;
pub use super::numbers::Token;
use super::volunteer::{VolunteerOrder, VolunteerRequest};
use super::{ErrorCode, Message, addresses};
use crate::content::{ChunkIndex, Digest, EntityName, FileId, FileName, Md5};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A file and where to get it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoundFile {
    /// The file.
    #[serde(flatten)]
    pub file: FileSummary,
    /// How many live holders there are in all, whole and partial.
    pub holders: u32,
    /// Addresses of peers that have all of it: a random choice when there are many.
    #[serde(serialize_with = "addresses::serialize")]
    pub whole: Vec<SocketAddr>,
    /// Addresses of peers that have, or are getting, a part of it. Here and in `whole` an unspecified IP address
    /// (`0.0.0.0`) stands for the tracker's own, under which the asker knows it.
    #[serde(serialize_with = "addresses::serialize")]
    pub partial: Vec<SocketAddr>,
    /// The MD5 of the whole, when the tracker keeps the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<Md5>,
}

/// A peer as a manager knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerSummary {
    /// What people call it.
    pub name: EntityName,
    /// Where it serves.
    pub address: SocketAddr,
}

/// Who joins, and where others reach it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// What people call the peer.
    pub name: EntityName,
    /// The port on which it serves.
    pub port: u16,
    /// Its address, when that is not the source address with `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
}

/// A chunk set: its name and how many chunks it has. Two sets with one name and different counts are
/// different sets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SetKey {
    /// The set's name.
    pub set: EntityName,
    /// How many chunks it has.
    pub count: u32,
}

/// What a client says that a chunk is, or what was agreed upon.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// SHA-256 of the chunk.
    pub sha256: Digest,
    /// Bytes in the chunk.
    pub size: u32,
}

/// From a peer to a tracker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
// What is derived is not the trait itself: see `frequent`.
#[serde(tag = "type", rename_all = "snake_case", remote = "Self")]
pub enum TrackerRequest {
    /// Opens a conversation over TCP.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
    },
    /// Joins. Over TCP the peer is gone when the connection ends.
    Register(Registration),
    /// Says that the peer is alive.
    Heartbeat {
        /// From `registered`.
        token: Token,
    },
    /// Leaves.
    Goodbye {
        /// From `registered`.
        token: Token,
    },
    /// Offers a file, or tells how much of it is there by now.
    Announce {
        /// From `registered`.
        token: Token,
        /// The file.
        file: FileSummary,
        /// How many of its chunks are there.
        held: u32,
    },
    /// No longer offers a file.
    Withdraw {
        /// From `registered`.
        token: Token,
        /// The file.
        file: FileId,
    },
    /// Asks who has a file, by name, by id, or both.
    Lookup {
        /// The name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<FileName>,
        /// The id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<FileId>,
        /// How many holders of each file are wanted.
        limit: u32,
        /// The asker itself, which is not to be named.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Token>,
    },
    /// Asks for the list of all files (TCP). Once for each connection.
    List,
    /// Joins a chunk set (TCP).
    JoinSet {
        /// From `registered`.
        token: Token,
        /// The set.
        #[serde(flatten)]
        set: SetKey,
    },
    /// Claims to have a chunk of a set (TCP).
    Claim {
        /// From `registered`.
        token: Token,
        /// The set.
        #[serde(flatten)]
        set: SetKey,
        /// The chunk, counted from 0.
        index: ChunkIndex,
        /// What it is.
        #[serde(flatten)]
        claim: Claim,
    },
    /// No longer claims to have a chunk of a set (TCP).
    Unclaim {
        /// From `registered`.
        token: Token,
        /// The set.
        #[serde(flatten)]
        set: SetKey,
        /// The chunk.
        index: ChunkIndex,
    },
    /// Asks where a chunk of a set is, and to be told when that becomes known (TCP).
    WhereChunk {
        /// From `registered`.
        token: Token,
        /// The set.
        #[serde(flatten)]
        set: SetKey,
        /// The chunk.
        index: ChunkIndex,
    },
    /// Asks for the manifest of a sealed set (TCP).
    Manifest {
        /// The file id of the set.
        file: FileId,
    },
    /// Something that a volunteer says (TCP).
    Volunteer {
        /// From `registered`.
        token: Token,
        /// What it says.
        #[serde(flatten)]
        act: VolunteerRequest,
    },
    /// Asks how volunteers and files are (TCP, from the same host only). Once for each connection.
    Status,
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

/// From a tracker to a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TrackerResponse {
    /// Opens a conversation over TCP.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
    },
    /// The source of a datagram is not proven: send it again with this cookie.
    Cookie {
        /// To be sent along.
        cookie: super::datagram::Cookie,
    },
    /// Welcome.
    Registered {
        /// For everything that follows.
        token: Token,
        /// The address under which others are told of the peer.
        address: SocketAddr,
        /// How often to send a heartbeat, milliseconds.
        heartbeat_ms: u64,
        /// How long the peer counts as alive after a heartbeat, milliseconds.
        lease_ms: u64,
    },
    /// Acknowledges a heartbeat.
    Alive,
    /// Acknowledges a goodbye.
    Farewell,
    /// Acknowledges an announcement.
    Announced {
        /// The file.
        file: FileId,
    },
    /// Acknowledges a withdrawal.
    Withdrawn {
        /// The file.
        file: FileId,
    },
    /// Who has a file: nothing, one file, or several under one name.
    Found {
        /// The files.
        files: Vec<FoundFile>,
        /// More is known than fits here or than was asked for: ask over TCP.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    /// Acknowledges joining a set.
    SetJoined {
        /// The set.
        #[serde(flatten)]
        set: SetKey,
        /// How many chunks other sets of that name have: somebody may have miscounted.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        others: Vec<u32>,
    },
    /// Where a chunk of a set is: an answer, or news for one who asked earlier.
    ChunkLocation {
        /// The set.
        #[serde(flatten)]
        set: SetKey,
        /// The chunk.
        index: ChunkIndex,
        /// What was agreed upon.
        #[serde(flatten)]
        claim: Claim,
        /// Who has it.
        holders: Vec<SocketAddr>,
    },
    /// Nothing is agreed upon for that chunk, or nobody else has it. The tracker speaks up when it changes.
    ChunkUnknown {
        /// The set.
        #[serde(flatten)]
        set: SetKey,
        /// The chunk.
        index: ChunkIndex,
    },
    /// The others agree on another hash than this client claims: its chunk is bad.
    ClaimDiffers {
        /// The set.
        #[serde(flatten)]
        set: SetKey,
        /// The chunk.
        index: ChunkIndex,
        /// What was agreed upon.
        #[serde(flatten)]
        claim: Claim,
    },
    /// Every chunk of the set is agreed upon: it is a file now.
    SetSealed {
        /// The set.
        #[serde(flatten)]
        set: SetKey,
        /// The file's id.
        file: FileId,
    },
    /// Every member of the set has all of its chunks.
    SetComplete {
        /// The set.
        #[serde(flatten)]
        set: SetKey,
    },
    /// A manifest; its payload follows.
    Manifest {
        /// The file.
        file: FileId,
        /// Bytes in the file.
        size: u64,
        /// Bytes in each chunk but the last; 0 for unequal chunks.
        chunk_size: u32,
        /// Bytes that follow.
        length: u64,
    },
    /// The list of active peers: a JSON array of [`PeerSummary`] follows.
    Peers {
        /// How many there are.
        count: u32,
        /// Bytes that follow.
        length: u64,
    },
    /// The list of all files: a JSON array of [`FoundFile`] follows, each with a few of its holders.
    Listing {
        /// How many there are. The array has fewer when they are too many for one answer.
        count: u32,
        /// Bytes that follow.
        length: u64,
    },
    /// Something that a volunteer is to do.
    Volunteer {
        /// What.
        #[serde(flatten)]
        order: Box<VolunteerOrder>,
    },
    /// How volunteers and files are: a JSON object, a [`Status`](super::status::Status), follows.
    Status {
        /// Bytes that follow.
        length: u64,
    },
    /// Answers a request that cannot be met.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
    },
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

impl TrackerResponse {
    /// Makes a response that is too long for a datagram shorter, by naming fewer holders and then fewer
    /// files, and says so. Returns whether there was anything to leave out.
    pub fn shrink(&mut self) -> bool {
        let TrackerResponse::Found { files, truncated } = self else { return false };
        *truncated = true;
        let longest = |found: &FoundFile| found.whole.len().max(found.partial.len());
        match files.iter().map(longest).max() {
            None => return false,
            Some(0) => files.truncate(files.len() / 2),
            Some(most) => {
                for found in files {
                    found.whole.truncate(most * 3 / 4);
                    found.partial.truncate(most * 3 / 4);
                }
            }
        }
        true
    }
}

impl Message for TrackerRequest {}

impl Message for TrackerResponse {
    fn payload_length(&self) -> u64 {
        match self {
            TrackerResponse::Manifest { length, .. }
            | TrackerResponse::Peers { length, .. }
            | TrackerResponse::Status { length }
            | TrackerResponse::Listing { length, .. } => *length,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
