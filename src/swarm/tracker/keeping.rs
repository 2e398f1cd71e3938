//! The part of a tracker that keeps files: it speaks with volunteers and with the tracker's own hands, and lets
//! [`Placement`] decide.
//!
//! It turns what volunteers say and what tasks come to into calls of [`Placement`], and its orders into messages and
//! tasks. What it holds itself is only how things are called and reached. Invariants: a volunteer is spoken to over the
//! connection that it registered over last; what the registry knows of a volunteer's or the tracker's chunks is what
//! [`Placement`] counts; nothing is ever dropped because it is not known here.

mod orders;
#[cfg(test)]
mod tests;

use super::Tracker;
use crate::content::fmt::size;
use crate::content::{Bitfield, ChunkIndex, FileId, Layout, PeerName};
use crate::protocol::ErrorCode;
use crate::protocol::status::Status;
use crate::protocol::tracker::{FoundFile, TrackerResponse};
use crate::protocol::volunteer::{CopyFailure, KeptFile, VolunteerOrder, VolunteerReport};
use crate::swarm::Moment;
use crate::swarm::keeping::{
    Answer, Command, FileRecord, News, Place, Task, VolunteerNumber, VolunteerRecord, Wanted,
};
use crate::swarm::machine::Effect;
use crate::swarm::membership::error;
use crate::swarm::placement::{Placement, Settings};
use crate::swarm::registry::PeerId;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Chunks and volunteers named in one log line.
const NAMED: usize = 8;

/// What a tracker that keeps files is given.
pub struct KeepRules {
    /// How many copies, and when.
    pub settings: Settings,
    /// What the tracker calls itself.
    pub name: PeerName,
    /// Where the tracker serves, as others are to be told.
    pub serving: SocketAddr,
    /// Files that volunteers have and the catalogue has not are taken in.
    pub rebuild: bool,
}

/// What the catalogue knew when the tracker was started.
#[derive(Default)]
pub struct Remembered {
    /// Files.
    pub files: Vec<FileRecord>,
    /// Volunteers.
    pub volunteers: Vec<VolunteerRecord>,
    /// What each had of each file.
    pub held: Vec<(FileId, VolunteerNumber, Bitfield)>,
    /// Files that are not kept any more.
    pub forgotten: Vec<FileId>,
}

/// What a volunteer has told of a file that is being taken in.
type Reports = Vec<(VolunteerNumber, Vec<ChunkIndex>, bool)>;

/// The state.
pub struct Keeping {
    placement: Placement,
    serving: SocketAddr,
    rebuild: bool,
    files: HashMap<FileId, KeptFile>,
    /// The tracker itself, among the peers.
    own: PeerId,
    volunteers: HashMap<PeerId, VolunteerNumber>,
    sessions: HashMap<VolunteerNumber, PeerId>,
    /// Files whose manifests are being fetched, and what volunteers have told of them meanwhile.
    adopting: HashMap<FileId, Reports>,
    /// Files that volunteers hold and nobody here knows, which has been said.
    strangers: HashSet<FileId>,
}

/// How a peer has left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Departure {
    /// Its connection has ended; it may come back.
    Closed,
    /// It has been silent for too long.
    Expired,
    /// It said goodbye.
    Goodbye,
    /// It has registered again.
    Again,
}

impl Departure {
    /// For people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Departure::Closed => "its connection ended",
            Departure::Expired => "its lease ended",
            Departure::Goodbye => "it said goodbye",
            Departure::Again => "it registered again",
        }
    }
}

impl Keeping {
    /// When there is something to do next.
    pub(super) fn next_tick(&self) -> Option<Moment> {
        self.placement.next_tick()
    }
}

impl Tracker {
    /// Makes this a tracker that keeps files. `random` decides where copies go.
    pub fn keep(&mut self, rules: KeepRules, remembered: Remembered, random: fastrand::Rng) {
        let own = self.peers.registry.enroll(rules.name, rules.serving);
        let lease = rules.settings.lease;
        let mut placement = Placement::new(rules.settings, random);
        if rules.rebuild {
            placement.hold(lease);
        }
        let now = Moment::ZERO;
        let Remembered { files, volunteers, held, forgotten } = remembered;
        volunteers.into_iter().for_each(|record| placement.restore_volunteer(now, record));
        let mut known = HashMap::new();
        for FileRecord { kept, layout, offloaded } in files {
            placement.restore_file(kept.file.id, layout, offloaded);
            self.peers.registry.vouch(own, &kept.file, 0);
            known.insert(kept.file.id, kept);
        }
        held.iter().for_each(|(file, volunteer, held)| placement.restore_held(*file, *volunteer, held));
        forgotten.into_iter().for_each(|file| placement.restore_forgotten(file));
        self.keeping = Some(Keeping {
            placement,
            serving: rules.serving,
            rebuild: rules.rebuild,
            files: known,
            own,
            volunteers: HashMap::new(),
            sessions: HashMap::new(),
            adopting: HashMap::new(),
            strangers: HashSet::new(),
        });
    }

    /// Something that a volunteer says, over the connection that it registered over.
    pub(super) fn volunteer_says(
        &mut self,
        now: Moment,
        id: PeerId,
        act: VolunteerReport,
    ) -> Option<TrackerResponse> {
        let Some(keeping) = &mut self.keeping else {
            return Some(error(ErrorCode::Refused, "this tracker keeps no files"));
        };
        if let VolunteerReport::Lend { key, offered, free } = act {
            let peer = self.peers.registry.peer(id)?;
            let (name, address) = (peer.name.clone(), peer.address);
            let number = keeping.placement.join(now, key, name.clone(), address, offered, free);
            keeping.volunteers.insert(id, number);
            if let Some(before) = keeping.sessions.insert(number, id) {
                keeping.volunteers.remove(&before);
            }
            self.effects.push(Effect::Note(format!(
                "{name} at {address} lends {}, {} free",
                size(offered),
                size(free)
            )));
            self.settle_keeping(now);
            return Some(orders::message(VolunteerOrder::Welcome));
        }
        let Some(number) = keeping.volunteers.get(&id).copied() else {
            return Some(error(ErrorCode::Refused, "say first what you lend"));
        };
        self.lender_says(now, number, act);
        self.settle_keeping(now);
        None
    }

    fn lender_says(&mut self, now: Moment, number: VolunteerNumber, act: VolunteerReport) {
        use VolunteerReport as Says;
        let Some(keeping) = &mut self.keeping else { return };
        let (placement, at) = (&mut keeping.placement, Place::Volunteer(number));
        match act {
            Says::Lend { .. } => {}
            Says::Holds { kept, held, checked } => {
                let known = placement.holds(now, number, kept.file.id, &held, checked);
                if !known && !placement.was_forgotten(kept.file.id) {
                    let effect = keeping.stranger(number, kept, held, checked);
                    self.effects.extend(effect);
                }
            }
            Says::Reported => placement.reported(now, number),
            Says::Stored { file, index, free } => placement.stored(now, at, file, index, Some(free)),
            Says::NotStored { file, index, why, text, free } => {
                let name =
                    placement.volunteer(number).map(|record| record.name.to_string()).unwrap_or_default();
                let text =
                    format!("{name} has not stored chunk {index} of {}: {text}", keeping.name_of(file));
                keeping.placement.not_stored(now, at, file, index, why, Some(free));
                // Of one that is full there would be a line for each chunk; the status shows that it has no room.
                if why != CopyFailure::NoRoom {
                    self.effects.push(Effect::Note(text));
                }
            }
            Says::Dropped { file, chunks, free } => placement.dropped(now, at, file, &chunks, Some(free)),
            Says::Spoiled { file, chunks, free } => placement.spoiled(now, at, file, &chunks, Some(free)),
            Says::Proof { challenge, sha256 } => placement.proof(now, at, challenge, sha256),
            Says::Drain => placement.drain(now, number, true),
        }
    }

    /// Whether a peer that leaves like this is a volunteer that is given time to come back.
    pub(super) fn may_come_back(&self, id: PeerId, how: Departure) -> bool {
        let lends = |keeping: &Keeping| keeping.volunteers.contains_key(&id);
        how == Departure::Closed && self.keeping.as_ref().is_some_and(lends)
    }

    /// A peer has left. Whether it was a volunteer is seen here.
    pub(super) fn volunteer_left(&mut self, now: Moment, id: PeerId, expires: Moment, how: Departure) {
        let Some(keeping) = &mut self.keeping else { return };
        let Some(number) = keeping.volunteers.remove(&id) else { return };
        // Another session of the same volunteer goes on.
        if keeping.sessions.get(&number) != Some(&id) {
            return;
        }
        keeping.sessions.remove(&number);
        match how {
            Departure::Goodbye | Departure::Expired => keeping.placement.gone(now, number),
            Departure::Closed | Departure::Again => {
                keeping.placement.heard(expires.saturating_sub(self.peers.lease()), number);
                keeping.placement.away(now, number);
            }
        }
        self.settle_keeping(now);
    }

    /// What has come of a task, or what a person wants.
    pub(super) fn keeping_news(&mut self, now: Moment, news: News) {
        let Some(keeping) = &mut self.keeping else { return };
        let placement = &mut keeping.placement;
        match news {
            News::Recorded(ticket) => placement.recorded(now, ticket),
            News::Published { kept, layout } => {
                let id = kept.file.id;
                keeping.files.insert(id, kept);
                placement.add_file(now, id, layout);
                placement.own_whole(now, id, true);
                self.vouch_own(id);
            }
            News::Withdrawn(file) => {
                placement.own_whole(now, file, false);
                self.vouch_own(file);
            }
            News::Looked => placement.looked(now),
            News::Stored(file, index) => {
                placement.stored(now, Place::Tracker, file, index, None);
                self.vouch_own(file);
            }
            News::NotStored(file, index, why) => {
                placement.not_stored(now, Place::Tracker, file, index, why, None);
            }
            News::Dropped(file, chunks) => {
                placement.dropped(now, Place::Tracker, file, &chunks, None);
                self.vouch_own(file);
            }
            News::Spoiled(file, chunks) => {
                placement.spoiled(now, Place::Tracker, file, &chunks, None);
                self.vouch_own(file);
            }
            News::Offloaded(file, done) => {
                placement.offloaded(now, file, done);
                self.vouch_own(file);
            }
            News::Audited(volunteer, file, index, verdict) => {
                placement.audited(now, volunteer, file, index, verdict);
            }
            News::Proof(challenge, proof) => placement.proof(now, Place::Tracker, challenge, proof),
            News::Adopted(file, adopted) => self.adopted(now, file, adopted),
            News::Command(number, command) => {
                let answer = self.obey(now, command);
                self.effects.push(Effect::Answer(number, answer));
            }
        }
        self.settle_keeping(now);
    }

    /// A file that only volunteers knew is in the catalogue now, or could not be had.
    fn adopted(&mut self, now: Moment, file: FileId, adopted: Option<(KeptFile, Layout)>) {
        let Some(keeping) = &mut self.keeping else { return };
        let reports = keeping.adopting.remove(&file).unwrap_or_default();
        let Some((kept, layout)) = adopted else {
            let text = format!("{} cannot be taken in yet: its manifest is not to be had", file.short());
            self.effects.push(Effect::Note(text));
            return;
        };
        keeping.files.insert(file, kept);
        keeping.placement.adopt_file(now, file, layout);
        for (volunteer, held, checked) in reports {
            keeping.placement.holds(now, volunteer, file, &held, checked);
        }
        self.vouch_own(file);
    }

    fn obey(&mut self, now: Moment, command: Command) -> Answer {
        let Some(keeping) = &mut self.keeping else {
            return Answer::Refused("this tracker keeps no files".into());
        };
        match command {
            Command::Status => Answer::Status(Arc::new(keeping.status())),
            Command::Pause(on) => {
                keeping.placement.pause(now, on);
                let text = if on { "nothing more is copied until repair resume" } else { "copying goes on" };
                Answer::Done(text.into())
            }
            Command::Drain(name, on) => {
                let volunteers = keeping.placement.volunteer_by_name(&name);
                let [volunteer] = volunteers[..] else {
                    return Answer::Refused(match volunteers.len() {
                        0 => format!("no volunteer is called {name}"),
                        several => format!("{several} volunteers are called {name}"),
                    });
                };
                keeping.placement.drain(now, volunteer, on);
                Answer::Done(match on {
                    true => format!("{name} is being emptied; the log says when it may leave"),
                    false => format!("{name} stays"),
                })
            }
            Command::Forget(wanted) => self.forget(now, &wanted),
        }
    }

    fn forget(&mut self, now: Moment, wanted: &Wanted) -> Answer {
        let Some(keeping) = &mut self.keeping else {
            return Answer::Refused("this tracker keeps no files".into());
        };
        let ids: Vec<FileId> = match wanted {
            Wanted::Id(id) => keeping.files.get(id).map(|kept| kept.file.id).into_iter().collect(),
            Wanted::Name(name) => {
                let named = keeping.files.values().filter(|kept| kept.file.name == *name);
                named.map(|kept| kept.file.id).collect()
            }
        };
        let [id] = ids[..] else {
            return Answer::Refused(match ids.len() {
                0 => "no such file is kept".into(),
                several => format!("{several} files are called that; name one by its id"),
            });
        };
        keeping.placement.forget(now, id);
        let name = keeping.name_of(id);
        keeping.files.remove(&id);
        self.peers.registry.retract(keeping.own, id);
        self.effects.push(Effect::Task(Task::Forget(id)));
        Answer::Done(format!("{name} is forgotten; its copies at volunteers are dropped"))
    }

    /// Keeps the registry in step with what the tracker itself has of a file.
    fn vouch_own(&mut self, file: FileId) {
        let Some(keeping) = &self.keeping else { return };
        let Some(kept) = keeping.files.get(&file) else { return };
        let (whole, chunks) = keeping.placement.own(file);
        let held = if whole { kept.file.chunks } else { chunks };
        self.peers.registry.vouch(keeping.own, &kept.file, held);
    }

    /// Does what time asks for.
    pub(super) fn tick_keeping(&mut self, now: Moment) {
        if let Some(keeping) = &mut self.keeping {
            keeping.placement.tick(now);
            self.settle_keeping(now);
        }
    }

    /// Carries out what has been decided.
    fn settle_keeping(&mut self, now: Moment) {
        let Some(keeping) = &mut self.keeping else { return };
        for (volunteer, file) in keeping.placement.changed_holdings() {
            let held = keeping.placement.held_by(volunteer, file);
            let Some(peer) = keeping.sessions.get(&volunteer) else { continue };
            match keeping.files.get(&file) {
                Some(kept) if held > 0 => self.peers.registry.vouch(*peer, &kept.file, held),
                _ => self.peers.registry.retract(*peer, file),
            }
        }
        for order in keeping.placement.take_orders() {
            let effects = keeping.effects(order, |peer| self.peers.connection(peer));
            self.effects.extend(effects);
        }
        if let Some((ticket, changes)) = keeping.placement.take_record(now) {
            self.effects.push(Effect::Task(Task::Record { ticket, changes }));
        }
    }

    /// What is known of files that are kept is said with every answer.
    pub(super) fn add_md5(&self, found: &mut [FoundFile]) {
        let Some(keeping) = &self.keeping else { return };
        for file in found {
            file.md5 = keeping.files.get(&file.file.id).map(|kept| kept.md5);
        }
    }

    /// How volunteers and files are; `None` when this tracker keeps none.
    pub(super) fn status(&self) -> Option<Status> {
        self.keeping.as_ref().map(Keeping::status)
    }
}
