//! Hosts with addresses of their own: the default commands work between them, or say why not.

use crate::common::network::Network;
use crate::common::wire::Udp;
use crate::common::*;
use std::path::{Path, PathBuf};

/// Starts a program on a host, with a folder of its own.
fn start(network: &Network, host: char, bin: &str, args: &[&str], cwd: &Path) -> Program {
    let prefix = network.prefix(host, cwd);
    let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
    Program::start_by(&prefix, bin, args, cwd)
}

/// Three hosts; a tracker or manager on host A that other hosts can reach.
struct Site {
    // Programs end before the network does.
    hub: Program,
    network: Network,
    folders: [PathBuf; 3],
    _place: tempfile::TempDir,
}

impl Site {
    /// `None`, with a message, where the user may not make network namespaces.
    fn new(hub: &str) -> Option<Self> {
        Self::with_listen(hub, "0.0.0.0")
    }

    /// As `new`, with another listening address.
    fn with_listen(hub: &str, listen: &str) -> Option<Self> {
        let network = Network::new(true)?;
        let place = place();
        let folders = ["a", "b", "c"].map(|name| subfolder(place.path(), name));
        let hub = start(&network, 'A', hub, &["--listen", listen], &folders[0]);
        hub.wait_for_text(" listening on ");
        Some(Self { hub, network, folders, _place: place })
    }

    /// Starts a program on host A, B or C.
    fn start(&self, host: char, bin: &str, args: &[&str]) -> Program {
        start(&self.network, host, bin, args, self.folder(host))
    }

    /// The link-local IPv6 address of a host, once no other host can object to it.
    fn link_local(&self, host: char) -> String {
        loop {
            let mut list = self.network.command(Some(host));
            list.args(["ip", "-6", "-oneline", "addr", "show", "dev", "eth0", "scope", "link", "-tentative"]);
            let output = list.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            if let Some(address) = text.split_whitespace().find(|word| word.starts_with("fe80::")) {
                return address.split('/').next().unwrap().to_owned();
            }
            std::thread::yield_now();
        }
    }

    fn folder(&self, host: char) -> &Path {
        &self.folders[host as usize - 'A' as usize]
    }
}

/// Whether a row of the list of files has these numbers of complete and partial holders.
fn has_counts(row: &str, complete: &str, partial: &str) -> bool {
    let fields: Vec<&str> = row.split_whitespace().collect();
    fields.first() == Some(&"x.bin") && fields.get(4..6) == Some(&[complete, partial])
}

#[test]
fn a_file_is_shared_between_hosts_with_the_default_commands() {
    let Some(site) = Site::new("tracker") else { return };
    let bytes = random_bytes(1, 3_000_000);
    write(site.folder('A'), "x.bin", &bytes);
    let seeder = site.start('A', "seeder", &["-f", "x.bin"]);
    seeder.wait_for_text(
        "reachable at 10.0.0.1:7000 by hosts that reach the tracker; --listen 127.0.0.1 keeps it here",
    );
    let leechers =
        ['B', 'C'].map(|host| (site.start(host, "leecher", &["x.bin", "--tracker", "10.0.0.1"]), host));
    for (mut leecher, host) in leechers {
        leecher.ends_with(0);
        assert_holds(&site.folder(host).join("x.bin"), &bytes);
    }
    assert!(!seeder.has_said("no other host can connect"));
}

#[test]
fn a_seeder_beside_a_remote_tracker_is_reached_by_other_hosts() {
    let Some(site) = Site::new("tracker") else { return };
    let bytes = random_bytes(2, 300_000);
    write(site.folder('B'), "x.bin", &bytes);
    let seeder = site.start('B', "seeder", &["-f", "x.bin", "--tracker", "10.0.0.1"]);
    seeder.wait_for_text("reachable at 10.0.0.2:7000");
    let mut leecher = site.start('C', "leecher", &["x.bin", "--tracker", "10.0.0.1"]);
    leecher.ends_with(0);
    assert_holds(&site.folder('C').join("x.bin"), &bytes);
}

#[test]
fn a_peer_that_no_host_can_reach_is_told_the_remedy() {
    let Some(site) = Site::new("tracker") else { return };
    write(site.folder('B'), "x.bin", &random_bytes(3, 300_000));
    let args = ["-f", "x.bin", "--tracker", "10.0.0.1", "--listen", "127.0.0.1"];
    let seeder = site.start('B', "seeder", &args);
    let warning = seeder.wait_for_text("no other host can connect to this peer");
    assert!(warning.contains("cannot connect to 10.0.0.2:7000"), "{warning}");
    assert!(warning.contains("--listen 0.0.0.0"), "{warning}");
    assert!(!seeder.has_said("reachable at"), "a chosen address is never widened");
    site.hub.wait_for_text("cannot be reached from this host");
    let mut list = site.start('C', "leecher", &["--list", "--tracker", "10.0.0.1"]);
    list.ends_with(0);
    let is_complete = |line: &str| has_counts(line, "1", "0");
    list.wait_for("a complete holder without a usable address", is_complete);
    let mut leecher = site.start('C', "leecher", &["x.bin", "--tracker", "10.0.0.1", "--wait", "0"]);
    leecher.ends_with(3);
}

#[test]
fn a_member_of_a_manager_on_another_host_shares_its_folder() {
    let Some(site) = Site::new("manager") else { return };
    let bytes = random_bytes(4, 300_000);
    let shared = subfolder(site.folder('B'), "shared");
    write(&shared, "x.bin", &bytes);
    let (folder, got) = (shared.to_str().unwrap(), subfolder(site.folder('C'), "got"));
    let member = |folder: &str, name: &str| {
        ["-folder", folder, "-transfer_port", "7001", "-name", name, "--manager", "10.0.0.1"]
            .map(str::to_owned)
    };
    let args = member(folder, "bob");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let bob = site.start('B', "client", &args);
    bob.wait_for_text("they can download the file of the shared folder");
    let mut args = member(got.to_str().unwrap(), "carol").to_vec();
    args.extend(["--get", "x.bin"].map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut carol = site.start('C', "client", &args);
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

#[test]
fn a_download_continues_when_the_address_of_its_host_changes() {
    let Some(site) = Site::new("tracker") else { return };
    let bytes = random_bytes(5, 6_000_000);
    write(site.folder('A'), "x.bin", &bytes);
    let seeder = site.start('A', "seeder", &["-f", "x.bin", "--upload-limit", "1MB"]);
    seeder.wait_for_text("reachable at 10.0.0.1:7000");
    // Its sources stall for longer than its timeout, unless it finds out that their connections are dead.
    let flags = ["x.bin", "--tracker", "10.0.0.1", "--timeout", "20", "--stall-timeout", "60", "-v"];
    let mut leecher = site.start('B', "leecher", &flags);
    leecher.wait_for_text(", which has 92 of 92 chunks");
    let change = "ip addr del 10.0.0.2/24 dev eth0 && ip addr add 10.0.0.9/24 dev eth0";
    assert!(site.network.command(Some('B')).args(["sh", "-c", change]).status().unwrap().success());
    leecher.ends_with(0);
    assert_holds(&site.folder('B').join("x.bin"), &bytes);
}

#[test]
fn a_tracker_at_a_link_local_address_serves_its_network() {
    let Some(site) = Site::with_listen("tracker", "[::]") else { return };
    let tracker = format!("{}%eth0", site.link_local('A'));
    site.link_local('C');
    let bytes = random_bytes(6, 1_000_000);
    write(site.folder('B'), "x.bin", &bytes);
    let seeder_address = site.link_local('B');
    let seeder = site.start('B', "seeder", &["-f", "x.bin", "--tracker", &tracker]);
    seeder.wait_for_text(&format!("reachable at [{seeder_address}"));
    let mut leecher = site.start('C', "leecher", &["x.bin", "--tracker", &tracker]);
    leecher.ends_with(0);
    assert_holds(&site.folder('C').join("x.bin"), &bytes);
    assert!(!seeder.has_said("no other host can connect"));
}

#[test]
fn a_seeder_beside_its_tracker_is_reached_where_hosts_have_link_local_addresses_only() {
    let Some(site) = Site::with_listen("tracker", "[::]") else { return };
    let tracker = format!("{}%eth0", site.link_local('A'));
    site.link_local('C');
    for host in ['A', 'C'] {
        let mut remove = site.network.command(Some(host));
        remove.args(["ip", "-4", "addr", "flush", "dev", "eth0"]);
        assert!(remove.status().unwrap().success());
    }
    let bytes = random_bytes(7, 1_000_000);
    write(site.folder('A'), "x.bin", &bytes);
    let seeder = site.start('A', "seeder", &["-f", "x.bin"]);
    seeder.wait_for_text("reachable at [fe80::");
    let mut list = site.start('C', "leecher", &["--list", "--tracker", &tracker]);
    list.ends_with(0);
    list.wait_for("on stdout", |line| has_counts(line, "1", "0"));
    let mut leecher = site.start('C', "leecher", &["x.bin", "--tracker", &tracker]);
    leecher.ends_with(0);
    assert_holds(&site.folder('C').join("x.bin"), &bytes);
}

#[test]
fn the_status_is_available_on_the_same_host_through_any_address() {
    for (program, flag, port) in [("tracker", "--tracker", 5100), ("manager", "--manager", 10_000)] {
        let Some(site) = Site::new(program) else { return };
        for address in ["10.0.0.1", "127.0.0.1"] {
            let mut status = site.start('A', program, &["status", flag, &format!("{address}:{port}")]);
            status.ends_with(0);
            status.wait_for("on stdout", |line| line == "peers       0 registered");
        }
        let mut refused = site.start('B', program, &["status", flag, &format!("10.0.0.1:{port}")]);
        refused.ends_with(5);
        refused.wait_for_text("the status is available only on the host of this program");
    }
}
