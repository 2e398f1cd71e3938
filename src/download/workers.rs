//! Workers: threads that receive, verify and store the chunks of a download, as leader and followers.
//!
//! A worker that reads a connection (its leader) receives a [`Batch`] of chunks into one buffer. If the batch is full and
//! the source is fast, it passes the connection on to a free worker (a follower, see [`HandOver`]), and hashes and stores
//! the batch itself. So each core has one thread that does all the work for a batch: chunks are not handed between
//! threads, and a connection waits only while all cores are busy (backpressure). Each source brings one worker; with fewer
//! sources than cores, further ones are started when the first full batch is passed on.
//!
//! A batch ends when it is full, and its worker keeps the connection when it ends early: when no further chunk was
//! requested, nothing arrives for [`VERIFY_PAUSE_MAX`](crate::content::limits::VERIFY_PAUSE_MAX), a chunk has waited for
//! [`VERIFY_BATCH_TIMEOUT`](crate::content::limits::VERIFY_BATCH_TIMEOUT), or a chunk is relayed, whose receivers wait for
//! its last bytes. A slow source therefore has batches of one chunk.
//!
//! The state thread hears of whole batches. It keeps requests for three batches in flight to a fast source: two that are
//! verified and one on the way; the writer thread of the source sends those for one batch in one write.
//!
//! Memory: the buffers of batches are shared by the download; without one, and for chunks of which fewer than three fit
//! in a batch, a worker receives each chunk into a buffer of its own.
//!
//! Invariant: each result of a source is reported before its loss, since the last worker that holds the source
//! [releases](Source::release) it.

use super::batch::{Batch, BatchBuffers};
use super::handover::HandOver;
use super::source_reader::{Source, SourceCommand, SourceReader};
use crate::content::limits::VERIFY_WORKERS_MAX;
use crate::net::Threads;
use crossbeam_channel::Receiver;
use std::sync::Arc;
use std::thread;

/// Workers of one download. Clones share them.
#[derive(Clone)]
pub(super) struct Workers {
    readers: Arc<HandOver<SourceReader>>,
    buffers: Arc<BatchBuffers>,
    threads: Threads,
}

impl Workers {
    /// Workers that are spawned in `threads`.
    pub fn new(threads: &Threads) -> Self {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        Self {
            readers: Arc::new(HandOver::new(cores.min(VERIFY_WORKERS_MAX))),
            buffers: Arc::default(),
            threads: threads.clone(),
        }
    }

    /// Connects to a source, and works for all sources as long as one thread for each of them is needed.
    pub fn run(&self, source: Arc<Source>, commands: Receiver<SourceCommand>) {
        match SourceReader::connect(source.clone(), commands, &self.threads) {
            Ok(reader) => {
                drop(source);
                self.readers.begin();
                self.work(Some(reader));
            }
            Err(error) => {
                source.fail(error);
                Source::release(source);
            }
        }
    }

    /// Receives batches from the sources, and verifies and stores each one.
    fn work(&self, mut first: Option<SourceReader>) {
        let mut batch = Batch::new(self.buffers.clone());
        while let Some(mut reader) = first.take().or_else(|| self.readers.next()) {
            let source = reader.source.clone();
            match reader.receive(&mut batch) {
                Ok(true) => self.pass_on(reader),
                Ok(false) => first = Some(reader),
                Err(error) => {
                    source.fail(error);
                    drop(reader);
                    self.readers.end();
                }
            }
            source.settle(batch.verify(&source.job));
            Source::release(source);
        }
    }

    fn pass_on(&self, reader: SourceReader) {
        if self.readers.pass_on(reader) {
            let workers = self.clone();
            if let Err(error) = self.threads.spawn("verify", move || workers.work(None)) {
                self.readers.not_started();
                log::debug!("cannot start a thread to verify chunks: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::events::{Expected, SourceError, SourceEvent, SourceUpdate};
    use super::super::staging::job;
    use super::*;
    use crate::content::{ChunkIndex, Digest, Manifest};
    use crate::net::{Listener, Shutdown};
    use crate::storage::{ChunkSink, ChunkSource as _, CompleteFile, StoreError};
    use crate::swarm::picker::SourceId;
    use crate::upload::offers::Offers;
    use crate::upload::server::{ServeOptions, serve};
    use crossbeam_channel::bounded;
    use std::sync::Mutex;

    const CHUNK_BYTES: u32 = 16 * 1024;
    const COUNT: u32 = 200;
    const CORRUPT: ChunkIndex = ChunkIndex(150);

    /// Records stored chunks.
    #[derive(Default)]
    struct Sink(Mutex<Vec<u32>>);

    impl ChunkSink for Sink {
        fn store(&self, index: ChunkIndex, digest: Digest, bytes: &[u8]) -> Result<bool, StoreError> {
            assert_eq!(Digest::of(bytes), digest, "stored before it was verified");
            self.0.lock().unwrap().push(index.0);
            Ok(true)
        }
    }

    /// A manifest with a digest that the bytes of one chunk do not match.
    struct OneWrong(Arc<Manifest>);

    impl Expected for OneWrong {
        fn expected(&self, index: ChunkIndex) -> Option<(Digest, u64)> {
            let (digest, length) = self.0.expected(index)?;
            Some((if index == CORRUPT { Digest([0; 32]) } else { digest }, length))
        }
    }

    /// Requests all chunks from a server, ends the source after `stop_after` events, and returns all events and the
    /// stored chunks.
    fn download(is_corrupt: bool, stop_after: Option<usize>) -> (Vec<SourceUpdate>, Vec<u32>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..COUNT * CHUNK_BYTES).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, bytes).unwrap();
        let file = Arc::new(CompleteFile::publish(&path, Some(CHUNK_BYTES), &|_| (), &|| false).unwrap());
        let (threads, shutdown, offers) = (Threads::new(), Shutdown::new(), Offers::new());
        offers.put(file.id(), file.clone());
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.address();
        serve(listener, offers, &ServeOptions::default(), None, &threads, &shutdown).unwrap();

        let (sink, manifest) = (Arc::new(Sink::default()), file.manifest().unwrap());
        let mut job = job(COUNT, sink.clone());
        job.file = file.id();
        job.expected = if is_corrupt { Arc::new(OneWrong(manifest)) } else { manifest };
        let (events, reported) = crossbeam_channel::unbounded();
        let (commands, requests) = bounded(COUNT as usize);
        (0..COUNT).for_each(|index| commands.send(SourceCommand::Chunk(ChunkIndex(index))).unwrap());
        let source = Source {
            id: SourceId(7),
            address: address.into(),
            job: Arc::new(job),
            events,
            fragments: Arc::default(),
            shutdown: shutdown.child(),
            download: shutdown.clone(),
            failure: Mutex::default(),
        };
        let ends = source.shutdown.clone();
        let sources = Threads::new();
        let workers = Workers::new(&sources);
        sources.spawn("fetch", move || workers.run(Arc::new(source), requests)).unwrap();
        let mut updates = Vec::new();
        // Closed when all workers have ended.
        for SourceEvent { update, .. } in &reported {
            let count = |update: &SourceUpdate| match update {
                SourceUpdate::Stored(arrivals) => arrivals.len(),
                _ => 0,
            };
            updates.push(update);
            if stop_after.is_some_and(|stop| updates.iter().map(count).sum::<usize>() >= stop) {
                ends.trigger();
            }
        }
        sources.join();
        shutdown.trigger();
        threads.join();
        let mut stored = std::mem::take(&mut *sink.0.lock().unwrap());
        stored.sort_unstable();
        (updates, stored)
    }

    fn reported(updates: &[SourceUpdate]) -> Vec<u32> {
        let arrivals = updates.iter().filter_map(|update| match update {
            SourceUpdate::Stored(arrivals) => Some(arrivals.iter().map(|arrival| arrival.index.0)),
            _ => None,
        });
        let mut reported: Vec<u32> = arrivals.flatten().collect();
        reported.sort_unstable();
        reported
    }

    #[test]
    fn every_chunk_is_stored_once_and_reported_before_the_source_is_lost() {
        let (updates, stored) = download(false, Some(COUNT as usize));
        assert!(stored.iter().copied().eq(0..COUNT) && reported(&updates) == stored);
        assert!(matches!(updates.first(), Some(SourceUpdate::Connected { .. })));
        assert!(matches!(updates.last(), Some(SourceUpdate::Lost(_))));
    }

    #[test]
    fn a_source_that_is_stopped_reports_all_stored_chunks_first() {
        let (updates, stored) = download(false, Some(1));
        assert!(!stored.is_empty() && reported(&updates) == stored);
        assert!(matches!(updates.last(), Some(SourceUpdate::Lost(_))));
    }

    #[test]
    fn a_corrupt_chunk_is_the_reported_cause_of_the_loss_and_is_not_stored() {
        let (updates, stored) = download(true, None);
        assert!(!stored.contains(&CORRUPT.0) && reported(&updates) == stored);
        // The chunks requested before it arrived before it.
        assert!(stored.iter().copied().take(CORRUPT.0 as usize).eq(0..CORRUPT.0));
        let bad = |update: &SourceUpdate| {
            matches!(update, SourceUpdate::Lost(SourceError::BadChunk { index: CORRUPT, bytes: 16_384 }))
        };
        assert!(updates.last().is_some_and(bad));
    }
}
