//! Programs that start in any order: a download waits for its tracker, its source, or another download of the same
//! file.

use crate::common::*;
use std::net::{SocketAddr, TcpListener};

/// An address on which no program listens.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_leecher_waits_for_its_tracker_and_its_seeder() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let address = free_address();
    let mut leecher = leecher(&there, address, &["a.bin"]);
    leecher.wait_for_text("waiting 60 s for it (--wait 0 ends at once); start one with: tracker");
    let tracker = Program::start("tracker", &["--listen", &address.to_string()], dir);
    leecher.wait_for_text("a.bin not found: no peer offers it; waiting 60 s for it (--wait 0 ends at once)");
    let bytes = random_bytes(3, 100_000);
    let file = write(dir, "a.bin", &bytes);
    let _seeder = start_seeder(dir, &file, tracker.address(), &[]);
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &bytes);
    // Each cause is announced once.
    let announced = leecher.lines().iter().filter(|line| line.contains("--wait 0")).count();
    assert_eq!(announced, 2);
}

#[test]
fn a_wait_that_ends_has_the_exit_code_of_its_cause() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    for wait in ["0", "1"] {
        let mut leecher = leecher(&there, free_address(), &["a.bin", "--wait", wait]);
        leecher.ends_with(5);
        assert_eq!(leecher.has_said("(--wait 0 ends at once)"), wait == "1");
    }
    let tracker = tracker(dir, &[]);
    let file = write(dir, "summary-2026.txt", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    for wait in ["0", "1"] {
        let mut leecher = leecher(&there, tracker.address(), &["sumary-2026.txt", "--wait", wait]);
        leecher.ends_with(3);
        leecher.wait_for_text("sumary-2026.txt not found: no peer offers it; similar: summary-2026.txt; ");
    }
    let folder = subfolder(dir, "folder");
    let at = tracker.address().to_string();
    let get = ["--tracker", &at, "--get", "Summary-2026.txt", "--wait", "0"];
    let mut client = plain(dir, &folder, "gets", &get);
    client.ends_with(3);
    client.wait_for_text("similar: summary-2026.txt; ");
}

#[test]
fn a_second_leecher_of_the_same_target_waits_for_the_first() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(3, 1 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let slow = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--upload-limit", "256KiB"]);
    let start = || leecher(&there, tracker.address(), &["a.bin"]);
    let waiting = "another process downloads a.bin; waiting for its end";
    let mut killed = start();
    slow.wait_for_count("serving chunk", 24);
    let mut second = start();
    second.wait_for_text(waiting);
    killed.kill9();
    second.wait_for_text("resuming at");
    let mut third = start();
    third.wait_for_text(waiting);
    second.ends_with(0);
    third.ends_with(0);
    third.wait_for_text("a.bin exists and is complete");
    assert_holds(&there.join("a.bin"), &bytes);
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
}
