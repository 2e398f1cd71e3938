//! What can be typed at the prompt of a tracker that keeps files, and how a line is read.
//!
//! Pure. Invariant: any text is a command or an error that says what to type instead; nothing is guessed.

use crate::cli::prompt::command::{quoted, similar, words};
use crate::cli::prompt::complete::{Offer, offer};
use crate::cli::table::{Side, table};
use crate::content::{EntityName, FileName};
use crate::swarm::keeping::{Command, Wanted};
use std::collections::BTreeSet;

/// Every command: how it is written, and what it does.
const COMMANDS: [(&str, &str, &str); 9] = [
    ("status", "status", "how volunteers, files and copies are"),
    ("files", "files", "each file that is kept, and its copies"),
    ("volunteers", "volunteers", "who lends space, and how much of it is used"),
    ("repair", "repair [pause|resume|status]", "what is being copied; stops copying, or goes on"),
    ("drain", "drain NAME", "empties a volunteer, so that it may leave"),
    ("stay", "stay NAME", "takes a drain back"),
    ("forget", "forget NAME|ID", "no longer keeps a file: the volunteers drop their copies"),
    ("help", "help", "this"),
    ("quit", "quit", "ends the tracker (also exit, Ctrl-D, or Ctrl-C twice)"),
];

/// What a line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// An empty line.
    Nothing,
    /// How everything is.
    Status,
    /// The files.
    Files,
    /// The volunteers.
    Volunteers,
    /// What is being copied.
    Repair,
    /// Something to be done.
    Do(Command),
    /// What can be typed.
    Help,
    /// Leave.
    Quit,
}

/// Reads a line.
///
/// # Errors
/// What to type instead.
pub fn parse(line: &str) -> Result<Line, String> {
    let words = words(line);
    if words.last().is_some_and(|word| word.open.is_some()) {
        return Err("a quote is not closed".to_owned());
    }
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let alone = [
        ("status", Line::Status),
        ("files", Line::Files),
        ("volunteers", Line::Volunteers),
        ("help", Line::Help),
        ("?", Line::Help),
        ("quit", Line::Quit),
        ("exit", Line::Quit),
    ];
    let meaning = |word: &str| alone.iter().find(|(name, _)| *name == word).map(|(_, line)| line.clone());
    match texts[..] {
        [] => Ok(Line::Nothing),
        ["repair"] | ["repair", "status"] => Ok(Line::Repair),
        ["repair", "pause"] => Ok(Line::Do(Command::Pause(true))),
        ["repair", "resume"] => Ok(Line::Do(Command::Pause(false))),
        ["repair", ..] => Err("say repair pause, repair resume or repair status".to_owned()),
        [command @ ("drain" | "stay"), name] => {
            let name = EntityName::new(name).map_err(|error| error.to_string())?;
            Ok(Line::Do(Command::Drain(name, command == "drain")))
        }
        ["forget", name] => match name.parse() {
            Ok(id) => Ok(Line::Do(Command::Forget(Wanted::Id(id)))),
            Err(_) => {
                let name = FileName::new(name).map_err(|error| error.to_string())?;
                Ok(Line::Do(Command::Forget(Wanted::Name(name))))
            }
        },
        [command @ ("drain" | "stay" | "forget")] => Err(format!("say which: {command} NAME")),
        [command @ ("drain" | "stay" | "forget"), ref name @ ..] => {
            Err(format!("a name with spaces needs quotes: {command} {}", quoted(&name.join(" "))))
        }
        [command] => meaning(command).ok_or_else(|| unknown(command)),
        [command, ..] => match meaning(command) {
            Some(_) => Err(format!("{command} stands alone")),
            None => Err(unknown(command)),
        },
    }
}

fn unknown(command: &str) -> String {
    similar(command, COMMANDS.iter().map(|(name, ..)| *name))
}

/// What can be typed.
pub fn help() -> String {
    let rows = COMMANDS.map(|(_, usage, meaning)| [usage.to_owned(), meaning.to_owned()]);
    let mut text = table([("COMMAND", Side::Left), ("WHAT IT DOES", Side::Left)], &rows);
    text += "A name with spaces stands in quotes. Tab completes commands and names.\n";
    text
}

/// What the word before the cursor can become, and where that word begins.
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
    fn every_command_is_read() {
        let name = |text: &str| EntityName::new(text).unwrap();
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
        for (line, says) in [
            ("statsu", "did you mean status?"),
            ("status now", "status stands alone"),
            ("repair now", "repair pause"),
            ("drain", "say which: drain NAME"),
            ("forget a b", "forget \"a b\""),
            ("forget \"a", "not closed"),
            ("dance now", "no command dance"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(says), "{line:?}: {error}");
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
