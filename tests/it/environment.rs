//! Settings from environment variables: precedence, contradictions, unknown names.

use crate::common::*;
use std::path::Path;

/// Starts a program with variables, such as `SHOAL_LEECHER_OUT=x`.
fn start(variables: &[&str], program: &str, args: &[&str], dir: &Path) -> Program {
    Program::start_by(&[&["env"], variables].concat(), program, args, dir)
}

#[test]
fn a_setting_comes_from_flag_variable_of_the_program_common_variable_and_default() {
    let place = place();
    let dir = place.path();
    let common = "SHOAL_LOG_FILE=common.log";
    let own = "SHOAL_TRACKER_LOG_FILE=own.log";
    let listen = "SHOAL_TRACKER_LISTEN=127.0.0.1:0";
    for (variables, args, file) in [
        (&[listen, common, own][..], &["--log-file", "flag.log"][..], "flag.log"),
        (&[listen, common, own], &[], "own.log"),
        (&[listen, common], &[], "common.log"),
        (&[listen, "SHOAL_LOG_FILE="], &[], "logs.log"),
    ] {
        let tracker = start(variables, "tracker", args, dir);
        assert_ne!(tracker.address().port(), 5100);
        assert!(dir.join(file).exists(), "{file}");
    }
}

#[test]
fn a_client_is_configured_by_variables_alone() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let folder = subfolder(dir, "folder");
    write(&folder, "a.bin", b"bytes");
    let variables = [
        &format!("SHOAL_TRACKER={}", tracker.address()),
        "SHOAL_CLIENT_FOLDER=folder",
        "SHOAL_CLIENT_TRANSFER_PORT=0",
        "SHOAL_CLIENT_NAME=anna",
        "SHOAL_CLIENT_PLAIN=true",
    ];
    let _client = start(&variables, "client", &[], dir);
    tracker.wait_for_text("anna has 1 of 1 chunks of a.bin");
    // The same common variable is used by a leecher, which has no other tracker.
    let mut leecher = start(&variables, "leecher", &["a.bin", "--out", "copy"], dir);
    leecher.ends_with(0);
    assert_holds(&dir.join("copy"), b"bytes");
}

#[test]
fn a_flag_overrides_a_variable_that_contradicts_it() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "a.bin", b"bytes");
    let file = file.to_str().unwrap();
    // `seeder FILE` contradicts -f, and --linger contradicts --no-serve.
    let args = [file, "-p", "0", "--listen", "127.0.0.1"];
    start(&["SHOAL_SEEDER_FILE=other"], "seeder", &args, dir).wait_for_text("serving a.bin");
    let args = ["x", "--linger", "1", "--wait", "0", "--tracker", "127.0.0.1:9"];
    start(&["SHOAL_LEECHER_NO_SERVE=1"], "leecher", &args, dir).ends_with(5);
}

#[test]
fn an_action_has_no_variable() {
    let place = place();
    let dir = place.path();
    let (tracker, file) = (tracker(dir, &[]), write(dir, "a.bin", b"bytes"));
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let at = format!("SHOAL_TRACKER={}", tracker.address());
    write(dir, "copy", b"something else");
    let variables = [&at, "SHOAL_LEECHER_OVERWRITE=1", "SHOAL_LEECHER_YES=1"];
    let mut leecher = start(&variables, "leecher", &["a.bin", "--out", "copy"], dir);
    leecher.ends_with(13);
    assert_holds(&dir.join("copy"), b"something else");
    leecher.wait_for_text("warning: unknown environment variable SHOAL_LEECHER_OVERWRITE");
}

#[test]
fn a_wrong_value_is_refused_with_the_name_of_its_variable() {
    let place = place();
    let mut seeder = start(&["SHOAL_SEEDER_CHUNK_SIZE=3"], "seeder", &["-f", "a.bin"], place.path());
    seeder.ends_with(2);
    seeder.wait_for_text("--chunk-size <SIZE> is set by the environment variable SHOAL_SEEDER_CHUNK_SIZE");
    let mut tracker = start(&["SHOAL_TRACKER_NO_DISCOVERY=perhaps"], "tracker", &[], place.path());
    tracker.ends_with(2);
    tracker.wait_for_text("is set by the environment variable SHOAL_TRACKER_NO_DISCOVERY");
}

#[test]
fn an_unknown_variable_is_reported_with_a_similar_one_and_keys_are_reserved() {
    let place = place();
    let variables = ["SHOAL_LEECHER_TRAKER=x", "SHOAL_KEY_FILE=x", "SHOAL_SEEDER_PORT=7", "SHOAL_PATH=x"];
    let args = ["--list", "--tracker", "127.0.0.1:9"];
    let mut leecher = start(&variables, "leecher", &args, place.path());
    leecher.ends_with(5);
    let warnings: Vec<String> =
        leecher.lines().into_iter().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(
        warnings,
        ["warning: unknown environment variable SHOAL_LEECHER_TRAKER; did you mean SHOAL_LEECHER_TRACKER?"]
    );
}

#[test]
fn a_subcommand_takes_its_settings_from_variables_of_its_program() {
    let place = place();
    let tracker = tracker(place.path(), &[]);
    let at = format!("SHOAL_TRACKER_TRACKER={}", tracker.address());
    // A setting of the tracker itself does not disturb its subcommand.
    let mut status = start(&[&at, "SHOAL_TRACKER_REPLICAS=3"], "tracker", &["status"], place.path());
    status.ends_with(0);
    status.wait_for_text("peers       0 registered");
}
