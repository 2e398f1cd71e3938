//! Limit on the log lines that other hosts cause, by source address and kind.
//!
//! Any host can make a daemon write lines: it registers, announces, disconnects. Unlimited, it fills the disk. Invariants: in
//! each interval a source address causes at most [`LINES_PER_INTERVAL_MAX`] lines of a kind; suppressed lines are counted
//! and reported at the end of the interval; the table has at most [`LINE_SOURCES_MAX`] entries, and the addresses above it
//! share one.

use super::Moment;
use super::shares::Source;
use crate::content::limits::{LINE_INTERVAL, LINE_SOURCES_MAX, LINES_PER_INTERVAL_MAX};
use crate::protocol::tracker::TrackerRequest;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

/// Kind of a line by its cause.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum LineKind {
    /// Peers that register.
    Joins,
    /// Peers that leave, and leases that end.
    Departures,
    /// Announced files.
    Files,
    /// Chunk sets.
    Sets,
    /// Downloads from this program.
    Downloads,
    /// Refused requests of this program.
    Refusals,
    /// All other requests.
    Others,
}

impl LineKind {
    /// The kind of the lines that a request causes.
    pub fn of(request: &TrackerRequest) -> Self {
        use TrackerRequest as Ask;
        match request {
            Ask::Register(_) => LineKind::Joins,
            Ask::Goodbye { .. } => LineKind::Departures,
            Ask::Announce { .. }
            | Ask::AnnounceFiles { .. }
            | Ask::Withdraw { .. }
            | Ask::Completed { .. } => LineKind::Files,
            Ask::JoinSet { .. } | Ask::Claim { .. } | Ask::Unclaim { .. } | Ask::WhereChunk { .. } => {
                LineKind::Sets
            }
            _ => LineKind::Others,
        }
    }
}

impl fmt::Display for LineKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            LineKind::Joins => "joining peers",
            LineKind::Departures => "leaving peers",
            LineKind::Files => "announced files",
            LineKind::Sets => "chunk sets",
            LineKind::Downloads => "downloads",
            LineKind::Refusals => "refused requests",
            LineKind::Others => "other requests",
        })
    }
}

/// Lines of one kind and source in the current interval.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Moment,
    lines: u32,
    suppressed: u64,
}

/// Lines that were suppressed in an interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suppressed {
    /// The address that caused them; `None` for several.
    pub source: Option<IpAddr>,
    /// Their kind.
    pub kind: LineKind,
    /// Their number.
    pub lines: u64,
}

impl fmt::Display for Suppressed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = self.source.map_or_else(|| "many addresses".to_owned(), |ip| ip.to_string());
        write!(formatter, "{} further lines about {} of {of} were not logged", self.lines, self.kind)
    }
}

/// The limit.
#[derive(Debug, Default)]
pub struct LineLimit {
    windows: HashMap<(Option<Source>, LineKind), (Option<IpAddr>, Window)>,
}

impl LineLimit {
    /// Whether a line that a source address causes may be written.
    pub fn allow(&mut self, now: Moment, source: IpAddr, kind: LineKind) -> bool {
        let mut key = (Some(Source::of(source)), kind);
        let mut shown = Some(source);
        if self.windows.len() >= LINE_SOURCES_MAX && !self.windows.contains_key(&key) {
            (key, shown) = ((None, kind), None);
        }
        let new = Window { since: now, lines: 0, suppressed: 0 };
        let (_, window) = self.windows.entry(key).or_insert((shown, new));
        if window.lines < LINES_PER_INTERVAL_MAX {
            window.lines += 1;
            return true;
        }
        window.suppressed += 1;
        false
    }

    /// Ends the intervals that are over. Returns the lines that were suppressed in them.
    pub fn end_intervals(&mut self, now: Moment) -> Vec<Suppressed> {
        let mut ended = Vec::new();
        self.windows.retain(|(_, kind), (source, window)| {
            let is_over = now >= window.since + LINE_INTERVAL;
            if is_over && window.suppressed > 0 {
                ended.push(Suppressed { source: *source, kind: *kind, lines: window.suppressed });
            }
            !is_over
        });
        ended.sort_by_key(|one| (one.source, one.kind));
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn ip(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn lines_of_one_address_and_kind_are_limited_in_each_interval_and_counted() {
        let (mut limit, max) = (LineLimit::default(), u64::from(LINES_PER_INTERVAL_MAX));
        let mut allowed =
            |now, source| (0..max + 7).filter(|_| limit.allow(now, source, LineKind::Joins)).count();
        assert_eq!(allowed(Duration::ZERO, ip(1)) as u64, max);
        assert_eq!(allowed(Duration::ZERO, ip(2)) as u64, max, "another address");
        assert!(limit.allow(Duration::ZERO, ip(1), LineKind::Files), "another kind");
        assert_eq!(limit.end_intervals(LINE_INTERVAL - Duration::from_secs(1)), []);
        let suppressed = |number| Suppressed { source: Some(ip(number)), kind: LineKind::Joins, lines: 7 };
        assert_eq!(limit.end_intervals(LINE_INTERVAL), [suppressed(1), suppressed(2)]);
        assert!(limit.allow(LINE_INTERVAL, ip(1), LineKind::Joins));
        assert_eq!(limit.windows.len(), 1);
    }

    #[test]
    fn many_addresses_share_one_limit_and_the_table_stays_small() {
        let mut limit = LineLimit::default();
        let all = LINE_SOURCES_MAX as u32 + LINES_PER_INTERVAL_MAX + 3;
        let allowed = (0..all).filter(|number| limit.allow(Duration::ZERO, ip(*number), LineKind::Joins));
        assert_eq!(allowed.count() as u32, all - 3);
        assert_eq!(limit.windows.len(), LINE_SOURCES_MAX + 1);
        let shared = Suppressed { source: None, kind: LineKind::Joins, lines: 3 };
        assert_eq!(limit.end_intervals(LINE_INTERVAL), [shared]);
    }
}
