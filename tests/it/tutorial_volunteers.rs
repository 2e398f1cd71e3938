//! The session of the README in which volunteers keep a file alive, as it is written there.
//!
//! What is typed must stand in the README. Different are only the ports (free ones), the lease (a second), and the file,
//! which is smaller.

use crate::common::keeping::*;
use crate::common::terminal::AtTerminal;
use crate::common::*;
use shoal::protocol::status::{Status, VolunteerState};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

const README: &str = include_str!("../../README.md");
const FILE: &str = "numbers.txt";

/// A line that is typed must be in the README.
#[track_caller]
fn is_written(line: &str) {
    assert!(README.lines().any(|written| written == line), "the README does not say: {line}");
}

/// Starts what the README types at a shell, with other ports.
#[track_caller]
fn run(dir: &Path, line: &str, more: &[&str]) -> AtTerminal {
    is_written(&format!("$ {line}"));
    let line = line.rsplit("&& ").next().unwrap();
    let words: Vec<&str> =
        line.split(' ').map(|word| if word.starts_with("710") { "0" } else { word }).collect();
    AtTerminal::start(dir, words[0], &[&words[1..], more].concat())
}

/// Types what the README types at a prompt, and waits for all of the answer, in whatever order it comes.
#[track_caller]
fn ask(terminal: &mut AtTerminal, prompt: &str, line: &str, answer: &[&str]) {
    is_written(&format!("{prompt}> {line}"));
    terminal.press(&format!("{line}\r"));
    terminal.wait_for_all(answer);
}

/// A tracker of the README and where it listens.
#[track_caller]
fn tracker(dir: &Path, line: &str, listen: &str) -> (AtTerminal, SocketAddr) {
    let mut tracker = run(dir, line, &[&["--listen", listen], &QUICK[..]].concat());
    tracker.wait_for("tracker listening on ");
    let address = tracker.wait_for(", TCP and UDP");
    tracker.wait_for("tracker> ");
    (tracker, address.trim_end_matches(", TCP and UDP").parse().unwrap())
}

/// A volunteer of the README that has been welcomed when this returns.
#[track_caller]
fn volunteer(dir: &Path, name: &str, line: &str, tracker: SocketAddr) -> AtTerminal {
    let folder = line.split(' ').skip_while(|word| *word != "-folder").nth(1).unwrap();
    subfolder(dir, folder);
    let mut volunteer = run(dir, line, &["--tracker", &tracker.to_string()]);
    volunteer.wait_for_all(&["takes what is lent", &format!("{name}> ")]);
    volunteer
}

fn is_gone(status: &Status, name: &str) -> bool {
    of(status, name).state == VolunteerState::Gone
}

#[test]
fn the_session_of_the_readme() {
    let place = place();
    let dir = place.path();
    let bytes = (1..=1_000_000).fold(String::new(), |mut text, number| {
        writeln!(text, "{number}").unwrap();
        text
    });
    write(&subfolder(dir, "library"), FILE, bytes.as_bytes());

    // It is spread and offloaded.
    let keep = "tracker --files library --state state --offload";
    let (mut desk, address) = tracker(dir, keep, "127.0.0.1:0");
    desk.wait_for("offering 1 file of library");
    let anna = "mkdir -p v1 && client -folder v1 -transfer_port 7101 -name anna --volunteer 2GiB";
    let bert = "mkdir -p v2 && client -folder v2 -transfer_port 7102 -name bert --volunteer 2GiB";
    let cora = "mkdir -p v3 && client -folder v3 -transfer_port 7103 -name cora --volunteer 2GiB";
    let dora =
        "mkdir -p v4 && client -folder v4 -transfer_port 7104 -name dora --volunteer 2GiB --drain-on-exit";
    let mut anna = volunteer(dir, "anna", anna, address);
    let mut bert = volunteer(dir, "bert", bert, address);
    wait_status(address, "both here", |status| here(status) == 2);
    ask(&mut desk, "tracker", "status", &["2 here of 2 known", "nothing is distributed below 3 volunteers"]);
    let _cora = volunteer(dir, "cora", cora, address);
    let mut dora = volunteer(dir, "dora", dora, address);
    wait_status(address, "all here", |status| here(status) == 4);
    desk.wait_for_all(&[
        "every chunk has its 2 copies at volunteers",
        "numbers.txt is with the volunteers, and deleted here",
    ]);
    ask(
        &mut desk,
        "tracker",
        "status",
        &["4 here of 4 known; 8.0 GiB lent", "28 verified of 28 wanted", "nothing to do"],
    );
    ask(&mut desk, "tracker", "volunteers", &["anna", "bert", "cora", "dora", "VERIFIED"]);
    ask(&mut desk, "tracker", "files", &["numbers.txt", "offloaded  28 of 28  100 %"]);
    assert_eq!(names_in(&dir.join("library")), [""; 0]);
    is_written("$ tracker status --json");
    let mut asked = Program::start("tracker", &["status", "--json", "--tracker", &address.to_string()], dir);
    asked.ends_with(0);
    let told: serde_json::Value = serde_json::from_str(&asked.stdout().join("\n")).unwrap();
    assert_eq!((&told["copies"]["verified"], &told["files"][0]["offloaded"]), (&28.into(), &true.into()));

    // A death is healed, the file is got meanwhile or after it, and the dead one comes back.
    bert.kill9();
    desk.wait_for_all(&["bert is gone with ", "repair is done: it took "]);
    wait_status(address, "healed", |status| is_gone(status, "bert") && is_safe(status, 1));
    ask(
        &mut dora,
        "dora",
        "get numbers.txt",
        &["of numbers.txt is right", "Successfully downloaded numbers.txt"],
    );
    assert_holds(&dir.join("v4").join(FILE), bytes.as_bytes());
    ask(&mut dora, "dora", "status", &["100 %", "lending 2.0 GiB, "]);
    let back = "client -folder v2 -transfer_port 7102 -name bert --volunteer 2GiB";
    let _bert = volunteer(dir, "bert", back, address);
    wait_status(address, "exactly enough", |status| {
        here(status) == 4 && is_safe(status, 1) && status.copies.verified == status.copies.wanted
    });

    // One leaves in good order, another one stays after all; copying pauses and goes on.
    ask(
        &mut desk,
        "tracker",
        "drain anna",
        &["anna is being emptied; the log says", "anna may leave: nothing depends"],
    );
    // It is told a moment after the log has it.
    let began = Instant::now();
    loop {
        ask(&mut anna, "anna", "status", &[" of 1 file"]);
        match anna.wait_for("\r\n") {
            line if line.contains("; all of it has been copied elsewhere") => break,
            line => assert!(began.elapsed() < PATIENCE, "{line}"),
        }
    }
    ask(&mut anna, "anna", "quit", &[]);
    assert_eq!(anna.exit_code(PATIENCE), Some(0));
    let status = wait_status(address, "without anna", |status| is_gone(status, "anna"));
    assert!(is_safe(&status, 1), "nothing was short when it left: {status:#?}");
    ask(&mut desk, "tracker", "repair pause", &["nothing more is copied until repair resume"]);
    ask(&mut desk, "tracker", "drain cora", &["cora is being emptied; "]);
    ask(&mut desk, "tracker", "repair", &["paused; 0 chunks on the way, "]);
    ask(&mut desk, "tracker", "repair resume", &["copying goes on"]);
    desk.wait_for("cora may leave: ");
    ask(&mut desk, "tracker", "stay cora", &["cora stays"]);
    wait_status(address, "with cora", |status| of(status, "cora").state == VolunteerState::Here);
    let anna = "client -folder v1 -transfer_port 7101 -name anna --volunteer 2GiB";
    let _anna = volunteer(dir, "anna", anna, address);
    ask(&mut dora, "dora", "quit", &["leaving: everything has been copied elsewhere"]);
    assert_eq!(dora.exit_code(PATIENCE), Some(0));
    assert!(is_safe(&wait_status(address, "without dora", |status| is_gone(status, "dora")), 1));

    // The tracker is started again, by what it knows and by what the volunteers know.
    let leaves = |mut desk: AtTerminal| {
        ask(&mut desk, "tracker", "quit", &[]);
        assert_eq!(desk.exit_code(PATIENCE), Some(0));
    };
    leaves(desk);
    let slow = "tracker --files library --state state --offload --repair-limit 20MB";
    let (mut desk, _) = tracker(dir, slow, &address.to_string());
    wait_status(address, "back", |status| here(status) == 3 && is_safe(status, 1));
    ask(&mut desk, "tracker", "repair", &["; at most 19.1 MiB/s"]);
    leaves(desk);
    is_written("$ echo nonsense > state/catalogue.redb");
    std::fs::write(dir.join("state/catalogue.redb"), "nonsense\n").unwrap();
    let mut refused = run(dir, keep, &["--listen", &address.to_string()]);
    refused.wait_for("state/catalogue.redb is damaged and has been left as it is: ");
    assert_eq!(refused.exit_code(PATIENCE), Some(17));
    let (mut desk, _) = tracker(dir, &format!("{keep} --rebuild"), &address.to_string());
    wait_status(address, "rebuilt", |status| here(status) == 3 && is_safe(status, 1));
    let mut getter = getter(dir, "x", address, &[FILE]);
    getter.ends_with(0);
    assert_holds(&dir.join("x").join(FILE), bytes.as_bytes());

    ask(
        &mut desk,
        "tracker",
        "forget numbers.txt",
        &["numbers.txt is forgotten; its copies at volunteers are dropped"],
    );
    wait_status(address, "forgotten", |status| {
        status.files_known == 0
            && ["v1", "v2", "v3"].iter().all(|name| chunk_files(&dir.join(name)).is_empty())
    });
    leaves(desk);
}
