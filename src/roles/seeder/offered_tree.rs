//! An offered folder, whose files the user may change or remove at any time.

use crate::content::FileName;
use crate::content::fmt::counted;
use crate::content::limits::FOLDER_SCAN_INTERVAL;
use crate::content::tree::{EntryKind, Escaped, leads_outside};
use crate::net::Shutdown;
use crate::protocol::tracker::FileSummary;
use crate::report::error::{Fault, RoleError};
use crate::report::events::{self, Event, FileEvent, FileState};
use crate::report::watch::Watch;
use crate::storage::tree::{PublishError, RefusedEntry, ScanOptions, TreeScan, TreeSource};
use crate::upload::offers::{Offer, Offers};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Entries that cannot be sent, or links, that are named in lines of their own.
const NAMED_ENTRIES_MAX: usize = 100;
/// Smallest time between two checks of the files, as a multiple of the time of the last check.
const CHECK_INTERVAL_FACTOR: u32 = 50;

/// What a seeder sends of a folder.
#[derive(Debug, Clone, Default)]
pub struct TreeOptions {
    /// Scan of the folder: owners, the log file that is left out, and the largest number of entries.
    pub scan: ScanOptions,
    /// Leaves out the entries that cannot be sent; otherwise they are an error.
    pub skips_special: bool,
    /// Does not warn of links that lead outside, which receivers refuse by default.
    pub allows_any_link: bool,
}

/// An offered folder.
pub(super) struct OfferedTree {
    name: FileName,
    offers: Offers,
    source: Arc<TreeSource>,
    checked: Instant,
    check_time: Duration,
}

impl OfferedTree {
    /// Scans and hashes a folder. It is not offered yet.
    ///
    /// # Errors
    /// The folder cannot be read, or has entries that cannot be sent; each of them has been logged. Or the shutdown.
    pub(super) fn new(
        path: &Path,
        name: FileName,
        (chunk_size, options): (Option<u32>, &TreeOptions),
        offers: &Offers,
        watch: &dyn Watch,
        shutdown: &Shutdown,
    ) -> Result<Self, RoleError> {
        let stop = || shutdown.is_stopped();
        let scan = scan(path, &name, &options.scan, watch, shutdown)?;
        for omitted in scan.omitted() {
            log::info!("{name}/{omitted} is left out: this program writes its log to it");
        }
        let bytes = scan.content_bytes();
        watch.begin(&format!("hashing {name}"), bytes, 0);
        let hashed = |bytes| watch.advance(bytes);
        let published = TreeSource::publish(scan, chunk_size, options.skips_special, &hashed, &stop);
        watch.end();
        let (source, left_out) = published.map_err(|error| explained(error, &name))?;
        name_entries(&left_out, |entry| log::warn!("{name}/{} is left out: {}", entry.path, entry.reason));
        if !options.allows_any_link {
            warn_of_links(&source, &name);
        }
        let source = Arc::new(source);
        let (offers, checked) = (offers.clone(), Instant::now());
        Ok(Self { name, offers, source, checked, check_time: Duration::ZERO })
    }

    /// Offers the folder.
    pub(super) fn offer(&mut self) {
        let file = self.summary();
        let FileSummary { id, name, size, chunks } = file.clone();
        events::emit(|| Event::File(FileEvent::new(FileState::Offered, file.clone())));
        self.offers.offer(Offer { file, source: self.source.clone() });
        let entries = counted(u64::from(self.source.content().index().count()) - 1, "entry");
        log::info!(
            "serving {name} (folder with {entries}, {size} bytes, {}) with id {id}",
            counted(chunks.into(), "chunk")
        );
    }

    /// Id, name and size of the folder.
    pub(super) fn summary(&self) -> FileSummary {
        let layout = self.source.content().layout();
        FileSummary {
            id: self.source.id(),
            name: self.name.clone(),
            size: layout.size(),
            chunks: layout.count(),
        }
    }

    /// Checks the files for changes. The chunks of a changed file leave the offer, and the log names it.
    pub(super) fn check(&mut self, shutdown: &Shutdown) {
        let interval = FOLDER_SCAN_INTERVAL.max(CHECK_INTERVAL_FACTOR * self.check_time);
        if self.checked.elapsed() < interval {
            return;
        }
        let began = Instant::now();
        self.source.check_files(&|| shutdown.is_stopped());
        self.checked = Instant::now();
        self.check_time = began.elapsed();
    }
}

fn scan(
    path: &Path,
    name: &FileName,
    options: &ScanOptions,
    watch: &dyn Watch,
    shutdown: &Shutdown,
) -> Result<TreeScan, RoleError> {
    watch.begin(&format!("scanning {name}"), 0, 0);
    let count = AtomicU64::new(0);
    let found = |entries| {
        let count = count.fetch_add(entries, Ordering::Relaxed) + entries;
        watch.note(&counted(count, "entry"));
    };
    let scan = TreeScan::new(path, options, &found, &|| shutdown.is_stopped());
    watch.end();
    Ok(scan?)
}

fn name_entries(entries: &[RefusedEntry], line: impl Fn(&RefusedEntry)) {
    entries.iter().take(NAMED_ENTRIES_MAX).for_each(line);
    if entries.len() > NAMED_ENTRIES_MAX {
        log::warn!("and {} more", counted((entries.len() - NAMED_ENTRIES_MAX) as u64, "entry"));
    }
}

/// Logs each entry that cannot be sent, and explains the error.
fn explained(error: PublishError, name: &FileName) -> RoleError {
    match error {
        PublishError::Refused(refused) => {
            name_entries(&refused, |entry| log::error!("{name}/{}: {}", entry.path, entry.reason));
            let count = counted(refused.len() as u64, "entry");
            let text =
                format!("{count} of {name} cannot be sent; leave out such entries with --skip-special");
            RoleError::new(Fault::FileAccess, text)
        }
        PublishError::Store(error) => error.into(),
    }
}

/// Warns of symbolic links that receivers refuse.
fn warn_of_links(source: &TreeSource, name: &FileName) {
    let index = source.content().index();
    let links = index.entries().filter(|entry| matches!(entry.kind, EntryKind::Link { .. }));
    let outside: Vec<_> = links.filter(|link| leads_outside(index, link)).collect();
    let Some(first) = outside.first() else { return };
    let EntryKind::Link { target } = &first.kind else { return };
    let verbs = match outside.len() - 1 {
        0 => "leads out of the folder: receivers refuse it".to_owned(),
        count => {
            format!(
                "and {} lead out of the folder: receivers refuse them",
                counted(count as u64, "other link")
            )
        }
    };
    log::warn!("{name}/{} -> {} {verbs} without --links any", first.path, Escaped(target));
}
