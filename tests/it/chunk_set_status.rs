//! The state of a chunk set: `tracker status`, the prompt of a client, reports on unreachable holders, and wrong addresses.

use crate::common::terminal::AtTerminal;
use crate::common::wire::Wire;
use crate::common::*;
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::content::{ChunkIndex, Digest, PeerName, SetName};
use shoal::protocol::tracker::{Claim, Registration, SetKey, TrackerRequest, TrackerResponse};
use std::net::{SocketAddr, TcpListener};

/// The first digits of the SHA-256 of some bytes.
fn digits(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()[..8].to_owned()
}

#[test]
fn tracker_status_and_the_prompt_of_a_client_show_the_claims_of_each_chunk() {
    let place = place();
    let dir = place.path();
    let (good, bad) = (b"the first chunk", b"another content");
    let ann = chunk_folder(dir, "ann", 2, &[(1, good), (2, b"two")]);
    let bob = chunk_folder(dir, "bob", 2, &[(1, good)]);
    let eve = chunk_folder(dir, "eve", 2, &[(2, bad)]);
    // No client is lost while the machine is busy.
    let tracker = tracker(dir, &["--lease", "600"]);
    let _bob = client(dir, &bob, "bob", tracker.address(), &[]);
    let _eve = client(dir, &eve, "eve", tracker.address(), &[]);
    let address = tracker.address().to_string();
    let mut at_terminal = AtTerminal::client(dir, &ann, "ann", &["--tracker", &address]);
    at_terminal.wait_for("ann> ");
    tracker.wait_for_text("chunk 2: 1 of 2 clients agree; the chunks of ");
    at_terminal.press("status\r");
    at_terminal.wait_for("set default: 1 of 2 chunks agreed (by 2 clients or more), 3 members");
    let (first, second, third) = (digits(good), digits(b"two"), digits(bad));
    at_terminal.wait_for_all(&[&first, &format!("{second} (ann)"), &format!("{third} (eve)")]);
    at_terminal.press("peers\r");
    at_terminal.wait_for_all(&["AGREED CHUNKS", "eve ", "1 of 2"]);
    at_terminal.press("mine\r");
    at_terminal.wait_for_all(&["2 of 2 chunks", &second]);
    at_terminal.press("stauts\r");
    at_terminal.wait_for("did you mean status?");
    let mut status = Program::start("tracker", &["status", "--tracker", &address], dir);
    status.ends_with(0);
    let shown = status.stdout().join("\n");
    assert!(shown.contains(&format!("{third} (eve)")) && shown.contains(&first), "{shown}");
    // A listed chunk disagrees.
    at_terminal.press("quit\r");
    assert_eq!(at_terminal.exit_code(PATIENCE), Some(13));
    assert!(at_terminal.is_cooked());
}

/// Claims the first chunk of a set of one chunk, as a client that cannot be reached.
fn claim_without_serving(tracker: SocketAddr, name: &str) -> Wire {
    // The port was just closed.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut wire = Wire::connect(tracker);
    wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
    wire.send(&TrackerRequest::Register(Registration::new(PeerName::new(name).unwrap(), port))).unwrap();
    let token = loop {
        match wire.message::<TrackerResponse>() {
            Some(TrackerResponse::Registered { token, .. }) => break token,
            Some(_) => {}
            None => panic!("the tracker has closed the connection"),
        }
    };
    let set = SetKey { set: SetName::new("default").unwrap(), count: 1 };
    wire.send(&TrackerRequest::JoinSet { token, set: set.clone() }).unwrap();
    let claim = Claim { sha256: Digest::of(b"one"), size: 3 };
    wire.send(&TrackerRequest::Claim { token, set, index: ChunkIndex(0), claim }).unwrap();
    wire
}

#[test]
fn an_agreed_chunk_without_a_reachable_holder_is_reported_at_both_ends() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--lease", "600"]);
    let _holders = ["ann", "bob"].map(|name| claim_without_serving(tracker.address(), name));
    tracker.wait_for_text("the set default is agreed upon");
    let waits = client(dir, &chunk_folder(dir, "waits", 1, &[]), "waits", tracker.address(), &[]);
    waits.wait_for_text("chunk 1: no reachable holder for 3");
    tracker.wait_for_text("set default: chunk 1: waits has reached no holder for 3");
}

#[test]
fn a_client_at_the_wrong_role_ends_with_the_name_of_the_right_flag() {
    let place = place();
    let dir = place.path();
    let (manager, tracker) = (manager(dir, &[]), tracker(dir, &[]));
    let folder = chunk_folder(dir, "f", 2, &[(1, b"one")]);
    let mut chunks = client(dir, &folder, "chunks", manager.address(), &[]);
    chunks.ends_with(2);
    assert!(chunks.has_said("is a manager, not a tracker: name a tracker with --tracker HOST:PORT"));
    let plain = subfolder(dir, "plain");
    let mut member = start_member(dir, &plain, "member", tracker.address(), &[]);
    member.ends_with(2);
    assert!(member.has_said("is a tracker, not a manager: use it with --tracker "));
    // Programs that use a tracker over UDP, and the list of files, which comes over TCP.
    let at = manager.address().to_string();
    write(dir, "file", b"bytes");
    for (bin, args) in [
        ("seeder", &["-f", "file", "-p", "0", "--tracker", &at][..]),
        ("leecher", &["x", "--tracker", &at]),
        ("leecher", &["x", "y*", "--tracker", &at]),
        ("leecher", &["--list", "--tracker", &at]),
        ("client", &["-folder", "plain", "-transfer_port", "0", "-name", "n", "--plain", "--tracker", &at]),
    ] {
        let mut program = Program::start(bin, args, dir);
        program.ends_with(2);
        assert!(program.has_said("is a manager, not a tracker: name a tracker with --tracker HOST:PORT"));
    }
}
