//! Downloads that are killed with -9 at random moments, again and again: each time they go on where they were, read
//! nothing again that a have-map vouches for, and in the end every byte is right.

use crate::common::*;
use shoal::content::{ChunkIndex, HaveMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Deaths of one download, each at another moment.
const KILLS: usize = 25;
/// The longest that a program lives.
const LIFE: Duration = Duration::from_millis(1_400);
/// Chunks of a file, and bytes in each.
const CHUNKS: u32 = 384;
const CHUNK: usize = 16 * 1024;
/// So slow that the end is not reached before the last death.
const SLOWLY: [&str; 5] = ["-v", "--chunk-size", "16KiB", "--upload-limit", "256KiB"];

/// The moment is what is random here; nothing is waited for.
fn live_and_die(mut program: Program, random: &mut fastrand::Rng) -> Vec<String> {
    std::thread::sleep(LIFE.mul_f64(random.f64()));
    program.kill9();
    program.lines()
}

/// What the have-maps beside a target vouch for.
fn vouched(folder: &Path) -> HaveMap {
    let mut all = HaveMap::none(CHUNKS);
    for name in names_in(folder).iter().filter(|name| name.ends_with(".note") || name.ends_with(".have")) {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        // A note has two halves, which are written in turns.
        let parts = if name.ends_with(".note") { 2 } else { 1 };
        for part in bytes.chunks(bytes.len() / parts) {
            let header = part.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let written = &part[header + HaveMap::byte_length(CHUNKS)..][..HaveMap::byte_length(CHUNKS)];
            let written = HaveMap::from_bytes(CHUNKS, written).unwrap();
            written.iter().for_each(|index: ChunkIndex| _ = all.insert(index));
        }
    }
    all
}

/// How much a program says that it has found.
fn resumed(lines: &[String]) -> Option<usize> {
    let line = lines.iter().find_map(|line| line.split_once("resuming at "))?;
    Some(line.1.split(' ').next().unwrap().parse().unwrap())
}

/// Kills a download, started as told, until it has died often enough; returns what is there then.
fn torture(folder: &Path, random: &mut fastrand::Rng, start: impl Fn() -> Program) -> HaveMap {
    let mut there = HaveMap::none(CHUNKS);
    for _ in 0..KILLS {
        let lines = live_and_die(start(), random);
        if let Some(resumed) = resumed(&lines) {
            assert_eq!(resumed, there.held() as usize * CHUNK, "what the maps vouch for is what is there");
        }
        assert!(!lines.iter().any(|line| line.contains("checking the part file")), "it is not read again");
        let now = vouched(folder);
        assert!(there.iter().all(|index| now.has(index)), "nothing that was there is forgotten");
        there = now;
    }
    assert!((1..CHUNKS).contains(&there.held()), "{} chunks are there", there.held());
    there
}

/// Several downloads at once, each with a seed of its own.
fn at_once(seeds: std::ops::Range<u64>, one: impl Fn(u64) + Sync) {
    std::thread::scope(|scope| {
        seeds.for_each(|seed| {
            drop(scope.spawn({
                let one = &one;
                move || one(seed)
            }))
        })
    });
}

fn leecher_killed(seed: u64) {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let random = &mut fastrand::Rng::with_seed(seed);
    let bytes = random_bytes(seed, CHUNKS as usize * CHUNK);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let mut slow = seeder(dir, &file, &tracker, &SLOWLY);
    let kept = torture(&there, random, || leecher(&there, tracker.address(), &["a.bin", "-v"]));
    slow.interrupt();
    slow.ends_with(0);
    // The rest comes from another one, which is asked for nothing that is there.
    let fast = seeder(dir, &file, &tracker, &["-v", "--chunk-size", "16KiB", "--name", "fast"]);
    let how = ["none", "sample", "full"][seed as usize % 3];
    let mut last = leecher(&there, tracker.address(), &["a.bin", "-v", "--verify", how]);
    last.ends_with(0);
    let found = resumed(&last.lines()).unwrap_or(0);
    // What came in the last moments, and no map names, is found by who reads all.
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
    assert_holds(&there.join("a.bin"), &bytes);
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
}

#[test]
fn a_leecher_goes_on_however_often_it_is_killed() {
    at_once(0..3, leecher_killed);
}

fn member_killed(seed: u64) {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let random = &mut fastrand::Rng::with_seed(seed);
    let bytes = random_bytes(seed, CHUNKS as usize * CHUNK);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--lease", "60"]);
    let mut slow = seeder(dir, &file, &tracker, &SLOWLY);
    let address = tracker.address().to_string();
    let options = ["--tracker", &address, "--get", "a.bin", "-v"];
    torture(&there, random, || plain(dir, &there, "gets", &options));
    slow.interrupt();
    slow.ends_with(0);
    let _fast = seeder(dir, &file, &tracker, &["--chunk-size", "16KiB", "--name", "fast"]);
    plain(dir, &there, "gets", &options).ends_with(0);
    assert_holds(&there.join("a.bin"), &bytes);
    assert_eq!(names_in(&there), ["a.bin"]);
}

#[test]
fn a_client_with_a_plain_folder_goes_on_however_often_it_is_killed() {
    at_once(10..13, member_killed);
}

/// Whatever the list of a chunk folder names is there and right, at any moment.
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
    for _ in 0..KILLS {
        live_and_die(starts("killed", &empty, tracker.address(), &[]), random);
        let now = assert_sound(&empty, &chunks);
        assert!(now >= held, "nothing that was there is forgotten");
        held = now;
    }
    assert!(held > 0, "nothing has come");
    slow.kill9();
    let _fast = starts("fast", &full, tracker.address(), &[]);
    starts("killed", &empty, tracker.address(), &["--exit-when-complete"]).ends_with(0);
    assert_complete(&empty, &chunks);
    let left: Vec<String> = names_in(&empty).into_iter().filter(|name| name.starts_with('.')).collect();
    assert_eq!(left, [""; 0], "nothing is left behind");
}

#[test]
fn a_chunk_folder_is_sound_however_often_its_client_is_killed() {
    at_once(20..22, folder_killed);
}
