//! Folders from a seeder to leechers: every kind of entry, interruptions, replacement, parts, and hostile indexes.

use crate::common::*;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Timespec, Timestamps, utimensat};
use shoal::content::manifest::ItemKind;
use shoal::content::{Bitfield, ChunkIndex, Digest, FileName, Layout, Manifest};
use shoal::net::{Listener, Shutdown, Threads};
use shoal::storage::{ChunkSource, Progress, StoreError, StoredChunk};
use shoal::tracker_client::ticket::Ticket;
use shoal::upload::offers::Offers;
use shoal::upload::server::{ServeOptions, serve};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The exit codes of a different target and of a refused folder.
const EXISTS_AND_DIFFERS: i32 = 13;
const FILE_ACCESS: i32 = 17;
const VERIFICATION_FAILED: i32 = 32;

/// A folder with every kind of entry, named `data`.
fn sample(dir: &Path) -> PathBuf {
    let root = subfolder(dir, "data");
    fs::create_dir_all(root.join("deep/er/est")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for number in 0..300 {
        write(&root, &format!("deep/small{number}"), &random_bytes(number, 900 + number as usize));
    }
    write(&root, "large", &random_bytes(1_000, 700_000));
    write(&root, "nothing", b"");
    fs::write(root.join(OsStr::from_bytes(b"odd \xff\nname")), "odd").unwrap();
    fs::set_permissions(root.join("large"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::hard_link(root.join("large"), root.join("deep/er/again")).unwrap();
    symlink("deep/small1", root.join("link")).unwrap();
    symlink("no/such", root.join("deep/dangling")).unwrap();
    let sparse = fs::File::create(root.join("deep/sparse")).unwrap();
    sparse.set_len(4 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &random_bytes(7, 70_000), 1 << 20).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let _ = rustix::fs::fallocate(&sparse, hole, 2 << 20, 2 << 20);
    for (path, seconds) in [("deep/small3", -86_400), ("empty", 1_000), ("link", 7), ("deep/er", 123)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    fs::set_permissions(root.join("deep/er/est"), fs::Permissions::from_mode(0o500)).unwrap();
    root
}

/// Each entry below a folder, by its path: kind, permissions, time and content.
fn entries(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let mut text = format!("{:o} {}.{:09}", metadata.mode(), metadata.mtime(), metadata.mtime_nsec());
        if metadata.is_symlink() {
            text = format!("{text} -> {:?}", path.read_link().unwrap());
        } else if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            let bytes = fs::read(&path).unwrap();
            text = format!("{text} {} links, {} bytes {}", metadata.nlink(), bytes.len(), Digest::of(&bytes));
        }
        found.insert(path.strip_prefix(root).unwrap().to_owned(), text);
    }
    found
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (entries(one), entries(other));
    for (path, text) in &one {
        assert_eq!(Some(text), other.get(path), "{path:?}");
    }
    assert_eq!(one.len(), other.len());
}

#[test]
fn a_folder_is_reproduced_and_recognised_without_being_read() {
    let dir = place();
    let data = sample(dir.path());
    let tracker = tracker(dir.path(), &[]);
    let mut seeder = seeder(dir.path(), &data, &tracker, &[]);
    let target = subfolder(dir.path(), "target");
    leecher(&target, tracker.address(), &["data", "--linger", "0"]).ends_with(0);
    assert_same(&data, &target.join("data"));
    assert!(fs::metadata(target.join("data/deep/sparse")).unwrap().blocks() < 2_000, "the holes are kept");
    assert_eq!(names_in(&target).iter().filter(|name| name.contains(".part")).count(), 0);
    let mut again = leecher(&target, tracker.address(), &["data"]);
    again.wait_for_text("exists and is complete, as its stored state tells");
    again.ends_with(0);
    let mut read = leecher(&target, tracker.address(), &["data", "--verify", "full"]);
    read.wait_for_text("exists and is complete");
    read.ends_with(0);
    // A leecher that stays is a seeder.
    let mut stays = leecher(&target, tracker.address(), &["data", "--stay"]);
    stays.wait_for_text("serving until interrupted");
    seeder.interrupt();
    seeder.ends_with(0);
    let second = subfolder(dir.path(), "second");
    leecher(&second, tracker.address(), &["data", "--linger", "0"]).ends_with(0);
    assert_same(&data, &second.join("data"));
    stays.interrupt();
    stays.ends_with(0);
}

#[test]
fn killed_downloads_of_a_folder_resume() {
    let dir = place();
    let data = sample(dir.path());
    let tracker = tracker(dir.path(), &[]);
    let _seeder = seeder(dir.path(), &data, &tracker, &["--chunk-size", "16KiB", "--upload-limit", "200KB"]);
    let target = subfolder(dir.path(), "target");
    let mut resumed = 0;
    for kill in 0..6 {
        let mut program = leecher(&target, tracker.address(), &["data", "-v"]);
        // Each run receives some chunks more than the one before.
        program.wait_for_count("received chunk", 8 + kill);
        resumed += usize::from(program.lines().iter().any(|line| line.contains("resuming at ")));
        program.kill9();
        assert!(!target.join("data").exists());
    }
    assert!(resumed >= 3, "{resumed} runs resumed");
    let mut last = leecher(&target, tracker.address(), &["data", "--linger", "0"]);
    last.ends_with(0);
    assert!(!last.has_said("rehashing") && !last.has_said("failed verification"));
    assert_same(&data, &target.join("data"));
    assert_eq!(names_in(&target).iter().filter(|name| name.contains(".part")).count(), 0);
}

#[test]
fn a_different_folder_is_replaced_only_on_request_and_a_killed_replacement_is_completed() {
    let dir = place();
    let data = sample(dir.path());
    let tracker = tracker(dir.path(), &[]);
    let mut first = seeder(dir.path(), &data, &tracker, &[]);
    let target = subfolder(dir.path(), "target");
    leecher(&target, tracker.address(), &["data", "--linger", "0"]).ends_with(0);
    first.interrupt();
    first.ends_with(0);
    for number in (0..300).step_by(2) {
        write(&data, &format!("deep/small{number}"), &random_bytes(9_000 + number, 5_000));
    }
    write(&data, "large", &random_bytes(1_001, 700_000));
    write(&target.join("data"), "deep/mine", b"mine");
    let _second = seeder(dir.path(), &data, &tracker, &[]);
    let mut refused = leecher(&target, tracker.address(), &["data"]);
    refused.wait_for_text("exists and differs: ");
    refused.ends_with(EXISTS_AND_DIFFERS);
    assert_holds(&target.join("data/large"), &random_bytes(1_000, 700_000));
    for _ in 0..5 {
        let mut program = leecher(&target, tracker.address(), &["data", "--overwrite", "--linger", "0"]);
        let journal = target.join(".data.part/journal");
        // The journal exists for a short time only: the run may be complete before it is seen.
        while !journal.exists()
            && program.exit_code().is_none()
            && !program.has_said("Successfully downloaded")
        {
            std::thread::yield_now();
        }
        program.kill9();
        if journal.exists() {
            break;
        }
    }
    leecher(&target, tracker.address(), &["data", "--overwrite", "--linger", "0"]).ends_with(0);
    assert_holds(&target.join("data/deep/mine"), b"mine");
    fs::remove_file(target.join("data/deep/mine")).unwrap();
    let time = fs::metadata(data.join("deep")).unwrap().modified().unwrap();
    fs::File::open(target.join("data/deep")).unwrap().set_modified(time).unwrap();
    assert_same(&data, &target.join("data"));
    assert_eq!(names_in(&target).iter().filter(|name| name.contains(".part")).count(), 0);
}

#[test]
fn a_part_of_a_folder_is_listed_and_fetched() {
    let dir = place();
    let data = sample(dir.path());
    let tracker = tracker(dir.path(), &[]);
    let _seeder = seeder(dir.path(), &data, &tracker, &["--chunk-size", "16KiB"]);
    let target = subfolder(dir.path(), "target");
    let mut list = leecher(&target, tracker.address(), &["--list", "data"]);
    list.ends_with(0);
    let listed = list.stdout();
    assert!(listed.iter().any(|line| line.ends_with(" deep/dangling -> no/such")), "{listed:#?}");
    assert!(listed.iter().any(|line| line.contains(" 700000 ") && line.starts_with("-rwxr-x--x")));
    assert_eq!(listed.len(), entries(&data).len());
    assert_eq!(names_in(&target), ["logs.log"]);
    let part = ["data", "--only", "small1*", "--exclude", "small12*", "-v", "--linger", "0"];
    let mut program = leecher(&target, tracker.address(), &part);
    program.ends_with(0);
    let names = names_in(&target.join("data/deep"));
    assert!(
        names.len() == 100
            && names.iter().all(|name| name.starts_with("small1") && !name.starts_with("small12")),
        "{names:?}"
    );
    let received = program.lines().iter().filter(|line| line.contains("received chunk")).count();
    assert!(received < 40, "{received} chunks were received of a part");
    assert_eq!(names_in(&target.join("data")), ["deep"]);
}

#[test]
fn a_client_gets_a_folder_and_shares_it() {
    let dir = place();
    let data = sample(dir.path());
    let tracker = tracker(dir.path(), &[]);
    let mut seeder = seeder(dir.path(), &data, &tracker, &[]);
    let (one, two) = (subfolder(dir.path(), "one"), subfolder(dir.path(), "two"));
    let client = client(dir.path(), &one, "one", tracker.address(), &["--get", "data", "--stay"]);
    client.wait_for_text("Successfully downloaded data");
    assert_same(&data, &one.join("data"));
    seeder.interrupt();
    seeder.ends_with(0);
    leecher(&two, tracker.address(), &["data", "--linger", "0"]).ends_with(0);
    assert_same(&data, &two.join("data"));
}

#[test]
fn owners_are_set_on_request_only() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = place();
    let data = sample(dir.path());
    std::os::unix::fs::chown(data.join("large"), Some(4_321), Some(1_234)).unwrap();
    std::os::unix::fs::lchown(data.join("link"), Some(4_322), None).unwrap();
    let tracker = tracker(dir.path(), &[]);
    let _seeder = seeder(dir.path(), &data, &tracker, &["--owners"]);
    for (name, args, owners) in [("kept", &["--owners"][..], (4_321, 4_322)), ("own", &[], (0, 0))] {
        let target = subfolder(dir.path(), name);
        leecher(&target, tracker.address(), &[&["data", "--linger", "0"], args].concat()).ends_with(0);
        let owner = |path: &str| fs::symlink_metadata(target.join("data").join(path)).unwrap().uid();
        assert_eq!((owner("large"), owner("link")), owners);
        assert_same(&data, &target.join("data"));
    }
}

/// A source of chunks that no honest publisher has made.
struct Hostile {
    manifest: Arc<Manifest>,
    chunks: Vec<Vec<u8>>,
    progress: Progress,
}

impl ChunkSource for Hostile {
    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(self.manifest.clone())
    }

    fn progress(&self) -> &Progress {
        &self.progress
    }

    fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
        Ok(StoredChunk::in_memory(&self.chunks[index.at()]).unwrap())
    }
}

/// An entry of an index in its binary form; numbers below 128 are one byte.
fn raw_entry(path: &[u8], kind: u8, mode: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length = path.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(path);
    bytes.push(kind);
    if kind != HARD_LINK {
        bytes.extend([mode, 0, 0]);
    }
    bytes.extend(rest);
    bytes
}

const DIRECTORY: u8 = 0;
const FILE: u8 = 1;
const SPARSE_FILE: u8 = 2;
const LINK: u8 = 3;
const HARD_LINK: u8 = 4;

/// Runs a leecher against a folder with this index and one chunk of content, and returns its complaint.
#[track_caller]
fn complaint(entries: &[Vec<u8>], content: &[u8], code: i32, args: &[&str]) -> String {
    let dir = place();
    let root = raw_entry(b"", DIRECTORY, 0o75, &[]);
    let index = [&b"shoal index 1\n"[..], &root, &entries.concat()].concat();
    let mut chunks = vec![index.clone()];
    chunks.extend(Some(content.to_vec()).filter(|content| !content.is_empty()));
    let layout = Layout::uneven(chunks.iter().map(|chunk| chunk.len() as u64)).unwrap();
    let digests = chunks.iter().map(|chunk| Digest::of(chunk)).collect();
    let kind = ItemKind::Tree { index_bytes: index.len() as u64, chunk_size: 65_536 };
    let manifest = Arc::new(Manifest::of_kind(kind, layout, digests).unwrap());
    let progress = Progress::new(Bitfield::all(chunks.len() as u32));
    let (id, size) = (manifest.id(), manifest.layout().size());
    let (threads, shutdown, offers) = (Threads::new(), Shutdown::new(), Offers::new());
    offers.put(id, Arc::new(Hostile { manifest, chunks, progress }));
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let peers = vec![listener.address()];
    serve(listener, offers, &ServeOptions::default(), None, &threads, &shutdown).unwrap();
    let name = FileName::new("evil").unwrap();
    let ticket = Ticket { id, name, size, trackers: Vec::new(), peers }.to_string();
    let target = subfolder(dir.path(), "target");
    let args: Vec<&str> =
        args.iter().copied().chain([&ticket[..], "--linger", "0", "--wait", "10"]).collect();
    let mut program = Program::start("leecher", &args, &target);
    let said = program
        .wait_for("a refusal or the end", |line| line.contains("refused:") || line.contains("Successfully"));
    program.ends_with(code);
    assert_eq!(names_in(dir.path()), ["target"], "something was written outside");
    let kept: Vec<String> =
        names_in(&target).into_iter().filter(|name| name != "logs.log" && !name.contains(".evil.")).collect();
    assert!(kept.is_empty() || code == 0, "{kept:?}");
    shutdown.trigger();
    threads.join();
    said
}

#[test]
fn hostile_folders_are_refused_with_the_entry_named() {
    let file = |path: &[u8]| raw_entry(path, FILE, 0o64, &[5]);
    let refused = |entries: &[Vec<u8>], content: &[u8], named: &str| {
        let text = complaint(entries, content, VERIFICATION_FAILED, &[]);
        assert!(text.contains("the folder evil is refused:") && text.contains(named), "{named}: {text}");
    };
    for path in [&b".."[..], b"../x", b"/etc/x", b"a//b", b"x\0y", b"./a", b"a/"] {
        refused(&[file(path)], b"12345", "invalid at byte");
    }
    refused(&[file(&[b'x'; 256])], b"12345", "invalid at byte");
    refused(&[file(b"b"), file(b"a")], b"1234512345", "a: ");
    refused(&[file(b"a"), file(b"a")], b"1234512345", "a: ");
    refused(&[file(b"a/b")], b"12345", "a/b: ");
    refused(&[file(b"a")], b"123456", "sizes in the index");
    let set_user_id = [&b"\x01a\x01"[..], &[0xed, 0x11], &[0, 0, 5]].concat();
    refused(&[set_user_id], b"12345", "a: mode");
    refused(&[raw_entry(b"a", HARD_LINK, 0, b"\x01a")], b"", "a: ");
    refused(&[raw_entry(b"a", SPARSE_FILE, 0o64, &[9, 2, 0, 9, 0, 1])], b"", "a: ");
    let link =
        |path: &[u8], target: &[u8]| raw_entry(path, LINK, 0o77, &[&[target.len() as u8], target].concat());
    for target in [&b"/etc"[..], b"..", b"x/../../y"] {
        let text = complaint(&[link(b"l", target)], b"", FILE_ACCESS, &[]);
        assert!(
            text.contains("the folder evil is refused: l is a symbolic link that leads outside"),
            "{text}"
        );
    }
    // A file below a link is below no folder.
    refused(&[link(b"l", b"x"), file(b"l/f")], b"12345", "l/f: ");
    let text = complaint(&[link(b"l", b"/etc")], b"", 0, &["--links", "any"]);
    assert!(text.contains("Successfully downloaded evil"), "{text}");
}
