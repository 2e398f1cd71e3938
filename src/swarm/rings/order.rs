//! The rings of a root: cyclic orders of its members.
//!
//! Invariants: each ring is one cycle of all members; the members of one site are adjacent in each ring; a placement
//! is returned for each member whose predecessor has changed, up to [`NAMED_MAX`] for one member.

use super::site::Site;
use super::{DRAWS_MAX, MEMBERS_MAX, NAMED_MAX, RINGS, UNREACHABLE_REPORTS_MIN};
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

/// The new predecessor of a member in one ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement<C> {
    /// The member.
    pub member: C,
    /// Index of the ring.
    pub ring: usize,
    /// The member before it.
    pub predecessor: C,
}

#[derive(Debug)]
struct State {
    site: Site,
    /// Number of predecessors named to it.
    named: u32,
    /// Hosts that cannot connect to it.
    reporters: BTreeSet<IpAddr>,
}

/// The rings of one file, of members identified by `C`.
#[derive(Debug)]
pub struct Rings<C> {
    orders: [Vec<C>; RINGS],
    members: HashMap<C, State>,
}

impl<C> Default for Rings<C> {
    fn default() -> Self {
        Self { orders: Default::default(), members: HashMap::new() }
    }
}

impl<C: Copy + Eq + Hash> Rings<C> {
    /// Number of members.
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Adds a member at a random position of each ring, inside the section of its site. Not if there are
    /// [`MEMBERS_MAX`] already. Returns the placements of it and of its successors.
    pub fn join(&mut self, member: C, site: Site, random: &mut fastrand::Rng) -> Vec<Placement<C>> {
        if self.members.len() >= MEMBERS_MAX || self.members.contains_key(&member) {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for ring in 0..RINGS {
            let at = self.draw(ring, member, &site, random);
            self.orders[ring].insert(at, member);
            changed.extend([(member, ring), (self.neighbour(ring, at, 1), ring)]);
        }
        self.members.insert(member, State { site, named: 0, reporters: BTreeSet::new() });
        self.placements(changed)
    }

    /// Removes a member. Returns the placements of its successors.
    pub fn leave(&mut self, member: C) -> Vec<Placement<C>> {
        if self.members.remove(&member).is_none() {
            return Vec::new();
        }
        let mut changed = Vec::new();
        for ring in 0..RINGS {
            let order = &mut self.orders[ring];
            let Some(at) = order.iter().position(|other| *other == member) else { continue };
            order.remove(at);
            changed.extend(order.get(at).or(order.first()).map(|successor| (*successor, ring)));
        }
        self.placements(changed)
    }

    /// Records the report of a member on `host` that it cannot connect to its predecessor. After reports from several
    /// hosts the predecessor is removed. Returns the placements of its successors then.
    pub fn unreachable(&mut self, reporter: C, host: IpAddr, predecessor: C) -> Vec<Placement<C>> {
        if !(0..RINGS).any(|ring| self.predecessor(ring, reporter) == Some(predecessor)) {
            return Vec::new();
        }
        let Some(state) = self.members.get_mut(&predecessor) else { return Vec::new() };
        state.reporters.insert(host);
        match state.reporters.len() >= UNREACHABLE_REPORTS_MIN {
            true => self.leave(predecessor),
            false => Vec::new(),
        }
    }

    /// The predecessor of a member; `None` in a ring of one.
    pub fn predecessor(&self, ring: usize, member: C) -> Option<C> {
        let at = self.orders[ring].iter().position(|other| *other == member)?;
        Some(self.neighbour(ring, at, self.orders[ring].len() - 1)).filter(|other| *other != member)
    }

    /// The member `steps` after a position of a ring.
    fn neighbour(&self, ring: usize, at: usize, steps: usize) -> C {
        let order = &self.orders[ring];
        order[(at + steps) % order.len()]
    }

    /// A random position for a new member, redrawn if it repeats a neighbour of another ring.
    fn draw(&self, ring: usize, member: C, site: &Site, random: &mut fastrand::Rng) -> usize {
        let gaps = self.gaps(ring, site);
        let Some(mut at) = random.choice(&gaps).copied() else { return 0 };
        for _ in 0..DRAWS_MAX {
            if !self.repeats(ring, at, member) {
                break;
            }
            at = gaps[random.usize(..gaps.len())];
        }
        at
    }

    /// Whether a member before position `at` would get a neighbour that it has in an earlier ring.
    fn repeats(&self, ring: usize, at: usize, member: C) -> bool {
        let length = self.orders[ring].len();
        let (before, after) = (self.neighbour(ring, at, length - 1), self.neighbour(ring, at, 0));
        (0..ring).any(|other| {
            let order = &self.orders[other];
            let Some(at) = order.iter().position(|one| *one == member) else { return false };
            self.neighbour(other, at, order.len() - 1) == before || self.neighbour(other, at, 1) == after
        })
    }

    /// The positions at which a member of a site may be inserted: beside its site, or else between two sites.
    fn gaps(&self, ring: usize, site: &Site) -> Vec<usize> {
        let order = &self.orders[ring];
        let site_of = |at: usize| self.members.get(&order[at % order.len()]).map(|state| &state.site);
        let around = |at: usize| [site_of(at + order.len() - 1), site_of(at)];
        let beside: Vec<usize> = (0..order.len()).filter(|at| around(*at).contains(&Some(site))).collect();
        if !beside.is_empty() {
            return beside;
        }
        let borders = (0..order.len()).filter(|at| around(*at)[0] != around(*at)[1]);
        let borders: Vec<usize> = borders.collect();
        if borders.is_empty() { (0..order.len()).collect() } else { borders }
    }

    /// The present placements of members in rings, unless too many addresses have been named to them.
    fn placements(&mut self, changed: Vec<(C, usize)>) -> Vec<Placement<C>> {
        let mut placements = Vec::new();
        for (member, ring) in changed {
            let Some(predecessor) = self.predecessor(ring, member) else { continue };
            let Some(state) = self.members.get_mut(&member).filter(|state| state.named < NAMED_MAX) else {
                continue;
            };
            state.named += 1;
            placements.push(Placement { member, ring, predecessor });
        }
        placements
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn site(number: u32) -> Site {
        Site::Named(number.to_string())
    }

    fn host(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    /// Each ring is one cycle of all members, with adjacent sites, and `told` has the present predecessors.
    fn check(rings: &Rings<u32>, told: &BTreeMap<(u32, usize), u32>) {
        for (ring, order) in rings.orders.iter().enumerate() {
            let unique: BTreeSet<u32> = order.iter().copied().collect();
            assert_eq!((unique.len(), order.len()), (rings.count(), rings.count()));
            assert!(unique.iter().all(|member| rings.members.contains_key(member)));
            let sites: Vec<&Site> = order.iter().map(|member| &rings.members[member].site).collect();
            let borders = (0..sites.len()).filter(|at| sites[*at] != sites[(at + 1) % sites.len()]).count();
            let different = sites.iter().collect::<std::collections::HashSet<_>>().len();
            assert!(borders <= if different == 1 { 0 } else { different }, "{sites:?}");
            for member in order {
                if let Some(predecessor) = rings.predecessor(ring, *member)
                    && rings.members[member].named < NAMED_MAX
                {
                    assert_eq!(told.get(&(*member, ring)), Some(&predecessor));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn each_ring_is_one_cycle_of_all_members(
            steps in prop::collection::vec((0u32..4, 0u32..24, 0u32..4), 0..200),
            sites in 1u32..4,
            seed: u64,
        ) {
            let mut rings = Rings::default();
            let mut random = fastrand::Rng::with_seed(seed);
            let mut told = BTreeMap::new();
            for (kind, member, from) in steps {
                let placements = match kind {
                    0 | 1 => rings.join(member, site(member % sites), &mut random),
                    2 => rings.leave(member),
                    _ => match rings.predecessor(from as usize, member) {
                        Some(predecessor) => rings.unreachable(member, host(from), predecessor),
                        None => Vec::new(),
                    },
                };
                for Placement { member, ring, predecessor } in placements {
                    told.insert((member, ring), predecessor);
                }
                check(&rings, &told);
            }
        }
    }

    #[test]
    fn neighbours_are_not_repeated_where_other_positions_exist() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut rings = Rings::default();
        (0..40).for_each(|member| _ = rings.join(member, site(0), &mut random));
        let different = |member| {
            let predecessors = (0..RINGS).filter_map(|ring| rings.predecessor(ring, member));
            predecessors.collect::<BTreeSet<u32>>().len()
        };
        let all = (0..40).filter(|member| different(*member) == RINGS).count();
        assert!(all >= 36, "{all} of 40 members have four different predecessors");
    }

    #[test]
    fn a_predecessor_that_two_hosts_cannot_reach_is_removed() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut rings = Rings::default();
        (0..3).for_each(|member| _ = rings.join(member, site(0), &mut random));
        let successors = |rings: &Rings<u32>| {
            let of = |member: &u32| (0..RINGS).any(|ring| rings.predecessor(ring, *member) == Some(0));
            (1..3).filter(of).collect::<Vec<u32>>()
        };
        let [one, other] = successors(&rings)[..] else { panic!("both follow 0 in some ring") };
        assert!(
            rings.unreachable(one, host(1), 0).is_empty() && rings.unreachable(one, host(1), 0).is_empty()
        );
        assert!(rings.unreachable(9, host(9), 0).is_empty(), "not a member");
        assert_eq!(rings.count(), 3);
        assert!(!rings.unreachable(other, host(2), 0).is_empty());
        assert_eq!(rings.count(), 2);
    }

    #[test]
    fn members_and_the_addresses_named_to_one_of_them_are_limited() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut rings = Rings::default();
        rings.join(0, site(0), &mut random);
        let mut named = 0;
        for other in 1..200 {
            let placements = [rings.join(other, site(0), &mut random), rings.leave(other)].concat();
            named += placements.iter().filter(|placement| placement.member == 0).count() as u32;
        }
        assert_eq!(named, NAMED_MAX);
        (0..MEMBERS_MAX as u32 + 9).for_each(|member| _ = rings.join(member, site(0), &mut random));
        assert_eq!(rings.count(), MEMBERS_MAX);
    }
}
