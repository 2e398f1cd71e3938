//! Managers that start late, restart, or exit.

use super::{QUICK, tiny_folder, wait_known};
use crate::common::wire::RawPeer;
use crate::common::*;
use std::net::TcpStream;

#[test]
fn a_restarted_manager_recovers_its_members_and_downloads_continue_meanwhile() {
    let place = place();
    let dir = place.path();
    // Its own loopback address, so that no program of another test takes the port while the manager is down.
    let mut first = manager(dir, &[&["--listen", "127.0.0.3:0"][..], &QUICK].concat());
    let at = first.address();
    let bytes = random_bytes(3, 4 << 20);
    let (has, gets, idles) = (subfolder(dir, "has"), subfolder(dir, "gets"), tiny_folder(dir, "idles"));
    write(&has, "big.bin", &bytes);
    let holder = member(dir, &has, "holder", at, &["-v", "--upload-limit", "1MB"]);
    let idle = member(dir, &idles, "idle", at, &[]);
    holder.wait_for_text("sharing big.bin");
    let mut getter = start_member(dir, &gets, "getter", at, &["--get", "big.bin"]);
    holder.wait_for_count("serving chunk", 2);
    first.kill9();
    for client in [&holder, &idle, &getter] {
        client.wait_for_text("retrying until it answers");
    }
    getter.ends_with(0);
    assert_holds(&gets.join("big.bin"), &bytes);
    let second = manager(dir, &[&["--listen", &at.to_string()][..], &QUICK].concat());
    for (name, client) in [("holder", &holder), ("idle", &idle)] {
        client.wait_for_text("reconnected to the ");
        second.wait_for_text(&format!("- {name} joined at {}", client.address()));
    }
    wait_known(&idle, &["holder"]);
    wait_known(&holder, &["idle"]);
    let mut late = start_member(dir, &subfolder(dir, "late"), "late", at, &["--get", "of-idles"]);
    late.ends_with(0);
}

#[test]
fn members_may_start_before_the_manager() {
    let place = place();
    let dir = place.path();
    let mut before = manager(dir, &["--listen", "127.0.0.4:0"]);
    let at = before.address();
    before.kill9();
    let early = start_member(dir, &tiny_folder(dir, "early"), "early", at, &[]);
    let mut getter = start_member(dir, &subfolder(dir, "gets"), "getter", at, &["--get", "of-early"]);
    early.wait_for_text("retrying until it answers");
    getter.wait_for_text("retrying until it answers");
    let _manager = manager(dir, &["--listen", &at.to_string()]);
    getter.ends_with(0);
    assert_holds(&dir.join("gets/of-early"), b"early");
}

#[test]
fn a_manager_exits_at_an_interrupt_with_peers_connected() {
    let place = place();
    let dir = place.path();
    let mut manager = manager(dir, &[]);
    let client = member(dir, &tiny_folder(dir, "client"), "client", manager.address(), &[]);
    let mut raw = RawPeer::join(manager.address(), "raw");
    let _silent = TcpStream::connect(manager.address()).unwrap();
    manager.interrupt();
    manager.ends_with(0);
    raw.wire.is_closed();
    client.wait_for_text("retrying until it answers");
}
