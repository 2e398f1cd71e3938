//! Shared parts of the fuzz targets: round trips of messages, a driver for the state machines of trackers and
//! managers, and mutations of files on disk.
//!
//! A target in `targets/` states invariants that hold for any input, and panics if one is violated.

pub mod drive;
pub mod instead;
pub mod requests;

use shoal::content::limits::DATAGRAM_MAX;
use shoal::protocol::Message;
use shoal::protocol::datagram::Datagram;
use shoal::protocol::frame::{self, Decoder};
use shoal::protocol::tracker::TrackerResponse;
use std::fmt::Debug;

/// Asserts that a message is the same after it is encoded and decoded.
pub fn survives<M: Message + PartialEq + Debug>(message: &M) {
    let Ok(line) = frame::encode(message) else { return };
    let mut decoder = Decoder::new();
    decoder.feed(&line);
    let again =
        decoder.next_message::<M>().expect("an encoded message is a frame").expect("the line is complete");
    assert_eq!(&again, message);
    assert!(decoder.is_empty());
}

/// Whether a response can be sent as a datagram, shortened as far as necessary; `false` if it is only sent over TCP.
pub fn fits_in_a_datagram(mut response: TrackerResponse) -> bool {
    for _ in 0..1_000 {
        match Datagram::new(u64::MAX, None, response.clone()).encode() {
            Ok(bytes) => {
                assert!(bytes.len() <= DATAGRAM_MAX);
                return true;
            }
            Err(_) if response.shrink() => {}
            Err(_) => return false,
        }
    }
    panic!("a response that shrinks without end: {response:?}");
}

/// Asserts that a text from the wire is a single line without control characters, so that it can be logged.
pub fn is_one_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
