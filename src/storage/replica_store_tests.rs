//! Tests of replica stores: durability, damage and accounting.

use super::*;
use crate::content::{Digest, FileName, Layout, Md5};
use crate::protocol::tokens::{Nonce, VolunteerKey};
use crate::protocol::tracker::FileSummary;
use crate::protocol::volunteer::possession_proof;
use crate::storage::{ChunkSource as _, SharedFolder};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use tempfile::TempDir;

const CHUNK: usize = 16 * 1024;
const PLENTY: u64 = 1 << 30;

/// A file with replicas.
struct Sample {
    bytes: Vec<u8>,
    kept: KeptFile,
    manifest: Arc<Manifest>,
}

impl Sample {
    fn new(seed: u64, chunks: usize) -> Self {
        let mut bytes = vec![0; chunks * CHUNK - 100];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        let layout = Layout::even(bytes.len() as u64, Some(CHUNK as u32)).unwrap();
        let digests = bytes.chunks(CHUNK).map(Digest::of).collect();
        let manifest = Manifest::new(layout, digests).unwrap();
        let name = FileName::new(format!("sample {seed}")).unwrap();
        let file = FileSummary {
            id: manifest.id(),
            name,
            size: bytes.len() as u64,
            chunks: manifest.layout().count(),
        };
        Self { bytes, kept: KeptFile { file, md5: Md5([5; 16]) }, manifest: Arc::new(manifest) }
    }

    fn id(&self) -> FileId {
        self.kept.file.id
    }

    fn chunk(&self, index: u32) -> &[u8] {
        self.bytes.chunks(CHUNK).nth(index as usize).unwrap()
    }

    fn add(&self, store: &ReplicaStore) -> Arc<ReplicaFile> {
        store.add_file(&self.kept, self.manifest.clone()).unwrap()
    }

    fn store(&self, store: &ReplicaStore, chunks: &[u32]) {
        self.add(store);
        chunks
            .iter()
            .for_each(|index| store.store(self.id(), ChunkIndex(*index), self.chunk(*index)).unwrap());
    }

    fn path(&self, root: &TempDir, name: &str) -> PathBuf {
        root.path().join(self.id().to_string()).join(name)
    }

    #[track_caller]
    fn assert_served(&self, file: &ReplicaFile, index: u32) {
        let stored = file.stored(ChunkIndex(index)).unwrap();
        let mut bytes = vec![0; stored.length as usize];
        stored.file.read_exact_at(&mut bytes, stored.offset).unwrap();
        assert!(bytes == self.chunk(index));
    }
}

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(root: &TempDir) -> ReplicaStore {
    ReplicaStore::open(root.path(), PLENTY).unwrap()
}

fn is_missing(result: Result<crate::storage::StoredChunk, StoreError>) -> bool {
    matches!(result, Err(StoreError::Missing(_)))
}

#[test]
fn stored_chunks_are_served_also_after_a_restart() {
    let (root, sample) = (root(), Sample::new(1, 4));
    let store = open(&root);
    assert_eq!((store.used(), store.offered(), store.free()), (0, PLENTY, PLENTY));
    sample.store(&store, &[0, 3]);
    let file = store.file(sample.id()).unwrap();
    assert_eq!((file.held(), file.chunks().0.len(), file.kept()), (2, 2, &sample.kept));
    let used = (2 * CHUNK - 100) as u64;
    assert_eq!((store.used(), store.free()), (used, PLENTY - used));
    sample.store(&store, &[0, 3]);
    assert_eq!(store.used(), used);
    [0, 3].iter().for_each(|index| sample.assert_served(&file, *index));
    assert!(is_missing(file.stored(ChunkIndex(1))) && is_missing(file.stored(ChunkIndex(4))));
    let key = store.key();
    drop((store, file));
    let store = open(&root);
    assert!(store.key() == key);
    let file = store.file(sample.id()).unwrap();
    assert_eq!(
        (file.kept(), file.manifest().unwrap(), store.used()),
        (&sample.kept, sample.manifest.clone(), used)
    );
    assert_eq!(file.unverified(), [ChunkIndex(0), ChunkIndex(3)]);
    assert!(store.check(sample.id(), ChunkIndex(0)).unwrap());
    assert_eq!(file.chunks(), (vec![ChunkIndex(0)], vec![ChunkIndex(3)]));
    sample.assert_served(&file, 3);
    assert!(file.unverified().is_empty());
    assert!(
        !store.check(sample.id(), ChunkIndex(1)).unwrap()
            && !store.check(FileId([0; 32]), ChunkIndex(1)).unwrap()
    );
}

#[test]
fn the_key_is_created_once_and_readable_only_by_the_owner() {
    let root = root();
    let key = open(&root).key();
    let path = root.path().join("key");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(open(&root).key() == key);
    assert!(key != open(&self::root()).key());
    fs::write(&path, "0123").unwrap();
    let error = ReplicaStore::open(root.path(), 1).err().unwrap().to_string();
    assert!(error.contains("/key: damaged key"), "{error}");
}

#[test]
fn the_store_is_locked_against_a_second_process() {
    let root = root();
    let _store = open(&root);
    assert!(matches!(ReplicaStore::open(root.path(), 1), Err(StoreError::Busy(_))));
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let (root, sample, empty) = (root(), Sample::new(1, 4), Sample::new(2, 4));
    let store = open(&root);
    sample.store(&store, &[1]);
    empty.add(&store);
    drop(store);
    let left = [sample.path(&root, ".shoal-x1.tmp"), root.path().join(".shoal-y2.tmp")];
    left.iter().for_each(|path| fs::write(path, "half a chunk").unwrap());
    let store = open(&root);
    assert!(left.iter().all(|path| !path.exists()));
    assert_eq!((store.files().len(), store.used()), (1, CHUNK as u64));
    assert!(!empty.path(&root, "").exists());
}

#[test]
fn a_damaged_chunk_is_not_served_and_is_reported() {
    let (root, sample) = (root(), Sample::new(1, 4));
    sample.store(&open(&root), &[0, 1, 2, 3]);
    let flip = |index: &str| {
        let path = sample.path(&root, index);
        let mut bytes = fs::read(&path).unwrap();
        bytes[77] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    flip("0");
    fs::write(sample.path(&root, "1"), "short").unwrap();
    let store = open(&root);
    let file = store.file(sample.id()).unwrap();
    // The chunk that is too short is detected at once; the other when it is read.
    assert_eq!((file.held(), store.used()), (3, (3 * CHUNK - 100) as u64));
    assert!(is_missing(file.stored(ChunkIndex(0))) && !sample.path(&root, "0").exists());
    sample.assert_served(&file, 2);
    // Changed and removed after they were hashed.
    flip("2");
    assert!(is_missing(file.stored(ChunkIndex(2))));
    fs::remove_file(sample.path(&root, "3")).unwrap();
    assert!(!file.check(ChunkIndex(3)).unwrap());
    assert!(store.damaged().try_recv().is_ok());
    let damaged = [0, 2, 3].map(|index| (sample.id(), ChunkIndex(index)));
    assert_eq!(store.take_damaged(), BTreeSet::from(damaged));
    assert_eq!((file.held(), store.used(), store.take_damaged().len()), (0, 0, 0));
    sample.store(&store, &[2]);
    sample.assert_served(&file, 2);
}

#[test]
fn foreign_files_are_not_touched() {
    let (root, sample) = (root(), Sample::new(1, 4));
    sample.store(&open(&root), &[0, 1]);
    let foreign = ["notes.txt", "007", "99", "+1", ".hidden"];
    foreign.iter().for_each(|name| fs::write(sample.path(&root, name), "x").unwrap());
    fs::create_dir(sample.path(&root, "2")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", sample.path(&root, "3")).unwrap();
    fs::write(root.path().join("else"), "x").unwrap();
    fs::create_dir(root.path().join("AB".repeat(32))).unwrap();
    let store = open(&root);
    assert_eq!((store.files().len(), store.files()[0].held()), (1, 2));
    store.remove(sample.id(), &[ChunkIndex(0), ChunkIndex(1), ChunkIndex(2)]).unwrap();
    assert!(foreign.iter().all(|name| sample.path(&root, name).exists()) && store.files().is_empty());
    assert!(root.path().join("else").exists() && root.path().join("AB".repeat(32)).exists());
    // A link in place of a chunk file is not a chunk.
    fs::remove_file(sample.path(&root, "99")).unwrap();
    sample.store(&store, &[0]);
    fs::remove_file(sample.path(&root, "0")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", sample.path(&root, "0")).unwrap();
    assert!(is_missing(store.file(sample.id()).unwrap().stored(ChunkIndex(0))));
}

#[test]
fn an_unreadable_file_is_not_served_until_it_is_added_again() {
    for (name, bytes) in [("file.json", &b"{"[..]), ("manifest", b"{\"size\":1}\n"), ("manifest", b"")] {
        let (root, sample) = (root(), Sample::new(1, 4));
        sample.store(&open(&root), &[0, 1]);
        fs::write(sample.path(&root, name), bytes).unwrap();
        let store = open(&root);
        assert!(store.file(sample.id()).is_none() && sample.path(&root, "1").exists());
        assert_eq!(store.used(), 2 * CHUNK as u64);
        assert!(store.store(sample.id(), ChunkIndex(0), sample.chunk(0)).is_err());
        let file = sample.add(&store);
        assert_eq!((file.held(), file.unverified().len(), store.used()), (2, 2, 2 * CHUNK as u64));
        sample.assert_served(&file, 1);
    }
    // The manifest of another file.
    let (root, sample, other) = (root(), Sample::new(1, 4), Sample::new(2, 4));
    let store = open(&root);
    assert!(store.add_file(&sample.kept, other.manifest.clone()).is_err());
    assert!(!sample.path(&root, "").exists());
    sample.store(&store, &[0]);
    other.store(&store, &[0]);
    drop(store);
    fs::copy(other.path(&root, "manifest"), sample.path(&root, "manifest")).unwrap();
    assert_eq!(open(&root).files().len(), 1);
}

#[test]
fn a_file_without_chunks_is_removed() {
    let (root, sample) = (root(), Sample::new(1, 4));
    let store = open(&root);
    sample.store(&store, &[0, 1]);
    let file = store.file(sample.id()).unwrap();
    store.remove(sample.id(), &[ChunkIndex(1), ChunkIndex(9)]).unwrap();
    assert_eq!((file.held(), store.used()), (1, CHUNK as u64));
    store.remove(sample.id(), &[ChunkIndex(0)]).unwrap();
    assert!(store.files().is_empty() && !sample.path(&root, "").exists() && store.used() == 0);
    assert!(is_missing(file.stored(ChunkIndex(0))));
    assert!(matches!(store.store(sample.id(), ChunkIndex(0), sample.chunk(0)), Err(StoreError::Missing(_))));
    store.remove(sample.id(), &[ChunkIndex(0)]).unwrap();
    // A caller that still has the removed file can do no harm.
    assert!(matches!(file.store(ChunkIndex(0), sample.chunk(0)), Err(StoreError::Missing(_))));
    sample.store(&store, &[0]);
    sample.assert_served(&store.file(sample.id()).unwrap(), 0);
}

#[test]
fn parallel_stores_never_exceed_the_offer() {
    let (root, sample) = (root(), Sample::new(1, 40));
    let store = ReplicaStore::open(root.path(), 10 * CHUNK as u64 + 5).unwrap();
    sample.add(&store);
    std::thread::scope(|scope| {
        for thread in 0..8u32 {
            let (store, sample) = (&store, &sample);
            scope.spawn(move || {
                for index in (0..39).map(|number| (number * 7 + thread * 5) % 39) {
                    let stored = store.store(sample.id(), ChunkIndex(index), sample.chunk(index));
                    match stored {
                        Ok(()) => {}
                        Err(StoreError::Full { needed, .. }) => assert_eq!(needed, CHUNK as u64),
                        Err(error) => panic!("{error}"),
                    }
                    assert!(store.used() <= store.offered());
                }
            });
        }
    });
    let file = store.file(sample.id()).unwrap();
    assert_eq!((file.held(), store.used(), store.free()), (10, 10 * CHUNK as u64, 5));
    file.chunks().0.iter().for_each(|index| sample.assert_served(&file, index.0));
    drop((store, file));
    // The offer is smaller than the stored bytes.
    let store = ReplicaStore::open(root.path(), CHUNK as u64).unwrap();
    assert_eq!((store.used(), store.free()), (10 * CHUNK as u64, 0));
}

#[test]
fn parallel_stores_and_removals_keep_the_accounting_right() {
    let (root, sample) = (root(), Sample::new(1, 4));
    let store = open(&root);
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            let (store, sample) = (&store, &sample);
            scope.spawn(move || {
                for round in 0..100 {
                    let index = ChunkIndex((thread + round) % 3);
                    if thread % 2 == 0 {
                        sample.add(store);
                        // Another thread may remove the file at this moment.
                        let _ = store.store(sample.id(), index, sample.chunk(index.0));
                    } else {
                        store.remove(sample.id(), &[index]).unwrap();
                    }
                }
            });
        }
    });
    let held: Vec<_> = store.files().iter().flat_map(|file| file.chunks().0).collect();
    assert_eq!(store.used(), (held.len() * CHUNK) as u64);
    drop(store);
    let store = open(&root);
    let after: Vec<_> = store.files().iter().flat_map(|file| file.unverified()).collect();
    assert_eq!(after, held);
    store.files().iter().for_each(|file| after.iter().for_each(|index| sample.assert_served(file, index.0)));
}

#[test]
fn a_chunk_of_the_wrong_length_is_rejected() {
    let (root, sample) = (root(), Sample::new(1, 4));
    let store = open(&root);
    sample.add(&store);
    assert!(store.store(sample.id(), ChunkIndex(0), &sample.chunk(0)[1..]).is_err());
    assert!(store.store(sample.id(), ChunkIndex(4), sample.chunk(0)).is_err());
    assert_eq!(store.used(), 0);
}

#[test]
fn a_proof_is_computed_from_the_bytes_on_disk() {
    let (root, sample) = (root(), Sample::new(1, 4));
    let store = open(&root);
    sample.store(&store, &[1]);
    let file = store.file(sample.id()).unwrap();
    let (key, nonce) = (VolunteerKey(5), Nonce(7));
    let prove = |index| file.prove(ChunkIndex(index), key, nonce, &|| false);
    let right = possession_proof(key, nonce, sample.chunk(1));
    assert_eq!(prove(1).unwrap(), right);
    for absent in [0, 4] {
        assert!(matches!(prove(absent), Err(StoreError::Missing(_))));
    }
    let stopped = file.prove(ChunkIndex(1), key, nonce, &|| true);
    assert!(matches!(stopped, Err(StoreError::Stopped)), "{stopped:?}");
    fs::write(sample.path(&root, "1"), vec![0; CHUNK]).unwrap();
    assert!(prove(1).unwrap() != right);
    assert_eq!(file.held(), 1, "a proof does not compare the bytes with the manifest");
    fs::write(sample.path(&root, "1"), vec![0; CHUNK - 1]).unwrap();
    assert!(matches!(prove(1), Err(StoreError::Missing(_))));
    assert_eq!(
        (file.held(), store.take_damaged().len()),
        (0, 1),
        "the damaged chunk is removed and reported"
    );
}

#[test]
fn distrusted_chunks_are_hashed_before_they_are_served_again() {
    let (root, sample) = (root(), Sample::new(1, 4));
    let store = open(&root);
    sample.store(&store, &[0, 1]);
    let file = store.file(sample.id()).unwrap();
    assert_eq!(file.unverified(), []);
    file.distrust_chunks(&[ChunkIndex(0), ChunkIndex(1)]);
    assert_eq!(file.unverified(), [ChunkIndex(0), ChunkIndex(1)]);
    assert!(file.stored(ChunkIndex(1)).is_ok());
    assert_eq!(file.unverified(), [ChunkIndex(0)]);
}

#[test]
fn an_empty_file_is_stored() {
    let (root, store) = (root(), root());
    let manifest = Arc::new(Manifest::new(Layout::even(0, None).unwrap(), vec![Digest::of(b"")]).unwrap());
    let file = FileSummary { id: manifest.id(), name: FileName::new("e").unwrap(), size: 0, chunks: 1 };
    let kept = KeptFile { file, md5: Md5([0; 16]) };
    let store = open(&store);
    store.add_file(&kept, manifest).unwrap();
    store.store(kept.file.id, ChunkIndex(0), b"").unwrap();
    assert_eq!(store.files()[0].stored(ChunkIndex(0)).unwrap().length, 0);
    drop(root);
}

#[test]
fn a_store_in_a_shared_folder_is_not_shared() {
    let folder = root();
    fs::write(folder.path().join("mine"), "x").unwrap();
    let hidden = folder.path().join(limits::VOLUNTEER_FOLDER);
    let sample = Sample::new(1, 2);
    sample.store(&ReplicaStore::open(&hidden, PLENTY).unwrap(), &[0, 1]);
    let shared = SharedFolder::open(folder.path()).unwrap();
    shared.rescan().unwrap();
    // A file just written is ready to be hashed at the second scan.
    let diff = shared.rescan().unwrap();
    assert_eq!(diff.to_hash, [FileName::new("mine").unwrap()]);
    assert!(diff.changes.is_empty());
}

/// A call on a store.
#[derive(Debug, Clone)]
enum Step {
    Store(bool, u32),
    Remove(bool, Vec<u32>),
    Damage(bool, u32),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 0..5u32).prop_map(|(file, index)| Step::Store(file, index)),
        2 => (any::<bool>(), prop::collection::vec(0..6u32, 0..3)).prop_map(|(file, chunks)| Step::Remove(file, chunks)),
        1 => (any::<bool>(), 0..5u32).prop_map(|(file, index)| Step::Damage(file, index)),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_store_has_the_chunks_stored_and_not_removed(steps in prop::collection::vec(step(), 1..24)) {
        let root = root();
        let samples = [Sample::new(1, 5), Sample::new(2, 5)];
        let offered = 6 * CHUNK as u64;
        let mut store = ReplicaStore::open(root.path(), offered).unwrap();
        let mut model: BTreeSet<(usize, u32)> = BTreeSet::new();
        let length = |(file, index): &(usize, u32)| samples[*file].chunk(*index).len() as u64;
        for step in steps {
            let used: u64 = model.iter().map(length).sum();
            prop_assert_eq!(store.used(), used);
            match step {
                Step::Store(file, index) => {
                    let (file, sample) = (usize::from(file), &samples[usize::from(file)]);
                    sample.add(&store);
                    let fits = model.contains(&(file, index)) || used + length(&(file, index)) <= offered;
                    let stored = store.store(sample.id(), ChunkIndex(index), sample.chunk(index));
                    prop_assert_eq!(stored.is_ok(), fits);
                    if fits {
                        model.insert((file, index));
                    }
                }
                Step::Remove(file, chunks) => {
                    let (file, sample) = (usize::from(file), &samples[usize::from(file)]);
                    let indices: Vec<_> = chunks.iter().map(|index| ChunkIndex(*index)).collect();
                    store.remove(sample.id(), &indices).unwrap();
                    chunks.iter().for_each(|index| _ = model.remove(&(file, *index)));
                }
                Step::Damage(file, index) => {
                    let (file, sample) = (usize::from(file), &samples[usize::from(file)]);
                    if model.remove(&(file, index)) {
                        fs::remove_file(sample.path(&root, &index.to_string())).unwrap();
                        prop_assert!(!store.check(sample.id(), ChunkIndex(index)).unwrap());
                    }
                }
                Step::Restart => {
                    drop(store);
                    store = ReplicaStore::open(root.path(), offered).unwrap();
                }
            }
            for (file, sample) in samples.iter().enumerate() {
                let held = model.iter().filter(|(other, _)| *other == file).map(|(_, index)| *index);
                let kept = store.file(sample.id());
                let there = kept.as_ref().map_or(vec![], |kept| kept.progress().have().0.iter().map(|i| i.0).collect());
                prop_assert_eq!(there, held.clone().collect::<Vec<_>>());
                held.for_each(|index| sample.assert_served(kept.as_ref().unwrap(), index));
            }
        }
    }
}

#[test]
fn a_chunk_that_fails_at_close_is_not_stored() {
    let (root, sample) = (TempDir::new().unwrap(), Sample::new(7, 2));
    let store = ReplicaStore::open(root.path(), PLENTY).unwrap();
    sample.store(&store, &[0]);
    disk::faults::fail_close(0, rustix::io::Errno::DQUOT);
    let error = store.store(sample.id(), ChunkIndex(1), sample.chunk(1)).unwrap_err();
    assert!(matches!(error, StoreError::Exhausted { .. }), "{error}");
    assert_eq!(store.file(sample.id()).unwrap().held(), 1);
    drop(store);
    assert_eq!(ReplicaStore::open(root.path(), PLENTY).unwrap().file(sample.id()).unwrap().held(), 1);
}
