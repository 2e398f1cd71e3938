//! A prompt, whoever answers at it: lines in, until the user leaves, the shutdown, or a failure.
//!
//! The caller's thread waits for lines, for the shutdown and for the failure, whichever comes first. Never knows what a
//! line means. Invariant: at every end the terminal is as it was.

use super::editor::{Complete, Editor, Input};
use crate::cli::{Console, terminal};
use crate::daemon::DaemonError;
use crate::net::Shutdown;
use crossbeam_channel::Receiver;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

/// Who answers at a prompt.
pub trait CommandHandler {
    /// Before each line.
    fn refresh(&mut self) {}

    /// Does what a line says, and writes what there is to say. `Break` when the user wants to leave.
    fn handle(&mut self, line: &str) -> ControlFlow<()>;
}

/// How a prompt has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum LoopEnd {
    /// By the user, or the shutdown.
    Quit,
    /// Nobody can type any more, but the daemon can go on.
    InputLost,
}

/// Whether there is somebody to type and a place to answer.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Reads lines until the user leaves or the shutdown.
///
/// # Errors
/// What `failed` tells.
pub fn run(
    prompt: String,
    complete: Complete,
    console: &Console,
    handler: &mut dyn CommandHandler,
    failed: &Receiver<DaemonError>,
    shutdown: &Shutdown,
) -> Result<LoopEnd, DaemonError> {
    let _kept = terminal::save_mode();
    let (mut editor, printer) = match Editor::start(prompt, complete) {
        Ok(started) => started,
        Err(error) => {
            log::warn!("no prompt: {error}");
            return Ok(LoopEnd::InputLost);
        }
    };
    // Log lines that go to a file do not tear anything.
    console.begin_prompt(printer.filter(|_| io::stderr().is_terminal()));
    print("help lists the commands\n");
    let mut leaving = false;
    let end = loop {
        handler.refresh();
        editor.ask();
        crossbeam_channel::select! {
            recv(editor.heard()) -> heard => {
                editor.answered();
                let heard = heard.unwrap_or_else(|_| Input::Broken("the line editor has failed".into()));
                if let ControlFlow::Break(end) = on_input(heard, handler, &mut leaving) {
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

fn on_input(heard: Input, handler: &mut dyn CommandHandler, leaving: &mut bool) -> ControlFlow<LoopEnd> {
    let again = std::mem::take(leaving);
    match heard {
        // What was pasted may be several lines.
        Input::Line(text) => {
            let end = text.lines().try_for_each(|line| handler.handle(line));
            if end.is_break() { ControlFlow::Break(LoopEnd::Quit) } else { ControlFlow::Continue(()) }
        }
        Input::Interrupted { empty: true } if again => ControlFlow::Break(LoopEnd::Quit),
        Input::Interrupted { empty: true } => {
            *leaving = true;
            print("again, or quit, to leave\n");
            ControlFlow::Continue(())
        }
        Input::Interrupted { empty: false } => ControlFlow::Continue(()),
        Input::End => ControlFlow::Break(LoopEnd::Quit),
        Input::Broken(why) => {
            log::warn!("no prompt any more: {why}");
            ControlFlow::Break(LoopEnd::InputLost)
        }
    }
}

/// Writes while no line is being read.
pub fn print(text: &str) {
    use std::io::Write;
    let mut out = io::stdout().lock();
    // A terminal that is gone stops nothing.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
