//! The prompt of a member: commands in, answers out, while it goes on serving.
//!
//! The caller's thread waits for lines, for the shutdown and for the member's failure, whichever comes first.
//! Questions to the swarm are asked by a thread of its own (`prompt-ask`), whose answers appear above the line that is
//! being typed, so that a peer that does not answer holds up nobody. Never decides anything about files: that is the
//! member's. Invariant: at every end the terminal is as it was.

pub(super) mod command;
pub(super) mod complete;
pub(super) mod conduct;
mod editor;
pub(super) mod show;

use super::member::wish;
use super::{BarWatch, Console};
use crate::content::EntityName;
use crate::daemon::DaemonError;
use crate::daemon::lookup::Query;
use crate::daemon::member::{DownloadRequest, Member};
use crate::net::{Shutdown, Threads};
use command::Command;
use conduct::{Answers, End, conduct, say};
use crossbeam_channel::{Receiver, Sender, bounded};
use editor::Complete;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Questions that may wait while one is being asked.
const QUESTIONS: usize = 8;
/// The prompt comes back after so long at the latest; an answer that takes longer appears above it. (Meanwhile
/// Ctrl-C is a signal, and ends the program.)
const ANSWER_TIME: Duration = Duration::from_millis(200);

/// Names that Tab completes.
type Names = Arc<Mutex<BTreeSet<String>>>;

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
    let names = Names::default();
    let threads = Threads::new();
    let (questions, asked) = bounded(QUESTIONS);
    let (answers, answered) = bounded(QUESTIONS);
    let asker = Asker { answers, member: member.clone(), console: console.clone(), names: names.clone() };
    threads.spawn("prompt-ask", move || asker.run(&asked))?;
    let mut prompt = Prompt { member, patience, names: names.clone(), questions, answered };
    let line = format!("{name}> ");
    let end = conduct(line, completing(names), &console, &mut prompt, member.failed(), shutdown);
    drop(prompt);
    let result = match end {
        Ok(End::Left) => Ok(()),
        Ok(End::Deaf) => super::member::wait(member, shutdown),
        Err(failure) => Err(failure),
    };
    // Leaving is the shutdown; a question under way ends with it.
    shutdown.trigger();
    threads.join();
    result
}

struct Prompt<'a> {
    member: &'a Member,
    patience: Duration,
    names: Names,
    questions: Sender<Question>,
    /// Hears of each question that has been answered.
    answered: Receiver<()>,
}

impl Answers for Prompt<'_> {
    fn refresh(&mut self) {
        self.learn_names();
    }

    fn obey(&mut self, line: &str) -> ControlFlow<()> {
        let answer = match command::parse(line) {
            Ok(Command::Quit) => return ControlFlow::Break(()),
            Ok(command) => self.answer(command),
            Err(text) => Err(text),
        };
        match answer {
            Ok(text) => say(&text),
            Err(text) => say(&format!("{}\n", show::line(&text))),
        }
        ControlFlow::Continue(())
    }
}

impl Prompt<'_> {
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
        self.member.get(DownloadRequest { out, ..wish }).map_err(|error| error.text)?;
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

/// What Tab offers, given the names that are known by then.
fn completing(names: Names) -> Complete {
    Box::new(move |line, cursor| {
        complete::complete(line, cursor, &names.lock().unwrap_or_else(PoisonError::into_inner))
    })
}

/// Adds names to those that Tab completes.
fn learn(names: &Names, more: impl Iterator<Item = String>) {
    names.lock().unwrap_or_else(PoisonError::into_inner).extend(more);
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
