//! Networks that delay, cut, swallow, lose, double and reorder: a download ends right all the same.

mod common;

use common::proxy::Proxy;
use common::*;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bad networks, each of its own.
const SEEDS: u64 = 100;
/// So many at once: most of the time they wait for what does not come.
const AT_ONCE: usize = 10;

/// Two seeders and a leecher that reach each other, and their tracker, only over bad networks.
fn one_swarm(seed: u64) {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(seed, 400_000);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &["--heartbeat", "1", "--lease", "30"]);
    let network = Proxy::for_everything(seed, tracker.address());
    let seeders = [1, 2].map(|number| {
        let way = Proxy::for_connections(1_000 * number + seed);
        let address = way.address.to_string();
        let options = ["--chunk-size", "16KiB", "--advertise", &address, "-v"];
        let seeder = start_seeder(dir, &file, network.address, &options);
        way.lead_to(seeder.address());
        (seeder, way)
    });
    let mut leecher = leecher(&there, network.address, &["a.bin", "--wait", "60", "-v"]);
    leecher.ends_with(0);
    assert_holds(&there.join("a.bin"), &bytes);
    assert_eq!(names_in(&there), ["a.bin", "logs.log"]);
    for (program, _) in &seeders {
        assert!(!program.has_said("panicked"));
    }
    assert!(!tracker.has_said("panicked") && !leecher.has_said("not used any more"), "nobody is to blame");
}

#[test]
fn a_download_ends_right_over_a_hundred_bad_networks() {
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= SEEDS {
                        return;
                    }
                    let began = std::time::Instant::now();
                    one_swarm(seed);
                    println!("{seed}: {:?}", began.elapsed());
                }
            });
        }
    });
}
