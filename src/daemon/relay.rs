//! Chunks that are being received, for those who want them passed on at once.
//!
//! A chunk that is passed on only when all of it is here makes everybody behind wait for its whole length. With
//! links that are shared by many that is many times what it takes alone, at the beginning and at the end of every
//! download. So the bytes of a chunk go on to others as they come.
//!
//! Invariant: nobody gets all of a chunk that has not been verified here. Its last bytes are held back until then; if
//! it turns out to be bad, or its source is lost, whoever was being sent it finds its connection torn, and has
//! nothing that it could take for a chunk.

use super::pacing::Pacing;
use crate::content::limits::COMING_UNASKED;
use crate::content::{ChunkIndex, FileId};
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is held back of a chunk until it is verified, bytes.
const HELD_BACK_BYTES: usize = 1_024;
/// Bytes go on in blocks of so many: what ten full packets of Ethernet carry. With fewer more of them would be packets that are
/// not full, and more is late by itself at each step of a line.
const BLOCK_BYTES: usize = 10 * 1_448;
/// News of beginnings that may wait for a subscriber; what does not fit it learns when the chunk is here.
const ARRIVALS_QUEUED_MAX: usize = 256;

/// Nothing that these mutexes guard is ever half done, so a panic elsewhere has broken nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct RelayTable {
    partial: HashMap<(FileId, ChunkIndex), Arc<PartialChunk>>,
    /// By file, and by a number of their own. Whoever listens no more is not here.
    subscribers: HashMap<FileId, HashMap<u64, ArrivalSender>>,
    /// Chunks on their way to others who serve, by a number of their own.
    sent: HashMap<u64, (FileId, SocketAddr, Arc<Mutex<SendTime>>)>,
    last: u64,
}

struct ArrivalSender {
    chunks: Sender<ChunkIndex>,
    /// How many it has been told of since it last asked for one.
    unasked: Arc<AtomicU32>,
}

impl ArrivalSender {
    /// Told so many without asking for any it is told no more of them: its thread would wake up for each, and for nothing.
    fn tell(&self, index: ChunkIndex) {
        if self.unasked.load(Ordering::Relaxed) < COMING_UNASKED {
            self.unasked.fetch_add(1, Ordering::Relaxed);
            let _ = self.chunks.try_send(index);
        }
    }
}

/// The chunks that are being received. Clones are the same.
#[derive(Clone, Default)]
pub struct Relay(Arc<Mutex<RelayTable>>, Pacing);

impl Relay {
    /// How fast others are given what is dealt out in several stripes.
    pub fn pacing(&self) -> &Pacing {
        &self.1
    }

    /// A chunk begins to arrive, and subscribers are told. `None` when it arrives from somewhere else already.
    pub fn begin(&self, file: FileId, index: ChunkIndex, length: u32) -> Option<PartialChunkWriter> {
        let mut table = lock(&self.0);
        if table.partial.contains_key(&(file, index)) {
            return None;
        }
        let partial = Arc::new(PartialChunk { length, state: Mutex::default(), moved: Condvar::new() });
        table.partial.insert((file, index), partial.clone());
        for subscriber in table.subscribers.get(&file).into_iter().flat_map(HashMap::values) {
            subscriber.tell(index);
        }
        drop(table);
        Some(PartialChunkWriter { relay: self.clone(), key: (file, index), partial })
    }

    /// A chunk has come in full, and been verified and stored. If it is arriving from somebody else as well, whoever is
    /// being sent it does not wait for that one any more: the rest start_timer on at once, or, where what has come so far is
    /// not how the chunk begins, nothing of it any more.
    pub fn complete(&self, file: FileId, index: ChunkIndex, bytes: &[u8]) {
        if let Some(partial) = self.get(file, index) {
            let mut state = lock(&partial.state);
            if state.end.is_none() && bytes.len() == partial.length as usize {
                let is_right = bytes.starts_with(&state.bytes);
                bytes.clone_into(&mut state.bytes);
                state.end = Some(is_right);
                partial.moved.notify_all();
            }
        }
    }

    /// A chunk that is arriving now.
    pub fn get(&self, file: FileId, index: ChunkIndex) -> Option<Arc<PartialChunk>> {
        lock(&self.0).partial.get(&(file, index)).cloned()
    }

    /// Gets each chunk of a file as it begins to arrive, for as long as what is returned lives.
    pub fn subscribe(&self, file: FileId) -> ArrivalSubscription {
        let (subscriber, chunks) = bounded(ARRIVALS_QUEUED_MAX);
        let unasked = Arc::new(AtomicU32::new(0));
        let mut table = lock(&self.0);
        table.last += 1;
        let number = table.last;
        let subscriber = ArrivalSender { chunks: subscriber, unasked: unasked.clone() };
        table.subscribers.entry(file).or_default().insert(number, subscriber);
        ArrivalSubscription { chunks, place: Some((self.clone(), file, number)), unasked }
    }

    /// A chunk of a file is sent to one who serves at `to`, until what is returned is dropped.
    pub fn send_to(&self, file: FileId, to: SocketAddr) -> ChunkSend {
        let sent = Arc::new(Mutex::new(SendTime::default()));
        let mut table = lock(&self.0);
        table.last += 1;
        let number = table.last;
        table.sent.insert(number, (file, to, sent.clone()));
        ChunkSend { relay: self.clone(), number, sent }
    }

    /// The one to whom a chunk is sent, of whatever file, and how long it has taken it so far, if that is this file and
    /// nobody else is sent anything: several share the link, and none of them is to blame.
    pub fn only_receiver(&self, file: FileId) -> Option<(SocketAddr, Duration)> {
        let table = lock(&self.0);
        let mut all = table.sent.values().filter(|_| table.sent.len() == 1);
        let (_, to, sent) = all.find(|(of, ..)| *of == file)?;
        let sent = lock(sent);
        Some((*to, sent.took + sent.since.map(|since| since.elapsed()).unwrap_or_default()))
    }
}

/// How long a chunk has kept a connection busy: the time in which nothing of it was here to be sent is not counted.
#[derive(Default)]
struct SendTime {
    took: Duration,
    since: Option<Instant>,
}

/// A chunk on its way to somebody.
pub struct ChunkSend {
    relay: Relay,
    number: u64,
    sent: Arc<Mutex<SendTime>>,
}

impl ChunkSend {
    /// Bytes of it go, until what is returned is dropped.
    pub fn start_timer(&self) -> SendTimer<'_> {
        lock(&self.sent).since = Some(Instant::now());
        SendTimer(self)
    }
}

impl Drop for ChunkSend {
    fn drop(&mut self) {
        lock(&self.relay.0).sent.remove(&self.number);
    }
}

/// Bytes that go.
pub struct SendTimer<'a>(&'a ChunkSend);

impl Drop for SendTimer<'_> {
    fn drop(&mut self) {
        let mut sent = lock(&self.0.sent);
        let went = sent.since.take().map(|since| since.elapsed());
        sent.took += went.unwrap_or_default();
    }
}

/// The chunks of a file that begin to arrive, for one who may ask for them. Who has been told of [`COMING_UNASKED`] without
/// asking for any is told no more of them until it asks, but only of what is here, which takes far fewer messages.
pub struct ArrivalSubscription {
    chunks: Receiver<ChunkIndex>,
    place: Option<(Relay, FileId, u64)>,
    unasked: Arc<AtomicU32>,
}

impl ArrivalSubscription {
    /// For who is not to be told.
    pub fn none() -> Self {
        Self { chunks: never(), place: None, unasked: Arc::default() }
    }

    /// Where they are named: to be waited for.
    pub fn chunks(&self) -> &Receiver<ChunkIndex> {
        &self.chunks
    }

    /// The other side has asked for a chunk of this file.
    pub fn asked(&self) {
        self.unasked.store(0, Ordering::Relaxed);
    }
}

impl Drop for ArrivalSubscription {
    fn drop(&mut self) {
        let Some((relay, file, number)) = self.place.take() else { return };
        let mut table = lock(&relay.0);
        let Some(subscribers) = table.subscribers.get_mut(&file) else { return };
        subscribers.remove(&number);
        if subscribers.is_empty() {
            table.subscribers.remove(&file);
        }
    }
}

#[derive(Default)]
struct ReceivedBytes {
    bytes: Vec<u8>,
    /// How it has ended: verified, or lost.
    end: Option<bool>,
}

/// A chunk that is being received.
pub struct PartialChunk {
    length: u32,
    state: Mutex<ReceivedBytes>,
    moved: Condvar,
}

/// What there is of an arriving chunk behind some point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// There are more bytes.
    Bytes,
    /// Nothing has come in time.
    Nothing,
    /// It will not come any more.
    Lost,
}

impl PartialChunk {
    /// How long the chunk is, bytes.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Puts what has come behind `from`, and may go on, in place of what `piece` holds. Waits for it a while.
    pub fn next(&self, from: usize, piece: &mut Vec<u8>, patience: Duration) -> Piece {
        let free = |state: &ReceivedBytes| match state.end {
            Some(true) => state.bytes.len(),
            _ => {
                let whole_blocks = state.bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
                whole_blocks.min((self.length as usize).saturating_sub(HELD_BACK_BYTES))
            }
        };
        let waits = |state: &mut ReceivedBytes| state.end != Some(false) && free(state) <= from;
        let state = lock(&self.state);
        let waited = self.moved.wait_timeout_while(state, patience, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let free = free(&state);
        match state.end {
            Some(false) => Piece::Lost,
            _ if free > from => {
                piece.clear();
                piece.extend_from_slice(&state.bytes[from..free]);
                Piece::Bytes
            }
            _ => Piece::Nothing,
        }
    }

    fn end(&self, verified: bool) {
        lock(&self.state).end.get_or_insert(verified);
        self.moved.notify_all();
    }
}

/// The receiving end of an arriving chunk. When it is dropped before the chunk is verified, the chunk is lost.
pub struct PartialChunkWriter {
    relay: Relay,
    key: (FileId, ChunkIndex),
    partial: Arc<PartialChunk>,
}

impl PartialChunkWriter {
    /// More bytes have come.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = lock(&self.partial.state);
        if state.end.is_some() {
            // It has come from somebody faster.
            return;
        }
        let before = state.bytes.len();
        state.bytes.extend_from_slice(bytes);
        if state.bytes.len() / BLOCK_BYTES > before / BLOCK_BYTES {
            self.partial.moved.notify_all();
        }
    }

    /// All of it has come, is what it must be, and is stored.
    pub fn verified(self) {
        self.partial.end(true);
    }
}

impl Drop for PartialChunkWriter {
    fn drop(&mut self) {
        lock(&self.relay.0).partial.remove(&self.key);
        self.partial.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileId = FileId([3; 32]);
    const INDEX: ChunkIndex = ChunkIndex(5);
    const LENGTH: usize = 3 * BLOCK_BYTES;

    #[test]
    fn bytes_go_on_as_they_come_and_the_last_only_when_verified() {
        let relay = Relay::default();
        let subscriber = relay.subscribe(FILE);
        let writer = relay.begin(FILE, INDEX, LENGTH as u32).unwrap();
        assert_eq!(subscriber.chunks().try_recv(), Ok(INDEX));
        assert!(relay.begin(FILE, INDEX, LENGTH as u32).is_none(), "it is on its way");
        let partial = relay.get(FILE, INDEX).unwrap();
        let mut piece = Vec::new();
        assert_eq!(partial.next(0, &mut piece, Duration::ZERO), Piece::Nothing);
        writer.push(&[1; BLOCK_BYTES + 1]);
        assert_eq!(partial.next(0, &mut piece, Duration::ZERO), Piece::Bytes);
        assert_eq!(piece, [1; BLOCK_BYTES]);
        writer.push(&[2; LENGTH - BLOCK_BYTES - 1]);
        assert_eq!(partial.next(BLOCK_BYTES, &mut piece, Duration::ZERO), Piece::Bytes);
        assert_eq!(piece.len(), LENGTH - BLOCK_BYTES - HELD_BACK_BYTES);
        let sent = LENGTH - HELD_BACK_BYTES;
        assert_eq!(partial.next(sent, &mut piece, Duration::ZERO), Piece::Nothing, "held back");
        writer.verified();
        assert_eq!(partial.next(sent, &mut piece, Duration::ZERO), Piece::Bytes);
        assert_eq!(piece, [2; HELD_BACK_BYTES]);
        assert!(relay.get(FILE, INDEX).is_none(), "it is stored by now");
    }

    #[test]
    fn a_chunk_that_has_come_from_somebody_faster_does_not_wait_for_the_slower_one() {
        let relay = Relay::default();
        let writer = relay.begin(FILE, INDEX, LENGTH as u32).unwrap();
        writer.push(&[1; BLOCK_BYTES]);
        let partial = relay.get(FILE, INDEX).unwrap();
        relay.complete(FILE, ChunkIndex(6), &[2; LENGTH]);
        relay.complete(FILE, INDEX, &[1; LENGTH - 1]);
        let mut piece = Vec::new();
        assert_eq!(
            partial.next(BLOCK_BYTES, &mut piece, Duration::ZERO),
            Piece::Nothing,
            "another one, and none"
        );
        relay.complete(FILE, INDEX, &[1; LENGTH]);
        writer.push(&[9; BLOCK_BYTES]);
        assert_eq!(partial.next(BLOCK_BYTES, &mut piece, Duration::ZERO), Piece::Bytes);
        assert_eq!(piece, [1; LENGTH - BLOCK_BYTES]);
        drop(writer);
        assert_eq!(
            partial.next(BLOCK_BYTES, &mut piece, Duration::ZERO),
            Piece::Bytes,
            "it is not lost any more"
        );
    }

    #[test]
    fn what_began_wrong_does_not_end_right() {
        let relay = Relay::default();
        let writer = relay.begin(FILE, INDEX, LENGTH as u32).unwrap();
        writer.push(&[7; BLOCK_BYTES]);
        let partial = relay.get(FILE, INDEX).unwrap();
        let mut piece = Vec::new();
        assert_eq!(partial.next(0, &mut piece, Duration::ZERO), Piece::Bytes);
        relay.complete(FILE, INDEX, &[1; LENGTH]);
        assert_eq!(partial.next(BLOCK_BYTES, &mut piece, Duration::ZERO), Piece::Lost);
        assert_eq!(partial.next(0, &mut piece, Duration::ZERO), Piece::Lost, "for everybody");
        writer.verified();
        assert_eq!(partial.next(BLOCK_BYTES, &mut piece, Duration::ZERO), Piece::Lost);
    }

    #[test]
    fn only_one_who_is_given_something_alone_can_be_slow_to_take_it() {
        let relay = Relay::default();
        let [one, two] = [7001, 7002].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        assert_eq!(relay.only_receiver(FILE), None);
        let first = relay.send_to(FILE, one);
        assert_eq!(relay.only_receiver(FILE), Some((one, Duration::ZERO)), "nothing start_timer yet");
        drop(first.start_timer());
        let (_, took) = relay.only_receiver(FILE).unwrap();
        assert_eq!(relay.only_receiver(FILE), Some((one, took)), "nothing start_timer any more");
        assert_eq!(relay.only_receiver(FileId([4; 32])), None);
        let second = relay.send_to(FileId([4; 32]), two);
        assert_eq!(relay.only_receiver(FILE), None, "they share a link");
        drop((first, second));
        assert!(lock(&relay.0).sent.is_empty());
    }

    #[test]
    fn nothing_is_kept_of_those_who_listen_no_more() {
        let relay = Relay::default();
        let stays = relay.subscribe(FILE);
        (0..9).for_each(|_| drop(relay.subscribe(FILE)));
        assert_eq!(lock(&relay.0).subscribers[&FILE].len(), 1);
        let writer = relay.begin(FILE, INDEX, 1);
        assert_eq!(stays.chunks().try_recv(), Ok(INDEX));
        drop((stays, writer));
        assert!(lock(&relay.0).subscribers.is_empty());
    }

    #[test]
    fn who_asks_for_nothing_is_told_of_no_more_beginnings_until_it_asks() {
        let relay = Relay::default();
        let told = relay.subscribe(FILE);
        let begin = |index: u32| {
            drop(relay.begin(FILE, ChunkIndex(index), 1));
            told.chunks().try_recv().ok()
        };
        for index in 0..COMING_UNASKED {
            assert_eq!(begin(index), Some(ChunkIndex(index)));
        }
        assert_eq!(begin(100), None);
        told.asked();
        assert_eq!(begin(101), Some(ChunkIndex(101)));
    }

    #[test]
    fn what_is_not_verified_is_lost_for_all_who_wait() {
        let relay = Relay::default();
        let writer = relay.begin(FILE, INDEX, LENGTH as u32).unwrap();
        writer.push(&[1; LENGTH]);
        let partial = relay.get(FILE, INDEX).unwrap();
        let waiting = std::thread::spawn(move || {
            let mut piece = Vec::new();
            partial.next(LENGTH - HELD_BACK_BYTES, &mut piece, Duration::from_secs(60))
        });
        drop(writer);
        assert_eq!(waiting.join().unwrap(), Piece::Lost);
        assert!(relay.begin(FILE, INDEX, LENGTH as u32).is_some(), "another source may bring it");
    }
}
