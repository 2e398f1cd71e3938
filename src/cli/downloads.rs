//! Downloads of several files at the same time, each once: of `--get` and of a prompt that reads a pipe or file.

use super::BarWatch;
use crate::content::{FileId, FileName};
use crate::net::Shutdown;
use crate::report::events;
use crate::report::watch::TotalProgress;
use crate::report::{Fault, RoleError};
use crate::roles::folder_client::{DownloadRequest, Member, Transfer};
use crate::tracker_client::selection::{Item, Wanted, without_repetitions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The files to download.
pub(super) struct Order {
    /// Names, ids, tickets and patterns.
    pub items: Vec<Item>,
    /// Path of the only file; `None` for the folder.
    pub out: Option<PathBuf>,
    /// Maximum time to wait for a peer that offers a file.
    pub wait: Duration,
}

/// Downloads the files and waits for the end of all downloads.
///
/// # Errors
/// A download failed. Its cause is in the log.
pub(super) fn run(
    member: &Member,
    order: Order,
    watch: &Arc<BarWatch>,
    leaving: &Shutdown,
) -> Result<(), RoleError> {
    let mut downloads = Downloads {
        member,
        wait_timeout: order.wait,
        out: order.out,
        total: TotalProgress::new(watch.clone()),
        transfers: Vec::new(),
        started: Vec::new(),
        failures: Vec::new(),
    };
    // A pattern may wait for its first match: the others have started before.
    let items = without_repetitions(order.items);
    let (lists, single): (Vec<Item>, Vec<Item>) = items.into_iter().partition(Item::may_name_several);
    single.iter().filter_map(Item::only).for_each(|wanted| downloads.start(wanted, leaving));
    for item in &lists {
        match member.select(item, order.wait, leaving) {
            Ok(wanted) => wanted.into_iter().for_each(|wanted| downloads.start(wanted, leaving)),
            Err(error) => downloads.failed(&error),
        }
    }
    let Downloads { transfers, mut failures, total, .. } = downloads;
    let count = transfers.len() + failures.len();
    for transfer in transfers {
        match transfer.wait() {
            Ok(()) => {
                let text = format!("Successfully downloaded {}\n", transfer.status().wanted);
                watch.console().print_answer(&text);
            }
            Err(error) => failures.push(error.fault),
        }
    }
    total.end();
    match failures.last() {
        // The cause of each failure was logged when it happened.
        Some(fault) if count == 1 => Err(RoleError::new(*fault, "")),
        Some(fault) => {
            let text = format!("{} of {count} downloads failed", failures.len());
            Err(RoleError::new(*fault, text))
        }
        None => Ok(()),
    }
}

/// Downloads in progress.
struct Downloads<'a> {
    member: &'a Member,
    wait_timeout: Duration,
    out: Option<PathBuf>,
    total: TotalProgress,
    transfers: Vec<Arc<Transfer>>,
    /// Names and ids of the downloads, as far as they were given.
    started: Vec<(Option<FileName>, Option<FileId>)>,
    failures: Vec<Fault>,
}

impl Downloads<'_> {
    /// Starts a download, unless the file is already among them.
    fn start(&mut self, wanted: Wanted, leaving: &Shutdown) {
        let Wanted { query, ticket, size } = wanted;
        let name = ticket.as_ref().map(|ticket| &ticket.name).or(query.name.as_ref());
        // A file is downloaded once under each of its names.
        let is_same = |other: &(Option<FileName>, Option<FileId>)| match (name, &other.0) {
            (Some(name), Some(other)) => name == other,
            _ => query.id.is_some() && query.id == other.1,
        };
        if self.started.iter().any(is_same) {
            return;
        }
        self.started.push((name.cloned(), query.id));
        let size = size.unwrap_or(0);
        self.total.add_files(1);
        self.total.add_bytes(size);
        let (total, wait_timeout) = (Some((self.total.clone(), size)), self.wait_timeout);
        let out = self.out.clone();
        let request =
            DownloadRequest { query, ticket, total, out, wait_timeout, ..DownloadRequest::default() };
        match self.member.get(request) {
            Ok(transfer) => {
                let running = transfer.clone();
                leaving.on_trigger(move || running.cancel());
                self.transfers.push(transfer);
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &RoleError) {
        error.text.lines().for_each(|line| log::error!("{line}"));
        events::failed(error);
        self.failures.push(error.fault);
    }
}
