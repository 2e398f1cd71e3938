//! Limits on reports of corrupt chunks: each accepted report costs the hash of one chunk.
//!
//! Invariants: however many reports arrive, at most [`REPORTED_CHUNK_RATE_MAX`] bytes are hashed per second on
//! average; an address is heard once in [`CORRUPT_REPORT_INTERVAL`]; the table of addresses has a fixed size.

use crate::content::limits::{CORRUPT_REPORT_INTERVAL, CORRUPT_REPORTERS_MAX, REPORTED_CHUNK_RATE_MAX};
use crate::swarm::Moment;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// Smallest cost of a check, bytes: a small chunk costs an open and a read, too.
const COST_BYTES_MIN: u64 = 256 * 1024;

/// Recent reports of corrupt chunks.
#[derive(Default)]
pub(super) struct CorruptReports {
    /// Time from which the next report is accepted.
    next: Moment,
    /// Time of the last accepted report of each address.
    reporters: HashMap<IpAddr, Moment>,
}

impl CorruptReports {
    /// Whether to hash a chunk of `length` bytes that this address reports.
    pub(super) fn accept(&mut self, from: IpAddr, length: u64, now: Moment) -> bool {
        let is_recent = |at: &Moment| now.saturating_sub(*at) < CORRUPT_REPORT_INTERVAL;
        if now < self.next || self.reporters.get(&from).is_some_and(is_recent) {
            return false;
        }
        if self.reporters.len() >= CORRUPT_REPORTERS_MAX {
            self.reporters.retain(|_, at| is_recent(at));
        }
        if self.reporters.len() >= CORRUPT_REPORTERS_MAX {
            return false;
        }
        self.reporters.insert(from, now);
        let cost = length.max(COST_BYTES_MIN) as f64 / f64::from(REPORTED_CHUNK_RATE_MAX);
        self.next = now + Duration::from_secs_f64(cost);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn an_address_is_heard_once_per_interval() {
        let mut reports = CorruptReports::default();
        let mut now = Duration::from_secs(100);
        assert!(reports.accept(address(1), 1, now));
        now += CORRUPT_REPORT_INTERVAL - Duration::from_millis(1);
        assert!(!reports.accept(address(1), 1, now) && reports.accept(address(2), 1, now));
        now += Duration::from_millis(500);
        assert!(reports.accept(address(1), 1, now));
    }

    #[test]
    fn many_addresses_cannot_exceed_the_rate_or_the_table() {
        let mut reports = CorruptReports::default();
        let (mut hashed, mut addresses) = (0, 0..);
        let seconds = 60;
        for millisecond in 0..seconds * 1_000 {
            for address in addresses.by_ref().take(50).map(address) {
                let accepted = reports.accept(address, 64 * 1024 * 1024, Duration::from_millis(millisecond));
                hashed += if accepted { 64 * 1024 * 1024 } else { 0 };
            }
        }
        // The first check precedes its pause.
        let limit = u64::from(REPORTED_CHUNK_RATE_MAX) * seconds + 64 * 1024 * 1024;
        assert!((1..=limit).contains(&hashed), "{hashed}");
        let mut reports = CorruptReports::default();
        (0..1_000_000)
            .for_each(|number| _ = reports.accept(address(number), 0, Duration::from_micros(number.into())));
        assert!(reports.reporters.len() <= CORRUPT_REPORTERS_MAX);
    }
}
