//! Members with plain folders: all files in them are shared, files of other members are downloaded from all holders,
//! and received data is shared immediately.

use crate::common::wire::{PeerClient, RawPeer, Whole};
use crate::common::*;
use shoal::content::limits::{CHUNK_SIZE, HANDSHAKE_TIMEOUT};
use shoal::content::{ChunkIndex, Digest, FileId};
use shoal::protocol::ErrorCode;
use shoal::protocol::peer::{PeerRequest, PeerResponse};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The file that a member offers for these bytes, in chunks of the default size.
fn whole(bytes: &[u8]) -> Whole {
    Whole::new(bytes.to_vec(), CHUNK_SIZE)
}

fn id_of(bytes: &[u8]) -> FileId {
    whole(bytes).id()
}

/// Creates a folder with files.
fn folder(dir: &Path, name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = subfolder(dir, name);
    files.iter().for_each(|(name, bytes)| _ = write(&folder, name, bytes));
    folder
}

/// Starts a member that serves, and returns when all of its files are shared.
#[track_caller]
fn holder(dir: &Path, name: &str, files: &[(&str, &[u8])], manager: SocketAddr, extra: &[&str]) -> Program {
    let program = member(dir, &folder(dir, name, files), name, manager, &[&["-v"], extra].concat());
    files.iter().for_each(|(file, _)| _ = program.wait_for_text(&format!("- sharing {file}, ")));
    program
}

/// Starts a member with its own folder that downloads files and exits.
fn getter(dir: &Path, name: &str, manager: SocketAddr, files: &[&str], extra: &[&str]) -> Program {
    let wishes: Vec<&str> = files.iter().flat_map(|file| ["--get", file]).collect();
    start_member(dir, &subfolder(dir, name), name, manager, &[&wishes, extra].concat())
}

#[test]
fn three_members_with_a_third_of_the_files_each_end_with_all_files() {
    /// Total size, bytes: 256 MiB in nine files.
    const TOTAL_BYTES: usize = 256 << 20;
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let sets: Vec<Vec<(String, Vec<u8>)>> = (0..3)
        .map(|peer| {
            let file = |number: usize| {
                let number = 3 * peer + number;
                let length = TOTAL_BYTES / 9 + if number == 0 { TOTAL_BYTES % 9 } else { 0 };
                (format!("file_{number}"), random_bytes(number as u64, length))
            };
            (0..3).map(file).collect()
        })
        .collect();
    let all: Vec<&(String, Vec<u8>)> = sets.iter().flatten().collect();
    assert_eq!(all.iter().map(|(_, bytes)| bytes.len()).sum::<usize>(), TOTAL_BYTES);
    let mut peers = vec![];
    for (number, set) in sets.iter().enumerate() {
        let name = format!("peer{}", number + 1);
        let files: Vec<(&str, &[u8])> = set.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
        let folder = folder(dir, &name, &files);
        let missing = all.iter().filter(|file| !set.contains(file)).map(|(name, _)| name.as_str());
        let wishes: Vec<&str> = missing.flat_map(|name| ["--get", name]).collect();
        let extra = [&["--stay", "--wait", "100"], &wishes[..]].concat();
        peers.push((start_member(dir, &folder, &name, manager.address(), &extra), folder));
    }
    for (peer, folder) in &peers {
        for (name, bytes) in &all {
            peer.wait_for(&format!("that {name} is there"), |line| {
                line.ends_with(&format!("Successfully downloaded {name}"))
                    || line.contains(&format!("- sharing {name}, "))
            });
            assert_holds(&folder.join(name), bytes);
        }
        assert_eq!(names_in(folder).len(), all.len(), "{:?}", names_in(folder));
    }
    for (mut peer, _) in peers {
        peer.interrupt();
        peer.ends_with(0);
    }
}

#[test]
fn several_files_are_downloaded_in_parallel_and_one_failure_sets_the_exit_code() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let (big, empty) = (random_bytes(1, 3 * CHUNK_SIZE as usize + 1), vec![]);
    let files: [(&str, &[u8]); 3] = [("big", &big), ("empty", &empty), ("with blanks é", b"x")];
    let _holder = holder(dir, "holder", &files, at, &[]);
    getter(dir, "gets", at, &["big", "empty", "with blanks é"], &[]).ends_with(0);
    files.iter().for_each(|(name, bytes)| assert_holds(&dir.join("gets").join(name), bytes));
    assert_eq!(names_in(&dir.join("gets")).len(), 3, "the folder has exactly these files");
    // A file that does not exist does not block the others.
    let mut both = getter(dir, "both", at, &["nowhere", "big"], &["--wait", "0"]);
    both.ends_with(3);
    both.wait_for_text("nowhere not found: no peer offers it");
    both.wait_for_text("1 of 2 downloads failed");
    assert_holds(&dir.join("both/big"), &big);
    // A file that is complete already is not downloaded again.
    getter(dir, "gets", at, &["big"], &[]).ends_with(0);
}

#[test]
fn different_files_with_one_name_require_a_choice() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let (one, two) = (&b"one"[..], &b"number two"[..]);
    let holders = [("a", one), ("b", two), ("c", one)]
        .map(|(name, bytes)| holder(dir, name, &[("same.txt", bytes)], at, &[]));
    let addresses = holders.each_ref().map(Program::address);
    let mut unsure = getter(dir, "unsure", at, &["same.txt"], &[]);
    unsure.ends_with(2);
    unsure.wait_for_text("2 different files are called same.txt; choose one with get:");
    let held_by = |bytes: &[u8], addresses: &[SocketAddr]| {
        unsure.wait_for(&format!("the holders of {}", id_of(bytes)), |line| {
            line.contains(&format!("  get {}  {} bytes, held by ", id_of(bytes), bytes.len()))
                && addresses.iter().all(|address| line.contains(&address.to_string()))
        });
    };
    held_by(one, &[addresses[0], addresses[2]]);
    held_by(two, &[addresses[1]]);
    assert!(names_in(&dir.join("unsure")).is_empty());
    for (name, bytes) in [("one", one), ("two", two)] {
        getter(dir, name, at, &[&id_of(bytes).to_string()], &[]).ends_with(0);
        assert_holds(&dir.join(name).join("same.txt"), bytes);
    }
    getter(dir, "upper", at, &[&id_of(two).to_string().to_uppercase()], &[]).ends_with(0);
    assert_holds(&dir.join("upper/same.txt"), two);
    // An existing file with that name and other content is kept.
    let mut refused = getter(dir, "one", at, &[&id_of(two).to_string()], &[]);
    refused.ends_with(13);
    refused.wait_for_text("same.txt exists and is a different file; move it away");
    assert_holds(&dir.join("one/same.txt"), one);
}

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
    let first = holder(dir, "first", &[("f", &bytes)], at, &["--upload-limit", "1MB"]);
    let second = getter(dir, "second", at, &["f"], &["--stay", "-v"]);
    first.wait_for_count("serving chunk", 3);
    let mut third = getter(dir, "third", at, &["f"], &[]);
    second.wait_for_text("serving chunk");
    assert!(!second.has_said("Download complete"), "it served no chunk before its download was complete");
    third.ends_with(0);
    second.wait_for_text("Successfully downloaded f");
    assert_holds(&dir.join("second/f"), &bytes);
    assert_holds(&dir.join("third/f"), &bytes);
}

#[test]
fn a_killed_member_resumes() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let bytes = random_bytes(4, 10 * CHUNK_SIZE as usize);
    let first = holder(dir, "first", &[("f", &bytes)], at, &["--upload-limit", "2MB"]);
    let mut dies = getter(dir, "gets", at, &["f"], &["-v"]);
    first.wait_for_count("serving chunk", 8);
    dies.kill9();
    assert!(!dir.join("gets/f").exists());
    let mut again = getter(dir, "gets", at, &["f"], &[]);
    again.ends_with(0);
    again.wait_for_text("resuming at ");
    assert_holds(&dir.join("gets/f"), &bytes);
    // After an interrupt the exit code is 7.
    let mut stopped = getter(dir, "stopped", at, &["f"], &["-v"]);
    stopped.wait_for_text("which has 10 of 10 chunks");
    stopped.interrupt();
    stopped.ends_with(7);
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
    holder.wait_for_text("sharing 0 files");
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
    assert_eq!(PeerClient::connect(holder.address()).names(), ["late", "leads-in", "plain"]);
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
fn names_that_collide_on_other_systems_are_refused() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let (composed, decomposed) = ("caf\u{e9}.txt", "cafe\u{301}.txt");
    let files: [(&str, &[u8]); 3] = [("a.txt", b"theirs"), (composed, b"theirs, too"), ("STRASSE", b"x")];
    let _holder = holder(dir, "holder", &files, at, &[]);
    let mine = folder(dir, "gets", &[("A.txt", b"mine"), (decomposed, b"mine, too")]);
    subfolder(&mine, "strasse");
    for (name, there) in [("a.txt", "A.txt"), (composed, decomposed), ("STRASSE", "strasse")] {
        let mut refused = getter(dir, "gets", at, &[name], &[]);
        refused.ends_with(13);
        refused.wait_for_text(&format!("{name} and the existing {there} would be one file on systems"));
    }
    assert_holds(&mine.join("A.txt"), b"mine");
    assert_holds(&mine.join(decomposed), b"mine, too");
    assert_eq!(names_in(&mine), ["A.txt", decomposed, "strasse"]);
}

#[test]
fn a_member_may_use_a_tracker_and_a_manager() {
    let place = place();
    let dir = place.path();
    let (manager, tracker) = (manager(dir, &[]), tracker(dir, &[]));
    let (at, tracked) = (manager.address(), tracker.address().to_string());
    let (both, only) = (random_bytes(8, 100_000), b"of the tracker alone");
    let _both = holder(dir, "both", &[("b", &both)], at, &["--tracker", &tracked]);
    tracker.wait_for_text("both has 1 of 1 chunks of b");
    // A leecher finds the file through the tracker, a client through the manager.
    leecher(&subfolder(dir, "leecher"), tracker.address(), &["b"]).ends_with(0);
    assert_holds(&dir.join("leecher/b"), &both);
    getter(dir, "by-manager", at, &["b"], &[]).ends_with(0);
    assert_holds(&dir.join("by-manager/b"), &both);
    // A member that uses the tracker only, with a file that appears and disappears there.
    let alone = folder(dir, "alone", &[("o", only)]);
    let member = plain(dir, &alone, "alone", &["--plain", "--tracker", &tracked]);
    tracker.wait_for_text("alone has 1 of 1 chunks of o");
    leecher(&dir.join("leecher"), tracker.address(), &["o"]).ends_with(0);
    assert_holds(&dir.join("leecher/o"), only);
    getter(dir, "by-manager", at, &["o"], &["--wait", "0"]).ends_with(3);
    // A client that uses both finds the files of both.
    getter(dir, "asks-both", at, &["b", "o"], &["--tracker", &tracked]).ends_with(0);
    assert_holds(&dir.join("asks-both/b"), &both);
    assert_holds(&dir.join("asks-both/o"), only);
    let mut plain_get = plain(dir, &subfolder(dir, "p"), "p", &["--tracker", &tracked, "--get", "o"]);
    plain_get.ends_with(0);
    assert_holds(&dir.join("p/o"), only);
    std::fs::remove_file(alone.join("o")).unwrap();
    member.wait_for_text("- stopped sharing o: ");
    let mut late = leecher(&subfolder(dir, "late"), tracker.address(), &["o"]);
    assert!(matches!(late.exit_code(), Some(3 | 4 | 6)));
    // The download works while one of the two is down.
    drop(tracker);
    getter(dir, "still", at, &["b"], &["--tracker", &tracked]).ends_with(0);
    assert_holds(&dir.join("still/b"), &both);
}

#[test]
fn a_peer_that_does_not_answer_does_not_block_a_download() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &["--heartbeat", "60", "--lease", "600"]);
    let at = manager.address();
    // The kernel accepts connections for these peers, and no program answers them.
    let _silent: Vec<RawPeer> = (0..3).map(|number| RawPeer::join(at, &format!("silent{number}"))).collect();
    // This peer is on the list, and its address refuses connections.
    let mut refuses = RawPeer::join(at, "refuses");
    refuses.listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _holder = holder(dir, "holder", &[("f", b"bytes")], at, &[]);
    let began = Instant::now();
    getter(dir, "gets", at, &["f"], &[]).ends_with(0);
    assert_holds(&dir.join("gets/f"), b"bytes");
    assert!(
        began.elapsed() < HANDSHAKE_TIMEOUT,
        "the download waited for the silent peers, {:?}",
        began.elapsed()
    );
}

#[test]
fn a_folder_is_used_by_one_program_only() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let _first = holder(dir, "same", &[("f", b"x")], manager.address(), &[]);
    let mut second = start_member(dir, &dir.join("same"), "second", manager.address(), &[]);
    second.ends_with(17);
    second.wait_for_text("same");
}

#[test]
fn wrong_arguments_of_clients_and_managers_are_rejected() {
    let place = place();
    let dir = place.path();
    let manager = manager(dir, &[]);
    let at = manager.address();
    let chunks = chunk_folder(dir, "chunks", 1, &[(1, b"x")]);
    for extra in [&["--manager", "127.0.0.1:1"][..], &["--plain"], &["--get", "f"]] {
        let mut refused = plain(dir, &chunks, "n", extra);
        assert_eq!(refused.exit_code(), Some(2), "{extra:?}");
        refused.wait_for_text("contains a local_chunks.txt and is a chunk folder");
    }
    // Without --plain, --manager or --get, a folder without a list is an error.
    let mut bare = plain(dir, &subfolder(dir, "bare"), "n", &[]);
    bare.ends_with(17);
    bare.wait_for_text("local_chunks.txt");
    for extra in [
        &["--get", "../x"][..],
        &["--get", "a/b"],
        &["--get", ""],
        &["--get", "CON"],
        &["--stay"],
        &["--wait", "-1"],
        &["--manager", "a b"],
        &["--manager", "127.0.0.1:0"],
    ] {
        let mut refused = start_member(dir, &dir.join("bare"), "n", at, extra);
        if extra[0] == "--manager" {
            refused = plain(dir, &dir.join("bare"), "n", extra);
        }
        assert_eq!(refused.exit_code(), Some(2), "{extra:?}");
    }
    let mut nowhere = start_member(dir, &dir.join("nowhere"), "n", at, &[]);
    nowhere.ends_with(17);
    nowhere.wait_for_text("nowhere");
    let mut unknown = getter(dir, "bare", at, &["nobody-has-this"], &["--wait", "0"]);
    unknown.ends_with(3);
    let errors: Vec<String> = unknown.lines().into_iter().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 1, "the error is logged once: {errors:?}");
    assert!(errors[0].contains("nobody-has-this not found: no peer offers it"));
    getter(dir, "bare", at, &[&id_of(b"nobody").to_string()], &["--wait", "0"]).ends_with(3);
    // The port stays bound as long as the test runs, and no program answers on it.
    let deaf = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for extra in [&["--timeout", "1"][..], &["--timeout", "1", "--get", "f"]] {
        let mut alone = start_member(dir, &dir.join("bare"), "n", deaf, extra);
        assert_eq!(alone.exit_code(), Some(5), "{extra:?}");
        alone.wait_for_text("manager");
    }
    let mut program = Program::start("manager", &["--listen", &at.to_string()], dir);
    program.ends_with(1);
    program.wait_for_text("is in use by another program");
    for args in [&["--lease", "-1"][..], &["--heartbeat", "0"], &["--listen", "nonsense:x"], &["--nonsense"]]
    {
        let mut program = Program::start("manager", args, dir);
        assert_eq!(program.exit_code(), Some(2), "{args:?}");
    }
    let mut help = Program::start("manager", &["-help"], dir);
    help.ends_with(0);
    let text = help.lines().join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("[default: 127.0.0.1:10000]"), "{text}");
    help.wait_for_text("Exit codes:");
}
