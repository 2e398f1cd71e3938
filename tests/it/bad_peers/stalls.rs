//! Sources that stall, are slow, close their connection, or do not have the chunks that they announce.

use super::{BadPeerTest, tracker_with_long_leases};
use crate::common::wire::{FakePeer, Whole};
use crate::common::*;
use shoal::protocol::peer::PeerRequest;

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
