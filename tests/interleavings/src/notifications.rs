//! Progress, offered files and wake-ups: a subscriber misses no chunk, and each offered file can be served.

use crate::instead::channel;
use crate::offers::{Offer, Offers};
use crate::progress::Progress;
use shoal::content::{Bitfield, ChunkIndex, FileId, FileName, Manifest};
use shoal::protocol::tracker::FileSummary;
use shoal::storage::{ChunkSource, StoreError, StoredChunk};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::{check_pct, check_random, thread};

const SCHEDULE_COUNT: usize = 1_000;
const CHUNKS: u32 = 4;

fn check_schedules(test: fn()) {
    check_random(test, SCHEDULE_COUNT);
    check_pct(test, SCHEDULE_COUNT, 3);
}

/// Follows the progress of a file as a server does for a connected peer: first subscribe, then read the bitfield,
/// then read each change. Returns when all chunks are known.
fn follow(progress: &Progress) {
    let news = progress.subscribe();
    let (mut known, mut cursor) = progress.have();
    while !known.is_complete() {
        news.recv().expect("the progress still exists");
        loop {
            let (added, next) = progress.since(cursor, 2);
            if added.is_empty() {
                break;
            }
            cursor = next;
            for index in added {
                assert!(progress.has(index));
                assert!(known.insert(index), "{index} is reported twice");
            }
        }
    }
}

#[test]
fn a_subscriber_misses_no_chunk() {
    check_schedules(|| {
        let progress = Arc::new(Progress::new(Bitfield::none(CHUNKS)));
        let followers = [0; 2].map(|_| {
            let progress = progress.clone();
            thread::spawn(move || follow(&progress))
        });
        let writers = [(0..CHUNKS / 2), (CHUNKS / 2..CHUNKS), (0..CHUNKS)].map(|range| {
            let progress = progress.clone();
            thread::spawn(move || range.filter(|index| progress.add(ChunkIndex(*index))).count())
        });
        let added: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        assert_eq!(added, CHUNKS as usize, "each chunk is added once");
        followers.into_iter().for_each(|follower| follower.join().unwrap());
        assert!(progress.is_complete());
    });
}

#[test]
fn a_chunk_that_is_removed_and_added_again_is_reported_again() {
    check_schedules(|| {
        let progress = Arc::new(Progress::new(Bitfield::all(1)));
        let (news, (_, cursor)) = (progress.subscribe(), progress.have());
        let changes = progress.clone();
        let changing = thread::spawn(move || {
            assert!(changes.remove(ChunkIndex(0)) && changes.add(ChunkIndex(0)));
        });
        news.recv().expect("the progress still exists");
        assert_eq!(progress.since(cursor, 9), (vec![ChunkIndex(0)], cursor + 1));
        changing.join().unwrap();
        assert!(progress.has(ChunkIndex(0)));
    });
}

#[test]
fn subscribers_may_leave_at_any_time() {
    check_schedules(|| {
        let progress = Arc::new(Progress::new(Bitfield::none(CHUNKS)));
        let short_subscribers = [0; 2].map(|_| {
            let progress = progress.clone();
            thread::spawn(move || (0..9).for_each(|_| drop(progress.subscribe())))
        });
        let followed = progress.clone();
        let follower = thread::spawn(move || follow(&followed));
        (0..CHUNKS).for_each(|index| _ = progress.add(ChunkIndex(index)));
        short_subscribers.into_iter().chain([follower]).for_each(|thread| thread.join().unwrap());
    });
}

struct Source(shoal::storage::Progress);

impl ChunkSource for Source {
    fn manifest(&self) -> Option<std::sync::Arc<Manifest>> {
        None
    }

    fn progress(&self) -> &shoal::storage::Progress {
        &self.0
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        Err(StoreError::Missing(index))
    }
}

fn offer(number: u8, name: &str) -> Offer {
    let (id, name) = (FileId([number; 32]), FileName::new(name).unwrap());
    let source = Source(shoal::storage::Progress::new(Bitfield::all(1)));
    Offer { file: FileSummary { id, name, size: 1, chunks: 1 }, source: Arc::new(source) }
}

#[test]
fn an_offered_file_can_be_served_while_other_offers_change() {
    check_schedules(|| {
        let offers = Offers::new();
        offers.offer(offer(1, "kept"));
        let changes = [(1, "a"), (1, "b"), (2, "a")].map(|(number, name)| {
            let offers = offers.clone();
            thread::spawn(move || {
                let offered = offer(number, name);
                offers.offer(offered.clone());
                offers.withdraw_file(&offered.file.name, offered.file.id);
            })
        });
        let looking = offers.clone();
        let looks = thread::spawn(move || {
            for _ in 0..3 {
                assert!(looking.get(FileId([1; 32])).is_some(), "the file is always offered under one name");
                let names: Vec<_> = looking.list().into_iter().map(|offer| offer.file.name).collect();
                assert!(names.is_sorted() && names.iter().any(|name| name.as_str() == "kept"));
            }
        });
        changes.into_iter().chain([looks]).for_each(|thread| thread.join().unwrap());
        assert!(offers.get(FileId([2; 32])).is_none() && offers.get(FileId([1; 32])).is_some());
        assert_eq!(offers.list().len(), 1);
    });
}

/// The wake-up of the announcer: the state is changed first, then one message is queued; a message that is queued
/// already stands for all changes. The receiver reads the state after it has taken the message.
#[test]
fn a_wake_up_is_never_lost() {
    check_schedules(|| {
        let ((wake_up, wake_ups), state) = (channel::bounded(1), Arc::new(AtomicUsize::new(0)));
        let looks = state.clone();
        let worker = thread::spawn(move || {
            let mut seen = looks.load(Ordering::SeqCst);
            while wake_ups.recv().is_ok() {
                seen = looks.load(Ordering::SeqCst);
            }
            seen
        });
        let wake_up = Arc::new(wake_up);
        let changes = [0; 3].map(|_| {
            let (wake_up, state) = (wake_up.clone(), state.clone());
            thread::spawn(move || {
                state.fetch_add(1, Ordering::SeqCst);
                let _ = wake_up.try_send(());
            })
        });
        changes.into_iter().for_each(|change| change.join().unwrap());
        drop(wake_up);
        assert_eq!(worker.join().unwrap(), 3, "the worker sees the last change");
    });
}
