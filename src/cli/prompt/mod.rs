//! The prompt of a member: commands in, answers out, while it goes on serving.
//!
//! The caller's thread waits for lines, for the shutdown and for the member's failure, whichever comes first.
//! Questions to the swarm are asked by a thread of its own (`prompt-ask`), whose answers appear above the line that is
//! being typed, so that a peer that does not answer holds up nobody. Never decides anything about files: that is the
//! member's. Invariant: at every end the terminal is as it was.

mod command;
mod complete;
mod editor;
mod show;

use super::member::wish;
use super::{BarWatch, Console, terminal};
use crate::content::EntityName;
use crate::daemon::DaemonError;
use crate::daemon::lookup::Query;
use crate::daemon::member::{Member, Wish};
use crate::net::{Shutdown, Threads};
use command::Command;
use crossbeam_channel::{Receiver, Sender, bounded};
use editor::{Editor, Heard, Names};
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Questions that may wait while one is being asked.
const QUESTIONS: usize = 8;
/// The prompt comes back after so long at the latest; an answer that takes longer appears above it. (Meanwhile
/// Ctrl-C is a signal, and ends the program.)
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// Something that must be asked of the swarm.
enum Question {
    Files,
    Why(String, Query),
}

/// Reads commands until the user quits or the shutdown. Files that are got may have to be waited for: `patience`.
///
/// # Errors
/// A manager or tracker has not answered for too long.
pub fn run(
    member: &Member,
    name: &EntityName,
    patience: Duration,
    watch: &Arc<BarWatch>,
    shutdown: &Shutdown,
) -> Result<(), DaemonError> {
    let console = watch.console().clone();
    let _kept = terminal::keep();
    let names = Names::default();
    let (editor, printer) = match Editor::start(format!("{name}> "), names.clone()) {
        Ok(started) => started,
        Err(error) => {
            log::warn!("no prompt: {error}");
            return super::member::wait(member, shutdown);
        }
    };
    // Log lines that go to a file do not tear anything.
    console.begin_prompt(printer.filter(|_| io::stderr().is_terminal()));
    let threads = Threads::new();
    let (questions, asked) = bounded(QUESTIONS);
    let (answers, answered) = bounded(QUESTIONS);
    let asker = Asker { answers, member: member.clone(), console: console.clone(), names: names.clone() };
    let spawned = threads.spawn("prompt-ask", move || asker.run(&asked));
    let prompt =
        Prompt { member, patience, console: console.clone(), names, questions, answered, leaving: false };
    let end = match spawned {
        Ok(()) => prompt.run(editor, shutdown),
        Err(error) => {
            console.end_prompt();
            editor.stop();
            Err(error.into())
        }
    };
    match end {
        Ok(End::Left) => {}
        Ok(End::Deaf) => return super::member::wait(member, shutdown),
        Err(error) => return Err(error),
    }
    // Leaving is the shutdown; a question under way ends with it.
    shutdown.trigger();
    threads.join();
    Ok(())
}

/// How a prompt has ended.
enum End {
    /// By the user, or the shutdown.
    Left,
    /// Nobody can type any more, but the member goes on.
    Deaf,
}

struct Prompt<'a> {
    member: &'a Member,
    patience: Duration,
    console: Console,
    names: Names,
    questions: Sender<Question>,
    /// Hears of each question that has been answered.
    answered: Receiver<()>,
    /// Ctrl-C was pressed on an empty line.
    leaving: bool,
}

impl Prompt<'_> {
    fn run(mut self, mut editor: Editor, shutdown: &Shutdown) -> Result<End, DaemonError> {
        say("help lists the commands\n");
        let end = loop {
            self.learn_names();
            editor.ask();
            crossbeam_channel::select! {
                recv(editor.heard()) -> heard => {
                    editor.answered();
                    let heard = heard.unwrap_or_else(|_| Heard::Broken("the line editor has failed".into()));
                    if let ControlFlow::Break(end) = self.hear(heard) {
                        break Ok(end);
                    }
                }
                recv(shutdown.signal()) -> _ => break Ok(End::Left),
                recv(self.member.failed()) -> failure => break failure.map_or(Ok(End::Left), Err),
            }
        };
        self.console.end_prompt();
        editor.stop();
        end
    }

    fn hear(&mut self, heard: Heard) -> ControlFlow<End> {
        let leaving = std::mem::take(&mut self.leaving);
        match heard {
            // What was pasted may be several lines.
            Heard::Line(text) => text.lines().try_for_each(|line| self.obey(line)),
            Heard::Interrupted { empty: true } if leaving => ControlFlow::Break(End::Left),
            Heard::Interrupted { empty: true } => {
                self.leaving = true;
                say("again, or quit, to leave\n");
                ControlFlow::Continue(())
            }
            Heard::Interrupted { empty: false } => ControlFlow::Continue(()),
            Heard::End => ControlFlow::Break(End::Left),
            Heard::Broken(why) => {
                log::warn!("no prompt any more: {why}");
                ControlFlow::Break(End::Deaf)
            }
        }
    }

    fn obey(&mut self, line: &str) -> ControlFlow<End> {
        let answer = match command::parse(line) {
            Ok(Command::Quit) => return ControlFlow::Break(End::Left),
            Ok(command) => self.answer(command),
            Err(text) => Err(text),
        };
        match answer {
            Ok(text) => say(&text),
            Err(text) => say(&format!("{}\n", show::line(&text))),
        }
        ControlFlow::Continue(())
    }

    /// Does what a command says. An error is for the user.
    fn answer(&self, command: Command) -> Result<String, String> {
        Ok(match command {
            Command::Nothing | Command::Quit => String::new(),
            Command::Get(name, out) => self.get(&name, out)?,
            Command::Files => self.ask(Question::Files)?,
            Command::Why(name) => {
                let query = wish(&name, Duration::ZERO).map_err(|error| error.text)?.query;
                self.ask(Question::Why(name, query))?
            }
            Command::Peers => show::peers(self.member.peers()),
            Command::Mine => show::mine(&self.member.mine()),
            Command::Status => {
                let transfers = self.member.transfers();
                let statuses: Vec<_> = transfers.iter().map(|transfer| transfer.status()).collect();
                let lent = self.member.volunteer().map(|volunteer| show::lent(&volunteer.status()));
                show::status(&statuses) + &lent.unwrap_or_default()
            }
            Command::Help => show::help(),
        })
    }

    fn get(&self, name: &str, out: Option<PathBuf>) -> Result<String, String> {
        let wish = wish(name, self.patience).map_err(|error| error.text)?;
        self.member.get(Wish { out, ..wish }).map_err(|error| error.text)?;
        Ok(format!("looking for {}\n", show::line(name)))
    }

    fn ask(&self, question: Question) -> Result<String, String> {
        // Those of late answers.
        self.answered.try_iter().for_each(drop);
        match self.questions.try_send(question) {
            Ok(()) => {
                let _ = self.answered.recv_timeout(ANSWER_TIME);
                Ok(String::new())
            }
            Err(_) => Err("the swarm has not answered yet; wait a moment".to_owned()),
        }
    }

    /// What Tab knows besides what others have.
    fn learn_names(&self) {
        let mine = self.member.mine().into_iter().map(|offer| offer.file.name.to_string());
        let wanted = self.member.transfers().into_iter().map(|transfer| transfer.status().wanted);
        learn(&self.names, mine.chain(wanted));
    }
}

/// Adds names to those that Tab completes.
fn learn(names: &Names, more: impl Iterator<Item = String>) {
    names.lock().unwrap_or_else(PoisonError::into_inner).extend(more);
}

/// Writes while no line is being read.
fn say(text: &str) {
    use std::io::Write;
    let mut out = io::stdout().lock();
    // A terminal that is gone stops nothing.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Asks the swarm, one question after the other.
struct Asker {
    answers: Sender<()>,
    member: Member,
    console: Console,
    names: Names,
}

impl Asker {
    fn run(&self, asked: &Receiver<Question>) {
        for question in asked {
            let text = match question {
                Question::Files => self.files(),
                Question::Why(name, query) => self.why(&name, &query),
            };
            self.console.say(&text);
            // Nobody hears of it when nobody waits for it any more.
            let _ = self.answers.try_send(());
        }
    }

    fn files(&self) -> String {
        match self.member.files(&Query::default()) {
            Ok(found) => {
                learn(&self.names, found.iter().map(|found| found.file.name.to_string()));
                show::files(&found)
            }
            Err(error) => format!("{}\n", show::line(&error.text)),
        }
    }

    fn why(&self, name: &str, query: &Query) -> String {
        let is_meant = |file: &crate::protocol::tracker::FileSummary| {
            query.id == Some(file.id) || query.name.as_ref() == Some(&file.name)
        };
        let found = self.member.files(query).map_err(|error| error.text);
        let statuses = self.member.transfers().into_iter().rev().map(|transfer| transfer.status());
        let here = self.member.mine().into_iter().filter(|offer| is_meant(&offer.file));
        let here =
            here.map(|offer| (offer.source.progress().held(), offer.file)).max_by_key(|(held, _)| *held);
        let here = here.map(|(held, file)| (file, held));
        let status = statuses.into_iter().find(|status| status.wanted == name);
        show::why(&show::Why { name, status, here, found, peers: self.member.peers() })
    }
}
