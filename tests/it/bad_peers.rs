//! Peers that send garbage, half a frame, too much, the wrong bytes, or nothing: they are dropped or done
//! without, and whoever is honest goes on.

use crate::common::wire::{FakePeer, Udp, Whole, Wire};
use crate::common::*;
use shoal::content::limits::{FRAME_MAX, PROTOCOL_VERSION};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tracker::{TrackerRequest, TrackerResponse};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::path::{Path, PathBuf};

/// A server that keeps what it is flooded with would need more, bytes.
const MEMORY_MAX: u64 = 48 << 20;

/// A tracker whose leases outlast the test, so that fake peers need no heartbeats.
fn patient_tracker(dir: &Path) -> Program {
    tracker(dir, &["--lease", "60"])
}

/// What is said first to a server that must not put up with it.
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

/// Each opening must end the connection, and a line without an end must do so at the limit.
fn servers_drop_what_is_no_conversation(address: SocketAddr) {
    for (what, bytes) in openings() {
        let mut wire = Wire::connect(address);
        let _ = wire.send_bytes(&bytes);
        wire.stream.shutdown(Shutdown::Write).unwrap_or_else(|_| println!("{what}: closed already"));
        wire.is_closed();
    }
    // Half a line, and then the end.
    let mut wire = Wire::connect(address);
    wire.send_bytes(b"{\"type\":\"hel").unwrap();
    wire.stream.shutdown(Shutdown::Write).unwrap();
    wire.is_closed();
    // A line that never ends: before the hello, and behind it.
    for hello in [&b""[..], b"{\"type\":\"hello\",\"version\":1}\n"] {
        let mut wire = Wire::connect(address);
        wire.send_bytes(hello).unwrap();
        let piece = vec![b'x'; FRAME_MAX];
        let mut taken = 0;
        // What is in flight is lost in the sockets' buffers; a server that reads on takes it all.
        while taken < 64 << 20 && wire.stream.write_all(&piece).is_ok() {
            taken += piece.len();
        }
        assert!(taken < 64 << 20, "a line of {taken} bytes was taken");
    }
}

#[test]
fn a_seeder_drops_what_is_no_conversation() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = patient_tracker(dir);
    let file = write(dir, "a.bin", b"bytes");
    let seeder = seeder(dir, &file, &tracker, &[]);
    // Somebody who says nothing holds nobody up.
    let _silent = Wire::connect(seeder.address());
    servers_drop_what_is_no_conversation(seeder.address());
    leecher(&there, tracker.address(), &["a.bin"]).ends_with(0);
    assert!(!seeder.has_said("panicked"));
    assert!(seeder.peak_memory() < MEMORY_MAX);
}

#[test]
fn a_tracker_drops_what_is_no_conversation() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = patient_tracker(dir);
    let file = write(dir, "a.bin", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let _silent = Wire::connect(tracker.address());
    servers_drop_what_is_no_conversation(tracker.address());
    leecher(&there, tracker.address(), &["a.bin"]).ends_with(0);
    assert!(!tracker.has_said("panicked"));
    assert!(tracker.peak_memory() < MEMORY_MAX);
}

#[test]
fn a_client_drops_what_is_no_conversation() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--quorum", "1"]);
    let chunks = [b"first".to_vec()];
    let full = chunk_folder(dir, "full", 1, &[(1, &chunks[0])]);
    let serves = client(dir, &full, "serves", tracker.address(), &[]);
    servers_drop_what_is_no_conversation(serves.address());
    let empty = chunk_folder(dir, "empty", 1, &[]);
    client(dir, &empty, "asks", tracker.address(), &["--exit-when-complete"]).ends_with(0);
    assert_complete(&empty, &chunks);
}

#[test]
fn who_connects_and_says_nothing_is_let_go() {
    let place = place();
    let dir = place.path();
    let tracker = patient_tracker(dir);
    let file = write(dir, "a.bin", b"bytes");
    let seeder = seeder(dir, &file, &tracker, &[]);
    for mut silent in [tracker.address(), seeder.address()].map(Wire::connect) {
        silent.is_closed();
    }
}

#[test]
fn idle_connections_cost_a_tracker_little() {
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
    assert!(used < MEMORY_MAX, "{used} bytes for {} idle connections", connections.len());
}

#[test]
fn refusals_have_stable_codes() {
    let place = place();
    let dir = place.path();
    let tracker = patient_tracker(dir);
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
    // The conversation goes on after all that.
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

/// A download beside a peer that is up to no good. The honest one is so slow that the other is met, and its own
/// chunks alone make a whole file.
struct Beside {
    dir: tempfile::TempDir,
    whole: Whole,
    tracker: Program,
    _honest: Program,
}

impl Beside {
    fn new() -> Self {
        let dir = place();
        let whole = Whole::new(random_bytes(5, 600_000), 16_384);
        let file = write(dir.path(), "a.bin", &whole.bytes);
        let tracker = patient_tracker(dir.path());
        let options = ["--chunk-size", "16KiB", "--upload-limit", "256KiB", "--name", "honest", "-v"];
        let honest = seeder(dir.path(), &file, &tracker, &options);
        Self { dir, whole, tracker, _honest: honest }
    }

    /// Starts the download.
    #[track_caller]
    fn start(self, bad: FakePeer) -> Download {
        bad.announce(self.tracker.address(), "bad", &self.whole.summary("a.bin"));
        let there = subfolder(self.dir.path(), "there");
        let leecher = leecher(&there, self.tracker.address(), &["a.bin", "-vv"]);
        Download { there, leecher, bad, beside: self }
    }

    /// Starts the download, and waits for its end, which must be a good one.
    #[track_caller]
    fn download(self, bad: FakePeer) -> Program {
        self.start(bad).finish()
    }
}

struct Download {
    there: PathBuf,
    leecher: Program,
    bad: FakePeer,
    beside: Beside,
}

impl Download {
    #[track_caller]
    fn finish(mut self) -> Program {
        self.bad.met.recv_timeout(PATIENCE).expect("the bad peer is met");
        self.leecher.ends_with(0);
        assert_holds(&self.there.join("a.bin"), &self.beside.whole.bytes);
        assert_eq!(names_in(&self.there), ["a.bin", "logs.log"]);
        self.leecher
    }
}

#[test]
fn wrong_bytes_are_found_out_and_their_sender_named() {
    let beside = Beside::new();
    let bad = FakePeer::answering(&beside.whole, |request, mut right| {
        if let (PeerRequest::Chunk { .. }, Some(last)) = (request, right.last_mut()) {
            *last ^= 1;
        }
        Some(right)
    });
    let address = bad.address.to_string();
    let size = beside.whole.bytes.len();
    let leecher = beside.download(bad);
    let line = leecher.wait_for_text("banned ");
    assert!(line.contains("WARNING") && line.contains(&address), "{line}");
    // Whichever chunk it was asked for first; the last one is shorter.
    let (full, last) = (16_384, size % 16_384);
    let says = |bytes| format!("has a wrong SHA-256 ({bytes} bad bytes)");
    assert!([full, last].iter().any(|bytes| line.contains(&says(*bytes))), "{line}");
}

#[test]
fn another_chunk_than_was_asked_for_is_found_out() {
    // Under the number that was asked for, and under its own.
    for honest_number in [false, true] {
        let beside = Beside::new();
        let whole = beside.whole.clone();
        let bad = FakePeer::answering(&beside.whole, move |request, right| match request {
            PeerRequest::Chunk { file, index } => {
                let other = shoal::content::ChunkIndex((index.0 + 1) % 36);
                let (_, payload) = whole.answer(&PeerRequest::Chunk { file: *file, index: other }).unwrap();
                let index = if honest_number { other } else { *index };
                let line = PeerResponse::Chunk { file: *file, index, length: payload.len() as u32 };
                Some([shoal::protocol::frame::encode(&line).unwrap(), payload].concat())
            }
            _ => Some(right),
        });
        let address = bad.address.to_string();
        let leecher = beside.download(bad);
        let why = if honest_number { "came out of turn" } else { "has a wrong SHA-256" };
        leecher.wait_for("the bad one and the reason", |line| line.contains(&address) && line.contains(why));
    }
}

#[test]
fn who_sends_a_byte_a_second_is_done_without() {
    let beside = Beside::new();
    let whole = beside.whole.clone();
    let bad = FakePeer::start(move |mut wire| {
        while let Some(request) = wire.message::<PeerRequest>() {
            let (response, payload) = whole.answer(&request).unwrap();
            wire.send(&response).unwrap();
            let chunk = matches!(request, PeerRequest::Chunk { .. });
            for piece in payload.chunks(if chunk { 1 } else { payload.len().max(1) }) {
                if wire.send_bytes(piece).is_err() {
                    return;
                }
                // So slow is what this peer is.
                std::thread::sleep(std::time::Duration::from_secs(u64::from(chunk)));
            }
        }
    });
    beside.download(bad);
}

#[test]
fn who_says_that_a_file_has_a_terabyte_is_not_believed() {
    const TERABYTE: u64 = 1 << 40;
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let whole = Whole::new(random_bytes(5, 600_000), 16_384);
    let tracker = patient_tracker(dir);
    // It is the first to tell the tracker of the file, under its right id.
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
fn who_claims_all_and_gives_nothing_is_done_without() {
    let beside = Beside::new();
    let bad = FakePeer::answering(&beside.whole, |request, right| match request {
        PeerRequest::Chunk { index, .. } => Some(
            format!("{{\"type\":\"error\",\"code\":\"not_here\",\"text\":\"no\",\"index\":{}}}\n", index.0)
                .into_bytes(),
        ),
        _ => Some(right),
    });
    beside.download(bad);
}

#[test]
fn who_closes_at_every_chunk_is_done_without() {
    let beside = Beside::new();
    let bad = FakePeer::answering(&beside.whole, |request, right| match request {
        PeerRequest::Chunk { .. } => None,
        _ => Some(right),
    });
    beside.download(bad);
}

#[test]
fn who_sends_half_a_chunk_and_closes_is_done_without() {
    let beside = Beside::new();
    let whole = beside.whole.clone();
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
    beside.download(bad);
}

#[test]
fn who_falls_silent_at_a_chunk_is_done_without() {
    let beside = Beside::new();
    // An empty answer: the request is taken, and nothing ever comes.
    let bad = FakePeer::answering(&beside.whole, |request, right| match request {
        PeerRequest::Chunk { .. } => Some(Vec::new()),
        _ => Some(right),
    });
    beside.download(bad);
}

#[test]
fn who_says_nothing_at_all_is_done_without() {
    let beside = Beside::new();
    let bad = FakePeer::start(|mut wire| wire.is_closed());
    beside.download(bad);
}

#[test]
fn who_answers_garbage_is_done_without() {
    let answers = [
        random_bytes(1, 3_000),
        b"{\"type\":\"hello\",\"version\":2}\n".to_vec(),
        b"{\"type\":\"error\",\"code\":\"busy\",\"text\":\"go away\\u001b[31m\"}\n".to_vec(),
        b"{\"type\":\"hello\",\"version\":1}\n{\"type\":\"hello\",\"version\":1}\n".to_vec(),
        b"{\"type\":\"hel".to_vec(),
    ];
    let downloads = answers.map(|answer| {
        Beside::new().start(FakePeer::start(move |mut wire| {
            let _ = wire.message::<PeerRequest>();
            let _ = wire.send_bytes(&answer);
        }))
    });
    for download in downloads {
        let leecher = download.finish();
        assert!(!leecher.lines().iter().any(|line| line.contains('\u{1b}')), "the terminal is not driven");
    }
}

#[test]
fn who_sends_a_line_without_end_is_done_without() {
    let beside = Beside::new();
    let bad = FakePeer::start(|mut wire| {
        let _ = wire.message::<PeerRequest>();
        let piece = vec![b' '; 64 << 10];
        let mut sent = 0;
        while sent < 64 << 20 && wire.send_bytes(&piece).is_ok() {
            sent += piece.len();
        }
    });
    beside.download(bad);
}

#[test]
fn who_lies_about_lengths_is_done_without() {
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
        let beside = Beside::new();
        let change = move |request: &PeerRequest, right| Some(lie(request).map_or(right, String::into_bytes));
        let bad = FakePeer::answering(&beside.whole, change);
        beside.start(bad)
    });
    for download in downloads {
        download.finish();
    }
}

#[test]
fn wrong_bytes_alone_end_in_a_clear_error() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = patient_tracker(dir);
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
fn a_manifest_of_another_file_is_not_believed() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = patient_tracker(dir);
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
fn a_client_does_not_take_wrong_bytes_either() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--lease", "60"]);
    let chunks = [random_bytes(1, 20_000)];
    let all = [(1, chunks[0].as_slice())];
    // A holder whose file is exchanged behind its back: it claims what it no longer has.
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
fn a_half_closed_connection_keeps_its_place_and_ends_at_the_interrupt() {
    let place = place();
    let tracker = patient_tracker(place.path());
    let whole = Whole::new(random_bytes(3, 16 << 20), 1 << 20);
    let file = write(place.path(), "f.bin", &random_bytes(3, 16 << 20));
    let flags = ["--chunk-size", "1MiB", "--max-connections", "2"];
    let mut seeder = seeder(place.path(), &file, &tracker, &flags);
    // Each asks for far more than the sockets hold, closes its own side, and reads nothing of it.
    let deaf: Vec<Wire> = (0..2)
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
    // Both still count, so that a third one finds no place.
    Wire::connect(seeder.address()).is_closed();
    seeder.interrupt();
    seeder.ends_with(0);
    drop(deaf);
}

#[test]
fn small_talk_does_not_make_up_for_a_chunk_that_does_not_come() {
    let place = place();
    let tracker = patient_tracker(place.path());
    let whole = Whole::new(random_bytes(4, 40_000), 16_384);
    let file = write(place.path(), "f.bin", &random_bytes(4, 40_000));
    // More of them than copies of a chunk are ever asked for at once.
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
