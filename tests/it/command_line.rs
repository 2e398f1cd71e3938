//! The command line as users meet it: `--help`, its reference in `docs/command-line.md`, and the next command that the
//! text of a likely mistake names.

use crate::common::*;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

/// The programs, and the subcommand that has flags of its own.
const PROGRAMS: [&str; 7] =
    ["tracker", "tracker status", "manager", "manager status", "seeder", "leecher", "client"];
/// Commands for the owner of a running tracker.
const OWNER_COMMANDS: [&str; 10] = [
    "tracker peers",
    "tracker approve",
    "tracker deny",
    "tracker drain",
    "tracker stay",
    "tracker forget-volunteer",
    "tracker recall",
    "tracker offload",
    "tracker forget",
    "tracker verify",
];
/// Commands with examples in their help.
const WITH_EXAMPLES: [&str; 8] = [
    "tracker",
    "tracker status",
    "tracker approve",
    "tracker forget",
    "manager",
    "seeder",
    "leecher",
    "client",
];
/// Headings of `--help`, in their order.
const HEADINGS: [&str; 12] = [
    "Commands:",
    "Arguments:",
    "Files:",
    "Volunteers:",
    "Network:",
    "Limits:",
    "Timeouts:",
    "Output:",
    "Logging:",
    "Help:",
    "Exit codes:",
    "Examples:",
];
/// Flags with another meaning in these programs than in all others.
/// The client says in addition that `--manager` is for plain folders.
const EXCEPTIONS: [(&str, &[&str]); 3] =
    [("--listen", &["tracker", "manager"]), ("--as", &["leecher"]), ("--manager", &["manager status"])];

/// The description of a flag.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    default: String,
    meaning: String,
    /// Environment variables, which the reference names by their rule.
    variables: String,
}

fn run(program: &str, extra: &str) -> Program {
    let mut words = program.split(' ').chain(extra.split_whitespace());
    let (bin, args): (_, Vec<&str>) = (words.next().unwrap(), words.by_ref().collect());
    Program::start(bin, &args, Path::new(env!("CARGO_TARGET_TMPDIR")))
}

fn help(program: &str) -> Vec<String> {
    let mut help = run(program, "--help");
    help.ends_with(0);
    help.stdout()
}

/// Cuts a `[key: value]` out of a text and returns the value.
fn cut(text: &mut String, key: &str) -> Option<String> {
    let start = text.find(&format!("[{key}: "))?;
    let length = text[start..].find(']')? + 1;
    let value = text[start + key.len() + 3..start + length - 1].to_owned();
    text.replace_range(start..start + length, "");
    Some(value)
}

/// The long name of a flag at the beginning of a text, and the rest.
fn long_flag(text: &str) -> Option<(String, &str)> {
    let at = text.find("--")?;
    let end = text[at..].find([' ', '.', '`']).map_or(text.len(), |end| at + end);
    Some((text[at..end].to_owned(), &text[end..]))
}

/// Every long flag in the help of a program.
fn flags_in_help(program: &str) -> BTreeMap<String, Told> {
    let mut texts: Vec<(String, String)> = Vec::new();
    for line in help(program).into_iter().take_while(|line| line != "Exit codes:") {
        let indented = line.len() - line.trim_start().len();
        if line.trim_start().starts_with('-') && indented <= 6 {
            let (name, rest) = long_flag(&line).unwrap();
            let rest = rest.trim_start_matches("...").trim_start();
            let has_value = rest.starts_with('<') || rest.starts_with("[<");
            let text = if has_value { rest.split_once('>').unwrap().1 } else { rest };
            let text = text.trim_start_matches(']').trim_start_matches("...");
            texts.push((name, text.trim().to_owned()));
        } else if indented >= 8
            && let Some((_, text)) = texts.last_mut()
        {
            text.push(' ');
            text.push_str(line.trim());
        }
    }
    let told = |mut text: String| {
        let default = cut(&mut text, "default").unwrap_or_default();
        let _ = (cut(&mut text, "alias"), cut(&mut text, "possible values"));
        let variables = cut(&mut text, "env").unwrap_or_default();
        let meaning = text.split_whitespace().collect::<Vec<_>>().join(" ");
        Told { default, meaning, variables }
    };
    texts.into_iter().map(|(name, text)| (name, told(text))).collect()
}

fn reference() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/command-line.md")).unwrap()
}

/// Every flag of a program in the reference: the tables below the headings that name the program.
fn flags_in_reference(program: &str) -> BTreeMap<String, Told> {
    let text = reference();
    let section = text.split("\n## Flags\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let mut flags = BTreeMap::new();
    for part in section.split("\n### ").skip(1) {
        let heading = part.lines().next().unwrap();
        if !heading.contains(&format!("`{program}`")) {
            continue;
        }
        for row in part.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let (name, _) = long_flag(cells[0]).unwrap();
            let default = if cells[1] == "required" { "" } else { cells[1] };
            let told = Told { default: default.to_owned(), meaning: cells[2].to_owned(), ..Told::default() };
            assert!(flags.insert(name, told).is_none(), "{program}: {} is listed twice", cells[0]);
        }
    }
    flags
}

#[test]
fn the_reference_lists_the_flags_of_help_with_default_and_meaning() {
    for program in PROGRAMS.into_iter().chain(OWNER_COMMANDS) {
        let (help, reference) = (flags_in_help(program), flags_in_reference(program));
        assert!(help.len() > 4 && help.contains_key("--log-file"), "{program}: {help:?}");
        for (name, told) in &help {
            let shown = |told: &Told| (told.default.clone(), told.meaning.clone());
            let wanted = reference.get(name).map(shown);
            assert_eq!(Some(shown(told)), wanted, "{program} {name}: help, and the reference");
        }
        for name in reference.keys() {
            assert!(help.contains_key(name), "{program} has no flag {name}");
        }
    }
}

#[test]
fn help_names_the_variables_of_each_setting_and_none_for_actions() {
    const COMMON: [&str; 4] = ["tracker", "manager", "log-file", "no-discovery"];
    // The reference lists the actions.
    let text = reference();
    let actions = text.split("have no variable: ").nth(1).unwrap().split(". A variable").next().unwrap();
    let actions: Vec<&str> = actions.split('`').filter(|word| word.starts_with("--")).collect();
    assert!(actions.len() > 10, "{actions:?}");
    for program in PROGRAMS.into_iter().chain(OWNER_COMMANDS) {
        for (name, told) in flags_in_help(program) {
            if actions.contains(&name.as_str()) || ["--help", "--version"].contains(&name.as_str()) {
                assert_eq!(told.variables, "", "{program} {name}");
                continue;
            }
            let flag = name.trim_start_matches('-');
            let upper = flag.replace('-', "_").to_uppercase();
            let own = format!("SHOAL_{}_{upper}", program.split(' ').next().unwrap().to_uppercase());
            let wanted = if COMMON.contains(&flag) { format!("{own}, SHOAL_{upper}") } else { own };
            assert_eq!(told.variables, wanted, "{program} {name}");
        }
    }
}

#[test]
fn a_flag_has_the_same_help_in_all_programs() {
    let mut seen: BTreeMap<(String, bool), (&str, String)> = BTreeMap::new();
    for program in PROGRAMS {
        for (name, Told { meaning, .. }) in flags_in_help(program) {
            let is_exception =
                EXCEPTIONS.iter().any(|(flag, programs)| *flag == name && programs.contains(&program));
            let (first, text) =
                seen.entry((name.clone(), is_exception)).or_insert((program, meaning.clone()));
            assert_eq!(*text, meaning, "{name} of {first} and of {program}");
        }
    }
}

#[test]
fn help_begins_with_the_purpose_and_ends_with_three_examples() {
    for program in WITH_EXAMPLES {
        let lines = help(program);
        let purpose: Vec<&str> =
            lines.iter().map(String::as_str).take_while(|line| !line.is_empty()).collect();
        let purpose = purpose.join(" ");
        assert!(purpose.starts_with(char::is_uppercase) && purpose.ends_with('.'), "{program}: {purpose}");
        assert!(lines[purpose_lines(&lines) + 1].starts_with("Usage: "), "{program}: {lines:?}");
        let headings: Vec<&str> =
            HEADINGS.into_iter().filter(|heading| lines.iter().any(|line| line == heading)).collect();
        let shown: Vec<&str> = lines
            .iter()
            .map(String::as_str)
            .filter(|line| line.ends_with(':') && line.starts_with(char::is_uppercase))
            .collect();
        assert_eq!(shown, headings, "{program}");
        let examples: Vec<&str> = lines[lines.len() - 6..].iter().map(|line| line.trim()).collect();
        assert_eq!(lines[lines.len() - 7], "Examples:");
        for pair in examples.chunks(2) {
            assert!(pair[0].starts_with("# ") && pair[1].starts_with(program), "{program}: {pair:?}");
        }
    }
}

fn purpose_lines(lines: &[String]) -> usize {
    lines.iter().take_while(|line| !line.is_empty()).count()
}

#[test]
fn the_examples_of_help_parse() {
    for program in WITH_EXAMPLES {
        let lines = help(program);
        for example in lines[lines.len() - 6..].iter().skip(1).step_by(2) {
            let mut parsed = run(example.trim(), "--help");
            assert_eq!(parsed.exit_code(), Some(0), "{example}: {:?}", parsed.lines());
        }
    }
}

#[test]
fn port_and_transfer_port_are_one_flag() {
    let place = place();
    let dir = place.path();
    let (file, folder) = (write(dir, "file", b"bytes"), chunk_folder(dir, "folder", 1, &[(1, b"x")]));
    let (file, folder) = (file.to_str().unwrap(), folder.to_str().unwrap());
    let closed = "127.0.0.1:9";
    Program::start("seeder", &["-f", file, "-transfer_port", "0", "--tracker", closed], dir).address();
    for flag in ["--port", "-p", "-transfer-port"] {
        let args = ["-folder", folder, flag, "0", "-name", "a", "--tracker", closed];
        Program::start("client", &args, dir).address();
    }
}

#[test]
fn a_usage_error_shows_an_example() {
    for (command, example) in [
        ("client", "Example: client -folder "),
        ("client -folde x", "Example: client -folder "),
        ("seeder -fil x", "Example: seeder -f "),
        ("leecher --no-such-flag", "Example: leecher "),
        ("manager -lisen x", "Example: manager"),
        ("tracker --files x", "Example: tracker"),
    ] {
        let mut program = run(command, "");
        program.ends_with(2);
        program.wait_for_text(example);
    }
}

#[test]
fn a_peer_name_may_have_spaces_and_a_wrong_one_is_refused_with_the_reason() {
    let place = place();
    let dir = place.path();
    let (tracker, file) = (tracker(dir, &[]), write(dir, "a.bin", b"bytes"));
    let _seeder = seeder(dir, &file, &tracker, &["--name", "Anna M"]);
    tracker.wait_for_text("Anna M has 1 of 1 chunks of a.bin");
    for (name, reason) in [
        ("a,b", r#"contains ','; a name has no , / \ : * ? " < > |, tabs or control characters"#),
        ("p2ptracker", r#"the name "p2ptracker" belongs to trackers"#),
    ] {
        let mut refused = Program::start("seeder", &["-f", "a.bin", "--name", name], dir);
        refused.ends_with(2);
        refused.wait_for_text(reason);
    }
}

#[test]
fn a_program_that_starts_names_the_next_command() {
    let place = place();
    let dir = place.path();
    let (tracker, manager) = (tracker(dir, &[]), manager(dir, &[]));
    tracker.wait_for_text(&format!("share a file with: seeder -f FILE --tracker {}", tracker.address()));
    manager.wait_for_text(&format!("-name NAME --manager {}", manager.address()));
    let file = write(dir, "two words", b"bytes");
    let seeder = seeder(dir, &file, &tracker, &[]);
    seeder.wait_for_text(&format!("download it with: leecher 'two words' --tracker {}", tracker.address()));
    let folder = chunk_folder(dir, "folder", 2, &[(1, b"x")]);
    let chunks = client(dir, &folder, "chunks", tracker.address(), &[]);
    chunks.wait_for_text("start another client of this set with: client -folder PATH ");
    let shared = start_member(dir, &subfolder(dir, "shared"), "shared", manager.address(), &[]);
    shared.wait_for_text("download a file into another folder with: client -folder PATH ");
}

#[test]
fn a_missing_tracker_or_manager_can_be_started_with_the_named_command() {
    let place = place();
    let dir = place.path();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start =
        format!("start one with: tracker --listen {closed} (or choose another with --tracker HOST:PORT)");
    let file = write(dir, "file", b"bytes");
    let folder = chunk_folder(dir, "folder", 1, &[(1, b"x")]);
    let mut programs = [
        start_seeder(dir, &file, closed, &["--timeout", "1"]),
        leecher(dir, closed, &["x", "--wait", "1"]),
        leecher(dir, closed, &["--list"]),
        client(dir, &folder, "a", closed, &["--timeout", "1"]),
    ];
    for program in &mut programs {
        program.ends_with(5);
        program.wait_for("the command", |line| line.contains(" - ERROR - ") && line.contains(&start));
    }
    let closed = closed.to_string();
    let mut status = Program::start("tracker", &["status", "--tracker", &closed], dir);
    status.ends_with(5);
    status.wait_for_text(&start);
    let plain = subfolder(dir, "plain");
    let mut member = start_member(dir, &plain, "a", closed.parse().unwrap(), &["--timeout", "1"]);
    member.ends_with(5);
    member.wait_for_text(&format!(
        "start one with: manager --listen {closed} (or choose another with --manager"
    ));
}

#[test]
fn the_address_of_another_program_is_recognised() {
    let place = place();
    let dir = place.path();
    let (tracker, manager) = (tracker(dir, &[]), manager(dir, &[]));
    let file = write(dir, "file", b"bytes");
    let chunks = chunk_folder(dir, "chunks", 2, &[(1, b"x")]);
    let plain = subfolder(dir, "plain");
    // A manager for a tracker.
    let wrong = manager.address();
    for program in [
        start_seeder(dir, &file, wrong, &[]),
        leecher(dir, wrong, &["x"]),
        leecher(dir, wrong, &["--list"]),
        client(dir, &chunks, "a", wrong, &[]),
    ] {
        let line = program.wait_for_text("is a manager");
        assert!(line.contains("--tracker HOST:PORT") && !line.contains("start one with"), "{line}");
    }
    // A tracker for a manager.
    let member = start_member(dir, &plain, "a", tracker.address(), &[]);
    member.wait_for_text(&format!("use it with --tracker {} --plain", tracker.address()));
    drop(member);
    // A peer for either.
    let seeder = seeder(dir, &file, &tracker, &[]);
    let wrong = seeder.address();
    for program in [client(dir, &chunks, "a", wrong, &[]), start_member(dir, &plain, "a", wrong, &[])] {
        program.wait_for_text("this is a peer");
    }
}

#[test]
fn a_wrong_file_or_folder_is_named_with_a_command_that_works() {
    let place = place();
    let dir = place.path();
    let file = write(dir, "file", b"bytes");
    let plain = subfolder(dir, "plain");
    let mut missing = Program::start("seeder", &["-p", "0"], dir);
    missing.ends_with(17);
    missing.wait_for_text("cannot open large_text_file.txt: No such file or directory");
    missing.wait_for_text("choose an existing file with: seeder -f FILE");
    for (path, text) in [
        (dir.join("nowhere"), "nowhere not found; create it with: mkdir -p "),
        (file, "is a file, not a folder; share a single file with: seeder -f "),
        (plain, "plain is a plain folder; share it through a tracker with: client -folder "),
    ] {
        let mut client = crate::common::plain(dir, &path, "a", &[]);
        client.ends_with(17);
        client.wait_for_text(text);
    }
}

#[test]
fn a_file_that_no_peer_offers_is_reported_with_the_command_that_lists_files() {
    let place = place();
    let tracker = tracker(place.path(), &[]);
    let mut lost = leecher(place.path(), tracker.address(), &["lost", "--wait", "0"]);
    lost.ends_with(3);
    let list = format!("list the offered files with: leecher --list --tracker {}", tracker.address());
    lost.wait_for_text(&format!("lost not found: no peer offers it; {list}"));
    let mut list = leecher(place.path(), tracker.address(), &["--list"]);
    list.ends_with(0);
    list.wait_for_text("knows no files; share a file with: seeder -f FILE --tracker ");
}

#[test]
fn a_port_in_use_is_reported_with_the_flag_that_chooses_another() {
    let place = place();
    let dir = place.path();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, port) =
        (taken.local_addr().unwrap().to_string(), taken.local_addr().unwrap().port().to_string());
    write(dir, "file", b"bytes");
    chunk_folder(dir, "chunks", 1, &[(1, b"x")]);
    subfolder(dir, "plain");
    for (bin, args, flag) in [
        ("tracker", vec!["--listen", &address], "--listen HOST:PORT"),
        ("tracker", vec!["--listen", "127.0.0.1:0", "--state", "s", "-p", &port], "--transfer_port PORT"),
        ("manager", vec!["--listen", &address], "--listen HOST:PORT"),
        ("seeder", vec!["-f", "file", "-p", &port], "-p PORT"),
        ("leecher", vec!["x", "--stay", "-p", &port], "--port PORT"),
        ("client", vec!["-folder", "chunks", "-name", "a", "-p", &port], "-transfer_port PORT"),
        ("client", vec!["-folder", "plain", "-name", "a", "-p", &port, "--plain"], "-transfer_port PORT"),
    ] {
        let mut program = Program::start(bin, &args, dir);
        program.ends_with(1);
        program.wait_for_text(&format!("port {port} on 127.0.0.1 is in use by another program (TCP)"));
        program.wait_for_text(&format!("; choose another port with {flag}"));
    }
}
