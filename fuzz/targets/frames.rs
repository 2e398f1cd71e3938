//! A stream of frames decodes to the same messages for each way of splitting it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::content::limits::FRAME_MAX;
use shoal::protocol::Message;
use shoal::protocol::frame::{Decoder, encode};
use shoal::protocol::peer::PeerResponse;

/// Maximum payload length that the target reads, bytes; the rest of a longer payload is decoded as frames.
const PAYLOAD_MAX: u64 = 300;

#[derive(Debug, PartialEq)]
enum Seen {
    Message(PeerResponse),
    Byte(u8),
    Refused,
}

/// Feeds pieces of the given sizes, repeatedly, and returns the decoded messages and payload bytes.
fn decode(bytes: &[u8], sizes: &[u8]) -> Vec<Seen> {
    let (mut decoder, mut seen, mut wanted) = (Decoder::new(), Vec::new(), 0);
    let mut sizes = sizes.iter().map(|size| usize::from(*size).max(1)).cycle();
    let mut rest = bytes;
    loop {
        if wanted > 0 {
            let mut payload = vec![0; wanted];
            let taken = decoder.take(&mut payload);
            seen.extend(payload[..taken].iter().map(|byte| Seen::Byte(*byte)));
            wanted -= taken;
        }
        if wanted == 0 {
            match decoder.next_message::<PeerResponse>() {
                Ok(Some(message)) => {
                    wanted = message.payload_length().min(PAYLOAD_MAX) as usize;
                    assert!(encode(&message).is_ok_and(|line| line.len() <= FRAME_MAX + 1));
                    seen.push(Seen::Message(message));
                    continue;
                }
                Ok(None) => {}
                Err(_) => {
                    seen.push(Seen::Refused);
                    return seen;
                }
            }
        }
        if rest.is_empty() {
            return seen;
        }
        let (piece, after) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        decoder.feed(piece);
        rest = after;
    }
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (sizes, bytes) = input;
    let whole = decode(&bytes, &[255]);
    assert_eq!(decode(&bytes, &sizes), whole);
    assert_eq!(decode(&bytes, &[1]), whole);
});
