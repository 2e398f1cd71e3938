//! Priority of a chunk that waits for a copy.

/// Copies up to which chunks are told apart by how many they have.
pub(super) const LEVELS: u8 = 4;
/// How many buckets there are.
pub(super) const BUCKETS: u8 = 5 * LEVELS;

/// Where a chunk waits, the most urgent first: those of which the tracker has no copy, then the others; among those the
/// ones with the fewest copies; among those the ones that had all their copies once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Bucket(pub u8);

impl Bucket {
    /// It waits for nothing.
    pub const NONE: Bucket = Bucket(255);
    /// No volunteer could take it, as things are.
    pub const PARKED: Bucket = Bucket(254);
    /// A copy has failed, and the next try has to wait a little.
    pub const RESTING: Bucket = Bucket(253);

    /// Whether it is one that chunks wait in.
    pub fn is_queue(self) -> bool {
        self.0 < BUCKETS
    }

    /// Whether what waits in it had all its copies once.
    pub fn is_repair(self) -> bool {
        match self.0.checked_sub(2 * LEVELS) {
            None => self.0.is_multiple_of(2),
            Some(rest) => self.is_queue() && rest.is_multiple_of(3),
        }
    }

    /// Whether what waits in it has never been at a volunteer.
    pub fn is_first(self) -> bool {
        self.is_queue() && self.0.checked_sub(2 * LEVELS).is_some_and(|rest| rest % 3 == 2)
    }
}
