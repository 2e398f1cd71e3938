//! How wide a link is, as far as it has shown: the fastest that bytes have moved over it lately.
//!
//! Nobody configures what a link can do, and it cannot be asked for; what has been seen is a lower bound of it. It
//! is forgotten slowly, so that a link that has become narrower is noticed in time.

use super::Moment;
use std::time::Duration;

/// Bytes are counted over spans of at least this: shorter ones would measure the buffers on the way.
const SPAN: Duration = Duration::from_millis(200);
/// After so long half of the best rate that was seen is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(60);

/// Counts bytes and remembers the best rate.
#[derive(Debug, Clone)]
pub struct Meter {
    since: Moment,
    bytes: u64,
    best: f64,
}

impl Meter {
    /// A meter that has seen nothing.
    pub fn new(now: Moment) -> Self {
        Self { since: now, bytes: 0, best: 0.0 }
    }

    /// Bytes have moved.
    pub fn add(&mut self, bytes: u64, now: Moment) {
        self.bytes += bytes;
        let span = now.saturating_sub(self.since);
        if span >= SPAN {
            let rate = self.bytes as f64 / span.as_secs_f64();
            let kept = 0.5f64.powf(span.as_secs_f64() / HALF_LIFE.as_secs_f64());
            self.best = rate.max(self.best * kept);
            (self.since, self.bytes) = (now, 0);
        }
    }

    /// The best rate seen, bytes a second; `None` before anything has been measured.
    pub fn rate(&self) -> Option<f64> {
        (self.best > 0.0).then_some(self.best)
    }

    /// How long so many bytes take at the best rate.
    pub fn time_for(&self, bytes: u64) -> Option<Duration> {
        // At least a byte a second, so that no span is too long to be one.
        self.rate().map(|rate| Duration::from_secs_f64(bytes as f64 / rate.max(1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_rate_counts_and_is_forgotten_slowly() {
        let second = Duration::from_secs(1);
        let mut meter = Meter::new(Duration::ZERO);
        assert_eq!(meter.rate(), None);
        meter.add(500, second / 10);
        assert_eq!(meter.rate(), None, "too short to tell");
        meter.add(500, second);
        assert_eq!(meter.rate(), Some(1_000.0));
        assert_eq!(meter.time_for(500), Some(second / 2));
        meter.add(10, second * 61);
        assert_eq!(meter.rate(), Some(500.0), "a minute later");
        meter.add(4_000, second * 62);
        assert_eq!(meter.rate(), Some(4_000.0));
    }
}
