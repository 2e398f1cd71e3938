//! The user interface of the programs: flags, exit codes, log lines, progress bars, the prompt, Ctrl-C.
//!
//! All programs share it, so a flag, a duration or a size has one meaning in all of them. Invariant: text from other
//! programs (file names, addresses, messages of peers) is written to a terminal or the log file only with its control
//! characters escaped.

pub mod args;
pub mod bar;
pub mod chunk_prompt;
mod chunk_sets;
pub mod clean;
mod columns;
pub mod confirm;
pub mod console;
mod downloads;
mod environment;
pub mod exit;
pub mod flags;
pub mod folder;
pub mod help;
pub mod job_control;
pub mod json;
mod line;
pub mod list;
pub mod logging;
pub mod manager_prompt;
pub mod member;
mod memory;
mod patient_write;
mod progress;
pub mod prompt;
pub mod questions;
pub mod receivers;
pub mod run;
mod screen;
mod service;
pub mod signals;
pub mod state_folder;
pub mod table;
pub mod terminal;
pub mod tracker_prompt;

pub use args::parse;
pub use bar::Bar;
pub use console::Console;
pub use exit::ExitCode;
pub use flags::TrackerFlag;
pub use logging::LogOptions;
pub use run::{BarWatch, run};
pub use signals::on_interrupt;
