//! Super-seeding: a root with a complete file sends each member different chunks that it has not sent yet.
//!
//! A second upload of a chunk costs the swarm one chunk time while other chunks have not been uploaded at all. Members
//! cannot see the requests of other members, but the root can. So a member requests *some* chunk, and the root chooses
//! one that has not been sent, until each chunk has been sent once (or is known to be elsewhere: other roots send, too).
//!
//! Invariant: a chunk counts as sent if it was sent to a member that is still connected, or if two peers have it; the
//! claim of one peer alone does not mark a chunk as sent.

use crate::content::{Bitfield, ChunkIndex};
use std::collections::HashSet;

/// How far a chunk is known to have spread, among members identified by `C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spread<C> {
    Unsent,
    /// Not sent, but this member claims to have it.
    Claimed(C),
    /// Sent to this member, and known of no other.
    Sent(C),
    /// Known of two members, or of one that has been sent it and another one.
    Replicated,
}

impl<C> Spread<C> {
    fn is_unsent(&self) -> bool {
        matches!(self, Spread::Unsent | Spread::Claimed(_))
    }
}

/// Tracks which chunks this root has sent.
#[derive(Debug)]
pub struct SuperSeeder<C> {
    spread: Vec<Spread<C>>,
    /// Chunks in random order, the next one last: all that are unsent, and some that have been sent meanwhile.
    queue: Vec<ChunkIndex>,
    unsent: usize,
}

impl<C: Copy + Ord> SuperSeeder<C> {
    /// Starts with all `count` chunks unsent.
    pub fn new(count: u32, random: &mut fastrand::Rng) -> Self {
        let mut queue: Vec<ChunkIndex> = (0..count).map(ChunkIndex).collect();
        random.shuffle(&mut queue);
        Self { spread: vec![Spread::Unsent; count as usize], unsent: queue.len(), queue }
    }

    /// Whether each chunk has been sent.
    pub fn is_spent(&self) -> bool {
        self.unsent == 0
    }

    /// Chooses an unsent chunk that is not in `has`, and marks it as sent to a member. A chunk that another member
    /// claims to have is chosen last. `None` if there is none.
    pub fn next(&mut self, member: C, has: &Bitfield) -> Option<ChunkIndex> {
        if self.queue.len() > 2 * self.unsent {
            self.queue.retain(|index| self.spread[index.at()].is_unsent());
        }
        let lacks = |index: &&ChunkIndex| self.spread[index.at()].is_unsent() && !has.has(**index);
        let is_unclaimed = |index: &&ChunkIndex| lacks(index) && self.spread[index.at()] == Spread::Unsent;
        let mut queue = self.queue.iter().rev();
        let index = queue.find(is_unclaimed).or_else(|| self.queue.iter().rev().find(lacks)).copied()?;
        self.sent(member, index);
        Some(index)
    }

    /// Marks a chunk as sent to a member.
    pub fn sent(&mut self, member: C, index: ChunkIndex) {
        let spread = match self.spread.get(index.at()) {
            Some(Spread::Claimed(other) | Spread::Sent(other)) if *other != member => Spread::Replicated,
            Some(Spread::Replicated) | None => return,
            Some(_) => Spread::Sent(member),
        };
        self.set(index, spread);
    }

    /// Notes the claim of a member that it has a chunk, or receives it from another peer.
    pub fn claimed(&mut self, member: C, index: ChunkIndex) {
        match self.spread.get(index.at()) {
            Some(Spread::Unsent) => self.set(index, Spread::Claimed(member)),
            Some(Spread::Claimed(other) | Spread::Sent(other)) if *other != member => {
                self.set(index, Spread::Replicated);
            }
            _ => {}
        }
    }

    /// Removes a member. Chunks that only it has are unsent again.
    pub fn leave(&mut self, member: C) {
        let queued: HashSet<ChunkIndex> = self.queue.iter().copied().collect();
        for index in (0..self.spread.len() as u32).map(ChunkIndex) {
            match self.spread[index.at()] {
                Spread::Claimed(other) if other == member => self.set(index, Spread::Unsent),
                Spread::Sent(other) if other == member => {
                    self.set(index, Spread::Unsent);
                    if !queued.contains(&index) {
                        self.queue.push(index);
                    }
                }
                _ => {}
            }
        }
    }

    fn set(&mut self, index: ChunkIndex, spread: Spread<C>) {
        let before = std::mem::replace(&mut self.spread[index.at()], spread);
        self.unsent += usize::from(spread.is_unsent());
        self.unsent -= usize::from(before.is_unsent());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn having(chunks: &[u32]) -> Bitfield {
        let mut have = Bitfield::none(9);
        chunks.iter().for_each(|index| _ = have.insert(ChunkIndex(*index)));
        have
    }

    fn seeder() -> SuperSeeder<u32> {
        SuperSeeder::new(9, &mut fastrand::Rng::with_seed(3))
    }

    #[test]
    fn each_chunk_is_chosen_once_and_claimed_ones_last() {
        let mut seeder = seeder();
        seeder.claimed(1, ChunkIndex(4));
        seeder.sent(1, ChunkIndex(5));
        let chosen = |seeder: &mut SuperSeeder<u32>, member, has: &[u32]| {
            std::iter::from_fn(|| seeder.next(member, &having(has))).map(|index| index.0).collect::<Vec<_>>()
        };
        let mut first = chosen(&mut seeder, 1, &[4, 0]);
        first.sort_unstable();
        assert_eq!(first, [1, 2, 3, 6, 7, 8]);
        assert!(!seeder.is_spent());
        assert_eq!(chosen(&mut seeder, 2, &[]), [0, 4]);
        assert!(seeder.is_spent());
    }

    #[test]
    fn a_chunk_of_a_member_that_leaves_is_sent_again_unless_another_member_has_it() {
        let mut seeder = seeder();
        while seeder.next(1, &having(&[])).is_some() {}
        seeder.claimed(1, ChunkIndex(0));
        seeder.claimed(2, ChunkIndex(3));
        seeder.leave(1);
        assert!(!seeder.is_spent());
        seeder.claimed(2, ChunkIndex(4));
        assert_eq!(seeder.unsent, 8, "one claim alone does not count");
        seeder.claimed(3, ChunkIndex(4));
        assert_eq!(seeder.unsent, 7);
        seeder.claimed(3, ChunkIndex(99));
        seeder.sent(3, ChunkIndex(99));
    }

    proptest! {
        #[test]
        fn unsent_chunks_are_counted_and_can_be_chosen(steps in prop::collection::vec((0u8..4, 0u32..3, 0u32..9), 0..80)) {
            let mut seeder = seeder();
            for (kind, member, index) in steps {
                match kind {
                    0 => _ = seeder.next(member, &having(&[index])),
                    1 => seeder.sent(member, ChunkIndex(index)),
                    2 => seeder.claimed(member, ChunkIndex(index)),
                    _ => seeder.leave(member),
                }
                let unsent = seeder.spread.iter().filter(|spread| spread.is_unsent()).count();
                prop_assert_eq!(unsent, seeder.unsent);
            }
            let mut left = seeder.unsent;
            while seeder.next(7, &having(&[])).is_some() {
                left -= 1;
            }
            prop_assert!(left == 0 && seeder.is_spent());
        }
    }
}
