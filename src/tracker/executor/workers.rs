//! Hands tasks to workers, and does those that need another host.
//!
//! One thread takes tasks in and knows what is under way; workers carry them out. Tasks that need only the own disk
//! have workers of their own, so that they do not wait for a host that is silent. Invariant: a task has been answered
//! before the next one begins that must not overtake it.

use super::record::Record;
use super::schedule::{Kind, Schedule, file_of};
use super::{Inner, lock};
use crate::content::limits::{EXECUTOR_LOCAL_MAX, EXECUTOR_REMOTE_MAX};
use crate::content::{ChunkIndex, Digest, FileId, Manifest};
use crate::download::events::SourceError;
use crate::net::Shutdown;
use crate::protocol::volunteer::{CopyFailure, KeptFile};
use crate::storage::StoreError;
use crate::swarm::keeping::{ExecutorTask, TaskOutcome, Verdict};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Starts the thread that hands tasks out, and the workers.
pub(super) fn start(
    inner: &Arc<Inner>,
    tasks: Receiver<ExecutorTask>,
    records: Sender<Record>,
) -> io::Result<()> {
    let (done, finished) = bounded(EXECUTOR_REMOTE_MAX + EXECUTOR_LOCAL_MAX);
    let mut pools = Vec::new();
    for (name, kind, count) in [
        ("keep-distant", Kind::Distant, EXECUTOR_REMOTE_MAX),
        ("keep-local", Kind::Local, EXECUTOR_LOCAL_MAX),
    ] {
        let (jobs, work) = bounded::<ExecutorTask>(count);
        for _ in 0..count {
            let (inner, work, done) = (inner.clone(), work.clone(), done.clone());
            inner.threads.clone().spawn(name, move || {
                // Ends with the thread that hands out.
                for task in work {
                    let _done = Done { file: file_of(&task), kind, done: &done };
                    carry_out(&inner, task);
                }
            })?;
        }
        pools.push(Pool { kind, jobs, idle: count });
    }
    let shutdown = inner.shutdown.clone();
    inner.threads.spawn("keeper", move || hand_out(&tasks, &records, &finished, pools, &shutdown))
}

/// Workers of one kind.
struct Pool {
    kind: Kind,
    jobs: Sender<ExecutorTask>,
    idle: usize,
}

/// Says that a task is not under way any more, whatever has become of it.
struct Done<'a> {
    file: Option<FileId>,
    kind: Kind,
    done: &'a Sender<(Kind, Option<FileId>)>,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let _ = self.done.send((self.kind, self.file));
    }
}

fn hand_out(
    tasks: &Receiver<ExecutorTask>,
    records: &Sender<Record>,
    finished: &Receiver<(Kind, Option<FileId>)>,
    mut pools: Vec<Pool>,
    shutdown: &Shutdown,
) {
    let mut schedule = Schedule::default();
    loop {
        crossbeam_channel::select! {
            recv(shutdown.signal()) -> _ => return,
            recv(finished) -> which => {
                let Ok((kind, file)) = which else { return };
                pools.iter_mut().filter(|pool| pool.kind == kind).for_each(|pool| pool.idle += 1);
                file.into_iter().for_each(|file| schedule.done(file));
            }
            recv(tasks) -> task => match task {
                // Who recorded has ended, and with it the tracker.
                Ok(ExecutorTask::Record { ticket, changes }) => _ = records.send((ticket, changes)),
                Ok(task) => schedule.push(task),
                // The machine is gone.
                Err(_) => return,
            },
        }
        for pool in &mut pools {
            while pool.idle > 0
                && let Some(task) = schedule.next(pool.kind)
            {
                pool.idle -= 1;
                let _ = pool.jobs.send(task);
            }
        }
    }
}

fn carry_out(inner: &Inner, task: ExecutorTask) {
    if inner.shutdown.is_stopped() {
        return;
    }
    match task {
        // Goes another way.
        ExecutorTask::Record { .. } => {}
        ExecutorTask::Fetch { kept, index, from } => {
            let id = kept.file.id;
            inner.tell(match inner.fetch(&kept, index, from) {
                Ok(()) => TaskOutcome::Stored(id, index),
                Err(why) => TaskOutcome::NotStored(id, index, why),
            });
        }
        ExecutorTask::Audit { volunteer, from, file, index } => {
            inner.tell(TaskOutcome::Audited(volunteer, file, index, inner.audit(file, index, from)));
        }
        ExecutorTask::Adopt { kept, from } => inner.adopt(&kept, from),
        ExecutorTask::Prove { challenge, range } => {
            inner.tell(TaskOutcome::Proof(challenge, inner.prove(&range)))
        }
        ExecutorTask::Drop { file, chunks } => inner.drop_chunks(file, chunks),
        ExecutorTask::Offload(kept) => {
            let _placing = inner.placing();
            let deleted = inner.offload(&kept);
            inner.tell(TaskOutcome::Offloaded(kept.file.id, deleted));
        }
        ExecutorTask::Forget(file) => inner.forget(file),
    }
}

impl Inner {
    /// Copies a chunk into the own store.
    fn fetch(&self, kept: &KeptFile, index: ChunkIndex, from: SocketAddr) -> Result<(), CopyFailure> {
        let id = kept.file.id;
        let file = match self.store.file(id) {
            Some(file) => file,
            None => {
                let manifest = self.manifest(id).ok_or(CopyFailure::Other)?;
                let file =
                    self.store.add_file(kept, manifest).map_err(|error| self.not_stored(kept, &error))?;
                self.place(id);
                file
            }
        };
        if file.check(index).unwrap_or(false) {
            return Ok(());
        }
        let manifest = self.manifest(id).ok_or(CopyFailure::Other)?;
        let (digest, length) = expected(&manifest, index).ok_or(CopyFailure::Other)?;
        let _memory = self.memory.take(length.into(), &self.shutdown);
        let mut bytes = Vec::new();
        self.chunk(id, index, (digest, length), from, &mut bytes).map_err(|error| {
            log::info!("chunk {index} of {} does not come from {from}: {error}", kept.file.name);
            match error {
                SourceError::BadChunk { .. } => CopyFailure::Corrupt,
                SourceError::Stopped => CopyFailure::Other,
                _ => CopyFailure::Unreachable,
            }
        })?;
        self.store.store(id, index, &bytes).map_err(|error| self.not_stored(kept, &error))
    }

    fn not_stored(&self, kept: &KeptFile, error: &StoreError) -> CopyFailure {
        log::warn!("a chunk of {} cannot be stored here: {error}", kept.file.name);
        match error {
            StoreError::Full { .. } => CopyFailure::NoRoom,
            _ => CopyFailure::Disk,
        }
    }

    fn chunk(
        &self,
        file: FileId,
        index: ChunkIndex,
        expected: (Digest, u32),
        from: SocketAddr,
        bytes: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        self.conversations.with(reachable(from), &self.shutdown, |conversation| {
            conversation.chunk(file, index, expected, bytes, &self.shutdown)
        })
    }

    fn audit(&self, file: FileId, index: ChunkIndex, from: SocketAddr) -> Verdict {
        let Some(expected) = self.manifest(file).and_then(|manifest| expected(&manifest, index)) else {
            return Verdict::Unknown;
        };
        let _memory = self.memory.take(expected.1.into(), &self.shutdown);
        match self.chunk(file, index, expected, from, &mut Vec::new()) {
            Ok(()) => Verdict::Right,
            Err(error) => {
                log::info!("chunk {index} of {} at {from}: {error}", file.short());
                match error {
                    // It was reached, and does not have it.
                    SourceError::BadChunk { .. } | SourceError::Refused(_) => Verdict::Wrong,
                    _ => Verdict::Unknown,
                }
            }
        }
    }

    /// Takes a file into the catalogue that a volunteer knows.
    fn adopt(&self, kept: &KeptFile, from: SocketAddr) {
        let id = kept.file.id;
        let known = self.known(id);
        let ask = || {
            self.conversations.with(reachable(from), &self.shutdown, |conversation| {
                conversation.manifest(id, &self.shutdown)
            })
        };
        let manifest = match self.manifest(id) {
            Some(manifest) => Some(manifest),
            None => ask()
                .inspect_err(|error| log::info!("no manifest of {} from {from}: {error}", kept.file.name))
                .ok()
                .map(Arc::new),
        };
        let sizes = |manifest: &Manifest| (manifest.layout().size(), manifest.layout().count());
        let fits = manifest.filter(|manifest| sizes(manifest) == (kept.file.size, kept.file.chunks));
        let adopted = fits.and_then(|manifest| {
            let kept = known.unwrap_or_else(|| kept.clone());
            match self.take_in(&kept, &manifest) {
                Ok(()) => Some((kept, manifest.layout().clone())),
                Err(error) => {
                    self.fail(error);
                    None
                }
            }
        });
        if let Some((kept, _)) = &adopted {
            self.ignore(id, false);
            log::info!("{} is kept again, by what {from} knows of it", kept.file.name);
        }
        self.tell(TaskOutcome::Adopted(id, adopted));
    }
}

/// What a chunk must be.
fn expected(manifest: &Manifest, index: ChunkIndex) -> Option<(Digest, u32)> {
    Some((manifest.digest(index)?, manifest.layout().span(index)?.length))
}

/// Who serves on an address that is the tracker's own is on this host.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        false => address,
    }
}

/// Memory for chunks that are being received.
pub(super) struct Memory {
    left: Mutex<u64>,
    freed: Condvar,
    all: u64,
}

/// A part of the memory, given back when dropped.
pub(super) struct Share<'a>(&'a Memory, u64);

impl Memory {
    /// So many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: Mutex::new(bytes), freed: Condvar::new(), all: bytes }
    }

    /// Waits until there is room for so many bytes, or for what there is at most, or until the shutdown.
    fn take(&self, bytes: u64, shutdown: &Shutdown) -> Share<'_> {
        let bytes = bytes.min(self.all);
        let mut left = lock(&self.left);
        while *left < bytes && !shutdown.is_stopped() {
            // Now and then it looks whether it is still wanted.
            let waited = self.freed.wait_timeout(left, Duration::from_millis(100));
            left = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let bytes = bytes.min(*left);
        *left -= bytes;
        Share(self, bytes)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *lock(&self.0.left) += self.1;
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_waited_for_and_never_more_than_there_is() {
        let (memory, shutdown) = (Memory::new(10), Shutdown::new());
        let first = memory.take(99, &shutdown);
        assert_eq!(*lock(&memory.left), 0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| memory.take(4, &shutdown).1);
            drop(first);
            assert_eq!(waiting.join().unwrap(), 4);
        });
        let _all = memory.take(10, &shutdown);
        shutdown.trigger();
        assert_eq!(memory.take(1, &shutdown).1, 0);
    }

    #[test]
    fn the_own_host_is_reached_by_its_own_name() {
        assert_eq!(reachable("0.0.0.0:7".parse().unwrap()), "127.0.0.1:7".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:7".parse().unwrap()), "10.0.0.1:7".parse().unwrap());
    }
}
