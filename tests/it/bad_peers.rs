//! Peers that send garbage, half a frame, too many bytes, wrong bytes, or nothing: they are disconnected or replaced
//! by other sources, and well-behaved peers are served.

use crate::common::wire::{FakePeer, Udp, Whole, Wire};
use crate::common::*;
use shoal::content::limits::{FRAME_MAX, PROTOCOL_VERSION};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};

/// Memory limit, bytes. A server that stores the data of a flood exceeds it.
const MEMORY_MAX: u64 = 48 << 20;

/// A tracker with leases that outlast the test, so that fake peers need no heartbeats.
fn tracker_with_long_leases(dir: &Path) -> Program {
    tracker(dir, &["--lease", "60"])
}

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
    for hello in [&b""[..], b"{\"type\":\"hello\",\"version\":1}\n"] {
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

#[test]
fn a_seeder_closes_invalid_connections() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker_with_long_leases(dir);
    let file = write(dir, "a.bin", b"bytes");
    let seeder = seeder(dir, &file, &tracker, &[]);
    // A connection without a request does not delay other peers.
    let _silent = Wire::connect(seeder.address());
    assert_closes_invalid_connections(seeder.address());
    leecher(&there, tracker.address(), &["a.bin"]).ends_with(0);
    assert!(!seeder.has_said("panicked"));
    assert!(seeder.peak_memory() < MEMORY_MAX);
}

#[test]
fn a_tracker_closes_invalid_connections() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker_with_long_leases(dir);
    let file = write(dir, "a.bin", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let _silent = Wire::connect(tracker.address());
    assert_closes_invalid_connections(tracker.address());
    leecher(&there, tracker.address(), &["a.bin"]).ends_with(0);
    assert!(!tracker.has_said("panicked"));
    assert!(tracker.peak_memory() < MEMORY_MAX);
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
    wire.send(&PeerRequest::Hello { version: 99, port: None }).unwrap();
    assert_eq!(code(&mut wire), ErrorCode::UnknownVersion);
    wire.is_closed();
    let mut wire = Wire::connect(seeder.address());
    wire.send(&PeerRequest::Hello { version: 1, port: None }).unwrap();
    assert_eq!(wire.message(), Some(PeerResponse::Hello { version: 1 }));
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
    assert_eq!(wire.payload(length.into()), b"bytes");

    let mut wire = Wire::connect(tracker.address());
    wire.send(&TrackerRequest::Hello { version: 99 }).unwrap();
    let answer = wire.message();
    assert!(
        matches!(answer, Some(TrackerResponse::Error { code: ErrorCode::UnknownVersion, .. })),
        "{answer:?}"
    );
}

/// A download from a well-behaved seeder and a misbehaving peer. The seeder is slow enough that the leecher also
/// connects to the misbehaving peer, and it has all chunks.
struct BadPeerTest {
    dir: tempfile::TempDir,
    whole: Whole,
    tracker: Program,
    _honest: Program,
}

impl BadPeerTest {
    fn new() -> Self {
        let dir = place();
        let whole = Whole::new(random_bytes(5, 600_000), 16_384);
        let file = write(dir.path(), "a.bin", &whole.bytes);
        let tracker = tracker_with_long_leases(dir.path());
        let options = ["--chunk-size", "16KiB", "--upload-limit", "256KiB", "--name", "honest", "-v"];
        let honest = seeder(dir.path(), &file, &tracker, &options);
        Self { dir, whole, tracker, _honest: honest }
    }

    /// Starts the download.
    #[track_caller]
    fn start(self, bad: FakePeer) -> RunningDownload {
        bad.announce(self.tracker.address(), "bad", &self.whole.summary("a.bin"));
        let there = subfolder(self.dir.path(), "there");
        let leecher = leecher(&there, self.tracker.address(), &["a.bin", "-vv"]);
        RunningDownload { there, leecher, bad, setup: self }
    }

    /// Runs the download and asserts that it succeeds.
    #[track_caller]
    fn download(self, bad: FakePeer) -> Program {
        self.start(bad).finish()
    }
}

struct RunningDownload {
    there: PathBuf,
    leecher: Program,
    bad: FakePeer,
    setup: BadPeerTest,
}

impl RunningDownload {
    #[track_caller]
    fn finish(mut self) -> Program {
        self.bad.accepted.recv_timeout(PATIENCE).expect("the leecher connects to the bad peer");
        self.leecher.ends_with(0);
        assert_holds(&self.there.join("a.bin"), &self.setup.whole.bytes);
        assert_eq!(names_in(&self.there), ["a.bin", "logs.log"]);
        self.leecher
    }
}

#[test]
fn wrong_bytes_are_detected_and_their_sender_is_named() {
    let setup = BadPeerTest::new();
    let bad = FakePeer::answering(&setup.whole, |request, mut right| {
        if let (PeerRequest::Chunk { .. }, Some(last)) = (request, right.last_mut()) {
            *last ^= 1;
        }
        Some(right)
    });
    let address = bad.address.to_string();
    let size = setup.whole.bytes.len();
    let leecher = setup.download(bad);
    let line = leecher.wait_for_text("banned ");
    assert!(line.contains("WARNING") && line.contains(&address), "{line}");
    // Any chunk may be requested first; the last one is shorter.
    let (full, last) = (16_384, size % 16_384);
    let text_for = |bytes| format!("has a wrong SHA-256 ({bytes} bad bytes)");
    assert!([full, last].iter().any(|bytes| line.contains(&text_for(*bytes))), "{line}");
}

#[test]
fn a_chunk_other_than_the_requested_one_is_detected() {
    // The wrong chunk is sent with the requested index, and with its own index.
    for own_index in [false, true] {
        let setup = BadPeerTest::new();
        let whole = setup.whole.clone();
        let bad = FakePeer::answering(&setup.whole, move |request, right| match request {
            PeerRequest::Chunk { file, index } => {
                let other = shoal::content::ChunkIndex((index.0 + 1) % 36);
                let (_, payload) = whole.answer(&PeerRequest::Chunk { file: *file, index: other }).unwrap();
                let index = if own_index { other } else { *index };
                let line = PeerResponse::Chunk { file: *file, index, length: payload.len() as u32 };
                Some([shoal::protocol::frame::encode(&line).unwrap(), payload].concat())
            }
            _ => Some(right),
        });
        let address = bad.address.to_string();
        let leecher = setup.download(bad);
        let why = if own_index { "came out of turn" } else { "has a wrong SHA-256" };
        leecher.wait_for("the bad one and the reason", |line| line.contains(&address) && line.contains(why));
    }
}

#[test]
fn a_peer_that_sends_one_byte_per_second_is_replaced() {
    let setup = BadPeerTest::new();
    let whole = setup.whole.clone();
    let bad = FakePeer::start(move |mut wire| {
        while let Some(request) = wire.message::<PeerRequest>() {
            let (response, payload) = whole.answer(&request).unwrap();
            wire.send(&response).unwrap();
            let chunk = matches!(request, PeerRequest::Chunk { .. });
            for piece in payload.chunks(if chunk { 1 } else { payload.len().max(1) }) {
                if wire.send_bytes(piece).is_err() {
                    return;
                }
                // This rate is the behaviour under test.
                std::thread::sleep(std::time::Duration::from_secs(u64::from(chunk)));
            }
        }
    });
    setup.download(bad);
}

#[test]
fn a_false_file_size_of_a_terabyte_is_rejected() {
    const TERABYTE: u64 = 1 << 40;
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let whole = Whole::new(random_bytes(5, 600_000), 16_384);
    let tracker = tracker_with_long_leases(dir);
    // The bad peer is the first to announce the file to the tracker, under its correct id.
    let bad = FakePeer::answering(&whole, |request, right| {
        match request {
        PeerRequest::Manifest { file } => Some(
            format!(
                "{{\"type\":\"manifest\",\"file\":\"{file}\",\"size\":{TERABYTE},\"chunk_size\":1048576,\"length\":33554432}}\n"
            )
            .into_bytes(),
        ),
        _ => Some(right),
    }
    });
    let mut summary = whole.summary("a.bin");
    (summary.size, summary.chunks) = (TERABYTE, 1 << 20);
    bad.announce(tracker.address(), "bad", &summary);
    let file = write(dir, "a.bin", &whole.bytes);
    let _honest = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB", "--name", "honest"]);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin"]);
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &whole.bytes);
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
}

#[test]
fn a_peer_that_announces_all_chunks_and_sends_none_is_replaced() {
    let setup = BadPeerTest::new();
    let bad = FakePeer::answering(&setup.whole, |request, right| match request {
        PeerRequest::Chunk { index, .. } => Some(
            format!("{{\"type\":\"error\",\"code\":\"not_here\",\"text\":\"no\",\"index\":{}}}\n", index.0)
                .into_bytes(),
        ),
        _ => Some(right),
    });
    setup.download(bad);
}

#[test]
fn a_peer_that_closes_at_each_chunk_request_is_replaced() {
    let setup = BadPeerTest::new();
    let bad = FakePeer::answering(&setup.whole, |request, right| match request {
        PeerRequest::Chunk { .. } => None,
        _ => Some(right),
    });
    setup.download(bad);
}

#[test]
fn a_peer_that_sends_half_a_chunk_and_closes_is_replaced() {
    let setup = BadPeerTest::new();
    let whole = setup.whole.clone();
    let bad = FakePeer::start(move |mut wire| {
        while let Some(request) = wire.message::<PeerRequest>() {
            let (response, payload) = whole.answer(&request).unwrap();
            let chunk = matches!(request, PeerRequest::Chunk { .. });
            wire.send(&response).unwrap();
            let sent = if chunk { payload.len() / 2 } else { payload.len() };
            let _ = wire.send_bytes(&payload[..sent]);
            if chunk {
                return;
            }
        }
    });
    setup.download(bad);
}

#[test]
fn a_peer_that_stalls_at_a_chunk_request_is_replaced() {
    let setup = BadPeerTest::new();
    // An empty response: the request is read, and nothing is sent.
    let bad = FakePeer::answering(&setup.whole, |request, right| match request {
        PeerRequest::Chunk { .. } => Some(Vec::new()),
        _ => Some(right),
    });
    setup.download(bad);
}

#[test]
fn a_peer_that_never_sends_anything_is_replaced() {
    let setup = BadPeerTest::new();
    let bad = FakePeer::start(|mut wire| wire.is_closed());
    setup.download(bad);
}

#[test]
fn a_peer_that_answers_with_garbage_is_replaced() {
    let answers = [
        random_bytes(1, 3_000),
        b"{\"type\":\"hello\",\"version\":2}\n".to_vec(),
        b"{\"type\":\"error\",\"code\":\"busy\",\"text\":\"go away\\u001b[31m\"}\n".to_vec(),
        b"{\"type\":\"hello\",\"version\":1}\n{\"type\":\"hello\",\"version\":1}\n".to_vec(),
        b"{\"type\":\"hel".to_vec(),
    ];
    let downloads = answers.map(|answer| {
        BadPeerTest::new().start(FakePeer::start(move |mut wire| {
            let _ = wire.message::<PeerRequest>();
            let _ = wire.send_bytes(&answer);
        }))
    });
    for download in downloads {
        let leecher = download.finish();
        assert!(
            !leecher.lines().iter().any(|line| line.contains('\u{1b}')),
            "a control character of a peer reached the terminal"
        );
    }
}

#[test]
fn a_peer_that_sends_a_line_without_end_is_replaced() {
    let setup = BadPeerTest::new();
    let bad = FakePeer::start(|mut wire| {
        let _ = wire.message::<PeerRequest>();
        let piece = vec![b' '; 64 << 10];
        let mut sent = 0;
        while sent < 64 << 20 && wire.send_bytes(&piece).is_ok() {
            sent += piece.len();
        }
    });
    setup.download(bad);
}

#[test]
fn a_peer_that_sends_false_lengths_is_replaced() {
    type Lie = fn(&PeerRequest) -> Option<String>;
    let lies: [Lie; 5] = [
        |request| match request {
            PeerRequest::Manifest { file } => Some(format!(
                "{{\"type\":\"manifest\",\"file\":\"{file}\",\"size\":600000,\"chunk_size\":16384,\"length\":18446744073709551615}}\n"
            )),
            _ => None,
        },
        |request| match request {
            PeerRequest::Manifest { file } => Some(format!(
                "{{\"type\":\"manifest\",\"file\":\"{file}\",\"size\":18446744073709551615,\"chunk_size\":16384,\"length\":32}}\n"
            )),
            _ => None,
        },
        |request| match request {
            PeerRequest::Have { file } => Some(format!(
                "{{\"type\":\"have\",\"file\":\"{file}\",\"count\":4294967295,\"length\":536870912}}\n"
            )),
            _ => None,
        },
        |request| match request {
            PeerRequest::Chunk { file, index } => Some(format!(
                "{{\"type\":\"chunk\",\"file\":\"{file}\",\"index\":{},\"length\":4294967295}}\n",
                index.0
            )),
            _ => None,
        },
        |request| match request {
            PeerRequest::Chunk { file, .. } => Some(format!(
                "{{\"type\":\"chunk\",\"file\":\"{file}\",\"index\":4294967295,\"length\":1}}\nx"
            )),
            _ => None,
        },
    ];
    let downloads = lies.map(|lie| {
        let setup = BadPeerTest::new();
        let change = move |request: &PeerRequest, right| Some(lie(request).map_or(right, String::into_bytes));
        let bad = FakePeer::answering(&setup.whole, change);
        setup.start(bad)
    });
    for download in downloads {
        download.finish();
    }
}

#[test]
fn wrong_bytes_from_the_only_source_end_in_a_clear_error() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker_with_long_leases(dir);
    let whole = Whole::new(random_bytes(5, 100_000), 16_384);
    let bad = FakePeer::answering(&whole, |request, mut right| {
        if let (PeerRequest::Chunk { .. }, Some(last)) = (request, right.last_mut()) {
            *last ^= 1;
        }
        Some(right)
    });
    bad.announce(tracker.address(), "bad", &whole.summary("a.bin"));
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "--timeout", "2"]);
    leecher.ends_with(32);
    leecher.wait_for_text("1 source banned for corrupt chunks");
    assert!(!there.join("a.bin").exists());
}

#[test]
fn a_manifest_of_another_file_is_rejected() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker_with_long_leases(dir);
    let (wanted, other) = (Whole::new(b"wanted".to_vec(), 16_384), Whole::new(b"other!".to_vec(), 16_384));
    let bad = FakePeer::answering(&other, |_, right| Some(right));
    bad.announce(tracker.address(), "bad", &wanted.summary("a.bin"));
    let id = wanted.id().to_string();
    let mut leecher = leecher(&there, tracker.address(), &["--id", &id, "--timeout", "2"]);
    leecher.ends_with(4);
    leecher.wait_for_text("invalid manifest: the manifest has the id");
    assert_eq!(names_in(&there), ["logs.log"]);
}

#[test]
fn a_client_does_not_accept_wrong_bytes() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--lease", "60"]);
    let chunks = [random_bytes(1, 20_000)];
    let all = [(1, chunks[0].as_slice())];
    // A holder whose chunk file is replaced while it runs: it still announces the old chunk.
    let rotten = chunk_folder(dir, "rotten", 1, &all);
    let holder = client(dir, &rotten, "rotten", tracker.address(), &[]);
    tracker.wait_for_text("rotten joined the set");
    let good = chunk_folder(dir, "good", 1, &all);
    let _good = client(dir, &good, "good", tracker.address(), &[]);
    tracker.wait_for_text("the set default is agreed upon");
    write(&rotten, "chunk_1", &random_bytes(2, 20_000));
    for name in ["a", "b", "c"] {
        let empty = chunk_folder(dir, name, 1, &[]);
        let mut asks = client(dir, &empty, name, tracker.address(), &["--exit-when-complete"]);
        asks.ends_with(0);
        assert_complete(&empty, &chunks);
    }
    assert!(!holder.has_said("panicked"));
}

#[test]
fn a_half_closed_connection_counts_toward_the_limit_and_ends_at_the_interrupt() {
    let place = place();
    let tracker = tracker_with_long_leases(place.path());
    let whole = Whole::new(random_bytes(3, 16 << 20), 1 << 20);
    let file = write(place.path(), "f.bin", &random_bytes(3, 16 << 20));
    let flags = ["--chunk-size", "1MiB", "--max-connections", "2"];
    let mut seeder = seeder(place.path(), &file, &tracker, &flags);
    // Each requests far more bytes than the socket buffers hold, closes its sending side, and reads nothing.
    let stalled: Vec<Wire> = (0..2)
        .map(|_| {
            let mut wire = Wire::connect(seeder.address());
            wire.send(&PeerRequest::Hello { version: 1, port: None }).unwrap();
            assert!(matches!(wire.message(), Some(PeerResponse::Hello { .. })));
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

#[test]
fn pongs_do_not_extend_the_stall_timeout_of_a_chunk() {
    let place = place();
    let tracker = tracker_with_long_leases(place.path());
    let whole = Whole::new(random_bytes(4, 40_000), 16_384);
    let file = write(place.path(), "f.bin", &random_bytes(4, 40_000));
    // More of these peers than the number of sources that a chunk is requested from at the same time.
    let chatty: Vec<FakePeer> = (0..4)
        .map(|_| {
            FakePeer::answering(&whole, |request, right| match request {
                PeerRequest::Chunk { .. } => Some(b"{\"type\":\"pong\"}\n".to_vec()),
                _ => Some(right),
            })
        })
        .collect();
    for (at, peer) in chatty.iter().enumerate() {
        peer.announce(tracker.address(), &format!("chatty{at}"), &whole.summary("f.bin"));
    }
    let _honest = seeder(place.path(), &file, &tracker, &["--chunk-size", "16KiB"]);
    let there = subfolder(place.path(), "there");
    leecher(&there, tracker.address(), &["f.bin", "--timeout", "110"]).ends_with(0);
    assert_holds(&there.join("f.bin"), &random_bytes(4, 40_000));
}
