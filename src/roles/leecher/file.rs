//! Download of one file by a leecher.

use super::Leecher;
use super::trackers::FileTrackers;
use crate::download::finder::Finder;
use crate::download::job::{self, DownloadOrder, Downloaded, ExistingData};
use crate::download::locate::locate;
use crate::download::ticket_finder::{TicketFinder, TicketTrackers};
use crate::protocol::PeerAddress;
use crate::protocol::file_summary::FileSummary;
use crate::report::error::{Fault, RoleError};
use crate::report::events;
use crate::report::watch::FileProgress;
use crate::storage::Verify;
use crate::tracker_client::announcer::Outage;
use crate::tracker_client::selection::Wanted;
use std::sync::Arc;
use std::time::Duration;

impl Leecher<'_> {
    /// Downloads a file, if it is not complete yet, and waits up to `wait` for its first holder.
    pub(super) fn download(&mut self, wanted: &Wanted, wait: Duration) -> Result<(), RoleError> {
        let order = DownloadOrder {
            query: wanted.query.clone(),
            ticket: wanted.ticket.clone(),
            wait_timeout: wait,
            ..self.config.order.clone()
        };
        let trackers = Arc::new(FileTrackers::new(self.registrations.clone()));
        let mut finder = self.finder(wanted, wait, &trackers);
        // Only a tracker that the user has chosen can have an outage.
        let tracker = self.config.tracker.clone();
        let asked = tracker.unwrap_or_else(|| crate::content::limits::TRACKER_ADDRESS.into());
        let outage = Outage::new("tracker", asked, None);
        let located = locate(&order, &mut *finder, outage, self.shutdown)?;
        let expected = wanted.size.unwrap_or(0);
        if self.config.lists_entries {
            return self.list(&order, located, finder, &*self.watch);
        }
        let name = located.file.file.name.to_string();
        let progress = FileProgress::new(name, expected, self.watch.clone(), self.total.clone());
        let (id, path) = (located.file.file.id, located.file.path.clone());
        match self.finished.get(&path) {
            Some(finished) if *finished == id => {
                log::debug!("{} is complete already", located.file.file.name);
                progress.ended(true);
                return Ok(());
            }
            Some(finished) => {
                let text = format!(
                    "{} has just been downloaded with id {}, and is not replaced by the file with id {}",
                    path.display(),
                    finished.short(),
                    id.short()
                );
                return Err(RoleError::new(Fault::ExistsAndDiffers, text));
            }
            None => {}
        }
        let seeders = located.holders.whole.clone();
        let result = self.complete(order, located, finder, &progress);
        progress.ended(result.is_ok());
        let file = result?;
        self.finished.insert(path, id);
        (self.done)(&file);
        let FileSummary { name, size, chunks, .. } = &file.file;
        events::completed(id, name, (*size, *chunks), &file.path);
        if let Some(on_complete) = &self.on_complete {
            on_complete.completed(&file.path, file.file.name.as_str(), file.file.id);
        }
        self.report(&file, seeders, &trackers)
    }

    fn finder(&self, wanted: &Wanted, wait: Duration, trackers: &Arc<FileTrackers>) -> Box<dyn Finder> {
        let own = self.config.tracker.as_ref().map(|tracker| {
            trackers.answered(tracker, &[]);
            let finder: Box<dyn Finder> = Box::new(self.tracker_finder(tracker, wait));
            finder
        });
        let timeouts = self.config.order.timeouts;
        match (&wanted.ticket, own) {
            (None, Some(own)) => own,
            (Some(ticket), own) => {
                let (ticket, trackers) = (ticket.clone(), trackers.clone());
                let others = own.into_iter().collect();
                Box::new(TicketFinder::new(ticket, others, trackers, timeouts, self.shutdown))
            }
            // A file that is named by no ticket always has a tracker: see the flags.
            (None, None) => Box::new(crate::download::finder::CombinedFinder(Vec::new())),
        }
    }

    /// Checks existing data and downloads the missing chunks.
    fn complete(
        &mut self,
        mut order: DownloadOrder,
        located: job::Located,
        finder: Box<dyn Finder>,
        progress: &FileProgress,
    ) -> Result<Downloaded, RoleError> {
        let stay = self.config.stay;
        if stay && order.recheck.in_place != Verify::Full {
            log::debug!("an existing file is verified completely, because it will be served");
            order.recheck.in_place = Verify::Full;
        }
        let file = located.file.clone();
        match job::check_existing(&order, &file, progress, self.shutdown)? {
            ExistingData::Complete(whole) => {
                if stay {
                    self.serving.offer(&file, whole)?;
                }
                Ok(file)
            }
            ExistingData::Part(part) => {
                self.serving.offer(&file, part.clone())?;
                let serving = self.serving.context();
                let result = job::complete(&order, located, &part, finder, serving, progress, self.shutdown);
                match &result {
                    Ok(_) if stay => self.parts.push(part),
                    Ok(_) => {}
                    Err(_) => self.serving.withdraw(&file),
                }
                result
            }
        }
    }

    /// Reports a complete file in a thread of its own.
    fn report(
        &self,
        file: &Downloaded,
        seeders: Vec<PeerAddress>,
        trackers: &FileTrackers,
    ) -> Result<(), RoleError> {
        let (reporter, trackers, id) = (self.reporter.clone(), trackers.list(), file.file.id);
        let (timeouts, shutdown) = (self.config.order.timeouts, self.shutdown.clone());
        self.reports.spawn("report", move || {
            reporter.report(id, &seeders, &trackers, timeouts, &shutdown);
        })?;
        Ok(())
    }
}
