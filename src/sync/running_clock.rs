//! Clock of the time for which this process has been running.

use std::time::{Duration, Instant};

/// Interval between two readings above which the process counts as stopped. The owner reads the clock more often.
const PAUSE_MIN: Duration = Duration::from_secs(3);

/// Monotonic clock that excludes the times for which this process did not run: SIGSTOP, a suspended machine, a paused
/// virtual machine.
///
/// A pause is detected as an interval of more than 3 s between two readings, so the owner must read the
/// clock at least once per second. A detected pause counts as zero. Jumps of the wall clock have no effect.
#[derive(Debug)]
pub struct RunningClock {
    last: Instant,
    elapsed: Duration,
    paused: Duration,
}

impl Default for RunningClock {
    fn default() -> Self {
        Self::new()
    }
}

impl RunningClock {
    /// A clock that starts at zero.
    pub fn new() -> Self {
        Self { last: Instant::now(), elapsed: Duration::ZERO, paused: Duration::ZERO }
    }

    /// Time since the start, without pauses.
    pub fn now(&mut self) -> Duration {
        self.advance(Instant::now())
    }

    /// The pauses that were detected since the last call of this function, in total.
    pub fn take_paused(&mut self) -> Duration {
        std::mem::take(&mut self.paused)
    }

    /// Counts an interval that [`now`](Self::now) took for a pause.
    pub fn add(&mut self, interval: Duration) {
        self.elapsed += interval;
    }

    fn advance(&mut self, now: Instant) -> Duration {
        let step = now.saturating_duration_since(self.last);
        self.last = self.last.max(now);
        match step > PAUSE_MIN {
            true => self.paused += step,
            false => self.elapsed += step,
        }
        self.elapsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_does_not_count() {
        let mut clock = RunningClock::new();
        let start = clock.last;
        let second = Duration::from_secs(1);
        assert_eq!(clock.advance(start + second), second);
        assert_eq!(clock.advance(start + 100 * second), second);
        assert_eq!(clock.take_paused(), 99 * second);
        assert_eq!(clock.advance(start + 101 * second), 2 * second);
        assert_eq!(clock.take_paused(), Duration::ZERO);
    }
}
