//! Commands of the owner of a tracker: over the control socket, and at the prompt.

use crate::common::keeping::*;
use crate::common::terminal::AtTerminal;
use crate::common::*;
use shoal::content::limits::CHUNK_SIZE;
use shoal::protocol::status::{ApprovalState, VolunteerState};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

const NAMES: [&str; 3] = ["anna", "bert", "cora"];

/// Offers a file `one` of a few chunks.
fn offer(dir: &Path) -> Vec<u8> {
    let bytes = random_bytes(1, 4 * CHUNK_SIZE as usize - 99);
    write(&subfolder(dir, "files"), "one", &bytes);
    bytes
}

/// Runs `tracker COMMAND ARGS --state STATE` and returns it after its end with `code`.
#[track_caller]
fn ask(dir: &Path, command: &str, code: i32) -> Program {
    let state = dir.join("state");
    let args: Vec<&str> = command.split(' ').chain(["--state", state.to_str().unwrap()]).collect();
    let mut program = Program::start("tracker", &args, dir);
    program.ends_with(code);
    program
}

/// The text on standard output of a command that succeeds.
#[track_caller]
fn answer(dir: &Path, command: &str) -> String {
    ask(dir, command, 0).stdout().join("\n")
}

/// Starts a tracker with three volunteers that hold all replicas.
fn replicated(dir: &Path, extra: &[&str]) -> (Program, [Program; 3]) {
    let tracker = replicating_tracker(dir, extra);
    let volunteers = NAMES.map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_safe(tracker.address(), 1);
    (tracker, volunteers)
}

fn wait_offloaded(address: SocketAddr) {
    wait_status(address, "offloaded", |status| is_safe(status, 1) && file(status, "one").offloaded);
}

#[test]
fn the_control_socket_belongs_to_the_owner_and_ends_with_the_tracker() {
    let place = place();
    let dir = place.path();
    let socket = dir.join("state/control.sock");
    ask(dir, "peers", 5).wait_for_text("no tracker runs with --state ");
    let mut tracker = replicating_tracker(dir, &[]);
    let metadata = std::fs::symlink_metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(answer(dir, "peers"), "no peers are registered");
    // A second tracker with the same state folder is refused and does not touch the socket.
    let state = dir.join("state");
    let args = ["--listen", "127.0.0.1:0", "--state", state.to_str().unwrap()];
    Program::start("tracker", &args, dir).ends_with(17);
    assert_eq!(answer(dir, "peers"), "no peers are registered");
    // A killed tracker leaves its socket; the next one replaces it.
    tracker.kill9();
    assert!(socket.exists());
    ask(dir, "peers", 5);
    let mut tracker = replicating_tracker(dir, &[]);
    assert_eq!(answer(dir, "peers"), "no peers are registered");
    tracker.interrupt();
    tracker.ends_with(0);
    assert!(!socket.exists(), "the socket is removed at an orderly end");
}

#[test]
fn a_long_path_of_the_state_folder_works() {
    let place = place();
    let dir = subfolder(place.path(), &"d".repeat(120));
    let _tracker = replicating_tracker(&dir, &[]);
    assert_eq!(answer(&dir, "peers"), "no peers are registered");
}

#[test]
fn volunteers_are_named_by_name_address_or_key_and_listed_if_several_match() {
    let place = place();
    let dir = place.path();
    let tracker = replicating_tracker(dir, &[]);
    // Two volunteers with one name.
    let folders = ["v1", "v2"].map(|folder| subfolder(dir, folder));
    let twins = folders.map(|folder| {
        let program = client(dir, &folder, "twin", tracker.address(), &["--volunteer", "1GiB"]);
        program.wait_for_text(" of storage, ");
        program
    });
    let anna = volunteer(dir, "anna", tracker.address(), &[]);
    let status = wait_status(tracker.address(), "three volunteers", |status| here(status) == 3);
    let peers = answer(dir, "peers");
    assert_eq!(peers.lines().filter(|line| line.contains("volunteer")).count(), 3, "{peers}");
    assert_eq!(peers.lines().count(), 4, "each volunteer is one peer: {peers}");
    tracker.wait_for_text("joined at ");
    assert!(!tracker.has_said("4 peers") && tracker.has_said(", 1 peer"), "{:#?}", tracker.lines());
    let twins_known: Vec<_> =
        status.volunteers.iter().filter(|volunteer| volunteer.name.as_str() == "twin").collect();
    let refused = ask(dir, "drain twin", 2);
    for twin in &twins_known {
        refused.wait_for_text(&format!("twin at {} (key {})", twin.address, twin.key.short()));
    }
    assert_eq!(here(&wait_status(tracker.address(), "none drains", |_| true)), 3);
    for (command, state) in [("drain", VolunteerState::Draining), ("stay", VolunteerState::Alive)] {
        answer(dir, &format!("{command} {}", twins_known[0].key.short()));
        wait_status(tracker.address(), command, |status| {
            let is_this = |volunteer: &&shoal::protocol::status::VolunteerStatus| {
                volunteer.key == twins_known[0].key && volunteer.state == state
            };
            status.volunteers.iter().any(|volunteer| is_this(&volunteer))
        });
    }
    let text = answer(dir, &format!("approve {}", twins_known[1].address));
    assert!(text.starts_with("approved twin at "), "{text}");
    ask(dir, "approve nobody", 3).wait_for_text("no volunteer matches");
    let status = wait_status(tracker.address(), "approved", |status| {
        status.volunteers.iter().any(|volunteer| volunteer.approval == ApprovalState::Approved)
    });
    let approved = status.volunteers.iter().find(|one| one.approval == ApprovalState::Approved).unwrap();
    assert_eq!(approved.key, twins_known[1].key, "approval applies to the key, not to the name");
    answer(dir, "deny anna");
    wait_status(tracker.address(), "denied", |status| of(status, "anna").approval == ApprovalState::Denied);
    drop((twins, anna));
}

#[test]
fn the_record_of_a_volunteer_that_left_is_removed() {
    let place = place();
    let dir = place.path();
    let tracker = replicating_tracker(dir, &[]);
    let mut anna = volunteer(dir, "anna", tracker.address(), &[]);
    wait_status(tracker.address(), "a volunteer", |status| here(status) == 1);
    ask(dir, "forget-volunteer anna", 1).wait_for_text("is connected");
    anna.interrupt();
    anna.ends_with(0);
    wait_status(tracker.address(), "left", |status| here(status) == 0);
    answer(dir, "forget-volunteer anna");
    wait_status(tracker.address(), "removed", |status| status.volunteers.is_empty());
    drop(tracker);
    let tracker = replicating_tracker(dir, &[]);
    wait_status(tracker.address(), "removed durably", |status| status.volunteers.is_empty());
}

#[test]
fn forget_of_the_last_copies_needs_yes_and_offload_works_without_its_flag() {
    let place = place();
    let dir = place.path();
    offer(dir);
    let (tracker, _volunteers) = replicated(dir, &[]);
    let text = answer(dir, "offload one --dry-run");
    assert!(text.contains("would delete"), "{text}");
    assert_eq!(names_in(&dir.join("files")), ["one"]);
    answer(dir, "offload one");
    wait_offloaded(tracker.address());
    assert_eq!(names_in(&dir.join("files")), [""; 0]);
    let text = answer(dir, "forget one --dry-run");
    assert!(text.contains("would drop 8 copies"), "{text}");
    ask(dir, "forget one", 2).wait_for_text("confirm with --yes");
    ask(dir, "forget two", 3).wait_for_text("no kept file matches");
    let status = wait_safe(tracker.address(), 1);
    let id = file(&status, "one").id.to_string();
    ask(dir, &format!("forget {}", &id[..7]), 3);
    answer(dir, &format!("forget {} --yes", &id[..8]));
    wait_status(tracker.address(), "forgotten", |status| status.files_known == 0);
    wait_status(tracker.address(), "dropped on the disks", |_| {
        NAMES.iter().all(|name| chunk_files(&dir.join(name)).is_empty())
    });
}

#[test]
fn the_order_to_offload_survives_a_restart() {
    let place = place();
    let dir = place.path();
    offer(dir);
    let mut tracker = replicating_tracker(dir, &[]);
    wait_status(tracker.address(), "published", |status| status.files_known == 1);
    let text = answer(dir, "offload one");
    assert!(text.contains("as soon as its copies permit it"), "{text}");
    tracker.kill9();
    let tracker = replicating_tracker(dir, &[]);
    let _volunteers = NAMES.map(|name| volunteer(dir, name, tracker.address(), &[]));
    wait_offloaded(tracker.address());
    assert_eq!(names_in(&dir.join("files")), [""; 0]);
}

#[test]
fn verify_proves_all_copies_and_its_exit_code_is_the_result() {
    let place = place();
    let dir = place.path();
    offer(dir);
    let (tracker, mut volunteers) = replicated(dir, &["--offload"]);
    wait_offloaded(tracker.address());
    let text = answer(dir, "verify one");
    assert!(text.starts_with("one (id ") && text.ends_with("): 8 copies proven, 8 wanted"), "{text}");
    volunteers.iter_mut().for_each(Program::kill9);
    wait_status(tracker.address(), "left", |status| here(status) == 0);
    ask(dir, "verify one", 4).wait_for_text("): 0 copies proven, 8 wanted");
}

#[test]
fn an_edited_file_is_a_new_version_of_its_name() {
    let place = place();
    let dir = place.path();
    offer(dir);
    let (tracker, _volunteers) = replicated(dir, &["--offload"]);
    wait_offloaded(tracker.address());
    let first = file(&wait_safe(tracker.address(), 1), "one").id.to_string();
    let newer = random_bytes(2, 2 * CHUNK_SIZE as usize);
    write(&dir.join("files"), "one", &newer);
    wait_status(tracker.address(), "both versions", |status| {
        is_safe(status, 2) && status.files.iter().all(|file| file.offloaded)
    });
    let mut got = getter(dir, "x", tracker.address(), &["one"]);
    got.ends_with(0);
    assert_holds(&dir.join("x/one"), &newer);
    let text = answer(dir, "forget one --dry-run");
    assert!(text.contains(&format!("older versions of this name: {}", &first[..12])), "{text}");
    answer(dir, &format!("forget {} --yes", &first[..12]));
    wait_status(tracker.address(), "one version", |status| is_safe(status, 1));
}

#[test]
fn a_recalled_file_is_in_the_folder_and_stays_there() {
    let place = place();
    let dir = place.path();
    let bytes = offer(dir);
    let (tracker, _volunteers) = replicated(dir, &["--offload"]);
    wait_offloaded(tracker.address());
    let text = answer(dir, "recall one");
    assert!(text.starts_with("one (id ") && text.contains(") is back in the folder"), "{text}");
    assert_holds(&dir.join("files/one"), &bytes);
    let address = tracker.address();
    let status = wait_status(address, "kept", |status| file(status, "one").kept_here && is_safe(status, 1));
    assert!(!file(&status, "one").offloaded);
    // The mark is durable: also after a restart the file is not offloaded.
    drop(tracker);
    let tracker = replicating_tracker(dir, &["--offload", "--listen", &address.to_string()]);
    wait_status(tracker.address(), "safe again", |status| here(status) == 3 && is_safe(status, 1));
    answer(dir, "verify one");
    assert_holds(&dir.join("files/one"), &bytes);
    answer(dir, "offload one");
    wait_offloaded(tracker.address());
}

#[test]
fn the_prompt_asks_before_the_last_copies_are_deleted() {
    let place = place();
    let dir = place.path();
    offer(dir);
    let (files, state) = (dir.join("files"), dir.join("state"));
    let args =
        ["--listen", "127.0.0.1:0", "--files", files.to_str().unwrap(), "--state", state.to_str().unwrap()];
    let mut tracker = AtTerminal::start(dir, "tracker", &[&args[..], &QUICK, &["--offload"]].concat());
    let line = tracker.wait_for(", TCP and UDP");
    let address: SocketAddr =
        line.rsplit(" listening on ").next().unwrap().split(',').next().unwrap().parse().unwrap();
    let _volunteers = NAMES.map(|name| volunteer(dir, name, address, &[]));
    wait_offloaded(address);
    tracker.press("forget one\r");
    tracker.wait_for("type yes to confirm");
    // Any other command cancels it.
    tracker.press("peers\r");
    tracker.wait_for("ROLE");
    tracker.press("yes\r");
    tracker.wait_for("no command waits for a confirmation");
    tracker.press("forg\tone\r");
    tracker.wait_for("unknown command forg");
    assert_eq!(status(address).unwrap().files_known, 1);
    tracker.press("forget o\t\r");
    tracker.wait_for("type yes to confirm");
    tracker.press("yes\r");
    tracker.wait_for("one is forgotten");
    wait_status(address, "forgotten", |status| status.files_known == 0);
    tracker.press("quit\r");
    assert_eq!(tracker.exit_code(PATIENCE), Some(0));
}

#[test]
fn contradicting_numbers_and_impossible_offers_are_refused() {
    let place = place();
    let dir = place.path();
    let state = dir.join("state");
    let args = ["--listen", "127.0.0.1:0", "--state", state.to_str().unwrap()];
    let mut refused =
        Program::start("tracker", &[&args[..], &["--replicas", "4", "--min-volunteers", "2"]].concat(), dir);
    refused.ends_with(2);
    refused.wait_for_text(
        "a chunk has at most one replica at each volunteer; use --min-volunteers 4 or --replicas 2",
    );
    assert!(!state.exists(), "nothing was created");
    let plain = tracker(dir, &[]);
    let folder = subfolder(dir, "v");
    let mut refused = client(dir, &folder, "v", plain.address(), &["--volunteer", "99999TiB"]);
    refused.ends_with(2);
    refused.wait_for_text("offer less with --volunteer SIZE");
    let mut status = Program::start("tracker", &["status", "--tracker", &plain.address().to_string()], dir);
    status.ends_with(0);
    status.wait_for("on stdout", |line| line == "no files are offered");
    status.wait_for_text("no chunk sets");
}

#[test]
fn a_folder_is_offloaded_downloaded_and_recalled_like_a_file() {
    let place = place();
    let dir = place.path();
    let data = subfolder(&subfolder(dir, "files"), "one");
    let (small, large) = (random_bytes(1, 900), random_bytes(2, 200_000));
    write(&data, "small", &small);
    write(&subfolder(&data, "deep"), "large", &large);
    subfolder(&data, "empty");
    std::os::unix::fs::symlink("deep/large", data.join("link")).unwrap();
    let assert_whole = |folder: &Path| {
        assert_holds(&folder.join("small"), &small);
        assert_holds(&folder.join("deep/large"), &large);
        assert_eq!(folder.join("link").read_link().unwrap(), Path::new("deep/large"));
        assert!(folder.join("empty").is_dir());
    };
    let (tracker, _volunteers) = replicated(dir, &["--offload"]);
    wait_offloaded(tracker.address());
    assert!(!data.exists(), "the tracker has deleted its own copy");
    let mut leecher = leecher(&subfolder(dir, "there"), tracker.address(), &["one"]);
    leecher.ends_with(0);
    assert_whole(&dir.join("there/one"));
    let text = answer(dir, "recall one");
    assert!(text.starts_with("one (id ") && text.contains(") is back in the folder"), "{text}");
    assert_whole(&data);
    wait_status(tracker.address(), "kept", |status| {
        file(status, "one").kept_here && !file(status, "one").offloaded && is_safe(status, 1)
    });
    tracker.wait_for_count("offering one, ", 2);
    assert_whole(&data);
}
