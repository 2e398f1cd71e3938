//! One download as a member of the rings of a root: its root, its predecessors, and its extra sources.
//!
//! Invariants: a predecessor is kept until its replacement has delivered a chunk, and until it is lost if another root
//! named the replacement; a member keeps its root as long as its connection lasts; there are at most
//! [`EXTRA_SOURCES_MAX`] extra sources.

use super::super::Moment;
use super::{BEHIND_CHUNKS, BOOST_MAX, EXTRA_SOURCES_MAX, RINGS, ROOT_CHOICE_TIMEOUT, UNFORWARDED_MAX};
use crate::content::ChunkIndex;
use std::collections::{BTreeMap, BTreeSet};

/// What a member changes after a look at its standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adjustment {
    /// Connect to a random known peer.
    AddSource,
    /// Disconnect from the slowest extra source.
    RemoveSource,
}

/// The predecessor of a member in one ring.
#[derive(Debug, Clone, Copy)]
struct Place<A> {
    current: Option<A>,
    /// The predecessor that the root named last; it replaces the current one when it has delivered a chunk.
    named: Option<A>,
}

/// The view of one download. Peers are identified by `A`.
#[derive(Debug)]
pub struct Member<A> {
    /// When the first connection was begun.
    began: Option<Moment>,
    /// Connected roots, each with the number of its members when it answered.
    roots: BTreeMap<A, u32>,
    root: Option<A>,
    /// Whether an earlier root was lost. Then predecessors are replaced only when they are lost.
    has_lost_root: bool,
    places: [Place<A>; RINGS],
    extras: BTreeSet<A>,
    is_behind: bool,
    /// Further requests in flight to each source.
    boost: usize,
    /// Super-seeded chunks that no successor has requested.
    unforwarded: BTreeSet<ChunkIndex>,
    /// Whether the successors request nothing, so that unforwarded chunks do not count.
    is_ignored: bool,
}

impl<A> Default for Member<A> {
    fn default() -> Self {
        Self {
            began: None,
            roots: BTreeMap::new(),
            root: None,
            has_lost_root: false,
            places: std::array::from_fn(|_| Place { current: None, named: None }),
            extras: BTreeSet::new(),
            is_behind: false,
            boost: 0,
            unforwarded: BTreeSet::new(),
            is_ignored: false,
        }
    }
}

impl<A: Copy + Ord> Member<A> {
    /// Notes that a connection has been begun.
    pub fn begin(&mut self, now: Moment) {
        self.began.get_or_insert(now);
    }

    /// Adds a connected root that has `members` members.
    pub fn add_root(&mut self, root: A, members: u32) {
        self.roots.insert(root, members);
    }

    /// Chooses a root to join, unless there is one: the root with the most members, the lowest address among equals.
    /// While complete peers are being connected to (`awaits_more`), only 250 ms after the first connection.
    pub fn choose_root(&mut self, awaits_more: bool, now: Moment) -> Option<A> {
        let waits = awaits_more && self.began.is_some_and(|began| now < began + ROOT_CHOICE_TIMEOUT);
        if waits || self.root.is_some() {
            return None;
        }
        let most = self.roots.iter().max_by_key(|(root, members)| (**members, std::cmp::Reverse(**root)));
        self.root = most.map(|(root, _)| *root);
        self.root
    }

    /// The root that this member has joined.
    pub fn root(&self) -> Option<A> {
        self.root
    }

    /// Processes a placement. Returns whether it is from the root of this member.
    pub fn place(&mut self, root: A, ring: usize, predecessor: A) -> bool {
        let Some(place) = self.places.get_mut(ring).filter(|_| self.root == Some(root)) else { return false };
        place.named = Some(predecessor);
        place.current.get_or_insert(predecessor);
        true
    }

    /// Notes that a source has delivered a chunk: it replaces the predecessor before it.
    pub fn delivered(&mut self, source: A) {
        let replaced = self.places.iter_mut().filter(|place| place.named == Some(source));
        let has_lost_root = self.has_lost_root;
        replaced.filter(|_| !has_lost_root).for_each(|place| place.current = Some(source));
    }

    /// Notes that the connection to a peer has ended, or could not be made.
    pub fn lost(&mut self, peer: A) {
        self.roots.remove(&peer);
        self.extras.remove(&peer);
        if self.root == Some(peer) {
            (self.root, self.has_lost_root) = (None, true);
        }
        for place in &mut self.places {
            place.named = place.named.filter(|named| *named != peer);
            place.current = place.current.filter(|current| *current != peer).or(place.named);
        }
    }

    /// The rings in which a peer is a predecessor, or has been named as one: a bit for each.
    pub fn rings_of(&self, peer: A) -> u8 {
        let is_in = |place: &Place<A>| place.current == Some(peer) || place.named == Some(peer);
        (0..).zip(&self.places).filter(|(_, place)| is_in(place)).fold(0, |mask, (ring, _)| mask | 1 << ring)
    }

    /// All predecessors to connect to: the current ones and the named ones that shall replace them.
    pub fn predecessors(&self) -> BTreeSet<A> {
        let named = |place: &Place<A>| place.named.filter(|_| !self.has_lost_root);
        self.places.iter().flat_map(|place| [place.current, named(place)]).flatten().collect()
    }

    /// Whether this member has a predecessor. Without one it is alone, and requests the chunks of its own choice.
    pub fn is_placed(&self) -> bool {
        self.places.iter().any(|place| place.current.is_some())
    }

    /// Whether a source is one of the extra ones.
    pub fn is_extra(&self, peer: A) -> bool {
        self.extras.contains(&peer)
    }

    /// Adds an extra source, which is being connected to.
    pub fn add_extra(&mut self, peer: A) {
        self.extras.insert(peer);
    }

    /// Decides about the sources from the standing of this member: the number of chunks that it has received less than
    /// its median partial source gained; `None` without one. To be called every
    /// [`STANDING_INTERVAL`](super::STANDING_INTERVAL).
    pub fn adjust(&mut self, deficit: Option<i64>) -> Option<Adjustment> {
        let deficit = deficit.unwrap_or_default();
        self.is_behind = deficit > BEHIND_CHUNKS;
        if self.is_behind {
            self.boost = (self.boost + 1).min(BOOST_MAX);
            return (self.extras.len() < EXTRA_SOURCES_MAX).then_some(Adjustment::AddSource);
        }
        if deficit > 0 {
            return None;
        }
        self.boost = self.boost.saturating_sub(1);
        (!self.extras.is_empty()).then_some(Adjustment::RemoveSource)
    }

    /// Whether this member has received less than its sources gained, so that it should send at half of its rate.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Further requests in flight to each source.
    pub fn boost(&self) -> usize {
        self.boost
    }

    /// Notes that a seeder sends a chunk of its choice.
    pub fn is_given(&mut self, index: ChunkIndex) {
        self.unforwarded.insert(index);
    }

    /// Notes that a successor has requested a chunk.
    pub fn forwarded(&mut self, index: ChunkIndex) {
        self.unforwarded.remove(&index);
        self.is_ignored = false;
    }

    /// Notes that the download has stalled: the successors may request nothing.
    pub fn stalled(&mut self) {
        self.is_ignored = true;
    }

    /// Whether this member may request another super-seeded chunk beside `outstanding` requests. `is_limited`: whether any
    /// peer awaits its chunks, and it could download from such peers as well. A member that is ahead of all others must not
    /// wait for them: they request older chunks first.
    pub fn wants_next(&self, outstanding: usize, is_limited: bool) -> bool {
        let counts = is_limited && !self.is_ignored;
        !counts || self.unforwarded.len() + outstanding < UNFORWARDED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: Moment = Duration::ZERO;

    #[test]
    fn the_root_with_most_members_is_joined_when_all_have_answered_or_after_a_while() {
        let mut member = Member::default();
        member.begin(NOW);
        assert_eq!(member.choose_root(false, NOW), None);
        [(3, 1), (1, 5), (2, 5)].into_iter().for_each(|(root, members)| member.add_root(root, members));
        assert_eq!(member.choose_root(true, ROOT_CHOICE_TIMEOUT / 2), None);
        assert_eq!(member.choose_root(true, ROOT_CHOICE_TIMEOUT), Some(1));
        assert_eq!(member.choose_root(false, ROOT_CHOICE_TIMEOUT), None, "it has one");
        member.lost(2);
        assert_eq!(member.root(), Some(1));
        member.lost(1);
        assert_eq!(member.choose_root(false, ROOT_CHOICE_TIMEOUT), Some(3));
    }

    /// A member of root 0 with predecessor 10 in ring 0.
    fn placed() -> Member<u32> {
        let mut member = Member::default();
        member.add_root(0, 1);
        member.choose_root(false, NOW);
        assert!(!member.place(9, 0, 7) && !member.place(0, RINGS, 7), "another peer, and no ring");
        assert!(member.place(0, 0, 10));
        member
    }

    #[test]
    fn a_predecessor_is_kept_until_its_replacement_delivers() {
        assert!(!Member::<u32>::default().is_placed() && placed().is_placed());
        let mut member = placed();
        member.place(0, 0, 11);
        assert_eq!(member.predecessors(), [10, 11].into());
        member.delivered(12);
        assert_eq!((member.rings_of(10), member.rings_of(11), member.rings_of(12)), (1, 1, 0));
        member.delivered(11);
        assert_eq!(member.predecessors(), [11].into());
        member.place(0, 0, 12);
        member.lost(12);
        assert_eq!(member.predecessors(), [11].into(), "the replacement cannot be reached");
        member.place(0, 0, 12);
        member.lost(11);
        assert_eq!(member.predecessors(), [12].into(), "the replaced one is lost first");
    }

    #[test]
    fn another_root_replaces_only_lost_predecessors() {
        let mut member = placed();
        member.add_root(1, 1);
        member.lost(0);
        assert_eq!(member.choose_root(false, NOW), Some(1));
        member.place(1, 0, 20);
        member.place(1, 1, 21);
        assert_eq!(member.predecessors(), [10, 21].into());
        member.delivered(20);
        assert_eq!(member.predecessors(), [10, 21].into());
        member.lost(10);
        assert_eq!(member.predecessors(), [20, 21].into());
    }

    #[test]
    fn a_member_that_is_behind_adds_sources_and_requests_and_removes_them_later() {
        let mut member = placed();
        assert_eq!(member.adjust(None), None);
        assert_eq!(member.adjust(Some(BEHIND_CHUNKS)), None);
        for extra in 0..EXTRA_SOURCES_MAX as u32 {
            assert_eq!(member.adjust(Some(BEHIND_CHUNKS + 1)), Some(Adjustment::AddSource));
            member.add_extra(extra);
        }
        assert_eq!(member.adjust(Some(99)), None, "no more than that");
        assert!(member.is_behind() && member.boost() == BOOST_MAX && member.is_extra(3));
        assert_eq!(member.adjust(Some(1)), None);
        assert!(!member.is_behind() && member.boost() == BOOST_MAX);
        assert_eq!(member.adjust(Some(0)), Some(Adjustment::RemoveSource));
        assert_eq!(member.boost(), BOOST_MAX - 1);
    }

    #[test]
    fn super_seeded_chunks_are_requested_as_fast_as_successors_request_them() {
        let mut member = placed();
        (0..UNFORWARDED_MAX as u32 - 1).for_each(|index| member.is_given(ChunkIndex(index)));
        assert!(member.wants_next(0, true) && !member.wants_next(1, true));
        assert!(member.wants_next(1, false), "no successor is connected");
        member.forwarded(ChunkIndex(0));
        assert!(member.wants_next(1, true));
        member.is_given(ChunkIndex(0));
        member.stalled();
        assert!(member.wants_next(1, true), "its successors request nothing");
        member.forwarded(ChunkIndex(9));
        assert!(!member.wants_next(1, true));
    }
}
