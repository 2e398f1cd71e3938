//! State of a chunk set: agreed hashes, holders and claims that differ. Part of a tracker's status, and sent to its members.

use super::limited::list;
use super::set_report::LastHolder;
use crate::content::limits::{STATUS_CHUNKS_MAX, STATUS_CLAIMS_MAX, STATUS_MEMBERS_MAX, STATUS_NAMES_MAX};
use crate::content::{ChunkIndex, Digest, PeerName, SetName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// State of a chunk set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetStatus {
    /// Name of the set.
    pub set: SetName,
    /// Number of chunks.
    pub count: u32,
    /// Number of equal claims that make an agreement.
    pub quorum: u32,
    /// Number of chunks with an agreed hash.
    pub agreed: u32,
    /// Number of clients.
    pub clients: u32,
    /// Some of the clients, by name.
    #[serde(deserialize_with = "list::<STATUS_MEMBERS_MAX, _, _>")]
    pub members: Vec<SetMember>,
    /// Some of the chunks: those with claims that differ first, then those without an agreed hash.
    #[serde(deserialize_with = "list::<STATUS_CHUNKS_MAX, _, _>")]
    pub chunks: Vec<ChunkStatus>,
}

/// A client of a chunk set.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SetMember {
    /// Its name.
    pub name: PeerName,
    /// Address at which it serves.
    pub address: SocketAddr,
    /// Number of its chunks that have the agreed hash.
    pub held: u32,
}

/// State of a chunk of a set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChunkStatus {
    /// Index of the chunk, counted from 0.
    pub index: ChunkIndex,
    /// The agreed hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreed: Option<Digest>,
    /// The clients that hold the chunk with the agreed hash.
    pub holders: Clients,
    /// Some of the claims that differ from the agreed hash; all claims if no hash is agreed.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list::<STATUS_CLAIMS_MAX, _, _>"
    )]
    pub claims: Vec<ClaimStatus>,
    /// The last client that held the chunk, if no client claims it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<LastHolder>,
}

/// A claimed hash and the clients that claim it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClaimStatus {
    /// The hash.
    pub sha256: Digest,
    /// The clients.
    pub clients: Clients,
}

/// Some of a number of clients.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Clients {
    /// Number of all of them.
    pub count: u32,
    /// Names of some of them.
    #[serde(deserialize_with = "list::<STATUS_NAMES_MAX, _, _>")]
    pub names: Vec<PeerName>,
}
