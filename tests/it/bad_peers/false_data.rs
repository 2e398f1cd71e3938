//! Sources that send wrong bytes, false lengths, other chunks, or garbage.

use super::{BadPeerTest, tracker_with_long_leases};
use crate::common::wire::{FakePeer, Whole};
use crate::common::*;
use shoal::protocol::peer::{PeerRequest, PeerResponse};

#[test]
fn wrong_bytes_are_detected_and_their_sender_is_named() {
    let setup = BadPeerTest::new();
    let bad = FakePeer::sending_corrupt_chunks(&setup.whole);
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
                let line = PeerResponse::Chunk { file: *file, index, length: payload.len() as u64 };
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
fn a_peer_that_answers_with_garbage_is_replaced() {
    let answers = [
        random_bytes(1, 3_000),
        b"{\"type\":\"hello\",\"version\":3}\n".to_vec(),
        b"{\"type\":\"error\",\"code\":\"busy\",\"text\":\"go away\\u001b[31m\"}\n".to_vec(),
        b"{\"type\":\"hello\",\"version\":3}\n{\"type\":\"hello\",\"version\":3}\n".to_vec(),
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
    let bad = FakePeer::sending_corrupt_chunks(&whole);
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
    let mut leecher = leecher(&there, tracker.address(), &["--id", &id, "--wait", "2"]);
    leecher.ends_with(3);
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
