//! Reports of a running program: errors of roles, watch of progress and state, events for other programs, commands to
//! type next, and log lines that other hosts cause.
//!
//! Nothing here reads flags or draws on a terminal.

pub mod error;
pub mod events;
pub mod limited_lines;
pub mod next_step;
pub mod watch;

pub use error::{Fault, RoleError};
pub use limited_lines::LimitedLines;
