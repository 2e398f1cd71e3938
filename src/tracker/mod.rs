//! Parts of a tracker: the server (sockets around the pure state machine, also used by the manager), the executor (disk
//! and host tasks of a tracker that keeps files), the store (the catalogue), the tasks with their permits, and the commands of the owner with the
//! control socket that receives them.
//!
//! Nothing here reads flags or draws on a terminal.

pub mod commands;
pub mod control;
pub mod executor;
mod permits;
pub mod server;
pub mod store;
pub mod tasks;
