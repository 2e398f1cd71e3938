//! Reports lost chunks: those without any copy, neither at a volunteer nor at the tracker.

use super::chunk::{CopyState, Key};
use super::{Order, ReplicationPlanner};
use crate::content::ChunkIndex;
use crate::content::fmt::counted;
use crate::swarm::Moment;
use crate::swarm::keeping::VolunteerNumber;
use std::collections::{BTreeMap, BTreeSet};

impl ReplicationPlanner {
    /// Checks for lost chunks in all files that have been known for at least one lease, the time within which
    /// volunteers report.
    pub(super) fn examine(&mut self, now: Moment) {
        let lease = self.settings.lease;
        if !self.looked || self.start.is_none_or(|start| now < start + lease) {
            return;
        }
        for slot in 0..self.files.len() as u32 {
            let Some(file) = self.file_mut(slot) else { continue };
            if file.examined || now < file.since + lease {
                continue;
            }
            file.examined = true;
            let chunks = (0u32..).zip(&file.chunks).filter(|(_, chunk)| chunk.deficits.bare);
            let bare: Vec<Key> = chunks.map(|(index, _)| Key { file: slot, index }).collect();
            self.newly_bare.extend(bare);
        }
    }

    /// Reports the chunks that have become lost, and those that were found again.
    pub(super) fn name_lost(&mut self) {
        for (slot, count) in std::mem::take(&mut self.found) {
            if let Some(id) = self.file(slot).map(|file| file.id) {
                self.note(Some(id), format!("{} found again", counted(count, "lost chunk")));
            }
        }
        let mut lost: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for key in std::mem::take(&mut self.newly_bare) {
            if self.is_bare(key) && self.chunk(key).is_some_and(|chunk| !chunk.lost) {
                lost.entry(key.file).or_default().insert(key.index);
            }
        }
        for (slot, indices) in lost {
            self.lose(slot, indices);
        }
    }

    fn lose(&mut self, slot: u32, indices: BTreeSet<u32>) {
        let Some(file) = self.files.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let mut last: BTreeSet<VolunteerNumber> = BTreeSet::new();
        for index in &indices {
            let Some(chunk) = file.chunks.get_mut(*index as usize) else { continue };
            chunk.lost = true;
            file.counts.lost += 1;
            self.counts.lost += 1;
            let missed = chunk.replicas.iter().filter(|replica| replica.state() == CopyState::Missed);
            last.extend(missed.map(|replica| replica.volunteer()));
        }
        let chunks = indices.into_iter().map(ChunkIndex).collect();
        self.orders.push(Order::Lost { file: file.id, chunks, last: last.into_iter().collect() });
    }
}
