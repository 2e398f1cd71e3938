//! Downloads over networks that delay, cut, drop, lose, duplicate and reorder still complete with the right bytes.

use crate::common::proxy::Proxy;
use crate::common::*;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Number of simulated networks, each with its own seed.
const SEED_COUNT: u64 = 100;
/// Downloads that run at the same time. They mostly wait for timeouts, so that more than one per core is useful.
const PARALLEL_COUNT: usize = 10;

/// Two seeders, a tracker and a leecher that reach each other only through bad networks.
fn download_over_bad_network(seed: u64) {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(seed, 400_000);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--heartbeat", "1", "--lease", "30"]);
    let network = Proxy::for_everything(seed, tracker.address());
    let seeders = [1, 2].map(|number| {
        let proxy = Proxy::for_connections(1_000 * number + seed);
        let address = proxy.address.to_string();
        let options = ["--chunk-size", "16KiB", "--advertise", &address, "-v"];
        let seeder = start_seeder(dir, &file, network.address, &options);
        proxy.set_target(seeder.address());
        (seeder, proxy)
    });
    let mut leecher = leecher(&there, network.address, &["a.bin", "--wait", "60", "-v"]);
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &bytes);
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
    for (program, _) in &seeders {
        assert!(!program.has_said("panicked"));
    }
    assert!(!tracker.has_said("panicked") && !leecher.has_said("banned "), "an honest source was banned");
}

#[test]
fn a_download_completes_over_a_hundred_bad_networks() {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL_COUNT {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= SEED_COUNT {
                        return;
                    }
                    let started = std::time::Instant::now();
                    download_over_bad_network(seed);
                    println!("{seed}: {:?}", started.elapsed());
                }
            });
        }
    });
}

/// Three hosts at one switch, each in its own network namespace; removed at the end of the test.
struct Hosts {
    tag: String,
}

impl Hosts {
    /// Creates the hosts; `None`, with a message, if the user may not create network namespaces.
    fn new() -> Option<Self> {
        let hosts = Self { tag: format!("shoal-{}", std::process::id()) };
        if !hosts.ip(&["netns", "add", &hosts.name(0)]) {
            eprintln!("skipped: network namespaces need rights that this user does not have");
            return None;
        }
        let inside = |host, args: &[&str]| {
            let name = hosts.name(host);
            assert!(hosts.ip(&[&["-n", &name], args].concat()), "{args:?}");
        };
        inside(0, &["link", "add", "switch", "type", "bridge"]);
        inside(0, &["link", "set", "switch", "up"]);
        for host in 1..=3 {
            let (name, port) = (hosts.name(host), format!("port{host}"));
            assert!(hosts.ip(&["netns", "add", &name]));
            let pair = ["link", "add", &port, "type", "veth", "peer", "name", "wire", "netns", &name];
            inside(0, &pair);
            inside(0, &["link", "set", &port, "master", "switch", "up"]);
            inside(host, &["address", "add", &format!("{}/24", Self::address(host)), "dev", "wire"]);
            inside(host, &["link", "set", "wire", "up"]);
            inside(host, &["link", "set", "lo", "up"]);
        }
        Some(hosts)
    }

    fn name(&self, host: usize) -> String {
        format!("{}-{host}", self.tag)
    }

    fn address(host: usize) -> String {
        format!("10.213.77.{host}")
    }

    fn ip(&self, args: &[&str]) -> bool {
        Command::new("ip").args(args).output().is_ok_and(|output| output.status.success())
    }

    /// Sets the link of a host `up` or `down`.
    fn wire(&self, host: usize, state: &str) {
        assert!(self.ip(&["-n", &self.name(0), "link", "set", &format!("port{host}"), state]));
    }

    fn start(&self, host: usize, bin: &str, args: &[&str], cwd: &std::path::Path) -> Program {
        Program::start_by(&["ip", "netns", "exec", &self.name(host)], bin, args, cwd)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        (0..=3).for_each(|host| _ = self.ip(&["netns", "delete", &self.name(host)]));
    }
}

#[test]
fn a_download_survives_links_that_are_down_for_a_while() {
    let Some(hosts) = Hosts::new() else { return };
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(7, 4 << 20);
    let file = write(dir, "a.bin", &bytes);
    let listen = Hosts::address(1);
    let tracker = hosts.start(1, "tracker", &["--listen", &format!("{listen}:0")], dir);
    let at = tracker.address().to_string();
    let (path, here) = (file.to_str().unwrap(), Hosts::address(2));
    let slowly = ["--listen", &here, "--upload-limit", "512KiB", "--chunk-size", "16KiB", "-v", "-p", "0"];
    let seeder = hosts.start(2, "seeder", &[&["-f", path, "--tracker", &at], &slowly[..]].concat(), dir);
    tracker.wait_for_text("of a.bin");
    let mut leecher = hosts.start(3, "leecher", &["a.bin", "--tracker", &at, "-v"], &there);
    seeder.wait_for_count("serving chunk", 20);
    (1..=3).for_each(|host| hosts.wire(host, "down"));
    // The duration of the outage is the behaviour under test.
    std::thread::sleep(Duration::from_secs(20));
    (1..=3).for_each(|host| hosts.wire(host, "up"));
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &bytes);
    // The seeder's lease ended during the outage, and the seeder registered again.
    tracker.wait_for_text("is gone");
    tracker.wait_for_count("of a.bin", 2);
    assert!(!leecher.has_said("resuming at "), "it was one run");
}
