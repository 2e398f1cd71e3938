//! One source of a download: a connection, a thread that reads, and one that asks. What was read is checked and
//! stored by the download's [`Verifier`], which may have a helper for it.
//!
//! Invariants: nothing is accepted that was not asked for; a source that sent a wrong chunk is lost for that reason
//! and no other; after the loss of a source nothing more is heard of it; every wait has a deadline.

use super::super::lookup::Query;
use super::verify::{SourceVerifier, Verifier};
use super::{Job, SourceEvent, SourceUpdate};
use crate::content::limits::{CHUNKS_MAX, KEEP_ALIVE, PEER_LIST_MAX, PEERS_NAMED, PROTOCOL_VERSION};
use crate::content::{ChunkIndex, Digest, FileId, HaveMap, Manifest};
use crate::net::link::halves;
use crate::net::{LinkError, LinkReader, LinkWriter, Shutdown, Threads, Timeouts, dial};
use crate::protocol::ErrorCode;
use crate::protocol::peer::{OfferedFile, PeerRequest, PeerResponse, Upstream};
use crate::storage::StoreError;
use crate::swarm::picker::SourceId;
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a source is no good.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection has ended, or was never made.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// It says what does not fit the conversation.
    #[error("it {0}")]
    Protocol(String),
    /// It says that it cannot or will not.
    #[error("it refuses: {0}")]
    Refused(String),
    /// A chunk does not have its digest.
    #[error("chunk {index} does not have the SHA-256 that it must have ({bytes} bad bytes)")]
    BadChunk {
        /// The chunk.
        index: ChunkIndex,
        /// How many bytes came for nothing.
        bytes: u32,
    },
    /// It cannot be stored here; the source is not to blame.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The download is not interested any more.
    #[error("stopped")]
    Stopped,
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        SourceError::Link(error.into())
    }
}

/// An opened conversation with a peer. Its hello is sent together with the first question, so that the two cost one
/// way there and back.
pub struct Conversation {
    reader: LinkReader,
    writer: LinkWriter,
    stream: Arc<TcpStream>,
    /// How long an answer may take to begin.
    stall: Duration,
    /// When hello was said and how long its answer may take, until that is there.
    hello: Option<(Instant, Duration)>,
    /// The shortest time that something has taken to get there and back.
    rtt: Duration,
}

impl Conversation {
    /// Connects and says hello; the answer is looked at with that to the first question. `port` is where this peer
    /// serves, if it does.
    ///
    /// # Errors
    /// Not reachable.
    pub fn open(
        address: SocketAddr,
        port: Option<u16>,
        timeouts: Timeouts,
        shutdown: &Shutdown,
    ) -> Result<Self, SourceError> {
        let began = Instant::now();
        let stream = Arc::new(dial(address, shutdown)?);
        let rtt = began.elapsed();
        let Timeouts { hello, stall, .. } = timeouts;
        let (reader, mut writer) = halves(&stream, stall)?;
        writer.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port })?;
        Ok(Self { reader, writer, stream, stall, hello: Some((Instant::now(), hello)), rtt })
    }

    fn ask(&mut self, request: &PeerRequest) -> Result<PeerResponse, SourceError> {
        self.writer.send(request)?;
        self.greet()?;
        Ok(self.reader.message(self.stall)?)
    }

    /// Waits for the answer to hello, if that has not been there.
    fn greet(&mut self) -> Result<(), SourceError> {
        let Some((since, patience)) = self.hello else { return Ok(()) };
        match self.reader.message(patience)? {
            PeerResponse::Hello { version: PROTOCOL_VERSION } => {
                self.hello = None;
                // A busy machine makes this, or connecting, longer than the way.
                self.rtt = self.rtt.min(since.elapsed());
                Ok(())
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("does not open with hello".into())),
        }
    }

    /// Asks for a file's manifest and checks it against the id.
    ///
    /// # Errors
    /// Not a peer of this version; the manifest is not to be had there, or not that of this file.
    pub fn manifest(&mut self, file: FileId, shutdown: &Shutdown) -> Result<Manifest, SourceError> {
        let _guard = shutdown.guard(&self.stream);
        match self.ask(&PeerRequest::Manifest { file })? {
            PeerResponse::Manifest { size, chunk_size, length, .. } => {
                let payload = manifest_payload(&mut self.reader, size, chunk_size, length)?;
                Manifest::decode(file, size, chunk_size, &payload)
                    .map_err(|error| SourceError::Protocol(format!("sends a wrong manifest: {error}")))
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("answers something else".into())),
        }
    }

    /// Asks for one chunk and waits for it. Its bytes are in `buffer` when it is right. A [refusal](SourceError::Refused)
    /// leaves the conversation as it was; after any other error it is of no use any more.
    ///
    /// # Errors
    /// Not to be had there; [`SourceError::BadChunk`] when what came has another digest or length; whatever ends a link.
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
            PeerResponse::Chunk { file: got, index: at, length: bytes } if (got, at) == (file, index) => {
                if bytes != length {
                    return Err(SourceError::BadChunk { index, bytes });
                }
                buffer.resize(length as usize, 0);
                self.reader.payload(buffer)?;
                match Digest::of(buffer) == digest {
                    true => Ok(()),
                    false => Err(SourceError::BadChunk { index, bytes }),
                }
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("answers something else".into())),
        }
    }

    /// Asks what a peer offers.
    ///
    /// # Errors
    /// Not a peer of this version, not a list of files, or whatever ends a link.
    pub fn files(&mut self, query: &Query, shutdown: &Shutdown) -> Result<Vec<OfferedFile>, SourceError> {
        let _guard = shutdown.guard(&self.stream);
        let Query { name, id } = query.clone();
        match self.ask(&PeerRequest::Files { name, id })? {
            PeerResponse::Files { length, .. } if length <= PEER_LIST_MAX => {
                let mut payload = vec![0; length as usize];
                self.reader.payload(&mut payload)?;
                Ok(serde_json::from_slice(&payload).map_err(|error| LinkError::Frame(error.into()))?)
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("answers something else".into())),
        }
    }

    /// Asks what a peer has of a file of so many chunks, whom to ask before all others, and to be told what comes.
    fn have(&mut self, file: FileId, chunks: u32) -> Result<(HaveMap, Vec<Upstream>), SourceError> {
        match self.ask(&PeerRequest::Have { file })? {
            PeerResponse::Have { count, length, upstreams, .. }
                if count == chunks && length == HaveMap::byte_length(count) as u64 =>
            {
                let mut bytes = vec![0; length as usize];
                self.reader.payload(&mut bytes)?;
                let have = HaveMap::from_bytes(count, &bytes);
                Ok((have.map_err(|error| SourceError::Protocol(error.to_string()))?, upstreams))
            }
            PeerResponse::Error { text, .. } => Err(SourceError::Refused(text)),
            _ => Err(SourceError::Protocol("sends no have-map of this file".into())),
        }
    }
}

/// Reads the payload of a manifest, whose length must fit the sizes that were stated.
///
/// # Errors
/// Sizes that fit no manifest, or whatever ends a link.
pub fn manifest_payload(
    reader: &mut LinkReader,
    size: u64,
    chunk_size: u32,
    length: u64,
) -> Result<Vec<u8>, SourceError> {
    let wrong = |text: String| SourceError::Protocol(format!("sends a wrong manifest: {text}"));
    let expected = Manifest::payload_length(size, chunk_size).map_err(|error| wrong(error.to_string()))?;
    let most = expected.unwrap_or(u64::from(CHUNKS_MAX) * 36);
    if length > most {
        return Err(wrong(format!("{length} bytes of digests")));
    }
    let mut payload = vec![0; length as usize];
    reader.payload(&mut payload)?;
    Ok(payload)
}

/// What has been asked of the source and not been answered, in order.
#[derive(Clone, Default)]
struct InFlight(Arc<Mutex<VecDeque<(ChunkIndex, Instant)>>>);

impl InFlight {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<(ChunkIndex, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a source is asked.
pub(super) enum SourceCommand {
    Chunk(ChunkIndex),
    /// Somebody else upstream.
    Overtake {
        /// In which stripe.
        stripe: u8,
        /// Whether the one who is has been found to be slow.
        sure: bool,
    },
    /// That somebody who asks this peer takes what it gets slowly.
    Slow(SocketAddr),
}

/// How many pieces of chunks have come from a source.
pub(super) type Pieces = Arc<AtomicUsize>;

/// The reading thread of a source.
pub(super) struct SourceReader {
    pub id: SourceId,
    pub address: SocketAddr,
    pub job: Arc<Job>,
    pub events: Sender<SourceEvent>,
    pub verifier: Verifier,
    pub pieces: Pieces,
    pub shutdown: Shutdown,
}

impl SourceReader {
    /// Runs until the source is lost or not wanted any more, and says why.
    pub fn run(self, commands: Receiver<SourceCommand>, threads: &Threads) {
        let tasks = self.verifier.tasks(self.id, &self.shutdown);
        let mut result = self.converse(commands, &tasks, threads);
        // Wakes the asking thread, whatever it waits for.
        self.shutdown.trigger();
        // What is wrong with a chunk weighs more than how the connection ended after it.
        if let (Some(why), false) = (tasks.ended(), matches!(result, Err(SourceError::BadChunk { .. }))) {
            result = Err(why);
        }
        if let Err(why) = result {
            self.report(SourceUpdate::Lost(why));
        }
    }

    fn report(&self, update: SourceUpdate) {
        // The state thread takes these as long as it lives, and it never waits for this one.
        let _ = self.events.send(SourceEvent { download: self.job.download, source: self.id, update });
    }

    fn converse(
        &self,
        commands: Receiver<SourceCommand>,
        tasks: &SourceVerifier,
        threads: &Threads,
    ) -> Result<(), SourceError> {
        let mut conversation =
            Conversation::open(self.address, self.job.port, self.job.timeouts, &self.shutdown)?;
        let stream = conversation.stream.clone();
        let _guard = self.shutdown.guard(&stream);
        let (have, upstreams) = match self.job.subscribe {
            true => {
                let (have, upstreams) = conversation.have(self.job.file, self.job.count)?;
                (Some(have), upstreams)
            }
            false => {
                conversation.greet()?;
                (None, Vec::new())
            }
        };
        let Conversation { mut reader, mut writer, stall, rtt, .. } = conversation;
        self.report(SourceUpdate::Connected { have, upstreams, rtt });
        let asked = InFlight::default();
        let asker =
            CommandWriter { file: self.job.file, asked: asked.clone(), shutdown: self.shutdown.clone() };
        threads.spawn("fetch-ask", move || asker.run(&commands, &mut writer, &stream))?;
        let mut buffer = Vec::new();
        while !self.shutdown.is_stopped() {
            match reader.message(stall) {
                Ok(message) => self.take(message, &mut reader, &asked, tasks, &mut buffer)?,
                Err(LinkError::TimedOut) => {}
                Err(error) => return Err(error.into()),
            }
            // Also after a message: small talk does not make up for a chunk that does not come.
            self.check_patience(&asked)?;
        }
        Err(SourceError::Stopped)
    }

    /// Silence is fine while nothing is asked for; the other side answers pings.
    fn check_patience(&self, asked: &InFlight) -> Result<(), SourceError> {
        match asked.queue().front() {
            Some((_, since)) if since.elapsed() >= self.job.timeouts.stall => Err(LinkError::TimedOut.into()),
            _ => Ok(()),
        }
    }

    fn take(
        &self,
        message: PeerResponse,
        reader: &mut LinkReader,
        asked: &InFlight,
        tasks: &SourceVerifier,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        match message {
            PeerResponse::Chunk { file, index, length } => {
                let front = asked.queue().pop_front().map(|(index, _)| index);
                if file != self.job.file || front != Some(index) {
                    return Err(SourceError::Protocol(format!("sends chunk {index}, which is not its turn")));
                }
                let more = !asked.queue().is_empty();
                self.chunk((index, length), more, reader, tasks, buffer)?;
                // The next one could not come before this one was through.
                if let Some((_, since)) = asked.queue().front_mut() {
                    *since = Instant::now();
                }
                Ok(())
            }
            PeerResponse::Error { code, text, index } => {
                let front = asked.queue().pop_front().map(|(index, _)| index);
                match (front, index) {
                    // The whole file is not there any more.
                    _ if self.job.subscribe && matches!(code, ErrorCode::Changed | ErrorCode::NotFound) => {
                        Err(SourceError::Refused(format!("{text} ({})", describe(code))))
                    }
                    (Some(asked), Some(index)) if asked == index => {
                        let (address, why) = (self.address, describe(code));
                        log::info!("{address} does not give chunk {index}: {text} ({why})");
                        self.report(SourceUpdate::Refused(index));
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
                self.report(SourceUpdate::Has(vec![index]));
                Ok(())
            }
            PeerResponse::Hints { file, chunks } if file == self.job.file => {
                self.report(SourceUpdate::Hints(chunks));
                Ok(())
            }
            PeerResponse::Upstream { file, upstream } if file == self.job.file => {
                self.report(SourceUpdate::Upstream(upstream));
                Ok(())
            }
            PeerResponse::Peers { file, mut peers } if file == self.job.file => {
                peers.truncate(PEERS_NAMED);
                self.report(SourceUpdate::Peers(peers));
                Ok(())
            }
            PeerResponse::Pong => Ok(()),
            other => Err(SourceError::Protocol(format!("sends {other:?}, which nobody asked for"))),
        }
    }

    fn chunk(
        &self,
        (index, length): (ChunkIndex, u32),
        more: bool,
        reader: &mut LinkReader,
        tasks: &SourceVerifier,
        buffer: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        let Some((digest, expected)) = self.job.expected.expected(index) else {
            return Err(SourceError::Protocol(format!("sends chunk {index}, which is not expected")));
        };
        if length != expected {
            let text = format!("sends {length} bytes for chunk {index}, which has {expected}");
            return Err(SourceError::Protocol(text));
        }
        buffer.resize(length as usize, 0);
        let relay = self.job.relay.as_ref();
        let relay_writer = relay.and_then(|relay| relay.begin(self.job.file, index, length));
        reader.payload_in_pieces(buffer, |piece| {
            self.pieces.fetch_add(1, Ordering::Relaxed);
            if let Some(relay_writer) = &relay_writer {
                relay_writer.push(piece);
            }
        })?;
        tasks.take(index, digest, buffer, relay_writer, more);
        Ok(())
    }
}

/// What a refusal means, for people.
fn describe(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Changed => "it has changed there",
        ErrorCode::NotFound | ErrorCode::NotHere => "it is not there",
        ErrorCode::Busy => "too much to do there",
        _ => "something is wrong there",
    }
}

/// The asking thread of a source.
struct CommandWriter {
    file: FileId,
    asked: InFlight,
    shutdown: Shutdown,
}

impl CommandWriter {
    fn run(self, commands: &Receiver<SourceCommand>, writer: &mut LinkWriter, stream: &TcpStream) {
        loop {
            let sent = crossbeam_channel::select! {
                recv(self.shutdown.signal()) -> _ => break,
                recv(commands) -> ask => match ask {
                    Ok(SourceCommand::Overtake { stripe, sure }) => {
                        writer.send(&PeerRequest::Overtake { file: self.file, stripe, sure })
                    }
                    Ok(SourceCommand::Slow(peer)) => writer.send(&PeerRequest::Slow { file: self.file, peer }),
                    Ok(SourceCommand::Chunk(index)) => {
                        self.asked.queue().push_back((index, Instant::now()));
                        writer.send(&PeerRequest::Chunk { file: self.file, index })
                    }
                    Err(_) => break,
                },
                default(KEEP_ALIVE) => writer.send(&PeerRequest::Ping),
            };
            if sent.is_err() {
                break;
            }
        }
        // Whatever ended the asking ends the reading.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}
