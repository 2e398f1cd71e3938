//! Downloads from seeders: the file, its place, and the output of the leecher.

use crate::common::*;
use std::path::Path;

/// Runs a download and asserts that it succeeds.
#[track_caller]
fn fetch(dir: &Path, tracker: &Program, args: &[&str]) -> Program {
    let mut leecher = leecher(dir, tracker.address(), args);
    leecher.ends_with(0);
    leecher
}

#[test]
fn a_download_from_one_seeder_succeeds() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, 3 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let leecher = fetch(&there, &tracker, &["a.bin"]);
    assert_holds(&there.join("a.bin"), &bytes);
    assert_eq!(leecher.stdout(), ["Successfully downloaded a.bin"]);
    let lines = leecher.lines();
    let at =
        |text: &str| lines.iter().position(|line| line.ends_with(text)).unwrap_or_else(|| panic!("{text}"));
    let completed = at(" - INFO - All download threads completed");
    assert!(completed < at(" - INFO - Download complete. File size: 3145728 bytes"));
    assert_eq!(names_in(&there), ["a.bin", "logs.log"], "the folder has exactly these files");
}

#[test]
fn files_of_any_size_are_downloaded() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    const CHUNK: usize = 16 * 1024;
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 1] {
        let name = format!("{size}.bin");
        let bytes = random_bytes(size as u64, size);
        let file = write(dir, &name, &bytes);
        let _seeder = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB"]);
        let leecher = fetch(&there, &tracker, &[&name]);
        assert_holds(&there.join(&name), &bytes);
        leecher.wait_for_text(&format!("Download complete. File size: {size} bytes"));
    }
}

#[test]
fn file_names_with_any_characters_are_accepted() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    for name in
        ["two words", "Grüße aus Łódź.txt", "файл с пробелами.txt", "空 白.bin", "-dash.txt", "%20'$(x).txt"]
    {
        let bytes = random_bytes(7, 1_000);
        let file = write(dir, name, &bytes);
        let _seeder = seeder(dir, &file, &tracker, &[]);
        // After `--` a name that begins with a dash is not a flag.
        let tracker = tracker.address().to_string();
        let mut leecher = Program::start("leecher", &["--tracker", &tracker, "--", name], &there);
        leecher.ends_with(0);
        assert_eq!(leecher.stdout(), [format!("Successfully downloaded {name}")]);
        assert_holds(&there.join(name), &bytes);
    }
}

#[test]
fn a_file_can_be_offered_under_another_name() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    let file = write(dir, "x", b"bytes");
    let _seeder = seeder(dir, &file, &tracker, &["--as", "better.txt"]);
    fetch(&there, &tracker, &["better.txt"]);
    assert_holds(&there.join("better.txt"), b"bytes");
}

#[test]
fn all_five_seeders_are_used() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(2, 4 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    // The rate is low enough that no seeder can serve the whole file before the leecher has connected to all.
    let options = ["-v", "--chunk-size", "64KiB", "--upload-limit", "512KiB"];
    let seeders: Vec<_> = (0..5).map(|_| seeder(dir, &file, &tracker, &options)).collect();
    fetch(&there, &tracker, &["a.bin"]);
    assert_holds(&there.join("a.bin"), &bytes);
    seeders.iter().for_each(|seeder| drop(seeder.wait_for_text("serving chunk")));
}

#[test]
fn a_seeder_that_dies_during_a_download_is_replaced() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(3, 1 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let options = ["-v", "--chunk-size", "16KiB", "--upload-limit", "256KiB"];
    let mut first = seeder(dir, &file, &tracker, &options);
    let _second = seeder(dir, &file, &tracker, &options);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin"]);
    first.wait_for_count("serving chunk", 3);
    first.kill9();
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &bytes);
}

#[test]
fn out_selects_the_file_or_folder_of_the_download() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", b"some bytes");
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &[]);
    fetch(&there, &tracker, &["a.bin", "--out", "other.bin"]);
    assert_holds(&there.join("other.bin"), b"some bytes");
    subfolder(&there, "deep");
    fetch(&there, &tracker, &["a.bin", "-o", "deep"]);
    assert_holds(&there.join("deep").join("a.bin"), b"some bytes");
    let absolute = there.join("deep").join("third.bin");
    fetch(&there, &tracker, &["a.bin", "-out", absolute.to_str().unwrap(), "--durable"]);
    assert_holds(&absolute, b"some bytes");
    assert!(!there.join("a.bin").exists());
    let mut lost = leecher(&there, tracker.address(), &["a.bin", "--out", "missing/a.bin"]);
    lost.ends_with(17);
    lost.wait_for_text("missing is not a folder");
    // The error comes before the download, not at its end.
    let mut lost = leecher(&there, tracker.address(), &["a.bin", "--out", "missing/"]);
    lost.ends_with(17);
    lost.wait_for_text("missing/ is not a folder");
    assert_eq!(names_in(&there), ["deep", "logs.log", "other.bin"]);
}

#[test]
fn an_existing_file_is_kept_unless_overwrite_is_given() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", b"the right bytes");
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let target = write(&there, "a.bin", b"something else");
    let mut refused = leecher(&there, tracker.address(), &["a.bin"]);
    refused.ends_with(13);
    refused.wait_for_text("a.bin exists and is a different file; --overwrite replaces it");
    assert_eq!(refused.stdout(), [""; 0]);
    assert_holds(&target, b"something else");
    fetch(&there, &tracker, &["a.bin", "--overwrite"]);
    assert_holds(&target, b"the right bytes");
    let again = fetch(&there, &tracker, &["a.bin"]);
    again.wait_for_text("a.bin exists and is complete");
    assert_eq!(again.stdout(), ["Successfully downloaded a.bin"]);
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
    let link = there.join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    let mut refused = leecher(&there, tracker.address(), &["a.bin", "--out", "link"]);
    refused.ends_with(13);
    refused.wait_for_text("link exists and is a dangling symbolic link");
    assert_eq!(names_in(&there), ["a.bin", "link", "logs.log"]);
    fetch(&there, &tracker, &["a.bin", "--out", "link", "--overwrite"]);
    assert_holds(&link, b"the right bytes");
}

#[test]
fn a_file_without_a_holder_exits_with_3() {
    let place = place();
    let tracker = tracker(place.path(), &[]);
    let mut by_name = leecher(place.path(), tracker.address(), &["nowhere.bin", "--wait", "0"]);
    by_name.ends_with(3);
    by_name.wait_for_text("ERROR - nowhere.bin not found: no peer offers it");
    let id = "ab".repeat(32);
    leecher(place.path(), tracker.address(), &["--id", &id, "--wait", "0"]).ends_with(3);
}

#[test]
fn two_files_with_one_name_require_an_id() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let one = write(&subfolder(dir, "one"), "same.bin", b"one");
    let two = write(&subfolder(dir, "two"), "same.bin", b"two and more");
    let tracker = tracker(dir, &[]);
    let seeders = [seeder(dir, &one, &tracker, &[]), seeder(dir, &two, &tracker, &[])];
    let ids = seeders.each_ref().map(|seeder| {
        let line = seeder.wait_for_text("serving same.bin (");
        line.rsplit(" with id ").next().unwrap().to_owned()
    });
    let mut unsure = leecher(&there, tracker.address(), &["same.bin"]);
    unsure.ends_with(2);
    unsure.wait_for_text("2 different files are called same.bin; choose one with --id:");
    for ((id, seeder), bytes) in ids.iter().zip(&seeders).zip([3, 12]) {
        let line = format!("--id {id}  {bytes} bytes, held by {}", seeder.address());
        unsure.wait_for_text(&line);
    }
    assert!(!there.join("same.bin").exists());
    fetch(&there, &tracker, &["same.bin", "--id", &ids[1]]);
    assert_holds(&there.join("same.bin"), b"two and more");
    // The id without a name is sufficient.
    fetch(&there, &tracker, &["--id", &ids[0].to_uppercase(), "--out", "one.bin"]);
    assert_holds(&there.join("one.bin"), b"one");
    // So are its first digits, also in place of the name, unless a file has this name.
    fetch(&there, &tracker, &["--id", &ids[0][..8], "--out", "prefix.bin"]);
    assert_holds(&there.join("prefix.bin"), b"one");
    let positional = subfolder(dir, "positional");
    fetch(&positional, &tracker, &[&ids[1][..12]]);
    assert_holds(&positional.join("same.bin"), b"two and more");
    let named = write(dir, &ids[1][..8], b"another file");
    let _seeder = seeder(dir, &named, &tracker, &[]);
    fetch(&positional, &tracker, &[&ids[1][..8]]);
    assert_holds(&positional.join(&ids[1][..8]), b"another file");
    let mut client = crate::common::keeping::getter(dir, "client", tracker.address(), &[&ids[0][..9]]);
    client.ends_with(0);
    assert_holds(&dir.join("client/same.bin"), b"one");
}

#[test]
fn a_leecher_with_stay_serves_the_file() {
    let place = place();
    let dir = place.path();
    let (first, second) = (subfolder(dir, "first"), subfolder(dir, "second"));
    let bytes = random_bytes(4, 1 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let mut seeder = seeder(dir, &file, &tracker, &["--chunk-size", "64KiB"]);
    let mut stays = leecher(&first, tracker.address(), &["a.bin", "--stay", "--name", "stays"]);
    stays.wait_for_text("complete, serving until interrupted");
    tracker.wait_for_text("stays has 16 of 16 chunks of a.bin");
    stays.wait_for("on stdout", |line| line == "Successfully downloaded a.bin");
    seeder.kill9();
    fetch(&second, &tracker, &["a.bin"]);
    assert_holds(&second.join("a.bin"), &bytes);
    stays.interrupt();
    stays.ends_with(0);
    tracker.wait_for_text("is gone: it disconnected");
    assert_eq!(names_in(&first), ["a.bin", "logs.log"]);
}

#[test]
fn a_leecher_with_stay_serves_a_file_that_was_already_complete() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", b"some bytes");
    write(&there, "a.bin", b"some bytes");
    let tracker = tracker(dir, &[]);
    let mut seeder = seeder(dir, &file, &tracker, &[]);
    let stays = leecher(&there, tracker.address(), &["a.bin", "--stay", "--name", "stays"]);
    tracker.wait_for_text("stays has 1 of 1 chunks of a.bin");
    stays.wait_for("on stdout", |line| line == "Successfully downloaded a.bin");
    seeder.interrupt();
    seeder.ends_with(0);
    tracker.wait_for_text("is gone: it disconnected");
    fetch(&there, &tracker, &["a.bin", "--out", "b.bin"]);
    assert_holds(&there.join("b.bin"), b"some bytes");
}

#[test]
fn leechers_serve_chunks_to_each_other_before_they_are_complete() {
    let place = place();
    let dir = place.path();
    let bytes = random_bytes(5, 2 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let chunks = 64;
    let seeder = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "32KiB", "--upload-limit", "1MiB"]);
    let mut leechers: Vec<Program> = Vec::new();
    for name in ["first", "second", "third"] {
        let options = ["a.bin", "--stay", "-v", "--name", name];
        leechers.push(leecher(&subfolder(dir, name), tracker.address(), &options));
        tracker.wait_for_text(&format!("- {name} has "));
    }
    for leecher in &mut leechers {
        leecher.wait_for_text("complete, serving until interrupted");
        leecher.interrupt();
        leecher.ends_with(0);
    }
    for name in ["first", "second", "third"] {
        assert_holds(&dir.join(name).join("a.bin"), &bytes);
    }
    let served_early = |leecher: &Program| {
        let lines = leecher.lines();
        let served = lines.iter().take_while(|line| !line.contains("All download threads completed"));
        served.filter(|line| line.contains("serving chunk")).count()
    };
    let early: usize = leechers.iter().map(served_early).sum();
    assert!(early > 0, "no leecher has served a chunk before it was complete");
    // Without the leechers' uploads the seeder would send each chunk three times.
    let sent = seeder.lines().iter().filter(|line| line.contains("serving chunk")).count();
    assert!((chunks..3 * chunks).contains(&sent), "{sent} of {chunks} chunks sent");
}

/// Starts a slow seeder and a leecher that has downloaded part of the file and recorded it in the resume file.
fn start_partial_download(dir: &Path, there: &Path, tracker: &Program, bytes: &[u8]) -> (Program, Program) {
    let file = write(dir, "a.bin", bytes);
    let options = ["-v", "--chunk-size", "16KiB", "--upload-limit", "128KiB"];
    let seeder = seeder(dir, &file, tracker, &options);
    let leecher = leecher(there, tracker.address(), &["a.bin", "--timeout", "20"]);
    // At this rate 24 chunks take seconds, and the resume file is written twice a second.
    seeder.wait_for_count("serving chunk", 24);
    (seeder, leecher)
}

/// Resumes a download from another, fast seeder, and asserts that it completes.
fn assert_resumes(dir: &Path, there: &Path, tracker: &Program, bytes: &[u8]) {
    let _fast = seeder(dir, &dir.join("a.bin"), tracker, &["--chunk-size", "16KiB"]);
    let leecher = fetch(there, tracker, &["a.bin"]);
    let line = leecher.wait_for_text("resuming at ");
    let kept = line.rsplit("resuming at ").next().unwrap().split(' ').next().unwrap();
    let kept: usize = kept.parse().unwrap();
    leecher.wait_for_text(&format!(", {kept} bytes were there before"));
    assert!(kept > 0 && kept < bytes.len() && kept.is_multiple_of(16_384), "{line}");
    assert_holds(&there.join("a.bin"), bytes);
    assert_eq!(names_in(there), ["a.bin", "logs.log"]);
}

#[test]
fn a_killed_leecher_resumes() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(6, 1 << 20);
    let tracker = tracker(dir, &[]);
    let (_seeder, mut leecher) = start_partial_download(dir, &there, &tracker, &bytes);
    leecher.kill9();
    assert!(!there.join("a.bin").exists());
    assert_resumes(dir, &there, &tracker, &bytes);
}

#[test]
fn an_interrupted_leecher_resumes() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(8, 1 << 20);
    let tracker = tracker(dir, &[]);
    let (_seeder, mut leecher) = start_partial_download(dir, &there, &tracker, &bytes);
    leecher.interrupt();
    leecher.ends_with(7);
    leecher.wait_for_text("WARNING - interrupted; run the same command to resume");
    assert!(!there.join("a.bin").exists());
    assert_resumes(dir, &there, &tracker, &bytes);
}

#[test]
fn a_file_of_16_mib_is_downloaded_from_three_seeders() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(9, (16 << 20) + 1);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let _seeders = [0; 3].map(|_| seeder(dir, &file, &tracker, &[]));
    fetch(&there, &tracker, &["a.bin"]);
    assert_holds(&there.join("a.bin"), &bytes);
}
