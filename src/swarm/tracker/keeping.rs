//! The part of a tracker that keeps files: connects volunteers and the executor with [`ReplicationPlanner`].
//!
//! It turns reports of volunteers and outcomes of tasks into calls of the planner, and the planner's orders
//! into messages and tasks. Its own state is only names, addresses and sessions. Invariants: messages to a
//! volunteer use its latest session; the registry entries of volunteers and tracker match the counts of the
//! planner; a chunk is never dropped merely because its file is unknown.

mod adoption;
mod clones;
mod commands;
mod orders;
mod progress;
mod resolve;
#[cfg(test)]
mod tests;

use super::{Departure, Tracker};
use crate::content::fmt::size;
use crate::content::{Bitfield, FileId, FileName, PeerName};
use crate::protocol::ErrorCode;
use crate::protocol::status::{DropStatus, Status};
use crate::protocol::tracker::{FileSummary, FoundFile, TrackerResponse};
use crate::protocol::volunteer::{CopyFailure, KeptFile, VolunteerOrder, VolunteerReport};
use crate::swarm::Moment;
use crate::swarm::command::Answer;
use crate::swarm::keeping::{
    ExecutorTask, FileRecord, Location, TaskOutcome, VolunteerNumber, VolunteerRecord,
};
use crate::swarm::machine::{Effect, Origin};
use crate::swarm::membership::error;
use crate::swarm::registry::PeerId;
use crate::swarm::replication::{Order, ReplicationPlanner, Settings, StorageOffer};
use adoption::{Adoptions, Md5Votes};
use progress::DistributionLog;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// Maximum number of chunks and volunteers listed in one log line.
const LISTED_MAX: usize = 8;

/// Settings of a tracker that keeps files.
pub struct KeepRules {
    /// Replication settings.
    pub settings: Settings,
    /// Name under which the tracker serves its files.
    pub name: PeerName,
    /// Address at which it serves them, for peers.
    pub serving: SocketAddr,
    /// Files that volunteers hold and the catalogue lacks are added to it.
    pub rebuild: bool,
}

/// Content of the catalogue when the tracker was started.
#[derive(Default)]
pub struct Remembered {
    /// Files.
    pub files: Vec<FileRecord>,
    /// Volunteers.
    pub volunteers: Vec<VolunteerRecord>,
    /// The chunks that each volunteer held of each file.
    pub held: Vec<(FileId, VolunteerNumber, Bitfield)>,
    /// Ids of files that are not kept any more.
    pub forgotten: Vec<FileId>,
    /// Unix time in seconds at [`Moment`] zero.
    pub unix_s: u64,
}

/// Files, volunteers and sessions of a tracker that keeps files.
pub struct Keeping {
    planner: ReplicationPlanner,
    /// Address at which the tracker serves its files.
    serving: SocketAddr,
    /// Files that volunteers hold and the catalogue lacks are added to it.
    rebuild: bool,
    files: HashMap<FileId, KeptFile>,
    /// Further names of files in the folder.
    further_names: HashMap<FileId, BTreeSet<FileName>>,
    /// The tracker itself as an entry of the registry.
    own: PeerId,
    /// Volunteers that are connected.
    volunteers: HashMap<PeerId, VolunteerNumber>,
    /// The latest session of each connected volunteer.
    sessions: HashMap<VolunteerNumber, PeerId>,
    /// The address of the last clone of a connected volunteer that was refused.
    clones: HashMap<VolunteerNumber, SocketAddr>,
    /// Files whose manifests are being downloaded, with the reports received meanwhile.
    adopting: Adoptions,
    /// The MD5 of adopted files according to their reporters.
    md5_votes: Md5Votes,
    distribution_log: DistributionLog,
    /// The latest drop orders and deletions.
    drops: VecDeque<DropStatus>,
    /// Used for backoffs.
    random: fastrand::Rng,
    /// Files unknown to the catalogue that a log line has reported.
    reported_unknown: HashSet<FileId>,
    /// Number of the last publication of each file.
    versions: HashMap<FileId, u64>,
    /// The highest of these numbers.
    last_version: u64,
    /// Commands that wait for the end of a recall, and whether the file was marked as kept before.
    recalls: HashMap<FileId, (Vec<u64>, bool)>,
    /// Answers that wait until this record is durable, with the number of their command.
    unrecorded: Vec<(u64, u64, Answer)>,
    /// Commands that wait for the end of a verification.
    verifications: HashMap<FileId, Vec<u64>>,
    /// Whether only approved volunteers justify deletions.
    approve: bool,
    /// Copies of each chunk that are wanted.
    replicas: usize,
}

impl Keeping {
    /// Time at which a tick is due next.
    pub(super) fn next_tick(&self) -> Option<Moment> {
        self.planner.next_tick().into_iter().chain(self.next_adoption()).min()
    }
}

impl Keeping {
    /// Notes that the versions of a file which the tracker does not have were replaced by one that it has under
    /// their name.
    fn supersede_other_versions(&mut self, now: Moment, file: FileId) {
        let Some(name) = self.files.get(&file).map(|kept| &kept.file.name) else { return };
        let versions = self.files.values().filter(|other| other.file.name == *name);
        let versions: Vec<FileId> = versions.map(|other| other.file.id).collect();
        let has = |planner: &ReplicationPlanner, file: FileId| planner.tracker_copy(file).0;
        let newest = versions.iter().copied().find(|version| has(&self.planner, *version));
        for version in versions.into_iter().filter(|version| newest.is_some_and(|newest| newest != *version))
        {
            self.planner.supersede(now, version);
        }
    }
}

impl Tracker {
    /// Enables keeping of files. `random` is used for challenges and backoffs.
    pub fn keep(&mut self, rules: KeepRules, remembered: Remembered, mut random: fastrand::Rng) {
        let own = self.peers.registry.enroll(rules.name, rules.serving);
        let Settings { lease, approve, replicas, .. } = rules.settings;
        let mut planner = ReplicationPlanner::new(rules.settings, random.fork());
        if rules.rebuild {
            planner.delay_copies(lease);
        }
        let now = Moment::ZERO;
        let Remembered { files, volunteers, held, forgotten, unix_s } = remembered;
        planner.set_clock(unix_s);
        volunteers.into_iter().for_each(|record| planner.restore_volunteer(now, record));
        let (mut known, mut versions) = (HashMap::new(), HashMap::new());
        for FileRecord { kept, layout, offloaded, kept_here, offload_wanted, version } in files {
            planner.restore_file(kept.file.id, layout, offloaded);
            if kept_here {
                planner.restore_kept(kept.file.id);
            }
            if offload_wanted {
                planner.restore_offload_order(kept.file.id);
            }
            versions.insert(kept.file.id, version);
            self.peers.registry.vouch(own, &kept.file, 0);
            known.insert(kept.file.id, kept);
        }
        held.iter().for_each(|(file, volunteer, held)| planner.restore_held(*file, *volunteer, held));
        forgotten.into_iter().for_each(|file| planner.restore_forgotten(file));
        self.keeping = Some(Keeping {
            planner,
            serving: rules.serving,
            rebuild: rules.rebuild,
            files: known,
            further_names: HashMap::new(),
            own,
            volunteers: HashMap::new(),
            sessions: HashMap::new(),
            clones: HashMap::new(),
            adopting: Adoptions::default(),
            md5_votes: HashMap::new(),
            distribution_log: DistributionLog::default(),
            drops: VecDeque::new(),
            random,
            reported_unknown: HashSet::new(),
            last_version: versions.values().copied().max().unwrap_or_default(),
            versions,
            recalls: HashMap::new(),
            unrecorded: Vec::new(),
            verifications: HashMap::new(),
            approve,
            replicas,
        });
    }

    /// Handles a report of a volunteer, received over its latest connection.
    pub(super) fn handle_volunteer_report(
        &mut self,
        now: Moment,
        id: PeerId,
        origin: Origin,
        report: VolunteerReport,
    ) -> Option<TrackerResponse> {
        let Some(keeping) = &mut self.keeping else {
            return Some(error(ErrorCode::Refused, "this tracker keeps no files"));
        };
        if let VolunteerReport::Lend { key, offered, free, away_s } = report {
            let source = match origin {
                Origin::Datagram(from, _) => from.ip(),
                Origin::Connection(_, from) => from,
            };
            let peer = self.peers.registry.peer(id)?;
            let (name, address) = (peer.name.clone(), peer.address);
            let away = away_s.map(Duration::from_secs);
            let offer = StorageOffer { key, name, address, source, offered, free, away };
            return self.accept_offer(now, id, offer);
        }
        let Some(number) = keeping.volunteers.get(&id).copied() else {
            return Some(error(ErrorCode::Refused, "offer storage first"));
        };
        self.apply_report(now, number, report);
        self.settle_keeping(now);
        None
    }

    /// Accepts the storage that a peer offers: the peer becomes a volunteer. One connection offers storage under
    /// one key.
    fn accept_offer(&mut self, now: Moment, id: PeerId, offer: StorageOffer) -> Option<TrackerResponse> {
        let keeping = self.keeping.as_mut()?;
        let before = keeping.volunteers.get(&id).and_then(|number| keeping.planner.volunteer(*number));
        if before.is_some_and(|record| record.key != offer.key) {
            return Some(error(
                ErrorCode::Refused,
                "this connection offers storage under another key already",
            ));
        }
        if let Some(refusal) = self.refuse_clone(id, &offer) {
            return Some(refusal);
        }
        let keeping = self.keeping.as_mut()?;
        let StorageOffer { name, address, offered, free, .. } = offer.clone();
        let number = match keeping.planner.join(now, offer) {
            Ok(number) => number,
            Err(reason) => return Some(error(ErrorCode::Busy, reason)),
        };
        keeping.volunteers.insert(id, number);
        if let Some(before) = keeping.sessions.insert(number, id)
            && before != id
        {
            keeping.volunteers.remove(&before);
        }
        self.volunteer_reached(now, id);
        self.effects.push(Effect::Note(format!(
            "{name} at {address} offers {} of storage, {} free",
            size(offered),
            size(free)
        )));
        self.report_pending(id, number);
        self.settle_keeping(now);
        Some(orders::message(VolunteerOrder::Welcome))
    }

    /// Passes the results of dialling a peer, which may be a volunteer, to the planner.
    pub(super) fn volunteer_reached(&mut self, now: Moment, id: PeerId) {
        let Some(keeping) = &mut self.keeping else { return };
        let Some(number) = keeping.volunteers.get(&id).copied() else { return };
        let registry = &self.peers.registry;
        let Some(address) = registry.peer(id).map(|peer| peer.address) else { return };
        keeping.planner.set_address(now, number, address, registry.reaches.works_on_loopback(id));
        self.settle_keeping(now);
    }

    /// Passes the report of a volunteer to the planner.
    fn apply_report(&mut self, now: Moment, number: VolunteerNumber, report: VolunteerReport) {
        use VolunteerReport as Report;
        let Some(keeping) = &mut self.keeping else { return };
        let at = Location::Volunteer(number);
        let planner = &mut keeping.planner;
        match report {
            // Handled by `accept_offer`.
            Report::Lend { .. } => {}
            Report::Holds { kept, held, checked } => {
                let known = planner.holds(now, number, kept.file.id, &held, checked);
                let was_forgotten = planner.was_forgotten(kept.file.id);
                let effect = match known {
                    true => keeping.check_md5(number, &kept),
                    false if was_forgotten => None,
                    false => keeping.unknown_file(now, number, kept, held),
                };
                self.effects.extend(effect);
            }
            Report::Reported => planner.report_complete(now, number),
            Report::Stored { file, index, free } => planner.stored(now, at, file, index, Some(free)),
            Report::NotStored { file, index, why, text, free } => {
                let name =
                    planner.volunteer(number).map(|record| record.name.to_string()).unwrap_or_default();
                let text =
                    format!("{name} could not store chunk {index} of {}: {text}", keeping.name_of(file));
                keeping.planner.not_stored(now, at, file, index, why, Some(free));
                // A full volunteer would cause a line for each chunk; the status shows that it has no free
                // space.
                if why != CopyFailure::NoRoom {
                    self.effects.push(Effect::Note(text));
                }
            }
            Report::Dropped { file, chunks, free } => planner.dropped(now, at, file, &chunks, Some(free)),
            Report::Spoiled { file, chunks, free } => planner.spoiled(now, at, file, &chunks, Some(free)),
            // Sent by volunteers of the previous protocol version.
            Report::Drain => planner.drain(now, number, true),
        }
    }

    /// Whether this peer is a volunteer that gets time to reconnect.
    pub(super) fn may_return(&self, id: PeerId, how: Departure) -> bool {
        matches!(how, Departure::Closed | Departure::Disconnected) && self.offers_storage(id)
    }

    /// Whether this registration is the session of a volunteer.
    pub(super) fn offers_storage(&self, id: PeerId) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.volunteers.contains_key(&id))
    }

    /// Handles the removal of a peer, which may be a volunteer.
    pub(super) fn volunteer_left(&mut self, now: Moment, id: PeerId, expires: Moment, how: Departure) {
        let Some(keeping) = &mut self.keeping else { return };
        let Some(number) = keeping.volunteers.remove(&id) else { return };
        // A newer session of the same volunteer continues.
        if keeping.sessions.get(&number) != Some(&id) {
            return;
        }
        keeping.sessions.remove(&number);
        keeping.clones.remove(&number);
        match how {
            Departure::Disconnected => keeping.planner.disconnect(now, number),
            Departure::Expired => {
                keeping.planner.note_message(expires.saturating_sub(self.peers.lease()), number);
                keeping.planner.expire(now, number);
            }
            Departure::Closed | Departure::RegisteredAgain => {
                keeping.planner.note_message(expires.saturating_sub(self.peers.lease()), number);
                keeping.planner.mark_away(now, number);
            }
        }
        self.settle_keeping(now);
    }

    /// Handles the outcome of a task, or a command.
    pub(super) fn handle_outcome(&mut self, now: Moment, outcome: TaskOutcome) {
        // A tracker without files takes commands, too.
        let outcome = match outcome {
            TaskOutcome::Command(number, command) => {
                if let Some(answer) = self.carry_out(now, number, command) {
                    self.answer(number, answer);
                }
                return self.settle_keeping(now);
            }
            other => other,
        };
        let Some(keeping) = &mut self.keeping else { return };
        let planner = &mut keeping.planner;
        match outcome {
            TaskOutcome::Recorded(number) => {
                planner.recorded(now, number);
                self.answer_recorded(number);
            }
            TaskOutcome::Published { kept, layout } => {
                let id = kept.file.id;
                // The tracker has computed its MD5 from the file.
                keeping.md5_votes.remove(&id);
                if let Some(names) = keeping.further_names.get_mut(&id) {
                    names.remove(&kept.file.name);
                }
                keeping.files.insert(id, kept);
                keeping.last_version = keeping.last_version.saturating_add(1);
                keeping.versions.insert(id, keeping.last_version);
                planner.add_file(now, id, layout);
                planner.set_complete_at_tracker(now, id, true);
                keeping.supersede_other_versions(now, id);
                self.update_own_entry(id);
            }
            TaskOutcome::Named(file, name, true) => {
                keeping.further_names.entry(file).or_default().insert(name);
                self.update_own_entry(file);
            }
            TaskOutcome::Named(file, name, false) => {
                if let Some(names) = keeping.further_names.get_mut(&file) {
                    names.remove(&name);
                }
                self.peers.registry.retract(keeping.own, file, Some(&name));
            }
            TaskOutcome::Withdrawn(file) => {
                for name in keeping.further_names.remove(&file).unwrap_or_default() {
                    self.peers.registry.retract(keeping.own, file, Some(&name));
                }
                let was_complete = planner.tracker_copy(file).0;
                planner.set_complete_at_tracker(now, file, false);
                if was_complete {
                    self.report_removed(file);
                }
                if let Some(keeping) = &mut self.keeping {
                    keeping.supersede_other_versions(now, file);
                }
                self.update_own_entry(file);
            }
            TaskOutcome::ScanComplete => planner.scan_complete(now),
            TaskOutcome::Stored(file, index) => {
                planner.stored(now, Location::Tracker, file, index, None);
                self.update_own_entry(file);
            }
            TaskOutcome::NotStored(file, index, why) => {
                planner.not_stored(now, Location::Tracker, file, index, why, None);
            }
            TaskOutcome::Dropped(file, chunks) => {
                planner.dropped(now, Location::Tracker, file, &chunks, None);
                self.update_own_entry(file);
            }
            TaskOutcome::Spoiled(file, chunks) => {
                planner.spoiled(now, Location::Tracker, file, &chunks, None);
                self.update_own_entry(file);
            }
            TaskOutcome::Offloaded(file, result) => {
                planner.offloaded(now, file, result);
                self.update_own_entry(file);
            }
            TaskOutcome::Proved { number, own, verdicts, .. } => {
                planner.proved(now, number, own, &verdicts);
            }
            TaskOutcome::Recalled(file, result) => self.handle_recalled(now, file, result),
            TaskOutcome::Adopted(file, adopted) => self.handle_adopted(now, file, adopted),
            TaskOutcome::Command(..) => {}
        }
        self.settle_keeping(now);
    }

    /// Updates the tracker's own registry entry for a file.
    fn update_own_entry(&mut self, file: FileId) {
        let Some(keeping) = &self.keeping else { return };
        let Some(kept) = keeping.files.get(&file) else { return };
        let (complete, chunks) = keeping.planner.tracker_copy(file);
        let held = if complete { kept.file.chunks } else { chunks };
        if held > 0 {
            self.peers.registry.vouch(keeping.own, &kept.file, held);
            for name in keeping.further_names.get(&file).into_iter().flatten() {
                let file = FileSummary { name: name.clone(), ..kept.file.clone() };
                self.peers.registry.vouch_also(keeping.own, &file, held);
            }
            return;
        }
        self.peers.registry.retract(keeping.own, file, None);
        // A file without any holder stays in the registry: a download then waits for its chunks.
        if self.peers.registry.name_of(file).is_none() {
            self.peers.registry.vouch(keeping.own, &kept.file, 0);
        }
    }

    /// Keeps the files in the registry whose last holder has left.
    pub(super) fn restore_own_entries(&mut self) {
        let Some(keeping) = &self.keeping else { return };
        for kept in keeping.files.values() {
            if self.peers.registry.name_of(kept.file.id).is_none() {
                self.peers.registry.vouch(keeping.own, &kept.file, 0);
            }
        }
    }

    /// Does everything that is due at `now`.
    pub(super) fn tick_keeping(&mut self, now: Moment) {
        if let Some(keeping) = &mut self.keeping {
            keeping.planner.tick(now);
            let effects = keeping.retry_adoptions(now);
            self.effects.extend(effects);
            self.settle_keeping(now);
        }
    }

    /// Turns the decisions of the planner into registry updates, messages and tasks.
    fn settle_keeping(&mut self, now: Moment) {
        let Some(keeping) = &mut self.keeping else { return };
        let mut changed = HashSet::new();
        for (volunteer, file) in keeping.planner.changed_holdings() {
            let held = keeping.planner.held_by(volunteer, file);
            let Some(peer) = keeping.sessions.get(&volunteer) else { continue };
            match keeping.files.get(&file) {
                Some(kept) if held > 0 => self.peers.registry.vouch(*peer, &kept.file, held),
                _ => self.peers.registry.retract(*peer, file, None),
            }
            if keeping.planner.tracker_copy(file) == (false, 0) {
                changed.insert(file);
            }
        }
        changed.into_iter().for_each(|file| self.update_own_entry(file));
        let Some(keeping) = &mut self.keeping else { return };
        let mut verified = Vec::new();
        for order in keeping.planner.take_orders() {
            if let Order::Verified { file, summary } = order {
                verified.push((file, summary));
                continue;
            }
            let effects = keeping.effects(now, order, |peer| self.peers.connection(peer));
            self.effects.extend(effects);
        }
        if let Some((number, changes)) = keeping.planner.take_record(now) {
            self.effects.push(Effect::Task(ExecutorTask::Record { number, changes }));
        }
        self.effects.extend(keeping.distribution_line(now).map(Effect::Note));
        verified.iter().for_each(|(file, summary)| self.report_verification(*file, summary));
    }

    /// Completes the result of a lookup: adds the MD5 of kept files, and removes older versions of a kept name.
    pub(super) fn complete_lookup(&self, name: Option<&FileName>, found: &mut Vec<FoundFile>) {
        let Some(keeping) = &self.keeping else { return };
        if let Some(name) = name {
            keeping.retain_newest(name, found);
        }
        for file in found {
            file.md5 = keeping.files.get(&file.file.id).map(|kept| kept.md5);
        }
    }

    /// Status of volunteers and files; `None` if this tracker keeps no files.
    pub(super) fn keeping_status(&self, now: Moment) -> Option<Status> {
        self.keeping.as_ref().map(|keeping| keeping.status(now))
    }

    /// Whether this tracker keeps a file.
    pub(super) fn keeps(&self, file: FileId) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.files.contains_key(&file))
    }
}
