//! Output to the terminal, which log lines, progress bars and the prompt share.
//!
//! Invariants: progress bars are hidden while a log line is written. While the prompt is active there are no progress
//! bars, and all text goes through the printer of the line editor, which redraws the input line below it. A write never
//! waits for user input.

use super::json;
use super::patient_write::{PIPE_BYTES, takes};
use super::screen::Screen;
use crate::sync::lock;
use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Most drawings of the progress bars in a second.
const DRAWS_PER_SECOND_MAX: u8 = 20;

/// Time that a log line waits until stderr takes it.
const STDERR_TIMEOUT: Duration = Duration::from_millis(200);

/// Prints text above the input line of the prompt. It must not block.
pub type Printer = Box<dyn Fn(String) + Send>;

/// State of the prompt.
enum Prompting {
    No,
    /// Active. Without a printer, text is written directly to the terminal.
    Yes(Option<Printer>),
}

/// The terminal of this process, shared by log lines, progress bars and the prompt. Clones are the same terminal.
#[derive(Clone)]
pub struct Console {
    pub(super) bars: MultiProgress,
    /// Creates the target of the progress bars while there is no prompt.
    target: Arc<dyn Fn() -> ProgressDrawTarget + Send + Sync>,
    prompting: Arc<Mutex<Prompting>>,
    /// Log lines that stderr did not take, since the last one that it took.
    lost: Arc<AtomicU64>,
}

impl Console {
    /// A console without progress bars, for tests and for `-q`.
    pub fn hidden() -> Self {
        Self::on(ProgressDrawTarget::hidden)
    }

    /// The console of this process, without progress bars if `quiet`.
    pub(super) fn new(quiet: bool) -> Self {
        match quiet {
            true => Self::hidden(),
            false => Self::on(terminal),
        }
    }

    /// A console whose progress bars draw to `target`, while there is no prompt.
    pub(super) fn on(target: impl Fn() -> ProgressDrawTarget + Send + Sync + 'static) -> Self {
        let bars = MultiProgress::with_draw_target(target());
        Self {
            bars,
            target: Arc::new(target),
            prompting: Arc::new(Mutex::new(Prompting::No)),
            lost: Arc::default(),
        }
    }

    fn prompting(&self) -> MutexGuard<'_, Prompting> {
        lock(&self.prompting)
    }

    /// Marks the prompt as active: no progress bars; text goes to `printer`, if one is given.
    pub fn begin_prompt(&self, printer: Option<Printer>) {
        // A failure to erase bars does not matter to the prompt.
        let _ = self.bars.clear();
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
        *self.prompting() = Prompting::Yes(printer);
    }

    /// Marks the prompt as ended.
    pub fn end_prompt(&self) {
        self.bars.set_draw_target((self.target)());
        *self.prompting() = Prompting::No;
    }

    /// Whether the prompt is active.
    pub fn is_prompting(&self) -> bool {
        matches!(*self.prompting(), Prompting::Yes(_))
    }

    /// Passes text to the printer of the prompt. Returns false if there is none.
    fn print_above_prompt(&self, text: &[u8]) -> bool {
        match &*self.prompting() {
            Prompting::Yes(Some(printer)) => {
                printer(String::from_utf8_lossy(text).into_owned());
                true
            }
            _ => false,
        }
    }

    /// Writes log lines to stderr, or above the input line of the prompt. Lines that stderr does not take within
    /// [`STDERR_TIMEOUT`] are lost and counted: a program whose output is not read must not stop.
    pub(super) fn log(&self, text: &[u8]) -> io::Result<()> {
        match self.print_above_prompt(text) {
            true => Ok(()),
            false => self.bars.suspend(|| self.write_log(&mut io::stderr().lock(), text)),
        }
    }

    fn write_log(&self, out: &mut (impl Write + AsFd), text: &[u8]) -> io::Result<()> {
        let lost = self.lost.load(Ordering::Relaxed);
        // After a loss it is not awaited again.
        let wait = if lost == 0 { STDERR_TIMEOUT } else { Duration::ZERO };
        if !takes(out, wait) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let mut all = Vec::new();
        if lost > 0 {
            self.lost.fetch_sub(lost, Ordering::Relaxed);
            let lines = if lost == 1 { "1 log line was" } else { &format!("{lost} log lines were") };
            all = format!("{lines} not shown: the output was not read\n").into_bytes();
        }
        all.extend(text);
        for (number, part) in all.chunks(PIPE_BYTES).enumerate() {
            if number > 0 && !takes(out, wait) {
                self.lost.fetch_add(1, Ordering::Relaxed);
                break;
            }
            out.write_all(part)?;
        }
        Ok(())
    }

    /// Writes a result to stderr: standard output is used for something else.
    pub fn print_aside(&self, text: &str) {
        let _ = self.log(text.as_bytes());
    }

    /// Writes a result to standard output, or above the input line of the prompt, or with `--json` to stderr. A write
    /// error is ignored: a closed terminal does not stop the program.
    pub fn print_answer(&self, text: &str) {
        if json::is_active() {
            return self.print_aside(text);
        }
        if !self.print_above_prompt(text.as_bytes()) {
            self.bars.suspend(|| {
                let mut out = io::stdout().lock();
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            });
        }
    }
}

/// Writes a line to stderr. A write error is ignored: a closed terminal does not change the exit code.
pub(super) fn print_error(line: &str) {
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Draws to stderr; draws nothing if stderr is not a terminal.
fn terminal() -> ProgressDrawTarget {
    match io::stderr().is_terminal() {
        true => ProgressDrawTarget::term_like_with_hz(Box::new(Screen::stderr()), DRAWS_PER_SECOND_MAX),
        false => ProgressDrawTarget::hidden(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_a_full_pipe_does_not_take_are_counted_and_reported() {
        let console = Console::hidden();
        let (mut reader, mut writer) = io::pipe().unwrap();
        let line = [b'x'; PIPE_BYTES];
        let mut written = 0;
        while console.lost.load(Ordering::Relaxed) < 2 {
            console.write_log(&mut writer, &line).unwrap();
            written += 1;
        }
        let mut taken = vec![0; line.len() * (written - 2)];
        io::Read::read_exact(&mut reader, &mut taken).unwrap();
        console.write_log(&mut writer, b"last\n").unwrap();
        drop(writer);
        let rest = io::read_to_string(reader).unwrap();
        assert_eq!(rest, "2 log lines were not shown: the output was not read\nlast\n");
    }

    #[test]
    fn printer_receives_all_text_while_the_prompt_is_active() {
        let console = Console::hidden();
        let taken = Arc::new(Mutex::new(String::new()));
        let printed = taken.clone();
        assert!(!console.is_prompting() && !console.print_above_prompt(b"before"));
        console.begin_prompt(Some(Box::new(move |text| *printed.lock().unwrap() += &text)));
        let clone = console.clone();
        clone.log(b"a line\n").unwrap();
        clone.print_answer("an answer\n");
        assert!(console.is_prompting());
        console.end_prompt();
        assert!(!clone.is_prompting() && !clone.print_above_prompt(b"after"));
        assert_eq!(*taken.lock().unwrap(), "a line\nan answer\n");
        console.begin_prompt(None);
        assert!(console.is_prompting() && !console.print_above_prompt(b"no printer"));
    }
}
