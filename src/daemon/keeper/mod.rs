//! The tracker's own hands: what its state machine wants done with disks and with other hosts.
//!
//! A thread publishes the files of a folder, one writes the catalogue, one hands tasks to a few workers, and two look
//! after the chunks that are here. Nothing here decides what is kept where. Invariants: every task is answered while the
//! tracker runs, those of one file in their order as far as they touch the same; what is reported as durable is durable; the
//! manifest of every file that is kept can be had from the shelf by its id at any time; a file of the folder is deleted
//! only on the machine's order and only if exactly that file is there.
//!
//! When the catalogue cannot be read or written, nothing is acknowledged any more and the failure is reported: the
//! tracker is to end then.

mod chunks;
mod local;
mod publish;
mod record;
mod schedule;
mod source;
mod workers;

use super::DaemonError;
use super::fetch::Conversations;
use super::shelf::Offers;
use super::watch::Watch;
use crate::content::limits::RECEIVE_MEMORY;
use crate::content::{FileId, Manifest};
use crate::net::{Shutdown, Threads, Timeouts};
use crate::protocol::volunteer::KeptFile;
use crate::storage::{Catalogue, CatalogueError, ChunkSource, ReplicaStore, SharedFolder};
use crate::swarm::keeping::{News, Task};
use crossbeam_channel::{Receiver, Sender, unbounded};
use source::ManifestOnly;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use workers::Memory;

/// What a keeper is told.
pub struct KeeperConfig {
    /// The folder whose files are kept; none when only what is in the catalogue is looked after.
    pub files: Option<PathBuf>,
    /// The file that this program logs to: it is not published, since each word on it would change it.
    pub log_file: PathBuf,
    /// What is to be remembered.
    pub catalogue: Arc<dyn Catalogue>,
    /// The chunks that have come back.
    pub store: ReplicaStore,
    /// Where everything that is here can be had.
    pub shelf: Offers,
    /// Sees the hashing.
    pub watch: Arc<dyn Watch>,
    /// How long volunteers are waited for.
    pub timeouts: Timeouts,
}

/// How a keeper hears and is heard.
pub struct KeeperChannels {
    /// What is to be done.
    pub tasks: Receiver<Task>,
    /// What has come of it, and what happens by itself.
    pub news: Sender<News>,
    /// Gets one error at most, after which the tracker is to end: the catalogue cannot be relied on any more.
    pub failures: Sender<DaemonError>,
}

/// The tracker's own hands. There is nothing to hold: the threads end at the shutdown.
pub struct Keeper;

/// What the threads of a keeper share.
struct Inner {
    folder: Option<Arc<SharedFolder>>,
    catalogue: Arc<dyn Catalogue>,
    store: ReplicaStore,
    shelf: Offers,
    watch: Arc<dyn Watch>,
    /// The files in the catalogue.
    known: Mutex<HashMap<FileId, KeptFile>>,
    /// Files that are not to be kept although they are in the folder, until they change there.
    ignored: Mutex<HashSet<FileId>>,
    /// Held while files of the folder are put on the shelf or taken off it, and that is reported.
    placing: Mutex<()>,
    /// The manifest that was needed last.
    manifest: Mutex<Option<(FileId, Arc<Manifest>)>>,
    conversations: Conversations,
    memory: Memory,
    news: Sender<News>,
    failures: Sender<DaemonError>,
    threads: Threads,
    shutdown: Shutdown,
}

impl Keeper {
    /// Puts all files of the catalogue on the shelf, by their ids, and starts the threads. The store's chunks of files
    /// that are not in the catalogue are taken in, as [`News::Adopted`], or dropped when the file was forgotten.
    ///
    /// # Errors
    /// The catalogue or the folder cannot be read, another program shares the folder, or there are no threads.
    pub fn start(
        config: KeeperConfig,
        channels: KeeperChannels,
        threads: &Threads,
        shutdown: &Shutdown,
    ) -> Result<Self, DaemonError> {
        let KeeperConfig { files, log_file, catalogue, store, shelf, watch, timeouts } = config;
        let KeeperChannels { tasks, news, failures } = channels;
        let folder = files.map(|files| SharedFolder::open(&files)).transpose()?.map(Arc::new);
        if let Some(folder) = &folder {
            folder.restore()?;
        }
        let contents = catalogue.load()?;
        let known = contents.files.into_iter().map(|file| (file.kept.file.id, file.kept)).collect();
        let inner = Arc::new(Inner {
            folder: folder.clone(),
            catalogue,
            store,
            shelf,
            watch,
            known: Mutex::new(known),
            ignored: Mutex::default(),
            placing: Mutex::default(),
            manifest: Mutex::default(),
            conversations: Conversations::new(timeouts),
            memory: Memory::new(RECEIVE_MEMORY),
            news,
            failures,
            threads: threads.clone(),
            shutdown: shutdown.clone(),
        });
        chunks::take_over(&inner, &contents.forgotten)?;
        let ids: Vec<_> = lock(&inner.known).keys().copied().collect();
        ids.into_iter().for_each(|id| inner.place(id));
        let (records, recorded) = unbounded();
        let recorder = inner.clone();
        threads.spawn("record", move || record::run(&recorder, &recorded))?;
        workers::start(&inner, tasks, records)?;
        chunks::start(&inner)?;
        match folder {
            Some(folder) => publish::Publisher::start(&inner, folder, &log_file)?,
            None => inner.tell(News::Looked),
        }
        Ok(Self)
    }
}

impl Inner {
    fn tell(&self, news: News) {
        // Nobody listens any more when the tracker ends.
        let _ = self.news.send(news);
    }

    /// The catalogue is of no use any more.
    fn fail(&self, error: CatalogueError) {
        // The first failure is the one that matters.
        let _ = self.failures.try_send(error.into());
    }

    fn placing(&self) -> MutexGuard<'_, ()> {
        lock(&self.placing)
    }

    fn known(&self, id: FileId) -> Option<KeptFile> {
        lock(&self.known).get(&id).cloned()
    }

    fn is_ignored(&self, id: FileId) -> bool {
        lock(&self.ignored).contains(&id)
    }

    fn ignore(&self, id: FileId, ignored: bool) {
        let mut all = lock(&self.ignored);
        match ignored {
            true => _ = all.insert(id),
            false => _ = all.remove(&id),
        }
    }

    /// Writes a file into the catalogue and has it on the shelf.
    fn take_in(&self, kept: &KeptFile, manifest: &Manifest) -> Result<(), CatalogueError> {
        self.catalogue.add_file(kept, manifest)?;
        lock(&self.known).insert(kept.file.id, kept.clone());
        self.place(kept.file.id);
        Ok(())
    }

    /// Has what is here of a file that is kept, beside the file itself, on the shelf: at least the manifest.
    fn place(&self, id: FileId) {
        let Some(kept) = self.known(id) else { return };
        let source: Arc<dyn ChunkSource> = match self.store.file(id) {
            Some(file) => file,
            None => Arc::new(ManifestOnly::new(id, kept.file.chunks, self.catalogue.clone())),
        };
        self.shelf.put(id, source);
    }

    /// The manifest of a file that is kept. When the catalogue fails, that is reported.
    fn manifest(&self, id: FileId) -> Option<Arc<Manifest>> {
        if let Some((_, manifest)) = lock(&self.manifest).as_ref().filter(|(last, _)| *last == id) {
            return Some(manifest.clone());
        }
        let manifest = self.catalogue.manifest(id).unwrap_or_else(|error| {
            self.fail(error);
            None
        })?;
        *lock(&self.manifest) = Some((id, manifest.clone()));
        Some(manifest)
    }
}

/// Locks. What these mutexes guard is whole between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
