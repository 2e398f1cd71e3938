//! `--json`: scripts that parse the standard output of the programs.

use crate::common::*;
use serde_json::Value;
use std::path::Path;

/// The objects on the standard output of a program that has ended; each line is one.
fn objects(program: &Program) -> Vec<Value> {
    let lines = program.stdout();
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// The objects of one type.
fn of_type<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["type"] == kind).collect()
}

/// Waits for the end, and checks the exit code, the first and the last object.
#[track_caller]
fn ended(program: &mut Program, name: &str, code: i32) -> Vec<Value> {
    program.ends_with(code);
    let objects = objects(program);
    let version = &objects[0];
    assert_eq!(
        (&version["type"], &version["program"], &version["schema"]),
        (&"version".into(), &name.into(), &1.into())
    );
    assert_eq!(objects.last().unwrap(), &serde_json::json!({"type": "exit", "code": code}), "{objects:?}");
    assert_eq!(of_type(&objects, "exit").len(), 1);
    objects
}

fn json(program: &str, args: &[&str], dir: &Path) -> Program {
    Program::start(program, &[args, &["--json"]].concat(), dir)
}

#[test]
fn a_download_is_told_by_seeder_tracker_and_leecher() {
    let place = place();
    let dir = place.path();
    let bytes = random_bytes(1, 3 << 20);
    let file = write(dir, "a.bin", &bytes);
    let mut tracker = json("tracker", &["--listen", "127.0.0.1:0"], dir);
    let at = tracker.address().to_string();
    let seeder_args =
        ["-f", file.to_str().unwrap(), "-p", "0", "--name", "anna", "--tracker", &at, "--until", "1"];
    let mut seeder = json("seeder", &seeder_args, dir);
    tracker.wait_for_text("- anna has ");
    let mut leecher = json("leecher", &["a.bin", "--out", "copy", "--tracker", &at, "--name", "ben"], dir);
    let told = ended(&mut leecher, "leecher", 0);
    let complete = of_type(&told, "complete")[0];
    assert_eq!((&complete["name"], &complete["size"]), (&"a.bin".into(), &(3 << 20).into()));
    assert_eq!(complete["path"], dir.join("copy").to_str().unwrap());
    let found = of_type(&told, "file")[0];
    assert_eq!((&found["state"], &found["id"]), (&"found".into(), &complete["id"]));
    let progress = of_type(&told, "progress");
    assert!(progress.iter().any(|line| line["title"] == "a.bin" && line["total"] == 3 << 20), "{told:?}");
    // The result line for people is on stderr.
    assert!(leecher.has_said("Successfully downloaded a.bin"));

    let told = ended(&mut seeder, "seeder", 0);
    assert_eq!(of_type(&told, "file")[0]["state"], "offered");
    assert!(of_type(&told, "listening")[0]["address"].as_str().unwrap().starts_with("127.0.0.1:"));
    let stages: Vec<&Value> = of_type(&told, "peer").iter().map(|peer| &peer["state"]).collect();
    assert!(stages.iter().any(|stage| **stage == "complete" || **stage == "serving"), "{told:?}");

    tracker.interrupt();
    let told = ended(&mut tracker, "tracker", 0);
    let peers = of_type(&told, "peer");
    let has =
        |name: &str, state: &str| peers.iter().any(|peer| peer["peer"] == name && peer["state"] == state);
    assert!(has("anna", "joined") && has("ben", "joined") && has("anna", "left"), "{told:?}");
}

#[test]
fn the_event_lines_stay_in_the_log_and_leave_standard_output_to_json() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let at = tracker.address().to_string();
    let mut clients: Vec<Program> = [1, 2]
        .into_iter()
        .map(|number| {
            let chunks: &[(usize, &[u8])] = if number == 1 {
                &[(1, b"one"), (2, b"two")]
            } else {
                &[(1, b"one"), (2, b"two"), (3, b"three")]
            };
            let folder = chunk_folder(dir, &format!("folder{number}"), 3, chunks);
            let name = format!("client{number}");
            let args = [
                "-folder",
                folder.to_str().unwrap(),
                "-transfer_port",
                "0",
                "-name",
                &name,
                "--tracker",
                &at,
            ];
            json("client", &args, dir)
        })
        .collect();
    clients[0].wait_for_text("client1,WHERE_CHUNK,3");
    assert!(std::fs::read_to_string(dir.join("logs.log")).unwrap().contains("client1,WHERE_CHUNK,3\n"));
    for client in &clients {
        client.interrupt();
    }
    for client in &mut clients {
        let code = client.exit_code().unwrap();
        let told = objects(client);
        assert_eq!(told.last().unwrap()["code"], code);
    }
}

#[test]
fn a_complete_chunk_folder_is_an_event() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let at = tracker.address().to_string();
    let start = |number: u32, chunks: &[(usize, &[u8])]| {
        let folder = chunk_folder(dir, &format!("folder{number}"), 2, chunks);
        let name = format!("client{number}");
        let args =
            ["-folder", folder.to_str().unwrap(), "-transfer_port", "0", "-name", &name, "--tracker", &at];
        json("client", &[&args[..], &["--exit-when-complete"]].concat(), dir)
    };
    let both: [(usize, &[u8]); 2] = [(1, b"one"), (2, b"two")];
    let mut clients = [start(1, &both), start(2, &both), start(3, &both[..1])];
    for client in &mut clients {
        let told = ended(client, "client", 0);
        let complete = of_type(&told, "folder_complete");
        assert_eq!((&complete[0]["set"], &complete[0]["chunks"]), (&"default".into(), &2.into()), "{told:?}");
    }
}

#[test]
fn each_end_is_an_exit_event_with_its_code() {
    let place = place();
    let dir = place.path();
    // A usage error of clap, one that is found later, and an error of the network.
    let told = ended(&mut json("leecher", &["--no-such-flag"], dir), "leecher", 2);
    assert_eq!(of_type(&told, "error")[0]["code"], "usage");
    assert!(of_type(&told, "error")[0]["message"].as_str().unwrap().contains("--no-such-flag"));
    let told = ended(&mut json("tracker", &["--heartbeat", "9", "--lease", "5"], dir), "tracker", 2);
    assert_eq!(of_type(&told, "error")[0]["code"], "usage");
    let told = ended(&mut json("leecher", &["--list", "--tracker", "127.0.0.1:9"], dir), "leecher", 5);
    assert_eq!(of_type(&told, "error")[0]["code"], "unreachable");
    let told = ended(&mut json("leecher", &["x", "--out", "-"], dir), "leecher", 2);
    assert!(of_type(&told, "error")[0]["message"].as_str().unwrap().contains("--out - and --json"));
    // Help and version are text for people.
    for flag in ["--help", "--version"] {
        assert_eq!(ended(&mut json("manager", &[flag], dir), "manager", 0).len(), 2);
    }
}

#[test]
fn a_failed_download_and_a_ctrl_c_are_told() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let at = tracker.address().to_string();
    let told = ended(&mut json("leecher", &["lost", "--wait", "0", "--tracker", &at], dir), "leecher", 3);
    let errors = of_type(&told, "error");
    assert_eq!((errors.len(), &errors[0]["code"]), (1, &"not_found".into()), "{told:?}");
    let args = [&["lost", "--tracker", &at, "--json"][..]].concat();
    let mut leecher = Program::start_interruptible("leecher", &args, dir);
    leecher.wait_for_text("lost not found");
    leecher.interrupt();
    ended(&mut leecher, "leecher", 7);
}

#[test]
fn the_list_has_an_object_for_each_file_and_the_status_is_one() {
    let place = place();
    let dir = place.path();
    let (tracker, file) = (tracker(dir, &[]), write(dir, "a.bin", b"bytes"));
    let _seeder = seeder(dir, &file, &tracker, &[]);
    let at = tracker.address().to_string();
    let told = ended(&mut json("leecher", &["--list", "--tracker", &at], dir), "leecher", 0);
    assert_eq!(told.len(), 3, "{told:?}");
    let file = &told[1];
    assert_eq!(
        (&file["type"], &file["state"], &file["name"]),
        (&"file".into(), &"listed".into(), &"a.bin".into())
    );
    assert_eq!((&file["complete_holders"], &file["partial_holders"]), (&1.into(), &0.into()));
    let told = ended(&mut json("tracker", &["status", "--tracker", &at], dir), "tracker", 0);
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!((&told[1]["type"], &told[1]["peers_known"]), (&"status".into(), &1.into()));
}

#[test]
fn there_is_no_prompt_at_a_terminal() {
    let place = place();
    let mut manager =
        terminal::AtTerminal::start(place.path(), "manager", &["--listen", "127.0.0.1:0", "--json"]);
    manager.wait_for("\"type\":\"listening\"");
    manager.signal(rustix::process::Signal::TERM);
    manager.wait_for("{\"type\":\"exit\",\"code\":0}");
    assert_eq!(manager.exit_code(PATIENCE), Some(0));
    assert!(!manager.output().contains("manager>"), "{}", manager.output());
}
