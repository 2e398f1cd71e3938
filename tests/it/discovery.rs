//! Discovery in a local network: files by name, the only tracker, and programs that are not found.

use crate::common::network::Hosts;
use crate::common::terminal::AtTerminal;
use crate::common::*;

/// Starts a seeder for other machines; returns it and the id of its file.
fn seeder(site: &Hosts, host: char, name: &str, bytes: &[u8], args: &[&str]) -> (Program, String) {
    write(&site.folder(host), name, bytes);
    let seeder = site.start(host, "seeder", &[&[name], args].concat());
    let line = seeder.wait_for_text("leecher shoal:");
    let id = line.split("shoal:").nth(1).unwrap().split('/').next().unwrap().to_owned();
    (seeder, id)
}

/// Runs a program to its end.
fn run(site: &Hosts, host: char, program: &str, args: &[&str], code: i32) -> Program {
    let mut program = site.start(host, program, args);
    program.ends_with(code);
    program
}

#[test]
fn a_file_is_found_by_its_name_and_needs_a_confirmation() {
    let Some(site) = Hosts::new() else { return };
    let bytes = random_bytes(1, 1_000_000);
    let (_seeder, id) = seeder(&site, 'A', "x.bin", &bytes, &[]);
    let refused = run(&site, 'B', "leecher", &["x.bin"], 2);
    refused
        .wait_for_text(&format!("x.bin on 10.0.0.1 has 1,000,000 bytes and id {id}; confirm it with --yes"));
    assert!(!site.folder('B').join("x.bin").exists());
    for (number, flags) in
        [&["--yes"][..], &["--from", "10.0.0.1"], &["--id", &id], &["--id", &id[..8]]].iter().enumerate()
    {
        let out = format!("{number}");
        run(&site, 'B', "leecher", &[&["x.bin", "--out", &out], *flags].concat(), 0);
        assert_holds(&site.folder('B').join(out), &bytes);
    }
    let missing = run(&site, 'C', "leecher", &["x.bin", "--from", "10.0.0.2", "--wait", "0"], 5);
    assert!(!missing.has_said("found in the local network"));
    let alone = run(&site, 'C', "leecher", &["x.bin", "--yes", "--no-discovery", "--wait", "0"], 5);
    assert!(!alone.has_said("found in the local network"));
}

#[test]
fn a_person_confirms_a_found_file_on_the_terminal() {
    let Some(site) = Hosts::new() else { return };
    let bytes = random_bytes(2, 100_000);
    let (_seeder, _) = seeder(&site, 'A', "x.bin", &bytes, &[]);
    for (answer, code) in [("n", 2), ("y", 0)] {
        let prefix = site.prefix('B');
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        let mut leecher = AtTerminal::start_by(&prefix, "leecher", &["x.bin"], &site.folder('B'));
        leecher.wait_for("x.bin on 10.0.0.1 has 100,000 bytes");
        leecher.wait_for("Continue? [y/N]");
        leecher.press(&format!("{answer}\r"));
        assert_eq!(leecher.exit_code(PATIENCE), Some(code), "{answer}");
    }
    assert_holds(&site.folder('B').join("x.bin"), &bytes);
}

#[test]
fn different_files_of_one_name_are_listed_with_their_hosts() {
    let Some(site) = Hosts::new() else { return };
    let (_one, first) = seeder(&site, 'A', "x.bin", b"one", &[]);
    let (_two, second) = seeder(&site, 'B', "x.bin", b"other", &[]);
    let refused = run(&site, 'C', "leecher", &["x.bin", "--yes"], 2);
    refused.wait_for_text("2 different files in the local network match x.bin; choose one with --id:");
    refused.wait_for_text(&format!("{} x.bin 3 bytes on 10.0.0.1", &first[..8]));
    refused.wait_for_text(&format!("{} x.bin 5 bytes on 10.0.0.2", &second[..8]));
    run(&site, 'C', "leecher", &["x.bin", "--from", "10.0.0.2"], 0);
    assert_holds(&site.folder('C').join("x.bin"), b"other");
}

#[test]
fn programs_on_loopback_and_those_without_discovery_are_not_found() {
    let Some(site) = Hosts::new() else { return };
    let file = write(&site.folder('A'), "x.bin", b"bytes");
    let local = site.start('A', "seeder", &["-f", file.to_str().unwrap(), "-p", "0"]);
    local.wait_for_text("seeder listening on 127.0.0.1");
    let (_silent, _) = seeder(&site, 'B', "y.bin", b"bytes", &["--no-discovery"]);
    for name in ["x.bin", "y.bin"] {
        let missing = run(&site, 'C', "leecher", &[name, "--yes", "--wait", "0"], 5);
        assert!(!missing.has_said("found in the local network"), "{name}");
    }
}

#[test]
fn a_leecher_waits_for_a_seeder_and_names_the_tracker_of_the_network() {
    let Some(site) = Hosts::new() else { return };
    let tracker = site.start('A', "tracker", &["--listen", "0.0.0.0"]);
    tracker.wait_for_text(" listening on ");
    let mut leecher = site.start('C', "leecher", &["x.bin", "--yes", "--wait", "600"]);
    leecher.wait_for_text(
        "x.bin is offered neither by a tracker on this host nor in the local network; waiting 59",
    );
    leecher.wait_for_text("a tracker answers on 10.0.0.1:5100; use --tracker 10.0.0.1");
    write(&site.folder('C'), "z.bin", b"bytes");
    let waiting = site.start('C', "seeder", &["-f", "z.bin", "-p", "0"]);
    waiting.wait_for_text("a tracker answers on 10.0.0.1:5100; use --tracker 10.0.0.1");
    let (_seeder, _) = seeder(&site, 'B', "x.bin", b"bytes", &[]);
    leecher.ends_with(0);
    assert_holds(&site.folder('C').join("x.bin"), b"bytes");
}

#[test]
fn the_only_tracker_and_manager_are_taken_and_several_are_listed() {
    let Some(site) = Hosts::new() else { return };
    let tracker = site.start('A', "tracker", &["--listen", "0.0.0.0"]);
    tracker.wait_for_text(" listening on ");
    let manager = site.start('A', "manager", &["--listen", "[::]:10001"]);
    manager.wait_for_text(" listening on ");
    write(&site.folder('B'), "x.bin", b"bytes");
    let seeder = site.start('B', "seeder", &["-f", "x.bin", "--tracker", "auto"]);
    seeder.wait_for_text("found the tracker on 10.0.0.1:5100");
    seeder.wait_for_text("registered with the tracker on 10.0.0.1:5100");
    run(&site, 'C', "leecher", &["x.bin", "--tracker", "auto"], 0);
    let folder = subfolder(&site.folder('C'), "shared");
    let args =
        ["-folder", folder.to_str().unwrap(), "-transfer_port", "7001", "-name", "bob", "--manager", "auto"];
    let member = site.start('C', "client", &args);
    member.wait_for_text("found the manager on 10.0.0.1:10001");
    let second = site.start('B', "tracker", &["--listen", "0.0.0.0"]);
    second.wait_for_text(" listening on ");
    let refused = run(&site, 'C', "leecher", &["x.bin", "--tracker", "auto"], 2);
    refused.wait_for_text(
        "several trackers answer in the local network; choose one: --tracker 10.0.0.1:5100, --tracker 10.0.0.2:5100",
    );
}

/// A second network of hosts A and C, on interfaces of their own; C leaves the first one.
const SECOND_NETWORK: &str = "\
ip link add bridge1 type bridge
ip link set bridge1 up
for host in A C; do
    ip link add second$host type veth peer name eth1 netns $host
    ip link set second$host master bridge1 up
    number=1; [ $host = A ] || number=3
    ip -n $host addr add 10.1.0.$number/24 dev eth1
    ip -n $host link set eth1 up
done
ip -n C link set eth0 down";

#[test]
fn questions_are_sent_and_answered_on_every_interface() {
    let Some(site) = Hosts::new() else { return };
    assert!(site.network.command(None).args(["sh", "-ec", SECOND_NETWORK]).status().unwrap().success());
    let bytes = random_bytes(3, 100_000);
    let (seeder, _) = seeder(&site, 'A', "x.bin", &bytes, &[]);
    let line = seeder.wait_for_text("leecher shoal:");
    assert!(line.contains("/pe=10.0.0.1:7000") && line.contains("/pe=10.1.0.1:7000"), "{line}");
    for (host, address) in [('B', "10.0.0.1"), ('C', "10.1.0.1")] {
        let leecher = run(&site, host, "leecher", &["x.bin", "--yes"], 0);
        leecher.wait_for_text(&format!("x.bin on {address} has 100,000 bytes"));
        assert_holds(&site.folder(host).join("x.bin"), &bytes);
    }
}
