//! Connection to one source of a download: a reader thread and a writer thread for requests.
//!
//! Received chunks are verified and stored by the download's `Verifier`, which has helper threads.
//! Invariants: a response without a request is a protocol error; a corrupt chunk is the reported cause of a
//! lost source, whatever else fails; after the loss of a source no further events of it are sent; every wait
//! has a deadline.

use super::events::{Arrival, Job, SourceError, SourceEvent, SourceUpdate};
use super::verifier::{SourceVerifier, Verifier};
use crate::content::digest::Hasher;
use crate::content::limits::{
    CHUNK_SIZE_MAX, CONNECT_TIMEOUT, KEEP_ALIVE_INTERVAL, LARGE_CHUNK_BLOCK_BYTES, LIMITED_PART_BYTES,
    NAMED_PEERS_MAX, PEER_LIST_MAX, PROTOCOL_VERSION,
};
use crate::content::{Bitfield, ChunkIndex, Digest, FileId, Manifest, PeerName};
use crate::net::dial::dial_any_within;
use crate::net::framed_stream::split;
use crate::net::{FrameReader, FrameWriter, Shutdown, StreamError, Threads, Timeouts};
use crate::protocol::payload::manifest_payload_length;
use crate::protocol::peer::{PeerRequest, PeerResponse};
use crate::protocol::tokens::{KeyPrint, Nonce, ReportId};
use crate::protocol::tracker::OfferedFile;
use crate::protocol::{ErrorCode, PeerAddress};
use crate::storage::LargeChunkOutcome;
use crate::swarm::picker::SourceId;
use crate::swarm::rings::Site;
use crate::sync::lock;
use crate::tracker_client::lookup::Query;
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Response of a volunteer to a demand for a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofResponse {
    /// The proof, which has yet to be compared.
    Proof(Digest),
    /// The volunteer, identified by its key, does not hold the chunk.
    NotHere,
    /// The volunteer is not there, is busy or cannot read the chunk; the reason.
    CannotTell(String),
}

/// An open connection to a peer. Hello and the first request are sent together and so cost one RTT.
pub struct PeerConnection {
    reader: FrameReader,
    writer: FrameWriter,
    stream: Arc<TcpStream>,
    /// Timeout until the first byte of a response.
    stall: Duration,
    /// Send time and timeout of the hello; `None` once it has been answered.
    hello: Option<(Instant, Duration)>,
    /// Lowest RTT measured so far.
    rtt: Duration,
    /// Site that the peer names in its hello, if any.
    site: Option<PeerName>,
}

impl PeerConnection {
    /// Connects and sends hello; the response is read together with the response to the first request. `port`
    /// is the port on which this peer serves, if any.
    ///
    /// # Errors
    /// The peer is unreachable.
    pub fn open(
        address: &PeerAddress,
        port: Option<u16>,
        timeouts: Timeouts,
        shutdown: &Shutdown,
    ) -> Result<Self, SourceError> {
        Self::open_within(CONNECT_TIMEOUT, address, (port, None), timeouts, shutdown)
    }

    /// As [`open`](Self::open), with a shorter timeout for the connect to each address, and the site of this peer.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(
        timeout: Duration,
        address: &PeerAddress,
        (port, site): (Option<u16>, Option<PeerName>),
        timeouts: Timeouts,
        shutdown: &Shutdown,
    ) -> Result<Self, SourceError> {
        let started = Instant::now();
        let stream = Arc::new(dial_any_within(&address.all().collect::<Vec<_>>(), timeout, shutdown)?);
        let rtt = started.elapsed();
        let Timeouts { hello, stall, .. } = timeouts;
        let (reader, mut writer) = split(&stream, stall)?;
        writer.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port, site })?;
        let reader = reader.watching_address();
        Ok(Self { reader, writer, stream, stall, hello: Some((Instant::now(), hello)), rtt, site: None })
    }

    /// Sends a request and reads the message that answers it.
    fn ask(&mut self, request: &PeerRequest) -> Result<PeerResponse, SourceError> {
        self.writer.send(request)?;
        self.await_hello()?;
        Ok(self.reader.message(self.stall)?)
    }

    /// Reads the response to hello if it has not been read yet.
    fn await_hello(&mut self) -> Result<(), SourceError> {
        let Some((since, timeout)) = self.hello else { return Ok(()) };
        match self.reader.message(timeout)? {
            PeerResponse::Hello { version: PROTOCOL_VERSION, site } => {
                (self.hello, self.site) = (None, site);
                // On a busy machine one of the two measurements (connect, hello) exceeds the RTT.
                self.rtt = self.rtt.min(since.elapsed());
                Ok(())
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("no hello".into())),
        }
    }

    /// Demands the proofs of the peer's registrations.
    ///
    /// # Errors
    /// The peer does not answer, or speaks another protocol.
    pub fn identify(&mut self, nonce: Nonce, shutdown: &Shutdown) -> Result<Vec<Digest>, SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Identify { nonce })? {
            PeerResponse::Identity { proofs } => Ok(proofs),
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("no identity".into())),
        }
    }

    /// Downloads the manifest of a file whose chunks are received in memory, and verifies it against the id.
    ///
    /// # Errors
    /// The protocol version differs, the peer has no valid manifest of this file, or a chunk is above
    /// [`CHUNK_SIZE_MAX`].
    pub fn manifest(&mut self, file: FileId, shutdown: &Shutdown) -> Result<Manifest, SourceError> {
        let (manifest, _) = self.manifest_and_mode(file, shutdown)?;
        let fits = manifest.layout().check_fits_memory();
        fits.map(|()| manifest).map_err(|error| SourceError::Protocol(format!("invalid manifest: {error}")))
    }

    /// Downloads a manifest with chunks of any size, and the permission bits that the peer states.
    ///
    /// # Errors
    /// The protocol version differs, or the peer has no valid manifest of this file.
    pub fn manifest_and_mode(
        &mut self,
        file: FileId,
        shutdown: &Shutdown,
    ) -> Result<(Manifest, Option<u32>), SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Manifest { file })? {
            PeerResponse::Manifest { size, chunk_size, length, mode, .. } => {
                let payload = manifest_payload(&mut self.reader, size, chunk_size, length)?;
                Manifest::decode(file, size, chunk_size, &payload)
                    .map(|manifest| (manifest, mode))
                    .map_err(|error| SourceError::Protocol(format!("invalid manifest: {error}")))
            }
            PeerResponse::Error { code: ErrorCode::Replaced, text, .. } => Err(SourceError::Replaced(text)),
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Reports that this peer, `name`, has downloaded the whole file.
    ///
    /// # Errors
    /// The peer does not answer, or does not offer the file.
    pub fn completed(
        &mut self,
        file: FileId,
        (report, name): (ReportId, &PeerName),
        shutdown: &Shutdown,
    ) -> Result<(), SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Completed { file, report, name: name.clone() })? {
            PeerResponse::Noted => Ok(()),
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Downloads one chunk into `buffer` and verifies it. After [`SourceError::Refused`] the connection
    /// remains usable; after any other error it does not.
    ///
    /// # Errors
    /// The peer does not have the chunk; [`SourceError::BadChunk`] if digest or length is wrong; the
    /// connection was lost.
    pub fn chunk(
        &mut self,
        file: FileId,
        index: ChunkIndex,
        (digest, length): (Digest, u32),
        buffer: &mut Vec<u8>,
        shutdown: &Shutdown,
    ) -> Result<(), SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Chunk { file, index })? {
            PeerResponse::Chunk { file: sent_file, index: sent_index, length: bytes }
                if (sent_file, sent_index) == (file, index) =>
            {
                if bytes != length {
                    return Err(SourceError::BadChunk { index, bytes });
                }
                buffer.resize(length as usize, 0);
                self.reader.payload(buffer)?;
                if Digest::of(buffer) == digest {
                    return Ok(());
                }
                // The peer may not know that its file has changed.
                let _ = self.writer.send(&PeerRequest::Corrupt { file, index });
                Err(SourceError::BadChunk { index, bytes })
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Reports a corrupt chunk over a new connection: the one that delivered it has been closed.
    fn report_corrupt(
        mut self,
        file: FileId,
        index: ChunkIndex,
        shutdown: &Shutdown,
    ) -> Result<(), SourceError> {
        let _guard = shutdown.guard(&self.stream);
        self.writer.send(&PeerRequest::Corrupt { file, index })?;
        // The peer has read the report before this connection is closed.
        self.await_hello()?;
        self.writer.send(&PeerRequest::Ping)?;
        self.reader.message::<PeerResponse>(self.stall).map(|_| ()).map_err(Into::into)
    }

    /// Demands the proof that the volunteer with this key print stores a chunk. The connection remains usable unless
    /// an error is returned.
    ///
    /// # Errors
    /// The protocol version differs, the response does not answer the demand, or the connection was lost.
    pub fn prove(
        &mut self,
        (file, index): (FileId, ChunkIndex),
        holder: KeyPrint,
        nonce: Nonce,
        shutdown: &Shutdown,
    ) -> Result<ProofResponse, SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Prove { file, index, holder, nonce })? {
            PeerResponse::Proof { file: of_file, index: of_index, sha256 }
                if (of_file, of_index) == (file, index) =>
            {
                Ok(ProofResponse::Proof(sha256))
            }
            PeerResponse::Error { code: ErrorCode::NotHere, index: of_index, .. }
                if of_index == Some(index) =>
            {
                Ok(ProofResponse::NotHere)
            }
            PeerResponse::Error { text, .. } => Ok(ProofResponse::CannotTell(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Requests the list of files that a peer offers.
    ///
    /// # Errors
    /// The protocol version differs, the response is not a list of files, or the connection was lost.
    pub fn files(&mut self, query: &Query, shutdown: &Shutdown) -> Result<Vec<OfferedFile>, SourceError> {
        let _guard = shutdown.guard(&self.stream);
        // A peer finds no prefix: it sends the list of all its files.
        let query = if query.id_prefix().is_some() { &Query::default() } else { query };
        let Query { name, id, .. } = query.clone();
        match self.ask(&PeerRequest::Files { name, id })? {
            PeerResponse::Files { count, length } if length <= PEER_LIST_MAX => {
                let mut payload = vec![0; length as usize];
                self.reader.payload(&mut payload)?;
                let files: Vec<OfferedFile> =
                    serde_json::from_slice(&payload).map_err(|error| StreamError::Frame(error.into()))?;
                if files.len() < count as usize {
                    log::warn!("a peer offers {count} files and lists {} of them", files.len());
                }
                Ok(files)
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("unexpected response".into())),
        }
    }

    /// Requests the bitfield of a file of `chunks` chunks, and subscribes to new chunks. Also returns the number of
    /// members of the rings that the peer keeps, if any.
    fn have(&mut self, file: FileId, chunks: u32) -> Result<(Bitfield, Option<u32>), SourceError> {
        match self.ask(&PeerRequest::Have { file })? {
            PeerResponse::Have { count, length, members, .. }
                if count == chunks && length == Bitfield::byte_length(count) as u64 =>
            {
                let mut bytes = vec![0; length as usize];
                self.reader.payload(&mut bytes)?;
                let have = Bitfield::from_bytes(count, &bytes);
                Ok((have.map_err(|error| SourceError::Protocol(error.to_string()))?, members))
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("no bitfield of this file".into())),
        }
    }

    /// Whether the peer is in the site of this peer, which has the `--site` name `own`, if any.
    fn is_near(&self, own: Option<&PeerName>) -> bool {
        let (Ok(local), Ok(remote)) = (self.stream.local_addr(), self.stream.peer_addr()) else {
            return true;
        };
        let site_of =
            |name: Option<&PeerName>, address: SocketAddr| Site::of(name.map(PeerName::as_str), address.ip());
        site_of(own, local) == site_of(self.site.as_ref(), remote)
    }
}

/// Reads the payload of a manifest; its length must fit the stated sizes.
///
/// # Errors
/// No manifest has these sizes, or the connection was lost.
fn manifest_payload(
    reader: &mut FrameReader,
    size: u64,
    chunk_size: u32,
    length: u64,
) -> Result<Vec<u8>, SourceError> {
    let length = manifest_payload_length(size, chunk_size, length).map_err(SourceError::Protocol)?;
    let mut payload = vec![0; length];
    reader.payload(&mut payload)?;
    Ok(payload)
}

/// Requested chunks with the times of their requests, in order; `None` for a chunk of the source's choice.
type RequestQueue = VecDeque<(Option<ChunkIndex>, Instant)>;

/// Requests in flight to a source.
#[derive(Clone, Default)]
struct InFlight(Arc<Mutex<RequestQueue>>);

impl InFlight {
    fn queue(&self) -> std::sync::MutexGuard<'_, RequestQueue> {
        lock(&self.0)
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

/// Reader thread of a source.
pub(super) struct SourceReader {
    pub id: SourceId,
    pub address: PeerAddress,
    pub job: Arc<Job>,
    pub events: Sender<SourceEvent>,
    pub verifier: Verifier,
    pub fragments: FragmentCount,
    pub shutdown: Shutdown,
}

impl SourceReader {
    /// Runs until the source is lost or the download ends, and reports the cause.
    pub fn run(self, commands: Receiver<SourceCommand>, threads: &Threads) {
        let verifier = self.verifier.for_source(self.id, &self.shutdown);
        let mut result = self.converse(commands, &verifier, threads);
        // Wakes the writer thread.
        self.shutdown.trigger();
        // A corrupt chunk takes precedence over the error that ended the connection after it.
        if let (Some(error), false) = (verifier.ended(), matches!(result, Err(SourceError::BadChunk { .. })))
        {
            result = Err(error);
        }
        let Err(error) = result else { return };
        let corrupt = match error {
            SourceError::BadChunk { index, .. } => Some(index),
            _ => None,
        };
        self.report(SourceUpdate::Lost(error));
        if let Some(index) = corrupt {
            self.report_corrupt(index);
        }
    }

    /// Tells the source that it sent a corrupt chunk: its file may have changed unnoticed. Best effort.
    fn report_corrupt(&self, index: ChunkIndex) {
        let shutdown = self.verifier.shutdown();
        let reported = PeerConnection::open(&self.address, None, self.job.timeouts, shutdown)
            .and_then(|connection| connection.report_corrupt(self.job.file, index, shutdown));
        if let Err(error) = reported {
            log::debug!("chunk {index} not reported to {} as corrupt: {error}", self.address);
        }
    }

    fn report(&self, update: SourceUpdate) {
        // Never blocks for long: the state thread drains these events as long as it lives and never waits for
        // this thread.
        let _ = self.events.send(SourceEvent { download: self.job.download, source: self.id, update });
    }

    fn converse(
        &self,
        commands: Receiver<SourceCommand>,
        verifier: &SourceVerifier,
        threads: &Threads,
    ) -> Result<(), SourceError> {
        let identity = (self.job.port, self.job.site.clone());
        let mut connection = PeerConnection::open_within(
            CONNECT_TIMEOUT,
            &self.address,
            identity,
            self.job.timeouts,
            &self.shutdown,
        )?;
        let stream = connection.stream.clone();
        let _guard = self.shutdown.guard(&stream);
        let (have, members) = match self.job.subscribe {
            true => {
                let (have, members) = connection.have(self.job.file, self.job.count)?;
                (Some(have), members)
            }
            false => {
                connection.await_hello()?;
                (None, None)
            }
        };
        let is_near = connection.is_near(self.job.site.as_ref());
        let PeerConnection { mut reader, mut writer, stall, rtt, .. } = connection;
        if self.job.limit.is_some() {
            reader.set_part_bytes_max(LIMITED_PART_BYTES);
        }
        self.report(SourceUpdate::Connected { have, members, is_near, rtt });
        let in_flight = InFlight::default();
        let command_writer = CommandWriter {
            file: self.job.file,
            in_flight: in_flight.clone(),
            shutdown: self.shutdown.clone(),
        };
        threads.spawn("fetch-ask", move || command_writer.run(&commands, &mut writer, &stream))?;
        let mut buffer = Vec::new();
        while !self.shutdown.is_stopped() {
            match reader.message(stall) {
                Ok(message) => self.take(message, &mut reader, &in_flight, verifier, &mut buffer)?,
                Err(StreamError::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
            // Also after a message: other messages do not extend the deadline of the oldest request.
            self.check_stall(&in_flight)?;
        }
        Err(SourceError::Stopped)
    }

    /// Applies the stall timeout to the oldest request in flight. An idle connection is kept up by pings.
    fn check_stall(&self, in_flight: &InFlight) -> Result<(), SourceError> {
        match in_flight.queue().front() {
            Some((_, since)) if since.elapsed() >= self.job.timeouts.stall => {
                Err(StreamError::TimedOut.into())
            }
            _ => Ok(()),
        }
    }

    fn take(
        &self,
        message: PeerResponse,
        reader: &mut FrameReader,
        in_flight: &InFlight,
        verifier: &SourceVerifier,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        match message {
            PeerResponse::Chunk { file, index, length } => {
                let front = in_flight.queue().pop_front().map(|(index, _)| index);
                match front {
                    _ if file != self.job.file => {
                        return Err(SourceError::Protocol(format!("chunk {index} is of another file")));
                    }
                    Some(None) => self.report(SourceUpdate::Gives(index)),
                    Some(requested) if requested == Some(index) => {}
                    _ => return Err(SourceError::Protocol(format!("chunk {index} came out of turn"))),
                }
                let more = !in_flight.queue().is_empty();
                self.chunk((index, length), more, reader, verifier, buffer)?;
                // Responses come in order, so the time of the next request starts here.
                if let Some((_, since)) = in_flight.queue().front_mut() {
                    *since = Instant::now();
                }
                Ok(())
            }
            PeerResponse::Error { code, text, index } => {
                let front = in_flight.queue().pop_front().map(|(index, _)| index);
                match (front, index) {
                    // The source no longer has the file at all.
                    _ if self.job.subscribe && matches!(code, ErrorCode::Changed | ErrorCode::NotFound) => {
                        Err(SourceError::Refused(format!("{text} ({})", describe(code))))
                    }
                    (Some(Some(in_flight)), Some(index)) if in_flight == index => {
                        self.report(match code {
                            ErrorCode::Busy | ErrorCode::Internal => {
                                SourceUpdate::Unable { index, cause: text }
                            }
                            _ => {
                                let (address, cause) = (&self.address, describe(code));
                                log::info!("{address} refused chunk {index}: {text} ({cause})");
                                SourceUpdate::Refused(index)
                            }
                        });
                        Ok(())
                    }
                    _ => Err(SourceError::Refused(text)),
                }
            }
            PeerResponse::Got { file, chunks } if file == self.job.file => {
                self.report(SourceUpdate::Has(chunks));
                Ok(())
            }
            PeerResponse::Coming { file, index } if file == self.job.file => {
                self.report(SourceUpdate::Receives(index));
                Ok(())
            }
            PeerResponse::Place { file, ring, peer } if file == self.job.file => {
                self.report(SourceUpdate::Place { ring: usize::from(ring), peer });
                Ok(())
            }
            PeerResponse::Spent { file, answer } if file == self.job.file => {
                if answer && !matches!(in_flight.queue().pop_front(), Some((None, _))) {
                    return Err(SourceError::Protocol("a chunk was refused out of turn".to_owned()));
                }
                self.report(SourceUpdate::Spent);
                Ok(())
            }
            PeerResponse::Peers { file, mut peers } if file == self.job.file => {
                peers.truncate(NAMED_PEERS_MAX);
                self.report(SourceUpdate::Peers(peers));
                Ok(())
            }
            PeerResponse::Pong => Ok(()),
            other => Err(SourceError::Protocol(format!("unexpected message {other:?}"))),
        }
    }

    fn chunk(
        &self,
        (index, length): (ChunkIndex, u32),
        more: bool,
        reader: &mut FrameReader,
        verifier: &SourceVerifier,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let Some((digest, expected)) = self.job.expected.expected(index) else {
            return Err(SourceError::Protocol(format!("chunk {index} has no known digest")));
        };
        if length != expected {
            let text = format!("chunk {index} came with {length} bytes instead of {expected}");
            return Err(SourceError::Protocol(text));
        }
        if length > CHUNK_SIZE_MAX {
            return self.large_chunk((index, length), digest, reader);
        }
        buffer.resize(length as usize, 0);
        let relay = self.job.relay.as_ref();
        let relay_writer = relay.and_then(|relay| relay.begin(self.job.file, index, length));
        reader.payload_in_parts(buffer, |fragment| {
            if let Some(relay_writer) = &relay_writer {
                relay_writer.push(fragment);
            }
            self.received(fragment);
        })?;
        verifier.take(index, digest, buffer, relay_writer, more);
        Ok(())
    }

    /// Counts a fragment, and waits as long as the download limit requires.
    fn received(&self, fragment: &[u8]) {
        self.fragments.fetch_add(1, Ordering::Relaxed);
        if let Some(limit) = &self.job.limit {
            limit.throttle(fragment.len() as u64, &self.shutdown);
        }
    }

    /// Hashes and writes a chunk that is too large for the memory while it arrives, and stores it if its digest is right.
    fn large_chunk(
        &self,
        (index, length): (ChunkIndex, u32),
        digest: Digest,
        reader: &mut FrameReader,
    ) -> Result<(), SourceError> {
        let mut chunk = self.job.sink.begin(index, digest, length)?;
        let (mut hasher, mut remaining) = (Hasher::new(), length as usize);
        let mut buffer = vec![0; LARGE_CHUNK_BLOCK_BYTES];
        while remaining > 0 {
            let block = &mut buffer[..remaining.min(LARGE_CHUNK_BLOCK_BYTES)];
            reader.payload_in_parts(block, |fragment| self.received(fragment))?;
            hasher.update(block);
            chunk.write(block)?;
            remaining -= block.len();
        }
        if hasher.finish() != digest {
            return Err(SourceError::BadChunk { index, bytes: length });
        }
        self.report(match chunk.finish()? {
            LargeChunkOutcome::Stored => SourceUpdate::Stored(Arrival { index, bytes: length }),
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
    in_flight: InFlight,
    shutdown: Shutdown,
}

impl CommandWriter {
    fn run(self, commands: &Receiver<SourceCommand>, writer: &mut FrameWriter, stream: &TcpStream) {
        loop {
            let sent = crossbeam_channel::select! {
                recv(self.shutdown.signal()) -> _ => break,
                recv(commands) -> command => match command {
                    Ok(SourceCommand::Join) => writer.send(&PeerRequest::Join { file: self.file }),
                    Ok(SourceCommand::Unreachable(peer)) => {
                        writer.send(&PeerRequest::Unreachable { file: self.file, peer })
                    }
                    Ok(SourceCommand::Next(have)) => {
                        self.in_flight.queue().push_back((None, Instant::now()));
                        writer.send(&PeerRequest::Next { file: self.file, have })
                    }
                    Ok(SourceCommand::Chunk(index)) => {
                        self.in_flight.queue().push_back((Some(index), Instant::now()));
                        writer.send(&PeerRequest::Chunk { file: self.file, index })
                    }
                    Err(_) => break,
                },
                default(KEEP_ALIVE_INTERVAL) => writer.send(&PeerRequest::Ping),
            };
            if sent.is_err() {
                break;
            }
        }
        // Ends the reader thread as well.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
