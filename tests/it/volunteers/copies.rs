//! Orders of a tracker: copies, drops, and their reports.

use super::{CHUNK, assert_does_not_serve, assert_serves, chunk, chunk_path, file, holder, volunteer};
use crate::common::scripted::*;
use crate::common::wire::*;
use crate::common::*;
use shoal::content::ChunkIndex;
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::volunteer::{CopyFailure, VolunteerOrder, VolunteerReport};
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

#[test]
fn a_volunteer_copies_serves_and_drops_chunks_as_ordered() {
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
    // Reports come from several threads, but the last report has the final free space.
    assert_eq!(session.free, (1 << 20) - size);
    let connections = source.accepted.try_iter().count();
    assert!(connections <= 8, "{connections} connections for 20 chunks");
    for index in 0..20 {
        assert_serves(session.address, &whole, index);
        let on_disk = chunk_path(dir.path(), "ann", &kept, index as u32);
        assert_holds(&on_disk, chunk(&whole, index));
    }
    // A stored chunk is served to peers that request it by id, and is not listed as a file of the member.
    assert!(PeerClient::connect(session.address).files().is_empty());
    assert_eq!(names_in(&dir.path().join("ann")), [".volunteer"]);
    // A chunk that is stored already is not copied again.
    session.copy(&kept, &[3], source.address);
    assert_eq!(source.accepted.try_iter().count(), 0);
    let (file, chunks) = (kept.file.id, vec![ChunkIndex(0), ChunkIndex(3)]);
    session.order(VolunteerOrder::Drop { file, chunks: chunks.clone() });
    let free = (1 << 20) - size + 2 * CHUNK as u64;
    assert_eq!(session.answer(), VolunteerReport::Dropped { file, chunks, free });
    assert_does_not_serve(session.address, &whole, 3);
    assert_serves(session.address, &whole, 4);
    let rest: Vec<ChunkIndex> = all.into_iter().map(ChunkIndex).collect();
    session.order(VolunteerOrder::Drop { file, chunks: rest.clone() });
    assert_eq!(session.answer(), VolunteerReport::Dropped { file, chunks: rest, free: 1 << 20 });
    assert_does_not_serve(session.address, &whole, 4);
    assert_eq!(names_in(&dir.path().join("ann/.volunteer")), ["key", "store-id"]);
    client.wait_for_text("storing chunks of file 1 for the tracker");
    client.wait_for_text(" chunks; offering 1.0 MiB of storage, 0 B used");
}

#[test]
fn a_volunteer_never_stores_more_than_it_offered() {
    let dir = place();
    let (whole, kept) = file(1, 20);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let _client = volunteer(dir.path(), "ann", &tracker, &["--volunteer", "100KiB"]);
    let (mut session, _) = tracker.volunteer();
    (0..20).for_each(|index| session.order_copy(&kept, index, source.address));
    let mut stored = 0;
    for _ in 0..20 {
        match session.answer() {
            VolunteerReport::Stored { .. } => stored += 1,
            VolunteerReport::NotStored { why, .. } => assert_eq!(why, CopyFailure::NoRoom),
            other => panic!("{other:?}"),
        }
    }
    // Six chunks fit; one of them may be the shorter last chunk.
    assert_eq!(stored, 6);
    let names = names_in(chunk_path(dir.path(), "ann", &kept, 0).parent().unwrap());
    assert_eq!(names.iter().filter(|name| name.parse::<u32>().is_ok()).count(), 6);
}

#[test]
fn stored_chunks_survive_sigkill_and_damaged_chunks_are_reported_and_never_served() {
    let dir = place();
    let (whole, kept) = file(1, 12);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let mut client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &(0..10).collect::<Vec<_>>(), source.address);
    let key = session.key;
    // Two more chunks are in flight.
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
    // These two chunks may have arrived before the kill.
    let id = kept.file.id;
    let damaged = [(id, 2), (id, 7)];
    assert!(held.checked.iter().all(|chunk| !damaged.contains(chunk)));
    let wanted = (0..10).filter(|index| ![2, 7].contains(index)).map(|index| (id, index));
    let all = |held: &Held| wanted.clone().all(|chunk| held.checked.contains(&chunk));
    while !all(&held) || !held.unchecked.is_empty() {
        match session.said() {
            VolunteerReport::Holds { kept, held: more, checked } => held.note(&kept, &more, checked),
            VolunteerReport::Spoiled { file, chunks, .. } => {
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
    // Later damage is found when the chunk is requested.
    std::fs::write(path(4), vec![0; CHUNK]).unwrap();
    assert_does_not_serve(session.address, &whole, 4);
    let spoiled = |index| VolunteerReport::Spoiled { file: id, chunks: vec![ChunkIndex(index)], free: 0 };
    let without_free = |said| match said {
        VolunteerReport::Spoiled { file, chunks, .. } => VolunteerReport::Spoiled { file, chunks, free: 0 },
        other => other,
    };
    assert_eq!(without_free(session.answer()), spoiled(4));
    // The volunteer copies them again when it is ordered to.
    session.copy(&kept, &[2, 4, 7], source.address);
    [2, 4, 7].iter().for_each(|index| assert_serves(session.address, &whole, *index));
}

#[test]
fn a_failed_copy_is_reported_with_its_reason() {
    let dir = place();
    let (whole, kept) = file(1, 4);
    let tracker = ScriptedTracker::start();
    let _client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    // A port that is bound, so that no other program takes it, and on which no program listens.
    let taken = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    taken.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let refusing_port = taken.local_addr().unwrap().as_socket().unwrap();
    let wrong = FakePeer::sending_corrupt_chunks(&whole);
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
        (&kept, 0, refusing_port, CopyFailure::Unreachable),
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
            VolunteerReport::NotStored { file, index: of, why, text, free } => {
                assert_eq!((file, of.0, why, free), (kept.file.id, index, reason, 1 << 20), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(names_in(&dir.path().join("ann/.volunteer")), ["key", "store-id"]);
    session.copy(&kept, &[0], good.address);
}

#[test]
fn volunteers_copy_from_each_other_and_an_unspecified_address_means_the_trackers_host() {
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
    // The second volunteer also fetches the manifest from the first one.
    bob.copy(&kept, &[1, 5], here(ann.address.port()));
    assert_serves(bob.address, &whole, 5);
    assert!(names_in(&dir.path().join("bob")).is_empty() && elsewhere.join("key").exists());
    // A store is used by one program only.
    let mut thief = volunteer(dir.path(), "eve", &tracker, &["--volunteer-dir", elsewhere.to_str().unwrap()]);
    thief.ends_with(17);
    assert!(thief.has_said("is in use by another shoal process"));
}

#[test]
fn orders_of_a_lost_connection_are_cancelled() {
    let dir = place();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let silent = FakePeer::start(|mut wire| while wire.message::<PeerRequest>().is_some() {});
    let client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1], source.address);
    (2..6).for_each(|index| session.order_copy(&kept, index, silent.address));
    silent.accepted.recv_timeout(PATIENCE).unwrap();
    let started = Instant::now();
    drop(session);
    let (mut session, held) = tracker.volunteer();
    assert!(started.elapsed() < Duration::from_secs(20), "the volunteer waited for a silent peer");
    let id = kept.file.id;
    // Chunks that this process stored count as verified in its later sessions, too.
    assert_eq!(held.checked.into_iter().collect::<Vec<_>>(), [(id, 0), (id, 1)]);
    assert!(held.unchecked.is_empty());
    session.copy(&kept, &[2, 3], source.address);
    client.interrupt();
    session.says_goodbye();
}
