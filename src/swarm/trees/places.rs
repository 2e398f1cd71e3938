//! Who hangs below whom.
//!
//! Invariants: a node that hangs in a stripe is among the children of the one above it, and nowhere else; nothing goes
//! round in a circle; nobody passes a stripe on to more than it should as long as there are places enough.

use super::{Moved, TURNS_MAX};
use std::collections::{BTreeSet, VecDeque};

/// One who has a place in each stripe.
#[derive(Debug)]
pub(super) struct Node<C> {
    who: C,
    /// The stripe that it passes on.
    trunk: usize,
    /// How often it has been found slow.
    pub(super) turns: u32,
    /// The last one who was kept waiting by it.
    pub(super) waited: Option<usize>,
    /// The stripes in which it was kept waiting.
    pub(super) waits: BTreeSet<usize>,
    /// Whether the one above it has found it slow.
    pub(super) slow: bool,
    /// The last one below it that it has found slow.
    pub(super) found: Option<usize>,
    branches: Vec<Branch>,
}

impl<C> Node<C> {
    /// Who has more of it stands farther from the keeper: behind one that is slow everybody is. Of two slow ones the first
    /// to be found is more likely to be.
    fn rank(&self) -> (bool, u32) {
        (self.slow, self.turns)
    }
}

/// A place in a stripe.
#[derive(Debug, Clone, Default)]
struct Branch {
    above: Above,
    children: Vec<usize>,
    /// What was told of it last.
    told: Option<Told>,
}

/// What one is told of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    above: Above,
    /// Who is above that one.
    beyond: Option<usize>,
    /// Whether the one above is the first.
    second: bool,
    slow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Above {
    #[default]
    Nobody,
    Executor,
    Node(usize),
}

/// What a walk from the keeper has found for somebody who needs a place.
enum Found {
    /// Below this one there is room.
    Room(Above),
    /// This one can as well hang below the one who needs a place.
    Yields(usize),
    Nothing,
}

/// The trees of all stripes.
#[derive(Debug)]
pub(super) struct Places<C> {
    nodes: Vec<Node<C>>,
    /// Nodes that are not used.
    free: Vec<usize>,
    /// Whom the keeper gives each stripe to.
    tops: Vec<Vec<usize>>,
    /// How many pass each stripe on.
    passing: Vec<usize>,
    /// Stripes in which somebody may have too many children.
    crowded: Vec<bool>,
    /// Nodes whose place, or that of the one above them, may have changed, and in which stripe.
    touched: BTreeSet<(usize, usize)>,
    /// Who has gone since that was asked last.
    gone: Option<usize>,
}

impl<C: Copy> Places<C> {
    pub(super) fn new(stripes: usize) -> Self {
        Self {
            nodes: Vec::new(),
            free: Vec::new(),
            tops: vec![Vec::new(); stripes],
            passing: vec![0; stripes],
            crowded: vec![false; stripes],
            touched: BTreeSet::new(),
            gone: None,
        }
    }

    pub(super) fn stripes(&self) -> usize {
        self.tops.len()
    }

    pub(super) fn node(&mut self, at: usize) -> &mut Node<C> {
        &mut self.nodes[at]
    }

    /// Who is above a node, if that is not the keeper.
    pub(super) fn above(&self, at: usize, stripe: usize) -> Option<usize> {
        match self.nodes[at].branches[stripe].above {
            Above::Node(above) => Some(above),
            Above::Executor | Above::Nobody => None,
        }
    }

    /// A new one, that passes on the stripe that the fewest pass on. Returns its number.
    pub(super) fn add(&mut self, who: C) -> usize {
        let stripes = self.stripes();
        let trunk = (0..stripes).min_by_key(|stripe| self.passing[*stripe]).unwrap_or(0);
        let branches = vec![Branch::default(); stripes];
        let (waits, found) = (BTreeSet::new(), None);
        let node = Node { who, trunk, turns: 0, waited: None, waits, slow: false, found, branches };
        let at = self.free.pop().unwrap_or(self.nodes.len());
        match self.nodes.get_mut(at) {
            Some(place) => *place = node,
            None => self.nodes.push(node),
        }
        self.passing[trunk] += 1;
        (0..stripes).for_each(|stripe| self.hang(at, stripe));
        at
    }

    /// One has gone; those below it find other places.
    pub(super) fn remove(&mut self, at: usize) {
        let homeless = self.uproot(at);
        if self.nodes[at].turns < TURNS_MAX {
            self.passing[self.nodes[at].trunk] -= 1;
        }
        self.free.push(at);
        self.gone = Some(at);
        self.house(homeless);
    }

    /// One has been found slow, and gets the last place in each stripe.
    pub(super) fn send_back(&mut self, at: usize) {
        let homeless = self.uproot(at);
        let stripes = self.stripes();
        let node = &mut self.nodes[at];
        node.turns += 1;
        (node.waited, node.waits, node.found) = (None, BTreeSet::new(), None);
        if node.turns == TURNS_MAX {
            self.passing[node.trunk] -= 1;
        }
        self.house(homeless);
        (0..stripes).for_each(|stripe| self.hang(at, stripe));
    }

    /// Takes one out of all stripes. Returns those who hung below it.
    fn uproot(&mut self, at: usize) -> Vec<(usize, usize)> {
        let mut homeless = Vec::new();
        for stripe in 0..self.stripes() {
            self.cut(at, stripe);
            for child in std::mem::take(&mut self.nodes[at].branches[stripe].children) {
                self.nodes[child].branches[stripe].above = Above::Nobody;
                homeless.push((child, stripe));
            }
        }
        homeless
    }

    /// Those who pass something on go first: they bring places.
    fn house(&mut self, mut homeless: Vec<(usize, usize)>) {
        homeless.sort_by_key(|(child, stripe)| self.room(*child, *stripe) == 0);
        homeless.into_iter().for_each(|(child, stripe)| self.hang(child, stripe));
    }

    fn cut(&mut self, at: usize, stripe: usize) {
        let children = match std::mem::take(&mut self.nodes[at].branches[stripe].above) {
            Above::Nobody => return,
            Above::Executor => &mut self.tops[stripe],
            Above::Node(above) => &mut self.nodes[above].branches[stripe].children,
        };
        children.retain(|child| *child != at);
    }

    fn tie(&mut self, at: usize, stripe: usize, above: Above) {
        self.nodes[at].branches[stripe].above = above;
        match above {
            Above::Nobody => return,
            Above::Executor => self.tops[stripe].push(at),
            Above::Node(above) => self.nodes[above].branches[stripe].children.push(at),
        }
        // Those below learn whether the one above them is the first.
        let below = self.nodes[at].branches[stripe].children.iter().map(|child| (*child, stripe));
        self.touched.extend(below);
        self.touched.insert((at, stripe));
    }

    /// To how many one should pass a stripe on. In a line the slow ones stand at the end, one behind the other.
    fn room(&self, at: usize, stripe: usize) -> usize {
        let node = &self.nodes[at];
        let passes = node.trunk == stripe && (node.turns < TURNS_MAX || self.stripes() == 1);
        if passes { self.stripes() } else { 0 }
    }

    fn children(&self, above: Above, stripe: usize) -> &[usize] {
        match above {
            Above::Nobody => &[],
            Above::Executor => &self.tops[stripe],
            Above::Node(at) => &self.nodes[at].branches[stripe].children,
        }
    }

    fn has_room(&self, above: Above, stripe: usize) -> bool {
        let room = match above {
            Above::Nobody => 0,
            Above::Executor => 1,
            Above::Node(at) => self.room(at, stripe),
        };
        self.children(above, stripe).len() < room
    }

    /// Everybody in a stripe with the keeper, the nearest to it first.
    fn walk(&self, stripe: usize) -> impl Iterator<Item = Above> + '_ {
        let mut next = VecDeque::from([Above::Executor]);
        std::iter::from_fn(move || {
            let above = next.pop_front()?;
            next.extend(self.children(above, stripe).iter().map(|at| Above::Node(*at)));
            Some(above)
        })
    }

    /// Finds a place for one who hangs nowhere in a stripe.
    fn hang(&mut self, at: usize, stripe: usize) {
        match self.find(at, stripe) {
            Found::Room(above) => self.tie(at, stripe, above),
            Found::Yields(other) => {
                let above = self.nodes[other].branches[stripe].above;
                self.cut(other, stripe);
                self.tie(at, stripe, above);
                self.tie(other, stripe, Above::Node(at));
            }
            Found::Nothing => {
                let above = self.convert(at, stripe).unwrap_or_else(|| self.least_crowded(stripe));
                self.tie(at, stripe, above);
            }
        }
        if self.crowded[stripe] {
            self.adopt(at, stripe);
        }
    }

    /// The nearest to the keeper that there is: a free place, or that of one who passes nothing on or is slower.
    fn find(&self, at: usize, stripe: usize) -> Found {
        let (passes, rank) = (self.has_room(Above::Node(at), stripe), self.nodes[at].rank());
        for above in self.walk(stripe) {
            let yields = |other: usize| {
                let slow = self.nodes[other].rank() > rank || self.nodes[other].rank() == rank && rank.0;
                // Not below a slow one, even if there is room.
                passes && (slow || self.room(other, stripe) == 0)
            };
            match above {
                Above::Node(other) if yields(other) => return Found::Yields(other),
                _ if self.has_room(above, stripe) => return Found::Room(above),
                _ => {}
            }
        }
        Found::Nothing
    }

    /// One who passes nothing on although it might does so in this stripe from now on.
    fn convert(&mut self, at: usize, stripe: usize) -> Option<Above> {
        let idle = |other: usize| {
            let node = &self.nodes[other];
            let trunk = &node.branches[node.trunk];
            other != at && node.turns < TURNS_MAX && trunk.children.is_empty()
        };
        let other = self.walk(stripe).find_map(|above| match above {
            Above::Node(other) if idle(other) => Some(other),
            _ => None,
        })?;
        let before = std::mem::replace(&mut self.nodes[other].trunk, stripe);
        self.passing[before] -= 1;
        self.passing[stripe] += 1;
        Some(Above::Node(other))
    }

    /// When there are too few places somebody gets one more than it should: far from the keeper it does least harm.
    fn least_crowded(&mut self, stripe: usize) -> Above {
        self.crowded[stripe] = true;
        let passes = |above: &Above| match above {
            Above::Node(at) => self.room(*at, stripe) > 0,
            Above::Executor | Above::Nobody => false,
        };
        let children = |above: &Above| self.children(*above, stripe).len();
        let all: Vec<Above> = self.walk(stripe).filter(passes).collect();
        all.into_iter().rev().min_by_key(children).unwrap_or(Above::Executor)
    }

    /// Takes from those who have too many as many as there is room for.
    fn adopt(&mut self, at: usize, stripe: usize) {
        while self.has_room(Above::Node(at), stripe) {
            let room = |above: Above| match above {
                Above::Node(at) => self.room(at, stripe),
                Above::Executor | Above::Nobody => 1,
            };
            let full = self.walk(stripe).find(|above| self.children(*above, stripe).len() > room(*above));
            let Some(full) = full else {
                self.crowded[stripe] = false;
                return;
            };
            let mut children = self.children(full, stripe).iter().rev();
            let Some(&child) = children.find(|child| !self.is_above(**child, at, stripe)) else { return };
            self.cut(child, stripe);
            self.tie(child, stripe, Above::Node(at));
        }
    }

    /// Whether one is another one, or somewhere above it.
    fn is_above(&self, one: usize, other: usize, stripe: usize) -> bool {
        let mut at = Some(other);
        while let Some(this) = at.filter(|this| *this != one) {
            at = self.above(this, stripe);
        }
        at.is_some()
    }

    /// Everybody whose place has changed since this was asked last.
    pub(super) fn moved(&mut self) -> Vec<Moved<C>> {
        let stripes = self.stripes();
        let touched = std::mem::take(&mut self.touched);
        let gone = self.gone.take().map(Above::Node);
        let changed = touched.into_iter().filter_map(|(at, stripe)| {
            let above = self.nodes[at].branches[stripe].above;
            let ahead = self.above(at, stripe);
            // Behind another slow one it is that one which is waited for.
            let slow = self.nodes[at].slow && !ahead.is_some_and(|ahead| self.nodes[ahead].slow);
            let beyond = ahead.and_then(|ahead| self.above(ahead, stripe));
            let second = ahead.is_some() && beyond.is_none();
            let news = Some(Told { above, beyond, second, slow });
            let told = std::mem::replace(&mut self.nodes[at].branches[stripe].told, news);
            if above == Above::Nobody || told == news {
                return None;
            }
            let name = |at: Option<usize>| at.map(|at| self.nodes[at].who);
            let (who, steps) = (self.nodes[at].who, self.steps(at, stripe));
            let left = told.is_some_and(|told| Some(told.above) == gone);
            Some(Moved {
                who,
                stripe,
                stripes,
                ahead: name(ahead),
                beyond: name(beyond),
                second,
                steps,
                slow,
                left,
            })
        });
        changed.collect()
    }

    /// How many steps one is away from the keeper.
    fn steps(&self, at: usize, stripe: usize) -> usize {
        std::iter::successors(Some(at), |at| self.above(*at, stripe)).count()
    }

    /// The most steps that anybody is away.
    #[cfg(test)]
    pub(super) fn depth(&self, stripe: usize) -> usize {
        let steps = |above| if let Above::Node(at) = above { self.steps(at, stripe) } else { 0 };
        self.walk(stripe).map(steps).max().unwrap_or(0)
    }

    /// All whom one passes something on to.
    #[cfg(test)]
    pub(super) fn below(&self, at: usize) -> Vec<C> {
        let children = self.nodes[at].branches.iter().flat_map(|branch| &branch.children);
        children.map(|child| self.nodes[*child].who).collect()
    }

    /// The most children that somebody has in a stripe, with those of the keeper.
    #[cfg(test)]
    pub(super) fn most_children(&self, stripe: usize) -> usize {
        self.walk(stripe).map(|above| self.children(above, stripe).len()).max().unwrap_or(0)
    }
}
