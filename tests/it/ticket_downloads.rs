//! Tickets at a leecher: sources without a tracker, the trackers of a ticket, dead addresses, replaced files, and reports of
//! completion.

use crate::common::wire::{FakePeer, Udp, Whole, Wire};
use crate::common::*;
use shoal::content::FileName;
use shoal::content::limits::{CHUNK_SIZE, PROTOCOL_VERSION};
use shoal::protocol::ErrorCode;
use shoal::protocol::frame::encode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::tracker_client::ticket::Ticket;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

/// An address on which no program listens.
fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap()
}

fn ticket(name: &str, whole: &Whole, trackers: &[SocketAddr], peers: &[SocketAddr]) -> Ticket {
    Ticket {
        id: whole.id(),
        name: FileName::new(name).unwrap(),
        size: whole.bytes.len() as u64,
        trackers: trackers.iter().map(|tracker| (*tracker).into()).collect(),
        peers: peers.to_vec(),
    }
}

/// Starts a leecher without `--tracker`.
fn leech(dir: &Path, ticket: &Ticket, args: &[&str]) -> Program {
    let ticket = ticket.to_string();
    Program::start("leecher", &[&[&*ticket], args].concat(), dir)
}

/// A peer that answers correctly and passes on each request.
fn seeder_of(whole: &Whole) -> (FakePeer, Receiver<PeerRequest>) {
    let (requests, received) = channel();
    let whole = whole.clone();
    let requests = std::sync::Mutex::new(requests);
    let peer = FakePeer::start(move |mut wire: Wire| {
        while let Some(request) = wire.message::<PeerRequest>() {
            let (response, payload) = match &request {
                PeerRequest::Completed { .. } => (PeerResponse::Noted, vec![]),
                _ => match whole.answer(&request) {
                    Some(answer) => answer,
                    None => return,
                },
            };
            let _ = requests.lock().unwrap().send(request);
            if wire.send_bytes(&[encode(&response).unwrap(), payload].concat()).is_err() {
                return;
            }
        }
    });
    (peer, received)
}

fn completions(received: &Receiver<PeerRequest>) -> Vec<PeerRequest> {
    received.try_iter().filter(|request| matches!(request, PeerRequest::Completed { .. })).collect()
}

#[test]
fn a_ticket_needs_no_tracker_and_the_completion_is_reported_to_its_seeder() {
    let place = place();
    let there = subfolder(place.path(), "there");
    let whole = Whole::new(random_bytes(1, 300_000), 64 << 10);
    let (peer, received) = seeder_of(&whole);
    // The first address is dead.
    let ticket = ticket("a b.bin", &whole, &[], &[closed(), peer.address]);
    let mut leecher = leech(&there, &ticket, &["--name", "anna"]);
    leecher.ends_with(0);
    assert_holds(&there.join("a b.bin"), &whole.bytes);
    let reports = completions(&received);
    let [PeerRequest::Completed { file, report, name }] = &reports[..] else { panic!("{reports:?}") };
    assert_eq!((*file, name.as_str()), (whole.id(), "anna"));
    // A file that is complete is reported, too, by another run.
    let mut again = leech(&there, &ticket, &["--no-serve"]);
    again.ends_with(0);
    again.wait_for_text("a b.bin exists and is complete");
    let reports = completions(&received);
    let [PeerRequest::Completed { report: other, .. }] = &reports[..] else { panic!("{reports:?}") };
    assert_ne!(report, other);
}

#[test]
fn the_reports_of_one_run_have_one_number_and_go_to_tracker_and_seeders() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    let (one, two) = (Whole::new(vec![1; 90_000], 16 << 10), Whole::new(vec![2; 90_000], 16 << 10));
    let ((peer_one, first), (peer_two, second)) = (seeder_of(&one), seeder_of(&two));
    let _one = peer_one.announce(tracker.address(), "one", &one.summary("one.bin"));
    let _two = peer_two.announce(tracker.address(), "two", &two.summary("two.bin"));
    leecher(&there, tracker.address(), &["one.bin", "two.bin", "--name", "anna"]).ends_with(0);
    let reports = [completions(&first), completions(&second)].concat();
    let numbers: Vec<_> = reports
        .iter()
        .map(|request| match request {
            PeerRequest::Completed { report, file, .. } => (*report, *file),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers.len(), 2, "{reports:?}");
    assert_eq!((numbers[0].0, numbers[0].1, numbers[1].1), (numbers[1].0, one.id(), two.id()));
    for name in ["one.bin", "two.bin"] {
        tracker.wait_for_text(&format!("anna has downloaded {name}"));
    }
}

#[test]
fn a_leecher_registers_with_the_tracker_of_its_ticket() {
    registers(|tracker, seeder| (vec![tracker], vec![seeder]));
}

#[test]
fn an_address_of_the_seeder_is_asked_as_a_tracker() {
    // The address of the tracker stands for another address of the seeder.
    registers(|tracker, seeder| (vec![], vec![seeder, tracker]));
}

/// Runs two leechers with a ticket. The second starts when the seeder has left.
fn registers(addresses: impl Fn(SocketAddr, SocketAddr) -> (Vec<SocketAddr>, Vec<SocketAddr>)) {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let other = subfolder(place.path(), "other");
    let bytes = random_bytes(5, 200_000);
    let whole = Whole::new(bytes.clone(), CHUNK_SIZE);
    let tracker = tracker(dir, &[]);
    let seeder = seeder(dir, &write(dir, "a.bin", &bytes), &tracker, &[]);
    let (trackers, peers) = addresses(tracker.address(), seeder.address());
    let ticket = ticket("a.bin", &whole, &trackers, &peers);
    let stays = leech(&there, &ticket, &["--stay", "-p", "0", "--name", "anna"]);
    tracker.wait_for_text("anna has 4 of 4 chunks of a.bin");
    tracker.wait_for_text("anna has downloaded ");
    // The seeder leaves, and the tracker of the ticket names the other leecher.
    drop(seeder);
    let mut late = leech(&other, &ticket, &[]);
    late.ends_with(0);
    assert_holds(&other.join("a.bin"), &bytes);
    assert!(!stays.has_said(" - ERROR - "));
}

#[test]
fn a_download_continues_when_the_seeder_of_its_ticket_leaves() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(6, 1 << 20);
    let whole = Whole::new(bytes.clone(), 16 << 10);
    let tracker = tracker(dir, &[]);
    let file = write(dir, "a.bin", &bytes);
    let slow = ["-v", "--chunk-size", "16KiB", "--upload-limit", "64KiB"];
    let leaving = seeder(dir, &file, &tracker, &slow);
    let ticket = ticket("a.bin", &whole, &[tracker.address()], &[leaving.address()]);
    let mut leecher = leech(&there, &ticket, &[]);
    leaving.wait_for_count("serving chunk", 4);
    drop(leaving);
    let _other = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB", "--name", "other"]);
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &bytes);
}

#[test]
fn dead_addresses_are_named_and_tried_until_the_wait_ends() {
    let place = place();
    let there = subfolder(place.path(), "there");
    let whole = Whole::new(vec![7; 1_000], 16 << 10);
    let (peer, tracker) = (closed(), closed());
    let ticket = ticket("a.bin", &whole, &[tracker], &[peer]);
    let mut dead = leech(&there, &ticket, &["--wait", "1"]);
    dead.ends_with(3);
    let line = dead.wait_for("a warning", |line| line.contains(" - WARNING - no peer has sent the manifest"));
    assert!(line.contains(&format!("asked at {peer}, {tracker}: ")), "{line}");
    assert!(line.contains("waiting 1 s for it"), "{line}");
    // The seeder comes back.
    let waiting = leech(&there, &ticket, &[]);
    waiting.wait_for_text("waiting 60 s for it");
    let bytes = whole.answer(&PeerRequest::Manifest { file: whole.id() });
    assert!(bytes.is_some());
    let listener = TcpListener::bind(peer).unwrap();
    let served = whole.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut wire = Wire::new(stream);
            let whole = served.clone();
            std::thread::spawn(move || {
                while let Some(request) = wire.message::<PeerRequest>() {
                    let Some((response, payload)) = whole.answer(&request) else { return };
                    let sent = wire.send_bytes(&[encode(&response).unwrap(), payload].concat());
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let mut waiting = waiting;
    waiting.ends_with(0);
    assert_holds(&there.join("a.bin"), &whole.bytes);
}

#[test]
fn addresses_that_are_silent_are_named_before_their_connects_time_out() {
    let place = place();
    let there = subfolder(place.path(), "there");
    let whole = Whole::new(vec![7; 1_000], 16 << 10);
    // The system accepts connections for a listener without an accept loop, which then stay silent.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let ticket = ticket("a.bin", &whole, &[], &[address]);
    // The timeout of the peer is longer than the test: the warning does not depend on it.
    let leecher = leech(&there, &ticket, &["--hello-timeout", "1h", "--stall-timeout", "1h"]);
    leecher.wait_for_text(&format!(
        "no peer has sent the manifest of a.bin for 5 s, asked at {address}; still trying"
    ));
}

#[test]
fn every_byte_is_verified_against_the_ticket() {
    let place = place();
    let there = subfolder(place.path(), "there");
    let whole = Whole::new(random_bytes(9, 100_000), 16 << 10);
    let other = Whole::new(random_bytes(10, 100_000), 16 << 10);
    // A peer that sends the manifest of another file.
    let (liar, _) = seeder_of(&other);
    let named = ticket("a.bin", &whole, &[], &[liar.address]);
    let mut refused = leech(&there, &named, &["--wait", "0"]);
    refused.ends_with(3);
    refused.wait_for_text("invalid manifest");
    // A peer with corrupt chunks.
    let corrupt = FakePeer::sending_corrupt_chunks(&whole);
    let named = ticket("a.bin", &whole, &[], &[corrupt.address]);
    leech(&there, &named, &["--timeout", "1"]).ends_with(32);
    assert!(!there.join("a.bin").exists());
    // The size is a part of the ticket.
    let (honest, _) = seeder_of(&whole);
    let mut changed = ticket("a.bin", &whole, &[], &[honest.address]);
    changed.size += 1;
    let mut refused = leech(&there, &changed, &[]);
    refused.ends_with(2);
    refused.wait_for_text("the ticket states 100001 bytes for a.bin, but the file with its id has 100000");
    assert!(!there.join("a.bin").exists());
}

/// A peer whose file was replaced.
fn replaced(new: String) -> FakePeer {
    FakePeer::start(move |mut wire: Wire| {
        while let Some(request) = wire.message::<PeerRequest>() {
            let answer = match request {
                PeerRequest::Hello { .. } => PeerResponse::Hello { version: PROTOCOL_VERSION, site: None },
                _ => {
                    let text = format!("a.bin was replaced; its new id is {new}");
                    PeerResponse::Error { code: ErrorCode::Replaced, text, index: None }
                }
            };
            if wire.send(&answer).is_err() {
                return;
            }
        }
    })
}

#[test]
fn an_old_ticket_is_reported_unless_another_holder_has_the_file() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let whole = Whole::new(random_bytes(11, 50_000), 16 << 10);
    let peer = replaced("ab".repeat(32));
    let old = ticket("a.bin", &whole, &[], &[peer.address]);
    let mut ends = leech(&there, &old, &[]);
    ends.ends_with(5);
    ends.wait_for_text(
        "a.bin was replaced by its seeder: this ticket is old; ask for the new one (new id abababababab...)",
    );
    let tracker = tracker(dir, &[]);
    let (holder, _) = seeder_of(&whole);
    let _held = holder.announce(tracker.address(), "holder", &whole.summary("a.bin"));
    let mut downloads = leech(&there, &ticket("a.bin", &whole, &[tracker.address()], &[peer.address]), &[]);
    downloads.ends_with(0);
    assert_holds(&there.join("a.bin"), &whole.bytes);
    // Another peer cannot say that the file was replaced: the seeder may come back.
    let dead = ticket("b.bin", &whole, &[], &[closed()]);
    let liar = subfolder(dir, "liar");
    let other = crate::common::tracker(&liar, &[]);
    let _lies = peer.announce(other.address(), "liar", &whole.summary("b.bin"));
    let mut waits = leecher(&there, other.address(), &[&dead.to_string(), "--wait", "1"]);
    waits.ends_with(3);
}

#[test]
fn an_invalid_ticket_is_a_usage_error_with_the_reason() {
    let place = place();
    let folder = subfolder(place.path(), "folder");
    let whole = Whole::new(vec![1; 9], 16 << 10);
    let good = ticket("a.bin", &whole, &[], &[]).to_string();
    for (text, reason) in [
        (good.replace("/xl=9", ""), "the ticket has no xl: it was not copied completely"),
        (good[..40].to_owned(), "the ticket has no id of 64 hexadecimal digits"),
        (format!("{good}/pe=host:1"), "pe=host:1 in the ticket: expected IP:PORT"),
    ] {
        for mut program in [
            Program::start("leecher", &[&*text], place.path()),
            plain(place.path(), &folder, "anna", &["--get", &text]),
        ] {
            program.ends_with(2);
            program.wait_for_text(reason);
        }
    }
}

#[test]
fn name_and_folder_of_a_ticket_are_safe_and_may_be_chosen() {
    let place = place();
    let there = subfolder(place.path(), "there");
    let whole = Whole::new(vec![3; 9], 16 << 10);
    let (peer, _) = seeder_of(&whole);
    let hidden = ticket(".profile", &whole, &[], &[peer.address]);
    let mut refused = leech(&there, &hidden, &[]);
    refused.ends_with(2);
    refused.wait_for_text("the file is named .profile, which would be hidden");
    leech(&there, &hidden, &["--as", "profile"]).ends_with(0);
    assert_holds(&there.join("profile"), &whole.bytes);
    // Several tickets in one command.
    let other = Whole::new(vec![4; 9], 16 << 10);
    let (second, _) = seeder_of(&other);
    let tickets = [ticket("a", &whole, &[], &[peer.address]), ticket("b", &other, &[], &[second.address])];
    let out = subfolder(&there, "out");
    let texts = tickets.map(|ticket| ticket.to_string());
    Program::start("leecher", &[&*texts[0], &texts[1], "--out", "out"], &there).ends_with(0);
    assert_eq!(names_in(&out), ["a", "b"]);
    // Two files of one name do not replace each other.
    let same = [ticket("c", &whole, &[], &[peer.address]), ticket("c", &other, &[], &[second.address])];
    let texts = same.map(|ticket| ticket.to_string());
    let mut differs = Program::start("leecher", &[&*texts[0], &texts[1], "--overwrite"], &there);
    differs.ends_with(13);
    differs.wait_for_text("c has just been downloaded with id ");
    assert_holds(&there.join("c"), &whole.bytes);
}

#[test]
fn a_client_downloads_a_ticket_and_reports_it() {
    let place = place();
    let (dir, folder) = (place.path(), subfolder(place.path(), "folder"));
    let whole = Whole::new(random_bytes(12, 50_000), 16 << 10);
    let (peer, received) = seeder_of(&whole);
    let text = ticket("a.bin", &whole, &[], &[peer.address]).to_string();
    let mut client = plain(dir, &folder, "anna", &["--get", &text]);
    client.ends_with(0);
    assert_eq!(client.stdout(), ["Successfully downloaded a.bin"]);
    assert_holds(&folder.join("a.bin"), &whole.bytes);
    assert_eq!(completions(&received).len(), 1);
    assert!(!client.has_said("no tracker listens"), "only the ticket is asked");
    // At the prompt, too.
    let folder = subfolder(dir, "prompt");
    let at = ["--tracker", &closed().to_string(), "--plain"];
    let mut prompt = terminal::AtTerminal::client(dir, &folder, "bert", &at);
    prompt.wait_for_prompt();
    prompt.press(&format!("get {text}\r"));
    prompt.wait_for("Successfully downloaded a.bin");
    prompt.press("quit\r");
    assert_eq!(prompt.exit_code(PATIENCE), Some(0));
    assert_holds(&folder.join("a.bin"), &whole.bytes);
}

#[test]
fn the_tracker_of_the_user_is_asked_for_a_ticket_too() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let whole = Whole::new(random_bytes(13, 50_000), 16 << 10);
    let tracker = tracker(dir, &[]);
    let (holder, _) = seeder_of(&whole);
    let _held = holder.announce(tracker.address(), "holder", &whole.summary("other name"));
    let text = ticket("a.bin", &whole, &[], &[closed()]).to_string();
    leecher(&there, tracker.address(), &[&text]).ends_with(0);
    assert_holds(&there.join("a.bin"), &whole.bytes);
    let found = Udp::to(tracker.address()).lookup("other name");
    assert_eq!(found.len(), 1);
}
