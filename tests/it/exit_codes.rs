//! Exit codes that no other module tests, and the tables of exit codes in `--help` and in the documentation.
//!
//! Other modules test 1, 2, 5 and 17 (`bad_input`), 3 and 7 (`seeding`), 4 and 32 (`bad_peers`), and 13 (several).

use crate::common::wire::{FakePeer, Udp, Whole};
use crate::common::*;
use shoal::cli::exit::{ExitCode, HELP_TABLE};
use shoal::protocol::peer::PeerRequest;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Number and meaning of each exit code in `--help`.
fn promised() -> Vec<(u8, &'static str)> {
    let row = |row: &'static str| {
        let (number, meaning) = row.trim().split_once("  ").unwrap();
        (number.parse().unwrap(), meaning)
    };
    HELP_TABLE.lines().skip(1).map(row).collect()
}

#[test]
fn help_and_documentation_list_all_exit_codes() {
    let place = place();
    for bin in ["tracker", "manager", "seeder", "leecher", "client"] {
        let mut help = Program::start(bin, &["--help"], place.path());
        help.ends_with(0);
        let text = help.stdout().join("\n");
        for (number, meaning) in promised() {
            assert!(text.contains(&format!("{number}  {meaning}")), "{bin} --help does not list {number}");
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/command-line.md");
    let reference = std::fs::read_to_string(path).unwrap();
    let section = reference.split("## Exit codes").nth(1).unwrap().split("## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let documented: Vec<(u8, &str)> =
        rows.filter_map(|(number, meaning)| Some((number.parse().ok()?, meaning))).collect();
    assert_eq!(documented.len(), ExitCode::ALL.len());
    for ((number, meaning), (expected, short)) in documented.into_iter().zip(promised()) {
        assert_eq!(number, expected);
        assert!(meaning.starts_with(short), "{number}: {meaning:?}, and --help says {short:?}");
    }
}

#[test]
fn a_download_that_receives_no_data_exits_with_6() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    let whole = Whole::new(random_bytes(1, 50_000), 16_384);
    let silent = FakePeer::answering(&whole, |request, right| match request {
        PeerRequest::Chunk { .. } => Some(Vec::new()),
        _ => Some(right),
    });
    silent.announce(tracker.address(), "silent", &whole.summary("a.bin"));
    let mut waits = leecher(&there, tracker.address(), &["a.bin", "--timeout", "1"]);
    waits.ends_with(6);
    waits.wait_for_text("no data received for ");
    assert!(!there.join("a.bin").exists());
    let tracker = tracker.address().to_string();
    let folder = subfolder(dir, "folder");
    let mut waits =
        plain(dir, &folder, "waits", &["--tracker", &tracker, "--get", "a.bin", "--timeout", "1"]);
    waits.ends_with(6);
}

/// A file system of 1 MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; `None` if the user may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&at);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self(at)),
            _ => {
                eprintln!("skipped: a file system cannot be mounted here, which needs root");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_exits_with_9_before_and_during_a_download() {
    let place = place();
    let dir = place.path();
    let Some(disk) = SmallDisk::mount(dir.join("small")) else { return };
    let tracker = tracker(dir, &[]);
    let large = write(dir, "large.bin", &random_bytes(1, 2 << 20));
    let bytes = random_bytes(2, 768 << 10);
    let fits = write(dir, "fits.bin", &bytes);
    let _large = seeder(dir, &large, &tracker, &["--name", "large"]);
    let limits = ["--name", "fits", "--upload-limit", "128KiB", "--chunk-size", "16KiB", "-v"];
    let slow = seeder(dir, &fits, &tracker, &limits);
    assert_eq!(Udp::to(tracker.address()).lookup("fits.bin").len(), 1);
    let out = disk.path().to_str().unwrap();
    let mut before = leecher(dir, tracker.address(), &["large.bin", "--out", out]);
    before.ends_with(9);
    before.wait_for_text("missing");
    assert!(names_in(disk.path()).is_empty(), "the refused download left files");
    // There is free space at the start; then another program uses it.
    let mut during = leecher(dir, tracker.address(), &["fits.bin", "--out", out]);
    // At most two chunks are in flight, so that some of the eight have been written.
    slow.wait_for_count("serving chunk", 8);
    let filler = disk.path().join("filler");
    let filled = std::fs::write(&filler, vec![1; 1 << 20]);
    assert!(filled.is_err(), "the disk is full");
    during.ends_with(9);
    // With free space again, the same command resumes.
    std::fs::remove_file(&filler).unwrap();
    let mut after = leecher(dir, tracker.address(), &["fits.bin", "--out", out]);
    after.ends_with(0);
    assert_holds(&disk.path().join("fits.bin"), &bytes);
}
