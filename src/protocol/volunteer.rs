//! Messages between a volunteer and its tracker, in addition to those of every peer.
//!
//! They are the contents of the `volunteer` messages of [`tracker`](super::tracker): a [`VolunteerReport`]
//! of a [`TrackerRequest`](super::tracker::TrackerRequest), a [`VolunteerOrder`] of a
//! [`TrackerResponse`](super::tracker::TrackerResponse). A session is one TCP connection: `register`,
//! `lend`, any number of `holds`, `reported`. After that the tracker sends orders (`copy`, `drop`,
//! `check`), and the volunteer answers each of them. Proofs are demanded over the volunteer's upload server
//! ([`peer`](super::peer)).

use super::file_summary::FileSummary;
use super::limited::{list, text};
use super::tokens::{Nonce, VolunteerKey};
use crate::content::limits::{DROP_MAX, NAMED_CHUNKS_MAX};
use crate::content::{ChunkIndex, Digest, FileId, Hasher, Md5};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A file stored on volunteers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptFile {
    /// Id, name and size.
    #[serde(flatten)]
    pub file: FileSummary,
    /// MD5 of the whole file, verified after the file is assembled.
    pub md5: Md5,
}

/// Proof that a volunteer stores a chunk: SHA-256 of its key (16 bytes, big-endian), the nonce (16 bytes,
/// big-endian) and all bytes of the chunk.
///
/// The key makes the proofs of two volunteers differ, so that one cannot present the other's.
pub fn possession_proof(key: VolunteerKey, nonce: Nonce, chunk: &[u8]) -> Digest {
    let mut hasher = possession_hasher(key, nonce);
    hasher.update(chunk);
    hasher.finish()
}

/// The hasher of a [`possession_proof`] that the bytes of the chunk have yet to be added to.
pub fn possession_hasher(key: VolunteerKey, nonce: Nonce) -> Hasher {
    let mut hasher = Hasher::new();
    hasher.update(&key.0.to_be_bytes());
    hasher.update(&nonce.0.to_be_bytes());
    hasher
}

/// Reason of a failed copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFailure {
    /// Not enough free space in the offered space or on the disk.
    NoRoom,
    /// The bytes from the source do not match the digest of the chunk.
    Corrupt,
    /// The source is unreachable, or does not have the chunk.
    Unreachable,
    /// The volunteer failed to write the chunk.
    Disk,
    /// A reason of a later protocol version.
    #[serde(other)]
    Other,
}

/// Message from a volunteer to its tracker. `free` is the free part of the offered space, bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum VolunteerReport {
    /// Storage offer, the first message of a session; `holds` for the stored chunks follow.
    Lend {
        /// Identifies the volunteer across sessions.
        key: VolunteerKey,
        /// Space that it offers, bytes, used and free.
        offered: u64,
        /// Free space, bytes.
        free: u64,
        /// Announced absence: time in seconds after each orderly disconnect within which the volunteer returns.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        away_s: Option<u64>,
    },
    /// Reports stored chunks: at the start of a session, and again when they have been verified.
    Holds {
        /// The file.
        #[serde(flatten)]
        kept: KeptFile,
        /// Indices of the chunks, at most [`NAMED_CHUNKS_MAX`].
        #[serde(deserialize_with = "list::<NAMED_CHUNKS_MAX, _, _>")]
        held: Vec<ChunkIndex>,
        /// Whether they were verified since the volunteer started.
        checked: bool,
    },
    /// Ends the initial report: all stored chunks have been reported.
    Reported,
    /// Answers `copy`: the chunk is verified and durable.
    Stored {
        /// Id of the file.
        file: FileId,
        /// Index of the chunk.
        index: ChunkIndex,
        /// Free space, bytes.
        free: u64,
    },
    /// Answers `copy`: the copy has failed.
    NotStored {
        /// Id of the file.
        file: FileId,
        /// Index of the chunk.
        index: ChunkIndex,
        /// Reason, for programs.
        why: CopyFailure,
        /// Reason, for the user.
        #[serde(deserialize_with = "text")]
        text: String,
        /// Free space, bytes.
        free: u64,
    },
    /// Answers `drop`: the chunks have been deleted.
    Dropped {
        /// Id of the file.
        file: FileId,
        /// Indices of the chunks, at most [`NAMED_CHUNKS_MAX`].
        #[serde(deserialize_with = "list::<NAMED_CHUNKS_MAX, _, _>")]
        chunks: Vec<ChunkIndex>,
        /// Free space, bytes.
        free: u64,
    },
    /// Reports chunks that were found corrupt or missing; the volunteer holds them no longer.
    Spoiled {
        /// Id of the file.
        file: FileId,
        /// Indices of the chunks, at most [`NAMED_CHUNKS_MAX`].
        #[serde(deserialize_with = "list::<NAMED_CHUNKS_MAX, _, _>")]
        chunks: Vec<ChunkIndex>,
        /// Free space, bytes.
        free: u64,
    },
    /// Requests to leave: the tracker copies the chunks elsewhere and reports progress with `draining`.
    Drain,
}

/// Message to a volunteer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum VolunteerOrder {
    /// Accepts the storage offer.
    Welcome,
    /// Orders a copy of a chunk; the volunteer answers `stored` or `not_stored`.
    Copy {
        /// The file.
        #[serde(flatten)]
        kept: KeptFile,
        /// Index of the chunk.
        index: ChunkIndex,
        /// Address of the source of chunk and manifest; an unspecified IP address stands for that of the
        /// tracker.
        from: SocketAddr,
    },
    /// Orders the deletion of over-replicated chunks.
    Drop {
        /// Id of the file.
        file: FileId,
        /// Indices of the chunks, at most [`DROP_MAX`].
        #[serde(deserialize_with = "list::<DROP_MAX, _, _>")]
        chunks: Vec<ChunkIndex>,
    },
    /// Orders the volunteer to hash these chunks again and to report each with `holds` or `spoiled`.
    Check {
        /// Id of the file.
        file: FileId,
        /// Indices of the chunks, at most [`NAMED_CHUNKS_MAX`].
        #[serde(deserialize_with = "list::<NAMED_CHUNKS_MAX, _, _>")]
        chunks: Vec<ChunkIndex>,
    },
    /// Reports that another volunteer was refused because it uses the same key: one of the two stores is a copy.
    Cloned {
        /// Address of the other volunteer.
        at: SocketAddr,
    },
    /// Progress of `drain`.
    Draining {
        /// Chunks that have yet to be copied elsewhere; at 0 the volunteer can leave.
        left: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::FileName;
    use crate::protocol::tracker::{Token, TrackerRequest, TrackerResponse};
    use crate::protocol::{Message, frame};
    use std::fmt::Debug;

    const FILE: FileId = FileId([7; 32]);
    const INDEX: ChunkIndex = ChunkIndex(4);

    fn exact<M: Message + PartialEq + Debug>(message: M, json: &str) {
        let json = json
            .replace("FILE", &"07".repeat(32))
            .replace("HASH", &"09".repeat(32))
            .replace("MD5", &"05".repeat(16))
            .replace("KEY", "0000000000000000000000000000002a");
        assert_eq!(String::from_utf8(frame::encode(&message).unwrap()).unwrap(), format!("{json}\n"));
        assert_eq!(serde_json::from_str::<M>(&json).unwrap(), message);
    }

    fn kept() -> KeptFile {
        let file = FileSummary { id: FILE, name: FileName::new("f").unwrap(), size: 9, chunks: 1 };
        KeptFile { file, md5: Md5([5; 16]) }
    }

    #[test]
    fn json_of_requests_is_fixed() {
        use VolunteerReport::*;
        let say = |act| TrackerRequest::Volunteer { token: Token(42), act };
        exact(
            say(Lend { key: VolunteerKey(42), offered: 9, free: 8, away_s: None }),
            r#"{"type":"volunteer","token":"KEY","act":"lend","key":"KEY","offered":9,"free":8}"#,
        );
        exact(
            say(Lend { key: VolunteerKey(42), offered: 9, free: 8, away_s: Some(50_400) }),
            r#"{"type":"volunteer","token":"KEY","act":"lend","key":"KEY","offered":9,"free":8,"away_s":50400}"#,
        );
        exact(
            say(Holds { kept: kept(), held: vec![INDEX], checked: true }),
            r#"{"type":"volunteer","token":"KEY","act":"holds","id":"FILE","name":"f","size":9,"chunks":1,"md5":"MD5","held":[4],"checked":true}"#,
        );
        exact(say(Reported), r#"{"type":"volunteer","token":"KEY","act":"reported"}"#);
        exact(
            say(Stored { file: FILE, index: INDEX, free: 8 }),
            r#"{"type":"volunteer","token":"KEY","act":"stored","file":"FILE","index":4,"free":8}"#,
        );
        exact(
            say(NotStored {
                file: FILE,
                index: INDEX,
                why: CopyFailure::NoRoom,
                text: "full".into(),
                free: 0,
            }),
            r#"{"type":"volunteer","token":"KEY","act":"not_stored","file":"FILE","index":4,"why":"no_room","text":"full","free":0}"#,
        );
        exact(
            say(Dropped { file: FILE, chunks: vec![INDEX], free: 8 }),
            r#"{"type":"volunteer","token":"KEY","act":"dropped","file":"FILE","chunks":[4],"free":8}"#,
        );
        exact(
            say(Spoiled { file: FILE, chunks: vec![INDEX], free: 8 }),
            r#"{"type":"volunteer","token":"KEY","act":"spoiled","file":"FILE","chunks":[4],"free":8}"#,
        );
        exact(say(Drain), r#"{"type":"volunteer","token":"KEY","act":"drain"}"#);
        exact(TrackerRequest::Status, r#"{"type":"status"}"#);
    }

    #[test]
    fn json_of_orders_is_fixed() {
        use VolunteerOrder::*;
        let say = |order| TrackerResponse::Volunteer { order: Box::new(order) };
        exact(say(Welcome), r#"{"type":"volunteer","act":"welcome"}"#);
        exact(
            say(Copy { kept: kept(), index: INDEX, from: "0.0.0.0:5101".parse().unwrap() }),
            r#"{"type":"volunteer","act":"copy","id":"FILE","name":"f","size":9,"chunks":1,"md5":"MD5","index":4,"from":"0.0.0.0:5101"}"#,
        );
        exact(
            say(Drop { file: FILE, chunks: vec![INDEX] }),
            r#"{"type":"volunteer","act":"drop","file":"FILE","chunks":[4]}"#,
        );
        exact(
            say(Check { file: FILE, chunks: vec![INDEX] }),
            r#"{"type":"volunteer","act":"check","file":"FILE","chunks":[4]}"#,
        );
        exact(say(Draining { left: 7 }), r#"{"type":"volunteer","act":"draining","left":7}"#);
        exact(TrackerResponse::Status { length: 2 }, r#"{"type":"status","length":2}"#);
    }

    #[test]
    fn a_possession_proof_depends_on_key_nonce_and_bytes() {
        let proof = possession_proof(VolunteerKey(1), Nonce(2), b"ab");
        assert_ne!(proof, possession_proof(VolunteerKey(3), Nonce(2), b"ab"));
        assert_ne!(proof, possession_proof(VolunteerKey(1), Nonce(3), b"ab"));
        assert_ne!(proof, possession_proof(VolunteerKey(1), Nonce(2), b"ac"));
        let mut hashed = [0; 34];
        (hashed[15], hashed[31]) = (1, 2);
        hashed[32..].copy_from_slice(b"ab");
        assert_eq!(proof, Digest::of(&hashed));
    }

    #[test]
    fn a_volunteer_key_has_32_digits_and_is_hidden_in_debug_output() {
        for bad in ["", "+0000000000000000000000000000002a", "2a"] {
            assert!(bad.parse::<VolunteerKey>().is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", VolunteerKey(42)), "VolunteerKey(..)");
    }
}
