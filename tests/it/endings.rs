//! Every program that is interrupted ends: at any moment, whatever it is at, and whatever others do to it. How soon is
//! what `tests/soak` measures; here only a hang fails.

use crate::common::wire::{FakePeer, Whole, Wire};
use crate::common::*;
use shoal::content::{ChunkIndex, Digest, Layout, Manifest};
use shoal::protocol::peer::PeerRequest;
use shoal::protocol::tracker::TrackerRequest;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const HUGE: u64 = 100 << 30;
const CHUNK: u32 = 64 << 20;

/// A file of that size that takes up no room.
fn sparse(path: &Path, size: u64) {
    File::create(path).and_then(|file| file.set_len(size)).unwrap();
}

/// Waits until a program has worked for a while: none that hashes what these tests give it is done by then.
fn is_at_work(program: &Program) {
    while program.processor_ticks() < 30 {
        std::thread::yield_now();
    }
}

#[test]
fn a_seeder_that_hashes_a_huge_file_ends() {
    let place = place();
    let tracker = tracker(place.path(), &[]);
    let huge = place.path().join("huge.bin");
    sparse(&huge, HUGE);
    let mut seeder = start_seeder(place.path(), &huge, tracker.address(), &[]);
    is_at_work(&seeder);
    seeder.interrupt();
    seeder.ends_with(0);
}

#[test]
fn a_client_that_hashes_a_huge_file_ends() {
    let place = place();
    let (dir, folder) = (place.path(), subfolder(place.path(), "folder"));
    let tracker = tracker(dir, &[]);
    sparse(&folder.join("huge.bin"), HUGE);
    let address = tracker.address().to_string();
    let mut client = plain(dir, &folder, "hashes", &["--plain", "--tracker", &address]);
    is_at_work(&client);
    client.interrupt();
    client.ends_with(0);
}

#[test]
fn a_client_that_hashes_huge_chunks_ends() {
    let place = place();
    let (dir, folder) = (place.path(), subfolder(place.path(), "folder"));
    let tracker = tracker(dir, &[]);
    let count = HUGE / u64::from(CHUNK);
    let mut list = String::new();
    for number in 1..=count {
        sparse(&folder.join(format!("chunk_{number}")), CHUNK.into());
        list += &format!("{number},chunk_{number}\n");
    }
    write(&folder, "local_chunks.txt", format!("{list}{count},LASTCHUNK\n").as_bytes());
    let mut client = client(dir, &folder, "hashes", tracker.address(), &[]);
    is_at_work(&client);
    client.interrupt();
    assert!(matches!(client.exit_code(), Some(0 | 7)));
}

#[test]
fn a_leecher_that_hashes_a_huge_file_that_is_there_ends() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    let layout = Layout::even(HUGE, Some(CHUNK)).unwrap();
    let zeros = Digest::of(&vec![0; CHUNK as usize]);
    let manifest = Manifest::new(layout.clone(), layout.indices().map(|_| zeros).collect()).unwrap();
    let whole = Whole { bytes: Arc::default(), manifest: Arc::new(manifest) };
    let peer = FakePeer::answering(&whole, |request, right| {
        (!matches!(request, PeerRequest::Chunk { .. })).then_some(right)
    });
    peer.announce(tracker.address(), "peer", &whole.summary("huge.bin"));
    sparse(&there.join("huge.bin"), HUGE);
    let mut leecher = leecher(&there, tracker.address(), &["huge.bin"]);
    is_at_work(&leecher);
    leecher.interrupt();
    leecher.ends_with(7);
    assert_eq!(std::fs::metadata(there.join("huge.bin")).unwrap().len(), HUGE);
}

/// Sends the same message until nobody takes any more of it, and reads nothing.
fn stuff(wire: &mut Wire, message: &impl shoal::protocol::Message) {
    let line = shoal::protocol::frame::encode(message).unwrap();
    // Whole lines in one go, as many as are taken: the other side never sees the half of one as the end.
    let lines = line.repeat(1 + 60_000 / line.len());
    wire.stream.set_nonblocking(true).unwrap();
    for _ in 0..200 {
        match wire.stream.write(&lines) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // A connection that does not drain may be dropped.
            Err(_) => break,
        }
    }
}

#[test]
fn a_seeder_ends_while_a_peer_asks_and_does_not_read() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let bytes = random_bytes(1, 8 << 20);
    let file = write(dir, "a.bin", &bytes);
    let mut seeder = seeder(dir, &file, &tracker, &["-v"]);
    let id = Whole::new(bytes, 512 << 10).id();
    let mut wires: Vec<Wire> = (0..3).map(|_| Wire::connect(seeder.address())).collect();
    for wire in &mut wires {
        wire.send(&PeerRequest::Hello { version: 1, port: None }).unwrap();
        stuff(wire, &PeerRequest::Chunk { file: id, index: ChunkIndex(3) });
    }
    seeder.wait_for_text("serving chunk");
    seeder.interrupt();
    seeder.ends_with(0);
}

#[test]
fn a_tracker_and_a_manager_end_while_somebody_asks_and_does_not_read() {
    let place = place();
    for mut program in [tracker(place.path(), &[]), manager(place.path(), &[])] {
        let mut wires: Vec<Wire> = (0..3).map(|_| Wire::connect(program.address())).collect();
        for wire in &mut wires {
            wire.send(&TrackerRequest::Hello { version: 1 }).unwrap();
            stuff(wire, &TrackerRequest::Lookup { name: None, id: None, limit: 9, token: None });
        }
        program.interrupt();
        program.ends_with(0);
    }
}

#[test]
fn a_leecher_ends_while_nobody_answers_it() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    // Neither the tracker ...
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut asks = leecher(&there, deaf.local_addr().unwrap(), &["a.bin"]);
    deaf.recv_from(&mut [0; 2_000]).unwrap();
    asks.interrupt();
    asks.ends_with(7);
    // ... nor the only holder, from the beginning or in the middle of a chunk.
    let tracker = tracker(dir, &[]);
    let whole = Whole::new(random_bytes(1, 500_000), 16_384);
    let (met, meeting) = std::sync::mpsc::sync_channel(100);
    let silent = FakePeer::answering(&whole, move |request, right| match request {
        PeerRequest::Chunk { .. } => {
            let _ = met.try_send(());
            Some(right[..right.len() / 2].to_vec())
        }
        _ => Some(right),
    });
    silent.announce(tracker.address(), "silent", &whole.summary("a.bin"));
    let mut fetches = leecher(&there, tracker.address(), &["a.bin", "--stay"]);
    meeting.recv().unwrap();
    fetches.interrupt();
    fetches.ends_with(7);
}

/// Everything that can be started, on its own.
fn start(bin: &str, dir: &Path, other: SocketAddr) -> Program {
    let other = other.to_string();
    let file = dir.join("a.bin");
    let file = file.to_str().unwrap();
    let folder = dir.join("folder");
    let folder = folder.to_str().unwrap();
    match bin {
        "seeder" => Program::start(bin, &["-f", file, "-p", "0", "--tracker", &other], dir),
        "leecher" => Program::start(
            bin,
            &["a.bin", "--out", folder, "--stay", "--tracker", &other, "--wait", "99"],
            dir,
        ),
        "client" => plain(dir, &dir.join("folder"), "client", &["--manager", &other]),
        _ => Program::start(bin, &["--listen", "127.0.0.1:0"], dir),
    }
}

#[test]
fn whoever_has_just_been_started_ends_at_any_moment() {
    let place = place();
    let dir = place.path();
    subfolder(dir, "folder");
    write(dir, "a.bin", &random_bytes(1, 1 << 20));
    let (tracker, manager) = (tracker(dir, &[]), manager(dir, &[]));
    for bin in ["tracker", "manager", "seeder", "leecher", "client"] {
        let other = if bin == "client" { manager.address() } else { tracker.address() };
        // The pause is the moment.
        for milliseconds in [0, 1, 2, 4, 8, 16, 32, 64, 128] {
            let mut program = start(bin, dir, other);
            std::thread::sleep(Duration::from_millis(milliseconds));
            program.interrupt();
            // `None`: it had not yet come to catching the signal.
            let code = program.exit_code();
            assert!(matches!(code, None | Some(0 | 7)), "{bin} after {milliseconds} ms: {code:?}");
        }
    }
}

/// Each has begun to serve when it finds out that something is taken.
#[test]
fn whoever_cannot_be_started_ends_all_the_same() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let address = tracker.address().to_string();
    let keeps = ["--listen", &address, "--state", "state"];
    Program::start("tracker", &keeps, dir).ends_with(1);
    let [one, other] = ["one", "other"].map(|name| subfolder(dir, name));
    let lend = ["--volunteer", "1MiB", "--volunteer-dir", "kept"];
    let first = client(dir, &one, "one", tracker.address(), &lend);
    first.wait_for_text(" of storage, ");
    client(dir, &other, "other", tracker.address(), &lend).ends_with(17);
}
