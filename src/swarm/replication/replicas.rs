//! Copies of a chunk in a compact form: a few dozen bytes per chunk for any number of volunteers.
//!
//! Invariant: a chunk has at most one copy entry for each volunteer.

use crate::swarm::keeping::VolunteerNumber;

/// State of a copy at a volunteer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CopyState {
    /// Present, and proven in this session.
    Proven,
    /// Present: stored as ordered, or reported again after an absence. The proof is pending.
    Stored,
    /// Present according to the volunteer. It does not count before a proof.
    Claimed,
    /// A proof was wrong, or a receiver got other bytes: the volunteer was told to hash it again.
    Refuted,
    /// Its volunteer is away and expected back soon or within its announced absence, or has not reported it yet.
    Awaited,
    /// Its volunteer is away and its lease is over.
    Silent,
    /// It does not count: its volunteer is lost, or the connection closed after a drop was ordered.
    Missed,
    /// In flight.
    Coming,
    /// A drop is ordered.
    Dropping,
    /// It was proven or stored, and the last proof of its volunteer, of another copy, was wrong. It does not count
    /// before the next right proof of its volunteer.
    Suspected,
}

use CopyState::*;

impl CopyState {
    const ALL: [CopyState; 10] =
        [Proven, Stored, Claimed, Refuted, Awaited, Silent, Missed, Coming, Dropping, Suspected];

    /// Whether it counts as a copy in any case. A silent copy counts while enough other copies are safe.
    pub fn counts(self) -> bool {
        matches!(self, Proven | Stored | Awaited)
    }

    /// Whether other volunteers may copy from it.
    pub fn is_source(self) -> bool {
        matches!(self, Proven | Stored | Claimed | Suspected)
    }

    /// Whether its volunteer is connected and has it, proven or not.
    pub fn is_present(self) -> bool {
        matches!(self, Proven | Stored | Claimed | Refuted | Suspected)
    }

    /// Whether its volunteer is connected and it counts.
    pub fn is_readable(self) -> bool {
        matches!(self, Proven | Stored)
    }

    /// Whether its volunteer is away and expected back.
    pub fn is_away(self) -> bool {
        matches!(self, Awaited | Silent)
    }

    /// Whether it takes space at its volunteer, which is not lost.
    pub fn is_held(self) -> bool {
        self.is_present() || self.is_away()
    }

    /// Whether a proof is pending.
    pub fn needs_proof(self) -> bool {
        matches!(self, Stored | Claimed | Suspected)
    }

    /// Whether the catalogue contains it.
    pub fn is_in_catalogue(self) -> bool {
        matches!(self, Proven | Stored | Awaited | Silent | Missed | Suspected)
    }
}

/// A copy at a volunteer in 32 bits: the volunteer's number and 4 bits of state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Replica(u32);

/// Limit of volunteer numbers, so that number and state fit in 32 bits.
pub(super) const VOLUNTEERS_MAX: u32 = 1 << 24;

impl Replica {
    fn new(volunteer: VolunteerNumber, state: CopyState) -> Self {
        Self(volunteer.0 << 4 | state as u32)
    }

    /// The volunteer that has it.
    pub fn volunteer(self) -> VolunteerNumber {
        VolunteerNumber(self.0 >> 4)
    }

    /// Its state.
    pub fn state(self) -> CopyState {
        CopyState::ALL.get(self.0 as usize & 15).copied().unwrap_or(Missed)
    }
}

/// Number of copies that are stored without a heap allocation.
const INLINE_MAX: usize = 6;

/// The copies of one chunk, stored inline while there are at most [`INLINE_MAX`].
#[derive(Clone, Debug)]
pub(super) enum Replicas {
    Inline(u8, [Replica; INLINE_MAX]),
    Heap(Vec<Replica>),
}

impl Default for Replicas {
    fn default() -> Self {
        Replicas::Inline(0, [Replica(0); INLINE_MAX])
    }
}

impl Replicas {
    pub fn all(&self) -> &[Replica] {
        match self {
            Replicas::Inline(count, items) => items.get(..usize::from(*count)).unwrap_or(items),
            Replicas::Heap(items) => items,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Replica> + '_ {
        self.all().iter().copied()
    }

    /// State of a volunteer's copy.
    pub fn get(&self, volunteer: VolunteerNumber) -> Option<CopyState> {
        self.iter().find(|replica| replica.volunteer() == volunteer).map(Replica::state)
    }

    /// Sets the state of a volunteer's copy and returns the previous one.
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
            Replicas::Inline(count, items) => &mut items[..usize::from(*count)],
            Replicas::Heap(items) => items,
        }
    }

    fn push(&mut self, replica: Replica) {
        match self {
            Replicas::Inline(count, items) => match items.get_mut(usize::from(*count)) {
                Some(free) => {
                    *free = replica;
                    *count += 1;
                }
                None => *self = Replicas::Heap(items.iter().copied().chain([replica]).collect()),
            },
            Replicas::Heap(items) => items.push(replica),
        }
    }

    /// Preserves the order, so that equal histories give equal plans.
    fn remove(&mut self, at: usize) {
        match self {
            Replicas::Inline(count, items) => {
                items.copy_within(at + 1..usize::from(*count), at);
                *count -= 1;
            }
            Replicas::Heap(items) => drop(items.remove(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_ordered_in_both_representations() {
        let mut replicas = Replicas::default();
        let volunteers = |replicas: &Replicas| replicas.iter().map(|r| r.volunteer().0).collect::<Vec<_>>();
        for number in 0..20 {
            let state = CopyState::ALL[number as usize % 9];
            assert_eq!(replicas.set(VolunteerNumber(number), Some(state)), None);
            assert_eq!(replicas.get(VolunteerNumber(number)), Some(state));
            assert_eq!(volunteers(&replicas), (0..=number).collect::<Vec<_>>());
        }
        assert_eq!(replicas.set(VolunteerNumber(1), Some(Dropping)), Some(Stored));
        assert_eq!(replicas.set(VolunteerNumber(1), None), Some(Dropping));
        assert_eq!(replicas.set(VolunteerNumber(1), None), None);
        assert_eq!(volunteers(&replicas), [0].into_iter().chain(2..20).collect::<Vec<_>>());
    }

    #[test]
    fn inline_copies_are_removed_in_place() {
        let mut replicas = Replicas::default();
        for number in [5, 3, VOLUNTEERS_MAX - 1] {
            replicas.set(VolunteerNumber(number), Some(Proven));
        }
        assert_eq!(replicas.set(VolunteerNumber(5), None), Some(Proven));
        assert_eq!(replicas.get(VolunteerNumber(5)), None);
        assert_eq!(replicas.get(VolunteerNumber(VOLUNTEERS_MAX - 1)), Some(Proven));
        assert_eq!(replicas.all().len(), 2);
    }
}
