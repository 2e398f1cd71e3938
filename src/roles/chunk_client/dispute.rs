//! Chunks of the folder that other clients contradict while no hash is agreed.

use crate::swarm::Moment;

/// The last report of the tracker on contradicted chunks.
#[derive(Default)]
pub(super) struct Dispute {
    chunks: u32,
    /// Time of the first report with this number of chunks in this session.
    since: Option<Moment>,
}

impl Dispute {
    /// Records the reported number of contradicted chunks.
    pub(super) fn reported(&mut self, chunks: u32, now: Moment) {
        if chunks != self.chunks || self.since.is_none() {
            (self.chunks, self.since) = (chunks, Some(now));
        }
    }

    /// Records that the session has ended. The chunks count as contradicted until the next report.
    pub(super) fn session_lost(&mut self) {
        self.since = None;
    }

    /// Records that all chunks are agreed.
    pub(super) fn end(&mut self) {
        self.chunks = 0;
    }

    /// Number of contradicted chunks.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Time since which the number of contradicted chunks is unchanged, if there are any.
    pub(super) fn since(&self) -> Option<Moment> {
        self.since.filter(|_| self.chunks > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dispute_lasts_from_the_first_report_of_its_number_of_chunks() {
        let at = Duration::from_secs;
        let mut dispute = Dispute::default();
        assert_eq!(dispute.since(), None);
        dispute.reported(2, at(5));
        dispute.reported(2, at(35));
        assert_eq!((dispute.since(), dispute.chunks()), (Some(at(5)), 2));
        dispute.reported(1, at(40));
        assert_eq!(dispute.since(), Some(at(40)));
        dispute.session_lost();
        assert_eq!((dispute.since(), dispute.chunks()), (None, 1), "Ctrl-C reports it");
        dispute.reported(1, at(50));
        assert_eq!(dispute.since(), Some(at(50)));
        dispute.end();
        assert_eq!((dispute.since(), dispute.chunks()), (None, 0));
    }
}
