//! Parses `logs.log` in the format that the grading scripts expect.

use super::PATIENCE;
use std::path::Path;
use std::time::{Duration, Instant};

/// A line of a `logs.log`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// An event: its comma-separated fields.
    Event(Vec<String>),
    /// `YYYY-MM-DD HH:MM:SS,mmm - LEVEL - text`: the level and the text.
    Log(String, String),
}

/// Reads a whole log; a line that is neither an event nor a log line fails the test.
#[track_caller]
pub fn read(path: &Path) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn");
    text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("not a line: {line:?}"))).collect()
}

/// Waits until a log that is still being written contains a line that satisfies `wanted`.
#[track_caller]
pub fn wait_for(path: &Path, description: &str, wanted: impl Fn(&Line) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        if whole.lines().filter_map(parse).any(|line| wanted(&line)) {
            return;
        }
        assert!(Instant::now() < deadline, "{description} did not appear in {} in time", path.display());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The events that one program wrote, in order.
#[track_caller]
pub fn of(lines: &[Line], name: &str) -> Vec<Vec<String>> {
    let events = lines.iter().filter_map(|line| match line {
        Line::Event(fields) if fields[0] == name => Some(fields.clone()),
        _ => None,
    });
    events.collect()
}

fn parse(line: &str) -> Option<Line> {
    let event = || {
        let fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        is_event(&fields).then_some(Line::Event(fields))
    };
    event().or_else(|| log_line(line)).map(without_name)
}

/// The line without the name of its program: `[NAME] `.
fn without_name(line: Line) -> Line {
    let strip = |text: &str| Some(text.strip_prefix('[')?.split_once("] ")?.1.to_owned());
    match line {
        Line::Log(level, text) => Line::Log(level, strip(&text).unwrap_or(text)),
        event => event,
    }
}

fn is_event(fields: &[String]) -> bool {
    let [name, kind, index, rest @ ..] = fields else { return false };
    let shape = match kind.as_str() {
        "LOCAL_CHUNKS" => rest.len() == 3 && is_hash(&rest[0]) && are_addresses(&rest[1..]),
        "WHERE_CHUNK" => rest.is_empty(),
        "REQUEST_CHUNK" => rest.len() == 2 && are_addresses(rest),
        "GET_CHUNK_FROM" => {
            name == "P2PTracker" && rest.len() >= 3 && is_hash(&rest[0]) && are_addresses(&rest[1..])
        }
        "CHUNK_LOCATION_UNKNOWN" => name == "P2PTracker" && rest.is_empty(),
        _ => false,
    };
    let plain = |field: &String| !field.is_empty() && !field.contains(char::is_whitespace);
    shape && index.parse::<u32>().is_ok_and(|number| number >= 1) && fields.iter().all(plain)
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// `ip1,port1,ip2,port2,...`
fn are_addresses(fields: &[String]) -> bool {
    fields.len().is_multiple_of(2)
        && fields.chunks(2).all(|pair| {
            pair[0].parse::<std::net::IpAddr>().is_ok() && pair[1].parse::<u16>().is_ok_and(|port| port > 0)
        })
}

fn log_line(line: &str) -> Option<Line> {
    let mut parts = line.splitn(3, " - ");
    let (time, level, text) = (parts.next()?, parts.next()?, parts.next()?);
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let known = matches!(level, "DEBUG" | "INFO" | "WARNING" | "ERROR");
    (shape == "0000-00-00 00:00:00,000" && known).then(|| Line::Log(level.into(), text.into()))
}
