//! The interactive prompt on a pseudo-terminal, and `leecher --list`.

use crate::common::scripted::{ScriptedTracker, kept};
use crate::common::terminal::AtTerminal;
use crate::common::wire::{FakePeer, Whole};
use crate::common::*;
use crate::transcripts::screen::Screen;
use rustix::process::Signal;
use shoal::protocol::volunteer::{VolunteerOrder, VolunteerReport};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

fn manager(dir: &Path) -> (Program, SocketAddr) {
    let program = Program::start("manager", &["--listen", "127.0.0.1:0"], dir);
    let address = program.address();
    (program, address)
}

#[test]
fn the_prompt_answers_commands_and_restores_the_terminal() {
    let place = place();
    let dir = place.path();
    let (ours, theirs) = (subfolder(dir, "ours"), subfolder(dir, "theirs"));
    let bytes = random_bytes(1, 3 << 20);
    write(&theirs, "a b.bin", &bytes);
    write(&theirs, "plain.txt", b"plain");
    let (_manager, address) = manager(dir);
    let manager = ["--manager", &address.to_string()];
    let mut other = AtTerminal::client(dir, &theirs, "other", &manager);
    other.wait_for_prompt();
    other.wait_for("sharing plain.txt");
    let mut client = AtTerminal::client(dir, &ours, "me", &manager);
    // The list of peers may arrive before the prompt is shown, or after it.
    client.wait_for_all(&["me> ", "other at "]);
    assert!(!client.is_cooked());

    client.press("files\r");
    client.wait_for("NAME");
    let table = client.wait_for("plain.txt");
    assert!(table.contains("a b.bin") && table.contains("3.0 MiB"), "{table:?}");
    // Tab completes the names that were shown last, and quotes a name with a blank.
    client.press("get a\t\r");
    client.wait_for("get \"a b.bin\"");
    client.wait_for("Successfully downloaded a b.bin");
    assert_holds(&ours.join("a b.bin"), &bytes);
    client.press("status\r");
    client.wait_for("100 %");
    client.wait_for("done");
    client.press("mine\r");
    client.wait_for("a b.bin");
    client.press("peers\r");
    client.wait_for("other ");
    client.press("why 'a b.bin'\r");
    client.wait_for("local    all 48 chunks");
    client.wait_for("other at 127.0.0.1:");
    client.press("get nothing as x\r");
    client.press("why nothing\r");
    client.wait_for("not found: no peer offers it");
    client.press("fiels\r");
    client.wait_for("did you mean files?");
    // Two lines in one write are two commands.
    client.press("get plain.txt as other.txt\rquit\r");
    assert_eq!(client.exit_code(PATIENCE), Some(0));
    assert!(client.is_cooked());
    let history = std::fs::read_to_string(dir.join("history/shoal/history")).unwrap();
    assert!(history.lines().any(|line| line == "get \"a b.bin\" "), "{history:?}");

    other.press("half a li");
    other.wait_for("me at ");
    other.press("\x03");
    other.wait_for_prompt();
    other.press("\x03");
    other.wait_for("to exit, type quit, or press Ctrl-D or Ctrl-C again");
    other.wait_for_prompt();
    assert!(other.is_running());
    other.press("\x03");
    assert_eq!(other.exit_code(PATIENCE), Some(0));
    assert!(other.is_cooked());
}

#[test]
fn a_signal_ends_the_prompt_at_once() {
    let place = place();
    let dir = place.path();
    let folder = subfolder(dir, "folder");
    let (_manager, address) = manager(dir);
    for typed in ["", "half a line"] {
        let mut client = AtTerminal::client(dir, &folder, "me", &["--manager", &address.to_string()]);
        client.wait_for("me> ");
        client.press(typed);
        client.wait_for(typed);
        client.signal(Signal::TERM);
        // Ample time for the exit, but less than the timeout of a wait for a key.
        assert_eq!(client.exit_code(Duration::from_secs(5)), Some(0));
        assert!(client.is_cooked());
    }
}

#[test]
fn status_shows_offered_storage_and_quit_waits_for_the_drain() {
    let place = place();
    let dir = place.path();
    let whole = Whole::new(random_bytes(1, 40_000), 16 << 10);
    let (tracker, source) = (ScriptedTracker::start(), FakePeer::answering(&whole, |_, right| Some(right)));
    let to = tracker.address.to_string();
    let extra = ["--tracker", &to, "--volunteer", "1MiB", "--drain-on-exit"];
    let folder = subfolder(dir, "folder");
    for ends_by_itself in [true, false] {
        let mut client = AtTerminal::client(dir, &folder, "me", &extra);
        let (mut session, _) = tracker.volunteer();
        client.wait_for("accepted 1.0 MiB of storage");
        session.copy(&kept(&whole, "f"), &[0, 1], source.address);
        client.press("status\r");
        client.wait_for("offering 1.0 MiB of storage, 32.0 KiB used in 2 chunks of 1 file\r\n");
        client.press("quit\r");
        assert_eq!(session.answer(), VolunteerReport::Drain);
        session.order(VolunteerOrder::Draining { left: 2 });
        client.wait_for("draining: 2 chunks left");
        match ends_by_itself {
            true => session.order(VolunteerOrder::Draining { left: 0 }),
            false => client.signal(Signal::INT),
        }
        session.says_goodbye();
        assert_eq!(client.exit_code(PATIENCE), Some(0));
        assert!(client.is_cooked());
    }
}

#[test]
fn log_lines_keep_the_edited_line_intact() {
    let place = place();
    let dir = place.path();
    let (ours, theirs) = (subfolder(dir, "ours"), subfolder(dir, "theirs"));
    let (_manager, address) = manager(dir);
    let manager = ["--manager", &address.to_string()];
    let mut client = AtTerminal::client(dir, &ours, "me", &manager);
    client.wait_for("me> ");
    client.press("pee");
    client.wait_for("pee");
    let _other = AtTerminal::client(dir, &theirs, "other", &manager);
    client.wait_for("other at ");
    // After the log line the prompt is shown again, with the text typed so far.
    client.wait_for("\n");
    client.wait_for("me> pee");
    client.press("rs\r");
    client.wait_for("NAME");
    client.wait_for("other ");
    // Until the prompt is shown, the terminal driver would process the key, not the line editor.
    client.wait_for_prompt();
    client.press("\x04");
    assert_eq!(client.exit_code(PATIENCE), Some(0));
}

#[test]
fn log_lines_are_printed_above_a_line_that_is_wider_than_the_terminal() {
    let place = place();
    let dir = place.path();
    let (ours, theirs) = (subfolder(dir, "ours"), subfolder(dir, "theirs"));
    let (_manager, address) = manager(dir);
    let at = address.to_string();
    let text = "get abcdefghijklmnopqrstuvwxyz-0123456789-abcdefghijklmnopqrstuvwxyz-0123456789-end";
    for columns in [80, 40, 20] {
        let folder = ours.to_str().unwrap();
        let args = ["-folder", folder, "-transfer_port", "0", "-name", "me", "--manager", &at];
        let mut client = AtTerminal::start_sized(dir, "client", &args, (columns, 40));
        client.wait_for_all(&["me> ", "registered with"]);
        client.press(text);
        client.wait_for("-end");
        let _other = plain(dir, &theirs, "other", &["--manager", &at]);
        client.wait_for("1 other peer active");
        client.wait_for(&format!("me> {text}"));
        let mut screen = Screen::with_columns(columns.into());
        screen.feed(client.output().as_bytes());
        let shown = screen.lines().concat();
        // The input is shown once, below whole log lines.
        assert_eq!(shown.matches("me> ").count(), 1, "{columns}: {:?}", screen.lines());
        let shown = shown.replace(' ', "");
        let (above, input) = shown.split_once("me>").unwrap();
        assert!(above.ends_with("-INFO-1otherpeeractive"), "{columns}: {above:?}");
        assert_eq!(input, text.replace(' ', ""), "{columns}");
        client.press("\x03");
        client.wait_for_prompt();
        client.press("\x04");
        assert_eq!(client.exit_code(PATIENCE), Some(0));
    }
}

#[test]
fn managers_and_trackers_list_their_peers() {
    let place = place();
    let dir = place.path();
    let (one, other) = (subfolder(dir, "one"), subfolder(dir, "other"));
    for (program, flag, prompt) in
        [("manager", "--manager", "manager> "), ("tracker", "--tracker", "tracker> ")]
    {
        let mut server = AtTerminal::start(dir, program, &["--listen", "127.0.0.1:0"]);
        server.wait_for(" listening on ");
        let at = server.wait_for(",").trim_end_matches(',').to_owned();
        server.wait_for(prompt);
        server.press("peers\r");
        server.wait_for("no peers are registered");
        let plain = |folder: &Path, name| {
            let client =
                plain(dir, folder, name, &["--plain", flag, &at][usize::from(flag == "--manager")..]);
            client.wait_for_text("registered with the");
            client
        };
        let _clients = [plain(&one, "anna"), plain(&other, "bert")];
        server.wait_for_all(&["anna joined at", "bert joined at"]);
        server.press("peers b\t\r");
        server.wait_for("NAME");
        let shown = server.wait_for("bert ");
        assert!(!shown.contains("anna"), "{shown:?}");
        server.wait_for_prompt();
        server.press("per\r");
        server.wait_for("did you mean peers?");
        server.wait_for_prompt();
        server.press("\x03");
        server.wait_for("to exit, type quit, or press Ctrl-D or Ctrl-C again");
        server.wait_for_prompt();
        server.press("\x04");
        assert_eq!(server.exit_code(PATIENCE), Some(0));
        assert!(server.is_cooked());
    }
}

#[test]
fn the_files_of_a_tracker_are_listed() {
    let place = place();
    let dir = place.path();
    let tracker = tracker(dir, &[]);
    let list = || {
        let mut leecher = leecher(dir, tracker.address(), &["--list"]);
        leecher.ends_with(0);
        leecher
    };
    let none = list();
    assert!(none.stdout().is_empty());
    none.wait_for_text("knows no files");
    let one = write(dir, "one.txt", b"one");
    let other = write(&subfolder(dir, "other"), "one.txt", b"another");
    let _seeders = [seeder(dir, &one, &tracker, &[]), seeder(dir, &other, &tracker, &[])];
    let lines = list().stdout();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("NAME"), "{lines:?}");
    assert!(lines[1..].iter().all(|line| line.starts_with("one.txt  ")), "{lines:?}");
    // A client with a tracker only lists the same files at its prompt.
    let folder = subfolder(dir, "folder");
    let extra = ["--plain", "--tracker", &tracker.address().to_string()];
    let mut client = AtTerminal::client(dir, &folder, "me", &extra);
    client.wait_for("me> ");
    client.press("files\r");
    client.wait_for("one.txt");
    client.wait_for("one.txt");
    client.press("get one.txt\r");
    client.wait_for("2 different files are called one.txt");
    client.press("quit\r");
    assert_eq!(client.exit_code(PATIENCE), Some(0));
    let unused = "127.0.0.1:9".parse().unwrap();
    crate::common::leecher(dir, unused, &["--list"]).ends_with(5);
}
