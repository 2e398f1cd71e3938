//! Challenges: all holders of a chunk hash a random range of it together with a nonce, which makes every
//! answer unique.
//!
//! If the tracker has a copy, its own hash decides. Otherwise holders with equal answers pass, and holders
//! with different answers are audited: the tracker downloads the chunk from each. A single holder cannot be
//! compared, so one in [`AUDIT_ONE_IN`] of its challenges is an audit.

use super::chunk::{CopyState, Key};
use super::volunteer::Volunteer;
use super::{Order, ReplicationPlanner, Timer};
use crate::content::{ChunkIndex, Digest, limits};
use crate::protocol::tokens::Nonce;
use crate::protocol::volunteer::ChallengedRange;
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};

/// Number of random chunks tried to find one that has holders to challenge.
const TRIES_MAX: usize = 16;
/// One challenge in this many becomes an audit if the chunk has a single holder.
const AUDIT_ONE_IN: u32 = 4;

/// An outstanding challenge.
#[derive(Debug)]
pub(super) struct Challenge {
    key: Key,
    over: Moment,
    /// The challenged holders and their answers: `None` is outstanding, `Some(None)` means no copy.
    asked: Vec<(Location, Option<Option<Digest>>)>,
}

impl ReplicationPlanner {
    /// Challenges the holders of a random chunk of a random file.
    pub(super) fn challenge(&mut self, now: Moment) {
        let Some(every) = self.settings.challenge_every else { return };
        self.after(now + every, Timer::Challenge);
        for _ in 0..TRIES_MAX.min(self.files.len()) {
            let slot = self.random.usize(..self.files.len()) as u32;
            let Some(count) = self.file(slot).map(|file| file.chunks.len()) else { continue };
            let index = self.random.usize(..count.max(1)) as u32;
            if self.challenge_chunk(now, Key { file: slot, index }) {
                return;
            }
        }
    }

    /// Challenges the holders of a chunk. Returns whether it has any.
    pub(super) fn challenge_chunk(&mut self, now: Moment, key: Key) -> bool {
        let Some(file) = self.file(key.file) else { return false };
        let Some(chunk) = file.chunks.get(key.index as usize) else { return false };
        let holders = chunk.replicas.iter().filter(|replica| {
            replica.state().is_here() && self.at(replica.volunteer()).is_some_and(Volunteer::has_reported)
        });
        let mut to: Vec<Location> = holders.map(|replica| Location::Volunteer(replica.volunteer())).collect();
        let (id, at_tracker, length) = (file.id, file.has(chunk), file.length(key.index));
        match (&to[..], at_tracker) {
            ([], _) => return false,
            ([Location::Volunteer(only)], false) => {
                let only = *only;
                if self.random.u32(..AUDIT_ONE_IN) == 0 {
                    self.audit(key, only);
                }
                return true;
            }
            _ => {}
        }
        if self.challenges.values().any(|challenge| challenge.key == key) {
            return true;
        }
        to.extend(at_tracker.then_some(Location::Tracker));
        // The length of a chunk fits in 32 bits.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let asked = length.min(limits::CHALLENGE_RANGE_BYTES);
        let offset = self.random.u32(..=length - asked);
        let nonce = Nonce(self.random.u128(..));
        let range = ChallengedRange { file: id, index: ChunkIndex(key.index), offset, length: asked, nonce };
        self.challenge_last += 1;
        let (number, over) = (self.challenge_last, now + limits::CHALLENGE_TIMEOUT);
        let unanswered = to.iter().map(|location| (*location, None)).collect();
        self.challenges.insert(number, Challenge { key, over, asked: unanswered });
        self.after(over, Timer::Answered(number));
        self.orders.push(Order::Challenge { number, range, to });
        true
    }

    /// Handles an answer to a challenge; `None` if the holder does not have the chunk.
    pub fn proof(&mut self, now: Moment, from: Location, number: u64, proof: Option<Digest>) {
        let Some(challenge) = self.challenges.get_mut(&number) else { return };
        if let Some((_, answer)) = challenge.asked.iter_mut().find(|(location, _)| *location == from) {
            answer.get_or_insert(proof);
        }
        if challenge.asked.iter().all(|(_, answer)| answer.is_some()) {
            self.challenge_over(number);
            self.settle(now);
        }
    }

    /// Evaluates a challenge after all answers, or the timeout.
    pub(super) fn challenge_over(&mut self, number: u64) {
        let Some(Challenge { key, over, asked }) = self.challenges.remove(&number) else { return };
        self.timers.remove(&(over, Timer::Answered(number)));
        let own = asked.iter().find(|(location, _)| *location == Location::Tracker);
        let own = own.and_then(|(_, answer)| answer.flatten());
        let mut proofs: Vec<(VolunteerNumber, Digest)> = Vec::new();
        for (location, answer) in asked {
            let Location::Volunteer(holder) = location else { continue };
            let state = self.state(key, holder);
            if !state.is_some_and(CopyState::is_here) {
                continue;
            }
            match answer {
                None => self.audit(key, holder),
                Some(None) => self.condemn(key, holder),
                Some(Some(proof)) => proofs.push((holder, proof)),
            }
        }
        let agreed =
            proofs.len() > 1 && proofs.iter().all(|(_, proof)| Some(proof) == proofs.first().map(|p| &p.1));
        for (holder, proof) in &proofs {
            match own {
                Some(own) if *proof == own => self.prove(key, *holder),
                Some(_) => self.condemn(key, *holder),
                None if agreed => self.prove(key, *holder),
                None if proofs.len() > 1 => self.suspect(key, *holder),
                None => {}
            }
        }
    }
}
