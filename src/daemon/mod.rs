//! Programs behind the command line: tracker, upload server, downloads, chunk folders, volunteers.
//!
//! Each program has one state thread, which processes a closed enum of events. Connection threads read, hash
//! and write; chunk bytes never pass through the state thread. Nothing here parses flags or draws on a
//! terminal.

pub mod announcer;
pub mod client;
pub mod download;
pub mod error;
pub mod fetch;
pub mod finder;
pub mod hub;
pub mod keeper;
pub mod leecher;
pub mod lookup;
pub mod manager;
pub mod member;
pub mod next_step;
pub mod pacing;
pub mod peer;
pub mod relay;
pub mod seeder;
pub mod shelf;
pub mod tracker;
pub mod tracker_session;
pub mod transfer;
mod upload_limit;
mod visitors;
pub mod volunteer;
pub mod watch;

pub use error::{DaemonError, Fault};
