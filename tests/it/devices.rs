//! Block devices as the destination of a download and as the file of a seeder; loop devices stand for disks.

use crate::common::*;
use std::path::{Path, PathBuf};
use std::process::Command;

const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 100;

/// A loop device over a file; detached at the end of the test.
struct LoopDevice {
    path: PathBuf,
    backing: PathBuf,
}

impl LoopDevice {
    /// Attaches a device of this content; `None`, with a message, if the user may not.
    fn new(dir: &Path, name: &str, bytes: &[u8]) -> Option<Self> {
        assert!(bytes.len().is_multiple_of(512));
        let backing = write(dir, name, bytes);
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(&backing).output();
        match attached {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap().trim_end().into();
                Some(Self { path, backing })
            }
            other => {
                eprintln!("skipped: losetup cannot attach a loop device here: {other:?}");
                None
            }
        }
    }

    fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// The content of the device.
    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
        let _ = std::fs::remove_file(&self.backing);
    }
}

fn served(seeder: &Program) -> usize {
    seeder.lines().iter().filter(|line| line.contains("serving chunk")).count()
}

#[test]
fn a_device_is_written_in_place_and_a_second_run_fetches_only_the_bad_chunk() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, CHUNKS * CHUNK - 1);
    let before = random_bytes(2, CHUNKS * CHUNK + 512);
    let Some(device) = LoopDevice::new(dir, "disk", &before) else { return };
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let seeder = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB"]);
    let get = |extra: &[&str]| {
        let args = [&["a.bin", "--out", device.name(), "--yes"], extra].concat();
        leecher(&there, tracker.address(), &args)
    };
    let mut first = get(&[]);
    first.ends_with(0);
    first.wait_for_text(&format!("{} already has 0 of 100 chunks", device.name()));
    assert_eq!(first.stdout(), ["Successfully downloaded a.bin"]);
    let mut wanted = before.clone();
    wanted[..bytes.len()].copy_from_slice(&bytes);
    assert!(device.bytes() == wanted, "the bytes behind the file stay as they are");
    // The data is on the disk, not only in the cache of the device.
    assert_holds(&device.backing, &wanted);
    assert_eq!(served(&seeder), CHUNKS);
    let mut damaged = wanted.clone();
    damaged[42 * CHUNK + 7] ^= 1;
    std::fs::write(&device.path, &damaged).unwrap();
    let mut second = get(&[]);
    second.ends_with(0);
    second.wait_for_text("already has 99 of 100 chunks");
    assert!(device.bytes() == wanted);
    assert_eq!(served(&seeder), CHUNKS + 1);
    let mut third = get(&["--verify", "sample"]);
    third.ends_with(0);
    third.wait_for_text("already has 100 of 100 chunks");
    assert_eq!(served(&seeder), CHUNKS + 1);
    assert_eq!(names_in(&there), ["logs.log"]);
}

#[test]
fn a_device_that_is_too_small_or_mounted_or_not_confirmed_is_not_written() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let before = random_bytes(3, 64 * CHUNK);
    let Some(device) = LoopDevice::new(dir, "disk", &before) else { return };
    let file = write(dir, "a.bin", &random_bytes(4, 64 * CHUNK + 1));
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
    let get = |extra: &[&str]| {
        leecher(&there, tracker.address(), &[&["a.bin", "--out", device.name()], extra].concat())
    };
    let mut unconfirmed = get(&[]);
    unconfirmed.ends_with(2);
    unconfirmed
        .wait_for_text(&format!("--out {} overwrites a device; confirm that with --yes", device.name()));
    let mut small = get(&["--yes"]);
    small.ends_with(9);
    small.wait_for_text(&format!(
        "{} is too small: it has 1048576 bytes, the file has 1048577",
        device.name()
    ));
    let mut flags = get(&["--yes", "--overwrite"]);
    flags.ends_with(2);
    flags.wait_for_text("a device is written in place; see --yes");
    assert!(device.bytes() == before);
    // Another program has the device for itself, as a mounted file system has.
    let exclusive =
        rustix::fs::open(&device.path, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::EXCL, 0.into());
    let exclusive = exclusive.unwrap();
    let mut busy = get(&["--yes"]);
    busy.ends_with(17);
    busy.wait_for_text("it is mounted, or another program uses it");
    drop(exclusive);
    assert!(device.bytes() == before);
}

#[test]
fn a_terminal_is_asked_before_a_device_is_written() {
    let place = place();
    let dir = place.path();
    let before = random_bytes(5, 4 * CHUNK);
    let Some(device) = LoopDevice::new(dir, "disk", &before) else { return };
    let bytes = random_bytes(6, 4 * CHUNK);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
    let address = tracker.address().to_string();
    let args = ["a.bin", "--out", device.name(), "--tracker", &address];
    let question = format!("{} (65536 bytes) will be overwritten with a.bin. Continue? [y/N]", device.name());
    for (answer, code, wanted) in [("n", 2, &before), ("", 2, &before), ("yes", 0, &bytes)] {
        let mut terminal = terminal::AtTerminal::start(dir, "leecher", &args);
        terminal.wait_for(&question);
        terminal.press(&format!("{answer}\n"));
        assert_eq!(terminal.exit_code(PATIENCE), Some(code), "{answer:?}");
        assert!(device.bytes() == *wanted, "{answer:?}");
    }
}

#[test]
fn a_seeder_offers_the_content_of_a_device() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(7, CHUNKS * CHUNK + 512);
    let Some(device) = LoopDevice::new(dir, "disk", &bytes) else { return };
    let tracker = tracker(dir, &[]);
    let name = device.path.file_name().unwrap().to_str().unwrap();
    let seeder = seeder(dir, &device.path, &tracker, &[]);
    leecher(&there, tracker.address(), &[name, "--out", "copy"]).ends_with(0);
    assert_holds(&there.join("copy"), &bytes);
    assert!(!seeder.has_said("was removed") && !seeder.has_said("has changed"));
    // A write to the device leaves no trace; a receiver reports the chunk, and the device is hashed again.
    let mut changed = bytes.clone();
    changed[0] ^= 1;
    std::fs::write(&device.path, &changed).unwrap();
    let _old = leecher(&there, tracker.address(), &[name, "--out", "old"]);
    seeder.wait_for_text("hashed ");
    let line = seeder.wait_for_text("again: its content has changed");
    assert!(line.contains(name), "{line}");
    seeder.wait_for_count("serving ", 2);
    let id = seeder.lines().iter().rev().find_map(|line| Some(line.split_once(" with id ")?.1.to_owned()));
    let id = id.unwrap();
    tracker.wait_for_text(&format!("{})", &id[..8]));
    leecher(&there, tracker.address(), &["--id", &id, "--out", "new"]).ends_with(0);
    assert_holds(&there.join("new"), &changed);
}
