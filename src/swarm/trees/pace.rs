//! How fast a peer gives a stripe to each of those whom it gives to.
//!
//! With several stripes each link carries several connections, and has nothing to spare. They share it unevenly: as soon
//! as one gets more than its part another gets less, at both ends, and what a link does not carry for that reason it
//! cannot make up for. So nobody is given more than its part of what has been seen to go out, and a little, by which a
//! peer finds out that more can.
//!
//! Invariant: nobody is held to less than the best that all of late were given on average.

use super::super::Moment;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What goes out is counted for so long: longer than a chunk or two take, and short, because what a peer finds out it
/// finds out a little with each count.
const WINDOW: Duration = Duration::from_millis(300);
/// And for so much longer, until there are so many bytes: the fewer pieces there are the more some counts are too high by.
const WINDOW_MAX: Duration = Duration::from_millis(2_400);
const WINDOW_BYTES: f64 = (2 << 20) as f64;
/// The best of so many counts: less goes out when less comes in, and that says nothing of the link.
const WINDOWS: usize = 16;
/// Nobody is held back before so many.
const FIRST: usize = 3;
/// So much more than its part is given to each.
const EASE: f64 = 1.01;

/// Who has not been given its part in time gets so much of it later at once.
const SLACK: Duration = Duration::from_millis(10);

/// What one peer gives to others, named by `C`.
#[derive(Debug)]
pub struct Pace<C> {
    /// When the window began: as the last bytes before it had gone.
    began: Option<Moment>,
    /// What each has been given since.
    given: BTreeMap<C, u64>,
    /// What there was for each in the last windows, bytes a second.
    rates: VecDeque<f64>,
    /// When each will have had its part of what it has been given.
    due: BTreeMap<C, Moment>,
}

impl<C> Default for Pace<C> {
    fn default() -> Self {
        Self { began: None, given: BTreeMap::new(), rates: VecDeque::new(), due: BTreeMap::new() }
    }
}

impl<C: Ord> Pace<C> {
    /// Bytes have gone to somebody.
    pub fn gave(&mut self, taker: C, bytes: u64, now: Moment) {
        // What goes first tells nothing but when it had gone.
        let Some(began) = self.began else {
            self.began = Some(now);
            return;
        };
        let given = self.given.entry(taker).or_default();
        *given = given.saturating_add(bytes);
        let elapsed = now.saturating_sub(began);
        let all: f64 = self.given.values().map(|given| *given as f64).sum();
        if elapsed < WINDOW || all < WINDOW_BYTES && elapsed < WINDOW_MAX {
            return;
        }
        self.rates.push_back(all / elapsed.as_secs_f64() / self.given.len() as f64);
        if self.rates.len() > WINDOWS {
            self.rates.pop_front();
        }
        self.given.clear();
        self.due.retain(|_, due| *due >= began);
        self.began = Some(now);
    }

    /// Somebody is about to be given bytes. Returns how long they are to wait.
    pub fn wait(&mut self, taker: C, bytes: u64, now: Moment) -> Duration {
        let Some(most) = self.most() else { return Duration::ZERO };
        let takes = Duration::try_from_secs_f64(bytes as f64 / most).unwrap_or(WINDOW).min(WINDOW);
        let due = self.due.entry(taker).or_default();
        let from = (*due).max(now.saturating_sub(SLACK));
        *due = from + takes;
        from.saturating_sub(now)
    }

    /// The most that anybody is to be given, bytes a second; `None` while too little is known.
    pub fn most(&self) -> Option<f64> {
        let best = self.rates.iter().copied().reduce(f64::max)?;
        (self.rates.len() >= FIRST).then_some(best * EASE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives so much to each in turn, every ten milliseconds of so many.
    fn give(pace: &mut Pace<u8>, now: &mut Moment, ticks: u32, each: &[u64]) {
        for _ in 0..ticks {
            *now += Duration::from_millis(10);
            (0..).zip(each).for_each(|(taker, bytes)| pace.gave(taker, *bytes, *now));
        }
    }

    #[test]
    fn each_gets_its_part_of_what_goes_out_however_uneven_that_is() {
        let (mut pace, mut now) = (Pace::default(), Moment::ZERO);
        give(&mut pace, &mut now, 80, &[700_000, 300_000]);
        assert_eq!(pace.most(), None, "too little is known");
        give(&mut pace, &mut now, 40, &[700_000, 300_000]);
        let most = pace.most().unwrap();
        assert!((50_000_000.0 * EASE..52_500_000.0).contains(&most), "{most}");
    }

    #[test]
    fn over_a_slow_link_it_is_counted_for_longer() {
        let rate = |piece: u64, pause: u64| {
            let (mut pace, mut now) = (Pace::default(), Moment::ZERO);
            for turn in 0..300 {
                now += Duration::from_millis(pause);
                pace.gave(turn % 2, piece, now);
            }
            let part = piece as f64 / Duration::from_millis(pause).as_secs_f64() / 2.0;
            pace.most().unwrap() / part
        };
        assert!((EASE..1.07).contains(&rate(64 << 10, 55)), "{}", rate(64 << 10, 55));
        assert!((EASE..1.07).contains(&rate(64 << 10, 110)), "{}", rate(64 << 10, 110));
    }

    #[test]
    fn less_for_a_while_changes_nothing_and_less_for_long_does() {
        let (mut pace, mut now) = (Pace::default(), Moment::ZERO);
        give(&mut pace, &mut now, 200, &[500_000, 500_000]);
        let before = pace.most().unwrap();
        give(&mut pace, &mut now, 300, &[100_000, 100_000]);
        assert_eq!(pace.most(), Some(before));
        give(&mut pace, &mut now, 300, &[100_000, 100_000]);
        let after = pace.most().unwrap();
        assert!((9_900_000.0..10_500_000.0).contains(&after), "{after}");
    }

    #[test]
    fn who_has_had_its_part_waits_and_who_has_missed_some_of_it_gets_little_more() {
        let (mut pace, mut now) = (Pace::default(), Moment::ZERO);
        assert_eq!(pace.wait(1, 500_000, now), Duration::ZERO, "too little is known");
        give(&mut pace, &mut now, 200, &[500_000, 500_000]);
        let takes = Duration::from_secs_f64(500_000.0 / pace.most().unwrap());
        let hour = now + Duration::from_secs(3600);
        assert_eq!(pace.wait(1, 500_000, hour), Duration::ZERO);
        assert_eq!(pace.wait(1, 500_000, hour), takes.saturating_sub(SLACK));
        assert_eq!(pace.wait(1, 500_000, hour), (takes * 2).saturating_sub(SLACK));
        assert_eq!(pace.wait(2, 500_000, hour), Duration::ZERO, "each has a part of its own");
        assert!(pace.wait(2, u64::MAX, hour) <= WINDOW && pace.wait(2, 1, hour) <= WINDOW * 2);
    }

    #[test]
    fn a_pause_or_a_clock_that_stands_still_does_no_harm() {
        let mut pace = Pace::default();
        (0..9).for_each(|_| pace.gave(1, u64::MAX, Moment::ZERO));
        assert_eq!(pace.most(), None);
        (1..9).for_each(|hour| pace.gave(1, 9, Duration::from_secs(3600) * hour));
        assert!(pace.most().unwrap().is_finite());
    }
}
