//! Which chunks are there, and a log of those that became available.
//!
//! The log is append-only: a reader takes the map together with a cursor and then asks for what came
//! since, and so misses nothing and waits for nobody. Only what was added after the start is logged, so a
//! complete file has no log. Invariant: what a reader gets from [`have`](Progress::have) and, in order,
//! from [`since`](Progress::since) covers every chunk that was ever added.

use super::lock;
use crate::content::{Bitfield, ChunkIndex};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::Mutex;

/// Subscribers are looked through for dropped ones no earlier than at this many.
const PRUNE_MIN: usize = 16;

/// The chunks of one file that can be served.
pub struct Progress {
    state: Mutex<State>,
}

struct State {
    have: Bitfield,
    log: Vec<ChunkIndex>,
    subscribers: Vec<Sender<()>>,
    prune_at: usize,
}

impl Progress {
    /// Starts from the chunks that are there already.
    pub fn new(have: Bitfield) -> Self {
        let state = State { have, log: Vec::new(), subscribers: Vec::new(), prune_at: PRUNE_MIN };
        Self { state: Mutex::new(state) }
    }

    /// Notes that a chunk can be served, and wakes the subscribers. Returns whether that is news; a
    /// chunk that the file does not have is ignored.
    pub fn add(&self, index: ChunkIndex) -> bool {
        let mut state = lock(&self.state);
        let news = state.have.insert(index);
        if news {
            state.log.push(index);
            state.wake();
        }
        news
    }

    /// Notes that a chunk can no longer be served. Returns whether it could. Nobody is woken, and the
    /// log still names the chunk: who reads the log asks [`has`](Self::has) where it matters.
    pub fn remove(&self, index: ChunkIndex) -> bool {
        lock(&self.state).have.remove(index)
    }

    /// The chunks that are there now, and the cursor from which [`since`](Self::since) goes on.
    pub fn have(&self) -> (Bitfield, usize) {
        let state = lock(&self.state);
        (state.have.clone(), state.log.len())
    }

    /// Whether a chunk is there.
    pub fn has(&self, index: ChunkIndex) -> bool {
        lock(&self.state).have.has(index)
    }

    /// How many chunks are there.
    pub fn held(&self) -> u32 {
        lock(&self.state).have.held()
    }

    /// Whether every chunk is there.
    pub fn is_complete(&self) -> bool {
        lock(&self.state).have.is_complete()
    }

    /// Up to `at_most` chunks that were added since `cursor`, oldest first, and the cursor behind them.
    /// A chunk that was removed and came back is named again.
    pub fn since(&self, cursor: usize, at_most: usize) -> (Vec<ChunkIndex>, usize) {
        let state = lock(&self.state);
        let added: Vec<_> = state.log.iter().skip(cursor).take(at_most).copied().collect();
        let cursor = cursor.saturating_add(added.len()).min(state.log.len());
        (added, cursor)
    }

    /// A channel that gets a message when there is something new. One message stands for any number of
    /// chunks, and may come without any. A receiver that was dropped is forgotten in time.
    pub fn subscribe(&self) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        let mut state = lock(&self.state);
        if state.subscribers.len() >= state.prune_at {
            // A file that is complete never has news, and yet its subscribers come and go.
            // Sending is the only way to see that a receiver was dropped.
            state.wake();
            state.prune_at = (state.subscribers.len() * 2).max(PRUNE_MIN);
        }
        state.subscribers.push(sender);
        receiver
    }
}

impl State {
    fn wake(&mut self) {
        self.subscribers.retain(|sender| !matches!(sender.try_send(()), Err(TrySendError::Disconnected(()))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indices(range: std::ops::Range<u32>) -> Vec<ChunkIndex> {
        range.map(ChunkIndex).collect()
    }

    #[test]
    fn a_reader_misses_nothing() {
        let progress = Progress::new(Bitfield::none(10));
        assert!(progress.add(ChunkIndex(0)) && !progress.add(ChunkIndex(0)) && !progress.add(ChunkIndex(10)));
        let (have, cursor) = progress.have();
        assert_eq!((have.held(), cursor), (1, 1));
        assert_eq!(progress.since(cursor, 5), (vec![], 1));
        indices(1..10).into_iter().for_each(|index| assert!(progress.add(index)));
        let (first, cursor) = progress.since(cursor, 4);
        let (rest, cursor) = progress.since(cursor, usize::MAX);
        assert_eq!([first, rest].concat(), indices(1..10));
        assert_eq!(cursor, 10);
        assert!(progress.is_complete() && progress.held() == 10);
        assert_eq!(progress.since(usize::MAX, 1), (vec![], 10));
    }

    #[test]
    fn a_complete_file_has_no_log() {
        let progress = Progress::new(Bitfield::all(3));
        let (have, cursor) = progress.have();
        assert!(have.is_complete() && progress.has(ChunkIndex(2)));
        assert_eq!((cursor, progress.since(0, 9)), (0, (vec![], 0)));
    }

    #[test]
    fn what_was_removed_and_comes_back_is_news() {
        let progress = Progress::new(Bitfield::all(2));
        assert!(progress.remove(ChunkIndex(1)) && !progress.remove(ChunkIndex(1)));
        assert!(!progress.has(ChunkIndex(1)) && progress.held() == 1);
        assert!(progress.add(ChunkIndex(1)));
        assert_eq!(progress.since(0, 9), (vec![ChunkIndex(1)], 1));
    }

    #[test]
    fn subscribers_are_woken_once_for_many_chunks() {
        let progress = Progress::new(Bitfield::none(10));
        let (one, two) = (progress.subscribe(), progress.subscribe());
        indices(0..3).into_iter().for_each(|index| assert!(progress.add(index)));
        assert!(one.try_recv().is_ok() && one.try_recv().is_err());
        drop(one);
        progress.add(ChunkIndex(3));
        assert_eq!(lock(&progress.state).subscribers.len(), 1);
        assert!(two.try_recv().is_ok());
    }

    #[test]
    fn dropped_subscribers_do_not_pile_up_without_news() {
        let progress = Progress::new(Bitfield::all(1));
        let kept: Vec<_> = (0..40).map(|_| progress.subscribe()).collect();
        (0..1_000).for_each(|_| drop(progress.subscribe()));
        assert!(lock(&progress.state).subscribers.len() <= 2 * kept.len() + PRUNE_MIN);
        drop(kept);
    }
}
