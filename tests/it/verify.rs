//! Verification of existing data: a finished file, and the part file and resume file of an earlier download.

use crate::common::*;
use std::path::Path;

const MODES: [&str; 3] = ["full", "sample", "none"];
/// More chunks than `--verify sample` reads.
const CHUNKS: usize = 100;
const CHUNK: usize = 16 * 1024;

/// A tracker and a seeder of one file.
fn swarm(dir: &Path, bytes: &[u8]) -> (Program, Program) {
    let file = write(dir, "a.bin", bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let seeder = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB"]);
    (tracker, seeder)
}

#[test]
fn a_complete_file_is_not_fetched_again_and_a_different_file_is_kept() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, CHUNKS * CHUNK);
    let (tracker, seeder) = swarm(dir, &bytes);
    let get = |extra: &[&str]| leecher(&there, tracker.address(), &[&["a.bin", "-v"], extra].concat());
    let target = there.join("a.bin");
    for (mode, read) in [("full", CHUNKS), ("sample", 32), ("none", 0)] {
        write(&there, "a.bin", &bytes);
        let mut right = get(&["--verify", mode]);
        right.ends_with(0);
        right.wait_for_text("exists and is complete");
        let said = format!("checking a.bin: {} bytes to read", read * CHUNK);
        assert!(right.has_said(&said), "the log with --verify {mode} has {said:?}");
        // A file of another size is always different; in another file of the same size every chunk is bad.
        for (other, same_size) in
            [(random_bytes(2, CHUNKS * CHUNK - 1), false), (random_bytes(3, CHUNKS * CHUNK), true)]
        {
            write(&there, "a.bin", &other);
            let mut wrong = get(&["--verify", mode]);
            match (mode, same_size) {
                // With `none` no chunk is read, and the size is right.
                ("none", true) => wrong.ends_with(0),
                _ => {
                    wrong.ends_with(13);
                    wrong.wait_for_text("exists and is a different file");
                }
            }
            assert_holds(&target, &other);
        }
    }
    assert!(!seeder.has_said("serving chunk"), "a chunk was fetched");
    for mode in ["full", "sample"] {
        write(&there, "a.bin", &random_bytes(4, CHUNKS * CHUNK));
        get(&["--verify", mode, "--overwrite"]).ends_with(0);
        assert_holds(&target, &bytes);
    }
    // A single bad byte is found if all chunks are read.
    let mut damaged = bytes.clone();
    damaged[77 * CHUNK] ^= 1;
    write(&there, "a.bin", &damaged);
    get(&[]).ends_with(13);
    assert_holds(&target, &damaged);
}

#[test]
fn a_file_is_verified_before_it_is_served_even_with_verify_none() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, CHUNKS * CHUNK);
    let (tracker, _seeder) = swarm(dir, &bytes);
    let mut damaged = bytes.clone();
    damaged[77 * CHUNK] ^= 1;
    write(&there, "a.bin", &damaged);
    leecher(&there, tracker.address(), &["a.bin", "--stay", "--verify", "none"]).ends_with(13);
}

/// A download that was killed after part of the file was recorded in the resume file.
fn killed(dir: &Path, there: &Path, tracker: &Program) {
    let slow = ["-v", "--chunk-size", "16KiB", "--upload-limit", "256KiB", "--name", "slow"];
    let seeder = seeder(dir, &dir.join("a.bin"), tracker, &slow);
    let mut leecher = leecher(there, tracker.address(), &["a.bin"]);
    seeder.wait_for_count("serving chunk", 40);
    leecher.kill9();
}

/// The part file or resume file of a download, selected by the end of its name.
fn partial(there: &Path, ending: &str) -> std::path::PathBuf {
    there.join(names_in(there).into_iter().find(|name| name.ends_with(ending)).unwrap())
}

#[test]
fn a_torn_resume_file_is_detected_and_only_costs_a_check() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(5, CHUNKS * CHUNK);
    write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    killed(dir, &there, &tracker);
    let resume = partial(&there, ".resume");
    let text = std::fs::read(&resume).unwrap();
    std::fs::write(&resume, &text[..9]).unwrap();
    let fast = seeder(dir, &dir.join("a.bin"), &tracker, &["-v", "--chunk-size", "16KiB"]);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "-v"]);
    leecher.ends_with(0);
    leecher.wait_for_text("ignored: torn write");
    leecher.wait_for_text("its resume files cannot be used");
    leecher.wait_for_text("recovered that the resume file does not list");
    let asked = fast.lines().iter().filter(|line| line.contains("serving chunk")).count();
    assert!(asked < CHUNKS, "{asked} chunks were fetched");
    assert_holds(&there.join("a.bin"), &bytes);
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
}

#[test]
fn corruption_on_disk_is_found_by_verify_sample_and_full() {
    for mode in ["sample", "full"] {
        let place = place();
        let (dir, there) = (place.path(), subfolder(place.path(), "there"));
        let bytes = random_bytes(6, CHUNKS * CHUNK);
        write(dir, "a.bin", &bytes);
        let tracker = tracker(dir, &["--lease", "60"]);
        killed(dir, &there, &tracker);
        // The whole part file is overwritten, so that each sample contains bad chunks.
        let part = partial(&there, ".part");
        std::fs::write(&part, random_bytes(7, CHUNKS * CHUNK)).unwrap();
        let _fast = seeder(dir, &dir.join("a.bin"), &tracker, &["--chunk-size", "16KiB"]);
        let mut leecher = leecher(&there, tracker.address(), &["a.bin", "--verify", mode]);
        leecher.ends_with(0);
        leecher.wait_for_text("in the part file failed verification");
        assert_holds(&there.join("a.bin"), &bytes);
    }
}

#[test]
fn the_part_file_of_another_file_is_never_used() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    write(dir, "a.bin", &random_bytes(8, CHUNKS * CHUNK));
    let first = tracker(dir, &["--lease", "60"]);
    killed(dir, &there, &first);
    let before = partial(&there, ".part");
    // The same name and size with other bytes.
    let bytes = random_bytes(9, CHUNKS * CHUNK);
    write(dir, "a.bin", &bytes);
    let second = tracker(dir, &["--lease", "60"]);
    let _seeder = seeder(dir, &dir.join("a.bin"), &second, &["--chunk-size", "16KiB"]);
    for mode in MODES {
        let _ = std::fs::remove_file(there.join("a.bin"));
        let mut leecher = leecher(&there, second.address(), &["a.bin", "--verify", mode]);
        leecher.ends_with(0);
        assert!(!leecher.has_said("resuming at "));
        assert_holds(&there.join("a.bin"), &bytes);
        assert!(before.exists(), "the part file of the other file is kept");
    }
}

/// Number of chunks that a seeder has sent.
fn served(seeder: &Program) -> usize {
    seeder.lines().iter().filter(|line| line.contains("serving chunk")).count()
}

#[test]
fn overwrite_repairs_one_bad_chunk_by_fetching_only_this_chunk() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, CHUNKS * CHUNK + 100);
    let (tracker, seeder) = swarm(dir, &bytes);
    let get = |extra: &[&str]| leecher(&there, tracker.address(), &[&["a.bin"], extra].concat());
    let mut damaged = bytes.clone();
    damaged[77 * CHUNK + 5] ^= 1;
    let target = write(&there, "a.bin", &damaged);
    get(&[]).ends_with(13);
    assert_holds(&target, &damaged);
    assert_eq!(served(&seeder), 0);
    let mut repaired = get(&["--overwrite"]);
    repaired.ends_with(0);
    repaired.wait_for_text("reusing 100 chunks of a.bin; 1 to be downloaded");
    assert_holds(&target, &bytes);
    assert_eq!(served(&seeder), 1);
    // So of a shorter or longer file; nothing of a file without an agreeing chunk.
    for (other, fetched) in [
        (bytes[..40 * CHUNK].to_vec(), 61),
        ([bytes.clone(), vec![0; 9]].concat(), 0),
        (random_bytes(2, bytes.len()), 101),
    ] {
        let before = served(&seeder);
        write(&there, "a.bin", &other);
        get(&["--overwrite"]).ends_with(0);
        assert_holds(&target, &bytes);
        assert_eq!(served(&seeder) - before, fetched);
    }
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
}

#[test]
fn a_file_that_is_repaired_is_untouched_until_the_end() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, CHUNKS * CHUNK);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let options = ["-v", "--chunk-size", "16KiB", "--upload-limit", "64KiB"];
    let slow = seeder(dir, &file, &tracker, &options);
    let mut other = bytes.clone();
    other[50 * CHUNK..].iter_mut().for_each(|byte| *byte ^= 1);
    let target = write(&there, "a.bin", &other);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "--overwrite"]);
    slow.wait_for_count("serving chunk", 5);
    leecher.kill9();
    assert_holds(&target, &other);
    let fast = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB"]);
    drop(slow);
    let args = ["a.bin", "--overwrite", "--timeout", "60"];
    let mut again = crate::common::leecher(&there, tracker.address(), &args);
    again.ends_with(0);
    assert_holds(&target, &bytes);
    // The chunks of the existing file were in the part file of the killed run.
    assert!(served(&fast) <= 50, "{} chunks", served(&fast));
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
}
