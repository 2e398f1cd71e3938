//! Tests of the index: golden vectors, the round trip of any tree, and hostile indexes.

use super::super::entry::{Hole, Mtime};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const ENTRIES_MAX: u32 = 1_000;

fn entry(path: &[u8], kind: EntryKind) -> Entry {
    let modified = Mtime { seconds: 1_000, nanoseconds: 5 };
    Entry { path: TreePath::new(path).unwrap(), mode: 0o755, modified, owner: None, kind }
}

fn directory(path: &[u8]) -> Entry {
    entry(path, EntryKind::Directory)
}

fn file(path: &[u8], size: u64) -> Entry {
    entry(path, EntryKind::File { size, holes: Vec::new() })
}

fn sparse(path: &[u8], size: u64, holes: &[(u64, u64)]) -> Entry {
    let holes = holes.iter().map(|(offset, length)| Hole { offset: *offset, length: *length }).collect();
    entry(path, EntryKind::File { size, holes })
}

fn link(path: &[u8], target: &[u8]) -> Entry {
    entry(path, EntryKind::Link { target: target.to_vec() })
}

fn hard_link(path: &[u8], to: &[u8]) -> Entry {
    entry(path, EntryKind::HardLink { to: TreePath::new(to).unwrap() })
}

fn index(entries: &[Entry]) -> Result<TreeIndex, TreeError> {
    TreeIndex::new(entries.iter().cloned(), ENTRIES_MAX)
}

/// The index of entries that are written without a check.
fn unchecked(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = INDEX_HEADER.to_vec();
    entries.iter().for_each(|entry| codec::write(entry, &mut bytes));
    bytes
}

/// The path and the reason that both [`TreeIndex::new`] and [`TreeIndex::decode`] give.
#[track_caller]
fn refused(entries: &[Entry]) -> (String, EntryError) {
    let error = index(entries).unwrap_err();
    assert_eq!(TreeIndex::decode(unchecked(entries), ENTRIES_MAX).unwrap_err(), error);
    match error {
        TreeError::Entry { path, reason } => (path.to_string(), reason),
        other => panic!("{other}"),
    }
}

/// A tree with each kind of entry.
fn sample() -> Vec<Entry> {
    let mut owned = file(b"dir/z", 300);
    owned.owner = Some((1_000, 100));
    let mut old = directory(b"");
    old.modified = Mtime { seconds: -1, nanoseconds: 999_999_999 };
    let hard = hard_link(b"hard", b"dir/a");
    vec![
        old,
        directory(b"dir"),
        file(b"dir/a", 5),
        sparse(b"dir/s", 1 << 20, &[(0, 4_096), (8_192, 4_096)]),
        owned,
        directory(b"empty"),
        hard,
        link(b"link\xff", b"../x"),
    ]
}

#[test]
fn the_bytes_of_an_index_are_fixed() {
    // A change would invalidate the id of every published folder. docs/protocol.md explains these bytes.
    let expected = concat!(
        "73686f616c20696e64657820310a",
        "0000ed0301ff93ebdc03",
        "0364697200ed03d00f05",
        "056469722f6101ed03d00f0505",
        "056469722f7302ed03d00f0580804002008020802080 20",
        "056469722f7a11ed03d00f05e80764ac02",
        "05656d70747900ed03d00f05",
        "046861726404056469722f61",
        "056c696e6bff03ed03d00f05042e2e2f78",
    )
    .replace(' ', "");
    let hex: String = index(&sample()).unwrap().bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
}

#[test]
fn entries_are_found_by_path_and_by_number() {
    let index = index(&sample()).unwrap();
    assert_eq!(index.entries().collect::<Vec<_>>(), sample());
    for (number, entry) in (0..).zip(sample()) {
        assert_eq!(index.find(entry.path.bytes()), Some(number));
        assert_eq!(index.path(number), Some(entry.path.bytes()));
    }
    assert_eq!((index.find(b"dir/b"), index.entry(8), index.path(8)), (None, None, None));
    let bytes: u64 = (0..8).map(|number| index.entry_bytes(number)).sum();
    assert_eq!(bytes, index.bytes().len() as u64);
}

#[test]
fn entries_out_of_place_are_refused() {
    let root = directory(b"");
    assert_eq!(index(&[]), Err(TreeError::Empty));
    assert_eq!(refused(&[directory(b"a")]), ("a".into(), EntryError::Root));
    assert_eq!(refused(&[file(b"", 1)]), (".".into(), EntryError::Root));
    assert_eq!(refused(&[root.clone(), root.clone()]), (".".into(), EntryError::Order));
    let order = |one: &[u8], two: &[u8]| refused(&[root.clone(), file(one, 1), file(two, 1)]);
    assert_eq!(order(b"b", b"a"), ("a".into(), EntryError::Order));
    assert_eq!(order(b"a", b"a"), ("a".into(), EntryError::Order));
    assert_eq!(order(b"a", b"a/b"), ("a/b".into(), EntryError::NoParent));
    let deep = refused(&[root.clone(), directory(b"a"), directory(b"a/b"), file(b"c/d", 1)]);
    assert_eq!(deep, ("c/d".into(), EntryError::NoParent));
    let after_link = refused(&[root.clone(), link(b"a", b"/etc"), file(b"a/passwd", 1)]);
    assert_eq!(after_link, ("a/passwd".into(), EntryError::NoParent));
    assert!(index(&[root, directory(b"a"), directory(b"a/b"), file(b"a/b/c", 1), file(b"a/c", 1)]).is_ok());
}

#[test]
fn metadata_that_no_entry_may_have_is_refused() {
    let with = |change: fn(&mut Entry)| {
        let mut entry = file(b"f", 1);
        change(&mut entry);
        refused(&[directory(b""), entry]).1
    };
    assert_eq!(with(|entry| entry.mode = 0o4755), EntryError::Mode(0o4755));
    assert_eq!(with(|entry| entry.mode = 0o1777), EntryError::Mode(0o1777));
    assert_eq!(
        with(|entry| entry.modified.nanoseconds = 1_000_000_000),
        EntryError::Time(1_000, 1_000_000_000)
    );
    assert_eq!(with(|entry| entry.modified.seconds = i64::MIN), EntryError::Time(i64::MIN, 5));
    assert_eq!(with(|entry| entry.owner = Some((u32::MAX, 0))), EntryError::Owner);
    let file_of = |entry: Entry| refused(&[directory(b""), entry]).1;
    assert_eq!(file_of(file(b"f", (1 << 60) + 1)), EntryError::Size((1 << 60) + 1));
    for holes in [&[(0, 0)][..], &[(0, 5), (5, 1)], &[(8, 3)], &[(11, 1)]] {
        assert_eq!(file_of(sparse(b"f", 10, holes)), EntryError::Holes, "{holes:?}");
    }
    let many: Vec<(u64, u64)> = (0..=TREE_HOLES_MAX as u64).map(|number| (2 * number, 1)).collect();
    assert_eq!(file_of(sparse(b"f", 1 << 40, &many)), EntryError::Holes);
    for target in [&b""[..], b"a\0b", &[b'x'; 4_096]] {
        assert_eq!(file_of(link(b"l", target)), EntryError::Target);
    }
    let huge: Vec<Entry> =
        std::iter::once(directory(b"")).chain((b'a'..=b'i').map(|name| file(&[name], 1 << 60))).collect();
    assert!(matches!(refused(&huge).1, EntryError::Size(_)));
}

#[test]
fn hard_links_name_an_earlier_file() {
    let with = |entries: &[Entry]| {
        let entries = [&[directory(b"")][..], entries].concat();
        index(&entries).map(|_| ()).map_err(|error| error.to_string())
    };
    let wrong = |to: &str| Err(format!("h: hard link to {to}, which is not an earlier file of the folder"));
    assert_eq!(with(&[file(b"a", 1), hard_link(b"h", b"a")]), Ok(()));
    assert_eq!(with(&[hard_link(b"h", b"h")]), wrong("h"));
    assert_eq!(with(&[hard_link(b"h", b"i"), file(b"i", 1)]), wrong("i"));
    assert_eq!(with(&[directory(b"d"), hard_link(b"h", b"d")]), wrong("d"));
    assert_eq!(with(&[link(b"a", b"/etc/passwd"), hard_link(b"h", b"a")]), wrong("a"));
    assert_eq!(with(&[file(b"a", 1), hard_link(b"g", b"a"), hard_link(b"h", b"g")]), wrong("g"));
    let mut other = hard_link(b"h", b"a");
    other.mode = 0o600;
    assert_eq!(with(&[file(b"a", 1), other]), wrong("a"), "its metadata is that of the file");
    let mut bytes = unchecked(&[directory(b"")]);
    bytes.extend(b"\x01h\x04\x04../x");
    assert!(TreeIndex::decode(bytes, ENTRIES_MAX).is_err());
    let missing = unchecked(&[directory(b""), hard_link(b"h", b"x")]);
    let error = TreeIndex::decode(missing, ENTRIES_MAX).unwrap_err();
    assert_eq!(error.to_string(), "h: hard link to x, which is not an earlier file of the folder");
}

#[test]
fn an_index_with_other_bytes_is_refused() {
    let decode = |bytes: &[u8]| TreeIndex::decode(bytes.to_vec(), ENTRIES_MAX);
    let whole = index(&sample()).unwrap();
    assert_eq!(decode(b"\x7fELF"), Err(TreeError::NotAnIndex));
    assert_eq!(decode(INDEX_HEADER), Err(TreeError::Empty));
    let trailing = [whole.bytes(), &[0]].concat();
    let after = "the index is invalid at byte 128, after link\\xff";
    assert_eq!(decode(&trailing).unwrap_err().to_string(), after);
    for end in INDEX_HEADER.len() + 1..whole.bytes().len() {
        let cut = decode(&whole.bytes()[..end]);
        assert!(cut.is_ok_and(|cut| cut.count() < 8) || decode(&whole.bytes()[..end]).is_err(), "{end}");
    }
    // An absolute path, and one with `..`: neither can be built.
    for path in [&b"/etc"[..], b"..", b"a/../b", b"nul\0", &[b'x'; 300]] {
        let mut bytes = unchecked(&[directory(b"")]);
        bytes.extend([path.len() as u8 & 0x7f | if path.len() > 127 { 0x80 } else { 0 }]);
        if path.len() > 127 {
            bytes.push((path.len() >> 7) as u8);
        }
        bytes.extend(path);
        bytes.extend([0, 0xed, 3, 0, 0]);
        assert!(matches!(decode(&bytes), Err(TreeError::Form { .. })), "{path:?}");
    }
}

#[test]
fn more_entries_than_the_limit_are_refused() {
    let entries = [directory(b""), file(b"a", 0), file(b"b", 0)];
    assert_eq!(TreeIndex::new(entries.clone(), 2), Err(TreeError::TooMany(2)));
    assert_eq!(TreeIndex::decode(unchecked(&entries), 2), Err(TreeError::TooMany(2)));
    assert!(TreeIndex::decode(unchecked(&entries), 3).is_ok());
}

/// Any tree: names of few letters, so that directories have several entries.
pub(in crate::content::tree) fn any_tree() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop_oneof!["[ab]{1,2}".prop_map(String::into_bytes), prop::collection::vec(1u8..47, 1..4)]
        .prop_filter("dots", |name| TreePath::new(&name[..]).is_ok());
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'));
    let hole = (1u64..9_000, 1u64..9_000);
    let kind = prop_oneof![
        2 => Just(EntryKind::Directory),
        4 => (0u64..200_000).prop_map(|size| EntryKind::File { size, holes: Vec::new() }),
        1 => prop::collection::vec(hole, 0..5).prop_map(sparse_kind),
        1 => prop::collection::vec(1u8.., 1..9).prop_map(|target| EntryKind::Link { target }),
    ];
    let modified = (-10_000_000_000i64..1_000_000_000_000, 0u32..1_000_000_000);
    let owner = prop::option::of((0u32..70_000, 0u32..70_000));
    let metadata = (0u16..=0o777, modified, owner, kind);
    prop::collection::btree_map(path, metadata, 0..40).prop_map(|found| {
        let mut entries = BTreeMap::from([(TreePath::root(), directory(b""))]);
        for (path, (mode, (seconds, nanoseconds), owner, kind)) in found {
            let path = TreePath::new(path).unwrap();
            let modified = Mtime { seconds, nanoseconds };
            entries.entry(path.clone()).or_insert(Entry { path, mode, modified, owner, kind });
        }
        complete(entries)
    })
}

fn sparse_kind(gaps: Vec<(u64, u64)>) -> EntryKind {
    let mut at = 0;
    let mut holes = Vec::new();
    for (before, length) in gaps {
        holes.push(Hole { offset: at + before, length });
        at += before + length;
    }
    EntryKind::File { size: at + 7, holes }
}

/// Adds the missing directories, and replaces a few entries by hard links to files before them.
fn complete(mut entries: BTreeMap<TreePath, Entry>) -> Vec<Entry> {
    let paths: Vec<TreePath> = entries.keys().cloned().collect();
    for path in paths {
        let mut above = path.parent().map(<[u8]>::to_vec);
        while let Some(parent) = above {
            let parent = TreePath::new(parent).unwrap();
            above = parent.parent().map(<[u8]>::to_vec);
            let entry = Entry { path: parent.clone(), ..directory(b"") };
            match entries.get(&parent).map(|found| &found.kind) {
                Some(EntryKind::Directory) => {}
                _ => _ = entries.insert(parent, entry),
            }
        }
    }
    let mut entries: Vec<Entry> = entries.into_values().collect();
    for at in 1..entries.len() {
        let file = entries[..at].iter().rev().find(|entry| matches!(entry.kind, EntryKind::File { .. }));
        let is_link = matches!(&entries[at].kind, EntryKind::Link { target } if target[0] < 90);
        if let Some(file) = file.filter(|_| is_link).cloned() {
            let kind = EntryKind::HardLink { to: file.path.clone() };
            entries[at] = Entry { path: entries[at].path.clone(), kind, ..file };
        }
    }
    entries
}

proptest! {
    #[test]
    fn any_tree_survives_the_round_trip(entries in any_tree()) {
        let index = index(&entries).unwrap();
        let decoded = TreeIndex::decode(index.bytes().to_vec(), ENTRIES_MAX).unwrap();
        prop_assert_eq!(decoded.entries().collect::<Vec<_>>(), entries);
        prop_assert_eq!(decoded.bytes(), index.bytes());
    }

    #[test]
    fn what_is_decoded_is_encoded_to_the_same_bytes(
        entries in any_tree(), at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let mut bytes = index(&entries).unwrap().bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len() * 4).max(at + 1));
        if let Ok(decoded) = TreeIndex::decode(bytes.clone(), ENTRIES_MAX) {
            let again = TreeIndex::new(decoded.entries(), ENTRIES_MAX).unwrap();
            prop_assert_eq!(again.bytes(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = TreeIndex::decode([INDEX_HEADER, &bytes].concat(), ENTRIES_MAX);
    }
}
