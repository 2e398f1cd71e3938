//! A manager and the members on its list: each member has the current list, with any behaviour of the other members.

use crate::common::wire::{Heartbeats, RawPeer, Udp, Wire};
use crate::common::*;
use shoal::content::limits::FRAME_MAX;
use shoal::content::{FileName, PeerName};
use shoal::protocol::ErrorCode;
use shoal::protocol::tracker::{Registration, TrackerRequest, TrackerResponse};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Heartbeat interval and lease, in seconds: short for quick tests, and a lease long enough for a busy machine.
const QUICK: [&str; 4] = ["--heartbeat", "0.2", "--lease", "4"];
/// Heartbeat interval and lease, in seconds, that outlast each test: raw peers need no heartbeats.
const PATIENT: [&str; 4] = ["--heartbeat", "60", "--lease", "600"];
/// Heartbeat interval of raw peers.
const BEAT_INTERVAL: Duration = Duration::from_millis(200);

/// A folder with one small file, whose name contains the name of the folder.
fn tiny_folder(dir: &Path, name: &str) -> std::path::PathBuf {
    let folder = subfolder(dir, name);
    write(&folder, &format!("of-{name}"), name.as_bytes());
    folder
}

/// The peers that a client considers connected, derived from its output: sorted names.
fn connected_peers(lines: &[&str]) -> Vec<String> {
    let mut known = BTreeSet::new();
    for line in lines {
        // `... INFO - NAME at ADDRESS connected`
        let said = line.rsplit(" - ").next().unwrap_or_default();
        let name = || said.split(" at ").next().unwrap_or_default().to_owned();
        if said.ends_with(" connected") {
            known.insert(name());
        } else if said.ends_with(" disconnected") {
            known.remove(&name());
        }
    }
    known.into_iter().collect()
}

/// Waits until a client considers exactly these peers connected, itself excluded.
#[track_caller]
fn wait_known(client: &Program, wanted: &[&str]) {
    client.wait_until(&format!("that just {wanted:?} are there"), |lines| connected_peers(lines) == wanted);
}

#[test]
fn a_new_member_gets_the_list_and_all_members_get_each_change() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &QUICK);
    let (heartbeats, at) = (Heartbeats::start(manager.address(), BEAT_INTERVAL), manager.address());
    let join = |name| {
        let peer = RawPeer::join(at, name);
        heartbeats.add(peer.token);
        peer
    };
    let mut first = join("first");
    assert_eq!(first.names(), ["first"], "the first message is the list");
    let mut second = join("second");
    assert_eq!(second.names(), ["first", "second"]);
    first.wait_for_names(&["first", "second"]);
    let client = member(dir, &tiny_folder(dir, "client"), "client", at, &[]);
    wait_known(&client, &["first", "second"]);
    first.wait_for_names(&["client", "first", "second"]);
    // The list has the address on which the client serves.
    let list = RawPeer::join(at, "looks").list();
    assert!(list.iter().any(|peer| peer.name.as_str() == "client" && peer.address == client.address()));
    manager.wait_for("that the closed connection removes its peer", |line| {
        line.contains("looks at ") && line.contains(" is gone: its connection ended, 3 peers")
    });
    second.leave();
    manager.wait_for("its goodbye", |line| {
        line.contains("second at ") && line.contains("it disconnected, 2 peers")
    });
    first.wait_for_names(&["client", "first"]);
    wait_known(&client, &["first"]);
}

#[test]
fn members_that_leave_die_or_stop_responding_are_removed_from_the_list() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &["--heartbeat", "0.2", "--lease", "1.5"]);
    let at = manager.address();
    let heartbeats = Heartbeats::start(at, BEAT_INTERVAL / 4);
    // On a busy machine a client may lose its lease and register again, so that only the final state is tested.
    let gone = |name: &str, why: &str| {
        manager.wait_for(&format!("that {name} is gone: {why}"), |line| {
            line.contains(&format!("- {name} at ")) && line.contains(&format!(" is gone: {why}"))
        });
    };
    let mut witness = RawPeer::join(at, "witness");
    heartbeats.add(witness.token);
    let mut leaves = member(dir, &tiny_folder(dir, "leaves"), "leaves", at, &[]);
    let mut dies = member(dir, &tiny_folder(dir, "dies"), "dies", at, &[]);
    let hangs = member(dir, &tiny_folder(dir, "hangs"), "hangs", at, &[]);
    witness.wait_for_names(&["dies", "hangs", "leaves", "witness"]);
    leaves.interrupt();
    leaves.ends_with(0);
    witness.wait_for_names(&["dies", "hangs", "witness"]);
    dies.kill9();
    gone("dies", "its connection ended");
    witness.wait_for_names(&["hangs", "witness"]);
    hangs.pause();
    gone("hangs", "its lease ended");
    witness.wait_for_names(&["witness"]);
    let _silent = RawPeer::join(at, "silent");
    witness.wait_for_names(&["silent", "witness"]);
    gone("silent", "its lease ended");
    witness.wait_for_names(&["witness"]);
    hangs.resume();
    witness.wait_for_names(&["hangs", "witness"]);
    wait_known(&hangs, &["witness"]);
}

#[test]
fn a_change_reaches_all_members_within_a_second() {
    let place = place();
    let manager = manager(place.path(), &PATIENT);
    let at = manager.address();
    let mut witness = RawPeer::join(at, "witness");
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let started = Instant::now();
            let peer = RawPeer::join(at, "passing");
            witness.wait_for_names(&["passing", "witness"]);
            drop(peer);
            witness.wait_for_names(&["witness"]);
            started.elapsed() / 2
        })
        .collect();
    // The median tolerates single delays by a busy machine.
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");
}

/// The way in which a peer ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It sends a goodbye, or is interrupted.
    Leaves,
    /// Its connection is reset, or it is killed.
    Dies,
    /// It stays connected and sends nothing any more.
    Hangs,
    /// It stays.
    Stays,
}

enum Peer {
    Raw(RawPeer),
    Real(Program),
}

#[test]
fn after_fifty_joins_leaves_and_deaths_each_survivor_has_the_exact_list() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &QUICK);
    let at = manager.address();
    let heartbeats = Heartbeats::start(at, BEAT_INTERVAL);
    // The sequence of events follows from a seed; only their timing depends on the machine.
    let mut random = fastrand::Rng::with_seed(50);
    // Six of the real clients stay; each other end occurs twice.
    let ends = [End::Leaves, End::Dies, End::Hangs];
    let mut ends_of_peers: Vec<(bool, End)> =
        (0..12).map(|i| (true, *ends.get(i / 2).unwrap_or(&End::Stays))).collect();
    ends_of_peers.extend((12..50).map(|i| (false, *ends.get(i % 5).unwrap_or(&End::Stays))));
    random.shuffle(&mut ends_of_peers);
    let mut there: Vec<(String, End, Peer)> = vec![];
    let (mut survivors, mut hanging) = (vec![], vec![]);
    let mut coming = ends_of_peers.into_iter().enumerate();
    let mut left = 50;
    while left > 0 || there.iter().any(|(_, end, _)| !matches!(end, End::Stays)) {
        let mortal: Vec<usize> = (0..there.len()).filter(|&i| !matches!(there[i].1, End::Stays)).collect();
        if left > 0 && (mortal.is_empty() || random.u8(0..3) > 0) {
            let (number, (real, end)) = coming.next().unwrap();
            left -= 1;
            let name = format!("peer{number:02}");
            let peer = match real {
                // The test does not wait for its registration: it joins while others join and leave.
                true => Peer::Real(start_member(dir, &tiny_folder(dir, &name), &name, at, &[])),
                false => {
                    let peer = RawPeer::join(at, &name);
                    heartbeats.add(peer.token);
                    Peer::Raw(peer)
                }
            };
            there.push((name, end, peer));
            continue;
        }
        let (name, end, peer) = there.swap_remove(mortal[random.usize(0..mortal.len())]);
        match (end, peer) {
            (End::Leaves, Peer::Raw(peer)) => peer.leave(),
            (End::Leaves, Peer::Real(mut client)) => {
                client.wait_for_text("registered with the manager");
                client.interrupt();
                client.ends_with(0);
            }
            (End::Dies, Peer::Raw(peer)) => drop(peer),
            (End::Dies, Peer::Real(mut client)) => client.kill9(),
            (_, Peer::Raw(peer)) => {
                heartbeats.remove(peer.token);
                hanging.push((name, Peer::Raw(peer)));
            }
            (_, Peer::Real(client)) => {
                client.wait_for_text("registered with the manager");
                client.pause();
                hanging.push((name, Peer::Real(client)));
            }
        }
    }
    survivors.extend(there.into_iter().map(|(name, _, peer)| (name, peer)));
    survivors.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!((survivors.len(), hanging.len()), (22, 10));
    let names: Vec<String> = survivors.iter().map(|(name, _)| name.clone()).collect();
    let exact: Vec<&str> = names.iter().map(String::as_str).collect();
    for (name, peer) in &mut survivors {
        match peer {
            Peer::Raw(peer) => peer.wait_for_names(&exact),
            Peer::Real(client) => {
                let others: Vec<&str> = exact.iter().copied().filter(|other| other != name).collect();
                wait_known(client, &others);
            }
        }
    }
    // The next change is sent to each survivor, without any other change.
    let mut last = RawPeer::join(at, "the-last");
    let more: Vec<&str> = exact.iter().copied().chain(["the-last"]).collect();
    assert_eq!(last.names(), more);
    for (name, peer) in &mut survivors {
        if let Peer::Raw(peer) = peer {
            let mut names = peer.names();
            // A peer that joined last may receive the same list twice.
            while names == exact {
                names = peer.names();
            }
            assert_eq!(names, more, "the list of {name}");
        }
    }
}

#[test]
fn a_restarted_manager_recovers_its_members_and_downloads_continue_meanwhile() {
    let place = place();
    let dir = place.path();
    // Its own loopback address, so that no program of another test takes the port while the manager is down.
    let mut first = manager(dir, &[&["--listen", "127.0.0.3:0"][..], &QUICK].concat());
    let at = first.address();
    let bytes = random_bytes(3, 4 << 20);
    let (has, gets, idles) = (subfolder(dir, "has"), subfolder(dir, "gets"), tiny_folder(dir, "idles"));
    write(&has, "big.bin", &bytes);
    let holder = member(dir, &has, "holder", at, &["-v", "--upload-limit", "1MB"]);
    let idle = member(dir, &idles, "idle", at, &[]);
    holder.wait_for_text("sharing big.bin");
    let mut getter = start_member(dir, &gets, "getter", at, &["--get", "big.bin"]);
    holder.wait_for_count("serving chunk", 2);
    first.kill9();
    for client in [&holder, &idle, &getter] {
        client.wait_for_text("retrying until it answers");
    }
    getter.ends_with(0);
    assert_holds(&gets.join("big.bin"), &bytes);
    let second = manager(dir, &[&["--listen", &at.to_string()][..], &QUICK].concat());
    for (name, client) in [("holder", &holder), ("idle", &idle)] {
        client.wait_for_text("reconnected to the ");
        second.wait_for_text(&format!("- {name} joined at {}", client.address()));
    }
    wait_known(&idle, &["holder"]);
    wait_known(&holder, &["idle"]);
    let mut late = start_member(dir, &subfolder(dir, "late"), "late", at, &["--get", "of-idles"]);
    late.ends_with(0);
}

#[test]
fn members_may_start_before_the_manager() {
    let place = place();
    let dir = place.path();
    let mut before = manager(dir, &["--listen", "127.0.0.4:0"]);
    let at = before.address();
    before.kill9();
    let early = start_member(dir, &tiny_folder(dir, "early"), "early", at, &[]);
    let mut getter = start_member(dir, &subfolder(dir, "gets"), "getter", at, &["--get", "of-early"]);
    early.wait_for_text("retrying until it answers");
    getter.wait_for_text("retrying until it answers");
    let _manager = manager(dir, &["--listen", &at.to_string()]);
    getter.ends_with(0);
    assert_holds(&dir.join("gets/of-early"), b"early");
}

/// A connection with the smallest receive buffer and segment size that the system permits.
fn connect_with_small_buffers(manager: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&manager.into()).unwrap();
    socket.into()
}

#[test]
fn a_member_that_does_not_read_delays_no_other_member_and_is_disconnected() {
    let place = place();
    let manager = manager(place.path(), &PATIENT);
    let at = manager.address();
    let _deaf = RawPeer::join_over(connect_with_small_buffers(at), "deaf");
    let long = "x".repeat(60);
    // Long lists fill the buffers quickly. All others read them, in threads that end with the manager.
    let crowd = (0..100).map(|number| RawPeer::join(at, &format!("{long}{number:03}")));
    let _crowd: Vec<RawPeer> = crowd
        .inspect(|peer| {
            let mut stream = peer.wire.stream.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
        })
        .collect();
    let mut lively = RawPeer::join(at, "lively");
    let again = TrackerRequest::Register(Registration {
        name: lively.summary.name.clone(),
        port: lively.summary.address.port(),
        advertise: None,
    });
    let (mut rounds, mut list) = (0, vec![]);
    while !manager.has_said("- deaf at ") {
        // Each registration is a change that all members receive; one of them does not read. The sender receives the
        // list once as the response and once as a member.
        lively.wire.send(&again).unwrap();
        lively.list();
        list = lively.list();
        assert!(list.iter().any(|peer| peer.name.as_str() == "lively"));
        rounds += 1;
        assert!(rounds < 1_000, "the member that does not read is still connected after {rounds} lists");
    }
    manager.wait_for_text("its send queue is full because it does not read");
    manager.wait_for("that it is gone", |line| {
        line.contains("- deaf at ") && line.contains("is gone: its connection ended")
    });
    // The list without that member may have been read already.
    while list.iter().any(|peer| peer.name.as_str() == "deaf") {
        list = lively.list();
    }
}

#[test]
fn an_invalid_connection_is_refused_and_disturbs_no_member() {
    let place = place();
    let manager = manager(place.path(), &[&PATIENT[..], &["-v"]].concat());
    let at = manager.address();
    let mut honest = RawPeer::join(at, "honest");
    honest.wait_for_names(&["honest"]);
    let line = |text: &str| format!("{text}\n").into_bytes();
    for (bytes, code) in [
        (line("garbage \u{1}"), ErrorCode::Malformed),
        (line("GET / HTTP/1.1"), ErrorCode::Malformed),
        (line("42"), ErrorCode::Malformed),
        (line(""), ErrorCode::Malformed),
        (b"{\"type\":\"\xff\xfe\"}\n".to_vec(), ErrorCode::Malformed),
        ([vec![b'['; 60_000], b"\n".to_vec()].concat(), ErrorCode::Malformed),
        (line(r#"{"type":"hello"}"#), ErrorCode::Malformed),
        (line(r#"{"type":"register","name":"n","port":1}"#), ErrorCode::Malformed),
        (line(r#"{"type":"hello","version":2}"#), ErrorCode::UnknownVersion),
    ] {
        let input = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let mut wire = Wire::connect(at);
        wire.send_bytes(&bytes).unwrap();
        match wire.message() {
            Some(TrackerResponse::Error { code: given, text }) => assert_eq!(given, code, "{input}: {text}"),
            other => panic!("{input}: {other:?}"),
        }
        wire.is_closed();
    }
    // Half a frame before and after the hello, and a line of 64 MiB.
    for hello in [&b""[..], b"{\"type\":\"hello\",\"version\":1}\n"] {
        let mut wire = Wire::connect(at);
        wire.send_bytes(&[hello, b"{\"type\":\"hel"].concat()).unwrap();
        wire.stream.shutdown(Shutdown::Write).unwrap();
        wire.is_closed();
        let mut wire = Wire::connect(at);
        wire.send_bytes(hello).unwrap();
        let piece = vec![b'x'; FRAME_MAX];
        // The socket buffers take some bytes in any case; a server that continues to read accepts all of them.
        let endless = (0..1_024).all(|_| wire.send_bytes(&piece).is_ok());
        assert!(!endless, "the manager accepted a line of 64 MiB");
    }
    manager.wait_for_text(&format!("a line of more than {FRAME_MAX} bytes"));
    assert!(manager.peak_memory() < 48 << 20, "{} bytes", manager.peak_memory());
    // Invalid names: the connection is closed, and the list does not contain the peer.
    for name in ["", "a b", "a,b", "../x", &"x".repeat(65)] {
        let mut wire = Wire::connect(at);
        let register = format!(r#"{{"type":"register","name":"{name}","port":1}}"#);
        wire.send_bytes(&line(r#"{"type":"hello","version":1}"#)).unwrap();
        wire.send_bytes(&line(&register)).unwrap();
        wire.is_closed();
    }
    // Invalid datagrams.
    let udp = Udp::to(at);
    for bytes in [&b""[..], b"garbage", &random_bytes(4, 1_500), b"{\"v\":1,\"tx\":1}"] {
        udp.socket.send(bytes).unwrap();
    }
    let _next = RawPeer::join(at, "next");
    honest.wait_for_names(&["honest", "next"]);
}

#[test]
fn a_manager_rejects_unsupported_requests() {
    let place = place();
    let manager = manager(place.path(), &PATIENT);
    let at = manager.address();
    let mut peer = RawPeer::join(at, "peer");
    assert_eq!(peer.names(), ["peer"]);
    let name = Some(FileName::new("f").unwrap());
    let lookup = TrackerRequest::Lookup { name, id: None, limit: 1, token: None };
    peer.wire.send(&lookup).unwrap();
    let unknown = |response: Option<TrackerResponse>| {
        matches!(response, Some(TrackerResponse::Error { code: ErrorCode::UnknownMessage, .. }))
    };
    assert!(unknown(peer.answer()));
    // A message of a later version is rejected, too, and the connection stays usable.
    peer.wire.send_bytes(b"{\"type\":\"of_a_later_version\",\"x\":[1]}\n").unwrap();
    assert!(unknown(peer.answer()));
    peer.assert_alive();
    // The same holds for datagrams, and a registration needs a connection.
    let mut udp = Udp::to(at);
    assert!(unknown(Some(udp.ask(&lookup))));
    let register = TrackerRequest::Register(Registration {
        name: PeerName::new("n").unwrap(),
        port: 1,
        advertise: None,
    });
    assert!(matches!(udp.ask(&register), TrackerResponse::Error { code: ErrorCode::Malformed, .. }));
    let guessed = TrackerRequest::Goodbye { token: shoal::protocol::tracker::Token(7) };
    assert_eq!(
        udp.ask(&guessed),
        TrackerResponse::Farewell,
        "a guessed token gets the same response as a valid one"
    );
    peer.assert_alive();
}

#[test]
fn idle_connections_are_limited_and_do_not_disturb_members() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[&PATIENT[..], &["--max-connections", "100"]].concat());
    let at = manager.address();
    let mut here = RawPeer::join(at, "here");
    here.wait_for_names(&["here"]);
    let idle: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(at).unwrap()).collect();
    manager.wait_for_text("connection limit reached: 100 open");
    here.assert_alive();
    // A new member replaces an idle connection.
    let _late = member(dir, &tiny_folder(dir, "late"), "late", at, &[]);
    here.wait_for_names(&["here", "late"]);
    drop(idle);
}

#[test]
fn a_peer_cannot_advertise_the_address_of_another_peer() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &PATIENT);
    let at = manager.address();
    let mut honest = RawPeer::join(at, "honest");
    let address = honest.summary.address;
    let afar = start_member(dir, &tiny_folder(dir, "afar"), "afar", at, &["--advertise", "10.9.9.9:1"]);
    afar.wait_for_text("refuses: 10.9.9.9:1 is not an address of 127.0.0.1, where this peer comes from");
    manager.wait_for_text("- afar from 127.0.0.1 is refused: 10.9.9.9:1 is not an address of 127.0.0.1");
    let thief =
        start_member(dir, &tiny_folder(dir, "thief"), "thief", at, &["--advertise", &address.to_string()]);
    thief.wait_for_text(&format!("refuses: {address} is the address of honest already"));
    manager.wait_for_text(&format!(
        "- thief from 127.0.0.1 is refused: {address} is the address of honest already"
    ));
    // Addresses to which no connection is possible.
    for advertise in ["127.0.0.1:0", "0.0.0.0:7", "224.0.0.1:7"] {
        let mut wire = Wire::connect(at);
        wire.send(&TrackerRequest::Hello { version: 1 }).unwrap();
        assert_eq!(wire.message(), Some(TrackerResponse::Hello { version: 1 }));
        let name = PeerName::new("nowhere").unwrap();
        wire.send(&TrackerRequest::Register(Registration {
            name,
            port: 1,
            advertise: Some(advertise.parse().unwrap()),
        }))
        .unwrap();
        assert!(matches!(wire.message(), Some(TrackerResponse::Error { .. })), "{advertise}");
    }
    // The peer with that address is still registered.
    let _next = RawPeer::join(at, "next");
    honest.wait_for_names(&["honest", "next"]);
    // After its goodbye the address is free, and the refused peer registers at its next attempt.
    honest.leave();
    thief.wait_for_text("registered with the manager");
}

#[test]
fn with_trust_advertised_a_peer_may_advertise_any_address() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &["--trust-advertised"]);
    let afar =
        member(dir, &tiny_folder(dir, "afar"), "afar", manager.address(), &["--advertise", "10.9.9.9:1"]);
    afar.wait_for_text(" as 10.9.9.9:1");
}

#[test]
fn a_manager_exits_at_an_interrupt_with_peers_connected() {
    let place = place();
    let dir = place.path();
    let mut manager = manager(dir, &[]);
    let client = member(dir, &tiny_folder(dir, "client"), "client", manager.address(), &[]);
    let mut raw = RawPeer::join(manager.address(), "raw");
    let _silent = TcpStream::connect(manager.address()).unwrap();
    manager.interrupt();
    manager.ends_with(0);
    raw.wire.is_closed();
    client.wait_for_text("retrying until it answers");
}
