//! Reports lost chunks: those without any copy, neither at a volunteer nor at the tracker.

use super::ReplicationPlanner;
use super::chunk::ChunkKey;
use super::order::Order;
use super::replicas::CopyState;
use crate::content::ChunkIndex;
use crate::content::fmt::counted;
use crate::swarm::Moment;
use crate::swarm::keeping::VolunteerNumber;
use std::collections::{BTreeMap, BTreeSet};

/// Chunks that may be lost, and lost chunks that were found again.
#[derive(Default, Debug)]
pub(super) struct LostChunks {
    /// All complete files of the tracker are known. No chunk is reported as lost before that.
    pub scan_complete: bool,
    /// Chunks that may have become lost since the last report.
    pub candidates: Vec<ChunkKey>,
    /// Number of chunks found again since the last report, by the slot of their file.
    found: BTreeMap<u32, u64>,
}

impl LostChunks {
    /// Counts a lost chunk of a file that has a copy again.
    pub fn note_found(&mut self, slot: u32) {
        *self.found.entry(slot).or_default() += 1;
    }

    /// Forgets the chunks of a file that were found again.
    pub fn forget_file(&mut self, slot: u32) {
        self.found.remove(&slot);
    }
}

impl ReplicationPlanner {
    /// Checks for lost chunks in all files that have been known for at least one lease, the time within which
    /// volunteers report.
    pub(super) fn scan_for_lost(&mut self, now: Moment) {
        let lease = self.settings.lease;
        if !self.lost.scan_complete || self.schedule.start.is_none_or(|start| now < start + lease) {
            return;
        }
        for slot in 0..self.files.slot_count() {
            let Some(file) = self.files.get_mut(slot) else { continue };
            if file.grace_over || now < file.known_since + lease {
                continue;
            }
            file.grace_over = true;
            let chunks = (0u32..).zip(&file.chunks).filter(|(_, chunk)| chunk.deficits.without_copy);
            let without_copy: Vec<ChunkKey> =
                chunks.map(|(index, _)| ChunkKey { file: slot, index }).collect();
            self.lost.candidates.extend(without_copy);
        }
    }

    /// Reports the chunks that have become lost, and those that were found again.
    pub(super) fn report_lost(&mut self) {
        for (slot, count) in std::mem::take(&mut self.lost.found) {
            if let Some(id) = self.files.get(slot).map(|file| file.id) {
                self.note(Some(id), format!("{} found again", counted(count, "lost chunk")));
            }
        }
        let mut lost: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for key in std::mem::take(&mut self.lost.candidates) {
            let chunk = self.files.chunk(key);
            if chunk.is_some_and(|chunk| chunk.deficits.without_copy && !chunk.reported_lost) {
                lost.entry(key.file).or_default().insert(key.index);
            }
        }
        for (slot, indices) in lost {
            self.report_lost_chunks(slot, indices);
        }
    }

    /// Marks chunks of a file as lost and reports them.
    fn report_lost_chunks(&mut self, slot: u32, indices: BTreeSet<u32>) {
        let Some((file, sums)) = self.files.get_with_counts(slot) else { return };
        if file.superseded {
            let text = format!(
                "{} of this previous version had no copy at a volunteer and cannot be had any more",
                counted(indices.len() as u64, "chunk")
            );
            self.orders.push(Order::Note(Some(file.id), text));
            return;
        }
        let mut last_holders: BTreeSet<VolunteerNumber> = BTreeSet::new();
        for index in &indices {
            let Some(chunk) = file.chunks.get_mut(*index as usize) else { continue };
            chunk.reported_lost = true;
            file.counts.lost += 1;
            sums.lost += 1;
            let former = chunk.replicas.iter().filter(|replica| replica.state() == CopyState::Missed);
            last_holders.extend(former.map(|replica| replica.volunteer()));
        }
        let chunks = indices.into_iter().map(ChunkIndex).collect();
        let last = last_holders.into_iter().collect();
        self.orders.push(Order::Lost { file: file.id, chunks, last });
    }
}
