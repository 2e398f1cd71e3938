//! Files that volunteers hold and the catalogue lacks: with `--rebuild` they are added to it.
//!
//! The manifest is requested from one reporter after the other, with a backoff after each round. The MD5 is not
//! covered by the id of the file: the one that most reporters name is taken, approved volunteers first.

use super::{Keeping, Tracker};
use crate::content::{ChunkIndex, FileId, Layout, Md5, limits};
use crate::protocol::volunteer::KeptFile;
use crate::swarm::Moment;
use crate::swarm::backoff::Backoff;
use crate::swarm::keeping::{Approval, ExecutorTask, Location, VolunteerNumber};
use crate::swarm::machine::Effect;
use std::collections::HashMap;

/// Reporters of one file that are remembered.
const REPORTERS_MAX: usize = 64;
/// Chunks in the reports on one file that are remembered.
const CHUNKS_MAX: usize = 1 << 20;
/// Weight of the report of an approved volunteer.
const APPROVED_WEIGHT: usize = 2 * REPORTERS_MAX;

/// A file that is being added.
pub(super) struct Adoption {
    /// Volunteers that have reported the file, and how they describe it.
    reporters: Vec<(VolunteerNumber, KeptFile)>,
    reports: Vec<(VolunteerNumber, Vec<ChunkIndex>)>,
    /// Number of chunks in the reports.
    chunks: usize,
    /// Position of the reporter to ask next.
    next: usize,
    /// The manifest is being requested.
    is_asking: bool,
    /// No reporter is asked earlier.
    retry_at: Moment,
    backoff: Backoff,
}

impl Adoption {
    fn new() -> Self {
        Self {
            reporters: Vec::new(),
            reports: Vec::new(),
            chunks: 0,
            next: 0,
            is_asking: false,
            retry_at: Moment::ZERO,
            backoff: Backoff::new(limits::ADOPTION_RETRY_MIN, limits::ADOPTION_RETRY_MAX),
        }
    }

    fn add(&mut self, number: VolunteerNumber, kept: KeptFile, held: Vec<ChunkIndex>) {
        let is_known = self.reporters.iter().any(|(reporter, _)| *reporter == number);
        if !is_known && self.reporters.len() >= REPORTERS_MAX {
            return;
        }
        if !is_known {
            self.reporters.push((number, kept));
        }
        if self.chunks + held.len() <= CHUNKS_MAX {
            self.chunks += held.len();
            self.reports.push((number, held));
        }
    }
}

/// The MD5 of adopted files according to each reporter.
pub(super) type Md5Votes = HashMap<FileId, HashMap<VolunteerNumber, Md5>>;

impl Keeping {
    /// Handles a report on a file that is not in the catalogue. The file is ignored unless `rebuild` is set.
    pub(super) fn unknown_file(
        &mut self,
        now: Moment,
        number: VolunteerNumber,
        kept: KeptFile,
        held: Vec<ChunkIndex>,
    ) -> Option<Effect> {
        let (id, name) = (kept.file.id, kept.file.name.clone());
        if !self.rebuild {
            let holder = self.name_of_volunteer(number);
            let text = format!(
                "{holder} holds chunks of {name} ({id}), which this tracker does not keep; --rebuild adds such files"
            );
            return self.reported_unknown.insert(id).then_some(Effect::Note(text));
        }
        self.vote(number, &kept);
        self.adopting.entry(id).or_insert_with(Adoption::new).add(number, kept, held);
        self.ask_next_reporter(now, id)
    }

    /// Requests the manifest of a file from the next reporter that is connected.
    fn ask_next_reporter(&mut self, now: Moment, id: FileId) -> Option<Effect> {
        let adoption = self.adopting.get_mut(&id).filter(|one| !one.is_asking && one.retry_at <= now)?;
        while let Some((number, kept)) = adoption.reporters.get(adoption.next) {
            adoption.next += 1;
            let is_connected = self.sessions.contains_key(number);
            let Some(record) = self.planner.volunteer(*number).filter(|_| is_connected) else { continue };
            adoption.is_asking = true;
            let mut kept = kept.clone();
            let from = record.address;
            kept.md5 = self.elected_md5(id).unwrap_or(kept.md5);
            return Some(Effect::Task(ExecutorTask::Adopt { kept, from }));
        }
        adoption.next = 0;
        adoption.retry_at = now + adoption.backoff.pause(&mut self.random);
        None
    }

    /// Time at which a reporter is asked next.
    pub(super) fn next_adoption(&self) -> Option<Moment> {
        self.adopting.values().filter(|one| !one.is_asking).map(|one| one.retry_at).min()
    }

    /// Requests the manifests that are due.
    pub(super) fn retry_adoptions(&mut self, now: Moment) -> Vec<Effect> {
        let due = self.adopting.iter().filter(|(_, one)| !one.is_asking && one.retry_at <= now);
        let mut due: Vec<FileId> = due.map(|(id, _)| *id).collect();
        due.sort_unstable();
        due.into_iter().filter_map(|id| self.ask_next_reporter(now, id)).collect()
    }

    /// Notes the MD5 of a file according to a volunteer.
    fn vote(&mut self, number: VolunteerNumber, kept: &KeptFile) {
        let votes = self.md5_votes.entry(kept.file.id).or_default();
        if votes.len() < REPORTERS_MAX || votes.contains_key(&number) {
            votes.insert(number, kept.md5);
        }
    }

    /// The MD5 that most reporters of an adopted file name.
    fn elected_md5(&self, id: FileId) -> Option<Md5> {
        let mut weights: Vec<(usize, Md5)> = Vec::new();
        for (number, md5) in self.md5_votes.get(&id)? {
            let approval = self.planner.volunteer(*number).map(|record| record.history.approval);
            let weight = match approval {
                Some(Approval::Approved) => APPROVED_WEIGHT,
                Some(Approval::Denied) | None => continue,
                Some(Approval::Pending) => 1,
            };
            match weights.iter_mut().find(|(_, other)| other == md5) {
                Some((sum, _)) => *sum += weight,
                None => weights.push((weight, *md5)),
            }
        }
        weights.into_iter().max_by_key(|(weight, md5)| (*weight, md5.0)).map(|(_, md5)| md5)
    }

    /// Handles a report on a file that was adopted: its MD5 may have been named wrongly.
    pub(super) fn check_md5(&mut self, number: VolunteerNumber, kept: &KeptFile) -> Option<Effect> {
        let id = kept.file.id;
        if !self.md5_votes.contains_key(&id) {
            return None;
        }
        self.vote(number, kept);
        let elected = self.elected_md5(id)?;
        let known = self.files.get_mut(&id)?;
        if known.md5 == elected {
            return None;
        }
        known.md5 = elected;
        let kept = known.clone();
        let from = self.address_of(Location::Volunteer(number))?;
        Some(Effect::Task(ExecutorTask::Adopt { kept, from }))
    }
}

impl Tracker {
    /// Handles the end of an attempt to add a file that only volunteers had.
    pub(super) fn handle_adopted(&mut self, now: Moment, file: FileId, adopted: Option<(KeptFile, Layout)>) {
        let Some(keeping) = &mut self.keeping else { return };
        let Some((kept, layout)) = adopted else {
            let Some(adoption) = keeping.adopting.get_mut(&file) else { return };
            adoption.is_asking = false;
            let text = format!("{} not added yet: a volunteer did not deliver its manifest", file.short());
            self.effects.push(Effect::Note(text));
            let effect = keeping.ask_next_reporter(now, file);
            self.effects.extend(effect);
            return;
        };
        let reports = keeping.adopting.remove(&file).map(|adoption| adoption.reports).unwrap_or_default();
        let md5 = keeping.elected_md5(file).unwrap_or(kept.md5);
        keeping.files.insert(file, KeptFile { md5, ..kept });
        keeping.planner.adopt_file(now, file, layout);
        keeping.planner.holds_adopted(now, file, &reports);
        self.update_own_entry(file);
    }
}
