//! The rate of SHA-256 over chunks: the largest single cost of a download.

use shoal::content::{Digest, hash_lanes};

fn main() {
    divan::main();
}

#[divan::bench(args = [16 * 1024, 512 * 1024, 4 * 1024 * 1024])]
fn sha256(bencher: divan::Bencher, size: usize) {
    let chunk: Vec<u8> = (0..size).map(|at| at as u8).collect();
    bencher.counter(divan::counter::BytesCount::new(size)).bench(|| Digest::of(divan::black_box(&chunk)));
}

/// Hashes as many chunks together as a download verifies together.
#[divan::bench(args = [16 * 1024, 512 * 1024, 4 * 1024 * 1024])]
fn sha256_together(bencher: divan::Bencher, size: usize) {
    let chunk: Vec<u8> = (0..size).map(|at| at as u8).collect();
    let chunks = vec![chunk.as_slice(); hash_lanes()];
    let counter = divan::counter::BytesCount::new(size * hash_lanes());
    bencher.counter(counter).bench(|| Digest::of_each(divan::black_box(&chunks)));
}
