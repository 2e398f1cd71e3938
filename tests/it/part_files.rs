//! Names of part files, and `leecher --clean`.

use crate::common::terminal::AtTerminal;
use crate::common::*;
use std::path::Path;

const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 100;

/// Starts a leecher of `a.bin` and returns it with its slow seeder when several chunks are stored.
fn download(dir: &Path, there: &Path, tracker: &Program) -> (Program, Program) {
    let slow = ["-v", "--chunk-size", "16KiB", "--upload-limit", "128KiB"];
    let seeder = seeder(dir, &dir.join("a.bin"), tracker, &slow);
    let leecher = leecher(there, tracker.address(), &["a.bin"]);
    // The resume file is written twice a second.
    seeder.wait_for_count("serving chunk", 20);
    (seeder, leecher)
}

fn clean(dir: &Path, args: &[&str]) -> Program {
    Program::start("leecher", &[&["--clean"], args].concat(), dir)
}

#[test]
fn the_part_file_of_another_program_is_kept_and_ours_is_resumed() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let bytes = random_bytes(1, CHUNKS * CHUNK);
    write(dir, "a.bin", &bytes);
    write(&there, "a.bin.part", b"theirs");
    let tracker = tracker(dir, &["--lease", "60"]);
    let (seeder, mut first) = download(dir, &there, &tracker);
    first.kill9();
    assert_eq!(names_in(&there), [".a.bin.2.part.resume", "a.bin.2.part", "a.bin.part", "logs.log"]);
    drop(seeder);
    let _fast = self::seeder(dir, &dir.join("a.bin"), &tracker, &["--chunk-size", "16KiB"]);
    let mut second = leecher(&there, tracker.address(), &["a.bin"]);
    second.ends_with(0);
    second.wait_for_text("resuming at ");
    assert_holds(&there.join("a.bin"), &bytes);
    assert_holds(&there.join("a.bin.part"), b"theirs");
    assert_eq!(names_in(&there), ["a.bin", "a.bin.part", "logs.log"]);
}

#[test]
fn permission_bits_travel_with_a_file_and_overwrite_keeps_those_of_the_target() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let file = write(dir, "a.bin", b"#!/bin/sh");
    let chmod = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    chmod(&file, 0o4750);
    let tracker = tracker(dir, &["--lease", "60"]);
    let _seeder = seeder(dir, &file, &tracker, &[]);
    leecher(&there, tracker.address(), &["a.bin"]).ends_with(0);
    // The usual umasks leave the bits of the owner.
    assert_eq!(mode(&there.join("a.bin")) & !0o077, 0o700);
    assert_eq!(mode(&there.join("a.bin")) & 0o027, 0);
    let target = write(&there, "a.bin", b"another");
    chmod(&target, 0o604);
    leecher(&there, tracker.address(), &["a.bin", "--overwrite"]).ends_with(0);
    assert_holds(&target, b"#!/bin/sh");
    assert_eq!(mode(&target), 0o604);
    // A member passes them on, too.
    let manager = manager(dir, &[]);
    let shared = subfolder(dir, "shared");
    chmod(&write(&shared, "tool", b"tool"), 0o700);
    let holder = member(dir, &shared, "holder", manager.address(), &[]);
    holder.wait_for_text("- sharing tool, ");
    let gets = subfolder(dir, "gets");
    let mut member = start_member(dir, &gets, "gets", manager.address(), &["--get", "tool"]);
    member.ends_with(0);
    assert_eq!(mode(&gets.join("tool")) & !0o077, 0o700);
}

#[test]
fn clean_removes_only_confirmed_and_unused_part_files() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    write(dir, "a.bin", &random_bytes(2, CHUNKS * CHUNK));
    write(&there, "film.part", b"theirs");
    let tracker = tracker(dir, &["--lease", "60"]);
    let (_seeder, mut active) = download(dir, &there, &tracker);
    let before = names_in(&there);
    assert!(before.contains(&"a.bin.part".to_owned()) && before.contains(&".a.bin.part.resume".to_owned()));
    let folder = there.to_str().unwrap();
    // In use.
    let mut kept = clean(dir, &[folder, "--yes"]);
    kept.ends_with(0);
    kept.wait_for_text("a.bin.part is kept: a program is downloading it");
    kept.wait_for_text("has no unused part files");
    assert_eq!(names_in(&there), before);
    active.kill9();
    // Not confirmed.
    let mut listed = clean(dir, &[folder]);
    listed.ends_with(2);
    let stdout = listed.stdout();
    assert!(stdout.len() == 1 && stdout[0].ends_with("/there/a.bin.part"), "{stdout:?}");
    listed.wait_for_text("this removes 1 part file, ");
    listed.wait_for_text("confirm it with --yes; nothing was removed");
    assert_eq!(names_in(&there), before);
    // The current folder is the default.
    let mut refused = AtTerminal::start(&there, "leecher", &["--clean"]);
    refused.wait_for("Continue? [y/N]");
    refused.press("n\n");
    assert_eq!(refused.exit_code(PATIENCE), Some(2));
    assert_eq!(names_in(&there), before);
    let mut confirmed = AtTerminal::start(&there, "leecher", &["--clean"]);
    confirmed.wait_for("Continue? [y/N]");
    confirmed.press("y\n");
    assert_eq!(confirmed.exit_code(PATIENCE), Some(0));
    assert_eq!(names_in(&there), ["film.part", "logs.log"]);
    clean(dir, &[folder, "--yes"]).ends_with(0);
    clean(dir, &["nowhere", "--yes"]).ends_with(17);
}
