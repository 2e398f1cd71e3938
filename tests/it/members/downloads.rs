//! Downloads of one or several files from members, a tracker, or both.

use super::{folder, getter, holder, id_of};
use crate::common::wire::RawPeer;
use crate::common::*;
use shoal::content::limits::{CHUNK_SIZE, HANDSHAKE_TIMEOUT};
use std::net::SocketAddr;
use std::time::Instant;

#[test]
fn three_members_with_a_third_of_the_files_each_end_with_all_files() {
    /// Total size, bytes: 256 MiB in nine files.
    const TOTAL_BYTES: usize = 256 << 20;
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let sets: Vec<Vec<(String, Vec<u8>)>> = (0..3)
        .map(|peer| {
            let file = |number: usize| {
                let number = 3 * peer + number;
                let length = TOTAL_BYTES / 9 + if number == 0 { TOTAL_BYTES % 9 } else { 0 };
                (format!("file_{number}"), random_bytes(number as u64, length))
            };
            (0..3).map(file).collect()
        })
        .collect();
    let all: Vec<&(String, Vec<u8>)> = sets.iter().flatten().collect();
    assert_eq!(all.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), TOTAL_BYTES);
    let mut peers = vec![];
    for (number, set) in sets.iter().enumerate() {
        let name = format!("peer{}", number + 1);
        let files: Vec<(&str, &[u8])> = set.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        let folder = folder(dir, &name, &files);
        let missing = all.iter().filter(|file| !set.contains(file)).map(|(name, _)| name.as_str());
        let wishes: Vec<&str> = missing.flat_map(|name| ["--get", name]).collect();
        let extra = [&["--stay", "--wait", "100"], &wishes[..]].concat();
        peers.push((start_member(dir, &folder, &name, manager.address(), &extra), folder));
    }
    for (peer, folder) in &peers {
        for (name, bytes) in &all {
            peer.wait_for(&format!("that {name} is there"), |line| {
                line.ends_with(&format!("Successfully downloaded {name}"))
                    || line.contains(&format!("- sharing {name}, "))
            });
            assert_holds(&folder.join(name), bytes);
        }
        assert_eq!(names_in(folder).len(), all.len(), "{:?}", names_in(folder));
    }
    for (mut peer, _) in peers {
        peer.interrupt();
        peer.ends_with(0);
    }
}

#[test]
fn several_files_are_downloaded_in_parallel_and_one_failure_sets_the_exit_code() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let (big, empty) = (random_bytes(1, 3 * CHUNK_SIZE as usize + 1), vec![]);
    let files: [(&str, &[u8]); 3] = [("big", &big), ("empty", &empty), ("with blanks é", b"x")];
    let _holder = holder(dir, "holder", &files, at, &[]);
    getter(dir, "gets", at, &["big", "empty", "with blanks é"], &[]).ends_with(0);
    files.iter().for_each(|(name, bytes)| assert_holds(&dir.join("gets").join(name), bytes));
    assert_eq!(names_in(&dir.join("gets")).len(), 3, "the folder has exactly these files");
    // A file that does not exist does not block the others.
    let mut both = getter(dir, "both", at, &["nowhere", "big"], &["--wait", "0"]);
    both.ends_with(3);
    both.wait_for_text("nowhere not found: no peer offers it");
    both.wait_for_text("1 of 2 downloads failed");
    assert_holds(&dir.join("both/big"), &big);
    // A file that is complete already is not downloaded again.
    getter(dir, "gets", at, &["big"], &[]).ends_with(0);
}

#[test]
fn different_files_with_one_name_require_a_choice() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let (one, two) = (&b"one"[..], &b"number two"[..]);
    let holders = [("a", one), ("b", two), ("c", one)]
        .map(|(name, bytes)| holder(dir, name, &[("same.txt", bytes)], at, &[]));
    let addresses = holders.each_ref().map(Program::address);
    let mut unsure = getter(dir, "unsure", at, &["same.txt"], &[]);
    unsure.ends_with(2);
    unsure.wait_for_text("2 different files are called same.txt; choose one with get:");
    let held_by = |bytes: &[u8], addresses: &[SocketAddr]| {
        unsure.wait_for(&format!("the holders of {}", id_of(bytes)), |line| {
            line.contains(&format!("  get {}  {} bytes, held by ", id_of(bytes), bytes.len()))
                && addresses.iter().all(|address| line.contains(&address.to_string()))
        });
    };
    held_by(one, &[addresses[0], addresses[2]]);
    held_by(two, &[addresses[1]]);
    assert!(names_in(&dir.join("unsure")).is_empty());
    for (name, bytes) in [("one", one), ("two", two)] {
        getter(dir, name, at, &[&id_of(bytes).to_string()], &[]).ends_with(0);
        assert_holds(&dir.join(name).join("same.txt"), bytes);
    }
    getter(dir, "upper", at, &[&id_of(two).to_string().to_uppercase()], &[]).ends_with(0);
    assert_holds(&dir.join("upper/same.txt"), two);
    // An existing file with that name and other content is kept.
    let mut refused = getter(dir, "one", at, &[&id_of(two).to_string()], &[]);
    refused.ends_with(13);
    refused.wait_for_text("same.txt exists and is a different file; move it away");
    assert_holds(&dir.join("one/same.txt"), one);
}

#[test]
fn a_killed_member_resumes() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let bytes = random_bytes(4, 80 * CHUNK_SIZE as usize);
    let first = holder(dir, "first", &[("f", &bytes)], at, &["--upload-limit", "2MB"]);
    let mut dies = getter(dir, "gets", at, &["f"], &["-v"]);
    first.wait_for_count("serving chunk", 64);
    dies.kill9();
    assert!(!dir.join("gets/f").exists());
    let mut again = getter(dir, "gets", at, &["f"], &[]);
    again.ends_with(0);
    again.wait_for_text("resuming at ");
    assert_holds(&dir.join("gets/f"), &bytes);
    // After an interrupt the exit code is 7.
    let mut stopped = getter(dir, "stopped", at, &["f"], &["-v"]);
    stopped.wait_for_text("which has 80 of 80 chunks");
    stopped.interrupt();
    stopped.ends_with(7);
}

#[test]
fn names_that_collide_on_other_systems_are_refused() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let (composed, decomposed) = ("caf\u{e9}.txt", "cafe\u{301}.txt");
    let files: [(&str, &[u8]); 3] = [("a.txt", b"theirs"), (composed, b"theirs, too"), ("STRASSE", b"x")];
    let _holder = holder(dir, "holder", &files, at, &[]);
    let mine = folder(dir, "gets", &[("A.txt", b"mine"), (decomposed, b"mine, too")]);
    subfolder(&mine, "strasse");
    for (name, there) in [("a.txt", "A.txt"), (composed, decomposed), ("STRASSE", "strasse")] {
        let mut refused = getter(dir, "gets", at, &[name], &[]);
        refused.ends_with(13);
        refused.wait_for_text(&format!("{name} and the existing {there} would be one file on systems"));
    }
    assert_holds(&mine.join("A.txt"), b"mine");
    assert_holds(&mine.join(decomposed), b"mine, too");
    assert_eq!(names_in(&mine), ["A.txt", decomposed, "strasse"]);
}

#[test]
fn a_member_may_use_a_tracker_and_a_manager() {
    let place = place();
    let dir = place.path();
    let (manager, tracker) = (manager(dir, &[]), tracker(dir, &[]));
    let (at, tracked) = (manager.address(), tracker.address().to_string());
    let (both, only) = (random_bytes(8, 100_000), b"of the tracker alone");
    let _both = holder(dir, "both", &[("b", &both)], at, &["--tracker", &tracked]);
    tracker.wait_for_text("both has 2 of 2 chunks of b");
    // A leecher finds the file through the tracker, a client through the manager.
    leecher(&subfolder(dir, "leecher"), tracker.address(), &["b"]).ends_with(0);
    assert_holds(&dir.join("leecher/b"), &both);
    getter(dir, "by-manager", at, &["b"], &[]).ends_with(0);
    assert_holds(&dir.join("by-manager/b"), &both);
    // A member that uses the tracker only, with a file that appears and disappears there.
    let alone = folder(dir, "alone", &[("o", only)]);
    let member = plain(dir, &alone, "alone", &["--plain", "--tracker", &tracked]);
    tracker.wait_for_text("alone has 1 of 1 chunks of o");
    leecher(&dir.join("leecher"), tracker.address(), &["o"]).ends_with(0);
    assert_holds(&dir.join("leecher/o"), only);
    getter(dir, "by-manager", at, &["o"], &["--wait", "0"]).ends_with(3);
    // A client that uses both finds the files of both.
    getter(dir, "asks-both", at, &["b", "o"], &["--tracker", &tracked]).ends_with(0);
    assert_holds(&dir.join("asks-both/b"), &both);
    assert_holds(&dir.join("asks-both/o"), only);
    let mut plain_get = plain(dir, &subfolder(dir, "p"), "p", &["--tracker", &tracked, "--get", "o"]);
    plain_get.ends_with(0);
    assert_holds(&dir.join("p/o"), only);
    std::fs::remove_file(alone.join("o")).unwrap();
    member.wait_for_text("- stopped sharing o: ");
    let mut late = leecher(&subfolder(dir, "late"), tracker.address(), &["o", "--wait", "1"]);
    assert!(matches!(late.exit_code(), Some(3 | 4 | 6)));
    // The download works while one of the two is down.
    drop(tracker);
    getter(dir, "still", at, &["b"], &["--tracker", &tracked]).ends_with(0);
    assert_holds(&dir.join("still/b"), &both);
}

#[test]
fn a_peer_that_does_not_answer_does_not_block_a_download() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &["--heartbeat", "60", "--lease", "600"]);
    let at = manager.address();
    // The kernel accepts connections for these peers, and no program answers them.
    let _silent: Vec<RawPeer> = (0..3).map(|number| RawPeer::join(at, &format!("silent{number}"))).collect();
    // This peer is on the list, and its address refuses connections.
    let mut refuses = RawPeer::join(at, "refuses");
    refuses.listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _holder = holder(dir, "holder", &[("f", b"bytes")], at, &[]);
    let began = Instant::now();
    getter(dir, "gets", at, &["f"], &[]).ends_with(0);
    assert_holds(&dir.join("gets/f"), b"bytes");
    assert!(
        began.elapsed() < HANDSHAKE_TIMEOUT,
        "the download waited for the silent peers, {:?}",
        began.elapsed()
    );
}
