//! Prompt of a manager: lists its peers.

use super::Console;
use super::prompt::command::{quoted, similar, split, words};
use super::prompt::command_loop::{self, CommandHandler, LoopEnd, print};
use super::prompt::complete::{Offer, offer};
use super::table::{Side, table};
use super::tracker_prompt::show;
use crate::net::Shutdown;
use crate::report::{Fault, RoleError};
use crate::roles::manager::RunningManager;
use crate::sync::lock;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

/// The commands: name, syntax and effect.
const COMMANDS: [(&str, &str, &str); 3] = [
    ("peers", "peers [NAME]", "list the registered peers, or those whose name begins with NAME"),
    ("help", "help", "show this help"),
    ("quit", "quit", "stop the manager (also exit, Ctrl-D, or Ctrl-C twice)"),
];

/// A parsed line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Nothing,
    /// List the peers whose names begin with this text.
    Peers(String),
    Help,
    Quit,
}

/// Runs a manager until the user quits or a shutdown. In a terminal it has a prompt; it also takes commands from a pipe
/// or file.
///
/// # Errors
/// A command of a pipe or file was wrong.
pub fn run(manager: &RunningManager, console: &Console, shutdown: &Shutdown) -> Result<(), RoleError> {
    let names: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let known = names.clone();
    let complete = Arc::new(move |line: &str, cursor| complete(line, cursor, &lock(&known)));
    let mut commands = ManagerCommands { manager, shutdown, names };
    let failed = crossbeam_channel::never();
    match command_loop::run("manager> ".into(), complete, console, &mut commands, &failed, shutdown)? {
        LoopEnd::Quit => {}
        LoopEnd::InputLost => shutdown.wait_forever(),
    }
    Ok(())
}

/// Executes the commands of the prompt.
struct ManagerCommands<'a> {
    manager: &'a RunningManager,
    shutdown: &'a Shutdown,
    names: Arc<Mutex<BTreeSet<String>>>,
}

impl CommandHandler for ManagerCommands<'_> {
    fn refresh(&mut self) {
        let peers = self.manager.peers(self.shutdown).peers;
        *lock(&self.names) = peers.into_iter().map(|peer| peer.name.to_string()).collect();
    }

    fn handle(&mut self, line: &str) -> ControlFlow<()> {
        if let Err(error) = self.execute(line)? {
            print(&format!("{}\n", show::line(&error.text)));
        }
        ControlFlow::Continue(())
    }

    fn execute(&mut self, line: &str) -> ControlFlow<(), Result<(), RoleError>> {
        match parse(line) {
            Ok(Line::Quit) => return ControlFlow::Break(()),
            Ok(Line::Nothing) => {}
            Ok(Line::Peers(begun)) => print(&show::peers(&self.manager.peers(self.shutdown), &begun)),
            Ok(Line::Help) => print(&help()),
            Err(text) => return ControlFlow::Continue(Err(RoleError::new(Fault::Usage, text))),
        }
        ControlFlow::Continue(Ok(()))
    }
}

/// Parses a line. The error is the correction for the user.
fn parse(line: &str) -> Result<Line, String> {
    let texts = split(line)?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    match texts[..] {
        [] => Ok(Line::Nothing),
        ["peers"] => Ok(Line::Peers(String::new())),
        ["peers", name] => Ok(Line::Peers(name.to_owned())),
        ["peers", ..] => Err("peers takes one name: peers [NAME]".to_owned()),
        ["help" | "?", ..] => Ok(Line::Help),
        ["quit" | "exit"] => Ok(Line::Quit),
        [command @ ("quit" | "exit"), ..] => Err(format!("{command} takes no argument")),
        [command, ..] => Err(similar(command, COMMANDS.iter().map(|(name, ..)| *name))),
    }
}

fn help() -> String {
    let rows = COMMANDS.map(|(_, usage, meaning)| [usage.to_owned(), meaning.to_owned()]);
    table([("COMMAND", Side::Left), ("EFFECT", Side::Left)], &rows)
}

/// Returns the start of the word before the cursor, in bytes, and its completions.
fn complete(line: &str, cursor: usize, names: &BTreeSet<String>) -> (usize, Vec<Offer>) {
    let before = line.get(..cursor).unwrap_or(line);
    let mut words = words(before);
    let word = words.pop_if(|word| word.end == before.len());
    let (start, begun) = word.map_or((before.len(), String::new()), |word| (word.start, word.text));
    let so_far: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let offers = match so_far[..] {
        [] => offer(COMMANDS.iter().map(|(name, ..)| *name), &begun, str::to_owned),
        ["peers"] => offer(names.iter().map(String::as_str), &begun, quoted),
        _ => Vec::new(),
    };
    (start, offers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed_or_corrected() {
        for (line, meaning) in [
            (" ", Line::Nothing),
            ("peers", Line::Peers(String::new())),
            ("peers an", Line::Peers("an".to_owned())),
            ("help", Line::Help),
            ("exit", Line::Quit),
        ] {
            assert_eq!(parse(line), Ok(meaning), "{line:?}");
        }
        for (line, part) in [
            ("peer", "did you mean peers?"),
            ("peers a b", "one name"),
            ("quit now", "no argument"),
            ("files", "unknown command files"),
            ("peers 'a", "closing quote"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line:?}: {error}");
        }
        assert!(help().lines().count() == COMMANDS.len() + 1);
    }

    #[test]
    fn tab_completes_commands_and_peers() {
        let names = ["anna".to_owned(), "b c".to_owned()].into();
        let offers = |line: &str| {
            let (_, offers) = complete(line, line.len(), &names);
            offers.into_iter().map(|offer| offer.typed).collect::<Vec<_>>()
        };
        assert_eq!(offers("p"), ["peers "]);
        assert_eq!(offers("peers "), ["anna ", "\"b c\" "]);
        assert_eq!(offers("peers anna "), [""; 0]);
    }
}
