//! Who holds a file, and what a peer holds, each able to find its place in the other at once.
//!
//! Invariant, kept together with the registry: a peer's [`Held`] names a file exactly when the file's [`Holders`] name
//! the peer, and says where.

use crate::content::FileName;
use std::collections::HashMap;

/// Where a holder stands among the holders of a file: in which list, and where in it. The lowest bit is the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Spot(u32);

impl Spot {
    fn new(whole: bool, at: usize) -> Self {
        Self((at as u32) << 1 | u32::from(whole))
    }

    fn whole(self) -> bool {
        self.0 & 1 == 1
    }

    fn at(self) -> usize {
        (self.0 >> 1) as usize
    }
}

/// A peer that has all of a file, or a part of it.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// The place of the peer.
    pub(super) peer: u32,
    /// What it calls the file.
    pub(super) name: FileName,
}

/// The holders of a file: a list of those who have all of it and one of the others, to draw from at random.
#[derive(Debug, Default)]
pub(super) struct Holders {
    whole: Vec<Holder>,
    partial: Vec<Holder>,
}

impl Holders {
    /// Those who have all of it, or the others.
    pub(super) fn list(&self, whole: bool) -> &[Holder] {
        if whole { &self.whole } else { &self.partial }
    }

    fn list_mut(&mut self, whole: bool) -> &mut Vec<Holder> {
        if whole { &mut self.whole } else { &mut self.partial }
    }

    /// How many there are, of both kinds.
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.partial.len()
    }

    /// The holder at a spot, and whether it has all of the file.
    pub(super) fn get(&self, spot: Spot) -> Option<(&Holder, bool)> {
        Some((self.list(spot.whole()).get(spot.at())?, spot.whole()))
    }

    /// Adds a holder that is not there yet.
    pub(super) fn add(&mut self, holder: Holder, whole: bool) -> Spot {
        let list = self.list_mut(whole);
        // A few at a time while there are few: most files have few holders, and there may be many files.
        if list.len() == list.capacity() {
            list.reserve_exact((list.len() / 2).max(2));
        }
        list.push(holder);
        Spot::new(whole, list.len() - 1)
    }

    /// Removes the holder at a spot. Another one may take its place: its peer has to be told the spot.
    pub(super) fn remove(&mut self, spot: Spot) -> Option<(Holder, Option<u32>)> {
        let list = self.list_mut(spot.whole());
        if spot.at() >= list.len() {
            return None;
        }
        let holder = list.swap_remove(spot.at());
        if list.len() < list.capacity() / 4 {
            list.shrink_to(list.len() * 2);
        }
        Some((holder, list.get(spot.at()).map(|moved| moved.peer)))
    }
}

/// The files that a peer has, by their numbers, and its spot among the holders of each. Most peers have one.
#[derive(Debug, Default)]
pub(super) enum Held {
    /// None.
    #[default]
    Nothing,
    /// One.
    One(u32, Spot),
    /// More, or fewer again.
    #[expect(
        clippy::box_collection,
        reason = "a table would make room for itself in every peer, and few have one"
    )]
    Many(Box<HashMap<u32, Spot>>),
}

impl Held {
    /// How many.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(..) => 1,
            Self::Many(spots) => spots.len(),
        }
    }

    /// The spot among the holders of a file.
    pub(super) fn get(&self, file: u32) -> Option<Spot> {
        match self {
            Self::One(one, spot) if *one == file => Some(*spot),
            Self::Many(spots) => spots.get(&file).copied(),
            _ => None,
        }
    }

    /// Notes the spot among the holders of a file.
    pub(super) fn put(&mut self, file: u32, spot: Spot) {
        match self {
            Self::Nothing => *self = Self::One(file, spot),
            Self::One(one, before) if *one == file => *before = spot,
            Self::One(one, before) => *self = Self::Many(Box::new([(*one, *before), (file, spot)].into())),
            Self::Many(spots) => _ = spots.insert(file, spot),
        }
    }

    /// Notes that the peer does not have a file any more, and returns where it stood.
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

    /// All files and spots.
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
