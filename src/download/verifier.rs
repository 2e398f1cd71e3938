//! Verifies and stores received chunks in helper threads, several chunks per batch.
//!
//! SHA-256 is the largest CPU cost of a download; hashing several chunks together ([`Digest::of_each`])
//! halves it. The reader thread of a source puts each chunk into a short queue, from which a helper collects
//! a batch. A full queue means that all cores are busy: then the reader thread verifies a batch itself, which
//! slows its connection to the speed of storage (backpressure). A helper waits for more chunks only when they
//! are expected within [`VERIFY_BATCH_TIMEOUT`]; receivers of a relayed chunk wait as long for its last bytes. Helpers
//! are spawned on demand.
//!
//! Invariants: a chunk is stored only after its SHA-256 matched; every result is reported before the
//! [`SourceVerifier::ended`] of its source returns; queued chunks use at most [`VERIFY_MEMORY_BYTES`] bytes.

use super::events::{Arrival, Job, SourceError, SourceEvent, SourceUpdate};
use crate::content::limits::{
    VERIFY_BATCH_BYTES, VERIFY_BATCH_TIMEOUT, VERIFY_HELPERS_MAX, VERIFY_MEMORY_BYTES,
};
use crate::content::{ChunkIndex, Digest, hash_lanes};
use crate::net::{Shutdown, Threads};
use crate::swarm::picker::SourceId;
use crate::sync::lock;
use crate::upload::relay::PartialChunkWriter;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// A received chunk that has not been verified.
struct ReceivedChunk {
    index: ChunkIndex,
    digest: Digest,
    bytes: Vec<u8>,
    source: SourceId,
    /// Relay of the chunk, if any: its receivers wait for the last bytes.
    relay_writer: Option<PartialChunkWriter>,
    /// Whether to wait for another chunk: the next one is expected at once.
    expect_more: bool,
    /// Receives the error if the chunk is corrupt; closed when no chunk of its source is queued.
    failed: Sender<SourceError>,
    /// Wakes the reader thread of the source after an error.
    shutdown: Shutdown,
}

/// State shared by the helpers of one download.
struct VerifyQueue {
    job: Arc<Job>,
    events: Sender<SourceEvent>,
    /// Chunks waiting for a helper.
    chunks: Receiver<ReceivedChunk>,
    /// Held by the helper that collects a batch: two helpers at once would each get half a batch.
    collecting: Mutex<()>,
    /// Bytes of queued chunks and of those being verified.
    bytes_in_use: AtomicUsize,
    /// Arrival of the last chunk, nanoseconds after `started`.
    last: AtomicU64,
    started: Instant,
    /// Buffers for reuse.
    spare: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    shutdown: Shutdown,
}

/// Verifies and stores the chunks of one download.
#[derive(Clone)]
pub(super) struct Verifier {
    queue: Arc<VerifyQueue>,
    sender: Sender<ReceivedChunk>,
    helpers: Arc<AtomicUsize>,
    helpers_max: usize,
    threads: Threads,
}

impl Verifier {
    /// Creates a verifier without helpers; `shutdown` ends those that it spawns later.
    pub fn new(job: Arc<Job>, events: Sender<SourceEvent>, threads: &Threads, shutdown: &Shutdown) -> Self {
        // On one core a helper would only alternate with the reader thread.
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let helpers_max = if cores > 1 { cores.min(VERIFY_HELPERS_MAX) } else { 0 };
        // One waiting batch; a reader thread that finds the queue full adds its own chunk to the rest and
        // verifies the batch.
        let (sender, chunks) = bounded(2 * hash_lanes() - 1);
        let queue = VerifyQueue {
            job,
            events,
            chunks,
            collecting: Mutex::default(),
            bytes_in_use: AtomicUsize::default(),
            last: AtomicU64::default(),
            started: Instant::now(),
            spare: bounded((helpers_max + 2) * hash_lanes()),
            shutdown: shutdown.clone(),
        };
        Self {
            queue: Arc::new(queue),
            sender,
            helpers: Arc::default(),
            helpers_max,
            threads: threads.clone(),
        }
    }

    /// Creates the verifier for the chunks of one source; `shutdown` wakes the source's reader thread after
    /// an error.
    pub fn for_source(&self, source: SourceId, shutdown: &Shutdown) -> SourceVerifier {
        let (failed, failures) = bounded(1);
        SourceVerifier { verifier: self.clone(), source, failed, failures, shutdown: shutdown.clone() }
    }

    /// Queues a chunk for the helpers; otherwise returns the batch that the calling thread must verify.
    fn enqueue(&self, chunk: ReceivedChunk) -> Vec<ReceivedChunk> {
        let bytes = chunk.bytes.len();
        let helpers = self.helpers.load(Relaxed);
        let in_use = self.queue.bytes_in_use.fetch_add(bytes, Relaxed);
        // Counts a second chunk: a full batch waits while another one is being verified.
        if self.helpers_max == 0 || in_use + bytes * 2 > VERIFY_MEMORY_BYTES {
            return vec![chunk];
        }
        if helpers == 0 {
            self.add_helper();
            return vec![chunk];
        }
        match self.sender.try_send(chunk) {
            Ok(()) => Vec::new(),
            Err(TrySendError::Full(chunk) | TrySendError::Disconnected(chunk)) => {
                if helpers < self.helpers_max {
                    self.add_helper();
                }
                std::iter::once(chunk)
                    .chain(self.queue.chunks.try_iter().take(batch_length(bytes) - 1))
                    .collect()
            }
        }
    }

    /// Shutdown of the download.
    pub fn shutdown(&self) -> &Shutdown {
        &self.queue.shutdown
    }

    fn add_helper(&self) {
        if self.helpers.fetch_add(1, Relaxed) >= self.helpers_max {
            self.helpers.fetch_sub(1, Relaxed);
            return;
        }
        let queue = self.queue.clone();
        if let Err(error) = self.threads.spawn("verify", move || queue.run_helper()) {
            self.helpers.fetch_sub(1, Relaxed);
            log::debug!("cannot start a thread to verify chunks: {error}");
        }
    }
}

/// Number of chunks of this many bytes that are verified together.
fn batch_length(chunk_bytes: usize) -> usize {
    (VERIFY_BATCH_BYTES / chunk_bytes.max(1)).clamp(1, hash_lanes())
}

impl VerifyQueue {
    /// Loop of a helper thread.
    fn run_helper(&self) {
        while let Some(batch) = self.collect_batch() {
            self.verify_and_store(batch);
        }
    }

    /// Collects a batch; waits for its first chunk. `None` at the shutdown.
    fn collect_batch(&self) -> Option<Vec<ReceivedChunk>> {
        let _collecting = lock(&self.collecting);
        let first = crossbeam_channel::select! {
            recv(self.shutdown.signal()) -> _ => return None,
            recv(self.chunks) -> chunk => chunk.ok()?,
        };
        let until = Instant::now() + VERIFY_BATCH_TIMEOUT;
        let mut expect_more = first.expect_more;
        let length = batch_length(first.bytes.len());
        let mut batch = vec![first];
        while batch.len() < length {
            let next = match expect_more {
                true => self.chunks.recv_deadline(until).ok(),
                false => self.chunks.try_recv().ok(),
            };
            let Some(next) = next else { break };
            expect_more &= next.expect_more;
            batch.push(next);
        }
        Some(batch)
    }

    /// Whether another chunk is expected at once: this one came soon after the previous one.
    fn expects_more(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        now.saturating_sub(self.last.swap(now, Relaxed)) < VERIFY_BATCH_TIMEOUT.as_nanos() as u64
    }

    /// Verifies and stores a batch, and reports the result for each chunk.
    fn verify_and_store(&self, batch: Vec<ReceivedChunk>) {
        let bytes: Vec<&[u8]> = batch.iter().map(|chunk| chunk.bytes.as_slice()).collect();
        let digests = Digest::of_each(&bytes);
        for (chunk, digest) in batch.into_iter().zip(digests) {
            let ReceivedChunk { index, bytes, source, relay_writer, failed, shutdown, .. } = chunk;
            // A second, independent hash before a source is banned.
            let is_valid = digest == chunk.digest || Digest::of(&bytes) == chunk.digest;
            if let Err(error) = self.store(source, index, chunk.digest, is_valid, &bytes, relay_writer) {
                // Only the first error of a source is reported.
                let _ = failed.try_send(error);
                shutdown.trigger();
            }
            self.bytes_in_use.fetch_sub(bytes.len(), Relaxed);
            let _ = self.spare.0.try_send(bytes);
        }
    }

    /// Stores a verified chunk and reports the result.
    fn store(
        &self,
        source: SourceId,
        index: ChunkIndex,
        digest: Digest,
        is_valid: bool,
        bytes: &[u8],
        relay_writer: Option<PartialChunkWriter>,
    ) -> Result<(), SourceError> {
        let length = bytes.len() as u64;
        if !is_valid {
            return Err(SourceError::BadChunk { index, bytes: length });
        }
        let update = match self.job.sink.store(index, digest, bytes)? {
            true => {
                match (relay_writer, &self.job.relay) {
                    (Some(relay_writer), _) => relay_writer.verified(),
                    (None, Some(relay)) => relay.complete(self.job.file, index, bytes),
                    (None, None) => {}
                }
                SourceUpdate::Stored(Arrival { index, bytes: length })
            }
            false => SourceUpdate::Refused(index),
        };
        // Never blocks for long: the state thread drains these events as long as it lives and never waits for
        // this thread.
        let _ = self.events.send(SourceEvent { download: self.job.download, source, update });
        Ok(())
    }
}

/// Verifier of the chunks of one source.
pub(super) struct SourceVerifier {
    verifier: Verifier,
    source: SourceId,
    failed: Sender<SourceError>,
    failures: Receiver<SourceError>,
    shutdown: Shutdown,
}

impl SourceVerifier {
    /// Takes the chunk in `buffer` and leaves a spare buffer there. `more` tells whether the source has
    /// further requests in flight. An error wakes the reader thread; [`ended`](Self::ended) returns it.
    pub fn take(
        &self,
        index: ChunkIndex,
        digest: Digest,
        buffer: &mut Vec<u8>,
        relay_writer: Option<PartialChunkWriter>,
        more: bool,
    ) {
        let queue = &self.verifier.queue;
        let expect_more = queue.expects_more() && more;
        let (failed, shutdown) = (self.failed.clone(), self.shutdown.clone());
        let bytes = std::mem::take(buffer);
        let chunk = ReceivedChunk {
            index,
            digest,
            bytes,
            source: self.source,
            relay_writer,
            expect_more,
            failed,
            shutdown,
        };
        queue.verify_and_store(self.verifier.enqueue(chunk));
        *buffer = queue.spare.1.try_recv().unwrap_or_default();
    }

    /// Waits until no chunk of this source is queued or being verified, and returns the first error.
    pub fn ended(self) -> Option<SourceError> {
        let Self { verifier, failed, failures, .. } = self;
        // Verifies the rest: the helpers may have ended already.
        let queue = &verifier.queue;
        queue.verify_and_store(queue.chunks.try_iter().collect());
        drop(failed);
        failures.iter().fold(None, |first, error| first.or(Some(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::staging::job;
    use super::*;
    use crate::storage::{ChunkSink, StoreError};
    use std::sync::Mutex;

    const SOURCE: SourceId = SourceId(7);
    const BYTES: &[u8] = b"expected bytes";

    /// Records the stored chunks and whether a helper stored them.
    #[derive(Default)]
    struct Sink(Mutex<Vec<(ChunkIndex, bool)>>);

    impl Sink {
        fn has_been_helped(&self) -> bool {
            self.0.lock().unwrap().iter().any(|(_, helped)| *helped)
        }
    }

    impl ChunkSink for Sink {
        fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
            assert_eq!(Digest::of(bytes), digest, "stored before it was verified");
            let helped = thread::current().name() == Some("verify");
            self.0.lock().unwrap().push((index, helped));
            Ok(true)
        }
    }

    struct Fixture {
        sink: Arc<Sink>,
        verifier: Verifier,
        reported: Receiver<SourceEvent>,
        threads: Threads,
        shutdown: Shutdown,
    }

    fn fixture() -> Fixture {
        let (sink, threads, shutdown) = (Arc::new(Sink::default()), Threads::new(), Shutdown::new());
        let job = job(1, sink.clone());
        let (events, reported) = crossbeam_channel::unbounded();
        let mut verifier = Verifier::new(Arc::new(job), events, &threads, &shutdown);
        // Enables helpers also on a machine with one core.
        verifier.helpers_max = 2;
        Fixture { sink, verifier, reported, threads, shutdown }
    }

    fn take(source: &SourceVerifier, index: u32, bytes: &[u8]) {
        source.take(ChunkIndex(index), Digest::of(BYTES), &mut bytes.to_vec(), None, true);
    }

    #[test]
    fn every_chunk_is_stored_and_reported_before_ended_returns() {
        let Fixture { sink, verifier, reported, threads, shutdown } = fixture();
        let source = verifier.for_source(SOURCE, &shutdown.child());
        let mut count = 0;
        while !sink.has_been_helped() || count < 50 {
            take(&source, count, BYTES);
            count += 1;
        }
        assert!(source.ended().is_none());
        assert_eq!(reported.len(), count as usize);
        let mut stored: Vec<u32> = sink.0.lock().unwrap().iter().map(|(index, _)| index.0).collect();
        stored.sort_unstable();
        assert!(stored.into_iter().eq(0..count));
        shutdown.trigger();
        threads.join();
    }

    #[test]
    fn corrupt_chunk_wakes_only_its_own_source() {
        let Fixture { sink, verifier, reported, threads, shutdown } = fixture();
        let (own, others) = (shutdown.child(), shutdown.child());
        let (source, other) = (verifier.for_source(SOURCE, &own), verifier.for_source(SourceId(8), &others));
        // Found by this thread, since no helper exists yet; then by a helper, in a batch with valid chunks.
        take(&source, 1, b"something else");
        assert!(own.is_stopped() && !others.is_stopped());
        assert!(matches!(source.ended(), Some(SourceError::BadChunk { index: ChunkIndex(1), bytes: 14 })));
        let own = shutdown.child();
        let source = verifier.for_source(SOURCE, &own);
        take(&other, 2, BYTES);
        take(&source, 3, b"something else");
        take(&other, 4, BYTES);
        own.wait_forever();
        assert!(matches!(source.ended(), Some(SourceError::BadChunk { index: ChunkIndex(3), .. })));
        assert!(other.ended().is_none() && !others.is_stopped());
        assert_eq!((reported.len(), sink.0.lock().unwrap().len()), (2, 2));
        shutdown.trigger();
        threads.join();
    }

    #[test]
    fn source_verifies_the_chunks_left_when_helpers_have_ended() {
        let Fixture { sink, verifier, reported, threads, shutdown } = fixture();
        let source = verifier.for_source(SOURCE, &shutdown.child());
        take(&source, 0, BYTES);
        shutdown.trigger();
        threads.join();
        (1..3).for_each(|index| take(&source, index, BYTES));
        assert!(source.ended().is_none());
        assert_eq!((reported.len(), sink.0.lock().unwrap().len()), (3, 3));
    }

    #[test]
    fn chunks_too_large_for_the_queue_are_verified_by_the_source() {
        let Fixture { sink, verifier, threads, shutdown, .. } = fixture();
        let source = verifier.for_source(SOURCE, &shutdown.child());
        let mut large = vec![0; VERIFY_MEMORY_BYTES / 2 + 1];
        let digest = Digest::of(&large);
        for index in 0..3 {
            source.take(ChunkIndex(index), digest, &mut large, None, true);
        }
        assert!(!sink.has_been_helped() && large.len() == VERIFY_MEMORY_BYTES / 2 + 1);
        assert_eq!(verifier.helpers.load(Relaxed), 0);
        shutdown.trigger();
        threads.join();
    }
}
