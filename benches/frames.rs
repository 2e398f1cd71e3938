//! Cost of messages: frames, datagrams, and a datagram through the tracker and back.

use shoal::content::limits::DATAGRAM_MAX;
use shoal::content::{ChunkIndex, FileId, FileName, PeerName};
use shoal::protocol::datagram::{Cookie, CookieJar, Datagram};
use shoal::protocol::frame::{self, Decoder};
use shoal::protocol::peer::PeerResponse;
use shoal::protocol::tracker::{FileSummary, Registration, Token, TrackerRequest, TrackerResponse};
use shoal::swarm::Moment;
use shoal::swarm::machine::{Effect, Machine as _, Origin};
use shoal::swarm::tracker::{Rules, Tracker};
use std::net::SocketAddr;

fn main() {
    divan::main();
}

const NOW: Moment = Moment::from_secs(1);

fn id(number: u32) -> FileId {
    let mut id = [0xab; 32];
    id[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    FileId(id)
}

#[divan::bench]
fn frame_encode(bencher: divan::Bencher) {
    let chunk = PeerResponse::Chunk { file: id(1), index: ChunkIndex(77), length: 524_288 };
    bencher.bench(|| frame::encode(divan::black_box(&chunk)));
}

#[divan::bench]
fn frame_decode(bencher: divan::Bencher) {
    let chunk = PeerResponse::Chunk { file: id(1), index: ChunkIndex(77), length: 524_288 };
    let line = frame::encode(&chunk).unwrap();
    let mut decoder = Decoder::new();
    bencher.bench_local(|| {
        decoder.feed(divan::black_box(&line));
        decoder.next_message::<PeerResponse>()
    });
}

fn datagram(message: TrackerRequest) -> Vec<u8> {
    Datagram::new(123_456, Some(Cookie(0x1234_5678_9abc_def0)), message).encode().unwrap()
}

#[divan::bench]
fn datagram_decode_heartbeat(bencher: divan::Bencher) {
    let bytes = datagram(TrackerRequest::Heartbeat { token: Token(u128::MAX / 3) });
    bencher.bench(|| Datagram::<TrackerRequest>::decode(divan::black_box(&bytes)));
}

#[divan::bench]
fn datagram_decode_lookup(bencher: divan::Bencher) {
    let bytes = datagram(TrackerRequest::Lookup { name: None, id: Some(id(1)), limit: 30, token: None });
    bencher.bench(|| Datagram::<TrackerRequest>::decode(divan::black_box(&bytes)));
}

#[divan::bench]
fn cookie_check(bencher: divan::Bencher) {
    let jar = CookieJar::new([7; 32]);
    let from: SocketAddr = "127.0.0.1:12345".parse().unwrap();
    let cookie = jar.cookie(from, 5);
    bencher.bench(|| jar.validates(cookie, divan::black_box(from), 5));
}

/// A tracker with 1,000 peers and 100 peers per file, and the tokens of the peers.
fn tracker() -> (Tracker, Vec<Token>) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut tracker = Tracker::new(Rules::default(), fastrand::Rng::with_seed(2), move || random.u128(..));
    let mut tokens = Vec::new();
    for number in 0..1_000u16 {
        let origin =
            Origin::Datagram(SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 7000)), 1);
        let name = PeerName::new(format!("peer-{number}")).unwrap();
        let register = TrackerRequest::Register(Registration::new(name, 7000));
        let effects = tracker.request(NOW, origin, register);
        let Effect::Reply(_, TrackerResponse::Registered { token, .. }) = effects[0] else {
            panic!("refused")
        };
        let file = u32::from(number % 10);
        let name = FileName::new(format!("file-{file}.bin")).unwrap();
        let file = FileSummary { id: id(file), name, size: 1 << 30, chunks: 2_048 };
        tracker.request(NOW, origin, TrackerRequest::Announce { token, held: file.chunks, file, sent: None });
        tokens.push(token);
    }
    (tracker, tokens)
}

/// All work of a tracker for a datagram, except the system calls: decoding, the cookie, the state machine, encoding.
/// Messages take the general path; a tracker has a faster path for heartbeats.
fn round_trip(bencher: divan::Bencher, requests: &[Vec<u8>], tracker: &mut Tracker) {
    let jar = CookieJar::new([7; 32]);
    let from: SocketAddr = "127.0.0.1:12345".parse().unwrap();
    let mut answer = Vec::with_capacity(DATAGRAM_MAX);
    let mut next = requests.iter().cycle();
    bencher.bench_local(|| {
        let request = Datagram::<TrackerRequest>::decode(next.next().unwrap()).unwrap();
        divan::black_box(request.cookie.is_some_and(|cookie| jar.validates(cookie, from, 0)));
        let effects = tracker.request(NOW, Origin::Datagram(from, request.tx), request.message);
        for effect in effects {
            if let Effect::Reply(_, response) = effect {
                Datagram::new(request.tx, None, response).write(&mut answer).unwrap();
            }
        }
        answer.len()
    });
}

#[divan::bench]
fn heartbeat_whole_way(bencher: divan::Bencher) {
    let (mut tracker, tokens) = tracker();
    let requests: Vec<_> =
        tokens.into_iter().map(|token| datagram(TrackerRequest::Heartbeat { token })).collect();
    round_trip(bencher, &requests, &mut tracker);
}

#[divan::bench]
fn lookup_of_30_whole_way(bencher: divan::Bencher) {
    let (mut tracker, _) = tracker();
    let lookup = |file| TrackerRequest::Lookup { name: None, id: Some(id(file)), limit: 30, token: None };
    let requests: Vec<_> = (0..10).map(|file| datagram(lookup(file))).collect();
    round_trip(bencher, &requests, &mut tracker);
}
