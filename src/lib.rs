//! Peer-to-peer file distribution.
#![forbid(unsafe_code)]

pub mod cli;
pub mod content;
pub mod daemon;
pub mod net;
pub mod protocol;
pub mod storage;
pub mod swarm;
