//! Input loop of a prompt: passes each line to a handler until the user quits, a shutdown, or a failure of the daemon.
//!
//! At a terminal the calling thread waits for lines, the shutdown and the failure at the same time. The loop never interprets a line.
//! Invariant: the terminal mode is restored at the end, also after an error.

pub use super::handler::{CommandHandler, LoopEnd};

use super::editor::{Complete, Editor, Input};
use super::script;
use crate::cli::job_control::{self, Ground, JobTerminal, ShownPrompt};
use crate::cli::{Console, json, terminal};
use crate::net::Shutdown;
use crate::report::RoleError;
use crossbeam_channel::Receiver;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::time::Duration;

/// Interval at which a program in the background looks whether it has returned to the foreground.
const FOREGROUND_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Whether standard input and standard output are terminals, and not for JSON.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && !json::is_active()
}

/// Reads and executes lines until the user quits or a shutdown. A pipe or file has no prompt.
///
/// # Errors
/// The failure of the daemon that `failed` reports, or the first failed command of a pipe or file.
pub fn run(
    prompt: String,
    complete: Complete,
    console: &Console,
    handler: &mut dyn CommandHandler,
    failed: &Receiver<RoleError>,
    shutdown: &Shutdown,
) -> Result<LoopEnd, RoleError> {
    match io::stdin().is_terminal() {
        true if has_terminal() => run_at_terminal(prompt, complete, console, handler, failed, shutdown),
        true => Ok(LoopEnd::InputLost),
        false => script::run(handler, failed, shutdown),
    }
}

/// Executes the lines of a terminal. In the background the program runs without a prompt, and takes it when it returns
/// to the foreground.
fn run_at_terminal(
    prompt: String,
    complete: Complete,
    console: &Console,
    handler: &mut dyn CommandHandler,
    failed: &Receiver<RoleError>,
    shutdown: &Shutdown,
) -> Result<LoopEnd, RoleError> {
    let terminal = JobTerminal::new();
    let mut session = Session {
        prompt,
        complete,
        console,
        handler,
        failed,
        shutdown,
        begun: String::new(),
        is_first: true,
    };
    loop {
        let end = match terminal.ground() {
            Ground::Foreground => session.run()?,
            Ground::Lost => SessionEnd::Ended(LoopEnd::InputLost),
            Ground::Background => {
                // No progress bars: they would be drawn over the input line of the shell.
                console.begin_prompt(None);
                crossbeam_channel::select! {
                    recv(shutdown.signal()) -> _ => SessionEnd::Ended(LoopEnd::Quit),
                    recv(failed) -> failure => match failure {
                        Ok(error) => return Err(error),
                        Err(_) => SessionEnd::Ended(LoopEnd::Quit),
                    },
                    default(FOREGROUND_CHECK_INTERVAL) => SessionEnd::Stopped,
                }
            }
        };
        if let SessionEnd::Ended(end) = end {
            console.end_prompt();
            return Ok(end);
        }
    }
}

/// The reason that a session at the terminal ended.
enum SessionEnd {
    /// The prompt is over.
    Ended(LoopEnd),
    /// The process was stopped and continues.
    Stopped,
}

/// The prompt while the program is in the foreground.
struct Session<'a> {
    prompt: String,
    complete: Complete,
    console: &'a Console,
    handler: &'a mut dyn CommandHandler,
    failed: &'a Receiver<RoleError>,
    shutdown: &'a Shutdown,
    /// Text of the input line at the last stop.
    begun: String,
    is_first: bool,
}

impl Session<'_> {
    /// Reads and executes lines until the prompt ends or the process is stopped.
    fn run(&mut self) -> Result<SessionEnd, RoleError> {
        let mode = terminal::save_mode();
        let (mut editor, printer) = match Editor::start(self.prompt.clone(), self.complete.clone()) {
            Ok(started) => started,
            Err(error) => {
                log::warn!("cannot start the prompt: {error}; continuing without it");
                return Ok(SessionEnd::Ended(LoopEnd::InputLost));
            }
        };
        // Log lines are printed through the line editor only if stderr is a terminal.
        self.console.begin_prompt(printer.filter(|_| io::stderr().is_terminal()));
        if std::mem::take(&mut self.is_first) {
            print("type help for a list of commands\n");
        }
        let shown = ShownPrompt::new();
        let end = self.read_lines(&mut editor, shown.suspensions());
        self.console.end_prompt();
        editor.stop();
        drop((shown, mode));
        if matches!(end, Ok(SessionEnd::Stopped)) {
            job_control::stop_process();
        }
        end
    }

    fn read_lines(
        &mut self,
        editor: &mut Editor,
        suspensions: &Receiver<()>,
    ) -> Result<SessionEnd, RoleError> {
        let mut interrupted = false;
        loop {
            self.handler.refresh();
            editor.request_line(std::mem::take(&mut self.begun));
            crossbeam_channel::select! {
                recv(editor.input()) -> input => {
                    editor.input_received();
                    let input = input.unwrap_or_else(|_| Input::Broken("the line editor failed".into()));
                    if let ControlFlow::Break(end) = on_input(input, self.handler, &mut interrupted) {
                        return Ok(SessionEnd::Ended(end));
                    }
                }
                recv(suspensions) -> _ => {
                    match editor.interrupt() {
                        Some(Input::Interrupted { text }) => self.begun = text,
                        Some(input) => {
                            if let ControlFlow::Break(end) = on_input(input, self.handler, &mut interrupted) {
                                return Ok(SessionEnd::Ended(end));
                            }
                        }
                        None => {}
                    }
                    return Ok(SessionEnd::Stopped);
                }
                recv(self.shutdown.signal()) -> _ => return Ok(SessionEnd::Ended(LoopEnd::Quit)),
                recv(self.failed) -> failure => {
                    return failure.map_or(Ok(SessionEnd::Ended(LoopEnd::Quit)), Err);
                }
            }
        }
    }
}

fn on_input(input: Input, handler: &mut dyn CommandHandler, interrupted: &mut bool) -> ControlFlow<LoopEnd> {
    let again = std::mem::take(interrupted);
    match input {
        // Pasted text can have several lines.
        Input::Line(text) => {
            let end = text.lines().try_for_each(|line| handler.handle(line));
            if end.is_break() { ControlFlow::Break(LoopEnd::Quit) } else { ControlFlow::Continue(()) }
        }
        Input::Interrupted { text } if !text.is_empty() => ControlFlow::Continue(()),
        Input::Interrupted { .. } if again => ControlFlow::Break(LoopEnd::Quit),
        Input::Interrupted { .. } => {
            *interrupted = true;
            print("to exit, type quit, or press Ctrl-D or Ctrl-C again\n");
            ControlFlow::Continue(())
        }
        Input::End => ControlFlow::Break(LoopEnd::Quit),
        Input::Broken(why) => {
            log::warn!("prompt ended: {why}; continuing without it");
            ControlFlow::Break(LoopEnd::InputLost)
        }
    }
}

/// Prints to standard output, or with `--json` to stderr. Only while no line is being read.
pub fn print(text: &str) {
    use std::io::Write;
    if json::is_active() {
        return drop(io::stderr().lock().write_all(text.as_bytes()));
    }
    let mut out = io::stdout().lock();
    // A write error is ignored: a closed terminal does not stop the daemon.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
