//! Having copies proven: a random range of a chunk is hashed by all who hold it, with a number that makes the answer
//! unlike any that was given before.
//!
//! Where the tracker has a copy of its own, that decides. Where it has none, holders that agree are believed, and
//! holders that do not are audited: the tracker fetches the chunk from each. One single holder has nobody to agree
//! with, so it is now and then audited instead of challenged.

use super::chunk::{CopyState, Key};
use super::volunteer::Volunteer;
use super::{Order, Placement, Timer};
use crate::content::{ChunkIndex, Digest, limits};
use crate::protocol::tokens::Nonce;
use crate::protocol::volunteer::ChallengedRange;
use crate::swarm::Moment;
use crate::swarm::keeping::{Place, VolunteerNumber};

/// Chunks that are looked at to find one that can be challenged.
const TRIES: usize = 16;
/// One in so many chunks with a single holder is audited.
const AUDIT_ONE_IN: u32 = 4;

/// A challenge that has not been answered by all.
#[derive(Debug)]
pub(super) struct Challenge {
    key: Key,
    over: Moment,
    /// Who was asked, and what each has answered.
    asked: Vec<(Place, Option<Option<Digest>>)>,
}

impl Placement {
    /// Challenges the holders of some chunk: a random one of a random file.
    pub(super) fn challenge(&mut self, now: Moment) {
        let Some(every) = self.settings.challenge_every else { return };
        self.after(now + every, Timer::Challenge);
        for _ in 0..TRIES.min(self.files.len()) {
            let slot = self.random.usize(..self.files.len()) as u32;
            let Some(count) = self.file(slot).map(|file| file.chunks.len()) else { continue };
            let index = self.random.usize(..count.max(1)) as u32;
            if self.challenge_chunk(now, Key { file: slot, index }) {
                return;
            }
        }
    }

    /// Challenges the holders of a chunk. Returns whether there are any.
    pub(super) fn challenge_chunk(&mut self, now: Moment, key: Key) -> bool {
        let Some(file) = self.file(key.file) else { return false };
        let Some(chunk) = file.chunks.get(key.index as usize) else { return false };
        let holders = chunk.replicas.iter().filter(|replica| {
            replica.state().is_here() && self.at(replica.volunteer()).is_some_and(Volunteer::has_reported)
        });
        let mut to: Vec<Place> = holders.map(|replica| Place::Volunteer(replica.volunteer())).collect();
        let (id, at_tracker, length) = (file.id, file.has(chunk), file.length(key.index));
        match (&to[..], at_tracker) {
            ([], _) => return false,
            ([Place::Volunteer(only)], false) => {
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
        to.extend(at_tracker.then_some(Place::Tracker));
        // A chunk's length fits 32 bits.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let asked = length.min(limits::CHALLENGE_RANGE_BYTES);
        let offset = self.random.u32(..=length - asked);
        let nonce = Nonce(self.random.u128(..));
        let range = ChallengedRange { file: id, index: ChunkIndex(key.index), offset, length: asked, nonce };
        self.challenge_last += 1;
        let (number, over) = (self.challenge_last, now + limits::CHALLENGE_TIMEOUT);
        let unanswered = to.iter().map(|place| (*place, None)).collect();
        self.challenges.insert(number, Challenge { key, over, asked: unanswered });
        self.after(over, Timer::Answered(number));
        self.orders.push(Order::Challenge { number, range, to });
        true
    }

    /// An answer to a challenge; nothing: the chunk is not there.
    pub fn proof(&mut self, now: Moment, from: Place, number: u64, proof: Option<Digest>) {
        let Some(challenge) = self.challenges.get_mut(&number) else { return };
        if let Some((_, answer)) = challenge.asked.iter_mut().find(|(place, _)| *place == from) {
            answer.get_or_insert(proof);
        }
        if challenge.asked.iter().all(|(_, answer)| answer.is_some()) {
            self.challenge_over(number);
            self.settle(now);
        }
    }

    /// Everybody has answered, or has had the time to.
    pub(super) fn challenge_over(&mut self, number: u64) {
        let Some(Challenge { key, over, asked }) = self.challenges.remove(&number) else { return };
        self.timers.remove(&(over, Timer::Answered(number)));
        let own = asked.iter().find(|(place, _)| *place == Place::Tracker);
        let own = own.and_then(|(_, answer)| answer.flatten());
        let mut proofs: Vec<(VolunteerNumber, Digest)> = Vec::new();
        for (place, answer) in asked {
            let Place::Volunteer(holder) = place else { continue };
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
