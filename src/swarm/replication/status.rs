//! Status of volunteers, files and repair, computed from counters.

use super::ReplicationPlanner;
use super::file::{Counts, File, Offload};
use super::volunteer::{Liveness, Volunteer};
use crate::content::{FileId, FileName, limits};
use crate::protocol::status::{
    ApprovalState, Copies, FileStatus, RepairStatus, Status, VolunteerState, VolunteerStatus,
};
use crate::swarm::keeping::Approval;

impl ReplicationPlanner {
    /// The current status. `names` returns the name of a file; files without a name are left out.
    pub fn status(&self, names: impl Fn(FileId) -> Option<FileName>) -> Status {
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
            volunteers: self.volunteers.iter().map(|volunteer| self.volunteer_status(volunteer)).collect(),
            files_known: self.files.file_count() as u64,
            files: files.into_iter().map(|(name, file)| file_status(file, name, replicas)).collect(),
            repair: RepairStatus {
                paused: self.repair.paused,
                waiting: self.files.counts.waiting,
                running: self.transfers.count() as u64,
                copied: self.repair.copied,
                copied_bytes: self.repair.copied_bytes,
                limit: self.settings.repair_limit,
            },
            drops: Vec::new(),
        }
    }
}

fn copies(counts: &Counts, wanted: u64) -> Copies {
    let Counts { verified, claimed, under_replicated, lost, .. } = *counts;
    let present = verified + claimed;
    Copies { wanted, verified, claimed, present, short: under_replicated, lost, ..Copies::default() }
}

impl ReplicationPlanner {
    fn volunteer_status(&self, volunteer: &Volunteer) -> VolunteerStatus {
        let approval = match volunteer.record.history.approval {
            Approval::Denied => ApprovalState::Denied,
            Approval::Approved => ApprovalState::Approved,
            Approval::Pending if !self.settings.approve || volunteer.record.address.ip().is_loopback() => {
                ApprovalState::Implied
            }
            Approval::Pending => ApprovalState::Pending,
        };
        let state = match volunteer.liveness {
            Liveness::Alive { .. } if volunteer.draining => VolunteerState::Draining,
            Liveness::Alive { .. } => VolunteerState::Alive,
            Liveness::Away { .. } => VolunteerState::Away,
            Liveness::Dead => VolunteerState::Dead,
        };
        VolunteerStatus {
            name: volunteer.record.name.clone(),
            address: volunteer.record.address,
            state,
            offered: volunteer.record.offered,
            free: volunteer.free,
            chunks: volunteer.copies,
            verified: volunteer.verified_copies,
            incoming: volunteer.incoming.copies,
            key: volunteer.record.key.print(),
            approval,
            known_s: 0,
            away_s: None,
        }
    }
}

fn file_status(file: &File, name: FileName, replicas: u64) -> FileStatus {
    let chunks = file.layout.count();
    FileStatus {
        id: file.id,
        name,
        size: file.layout.size(),
        chunks,
        here: if file.complete { chunks } else { file.stored_chunks },
        offloaded: file.offload == Offload::Done,
        copies: copies(&file.counts, u64::from(chunks) * replicas),
        readable: file.counts.without_copy == 0,
        waiting_for_holders: 0,
        kept_here: file.kept_here,
        own_copy_stays: None,
    }
}
