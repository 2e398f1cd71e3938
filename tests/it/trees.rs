//! Chains and trees of receivers that download a file from its only seeder. The seeder assigns predecessors, and one
//! faulty receiver cannot keep the others from the file.

use crate::common::wire::{FakePeer, Whole, Wire};
use crate::common::*;
use shoal::content::limits::UNREQUESTED_ARRIVALS_MAX;
use shoal::content::{Bitfield, FileId};
use shoal::protocol::peer::{PeerRequest, PeerResponse, Upstream};
use std::net::SocketAddr;

const CHUNK: usize = 16 << 10;
const CHUNKS: usize = 64;

/// Joins the chain of a seeder as a receiver that serves on `port`.
fn join_chain(seeder: SocketAddr, file: FileId, port: u16) -> (Wire, Vec<Upstream>) {
    let mut wire = Wire::connect(seeder);
    wire.send(&PeerRequest::Hello { version: 2, port: Some(port) }).unwrap();
    assert!(matches!(wire.message(), Some(PeerResponse::Hello { .. })));
    wire.send(&PeerRequest::Have { file }).unwrap();
    loop {
        if let PeerResponse::Have { length, upstreams, .. } = wire.message().expect("an answer") {
            wire.payload(length);
            return (wire, upstreams);
        }
    }
}

/// The next predecessor that the seeder assigns.
fn next_upstream(wire: &mut Wire) -> Upstream {
    loop {
        if let PeerResponse::Upstream { upstream, .. } = wire.message().expect("the connection stays open") {
            return upstream;
        }
    }
}

/// A tracker, a seeder, and the bytes and the id of its file.
fn seed(dir: &std::path::Path) -> (Program, Program, Vec<u8>, FileId) {
    let bytes = random_bytes(7, CHUNK * CHUNKS);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB", "-vv"]);
    let id = Whole::new(bytes.clone(), CHUNK as u32).id();
    (tracker, seeder, bytes, id)
}

#[test]
fn each_receiver_is_told_its_predecessor_and_each_change() {
    let place = place();
    let (_tracker, seeder, _, file) = seed(place.path());
    let at = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
    let behind = |peer, first, steps| Upstream {
        peer,
        beyond: None,
        first,
        stripe: 0,
        stripes: 1,
        steps,
        slow: false,
        left: false,
    };
    let (first, upstreams) = join_chain(seeder.address(), file, 7001);
    assert_eq!(upstreams, [behind(None, false, 1)], "the seeder itself");
    let (mut second, upstreams) = join_chain(seeder.address(), file, 7002);
    assert_eq!(upstreams, [behind(at(7001), true, 2)]);
    let (mut third, upstreams) = join_chain(seeder.address(), file, 7003);
    assert_eq!(upstreams, [Upstream { beyond: at(7001), ..behind(at(7002), false, 3) }]);
    drop(first);
    assert_eq!(next_upstream(&mut second), Upstream { left: true, ..behind(None, false, 1) });
    assert_eq!(next_upstream(&mut third), behind(at(7002), true, 2));
    third.send(&PeerRequest::Overtake { file, stripe: 0, sure: true }).unwrap();
    assert_eq!(next_upstream(&mut third), behind(None, false, 1));
    assert_eq!(next_upstream(&mut second), behind(at(7003), true, 2));
}

#[test]
fn a_receiver_without_chunks_at_the_head_does_not_block_the_others() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let (tracker, seeder, bytes, file) = seed(dir);
    // It announces no chunks, and answers no other request.
    let silent = FakePeer::start(|mut wire| {
        while let Some(request) = wire.message::<PeerRequest>() {
            let sent = match request {
                PeerRequest::Hello { .. } => wire.send(&PeerResponse::Hello { version: 2 }),
                PeerRequest::Have { file } => {
                    let have = Bitfield::none(CHUNKS as u32).to_bytes();
                    let (count, length) = (CHUNKS as u32, have.len() as u64);
                    let response = PeerResponse::Have { file, count, length, upstreams: vec![] };
                    wire.send(&response).and_then(|()| wire.send_bytes(&have))
                }
                _ => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    let (_head, _) = join_chain(seeder.address(), file, silent.address.port());
    leecher(&there, tracker.address(), &["a.bin", "--stay"]).wait_for_text("Successfully downloaded");
    assert_holds(&there.join("a.bin"), &bytes);
}

#[test]
fn a_receiver_with_wrong_bytes_at_the_head_does_not_block_the_others() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let (tracker, seeder, bytes, file) = seed(dir);
    let whole = Whole::new(bytes.clone(), CHUNK as u32);
    let liar = FakePeer::answering(&whole, |request, answer| match request {
        PeerRequest::Chunk { .. } => {
            let mut answer = answer;
            *answer.last_mut().unwrap() ^= 1;
            Some(answer)
        }
        _ => Some(answer),
    });
    let (_head, _) = join_chain(seeder.address(), file, liar.address.port());
    let leecher = leecher(&there, tracker.address(), &["a.bin", "--stay"]);
    leecher.wait_for_text("bad bytes");
    leecher.wait_for_text("Successfully downloaded");
    assert_holds(&there.join("a.bin"), &bytes);
}

/// Number of receivers; too many for a single chain with [`CHUNKS`] chunks.
const RECEIVER_COUNT: usize = 34;

#[test]
fn a_chain_that_becomes_too_long_is_split_into_stripes() {
    let place = place();
    let (_tracker, seeder, _, file) = seed(place.path());
    let join = |port: usize| join_chain(seeder.address(), file, 7000 + port as u16);
    let mut all: Vec<(Wire, Vec<Upstream>)> = (1..RECEIVER_COUNT).map(join).collect();
    let (_, upstreams) = join(RECEIVER_COUNT);
    let places: Vec<(u8, u8)> =
        upstreams.iter().map(|upstream| (upstream.stripe, upstream.stripes)).collect();
    assert_eq!(places, [(0, 2), (1, 2)]);
    assert!(upstreams.iter().all(|upstream| (2..9).contains(&upstream.steps)), "{upstreams:?}");
    let (first, upstreams) = &mut all[0];
    assert_eq!(upstreams.len(), 1, "the first receiver was in a chain");
    let told = [next_upstream(first), next_upstream(first)];
    assert!(told.iter().all(|upstream| upstream.stripes == 2), "{told:?}");
}

#[test]
fn many_receivers_download_through_trees() {
    let place = place();
    let dir = place.path();
    let (tracker, _seeder, bytes, _) = seed(dir);
    let folders: Vec<_> =
        (0..RECEIVER_COUNT).map(|number| subfolder(dir, &format!("there{number}"))).collect();
    let start = |there: &std::path::PathBuf| leecher(there, tracker.address(), &["a.bin", "--stay"]);
    let leechers: Vec<_> = folders.iter().map(start).collect();
    leechers.iter().for_each(|leecher| drop(leecher.wait_for_text("Successfully downloaded")));
    for there in &folders {
        assert_holds(&there.join("a.bin"), &bytes);
    }
}

#[test]
fn receivers_serve_each_other_during_the_download() {
    let place = place();
    let dir = place.path();
    let (tracker, seeder, bytes, _) = seed(dir);
    let folders: Vec<_> = (0..4).map(|number| subfolder(dir, &format!("there{number}"))).collect();
    let start = |there: &std::path::PathBuf| leecher(there, tracker.address(), &["a.bin", "--stay"]);
    let leechers: Vec<_> = folders.iter().map(start).collect();
    leechers.iter().for_each(|leecher| drop(leecher.wait_for_text("Successfully downloaded")));
    for there in &folders {
        assert_holds(&there.join("a.bin"), &bytes);
    }
    drop(seeder);
}

#[test]
fn announcements_to_a_passive_subscriber_are_batched() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(7, CHUNK * CHUNKS);
    let tracker = tracker(dir, &["--lease", "60"]);
    let slow = ["--chunk-size", "16KiB", "--upload-limit", "300KiB"];
    let _seeder = seeder(dir, &write(dir, "a.bin", &bytes), &tracker, &slow);
    let file = Whole::new(bytes.clone(), CHUNK as u32).id();
    let leecher = leecher(&there, tracker.address(), &["a.bin", "--stay", "-vv"]);
    leecher.wait_for_text("connected to");
    let (mut wire, _) = join_chain(leecher.address(), file, 7009);
    let (mut coming, mut got) = (0, 0);
    leecher.wait_for_text("Successfully downloaded");
    wire.send(&PeerRequest::Ping).unwrap();
    loop {
        match wire.message().expect("the connection stays open") {
            PeerResponse::Coming { .. } => coming += 1,
            PeerResponse::Got { chunks, .. } => got += chunks.len(),
            PeerResponse::Pong => break,
            _ => {}
        }
    }
    assert!(
        got > 2 * UNREQUESTED_ARRIVALS_MAX as usize,
        "only {got} chunks were announced to the subscriber"
    );
    assert_eq!(coming, UNREQUESTED_ARRIVALS_MAX);
}
