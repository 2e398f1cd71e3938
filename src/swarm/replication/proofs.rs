//! Possession proofs: which copies are proven next.
//!
//! The tracker dials the holders of a chunk and compares their proofs with verified bytes. Proofs must not slow
//! copies: if the tracker has to download the chunk, they wait until nothing is in flight to or from the volunteer, or
//! for [`limits::PROOF_DELAY_MAX`]; of other chunks, few are in flight at a time meanwhile. A volunteer whose proofs are wrong or cannot be had is asked after a backoff, one
//! proof at a time, and such volunteers together take at most half of all proofs in flight.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::Order;
use super::replicas::CopyState;
use super::schedule::Timer;
use super::volunteer::Volunteer;
use crate::content::{ChunkIndex, limits};
use crate::swarm::Moment;
use crate::swarm::keeping::VolunteerNumber;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// Number of random chunks tried to find one that has holders to challenge.
const CHALLENGE_TRIES_MAX: usize = 16;
/// Proofs in flight of volunteers that are busy with copies, for which the tracker downloads the chunk.
const BUSY_PROOFS_MAX: usize = 1;
/// The same for chunks of which the tracker has a copy: such a proof takes only some CPU time. The rest of the slots is
/// left for proofs that a decision waits for.
const BUSY_OWN_PROOFS_MAX: usize = limits::PROOFS_IN_FLIGHT_MAX * 3 / 4;
/// Proofs in flight for which the tracker downloads the chunk and that no decision waits for.
const DOWNLOADED_PROOFS_MAX: usize = 6;
/// Proofs in flight of volunteers whose last proof was wrong or could not be had.
const DOUBTFUL_PROOFS_MAX: usize = limits::PROOFS_IN_FLIGHT_MAX / 2;
/// Chunks that a decision waits for.
pub(super) const WANTED_MAX: usize = 256;
/// Volunteers examined in one planning run.
const EXAMINED_MAX: usize = 64;
/// Chunks of one volunteer examined in one planning run.
const CHUNKS_EXAMINED_MAX: usize = 256;
/// Shortest interval between two planning runs for pending proofs.
const PLAN_INTERVAL: Duration = Duration::from_millis(250);

/// An outstanding proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Proof {
    pub key: ChunkKey,
    pub holders: Vec<VolunteerNumber>,
    deadline: Moment,
    /// A decision waits for it, or it is a challenge.
    pub is_wanted: bool,
    /// A holder was busy with copies.
    is_busy: bool,
    /// The last proof of a holder was wrong or could not be had.
    is_doubtful: bool,
    /// The tracker downloads the chunk, and no decision waits for the proof.
    is_downloaded: bool,
}

/// Outstanding and pending proofs, and the times of recent ones.
#[derive(Default, Debug)]
pub(super) struct Proofs {
    pub outstanding: BTreeMap<u64, Proof>,
    last_number: u64,
    /// Volunteers with copies whose proof is pending.
    pub pending: BTreeSet<VolunteerNumber>,
    /// The volunteer that was examined last, or at the end of a run the last one that got an order.
    cursor: Option<VolunteerNumber>,
    /// Chunks of which all copies are to be proven, because a decision waits for it.
    pub wanted: BTreeSet<ChunkKey>,
    /// Stored copies whose proof could not be had, and the time of the first attempt.
    pub undecided: BTreeMap<(VolunteerNumber, ChunkKey), Moment>,
    recent: Recent,
    /// Time of the next planning run, if one is scheduled.
    next_run: Option<Moment>,
}

/// Times of the proofs of the last [`limits::PROOF_AGE_MAX`].
#[derive(Default, Debug)]
struct Recent {
    times: BTreeMap<(ChunkKey, VolunteerNumber), Moment>,
    order: VecDeque<(Moment, ChunkKey, VolunteerNumber)>,
}

impl Proofs {
    /// Notes a right proof.
    pub fn note_proof(&mut self, now: Moment, key: ChunkKey, number: VolunteerNumber) {
        self.recent.times.insert((key, number), now);
        self.recent.order.push_back((now, key, number));
        self.expire_recent(now);
    }

    /// Whether a copy was proven within [`limits::PROOF_AGE_MAX`].
    pub fn is_recent(&self, now: Moment, key: ChunkKey, number: VolunteerNumber) -> bool {
        let proven = self.recent.times.get(&(key, number));
        proven.is_some_and(|at| now <= *at + limits::PROOF_AGE_MAX)
    }

    fn expire_recent(&mut self, now: Moment) {
        while let Some((at, key, number)) = self.recent.order.front().copied()
            && at + limits::PROOF_AGE_MAX < now
        {
            self.recent.order.pop_front();
            if self.recent.times.get(&(key, number)) == Some(&at) {
                self.recent.times.remove(&(key, number));
            }
        }
    }

    /// Removes everything about a forgotten file.
    pub fn forget_file(&mut self, slot: u32) {
        self.wanted.retain(|key| key.file != slot);
        self.undecided.retain(|(_, key), _| key.file != slot);
    }

    /// Whether a proof of a chunk is outstanding.
    pub fn is_outstanding(&self, key: ChunkKey) -> bool {
        self.outstanding.values().any(|proof| proof.key == key)
    }

    /// Number of outstanding proofs that `accept` accepts.
    fn count(&self, accept: impl Fn(&Proof) -> bool) -> usize {
        self.outstanding.values().filter(|proof| accept(proof)).count()
    }
}

/// Why a proof is requested.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// A copy has not been proven in this session.
    Pending,
    /// A decision waits for it, or it is a challenge: all copies are proven.
    Wanted,
}

/// Result of an attempt to request a proof.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    Ordered,
    /// It is possible later.
    Later,
    /// No holder can be asked.
    Impossible,
}

impl ReplicationPlanner {
    /// Challenges all holders of a random chunk of a random kept file, and schedules the next challenge.
    pub(super) fn challenge(&mut self, now: Moment) {
        let Some(every) = self.settings.challenge_every else { return };
        self.schedule.add(now + every, Timer::Challenge);
        for _ in 0..CHALLENGE_TRIES_MAX {
            let Some(slot) = self.files.random_slot(&mut self.random) else { return };
            let count = self.files.get(slot).map_or(0, |file| file.chunks.len());
            let index = self.random.usize(..count.max(1)) as u32;
            let key = ChunkKey { file: slot, index };
            if self.has_holder_to_prove(key) {
                self.want_proof(key);
                return;
            }
        }
    }

    fn has_holder_to_prove(&self, key: ChunkKey) -> bool {
        let replicas = self.files.chunk(key).into_iter().flat_map(|chunk| chunk.replicas.iter());
        let mut present = replicas.filter(|replica| {
            replica.state().is_source() && self.volunteers.has_reported(replica.volunteer())
        });
        present.next().is_some()
    }

    /// Requests proofs of all copies of a chunk. Returns whether there is space for the request.
    pub(super) fn want_proof(&mut self, key: ChunkKey) -> bool {
        let has_space = self.proofs.wanted.len() < WANTED_MAX;
        if has_space {
            self.proofs.wanted.insert(key);
        }
        has_space || self.proofs.wanted.contains(&key)
    }

    /// Orders the proofs that are due.
    pub(super) fn plan_proofs(&mut self, now: Moment) {
        self.feed_verifications();
        self.plan_wanted_proofs(now);
        let mut examined = 0;
        let mut next_run: Option<Moment> = None;
        let mut last_ordered = None;
        while examined < EXAMINED_MAX.min(self.proofs.pending.len()) && self.has_proof_slot() {
            examined += 1;
            let Some(number) = self.next_pending_volunteer() else { break };
            let Some(volunteer) = self.volunteers.get(number).filter(|volunteer| volunteer.unproven > 0)
            else {
                self.proofs.pending.remove(&number);
                continue;
            };
            if !volunteer.has_reported() {
                // It is added again with its next copy.
                if !volunteer.is_alive() {
                    self.proofs.pending.remove(&number);
                }
                continue;
            }
            let ready_at = volunteer.trust.retry_at;
            if now < ready_at {
                next_run = Some(next_run.map_or(ready_at, |next| next.min(ready_at)));
                continue;
            }
            if self.plan_proof_of(now, number) == Attempt::Ordered {
                last_ordered = Some(number);
            } else {
                let next = now + PLAN_INTERVAL;
                next_run = Some(next_run.map_or(next, |other| other.min(next)));
            }
        }
        // The next run begins behind it. Otherwise each freed slot would go to the same volunteer, because the run that uses
        // the slot examines all others once without an effect.
        self.proofs.cursor = last_ordered.or(self.proofs.cursor);
        if next_run.is_none() && !self.proofs.pending.is_empty() && self.has_proof_slot() {
            next_run = Some(now + PLAN_INTERVAL);
        }
        if let Some(next) = next_run {
            self.schedule_proofs(now.max(next));
        }
    }

    fn has_proof_slot(&self) -> bool {
        self.proofs.outstanding.len() < limits::PROOFS_IN_FLIGHT_MAX
    }

    fn schedule_proofs(&mut self, at: Moment) {
        if self.proofs.next_run.is_none_or(|next| at < next) {
            if let Some(next) = self.proofs.next_run {
                self.schedule.cancel(next, Timer::Proofs);
            }
            self.proofs.next_run = Some(at);
            self.schedule.add(at, Timer::Proofs);
        }
    }

    /// Notes that a scheduled planning run has begun.
    pub(super) fn begin_proof_run(&mut self) {
        self.proofs.next_run = None;
    }

    fn plan_wanted_proofs(&mut self, now: Moment) {
        let mut after: Option<ChunkKey> = None;
        while self.has_proof_slot() {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let Some(key) = self.proofs.wanted.range((from, Bound::Unbounded)).next().copied() else {
                return;
            };
            after = Some(key);
            match self.request_proof(now, key, Reason::Wanted) {
                Attempt::Ordered | Attempt::Impossible => _ = self.proofs.wanted.remove(&key),
                Attempt::Later => self.schedule_proofs(now + PLAN_INTERVAL),
            }
        }
    }

    /// The volunteers with pending proofs take turns.
    fn next_pending_volunteer(&mut self) -> Option<VolunteerNumber> {
        let from = self.proofs.cursor.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.proofs.pending.range((from, Bound::Unbounded)).next().copied();
        self.proofs.cursor = next.or_else(|| self.proofs.pending.first().copied());
        self.proofs.cursor
    }

    /// Orders the proof of one pending copy of a volunteer.
    fn plan_proof_of(&mut self, now: Moment, number: VolunteerNumber) -> Attempt {
        for _ in 0..4 {
            let Some(key) = self.next_unproven_chunk(number) else { continue };
            let is_overdue = self.volunteers.get(number).is_some_and(|one| one.trust.due_at <= now);
            let is_moving = self.files.chunk(key).is_some_and(|chunk| chunk.copy_counts.in_flight > 0);
            if (is_moving && !is_overdue) || self.proofs.is_outstanding(key) {
                continue;
            }
            return self.request_proof(now, key, Reason::Pending);
        }
        Attempt::Later
    }

    /// The next chunk of a volunteer whose proof is pending, after the one that was requested last.
    fn next_unproven_chunk(&mut self, number: VolunteerNumber) -> Option<ChunkKey> {
        let volunteer = self.volunteers.get(number)?;
        let cursor = volunteer.trust.cursor;
        let (mut found, mut last) = (None, None);
        let mut examined = 0;
        let first = cursor.map_or(0, |cursor| cursor.file);
        let holdings = volunteer.holdings.range(first..).filter(|(_, holding)| holding.unproven > 0);
        'search: for (file, holding) in holdings {
            let from = match cursor {
                Some(cursor) if cursor.file == *file => Bound::Excluded(cursor.index),
                _ => Bound::Unbounded,
            };
            for index in holding.chunks.range((from, Bound::Unbounded)) {
                let key = ChunkKey { file: *file, index: *index };
                last = Some(key);
                examined += 1;
                if self.files.copy_state(key, number).is_some_and(CopyState::needs_proof) {
                    found = Some(key);
                    break 'search;
                }
                if examined >= CHUNKS_EXAMINED_MAX {
                    break 'search;
                }
            }
        }
        if let Some(volunteer) = self.volunteers.get_mut(number) {
            volunteer.trust.cursor = last;
        }
        found
    }

    /// Whether a holder can be asked for a proof now.
    fn can_prove(&self, now: Moment, volunteer: &Volunteer, state: CopyState, reason: Reason) -> bool {
        let trust = &volunteer.trust;
        let is_needed = state.needs_proof() || (state == CopyState::Proven && reason == Reason::Wanted);
        is_needed
            && volunteer.has_reported()
            && trust.retry_at <= now
            && (!trust.is_doubtful() || trust.outstanding == 0)
    }

    /// Orders the proofs of the copies of a chunk.
    fn request_proof(&mut self, now: Moment, key: ChunkKey, reason: Reason) -> Attempt {
        let Some((file, chunk)) = self.files.file_and_chunk(key) else { return Attempt::Impossible };
        if self.proofs.is_outstanding(key) {
            return Attempt::Later;
        }
        let (id, length, at_tracker) = (file.id, file.length(key.index), file.tracker_has(chunk));
        let holders = chunk.replicas.iter().filter_map(|replica| {
            let volunteer = self.volunteers.get(replica.volunteer())?;
            self.can_prove(now, volunteer, replica.state(), reason).then_some(volunteer)
        });
        let holders: Vec<&Volunteer> = holders.collect();
        let present = chunk.replicas.iter().filter(|replica| replica.state().is_source()).count();
        let unasked = present.saturating_sub(holders.len());
        if reason == Reason::Wanted && unasked > 0 && self.waits_for_all_holders(now, key.file) {
            return Attempt::Later;
        }
        if holders.is_empty() && !(at_tracker && reason == Reason::Wanted) {
            if reason == Reason::Wanted {
                self.note_unasked(key.file, unasked);
            }
            return Attempt::Impossible;
        }
        let is_idle = |volunteer: &Volunteer| volunteer.incoming.copies + volunteer.outgoing.copies == 0;
        let proof = Proof {
            key,
            deadline: now + limits::PROOF_TASK_TIMEOUT,
            is_wanted: reason == Reason::Wanted,
            is_busy: reason == Reason::Pending && !holders.iter().all(|holder| is_idle(holder)),
            is_doubtful: holders.iter().any(|holder| holder.trust.is_doubtful()),
            is_downloaded: reason == Reason::Pending && !at_tracker,
            holders: holders.iter().map(|holder| holder.record.number).collect(),
        };
        let is_due = holders.iter().any(|holder| holder.trust.due_at <= now);
        // It decides whether the copies of a volunteer are replaced.
        let is_urgent = holders.iter().any(|holder| holder.trust.is_suspected());
        let is_full = |max, accept: fn(&Proof) -> bool| !is_urgent && self.proofs.count(accept) >= max;
        let busy_max = if at_tracker { BUSY_OWN_PROOFS_MAX } else { BUSY_PROOFS_MAX };
        let waits = (proof.is_busy && ((!is_due && !at_tracker) || is_full(busy_max, |one| one.is_busy)))
            || (proof.is_downloaded && is_full(DOWNLOADED_PROOFS_MAX, |one| one.is_downloaded))
            || (proof.is_doubtful && self.proofs.count(|one| one.is_doubtful) >= DOUBTFUL_PROOFS_MAX)
            || (!at_tracker && !self.may_download_for_proof(now, length));
        if waits {
            return Attempt::Later;
        }
        if reason == Reason::Wanted {
            self.note_unasked(key.file, unasked);
        }
        for holder in &proof.holders {
            if let Some(volunteer) = self.volunteers.get_mut(*holder) {
                volunteer.trust.outstanding += 1;
            }
        }
        self.proofs.last_number += 1;
        let number = self.proofs.last_number;
        self.schedule.add(proof.deadline, Timer::ProofTimeout(number));
        let order =
            Order::Prove { number, file: id, index: ChunkIndex(key.index), holders: proof.holders.clone() };
        self.orders.push(order);
        self.proofs.outstanding.insert(number, proof);
        Attempt::Ordered
    }

    /// Charges the download of a chunk for a proof to the repair limit, unless the limit does not permit it now.
    fn may_download_for_proof(&mut self, now: Moment, length: u64) -> bool {
        let limit = self.settings.repair_limit;
        if limit == 0 {
            return true;
        }
        if !self.repair.permits(now) {
            return false;
        }
        if let Some(until) = self.repair.charge(now, limit, length) {
            self.schedule.add(until, Timer::Plan);
        }
        true
    }

    /// Removes an outstanding proof.
    pub(super) fn end_proof(&mut self, number: u64) -> Option<Proof> {
        let proof = self.proofs.outstanding.remove(&number)?;
        self.schedule.cancel(proof.deadline, Timer::ProofTimeout(number));
        for holder in &proof.holders {
            if let Some(volunteer) = self.volunteers.get_mut(*holder) {
                volunteer.trust.outstanding = volunteer.trust.outstanding.saturating_sub(1);
            }
        }
        Some(proof)
    }
}
