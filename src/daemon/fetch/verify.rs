//! Checking and storing what the sources of a download receive: in helping threads, so that a source goes on receiving
//! meanwhile.
//!
//! SHA-256 takes a core longer than anything else in a download. A source's thread hands a chunk over when a helper
//! waits for one, and does the work itself when none does: then all cores are busy anyway, nothing queues up, and the
//! connection is read no faster than chunks are stored. Helpers begin to exist with the first chunk that could have
//! used one.
//!
//! Invariants: a chunk is stored only after its SHA-256 matched; whatever became of a chunk is reported before its
//! source's [`Tasks::ended`] returns; there are never more buffers than sources and two for each helper.

use super::super::relay::Incoming;
use super::source::SourceError;
use super::{Arrival, Job, SourceEvent, SourceUpdate};
use crate::content::limits::{VERIFY_HELPERS_MAX, VERIFY_MEMORY};
use crate::content::{ChunkIndex, Digest};
use crate::net::{Shutdown, Threads};
use crate::swarm::picker::SourceId;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A chunk that was received and not been looked at.
struct Task {
    index: ChunkIndex,
    digest: Digest,
    bytes: Vec<u8>,
    source: SourceId,
    /// Others wait for its last bytes.
    incoming: Option<Incoming>,
    /// Gets what is wrong with the chunk; closed when nobody has chunks of this source any more.
    failed: Sender<SourceError>,
    /// Wakes the source's thread, when something is wrong.
    shutdown: Shutdown,
}

/// What the helpers of one download share.
struct Bench {
    job: Arc<Job>,
    events: Sender<SourceEvent>,
    /// Holds nothing: a chunk changes hands or stays where it is.
    tasks: Receiver<Task>,
    /// Buffers that were given back.
    spare: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    shutdown: Shutdown,
}

/// Checks and stores the chunks of one download.
#[derive(Clone)]
pub(super) struct Verifier {
    bench: Arc<Bench>,
    hand: Sender<Task>,
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
        let (hand, tasks) = bounded(0);
        let bench = Bench { job, events, tasks, spare: bounded(most), shutdown: shutdown.clone() };
        Self { bench: Arc::new(bench), hand, helpers: Arc::default(), most, threads: threads.clone() }
    }

    /// For the chunks of one source, whose thread is woken through `shutdown` when one is wrong.
    pub fn tasks(&self, source: SourceId, shutdown: &Shutdown) -> Tasks {
        let (failed, failures) = bounded(1);
        Tasks { verifier: self.clone(), source, failed, failures, shutdown: shutdown.clone() }
    }

    /// Has the work done by a helper, if one is free; otherwise returns it.
    fn hand_over(&self, task: Task) -> Option<Task> {
        // For each helper a chunk in hand and a spare buffer.
        let fits = |helpers: usize| helpers * task.bytes.len() * 2 <= VERIFY_MEMORY;
        let helpers = self.helpers.load(Ordering::Relaxed);
        if !fits(helpers) {
            return Some(task);
        }
        let more = helpers < self.most && fits(helpers + 1);
        let task = self.hand.try_send(task).err()?.into_inner();
        if more {
            self.add_helper();
        }
        Some(task)
    }

    fn add_helper(&self) {
        if self.helpers.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.helpers.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let bench = self.bench.clone();
        if let Err(error) = self.threads.spawn("verify", move || bench.help()) {
            log::debug!("no thread to verify chunks: {error}");
        }
    }
}

impl Bench {
    /// A helping thread.
    fn help(&self) {
        loop {
            let task = crossbeam_channel::select! {
                recv(self.shutdown.signal()) -> _ => return,
                recv(self.tasks) -> task => task,
            };
            let Ok(Task { index, digest, bytes, source, incoming, failed, shutdown }) = task else { return };
            let outcome = self.settle(source, index, digest, &bytes, incoming);
            let _ = self.spare.0.try_send(bytes);
            if let Err(why) = outcome {
                // The first that is wrong is enough.
                let _ = failed.try_send(why);
                shutdown.trigger();
            }
        }
    }

    /// Checks a chunk, stores it, and reports what has become of it.
    fn settle(
        &self,
        source: SourceId,
        index: ChunkIndex,
        digest: Digest,
        bytes: &[u8],
        incoming: Option<Incoming>,
    ) -> Result<(), SourceError> {
        let length = bytes.len() as u32;
        if Digest::of(bytes) != digest {
            return Err(SourceError::BadChunk { index, bytes: length });
        }
        let update = match self.job.sink.store(index, digest, bytes)? {
            true => {
                match (incoming, &self.job.relay) {
                    (Some(incoming), _) => incoming.verified(),
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
pub(super) struct Tasks {
    verifier: Verifier,
    source: SourceId,
    failed: Sender<SourceError>,
    failures: Receiver<SourceError>,
    shutdown: Shutdown,
}

impl Tasks {
    /// Takes the chunk in `buffer` and leaves another buffer there. What becomes of it is reported here or soon.
    ///
    /// # Errors
    /// It is wrong, or cannot be stored, and that is known already.
    pub fn take(
        &self,
        index: ChunkIndex,
        digest: Digest,
        buffer: &mut Vec<u8>,
        incoming: Option<Incoming>,
    ) -> Result<(), SourceError> {
        let bench = &self.verifier.bench;
        let (failed, shutdown) = (self.failed.clone(), self.shutdown.clone());
        let bytes = std::mem::take(buffer);
        let task = Task { index, digest, bytes, source: self.source, incoming, failed, shutdown };
        match self.verifier.hand_over(task) {
            None => {
                *buffer = bench.spare.1.try_recv().unwrap_or_default();
                Ok(())
            }
            Some(task) => {
                *buffer = task.bytes;
                bench.settle(self.source, index, digest, buffer, task.incoming)
            }
        }
    }

    /// Waits until no helper has a chunk of this source any more, and says what was wrong with one of them.
    pub fn ended(self) -> Option<SourceError> {
        let Self { failed, failures, .. } = self;
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

    struct Stage {
        sink: Arc<Sink>,
        verifier: Verifier,
        reported: Receiver<SourceEvent>,
        threads: Threads,
        shutdown: Shutdown,
    }

    fn stage() -> Stage {
        let (sink, threads, shutdown) = (Arc::new(Sink::default()), Threads::new(), Shutdown::new());
        let job = job(1, sink.clone());
        let (events, reported) = crossbeam_channel::unbounded();
        let mut verifier = Verifier::new(Arc::new(job), events, &threads, &shutdown);
        // Also on a machine with one core.
        verifier.most = 2;
        Stage { sink, verifier, reported, threads, shutdown }
    }

    fn take(tasks: &Tasks, index: u32, bytes: &[u8]) -> Result<(), SourceError> {
        tasks.take(ChunkIndex(index), Digest::of(BYTES), &mut bytes.to_vec(), None)
    }

    #[test]
    fn every_chunk_is_stored_and_reported_before_its_source_ends() {
        let Stage { sink, verifier, reported, threads, shutdown } = stage();
        let tasks = verifier.tasks(SOURCE, &shutdown.child());
        let mut count = 0;
        while !sink.has_been_helped() || count < 50 {
            take(&tasks, count, BYTES).unwrap();
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
    fn a_wrong_chunk_that_a_helper_finds_wakes_its_source_and_no_other() {
        let Stage { sink, verifier, reported, threads, shutdown } = stage();
        let (own, others) = (shutdown.child(), shutdown.child());
        let (tasks, other) = (verifier.tasks(SOURCE, &own), verifier.tasks(SourceId(8), &others));
        // Those that no helper takes are found wrong at once.
        while let Err(why) = take(&tasks, 1, b"something else") {
            assert!(matches!(why, SourceError::BadChunk { index: ChunkIndex(1), bytes: 14 }));
        }
        own.wait_forever();
        assert!(matches!(tasks.ended(), Some(SourceError::BadChunk { index: ChunkIndex(1), .. })));
        take(&other, 2, BYTES).unwrap();
        assert!(other.ended().is_none() && !others.is_stopped());
        assert_eq!((reported.len(), sink.0.lock().unwrap().len()), (1, 1));
        shutdown.trigger();
        threads.join();
    }

    #[test]
    fn chunks_that_are_too_large_for_the_helpers_are_verified_here() {
        let Stage { sink, verifier, threads, shutdown, .. } = stage();
        let tasks = verifier.tasks(SOURCE, &shutdown.child());
        let mut large = vec![0; VERIFY_MEMORY / 2 + 1];
        let digest = Digest::of(&large);
        for index in 0..3 {
            tasks.take(ChunkIndex(index), digest, &mut large, None).unwrap();
        }
        assert!(!sink.has_been_helped() && large.len() == VERIFY_MEMORY / 2 + 1);
        assert_eq!(verifier.helpers.load(Ordering::Relaxed), 0);
        shutdown.trigger();
        threads.join();
    }
}
