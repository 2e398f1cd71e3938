//! Volunteers come, tell what they have, fall silent, and go.

use super::chunk::{CopyState, Key, VOLUNTEERS_MAX};
use super::file::Offload;
use super::queue::Queue;
use super::volunteer::{Standing, Volunteer};
use super::{Placement, Timer};
use crate::content::fmt::{counted, size};
use crate::content::{Bitfield, ChunkIndex, FileId, PeerName};
use crate::protocol::tokens::VolunteerKey;
use crate::swarm::Moment;
use crate::swarm::keeping::{Change, Place, VolunteerNumber, VolunteerRecord};
use std::net::SocketAddr;

impl Placement {
    /// A volunteer that the catalogue knows, before anything else. It counts as away since now. One with a number that
    /// is not from a catalogue is ignored.
    pub fn restore_volunteer(&mut self, now: Moment, record: VolunteerRecord) {
        self.begin(now);
        let number = record.number;
        if number.0 >= VOLUNTEERS_MAX || self.at(number).is_some() {
            return;
        }
        let until = now + self.settings.lease;
        self.add_volunteer(record, Standing::Away { until });
        self.after(until, Timer::Gone(number));
        self.count_volunteers();
    }

    /// What the catalogue expects a volunteer to hold of a file.
    pub fn restore_held(&mut self, file: FileId, volunteer: VolunteerNumber, held: &Bitfield) {
        for index in held.iter() {
            if let Some(key) = self.key(file, index) {
                self.set(key, volunteer, Some(CopyState::Awaited));
            }
        }
        // The catalogue knows all this already.
        let slot = self.by_id.get(&file).copied();
        let holding = slot.and_then(|slot| self.at_mut(volunteer)?.holdings.get_mut(&slot));
        if let (Some(slot), Some(holding)) = (slot, holding) {
            holding.dirty = false;
            self.dirty.retain(|pair| *pair != (volunteer, slot));
        }
    }

    fn add_volunteer(&mut self, record: VolunteerRecord, standing: Standing) {
        let at = record.number.0 as usize;
        if self.volunteers.len() <= at {
            self.volunteers.resize_with(at + 1, || None);
        }
        self.by_key.insert(record.key, record.number);
        if let Some(place) = self.volunteers.get_mut(at) {
            *place = Some(Box::new(Volunteer::new(record, standing)));
        }
    }

    /// A volunteer is here. One whose key is not known gets the next number, one that returns has its own. What it holds
    /// is unknown until it [tells](Self::holds); what was expected of it stays expected until it has
    /// [told all](Self::reported).
    pub fn join(
        &mut self,
        now: Moment,
        key: VolunteerKey,
        name: PeerName,
        address: SocketAddr,
        offered: u64,
        free: u64,
    ) -> VolunteerNumber {
        let known = self.by_key.get(&key).copied();
        let number = known.unwrap_or(VolunteerNumber(self.volunteers.len() as u32));
        let record = VolunteerRecord { number, key, name, address, offered };
        if known.is_none() {
            self.add_volunteer(record.clone(), Standing::Gone);
        }
        self.sever(number);
        self.expect(number);
        let told = self.at(number).is_some_and(|volunteer| known.is_some() && volunteer.record == record);
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.record = record.clone();
            volunteer.standing = Standing::Here { reported: false };
            volunteer.heard = Some(now);
            volunteer.free = free;
            volunteer.rests_until = Moment::ZERO;
        }
        if !told {
            self.change(now, Change::Volunteer(record));
        }
        self.stale.insert(number);
        self.count_volunteers();
        self.settle(now);
        number
    }

    /// A volunteer has given a sign of life.
    pub fn heard(&mut self, now: Moment, number: VolunteerNumber) {
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.heard = Some(now);
        }
    }

    /// A volunteer has chunks of a file: `checked` when it has hashed them in this session. Returns whether the file is
    /// known; chunks of one that has been forgotten are ordered to be dropped.
    pub fn holds(
        &mut self,
        now: Moment,
        number: VolunteerNumber,
        file: FileId,
        chunks: &[ChunkIndex],
        checked: bool,
    ) -> bool {
        if !self.is_known(file) {
            if self.was_forgotten(file) {
                self.drops.entry((Place::Volunteer(number), file)).or_default().extend(chunks);
                self.settle(now);
            }
            return false;
        }
        if self.at(number).is_some_and(Volunteer::is_here) {
            for key in chunks.iter().filter_map(|index| self.key(file, *index)).collect::<Vec<_>>() {
                self.has(key, number, checked);
            }
            self.settle(now);
        }
        true
    }

    fn has(&mut self, key: Key, number: VolunteerNumber, checked: bool) {
        let before = self.state(key, number);
        let after = match before {
            // What is ordered is ordered, even if it has crossed this on the way.
            Some(CopyState::Dropping) => return,
            Some(CopyState::Verified | CopyState::Suspect) if !checked => return,
            _ if checked => CopyState::Verified,
            _ => CopyState::Claimed,
        };
        self.land(key, Place::Volunteer(number));
        self.set(key, number, Some(after));
    }

    /// A volunteer has told of all that it holds: what was expected beyond that is not there.
    pub fn reported(&mut self, now: Moment, number: VolunteerNumber) {
        if !self.at(number).is_some_and(Volunteer::is_here) {
            return;
        }
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.standing = Standing::Here { reported: true };
        }
        self.count_volunteers();
        for key in self.keys_of(number) {
            match self.state(key, number) {
                Some(CopyState::Awaited | CopyState::Missed) => self.set(key, number, None),
                // There may be more copies than are wanted, and only now may they be dropped.
                _ => self.touch(key),
            }
        }
        self.stale.insert(number);
        self.reindex(now);
        self.unpark_all();
        self.settle(now);
    }

    /// A volunteer's connection has ended: it is gone when it does not come back within a lease from when it was last
    /// heard.
    pub fn away(&mut self, now: Moment, number: VolunteerNumber) {
        if !self.at(number).is_some_and(Volunteer::is_here) {
            return;
        }
        self.sever(number);
        let lease = self.settings.lease;
        if let Some(volunteer) = self.at_mut(number) {
            let until = volunteer.heard.unwrap_or(now) + lease;
            volunteer.standing = Standing::Away { until };
            self.after(until, Timer::Gone(number));
        }
        self.expect(number);
        self.stale.insert(number);
        self.count_volunteers();
        self.settle(now);
    }

    /// What was under way to a volunteer, and what it was to do, has ended with its connection.
    fn sever(&mut self, number: VolunteerNumber) {
        self.crash_to(number);
        self.drops.retain(|(at, _), _| *at != Place::Volunteer(number));
    }

    /// Nothing that a volunteer holds is sure until it has told again.
    fn expect(&mut self, number: VolunteerNumber) {
        for key in self.keys_of(number) {
            let state = self.state(key, number);
            let expected = match state {
                // Whether it was dropped before the connection ended nobody knows.
                Some(CopyState::Dropping) => CopyState::Missed,
                _ => CopyState::Awaited,
            };
            self.set(key, number, Some(expected));
        }
    }

    pub(super) fn lease_over(&mut self, now: Moment, number: VolunteerNumber) {
        let over =
            |volunteer: &Volunteer| matches!(volunteer.standing, Standing::Away { until } if until <= now);
        if self.at(number).is_some_and(over) {
            self.leave(now, number);
        }
    }

    /// A volunteer has said goodbye, or its lease is over. Repair begins.
    pub fn gone(&mut self, now: Moment, number: VolunteerNumber) {
        self.leave(now, number);
        self.settle(now);
    }

    fn leave(&mut self, now: Moment, number: VolunteerNumber) {
        let Some(volunteer) = self.at_mut(number) else { return };
        if volunteer.standing == Standing::Gone {
            return;
        }
        let name = volunteer.record.name.clone();
        let (chunks, bytes) = (volunteer.chunks, volunteer.held);
        volunteer.standing = Standing::Gone;
        volunteer.queue = Queue::default();
        self.sever(number);
        self.crash_from(number);
        for key in self.keys_of(number) {
            self.set(key, number, Some(CopyState::Missed));
        }
        if let Some(volunteer) = self.at_mut(number) {
            volunteer.draining = false;
            volunteer.told = None;
        }
        self.stale.insert(number);
        self.count_volunteers();
        self.reindex(now);
        // What waited for it to come back waits no longer.
        self.unpark_all();
        if chunks > 0 {
            let with = format!("{name} is gone with {}, {}", counted(chunks, "chunk"), size(bytes));
            let text = match self.counts.impaired {
                0 => format!("{with}: nothing is short"),
                waiting => format!("{with}: repair of {} begins", counted(waiting, "chunk")),
            };
            self.note(None, text);
        }
    }

    /// What is known of a volunteer.
    pub fn volunteer(&self, number: VolunteerNumber) -> Option<&VolunteerRecord> {
        self.at(number).map(|volunteer| &volunteer.record)
    }

    /// The volunteers that people call so.
    pub fn volunteer_by_name(&self, name: &PeerName) -> Vec<VolunteerNumber> {
        let named = self.volunteers.iter().flatten().filter(|volunteer| volunteer.record.name == *name);
        named.map(|volunteer| volunteer.record.number).collect()
    }

    /// How many chunks of a file can be had from a volunteer that is here.
    pub fn held_by(&self, number: VolunteerNumber, file: FileId) -> u32 {
        let holding = self.by_id.get(&file).and_then(|slot| self.at(number)?.holdings.get(slot));
        holding.map_or(0, |holding| holding.served)
    }

    /// The pairs for which [`held_by`](Self::held_by) has changed since this was last asked.
    pub fn changed_holdings(&mut self) -> Vec<(VolunteerNumber, FileId)> {
        let changed = std::mem::take(&mut self.changed);
        for (number, file) in &changed {
            let slot = self.by_id.get(file).copied();
            if let Some(holding) = slot.and_then(|slot| self.at_mut(*number)?.holdings.get_mut(&slot)) {
                holding.changed = false;
            }
        }
        changed
    }

    /// Whether the tracker has a whole file, and how many of its chunks are in the tracker's own store.
    pub fn own(&self, file: FileId) -> (bool, u32) {
        let file = self.by_id.get(&file).and_then(|slot| self.file(*slot));
        file.map_or((false, 0), |file| (file.whole && file.offload != Offload::Done, file.own))
    }
}
