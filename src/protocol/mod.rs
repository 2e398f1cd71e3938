//! Messages between the programs, and their encoding in frames and datagrams.
//!
//! - [`frame`]: encoding over TCP: one JSON object on one line; a stated `length` is the size of the
//!   payload after it.
//! - [`datagram`]: encoding over UDP: one message in each datagram, with a cookie that validates the source
//!   address.
//! - [`tracker`]: messages between a peer and a tracker or manager. [`peer`]: messages between peers.
//!   [`volunteer`]: messages between a volunteer and a tracker. [`status`]: state of a tracker.
//! - [`tokens`]: secret tokens of 128 bits.
//!
//! Pure: bytes in, messages out, without sockets and without blocking. Every message is tagged by `type`;
//! an unknown type decodes to `Unknown` and is answered with an error frame. The wire format is described
//! in `docs/protocol.md`.

mod addresses;
pub mod datagram;
pub mod discovery;
pub(crate) mod fast_path;
pub mod file_summary;
pub mod frame;
mod limited;
pub mod payload;
pub mod peer;
pub mod peer_address;
pub mod set_report;
pub mod set_status;
pub mod status;
pub mod tokens;
pub mod tracker;
pub mod volunteer;

pub use peer_address::PeerAddress;
use serde::{Deserialize, Serialize};

/// Error code of a refused request.
///
/// Codes are stable, for programs; the text next to the code is for the user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The receiver does not support the protocol version.
    UnknownVersion,
    /// The receiver does not support the message type.
    UnknownMessage,
    /// The receiver is a manager, and the message is for a tracker.
    NotATracker,
    /// The bytes are not a message, or the message is not valid in this state of the connection.
    Malformed,
    /// The token is unknown: the peer must register again.
    UnknownToken,
    /// The file, set or chunk does not exist here.
    NotFound,
    /// The chunk is not held here, or not verified yet.
    NotHere,
    /// The file has changed on disk since it was hashed.
    Changed,
    /// The file was replaced by another one of the same name; the text states its id.
    Replaced,
    /// The request is not allowed; the text states the reason.
    Refused,
    /// A limit is reached; retry later.
    Busy,
    /// The receiver failed for a reason that the request did not cause.
    Internal,
    /// A code of a later protocol version.
    #[serde(other)]
    Other,
}

/// A message that is sent in a frame.
pub trait Message: Serialize + for<'de> Deserialize<'de> {
    /// Size of the payload that follows the line, bytes.
    fn payload_length(&self) -> u64 {
        0
    }
}
