//! Cost of peers in a tracker, by their number: time, and memory (`max alloc` of `memory` is the memory that they
//! use).

use shoal::content::{FileId, FileName, PeerName};
use shoal::protocol::tracker::{FileSummary, Token};
use shoal::swarm::Moment;
use shoal::swarm::registry::Registry;
use std::net::SocketAddr;
use std::time::Duration;

#[global_allocator]
static COUNTED: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

const NOW: Moment = Moment::from_secs(1);
const PEERS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Number of peers that share a file.
const SHARE: usize = 100;

fn file(number: usize) -> FileSummary {
    let mut id = [0xab; 32];
    id[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    let name = FileName::new(format!("file-{number:07}.bin")).unwrap();
    FileSummary { id: FileId(id), name, size: 1 << 30, chunks: 2_048 }
}

/// Registers a peer that announces one of `files` files.
fn register(registry: &mut Registry, number: usize, files: usize) -> Token {
    let address = SocketAddr::from((((10 << 24) + number as u32).to_be_bytes(), 7000));
    let name = PeerName::new(format!("peer-{number:07}")).unwrap();
    let secret = (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
    let (id, token) = registry.register(NOW, secret, name, address).unwrap();
    registry.announce(id, &file(number % files), 2_048).unwrap();
    token
}

/// A registry with `peers` of the `all` peers that are expected.
fn filled(peers: usize, all: usize) -> (Registry, Vec<Token>) {
    let mut registry = Registry::new(Duration::from_secs(10));
    let tokens = (0..peers).map(|number| register(&mut registry, number, all / SHARE)).collect();
    (registry, tokens)
}

#[divan::bench(args = PEERS, sample_count = 1, sample_size = 1)]
fn memory(peers: usize) -> Registry {
    filled(peers, peers).0
}

#[divan::bench(args = PEERS, sample_count = 20, sample_size = 500)]
fn register_and_announce(bencher: divan::Bencher, peers: usize) {
    let (mut registry, _) = filled(peers - 20_000.min(peers / 2), peers);
    bencher.bench_local(|| {
        let number = registry.len();
        if number < peers {
            divan::black_box(register(&mut registry, number, peers / SHARE));
        }
    });
}

#[divan::bench(args = PEERS, sample_size = 1_000)]
fn heartbeat(bencher: divan::Bencher, peers: usize) {
    let (mut registry, tokens) = filled(peers, peers);
    let mut random = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| registry.heartbeat(NOW, tokens[random.usize(..peers)]));
}

#[divan::bench(args = PEERS, sample_size = 1_000)]
fn lookup_of_30(bencher: divan::Bencher, peers: usize) {
    let (registry, _) = filled(peers, peers);
    let ids: Vec<FileId> = (0..peers / SHARE).map(|number| file(number).id).collect();
    let mut random = fastrand::Rng::with_seed(1);
    bencher.bench_local(|| {
        let id = ids[random.usize(..ids.len())];
        registry.lookup(NOW, None, Some(id), None, 30, std::net::Ipv4Addr::LOCALHOST.into(), &mut random)
    });
}

/// The work for one lease of all peers: each sends a heartbeat after half of it, and time passes. Shown per peer.
#[divan::bench(args = [1_000, 100_000], sample_count = 3, sample_size = 1)]
fn a_lease_of_all(bencher: divan::Bencher, peers: usize) {
    let (mut registry, tokens) = filled(peers, peers);
    let mut now = NOW;
    bencher.counter(divan::counter::ItemsCount::new(peers)).bench_local(|| {
        for part in tokens.chunks(peers / 100) {
            now += Duration::from_millis(50);
            for token in part {
                registry.heartbeat(now, *token);
            }
            assert!(registry.expire(now).is_empty());
        }
    });
}
