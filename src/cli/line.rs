//! Format of a log line: `2025-03-16 21:50:25,873 - INFO - text`. An event line is its text alone.
//!
//! Pure: the time is an argument, and the line is returned. Invariant: one record is one line within its maximum
//! length, because control characters are escaped and long texts are truncated.

use crate::content::limits::{EVENT_TARGET, RESULT_TARGET};
use env_logger::fmt::style::Style;
use jiff::ZonedDateTime;
use log::{Level, Record};
use std::fmt::{self, Write};

/// Maximum length of a log line, bytes, without the newline and colours.
pub(super) const LINE_MAX: usize = 8 * 1024;
/// Maximum length of the name of the program, bytes.
const NAME_MAX: usize = 256;
/// Maximum length of an event line, bytes; an event line with all holders of a chunk fits.
pub(super) const EVENT_LINE_MAX: usize = 64 * 1024;
/// Marks the end of a truncated text.
const CUT: &str = "…";

/// Formats a record for the log file, with a newline. The text begins with `[NAME] `, the name of the program, except in
/// event lines and the result lines of a download.
pub(super) fn file_line(now: &ZonedDateTime, record: &Record<'_>, name: &str) -> String {
    let name = Some(name).filter(|_| record.target() != RESULT_TARGET);
    format_line(now, record, Style::new(), name)
}

/// Formats a record, with a newline. `style` is the colour of the level; the empty style adds no colour codes.
pub(super) fn line(now: &ZonedDateTime, record: &Record<'_>, style: Style) -> String {
    format_line(now, record, style, None)
}

fn format_line(now: &ZonedDateTime, record: &Record<'_>, style: Style, name: Option<&str>) -> String {
    let mut line = String::new();
    let mut room = EVENT_LINE_MAX;
    if record.target() != EVENT_TARGET {
        let level = level_name(record.level());
        // A write to a string fails only if a `Display` implementation fails; then the line is shorter.
        let _ = write!(line, "{} - ", now.strftime("%Y-%m-%d %H:%M:%S,%3f"));
        room = LINE_MAX - line.len() - level.len() - " - ".len();
        let _ = write!(line, "{style}{level}{style:#} - ");
        if let Some(name) = name {
            let name = format!("[{}] ", escaped(&name, NAME_MAX));
            room -= name.len();
            line.push_str(&name);
        }
    }
    line.push_str(&escaped(record.args(), room));
    line.push('\n');
    line
}

/// The level names of Python's logging module: scripts search for them.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "INFO",
        Level::Debug | Level::Trace => "DEBUG",
    }
}

/// Makes a text safe for a terminal: escapes control characters and truncates it to `max` bytes.
pub(super) fn escaped(text: &impl fmt::Display, max: usize) -> String {
    let mut escaper = Escaper { text: String::new(), max, kept: 0, cut: false };
    let _ = write!(escaper, "{text}");
    escaper.text
}

/// A writer that truncates while it escapes, so that a long text is never built in memory.
struct Escaper {
    text: String,
    max: usize,
    /// Length of `text` after a truncation, bytes: the last character boundary that leaves room for [`CUT`].
    kept: usize,
    cut: bool,
}

impl Escaper {
    fn push(&mut self, c: char) {
        match is_unsafe(c) {
            true => self.text.extend(c.escape_default()),
            false => self.text.push(c),
        }
        if self.text.len() > self.max {
            self.text.truncate(self.kept);
            self.text.push_str(CUT);
            self.cut = true;
        } else if self.text.len() + CUT.len() <= self.max {
            self.kept = self.text.len();
        }
    }
}

impl Write for Escaper {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        for c in part.chars() {
            if self.cut {
                break;
            }
            self.push(c);
        }
        Ok(())
    }
}

/// Whether a character can end a line, control the terminal or reorder the text: control characters, Unicode line
/// separators and bidirectional controls.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: Style = Style::new();

    fn at(text: &str) -> ZonedDateTime {
        let time: jiff::civil::DateTime = text.parse().unwrap();
        time.to_zoned_datetime(jiff::tz::TimeZone::UTC).unwrap()
    }

    fn shown(level: Level, target: &str, text: &str) -> String {
        let now = at("2025-03-16T21:50:25.873999");
        line(&now, &Record::builder().level(level).target(target).args(format_args!("{text}")).build(), PLAIN)
    }

    #[test]
    fn log_lines_and_event_lines_have_their_exact_format() {
        let text = "All download threads completed";
        assert_eq!(
            shown(Level::Info, "shoal::roles", text),
            "2025-03-16 21:50:25,873 - INFO - All download threads completed\n"
        );
        for (level, name) in [
            (Level::Error, "ERROR"),
            (Level::Warn, "WARNING"),
            (Level::Debug, "DEBUG"),
            (Level::Trace, "DEBUG"),
        ] {
            assert_eq!(shown(level, "x", "é"), format!("2025-03-16 21:50:25,873 - {name} - é\n"));
        }
        assert_eq!(shown(Level::Info, EVENT_TARGET, "name,WHERE_CHUNK,1"), "name,WHERE_CHUNK,1\n");
    }

    #[test]
    fn name_of_the_program_is_in_each_file_line_except_events_and_results() {
        let now = at("2025-03-16T21:50:25.873999");
        let shown = |target: &str, text: &str| {
            file_line(&now, &Record::builder().target(target).args(format_args!("{text}")).build(), "ann")
        };
        let stamp = "2025-03-16 21:50:25,873 - INFO";
        assert_eq!(shown("shoal::net", "text"), format!("{stamp} - [ann] text\n"));
        assert_eq!(shown(RESULT_TARGET, "text"), format!("{stamp} - text\n"));
        assert_eq!(shown(EVENT_TARGET, "ann,WHERE_CHUNK,1"), "ann,WHERE_CHUNK,1\n");
        let long = shown("x", &"x".repeat(LINE_MAX));
        assert!(long.len() <= LINE_MAX + 1, "{}", long.len());
    }

    #[test]
    fn milliseconds_have_three_digits() {
        let record = Record::builder().level(Level::Info).args(format_args!("x")).build();
        for (time, stamp) in [
            ("2025-01-02T03:04:05", "2025-01-02 03:04:05,000"),
            ("2025-01-02T03:04:05.007", "2025-01-02 03:04:05,007"),
            ("2025-01-02T03:04:05.9999", "2025-01-02 03:04:05,999"),
        ] {
            assert_eq!(line(&at(time), &record, PLAIN), format!("{stamp} - INFO - x\n"));
        }
    }

    #[test]
    fn only_the_level_is_coloured() {
        let style = env_logger::fmt::style::AnsiColor::Green.on_default();
        let record = Record::builder().level(Level::Info).args(format_args!("x")).build();
        let coloured = line(&at("2025-01-02T03:04:05"), &record, style);
        assert_eq!(coloured, "2025-01-02 03:04:05,000 - \u{1b}[32mINFO\u{1b}[0m - x\n");
    }

    #[test]
    fn control_characters_are_escaped() {
        let shown =
            shown(Level::Info, EVENT_TARGET, "a\nb\r\tc\u{1b}[31m\0\u{85}\u{2028}\u{202e}\u{7f} d\\é");
        assert_eq!(shown, "a\\nb\\r\\tc\\u{1b}[31m\\u{0}\\u{85}\\u{2028}\\u{202e}\\u{7f} d\\é\n");
    }

    #[test]
    fn long_lines_are_truncated() {
        let long = shown(Level::Info, "x", &"é".repeat(LINE_MAX));
        assert!(long.ends_with("é…\n") && (LINE_MAX - 1..=LINE_MAX + 1).contains(&long.len()));
        let addresses = ",127.0.0.1,7000".repeat(2_000);
        assert_eq!(shown(Level::Info, EVENT_TARGET, &addresses), format!("{addresses}\n"));
        assert_eq!(shown(Level::Info, EVENT_TARGET, &"x".repeat(1 << 20)).len(), EVENT_LINE_MAX + 1);
    }

    #[test]
    fn text_of_maximum_length_is_not_truncated() {
        assert_eq!(escaped(&"abcde", 5), "abcde");
        assert_eq!(escaped(&"abcdef", 5), "ab…");
        assert_eq!(escaped(&"abcd\n", 5), "ab…");
        assert_eq!(escaped(&"ééé", 5), "é…");
        assert_eq!(escaped(&"", 5), "");
    }

    proptest! {
        #[test]
        fn one_record_is_one_line(text in "(?s).*", max in 3usize..40) {
            let shown = shown(Level::Info, "x", &text);
            prop_assert_eq!(shown.chars().filter(|&c| is_unsafe(c)).count(), 1);
            prop_assert!(shown.ends_with('\n') && shown.len() <= LINE_MAX + 1);
            let cut = escaped(&text, max);
            prop_assert!(cut.len() <= max && !cut.chars().any(is_unsafe));
        }
    }
}
