//! Pure decision logic of the swarm: liveness of peers, holders of chunks, agreement on hashes, choice of
//! requests.
//!
//! No module here uses a socket, file, thread or clock. Time is an argument (a [`Moment`]) and so is
//! randomness (a seeded `fastrand::Rng`): the same code runs in the daemons, in tests with simulated time, in
//! a simulator and under a fuzzer.

pub mod agreement;
pub mod backoff;
pub mod command;
pub mod discovery;
pub mod distribution;
pub mod keeping;
pub mod line_limit;
pub mod listing;
pub mod machine;
pub mod manager;
pub mod membership;
pub mod picker;
pub mod reach;
pub mod registry;
pub mod replication;
pub mod rings;
pub mod shares;
pub mod super_seeding;
pub mod token_bucket;
pub mod tracker;
pub mod upload_slots;

use std::time::Duration;

/// A point in time: the time elapsed since the daemon started.
pub type Moment = Duration;
