//! Wrong arguments, and a folder that another program uses.

use super::{getter, holder, id_of};
use crate::common::*;

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
    for extra in [&[][..], &["--get", "f"]] {
        let limits = [&["--timeout", "1", "--wait", "1"], extra].concat();
        let mut alone = start_member(dir, &dir.join("bare"), "n", deaf, &limits);
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
