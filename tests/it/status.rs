//! The status of trackers without files of their own, and of managers.

use crate::common::*;

#[test]
fn a_tracker_without_files_shows_its_peers_and_their_files() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "a.bin", &random_bytes(1, 1 << 20));
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let at = tracker.address().to_string();
    let mut status = Program::start("tracker", &["status", "--tracker", &at], dir);
    status.ends_with(0);
    status.wait_for("the peers", |line| line == "peers       1 registered");
    status.wait_for("the files", |line| line == "files       1 file, 1.0 MiB");
    status.wait_for("the table", |line| line.starts_with("a.bin  1.0 MiB"));
    let mut status = Program::start("tracker", &["status", "--json", "--tracker", &at], dir);
    status.ends_with(0);
    let told: serde_json::Value = serde_json::from_str(&status.stdout()[1]).unwrap();
    assert_eq!(told["type"], "status");
    assert_eq!((&told["kind"], &told["peers_known"]), (&"tracker".into(), &1.into()), "{told}");
    assert_eq!(told["offered_files"][0]["name"], "a.bin", "{told}");
}

#[test]
fn a_manager_shows_its_peers() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let folder = subfolder(dir, "folder");
    let _member = member(dir, &folder, "anna", manager.address(), &[]);
    let at = manager.address().to_string();
    let mut status = Program::start("manager", &["status", "--manager", &at], dir);
    status.ends_with(0);
    status.wait_for("the peers", |line| line == "peers       1 registered");
    status.wait_for("the table", |line| line.starts_with("anna  127.0.0.1:"));
}
