//! Further names of held files: a peer can share equal files under several names.
//!
//! The first name of a holder is in its entry; this table has only the others, which are rare. Invariant: each entry has
//! at least one name and belongs to a holder.

use crate::content::FileName;
use std::collections::{BTreeSet, HashMap};

/// Further names by the slot of the peer and the number of the file.
#[derive(Debug, Default)]
pub(super) struct Aliases {
    names: HashMap<(u32, u32), BTreeSet<FileName>>,
    /// Number of further names of each peer that has any.
    counts: HashMap<u32, usize>,
}

impl Aliases {
    /// Number of further names of a peer, over all of its files.
    pub(super) fn count(&self, peer: u32) -> usize {
        self.counts.get(&peer).copied().unwrap_or(0)
    }

    /// Whether the peer gives the file this further name.
    pub(super) fn contains(&self, peer: u32, file: u32, name: &FileName) -> bool {
        self.names.get(&(peer, file)).is_some_and(|names| names.contains(name))
    }

    /// Adds a name.
    pub(super) fn insert(&mut self, peer: u32, file: u32, name: FileName) {
        if self.names.entry((peer, file)).or_default().insert(name) {
            *self.counts.entry(peer).or_default() += 1;
        }
    }

    /// Removes a name. Returns whether it was there.
    pub(super) fn remove(&mut self, peer: u32, file: u32, name: &FileName) -> bool {
        let Some(names) = self.names.get_mut(&(peer, file)) else { return false };
        let removed = names.remove(name);
        if names.is_empty() {
            self.names.remove(&(peer, file));
        }
        self.forget(peer, usize::from(removed));
        removed
    }

    /// Removes and returns the first further name of a file.
    pub(super) fn pop(&mut self, peer: u32, file: u32) -> Option<FileName> {
        let name = self.names.get(&(peer, file))?.first()?.clone();
        self.remove(peer, file, &name);
        Some(name)
    }

    /// Removes and returns all further names of a file.
    pub(super) fn take(&mut self, peer: u32, file: u32) -> BTreeSet<FileName> {
        let names = self.names.remove(&(peer, file)).unwrap_or_default();
        self.forget(peer, names.len());
        names
    }

    fn forget(&mut self, peer: u32, count: usize) {
        let Some(total) = self.counts.get_mut(&peer) else { return };
        *total -= count;
        if *total == 0 {
            self.counts.remove(&peer);
        }
    }

    /// Number of further names of all peers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(
            self.counts.values().sum::<usize>(),
            self.names.values().map(BTreeSet::len).sum::<usize>()
        );
        self.counts.values().sum()
    }
}
