//! Compares lines of a document with lines of a terminal. The rules are in the documentation of [`super`].

use super::parse::Expected;

/// Stands for omitted text in a line; alone on a line for omitted lines.
const OMITTED: &str = "…";
/// Digits of the shortest id or hash.
const HASH_DIGITS_MIN: usize = 8;
/// The lowest port that the system chooses.
const CHOSEN_PORT_MIN: u32 = 32_768;
/// How a log line begins in a document that omits its timestamp.
const OMITTED_TIMESTAMP: &str = "… - ";
const TIMESTAMP: &str = "0000-00-00 00:00:00,000";
const SIZE_UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
const TIME_UNITS: [&str; 4] = ["s", "ms", "min", "h"];

/// A part of a line.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    Timestamp,
    /// A number with a fraction; every value matches.
    Decimal,
    /// A number of seconds or of another unit of time.
    Duration,
    /// A number of bytes per second.
    Rate,
    Space,
    Hash(String),
    /// A number behind a colon.
    Port(u32),
    Text(String),
    Omitted,
}

impl Token {
    fn accepts(&self, actual: &Token) -> bool {
        match (self, actual) {
            (Token::Hash(_), Token::Hash(_)) => true,
            // An id can consist of decimal digits alone.
            (Token::Hash(_), Token::Text(text)) => is_hash(text),
            (Token::Port(expected), Token::Port(actual)) => {
                let is_chosen = |port: &u32| (CHOSEN_PORT_MIN..=u16::MAX.into()).contains(port);
                expected == actual || is_chosen(expected) && is_chosen(actual)
            }
            (expected, actual) => expected == actual,
        }
    }
}

/// Whether a line of a terminal is the expected one.
pub fn line_matches(expected: &str, actual: &str) -> bool {
    tokens_match(&tokens(expected.trim_end()), &tokens(actual.trim_end()))
}

fn tokens_match(expected: &[Token], actual: &[Token]) -> bool {
    match expected {
        [] => actual.is_empty(),
        [Token::Omitted, rest @ ..] => (0..=actual.len()).any(|from| tokens_match(rest, &actual[from..])),
        [first, rest @ ..] => {
            actual.split_first().is_some_and(|(token, more)| first.accepts(token) && tokens_match(rest, more))
        }
    }
}

fn is_hash(word: &str) -> bool {
    word.len() >= HASH_DIGITS_MIN && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

fn tokens(line: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            _ if starts_with_timestamp(rest) => (Token::Timestamp, TIMESTAMP.len()),
            ' ' | '\t' => (Token::Space, rest.len() - rest.trim_start().len()),
            '0'..='9' | 'a'..='z' | 'A'..='Z' => word(rest, line[..line.len() - rest.len()].ends_with(':')),
            _ if rest.starts_with(OMITTED) => (Token::Omitted, OMITTED.len()),
            _ => (Token::Text(first.to_string()), first.len_utf8()),
        };
        found.push(token);
        rest = &rest[length..];
    }
    found
}

fn starts_with_timestamp(text: &str) -> bool {
    text.len() >= TIMESTAMP.len()
        && TIMESTAMP.bytes().zip(text.bytes()).all(|(expected, actual)| match expected {
            b'0' => actual.is_ascii_digit(),
            _ => actual == expected,
        })
}

/// The word or number at the beginning of a text, and its length in bytes.
fn word(text: &str, follows_colon: bool) -> (Token, usize) {
    let length = text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len());
    let word = &text[..length];
    if !is_number(word) {
        let token = if is_hash(word) { Token::Hash } else { Token::Text };
        return (token(word.to_owned()), length);
    }
    if follows_colon {
        return (word.parse().map_or_else(|_| Token::Text(word.to_owned()), Token::Port), length);
    }
    // Digits and dots: a number, a number with a fraction, or an IP address.
    let length = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..length].trim_end_matches('.');
    match (unit(&text[number.len()..]), number.matches('.').count()) {
        (Some((token, length)), 0 | 1) => (token, number.len() + length),
        (_, 1) => (Token::Decimal, number.len()),
        _ => (Token::Text(number.to_owned()), number.len()),
    }
}

/// The unit of time or of a rate at the beginning of a text, and its length in bytes.
fn unit(text: &str) -> Option<(Token, usize)> {
    let word = text.strip_prefix(' ')?;
    let length = word.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(word.len());
    let (unit, rest) = word.split_at(length);
    if SIZE_UNITS.contains(&unit) && rest.starts_with("/s") {
        return Some((Token::Rate, " /s".len() + length));
    }
    TIME_UNITS.contains(&unit).then_some((Token::Duration, " ".len() + length))
}

/// Whether a line comes when something happens, and not as the answer to a command: a log line or an event line.
fn is_asynchronous(line: &str) -> bool {
    starts_with_timestamp(line) || line.starts_with(OMITTED_TIMESTAMP) || is_event(line)
}

/// Whether a line is an event: `NAME,EVENT,...`.
fn is_event(line: &str) -> bool {
    let mut fields = line.split(',');
    let (name, event) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    !name.is_empty()
        && !name.contains(' ')
        && event.len() > 3
        && event.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// Finds each expected line among the lines of a terminal of which `is_used` is not set. Returns the indices of the
/// lines found, or the first expected line that is missing.
pub fn find<'a>(
    expected: &'a [Expected],
    actual: &[String],
    is_used: &[bool],
) -> Result<Vec<usize>, &'a Expected> {
    let free = |index: &usize| !is_used.get(*index).copied().unwrap_or(false);
    let mut found = Vec::new();
    let (any_order, in_order): (Vec<&Expected>, _) =
        expected.iter().partition(|line| is_asynchronous(&line.text));
    for line in any_order {
        let index = (0..actual.len())
            .filter(free)
            .find(|index| !found.contains(index) && line_matches(&line.text, &actual[*index]));
        found.push(index.ok_or(line)?);
    }
    let answers: Vec<usize> = (0..actual.len())
        .filter(free)
        .filter(|index| !is_asynchronous(&actual[*index]) && !actual[*index].trim().is_empty())
        .collect();
    if let [omitted] = expected
        && omitted.text == OMITTED
        && actual.iter().all(String::is_empty)
    {
        return Err(omitted);
    }
    let mut from = 0;
    for group in in_order.split(|line| line.text.trim() == OMITTED).filter(|group| !group.is_empty()) {
        let count = |at: usize| {
            let lines = group.iter().zip(&answers[at..]);
            lines.take_while(|(line, index)| line_matches(&line.text, &actual[**index])).count()
        };
        let longest = (from..=answers.len()).map(|at| (count(at), at));
        // The first of the longest: all of the group, or the beginning that tells most in a report.
        let (length, at) = longest.rev().max_by_key(|(length, _)| *length).unwrap_or_default();
        if let Some(missing) = group.get(length) {
            return Err(missing);
        }
        found.extend(&answers[at..at + length]);
        from = at + length;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(lines: &[&str]) -> Vec<Expected> {
        lines.iter().zip(1..).map(|(text, line)| Expected { line, text: (*text).into() }).collect()
    }

    fn actual(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).into()).collect()
    }

    /// The line of the document that is missing.
    fn missing(document: &[&str], terminal: &[&str]) -> Option<usize> {
        find(&expected(document), &actual(terminal), &[]).err().map(|line| line.line)
    }

    #[test]
    fn only_values_that_vary_may_differ() {
        for (expected, actual, matches) in [
            ("2026-11-20 07:39:13,310 - INFO - a", "2027-01-02 03:04:05,678 - INFO - a", true),
            ("2026-11-20 07:39:13,310 - INFO - a", "2027-01-02 03:04:05,678 - WARNING - a", false),
            ("2026-11-20 07:39:13,310 - INFO - a", "2027-01-02 03:04:05,678 - INFO - b", false),
            ("id f8c103f0…", "id 0123456789abcdef", true),
            ("id f8c103f0", "id 12345678", true),
            ("78888897 bytes", "78888898 bytes", false),
            ("2 holders", "3 holders", false),
            ("serving on 127.0.0.1:42371", "serving on 127.0.0.1:50000", true),
            ("serving on 127.0.0.1:7000", "serving on 127.0.0.1:7001", false),
            ("serving on 127.0.0.1:7000", "serving on 127.0.0.2:7000", false),
            ("7.9 GiB free", "8.1 GiB free", true),
            ("7.9 GiB free", "8.1 MiB free", false),
            ("done in 0.3 s", "done in 12 s", true),
            ("… - INFO - a", "2027-01-02 03:04:05,678 - INFO - a", true),
            ("37.8 KiB/s", "1.2 MiB/s", true),
            ("a   b", "a b", true),
            ("ab", "a b", false),
            ("copied … of 9 chunks", "copied 7 of 9 chunks", true),
            ("copied … of 9 chunks", "copied 7 of 8 chunks", false),
            ("the end", "the end.", false),
        ] {
            assert_eq!(line_matches(expected, actual), matches, "{expected:?} {actual:?}");
        }
    }

    #[test]
    fn a_wrong_or_missing_line_is_reported() {
        assert_eq!(missing(&["a", "b"], &["a", "b"]), None);
        assert_eq!(missing(&["a", "c"], &["a", "b"]), Some(2));
        assert_eq!(missing(&["a", "b"], &["b"]), Some(1));
        assert_eq!(missing(&["a"], &[]), Some(1));
    }

    #[test]
    fn answers_are_consecutive_unless_lines_are_omitted() {
        assert_eq!(missing(&["a", "c"], &["a", "b", "c"]), Some(2));
        assert_eq!(missing(&["a", "…", "c"], &["a", "b", "c"]), None);
        assert_eq!(missing(&["c", "a"], &["a", "c"]), Some(2));
        assert_eq!(missing(&["…", "c"], &["a", "b", "c"]), None);
    }

    #[test]
    fn log_and_event_lines_come_in_any_order() {
        let log = |text| format!("2026-11-20 07:39:13,310 - INFO - {text}");
        let (first, second) = (log("first"), log("second"));
        let event = "client1,WHERE_CHUNK,3";
        assert_eq!(missing(&[&first, "a", "b", event], &["a", event, &second, "b", &first]), None);
        assert_eq!(missing(&["… - INFO - first", "a"], &["a", &first]), None);
        assert_eq!(missing(&[&first, &first], &[&first, &second]), Some(2));
    }

    #[test]
    fn omitted_lines_alone_stand_for_at_least_one() {
        assert_eq!(missing(&["…"], &[""]), Some(1));
        assert_eq!(missing(&["…"], &["a"]), None);
        assert_eq!(missing(&[], &[]), None);
    }

    #[test]
    fn a_line_that_was_used_is_not_found_again() {
        assert!(find(&expected(&["a"]), &actual(&["a"]), &[true]).is_err());
        assert_eq!(find(&expected(&["a"]), &actual(&["a", "a"]), &[true]).unwrap(), [1]);
    }
}
