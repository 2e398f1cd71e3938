//! A scripted tracker: the test itself sends each message of the tracker's side.

use super::wire::{Whole, Wire};
use shoal::content::limits::PROTOCOL_VERSION;
use shoal::content::{ChunkIndex, FileId, Md5};
use shoal::protocol::datagram::Datagram;
use shoal::protocol::tokens::{Token, VolunteerKey};
use shoal::protocol::tracker::{FoundFile, TrackerRequest, TrackerResponse};
use shoal::protocol::volunteer::{KeptFile, VolunteerOrder, VolunteerReport};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

/// A tracker that accepts connections for the test, and answers datagrams by itself.
pub struct ScriptedTracker {
    pub address: SocketAddr,
    listener: TcpListener,
    found: Arc<Mutex<Vec<FoundFile>>>,
}

impl ScriptedTracker {
    /// Listens on a free port. The thread for datagrams ends with the process of the test.
    pub fn start() -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            // Another program may have the same port number for UDP.
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, socket);
            }
        };
        let found: Arc<Mutex<Vec<FoundFile>>> = Arc::default();
        let known = found.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 2_000];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                let Ok(request) = Datagram::<TrackerRequest>::decode(&buffer[..count]) else { continue };
                let response = match request.message {
                    TrackerRequest::Register(registration) => {
                        registered(Token(1), SocketAddr::new(from.ip(), registration.port))
                    }
                    TrackerRequest::Announce { file, .. } => TrackerResponse::Announced { file: file.id },
                    TrackerRequest::Withdraw { file, .. } => TrackerResponse::Withdrawn { file },
                    TrackerRequest::Goodbye { .. } => TrackerResponse::Farewell,
                    TrackerRequest::Lookup { .. } => {
                        TrackerResponse::Found { files: known.lock().unwrap().clone(), truncated: false }
                    }
                    _ => TrackerResponse::Alive,
                };
                let _ = socket.send_to(&Datagram::new(request.tx, None, response).encode().unwrap(), from);
            }
        });
        Self { address: listener.local_addr().unwrap(), listener, found }
    }

    /// Sets the files that lookups return from now on.
    pub fn find(&self, files: Vec<FoundFile>) {
        *self.found.lock().unwrap() = files;
    }

    /// Accepts the next peer that registers over a connection. Connections for other requests, which programs open when
    /// a busy machine answers datagrams late, are closed.
    #[track_caller]
    pub fn registers(&self) -> Session {
        let (mut wire, from, registration) = loop {
            let (stream, from) = self.listener.accept().unwrap();
            let mut wire = Wire::new(stream);
            match (wire.message(), wire.message()) {
                (
                    Some(TrackerRequest::Hello { version: PROTOCOL_VERSION }),
                    Some(TrackerRequest::Register(registration)),
                ) => break (wire, from, registration),
                other => eprintln!("the scripted tracker closes a connection that began with {other:?}"),
            }
        };
        let address = SocketAddr::new(from.ip(), registration.port);
        let token = Token(u128::from(from.port()) << 64);
        wire.send(&TrackerResponse::Hello { version: PROTOCOL_VERSION }).unwrap();
        wire.send(&registered(token, address)).unwrap();
        Session { wire, token, address, key: VolunteerKey(0), offered: 0, free: 0, away_s: None }
    }

    /// Accepts the next volunteer, welcomes it, and returns the chunks that it reports.
    #[track_caller]
    pub fn volunteer(&self) -> (Session, Held) {
        let mut session = self.registers();
        let held = session.report();
        session.order(VolunteerOrder::Welcome);
        (session, held)
    }
}

/// The response to a registration.
pub fn registered(token: Token, address: SocketAddr) -> TrackerResponse {
    TrackerResponse::Registered {
        token,
        address,
        heartbeat_ms: 5_000,
        lease_ms: 10_000,
        public: false,
        role: None,
    }
}

/// The chunks that a volunteer reports: verified since its start, and not yet verified.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub checked: BTreeSet<(FileId, u32)>,
    pub unchecked: BTreeSet<(FileId, u32)>,
}

impl Held {
    /// Adds the chunks of one report; a chunk that is verified is removed from the unverified chunks.
    pub fn note(&mut self, kept: &KeptFile, chunks: &[ChunkIndex], checked: bool) {
        for index in chunks {
            let chunk = (kept.file.id, index.0);
            self.unchecked.remove(&chunk);
            match checked {
                true => self.checked.insert(chunk),
                false => self.unchecked.insert(chunk),
            };
        }
    }
}

/// The tracker's end of a volunteer's connection.
pub struct Session {
    pub wire: Wire,
    pub token: Token,
    /// The address on which the volunteer serves chunks.
    pub address: SocketAddr,
    pub key: VolunteerKey,
    pub offered: u64,
    pub free: u64,
    pub away_s: Option<u64>,
}

impl Session {
    /// The next request that is not a heartbeat. `None` if the peer has closed the connection.
    #[track_caller]
    pub fn request(&mut self) -> Option<TrackerRequest> {
        loop {
            match self.wire.message()? {
                TrackerRequest::Heartbeat { .. } => self.wire.send(&TrackerResponse::Alive).unwrap(),
                other => return Some(other),
            }
        }
    }

    /// The next volunteer report.
    #[track_caller]
    pub fn said(&mut self) -> VolunteerReport {
        match self.request() {
            Some(TrackerRequest::Volunteer { token, act }) => {
                assert!(token == self.token, "the volunteer uses another token");
                act
            }
            other => panic!("unexpected request: {other:?}"),
        }
    }

    /// The next volunteer report that is not about held chunks.
    #[track_caller]
    pub fn answer(&mut self) -> VolunteerReport {
        loop {
            match self.said() {
                VolunteerReport::Holds { .. } => {}
                other => return other,
            }
        }
    }

    /// The chunks that the volunteer reports after its storage offer, up to `reported`.
    #[track_caller]
    pub fn report(&mut self) -> Held {
        match self.said() {
            VolunteerReport::Lend { key, offered, free, away_s } => {
                (self.key, self.offered, self.free, self.away_s) = (key, offered, free, away_s);
            }
            other => panic!("the first report is {other:?}"),
        }
        let mut all = Held::default();
        loop {
            match self.said() {
                VolunteerReport::Holds { kept, held, checked } => all.note(&kept, &held, checked),
                VolunteerReport::Reported => return all,
                other => panic!("unexpected report: {other:?}"),
            }
        }
    }

    /// Sends an order to the volunteer.
    pub fn order(&mut self, order: VolunteerOrder) {
        self.wire.send(&TrackerResponse::Volunteer { order: Box::new(order) }).unwrap();
    }

    /// Orders the volunteer to copy one chunk.
    pub fn order_copy(&mut self, kept: &KeptFile, index: u32, from: SocketAddr) {
        self.order(VolunteerOrder::Copy { kept: kept.clone(), index: ChunkIndex(index), from });
    }

    /// Orders the volunteer to copy chunks, and waits until they are stored.
    #[track_caller]
    pub fn copy(&mut self, kept: &KeptFile, chunks: &[u32], from: SocketAddr) {
        chunks.iter().for_each(|index| self.order_copy(kept, *index, from));
        let mut left: BTreeSet<u32> = chunks.iter().copied().collect();
        while !left.is_empty() {
            match self.answer() {
                VolunteerReport::Stored { file, index, free } => {
                    assert!(file == kept.file.id && left.remove(&index.0));
                    self.free = free;
                }
                other => panic!("unexpected report: {other:?}"),
            }
        }
    }

    /// Waits for the volunteer's goodbye and answers it. Reports of verified chunks, and of copies that its interruption
    /// ended, may come before.
    #[track_caller]
    pub fn says_goodbye(mut self) {
        loop {
            match self.request() {
                Some(TrackerRequest::Goodbye { token }) => break assert!(token == self.token),
                Some(TrackerRequest::Volunteer {
                    act: VolunteerReport::Holds { .. } | VolunteerReport::NotStored { .. },
                    ..
                }) => {}
                other => panic!("unexpected request: {other:?}"),
            }
        }
        self.wire.send(&TrackerResponse::Farewell).unwrap();
        self.wire.is_closed();
    }
}

/// The entry of a file that a tracker replicates.
pub fn kept(whole: &Whole, name: &str) -> KeptFile {
    let mut hasher = shoal::content::md5::Md5Hasher::new();
    hasher.update(&whole.bytes);
    let md5: Md5 = hasher.finish();
    KeptFile { file: whole.summary(name), md5 }
}
