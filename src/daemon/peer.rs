//! The serving side of a peer: whoever connects gets manifests, have-maps and chunks of what is on the shelf.
//!
//! A connection has a reading thread, which takes requests in, and a writing thread, which answers them in order
//! and tells of new chunks in between. Invariant: whole chunks leave this machine only when a
//! [`ChunkSource`] vouches for them; of one that is arriving all but the last bytes may go on before ([`relay`](super::relay)).

use super::pacing::Held;
use super::relay::{ArrivalSubscription, ChunkSend, PartialChunk, Piece};
use super::shelf::{Offer, Offers};
use super::upload_limit::{UploadLimit, UploadSlot};
use super::visitors::{SubscriberId, Subscribers, Welcome};
use crate::content::limits::{self, NEWS_PAUSE, PROTOCOL_VERSION, SERVE_QUEUE};
use crate::content::{ChunkIndex, FileId, FileName, HaveMap};
use crate::net::link::halves;
use crate::net::{Activity, LinkError, LinkReader, LinkWriter, Listener, Shutdown, Threads, Timeouts};
use crate::protocol::ErrorCode;
use crate::protocol::frame::FrameError;
use crate::protocol::peer::{OfferedFile, PeerRequest, PeerResponse, Upstream};
use crate::storage::{ChunkSource, StoreError};
use crate::swarm::picker::STRIPES_MAX;
use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, bounded, never};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Files that one connection is told news of.
const SUBSCRIPTIONS_MAX: usize = 16;
/// Files named in one answer.
const FILES_MAX: usize = 65_536;
/// How often one that waits for a chunk to come looks whether it is still to wait.
const GLANCE: Duration = Duration::from_millis(100);
/// Chunks named in one `got`.
const GOT_MAX: usize = 4_096;

/// Somebody who serves as well has asked for a file: it may have, or get, chunks of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiscoveredPeer {
    /// Where it serves.
    pub address: SocketAddr,
    /// The file.
    pub file: FileId,
}

/// How a peer serves.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Connections at once.
    pub connections: usize,
    /// Bytes a second for all of them together; 0 for as fast as it goes.
    pub upload_limit: u64,
    /// How long connections are waited for, also those that this program makes to other peers.
    pub timeouts: Timeouts,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { connections: limits::CONNECTIONS_MAX, upload_limit: 0, timeouts: Timeouts::default() }
    }
}

/// What the threads of a server share.
struct Server {
    offers: Offers,
    limit: Option<UploadLimit>,
    timeouts: Timeouts,
    discovered: Option<Sender<DiscoveredPeer>>,
    subscribers: Subscribers,
    /// Files that something is wrong with, which has been said.
    complained: Mutex<BTreeSet<FileId>>,
    threads: Threads,
    shutdown: Shutdown,
}

/// Serves what is on the shelf until the shutdown. Peers who serve as well are reported to `met`; reports that find
/// it full are dropped.
///
/// # Errors
/// When no thread can be spawned.
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
        complained: Mutex::default(),
        threads: threads.clone(),
        shutdown: shutdown.clone(),
    });
    listener.serve("serve", options.connections, threads, shutdown, move |stream, from, activity| {
        match server.converse(stream, from, activity) {
            LinkError::Closed => log::debug!("{from} has closed its connection"),
            LinkError::TimedOut => log::debug!("{from} has asked for nothing for a while"),
            _ if server.shutdown.is_stopped() => {}
            // Anybody can make a connection and say nonsense: that must not fill the log.
            why => log::debug!("dropping {from}: {why}"),
        }
    })
}

impl Server {
    fn converse(
        self: &Arc<Self>,
        stream: Arc<TcpStream>,
        from: SocketAddr,
        activity: &Activity,
    ) -> LinkError {
        let (mut reader, mut writer) = match halves(&stream, self.timeouts.stall) {
            Ok(halves) => halves,
            Err(error) => return error.into(),
        };
        let port = match hello(&mut reader, &mut writer, self.timeouts.hello) {
            Ok(port) => port,
            Err(error) => return error,
        };
        let (requests, queued) = bounded(SERVE_QUEUE);
        // Closes when the writing has ended: this connection's place and guard last until then.
        let (writing, written) = bounded::<Infallible>(0);
        let (server, shut) = (self.clone(), stream.clone());
        let spawned = self.threads.spawn("serve-out", move || {
            let _writing = writing;
            let serves = port.map(|port| SocketAddr::new(from.ip(), port));
            if let Err(error) = ResponseWriter::new(&server, writer, from, serves).run(&queued) {
                log::debug!("answering {from}: {error}");
            }
            // Whatever ended the writing ends the reading.
            let _ = shut.shutdown(std::net::Shutdown::Both);
        });
        if let Err(error) = spawned {
            return error.into();
        }
        let why = self.take_requests(&mut reader, &requests, (from, port), activity);
        drop(requests);
        // Who has closed only its own side may still read the answers to what it asked.
        if !matches!(why, LinkError::Closed) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let _ = written.recv();
        why
    }

    fn take_requests(
        &self,
        reader: &mut LinkReader,
        requests: &Sender<PeerRequest>,
        (from, port): (SocketAddr, Option<u16>),
        activity: &Activity,
    ) -> LinkError {
        loop {
            let request = match reader.message(self.timeouts.idle) {
                Ok(request) => request,
                Err(error) => return error,
            };
            activity.note();
            self.note_discovered(&request, from, port);
            // The queue is short: who asks faster than it reads waits here.
            if requests.send(request).is_err() {
                return LinkError::Closed;
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

    /// Said once for each file, and not for each chunk that somebody asks for.
    fn complain(&self, file: FileId, error: &StoreError) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        match complained.insert(file) {
            true => log::warn!("{} is not served any more: {error}", file.short()),
            false => log::debug!("a chunk of {} is not served: {error}", file.short()),
        }
    }

    /// With an upload limit, waits for one of the chunks on their way to be through. `None` at the shutdown.
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

    /// Where there are several stripes, waits until it is somebody's turn to be given so much.
    fn take_turns(&self, file: FileId, taker: Option<SocketAddr>, bytes: u64) {
        let wait = taker.map(|taker| self.offers.relay().pacing().give(file, taker, bytes));
        if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
            self.shutdown.wait(wait);
        }
    }
}

/// Reads the hello and answers it; returns the port on which the other side serves.
fn hello(
    reader: &mut LinkReader,
    writer: &mut LinkWriter,
    patience: Duration,
) -> Result<Option<u16>, LinkError> {
    let (code, text) = match reader.message(patience) {
        Ok(PeerRequest::Hello { version: PROTOCOL_VERSION, port }) => {
            writer.send(&PeerResponse::Hello { version: PROTOCOL_VERSION })?;
            return Ok(port.filter(|port| *port != 0));
        }
        Ok(PeerRequest::Hello { version, .. }) => {
            let text = format!("version {PROTOCOL_VERSION} is spoken here, not {version}");
            (ErrorCode::UnknownVersion, text)
        }
        Ok(_) => (ErrorCode::Malformed, "a conversation opens with hello".to_owned()),
        Err(LinkError::Frame(error)) => (ErrorCode::Malformed, error.to_string()),
        Err(error) => return Err(error),
    };
    writer.send(&PeerResponse::Error { code, text: text.clone(), index: None })?;
    Err(LinkError::Io(io::Error::new(io::ErrorKind::InvalidData, text)))
}

/// A file that the other side is told news of.
struct Subscription {
    file: FileId,
    source: Arc<dyn ChunkSource>,
    cursor: usize,
    news: Receiver<()>,
    /// Chunks that begin to arrive here; never ready for who does not pass them on.
    coming: ArrivalSubscription,
    /// Whom the other side had better ask first, whenever that changes.
    upstream: Receiver<Upstream>,
}

impl Subscription {
    /// With what there is at this moment, so that nothing is missed.
    fn new(file: FileId, source: Arc<dyn ChunkSource>, coming: ArrivalSubscription) -> (Self, HaveMap) {
        let news = source.progress().subscribe();
        let (have, cursor) = source.progress().have();
        (Self { file, source, cursor, news, coming, upstream: never() }, have)
    }
}

/// The writing thread of a connection.
struct ResponseWriter<'a> {
    server: &'a Server,
    writer: LinkWriter,
    from: SocketAddr,
    /// Who it is, and where it serves, if it does.
    subscriber: SubscriberId,
    serves: Option<SocketAddr>,
    subscriptions: Vec<Subscription>,
    /// The pace of a file that is dealt out from here in several stripes.
    pace: Option<Held>,
    /// When news was last told.
    told: Instant,
}

impl Drop for ResponseWriter<'_> {
    fn drop(&mut self) {
        self.subscriptions.iter().for_each(|subscription| {
            self.server.subscribers.leave(self.subscriber, subscription.file);
        });
    }
}

impl<'a> ResponseWriter<'a> {
    fn new(server: &'a Server, writer: LinkWriter, from: SocketAddr, serves: Option<SocketAddr>) -> Self {
        let subscriber = server.subscribers.name();
        let (subscriptions, pace) = (Vec::new(), None);
        Self { server, writer, from, subscriber, serves, subscriptions, pace, told: Instant::now() }
    }

    fn run(mut self, requests: &Receiver<PeerRequest>) -> Result<(), LinkError> {
        loop {
            let mut select = Select::new();
            let asked = select.recv(requests);
            for subscription in &self.subscriptions {
                select.recv(subscription.coming.chunks());
                select.recv(&subscription.upstream);
            }
            // News waits a while for more: who fetches knows already of most of it, that it was coming.
            let quiet = self.told + NEWS_PAUSE;
            let hears_news = Instant::now() >= quiet;
            for subscription in self.subscriptions.iter().filter(|_| hears_news) {
                select.recv(&subscription.news);
            }
            let ready = match hears_news {
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
                Some(ready) if ready <= 2 * self.subscriptions.len() => self.tell_way((ready - 1) / 2)?,
                Some(_) => self.tell_news()?,
                // From now on news is waited for, however long: where there is none nobody wakes up.
                None => {}
            }
        }
    }

    /// A chunk that begins to arrive can be asked for, if the other side does such a thing; and who is to be asked first
    /// may have changed.
    fn tell_way(&mut self, at: usize) -> Result<(), LinkError> {
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

    /// Each chunk that has come since the last time is named once; what is gone again is not.
    fn tell_news(&mut self) -> Result<(), LinkError> {
        self.told = Instant::now();
        for subscription in &self.subscriptions {
            let _ = subscription.news.try_recv();
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

    fn answer(&mut self, request: PeerRequest) -> Result<(), LinkError> {
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
                self.look_again()?;
                self.writer.send(&PeerResponse::Pong)
            }
            PeerRequest::Hello { .. } => self.refuse(ErrorCode::Malformed, "hello was said already", None),
            PeerRequest::Unknown => {
                self.refuse(ErrorCode::UnknownMessage, "this is a peer, and it does not know the message; name a tracker with --tracker HOST:PORT, a manager with --manager HOST:PORT", None)
            }
        }
    }

    fn refuse(
        &mut self,
        code: ErrorCode,
        text: impl Into<String>,
        index: Option<ChunkIndex>,
    ) -> Result<(), LinkError> {
        let text = text.into();
        log::debug!("refusing {}: {text}", self.from);
        self.writer.send(&PeerResponse::Error { code, text, index })
    }

    fn manifest(&mut self, file: FileId) -> Result<(), LinkError> {
        let Some(manifest) = self.server.offers.get(file).and_then(|source| source.manifest()) else {
            return self.refuse(ErrorCode::NotFound, format!("no manifest of {file} here"), None);
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

    /// What is offered of a name, of an id, or at all. The list is cut where it would be too long.
    fn files(&mut self, name: Option<&FileName>, id: Option<FileId>) -> Result<(), LinkError> {
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

    fn have(&mut self, file: FileId) -> Result<(), LinkError> {
        // A download may stand beside chunks that are kept for others: together they have more.
        let mut map: Option<HaveMap> = None;
        let known = self.subscriptions.iter().any(|subscription| subscription.file == file);
        for source in self.server.offers.all(file) {
            // Only who passes on what it gets can make use of what is coming, and is told of it once.
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
            return self.refuse(ErrorCode::NotFound, format!("no file {file} here"), None);
        };
        // What is not subscribed to is not left again, either.
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

    fn hint(&mut self, file: FileId, chunks: Vec<ChunkIndex>) -> Result<(), LinkError> {
        match chunks.is_empty() {
            true => Ok(()),
            false => self.writer.send(&PeerResponse::Hints { file, chunks }),
        }
    }

    /// Tells of what has been put on the shelf beside what the other side is told news of. Looked for whenever it says
    /// that it waits.
    fn look_again(&mut self) -> Result<(), LinkError> {
        let files: BTreeSet<FileId> = self.subscriptions.iter().map(|one| one.file).collect();
        for file in files {
            for source in self.server.offers.all(file) {
                let is_known = |one: &Subscription| Arc::ptr_eq(&one.source, &source);
                let full = self.subscriptions.len() >= SUBSCRIPTIONS_MAX;
                if full || self.subscriptions.iter().any(is_known) {
                    continue;
                }
                let (subscription, have) = Subscription::new(file, source, ArrivalSubscription::none());
                // What the others have is told already, or about to be.
                let others = self.subscriptions.iter().filter(|one| one.file == file);
                let told: Vec<HaveMap> = others.map(|one| one.source.progress().have().0).collect();
                let is_news = |index: &ChunkIndex| !told.iter().any(|told| told.has(*index));
                let chunks: Vec<ChunkIndex> = have.iter().filter(is_news).collect();
                self.subscriptions.push(subscription);
                for chunks in chunks.chunks(GOT_MAX) {
                    self.writer.send(&PeerResponse::Got { file, chunks: chunks.to_vec() })?;
                }
            }
        }
        Ok(())
    }

    fn chunk(&mut self, file: FileId, index: ChunkIndex) -> Result<(), LinkError> {
        self.server.offers.served().fetch_add(1, Ordering::Relaxed);
        let subscriptions = self.subscriptions.iter_mut().filter(|one| one.file == file);
        subscriptions.for_each(|subscription| subscription.coming.asked());
        self.hold_pace(file);
        let Some(stored) = self.server.offers.stored(file, index) else {
            return self.refuse(ErrorCode::NotFound, format!("no file {file} here"), Some(index));
        };
        let hints = self.server.subscribers.asked(self.subscriber, file, index);
        self.hint(file, hints)?;
        let mut stored = stored;
        if matches!(stored, Err(StoreError::Missing(_))) {
            if let Some(partial) = self.server.offers.relay().get(file, index) {
                return self.pass_on(file, index, &partial);
            }
            // It may have come to its end just now.
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
                    self.server.complain(file, &error);
                }
                // Paths of this machine are nobody else's business.
                let text = format!("chunk {index} cannot be had here");
                return self.refuse(code, text, Some(index));
            }
        };
        log::debug!("serving chunk {index} of {} to {}", file.short(), self.from);
        let response = PeerResponse::Chunk { file, index, length: stored.length };
        let server = self.server;
        let Some(_slot) = server.slot() else { return Err(LinkError::Closed) };
        // A part file is written to all the time; what is complete must stay as it is, or the rest is not sent.
        let looks = |file: &File| file.metadata().ok().map(|found| (found.len(), found.modified().ok()));
        let whole = server.offers.get(file).is_some_and(|source| source.progress().is_complete());
        let looked = whole.then(|| looks(&stored.file));
        let taker = self.serves;
        let pace = |bytes| {
            server.pace(bytes);
            server.take_turns(file, taker, bytes);
            match looked.as_ref().is_none_or(|looked| *looked == looks(&stored.file)) {
                true => Ok(()),
                false => Err(LinkError::Closed),
            }
        };
        let sending = self.sends(file);
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

    /// How long a chunk takes the other side is looked at where nothing but its link can be the cause: a rate limit here
    /// is not its fault.
    fn sends(&self, file: FileId) -> Option<ChunkSend> {
        let to = self.serves.filter(|_| self.server.limit.is_none());
        to.map(|to| self.server.offers.relay().send_to(file, to))
    }

    /// Sends a chunk while it is being received. If it is lost, so is this connection: what has been said of the
    /// chunk's length cannot be taken back.
    fn pass_on(&mut self, file: FileId, index: ChunkIndex, partial: &PartialChunk) -> Result<(), LinkError> {
        log::debug!("passing chunk {index} of {} on to {}", file.short(), self.from);
        let length = partial.length();
        let server = self.server;
        let Some(_slot) = server.slot() else { return Err(LinkError::Closed) };
        self.writer.send(&PeerResponse::Chunk { file, index, length })?;
        let (mut sent, mut piece) = (0, Vec::new());
        let sending = self.sends(file);
        let mut moved = Instant::now();
        while sent < length as usize {
            if server.shutdown.is_stopped() {
                return Err(LinkError::Closed);
            }
            match partial.next(sent, &mut piece, GLANCE) {
                Piece::Lost => return Err(LinkError::Torn),
                Piece::Nothing if moved.elapsed() >= server.timeouts.stall => {
                    return Err(LinkError::TimedOut);
                }
                Piece::Nothing => {}
                Piece::Bytes => {
                    server.pace(piece.len() as u64);
                    server.take_turns(file, self.serves, piece.len() as u64);
                    let _timer = sending.as_ref().map(ChunkSend::start_timer);
                    self.writer.send_piece(&piece)?;
                    sent += piece.len();
                    moved = Instant::now();
                }
            }
        }
        Ok(())
    }
}
