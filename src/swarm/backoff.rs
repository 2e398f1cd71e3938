//! How long to wait before something is tried again.

use std::time::Duration;

/// Pauses that double from `first` to `most`, each shortened at random by up to a quarter, so that many who
/// failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// The next pause.
    pub fn pause(&mut self, random: &mut fastrand::Rng) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause.mul_f64(1.0 - random.f64() / 4.0)
    }

    /// It worked: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_most_and_start_over() {
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
