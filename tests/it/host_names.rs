//! Trackers that are given by host name: a dead first address, a changed entry, and an entry that appears late.
//!
//! Each program sees its own `/etc/hosts`, a file of the test.

use crate::common::network::Hosts;
use crate::common::*;
use std::path::PathBuf;

const NAME: &str = "tracker.test:5100";

/// Three hosts that resolve names by a file of the test.
struct NamedHosts {
    hosts: Hosts,
    entries: PathBuf,
}

impl NamedHosts {
    /// `None`, with a message, where the user may not make network namespaces.
    fn new(entries: &str) -> Option<Self> {
        let hosts = Hosts::new()?;
        let path = write(&hosts.folder('A'), "hosts", entries.as_bytes());
        Some(Self { hosts, entries: path })
    }

    /// Replaces the entries. The file stays the same, because the programs have mounted it.
    fn set(&self, entries: &str) {
        std::fs::write(&self.entries, entries).unwrap();
    }

    fn start(&self, host: char, program: &str, args: &[&str]) -> Program {
        let mount = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        let mut prefix = self.hosts.prefix(host);
        let words = ["unshare", "--mount", "sh", "-c", mount, self.entries.to_str().unwrap()];
        prefix.extend(words.map(str::to_owned));
        let prefix: Vec<&str> = prefix.iter().map(String::as_str).collect();
        Program::start_by(&prefix, program, args, &self.hosts.folder(host))
    }

    fn tracker(&self, host: char) -> Program {
        let tracker = self.start(host, "tracker", &["--listen", "0.0.0.0:5100"]);
        tracker.wait_for_text("listening on");
        tracker
    }

    fn file(&self, host: char) -> Vec<u8> {
        let bytes = random_bytes(1, 100_000);
        write(&self.hosts.folder(host), "x.bin", &bytes);
        bytes
    }
}

#[test]
fn a_dead_first_address_does_not_hide_the_second() {
    let Some(hosts) = NamedHosts::new("10.0.0.9 tracker.test\n10.0.0.1 tracker.test\n") else { return };
    let bytes = hosts.file('A');
    let _tracker = hosts.tracker('A');
    let seeder = hosts.start('A', "seeder", &["-f", "x.bin", "--tracker", NAME]);
    seeder.wait_for_text("registered with the tracker");
    let mut leecher = hosts.start('B', "leecher", &["x.bin", "--tracker", NAME]);
    leecher.ends_with(0);
    assert_holds(&hosts.hosts.folder('B').join("x.bin"), &bytes);
}

#[test]
fn a_changed_entry_is_followed_to_the_new_tracker() {
    let Some(hosts) = NamedHosts::new("10.0.0.1 tracker.test\n") else { return };
    hosts.file('C');
    let tracker = hosts.tracker('A');
    let seeder = hosts.start('C', "seeder", &["-f", "x.bin", "--tracker", NAME]);
    tracker.wait_for_text("of x.bin");
    drop(tracker);
    hosts.set("10.0.0.2 tracker.test\n");
    let other = hosts.tracker('B');
    other.wait_for_text("of x.bin");
    seeder.wait_for_text("reconnected to the tracker");
}

#[test]
fn an_entry_that_appears_late_is_found() {
    let Some(hosts) = NamedHosts::new("") else { return };
    let bytes = hosts.file('A');
    let _tracker = hosts.tracker('A');
    let seeder = hosts.start('A', "seeder", &["-f", "x.bin", "--tracker", NAME, "--listen", "10.0.0.1"]);
    let mut leecher = hosts.start('B', "leecher", &["x.bin", "--tracker", NAME, "--wait", "120"]);
    for program in [&seeder, &leecher] {
        program.wait_for_text("cannot resolve");
    }
    hosts.set("10.0.0.1 tracker.test\n");
    leecher.ends_with(0);
    assert_holds(&hosts.hosts.folder('B').join("x.bin"), &bytes);
}
