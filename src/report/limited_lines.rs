//! Log lines that other hosts cause, limited by source address and kind ([`LineLimit`]).

use crate::swarm::Moment;
use crate::swarm::line_limit::{LineKind, LineLimit};
use crate::sync::lock;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Instant;

/// Limited log lines of one part of a program. The number of suppressed lines is logged with the next line after the
/// interval, and on drop.
pub struct LimitedLines {
    started: Instant,
    limit: Mutex<LineLimit>,
}

impl Default for LimitedLines {
    fn default() -> Self {
        Self { started: Instant::now(), limit: Mutex::default() }
    }
}

impl LimitedLines {
    /// Logs a line at level info that a source address causes, or counts it.
    pub fn info<T: Display>(&self, source: IpAddr, kind: LineKind, text: impl FnOnce() -> T) {
        if self.allows(self.started.elapsed(), source, kind) {
            log::info!("{}", text());
        }
    }

    fn allows(&self, now: Moment, source: IpAddr, kind: LineKind) -> bool {
        self.end_intervals(now);
        lock(&self.limit).allow(now, source, kind)
    }

    fn end_intervals(&self, now: Moment) {
        let ended = lock(&self.limit).end_intervals(now);
        ended.iter().for_each(|suppressed| log::warn!("{suppressed}"));
    }
}

impl Drop for LimitedLines {
    fn drop(&mut self) {
        self.end_intervals(Moment::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::limits::{LINE_INTERVAL, LINES_PER_INTERVAL_MAX};

    #[test]
    fn lines_above_the_limit_of_an_address_are_not_logged_until_the_interval_ends() {
        let (lines, source) = (LimitedLines::default(), IpAddr::from([10, 0, 0, 1]));
        let allowed = |now| lines.allows(now, source, LineKind::Downloads);
        let count = (0..=LINES_PER_INTERVAL_MAX).filter(|_| allowed(Moment::ZERO)).count();
        assert_eq!(count as u32, LINES_PER_INTERVAL_MAX);
        assert!(allowed(LINE_INTERVAL));
    }
}
