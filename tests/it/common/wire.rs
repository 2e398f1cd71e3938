//! Speaks the protocol directly over sockets, with correct and incorrect messages.

use super::PATIENCE;
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::content::{Bitfield, Digest, FileId, FileName, Layout, Manifest, ManifestSizes, PeerName};
use shoal::protocol::Message;
use shoal::protocol::datagram::{Cookie, Datagram};
use shoal::protocol::frame::{Decoder, encode};
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tracker::OfferedFile;
use shoal::protocol::tracker::{
    FileSummary, FoundFile, PeerSummary, Registration, Token, TrackerRequest, TrackerResponse,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time without a reply to a datagram after which it is sent again.
const RESEND_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection on which a test sends arbitrary bytes and reads messages.
pub struct Wire {
    pub stream: TcpStream,
    decoder: Decoder,
}

impl Wire {
    /// Connects to an address.
    pub fn connect(address: SocketAddr) -> Self {
        Self::new(TcpStream::connect(address).unwrap())
    }

    /// Wraps an open connection.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, decoder: Decoder::new() }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &impl Message) -> std::io::Result<()> {
        self.stream.write_all(&encode(message).unwrap())
    }

    /// Sends raw bytes.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next message; `None` if the remote side has closed the connection.
    #[track_caller]
    pub fn message<M: Message>(&mut self) -> Option<M> {
        loop {
            if let Some(message) = self.decoder.next_message().unwrap() {
                return Some(message);
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => self.decoder.feed(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no message arrived: {error}"),
            }
        }
    }

    /// The payload of the message read last.
    pub fn payload(&mut self, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        let taken = self.decoder.take(&mut bytes);
        self.stream.read_exact(&mut bytes[taken..]).unwrap();
        bytes
    }

    /// Reads until the remote side closes; a connection that stays open fails the test.
    #[track_caller]
    pub fn is_closed(&mut self) {
        let mut piece = [0; 4096];
        loop {
            match self.stream.read(&mut piece) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the connection is still open: {error}"),
            }
        }
    }
}

/// A UDP client for trackers.
pub struct Udp {
    pub socket: UdpSocket,
    cookie: Option<Cookie>,
    next: u64,
}

impl Udp {
    /// Opens a socket for one tracker.
    pub fn to(tracker: SocketAddr) -> Self {
        Self::from(Ipv4Addr::LOCALHOST, tracker)
    }

    /// Opens a socket with a source address for one tracker.
    pub fn from(source: Ipv4Addr, tracker: SocketAddr) -> Self {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.connect(tracker).unwrap();
        socket.set_read_timeout(Some(RESEND_TIMEOUT)).unwrap();
        Self { socket, cookie: None, next: 0 }
    }

    /// Receives one raw datagram; `None` after the resend timeout, because datagrams may be lost.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 2_000];
        match self.socket.recv(&mut buffer) {
            Ok(count) => Some(buffer[..count].to_vec()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends a request until it is answered, with a cookie if the tracker demands one.
    #[track_caller]
    pub fn ask(&mut self, request: &TrackerRequest) -> TrackerResponse {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            self.next += 1;
            let request_datagram = Datagram::new(self.next, self.cookie, request.clone()).encode().unwrap();
            self.socket.send(&request_datagram).unwrap();
            let Some(answer) = self.receive() else { continue };
            let answer = Datagram::<TrackerResponse>::decode(&answer).unwrap();
            match answer.message {
                TrackerResponse::Cookie { cookie } => self.cookie = Some(cookie),
                other if answer.tx == self.next => return other,
                _ => {}
            }
        }
        panic!("the tracker does not answer");
    }

    /// Looks up a file by name.
    pub fn lookup(&mut self, name: &str) -> Vec<FoundFile> {
        let name = Some(FileName::new(name).unwrap());
        match self.ask(&TrackerRequest::Lookup { name, id: None, limit: 50, token: None }) {
            TrackerResponse::Found { files, .. } => files,
            other => panic!("{other:?}"),
        }
    }

    /// Registers a peer that serves on `port`.
    pub fn register(&mut self, name: &str, port: u16) -> Token {
        let name = PeerName::new(name).unwrap();
        match self.ask(&TrackerRequest::Register(Registration::new(name, port))) {
            TrackerResponse::Registered { token, .. } => token,
            other => panic!("{other:?}"),
        }
    }

    /// Announces a complete file.
    pub fn announce(&mut self, token: Token, file: &FileSummary) {
        let request = TrackerRequest::Announce { token, file: file.clone(), held: file.chunks, sent: None };
        assert_eq!(self.ask(&request), TrackerResponse::Announced { file: file.id });
    }
}

/// A file in memory and its manifest.
#[derive(Clone)]
pub struct Whole {
    pub bytes: Arc<Vec<u8>>,
    pub manifest: Arc<Manifest>,
}

impl Whole {
    /// Splits bytes into chunks.
    pub fn new(bytes: Vec<u8>, chunk_size: u32) -> Self {
        let layout = Layout::even(bytes.len() as u64, Some(chunk_size)).unwrap();
        let digests = layout.indices().map(|index| {
            let span = layout.span(index).unwrap();
            Digest::of(&bytes[span.offset as usize..][..span.length as usize])
        });
        let digests = digests.collect();
        Self { bytes: Arc::new(bytes), manifest: Arc::new(Manifest::new(layout, digests).unwrap()) }
    }

    /// The id of the file.
    pub fn id(&self) -> FileId {
        self.manifest.id()
    }

    /// The summary of the file that a tracker stores.
    pub fn summary(&self, name: &str) -> FileSummary {
        let layout = self.manifest.layout();
        let name = FileName::new(name).unwrap();
        FileSummary { id: self.id(), name, size: layout.size(), chunks: layout.count() }
    }

    /// The correct response to a request, with its payload.
    pub fn answer(&self, request: &PeerRequest) -> Option<(PeerResponse, Vec<u8>)> {
        let (file, layout) = (self.id(), self.manifest.layout());
        Some(match request {
            PeerRequest::Hello { .. } => {
                (PeerResponse::Hello { version: PROTOCOL_VERSION, site: None }, vec![])
            }
            PeerRequest::Ping => (PeerResponse::Pong, vec![]),
            PeerRequest::Manifest { .. } => {
                let payload = self.manifest.payload();
                let ManifestSizes { size, chunk_size, index } = self.manifest.sizes();
                let length = payload.len() as u64;
                (PeerResponse::Manifest { file, size, chunk_size, index, length, mode: None }, payload)
            }
            PeerRequest::Have { .. } => {
                let mut have = Bitfield::none(layout.count());
                layout.indices().for_each(|index| _ = have.insert(index));
                let bytes = have.to_bytes();
                (
                    PeerResponse::Have {
                        file,
                        count: layout.count(),
                        length: bytes.len() as u64,
                        members: None,
                        direct: false,
                    },
                    bytes,
                )
            }
            PeerRequest::Chunk { index, .. } => {
                let span = layout.span(*index)?;
                let bytes = self.bytes[span.offset as usize..][..span.length as usize].to_vec();
                (PeerResponse::Chunk { file, index: *index, length: span.length }, bytes)
            }
            PeerRequest::Files { .. }
            | PeerRequest::Join { .. }
            | PeerRequest::Next { .. }
            | PeerRequest::Unreachable { .. }
            | PeerRequest::Prove { .. }
            | PeerRequest::Identify { .. }
            | PeerRequest::Corrupt { .. }
            | PeerRequest::Completed { .. }
            | PeerRequest::Unknown => return None,
        })
    }
}

/// A peer whose connections are handled by a function of the test. Its threads end with the process of the test.
pub struct FakePeer {
    pub address: SocketAddr,
    pub accepted: std::sync::mpsc::Receiver<SocketAddr>,
}

impl FakePeer {
    /// Listens on a free port.
    pub fn start(handle: impl Fn(Wire) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (notify, accepted) = std::sync::mpsc::channel();
        let handle = Arc::new(handle);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = notify.send(stream.peer_addr().unwrap_or(address));
                let handle = handle.clone();
                std::thread::spawn(move || handle(Wire::new(stream)));
            }
        });
        Self { address, accepted }
    }

    /// A peer that answers correctly, except where `change` replaces the response: it receives the request and the
    /// correct bytes, and returns the bytes to send, or `None` to close the connection.
    pub fn answering(
        whole: &Whole,
        change: impl Fn(&PeerRequest, Vec<u8>) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let whole = whole.clone();
        Self::start(move |mut wire| {
            while let Some(request) = wire.message::<PeerRequest>() {
                let Some((response, payload)) = whole.answer(&request) else { return };
                let right = [encode(&response).unwrap(), payload].concat();
                let Some(bytes) = change(&request, right) else { return };
                if wire.send_bytes(&bytes).is_err() {
                    return;
                }
            }
        })
    }

    /// A peer whose responses are right, except that the last byte of each chunk is wrong.
    pub fn sending_corrupt_chunks(whole: &Whole) -> Self {
        Self::answering(whole, |request, mut right| {
            if let (PeerRequest::Chunk { .. }, Some(last)) = (request, right.last_mut()) {
                *last ^= 1;
            }
            Some(right)
        })
    }

    /// Registers this peer at a tracker and announces a complete file for it.
    pub fn announce(&self, tracker: SocketAddr, name: &str, file: &FileSummary) -> Token {
        let mut udp = Udp::to(tracker);
        let token = udp.register(name, self.address.port());
        udp.announce(token, file);
        token
    }
}

/// A peer of a manager's swarm that consists of sockets only.
pub struct RawPeer {
    pub wire: Wire,
    pub token: Token,
    pub summary: PeerSummary,
    /// The listener of the peer's address; it is bound so that no other program can take the address.
    pub listener: TcpListener,
}

impl RawPeer {
    /// Joins over a new connection.
    #[track_caller]
    pub fn join(manager: SocketAddr, name: &str) -> Self {
        Self::join_over(TcpStream::connect(manager).unwrap(), name)
    }

    /// Joins over an open connection.
    #[track_caller]
    pub fn join_over(stream: TcpStream, name: &str) -> Self {
        let listener = TcpListener::bind((stream.local_addr().unwrap().ip(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut wire = Wire::new(stream);
        let name = PeerName::new(name).unwrap();
        wire.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
        wire.send(&TrackerRequest::Register(Registration::new(name.clone(), address.port()))).unwrap();
        assert_eq!(wire.message(), Some(TrackerResponse::Hello { version: PROTOCOL_VERSION }));
        match wire.message() {
            Some(TrackerResponse::Registered { token, address: told, .. }) => {
                assert_eq!(told, address);
                Self { wire, token, summary: PeerSummary { name, address: address.into() }, listener }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The next list of peers that the manager sends.
    #[track_caller]
    pub fn list(&mut self) -> Vec<PeerSummary> {
        loop {
            match self.wire.message() {
                Some(TrackerResponse::Peers { count, length }) => {
                    let list: Vec<PeerSummary> = serde_json::from_slice(&self.wire.payload(length)).unwrap();
                    assert_eq!(list.len(), count as usize);
                    return list;
                }
                Some(TrackerResponse::Alive | TrackerResponse::Registered { .. }) => {}
                other => panic!("{} is told {other:?}", self.summary.name.as_str()),
            }
        }
    }

    /// The names on the next list, sorted.
    #[track_caller]
    pub fn names(&mut self) -> Vec<String> {
        let mut names: Vec<String> = self.list().iter().map(|peer| peer.name.as_str().to_owned()).collect();
        names.sort();
        names
    }

    /// Reads lists until one has exactly these names.
    #[track_caller]
    pub fn wait_for_names(&mut self, wanted: &[&str]) {
        let mut last = vec![];
        let deadline = Instant::now() + PATIENCE;
        while last != wanted {
            assert!(Instant::now() < deadline, "the last list has {last:?} instead of {wanted:?}");
            last = self.names();
        }
    }

    /// The next message that is not a list of peers; `None` if the manager has closed the connection.
    #[track_caller]
    pub fn answer(&mut self) -> Option<TrackerResponse> {
        loop {
            match self.wire.message() {
                Some(TrackerResponse::Peers { length, .. }) => drop(self.wire.payload(length)),
                other => return other,
            }
        }
    }

    /// Sends a heartbeat and asserts that the manager acknowledges it.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        self.wire.send(&TrackerRequest::Heartbeat { token: self.token }).unwrap();
        assert_eq!(self.answer(), Some(TrackerResponse::Alive));
    }

    /// Sends a goodbye and waits for its acknowledgement.
    #[track_caller]
    pub fn leave(mut self) {
        self.wire.send(&TrackerRequest::Goodbye { token: self.token }).unwrap();
        assert_eq!(self.answer(), Some(TrackerResponse::Farewell));
    }
}

/// Sends heartbeats for raw peers, as datagrams, from a thread that ends when this is dropped.
pub struct Heartbeats {
    stop: Option<std::sync::mpsc::Sender<()>>,
    tokens: Arc<std::sync::Mutex<Vec<Token>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Heartbeats {
    /// Sends one heartbeat for each peer in every `interval`.
    pub fn start(manager: SocketAddr, interval: Duration) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let tokens = Arc::new(std::sync::Mutex::new(Vec::<Token>::new()));
        let peers = tokens.clone();
        let thread = std::thread::spawn(move || {
            let mut udp = Udp::to(manager);
            while stopped.recv_timeout(interval) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let tokens = peers.lock().unwrap().clone();
                tokens.into_iter().for_each(|token| _ = udp.ask(&TrackerRequest::Heartbeat { token }));
            }
        });
        Self { stop: Some(stop), tokens, thread: Some(thread) }
    }

    /// Starts the heartbeats of a peer.
    pub fn add(&self, token: Token) {
        self.tokens.lock().unwrap().push(token);
    }

    /// Stops the heartbeats of a peer.
    pub fn remove(&self, token: Token) {
        self.tokens.lock().unwrap().retain(|other| *other != token);
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.stop.take();
        // If the test fails, the manager may have ended, and the thread waits for a reply until its timeout.
        if let (Some(thread), false) = (self.thread.take(), std::thread::panicking()) {
            thread.join().unwrap();
        }
    }
}

/// A connection to a peer that sends one request at a time.
pub struct PeerClient(Wire);

impl PeerClient {
    /// Connects and performs the hello handshake.
    #[track_caller]
    pub fn connect(peer: SocketAddr) -> Self {
        let mut wire = Wire::connect(peer);
        wire.send(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: None, site: None }).unwrap();
        assert_eq!(wire.message(), Some(PeerResponse::Hello { version: PROTOCOL_VERSION, site: None }));
        Self(wire)
    }

    /// Sends a request, and returns the response and its payload.
    #[track_caller]
    pub fn ask(&mut self, request: &PeerRequest) -> (PeerResponse, Vec<u8>) {
        self.0.send(request).unwrap();
        let response = self.0.message().expect("an answer");
        let length = match &response {
            PeerResponse::Manifest { length, .. }
            | PeerResponse::Have { length, .. }
            | PeerResponse::Files { length, .. } => *length,
            PeerResponse::Chunk { length, .. } => *length,
            _ => 0,
        };
        (response, self.0.payload(length))
    }

    /// All files that the peer offers.
    #[track_caller]
    pub fn files(&mut self) -> Vec<OfferedFile> {
        match self.ask(&PeerRequest::Files { name: None, id: None }) {
            (PeerResponse::Files { .. }, payload) => serde_json::from_slice(&payload).unwrap(),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// The sorted names of the files that the peer offers.
    #[track_caller]
    pub fn names(&mut self) -> Vec<String> {
        let mut names: Vec<String> =
            self.files().iter().map(|offered| offered.file.name.as_str().to_owned()).collect();
        names.sort();
        names
    }
}
