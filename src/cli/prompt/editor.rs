//! The line editor: reads lines in a thread of its own, and lets others print above the line that is being typed.
//!
//! Two threads. `prompt-line` owns the editor and reads one line each time it is told to; `prompt-print` hands it
//! what is to be printed meanwhile. Invariants: whoever prints never waits for the editor (what there is no room for
//! is counted, and stands in the log file); nothing is written between the drawing of the prompt and the end of the
//! line but by the editor itself. [`Editor::stop`] wakes a reader that waits for a key, and joins both threads; a
//! reader that cannot be woken (a terminal that the editor does not support) is left to end with the process.

use super::complete::Offer;
use crate::cli::console::Printer;
use crate::cli::signals;
use crate::content::limits::HISTORY_MAX;
use crate::net::Threads;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, ExternalPrinter, Helper};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Texts that may wait to be printed.
const QUEUE: usize = 1_024;
/// Most bytes that are printed at once.
const PIECE: usize = 32 * 1024;
/// How often a reader is woken before it is given up, and how long it has each time.
const TRIES: u32 = 5;
const TRY_TIME: Duration = Duration::from_millis(100);

/// What Tab offers for a line and a place in it: where the word begins, and what it can become.
pub type Complete = Box<dyn Fn(&str, usize) -> (usize, Vec<Offer>) + Send>;

/// What came of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A line.
    Line(String),
    /// Ctrl-C, and whether there was anything on the line.
    Interrupted {
        /// Nothing was.
        empty: bool,
    },
    /// Ctrl-D.
    End,
    /// The terminal cannot be read.
    Broken(String),
}

/// Where the reader is, for those who print and for who wants to wake it.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The prompt is drawn, or about to be, and the editor takes what is to be printed.
    reading: bool,
    /// Nothing is on the line.
    empty: bool,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, reading: bool, empty: bool) {
        *self.lock() = State { reading, empty };
        self.changed.notify_all();
    }

    fn wait_reading(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |state| !state.reading);
        waited.unwrap_or_else(PoisonError::into_inner).0.reading
    }
}

/// A running editor.
pub struct Editor {
    go: Sender<()>,
    heard: Receiver<Input>,
    waiting: bool,
    gate: Arc<Gate>,
    threads: Threads,
}

impl Editor {
    /// Starts the threads. With the editor comes what prints above its line; `None` where that cannot be done.
    ///
    /// # Errors
    /// There is no terminal, or no thread.
    pub fn start(prompt: String, complete: Complete) -> io::Result<(Self, Option<Printer>)> {
        let gate = Arc::new(Gate::default());
        let mut editor = new_editor(complete, gate.clone()).map_err(io::Error::other)?;
        let threads = Threads::new();
        let printer = match editor.create_external_printer() {
            Ok(external) => Some(start_printer(external, gate.clone(), &threads)?),
            Err(error) => {
                log::debug!("log lines may tear the line that is being typed: {error}");
                None
            }
        };
        let (go, gone) = bounded(1);
        let (says, heard) = bounded(1);
        let reader = Reader { editor, history: History::open(), prompt, gate: gate.clone() };
        threads.spawn("prompt-line", move || reader.run(&gone, &says))?;
        Ok((Self { go, heard, waiting: false, gate, threads }, printer))
    }

    /// Has a line read. What came of it arrives at [`heard`](Self::heard).
    pub fn ask(&mut self) {
        // Fails only when the reader has ended, which is seen at the other channel.
        self.waiting = self.go.try_send(()).is_ok();
    }

    /// Where lines arrive, one for each [`ask`](Self::ask). Closed when the reader has failed.
    pub fn heard(&self) -> &Receiver<Input> {
        &self.heard
    }

    /// To be told when something has arrived.
    pub fn answered(&mut self) {
        self.waiting = false;
    }

    /// Ends the threads. What prints must have been dropped.
    pub fn stop(self) {
        let mut waiting = self.waiting;
        for _ in 0..TRIES {
            if !waiting {
                break;
            }
            if self.gate.wait_reading(TRY_TIME) {
                signals::wake_editor();
            }
            let answer = self.heard.recv_timeout(TRY_TIME);
            waiting = matches!(answer, Err(crossbeam_channel::RecvTimeoutError::Timeout));
        }
        drop((self.go, self.heard));
        match waiting {
            false => self.threads.join(),
            true => self.threads.detach_all(),
        }
    }
}

type Line = rustyline::Editor<Aid, DefaultHistory>;

fn new_editor(complete: Complete, gate: Arc<Gate>) -> rustyline::Result<Line> {
    let config = Config::builder()
        .max_history_size(HISTORY_MAX)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .completion_show_all_if_ambiguous(true)
        .build();
    let mut editor = rustyline::Editor::with_config(config)?;
    editor.set_helper(Some(Aid { complete, gate }));
    Ok(editor)
}

/// Reads lines when it is told to.
struct Reader {
    editor: Line,
    history: Option<History>,
    prompt: String,
    gate: Arc<Gate>,
}

impl Reader {
    fn run(mut self, gone: &Receiver<()>, says: &Sender<Input>) {
        if let Some(history) = &self.history {
            history.load(&mut self.editor);
        }
        for () in gone {
            self.gate.set(false, true);
            let result = self.editor.readline(&self.prompt);
            let empty = self.gate.lock().empty;
            self.gate.set(false, true);
            let heard = match result {
                Ok(line) => {
                    self.remember(&line);
                    Input::Line(line)
                }
                Err(ReadlineError::Interrupted) => Input::Interrupted { empty },
                Err(ReadlineError::Eof) => Input::End,
                Err(error) => Input::Broken(error.to_string()),
            };
            if says.send(heard).is_err() {
                return;
            }
        }
    }

    fn remember(&mut self, line: &str) {
        if let (Ok(true), Some(history)) = (self.editor.add_history_entry(line), &self.history) {
            history.append(&mut self.editor);
        }
    }
}

/// Where lines are remembered. That they cannot be is no trouble worth a word.
struct History(PathBuf);

impl History {
    /// `$XDG_STATE_HOME/shoal/history`, or `~/.local/state/shoal/history`.
    fn open() -> Option<Self> {
        let absolute =
            |variable: &str| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
        let folder = state.join("shoal");
        let path = folder.join("history");
        // Made here: the editor would change the mask for new files of the whole process for a moment.
        let mut options = std::fs::OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        match std::fs::create_dir_all(&folder).and_then(|()| options.open(&path)) {
            Ok(_) => Some(Self(path)),
            Err(error) => {
                log::debug!("no history in {}: {error}", path.display());
                None
            }
        }
    }

    fn load(&self, editor: &mut Line) {
        if let Err(error) = editor.load_history(&self.0) {
            log::debug!("cannot read {}: {error}", self.0.display());
        }
    }

    fn append(&self, editor: &mut Line) {
        if let Err(error) = editor.append_history(&self.0) {
            log::debug!("cannot write {}: {error}", self.0.display());
        }
    }
}

/// Starts the thread that prints above the line. It ends when the printer is dropped.
fn start_printer(
    external: impl ExternalPrinter + Send + 'static,
    gate: Arc<Gate>,
    threads: &Threads,
) -> io::Result<Printer> {
    let (texts, queued) = bounded::<String>(QUEUE);
    let left_out = Arc::new(AtomicU64::new(0));
    let count = left_out.clone();
    threads.spawn("prompt-print", move || print(external, &gate, &queued, &count))?;
    Ok(Box::new(move |text| {
        if let Err(TrySendError::Full(_)) = texts.try_send(text) {
            left_out.fetch_add(1, Ordering::Relaxed);
        }
    }))
}

fn print(mut external: impl ExternalPrinter, gate: &Gate, queued: &Receiver<String>, left_out: &AtomicU64) {
    while let Ok(mut text) = queued.recv() {
        while text.len() < PIECE
            && let Ok(more) = queued.try_recv()
        {
            text += &more;
        }
        match left_out.swap(0, Ordering::Relaxed) {
            0 => {}
            count => text += &format!("({count} lines more are in the log file alone)\n"),
        }
        // Held while this writes by itself, so that the prompt is not drawn meanwhile.
        let state = gate.lock();
        if !state.reading {
            write(&text);
            continue;
        }
        drop(state);
        if external.print(text.clone()).is_err() {
            write(&text);
        }
    }
}

fn write(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// What the editor asks while a line is being typed.
struct Aid {
    complete: Complete,
    gate: Arc<Gate>,
}

impl Helper for Aid {}
impl Validator for Aid {}
impl Highlighter for Aid {}

impl Hinter for Aid {
    type Hint = String;

    /// Called before each drawing, with the terminal in its mode and signals caught: that is when the editor can
    /// print and can be woken.
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.gate.set(true, line.is_empty());
        None
    }
}

impl Completer for Aid {
    type Candidate = Pair;

    fn complete(&self, line: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, offers) = (self.complete)(line, cursor);
        let pair = |offer: Offer| Pair { display: offer.shown, replacement: offer.typed };
        Ok((start, offers.into_iter().map(pair).collect()))
    }
}
