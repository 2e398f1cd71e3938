//! Chunk folders with chunks above 64 MiB, which no program holds in memory.

use crate::common::wire::{FakePeer, Whole};
use crate::common::*;
use shoal::content::{Digest, Layout, Manifest};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Size of the whole file; each of its two chunks is larger than 64 MiB.
const WHOLE_BYTES: u64 = 130 * 1024 * 1024;
/// Memory that a client must not exceed: less than one chunk.
const CLIENT_MEMORY_MAX: u64 = 60 * 1024 * 1024;

/// Waits until a chunk has been received in part.
fn wait_for_partial_chunk(folder: &Path) {
    let partial = || {
        let is_large =
            |name: &String| std::fs::metadata(folder.join(name)).is_ok_and(|file| file.len() > 1024 * 1024);
        names_in(folder).iter().any(|name| name.starts_with(".shoal-") && is_large(name))
    };
    let deadline = Instant::now() + PATIENCE;
    while !partial() {
        assert!(Instant::now() < deadline, "no chunk is being received");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn chunks_above_64_mib_are_split_downloaded_after_a_kill_and_joined() {
    let place = place();
    let dir = place.path();
    // Holes of zeros around some bytes, so that the two chunks differ.
    let whole = write(dir, "whole", &random_bytes(1, 1_000));
    File::options().write(true).open(&whole).unwrap().set_len(WHOLE_BYTES).unwrap();
    let names = ["f1", "f2", "f3"];
    Program::start("client", &[&["--split", "whole", "--parts", "2"], &names[..]].concat(), dir).ends_with(0);
    let tracker = tracker(dir, &[]);
    let [f1, f2, f3] = names.map(|name| dir.join(name));
    // The folders hold both chunks, the second, and the first.
    let start = |folder: &PathBuf, extra: &[&str]| {
        let name = folder.file_name().unwrap().to_str().unwrap();
        client(dir, folder, name, tracker.address(), extra)
    };
    let full = start(&f1, &[]);
    let mut slow = start(&f2, &["--download-limit", "8MiB"]);
    let other = start(&f3, &["--join", "joined"]);
    wait_for_partial_chunk(&f2);
    slow.kill9();
    let restarted = start(&f2, &[]);
    for client in [&other, &restarted, &full] {
        client.wait_for_text(" is complete: all 2 chunks of set default");
        assert!(client.peak_memory() < CLIENT_MEMORY_MAX, "{}", client.peak_memory());
    }
    // The summary comes before the line on completion.
    for client in [&other, &restarted] {
        assert!(client.has_said(" bytes in ") && client.has_said(" from "));
    }
    other.wait_for_text("all chunks joined into joined");
    let expected = std::fs::read(&whole).unwrap();
    assert_holds(&dir.join("joined"), &expected);
    for folder in [&f1, &f2, &f3] {
        assert_eq!(names_in(folder).iter().filter(|name| name.ends_with(".tmp")).count(), 0);
    }
    assert_holds(&f2.join("chunk_1"), &expected[..expected.len() / 2]);
}

/// The whole file of two chunks that differ: some random bytes in each, and zeros.
fn whole() -> Whole {
    let mut bytes = random_bytes(2, 1_000);
    bytes.resize(WHOLE_BYTES as usize, 0);
    let half = bytes.len() / 2;
    bytes[half..][..1_000].copy_from_slice(&random_bytes(3, 1_000));
    let digests = bytes.chunks(half).map(Digest::of).collect();
    let layout = Layout::uneven([half as u64; 2]).unwrap();
    Whole { manifest: Arc::new(Manifest::new(layout, digests).unwrap()), bytes: Arc::new(bytes) }
}

/// Two clients that hold the set completely.
fn holders(dir: &Path, whole: &Whole, tracker: SocketAddr) -> [Program; 2] {
    let chunks: Vec<&[u8]> = whole.bytes.chunks(whole.bytes.len() / 2).collect();
    ["one", "two"].map(|name| {
        let folder = chunk_folder(dir, name, 2, &[(1, chunks[0]), (2, chunks[1])]);
        client(dir, &folder, name, tracker, &[])
    })
}

/// Waits until bytes have been written to a part file, which is sparse.
fn wait_for_bytes(part: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::metadata(part).is_ok_and(|part| part.blocks() > 0) {
        assert!(Instant::now() < deadline, "nothing is written to {}", part.display());
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn sets_with_chunks_above_64_mib_are_downloaded_as_files() {
    let place = place();
    let dir = place.path();
    let whole = whole();
    let tracker = tracker(dir, &[]);
    // At first, the only holder sends wrong bytes: the chunk stays missing, and other holders are asked for it.
    let corrupt = FakePeer::sending_corrupt_chunks(&whole);
    corrupt.announce(tracker.address(), "corrupt", &whole.summary("default"));
    let first = subfolder(dir, "first");
    let mut leecher_1 = leecher(&first, tracker.address(), &["default"]);
    leecher_1.wait_for_text(&format!("banned {}", corrupt.address));
    assert!(!first.join("default").exists());
    let _holders = holders(dir, &whole, tracker.address());
    leecher_1.wait_for_text("Successfully downloaded default");
    assert!(leecher_1.peak_memory() < CLIENT_MEMORY_MAX, "{}", leecher_1.peak_memory());
    leecher_1.ends_with(0);
    assert_holds(&first.join("default"), &whole.bytes);

    let second = subfolder(dir, "second");
    let slow = ["default", "--download-limit", "1MiB"];
    let mut killed = leecher(&second, tracker.address(), &slow);
    wait_for_bytes(&second.join("default.part"));
    // A line every 10 s also counts the bytes of a chunk that still arrives: less than half, the size of a chunk.
    let said = killed.wait_for_text("ETA");
    let percent = said.split_once("default: ").and_then(|(_, rest)| rest.split_once(" %"));
    let percent: u32 = percent.unwrap_or_else(|| panic!("{said}")).0.parse().unwrap();
    assert!(percent < 45, "{said}");
    killed.kill9();
    leecher(&second, tracker.address(), &["default"]).ends_with(0);
    assert_holds(&second.join("default"), &whole.bytes);
    assert_eq!(names_in(&second).iter().filter(|name| name.contains("part")).count(), 0);

    let third = subfolder(dir, "third");
    let get = ["--tracker", &tracker.address().to_string(), "--get", "default", "--exit-when-complete"];
    plain(dir, &third, "third", &get).ends_with(0);
    assert_holds(&third.join("default"), &whole.bytes);

    // A stream gets only verified bytes, which are kept in memory until then.
    let mut stream = leecher(dir, tracker.address(), &["default", "--out", "-"]);
    stream.ends_with(2);
    assert!(stream.has_said("chunk 1 is larger than 67108864 bytes: it is not kept in memory"));
    assert!(stream.stdout().is_empty());
}
