//! Chunk folders with chunks above 64 MiB, which no program holds in memory.

use crate::common::*;
use std::fs::File;
use std::path::{Path, PathBuf};
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
    other.wait_for_text("all chunks joined into joined");
    let expected = std::fs::read(&whole).unwrap();
    assert_holds(&dir.join("joined"), &expected);
    for folder in [&f1, &f2, &f3] {
        assert_eq!(names_in(folder).iter().filter(|name| name.ends_with(".tmp")).count(), 0);
    }
    assert_holds(&f2.join("chunk_1"), &expected[..expected.len() / 2]);
    // A download as a file would hold each chunk in memory.
    let mut leecher = leecher(&subfolder(dir, "there"), tracker.address(), &["default", "--wait", "1"]);
    leecher.ends_with(3);
    assert!(leecher.has_said("chunk 1 is larger than 67108864 bytes: only a chunk folder can hold it"));
}
