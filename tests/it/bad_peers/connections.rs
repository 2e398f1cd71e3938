//! Connections to a server that send garbage, half a frame, too many bytes, or nothing.

use super::tracker_with_long_leases;
use crate::common::wire::{Udp, Whole, Wire};
use crate::common::*;
use shoal::content::limits::{FRAME_MAX, PROTOCOL_VERSION};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};

/// Memory limit, bytes. A server that stores the data of a flood exceeds it.
const MEMORY_MAX: u64 = 48 << 20;

/// Invalid first bytes of a connection, each with a description.
fn openings() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("garbage", random_bytes(1, 5_000)),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("no object", b"42\n".to_vec()),
        ("an empty line", b"\n".to_vec()),
        ("another version", b"{\"type\":\"hello\",\"version\":2}\n".to_vec()),
        ("no version", b"{\"type\":\"hello\"}\n".to_vec()),
        ("no hello", b"{\"type\":\"ping\"}\n".to_vec()),
        ("nested too deep", [vec![b'['; 60_000], b"\n".to_vec()].concat()),
        ("not UTF-8", b"{\"type\":\"\xff\xfe\"}\n".to_vec()),
        ("a NUL", b"\0\n".to_vec()),
    ]
}

/// Asserts that each invalid opening ends the connection, and that a line without an end does so at the size limit.
fn assert_closes_invalid_connections(address: SocketAddr) {
    for (description, bytes) in openings() {
        let mut wire = Wire::connect(address);
        let _ = wire.send_bytes(&bytes);
        wire.stream.shutdown(Shutdown::Write).unwrap_or_else(|_| println!("{description}: closed already"));
        wire.is_closed();
    }
    // Half a line, then the end of the stream.
    let mut wire = Wire::connect(address);
    wire.send_bytes(b"{\"type\":\"hel").unwrap();
    wire.stream.shutdown(Shutdown::Write).unwrap();
    wire.is_closed();
    // A line without an end, before and after the hello.
    for hello in [&b""[..], b"{\"type\":\"hello\",\"version\":3}\n"] {
        let mut wire = Wire::connect(address);
        wire.send_bytes(hello).unwrap();
        let piece = vec![b'x'; FRAME_MAX];
        let mut accepted = 0;
        // The socket buffers take some bytes in any case; a server that continues to read accepts all of them.
        while accepted < 64 << 20 && wire.stream.write_all(&piece).is_ok() {
            accepted += piece.len();
        }
        assert!(accepted < 64 << 20, "the server accepted a line of {accepted} bytes");
    }
}

/// A program of a swarm with one tracker and one seeder.
enum Server {
    Tracker,
    Seeder,
}

/// Asserts that a server closes invalid connections, that a download works afterwards, and that the server has used
/// little memory.
#[track_caller]
fn assert_survives_invalid_connections(server: Server) {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker_with_long_leases(dir);
    let file = write(dir, "a.bin", b"bytes");
    let seeder = seeder(dir, &file, &tracker, &[]);
    let server = match server {
        Server::Tracker => &tracker,
        Server::Seeder => &seeder,
    };
    // A connection without a request does not delay other peers.
    let _silent = Wire::connect(server.address());
    assert_closes_invalid_connections(server.address());
    leecher(&there, tracker.address(), &["a.bin"]).ends_with(0);
    assert!(!server.has_said("panicked"));
    assert!(server.peak_memory() < MEMORY_MAX);
}

#[test]
fn a_seeder_closes_invalid_connections() {
    assert_survives_invalid_connections(Server::Seeder);
}

#[test]
fn a_tracker_closes_invalid_connections() {
    assert_survives_invalid_connections(Server::Tracker);
}

#[test]
fn a_client_closes_invalid_connections() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--quorum", "1"]);
    let chunks = [b"first".to_vec()];
    let full = chunk_folder(dir, "full", 1, &[(1, &chunks[0])]);
    let serves = client(dir, &full, "serves", tracker.address(), &[]);
    assert_closes_invalid_connections(serves.address());
    let empty = chunk_folder(dir, "empty", 1, &[]);
    client(dir, &empty, "asks", tracker.address(), &["--exit-when-complete"]).ends_with(0);
    assert_complete(&empty, &chunks);
}

#[test]
fn a_connection_without_a_hello_is_closed() {
    let place = place();
    let dir = place.path();
    let tracker = tracker_with_long_leases(dir);
    let file = write(dir, "a.bin", b"bytes");
    let seeder = seeder(dir, &file, &tracker, &[]);
    for mut silent in [tracker.address(), seeder.address()].map(Wire::connect) {
        silent.is_closed();
    }
}

#[test]
fn idle_connections_use_little_memory_in_a_tracker() {
    let place = place();
    let tracker = tracker(place.path(), &[]);
    let connections: Vec<Wire> = (0..400)
        .map(|_| {
            let mut wire = Wire::connect(tracker.address());
            wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
            assert!(matches!(wire.message(), Some(TrackerResponse::Hello { .. })));
            wire
        })
        .collect();
    let used = tracker.peak_memory();
    assert!(used < MEMORY_MAX, "peak memory is {used} bytes with {} idle connections", connections.len());
}

#[test]
fn refusals_have_stable_codes() {
    let place = place();
    let dir = place.path();
    let tracker = tracker_with_long_leases(dir);
    let file = write(dir, "a.bin", b"bytes");
    let seeder = seeder(dir, &file, &tracker, &[]);
    let id = Udp::to(tracker.address()).lookup("a.bin")[0].file.id;
    let code = |wire: &mut Wire| match wire.message::<PeerResponse>() {
        Some(PeerResponse::Error { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    let mut wire = Wire::connect(seeder.address());
    wire.send(&PeerRequest::Hello { version: 99, port: None, site: None }).unwrap();
    assert_eq!(code(&mut wire), ErrorCode::UnknownVersion);
    wire.is_closed();
    let mut wire = Wire::connect(seeder.address());
    wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None }).unwrap();
    assert_eq!(wire.message(), Some(PeerResponse::Hello { version: PROTOCOL_VERSION, site: None }));
    wire.send_bytes(b"{\"type\":\"from the future\",\"x\":1}\n").unwrap();
    assert_eq!(code(&mut wire), ErrorCode::UnknownMessage);
    let missing = shoal::content::FileId([9; 32]);
    for (file, index, wanted) in [(missing, 0, ErrorCode::NotFound), (id, 7, ErrorCode::NotHere)] {
        wire.send(&PeerRequest::Chunk { file, index: shoal::content::ChunkIndex(index) }).unwrap();
        assert_eq!(code(&mut wire), wanted);
    }
    // The connection stays usable after these errors.
    wire.send(&PeerRequest::Chunk { file: id, index: shoal::content::ChunkIndex(0) }).unwrap();
    let Some(PeerResponse::Chunk { length, .. }) = wire.message() else { panic!() };
    assert_eq!(wire.payload(length), b"bytes");

    let mut wire = Wire::connect(tracker.address());
    wire.send(&TrackerRequest::Hello { version: 99 }).unwrap();
    let answer = wire.message();
    assert!(
        matches!(answer, Some(TrackerResponse::Error { code: ErrorCode::UnknownVersion, .. })),
        "{answer:?}"
    );
}

#[test]
fn a_half_closed_connection_counts_toward_the_limit_and_ends_at_the_interrupt() {
    let place = place();
    let tracker = tracker_with_long_leases(place.path());
    let whole = Whole::new(random_bytes(3, 16 << 20), 1 << 20);
    let file = write(place.path(), "f.bin", &random_bytes(3, 16 << 20));
    let flags = ["--chunk-size", "1MiB", "--max-connections", "2", "-v"];
    let mut seeder = seeder(place.path(), &file, &tracker, &flags);
    // The connections by which the tracker verifies the seeder's addresses count, too: until they have ended, the seeder
    // refuses another one.
    seeder.wait_for_text("closed its connection");
    let accepted = || loop {
        let mut wire = Wire::connect(seeder.address());
        let is_sent =
            wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None }).is_ok();
        if is_sent && matches!(wire.message(), Some(PeerResponse::Hello { .. })) {
            break wire;
        }
        std::thread::yield_now();
    };
    // Each requests far more bytes than the socket buffers hold, closes its sending side, and reads nothing.
    let stalled: Vec<Wire> = (0..2)
        .map(|_| {
            let mut wire = accepted();
            for index in 0..16 {
                let index = shoal::content::ChunkIndex(index);
                wire.send(&PeerRequest::Chunk { file: whole.id(), index }).unwrap();
            }
            wire.stream.shutdown(Shutdown::Write).unwrap();
            wire
        })
        .collect();
    // Both still count toward the connection limit, so that a third connection is closed.
    Wire::connect(seeder.address()).is_closed();
    seeder.interrupt();
    seeder.ends_with(0);
    drop(stalled);
}
