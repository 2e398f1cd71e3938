//! Hostile volunteers beside honest ones, with real programs on hosts whose addresses are not loopback.
//!
//! A seed draws the number of hostile processes, their kinds and the time at which they join. They leave together, and the
//! file must still be complete. `tests/hostile/run` runs twenty seeds; two of them run with the other tests.

use crate::common::network::Network;
use crate::common::{PATIENCE, assert_holds, clear_variables, place, random_bytes, subfolder, write};
use shoal::protocol::status::Status;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TRACKER: &str = "10.0.0.1:5100";
const HONEST: u32 = 3;

/// A program on a host of the network; killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct World<'a> {
    network: Network,
    dir: &'a Path,
}

impl World<'_> {
    fn command(&self, host: char, program: impl AsRef<Path>) -> Command {
        let mut command = self.network.command(Some(host));
        clear_variables(&mut command);
        command.args(["env", "-C"]).arg(self.dir).arg(program.as_ref());
        command.env("XDG_STATE_HOME", self.dir.join("state-home"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn add_address(&self, host: char, address: &str) {
        let mut command = self.network.command(Some(host));
        assert!(command.args(["ip", "addr", "add", address, "dev", "eth0"]).status().unwrap().success());
    }

    fn volunteer(&self, number: u32) -> Running {
        let (address, name) = (format!("10.0.0.{}", 20 + number), format!("v{number}"));
        self.add_address('B', &format!("{address}/24"));
        subfolder(self.dir, &name);
        let mut command = self.command('B', env!("CARGO_BIN_EXE_client"));
        command.args(["-folder", &name, "-transfer_port", "7000", "-name", &name, "--listen", &address]);
        command.args(["--advertise", &format!("{address}:7000")]);
        command.args(["--tracker", TRACKER, "--volunteer", "1GiB", "--log-file", &format!("{name}.log")]);
        Running(command.spawn().unwrap())
    }

    /// With `open`, only volunteers that cannot prove a chunk: the others may win there.
    fn hostile(&self, number: u32, mode: &str, random: &mut fastrand::Rng) -> Running {
        let address = format!("10.0.0.{}", 40 + number);
        self.add_address('C', &format!("{address}/24"));
        let mut command = self.command('C', hostile_program());
        let claim = *random.choice(&["all", "stored"]).unwrap();
        let proofs: &[&str] = if mode == "open" { &["random", "none"] } else { &["random", "none", "fetch"] };
        let proof = *random.choice(proofs).unwrap();
        command.args(["--tracker", TRACKER, "--listen", &address, "--claim", claim, "--proof", proof]);
        command.args(["--keys", &random.u32(1..=4).to_string(), "--name", &format!("hostile{number}")]);
        Running(command.spawn().unwrap())
    }

    fn status(&self) -> Option<Status> {
        let mut command = self.command('A', env!("CARGO_BIN_EXE_tracker"));
        command.args(["status", "--json", "--tracker", TRACKER, "--log-file", "status.log"]);
        let output = command.stdout(Stdio::piped()).output().unwrap();
        // The first line is the version.
        serde_json::from_slice(output.stdout.split(|byte| *byte == b'\n').nth(1)?).ok()
    }

    #[track_caller]
    fn wait(&self, description: &str, wanted: impl Fn(&Status) -> bool) {
        let (began, mut last) = (Instant::now(), None);
        while began.elapsed() < PATIENCE {
            last = self.status();
            if last.as_ref().is_some_and(&wanted) {
                return;
            }
            // Interval between status requests; the test waits for the status, not for this time to pass.
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the status was never \"{description}\": {last:#?}");
    }
}

/// The hostile volunteer, which is built with the tests.
fn hostile_program() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_tracker")).parent().unwrap().join("examples/hostile")
}

/// Runs one seed; `mode` is the value of `--volunteers`.
fn run(seed: u64, mode: &str) {
    let place = place();
    let Some(network) = Network::new(true) else { return };
    let world = World { network, dir: place.path() };
    let mut random = fastrand::Rng::with_seed(seed);
    let bytes = random_bytes(seed, 4 << 20);
    let file = write(&subfolder(place.path(), "files"), "a.bin", &bytes);
    let mut tracker = world.command('A', env!("CARGO_BIN_EXE_tracker"));
    tracker.args([
        "--listen",
        TRACKER,
        "--files",
        "files",
        "--state",
        "state",
        "--offload",
        "--volunteers",
        mode,
    ]);
    tracker.args(["--heartbeat", "0.5", "--lease", "2", "--challenge", "0.2", "--log-file", "tracker.log"]);
    let _tracker = Running(tracker.spawn().unwrap());
    world.wait("ready", |status| status.files_known == 1);

    let count = random.u32(1..=6);
    let joins: Vec<u8> = (0..count).map(|_| random.u8(..3)).collect();
    let mut hostile = Vec::new();
    let mut join = |time: u8, random: &mut fastrand::Rng| {
        for number in (0..count).filter(|number| joins[*number as usize] == time) {
            hostile.push(world.hostile(number, mode, random));
        }
    };
    join(0, &mut random);
    let _honest: Vec<Running> = (1..=HONEST).map(|number| world.volunteer(number)).collect();
    world.wait("honest volunteers joined", |status| {
        (1..=HONEST)
            .all(|number| status.volunteers.iter().any(|one| one.name.as_str() == format!("v{number}")))
    });
    if mode == "approve" {
        for number in 1..=HONEST {
            let mut approve = world.command('A', env!("CARGO_BIN_EXE_tracker"));
            approve.args(["approve", &format!("v{number}"), "--state", "state", "--log-file", "approve.log"]);
            assert!(approve.status().unwrap().success(), "v{number} cannot be approved");
        }
    }
    join(1, &mut random);
    world.wait("all chunks have a proven copy", |status| {
        let chunks: u64 = status.files.iter().map(|file| u64::from(file.chunks)).sum();
        status.copies.verified >= chunks
    });
    join(2, &mut random);
    world.wait("no copy in flight", |status| status.repair.running == 0);

    // All hostile volunteers leave at the same moment.
    hostile.clear();
    world.wait("no chunk is lost", |status| {
        status
            .files
            .iter()
            .all(|file| file.copies.lost == 0 && (file.readable || file.waiting_for_holders > 0))
    });
    let mut leecher = world.command('A', env!("CARGO_BIN_EXE_leecher"));
    leecher.args([
        "a.bin",
        "--tracker",
        TRACKER,
        "--out",
        "got.bin",
        "--wait",
        "60",
        "--log-file",
        "leecher.log",
    ]);
    let code = leecher.status().unwrap().code();
    assert_eq!(code, Some(0), "seed {seed}, {mode}: {:#?}", world.status());
    assert_holds(&place.path().join("got.bin"), &bytes);
    drop(file);
}

/// The seeds that run with the other tests; `HOSTILE_SEEDS` replaces them.
fn seeds(default: u64) -> Vec<u64> {
    let text = std::env::var("HOSTILE_SEEDS").unwrap_or_default();
    let seeds: Vec<u64> = text.split_whitespace().map(|seed| seed.parse().unwrap()).collect();
    if seeds.is_empty() { vec![default] } else { seeds }
}

#[test]
fn approve_mode_loses_no_byte_to_hostile_volunteers() {
    seeds(1).into_iter().for_each(|seed| run(seed, "approve"));
}

#[test]
fn open_mode_loses_no_byte_to_volunteers_that_store_nothing() {
    seeds(2).into_iter().for_each(|seed| run(seed, "open"));
}
