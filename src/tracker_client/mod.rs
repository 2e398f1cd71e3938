//! Client of a tracker: the announcer (UDP), the session (TCP) and the lookup of files.
//!
//! Nothing here transfers chunks, and nothing here reads flags or draws on a terminal.

pub mod announcer;
pub mod lookup;
pub mod presence;
pub mod session;
