//! Client of a tracker: the announcer (UDP), the session (TCP), the lookup and selection of files, and tickets.
//!
//! Nothing here transfers chunks, and nothing here reads flags or draws on a terminal.

pub mod announcer;
pub mod lookup;
pub mod presence;
pub mod selection;
pub mod session;
pub mod ticket;
