//! Enters the input of a scenario and waits for its output.

use super::matching;
use super::parse::{Expected, Input, Scenario, Step};
use super::screen::Screen;
use crate::common::network::Network;
use crate::common::{FAULT, PATIENCE, clear_variables, terminal};
use rustix::termios::Winsize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Sample folders that a scenario finds in its folder.
const SAMPLES: [&str; 5] = ["folder1", "folder2", "folder3", "peer1", "peer2"];
/// So wide that no line of a transcript wraps.
const SIZE: Winsize = Winsize { ws_row: 50, ws_col: 500, ws_xpixel: 0, ws_ypixel: 0 };
const SHELL_PROMPT: &str = "$";
const SHELL_CONTINUATION: &str = ">";
const INTERRUPT: &str = "\x03";

/// Runs a scenario in a new folder and new namespaces.
pub fn run(document: &str, scenario: &Scenario) {
    let folder = crate::common::place();
    if !scenario.has_hosts() {
        SAMPLES.iter().for_each(|sample| copy(&Path::new(ROOT).join(sample), &folder.path().join(sample)));
    }
    let mut terminals = BTreeMap::new();
    // Dropped before the terminals, whose shells it ends.
    let Some(network) = Network::new(scenario.has_hosts()) else { return };
    for step in &scenario.steps {
        let terminal = terminals
            .entry(step.terminal.as_str())
            .or_insert_with(|| Terminal::start(&network, step, folder.path()));
        if let Err(problem) = terminal.play(step) {
            panic!("{document}:{problem}{}", report(&terminals));
        }
    }
    let faulty = terminals.values().any(|terminal| terminal.lines().iter().any(|line| line.contains(FAULT)));
    assert!(!faulty, "{document}, {}: a program reported a fault{}", scenario.title, report(&terminals));
}

/// What all terminals show.
fn report(terminals: &BTreeMap<&str, Terminal>) -> String {
    let mut text = String::new();
    for (label, terminal) in terminals {
        write!(text, "\n--- terminal {label}").unwrap();
        terminal.lines().iter().for_each(|line| write!(text, "\n    {line}").unwrap());
    }
    text
}

/// Copies a folder of files, which count as written an hour ago: a peer waits before it shares a file that is newer.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let an_hour_ago = SystemTime::now() - Duration::from_secs(60 * 60);
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let copy = to.join(entry.file_name());
        std::fs::copy(entry.path(), &copy).unwrap();
        File::options().write(true).open(copy).unwrap().set_modified(an_hour_ago).unwrap();
    }
}

/// `PATH` with the folder of the programs at its beginning.
fn search_path() -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_tracker")).parent().unwrap();
    format!("{}:{}", programs.display(), std::env::var("PATH").unwrap())
}

/// A shell at a terminal of its own.
struct Terminal {
    shell: Child,
    keys: File,
    reader: Option<JoinHandle<()>>,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    /// The last line of input.
    input: String,
    /// Line of the cursor at the last input.
    input_row: usize,
    /// First line in which the next prompt can be.
    prompt_row: usize,
    /// For each line, whether the document has shown it.
    is_used: Vec<bool>,
}

impl Terminal {
    fn start(network: &Network, step: &Step, folder: &Path) -> Self {
        let own = folder.join(format!("host-{}", step.terminal));
        let folder = match step.host() {
            Some(_) => {
                std::fs::create_dir(&own).unwrap();
                &own
            }
            None => folder,
        };
        let (keys, programs) = terminal::open(SIZE);
        let end = || programs.try_clone().unwrap();
        let mut command: Command = network.command(step.host());
        clear_variables(&mut command);
        let shell = command
            .args(["env", "-C"])
            .arg(folder)
            .args(["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"])
            .env_remove("RUST_LOG")
            .env("PATH", search_path())
            .env("HOME", folder)
            .env("HISTFILE", "/dev/null")
            .env("XDG_STATE_HOME", folder.join(".state"))
            .envs([("PS1", "$ "), ("PS2", "> "), ("TERM", "xterm"), ("NO_COLOR", "1"), ("LC_ALL", "C.UTF-8")])
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let screen = Arc::new((Mutex::new(Screen::with_columns(SIZE.ws_col.into())), Condvar::new()));
        let (mut from, into) = (keys.try_clone().unwrap(), screen.clone());
        // It ends when no program has the terminal open.
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut piece) {
                into.0.lock().unwrap().feed(&piece[..count]);
                into.1.notify_all();
            }
        });
        let (input, is_used) = (String::new(), Vec::new());
        Self { shell, keys, reader: Some(reader), screen, input, input_row: 0, prompt_row: 0, is_used }
    }

    /// Enters the input of a step and waits for its output.
    fn play(&mut self, step: &Step) -> Result<(), String> {
        match &step.input {
            Some(Input::Text { prompt, text }) => {
                for (line, number) in text.split_inclusive('\n').zip(step.line..) {
                    let prompt = if number == step.line { prompt } else { SHELL_CONTINUATION };
                    self.wait_for_prompt(prompt).map_err(|problem| format!("{number}: {problem}"))?;
                    self.enter(line);
                }
            }
            Some(Input::Interrupt) => self.enter(INTERRUPT),
            None => {}
        }
        self.wait_for_output(&step.output)
            .map_err(|line| format!("{}: not shown in terminal {}: {}", line.line, step.terminal, line.text))
    }

    fn enter(&mut self, keys: &str) {
        let last_row = self.input_row;
        self.input = keys.trim_end().to_owned();
        self.input_row = self.screen.0.lock().unwrap().cursor_row();
        // Ctrl-C erases the lines that are redrawn in place: the prompt may be above them.
        self.prompt_row = if keys == INTERRUPT { last_row } else { self.input_row } + 1;
        // The prompt of a program takes only Enter for the end of a line.
        self.keys.write_all(keys.replace('\n', "\r").as_bytes()).unwrap();
    }

    /// Waits until `look` returns something; `None` after [`PATIENCE`].
    fn wait<T>(&self, mut look: impl FnMut(&Screen) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut screen = self.screen.0.lock().unwrap();
        loop {
            if let Some(found) = look(&screen) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            screen = self.screen.1.wait_timeout(screen, left).unwrap().0;
        }
    }

    fn wait_for_prompt(&self, prompt: &str) -> Result<(), String> {
        let shows = |line: &String| {
            let after = without_echo(line).strip_prefix(prompt);
            after.is_some_and(|after| after.is_empty() || after.starts_with(' '))
        };
        let found = self.wait(|screen| screen.lines().iter().skip(self.prompt_row).any(shows).then_some(()));
        found.ok_or_else(|| format!("no prompt {prompt} to type at"))
    }

    fn wait_for_output<'a>(&mut self, expected: &'a [Expected]) -> Result<(), &'a Expected> {
        let (from, is_used) = (self.input_row, &self.is_used);
        let mut result = Ok(Vec::new());
        self.wait(|screen| {
            let lines = self.output(screen);
            result = matching::find(expected, &lines, is_used.get(from..).unwrap_or_default());
            // When the shell reads the next command, nothing more will come.
            let is_over = screen.cursor_row() > from && screen.current() == SHELL_PROMPT;
            (result.is_ok() || is_over).then_some(())
        });
        for index in result? {
            self.is_used.resize(self.is_used.len().max(from + index + 1), false);
            self.is_used[from + index] = true;
        }
        Ok(())
    }

    /// What was shown since the last input, without its echo and the prompts of the shell.
    fn output(&self, screen: &Screen) -> Vec<String> {
        let mut lines = screen.lines().split_off(self.input_row.min(screen.lines().len()));
        for line in &mut lines {
            let text = without_echo(line);
            *line = text.strip_prefix("$ ").unwrap_or(if text == "$" { "" } else { text }).to_owned();
        }
        if let Some(echo) = lines.iter_mut().find(|line| line.ends_with(&self.input)) {
            echo.clear();
        }
        lines
    }

    fn lines(&self) -> Vec<String> {
        self.screen.0.lock().unwrap().lines()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.shell.wait();
        drop(self.reader.take().map(JoinHandle::join));
    }
}

/// A line without the `^C` that the terminal echoes.
fn without_echo(line: &str) -> &str {
    line.strip_prefix("^C").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    /// What a run of a transcript in one terminal ends with.
    fn outcome(transcript: &str) -> Result<(), String> {
        let document = format!("## Test\n```console 1\n{transcript}\n```\n");
        let scenario = parse::scenarios(&document).unwrap().remove(0);
        let result = std::panic::catch_unwind(|| run("test", &scenario));
        result.map_err(|panic| *panic.downcast::<String>().unwrap())
    }

    #[test]
    fn a_correct_transcript_passes_and_a_wrong_line_is_named() {
        let correct = "$ echo one; echo two\none\ntwo\n$ seeder -f peer1/file1.txt\n…\n^C\n$ echo $?\n0\n$ tracker\n… - INFO - tracker listening on …";
        assert_eq!(outcome(correct), Ok(()));
        if Network::new(false).is_none() {
            return;
        }
        let problem = outcome("$ echo one; echo two\none\nthree").unwrap_err();
        assert!(problem.starts_with("test:5: not shown in terminal 1: three\n"), "{problem}");
        assert!(
            problem.ends_with("--- terminal 1\n    $ echo one; echo two\n    one\n    two\n    $"),
            "{problem}"
        );
    }
}
