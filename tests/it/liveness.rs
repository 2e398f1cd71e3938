//! Peers and trackers that fail and return: dead peers disappear from lookups, and returning peers are found again.

use crate::common::wire::Udp;
use crate::common::*;
use std::net::SocketAddr;
use std::time::Duration;

/// Heartbeat interval and lease, in seconds: short for quick tests, and a lease long enough for a busy machine.
const QUICK: [&str; 4] = ["--heartbeat", "0.2", "--lease", "2"];

/// A tracker that is killed and restarted on the same address. It uses its own loopback address, so that no program of
/// another test takes the port in between.
struct RestartableTracker {
    dir: std::path::PathBuf,
    running: Program,
    address: SocketAddr,
}

impl RestartableTracker {
    fn start(dir: &std::path::Path) -> Self {
        let running = tracker(dir, &[&["--listen", "127.0.0.2:0"][..], &QUICK].concat());
        let address = running.address();
        Self { dir: dir.to_owned(), running, address }
    }

    fn restart(&mut self) {
        self.running.kill9();
        let listen = self.address.to_string();
        self.running = tracker(&self.dir, &[&["--listen", &listen][..], &QUICK].concat());
    }
}

#[test]
fn a_killed_seeder_disappears_from_lookups_when_its_lease_ends() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &QUICK);
    let (mortal, other) = (write(dir, "mortal", b"bytes"), write(dir, "other", b"other bytes"));
    let mut dies = seeder(dir, &mortal, &tracker, &["--name", "dies"]);
    let _lives = seeder(dir, &other, &tracker, &["--name", "lives"]);
    let mut udp = Udp::to(tracker.address());
    assert_eq!(udp.lookup("mortal").len(), 1);
    dies.kill9();
    tracker.wait_for("that its lease ended", |line| {
        line.contains("dies at ") && line.contains("its lease ended")
    });
    assert_eq!(udp.lookup("mortal"), []);
    assert_eq!(udp.lookup("other").len(), 1);
    leecher(&there, tracker.address(), &["mortal", "--wait", "0"]).ends_with(3);
    leecher(&there, tracker.address(), &["other"]).ends_with(0);
}

#[test]
fn a_seeder_that_hung_registers_again() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &QUICK);
    let file = write(dir, "a.bin", b"bytes");
    let hangs = seeder(dir, &file, &tracker, &["--name", "hangs"]);
    hangs.pause();
    tracker.wait_for_text("its lease ended");
    assert_eq!(Udp::to(tracker.address()).lookup("a.bin"), []);
    hangs.resume();
    tracker.wait_for_count("hangs has 1 of 1 chunks of a.bin", 2);
    leecher(&there, tracker.address(), &["a.bin"]).ends_with(0);
}

#[test]
fn a_seeder_sends_goodbye_when_it_leaves() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let file = write(dir, "a.bin", b"bytes");
    let mut leaves = seeder(dir, &file, &tracker, &[]);
    leaves.interrupt();
    leaves.ends_with(0);
    tracker.wait_for_text("is gone: it disconnected, 0 peers");
    assert_eq!(Udp::to(tracker.address()).lookup("a.bin"), []);
}

#[test]
fn a_killed_client_disappears_when_its_connection_ends() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--quorum", "1"]);
    let folder = chunk_folder(dir, "folder", 2, &[(1, b"first")]);
    let mut dies = client(dir, &folder, "dies", tracker.address(), &[]);
    tracker.wait_for_text("dies joined the set");
    dies.kill9();
    tracker.wait_for_text("is gone: its connection ended, 0 peers");
}

#[test]
fn a_client_that_hangs_loses_its_lease_and_returns() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[&QUICK[..], &["--quorum", "1"]].concat());
    let chunks = [b"first".to_vec(), b"second".to_vec()];
    let folder = chunk_folder(dir, "hangs", 2, &[(1, &chunks[0]), (2, &chunks[1])]);
    let hangs = client(dir, &folder, "hangs", tracker.address(), &[]);
    tracker.wait_for_text("the set default is agreed upon");
    hangs.pause();
    tracker.wait_for("its end", |line| line.contains("hangs at ") && line.contains("its lease ended"));
    let late = chunk_folder(dir, "late", 2, &[]);
    let mut waits = client(dir, &late, "waits", tracker.address(), &["-v", "--exit-when-complete"]);
    waits.wait_for_count("has no known holder yet", 2);
    hangs.resume();
    waits.ends_with(0);
    assert_complete(&late, &chunks);
}

#[test]
fn a_restarted_tracker_recovers_its_swarm() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let mut tracker = RestartableTracker::start(dir);
    let file = write(dir, "a.bin", b"bytes");
    let _seeders = ["one", "two"].map(|name| seeder(dir, &file, &tracker.running, &["--name", name]));
    tracker.restart();
    tracker.running.wait_for_text("one has 1 of 1 chunks of a.bin");
    tracker.running.wait_for_text("two has 1 of 1 chunks of a.bin");
    let found = Udp::to(tracker.address).lookup("a.bin");
    assert_eq!((found.len(), found[0].holders), (1, 2));
    leecher(&there, tracker.address, &["a.bin"]).ends_with(0);
    assert_holds(&there.join("a.bin"), b"bytes");
}

#[test]
fn a_download_continues_across_a_tracker_restart() {
    let place = place();
    let dir = place.path();
    let mut tracker = RestartableTracker::start(dir);
    let bytes = random_bytes(1, 512 << 10);
    let file = write(dir, "a.bin", &bytes);
    let slow = ["-v", "--chunk-size", "16KiB", "--upload-limit", "128KiB"];
    let seeder = seeder(dir, &file, &tracker.running, &slow);
    let mut leaves = leecher(&subfolder(dir, "leaves"), tracker.address, &["a.bin"]);
    let stays = leecher(&subfolder(dir, "stays"), tracker.address, &["a.bin", "--stay", "--name", "stays"]);
    seeder.wait_for_count("serving chunk", 8);
    tracker.restart();
    leaves.ends_with(0);
    stays.wait_for_text("complete, serving until interrupted");
    for name in ["leaves", "stays"] {
        assert_holds(&dir.join(name).join("a.bin"), &bytes);
    }
    tracker.running.wait_for_text("stays has 32 of 32 chunks of a.bin");
}

/// Asserts that a download succeeds although its tracker is disturbed in the middle of it.
#[track_caller]
fn assert_download_continues(length: usize, disturb: fn(&mut Program)) {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let mut tracker = tracker(dir, &[]);
    let bytes = random_bytes(2, length);
    let file = write(dir, "a.bin", &bytes);
    let slow = ["-v", "--chunk-size", "16KiB", "--upload-limit", "128KiB"];
    let seeder = seeder(dir, &file, &tracker, &slow);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin"]);
    seeder.wait_for_count("serving chunk", 4);
    disturb(&mut tracker);
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &bytes);
}

#[test]
fn a_download_continues_without_a_tracker() {
    assert_download_continues(384 << 10, Program::kill9);
}

#[test]
fn a_download_continues_while_the_tracker_hangs() {
    assert_download_continues(256 << 10, |tracker| tracker.pause());
}

#[test]
fn clients_find_each_other_again_after_the_tracker_restarts() {
    let place = place();
    let dir = place.path();
    let mut tracker = RestartableTracker::start(dir);
    let chunks = [b"first".to_vec(), b"second".to_vec(), vec![]];
    let numbered = |numbers: &[usize]| {
        numbers.iter().map(|&number| (number, chunks[number - 1].as_slice())).collect::<Vec<_>>()
    };
    let folders = [("a", vec![1, 2]), ("b", vec![2, 3]), ("c", vec![1, 3])]
        .map(|(name, held)| chunk_folder(dir, name, 3, &numbered(&held)));
    let first = client(dir, &folders[0], "first", tracker.address, &[]);
    let second = client(dir, &folders[1], "second", tracker.address, &[]);
    tracker.running.wait_for_text("second joined the set");
    tracker.restart();
    first.wait_for_text("reconnected to the ");
    second.wait_for_text("reconnected to the ");
    tracker.running.wait_for_text("first joined the set");
    let third = client(dir, &folders[2], "third", tracker.address, &[]);
    for client in [&first, &second, &third] {
        client.wait_for_text(" is complete: all 3 chunks");
    }
    folders.iter().for_each(|folder| assert_complete(folder, &chunks));
}

#[test]
fn peers_may_start_before_the_tracker() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let mut restarting = RestartableTracker::start(dir);
    restarting.running.kill9();
    let file = write(dir, "a.bin", b"bytes");
    let seeder = start_seeder(dir, &file, restarting.address, &["--name", "early"]);
    let folder = chunk_folder(dir, "folder", 1, &[(1, b"x")]);
    let client = client(dir, &folder, "client", restarting.address, &[]);
    let mut leecher = leecher(&there, restarting.address, &["a.bin"]);
    for program in [&seeder, &client] {
        program.wait_for_text("retrying until it answers");
    }
    leecher.wait_for_text("waiting 60 s for it");
    restarting.restart();
    restarting.running.wait_for_text("early has 1 of 1 chunks of a.bin");
    restarting.running.wait_for_text("client joined the set");
    leecher.ends_with(0);
}

#[test]
fn idle_programs_use_almost_no_processor_time() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    let file = write(dir, "a.bin", &random_bytes(61, 100_000));
    let seeder = seeder(dir, &file, &tracker, &[]);
    let leecher = leecher(&there, tracker.address(), &["a.bin", "--stay"]);
    leecher.wait_for_text("complete, serving until interrupted");
    let folders = ["one", "two"].map(|name| chunk_folder(dir, name, 1, &[(1, b"x")]));
    let one = client(dir, &folders[0], "one", tracker.address(), &[]);
    let two = client(dir, &folders[1], "two", tracker.address(), &[]);
    two.wait_for_text(" is complete: all 1 chunk ");
    let programs =
        [("tracker", &tracker), ("seeder", &seeder), ("leecher", &leecher), ("one", &one), ("two", &two)];
    std::thread::sleep(Duration::from_millis(500));
    let before = programs.map(|(_, program)| program.processor_ticks());
    std::thread::sleep(Duration::from_secs(2));
    for ((name, program), before) in programs.iter().zip(before) {
        let used = program.processor_ticks() - before;
        assert!(used < 10, "{name} used {used} ticks of 10 ms within 2 s while idle");
    }
}
