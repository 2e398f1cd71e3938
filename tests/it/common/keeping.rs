//! Fixtures for trackers that replicate files to volunteers, and assertions on the tracker's status.

use super::{PATIENCE, Program, client, subfolder, tracker};
use shoal::content::FileName;
use shoal::net::Shutdown;
use shoal::protocol::status::{FileStatus, Status, VolunteerState, VolunteerStatus};
use shoal::tracker_client::lookup;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Short heartbeat interval and lease, in seconds, so that tests detect a dead peer in about one second.
pub const QUICK: [&str; 4] = ["--heartbeat", "0.3", "--lease", "1"];

/// A tracker that replicates the files of `<dir>/files`, with its catalogue in `<dir>/state`.
#[track_caller]
pub fn replicating_tracker(dir: &Path, extra: &[&str]) -> Program {
    let (files, state) = (subfolder(dir, "files"), dir.join("state"));
    let keep =
        ["--files", files.to_str().unwrap(), "--state", state.to_str().unwrap(), "--repair-after", "1s"];
    tracker(dir, &[&keep[..], &QUICK, extra].concat())
}

/// The folder of a volunteer.
pub fn folder_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

/// Starts a volunteer and returns when the tracker has accepted its storage offer.
#[track_caller]
pub fn volunteer(dir: &Path, name: &str, tracker: SocketAddr, extra: &[&str]) -> Program {
    let folder = subfolder(dir, name);
    let lend: &[&str] = if extra.contains(&"--volunteer") { &[] } else { &["--volunteer", "1GiB"] };
    let program = client(dir, &folder, name, tracker, &[lend, extra].concat());
    program.wait_for_text(" of storage, ");
    program
}

/// A client that downloads files and exits.
pub fn getter(dir: &Path, name: &str, tracker: SocketAddr, files: &[&str]) -> Program {
    let wishes: Vec<&str> = files.iter().flat_map(|file| ["--get", file]).collect();
    client(dir, &subfolder(dir, name), name, tracker, &wishes)
}

/// The current status of a tracker; `None` if it does not answer.
pub fn status(tracker: SocketAddr) -> Option<Status> {
    lookup::status(&tracker.into(), &Shutdown::new()).ok()
}

/// Requests the status until it satisfies `wanted`, and returns that status.
#[track_caller]
pub fn wait_status(tracker: SocketAddr, description: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < PATIENCE {
        if let Some(status) = status(tracker) {
            if wanted(&status) {
                return status;
            }
            last = Some(status);
        }
        // Interval between status requests; the test waits for the status, not for this time to pass.
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the status was never \"{description}\": {last:#?}");
}

/// Waits until `files` files are known and every wanted replica is stored and verified.
#[track_caller]
pub fn wait_safe(tracker: SocketAddr, files: u64) -> Status {
    wait_status(tracker, "safe", |status| is_safe(status, files))
}

/// Whether `files` files are known and every wanted replica is stored and verified.
pub fn is_safe(status: &Status, files: u64) -> bool {
    let copies = &status.copies;
    status.files_known == files && copies.short == 0 && copies.wanted > 0 && copies.verified >= copies.wanted
}

/// The entry of a file in a status.
#[track_caller]
pub fn file<'a>(status: &'a Status, name: &str) -> &'a FileStatus {
    let name = FileName::new(name).unwrap();
    status.files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name} in {status:#?}"))
}

/// The entry of a volunteer in a status.
#[track_caller]
pub fn of<'a>(status: &'a Status, name: &str) -> &'a VolunteerStatus {
    let volunteer = status.volunteers.iter().find(|volunteer| volunteer.name.as_str() == name);
    volunteer.unwrap_or_else(|| panic!("no {name} in {status:#?}"))
}

/// Number of volunteers that are connected.
pub fn here(status: &Status) -> usize {
    status.volunteers.iter().filter(|volunteer| volunteer.state == VolunteerState::Alive).count()
}

/// The chunk files that a volunteer has in its store.
pub fn chunk_files(folder: &Path) -> Vec<PathBuf> {
    let store = folder.join(".volunteer");
    let Ok(files) = std::fs::read_dir(store) else { return Vec::new() };
    let folders = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut chunks = Vec::new();
    for folder in folders {
        // The volunteer may remove the folder at the same time.
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        chunks.extend(paths.filter(|path| is_number(path)));
    }
    chunks
}

fn is_number(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
}
