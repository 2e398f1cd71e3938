//! Volunteers: real clients that lend space, and a tracker that the test plays itself.

use crate::common::scripted::*;
use crate::common::wire::*;
use crate::common::*;
use shoal::content::{ChunkIndex, Md5};
use shoal::protocol::ErrorCode;
use shoal::protocol::numbers::Nonce;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tracker::{FoundFile, TrackerResponse};
use shoal::protocol::volunteer::{ChallengedRange, CopyFailure, KeptFile, VolunteerOrder, VolunteerRequest};
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const CHUNK: usize = 16 * 1024;

/// A client that has just been started and lends space.
fn volunteer(dir: &Path, name: &str, tracker: &ScriptedTracker, extra: &[&str]) -> Program {
    let folder = subfolder(dir, name);
    let tracker = tracker.address.to_string();
    let mut args = vec!["--tracker", &tracker];
    if !extra.contains(&"--volunteer") {
        args.extend(["--volunteer", "1MiB"]);
    }
    args.extend(extra);
    plain(dir, &folder, name, &args)
}

/// A file of so many chunks, the last one shorter, and what the tracker says of it.
fn file(seed: u64, chunks: usize) -> (Whole, KeptFile) {
    let whole = Whole::new(random_bytes(seed, chunks * CHUNK - 100), CHUNK as u32);
    let kept = kept(&whole, &format!("file {seed}"));
    (whole, kept)
}

fn chunk(whole: &Whole, index: usize) -> &[u8] {
    whole.bytes.chunks(CHUNK).nth(index).unwrap()
}

/// A peer that has all of a file.
fn holder(whole: &Whole) -> FakePeer {
    FakePeer::answering(whole, |_, right| Some(right))
}

/// Where a volunteer keeps a chunk.
fn chunk_path(dir: &Path, name: &str, kept: &KeptFile, index: u32) -> PathBuf {
    dir.join(name).join(".volunteer").join(kept.file.id.to_string()).join(index.to_string())
}

#[track_caller]
fn assert_serves(at: SocketAddr, whole: &Whole, index: usize) {
    let file = whole.id();
    let (response, bytes) = Guest::of(at).ask(&PeerRequest::Chunk { file, index: ChunkIndex(index as u32) });
    assert!(matches!(response, PeerResponse::Chunk { .. }), "{response:?}");
    assert!(bytes == chunk(whole, index));
}

#[track_caller]
fn assert_does_not_serve(at: SocketAddr, whole: &Whole, index: u32) {
    let file = whole.id();
    let (response, _) = Guest::of(at).ask(&PeerRequest::Chunk { file, index: ChunkIndex(index) });
    let code = match response {
        PeerResponse::Error { code, .. } => code,
        other => panic!("{other:?}"),
    };
    assert!(matches!(code, ErrorCode::NotHere | ErrorCode::NotFound), "{code:?}");
}

fn challenge(kept: &KeptFile, index: u32) -> ChallengedRange {
    let (file, index) = (kept.file.id, ChunkIndex(index));
    ChallengedRange { file, index, offset: 1_000, length: 2_000, nonce: Nonce(77) }
}

#[test]
fn a_volunteer_copies_serves_proves_and_drops_as_it_is_told() {
    let dir = place();
    let (whole, kept) = file(1, 20);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, held) = tracker.volunteer();
    assert_eq!((session.offered, session.free, held), (1 << 20, 1 << 20, Held::default()));
    client.wait_for_text("accepted 1.0 MiB of storage");
    let all: Vec<u32> = (0..20).collect();
    session.copy(&kept, &all, source.address);
    let size = kept.file.size;
    // Answers come from several threads, the last of them last.
    assert_eq!(session.free, (1 << 20) - size);
    let connections = source.met.try_iter().count();
    assert!(connections <= 8, "{connections} connections for 20 chunks");
    for index in 0..20 {
        assert_serves(session.address, &whole, index);
        let on_disk = chunk_path(dir.path(), "ann", &kept, index as u32);
        assert_holds(&on_disk, chunk(&whole, index));
    }
    // It is served to those who know it, and is no file of the member's.
    assert!(Guest::of(session.address).files().is_empty());
    assert_eq!(names_in(&dir.path().join("ann")), [".volunteer"]);
    // What it has it does not copy again.
    session.copy(&kept, &[3], source.address);
    assert_eq!(source.met.try_iter().count(), 0);
    let range = challenge(&kept, 3);
    session.order(VolunteerOrder::Challenge { challenge: 5, range });
    let proof = Some(range.proof(&chunk(&whole, 3)[1_000..3_000]));
    assert_eq!(session.answer(), VolunteerRequest::Proof { challenge: 5, sha256: proof });
    session.order(VolunteerOrder::Challenge { challenge: 6, range: challenge(&kept, 99) });
    assert_eq!(session.answer(), VolunteerRequest::Proof { challenge: 6, sha256: None });
    let (file, chunks) = (kept.file.id, vec![ChunkIndex(0), ChunkIndex(3)]);
    session.order(VolunteerOrder::Drop { file, chunks: chunks.clone() });
    let free = (1 << 20) - size + 2 * CHUNK as u64;
    assert_eq!(session.answer(), VolunteerRequest::Dropped { file, chunks, free });
    assert_does_not_serve(session.address, &whole, 3);
    assert_serves(session.address, &whole, 4);
    let rest: Vec<ChunkIndex> = all.into_iter().map(ChunkIndex).collect();
    session.order(VolunteerOrder::Drop { file, chunks: rest.clone() });
    assert_eq!(session.answer(), VolunteerRequest::Dropped { file, chunks: rest, free: 1 << 20 });
    assert_does_not_serve(session.address, &whole, 4);
    assert_eq!(names_in(&dir.path().join("ann/.volunteer")), ["key"]);
    client.wait_for_text("storing chunks of file 1 for the tracker");
    client.wait_for_text("chunk 100 of ");
    client.wait_for_text(" chunks; offering 1.0 MiB of storage, 0 B used");
}

#[test]
fn never_more_than_was_lent_is_taken() {
    let dir = place();
    let (whole, kept) = file(1, 20);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let _client = volunteer(dir.path(), "ann", &tracker, &["--volunteer", "100KiB"]);
    let (mut session, _) = tracker.volunteer();
    (0..20).for_each(|index| session.order_copy(&kept, index, source.address));
    let mut stored = 0;
    for _ in 0..20 {
        match session.answer() {
            VolunteerRequest::Stored { .. } => stored += 1,
            VolunteerRequest::NotStored { why, .. } => assert_eq!(why, CopyFailure::NoRoom),
            other => panic!("{other:?}"),
        }
    }
    // Six chunks fit; the last one of the file, which is shorter, may be among them.
    assert_eq!(stored, 6);
    let names = names_in(chunk_path(dir.path(), "ann", &kept, 0).parent().unwrap());
    assert_eq!(names.iter().filter(|name| name.parse::<u32>().is_ok()).count(), 6);
}

#[test]
fn what_a_volunteer_keeps_survives_kill_9_and_damage_is_told_and_never_served() {
    let dir = place();
    let (whole, kept) = file(1, 12);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let mut client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &(0..10).collect::<Vec<_>>(), source.address);
    let key = session.key;
    // More are under way.
    [10, 11].iter().for_each(|index| session.order_copy(&kept, *index, source.address));
    client.kill9();
    let path = |index| chunk_path(dir.path(), "ann", &kept, index);
    write(path(0).parent().unwrap(), ".shoal-left.tmp", b"half a chunk");
    for index in [2, 7] {
        let mut bytes = std::fs::read(path(index)).unwrap();
        bytes[index as usize] ^= 1;
        std::fs::write(path(index), bytes).unwrap();
    }
    let key_file = dir.path().join("ann/.volunteer/key");
    assert_eq!(std::fs::metadata(key_file).unwrap().permissions().mode() & 0o777, 0o600);
    let client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, mut held) = tracker.volunteer();
    assert!(session.key == key);
    // The two that were under way may have arrived.
    let id = kept.file.id;
    let damaged = [(id, 2), (id, 7)];
    assert!(held.checked.iter().all(|chunk| !damaged.contains(chunk)));
    let wanted = (0..10).filter(|index| ![2, 7].contains(index)).map(|index| (id, index));
    let all = |held: &Held| wanted.clone().all(|chunk| held.checked.contains(&chunk));
    while !all(&held) || !held.unchecked.is_empty() {
        match session.said() {
            VolunteerRequest::Holds { kept, held: more, checked } => held.note(&kept, &more, checked),
            VolunteerRequest::Spoiled { file, chunks, .. } => {
                for index in chunks {
                    assert!(damaged.contains(&(file, index.0)));
                    held.unchecked.remove(&(file, index.0));
                }
            }
            other => panic!("{other:?}"),
        }
    }
    [2, 7].iter().for_each(|index| assert_does_not_serve(session.address, &whole, *index));
    [0, 9].iter().for_each(|index| assert_serves(session.address, &whole, *index));
    client.wait_for_text("WARNING - chunk 3 of file 1 is damaged or missing");
    assert!(!path(0).with_file_name(".shoal-left.tmp").exists() && !path(2).exists());
    // Damage that comes later is found when it is asked for.
    std::fs::write(path(4), vec![0; CHUNK]).unwrap();
    assert_does_not_serve(session.address, &whole, 4);
    let spoiled = |index| VolunteerRequest::Spoiled { file: id, chunks: vec![ChunkIndex(index)], free: 0 };
    let without_free = |said| match said {
        VolunteerRequest::Spoiled { file, chunks, .. } => VolunteerRequest::Spoiled { file, chunks, free: 0 },
        other => other,
    };
    assert_eq!(without_free(session.answer()), spoiled(4));
    std::fs::remove_file(path(5)).unwrap();
    session.order(VolunteerOrder::Challenge { challenge: 1, range: challenge(&kept, 5) });
    let mut answers = [without_free(session.answer()), without_free(session.answer())];
    answers.sort_by_key(|answer| matches!(answer, VolunteerRequest::Spoiled { .. }));
    assert_eq!(answers, [VolunteerRequest::Proof { challenge: 1, sha256: None }, spoiled(5)]);
    // Told to, it gets them again.
    session.copy(&kept, &[2, 4, 5, 7], source.address);
    [2, 4, 5, 7].iter().for_each(|index| assert_serves(session.address, &whole, *index));
}

#[test]
fn a_copy_that_fails_is_told_with_the_reason() {
    let dir = place();
    let (whole, kept) = file(1, 4);
    let tracker = ScriptedTracker::start();
    let _client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    // A port that is taken, so that nobody else gets it, and where nobody listens.
    let taken = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    taken.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let nobody = taken.local_addr().unwrap().as_socket().unwrap();
    let wrong = FakePeer::answering(&whole, |request, mut right| {
        if matches!(request, PeerRequest::Chunk { .. }) {
            *right.last_mut().unwrap() ^= 1;
        }
        Some(right)
    });
    let refusing = FakePeer::answering(&whole, |request, right| match request {
        PeerRequest::Chunk { index, .. } => {
            let (code, text) = (ErrorCode::NotHere, "no".to_owned());
            let error = PeerResponse::Error { code, text, index: Some(*index) };
            Some(shoal::protocol::frame::encode(&error).unwrap())
        }
        _ => Some(right),
    });
    let closing = FakePeer::answering(&whole, |request, right| {
        (!matches!(request, PeerRequest::Chunk { .. })).then_some(right)
    });
    let other = holder(&file(2, 4).0);
    let mut lying = kept.clone();
    lying.file.size += 1;
    let good = holder(&whole);
    let attempts = [
        (&kept, 0, nobody, CopyFailure::Unreachable),
        (&kept, 0, other.address, CopyFailure::Unreachable),
        (&lying, 0, good.address, CopyFailure::Other),
        (&kept, 0, wrong.address, CopyFailure::Corrupt),
        (&kept, 0, refusing.address, CopyFailure::Unreachable),
        (&kept, 0, closing.address, CopyFailure::Unreachable),
        (&kept, 4, good.address, CopyFailure::Other),
    ];
    for (kept, index, from, reason) in attempts {
        session.order_copy(kept, index, from);
        match session.answer() {
            VolunteerRequest::NotStored { file, index: of, why, text, free } => {
                assert_eq!((file, of.0, why, free), (kept.file.id, index, reason, 1 << 20), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(names_in(&dir.path().join("ann/.volunteer")), ["key"]);
    session.copy(&kept, &[0], good.address);
}

#[test]
fn volunteers_copy_from_each_other_and_an_unspecified_address_is_the_trackers() {
    let dir = place();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let _ann = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut ann, _) = tracker.volunteer();
    let elsewhere = dir.path().join("bob's store");
    let _bob = volunteer(dir.path(), "bob", &tracker, &["--volunteer-dir", elsewhere.to_str().unwrap()]);
    let (mut bob, _) = tracker.volunteer();
    assert!(ann.key != bob.key);
    let here = |port| SocketAddr::from(([0, 0, 0, 0], port));
    ann.copy(&kept, &[0, 1, 2, 5], here(source.address.port()));
    // The manifest comes from a volunteer as well.
    bob.copy(&kept, &[1, 5], here(ann.address.port()));
    assert_serves(bob.address, &whole, 5);
    assert!(names_in(&dir.path().join("bob")).is_empty() && elsewhere.join("key").exists());
    // Two programs never use one store.
    let mut thief = volunteer(dir.path(), "eve", &tracker, &["--volunteer-dir", elsewhere.to_str().unwrap()]);
    thief.ends_with(17);
    assert!(thief.has_said("is in use by another program"));
}

#[test]
fn what_was_ordered_before_the_connection_was_lost_is_not_done_after_it() {
    let dir = place();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let silent = FakePeer::start(|mut wire| while wire.message::<PeerRequest>().is_some() {});
    let client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1], source.address);
    (2..6).for_each(|index| session.order_copy(&kept, index, silent.address));
    silent.met.recv_timeout(PATIENCE).unwrap();
    let began = Instant::now();
    drop(session);
    let (mut session, held) = tracker.volunteer();
    assert!(began.elapsed() < Duration::from_secs(20), "it waits for a peer that is silent");
    let id = kept.file.id;
    // What was stored in this process is checked, also for another session.
    assert_eq!(held.checked.into_iter().collect::<Vec<_>>(), [(id, 0), (id, 1)]);
    assert!(held.unchecked.is_empty());
    session.copy(&kept, &[2, 3], source.address);
    client.interrupt();
    session.says_goodbye();
}

#[test]
fn a_clean_end_is_said_and_quick() {
    let dir = place();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let silent = FakePeer::start(|mut wire| while wire.message::<PeerRequest>().is_some() {});
    let mut client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1], source.address);
    (2..6).for_each(|index| session.order_copy(&kept, index, silent.address));
    silent.met.recv_timeout(PATIENCE).unwrap();
    client.interrupt();
    session.says_goodbye();
    client.ends_with(0);
    // A tracker that does not answer holds nobody up for long.
    let mut client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (session, held) = tracker.volunteer();
    assert_eq!(held.checked.len() + held.unchecked.len(), 2);
    let began = Instant::now();
    client.interrupt();
    client.ends_with(0);
    assert!(began.elapsed() < Duration::from_secs(10));
    drop(session);
}

#[test]
fn before_it_leaves_a_volunteer_is_emptied_if_its_user_wants_that() {
    let dir = place();
    let (whole, kept) = file(1, 4);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let mut client = volunteer(dir.path(), "ann", &tracker, &["--drain-on-exit"]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1, 2], source.address);
    client.interrupt();
    assert_eq!(session.said(), VolunteerRequest::Drain);
    session.order(VolunteerOrder::Draining { left: 3 });
    client.wait_for_text("leaving: 3 chunks to go");
    // A connection that is lost meanwhile changes nothing.
    drop(session);
    let (mut session, held) = tracker.volunteer();
    assert_eq!(held.checked.len(), 3);
    assert_eq!(session.said(), VolunteerRequest::Drain);
    session.order(VolunteerOrder::Draining { left: 1 });
    client.wait_for_text("leaving: 1 chunk to go");
    assert_serves(session.address, &whole, 1);
    session.order(VolunteerOrder::Draining { left: 0 });
    session.says_goodbye();
    client.ends_with(0);
    // A second Ctrl-C leaves at once, and says goodbye all the same.
    let mut client = volunteer(dir.path(), "ann", &tracker, &["--drain-on-exit"]);
    let (mut session, _) = tracker.volunteer();
    client.interrupt();
    loop {
        match session.said() {
            VolunteerRequest::Drain => break,
            VolunteerRequest::Holds { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    session.order(VolunteerOrder::Draining { left: 9 });
    client.wait_for_text("leaving: 9 chunks to go");
    client.interrupt();
    session.says_goodbye();
    client.ends_with(0);
}

#[test]
fn a_tracker_that_takes_no_volunteers_is_said_and_does_not_keep_anybody() {
    let dir = place();
    let tracker = ScriptedTracker::start();
    let mut client = volunteer(dir.path(), "ann", &tracker, &["--drain-on-exit"]);
    let mut session = tracker.registers();
    assert!(matches!(session.said(), VolunteerRequest::Lend { .. }));
    assert_eq!(session.said(), VolunteerRequest::Reported);
    let (code, text) = (ErrorCode::Refused, "no files are kept here".to_owned());
    session.wire.send(&TrackerResponse::Error { code, text }).unwrap();
    client.wait_for_text("refused the storage offer: no files are kept here");
    client.interrupt();
    session.says_goodbye();
    client.ends_with(0);
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let dir = place();
    let folder = subfolder(dir.path(), "f");
    for (args, text) in [
        (&["--volunteer", "1KiB"][..], "are less than the smallest chunk"),
        (&["--volunteer", "lots"], "expected a size such as 2GiB"),
        (&["--volunteer-dir", "x"], "--volunteer <SIZE>"),
        (&["--drain-on-exit"], "--volunteer <SIZE>"),
    ] {
        let mut client = plain(dir.path(), &folder, "ann", args);
        client.ends_with(2);
        assert!(client.has_said(text), "{args:?}: {:?}", client.lines());
    }
    let chunks = chunk_folder(dir.path(), "c", 1, &[(1, b"x")]);
    let mut client = plain(dir.path(), &chunks, "ann", &["--volunteer", "1MiB"]);
    client.ends_with(2);
    assert!(client.has_said("are for plain folders"));
}

fn found(kept: &KeptFile, whole: Vec<SocketAddr>, partial: Vec<SocketAddr>, md5: Md5) -> FoundFile {
    let holders = (whole.len() + partial.len()) as u32;
    FoundFile { file: kept.file.clone(), holders, whole, partial, md5: Some(md5) }
}

#[test]
fn the_md5_of_the_tracker_is_looked_at_before_a_file_gets_its_name() {
    let dir = place();
    let (whole, mut kept) = file(1, 6);
    kept.file.name = shoal::content::FileName::new("f").unwrap();
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let at = SocketAddr::from(([0, 0, 0, 0], source.address.port()));
    let wrong = Md5([7; 16]);
    tracker.find(vec![found(&kept, vec![at], vec![], wrong)]);
    let mut got = leecher(dir.path(), tracker.address, &["f"]);
    got.ends_with(32);
    let line = format!("the MD5 of what arrived is {}, and the tracker says {wrong}", kept.md5);
    assert!(got.has_said(&line), "{:?}", got.lines());
    assert!(!dir.path().join("f").exists());
    // Nothing is fetched again.
    tracker.find(vec![found(&kept, vec![at], vec![], kept.md5)]);
    let mut got = leecher(dir.path(), tracker.address, &["f"]);
    got.ends_with(0);
    assert!(got.has_said(&format!("MD5 {} of f is right", kept.md5)));
    assert_holds(&dir.path().join("f"), &whole.bytes);
}

#[test]
fn who_gets_a_file_and_keeps_chunks_of_it_has_all_that_either_has() {
    let dir = place();
    let (whole, mut kept) = file(1, 9);
    kept.file.name = shoal::content::FileName::new("f").unwrap();
    let tracker = ScriptedTracker::start();
    // Gives the last four chunks to those who ask what it has, and any chunk to those who do not.
    let source = FakePeer::answering(&whole, move |request, right| match request {
        PeerRequest::Have { file } => {
            let have = PeerResponse::Have { file: *file, count: 9, length: 2, upstreams: vec![] };
            Some([shoal::protocol::frame::encode(&have).unwrap(), vec![0b1110_0000, 1]].concat())
        }
        _ => Some(right),
    });
    tracker.find(vec![found(&kept, vec![], vec![source.address], kept.md5)]);
    let ann = volunteer(dir.path(), "ann", &tracker, &["--get", "f", "--stay"]);
    let (mut session, _) = tracker.volunteer();
    ann.wait_for_text("and none of them has chunk 1, 2, 3, 4, 5");
    let mut guest = Guest::of(session.address);
    let file = kept.file.id;
    let (_, have) = guest.ask(&PeerRequest::Have { file });
    assert_eq!(have, [0b1110_0000, 1]);
    session.copy(&kept, &[0, 2], source.address);
    let (_, have) = Guest::of(session.address).ask(&PeerRequest::Have { file });
    assert_eq!(have, [0b1110_0101, 1]);
    // Who is connected already is told when it says that it waits.
    let chunks = vec![ChunkIndex(0), ChunkIndex(2)];
    assert_eq!(guest.ask(&PeerRequest::Ping).0, PeerResponse::Got { file, chunks });
    [0, 2, 5, 8].iter().for_each(|index| assert_serves(session.address, &whole, *index));
    // What it keeps itself it need not get from elsewhere.
    session.copy(&kept, &[1, 3, 4], source.address);
    tracker.find(vec![found(&kept, vec![], vec![session.address], kept.md5)]);
    ann.wait_for_text("Successfully downloaded f");
    assert_holds(&dir.path().join("ann/f"), &whole.bytes);
}

#[test]
fn a_file_is_put_together_from_what_volunteers_keep() {
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
    // A volunteer that gets the file itself, from others and from what it keeps, serves all of it.
    let mut ann = programs.swap_remove(0);
    ann.interrupt();
    sessions.swap_remove(0).says_goodbye();
    ann.ends_with(0);
    tracker.find(vec![]);
    let ann = volunteer(dir.path(), "ann", &tracker, &["--get", "f", "--stay"]);
    let (mut session, _) = tracker.volunteer();
    tracker.find(vec![found(&kept, vec![], vec![session.address, sessions[0].address], kept.md5)]);
    ann.wait_for_text("Successfully downloaded f");
    assert_serves(session.address, &whole, 8);
    // Without the file it still has what it keeps.
    std::fs::remove_file(dir.path().join("ann/f")).unwrap();
    ann.wait_for_text("f is gone or has changed");
    assert_serves(session.address, &whole, 5);
    assert_does_not_serve(session.address, &whole, 8);
    session.order(VolunteerOrder::Challenge { challenge: 1, range: challenge(&kept, 2) });
    assert!(matches!(session.answer(), VolunteerRequest::Proof { sha256: Some(_), .. }));
}
