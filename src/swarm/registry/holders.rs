//! Cross references between a file's holders and a peer's files. Each entry stores its position in the other.
//!
//! Invariant, kept together with the registry: a peer's [`Held`] contains a file exactly if the file's
//! [`Holders`] contain the peer, at the stored position.

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

/// The holders of a file: complete ones and partial ones in separate lists, for random draws.
#[derive(Debug, Default)]
pub(super) struct Holders {
    whole: Vec<Holder>,
    partial: Vec<Holder>,
}

impl Holders {
    /// The complete holders (`whole`) or the partial ones.
    pub(super) fn list(&self, whole: bool) -> &[Holder] {
        if whole { &self.whole } else { &self.partial }
    }

    fn list_mut(&mut self, whole: bool) -> &mut Vec<Holder> {
        if whole { &mut self.whole } else { &mut self.partial }
    }

    /// Number of holders of both kinds.
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.partial.len()
    }

    /// The holder at a position, and whether it is complete.
    pub(super) fn get(&self, spot: Spot) -> Option<(&Holder, bool)> {
        Some((self.list(spot.is_whole()).get(spot.at())?, spot.is_whole()))
    }

    /// The holder at a position, for a change of its name.
    pub(super) fn get_mut(&mut self, spot: Spot) -> Option<&mut Holder> {
        self.list_mut(spot.is_whole()).get_mut(spot.at())
    }

    /// Adds a new holder.
    pub(super) fn add(&mut self, holder: Holder, whole: bool) -> Spot {
        let list = self.list_mut(whole);
        // Grow in small steps: most files have few holders, and there may be very many files.
        if list.len() == list.capacity() {
            list.reserve_exact((list.len() / 2).max(2));
        }
        list.push(holder);
        Spot::new(whole, list.len() - 1)
    }

    /// Removes the holder at a position. The last holder of the list may move there: its peer's entry must be
    /// updated.
    pub(super) fn remove(&mut self, spot: Spot) -> Option<(Holder, Option<u32>)> {
        let list = self.list_mut(spot.is_whole());
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
