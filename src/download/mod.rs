//! Download of a file: the job, its driver, the scheduler, source connections, the verifier and the finder of holders.
//!
//! Nothing here reads flags or draws on a terminal.

pub mod connection_pool;
pub mod destination;
pub mod driver;
pub mod events;
pub mod finder;
pub mod job;
pub mod locate;
pub mod scheduler;
pub mod source;
#[cfg(test)]
mod staging;
mod verifier;
