//! Each program exits after an interrupt, in every state and with every behaviour of its peers. `tests/soak` measures
//! the time until exit; here only a hang fails.

use crate::common::wire::{FakePeer, Whole, Wire};
use crate::common::*;
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::content::{ChunkIndex, Digest, Layout, Manifest};
use shoal::protocol::peer::PeerRequest;
use shoal::protocol::tracker::TrackerRequest;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const HUGE_BYTES: u64 = 100 << 30;
const CHUNK_BYTES: u32 = 64 << 20;

/// Creates a sparse file of `size` bytes.
fn sparse(path: &Path, size: u64) {
    File::create(path).and_then(|file| file.set_len(size)).unwrap();
}

/// Waits until a program has used 300 ms of processor time; hashing the huge files of these tests takes far longer.
fn wait_until_busy(program: &Program) {
    while program.processor_ticks() < 30 {
        std::thread::yield_now();
    }
}

#[test]
fn a_seeder_that_hashes_a_huge_file_exits_at_an_interrupt() {
    let place = place();
    let tracker = tracker(place.path(), &[]);
    let huge = place.path().join("huge.bin");
    sparse(&huge, HUGE_BYTES);
    let mut seeder = start_seeder(place.path(), &huge, tracker.address(), &[]);
    wait_until_busy(&seeder);
    seeder.interrupt();
    seeder.ends_with(0);
}

#[test]
fn a_client_that_hashes_a_huge_file_exits_at_an_interrupt() {
    let place = place();
    let (dir, folder) = (place.path(), subfolder(place.path(), "folder"));
    let tracker = tracker(dir, &[]);
    sparse(&folder.join("huge.bin"), HUGE_BYTES);
    let address = tracker.address().to_string();
    let mut client = plain(dir, &folder, "hashes", &["--plain", "--tracker", &address]);
    wait_until_busy(&client);
    client.interrupt();
    client.ends_with(0);
}

#[test]
fn a_client_that_hashes_huge_chunks_exits_at_an_interrupt() {
    let place = place();
    let (dir, folder) = (place.path(), subfolder(place.path(), "folder"));
    let tracker = tracker(dir, &[]);
    let count = HUGE_BYTES / u64::from(CHUNK_BYTES);
    let mut list = String::new();
    for number in 1..=count {
        sparse(&folder.join(format!("chunk_{number}")), CHUNK_BYTES.into());
        list += &format!("{number},chunk_{number}\n");
    }
    write(&folder, "local_chunks.txt", format!("{list}{count},LASTCHUNK\n").as_bytes());
    let mut client = client(dir, &folder, "hashes", tracker.address(), &[]);
    wait_until_busy(&client);
    client.interrupt();
    assert!(matches!(client.exit_code(), Some(0 | 7)));
}

#[test]
fn a_leecher_that_hashes_a_huge_existing_file_exits_at_an_interrupt() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    let layout = Layout::even(HUGE_BYTES, Some(CHUNK_BYTES)).unwrap();
    let zeros = Digest::of(&vec![0; CHUNK_BYTES as usize]);
    let manifest = Manifest::new(layout.clone(), layout.indices().map(|_| zeros).collect()).unwrap();
    let whole = Whole { bytes: Arc::default(), manifest: Arc::new(manifest) };
    let peer = FakePeer::answering(&whole, |request, right| {
        (!matches!(request, PeerRequest::Chunk { .. })).then_some(right)
    });
    peer.announce(tracker.address(), "peer", &whole.summary("huge.bin"));
    sparse(&there.join("huge.bin"), HUGE_BYTES);
    let mut leecher = leecher(&there, tracker.address(), &["huge.bin"]);
    wait_until_busy(&leecher);
    leecher.interrupt();
    leecher.ends_with(7);
    assert_eq!(std::fs::metadata(there.join("huge.bin")).unwrap().len(), HUGE_BYTES);
}

/// Sends the same message until the socket accepts no more bytes, and reads nothing.
fn fill_send_buffer(wire: &mut Wire, message: &impl shoal::protocol::Message) {
    let line = shoal::protocol::frame::encode(message).unwrap();
    // One write of many complete lines, so that the remote side does not see a partial line at the end of the stream.
    let lines = line.repeat(1 + 60_000 / line.len());
    wire.stream.set_nonblocking(true).unwrap();
    for _ in 0..200 {
        match wire.stream.write(&lines) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // The remote side may close a connection that does not read.
            Err(_) => break,
        }
    }
}

#[test]
fn a_seeder_exits_while_a_peer_sends_requests_and_does_not_read() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let bytes = random_bytes(1, 8 << 20);
    let file = write(dir, "a.bin", &bytes);
    let mut seeder = seeder(dir, &file, &tracker, &["-v"]);
    let id = Whole::new(bytes, 64 << 10).id();
    let mut wires: Vec<Wire> = (0..3).map(|_| Wire::connect(seeder.address())).collect();
    for wire in &mut wires {
        wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None }).unwrap();
        fill_send_buffer(wire, &PeerRequest::Chunk { file: id, index: ChunkIndex(3) });
    }
    seeder.wait_for_text("serving chunk");
    seeder.interrupt();
    seeder.ends_with(0);
}

#[test]
fn a_tracker_and_a_manager_exit_while_a_client_does_not_read() {
    let place = place();
    for mut program in [tracker(place.path(), &[]), manager(place.path(), &[])] {
        let mut wires: Vec<Wire> = (0..3).map(|_| Wire::connect(program.address())).collect();
        for wire in &mut wires {
            wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
            fill_send_buffer(wire, &TrackerRequest::Lookup { name: None, id: None, limit: 9, token: None });
        }
        program.interrupt();
        program.ends_with(0);
    }
}

#[test]
fn a_leecher_exits_while_its_tracker_or_source_does_not_answer() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    // The tracker does not answer.
    let silent_tracker = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut asks = leecher(&there, silent_tracker.local_addr().unwrap(), &["a.bin"]);
    silent_tracker.recv_from(&mut [0; 2_000]).unwrap();
    asks.interrupt();
    asks.ends_with(7);
    // The only holder stops in the middle of each chunk.
    let tracker = tracker(dir, &[]);
    let whole = Whole::new(random_bytes(1, 500_000), 16_384);
    let (requested, chunk_request) = std::sync::mpsc::sync_channel(100);
    let silent = FakePeer::answering(&whole, move |request, right| match request {
        PeerRequest::Chunk { .. } => {
            let _ = requested.try_send(());
            Some(right[..right.len() / 2].to_vec())
        }
        _ => Some(right),
    });
    silent.announce(tracker.address(), "silent", &whole.summary("a.bin"));
    let mut fetches = leecher(&there, tracker.address(), &["a.bin", "--stay"]);
    chunk_request.recv().unwrap();
    fetches.interrupt();
    fetches.ends_with(7);
}

/// Starts one of the programs with the arguments that it needs.
fn start(bin: &str, dir: &Path, other: SocketAddr) -> Program {
    let other = other.to_string();
    let file = dir.join("a.bin");
    let file = file.to_str().unwrap();
    let folder = dir.join("folder");
    let folder = folder.to_str().unwrap();
    match bin {
        "seeder" => Program::start_interruptible(bin, &["-f", file, "-p", "0", "--tracker", &other], dir),
        "leecher" => Program::start_interruptible(
            bin,
            &["a.bin", "--out", folder, "--stay", "--tracker", &other, "--wait", "99"],
            dir,
        ),
        "client" => {
            let flags = ["-folder", folder, "-transfer_port", "0", "-name", "client", "--manager", &other];
            Program::start_interruptible(bin, &flags, dir)
        }
        _ => Program::start_interruptible(bin, &["--listen", "127.0.0.1:0"], dir),
    }
}

#[test]
fn an_interrupt_during_the_start_ends_the_program() {
    let place = place();
    let dir = place.path();
    subfolder(dir, "folder");
    write(dir, "a.bin", &random_bytes(1, 1 << 20));
    let (tracker, manager) = (tracker(dir, &[]), manager(dir, &[]));
    for bin in ["tracker", "manager", "seeder", "leecher", "client"] {
        let other = if bin == "client" { manager.address() } else { tracker.address() };
        // The pause selects the moment of the interrupt.
        for milliseconds in [0, 1, 2, 4, 8, 16, 32, 64, 128] {
            let mut program = start(bin, dir, other);
            std::thread::sleep(Duration::from_millis(milliseconds));
            program.interrupt();
            // `None`: the signal came before the program had installed its handler.
            let code = program.exit_code();
            assert!(matches!(code, None | Some(0 | 7)), "{bin} after {milliseconds} ms: {code:?}");
        }
    }
}

/// Each program has begun to serve when it finds that a resource is in use.
#[test]
fn a_failed_start_ends_the_program() {
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
