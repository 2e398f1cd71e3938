//! Every message, and every list that is sent as a payload: arbitrary bytes never cause a panic, and a decoded value
//! is the same after another round of encoding. The first byte selects the type of the others.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::protocol::Message;
use shoal::protocol::frame::Decoder;
use shoal::protocol::peer::{OpeningRequest, PeerRequest, PeerResponse};
use shoal::protocol::status::Status;
use shoal::protocol::tracker::{FoundFile, OfferedFile, PeerSummary, TrackerRequest, TrackerResponse};
use shoal_fuzz::{fits_in_a_datagram, survives};
use std::fmt::Debug;

fn message<M: Message + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let mut decoder = Decoder::new();
    decoder.feed(bytes);
    decoder.feed(b"\n");
    let message = decoder.next_message::<M>().ok()??;
    survives(&message);
    let _ = message.payload_length();
    Some(message)
}

fn list<T>(bytes: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug,
{
    if let Ok(value) = serde_json::from_slice::<T>(bytes) {
        let again = serde_json::to_vec(&value).expect("a decoded list can be encoded");
        assert_eq!(serde_json::from_slice::<T>(&again).expect("an encoded list can be decoded"), value);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind {
        b'a' => drop(message::<TrackerRequest>(bytes)),
        b'b' => {
            if let Some(response) = message::<TrackerResponse>(bytes) {
                let _ = fits_in_a_datagram(response);
            }
        }
        b'c' => drop(message::<PeerRequest>(bytes)),
        b'd' => drop(message::<PeerResponse>(bytes)),
        b'i' => drop(message::<OpeningRequest>(bytes)),
        b'e' => list::<Vec<FoundFile>>(bytes),
        b'f' => list::<Vec<PeerSummary>>(bytes),
        b'g' => list::<Vec<OfferedFile>>(bytes),
        b'h' => list::<Status>(bytes),
        _ => {}
    }
});
