//! A client of a chunk folder at a terminal: its prompt shows the folder and the state of its set.

use super::prompt::command::{similar, split};
use super::prompt::command_loop::{self, CommandHandler, LoopEnd, print};
use super::prompt::complete::{Offer, offer};
use super::prompt::show;
use super::table::{Side, table};
use super::{BarWatch, chunk_sets};
use crate::net::{Shutdown, Threads};
use crate::report::{Fault, RoleError};
use crate::roles::chunk_client::questions::{Answer, Asker, Question, Questions, questions};
use crate::roles::chunk_client::{self, ClientConfig};
use crossbeam_channel::bounded;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Time that the prompt waits for an answer of the tracker.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The commands: name and effect.
const COMMANDS: [(&str, &str); 5] = [
    ("status", "show for each chunk the agreed hash, the holders and claims that differ"),
    ("mine", "list the chunks of this folder; mine --long shows whole SHA-256 digests"),
    ("peers", "list the clients of this chunk set"),
    ("help", "show this help"),
    ("quit", "exit (also exit, Ctrl-D, or Ctrl-C twice)"),
];

/// Runs a chunk client until its work is done, its user quits, or the shutdown. At a terminal it has a prompt, unless it
/// exits when its folder is complete.
///
/// # Errors
/// As [`chunk_client::run`].
pub fn run(config: ClientConfig, watch: &Arc<BarWatch>, shutdown: &Shutdown) -> Result<(), RoleError> {
    if config.exit_when_complete {
        return chunk_client::run(config, Questions::none(), &**watch, shutdown);
    }
    let (asker, questions, has_started) = questions();
    let (result_sender, result) = bounded(1);
    let (name, threads) = (config.name.clone(), Threads::new());
    let (of_client, client_shutdown) = (watch.clone(), shutdown.clone());
    threads.spawn("chunk-client", move || {
        let _ = result_sender.send(chunk_client::run(config, questions, &*of_client, &client_shutdown));
    })?;
    // The channel closes without a message if the client cannot start.
    if has_started.recv().is_ok() {
        let (failure_sender, failure) = bounded(1);
        let ended = result.clone();
        // Ends the prompt when the client has ended.
        threads.spawn("chunk-client-end", move || {
            if let Ok(Err(error)) = ended.recv() {
                let _ = failure_sender.send(error);
            }
        })?;
        let mut commands = Commands { asker };
        let complete = Arc::new(complete);
        let line = format!("{name}> ");
        let end = command_loop::run(line, complete, watch.console(), &mut commands, &failure, shutdown);
        if let Ok(LoopEnd::InputLost) = end {
            // The client triggers it at its end, too.
            shutdown.wait_forever();
        }
        shutdown.trigger();
        threads.join();
        return end.and_then(|_| failure.try_recv().map_or(Ok(()), Err));
    }
    threads.join();
    result.recv().unwrap_or(Ok(()))
}

fn complete(line: &str, cursor: usize) -> (usize, Vec<Offer>) {
    let begun = line.get(..cursor).unwrap_or(line);
    match begun.contains(' ') {
        true => (cursor, Vec::new()),
        false => (0, offer(COMMANDS.iter().map(|(name, _)| *name), begun, str::to_owned)),
    }
}

/// Executes the commands.
struct Commands {
    asker: Asker,
}

impl Commands {
    fn ask(&self, question: Question) -> Answer {
        let timed_out = || Answer::None("no answer from the tracker".to_owned());
        self.asker.ask(question).recv_timeout(ANSWER_TIMEOUT).unwrap_or_else(|_| timed_out())
    }

    fn set(&self, show: fn(&crate::protocol::set_status::SetStatus) -> String) -> String {
        match self.ask(Question::Set) {
            Answer::Set(status) => show(&status),
            other => text(&other),
        }
    }

    fn mine(&self, long: bool) -> String {
        match self.ask(Question::Mine) {
            Answer::Mine { held, count } => chunk_sets::mine(&held, count, long),
            other => text(&other),
        }
    }

    /// The result of a line, or the correction of a wrong one; `Break` to quit.
    fn result(&self, line: &str) -> ControlFlow<(), Result<String, String>> {
        let words = match split(line) {
            Ok(words) => words,
            Err(correction) => return ControlFlow::Continue(Err(correction)),
        };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        ControlFlow::Continue(match words[..] {
            [] => Ok(String::new()),
            ["quit" | "exit"] => return ControlFlow::Break(()),
            ["status"] => Ok(self.set(chunk_sets::set)),
            ["peers"] => Ok(self.set(chunk_sets::members)),
            ["mine"] => Ok(self.mine(false)),
            ["mine", "--long"] => Ok(self.mine(true)),
            ["mine", ..] => Err("mine takes no argument but --long".to_owned()),
            ["help" | "?"] => Ok(help()),
            [known, ..] if COMMANDS.iter().any(|(name, _)| *name == known) => {
                Err(format!("{known} takes no argument"))
            }
            [unknown, ..] => Err(similar(unknown, COMMANDS.iter().map(|(name, _)| *name))),
        })
    }
}

impl CommandHandler for Commands {
    fn handle(&mut self, line: &str) -> ControlFlow<()> {
        match self.result(line)? {
            Ok(result) => print(&result),
            Err(correction) => print(&format!("{}\n", show::line(&correction))),
        }
        ControlFlow::Continue(())
    }

    fn execute(&mut self, line: &str) -> ControlFlow<(), Result<(), RoleError>> {
        let result = self.result(line)?;
        let fault = |correction| RoleError::new(Fault::Usage, correction);
        ControlFlow::Continue(result.map(|result| print(&result)).map_err(fault))
    }
}

fn text(answer: &Answer) -> String {
    match answer {
        Answer::Mine { held, count } => chunk_sets::mine(held, *count, false),
        Answer::Set(status) => chunk_sets::set(status),
        Answer::None(reason) => format!("{}\n", show::line(reason)),
    }
}

fn help() -> String {
    let rows = COMMANDS.map(|(name, effect)| [name.to_owned(), effect.to_owned()]);
    table([("COMMAND", Side::Left), ("EFFECT", Side::Left)], &rows)
}
