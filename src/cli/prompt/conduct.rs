//! A prompt, whoever answers at it: lines in, until the user leaves, the shutdown, or a failure.
//!
//! The caller's thread waits for lines, for the shutdown and for the failure, whichever comes first. Never knows what a
//! line means. Invariant: at every end the terminal is as it was.

use super::editor::{Complete, Editor, Heard};
use crate::cli::{Console, terminal};
use crate::net::Shutdown;
use crate::report::DaemonError;
use crossbeam_channel::Receiver;
use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

/// Who answers at a prompt.
pub trait Answers {
    /// Before each line.
    fn refresh(&mut self) {}

    /// Does what a line says, and writes what there is to say. `Break` when the user wants to leave.
    fn obey(&mut self, line: &str) -> ControlFlow<()>;
}

/// How a prompt has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// By the user, or the shutdown.
    Left,
    /// Nobody can type any more, but the daemon can go on.
    Deaf,
}

/// Whether there is somebody to type and a place to answer.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Reads lines until the user leaves or the shutdown.
///
/// # Errors
/// What `failed` tells.
pub fn conduct(
    prompt: String,
    complete: Complete,
    console: &Console,
    answers: &mut dyn Answers,
    failed: &Receiver<DaemonError>,
    shutdown: &Shutdown,
) -> Result<End, DaemonError> {
    let _kept = terminal::keep();
    let (mut editor, printer) = match Editor::start(prompt, complete) {
        Ok(started) => started,
        Err(error) => {
            log::warn!("no prompt: {error}");
            return Ok(End::Deaf);
        }
    };
    // Log lines that go to a file do not tear anything.
    console.begin_prompt(printer.filter(|_| io::stderr().is_terminal()));
    say("help lists the commands\n");
    let mut leaving = false;
    let end = loop {
        answers.refresh();
        editor.ask();
        crossbeam_channel::select! {
            recv(editor.heard()) -> heard => {
                editor.answered();
                let heard = heard.unwrap_or_else(|_| Heard::Broken("the line editor has failed".into()));
                if let ControlFlow::Break(end) = hear(heard, answers, &mut leaving) {
                    break Ok(end);
                }
            }
            recv(shutdown.signal()) -> _ => break Ok(End::Left),
            recv(failed) -> failure => break failure.map_or(Ok(End::Left), Err),
        }
    };
    console.end_prompt();
    editor.stop();
    end
}

fn hear(heard: Heard, answers: &mut dyn Answers, leaving: &mut bool) -> ControlFlow<End> {
    let again = std::mem::take(leaving);
    match heard {
        // What was pasted may be several lines.
        Heard::Line(text) => {
            let end = text.lines().try_for_each(|line| answers.obey(line));
            if end.is_break() { ControlFlow::Break(End::Left) } else { ControlFlow::Continue(()) }
        }
        Heard::Interrupted { empty: true } if again => ControlFlow::Break(End::Left),
        Heard::Interrupted { empty: true } => {
            *leaving = true;
            say("again, or quit, to leave\n");
            ControlFlow::Continue(())
        }
        Heard::Interrupted { empty: false } => ControlFlow::Continue(()),
        Heard::End => ControlFlow::Break(End::Left),
        Heard::Broken(why) => {
            log::warn!("no prompt any more: {why}");
            ControlFlow::Break(End::Deaf)
        }
    }
}

/// Writes while no line is being read.
pub fn say(text: &str) {
    use std::io::Write;
    let mut out = io::stdout().lock();
    // A terminal that is gone stops nothing.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
