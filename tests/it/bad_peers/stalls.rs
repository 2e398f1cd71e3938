//! Sources that stall, are slow, close their connection, or do not have the chunks that they announce.

use super::{BadPeerTest, tracker_with_long_leases};
use crate::common::wire::{FakePeer, Whole};
use crate::common::*;
use shoal::protocol::peer::PeerRequest;
use std::sync::atomic::{AtomicU32, Ordering};

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

#[test]
fn each_byte_of_a_large_chunk_is_progress() {
    let place = place();
    let tracker = tracker_with_long_leases(place.path());
    let whole = Whole::new(random_bytes(6, 40_000), 65_536);
    let copy = whole.clone();
    // One chunk, which takes far longer than the timeout of the leecher.
    let slow = FakePeer::start(move |mut wire| {
        while let Some(request) = wire.message::<PeerRequest>() {
            let (response, payload) = copy.answer(&request).unwrap();
            wire.send(&response).unwrap();
            let chunk = matches!(request, PeerRequest::Chunk { .. });
            for piece in payload.chunks(if chunk { 1_000 } else { payload.len().max(1) }) {
                if wire.send_bytes(piece).is_err() {
                    return;
                }
                // This rate is the behaviour under test.
                std::thread::sleep(std::time::Duration::from_millis(if chunk { 250 } else { 0 }));
            }
        }
    });
    slow.announce(tracker.address(), "slow", &whole.summary("f.bin"));
    let there = subfolder(place.path(), "there");
    leecher(&there, tracker.address(), &["f.bin", "--timeout", "4"]).ends_with(0);
    assert_holds(&there.join("f.bin"), &whole.bytes);
}

/// The error of a source that cannot send a chunk now.
fn unable(code: &str, index: u32) -> Vec<u8> {
    format!("{{\"type\":\"error\",\"code\":\"{code}\",\"text\":\"cannot read it\",\"index\":{index}}}\n")
        .into_bytes()
}

#[test]
fn a_chunk_that_its_only_holder_refused_for_a_moment_is_requested_again() {
    let place = place();
    let tracker = tracker_with_long_leases(place.path());
    let whole = Whole::new(random_bytes(6, 100_000), 16_384);
    for code in ["internal", "busy"] {
        let refusals = AtomicU32::new(0);
        let holder = FakePeer::answering(&whole, move |request, right| match request {
            PeerRequest::Chunk { index, .. } if refusals.fetch_add(1, Ordering::Relaxed) < 4 => {
                Some(unable(code, index.0))
            }
            _ => Some(right),
        });
        let name = format!("{code}.bin");
        holder.announce(tracker.address(), code, &whole.summary(&name));
        let there = subfolder(place.path(), code);
        // By its id: both holders offer the same bytes.
        leecher(&there, tracker.address(), &[&name, "--timeout", "20"]).ends_with(0);
        assert_holds(&there.join(&name), &whole.bytes);
    }
}

#[test]
fn the_chunk_that_the_only_holder_cannot_read_is_named() {
    let place = place();
    let tracker = tracker_with_long_leases(place.path());
    let whole = Whole::new(random_bytes(6, 100_000), 16_384);
    let holder = FakePeer::answering(&whole, move |request, right| match request {
        PeerRequest::Chunk { index, .. } if index.0 == 3 => Some(unable("internal", 3)),
        _ => Some(right),
    });
    holder.announce(tracker.address(), "broken", &whole.summary("f.bin"));
    let mut leecher = leecher(place.path(), tracker.address(), &["f.bin", "--timeout", "3"]);
    leecher.ends_with(4);
    assert!(leecher.has_said("cannot send chunk 4: cannot read it"));
}

#[test]
fn a_refused_chunk_is_missing_also_while_its_request_is_repeated() {
    let place = place();
    let tracker = tracker_with_long_leases(place.path());
    let whole = Whole::new(random_bytes(6, 100_000), 16_384);
    let (keep_silent, silence) = crossbeam_channel::bounded::<()>(0);
    let refused_before = std::sync::atomic::AtomicBool::new(false);
    let holder = FakePeer::answering(&whole, move |request, right| match request {
        PeerRequest::Chunk { index, .. } if index.0 == 3 => {
            if refused_before.swap(true, std::sync::atomic::Ordering::Relaxed) {
                let _ = silence.recv();
            }
            Some(unable("internal", 3))
        }
        _ => Some(right),
    });
    holder.announce(tracker.address(), "broken", &whole.summary("f.bin"));
    let mut leecher = leecher(place.path(), tracker.address(), &["f.bin", "--timeout", "5"]);
    leecher.ends_with(4);
    assert!(leecher.has_said("cannot send chunk 4: cannot read it"));
    drop(keep_silent);
}

#[test]
fn a_pause_of_the_process_does_not_count_as_silence() {
    let place = place();
    let tracker = tracker_with_long_leases(place.path());
    let whole = Whole::new(random_bytes(6, 100_000), 16_384);
    let (requested, requests) = crossbeam_channel::bounded(1);
    let (release, released) = crossbeam_channel::bounded::<()>(0);
    let holder = FakePeer::answering(&whole, move |request, right| {
        if matches!(request, PeerRequest::Chunk { .. }) {
            let _ = requested.try_send(());
            let _ = released.recv();
        }
        Some(right)
    });
    holder.announce(tracker.address(), "waits", &whole.summary("f.bin"));
    let mut leecher = leecher(place.path(), tracker.address(), &["f.bin", "--timeout", "4"]);
    requests.recv_timeout(PATIENCE).unwrap();
    leecher.pause();
    // The length of the pause is the behaviour under test.
    std::thread::sleep(std::time::Duration::from_secs(6));
    leecher.resume();
    leecher.wait_for_text("the process was stopped for");
    drop(release);
    leecher.ends_with(0);
    assert_holds(&place.path().join("f.bin"), &whole.bytes);
}
