//! Download of a file: the job, its driver, the scheduler, source connections, the verifier, finders of holders, the
//! summary and the report of the completed download.
//!
//! Nothing here reads flags or draws on a terminal.

mod batch;
pub mod completion;
pub mod connection_pool;
pub mod destination;
pub mod driver;
pub mod events;
pub mod finder;
mod handover;
pub mod job;
pub mod locate;
mod manifest_search;
pub mod scheduler;
pub mod selection;
pub mod source;
mod source_reader;
#[cfg(test)]
mod staging;
pub mod summary;
pub mod ticket_finder;
mod workers;
