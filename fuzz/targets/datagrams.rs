//! Datagrams: arbitrary bytes never cause a panic, a decoded datagram survives another round of encoding, and a
//! source without a validated address never gets more bytes than it sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal::content::limits::DATAGRAM_MAX;
use shoal::protocol::Message;
use shoal::protocol::datagram::{CookieJar, Datagram, envelope};
use shoal::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::fmt::Debug;

fn datagram<M: Message + PartialEq + Debug>(bytes: &[u8]) -> Option<Datagram<M>> {
    let datagram = Datagram::<M>::decode(bytes).ok()?;
    assert!(bytes.len() <= DATAGRAM_MAX);
    let seen = envelope(bytes).expect("a datagram has an envelope");
    assert_eq!((seen.v, seen.tx), (datagram.v, datagram.tx));
    if let Ok(again) = datagram.encode() {
        assert!(again.len() <= DATAGRAM_MAX);
        assert_eq!(Datagram::decode(&again).expect("an encoded datagram can be decoded"), datagram);
        if datagram.cookie.is_none() {
            let cookie = CookieJar::new([0; 32]).cookie(([255; 4], 65_535).into(), u64::MAX);
            let answer = Datagram::new(datagram.tx, None, TrackerResponse::Cookie { cookie });
            let answer = serde_json::to_vec(&answer).expect("a cookie can be written");
            assert!(answer.len() <= again.len(), "a cookie fits the response to each request");
        }
    }
    Some(datagram)
}

fuzz_target!(|bytes: &[u8]| {
    let _ = envelope(bytes);
    let _ = datagram::<TrackerRequest>(bytes);
    let _ = datagram::<TrackerResponse>(bytes);
});
