//! Several files: names, ids, patterns and all files, their folder, their exit code, and the command for each.

use crate::common::*;
use shoal::content::limits::CHUNK_SIZE;
use std::path::Path;

/// A tracker and one seeder for each file.
fn shared(dir: &Path, files: &[(&str, &[u8])]) -> (Program, Vec<Program>) {
    let tracker = tracker(dir, &[]);
    let there = subfolder(dir, "shared");
    let seeders = files.iter().enumerate().map(|(number, (name, bytes))| {
        let name = format!("seeder-of-{number}@{name}");
        let path = write(&subfolder(&there, &number.to_string()), files[number].0, bytes);
        seeder(dir, &path, &tracker, &["--name", &name.replace(['.', '@', ' '], "-")])
    });
    let seeders = seeders.collect();
    (tracker, seeders)
}

/// The id that a seeder prints.
fn id_of(bytes: &[u8]) -> String {
    wire::Whole::new(bytes.to_vec(), CHUNK_SIZE).id().to_string()
}

/// Names of the files in a folder, without the log.
fn downloaded(folder: &Path) -> Vec<String> {
    names_in(folder).into_iter().filter(|name| name != "logs.log").collect()
}

#[test]
fn names_ids_and_patterns_are_downloaded_once_each_into_a_folder() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let files: Vec<(String, Vec<u8>)> = (0..4)
        .map(|number| {
            (["a.iso", "b.iso", "c.txt", "d.bin"][number].to_owned(), random_bytes(number as u64, 70_000))
        })
        .collect();
    let named: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let (tracker, _seeders) = shared(dir, &named);
    let out = subfolder(&there, "out");
    let id = id_of(&files[2].1);
    let args = ["a.iso", &id[..8], "*.iso", "[ab].iso", "a.iso", &id, "--out", "out"];
    let mut leecher = leecher(&there, tracker.address(), &args);
    leecher.ends_with(0);
    assert_eq!(downloaded(&out), ["a.iso", "b.iso", "c.txt"]);
    for (name, bytes) in &files[..3] {
        assert_holds(&out.join(name), bytes);
    }
    // Each file is downloaded once, over one port.
    for name in ["a.iso", "b.iso", "c.txt"] {
        let line = format!("Successfully downloaded {name}");
        let printed: Vec<String> = leecher.stdout().into_iter().filter(|text| *text == line).collect();
        assert_eq!(printed.len(), 1, "{name}");
    }
    let listening = leecher.lines().iter().filter(|line| line.contains("leecher listening on")).count();
    assert_eq!(listening, 1);
}

#[test]
fn all_files_are_downloaded_except_hidden_ones() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let files: [(&str, &[u8]); 3] = [("a.iso", b"one"), ("b c.txt", b"two"), (".hidden", b"three")];
    let (tracker, _seeders) = shared(dir, &files);
    let mut all = leecher(&there, tracker.address(), &["--all"]);
    all.ends_with(0);
    assert_eq!(downloaded(&there), ["a.iso", "b c.txt"]);
    // A pattern that begins with a dot selects the name, which still needs a path of the user.
    let mut hidden = leecher(&there, tracker.address(), &[".h*"]);
    hidden.ends_with(2);
    hidden.wait_for_text("the file is named .hidden, which would be hidden");
    let mut renamed = leecher(&there, tracker.address(), &["a.iso", "--as", ".seen"]);
    renamed.ends_with(0);
    assert_holds(&there.join(".seen"), b"one");
}

#[test]
fn a_failed_file_does_not_stop_the_others_and_gives_the_exit_code() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let files: [(&str, &[u8]); 2] = [("a.iso", b"one"), ("b.iso", b"two")];
    let (tracker, _seeders) = shared(dir, &files);
    write(&there, "b.iso", b"other");
    let mut differs = leecher(&there, tracker.address(), &["b.iso", "a.iso"]);
    differs.ends_with(13);
    differs.wait_for_text("1 of 2 downloads failed");
    assert_holds(&there.join("a.iso"), b"one");
    assert_holds(&there.join("b.iso"), b"other");
    // The missing file is the last failure: it is tried again at the end.
    let args = ["none.iso", "*.zip", "b.iso", "a.iso", "--wait", "1"];
    let mut missing = leecher(&there, tracker.address(), &args);
    missing.ends_with(3);
    missing.wait_for_text("3 of 4 downloads failed");
    missing.wait_for_text("no file matches *.zip; list the offered files with: leecher --list");
    missing
        .wait_for_text("none.iso not found: no peer offers it; list the offered files with: leecher --list");
    for item in ["*.zip", "none"] {
        let mut one = leecher(&there, tracker.address(), &[item, "--wait", "0"]);
        one.ends_with(3);
        assert!(!one.has_said("downloads failed"));
    }
}

#[test]
fn a_pattern_waits_for_a_file_that_matches() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let tracker = tracker(dir, &[]);
    let mut leecher = leecher(&there, tracker.address(), &["*.iso"]);
    leecher.wait_for_text("no file matches *.iso; waiting 60 s for it (--wait 0 ends at once)");
    let _seeder = seeder(dir, &write(dir, "late.iso", b"late"), &tracker, &[]);
    leecher.ends_with(0);
    assert_holds(&there.join("late.iso"), b"late");
}

#[test]
fn several_files_need_a_folder_and_keep_their_names() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let (tracker, _seeders) = shared(dir, &[("a.iso", b"one"), ("b.iso", b"two")]);
    write(&there, "file", b"x");
    for (args, code, text) in [
        (&["a.iso", "b.iso", "--out", "none"][..], 17, "none is not a folder; create it with: mkdir -p none"),
        (&["*", "--out", "file"], 17, "file is not a folder"),
        (&["a.iso", "b.iso", "--as", "c"], 2, "--as names one file"),
        (&["a.iso", "--as", "c", "--out", "file"], 17, "file is not a folder"),
        (&["a.iso", "b.iso", "--id", "01234567"], 2, "--id belongs to one file name"),
    ] {
        let mut refused = leecher(&there, tracker.address(), args);
        refused.ends_with(code);
        refused.wait_for_text(text);
    }
    let mut renamed = leecher(&there, tracker.address(), &["a.iso", "--as", "c"]);
    renamed.ends_with(0);
    assert_eq!(downloaded(&there), ["c", "file"]);
}

#[test]
fn a_name_with_several_ids_is_an_error_for_a_pattern() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let (tracker, _seeders) = shared(dir, &[("a.iso", b"one"), ("a.iso", b"two"), ("b.iso", b"three")]);
    let mut ambiguous = leecher(&there, tracker.address(), &["*.iso", "--overwrite"]);
    ambiguous.ends_with(2);
    ambiguous.wait_for_text("2 different files are called a.iso; choose one with --id");
    assert_eq!(downloaded(&there), ["b.iso"]);
}

#[test]
fn a_leecher_serves_its_completed_files_while_it_downloads_others() {
    let place = place();
    let (dir, there, other) =
        (place.path(), subfolder(place.path(), "there"), subfolder(place.path(), "other"));
    let tracker = tracker(dir, &[]);
    let (first, second) = (random_bytes(1, 100_000), random_bytes(2, 4 << 20));
    let fast = seeder(dir, &write(dir, "first", &first), &tracker, &["--name", "fast"]);
    let slow = ["--name", "slow", "--upload-limit", "64KiB", "--chunk-size", "16KiB"];
    let _slow = seeder(dir, &write(dir, "second", &second), &tracker, &slow);
    let leeches = leecher(&there, tracker.address(), &["first", "second", "--name", "relay"]);
    leeches.wait_for_text("Successfully downloaded first");
    tracker.wait_for_text("relay has 2 of 2 chunks of first");
    drop(fast);
    tracker.wait_for_text("fast");
    let mut last = leecher(&other, tracker.address(), &["first"]);
    last.ends_with(0);
    assert_holds(&other.join("first"), &first);
    assert!(!leeches.has_said("Successfully downloaded second"), "the relay is still downloading");
}

#[test]
fn a_command_runs_for_each_completed_file_and_its_failure_is_the_exit_code() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let (tracker, _seeders) = shared(dir, &[("a.iso", b"one"), ("b c.iso", b"two")]);
    let command = r#"cat; echo "$SHOAL_PATH|$SHOAL_NAME|$SHOAL_ID" >> list"#;
    // The first run downloads one file; the second finds it complete.
    for args in [&["a.iso"][..], &["*.iso"]] {
        let args = [args, &["--on-complete", command]].concat();
        leecher(&there, tracker.address(), &args).ends_with(0);
    }
    let line = |name: &str, bytes: &[u8]| {
        let path = there.canonicalize().unwrap().join(name);
        format!("{}|{name}|{}\n", path.display(), id_of(bytes))
    };
    let (a, b) = (line("a.iso", b"one"), line("b c.iso", b"two"));
    assert_eq!(std::fs::read_to_string(there.join("list")).unwrap(), [&*a, &*a, &*b].concat());
    let mut fails = leecher(&there, tracker.address(), &["*.iso", "--on-complete", "exit 7"]);
    fails.ends_with(1);
    fails.wait_for_text("the command of --on-complete for a.iso ended with code 7");
    fails.wait_for_text("the command of --on-complete for b c.iso ended with code 7");
    fails.wait_for_text("--on-complete failed: exit 7");
    // The code of a failed download comes first.
    let args = ["a.iso", "none", "--wait", "0", "--on-complete", "exit 7"];
    leecher(&there, tracker.address(), &args).ends_with(3);
}

#[test]
fn a_terminal_shows_a_bar_for_each_file_and_the_total() {
    let place = place();
    let (dir, there) = (place.path(), subfolder(place.path(), "there"));
    let folder = subfolder(dir, "folder");
    let tracker = tracker(dir, &[]);
    let limited = ["--upload-limit", "128KiB", "--chunk-size", "16KiB"];
    let _one = seeder(dir, &write(dir, "a.iso", &random_bytes(1, 256 << 10)), &tracker, &limited);
    let _two = seeder(dir, &write(dir, "b.iso", &random_bytes(2, 256 << 10)), &tracker, &limited);
    let at = tracker.address().to_string();
    let mut leecher = terminal::AtTerminal::start(&there, "leecher", &["*.iso", "--tracker", &at]);
    leecher.wait_for_all(&["a.iso  ", "total: 0 of 2 files  ", " of 512.0 KiB"]);
    leecher.wait_for_all(&["b.iso  ", "total: 1 of 2 files  "]);
    assert_eq!(leecher.exit_code(PATIENCE), Some(0));
    let client = ["--tracker", &at, "--get", "*.iso"];
    let mut client = terminal::AtTerminal::client(dir, &folder, "anna", &client);
    client.wait_for_all(&["a.iso  ", "b.iso  ", "total: 0 of 2 files  "]);
    assert_eq!(client.exit_code(PATIENCE), Some(0));
}

#[test]
fn a_client_downloads_names_ids_patterns_and_all_files() {
    let place = place();
    let dir = place.path();
    let files: [(&str, &[u8]); 3] = [("a.iso", b"one"), ("b.iso", b"two"), ("c.txt", b"three")];
    let (tracker, _seeders) = shared(dir, &files);
    let at = tracker.address().to_string();
    let run = |name: &str, args: &[&str], code: i32, names: &[&str]| {
        let folder = subfolder(dir, name);
        let mut client = plain(dir, &folder, name, &[&["--tracker", &at, "--wait", "1"], args].concat());
        client.ends_with(code);
        assert_eq!(names_in(&folder), names, "{args:?}");
        client
    };
    let id = id_of(b"three");
    run("one", &["--get", "a.iso", &id[..8], "*.iso", "--get", "a.iso"], 0, &["a.iso", "b.iso", "c.txt"]);
    run("two", &["--all"], 0, &["a.iso", "b.iso", "c.txt"]);
    let none = run("three", &["--get", "*.zip", "none", "b.iso"], 3, &["b.iso"]);
    none.wait_for_text("no file matches *.zip; list the offered files with: leecher --list");
    none.wait_for_text("2 of 3 downloads failed");
    let list = dir.join("list");
    let command = format!("echo $SHOAL_NAME >> '{}'; exit 3", list.display());
    let fails = run("four", &["--get", "*.iso", "--on-complete", &command], 1, &["a.iso", "b.iso"]);
    fails.wait_for_text("the command of --on-complete for a.iso ended with code 3");
    let chunks = chunk_folder(dir, "chunks", 1, &[(1, b"x")]);
    let mut refused = client(dir, &chunks, "five", tracker.address(), &["--on-complete", "true"]);
    refused.ends_with(2);
    refused.wait_for_text("--on-complete are for plain folders");
    let mut names: Vec<String> =
        std::fs::read_to_string(list).unwrap().lines().map(ToOwned::to_owned).collect();
    names.sort();
    assert_eq!(names, ["a.iso", "b.iso"]);
}
