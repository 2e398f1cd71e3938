//! Fan-out by rings: a root tells its members their predecessors, and no faulty peer keeps the others from the file.

use crate::common::wire::{FakePeer, Whole, Wire};
use crate::common::*;
use shoal::content::limits::{PROTOCOL_VERSION, UNREQUESTED_ARRIVALS_MAX};
use shoal::content::{Bitfield, ChunkIndex, FileId};
use shoal::protocol::frame::encode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::swarm::rings::RINGS;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

const CHUNK: usize = 16 << 10;
const CHUNKS: usize = 64;
/// With an upload limit a seeder keeps rings also for peers on its host.
const LIMITED: [&str; 2] = ["--upload-limit", "1GiB"];
/// Stall timeout of a leecher whose root does not answer.
const STALL: Duration = Duration::from_secs(1);
/// Number of receivers of the tests with a swarm.
const RECEIVER_COUNT: usize = 16;

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Subscribes to a file as a receiver that serves on `port`. Also returns the number of members of the rings.
fn subscribe(peer: SocketAddr, file: FileId, port: u16) -> (Wire, Option<u32>) {
    let mut wire = Wire::connect(peer);
    wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: Some(port), site: None }).unwrap();
    assert!(matches!(wire.message(), Some(PeerResponse::Hello { .. })));
    wire.send(&PeerRequest::Have { file }).unwrap();
    loop {
        if let PeerResponse::Have { length, members, .. } = wire.message().expect("an answer") {
            wire.payload(length);
            return (wire, members);
        }
    }
}

/// The next placement of a member.
fn next_place(wire: &mut Wire) -> (usize, SocketAddr) {
    loop {
        if let PeerResponse::Place { ring, peer, .. } = wire.message().expect("the connection stays open") {
            return (ring.into(), peer);
        }
    }
}

/// The answer of a seeder to a request for a chunk of its choice.
fn next_chunk(wire: &mut Wire, file: FileId, have: &[u32]) -> Option<u32> {
    let have = have.iter().map(|index| (ChunkIndex(*index), ChunkIndex(*index))).collect();
    wire.send(&PeerRequest::Next { file, have }).unwrap();
    loop {
        match wire.message().expect("the connection stays open") {
            PeerResponse::Chunk { index, length, .. } => {
                wire.payload(length);
                return Some(index.0);
            }
            PeerResponse::Spent { answer: true, .. } => return None,
            _ => {}
        }
    }
}

/// A tracker, a seeder, and the bytes and the id of its file.
fn seed(dir: &std::path::Path, extra: &[&str]) -> (Program, Program, Vec<u8>, FileId) {
    let bytes = random_bytes(7, CHUNK * CHUNKS);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let seeder = seeder(dir, &file, &tracker, &[&["--chunk-size", "16KiB", "-vv"], extra].concat());
    let id = Whole::new(bytes.clone(), CHUNK as u32).id();
    (tracker, seeder, bytes, id)
}

/// Starts receivers that stay when they are complete. Returns them with their folders.
fn receivers(dir: &std::path::Path, tracker: &Program, args: &[&str]) -> Vec<(Program, PathBuf)> {
    let start = |number: usize| {
        let there = subfolder(dir, &format!("there{number}"));
        (leecher(&there, tracker.address(), &[&["a.bin", "--stay", "-vv"], args].concat()), there)
    };
    (0..RECEIVER_COUNT).map(start).collect()
}

/// A peer that has no chunks, and answers no other request.
fn silent_peer(whole: &Whole) -> FakePeer {
    FakePeer::answering(whole, |request, right| match request {
        PeerRequest::Have { file } => {
            let have = Bitfield::none(CHUNKS as u32).to_bytes();
            let (count, length) = (CHUNKS as u32, have.len() as u64);
            let response = PeerResponse::Have { file: *file, count, length, members: None, direct: false };
            Some([encode(&response).unwrap(), have].concat())
        }
        PeerRequest::Hello { .. } => Some(right),
        _ => Some(Vec::new()),
    })
}

fn assert_complete(receivers: &[(Program, PathBuf)], bytes: &[u8]) {
    for (receiver, there) in receivers {
        receiver.wait_for_text("Successfully downloaded");
        assert_holds(&there.join("a.bin"), bytes);
    }
}

#[test]
fn members_are_told_their_predecessors_and_each_change() {
    let place = place();
    let (_tracker, seeder, _, file) = seed(place.path(), &LIMITED);
    let (mut first, members) = subscribe(seeder.address(), file, 7001);
    assert_eq!(members, Some(0));
    first.send(&PeerRequest::Join { file }).unwrap();
    first.send(&PeerRequest::Ping).unwrap();
    while first.message() != Some(PeerResponse::Pong) {}
    let (mut second, members) = subscribe(seeder.address(), file, 7002);
    assert_eq!(members, Some(1));
    second.send(&PeerRequest::Join { file }).unwrap();
    for ring in 0..RINGS {
        assert_eq!(next_place(&mut first), (ring, local(7002)));
        assert_eq!(next_place(&mut second), (ring, local(7001)));
    }
    let (mut third, _) = subscribe(seeder.address(), file, 7003);
    third.send(&PeerRequest::Join { file }).unwrap();
    let placed: Vec<_> = (0..RINGS).map(|_| next_place(&mut third)).collect();
    assert_eq!(placed.iter().map(|(ring, _)| *ring).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let is_behind_first = |(_, peer): &(usize, SocketAddr)| *peer == local(7001);
    let behind_first = placed.iter().filter(|place| is_behind_first(place)).count();
    drop(second);
    // Of two members each follows the other in each ring again.
    for _ in 0..RINGS - behind_first {
        assert_eq!(next_place(&mut third).1, local(7001));
    }
}

#[test]
fn a_seeder_sends_each_chunk_once_before_members_choose() {
    let place = place();
    let (_tracker, seeder, _, file) = seed(place.path(), &LIMITED);
    let mut members: Vec<Wire> = (7001..7003).map(|port| subscribe(seeder.address(), file, port).0).collect();
    for member in &mut members {
        member.send(&PeerRequest::Join { file }).unwrap();
    }
    let mut sent = Vec::new();
    for turn in 0..CHUNKS {
        sent.extend(next_chunk(&mut members[turn % 2], file, &[]));
    }
    sent.sort_unstable();
    assert_eq!(sent, (0..CHUNKS as u32).collect::<Vec<_>>());
    for member in &mut members {
        assert_eq!(next_chunk(member, file, &[]), None);
    }
    // What only a peer that has left was sent is sent again.
    let left = members.remove(0).stream.local_addr().unwrap();
    seeder.wait_for("the end of its connection", |line| {
        line.contains(&left.to_string()) && (line.contains(" closed its ") || line.contains("disconnected "))
    });
    let again = std::iter::from_fn(|| next_chunk(&mut members[0], file, &[]));
    assert_eq!(again.count(), CHUNKS / 2);
}

#[test]
fn a_seeder_without_upload_limit_keeps_no_rings_for_peers_on_its_host() {
    for (extra, is_direct) in [(&[][..], true), (&LIMITED[..], false)] {
        let place = place();
        let (_tracker, seeder, _, file) = seed(place.path(), extra);
        let mut wire = Wire::connect(seeder.address());
        wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: Some(7001), site: None }).unwrap();
        assert!(matches!(wire.message(), Some(PeerResponse::Hello { .. })));
        wire.send(&PeerRequest::Have { file }).unwrap();
        let Some(PeerResponse::Have { members, direct, .. }) = wire.message() else { panic!("no bitfield") };
        assert_eq!((members.is_none(), direct), (is_direct, is_direct));
    }
}

#[test]
fn a_leecher_with_a_direct_source_connects_to_no_partial_source() {
    let place = place();
    let tracker = tracker(place.path(), &["--lease", "60"]);
    let whole = Whole::new(random_bytes(7, CHUNK * CHUNKS), CHUNK as u32);
    let named = FakePeer::start(|mut wire| while wire.message::<PeerRequest>().is_some() {});
    let peers = vec![named.address];
    let direct = FakePeer::answering(&whole, move |request, right| match request {
        PeerRequest::Have { file } => {
            let length = CHUNKS.div_ceil(8) as u64;
            let (file, count) = (*file, CHUNKS as u32);
            let have = PeerResponse::Have { file, count, length, members: None, direct: true };
            let peers = PeerResponse::Peers { file, peers: peers.clone() };
            let payload = vec![0xff; length as usize];
            Some([encode(&have).unwrap(), payload, encode(&peers).unwrap()].concat())
        }
        _ => Some(right),
    });
    direct.announce(tracker.address(), "direct", &whole.summary("a.bin"));
    let leecher = leecher(place.path(), tracker.address(), &["a.bin", "-vv"]);
    leecher.wait_for_text("Successfully downloaded");
    assert!(named.accepted.try_recv().is_err());
}

#[test]
fn a_swarm_downloads_from_one_seeder_which_sends_little_more_than_the_file() {
    let place = place();
    let (tracker, seeder, bytes, _) = seed(place.path(), &["--upload-limit", "2MiB"]);
    let receivers = receivers(place.path(), &tracker, &[]);
    assert_complete(&receivers, &bytes);
    let sent = seeder.lines().iter().filter(|line| line.contains("serving chunk")).count();
    assert!(sent < CHUNKS * RECEIVER_COUNT / 2, "{sent} of {CHUNKS} chunks");
}

#[test]
fn a_swarm_completes_when_its_root_leaves() {
    let place = place();
    let dir = place.path();
    let (tracker, mut root, bytes, _) = seed(dir, &["--upload-limit", "500KiB"]);
    let other = subfolder(dir, "other");
    let file = write(&other, "a.bin", &bytes);
    let _other = seeder(&other, &file, &tracker, &["--chunk-size", "16KiB"]);
    let receivers = receivers(dir, &tracker, &[]);
    receivers.iter().for_each(|(receiver, _)| drop(receiver.wait_for_text("connected to")));
    root.wait_for_text("serving chunk");
    root.kill9();
    assert_complete(&receivers, &bytes);
}

#[test]
fn a_swarm_completes_with_a_root_that_names_bad_predecessors() {
    let place = place();
    let (tracker, _seeder, bytes, _) = seed(place.path(), &LIMITED);
    let whole = Whole::new(bytes.clone(), CHUNK as u32);
    // It has more members than any other root, names addresses at which no peer listens, and refuses each chunk.
    let root = FakePeer::answering(&whole, |request, right| match request {
        PeerRequest::Have { file } => {
            let length = CHUNKS.div_ceil(8) as u64;
            let have = PeerResponse::Have {
                file: *file,
                count: CHUNKS as u32,
                length,
                members: Some(u32::MAX),
                direct: false,
            };
            let place = |ring| PeerResponse::Place { file: *file, ring, peer: local(9) };
            let places: Vec<u8> = (0..=255).flat_map(|ring| encode(&place(ring)).unwrap()).collect();
            Some([encode(&have).unwrap(), vec![0xff; length as usize], places].concat())
        }
        PeerRequest::Chunk { .. } => None,
        _ => Some(right),
    });
    root.announce(tracker.address(), "root", &whole.summary("a.bin"));
    assert_complete(&receivers(place.path(), &tracker, &[]), &bytes);
}

#[test]
fn a_root_that_never_answers_for_a_chunk_of_its_choice_becomes_an_ordinary_source() {
    let place = place();
    let tracker = tracker(place.path(), &["--lease", "60"]);
    let whole = Whole::new(random_bytes(7, CHUNK * CHUNKS), CHUNK as u32);
    let (requested, requests) = std::sync::mpsc::channel();
    let (answers, predecessor) = (whole.clone(), silent_peer(&whole).address);
    let root = FakePeer::start(move |mut wire| {
        let mut is_asked_to_choose = false;
        while let Some(request) = wire.message::<PeerRequest>() {
            let sent = match request {
                PeerRequest::Next { .. } => {
                    is_asked_to_choose = true;
                    let mut stream = Wire::new(wire.stream.try_clone().unwrap());
                    // Its messages show that it is alive.
                    std::thread::spawn(move || {
                        while stream.send(&PeerResponse::Pong).is_ok() {
                            sleep(STALL / 10);
                        }
                    });
                    Ok(())
                }
                PeerRequest::Chunk { .. } if is_asked_to_choose => return requested.send(()).unwrap(),
                PeerRequest::Join { .. } | PeerRequest::Unreachable { .. } => Ok(()),
                PeerRequest::Have { file } => {
                    let length = CHUNKS.div_ceil(8) as u64;
                    let (count, members) = (CHUNKS as u32, Some(1));
                    let have = PeerResponse::Have { file, count, length, members, direct: false };
                    let place = PeerResponse::Place { file, ring: 0, peer: predecessor };
                    let payload = vec![0xff; length as usize];
                    wire.send_bytes(&[encode(&have).unwrap(), payload, encode(&place).unwrap()].concat())
                }
                other => {
                    let (response, payload) = answers.answer(&other).unwrap();
                    wire.send_bytes(&[encode(&response).unwrap(), payload].concat())
                }
            };
            if sent.is_err() {
                return;
            }
        }
    });
    root.announce(tracker.address(), "root", &whole.summary("a.bin"));
    let _leecher = leecher(place.path(), tracker.address(), &["a.bin", "--stall-timeout", "1", "-vv"]);
    requests.recv_timeout(PATIENCE).expect("a request for a certain chunk");
}

#[test]
fn predecessors_that_do_not_answer_do_not_keep_a_peer_from_other_sources() {
    let place = place();
    let tracker = tracker(place.path(), &["--lease", "60"]);
    let whole = Whole::new(random_bytes(7, CHUNK * CHUNKS), CHUNK as u32);
    let unanswering = || FakePeer::start(|mut wire| while wire.message::<PeerRequest>().is_some() {});
    let (other, predecessors) = (unanswering(), [(); RINGS].map(|()| unanswering()));
    let (answers, peers) = (whole.clone(), vec![other.address]);
    let named = predecessors.each_ref().map(|predecessor| predecessor.address);
    // It sends no chunks.
    let root = FakePeer::start(move |mut wire| {
        while let Some(request) = wire.message::<PeerRequest>() {
            let sent = match request {
                PeerRequest::Hello { .. } | PeerRequest::Manifest { .. } | PeerRequest::Ping => {
                    let (response, payload) = answers.answer(&request).unwrap();
                    wire.send_bytes(&[encode(&response).unwrap(), payload].concat())
                }
                PeerRequest::Have { file } => {
                    let length = CHUNKS.div_ceil(8) as u64;
                    let (count, members) = (CHUNKS as u32, Some(1));
                    let have = PeerResponse::Have { file, count, length, members, direct: false };
                    let payload = vec![0xff; length as usize];
                    wire.send_bytes(&[encode(&have).unwrap(), payload].concat()).unwrap();
                    for (ring, peer) in (0..).zip(named) {
                        wire.send(&PeerResponse::Place { file, ring, peer }).unwrap();
                    }
                    wire.send(&PeerResponse::Peers { file, peers: peers.clone() })
                }
                _ => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    root.announce(tracker.address(), "root", &whole.summary("a.bin"));
    let patient = ["a.bin", "--hello-timeout", "1000", "--stall-timeout", "1000"];
    let _leecher = leecher(place.path(), tracker.address(), &patient);
    for peer in predecessors.iter().chain([&other]) {
        peer.accepted.recv_timeout(PATIENCE).expect("a connection");
    }
}

#[test]
fn a_swarm_completes_with_members_that_send_nothing_or_wrong_bytes() {
    let place = place();
    let (tracker, seeder, bytes, file) = seed(place.path(), &["--upload-limit", "2MiB"]);
    let whole = Whole::new(bytes.clone(), CHUNK as u32);
    let liar = FakePeer::sending_corrupt_chunks(&whole);
    let silent = silent_peer(&whole);
    let members: Vec<Wire> = [&liar, &silent]
        .map(|peer| {
            let mut wire = subscribe(seeder.address(), file, peer.address.port()).0;
            wire.send(&PeerRequest::Join { file }).unwrap();
            wire
        })
        .into();
    let receivers = receivers(place.path(), &tracker, &[]);
    assert_complete(&receivers, &bytes);
    drop(members);
}

#[test]
fn a_swarm_completes_if_half_of_it_does_not_serve_or_cannot_be_dialled() {
    let place = place();
    let dir = place.path();
    let (tracker, seeder, bytes, file) = seed(dir, &["--upload-limit", "2MiB"]);
    // Members at ports on which no peer listens.
    let members: Vec<Wire> = (1..9)
        .map(|port| {
            let mut wire = subscribe(seeder.address(), file, port).0;
            wire.send(&PeerRequest::Join { file }).unwrap();
            wire
        })
        .collect();
    let receivers = receivers(dir, &tracker, &[]);
    let mut wire = Wire::connect(seeder.address());
    wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None }).unwrap();
    assert!(matches!(wire.message(), Some(PeerResponse::Hello { .. })));
    wire.send(&PeerRequest::Have { file }).unwrap();
    let Some(PeerResponse::Have { length, members: None, .. }) = wire.message() else {
        panic!("a peer that does not serve cannot join")
    };
    wire.payload(length);
    assert!(matches!(wire.message(), Some(PeerResponse::Peers { .. })), "it learns other sources");
    assert_complete(&receivers, &bytes);
    drop(members);
}

#[test]
fn a_swarm_completes_when_half_of_it_is_killed_and_resumes() {
    let place = place();
    let (tracker, _seeder, bytes, _) = seed(place.path(), &["--upload-limit", "500KiB"]);
    let mut receivers = receivers(place.path(), &tracker, &[]);
    for (receiver, there) in receivers.iter_mut().take(RECEIVER_COUNT / 2) {
        receiver.wait_for_text("received chunk");
        receiver.kill9();
        *receiver = leecher(there, tracker.address(), &["a.bin", "--stay"]);
    }
    assert_complete(&receivers, &bytes);
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
    let (mut wire, members) = subscribe(leecher.address(), file, 7009);
    assert_eq!(members, None, "it is not complete");
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
