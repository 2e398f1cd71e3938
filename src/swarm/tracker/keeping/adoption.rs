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

/// Weight of the report of an approved volunteer.
const APPROVED_WEIGHT: usize = 2 * limits::ADOPTION_REPORTERS_MAX;

/// A file that is being added.
struct Adoption {
    /// Volunteers that have reported the file, and how they describe it; the first of them is charged for it.
    reporters: Vec<(VolunteerNumber, KeptFile)>,
    reports: Vec<(VolunteerNumber, Vec<ChunkIndex>)>,
    /// Position of the reporter to ask next.
    next: usize,
    /// The manifest is being requested.
    is_asking: bool,
    /// No reporter is asked earlier.
    retry_at: Moment,
    backoff: Backoff,
}

impl Adoption {
    fn new(number: VolunteerNumber, kept: KeptFile) -> Self {
        Self {
            reporters: vec![(number, kept)],
            reports: Vec::new(),
            next: 0,
            is_asking: false,
            retry_at: Moment::ZERO,
            backoff: Backoff::new(limits::ADOPTION_RETRY_MIN, limits::ADOPTION_RETRY_MAX),
        }
    }

    fn add_reporter(&mut self, number: VolunteerNumber, kept: KeptFile) {
        let is_known = self.reporters.iter().any(|(reporter, _)| *reporter == number);
        if !is_known && self.reporters.len() < limits::ADOPTION_REPORTERS_MAX {
            self.reporters.push((number, kept));
        }
    }
}

/// Number of files and of reported chunks in adoptions.
#[derive(Default, Clone, Copy)]
struct Use {
    files: usize,
    chunks: usize,
}

/// The files that are being added, within the limits on their number and on the chunks in their reports. Of each limit, a
/// volunteer gets at most half of what the others leave free.
#[derive(Default)]
pub(super) struct Adoptions {
    files: HashMap<FileId, Adoption>,
    total: Use,
    of_volunteer: HashMap<VolunteerNumber, Use>,
}

impl Adoptions {
    /// Adds a report. A report above a limit is ignored; the volunteer repeats it when it connects again.
    fn add(&mut self, number: VolunteerNumber, kept: KeptFile, held: Vec<ChunkIndex>) {
        let own = self.of_volunteer.get(&number).copied().unwrap_or_default();
        let fits = |most: usize, total: usize, own: usize, added: usize| {
            own + added <= most.saturating_sub(total - own) / 2
        };
        let id = kept.file.id;
        match self.files.get_mut(&id) {
            Some(adoption) => adoption.add_reporter(number, kept),
            None if fits(limits::ADOPTIONS_MAX, self.total.files, own.files, 1) => {
                self.files.insert(id, Adoption::new(number, kept));
                self.charge(number, |of| of.files += 1);
            }
            None => return,
        }
        if fits(limits::ADOPTION_CHUNKS_MAX, self.total.chunks, own.chunks, held.len()) {
            self.charge(number, |of| of.chunks += held.len());
            self.files.entry(id).and_modify(|adoption| adoption.reports.push((number, held)));
        }
    }

    /// Ends the adoption of a file, and returns the reports on it.
    fn remove(&mut self, id: FileId) -> Vec<(VolunteerNumber, Vec<ChunkIndex>)> {
        let Some(adoption) = self.files.remove(&id) else { return Vec::new() };
        if let Some((first, _)) = adoption.reporters.first() {
            self.charge(*first, |of| of.files -= 1);
        }
        for (number, held) in &adoption.reports {
            self.charge(*number, |of| of.chunks -= held.len());
        }
        adoption.reports
    }

    fn charge(&mut self, number: VolunteerNumber, change: impl Fn(&mut Use)) {
        change(&mut self.total);
        let own = self.of_volunteer.entry(number).or_default();
        change(own);
        if own.files == 0 && own.chunks == 0 {
            self.of_volunteer.remove(&number);
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
            let is_new = self.reported_unknown.len() < limits::UNKNOWN_FILES_NAMED_MAX
                && self.reported_unknown.insert(id);
            return is_new.then_some(Effect::Note(text));
        }
        let md5 = kept.md5;
        self.adopting.add(number, kept, held);
        if self.adopting.files.contains_key(&id) {
            self.vote(number, id, md5);
        }
        self.ask_next_reporter(now, id)
    }

    /// Requests the manifest of a file from the next reporter that is connected.
    fn ask_next_reporter(&mut self, now: Moment, id: FileId) -> Option<Effect> {
        let adoption =
            self.adopting.files.get_mut(&id).filter(|one| !one.is_asking && one.retry_at <= now)?;
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
        if !adoption.reporters.iter().any(|(number, _)| self.sessions.contains_key(number)) {
            // A reporter that connects again repeats its report.
            self.adopting.remove(id);
            self.md5_votes.remove(&id);
            return None;
        }
        adoption.next = 0;
        adoption.retry_at = now + adoption.backoff.pause(&mut self.random);
        None
    }

    /// Time at which a reporter is asked next.
    pub(super) fn next_adoption(&self) -> Option<Moment> {
        self.adopting.files.values().filter(|one| !one.is_asking).map(|one| one.retry_at).min()
    }

    /// Requests the manifests that are due.
    pub(super) fn retry_adoptions(&mut self, now: Moment) -> Vec<Effect> {
        let due = self.adopting.files.iter().filter(|(_, one)| !one.is_asking && one.retry_at <= now);
        let mut due: Vec<FileId> = due.map(|(id, _)| *id).collect();
        due.sort_unstable();
        due.into_iter().filter_map(|id| self.ask_next_reporter(now, id)).collect()
    }

    /// Notes the MD5 of a file according to a volunteer.
    fn vote(&mut self, number: VolunteerNumber, id: FileId, md5: Md5) {
        let votes = self.md5_votes.entry(id).or_default();
        if votes.len() < limits::ADOPTION_REPORTERS_MAX || votes.contains_key(&number) {
            votes.insert(number, md5);
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
        self.vote(number, id, kept.md5);
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
            let Some(adoption) = keeping.adopting.files.get_mut(&file) else { return };
            adoption.is_asking = false;
            let text = format!("{} not added yet: a volunteer did not deliver its manifest", file.short());
            self.effects.push(Effect::Note(text));
            let effect = keeping.ask_next_reporter(now, file);
            self.effects.extend(effect);
            return;
        };
        let reports = keeping.adopting.remove(file);
        let md5 = keeping.elected_md5(file).unwrap_or(kept.md5);
        keeping.files.insert(file, KeptFile { md5, ..kept });
        keeping.planner.adopt_file(now, file, layout);
        keeping.planner.holds_adopted(now, file, &reports);
        self.update_own_entry(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::FileName;
    use crate::protocol::tracker::FileSummary;

    fn kept(number: usize) -> KeptFile {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let file = FileSummary { id: FileId(id), name: FileName::new("f").unwrap(), size: 9, chunks: 1 };
        KeptFile { file, md5: Md5([5; 16]) }
    }

    #[test]
    fn a_volunteer_gets_half_of_the_adoptions_that_others_leave_free() {
        let (hostile, honest) = (VolunteerNumber(1), VolunteerNumber(2));
        let mut adoptions = Adoptions::default();
        let half = limits::ADOPTIONS_MAX / 2;
        (0..=half).for_each(|number| adoptions.add(hostile, kept(number), Vec::new()));
        assert_eq!(adoptions.files.len(), half, "one file above the limit is refused");
        adoptions.add(honest, kept(half + 7), vec![ChunkIndex(0)]);
        assert_eq!(adoptions.files.len(), half + 1);
        (0..half).for_each(|number| _ = adoptions.remove(kept(number).file.id));
        assert_eq!(adoptions.remove(kept(half + 7).file.id), [(honest, vec![ChunkIndex(0)])]);
        assert_eq!((adoptions.total.files, adoptions.total.chunks, adoptions.of_volunteer.len()), (0, 0, 0));
    }

    #[test]
    fn the_chunks_in_the_reports_of_a_volunteer_are_limited() {
        let hostile = VolunteerNumber(1);
        let mut adoptions = Adoptions::default();
        let half = limits::ADOPTION_CHUNKS_MAX / 2;
        adoptions.add(hostile, kept(1), vec![ChunkIndex(0); half]);
        adoptions.add(hostile, kept(1), vec![ChunkIndex(0)]);
        assert_eq!(adoptions.remove(kept(1).file.id).len(), 1, "one chunk above the limit is not remembered");
        assert_eq!(adoptions.total.chunks, 0);
    }
}
