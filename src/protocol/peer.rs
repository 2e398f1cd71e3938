//! What peers ask each other and answer.
//!
//! A conversation opens with `hello` from both sides. After that requests are pipelined: answers come
//! in the order of the requests. Once `have` was asked, `got` may come between them, and to who serves as well also
//! `coming`, `hints`, `upstream` and `peers`. `overtake`, `slow` and `ping` ask for nothing that the order depends on.

use super::tracker::FileSummary;
use super::{ErrorCode, Message};
use crate::content::{ChunkIndex, FileId, FileName};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A file that a peer offers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OfferedFile {
    /// What it is.
    #[serde(flatten)]
    pub file: FileSummary,
    /// How many of its chunks are there.
    pub held: u32,
}

/// From the peer that connected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PeerRequest {
    /// Opens the conversation.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
        /// The port on which the asker serves what it has, if it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<u16>,
    },
    /// Asks for a file's manifest.
    Manifest {
        /// The file.
        file: FileId,
    },
    /// Asks which chunks are there, and to be told (`got`) as more come.
    Have {
        /// The file.
        file: FileId,
    },
    /// Asks for a chunk.
    Chunk {
        /// The file; for a set that is not sealed, [`FileId::of_set`].
        file: FileId,
        /// The chunk, counted from 0.
        index: ChunkIndex,
    },
    /// Asks what is offered under a name, of an id, or at all.
    Files {
        /// The name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<FileName>,
        /// The id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<FileId>,
    },
    /// The peer that was named `upstream` keeps the asker waiting: another one, please.
    Overtake {
        /// The file.
        file: FileId,
        /// In which stripe.
        #[serde(default, skip_serializing_if = "is_zero")]
        stripe: u8,
        /// Whether it has been compared with the one who is asked here.
        #[serde(default)]
        sure: bool,
    },
    /// Another one who fetches the file here takes chunks from the asker far more slowly than they come: it had better
    /// stand where nobody waits for it.
    Slow {
        /// The file.
        file: FileId,
        /// Where that one serves.
        peer: SocketAddr,
    },
    /// Keeps an idle conversation open.
    Ping,
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

/// Whom to ask before all others, of those who fetch a file from the same peer ([`trees`](crate::swarm::trees)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Upstream {
    /// Where it serves; none for the one who says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// Where the one serves whom that one asks: it has something to spare when that one takes slowly what it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond: Option<SocketAddr>,
    /// Whether that one is the first: nobody else can tell whether it is slow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// For which stripe: chunks whose number leaves this over when it is divided by the number of stripes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stripe: u8,
    /// How many stripes there are; none when there are no trees any more, and everybody is as good as anybody.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub stripes: u8,
    /// How many steps the one who is told is away from the one who says so: things take longer there.
    #[serde(default)]
    pub steps: u32,
    /// The one who is told has been found slow: however much more the other one has, asking more of them would not help.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub slow: bool,
    /// The one who was named before has left, most likely since it has everything: it had better be asked as long as it gives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

fn is_zero(number: &u8) -> bool {
    *number == 0
}

fn is_one(number: &u8) -> bool {
    *number == 1
}

fn one() -> u8 {
    1
}

/// From the peer that was connected to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PeerResponse {
    /// Opens the conversation.
    Hello {
        /// [`PROTOCOL_VERSION`](crate::content::limits::PROTOCOL_VERSION).
        version: u32,
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
    /// A have-map; its bytes follow.
    Have {
        /// The file.
        file: FileId,
        /// How many chunks the file has.
        count: u32,
        /// Bytes that follow.
        length: u64,
        /// Whom to ask before all others, for each stripe, where there are trees.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        upstreams: Vec<Upstream>,
    },
    /// More chunks are there now.
    Got {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// A chunk begins to come here: it can be asked for, and is passed on as it comes.
    Coming {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
    },
    /// Chunks that nobody else has been named and nobody has asked for yet: among equally rare ones the best to ask
    /// for.
    Hints {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Somebody else is to be asked before all others now.
    Upstream {
        /// The file.
        file: FileId,
        /// Who.
        upstream: Upstream,
    },
    /// Others who have asked for the file here and serve what they have of it.
    Peers {
        /// The file.
        file: FileId,
        /// Where they serve.
        peers: Vec<SocketAddr>,
    },
    /// A chunk; its bytes follow.
    Chunk {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// Bytes that follow.
        length: u32,
    },
    /// What is offered: a JSON array of [`OfferedFile`] follows.
    Files {
        /// How many there are.
        count: u32,
        /// Bytes that follow.
        length: u64,
    },
    /// Answers a ping.
    Pong,
    /// Answers a request that cannot be met. The conversation goes on unless the code says that it
    /// never began.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For people.
        text: String,
        /// The chunk that was asked for, if one was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        index: Option<ChunkIndex>,
    },
    /// A message of a later version.
    #[serde(other)]
    Unknown,
}

impl Message for PeerRequest {}

impl Message for PeerResponse {
    fn payload_length(&self) -> u64 {
        match self {
            PeerResponse::Manifest { length, .. }
            | PeerResponse::Have { length, .. }
            | PeerResponse::Files { length, .. } => *length,
            PeerResponse::Chunk { length, .. } => u64::from(*length),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame;

    fn exact<M: Message + PartialEq + std::fmt::Debug>(message: M, json: &str) {
        let json = json.replace("FILE", &"07".repeat(32));
        assert_eq!(String::from_utf8(frame::encode(&message).unwrap()).unwrap(), format!("{json}\n"));
        assert_eq!(serde_json::from_str::<M>(&json).unwrap(), message);
    }

    const FILE: FileId = FileId([7; 32]);
    const INDEX: ChunkIndex = ChunkIndex(4);

    #[test]
    fn requests() {
        use PeerRequest::*;
        exact(Hello { version: 1, port: None }, r#"{"type":"hello","version":1}"#);
        exact(Hello { version: 1, port: Some(7000) }, r#"{"type":"hello","version":1,"port":7000}"#);
        exact(Manifest { file: FILE }, r#"{"type":"manifest","file":"FILE"}"#);
        exact(Have { file: FILE }, r#"{"type":"have","file":"FILE"}"#);
        exact(Chunk { file: FILE, index: INDEX }, r#"{"type":"chunk","file":"FILE","index":4}"#);
        exact(Files { name: None, id: None }, r#"{"type":"files"}"#);
        let name = FileName::new("a b.txt").ok();
        exact(Files { name, id: Some(FILE) }, r#"{"type":"files","name":"a b.txt","id":"FILE"}"#);
        exact(Ping, r#"{"type":"ping"}"#);
        assert_eq!(serde_json::from_str::<PeerRequest>(r#"{"type":"dance","x":1}"#).unwrap(), Unknown);
    }

    #[test]
    fn responses() {
        use PeerResponse::*;
        exact(Hello { version: 1 }, r#"{"type":"hello","version":1}"#);
        exact(
            Manifest { file: FILE, size: 5, chunk_size: 16384, length: 32 },
            r#"{"type":"manifest","file":"FILE","size":5,"chunk_size":16384,"length":32}"#,
        );
        exact(
            Have { file: FILE, count: 9, length: 2, upstreams: vec![] },
            r#"{"type":"have","file":"FILE","count":9,"length":2}"#,
        );
        exact(Got { file: FILE, chunks: vec![INDEX] }, r#"{"type":"got","file":"FILE","chunks":[4]}"#);
        exact(Coming { file: FILE, index: INDEX }, r#"{"type":"coming","file":"FILE","index":4}"#);
        exact(Hints { file: FILE, chunks: vec![INDEX] }, r#"{"type":"hints","file":"FILE","chunks":[4]}"#);
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
    fn only_what_states_a_length_has_a_payload() {
        assert_eq!(PeerResponse::Chunk { file: FILE, index: INDEX, length: 3 }.payload_length(), 3);
        assert_eq!(PeerResponse::Pong.payload_length(), 0);
    }
}
