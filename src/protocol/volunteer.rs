//! What a tracker and its volunteers say to each other, beside what any peer says.
//!
//! The messages themselves are in [`tracker`](super::tracker): [`VolunteerRequest`] travels as `volunteer`, `holds`, and
//! so on among the other requests, [`VolunteerOrder`] among the other responses. A session goes: register, `volunteer`,
//! any number of `holds`, `reported`; after that the tracker says what to copy from whom, what to drop and what to
//! prove, and everything it says is answered. All of it is over the one connection that the volunteer registered over.

use super::file_summary::FileSummary;
use super::numbers::{Nonce, VolunteerKey};
use crate::content::{ChunkIndex, Digest, FileId, Hasher, Md5};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// A file that is kept by volunteers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeptFile {
    /// What it is.
    #[serde(flatten)]
    pub file: FileSummary,
    /// The MD5 of the whole, which is looked at when it has been put together.
    pub md5: Md5,
}

/// A part of a chunk that a holder is to prove to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChallengedRange {
    /// The file.
    pub file: FileId,
    /// The chunk.
    pub index: ChunkIndex,
    /// Where the range begins in the chunk, bytes.
    pub offset: u32,
    /// Bytes in it.
    pub length: u32,
    /// Goes into the hash before the bytes.
    pub nonce: Nonce,
}

impl ChallengedRange {
    /// What proves that the bytes are there: the SHA-256 of the nonce, its highest byte first, and the bytes of the
    /// range.
    pub fn proof(&self, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(&self.nonce.0.to_be_bytes());
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Why a chunk was not copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFailure {
    /// There is no room for it within what was offered, or on the disk.
    NoRoom,
    /// What the source sent does not have the chunk's digest.
    Corrupt,
    /// The source cannot be reached, or does not have it.
    Unreachable,
    /// It cannot be stored here.
    Disk,
    /// A reason of a later version.
    #[serde(other)]
    Other,
}

/// From a volunteer. `free` is always the bytes that it can still take.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum VolunteerRequest {
    /// Lends space. What it holds already follows.
    Lend {
        /// What it is known by.
        key: VolunteerKey,
        /// Bytes that it lends in all.
        offered: u64,
        /// Bytes that it can still take.
        free: u64,
    },
    /// Tells of chunks that it holds: for the first time in this session, or because they have been checked.
    Holds {
        /// The file.
        #[serde(flatten)]
        kept: KeptFile,
        /// The chunks.
        held: Vec<ChunkIndex>,
        /// Whether they have been hashed, and were right, since it was started.
        checked: bool,
    },
    /// It has told of all that it holds.
    Reported,
    /// A chunk has been copied, and is durable.
    Stored {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// Bytes that it can still take.
        free: u64,
    },
    /// A chunk has not been copied.
    NotStored {
        /// The file.
        file: FileId,
        /// The chunk.
        index: ChunkIndex,
        /// Why, for programs.
        why: CopyFailure,
        /// Why, for people.
        text: String,
        /// Bytes that it can still take.
        free: u64,
    },
    /// Chunks have been dropped, as it was told.
    Dropped {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
        /// Bytes that it can still take.
        free: u64,
    },
    /// Chunks have turned out to be wrong or not there, and are held no more.
    Spoiled {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
        /// Bytes that it can still take.
        free: u64,
    },
    /// Answers a challenge.
    Proof {
        /// The challenge's number.
        challenge: u64,
        /// The proof; nothing when the chunk is not there.
        sha256: Option<Digest>,
    },
    /// Wants to leave for good: what it holds is to be copied elsewhere first. It is told how far that is.
    Drain,
}

/// To a volunteer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum VolunteerOrder {
    /// Welcome.
    Welcome,
    /// Copy a chunk from there, and say `stored` once it is durable. The manifest is there, too.
    Copy {
        /// The file.
        #[serde(flatten)]
        kept: KeptFile,
        /// The chunk.
        index: ChunkIndex,
        /// Who has it. An unspecified address is the tracker's own.
        from: SocketAddr,
    },
    /// Drop chunks: there are enough copies of them elsewhere.
    Drop {
        /// The file.
        file: FileId,
        /// The chunks.
        chunks: Vec<ChunkIndex>,
    },
    /// Prove that a chunk is there.
    Challenge {
        /// To be sent along.
        challenge: u64,
        /// What of it.
        #[serde(flatten)]
        range: ChallengedRange,
    },
    /// How many chunks have yet to be copied elsewhere before it may leave. With none, nothing depends on it any more.
    Draining {
        /// Chunks.
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
    fn requests() {
        use VolunteerRequest::*;
        let say = |act| TrackerRequest::Volunteer { token: Token(42), act };
        exact(
            say(Lend { key: VolunteerKey(42), offered: 9, free: 8 }),
            r#"{"type":"volunteer","token":"KEY","act":"lend","key":"KEY","offered":9,"free":8}"#,
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
        exact(
            say(Proof { challenge: 3, sha256: Some(Digest([9; 32])) }),
            r#"{"type":"volunteer","token":"KEY","act":"proof","challenge":3,"sha256":"HASH"}"#,
        );
        exact(say(Drain), r#"{"type":"volunteer","token":"KEY","act":"drain"}"#);
        exact(TrackerRequest::Status, r#"{"type":"status"}"#);
    }

    #[test]
    fn orders() {
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
        let range = ChallengedRange { file: FILE, index: INDEX, offset: 5, length: 6, nonce: Nonce(42) };
        exact(
            say(Challenge { challenge: 3, range }),
            r#"{"type":"volunteer","act":"challenge","challenge":3,"file":"FILE","index":4,"offset":5,"length":6,"nonce":"KEY"}"#,
        );
        exact(say(Draining { left: 7 }), r#"{"type":"volunteer","act":"draining","left":7}"#);
        exact(TrackerResponse::Status { length: 2 }, r#"{"type":"status","length":2}"#);
    }

    #[test]
    fn a_proof_depends_on_the_nonce_and_on_the_bytes() {
        let range = ChallengedRange { file: FILE, index: INDEX, offset: 0, length: 2, nonce: Nonce(1) };
        let other = ChallengedRange { nonce: Nonce(2), ..range };
        assert_ne!(range.proof(b"ab"), other.proof(b"ab"));
        assert_ne!(range.proof(b"ab"), range.proof(b"ac"));
        let mut whole = vec![0; 15];
        whole.extend(b"\x01ab");
        assert_eq!(range.proof(b"ab"), Digest::of(&whole));
    }

    #[test]
    fn numbers_are_hexadecimal_and_whole_and_do_not_show() {
        for bad in ["", "+0000000000000000000000000000002a", "2a"] {
            assert!(bad.parse::<VolunteerKey>().is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", VolunteerKey(42)), "VolunteerKey(..)");
    }
}
