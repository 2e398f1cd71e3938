//! Results of the proofs of one volunteer.

use super::chunk::ChunkKey;
use crate::content::limits;
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use std::time::Duration;

/// Time after the first wrong proof for which no copies replace the other copies of the volunteer: its next proof decides
/// whether one chunk is corrupt or its store is lost.
pub(super) const SUSPICION_TIMEOUT: Duration = Duration::from_secs(5);

/// Results of the latest proofs of a volunteer, and the times of the next ones.
#[derive(Debug)]
pub(super) struct Trust {
    /// Number of wrong proofs since the last one that was right.
    wrong: u32,
    /// Its last proof was the first wrong one, and until then no copies replace its other copies.
    suspected_until: Option<Moment>,
    /// Time since which its proofs could not be had.
    doubt_since: Option<Moment>,
    /// Its proofs could not be had for [`limits::PROOF_PATIENCE`].
    unreachable: bool,
    /// No proof is requested earlier.
    pub retry_at: Moment,
    backoff: Backoff,
    /// Number of outstanding proofs.
    pub outstanding: u32,
    /// Time from which its pending proofs no longer wait for the end of its copies in flight.
    pub due_at: Moment,
    /// The chunk whose proof was requested last.
    pub cursor: Option<ChunkKey>,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            wrong: 0,
            suspected_until: None,
            doubt_since: None,
            unreachable: false,
            retry_at: Moment::ZERO,
            backoff: Backoff::new(limits::PROOF_RETRY_MIN, limits::PROOF_RETRY_MAX),
            outstanding: 0,
            due_at: Moment::ZERO,
            cursor: None,
        }
    }
}

impl Trust {
    /// Whether its proofs could not be had for [`limits::PROOF_PATIENCE`].
    pub fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// Whether new copies may go to it: its last proof was right, or it has had none yet.
    pub fn may_take_copies(&self) -> bool {
        self.wrong == 0 && !self.unreachable
    }

    /// Whether its last proof was wrong or could not be had.
    pub fn is_doubtful(&self) -> bool {
        self.wrong > 0 || self.doubt_since.is_some()
    }

    /// Whether its last proof was wrong: none of its copies counts before its next right proof.
    pub fn has_failed(&self) -> bool {
        self.wrong > 0
    }

    /// Whether its next proof decides if its copies are replaced.
    pub fn is_suspected(&self) -> bool {
        self.suspected_until.is_some()
    }

    /// Ends the suspicion if its time is over. Returns whether it has ended.
    pub fn end_suspicion(&mut self, now: Moment) -> bool {
        self.suspected_until.take_if(|until| *until <= now).is_some()
    }

    /// Notes a right proof.
    pub fn pass(&mut self) {
        self.wrong = 0;
        self.suspected_until = None;
        self.doubt_since = None;
        self.unreachable = false;
        self.retry_at = Moment::ZERO;
        self.backoff.reset();
    }

    /// Notes a wrong proof.
    pub fn fail(&mut self, now: Moment, random: &mut fastrand::Rng) {
        self.wrong = self.wrong.saturating_add(1);
        self.doubt_since = None;
        let is_first = self.wrong == 1;
        self.suspected_until = is_first.then_some(now + SUSPICION_TIMEOUT);
        // A proof of another copy is due at once after the first one.
        self.due_at = now;
        self.retry_at = if is_first { now } else { now + self.backoff.pause(random) };
    }

    /// Notes a proof that could not be had for another reason than this volunteer.
    pub fn postpone(&mut self, now: Moment, random: &mut fastrand::Rng) {
        if self.retry_at <= now {
            self.retry_at = now + self.backoff.pause(random);
        }
    }

    /// Notes a proof that could not be had.
    pub fn doubt(&mut self, now: Moment, random: &mut fastrand::Rng) {
        let since = *self.doubt_since.get_or_insert(now);
        // Proofs that were requested together fail together.
        if self.retry_at <= now {
            self.retry_at = now + self.backoff.pause(random);
        }
        self.unreachable |= now.saturating_sub(since) >= limits::PROOF_PATIENCE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_right_proof_ends_all_doubts() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut trust = Trust::default();
        assert!(trust.may_take_copies() && !trust.is_doubtful());
        trust.doubt(Duration::ZERO, &mut random);
        assert!(trust.is_doubtful() && trust.may_take_copies() && trust.retry_at > Duration::ZERO);
        trust.doubt(limits::PROOF_PATIENCE, &mut random);
        assert!(trust.is_unreachable() && !trust.may_take_copies());
        trust.pass();
        trust.fail(Duration::ZERO, &mut random);
        assert!(!trust.is_unreachable() && !trust.may_take_copies() && trust.has_failed());
        assert!(trust.is_suspected() && trust.retry_at == Duration::ZERO);
        assert!(!trust.end_suspicion(Duration::ZERO) && trust.end_suspicion(SUSPICION_TIMEOUT));
        trust.fail(Duration::ZERO, &mut random);
        assert!(trust.has_failed() && !trust.is_suspected() && trust.retry_at > Duration::ZERO);
        trust.pass();
        assert!(trust.may_take_copies() && !trust.has_failed() && trust.retry_at == Duration::ZERO);
    }
}
