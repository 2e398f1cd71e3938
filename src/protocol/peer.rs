//! Messages between peers: a client requests chunks, the server responds.
//!
//! A connection opens with `hello` from both sides. After that requests are pipelined: responses are sent
//! in the order of the requests. After a `have` request, the server also sends `got` and `peers` between responses and,
//! to a client that serves other peers itself, `coming`, `place` and `spent`. `join`, `unreachable` and `corrupt` have
//! no response; `pong` has no place in the order. A `chunk` response answers `chunk` or `next`, in their order.

use super::limited::{list, text};
use super::tokens::{KeyPrint, Nonce, ReportId};
use super::{ErrorCode, Message};
use crate::content::limits::{GOT_CHUNKS_MAX, IDENTITY_PROOFS_MAX, NAMED_PEERS_MAX, NEXT_RANGES_MAX};
use crate::content::{ChunkIndex, Digest, FileId, FileName, PeerName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Message from the client: the peer that opened the connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PeerRequest {
    /// Opens the connection.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
        /// TCP port on which the client serves its chunks; `None` if it does not serve.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// Site of the client, if its user has named it ([`rings`](crate::swarm::rings)).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<PeerName>,
    },
    /// Requests the manifest of a file.
    Manifest {
        /// Id of the file.
        file: FileId,
    },
    /// Requests the bitfield of a file, and `got` messages for chunks that the server completes later.
    Have {
        /// Id of the file.
        file: FileId,
    },
    /// Requests a chunk.
    Chunk {
        /// Id of the file; for a set that is not sealed, [`FileId::of_set`].
        file: FileId,
        /// Index of the chunk, counted from 0.
        index: ChunkIndex,
    },
    /// Requests the list of offered files: all, or those of a name or an id.
    Files {
        /// Only files of this name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<FileName>,
        /// Only the file of this id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<FileId>,
    },
    /// Joins the rings of a file, after the server has answered `have` with a number of members.
    Join {
        /// Id of the file.
        file: FileId,
    },
    /// Requests a chunk of the server's choice that it has not sent yet. Answered with `chunk` or `spent`.
    Next {
        /// Id of the file.
        file: FileId,
        /// Chunks that the client has, is receiving or has requested, and has not reported to this server before: ranges
        /// of indices, each with its first and last one.
        #[serde(
            default,
            skip_serializing_if = "Vec::is_empty",
            deserialize_with = "list::<NEXT_RANGES_MAX, _, _>"
        )]
        have: Vec<(ChunkIndex, ChunkIndex)>,
    },
    /// Reports that the client cannot connect to its predecessor in a ring of the server.
    Unreachable {
        /// Id of the file.
        file: FileId,
        /// Address of the predecessor, as named by `place`.
        peer: SocketAddr,
    },
    /// Demands the proof that a volunteer stores a chunk, from the tracker of the volunteer.
    ///
    /// Answered with `proof`, or with an error: `not_here` if the volunteer does not hold the chunk, `refused` if no
    /// volunteer with this key serves here, `busy` or `internal` if it cannot tell.
    Prove {
        /// Id of the file.
        file: FileId,
        /// Index of the chunk.
        index: ChunkIndex,
        /// Print of the volunteer's key.
        holder: KeyPrint,
        /// Random number, so that an earlier proof cannot be replayed.
        nonce: Nonce,
    },
    /// Demands the proof that the server is a certain registered peer, from the tracker or manager.
    Identify {
        /// Random number, so that an earlier proof cannot be replayed.
        nonce: Nonce,
    },
    /// Reports that a chunk received from the server has a wrong SHA-256. It has no response.
    ///
    /// The server hashes the chunk again, and withdraws the file if it has changed.
    Corrupt {
        /// Id of the file.
        file: FileId,
        /// Index of the chunk.
        index: ChunkIndex,
    },
    /// Reports that the client has downloaded the whole file and verified it. Answered with `noted`.
    Completed {
        /// Id of the file.
        file: FileId,
        /// Number of the client's run: several reports with one number count once.
        report: ReportId,
        /// Name of the client.
        name: PeerName,
    },
    /// Keep-alive of an idle connection.
    Ping,
    /// A message of a later protocol version.
    #[serde(other)]
    Unknown,
}

/// First message on the port of a peer, as the server reads it: the hello of a [`PeerRequest`] conversation, or that of a
/// [`TrackerRequest`](super::tracker::TrackerRequest) conversation on a peer that is also a tracker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OpeningRequest {
    /// A hello of either protocol.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
        /// TCP port on which the client serves its chunks; `None` if it does not serve.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
        /// Site of the client, if its user has named it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<PeerName>,
        /// Whether the client speaks to a tracker.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tracker: bool,
    },
    /// Another message, which is refused.
    #[serde(other)]
    Unknown,
}

/// Message from the server: the peer that accepted the connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PeerResponse {
    /// Opens the connection.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
        /// Site of the server, if its user has named it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        site: Option<PeerName>,
    },
    /// A manifest; payload: [`Manifest::payload`](crate::content::Manifest::payload).
    Manifest {
        /// Id of the file.
        file: FileId,
        /// Size of the file, bytes.
        size: u64,
        /// Size of each chunk except the last, bytes; 0 for unequal chunks. For a folder: that of the chunks of large files.
        chunk_size: u32,
        /// Size of the index of a folder, bytes; `None` for a file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<u64>,
        /// Size of the payload, bytes.
        length: u64,
        /// Permission bits of the server's file, a hint that is not part of the id; the client ignores all bits but
        /// those of 0777.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// The chunks that the server holds; payload: a bitfield.
    Have {
        /// Id of the file.
        file: FileId,
        /// Number of chunks of the file.
        count: u32,
        /// Size of the payload, bytes.
        length: u64,
        /// Number of members of the rings that the server keeps; `None` if it keeps none, or the client cannot join.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        members: Option<u32>,
        /// The server is complete, on the host of the client, and has no upload limit: requests to other peers would save
        /// no link.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        direct: bool,
    },
    /// Further chunks that the server holds.
    Got {
        /// Id of the file.
        file: FileId,
        /// Indices of the chunks.
        #[serde(deserialize_with = "list::<GOT_CHUNKS_MAX, _, _>")]
        chunks: Vec<ChunkIndex>,
    },
    /// The server receives this chunk now; it can be requested and is relayed while it arrives (cut-through).
    Coming {
        /// Id of the file; `None`: the only one that the client has subscribed to over this connection. This message is
        /// the most frequent one of a fan-out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<FileId>,
        /// Index of the chunk.
        index: ChunkIndex,
    },
    /// Names the predecessor of the client in one ring.
    Place {
        /// Id of the file.
        file: FileId,
        /// Index of the ring.
        ring: u8,
        /// Address of the predecessor.
        peer: SocketAddr,
    },
    /// The server has sent each chunk once: from now on the client requests chunks of its own choice.
    Spent {
        /// Id of the file.
        file: FileId,
        /// Whether this answers `next`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        answer: bool,
    },
    /// Other clients that download the file from this server and serve it.
    Peers {
        /// Id of the file.
        file: FileId,
        /// Addresses at which they serve, at most [`NAMED_PEERS_MAX`].
        #[serde(deserialize_with = "list::<NAMED_PEERS_MAX, _, _>")]
        peers: Vec<SocketAddr>,
    },
    /// A chunk; payload: its bytes.
    Chunk {
        /// Id of the file.
        file: FileId,
        /// Index of the chunk.
        index: ChunkIndex,
        /// Size of the payload, bytes.
        length: u64,
    },
    /// The list of offered files; payload: a JSON array of [`OfferedFile`](super::tracker::OfferedFile).
    Files {
        /// Number of files. The payload has fewer if not all fit.
        count: u32,
        /// Size of the payload, bytes.
        length: u64,
    },
    /// Answers `prove`.
    Proof {
        /// Id of the file.
        file: FileId,
        /// Index of the chunk.
        index: ChunkIndex,
        /// The [proof](crate::protocol::volunteer::possession_proof).
        sha256: Digest,
    },
    /// Answers `identify`.
    Identity {
        /// The [proof](crate::protocol::tokens::identity_proof) of each registration of the server.
        #[serde(deserialize_with = "list::<IDENTITY_PROOFS_MAX, _, _>")]
        proofs: Vec<Digest>,
    },
    /// Answers `completed`.
    Noted,
    /// Answers `ping`.
    Pong,
    /// Refuses a request. The connection stays open, except after a refused `hello`.
    Error {
        /// Reason, for programs.
        code: ErrorCode,
        /// Reason, for the user.
        #[serde(deserialize_with = "text")]
        text: String,
        /// Index of the requested chunk, if the request was for a chunk.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<ChunkIndex>,
    },
    /// A message of a later protocol version.
    #[serde(other)]
    Unknown,
}

impl Message for PeerRequest {}

impl Message for OpeningRequest {}

impl Message for PeerResponse {
    fn payload_length(&self) -> u64 {
        match self {
            PeerResponse::Manifest { length, .. }
            | PeerResponse::Have { length, .. }
            | PeerResponse::Chunk { length, .. }
            | PeerResponse::Files { length, .. } => *length,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame;
    use crate::protocol::tracker::{FileSummary, OfferedFile};

    fn exact<M: Message + PartialEq + std::fmt::Debug>(message: M, json: &str) {
        let json = json.replace("FILE", &"07".repeat(32));
        assert_eq!(String::from_utf8(frame::encode(&message).unwrap()).unwrap(), format!("{json}\n"));
        assert_eq!(serde_json::from_str::<M>(&json).unwrap(), message);
    }

    const FILE: FileId = FileId([7; 32]);
    const INDEX: ChunkIndex = ChunkIndex(4);

    #[test]
    fn json_of_requests_is_fixed() {
        use PeerRequest::*;
        exact(Hello { version: 3, port: None, site: None }, r#"{"type":"hello","version":3}"#);
        let site = PeerName::new("north").ok();
        let hello = r#"{"type":"hello","version":3,"port":7000,"site":"north"}"#;
        exact(Hello { version: 3, port: Some(7000), site }, hello);
        exact(Join { file: FILE }, r#"{"type":"join","file":"FILE"}"#);
        let have = vec![(ChunkIndex(0), ChunkIndex(3)), (INDEX, INDEX)];
        exact(Next { file: FILE, have }, r#"{"type":"next","file":"FILE","have":[[0,3],[4,4]]}"#);
        exact(Next { file: FILE, have: vec![] }, r#"{"type":"next","file":"FILE"}"#);
        let peer = "10.0.0.1:7000".parse().unwrap();
        exact(
            Unreachable { file: FILE, peer },
            r#"{"type":"unreachable","file":"FILE","peer":"10.0.0.1:7000"}"#,
        );
        exact(Manifest { file: FILE }, r#"{"type":"manifest","file":"FILE"}"#);
        exact(Have { file: FILE }, r#"{"type":"have","file":"FILE"}"#);
        exact(Chunk { file: FILE, index: INDEX }, r#"{"type":"chunk","file":"FILE","index":4}"#);
        exact(Files { name: None, id: None }, r#"{"type":"files"}"#);
        let name = FileName::new("a b.txt").ok();
        exact(Files { name, id: Some(FILE) }, r#"{"type":"files","name":"a b.txt","id":"FILE"}"#);
        let holder = KeyPrint([1; 8]);
        exact(
            Prove { file: FILE, index: INDEX, holder, nonce: Nonce(42) },
            r#"{"type":"prove","file":"FILE","index":4,"holder":"0101010101010101","nonce":"0000000000000000000000000000002a"}"#,
        );
        exact(
            Identify { nonce: Nonce(42) },
            r#"{"type":"identify","nonce":"0000000000000000000000000000002a"}"#,
        );
        exact(Corrupt { file: FILE, index: INDEX }, r#"{"type":"corrupt","file":"FILE","index":4}"#);
        let name = PeerName::new("me").unwrap();
        let completed =
            r#"{"type":"completed","file":"FILE","report":"00000000000000000000000000000009","name":"me"}"#;
        exact(Completed { file: FILE, report: ReportId(9), name }, completed);
        exact(Ping, r#"{"type":"ping"}"#);
        assert_eq!(serde_json::from_str::<PeerRequest>(r#"{"type":"dance","x":1}"#).unwrap(), Unknown);
    }

    #[test]
    fn json_of_responses_is_fixed() {
        use PeerResponse::*;
        exact(Hello { version: 3, site: None }, r#"{"type":"hello","version":3}"#);
        exact(
            Manifest { file: FILE, size: 5, chunk_size: 16384, index: None, length: 32, mode: Some(0o755) },
            r#"{"type":"manifest","file":"FILE","size":5,"chunk_size":16384,"length":32,"mode":493}"#,
        );
        exact(
            Manifest { file: FILE, size: 50, chunk_size: 16384, index: Some(40), length: 72, mode: None },
            r#"{"type":"manifest","file":"FILE","size":50,"chunk_size":16384,"index":40,"length":72}"#,
        );
        exact(
            Have { file: FILE, count: 9, length: 2, members: Some(3), direct: false },
            r#"{"type":"have","file":"FILE","count":9,"length":2,"members":3}"#,
        );
        exact(Got { file: FILE, chunks: vec![INDEX] }, r#"{"type":"got","file":"FILE","chunks":[4]}"#);
        exact(Coming { file: Some(FILE), index: INDEX }, r#"{"type":"coming","file":"FILE","index":4}"#);
        exact(Coming { file: None, index: INDEX }, r#"{"type":"coming","index":4}"#);
        let peer = "10.0.0.1:7000".parse().unwrap();
        let place = r#"{"type":"place","file":"FILE","ring":2,"peer":"10.0.0.1:7000"}"#;
        exact(Place { file: FILE, ring: 2, peer }, place);
        exact(Spent { file: FILE, answer: false }, r#"{"type":"spent","file":"FILE"}"#);
        exact(Spent { file: FILE, answer: true }, r#"{"type":"spent","file":"FILE","answer":true}"#);
        let peers = vec!["10.0.0.1:7000".parse().unwrap(), "[::1]:7001".parse().unwrap()];
        exact(
            Peers { file: FILE, peers },
            r#"{"type":"peers","file":"FILE","peers":["10.0.0.1:7000","[::1]:7001"]}"#,
        );
        exact(
            Chunk { file: FILE, index: INDEX, length: 3 },
            r#"{"type":"chunk","file":"FILE","index":4,"length":3}"#,
        );
        exact(Files { count: 1, length: 99 }, r#"{"type":"files","count":1,"length":99}"#);
        let file = FileSummary { id: FILE, name: FileName::new("f").unwrap(), size: 5, chunks: 1 };
        let offered = serde_json::to_string(&OfferedFile { file, held: 1 }).unwrap();
        let id = "07".repeat(32);
        assert_eq!(offered, format!(r#"{{"id":"{id}","name":"f","size":5,"chunks":1,"held":1}}"#));
        exact(
            Proof { file: FILE, index: INDEX, sha256: Digest([7; 32]) },
            r#"{"type":"proof","file":"FILE","index":4,"sha256":"FILE"}"#,
        );
        exact(Identity { proofs: vec![Digest([7; 32])] }, r#"{"type":"identity","proofs":["FILE"]}"#);
        exact(Noted, r#"{"type":"noted"}"#);
        exact(Pong, r#"{"type":"pong"}"#);
        exact(
            Error { code: ErrorCode::NotHere, text: "not yet".into(), index: Some(INDEX) },
            r#"{"type":"error","code":"not_here","text":"not yet","index":4}"#,
        );
        let later = r#"{"type":"error","code":"of_a_later_version","text":""}"#;
        let error = Error { code: ErrorCode::Other, text: String::new(), index: None };
        assert_eq!(serde_json::from_str::<PeerResponse>(later).unwrap(), error);
        assert_eq!(serde_json::from_str::<PeerResponse>(r#"{"type":"dance"}"#).unwrap(), Unknown);
    }

    #[test]
    fn the_hello_of_each_protocol_opens_a_connection() {
        let hello = |port, tracker| OpeningRequest::Hello { version: 3, port, site: None, tracker };
        exact(hello(None, false), r#"{"type":"hello","version":3}"#);
        exact(hello(Some(7000), false), r#"{"type":"hello","version":3,"port":7000}"#);
        exact(hello(None, true), r#"{"type":"hello","version":3,"tracker":true}"#);
        let other = r#"{"type":"chunk","file":"FILE","index":4}"#;
        assert_eq!(serde_json::from_str::<OpeningRequest>(other).unwrap(), OpeningRequest::Unknown);
    }

    #[test]
    fn only_messages_with_a_length_have_a_payload() {
        assert_eq!(PeerResponse::Chunk { file: FILE, index: INDEX, length: 3 }.payload_length(), 3);
        assert_eq!(PeerResponse::Pong.payload_length(), 0);
    }
}
