//! A volunteer's store with arbitrary bytes in place of its chunks and metadata: it serves only right chunks, counts
//! the space of all chunks, and continues to work.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use shoal::content::{ChunkIndex, Digest};
use shoal::storage::{ChunkSource, ReplicaStore, StoreError};
use shoal_fuzz::instead::{Mutation, Sample, folder};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// More than all chunks together, bytes.
const OFFERED: u64 = 1 << 20;
const KEY: &[u8] = b"000102030405060708090a0b0c0d0e0f\n";

static SAMPLES: LazyLock<[Sample; 2]> = LazyLock::new(|| [Sample::new(true), Sample::new(false)]);

/// The files found in the folder of one stored file.
#[derive(Arbitrary, Debug)]
struct Folder {
    file: Mutation,
    manifest: Mutation,
    chunks: [Mutation; 3],
    /// A stray file, whose name may be a chunk number.
    stray: Option<(String, Vec<u8>)>,
    link: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Found {
    key: Mutation,
    folders: [Option<Folder>; 2],
    store: Vec<(bool, u8)>,
}

fn folder_of(root: &Path, sample: &Sample) -> PathBuf {
    root.join(sample.kept.file.id.to_string())
}

fn put(path: &Path, mutation: &Mutation, right: &[u8]) {
    if let Some(bytes) = mutation.of(right) {
        std::fs::write(path, bytes).expect("it is written");
    }
}

impl Folder {
    fn put(&self, root: &Path, sample: &Sample) {
        let folder = folder_of(root, sample);
        std::fs::create_dir_all(&folder).expect("a folder");
        if let Some((name, bytes)) = &self.stray {
            // Invalid file names are skipped.
            let name: String = name.chars().filter(|c| !['/', '\0'].contains(c)).collect();
            let _ = std::fs::write(folder.join(name), bytes);
        }
        if let Some(number) = self.link {
            let _ = std::os::unix::fs::symlink("/etc/hostname", folder.join((number % 4).to_string()));
        }
        let kept = serde_json::to_vec(&sample.kept).expect("the file summary can be encoded");
        put(&folder.join("file.json"), &self.file, &kept);
        let layout = sample.manifest.layout();
        let sizes = format!("{{\"size\":{},\"chunk_size\":{}}}\n", layout.size(), layout.chunk_size());
        let manifest = [sizes.into_bytes(), sample.manifest.payload()].concat();
        put(&folder.join("manifest"), &self.manifest, &manifest);
        for (number, (mutation, right)) in self.chunks.iter().zip(&sample.chunks).enumerate() {
            let path = folder.join(number.to_string());
            if !path.is_symlink() {
                put(&path, mutation, right);
            }
        }
    }
}

/// Bytes of all chunks in the folders of files whose metadata is unusable.
fn stranded(root: &Path, store: &ReplicaStore) -> u64 {
    let unknown = SAMPLES.iter().filter(|sample| store.file(sample.kept.file.id).is_none());
    let files = unknown.flat_map(|sample| std::fs::read_dir(folder_of(root, sample)).into_iter().flatten());
    let chunks = files.flatten().filter(|file| {
        let name = file.file_name();
        let number = name.to_str().and_then(|name| Some((name, name.parse::<u32>().ok()?)));
        number.is_some_and(|(name, number)| number.to_string() == name)
    });
    let lengths = chunks.map(|file| file.metadata().expect("it is there"));
    lengths.filter(|file| file.is_file()).map(|file| file.len()).sum()
}

/// Asserts that the store counts its space, serves each right chunk, and serves nothing else.
fn assert_consistent(store: &ReplicaStore, root: &Path) {
    let mut used = stranded(root, store);
    for file in store.files() {
        let sample = SAMPLES.iter().find(|sample| sample.kept.file.id == file.id()).expect("one of them");
        assert_eq!(file.manifest().as_ref(), Some(&sample.manifest));
        let folder = folder_of(root, sample);
        for (index, right) in (0..).map(ChunkIndex).zip(&sample.chunks) {
            let held = file.progress().has(index);
            let path = folder.join(index.0.to_string());
            let there = !path.is_symlink() && std::fs::read(&path).is_ok_and(|bytes| bytes == *right);
            assert!(held || !there, "chunk {index} is on disk and unknown");
            assert_eq!(file.check(index).expect("the chunk can be read"), there);
            match file.stored(index) {
                Ok(stored) => {
                    let mut bytes = vec![0; stored.length as usize];
                    stored.file.read_exact_at(&mut bytes, stored.offset).expect("it is read");
                    assert_eq!(sample.manifest.digest(index), Some(Digest::of(&bytes)));
                }
                Err(StoreError::Missing(_)) => assert!(!there),
                Err(error) => panic!("{error}"),
            }
            used += if there { right.len() as u64 } else { 0 };
        }
        assert!(file.unverified().is_empty());
    }
    assert_eq!(store.used(), used);
}

fuzz_target!(|found: Found| {
    let place = folder();
    let root = place.path();
    put(&root.join("key"), &found.key, KEY);
    for (folder, sample) in found.folders.iter().zip(&*SAMPLES) {
        folder.iter().for_each(|folder| folder.put(root, sample));
    }
    let store = match ReplicaStore::open(root, OFFERED) {
        Ok(store) => store,
        Err(error) => {
            assert!(!matches!(found.key, Mutation::Unchanged | Mutation::Absent), "{error}");
            return;
        }
    };
    let key = store.key();
    assert_consistent(&store, root);
    for (which, number) in &found.store {
        let sample = &SAMPLES[usize::from(*which)];
        let (id, index) = (sample.kept.file.id, ChunkIndex(u32::from(number % 4)));
        store
            .add_file(&sample.kept, sample.manifest.clone())
            .expect("a file can be added with any files in its folder");
        match sample.chunks.get(index.0 as usize) {
            Some(bytes) => match store.store(id, index, bytes) {
                Ok(()) => assert!(store.check(id, index).expect("the chunk can be read")),
                // Other programs may use the file system, too.
                Err(StoreError::Full { .. }) => {}
                Err(error) => panic!("{error}"),
            },
            None => assert!(store.store(id, index, b"x").is_err()),
        }
    }
    assert_consistent(&store, root);
    let held = |store: &ReplicaStore| -> Vec<_> {
        store.files().iter().filter(|file| file.held() > 0).map(|file| (file.id(), file.held())).collect()
    };
    let before = held(&store);
    drop(store);
    let again = ReplicaStore::open(root, OFFERED).expect("it opens again");
    assert_eq!((again.key(), held(&again)), (key, before));
    assert_consistent(&again, root);
});
