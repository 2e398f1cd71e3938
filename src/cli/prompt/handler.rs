//! Executor of the lines of a prompt, and the reason that the prompt ended.

use crate::report::RoleError;
use std::ops::ControlFlow;

/// Executes the commands of a prompt.
pub trait CommandHandler {
    /// Called before each line is read, for example to update completions.
    fn refresh(&mut self) {}

    /// Executes a line of a terminal and prints the result. Work that takes time continues in the background. Returns
    /// `Break` to quit.
    fn handle(&mut self, line: &str) -> ControlFlow<()>;

    /// Executes a line of a pipe or file to its end. Returns `Break` to quit. An empty text of an error is in the log
    /// already.
    fn execute(&mut self, line: &str) -> ControlFlow<(), Result<(), RoleError>>;
}

/// The reason that the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum LoopEnd {
    /// The user quit, or a shutdown.
    Quit,
    /// No more input can be read. The daemon can continue without a prompt.
    InputLost,
}
