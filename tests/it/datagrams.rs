//! Datagrams that are forged, truncated, or from senders that are not registered.

use crate::common::wire::Udp;
use crate::common::*;
use shoal::content::FileName;
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::protocol::ErrorCode;
use shoal::protocol::datagram::{Cookie, Datagram};
use shoal::protocol::tracker::{Token, TrackerRequest, TrackerResponse};

fn lookup(name: &str) -> TrackerRequest {
    TrackerRequest::Lookup { name: Some(FileName::new(name).unwrap()), id: None, limit: 50, token: None }
}

/// All replies of the tracker to one datagram. A second request on the same socket is answered after them, so that
/// its reply marks the end.
fn answers(udp: &mut Udp, datagram: &[u8]) -> Vec<Vec<u8>> {
    let probe = Datagram::new(u64::MAX, None, TrackerRequest::Unknown).encode().unwrap();
    udp.socket.send(datagram).unwrap();
    udp.socket.send(&probe).unwrap();
    let mut answers = Vec::new();
    loop {
        let Some(answer) = udp.receive() else {
            udp.socket.send(&probe).unwrap();
            continue;
        };
        match Datagram::<TrackerResponse>::decode(&answer) {
            Ok(Datagram { tx: u64::MAX, .. }) => return answers,
            _ => answers.push(answer),
        }
    }
}

#[test]
fn an_unvalidated_source_never_receives_more_bytes_than_it_sent() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let file = write(dir, "a.bin", b"bytes");
    let _seeders = [0; 4].map(|_| seeder(dir, &file, &tracker, &[]));
    let mut udp = Udp::to(tracker.address());
    let asked = |cookie| serde_json::to_vec(&Datagram::new(3, cookie, lookup("a.bin"))).unwrap();
    let padded = |length: usize| {
        let mut bytes = asked(None);
        bytes.resize(length.max(bytes.len()), b' ');
        bytes
    };
    let mut datagrams = vec![
        asked(None),
        asked(Some(Cookie(0))),
        asked(Some(Cookie(u64::MAX))),
        padded(160),
        padded(1_200),
        padded(1_201),
        b"garbage".to_vec(),
        b"".to_vec(),
        vec![0; 1_400],
        br#"{"v":9,"tx":1}"#.to_vec(),
        br#"{"v":5,"tx":1}"#.to_vec(),
        br#"{"v":5,"tx":1,"message":{"type":"never"}}"#.to_vec(),
        [&br#"{"v":9,"tx":1,"message":{}}"#[..], &[b' '; 300]].concat(),
        [&br#"{"v":5,"tx":1,"message":{}}"#[..], &[b' '; 300]].concat(),
    ];
    // Also each prefix of a request.
    let whole = padded(160);
    datagrams.extend((0..whole.len()).step_by(7).map(|length| whole[..length].to_vec()));
    for datagram in datagrams {
        let got: usize = answers(&mut udp, &datagram).iter().map(Vec::len).sum();
        let text = String::from_utf8_lossy(&datagram).into_owned();
        assert!(got <= datagram.len(), "{got} bytes for the {} of {text:?}", datagram.len());
    }
    // A validated source receives the full response, which is larger.
    let found = udp.lookup("a.bin");
    assert_eq!((found.len(), found[0].whole.len()), (1, 4));
}

#[test]
fn a_cookie_is_invalid_for_another_source() {
    let place = place();
    let tracker = tracker(place.path(), &[]);
    let mut udp = Udp::to(tracker.address());
    let question = Datagram::new(1, None, lookup("a.bin")).encode().unwrap();
    let first = answers(&mut udp, &question);
    let TrackerResponse::Cookie { cookie } = Datagram::decode(&first[0]).unwrap().message else { panic!() };
    let with_cookie = Datagram::new(2, Some(cookie), lookup("a.bin")).encode().unwrap();
    let mut other = Udp::to(tracker.address());
    let refused = answers(&mut other, &with_cookie);
    for answer in refused {
        let answer = Datagram::<TrackerResponse>::decode(&answer).unwrap();
        assert!(matches!(answer.message, TrackerResponse::Cookie { .. }), "{answer:?}");
    }
    let taken = answers(&mut udp, &with_cookie);
    // This response passes through the state thread, so that it may arrive after the next one.
    let answer = taken.into_iter().next().unwrap_or_else(|| udp.receive().unwrap());
    assert!(matches!(Datagram::decode(&answer).unwrap().message, TrackerResponse::Found { .. }));
}

#[test]
fn requests_with_a_forged_token_are_rejected() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let file = write(dir, "a.bin", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let mut udp = Udp::to(tracker.address());
    let found = udp.lookup("a.bin");
    let token = Token(42);
    let announce = TrackerRequest::Announce { token, file: found[0].file.clone(), held: 0, sent: None };
    for forged in [TrackerRequest::Heartbeat { token }, announce] {
        let answer = udp.ask(&forged);
        assert!(matches!(answer, TrackerResponse::Error { code: ErrorCode::UnknownToken, .. }), "{answer:?}");
    }
    udp.ask(&TrackerRequest::Goodbye { token });
    assert_eq!(udp.lookup("a.bin"), found, "the seeder is still there");
}

#[test]
fn peers_behind_one_address_are_told_apart() {
    let place = place();
    let tracker = tracker(place.path(), &[]);
    let whole = wire::Whole::new(b"bytes".to_vec(), 16_384);
    let mut udp = Udp::to(tracker.address());
    let tokens = [7001, 7002].map(|port| {
        let token = udp.register(&format!("peer-{port}"), port);
        udp.announce(token, &whole.summary("a.bin"));
        token
    });
    assert_eq!(udp.lookup("a.bin")[0].whole.len(), 2);
    udp.ask(&TrackerRequest::Goodbye { token: tokens[0] });
    let left = udp.lookup("a.bin");
    assert_eq!(left[0].whole, ["127.0.0.1:7002".parse::<std::net::SocketAddr>().unwrap().into()]);
}

#[test]
fn a_lookup_that_exceeds_a_datagram_is_repeated_over_tcp() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &["--lease", "60"]);
    let whole = wire::Whole::new(random_bytes(1, 200_000), 16_384);
    let mut udp = Udp::to(tracker.address());
    let peer = wire::FakePeer::answering(&whole, |_, right| Some(right));
    for port in 1..=99 {
        let token = udp.register(&format!("absent-{port}"), port);
        udp.announce(token, &whole.summary("a.bin"));
    }
    peer.announce(tracker.address(), "present", &whole.summary("a.bin"));
    let name = Some(FileName::new("a.bin").unwrap());
    let request = TrackerRequest::Lookup { name, id: None, limit: 500, token: None };
    let TrackerResponse::Found { files, truncated } = udp.ask(&request) else { panic!() };
    assert!(truncated && files[0].holders == 100 && files[0].whole.len() < 100);
    // Over TCP all of them are listed.
    let mut tcp = wire::Wire::connect(tracker.address());
    tcp.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
    tcp.send(&request).unwrap();
    assert_eq!(tcp.message(), Some(TrackerResponse::Hello { version: PROTOCOL_VERSION }));
    let Some(TrackerResponse::Found { files, truncated }) = tcp.message() else { panic!() };
    assert!(!truncated && files[0].whole.len() == 100);
    // A leecher finds the one holder of the hundred that exists.
    leecher(&there, tracker.address(), &["a.bin"]).ends_with(0);
    assert_holds(&there.join("a.bin"), &whole.bytes);
}

#[test]
fn garbage_datagrams_do_not_disturb_the_tracker() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let file = write(dir, "a.bin", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let udp = Udp::to(tracker.address());
    for seed in 0..500 {
        let bytes = random_bytes(seed, 1 + (seed as usize * 3) % 1_400);
        udp.socket.send(&bytes).unwrap();
    }
    let deep = [&br#"{"v":5,"tx":1,"message":"#[..], &[b'['; 1_000]].concat();
    udp.socket.send(&deep).unwrap();
    assert_eq!(Udp::to(tracker.address()).lookup("a.bin").len(), 1);
    assert!(!tracker.has_said("panicked"));
}
