//! Commands of the tracker prompt, and the parser of a line.
//!
//! Pure. Invariant: each line is a valid command or an error with a correction; the parser never guesses.

use crate::cli::prompt::command::{quoted, similar, words};
use crate::cli::prompt::complete::{Offer, offer};
use crate::cli::table::{Side, table};
use crate::content::{FileName, PeerName};
use crate::swarm::keeping::{Command, Wanted};
use std::collections::BTreeSet;

/// The commands: name, syntax and effect.
const COMMANDS: [(&str, &str, &str); 9] = [
    ("status", "status", "show volunteers, files and replicas"),
    ("files", "files", "list the files and their replicas"),
    ("volunteers", "volunteers", "list the volunteers and their storage"),
    ("repair", "repair [pause|resume|status]", "show, pause or resume repair"),
    ("drain", "drain NAME", "copy the replicas of a volunteer elsewhere, so that it can leave"),
    ("stay", "stay NAME", "cancel a drain"),
    ("forget", "forget NAME|ID", "stop replicating a file: volunteers delete its chunks"),
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
    /// List the files.
    Files,
    /// List the volunteers.
    Volunteers,
    /// Show the progress of repair.
    Repair,
    /// A command for the tracker.
    Do(Command),
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
    let words = words(line);
    if words.last().is_some_and(|word| word.open.is_some()) {
        return Err("missing closing quote".to_owned());
    }
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let without_argument = [
        ("status", Line::Status),
        ("files", Line::Files),
        ("volunteers", Line::Volunteers),
        ("help", Line::Help),
        ("?", Line::Help),
        ("quit", Line::Quit),
        ("exit", Line::Quit),
    ];
    let command_of =
        |word: &str| without_argument.iter().find(|(name, _)| *name == word).map(|(_, line)| line.clone());
    match texts[..] {
        [] => Ok(Line::Nothing),
        ["repair"] | ["repair", "status"] => Ok(Line::Repair),
        ["repair", "pause"] => Ok(Line::Do(Command::Pause(true))),
        ["repair", "resume"] => Ok(Line::Do(Command::Pause(false))),
        ["repair", ..] => {
            Err("unknown argument; type repair pause, repair resume or repair status".to_owned())
        }
        [command @ ("drain" | "stay"), name] => {
            let name = PeerName::new(name).map_err(|error| error.to_string())?;
            Ok(Line::Do(Command::Drain(name, command == "drain")))
        }
        ["forget", name] => match name.parse() {
            Ok(id) => Ok(Line::Do(Command::Forget(Wanted::Id(id)))),
            Err(_) => {
                let name = FileName::new(name).map_err(|error| error.to_string())?;
                Ok(Line::Do(Command::Forget(Wanted::Name(name))))
            }
        },
        [command @ ("drain" | "stay" | "forget")] => Err(format!("name missing: {command} NAME")),
        [command @ ("drain" | "stay" | "forget"), ref name @ ..] => {
            Err(format!("a name with spaces needs quotes: {command} {}", quoted(&name.join(" "))))
        }
        [command] => command_of(command).ok_or_else(|| unknown(command)),
        [command, ..] => match command_of(command) {
            Some(_) => Err(format!("{command} takes no argument")),
            None => Err(unknown(command)),
        },
    }
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

/// Returns the start of the word before the cursor, in bytes, and its completions.
pub fn complete(
    line: &str,
    cursor: usize,
    volunteers: &BTreeSet<String>,
    files: &BTreeSet<String>,
) -> (usize, Vec<Offer>) {
    let before = line.get(..cursor).unwrap_or(line);
    let mut words = words(before);
    let word = words.pop_if(|word| word.end == before.len());
    let (start, begun) = word.map_or((before.len(), String::new()), |word| (word.start, word.text));
    let so_far: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let plain = |word: &str| word.to_owned();
    let offers = match so_far[..] {
        [] => offer(COMMANDS.iter().map(|(name, ..)| *name), &begun, plain),
        ["repair"] => offer(["pause", "resume", "status"].into_iter(), &begun, plain),
        ["drain" | "stay"] => offer(volunteers.iter().map(String::as_str), &begun, quoted),
        ["forget"] => offer(files.iter().map(String::as_str), &begun, quoted),
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
        let name = |text: &str| PeerName::new(text).unwrap();
        let file = |text: &str| FileName::new(text).unwrap();
        for (line, meaning) in [
            ("", Line::Nothing),
            (" status ", Line::Status),
            ("files", Line::Files),
            ("volunteers", Line::Volunteers),
            ("repair", Line::Repair),
            ("repair status", Line::Repair),
            ("repair pause", Line::Do(Command::Pause(true))),
            ("repair resume", Line::Do(Command::Pause(false))),
            ("drain anna", Line::Do(Command::Drain(name("anna"), true))),
            ("stay anna", Line::Do(Command::Drain(name("anna"), false))),
            ("forget 'a b'", Line::Do(Command::Forget(Wanted::Name(file("a b"))))),
            ("help", Line::Help),
            ("exit", Line::Quit),
        ] {
            assert_eq!(parse(line), Ok(meaning), "{line:?}");
        }
        for (line, part) in [
            ("statsu", "did you mean status?"),
            ("status now", "status takes no argument"),
            ("repair now", "repair pause"),
            ("drain", "name missing: drain NAME"),
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
        let offers = |line: &str| {
            let (_, offers) = complete(line, line.len(), &set(&["anna", "bert"]), &set(&["a b.txt"]));
            offers.into_iter().map(|offer| offer.typed).collect::<Vec<_>>()
        };
        assert_eq!(offers("dr"), ["drain "]);
        assert_eq!(offers("drain "), ["anna ", "bert "]);
        assert_eq!(offers("repair p"), ["pause "]);
        assert_eq!(offers("forget a"), ["\"a b.txt\" "]);
        assert_eq!(offers("status "), [""; 0]);
    }

    proptest! {
        #[test]
        fn nothing_panics(line in ".*|(drain|forget|repair) [a-z'\"\\\\ ]{0,20}", cursor in 0usize..40) {
            let _ = parse(&line);
            let (start, _) = complete(&line, cursor, &BTreeSet::new(), &BTreeSet::new());
            prop_assert!(start <= line.len());
        }
    }
}
