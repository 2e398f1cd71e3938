//! The terminal: log lines, progress bars and the prompt share it.
//!
//! Invariant: whoever writes does so while the others stand aside. Bars are taken down for a log line; while the
//! prompt is there are no bars, and what is written goes through its printer, which keeps the line that is being
//! typed whole. Writing never waits for the user.

use indicatif::{MultiProgress, ProgressDrawTarget};
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Takes text for the terminal while somebody types on it. Must not wait.
pub type Printer = Box<dyn Fn(String) + Send>;

/// Whether there is a prompt.
enum Prompting {
    No,
    /// Without a printer, text is written as it is.
    Yes(Option<Printer>),
}

/// The terminal, shared by log lines, progress bars and the prompt. Clones are the same terminal.
#[derive(Clone)]
pub struct Console {
    pub(super) bars: MultiProgress,
    prompting: Arc<Mutex<Prompting>>,
}

impl Console {
    /// A console that shows no progress bars: for tests, and for work nobody watches.
    pub fn hidden() -> Self {
        Self::on(MultiProgress::with_draw_target(ProgressDrawTarget::hidden()))
    }

    /// The console of this process; `quiet` has no progress bars.
    pub(super) fn new(quiet: bool) -> Self {
        match quiet {
            true => Self::hidden(),
            // Draws to stderr, and nothing at all where that is not a terminal.
            false => Self::on(MultiProgress::new()),
        }
    }

    pub(super) fn on(bars: MultiProgress) -> Self {
        Self { bars, prompting: Arc::new(Mutex::new(Prompting::No)) }
    }

    fn prompting(&self) -> MutexGuard<'_, Prompting> {
        self.prompting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there is a prompt: no progress bars, and what is written goes to `printer`, if there is one.
    pub fn begin_prompt(&self, printer: Option<Printer>) {
        *self.prompting() = Prompting::Yes(printer);
    }

    /// There is no prompt any more.
    pub fn end_prompt(&self) {
        *self.prompting() = Prompting::No;
    }

    /// Whether there is a prompt.
    pub fn is_prompting(&self) -> bool {
        matches!(*self.prompting(), Prompting::Yes(_))
    }

    /// Hands a text to the prompt's printer. Returns whether there is one.
    fn print_above_prompt(&self, text: &[u8]) -> bool {
        match &*self.prompting() {
            Prompting::Yes(Some(printer)) => {
                printer(String::from_utf8_lossy(text).into_owned());
                true
            }
            _ => false,
        }
    }

    /// Writes log lines.
    pub(super) fn log(&self, text: &[u8]) -> io::Result<()> {
        match self.print_above_prompt(text) {
            true => Ok(()),
            false => self.bars.suspend(|| io::stderr().lock().write_all(text)),
        }
    }

    /// Writes an answer, which belongs on standard output. A terminal that is gone stops nothing.
    pub fn print_answer(&self, text: &str) {
        if !self.print_above_prompt(text.as_bytes()) {
            self.bars.suspend(|| {
                let mut out = io::stdout().lock();
                let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printer_takes_everything_while_it_is_there() {
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
        assert!(console.is_prompting() && !console.print_above_prompt(b"nobody takes it"));
    }
}
