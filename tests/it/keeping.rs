//! Files kept alive at volunteers: spread, offloaded, healed, drained, challenged, and always whole.

use crate::common::keeping::*;
use crate::common::*;
use shoal::content::limits::CHUNK_SIZE;
use shoal::protocol::status::VolunteerState;
use std::collections::BTreeSet;
use std::path::Path;

/// Bytes in a file of so many chunks, the last one short.
fn bytes(seed: u64, chunks: usize) -> Vec<u8> {
    random_bytes(seed, chunks * CHUNK_SIZE as usize - 1_234)
}

/// Puts files where the tracker of this folder offers them.
fn offer(dir: &Path, files: &[(&str, &[u8])]) {
    let folder = subfolder(dir, "files");
    files.iter().for_each(|(name, bytes)| _ = write(&folder, name, bytes));
}

/// A stranger gets a file, and it is right.
#[track_caller]
fn gets(dir: &Path, who: &str, tracker: &Program, name: &str, bytes: &[u8]) {
    let mut client = getter(dir, who, tracker.address(), &[name]);
    client.ends_with(0);
    assert_holds(&dir.join(who).join(name), bytes);
}

#[test]
fn files_are_spread_offloaded_and_come_back_whole() {
    let place = place();
    let dir = place.path();
    let (one, two, small) = (bytes(1, 8), bytes(2, 5), b"small".to_vec());
    offer(dir, &[("one", &one), ("two", &two), ("small", &small), ("empty", b"")]);
    let tracker = keeper(dir, &["--offload"]);
    let names = ["a", "b", "c", "d"];
    let volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &[]));
    let status = wait_status(tracker.address(), "offloaded", |status| {
        is_safe(status, 4) && status.files.iter().all(|file| file.offloaded && file.here == 0)
    });
    // 8 + 5 + 1 + 1 chunks, two copies of each, and no volunteer has two of one.
    assert_eq!((status.copies.wanted, status.copies.verified), (30, 30));
    assert_eq!(names_in(&dir.join("files")), [""; 0], "the tracker has given its own copies up");
    let held: Vec<BTreeSet<_>> =
        names.iter().map(|name| chunk_files(&dir.join(name)).into_iter().collect()).collect();
    assert_eq!(held.iter().map(BTreeSet::len).sum::<usize>(), 30);
    assert!(held.iter().all(|held| (5..=10).contains(&held.len())), "it is spread: {held:?}");
    for (who, name, bytes) in
        [("x1", "one", &one), ("x2", "two", &two), ("x3", "small", &small), ("x4", "empty", &vec![])]
    {
        gets(dir, who, &tracker, name, bytes);
    }
    drop(volunteers);
}

#[test]
fn without_offload_the_tracker_keeps_its_own_and_answers_alone() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 3);
    offer(dir, &[("one", &one)]);
    let tracker = keeper(dir, &[]);
    tracker.wait_for_text("- offering one, ");
    gets(dir, "x1", &tracker, "one", &one);
    let _volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    let status = wait_safe(tracker.address(), 1);
    assert!(!file(&status, "one").offloaded && file(&status, "one").here == 3);
    assert_holds(&dir.join("files/one"), &one);
}

#[test]
fn nothing_is_distributed_to_fewer_than_three() {
    let place = place();
    let dir = place.path();
    offer(dir, &[("one", &bytes(1, 3))]);
    let tracker = keeper(dir, &[]);
    let _two = ["a", "b"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    let status =
        wait_status(tracker.address(), "both here", |status| here(status) == 2 && status.files_known == 1);
    assert_eq!((status.copies.verified, status.repair.running), (0, 0));
    let _third = volunteer(dir, "c", tracker.address(), &[]);
    wait_safe(tracker.address(), 1);
}

#[test]
fn the_dead_are_replaced_and_those_that_return_are_welcome() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 12);
    offer(dir, &[("one", &one)]);
    let tracker = keeper(dir, &["--offload"]);
    let names = ["a", "b", "c", "d"];
    let mut volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    volunteers[0].kill9();
    let status = wait_status(tracker.address(), "healed", |status| {
        of(status, "a").state == VolunteerState::Gone && is_safe(status, 1)
    });
    assert!(status.repair.copied > 24, "{status:#?}");
    gets(dir, "x1", &tracker, "one", &one);
    // Back again: it has what it had, which is now too much, and the surplus is dropped.
    volunteers[0] = volunteer(dir, "a", tracker.address(), &[]);
    wait_status(tracker.address(), "exactly enough", |status| {
        here(status) == 4 && is_safe(status, 1) && status.copies.verified == status.copies.wanted
    });
    let on_disk = || names.iter().map(|name| chunk_files(&dir.join(name)).len()).sum::<usize>();
    wait_status(tracker.address(), "dropped on the disks", |_| on_disk() == 24);
    gets(dir, "x2", &tracker, "one", &one);
}

#[test]
fn where_nobody_has_room_chunks_come_back_and_go_out_again() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 8);
    offer(dir, &[("one", &one)]);
    let tracker = keeper(dir, &["--offload"]);
    // Room for six chunks each: sixteen copies fit among three, not among two.
    let lend = ["--volunteer", "3100KiB"];
    let mut volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, tracker.address(), &lend));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    volunteers[0].kill9();
    wait_status(tracker.address(), "back at the tracker", |status| {
        let file = file(status, "one");
        // Twelve copies fit: at least four chunks have only one, and for each of these the tracker has another.
        file.here > 0 && u64::from(file.here) >= file.copies.short && status.repair.running == 0
    });
    gets(dir, "x1", &tracker, "one", &one);
    let _fresh = volunteer(dir, "e", tracker.address(), &lend);
    wait_status(tracker.address(), "out again", |status| is_safe(status, 1) && file(status, "one").here == 0);
    gets(dir, "x2", &tracker, "one", &one);
    for name in ["b", "c", "e"] {
        assert!(chunk_files(&dir.join(name)).len() <= 6, "{name} lends room for six chunks");
    }
}

#[test]
fn what_is_lost_is_named_and_found_again() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 4);
    offer(dir, &[("one", &one)]);
    let tracker = keeper(dir, &["--offload"]);
    let mut volunteers = ["anna", "bert", "cora"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    volunteers.iter_mut().for_each(Program::kill9);
    let line = tracker.wait_for_text("LOST: ");
    assert!(line.contains("WARNING") && line.contains(" of one ") && line.contains("last held by"), "{line}");
    assert!(wait_status(tracker.address(), "lost", |status| status.copies.lost > 0).copies.lost <= 4);
    // In part nobody knows whether it will ever be whole: it is not there.
    let folder = subfolder(dir, "x1");
    let mut waiting = client(dir, &folder, "x1", tracker.address(), &["--get", "one", "--timeout", "2"]);
    waiting.ends_with(4);
    let _back = ["anna", "bert", "cora"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_safe(tracker.address(), 1);
    gets(dir, "x2", &tracker, "one", &one);
}

#[test]
fn a_copy_that_rots_is_found_out_and_replaced() {
    for offload in [false, true] {
        let place = place();
        let dir = place.path();
        let one = bytes(1, 6);
        offer(dir, &[("one", &one)]);
        let extra: &[&str] = if offload { &["--offload"] } else { &[] };
        let tracker = keeper(dir, &[&["--challenge", "0.02"], extra].concat());
        let _volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, tracker.address(), &[]));
        wait_status(tracker.address(), "safe", |status| {
            is_safe(status, 1) && file(status, "one").offloaded == offload
        });
        let rotten = chunk_files(&dir.join("a"));
        assert!(!rotten.is_empty());
        for path in &rotten {
            let length = std::fs::metadata(path).unwrap().len();
            std::fs::write(path, vec![0; length as usize]).unwrap();
        }
        // Each of them is noticed, dropped, and a right one is somewhere in the end.
        tracker.wait_until("that every bad copy is found", |lines| {
            let bad = lines
                .iter()
                .filter_map(|line| line.split_once(" at a found to be bad")?.0.rsplit(' ').nth(1));
            bad.map(|count| count.parse::<usize>().unwrap()).sum::<usize>() >= rotten.len()
        });
        wait_safe(tracker.address(), 1);
        gets(dir, "x", &tracker, "one", &one);
    }
}

#[test]
fn a_volunteer_is_emptied_before_it_leaves() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 8);
    offer(dir, &[("one", &one)]);
    let tracker = keeper(dir, &["--offload"]);
    let mut leaving = volunteer(dir, "a", tracker.address(), &["--drain-on-exit"]);
    let _others = ["b", "c", "d"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    leaving.interrupt();
    leaving.ends_with(0);
    // Not a moment later: nothing was short when it left.
    let status = status(tracker.address()).unwrap();
    assert_eq!(of(&status, "a").state, VolunteerState::Gone);
    assert!(is_safe(&status, 1), "{status:#?}");
    gets(dir, "x", &tracker, "one", &one);
}

#[test]
fn the_status_is_told_to_other_programs_on_this_machine() {
    let place = place();
    let dir = place.path();
    offer(dir, &[("one", &bytes(1, 2))]);
    let tracker = keeper(dir, &[]);
    let _volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_safe(tracker.address(), 1);
    let address = tracker.address().to_string();
    let mut asked = Program::start("tracker", &["status", "--json", "--tracker", &address], dir);
    asked.ends_with(0);
    let told: serde_json::Value = serde_json::from_str(&asked.stdout().join("\n")).unwrap();
    assert_eq!(told["copies"]["verified"], 4, "{told}");
    assert_eq!(told["files"][0]["name"], "one");
    let mut asked = Program::start("tracker", &["status", "-tracker", &address], dir);
    asked.ends_with(0);
    assert!(asked.has_said("3 alive of 3 known"));
}

#[test]
fn a_damaged_catalogue_is_refused_and_rebuilt_from_what_volunteers_report() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 7);
    offer(dir, &[("one", &one)]);
    let names = ["a", "b", "c"];
    let mut first = keeper(dir, &["--offload"]);
    {
        let _volunteers = names.map(|name| volunteer(dir, name, first.address(), &[]));
        wait_status(first.address(), "offloaded", |status| {
            is_safe(status, 1) && file(status, "one").offloaded
        });
    }
    first.kill9();
    let catalogue = dir.join("state/catalogue.redb");
    let mut damaged = std::fs::read(&catalogue).unwrap();
    damaged[1_000..].fill(0xA5);
    std::fs::write(&catalogue, &damaged).unwrap();
    let (files, state) = (dir.join("files"), dir.join("state"));
    let args =
        ["--listen", "127.0.0.1:0", "--files", files.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let mut refused = Program::start("tracker", &args, dir);
    refused.ends_with(17);
    refused.wait_for("why, and what helps", |line| {
        line.contains("catalogue.redb") && line.contains("is damaged") && line.contains("--rebuild")
    });
    assert!(!refused.has_said("panicked"));
    assert_holds(&catalogue, &damaged);
    // Nobody but the volunteers knows of the file any more.
    let tracker = keeper(dir, &["--offload", "--rebuild"]);
    let _volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &[]));
    // What came back while not all volunteers had, goes out again.
    wait_status(tracker.address(), "with the volunteers", |status| {
        is_safe(status, 1) && file(status, "one").here == 0 && file(status, "one").offloaded
    });
    gets(dir, "x", &tracker, "one", &one);
    assert_holds(&dir.join("state/catalogue.redb.before-rebuild-1"), &damaged);
}

#[test]
fn a_tracker_that_is_started_again_knows_what_it_knew() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 7);
    offer(dir, &[("one", &one)]);
    let mut first = keeper(dir, &["--offload"]);
    let address = first.address();
    let volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, address, &[]));
    wait_status(address, "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    let copied = status(address).unwrap().repair.copied;
    assert_eq!(copied, 14);
    first.kill9();
    let listen = address.to_string();
    let tracker = keeper(dir, &["--offload", "--listen", &listen]);
    // The volunteers come back by themselves, and nothing is copied anew.
    let status = wait_safe(tracker.address(), 1);
    assert_eq!((here(&status), status.repair.copied), (3, 0));
    gets(dir, "x", &tracker, "one", &one);
    drop(volunteers);
}

#[test]
fn a_second_death_in_the_middle_of_repair_is_survived() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 24);
    offer(dir, &[("one", &one)]);
    // Slow enough to be in the middle of it.
    let tracker = keeper(dir, &["--offload", "--repair-limit", "2MiB", "--replicas", "3"]);
    let names = ["a", "b", "c", "d", "e"];
    let mut volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    volunteers[0].kill9();
    wait_status(tracker.address(), "in the middle", |status| {
        of(status, "a").state == VolunteerState::Gone && status.repair.copied > 72 && status.copies.short > 0
    });
    volunteers[1].kill9();
    let status = wait_status(tracker.address(), "healed", |status| {
        of(status, "b").state == VolunteerState::Gone && is_safe(status, 1)
    });
    assert_eq!(status.copies.lost, 0);
    assert!(!tracker.has_said("LOST: "));
    gets(dir, "x", &tracker, "one", &one);
}

#[test]
fn a_volunteer_never_holds_more_than_it_offered() {
    let place = place();
    let dir = place.path();
    offer(dir, &[("one", &bytes(1, 20))]);
    let tracker = keeper(dir, &[]);
    let names = ["a", "b", "c"];
    let _volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &["--volunteer", "2MiB"]));
    // Room for four chunks each: twelve of forty copies.
    let status = wait_status(tracker.address(), "full", |status| {
        status.copies.verified == 12 && status.repair.running == 0
    });
    assert!(status.copies.short > 0 && status.free < u64::from(CHUNK_SIZE));
    for name in names {
        let used: u64 = chunk_files(&dir.join(name)).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(used <= 2 << 20, "{name} holds {used} bytes");
    }
}

#[test]
fn two_trackers_never_share_a_state_folder_and_flags_that_do_not_fit_are_refused() {
    let place = place();
    let dir = place.path();
    let _first = keeper(dir, &[]);
    let (files, state) = (dir.join("files"), dir.join("state"));
    let (files, state) = (files.to_str().unwrap(), state.to_str().unwrap());
    let mut second = Program::start("tracker", &["--listen", "127.0.0.1:0", "--state", state], dir);
    second.ends_with(17);
    for (args, says, code) in [
        (vec!["--files", files], "--state", 2),
        (vec!["--replicas", "2"], "--state", 2),
        (vec!["--state", state, "--offload"], "--files", 2),
        (vec!["--state", state, "--files", files, "--replicas", "0"], "--replicas", 2),
        (vec!["--state", state, "--files", "nowhere"], "nowhere is not a folder", 17),
        (vec!["status", "--tracker", "127.0.0.1:1"], "cannot get the status of the tracker", 5),
    ] {
        let mut program = Program::start("tracker", &args, dir);
        program.ends_with(code);
        assert!(program.has_said(says), "{args:?}: {:?}", program.lines());
    }
}
