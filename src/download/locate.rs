//! First steps of a download: find the file, choose one, download its manifest.
//!
//! Until the tracker or manager and a first holder have answered, the steps are repeated for the wait timeout, so that the
//! order in which programs start does not matter. The cause of the wait is announced once.

use crate::content::fmt::counted;
use crate::content::{FileId, FileName, similar_names};
use crate::download::driver::KnownHolders;
use crate::download::finder::{Finder, interrupted};
use crate::download::job::{DownloadOrder, Downloaded, Located, target};
use crate::download::manifest_search::{ManifestSearch, NoManifest, SILENCE_TIMEOUT};
use crate::net::{Shutdown, running_time};
use crate::protocol::PeerAddress;
use crate::protocol::tracker::{FileSummary, FoundFile};
use crate::report::error::{Fault, RoleError};
use crate::report::events::{self, Event, FileEvent, FileState};
use crate::tracker_client::announcer::Outage;
use crate::tracker_client::lookup::Query;
use crate::tracker_client::ticket::Ticket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Number of digits of the ids in a list of matches.
const ID_DIGITS: usize = 12;
/// Lookup interval while no holder is known.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(500);

/// Looks up the requested file and downloads its manifest. Waits for the tracker or manager and for a first holder.
///
/// # Errors
/// Not found, ambiguous, no answer within the wait timeout, or the shutdown.
pub fn locate(
    order: &DownloadOrder,
    finder: &mut dyn Finder,
    outage: Outage,
    shutdown: &Shutdown,
) -> Result<Located, RoleError> {
    let outage = outage.with_wait(order.wait_timeout, &waiting(order));
    let (described, announced, replaced) = (None, None, false);
    Search { order, finder, outage, shutdown, waited: Duration::ZERO, described, announced, replaced }.run()
}

/// The search for a file and its first holder.
struct Search<'a> {
    order: &'a DownloadOrder,
    finder: &'a mut dyn Finder,
    outage: Outage,
    shutdown: &'a Shutdown,
    waited: Duration,
    /// The file that has been described in the log.
    described: Option<FileId>,
    /// The announced cause of the wait.
    announced: Option<Missing>,
    /// The seeder of the ticket has replaced the file; one more search looks for other holders.
    replaced: bool,
}

/// Reason for which a search is repeated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    File,
    Holder,
}

impl Search<'_> {
    fn run(mut self) -> Result<Located, RoleError> {
        loop {
            let started = running_time();
            let pause = match self.finder.find(&self.order.query, self.shutdown) {
                Ok(files) => match self.try_files(files)? {
                    Ok(located) => return Ok(located),
                    Err(missing) => self.wait_for(missing)?,
                },
                Err(_) if self.shutdown.is_stopped() => Duration::ZERO,
                Err(error) => self.outage.failed(started, error)?,
            };
            if self.shutdown.wait(pause) {
                return Err(interrupted());
            }
            self.waited += running_time().saturating_sub(started);
        }
    }

    /// Downloads the manifest of the only match.
    fn try_files(
        &mut self,
        files: Vec<FoundFile>,
    ) -> Result<Result<Located, (Missing, RoleError)>, RoleError> {
        let order = self.order;
        let found = match choose(files, order)? {
            Ok(found) => found,
            Err(not_found) => return Ok(Err((Missing::File, not_found))),
        };
        let path = target(order, &found.file)?;
        let FileSummary { id, name, size, chunks } = &found.file;
        if self.described.replace(*id) != Some(*id) {
            events::emit(|| Event::File(FileEvent::of_found(FileState::Found, &found)));
            let holders = counted(found.holders.into(), "holder");
            match &order.ticket {
                Some(_) => log::info!("{name} has {size} bytes, {holders}, id {id}"),
                None => {
                    let chunks = counted((*chunks).into(), "chunk");
                    log::info!("{name} has {size} bytes in {chunks}, {holders}, id {id}");
                }
            }
        }
        let holders = KnownHolders { whole: found.whole.clone(), partial: found.partial.clone() };
        let is_silent = AtomicBool::new(false);
        let warn = || {
            if let Some(ticket) = &order.ticket {
                is_silent.store(true, Ordering::Relaxed);
                let seconds = SILENCE_TIMEOUT.as_secs();
                log::warn!("{}; still trying", silent(ticket, &format!(" for {seconds} s")));
            }
        };
        let is_seeder = |holder: &PeerAddress| {
            let peers = order.ticket.as_ref().map(|ticket| &ticket.peers);
            peers.is_some_and(|peers| holder.all().any(|address| peers.contains(&address)))
        };
        let search = ManifestSearch {
            id: *id,
            is_seeder: &is_seeder,
            warn: &warn,
            lookup_time: order.wait_timeout,
            timeouts: order.timeouts,
        };
        let ((manifest, mode), holders) = match search.run(holders, self.finder, self.shutdown) {
            Ok(found) => found,
            Err(failure) => {
                if is_silent.into_inner() {
                    self.announced = Some(Missing::Holder);
                }
                return self.without_manifest(&found, failure);
            }
        };
        let layout = manifest.layout();
        if order.ticket.is_some() && layout.size() != *size {
            let text = format!(
                "the ticket states {size} bytes for {name}, but the file with its id has {}: the ticket was changed",
                layout.size()
            );
            return Err(RoleError::new(Fault::Usage, text));
        }
        let file = FileSummary { size: layout.size(), chunks: layout.count(), ..found.file };
        let file = Downloaded { file, path, manifest: Arc::new(manifest), mode, md5: found.md5 };
        Ok(Ok(Located { file, holders }))
    }

    /// The result of a search in which no holder sent the manifest.
    fn without_manifest(
        &mut self,
        found: &FoundFile,
        failure: NoManifest,
    ) -> Result<Result<Located, (Missing, RoleError)>, RoleError> {
        let FileSummary { id, name, .. } = &found.file;
        let NoManifest { cause, replaced, asked } = failure;
        let text = match (&self.order.ticket, replaced) {
            (Some(_), Some(text)) => {
                if std::mem::replace(&mut self.replaced, true) {
                    return Err(RoleError::new(Fault::Unreachable, replaced_text(name, &text)));
                }
                // The first search does not wait for all trackers.
                let files = self.finder.find(&self.order.query, self.shutdown).unwrap_or_default();
                return self.try_files(files);
            }
            (Some(ticket), None) => format!("{}{cause}", silent(ticket, "")),
            (None, _) if asked == 0 => {
                let peers = counted(found.holders.into(), "peer");
                format!("{name} ({id}) is offered by {peers}, at no address that this host can reach")
            }
            (None, _) => {
                format!("no manifest of {name} ({id}) from {}{cause}", counted(asked as u64, "holder"))
            }
        };
        Ok(Err((Missing::Holder, RoleError::new(Fault::NotFound, text))))
    }

    /// Announces a wait once and returns the pause before the next lookup.
    fn wait_for(&mut self, (missing, error): (Missing, RoleError)) -> Result<Duration, RoleError> {
        let order = self.order;
        let remaining = order.wait_timeout.saturating_sub(self.waited);
        let is_here = missing == Missing::File && order.is_here;
        let is_announced = self.announced.replace(missing) == Some(missing);
        let similar = if is_announced || is_here { String::new() } else { self.similar_names(missing) };
        if remaining.is_zero() || is_here {
            return Err(match missing {
                _ if self.shutdown.is_stopped() => interrupted(),
                Missing::File => {
                    error.with_advice(&format!("{similar}list the offered files with: {}", order.advice.list))
                }
                Missing::Holder => error,
            });
        }
        if !is_announced {
            log::warn!("{error}; {similar}{}", waiting(order));
        }
        Ok(LOOKUP_INTERVAL.min(remaining))
    }

    /// Names of offered files that resemble the requested one, as a part of a message.
    fn similar_names(&mut self, missing: Missing) -> String {
        let Some(name) = self.order.query.name.as_ref().filter(|_| missing == Missing::File) else {
            return String::new();
        };
        let offered = self.finder.find(&Query::default(), self.shutdown).unwrap_or_default();
        let offered = offered.iter().map(|found| found.file.name.as_str());
        match similar_names::similar(name.as_str(), offered) {
            similar if similar.is_empty() => String::new(),
            similar => format!("similar: {}; ", similar.join(", ")),
        }
    }
}

/// Describes the wait and how to end it.
fn waiting(order: &DownloadOrder) -> String {
    format!("waiting {} s for it (--wait 0 ends at once)", crate::content::fmt::seconds(order.wait_timeout))
}

/// Names the addresses of a ticket from which no holder has sent the manifest.
fn silent(ticket: &Ticket, time: &str) -> String {
    let peers = ticket.peers.iter().map(ToString::to_string);
    let addresses: Vec<String> = peers.chain(ticket.trackers.iter().map(ToString::to_string)).collect();
    let addresses = match addresses.is_empty() {
        true => "the ticket names no address".to_owned(),
        false => format!("asked at {}", addresses.join(", ")),
    };
    format!("no peer has sent the manifest of {}{time}, {addresses}", ticket.name)
}

/// The text for a ticket whose file was replaced. The new id is in the text of the seeder.
fn replaced_text(name: &FileName, text: &str) -> String {
    let is_other = |c: char| !c.is_ascii_hexdigit();
    let id = text.rsplit(is_other).find_map(|word| word.parse::<FileId>().ok());
    let id = id.map(|id| {
        let digits: String = id.to_string().chars().take(ID_DIGITS).collect();
        format!(" (new id {digits}...)")
    });
    format!(
        "{name} was replaced by its seeder: this ticket is old; ask for the new one{}",
        id.unwrap_or_default()
    )
}

/// Chooses the only match; the inner error if there is none.
fn choose(
    mut files: Vec<FoundFile>,
    order: &DownloadOrder,
) -> Result<Result<FoundFile, RoleError>, RoleError> {
    let wanted = match &order.query {
        Query { id: Some(id), .. } => id.to_string(),
        Query { prefix: Some(prefix), .. } => prefix.to_string(),
        Query { name: Some(name), .. } => name.to_string(),
        Query { name: None, .. } => "nothing".into(),
    };
    match files.len() {
        0 => {
            let text = format!("{wanted} not found: no peer offers it");
            Ok(Err(RoleError::new(Fault::NotFound, text)))
        }
        1 => Ok(Ok(files.remove(0))),
        count
            if order.query.prefix.is_some()
                || files.iter().all(|one| order.query.is_found_by_id(&one.file)) =>
        {
            let mut text = format!("{count} files have an id that begins with {wanted}; enter more digits:");
            for FoundFile { file, .. } in &files {
                let id: String = file.id.to_string().chars().take(ID_DIGITS).collect();
                text += &format!("\n  {id}  {}  {} bytes", file.name, file.size);
            }
            Err(RoleError::new(Fault::Usage, text))
        }
        count => {
            let choose = order.advice.choose;
            let mut text = format!("{count} different files are called {wanted}; choose one with {choose}:");
            for found in &files {
                text += &format!("\n  {choose} {}  {} bytes, held by", found.file.id, found.file.size);
                for holder in found.whole.iter().chain(&found.partial) {
                    text += &format!(" {holder}");
                }
            }
            text += &same_size_text(&files);
            Err(RoleError::new(Fault::Usage, text))
        }
    }
}

/// Tells which of several files of one name may differ only in their chunking: those of the same size.
fn same_size_text(files: &[FoundFile]) -> String {
    let is_rechunked = |one: &FoundFile| {
        let differs =
            |other: &FoundFile| other.file.size == one.file.size && other.file.chunks != one.file.chunks;
        files.iter().any(differs)
    };
    let rechunked = files.iter().filter(|found| is_rechunked(found)).count();
    match rechunked {
        0 => String::new(),
        count => {
            let which = if count == files.len() { "they".to_owned() } else { format!("{count} of them") };
            format!(
                "\n{which} have the same size and another --chunk-size: if the content is the same, only the chunking \
                 differs, and each of them can be chosen"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::destination::DestinationKind;
    use crate::download::job::{Advice, Recheck};
    use crate::net::Timeouts;

    fn found(id: u8, name: &str) -> FoundFile {
        let mut bytes = [7; 32];
        bytes[31] = id;
        let name = FileName::new(name).unwrap();
        let file = FileSummary { id: FileId(bytes), name, size: 9, chunks: 1 };
        FoundFile { file, holders: 0, complete: 0, whole: Vec::new(), partial: Vec::new(), md5: None }
    }

    #[test]
    fn several_files_whose_ids_begin_with_the_given_digits_are_listed() {
        let order = |query| DownloadOrder {
            query,
            ticket: None,
            local_name: None,
            out: None,
            kind: DestinationKind::File,
            overwrite: false,
            recheck: Recheck::new(None),
            tree: crate::storage::TreeReceiveOptions::default(),
            durable: false,
            timeout: None,
            limit: None,
            timeouts: Timeouts::default(),
            wait_timeout: Duration::ZERO,
            is_here: false,
            advice: Advice { choose: "--id", target_exists: "", list: "".into() },
        };
        let prefix = Query::of_id(&"07070707".parse().unwrap());
        let name = Query { name: FileName::new("07070707").ok(), ..Query::default() };
        for query in [prefix, name] {
            let error = choose(vec![found(1, "a"), found(2, "b")], &order(query)).unwrap_err();
            assert_eq!(error.fault, Fault::Usage);
            assert_eq!(
                error.text,
                "2 files have an id that begins with 07070707; enter more digits:\n  070707070707  a  9 bytes\n  \
                 070707070707  b  9 bytes"
            );
        }
    }

    #[test]
    fn files_of_one_name_and_size_that_differ_in_their_chunks_are_named_as_such() {
        let sized = |id, size, chunks| {
            let mut found = found(id, "f");
            (found.file.size, found.file.chunks) = (size, chunks);
            found
        };
        assert_eq!(same_size_text(&[sized(1, 9, 1), sized(2, 8, 1)]), "");
        assert_eq!(same_size_text(&[sized(1, 9, 1), sized(2, 9, 1)]), "", "the same chunking");
        let two = same_size_text(&[sized(1, 9, 1), sized(2, 9, 2)]);
        assert!(
            two.starts_with("\nthey have the same size") && two.contains("only the chunking differs"),
            "{two}"
        );
        let three = same_size_text(&[sized(1, 9, 1), sized(2, 9, 2), sized(3, 8, 1)]);
        assert!(three.starts_with("\n2 of them have the same size"), "{three}");
    }

    #[test]
    fn the_new_id_of_a_replaced_file_is_taken_from_the_text_of_its_seeder() {
        let name = FileName::new("a.bin").unwrap();
        let id = FileId([0xab; 32]);
        for (text, end) in [
            (format!("a.bin was replaced; its new id is {id}"), "new one (new id abababababab...)"),
            ("\u{1b}[2J".to_owned(), "new one"),
        ] {
            let text = replaced_text(&name, &text);
            assert!(text.starts_with("a.bin was replaced by its seeder: ") && text.ends_with(end), "{text}");
        }
    }
}
