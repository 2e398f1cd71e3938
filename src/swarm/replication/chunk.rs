//! A chunk's copies, small: a few dozen bytes for each chunk, whatever the number of volunteers.
//!
//! Invariant: a volunteer is named at most once among the copies of a chunk.

use super::bucket::Bucket;
use crate::swarm::keeping::VolunteerNumber;

/// Which chunk of which file: the file's place in the table of files, and the chunk's index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub file: u32,
    pub index: u32,
}

/// How a copy at a volunteer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CopyState {
    /// There, and checked in this session.
    Verified,
    /// There, says the volunteer.
    Claimed,
    /// There, but somebody got something else: it is being looked at.
    Suspect,
    /// Expected to be there: its volunteer is away, or has come back and has not told yet.
    Awaited,
    /// Was there when its volunteer was gone.
    Missed,
    /// On its way.
    Coming,
    /// Ordered to be dropped.
    Dropping,
}

use CopyState::*;

impl CopyState {
    const ALL: [CopyState; 7] = [Verified, Claimed, Suspect, Awaited, Missed, Coming, Dropping];

    /// Whether it counts as a copy.
    pub fn counts(self) -> bool {
        matches!(self, Verified | Claimed | Suspect | Awaited)
    }

    /// Whether its volunteer is here and has it.
    pub fn is_here(self) -> bool {
        matches!(self, Verified | Claimed | Suspect)
    }

    /// Whether others may copy from it.
    pub fn is_source(self) -> bool {
        matches!(self, Verified | Claimed)
    }

    /// Whether the catalogue is to know it.
    pub fn is_durable(self) -> bool {
        matches!(self, Verified | Claimed | Suspect | Awaited | Missed)
    }
}

/// A copy at a volunteer, in 32 bits: the volunteer, and 3 bits of state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Replica(u32);

/// No volunteer has a number as high as this: it would not fit beside the state.
pub(super) const VOLUNTEERS_MAX: u32 = 1 << 24;

impl Replica {
    fn new(volunteer: VolunteerNumber, state: CopyState) -> Self {
        Self(volunteer.0 << 3 | state as u32)
    }

    /// Who has it.
    pub fn volunteer(self) -> VolunteerNumber {
        VolunteerNumber(self.0 >> 3)
    }

    /// How it is.
    pub fn state(self) -> CopyState {
        CopyState::ALL.get(self.0 as usize & 7).copied().unwrap_or(Missed)
    }
}

const FEW: usize = 6;

/// The copies of one chunk, in place as long as they are few.
#[derive(Clone, Debug)]
pub(super) enum Replicas {
    Few(u8, [Replica; FEW]),
    Many(Vec<Replica>),
}

impl Default for Replicas {
    fn default() -> Self {
        Replicas::Few(0, [Replica(0); FEW])
    }
}

impl Replicas {
    /// All of them.
    pub fn all(&self) -> &[Replica] {
        match self {
            Replicas::Few(count, items) => items.get(..usize::from(*count)).unwrap_or(items),
            Replicas::Many(items) => items,
        }
    }

    /// All of them, copied out.
    pub fn iter(&self) -> impl Iterator<Item = Replica> + '_ {
        self.all().iter().copied()
    }

    /// How a volunteer's copy is.
    pub fn get(&self, volunteer: VolunteerNumber) -> Option<CopyState> {
        self.iter().find(|replica| replica.volunteer() == volunteer).map(Replica::state)
    }

    /// Changes a volunteer's copy, and returns how it was.
    pub fn set(&mut self, volunteer: VolunteerNumber, state: Option<CopyState>) -> Option<CopyState> {
        let at = self.all().iter().position(|replica| replica.volunteer() == volunteer);
        let before = at.and_then(|at| self.all().get(at)).map(|replica| replica.state());
        match (at, state) {
            (Some(at), Some(state)) => {
                if let Some(replica) = self.all_mut().get_mut(at) {
                    *replica = Replica::new(volunteer, state);
                }
            }
            (Some(at), None) => self.remove(at),
            (None, Some(state)) => self.push(Replica::new(volunteer, state)),
            (None, None) => {}
        }
        before
    }

    fn all_mut(&mut self) -> &mut [Replica] {
        match self {
            Replicas::Few(count, items) => &mut items[..usize::from(*count)],
            Replicas::Many(items) => items,
        }
    }

    fn push(&mut self, replica: Replica) {
        match self {
            Replicas::Few(count, items) => match items.get_mut(usize::from(*count)) {
                Some(free) => {
                    *free = replica;
                    *count += 1;
                }
                None => *self = Replicas::Many(items.iter().copied().chain([replica]).collect()),
            },
            Replicas::Many(items) => items.push(replica),
        }
    }

    /// Keeps the order, so that the same history gives the same placement.
    fn remove(&mut self, at: usize) {
        match self {
            Replicas::Few(count, items) => {
                items.copy_within(at + 1..usize::from(*count), at);
                *count -= 1;
            }
            Replicas::Many(items) => drop(items.remove(at)),
        }
    }
}

/// What a chunk's copies come to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Weights {
    /// Verified copies at volunteers who stay.
    pub verified: u8,
    /// Copies that count, at volunteers who stay.
    pub live: u8,
    /// Copies that count, at volunteers who are being emptied.
    pub leaving: u8,
    /// Copies at volunteers who are here.
    pub here: u8,
    /// Copies on their way.
    pub coming: u8,
}

impl Weights {
    /// Adds one copy.
    pub fn add(&mut self, state: CopyState, draining: bool) {
        let one = |condition: bool, sum: &mut u8| *sum = sum.saturating_add(condition.into());
        one(state == Verified && !draining, &mut self.verified);
        one(state.counts() && !draining, &mut self.live);
        one(state.counts() && draining, &mut self.leaving);
        one(state.is_here(), &mut self.here);
        one(state == Coming, &mut self.coming);
    }
}

/// What is counted of a chunk in its file and over all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Aspects {
    /// Fewer verified copies than are wanted.
    pub short: bool,
    /// A copy is to be made that is not on its way yet.
    pub waiting: bool,
    /// There is no copy, and none is on its way.
    pub bare: bool,
    /// It had all its copies once, has fewer now, and can be repaired.
    pub impaired: bool,
}

/// A chunk.
#[derive(Clone, Default, Debug)]
pub(super) struct Chunk {
    pub replicas: Replicas,
    pub weights: Weights,
    pub aspects: Aspects,
    /// Which queue it waits in.
    pub bucket: Bucket,
    /// The tracker's own store of chunks has it.
    pub own: bool,
    /// That copy is about to go.
    pub own_leaving: bool,
    /// It has been at a volunteer before.
    pub placed: bool,
    /// It had all its copies before.
    pub full: bool,
    /// It has been called lost.
    pub lost: bool,
    /// It has lost a verified copy since the tracker's own copy was to go.
    pub disturbed: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_small() {
        assert!(size_of::<Chunk>() <= 56, "{}", size_of::<Chunk>());
    }

    #[test]
    fn copies_are_kept_in_order_however_many_they_are() {
        let mut replicas = Replicas::default();
        let volunteers = |replicas: &Replicas| replicas.iter().map(|r| r.volunteer().0).collect::<Vec<_>>();
        for number in 0..20 {
            let state = CopyState::ALL[number as usize % 7];
            assert_eq!(replicas.set(VolunteerNumber(number), Some(state)), None);
            assert_eq!(replicas.get(VolunteerNumber(number)), Some(state));
            assert_eq!(volunteers(&replicas), (0..=number).collect::<Vec<_>>());
        }
        assert_eq!(replicas.set(VolunteerNumber(1), Some(Dropping)), Some(Claimed));
        assert_eq!(replicas.set(VolunteerNumber(1), None), Some(Dropping));
        assert_eq!(replicas.set(VolunteerNumber(1), None), None);
        assert_eq!(volunteers(&replicas), [0].into_iter().chain(2..20).collect::<Vec<_>>());
    }

    #[test]
    fn a_few_copies_are_removed_in_place() {
        let mut replicas = Replicas::default();
        for number in [5, 3, VOLUNTEERS_MAX - 1] {
            replicas.set(VolunteerNumber(number), Some(Verified));
        }
        assert_eq!(replicas.set(VolunteerNumber(5), None), Some(Verified));
        assert_eq!(replicas.get(VolunteerNumber(5)), None);
        assert_eq!(replicas.get(VolunteerNumber(VOLUNTEERS_MAX - 1)), Some(Verified));
        assert_eq!(replicas.all().len(), 2);
    }
}
