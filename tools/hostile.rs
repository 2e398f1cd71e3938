//! Hostile volunteers for tests: they claim chunks that they do not store.
//!
//! One process lends storage under several keys. Each key claims every chunk of every file at once (`--claim all`) or only
//! the chunks that the tracker orders it to copy (`--claim stored`). It stores nothing. `--proof` selects the answer to a
//! demand for a proof: random bytes, a proof over bytes that are fetched from another holder at that moment, or none.
//! It prints `ready` when all keys have lent storage, and ends after `--seconds` or when its standard input is closed.

use clap::{Parser, ValueEnum};
use shoal::content::limits::{NAMED_CHUNKS_MAX, PROTOCOL_VERSION};
use shoal::content::{ChunkIndex, Digest, FileId, PeerName};
use shoal::download::source::PeerConnection;
use shoal::net::framed_stream::split;
use shoal::net::{FrameReader, FrameWriter, Shutdown, Timeouts, UdpClient};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tokens::{KeyPrint, Nonce, Token, VolunteerKey};
use shoal::protocol::tracker::{Registration, TrackerRequest, TrackerResponse};
use shoal::protocol::volunteer::{KeptFile, VolunteerOrder, VolunteerReport, possession_proof};
use shoal::tracker_client::lookup::{Query, list, lookup};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(300);
const OFFERED_BYTES: u64 = 1 << 40;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Claims {
    All,
    Stored,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Proof {
    Random,
    Fetch,
    None,
}

#[derive(Parser)]
struct Flags {
    #[arg(long)]
    tracker: SocketAddr,
    /// Address on which it answers demands for proofs.
    #[arg(long)]
    listen: IpAddr,
    #[arg(long, default_value = "hostile")]
    name: PeerName,
    #[arg(long)]
    claim: Claims,
    #[arg(long)]
    proof: Proof,
    #[arg(long, default_value_t = 1)]
    keys: u32,
    #[arg(long)]
    seconds: Option<f64>,
}

/// The parts that all threads share.
struct Hostile {
    flags: Flags,
    keys: Vec<VolunteerKey>,
    address: SocketAddr,
    shutdown: Shutdown,
}

fn main() {
    let flags = Flags::parse();
    let listener = TcpListener::bind((flags.listen, 0)).unwrap();
    let keys = (0..flags.keys).map(|_| VolunteerKey(fastrand::u128(..))).collect();
    let address = listener.local_addr().unwrap();
    let hostile = Arc::new(Hostile { flags, keys, address, shutdown: Shutdown::new() });
    let server = hostile.clone();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let server = server.clone();
            std::thread::spawn(move || server.serve(Arc::new(stream)));
        }
    });
    let sessions: Vec<_> = hostile.keys.iter().map(|key| hostile.lend(*key)).collect();
    println!("ready");
    for (key, (reader, writer, token)) in hostile.keys.iter().copied().zip(sessions) {
        let hostile = hostile.clone();
        std::thread::spawn(move || hostile.obey(key, reader, writer, token));
    }
    match hostile.flags.seconds {
        Some(seconds) => std::thread::sleep(Duration::from_secs_f64(seconds)),
        None => drop(std::io::stdin().read_to_end(&mut Vec::new())),
    }
}

type Writer = Arc<Mutex<FrameWriter>>;

impl Hostile {
    /// Registers and lends storage under a key.
    fn lend(&self, key: VolunteerKey) -> (FrameReader, Writer, Token) {
        let stream = Arc::new(TcpStream::connect(self.flags.tracker).unwrap());
        let (mut reader, mut writer) = split(&stream, Duration::from_secs(60)).unwrap();
        writer.send(&TrackerRequest::Hello { version: PROTOCOL_VERSION }).unwrap();
        let (name, port, advertise) = (self.flags.name.clone(), self.address.port(), Some(self.address));
        writer
            .send(&TrackerRequest::Register(Registration {
                name,
                port,
                advertise,
                addresses: Vec::new(),
                identity: None,
                volunteer: true,
            }))
            .unwrap();
        let token = loop {
            match reader.message(Duration::from_secs(60)).unwrap() {
                TrackerResponse::Registered { token, .. } => break token,
                TrackerResponse::Hello { .. } => {}
                other => panic!("the tracker answered {other:?}"),
            }
        };
        let report =
            |writer: &mut FrameWriter, act| writer.send(&TrackerRequest::Volunteer { token, act }).unwrap();
        let (offered, free) = (OFFERED_BYTES, OFFERED_BYTES);
        report(&mut writer, VolunteerReport::Lend { key, offered, free, away_s: None });
        if self.flags.claim == Claims::All {
            for kept in self.files() {
                let all: Vec<ChunkIndex> = (0..kept.file.chunks).map(ChunkIndex).collect();
                for held in all.chunks(NAMED_CHUNKS_MAX) {
                    let report_of = |held: &[ChunkIndex]| VolunteerReport::Holds {
                        kept: kept.clone(),
                        held: held.to_vec(),
                        checked: true,
                    };
                    report(&mut writer, report_of(held));
                }
            }
        }
        report(&mut writer, VolunteerReport::Reported);
        (reader, Arc::new(Mutex::new(writer)), token)
    }

    /// The files of the tracker.
    fn files(&self) -> Vec<KeptFile> {
        let found = list(&self.flags.tracker.into(), Timeouts::default(), &self.shutdown).unwrap_or_default();
        found.into_iter().filter_map(|found| Some(KeptFile { file: found.file, md5: found.md5? })).collect()
    }

    /// Answers each order of the tracker as if it had been carried out.
    fn obey(&self, key: VolunteerKey, mut reader: FrameReader, writer: Writer, token: Token) {
        let heart = writer.clone();
        std::thread::spawn(move || {
            while heart.lock().unwrap().send(&TrackerRequest::Heartbeat { token }).is_ok() {
                std::thread::sleep(HEARTBEAT_INTERVAL);
            }
        });
        let free = OFFERED_BYTES;
        while let Ok(message) = reader.message::<TrackerResponse>(Duration::from_secs(600)) {
            let TrackerResponse::Volunteer { order } = message else { continue };
            let act = match *order {
                VolunteerOrder::Copy { kept, index, .. } => {
                    VolunteerReport::Stored { file: kept.file.id, index, free }
                }
                VolunteerOrder::Drop { file, chunks } => VolunteerReport::Dropped { file, chunks, free },
                VolunteerOrder::Check { file, chunks } => {
                    match self.files().into_iter().find(|kept| kept.file.id == file) {
                        Some(kept) => VolunteerReport::Holds { kept, held: chunks, checked: true },
                        None => continue,
                    }
                }
                _ => continue,
            };
            if writer.lock().unwrap().send(&TrackerRequest::Volunteer { token, act }).is_err() {
                return;
            }
        }
        eprintln!("the tracker ended the session of {}", key.print());
    }

    /// Answers a peer.
    fn serve(&self, stream: Arc<TcpStream>) {
        let (mut reader, mut writer) = split(&stream, Duration::from_secs(60)).unwrap();
        while let Ok(request) = reader.message::<PeerRequest>(Duration::from_secs(600)) {
            let refuse =
                |index| PeerResponse::Error { code: ErrorCode::NotHere, text: "no".to_owned(), index };
            let response = match request {
                PeerRequest::Hello { .. } => PeerResponse::Hello { version: PROTOCOL_VERSION, site: None },
                PeerRequest::Ping => PeerResponse::Pong,
                PeerRequest::Prove { file, index, holder, nonce } => {
                    match self.prove(file, index, holder, nonce) {
                        Some(sha256) => PeerResponse::Proof { file, index, sha256 },
                        None => continue,
                    }
                }
                PeerRequest::Chunk { index, .. } => refuse(Some(index)),
                _ => refuse(None),
            };
            if writer.send(&response).is_err() {
                return;
            }
        }
    }

    fn prove(&self, file: FileId, index: ChunkIndex, holder: KeyPrint, nonce: Nonce) -> Option<Digest> {
        match self.flags.proof {
            Proof::Random => Some(Digest(std::array::from_fn(|_| fastrand::u8(..)))),
            Proof::None => None,
            Proof::Fetch => {
                let key = self.keys.iter().find(|key| key.print() == holder)?;
                Some(possession_proof(*key, nonce, &self.fetch(file, index)?))
            }
        }
    }

    /// The bytes of a chunk, from any other holder.
    fn fetch(&self, file: FileId, index: ChunkIndex) -> Option<Vec<u8>> {
        let (timeouts, shutdown) = (Timeouts::default(), &self.shutdown);
        let mut client = UdpClient::new(self.flags.tracker.into(), shutdown);
        let query = Query { id: Some(file), ..Query::default() };
        let found = lookup(&mut client, &query, 64, None, timeouts, shutdown).ok()?;
        let holders = found.into_iter().flat_map(|found| [found.whole, found.partial]).flatten();
        holders.filter(|holder| holder.first() != self.address).find_map(|holder| {
            let mut peer = PeerConnection::open(&holder, None, timeouts, shutdown).ok()?;
            let manifest = peer.manifest(file, shutdown).ok()?;
            let expected = (manifest.digest(index)?, manifest.layout().span(index)?.length);
            let mut bytes = Vec::new();
            peer.chunk(file, index, expected, &mut bytes, shutdown).ok()?;
            Some(bytes)
        })
    }
}
