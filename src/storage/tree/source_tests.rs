//! Tests of scan and publication with folders on disk.

use super::super::ScanOptions;
use super::*;
use crate::content::Digest;
use crate::content::tree::{Entry, Hole, Mtime};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, mknodat, utimensat};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use tempfile::TempDir;

const CHUNK: u32 = 16 * 1024;

fn scan(path: &Path, options: &ScanOptions) -> TreeScan {
    TreeScan::new(path, options, &|_| (), &|| false).unwrap()
}

fn publish_with(path: &Path, skips: bool) -> Result<(TreeSource, Vec<RefusedEntry>), PublishError> {
    let scan = scan(path, &ScanOptions::default());
    TreeSource::publish(scan, Some(CHUNK), skips, &|_| (), &|| false)
}

fn publish(path: &Path) -> TreeSource {
    publish_with(path, false).unwrap().0
}

fn read(source: &TreeSource, index: ChunkIndex) -> Result<Vec<u8>, StoreError> {
    let chunk = source.stored(index)?;
    let mut bytes = vec![0; chunk.length as usize];
    chunk.file.read_exact_at(&mut bytes, chunk.offset).unwrap();
    Ok(bytes)
}

fn entry(source: &TreeSource, path: &str) -> Entry {
    let index = source.content().index();
    index.find(path.as_bytes()).and_then(|number| index.entry(number)).unwrap_or_else(|| panic!("{path}"))
}

fn touch(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A folder with each kind of entry.
fn sample() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir_all(path.join("dir/deep")).unwrap();
    fs::create_dir(path.join("empty")).unwrap();
    fs::write(path.join("dir/small"), "small").unwrap();
    fs::write(path.join("dir/none"), "").unwrap();
    let large: Vec<u8> = (0..2_300_000u32).map(|at| (at / 7 * 31) as u8).collect();
    fs::write(path.join("dir/deep/large"), &large).unwrap();
    fs::write(path.join("dir/medium"), &large[5..60_000]).unwrap();
    fs::hard_link(path.join("dir/small"), path.join("hard")).unwrap();
    symlink("../dir", path.join("empty/link")).unwrap();
    let sparse = File::create(path.join("sparse")).unwrap();
    sparse.write_all_at(b"data", 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    fs::set_permissions(path.join("dir/small"), fs::Permissions::from_mode(0o4751)).unwrap();
    touch(&path.join("dir/small"), -5, 7);
    touch(&path.join("empty"), 12_000_000_000, 1);
    folder
}

#[test]
fn a_folder_is_published_with_all_its_entries() {
    let folder = sample();
    let source = publish(folder.path());
    let paths: Vec<String> = source.content().index().entries().map(|entry| entry.path.to_string()).collect();
    let expected = [
        ".",
        "dir",
        "dir/deep",
        "dir/deep/large",
        "dir/medium",
        "dir/none",
        "dir/small",
        "empty",
        "empty/link",
        "hard",
        "sparse",
    ];
    assert_eq!(paths, expected);
    let small = entry(&source, "dir/small");
    assert_eq!((small.mode, small.owner), (0o751, None), "without set-uid");
    assert_eq!(small.modified, Mtime { seconds: -5, nanoseconds: 7 });
    assert_eq!(entry(&source, "empty").modified, Mtime { seconds: 12_000_000_000, nanoseconds: 1 });
    assert_eq!(entry(&source, "hard").kind, EntryKind::HardLink { to: small.path });
    assert_eq!(entry(&source, "empty/link").kind, EntryKind::Link { target: b"../dir".to_vec() });
    let EntryKind::File { size, holes } = entry(&source, "sparse").kind else { panic!("a file") };
    assert_eq!(size, 3 << 20);
    assert!(holes.is_empty() || holes[0] == Hole { offset: 0, length: 1 << 20 });
}

#[test]
fn the_chunks_of_a_folder_match_their_digests_and_its_files() {
    let folder = sample();
    let source = publish(folder.path());
    let manifest = source.manifest().unwrap();
    assert!(manifest.is_tree() && source.progress().is_complete() && source.id() == manifest.id());
    let mut stream = Vec::new();
    for index in manifest.layout().indices() {
        let bytes = read(&source, index).unwrap();
        assert_eq!(Some(Digest::of(&bytes)), manifest.digest(index), "chunk {index}");
        stream.extend(bytes);
    }
    let content = stream.strip_prefix(source.content().index().bytes()).unwrap();
    let large = fs::read(folder.path().join("dir/deep/large")).unwrap();
    let medium = fs::read(folder.path().join("dir/medium")).unwrap();
    assert!(content.starts_with(&[&large[..], &medium, b"small"].concat()));
    assert_eq!(source.check_files(&|| false), 0);
    assert_eq!(publish(folder.path()).id(), source.id(), "the id depends on the folder alone");
}

#[test]
fn entries_that_cannot_be_sent_are_named_or_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("a")).unwrap();
    fs::write(path.join("a/file"), "x").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
    mknodat(CWD, path.join("a/pipe"), FileType::Fifo, Mode::from_bits_truncate(0o600), 0).unwrap();
    let huge = File::create(path.join("huge")).unwrap();
    // Not every file system has such files.
    let has_huge = huge.set_len((1 << 60) + 1).is_ok();
    let Err(PublishError::Refused(refused)) = publish_with(path, false) else { panic!("published") };
    let text = |entry: &RefusedEntry| format!("{}: {}", entry.path, entry.reason);
    let mut expected = vec!["a/pipe: it is a FIFO", "socket: it is a socket"];
    if has_huge {
        expected.insert(1, "huge: it has 1152921504606846977 bytes, more than 1152921504606846976");
    }
    assert_eq!(refused.iter().map(text).collect::<Vec<_>>(), expected);
    if has_huge {
        fs::remove_file(path.join("huge")).unwrap();
    }
    let (source, left_out) = publish_with(path, true).unwrap();
    assert_eq!(
        left_out.iter().map(text).collect::<Vec<_>>(),
        ["a/pipe: it is a FIFO", "socket: it is a socket"]
    );
    assert!(source.content().index().find(b"a/pipe").is_none() && entry(&source, "a/file").mode > 0);
}

#[test]
fn a_file_that_changes_while_it_is_hashed_is_named_or_left_out() {
    for skips in [false, true] {
        let folder = sample();
        let scan = scan(folder.path(), &ScanOptions::default());
        let path = folder.path().join("dir/medium");
        fs::write(&path, "other").unwrap();
        let published = TreeSource::publish(scan, Some(CHUNK), skips, &|_| (), &|| false);
        let refused = match published {
            Err(PublishError::Refused(refused)) => refused,
            Ok((source, refused)) => {
                assert!(skips && source.content().index().find(b"dir/medium").is_none());
                assert!(
                    source.manifest().unwrap().layout().indices().all(|index| source.stored(index).is_ok())
                );
                refused
            }
            Err(error) => panic!("{error}"),
        };
        let [RefusedEntry { path, reason }] = &refused[..] else { panic!("{refused:?}") };
        assert_eq!((path.to_string(), &reason[..]), ("dir/medium".into(), "it changed while it was read"));
    }
}

#[test]
fn a_changed_file_takes_its_chunks_out_of_the_offer() {
    let folder = sample();
    let source = publish(folder.path());
    let count = source.manifest().unwrap().layout().count();
    let large = folder.path().join("dir/deep/large");
    // Same size and same modification time: the ctime tells.
    let modified = fs::metadata(&large).unwrap().modified().unwrap();
    let file = File::options().write(true).open(&large).unwrap();
    file.write_all_at(b"!", 100_000).unwrap();
    file.set_modified(modified).unwrap();
    let chunks = source.content().chunks_of(3);
    assert!(matches!(read(&source, ChunkIndex(chunks.start)), Err(StoreError::Missing(_))));
    assert_eq!(source.progress().held(), count - chunks.len() as u32);
    assert_eq!(source.check_files(&|| false), 0, "it is known");
    fs::remove_file(folder.path().join("sparse")).unwrap();
    symlink("dir/medium", folder.path().join("sparse")).unwrap();
    assert_eq!(source.check_files(&|| false), 1);
    assert!(source.manifest().unwrap().layout().indices().any(|index| read(&source, index).is_ok()));
}

#[test]
fn a_damaged_chunk_is_found_when_it_is_reported() {
    let folder = sample();
    let source = publish(folder.path());
    let last = ChunkIndex(source.manifest().unwrap().layout().count() - 1);
    assert!(source.check_reported(last) && source.check_reported(ChunkIndex(0)));
    assert!(read(&source, last).is_ok());
}

#[test]
fn the_log_file_in_a_folder_is_left_out_and_too_many_entries_are_refused() {
    let folder = sample();
    let log = folder.path().join("dir/logs.log");
    fs::write(&log, "x").unwrap();
    let options = ScanOptions { omitted: Some(log), ..ScanOptions::default() };
    let found = scan(folder.path(), &options);
    assert_eq!(found.omitted().iter().map(TreePath::to_string).collect::<Vec<_>>(), ["dir/logs.log"]);
    let few = ScanOptions { entries_max: 5, ..ScanOptions::default() };
    let error = TreeScan::new(folder.path(), &few, &|_| (), &|| false).err().unwrap();
    let text = "the folder has more than 5 entries; allow more with --entries-max";
    assert_eq!(error.to_string(), text);
    let stopped = TreeScan::new(folder.path(), &options, &|_| (), &|| true).err().unwrap();
    assert!(matches!(stopped, StoreError::Stopped));
    assert!(matches!(
        TreeScan::new(&folder.path().join("sparse"), &options, &|_| (), &|| false).err().unwrap(),
        StoreError::NotAFile(_)
    ));
}

#[test]
fn owners_are_recorded_on_request() {
    let folder = sample();
    let options = ScanOptions { has_owners: true, ..ScanOptions::default() };
    let (index, _) = scan(folder.path(), &options).index().unwrap();
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    assert!(index.entries().all(|entry| entry.owner == Some((user, group))));
}
