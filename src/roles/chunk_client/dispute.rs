//! Chunks of the folder that other clients contradict while no hash is agreed.

use crate::swarm::Moment;

/// The last report of the tracker on contradicted chunks.
#[derive(Default)]
pub(super) struct Dispute {
    chunks: u32,
    /// Time of the first report with this number of chunks.
    since: Moment,
}

impl Dispute {
    /// Records the reported number of contradicted chunks.
    pub(super) fn reported(&mut self, chunks: u32, now: Moment) {
        if chunks != self.chunks {
            (self.chunks, self.since) = (chunks, now);
        }
    }

    /// Records that the session has ended, or that all chunks are agreed.
    pub(super) fn end(&mut self) {
        self.chunks = 0;
    }

    /// Number of contradicted chunks.
    pub(super) fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Time since which the number of contradicted chunks is unchanged, if there are any.
    pub(super) fn since(&self) -> Option<Moment> {
        (self.chunks > 0).then_some(self.since)
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
        dispute.end();
        assert_eq!(dispute.since(), None);
    }
}
