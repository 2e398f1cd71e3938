//! Commands of the tracker prompt, and the parser of a line.
//!
//! Pure. Invariant: each line is a valid command or an error with a correction; the parser never guesses.

use crate::cli::prompt::command::{quoted, similar, split, words};
use crate::cli::prompt::complete::{Offer, offer};
use crate::cli::table::{Side, table};
use crate::swarm::command::{Command, FileSelector, VolunteerSelector};
use std::collections::BTreeSet;

/// The commands: name, syntax and effect.
const COMMANDS: [(&str, &str, &str); 18] = [
    ("status", "status", "show volunteers, files and replicas"),
    ("files", "files [--long]", "list the files and their replicas; --long shows whole ids"),
    ("volunteers", "volunteers", "list the volunteers and their storage"),
    ("sets", "sets", "show the agreed hash, the holders and claims that differ of each chunk of a chunk set"),
    ("peers", "peers [NAME]", "list the registered peers, or those whose name begins with NAME"),
    ("repair", "repair [pause|resume|status]", "show, pause or resume repair"),
    ("approve", "approve VOLUNTEER", "let proven replicas of a volunteer justify deletions"),
    ("deny", "deny VOLUNTEER", "do not count the replicas of a volunteer"),
    ("drain", "drain VOLUNTEER", "copy the replicas of a volunteer elsewhere, so that it can leave"),
    ("stay", "stay VOLUNTEER", "cancel a drain"),
    ("forget-volunteer", "forget-volunteer VOLUNTEER", "remove the record of a volunteer that left"),
    ("recall", "recall FILE", "bring a file back into the folder, and never offload it"),
    (
        "offload",
        "offload FILE [--dry-run]",
        "delete a file from the folder as soon as its replicas permit it",
    ),
    ("forget", "forget FILE [--yes] [--dry-run]", "stop replicating a file: volunteers delete its chunks"),
    ("verify", "verify FILE", "let the volunteers prove all replicas of a file now"),
    ("yes", "yes", "confirm the command that was typed last"),
    ("help", "help", "show this help"),
    ("quit", "quit", "stop the tracker (also exit, Ctrl-D, or Ctrl-C twice)"),
];

/// A parsed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// An empty line.
    Nothing,
    /// Show volunteers, files and replicas.
    Status,
    /// List the files; `true` shows whole ids.
    Files(bool),
    /// List the volunteers.
    Volunteers,
    /// Show the chunk sets.
    Sets,
    /// List the registered peers whose names begin with this text.
    Peers(String),
    /// Show the progress of repair.
    Repair,
    /// A command for the tracker.
    Do(Command),
    /// Confirm the last command.
    Yes,
    /// List the commands.
    Help,
    /// Stop the tracker.
    Quit,
}

/// Parses a line.
///
/// # Errors
/// The line is not a command. The text is the correction for the user.
pub fn parse(line: &str) -> Result<Line, String> {
    let texts = split(line)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let Some((command, arguments)) = texts.split_first() else { return Ok(Line::Nothing) };
    if let Some(line) = without_argument(command) {
        return match arguments {
            [] => Ok(line),
            _ => Err(format!("{command} takes no argument")),
        };
    }
    match (*command, arguments) {
        ("files", []) => Ok(Line::Files(false)),
        ("files", ["--long"]) => Ok(Line::Files(true)),
        ("files", _) => Err("files takes no name: files [--long]".to_owned()),
        ("peers", []) => Ok(Line::Peers(String::new())),
        ("peers", [name]) => Ok(Line::Peers((*name).to_owned())),
        ("peers", _) => Err("peers takes one name: peers [NAME]".to_owned()),
        ("repair", [] | ["status"]) => Ok(Line::Repair),
        ("repair", ["pause"]) => Ok(Line::Do(Command::Pause { on: true })),
        ("repair", ["resume"]) => Ok(Line::Do(Command::Pause { on: false })),
        ("repair", _) => {
            Err("unknown argument; type repair pause, repair resume or repair status".to_owned())
        }
        _ => with_argument(command, arguments).map(Line::Do),
    }
}

fn without_argument(command: &str) -> Option<Line> {
    Some(match command {
        "status" => Line::Status,
        "volunteers" => Line::Volunteers,
        "sets" => Line::Sets,
        "yes" => Line::Yes,
        "help" | "?" => Line::Help,
        "quit" | "exit" => Line::Quit,
        _ => return None,
    })
}

/// Parses a command with the name of a volunteer or a file.
fn with_argument(command: &str, arguments: &[&str]) -> Result<Command, String> {
    let permitted: &[&str] = match command {
        "approve" | "deny" | "drain" | "stay" | "recall" | "verify" => &[],
        "forget-volunteer" => &["--yes"],
        "offload" => &["--dry-run"],
        "forget" => &["--yes", "--dry-run"],
        _ => return Err(unknown(command)),
    };
    let (flags, names): (Vec<&str>, Vec<&str>) =
        arguments.iter().partition(|argument| permitted.contains(argument));
    let name = match names[..] {
        [name] => name.to_owned(),
        [] => return Err(format!("name missing: {}", usage(command))),
        _ => {
            return Err(format!("a name with spaces needs quotes: {command} {}", quoted(&names.join(" "))));
        }
    };
    let (yes, dry_run) = (flags.contains(&"--yes"), flags.contains(&"--dry-run"));
    let (volunteer, file) = (VolunteerSelector(name.clone()), FileSelector(name));
    Ok(match command {
        "approve" => Command::Approve { volunteer },
        "deny" => Command::Deny { volunteer },
        "drain" => Command::Drain { volunteer, on: true },
        "stay" => Command::Drain { volunteer, on: false },
        "forget-volunteer" => Command::ForgetVolunteer { volunteer, yes },
        "recall" => Command::Recall { file },
        "offload" => Command::Offload { file, dry_run },
        "forget" => Command::Forget { file, yes, dry_run },
        _ => Command::Verify { file },
    })
}

fn usage(command: &str) -> &'static str {
    COMMANDS.iter().find(|(name, ..)| *name == command).map_or("", |(_, usage, _)| usage)
}

fn unknown(command: &str) -> String {
    similar(command, COMMANDS.iter().map(|(name, ..)| *name))
}

/// The list of commands.
pub fn help() -> String {
    let rows = COMMANDS.map(|(_, usage, meaning)| [usage.to_owned(), meaning.to_owned()]);
    let mut text = table([("COMMAND", Side::Left), ("EFFECT", Side::Left)], &rows);
    text += "Quote names that contain spaces. Tab completes commands and names.\n";
    text
}

/// Names for Tab completion.
#[derive(Default)]
pub struct Names {
    /// Names of volunteers, and the key prefixes of volunteers that share a name.
    pub volunteers: BTreeSet<String>,
    /// Names of files.
    pub files: BTreeSet<String>,
    /// Names of registered peers.
    pub peers: BTreeSet<String>,
}

/// Returns the start of the word before the cursor, in bytes, and its completions.
pub fn complete(line: &str, cursor: usize, names: &Names) -> (usize, Vec<Offer>) {
    let before = line.get(..cursor).unwrap_or(line);
    let mut words = words(before);
    let word = words.pop_if(|word| word.end == before.len());
    let (start, begun) = word.map_or((before.len(), String::new()), |word| (word.start, word.text));
    let so_far: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let plain = |word: &str| word.to_owned();
    let offers = match so_far[..] {
        [] => offer(COMMANDS.iter().map(|(name, ..)| *name), &begun, plain),
        ["repair"] => offer(["pause", "resume", "status"].into_iter(), &begun, plain),
        ["peers"] => offer(names.peers.iter().map(String::as_str), &begun, quoted),
        ["approve" | "deny" | "drain" | "stay" | "forget-volunteer"] => {
            offer(names.volunteers.iter().map(String::as_str), &begun, quoted)
        }
        ["recall" | "offload" | "forget" | "verify"] => {
            offer(names.files.iter().map(String::as_str), &begun, quoted)
        }
        ["offload", _] => offer(["--dry-run"].into_iter(), &begun, plain),
        ["forget", _] => offer(["--dry-run", "--yes"].into_iter(), &begun, plain),
        _ => Vec::new(),
    };
    (start, offers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn valid_lines_are_parsed_and_others_are_corrected() {
        let volunteer = |text: &str| VolunteerSelector(text.to_owned());
        let file = |text: &str| FileSelector(text.to_owned());
        for (line, meaning) in [
            ("", Line::Nothing),
            (" status ", Line::Status),
            ("files", Line::Files(false)),
            ("files --long", Line::Files(true)),
            ("volunteers", Line::Volunteers),
            ("peers", Line::Peers(String::new())),
            ("peers an", Line::Peers("an".to_owned())),
            ("repair", Line::Repair),
            ("repair status", Line::Repair),
            ("repair pause", Line::Do(Command::Pause { on: true })),
            ("repair resume", Line::Do(Command::Pause { on: false })),
            ("approve 1a2b3c4d", Line::Do(Command::Approve { volunteer: volunteer("1a2b3c4d") })),
            ("deny 10.0.0.1:7000", Line::Do(Command::Deny { volunteer: volunteer("10.0.0.1:7000") })),
            ("drain anna", Line::Do(Command::Drain { volunteer: volunteer("anna"), on: true })),
            ("stay anna", Line::Do(Command::Drain { volunteer: volunteer("anna"), on: false })),
            (
                "forget-volunteer anna",
                Line::Do(Command::ForgetVolunteer { volunteer: volunteer("anna"), yes: false }),
            ),
            ("recall f", Line::Do(Command::Recall { file: file("f") })),
            ("offload --dry-run f", Line::Do(Command::Offload { file: file("f"), dry_run: true })),
            ("forget 'a b'", Line::Do(Command::Forget { file: file("a b"), yes: false, dry_run: false })),
            ("forget f --yes", Line::Do(Command::Forget { file: file("f"), yes: true, dry_run: false })),
            ("verify f", Line::Do(Command::Verify { file: file("f") })),
            ("yes", Line::Yes),
            ("help", Line::Help),
            ("exit", Line::Quit),
        ] {
            assert_eq!(parse(line), Ok(meaning), "{line:?}");
        }
        for (line, part) in [
            ("statsu", "did you mean status?"),
            ("status now", "status takes no argument"),
            ("repair now", "repair pause"),
            ("drain", "name missing: drain VOLUNTEER"),
            ("forget --yes", "name missing: forget FILE [--yes] [--dry-run]"),
            ("verify f --yes", "needs quotes"),
            ("forget a b", "forget \"a b\""),
            ("forget \"a", "closing quote"),
            ("dance now", "unknown command dance"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line:?}: {error}");
        }
    }

    #[test]
    fn tab_completes_commands_and_names() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let names =
            Names { volunteers: set(&["anna", "bert"]), files: set(&["a b.txt"]), peers: set(&["carl"]) };
        let offers = |line: &str| {
            let (_, offers) = complete(line, line.len(), &names);
            offers.into_iter().map(|offer| offer.typed).collect::<Vec<_>>()
        };
        assert_eq!(offers("dr"), ["drain "]);
        assert_eq!(offers("drain "), ["anna ", "bert "]);
        assert_eq!(offers("approve b"), ["bert "]);
        assert_eq!(offers("peers c"), ["carl "]);
        assert_eq!(offers("repair p"), ["pause "]);
        assert_eq!(offers("recall a"), ["\"a b.txt\" "]);
        assert_eq!(offers("offload x "), ["--dry-run "]);
        assert_eq!(offers("status "), [""; 0]);
    }

    proptest! {
        #[test]
        fn nothing_panics(line in ".*|(drain|forget|repair) [a-z'\"\\\\ -]{0,20}", cursor in 0usize..40) {
            let _ = parse(&line);
            let (start, _) = complete(&line, cursor, &Names::default());
            prop_assert!(start <= line.len());
        }
    }
}
