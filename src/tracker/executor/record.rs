//! Writes the state machine's records to the catalogue.
//!
//! Queued records share one transaction. Invariants: records are written in order; a record is acknowledged only after
//! its changes are durable; after the first failure no record is acknowledged, and the tracker ends.

use super::Inner;
use crate::content::limits::TRANSACTION_RECORDS_MAX;
use crate::swarm::keeping::{Change, TaskOutcome};
use crossbeam_channel::Receiver;
use std::sync::Arc;

/// The number of a record, and the changes that must be durable before it is acknowledged.
pub(super) type Record = (u64, Vec<Change>);

/// Loop of the recording thread. Records that are queued at the shutdown are still written.
pub(super) fn run(inner: &Arc<Inner>, records: &Receiver<Record>) {
    loop {
        let first = crossbeam_channel::select! {
            recv(records) -> record => record.ok(),
            recv(inner.shutdown.signal()) -> _ => records.try_recv().ok(),
        };
        let Some(first) = first else { return };
        let more = records.try_iter().take(TRANSACTION_RECORDS_MAX - 1);
        let (numbers, changes): (Vec<_>, Vec<_>) = std::iter::once(first).chain(more).unzip();
        let changes: Vec<_> = changes.into_iter().flatten().collect();
        if let Err(error) = inner.catalogue.commit(&changes) {
            inner.fail(error);
            return;
        }
        numbers.into_iter().for_each(|number| inner.report(TaskOutcome::Recorded(number)));
    }
}
