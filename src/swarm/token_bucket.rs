//! Rate limit: a token bucket in bytes.

use super::Moment;
use std::time::Duration;

/// Allows `rate` bytes a second on average, with bursts of 100 ms worth of data, at least 64 KiB.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: f64,
    depth: f64,
    level: f64,
    filled: Moment,
}

impl TokenBucket {
    /// A full bucket. `rate` is in bytes a second; 0 counts as 1.
    pub fn new(rate: u64, now: Moment) -> Self {
        let rate = rate.max(1) as f64;
        let depth = (rate / 10.0).max(65_536.0);
        Self { rate, depth, level: depth, filled: now }
    }

    /// Takes `bytes` and returns the wait before they may be sent. The level may become negative: the caller
    /// keeps its turn and the average rate holds for any amount.
    pub fn take(&mut self, bytes: u64, now: Moment) -> Duration {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.level = (self.level + passed * self.rate).min(self.depth) - bytes as f64;
        Duration::from_secs_f64((-self.level / self.rate).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_rate_is_kept() {
        let mut now = Duration::ZERO;
        let mut bucket = TokenBucket::new(1_000_000, now);
        for _ in 0..100 {
            now += bucket.take(100_000, now);
        }
        let seconds = now.as_secs_f64();
        assert!((9.85..=10.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn an_idle_bucket_allows_only_one_burst() {
        let mut bucket = TokenBucket::new(1_000_000, Duration::ZERO);
        let hour = Duration::from_secs(3600);
        assert_eq!(bucket.take(100_000, hour), Duration::ZERO);
        assert_eq!(bucket.take(100_000, hour), Duration::from_millis(100));
    }

    #[test]
    fn a_clock_that_stops_or_goes_backwards_is_harmless() {
        let mut bucket = TokenBucket::new(1, Duration::from_secs(9));
        assert!(bucket.take(65_537, Duration::ZERO) <= Duration::from_secs(1));
    }
}
