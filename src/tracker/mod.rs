//! Parts of a tracker: the server (sockets around the pure state machine, also used by the manager), the executor (disk
//! and host tasks of a tracker that keeps files) and the store (the catalogue).
//!
//! Nothing here reads flags or draws on a terminal.

pub mod executor;
pub mod server;
pub mod store;
