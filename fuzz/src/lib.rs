//! What several targets need: messages that survive the wire, the machines that answer requests, driven by
//! arbitrary events, and what may be found on a disk in the place of what was written.
//!
//! A target in `targets/` says what must hold for any input, and panics when it does not.

pub mod drive;
pub mod instead;
pub mod requests;

use shoal::content::limits::DATAGRAM_MAX;
use shoal::protocol::Message;
use shoal::protocol::datagram::Datagram;
use shoal::protocol::frame::{self, Decoder};
use shoal::protocol::tracker::TrackerResponse;
use std::fmt::Debug;

/// What was decoded is the same after another journey.
pub fn survives<M: Message + PartialEq + Debug>(message: &M) {
    let Ok(line) = frame::encode(message) else { return };
    let mut decoder = Decoder::new();
    decoder.feed(&line);
    let again = decoder.next_message::<M>().expect("what was encoded is a frame").expect("the line is whole");
    assert_eq!(&again, message);
    assert!(decoder.is_empty());
}

/// Every answer becomes a datagram that fits, shorter and shorter, or is one of those that only travel over TCP.
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
    panic!("an answer that never gets short enough: {response:?}");
}

/// Nobody outside can put more than one line, or control characters, into a log.
pub fn is_one_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
