//! Log lines: to the terminal (stderr) and to the log file.
//!
//! The file contains all lines of the terminal, all lines of level info and above, and all event lines. Invariants: a
//! line is appended to the file with one write, so several processes can share a file without torn lines; a log call
//! never fails and never panics; the terminal is written to only while progress bars are hidden, and at the prompt
//! through the printer of the line editor.

use super::console::Console;
use super::help::{LOGGING, OUTPUT};
use super::line::{file_line, line};
use crate::content::PeerName;
use crate::content::limits::{EVENT_TARGET, LOG_FILE};
use anyhow::Context;
use env_logger::{Builder, Logger, Target, WriteStyle};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};
use log::{Level, LevelFilter, Log, Metadata, Record};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The time zone of the system.
const LOCAL_TIME: &str = "/etc/localtime";

/// The flags for logging, the same in all programs.
#[derive(clap::Args, Debug, Clone)]
pub struct LogOptions {
    /// Write events as JSON to standard output, one object on each line, and text for people to stderr; no prompt
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
    /// File that log lines and event lines are appended to; several programs may share one
    #[arg(long, value_name = "PATH", default_value = LOG_FILE, help_heading = LOGGING)]
    pub log_file: PathBuf,
    /// Show more log lines: -v debug, -vv all; the environment variable RUST_LOG overrides -v and -q
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = LOGGING)]
    pub verbose: u8,
    /// Show fewer log lines: -q only warnings and errors, without progress bars; -qq only errors. The log file
    /// stays complete
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = LOGGING)]
    pub quiet: u8,
    /// Name of this program in the lines of the log file, from `--name`; its file name if `None`.
    #[arg(skip)]
    pub name: Option<String>,
}

impl LogOptions {
    /// Sets the name in the lines of the log file.
    #[must_use]
    pub fn with_name(self, name: Option<&PeerName>) -> Self {
        Self { name: name.map(PeerName::to_string), ..self }
    }

    fn name(&self) -> String {
        let program = || std::env::args_os().next().map(PathBuf::from);
        let file_name = || Some(program()?.file_name()?.to_string_lossy().into_owned());
        self.name.clone().or_else(file_name).unwrap_or_else(|| "shoal".to_owned())
    }

    /// The level of the terminal, unless `RUST_LOG` is set.
    pub fn level(&self) -> LevelFilter {
        match i16::from(self.verbose) - i16::from(self.quiet) {
            2.. => LevelFilter::Trace,
            1 => LevelFilter::Debug,
            0 => LevelFilter::Info,
            -1 => LevelFilter::Warn,
            _ => LevelFilter::Error,
        }
    }
}

/// The log file is to be opened again before the next line.
static IS_REOPENED: AtomicBool = AtomicBool::new(false);

/// Opens the log file again: log rotation has renamed it.
pub(super) fn reopen() {
    IS_REOPENED.store(true, Ordering::SeqCst);
    // This line opens it.
    log::info!("log file opened again (SIGHUP)");
}

/// Sets up logging for this process. Once.
///
/// # Errors
/// Logging was set up before. A log file that cannot be opened is only a warning.
pub fn init(options: &LogOptions) -> anyhow::Result<Console> {
    let console = Console::new(options.quiet > 0 || options.json);
    // Reads the time zone on this stack: those of other threads may be too small for it.
    let _ = now();
    let terminal = Terminal { console: console.clone() };
    let (file, unopened) = match LogFile::open(&options.log_file, Some(terminal.clone())) {
        Ok(file) => (file, None),
        Err(error) => (LogFile::none(&options.log_file), Some(error)),
    };
    let filters = std::env::var("RUST_LOG").ok().filter(|filters| !filters.trim().is_empty());
    let tee = Tee::new(
        Box::new(terminal),
        has_colours(),
        options.level(),
        filters.as_deref(),
        (file, options.name()),
    );
    let max_level = tee.max_level();
    log::set_boxed_logger(Box::new(tee)).context("logging is set up already")?;
    log::set_max_level(max_level);
    if let Some(error) = unopened {
        log::warn!("{error:#}; log lines are shown here only (choose another file with --log-file)");
    }
    Ok(console)
}

/// The local time.
fn now() -> ZonedDateTime {
    static ZONE: LazyLock<TimeZone> = LazyLock::new(local_zone);
    Timestamp::now().to_zoned_datetime(ZONE.clone())
}

/// The time zone of the system, without its name: jiff would search all time zones for the name, which takes longer
/// than the download of a small file.
fn local_zone() -> TimeZone {
    let file = match std::env::var_os("TZ") {
        Some(_) => None,
        None => std::fs::read(LOCAL_TIME).ok(),
    };
    file.and_then(|bytes| TimeZone::tzif("local", &bytes).ok()).unwrap_or_else(TimeZone::system)
}

/// Whether stderr is a terminal with colours, and `NO_COLOR` is not set (<https://no-color.org>).
fn has_colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    io::stderr().is_terminal() && !unwanted && !dumb
}

/// The two loggers as one.
struct Tee {
    terminal: Logger,
    /// It has no filter; [`Tee::log`] filters.
    file: Logger,
}

impl Tee {
    fn new(
        terminal: Box<dyn Write + Send>,
        colours: bool,
        level: LevelFilter,
        filters: Option<&str>,
        (file, name): (LogFile, String),
    ) -> Self {
        let mut for_terminal = Builder::new();
        match filters {
            Some(filters) => for_terminal.parse_filters(filters),
            // The line editor logs every key.
            None => for_terminal.filter_level(level).filter_module("rustyline", level.min(LevelFilter::Warn)),
        };
        for_terminal.target(Target::Pipe(terminal)).format(move |out, record| {
            let style = out.default_level_style(record.level());
            out.write_all(line(&now(), record, style).as_bytes())
        });
        for_terminal.write_style(if colours { WriteStyle::Always } else { WriteStyle::Never });
        let mut for_file = Builder::new();
        for_file.filter_level(LevelFilter::Trace).target(Target::Pipe(Box::new(file)));
        for_file.write_style(WriteStyle::Never);
        for_file.format(move |out, record| out.write_all(file_line(&now(), record, &name).as_bytes()));
        Self { terminal: for_terminal.build(), file: for_file.build() }
    }

    /// The maximum level of both outputs. Event lines have level info.
    fn max_level(&self) -> LevelFilter {
        self.terminal.filter().max(LevelFilter::Info)
    }
}

fn always_in_file(metadata: &Metadata<'_>) -> bool {
    metadata.level() <= Level::Info || metadata.target() == EVENT_TARGET
}

impl Log for Tee {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        always_in_file(metadata) || self.terminal.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let shown = self.terminal.matches(record);
        if shown || always_in_file(record.metadata()) {
            self.file.log(record);
        }
        if shown {
            self.terminal.log(record);
        }
    }

    fn flush(&self) {} // Nothing is buffered.
}

/// Writes to stderr while progress bars are hidden, or above the line of the prompt.
#[derive(Clone)]
struct Terminal {
    console: Console,
}

impl Write for Terminal {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.console.log(text)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a log file to append to it, without blocking: a pipe without a reader is an error.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    OpenOptions::new().append(true).create(true).custom_flags(flags).open(path)
}

/// The log file. Each `write` is a whole line.
struct LogFile {
    /// `None` if it cannot be opened: its lines are lost.
    file: Option<File>,
    path: PathBuf,
    /// The terminal on which the first write error is reported; `None` after that.
    complaints: Option<Terminal>,
    /// The last line was truncated by a full disk: the next write begins with a newline.
    torn: bool,
}

impl LogFile {
    fn open(path: &Path, complaints: Option<Terminal>) -> anyhow::Result<Self> {
        let file = open_file(path);
        let file = file.with_context(|| format!("cannot open the log file {}", path.display()))?;
        Ok(Self { file: Some(file), path: path.to_owned(), complaints, torn: false })
    }

    fn none(path: &Path) -> Self {
        Self { file: None, path: path.to_owned(), complaints: None, torn: false }
    }

    /// Opens the file of this path again. If that fails, the open file is used further.
    fn reopen(&mut self) -> io::Result<()> {
        self.file = Some(open_file(&self.path)?);
        self.torn = false;
        Ok(())
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if IS_REOPENED.swap(false, Ordering::SeqCst) {
            self.reopen()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.torn {
            file.write_all(b"\n")?;
            self.torn = false;
        }
        // With O_APPEND a write is atomic and complete unless the disk is full. The second write is for that case.
        let written = file.write(line)?;
        self.torn = written > 0 && written < line.len();
        file.write_all(line.get(written..).unwrap_or_default())?;
        self.torn = false;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.append(line)
            && let Some(mut terminal) = self.complaints.take()
        {
            let path = self.path.display().to_string();
            let complaint = format!("cannot write to the log file {path}: {error}");
            terminal.write_all(format!("{}\n", super::line::escaped(&complaint, 1_024)).as_bytes())?;
        }
        // The line is lost: a failure to log does not stop the program.
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::sync::{Arc, Mutex};

    #[derive(Parser)]
    struct Example {
        #[command(flatten)]
        log: LogOptions,
    }

    fn options(args: &[&str]) -> LogOptions {
        let args = std::iter::once("x").chain(args.iter().copied());
        Example::parse_from(args).log
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(text);
            Ok(text.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn say(tee: &Tee, level: Level, target: &str, text: &str) {
        tee.log(&Record::builder().level(level).target(target).args(format_args!("{text}")).build());
    }

    /// Logs a line of each level and an event line. Returns the first letters of the lines on the terminal and in the
    /// file.
    fn both(level: LevelFilter, filters: Option<&str>) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs.log");
        let terminal = Shared::default();
        let file = LogFile::open(&path, None).unwrap();
        let tee = Tee::new(Box::new(terminal.clone()), false, level, filters, (file, "x".to_owned()));
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace] {
            say(&tee, level, "shoal::net", "text");
        }
        say(&tee, Level::Info, EVENT_TARGET, "P2PTracker,CHUNK_LOCATION_UNKNOWN,1");
        let shorten = |text: &str| {
            text.lines().map(|line| line.split(" - ").nth(1).unwrap_or(line).get(..1).unwrap_or("")).collect()
        };
        let terminal = String::from_utf8(terminal.0.lock().unwrap().clone()).unwrap();
        (shorten(&terminal), shorten(&std::fs::read_to_string(path).unwrap()))
    }

    #[test]
    fn terminal_and_file_receive_the_lines_of_their_levels() {
        // E W I D: levels; P: the event line.
        for (level, filters, terminal, file) in [
            (LevelFilter::Info, None, "EWIP", "EWIP"),
            (LevelFilter::Debug, None, "EWIDP", "EWIDP"),
            (LevelFilter::Trace, None, "EWIDDP", "EWIDDP"),
            (LevelFilter::Warn, None, "EW", "EWIP"),
            (LevelFilter::Error, None, "E", "EWIP"),
            (LevelFilter::Error, Some("debug"), "EWIDP", "EWIDP"),
            (LevelFilter::Trace, Some("off"), "", "EWIP"),
            (LevelFilter::Info, Some("shoal::net=trace"), "EWIDD", "EWIDDP"),
        ] {
            assert_eq!(both(level, filters), (terminal.into(), file.into()), "{level} {filters:?}");
        }
    }

    #[test]
    fn verbose_and_quiet_flags_select_the_level() {
        for (args, level) in [
            (&[][..], LevelFilter::Info),
            (&["-v"], LevelFilter::Debug),
            (&["-vv"], LevelFilter::Trace),
            (&["--verbose", "-vvv"], LevelFilter::Trace),
            (&["-q"], LevelFilter::Warn),
            (&["-qq"], LevelFilter::Error),
            (&["-qqq"], LevelFilter::Error),
            (&["-v", "-q"], LevelFilter::Info),
        ] {
            assert_eq!(options(args).level(), level, "{args:?}");
        }
        assert_eq!(options(&[]).log_file, Path::new(LOG_FILE));
        assert_eq!(options(&["--log-file", "x"]).log_file, Path::new("x"));
    }

    #[test]
    fn only_the_terminal_receives_colours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs.log");
        let terminal = Shared::default();
        let file = LogFile::open(&path, None).unwrap();
        let tee = Tee::new(Box::new(terminal.clone()), true, LevelFilter::Info, None, (file, "x".to_owned()));
        say(&tee, Level::Info, "x", "one\n\u{1b}[31mtwo");
        say(&tee, Level::Info, EVENT_TARGET, "name,WHERE_CHUNK,1");
        let shown = String::from_utf8(terminal.0.lock().unwrap().clone()).unwrap();
        assert!(shown.contains(" - \u{1b}[32mINFO\u{1b}[0m - one\\n\\u{1b}[31mtwo\n"), "{shown:?}");
        assert!(shown.ends_with("\nname,WHERE_CHUNK,1\n"));
        let kept = std::fs::read_to_string(path).unwrap();
        assert!(
            kept.ends_with(" - INFO - [x] one\\n\\u{1b}[31mtwo\nname,WHERE_CHUNK,1\n")
                && !kept.contains('\u{1b}')
        );
    }

    #[test]
    fn lines_of_several_processes_are_never_interleaved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs.log");
        let open = || {
            let file = LogFile::open(&path, None).unwrap();
            Tee::new(Box::new(io::sink()), false, LevelFilter::Off, None, (file, "x".to_owned()))
        };
        let tees = [open(), open()];
        std::thread::scope(|scope| {
            for thread in 0..4usize {
                let tee = &tees[thread % 2];
                scope.spawn(move || {
                    for number in 0..500usize {
                        let text = format!("{thread},{number},{}", "x".repeat(number * 7));
                        say(tee, Level::Info, EVENT_TARGET, &text);
                    }
                });
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        let mut next = [0usize; 4];
        for line in text.lines() {
            let mut parts = line.split(',');
            let thread: usize = parts.next().unwrap().parse().unwrap();
            let number: usize = parts.next().unwrap().parse().unwrap();
            assert_eq!((number, parts.next().unwrap().len()), (next[thread], number * 7));
            next[thread] += 1;
        }
        assert_eq!(next, [500; 4]);
    }

    #[test]
    fn existing_log_file_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs.log");
        std::fs::write(&path, "before\n").unwrap();
        let file = LogFile::open(&path, None).unwrap();
        say(
            &Tee::new(Box::new(io::sink()), false, LevelFilter::Info, None, (file, "x".to_owned())),
            Level::Info,
            EVENT_TARGET,
            "after",
        );
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }

    #[test]
    fn a_renamed_log_file_is_created_again_when_it_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("logs.log"), folder.path().join("logs.log.1"));
        let mut file = LogFile::open(&path, None).unwrap();
        file.append(b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        file.append(b"two\n").unwrap();
        file.reopen().unwrap();
        file.append(b"three\n").unwrap();
        let text = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!((text(&old), text(&path)), ("one\ntwo\n".to_owned(), "three\n".to_owned()));
    }

    #[test]
    fn log_file_that_cannot_be_opened_is_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("logs.log");
        let text = format!("{:#}", LogFile::open(&path, None).err().unwrap());
        assert!(text.starts_with(&format!("cannot open the log file {}: ", path.display())), "{text}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn full_disk_does_not_stop_the_program() {
        let file = LogFile::open(Path::new("/dev/full"), None).unwrap();
        let terminal = Shared::default();
        let tee =
            Tee::new(Box::new(terminal.clone()), false, LevelFilter::Info, None, (file, "x".to_owned()));
        say(&tee, Level::Info, EVENT_TARGET, "one");
        say(&tee, Level::Info, EVENT_TARGET, "two");
        assert_eq!(*terminal.0.lock().unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn line_after_a_truncated_line_starts_on_a_new_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs.log");
        std::fs::write(&path, "half").unwrap();
        let mut file = LogFile::open(&path, None).unwrap();
        file.torn = true;
        file.append(b"whole\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half\nwhole\n");
    }

    /// The only test that sets the process's logger.
    #[test]
    fn second_initialization_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs.log");
        let options = LogOptions { json: false, log_file: path.clone(), verbose: 0, quiet: 2, name: None };
        let console = init(&options).unwrap();
        log::info!(target: EVENT_TARGET, "name,WHERE_CHUNK,1");
        assert!(console.bars.is_hidden());
        assert!(std::fs::read_to_string(&path).unwrap().contains("name,WHERE_CHUNK,1\n"));
        assert!(init(&options).is_err());
    }
}
