//! Planning: which under-replicated chunk is copied next, from which source to which target.
//!
//! Sources with an open window take turns, each with the chunk of highest priority that it has, so that no
//! source is idle while another has several copies to give. Each copy goes to the emptiest volunteer with an
//! open window, preferably at an IP address that has no copy yet. A chunk that no volunteer can take is
//! parked, and copied back to the tracker if the tracker has no copy.

use super::chunk::{CopyState, Key, Replicas};
use super::priority::{PRIORITIES, Priority};
use super::volunteer::{Traffic, Window};
use super::{Order, ReplicationPlanner};
use crate::swarm::Moment;
use crate::swarm::keeping::{Location, VolunteerNumber};
use std::net::IpAddr;
use std::time::Duration;

/// Interval at which parked chunks are tried again even if nothing seems to have changed.
pub(super) const UNPARK_INTERVAL: Duration = Duration::from_secs(60);
/// Chunks that one source tries in one turn.
const TURN_TRIES_MAX: usize = 16;
/// Failed attempts permitted in one planning run.
const PLAN_TRIES_MAX: usize = 1_024;

/// Whether the window of a source permits one more copy.
pub(super) fn gives(window: Window, outgoing: Traffic, length: u64) -> bool {
    window.takes(outgoing, length)
}

/// Target of the next copy of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// This volunteer.
    At(VolunteerNumber),
    /// Only volunteers whose window is closed now.
    Later,
    /// No volunteer has enough free space.
    Nowhere,
}

/// Result of a source's turn.
enum Turn {
    /// It started a copy.
    More,
    /// It can start no copy now.
    Over,
}

impl ReplicationPlanner {
    /// Orders all copies that the windows permit.
    pub(super) fn plan(&mut self, now: Moment) {
        if self.paused || now < self.held_until {
            return;
        }
        let mut tries = PLAN_TRIES_MAX;
        // A new copy can only lower the priority of its chunk.
        for priority in (0..PRIORITIES).map(Priority) {
            if self.counts.waiting == 0 || tries == 0 || !self.can_place() {
                break;
            }
            if !self.queued.any(priority) || !self.is_allowed(now, priority) {
                continue;
            }
            let mut sources = self.ready(priority);
            while !sources.is_empty() && tries > 0 && self.can_place() {
                sources
                    .retain(|location| matches!(self.turn(now, *location, priority, &mut tries), Turn::More));
            }
        }
        self.plan_home(now);
    }

    /// Whether chunks of this priority may be copied now.
    fn is_allowed(&self, now: Moment, priority: Priority) -> bool {
        let limited = self.settings.repair_limit > 0 && now < self.repair_from;
        let too_few = self.census.staying < self.settings.volunteers_min;
        let waits = (priority.is_repair() && limited) || (priority.is_new() && too_few);
        !waits
    }

    /// Whether planning can succeed: a window is open, or there are no volunteers and chunks must be parked.
    fn can_place(&self) -> bool {
        self.index.is_open() || self.index.is_empty()
    }

    /// The sources with an open window and chunks of this priority, the least busy first.
    fn ready(&self, priority: Priority) -> Vec<Location> {
        let bit = 1u32 << priority.0;
        let open = |filled: u32, outgoing: Traffic| filled & bit != 0 && self.window.is_open(outgoing);
        let volunteers = self.volunteers.iter().flatten().filter(|volunteer| {
            volunteer.queue.filled() & bit != 0 && open(volunteer.queue.filled(), volunteer.outgoing)
        });
        let mut ready: Vec<(u32, Location)> = volunteers
            .map(|volunteer| (volunteer.outgoing.copies, Location::Volunteer(volunteer.record.number)))
            .collect();
        if open(self.queue.filled(), self.outgoing) {
            ready.push((self.outgoing.copies, Location::Tracker));
        }
        ready.sort_unstable();
        ready.into_iter().map(|(_, location)| location).collect()
    }

    fn outgoing(&self, location: Location) -> Traffic {
        match location {
            Location::Tracker => self.outgoing,
            Location::Volunteer(number) => self.at(number).map(|v| v.outgoing).unwrap_or_default(),
        }
    }

    fn pop(&mut self, location: Location, priority: Priority) -> Option<Key> {
        match location {
            Location::Tracker => self.queue.pop(priority),
            Location::Volunteer(number) => self.at_mut(number)?.queue.pop(priority),
        }
    }

    fn push(&mut self, location: Location, priority: Priority, key: Key) {
        match location {
            Location::Tracker => self.queue.push(priority, key),
            Location::Volunteer(number) => self.at_mut(number).is_some_and(|v| v.queue.push(priority, key)),
        };
    }

    /// Starts one copy of a chunk of this priority from a source, if possible.
    fn turn(&mut self, now: Moment, location: Location, priority: Priority, tries: &mut usize) -> Turn {
        let mut failed = 0;
        while failed < TURN_TRIES_MAX && *tries > 0 {
            if !self.window.is_open(self.outgoing(location)) || !self.is_allowed(now, priority) {
                return Turn::Over;
            }
            let Some(key) = self.pop(location, priority) else { return Turn::Over };
            if !self.could_give(location, key, priority) {
                continue;
            }
            let target = self.target(key);
            let source = self.source(key);
            match (source, target) {
                (Some(from), Target::At(to)) => {
                    self.start_transfer(now, key, from, Location::Volunteer(to));
                    if self.could_give(location, key, priority) {
                        self.push(location, priority, key);
                    }
                    return Turn::More;
                }
                (_, Target::Nowhere) => self.nowhere(now, key),
                (None, _) | (_, Target::Later) => {
                    self.push(location, priority, key);
                    failed += 1;
                    *tries -= 1;
                }
            }
        }
        Turn::Over
    }

    /// The best target for the next copy of a chunk.
    fn target(&self, key: Key) -> Target {
        let Some(file) = self.file(key.file) else { return Target::Nowhere };
        let Some(chunk) = file.chunks.get(key.index as usize) else { return Target::Nowhere };
        let length = file.length(key.index);
        let replicas = &chunk.replicas;
        let free = |number: VolunteerNumber| replicas.get(number).is_none();
        if !self.index.has_room(length, free) {
            return Target::Nowhere;
        }
        let near = |ip: IpAddr| self.is_near(replicas, ip);
        let elsewhere = self.index.has_room_elsewhere(length, near, free);
        let avoided = self.retries.get(&key).map(|retry| retry.to);
        let mut second = Target::Later;
        for number in self.index.open() {
            let Some(volunteer) = self.at(number) else { continue };
            let fits = volunteer.room() >= length && self.window.takes(volunteer.incoming, length);
            if !fits || !free(number) || (elsewhere && near(volunteer.record.address.ip())) {
                continue;
            }
            if avoided != Some(Location::Volunteer(number)) {
                return Target::At(number);
            }
            second = Target::At(number);
        }
        second
    }

    /// Whether a copy that stays is, or will be, at this IP address.
    fn is_near(&self, replicas: &Replicas, ip: IpAddr) -> bool {
        replicas.iter().any(|replica| {
            let state = replica.state();
            (state.counts() || state == CopyState::Coming)
                && self
                    .at(replica.volunteer())
                    .is_some_and(|volunteer| !volunteer.draining && volunteer.record.address.ip() == ip)
        })
    }

    /// Whether another volunteer, without a copy of the chunk, could take one.
    pub(super) fn could_go_on(&self, key: Key) -> bool {
        self.target(key) != Target::Nowhere
    }

    /// Parks a chunk that no volunteer can take. If the tracker has no copy and no further volunteer is
    /// expected, the chunk is copied back.
    fn nowhere(&mut self, now: Moment, key: Key) {
        self.park(now, key);
        let missing = self
            .file(key.file)
            .is_some_and(|file| file.chunks.get(key.index as usize).is_some_and(|chunk| !file.has(chunk)));
        if missing && self.census.expected == 0 && !self.transfers.contains_key(&(key, Location::Tracker)) {
            self.homebound.push_back(key);
        }
    }

    /// Orders the copies back to the tracker that its window permits.
    fn plan_home(&mut self, now: Moment) {
        let mut tries = self.homebound.len().min(PLAN_TRIES_MAX);
        while tries > 0 && self.window.is_open(self.incoming) && self.is_allowed(now, Priority(0)) {
            let Some(key) = self.homebound.pop_front() else { return };
            if !self.is_homebound(key) {
                continue;
            }
            let length = self.file(key.file).map_or(0, |file| file.length(key.index));
            match self.source(key).filter(|_| self.window.takes(self.incoming, length)) {
                Some(from) => self.start_transfer(now, key, from, Location::Tracker),
                None => {
                    self.homebound.push_back(key);
                    tries -= 1;
                }
            }
        }
    }

    fn is_homebound(&self, key: Key) -> bool {
        let Some(file) = self.file(key.file) else { return false };
        let Some(chunk) = file.chunks.get(key.index as usize) else { return false };
        let sources = chunk.replicas.iter().any(|replica| replica.state().is_source());
        sources
            && chunk.priority == Priority::PARKED
            && !file.has(chunk)
            && !self.transfers.contains_key(&(key, Location::Tracker))
    }

    /// Reports the end of a repair, and notes its start.
    pub(super) fn look_at_repair(&mut self, now: Moment) {
        match (self.repair_since, self.counts.impaired) {
            (Some(since), 0) => {
                self.repair_since = None;
                let seconds = now.saturating_sub(since).as_secs_f64();
                self.orders.push(Order::Note(None, format!("repair is done: it took {seconds:.1} s")));
            }
            (None, impaired) if impaired > 0 => self.repair_since = Some(now),
            _ => {}
        }
    }
}
