//! Hostile frames, volunteers and trackers, drawn from a seed, while an honest download runs: it completes, and each program
//! answers afterwards.
//!
//! `ATTACK_SEED` replaces the seed; a failure names it.

use crate::common::scripted::registered;
use crate::common::wire::{FakePeer, PeerClient, Udp, Whole, Wire};
use crate::common::*;
use shoal::content::limits::{FRAME_MAX, LIST_MAX, PEER_LIST_MAX, PROTOCOL_VERSION};
use shoal::content::{ChunkIndex, Digest, FileId, FileName, Md5, PeerName};
use shoal::protocol::ErrorCode;
use shoal::protocol::datagram::Datagram;
use shoal::protocol::frame::encode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::protocol::tokens::{KeyPrint, Nonce, ReportId, VolunteerKey};
use shoal::protocol::tracker::{
    Claim, FileSummary, FoundFile, Registration, SetKey, Token, TrackerRequest, TrackerResponse,
};
use shoal::protocol::volunteer::{KeptFile, VolunteerOrder, VolunteerReport};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Memory that a program under attack may use, bytes.
const MEMORY_MAX: u64 = 160 << 20;
/// Hostile connections to each program.
const CONNECTIONS: usize = 60;
/// Time in which a hostile sender gives up a write: its receiver may not read any more.
const WRITE_TIMEOUT: Duration = Duration::from_millis(200);

/// The seed of a test, which a failure prints.
struct Seed(u64);

impl Seed {
    fn new(default: u64) -> Self {
        let chosen = std::env::var("ATTACK_SEED").ok().map(|text| text.parse().unwrap());
        Self(chosen.unwrap_or(default))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the attack that failed: ATTACK_SEED={}", self.0);
        }
    }
}

/// Draws hostile messages.
struct Attacker {
    random: fastrand::Rng,
    file: FileId,
}

impl Attacker {
    fn new(seed: u64, file: FileId) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), file }
    }

    fn id(&mut self) -> FileId {
        if self.random.bool() { self.file } else { FileId([self.random.u8(..); 32]) }
    }

    /// A number at or near a limit.
    fn number(&mut self) -> u64 {
        let extremes = [0, 1, 2, 63, 64, 65_535, 1 << 20, u32::MAX.into(), i64::MAX as u64, u64::MAX];
        extremes[self.random.usize(..extremes.len())].wrapping_add(self.random.u64(..3)).wrapping_sub(1)
    }

    fn index(&mut self) -> ChunkIndex {
        ChunkIndex(self.number() as u32)
    }

    fn indices(&mut self) -> Vec<ChunkIndex> {
        (0..self.random.usize(..6_000)).map(|_| ChunkIndex(self.random.u32(..))).collect()
    }

    fn address(&mut self) -> SocketAddr {
        let ip = [[127, 0, 0, 1], [0, 0, 0, 0], [255; 4], [224, 0, 0, 1]][self.random.usize(..4)];
        (ip, self.random.u16(..)).into()
    }

    fn summary(&mut self) -> FileSummary {
        let name = FileName::new(format!("hostile {}", self.random.u8(..))).unwrap();
        FileSummary { id: self.id(), name, size: self.number(), chunks: self.number() as u32 }
    }

    fn text(&mut self) -> String {
        let part = ["\u{1b}[2J", "x", "\u{202e}", "\n", "panicked"][self.random.usize(..5)];
        part.repeat(self.random.usize(..3_000))
    }

    fn peer_request(&mut self) -> PeerRequest {
        let (file, index) = (self.id(), self.index());
        match self.random.u8(..11) {
            0 => PeerRequest::Manifest { file },
            1 => PeerRequest::Have { file },
            2 => PeerRequest::Chunk { file, index },
            3 => PeerRequest::Files { name: None, id: Some(file) },
            4 => PeerRequest::Join { file },
            5 => {
                let have = (0..self.random.usize(..3_000)).map(|_| (self.index(), self.index())).collect();
                PeerRequest::Next { file, have }
            }
            6 => PeerRequest::Unreachable { file, peer: self.address() },
            7 => PeerRequest::Prove { file, index, holder: KeyPrint([7; 8]), nonce: Nonce(7) },
            8 => PeerRequest::Corrupt { file, index },
            9 => {
                let name = PeerName::new("hostile").unwrap();
                PeerRequest::Completed { file, report: ReportId(self.number().into()), name }
            }
            _ => PeerRequest::Identify { nonce: Nonce(1) },
        }
    }

    fn tracker_request(&mut self, token: Token) -> TrackerRequest {
        let set = SetKey { set: shoal::content::SetName::new("s").unwrap(), count: self.number() as u32 };
        let index = self.index();
        match self.random.u8(..13) {
            0 => TrackerRequest::Announce {
                token,
                file: self.summary(),
                held: self.number() as u32,
                sent: Some(self.number()),
            },
            1 => TrackerRequest::Withdraw { token, file: self.id(), name: None },
            2 => TrackerRequest::Lookup {
                name: None,
                id: Some(self.id()),
                limit: self.number() as u32,
                token: Some(token),
            },
            3 => TrackerRequest::List,
            4 => TrackerRequest::JoinSet { token, set },
            5 => {
                let claim = Claim { sha256: Digest([self.random.u8(..); 32]), size: self.number() };
                TrackerRequest::Claim { token, set, index, claim }
            }
            6 => TrackerRequest::WhereChunk { token, set, index },
            7 => TrackerRequest::Unreachable { token, set, index, seconds: self.number() },
            8 => TrackerRequest::SetStatus { token, set },
            9 => TrackerRequest::Manifest { file: self.id() },
            10 => TrackerRequest::Volunteer { token, act: self.report() },
            11 => {
                let ip = |_| self.random.u32(..).to_be_bytes().into();
                TrackerRequest::Addresses { token, addresses: (0..20).map(ip).collect() }
            }
            _ => TrackerRequest::Register(Registration::new(
                PeerName::new("hostile").unwrap(),
                self.random.u16(..),
            )),
        }
    }

    /// A report of a volunteer with a false inventory.
    fn report(&mut self) -> VolunteerReport {
        let (file, free) = (self.id(), self.number());
        match self.random.u8(..6) {
            0 => VolunteerReport::Lend {
                key: VolunteerKey(self.random.u128(..4)),
                offered: self.number(),
                free,
                away_s: Some(self.number()),
            },
            1 => {
                let kept = KeptFile { file: self.summary(), md5: Md5([1; 16]) };
                VolunteerReport::Holds { kept, held: self.indices(), checked: self.random.bool() }
            }
            2 => VolunteerReport::Stored { file, index: self.index(), free },
            3 => {
                let (why, text) = (shoal::protocol::volunteer::CopyFailure::Disk, self.text());
                VolunteerReport::NotStored { file, index: self.index(), why, text, free }
            }
            4 => VolunteerReport::Dropped { file, chunks: self.indices(), free },
            _ => VolunteerReport::Spoiled { file, chunks: self.indices(), free },
        }
    }

    /// A message that a hostile tracker or manager sends without a request.
    fn tracker_response(&mut self) -> TrackerResponse {
        let (index, file) = (self.index(), self.id());
        let set = SetKey { set: shoal::content::SetName::new("s").unwrap(), count: self.number() as u32 };
        match self.random.u8(..9) {
            0 => {
                TrackerResponse::Found { files: vec![self.found(); self.random.usize(..70)], truncated: true }
            }
            1 => TrackerResponse::SetSealed { set, file },
            2 => TrackerResponse::Error { code: ErrorCode::Other, text: self.text() },
            3 => {
                let order = match self.random.u8(..4) {
                    0 => VolunteerOrder::Drop { file, chunks: self.indices() },
                    1 => VolunteerOrder::Check { file, chunks: self.indices() },
                    2 => VolunteerOrder::Draining { left: self.number() },
                    _ => {
                        let kept = KeptFile { file: self.summary(), md5: Md5([1; 16]) };
                        VolunteerOrder::Copy { kept, index, from: self.address() }
                    }
                };
                TrackerResponse::Volunteer { order: Box::new(order) }
            }
            4 => TrackerResponse::Peers { count: 1, length: LIST_MAX + 1 },
            5 => TrackerResponse::Manifest {
                file,
                size: self.number(),
                chunk_size: self.number() as u32,
                length: self.number(),
            },
            6 => TrackerResponse::Listing { count: 9, length: self.number() },
            7 => TrackerResponse::ChunkUnknown { set, index },
            _ => TrackerResponse::Alive,
        }
    }

    fn found(&mut self) -> FoundFile {
        let holders = (0..9).map(|_| self.address().into()).collect();
        let (file, holders_count) = (self.summary(), self.number() as u32);
        FoundFile {
            file,
            holders: holders_count,
            complete: holders_count,
            whole: holders,
            partial: vec![],
            md5: None,
        }
    }

    /// A message of a hostile source.
    fn peer_response(&mut self) -> PeerResponse {
        let (file, index) = (self.file, self.index());
        match self.random.u8(..9) {
            0 => PeerResponse::Got { file, chunks: self.indices() },
            1 => PeerResponse::Coming { file: Some(file), index },
            2 => PeerResponse::Place { file, ring: self.random.u8(..), peer: self.address() },
            3 => PeerResponse::Peers {
                file,
                peers: (0..self.random.usize(..70)).map(|_| self.address()).collect(),
            },
            4 => PeerResponse::Chunk { file, index, length: self.number() },
            5 => PeerResponse::Files { count: 1, length: PEER_LIST_MAX + 1 },
            6 => PeerResponse::Manifest {
                file,
                size: self.number(),
                chunk_size: self.number() as u32,
                index: self.number().is_multiple_of(2).then(|| self.number()),
                length: self.number(),
                mode: None,
            },
            7 => PeerResponse::Have {
                file,
                count: self.number() as u32,
                length: self.number(),
                members: Some(self.number() as u32),
                direct: true,
            },
            _ => PeerResponse::Error { code: ErrorCode::Internal, text: self.text(), index: Some(index) },
        }
    }

    /// Damages the bytes of a frame, or returns them unchanged.
    fn mangled(
        &mut self,
        frame: std::result::Result<Vec<u8>, shoal::protocol::frame::FrameError>,
    ) -> Vec<u8> {
        // A list too long for a frame is sent as an endless line.
        let mut bytes = frame.unwrap_or_else(|_| vec![b'['; FRAME_MAX + 1]);
        let at = self.random.usize(..bytes.len());
        match self.random.u8(..8) {
            0 => bytes[at] ^= 1 << self.random.u8(..8),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, b'\n'),
            3 => bytes.splice(at..at, vec![b'['; self.random.usize(..200)]).for_each(drop),
            4 => bytes.extend((0..self.random.usize(..500)).map(|_| self.random.u8(..))),
            _ => {}
        }
        bytes
    }
}

/// Sends hostile frames of both protocols to a program, over connections that it may close at any time.
fn attack(target: SocketAddr, mut attacker: Attacker) {
    for _ in 0..CONNECTIONS {
        let Ok(stream) = TcpStream::connect(target) else { continue };
        stream.set_write_timeout(Some(WRITE_TIMEOUT)).unwrap();
        let is_tracker = attacker.random.bool();
        let hello = match is_tracker {
            true => encode(&TrackerRequest::Hello { version: PROTOCOL_VERSION }),
            false => encode(&PeerRequest::Hello { version: PROTOCOL_VERSION, port: Some(1), site: None }),
        };
        let mut bytes = if attacker.random.u8(..8) == 0 { attacker.mangled(hello) } else { hello.unwrap() };
        if is_tracker {
            let name = PeerName::new(format!("hostile{}", attacker.random.u8(..))).unwrap();
            bytes.extend(encode(&TrackerRequest::Register(Registration::new(name, 1))).unwrap());
        }
        for _ in 0..attacker.random.usize(1..30) {
            let token = Token(attacker.random.u128(..));
            let frame = match is_tracker {
                true => encode(&attacker.tracker_request(token)),
                false => encode(&attacker.peer_request()),
            };
            bytes.extend(attacker.mangled(frame));
        }
        let _ = (&stream).write_all(&bytes);
    }
}

/// Asserts that a program has not panicked and has used little memory.
#[track_caller]
fn assert_healthy(program: &Program) {
    assert!(!program.has_said(FAULT) && !program.has_said("panicked at"));
    let used = program.peak_memory();
    assert!(used < MEMORY_MAX, "peak memory is {used} bytes");
    // Text from outside is escaped.
    assert!(!program.lines().iter().any(|line| line.contains("\u{1b}[2J")));
}

#[test]
fn hostile_frames_to_each_program_do_not_disturb_an_honest_download() {
    let seed = Seed::new(1);
    let place = place();
    let dir = place.path();
    let whole = Whole::new(random_bytes(seed.0, 1_500_000), 16_384);
    let file = write(dir, "a.bin", &whole.bytes);
    let state = dir.join("state");
    let keep = [
        "--files",
        subfolder(dir, "kept").to_str().unwrap(),
        "--state",
        state.to_str().unwrap(),
        "--rebuild",
    ]
    .map(str::to_owned);
    let keep: Vec<&str> = keep.iter().map(String::as_str).collect();
    let tracker = tracker(dir, &keep);
    let manager = manager(dir, &[]);
    let options = ["--chunk-size", "16KiB", "--upload-limit", "1MiB", "--name", "honest"];
    let seeder = seeder(dir, &file, &tracker, &options);
    let shared = subfolder(dir, "shared");
    write(&shared, "b.bin", b"shared bytes");
    let sharing = member(dir, &shared, "sharing", manager.address(), &[]);
    sharing.wait_for_text("sharing b.bin");
    let there = subfolder(dir, "there");
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "-p", "0", "--stay"]);
    let listening = leecher.address();
    let targets = [tracker.address(), manager.address(), seeder.address(), sharing.address(), listening];
    std::thread::scope(|scope| {
        for (number, target) in (0..).zip(targets) {
            let attacker = Attacker::new(seed.0 * 100 + number, whole.id());
            scope.spawn(move || attack(target, attacker));
        }
    });
    leecher.wait_for_text("Successfully downloaded a.bin");
    assert_holds(&there.join("a.bin"), &whole.bytes);
    // Each program answers afterwards.
    assert_eq!(Udp::to(tracker.address()).lookup("a.bin").len(), 1);
    for server in [&seeder, &sharing, &leecher] {
        assert_eq!(PeerClient::connect(server.address()).names().len(), 1);
    }
    let late = subfolder(dir, "late");
    start_member(dir, &late, "late", manager.address(), &["--get", "b.bin", "--wait", "60"]).ends_with(0);
    for program in [&tracker, &manager, &seeder, &sharing, &leecher] {
        assert_healthy(program);
    }
    leecher.interrupt();
    leecher.exit_code();
}

#[test]
fn hostile_sources_do_not_stop_a_download_from_an_honest_one() {
    let seed = Seed::new(2);
    let place = place();
    let dir = place.path();
    let whole = Whole::new(random_bytes(seed.0, 600_000), 16_384);
    let file = write(dir, "a.bin", &whole.bytes);
    let tracker = tracker(dir, &["--lease", "120"]);
    let options = ["--chunk-size", "16KiB", "--upload-limit", "512KiB", "--name", "honest"];
    let _seeder = seeder(dir, &file, &tracker, &options);
    let hostile: Vec<FakePeer> = (0..4)
        .map(|number| {
            let attacker = Mutex::new(Attacker::new(seed.0 * 100 + number, whole.id()));
            FakePeer::answering(&whole, move |_, right| {
                let mut attacker = attacker.lock().unwrap();
                let frame = encode(&attacker.peer_response());
                let bad = attacker.mangled(frame);
                Some(match attacker.random.u8(..4) {
                    0 => bad,
                    1 => [right, bad].concat(),
                    _ => right,
                })
            })
        })
        .collect();
    for (number, peer) in hostile.iter().enumerate() {
        peer.announce(tracker.address(), &format!("hostile{number}"), &whole.summary("a.bin"));
    }
    let there = subfolder(dir, "there");
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "--no-serve"]);
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &whole.bytes);
    assert!(!leecher.has_said("panicked at"));
    assert!(hostile.iter().all(|peer| peer.accepted.try_recv().is_ok()), "a hostile source was not used");
}

/// A tracker that answers datagrams with messages that nothing has asked for, and fills connections with them.
fn hostile_tracker(seed: u64, file: FileId, stop: &Arc<AtomicBool>) -> SocketAddr {
    let (listener, socket) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
            break (listener, socket);
        }
    };
    let address = listener.local_addr().unwrap();
    let mut attacker = Attacker::new(seed, file);
    std::thread::spawn(move || {
        let mut buffer = [0; 2_000];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let Ok(request) = Datagram::<TrackerRequest>::decode(&buffer[..count]) else { continue };
            for tx in [request.tx, request.tx, attacker.number()] {
                let response = match request.message {
                    TrackerRequest::Register(_) => registered(Token(1), attacker.address()),
                    _ => attacker.tracker_response(),
                };
                let mut bytes = serde_json::to_vec(&Datagram::new(tx, None, response)).unwrap();
                bytes.truncate(60_000);
                let _ = socket.send_to(&bytes, from);
            }
        }
    });
    let (stop, connections) = (stop.clone(), AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let number = connections.fetch_add(1, Relaxed) as u64;
            let (stop, mut attacker) = (stop.clone(), Attacker::new(seed + number, file));
            std::thread::spawn(move || {
                let mut wire = Wire::new(stream);
                let (Some(_), Some(request)) =
                    (wire.message::<TrackerRequest>(), wire.message::<TrackerRequest>())
                else {
                    return;
                };
                let _ = wire.send(&TrackerResponse::Hello { version: PROTOCOL_VERSION });
                if matches!(request, TrackerRequest::Register(_)) {
                    let _ = wire.send(&registered(Token(1), attacker.address()));
                    let welcome = Box::new(VolunteerOrder::Welcome);
                    let _ = wire.send(&TrackerResponse::Volunteer { order: welcome });
                }
                while !stop.load(Relaxed) {
                    let frame = encode(&attacker.tracker_response());
                    if wire.send_bytes(&attacker.mangled(frame)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_hostile_tracker_harms_no_client_and_no_stored_chunk() {
    let seed = Seed::new(3);
    let place = place();
    let dir = place.path();
    let whole = Whole::new(random_bytes(seed.0, 300_000), 16_384);
    let file = write(dir, "a.bin", &whole.bytes);
    let stop = Arc::new(AtomicBool::new(false));
    let hostile = hostile_tracker(seed.0, whole.id(), &stop);
    let lent = subfolder(dir, "lent");
    let volunteer = client(dir, &lent, "volunteer", hostile, &["--volunteer", "1MiB"]);
    let manager = hostile_tracker(seed.0 + 50, whole.id(), &stop);
    let sharing = start_member(dir, &subfolder(dir, "shared"), "sharing", manager, &[]);
    let misled = start_seeder(dir, &file, hostile, &["--name", "misled", "--chunk-size", "16KiB"]);
    let address = misled.address();
    volunteer.address();
    sharing.address();
    // A download with the id pinned, from the seeder that has the hostile tracker, finds the right bytes or none.
    let id = whole.id().to_string();
    let there = subfolder(dir, "there");
    let mut leecher =
        leecher(&there, hostile, &["x", "--id", &id, "--wait", "1", "--timeout", "2", "--no-serve"]);
    let code = leecher.exit_code();
    assert!(code.is_some(), "a signal ended the leecher");
    assert!(!there.join("x").exists(), "{code:?}");
    // The seeder serves peers that know its address.
    let mut peer = PeerClient::connect(address);
    let (response, bytes) = peer.ask(&PeerRequest::Chunk { file: whole.id(), index: ChunkIndex(3) });
    assert!(matches!(response, PeerResponse::Chunk { .. }) && bytes == whole.bytes[3 * 16_384..][..16_384]);
    stop.store(true, Relaxed);
    for program in [&volunteer, &sharing, &misled] {
        assert!(!program.has_said("panicked at"));
        assert_healthy(program);
    }
    assert_stays_in(dir, &["a.bin", "lent", "shared", "there"]);
}

/// Asserts that a folder has no other entries than these, log and state of the programs aside.
#[track_caller]
fn assert_stays_in(dir: &Path, wanted: &[&str]) {
    let names =
        names_in(dir).into_iter().filter(|name| !["logs.log", ".state-home"].contains(&name.as_str()));
    assert_eq!(names.collect::<Vec<_>>(), wanted);
}

#[test]
fn a_list_of_a_tracker_is_accepted_up_to_its_limit() {
    let place = place();
    for (length, code) in [(LIST_MAX, 0), (LIST_MAX + 1, 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = std::thread::spawn(move || {
            let mut wire = Wire::new(listener.accept().unwrap().0);
            assert!(wire.message::<TrackerRequest>().is_some());
            wire.send(&TrackerResponse::Hello { version: PROTOCOL_VERSION }).unwrap();
            wire.send(&TrackerResponse::Listing { count: 0, length }).unwrap();
            // An empty JSON array, padded with white space. A program that refuses the list closes the connection.
            let mut payload = vec![b' '; length as usize];
            (payload[0], payload[length as usize - 1]) = (b'[', b']');
            let _ = wire.send_bytes(&payload);
        });
        let mut listing = Program::start("leecher", &["--list", "--tracker", &address], place.path());
        let exit = listing.exit_code();
        assert_eq!(exit == Some(0), code == 0, "{length} bytes: {exit:?}");
        thread.join().unwrap();
    }
}
