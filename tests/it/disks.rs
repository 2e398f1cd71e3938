//! Disks that become full, folders that become read-only or are removed, and files that change while they are served.

use crate::common::*;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const CHUNK: usize = 16 * 1024;

/// A tmpfs of a given size; unmounted at the end of the test.
struct Disk(PathBuf);

impl Disk {
    /// Mounts the file system; `None`, with a message, if the user may not mount.
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

    /// Fills the remaining free space, and returns the path of the file that occupies it.
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

/// The number that follows `word` in a line.
fn number_after(line: &str, word: &str) -> usize {
    let rest = line.split_once(word).unwrap_or_else(|| panic!("{word:?} is not in {line:?}")).1;
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_full_disk_keeps_all_verified_chunks() {
    let place = place();
    let dir = place.path();
    let Some(disk) = Disk::new(dir, "4m") else { return };
    let bytes = random_bytes(1, 2 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let slow = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--upload-limit", "256KiB"]);
    // The log is on another file system, so that the error can be logged.
    let log = dir.join("leecher.log");
    let get = |extra: &[&str]| {
        let out = disk.0.to_str().unwrap();
        leecher(
            dir,
            tracker.address(),
            &[&["a.bin", "--out", out, "--log-file", log.to_str().unwrap()], extra].concat(),
        )
    };
    // The disk becomes full during the download.
    let mut first = get(&[]);
    slow.wait_for_count("serving chunk", 24);
    let filler = disk.fill();
    first.ends_with(9);
    let line = first.wait_for_text("not enough free space for");
    assert!(number_after(&line, " available, ") > 0, "{line}");
    drop(slow);
    // The disk is full at the start: nothing is requested, and the part file stays.
    let fast = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--name", "fast"]);
    let mut second = get(&[]);
    second.ends_with(9);
    let line = second.wait_for_text("not enough free space for");
    assert!(number_after(&line, "bytes needed, ") < 2 << 20 && line.ends_with(" missing"), "{line}");
    assert!(!fast.has_said("serving chunk"));
    // The disk has free space again.
    std::fs::remove_file(filler).unwrap();
    let mut third = get(&[]);
    third.ends_with(0);
    let kept = number_after(&third.wait_for_text("resuming at "), "resuming at ");
    let fetched = fast.lines().iter().filter(|line| line.contains("serving chunk")).count();
    assert_eq!(kept + fetched * CHUNK, bytes.len(), "a chunk was fetched twice");
    // Everything that arrived before the disk was full.
    assert!(kept >= 20 * CHUNK, "{kept} bytes were kept");
    assert_holds(&disk.0.join("a.bin"), &bytes);
    assert_eq!(names_in(&disk.0), ["a.bin"]);
}

#[test]
fn a_disk_without_free_inodes_is_full() {
    let place = place();
    let dir = place.path();
    // The root folder occupies one inode, and a download needs two.
    let Some(disk) = Disk::new(dir, "4m,nr_inodes=2") else { return };
    let file = write(dir, "a.bin", &random_bytes(1, 10 * CHUNK));
    let tracker = tracker(dir, &["--lease", "60"]);
    let _seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
    let mut leecher = leecher(dir, tracker.address(), &["a.bin", "--out", disk.0.to_str().unwrap()]);
    leecher.ends_with(9);
    leecher.wait_for_text("a.bin.part.resume: the file system has no free inodes");
    assert!(names_in(&disk.0).is_empty());
}

#[test]
fn a_client_with_a_full_disk_reports_it_and_resumes_later() {
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
    first.wait_for_count(" downloaded and verified, ", 5);
    let filler = disk.fill();
    first.ends_with(9);
    first.wait_for_text("missing");
    std::fs::remove_file(filler).unwrap();
    client(dir, &empty, "gets", tracker.address(), &["--exit-when-complete"]).ends_with(0);
    assert_complete(&empty, &chunks);
}

#[test]
fn a_read_only_folder_is_named_in_the_error() {
    let place = place();
    let dir = place.path();
    let Some(disk) = Disk::new(dir, "4m") else { return };
    let file = write(dir, "a.bin", &random_bytes(2, 1 << 20));
    let tracker = tracker(dir, &["--lease", "60"]);
    let slow = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--upload-limit", "128KiB"]);
    let out = disk.0.to_str().unwrap();
    // The folder becomes read-only during the download.
    let mut first = leecher(dir, tracker.address(), &["a.bin", "--out", out]);
    slow.wait_for_count("serving chunk", 16);
    // Linux refuses the remount while a file is open for writing; then only the next start finds it read-only.
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
fn removing_the_folder_ends_the_download() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", &random_bytes(3, 4 << 20));
    let tracker = tracker(dir, &["--lease", "60"]);
    let slow = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--upload-limit", "128KiB"]);
    let mut leecher = leecher(dir, tracker.address(), &["a.bin", "--out", there.to_str().unwrap()]);
    slow.wait_for_count("serving chunk", 12);
    std::fs::remove_dir_all(&there).unwrap();
    leecher.ends_with(17);
    leecher.wait_for_text("was removed during the download and its chunks are lost");
    let sent = slow.lines().iter().filter(|line| line.contains("serving chunk")).count();
    assert!(sent < 256, "the leecher downloaded the whole file");
}

#[test]
fn a_changed_file_is_hashed_again_and_offered_under_its_new_id() {
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
    // Overwritten in place with the same size.
    let new = random_bytes(5, 40 * CHUNK);
    write(dir, "a.bin", &new);
    seeder.wait_for_text("has changed; it is not offered until it has been hashed again");
    seeder.wait_for_text("hashed a.bin again: its content has changed");
    tracker.wait_for_count("has 40 of 40 chunks of a.bin", 2);
    fetched("new", &new);
    // Truncated.
    std::fs::File::options().write(true).open(&file).unwrap().set_len(5 * CHUNK as u64).unwrap();
    seeder.wait_for_count("hashed a.bin again: its content has changed", 2);
    tracker.wait_for_text("has 5 of 5 chunks of a.bin");
    fetched("short", &new[..5 * CHUNK]);
    // Replaced by another file of the same name, as editors do.
    let other = write(dir, "other", &old);
    std::fs::rename(other, &file).unwrap();
    seeder.wait_for_count("hashed a.bin again: its content has changed", 3);
    tracker.wait_for_count("has 40 of 40 chunks of a.bin", 3);
    fetched("replaced", &old);
    // Only the modification time changes: the same id is offered again.
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    seeder.wait_for_text("hashed a.bin again: its content is unchanged");
    tracker.wait_for_count("has 40 of 40 chunks of a.bin", 4);
    fetched("again", &old);
}

/// Number of files that a program has open although they were removed.
fn removed_and_open(program: &Program) -> usize {
    let folder = format!("/proc/{}/fd", program.pid().as_raw_nonzero());
    let open = std::fs::read_dir(folder).unwrap().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter(|path| path.to_string_lossy().ends_with("a.bin (deleted)"))
        .count()
}

#[test]
fn a_replaced_version_is_released_when_no_peer_downloads_it() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let old = random_bytes(4, 30 * CHUNK);
    let file = write(dir, "a.bin", &old);
    let tracker = tracker(dir, &["--lease", "60"]);
    let seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB", "--upload-limit", "32KiB", "-v"]);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin"]);
    seeder.wait_for_text("serving chunk");
    for number in 0..3 {
        let other = write(dir, "other", &random_bytes(10 + number, 1_000));
        std::fs::rename(other, &file).unwrap();
        seeder.wait_for_count("hashed a.bin again: its content has changed", 1 + number as usize);
    }
    // The download of the first version ends from the open file; then all are released.
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &old);
    seeder.wait_for_count("stopped serving the replaced version of a.bin with id ", 3);
    assert_eq!(removed_and_open(&seeder), 0);
}

#[test]
fn a_running_download_never_accepts_bytes_of_a_changed_file() {
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

/// Changes the first byte and restores the modification time, as a write through a memory map leaves it.
fn change_unnoticed(path: &Path, byte: u8) {
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[byte], 0).unwrap();
    file.set_modified(modified).unwrap();
}

#[test]
fn a_file_changed_unnoticed_is_withdrawn_at_the_first_report_and_hashed_again() {
    const FOUND: &str = "a.bin: chunk 1 differs from its SHA-256, although size and modification time";
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let mut bytes = random_bytes(8, 10 * CHUNK);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
    // Unlike a memory map, this changes the ctime. If the seeder sees it before the leecher has received the chunk,
    // the file is hashed again without a report, and the test changes it once more.
    let deadline = Instant::now() + PATIENCE;
    while !seeder.has_said(FOUND) {
        assert!(Instant::now() < deadline, "{:#?}", seeder.lines());
        bytes[0] ^= 1;
        change_unnoticed(&file, bytes[0]);
        let hashed = seeder.lines().iter().filter(|line| line.contains("hashed a.bin again")).count();
        let _leecher = leecher(&there, tracker.address(), &["a.bin", "--out", "early", "--overwrite"]);
        seeder.wait_until("a report or a new hash", |lines| {
            let again = lines.iter().filter(|line| line.contains("hashed a.bin again")).count();
            again > hashed || lines.iter().any(|line| line.contains(FOUND))
        });
    }
    seeder.wait_until("a new hash after the report", |lines| {
        let lines = lines.iter().skip_while(|line| !line.contains(FOUND));
        let mut lines =
            lines.skip_while(|line| !line.contains("hashed a.bin again: its content has changed"));
        lines.any(|line| line.contains("serving a.bin"))
    });
    let lines = seeder.lines();
    let serving = lines.iter().rev().find(|line| line.contains("serving a.bin")).unwrap();
    let id = serving.rsplit(' ').next().unwrap();
    tracker.wait_for_text(&format!("{})", &id[..8]));
    leecher(&there, tracker.address(), &["--id", id, "--out", "after"]).ends_with(0);
    assert_holds(&there.join("after"), &bytes);
}
