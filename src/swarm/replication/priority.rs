//! Priority of a chunk that waits for a copy.

/// Number of levels by copy count: chunks with more copies share the last level.
pub(super) const LEVELS: u8 = 4;
/// Number of priorities that have queues.
pub(super) const PRIORITIES: u8 = 5 * LEVELS;

/// Priority of a chunk, the most urgent first: chunks without a copy at the tracker before the others; then
/// chunks with the fewest copies; then chunks that had all their copies once.
///
/// Without a copy at the tracker, a level has two priorities: repair (the chunk had all its copies once) and
/// other chunks. With a copy at the tracker, it has three: repair, chunks that were at a volunteer before, and
/// new chunks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Priority(pub u8);

impl Priority {
    /// It needs no copy.
    pub const NONE: Priority = Priority(255);
    /// No volunteer can take it at present.
    pub const PARKED: Priority = Priority(254);
    /// A copy has failed, and the retry waits for the end of a backoff.
    pub const BACKOFF: Priority = Priority(253);

    /// Whether chunks of this priority wait in queues.
    pub fn is_queue(self) -> bool {
        self.0 < PRIORITIES
    }

    /// Whether chunks of this priority had all their copies once.
    pub fn is_repair(self) -> bool {
        match self.0.checked_sub(2 * LEVELS) {
            None => self.0.is_multiple_of(2),
            Some(rest) => self.is_queue() && rest.is_multiple_of(3),
        }
    }

    /// Whether chunks of this priority have never been at a volunteer.
    pub fn is_new(self) -> bool {
        self.is_queue() && self.0.checked_sub(2 * LEVELS).is_some_and(|rest| rest % 3 == 2)
    }
}

impl Default for Priority {
    fn default() -> Self {
        Priority::NONE
    }
}
