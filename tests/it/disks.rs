//! Disks that fill up, folders that cannot be written to or go away, and files that change under who serves them.

use crate::common::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const CHUNK: usize = 16 * 1024;

/// A file system of its own and of a certain size, in memory; unmounted at the end of the test.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it; `None`, with a word, where this user may not.
    fn new(dir: &Path, size: &str) -> Option<Self> {
        let path = subfolder(dir, "disk");
        let disk = Self(path.clone());
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "shoal-test", path.to_str()?])
            .then_some(disk)
    }

    fn run(&self, program: &str, args: &[&str]) -> bool {
        let done = Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
        if !done {
            eprintln!("skipped: {program} needs rights that this user does not have");
        }
        done
    }

    fn remount(&self, how: &str) -> bool {
        self.run("mount", &["-o", &format!("remount,{how}"), self.0.to_str().unwrap()])
    }

    /// Takes all the room that is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut filler = std::fs::File::create(&path).unwrap();
        let piece = vec![1; 4096];
        while std::io::Write::write_all(&mut filler, &piece).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The number after a word.
fn number_after(line: &str, word: &str) -> usize {
    let rest = line.split_once(word).unwrap_or_else(|| panic!("{word:?} is not in {line:?}")).1;
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_disk_that_fills_up_costs_nothing_that_was_verified() {
    let place = place();
    let dir = place.path();
    let Some(disk) = Disk::new(dir, "4m") else { return };
    let bytes = random_bytes(1, 2 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let slow = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--upload-limit", "256KiB"]);
    // Its log is elsewhere, so that it can say what is wrong.
    let log = dir.join("leecher.log");
    let get = |extra: &[&str]| {
        let out = disk.0.to_str().unwrap();
        leecher(
            dir,
            tracker.address(),
            &[&["a.bin", "--out", out, "--log-file", log.to_str().unwrap()], extra].concat(),
        )
    };
    // In the middle.
    let mut first = get(&[]);
    slow.wait_for_count("serving chunk", 24);
    let filler = disk.fill();
    first.ends_with(9);
    let line = first.wait_for_text("no space for");
    assert!(number_after(&line, " available, ") > 0, "{line}");
    drop(slow);
    // Before the start: nothing can be got, and what is there stays.
    let fast = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--name", "fast"]);
    let mut second = get(&[]);
    second.ends_with(9);
    let line = second.wait_for_text("no space for");
    assert!(number_after(&line, "bytes needed, ") < 2 << 20 && line.ends_with(" missing"), "{line}");
    assert!(!fast.has_said("serving chunk"));
    // With room again.
    std::fs::remove_file(filler).unwrap();
    let mut third = get(&[]);
    third.ends_with(0);
    let kept = number_after(&third.wait_for_text("going on"), "stopped: ");
    let fetched = fast.lines().iter().filter(|line| line.contains("serving chunk")).count();
    assert_eq!(kept + fetched * CHUNK, bytes.len(), "nothing is fetched that was there");
    // What came right until the disk was full.
    assert!(kept >= 20 * CHUNK, "{kept} bytes were kept");
    assert_holds(&disk.0.join("a.bin"), &bytes);
    assert_eq!(names_in(&disk.0), ["a.bin"]);
}

#[test]
fn a_client_whose_disk_fills_up_says_so_and_goes_on_later() {
    let place = place();
    let dir = place.path();
    let Some(disk) = Disk::new(dir, "4m") else { return };
    let chunks: Vec<Vec<u8>> = (0..60).map(|seed| random_bytes(seed, 2 * CHUNK)).collect();
    let numbered: Vec<(usize, &[u8])> = (1..).zip(chunks.iter().map(Vec::as_slice)).collect();
    let full = chunk_folder(dir, "full", 60, &numbered);
    let empty = chunk_folder(&disk.0, "empty", 60, &[]);
    let tracker = tracker(dir, &["--quorum", "1"]);
    let _holder = client(dir, &full, "holds", tracker.address(), &["--upload-limit", "512KiB"]);
    let mut first = client(dir, &empty, "gets", tracker.address(), &[]);
    first.wait_for_count("is here, ", 5);
    let filler = disk.fill();
    first.ends_with(9);
    first.wait_for_text("missing");
    std::fs::remove_file(filler).unwrap();
    client(dir, &empty, "gets", tracker.address(), &["--exit-when-complete"]).ends_with(0);
    assert_complete(&empty, &chunks);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_named() {
    let place = place();
    let dir = place.path();
    let Some(disk) = Disk::new(dir, "4m") else { return };
    let file = write(dir, "a.bin", &random_bytes(2, 1 << 20));
    let tracker = tracker(dir, &["--lease", "60"]);
    let slow = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--upload-limit", "128KiB"]);
    let out = disk.0.to_str().unwrap();
    // In the middle.
    let mut first = leecher(dir, tracker.address(), &["a.bin", "--out", out]);
    slow.wait_for_count("serving chunk", 16);
    // While it is being written to it cannot be made read-only; then it is so from the next start on.
    let during = disk.remount("ro");
    if during {
        first.ends_with(17);
    } else {
        first.kill9();
        assert!(disk.remount("ro"));
    }
    let mut second = leecher(dir, tracker.address(), &["a.bin", "--out", out]);
    second.ends_with(17);
    second.wait_for("the folder and the reason", |line| line.contains(out) && line.contains("Read-only"));
}

#[test]
fn a_folder_that_goes_away_ends_the_download_at_once() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", &random_bytes(3, 4 << 20));
    let tracker = tracker(dir, &["--lease", "60"]);
    let slow = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--upload-limit", "128KiB"]);
    let mut leecher = leecher(dir, tracker.address(), &["a.bin", "--out", there.to_str().unwrap()]);
    slow.wait_for_count("serving chunk", 12);
    std::fs::remove_dir_all(&there).unwrap();
    leecher.ends_with(17);
    leecher.wait_for_text("has been removed, and what was got of it with it");
    let sent = slow.lines().iter().filter(|line| line.contains("serving chunk")).count();
    assert!(sent < 256, "it did not go on to the end");
}

#[test]
fn a_file_that_changes_is_hashed_again_and_offered_as_what_it_is() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let old = random_bytes(4, 40 * CHUNK);
    let file = write(dir, "a.bin", &old);
    let tracker = tracker(dir, &["--lease", "60"]);
    let seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
    let fetched = |name: &str, wanted: &[u8]| {
        leecher(&there, tracker.address(), &["a.bin", "--out", name]).ends_with(0);
        assert_holds(&there.join(name), wanted);
    };
    fetched("old", &old);
    // In place, of the same size.
    let new = random_bytes(5, 40 * CHUNK);
    write(dir, "a.bin", &new);
    seeder.wait_for_text("has changed; it is not offered until it has been hashed again");
    seeder.wait_for_text("hashed a.bin again: its content has changed");
    tracker.wait_for_count("has 40 of 40 chunks of a.bin", 2);
    fetched("new", &new);
    // Cut short.
    std::fs::File::options().write(true).open(&file).unwrap().set_len(5 * CHUNK as u64).unwrap();
    seeder.wait_for_count("hashed a.bin again: its content has changed", 2);
    tracker.wait_for_text("has 5 of 5 chunks of a.bin");
    fetched("short", &new[..5 * CHUNK]);
    // Replaced by another file of that name, as editors do it.
    let other = write(dir, "other", &old);
    std::fs::rename(other, &file).unwrap();
    seeder.wait_for_count("hashed a.bin again: its content has changed", 3);
    tracker.wait_for_count("has 40 of 40 chunks of a.bin", 3);
    fetched("replaced", &old);
    // Only a new time: the same id, once more.
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    seeder.wait_for_text("hashed a.bin again: its content is unchanged");
    tracker.wait_for_count("has 40 of 40 chunks of a.bin", 4);
    fetched("again", &old);
}

#[test]
fn a_download_in_the_middle_never_takes_what_a_changed_file_has() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let old = random_bytes(6, 100 * CHUNK);
    let (first, second) = (write(dir, "a.bin", &old), subfolder(dir, "second"));
    let copy = write(&second, "a.bin", &old);
    let tracker = tracker(dir, &["--lease", "60"]);
    let slowly = ["-v", "--chunk-size", "16KiB", "--upload-limit", "256KiB"];
    let changes = seeder(dir, &first, &tracker, &slowly);
    let _stays = seeder(dir, &copy, &tracker, &slowly);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "-v"]);
    changes.wait_for_count("serving chunk", 5);
    write(dir, "a.bin", &random_bytes(7, 100 * CHUNK));
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &old);
}
