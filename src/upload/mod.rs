//! Upload: the server that answers other peers, the offered files, subscribers, the
//! record of the peers that download, relay of partial chunks, rate limit.
//!
//! Nothing here decides what to download, and nothing here reads flags or draws on a terminal.

pub mod load;
pub mod offers;
pub mod prover;
mod rate_limit;
pub mod receivers;
pub mod relay;
mod response_writer;
pub mod server;
mod subscribers;
