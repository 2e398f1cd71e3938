//! The list of members after joins, leaves, deaths and hangs.

use super::{BEAT_INTERVAL, PATIENT, QUICK, tiny_folder, wait_known};
use crate::common::wire::{Heartbeats, RawPeer};
use crate::common::*;
use std::time::{Duration, Instant};

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
    assert!(
        list.iter().any(|peer| peer.name.as_str() == "client" && peer.address == client.address().into())
    );
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
