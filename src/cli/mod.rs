//! What people meet: flags, exit codes, log lines, progress bars, the prompt, Ctrl-C.
//!
//! Shared by all binaries, so that a flag, a time or a size means the same everywhere. Nothing here
//! knows what a daemon does. Invariant: what comes from outside (file names, addresses, messages of
//! peers) reaches a terminal or the log file only with its control characters escaped.

pub mod args;
pub mod bar;
pub mod console;
pub mod exit;
pub mod flags;
pub mod folder;
pub mod help;
pub mod keeper;
mod line;
pub mod list;
pub mod logging;
pub mod member;
pub mod prompt;
pub mod run;
pub mod signals;
pub mod table;
pub mod terminal;

pub use args::parse;
pub use bar::Bar;
pub use console::Console;
pub use exit::ExitCode;
pub use flags::TrackerFlag;
pub use logging::LogOptions;
pub use run::{BarWatch, run};
pub use signals::on_interrupt;
