//! Pure decisions: who is alive, who has what, what is agreed upon, what to ask of whom next.
//!
//! Nothing here names a socket, a file, a thread or a clock. The time is an argument (a [`Moment`]), and
//! so is randomness (a seeded `fastrand::Rng`), so that the same code runs in the daemons, in tests that
//! read as a timetable, in a simulator and under a fuzzer.

pub mod agreement;
pub mod backoff;
pub mod fresh;
pub mod keeping;
pub mod listing;
pub mod machine;
pub mod manager;
pub mod membership;
pub mod picker;
pub mod registry;
pub mod replication;
pub mod token_bucket;
pub mod tracker;
pub mod trees;

use std::time::Duration;

/// A point in time: how long after its daemon's start.
pub type Moment = Duration;
