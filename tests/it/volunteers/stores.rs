//! Stores whose disk is not mounted, is unmounted during a run, or was wiped; announced absences.

use super::{assert_does_not_serve, assert_serves, chunk_path, file, holder, volunteer};
use crate::common::scripted::*;
use crate::common::wire::*;
use crate::common::*;
use shoal::content::ChunkIndex;
use shoal::protocol::peer::PeerRequest;
use shoal::protocol::tracker::TrackerRequest;
use shoal::protocol::volunteer::VolunteerReport;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit code of a file or folder that cannot be used.
const FILE_ACCESS: i32 = 17;

/// A disk: the folder `backing`, at the mount point `path` while it is mounted. Where the user may not mount, the folder
/// is moved there and back.
struct Disk {
    path: PathBuf,
    backing: PathBuf,
    is_mounted: bool,
    can_mount: bool,
}

impl Disk {
    fn new(dir: &Path) -> Self {
        let (path, backing) = (subfolder(dir, "disk"), subfolder(dir, "backing"));
        let mut disk = Self { path, backing, is_mounted: false, can_mount: true };
        disk.mount();
        disk
    }

    fn run(program: &str, args: &[&Path]) -> bool {
        Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
    }

    fn mount(&mut self) {
        self.can_mount &= Self::run("mount", &[Path::new("--bind"), &self.backing, &self.path]);
        if !self.can_mount {
            std::fs::remove_dir(&self.path).unwrap();
            std::fs::rename(&self.backing, &self.path).unwrap();
        }
        self.is_mounted = true;
    }

    fn unmount(&mut self) {
        match self.can_mount {
            true => assert!(Self::run("umount", &[Path::new("-l"), &self.path])),
            false => {
                std::fs::rename(&self.path, &self.backing).unwrap();
                std::fs::create_dir(&self.path).unwrap();
            }
        }
        self.is_mounted = false;
    }

    fn store(&self) -> String {
        self.path.join("store").to_str().unwrap().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted && self.can_mount {
            let _ = Self::run("umount", &[Path::new("-l"), &self.path]);
        }
    }
}

#[test]
fn a_volunteer_whose_disk_is_not_mounted_refuses_to_start() {
    let place = place();
    let dir = place.path();
    let mut disk = Disk::new(dir);
    let store = disk.store();
    let lend = |extra: &[&str]| {
        ["--volunteer", "1MiB", "--volunteer-dir", &store]
            .into_iter()
            .chain(extra.iter().copied())
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let tracker = ScriptedTracker::start();
    let start = |extra: &[&str]| {
        let flags = lend(extra);
        volunteer(dir, "ann", &tracker, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let stop = |mut client: Program, session: Session| {
        client.interrupt();
        session.says_goodbye();
        client.ends_with(0);
    };
    let client = start(&[]);
    let (session, _) = tracker.volunteer();
    let key = session.key;
    stop(client, session);
    let marker = std::fs::read_to_string(disk.path.join("store/store-id")).unwrap();
    disk.unmount();
    let mut client = start(&[]);
    client.ends_with(FILE_ACCESS);
    let line = client.wait_for_text("--new-store");
    assert!(line.contains(&store) && line.contains(&marker[..12]), "{line}");
    assert_eq!(names_in(&disk.path), [""; 0]);
    disk.mount();
    let client = start(&[]);
    let (session, _) = tracker.volunteer();
    assert!(session.key == key);
    stop(client, session);
    disk.unmount();
    let client = start(&["--new-store"]);
    let (session, _) = tracker.volunteer();
    assert!(session.key != key);
    stop(client, session);
    // The new store is remembered in place of the old one.
    let client = start(&[]);
    let (session, _) = tracker.volunteer();
    stop(client, session);
}

#[test]
fn a_store_that_disappears_ends_the_offer_until_it_is_back() {
    let place = place();
    let dir = place.path();
    let mut disk = Disk::new(dir);
    let store = disk.store();
    let (whole, kept) = file(1, 4);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let mut client = volunteer(dir, "ann", &tracker, &["--volunteer-dir", &store, "--away", "14h"]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1], source.address);
    let key = session.key;
    disk.unmount();
    let line = client.wait_for_text("is not available");
    assert!(line.contains(&store) && line.contains("ERROR") && line.contains("No such file"), "{line}");
    // No chunk is reported as lost, and there is no goodbye: the announced absence does not apply.
    while let Some(request) = session.request() {
        assert!(!matches!(request, TrackerRequest::Goodbye { .. }), "a goodbye");
        let TrackerRequest::Volunteer { act, .. } = request else { continue };
        assert!(!matches!(act, VolunteerReport::Spoiled { .. }), "{act:?}");
    }
    let mut session = tracker.registers();
    assert_does_not_serve(session.address, &whole, 0);
    assert_eq!(names_in(&disk.path), [""; 0]);
    disk.mount();
    client.wait_for_text("the store is back");
    let held = session.report();
    let chunks: BTreeSet<_> = [(whole.id(), 0), (whole.id(), 1)].into();
    assert!(session.key == key);
    assert_eq!(held.checked.union(&held.unchecked).copied().collect::<BTreeSet<_>>(), chunks);
    let mut verified = held;
    while verified.checked != chunks {
        match session.said() {
            VolunteerReport::Holds { kept, held, checked } => verified.note(&kept, &held, checked),
            other => panic!("{other:?}"),
        }
    }
    assert_serves(session.address, &whole, 1);
    session.copy(&kept, &[2], source.address);
    client.interrupt();
    session.says_goodbye();
    client.ends_with(0);
    let errors = client.lines().iter().filter(|line| line.contains(" - ERROR - ")).count();
    assert_eq!(errors, 1, "one error for one absence");
}

#[test]
fn a_removed_store_is_not_created_again() {
    let place = place();
    let dir = place.path();
    let (whole, kept) = file(1, 4);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let client = volunteer(dir, "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0], source.address);
    let store = dir.join("ann/.volunteer");
    std::fs::rename(&store, dir.join("aside")).unwrap();
    let (other, entry) = file(2, 2);
    let source = holder(&other);
    // Whether the order or the watch comes first: no chunk is stored.
    session.order_copy(&entry, 0, source.address);
    client.wait_for_text("is not available");
    while let Some(request) = session.request() {
        let TrackerRequest::Volunteer { act, .. } = request else { continue };
        assert!(!matches!(act, VolunteerReport::Stored { .. } | VolunteerReport::Spoiled { .. }), "{act:?}");
    }
    assert!(!store.exists());
}

#[test]
fn a_wiped_store_reports_all_its_chunks_after_the_first_missing_one() {
    let place = place();
    let dir = place.path();
    let (whole, kept) = file(1, 6);
    let (tracker, source) = (ScriptedTracker::start(), holder(&whole));
    let client = volunteer(dir, "ann", &tracker, &[]);
    let (mut session, _) = tracker.volunteer();
    session.copy(&kept, &[0, 1, 2, 3, 4, 5], source.address);
    // All but the marker and the key.
    std::fs::remove_dir_all(chunk_path(dir, "ann", &kept, 0).parent().unwrap()).unwrap();
    let file = whole.id();
    PeerClient::connect(session.address).ask(&PeerRequest::Chunk { file, index: ChunkIndex(4) });
    client.wait_for_text("5 chunks of file 1 disappeared from the replica store");
    let mut spoiled = BTreeSet::new();
    while spoiled.len() < 6 {
        match session.answer() {
            VolunteerReport::Spoiled { file, chunks, .. } => {
                assert_eq!(file, kept.file.id);
                spoiled.extend(chunks);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(spoiled, (0..6).map(ChunkIndex).collect());
}

#[test]
fn an_announced_absence_is_part_of_the_storage_offer() {
    let place = place();
    let dir = place.path();
    let tracker = ScriptedTracker::start();
    for (name, flags, wanted) in [("ann", &["--away", "14h"][..], Some(50_400)), ("bob", &[], None)] {
        let mut client = volunteer(dir, name, &tracker, flags);
        let (session, _) = tracker.volunteer();
        assert_eq!(session.away_s, wanted);
        client.interrupt();
        session.says_goodbye();
        client.ends_with(0);
    }
}

#[test]
fn an_unwritable_state_folder_is_one_warning() {
    let place = place();
    let dir = place.path();
    // A file at the place of the folder also stops root.
    write(&subfolder(dir, ".state-home"), "shoal", b"");
    let tracker = ScriptedTracker::start();
    let mut client = volunteer(dir, "ann", &tracker, &[]);
    let (session, _) = tracker.volunteer();
    client.interrupt();
    session.says_goodbye();
    client.ends_with(0);
    let warnings: Vec<String> =
        client.lines().into_iter().filter(|line| line.contains(" - WARNING - ")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("cannot remember the store"), "{warnings:?}");
}
