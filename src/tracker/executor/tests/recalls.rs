//! Tests of recalls: a file comes back whole, or not at all.

use super::proofs::{Answer, Provers, prove, share_rotten};
use super::*;

fn recall(running: &Running, kept: &KeptFile, from: &[SocketAddr]) -> Result<(), String> {
    running.tasks.send(ExecutorTask::Recall { kept: kept.clone(), from: from.to_vec() }).unwrap();
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
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
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

#[test]
fn a_recall_replaces_the_corrupt_own_copy_and_uses_its_right_chunks() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    let running = Running::start(root.path());
    let kept = running.first_scan().1[0].clone();
    let id = kept.file.id;
    let provers = Provers::new(1, true, &[Answer::Right]);
    share_rotten(&running, root.path(), provers.manifest.clone());
    assert_eq!(prove(&running, id, &provers.holders).0, OwnCopy::Corrupt);
    assert_eq!(running.execute(ExecutorTask::Withdraw(id)), TaskOutcome::Withdrawn(id));
    let failed = recall(&running, &kept, &[]).unwrap_err();
    assert!(failed.starts_with("missing chunk 2: "), "{failed}");
    recall(&running, &kept, &[provers.holders[0].address]).unwrap();
    assert_eq!(fs::read(root.path().join("files/a")).unwrap(), bytes(1));
    assert_eq!(prove(&running, id, &provers.holders), (OwnCopy::Right, vec![Verdict::Right]));
    assert_eq!((running.held(id), names(root.path())), (Some(3), vec!["a".to_owned()]));
    assert_eq!(running.stop(), []);
}

#[test]
fn a_file_with_another_md5_is_not_recalled() {
    let root = TempDir::new().unwrap();
    let (running, kept) = offloaded(root.path());
    let volunteers = Volunteers::new(1);
    let other = KeptFile { md5: Md5([1; 16]), ..kept };
    let refused = recall(&running, &other, &[volunteers.honest]).unwrap_err();
    assert!(refused.starts_with("its MD5 is "), "{refused}");
    assert!(!root.path().join("files/a").exists());
    running.stop();
}
