//! Progress bars: bytes done, total bytes, rate and estimated time to completion.
//!
//! A bar is hidden if stderr is not a terminal, or with `-q`; the result of a program is always in a log line.
//! Invariant: a bar is erased from the screen when its work ends, also after an error.

use super::console::Console;
use super::line::escaped;
use indicatif::{ProgressBar, ProgressStyle};

/// Format of a bar, as a template of the crate indicatif.
const TEMPLATE: &str =
    "{prefix} [{bar:20}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {wide_msg}";
/// Maximum length of a title, bytes; it leaves room for the rest of the line.
const TITLE_MAX: usize = 40;
/// Maximum length of a message, bytes; the terminal shows the part that fits into the line.
const MESSAGE_MAX: usize = 400;

/// Progress bar of one transfer or hash computation, in bytes. It is erased on drop.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

impl Console {
    /// Adds a bar for `total` bytes below the other bars.
    pub fn bytes(&self, title: &str, total: u64) -> Bar {
        let style = ProgressStyle::with_template(TEMPLATE);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
        let bar = ProgressBar::new(total).with_style(style);
        let bar = self.bars.add(bar);
        bar.set_prefix(escaped(&title, TITLE_MAX));
        Bar { bar }
    }
}

impl Bar {
    /// Sets the bytes done by an earlier run. They count as progress, but not for the rate.
    pub fn resume(&self, done: u64) {
        self.bar.set_position(done);
        self.bar.reset_eta();
    }

    /// Sets the number of bytes done.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// Adds to the number of bytes done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Sets the text at the end of the line, for example the number of sources.
    pub fn message(&self, text: &str) {
        self.bar.set_message(escaped(&text, MESSAGE_MAX));
    }

    /// Sets the title, the total and the number of bytes done.
    pub fn retitle(&self, title: &str, total: u64, done: u64) {
        self.bar.set_prefix(escaped(&title, TITLE_MAX));
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Erases the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
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
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
        (Console::on(MultiProgress::with_draw_target(target)), screen)
    }

    #[test]
    fn template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }

    #[test]
    fn bar_shows_bytes_done_and_message() {
        let (console, screen) = console();
        let bar = console.bytes("a\u{1b}b", 4 << 20);
        bar.resume(1 << 20);
        bar.add(1 << 20);
        bar.message("3 sources\n");
        bar.set(3 << 20);
        bar.bar.tick();
        let (now, ever) = screen.0.lock().unwrap().clone();
        for part in ["a\\u{1b}b", "3.00 MiB/4.00 MiB", "3 sources\\n", "=>"] {
            assert!(now.contains(part), "{part:?} is not in {now:?}");
        }
        assert!(!ever.contains('\n'));
        bar.finish();
        assert_eq!(screen.0.lock().unwrap().0.trim(), "");
        bar.finish();
    }

    #[test]
    fn dropped_bar_is_erased() {
        let (console, screen) = console();
        let bar = console.bytes("file", 100);
        bar.set(50);
        bar.bar.tick();
        assert!(screen.0.lock().unwrap().0.contains("50 B/100 B"));
        drop(bar);
        assert_eq!(screen.0.lock().unwrap().0.trim(), "");
    }

    #[test]
    fn retitled_bar_shows_the_new_title_and_total() {
        let (console, screen) = console();
        let bar = console.bytes("total: 0 of 2 files", 100);
        bar.retitle("total: 1 of 2 files", 300, 100);
        bar.bar.tick();
        let now = screen.0.lock().unwrap().0.clone();
        assert!(now.contains("total: 1 of 2 files") && now.contains("100 B/300 B"), "{now:?}");
    }

    #[test]
    fn hidden_bar_accepts_all_calls() {
        let bar = Console::hidden().bytes("file", 0);
        bar.set(u64::MAX);
        bar.add(1);
        bar.resume(7);
        bar.finish();
        assert!(bar.bar.is_hidden());
    }
}
