//! Progress bars: name, percentage, rate, estimated time to completion, sources.
//!
//! Without a terminal, and at the prompt, a line of the log every 10 s takes the place of a bar; the log file has it also
//! with `-q`. Invariant: a bar is erased from the screen when its work ends, also after an error.

use super::console::Console;
use super::line::escaped;
use super::progress::Progress;
use super::screen::terminal_size;
use crate::report::events;
use crate::sync::lock;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest title, bytes; the terminal shows the part that fits into the line.
const TITLE_MAX: usize = 1_024;
/// Longest note, bytes.
const NOTE_MAX: usize = 400;
/// Shortest time between two drawings of a bar.
const DRAW_INTERVAL: Duration = Duration::from_millis(50);

/// Shortest time between two events of an operation.
const EVENT_INTERVAL: Duration = Duration::from_millis(100);

/// Progress of one transfer or hash computation, in bytes. It is erased on drop.
pub struct Bar {
    console: Console,
    bar: ProgressBar,
    state: Arc<Mutex<State>>,
    is_logged: bool,
    has_events: bool,
}

struct State {
    began: Instant,
    drawn: Option<Instant>,
    emitted: Option<Instant>,
    progress: Progress,
}

impl Console {
    /// Adds a bar for `total` bytes below the other bars. An earlier run has completed `done` of them.
    pub fn bytes(&self, title: &str, total: u64, done: u64) -> Bar {
        self.bar(title, total, done, true)
    }

    /// The same without events, for the total of operations that have them.
    pub(super) fn total(&self, title: &str, total: u64, done: u64) -> Bar {
        self.bar(title, total, done, false)
    }

    fn bar(&self, title: &str, total: u64, done: u64, has_events: bool) -> Bar {
        let progress = Progress::new(escaped(&title, TITLE_MAX), total, done);
        let state =
            Arc::new(Mutex::new(State { began: Instant::now(), drawn: None, emitted: None, progress }));
        let shown = state.clone();
        let line = move |_: &ProgressState, out: &mut dyn fmt::Write| {
            let state = lock(&shown);
            // A write to the buffer of a line does not fail.
            let _ = out.write_str(&state.progress.line(state.began.elapsed(), terminal_size().0));
        };
        let style = ProgressStyle::with_template("{line}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(total).with_style(style.with_key("line", line)));
        let bar = Bar { console: self.clone(), bar, state, is_logged: true, has_events };
        bar.change(|_, _| {});
        bar
    }
}

impl Bar {
    /// Without lines in the log, because another bar counts these bytes, too.
    #[must_use]
    pub fn without_log(mut self) -> Self {
        self.is_logged = false;
        self
    }

    /// Changes the progress, and shows, logs or emits it when that is due.
    fn change(&self, change: impl FnOnce(&mut Progress, Duration)) {
        let is_hidden = self.bar.is_hidden();
        let mut state = lock(&self.state);
        let now = state.began.elapsed();
        change(&mut state.progress, now);
        if self.has_events
            && events::are_wanted()
            && state.emitted.is_none_or(|emitted| emitted.elapsed() >= EVENT_INTERVAL)
        {
            state.emitted = Some(Instant::now());
            events::emit(|| state.progress.event(now));
        }
        if is_hidden {
            let line = if self.is_logged { state.progress.log_line(now) } else { None };
            drop(state);
            if let Some(line) = line {
                log::info!("{line}");
            }
        } else if state.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW_INTERVAL) {
            state.drawn = Some(Instant::now());
            drop(state);
            self.bar.tick();
        }
    }

    /// Adds to the number of bytes done.
    pub fn add(&self, bytes: u64) {
        self.change(|progress, now| progress.add(now, bytes));
    }

    /// Sets the total.
    pub fn resize(&self, total: u64) {
        self.change(|progress, _| progress.resize(total));
    }

    /// Sets the note, for example the number of sources.
    pub fn note(&self, text: &str) {
        let text = escaped(&text, NOTE_MAX);
        self.change(|progress, _| progress.note(text));
    }

    /// Sets the title, the total and the number of bytes done.
    pub fn retitle(&self, title: &str, total: u64, done: u64) {
        let title = escaped(&title, TITLE_MAX);
        self.change(|progress, now| {
            progress.retitle(title, total);
            progress.set(now, done);
        });
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.console.bars.remove(&self.bar);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::{Arc, Mutex};

    /// A terminal of one line: its present content, and all text that was ever written.
    #[derive(Debug, Clone, Default)]
    struct OneLine(Arc<Mutex<(String, String)>>);

    impl TermLike for OneLine {
        fn width(&self) -> u16 {
            120
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            let mut screen = self.0.lock().unwrap();
            screen.0 += text;
            screen.1 += text;
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.0.lock().unwrap().0.clear();
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn console() -> (Console, OneLine) {
        let screen = OneLine::default();
        let drawn_to = screen.clone();
        let target = move || ProgressDrawTarget::term_like_with_hz(Box::new(drawn_to.clone()), 255);
        (Console::on(target), screen)
    }

    #[test]
    fn a_bar_shows_name_percentage_and_note_until_it_is_dropped() {
        let (console, screen) = console();
        let bar = console.bytes("a\u{1b}b", 4 << 20, 1 << 20);
        bar.add(1 << 20);
        bar.note("3 sources\n");
        bar.retitle("a\u{1b}b", 4 << 20, 3 << 20);
        bar.bar.force_draw();
        let (now, ever) = screen.0.lock().unwrap().clone();
        for part in ["a\\u{1b}b", "75 %", "3 sources\\n", "3.0 MiB of 4.0 MiB"] {
            assert!(now.contains(part), "{part:?} is not in {now:?}");
        }
        assert!(!ever.contains('\n'));
        drop(bar);
        assert_eq!(screen.0.lock().unwrap().0.trim(), "");
    }

    #[test]
    fn bars_are_hidden_while_the_prompt_is_active() {
        let (console, screen) = console();
        let bar = console.bytes("file", 100, 50);
        bar.bar.force_draw();
        assert!(screen.0.lock().unwrap().0.contains("50 %"));
        console.begin_prompt(None);
        bar.add(10);
        bar.bar.force_draw();
        assert_eq!(screen.0.lock().unwrap().0.trim(), "", "no bar is left above the prompt");
        assert!(bar.bar.is_hidden());
        console.end_prompt();
        bar.bar.force_draw();
        assert!(screen.0.lock().unwrap().0.contains("60 %"), "on the terminal of this console");
    }

    #[test]
    fn a_hidden_bar_accepts_all_calls() {
        let bar = Console::hidden().bytes("file", 0, 7);
        bar.retitle("other", 1, u64::MAX);
        bar.add(1);
        bar.note("");
        assert!(bar.bar.is_hidden());
    }
}
