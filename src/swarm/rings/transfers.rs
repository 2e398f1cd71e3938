//! Transfers of one file from a root: at most [`TRANSFERS_MAX`] at the same time, in the order of the requests.
//!
//! Many slow transfers in parallel would each arrive late. Invariant: a transfer never waits for one that takes longer
//! than [`SLOW_TRANSFER_FACTOR`] times the mean.

use super::super::Moment;
use super::{SLOW_TRANSFER_FACTOR, TRANSFER_TIMEOUT, TRANSFERS_MAX};
use std::collections::VecDeque;
use std::time::Duration;

/// The transfers of one file.
#[derive(Debug, Default)]
pub struct Transfers {
    /// Numbers of the waiting transfers, the first one first.
    waiting: VecDeque<u64>,
    /// Numbers and starts of the active ones.
    active: Vec<(u64, Moment)>,
    /// Moving average of the time of a transfer.
    mean: Option<Duration>,
    last: u64,
}

impl Transfers {
    /// Queues a transfer. Returns its number.
    pub fn enqueue(&mut self) -> u64 {
        self.last += 1;
        self.waiting.push_back(self.last);
        self.last
    }

    /// Begins a waiting transfer if it is the first one and may begin now. If not, returns the longest time after
    /// which to try again, unless another transfer ends earlier.
    pub fn try_begin(&mut self, number: u64, now: Moment) -> Result<(), Duration> {
        let limit = self.mean.map_or(TRANSFER_TIMEOUT, |mean| mean * SLOW_TRANSFER_FACTOR);
        let counted = self.active.iter().map(|(_, since)| (*since + limit).saturating_sub(now));
        let counted: Vec<Duration> = counted.filter(|left| !left.is_zero()).collect();
        if counted.len() >= TRANSFERS_MAX {
            return Err(counted.into_iter().min().unwrap_or(limit));
        }
        if self.waiting.front() != Some(&number) {
            return Err(limit);
        }
        self.waiting.pop_front();
        self.active.push((number, now));
        Ok(())
    }

    /// Ends a transfer, or removes it from the queue.
    pub fn end(&mut self, number: u64, now: Moment) {
        self.waiting.retain(|other| *other != number);
        if let Some(at) = self.active.iter().position(|(other, _)| *other == number) {
            let took = now.saturating_sub(self.active.swap_remove(at).1);
            self.mean = Some(self.mean.map_or(took, |mean| (mean * 7 + took) / 8));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_begin_in_order_and_slow_ones_do_not_count() {
        let (mut transfers, ms) = (Transfers::default(), Duration::from_millis);
        let numbers: Vec<u64> = (0..TRANSFERS_MAX + 2).map(|_| transfers.enqueue()).collect();
        assert!(transfers.try_begin(numbers[1], ms(0)).is_err(), "it is not the first");
        for number in &numbers[..TRANSFERS_MAX] {
            assert_eq!(transfers.try_begin(*number, ms(0)), Ok(()));
        }
        let [next, last] = numbers[TRANSFERS_MAX..] else { unreachable!() };
        assert_eq!(transfers.try_begin(next, ms(10)), Err(TRANSFER_TIMEOUT - ms(10)));
        transfers.end(numbers[0], ms(100));
        assert_eq!(transfers.try_begin(last, ms(100)), Err(ms(200)), "the other one came first");
        assert_eq!(transfers.try_begin(next, ms(100)), Ok(()));
        assert_eq!(transfers.try_begin(last, ms(150)), Err(ms(50)));
        assert_eq!(transfers.try_begin(last, ms(200)), Ok(()), "seven took longer than twice the mean");
        numbers.iter().for_each(|number| transfers.end(*number, ms(300)));
        assert!(transfers.active.is_empty() && transfers.waiting.is_empty());
    }
}
