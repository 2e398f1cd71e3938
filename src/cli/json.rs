//! `--json`: the events of this process as JSON, one object on each line of standard output.
//!
//! Text for people then goes to stderr, and there is no prompt. The first line is `version`, the last line is always `exit`
//! with the exit code, also after a usage error and a second Ctrl-C. Invariant: a reader that does not read does not stop
//! the program: at most 1 MiB wait for it, and events above that are left out as a whole.

use super::ExitCode;
use super::patient_write::{PIPE_BYTES, takes};
use super::service;
use crate::report::events::{self, Event, SCHEMA};
use crate::sync::lock;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The flag.
const FLAG: &str = "json";
/// Most bytes that wait for the reader.
const PENDING_BYTES_MAX: usize = 1 << 20;
/// Time that an event waits for a reader that has read all earlier events.
const EVENT_TIMEOUT: Duration = Duration::from_millis(200);
/// Time that the last event waits for the reader.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that wait for the reader of standard output.
static PENDING: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static IS_ACTIVE: AtomicBool = AtomicBool::new(false);
/// The last event was written.
static HAS_ENDED: AtomicBool = AtomicBool::new(false);

/// Whether this process writes JSON: its standard output is for objects only.
pub fn is_active() -> bool {
    IS_ACTIVE.load(Ordering::SeqCst)
}

/// Whether arguments, without the name of the program, ask for JSON. They are looked at before they are parsed, because
/// a usage error is reported as JSON, too.
pub(super) fn is_wanted<'a>(arguments: impl IntoIterator<Item = &'a OsString>) -> bool {
    let words = arguments.into_iter().take_while(|word| *word != "--");
    words.filter_map(|word| word.to_str()).any(|word| {
        let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        flag == Some(FLAG)
    })
}

/// Writes the events of this process to standard output from now on, `version` first.
pub(super) fn begin(program: &str) {
    if !IS_ACTIVE.swap(true, Ordering::SeqCst) {
        events::install(Box::new(|event| {
            write(event);
            service::notice(event);
        }));
        let (program, version) = (program.to_owned(), env!("CARGO_PKG_VERSION"));
        events::emit(|| Event::Version { program, version, schema: SCHEMA });
    }
}

/// Writes the last event, once.
pub fn end(code: u8) {
    if !is_active() {
        return;
    }
    let mut pending = lock(&PENDING);
    if !HAS_ENDED.swap(true, Ordering::SeqCst) {
        write_line(&mut io::stdout().lock(), &mut pending, &line(&Event::Exit { code }), true);
    }
}

/// Writes `exit` when it is dropped without [`end`]: after a panic of the main thread.
pub(super) struct EndOnDrop;

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        // The exit code of a process whose main thread has panicked.
        end(if std::thread::panicking() { 101 } else { ExitCode::Other as u8 });
    }
}

fn line(event: &Event) -> Vec<u8> {
    // An event always serialises: its keys are texts, and its paths are written lossily.
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}

fn write(event: &Event) {
    let mut pending = lock(&PENDING);
    if !HAS_ENDED.load(Ordering::SeqCst) {
        write_line(&mut io::stdout().lock(), &mut pending, &line(event), false);
    }
}

/// Appends a line to those that wait, and writes as much as the reader takes. A write error is ignored: the reader has
/// closed its end, and the exit code of the process still tells the result.
fn write_line(out: &mut (impl Write + AsFd), pending: &mut Vec<u8>, line: &[u8], is_last: bool) {
    let wait = match is_last {
        true => EXIT_TIMEOUT,
        false if pending.is_empty() => EVENT_TIMEOUT,
        // The reader has not taken an earlier event in time.
        false => Duration::ZERO,
    };
    let deadline = Instant::now() + wait;
    if is_last || pending.len() + line.len() <= PENDING_BYTES_MAX {
        pending.extend(line);
    }
    while !pending.is_empty() {
        if !takes(out, deadline.saturating_duration_since(Instant::now())) {
            return;
        }
        let part = pending.len().min(PIPE_BYTES);
        if out.write_all(&pending[..part]).and_then(|()| out.flush()).is_err() {
            return pending.clear();
        }
        pending.drain(..part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_found_before_the_arguments_are_parsed() {
        let wanted = |words: &str| is_wanted(&words.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(wanted("a.bin --json") && wanted("-json") && wanted("status -long -json"));
        assert!(
            !wanted("a.bin -- --json") && !wanted("json") && !wanted("--jso") && !wanted("--log-file=json")
        );
    }

    #[test]
    fn a_reader_that_does_not_read_loses_whole_lines_only_and_gets_the_last_one() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let mut pending = Vec::new();
        let line = [&[b'x'; 999][..], b"\n"].concat();
        while pending.len() + line.len() <= PENDING_BYTES_MAX {
            write_line(&mut writer, &mut pending, &line, false);
        }
        let full = pending.len();
        write_line(&mut writer, &mut pending, &line, false);
        assert_eq!(pending.len(), full, "the line is left out");
        let text = std::thread::scope(|scope| {
            let text = scope.spawn(move || io::read_to_string(&mut reader).unwrap());
            // The reader reads now, so the last line waits for it and arrives.
            write_line(&mut writer, &mut pending, b"last\n", true);
            drop(writer);
            text.join().unwrap()
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.last(), Some(&"last"));
        assert!(lines.iter().rev().skip(1).all(|line| line.len() == 999));
    }

    #[test]
    fn a_path_that_is_not_text_is_written_with_replacement_characters() {
        use std::os::unix::ffi::OsStringExt as _;
        let path = OsString::from_vec(b"a\xff".to_vec()).into();
        let text = String::from_utf8(line(&Event::PartFile { path, bytes: 1 })).unwrap();
        assert_eq!(text, "{\"type\":\"part_file\",\"path\":\"a\u{fffd}\",\"bytes\":1}\n");
    }
}
