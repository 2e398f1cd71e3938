//! Peers that send garbage, half a frame, too many bytes, wrong bytes, or nothing: they are disconnected or replaced
//! by other sources, and well-behaved peers are served.

mod connections;
mod false_data;
mod stalls;

use crate::common::wire::{FakePeer, Whole};
use crate::common::*;
use std::path::{Path, PathBuf};

/// A tracker with leases that outlast the test, so that fake peers need no heartbeats.
fn tracker_with_long_leases(dir: &Path) -> Program {
    tracker(dir, &["--lease", "60"])
}

/// A download from a well-behaved seeder and a misbehaving peer. The seeder is slow enough that the leecher also
/// connects to the misbehaving peer, and it has all chunks.
struct BadPeerTest {
    dir: tempfile::TempDir,
    whole: Whole,
    tracker: Program,
    _honest: Program,
}

impl BadPeerTest {
    fn new() -> Self {
        let dir = place();
        let whole = Whole::new(random_bytes(5, 600_000), 16_384);
        let file = write(dir.path(), "a.bin", &whole.bytes);
        let tracker = tracker_with_long_leases(dir.path());
        let options = ["--chunk-size", "16KiB", "--upload-limit", "256KiB", "--name", "honest", "-v"];
        let honest = seeder(dir.path(), &file, &tracker, &options);
        Self { dir, whole, tracker, _honest: honest }
    }

    /// Starts the download.
    #[track_caller]
    fn start(self, bad: FakePeer) -> RunningDownload {
        bad.announce(self.tracker.address(), "bad", &self.whole.summary("a.bin"));
        let there = subfolder(self.dir.path(), "there");
        // A leecher that serves would follow the honest seeder, and ask the other peer for nothing.
        let leecher = leecher(&there, self.tracker.address(), &["a.bin", "-vv", "--no-serve"]);
        RunningDownload { there, leecher, bad, setup: self }
    }

    /// Runs the download and asserts that it succeeds.
    #[track_caller]
    fn download(self, bad: FakePeer) -> Program {
        self.start(bad).finish()
    }
}

struct RunningDownload {
    there: PathBuf,
    leecher: Program,
    bad: FakePeer,
    setup: BadPeerTest,
}

impl RunningDownload {
    #[track_caller]
    fn finish(mut self) -> Program {
        self.bad.accepted.recv_timeout(PATIENCE).expect("the leecher connects to the bad peer");
        self.leecher.ends_with(0);
        assert_holds(&self.there.join("a.bin"), &self.setup.whole.bytes);
        assert_eq!(names_in(&self.there), ["a.bin", "logs.log"]);
        self.leecher
    }
}
