//! Checking and storing what the sources of a download receive: in helping threads, so that a source goes on receiving
//! meanwhile, and of several chunks at once where they come fast.
//!
//! SHA-256 takes a core longer than anything else in a download, and half as long for several chunks at once
//! ([`Digest::of_each`]). A source's thread leaves a chunk in a short queue, from which a helper gathers a batch; when the
//! queue is full all cores are busy, and the thread does a batch itself, so that the connection is read no faster than chunks
//! are stored. A helper waits for company only where it can be expected at once, and nobody waits for the chunk. Helpers begin
//! to exist with the first chunk that could have used one.
//!
//! Invariants: a chunk is stored only after its SHA-256 matched; whatever became of a chunk is reported before its
//! source's [`SourceVerifier::ended`] returns; what is handed over never takes more than [`VERIFY_MEMORY`].

use super::super::relay::PartialChunkWriter;
use super::source::SourceError;
use super::{Arrival, Job, SourceEvent, SourceUpdate};
use crate::content::limits::{VERIFY_COMPANY, VERIFY_HELPERS_MAX, VERIFY_MEMORY};
use crate::content::{ChunkIndex, Digest, TOGETHER};
use crate::net::{Shutdown, Threads};
use crate::swarm::picker::SourceId;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// A chunk that was received and not been looked at.
struct ReceivedChunk {
    index: ChunkIndex,
    digest: Digest,
    bytes: Vec<u8>,
    source: SourceId,
    /// Others wait for its last bytes.
    relay_writer: Option<PartialChunkWriter>,
    /// Whether the next chunk can be expected at once, and this one can wait for it.
    company: bool,
    /// Gets what is wrong with the chunk; closed when nobody has chunks of this source any more.
    failed: Sender<SourceError>,
    /// Wakes the source's thread, when something is wrong.
    shutdown: Shutdown,
}

/// What the helpers of one download share.
struct VerifyQueue {
    job: Arc<Job>,
    events: Sender<SourceEvent>,
    /// Chunks that wait for a helper.
    tasks: Receiver<ReceivedChunk>,
    /// Of the helper that gathers a batch: two that did would each have half of one.
    turn: Mutex<()>,
    /// Bytes of the chunks that were handed over and are not settled.
    held: AtomicUsize,
    /// When the last chunk came, nanoseconds after `began`.
    last: AtomicU64,
    began: Instant,
    /// Buffers that were given back.
    spare: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    shutdown: Shutdown,
}

/// Checks and stores the chunks of one download.
#[derive(Clone)]
pub(super) struct Verifier {
    queue: Arc<VerifyQueue>,
    sender: Sender<ReceivedChunk>,
    helpers: Arc<AtomicUsize>,
    most: usize,
    threads: Threads,
}

impl Verifier {
    /// Has no helper yet. `shutdown` ends those that it will have.
    pub fn new(job: Arc<Job>, events: Sender<SourceEvent>, threads: &Threads, shutdown: &Shutdown) -> Self {
        // With one core a helper would only take turns with whoever it helps.
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let most = if cores > 1 { cores.min(VERIFY_HELPERS_MAX) } else { 0 };
        // A batch that waits, and whoever finds it full makes up another one with the rest of it.
        let (sender, tasks) = bounded(2 * TOGETHER - 1);
        let queue = VerifyQueue {
            job,
            events,
            tasks,
            turn: Mutex::default(),
            held: AtomicUsize::default(),
            last: AtomicU64::default(),
            began: Instant::now(),
            spare: bounded((most + 2) * TOGETHER),
            shutdown: shutdown.clone(),
        };
        Self { queue: Arc::new(queue), sender, helpers: Arc::default(), most, threads: threads.clone() }
    }

    /// For the chunks of one source, whose thread is woken through `shutdown` when one is wrong.
    pub fn tasks(&self, source: SourceId, shutdown: &Shutdown) -> SourceVerifier {
        let (failed, failures) = bounded(1);
        SourceVerifier { verifier: self.clone(), source, failed, failures, shutdown: shutdown.clone() }
    }

    /// Leaves a chunk to the helpers; otherwise returns what is to be done here.
    fn enqueue(&self, task: ReceivedChunk) -> Vec<ReceivedChunk> {
        let bytes = task.bytes.len();
        let helpers = self.helpers.load(Relaxed);
        let held = self.queue.held.fetch_add(bytes, Relaxed);
        // A helper has a batch in sender, and one that is full waits.
        if self.most == 0 || held + bytes * 2 > VERIFY_MEMORY {
            return vec![task];
        }
        if helpers == 0 {
            self.add_helper();
            return vec![task];
        }
        match self.sender.try_send(task) {
            Ok(()) => Vec::new(),
            Err(TrySendError::Full(task) | TrySendError::Disconnected(task)) => {
                if helpers < self.most {
                    self.add_helper();
                }
                std::iter::once(task).chain(self.queue.tasks.try_iter().take(TOGETHER - 1)).collect()
            }
        }
    }

    fn add_helper(&self) {
        if self.helpers.fetch_add(1, Relaxed) >= self.most {
            self.helpers.fetch_sub(1, Relaxed);
            return;
        }
        let queue = self.queue.clone();
        if let Err(error) = self.threads.spawn("verify", move || queue.help()) {
            self.helpers.fetch_sub(1, Relaxed);
            log::debug!("no thread to verify chunks: {error}");
        }
    }
}

impl VerifyQueue {
    /// A helping thread.
    fn help(&self) {
        while let Some(batch) = self.gather() {
            self.settle(batch);
        }
    }

    /// Waits for chunks. `None` at the end.
    fn gather(&self) -> Option<Vec<ReceivedChunk>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let first = crossbeam_channel::select! {
            recv(self.shutdown.signal()) -> _ => return None,
            recv(self.tasks) -> task => task.ok()?,
        };
        let until = Instant::now() + VERIFY_COMPANY;
        let mut company = first.company;
        let mut batch = vec![first];
        while batch.len() < TOGETHER {
            let next = match company {
                true => self.tasks.recv_deadline(until).ok(),
                false => self.tasks.try_recv().ok(),
            };
            let Some(next) = next else { break };
            company &= next.company;
            batch.push(next);
        }
        Some(batch)
    }

    /// Whether another chunk can be expected at once, as this one came soon after the one before it.
    fn comes_fast(&self) -> bool {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        now.saturating_sub(self.last.swap(now, Relaxed)) < VERIFY_COMPANY.as_nanos() as u64
    }

    /// Checks chunks, stores them, and reports what has become of them.
    fn settle(&self, batch: Vec<ReceivedChunk>) {
        let bytes: Vec<&[u8]> = batch.iter().map(|task| task.bytes.as_slice()).collect();
        let digests = Digest::of_each(&bytes);
        for (task, digest) in batch.into_iter().zip(digests) {
            let ReceivedChunk { index, bytes, source, relay_writer, failed, shutdown, .. } = task;
            // Nobody is accused before it is certain.
            let is_right = digest == task.digest || Digest::of(&bytes) == task.digest;
            if let Err(why) = self.store(source, index, task.digest, is_right, &bytes, relay_writer) {
                // The first that is wrong is enough.
                let _ = failed.try_send(why);
                shutdown.trigger();
            }
            self.held.fetch_sub(bytes.len(), Relaxed);
            let _ = self.spare.0.try_send(bytes);
        }
    }

    /// Stores a chunk if it is right, and reports what has become of it.
    fn store(
        &self,
        source: SourceId,
        index: ChunkIndex,
        digest: Digest,
        is_right: bool,
        bytes: &[u8],
        relay_writer: Option<PartialChunkWriter>,
    ) -> Result<(), SourceError> {
        let length = bytes.len() as u32;
        if !is_right {
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
        // The state thread takes these as long as it lives, and it never waits for this one.
        let _ = self.events.send(SourceEvent { download: self.job.download, source, update });
        Ok(())
    }
}

/// The chunks of one source.
pub(super) struct SourceVerifier {
    verifier: Verifier,
    source: SourceId,
    failed: Sender<SourceError>,
    failures: Receiver<SourceError>,
    shutdown: Shutdown,
}

impl SourceVerifier {
    /// Takes the chunk in `buffer` and leaves another buffer there. `more` says whether the source owes more chunks.
    /// When something is wrong the source's thread is woken, and [`ended`](Self::ended) says what.
    pub fn take(
        &self,
        index: ChunkIndex,
        digest: Digest,
        buffer: &mut Vec<u8>,
        relay_writer: Option<PartialChunkWriter>,
        more: bool,
    ) {
        let queue = &self.verifier.queue;
        let company = queue.comes_fast() && more && relay_writer.is_none();
        let (failed, shutdown) = (self.failed.clone(), self.shutdown.clone());
        let bytes = std::mem::take(buffer);
        let task = ReceivedChunk {
            index,
            digest,
            bytes,
            source: self.source,
            relay_writer,
            company,
            failed,
            shutdown,
        };
        queue.settle(self.verifier.enqueue(task));
        *buffer = queue.spare.1.try_recv().unwrap_or_default();
    }

    /// Waits until nobody has a chunk of this source any more, and says what was wrong with one of them.
    pub fn ended(self) -> Option<SourceError> {
        let Self { verifier, failed, failures, .. } = self;
        // The helpers may have ended before.
        let queue = &verifier.queue;
        queue.settle(queue.tasks.try_iter().collect());
        drop(failed);
        failures.iter().fold(None, |first, why| first.or(Some(why)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::staging::job;
    use super::*;
    use crate::storage::{ChunkSink, StoreError};
    use std::sync::Mutex;

    const SOURCE: SourceId = SourceId(7);
    const BYTES: &[u8] = b"what is expected";

    /// Remembers what was stored, and whether a helper did it.
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
        // Also on a machine with one core.
        verifier.most = 2;
        Fixture { sink, verifier, reported, threads, shutdown }
    }

    fn take(tasks: &SourceVerifier, index: u32, bytes: &[u8]) {
        tasks.take(ChunkIndex(index), Digest::of(BYTES), &mut bytes.to_vec(), None, true);
    }

    #[test]
    fn every_chunk_is_stored_and_reported_before_its_source_ends() {
        let Fixture { sink, verifier, reported, threads, shutdown } = fixture();
        let tasks = verifier.tasks(SOURCE, &shutdown.child());
        let mut count = 0;
        while !sink.has_been_helped() || count < 50 {
            take(&tasks, count, BYTES);
            count += 1;
        }
        assert!(tasks.ended().is_none());
        assert_eq!(reported.len(), count as usize);
        let mut stored: Vec<u32> = sink.0.lock().unwrap().iter().map(|(index, _)| index.0).collect();
        stored.sort_unstable();
        assert!(stored.into_iter().eq(0..count));
        shutdown.trigger();
        threads.join();
    }

    #[test]
    fn a_wrong_chunk_wakes_its_source_and_no_other() {
        let Fixture { sink, verifier, reported, threads, shutdown } = fixture();
        let (own, others) = (shutdown.child(), shutdown.child());
        let (tasks, other) = (verifier.tasks(SOURCE, &own), verifier.tasks(SourceId(8), &others));
        // Found by this thread, as there is no helper yet; then, among right ones, by a helper.
        take(&tasks, 1, b"something else");
        assert!(own.is_stopped() && !others.is_stopped());
        assert!(matches!(tasks.ended(), Some(SourceError::BadChunk { index: ChunkIndex(1), bytes: 14 })));
        let own = shutdown.child();
        let tasks = verifier.tasks(SOURCE, &own);
        take(&other, 2, BYTES);
        take(&tasks, 3, b"something else");
        take(&other, 4, BYTES);
        own.wait_forever();
        assert!(matches!(tasks.ended(), Some(SourceError::BadChunk { index: ChunkIndex(3), .. })));
        assert!(other.ended().is_none() && !others.is_stopped());
        assert_eq!((reported.len(), sink.0.lock().unwrap().len()), (2, 2));
        shutdown.trigger();
        threads.join();
    }

    #[test]
    fn what_is_left_when_the_helpers_have_ended_is_settled_by_its_source() {
        let Fixture { sink, verifier, reported, threads, shutdown } = fixture();
        let tasks = verifier.tasks(SOURCE, &shutdown.child());
        take(&tasks, 0, BYTES);
        shutdown.trigger();
        threads.join();
        (1..3).for_each(|index| take(&tasks, index, BYTES));
        assert!(tasks.ended().is_none());
        assert_eq!((reported.len(), sink.0.lock().unwrap().len()), (3, 3));
    }

    #[test]
    fn chunks_that_are_too_large_for_the_helpers_are_verified_here() {
        let Fixture { sink, verifier, threads, shutdown, .. } = fixture();
        let tasks = verifier.tasks(SOURCE, &shutdown.child());
        let mut large = vec![0; VERIFY_MEMORY / 2 + 1];
        let digest = Digest::of(&large);
        for index in 0..3 {
            tasks.take(ChunkIndex(index), digest, &mut large, None, true);
        }
        assert!(!sink.has_been_helped() && large.len() == VERIFY_MEMORY / 2 + 1);
        assert_eq!(verifier.helpers.load(Relaxed), 0);
        shutdown.trigger();
        threads.join();
    }
}
