//! Members and connections that do not read, are invalid or idle, or advertise the address of another peer.

use super::{PATIENT, tiny_folder};
use crate::common::wire::{RawPeer, Udp, Wire};
use crate::common::*;
use shoal::content::limits::FRAME_MAX;
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::content::{FileName, PeerName};
use shoal::protocol::ErrorCode;
use shoal::protocol::tracker::{Registration, TrackerRequest, TrackerResponse};
use socket2::{Domain, Socket, Type};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// A connection with the smallest receive buffer and segment size that the system permits.
fn connect_with_small_buffers(manager: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&manager.into()).unwrap();
    socket.into()
}

#[test]
fn a_member_that_does_not_read_delays_no_other_member_and_is_disconnected() {
    let place = place();
    let manager = manager(place.path(), &PATIENT);
    let at = manager.address();
    let _deaf = RawPeer::join_over(connect_with_small_buffers(at), "deaf");
    let long = "x".repeat(60);
    // Long lists fill the buffers quickly. All others read them, in threads that end with the manager.
    let crowd = (0..100).map(|number| RawPeer::join(at, &format!("{long}{number:03}")));
    let _crowd: Vec<RawPeer> = crowd
        .inspect(|peer| {
            let mut stream = peer.wire.stream.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        })
        .collect();
    let mut lively = RawPeer::join(at, "lively");
    let again = TrackerRequest::Register(Registration::new(
        lively.summary.name.clone(),
        lively.summary.address.first().port(),
    ));
    let (mut rounds, mut list) = (0, vec![]);
    while !manager.has_said("- deaf at ") {
        // Each registration is a change that all members receive; one of them does not read. The sender receives the
        // list once as the response and once as a member.
        lively.wire.send(&again).unwrap();
        lively.list();
        list = lively.list();
        assert!(list.iter().any(|peer| peer.name.as_str() == "lively"));
        rounds += 1;
        assert!(rounds < 1_000, "the member that does not read is still connected after {rounds} lists");
    }
    manager.wait_for_text("its send queue is full because it does not read");
    manager.wait_for("that it is gone", |line| {
        line.contains("- deaf at ") && line.contains("is gone: its connection ended")
    });
    // The list without that member may have been read already.
    while list.iter().any(|peer| peer.name.as_str() == "deaf") {
        list = lively.list();
    }
}

#[test]
fn an_invalid_connection_is_refused_and_disturbs_no_member() {
    let place = place();
    let manager = manager(place.path(), &[&PATIENT[..], &["-v"]].concat());
    let at = manager.address();
    let mut honest = RawPeer::join(at, "honest");
    honest.wait_for_names(&["honest"]);
    let line = |text: &str| format!("{text}\n").into_bytes();
    for (bytes, code) in [
        (line("garbage \u{1}"), ErrorCode::Malformed),
        (line("GET / HTTP/1.1"), ErrorCode::Malformed),
        (line("42"), ErrorCode::Malformed),
        (line(""), ErrorCode::Malformed),
        (b"{\"type\":\"\xff\xfe\"}\n".to_vec(), ErrorCode::Malformed),
        ([vec![b'['; 60_000], b"\n".to_vec()].concat(), ErrorCode::Malformed),
        (line(r#"{"type":"hello"}"#), ErrorCode::Malformed),
        (line(r#"{"type":"register","name":"n","port":1}"#), ErrorCode::Malformed),
        (line(r#"{"type":"hello","version":1}"#), ErrorCode::UnknownVersion),
    ] {
        let input = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let mut wire = Wire::connect(at);
        wire.send_bytes(&bytes).unwrap();
        match wire.message() {
            Some(TrackerResponse::Error { code: given, text }) => assert_eq!(given, code, "{input}: {text}"),
            other => panic!("{input}: {other:?}"),
        }
        wire.is_closed();
    }
    // Half a frame before and after the hello, and a line of 64 MiB.
    for hello in [&b""[..], b"{\"type\":\"hello\",\"version\":3}\n"] {
        let mut wire = Wire::connect(at);
        wire.send_bytes(&[hello, b"{\"type\":\"hel"].concat()).unwrap();
        wire.stream.shutdown(Shutdown::Write).unwrap();
        wire.is_closed();
        let mut wire = Wire::connect(at);
        wire.send_bytes(hello).unwrap();
        let piece = vec![b'x'; FRAME_MAX];
        // The socket buffers take some bytes in any case; a server that continues to read accepts all of them.
        let endless = (0..1_024).all(|_| wire.send_bytes(&piece).is_ok());
        assert!(!endless, "the manager accepted a line of 64 MiB");
    }
    manager.wait_for_text(&format!("a line of more than {FRAME_MAX} bytes"));
    assert!(manager.peak_memory() < 48 << 20, "{} bytes", manager.peak_memory());
    // Invalid names: the connection is closed, and the list does not contain the peer.
    for name in ["", " a", "a,b", "../x", &"x".repeat(65)] {
        let mut wire = Wire::connect(at);
        let register = format!(r#"{{"type":"register","name":"{name}","port":1}}"#);
        wire.send_bytes(&line(r#"{"type":"hello","version":4}"#)).unwrap();
        wire.send_bytes(&line(&register)).unwrap();
        wire.is_closed();
    }
    // Invalid datagrams.
    let udp = Udp::to(at);
    for bytes in [&b""[..], b"garbage", &random_bytes(4, 1_500), b"{\"v\":2,\"tx\":1}"] {
        udp.socket.send(bytes).unwrap();
    }
    let _next = RawPeer::join(at, "next");
    honest.wait_for_names(&["honest", "next"]);
}

#[test]
fn a_manager_rejects_unsupported_requests() {
    let place = place();
    let manager = manager(place.path(), &PATIENT);
    let at = manager.address();
    let mut peer = RawPeer::join(at, "peer");
    assert_eq!(peer.names(), ["peer"]);
    let name = Some(FileName::new("f").unwrap());
    let lookup = TrackerRequest::Lookup { name, id: None, limit: 1, token: None };
    peer.wire.send(&lookup).unwrap();
    let has_code = |response: Option<TrackerResponse>, expected: ErrorCode| match response {
        Some(TrackerResponse::Error { code, .. }) => code == expected,
        _ => false,
    };
    assert!(has_code(peer.answer(), ErrorCode::NotATracker));
    // A message of a later version is rejected, too, and the connection stays usable.
    peer.wire.send_bytes(b"{\"type\":\"of_a_later_version\",\"x\":[1]}\n").unwrap();
    assert!(has_code(peer.answer(), ErrorCode::UnknownMessage));
    peer.assert_alive();
    // The same holds for datagrams, and a registration needs a connection.
    let mut udp = Udp::to(at);
    assert!(has_code(Some(udp.ask(&lookup)), ErrorCode::NotATracker));
    let register = TrackerRequest::Register(Registration::new(PeerName::new("n").unwrap(), 1));
    assert!(matches!(udp.ask(&register), TrackerResponse::Error { code: ErrorCode::NotATracker, .. }));
    let guessed = TrackerRequest::Goodbye { token: shoal::protocol::tracker::Token(7) };
    assert_eq!(
        udp.ask(&guessed),
        TrackerResponse::Farewell,
        "a guessed token gets the same response as a valid one"
    );
    peer.assert_alive();
}

#[test]
fn idle_connections_are_limited_and_do_not_disturb_members() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[&PATIENT[..], &["--max-connections", "100"]].concat());
    let at = manager.address();
    let mut here = RawPeer::join(at, "here");
    here.wait_for_names(&["here"]);
    let idle: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(at).unwrap()).collect();
    manager.wait_for_text("connection limit reached: 100 open");
    here.assert_alive();
    // A new member replaces an idle connection.
    let _late = member(dir, &tiny_folder(dir, "late"), "late", at, &[]);
    here.wait_for_names(&["here", "late"]);
    drop(idle);
}

#[test]
fn a_peer_cannot_advertise_the_address_of_another_peer() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &PATIENT);
    let at = manager.address();
    let mut honest = RawPeer::join(at, "honest");
    let address = honest.summary.address.first();
    let thief =
        start_member(dir, &tiny_folder(dir, "thief"), "thief", at, &["--advertise", &address.to_string()]);
    thief.wait_for_text(&format!("refuses: {address} is the address of honest already"));
    manager.wait_for_text(&format!(
        "- thief from 127.0.0.1 is refused: {address} is the address of honest already"
    ));
    // Addresses to which no connection is possible.
    for advertise in ["127.0.0.1:0", "0.0.0.0:7", "224.0.0.1:7"] {
        let mut wire = Wire::connect(at);
        wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
        assert_eq!(wire.message(), Some(TrackerResponse::Hello { version: PROTOCOL_VERSION }));
        let name = PeerName::new("nowhere").unwrap();
        wire.send(&TrackerRequest::Register(Registration {
            name,
            port: 1,
            advertise: Some(advertise.parse().unwrap()),
            addresses: Vec::new(),
            identity: None,
            volunteer: false,
        }))
        .unwrap();
        assert!(matches!(wire.message(), Some(TrackerResponse::Error { .. })), "{advertise}");
    }
    // The peer with that address is still registered.
    let _next = RawPeer::join(at, "next");
    honest.wait_for_names(&["honest", "next"]);
    // After its goodbye the address is free, and the refused peer registers at its next attempt.
    honest.leave();
    thief.wait_for_text("registered with the manager");
}

#[test]
fn with_trust_advertised_a_peer_may_advertise_any_address() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &["--trust-advertised"]);
    let afar =
        member(dir, &tiny_folder(dir, "afar"), "afar", manager.address(), &["--advertise", "10.9.9.9:1"]);
    afar.wait_for_text(" as 10.9.9.9:1");
}
