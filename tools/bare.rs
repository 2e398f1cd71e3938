//! The same system calls as a download, and nothing else: what is left when everything that makes a program out of
//! them is taken away. `benches/compare/link.py` measures the programs against it.
//!
//! ```text
//! bare send FILE                      serves FILE, says where in one line, until it is killed
//! bare receive OUT SIZE ADDRESS...    a thread for each address: read, SHA-256, pwrite; ends when all is there
//! bare rate BYTES                     SHA-256 of so many bytes on all cores, from buffers that are in the cache: one message
//!                                     at a time on each core, and as many at once as the programs do
//! bare publish FILE                   the same for a file, with what a seeder does before it serves it
//! ```
//!
//! A request is the number of a chunk, eight bytes; the answer is the chunk. Chunks are hashed as in the programs, several
//! at once. `rate` and `publish` say seconds.

use rustix::fs::sendfile;
use shoal::content::{Digest, HASH_LANES};
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

/// Bytes of a chunk, as in the programs.
const CHUNK: u64 = 512 * 1024;
/// Chunks asked for ahead, as in the programs.
const AHEAD: usize = 2;
/// Bytes hashed at once from one buffer when only the rate counts: small enough for a core's own cache.
const CACHED: usize = 64 * 1024;

fn main() -> Outcome {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["send", file] => send(Path::new(file)),
        ["receive", out, size, addresses @ ..] if !addresses.is_empty() => {
            receive(Path::new(out), size.parse()?, addresses)
        }
        ["rate", bytes] => {
            let bytes = bytes.parse()?;
            println!("{:.4} {:.4}", rate(bytes, 1), rate(bytes, HASH_LANES));
            Ok(())
        }
        ["publish", file] => {
            let began = Instant::now();
            let whole = CompleteFile::publish(Path::new(file), None, &|_| (), &|| false)?;
            println!("{:.4} {}", began.elapsed().as_secs_f64(), whole.id());
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
        // Whoever receives may go at any time; that ends this connection and nothing else.
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
        let mut offset = u64::from_be_bytes(request) * CHUNK;
        let end = size.min(offset + CHUNK);
        while offset < end {
            // `sendfile` moves the offset on.
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
    let chunks = size.div_ceil(CHUNK);
    let mut asked = VecDeque::new();
    let mut buffers = vec![vec![0; CHUNK as usize]; HASH_LANES];
    loop {
        let mut batch = Vec::new();
        for buffer in &mut buffers {
            while asked.len() < AHEAD {
                let index = next.fetch_add(1, Relaxed);
                if index >= chunks {
                    break;
                }
                stream.write_all(&index.to_be_bytes())?;
                asked.push_back(index);
            }
            let Some(index) = asked.pop_front() else { break };
            let bytes = &mut buffer[..CHUNK.min(size - index * CHUNK) as usize];
            stream.read_exact(bytes)?;
            batch.push((index, &*bytes));
        }
        if batch.is_empty() {
            return Ok(());
        }
        black_box(Digest::of_each(&batch.iter().map(|(_, bytes)| *bytes).collect::<Vec<_>>()));
        for (index, bytes) in batch {
            file.write_all_at(bytes, index * CHUNK)?;
        }
    }
}

/// Seconds that the SHA-256 of so many bytes takes, each core hashing so many messages at once, again and again.
fn rate(bytes: u64, together: usize) -> f64 {
    let next = AtomicU64::new(0);
    let buffer = vec![7; CACHED];
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |cores| cores.get()) {
            scope.spawn(|| {
                let messages = vec![buffer.as_slice(); together];
                while next.fetch_add((CACHED * together) as u64, Relaxed) < bytes {
                    black_box(Digest::of_each(black_box(&messages)));
                }
            });
        }
    });
    began.elapsed().as_secs_f64()
}
