//! Tests of deletions whose permit is revoked, and of downloads to a full store.

use super::*;

/// Occupies both workers for local tasks with offloads of `a` and `b`, which wait for the offer lock.
fn block_workers<'a>(running: &'a Running, published: &[KeptFile]) -> MutexGuard<'a, ()> {
    let lock = running.inner().lock_offers();
    for (permit, kept) in published.iter().take(2).enumerate() {
        let task = ExecutorTask::Offload { kept: kept.clone(), permit: permit as u64 };
        running.send(task);
    }
    lock
}

/// Revokes a permit, which has its effect at once.
fn revoke(running: &Running, permit: u64) {
    assert!(running.inner().permits.allows(permit));
    running.send(ExecutorTask::Revoke(permit));
    assert!(!running.inner().permits.allows(permit));
}

#[test]
fn a_deletion_is_not_carried_out_after_its_permit_is_revoked() {
    let root = TempDir::new().unwrap();
    [(1, "a"), (2, "b"), (3, "c")]
        .into_iter()
        .for_each(|(number, file)| put(root.path(), file, &bytes(number)));
    let running = Running::start(root.path());
    let published = running.first_scan().1;
    let volunteers = Volunteers::new(3);
    let c = published.iter().find(|kept| kept.file.name == name("c")).unwrap().clone();
    let id = c.file.id;
    for index in 0..3 {
        let task =
            ExecutorTask::Download { kept: c.clone(), index: ChunkIndex(index), from: volunteers.honest };
        assert_eq!(running.execute(task), TaskOutcome::Stored(id, ChunkIndex(index)));
    }
    let offloaded: Vec<KeptFile> = published.into_iter().filter(|kept| kept.file.id != id).collect();
    let blocked = block_workers(&running, &offloaded);
    let chunks: Vec<ChunkIndex> = (0..3).map(ChunkIndex).collect();
    running.send(ExecutorTask::Drop { file: id, chunks: chunks.clone(), permit: 2 });
    revoke(&running, 1);
    revoke(&running, 2);
    drop(blocked);
    let mut outcomes = [running.next_outcome(), running.next_outcome(), running.next_outcome()];
    outcomes.sort_by_key(|outcome| !matches!(outcome, TaskOutcome::Dropped(..)));
    assert_eq!(outcomes[0], TaskOutcome::Dropped(id, Vec::new()));
    let ended = |file: FileId, result| outcomes.contains(&TaskOutcome::Offloaded(file, result));
    assert!(ended(offloaded[0].file.id, OffloadResult::Deleted), "{outcomes:?}");
    assert!(ended(offloaded[1].file.id, OffloadResult::Revoked), "{outcomes:?}");
    let on_disk = |kept: &KeptFile| root.path().join("files").join(kept.file.name.as_str()).exists();
    assert!(!on_disk(&offloaded[0]) && on_disk(&offloaded[1]));
    assert_eq!(running.inner().store.file(id).unwrap().held(), 3);
    // The same deletions with new permits are carried out.
    let drop_again = ExecutorTask::Drop { file: id, chunks: chunks.clone(), permit: 3 };
    assert_eq!(running.execute(drop_again), TaskOutcome::Dropped(id, chunks));
    let kept = offloaded[1].clone();
    let again = running.execute(ExecutorTask::Offload { kept, permit: 4 });
    assert_eq!(again, TaskOutcome::Offloaded(offloaded[1].file.id, OffloadResult::Deleted));
    assert_eq!(running.stop(), []);
}

#[test]
fn a_chunk_for_which_the_store_has_no_space_causes_no_traffic() {
    let root = TempDir::new().unwrap();
    put(root.path(), "a", &bytes(1));
    let catalogue = Arc::new(RedbCatalogue::open(&root.path().join("state")).unwrap());
    let running = Running::start_lending(root.path(), catalogue, 75_000);
    let kept = running.first_scan().1[0].clone();
    let volunteers = Volunteers::new(1);
    let download =
        |index, from| ExecutorTask::Download { kept: kept.clone(), index: ChunkIndex(index), from };
    let id = kept.file.id;
    assert_eq!(running.execute(download(0, volunteers.honest)), TaskOutcome::Stored(id, ChunkIndex(0)));
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = running.execute(download(1, holder.local_addr().unwrap()));
    assert_eq!(refused, TaskOutcome::NotStored(id, ChunkIndex(1), CopyFailure::NoRoom));
    holder.set_nonblocking(true).unwrap();
    assert_eq!(holder.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "the holder was asked");
    running.stop();
}
