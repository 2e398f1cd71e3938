//! Timeouts of connections, and the flags that set them.

use crate::common::scripted::registered;
use crate::common::wire::{FakePeer, Whole, Wire};
use crate::common::*;
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::content::limits::{HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, KEEP_ALIVE_INTERVAL, STALL_TIMEOUT};
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tracker::{Token, TrackerRequest, TrackerResponse};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One server of each role, with a file to serve.
struct Servers {
    servers: [Program; 2],
    peers: [Program; 3],
    _dir: tempfile::TempDir,
}

impl Servers {
    fn new(flags: &[&str]) -> Self {
        let place = place();
        let dir = place.path();
        let file = write(dir, "a.bin", &random_bytes(1, 100_000));
        let (tracker, manager) = (tracker(dir, flags), manager(dir, flags));
        let seeder = seeder(dir, &file, &tracker, flags);
        let (there, shared) = (subfolder(dir, "there"), subfolder(dir, "shared"));
        let stays =
            leecher(&there, tracker.address(), &[&["a.bin", "--wait", "60", "--stay"], flags].concat());
        stays.wait_for_text("complete, serving");
        let client = member(dir, &shared, "shares", manager.address(), flags);
        Self { servers: [tracker, manager], peers: [seeder, stays, client], _dir: place }
    }

    fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().chain(&self.peers).map(Program::address)
    }

    /// A connection to each server, after the hello handshake.
    fn connections(&self) -> Vec<Wire> {
        let servers = self.servers.iter().map(|server| {
            let mut wire = Wire::connect(server.address());
            wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
            assert_eq!(wire.message(), Some(TrackerResponse::Hello { version: PROTOCOL_VERSION }));
            wire
        });
        let peers = self.peers.iter().map(|peer| {
            let mut wire = Wire::connect(peer.address());
            wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None }).unwrap();
            assert_eq!(wire.message(), Some(PeerResponse::Hello { version: PROTOCOL_VERSION, site: None }));
            wire
        });
        servers.chain(peers).collect()
    }
}

/// Asserts that the servers close all connections in less than the default timeout.
#[track_caller]
fn assert_closed_before(default_timeout: Duration, wires: Vec<Wire>) {
    let started = Instant::now();
    for mut wire in wires {
        wire.stream.set_read_timeout(Some(default_timeout)).unwrap();
        wire.is_closed();
    }
    assert!(started.elapsed() < default_timeout, "{:?}", started.elapsed());
}

#[test]
fn a_missing_hello_ends_the_connection_after_hello_timeout() {
    let servers = Servers::new(&["--hello-timeout", "0.5"]);
    assert_closed_before(HANDSHAKE_TIMEOUT, servers.all().map(Wire::connect).collect());
}

#[test]
fn an_incomplete_message_ends_the_connection_after_stall_timeout() {
    let servers = Servers::new(&["--stall-timeout", "1"]);
    let mut wires = servers.connections();
    wires.iter_mut().for_each(|wire| wire.send_bytes(b"{\"type\":\"pi").unwrap());
    assert_closed_before(STALL_TIMEOUT, wires);
}

#[test]
fn an_idle_connection_ends_after_idle_timeout() {
    let servers = Servers::new(&["--idle-timeout", "26"]);
    let started = Instant::now();
    assert_closed_before(IDLE_TIMEOUT, servers.connections());
    assert!(started.elapsed() > KEEP_ALIVE_INTERVAL, "a peer that sends keep-alives would be disconnected");
}

#[test]
fn an_idle_timeout_below_the_keep_alive_interval_is_rejected() {
    let place = place();
    for program in ["tracker", "manager", "seeder", "leecher", "client"] {
        let mut refused = Program::start(program, &["--idle-timeout", "25"], place.path());
        refused.ends_with(2);
        assert!(refused.has_said("must be longer than 25 s"), "{program}");
    }
}

#[test]
fn a_source_that_stalls_is_abandoned_after_stall_timeout() {
    let place = place();
    let dir = place.path();
    let whole = Whole::new(random_bytes(5, 600_000), 16_384);
    let file = write(dir, "a.bin", &whole.bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    // The source answers all requests except chunk requests; to those it sends nothing, or half a response.
    for half in [false, true] {
        // Only once: the halves of two chunks would form a complete chunk with wrong bytes.
        let begins = AtomicBool::new(half);
        let silent = FakePeer::answering(&whole, move |request, right| match request {
            PeerRequest::Chunk { .. } if begins.swap(false, Ordering::Relaxed) => {
                Some(right[..right.len() / 2].to_vec())
            }
            PeerRequest::Chunk { .. } => Some(Vec::new()),
            _ => Some(right),
        });
        let name = format!("silent-{half}");
        let there = subfolder(dir, &name);
        silent.announce(tracker.address(), &name, &whole.summary("a.bin"));
        let flags = ["a.bin", "--stall-timeout", "1", "--timeout", "25", "-vv"];
        let started = Instant::now();
        let mut leecher = leecher(&there, tracker.address(), &flags);
        let silent = silent.address.to_string();
        leecher.wait_for("a lost source", |line| {
            line.contains(&silent) && line.contains("no data was transferred")
        });
        assert!(started.elapsed() < STALL_TIMEOUT, "{:?}", started.elapsed());
        let honest = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
        leecher.ends_with(0);
        assert_holds(&there.join("a.bin"), &whole.bytes);
        drop(honest);
    }
}

/// One program of each kind that keeps a connection to a tracker or manager, or sends one request, and the remote
/// end of that connection.
fn connecting_programs(dir: &Path, flags: &[&str]) -> Vec<(Program, Wire)> {
    let (lent, shared) = (subfolder(dir, "lent"), subfolder(dir, "shared"));
    let chunks = chunk_folder(dir, "chunks", 2, &[(1, b"one")]);
    let starts: [&dyn Fn(SocketAddr) -> Program; 4] = [
        &|tracker| client(dir, &chunks, "completes", tracker, flags),
        &|tracker| client(dir, &lent, "lends", tracker, &[&["--volunteer", "1MiB"], flags].concat()),
        &|manager| start_member(dir, &shared, "shares", manager, flags),
        &|tracker| leecher(dir, tracker, &[&["--list"], flags].concat()),
    ];
    let ask = |start: &dyn Fn(SocketAddr) -> Program| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let program = start(listener.local_addr().unwrap());
        let mut wire = Wire::new(listener.accept().unwrap().0);
        assert_eq!(wire.message(), Some(TrackerRequest::Hello { version: PROTOCOL_VERSION }));
        (program, wire)
    };
    starts.map(ask).into()
}

/// Asserts that all programs close their connection in less than the default timeout, and log the reason.
#[track_caller]
fn assert_abandoned_before(default_timeout: Duration, connecting_programs: Vec<(Program, Wire)>) {
    let (mut programs, wires): (Vec<Program>, Vec<Wire>) = connecting_programs.into_iter().unzip();
    assert_closed_before(default_timeout, wires);
    programs.iter().for_each(|program| drop(program.wait_for_text("no data was transferred")));
    programs.pop().unwrap().ends_with(5);
}

#[test]
fn a_tracker_or_manager_without_a_hello_is_abandoned() {
    let place = place();
    assert_abandoned_before(
        HANDSHAKE_TIMEOUT,
        connecting_programs(place.path(), &["--hello-timeout", "0.5"]),
    );
}

#[test]
fn a_tracker_or_manager_that_does_not_answer_is_abandoned() {
    let place = place();
    let mut connecting_programs = connecting_programs(place.path(), &["--stall-timeout", "1"]);
    let hello = TrackerResponse::Hello { version: PROTOCOL_VERSION };
    connecting_programs.iter_mut().for_each(|(_, wire)| wire.send(&hello).unwrap());
    assert_abandoned_before(STALL_TIMEOUT, connecting_programs);
}

#[test]
fn a_tracker_or_manager_that_stops_responding_is_abandoned() {
    let place = place();
    let mut connecting_programs = connecting_programs(place.path(), &["--idle-timeout", "26"]);
    // The last program only requests a list, and has no idle connection.
    connecting_programs.pop();
    for (_, wire) in &mut connecting_programs {
        wire.send(&TrackerResponse::Hello { version: PROTOCOL_VERSION }).unwrap();
        let Some(TrackerRequest::Register(registration)) = wire.message() else { panic!("no registration") };
        wire.send(&registered(Token(1), ([127, 0, 0, 1], registration.port).into())).unwrap();
    }
    let started = Instant::now();
    let (programs, wires): (Vec<Program>, Vec<Wire>) = connecting_programs.into_iter().unzip();
    assert_closed_before(IDLE_TIMEOUT, wires);
    assert!(
        started.elapsed() > KEEP_ALIVE_INTERVAL,
        "the program did not wait for the response to a keep-alive"
    );
    programs.iter().for_each(|program| drop(program.wait_for_text("no data was transferred")));
}
