//! Exponential backoff with jitter.

use std::time::Duration;

/// Pauses that double from `first` up to `most`. Each is shortened at random by up to a quarter, so that
/// peers which failed together do not retry together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// A backoff whose pauses range from `first` to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next pause.
    pub fn pause(&mut self, random: &mut fastrand::Rng) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause.mul_f64(1.0 - random.f64() / 4.0)
    }

    /// Call after a success: the next pause is `first` again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit_and_reset_restarts_them() {
        let second = Duration::from_secs(1);
        let mut random = fastrand::Rng::with_seed(7);
        let mut backoff = Backoff::new(second, second * 5);
        for expected in [1, 2, 4, 5, 5] {
            let pause = backoff.pause(&mut random);
            assert!(pause <= second * expected && pause >= second * expected * 3 / 4, "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause(&mut random) <= second);
    }
}
