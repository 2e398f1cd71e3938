//! One source of a download: its reader, which workers pass on to each other, and its writer thread for requests.
//!
//! Invariants: a response without a request is a protocol error; a corrupt chunk is the reported cause of a
//! lost source, whatever else fails; after the loss of a source no further events of it are sent; every wait
//! has a deadline.

use super::batch::{Batch, Outcome};
use super::events::{Arrival, Job, SourceError, SourceEvent, SourceRole, SourceUpdate};
use super::source::PeerConnection;
use crate::content::digest::Hasher;
use crate::content::limits::{
    CHUNK_SIZE_MAX, CONNECT_TIMEOUT, KEEP_ALIVE_INTERVAL, LARGE_CHUNK_BLOCK_BYTES, LIMITED_PART_BYTES,
    VERIFY_FAST_RATE, VERIFY_PAUSE_MAX,
};
use crate::content::{ChunkIndex, Digest, FileId};
use crate::net::shutdown::Guard;
use crate::net::{FrameReader, FrameWriter, Shutdown, StreamError, Threads};
use crate::protocol::peer::{PeerRequest, PeerResponse};
use crate::protocol::{ErrorCode, PeerAddress};
use crate::storage::LargeChunkOutcome;
use crate::swarm::line_limit::LineKind;
use crate::swarm::picker::SourceId;
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A request in flight to a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Chunk(ChunkIndex),
    /// For a chunk of the source's choice.
    Next,
    /// As `Next`, after the stall timeout: the source is treated as one that chooses no chunks.
    LateNext,
}

/// Requests in flight to a source with the start of their stall timeouts, in order.
#[derive(Clone, Default)]
struct RequestQueue(Arc<Mutex<VecDeque<(InFlight, Instant)>>>);

impl RequestQueue {
    fn requests(&self) -> MutexGuard<'_, VecDeque<(InFlight, Instant)>> {
        lock(&self.0)
    }

    /// Whether the source is lost: its oldest request has waited as long as the stall timeout. A request for a chunk of
    /// its choice may wait for those of other peers: it has one more timeout (see [`note_late`](Self::note_late)), unless
    /// the source has been silent since `heard`.
    fn is_stalled(&self, heard: Instant, timeout: Duration) -> bool {
        self.requests().front().is_some_and(|(request, since)| match request {
            InFlight::Next => since.elapsed().min(heard.elapsed()) >= timeout,
            InFlight::Chunk(_) | InFlight::LateNext => since.elapsed() >= timeout,
        })
    }

    /// Restarts the stall timeout of a request for a chunk of the source's choice when it ends for the first time.
    /// Returns whether it has ended.
    fn note_late(&self, timeout: Duration) -> bool {
        match self.requests().front_mut() {
            Some((request @ InFlight::Next, since)) if since.elapsed() >= timeout => {
                (*request, *since) = (InFlight::LateNext, Instant::now());
                true
            }
            _ => false,
        }
    }
}

/// Commands to the writer thread of a source.
pub(super) enum SourceCommand {
    Chunk(ChunkIndex),
    /// Join the rings of a root.
    Join,
    /// Request a chunk of the source's choice, and report chunks: ranges of indices.
    Next(Vec<(ChunkIndex, ChunkIndex)>),
    /// Report to a root that its predecessor for this peer cannot be connected to.
    Unreachable(SocketAddr),
}

/// Number of chunk fragments received from a source.
pub(super) type FragmentCount = Arc<AtomicUsize>;

/// A source, shared by its reader and by the workers that verify its chunks. The last one of them
/// [releases](Self::release) it, which reports its loss.
pub(super) struct Source {
    pub id: SourceId,
    pub address: PeerAddress,
    pub job: Arc<Job>,
    pub events: Sender<SourceEvent>,
    pub fragments: FragmentCount,
    pub shutdown: Shutdown,
    /// Shutdown of the download.
    pub download: Shutdown,
    /// Cause of the loss.
    pub failure: Mutex<Option<SourceError>>,
}

impl Source {
    fn report(&self, update: SourceUpdate) {
        // Never blocks for long: the state thread drains these events as long as it lives and never waits for
        // this thread.
        let _ = self.events.send(SourceEvent { download: self.job.download, source: self.id, update });
    }

    /// Reports verified chunks.
    pub fn settle(&self, outcome: Outcome) {
        let Outcome { stored, refused, error } = outcome;
        if !stored.is_empty() {
            self.report(SourceUpdate::Stored(stored));
        }
        refused.into_iter().for_each(|index| self.report(SourceUpdate::Refused(index)));
        error.into_iter().for_each(|error| self.fail(error));
    }

    /// Records why the source is lost, and wakes its threads. A corrupt chunk and a failed disk take precedence over
    /// the error that ended the connection after it.
    pub fn fail(&self, error: SourceError) {
        let is_cause =
            |error: &SourceError| matches!(error, SourceError::BadChunk { .. } | SourceError::Store(_));
        let mut failure = lock(&self.failure);
        if failure.as_ref().is_none_or(|first| is_cause(&error) && !is_cause(first)) {
            *failure = Some(error);
        }
        drop(failure);
        self.shutdown.trigger();
    }

    /// Reports the loss of the source if this is the last reference to it.
    pub fn release(source: Arc<Self>) {
        let Some(source) = Arc::into_inner(source) else { return };
        let Some(error) = lock(&source.failure).take() else { return };
        let corrupt = match error {
            SourceError::BadChunk { index, .. } => Some(index),
            _ => None,
        };
        source.report(SourceUpdate::Lost(error));
        if let Some(index) = corrupt {
            source.report_corrupt(index);
        }
    }

    /// Tells the source that it sent a corrupt chunk: its file may have changed unnoticed. Best effort.
    fn report_corrupt(&self, index: ChunkIndex) {
        let shutdown = &self.download;
        let reported = PeerConnection::open(&self.address, None, self.job.timeouts, shutdown)
            .and_then(|connection| connection.report_corrupt(self.job.file, index, shutdown));
        if let Err(error) = reported {
            log::debug!("chunk {index} not reported to {} as corrupt: {error}", self.address);
        }
    }

    /// Counts a fragment, and waits as long as the download limit requires.
    fn received(&self, fragment: &[u8]) {
        self.fragments.fetch_add(1, Ordering::Relaxed);
        if let Some(limit) = &self.job.limit {
            limit.throttle(fragment.len() as u64, &self.shutdown);
        }
    }
}

/// Reader of the messages of a source. One worker at a time has it.
pub(super) struct SourceReader {
    pub source: Arc<Source>,
    reader: FrameReader,
    in_flight: RequestQueue,
    stall: Duration,
    /// When the last message arrived.
    heard: Instant,
    /// Whether the last chunk arrived so fast that the next ones are verified in batches, by several workers.
    is_fast: bool,
    _guard: Guard,
}

impl SourceReader {
    /// Connects to the source, reports its chunks, and starts the thread that sends it the requests in `commands`.
    ///
    /// # Errors
    /// The source is unreachable, does not have the file, or the connection was lost.
    pub fn connect(
        source: Arc<Source>,
        commands: Receiver<SourceCommand>,
        threads: &Threads,
    ) -> Result<Self, SourceError> {
        let job = &source.job;
        let identity = (job.port, job.site.clone());
        let (address, shutdown) = (&source.address, &source.shutdown);
        let mut connection =
            PeerConnection::open_within(CONNECT_TIMEOUT, address, identity, job.timeouts, shutdown)?;
        let stream = connection.stream.clone();
        let guard = source.shutdown.guard(&stream);
        let (have, role) = match job.subscribe {
            true => {
                let (have, role) = connection.have(job.file, job.count)?;
                (Some(have), role)
            }
            false => {
                connection.await_hello()?;
                (None, SourceRole::Ordinary)
            }
        };
        let is_near = connection.is_near(job.site.as_ref());
        let PeerConnection { mut reader, mut writer, stall, rtt, .. } = connection;
        if job.limit.is_some() {
            reader.set_part_bytes_max(LIMITED_PART_BYTES);
        }
        source.report(SourceUpdate::Connected { have, role, is_near, rtt });
        let in_flight = RequestQueue::default();
        let command_writer =
            CommandWriter { file: job.file, in_flight: in_flight.clone(), shutdown: source.shutdown.clone() };
        threads.spawn("fetch-ask", move || command_writer.run(&commands, &mut writer, &stream))?;
        Ok(Self { source, reader, in_flight, stall, heard: Instant::now(), is_fast: false, _guard: guard })
    }

    /// Receives messages until the chunks in the batch must be verified: no further chunk is on the way, or the batch
    /// [is due](Batch::is_due). Returns whether another worker should go on reading meanwhile.
    ///
    /// # Errors
    /// The connection was lost, or the source violated the protocol. Chunks that were received before are in the batch.
    pub fn receive(&mut self, batch: &mut Batch) -> Result<bool, SourceError> {
        let mut last = Instant::now();
        while !self.source.shutdown.is_stopped() {
            let is_empty = batch.is_empty();
            match self.reader.message(if is_empty { self.stall } else { VERIFY_PAUSE_MAX }) {
                Ok(message) => {
                    self.heard = Instant::now();
                    self.take(message, batch, &mut last)?;
                    if self.in_flight.note_late(self.stall) {
                        self.source.report(SourceUpdate::Spent);
                    }
                }
                Err(StreamError::TimedOut) if !is_empty => return Ok(false),
                Err(StreamError::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
            // Also after a message: other messages do not extend the deadline of a request for a certain chunk.
            if self.in_flight.is_stalled(self.heard, self.stall) {
                return Err(StreamError::TimedOut.into());
            }
            let is_idle = self.in_flight.requests().is_empty();
            match is_idle {
                true if !batch.is_empty() => return Ok(false),
                false if batch.is_due() => return Ok(batch.is_full() && self.is_fast),
                _ => {}
            }
        }
        Err(SourceError::Stopped)
    }

    fn take(
        &mut self,
        message: PeerResponse,
        batch: &mut Batch,
        last: &mut Instant,
    ) -> Result<(), SourceError> {
        let source = self.source.clone();
        let job = &source.job;
        match message {
            PeerResponse::Chunk { file, index, length } => {
                let mut queue = self.in_flight.requests();
                let (front, more) = (queue.pop_front(), !queue.is_empty());
                drop(queue);
                match front.map(|(front, _)| front) {
                    _ if file != job.file => {
                        return Err(SourceError::Protocol(format!("chunk {index} is of another file")));
                    }
                    Some(InFlight::Next | InFlight::LateNext) => source.report(SourceUpdate::Gives(index)),
                    Some(requested) if requested == InFlight::Chunk(index) => {}
                    _ => return Err(SourceError::Protocol(format!("chunk {index} came out of turn"))),
                }
                self.chunk((index, length), more, batch)?;
                let now = Instant::now();
                let fast = Duration::from_secs_f64(length as f64 / VERIFY_FAST_RATE as f64);
                self.is_fast = now - std::mem::replace(last, now) < fast.max(VERIFY_PAUSE_MAX);
                // Responses come in order, so the time of the next request starts here.
                if let Some((_, since)) = self.in_flight.requests().front_mut() {
                    *since = now;
                }
                Ok(())
            }
            PeerResponse::Error { code, text, index } => {
                let front = self.in_flight.requests().pop_front().map(|(request, _)| request);
                match (front, index) {
                    // The source no longer has the file at all.
                    _ if job.subscribe && matches!(code, ErrorCode::Changed | ErrorCode::NotFound) => {
                        Err(SourceError::Refused(format!("{text} ({})", describe(code))))
                    }
                    (Some(front), Some(index)) if front == InFlight::Chunk(index) => {
                        source.report(match code {
                            ErrorCode::Busy | ErrorCode::Internal => {
                                SourceUpdate::Unable { index, cause: text }
                            }
                            _ => {
                                let (address, cause) = (&source.address, describe(code));
                                let line = || format!("{address} refused chunk {index}: {text} ({cause})");
                                job.lines.info(address.first().ip(), LineKind::Refusals, line);
                                SourceUpdate::Refused(index)
                            }
                        });
                        Ok(())
                    }
                    _ => Err(SourceError::Refused(text)),
                }
            }
            PeerResponse::Got { file, chunks } if file == job.file => {
                source.report(SourceUpdate::Has(chunks));
                Ok(())
            }
            PeerResponse::Coming { file, index } if file.is_none_or(|file| file == job.file) => {
                source.report(SourceUpdate::Receives(index));
                Ok(())
            }
            PeerResponse::Place { file, ring, peer } if file == job.file => {
                source.report(SourceUpdate::Place { ring: usize::from(ring), peer });
                Ok(())
            }
            PeerResponse::Spent { file, answer } if file == job.file => {
                let is_next = |request| matches!(request, InFlight::Next | InFlight::LateNext);
                if answer && !self.in_flight.requests().pop_front().is_some_and(|(front, _)| is_next(front)) {
                    return Err(SourceError::Protocol("a chunk was refused out of turn".to_owned()));
                }
                source.report(SourceUpdate::Spent);
                Ok(())
            }
            PeerResponse::Peers { file, peers } if file == job.file => {
                source.report(SourceUpdate::Peers(peers));
                Ok(())
            }
            PeerResponse::Pong => Ok(()),
            other => Err(SourceError::Protocol(format!("unexpected message {other:?}"))),
        }
    }

    fn chunk(
        &mut self,
        (index, length): (ChunkIndex, u64),
        more: bool,
        batch: &mut Batch,
    ) -> Result<(), SourceError> {
        let Self { source, reader, .. } = self;
        let job = &source.job;
        let Some((digest, expected)) = job.expected.expected(index) else {
            return Err(SourceError::Protocol(format!("chunk {index} has no known digest")));
        };
        if length != expected {
            let text = format!("chunk {index} came with {length} bytes instead of {expected}");
            return Err(SourceError::Protocol(text));
        }
        if length > CHUNK_SIZE_MAX.into() {
            source.settle(batch.verify(job));
            let mut received = 0;
            let result = self.large_chunk((index, length), digest, &mut received);
            self.source.job.large_chunk_bytes.fetch_sub(received, Ordering::Relaxed);
            return result;
        }
        let bytes = length as usize;
        if !batch.fits(bytes) {
            source.settle(batch.verify(job));
        }
        let relay_writer = job.relay.as_ref().and_then(|relay| relay.begin(job.file, index, bytes as u32));
        let (waiting, complete, space) = batch.space(bytes, more && self.is_fast);
        let pause = if complete.is_empty() { Duration::MAX } else { VERIFY_PAUSE_MAX };
        reader.payload_in_parts(space, pause, |fragment| {
            if fragment.is_empty() || waiting.is_due() {
                source.settle(waiting.verify(complete, job));
            }
            if let Some(relay_writer) = &relay_writer {
                relay_writer.push(fragment);
            }
            source.received(fragment);
        })?;
        batch.push(index, digest, bytes, relay_writer);
        Ok(())
    }

    /// Hashes and writes a chunk that is too large for the memory while it arrives, and stores it if its digest is right.
    /// `received` counts its bytes.
    fn large_chunk(
        &mut self,
        (index, length): (ChunkIndex, u64),
        digest: Digest,
        received: &mut u64,
    ) -> Result<(), SourceError> {
        let Self { source, reader, .. } = self;
        let mut chunk = source.job.sink.begin(index, digest, length)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; LARGE_CHUNK_BLOCK_BYTES];
        while *received < length {
            let block = &mut buffer[..(length - *received).min(LARGE_CHUNK_BLOCK_BYTES as u64) as usize];
            reader.payload_in_parts(block, Duration::MAX, |fragment| source.received(fragment))?;
            hasher.update(block);
            chunk.write(block)?;
            *received += block.len() as u64;
            source.job.large_chunk_bytes.fetch_add(block.len() as u64, Ordering::Relaxed);
        }
        if hasher.finish() != digest {
            return Err(SourceError::BadChunk { index, bytes: length });
        }
        source.report(match chunk.finish()? {
            LargeChunkOutcome::Stored => SourceUpdate::Stored(vec![Arrival { index, bytes: length }]),
            LargeChunkOutcome::Unwanted => SourceUpdate::Refused(index),
            LargeChunkOutcome::TakenOver => {
                SourceUpdate::Unable { index, cause: "another source sends it".to_owned() }
            }
        });
        Ok(())
    }
}

/// Describes an error code in words.
fn describe(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Changed => "changed",
        ErrorCode::NotFound | ErrorCode::NotHere => "not found",
        ErrorCode::Busy => "busy",
        _ => "internal error",
    }
}

/// Writer thread of a source.
struct CommandWriter {
    file: FileId,
    in_flight: RequestQueue,
    shutdown: Shutdown,
}

impl CommandWriter {
    fn run(self, commands: &Receiver<SourceCommand>, writer: &mut FrameWriter, stream: &TcpStream) {
        loop {
            let requests: Vec<PeerRequest> = crossbeam_channel::select! {
                recv(self.shutdown.signal()) -> _ => break,
                recv(commands) -> command => match command {
                    // Those that wait are sent with it, in one write.
                    Ok(command) => {
                        [command].into_iter().chain(commands.try_iter()).map(|command| self.request(command)).collect()
                    }
                    Err(_) => break,
                },
                default(KEEP_ALIVE_INTERVAL) => vec![PeerRequest::Ping],
            };
            if writer.send_all(&requests).is_err() {
                break;
            }
        }
        // Ends the reader as well.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }

    /// The request for a command. A chunk counts as in flight from now on.
    fn request(&self, command: SourceCommand) -> PeerRequest {
        let file = self.file;
        match command {
            SourceCommand::Join => PeerRequest::Join { file },
            SourceCommand::Unreachable(peer) => PeerRequest::Unreachable { file, peer },
            SourceCommand::Next(have) => {
                self.in_flight.requests().push_back((InFlight::Next, Instant::now()));
                PeerRequest::Next { file, have }
            }
            SourceCommand::Chunk(index) => {
                self.in_flight.requests().push_back((InFlight::Chunk(index), Instant::now()));
                PeerRequest::Chunk { file, index }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3_600);

    fn long_ago() -> Instant {
        Instant::now().checked_sub(TIMEOUT).unwrap()
    }

    #[test]
    fn a_request_for_a_certain_chunk_has_one_stall_timeout_whatever_else_the_source_sends() {
        let in_flight = RequestQueue::default();
        assert!(!in_flight.is_stalled(long_ago(), TIMEOUT), "nothing was requested");
        in_flight.requests().push_back((InFlight::Chunk(ChunkIndex(3)), long_ago()));
        assert!(!in_flight.note_late(TIMEOUT));
        assert!(in_flight.is_stalled(Instant::now(), TIMEOUT));
    }

    #[test]
    fn a_request_for_any_chunk_has_a_second_stall_timeout_if_the_source_sends_messages() {
        let in_flight = RequestQueue::default();
        in_flight.requests().push_back((InFlight::Next, Instant::now()));
        assert!(!in_flight.note_late(TIMEOUT) && !in_flight.is_stalled(long_ago(), TIMEOUT));
        in_flight.requests()[0].1 = long_ago();
        assert!(in_flight.is_stalled(long_ago(), TIMEOUT), "the source is silent");
        assert!(!in_flight.is_stalled(Instant::now(), TIMEOUT));
        assert!(in_flight.note_late(TIMEOUT), "now the source counts as one that chooses no chunks");
        assert!(!in_flight.note_late(TIMEOUT) && !in_flight.is_stalled(Instant::now(), TIMEOUT));
        in_flight.requests()[0].1 = long_ago();
        assert!(in_flight.is_stalled(Instant::now(), TIMEOUT), "messages extend it no further");
    }
}
