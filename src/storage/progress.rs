//! Set of the chunks that can be served, with an append-only log of the chunks added.
//!
//! A reader takes the bitmap together with a cursor and then asks for the chunks added after the
//! cursor, so it misses none and never waits for another reader. Only chunks added after the start
//! are logged, so a complete file has an empty log. Invariant: the bitmap from
//! [`have`](Progress::have) followed by the results of [`since`](Progress::since) covers every
//! chunk ever added.

use crate::content::{Bitfield, ChunkIndex};
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::Mutex;

/// Least number of subscribers before dropped ones are pruned.
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
    /// Starts with the chunks already on disk.
    pub fn new(have: Bitfield) -> Self {
        let state = State { have, log: Vec::new(), subscribers: Vec::new(), prune_at: PRUNE_MIN };
        Self { state: Mutex::new(state) }
    }

    /// Marks a chunk as available and wakes the subscribers. Returns whether it was added; `false`
    /// if it was available already or is outside the file.
    pub fn add(&self, index: ChunkIndex) -> bool {
        let mut state = lock(&self.state);
        let added = state.have.insert(index);
        if added {
            state.log.push(index);
            state.wake();
        }
        added
    }

    /// Marks a chunk as unavailable and returns whether it was available.
    ///
    /// Subscribers are not woken, and the log still lists the chunk: a reader of the log that
    /// depends on the chunk must call [`has`](Self::has).
    pub fn remove(&self, index: ChunkIndex) -> bool {
        lock(&self.state).have.remove(index)
    }

    /// The available chunks, and the cursor to pass to [`since`](Self::since).
    pub fn have(&self) -> (Bitfield, usize) {
        let state = lock(&self.state);
        (state.have.clone(), state.log.len())
    }

    /// Whether a chunk is available.
    pub fn has(&self, index: ChunkIndex) -> bool {
        lock(&self.state).have.has(index)
    }

    /// Number of available chunks.
    pub fn held(&self) -> u32 {
        lock(&self.state).have.held()
    }

    /// Whether every chunk is available.
    pub fn is_complete(&self) -> bool {
        lock(&self.state).have.is_complete()
    }

    /// Up to `at_most` chunks added after `cursor`, oldest first, and the cursor for the next call.
    /// A chunk that was removed and added again is listed again.
    pub fn since(&self, cursor: usize, at_most: usize) -> (Vec<ChunkIndex>, usize) {
        let state = lock(&self.state);
        let added: Vec<_> = state.log.iter().skip(cursor).take(at_most).copied().collect();
        let cursor = cursor.saturating_add(added.len()).min(state.log.len());
        (added, cursor)
    }

    /// A channel that receives a message after chunks were added.
    ///
    /// One message can stand for any number of chunks, including none. A dropped receiver is
    /// unsubscribed at a later call.
    pub fn subscribe(&self) -> Receiver<()> {
        let (sender, receiver) = bounded(1);
        let mut state = lock(&self.state);
        if state.subscribers.len() >= state.prune_at {
            // A complete file adds no chunks, but its subscribers come and go. Only a send shows
            // whether a receiver was dropped.
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
    fn a_reader_with_a_cursor_misses_no_chunk() {
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
    fn a_complete_file_has_an_empty_log() {
        let progress = Progress::new(Bitfield::all(3));
        let (have, cursor) = progress.have();
        assert!(have.is_complete() && progress.has(ChunkIndex(2)));
        assert_eq!((cursor, progress.since(0, 9)), (0, (vec![], 0)));
    }

    #[test]
    fn a_chunk_removed_and_added_again_is_logged_again() {
        let progress = Progress::new(Bitfield::all(2));
        assert!(progress.remove(ChunkIndex(1)) && !progress.remove(ChunkIndex(1)));
        assert!(!progress.has(ChunkIndex(1)) && progress.held() == 1);
        assert!(progress.add(ChunkIndex(1)));
        assert_eq!(progress.since(0, 9), (vec![ChunkIndex(1)], 1));
    }

    #[test]
    fn subscribers_get_one_message_for_many_chunks() {
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
    fn dropped_subscribers_are_pruned_when_no_chunk_is_added() {
        let progress = Progress::new(Bitfield::all(1));
        let kept: Vec<_> = (0..40).map(|_| progress.subscribe()).collect();
        (0..1_000).for_each(|_| drop(progress.subscribe()));
        assert!(lock(&progress.state).subscribers.len() <= 2 * kept.len() + PRUNE_MIN);
        drop(kept);
    }
}
