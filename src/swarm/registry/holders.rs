//! Cross references between a file's holders and a peer's files. Each entry stores its position in the other.
//!
//! Invariants: a peer's [`Held`] contains a file exactly if the file's [`Holders`] contain the peer, at the stored position
//! (kept together with the registry); the holders in a list are sorted by their rank.

use crate::content::FileName;
use std::collections::HashMap;

/// Position of a holder in the lists of a file. The lowest bit selects the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot(u32);

impl Spot {
    fn new(whole: bool, at: usize) -> Self {
        Self((at as u32) << 1 | u32::from(whole))
    }

    pub(super) fn is_whole(self) -> bool {
        self.0 & 1 == 1
    }

    fn at(self) -> usize {
        (self.0 >> 1) as usize
    }
}

/// A peer that has all chunks of a file, or some.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// The slot of the peer.
    pub(super) peer: u32,
    /// The first name that it gives the file.
    pub(super) name: FileName,
}

/// Order in which holders are named, so that dead addresses and the peers of one source address do not hide others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Rank {
    /// Whether the tracker has not reached the peer at any of its addresses.
    pub(super) is_unreached: bool,
    /// Whether its source address had [`FRONT_PEERS_MAX`](crate::content::limits::FRONT_PEERS_MAX) other peers when it
    /// registered.
    pub(super) is_crowded: bool,
}

/// Number of ranks.
pub(super) const RANKS: usize = 4;

impl Rank {
    /// Its place in the order, from 0.
    fn index(self) -> usize {
        2 * usize::from(self.is_unreached) + usize::from(self.is_crowded)
    }
}

/// Holders that have moved to other positions: their peers' entries must be updated.
pub(super) type Moved = [Option<(u32, Spot)>; RANKS];

/// Holders of one kind, sorted by rank.
#[derive(Debug, Default)]
struct RankedList {
    holders: Vec<Holder>,
    /// Number of holders of each rank or a lower one; that of the last rank is the length of the list.
    ends: [u32; RANKS - 1],
}

impl RankedList {
    fn end(&self, rank: usize) -> usize {
        self.ends.get(rank).map_or(self.holders.len(), |end| *end as usize)
    }

    /// Adds a holder as the last one of its rank. Returns its position, and the positions of other holders that have moved.
    fn add(&mut self, holder: Holder, rank: usize) -> (usize, [Option<usize>; RANKS]) {
        // Grow in small steps: most files have few holders, and there may be very many files.
        let list = &mut self.holders;
        if list.len() == list.capacity() {
            list.reserve_exact((list.len() / 2).max(2));
        }
        list.push(holder);
        let (mut at, mut moved) = (list.len() - 1, [None; RANKS]);
        // The first holder of each later rank becomes its last one.
        for later in (rank..RANKS - 1).rev() {
            let first = self.ends[later] as usize;
            if first != at {
                list.swap(first, at);
                moved[later] = Some(at);
                at = first;
            }
            self.ends[later] += 1;
        }
        (at, moved)
    }

    /// Removes the holder at a position. The last holder of each later rank becomes its first one.
    fn remove(&mut self, at: usize) -> Option<(Holder, [Option<usize>; RANKS])> {
        if at >= self.holders.len() {
            return None;
        }
        let rank = (0..RANKS).find(|rank| at < self.end(*rank))?;
        let (mut hole, mut moved) = (at, [None; RANKS]);
        for (later, moved) in moved.iter_mut().enumerate().skip(rank) {
            let last = self.end(later) - 1;
            if hole != last {
                self.holders.swap(hole, last);
                *moved = Some(hole);
                hole = last;
            }
            if let Some(end) = self.ends.get_mut(later) {
                *end -= 1;
            }
        }
        let holder = self.holders.pop()?;
        if self.holders.len() < self.holders.capacity() / 4 {
            self.holders.shrink_to(self.holders.len() * 2);
        }
        Some((holder, moved))
    }
}

/// The holders of a file: complete ones and partial ones in separate lists, for random draws.
#[derive(Debug, Default)]
pub(super) struct Holders {
    whole: RankedList,
    partial: RankedList,
}

impl Holders {
    fn ranked(&self, whole: bool) -> &RankedList {
        if whole { &self.whole } else { &self.partial }
    }

    fn ranked_mut(&mut self, whole: bool) -> &mut RankedList {
        if whole { &mut self.whole } else { &mut self.partial }
    }

    /// The complete holders (`whole`) or the partial ones.
    pub(super) fn list(&self, whole: bool) -> &[Holder] {
        &self.ranked(whole).holders
    }

    /// As [`list`](Self::list), separately for each rank.
    pub(super) fn by_rank(&self, whole: bool) -> [&[Holder]; RANKS] {
        let list = self.ranked(whole);
        std::array::from_fn(|rank| {
            let start = rank.checked_sub(1).map_or(0, |before| list.end(before));
            list.holders.get(start..list.end(rank)).unwrap_or_default()
        })
    }

    /// The ranks in whose part of the list a position is: one.
    #[cfg(test)]
    pub(super) fn ranks_at(&self, spot: Spot) -> Vec<Rank> {
        let list = self.ranked(spot.is_whole());
        let all = [(false, false), (false, true), (true, false), (true, true)];
        let all = all.map(|(is_unreached, is_crowded)| Rank { is_unreached, is_crowded });
        let starts = |rank: &Rank| rank.index().checked_sub(1).map_or(0, |before| list.end(before));
        all.into_iter().filter(|rank| (starts(rank)..list.end(rank.index())).contains(&spot.at())).collect()
    }

    /// Number of holders of both kinds.
    pub(super) fn len(&self) -> usize {
        self.list(true).len() + self.list(false).len()
    }

    /// The holder at a position, and whether it is complete.
    pub(super) fn get(&self, spot: Spot) -> Option<(&Holder, bool)> {
        Some((self.list(spot.is_whole()).get(spot.at())?, spot.is_whole()))
    }

    /// The holder at a position, for a change of its name.
    pub(super) fn get_mut(&mut self, spot: Spot) -> Option<&mut Holder> {
        self.ranked_mut(spot.is_whole()).holders.get_mut(spot.at())
    }

    /// Adds a new holder. Returns its position, and the holders that have moved for it.
    pub(super) fn add(&mut self, holder: Holder, whole: bool, rank: Rank) -> (Spot, Moved) {
        let (at, moved) = self.ranked_mut(whole).add(holder, rank.index());
        (Spot::new(whole, at), self.moved_to(whole, moved))
    }

    /// Removes the holder at a position. Returns the holders that have moved into its place.
    pub(super) fn remove(&mut self, spot: Spot) -> Option<(Holder, Moved)> {
        let (holder, moved) = self.ranked_mut(spot.is_whole()).remove(spot.at())?;
        Some((holder, self.moved_to(spot.is_whole(), moved)))
    }

    /// The peers of the holders at these positions.
    fn moved_to(&self, whole: bool, positions: [Option<usize>; RANKS]) -> Moved {
        positions.map(|at| at.and_then(|at| Some((self.list(whole).get(at)?.peer, Spot::new(whole, at)))))
    }
}

/// The files of a peer, by number, and its position among the holders of each. Most peers have one file.
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    One(u32, Spot),
    #[expect(
        clippy::box_collection,
        reason = "an inline table would enlarge every peer, and few peers need one"
    )]
    Many(Box<HashMap<u32, Spot>>),
}

impl Held {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(..) => 1,
            Self::Many(spots) => spots.len(),
        }
    }

    /// The peer's position among the holders of a file.
    pub(super) fn get(&self, file: u32) -> Option<Spot> {
        match self {
            Self::One(one, spot) if *one == file => Some(*spot),
            Self::Many(spots) => spots.get(&file).copied(),
            _ => None,
        }
    }

    /// Stores the peer's position among the holders of a file.
    pub(super) fn put(&mut self, file: u32, spot: Spot) {
        match self {
            Self::Nothing => *self = Self::One(file, spot),
            Self::One(one, before) if *one == file => *before = spot,
            Self::One(one, before) => *self = Self::Many(Box::new([(*one, *before), (file, spot)].into())),
            Self::Many(spots) => _ = spots.insert(file, spot),
        }
    }

    /// Removes a file and returns the peer's position among its holders.
    pub(super) fn remove(&mut self, file: u32) -> Option<Spot> {
        match self {
            Self::One(one, spot) if *one == file => {
                let spot = *spot;
                *self = Self::Nothing;
                Some(spot)
            }
            Self::Many(spots) => spots.remove(&file),
            _ => None,
        }
    }

    /// All files and positions.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Spot)> + '_ {
        let one = match self {
            Self::One(file, spot) => Some((*file, *spot)),
            _ => None,
        };
        let many = match self {
            Self::Many(spots) => Some(spots.iter().map(|(file, spot)| (*file, *spot))),
            _ => None,
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}
