//! Send rate of one file during its download. A member that is behind sends at half of its largest rate: on a
//! saturated slow uplink its own requests and acknowledgements would wait in the queue.

use super::super::Moment;
use super::SEND_WINDOW;
use std::time::Duration;

/// The uploads of one file.
#[derive(Debug, Default)]
pub struct SendRate {
    /// Start of the present window, and the bytes sent in it.
    began: Moment,
    bytes: u64,
    /// Largest rate of a window, bytes per second.
    largest: f64,
    is_halved: bool,
    /// When the bytes sent so far have passed at the halved rate.
    due: Moment,
}

impl SendRate {
    /// Sends at half of the largest rate from now on, or again at full rate.
    pub fn set_halved(&mut self, is_halved: bool) {
        self.is_halved = is_halved;
    }

    /// Counts bytes that are about to be sent. Returns the time to wait before.
    pub fn send(&mut self, bytes: u64, now: Moment) -> Duration {
        self.bytes = self.bytes.saturating_add(bytes);
        let elapsed = now.saturating_sub(self.began);
        if elapsed >= SEND_WINDOW {
            self.largest = self.largest.max(self.bytes as f64 / elapsed.as_secs_f64());
            (self.began, self.bytes) = (now, 0);
        }
        if !self.is_halved || self.largest == 0.0 {
            return Duration::ZERO;
        }
        let takes = Duration::try_from_secs_f64(bytes as f64 * 2.0 / self.largest).unwrap_or(SEND_WINDOW);
        let from = self.due.max(now);
        self.due = from + takes.min(SEND_WINDOW);
        from - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halved_rate_is_half_of_the_largest_one() {
        let (mut rate, mut now) = (SendRate::default(), Moment::ZERO);
        let mut send = |rate: &mut SendRate, count: u32| {
            let began = now;
            for _ in 0..count {
                now += Duration::from_millis(10) + rate.send(10_000, now);
            }
            f64::from(count) * 10_000.0 / (now - began).as_secs_f64()
        };
        assert!((990_000.0..1_010_000.0).contains(&send(&mut rate, 200)));
        rate.set_halved(true);
        let halved = send(&mut rate, 200);
        assert!((480_000.0..520_000.0).contains(&halved), "{halved}");
        rate.set_halved(false);
        assert!(send(&mut rate, 200) > 990_000.0);
    }

    #[test]
    fn a_clock_that_stops_and_large_numbers_do_no_harm() {
        let mut rate = SendRate::default();
        rate.set_halved(true);
        (0..9).for_each(|_| assert!(rate.send(u64::MAX, Moment::ZERO).is_zero()));
        assert!(rate.send(u64::MAX, Duration::from_secs(9)).is_zero());
        assert!(rate.send(u64::MAX, Duration::from_secs(9)) <= SEND_WINDOW);
    }
}
