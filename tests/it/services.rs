//! Programs as services: notifications, log rotation, process 1 of a container, restarts after a kill, a job of cron.

use crate::common::*;
use rustix::process::{Pid, Signal, kill_process};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

fn received(socket: &UnixDatagram) -> String {
    let mut state = [0; 256];
    let length = socket.recv(&mut state).unwrap();
    String::from_utf8(state[..length].to_vec()).unwrap()
}

#[test]
fn the_service_manager_is_told_of_the_start_and_of_the_end() {
    let place = place();
    let dir = place.path();
    let path = dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let variable = format!("NOTIFY_SOCKET={}", path.display());
    let file = write(dir, "a.bin", b"bytes");
    let folder = subfolder(dir, "folder");
    let common = ["--tracker", "127.0.0.1:9"];
    for (program, args) in [
        ("tracker", vec!["--listen", "127.0.0.1:0"]),
        ("manager", vec!["--listen", "127.0.0.1:0"]),
        ("seeder", [&["-f", file.to_str().unwrap(), "-p", "0"][..], &common].concat()),
        (
            "client",
            [
                &["-folder", folder.to_str().unwrap(), "-transfer_port", "0", "-name", "a", "--plain"][..],
                &common,
            ]
            .concat(),
        ),
    ] {
        let mut program = Program::start_by(&["env", &variable], program, &args, dir);
        let state = received(&socket);
        assert_eq!(state, format!("READY=1\nSTATUS=serving at {}", program.address()));
        kill_process(program.pid(), Signal::TERM).unwrap();
        assert_eq!(received(&socket), "STOPPING=1");
        program.ends_with(0);
    }
}

#[test]
fn a_service_opens_its_log_file_again_at_sighup() {
    let place = place();
    let dir = place.path();
    // A session of its own has no terminal.
    let mut tracker = Program::start_by(&["setsid"], "tracker", &["--listen", "127.0.0.1:0"], dir);
    tracker.address();
    std::fs::rename(dir.join("logs.log"), dir.join("logs.log.1")).unwrap();
    kill_process(tracker.pid(), Signal::HUP).unwrap();
    tracker.wait_for_text("log file opened again (SIGHUP)");
    kill_process(tracker.pid(), Signal::TERM).unwrap();
    tracker.ends_with(0);
    let new = std::fs::read_to_string(dir.join("logs.log")).unwrap();
    assert!(new.starts_with(char::is_numeric) && new.contains("log file opened again"), "{new}");
    assert!(std::fs::read_to_string(dir.join("logs.log.1")).unwrap().contains("tracker listening on"));
}

/// The only child of a process.
fn child_of(parent: Pid) -> Pid {
    let parent = parent.as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}

#[test]
fn the_programs_end_at_sigterm_also_as_process_1() {
    const UNSHARE: [&str; 5] = ["unshare", "--user", "--map-root-user", "--pid", "--fork"];
    let can = Command::new(UNSHARE[0]).args(&UNSHARE[1..]).arg("true").status();
    if !can.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this system permits no pid namespace");
        return;
    }
    let place = place();
    let dir = place.path();
    let file = write(dir, "a.bin", b"bytes");
    let folder = subfolder(dir, "folder");
    let closed = ["--tracker", "127.0.0.1:9"];
    let file = [&["-f", file.to_str().unwrap(), "-p", "0"][..], &closed].concat();
    let folder = ["-folder", folder.to_str().unwrap(), "-transfer_port", "0", "-name", "a", "--plain"];
    for (program, args, code) in [
        ("tracker", vec!["--listen", "127.0.0.1:0", "--json"], 0),
        ("manager", vec!["--listen", "127.0.0.1:0"], 0),
        ("seeder", file, 0),
        ("client", [&folder[..], &closed].concat(), 0),
        ("leecher", vec!["x", "--tracker", "127.0.0.1:9"], 7),
    ] {
        let mut program = Program::start_by(&UNSHARE, program, &args, dir);
        match program.lines() {
            _ if args[0] == "x" => program.wait_for_text("127.0.0.1:9"),
            _ => program.wait_for_text(" listening on "),
        };
        kill_process(child_of(program.pid()), Signal::TERM).unwrap();
        program.ends_with(code);
    }
}

#[test]
fn a_killed_service_starts_again_in_its_folders() {
    let place = place();
    let dir = place.path();
    let (library, folder) = (subfolder(dir, "library"), subfolder(dir, "volunteer"));
    write(&library, "a.bin", &random_bytes(1, 1 << 20));
    let flags = ["--files", "library", "--state", "state", "--replicas", "1", "--min-volunteers", "1"];
    for _ in 0..2 {
        let mut tracker = tracker(dir, &flags);
        let at = tracker.address().to_string();
        let mut volunteer = plain(dir, &folder, "v", &["--volunteer", "100MiB", "--tracker", &at]);
        volunteer.wait_for_text("storage");
        tracker.wait_for_text("offering 1 file");
        volunteer.kill9();
        tracker.kill9();
    }
}

/// A code block of a page, behind a line that contains `mark`.
fn block(page: &str, mark: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(page)).unwrap();
    let after = text.split(mark).nth(1).unwrap_or_else(|| panic!("{page} has no {mark}"));
    let block = after.split("```").nth(1).unwrap();
    block.split_once('\n').unwrap().1.to_owned()
}

#[test]
fn the_cron_job_of_the_documentation_keeps_a_folder_up_to_date() {
    let place = place();
    let dir = place.path();
    let script = write(dir, "mirror.sh", block("docs/services.md", "`mirror.sh`").as_bytes());
    let (tracker, theirs, mirror) = (tracker(dir, &[]), subfolder(dir, "theirs"), subfolder(dir, "mirror"));
    let at = tracker.address().to_string();
    write(&theirs, "a.bin", b"first");
    let run = |code: i32| {
        let variables = [&format!("SHOAL_TRACKER={at}"), &format!("MIRROR={}", mirror.display())];
        let programs = Path::new(env!("CARGO_BIN_EXE_leecher")).parent().unwrap().display();
        let path = format!("PATH={programs}:{}", std::env::var("PATH").unwrap());
        let mut command = Command::new("env");
        clear_variables(&mut command);
        command.args(variables).arg(path).arg("sh").arg(&script).current_dir(dir);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    };
    // No peer offers a file yet.
    run(3);
    let client = plain(dir, &theirs, "b", &["--tracker", &at, "--plain"]);
    tracker.wait_for_text("has 1 of 1 chunks of a.bin");
    run(0);
    assert_holds(&mirror.join("a.bin"), b"first");
    write(&theirs, "a.bin", b"second");
    write(&theirs, "b.bin", b"new");
    client.wait_for_text("b.bin");
    tracker.wait_for_text("has 1 of 1 chunks of b.bin");
    tracker.wait_for_text("chunks of a.bin (6 bytes");
    run(0);
    assert_holds(&mirror.join("a.bin"), b"second");
    assert_holds(&mirror.join("b.bin"), b"new");
    let updated = std::fs::read_to_string(mirror.join(".updated")).unwrap();
    assert!(updated.lines().any(|line| line == "b.bin"), "{updated}");
}
