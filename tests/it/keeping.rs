//! Files that volunteers replicate: distribution, offload, repair, drain, challenges, and downloads at every stage.

use crate::common::keeping::*;
use crate::common::*;
use shoal::content::limits::CHUNK_SIZE;
use shoal::protocol::status::VolunteerState;
use std::collections::BTreeSet;
use std::path::Path;

/// The bytes of a file of `chunks` chunks, of which the last one is shorter.
fn bytes(seed: u64, chunks: usize) -> Vec<u8> {
    random_bytes(seed, chunks * CHUNK_SIZE as usize - 1_234)
}

/// Writes files to the folder that the tracker offers.
fn offer(dir: &Path, files: &[(&str, &[u8])]) {
    let folder = subfolder(dir, "files");
    files.iter().for_each(|(name, bytes)| _ = write(&folder, name, bytes));
}

/// A new client downloads a file and gets the right bytes.
#[track_caller]
fn assert_downloads(dir: &Path, client_name: &str, tracker: &Program, name: &str, bytes: &[u8]) {
    let mut client = getter(dir, client_name, tracker.address(), &[name]);
    client.ends_with(0);
    assert_holds(&dir.join(client_name).join(name), bytes);
}

#[test]
fn files_are_distributed_offloaded_and_downloaded_complete() {
    let place = place();
    let dir = place.path();
    let (one, two, small) = (bytes(1, 8), bytes(2, 5), b"small".to_vec());
    offer(dir, &[("one", &one), ("two", &two), ("small", &small), ("empty", b"")]);
    let tracker = replicating_tracker(dir, &["--offload"]);
    let names = ["a", "b", "c", "d"];
    let volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &[]));
    let status = wait_status(tracker.address(), "offloaded", |status| {
        is_safe(status, 4) && status.files.iter().all(|file| file.offloaded && file.here == 0)
    });
    // 8 + 5 + 1 + 1 chunks with two replicas of each, on different volunteers.
    assert_eq!((status.copies.wanted, status.copies.verified), (30, 30));
    assert_eq!(names_in(&dir.join("files")), [""; 0], "the tracker has deleted its own copies");
    let held: Vec<BTreeSet<_>> =
        names.iter().map(|name| chunk_files(&dir.join(name)).into_iter().collect()).collect();
    assert_eq!(held.iter().map(BTreeSet::len).sum::<usize>(), 30);
    assert!(
        held.iter().all(|held| (5..=10).contains(&held.len())),
        "the replicas are unevenly distributed: {held:?}"
    );
    for (client_name, name, bytes) in
        [("x1", "one", &one), ("x2", "two", &two), ("x3", "small", &small), ("x4", "empty", &vec![])]
    {
        assert_downloads(dir, client_name, &tracker, name, bytes);
    }
    drop(volunteers);
}

#[test]
fn without_offload_the_tracker_keeps_and_serves_its_copies() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 3);
    offer(dir, &[("one", &one)]);
    let tracker = replicating_tracker(dir, &[]);
    tracker.wait_for_text("- offering one, ");
    assert_downloads(dir, "x1", &tracker, "one", &one);
    let _volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    let status = wait_safe(tracker.address(), 1);
    assert!(!file(&status, "one").offloaded && file(&status, "one").here == 3);
    assert_holds(&dir.join("files/one"), &one);
}

#[test]
fn nothing_is_distributed_to_fewer_than_three_volunteers() {
    let place = place();
    let dir = place.path();
    offer(dir, &[("one", &bytes(1, 3))]);
    let tracker = replicating_tracker(dir, &[]);
    let _two = ["a", "b"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    let status =
        wait_status(tracker.address(), "both here", |status| here(status) == 2 && status.files_known == 1);
    assert_eq!((status.copies.verified, status.repair.running), (0, 0));
    let _third = volunteer(dir, "c", tracker.address(), &[]);
    wait_safe(tracker.address(), 1);
}

#[test]
fn dead_volunteers_are_replaced_and_surplus_replicas_are_dropped_on_return() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 12);
    offer(dir, &[("one", &one)]);
    let tracker = replicating_tracker(dir, &["--offload", "--replicas-max", "2"]);
    let names = ["a", "b", "c", "d"];
    let mut volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    volunteers[0].kill9();
    let status = wait_status(tracker.address(), "healed", |status| {
        of(status, "a").state == VolunteerState::Dead && is_safe(status, 1)
    });
    assert!(status.repair.copied > 24, "{status:#?}");
    assert_downloads(dir, "x1", &tracker, "one", &one);
    // The volunteer returns with its replicas; the chunks are over-replicated, and the surplus is dropped.
    volunteers[0] = volunteer(dir, "a", tracker.address(), &[]);
    wait_status(tracker.address(), "exactly enough", |status| {
        here(status) == 4 && is_safe(status, 1) && status.copies.verified == status.copies.wanted
    });
    let on_disk = || names.iter().map(|name| chunk_files(&dir.join(name)).len()).sum::<usize>();
    wait_status(tracker.address(), "dropped on the disks", |_| on_disk() == 24);
    assert_downloads(dir, "x2", &tracker, "one", &one);
}

#[test]
fn without_free_space_chunks_return_to_the_tracker_and_are_distributed_later() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 8);
    offer(dir, &[("one", &one)]);
    let tracker = replicating_tracker(dir, &["--offload"]);
    // Free space for six chunks each: sixteen replicas fit on three volunteers, not on two.
    let lend = ["--volunteer", "400KiB"];
    let mut volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, tracker.address(), &lend));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    volunteers[0].kill9();
    wait_status(tracker.address(), "back at the tracker", |status| {
        let file = file(status, "one");
        // Twelve replicas fit: at least four chunks have one replica only, and the tracker has a copy of each of them.
        file.here > 0 && u64::from(file.here) >= file.copies.short && status.repair.running == 0
    });
    assert_downloads(dir, "x1", &tracker, "one", &one);
    let _fresh = volunteer(dir, "e", tracker.address(), &lend);
    wait_status(tracker.address(), "out again", |status| is_safe(status, 1) && file(status, "one").here == 0);
    assert_downloads(dir, "x2", &tracker, "one", &one);
    for name in ["b", "c", "e"] {
        assert!(chunk_files(&dir.join(name)).len() <= 6, "{name} offered space for six chunks");
    }
}

#[test]
fn lost_chunks_are_reported_and_recovered() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 4);
    offer(dir, &[("one", &one)]);
    let tracker = replicating_tracker(dir, &["--offload"]);
    let mut volunteers = ["anna", "bert", "cora"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    volunteers.iter_mut().for_each(Program::kill9);
    let line = tracker.wait_for_text("LOST: ");
    assert!(line.contains("WARNING") && line.contains(" of one ") && line.contains("last held by"), "{line}");
    assert!(wait_status(tracker.address(), "lost", |status| status.copies.lost > 0).copies.lost <= 4);
    // A file with lost chunks is treated as not available.
    let folder = subfolder(dir, "x1");
    let mut waiting = client(dir, &folder, "x1", tracker.address(), &["--get", "one", "--timeout", "2"]);
    waiting.ends_with(4);
    let _back = ["anna", "bert", "cora"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_safe(tracker.address(), 1);
    assert_downloads(dir, "x2", &tracker, "one", &one);
}

#[test]
fn a_corrupt_replica_is_detected_and_replaced() {
    for offload in [false, true] {
        let place = place();
        let dir = place.path();
        let one = bytes(1, 6);
        offer(dir, &[("one", &one)]);
        let extra: &[&str] = if offload { &["--offload"] } else { &[] };
        let tracker = replicating_tracker(dir, &[&["--challenge", "0.02"], extra].concat());
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
        // Each corrupt replica is detected and dropped, and replaced by a right one.
        tracker.wait_until("that every bad copy is found", |lines| {
            let bad = lines
                .iter()
                .filter_map(|line| line.split_once(" at a found to be bad")?.0.rsplit(' ').nth(1));
            bad.map(|count| count.parse::<usize>().unwrap()).sum::<usize>() >= rotten.len()
        });
        wait_safe(tracker.address(), 1);
        assert_downloads(dir, "x", &tracker, "one", &one);
    }
}

#[test]
fn a_volunteer_is_drained_before_it_leaves() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 8);
    offer(dir, &[("one", &one)]);
    let tracker = replicating_tracker(dir, &["--offload"]);
    let mut leaving = volunteer(dir, "a", tracker.address(), &["--drain-on-exit"]);
    let _others = ["b", "c", "d"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    leaving.interrupt();
    leaving.ends_with(0);
    // At the moment when it left, no chunk was under-replicated.
    let status = status(tracker.address()).unwrap();
    assert_eq!(of(&status, "a").state, VolunteerState::Away);
    assert!(is_safe(&status, 1), "{status:#?}");
    assert_downloads(dir, "x", &tracker, "one", &one);
}

#[test]
fn the_status_is_available_to_other_programs_on_this_host() {
    let place = place();
    let dir = place.path();
    offer(dir, &[("one", &bytes(1, 2))]);
    let tracker = replicating_tracker(dir, &[]);
    let _volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_safe(tracker.address(), 1);
    let address = tracker.address().to_string();
    let mut asked = Program::start("tracker", &["status", "--json", "--tracker", &address], dir);
    asked.ends_with(0);
    let told: serde_json::Value = serde_json::from_str(&asked.stdout()[1]).unwrap();
    assert_eq!(told["copies"]["verified"], 4, "{told}");
    assert_eq!(told["files"][0]["name"], "one");
    let mut asked = Program::start("tracker", &["status", "-tracker", &address], dir);
    asked.ends_with(0);
    assert!(asked.has_said("3 present of 3 known"));
}

#[test]
fn a_damaged_catalogue_is_refused_and_rebuilt_from_volunteer_reports() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 7);
    offer(dir, &[("one", &one)]);
    let names = ["a", "b", "c"];
    let mut first = replicating_tracker(dir, &["--offload"]);
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
    refused.wait_for("the reason and advice", |line| {
        line.contains("catalogue.redb") && line.contains("is damaged") && line.contains("--rebuild")
    });
    assert!(!refused.has_said("panicked"));
    assert_holds(&catalogue, &damaged);
    // The catalogue is gone: only the volunteers still know the file.
    let tracker = replicating_tracker(dir, &["--offload", "--rebuild"]);
    let _volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &[]));
    // Chunks that returned to the tracker before all volunteers had registered are distributed again.
    wait_status(tracker.address(), "with the volunteers", |status| {
        is_safe(status, 1) && file(status, "one").here == 0 && file(status, "one").offloaded
    });
    assert_downloads(dir, "x", &tracker, "one", &one);
    assert_holds(&dir.join("state/catalogue.redb.before-rebuild-1"), &damaged);
}

#[test]
fn a_restarted_tracker_remembers_its_files() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 7);
    offer(dir, &[("one", &one)]);
    let mut first = replicating_tracker(dir, &["--offload"]);
    let address = first.address();
    let volunteers = ["a", "b", "c"].map(|name| volunteer(dir, name, address, &[]));
    wait_status(address, "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    let copied = status(address).unwrap().repair.copied;
    assert_eq!(copied, 14);
    first.kill9();
    let listen = address.to_string();
    let tracker = replicating_tracker(dir, &["--offload", "--listen", &listen]);
    // The volunteers register again by themselves, and nothing is copied.
    let status = wait_safe(tracker.address(), 1);
    assert_eq!((here(&status), status.repair.copied), (3, 0));
    assert_downloads(dir, "x", &tracker, "one", &one);
    drop(volunteers);
}

#[test]
fn a_second_volunteer_may_die_during_repair() {
    let place = place();
    let dir = place.path();
    let one = bytes(1, 24);
    offer(dir, &[("one", &one)]);
    // The rate limit makes the repair long enough for the second kill to come in the middle of it.
    let tracker = replicating_tracker(dir, &["--offload", "--repair-limit", "2MiB", "--replicas", "3"]);
    let names = ["a", "b", "c", "d", "e"];
    let mut volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_status(tracker.address(), "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
    volunteers[0].kill9();
    wait_status(tracker.address(), "in the middle", |status| {
        of(status, "a").state == VolunteerState::Dead && status.repair.copied > 72 && status.copies.short > 0
    });
    volunteers[1].kill9();
    let status = wait_status(tracker.address(), "healed", |status| {
        of(status, "b").state == VolunteerState::Dead && is_safe(status, 1)
    });
    assert_eq!(status.copies.lost, 0);
    assert!(!tracker.has_said("LOST: "));
    assert_downloads(dir, "x", &tracker, "one", &one);
}

#[test]
fn a_volunteer_never_holds_more_than_it_offered() {
    let place = place();
    let dir = place.path();
    offer(dir, &[("one", &bytes(1, 20))]);
    let tracker = replicating_tracker(dir, &[]);
    let names = ["a", "b", "c"];
    let _volunteers = names.map(|name| volunteer(dir, name, tracker.address(), &["--volunteer", "256KiB"]));
    // Space for four chunks each, of which a file that is larger than all space leaves an eighth free: nine replicas.
    let status = wait_status(tracker.address(), "full", |status| {
        status.copies.verified == 9 && status.repair.running == 0
    });
    assert!(status.copies.short > 0);
    for name in names {
        let used: u64 = chunk_files(&dir.join(name)).iter().map(|path| path.metadata().unwrap().len()).sum();
        assert!(used <= 256 << 10, "{name} holds {used} bytes");
    }
}

#[test]
fn a_state_folder_belongs_to_one_tracker_and_inconsistent_flags_are_rejected() {
    let place = place();
    let dir = place.path();
    let _first = replicating_tracker(dir, &[]);
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
