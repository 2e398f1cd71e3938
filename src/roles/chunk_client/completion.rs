//! Decision whether a client with `exit_when_complete` may exit.

use crate::swarm::Moment;
use std::time::Duration;

/// A complete client stays until all members are complete, or until it has served no chunk for this time.
const LINGER_TIMEOUT: Duration = Duration::from_secs(10);

/// Completeness of the folder and of the other members of the set.
#[derive(Default)]
pub(super) struct Completion {
    folder_complete: bool,
    /// The tracker has reported that all members are complete.
    members_complete: bool,
    /// Number of chunks served so far, and the time at which it last grew.
    served: u64,
    last_served: Moment,
}

impl Completion {
    /// Records that the folder is complete. Returns `false` if that was known.
    pub(super) fn folder_completed(&mut self, now: Moment) -> bool {
        if self.folder_complete {
            return false;
        }
        self.folder_complete = true;
        self.last_served = now;
        true
    }

    /// Whether the folder is complete.
    pub(super) fn is_folder_complete(&self) -> bool {
        self.folder_complete
    }

    /// Records that the tracker has reported all members as complete.
    pub(super) fn members_completed(&mut self) {
        self.members_complete = true;
    }

    /// Records that a chunk was lost and is downloaded again.
    pub(super) fn chunk_lost(&mut self) {
        self.folder_complete = false;
        self.members_complete = false;
    }

    /// Whether the client may exit. `served` is the number of chunks served so far.
    pub(super) fn may_exit(&mut self, served: u64, now: Moment) -> bool {
        if served != self.served {
            (self.served, self.last_served) = (served, now);
        }
        let idle = now.saturating_sub(self.last_served) >= LINGER_TIMEOUT;
        self.folder_complete && (self.members_complete || idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_client_stays_until_members_are_complete_or_it_serves_no_chunks() {
        let at = Duration::from_secs;
        let mut completion = Completion::default();
        assert!(!completion.may_exit(0, at(99)), "the folder is incomplete");
        assert!(completion.folder_completed(at(99)) && !completion.folder_completed(at(99)));
        assert!(!completion.may_exit(0, at(108)));
        assert!(!completion.may_exit(1, at(109)), "a chunk was served");
        assert!(completion.may_exit(1, at(119)));
        completion.chunk_lost();
        assert!(!completion.may_exit(1, at(199)));
        completion.folder_completed(at(199));
        completion.members_completed();
        assert!(completion.may_exit(2, at(199)));
    }
}
