//! Who asks whom, of those who fetch one file from the only one who has it: they stand in a line.
//!
//! The first asks the one who has the file, each of the others the one ahead of it, and every chunk is passed on while
//! it arrives. So each link carries one chunk at a time in each direction, at its full speed, and the whole file leaves
//! its first holder once: the last in the line is done hardly later than the first. That is the pipelined broadcast
//! of *Mundinger, Weber and Weiss: Optimal scheduling of peer-to-peer file dissemination* (2008), as a chain.
//!
//! A line is advice. Whoever finds that it is kept waiting asks others as well, and says so; then somebody
//! goes to the end, where nobody waits for it. The second takes one chunk past the first, to find out whether that one is slow.
//!
//! Invariant: each one stands in the line once, and is told of every change of the one ahead of it.

use std::collections::BTreeSet;

/// Each one more makes the last one wait a little longer: with more than these everybody asks everybody.
pub const LINE_MAX: usize = 64;

/// Those who stand in line, named by `C`; the first asks whoever keeps the line.
#[derive(Debug)]
pub struct Line<C> {
    order: Vec<Place<C>>,
    /// Too many have come.
    closed: bool,
}

#[derive(Debug)]
struct Place<C> {
    who: C,
    /// The last one who was kept waiting by it.
    waited: Option<C>,
    /// How often it has gone to the end.
    turns: u32,
}

impl<C> Default for Line<C> {
    fn default() -> Self {
        Self { order: Vec::new(), closed: false }
    }
}

/// Somebody whose place has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved<C> {
    /// Who.
    pub who: C,
    /// Who is ahead of it now: nobody, for the first.
    pub ahead: Option<C>,
    /// Whether that one is the first.
    pub second: bool,
    /// Whether there is no line any more.
    pub closed: bool,
}

impl<C: Copy + Eq> Line<C> {
    /// Somebody comes, and stands behind all the others but the slow ones. When too many have come there is no line any
    /// more. Returns all whose places have changed.
    pub fn join(&mut self, newcomer: C) -> Vec<Moved<C>> {
        if self.closed || self.place(newcomer).is_some() {
            return Vec::new();
        }
        if self.order.len() >= LINE_MAX {
            self.closed = true;
            let gone = self.order.drain(..).map(|place| place.who);
            return gone.map(|who| Moved { who, ahead: None, second: false, closed: true }).collect();
        }
        let at = self.put(Place { who: newcomer, waited: None, turns: 0 });
        self.changed([at, at + 1])
    }

    /// Somebody has gone. Returns all whose places have changed.
    pub fn leave(&mut self, gone: C) -> Vec<Moved<C>> {
        let Some(at) = self.place(gone) else { return Vec::new() };
        self.order.remove(at);
        self.changed([at])
    }

    /// Somebody is kept waiting by the one ahead of it. Either may be the cause, unless it is `sure`: at first the one
    /// who says so goes to the end; when the next one has the same to say, the one ahead of it does. Returns all whose
    /// places have changed.
    pub fn overtake(&mut self, waiting: C, sure: bool) -> Vec<Moved<C>> {
        let Some(at) = self.place(waiting) else { return Vec::new() };
        let Some(ahead) = at.checked_sub(1) else { return Vec::new() };
        if !sure && at + 1 == self.order.len() {
            self.order[at].turns += 1;
            return Vec::new();
        }
        let is_slow = sure || self.order[ahead].waited.replace(waiting).is_some_and(|other| other != waiting);
        let from = if is_slow { ahead } else { at };
        let mut slow = self.order.remove(from);
        slow.turns += 1;
        let to = self.put(slow);
        match from == to {
            true => Vec::new(),
            false => self.changed([from, to, to + 1]),
        }
    }

    /// Behind all who have gone to the end less often or as often.
    fn put(&mut self, place: Place<C>) -> usize {
        let behind = self.order.iter().rposition(|other| other.turns <= place.turns);
        let at = behind.map_or(0, |behind| behind + 1);
        self.order.insert(at, place);
        at
    }

    fn place(&self, who: C) -> Option<usize> {
        self.order.iter().position(|place| place.who == who)
    }

    /// Who stands at places that have changed. Who is second has something to do that nobody else has.
    fn changed<const N: usize>(&self, places: [usize; N]) -> Vec<Moved<C>> {
        let about_second = [1, 2].into_iter().filter(|_| places.iter().any(|at| *at < 2));
        let places: BTreeSet<usize> = places.into_iter().chain(about_second).collect();
        places.into_iter().filter_map(|at| self.moved(at)).collect()
    }

    fn moved(&self, at: usize) -> Option<Moved<C>> {
        let Place { who, .. } = *self.order.get(at)?;
        let ahead = at.checked_sub(1).map(|ahead| self.order[ahead].who);
        Some(Moved { who, ahead, second: at == 1, closed: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn moved(who: u32, ahead: Option<u32>, second: bool) -> Moved<u32> {
        Moved { who, ahead, second, closed: false }
    }

    #[test]
    fn each_stands_behind_another_and_closes_up_when_that_one_goes() {
        let mut line = Line::default();
        assert_eq!(line.join(1), [moved(1, None, false)]);
        assert_eq!(line.join(2), [moved(2, Some(1), true)]);
        assert_eq!(line.join(3), [moved(3, Some(2), false)]);
        assert_eq!(line.join(3), [], "once is enough");
        assert_eq!(line.leave(2), [moved(3, Some(1), true)]);
        assert_eq!(line.leave(3), [], "nobody stood behind it");
        assert_eq!(line.leave(2), []);
        assert_eq!(line.overtake(1, true), [], "nobody is ahead of it");
        (2..=LINE_MAX as u32).for_each(|one| _ = line.join(one));
        let all = line.join(99);
        assert!(all.len() == LINE_MAX && all.iter().all(|moved| moved.closed), "too many");
        assert_eq!(line.join(100), []);
    }

    #[test]
    fn who_is_kept_waiting_goes_to_the_end_and_then_the_one_who_keeps_others_waiting() {
        let mut line = Line::default();
        (1..=5).for_each(|one| _ = line.join(one));
        assert_eq!(line.overtake(3, false), [moved(4, Some(2), false), moved(3, Some(5), false)]);
        assert_eq!(line.overtake(3, false), [], "it is the last already");
        let all = [
            moved(4, Some(1), true),
            moved(5, Some(4), false),
            moved(2, Some(5), false),
            moved(3, Some(2), false),
        ];
        assert_eq!(line.overtake(4, false), all, "2 it is, but 3 is slower");
        assert_eq!(
            line.join(6),
            [moved(6, Some(5), false), moved(2, Some(6), false)],
            "before the slow ones"
        );
        let all = [
            moved(4, None, false),
            moved(5, Some(4), true),
            moved(6, Some(5), false),
            moved(1, Some(2), false),
            moved(3, Some(1), false),
        ];
        assert_eq!(line.overtake(4, true), all);
        assert_eq!(line.overtake(4, true), [], "nobody is ahead");
        assert_eq!(line.overtake(9, true), [], "who is that?");
    }

    #[test]
    fn everybody_always_knows_who_is_ahead() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut line, mut known) = (Line::default(), BTreeMap::new());
        for _ in 0..10_000 {
            let one = random.u32(..20);
            let moved = match random.u32(..3) {
                0 => line.join(one),
                1 => {
                    known.remove(&one);
                    line.leave(one)
                }
                _ => line.overtake(one, random.bool()),
            };
            known.extend(moved.into_iter().map(|moved| (moved.who, (moved.ahead, moved.second))));
            assert_eq!(line.order.len(), known.len());
            let mut ahead = None;
            for (at, Place { who: one, .. }) in line.order.iter().enumerate() {
                assert_eq!(known[one], (ahead, at == 1));
                ahead = Some(*one);
            }
        }
    }
}
