//! A download with arbitrary bytes in its resume files: it opens, trusts only a resume file that is intact, of this
//! version and of this file, and resumes.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shoal::content::{ChunkIndex, Digest, Layout, Manifest};
use shoal::storage::{ChunkSink, ChunkSource, PartFile};
use std::path::Path;
use std::sync::{Arc, LazyLock};

const CHUNKS: u32 = 11;
const CHUNK: u64 = 16 * 1024;

static MANIFEST: LazyLock<Arc<Manifest>> = LazyLock::new(|| {
    let layout = Layout::even(u64::from(CHUNKS) * CHUNK - 5, Some(CHUNK as u32)).expect("a layout");
    let digests = layout.indices().map(|index| Digest::of(&index.0.to_be_bytes())).collect();
    Arc::new(Manifest::new(layout, digests).expect("a digest for each chunk"))
});
static BOOT: LazyLock<String> = LazyLock::new(|| {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
});

/// The content of a resume file beside the part file.
#[derive(Arbitrary, Debug)]
enum Map {
    Absent,
    Bytes(Vec<u8>),
    /// A file in the right format, optionally with one changed byte.
    Formed {
        durable: u16,
        written: u16,
        boot: bool,
        other: bool,
        change: Option<(u16, u8)>,
    },
}

impl Map {
    fn put(&self, path: &Path) {
        let bytes = match self {
            Map::Absent => return,
            Map::Bytes(bytes) => bytes.clone(),
            Map::Formed { durable, written, boot, other, change } => {
                let payload = [durable.to_le_bytes(), written.to_le_bytes()].concat();
                let id = if *other { shoal::content::FileId([3; 32]) } else { MANIFEST.id() };
                let boot = boot.then_some(BOOT.as_str());
                let header = serde_json::json!({
                    "format": "shoal have-map", "version": 1, "id": id, "count": CHUNKS, "boot": boot,
                    "sha256": Digest::of(&payload), "length": payload.len(),
                });
                let mut bytes = [header.to_string().into_bytes(), b"\n".to_vec(), payload].concat();
                if let Some((at, byte)) = change {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] ^= byte;
                }
                bytes
            }
        };
        std::fs::write(path, bytes).expect("the map is written");
    }

    /// The chunks that this file may list as verified, one bit per chunk.
    fn listed_chunks(&self) -> u16 {
        match self {
            Map::Formed { durable, written, .. } => durable | written,
            // Random bytes do not contain a matching SHA-256.
            Map::Absent | Map::Bytes(_) => 0,
        }
    }
}

#[derive(Arbitrary, Debug)]
struct Found {
    have: Map,
    note: Map,
    part: Option<u16>,
    whole: bool,
    store: Vec<u8>,
}

fuzz_target!(|found: Found| {
    let folder = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" });
    let folder = folder.expect("a folder");
    let (target, id) = (folder.path().join("file"), MANIFEST.id());
    let beside = |ending: &str| folder.path().join(format!(".file.{}.{ending}", id.short()));
    found.have.put(&beside("have"));
    found.note.put(&beside("note"));
    let size = MANIFEST.layout().size();
    let length = if found.whole { Some(size) } else { found.part.map(u64::from) };
    if let Some(length) = length {
        std::fs::File::create(beside("part")).and_then(|part| part.set_len(length)).expect("a part file");
    }
    let file = PartFile::open(&target, MANIFEST.clone()).expect("it opens with any files beside it");
    let (have, _) = file.progress().have();
    let allowed =
        if length == Some(size) { found.have.listed_chunks() | found.note.listed_chunks() } else { 0 };
    assert_eq!(have.count(), CHUNKS);
    for index in have.iter() {
        assert!(allowed >> index.0 & 1 == 1, "no resume file lists chunk {index}");
        assert!(file.stored(index).is_ok());
    }
    let resumed: u64 =
        have.iter().filter_map(|at| MANIFEST.layout().span(at)).map(|s| s.length).sum();
    assert_eq!(file.resumed_bytes(), resumed);
    for at in found.store {
        let index = ChunkIndex(u32::from(at) % (CHUNKS + 1));
        let digest = MANIFEST.digest(index).unwrap_or(Digest([0; 32]));
        let length = MANIFEST.layout().span(index).map_or(1, |span| span.length);
        let stored = file.store(index, digest, &vec![at; length as usize]);
        assert_eq!(stored.is_ok(), index.0 < CHUNKS);
    }
    file.note().expect("the note is written");
    let (have, _) = file.progress().have();
    drop(file);
    let again = PartFile::open(&target, MANIFEST.clone()).expect("it opens again");
    assert_eq!(again.progress().have().0, have, "the recorded chunks are verified after a reopen");
    let complete = have.is_complete();
    assert_eq!(again.finish(false, false).is_ok(), complete);
    assert_eq!(target.exists(), complete);
});
