//! Progress bars: what is done, of how much, how fast, how long still.
//!
//! Only for people: a bar is hidden when stderr is not a terminal, or with `-q`, and nothing depends on
//! one. Invariant: a bar leaves nothing behind on the screen, however its work ended; the last words are a
//! log line's.

use super::console::Console;
use super::line::escaped;
use indicatif::{ProgressBar, ProgressStyle};

/// A line on the terminal, in indicatif's words.
const TEMPLATE: &str =
    "{prefix} [{bar:20}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta} {wide_msg}";
/// Longest title, bytes: the rest of the line must have room beside it.
const TITLE_MAX: usize = 40;
/// Longest message, bytes; what the terminal has no room for is not shown.
const MESSAGE_MAX: usize = 400;

/// The progress of one piece of work, counted in bytes. It leaves the screen when it is dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

impl Console {
    /// A new bar below the others, for work of `total` bytes.
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
    /// `done` bytes were there before the work began: they count as done, but not for the rate.
    pub fn resume(&self, done: u64) {
        self.bar.set_position(done);
        self.bar.reset_eta();
    }

    /// So many bytes are done.
    pub fn set(&self, done: u64) {
        self.bar.set_position(done);
    }

    /// So many more bytes are done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// A few words at the end of the line, for example how many sources there are.
    pub fn message(&self, text: &str) {
        self.bar.set_message(escaped(&text, MESSAGE_MAX));
    }

    /// The work is over: the bar leaves the screen. (indicatif would wipe a bar that stays at the next
    /// log line anyway.)
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

    /// A terminal of one line: what is on it now, and all that ever was.
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
    fn the_template_is_right() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }

    #[test]
    fn a_bar_shows_what_is_done() {
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
    fn a_dropped_bar_goes() {
        let (console, screen) = console();
        let bar = console.bytes("file", 100);
        bar.set(50);
        bar.bar.tick();
        assert!(screen.0.lock().unwrap().0.contains("50 B/100 B"));
        drop(bar);
        assert_eq!(screen.0.lock().unwrap().0.trim(), "");
    }

    #[test]
    fn a_hidden_bar_takes_everything() {
        let bar = Console::hidden().bytes("file", 0);
        bar.set(u64::MAX);
        bar.add(1);
        bar.resume(7);
        bar.finish();
        assert!(bar.bar.is_hidden());
    }
}
