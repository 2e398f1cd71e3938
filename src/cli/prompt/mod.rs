//! Prompt of a client: executes commands while the client serves.
//!
//! The calling thread waits for lines, the shutdown and a failure of the client at the same time. Lookups at other
//! peers run in a thread of their own (`prompt-ask`), which prints the result above the input line, so a slow peer
//! does not block the prompt. The prompt never decides about files: the member does. Invariant: the terminal mode is
//! restored at the end, also after an error.

pub(super) mod command;
pub(super) mod command_loop;
pub(super) mod complete;
mod editor;
pub(super) mod show;

use super::download_request::download_request;
use super::{BarWatch, Console};
use crate::content::PeerName;
use crate::net::{Shutdown, Threads};
use crate::report::RoleError;
use crate::roles::folder_client::{DownloadRequest, Member};
use crate::sync::lock;
use crate::tracker_client::lookup::Query;
use command::Command;
use command_loop::{CommandHandler, LoopEnd, print};
use crossbeam_channel::{Receiver, Sender, bounded};
use editor::Complete;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Maximum number of lookups in the queue.
const LOOKUP_QUEUE_MAX: usize = 8;
/// Maximum time that a lookup delays the next prompt. A result that takes longer is printed above the input line.
/// During this time Ctrl-C is a signal, which ends the program.
const RESULT_TIMEOUT: Duration = Duration::from_millis(200);

/// File names for Tab completion.
type Names = Arc<Mutex<BTreeSet<String>>>;

/// A lookup at other peers or at the tracker.
enum Lookup {
    Files(bool),
    Why(String, Query),
}

/// Reads and executes commands until the user quits or a shutdown. A download waits at most `wait_timeout` for a holder.
///
/// # Errors
/// The manager or tracker did not respond within the timeout.
pub fn run(
    member: &Member,
    name: &PeerName,
    wait_timeout: Duration,
    watch: &Arc<BarWatch>,
    shutdown: &Shutdown,
) -> Result<(), RoleError> {
    let console = watch.console().clone();
    let names = Names::default();
    let threads = Threads::new();
    let (lookups, queued) = bounded(LOOKUP_QUEUE_MAX);
    let (completions, done) = bounded(LOOKUP_QUEUE_MAX);
    let worker =
        LookupWorker { completions, member: member.clone(), console: console.clone(), names: names.clone() };
    threads.spawn("prompt-ask", move || worker.run(&queued))?;
    let mut prompt = Prompt { member, wait_timeout, names: names.clone(), lookups, done };
    let line = format!("{name}> ");
    let end = command_loop::run(line, completing(names), &console, &mut prompt, member.failed(), shutdown);
    drop(prompt);
    let result = match end {
        Ok(LoopEnd::Quit) => Ok(()),
        Ok(LoopEnd::InputLost) => member.wait_for(shutdown),
        Err(failure) => Err(failure),
    };
    // The shutdown ends a lookup in progress.
    shutdown.trigger();
    threads.join();
    result
}

struct Prompt<'a> {
    member: &'a Member,
    wait_timeout: Duration,
    names: Names,
    lookups: Sender<Lookup>,
    /// Receives a message for each lookup that is done.
    done: Receiver<()>,
}

impl CommandHandler for Prompt<'_> {
    fn refresh(&mut self) {
        self.update_names();
    }

    fn handle(&mut self, line: &str) -> ControlFlow<()> {
        let result = match command::parse(line) {
            Ok(Command::Quit) => return ControlFlow::Break(()),
            Ok(command) => self.execute(command),
            Err(text) => Err(text),
        };
        match result {
            Ok(text) => print(&text),
            Err(text) => print(&format!("{}\n", show::line(&text))),
        }
        ControlFlow::Continue(())
    }
}

impl Prompt<'_> {
    /// Executes a command and returns its output. The error is a text for the user.
    fn execute(&self, command: Command) -> Result<String, String> {
        Ok(match command {
            Command::Nothing | Command::Quit => String::new(),
            Command::Get(name, out) => self.get(&name, out)?,
            Command::Files(long) => self.lookup(Lookup::Files(long))?,
            Command::Why(name) => {
                let query = download_request(&name, Duration::ZERO).map_err(|error| error.text)?.query;
                self.lookup(Lookup::Why(name, query))?
            }
            Command::Peers => show::peers(self.member.peers()),
            Command::Mine => show::mine(&self.member.mine()),
            Command::Status => {
                let transfers = self.member.transfers();
                let statuses: Vec<_> = transfers.iter().map(|transfer| transfer.status()).collect();
                let storage =
                    self.member.volunteer().map(|volunteer| show::storage_offer(&volunteer.status()));
                show::status(&statuses) + &storage.unwrap_or_default()
            }
            Command::Help => show::help(),
        })
    }

    fn get(&self, name: &str, out: Option<PathBuf>) -> Result<String, String> {
        let request = download_request(name, self.wait_timeout).map_err(|error| error.text)?;
        self.member.get(DownloadRequest { out, ..request }).map_err(|error| error.text)?;
        Ok(format!("looking up {}\n", show::line(name)))
    }

    /// Queues a lookup and waits for its result, at most [`RESULT_TIMEOUT`].
    fn lookup(&self, lookup: Lookup) -> Result<String, String> {
        // Removes the messages of lookups that took longer than the timeout.
        self.done.try_iter().for_each(drop);
        match self.lookups.try_send(lookup) {
            Ok(()) => {
                let _ = self.done.recv_timeout(RESULT_TIMEOUT);
                Ok(String::new())
            }
            Err(_) => Err("too many lookups in progress; try again after their results".to_owned()),
        }
    }

    /// Adds the names of shared files and of downloads to the completions.
    fn update_names(&self) {
        let mine = self.member.mine().into_iter().map(|offer| offer.file.name.to_string());
        let wanted = self.member.transfers().into_iter().map(|transfer| transfer.status().wanted);
        learn(&self.names, mine.chain(wanted));
    }
}

/// The Tab completion of the line editor, with the names known at the time of the key press.
fn completing(names: Names) -> Complete {
    Box::new(move |line, cursor| complete::complete(line, cursor, &lock(&names)))
}

/// Adds names to the completions.
fn learn(names: &Names, more: impl Iterator<Item = String>) {
    lock(names).extend(more);
}

/// Executes lookups one after another.
struct LookupWorker {
    completions: Sender<()>,
    member: Member,
    console: Console,
    names: Names,
}

impl LookupWorker {
    fn run(&self, queued: &Receiver<Lookup>) {
        for lookup in queued {
            let text = match lookup {
                Lookup::Files(long) => self.files(long),
                Lookup::Why(name, query) => self.why(&name, &query),
            };
            self.console.print_answer(&text);
            // Fails if the prompt has ended or the queue is full; then no thread waits for the message.
            let _ = self.completions.try_send(());
        }
    }

    fn files(&self, long: bool) -> String {
        match self.member.files(&Query::default()) {
            Ok(found) => {
                learn(&self.names, found.iter().map(|found| found.file.name.to_string()));
                show::files(&found, long)
            }
            Err(error) => format!("{}\n", show::line(&error.text)),
        }
    }

    fn why(&self, name: &str, query: &Query) -> String {
        let matches_query = |file: &crate::protocol::tracker::FileSummary| query.is_answered_by(file);
        let found = self.member.files(query).map_err(|error| error.text);
        let statuses = self.member.transfers().into_iter().rev().map(|transfer| transfer.status());
        let local = self.member.mine().into_iter().filter(|offer| matches_query(&offer.file));
        let local =
            local.map(|offer| (offer.source.progress().held(), offer.file)).max_by_key(|(held, _)| *held);
        let local = local.map(|(held, file)| (file, held));
        let status = statuses.into_iter().find(|status| status.wanted == name);
        show::why(&show::Why { name, status, local, found, peers: self.member.peers() })
    }
}
