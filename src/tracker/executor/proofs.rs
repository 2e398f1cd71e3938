//! Lets the holders of a chunk prove their copies, and compares the proofs with bytes that are verified.
//!
//! The tracker verifies its own copy against the manifest first, or else downloads the chunk from one holder and verifies
//! it. Then it demands a proof from each holder, over a connection to the holder's own address and with a fresh nonce.
//! Invariants: without verified bytes no verdict but [`Verdict::CannotTell`]; a holder that cannot be asked is never
//! [`Verdict::Wrong`].

use super::Inner;
use super::workers::reachable;
use crate::content::limits::{PROOF_HOLDERS_MAX, PROOF_RETRY_INTERVAL};
use crate::content::{ChunkIndex, Digest, FileId};
use crate::download::events::{Expected as _, SourceError};
use crate::download::source::ProofResponse;
use crate::net::run_parallel;
use crate::protocol::tokens::Nonce;
use crate::protocol::volunteer::possession_proof;
use crate::storage::{ChunkSource, SharedFile, StoredChunk};
use crate::swarm::keeping::{Holder, OwnCopy, TaskOutcome, Verdict, VolunteerNumber};
use crate::sync::lock;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A demand for a proof, and the proof that is right.
struct Demand {
    holder: Holder,
    nonce: Nonce,
    right: Digest,
}

/// Time from which on a failed attempt counts as stalled. A refused connection costs nothing and is tried again at once.
const SLOW_FAILURE_MIN: Duration = Duration::from_secs(1);

/// Addresses that stalled, with the times of the last failures.
#[derive(Default)]
pub(super) struct Stalled(Mutex<HashMap<SocketAddr, Instant>>);

impl Stalled {
    fn contains(&self, address: SocketAddr) -> bool {
        lock(&self.0).get(&address).is_some_and(|when| when.elapsed() < PROOF_RETRY_INTERVAL)
    }

    fn insert(&self, address: SocketAddr) {
        let mut all = lock(&self.0);
        all.retain(|_, when| when.elapsed() < PROOF_RETRY_INTERVAL);
        all.insert(address, Instant::now());
    }
}

impl Inner {
    /// Carries out [`ExecutorTask::ProveCopies`](crate::swarm::keeping::ExecutorTask::ProveCopies).
    pub(super) fn prove_copies(
        &self,
        number: u64,
        (file, index): (FileId, ChunkIndex),
        holders: &[Holder],
    ) -> TaskOutcome {
        let (own, demands) = self.demands((file, index), holders);
        let verdicts = match demands {
            Some(demands) => self.ask_all((file, index), &demands),
            None => holders.iter().map(|holder| (holder.volunteer, Verdict::CannotTell)).collect(),
        };
        TaskOutcome::Proved { number, file, index, own, verdicts }
    }

    /// Verifies the tracker's own copy, and computes the right proof of each holder; `None` without verified bytes.
    fn demands(
        &self,
        (file, index): (FileId, ChunkIndex),
        holders: &[Holder],
    ) -> (OwnCopy, Option<Vec<Demand>>) {
        let expected = self.manifest(file).and_then(|manifest| manifest.expected(index));
        let Some(expected) = expected else { return (OwnCopy::Absent, None) };
        // The bytes are freed before the holders are asked: a stalled holder occupies no memory.
        let Some(_memory) = self.proof_memory.reserve(expected.1, &self.shutdown) else {
            return (OwnCopy::Absent, None);
        };
        let mut bytes = Vec::new();
        let own = self.read_own((file, index), expected, &mut bytes);
        let verified = match own {
            OwnCopy::Right => true,
            OwnCopy::Corrupt => false,
            OwnCopy::Absent => self.download_from_any((file, index), expected, holders, &mut bytes),
        };
        let demand = |holder: &Holder| {
            let nonce = random_nonce()?;
            let right = possession_proof(holder.key, nonce, &bytes);
            Some(Demand { holder: *holder, nonce, right })
        };
        let demands = if verified { holders.iter().map(demand).collect() } else { None };
        (own, demands)
    }

    /// Reads the tracker's own copy of a chunk and compares it with the manifest.
    fn read_own(
        &self,
        (file, index): (FileId, ChunkIndex),
        expected: (Digest, u64),
        bytes: &mut Vec<u8>,
    ) -> OwnCopy {
        let whole = self.folder.as_ref().and_then(|folder| folder.by_id(file));
        if let Some(whole) = whole.filter(|whole| !self.is_corrupt(&whole.name)) {
            match read_complete(&whole, index, expected, bytes) {
                OwnCopy::Absent => {}
                own => return own,
            }
        }
        let Some(stored) = self.store.file(file) else { return OwnCopy::Absent };
        let verified = stored.stored(index).ok().and_then(|chunk| read_verified(&chunk, expected, bytes));
        if verified == Some(false) {
            // The store removes the damaged chunk and reports it.
            stored.check(index).map_or_else(|error| log::warn!("{error}"), drop);
        }
        if verified == Some(true) { OwnCopy::Right } else { OwnCopy::Absent }
    }

    /// Downloads a chunk from the first holder that delivers the right bytes. Returns whether one did.
    fn download_from_any(
        &self,
        (file, index): (FileId, ChunkIndex),
        expected: (Digest, u64),
        holders: &[Holder],
        bytes: &mut Vec<u8>,
    ) -> bool {
        // The holders take turns, so that no one of them sends all chunks.
        let first = index.at() % holders.len().max(1);
        let mut in_turn = holders.iter().cycle().skip(first).take(holders.len());
        in_turn.any(|holder| {
            let address = reachable(holder.address);
            if self.stalled.contains(address) || self.shutdown.is_stopped() {
                return false;
            }
            let began = Instant::now();
            let received = self.proof_pool.with(address, &self.shutdown, |connection| {
                connection.chunk(file, index, expected, bytes, &self.shutdown)
            });
            received.inspect_err(|error| self.note_failure((file, index), (address, began), error)).is_ok()
        })
    }

    /// Demands all proofs, from several holders at the same time.
    fn ask_all(&self, chunk: (FileId, ChunkIndex), demands: &[Demand]) -> Vec<(VolunteerNumber, Verdict)> {
        let (next, verdicts) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let ask_next = || {
            while let Some(demand) = demands.get(next.fetch_add(1, Ordering::Relaxed)) {
                let verdict = self.ask(chunk, demand);
                lock(&verdicts).push((demand.holder.volunteer, verdict));
            }
        };
        match demands.len() {
            0 | 1 => ask_next(),
            several => run_parallel("executor-ask", several.min(PROOF_HOLDERS_MAX), ask_next),
        }
        std::mem::take(&mut *lock(&verdicts))
    }

    fn ask(&self, (file, index): (FileId, ChunkIndex), demand: &Demand) -> Verdict {
        let Demand { holder, nonce, right } = demand;
        let address = reachable(holder.address);
        if self.stalled.contains(address) || self.shutdown.is_stopped() {
            return Verdict::CannotTell;
        }
        let began = Instant::now();
        let response = self.proof_pool.with(address, &self.shutdown, |connection| {
            connection.prove((file, index), holder.key.print(), *nonce, &self.shutdown)
        });
        let (print, file_text) = (holder.key.print(), file.short());
        match response {
            Ok(ProofResponse::Proof(proof)) if proof == *right => Verdict::Right,
            Ok(ProofResponse::Proof(_)) => {
                log::warn!("volunteer {print} at {address} has wrong bytes of chunk {index} of {file_text}");
                Verdict::Wrong
            }
            Ok(ProofResponse::NotHere) => {
                log::warn!("volunteer {print} at {address} does not hold chunk {index} of {file_text}");
                Verdict::Wrong
            }
            Ok(ProofResponse::CannotTell(text)) => {
                log::debug!("no proof of chunk {index} of {file_text} by {print} at {address}: {text}");
                Verdict::CannotTell
            }
            Err(error) => {
                self.note_failure((file, index), (address, began), &error);
                Verdict::CannotTell
            }
        }
    }

    fn note_failure(
        &self,
        (file, index): (FileId, ChunkIndex),
        (address, began): (SocketAddr, Instant),
        error: &SourceError,
    ) {
        log::debug!("no proof of chunk {index} of {} from {address}: {error}", file.short());
        let stalled = matches!(error, SourceError::Connection(_)) && began.elapsed() >= SLOW_FAILURE_MIN;
        if stalled && !self.shutdown.is_stopped() {
            self.stalled.insert(address);
        }
    }
}

/// Reads a chunk of a complete file and compares it with the manifest.
fn read_complete(
    whole: &SharedFile,
    index: ChunkIndex,
    expected: (Digest, u64),
    bytes: &mut Vec<u8>,
) -> OwnCopy {
    let Ok(stored) = whole.file.stored(index) else { return OwnCopy::Absent };
    match read_verified(&stored, expected, bytes) {
        Some(true) => OwnCopy::Right,
        // Another file since: it says nothing about this one.
        Some(false) if whole.file.is_intact() => OwnCopy::Corrupt,
        _ => OwnCopy::Absent,
    }
}

/// Reads a chunk and returns whether its digest is right; `None` if it cannot be read.
pub(super) fn read_verified(
    stored: &StoredChunk,
    (digest, length): (Digest, u64),
    bytes: &mut Vec<u8>,
) -> Option<bool> {
    if stored.length != length {
        return None;
    }
    bytes.resize(length as usize, 0);
    stored.file.read_exact_at(bytes, stored.offset).ok()?;
    Some(Digest::of(bytes) == digest)
}

fn random_nonce() -> Option<Nonce> {
    let mut number = [0; 16];
    getrandom::fill(&mut number).inspect_err(|error| log::warn!("no random number: {error}")).ok()?;
    Some(Nonce(u128::from_be_bytes(number)))
}
