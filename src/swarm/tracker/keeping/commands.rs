//! Commands of the owner of a tracker that keeps files.

use super::resolve::{Candidate, describe, file, id_prefix, listed, volunteer};
use super::{Keeping, Tracker};
use crate::content::fmt::{counted, size};
use crate::content::{FileId, FileName, limits};
use crate::protocol::tracker::FoundFile;
use crate::swarm::Moment;
use crate::swarm::command::{
    Answer, Command, FileSelector, PeerEntry, PeerList, Refusal, Verification, VolunteerSelector,
};
use crate::swarm::keeping::{Approval, ExecutorTask, VolunteerNumber};
use crate::swarm::machine::Effect;
use crate::swarm::registry::PeerId;
use crate::swarm::replication::{OwnCopyState, VerifySummary};
use std::collections::BTreeMap;

impl Tracker {
    /// Carries out a command of the owner. `None`: the answer follows when the work of the command has ended.
    pub(super) fn carry_out(&mut self, now: Moment, number: u64, command: Command) -> Option<Answer> {
        let answer = match command {
            Command::Peers => Ok(Answer::Peers(self.peer_list())),
            Command::Status => Ok(Answer::Status { status: Box::new(self.status(now)) }),
            Command::Recall { file } => return self.recall(now, number, &file).unwrap_or_else(Some),
            Command::Verify { file } => return self.verify(now, number, &file).unwrap_or_else(Some),
            Command::Forget { file, yes, dry_run } => self.forget(now, &file, yes, dry_run),
            other => match &mut self.keeping {
                Some(keeping) => keeping.carry_out(now, other),
                None => Err(no_files()),
            },
        };
        Some(answer.unwrap_or_else(|refusal| refusal))
    }

    /// Answers a command; if it was carried out, as soon as its changes are durable.
    pub(super) fn answer(&mut self, number: u64, answer: Answer) {
        if let Some(keeping) = self.keeping.as_mut().filter(|_| matches!(answer, Answer::Done { .. }))
            && let Some(record) = keeping.planner.hasten_record()
        {
            keeping.unrecorded.push((record, number, answer));
        } else {
            self.effects.push(Effect::Answer(number, answer));
        }
    }

    /// Answers the commands whose changes are durable with this record.
    pub(super) fn answer_recorded(&mut self, record: u64) {
        let Some(keeping) = &mut self.keeping else { return };
        let durable = keeping.unrecorded.extract_if(.., |(needed, ..)| *needed <= record);
        self.effects.extend(durable.map(|(_, number, answer)| Effect::Answer(number, answer)));
    }

    /// The registered peers. A volunteer is listed once.
    pub(in crate::swarm::tracker) fn peer_list(&self) -> PeerList {
        let mut peers = BTreeMap::new();
        let own = self.keeping.as_ref().map(|keeping| keeping.own);
        let own = own.and_then(|own| self.peers.registry.peer(own));
        for peer in self.peers.registry.peers() {
            if own.is_some_and(|own| std::ptr::eq(own, peer)) {
                continue;
            }
            if peers.len() >= limits::PEERS_LISTED_MAX {
                break;
            }
            peers.insert((peer.name.clone(), peer.address), false);
        }
        let keeping = self.keeping.iter();
        let connected = keeping.flat_map(|keeping| {
            keeping.sessions.keys().filter_map(|number| keeping.planner.volunteer(*number))
        });
        for record in connected {
            if let Some(volunteer) = peers.get_mut(&(record.name.clone(), record.address)) {
                *volunteer = true;
            }
        }
        let entry = |((name, address), volunteer)| PeerEntry { name, address, volunteer };
        PeerList { count: self.peers.peer_count(), peers: peers.into_iter().map(entry).collect() }
    }

    /// Stops keeping a file.
    fn forget(
        &mut self,
        now: Moment,
        wanted: &FileSelector,
        yes: bool,
        dry_run: bool,
    ) -> Result<Answer, Answer> {
        let Some(keeping) = &mut self.keeping else { return Err(no_files()) };
        let (id, older) = keeping.find_file(wanted)?;
        let (name, copies) = (keeping.selected(id, wanted), keeping.copies_text(id));
        let in_folder = keeping.planner.tracker_copy(id).0;
        let older = keeping.older_text(&older);
        if dry_run {
            let rest = match in_folder {
                true => "the file in the folder stays",
                false => "there is no complete copy in the folder of the tracker",
            };
            return Ok(Answer::done(format!("forget {name} would drop {copies}; {rest}{older}")));
        }
        if !in_folder && !yes {
            let text = format!(
                "{} has no complete copy in the folder of the tracker: forget deletes {copies}, the last ones; \
                 `recall` brings the file back{older}",
                keeping.with_id(id)
            );
            let command = Command::Forget { file: FileSelector(id.to_string()), yes: true, dry_run: false };
            return Ok(Answer::Confirm { text, command });
        }
        keeping.planner.forget(now, id);
        keeping.files.remove(&id);
        keeping.versions.remove(&id);
        keeping.further_names.remove(&id);
        let waiting = keeping.verifications.remove(&id).unwrap_or_default();
        self.peers.registry.retract(keeping.own, id, None);
        let ended = Answer::refused(
            Refusal::NotFound,
            format!("verification of {name} ended: the file was forgotten"),
        );
        self.effects.extend(waiting.into_iter().map(|number| Effect::Answer(number, ended.clone())));
        self.effects.push(Effect::Task(ExecutorTask::Forget(id)));
        Ok(Answer::done(format!("{name} is forgotten; its copies at volunteers are dropped{older}")))
    }

    /// Marks a file as kept, and brings it back into the folder if it is not there.
    fn recall(&mut self, now: Moment, number: u64, wanted: &FileSelector) -> Result<Option<Answer>, Answer> {
        let Some(keeping) = &mut self.keeping else { return Err(no_files()) };
        let (id, older) = keeping.find_file(wanted)?;
        let (name, older) = (keeping.selected(id, wanted), keeping.older_text(&older));
        if let Some((waiting, _)) = keeping.recalls.get_mut(&id) {
            waiting.push(number);
            return Ok(None);
        }
        let Some(kept) = keeping.files.get(&id).cloned() else { return Ok(None) };
        let was_kept = keeping.planner.is_kept_here(id);
        keeping.planner.set_kept(now, id, true);
        if matches!(keeping.planner.own_copy(id), OwnCopyState::Needed(_) | OwnCopyState::Replaced) {
            let text = format!("{name} is in the folder of the tracker, and stays there{older}");
            return Ok(Some(Answer::done(text)));
        }
        keeping.recalls.insert(id, (vec![number], was_kept));
        let from = keeping.planner.recall_sources(id);
        self.effects.push(Effect::Task(ExecutorTask::Recall { kept, from }));
        Ok(None)
    }

    /// Handles the end of a recall.
    pub(super) fn handle_recalled(&mut self, now: Moment, id: FileId, result: Result<(), String>) {
        let Some(keeping) = &mut self.keeping else { return };
        let Some((waiting, was_kept)) = keeping.recalls.remove(&id) else { return };
        let name = keeping.with_id(id);
        let (effect, answer) = match result {
            Ok(()) => {
                let text = format!("{name} is back in the folder of the tracker, and stays there");
                (Effect::Note(text.clone()), Answer::done(text))
            }
            Err(why) => {
                keeping.planner.set_kept(now, id, was_kept);
                let text = format!("recall of {name} failed: {why}");
                (Effect::Warning(text.clone()), Answer::refused(Refusal::Failed, text))
            }
        };
        self.effects.push(effect);
        waiting.into_iter().for_each(|number| self.answer(number, answer.clone()));
    }

    /// Begins to verify all copies of a file.
    fn verify(&mut self, now: Moment, number: u64, wanted: &FileSelector) -> Result<Option<Answer>, Answer> {
        let Some(keeping) = &mut self.keeping else { return Err(no_files()) };
        let (id, _) = keeping.find_file(wanted)?;
        if !keeping.planner.verify(now, id) {
            return Err(Answer::refused(Refusal::NotFound, "no such file is kept"));
        }
        keeping.verifications.entry(id).or_default().push(number);
        Ok(None)
    }

    /// Logs the result of a verification, and answers the commands that wait for it.
    pub(super) fn report_verification(&mut self, id: FileId, summary: &VerifySummary) {
        let Some(keeping) = &mut self.keeping else { return };
        let (result, text) = verification_text(&keeping.with_id(id), summary, keeping.replicas);
        let waiting = keeping.verifications.remove(&id).unwrap_or_default();
        self.effects.push(match result {
            Verification::Proven => Effect::Note(text.clone()),
            _ => Effect::Warning(text.clone()),
        });
        let answer = Answer::Verified { result, text };
        self.effects.extend(waiting.into_iter().map(|number| Effect::Answer(number, answer.clone())));
    }

    /// Logs a volunteer whose copies justify no deletion until the owner approves it.
    pub(super) fn report_pending(&mut self, id: PeerId, number: VolunteerNumber) {
        let Some(keeping) = self.keeping.as_ref().filter(|keeping| keeping.approve) else { return };
        let Some(record) = keeping.planner.volunteer(number) else { return };
        let is_local = record.address.ip().to_canonical().is_loopback()
            && self.peers.source_ip(id).is_some_and(|ip| ip.is_loopback());
        if record.history.approval == Approval::Pending && !is_local {
            self.effects.push(Effect::Note(format!(
                "{} waits for approval: its copies justify no deletion; approve it with: tracker approve {} --state DIR",
                describe(record),
                record.key.print().short()
            )));
        }
    }

    /// Logs what remains of a file that was removed from the folder, or has changed there.
    pub(super) fn report_removed(&mut self, id: FileId) {
        let Some(keeping) = &self.keeping else { return };
        let Some(copies) = keeping.planner.file_copies(id) else { return };
        let (name, prefix) = (keeping.name_of(id), id_prefix(id));
        let chunks = keeping.files.get(&id).map_or(0, |kept| u64::from(kept.file.chunks));
        let effect = match (copies.lost, copies.short) {
            (0, 0) => Effect::Note(format!(
                "{name} ({prefix}) is no longer in the folder; volunteers have all {} of it; `forget {prefix}` drops \
                 them, `recall {prefix}` brings the file back",
                counted(copies.wanted, "copy")
            )),
            (0, short) => Effect::Warning(format!(
                "{name} ({prefix}) is no longer in the folder, and {} of its {} have fewer proven copies at volunteers \
                 than wanted; put the file back until they are copied",
                short,
                counted(chunks, "chunk")
            )),
            (lost, _) => Effect::Warning(format!(
                "{name} ({prefix}) is no longer in the folder, and {lost} of its {} have no copy at a volunteer; put \
                 the file back until they are copied",
                counted(chunks, "chunk")
            )),
        };
        self.effects.push(effect);
    }
}

impl Keeping {
    /// Carries out a command that needs only the planner.
    fn carry_out(&mut self, now: Moment, command: Command) -> Result<Answer, Answer> {
        match command {
            Command::Pause { on } => {
                self.planner.pause(now, on);
                let text =
                    if on { "repair is paused; `repair resume` continues it" } else { "repair is resumed" };
                Ok(Answer::done(text))
            }
            Command::Approve { volunteer } => {
                let (number, told) = self.find_volunteer(&volunteer)?;
                self.planner.set_approval(now, number, Approval::Approved);
                Ok(Answer::done(format!("approved {told}: its proven copies justify deletions")))
            }
            Command::Deny { volunteer } => {
                let (number, told) = self.find_volunteer(&volunteer)?;
                self.planner.set_approval(now, number, Approval::Denied);
                Ok(Answer::done(format!("denied {told}: its copies do not count, and none is dropped")))
            }
            Command::Drain { volunteer, on } => {
                let (number, told) = self.find_volunteer(&volunteer)?;
                self.planner.drain(now, number, on);
                Ok(Answer::done(match on {
                    true => format!("draining {told}; the log reports when it may leave"),
                    false => format!("drain of {told} cancelled"),
                }))
            }
            Command::ForgetVolunteer { volunteer, yes } => self.forget_volunteer(now, &volunteer, yes),
            Command::Offload { file, dry_run } => self.offload(now, &file, dry_run),
            Command::Status
            | Command::Peers
            | Command::Recall { .. }
            | Command::Verify { .. }
            | Command::Forget { .. } => {
                Err(Answer::refused(Refusal::State, "the command needs the whole tracker"))
            }
        }
    }

    /// Removes the record of a volunteer.
    fn forget_volunteer(
        &mut self,
        now: Moment,
        volunteer: &VolunteerSelector,
        yes: bool,
    ) -> Result<Answer, Answer> {
        let (number, told) = self.find_volunteer(volunteer)?;
        if self.planner.is_connected(number) {
            let text = format!("{told} is connected; stop it, or deny it");
            return Err(Answer::refused(Refusal::State, text));
        }
        let only = self.planner.last_holder_of(number);
        if only > 0 && !yes {
            let text = format!("{told} is the last known holder of {}", counted(only, "chunk"));
            let print = self.planner.volunteer(number).map(|record| record.key.print().to_string());
            let command = Command::ForgetVolunteer {
                volunteer: VolunteerSelector(print.unwrap_or_default()),
                yes: true,
            };
            return Ok(Answer::Confirm { text, command });
        }
        let forgotten = self.planner.forget_last_holder(now, number);
        forgotten.map_err(|reason| Answer::refused(Refusal::State, reason))?;
        Ok(Answer::done(format!("{told} is forgotten")))
    }

    /// Offloads a file under the rules of `--offload`.
    fn offload(&mut self, now: Moment, wanted: &FileSelector, dry_run: bool) -> Result<Answer, Answer> {
        let (id, older) = self.find_file(wanted)?;
        let (name, older) = (self.selected(id, wanted), self.older_text(&older));
        let bytes = size(self.files.get(&id).map_or(0, |kept| kept.file.size));
        let state = self.planner.own_copy(id);
        if !dry_run {
            self.planner.offload_now(now, id);
        }
        Ok(Answer::done(match (state, dry_run) {
            (OwnCopyState::Absent, _) => {
                format!("{name} has no complete copy in the folder of the tracker{older}")
            }
            (OwnCopyState::Leaving, _) => format!("{name} is being offloaded{older}"),
            (OwnCopyState::Replaced, true) => {
                format!("offload {name} would delete {bytes} from the folder{older}")
            }
            (OwnCopyState::Replaced, false) => {
                format!(
                    "{name} is offloaded: {bytes} are deleted from the folder once the copies are recorded{older}"
                )
            }
            (OwnCopyState::Needed(why), true) => {
                format!("offload {name} would delete nothing yet: own copy stays: {why}{older}")
            }
            (OwnCopyState::Needed(why), false) => {
                format!("{name} is offloaded as soon as its copies permit it; own copy stays: {why}{older}")
            }
        }))
    }

    /// The volunteer that the owner has named, and its description.
    fn find_volunteer(&self, selector: &VolunteerSelector) -> Result<(VolunteerNumber, String), Answer> {
        let number = volunteer(selector, self.planner.volunteers())?;
        Ok((number, self.planner.volunteer(number).map(describe).unwrap_or_default()))
    }

    /// The file that the owner has named, and older versions of its name.
    fn find_file(&self, wanted: &FileSelector) -> Result<(FileId, Vec<FileId>), Answer> {
        file(wanted, self.files.keys().filter_map(|id| self.candidate(*id)))
    }

    /// The name of a file that the owner has selected, with its whole id if the owner gave the first digits.
    fn selected(&self, id: FileId, FileSelector(text): &FileSelector) -> String {
        match self.name_of(id) {
            name if name == *text || text.eq_ignore_ascii_case(&id.to_string()) => name,
            _ => self.with_id(id),
        }
    }

    /// Name and whole id of a file.
    fn with_id(&self, id: FileId) -> String {
        format!("{} (id {id})", self.name_of(id))
    }

    /// Removes older versions of a kept name from found files, so that a download by name gets the newest one.
    pub(super) fn retain_newest(&self, name: &FileName, found: &mut Vec<FoundFile>) {
        let kept = found.iter().filter_map(|found| self.candidate(found.file.id)).collect::<Vec<_>>();
        if let Ok((_, older)) = file(&FileSelector(name.as_str().to_owned()), kept.into_iter()) {
            found.retain(|found| !older.contains(&found.file.id));
        }
    }

    fn candidate(&self, id: FileId) -> Option<Candidate<'_>> {
        Some(Candidate {
            kept: self.files.get(&id)?,
            in_folder: self.planner.tracker_copy(id).0,
            version: self.versions.get(&id).copied().unwrap_or_default(),
        })
    }

    fn copies_text(&self, id: FileId) -> String {
        let copies = self.planner.file_copies(id).unwrap_or_default();
        format!("{} at volunteers", counted(copies.verified + copies.claimed, "copy"))
    }

    /// The end of an answer that names older versions.
    fn older_text(&self, older: &[FileId]) -> String {
        let ids: Vec<String> = older.iter().map(|id| id_prefix(*id)).collect();
        match ids.is_empty() {
            true => String::new(),
            false => format!("; older versions of this name: {}", listed(&ids)),
        }
    }
}

fn no_files() -> Answer {
    Answer::refused(Refusal::State, "this tracker keeps no files; restart it with --files DIR --state DIR")
}

/// Result and text of a verification.
fn verification_text(name: &str, summary: &VerifySummary, replicas: usize) -> (Verification, String) {
    let VerifySummary { chunks, proven, wrong, cannot_tell, own_corrupt, under_replicated } = *summary;
    let result = match (under_replicated, wrong + own_corrupt) {
        (0, 0) => Verification::Proven,
        (_, 0) => Verification::TooFew,
        _ => Verification::Corrupt,
    };
    let wanted = chunks * replicas as u64;
    let mut text = format!("{name}: {} proven, {wanted} wanted", counted(proven, "copy"));
    for (count, part) in [
        (under_replicated, format!("{under_replicated} of {} have too few", counted(chunks, "chunk"))),
        (wrong, format!("{} corrupt or missing", counted(wrong, "copy"))),
        (cannot_tell, format!("{} without an answer", counted(cannot_tell, "copy"))),
        (own_corrupt, format!("{} corrupt in the tracker's own copy", counted(own_corrupt, "chunk"))),
    ] {
        if count > 0 {
            text += &format!(", {part}");
        }
    }
    (result, text)
}
