//! Downloads from volunteers, and by volunteers.

use super::{assert_does_not_serve, assert_serves, demand, file, holder, proof, volunteer};
use crate::common::scripted::*;
use crate::common::wire::*;
use crate::common::*;
use shoal::content::{ChunkIndex, Md5};
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tracker::FoundFile;
use shoal::protocol::volunteer::KeptFile;
use std::net::SocketAddr;

fn found(kept: &KeptFile, whole: Vec<SocketAddr>, partial: Vec<SocketAddr>, md5: Md5) -> FoundFile {
    let holders = (whole.len() + partial.len()) as u32;
    let complete = whole.len() as u32;
    let [whole, partial] = [whole, partial].map(|list| list.into_iter().map(Into::into).collect());
    FoundFile { file: kept.file.clone(), holders, complete, whole, partial, md5: Some(md5) }
}

#[test]
fn the_md5_of_the_tracker_is_verified_before_the_file_is_renamed() {
    let dir = place();
    let (whole, mut kept) = file(1, 6);
    kept.file.name = shoal::content::FileName::new("f").unwrap();
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let at = SocketAddr::from(([0, 0, 0, 0], source.address.port()));
    let wrong = Md5([7; 16]);
    tracker.find(vec![found(&kept, vec![at], vec![], wrong)]);
    let mut got = leecher(dir.path(), tracker.address, &["f"]);
    got.ends_with(32);
    let line = format!("the MD5 of the received file is {}, but the tracker states {wrong}", kept.md5);
    assert!(got.has_said(&line), "{:?}", got.lines());
    assert!(!dir.path().join("f").exists());
    // A stream has received its bytes by then; only the exit code tells.
    let mut got = leecher(dir.path(), tracker.address, &["f", "--out", "-"]);
    got.ends_with(32);
    assert!(got.has_said(&line), "{:?}", got.lines());
    // The chunks are verified already and are not fetched again.
    tracker.find(vec![found(&kept, vec![at], vec![], kept.md5)]);
    let mut got = leecher(dir.path(), tracker.address, &["f"]);
    got.ends_with(0);
    assert!(got.has_said(&format!("MD5 {} of f verified", kept.md5)));
    assert_holds(&dir.path().join("f"), &whole.bytes);
    let mut got = leecher(dir.path(), tracker.address, &["f", "--out", "-"]);
    got.ends_with(0);
    assert!(got.has_said(&format!("MD5 {} of f verified", kept.md5)));
}

#[test]
fn a_member_that_is_a_volunteer_serves_the_chunks_of_both_stores() {
    let dir = place();
    let (whole, mut kept) = file(1, 9);
    kept.file.name = shoal::content::FileName::new("f").unwrap();
    let tracker = ScriptedTracker::start();
    // The source announces the last four chunks only, and serves each chunk that is requested.
    let source = FakePeer::answering(&whole, move |request, right| match request {
        PeerRequest::Have { file } => {
            let have = PeerResponse::Have { file: *file, count: 9, length: 2, members: None, direct: false };
            Some([shoal::protocol::frame::encode(&have).unwrap(), vec![0b1110_0000, 1]].concat())
        }
        _ => Some(right),
    });
    tracker.find(vec![found(&kept, vec![], vec![source.address], kept.md5)]);
    let ann = volunteer(dir.path(), "ann", &tracker, &["--get", "f", "--stay"]);
    let (mut session, _) = tracker.volunteer();
    ann.wait_for_text("no source has chunk 1, 2, 3, 4, 5");
    let mut connection = PeerClient::connect(session.address);
    let file = kept.file.id;
    let (_, have) = connection.ask(&PeerRequest::Have { file });
    assert_eq!(have, [0b1110_0000, 1]);
    session.copy(&kept, &[0, 2], source.address);
    let (_, have) = PeerClient::connect(session.address).ask(&PeerRequest::Have { file });
    assert_eq!(have, [0b1110_0101, 1]);
    // A connected peer receives the announcement after it sends a keep-alive.
    let chunks = vec![ChunkIndex(0), ChunkIndex(2)];
    assert_eq!(connection.ask(&PeerRequest::Ping).0, PeerResponse::Got { file, chunks });
    [0, 2, 5, 8].iter().for_each(|index| assert_serves(session.address, &whole, *index));
    // The download uses the chunks of the volunteer's own store.
    session.copy(&kept, &[1, 3, 4], source.address);
    tracker.find(vec![found(&kept, vec![], vec![session.address], kept.md5)]);
    ann.wait_for_text("Successfully downloaded f");
    assert_holds(&dir.path().join("ann/f"), &whole.bytes);
}

#[test]
fn a_file_is_assembled_from_the_chunks_of_several_volunteers() {
    let dir = place();
    let (whole, mut kept) = file(1, 9);
    kept.file.name = shoal::content::FileName::new("f").unwrap();
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let mut programs = Vec::new();
    let mut sessions = Vec::new();
    for (name, chunks) in [("ann", [0, 1, 2, 3, 4, 5]), ("bob", [3, 4, 5, 6, 7, 8])] {
        programs.push(volunteer(dir.path(), name, &tracker, &[]));
        let (mut session, _) = tracker.volunteer();
        session.copy(&kept, &chunks, source.address);
        sessions.push(session);
    }
    let holders = sessions.iter().map(|session| session.address).collect();
    tracker.find(vec![found(&kept, vec![], holders, kept.md5)]);
    let folder = subfolder(dir.path(), "zoe");
    let to = tracker.address.to_string();
    let mut zoe = plain(dir.path(), &folder, "zoe", &["--tracker", &to, "--get", "f"]);
    zoe.ends_with(0);
    assert_holds(&folder.join("f"), &whole.bytes);
    // A volunteer that downloads the file, from others and from its own store, serves all chunks of it.
    let mut ann = programs.swap_remove(0);
    ann.interrupt();
    sessions.swap_remove(0).says_goodbye();
    ann.ends_with(0);
    tracker.find(vec![]);
    let ann = volunteer(dir.path(), "ann", &tracker, &["--get", "f", "--stay"]);
    let (session, _) = tracker.volunteer();
    tracker.find(vec![found(&kept, vec![], vec![session.address, sessions[0].address], kept.md5)]);
    ann.wait_for_text("Successfully downloaded f");
    assert_serves(session.address, &whole, 8);
    // Without the file it still serves the chunks of its store.
    std::fs::remove_file(dir.path().join("ann/f")).unwrap();
    ann.wait_for_text("stopped sharing f: ");
    assert_serves(session.address, &whole, 5);
    assert_does_not_serve(session.address, &whole, 8);
    let response = demand(&mut PeerClient::connect(session.address), session.key.print(), &kept, 2);
    assert_eq!(response, proof(session.key, &whole, 2));
}
