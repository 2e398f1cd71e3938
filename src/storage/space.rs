//! Space accounting of a replica store, and the chunks in it that were found damaged.
//!
//! A store shares it with its files. Invariant: the bytes of stored chunks and of chunks being
//! written never exceed the storage offer, however many threads store at the same time, and the
//! disk keeps its reserve.

use super::disk;
use super::error::StoreError;
use crate::content::limits::DISK_RESERVE_PERCENT;
use crate::content::{ChunkIndex, FileId};
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;

/// Space accounting and damage reports of one store.
pub(super) struct Space {
    root: PathBuf,
    offered: u64,
    usage: Mutex<Usage>,
    damaged: Mutex<BTreeSet<(FileId, ChunkIndex)>>,
    wakeup: (Sender<()>, Receiver<()>),
}

#[derive(Default)]
struct Usage {
    /// Bytes of stored chunks.
    used: u64,
    /// Bytes of chunks being written.
    reserved: u64,
}

/// Space reserved for a chunk being written. Released when dropped.
pub(super) struct Reservation<'a> {
    space: &'a Space,
    bytes: u64,
}

impl Space {
    pub(super) fn new(root: PathBuf, offered: u64) -> Self {
        Self { root, offered, usage: Mutex::default(), damaged: Mutex::default(), wakeup: bounded(1) }
    }

    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    pub(super) fn used(&self) -> u64 {
        lock(&self.usage).used
    }

    /// Bytes that can still be stored.
    pub(super) fn free(&self) -> u64 {
        self.free_given(&lock(&self.usage))
    }

    fn free_given(&self, usage: &Usage) -> u64 {
        let offer = self.offered.saturating_sub(usage.used).saturating_sub(usage.reserved);
        match disk::free_space_after_reserve(&self.root, DISK_RESERVE_PERCENT) {
            Some(disk) => offer.min(disk.saturating_sub(usage.reserved)),
            None => offer,
        }
    }

    /// Reserves space for a chunk before it is written.
    ///
    /// # Errors
    /// [`StoreError::Full`] if the offer or the disk has too little space.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation<'_>, StoreError> {
        let mut usage = lock(&self.usage);
        let available = self.free_given(&usage);
        if bytes > available {
            return Err(StoreError::Full { path: self.root.clone(), needed: bytes, available });
        }
        usage.reserved += bytes;
        Ok(Reservation { space: self, bytes })
    }

    /// Counts bytes found on disk.
    pub(super) fn add(&self, bytes: u64) {
        lock(&self.usage).used += bytes;
    }

    /// Uncounts all stored bytes, before the store is read again.
    pub(super) fn reset(&self) {
        lock(&self.usage).used = 0;
        lock(&self.damaged).clear();
    }

    /// Uncounts bytes that were removed.
    pub(super) fn release(&self, bytes: u64) {
        let mut usage = lock(&self.usage);
        usage.used = usage.used.saturating_sub(bytes);
    }

    /// Records a chunk that was found damaged and removed, and wakes the receiver of
    /// [`damaged`](Self::damaged).
    pub(super) fn report_damaged(&self, file: FileId, index: ChunkIndex) {
        lock(&self.damaged).insert((file, index));
        let _ = self.wakeup.0.try_send(());
    }

    pub(super) fn damaged(&self) -> &Receiver<()> {
        &self.wakeup.1
    }

    pub(super) fn take_damaged(&self) -> BTreeSet<(FileId, ChunkIndex)> {
        std::mem::take(&mut *lock(&self.damaged))
    }
}

impl Reservation<'_> {
    /// Counts the reserved bytes as used: the chunk has been stored.
    pub(super) fn commit(mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut usage = lock(&self.space.usage);
        usage.reserved -= bytes;
        usage.used += bytes;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        lock(&self.space.usage).reserved -= self.bytes;
    }
}
