//! Pure decisions: who is alive, who has what, what is agreed upon, what to ask of whom next.
//!
//! Nothing here names a socket, a file, a thread or a clock. The time is an argument (a [`Moment`]), and
//! so is randomness (a seeded `fastrand::Rng`), so that the same code runs in the daemons, in tests that
//! read as a timetable, in a simulator and under a fuzzer.

pub mod agreement;
pub mod backoff;
pub mod intake;
pub mod listing;
pub mod machine;
pub mod manager;
pub mod membership;
pub mod meter;
pub mod picker;
pub mod registry;
pub mod token_bucket;
pub mod tracker;
pub mod turns;

use std::time::Duration;

/// A point in time: how long after its daemon's start.
pub type Moment = Duration;

static KNOBS: std::sync::OnceLock<std::collections::HashMap<String, f64>> = std::sync::OnceLock::new();
/// temporary
pub fn knob(name: &str, default: f64) -> f64 {
    *KNOBS.get_or_init(|| std::env::vars().filter_map(|(k, v)| Some((k, v.parse().ok()?))).collect()).get(name).unwrap_or(&default)
}
