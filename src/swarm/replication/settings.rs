//! Settings of the replication planner.

use crate::content::limits;
use std::time::Duration;

/// Replication settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Copies of each chunk at volunteers.
    pub replicas: usize,
    /// Copies of each chunk up to which returned copies are kept while there is space.
    pub replicas_max: usize,
    /// Whether only copies on approved volunteers justify deletions; otherwise proven copies on all volunteers do.
    pub approve: bool,
    /// Time after which the copies of a volunteer that is away without announcement are replaced.
    pub repair_after: Duration,
    /// Number of connected volunteers required before new files are distributed.
    pub volunteers_min: usize,
    /// Time within which a volunteer whose connection closed may return before it counts as dead.
    pub lease: Duration,
    /// Delete the tracker's own copy of a file once the volunteers have all copies.
    pub offload: bool,
    /// Rate limit of repair in bytes a second; 0 for none.
    pub repair_limit: u64,
    /// Interval between challenges; `None` for none.
    pub challenge_every: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: limits::REPLICA_COUNT,
            replicas_max: limits::REPLICA_COUNT + limits::RETURNED_REPLICAS_MAX,
            approve: true,
            repair_after: limits::REPAIR_DELAY,
            volunteers_min: limits::VOLUNTEERS_MIN,
            lease: limits::LEASE_TIMEOUT,
            offload: false,
            repair_limit: 0,
            challenge_every: Some(limits::CHALLENGE_INTERVAL),
        }
    }
}
