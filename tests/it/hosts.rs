//! Hosts with addresses of their own: the default commands work between them, or say why not.

use crate::common::network::Network;
use crate::common::wire::Udp;
use crate::common::*;
use std::path::Path;

/// Starts a program on a host, with a folder of its own.
fn start(network: &Network, host: char, bin: &str, args: &[&str], cwd: &Path) -> Program {
    let prefix = network.prefix(host, cwd);
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    Program::start_by(&prefix, bin, args, cwd)
}

#[test]
fn a_file_is_shared_between_hosts_with_the_default_commands() {
    let Some(network) = Network::new(true) else { return };
    let place = place();
    let [a, b, c] = ["a", "b", "c"].map(|name| subfolder(place.path(), name));
    let bytes = random_bytes(1, 3_000_000);
    write(&a, "x.bin", &bytes);
    let tracker = start(&network, 'A', "tracker", &["--listen", "0.0.0.0"], &a);
    tracker.wait_for_text("tracker listening on");
    let seeder = start(&network, 'A', "seeder", &["-f", "x.bin"], &a);
    seeder.wait_for_text(
        "reachable at 10.0.0.1:7000 by hosts that reach the tracker; --listen 127.0.0.1 keeps it here",
    );
    let leechers = [('B', &b), ('C', &c)].map(|(host, folder)| {
        let args = ["x.bin", "--tracker", "10.0.0.1", "--wait", "60"];
        (start(&network, host, "leecher", &args, folder), folder)
    });
    for (mut leecher, folder) in leechers {
        leecher.ends_with(0);
        assert_holds(&folder.join("x.bin"), &bytes);
    }
    assert!(!seeder.has_said("no other host can connect"));
}

#[test]
fn a_seeder_beside_a_remote_tracker_is_reached_by_other_hosts() {
    let Some(network) = Network::new(true) else { return };
    let place = place();
    let [a, b, c] = ["a", "b", "c"].map(|name| subfolder(place.path(), name));
    let bytes = random_bytes(2, 300_000);
    write(&b, "x.bin", &bytes);
    let tracker = start(&network, 'A', "tracker", &["--listen", "0.0.0.0"], &a);
    tracker.wait_for_text("tracker listening on");
    let seeder = start(&network, 'B', "seeder", &["-f", "x.bin", "--tracker", "10.0.0.1"], &b);
    seeder.wait_for_text("reachable at 10.0.0.2:7000");
    let mut leecher = start(&network, 'C', "leecher", &["x.bin", "--tracker", "10.0.0.1"], &c);
    leecher.ends_with(0);
    assert_holds(&c.join("x.bin"), &bytes);
}

#[test]
fn a_peer_that_no_host_can_reach_is_told_the_remedy() {
    let Some(network) = Network::new(true) else { return };
    let place = place();
    let [a, b, c] = ["a", "b", "c"].map(|name| subfolder(place.path(), name));
    write(&b, "x.bin", &random_bytes(3, 300_000));
    let tracker = start(&network, 'A', "tracker", &["--listen", "0.0.0.0"], &a);
    tracker.wait_for_text("tracker listening on");
    let args = ["-f", "x.bin", "--tracker", "10.0.0.1", "--listen", "127.0.0.1"];
    let seeder = start(&network, 'B', "seeder", &args, &b);
    let warning = seeder.wait_for_text("no other host can connect to this peer");
    assert!(warning.contains("cannot connect to 10.0.0.2:7000"), "{warning}");
    assert!(warning.contains("--listen 0.0.0.0"), "{warning}");
    assert!(!seeder.has_said("reachable at"), "a chosen address is never widened");
    tracker.wait_for_text("cannot be reached from this host");
    let mut leecher = start(&network, 'C', "leecher", &["x.bin", "--tracker", "10.0.0.1", "--wait", "0"], &c);
    leecher.ends_with(3);
}

#[test]
fn a_member_of_a_manager_on_another_host_shares_its_folder() {
    let Some(network) = Network::new(true) else { return };
    let place = place();
    let [a, b, c] = ["a", "b", "c"].map(|name| subfolder(place.path(), name));
    let bytes = random_bytes(4, 300_000);
    let shared = subfolder(&b, "shared");
    write(&shared, "x.bin", &bytes);
    let (folder, got) = (shared.to_str().unwrap(), subfolder(&c, "got"));
    let manager = start(&network, 'A', "manager", &["--listen", "0.0.0.0"], &a);
    manager.wait_for_text("manager listening on");
    let member = |folder: &str, name: &str| {
        ["-folder", folder, "-transfer_port", "7001", "-name", name, "--manager", "10.0.0.1"]
            .map(str::to_owned)
    };
    let args = member(folder, "bob");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let bob = start(&network, 'B', "client", &args, &b);
    bob.wait_for_text("they can download the file of the shared folder");
    let mut args = member(got.to_str().unwrap(), "carol").to_vec();
    args.extend(["--get", "x.bin"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut carol = start(&network, 'C', "client", &args, &c);
    carol.ends_with(0);
    assert_holds(&got.join("x.bin"), &bytes);
}

#[test]
fn a_peer_that_was_killed_and_restarted_is_counted_once() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "x.bin", &random_bytes(5, 100_000));
    let tracker = tracker(dir, &["--heartbeat", "30", "--lease", "60"]);
    let mut seeder = seeder(dir, &file, &tracker, &["-p", "0"]);
    let port = seeder.address().port().to_string();
    for round in 1..=3 {
        seeder.kill9();
        seeder = start_seeder(dir, &file, tracker.address(), &["-p", &port]);
        tracker.wait_for_count("was replaced by a new registration", round);
    }
    let mut udp = Udp::to(tracker.address());
    let found = udp.lookup("x.bin");
    assert_eq!((found.len(), found[0].holders, found[0].whole.len()), (1, 1, 1), "{found:?}");
}
