//! What a peer has to offer: sources of chunks by id, and the names that files are offered under.
//!
//! Invariant: every file that is offered under a name can be served by its id.

use super::relay::Relay;
use crate::content::{ChunkIndex, FileId, FileName};
use crate::protocol::tracker::FileSummary;
use crate::storage::{ChunkSource, StoreError, StoredChunk};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A file that is offered under a name.
#[derive(Clone)]
pub struct Offer {
    /// What it is.
    pub file: FileSummary,
    /// Where its chunks are, and how many.
    pub source: Arc<dyn ChunkSource>,
}

#[derive(Default)]
struct Contents {
    /// What is served without a name.
    unnamed: HashMap<FileId, Arc<dyn ChunkSource>>,
    offers: BTreeMap<FileName, Offer>,
    /// The names of each offered file: the same bytes may be there twice.
    names: HashMap<FileId, Vec<FileName>>,
}

/// What a peer serves. Clones are the same shelf.
#[derive(Clone, Default)]
pub struct Offers {
    contents: Arc<RwLock<Contents>>,
    served: Arc<AtomicU64>,
    relay: Relay,
}

impl Offers {
    /// An empty shelf.
    pub fn new() -> Self {
        Self::default()
    }

    /// The chunks of what is on the shelf that are being received.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves something to those who know its id.
    pub fn put(&self, id: FileId, source: Arc<dyn ChunkSource>) {
        self.write().unnamed.insert(id, source);
    }

    /// No longer serves what was [`put`](Self::put).
    pub fn take(&self, id: FileId) {
        self.write().unnamed.remove(&id);
    }

    /// Serves a file and tells whoever asks that it is here. An offer of the same name is replaced.
    pub fn offer(&self, offer: Offer) {
        let mut contents = self.write();
        contents.withdraw(&offer.file.name);
        contents.names.entry(offer.file.id).or_default().push(offer.file.name.clone());
        contents.offers.insert(offer.file.name.clone(), offer);
    }

    /// No longer offers a file.
    pub fn withdraw(&self, name: &FileName) {
        self.write().withdraw(name);
    }

    /// No longer offers a file under a name, unless it is another file by now.
    pub fn withdraw_file(&self, name: &FileName, id: FileId) {
        let mut contents = self.write();
        if contents.offers.get(name).is_some_and(|offer| offer.file.id == id) {
            contents.withdraw(name);
        }
    }

    /// What is offered, by name.
    pub fn list(&self) -> Vec<Offer> {
        self.read().offers.values().cloned().collect()
    }

    /// What serves an id: of several the one that has most, since a download, or chunks that are kept for others, may
    /// stand beside the whole file.
    pub fn get(&self, id: FileId) -> Option<Arc<dyn ChunkSource>> {
        self.all(id).into_iter().next()
    }

    /// All that there is of an id, that which has most first.
    pub fn all(&self, id: FileId) -> Vec<Arc<dyn ChunkSource>> {
        let contents = self.read();
        let names = contents.names.get(&id).into_iter().flatten();
        let named = names.filter_map(|name| contents.offers.get(name)).map(|offer| &offer.source);
        let mut sources: Vec<_> = named.chain(contents.unnamed.get(&id)).cloned().collect();
        drop(contents);
        if sources.len() > 1 {
            sources.sort_by_cached_key(|source| std::cmp::Reverse(source.progress().held()));
        }
        sources
    }

    /// Where a chunk lies, by whichever has it.
    ///
    /// # Errors
    /// Why it is not to be had from the one that has most; `None` when there is nothing of that id at all.
    pub fn stored(&self, id: FileId, index: ChunkIndex) -> Option<Result<StoredChunk, StoreError>> {
        let mut first = None;
        for source in self.all(id) {
            match source.stored(index) {
                Ok(stored) => return Some(Ok(stored)),
                Err(error) => first = first.or(Some(Err(error))),
            }
        }
        first
    }

    /// How many chunks have been asked for of all that is on the shelf.
    pub fn served(&self) -> &AtomicU64 {
        &self.served
    }
}

impl Contents {
    fn withdraw(&mut self, name: &FileName) {
        let Some(offer) = self.offers.remove(name) else { return };
        if let Some(names) = self.names.get_mut(&offer.file.id) {
            names.retain(|other| other != name);
            if names.is_empty() {
                self.names.remove(&offer.file.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{HaveMap, Manifest};
    use crate::storage::Progress;
    use std::fs::File;

    /// Has some chunks; each lies at its own offset, so that sources can be told apart by `length`.
    struct Part {
        progress: Progress,
        length: u32,
    }

    fn source(count: u32, held: &[u32], length: u32) -> Arc<dyn ChunkSource> {
        let mut have = HaveMap::none(count);
        held.iter().for_each(|index| assert!(have.insert(ChunkIndex(*index))));
        Arc::new(Part { progress: Progress::new(have), length })
    }

    impl ChunkSource for Part {
        fn manifest(&self) -> Option<Arc<Manifest>> {
            None
        }
        fn progress(&self) -> &Progress {
            &self.progress
        }
        fn stored(&self, index: ChunkIndex) -> Result<StoredChunk, StoreError> {
            match self.progress.has(index) {
                true => Ok(StoredChunk {
                    file: Arc::new(File::open("/dev/null").unwrap()),
                    offset: 0,
                    length: self.length,
                }),
                false => Err(StoreError::Missing(index)),
            }
        }
    }

    #[test]
    fn what_has_most_is_served_and_each_chunk_by_whoever_has_it() {
        let (offers, id) = (Offers::new(), FileId([7; 32]));
        let from = |index| offers.stored(id, ChunkIndex(index)).map(|stored| stored.ok().map(|at| at.length));
        assert!(offers.get(id).is_none() && from(0).is_none());
        offers.put(id, source(4, &[3], 1));
        assert_eq!(offers.get(id).unwrap().progress().held(), 1);
        let file = FileSummary { id, name: FileName::new("f").unwrap(), size: 4, chunks: 4 };
        offers.offer(Offer { file: file.clone(), source: source(4, &[0, 1], 2) });
        assert_eq!(offers.get(id).unwrap().progress().held(), 2);
        assert_eq!((from(0), from(2), from(3)), (Some(Some(2)), Some(None), Some(Some(1))));
        offers.offer(Offer { file: file.clone(), source: source(4, &[0, 1, 2, 3], 3) });
        assert_eq!((from(0), from(3)), (Some(Some(3)), Some(Some(3))));
        offers.withdraw(&file.name);
        assert_eq!((from(0), from(3)), (Some(None), Some(Some(1))));
        offers.take(id);
        assert!(offers.get(id).is_none());
    }
}
