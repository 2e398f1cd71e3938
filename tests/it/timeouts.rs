//! How long connections are waited for, as flags say it.

use crate::common::scripted::registered;
use crate::common::wire::{FakePeer, Whole, Wire};
use crate::common::*;
use shoal::content::limits::{CONVERSATION_TIMEOUT, HELLO_TIMEOUT, KEEP_ALIVE, STALL_TIMEOUT};
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tracker::{Token, TrackerRequest, TrackerResponse};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// One of each program that serves, with a file to give away.
struct Servers {
    hubs: [Program; 2],
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
        Self { hubs: [tracker, manager], peers: [seeder, stays, client], _dir: place }
    }

    fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.hubs.iter().chain(&self.peers).map(Program::address)
    }

    /// A connection to each, on which hello has been said.
    fn greeted(&self) -> Vec<Wire> {
        let hubs = self.hubs.iter().map(|hub| {
            let mut wire = Wire::connect(hub.address());
            wire.send(&TrackerRequest::Hello { version: 1 }).unwrap();
            assert_eq!(wire.message(), Some(TrackerResponse::Hello { version: 1 }));
            wire
        });
        let peers = self.peers.iter().map(|peer| {
            let mut wire = Wire::connect(peer.address());
            wire.send(&PeerRequest::Hello { version: 1, port: None }).unwrap();
            assert_eq!(wire.message(), Some(PeerResponse::Hello { version: 1 }));
            wire
        });
        hubs.chain(peers).collect()
    }
}

/// All of them are closed sooner than they would be without a flag.
#[track_caller]
fn are_closed_before(usual: Duration, wires: Vec<Wire>) {
    let began = Instant::now();
    for mut wire in wires {
        wire.stream.set_read_timeout(Some(usual)).unwrap();
        wire.is_closed();
    }
    assert!(began.elapsed() < usual, "{:?}", began.elapsed());
}

#[test]
fn who_does_not_say_hello_is_not_waited_for() {
    let servers = Servers::new(&["--hello-timeout", "0.5"]);
    are_closed_before(HELLO_TIMEOUT, servers.all().map(Wire::connect).collect());
}

#[test]
fn who_stops_in_the_middle_of_a_message_is_not_waited_for() {
    let servers = Servers::new(&["--stall-timeout", "1"]);
    let mut wires = servers.greeted();
    wires.iter_mut().for_each(|wire| wire.send_bytes(b"{\"type\":\"pi").unwrap());
    are_closed_before(STALL_TIMEOUT, wires);
}

#[test]
fn who_asks_for_nothing_is_not_waited_for() {
    let servers = Servers::new(&["--idle-timeout", "26"]);
    let began = Instant::now();
    are_closed_before(CONVERSATION_TIMEOUT, servers.greeted());
    assert!(began.elapsed() > KEEP_ALIVE, "nobody is cut off who still says now and then that it waits");
}

#[test]
fn an_idle_time_out_that_would_cut_peers_off_is_refused() {
    let place = place();
    for program in ["tracker", "manager", "seeder", "leecher", "client"] {
        let mut refused = Program::start(program, &["--idle-timeout", "25"], place.path());
        refused.ends_with(2);
        assert!(refused.has_said("must be longer than 25 s"), "{program}");
    }
}

#[test]
fn a_source_that_falls_silent_is_not_waited_for() {
    let place = place();
    let dir = place.path();
    let whole = Whole::new(random_bytes(5, 600_000), 16_384);
    let file = write(dir, "a.bin", &whole.bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    // It answers until it is asked for a chunk; to that it says nothing, or half of it.
    for half in [false, true] {
        // Only once: halves of two chunks would make a whole one, of wrong bytes.
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
        let began = Instant::now();
        let mut leecher = leecher(&there, tracker.address(), &flags);
        let silent = silent.address.to_string();
        leecher.wait_for("a lost source", |line| {
            line.contains(&silent) && line.contains("no data was transferred")
        });
        assert!(began.elapsed() < STALL_TIMEOUT, "{:?}", began.elapsed());
        let honest = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
        leecher.ends_with(0);
        assert_holds(&there.join("a.bin"), &whole.bytes);
        drop(honest);
    }
}

/// One of each program that keeps a connection to a tracker or manager, or asks one for something, and that
/// connection's other end.
fn askers(dir: &Path, flags: &[&str]) -> Vec<(Program, Wire)> {
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
        assert_eq!(wire.message(), Some(TrackerRequest::Hello { version: 1 }));
        (program, wire)
    };
    starts.map(ask).into()
}

/// All of them give their connection up sooner than they would without a flag, and say why.
#[track_caller]
fn give_up_before(usual: Duration, askers: Vec<(Program, Wire)>) {
    let (mut programs, wires): (Vec<Program>, Vec<Wire>) = askers.into_iter().unzip();
    are_closed_before(usual, wires);
    programs.iter().for_each(|program| drop(program.wait_for_text("no data was transferred")));
    programs.pop().unwrap().ends_with(5);
}

#[test]
fn a_tracker_or_manager_that_does_not_say_hello_is_not_waited_for() {
    let place = place();
    give_up_before(HELLO_TIMEOUT, askers(place.path(), &["--hello-timeout", "0.5"]));
}

#[test]
fn a_tracker_or_manager_that_does_not_answer_is_not_waited_for() {
    let place = place();
    let mut askers = askers(place.path(), &["--stall-timeout", "1"]);
    let hello = TrackerResponse::Hello { version: 1 };
    askers.iter_mut().for_each(|(_, wire)| wire.send(&hello).unwrap());
    give_up_before(STALL_TIMEOUT, askers);
}

#[test]
fn a_tracker_or_manager_that_falls_silent_is_not_waited_for() {
    let place = place();
    let mut askers = askers(place.path(), &["--idle-timeout", "26"]);
    // A list is all that its program asks for.
    askers.pop();
    for (_, wire) in &mut askers {
        wire.send(&TrackerResponse::Hello { version: 1 }).unwrap();
        let Some(TrackerRequest::Register(registration)) = wire.message() else { panic!("no registration") };
        wire.send(&registered(Token(1), ([127, 0, 0, 1], registration.port).into())).unwrap();
    }
    let began = Instant::now();
    let (programs, wires): (Vec<Program>, Vec<Wire>) = askers.into_iter().unzip();
    are_closed_before(CONVERSATION_TIMEOUT, wires);
    assert!(began.elapsed() > KEEP_ALIVE, "an answer to what is said now and then is waited for");
    programs.iter().for_each(|program| drop(program.wait_for_text("no data was transferred")));
}
