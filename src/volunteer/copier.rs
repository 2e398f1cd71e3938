//! Copies chunks from other peers into the store, with several worker threads.
//!
//! Invariants: a stored chunk was verified against the manifest, and the manifest against the file's id; the manifest
//! of a file is requested once at a time; chunks in flight use at most
//! [`RECEIVE_MEMORY_BYTES`](crate::content::limits::RECEIVE_MEMORY_BYTES) bytes.

use super::{Done, HeldReplicas, Job, work};
use crate::content::limits::{COPY_WORKERS_MAX, RECEIVE_MEMORY_BYTES, SOURCE_RETRY_INTERVAL};
use crate::content::{ChunkIndex, FileId, Manifest};
use crate::download::connection_pool::ConnectionPool;
use crate::download::events::{Expected, SourceError};
use crate::download::source::PeerConnection;
use crate::net::{MemoryBudget, Shutdown, Timeouts};
use crate::protocol::volunteer::{CopyFailure, KeptFile, VolunteerReport};
use crate::storage::{ChunkSource, ReplicaFile, StoreError};
use crate::sync::lock;
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Maximum size in bytes of a buffer that a worker keeps for its next chunk.
const BUFFER_BYTES_MAX: usize = RECEIVE_MEMORY_BYTES as usize / COPY_WORKERS_MAX;
/// Attempts to store a chunk if its file is removed at the same time.
const STORE_ATTEMPTS_MAX: usize = 3;

/// An order to copy a chunk from a peer.
pub(super) struct Copy {
    pub kept: KeptFile,
    pub index: ChunkIndex,
    pub from: SocketAddr,
}

/// State that the copying threads share.
pub(super) struct Copier {
    replicas: Arc<HeldReplicas>,
    pool: ConnectionPool,
    memory: MemoryBudget,
    /// A lock for each file whose manifest is being requested: other workers wait for the response.
    manifest_locks: Mutex<HashMap<FileId, Arc<Mutex<()>>>>,
    /// Time of the last failed connection to a peer: backoff before the next one.
    unreachable: Mutex<HashMap<SocketAddr, Instant>>,
}

/// Cause of a failed copy, for the tracker.
struct Failure {
    why: CopyFailure,
    text: String,
}

impl Failure {
    fn new(why: CopyFailure, text: impl Into<String>) -> Self {
        Self { why, text: text.into() }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let why = match &error {
            SourceError::BadChunk { .. } => CopyFailure::Corrupt,
            SourceError::Store(_) => CopyFailure::Disk,
            _ => CopyFailure::Unreachable,
        };
        Self::new(why, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            // Without the path: the tracker must not learn paths of this host.
            StoreError::Full { needed, available, .. } => {
                let text = format!("{needed} bytes needed, {available} available");
                Self::new(CopyFailure::NoRoom, text)
            }
            StoreError::Exhausted { resource, .. } => Self::new(CopyFailure::NoRoom, resource.to_string()),
            // The watch of the store has logged it.
            StoreError::StoreAbsent { .. } => Self::new(CopyFailure::Disk, "the volunteer's store is absent"),
            error => {
                log::warn!("failed to store a chunk: {error}");
                Self::new(CopyFailure::Disk, "the volunteer failed to store it")
            }
        }
    }
}

impl Copier {
    pub(super) fn new(replicas: Arc<HeldReplicas>, timeouts: Timeouts) -> Self {
        let (pool, memory) = (ConnectionPool::new(timeouts), MemoryBudget::new(RECEIVE_MEMORY_BYTES));
        Self { replicas, pool, memory, manifest_locks: Mutex::default(), unreachable: Mutex::default() }
    }

    /// Loop of a copying thread, until the shutdown.
    pub(super) fn run(&self, jobs: &Receiver<Job<Copy>>, done: &Sender<Done>, shutdown: &Shutdown) {
        let mut buffer = Vec::new();
        let idle = || self.pool.close_idle();
        work(jobs, done, shutdown, idle, |copy, session_end| {
            let (file, index) = (copy.kept.file.id, copy.index);
            let result = self.copy(&copy, session_end, &mut buffer);
            if buffer.capacity() > BUFFER_BYTES_MAX {
                buffer = Vec::new();
            }
            // `as_of_now` fills in the free space when the message is sent: several threads change it.
            let free = 0;
            vec![match result {
                Ok(()) => VolunteerReport::Stored { file, index, free },
                Err(Failure { why, text }) => {
                    let from = copy.from;
                    let name = &copy.kept.file.name;
                    log::debug!("failed to copy chunk {index} of {name} from {from}: {text}");
                    VolunteerReport::NotStored { file, index, why, text, free }
                }
            }]
        });
        self.pool.close();
    }

    /// Carries out an order: downloads the manifest if it is not stored yet, then the chunk.
    fn copy(&self, copy: &Copy, session_end: &Shutdown, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let Copy { kept, index, .. } = copy;
        let store = &self.replicas.store;
        let known = store.file(kept.file.id);
        if known.as_ref().is_some_and(|file| file.stored(*index).is_ok()) {
            return Ok(());
        }
        let from = copy.from;
        let manifest = match known.and_then(|file| file.manifest()) {
            Some(manifest) => manifest,
            None => self.manifest(kept, from, session_end)?,
        };
        let result = self.receive(copy, from, &manifest, session_end, buffer);
        if result.is_err() {
            // Removes the manifest of a file without chunks. A failure of the removal does not change the result.
            store.remove(kept.file.id, &[]).err().into_iter().for_each(|error| log::warn!("{error}"));
        }
        self.replicas.sync_offer(kept.file.id);
        result
    }

    /// Downloads the chunk of an order, verifies it and stores it.
    fn receive(
        &self,
        copy: &Copy,
        from: SocketAddr,
        manifest: &Arc<Manifest>,
        session_end: &Shutdown,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let Copy { kept, index, .. } = copy;
        let (store, id) = (&self.replicas.store, kept.file.id);
        let no_such = || Failure::new(CopyFailure::Other, format!("the file has no chunk {index}"));
        let expected = manifest.expected(*index).ok_or_else(no_such)?;
        let (needed, available) = (expected.1, store.free());
        if needed > available {
            let text = format!("{needed} bytes needed, {available} available");
            return Err(Failure::new(CopyFailure::NoRoom, text));
        }
        let _memory = self.memory.reserve(needed, session_end).ok_or(SourceError::Stopped)?;
        self.request(from, session_end, |peer| peer.chunk(id, *index, expected, buffer, session_end))?;
        for _ in 0..STORE_ATTEMPTS_MAX {
            store.add_file(kept, manifest.clone())?;
            match store.store(id, *index, buffer) {
                // The last other chunk of the file was dropped at the same time, and the file with it.
                Err(StoreError::Missing(_)) => {}
                stored => return Ok(stored?),
            }
        }
        Err(Failure::new(CopyFailure::Other, "the file is being dropped"))
    }

    /// Sends a request to a peer, unless a connection to it failed less than [`SOURCE_RETRY_INTERVAL`] ago.
    fn request<T>(
        &self,
        from: SocketAddr,
        session_end: &Shutdown,
        request: impl FnMut(&mut PeerConnection) -> Result<T, SourceError>,
    ) -> Result<T, Failure> {
        if lock(&self.unreachable).get(&from).is_some_and(|when| when.elapsed() < SOURCE_RETRY_INTERVAL) {
            return Err(Failure::new(CopyFailure::Unreachable, "the last connection to the peer failed"));
        }
        let result = self.pool.with(from, session_end, request);
        if matches!(result, Err(SourceError::Connection(_))) && !session_end.is_stopped() {
            let mut unreachable = lock(&self.unreachable);
            unreachable.retain(|_, when| when.elapsed() < SOURCE_RETRY_INTERVAL);
            unreachable.insert(from, Instant::now());
        }
        Ok(result?)
    }

    /// The manifest of a file, from the store, or else from a peer. Adds it to the store.
    fn manifest(
        &self,
        kept: &KeptFile,
        from: SocketAddr,
        session_end: &Shutdown,
    ) -> Result<Arc<Manifest>, Failure> {
        let id = kept.file.id;
        let manifest_lock = lock(&self.manifest_locks).entry(id).or_default().clone();
        let guard = lock(&manifest_lock);
        let known = self.replicas.store.file(id).as_deref().and_then(ReplicaFile::manifest);
        let manifest = match known {
            Some(manifest) => Ok(manifest),
            None => self.request_manifest(kept, from, session_end),
        };
        drop(guard);
        let mut locks = lock(&self.manifest_locks);
        // Two references: the map's and this one. No other worker waits for the lock.
        if Arc::strong_count(&manifest_lock) == 2 {
            locks.remove(&id);
        }
        manifest
    }

    fn request_manifest(
        &self,
        kept: &KeptFile,
        from: SocketAddr,
        session_end: &Shutdown,
    ) -> Result<Arc<Manifest>, Failure> {
        let manifest =
            Arc::new(self.request(from, session_end, |peer| peer.manifest(kept.file.id, session_end))?);
        let layout = manifest.layout();
        if (layout.size(), layout.count()) != (kept.file.size, kept.file.chunks) {
            let text = "the manifest has another size or number of chunks than the order";
            return Err(Failure::new(CopyFailure::Other, text));
        }
        self.replicas.store.add_file(kept, manifest.clone())?;
        Ok(manifest)
    }
}
