//! Input loop of a prompt: passes each line to a handler until the user quits, a shutdown, or a failure of the daemon.
//!
//! The calling thread waits for lines, the shutdown and the failure at the same time. The loop never interprets a line.
//! Invariant: the terminal mode is restored at the end, also after an error.

use super::editor::{Complete, Editor, Input};
use crate::cli::{Console, terminal};
use crate::net::Shutdown;
use crate::report::RoleError;
use crossbeam_channel::Receiver;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

/// Executes the commands of a prompt.
pub trait CommandHandler {
    /// Called before each line is read, for example to update completions.
    fn refresh(&mut self) {}

    /// Executes a line and prints the result. Returns `Break` to quit.
    fn handle(&mut self, line: &str) -> ControlFlow<()>;
}

/// The reason that the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum LoopEnd {
    /// The user quit, or a shutdown.
    Quit,
    /// No more input can be read. The daemon can continue without a prompt.
    InputLost,
}

/// Whether standard input and standard output are terminals.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Reads and executes lines until the user quits or a shutdown.
///
/// # Errors
/// The failure of the daemon that `failed` reports.
pub fn run(
    prompt: String,
    complete: Complete,
    console: &Console,
    handler: &mut dyn CommandHandler,
    failed: &Receiver<RoleError>,
    shutdown: &Shutdown,
) -> Result<LoopEnd, RoleError> {
    let _mode = terminal::save_mode();
    let (mut editor, printer) = match Editor::start(prompt, complete) {
        Ok(started) => started,
        Err(error) => {
            log::warn!("cannot start the prompt: {error}; continuing without it");
            return Ok(LoopEnd::InputLost);
        }
    };
    // Log lines are printed through the line editor only if stderr is a terminal.
    console.begin_prompt(printer.filter(|_| io::stderr().is_terminal()));
    print("type help for a list of commands\n");
    let mut interrupted = false;
    let end = loop {
        handler.refresh();
        editor.request_line();
        crossbeam_channel::select! {
            recv(editor.input()) -> input => {
                editor.input_received();
                let input = input.unwrap_or_else(|_| Input::Broken("the line editor failed".into()));
                if let ControlFlow::Break(end) = on_input(input, handler, &mut interrupted) {
                    break Ok(end);
                }
            }
            recv(shutdown.signal()) -> _ => break Ok(LoopEnd::Quit),
            recv(failed) -> failure => break failure.map_or(Ok(LoopEnd::Quit), Err),
        }
    };
    console.end_prompt();
    editor.stop();
    end
}

fn on_input(input: Input, handler: &mut dyn CommandHandler, interrupted: &mut bool) -> ControlFlow<LoopEnd> {
    let again = std::mem::take(interrupted);
    match input {
        // Pasted text can have several lines.
        Input::Line(text) => {
            let end = text.lines().try_for_each(|line| handler.handle(line));
            if end.is_break() { ControlFlow::Break(LoopEnd::Quit) } else { ControlFlow::Continue(()) }
        }
        Input::Interrupted { empty: true } if again => ControlFlow::Break(LoopEnd::Quit),
        Input::Interrupted { empty: true } => {
            *interrupted = true;
            print("press Ctrl-C again or type quit to exit\n");
            ControlFlow::Continue(())
        }
        Input::Interrupted { empty: false } => ControlFlow::Continue(()),
        Input::End => ControlFlow::Break(LoopEnd::Quit),
        Input::Broken(why) => {
            log::warn!("prompt ended: {why}; continuing without it");
            ControlFlow::Break(LoopEnd::InputLost)
        }
    }
}

/// Prints to standard output. Only while no line is being read.
pub fn print(text: &str) {
    use std::io::Write;
    let mut out = io::stdout().lock();
    // A write error is ignored: a closed terminal does not stop the daemon.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
