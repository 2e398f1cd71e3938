//! What a peer has to offer: sources of chunks by id, and the names that files are offered under.
//!
//! Invariant: every file that is offered under a name can be served by its id.

use super::relay::Relay;
use crate::content::{FileId, FileName};
use crate::protocol::tracker::FileSummary;
use crate::storage::ChunkSource;
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
pub struct Shelf {
    contents: Arc<RwLock<Contents>>,
    served: Arc<AtomicU64>,
    relay: Relay,
}

impl Shelf {
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
    pub fn offers(&self) -> Vec<Offer> {
        self.read().offers.values().cloned().collect()
    }

    /// What serves an id.
    pub fn get(&self, id: FileId) -> Option<Arc<dyn ChunkSource>> {
        let contents = self.read();
        let named = || {
            // Of several copies the one that has most: a download may stand beside the whole file.
            let offers = contents.names.get(&id)?.iter().filter_map(|name| contents.offers.get(name));
            offers.max_by_key(|offer| offer.source.progress().held()).map(|offer| offer.source.clone())
        };
        contents.unnamed.get(&id).cloned().or_else(named)
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
