//! Commands from a pipe or file to the prompts of client, manager and tracker.

use crate::common::terminal::AtTerminal;
use crate::common::*;
use std::path::Path;

/// Starts a client with a plain folder whose standard input is what a shell command makes it.
fn client(dir: &Path, folder: &Path, input: &str, extra: &[&str]) -> Program {
    let script = format!("{input} exec \"$0\" \"$@\"");
    let mut args = vec!["-folder", folder.to_str().unwrap(), "-transfer_port", "0", "-name", "me"];
    args.extend(extra);
    Program::start_by(&["sh", "-c", &script], "client", &args, dir)
}

/// A client whose standard input has these lines.
fn client_with_lines(dir: &Path, folder: &Path, lines: &str, extra: &[&str]) -> Program {
    let file = write(dir, "commands", lines.as_bytes());
    let script = format!("exec \"$0\" \"$@\" < <(cat {})", file.display());
    let mut args = vec!["-folder", folder.to_str().unwrap(), "-transfer_port", "0", "-name", "me"];
    args.extend(extra);
    Program::start_by(&["bash", "-c", &script], "client", &args, dir)
}

#[test]
fn piped_commands_are_executed_in_order_and_the_end_of_input_quits() {
    let place = place();
    let dir = place.path();
    let (ours, theirs) = (subfolder(dir, "ours"), subfolder(dir, "theirs"));
    let bytes = random_bytes(1, 3 << 20);
    for name in ["a b.bin", "c.txt", "d.txt", "e.md"] {
        write(&theirs, name, &bytes[name.len()..]);
    }
    let manager = manager(dir, &[]);
    let at = manager.address().to_string();
    let extra = ["--manager", &at, "--wait", "60"];
    let other = plain(dir, &theirs, "other", &extra);
    ["a b.bin,", "c.txt,", "d.txt,", "e.md,"]
        .iter()
        .for_each(|name| _ = other.wait_for_text(&format!("sharing {name}")));
    let lines = "peers\nget 'a b.bin'\nmine\n\nget '*.txt' e.md\nstatus\n";
    let mut client = client_with_lines(dir, &ours, lines, &extra);
    client.ends_with(0);
    let out = client.stdout();
    let at =
        |text: &str| out.iter().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{out:?}"));
    let first = at("Successfully downloaded a b.bin");
    assert!(at("other ") < first && first < at("a b.bin  3.0 MiB"), "{out:?}");
    for name in ["c.txt", "d.txt", "e.md"] {
        assert!(at(&format!("Successfully downloaded {name}")) < at(&format!("{name} ")), "{out:?}");
        assert_holds(&ours.join(name), &bytes[name.len()..]);
    }
    // No prompt, and no escape sequence of the line editor.
    assert!(!client.lines().iter().any(|line| line.contains("me>") || line.contains('\u{1b}')));
}

#[test]
fn the_first_failed_command_gives_the_exit_code_and_the_others_are_executed() {
    let place = place();
    let dir = place.path();
    let (ours, theirs) = (subfolder(dir, "ours"), subfolder(dir, "theirs"));
    write(&theirs, "x.txt", b"x");
    let manager = manager(dir, &[]);
    let at = manager.address().to_string();
    let extra = ["--manager", &at, "--wait", "1"];
    let other = plain(dir, &theirs, "other", &extra);
    other.wait_for_text("sharing x.txt,");
    let mut client =
        client_with_lines(dir, &ours, "get nothing.txt\nfiels\nget x.txt\nquit\nget y.txt", &extra);
    client.ends_with(3);
    assert!(client.has_said("line 2 of standard input: unknown command fiels; did you mean files?"));
    assert!(ours.join("x.txt").exists() && !client.has_said("y.txt"));
}

#[test]
fn a_get_without_a_manager_gives_up_and_names_it() {
    let place = place();
    let dir = place.path();
    let ours = subfolder(dir, "ours");
    let mut client =
        client_with_lines(dir, &ours, "get x.txt\n", &["--manager", "127.0.0.1:9", "--wait", "1"]);
    client.ends_with(5);
    client.wait_for_text("no list of peers from the manager on 127.0.0.1:9 for 10 s");
}

#[test]
fn managers_and_trackers_take_piped_commands() {
    let place = place();
    let dir = place.path();
    for (program, lines, code, text) in [
        ("manager", "peers\n", 0, "no peers are registered"),
        ("manager", "peer\nquit\n", 2, "line 1 of standard input: unknown command peer; did you mean peers?"),
        ("tracker", "peers\nquit\n", 0, "no peers are registered"),
        ("tracker", "help\ndrain anna\n", 1, "line 2 of standard input: this tracker keeps no files"),
    ] {
        let file = write(dir, "commands", lines.as_bytes());
        let script = format!("exec \"$0\" \"$@\" < {}", file.display());
        let mut ended = Program::start_by(&["sh", "-c", &script], program, &["--listen", "127.0.0.1:0"], dir);
        ended.ends_with(code);
        ended.wait_for_text(text);
    }
}

#[test]
fn a_program_without_commands_on_its_input_runs_on() {
    let place = place();
    let dir = place.path();
    let (folder, another) = (subfolder(dir, "folder"), subfolder(dir, "another"));
    let manager = manager(dir, &[]);
    let at = manager.address().to_string();
    for (number, input) in ["", "exec <&-;", ": | ", "exec 0>/dev/null;", "exec <.;"].iter().enumerate() {
        let mut client = match input.contains('|') {
            true => client_with_lines(dir, &folder, "", &["--manager", &at]),
            false => client(dir, &folder, input, &["--manager", &at]),
        };
        client.wait_for_text("registered with the manager");
        // The manager has processed a later event than the end of the input of this client.
        let mut other = client_with_lines(dir, &another, "peers\nquit\n", &["--manager", &at]);
        other.ends_with(0);
        assert_eq!(other.stdout().len(), 2, "the client above is listed: {input}");
        client.interrupt();
        client.ends_with(0);
        manager.wait_for_count(" is gone", 2 * (number + 1));
    }
}

#[test]
fn several_files_are_downloaded_and_a_download_is_cancelled_at_the_prompt() {
    let place = place();
    let dir = place.path();
    let (ours, theirs) = (subfolder(dir, "ours"), subfolder(dir, "theirs"));
    let bytes = random_bytes(1, 24 << 20);
    write(&theirs, "slow.bin", &bytes);
    ["a.txt", "b.txt", "c.md"].iter().for_each(|name| _ = write(&theirs, name, name.as_bytes()));
    let manager = manager(dir, &[]);
    let at = manager.address().to_string();
    let other = plain(dir, &theirs, "other", &["--manager", &at]);
    ["slow.bin,", "a.txt,", "b.txt,", "c.md,"]
        .iter()
        .for_each(|name| _ = other.wait_for_text(&format!("sharing {name}")));
    let extra = ["--manager", &at, "--download-limit", "4MiB"];
    let mut client = AtTerminal::client(dir, &ours, "me", &extra);
    client.wait_for_all(&["me> ", "other at "]);
    client.press("get '*.txt' c.md\r");
    client.wait_for_all(&["Successfully downloaded a.txt", "Successfully downloaded b.txt"]);
    client.press("get slow.bin\r");
    client.wait_for("slow.bin has ");
    while !ours.join("slow.bin.part").exists() {
        client.press("status\r");
        client.wait_for("NAME ");
        client.wait_for_prompt();
    }
    client.press("cancel slow\r");
    client.wait_for("slow is not being downloaded (running: slow.bin)");
    client.wait_for_prompt();
    client.press("cancel sl\t\r");
    client.wait_for("slow.bin cancelled; resume it with: get slow.bin");
    client.press("status\r");
    client.wait_for("cancelled; resume with: get slow.bin");
    assert!(ours.join("slow.bin.part").exists());
    client.press("quit\r");
    assert_eq!(client.exit_code(PATIENCE), Some(0));
    // The next run lists it with the command that resumes it.
    let mut next = client_with_lines(dir, &ours, "status\n", &["--manager", &at]);
    next.ends_with(0);
    let out = next.stdout();
    assert!(out.len() == 2 && out[0].starts_with("UNFINISHED"), "{out:?}");
    assert!(out[1].starts_with("slow.bin ") && out[1].ends_with("  get slow.bin"), "{out:?}");
    assert!(ours.join("c.md").exists() && ours.join("slow.bin.part").exists());
}
