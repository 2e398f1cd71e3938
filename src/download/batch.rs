//! Batch of received chunks that one worker verifies and stores together.
//!
//! SHA-256 is the largest CPU cost of a download; hashing several chunks together ([`Digest::of_each`]) takes a half to
//! a third of the time. The chunks of a batch are received behind each other into one buffer.
//!
//! Invariants: a chunk is stored only after its SHA-256 matched; the buffers of all batches of a download have at most
//! [`VERIFY_MEMORY_BYTES`] bytes; a worker that gets none of them verifies each chunk alone.

use super::events::{Arrival, Job, SourceError};
use crate::content::limits::{
    VERIFY_BATCH_BYTES, VERIFY_BATCH_CHUNKS_MIN, VERIFY_BATCH_TIMEOUT, VERIFY_MEMORY_BYTES,
};
use crate::content::{ChunkIndex, Digest, hash_lanes};
use crate::sync::lock;
use crate::upload::relay::PartialChunkWriter;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Buffers for batches of several chunks, shared by the workers of a download.
pub(super) struct BatchBuffers {
    spare: Mutex<Spare>,
    /// Held while the chunks of a batch are stored: workers that took turns for each chunk would end at the same time, and
    /// none of them would read meanwhile.
    storing: Mutex<()>,
}

struct Spare {
    buffers: Vec<Vec<u8>>,
    /// Bytes of further buffers that may be allocated.
    remaining: usize,
}

impl Default for BatchBuffers {
    fn default() -> Self {
        let spare = Spare { buffers: Vec::new(), remaining: VERIFY_MEMORY_BYTES };
        Self { spare: Mutex::new(spare), storing: Mutex::default() }
    }
}

impl BatchBuffers {
    /// A buffer of at least `bytes` bytes; `None` while other batches use the memory.
    fn take(&self, bytes: usize) -> Option<Vec<u8>> {
        let mut spare = lock(&self.spare);
        // The last one is still in the cache.
        if let Some(at) = spare.buffers.iter().rposition(|buffer| buffer.len() >= bytes) {
            return Some(spare.buffers.remove(at));
        }
        while spare.remaining < bytes {
            spare.remaining += spare.buffers.pop()?.len();
        }
        spare.remaining -= bytes;
        Some(vec![0; bytes])
    }

    fn put(&self, buffer: Vec<u8>) {
        lock(&self.spare).buffers.push(buffer);
    }
}

/// Number of chunks of this many bytes that are verified together; 1 if together they would take as long as one by one.
fn batch_length(chunk_bytes: usize) -> usize {
    match (VERIFY_BATCH_BYTES / chunk_bytes.max(1)).min(hash_lanes()) {
        length @ VERIFY_BATCH_CHUNKS_MIN.. => length,
        _ => 1,
    }
}

/// A complete chunk that has not been verified.
struct ReceivedChunk {
    index: ChunkIndex,
    digest: Digest,
    place: Range<usize>,
    /// Relay of the chunk, if any: its receivers wait for the last bytes.
    relay_writer: Option<PartialChunkWriter>,
}

/// Result of the verification of chunks.
#[derive(Default)]
pub(super) struct Outcome {
    pub stored: Vec<Arrival>,
    /// Chunks that are not wanted any more.
    pub refused: Vec<ChunkIndex>,
    /// The first error.
    pub error: Option<SourceError>,
}

/// The chunks of a batch that wait to be verified.
pub(super) struct Waiting {
    buffers: Arc<BatchBuffers>,
    chunks: Vec<ReceivedChunk>,
    /// Time at which they are verified even if the batch is not full: at once if one of them is relayed.
    due: Option<Instant>,
}

impl Waiting {
    /// Whether a chunk has waited long enough for others.
    pub fn is_due(&self) -> bool {
        self.due.is_some_and(|due| due <= Instant::now())
    }

    fn push(&mut self, chunk: ReceivedChunk) {
        let timeout = if chunk.relay_writer.is_some() { Duration::ZERO } else { VERIFY_BATCH_TIMEOUT };
        let due = Instant::now() + timeout;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        self.chunks.push(chunk);
    }

    /// Verifies and stores the chunks in `buffer`; then none is waiting.
    pub fn verify(&mut self, buffer: &[u8], job: &Job) -> Outcome {
        self.due = None;
        let mut outcome = Outcome::default();
        let alike = |one: &ReceivedChunk, other: &ReceivedChunk| one.place.len() == other.place.len();
        let groups = self.chunks.chunk_by(alike).map(|group| {
            Digest::of_each(&group.iter().map(|chunk| &buffer[chunk.place.clone()]).collect::<Vec<_>>())
        });
        let digests: Vec<Digest> = groups.flatten().collect();
        let _storing = (digests.len() > 1).then(|| lock(&self.buffers.storing));
        for (chunk, digest) in self.chunks.drain(..).zip(digests) {
            let bytes = &buffer[chunk.place.clone()];
            // A second, independent hash before a source is banned.
            let is_valid = digest == chunk.digest || Digest::of(bytes) == chunk.digest;
            match is_valid.then(|| job.sink.store(chunk.index, chunk.digest, bytes)) {
                Some(Ok(true)) => {
                    match (chunk.relay_writer, &job.relay) {
                        (Some(relay_writer), _) => relay_writer.verified(),
                        (None, Some(relay)) => relay.complete(job.file, chunk.index, bytes),
                        (None, None) => {}
                    }
                    outcome.stored.push(Arrival { index: chunk.index, bytes: bytes.len() as u64 });
                }
                Some(Ok(false)) => outcome.refused.push(chunk.index),
                Some(Err(error)) => _ = outcome.error.get_or_insert(error.into()),
                None => {
                    let error = SourceError::BadChunk { index: chunk.index, bytes: bytes.len() as u64 };
                    outcome.error.get_or_insert(error);
                }
            }
        }
        outcome
    }
}

/// Chunks that one worker receives from one source and verifies together.
pub(super) struct Batch {
    buffer: Vec<u8>,
    /// Whether the buffer is one of `buffers`.
    is_shared: bool,
    /// End of the last complete chunk in the buffer.
    end: usize,
    waiting: Waiting,
}

impl Batch {
    /// An empty batch.
    pub fn new(buffers: Arc<BatchBuffers>) -> Self {
        let waiting = Waiting { buffers, chunks: Vec::new(), due: None };
        Self { buffer: Vec::new(), is_shared: false, end: 0, waiting }
    }

    /// Whether no chunk waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.chunks.is_empty()
    }

    /// Whether the chunks must be verified now.
    pub fn is_due(&self) -> bool {
        self.is_full() || self.waiting.is_due()
    }

    /// Whether there is no space for another chunk as long as the last one.
    pub fn is_full(&self) -> bool {
        self.waiting.chunks.last().is_some_and(|chunk| !self.fits(chunk.place.len()))
    }

    /// Whether there is space for a chunk of `length` bytes, or the batch is empty.
    pub fn fits(&self, length: usize) -> bool {
        self.is_empty() || self.buffer.len() - self.end >= length
    }

    /// Space for the next chunk, and the chunks that wait with the bytes before it. With `expects_more` the batch can
    /// take further chunks afterwards, if there is memory. The chunk must [fit](Self::fits).
    pub fn space(&mut self, length: usize, expects_more: bool) -> (&mut Waiting, &[u8], &mut [u8]) {
        let count = batch_length(length);
        if self.is_empty() {
            self.end = 0;
            if expects_more
                && count > 1
                && !self.is_shared
                && let Some(shared) = self.waiting.buffers.take(count * length)
            {
                (self.buffer, self.is_shared) = (shared, true);
            }
            if !self.is_shared {
                self.buffer.resize(length, 0);
            }
        }
        let (complete, space) = self.buffer.split_at_mut(self.end);
        (&mut self.waiting, complete, &mut space[..length])
    }

    /// Adds the chunk whose bytes are in the [space](Self::space).
    pub fn push(
        &mut self,
        index: ChunkIndex,
        digest: Digest,
        length: usize,
        relay_writer: Option<PartialChunkWriter>,
    ) {
        let place = self.end..self.end + length;
        self.end = place.end;
        self.waiting.push(ReceivedChunk { index, digest, place, relay_writer });
    }

    /// Verifies and stores the chunks, and empties the batch.
    pub fn verify(&mut self, job: &Job) -> Outcome {
        let outcome = self.waiting.verify(&self.buffer, job);
        self.end = 0;
        if std::mem::take(&mut self.is_shared) {
            self.waiting.buffers.put(std::mem::take(&mut self.buffer));
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::super::staging::job;
    use super::*;
    use crate::storage::{ChunkSink, StoreError};

    /// Records stored chunks. Chunk 90 cannot be stored, and chunk 91 is not wanted.
    #[derive(Default)]
    struct Sink(Mutex<Vec<u32>>);

    impl ChunkSink for Sink {
        fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
            assert_eq!(Digest::of(bytes), digest, "stored before it was verified");
            self.0.lock().unwrap().push(index.0);
            match index.0 {
                90 => Err(StoreError::Stopped),
                index => Ok(index != 91),
            }
        }
    }

    fn receive(batch: &mut Batch, index: u32, bytes: &[u8], expects_more: bool) {
        let (_, complete, space) = batch.space(bytes.len(), expects_more);
        space.copy_from_slice(bytes);
        assert!(complete.len() % bytes.len() == 0);
        batch.push(ChunkIndex(index), Digest::of(bytes), bytes.len(), None);
    }

    fn indices(outcome: &Outcome) -> Vec<u32> {
        outcome.stored.iter().map(|arrival| arrival.index.0).collect()
    }

    #[test]
    fn a_batch_takes_as_many_chunks_as_are_verified_together() {
        let (sink, buffers) = (Arc::new(Sink::default()), Arc::new(BatchBuffers::default()));
        let (job, mut batch) = (job(100, sink.clone()), Batch::new(buffers));
        let length = batch_length(100);
        for index in 0..length as u32 {
            assert!(!batch.is_full() && batch.fits(100));
            receive(&mut batch, index, &[index as u8; 100], true);
        }
        assert!(batch.is_full() && batch.is_due() && !batch.fits(1));
        let outcome = batch.verify(&job);
        assert!(indices(&outcome).into_iter().eq(0..length as u32) && outcome.error.is_none());
        assert!(batch.is_empty() && !batch.is_due());
        // Without the prospect of more, one chunk is a batch.
        receive(&mut batch, 50, &[1; 100], false);
        assert!(batch.is_full());
        assert_eq!(indices(&batch.verify(&job)), [50]);
    }

    #[test]
    fn a_corrupt_chunk_does_not_keep_the_others_of_its_batch_from_being_stored() {
        let (sink, buffers) = (Arc::new(Sink::default()), Arc::new(BatchBuffers::default()));
        let (job, mut batch) = (job(100, sink.clone()), Batch::new(buffers));
        let (bytes, lengths) = ([5; 100], [100, 60, 100, 100]);
        for (index, length) in [1, 7, 91, 90].into_iter().zip(lengths) {
            batch.space(length, true).2.copy_from_slice(&bytes[..length]);
            let digest = if index == 7 { Digest([0; 32]) } else { Digest::of(&bytes[..length]) };
            batch.push(ChunkIndex(index), digest, length, None);
        }
        let Outcome { stored, refused, error } = batch.verify(&job);
        assert_eq!(stored, [Arrival { index: ChunkIndex(1), bytes: 100 }]);
        assert_eq!(refused, [ChunkIndex(91)]);
        assert!(matches!(error, Some(SourceError::BadChunk { index: ChunkIndex(7), bytes: 60 })));
        assert_eq!(*sink.0.lock().unwrap(), [1, 91, 90]);
    }

    #[test]
    fn chunks_that_wait_are_verified_while_the_next_one_arrives() {
        let (sink, buffers) = (Arc::new(Sink::default()), Arc::new(BatchBuffers::default()));
        let (job, mut batch) = (job(100, sink.clone()), Batch::new(buffers));
        receive(&mut batch, 1, &[1; 100], true);
        let (waiting, complete, space) = batch.space(100, true);
        assert_eq!(indices(&waiting.verify(complete, &job)), [1]);
        space.fill(2);
        batch.push(ChunkIndex(2), Digest::of(&[2; 100]), 100, None);
        assert_eq!(indices(&batch.verify(&job)), [2]);
    }

    #[test]
    fn buffers_of_all_batches_are_limited_and_reused() {
        let buffers = Arc::new(BatchBuffers::default());
        let length = VERIFY_BATCH_BYTES / hash_lanes().max(VERIFY_BATCH_CHUNKS_MIN);
        let mut batches: Vec<Batch> =
            (0..VERIFY_MEMORY_BYTES / length).map(|_| Batch::new(buffers.clone())).collect();
        let shared = |batch: &mut Batch, length| {
            batch.space(length, true);
            batch.is_shared
        };
        let count =
            batches.iter_mut().map(|batch| shared(batch, length)).filter(|is_shared| *is_shared).count();
        let most =
            if batch_length(length) > 1 { VERIFY_MEMORY_BYTES / (batch_length(length) * length) } else { 0 };
        assert_eq!(count, most);
        // A batch that got no shared memory is full with one chunk.
        let bytes = vec![1; length];
        let last = batches.last_mut().unwrap();
        receive(last, 1, &bytes, true);
        assert!(last.is_full());
        // Spare buffers that are too small make room for a larger one.
        let job = job(9, Arc::new(Sink::default()));
        batches.iter_mut().for_each(|batch| _ = batch.verify(&job));
        drop(batches);
        let larger =
            (length + 1..).find(|length| batch_length(*length) < batch_length(*length - 1)).unwrap() - 1;
        assert_eq!(shared(&mut Batch::new(buffers.clone()), larger), batch_length(larger) > 1);
        // A chunk of which fewer than three fit in a batch is verified alone.
        assert!(!shared(&mut Batch::new(buffers), VERIFY_BATCH_BYTES / 2));
    }
}
