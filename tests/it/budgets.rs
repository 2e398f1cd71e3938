//! Hosts that fill the memory or the upload slots of a program: it refuses them with an error, and serves the others.

use crate::common::wire::{Udp, Wire};
use crate::common::*;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::content::{ChunkIndex, FileId, FileName};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::PeerRequest;
use shoal::protocol::tracker::{FileSummary, Token, TrackerRequest, TrackerResponse};
use std::net::{SocketAddr, TcpStream};

/// Announces a file of its own name and id.
fn announce(udp: &mut Udp, token: Token, number: u8) -> TrackerResponse {
    let name = FileName::new(format!("{}{number:03}", "n".repeat(200))).unwrap();
    let file = FileSummary { id: FileId([number; 32]), name, size: 1, chunks: 1 };
    udp.ask(&TrackerRequest::Announce { token, file, held: 1, sent: None })
}

fn is_busy(response: &TrackerResponse) -> bool {
    matches!(response, TrackerResponse::Error { code: ErrorCode::Busy, .. })
}

/// A connection whose receiver takes few bytes.
fn slow_reader(address: SocketAddr) -> Wire {
    let stream = TcpStream::connect(address).unwrap();
    set_socket_recv_buffer_size(&stream, 2_048).unwrap();
    Wire::new(stream)
}

#[test]
fn one_address_cannot_use_all_places_for_files() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--files-max", "8"]);
    let mut udp = Udp::to(tracker.address());
    let token = udp.register("greedy", 1_000);
    let accepted = (1..=8).take_while(|number| !is_busy(&announce(&mut udp, token, *number))).count();
    assert_eq!(accepted, 4);
    let TrackerResponse::Error { text, .. } = announce(&mut udp, token, 9) else { panic!("accepted") };
    assert!(text.contains("127.0.0.1 uses 4 of at most 4") && text.contains("--files-max"), "{text}");
    udp.ask(&TrackerRequest::Goodbye { token });
    let token = udp.register("other", 1_001);
    assert!(!is_busy(&announce(&mut udp, token, 9)), "the entries of a peer that left are free");
}

#[test]
fn a_list_above_the_budget_is_refused_and_lookups_are_answered() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--in-flight-max", "64KiB"]);
    let mut udp = Udp::to(tracker.address());
    let token = udp.register("p", 1_000);
    let list = || {
        let mut wire = Wire::connect(tracker.address());
        wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
        assert!(matches!(wire.message(), Some(TrackerResponse::Hello { .. })));
        wire.send(&TrackerRequest::List).unwrap();
        wire.message().expect("an answer")
    };
    assert!(matches!(list(), TrackerResponse::Listing { .. }));
    for number in 1..=240 {
        assert!(!is_busy(&announce(&mut udp, token, number)));
    }
    assert!(is_busy(&list()), "a list of 240 files with long names is larger than the budget");
    let name = Some(FileName::new(format!("{}{:03}", "n".repeat(200), 7)).unwrap());
    let found = udp.ask(&TrackerRequest::Lookup { name, id: None, limit: 9, token: None });
    assert!(matches!(found, TrackerResponse::Found { files, .. } if files.len() == 1));
}

#[test]
fn receivers_that_do_not_read_hold_no_upload_slots() {
    let place = place();
    let dir = place.path();
    let bytes = random_bytes(3, 1_500_000);
    let file = write(dir, "x.bin", &bytes);
    let tracker = tracker(dir, &[]);
    // A few slots; a receiver that takes nothing is disconnected after ten minutes only.
    let limits = ["--upload-limit", "400KB", "--stall-timeout", "600", "--idle-timeout", "600"];
    let seeder = seeder(dir, &file, &tracker, &limits);
    let id: FileId = {
        let line = seeder.wait_for_text("with id ");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let _slow: Vec<Wire> = (0..40)
        .map(|_| {
            let mut wire = slow_reader(seeder.address());
            wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None }).unwrap();
            for index in [0, 1, 0, 1, 0, 1, 0, 1].map(ChunkIndex) {
                wire.send(&PeerRequest::Chunk { file: id, index }).unwrap();
            }
            wire
        })
        .collect();
    let mut leecher = leecher(dir, tracker.address(), &["x.bin", "--out", "got"]);
    leecher.ends_with(0);
    assert_holds(&dir.join("got"), &bytes);
}
