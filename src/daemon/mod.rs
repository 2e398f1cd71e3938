//! What each role is made of: the tracker, peers that serve, downloads, chunk folders, volunteers.
//!
//! Each daemon has one thread that owns its state and handles a closed enum of events; connection
//! threads do the reading, hashing and writing, and chunk bytes never pass through the state thread. Nothing here
//! reads flags or draws on a terminal.

pub mod client;
pub mod leecher;
pub mod manager;
pub mod member;
pub mod seeder;
pub mod tracker;
