//! Tests of the download of a folder: the chunks come from memory.

use super::replacement::faults;
use super::*;
use crate::content::tree::{Entry, Hole, Mtime, TreeContent, TreeIndex, TreePath};
use crate::storage::error::StoreError;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use tempfile::TempDir;

const CHUNK_BYTES: u32 = 16 * 1024;
const RECHECK: TreeRecheck = TreeRecheck { trusts_state: true, in_place: Verify::Full, staged: Verify::None };

/// A published tree: its manifest and its chunks.
struct Published {
    manifest: Arc<Manifest>,
    chunks: Vec<Vec<u8>>,
}

fn entry(path: &str, mode: u16, kind: EntryKind) -> Entry {
    let modified = Mtime { seconds: -5_000 + i64::from(mode), nanoseconds: 123_456_789 };
    Entry { path: TreePath::new(path.as_bytes()).unwrap(), mode, modified, owner: None, kind }
}

fn folder(path: &str) -> Entry {
    entry(path, 0o755, EntryKind::Directory)
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, 0o644, EntryKind::File { size, holes: Vec::new() })
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, 0o777, EntryKind::Link { target: target.as_bytes().to_vec() })
}

/// Bytes of a file: they depend on its path and on `salt`.
fn bytes_of(path: &str, size: u64, salt: u8) -> Vec<u8> {
    let seed = path.bytes().fold(u64::from(salt) + 1, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let mut random = fastrand::Rng::with_seed(seed);
    (0..size).map(|_| random.u8(1..)).collect()
}

/// Publishes entries; `salted` files have another content.
fn publish(mut entries: Vec<Entry>, salted: &[&str]) -> Published {
    entries.push(folder(""));
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    let index = TreeIndex::new(entries, 1_000).unwrap();
    let mut stream = index.bytes().to_vec();
    for entry in index.entries() {
        let EntryKind::File { size, .. } = entry.kind else { continue };
        let path = entry.path.to_string();
        let bytes = bytes_of(&path, size, u8::from(salted.contains(&path.as_str())));
        entry
            .data_ranges()
            .into_iter()
            .for_each(|range| stream.extend(&bytes[range.start as usize..range.end as usize]));
    }
    let content = TreeContent::new(index, Some(CHUNK_BYTES)).unwrap();
    let layout = content.layout().clone();
    let spans = layout.indices().map(|index| layout.span(index).unwrap());
    let chunks: Vec<Vec<u8>> = spans
        .map(|span| stream[span.offset as usize..(span.offset + span.length) as usize].to_vec())
        .collect();
    let digests = chunks.iter().map(|chunk| Digest::of(chunk)).collect();
    Published { manifest: Arc::new(Manifest::of_kind(content.kind(), layout, digests).unwrap()), chunks }
}

/// A tree with every kind of entry.
fn sample() -> Vec<Entry> {
    let hole = |offset, length| Hole { offset, length };
    let mut entries = vec![
        folder("a"),
        folder("a/empty"),
        entry("a/closed", 0o500, EntryKind::Directory),
        file("a/closed/inner", 10),
        file("a/large", 3 * u64::from(CHUNK_BYTES) + 5),
        entry("a/program", 0o755, EntryKind::File { size: 100, holes: Vec::new() }),
        entry(
            "a/sparse",
            0o600,
            EntryKind::File { size: 300_000, holes: vec![hole(10, 200_000), hole(250_000, 50_000)] },
        ),
        entry("holes", 0o400, EntryKind::File { size: 9_000, holes: vec![hole(0, 9_000)] }),
        file("nothing", 0),
        link("link", "a/large"),
        link("a/up", ".."),
    ];
    let to = TreePath::new(&b"a/program"[..]).unwrap();
    entries.push(entry("second", 0o755, EntryKind::HardLink { to }));
    entries.extend((0..40).map(|number| file(&format!("small{number}"), 700 + number)));
    entries
}

struct Target {
    _folder: TempDir,
    path: PathBuf,
}

fn target() -> Target {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tree");
    Target { _folder: folder, path }
}

impl Published {
    fn open(&self, target: &Target) -> TreePart {
        self.open_with(target, TreeReceiveOptions::default())
    }

    fn open_with(&self, target: &Target, options: TreeReceiveOptions) -> TreePart {
        let part = TreePart::open(&target.path, self.manifest.clone(), options).unwrap();
        let index = self.manifest.index_chunks();
        index.for_each(|index| self.store(&part, ChunkIndex(index)).unwrap());
        part
    }

    fn store(&self, part: &TreePart, index: ChunkIndex) -> Result<(), StoreError> {
        part.store(index, self.manifest.digest(index).unwrap(), &self.chunks[index.at()]).map(|_| ())
    }

    fn store_missing(&self, part: &TreePart) -> u32 {
        let done = part.done();
        let missing: Vec<ChunkIndex> = part.wanted().iter().filter(|index| !done.has(*index)).collect();
        // The order of arrival does not matter.
        missing.iter().rev().for_each(|index| self.store(part, *index).unwrap());
        missing.len() as u32
    }

    fn download(&self, target: &Target, overwrite: bool) -> TreePart {
        let part = self.open(target);
        assert_eq!(prepare(&part, overwrite).unwrap(), Prepared::Incomplete { bad: 0 });
        self.store_missing(&part);
        part.finish(overwrite, false).unwrap();
        part
    }

    /// Reads each chunk that is served, as a server does, and returns their number.
    fn served(&self, part: &TreePart) -> u32 {
        let (have, _) = part.progress().have();
        for index in have.iter() {
            let chunk = part.stored(index).unwrap();
            let mut bytes = vec![0; chunk.length as usize];
            chunk.file.read_exact_at(&mut bytes, chunk.offset).unwrap();
            assert!(bytes == self.chunks[index.at()], "chunk {index}");
        }
        have.held()
    }
}

fn prepare(part: &TreePart, overwrite: bool) -> Result<Prepared, StoreError> {
    part.prepare(overwrite, RECHECK, VerifyCallbacks::NONE)
}

/// Compares a folder with the entries of a tree; entries that it has in addition are returned.
fn check(root: &Path, entries: &[Entry], salted: &[&str]) -> Vec<String> {
    for entry in entries {
        let name = entry.path.to_string();
        let path = root.join(&name);
        let found = path.symlink_metadata().unwrap_or_else(|error| panic!("{name}: {error}"));
        let is_link = matches!(entry.kind, EntryKind::Link { .. });
        let mtime = (found.mtime(), found.mtime_nsec() as u32);
        assert_eq!(mtime, (entry.modified.seconds, entry.modified.nanoseconds), "{name}");
        assert!(is_link || found.mode() & 0o7777 == u32::from(entry.mode), "{name}: {:o}", found.mode());
        match &entry.kind {
            EntryKind::Directory => assert!(found.is_dir()),
            EntryKind::File { size, holes } => {
                let mut bytes = bytes_of(&name, *size, u8::from(salted.contains(&name.as_str())));
                for hole in holes {
                    bytes[hole.offset as usize..(hole.offset + hole.length) as usize].fill(0);
                }
                assert!(fs::read(&path).unwrap() == bytes, "{name}");
                assert!(holes.is_empty() || found.blocks() * 512 < *size, "{name} has no holes");
            }
            EntryKind::Link { target } => {
                assert_eq!(path.read_link().unwrap().to_str().unwrap().as_bytes(), target)
            }
            EntryKind::HardLink { to } => {
                assert_eq!(found.ino(), root.join(to.to_string()).metadata().unwrap().ino());
            }
        }
    }
    let known: Vec<String> = entries.iter().map(|entry| entry.path.to_string()).collect();
    let mut added: Vec<String> =
        paths_in(root, "").into_iter().filter(|path| !known.contains(path)).collect();
    added.sort();
    added
}

fn paths_in(root: &Path, below: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(below)).unwrap().map(Result::unwrap) {
        let path = format!("{below}{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(paths_in(root, &format!("{path}/")));
        }
        found.push(path);
    }
    found
}

/// The names beside a target.
fn beside(target: &Target) -> Vec<String> {
    let names = fs::read_dir(target.path.parent().unwrap()).unwrap();
    let mut names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_kind_of_entry_is_reproduced_and_served_before_and_after_the_end() {
    let (published, target) = (publish(sample(), &[]), target());
    let part = published.open(&target);
    assert_eq!(prepare(&part, false).unwrap(), Prepared::Incomplete { bad: 0 });
    let (wanted, present) = part.sizes();
    assert_eq!((wanted, present), (published.manifest.layout().size() - published.chunks[0].len() as u64, 0));
    assert_eq!(beside(&target), [".tree.part"]);
    published.store_missing(&part);
    assert!(part.is_complete() && !target.path.exists());
    let count = published.manifest.layout().count();
    assert_eq!(published.served(&part), count);
    part.finish(false, true).unwrap();
    assert_eq!(check(&target.path, &sample(), &[]), [""; 0]);
    assert_eq!(beside(&target), [".tree.tree", "tree"]);
    assert_eq!(published.served(&part), count);
    part.finish(false, true).unwrap();
}

#[test]
fn a_killed_download_resumes_without_the_chunks_that_it_has_stored() {
    let (published, target) = (publish(sample(), &[]), target());
    let part = published.open(&target);
    prepare(&part, false).unwrap();
    let all: Vec<ChunkIndex> = published.manifest.layout().indices().collect();
    let half = all.len() / 2;
    all[..half].iter().for_each(|index| published.store(&part, *index).unwrap());
    part.note().unwrap();
    let busy = TreePart::open(&target.path, published.manifest.clone(), TreeReceiveOptions::default());
    assert!(matches!(busy, Err(StoreError::Busy(_))));
    // A kill runs no destructor that matters: the lock ends with the process.
    drop(part);
    let part =
        TreePart::open(&target.path, published.manifest.clone(), TreeReceiveOptions::default()).unwrap();
    assert!(part.has_index() && part.done().held() as usize == half);
    prepare(&part, false).unwrap();
    assert!(part.sizes().1 > 0);
    assert_eq!(published.store_missing(&part) as usize, all.len() - half);
    // Killed after the last chunk, with a part of the entries without content.
    part.note().unwrap();
    fs::hard_link(
        target.path.with_file_name(".tree.part/tree/a/program"),
        target.path.with_file_name(".tree.part/tree/second"),
    )
    .unwrap();
    drop(part);
    let part = published.open(&target);
    prepare(&part, false).unwrap();
    assert_eq!(published.store_missing(&part), 0);
    part.finish(false, false).unwrap();
    assert_eq!(check(&target.path, &sample(), &[]), [""; 0]);
}

#[test]
fn damaged_and_removed_staged_files_are_downloaded_again() {
    let (published, target) = (publish(sample(), &[]), target());
    let part = published.open(&target);
    prepare(&part, false).unwrap();
    published.store_missing(&part);
    part.note().unwrap();
    drop(part);
    let staged = target.path.with_file_name(".tree.part/tree");
    fs::remove_file(staged.join("small3")).unwrap();
    fs::write(staged.join("small9"), vec![7; 709]).unwrap();
    let part = published.open(&target);
    let full = TreeRecheck { staged: Verify::Full, ..RECHECK };
    let prepared = part.prepare(false, full, VerifyCallbacks::NONE).unwrap();
    assert!(matches!(prepared, Prepared::Incomplete { bad: 0..=1 }), "{prepared:?}");
    assert!(published.store_missing(&part) >= 1);
    part.finish(false, false).unwrap();
    assert_eq!(check(&target.path, &sample(), &[]), [""; 0]);
}

#[test]
fn a_complete_tree_is_recognised_by_its_stored_state_until_a_file_changes() {
    let (published, target) = (publish(sample(), &[]), target());
    drop(published.download(&target, false));
    let recognise = |unread: &dyn Fn(u64)| {
        let callbacks = VerifyCallbacks { begin: unread, hashed: &|_| (), stop: &|| false };
        TreePart::recognise(&target.path, &published.manifest, &TreeReceiveOptions::default(), callbacks)
            .unwrap()
    };
    let nothing = |bytes| assert_eq!(bytes, 0, "a file is read");
    let tree = recognise(&nothing).unwrap();
    assert_eq!(published.served(&tree), published.manifest.layout().count());
    // Files of the receiver make no difference.
    fs::write(target.path.join("a/mine"), "mine").unwrap();
    assert!(recognise(&nothing).is_some());
    let other = TreeReceiveOptions { filter: only(&["a"]), ..TreeReceiveOptions::default() };
    let of_part = TreePart::recognise(&target.path, &published.manifest, &other, VerifyCallbacks::NONE);
    assert!(of_part.unwrap().is_none(), "the state is that of the whole tree");
    let changed = target.path.join("small4");
    let bytes = fs::read(&changed).unwrap();
    fs::write(&changed, &bytes).unwrap();
    assert!(recognise(&|bytes| assert!(bytes > 0)).is_some(), "it was written again with the same bytes");
    assert!(recognise(&nothing).is_some(), "the new state is stored");
    fs::write(&changed, vec![1; bytes.len()]).unwrap();
    assert!(recognise(&|_| ()).is_none());
    assert!(
        published
            .manifest
            .layout()
            .indices()
            .any(|index| matches!(tree.stored(index), Err(StoreError::Changed(_))))
    );
    let lost = published.manifest.layout().count() - tree.progress().held();
    assert!((1..=3).contains(&lost), "{lost} chunks left the offer");
}

fn only(patterns: &[&str]) -> PathFilter {
    PathFilter { only: patterns.iter().map(|text| text.parse().unwrap()).collect(), exclude: Vec::new() }
}

#[test]
fn a_link_that_is_planted_in_the_staging_folder_is_never_followed() {
    let (published, target) = (publish(sample(), &[]), target());
    let outside = target.path.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "victim").unwrap();
    let part = published.open(&target);
    prepare(&part, false).unwrap();
    let staged = target.path.with_file_name(".tree.part/tree");
    symlink(outside.join("victim"), staged.join("small7")).unwrap();
    symlink(outside.join("victim"), staged.join("a/sparse")).unwrap();
    fs::remove_dir(staged.join("a/closed")).unwrap();
    symlink(&outside, staged.join("a/closed")).unwrap();
    let results: Vec<_> =
        published.manifest.layout().indices().map(|index| published.store(&part, index)).collect();
    let errors: Vec<String> =
        results.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    assert!(errors.iter().any(|text| text.contains("a/closed")), "{errors:?}");
    assert!(errors.iter().any(|text| text.contains("a/sparse")), "{errors:?}");
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"victim");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert!(!staged.join("small7").is_symlink(), "a small file takes the place of the link");
    assert!(!target.path.exists());
}

#[test]
fn a_planted_hard_link_is_not_written_through() {
    let (published, target) = (publish(sample(), &[]), target());
    let victim = target.path.with_file_name("victim");
    fs::write(&victim, "victim").unwrap();
    let part = published.open(&target);
    prepare(&part, false).unwrap();
    fs::hard_link(&victim, target.path.with_file_name(".tree.part/tree/a/large")).unwrap();
    let refused =
        published.manifest.layout().indices().filter_map(|index| published.store(&part, index).err());
    assert!(refused.map(|error| error.to_string()).any(|text| text.contains("second name")));
    assert_eq!(fs::read(&victim).unwrap(), b"victim");
}

#[test]
fn a_different_target_is_refused_and_with_overwrite_only_its_different_files_change() {
    let target = target();
    drop(publish(sample(), &[]).download(&target, false));
    let kept = fs::metadata(target.path.join("small2")).unwrap().ino();
    fs::write(target.path.join("mine"), "mine").unwrap();
    fs::create_dir(target.path.join("a/empty/mine")).unwrap();
    let mut entries = sample();
    entries.retain(|entry| entry.path.to_string() != "link");
    entries.extend([file("new", 20_000), file("link", 5)]);
    let published = publish(entries.clone(), &["small1", "a/large"]);
    let part = published.open(&target);
    assert!(matches!(prepare(&part, false).unwrap(), Prepared::Differs(_)));
    assert!(matches!(part.finish(false, false), Err(StoreError::Missing(_))));
    let count = published.manifest.layout().count();
    assert_eq!(prepare(&part, true).unwrap(), Prepared::Incomplete { bad: 0 });
    let missing = published.store_missing(&part);
    assert!(missing > 0 && missing < count - 1, "{missing} of {count}");
    assert_eq!(published.served(&part), part.done().held());
    part.finish(true, false).unwrap();
    assert_eq!(check(&target.path, &entries, &["small1", "a/large"]), ["a/empty/mine", "mine"]);
    assert_eq!(fs::metadata(target.path.join("small2")).unwrap().ino(), kept, "an equal file was replaced");
    assert_eq!(published.served(&part), count);
    assert_eq!(beside(&target), [".tree.tree", "tree"]);
}

#[test]
fn an_interrupted_replacement_is_completed_by_the_next_run_at_every_step() {
    let mut entries = sample();
    entries.retain(|entry| !["a/empty", "link"].contains(&entry.path.to_string().as_str()));
    // A file in the place of a folder, and a folder in the place of a link.
    entries.extend([file("a/empty", 5), folder("link"), file("link/inner", 6)]);
    let salted = ["small1", "small30", "a/large", "a/program"];
    let new = publish(entries.clone(), &salted);
    for steps in 0.. {
        let target = target();
        drop(publish(sample(), &[]).download(&target, false));
        fs::write(target.path.join("mine"), "mine").unwrap();
        let part = new.open(&target);
        prepare(&part, true).unwrap();
        new.store_missing(&part);
        faults::end_after(Some(steps));
        let ended = part.finish(true, false);
        faults::end_after(None);
        drop(part);
        if ended.is_err() {
            let part = new.open(&target);
            assert!(matches!(prepare(&part, false).unwrap(), Prepared::Differs(_)), "without --overwrite");
            assert_eq!(
                prepare(&part, true).unwrap(),
                Prepared::Complete { other_metadata: 0 },
                "step {steps}"
            );
            assert_eq!(new.served(&part), new.manifest.layout().count());
        }
        assert_eq!(check(&target.path, &entries, &salted), ["mine"], "step {steps}");
        assert_eq!(beside(&target), [".tree.tree", "tree"], "step {steps}");
        if ended.is_ok() {
            assert!(steps > 40, "{steps}");
            break;
        }
    }
}

#[test]
fn a_target_that_was_changed_during_an_interrupted_replacement_is_compared_again() {
    let salted = ["small1", "small30"];
    let (new, target) = (publish(sample(), &salted), target());
    drop(publish(sample(), &[]).download(&target, false));
    let part = new.open(&target);
    prepare(&part, true).unwrap();
    new.store_missing(&part);
    faults::end_after(Some(30));
    assert!(part.finish(true, false).is_err());
    faults::end_after(None);
    drop(part);
    fs::write(target.path.join("small2"), "changed").unwrap();
    let part = new.open(&target);
    assert_eq!(prepare(&part, true).unwrap(), Prepared::Incomplete { bad: 0 });
    new.store_missing(&part);
    part.finish(true, false).unwrap();
    assert_eq!(check(&target.path, &sample(), &salted), [""; 0]);
}

#[test]
fn a_folder_with_content_in_the_place_of_a_file_ends_a_replacement_before_any_change() {
    let target = target();
    drop(publish(sample(), &[]).download(&target, false));
    fs::remove_file(target.path.join("nothing")).unwrap();
    fs::create_dir(target.path.join("nothing")).unwrap();
    fs::write(target.path.join("nothing/mine"), "mine").unwrap();
    let published = publish(sample(), &["small1"]);
    let part = published.open(&target);
    prepare(&part, true).unwrap();
    published.store_missing(&part);
    let error = part.finish(true, false).unwrap_err().to_string();
    assert!(error.contains("nothing is a folder with content"), "{error}");
    assert_eq!(fs::read(target.path.join("small1")).unwrap(), bytes_of("small1", 701, 0));
}

#[test]
fn a_file_at_the_target_is_replaced_by_one_exchange() {
    let (published, target) = (publish(sample(), &[]), target());
    fs::write(&target.path, "a file").unwrap();
    let part = published.open(&target);
    assert_eq!(prepare(&part, false).unwrap(), Prepared::Differs("it is not a folder".to_owned()));
    drop(part);
    drop(published.download(&target, true));
    assert_eq!(check(&target.path, &sample(), &[]), [""; 0]);
    assert_eq!(beside(&target), [".tree.tree", "tree"]);
}

#[test]
fn an_equal_folder_without_a_stored_state_is_complete_after_it_was_read() {
    let (published, target) = (publish(sample(), &[]), target());
    drop(published.download(&target, false));
    fs::remove_file(target.path.with_file_name(".tree.tree")).unwrap();
    fs::set_permissions(target.path.join("small1"), fs::Permissions::from_mode(0o640)).unwrap();
    let part = published.open(&target);
    assert_eq!(prepare(&part, false).unwrap(), Prepared::Complete { other_metadata: 1 });
    assert_eq!(published.served(&part), published.manifest.layout().count());
    assert_eq!(beside(&target), [".tree.tree", "tree"]);
}

#[test]
fn a_part_of_a_tree_needs_only_its_chunks_and_serves_only_whole_ones() {
    let (published, target) = (publish(sample(), &[]), target());
    let filter =
        PathFilter { exclude: vec!["a/closed".parse().unwrap()], ..only(&["a", "second", "small5"]) };
    let options = TreeReceiveOptions { filter: filter.clone(), ..TreeReceiveOptions::default() };
    let part = published.open_with(&target, options.clone());
    prepare(&part, false).unwrap();
    let wanted = published.store_missing(&part);
    assert!(wanted < published.manifest.layout().count() - 1);
    assert_eq!(published.served(&part), part.progress().held());
    assert!(part.progress().held() < part.done().held(), "a chunk with an unwanted file is not served");
    part.finish(false, false).unwrap();
    let selected: Vec<Entry> = sample().into_iter().filter(|entry| filter.selects(&entry.path)).collect();
    assert_eq!(check(&target.path, &selected, &[]), [""; 0]);
    let again = TreePart::recognise(&target.path, &published.manifest, &options, VerifyCallbacks::NONE);
    assert!(again.unwrap().is_some());
    // The same command finds it by its content, too.
    fs::remove_file(target.path.with_file_name(".tree.tree")).unwrap();
    let part = published.open_with(&target, options);
    assert!(!matches!(prepare(&part, false).unwrap(), Prepared::Incomplete { .. }));
}

#[test]
fn a_wanted_hard_link_of_an_unwanted_file_becomes_that_file() {
    let to = TreePath::new(&b"a"[..]).unwrap();
    let hard_link = |path| entry(path, 0o644, EntryKind::HardLink { to: to.clone() });
    let (published, target) =
        (publish(vec![file("a", 40_000), hard_link("b"), hard_link("c"), file("d", 9)], &[]), target());
    let options = TreeReceiveOptions { filter: only(&["b", "c"]), ..TreeReceiveOptions::default() };
    let part = published.open_with(&target, options);
    prepare(&part, false).unwrap();
    published.store_missing(&part);
    part.finish(false, false).unwrap();
    assert!(fs::read(target.path.join("b")).unwrap() == bytes_of("a", 40_000, 0));
    assert_eq!(
        fs::metadata(target.path.join("b")).unwrap().ino(),
        fs::metadata(target.path.join("c")).unwrap().ino()
    );
    assert_eq!(paths_in(&target.path, "").len(), 2);
}

#[test]
fn trees_that_lead_outside_are_refused_with_the_entry_before_anything_is_created() {
    for (path, leads_to) in [("x", "/etc/passwd"), ("a/y", "../../z"), ("a/z", "up/..")] {
        let target = target();
        let published = publish(vec![folder("a"), link("a/up", ".."), link(path, leads_to)], &[]);
        let part = published.open(&target);
        let error = prepare(&part, false).unwrap_err().to_string();
        assert!(error.starts_with(&format!("the folder is refused: {path} is a symbolic link")), "{error}");
        assert_eq!(beside(&target), [".tree.part"]);
        assert!(!target.path.with_file_name(".tree.part/tree").exists());
        drop(part);
        let part = published
            .open_with(&target, TreeReceiveOptions { with_any_links: true, ..TreeReceiveOptions::default() });
        prepare(&part, false).unwrap();
        part.finish(false, false).unwrap();
        assert_eq!(target.path.join(path).read_link().unwrap(), Path::new(leads_to));
    }
}

#[test]
fn an_index_with_more_entries_than_allowed_and_names_that_are_one_file_are_refused() {
    let (published, target) = (publish(sample(), &[]), target());
    let part =
        published.open_with(&target, TreeReceiveOptions { entries_max: 5, ..TreeReceiveOptions::default() });
    assert!(prepare(&part, false).unwrap_err().to_string().contains("more than 5 entries"));
    drop(part);
    let part = published.open(&target);
    prepare(&part, false).unwrap();
    published.store_missing(&part);
    // As on a file system that takes both names for one.
    let staged = target.path.with_file_name(".tree.part/tree");
    fs::write(staged.join("small2"), vec![0; 701]).unwrap();
    fs::remove_file(staged.join("small1")).unwrap();
    fs::hard_link(staged.join("small2"), staged.join("small1")).unwrap();
    let error = part.finish(false, false).unwrap_err().to_string();
    assert!(error.contains("small") && !target.path.exists(), "{error}");
}

#[test]
fn an_index_above_the_limit_is_refused_before_it_is_downloaded() {
    use crate::content::Layout;
    use crate::content::manifest::ItemKind;
    let index_bytes = limits::TREE_INDEX_BYTES_MAX as u64 + 1;
    let chunk = u64::from(limits::CHUNK_SIZE_MAX);
    let lengths =
        (0..).map(|at| (index_bytes - at * chunk).min(chunk)).take(index_bytes.div_ceil(chunk) as usize);
    let layout = Layout::uneven(lengths).unwrap();
    let digests = vec![Digest([0; 32]); layout.count() as usize];
    let kind = ItemKind::Tree { index_bytes, chunk_size: CHUNK_BYTES };
    let manifest = Arc::new(Manifest::of_kind(kind, layout, digests).unwrap());
    let target = target();
    let error = TreePart::open(&target.path, manifest, TreeReceiveOptions::default()).err().unwrap();
    assert!(error.to_string().contains("index it has 1073741825 bytes"), "{error}");
    assert!(beside(&target).is_empty());
}

#[test]
fn names_that_are_one_on_the_file_system_are_refused_before_content_is_received() {
    let (published, target) = (publish(sample(), &[]), target());
    let index = TreeIndex::decode(published.chunks[0].clone(), 1_000).unwrap();
    let places =
        Places::new(TreeContent::of_manifest(index, &published.manifest).unwrap(), &PathFilter::default());
    let check = |name: &str| {
        let root = target.path.with_file_name(name);
        fs::create_dir(&root).unwrap();
        // As if an entry had been created under another name before.
        if name == "merged" {
            fs::write(root.join("small1"), "").unwrap();
        }
        let checked = completion::check_names(&TreeFolder::open(&root).unwrap(), &places);
        (checked.map_err(|error| error.to_string()), paths_in(&root, "").len())
    };
    let folders = 3;
    assert_eq!(check("distinct"), (Ok(()), folders), "only the folders remain");
    let (refused, _) = check("merged");
    let text = "the folder is refused: small1 has the same name as another entry on this file system (case or normalisation)";
    assert_eq!(refused, Err(text.to_owned()));
    assert!(!staging::merges_names(
        &rustix::fs::open(&*std::env::temp_dir(), rustix::fs::OFlags::PATH, rustix::fs::Mode::empty())
            .unwrap()
    ));
}

#[test]
fn staging_folders_of_others_are_left_alone() {
    let (published, target) = (publish(sample(), &[]), target());
    fs::create_dir(target.path.with_file_name(".tree.part")).unwrap();
    fs::write(target.path.with_file_name(".tree.part/theirs"), "theirs").unwrap();
    let part = published.open(&target);
    assert_eq!(beside(&target), [".tree.2.part", ".tree.part"]);
    prepare(&part, false).unwrap();
    published.store_missing(&part);
    part.note().unwrap();
    drop(part);
    // The staging folder of another part of the tree is another one.
    let options = TreeReceiveOptions { filter: only(&["a"]), ..TreeReceiveOptions::default() };
    drop(published.open_with(&target, options));
    assert_eq!(beside(&target), [".tree.2.part", ".tree.3.part", ".tree.part"]);
    let part = published.open(&target);
    prepare(&part, false).unwrap();
    assert_eq!(published.store_missing(&part), 0);
    assert!(target.path.with_file_name(".tree.part/theirs").exists());
}

#[test]
fn paths_in_messages_are_complete() {
    let by_path: BTreeMap<&str, u64> = BTreeMap::from([("small7", 707)]);
    let (published, target) = (publish(sample(), &[]), target());
    let part = published.open(&target);
    prepare(&part, false).unwrap();
    fs::create_dir(target.path.with_file_name(".tree.part/tree/small7")).unwrap();
    let errors =
        published.manifest.layout().indices().filter_map(|index| published.store(&part, index).err());
    let text = errors.map(|error| error.to_string()).next().unwrap();
    assert!(by_path.keys().all(|path| text.contains(path)), "{text}");
}
