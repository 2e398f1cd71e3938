//! Table of the peers that download from this program, redrawn in place on a terminal.
//!
//! Invariants: no line is wider than the terminal, and the table is not higher, so that each redraw erases all of the last
//! one; the table is drawn only when it changes, at most a few times in a second.

use super::columns::{columns, fitted};
use super::console::Console;
use super::line::escaped;
use super::screen::terminal_size;
use super::table::percent;
use crate::content::fmt::{duration, size};
use crate::swarm::distribution::{DistributionView, ReceiverRow};
use indicatif::{ProgressBar, ProgressStyle};

/// Rows of the terminal that the table leaves to log lines.
const OTHER_ROWS: usize = 4;
/// Columns of the peer, at least; others are left out on a narrow terminal.
const PEER_COLUMNS_MIN: usize = 12;
/// Longest name or address, bytes; the terminal shows the part that fits.
const PEER_MAX: usize = 200;

/// A column besides the peer: heading, width, cell. On a narrow terminal the last ones of [`COLUMNS`] are left out.
type Column = (&'static str, usize, fn(&ReceiverRow) -> String);

/// The columns in the order of their importance.
const COLUMNS: [Column; 5] = [
    ("DONE", 5, |row| percent(row.done, row.total)),
    ("STAGE", 12, |row| row.stage.text().to_owned()),
    ("IN", 10, |row| format!("{}/s", size(row.rate_in))),
    ("OUT", 10, |row| format!("{}/s", size(row.rate_out))),
    ("LAST SEEN", 9, |row| duration(row.seen.as_secs())),
];

/// A drawn table. It is erased on drop.
#[derive(Debug)]
pub struct ReceiverTable {
    bar: ProgressBar,
    text: String,
}

impl Console {
    /// Adds an empty table below the progress bars; `None` if nothing is drawn there.
    pub fn receiver_table(&self) -> Option<ReceiverTable> {
        if self.bars.is_hidden() {
            return None;
        }
        let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style));
        Some(ReceiverTable { bar, text: String::new() })
    }
}

impl ReceiverTable {
    /// Draws the peers, if they differ from the last ones.
    pub fn draw(&mut self, view: &DistributionView) {
        self.draw_within(view, terminal_size());
    }

    fn draw_within(&mut self, view: &DistributionView, size: (usize, usize)) {
        let text = table(view, size);
        if text != self.text {
            self.bar.set_message(text.clone());
            self.bar.tick();
            self.text = text;
        }
    }
}

impl Drop for ReceiverTable {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The lines of the table: headings, a line for each peer, and the totals.
fn table(view: &DistributionView, (terminal_columns, rows): (usize, usize)) -> String {
    // The cursor is behind the last character: a full line would begin another one.
    let width = terminal_columns.saturating_sub(1);
    let mut shown = COLUMNS.len();
    let others = |shown: usize| COLUMNS[..shown].iter().map(|(_, width, _)| width + 2).sum::<usize>();
    while shown > 0 && others(shown) + PEER_COLUMNS_MIN > width {
        shown -= 1;
    }
    let wanted = view.rows.iter().map(|row| columns(&escaped(&row.peer, PEER_MAX))).max().unwrap_or_default();
    let peer_width = wanted.max(PEER_COLUMNS_MIN).min(width.saturating_sub(others(shown)));
    let line = |peer: &str, cells: &dyn Fn(&Column) -> String| {
        let mut line = fitted(peer, peer_width);
        for column in &COLUMNS[..shown] {
            line.push_str("  ");
            line.push_str(&fitted(&cells(column), column.1));
        }
        fitted(&line, width).trim_end().to_owned()
    };
    let room = rows.saturating_sub(OTHER_ROWS).max(1);
    let mut lines = vec![line("PEER", &|(heading, ..)| (*heading).to_owned())];
    for row in view.rows.iter().take(room) {
        lines.push(line(&escaped(&row.peer, PEER_MAX), &|(_, _, cell)| cell(row)));
    }
    let hidden = view.rows.len().saturating_sub(room);
    let more = if hidden > 0 { format!(" ({hidden} more)") } else { String::new() };
    let totals = format!("{} of {} complete, {}/s{more}", view.complete, view.known, size(view.rate));
    lines.push(fitted(&totals, width).trim_end().to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::swarm::distribution::Stage;
    use indicatif::{ProgressDrawTarget, TermLike};
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use unicode_width::UnicodeWidthStr;

    fn row(peer: &str, done: u64, stage: Stage) -> ReceiverRow {
        let (rate_in, rate_out, seen) = (12_900_000, 2_048, Duration::from_secs(3));
        ReceiverRow { peer: peer.to_owned(), done, total: 100, rate_in, rate_out, stage, seen }
    }

    fn view(rows: Vec<ReceiverRow>) -> DistributionView {
        DistributionView { known: rows.len() as u64, complete: 1, rate: 25_800_000, rows }
    }

    fn two() -> DistributionView {
        view(vec![
            row("10.0.0.2:41234", 45, Stage::Downloading),
            row("leecher-7001", 100, Stage::Disconnected),
        ])
    }

    #[test]
    fn a_wide_terminal_shows_all_columns() {
        let text = table(&two(), (80, 24));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "PEER            DONE   STAGE         IN          OUT         LAST SEEN",
                "10.0.0.2:41234  45 %   downloading   12.3 MiB/s  2.0 KiB/s   3 s",
                "leecher-7001    100 %  disconnected  12.3 MiB/s  2.0 KiB/s   3 s",
                "1 of 2 complete, 24.6 MiB/s",
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_shows_the_most_important_columns() {
        let lines: Vec<String> = table(&two(), (40, 24)).lines().map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "PEER            DONE   STAGE",
                "10.0.0.2:41234  45 %   downloading",
                "leecher-7001    100 %  disconnected",
                "1 of 2 complete, 24.6 MiB/s",
            ]
        );
    }

    #[test]
    fn the_table_is_never_larger_than_the_terminal() {
        let name = "漢".repeat(40) + "\u{1b}[2J";
        let rows = (0..50).map(|_| row(&name, 1, Stage::Serving)).collect();
        let view = view(rows);
        for columns in [1, 2, 10, 20, 40, 80, 200] {
            for rows in [1, 5, 24] {
                let text = table(&view, (columns, rows));
                assert!(text.lines().all(|line| line.width() < columns), "{columns}: {text}");
                assert!(text.lines().count() <= (rows - 2.min(rows - 1)).max(3), "{rows}: {text}");
                assert!(!text.contains('\u{1b}'));
            }
        }
        assert!(table(&view, (80, 24)).ends_with("(30 more)"));
    }

    /// A terminal of 80 columns that keeps its lines. A line is continued in the next one behind the last column.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<Lines>>);

    #[derive(Debug, Default)]
    struct Lines {
        lines: Vec<String>,
        row: usize,
        column: usize,
    }

    impl Lines {
        fn put(&mut self, c: char) {
            if c == '\n' || self.column == 80 {
                (self.row, self.column) = (self.row + 1, 0);
            }
            if self.lines.len() <= self.row {
                self.lines.resize(self.row + 1, String::new());
            }
            if c != '\n' {
                self.lines[self.row].push(c);
                self.column += 1;
            }
        }
    }

    impl Screen {
        fn text(&self) -> Vec<String> {
            let lines = self.0.lock().unwrap().lines.clone();
            lines.iter().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty()).collect()
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            80
        }
        fn height(&self) -> u16 {
            24
        }
        fn move_cursor_up(&self, count: usize) -> io::Result<()> {
            let mut screen = self.0.lock().unwrap();
            screen.row = screen.row.saturating_sub(count);
            Ok(())
        }
        fn move_cursor_down(&self, count: usize) -> io::Result<()> {
            self.0.lock().unwrap().row += count;
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            let mut screen = self.0.lock().unwrap();
            text.chars().for_each(|c| screen.put(c));
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            let mut screen = self.0.lock().unwrap();
            let row = screen.row;
            if let Some(line) = screen.lines.get_mut(row) {
                line.clear();
            }
            screen.column = 0;
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_redraw_leaves_no_stale_line() {
        let screen = Screen::default();
        let drawn_to = screen.clone();
        let target = move || ProgressDrawTarget::term_like_with_hz(Box::new(drawn_to.clone()), 255);
        let console = Console::on(target);
        let mut drawn = console.receiver_table().unwrap();
        let three = (0..3).map(|number| row(&format!("peer{number}"), 1, Stage::Downloading)).collect();
        for view in [view(three), two(), view(vec![row("last", 9, Stage::Complete)])] {
            drawn.draw_within(&view, (80, 24));
            // Redraws are limited in rate; this one is not.
            drawn.bar.force_draw();
            let wanted: Vec<String> = table(&view, (80, 24)).lines().map(str::to_owned).collect();
            assert_eq!(screen.text(), wanted);
        }
        drop(drawn);
        assert_eq!(screen.text(), [""; 0]);
    }

    #[test]
    fn nothing_is_drawn_without_a_terminal() {
        assert!(Console::hidden().receiver_table().is_none());
    }
}
