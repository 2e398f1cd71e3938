//! Names that cannot be resolved, blocked UDP, a stopped tracker, and an address that is gone.

use crate::common::proxy::Proxy;
use crate::common::*;
use std::time::Duration;

#[test]
fn a_name_that_cannot_be_resolved_is_retried_until_the_timeout() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "file", b"bytes");
    let path = file.to_str().unwrap();
    // A name with an empty label fails without a DNS query.
    let name = ["--tracker", "no..body:5100", "--timeout", "1"];
    let wait = ["--wait", "1"];
    let mut seeder = Program::start("seeder", &[&["-f", path, "-p", "0"], &name[..]].concat(), dir);
    let mut leecher = Program::start("leecher", &[&["x"], &name[..], &wait[..]].concat(), dir);
    for program in [&mut seeder, &mut leecher] {
        program.ends_with(5);
        let warnings = program.lines().into_iter().filter(|line| line.contains(" - WARNING - "));
        let warnings: Vec<_> = warnings.filter(|line| line.contains("cannot resolve \"no..body\"")).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
}

#[test]
fn programs_work_over_tcp_while_udp_is_blocked() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", &random_bytes(1, 100_000));
    let tracker = tracker(dir, &[]);
    // The proxy passes on TCP only: a datagram to its port is refused.
    let proxy = Proxy::for_connections(1);
    proxy.set_target(tracker.address());
    let seeder = start_seeder(dir, &file, proxy.address, &[]);
    seeder.wait_for_text("seems to be blocked; using TCP");
    tracker.wait_for_text("of a.bin");
    let mut leecher = leecher(&there, proxy.address, &["a.bin", "--wait", "60"]);
    leecher.ends_with(0);
    assert!(!tracker.has_said("is gone: its lease ended"), "a lease ended");
}

#[test]
fn a_tracker_that_was_stopped_loses_no_peer() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "a.bin", b"bytes");
    let tracker = tracker(dir, &["--heartbeat", "0.5", "--lease", "2"]);
    let _seeder = start_seeder(dir, &file, tracker.address(), &[]);
    tracker.wait_for_text("of a.bin");
    tracker.pause();
    // The duration of the pause, longer than the lease, is the behaviour under test.
    std::thread::sleep(Duration::from_secs(6));
    tracker.resume();
    tracker.wait_for_text("all leases are extended");
    let mut list = Program::start("leecher", &["--list", "--tracker", &tracker.address().to_string()], dir);
    list.ends_with(0);
    assert!(list.stdout().join("\n").contains("a.bin"));
    assert!(!tracker.has_said("is gone"), "the seeder is still registered");
}

#[test]
fn programs_end_although_their_address_is_gone() {
    let Some(network) = network::Network::new(false) else { return };
    let place = place();
    let run = |command: &str| {
        let mut shell = network.command(None);
        shell.args(["sh", "-c", command]).current_dir(place.path());
        shell.env("PATH", std::env::var("PATH").unwrap()).output().unwrap()
    };
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_tracker")).parent().unwrap();
    let script = format!(
        "ip addr add 10.9.9.9/32 dev lo; {}/tracker --listen 10.9.9.9:5100 --log-file log & program=$!; \
         until grep -q 'listening on' log 2>/dev/null; do sleep 0.05; done; \
         ip addr del 10.9.9.9/32 dev lo; ip link set lo down; kill -TERM $program; \
         timeout 60 tail --pid=$program -f /dev/null && echo ended",
        programs.display()
    );
    let output = run(&script);
    assert!(String::from_utf8_lossy(&output.stdout).contains("ended"), "{output:?}");
}
