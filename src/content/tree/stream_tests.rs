//! Tests of the chunk stream: places of files, and the chunks that a change of one entry changes.

use super::super::index::tests::any_tree;
use super::super::{EntryKind, Hole, Mtime, TreePath};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const CHUNK: u32 = 16 * 1024;

fn entry(path: &str, kind: EntryKind) -> Entry {
    let path = TreePath::new(path.as_bytes()).unwrap();
    Entry { path, mode: 0o644, modified: Mtime::default(), owner: None, kind }
}

fn file(path: &str, size: u64) -> Entry {
    entry(path, EntryKind::File { size, holes: Vec::new() })
}

fn content(entries: &[Entry]) -> TreeContent {
    let root = entry("", EntryKind::Directory);
    let all = std::iter::once(root).chain(entries.iter().cloned());
    TreeContent::new(TreeIndex::new(all, u32::MAX).unwrap(), Some(CHUNK)).unwrap()
}

fn piece(entry: u32, offset_in_file: u64, length: u64) -> Piece {
    Piece { entry, offset_in_file, length }
}

#[test]
fn an_empty_tree_is_its_index() {
    let tree = content(&[]);
    assert_eq!((tree.layout().count(), tree.index_chunks()), (1, 1));
    assert_eq!(tree.index_chunk(ChunkIndex(0)), Some(tree.index().bytes()));
    assert_eq!(tree.pieces(ChunkIndex(0)), []);
}

#[test]
fn a_file_of_one_chunk_or_more_has_its_own_chunks() {
    let chunk = u64::from(CHUNK);
    let tree =
        content(&[file("a", 10), file("b", 2 * chunk + 1), file("c", chunk), file("d", 0), file("e", 3)]);
    let pieces: Vec<Vec<Piece>> = tree.layout().indices().map(|index| tree.pieces(index)).collect();
    assert_eq!(
        pieces,
        [
            vec![],
            vec![piece(1, 0, 10)],
            vec![piece(2, 0, chunk)],
            vec![piece(2, chunk, chunk)],
            vec![piece(2, 2 * chunk, 1)],
            vec![piece(3, 0, chunk)],
            vec![piece(5, 0, 3)],
        ]
    );
    let large: Vec<_> = tree.layout().indices().filter_map(|index| tree.large_file_at(index)).collect();
    assert_eq!(large, [(2, 2 * chunk + 1), (3, chunk)]);
    assert_eq!((tree.chunks_of(2), tree.chunks_of(4), tree.chunks_of(5)), (2..5, 0..0, 6..7));
}

#[test]
fn small_files_share_a_chunk_and_holes_are_left_out() {
    let holes = vec![Hole { offset: 0, length: 50 }, Hole { offset: 60, length: 20 }];
    let sparse = entry("b", EntryKind::File { size: 100, holes });
    let tree = content(&[file("a", 10), sparse, file("c", 5)]);
    assert_eq!(
        tree.pieces(ChunkIndex(1)),
        [piece(1, 0, 10), piece(2, 50, 10), piece(2, 80, 20), piece(3, 0, 5)]
    );
    let chunk = u64::from(CHUNK);
    let large =
        EntryKind::File { size: 10 * chunk, holes: vec![Hole { offset: chunk / 2, length: 8 * chunk }] };
    let tree = content(&[entry("a", large)]);
    assert_eq!(
        tree.pieces(ChunkIndex(1)),
        [piece(1, 0, chunk / 2), piece(1, 8 * chunk + chunk / 2, chunk / 2)]
    );
    assert_eq!(tree.pieces(ChunkIndex(2)), [piece(1, 9 * chunk, chunk)]);
}

#[test]
fn an_index_with_other_sizes_than_the_manifest_is_refused() {
    let tree = content(&[file("a", 10), file("b", 20_000)]);
    let digests = tree.layout().indices().map(|_| crate::content::Digest([0; 32])).collect();
    let manifest = Manifest::of_kind(tree.kind(), tree.layout().clone(), digests).unwrap();
    let of = |entries: &[Entry]| TreeContent::of_manifest(content(entries).index, &manifest).err();
    assert_eq!(of(&[file("a", 10), file("b", 20_000)]), None);
    assert_eq!(of(&[file("a", 10), file("b", 20_001)]), Some(TreeError::OtherLayout));
    assert_eq!(of(&[file("a", 11), file("b", 20_000)]), Some(TreeError::OtherLayout));
    let of_file = Manifest::new(tree.layout().clone(), vec![crate::content::Digest([0; 32]); 4]).unwrap();
    assert!(TreeContent::of_manifest(tree.index, &of_file).is_err());
}

/// Files of about 4 KiB in some directories, each with a number that stands for its content.
type Files = BTreeMap<String, (u64, u64)>;

fn many(count: u64) -> Files {
    (0..count)
        .map(|number| (format!("d{:02}/file{number}", number % 40), (3_000 + number % 2_000, number)))
        .collect()
}

/// Contents of the chunks of the index, and of the content: each piece with the number of its file.
type Chunks = (BTreeSet<Vec<u8>>, BTreeSet<Vec<(u64, Piece)>>);

/// What the digests of the chunks depend on: the index, and each piece with the content of its file.
fn chunks(files: &Files, touched: Option<&str>) -> Chunks {
    let mut directories: BTreeMap<String, u64> = BTreeMap::new();
    for (path, (_, number)) in files {
        // As a file system does: a changed list of names changes the modification time of the directory.
        let sum = directories.entry(path.split('/').next().unwrap().to_owned()).or_default();
        *sum = sum.wrapping_mul(31).wrapping_add(path.len() as u64 + number);
    }
    let mut entries: Vec<Entry> = directories
        .into_iter()
        .map(|(path, sum)| Entry {
            modified: Mtime { seconds: (sum % 1_000_000) as i64, nanoseconds: 0 },
            ..entry(&path, EntryKind::Directory)
        })
        .chain(files.iter().map(|(path, (size, _))| file(path, *size)))
        .collect();
    if let Some(touched) = touched {
        let at = entries.iter().position(|entry| entry.path.bytes() == touched.as_bytes()).unwrap();
        entries[at].modified.nanoseconds += 1;
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    let root = entry("", EntryKind::Directory);
    let index = TreeIndex::new(std::iter::once(root).chain(entries), u32::MAX).unwrap();
    let tree = TreeContent::new(index, Some(128 * 1024)).unwrap();
    let of_index = (0..tree.index_chunks()).map(|at| tree.index_chunk(ChunkIndex(at)).unwrap().to_vec());
    let numbered = |mut piece: Piece| {
        let path = String::from_utf8(tree.index().path(piece.entry).unwrap().to_vec()).unwrap();
        piece.entry = 0;
        (files[&path].1, piece)
    };
    let content = tree.layout().indices().skip(tree.index_chunks() as usize);
    let content = content.map(|at| tree.pieces(at).into_iter().map(numbered).collect());
    (of_index.collect(), content.collect())
}

#[test]
fn a_change_of_one_small_file_changes_few_chunks() {
    const COUNT: u64 = 10_000;
    let before = many(COUNT);
    let old = chunks(&before, None);
    assert!(old.0.len() > 5 && old.1.len() > 150, "{} and {}", old.0.len(), old.1.len());
    let changed = |new: &Chunks| (new.0.difference(&old.0).count(), new.1.difference(&old.1).count());
    for number in (0..COUNT).step_by(1_499) {
        let path = format!("d{:02}/file{number}", number % 40);
        let with = |change: &dyn Fn(&mut Files)| {
            let mut files = before.clone();
            change(&mut files);
            let (index, content) = changed(&chunks(&files, None));
            assert!(
                index <= 3 && content <= 3,
                "{path}: {index} chunks of the index, {content} of the content"
            );
        };
        with(&|files| _ = files.insert(format!("{path}-new"), (4_000, COUNT)));
        with(&|files| _ = files.remove(&path));
        with(&|files| {
            let file = files.remove(&path).unwrap();
            files.insert(format!("d{:02}/renamed{number}", number % 40), file);
        });
        with(&|files| _ = files.insert(path.clone(), (5_000, COUNT)));
        assert_eq!(changed(&chunks(&before, Some(&path))), (1, 0), "{path} was touched");
    }
}

proptest! {
    #[test]
    fn the_pieces_of_all_chunks_are_the_data_of_all_files(entries in any_tree()) {
        let tree = TreeContent::new(TreeIndex::new(entries.clone(), 100).unwrap(), Some(CHUNK)).unwrap();
        let mut data: BTreeMap<u32, Vec<Range<u64>>> = BTreeMap::new();
        for index in tree.layout().indices() {
            let pieces = tree.pieces(index);
            let span = tree.layout().span(index).unwrap();
            let length: u64 = pieces.iter().map(|piece| piece.length).sum();
            prop_assert_eq!(length, if index.0 < tree.index_chunks() { 0 } else { span.length });
            prop_assert!(span.length <= TREE_PACK_FACTOR * u64::from(CHUNK).max(TREE_INDEX_CHUNK_BYTES));
            for Piece { entry, offset_in_file, length } in pieces {
                prop_assert!(tree.chunks_of(entry).contains(&index.0));
                let ranges = data.entry(entry).or_default();
                match ranges.last_mut().filter(|last| last.end == offset_in_file) {
                    Some(last) => last.end += length,
                    None => ranges.push(offset_in_file..offset_in_file + length),
                }
            }
        }
        for (number, entry) in (0..).zip(&entries) {
            prop_assert_eq!(data.remove(&number).unwrap_or_default(), entry.data_ranges());
        }
        prop_assert!(data.is_empty());
    }
}
