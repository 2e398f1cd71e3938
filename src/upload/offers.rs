//! Offers of a peer: chunk sources by file id, and the names under which files are offered.
//!
//! Invariant: every file that is offered under a name is served under its id.

use crate::content::limits::IDENTITY_PROOFS_MAX;
use crate::content::{ChunkIndex, Digest, FileId, FileName};
use crate::protocol::tokens::{IdentityKey, Nonce, identity_proof};
use crate::protocol::tracker::FileSummary;
use crate::storage::{ChunkSource, StoreError, StoredChunk};
use crate::sync::{read, write};
use crate::upload::load::UploadLoad;
use crate::upload::prover::Prover;
use crate::upload::receivers::Receivers;
use crate::upload::relay::Relay;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Number of replaced files that are remembered.
const REPLACED_MAX: usize = 256;

/// A file offered under a name.
#[derive(Clone)]
pub struct Offer {
    /// Name, id and size of the file.
    pub file: FileSummary,
    /// Source of its chunks.
    pub source: Arc<dyn ChunkSource>,
}

#[derive(Default)]
struct Contents {
    /// Sources served by id only.
    unnamed: HashMap<FileId, Arc<dyn ChunkSource>>,
    offers: BTreeMap<FileName, Offer>,
    /// Names of each offered file; identical files can have several.
    names: HashMap<FileId, Vec<FileName>>,
    /// Files that were replaced by others of the same name, with this name, the oldest first.
    replaced: VecDeque<(FileId, FileName)>,
}

/// Offers of a peer. Clones share them.
#[derive(Clone, Default)]
pub struct Offers {
    contents: Arc<RwLock<Contents>>,
    served: Arc<AtomicU64>,
    relay: Relay,
    load: UploadLoad,
    receivers: Receivers,
    prover: Arc<RwLock<Option<Arc<dyn Prover>>>>,
    registrations: Registrations,
}

/// Keys of the registrations of this program, by which it proves its identity to its trackers. Clones share them.
#[derive(Clone, Default)]
pub struct Registrations(Arc<RwLock<BTreeMap<&'static str, IdentityKey>>>);

impl Registrations {
    /// The key of the registration for a purpose. `None` if the system has no random numbers: the peer is not dialled.
    pub fn key(&self, purpose: &'static str) -> Option<IdentityKey> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).ok()?;
        Some(*write(&self.0).entry(purpose).or_insert(IdentityKey(u128::from_be_bytes(bytes))))
    }

    /// The [proof](identity_proof) of each registration.
    pub fn proofs(&self, nonce: Nonce) -> Vec<Digest> {
        read(&self.0).values().take(IDENTITY_PROOFS_MAX).map(|key| identity_proof(*key, nonce)).collect()
    }
}

impl Offers {
    /// Creates an empty set of offers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Relay of the chunks that are being received.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Number of peers that download from this peer.
    pub fn load(&self) -> &UploadLoad {
        &self.load
    }

    /// The peers that download from this peer.
    pub fn receivers(&self) -> &Receivers {
        &self.receivers
    }

    /// Sets the volunteer that answers demands for proofs.
    pub fn set_prover(&self, prover: Arc<dyn Prover>) {
        *write(&self.prover) = Some(prover);
    }

    /// The volunteer that answers demands for proofs, if any.
    pub fn prover(&self) -> Option<Arc<dyn Prover>> {
        read(&self.prover).clone()
    }

    /// The registrations of this program.
    pub fn registrations(&self) -> &Registrations {
        &self.registrations
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        read(&self.contents)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents> {
        write(&self.contents)
    }

    /// Serves a source by its id, without a name.
    pub fn put(&self, id: FileId, source: Arc<dyn ChunkSource>) {
        self.write().unnamed.insert(id, source);
    }

    /// Stops serving a source added with [`put`](Self::put).
    pub fn take(&self, id: FileId) {
        self.write().unnamed.remove(&id);
    }

    /// Offers a file under its name; replaces an offer of the same name.
    pub fn offer(&self, offer: Offer) {
        let mut contents = self.write();
        contents.withdraw(&offer.file.name);
        contents.names.entry(offer.file.id).or_default().push(offer.file.name.clone());
        contents.offers.insert(offer.file.name.clone(), offer);
    }

    /// Notes that a file was replaced by another one of the same name: it is not given to further peers, although its
    /// chunks may be served. The last `REPLACED_MAX` files are remembered.
    pub fn note_replaced(&self, id: FileId, name: &FileName) {
        let mut contents = self.write();
        contents.replaced.retain(|(known, _)| *known != id);
        contents.replaced.push_back((id, name.clone()));
        if contents.replaced.len() > REPLACED_MAX {
            contents.replaced.pop_front();
        }
    }

    /// The name of a file that was replaced, and the id of the present file of this name. `None` if no such file is
    /// offered, or if the file is offered again.
    pub fn replacement(&self, id: FileId) -> Option<(FileName, FileId)> {
        let contents = self.read();
        let (_, name) = contents.replaced.iter().find(|(known, _)| *known == id)?;
        let is_offered = contents.names.contains_key(&id);
        contents.offers.get(name).filter(|_| !is_offered).map(|offer| (name.clone(), offer.file.id))
    }

    /// Withdraws an offer.
    pub fn withdraw(&self, name: &FileName) {
        self.write().withdraw(name);
    }

    /// Withdraws an offer only if the name still belongs to this file.
    pub fn withdraw_file(&self, name: &FileName, id: FileId) {
        let mut contents = self.write();
        if contents.offers.get(name).is_some_and(|offer| offer.file.id == id) {
            contents.withdraw(name);
        }
    }

    /// All offers, by name.
    pub fn list(&self) -> Vec<Offer> {
        self.read().offers.values().cloned().collect()
    }

    /// The name of a file for log lines: one under which it is offered, or else the first digits of its id.
    pub fn label(&self, id: FileId) -> String {
        let contents = self.read();
        let name = contents.names.get(&id).and_then(|names| names.first());
        name.map_or_else(|| id.short(), FileName::to_string)
    }

    /// The source of a file with the most chunks: partial and complete sources of one file can exist side by
    /// side.
    pub fn get(&self, id: FileId) -> Option<Arc<dyn ChunkSource>> {
        self.all(id).into_iter().next()
    }

    /// All sources of a file, the one with the most chunks first.
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

    /// Location of a chunk, from the first source that has it.
    ///
    /// # Errors
    /// The error of the source with the most chunks; `None` if no source of this file exists.
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

    /// Number of requested chunks.
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
    use crate::content::{Bitfield, Manifest};
    use crate::storage::Progress;
    use std::fs::File;

    /// Source with some chunks; `length` tells sources apart.
    struct Part {
        progress: Progress,
        length: u32,
    }

    fn source(count: u32, held: &[u32], length: u32) -> Arc<dyn ChunkSource> {
        let mut have = Bitfield::none(count);
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
                    length: self.length.into(),
                }),
                false => Err(StoreError::Missing(index)),
            }
        }
    }

    #[test]
    fn a_replaced_file_names_the_present_one_until_it_is_offered_again() {
        let (offers, name) = (Offers::new(), FileName::new("f").unwrap());
        let offer = |id| {
            let file = FileSummary { id, name: name.clone(), size: 4, chunks: 4 };
            offers.offer(Offer { file, source: source(4, &[0], 1) });
        };
        let (old, new) = (FileId([1; 32]), FileId([2; 32]));
        offer(old);
        assert_eq!(offers.replacement(old), None);
        offers.note_replaced(old, &name);
        offer(new);
        assert_eq!(offers.replacement(old), Some((name.clone(), new)));
        offers.note_replaced(new, &name);
        offer(old);
        assert_eq!((offers.replacement(old), offers.replacement(new)), (None, Some((name.clone(), old))));
        for number in 0..2 * REPLACED_MAX {
            offers.note_replaced(FileId([(number % 251) as u8; 32]), &name);
        }
        assert!(offers.read().replaced.len() <= REPLACED_MAX);
    }

    #[test]
    fn source_with_most_chunks_comes_first_and_the_others_fill_gaps() {
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
