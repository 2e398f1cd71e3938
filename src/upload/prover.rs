//! Proofs that a volunteer of this program stores a chunk: demanded by its tracker over the upload server.
//!
//! Invariant: at most [`PROOFS_MAX`] chunks are hashed at the same time, regardless of the number of demands.

use crate::content::limits::{PROOF_WAIT_TIMEOUT, PROOFS_MAX};
use crate::content::{ChunkIndex, Digest, FileId};
use crate::net::Shutdown;
use crate::protocol::ErrorCode;
use crate::protocol::tokens::{KeyPrint, Nonce};
use crossbeam_channel::{Receiver, Sender, bounded};

/// A volunteer that proves its copies.
pub trait Prover: Send + Sync {
    /// Whether this is the print of the volunteer's key.
    fn has_key(&self, holder: KeyPrint) -> bool;

    /// The [proof](crate::protocol::volunteer::possession_proof) for a chunk, hashed from its bytes on disk.
    ///
    /// # Errors
    /// The volunteer does not hold the chunk, or cannot tell.
    fn prove(&self, file: FileId, index: ChunkIndex, nonce: Nonce) -> Result<Digest, NoProof>;
}

/// Reason for which a volunteer gives no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoProof {
    /// No volunteer with this key is in this program.
    OtherKey,
    /// The volunteer does not hold the chunk.
    NotHere,
    /// Too many proofs are demanded at the same time.
    Busy,
    /// The volunteer cannot tell whether it holds the chunk, for example because no more files can be opened.
    CannotTell,
}

impl NoProof {
    /// The error code of the response.
    pub fn code(self) -> ErrorCode {
        match self {
            NoProof::OtherKey => ErrorCode::Refused,
            NoProof::NotHere => ErrorCode::NotHere,
            NoProof::Busy => ErrorCode::Busy,
            NoProof::CannotTell => ErrorCode::Internal,
        }
    }

    /// The text of the response, without local paths.
    pub fn text(self) -> &'static str {
        match self {
            NoProof::OtherKey => "no volunteer with this key serves here",
            NoProof::NotHere => "the volunteer does not hold this chunk",
            NoProof::Busy => "the volunteer computes other proofs",
            NoProof::CannotTell => "the volunteer cannot read this chunk now",
        }
    }
}

/// Slots for proofs that are computed at the same time.
pub(super) struct ProofSlots {
    free: Sender<()>,
    slots: Receiver<()>,
}

/// A slot; returned when dropped.
struct ProofSlot<'a>(&'a ProofSlots);

impl Drop for ProofSlot<'_> {
    fn drop(&mut self) {
        // Never full: this slot was taken from it.
        let _ = self.0.free.try_send(());
    }
}

impl ProofSlots {
    pub(super) fn new() -> Self {
        let (free, slots) = bounded(PROOFS_MAX);
        (0..PROOFS_MAX).for_each(|_| _ = free.try_send(()));
        Self { free, slots }
    }

    /// Computes a proof once a slot is free; the key is compared before.
    pub(super) fn prove(
        &self,
        prover: Option<&dyn Prover>,
        (file, index): (FileId, ChunkIndex),
        (holder, nonce): (KeyPrint, Nonce),
        shutdown: &Shutdown,
    ) -> Result<Digest, NoProof> {
        let prover = prover.filter(|prover| prover.has_key(holder)).ok_or(NoProof::OtherKey)?;
        let _slot = self.take(shutdown).ok_or(NoProof::Busy)?;
        prover.prove(file, index, nonce)
    }

    fn take(&self, shutdown: &Shutdown) -> Option<ProofSlot<'_>> {
        crossbeam_channel::select! {
            recv(self.slots) -> slot => slot.ok().map(|()| ProofSlot(self)),
            recv(shutdown.signal()) -> _ => None,
            default(PROOF_WAIT_TIMEOUT) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tokens::VolunteerKey;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const KEY: VolunteerKey = VolunteerKey(7);
    const CHUNK: (FileId, ChunkIndex) = (FileId([1; 32]), ChunkIndex(2));

    /// Proves everything, and waits in each proof until the test lets it end.
    struct Waiting {
        entered: Sender<()>,
        may_end: Receiver<()>,
        count: AtomicUsize,
    }

    impl Prover for Waiting {
        fn has_key(&self, holder: KeyPrint) -> bool {
            holder == KEY.print()
        }
        fn prove(&self, _: FileId, _: ChunkIndex, _: Nonce) -> Result<Digest, NoProof> {
            self.count.fetch_add(1, Ordering::SeqCst);
            self.entered.send(()).unwrap();
            self.may_end.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
            Ok(Digest([3; 32]))
        }
    }

    #[test]
    fn only_the_right_key_gets_a_proof_and_concurrent_proofs_are_limited() {
        let (slots, shutdown) = (ProofSlots::new(), Shutdown::new());
        let ((entered, entries), (end, may_end)) = (bounded(9), bounded(9));
        let prover = Waiting { entered, may_end, count: AtomicUsize::new(0) };
        let prove = |key: VolunteerKey| slots.prove(Some(&prover), CHUNK, (key.print(), Nonce(1)), &shutdown);
        assert_eq!(prove(VolunteerKey(8)), Err(NoProof::OtherKey));
        let none = slots.prove(None, CHUNK, (KEY.print(), Nonce(1)), &shutdown);
        assert_eq!((none, prover.count.load(Ordering::SeqCst)), (Err(NoProof::OtherKey), 0));
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..PROOFS_MAX).map(|_| scope.spawn(|| prove(KEY))).collect();
            (0..PROOFS_MAX).for_each(|_| entries.recv().unwrap());
            assert_eq!(prove(KEY), Err(NoProof::Busy));
            (0..PROOFS_MAX).for_each(|_| end.send(()).unwrap());
            running.into_iter().for_each(|one| assert_eq!(one.join().unwrap(), Ok(Digest([3; 32]))));
        });
        end.send(()).unwrap();
        assert_eq!(prove(KEY), Ok(Digest([3; 32])), "the slots have been returned");
    }
}
