//! Prompt of a tracker, and the output of `tracker status`.
//!
//! Invariant: control characters in names from volunteers are escaped before they reach the terminal.

mod command;
pub mod owner;
pub(super) mod show;
pub mod status;

use crate::cli::BarWatch;
use crate::cli::prompt::command_loop::{self, CommandHandler, LoopEnd, print};
use crate::net::Shutdown;
use crate::protocol::status::Status;
use crate::report::{Fault, RoleError};
use crate::roles::tracker::RunningTracker;
use crate::swarm::command::{Answer, Command};
use crate::sync::lock;
use command::{Line, Names};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

/// Runs a tracker until the user quits or a shutdown. In a terminal it has a prompt;
/// it also takes commands from a pipe or file.
///
/// # Errors
/// The tracker failed, for example because its catalogue cannot be written.
pub fn run(tracker: &RunningTracker, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    let names: Arc<Mutex<Names>> = Arc::default();
    let known = names.clone();
    let complete = Arc::new(move |line: &str, cursor| command::complete(line, cursor, &lock(&known)));
    let mut commands = TrackerCommands { tracker, shutdown, names, unconfirmed: None };
    let console = watch.console();
    match command_loop::run("tracker> ".into(), complete, console, &mut commands, tracker.failed(), shutdown)?
    {
        LoopEnd::Quit => Ok(()),
        LoopEnd::InputLost => tracker.wait(shutdown),
    }
}

/// Executes the commands of the tracker prompt.
struct TrackerCommands<'a> {
    tracker: &'a RunningTracker,
    shutdown: &'a Shutdown,
    names: Arc<Mutex<Names>>,
    /// The command that the line `yes` confirms.
    unconfirmed: Option<Command>,
}

impl TrackerCommands<'_> {
    /// Sends a command and prints its answer.
    fn send(&mut self, command: Command) {
        let answer = self.tracker.command(command);
        print(&show::answer(&answer));
        if let Answer::Confirm { command, .. } = answer {
            print("type yes to confirm\n");
            self.unconfirmed = Some(command);
        }
    }

    /// Requests the status and prints a part of it.
    fn show(&mut self, part: impl Fn(&Status) -> String) {
        match self.tracker.command(Command::Status) {
            Answer::Status { status } => print(&part(&status)),
            other => print(&show::answer(&other)),
        }
    }

    /// Sends a command of a pipe or file and prints its answer.
    fn finish(&mut self, command: Command, part: impl Fn(&Status) -> String) -> Result<(), RoleError> {
        let answer = self.tracker.finish(command, self.shutdown);
        match (owner::fault(&answer), answer) {
            (Some(fault), answer) => return Err(owner::failure(fault, answer)),
            (None, Answer::Status { status }) => print(&part(&status)),
            (None, answer) => print(&show::answer(&answer)),
        }
        Ok(())
    }
}

impl CommandHandler for TrackerCommands<'_> {
    fn refresh(&mut self) {
        if let Answer::Status { status } = self.tracker.command(Command::Status) {
            *lock(&self.names) = show::names(&status);
        }
        if let Answer::Peers(list) = self.tracker.command(Command::Peers) {
            lock(&self.names).peers = list.peers.into_iter().map(|peer| peer.name.to_string()).collect();
        }
    }

    fn handle(&mut self, line: &str) -> ControlFlow<()> {
        let unconfirmed = self.unconfirmed.take();
        match command::parse(line) {
            Ok(Line::Quit) => return ControlFlow::Break(()),
            Ok(Line::Nothing) => {}
            Ok(Line::Help) => print(&command::help()),
            Ok(Line::Status) => self.show(show::status),
            Ok(Line::Files(long)) => self.show(|status| show::files(status, long)),
            Ok(Line::Volunteers) => self.show(show::volunteers),
            Ok(Line::Sets) => self.show(show::sets),
            Ok(Line::Repair) => self.show(show::repair),
            Ok(Line::Peers(begun)) => match self.tracker.command(Command::Peers) {
                Answer::Peers(list) => print(&show::peers(&list, &begun)),
                other => print(&show::answer(&other)),
            },
            Ok(Line::Do(command)) => self.send(command),
            Ok(Line::Yes) => match unconfirmed {
                Some(command) => self.send(command.confirmed()),
                None => print("no command waits for a confirmation\n"),
            },
            Err(text) => print(&format!("{}\n", show::line(&text))),
        }
        ControlFlow::Continue(())
    }

    fn execute(&mut self, line: &str) -> ControlFlow<(), Result<(), RoleError>> {
        let usage = |text: &str| Err(RoleError::new(Fault::Usage, text));
        ControlFlow::Continue(match command::parse(line) {
            Ok(Line::Quit) => return ControlFlow::Break(()),
            Ok(Line::Nothing) => Ok(()),
            Ok(Line::Help) => {
                print(&command::help());
                Ok(())
            }
            Ok(Line::Status) => self.finish(Command::Status, show::status),
            Ok(Line::Files(long)) => self.finish(Command::Status, |status| show::files(status, long)),
            Ok(Line::Volunteers) => self.finish(Command::Status, show::volunteers),
            Ok(Line::Sets) => self.finish(Command::Status, show::sets),
            Ok(Line::Repair) => self.finish(Command::Status, show::repair),
            Ok(Line::Peers(begun)) => match self.tracker.finish(Command::Peers, self.shutdown) {
                Answer::Peers(list) => {
                    print(&show::peers(&list, &begun));
                    Ok(())
                }
                _ => Ok(()),
            },
            Ok(Line::Do(command)) => self.finish(command, show::status),
            Ok(Line::Yes) => usage("yes is for a terminal; use the flag --yes of the command"),
            Err(text) => usage(&text),
        })
    }
}
