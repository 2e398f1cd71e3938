//! Cut-through relay: forwards the bytes of a chunk to receivers while it is still being received.
//!
//! Store-and-forward would delay every successor by the transfer time of a whole chunk at each step of a
//! chain; on shared links that is many times the transfer time of an idle link, at the start and the end of
//! every download.
//!
//! Invariant: no receiver gets the last bytes of a chunk before it has been verified by this peer. If the
//! chunk is corrupt or its source is lost, the connections of its receivers are closed, and they hold only an
//! incomplete chunk.

use crate::content::limits::UNREQUESTED_ARRIVALS_MAX;
use crate::content::{ChunkIndex, FileId};
use crate::swarm::rings::SendRate;
use crate::sync::{lock, wait_timeout_while};
use crossbeam_channel::{Receiver, Sender, bounded, never};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Bytes of a chunk that are withheld until it has been verified.
const HELD_BACK_BYTES: usize = 1_024;
/// Unit of forwarding, bytes: the payload of twenty full Ethernet packets, almost half of the smallest default chunk.
/// Smaller blocks wake the receivers' threads more often, larger ones add latency at each step.
const BLOCK_BYTES: usize = 20 * 1_448;
/// Requests of other peers that are recorded until the download takes them.
const REQUESTS_RECORDED_MAX: usize = 4_096;
/// Capacity of a subscriber's queue of arriving chunks; beyond it the subscriber learns of a chunk when it is
/// stored.
const ARRIVALS_QUEUED_MAX: usize = 256;

#[derive(Default)]
struct RelayTable {
    partial: HashMap<(FileId, ChunkIndex), Arc<PartialChunk>>,
    /// Subscribers by file and number.
    subscribers: HashMap<FileId, HashMap<u64, ArrivalSender>>,
    /// Uploads of the files that this peer downloads.
    uploads: HashMap<FileId, Uploads>,
    last: u64,
}

struct ArrivalSender {
    chunks: Sender<ChunkIndex>,
    /// Arrivals reported since the peer last requested a chunk.
    unrequested: Arc<AtomicU32>,
}

impl ArrivalSender {
    fn wants_reports(&self) -> bool {
        self.unrequested.load(Ordering::Relaxed) < UNREQUESTED_ARRIVALS_MAX
    }

    /// Reports an arrival, unless [`UNREQUESTED_ARRIVALS_MAX`] of them were ignored: each would wake the subscriber's
    /// thread for nothing.
    fn report(&self, index: ChunkIndex) {
        if self.wants_reports() {
            self.unrequested.fetch_add(1, Ordering::Relaxed);
            let _ = self.chunks.try_send(index);
        }
    }
}

/// Table of the chunks that are being received. Clones share it.
#[derive(Clone, Default)]
pub struct Relay(Arc<Mutex<RelayTable>>);

impl Relay {
    /// Registers a chunk whose first bytes are arriving, and tells subscribers. `None` if it is already
    /// arriving from another source, or no subscriber wants to know: then the bytes are not copied.
    pub fn begin(&self, file: FileId, index: ChunkIndex, length: u32) -> Option<PartialChunkWriter> {
        let mut table = lock(&self.0);
        let mut subscribers = table.subscribers.get(&file).into_iter().flat_map(HashMap::values);
        if table.partial.contains_key(&(file, index)) || !subscribers.any(ArrivalSender::wants_reports) {
            return None;
        }
        let bytes = Vec::with_capacity(length as usize);
        let state = Mutex::new(ReceivedBytes { bytes, end: None });
        let partial = Arc::new(PartialChunk { length, state, changed: Condvar::new() });
        table.partial.insert((file, index), partial.clone());
        for subscriber in table.subscribers.get(&file).into_iter().flat_map(HashMap::values) {
            subscriber.report(index);
        }
        drop(table);
        Some(PartialChunkWriter { relay: self.clone(), key: (file, index), partial })
    }

    /// Completes a chunk that has been stored from another source. Receivers of the still arriving copy get
    /// the rest at once; if the bytes already sent differ from the stored chunk, they get [`PartialRead::Lost`].
    pub fn complete(&self, file: FileId, index: ChunkIndex, bytes: &[u8]) {
        if let Some(partial) = self.get(file, index) {
            let mut state = lock(&partial.state);
            if state.end.is_none() && bytes.len() == partial.length as usize {
                let matches = bytes.starts_with(&state.bytes);
                bytes.clone_into(&mut state.bytes);
                state.end = Some(matches);
                partial.changed.notify_all();
            }
        }
    }

    /// The chunk if it is being received now.
    pub fn get(&self, file: FileId, index: ChunkIndex) -> Option<Arc<PartialChunk>> {
        lock(&self.0).partial.get(&(file, index)).cloned()
    }

    /// Subscribes to the arriving chunks of a file until the returned value is dropped.
    pub fn subscribe(&self, file: FileId) -> ArrivalSubscription {
        let (subscriber, chunks) = bounded(ARRIVALS_QUEUED_MAX);
        let unrequested = Arc::new(AtomicU32::new(0));
        let mut table = lock(&self.0);
        table.last += 1;
        let number = table.last;
        let subscriber = ArrivalSender { chunks: subscriber, unrequested: unrequested.clone() };
        table.subscribers.entry(file).or_default().insert(number, subscriber);
        ArrivalSubscription { chunks, entry: Some((self.clone(), file, number)), unrequested }
    }

    /// Observes the uploads of a file that this peer downloads until the returned value is dropped.
    pub fn observe_uploads(&self, file: FileId) -> UploadObserver {
        lock(&self.0).uploads.insert(file, Uploads::default());
        UploadObserver { relay: self.clone(), file }
    }

    /// Records that bytes of a file are about to be sent. Returns the time to wait before.
    pub fn pace(&self, file: FileId, bytes: u64) -> Duration {
        let mut table = lock(&self.0);
        let Some(uploads) = table.uploads.get_mut(&file) else { return Duration::ZERO };
        let now = uploads.started.get_or_insert_with(Instant::now).elapsed();
        uploads.rate.send(bytes, now)
    }
}

/// Uploads of one file during its download.
#[derive(Default)]
struct Uploads {
    /// Chunks that other peers have requested, up to [`REQUESTS_RECORDED_MAX`].
    requested: Vec<ChunkIndex>,
    rate: SendRate,
    started: Option<Instant>,
}

/// Observes and slows down the uploads of one file.
pub struct UploadObserver {
    relay: Relay,
    file: FileId,
}

impl UploadObserver {
    /// Takes the chunks that other peers have requested since the last call.
    pub fn take_requested(&self) -> Vec<ChunkIndex> {
        let mut table = lock(&self.relay.0);
        table
            .uploads
            .get_mut(&self.file)
            .map(|uploads| std::mem::take(&mut uploads.requested))
            .unwrap_or_default()
    }

    /// Whether another peer has subscribed to the arriving chunks of the file.
    pub fn has_subscribers(&self) -> bool {
        lock(&self.relay.0).subscribers.contains_key(&self.file)
    }

    /// Sends at half of the largest rate from now on, or again at full rate.
    pub fn set_halved(&self, is_halved: bool) {
        if let Some(uploads) = lock(&self.relay.0).uploads.get_mut(&self.file) {
            uploads.rate.set_halved(is_halved);
        }
    }
}

impl Drop for UploadObserver {
    fn drop(&mut self) {
        lock(&self.relay.0).uploads.remove(&self.file);
    }
}

/// Subscription of one peer to the arriving chunks of a file. After [`UNREQUESTED_ARRIVALS_MAX`] reports without a
/// request the peer gets no further ones until it requests a chunk; stored chunks are still announced, which
/// takes far fewer messages.
pub struct ArrivalSubscription {
    chunks: Receiver<ChunkIndex>,
    /// Entry in the table: the file and the number of the subscriber.
    entry: Option<(Relay, FileId, u64)>,
    unrequested: Arc<AtomicU32>,
}

impl ArrivalSubscription {
    /// A subscription that is never ready.
    pub fn none() -> Self {
        Self { chunks: never(), entry: None, unrequested: Arc::default() }
    }

    /// Receives the indices of arriving chunks.
    pub fn chunks(&self) -> &Receiver<ChunkIndex> {
        &self.chunks
    }

    /// Records that the peer has requested a chunk of this file.
    pub fn record_request(&self, index: ChunkIndex) {
        self.unrequested.store(0, Ordering::Relaxed);
        let Some((relay, file, _)) = &self.entry else { return };
        if let Some(uploads) = lock(&relay.0).uploads.get_mut(file)
            && uploads.requested.len() < REQUESTS_RECORDED_MAX
        {
            uploads.requested.push(index);
        }
    }
}

impl Drop for ArrivalSubscription {
    fn drop(&mut self) {
        let Some((relay, file, number)) = self.entry.take() else { return };
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
    /// `Some(true)` once verified, `Some(false)` once lost.
    end: Option<bool>,
}

/// A chunk that is being received.
pub struct PartialChunk {
    length: u32,
    state: Mutex<ReceivedBytes>,
    changed: Condvar,
}

/// Result of waiting for further bytes of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartialRead {
    /// Further bytes are available.
    Bytes,
    /// The wait timed out.
    TimedOut,
    /// The chunk was lost: its source failed or it is corrupt.
    Lost,
}

impl PartialChunk {
    /// Length of the chunk, bytes.
    pub fn length(&self) -> u32 {
        self.length
    }

    /// Waits up to `timeout` for bytes from `offset` on that may be forwarded, and copies them into `target`.
    pub fn read(&self, offset: usize, target: &mut Vec<u8>, timeout: Duration) -> PartialRead {
        let forwardable = |state: &ReceivedBytes| match state.end {
            Some(true) => state.bytes.len(),
            _ => {
                let whole_blocks = state.bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
                whole_blocks.min((self.length as usize).saturating_sub(HELD_BACK_BYTES))
            }
        };
        let waits = |state: &mut ReceivedBytes| state.end != Some(false) && forwardable(state) <= offset;
        let state = lock(&self.state);
        let state = wait_timeout_while(&self.changed, state, timeout, waits);
        let available = forwardable(&state);
        match state.end {
            Some(false) => PartialRead::Lost,
            _ if available > offset => {
                target.clear();
                target.extend_from_slice(&state.bytes[offset..available]);
                PartialRead::Bytes
            }
            _ => PartialRead::TimedOut,
        }
    }

    fn end(&self, verified: bool) {
        lock(&self.state).end.get_or_insert(verified);
        self.changed.notify_all();
    }
}

/// Receiving end of a chunk. Dropping it before verification marks the chunk as lost.
pub struct PartialChunkWriter {
    relay: Relay,
    key: (FileId, ChunkIndex),
    partial: Arc<PartialChunk>,
}

impl PartialChunkWriter {
    /// Appends received bytes.
    pub fn push(&self, bytes: &[u8]) {
        let mut state = lock(&self.partial.state);
        if state.end.is_some() {
            // The chunk has already been completed from another source.
            return;
        }
        let before = state.bytes.len();
        state.bytes.extend_from_slice(bytes);
        if state.bytes.len() / BLOCK_BYTES > before / BLOCK_BYTES {
            self.partial.changed.notify_all();
        }
    }

    /// Marks the chunk as verified and stored, which releases its last bytes.
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
    fn bytes_are_forwarded_at_once_and_the_last_ones_after_verification() {
        let relay = Relay::default();
        let subscriber = relay.subscribe(FILE);
        let writer = relay.begin(FILE, INDEX, LENGTH as u32).unwrap();
        assert_eq!(subscriber.chunks().try_recv(), Ok(INDEX));
        assert!(relay.begin(FILE, INDEX, LENGTH as u32).is_none(), "it is already arriving");
        let partial = relay.get(FILE, INDEX).unwrap();
        let mut bytes = Vec::new();
        assert_eq!(partial.read(0, &mut bytes, Duration::ZERO), PartialRead::TimedOut);
        writer.push(&[1; BLOCK_BYTES + 1]);
        assert_eq!(partial.read(0, &mut bytes, Duration::ZERO), PartialRead::Bytes);
        assert_eq!(bytes, [1; BLOCK_BYTES]);
        writer.push(&[2; LENGTH - BLOCK_BYTES - 1]);
        assert_eq!(partial.read(BLOCK_BYTES, &mut bytes, Duration::ZERO), PartialRead::Bytes);
        assert_eq!(bytes.len(), LENGTH - BLOCK_BYTES - HELD_BACK_BYTES);
        let sent = LENGTH - HELD_BACK_BYTES;
        assert_eq!(
            partial.read(sent, &mut bytes, Duration::ZERO),
            PartialRead::TimedOut,
            "withheld until verified"
        );
        writer.verified();
        assert_eq!(partial.read(sent, &mut bytes, Duration::ZERO), PartialRead::Bytes);
        assert_eq!(bytes, [2; HELD_BACK_BYTES]);
        assert!(relay.get(FILE, INDEX).is_none(), "it has been stored");
    }

    #[test]
    fn chunk_completed_by_a_faster_source_is_sent_at_once() {
        let relay = Relay::default();
        let _subscriber = relay.subscribe(FILE);
        let writer = relay.begin(FILE, INDEX, LENGTH as u32).unwrap();
        writer.push(&[1; BLOCK_BYTES]);
        let partial = relay.get(FILE, INDEX).unwrap();
        relay.complete(FILE, ChunkIndex(6), &[2; LENGTH]);
        relay.complete(FILE, INDEX, &[1; LENGTH - 1]);
        let mut bytes = Vec::new();
        assert_eq!(
            partial.read(BLOCK_BYTES, &mut bytes, Duration::ZERO),
            PartialRead::TimedOut,
            "another chunk, and a wrong length"
        );
        relay.complete(FILE, INDEX, &[1; LENGTH]);
        writer.push(&[9; BLOCK_BYTES]);
        assert_eq!(partial.read(BLOCK_BYTES, &mut bytes, Duration::ZERO), PartialRead::Bytes);
        assert_eq!(bytes, [1; LENGTH - BLOCK_BYTES]);
        drop(writer);
        assert_eq!(
            partial.read(BLOCK_BYTES, &mut bytes, Duration::ZERO),
            PartialRead::Bytes,
            "a completed chunk is never lost"
        );
    }

    #[test]
    fn receivers_of_corrupt_bytes_get_no_bytes_of_the_valid_copy() {
        let relay = Relay::default();
        let _subscriber = relay.subscribe(FILE);
        let writer = relay.begin(FILE, INDEX, LENGTH as u32).unwrap();
        writer.push(&[7; BLOCK_BYTES]);
        let partial = relay.get(FILE, INDEX).unwrap();
        let mut bytes = Vec::new();
        assert_eq!(partial.read(0, &mut bytes, Duration::ZERO), PartialRead::Bytes);
        relay.complete(FILE, INDEX, &[1; LENGTH]);
        assert_eq!(partial.read(BLOCK_BYTES, &mut bytes, Duration::ZERO), PartialRead::Lost);
        assert_eq!(partial.read(0, &mut bytes, Duration::ZERO), PartialRead::Lost, "for every receiver");
        writer.verified();
        assert_eq!(partial.read(BLOCK_BYTES, &mut bytes, Duration::ZERO), PartialRead::Lost);
    }

    #[test]
    fn requests_of_subscribers_are_recorded_while_a_download_observes_them() {
        let relay = Relay::default();
        let subscription = relay.subscribe(FILE);
        subscription.record_request(INDEX);
        let observer = relay.observe_uploads(FILE);
        assert!(observer.take_requested().is_empty() && observer.has_subscribers());
        subscription.record_request(INDEX);
        assert_eq!(observer.take_requested(), [INDEX]);
        assert!(observer.take_requested().is_empty());
        (0..9_999).for_each(|_| subscription.record_request(INDEX));
        assert_eq!(observer.take_requested().len(), REQUESTS_RECORDED_MAX);
        drop(subscription);
        assert!(!observer.has_subscribers());
        drop(observer);
        assert!(lock(&relay.0).uploads.is_empty());
    }

    #[test]
    fn dropped_subscriptions_leave_no_state() {
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
    fn bytes_are_not_copied_without_a_subscriber_that_requests_chunks() {
        let relay = Relay::default();
        assert!(relay.begin(FILE, INDEX, 1).is_none());
        let subscription = relay.subscribe(FILE);
        assert!(relay.begin(FILE, INDEX, 1).is_some());
        (0..UNREQUESTED_ARRIVALS_MAX).for_each(|index| drop(relay.begin(FILE, ChunkIndex(index), 1)));
        assert!(relay.begin(FILE, INDEX, 1).is_none() && relay.get(FILE, INDEX).is_none());
        subscription.record_request(INDEX);
        assert!(relay.begin(FILE, INDEX, 1).is_some());
    }

    #[test]
    fn arrivals_are_not_reported_to_a_peer_that_requests_none() {
        let relay = Relay::default();
        let subscription = relay.subscribe(FILE);
        let begin = |index: u32| {
            drop(relay.begin(FILE, ChunkIndex(index), 1));
            subscription.chunks().try_recv().ok()
        };
        for index in 0..UNREQUESTED_ARRIVALS_MAX {
            assert_eq!(begin(index), Some(ChunkIndex(index)));
        }
        assert_eq!(begin(100), None);
        subscription.record_request(INDEX);
        assert_eq!(begin(101), Some(ChunkIndex(101)));
    }

    #[test]
    fn chunk_dropped_before_verification_is_lost_for_its_receivers() {
        let relay = Relay::default();
        let _subscriber = relay.subscribe(FILE);
        let writer = relay.begin(FILE, INDEX, LENGTH as u32).unwrap();
        writer.push(&[1; LENGTH]);
        let partial = relay.get(FILE, INDEX).unwrap();
        let waiting = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            partial.read(LENGTH - HELD_BACK_BYTES, &mut bytes, Duration::from_secs(60))
        });
        drop(writer);
        assert_eq!(waiting.join().unwrap(), PartialRead::Lost);
        assert!(relay.begin(FILE, INDEX, LENGTH as u32).is_some(), "another source can send it");
    }
}
