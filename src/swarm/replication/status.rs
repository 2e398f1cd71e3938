//! Status of volunteers, files and repair, computed from counters.

use super::ReplicationPlanner;
use super::file::{Counts, File, Offload};
use super::volunteer::{Liveness, Volunteer};
use crate::content::{FileId, FileName, limits};
use crate::protocol::status::{
    ApprovalState, Copies, FileStatus, RepairStatus, Status, VolunteerState, VolunteerStatus,
};
use crate::swarm::Moment;
use crate::swarm::keeping::Approval;

impl ReplicationPlanner {
    /// The current status, without the log of drops. `names` returns the name of a file; files without a name
    /// are left out.
    pub fn status(&self, now: Moment, names: impl Fn(FileId) -> Option<FileName>) -> Status {
        let replicas = self.settings.replicas as u64;
        let alive = || self.volunteers.iter().filter(|volunteer| volunteer.is_alive());
        let known = || self.files.iter();
        let mut files: Vec<(FileName, &File)> =
            known().filter_map(|file| Some((names(file.id)?, file))).collect();
        files.sort_unstable_by(|one, other| (one.0.as_str(), one.1.id).cmp(&(other.0.as_str(), other.1.id)));
        files.truncate(limits::STATUS_FILES_MAX);
        let chunks: u64 = known().map(|file| file.chunks.len() as u64).sum();
        Status {
            replicas: self.settings.replicas as u32,
            volunteers_needed: u32::try_from(self.settings.volunteers_min).unwrap_or(u32::MAX),
            offered: alive().map(|volunteer| volunteer.record.offered).fold(0, u64::saturating_add),
            free: alive().map(|volunteer| volunteer.free).fold(0, u64::saturating_add),
            copies: copies(&self.files.counts, chunks * replicas),
            volunteers: self
                .volunteers
                .iter()
                .map(|volunteer| self.volunteer_status(now, volunteer))
                .collect(),
            files_known: self.files.file_count() as u64,
            files: files.into_iter().map(|(name, file)| self.file_status(file, name)).collect(),
            repair: RepairStatus {
                paused: self.repair.paused,
                waiting: self.files.counts.waiting,
                running: self.transfers.count() as u64,
                copied: self.repair.copied,
                copied_bytes: self.repair.copied_bytes,
                limit: self.settings.repair_limit,
            },
            ..Status::default()
        }
    }

    fn volunteer_status(&self, now: Moment, volunteer: &Volunteer) -> VolunteerStatus {
        let state = match volunteer.liveness {
            Liveness::Alive { .. } if volunteer.draining => VolunteerState::Draining,
            Liveness::Alive { .. } => VolunteerState::Alive,
            Liveness::Away { .. } => VolunteerState::Away,
            Liveness::Lost => VolunteerState::Dead,
        };
        let away_s = match volunteer.liveness {
            Liveness::Away { lost_at, .. } => Some(lost_at.saturating_sub(now).as_secs()),
            Liveness::Alive { .. } | Liveness::Lost => None,
        };
        let history = volunteer.record.history;
        let known_s = match history.first_seen_s {
            0 => 0,
            first_seen_s => self.unix_s(now).saturating_sub(first_seen_s),
        };
        VolunteerStatus {
            name: volunteer.record.name.clone(),
            address: volunteer.record.address,
            state,
            offered: volunteer.record.offered,
            free: volunteer.free,
            chunks: volunteer.copies,
            verified: volunteer.proven_copies,
            incoming: volunteer.incoming.copies,
            key: volunteer.record.key.print(),
            approval: match history.approval {
                Approval::Denied => ApprovalState::Denied,
                Approval::Approved => ApprovalState::Approved,
                Approval::Pending if volunteer.is_approved(self.settings.approve) => ApprovalState::Implied,
                Approval::Pending => ApprovalState::Pending,
            },
            known_s,
            away_s,
        }
    }

    fn file_status(&self, file: &File, name: FileName) -> FileStatus {
        let chunks = file.layout.count();
        FileStatus {
            id: file.id,
            name,
            size: file.layout.size(),
            chunks,
            here: if file.complete { chunks } else { file.stored_chunks },
            offloaded: file.offload == Offload::Done,
            copies: copies(&file.counts, u64::from(chunks) * self.settings.replicas as u64),
            readable: file.counts.unreadable == 0,
            waiting_for_holders: file.counts.waits_for_holders,
            kept_here: file.kept_here,
            own_copy_stays: self.why_own_copy_stays(file),
        }
    }

    /// Why the tracker's own copy of a file that is to be offloaded is not deleted yet.
    fn why_own_copy_stays(&self, file: &File) -> Option<String> {
        if file.kept_here {
            return file.complete.then(|| "kept with `recall`".to_owned());
        }
        let is_wanted = (self.settings.offload || file.offload_wanted) && file.complete;
        if !is_wanted || file.counts.unjustified == 0 {
            let failed = is_wanted && file.offload_failed;
            return failed.then(|| "it has changed or cannot be deleted".to_owned());
        }
        Some(self.missing_condition(file))
    }

    /// The condition for the deletion of the tracker's own copy of a file that is not met.
    pub(super) fn missing_condition(&self, file: &File) -> String {
        let replicas = self.settings.replicas;
        let fewest = |count: fn(&super::chunk::CopyCounts) -> u8| {
            file.chunks.iter().map(|chunk| usize::from(count(&chunk.copy_counts))).min().unwrap_or(0)
        };
        let proven = fewest(|counts| counts.proven);
        if proven < replicas || !self.settings.approve {
            format!("{proven} of {replicas} proven copies")
        } else {
            let approved = fewest(|counts| counts.justifying);
            format!("{approved} of {replicas} copies on approved volunteers")
        }
    }
}

pub(super) fn copies(counts: &Counts, wanted: u64) -> Copies {
    Copies {
        wanted,
        verified: counts.proven,
        claimed: counts.claimed,
        short: counts.under_replicated,
        present: counts.readable,
        away: counts.away,
        approved: counts.justifying,
        lost: counts.lost,
    }
}
