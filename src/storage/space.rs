//! How much room a replica store takes up and may take up, and what in it has turned out to be wrong.
//!
//! Shared by a store and its files. Invariant: what is stored and what is about to be never come to more than what
//! was offered, however many threads store at once, and the disk keeps its reserve.

use super::disk;
use super::error::StoreError;
use super::lock;
use crate::content::limits::DISK_RESERVE_PERCENT;
use crate::content::{ChunkIndex, FileId};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

/// What a store and its files know together.
pub(super) struct Space {
    root: PathBuf,
    offered: u64,
    taken: Mutex<Taken>,
    damaged: Mutex<BTreeSet<(FileId, ChunkIndex)>>,
    news: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct Taken {
    /// By chunks that are there.
    used: u64,
    /// By chunks that are being written.
    reserved: u64,
}

/// Room for a chunk that is being written. Given back when dropped.
pub(super) struct Room<'a> {
    space: &'a Space,
    bytes: u64,
}

impl Space {
    pub(super) fn new(root: PathBuf, offered: u64) -> Self {
        Self { root, offered, taken: Mutex::default(), damaged: Mutex::default(), news: bounded(1) }
    }

    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    pub(super) fn used(&self) -> u64 {
        lock(&self.taken).used
    }

    /// Bytes that can still be taken.
    pub(super) fn free(&self) -> u64 {
        self.free_beside(&lock(&self.taken))
    }

    fn free_beside(&self, taken: &Taken) -> u64 {
        let offer = self.offered.saturating_sub(taken.used).saturating_sub(taken.reserved);
        match disk::free_space_after_reserve(&self.root, DISK_RESERVE_PERCENT) {
            Some(disk) => offer.min(disk.saturating_sub(taken.reserved)),
            None => offer,
        }
    }

    /// Takes room for a chunk before it is written.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Room<'_>, StoreError> {
        let mut taken = lock(&self.taken);
        let available = self.free_beside(&taken);
        if bytes > available {
            return Err(StoreError::Full { path: self.root.clone(), needed: bytes, available });
        }
        taken.reserved += bytes;
        Ok(Room { space: self, bytes })
    }

    /// Bytes that were found to be there.
    pub(super) fn add(&self, bytes: u64) {
        lock(&self.taken).used += bytes;
    }

    /// Bytes that are not there any more.
    pub(super) fn release(&self, bytes: u64) {
        let mut taken = lock(&self.taken);
        taken.used = taken.used.saturating_sub(bytes);
    }

    /// A chunk has turned out to be wrong, and is gone.
    pub(super) fn report_damaged(&self, file: FileId, index: ChunkIndex) {
        lock(&self.damaged).insert((file, index));
        let _ = self.news.0.try_send(());
    }

    pub(super) fn damaged(&self) -> &Receiver<()> {
        &self.news.1
    }

    pub(super) fn take_damaged(&self) -> BTreeSet<(FileId, ChunkIndex)> {
        std::mem::take(&mut *lock(&self.damaged))
    }
}

impl Room<'_> {
    /// The chunk is there now.
    pub(super) fn keep(mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut taken = lock(&self.space.taken);
        taken.reserved -= bytes;
        taken.used += bytes;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        lock(&self.space.taken).reserved -= self.bytes;
    }
}
