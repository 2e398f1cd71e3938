//! What a tracker is asked and what it answers, over TCP and in datagrams alike.
//!
//! Over TCP a conversation opens with `hello` from both sides; a datagram carries the version itself.
//! Chunk sets need a connection, because the tracker speaks up when something changes
//! (`chunk_location`, `claim_differs`, `set_sealed`).

use super::{ErrorCode, Message};
use crate::content::{ChunkIndex, Digest, EntityName, FileId, FileName};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::net::SocketAddr;

/// What a peer proves by that it is the one that registered: 16 random bytes, 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u128);

impl fmt::Debug for Token {
    /// Tokens are secrets: they do not appear in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(&text, 16) {
            Ok(token) if digits => Ok(Token(token)),
            _ => Err(de::Error::custom("expected 32 hexadecimal digits")),
        }
    }
}

/// A file as a tracker knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileSummary {
    /// The file's id.
    pub id: FileId,
    /// The name that its holders give it.
    pub name: FileName,
    /// Bytes in the file.
    pub size: u64,
    /// How many chunks it has.
    pub chunks: u32,
}

/// A file and where to get it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FoundFile {
    /// The file.
    #[serde(flatten)]
    pub file: FileSummary,
    /// How many live holders there are in all, whole and partial.
    pub holders: u32,
    /// Addresses of peers that have all of it: a random choice when there are many.
    pub whole: Vec<SocketAddr>,
    /// Addresses of peers that have, or are getting, a part of it.
    pub partial: Vec<SocketAddr>,
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
#[serde(tag = "type", rename_all = "snake_case")]
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
            | TrackerResponse::Listing { length, .. } => *length,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::limits;
    use crate::protocol::datagram::Cookie;
    use crate::protocol::frame;

    fn exact<M: Message + PartialEq + fmt::Debug>(message: M, json: &str) {
        let json = json
            .replace("FILE", &"07".repeat(32))
            .replace("HASH", &"09".repeat(32))
            .replace("TOKEN", "0000000000000000000000000000002a");
        assert_eq!(String::from_utf8(frame::encode(&message).unwrap()).unwrap(), format!("{json}\n"));
        assert_eq!(serde_json::from_str::<M>(&json).unwrap(), message);
    }

    const FILE: FileId = FileId([7; 32]);
    const TOKEN: Token = Token(42);
    const INDEX: ChunkIndex = ChunkIndex(4);
    const CLAIM: Claim = Claim { sha256: Digest([9; 32]), size: 131 };

    fn set() -> SetKey {
        SetKey { set: EntityName::new("default").unwrap(), count: 5 }
    }

    fn summary() -> FileSummary {
        FileSummary { id: FILE, name: FileName::new("a b.txt").unwrap(), size: 9, chunks: 1 }
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn requests() {
        use TrackerRequest::*;
        let name = EntityName::new("peer").unwrap();
        exact(Hello { version: 1 }, r#"{"type":"hello","version":1}"#);
        exact(
            Register(Registration { name: name.clone(), port: 7000, advertise: None }),
            r#"{"type":"register","name":"peer","port":7000}"#,
        );
        exact(
            Register(Registration { name, port: 7000, advertise: Some(address("[::1]:9")) }),
            r#"{"type":"register","name":"peer","port":7000,"advertise":"[::1]:9"}"#,
        );
        exact(Heartbeat { token: TOKEN }, r#"{"type":"heartbeat","token":"TOKEN"}"#);
        exact(Goodbye { token: TOKEN }, r#"{"type":"goodbye","token":"TOKEN"}"#);
        exact(
            Announce { token: TOKEN, file: summary(), held: 1 },
            r#"{"type":"announce","token":"TOKEN","file":{"id":"FILE","name":"a b.txt","size":9,"chunks":1},"held":1}"#,
        );
        exact(Withdraw { token: TOKEN, file: FILE }, r#"{"type":"withdraw","token":"TOKEN","file":"FILE"}"#);
        exact(
            Lookup { name: Some(summary().name), id: None, limit: 30, token: None },
            r#"{"type":"lookup","name":"a b.txt","limit":30}"#,
        );
        exact(
            Lookup { name: None, id: Some(FILE), limit: 30, token: Some(TOKEN) },
            r#"{"type":"lookup","id":"FILE","limit":30,"token":"TOKEN"}"#,
        );
        exact(List, r#"{"type":"list"}"#);
        exact(
            JoinSet { token: TOKEN, set: set() },
            r#"{"type":"join_set","token":"TOKEN","set":"default","count":5}"#,
        );
        exact(
            Claim { token: TOKEN, set: set(), index: INDEX, claim: CLAIM },
            r#"{"type":"claim","token":"TOKEN","set":"default","count":5,"index":4,"sha256":"HASH","size":131}"#,
        );
        exact(
            Unclaim { token: TOKEN, set: set(), index: INDEX },
            r#"{"type":"unclaim","token":"TOKEN","set":"default","count":5,"index":4}"#,
        );
        exact(
            WhereChunk { token: TOKEN, set: set(), index: INDEX },
            r#"{"type":"where_chunk","token":"TOKEN","set":"default","count":5,"index":4}"#,
        );
        exact(Manifest { file: FILE }, r#"{"type":"manifest","file":"FILE"}"#);
        assert_eq!(serde_json::from_str::<TrackerRequest>(r#"{"type":"dance"}"#).unwrap(), Unknown);
    }

    #[test]
    fn responses() {
        use TrackerResponse::*;
        exact(Hello { version: 1 }, r#"{"type":"hello","version":1}"#);
        exact(
            Cookie { cookie: super::super::datagram::Cookie(255) },
            r#"{"type":"cookie","cookie":"00000000000000ff"}"#,
        );
        exact(
            Registered {
                token: TOKEN,
                address: address("10.0.0.1:7000"),
                heartbeat_ms: 5000,
                lease_ms: 10000,
            },
            r#"{"type":"registered","token":"TOKEN","address":"10.0.0.1:7000","heartbeat_ms":5000,"lease_ms":10000}"#,
        );
        exact(Alive, r#"{"type":"alive"}"#);
        exact(Farewell, r#"{"type":"farewell"}"#);
        exact(Announced { file: FILE }, r#"{"type":"announced","file":"FILE"}"#);
        exact(Withdrawn { file: FILE }, r#"{"type":"withdrawn","file":"FILE"}"#);
        let found =
            FoundFile { file: summary(), holders: 2, whole: vec![address("10.0.0.1:7000")], partial: vec![] };
        exact(
            Found { files: vec![found], truncated: false },
            r#"{"type":"found","files":[{"id":"FILE","name":"a b.txt","size":9,"chunks":1,"holders":2,"whole":["10.0.0.1:7000"],"partial":[]}]}"#,
        );
        exact(Found { files: vec![], truncated: true }, r#"{"type":"found","files":[],"truncated":true}"#);
        exact(SetJoined { set: set(), others: vec![] }, r#"{"type":"set_joined","set":"default","count":5}"#);
        exact(
            SetJoined { set: set(), others: vec![6] },
            r#"{"type":"set_joined","set":"default","count":5,"others":[6]}"#,
        );
        exact(
            ChunkLocation { set: set(), index: INDEX, claim: CLAIM, holders: vec![address("10.0.0.1:1")] },
            r#"{"type":"chunk_location","set":"default","count":5,"index":4,"sha256":"HASH","size":131,"holders":["10.0.0.1:1"]}"#,
        );
        exact(
            ChunkUnknown { set: set(), index: INDEX },
            r#"{"type":"chunk_unknown","set":"default","count":5,"index":4}"#,
        );
        exact(
            ClaimDiffers { set: set(), index: INDEX, claim: CLAIM },
            r#"{"type":"claim_differs","set":"default","count":5,"index":4,"sha256":"HASH","size":131}"#,
        );
        exact(
            SetSealed { set: set(), file: FILE },
            r#"{"type":"set_sealed","set":"default","count":5,"file":"FILE"}"#,
        );
        exact(SetComplete { set: set() }, r#"{"type":"set_complete","set":"default","count":5}"#);
        exact(
            Manifest { file: FILE, size: 5, chunk_size: 0, length: 36 },
            r#"{"type":"manifest","file":"FILE","size":5,"chunk_size":0,"length":36}"#,
        );
        exact(Peers { count: 2, length: 90 }, r#"{"type":"peers","count":2,"length":90}"#);
        exact(Listing { count: 2, length: 90 }, r#"{"type":"listing","count":2,"length":90}"#);
        exact(
            Error { code: ErrorCode::UnknownToken, text: "register again".into() },
            r#"{"type":"error","code":"unknown_token","text":"register again"}"#,
        );
    }

    #[test]
    fn an_answer_shrinks_until_it_fits_in_a_datagram() {
        let many = vec![address("[1111:2222:3333:4444:5555:6666:7777:8888]:65535"); 300];
        let found = FoundFile { file: summary(), holders: 600, whole: many.clone(), partial: many };
        let mut response = TrackerResponse::Found { files: vec![found; 9], truncated: false };
        let mut encoded = Err(frame::FrameError::TooLong);
        while encoded.is_err() {
            assert!(response.shrink());
            encoded = crate::protocol::datagram::Datagram::new(1, None, response.clone()).encode();
        }
        let TrackerResponse::Found { files, truncated: true } = response else { panic!("{response:?}") };
        assert!(!files.is_empty());
        assert!(!TrackerResponse::Alive.shrink());
    }

    #[test]
    fn the_largest_messages_fit_in_a_frame() {
        let longest = address("[1111:2222:3333:4444:5555:6666:7777:8888]:65535");
        let holders = vec![longest; limits::HOLDERS_MAX];
        let location = TrackerResponse::ChunkLocation {
            set: SetKey { set: EntityName::new("é".repeat(32)).unwrap(), count: limits::CHUNKS_MAX },
            index: ChunkIndex(limits::CHUNKS_MAX),
            claim: Claim { sha256: Digest([255; 32]), size: u32::MAX },
            holders,
        };
        assert!(frame::encode(&location).is_ok());
    }

    #[test]
    fn tokens_and_cookies_are_hexadecimal_and_whole() {
        for bad in ["\"\"", "\"+0000000000000000000000000000002a\"", "\"2a\"", "42"] {
            assert!(serde_json::from_str::<Token>(bad).is_err(), "{bad}");
            assert!(serde_json::from_str::<Cookie>(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{TOKEN:?}"), "Token(..)");
    }
}
