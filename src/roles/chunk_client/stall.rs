//! Time for which a chunk client has waited without receiving data, for `--timeout`.

use crate::swarm::Moment;
use std::time::Duration;

/// Waiting time, without outages of the tracker: these have a timeout of their own.
#[derive(Default)]
pub(super) struct StallTimer {
    checked_at: Moment,
    waited: Duration,
}

impl StallTimer {
    /// Records data that arrived, or that no chunk is missing.
    pub(super) fn reset(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// Adds the time since the last call if the client was registered, and returns the waiting time.
    pub(super) fn advance(&mut self, now: Moment, is_registered: bool) -> Duration {
        if is_registered {
            self.waited += now.saturating_sub(self.checked_at);
        }
        self.checked_at = now;
        self.waited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_time_counts_only_while_registered_and_since_the_last_arrival() {
        let at = Duration::from_secs;
        let mut stall = StallTimer::default();
        assert_eq!(stall.advance(at(50), false), at(0));
        assert_eq!(stall.advance(at(53), true), at(3));
        assert_eq!(stall.advance(at(60), false), at(3));
        assert_eq!(stall.advance(at(62), true), at(5));
        stall.reset();
        assert_eq!(stall.advance(at(63), true), at(1));
    }
}
