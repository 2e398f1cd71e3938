//! State and text of the progress of one operation: name, percentage, rate, estimated time to completion, sources.
//!
//! Pure: the time since the start is an argument. Invariants: a line is narrower than the terminal; on a narrow terminal
//! the fields disappear from the right, and the name is shortened.

use super::columns::{columns, shortened};
use super::table::percent;
use crate::content::fmt::{duration, size};
use crate::report::events::Event;
use std::collections::VecDeque;
use std::time::Duration;

/// Interval between two log lines of an operation that has no bar.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Time over which the rate is measured, and the interval between its samples.
const RATE_WINDOW: Duration = Duration::from_secs(10);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);
/// Columns that the name keeps, at least, while other fields are shown; it also keeps a third of the line.
const NAME_COLUMNS_MIN: usize = 10;
/// Columns of the bar between its brackets.
const BAR_COLUMNS_MIN: usize = 10;
const BAR_COLUMNS_MAX: usize = 30;

/// Rate of a number of bytes that grows.
#[derive(Debug, Default)]
struct RateMeter {
    /// Times and values, the oldest first; one sample is older than the window.
    samples: VecDeque<(Duration, u64)>,
}

impl RateMeter {
    fn record(&mut self, now: Duration, value: u64) {
        match self.samples.back() {
            Some((at, _)) if now.saturating_sub(*at) < SAMPLE_INTERVAL => return,
            _ => self.samples.push_back((now, value)),
        }
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= RATE_WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes per second.
    fn rate(&self, now: Duration, value: u64) -> u64 {
        let Some((at, before)) = self.samples.front() else { return 0 };
        let elapsed = now.saturating_sub(*at).as_millis();
        let grown = u128::from(value.saturating_sub(*before));
        (grown * 1_000).checked_div(elapsed).map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
    }
}

/// Progress of one operation. Times count from its start.
#[derive(Debug, Default)]
pub(super) struct Progress {
    title: String,
    /// Size in bytes; 0 if it is not known.
    total: u64,
    done: u64,
    note: String,
    meter: RateMeter,
    /// Time of the last log line, and the bytes that it showed.
    logged: Duration,
    logged_done: u64,
}

impl Progress {
    /// The progress of an operation on `total` bytes, of which an earlier run has completed `done`.
    pub(super) fn new(title: String, total: u64, done: u64) -> Self {
        let mut progress = Self { title, total, done, logged_done: done, ..Self::default() };
        progress.meter.record(Duration::ZERO, done);
        progress
    }

    pub(super) fn add(&mut self, now: Duration, bytes: u64) {
        self.set(now, self.done.saturating_add(bytes));
    }

    pub(super) fn set(&mut self, now: Duration, done: u64) {
        self.done = done;
        self.meter.record(now, done);
    }

    pub(super) fn note(&mut self, note: String) {
        self.note = note;
    }

    pub(super) fn resize(&mut self, total: u64) {
        self.total = total;
    }

    pub(super) fn retitle(&mut self, title: String, total: u64) {
        (self.title, self.total) = (title, total);
    }

    /// The progress as an event.
    pub(super) fn event(&self, now: Duration) -> Event {
        Event::Progress {
            title: self.title.clone(),
            done: self.done,
            total: Some(self.total).filter(|total| *total > 0),
            rate: self.meter.rate(now, self.done),
            note: self.note.clone(),
        }
    }

    /// The fields behind the name, the most important first, each with the columns that it is filled to.
    fn fields(&self, now: Duration) -> Vec<(String, usize)> {
        let rate = self.meter.rate(now, self.done);
        let mut fields = Vec::new();
        if self.total > 0 {
            fields.push((percent(self.done, self.total), 5));
        } else {
            fields.push((size(self.done), 0));
        }
        fields.push((format!("{}/s", size(rate)), 10));
        if self.total > 0 {
            let left = self.total.saturating_sub(self.done).checked_div(rate);
            fields.push((left.map_or("ETA -".to_owned(), |left| format!("ETA {}", duration(left))), 9));
        }
        if !self.note.is_empty() {
            fields.push((self.note.clone(), 0));
        }
        if self.total > 0 {
            fields.push((format!("{} of {}", size(self.done.min(self.total)), size(self.total)), 0));
        }
        fields
    }

    /// The line on a terminal of `width` columns, narrower than it.
    pub(super) fn line(&self, now: Duration, width: usize) -> String {
        // The cursor is behind the last character: a full line would begin another one, and so would the echo of Ctrl-C.
        let room = width.saturating_sub(1 + "^C".len());
        let cells: Vec<String> =
            self.fields(now).into_iter().map(|(text, filled)| format!("{text:>filled$}")).collect();
        let others = |shown: usize| cells[..shown].iter().map(|cell| columns(cell) + 2).sum::<usize>();
        let kept = columns(&self.title).min(NAME_COLUMNS_MIN.max(room / 3));
        let shown = (0..=cells.len()).rev().find(|shown| kept + others(*shown) <= room).unwrap_or(0);
        let mut line = shortened(&self.title, room - others(shown));
        for cell in &cells[..shown] {
            line.push_str("  ");
            line.push_str(cell);
        }
        let rest = room.saturating_sub(columns(&line) + "  []".len()).min(BAR_COLUMNS_MAX);
        if self.total > 0 && shown == cells.len() && rest >= BAR_COLUMNS_MIN {
            line.push_str(&format!("  [{}]", self.bar(rest)));
        }
        line
    }

    /// A bar of `width` columns.
    fn bar(&self, width: usize) -> String {
        let done = u128::from(self.done.min(self.total)) * width as u128 / u128::from(self.total.max(1));
        let done = (done as usize).min(width);
        let head = if done < width && done > 0 { ">" } else { "" };
        let bar = "=".repeat(done - head.len()) + head;
        format!("{bar:width$}")
    }

    /// The text for the log, if the last one is old enough and bytes were added since. The cause of a stall is logged by its
    /// operation.
    pub(super) fn log_line(&mut self, now: Duration) -> Option<String> {
        if now.saturating_sub(self.logged) < LOG_INTERVAL || self.done == self.logged_done {
            return None;
        }
        (self.logged, self.logged_done) = (now, self.done);
        let fields: Vec<String> = self.fields(now).into_iter().map(|(text, _)| text).collect();
        Some(format!("{}: {}", self.title, fields.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// 45 of 100 MiB after 5 s, 20 of them by an earlier run.
    fn example(title: &str) -> Progress {
        let mut progress = Progress::new(title.to_owned(), 100 * MIB, 20 * MIB);
        progress.set(at(5), 45 * MIB);
        progress.note("3 sources".to_owned());
        progress
    }

    #[test]
    fn fields_disappear_from_the_right_and_the_name_is_shortened_last() {
        for (width, line) in [
            (
                100,
                "x.bin   45 %   5.0 MiB/s   ETA 11 s  3 sources  45.0 MiB of 100.0 MiB  [=========>              ]",
            ),
            (80, "x.bin   45 %   5.0 MiB/s   ETA 11 s  3 sources  45.0 MiB of 100.0 MiB"),
            (60, "x.bin   45 %   5.0 MiB/s   ETA 11 s  3 sources"),
            (40, "x.bin   45 %   5.0 MiB/s   ETA 11 s"),
            (30, "x.bin   45 %   5.0 MiB/s"),
            (20, "x.bin   45 %"),
        ] {
            assert_eq!(example("x.bin").line(at(5), width), line);
        }
        let long = example("a long name of a large file.tar.gz");
        assert_eq!(long.line(at(5), 64), "a long nam…le.tar.gz   45 %   5.0 MiB/s   ETA 11 s  3 sources");
        assert_eq!(long.line(at(5), 20), "a lon…r.gz   45 %");
    }

    #[test]
    fn a_size_that_is_not_known_shows_bytes() {
        let mut progress = Progress::new("reading -".to_owned(), 0, 0);
        progress.add(at(2), 4 * MIB);
        assert_eq!(progress.line(at(2), 80), "reading -  4.0 MiB   2.0 MiB/s");
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_ends_with_a_stall() {
        let mut progress = Progress::new("x".to_owned(), 1_000, 0);
        (1..=100).for_each(|second| progress.add(at(second), if second <= 50 { 10 } else { 2 }));
        assert!(progress.line(at(100), 80).contains("    2 B/s"), "{}", progress.line(at(100), 80));
        progress.set(at(120), progress.done);
        assert!(progress.line(at(140), 80).contains("0 B/s      ETA -"), "{}", progress.line(at(140), 80));
    }

    #[test]
    fn a_log_line_is_due_every_ten_seconds() {
        let mut progress = example("x.bin");
        assert_eq!(progress.log_line(at(9)), None, "too early");
        progress.set(at(10), 70 * MIB);
        let line = progress.log_line(at(10)).unwrap();
        assert_eq!(line, "x.bin: 70 %, 5.0 MiB/s, ETA 6 s, 3 sources, 70.0 MiB of 100.0 MiB");
        progress.add(at(19), MIB);
        assert_eq!(progress.log_line(at(19)), None, "too early");
        assert!(progress.log_line(at(20)).is_some());
        assert_eq!(progress.log_line(at(40)), None, "no progress");
    }

    proptest! {
        #[test]
        fn a_line_fits_every_width(
            title in "[^\\p{C}]{0,60}", note in "[^\\p{C}]{0,20}",
            total in 0u64..=u64::MAX, done in 0u64..=u64::MAX, elapsed_s in 0u64..100_000, width in 20usize..=200,
        ) {
            let mut progress = Progress::new(title.clone(), total, 0);
            progress.set(at(elapsed_s), done);
            progress.note(note);
            let line = progress.line(at(elapsed_s), width);
            prop_assert!(line.width() + 2 < width, "{line:?}");
            let wanted = if total > 0 { percent(done, total) } else { size(done) };
            prop_assert!(line.contains(&wanted), "{line:?}");
            // A name that fits beside the percentage is whole.
            if columns(&title) <= 10 {
                prop_assert!(line.starts_with(&title), "{line:?}");
            }
        }
    }
}
