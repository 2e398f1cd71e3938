//! Repeated SIGKILL of downloads at random moments: each run resumes, does not read again the chunks that the resume
//! file lists as verified, and the finished file is right.

use crate::common::*;
use shoal::content::{Bitfield, ChunkIndex};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Kills of one download, each at another moment.
const KILL_COUNT: usize = 25;
/// Maximum time until a program is killed.
const UPTIME_MAX: Duration = Duration::from_millis(1_400);
/// Number of chunks in a file; the next constant is the chunk size in bytes.
const CHUNKS: u32 = 384;
const CHUNK: usize = 16 * 1024;
/// A rate at which the download is not complete before the last kill.
const SLOWLY: [&str; 5] = ["-v", "--chunk-size", "16KiB", "--upload-limit", "256KiB"];

/// Kills the program after a random time, and returns its output.
fn kill_at_random_moment(mut program: Program, random: &mut fastrand::Rng) -> Vec<String> {
    std::thread::sleep(UPTIME_MAX.mul_f64(random.f64()));
    program.kill9();
    program.lines()
}

/// The chunks that the resume file in a folder lists as verified.
fn listed_as_verified(folder: &Path) -> Bitfield {
    let mut all = Bitfield::none(CHUNKS);
    for name in names_in(folder).iter().filter(|name| name.ends_with(".resume")) {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        // A slot for each of four records.
        for slot in bytes.chunks(bytes.len() / 4) {
            let header = slot.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let written = &slot[header + Bitfield::byte_length(CHUNKS)..][..Bitfield::byte_length(CHUNKS)];
            let written = Bitfield::from_bytes(CHUNKS, written).unwrap();
            written.iter().for_each(|index: ChunkIndex| _ = all.insert(index));
        }
    }
    all
}

/// The number of bytes with which a program says that it resumes.
fn resumed(lines: &[String]) -> Option<usize> {
    let line = lines.iter().find_map(|line| line.split_once("resuming at "))?;
    Some(line.1.split(' ').next().unwrap().parse().unwrap())
}

/// Kills and restarts a download [`KILL_COUNT`] times; returns the chunks that are verified at the end.
fn kill_repeatedly(folder: &Path, random: &mut fastrand::Rng, start: impl Fn() -> Program) -> Bitfield {
    let mut there = Bitfield::none(CHUNKS);
    for _ in 0..KILL_COUNT {
        let lines = kill_at_random_moment(start(), random);
        if let Some(resumed) = resumed(&lines) {
            assert_eq!(
                resumed,
                there.held() as usize * CHUNK,
                "a run resumes with exactly the chunks in the resume file"
            );
        }
        assert!(
            !lines.iter().any(|line| line.contains("checking the part file")),
            "a verified chunk was read again"
        );
        let now = listed_as_verified(folder);
        assert!(there.iter().all(|index| now.has(index)), "a verified chunk was forgotten");
        there = now;
    }
    assert!((1..CHUNKS).contains(&there.held()), "{} chunks are verified", there.held());
    there
}

/// Runs a test for several seeds in parallel.
fn in_parallel(seeds: std::ops::Range<u64>, one: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        seeds.for_each(|seed| {
            drop(scope.spawn({
                let one = &one;
                move || one(seed)
            }))
        })
    });
}

/// A random file `a.bin`, a tracker, and the folder of a download that was killed [`KILL_COUNT`] times. No seeder runs.
struct KilledDownload {
    place: tempfile::TempDir,
    there: PathBuf,
    file: PathBuf,
    bytes: Vec<u8>,
    tracker: Program,
    /// The chunks that are verified.
    kept: Bitfield,
}

impl KilledDownload {
    /// Kills and restarts a download from a slow seeder; `start` receives the tracker and the folder.
    fn new(seed: u64, start: impl Fn(&Program, &Path) -> Program) -> Self {
        let place = place();
        let there = subfolder(place.path(), "there");
        let bytes = random_bytes(seed, CHUNKS as usize * CHUNK);
        let file = write(place.path(), "a.bin", &bytes);
        let tracker = tracker(place.path(), &["--lease", "60"]);
        let mut slow = seeder(place.path(), &file, &tracker, &SLOWLY);
        let random = &mut fastrand::Rng::with_seed(seed);
        let kept = kill_repeatedly(&there, random, || start(&tracker, &there));
        slow.interrupt();
        slow.ends_with(0);
        Self { place, there, file, bytes, tracker, kept }
    }

    /// Starts a seeder without an upload limit.
    fn fast_seeder(&self) -> Program {
        let options = ["-v", "--chunk-size", "16KiB", "--name", "fast"];
        seeder(self.place.path(), &self.file, &self.tracker, &options)
    }
}

fn leecher_killed(seed: u64) {
    let download =
        KilledDownload::new(seed, |tracker, there| leecher(there, tracker.address(), &["a.bin", "-v"]));
    let KilledDownload { there, bytes, tracker, kept, .. } = &download;
    // The remaining chunks come from another seeder, which must not receive requests for verified chunks.
    let fast = download.fast_seeder();
    let how = ["none", "sample", "full"][seed as usize % 3];
    let mut last = leecher(there, tracker.address(), &["a.bin", "-v", "--verify", how]);
    last.ends_with(0);
    let found = resumed(&last.lines()).unwrap_or(0);
    // Chunks that arrived after the last write of the resume file are found only if everything is read.
    assert!(found == kept.held() as usize * CHUNK || how == "full" && found > kept.held() as usize * CHUNK);
    let read = match how {
        "none" => 0,
        "sample" => kept.held().min(32),
        _ => kept.held(),
    };
    let said = last.lines().into_iter().find(|line| line.contains("checking the part file"));
    let said =
        said.map_or(0, |line| line.rsplit(": ").next().unwrap().split(' ').next().unwrap().parse().unwrap());
    assert!(said >= read as usize * CHUNK, "{how} reads {said} bytes");
    assert!(how != "none" || said == 0);
    let asked = fast.lines().iter().filter(|line| line.contains("serving chunk")).count();
    match how {
        "full" => assert!(asked <= (CHUNKS - kept.held()) as usize),
        _ => assert_eq!(asked, (CHUNKS - kept.held()) as usize),
    }
    assert_holds(&there.join("a.bin"), bytes);
    assert_eq!(names_in(there), ["a.bin", "logs.log"]);
}

#[test]
fn a_leecher_resumes_after_any_number_of_kills() {
    in_parallel(0..3, leecher_killed);
}

fn member_killed(seed: u64) {
    let start = |tracker: &Program, there: &Path| {
        let address = tracker.address().to_string();
        let options = ["--tracker", &address, "--get", "a.bin", "-v"];
        plain(there.parent().unwrap(), there, "gets", &options)
    };
    let download = KilledDownload::new(seed, start);
    let KilledDownload { there, bytes, tracker, .. } = &download;
    let _fast = download.fast_seeder();
    start(tracker, there).ends_with(0);
    assert_holds(&there.join("a.bin"), bytes);
    assert_eq!(names_in(there), ["a.bin"]);
}

#[test]
fn a_client_with_a_plain_folder_resumes_after_any_number_of_kills() {
    in_parallel(10..13, member_killed);
}

/// Asserts that each chunk in the list of a chunk folder exists with the right bytes; returns their number.
fn assert_sound(folder: &Path, chunks: &[Vec<u8>]) -> usize {
    let text = std::fs::read(folder.join("local_chunks.txt")).unwrap();
    let list = shoal::content::local_chunks::LocalChunks::parse(&text).unwrap();
    assert_eq!(list.count as usize, chunks.len());
    list.files
        .iter()
        .for_each(|(index, file)| assert_holds(&folder.join(file.as_str()), &chunks[index.at()]));
    list.files.len()
}

fn folder_killed(seed: u64) {
    let place = place();
    let dir = place.path();
    let random = &mut fastrand::Rng::with_seed(seed);
    let chunks: Vec<Vec<u8>> = (0..CHUNKS as u64)
        .map(|number| random_bytes(1_000 * seed + number, random.usize(1..2 * CHUNK)))
        .collect();
    let numbered: Vec<(usize, &[u8])> = (1..).zip(chunks.iter().map(Vec::as_slice)).collect();
    let (full, empty) =
        (chunk_folder(dir, "full", chunks.len(), &numbered), chunk_folder(dir, "empty", chunks.len(), &[]));
    let tracker = tracker(dir, &["--quorum", "1"]);
    let starts =
        |name: &str, folder: &Path, at: SocketAddr, extra: &[&str]| client(dir, folder, name, at, extra);
    let mut slow = starts("slow", &full, tracker.address(), &["--upload-limit", "192KiB"]);
    let mut held = 0;
    for _ in 0..KILL_COUNT {
        kill_at_random_moment(starts("killed", &empty, tracker.address(), &[]), random);
        let now = assert_sound(&empty, &chunks);
        assert!(now >= held, "a listed chunk was forgotten");
        held = now;
    }
    assert!(held > 0, "no chunk arrived");
    slow.kill9();
    let _fast = starts("fast", &full, tracker.address(), &[]);
    starts("killed", &empty, tracker.address(), &["--exit-when-complete"]).ends_with(0);
    assert_complete(&empty, &chunks);
    let left: Vec<String> = names_in(&empty).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(left, [".shoal-written"], "temporary files are left behind");
}

#[test]
fn a_chunk_folder_is_consistent_after_any_number_of_kills() {
    in_parallel(20..22, folder_killed);
}

#[test]
fn the_loss_of_a_source_is_logged_once_with_the_file() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", &random_bytes(4, 4 << 20));
    let tracker = tracker(dir, &[]);
    let mut seeder = seeder(dir, &file, &tracker, &["--upload-limit", "256KiB"]);
    let mut leecher = leecher(&there, tracker.address(), &["a.bin", "--timeout", "12", "-v"]);
    leecher.wait_for_text("connected to 127.0.0.1");
    seeder.kill9();
    // The source is tried again several times meanwhile.
    leecher.wait_for_text("download stalled");
    leecher.ends_with(4);
    let lines = leecher.lines();
    let losses = |level: &str| -> Vec<&String> {
        let start = format!(" - {level} - disconnected from ");
        lines.iter().filter(|line| line.contains(&start)).collect()
    };
    assert_eq!(losses("INFO").len(), 1, "{lines:?}");
    assert!(losses("INFO")[0].contains("a source of a.bin: "), "{lines:?}");
    assert!(!losses("DEBUG").is_empty(), "{lines:?}");
}
