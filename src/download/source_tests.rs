//! Tests of connections to sources.

use super::super::events::Expected as _;
use super::*;
use crate::net::Listener;
use crate::net::Threads;
use crate::storage::{ChunkSource, CompleteFile, Progress, StoreError, StoredChunk};
use crate::upload::offers::Offers;
use crate::upload::server::{ServeOptions, serve};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

struct Fixture {
    path: PathBuf,
    file: Arc<CompleteFile>,
    address: SocketAddr,
    threads: Threads,
    shutdown: Shutdown,
    _folder: TempDir,
}

/// A server that offers a file of four chunks.
fn serving() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, [7; 50_000]).unwrap();
    let file = Arc::new(CompleteFile::publish(&path, Some(16 * 1024), &|_| (), &|| false).unwrap());
    let (threads, shutdown, offers) = (Threads::new(), Shutdown::new(), Offers::new());
    offers.put(file.id(), file.clone());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address();
    serve(listener, offers, &ServeOptions::default(), None, &threads, &shutdown).unwrap();
    Fixture { path, file, address, threads, shutdown, _folder: folder }
}

#[test]
fn a_corrupt_chunk_is_reported_to_a_source_that_withdraws_the_file() {
    let Fixture { path, file, address, threads, shutdown, _folder } = serving();
    let (manifest, id) = (file.manifest().unwrap(), file.id());
    // As a write through a memory map leaves it.
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let changed = File::options().write(true).open(&path).unwrap();
    changed.write_all_at(b"changed", 20_000).unwrap();
    changed.set_modified(modified).unwrap();
    let mut buffer = Vec::new();
    let mut download = |index| {
        let mut connection =
            PeerConnection::open(&address.into(), None, Timeouts::default(), &shutdown).unwrap();
        let index = ChunkIndex(index);
        let expected = manifest.expected(index).unwrap();
        let result = connection.chunk(id, index, expected, &mut buffer, &shutdown);
        // The source answers in order: after this, it has handled the report.
        let _ = connection.ask(&PeerRequest::Ping);
        result
    };
    assert!(download(0).is_ok() && file.is_intact());
    assert!(matches!(download(1), Err(SourceError::BadChunk { index: ChunkIndex(1), .. })));
    assert!(!file.is_intact());
    assert!(matches!(download(0), Err(SourceError::Refused(_))));
    shutdown.trigger();
    threads.join();
}

#[test]
fn a_false_report_withdraws_nothing() {
    let Fixture { file, address, threads, shutdown, .. } = serving();
    for (id, index) in [(file.id(), 0), (file.id(), 9), (FileId([1; 32]), 0)] {
        let connection = PeerConnection::open(&address.into(), None, Timeouts::default(), &shutdown).unwrap();
        connection.report_corrupt(id, ChunkIndex(index), &shutdown).unwrap();
    }
    assert!(file.is_intact() && file.stored(ChunkIndex(0)).is_ok());
    shutdown.trigger();
    threads.join();
}

/// A file of one chunk that cannot be read while `broken` is set.
struct Unreadable {
    progress: Progress,
    good: Arc<File>,
    broken: AtomicBool,
}

impl ChunkSource for Unreadable {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        None
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn stored(&self, _: ChunkIndex) -> Result<StoredChunk, StoreError> {
        let is_broken = self.broken.load(Ordering::Relaxed);
        // The bytes of a folder cannot be read.
        let file = if is_broken { Arc::new(File::open("/").unwrap()) } else { self.good.clone() };
        Ok(StoredChunk { file, offset: 0, length: 9 })
    }
}

#[test]
fn a_chunk_that_cannot_be_read_is_refused_until_it_can() {
    let mut good = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut good, b"the bytes").unwrap();
    let broken = AtomicBool::new(true);
    let source =
        Arc::new(Unreadable { progress: Progress::new(Bitfield::all(1)), good: Arc::new(good), broken });
    let (threads, shutdown, offers, id) = (Threads::new(), Shutdown::new(), Offers::new(), FileId([5; 32]));
    offers.put(id, source.clone());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.address();
    serve(listener, offers, &ServeOptions::default(), None, &threads, &shutdown).unwrap();
    let download = || {
        let mut connection =
            PeerConnection::open(&address.into(), None, Timeouts::default(), &shutdown).unwrap();
        let expected = (Digest::of(b"the bytes"), 9);
        connection.chunk(id, ChunkIndex(0), expected, &mut Vec::new(), &shutdown)
    };
    // The length has been sent when the error appears.
    assert!(matches!(download(), Err(SourceError::Connection(_))));
    for _ in 0..2 {
        let refused = download();
        assert!(
            matches!(&refused, Err(SourceError::Refused(text)) if text.contains("cannot read")),
            "{refused:?}"
        );
    }
    source.broken.store(false, Ordering::Relaxed);
    assert!(download().is_ok() && download().is_ok());
    shutdown.trigger();
    threads.join();
}

#[test]
fn a_list_of_files_is_accepted_up_to_its_limit() {
    for (length, is_accepted) in [(PEER_LIST_MAX, true), (PEER_LIST_MAX + 1, false)] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut reader, mut writer) =
                split(&Arc::new(listener.accept().unwrap().0), Timeouts::default().stall).unwrap();
            reader.message::<PeerRequest>(Timeouts::default().stall).unwrap();
            let hello = PeerResponse::Hello { version: PROTOCOL_VERSION, site: None };
            let files = PeerResponse::Files { count: 0, length };
            writer.send_all(&[hello, files]).unwrap();
            // An empty JSON array, padded with white space. A client that refuses the list closes the connection.
            let _ = writer.send_payload_part(b"[");
            let _ = writer.send_payload_part(&vec![b' '; length as usize - 2]);
            let _ = writer.send_payload_part(b"]");
        });
        let shutdown = Shutdown::new();
        let mut connection =
            PeerConnection::open(&address.into(), None, Timeouts::default(), &shutdown).unwrap();
        let result = connection.files(&Query::default(), &shutdown);
        assert_eq!(result.is_ok_and(|files| files.is_empty()), is_accepted, "{length} bytes");
        drop(connection);
        server.join().unwrap();
    }
}
