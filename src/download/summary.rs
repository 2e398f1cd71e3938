//! Summary of a download: bytes, time, mean rate, sources, bytes that were there before, rejected chunks.
//!
//! Pure.

use crate::content::fmt::{counted, elapsed, size};
use crate::swarm::Moment;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

/// Counts of a download so far.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Bytes of the stored chunks.
    bytes: u64,
    /// Sources of the stored chunks.
    sources: BTreeSet<SocketAddr>,
    /// Chunks with a wrong digest.
    rejected: u64,
    /// Times of the first request and of the last stored chunk.
    began: Option<Moment>,
    ended: Moment,
}

impl Tally {
    /// Counts a request.
    pub fn requested(&mut self, now: Moment) {
        self.began.get_or_insert(now);
    }

    /// Counts a stored chunk.
    pub fn stored(&mut self, now: Moment, from: Option<SocketAddr>, bytes: u64) {
        self.bytes += bytes;
        self.sources.extend(from);
        self.ended = now;
    }

    /// Counts a chunk with a wrong digest.
    pub fn rejected(&mut self) {
        self.rejected += 1;
    }

    /// Whether nothing has been received.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0 && self.rejected == 0
    }

    /// Time from the first request to the last stored chunk.
    fn took(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| self.ended.saturating_sub(began))
    }

    /// The line of the log about the download of `name`, of which `resumed` bytes were there before. Numbers that are 0 are
    /// left out.
    pub fn summary(&self, name: &str, resumed: u64) -> String {
        let mut text = match self.bytes {
            0 => format!("{name}: received no bytes"),
            bytes => {
                let took = self.took();
                let rate = u128::from(bytes) * 1_000 / took.as_millis().max(1);
                let rate = size(u64::try_from(rate).unwrap_or(u64::MAX));
                format!("{name}: received {bytes} bytes in {}, {rate}/s", elapsed(took))
            }
        };
        if !self.sources.is_empty() {
            text += &format!(" from {}", counted(self.sources.len() as u64, "source"));
        }
        if resumed > 0 {
            text += &format!(", {resumed} bytes were there before");
        }
        if self.rejected > 0 {
            text += &format!(", {} rejected", counted(self.rejected, "corrupt chunk"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(port: u16) -> Option<SocketAddr> {
        Some(SocketAddr::from(([10, 0, 0, 1], port)))
    }

    #[test]
    fn a_summary_counts_bytes_time_sources_and_rejected_chunks() {
        let (at, mut tally) = (Duration::from_millis, Tally::default());
        tally.requested(at(1_000));
        tally.stored(at(1_012), None, 7);
        assert_eq!(tally.summary("x.bin", 0), "x.bin: received 7 bytes in 12 ms, 583 B/s");
        tally = Tally::default();
        tally.requested(at(1_000));
        tally.requested(at(1_500));
        tally.stored(at(2_000), source(1), 2 << 20);
        tally.stored(at(3_000), source(1), 1 << 20);
        assert_eq!(
            tally.summary("x.bin", 0),
            "x.bin: received 3145728 bytes in 2.0 s, 1.5 MiB/s from 1 source"
        );
        tally.stored(at(301_000), source(2), 1 << 20);
        tally.rejected();
        assert_eq!(
            tally.summary("x.bin", 7),
            "x.bin: received 4194304 bytes in 5 min, 13.7 KiB/s from 2 sources, 7 bytes were there before, \
             1 corrupt chunk rejected"
        );
    }

    #[test]
    fn a_download_without_missing_chunks_has_no_rate() {
        assert_eq!(Tally::default().summary("x", 0), "x: received no bytes");
        assert_eq!(Tally::default().summary("x", 9), "x: received no bytes, 9 bytes were there before");
    }
}
