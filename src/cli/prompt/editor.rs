//! Line editor: reads lines in a thread of its own, while other threads print above the input line.
//!
//! Thread `prompt-line` owns the editor and reads one line for each request; thread `prompt-print` passes text to it.
//! Invariants: a print never blocks on the editor (text that does not fit into the queue is counted and omitted; the
//! log file has it); while the input line is visible, only the editor writes to the terminal. [`Editor::stop`] wakes a
//! reader that waits for a key and joins both threads. A reader that cannot be woken (on a terminal that the editor
//! does not support) is detached.

use super::complete::Offer;
use crate::cli::console::Printer;
use crate::cli::signals;
use crate::cli::state_folder::state_folder;
use crate::content::limits::HISTORY_MAX;
use crate::net::Threads;
use crate::sync::{lock, wait_timeout_while};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
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
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Maximum number of texts in the queue of the printer.
const PRINT_QUEUE_MAX: usize = 1_024;
/// Queued texts are combined into one print up to this size, bytes.
const PRINT_BYTES_MAX: usize = 32 * 1024;
/// Maximum number of attempts to wake a reader before it is detached.
const WAKE_ATTEMPTS_MAX: u32 = 5;
/// Time that a reader has to react to one attempt.
const WAKE_TIMEOUT: Duration = Duration::from_millis(100);

/// Computes the completions for a line and a cursor position in bytes. Returns the start of the word and its
/// completions.
pub type Complete = Arc<dyn Fn(&str, usize) -> (usize, Vec<Offer>) + Send + Sync>;

/// Result of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A complete line.
    Line(String),
    /// Ctrl-C.
    Interrupted {
        /// The text of the input line.
        text: String,
    },
    /// Ctrl-D.
    End,
    /// The terminal cannot be read.
    Broken(String),
}

/// State of the reader, shared with the printer and with [`Editor::stop`].
#[derive(Default)]
struct Gate {
    state: Mutex<ReaderState>,
    changed: Condvar,
}

#[derive(Default)]
struct ReaderState {
    /// The input line is visible, or about to be drawn, and the editor prints above it.
    reading: bool,
    /// The text of the input line.
    text: String,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, ReaderState> {
        lock(&self.state)
    }

    fn set(&self, reading: bool, text: String) {
        *self.lock() = ReaderState { reading, text };
        self.changed.notify_all();
    }

    fn wait_reading(&self, time: Duration) -> bool {
        wait_timeout_while(&self.changed, self.lock(), time, |state| !state.reading).reading
    }
}

/// A running line editor with its two threads.
pub struct Editor {
    line_requests: Sender<String>,
    input: Receiver<Input>,
    /// A line was requested and has not arrived.
    waiting: bool,
    gate: Arc<Gate>,
    threads: Threads,
}

impl Editor {
    /// Starts the threads. Returns the editor and a printer for text above the input line; the printer is `None` if the
    /// terminal does not support it.
    ///
    /// # Errors
    /// There is no terminal, or a thread cannot be spawned.
    pub fn start(prompt: String, complete: Complete) -> io::Result<(Self, Option<Printer>)> {
        let gate = Arc::new(Gate::default());
        let mut editor = new_editor(complete, gate.clone()).map_err(io::Error::other)?;
        let threads = Threads::new();
        let printer = match editor.create_external_printer() {
            Ok(external) => Some(start_printer(external, gate.clone(), &threads)?),
            Err(error) => {
                log::debug!("log lines may overwrite the input line: cannot print above it: {error}");
                None
            }
        };
        let (line_requests, requested) = bounded(1);
        let (results, input) = bounded(1);
        let reader = Reader { editor, history: History::open(), prompt, gate: gate.clone() };
        threads.spawn("prompt-line", move || reader.run(&requested, &results))?;
        Ok((Self { line_requests, input, waiting: false, gate, threads }, printer))
    }

    /// Requests a line that begins with a text. It arrives at [`input`](Self::input).
    pub fn request_line(&mut self, begun: String) {
        // Fails only if the reader has ended; then the other channel is closed.
        self.waiting = self.line_requests.try_send(begun).is_ok();
    }

    /// The channel of results, one for each [`request_line`](Self::request_line). It is closed if the reader fails.
    pub fn input(&self) -> &Receiver<Input> {
        &self.input
    }

    /// Must be called after each receive from [`input`](Self::input).
    pub fn input_received(&mut self) {
        self.waiting = false;
    }

    /// Wakes the reader, if it waits for a key, and returns its last input.
    pub fn interrupt(&mut self) -> Option<Input> {
        for _ in 0..WAKE_ATTEMPTS_MAX {
            if !self.waiting {
                break;
            }
            if self.gate.wait_reading(WAKE_TIMEOUT) {
                signals::wake_editor();
            }
            match self.input.recv_timeout(WAKE_TIMEOUT) {
                Err(RecvTimeoutError::Timeout) => {}
                input => {
                    self.waiting = false;
                    return input.ok();
                }
            }
        }
        None
    }

    /// Ends the threads. The printer must have been dropped before.
    pub fn stop(mut self) {
        self.interrupt();
        let waiting = self.waiting;
        drop((self.line_requests, self.input));
        match waiting {
            false => self.threads.join(),
            true => self.threads.detach_all(),
        }
    }
}

type LineEditor = rustyline::Editor<Callbacks, DefaultHistory>;

fn new_editor(complete: Complete, gate: Arc<Gate>) -> rustyline::Result<LineEditor> {
    let config = Config::builder()
        .max_history_size(HISTORY_MAX)?
        .history_ignore_dups(true)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .completion_show_all_if_ambiguous(true)
        .build();
    let mut editor = rustyline::Editor::with_config(config)?;
    editor.set_helper(Some(Callbacks { complete, gate }));
    Ok(editor)
}

/// Owns the editor and reads a line for each request.
struct Reader {
    editor: LineEditor,
    history: Option<History>,
    prompt: String,
    gate: Arc<Gate>,
}

impl Reader {
    fn run(mut self, requested: &Receiver<String>, results: &Sender<Input>) {
        if let Some(history) = &self.history {
            history.load(&mut self.editor);
        }
        for begun in requested {
            self.gate.set(false, String::new());
            let result = self.editor.readline_with_initial(&self.prompt, (&begun, ""));
            let text = std::mem::take(&mut self.gate.lock().text);
            self.gate.set(false, String::new());
            let input = match result {
                Ok(line) => {
                    self.remember(&line);
                    Input::Line(line)
                }
                Err(ReadlineError::Interrupted) => Input::Interrupted { text },
                Err(ReadlineError::Eof) => Input::End,
                Err(error) => Input::Broken(error.to_string()),
            };
            if results.send(input).is_err() {
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

/// The history file. Failures are logged at level debug only.
struct History(PathBuf);

impl History {
    /// `$XDG_STATE_HOME/shoal/history`, or `~/.local/state/shoal/history`.
    fn open() -> Option<Self> {
        let folder = state_folder()?;
        let path = folder.join("history");
        // The file is created here because the editor would change the umask of the whole process for this.
        let mut options = std::fs::OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        match std::fs::create_dir_all(&folder).and_then(|()| options.open(&path)) {
            Ok(_) => Some(Self(path)),
            Err(error) => {
                log::debug!("cannot open the history file {}: {error}", path.display());
                None
            }
        }
    }

    fn load(&self, editor: &mut LineEditor) {
        if let Err(error) = editor.load_history(&self.0) {
            log::debug!("cannot read {}: {error}", self.0.display());
        }
    }

    fn append(&self, editor: &mut LineEditor) {
        if let Err(error) = editor.append_history(&self.0) {
            log::debug!("cannot write {}: {error}", self.0.display());
        }
    }
}

/// Starts the thread that prints above the input line. It ends when the printer is dropped.
fn start_printer(
    external: impl ExternalPrinter + Send + 'static,
    gate: Arc<Gate>,
    threads: &Threads,
) -> io::Result<Printer> {
    let (texts, queued) = bounded::<String>(PRINT_QUEUE_MAX);
    let omitted = Arc::new(AtomicU64::new(0));
    let count = omitted.clone();
    threads.spawn("prompt-print", move || print(external, &gate, &queued, &count))?;
    Ok(Box::new(move |text| {
        if let Err(TrySendError::Full(_)) = texts.try_send(text) {
            omitted.fetch_add(1, Ordering::Relaxed);
        }
    }))
}

fn print(mut external: impl ExternalPrinter, gate: &Gate, queued: &Receiver<String>, omitted: &AtomicU64) {
    while let Ok(mut text) = queued.recv() {
        while text.len() < PRINT_BYTES_MAX
            && let Ok(more) = queued.try_recv()
        {
            text += &more;
        }
        match omitted.swap(0, Ordering::Relaxed) {
            0 => {}
            1 => text += "(1 line omitted here; see the log file)\n",
            count => text += &format!("({count} lines omitted here; see the log file)\n"),
        }
        // The lock is held during a direct write, so that the prompt is not drawn at the same time.
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

/// Callbacks of the line editor.
struct Callbacks {
    complete: Complete,
    gate: Arc<Gate>,
}

impl Helper for Callbacks {}
impl Validator for Callbacks {}
impl Highlighter for Callbacks {}

impl Hinter for Callbacks {
    type Hint = String;

    /// The editor calls this before it draws the input line, after it has set the terminal mode and its signal
    /// handlers. From then on it can print above the line, and a signal wakes it.
    fn hint(&self, line: &str, _: usize, _: &Context<'_>) -> Option<String> {
        self.gate.set(true, line.to_owned());
        None
    }
}

impl Completer for Callbacks {
    type Candidate = Pair;

    fn complete(&self, line: &str, cursor: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, offers) = (self.complete)(line, cursor);
        let pair = |offer: Offer| Pair { display: offer.shown, replacement: offer.typed };
        Ok((start, offers.into_iter().map(pair).collect()))
    }
}
