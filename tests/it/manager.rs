//! A manager and those who are on its list: everybody has it as it is, whatever the others do.

use crate::common::wire::{Hearts, RawPeer, Udp, Wire};
use crate::common::*;
use shoal::content::limits::FRAME_MAX;
use shoal::content::{EntityName, FileName};
use shoal::protocol::ErrorCode;
use shoal::protocol::tracker::{Registration, TrackerRequest, TrackerResponse};
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// What an operator of a quick manager says: heartbeats often enough that nothing is waited for long, a lease
/// long enough for a busy machine.
const QUICK: [&str; 4] = ["--heartbeat", "0.2", "--lease", "4"];
/// Leases that outlast any test: raw peers need no heartbeats.
const PATIENT: [&str; 4] = ["--heartbeat", "60", "--lease", "600"];
/// How often raw peers say that they are alive.
const BEAT: Duration = Duration::from_millis(200);

/// A folder with one small file of its own.
fn tiny_folder(dir: &Path, name: &str) -> std::path::PathBuf {
    let folder = subfolder(dir, name);
    write(&folder, &format!("of-{name}"), name.as_bytes());
    folder
}

/// Whom a client takes to be there, from what it has said: names, in order.
fn known_to(lines: &[&str]) -> Vec<String> {
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

/// Waits until a client takes just these to be there, itself left out.
#[track_caller]
fn wait_known(client: &Program, wanted: &[&str]) {
    client.wait_until(&format!("that just {wanted:?} are there"), |lines| known_to(lines) == wanted);
}

#[test]
fn who_joins_has_the_list_at_once_and_everybody_again_at_each_change() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &QUICK);
    let (hearts, at) = (Hearts::start(manager.address(), BEAT), manager.address());
    let join = |name| {
        let peer = RawPeer::join(at, name);
        hearts.beat(peer.token);
        peer
    };
    let mut first = join("first");
    assert_eq!(first.names(), ["first"], "the first thing that a peer is sent");
    let mut second = join("second");
    assert_eq!(second.names(), ["first", "second"]);
    first.wait_for_names(&["first", "second"]);
    let client = member(dir, &tiny_folder(dir, "client"), "client", at, &[]);
    wait_known(&client, &["first", "second"]);
    first.wait_for_names(&["client", "first", "second"]);
    // The address on the list is the one that the client serves on.
    let list = RawPeer::join(at, "looks").list();
    assert!(list.iter().any(|peer| peer.name.as_str() == "client" && peer.address == client.address()));
    manager.wait_for("that who closes is gone", |line| {
        line.contains("looks at ") && line.contains(" is gone: its connection ended, 3 peers")
    });
    second.leave();
    manager.wait_for("its goodbye", |line| {
        line.contains("second at ") && line.contains("it said goodbye, 2 peers")
    });
    first.wait_for_names(&["client", "first"]);
    wait_known(&client, &["first"]);
}

#[test]
fn who_leaves_dies_or_falls_silent_is_off_the_list() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &["--heartbeat", "0.2", "--lease", "1.5"]);
    let at = manager.address();
    let hearts = Hearts::start(at, BEAT / 4);
    // A client that a busy machine keeps from its heartbeats comes back by itself, so only the end counts.
    let gone = |name: &str, why: &str| {
        manager.wait_for(&format!("that {name} is gone: {why}"), |line| {
            line.contains(&format!("- {name} at ")) && line.contains(&format!(" is gone: {why}"))
        });
    };
    let mut witness = RawPeer::join(at, "witness");
    hearts.beat(witness.token);
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
fn a_change_is_known_to_all_within_a_second() {
    let place = place();
    let manager = manager(place.path(), &PATIENT);
    let at = manager.address();
    let mut witness = RawPeer::join(at, "witness");
    let mut times: Vec<Duration> = (0..9)
        .map(|_| {
            let began = Instant::now();
            let peer = RawPeer::join(at, "passing");
            witness.wait_for_names(&["passing", "witness"]);
            drop(peer);
            witness.wait_for_names(&["witness"]);
            began.elapsed() / 2
        })
        .collect();
    // The machine may be busy now and then, but not always.
    times.sort();
    assert!(times[times.len() / 2] < Duration::from_secs(1), "{times:?}");
}

/// How a peer goes.
#[derive(Clone, Copy, Debug)]
enum End {
    /// It says goodbye, or is interrupted.
    Leaves,
    /// Its connection is torn, or it is killed.
    Dies,
    /// It is there and says nothing any more.
    Hangs,
    /// It stays.
    Stays,
}

enum Peer {
    Raw(RawPeer),
    Real(Program),
}

#[test]
fn fifty_peers_join_leave_and_die_and_every_survivor_has_the_exact_list() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &QUICK);
    let at = manager.address();
    let hearts = Hearts::start(at, BEAT);
    // What happens is drawn once and for all; only the machine decides what of it meets what.
    let mut random = fastrand::Rng::with_seed(50);
    // Of the real clients six stay, and each other end comes twice.
    let ends = [End::Leaves, End::Dies, End::Hangs];
    let mut fates: Vec<(bool, End)> =
        (0..12).map(|i| (true, *ends.get(i / 2).unwrap_or(&End::Stays))).collect();
    fates.extend((12..50).map(|i| (false, *ends.get(i % 5).unwrap_or(&End::Stays))));
    random.shuffle(&mut fates);
    let mut there: Vec<(String, End, Peer)> = vec![];
    let (mut survivors, mut hanging) = (vec![], vec![]);
    let mut coming = fates.into_iter().enumerate();
    let mut left = 50;
    while left > 0 || there.iter().any(|(_, end, _)| !matches!(end, End::Stays)) {
        let mortal: Vec<usize> = (0..there.len()).filter(|&i| !matches!(there[i].1, End::Stays)).collect();
        if left > 0 && (mortal.is_empty() || random.u8(0..3) > 0) {
            let (number, (real, end)) = coming.next().unwrap();
            left -= 1;
            let name = format!("peer{number:02}");
            let peer = match real {
                // Not waited for: it joins while others come and go.
                true => Peer::Real(start_member(dir, &tiny_folder(dir, &name), &name, at, &[])),
                false => {
                    let peer = RawPeer::join(at, &name);
                    hearts.beat(peer.token);
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
                hearts.stop(peer.token);
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
    // And it stays so: the next change tells everybody of itself and of nothing else.
    let mut last = RawPeer::join(at, "the-last");
    let more: Vec<&str> = exact.iter().copied().chain(["the-last"]).collect();
    assert_eq!(last.names(), more);
    for (name, peer) in &mut survivors {
        if let Peer::Raw(peer) = peer {
            let mut names = peer.names();
            // Who joined last may have been told twice.
            while names == exact {
                names = peer.names();
            }
            assert_eq!(names, more, "what {name} is told");
        }
    }
}

#[test]
fn a_restarted_manager_gets_its_peers_back_and_nobody_waits_for_it_meanwhile() {
    let place = place();
    let dir = place.path();
    // An address of its own, so that no other test's program takes the port while the manager is away.
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
fn members_may_be_there_before_the_manager() {
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

/// A connection whose buffers are as small as the system lets them be.
fn narrow(manager: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&manager.into()).unwrap();
    socket.into()
}

#[test]
fn who_does_not_read_delays_nobody_and_is_dropped() {
    let place = place();
    let manager = manager(place.path(), &PATIENT);
    let at = manager.address();
    let _deaf = RawPeer::join_over(narrow(at), "deaf");
    let long = "x".repeat(60);
    // Long lists, so that buffers are full soon; all others read them, in threads that end with the manager.
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
        // Every registration is a change, which everybody is told of, while one does not listen: who registers is
        // told at once, and again with everybody.
        lively.wire.send(&again).unwrap();
        lively.list();
        list = lively.list();
        assert!(list.iter().any(|peer| peer.name.as_str() == "lively"));
        rounds += 1;
        assert!(rounds < 1_000, "it is not dropped after {rounds} lists");
    }
    manager.wait_for_text("it does not read what it is sent");
    manager.wait_for("that it is gone", |line| {
        line.contains("- deaf at ") && line.contains("is gone: its connection ended")
    });
    // The list without it may have been read already.
    while list.iter().any(|peer| peer.name.as_str() == "deaf") {
        list = lively.list();
    }
}

#[test]
fn what_is_no_conversation_is_refused_and_harms_nobody() {
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
        let what = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        let mut wire = Wire::connect(at);
        wire.send_bytes(&bytes).unwrap();
        match wire.message() {
            Some(TrackerResponse::Error { code: given, text }) => assert_eq!(given, code, "{what}: {text}"),
            other => panic!("{what}: {other:?}"),
        }
        wire.is_closed();
    }
    // Half a frame, before and behind the hello, and a line of megabytes.
    for hello in [&b""[..], b"{\"type\":\"hello\",\"version\":1}\n"] {
        let mut wire = Wire::connect(at);
        wire.send_bytes(&[hello, b"{\"type\":\"hel"].concat()).unwrap();
        wire.stream.shutdown(Shutdown::Write).unwrap();
        wire.is_closed();
        let mut wire = Wire::connect(at);
        wire.send_bytes(hello).unwrap();
        let piece = vec![b'x'; FRAME_MAX];
        // What is in flight is lost in the sockets' buffers; a server that reads on takes it all.
        let endless = (0..1_024).all(|_| wire.send_bytes(&piece).is_ok());
        assert!(!endless, "a line of 64 MiB was taken");
    }
    manager.wait_for_text(&format!("a line of more than {FRAME_MAX} bytes"));
    assert!(manager.peak_memory() < 48 << 20, "{} bytes", manager.peak_memory());
    // Names that are none: the connection ends, and nobody of that name is on the list.
    for name in ["", "a b", "a,b", "../x", &"x".repeat(65)] {
        let mut wire = Wire::connect(at);
        let register = format!(r#"{{"type":"register","name":"{name}","port":1}}"#);
        wire.send_bytes(&line(r#"{"type":"hello","version":1}"#)).unwrap();
        wire.send_bytes(&line(&register)).unwrap();
        wire.is_closed();
    }
    // Datagrams that are none.
    let udp = Udp::to(at);
    for bytes in [&b""[..], b"garbage", &random_bytes(4, 1_500), b"{\"v\":1,\"tx\":1}"] {
        udp.socket.send(bytes).unwrap();
    }
    let _next = RawPeer::join(at, "next");
    honest.wait_for_names(&["honest", "next"]);
}

#[test]
fn a_manager_says_what_it_does_not_do() {
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
    // A message of a later version is refused, too, and the connection goes on.
    peer.wire.send_bytes(b"{\"type\":\"of_a_later_version\",\"x\":[1]}\n").unwrap();
    assert!(unknown(peer.answer()));
    peer.assert_alive();
    // By datagram, too; and joining needs a connection.
    let mut udp = Udp::to(at);
    assert!(unknown(Some(udp.ask(&lookup))));
    let register = TrackerRequest::Register(Registration {
        name: EntityName::new("n").unwrap(),
        port: 1,
        advertise: None,
    });
    assert!(matches!(udp.ask(&register), TrackerResponse::Error { code: ErrorCode::Malformed, .. }));
    let guessed = TrackerRequest::Goodbye { token: shoal::protocol::tracker::Token(7) };
    assert_eq!(udp.ask(&guessed), TrackerResponse::Farewell, "nothing is told to who guesses tokens");
    peer.assert_alive();
}

#[test]
fn idle_connections_are_capped_and_harm_nobody_who_is_there() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[&PATIENT[..], &["--max-connections", "100"]].concat());
    let at = manager.address();
    let mut here = RawPeer::join(at, "here");
    here.wait_for_names(&["here"]);
    let idle: Vec<TcpStream> = (0..300).map(|_| TcpStream::connect(at).unwrap()).collect();
    manager.wait_for_text("100 connections are open: only idle ones make room for others");
    here.assert_alive();
    // Who comes now and has something to say takes the place of one that has not.
    let _late = member(dir, &tiny_folder(dir, "late"), "late", at, &[]);
    here.wait_for_names(&["here", "late"]);
    drop(idle);
}

#[test]
fn nobody_advertises_the_address_of_another() {
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
    // Addresses that nobody can connect to.
    for advertise in ["127.0.0.1:0", "0.0.0.0:7", "224.0.0.1:7"] {
        let mut wire = Wire::connect(at);
        wire.send(&TrackerRequest::Hello { version: 1 }).unwrap();
        assert_eq!(wire.message(), Some(TrackerResponse::Hello { version: 1 }));
        let name = EntityName::new("nowhere").unwrap();
        wire.send(&TrackerRequest::Register(Registration {
            name,
            port: 1,
            advertise: Some(advertise.parse().unwrap()),
        }))
        .unwrap();
        assert!(matches!(wire.message(), Some(TrackerResponse::Error { .. })), "{advertise}");
    }
    // Whose address it was is there as before, and a goodbye of its own is its end.
    let _next = RawPeer::join(at, "next");
    honest.wait_for_names(&["honest", "next"]);
    // When it is gone the address is free: who was refused gets it by trying again.
    honest.leave();
    thief.wait_for_text("registered with the manager");
}

#[test]
fn a_trusting_manager_lets_peers_advertise_what_they_like() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &["--trust-advertised"]);
    let afar =
        member(dir, &tiny_folder(dir, "afar"), "afar", manager.address(), &["--advertise", "10.9.9.9:1"]);
    afar.wait_for_text(" as 10.9.9.9:1");
}

#[test]
fn a_manager_ends_at_an_interrupt_with_peers_connected() {
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
