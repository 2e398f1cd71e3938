//! Proofs over the upload server, orders to hash chunks again, and stores that lose chunks.

use super::{assert_refused, chunk_path, demand, file, holder, proof, volunteer};
use crate::common::scripted::*;
use crate::common::wire::*;
use crate::common::*;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use shoal::content::ChunkIndex;
use shoal::protocol::ErrorCode;
use shoal::protocol::tokens::VolunteerKey;
use shoal::protocol::volunteer::{KeptFile, VolunteerOrder, VolunteerReport};
use std::collections::BTreeSet;

/// A limit of open files that leaves a program no free descriptor; lifted when dropped.
struct NoDescriptors(Pid, Rlimit);

impl NoDescriptors {
    fn impose(program: &Program) -> Self {
        let pid = program.pid();
        let open: BTreeSet<u64> = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        // A new descriptor gets the lowest free number, which must be below the limit.
        let lowest_free = (0..).find(|number| !open.contains(number)).unwrap();
        let before = rustix::process::getrlimit(Resource::Nofile);
        let limit = Rlimit { current: Some(lowest_free), ..before };
        Self(pid, prlimit(Some(pid), Resource::Nofile, limit).unwrap())
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        let _ = prlimit(Some(self.0), Resource::Nofile, self.1);
    }
}

/// Reads reports until the chunks of a file that count as verified and as spoiled are as expected.
#[track_caller]
fn await_chunks(session: &mut Session, kept: &KeptFile, verified: &[u32], spoiled: &[u32]) {
    await_more_chunks(session, Held::default(), kept, verified, spoiled);
}

/// The same, after a report of `held` chunks.
#[track_caller]
fn await_more_chunks(
    session: &mut Session,
    mut held: Held,
    kept: &KeptFile,
    verified: &[u32],
    spoiled: &[u32],
) {
    let mut lost = BTreeSet::new();
    let chunks = |indices: &[u32]| indices.iter().map(|index| (kept.file.id, *index)).collect();
    let (verified, spoiled): (BTreeSet<_>, BTreeSet<_>) = (chunks(verified), chunks(spoiled));
    while held.checked != verified || lost != spoiled || !held.unchecked.is_empty() {
        match session.said() {
            VolunteerReport::Holds { kept, held: chunks, checked } => {
                for index in &chunks {
                    held.checked.remove(&(kept.file.id, index.0));
                }
                held.note(&kept, &chunks, checked);
            }
            VolunteerReport::Spoiled { file, chunks, .. } => {
                for index in chunks {
                    let chunk = (file, index.0);
                    held.unchecked.remove(&chunk);
                    assert!(!held.checked.contains(&chunk), "{chunk:?} was reported as verified");
                    lost.insert(chunk);
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn check(session: &mut Session, kept: &KeptFile, chunks: &[u32]) {
    let chunks = chunks.iter().copied().map(ChunkIndex).collect();
    session.order(VolunteerOrder::Check { file: kept.file.id, chunks });
}

#[test]
fn a_volunteer_proves_the_chunks_on_its_disk_and_only_for_its_own_key() {
    let dir = place();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let _client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1, 2, 5], source.address);
    let (mut client, print) = (PeerClient::connect(session.address), session.key.print());
    for index in [0, 5] {
        assert_eq!(demand(&mut client, print, &kept, index), proof(session.key, &whole, index as usize));
    }
    let other = VolunteerKey(session.key.0 ^ 1).print();
    assert_refused(&demand(&mut client, other, &kept, 0), ErrorCode::Refused, 0);
    assert_refused(&demand(&mut client, print, &kept, 3), ErrorCode::NotHere, 3);
    assert_refused(&demand(&mut client, print, &kept, 99), ErrorCode::NotHere, 99);
    assert_refused(&demand(&mut client, print, &file(2, 2).1, 0), ErrorCode::NotHere, 0);
    // Wrong bytes give a wrong proof, and a chunk that is gone is not here: each proof reads the disk.
    let path = |index| chunk_path(dir.path(), "ann", &kept, index);
    let mut bytes = std::fs::read(path(1)).unwrap();
    bytes[5] ^= 1;
    std::fs::write(path(1), bytes).unwrap();
    let wrong = demand(&mut client, print, &kept, 1);
    assert!(wrong != proof(session.key, &whole, 1), "{wrong:?}");
    std::fs::remove_file(path(2)).unwrap();
    assert_refused(&demand(&mut client, print, &kept, 2), ErrorCode::NotHere, 2);
    // A peer without a volunteer has no key.
    let to = tracker.address.to_string();
    let member = plain(dir.path(), &subfolder(dir.path(), "eve"), "eve", &["--tracker", &to, "--plain"]);
    let address = member.address();
    assert_refused(&demand(&mut PeerClient::connect(address), print, &kept, 0), ErrorCode::Refused, 0);
}

#[test]
fn a_volunteer_without_free_descriptors_says_that_it_cannot_tell() {
    let dir = place();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let mut client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1], source.address);
    // The next process has no connection to a source whose end would free a descriptor.
    client.kill9();
    let client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, held) = tracker.volunteer();
    let mut peer = PeerClient::connect(session.address);
    let right = proof(session.key, &whole, 1);
    assert_eq!(demand(&mut peer, session.key.print(), &kept, 1), right);
    await_more_chunks(&mut session, held, &kept, &[0, 1], &[]);
    let no_descriptors = NoDescriptors::impose(&client);
    assert_refused(&demand(&mut peer, session.key.print(), &kept, 1), ErrorCode::Internal, 1);
    // The same with an order to hash the chunk: it is held, but it has not been verified.
    check(&mut session, &kept, &[1]);
    loop {
        match session.said() {
            // The report of the hashing at the start may come late.
            VolunteerReport::Holds { checked: true, .. } => {}
            VolunteerReport::Holds { held, checked: false, .. } => {
                assert_eq!(held, [ChunkIndex(1)]);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    drop(no_descriptors);
    assert_eq!(demand(&mut peer, session.key.print(), &kept, 1), right);
    check(&mut session, &kept, &[1]);
    await_chunks(&mut session, &kept, &[1], &[]);
}

#[test]
fn each_chunk_of_a_check_is_reported_and_one_damaged_chunk_makes_all_others_suspect() {
    let dir = place();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1, 2, 3, 4], source.address);
    check(&mut session, &kept, &[1, 4, 5]);
    await_chunks(&mut session, &kept, &[1, 4], &[5]);
    std::fs::write(chunk_path(dir.path(), "ann", &kept, 2), vec![0; super::CHUNK]).unwrap();
    check(&mut session, &kept, &[2]);
    // The order names chunk 2 only; the others are hashed and reported, too.
    await_chunks(&mut session, &kept, &[0, 1, 3, 4], &[2]);
    client.wait_for_text(" again after damage in ");
    session.copy(&kept, &[2], source.address);
}

#[test]
fn a_wiped_store_is_reported_completely_after_the_first_failed_check() {
    let dir = place();
    let (whole, kept) = file(1, 20);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let _client = volunteer(dir.path(), "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    let all: Vec<u32> = (0..20).collect();
    session.copy(&kept, &all, source.address);
    // The marker remains: without it, the whole store is absent, and no chunk is reported as lost.
    std::fs::remove_dir_all(chunk_path(dir.path(), "ann", &kept, 0).parent().unwrap()).unwrap();
    check(&mut session, &kept, &[7]);
    await_chunks(&mut session, &kept, &[], &all);
}
