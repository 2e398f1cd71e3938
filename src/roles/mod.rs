//! Roles: the code that each program runs.
//!
//! Each program has one thread that owns its state and handles a closed enum of events; connection threads do the
//! reading, hashing and writing, and chunk bytes never pass through the state thread. Nothing here reads flags or draws
//! on a terminal.

pub mod chunk_client;
mod discoverable;
pub mod folder_client;
pub mod leecher;
pub mod manager;
pub mod on_complete;
pub mod seeder;
pub mod tracker;
