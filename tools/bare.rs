//! A download reduced to its system calls: the baseline against which `benches/compare/link.py` measures the
//! programs.
//!
//! ```text bare send FILE                      serves FILE until it is killed; prints its address in one line bare
//! receive OUT SIZE ADDRESS...    one thread per address: read, SHA-256, pwrite; ends when the file is complete bare
//! rate BYTES                     SHA-256 of BYTES bytes on all cores, from buffers in the cache: with one message at
//! a time on each core, and with as many at a time as the programs hash bare publish FILE                   hashes a
//! file as a seeder does before it serves it ```
//!
//! A request is the index of a chunk, eight bytes; the response is the chunk. Several chunks are hashed together, as
//! in the programs. `rate` and `publish` print seconds.

use rustix::fs::sendfile;
use shoal::content::{Digest, hash_lanes};
use shoal::storage::CompleteFile;
use std::collections::VecDeque;
use std::env;
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// Chunk size in bytes, as in the programs.
const CHUNK_BYTES: u64 = 512 * 1024;
/// Number of chunk requests in flight, as in the programs.
const IN_FLIGHT_MAX: usize = 2;
/// Size of the buffer for `rate`, bytes: it fits in the cache of one core.
const CACHED_BYTES: usize = 64 * 1024;

fn main() -> Outcome {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["send", file] => send(Path::new(file)),
        ["receive", out, size, addresses @ ..] if !addresses.is_empty() => {
            receive(Path::new(out), size.parse()?, addresses)
        }
        ["rate", bytes] => {
            let bytes = bytes.parse()?;
            println!("{:.4} {:.4}", rate(bytes, 1), rate(bytes, hash_lanes()));
            Ok(())
        }
        ["publish", file] => {
            let started = Instant::now();
            let whole = CompleteFile::publish(Path::new(file), None, &|_| (), &|| false)?;
            println!("{:.4} {}", started.elapsed().as_secs_f64(), whole.id());
            Ok(())
        }
        _ => Err("usage: bare send FILE | receive OUT SIZE ADDRESS... | rate BYTES | publish FILE".into()),
    }
}

fn send(path: &Path) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for stream in listener.incoming() {
        let (stream, file) = (stream?, File::open(path)?);
        // A receiver may close its connection at any time; this ends only the thread of that connection.
        thread::spawn(move || answer(&stream, &file));
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, file: &File) -> Outcome {
    stream.set_nodelay(true)?;
    let size = file.metadata()?.len();
    let mut request = [0; 8];
    loop {
        stream.read_exact(&mut request)?;
        let mut offset = u64::from_be_bytes(request) * CHUNK_BYTES;
        let end = size.min(offset + CHUNK_BYTES);
        while offset < end {
            // `sendfile` advances the offset.
            let left = (end - offset) as usize;
            sendfile(stream, file, Some(&mut offset), left)?;
        }
    }
}

fn receive(out: &Path, size: u64, addresses: &[&str]) -> Outcome {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(out)?;
    file.set_len(size)?;
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        let receiver = |address| {
            let (file, next) = (&file, &next);
            move || fetch(address, file, size, next)
        };
        let threads: Vec<_> = addresses.iter().map(|address| scope.spawn(receiver(address))).collect();
        let mut ended = threads.into_iter().map(|thread| thread.join().unwrap_or(Err("a panic".into())));
        ended.try_for_each(|outcome| outcome)
    })
}

fn fetch(address: &str, file: &File, size: u64, next: &AtomicU64) -> Outcome {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let chunks = size.div_ceil(CHUNK_BYTES);
    let mut in_flight = VecDeque::new();
    let mut buffers = vec![vec![0; CHUNK_BYTES as usize]; hash_lanes()];
    loop {
        let mut batch = Vec::new();
        for buffer in &mut buffers {
            while in_flight.len() < IN_FLIGHT_MAX {
                let index = next.fetch_add(1, Relaxed);
                if index >= chunks {
                    break;
                }
                stream.write_all(&index.to_be_bytes())?;
                in_flight.push_back(index);
            }
            let Some(index) = in_flight.pop_front() else { break };
            let bytes = &mut buffer[..CHUNK_BYTES.min(size - index * CHUNK_BYTES) as usize];
            stream.read_exact(bytes)?;
            batch.push((index, &*bytes));
        }
        if batch.is_empty() {
            return Ok(());
        }
        black_box(Digest::of_each(&batch.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>()));
        for (index, bytes) in batch {
            file.write_all_at(bytes, index * CHUNK_BYTES)?;
        }
    }
}

/// Seconds for the SHA-256 of `bytes` bytes, if each core hashes `together` messages at a time.
fn rate(bytes: u64, together: usize) -> f64 {
    let next = AtomicU64::new(0);
    let buffer = vec![7; CACHED_BYTES];
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(|| {
                let messages = vec![buffer.as_slice(); together];
                while next.fetch_add((CACHED_BYTES * together) as u64, Relaxed) < bytes {
                    black_box(Digest::of_each(black_box(&messages)));
                }
            });
        }
    });
    started.elapsed().as_secs_f64()
}
