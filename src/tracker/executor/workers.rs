//! Distributes tasks to worker threads, and carries out those that need another host.
//!
//! One thread receives tasks and tracks those in progress; workers carry them out. Tasks that need only the own disk
//! have separate workers, so that they do not wait for a stalled host. Invariant: the outcome of a task is reported
//! before a conflicting task begins.

use super::Inner;
use super::record::Record;
use super::schedule::{Kind, Schedule, queue_of};
use crate::content::limits::{EXECUTOR_LOCAL_MAX, EXECUTOR_PROOF_MAX, EXECUTOR_REMOTE_MAX};
use crate::content::{ChunkIndex, Digest, FileId, Manifest};
use crate::download::events::{Expected as _, SourceError};
use crate::protocol::volunteer::{CopyFailure, KeptFile};
use crate::storage::StoreError;
use crate::swarm::keeping::{ExecutorTask, TaskOutcome};
use crate::sync::lock;
use crate::tracker::permits::{Permits, permit_of};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Starts the thread that distributes tasks, and the workers.
pub(super) fn start(
    inner: &Arc<Inner>,
    tasks: Receiver<ExecutorTask>,
    records: Sender<Record>,
) -> io::Result<()> {
    let (done, finished) = bounded(EXECUTOR_REMOTE_MAX + EXECUTOR_LOCAL_MAX + EXECUTOR_PROOF_MAX + 1);
    let mut pools = Vec::new();
    for (name, kind, count) in [
        ("executor-remote", Kind::Remote, EXECUTOR_REMOTE_MAX),
        ("executor-local", Kind::Local, EXECUTOR_LOCAL_MAX),
        ("executor-proof", Kind::Proof, EXECUTOR_PROOF_MAX),
        ("executor-recall", Kind::Recall, 1),
    ] {
        let (jobs, work) = bounded::<ExecutorTask>(count);
        for _ in 0..count {
            let (inner, work, done) = (inner.clone(), work.clone(), done.clone());
            inner.threads.clone().spawn(name, move || {
                // Ends when the distributing thread drops its sender.
                for task in work {
                    let permit = permit_of(&task).map(|number| (number, &*inner.permits));
                    let _done = Done { file: queue_of(&task), kind, permit, done: &done };
                    carry_out(&inner, task);
                }
            })?;
        }
        pools.push(WorkerPool { kind, jobs, idle: count });
    }
    let distributing = inner.clone();
    inner.threads.spawn("executor", move || distribute(&distributing, &tasks, &records, &finished, pools))
}

/// Workers of one kind.
struct WorkerPool {
    kind: Kind,
    jobs: Sender<ExecutorTask>,
    /// Number of workers without a task.
    idle: usize,
}

/// Reports the end of a task when dropped, also after a panic.
struct Done<'a> {
    file: Option<FileId>,
    kind: Kind,
    permit: Option<(u64, &'a Permits)>,
    done: &'a Sender<(Kind, Option<FileId>)>,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.permit.into_iter().for_each(|(number, permits)| permits.remove(number));
        let _ = self.done.send((self.kind, self.file));
    }
}

/// Loop of thread `executor`: starts each task as soon as a worker is idle and no conflicting task runs.
fn distribute(
    inner: &Inner,
    tasks: &Receiver<ExecutorTask>,
    records: &Sender<Record>,
    finished: &Receiver<(Kind, Option<FileId>)>,
    mut pools: Vec<WorkerPool>,
) {
    let mut schedule = Schedule::default();
    loop {
        crossbeam_channel::select! {
            recv(inner.shutdown.signal()) -> _ => return,
            recv(finished) -> ended => {
                let Ok((kind, file)) = ended else { return };
                pools.iter_mut().filter(|pool| pool.kind == kind).for_each(|pool| pool.idle += 1);
                file.into_iter().for_each(|file| schedule.done(file));
            }
            recv(tasks) -> task => match task {
                // A send fails only when the recording thread has ended, and then the tracker ends, too.
                Ok(ExecutorTask::Record { number, changes }) => _ = records.send((number, changes)),
                Ok(task) => {
                    if let ExecutorTask::Forget(file) = &task {
                        inner.begin_forgetting(*file);
                    }
                    schedule.push(task);
                }
                // The state machine has ended.
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
        // `distribute` has carried out the record; a revocation is not queued.
        ExecutorTask::Record { .. } | ExecutorTask::Revoke(_) => {}
        ExecutorTask::Download { kept, index, from } => {
            let id = kept.file.id;
            inner.report(match inner.download(&kept, index, from) {
                Ok(()) => TaskOutcome::Stored(id, index),
                Err(why) => TaskOutcome::NotStored(id, index, why),
            });
        }
        ExecutorTask::ProveCopies { number, file, index, holders } => {
            inner.report(inner.prove_copies(number, (file, index), &holders));
        }
        // The state machine is about to stop ordering them: `ProveCopies` replaces them.
        ExecutorTask::Adopt { kept, from } => inner.adopt(&kept, from),
        ExecutorTask::Drop { file, chunks, permit } => inner.drop_chunks(file, &chunks, permit),
        ExecutorTask::Offload { kept, permit } => {
            let _offer_lock = inner.lock_offers();
            let result = inner.offload(&kept, permit);
            inner.report(TaskOutcome::Offloaded(kept.file.id, result));
        }
        ExecutorTask::Withdraw(file) => inner.withdraw_corrupt(file),
        ExecutorTask::Recall { kept, from } => {
            let result = inner.recall(&kept, &from);
            if let Err(reason) = &result {
                log::warn!("{} not recalled: {reason}", kept.file.name);
            }
            inner.report(TaskOutcome::Recalled(kept.file.id, result));
        }
        ExecutorTask::Forget(file) => inner.forget(file),
    }
}

impl Inner {
    /// Downloads a chunk from a volunteer into the own store.
    fn download(&self, kept: &KeptFile, index: ChunkIndex, from: SocketAddr) -> Result<(), CopyFailure> {
        let id = kept.file.id;
        if self.store.file(id).is_some_and(|file| file.check(index).unwrap_or(false)) {
            return Ok(());
        }
        let manifest = self.manifest(id).ok_or(CopyFailure::Other)?;
        let expected = manifest.expected(index).ok_or(CopyFailure::Other)?;
        // Before the download: a chunk that cannot be stored causes no traffic.
        let (needed, available) = (expected.1, self.store.free());
        if needed > available {
            log::debug!("no space for chunk {index} of {}: {needed} > {available}", kept.file.name);
            return Err(CopyFailure::NoRoom);
        }
        if self.store.file(id).is_none() {
            self.store.add_file(kept, manifest).map_err(|error| self.not_stored(kept, &error))?;
            self.serve_by_id(id);
        }
        let _memory = self.memory.reserve(expected.1, &self.shutdown).ok_or(CopyFailure::Other)?;
        let mut bytes = Vec::new();
        self.receive(id, index, expected, from, &mut bytes).map_err(|error| {
            log::info!("failed to fetch chunk {index} of {} from {from}: {error}", kept.file.name);
            match error {
                SourceError::BadChunk { .. } => CopyFailure::Corrupt,
                SourceError::Stopped => CopyFailure::Other,
                _ => CopyFailure::Unreachable,
            }
        })?;
        self.store.store(id, index, &bytes).map_err(|error| self.not_stored(kept, &error))
    }

    /// Logs why a chunk was not stored, and returns the cause for the state machine.
    fn not_stored(&self, kept: &KeptFile, error: &StoreError) -> CopyFailure {
        log::warn!("failed to store a chunk of {}: {error}", kept.file.name);
        match error {
            StoreError::Full { .. } | StoreError::Exhausted { .. } => CopyFailure::NoRoom,
            _ => CopyFailure::Disk,
        }
    }

    /// Receives a chunk from a volunteer and verifies it.
    pub(super) fn receive(
        &self,
        file: FileId,
        index: ChunkIndex,
        expected: (Digest, u64),
        from: SocketAddr,
        bytes: &mut Vec<u8>,
    ) -> Result<(), SourceError> {
        self.pool.with(reachable(from), &self.shutdown, |connection| {
            connection.chunk(file, index, expected, bytes, &self.shutdown)
        })
    }

    /// Adds a file that a volunteer reports to the catalogue, after a check of its manifest.
    fn adopt(&self, kept: &KeptFile, from: SocketAddr) {
        let id = kept.file.id;
        let known = self.known(id);
        let request = || {
            self.pool
                .with(reachable(from), &self.shutdown, |connection| connection.manifest(id, &self.shutdown))
        };
        let manifest = match self.manifest(id) {
            Some(manifest) => Some(manifest),
            None => request()
                .inspect_err(|error| {
                    log::info!("failed to fetch the manifest of {} from {from}: {error}", kept.file.name);
                })
                .ok()
                .map(Arc::new),
        };
        let sizes = |manifest: &Manifest| (manifest.layout().size(), manifest.layout().count());
        let fits = manifest.filter(|manifest| sizes(manifest) == (kept.file.size, kept.file.chunks));
        let adopted = fits.and_then(|manifest| {
            // The reporters agree on the MD5; the catalogue may have it from the first reporter alone.
            let kept = known.map_or_else(|| kept.clone(), |known| KeptFile { md5: kept.md5, ..known });
            match self.add_to_catalogue(&kept, &manifest) {
                Ok(()) => Some((kept, manifest.layout().clone())),
                Err(error) => {
                    self.fail(error);
                    None
                }
            }
        });
        if let Some((kept, _)) = &adopted {
            self.ignore(id, false);
            lock(&self.claimed_md5).insert(id);
            log::info!("added {} to the catalogue: {from} stores chunks of it", kept.file.name);
        }
        self.report(TaskOutcome::Adopted(id, adopted));
    }
}

/// Address to dial: loopback in place of the unspecified address, which stands for the tracker's
/// own host.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip().is_unspecified() {
        true => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port()),
        false => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_address_is_dialled_as_loopback() {
        assert_eq!(reachable("0.0.0.0:7".parse().unwrap()), "127.0.0.1:7".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:7".parse().unwrap()), "10.0.0.1:7".parse().unwrap());
    }
}
