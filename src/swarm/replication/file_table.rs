//! Table of all kept files.

use super::chunk::{Chunk, ChunkKey};
use super::file::{Counts, File};
use super::replicas::CopyState;
use crate::content::{ChunkIndex, FileId};
use crate::swarm::keeping::VolunteerNumber;
use std::collections::{HashMap, HashSet};

/// The kept files by slot and by id, the sums over their chunks, and the ids of forgotten files.
#[derive(Default, Debug)]
pub(super) struct FileTable {
    /// A file keeps its slot; the slot of a forgotten file stays empty.
    slots: Vec<Option<File>>,
    by_id: HashMap<FileId, u32>,
    /// Slots of the kept files, in any order.
    kept: Vec<u32>,
    /// Sums over the chunks of all files.
    pub counts: Counts,
    /// Files that were kept before: a volunteer that returns with their chunks drops them.
    pub forgotten: HashSet<FileId>,
}

impl FileTable {
    pub fn get(&self, slot: u32) -> Option<&File> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut File> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// A file, and the sums over all files, which must change with it.
    pub fn get_with_counts(&mut self, slot: u32) -> Option<(&mut File, &mut Counts)> {
        let file = self.slots.get_mut(slot as usize)?.as_mut()?;
        Some((file, &mut self.counts))
    }

    pub fn slot_of(&self, id: FileId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = &File> + '_ {
        self.slots.iter().flatten()
    }

    /// Number of files.
    pub fn file_count(&self) -> usize {
        self.by_id.len()
    }

    /// Number of slots, including those of forgotten files.
    pub fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The slot of a random kept file.
    pub fn random_slot(&self, random: &mut fastrand::Rng) -> Option<u32> {
        random.choice(&self.kept).copied()
    }

    /// Adds a file and returns its slot.
    pub fn insert(&mut self, file: File) -> u32 {
        let slot = self.slot_count();
        self.by_id.insert(file.id, slot);
        self.kept.push(slot);
        self.slots.push(Some(file));
        slot
    }

    /// Removes a file. Its id counts as forgotten.
    pub fn forget(&mut self, slot: u32) -> Option<File> {
        let file = self.slots.get_mut(slot as usize).and_then(Option::take)?;
        self.counts.subtract(&file.counts);
        self.by_id.remove(&file.id);
        if let Some(at) = self.kept.iter().position(|kept| *kept == slot) {
            self.kept.swap_remove(at);
        }
        self.forgotten.insert(file.id);
        Some(file)
    }

    /// The key of a chunk, if the file and the chunk exist.
    pub fn key(&self, id: FileId, index: ChunkIndex) -> Option<ChunkKey> {
        let slot = self.slot_of(id)?;
        self.get(slot)?.chunks.get(index.at())?;
        Some(ChunkKey { file: slot, index: index.0 })
    }

    pub fn chunk(&self, key: ChunkKey) -> Option<&Chunk> {
        self.get(key.file)?.chunks.get(key.index as usize)
    }

    pub fn chunk_mut(&mut self, key: ChunkKey) -> Option<&mut Chunk> {
        self.get_mut(key.file)?.chunks.get_mut(key.index as usize)
    }

    pub fn file_and_chunk(&self, key: ChunkKey) -> Option<(&File, &Chunk)> {
        let file = self.get(key.file)?;
        Some((file, file.chunks.get(key.index as usize)?))
    }

    /// Length of a chunk in bytes; 0 if the file does not exist.
    pub fn length(&self, key: ChunkKey) -> u64 {
        self.get(key.file).map_or(0, |file| file.length(key.index))
    }

    /// State of a volunteer's copy of a chunk.
    pub fn copy_state(&self, key: ChunkKey, number: VolunteerNumber) -> Option<CopyState> {
        self.chunk(key)?.replicas.get(number)
    }
}
