//! Seeders to a leecher: what arrives, where, and what is said about it.

mod common;

use common::*;
use std::path::Path;

/// A download that must succeed.
#[track_caller]
fn fetch(dir: &Path, tracker: &Program, args: &[&str]) -> Program {
    let mut leecher = leecher(dir, tracker.address(), args);
    leecher.ends_with(0);
    leecher
}

#[test]
fn one_seeder_suffices() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, 3 << 20);
    let file = write(dir, "a.bin", &bytes);
    let tracker = tracker(dir, &[]);
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let leecher = fetch(&there, &tracker, &["a.bin"]);
    assert_holds(&there.join("a.bin"), &bytes);
    assert_eq!(leecher.stdout(), ["Successfully downloaded a.bin"]);
    let lines = leecher.lines();
    let at =
        |text: &str| lines.iter().position(|line| line.ends_with(text)).unwrap_or_else(|| panic!("{text}"));
    let completed = at(" - INFO - All download threads completed");
    assert!(completed < at(" - INFO - Download complete. File size: 3145728 bytes"));
    assert_eq!(names_in(&there), ["a.bin", "logs.log"], "nothing else is left behind");
}
