//! Prompt of a tracker that replicates files, and the output of `tracker status`.
//!
//! Invariant: control characters in names from volunteers are escaped before they reach the terminal.

mod command;
mod show;
pub mod status;

use crate::cli::BarWatch;
use crate::cli::prompt::command_loop::{self, CommandHandler, LoopEnd, print};
use crate::net::Shutdown;
use crate::report::RoleError;
use crate::roles::tracker::RunningTracker;
use crate::swarm::keeping::{Answer, Command};
use crate::sync::lock;
use command::Line;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

/// Names for Tab completion: of volunteers, and of files.
type Names = Arc<Mutex<(BTreeSet<String>, BTreeSet<String>)>>;

/// Runs a tracker that replicates files until the user quits or a shutdown. In a terminal it has a prompt.
///
/// # Errors
/// The tracker failed, for example because its catalogue cannot be written.
pub fn run(tracker: &RunningTracker, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    if !command_loop::has_terminal() {
        return tracker.wait(shutdown);
    }
    let names = Names::default();
    let known = names.clone();
    let complete = Box::new(move |line: &str, cursor| {
        let names = lock(&known);
        command::complete(line, cursor, &names.0, &names.1)
    });
    let mut commands = TrackerCommands { tracker, names };
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
    names: Names,
}

impl CommandHandler for TrackerCommands<'_> {
    fn refresh(&mut self) {
        let Ok(Answer::Status(status)) = self.tracker.command(Command::Status) else { return };
        let volunteers = status.volunteers.iter().map(|volunteer| volunteer.name.to_string()).collect();
        let files = status.files.iter().map(|file| file.name.to_string()).collect();
        *lock(&self.names) = (volunteers, files);
    }

    fn handle(&mut self, line: &str) -> ControlFlow<()> {
        let (command, show): (_, fn(&crate::protocol::status::Status) -> String) = match command::parse(line)
        {
            Ok(Line::Quit) => return ControlFlow::Break(()),
            Ok(Line::Nothing) => return ControlFlow::Continue(()),
            Ok(Line::Help) => {
                print(&command::help());
                return ControlFlow::Continue(());
            }
            Ok(Line::Status) => (Command::Status, show::status),
            Ok(Line::Files) => (Command::Status, show::files),
            Ok(Line::Volunteers) => (Command::Status, show::volunteers),
            Ok(Line::Repair) => (Command::Status, show::repair),
            Ok(Line::Do(command)) => (command, show::status),
            Err(text) => {
                print(&format!("{}\n", show::line(&text)));
                return ControlFlow::Continue(());
            }
        };
        match self.tracker.command(command) {
            Ok(Answer::Status(status)) => print(&show(&status)),
            Ok(Answer::Done(text) | Answer::Refused(text)) | Err(text) => {
                print(&format!("{}\n", show::line(&text)));
            }
        }
        ControlFlow::Continue(())
    }
}
