//! Trackers that keep files, their volunteers, and what the tracker tells of them.

use super::{PATIENCE, Program, client, subfolder, tracker};
use shoal::content::FileName;
use shoal::daemon::lookup;
use shoal::net::Shutdown;
use shoal::protocol::status::{FileStatus, Status, VolunteerState, VolunteerStatus};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Short leases: a test need not wait ten seconds for a death.
pub const QUICK: [&str; 4] = ["--heartbeat", "0.3", "--lease", "1"];

/// A tracker that keeps the files of `<dir>/files`, with its catalogue in `<dir>/state`.
#[track_caller]
pub fn keeper(dir: &Path, extra: &[&str]) -> Program {
    let (files, state) = (subfolder(dir, "files"), dir.join("state"));
    let keep = ["--files", files.to_str().unwrap(), "--state", state.to_str().unwrap()];
    tracker(dir, &[&keep[..], &QUICK, extra].concat())
}

/// The folder of a volunteer.
pub fn folder_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

/// A volunteer that has been welcomed when this returns.
#[track_caller]
pub fn volunteer(dir: &Path, name: &str, tracker: SocketAddr, extra: &[&str]) -> Program {
    let folder = subfolder(dir, name);
    let lend: &[&str] = if extra.contains(&"--volunteer") { &[] } else { &["--volunteer", "1GiB"] };
    let program = client(dir, &folder, name, tracker, &[lend, extra].concat());
    program.wait_for_text(" of storage, ");
    program
}

/// A client that gets files and ends.
pub fn getter(dir: &Path, name: &str, tracker: SocketAddr, files: &[&str]) -> Program {
    let wishes: Vec<&str> = files.iter().flat_map(|file| ["--get", file]).collect();
    client(dir, &subfolder(dir, name), name, tracker, &wishes)
}

/// How everything is now; `None` when the tracker does not answer.
pub fn status(tracker: SocketAddr) -> Option<Status> {
    lookup::status(tracker, &Shutdown::new()).ok()
}

/// Asks until what is told is as wanted, and returns that.
#[track_caller]
pub fn wait_status(tracker: SocketAddr, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < PATIENCE {
        if let Some(status) = status(tracker) {
            if wanted(&status) {
                return status;
            }
            last = Some(status);
        }
        // Between two questions, not for luck: what is waited for is what the answer says.
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("never {what}: {last:#?}");
}

/// Waits until so many files are kept and every wanted copy is there and verified.
#[track_caller]
pub fn wait_safe(tracker: SocketAddr, files: u64) -> Status {
    wait_status(tracker, "safe", |status| is_safe(status, files))
}

/// So many files, and every wanted copy is there and verified.
pub fn is_safe(status: &Status, files: u64) -> bool {
    let copies = &status.copies;
    status.files_known == files && copies.short == 0 && copies.wanted > 0 && copies.verified >= copies.wanted
}

/// A file, as a status tells of it.
#[track_caller]
pub fn file<'a>(status: &'a Status, name: &str) -> &'a FileStatus {
    let name = FileName::new(name).unwrap();
    status.files.iter().find(|file| file.name == name).unwrap_or_else(|| panic!("no {name} in {status:#?}"))
}

/// A volunteer, as a status tells of it.
#[track_caller]
pub fn of<'a>(status: &'a Status, name: &str) -> &'a VolunteerStatus {
    let volunteer = status.volunteers.iter().find(|volunteer| volunteer.name.as_str() == name);
    volunteer.unwrap_or_else(|| panic!("no {name} in {status:#?}"))
}

/// How many volunteers are here.
pub fn here(status: &Status) -> usize {
    status.volunteers.iter().filter(|volunteer| volunteer.state == VolunteerState::Here).count()
}

/// The chunk files that a volunteer has on its disk.
pub fn chunk_files(folder: &Path) -> Vec<PathBuf> {
    let store = folder.join(".volunteer");
    let Ok(files) = std::fs::read_dir(store) else { return Vec::new() };
    let folders = files.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let mut chunks = Vec::new();
    for folder in folders {
        // It may be removed meanwhile.
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        chunks.extend(paths.filter(|path| is_number(path)));
    }
    chunks
}

fn is_number(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
}
