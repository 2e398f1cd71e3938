//! Who asks whom, of those who fetch one file from the only one who has it: the trees that it keeps.
//!
//! The chunks are dealt out in turn to one stripe or more, each with a tree of its own that holds everybody and begins
//! at the one who has the file, the keeper. Each asks the one ahead of it for the chunks of that stripe, and every chunk
//! is passed on while it arrives. With `n` stripes everybody passes on one of them, to `n` others, and only receives
//! the rest: so each link carries the file once in each direction, whole and at full speed, and it leaves the
//! keeper once. With one stripe that is a line, in which each waits for all ahead of it; with more the last one is as
//! many steps away as the logarithm of the swarm. That is *SplitStream* (Castro and others: SplitStream: high-bandwidth
//! multicast in cooperative environments, 2003), with somebody who knows everybody.
//!
//! A place is advice. Whoever finds that it is kept waiting asks others as well, and says so; then somebody
//! goes to where few or none wait for it.
//!
//! Invariants: everybody hangs in each tree once, below the keeper; everybody is told of every change of whom it
//! is to ask.

mod pace;
mod places;

use crate::content::ChunkIndex;
use places::Places;
use std::collections::HashMap;
use std::hash::Hash;

pub use pace::Pace;

/// More than these are not kept in trees: everybody asks everybody.
pub const MEMBERS_MAX: usize = 16_384;
/// Up to so many stand in a line, however short the file is, and however long it is.
const LINE_MIN: usize = 32;
const LINE_MAX: usize = 512;
/// One in the line for so many chunks. With more its last one would wait longer than trees cost, in which connections share
/// links and get in each other's way, as far as their [`Pace`] lets them.
const CHUNKS_EACH: u32 = 8;
/// Stripes where a line would be too long. With more, more connections share each link.
pub const STRIPES: usize = 2;
/// When more have been found slow than that and one for each member, links are too unequal for trees.
const SLOW_MAX: usize = 16;
/// Whoever has been found slow so often passes nothing on any more, where there are several stripes.
const TURNS_MAX: u32 = 2;

/// The stripe of a chunk, of so many.
pub fn stripe_of(index: ChunkIndex, stripes: usize) -> usize {
    index.at() % stripes.max(1)
}

/// Somebody whose place has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved<C> {
    /// Who.
    pub who: C,
    /// In which stripe, of how many.
    pub stripe: usize,
    /// How many stripes there are; none, when there are no trees any more.
    pub stripes: usize,
    /// Who is ahead of it now: nobody, for one that the keeper gives to.
    pub ahead: Option<C>,
    /// Who is ahead of that one. When it takes slowly what it is given, that one has something to spare.
    pub beyond: Option<C>,
    /// Whether that one is the first after the keeper.
    pub second: bool,
    /// How many steps it is away from the keeper.
    pub steps: usize,
    /// Whether it has been found to take what it gets more slowly than others.
    pub slow: bool,
    /// Whether the one that was ahead of it has left. It may have all by now, and still give what it owes.
    pub left: bool,
}

/// The trees of one file, of members named by `C`.
#[derive(Debug)]
pub struct Trees<C> {
    names: HashMap<C, usize>,
    places: Places<C>,
    /// In the order in which they came.
    came: Vec<C>,
    /// How often somebody was found slow.
    slow: usize,
    /// Too many have come, or their links are too unequal.
    closed: bool,
    most: usize,
    line_max: usize,
    stripes: usize,
}

/// How many stand in a line who fetch a file of so many chunks, before there are several stripes.
pub fn line_max(chunks: u32) -> usize {
    ((chunks / CHUNKS_EACH) as usize).clamp(LINE_MIN, LINE_MAX)
}

impl<C: Copy + Eq + Hash> Trees<C> {
    /// Nobody yet: a line of up to `line_max`, then `stripes` trees.
    pub fn new(line_max: usize, stripes: usize) -> Self {
        let first = if line_max == 0 { stripes } else { 1 };
        let places = Places::new(first);
        Self {
            names: HashMap::new(),
            places,
            came: Vec::new(),
            slow: 0,
            closed: false,
            most: MEMBERS_MAX,
            line_max,
            stripes,
        }
    }

    /// How many stripes there are; none, when there are no trees any more.
    pub fn stripes(&self) -> usize {
        if self.closed { 0 } else { self.places.stripes() }
    }

    /// Somebody comes. When a line would become too long it is made into trees, and when too many have come there are
    /// none any more. Returns all whose places have changed.
    pub fn join(&mut self, newcomer: C) -> Vec<Moved<C>> {
        if self.closed || self.names.contains_key(&newcomer) {
            return Vec::new();
        }
        self.came.push(newcomer);
        if self.came.len() > self.most {
            return self.close();
        }
        if self.places.stripes() < self.stripes && self.came.len() > self.line_max {
            self.places = Places::new(self.stripes);
            self.names.clear();
            self.came.clone().into_iter().for_each(|who| self.put(who));
        } else {
            self.put(newcomer);
        }
        self.places.moved()
    }

    fn put(&mut self, who: C) {
        let at = self.places.add(who);
        self.names.insert(who, at);
    }

    fn close(&mut self) -> Vec<Moved<C>> {
        self.closed = true;
        self.names.clear();
        self.places = Places::new(1);
        let gone = self.came.drain(..);
        let nowhere = |who| Moved {
            who,
            stripe: 0,
            stripes: 0,
            ahead: None,
            beyond: None,
            second: false,
            steps: 0,
            slow: false,
            left: false,
        };
        gone.map(nowhere).collect()
    }

    /// Somebody has gone. Returns all whose places have changed.
    pub fn leave(&mut self, gone: C) -> Vec<Moved<C>> {
        let Some(at) = self.names.remove(&gone) else { return Vec::new() };
        self.came.retain(|other| *other != gone);
        self.places.remove(at);
        self.places.moved()
    }

    /// Somebody is kept waiting by the one ahead of it in a stripe. Either may be the cause, unless it is `sure`. When that
    /// happens too often there are no trees any more. Returns all whose places have changed.
    pub fn overtake(&mut self, waiting: C, stripe: usize, sure: bool) -> Vec<Moved<C>> {
        let Some(&at) = self.names.get(&waiting).filter(|_| stripe < self.places.stripes()) else {
            return Vec::new();
        };
        let Some(ahead) = self.places.above(at, stripe) else { return Vec::new() };
        match self.blame(at, ahead, stripe, sure) {
            Some(slow) => self.send_back(slow),
            None => self.places.moved(),
        }
    }

    /// In a line the one whom `giver` gives to takes chunks far more slowly than they come. Who finds one after the other
    /// slow is slow itself. Returns all whose places have changed.
    pub fn found_slow(&mut self, giver: C, taker: C) -> Vec<Moved<C>> {
        let (Some(&giver), Some(&taker)) = (self.names.get(&giver), self.names.get(&taker)) else {
            return Vec::new();
        };
        let is_line = self.places.stripes() == 1;
        if !is_line || self.places.above(taker, 0) != Some(giver) || self.places.node(taker).slow {
            return Vec::new();
        }
        let found = self.places.node(giver).found.replace(taker);
        let Some(other) = found.filter(|other| *other != taker) else {
            self.places.node(taker).slow = true;
            return self.send_back(taker);
        };
        self.places.node(other).slow = false;
        self.send_back(giver)
    }

    fn send_back(&mut self, slow: usize) -> Vec<Moved<C>> {
        self.slow += 1;
        if self.slow > self.came.len() + SLOW_MAX {
            return self.close();
        }
        self.places.send_back(slow);
        self.places.moved()
    }

    /// Who is slow: the one ahead, when two wait for it, or it has been found slow before; the one who waits, when it waits for two, or alone.
    fn blame(&mut self, waiting: usize, ahead: usize, stripe: usize, sure: bool) -> Option<usize> {
        let line = self.places.stripes() == 1;
        let turns = self.places.node(waiting).turns;
        let node = self.places.node(ahead);
        if line && node.slow {
            // It goes behind the one who waits, whatever was said of that one.
            node.turns = node.turns.max(turns);
            return Some(ahead);
        }
        if sure {
            return Some(ahead);
        }
        if let Some(other) = node.waited.replace(waiting).filter(|other| *other != waiting) {
            self.places.node(other).slow = false;
            return Some(ahead);
        }
        let node = self.places.node(waiting);
        node.slow |= line;
        let again = !node.waits.insert(stripe);
        (line || again || node.waits.len() > 1).then_some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn line() -> Trees<u32> {
        Trees::new(usize::MAX, 1)
    }

    fn moved(who: u32, ahead: Option<u32>, beyond: Option<u32>, steps: usize) -> Moved<u32> {
        let second = ahead.is_some() && beyond.is_none();
        Moved { who, stripe: 0, stripes: 1, ahead, beyond, second, steps, slow: false, left: false }
    }

    #[test]
    fn in_a_line_each_stands_behind_another_and_closes_up_when_that_one_goes() {
        let mut line = line();
        assert_eq!(line.join(1), [moved(1, None, None, 1)]);
        assert_eq!(line.join(2), [moved(2, Some(1), None, 2)]);
        assert_eq!(line.join(3), [moved(3, Some(2), Some(1), 3)]);
        assert_eq!(line.join(3), [], "once is enough");
        assert_eq!(line.leave(2), [Moved { left: true, ..moved(3, Some(1), None, 2) }]);
        assert_eq!(line.leave(3), [], "nobody stood behind it");
        assert_eq!(line.leave(2), []);
        assert_eq!(line.overtake(1, 0, true), [], "nobody is ahead of it");
        assert_eq!(line.overtake(1, 1, true), [], "there is but one stripe");
    }

    fn order(line: &Trees<u32>, known: &BTreeMap<u32, Option<u32>>) -> Vec<u32> {
        let behind =
            |ahead: Option<u32>| known.iter().find(|(_, other)| **other == ahead).map(|(who, _)| *who);
        let order: Vec<u32> = std::iter::successors(behind(None), |who| behind(Some(*who))).collect();
        assert_eq!(order.len(), line.names.len());
        order
    }

    #[test]
    fn who_is_kept_waiting_goes_to_the_end_and_then_the_one_who_keeps_others_waiting() {
        let mut line = line();
        let mut known = BTreeMap::new();
        let mut note = |line: &Trees<u32>, all: Vec<Moved<u32>>| {
            known.extend(all.into_iter().map(|moved| (moved.who, moved.ahead)));
            order(line, &known)
        };
        for one in 1..=5 {
            let all = line.join(one);
            note(&line, all);
        }
        let steps = [
            (3, false, [1, 2, 4, 5, 3], "either may be the cause"),
            (4, false, [1, 4, 5, 3, 2], "2 it is"),
            (4, true, [4, 5, 3, 2, 1], "and 1 for sure"),
            (4, true, [4, 5, 3, 2, 1], "nobody is ahead"),
            (9, true, [4, 5, 3, 2, 1], "who is that?"),
        ];
        for (who, sure, expected, why) in steps {
            let all = line.overtake(who, 0, sure);
            assert_eq!(note(&line, all), expected, "{why}");
        }
        let all = line.join(6);
        assert_eq!(note(&line, all), [4, 5, 6, 3, 2, 1], "before the slow ones");
    }

    #[test]
    fn who_takes_slowly_stands_last_and_who_finds_two_slow_is_slow_itself() {
        let mut line = line();
        let mut known = BTreeMap::new();
        let mut note = |line: &Trees<u32>, all: &[Moved<u32>]| {
            known.extend(all.iter().map(|moved| (moved.who, moved.ahead)));
            order(line, &known)
        };
        for one in 1..=5 {
            let all = line.join(one);
            note(&line, &all);
        }
        assert_eq!(line.found_slow(1, 3), [], "it is 2 who gives to 3");
        let all = line.found_slow(2, 3);
        assert_eq!(note(&line, &all), [1, 2, 4, 5, 3]);
        let three = all.iter().find(|moved| moved.who == 3).unwrap();
        assert!(three.slow && three.ahead == Some(5) && three.beyond == Some(4));
        assert_eq!(line.found_slow(5, 3), [], "that is known");
        let all = line.join(6);
        assert_eq!(note(&line, &all), [1, 2, 4, 5, 6, 3], "before the slow one");
        let all = line.found_slow(2, 4);
        assert_eq!(note(&line, &all), [1, 4, 5, 6, 3, 2], "nobody is fast enough for 2");
        let all = line.overtake(4, 0, false);
        assert_eq!(note(&line, &all), [1, 5, 6, 3, 2, 4]);
        let all = line.overtake(6, 0, false);
        assert_eq!(note(&line, &all), [1, 5, 3, 2, 6, 4], "of two slow ones the one found first is the last");
        let all = line.overtake(4, 0, false);
        assert_eq!(note(&line, &all), [1, 5, 3, 2, 4, 6], "unless it waits for the other");
    }

    #[test]
    fn trees_are_low_and_nobody_gives_more_than_it_gets() {
        for (stripes, depth) in [(2, 10), (4, 6)] {
            let mut trees = Trees::new(0, stripes);
            (0..1_000).for_each(|one| _ = trees.join(one));
            for stripe in 0..stripes {
                assert!(trees.places.depth(stripe) <= depth, "{}", trees.places.depth(stripe));
                assert!(trees.places.most_children(stripe) <= stripes);
            }
        }
    }

    #[test]
    fn a_line_that_becomes_too_long_is_made_into_trees_and_too_many_need_none() {
        let mut trees = Trees::new(LINE_MIN, STRIPES);
        trees.most = 100;
        (1..=LINE_MIN as u32).for_each(|one| assert!(trees.join(one).iter().all(|moved| moved.stripes == 1)));
        let all = trees.join(0);
        assert_eq!(all.len(), (LINE_MIN + 1) * STRIPES);
        assert!(all.iter().all(|moved| moved.stripes == STRIPES));
        (LINE_MIN as u32 + 1..100).for_each(|one| _ = trees.join(one));
        let all = trees.join(u32::MAX);
        assert!(all.len() == 101 && all.iter().all(|moved| moved.stripes == 0));
        assert_eq!(trees.join(u32::MAX - 1), []);
    }

    #[test]
    fn a_line_is_as_long_as_its_file_is_worth() {
        assert_eq!([1, 128, 512, 2_048, 65_536].map(line_max), [32, 32, 64, 256, 512]);
    }

    #[test]
    fn where_too_many_are_slow_everybody_asks_everybody() {
        let mut trees = line();
        (0..10).for_each(|one| _ = trees.join(one));
        let mut complaints = (0..).map(|turn| trees.overtake(1 + turn % 9, 0, true));
        let end = complaints.position(|all| all.iter().any(|moved| moved.stripes == 0)).unwrap();
        assert!((SLOW_MAX + 10..60).contains(&end), "{end}");
        assert_eq!(trees.join(99), []);
    }

    #[test]
    fn one_who_keeps_two_waiting_or_waits_for_two_passes_nothing_on_in_the_end() {
        let mut trees = Trees::new(0, 2);
        (0..20).for_each(|one| _ = trees.join(one));
        let children = trees.places.below(trees.names[&0]);
        assert_eq!(children.len(), 2);
        assert_eq!(trees.overtake(children[0], 0, false), [], "one is not enough");
        assert!(!trees.overtake(children[1], 0, false).is_empty());
        for stripe in 0..2 {
            trees.overtake(7, stripe, false);
            trees.overtake(7, stripe, false);
        }
        let waiting = trees.places.below(trees.names[&7]);
        assert!(waiting.is_empty(), "it waited in both stripes, twice");
    }

    #[test]
    fn everybody_always_knows_who_is_ahead() {
        let mut random = fastrand::Rng::with_seed(5);
        for stripes in [1, 2, 3] {
            let (mut trees, mut known) =
                (Trees::new(if stripes == 1 { 99 } else { 0 }, stripes), BTreeMap::new());
            for _ in 0..5_000 {
                let one = random.u32(..40);
                let moved = match random.u32(..3) {
                    0 => trees.join(one),
                    1 => {
                        known.retain(|(who, _), _| *who != one);
                        trees.leave(one)
                    }
                    _ => trees.overtake(one, random.usize(..stripes), random.bool()),
                };
                trees.slow = 0;
                known.extend(moved.into_iter().map(|moved| ((moved.who, moved.stripe), moved.ahead)));
                assert_eq!(trees.names.len() * stripes, known.len());
                for (&(who, stripe), &ahead) in &known {
                    let mut at = ahead;
                    for _ in 0..=trees.names.len() {
                        at = at.and_then(|at| known[&(at, stripe)]);
                    }
                    assert_eq!(at, None, "{who} goes round in a circle");
                    let place = trees.places.above(trees.names[&who], stripe);
                    assert_eq!(place, ahead.map(|ahead| trees.names[&ahead]));
                }
            }
        }
    }
}
