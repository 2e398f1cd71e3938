//! Copies chunks from other peers into the store, several at once.
//!
//! Invariants: what is stored was verified against the manifest, and the manifest against the file's id; the manifest
//! of a file is asked for once; chunks that are being received take no more memory than
//! [`RECEIVE_MEMORY_BYTES`](crate::content::limits::RECEIVE_MEMORY_BYTES).

use super::{Done, HeldReplicas, Job, work};
use crate::content::limits::{COPY_WORKERS_MAX, RECEIVE_MEMORY_BYTES, SOURCE_RETRY_INTERVAL};
use crate::content::{ChunkIndex, FileId, Manifest};
use crate::download::conversations::Conversations;
use crate::download::events::{Expected, SourceError};
use crate::download::source::Conversation;
use crate::net::{Shutdown, Timeouts};
use crate::protocol::volunteer::{CopyFailure, KeptFile, VolunteerReport};
use crate::storage::{ChunkSource, ReplicaFile, StoreError};
use crate::tracker_client::lookup::as_known;
use crossbeam_channel::{Receiver, Sender};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a worker that waits for memory looks whether it is still wanted.
const GLANCE: Duration = Duration::from_millis(100);
/// A worker keeps a buffer of up to so many bytes for the next chunk.
const BUFFER_KEPT: usize = RECEIVE_MEMORY_BYTES as usize / COPY_WORKERS_MAX;
/// How often a chunk is stored anew whose file is removed meanwhile.
const TRIES: usize = 3;

/// A chunk that is to be copied.
pub(super) struct Copy {
    pub kept: KeptFile,
    pub index: ChunkIndex,
    pub from: SocketAddr,
}

/// What the copying threads share.
pub(super) struct Copier {
    replicas: Arc<HeldReplicas>,
    tracker: SocketAddr,
    conversations: Conversations,
    memory: Memory,
    /// The files whose manifests are being asked for: whoever else wants one waits.
    gates: Mutex<HashMap<FileId, Arc<Mutex<()>>>>,
    /// The peers that could not be reached, and when.
    away: Mutex<HashMap<SocketAddr, Instant>>,
}

/// Why a chunk was not copied.
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
            // Paths of this machine are nobody else's business.
            StoreError::Full { needed, available, .. } => {
                let text = format!("{needed} bytes needed, {available} available");
                Self::new(CopyFailure::NoRoom, text)
            }
            error => {
                log::warn!("a chunk cannot be stored: {error}");
                Self::new(CopyFailure::Disk, "it cannot be stored")
            }
        }
    }
}

impl Copier {
    pub(super) fn new(replicas: Arc<HeldReplicas>, tracker: SocketAddr, timeouts: Timeouts) -> Self {
        let (conversations, memory) = (Conversations::new(timeouts), Memory::default());
        Self { replicas, tracker, conversations, memory, gates: Mutex::default(), away: Mutex::default() }
    }

    /// Copies until the shutdown.
    pub(super) fn run(&self, jobs: &Receiver<Job<Copy>>, done: &Sender<Done>, shutdown: &Shutdown) {
        let mut buffer = Vec::new();
        let idle = || self.conversations.close_idle();
        work(jobs, done, shutdown, idle, |copy, here| {
            let (file, index) = (copy.kept.file.id, copy.index);
            let result = self.copy(&copy, here, &mut buffer);
            if buffer.capacity() > BUFFER_KEPT {
                buffer = Vec::new();
            }
            // Filled in when it is said: of several threads the last to say it need not be the last to know it.
            let free = 0;
            vec![match result {
                Ok(()) => VolunteerReport::Stored { file, index, free },
                Err(Failure { why, text }) => {
                    let from = as_known(copy.from, self.tracker);
                    log::debug!("chunk {index} of {} is not copied from {from}: {text}", copy.kept.file.name);
                    VolunteerReport::NotStored { file, index, why, text, free }
                }
            }]
        });
        self.conversations.close();
    }

    fn copy(&self, copy: &Copy, here: &Shutdown, buffer: &mut Vec<u8>) -> Result<(), Failure> {
        let Copy { kept, index, .. } = copy;
        let store = &self.replicas.store;
        let known = store.file(kept.file.id);
        if known.as_ref().is_some_and(|file| file.stored(*index).is_ok()) {
            return Ok(());
        }
        let from = as_known(copy.from, self.tracker);
        let manifest = match known.and_then(|file| file.manifest()) {
            Some(manifest) => manifest,
            None => self.manifest(kept, from, here)?,
        };
        let result = self.receive(copy, from, &manifest, here, buffer);
        if result.is_err() {
            // What is known of a file that nothing was got of is of no use. That is no reason to fail otherwise.
            store.remove(kept.file.id, &[]).err().into_iter().for_each(|error| log::warn!("{error}"));
        }
        self.replicas.sync_offer(kept.file.id);
        result
    }

    fn receive(
        &self,
        copy: &Copy,
        from: SocketAddr,
        manifest: &Arc<Manifest>,
        here: &Shutdown,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let Copy { kept, index, .. } = copy;
        let (store, id) = (&self.replicas.store, kept.file.id);
        let no_such = || Failure::new(CopyFailure::Other, format!("the file has no chunk {index}"));
        let expected = manifest.expected(*index).ok_or_else(no_such)?;
        let (needed, available) = (u64::from(expected.1), store.free());
        if needed > available {
            let text = format!("{needed} bytes needed, {available} available");
            return Err(Failure::new(CopyFailure::NoRoom, text));
        }
        let _memory = self.memory.take(needed, here).ok_or(SourceError::Stopped)?;
        self.ask(from, here, |peer| peer.chunk(id, *index, expected, buffer, here))?;
        for _ in 0..TRIES {
            store.add_file(kept, manifest.clone())?;
            match store.store(id, *index, buffer) {
                // The last other chunk of the file was dropped just now, and the file with it.
                Err(StoreError::Missing(_)) => {}
                stored => return Ok(stored?),
            }
        }
        Err(Failure::new(CopyFailure::Other, "the file is being dropped"))
    }

    /// Asks a peer, unless it could not be reached a moment ago.
    fn ask<T>(
        &self,
        from: SocketAddr,
        here: &Shutdown,
        ask: impl FnMut(&mut Conversation) -> Result<T, SourceError>,
    ) -> Result<T, Failure> {
        if lock(&self.away).get(&from).is_some_and(|when| when.elapsed() < SOURCE_RETRY_INTERVAL) {
            return Err(Failure::new(CopyFailure::Unreachable, "it could not be reached a moment ago"));
        }
        let result = self.conversations.with(from, here, ask);
        if matches!(result, Err(SourceError::Link(_))) && !here.is_stopped() {
            let mut away = lock(&self.away);
            away.retain(|_, when| when.elapsed() < SOURCE_RETRY_INTERVAL);
            away.insert(from, Instant::now());
        }
        Ok(result?)
    }

    /// The manifest of a file, from the store, or else from a peer; kept in the store from then on.
    fn manifest(&self, kept: &KeptFile, from: SocketAddr, here: &Shutdown) -> Result<Arc<Manifest>, Failure> {
        let id = kept.file.id;
        let gate = lock(&self.gates).entry(id).or_default().clone();
        let passing = lock(&gate);
        let known = self.replicas.store.file(id).as_deref().and_then(ReplicaFile::manifest);
        let manifest = match known {
            Some(manifest) => Ok(manifest),
            None => self.ask_manifest(kept, from, here),
        };
        drop(passing);
        let mut gates = lock(&self.gates);
        // Nobody else waits at it.
        if Arc::strong_count(&gate) == 2 {
            gates.remove(&id);
        }
        manifest
    }

    fn ask_manifest(
        &self,
        kept: &KeptFile,
        from: SocketAddr,
        here: &Shutdown,
    ) -> Result<Arc<Manifest>, Failure> {
        let manifest = Arc::new(self.ask(from, here, |peer| peer.manifest(kept.file.id, here))?);
        let layout = manifest.layout();
        if (layout.size(), layout.count()) != (kept.file.size, kept.file.chunks) {
            return Err(Failure::new(CopyFailure::Other, "the file has other sizes than its manifest says"));
        }
        self.replicas.store.add_file(kept, manifest.clone())?;
        Ok(manifest)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory for chunks that are being received.
struct Memory {
    left: Mutex<u64>,
    freed: Condvar,
}

impl Default for Memory {
    fn default() -> Self {
        Self { left: Mutex::new(RECEIVE_MEMORY_BYTES), freed: Condvar::new() }
    }
}

/// Some of it. Given back when dropped.
struct Share<'a> {
    memory: &'a Memory,
    bytes: u64,
}

impl Memory {
    /// Waits until there is enough. `None` at the shutdown.
    fn take(&self, bytes: u64, here: &Shutdown) -> Option<Share<'_>> {
        // No chunk is longer than that; one that were would have all of it.
        let bytes = bytes.min(RECEIVE_MEMORY_BYTES);
        let mut left = lock(&self.left);
        while *left < bytes {
            if here.is_stopped() {
                return None;
            }
            left = self.freed.wait_timeout(left, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        *left -= bytes;
        Some(Share { memory: self, bytes })
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *lock(&self.memory.left) += self.bytes;
        self.memory.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shared_and_a_shutdown_ends_the_wait() {
        let (memory, here) = (Memory::default(), Shutdown::new());
        let most = memory.take(RECEIVE_MEMORY_BYTES - 10, &here).unwrap();
        let rest = memory.take(10, &here).unwrap();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| memory.take(u64::MAX, &here).is_some());
            drop((most, rest));
            assert!(waits.join().unwrap());
        });
        let all = memory.take(RECEIVE_MEMORY_BYTES, &here).unwrap();
        here.trigger();
        assert!(memory.take(1, &here).is_none());
        drop(all);
        assert!(memory.take(1, &here).is_some());
    }
}
