//! Warning that other hosts can cause again and again: logged once in each [`LINE_INTERVAL`], and counted in between.

use crate::content::limits::LINE_INTERVAL;
use crate::sync::lock;
use std::fmt::Display;
use std::sync::Mutex;
use std::time::Instant;

/// A kind of warning.
#[derive(Default)]
pub(super) struct RepeatedWarning(Mutex<Log>);

#[derive(Default)]
struct Log {
    last: Option<Instant>,
    suppressed: u64,
}

impl Log {
    /// The number of warnings that were suppressed, if a line may be logged now.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < LINE_INTERVAL) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl RepeatedWarning {
    /// Logs the text, or counts it.
    pub fn log<T: Display>(&self, text: impl FnOnce() -> T) {
        let suppressed = lock(&self.0).take(Instant::now());
        match suppressed {
            None => {}
            Some(0) => log::warn!("{}", text()),
            Some(more) => log::warn!("{} ({more} further times since the last line)", text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_is_logged_in_each_interval_and_the_others_are_counted() {
        let (mut log, start) = (Log::default(), Instant::now());
        assert_eq!([0, 1, 2].map(|_| log.take(start)), [Some(0), None, None]);
        assert_eq!(log.take(start + LINE_INTERVAL), Some(2));
        assert_eq!(log.take(start + LINE_INTERVAL * 2), Some(0));
    }
}
