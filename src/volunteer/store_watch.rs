//! Watches whether the store of a running volunteer is at its path.
//!
//! Thread `volunteer-store`. While the store is absent (its disk was unmounted or cannot be read, or its folder was
//! removed) nothing of it is served, and the state thread offers no storage. Nothing is reported as lost, because the
//! chunks may return with the disk. Then all of them are hashed again. Invariant: the state thread is told of each
//! change, and of a return only after the store has been read again.

use super::HeldReplicas;
use crate::content::limits::STORE_CHECK_INTERVAL;
use crate::net::Shutdown;
use crate::storage::StoreError;
use crossbeam_channel::Sender;

/// Every check of this number reads the marker from the disk: a failed disk is hidden by the page cache.
const CHECKS_PER_DISK_READ: u32 = 30;

/// Checks the store until the shutdown, and sends whether it is there after each change.
pub(super) fn run(replicas: &HeldReplicas, changes: &Sender<bool>, shutdown: &Shutdown) {
    let mut watch = StoreWatch { replicas, is_present: true, checks: 0 };
    while !shutdown.wait(STORE_CHECK_INTERVAL) {
        if let Some(is_present) = watch.check()
            && changes.send(is_present).is_err()
        {
            return;
        }
    }
}

struct StoreWatch<'a> {
    replicas: &'a HeldReplicas,
    is_present: bool,
    /// Number of checks so far.
    checks: u32,
}

impl StoreWatch<'_> {
    /// Checks the store once. Returns whether it is there, if that has changed.
    fn check(&mut self) -> Option<bool> {
        let store = &self.replicas.store;
        self.checks = self.checks.wrapping_add(1);
        let result = match self.is_present {
            true if self.checks.is_multiple_of(CHECKS_PER_DISK_READ) => store.confirm(),
            true => store.inspect(),
            false => store.restore(),
        };
        match (self.is_present, result) {
            (true, Err(error @ StoreError::StoreAbsent { .. })) => {
                log::error!("{error}; no storage is offered until the store is back");
            }
            (false, Ok(())) => log::info!("the store is back: offering storage again, hashing its chunks"),
            (_, Err(error)) => {
                log::debug!("{error}");
                return None;
            }
            (true, Ok(())) => return None,
        }
        self.is_present = !self.is_present;
        self.replicas.sync_offers();
        Some(self.is_present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{ChunkIndex, Digest, FileName, Layout, Manifest, Md5};
    use crate::protocol::tracker::FileSummary;
    use crate::protocol::volunteer::KeptFile;
    use crate::storage::StoreMemory;
    use crate::upload::offers::Offers;
    use std::sync::{Arc, Mutex};

    #[test]
    fn nothing_is_served_removed_or_created_while_the_store_is_away() {
        let place = tempfile::tempdir().unwrap();
        let (path, away) = (place.path().join("store"), place.path().join("away"));
        let memory = StoreMemory { records: Some(place.path().join("records")), new_store: false };
        let store = Arc::new(memory.open(&path, 1 << 30).unwrap());
        let bytes = vec![7; 32 << 10];
        let layout = Layout::even(bytes.len() as u64, Some(16 << 10)).unwrap();
        let manifest = Arc::new(Manifest::new(layout, vec![Digest::of(&bytes[..16 << 10]); 2]).unwrap());
        let (id, name) = (manifest.id(), FileName::new("f").unwrap());
        let kept = KeptFile { file: FileSummary { id, name, size: 32 << 10, chunks: 2 }, md5: Md5([0; 16]) };
        store.add_file(&kept, manifest.clone()).unwrap();
        store.store(id, ChunkIndex(0), &bytes[..16 << 10]).unwrap();
        let replicas =
            HeldReplicas { store: store.clone(), offers: Offers::new(), syncing: Mutex::default() };
        replicas.sync_offers();
        let is_offered = || replicas.offers.get(id).is_some();
        let mut watch = StoreWatch { replicas: &replicas, is_present: true, checks: 0 };
        assert_eq!(watch.check(), None);
        assert!(is_offered());
        std::fs::rename(&path, &away).unwrap();
        std::fs::create_dir(&path).unwrap();
        // Before the watch notices it, a missing chunk is not taken for a damaged one.
        let absent = |result: Result<(), StoreError>| matches!(result, Err(StoreError::StoreAbsent { .. }));
        let file = store.file(id).unwrap();
        assert!(absent(store.check(id, ChunkIndex(0)).map(drop)));
        assert!(absent(file.remove_missing().map(drop)));
        assert_eq!(watch.check(), Some(false));
        assert_eq!(watch.check(), None);
        assert!(!is_offered() && store.take_damaged().is_empty() && file.held() == 1);
        assert!(absent(store.store(id, ChunkIndex(1), &bytes[..16 << 10])));
        assert!(absent(store.remove(id, &[ChunkIndex(0)])));
        let other = Layout::even(16 << 10, Some(16 << 10)).unwrap();
        let other = Arc::new(Manifest::new(other, vec![Digest::of(&bytes[..16 << 10])]).unwrap());
        let file = FileSummary { id: other.id(), size: 16 << 10, chunks: 1, ..kept.file.clone() };
        assert!(absent(store.add_file(&KeptFile { file, ..kept.clone() }, other).map(drop)));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        // It returns: its chunk is read again and is not verified yet.
        std::fs::remove_dir(&path).unwrap();
        std::fs::rename(&away, &path).unwrap();
        assert_eq!(watch.check(), Some(true));
        let file = store.file(id).unwrap();
        assert_eq!((file.unverified(), store.used()), (vec![ChunkIndex(0)], 16 << 10));
        assert!(is_offered() && store.check(id, ChunkIndex(0)).unwrap());
        store.store(id, ChunkIndex(1), &bytes[..16 << 10]).unwrap();
        // A chunk that is missing while the store is there is lost.
        std::fs::remove_file(path.join(id.to_string()).join("0")).unwrap();
        assert_eq!(file.remove_missing().unwrap(), 1);
        assert_eq!(store.take_damaged().into_iter().collect::<Vec<_>>(), [(id, ChunkIndex(0))]);
    }

    #[test]
    fn a_folder_that_returns_with_another_key_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        let (path, away) = (place.path().join("store"), place.path().join("away"));
        let store = Arc::new(StoreMemory::default().open(&path, 1 << 30).unwrap());
        let replicas = HeldReplicas { store, offers: Offers::new(), syncing: Mutex::default() };
        let mut watch = StoreWatch { replicas: &replicas, is_present: true, checks: 0 };
        std::fs::rename(&path, &away).unwrap();
        assert_eq!(watch.check(), Some(false));
        std::fs::write(away.join("key"), format!("{:032x}\n", 7)).unwrap();
        std::fs::rename(&away, &path).unwrap();
        assert_eq!(watch.check(), None);
    }
}
