//! A download with arbitrary bytes in its resume files: it opens, trusts only a resume file that is intact, of this
//! version and of this file, and resumes.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shoal::content::{ChunkIndex, Digest, Layout, Manifest};
use shoal::storage::{ChunkSink, ChunkSource, PartFile};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, LazyLock};

const CHUNKS: u32 = 11;
const CHUNK: u64 = 16 * 1024;
/// Size of a slot of a present resume file, bytes.
const SLOT_BYTES: usize = 4096;

static MANIFEST: LazyLock<Arc<Manifest>> = LazyLock::new(|| {
    let layout = Layout::even(u64::from(CHUNKS) * CHUNK - 5, Some(CHUNK as u32)).expect("a layout");
    let digests = layout.indices().map(|index| Digest::of(&index.0.to_be_bytes())).collect();
    Arc::new(Manifest::new(layout, digests).expect("a digest for each chunk"))
});
static BOOT: LazyLock<String> = LazyLock::new(|| {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
});

/// The content of a resume file of the previous version, or of a slot of a present one.
#[derive(Arbitrary, Debug)]
enum Map {
    Absent,
    Bytes(Vec<u8>),
    /// A record in the right format, optionally with one changed byte.
    Formed {
        durable: u16,
        written: u16,
        boot: bool,
        other: bool,
        /// Whether it names the inode of the part file, or another one; only in the present version.
        inode: Option<bool>,
        change: Option<(u16, u8)>,
    },
}

impl Map {
    /// Its bytes; `inode` is that of the part file in the present version.
    fn bytes(&self, part_inode: Option<u64>) -> Option<Vec<u8>> {
        let Map::Formed { durable, written, boot, other, inode, change } = self else {
            return match self {
                Map::Bytes(bytes) => Some(bytes.clone()),
                _ => None,
            };
        };
        let payload = [durable.to_le_bytes(), written.to_le_bytes()].concat();
        let id = if *other { shoal::content::FileId([3; 32]) } else { MANIFEST.id() };
        let boot = boot.then_some(BOOT.as_str());
        let mut header = serde_json::json!({
            "format": "shoal have-map", "version": 1, "id": id, "count": CHUNKS, "boot": boot,
            "sha256": Digest::of(&payload), "length": payload.len(),
        });
        if let (Some(part_inode), Some(is_right)) = (part_inode, inode) {
            header["inode"] = part_inode.wrapping_add(u64::from(!is_right)).into();
        }
        let mut bytes = [header.to_string().into_bytes(), b"\n".to_vec(), payload].concat();
        if let Some((at, byte)) = change {
            let at = usize::from(*at) % bytes.len();
            bytes[at] ^= byte;
        }
        Some(bytes)
    }

    /// The chunks that this record may list as verified, one bit per chunk.
    fn listed_chunks(&self) -> u16 {
        match self {
            Map::Formed { durable, written, .. } => durable | written,
            // Random bytes do not contain a matching SHA-256.
            Map::Absent | Map::Bytes(_) => 0,
        }
    }

    /// The chunks that this slot of a present resume file lists for certain.
    fn durable_chunks(&self) -> u16 {
        const EXISTING: u16 = (1 << CHUNKS) - 1;
        match self {
            // A bitmap with bits behind the last chunk is not valid.
            Map::Formed {
                durable, written, other: false, inode: None | Some(true), change: None, ..
            } if (durable | written) & !EXISTING == 0 => *durable,
            _ => 0,
        }
    }
}

/// Resume files beside the part file.
#[derive(Arbitrary, Debug)]
enum Resume {
    /// The files `have` and `note` of the previous version.
    Previous(Map, Map),
    /// The four slots of the present version, two durable ones and two notes.
    Present([Map; 4]),
}

impl Resume {
    /// Name of the part file.
    fn part_name(&self) -> String {
        match self {
            Resume::Previous(..) => format!(".file.{}.part", MANIFEST.id().short()),
            Resume::Present(_) => "file.part".to_owned(),
        }
    }

    fn put(&self, folder: &Path, part_inode: Option<u64>) {
        let write = |name: String, bytes: Vec<u8>| {
            std::fs::write(folder.join(name), bytes).expect("the resume file is written");
        };
        match self {
            Resume::Previous(have, note) => {
                for (map, ending) in [(have, "have"), (note, "note")] {
                    if let Some(bytes) = map.bytes(None) {
                        write(format!(".file.{}.{ending}", MANIFEST.id().short()), bytes);
                    }
                }
            }
            Resume::Present(slots) => {
                let mut file = Vec::new();
                for (at, bytes) in slots.iter().map(|slot| slot.bytes(part_inode)).enumerate() {
                    if let Some(bytes) = bytes {
                        file.resize(at * SLOT_BYTES, 0);
                        file.extend(bytes.iter().take(SLOT_BYTES));
                    }
                }
                if !file.is_empty() {
                    write(".file.part.resume".to_owned(), file);
                }
            }
        }
    }

    fn maps(&self) -> Vec<&Map> {
        match self {
            Resume::Previous(have, note) => vec![have, note],
            Resume::Present(slots) => slots.iter().collect(),
        }
    }

    fn listed_chunks(&self) -> u16 {
        self.maps().iter().fold(0, |chunks, map| chunks | map.listed_chunks())
    }

    fn durable_chunks(&self) -> u16 {
        match self {
            Resume::Previous(..) => 0,
            Resume::Present(slots) => slots.iter().fold(0, |chunks, map| chunks | map.durable_chunks()),
        }
    }
}

#[derive(Arbitrary, Debug)]
struct Found {
    resume: Resume,
    part: Option<u16>,
    whole: bool,
    store: Vec<u8>,
}

fuzz_target!(|found: Found| {
    let folder = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" });
    let folder = folder.expect("a folder");
    let target = folder.path().join("file");
    let size = MANIFEST.layout().size();
    let length = if found.whole { Some(size) } else { found.part.map(u64::from) };
    let part_inode = length.map(|length| {
        let part = std::fs::File::create(folder.path().join(found.resume.part_name())).expect("a part file");
        part.set_len(length).and_then(|()| part.metadata()).expect("its inode").ino()
    });
    found.resume.put(folder.path(), part_inode);
    let file = PartFile::open(&target, MANIFEST.clone()).expect("it opens with any files beside it");
    let (have, _) = file.progress().have();
    let is_whole = length == Some(size);
    let (allowed, required) = match is_whole {
        true => (found.resume.listed_chunks(), found.resume.durable_chunks()),
        false => (0, 0),
    };
    assert_eq!(have.count(), CHUNKS);
    for index in have.iter() {
        assert!(allowed >> index.0 & 1 == 1, "no resume file lists chunk {index}");
        assert!(file.stored(index).is_ok());
    }
    for index in (0..CHUNKS).filter(|index| required >> index & 1 == 1) {
        assert!(have.has(ChunkIndex(index)), "the resume file lists chunk {}", ChunkIndex(index));
    }
    let resumed: u64 = have.iter().filter_map(|at| MANIFEST.layout().span(at)).map(|s| s.length).sum();
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
