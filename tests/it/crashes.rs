//! Everything is killed at random moments, again and again: the tracker that keeps files, while it distributes,
//! offloads and repairs, and its volunteers with it. After each restart every file must be there, whole.

use crate::common::keeping::*;
use crate::common::*;
use shoal::content::limits::CHUNK_SIZE;
use std::path::Path;
use std::time::Duration;

/// Volunteers; one of them is missing in each round.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Deaths in one swarm, each at another moment.
const ROUNDS: usize = 25;
/// Swarms that this happens to: two hundred deaths in all.
const SWARMS: u64 = 8;
/// The longest that everything runs after the files were got, before it is killed.
const LIFE: Duration = Duration::from_millis(600);

/// Deaths come soon: repair is under way in most rounds.
const LEASES: [&str; 4] = ["--heartbeat", "0.1", "--lease", "0.3"];

fn files(seed: u64) -> Vec<(String, Vec<u8>)> {
    let length = |chunks: usize| chunks * CHUNK_SIZE as usize - 321;
    [1, 3, 5, 8]
        .into_iter()
        .enumerate()
        .map(|(number, chunks)| (format!("file{number}"), random_bytes(seed + number as u64, length(chunks))))
        .collect()
}

/// A tracker and four of the five volunteers, on new ports.
fn start(dir: &Path, missing: usize) -> (Program, Vec<Program>) {
    let (files, state) = (subfolder(dir, "files"), dir.join("state"));
    let keep = ["--files", files.to_str().unwrap(), "--state", state.to_str().unwrap(), "--offload"];
    let tracker = tracker(dir, &[&keep[..], &LEASES].concat());
    let there = NAMES.iter().enumerate().filter(|(number, _)| *number != missing);
    let lend = |(_, name): (usize, &&str)| {
        client(dir, &subfolder(dir, name), name, tracker.address(), &["--volunteer", "1GiB"])
    };
    let volunteers = there.map(lend).collect();
    (tracker, volunteers)
}

fn torture(seed: u64) {
    let place = place();
    let dir = place.path();
    let mut random = fastrand::Rng::with_seed(seed);
    let files = files(seed);
    let folder = subfolder(dir, "files");
    files.iter().for_each(|(name, bytes)| _ = write(&folder, name, bytes));
    for round in 0..ROUNDS {
        let (mut tracker, mut volunteers) = start(dir, random.usize(..NAMES.len()));
        // Now and then so early that hardly anything has been read yet.
        if round % 5 > 0 {
            let into = format!("got{round}");
            let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
            let mut client = getter(dir, &into, tracker.address(), &names);
            client.ends_with(0);
            files.iter().for_each(|(name, bytes)| assert_holds(&dir.join(&into).join(name), bytes));
            std::fs::remove_dir_all(dir.join(&into)).unwrap();
        }
        // The moment is what is random here; nothing is waited for.
        std::thread::sleep(LIFE.mul_f64(random.f64().powi(2)));
        tracker.kill9();
        volunteers.iter_mut().for_each(Program::kill9);
    }
    // And in the end all is as it should be.
    let (tracker, _volunteers) = start(dir, 0);
    wait_status(tracker.address(), "safe and offloaded", |status| {
        is_safe(status, files.len() as u64) && status.files.iter().all(|file| file.offloaded)
    });
}

#[test]
fn whenever_everything_is_killed_every_file_is_whole() {
    // They mostly wait, for each other and for the disk: all at once takes hardly longer than one.
    std::thread::scope(|scope| (0..SWARMS).for_each(|seed| _ = scope.spawn(move || torture(100 * seed))));
}
