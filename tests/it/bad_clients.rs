//! Clients that hold connections, drip, flood and forge: a tracker, a manager, a seeder and a client each stand, and who
//! is honest is served all the same.

use crate::common::wire::{Udp, Wire};
use crate::common::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shoal::protocol::ErrorCode;
use shoal::protocol::datagram::Datagram;
use shoal::protocol::peer::PeerRequest;
use shoal::protocol::tracker::{Registration, Token, TrackerRequest, TrackerResponse};
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// A server that keeps what it is flooded with would need more, bytes.
const MEMORY_MAX: u64 = 96 << 20;
/// Connections that ask for nothing.
const IDLE: usize = 10_000;

/// One of each server, with files to give away, and a cap that is reached.
struct Servers {
    dir: tempfile::TempDir,
    tracker: Program,
    manager: Program,
    seeder: Program,
    client: Program,
}

impl Servers {
    fn new(cap: &str) -> Self {
        let place = place();
        let dir = place.path();
        let file = write(dir, "a.bin", &random_bytes(1, 100_000));
        let few = ["--max-connections", cap];
        let tracker = tracker(dir, &few);
        let manager = manager(dir, &few);
        let seeder = seeder(dir, &file, &tracker, &few);
        let shared = subfolder(dir, "shared");
        write(&shared, "b.bin", &random_bytes(2, 100_000));
        let client = member(dir, &shared, "shares", manager.address(), &few);
        client.wait_for_text("sharing b.bin");
        Self { dir: place, tracker, manager, seeder, client }
    }

    fn all(&self) -> [&Program; 4] {
        [&self.tracker, &self.manager, &self.seeder, &self.client]
    }

    fn addresses(&self) -> [SocketAddr; 4] {
        self.all().map(Program::address)
    }

    /// New peers register and get files, over every one of the servers.
    #[track_caller]
    fn serve_the_honest(&self, turn: &str) {
        let dir: &Path = self.dir.path();
        let there = subfolder(dir, &format!("there-{turn}"));
        leecher(&there, self.tracker.address(), &["a.bin", "--wait", "60"]).ends_with(0);
        assert_holds(&there.join("a.bin"), &random_bytes(1, 100_000));
        start_member(dir, &there, "gets", self.manager.address(), &["--get", "b.bin", "--wait", "60"])
            .ends_with(0);
        assert_holds(&there.join("b.bin"), &random_bytes(2, 100_000));
        // Over TCP, too.
        let mut listing =
            Program::start("leecher", &["--list", "--tracker", &self.tracker.address().to_string()], dir);
        listing.ends_with(0);
    }

    #[track_caller]
    fn stand(&self) {
        for server in self.all() {
            assert!(!server.has_said("panicked"));
            let used = server.peak_memory();
            assert!(used < MEMORY_MAX, "{used} bytes");
            // Who joins is named; nobody else fills the log.
            let joins = |line: &&String| line.contains(" joined at ") || line.contains(" is gone");
            let lines = server.lines().iter().filter(|line| !joins(line)).count();
            assert!(lines < 500, "the log has {lines} lines");
        }
    }
}

/// As many connections as this process may open, to test with.
fn many() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    IDLE.min(usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(1_000))
}

#[test]
fn connections_that_ask_for_nothing_keep_nobody_out() {
    let servers = Servers::new("1024");
    for (turn, address) in servers.addresses().into_iter().enumerate() {
        let idle: Vec<TcpStream> = (0..many()).filter_map(|_| TcpStream::connect(address).ok()).collect();
        servers.serve_the_honest(&turn.to_string());
        drop(idle);
    }
    servers.stand();
}

#[test]
fn a_hello_that_drips_keeps_nobody_out() {
    let servers = Servers::new("64");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (over, addresses) = (&over, servers.addresses());
        scope.spawn(move || {
            let connect = |address: &SocketAddr| TcpStream::connect(address).unwrap();
            let mut dripping: Vec<TcpStream> = addresses.iter().cycle().take(400).map(connect).collect();
            for byte in br#"{"type":"hello","version":1}"#.iter().cycle() {
                // Whoever is thrown out stays out.
                dripping.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
                if over.load(Relaxed) || dripping.is_empty() {
                    return;
                }
                // One byte now and then is what dripping is.
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        for turn in ["one", "two", "three"] {
            servers.serve_the_honest(turn);
        }
        over.store(true, Relaxed);
    });
    servers.stand();
}

#[test]
fn thousands_of_conversations_with_one_peer_harm_nobody() {
    let servers = Servers::new("256");
    let address = servers.seeder.address();
    // Each says hello and asks for something once.
    let held: Vec<Wire> = (0..many().min(5_000))
        .map(|_| {
            let mut wire = Wire::connect(address);
            let _ = wire.send(&PeerRequest::Hello { version: 1, port: None });
            wire
        })
        .collect();
    servers.serve_the_honest("crowd");
    drop(held);
    servers.stand();
}

/// Sends a million datagrams from several sockets: bytes at random, and messages that are nearly right.
fn flood(target: SocketAddr) {
    let register = TrackerRequest::Register(Registration {
        name: shoal::content::PeerName::new("flood").unwrap(),
        port: 1,
        advertise: None,
    });
    let right = Datagram::new(1, None, register).encode().unwrap();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let right = &right;
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.connect(target).unwrap();
                let noise = random_bytes(seed, 8_192);
                for _ in 0..250_000 {
                    let _ = match random.u32(..4) {
                        0 => {
                            let mut near = right.clone();
                            let at = random.usize(..near.len());
                            near[at] = random.u8(..);
                            socket.send(&near)
                        }
                        1 => socket.send(right),
                        _ => {
                            let from = random.usize(..4_096);
                            socket.send(&noise[from..from + random.usize(..1_400)])
                        }
                    };
                }
            });
        }
    });
}

#[test]
fn a_million_datagrams_at_random_harm_nobody() {
    let servers = Servers::new("256");
    for (turn, target) in [servers.tracker.address(), servers.manager.address()].into_iter().enumerate() {
        std::thread::scope(|scope| {
            scope.spawn(|| flood(target));
            servers.serve_the_honest(&format!("meanwhile-{turn}"));
        });
        servers.serve_the_honest(&format!("afterwards-{turn}"));
    }
    servers.stand();
}

#[test]
fn a_flood_of_registrations_from_one_address_is_borne() {
    let servers = Servers::new("256");
    for target in [servers.tracker.address(), servers.manager.address()] {
        let mut udp = Udp::to(target);
        for port in 1..=5_000 {
            let name = shoal::content::PeerName::new(format!("flood-{port}")).unwrap();
            let registration = Registration { name, port, advertise: None };
            // A manager takes members over connections only; what it answers is its business.
            udp.ask(&TrackerRequest::Register(registration));
        }
    }
    servers.serve_the_honest("flooded");
    servers.stand();
}

#[test]
fn what_was_said_before_the_goodbye_is_worth_nothing_after_it() {
    let place = place();
    let tracker = tracker(place.path(), &["--lease", "60"]);
    let whole = crate::common::wire::Whole::new(b"bytes".to_vec(), 16_384);
    let (mut udp, file) = (Udp::to(tracker.address()), whole.summary("a.bin"));
    let token = udp.register("once", 7_001);
    udp.announce(token, &file);
    assert_eq!(udp.lookup("a.bin").len(), 1);
    udp.ask(&TrackerRequest::Goodbye { token });
    let replayed = [
        TrackerRequest::Heartbeat { token },
        TrackerRequest::Announce { token, file: file.clone(), held: 1 },
        TrackerRequest::Goodbye { token },
    ];
    for request in replayed {
        // By datagram and over a connection.
        let mut wire = Wire::connect(tracker.address());
        wire.send(&TrackerRequest::Hello { version: 1 }).unwrap();
        wire.send(&request).unwrap();
        assert!(matches!(wire.message(), Some(TrackerResponse::Hello { .. })));
        let goodbye = matches!(request, TrackerRequest::Goodbye { .. });
        for answer in [udp.ask(&request), wire.message().unwrap()] {
            let refused = matches!(answer, TrackerResponse::Error { code: ErrorCode::UnknownToken, .. });
            assert!(refused || goodbye, "{answer:?}");
        }
    }
    assert!(udp.lookup("a.bin").is_empty());
    // Nor does a token that somebody makes up end anybody.
    let token = udp.register("twice", 7_002);
    udp.announce(token, &file);
    let forged = Token(token.0.wrapping_add(1));
    udp.ask(&TrackerRequest::Goodbye { token: forged });
    assert_eq!(udp.lookup("a.bin").len(), 1);
}
