//! Parameters and results of a simulation.

use super::faults::Fault;
use std::time::Duration;

/// Parameters of a simulation. Rates are in bytes per second.
#[derive(Clone)]
pub struct Setting {
    pub peers: usize,
    pub seeders: usize,
    pub size: u64,
    pub chunk: u64,
    pub block: u64,
    /// Ranges of the links of leechers, which take them in turn.
    pub up: Vec<(f64, f64)>,
    pub down: Vec<(f64, f64)>,
    pub seeder_up: f64,
    pub slow: Option<f64>,
    pub slow_up: Option<f64>,
    pub dying: f64,
    pub kill: Option<Duration>,
    pub apart: Duration,
    pub latency: Duration,
    pub startup: Duration,
    pub overhead: f64,
    pub seed: u64,
    pub super_seeds: bool,
    pub unfair: f64,
    /// Share of the leechers that start at a random time within the fluid bound.
    pub late: f64,
    /// Queue of a saturated uplink, bytes: requests of its host wait behind it.
    pub queue: f64,
    pub fault: Option<Fault>,
}

/// Results of a simulation.
pub struct Outcome {
    pub bound: f64,
    pub last: f64,
    pub median: f64,
    pub mean: f64,
    pub unfinished: usize,
    pub seeder_sent: f64,
    pub wasted: f64,
    pub messages: f64,
}
