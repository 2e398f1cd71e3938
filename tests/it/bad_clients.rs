//! Clients that hold idle connections, send single bytes, flood, or forge messages: a tracker, a manager, a seeder and
//! a client each keep serving well-behaved clients.

use crate::common::wire::{Udp, Wire};
use crate::common::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::protocol::ErrorCode;
use shoal::protocol::datagram::Datagram;
use shoal::protocol::peer::PeerRequest;
use shoal::protocol::tracker::{Registration, Token, TrackerRequest, TrackerResponse};
use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Memory limit, bytes. A server that stores the data of a flood exceeds it.
const MEMORY_MAX: u64 = 96 << 20;
/// Number of idle connections to open.
const IDLE_COUNT: usize = 10_000;

/// One server of each role, with files to serve and a connection limit low enough to be reached.
struct Servers {
    dir: tempfile::TempDir,
    tracker: Program,
    manager: Program,
    seeder: Program,
    client: Program,
}

impl Servers {
    fn new(connections_max: &str) -> Self {
        let place = place();
        let dir = place.path();
        let file = write(dir, "a.bin", &random_bytes(1, 100_000));
        let limit = ["--max-connections", connections_max];
        let tracker = tracker(dir, &limit);
        let manager = manager(dir, &limit);
        let seeder = seeder(dir, &file, &tracker, &limit);
        let shared = subfolder(dir, "shared");
        write(&shared, "b.bin", &random_bytes(2, 100_000));
        let client = member(dir, &shared, "shares", manager.address(), &limit);
        client.wait_for_text("sharing b.bin");
        Self { dir: place, tracker, manager, seeder, client }
    }

    fn all(&self) -> [&Program; 4] {
        [&self.tracker, &self.manager, &self.seeder, &self.client]
    }

    fn addresses(&self) -> [SocketAddr; 4] {
        self.all().map(Program::address)
    }

    /// New peers register and download files through each of the servers.
    #[track_caller]
    fn serve_new_peers(&self, turn: &str) {
        let dir: &Path = self.dir.path();
        let there = subfolder(dir, &format!("there-{turn}"));
        leecher(&there, self.tracker.address(), &["a.bin", "--wait", "60"]).ends_with(0);
        assert_holds(&there.join("a.bin"), &random_bytes(1, 100_000));
        start_member(dir, &there, "gets", self.manager.address(), &["--get", "b.bin", "--wait", "60"])
            .ends_with(0);
        assert_holds(&there.join("b.bin"), &random_bytes(2, 100_000));
        // A listing uses TCP.
        let mut listing =
            Program::start("leecher", &["--list", "--tracker", &self.tracker.address().to_string()], dir);
        listing.ends_with(0);
    }

    #[track_caller]
    fn assert_healthy(&self) {
        for server in self.all() {
            assert!(!server.has_said("panicked"));
            let used = server.peak_memory();
            assert!(used < MEMORY_MAX, "peak memory is {used} bytes");
            // A join or leave is one log line each; all other lines are limited in number.
            let joins = |line: &&String| line.contains(" joined at ") || line.contains(" is gone");
            let lines = server.lines().iter().filter(|line| !joins(line)).count();
            assert!(lines < 500, "the log has {lines} lines");
        }
    }
}

/// Number of idle connections that this process may open, at most [`IDLE_COUNT`].
fn idle_connection_count() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    IDLE_COUNT.min(usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(1_000))
}

#[test]
fn idle_connections_do_not_block_other_clients() {
    let servers = Servers::new("1024");
    for (turn, address) in servers.addresses().into_iter().enumerate() {
        let idle: Vec<TcpStream> =
            (0..idle_connection_count()).filter_map(|_| TcpStream::connect(address).ok()).collect();
        servers.serve_new_peers(&turn.to_string());
        drop(idle);
    }
    servers.assert_healthy();
}

#[test]
fn hello_messages_sent_byte_by_byte_do_not_block_other_clients() {
    let servers = Servers::new("64");
    let finished = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (finished, addresses) = (&finished, servers.addresses());
        scope.spawn(move || {
            let connect = |address: &SocketAddr| TcpStream::connect(address).unwrap();
            let mut dripping: Vec<TcpStream> = addresses.iter().cycle().take(400).map(connect).collect();
            for byte in br#"{"type":"hello","version":4}"#.iter().cycle() {
                // Connections that the server has closed are not opened again.
                dripping.retain_mut(|stream| stream.write_all(&[*byte]).is_ok());
                if finished.load(Relaxed) || dripping.is_empty() {
                    return;
                }
                // The pause between two bytes is the behaviour under test.
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        for turn in ["one", "two", "three"] {
            servers.serve_new_peers(turn);
        }
        finished.store(true, Relaxed);
    });
    servers.assert_healthy();
}

#[test]
fn thousands_of_connections_to_one_seeder_do_not_block_other_clients() {
    let servers = Servers::new("256");
    let address = servers.seeder.address();
    // Each connection sends one hello and no further request.
    let held: Vec<Wire> = (0..idle_connection_count().min(5_000))
        .map(|_| {
            let mut wire = Wire::connect(address);
            let _ = wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None });
            wire
        })
        .collect();
    servers.serve_new_peers("crowd");
    drop(held);
    servers.assert_healthy();
}

/// Sends a million datagrams from four sockets: random bytes, valid messages, and messages with one wrong byte.
fn flood(target: SocketAddr) {
    let register =
        TrackerRequest::Register(Registration::new(shoal::content::PeerName::new("flood").unwrap(), 1));
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
fn a_million_random_datagrams_do_not_disturb_other_clients() {
    let servers = Servers::new("256");
    for (turn, target) in [servers.tracker.address(), servers.manager.address()].into_iter().enumerate() {
        std::thread::scope(|scope| {
            scope.spawn(|| flood(target));
            servers.serve_new_peers(&format!("meanwhile-{turn}"));
        });
        servers.serve_new_peers(&format!("afterwards-{turn}"));
    }
    servers.assert_healthy();
}

#[test]
fn a_flood_of_registrations_from_one_address_does_not_disturb_other_clients() {
    let servers = Servers::new("256");
    for target in [servers.tracker.address(), servers.manager.address()] {
        let mut udp = Udp::to(target);
        for port in 1..=5_000 {
            let name = shoal::content::PeerName::new(format!("flood-{port}")).unwrap();
            let registration = Registration::new(name, port);
            // A manager registers members over TCP only, so that its response differs; the test ignores it.
            udp.ask(&TrackerRequest::Register(registration));
        }
    }
    servers.serve_new_peers("flooded");
    servers.assert_healthy();
}

#[test]
fn a_token_is_invalid_after_its_goodbye() {
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
        TrackerRequest::Announce { token, file: file.clone(), held: 1, sent: None },
        TrackerRequest::Goodbye { token },
    ];
    for request in replayed {
        // Over UDP and over TCP.
        let mut wire = Wire::connect(tracker.address());
        wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
        wire.send(&request).unwrap();
        assert!(matches!(wire.message(), Some(TrackerResponse::Hello { .. })));
        let goodbye = matches!(request, TrackerRequest::Goodbye { .. });
        for answer in [udp.ask(&request), wire.message().unwrap()] {
            let refused = matches!(answer, TrackerResponse::Error { code: ErrorCode::UnknownToken, .. });
            assert!(refused || goodbye, "{answer:?}");
        }
    }
    assert!(udp.lookup("a.bin").is_empty());
    // A goodbye with a guessed token does not remove a peer.
    let token = udp.register("twice", 7_002);
    udp.announce(token, &file);
    let forged = Token(token.0.wrapping_add(1));
    udp.ask(&TrackerRequest::Goodbye { token: forged });
    assert_eq!(udp.lookup("a.bin").len(), 1);
}
