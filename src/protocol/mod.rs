//! Frames and messages: what travels between programs, and in which form.
//!
//! - [`frame`]: one JSON object on one line; where it states a `length`, that many raw bytes follow.
//! - [`datagram`]: the same messages, one in each datagram, with a cookie that proves the sender's address.
//! - [`tracker`]: what a tracker is asked and what it answers. [`peer`]: the same for peers;
//!   [`volunteer`]: for volunteers. [`status`]: what a tracker tells of itself.
//!
//! Pure: bytes in, messages out. No socket is named here, and nothing here waits. Every message is
//! tagged by `type`; a type that is not known decodes to `Unknown` and is answered by an error frame.

mod addresses;
pub mod datagram;
pub mod file_summary;
pub mod frame;
pub(crate) mod frequent;
pub mod numbers;
pub mod payload;
pub mod peer;
pub mod status;
pub mod tracker;
pub mod volunteer;

use serde::{Deserialize, Serialize};

/// Why something was refused; stable, so that programs can act on it. The text beside it is for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The protocol version is not spoken here.
    UnknownVersion,
    /// The message type is not known here.
    UnknownMessage,
    /// Not a message, or one that does not fit the conversation.
    Malformed,
    /// The token is not known: register again.
    UnknownToken,
    /// No such file, set or chunk here.
    NotFound,
    /// The chunk is not here, or not verified yet.
    NotHere,
    /// What was served has changed on disk since it was hashed.
    Changed,
    /// Not allowed: the text says why.
    Refused,
    /// A limit is reached; come back later.
    Busy,
    /// Something failed here that is not the asker's fault.
    Internal,
    /// A code of a later version.
    #[serde(other)]
    Other,
}

/// A message that can be read from a line.
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    /// How many raw bytes follow the line.
    fn payload_length(&self) -> u64 {
        0
    }
}
