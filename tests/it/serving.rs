//! Leechers serve while they download, and leave when no peer downloads from them.

use crate::common::wire::Wire;
use crate::common::*;
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A tracker and a seeder that is slow enough for other programs to connect during a download.
struct Slow {
    tracker: Program,
    seeder: Program,
    bytes: Vec<u8>,
    there: PathBuf,
}

impl Slow {
    fn new(dir: &Path) -> Self {
        let bytes = random_bytes(8, 400_000);
        let file = write(dir, "a.bin", &bytes);
        let tracker = tracker(dir, &[]);
        let options = ["-v", "--chunk-size", "16KiB", "--upload-limit", "200KB"];
        let seeder = seeder(dir, &file, &tracker, &options);
        Self { tracker, seeder, bytes, there: subfolder(dir, "there") }
    }

    fn leecher(&self, flags: &[&str]) -> Program {
        leecher(&self.there, self.tracker.address(), &[&["a.bin"], flags].concat())
    }

    /// A leecher, and a peer that has subscribed to its file.
    fn leecher_with_peer(&self, flags: &[&str]) -> (Program, Wire) {
        let leecher = self.leecher(flags);
        let mut peer = Wire::connect(leecher.address());
        peer.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None }).unwrap();
        assert_eq!(peer.message(), Some(PeerResponse::Hello { version: PROTOCOL_VERSION, site: None }));
        let summary = wire_summary(&self.bytes);
        peer.send(&PeerRequest::Have { file: summary }).unwrap();
        assert!(matches!(peer.message(), Some(PeerResponse::Have { .. })));
        (leecher, peer)
    }
}

fn wire_summary(bytes: &[u8]) -> shoal::content::FileId {
    crate::common::wire::Whole::new(bytes.to_vec(), 16_384).id()
}

#[test]
fn a_leecher_serves_verified_chunks_while_it_downloads() {
    let place = place();
    let slow = Slow::new(place.path());
    let mut first = slow.leecher(&["-v"]);
    slow.seeder.wait_for_count("serving chunk", 10);
    let other = subfolder(place.path(), "other");
    let mut second = leecher(&other, slow.tracker.address(), &["a.bin"]);
    first.ends_with(0);
    second.ends_with(0);
    assert_holds(&other.join("a.bin"), &slow.bytes);
    assert!(first.has_said("serving chunk") || first.has_said("relaying chunk"));
    slow.tracker
        .wait_for("the goodbye", |line| line.contains("leecher-") && line.contains("it disconnected"));
}

#[test]
fn a_complete_leecher_leaves_when_no_peer_downloads_from_it() {
    let place = place();
    let slow = Slow::new(place.path());
    let (mut leecher, peer) = slow.leecher_with_peer(&["--linger", "99"]);
    leecher.wait_for_text("Successfully downloaded a.bin");
    leecher.wait_for_text("complete; serving 1 peer for at most 99 s");
    assert_holds(&slow.there.join("a.bin"), &slow.bytes);
    drop(peer);
    leecher.ends_with(0);
}

#[test]
fn an_interrupt_ends_a_complete_leecher_with_0() {
    let place = place();
    let slow = Slow::new(place.path());
    let (mut leecher, _peer) = slow.leecher_with_peer(&["--linger", "99"]);
    leecher.wait_for_text("complete; serving 1 peer");
    leecher.interrupt();
    leecher.ends_with(0);
}

#[test]
fn linger_0_leaves_at_once_and_the_default_leaves_soon() {
    for (flags, stays) in [(&["--linger", "0"][..], false), (&[], true)] {
        let place = place();
        let slow = Slow::new(place.path());
        let (mut leecher, _peer) = slow.leecher_with_peer(flags);
        leecher.ends_with(0);
        assert_eq!(leecher.has_said("complete; serving 1 peer for at most 2 s"), stays);
    }
}

#[test]
fn a_port_in_use_is_only_a_warning_without_stay() {
    let place = place();
    let (dir, tracker) = (place.path(), tracker(place.path(), &[]));
    let file = write(dir, "a.bin", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let run = |name: &str, flags: &[&str]| {
        let there = subfolder(dir, name);
        leecher(&there, tracker.address(), &[&["a.bin"], flags].concat())
    };
    let mut warned = run("warned", &["-p", &port.to_string()]);
    warned.ends_with(0);
    warned.wait_for("the warning", |line| line.contains("WARNING") && line.contains("is in use"));
    assert!(!warned.has_said("leecher listening on"));
    let mut refused = run("refused", &["-p", &port.to_string(), "--stay"]);
    refused.ends_with(1);
    let range = format!("{port}-{}", port.saturating_add(50));
    let mut next = run("next", &["-p", &range]);
    next.ends_with(0);
    next.wait_for_text(&format!("port {port} is in use; using port "));
    next.wait_for_text("leecher listening on");
    let mut silent = run("silent", &["--no-serve"]);
    silent.ends_with(0);
    assert!(!silent.has_said("leecher listening on"));
    // The file is in place.
    let mut verifies = run("silent", &[]);
    verifies.ends_with(0);
    assert!(!verifies.has_said("leecher listening on") && !verifies.has_said("complete; serving"));
}

#[test]
fn a_seeder_without_a_port_takes_the_next_free_one() {
    let place = place();
    let (dir, tracker) = (place.path(), tracker(place.path(), &[]));
    let file = write(dir, "a.bin", b"bytes");
    let at = tracker.address().to_string();
    let start = || Program::start("seeder", &["-f", file.to_str().unwrap(), "--tracker", &at], dir);
    let first = start();
    first.wait_for_text("registered with");
    let second = start();
    second.wait_for_text("port 7000 is in use; using port ");
    second.wait_for_text("registered with");
    assert_ne!(first.address(), second.address());
}

#[test]
fn the_download_limit_applies_to_all_sources_together() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(4, 1_000_000);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let _seeders = [0, 1, 2].map(|_| seeder(dir, &file, &tracker, &["--chunk-size", "32KiB"]));
    let started = Instant::now();
    leecher(&there, tracker.address(), &["a.bin", "--download-limit", "500KB"]).ends_with(0);
    // The rate is the behaviour under test: 2 s, less a burst.
    assert!(started.elapsed() > Duration::from_millis(1_700), "{:?}", started.elapsed());
    assert_holds(&there.join("a.bin"), &bytes);
}
