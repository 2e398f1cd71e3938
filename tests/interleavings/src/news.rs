//! Progress, shelf and nudges: who follows misses nothing, and what is on the shelf can be served.

use crate::instead::channel;
use crate::progress::Progress;
use crate::shelf::{Offer, Offers};
use shoal::content::{ChunkIndex, FileId, FileName, HaveMap, Manifest};
use shoal::protocol::tracker::FileSummary;
use shoal::storage::{ChunkSource, StoreError, StoredChunk};
use shuttle::sync::Arc;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::{check_pct, check_random, thread};

const TRIES: usize = 1_000;
const CHUNKS: u32 = 4;

fn both_ways(test: fn()) {
    check_random(test, TRIES);
    check_pct(test, TRIES, 3);
}

/// Follows as a server does that tells a peer which chunks are there: first subscribe, then take the map, then the
/// news. Ends when it knows of all chunks.
fn follow(progress: &Progress) {
    let news = progress.subscribe();
    let (mut known, mut cursor) = progress.have();
    while !known.is_complete() {
        news.recv().expect("the one that is followed is there");
        loop {
            let (added, next) = progress.since(cursor, 2);
            if added.is_empty() {
                break;
            }
            cursor = next;
            for index in added {
                assert!(progress.has(index));
                assert!(known.insert(index), "{index} is named twice");
            }
        }
    }
}

#[test]
fn who_follows_misses_no_chunk() {
    both_ways(|| {
        let progress = Arc::new(Progress::new(HaveMap::none(CHUNKS)));
        let followers = [0; 2].map(|_| {
            let progress = progress.clone();
            thread::spawn(move || follow(&progress))
        });
        let writers = [(0..CHUNKS / 2), (CHUNKS / 2..CHUNKS), (0..CHUNKS)].map(|range| {
            let progress = progress.clone();
            thread::spawn(move || range.filter(|index| progress.add(ChunkIndex(*index))).count())
        });
        let news: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        assert_eq!(news, CHUNKS as usize, "each chunk is news once");
        followers.into_iter().for_each(|follower| follower.join().unwrap());
        assert!(progress.is_complete());
    });
}

#[test]
fn a_chunk_that_goes_and_comes_back_is_told_again() {
    both_ways(|| {
        let progress = Arc::new(Progress::new(HaveMap::all(1)));
        let (news, (_, cursor)) = (progress.subscribe(), progress.have());
        let changes = progress.clone();
        let changing = thread::spawn(move || {
            assert!(changes.remove(ChunkIndex(0)) && changes.add(ChunkIndex(0)));
        });
        news.recv().expect("it is there");
        assert_eq!(progress.since(cursor, 9), (vec![ChunkIndex(0)], cursor + 1));
        changing.join().unwrap();
        assert!(progress.has(ChunkIndex(0)));
    });
}

#[test]
fn subscribers_that_go_are_no_hindrance() {
    both_ways(|| {
        let progress = Arc::new(Progress::new(HaveMap::none(CHUNKS)));
        let comers = [0; 2].map(|_| {
            let progress = progress.clone();
            thread::spawn(move || (0..9).for_each(|_| drop(progress.subscribe())))
        });
        let followed = progress.clone();
        let follower = thread::spawn(move || follow(&followed));
        (0..CHUNKS).for_each(|index| _ = progress.add(ChunkIndex(index)));
        comers.into_iter().chain([follower]).for_each(|thread| thread.join().unwrap());
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
    let source = Source(shoal::storage::Progress::new(HaveMap::all(1)));
    Offer { file: FileSummary { id, name, size: 1, chunks: 1 }, source: Arc::new(source) }
}

#[test]
fn what_is_offered_can_be_served_whatever_comes_and_goes_meanwhile() {
    both_ways(|| {
        let shelf = Offers::new();
        shelf.offer(offer(1, "kept"));
        let changes = [(1, "a"), (1, "b"), (2, "a")].map(|(number, name)| {
            let shelf = shelf.clone();
            thread::spawn(move || {
                let offered = offer(number, name);
                shelf.offer(offered.clone());
                shelf.withdraw_file(&offered.file.name, offered.file.id);
            })
        });
        let looking = shelf.clone();
        let looks = thread::spawn(move || {
            for _ in 0..3 {
                assert!(looking.get(FileId([1; 32])).is_some(), "one of its names is always there");
                let names: Vec<_> = looking.list().into_iter().map(|offer| offer.file.name).collect();
                assert!(names.is_sorted() && names.iter().any(|name| name.as_str() == "kept"));
            }
        });
        changes.into_iter().chain([looks]).for_each(|thread| thread.join().unwrap());
        assert!(shelf.get(FileId([2; 32])).is_none() && shelf.get(FileId([1; 32])).is_some());
        assert_eq!(shelf.list().len(), 1);
    });
}

/// How the announcer is told: the state is changed first, then one message is left, and one that is there stands for
/// all. Whoever takes it looks at the state after that.
#[test]
fn a_nudge_is_never_lost() {
    both_ways(|| {
        let ((nudge, nudged), state) = (channel::bounded(1), Arc::new(AtomicUsize::new(0)));
        let looks = state.clone();
        let worker = thread::spawn(move || {
            let mut told = looks.load(Ordering::SeqCst);
            while nudged.recv().is_ok() {
                told = looks.load(Ordering::SeqCst);
            }
            told
        });
        let nudge = Arc::new(nudge);
        let changes = [0; 3].map(|_| {
            let (nudge, state) = (nudge.clone(), state.clone());
            thread::spawn(move || {
                state.fetch_add(1, Ordering::SeqCst);
                let _ = nudge.try_send(());
            })
        });
        changes.into_iter().for_each(|change| change.join().unwrap());
        drop(nudge);
        assert_eq!(worker.join().unwrap(), 3, "the last change is told");
    });
}
