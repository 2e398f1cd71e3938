//! Upload server of a peer: sends manifests, bitfields and chunks of the offered files.
//!
//! Each connection has a reader thread for requests and a writer thread, which answers them in order and
//! announces new chunks in between. Invariant: a complete chunk is sent only from a [`ChunkSource`], which
//! has verified it; of a chunk that is still being received, all but the last bytes may be sent earlier
//! ([`relay`](crate::upload::relay)).

use crate::content::limits::{self, GOT_INTERVAL, PROTOCOL_VERSION, SERVE_QUEUE_MAX};
use crate::content::{Bitfield, ChunkIndex, FileId, FileName};
use crate::net::framed_stream::split;
use crate::net::{Activity, FrameReader, FrameWriter, Listener, Shutdown, StreamError, Threads, Timeouts};
use crate::protocol::ErrorCode;
use crate::protocol::frame::FrameError;
use crate::protocol::peer::{OfferedFile, PeerRequest, PeerResponse, Upstream};
use crate::storage::{ChunkSource, StoreError};
use crate::swarm::picker::STRIPES_MAX;
use crate::sync::lock;
use crate::upload::offers::{Offer, Offers};
use crate::upload::pacing::Held;
use crate::upload::rate_limit::{UploadLimit, UploadSlot};
use crate::upload::relay::{ArrivalSubscription, ChunkSend, PartialChunk, Piece};
use crate::upload::subscribers::{SubscriberId, Subscribers, Welcome};
use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded, never};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Largest number of files that one connection subscribes to.
const SUBSCRIPTIONS_MAX: usize = 16;
/// Largest number of files in one list.
const FILES_MAX: usize = 65_536;
/// Interval at which a send that waits for further bytes checks for the shutdown and the stall timeout.
const WAIT_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// Largest number of chunks in one `got` message.
const GOT_MAX: usize = 4_096;

/// A peer that has requested a file from this peer and serves it as well: a possible source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveredPeer {
    /// Address of its upload server.
    pub address: SocketAddr,
    /// Id of the requested file.
    pub file: FileId,
}

/// Options of the upload server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Largest number of connections.
    pub connections: usize,
    /// Upload limit for all connections together, bytes per second; 0 for no limit.
    pub upload_limit: u64,
    /// Timeouts of incoming connections and of connections to other peers.
    pub timeouts: Timeouts,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { connections: limits::CONNECTIONS_MAX, upload_limit: 0, timeouts: Timeouts::default() }
    }
}

/// State shared by the threads of the server.
struct Server {
    offers: Offers,
    limit: Option<UploadLimit>,
    timeouts: Timeouts,
    discovered: Option<Sender<DiscoveredPeer>>,
    subscribers: Subscribers,
    /// Files for which a storage error has been logged.
    warned: Mutex<BTreeSet<FileId>>,
    threads: Threads,
    shutdown: Shutdown,
}

/// Serves the offered files until the shutdown. Peers that serve as well are reported to `discovered`;
/// reports are dropped when its queue is full.
///
/// # Errors
/// A thread cannot be started.
pub fn serve(
    listener: Listener,
    offers: Offers,
    options: &ServeOptions,
    discovered: Option<Sender<DiscoveredPeer>>,
    threads: &Threads,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let limit = (options.upload_limit > 0).then(|| UploadLimit::new(options.upload_limit));
    let server = Arc::new(Server {
        offers,
        limit,
        timeouts: options.timeouts,
        discovered,
        subscribers: Subscribers::default(),
        warned: Mutex::default(),
        threads: threads.clone(),
        shutdown: shutdown.clone(),
    });
    listener.serve("serve", options.connections, threads, shutdown, move |stream, from, activity| {
        match server.converse(stream, from, activity) {
            StreamError::Closed => log::debug!("{from} closed its connection"),
            StreamError::TimedOut => log::debug!("{from} disconnected: idle timeout"),
            _ if server.shutdown.is_stopped() => {}
            // At debug level: any host can connect and send garbage, which must not fill the log.
            why => log::debug!("disconnected {from}: {why}"),
        }
    })
}

impl Server {
    fn converse(
        self: &Arc<Self>,
        stream: Arc<TcpStream>,
        from: SocketAddr,
        activity: &Activity,
    ) -> StreamError {
        let (mut reader, mut writer) = match split(&stream, self.timeouts.stall) {
            Ok(halves) => halves,
            Err(error) => return error.into(),
        };
        let port = match hello(&mut reader, &mut writer, self.timeouts.hello) {
            Ok(port) => port,
            Err(error) => return error,
        };
        let (requests, queued) = bounded(SERVE_QUEUE_MAX);
        // Closed when the writer thread has ended; until then this connection keeps its slot and guard.
        let (writing, written) = bounded::<Infallible>(0);
        let (server, shut) = (self.clone(), stream.clone());
        let spawned = self.threads.spawn("serve-out", move || {
            let _writing = writing;
            let serves = port.map(|port| SocketAddr::new(from.ip(), port));
            if let Err(error) = ResponseWriter::new(&server, writer, from, serves).run(&queued) {
                log::debug!("response to {from} failed: {error}");
            }
            // Ends the reader thread as well.
            let _ = shut.shutdown(std::net::Shutdown::Both);
        });
        if let Err(error) = spawned {
            return error.into();
        }
        let why = self.take_requests(&mut reader, &requests, (from, port), activity);
        drop(requests);
        // After a half-close the peer may still read the responses to its requests.
        if !matches!(why, StreamError::Closed) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let _ = written.recv();
        why
    }

    fn take_requests(
        &self,
        reader: &mut FrameReader,
        requests: &Sender<PeerRequest>,
        (from, port): (SocketAddr, Option<u16>),
        activity: &Activity,
    ) -> StreamError {
        loop {
            let request = match reader.message(self.timeouts.idle) {
                Ok(request) => request,
                Err(error) => return error,
            };
            activity.record_request();
            self.note_discovered(&request, from, port);
            // Backpressure: the queue is short and blocks a peer that requests faster than it reads.
            if requests.send(request).is_err() {
                return StreamError::Closed;
            }
        }
    }

    fn note_discovered(&self, request: &PeerRequest, from: SocketAddr, port: Option<u16>) {
        if let (PeerRequest::Have { file }, Some(port), Some(discovered)) = (request, port, &self.discovered)
        {
            let _ = discovered
                .try_send(DiscoveredPeer { address: SocketAddr::new(from.ip(), port), file: *file });
        }
    }

    /// Logs a storage error: once per file as a warning, then at debug level.
    fn warn_once(&self, file: FileId, error: &StoreError) {
        let mut warned = lock(&self.warned);
        match warned.insert(file) {
            true => log::warn!("stopped serving {}: {error}", file.short()),
            false => log::debug!("cannot serve a chunk of {}: {error}", file.short()),
        }
    }

    /// With an upload limit, waits for a free slot. `None` at the shutdown.
    fn slot(&self) -> Option<Option<UploadSlot<'_>>> {
        match &self.limit {
            Some(limit) => limit.slot(&self.shutdown).map(Some),
            None => Some(None),
        }
    }

    fn pace(&self, bytes: u64) {
        if let Some(limit) = &self.limit {
            limit.pace(bytes, &self.shutdown);
        }
    }

    /// With several stripes, waits until the receiver's share of the uplink allows these bytes.
    fn pace_stripes(&self, file: FileId, receiver: Option<SocketAddr>, bytes: u64) {
        let wait = receiver.map(|receiver| self.offers.relay().pacing().give(file, receiver, bytes));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            self.shutdown.wait(wait);
        }
    }
}

/// Reads and answers the hello; returns the port of the peer's upload server, if any.
fn hello(
    reader: &mut FrameReader,
    writer: &mut FrameWriter,
    patience: Duration,
) -> Result<Option<u16>, StreamError> {
    let (code, text) = match reader.message(patience) {
        Ok(PeerRequest::Hello { version: PROTOCOL_VERSION, port }) => {
            writer.send(&PeerResponse::Hello { version: PROTOCOL_VERSION })?;
            return Ok(port.filter(|port| *port != 0));
        }
        Ok(PeerRequest::Hello { version, .. }) => {
            let text = format!("this peer speaks protocol version {PROTOCOL_VERSION}, not {version}");
            (ErrorCode::UnknownVersion, text)
        }
        Ok(_) => (ErrorCode::Malformed, "the first message must be hello".to_owned()),
        Err(StreamError::Frame(error)) => (ErrorCode::Malformed, error.to_string()),
        Err(error) => return Err(error),
    };
    writer.send(&PeerResponse::Error { code, text: text.clone(), index: None })?;
    Err(StreamError::Io(io::Error::new(io::ErrorKind::InvalidData, text)))
}

/// A file of which the peer receives updates.
struct Subscription {
    file: FileId,
    source: Arc<dyn ChunkSource>,
    cursor: usize,
    progress_signal: Receiver<()>,
    /// Chunks that begin to arrive; never ready for a peer that does not serve.
    coming: ArrivalSubscription,
    /// Changes of the peer's predecessors in the trees of this root.
    upstream: Receiver<Upstream>,
}

impl Subscription {
    /// Also returns the present bitfield; chunks stored later are announced, so that none is missed.
    fn new(file: FileId, source: Arc<dyn ChunkSource>, coming: ArrivalSubscription) -> (Self, Bitfield) {
        let progress_signal = source.progress().subscribe();
        let (have, cursor) = source.progress().have();
        (Self { file, source, cursor, progress_signal, coming, upstream: never() }, have)
    }
}

/// Writer thread of a connection.
struct ResponseWriter<'a> {
    server: &'a Server,
    writer: FrameWriter,
    from: SocketAddr,
    /// Number of this connection, and the address of the peer's upload server, if any.
    subscriber: SubscriberId,
    serves: Option<SocketAddr>,
    subscriptions: Vec<Subscription>,
    /// Keeps the pacing of a file active that this peer distributes in several stripes.
    pace: Option<Held>,
    /// Time of the last announcement of new chunks.
    announced_at: Instant,
}

impl Drop for ResponseWriter<'_> {
    fn drop(&mut self) {
        self.subscriptions.iter().for_each(|subscription| {
            self.server.subscribers.leave(self.subscriber, subscription.file);
        });
    }
}

impl<'a> ResponseWriter<'a> {
    fn new(server: &'a Server, writer: FrameWriter, from: SocketAddr, serves: Option<SocketAddr>) -> Self {
        let subscriber = server.subscribers.name();
        let (subscriptions, pace) = (Vec::new(), None);
        Self { server, writer, from, subscriber, serves, subscriptions, pace, announced_at: Instant::now() }
    }

    fn run(mut self, requests: &Receiver<PeerRequest>) -> Result<(), StreamError> {
        loop {
            let mut select = Select::new();
            let asked = select.recv(requests);
            for subscription in &self.subscriptions {
                select.recv(subscription.coming.chunks());
                select.recv(&subscription.upstream);
            }
            // Collects announcements: the receivers of a relayed chunk know it already from `coming` messages.
            let quiet = self.announced_at + GOT_INTERVAL;
            let announces = Instant::now() >= quiet;
            for subscription in self.subscriptions.iter().filter(|_| announces) {
                select.recv(&subscription.progress_signal);
            }
            let ready = match announces {
                true => Some(select.ready()),
                false => select.ready_deadline(quiet).ok(),
            };
            drop(select);
            match ready {
                Some(ready) if ready == asked => match requests.try_recv() {
                    Ok(request) => self.answer(request)?,
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => return Ok(()),
                },
                Some(ready) if ready <= 2 * self.subscriptions.len() => {
                    self.send_arrivals((ready - 1) / 2)?
                }
                Some(_) => self.announce_chunks()?,
                // Announcements are included in the next wait, which has no deadline: an idle connection does
                // not wake up.
                None => {}
            }
        }
    }

    /// Sends one `coming` message, and one change of the peer's predecessors, if queued.
    fn send_arrivals(&mut self, at: usize) -> Result<(), StreamError> {
        let Some(Subscription { file, coming, upstream, .. }) = self.subscriptions.get_mut(at) else {
            return Ok(());
        };
        if let Ok(index) = coming.chunks().try_recv() {
            self.writer.send(&PeerResponse::Coming { file: *file, index })?;
        }
        match upstream.try_recv() {
            Ok(upstream) => self.writer.send(&PeerResponse::Upstream { file: *file, upstream }),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => {
                *upstream = never();
                Ok(())
            }
        }
    }

    /// Announces each chunk stored since the last announcement once, except those removed meanwhile.
    fn announce_chunks(&mut self) -> Result<(), StreamError> {
        self.announced_at = Instant::now();
        for subscription in &self.subscriptions {
            let _ = subscription.progress_signal.try_recv();
        }
        for subscription in &mut self.subscriptions {
            loop {
                let progress = subscription.source.progress();
                let (mut chunks, cursor) = progress.since(subscription.cursor, GOT_MAX);
                subscription.cursor = cursor;
                if chunks.is_empty() {
                    break;
                }
                chunks.retain(|index| progress.has(*index));
                if !chunks.is_empty() {
                    self.writer.send(&PeerResponse::Got { file: subscription.file, chunks })?;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, request: PeerRequest) -> Result<(), StreamError> {
        match request {
            PeerRequest::Manifest { file } => self.manifest(file),
            PeerRequest::Have { file } => self.have(file),
            PeerRequest::Chunk { file, index } => self.chunk(file, index),
            PeerRequest::Overtake { file, stripe, sure } => {
                self.server.subscribers.overtake(self.subscriber, file, usize::from(stripe), sure);
                Ok(())
            }
            PeerRequest::Slow { file, peer } => {
                self.server.subscribers.found_slow(self.subscriber, file, peer);
                Ok(())
            }
            PeerRequest::Files { name, id } => self.files(name.as_ref(), id),
            PeerRequest::Ping => {
                self.subscribe_added_sources()?;
                self.writer.send(&PeerResponse::Pong)
            }
            PeerRequest::Hello { .. } => self.refuse(ErrorCode::Malformed, "repeated hello", None),
            PeerRequest::Unknown => {
                self.refuse(ErrorCode::UnknownMessage, "unknown message: this is a peer, not a tracker or manager; name a tracker with --tracker HOST:PORT, a manager with --manager HOST:PORT", None)
            }
        }
    }

    fn refuse(
        &mut self,
        code: ErrorCode,
        text: impl Into<String>,
        index: Option<ChunkIndex>,
    ) -> Result<(), StreamError> {
        let text = text.into();
        log::debug!("refused a request of {}: {text}", self.from);
        self.writer.send(&PeerResponse::Error { code, text, index })
    }

    fn manifest(&mut self, file: FileId) -> Result<(), StreamError> {
        let Some(manifest) = self.server.offers.get(file).and_then(|source| source.manifest()) else {
            return self.refuse(
                ErrorCode::NotFound,
                format!("peer does not have the manifest of {file}"),
                None,
            );
        };
        let (payload, layout) = (manifest.payload(), manifest.layout());
        let response = PeerResponse::Manifest {
            file,
            size: layout.size(),
            chunk_size: layout.chunk_size(),
            length: payload.len() as u64,
        };
        self.writer.send_with(&response, &payload)
    }

    /// Sends the list of offered files that match the name and the id, cut to [`FILES_MAX`] files.
    fn files(&mut self, name: Option<&FileName>, id: Option<FileId>) -> Result<(), StreamError> {
        let asked = |offer: &Offer| {
            name.is_none_or(|name| offer.file.name == *name) && id.is_none_or(|id| offer.file.id == id)
        };
        let offers = self.server.offers.list().into_iter().filter(asked).take(FILES_MAX);
        let files: Vec<OfferedFile> = offers
            .map(|Offer { file, source }| OfferedFile { file, held: source.progress().held() })
            .collect();
        let payload = serde_json::to_vec(&files).map_err(FrameError::from)?;
        let response = PeerResponse::Files { count: files.len() as u32, length: payload.len() as u64 };
        self.writer.send_with(&response, &payload)
    }

    fn have(&mut self, file: FileId) -> Result<(), StreamError> {
        // Several sources can hold different chunks of a file (a download, a store of replicas): the bitfield
        // is their union.
        let mut map: Option<Bitfield> = None;
        let known = self.subscriptions.iter().any(|subscription| subscription.file == file);
        for source in self.server.offers.all(file) {
            // Only a peer that serves can relay `coming` chunks, and is told of each only once.
            let coming = match self.serves {
                Some(_) if !known && map.is_none() => self.server.offers.relay().subscribe(file),
                _ => ArrivalSubscription::none(),
            };
            let (subscription, have) = Subscription::new(file, source, coming);
            match &mut map {
                None => map = Some(have),
                Some(map) => have.iter().for_each(|index| _ = map.insert(index)),
            }
            if !known && self.subscriptions.len() < SUBSCRIPTIONS_MAX {
                self.subscriptions.push(subscription);
            }
        }
        let Some(map) = map else {
            return self.refuse(ErrorCode::NotFound, format!("peer does not have file {file}"), None);
        };
        // Only subscribed files are left again when the connection ends.
        let new = self.subscriptions.iter_mut().find(|one| !known && one.file == file);
        let mut welcome = None;
        if let (Some(subscription), Some(address)) = (new, self.serves) {
            let Welcome { peers, hints, upstream } =
                self.server.subscribers.join(self.subscriber, address, file, &map);
            welcome = Some((peers, hints));
            subscription.upstream = upstream;
        }
        let placed = self.subscriptions.iter().find(|one| one.file == file);
        let upstreams =
            placed.map(|subscription| subscription.upstream.try_iter().take(STRIPES_MAX).collect());
        let (upstreams, bytes) = (upstreams.unwrap_or_default(), map.to_bytes());
        let response = PeerResponse::Have { file, count: map.count(), length: bytes.len() as u64, upstreams };
        self.writer.send_with(&response, &bytes)?;
        let Some((peers, hints)) = welcome else { return Ok(()) };
        if !peers.is_empty() {
            self.writer.send(&PeerResponse::Peers { file, peers })?;
        }
        self.hint(file, hints)
    }

    fn hint(&mut self, file: FileId, chunks: Vec<ChunkIndex>) -> Result<(), StreamError> {
        match chunks.is_empty() {
            true => Ok(()),
            false => self.writer.send(&PeerResponse::Hints { file, chunks }),
        }
    }

    /// Subscribes to sources of the same files that were added later, and announces their chunks. Called at
    /// each ping.
    fn subscribe_added_sources(&mut self) -> Result<(), StreamError> {
        let files: BTreeSet<FileId> = self.subscriptions.iter().map(|one| one.file).collect();
        for file in files {
            for source in self.server.offers.all(file) {
                let is_known = |one: &Subscription| Arc::ptr_eq(&one.source, &source);
                let full = self.subscriptions.len() >= SUBSCRIPTIONS_MAX;
                if full || self.subscriptions.iter().any(is_known) {
                    continue;
                }
                let (subscription, have) = Subscription::new(file, source, ArrivalSubscription::none());
                // Chunks of the other sources have been announced, or will be.
                let others = self.subscriptions.iter().filter(|one| one.file == file);
                let announced: Vec<Bitfield> = others.map(|one| one.source.progress().have().0).collect();
                let is_news = |index: &ChunkIndex| !announced.iter().any(|announced| announced.has(*index));
                let chunks: Vec<ChunkIndex> = have.iter().filter(is_news).collect();
                self.subscriptions.push(subscription);
                for chunks in chunks.chunks(GOT_MAX) {
                    self.writer.send(&PeerResponse::Got { file, chunks: chunks.to_vec() })?;
                }
            }
        }
        Ok(())
    }

    fn chunk(&mut self, file: FileId, index: ChunkIndex) -> Result<(), StreamError> {
        self.server.offers.served().fetch_add(1, Ordering::Relaxed);
        let subscriptions = self.subscriptions.iter_mut().filter(|one| one.file == file);
        subscriptions.for_each(|subscription| subscription.coming.asked());
        self.hold_pace(file);
        let Some(stored) = self.server.offers.stored(file, index) else {
            return self.refuse(ErrorCode::NotFound, format!("peer does not have file {file}"), Some(index));
        };
        let hints = self.server.subscribers.asked(self.subscriber, file, index);
        self.hint(file, hints)?;
        let mut stored = stored;
        if matches!(stored, Err(StoreError::Missing(_))) {
            if let Some(partial) = self.server.offers.relay().get(file, index) {
                return self.relay_chunk(file, index, &partial);
            }
            // Its last bytes may have been stored just now.
            stored = self.server.offers.stored(file, index).unwrap_or(stored);
        }
        let stored = match stored {
            Ok(stored) => stored,
            Err(error) => {
                let code = match &error {
                    StoreError::Missing(_) => ErrorCode::NotHere,
                    StoreError::Changed(_) => ErrorCode::Changed,
                    _ => ErrorCode::Internal,
                };
                if code != ErrorCode::NotHere {
                    self.server.warn_once(file, &error);
                }
                // Without the error text: it may contain local paths.
                let text = format!("peer does not have chunk {index}");
                return self.refuse(code, text, Some(index));
            }
        };
        log::debug!("serving chunk {index} of {} to {}", file.short(), self.from);
        let response = PeerResponse::Chunk { file, index, length: stored.length };
        let server = self.server;
        let Some(_slot) = server.slot() else { return Err(StreamError::Closed) };
        // Detects changes during the send: a complete file must not change, otherwise the rest is not sent. A
        // part file may.
        let looks = |file: &File| file.metadata().ok().map(|found| (found.len(), found.modified().ok()));
        let whole = server.offers.get(file).is_some_and(|source| source.progress().is_complete());
        let looked = whole.then(|| looks(&stored.file));
        let receiver = self.serves;
        let pace = |bytes| {
            server.pace(bytes);
            server.pace_stripes(file, receiver, bytes);
            match looked.as_ref().is_none_or(|looked| *looked == looks(&stored.file)) {
                true => Ok(()),
                false => Err(StreamError::Closed),
            }
        };
        let sending = self.measure_send(file);
        let _timer = sending.as_ref().map(ChunkSend::start_timer);
        self.writer.send_file(&response, &stored.file, stored.offset, stored.length, pace)?;
        let hints = self.server.subscribers.left(self.subscriber, file, index);
        self.hint(file, hints)
    }

    fn hold_pace(&mut self, file: FileId) {
        let is_held = self.pace.as_ref().is_some_and(|held| held.file() == file);
        if self.server.subscribers.is_split(file) != is_held {
            self.pace = (!is_held).then(|| self.server.offers.relay().pacing().hold(file));
        }
    }

    /// Starts the measurement of the receiver's speed. Not with an upload limit, which would be mistaken for
    /// a slow receiver.
    fn measure_send(&self, file: FileId) -> Option<ChunkSend> {
        let to = self.serves.filter(|_| self.server.limit.is_none());
        to.map(|to| self.server.offers.relay().send_to(file, to))
    }

    /// Relays a chunk while it is being received (cut-through). If its source fails, closes this connection:
    /// the announced length cannot be retracted.
    fn relay_chunk(
        &mut self,
        file: FileId,
        index: ChunkIndex,
        partial: &PartialChunk,
    ) -> Result<(), StreamError> {
        log::debug!("relaying chunk {index} of {} to {}", file.short(), self.from);
        let length = partial.length();
        let server = self.server;
        let Some(_slot) = server.slot() else { return Err(StreamError::Closed) };
        self.writer.send(&PeerResponse::Chunk { file, index, length })?;
        let (mut sent, mut piece) = (0, Vec::new());
        let sending = self.measure_send(file);
        let mut moved = Instant::now();
        while sent < length as usize {
            if server.shutdown.is_stopped() {
                return Err(StreamError::Closed);
            }
            match partial.next(sent, &mut piece, WAIT_CHECK_INTERVAL) {
                Piece::Lost => return Err(StreamError::Truncated),
                Piece::Nothing if moved.elapsed() >= server.timeouts.stall => {
                    return Err(StreamError::TimedOut);
                }
                Piece::Nothing => {}
                Piece::Bytes => {
                    server.pace(piece.len() as u64);
                    server.pace_stripes(file, self.serves, piece.len() as u64);
                    let _timer = sending.as_ref().map(ChunkSend::start_timer);
                    self.writer.send_payload_part(&piece)?;
                    sent += piece.len();
                    moved = Instant::now();
                }
            }
        }
        Ok(())
    }
}
