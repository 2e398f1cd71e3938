//! Challenges: all holders of a chunk hash a random range of it together with a nonce, which makes every
//! answer unique.
//!
//! If the tracker has a copy, its own hash decides. Otherwise holders with equal answers pass, and holders
//! with different answers are audited: the tracker downloads the chunk from each. A single holder cannot be
//! compared, so one in [`AUDIT_ONE_IN`] of its challenges is an audit.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::Order;
use super::replicas::CopyState;
use super::schedule::Timer;
use crate::content::{ChunkIndex, Digest, limits};
use crate::protocol::tokens::Nonce;
use crate::protocol::volunteer::ChallengedRange;
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::collections::BTreeMap;

/// Number of random chunks tried to find one that has holders to challenge.
const TRIES_MAX: usize = 16;
/// One challenge in this many becomes an audit if the chunk has a single holder.
const AUDIT_ONE_IN: u32 = 4;

/// An outstanding challenge.
#[derive(Debug)]
pub(super) struct Challenge {
    key: ChunkKey,
    deadline: Moment,
    /// The challenged holders and their answers: `None` is outstanding, `Some(None)` means no copy.
    answers: Vec<(Location, Option<Option<Digest>>)>,
}

/// The outstanding challenges by number, and the number of the last one.
#[derive(Default, Debug)]
pub(super) struct Challenges {
    pub outstanding: BTreeMap<u64, Challenge>,
    last_number: u64,
}

impl ReplicationPlanner {
    /// Challenges the holders of a random chunk of a random file, and schedules the next challenge.
    pub(super) fn challenge(&mut self, now: Moment) {
        let Some(every) = self.settings.challenge_every else { return };
        self.schedule.add(now + every, Timer::Challenge);
        let slots = self.files.slot_count() as usize;
        for _ in 0..TRIES_MAX.min(slots) {
            let slot = self.random.usize(..slots) as u32;
            let Some(count) = self.files.get(slot).map(|file| file.chunks.len()) else { continue };
            let index = self.random.usize(..count.max(1)) as u32;
            if self.challenge_chunk(now, ChunkKey { file: slot, index }) {
                return;
            }
        }
    }

    /// Challenges the holders of a chunk. Returns whether it has any.
    pub(super) fn challenge_chunk(&mut self, now: Moment, key: ChunkKey) -> bool {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return false };
        let holders = chunk.replicas.iter().filter(|replica| {
            replica.state().is_available() && self.volunteers.has_reported(replica.volunteer())
        });
        let mut to: Vec<Location> = holders.map(|replica| Location::Volunteer(replica.volunteer())).collect();
        let (id, at_tracker, length) = (file.id, file.tracker_has(chunk), file.length(key.index));
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
        // One outstanding challenge for each chunk is enough.
        if self.challenges.outstanding.values().any(|challenge| challenge.key == key) {
            return true;
        }
        to.extend(at_tracker.then_some(Location::Tracker));
        // The length of a chunk fits in 32 bits.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let part = length.min(limits::CHALLENGE_RANGE_BYTES);
        let offset = self.random.u32(..=length - part);
        let nonce = Nonce(self.random.u128(..));
        let range = ChallengedRange { file: id, index: ChunkIndex(key.index), offset, length: part, nonce };
        self.challenges.last_number += 1;
        let (number, deadline) = (self.challenges.last_number, now + limits::CHALLENGE_TIMEOUT);
        let answers = to.iter().map(|location| (*location, None)).collect();
        self.challenges.outstanding.insert(number, Challenge { key, deadline, answers });
        self.schedule.add(deadline, Timer::ChallengeTimeout(number));
        self.orders.push(Order::Challenge { number, range, to });
        true
    }

    /// Handles an answer to a challenge; `None` if the holder does not have the chunk.
    pub fn proof(&mut self, now: Moment, from: Location, number: u64, proof: Option<Digest>) {
        let Some(challenge) = self.challenges.outstanding.get_mut(&number) else { return };
        if let Some((_, answer)) = challenge.answers.iter_mut().find(|(location, _)| *location == from) {
            answer.get_or_insert(proof);
        }
        if challenge.answers.iter().all(|(_, answer)| answer.is_some()) {
            self.end_challenge(number);
            self.settle(now);
        }
    }

    /// Evaluates a challenge after all answers, or the timeout.
    pub(super) fn end_challenge(&mut self, number: u64) {
        let Some(challenge) = self.challenges.outstanding.remove(&number) else { return };
        let Challenge { key, deadline, answers } = challenge;
        self.schedule.cancel(deadline, Timer::ChallengeTimeout(number));
        let tracker_answer = answers.iter().find(|(location, _)| *location == Location::Tracker);
        let tracker_proof = tracker_answer.and_then(|(_, answer)| answer.flatten());
        let mut proofs: Vec<(VolunteerNumber, Digest)> = Vec::new();
        for (location, answer) in answers {
            let Location::Volunteer(holder) = location else { continue };
            let state = self.files.copy_state(key, holder);
            if !state.is_some_and(CopyState::is_available) {
                continue;
            }
            match answer {
                None => self.audit(key, holder),
                Some(None) => self.discard_corrupt(key, holder),
                Some(Some(proof)) => proofs.push((holder, proof)),
            }
        }
        let all_equal =
            proofs.len() > 1 && proofs.iter().all(|(_, proof)| Some(proof) == proofs.first().map(|p| &p.1));
        for (holder, proof) in &proofs {
            match tracker_proof {
                Some(right) if *proof == right => self.mark_verified(key, *holder),
                Some(_) => self.discard_corrupt(key, *holder),
                None if all_equal => self.mark_verified(key, *holder),
                None if proofs.len() > 1 => self.mark_suspect(key, *holder),
                None => {}
            }
        }
    }
}
