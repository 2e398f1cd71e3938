//! Writes into the catalogue what the state machine wants remembered.
//!
//! What waits goes into one transaction. Invariants: the order is kept; a ticket is acknowledged only after it is
//! durable; after the first failure nothing is acknowledged any more, and the tracker ends.

use super::Inner;
use crate::content::limits::TRANSACTION_RECORDS_MAX;
use crate::swarm::keeping::{Change, TaskOutcome};
use crossbeam_channel::Receiver;
use std::sync::Arc;

/// A ticket, and what is to be durable when it is acknowledged.
pub(super) type Record = (u64, Vec<Change>);

/// The recording thread's life. What waits at the shutdown is still written.
pub(super) fn run(inner: &Arc<Inner>, records: &Receiver<Record>) {
    loop {
        let first = crossbeam_channel::select! {
            recv(records) -> record => record.ok(),
            recv(inner.shutdown.signal()) -> _ => records.try_recv().ok(),
        };
        let Some(first) = first else { return };
        let more = records.try_iter().take(TRANSACTION_RECORDS_MAX - 1);
        let (tickets, changes): (Vec<_>, Vec<_>) = std::iter::once(first).chain(more).unzip();
        let changes: Vec<_> = changes.into_iter().flatten().collect();
        if let Err(error) = inner.catalogue.commit(&changes) {
            inner.fail(error);
            return;
        }
        tickets.into_iter().for_each(|ticket| inner.tell(TaskOutcome::Recorded(ticket)));
    }
}
