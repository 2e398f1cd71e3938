//! Tests of recalls: a file comes back whole, or not at all.

use super::proofs::{Answer, Provers, prove, share_rotten};
use super::*;

fn recall(running: &Running, kept: &KeptFile, from: &[SocketAddr]) -> Result<(), String> {
    running.send(ExecutorTask::Recall { kept: kept.clone(), from: from.to_vec() });
    loop {
        match running.next_outcome() {
            TaskOutcome::Recalled(id, result) => {
                assert_eq!(id, kept.file.id);
                return result;
            }
            TaskOutcome::Published { kept: published, .. } => assert_eq!(published, *kept),
            other => panic!("{other:?}"),
        }
    }
}

/// An executor whose only file was offloaded.
fn offloaded(root: &Path) -> (Running, KeptFile) {
    put(root, "a", &bytes(1));
    let running = Running::start(root);
    let kept = running.first_scan().1[0].clone();
    let deleted = running.execute(ExecutorTask::Offload { kept: kept.clone(), permit: 1 });
    assert_eq!(deleted, TaskOutcome::Offloaded(kept.file.id, OffloadResult::Deleted));
    (running, kept)
}

/// The names in the folder of offered files, hidden ones included.
fn names(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join("files")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_recalled_file_is_assembled_from_store_and_volunteers_and_published() {
    let root = TempDir::new().unwrap();
    let (running, kept) = offloaded(root.path());
    let (id, path) = (kept.file.id, root.path().join("files/a"));
    let volunteers = Volunteers::new(1);
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // One chunk is in the tracker's own store; no volunteer delivers the others.
    let fetch = ExecutorTask::Download { kept: kept.clone(), index: ChunkIndex(0), from: volunteers.honest };
    assert_eq!(running.execute(fetch), TaskOutcome::Stored(id, ChunkIndex(0)));
    let failed = recall(&running, &kept, &[volunteers.lying, volunteers.empty, dead]).unwrap_err();
    // The text counts chunks from 1, as all texts do.
    assert!(failed.starts_with("missing chunk 2: no volunteer"), "{failed}");
    assert!(!path.exists() && running.held(id) == Some(1));
    // The repeated recall goes on with the chunk that the first one stored.
    let gone = running.execute(ExecutorTask::Drop { file: id, chunks: vec![ChunkIndex(0)], permit: 2 });
    assert_eq!(gone, TaskOutcome::Dropped(id, vec![ChunkIndex(0)]));
    let from = [volunteers.lying, volunteers.empty, dead, volunteers.honest];
    recall(&running, &kept, &from).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes(1));
    assert_eq!((running.held(id), names(root.path())), (Some(3), vec!["a".to_owned()]));
    assert_eq!(running.offers.list().len(), 1);
    // A file that is there is published again; nothing is downloaded.
    recall(&running, &kept, &[]).unwrap();
    assert_eq!(running.stop(), []);
}

#[test]
fn a_recall_never_replaces_another_file() {
    let root = TempDir::new().unwrap();
    let (running, kept) = offloaded(root.path());
    let volunteers = Volunteers::new(1);
    let path = root.path().join("files/a");
    fs::create_dir(&path).unwrap();
    for _ in 0..2 {
        let refused = recall(&running, &kept, &[volunteers.honest]).unwrap_err();
        assert!(refused.starts_with("another file has the name a"), "{refused}");
        assert_eq!(names(root.path()), ["a"]);
        let _ = fs::remove_dir(&path);
        std::os::unix::fs::symlink("nowhere", &path).or_else(|_| fs::read_link(&path).map(|_| ())).unwrap();
    }
    fs::remove_file(&path).unwrap();
    recall(&running, &kept, &[volunteers.honest]).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes(1));
    running.stop();
}

/// A tracker whose copy of a file has become corrupt, and a volunteer with the right bytes.
fn rotten(root: &Path) -> (Running, KeptFile, Provers) {
    put(root, "a", &bytes(1));
    let running = Running::start(root);
    let kept = running.first_scan().1[0].clone();
    let provers = Provers::new(1, true, &[Answer::Right]);
    share_rotten(&running, root, provers.manifest.clone());
    (running, kept, provers)
}

#[test]
fn a_recall_renames_the_corrupt_own_copy_and_uses_its_right_chunks() {
    let root = TempDir::new().unwrap();
    let (running, kept, provers) = rotten(root.path());
    let id = kept.file.id;
    assert_eq!(prove(&running, id, &provers.holders).0, OwnCopy::Corrupt);
    assert_eq!(running.execute(ExecutorTask::Withdraw(id)), TaskOutcome::Withdrawn(id));
    let failed = recall(&running, &kept, &[]).unwrap_err();
    assert!(failed.starts_with("missing chunk 2: "), "{failed}");
    recall(&running, &kept, &[provers.holders[0].address]).unwrap();
    assert_eq!(fs::read(root.path().join("files/a")).unwrap(), bytes(1));
    assert_eq!(prove(&running, id, &provers.holders), (OwnCopy::Right, vec![Verdict::Right]));
    assert_eq!(
        (running.held(id), names(root.path())),
        (Some(3), vec!["a".to_owned(), "a.corrupt".to_owned()])
    );
    assert_ne!(fs::read(root.path().join("files/a.corrupt")).unwrap(), bytes(1), "the bytes of the owner");
    assert_eq!(running.stop(), []);
    // The corrupt file is not offered under its new name.
    let running = Running::start(root.path());
    assert_eq!(running.first_scan().1, [kept]);
    running.stop();
}

#[test]
fn a_corrupt_file_is_no_new_version_after_a_restart_until_it_changes() {
    let root = TempDir::new().unwrap();
    let (running, kept, provers) = rotten(root.path());
    let id = kept.file.id;
    age(&root.path().join("files/a"));
    running.inner().folder.as_ref().unwrap().adopt(name("a"), provers.manifest.clone()).unwrap();
    assert_eq!(running.execute(ExecutorTask::Withdraw(id)), TaskOutcome::Withdrawn(id));
    running.stop();
    let running = Running::start(root.path());
    let (outcomes, published) = running.first_scan();
    assert_eq!((outcomes, published), (Vec::new(), Vec::new()));
    assert_eq!((running.held(id), running.offers.list().len()), (Some(0), 0));
    // The recall takes the right chunks from it, and the others from a volunteer.
    put(root.path(), "a.corrupt", &bytes(3));
    let refused = recall(&running, &kept, &[provers.holders[0].address]).unwrap_err();
    assert!(refused.starts_with("another file has the name a.corrupt"), "{refused}");
    fs::remove_file(root.path().join("files/a.corrupt")).unwrap();
    let rotten = fs::read(root.path().join("files/a")).unwrap();
    recall(&running, &kept, &[provers.holders[0].address]).unwrap();
    assert_eq!(fs::read(root.path().join("files/a")).unwrap(), bytes(1));
    assert_eq!(fs::read(root.path().join("files/a.corrupt")).unwrap(), rotten);
    running.stop();
    // A file that the owner edits is a version as usual.
    put(root.path(), "a.corrupt", &bytes(2));
    let running = Running::start(root.path());
    let published = running.first_scan().1;
    let mut names: Vec<_> = published.iter().map(|kept| kept.file.name.as_str()).collect();
    names.sort();
    assert_eq!(names, ["a", "a.corrupt"]);
    assert_eq!(running.catalogue.load().unwrap().corrupt, []);
    running.stop();
}

#[test]
fn a_file_that_a_receiver_reports_as_corrupt_is_no_new_version_of_its_name() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    let running = Running::start(root.path());
    let id = running.first_scan().1[0].file.id;
    let provers = Provers::new(1, true, &[Answer::Right]);
    share_rotten(&running, root.path(), provers.manifest.clone());
    let shared = running.inner().folder.as_ref().unwrap().by_id(id).unwrap();
    assert!(!shared.file.check_reported(ChunkIndex(1)));
    assert_eq!(running.next_outcome(), TaskOutcome::Withdrawn(id));
    put(root.path(), "b", &bytes(2));
    assert_eq!(running.published().file.name, name("b"), "the next file that is hashed");
    assert_eq!(running.catalogue.load().unwrap().corrupt.len(), 1);
    put(root.path(), "a", &bytes(3));
    assert_eq!(running.published().file.name, name("a"));
    running.stop();
}

#[test]
fn a_recall_corrects_an_md5_that_was_named_wrongly() {
    let root = TempDir::new().unwrap();
    let (running, kept) = offloaded(root.path());
    let volunteers = Volunteers::new(1);
    let other = KeptFile { md5: Md5([1; 16]), ..kept.clone() };
    let adopted = running.execute(ExecutorTask::Adopt { kept: other.clone(), from: volunteers.honest });
    assert!(matches!(&adopted, TaskOutcome::Adopted(_, Some((kept, _))) if *kept == other), "{adopted:?}");
    assert_eq!(running.catalogue.load().unwrap().files[0].kept, other, "the reporters agree on it");
    running.send(ExecutorTask::Recall { kept: other, from: vec![volunteers.honest] });
    assert_eq!(running.published(), kept);
    assert_eq!(running.next_outcome(), TaskOutcome::Recalled(kept.file.id, Ok(())));
    assert_eq!(running.catalogue.load().unwrap().files[0].kept, kept);
    running.stop();
}
