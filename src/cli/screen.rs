//! The lines that are redrawn in place at the end of the terminal: progress bars and the table of receivers.
//!
//! Invariants: no line is as wide as the terminal; each drawing erases all of the last one, also if the terminal has
//! become narrower meanwhile and has continued its lines in further rows.

use super::columns::{columns, cut};
use crate::sync::lock;
use indicatif::TermLike;
use rustix::termios::tcgetwinsize;
use std::fmt;
use std::io::{self, Write};
use std::sync::Mutex;

/// Size of a terminal that does not state one, columns and rows.
const DEFAULT_SIZE: (usize, usize) = (80, 24);

/// Columns and rows of the terminal at stderr.
pub(super) fn terminal_size() -> (usize, usize) {
    let size = tcgetwinsize(io::stderr()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    size.map_or(DEFAULT_SIZE, |size| (size.ws_col.into(), size.ws_row.into()))
}

/// A terminal whose last lines are redrawn. The crate indicatif draws to it.
pub(super) struct Screen<W> {
    size: fn() -> (usize, usize),
    state: Mutex<State<W>>,
}

struct State<W> {
    out: W,
    /// Columns of each line that is on the terminal; the cursor is behind the last one.
    drawn: Vec<usize>,
    /// Lines of the next drawing.
    lines: Vec<String>,
}

impl Screen<io::Stderr> {
    /// The terminal at stderr.
    pub(super) fn stderr() -> Self {
        Self::new(io::stderr(), terminal_size)
    }
}

impl<W: Write> Screen<W> {
    fn new(out: W, size: fn() -> (usize, usize)) -> Self {
        Self { size, state: Mutex::new(State { out, drawn: Vec::new(), lines: Vec::new() }) }
    }
}

impl<W: Write> State<W> {
    /// Replaces the drawn lines by the next ones with one write.
    fn draw(&mut self, width: usize) -> io::Result<()> {
        let width = width.max(1);
        // A terminal that was made narrower continues a line in the next rows.
        let rows: usize = self.drawn.iter().map(|columns| columns.div_ceil(width).max(1)).sum();
        let mut text = String::new();
        if rows > 0 {
            text.push('\r');
        }
        if rows > 1 {
            text += &format!("\x1b[{}A", rows - 1);
        }
        if rows > 0 {
            text.push_str("\x1b[J");
        }
        let lines: Vec<String> = self.lines.drain(..).map(|line| cut(line.trim_end(), width - 1)).collect();
        text += &lines.join("\r\n");
        self.drawn = lines.iter().map(|line| columns(line)).collect();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

impl<W> fmt::Debug for Screen<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

/// Indicatif moves the cursor, clears the last lines, writes each line and the spaces up to its end, and flushes. Only
/// the text of the lines is taken from it: it counts rows with the width that the terminal had at the last drawing.
impl<W: Write + Send> TermLike for Screen<W> {
    fn width(&self) -> u16 {
        u16::try_from((self.size)().0).unwrap_or(u16::MAX)
    }

    fn height(&self) -> u16 {
        u16::try_from((self.size)().1).unwrap_or(u16::MAX)
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
        lock(&self.state).lines.push(text.to_owned());
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        if !text.trim().is_empty() {
            lock(&self.state).lines.push(text.to_owned());
        }
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        lock(&self.state).draw((self.size)().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static COLUMNS: AtomicUsize = AtomicUsize::new(80);

    fn size() -> (usize, usize) {
        (COLUMNS.load(Ordering::Relaxed), 24)
    }

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<String>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            *self.0.lock().unwrap() += std::str::from_utf8(bytes).unwrap();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_narrower_terminal_is_cleared_of_the_continued_lines() {
        let written = Written::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(Screen::new(written.clone(), size)), 255);
        let bars = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("{msg}").unwrap();
        let add = |text: String| {
            let bar = bars.add(ProgressBar::new(1).with_style(style.clone()));
            bar.set_message(text);
            bar
        };
        let (first, second) = (add("a".repeat(60)), add("b".repeat(90)));
        let take = || std::mem::take(&mut *written.0.lock().unwrap());
        first.force_draw();
        take();
        first.force_draw();
        let (a, b) = ("a".repeat(60), "b".repeat(79));
        assert_eq!(take(), format!("\r\x1b[1A\x1b[J{a}\r\n{b}"), "no line reaches the last column");
        COLUMNS.store(40, Ordering::Relaxed);
        second.force_draw();
        // The lines of 60 and 79 columns take two rows each.
        assert_eq!(take(), format!("\r\x1b[3A\x1b[J{}\r\n{}", "a".repeat(39), "b".repeat(39)));
        first.finish_and_clear();
        second.finish_and_clear();
        assert!(take().ends_with("\r\x1b[J"), "nothing is left");
    }
}
