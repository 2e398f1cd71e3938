//! A manager and the members on its list: each member has the current list, with any behaviour of the other members.

mod bad_members;
mod lists;
mod outages;

use crate::common::*;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// Heartbeat interval and lease, in seconds: short for quick tests, and a lease long enough for a busy machine.
const QUICK: [&str; 4] = ["--heartbeat", "0.2", "--lease", "4"];
/// Heartbeat interval and lease, in seconds, that outlast each test: raw peers need no heartbeats.
const PATIENT: [&str; 4] = ["--heartbeat", "60", "--lease", "600"];
/// Heartbeat interval of raw peers.
const BEAT_INTERVAL: Duration = Duration::from_millis(200);

/// A folder with one small file, whose name contains the name of the folder.
fn tiny_folder(dir: &Path, name: &str) -> std::path::PathBuf {
    let folder = subfolder(dir, name);
    write(&folder, &format!("of-{name}"), name.as_bytes());
    folder
}

/// The peers that a client considers connected, derived from its output: sorted names.
fn connected_peers(lines: &[&str]) -> Vec<String> {
    let mut known = BTreeSet::new();
    for line in lines {
        // `... INFO - NAME at ADDRESS connected`
        let said = line.rsplit(" - ").next().unwrap_or_default();
        let name = || said.split(" at ").next().unwrap_or_default().to_owned();
        if said.ends_with(" connected") {
            known.insert(name());
        } else if said.ends_with(" disconnected") {
            known.remove(&name());
        }
    }
    known.into_iter().collect()
}

/// Waits until a client considers exactly these peers connected, itself excluded.
#[track_caller]
fn wait_known(client: &Program, wanted: &[&str]) {
    client.wait_until(&format!("that just {wanted:?} are there"), |lines| connected_peers(lines) == wanted);
}
