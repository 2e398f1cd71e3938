//! Repeated SIGKILL at random moments, of a tracker that distributes, offloads and repairs files, and its volunteers.
//! After each restart every file must be complete.

use crate::common::keeping::*;
use crate::common::*;
use shoal::content::limits::CHUNK_SIZE;
use std::path::Path;
use std::time::Duration;

/// Names of the volunteers; in each round one of them is not started.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
/// Kills in one swarm, each at another moment.
const ROUNDS: usize = 25;
/// Number of swarms; with [`ROUNDS`], 200 kills in total.
const SWARMS: u64 = 8;
/// Maximum time between the downloads and the kill.
const UPTIME_MAX: Duration = Duration::from_millis(600);

/// Short leases, in seconds, so that repair is in progress in most rounds.
const LEASES: [&str; 4] = ["--heartbeat", "0.1", "--lease", "0.3"];

fn files(seed: u64) -> Vec<(String, Vec<u8>)> {
    let length = |chunks: usize| chunks * CHUNK_SIZE as usize - 321;
    [1, 3, 5, 8]
        .into_iter()
        .enumerate()
        .map(|(number, chunks)| (format!("file{number}"), random_bytes(seed + number as u64, length(chunks))))
        .collect()
}

/// Starts a tracker and four of the five volunteers, on new ports.
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

fn kill_repeatedly(seed: u64) {
    let place = place();
    let dir = place.path();
    let mut random = fastrand::Rng::with_seed(seed);
    let files = files(seed);
    let folder = subfolder(dir, "files");
    files.iter().for_each(|(name, bytes)| _ = write(&folder, name, bytes));
    for round in 0..ROUNDS {
        let (mut tracker, mut volunteers) = start(dir, random.usize(..NAMES.len()));
        // In every fifth round the kill comes before most files have been read.
        if round % 5 > 0 {
            let into = format!("got{round}");
            let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
            let mut client = getter(dir, &into, tracker.address(), &names);
            client.ends_with(0);
            files.iter().for_each(|(name, bytes)| assert_holds(&dir.join(&into).join(name), bytes));
            std::fs::remove_dir_all(dir.join(&into)).unwrap();
        }
        // The kill comes at a random moment; the test does not wait for an event.
        std::thread::sleep(UPTIME_MAX.mul_f64(random.f64().powi(2)));
        tracker.kill9();
        volunteers.iter_mut().for_each(Program::kill9);
    }
    // After the last restart, all files become safe and offloaded.
    let (tracker, _volunteers) = start(dir, 0);
    wait_status(tracker.address(), "safe and offloaded", |status| {
        is_safe(status, files.len() as u64) && status.files.iter().all(|file| file.offloaded)
    });
}

#[test]
fn files_survive_kills_of_tracker_and_volunteers_at_random_moments() {
    // The swarms mostly wait for each other and for the disk, so that all of them run at the same time.
    std::thread::scope(|scope| {
        (0..SWARMS).for_each(|seed| _ = scope.spawn(move || kill_repeatedly(100 * seed)))
    });
}
