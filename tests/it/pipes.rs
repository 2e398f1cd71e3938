//! Downloads to standard output and to FIFOs, and seeders of standard input and of FIFOs.

use crate::common::*;
use rustix::fs::{CWD, FileType, Mode};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Chunks of the window: `STREAM_WINDOW_BYTES` in chunks of 512 KiB.
const WINDOW_CHUNKS: usize = 64;
const CHUNK: usize = 512 * 1024;

fn fifo(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_bits_truncate(0o600), 0).unwrap();
    path
}

/// Starts a leecher whose standard output goes to `stdout`, a path relative to `dir`.
fn leecher_to(dir: &Path, tracker: &Program, args: &[&str], stdout: &str) -> Program {
    let script = format!("exec \"$0\" \"$@\" > {stdout}");
    let tracker = tracker.address().to_string();
    let args = [args, &["--tracker", &tracker]].concat();
    Program::start_by(&["sh", "-c", &script], "leecher", &args, dir)
}

/// Reads a FIFO to its end in another thread.
fn read_all(path: PathBuf) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || std::fs::read(path).unwrap())
}

fn served(seeder: &Program) -> usize {
    seeder.lines().iter().filter(|line| line.contains("serving chunk")).count()
}

#[test]
fn standard_output_receives_only_the_bytes_of_the_file_and_nothing_is_left_on_disk() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, (6 << 20) + 5);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let _seeders = [0; 3].map(|_| seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]));
    let pipe = fifo(dir, "pipe");
    let reader = read_all(pipe.clone());
    let mut leecher = leecher_to(&there, &tracker, &["a.bin", "--out", "-"], pipe.to_str().unwrap());
    leecher.ends_with(0);
    assert!(reader.join().unwrap() == bytes);
    leecher.wait_for("the result on stderr", |line| line == "Successfully downloaded a.bin");
    leecher.wait_for_text("Download complete. File size: 6291461 bytes");
    assert!(!leecher.has_said("leecher listening on"), "a stream is not served");
    // A file as standard output works, too, and so does a file of no bytes.
    let mut leecher = leecher_to(&there, &tracker, &["a.bin", "-o", "-"], "copy");
    leecher.ends_with(0);
    assert_holds(&there.join("copy"), &bytes);
    let empty = write(dir, "empty", b"");
    let _seeder = seeder(dir, &empty, &tracker, &[]);
    leecher_to(&there, &tracker, &["empty", "-o", "-"], "none").ends_with(0);
    assert_holds(&there.join("none"), b"");
    assert_eq!(names_in(&there), ["copy", "logs.log", "none"]);
}

#[test]
fn a_fifo_receives_the_bytes_and_its_reader_is_awaited() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(2, 3 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let pipe = fifo(&there, "pipe");
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "--out", "pipe"]);
    leecher.wait_for_text("waiting for a program that reads from pipe");
    let reader = read_all(pipe);
    leecher.ends_with(0);
    assert!(reader.join().unwrap() == bytes);
    assert_eq!(leecher.stdout(), [""; 0]);
    assert_eq!(names_in(&there), ["logs.log", "pipe"]);
    // Ctrl-C ends the wait for a reader.
    let mut waits = Program::start_interruptible(
        "leecher",
        &["a.bin", "--out", "pipe", "--tracker", &tracker.address().to_string()],
        &there,
    );
    waits.wait_for_text("waiting for a program that reads from pipe");
    waits.interrupt();
    waits.ends_with(7);
    waits.wait_for_text("WARNING - interrupted; nothing was written");
}

#[test]
fn a_slow_reader_slows_the_download_down_and_no_source_is_lost() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(3, (WINDOW_CHUNKS + 40) * CHUNK);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let seeder = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "512KiB"]);
    let pipe = fifo(&there, "pipe");
    let args = ["a.bin", "--out", "pipe", "-v", "--timeout", "2", "--stall-timeout", "2"];
    let mut leecher = leecher(&there, tracker.address(), &args);
    let mut reader = File::open(&pipe).unwrap();
    leecher.wait_for_text("waiting for the reader of pipe; chunks from 65 on are not requested yet");
    assert_eq!(served(&seeder), WINDOW_CHUNKS);
    // Longer than both timeouts: the time itself is the behaviour.
    thread::sleep(Duration::from_secs(5));
    assert_eq!(served(&seeder), WINDOW_CHUNKS);
    // A window of 32 MiB, the receive buffers, and the program.
    let peak = leecher.peak_memory();
    assert!(peak < 160 << 20, "{peak} bytes of memory");
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    leecher.ends_with(0);
    assert!(got == bytes);
    assert!(!leecher.has_said("disconnected from") && !leecher.has_said("stalled"));
    assert_eq!(served(&seeder), WINDOW_CHUNKS + 40, "no chunk was sent twice");
}

#[test]
fn a_slow_source_does_not_hold_up_the_first_chunk_of_the_window() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(9, 20 * CHUNK);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    // A chunk of the slow seeder takes four minutes, longer than the test waits; the seeder is not lost meanwhile.
    let _slow = seeder(dir, &file, &tracker, &["--chunk-size", "512KiB", "--upload-limit", "2KiB"]);
    let _fast = seeder(dir, &file, &tracker, &["--chunk-size", "512KiB"]);
    let mut leecher = leecher_to(&there, &tracker, &["a.bin", "--out", "-"], "copy");
    leecher.ends_with(0);
    assert!(!leecher.has_said("disconnected from"));
    assert_holds(&there.join("copy"), &bytes);
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_download_with_17() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(4, 4 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &["--chunk-size", "64KiB"]);
    let pipe = fifo(&there, "pipe");
    let opened = thread::spawn({
        let pipe = pipe.clone();
        move || File::open(pipe).unwrap()
    });
    let mut leecher = leecher_to(&there, &tracker, &["a.bin", "--out", "-"], "pipe");
    let mut some = [0; 100_000];
    let mut reader = opened.join().unwrap();
    reader.read_exact(&mut some).unwrap();
    drop(reader);
    leecher.ends_with(17);
    leecher.wait_for_text("ERROR - standard output was closed by its reader after ");
    assert!(some == bytes[..100_000]);
    assert_eq!(names_in(&there), ["logs.log", "pipe"]);
}

#[test]
fn ctrl_c_ends_a_download_to_a_reader_that_takes_nothing() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", &random_bytes(5, 4 << 20));
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &["--chunk-size", "512KiB"]);
    let pipe = fifo(&there, "pipe");
    let args = ["a.bin", "--out", "pipe", "-v", "--tracker", &tracker.address().to_string()];
    let mut leecher = Program::start_interruptible("leecher", &args, &there);
    let _reader = File::open(&pipe).unwrap();
    leecher.wait_for_text("waiting for the reader of pipe");
    leecher.interrupt();
    leecher.ends_with(7);
    leecher.wait_for_text("WARNING - interrupted after 0 bytes were written to pipe");
}

#[test]
fn flags_without_a_meaning_for_a_stream_are_usage_errors() {
    let place = place();
    fifo(place.path(), "pipe");
    for (out, flags, text) in [
        ("-", vec!["--overwrite"], "--overwrite means nothing with --out -: a stream keeps no bytes"),
        ("-", vec!["--verify", "full"], "--verify means nothing with --out -"),
        ("pipe", vec!["--stay"], "--stay means nothing with --out pipe"),
        ("pipe", vec!["--durable"], "--durable means nothing with --out pipe"),
    ] {
        let args = [vec!["x", "--out", out], flags].concat();
        let mut refused = Program::start("leecher", &args, place.path());
        refused.ends_with(2);
        refused.wait_for_text(text);
        assert_eq!(refused.stdout(), [""; 0]);
    }
}

#[test]
fn a_seeder_offers_standard_input_from_a_file_without_a_name() {
    let place = place();
    let (dir, there, spools) =
        (place.path(), subfolder(place.path(), "there"), subfolder(place.path(), "spools"));
    let bytes = random_bytes(6, (2 << 20) + 7);
    let tracker = tracker(dir, &[]);
    let address = tracker.address().to_string();
    let pipe = fifo(dir, "pipe");
    let script = format!("TMPDIR={} exec \"$0\" \"$@\" < pipe", spools.display());
    let args = ["-f", "-", "--as", "in.bin", "-p", "0", "--tracker", &address, "--name", "feeder"];
    let mut seeder = Program::start_by(&["sh", "-c", &script], "seeder", &args, dir);
    std::fs::write(&pipe, &bytes).unwrap();
    tracker.wait_for_text("- feeder has 33 of 33 chunks of in.bin");
    assert_eq!(names_in(&spools), [""; 0]);
    leecher(&there, tracker.address(), &["in.bin"]).ends_with(0);
    assert_holds(&there.join("in.bin"), &bytes);
    seeder.kill9();
    assert_eq!(names_in(&spools), [""; 0]);
    assert_eq!(names_in(dir), ["logs.log", "pipe", "spools", "there"]);
    // Standard input has no name.
    let mut refused = Program::start("seeder", &["-f", "-", "-p", "0", "--tracker", &address], dir);
    refused.ends_with(2);
    refused.wait_for_text("standard input has no name; choose one with --as NAME");
}

#[test]
fn a_seeder_offers_the_content_of_a_fifo_under_its_name() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(7, 1 << 20);
    let tracker = tracker(dir, &[]);
    let pipe = fifo(dir, "pipe");
    let mut seeder = start_seeder(dir, &pipe, tracker.address(), &["--name", "feeder"]);
    let mut writer = File::options().write(true).open(&pipe).unwrap();
    bytes.chunks(300_000).for_each(|piece| writer.write_all(piece).unwrap());
    drop(writer);
    tracker.wait_for_text("- feeder has 16 of 16 chunks of pipe");
    // The next writer changes nothing about what is offered.
    leecher(&there, tracker.address(), &["pipe", "--out", "copy"]).ends_with(0);
    assert_holds(&there.join("copy"), &bytes);
    seeder.interrupt();
    seeder.ends_with(0);
}

#[test]
fn a_seeder_whose_folder_for_copies_is_full_exits_with_9() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let disk = subfolder(dir, "disk");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "shoal-test", disk.to_str().unwrap()])
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mount needs rights that this user does not have");
        return;
    }
    write(dir, "big", &random_bytes(8, 1 << 20));
    let script = format!("TMPDIR={} exec \"$0\" \"$@\" < big", disk.display());
    let address = tracker.address().to_string();
    let args = ["-f", "-", "--as", "in.bin", "-p", "0", "--tracker", &address];
    let mut seeder = Program::start_by(&["sh", "-c", &script], "seeder", &args, dir);
    seeder.ends_with(9);
    seeder.wait_for_text("not enough free space for ");
    drop(seeder);
    let _ = std::process::Command::new("umount").arg("-l").arg(&disk).status();
}

#[test]
fn other_kinds_of_input_are_refused_by_name_and_reason() {
    let place = place();
    let _socket = std::os::unix::net::UnixListener::bind(place.path().join("socket")).unwrap();
    for path in ["/dev/null", "socket"] {
        let args = ["-f", path, "-p", "0", "--as", "x", "--tracker", "127.0.0.1:1"];
        let mut refused = Program::start("seeder", &args, place.path());
        refused.ends_with(17);
        refused.wait_for_text(&format!("{path} is not a regular file"));
    }
    let mut refused = Program::start("seeder", &["-f", "/dev/null", "-p", "0"], place.path());
    refused.ends_with(17);
}
