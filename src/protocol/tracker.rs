//! Messages between a peer and a tracker or manager; the same over TCP and UDP.
//!
//! A TCP connection opens with `hello` from both sides; a datagram carries the protocol version itself.
//! Requests for chunk sets require TCP, because the tracker sends notifications later (`chunk_location`,
//! `claim_differs`, `set_sealed`, `set_complete`).

pub use super::file_summary::FileSummary;
use super::limited::{list, text};
use super::set_report::WaitingChunk;
use super::set_status::SetStatus;
pub use super::tokens::{IdentityKey, ReportId, Token};
use super::volunteer::{VolunteerOrder, VolunteerReport};
use super::{ErrorCode, Message, PeerAddress};
use crate::content::limits::{
    FOUND_FILES_MAX, HOLDERS_MAX, OTHER_COUNTS_MAX, PEER_ADDRESSES_MAX, REACHED_ADDRESSES_MAX,
    REPORTED_CHUNKS_MAX,
};
use crate::content::{ChunkIndex, Digest, FileId, FileName, Md5, PeerName, SetName};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// A file and where to get it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoundFile {
    /// The file.
    #[serde(flatten)]
    pub file: FileSummary,
    /// Number of live holders, complete and partial; more than the addresses below if those are a selection, or if the
    /// receiver can reach no address of some holders.
    pub holders: u32,
    /// Number of live holders that are complete.
    #[serde(default)]
    pub complete: u32,
    /// Complete holders; a random selection if there are more than requested.
    #[serde(deserialize_with = "list::<HOLDERS_MAX, _, _>")]
    pub whole: Vec<PeerAddress>,
    /// Partial holders, and peers that have just started to download.
    ///
    /// Here and in `whole`, an unspecified IP address (`0.0.0.0`) stands for that of the tracker, as the
    /// client knows it.
    #[serde(deserialize_with = "list::<HOLDERS_MAX, _, _>")]
    pub partial: Vec<PeerAddress>,
    /// MD5 of the whole file, if the tracker stores the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub md5: Option<Md5>,
}

impl FoundFile {
    /// Number of live holders that are not complete.
    pub fn partial_count(&self) -> u32 {
        self.holders.saturating_sub(self.complete)
    }
}

/// A file that a peer offers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OfferedFile {
    /// Id, name and size.
    #[serde(flatten)]
    pub file: FileSummary,
    /// Number of chunks that the peer holds.
    pub held: u32,
}

/// Entry of the peer list of a manager.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerSummary {
    /// Name of the peer.
    pub name: PeerName,
    /// Addresses at which it serves.
    pub address: PeerAddress,
}

/// Name and address of a peer, sent when it joins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Registration {
    /// Name of the peer.
    pub name: PeerName,
    /// TCP port on which it serves.
    pub port: u16,
    /// Its address for other peers, if it differs from those below; it counts once the tracker has reached the peer there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
    /// IP addresses of its host on which it serves, in addition to the source address of the message; at most
    /// [`PEER_ADDRESSES_MAX`].
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list::<PEER_ADDRESSES_MAX, _, _>"
    )]
    pub addresses: Vec<IpAddr>,
    /// Key by which the peer proves its identity where it is dialled; without it the peer is not dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityKey>,
    /// It will offer storage, and counts as one peer together with the registration of its shared folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub volunteer: bool,
}

impl Registration {
    /// A peer that serves on a port at its source address, is not dialled, and offers no storage.
    pub fn new(name: PeerName, port: u16) -> Self {
        Self { name, port, advertise: None, addresses: Vec::new(), identity: None, volunteer: false }
    }
}

/// Addresses at which a tracker or manager has dialled a peer, by result.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Reachability {
    /// The peer answered.
    #[serde(deserialize_with = "list::<REACHED_ADDRESSES_MAX, _, _>")]
    pub working: Vec<SocketAddr>,
    /// No connection.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list::<REACHED_ADDRESSES_MAX, _, _>"
    )]
    pub failed: Vec<SocketAddr>,
    /// Another peer answered.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list::<REACHED_ADDRESSES_MAX, _, _>"
    )]
    pub other: Vec<SocketAddr>,
    /// Number of addresses without a result yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub pending: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Key of a chunk set: its name and its number of chunks.
///
/// Sets with the same name and different numbers of chunks are different sets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SetKey {
    /// Name of the set.
    pub set: SetName,
    /// Number of chunks.
    pub count: u32,
}

/// Hash and size of a chunk of a set, claimed by a client or agreed by the quorum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// SHA-256 of the chunk.
    pub sha256: Digest,
    /// Size of the chunk, bytes.
    pub size: u64,
}

/// Message from a peer to a tracker or manager.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
// `remote = "Self"` derives inherent functions; `fast_path` implements the traits with them.
#[serde(tag = "type", rename_all = "snake_case", remote = "Self")]
pub enum TrackerRequest {
    /// Opens a TCP connection. It is written with `"tracker":true`, so that a port which serves chunks, too, knows which
    /// protocol follows; a tracker or manager on a port of its own does not need the field.
    #[serde(serialize_with = "hello_to_tracker")]
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
    },
    /// Registers a peer. Over TCP, the end of the connection unregisters it.
    Register(Registration),
    /// Renews the lease of the peer.
    Heartbeat {
        /// Token from `registered`.
        token: Token,
    },
    /// Replaces the IP addresses of the peer, and lets the tracker dial them.
    Addresses {
        /// Token from `registered`.
        token: Token,
        /// As in [`Registration`].
        #[serde(deserialize_with = "list::<PEER_ADDRESSES_MAX, _, _>")]
        addresses: Vec<IpAddr>,
    },
    /// Requests the addresses at which the tracker has reached the peer.
    Reachability {
        /// Token from `registered`.
        token: Token,
    },
    /// Unregisters the peer.
    Goodbye {
        /// Token from `registered`.
        token: Token,
    },
    /// Offers a file, or updates the number of chunks that the peer holds.
    Announce {
        /// Token from `registered`.
        token: Token,
        /// Description of the file.
        file: FileSummary,
        /// Number of chunks that the peer holds.
        held: u32,
        /// Bytes that the peer has sent to others since its start, of all files; for the tracker of a seeder, which shows
        /// the rates of its peers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sent: Option<u64>,
    },
    /// Offers many files at once, as `announce` does each of them (TCP).
    AnnounceFiles {
        /// Token from `registered`.
        token: Token,
        /// The files, of any number that fits in a frame.
        files: Vec<OfferedFile>,
        /// Whether another batch follows: the tracker logs the last one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    /// Withdraws one name of an offered file, or all of them.
    Withdraw {
        /// Token from `registered`.
        token: Token,
        /// Id of the file.
        file: FileId,
        /// The name; without it the file is withdrawn under all of its names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<FileName>,
    },
    /// Requests the holders of a file, by name, by id, or by both.
    Lookup {
        /// Name of the file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<FileName>,
        /// Id of the file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<FileId>,
        /// Most holders of each file in the response.
        limit: u32,
        /// Token of the client, so that the response leaves out the client itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<Token>,
    },
    /// Reports that a peer has downloaded the whole file and verified it. Answered with `noted`.
    Completed {
        /// Id of the file.
        file: FileId,
        /// Number of the peer's run: several reports with one number count once.
        report: ReportId,
        /// Name of the peer.
        name: PeerName,
    },
    /// Requests the list of all files (TCP), once for each connection.
    List,
    /// Joins a chunk set (TCP).
    JoinSet {
        /// Token from `registered`.
        token: Token,
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
    },
    /// Claims that the client holds a chunk of a set with this hash (TCP).
    Claim {
        /// Token from `registered`.
        token: Token,
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Index of the chunk, counted from 0.
        index: ChunkIndex,
        /// Hash and size of the chunk.
        #[serde(flatten)]
        claim: Claim,
    },
    /// Withdraws the claim of a chunk (TCP).
    Unclaim {
        /// Token from `registered`.
        token: Token,
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Index of the chunk.
        index: ChunkIndex,
    },
    /// Requests the holders of a chunk of a set, now and whenever they change (TCP).
    WhereChunk {
        /// Token from `registered`.
        token: Token,
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Index of the chunk.
        index: ChunkIndex,
    },
    /// Reports that the client reaches no holder of an agreed chunk (TCP).
    Unreachable {
        /// Token from `registered`.
        token: Token,
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Index of the chunk.
        index: ChunkIndex,
        /// Time since which no holder has been connected, seconds.
        seconds: u64,
    },
    /// Requests the state of a set of which the client is a member (TCP).
    SetStatus {
        /// Token from `registered`.
        token: Token,
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
    },
    /// Requests the manifest of a sealed set (TCP).
    Manifest {
        /// File id of the sealed set.
        file: FileId,
    },
    /// Message from a volunteer (TCP).
    Volunteer {
        /// Token from `registered`.
        token: Token,
        /// The message.
        #[serde(flatten)]
        act: VolunteerReport,
    },
    /// Requests the state of volunteers and files (TCP, from the same host only), once for each connection.
    Status,
    /// A message of a later protocol version.
    #[serde(other)]
    Unknown,
}

fn hello_to_tracker<S: serde::Serializer>(version: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        version: u32,
        tracker: bool,
    }
    Fields { version: *version, tracker: true }.serialize(serializer)
}

/// Role of the program at which peers register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HubRole {
    /// Answers lookups for files.
    Tracker,
    /// Sends the list of peers.
    Manager,
}

/// Message from a tracker or manager to a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TrackerResponse {
    /// Opens a TCP connection.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
    },
    /// The source address is not validated: repeat the request with this cookie (UDP).
    Cookie {
        /// Cookie of the source address.
        cookie: super::datagram::Cookie,
    },
    /// Acknowledges a registration.
    Registered {
        /// Token for further requests of the peer.
        token: Token,
        /// Address of the peer for other peers.
        address: SocketAddr,
        /// Interval between two heartbeats, milliseconds.
        heartbeat_ms: u64,
        /// Lease after a heartbeat, milliseconds.
        lease_ms: u64,
        /// Whether the tracker listens on an address that is not a loopback address.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        public: bool,
        /// Whether a tracker or a manager answers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<HubRole>,
    },
    /// Acknowledges a heartbeat.
    Alive,
    /// Result of dialling the addresses of the peer; over TCP also sent without a request, when all results are known.
    Reachability(Reachability),
    /// Acknowledges a goodbye.
    Farewell,
    /// Acknowledges `completed`.
    Noted,
    /// Acknowledges an announcement.
    Announced {
        /// Id of the file.
        file: FileId,
    },
    /// Acknowledges a batch of announcements.
    AnnouncedFiles {
        /// Number of accepted files; the others, from there on, exceed a limit.
        accepted: u32,
    },
    /// Acknowledges a withdrawal.
    Withdrawn {
        /// Id of the file.
        file: FileId,
    },
    /// Result of a lookup: no file, one file, or several files of the same name.
    Found {
        /// The files.
        #[serde(deserialize_with = "list::<FOUND_FILES_MAX, _, _>")]
        files: Vec<FoundFile>,
        /// Whether files or holders were left out: repeat the request over TCP.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    },
    /// Acknowledges `join_set`.
    SetJoined {
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Numbers of chunks of other sets with this name; one of them may be a mistake.
        #[serde(
            default,
            skip_serializing_if = "Vec::is_empty",
            deserialize_with = "list::<OTHER_COUNTS_MAX, _, _>"
        )]
        others: Vec<u32>,
    },
    /// Holders of a chunk: the response to `where_chunk`, and a notification when they change.
    ChunkLocation {
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Index of the chunk.
        index: ChunkIndex,
        /// The agreed hash and size.
        #[serde(flatten)]
        claim: Claim,
        /// Holders, without the client itself.
        #[serde(deserialize_with = "list::<HOLDERS_MAX, _, _>")]
        holders: Vec<PeerAddress>,
    },
    /// The chunk has no agreed hash or no other holder; a `chunk_location` follows when this changes.
    ChunkUnknown {
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Index of the chunk.
        index: ChunkIndex,
    },
    /// The agreed hash differs from the claim of this client: its chunk is corrupt.
    ClaimDiffers {
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Index of the chunk.
        index: ChunkIndex,
        /// The agreed hash and size.
        #[serde(flatten)]
        claim: Claim,
    },
    /// The hash of every chunk is agreed: the set is a file with this id.
    SetSealed {
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Id of the file.
        file: FileId,
    },
    /// Chunks of the set without an agreed hash, sent at intervals while there are any.
    SetWaits {
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Some of the chunks and the reasons, those with different claims first.
        #[serde(deserialize_with = "list::<REPORTED_CHUNKS_MAX, _, _>")]
        chunks: Vec<WaitingChunk>,
        /// Number of further chunks.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: u32,
        /// Number of chunks for which another client claims another hash than this client.
        #[serde(default, skip_serializing_if = "is_zero")]
        disputed: u32,
    },
    /// Another member of the set has the name of this client.
    SameName {
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
        /// Address of the other member.
        address: SocketAddr,
    },
    /// State of a set: agreed hashes, holders and claims that differ.
    SetStatus {
        /// The state.
        #[serde(flatten)]
        status: Box<SetStatus>,
    },
    /// Every client of the set holds all of its chunks.
    SetComplete {
        /// Key of the set.
        #[serde(flatten)]
        set: SetKey,
    },
    /// A manifest; payload: [`Manifest::payload`](crate::content::Manifest::payload).
    Manifest {
        /// Id of the file.
        file: FileId,
        /// Size of the file, bytes.
        size: u64,
        /// Size of each chunk except the last, bytes; 0 for unequal chunks.
        chunk_size: u32,
        /// Size of the payload, bytes.
        length: u64,
    },
    /// The list of live peers; payload: a JSON array of [`PeerSummary`].
    Peers {
        /// Number of peers in the payload.
        count: u32,
        /// Size of the payload, bytes.
        length: u64,
    },
    /// The list of all files; payload: a JSON array of [`FoundFile`], each with a few of its holders.
    Listing {
        /// Number of files. The payload has fewer if not all fit in one response.
        count: u32,
        /// Size of the payload, bytes.
        length: u64,
    },
    /// Message to a volunteer.
    Volunteer {
        /// The message.
        #[serde(flatten)]
        order: Box<VolunteerOrder>,
    },
    /// State of volunteers and files; payload: the JSON of a [`Status`](super::status::Status).
    Status {
        /// Size of the payload, bytes.
        length: u64,
    },
    /// Refuses a request.
    Error {
        /// Reason, for programs.
        code: ErrorCode,
        /// Reason, for the user.
        #[serde(deserialize_with = "text")]
        text: String,
    },
    /// A message of a later protocol version.
    #[serde(other)]
    Unknown,
}

impl PeerSummary {
    /// Whether both are the same peer: the addresses may differ, since a tracker learns which of them work.
    pub fn is_same_peer(&self, other: &Self) -> bool {
        self.name == other.name && self.address.meets(&other.address)
    }
}

impl TrackerResponse {
    /// Shortens a `found` response for a datagram: first fewer holders, then fewer files; sets `truncated`.
    ///
    /// Returns false if there is nothing left to remove.
    pub fn shrink(&mut self) -> bool {
        let TrackerResponse::Found { files, truncated } = self else { return false };
        *truncated = true;
        let longest = |found: &FoundFile| found.whole.len().max(found.partial.len());
        match files.iter().map(longest).max() {
            None => return false,
            Some(0) => files.truncate(files.len() / 2),
            Some(count) => {
                for found in files {
                    found.whole.truncate(count * 3 / 4);
                    found.partial.truncate(count * 3 / 4);
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
