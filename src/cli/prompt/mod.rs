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
mod handler;
mod script;
pub(super) mod show;

use super::downloads::{self, Order};
use super::{BarWatch, Console};
use crate::content::PeerName;
use crate::net::{Shutdown, Threads};
use crate::report::{Fault, RoleError};
use crate::roles::folder_client::{DownloadRequest, Member};
use crate::sync::lock;
use crate::tracker_client::lookup::Query;
use crate::tracker_client::selection::{Item, Wanted};
use command::Command;
use command_loop::{CommandHandler, LoopEnd, print};
use complete::Names;
use crossbeam_channel::{Receiver, Sender, bounded};
use editor::Complete;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Maximum number of lookups in the queue.
const LOOKUP_QUEUE_MAX: usize = 8;
/// Maximum time that a lookup delays the next prompt. A result that takes longer is printed above the input line.
/// During this time Ctrl-C is a signal, which ends the program.
const RESULT_TIMEOUT: Duration = Duration::from_millis(200);

/// Names for Tab completion, as known at the time of the key press.
type KnownNames = Arc<Mutex<Names>>;

/// A lookup at other peers or at the tracker.
enum Lookup {
    Files(bool),
    Why(String, Query),
    /// Downloads the listed files that match a pattern.
    Get(Item),
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
    let names = KnownNames::default();
    let threads = Threads::new();
    let (lookups, queued) = bounded(LOOKUP_QUEUE_MAX);
    let (completions, done) = bounded(LOOKUP_QUEUE_MAX);
    let lookup =
        Lookups { member: member.clone(), names: names.clone(), wait_timeout, shutdown: shutdown.clone() };
    let worker = LookupWorker { completions, lookups: lookup.clone(), console: console.clone() };
    threads.spawn("prompt-ask", move || worker.run(&queued))?;
    let mut prompt = Prompt { member, watch, lookup, lookups, done };
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
    watch: &'a Arc<BarWatch>,
    lookup: Lookups,
    /// To the thread that executes lookups.
    lookups: Sender<Lookup>,
    /// Receives a message for each lookup that is done.
    done: Receiver<()>,
}

impl CommandHandler for Prompt<'_> {
    fn refresh(&mut self) {
        self.lookup.update_names();
    }

    fn handle(&mut self, line: &str) -> ControlFlow<()> {
        let result = match command::parse(line) {
            Ok(Command::Quit) => return ControlFlow::Break(()),
            Ok(command) => self.start(command),
            Err(text) => Err(text),
        };
        match result {
            Ok(text) => print(&text),
            Err(text) => print(&format!("{}\n", show::line(&text))),
        }
        ControlFlow::Continue(())
    }

    fn execute(&mut self, line: &str) -> ControlFlow<(), Result<(), RoleError>> {
        let result = match command::parse(line) {
            Ok(Command::Quit) => return ControlFlow::Break(()),
            Ok(command) => self.finish(command),
            Err(text) => Err(RoleError::new(Fault::Usage, text)),
        };
        ControlFlow::Continue(result)
    }
}

impl Prompt<'_> {
    /// Executes a command at a terminal and returns its output. Downloads and lookups continue in the background. The
    /// error is a text for the user.
    fn start(&self, command: Command) -> Result<String, String> {
        Ok(match command {
            Command::Get(items, out) => self.get(&items, out)?,
            Command::Files(long) => self.queue(Lookup::Files(long))?,
            Command::Why(name, item) => self.queue(Lookup::Why(name, query(&item)))?,
            Command::Cancel(names) => self.cancel(&names)?,
            other => self.local(&other),
        })
    }

    /// Executes a command of a pipe or file to its end and prints its output.
    fn finish(&self, command: Command) -> Result<(), RoleError> {
        let Lookups { wait_timeout: wait, shutdown, .. } = &self.lookup;
        if matches!(command, Command::Files(_) | Command::Peers(_) | Command::Why(..)) {
            self.member.wait_for_peers(*wait, shutdown)?;
        }
        let text = match command {
            Command::Get(items, out) => {
                return downloads::run(self.member, Order { items, out, wait: *wait }, self.watch, shutdown);
            }
            Command::Files(long) => self.lookup.files(long)?,
            Command::Why(name, item) => self.lookup.why(&name, &query(&item)),
            Command::Cancel(names) => {
                self.cancel(&names).map_err(|text| RoleError::new(Fault::NotFound, text))?
            }
            other => self.local(&other),
        };
        self.watch.console().print_answer(&text);
        Ok(())
    }

    /// Executes a command that asks no other program.
    fn local(&self, command: &Command) -> String {
        match command {
            Command::Peers(begun) => show::peers(self.member.peers(), begun),
            Command::Mine(long) => show::mine(&self.member.mine(), *long),
            Command::Status => {
                let transfers = self.member.transfers();
                let statuses: Vec<_> = transfers.iter().map(|transfer| transfer.status()).collect();
                let storage =
                    self.member.volunteer().map(|volunteer| show::storage_offer(&volunteer.status()));
                // An error of the folder is in the log: the folder is polled.
                let unfinished = self.member.unfinished().unwrap_or_default();
                show::status(&statuses, &unfinished) + &storage.unwrap_or_default()
            }
            Command::Help => show::help(),
            _ => String::new(),
        }
    }

    /// Starts downloads in the background.
    fn get(&self, items: &[Item], out: Option<PathBuf>) -> Result<String, String> {
        let mut text = String::new();
        for item in items {
            let started = match item.only() {
                Some(wanted) => self.lookup.start(wanted, out.clone()).map_err(|error| error.text),
                None => self.queue(Lookup::Get(item.clone())).map(drop),
            };
            text += &match started {
                Ok(()) => format!("looking up {}\n", show::line(&item.to_string())),
                Err(error) if items.len() == 1 => return Err(error),
                Err(error) => format!("{}\n", show::line(&error)),
            };
        }
        Ok(text)
    }

    /// Cancels running downloads.
    fn cancel(&self, names: &[String]) -> Result<String, String> {
        let running: Vec<_> =
            self.member.transfers().into_iter().filter(|transfer| transfer.is_running()).collect();
        for name in names {
            let wanted = running.iter().filter(|transfer| transfer.status().wanted == *name);
            if wanted.map(|transfer| transfer.abandon()).count() == 0 {
                let others: Vec<_> = running.iter().map(|transfer| transfer.status().wanted).collect();
                let others = match others.is_empty() {
                    true => "no download is running".to_owned(),
                    false => format!("running: {}", others.join(", ")),
                };
                return Err(format!("{name} is not being downloaded ({others})"));
            }
        }
        Ok(String::new())
    }

    /// Queues a lookup and waits for its result, at most [`RESULT_TIMEOUT`].
    fn queue(&self, lookup: Lookup) -> Result<String, String> {
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
}

/// The query for an item that names one file.
fn query(item: &Item) -> Query {
    item.only().map(|wanted| wanted.query).unwrap_or_default()
}

/// The Tab completion of the line editor.
fn completing(names: KnownNames) -> Complete {
    Arc::new(move |line, cursor| complete::complete(line, cursor, &lock(&names)))
}

/// Executes lookups one after another.
struct LookupWorker {
    completions: Sender<()>,
    lookups: Lookups,
    console: Console,
}

impl LookupWorker {
    fn run(&self, queued: &Receiver<Lookup>) {
        for lookup in queued {
            let result = match lookup {
                Lookup::Files(long) => self.lookups.files(long),
                Lookup::Why(name, query) => Ok(self.lookups.why(&name, &query)),
                Lookup::Get(item) => self.lookups.get(&item),
            };
            let text = result.unwrap_or_else(|error| format!("{}\n", show::line(&error.text)));
            self.console.print_answer(&text);
            // Fails if the prompt has ended or the queue is full; then no thread waits for the message.
            let _ = self.completions.try_send(());
        }
    }
}

/// Asks other peers or the tracker, and learns names from their answers.
#[derive(Clone)]
struct Lookups {
    member: Member,
    names: KnownNames,
    wait_timeout: Duration,
    shutdown: Shutdown,
}

impl Lookups {
    fn files(&self, long: bool) -> Result<String, RoleError> {
        let found = self.member.files(&Query::default())?;
        lock(&self.names).files.extend(found.iter().map(|found| found.file.name.to_string()));
        Ok(show::files(&found, long))
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

    /// Starts the download of a file.
    fn start(&self, wanted: Wanted, out: Option<PathBuf>) -> Result<(), RoleError> {
        let (Wanted { query, ticket, .. }, wait_timeout) = (wanted, self.wait_timeout);
        let request = DownloadRequest { query, ticket, out, wait_timeout, ..DownloadRequest::default() };
        self.member.get(request).map(drop)
    }

    /// Starts the downloads of the files that match a pattern now.
    fn get(&self, item: &Item) -> Result<String, RoleError> {
        let mut text = String::new();
        for wanted in self.member.select(item, Duration::ZERO, &self.shutdown)? {
            if let Err(error) = self.start(wanted, None) {
                text += &format!("{}\n", show::line(&error.text));
            }
        }
        Ok(text)
    }

    /// Adds the names of shared files, downloads and peers to the completions.
    fn update_names(&self) {
        let mine = self.member.mine().into_iter().map(|offer| offer.file.name.to_string());
        let transfers = self.member.transfers();
        let wanted = transfers.iter().map(|transfer| transfer.status().wanted);
        let running = transfers.iter().filter(|transfer| transfer.is_running());
        let mut names = lock(&self.names);
        names.files.extend(mine.chain(wanted));
        names.downloads = running.map(|transfer| transfer.status().wanted).collect();
        names.peers = self.member.peers().into_iter().map(|peer| peer.name.to_string()).collect();
    }
}
