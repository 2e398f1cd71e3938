//! Files that a member shares: those of its folder, received ones, and the chunks of incomplete ones.

use super::{folder, getter, holder, id_of, whole};
use crate::common::wire::PeerClient;
use crate::common::*;
use shoal::content::limits::CHUNK_SIZE;
use shoal::content::{ChunkIndex, Digest};
use shoal::net::{Shutdown, Timeouts};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use shoal::tracker_client::lookup::list;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_received_file_is_shared_immediately() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let bytes = random_bytes(2, 2 * CHUNK_SIZE as usize + 7);
    let mut first = holder(dir, "first", &[("f", &bytes)], at, &[]);
    let second = getter(dir, "second", at, &["f"], &["--stay"]);
    second.wait_for_text("Successfully downloaded f");
    first.kill9();
    manager.wait_for_text("first at ");
    getter(dir, "third", at, &["f"], &[]).ends_with(0);
    assert_holds(&dir.join("third/f"), &bytes);
}

#[test]
fn a_member_serves_the_chunks_of_an_incomplete_file() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let bytes = random_bytes(3, 8 * CHUNK_SIZE as usize);
    let first = holder(dir, "first", &[("f", &bytes)], at, &["--upload-limit", "100KB"]);
    let second = getter(dir, "second", at, &["f"], &["--stay", "-v"]);
    first.wait_for_count("serving chunk", 3);
    // Until the third one has been served by the second.
    first.pause();
    let mut third = getter(dir, "third", at, &["f"], &[]);
    second.wait_for_text("serving chunk");
    assert!(!second.has_said("Download complete"), "it served no chunk before its download was complete");
    first.resume();
    third.ends_with(0);
    second.wait_for_text("Successfully downloaded f");
    assert_holds(&dir.join("second/f"), &bytes);
    assert_holds(&dir.join("third/f"), &bytes);
}

#[test]
fn new_changed_renamed_and_removed_files_are_detected() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let old = random_bytes(5, 3 * CHUNK_SIZE as usize);
    let holder = holder(dir, "holder", &[], at, &[]);
    let there = dir.join("holder");
    holder.wait_for_text(" has no files to share; files that are put there will be shared");
    getter(dir, "early", at, &["f"], &["--wait", "0"]).ends_with(3);
    // A member that waits for the file downloads it when it appears.
    let mut waits = getter(dir, "waits", at, &["f"], &["--wait", "100"]);
    waits.wait_for_text("other peer");
    write(&there, "f", &old);
    waits.ends_with(0);
    assert_holds(&dir.join("waits/f"), &old);
    // Overwritten in place with the same size: a chunk of the old file is never served with new bytes.
    let mut connection = PeerClient::connect(holder.address());
    let (old_id, index) = (id_of(&old), ChunkIndex(1));
    let chunk = PeerRequest::Chunk { file: old_id, index };
    let (answer, payload) = connection.ask(&chunk);
    assert!(matches!(answer, PeerResponse::Chunk { .. }));
    assert_eq!(Some(Digest::of(&payload)), whole(&old).manifest.digest(index));
    let new = random_bytes(6, old.len());
    write(&there, "f", &new);
    let (answer, _) = connection.ask(&chunk);
    assert!(
        matches!(answer, PeerResponse::Error { code: ErrorCode::Changed | ErrorCode::NotFound, .. }),
        "{answer:?}"
    );
    holder.wait_for_text("stopped sharing f: it was changed or removed");
    holder.wait_for_text(&format!("- sharing f, {} bytes, id {}", new.len(), id_of(&new)));
    assert!(matches!(connection.ask(&chunk).0, PeerResponse::Error { code: ErrorCode::NotFound, .. }));
    getter(dir, "old", at, &[&old_id.to_string()], &["--wait", "0"]).ends_with(3);
    getter(dir, "new", at, &["f"], &[]).ends_with(0);
    assert_holds(&dir.join("new/f"), &new);
    // A renamed file is offered under its new name; a removed file is not offered.
    std::fs::rename(there.join("f"), there.join("g")).unwrap();
    holder.wait_for_text("- sharing g, ");
    assert_eq!(connection.names(), ["g"]);
    getter(dir, "by-id", at, &[&id_of(&new).to_string()], &[]).ends_with(0);
    assert_holds(&dir.join("by-id/g"), &new);
    std::fs::remove_file(there.join("g")).unwrap();
    holder.wait_for_text("- stopped sharing g: ");
    assert!(connection.files().is_empty());
    getter(dir, "late", at, &["g"], &["--wait", "0"]).ends_with(3);
}

#[test]
fn hidden_partial_and_linked_files_are_not_shared() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let outside = write(dir, "secret", b"outside of the folder");
    let there = folder(
        dir,
        "holder",
        &[("plain", b"a"), (".hidden", b"b"), ("x.part", b"c"), (".y.part", b"d"), ("a\nb", b"e")],
    );
    write(&subfolder(&there, "sub"), "inner", b"f");
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, there.join(name)).unwrap();
    link(&outside, "leads-out");
    link(Path::new("plain"), "leads-in");
    link(Path::new("nowhere"), "leads-nowhere");
    link(Path::new(".hidden"), "leads-to-hidden");
    link(Path::new("sub"), "leads-to-a-folder");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        there.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let holder = member(dir, &there, "holder", at, &[]);
    holder.wait_for_text("- sharing plain, ");
    holder.wait_for_text("- sharing leads-in, ");
    // A sub-folder is an item of its own; a link to it is not.
    holder.wait_for_text("- sharing folder sub, ");
    let reason = |name: &str, why: &str| {
        holder.wait_for_text(&format!("- {name} is not shared: {why}"));
    };
    reason("leads-out", "the target of the link is outside the folder");
    reason("x.part", "its name ends in .part");
    reason("pipe", "not a regular file");
    // The rules also apply to files that are found by a later scan of the folder.
    write(&there, ".late", b"g");
    write(&there, "late.part", b"h");
    write(&there, "late", b"i");
    holder.wait_for_text("- sharing late, ");
    assert_eq!(PeerClient::connect(holder.address()).names(), ["late", "leads-in", "plain", "sub"]);
    for name in [".hidden", "x.part", "secret", "leads-out", "inner", "pipe"] {
        getter(dir, "gets", at, &[name], &["--wait", "0"]).ends_with(3);
    }
    let bytes = std::fs::read(&outside).unwrap();
    getter(dir, "gets", at, &[&id_of(&bytes).to_string()], &["--wait", "0"]).ends_with(3);
    assert!(names_in(&dir.join("gets")).is_empty());
}

#[test]
fn a_member_does_not_share_its_own_log() {
    let place = place();
    let manager = manager(place.path(), &[]);
    let here = folder(place.path(), "here", &[("f", b"x")]);
    let holder = member(&here, Path::new("."), "holder", manager.address(), &[]);
    holder.wait_for_text("logs.log is not shared: it is the log of this program");
    holder.wait_for_text("- sharing f, ");
    write(&here, "g", b"y");
    holder.wait_for_text("- sharing g, ");
    assert_eq!(PeerClient::connect(holder.address()).names(), ["f", "g"]);
    // A download is stored in the folder that `.` names.
    let _other = self::holder(place.path(), "other", &[("h", b"z")], manager.address(), &[]);
    let mut gets = start_member(
        &subfolder(place.path(), "gets"),
        Path::new("."),
        "gets",
        manager.address(),
        &["--get", "h"],
    );
    gets.ends_with(0);
    assert_holds(&place.path().join("gets/h"), b"z");
}

#[test]
fn an_incomplete_download_is_offered_as_partial() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let bytes = random_bytes(7, 8 * CHUNK_SIZE as usize);
    let first = holder(dir, "first", &[("f", &bytes)], at, &["--upload-limit", "1MB"]);
    let second = getter(dir, "second", at, &["f"], &["--stay"]);
    first.wait_for_count("serving chunk", 2);
    let mut connection = PeerClient::connect(second.address());
    let offered = connection.files();
    assert_eq!(connection.names(), ["f"]);
    assert_eq!((offered[0].file.id, offered[0].file.chunks), (id_of(&bytes), 8));
    assert!(offered[0].held < 8 || second.has_said("Download complete"));
    second.wait_for_text("Successfully downloaded f");
    let offered = connection.files();
    assert_eq!((offered.len(), offered[0].held), (1, 8));
}

#[test]
fn equal_files_are_listed_and_found_under_both_names_until_each_is_removed() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let bytes = random_bytes(31, 1_000);
    let there = folder(dir, "holder", &[("one", &bytes), ("two", &bytes)]);
    let at = tracker.address().to_string();
    let _holder = plain(dir, &there, "holder", &["--plain", "--tracker", &at]);
    let list = |expected: &[&str]| {
        let names = || {
            let files = list(&tracker.address().into(), Timeouts::default(), &Shutdown::new()).unwrap();
            files.into_iter().map(|found| found.file.name.to_string()).collect::<Vec<_>>()
        };
        let began = Instant::now();
        while names() != expected {
            assert!(began.elapsed() < PATIENCE, "listed: {:?}", names());
            // Interval between requests; the test waits for the list, not for this time to pass.
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    list(&["one", "two"]);
    for name in ["one", "two"] {
        let out = dir.join(format!("got-{name}"));
        leecher(dir, tracker.address(), &[name, "--out", out.to_str().unwrap(), "-p", "0"]).ends_with(0);
        assert_holds(&out, &bytes);
    }
    std::fs::remove_file(there.join("one")).unwrap();
    list(&["two"]);
    std::fs::remove_file(there.join("two")).unwrap();
    list(&[]);
}

#[test]
fn names_that_are_valid_on_linux_are_shared_and_downloaded() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let names = ["2024-01-01 12:30.txt", "CON.txt", "why?.txt", "a*\"b\".txt", "C:\\x"];
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, name.as_bytes())).collect();
    let _holder = holder(dir, "holder", &files, at, &[]);
    getter(dir, "gets", at, &names, &[]).ends_with(0);
    names.iter().for_each(|name| assert_holds(&dir.join("gets").join(name), name.as_bytes()));
}

#[test]
fn a_file_that_is_not_shared_because_of_its_name_is_downloaded() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let file = write(dir, "x.part", b"content");
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let at = tracker.address().to_string();
    for _ in ["download", "present already"] {
        let args = ["--plain", "--tracker", &at, "--get", "x.part"];
        let mut gets = plain(dir, &subfolder(dir, "gets"), "gets", &args);
        gets.ends_with(0);
        assert!(gets.has_said("x.part is downloaded but not shared: its name ends in .part"));
        assert_holds(&dir.join("gets/x.part"), b"content");
    }
}

#[test]
fn a_client_that_downloads_says_that_it_shares_its_folder_and_shares_nothing_with_no_serve() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let bytes = random_bytes(7, 64 * CHUNK_SIZE as usize);
    let first = holder(dir, "first", &[("f", &bytes)], at, &["--upload-limit", "1MB"]);
    let there = |name: &str| folder(dir, name, &[("private", b"private")]);
    let get = |name: &str, extra: &[&str]| {
        start_member(dir, &there(name), name, at, &[&["--get", "f"], extra].concat())
    };
    let mut closed = get("closed", &["--no-serve"]);
    first.wait_for_text("serving chunk");
    assert!(PeerClient::connect(closed.address()).files().is_empty());
    closed.ends_with(0);
    assert!(!closed.has_said("sharing "));
    assert_holds(&dir.join("closed/f"), &bytes);
    let mut open = get("open", &[]);
    open.wait_for_text("are shared until the downloads end (--no-serve: no file is shared)");
    open.wait_for_text("- sharing private, ");
    open.ends_with(0);
}

#[test]
fn many_files_are_announced_in_batches_with_one_line_for_all_and_counted_above_the_limit() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &["--files-per-peer", "1500"]);
    let there = subfolder(dir, "holder");
    for number in 0..2_000 {
        let path = write(&there, &format!("{number:060}.txt"), format!("{number}").as_bytes());
        // Not just written: the first scan hashes all of them.
        let old = std::time::SystemTime::now() - Duration::from_secs(3_600);
        std::fs::File::options().append(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let at = tracker.address().to_string();
    let holder = plain(dir, &there, "holder", &["--plain", "--tracker", &at]);
    holder.wait_for_text("added 2,000 files, ");
    // Files that are offered while others are still hashed are announced before them.
    holder.wait_for_text(" files are not listed: the tracker on ");
    tracker.wait_for_text("- holder has announced 1,500 files");
    let listed = list(&tracker.address().into(), Timeouts::default(), &Shutdown::new()).unwrap();
    assert_eq!(listed.len(), 1_500);
    for (program, text) in [(&holder, "- sharing 00"), (&tracker, "holder has 1 of 1 chunks")] {
        assert!(!program.has_said(text), "a line for each file");
    }
    // A removed file makes place for another one.
    std::fs::remove_file(there.join(listed[0].file.name.as_str())).unwrap();
    holder.wait_for_text("499 of 1,999 files are not listed: ");
}

#[test]
fn a_small_file_is_shared_while_a_large_one_is_hashed() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let there = subfolder(dir, "holder");
    // A sparse file whose hashing takes longer than the test.
    std::fs::File::create(there.join("a-large")).unwrap().set_len(200 << 30).unwrap();
    write(&there, "small", b"small");
    let at = tracker.address().to_string();
    let holder = plain(dir, &there, "holder", &["--plain", "--tracker", &at]);
    tracker.wait_for_text("- holder has 1 of 1 chunks of small ");
    write(&there, "later", b"later");
    tracker.wait_for_text("- holder has 1 of 1 chunks of later ");
    assert!(!holder.has_said("sharing a-large"));
}

#[test]
fn the_files_of_shareable_files_are_shared_and_other_sub_folders_are_items() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let there = folder(dir, "holder", &[("top", b"top")]);
    write(&subfolder(&there, "shareable_files"), "inner", b"inner");
    ["a", "b"].iter().for_each(|name| _ = write(&subfolder(&there, name), "file", name.as_bytes()));
    let holder = member(dir, &there, "holder", at, &[]);
    holder.wait_for_text("- sharing folder a, ");
    holder.wait_for_text("- sharing folder b, ");
    holder.wait_for_text("- sharing inner, ");
    assert_eq!(PeerClient::connect(holder.address()).names(), ["a", "b", "inner", "top"]);
    // A sub-folder that changes is offered in its new version, and a removed one no longer.
    write(&there.join("a"), "another", b"file");
    holder.wait_for_text("stopped sharing a: it was changed or removed");
    holder.wait_for_count("- sharing folder a, ", 2);
    std::fs::remove_dir_all(there.join("b")).unwrap();
    holder.wait_for_text("stopped sharing b: it was changed or removed");
    assert_eq!(PeerClient::connect(holder.address()).names(), ["a", "inner", "top"]);
    getter(dir, "gets", at, &["inner", "top"], &[]).ends_with(0);
    assert_holds(&dir.join("gets/inner"), b"inner");
    assert_holds(&dir.join("gets/top"), b"top");
}
