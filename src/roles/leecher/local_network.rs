//! Files of the local network: what a leecher without a chosen tracker looks for when the tracker on its host does not
//! offer a file.
//!
//! The result is a ticket: the id of the file that the user has confirmed pins the content. Invariant: a file that was
//! found by its name alone is downloaded only after a confirmation, because any host can offer a file of that name.

use super::LeecherConfig;
use crate::content::FileId;
use crate::content::fmt::counted;
use crate::content::limits::TICKET_PEERS_MAX;
use crate::content::limits::TRACKER_ADDRESS;
use crate::discovery::hub::{Hub, hubs, suggestion};
use crate::discovery::search::{Found, search};
use crate::download::finder::{Finder as _, TrackerFinder, interrupted};
use crate::net::{Endpoint, Shutdown, UdpClient, running_time};
use crate::protocol::discovery::{Service, Wanted, id_digest, name_digest};
use crate::protocol::file_summary::FileSummary;
use crate::protocol::tokens::Nonce;
use crate::report::error::{Fault, RoleError};
use crate::tracker_client::lookup::Query;
use crate::tracker_client::selection::Item;
use crate::tracker_client::ticket::Ticket;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Time for the answer of the tracker on this host.
const TRACKER_TIMEOUT: Duration = Duration::from_millis(300);
/// Pause between two searches.
const PAUSE: Duration = Duration::from_secs(1);
/// Largest number of files that are listed in an error text.
const LISTED_MAX: usize = 10;

/// Asks for a confirmation of a statement. An error says that there is none.
pub type Confirm = fn(&str, &Shutdown) -> Result<(), RoleError>;

/// How files of the local network are chosen.
#[derive(Debug, Clone)]
pub struct LocalNetwork {
    /// Only files that this host offers, by its name or IP address. It counts as a confirmation.
    pub from: Option<String>,
    /// Confirms a file that was found by its name.
    pub confirm: Confirm,
}

/// A file and the hosts that offer it.
struct Candidate {
    file: FileSummary,
    addresses: BTreeSet<SocketAddr>,
}

/// Replaces each file that is named, and that the tracker on this host does not offer, by the ticket of a file in the
/// local network. Waits for such a file as long as the leecher waits for a first holder, and shortens that time. Without
/// a network interface that supports multicast, nothing is changed.
///
/// # Errors
/// Several files have the name, a file is not confirmed, or the shutdown.
pub(super) fn resolve(config: &mut LeecherConfig, shutdown: &Shutdown) -> Result<(), RoleError> {
    let Some(network) = config.local_network.clone() else { return Ok(()) };
    let (started, wait) = (running_time(), config.order.wait_timeout);
    let mut search = Search { network, config, shutdown, is_announced: false, suggested: BTreeSet::new() };
    let mut items = search.config.items.clone();
    for item in &mut items {
        if let Item::File(query) = item
            && let Some(ticket) = search.find(query, started)?
        {
            *item = Item::Ticket(Arc::new(ticket));
        }
    }
    let has_waited = search.is_announced;
    config.items = items;
    if has_waited {
        config.order.wait_timeout = wait.saturating_sub(running_time().saturating_sub(started));
    }
    Ok(())
}

struct Search<'a> {
    network: LocalNetwork,
    config: &'a LeecherConfig,
    shutdown: &'a Shutdown,
    /// A log line has announced the wait.
    is_announced: bool,
    /// Trackers that a log line has named.
    suggested: BTreeSet<SocketAddr>,
}

impl Search<'_> {
    /// A file that matches, unless the tracker on this host offers one.
    fn find(&mut self, query: &Query, started: Duration) -> Result<Option<Ticket>, RoleError> {
        let wait = self.config.order.wait_timeout;
        loop {
            let has_tracker = match self.ask_tracker(query) {
                Some(true) => return Ok(None),
                answer => answer.is_some(),
            };
            let found = match search(|tx| subject(query, tx), self.shutdown) {
                Ok(found) => found,
                Err(error) => {
                    log::debug!("no search in the local network: {error}");
                    return Ok(None);
                }
            };
            if self.shutdown.is_stopped() {
                return Err(interrupted());
            }
            if let Some(candidate) = self.choose(query, found)? {
                return self.confirmed(query, candidate).map(Some);
            }
            let waited = running_time().saturating_sub(started);
            if waited >= wait {
                return Ok(None);
            }
            self.announce(query, wait.saturating_sub(waited));
            if !has_tracker {
                self.suggest_trackers();
            }
            if self.shutdown.wait(PAUSE.min(wait.saturating_sub(waited))) {
                return Err(interrupted());
            }
        }
    }

    /// Whether the tracker on this host offers a file; `None` if there is no tracker.
    fn ask_tracker(&self, query: &Query) -> Option<bool> {
        let tracker = Endpoint::from(TRACKER_ADDRESS);
        let client = UdpClient::new(tracker, self.shutdown).with_timeout(Some(TRACKER_TIMEOUT));
        let mut finder = TrackerFinder::new(client, self.config.order.timeouts, || None);
        match finder.find(query, self.shutdown) {
            Ok(found) => Some(!found.is_empty()),
            Err(error) => {
                log::debug!("no tracker on this host: {error}");
                None
            }
        }
    }

    /// The only file of the answers that matches.
    fn choose(&self, query: &Query, found: Vec<Found>) -> Result<Option<Candidate>, RoleError> {
        let hosts = match &self.network.from {
            None => None,
            Some(host) => Some(host_addresses(host, self.shutdown)?),
        };
        let mut candidates = candidates(query, found, hosts.as_deref());
        match candidates.len() {
            0 | 1 => Ok(candidates.pop()),
            _ => Err(ambiguous(query, &candidates)),
        }
    }

    /// Shows the file and lets the user confirm it, unless the arguments pin its content or its host.
    fn confirmed(&self, query: &Query, candidate: Candidate) -> Result<Ticket, RoleError> {
        let Candidate { file, addresses } = candidate;
        let hosts: BTreeSet<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        let hosts: Vec<String> = hosts.iter().map(IpAddr::to_string).collect();
        let size = counted(file.size, "byte");
        let statement = format!("{} on {} has {size} and id {}", file.name, hosts.join(" and "), file.id);
        let is_pinned = query.id.is_some() || query.prefix.is_some() || self.network.from.is_some();
        log::info!("found in the local network: {statement}");
        if !is_pinned {
            (self.network.confirm)(&statement, self.shutdown)?;
        }
        let peers = addresses.into_iter().take(TICKET_PEERS_MAX).collect();
        Ok(Ticket { id: file.id, name: file.name, size: file.size, trackers: Vec::new(), peers })
    }

    /// Announces the wait, once.
    fn announce(&mut self, query: &Query, left: Duration) {
        if !std::mem::replace(&mut self.is_announced, true) {
            log::warn!(
                "{} is offered neither by a tracker on this host nor in the local network; waiting {} s for it \
                 (--wait 0 ends at once)",
                Item::File(query.clone()),
                left.as_secs()
            );
        }
    }

    /// Names the trackers of the local network, each once: none is used without the user's word.
    fn suggest_trackers(&mut self) {
        for tracker in hubs(Hub::Tracker, self.shutdown) {
            if self.suggested.insert(tracker) {
                log::info!("{}", suggestion(tracker));
            }
        }
    }
}

/// The subject of the question for a query. First digits of an id are compared here, not by the hosts.
fn subject(query: &Query, tx: Nonce) -> Wanted {
    match (&query.id, query.id_prefix(), &query.name) {
        (Some(id), ..) => Wanted::Id { digest: id_digest(tx, *id) },
        (None, None, Some(name)) => Wanted::Name { digest: name_digest(tx, name) },
        _ => Wanted::Files,
    }
}

/// The IP addresses of a host.
fn host_addresses(host: &str, shutdown: &Shutdown) -> Result<Vec<IpAddr>, RoleError> {
    let resolved = Endpoint::new(host, 1).resolve(shutdown);
    let addresses =
        resolved.map_err(|error| RoleError::new(Fault::Usage, format!("--from {host}: {error}")))?;
    Ok(addresses.iter().map(SocketAddr::ip).collect())
}

/// The files of the answers that match, by id. `hosts`: only these.
fn candidates(query: &Query, found: Vec<Found>, hosts: Option<&[IpAddr]>) -> Vec<Candidate> {
    let mut by_id: BTreeMap<FileId, Candidate> = BTreeMap::new();
    // A link-local address is the last choice: it has no meaning for other peers of the swarm.
    let others = found.iter().filter(|found| !is_link_local(found.address.ip()));
    let with_others: HashSet<Nonce> = others.map(|found| found.program).collect();
    for Found { address, program, service } in found {
        let Service::Files { files, .. } = service else { continue };
        let is_wanted = match hosts {
            Some(hosts) => hosts.contains(&address.ip()),
            None => !is_link_local(address.ip()) || !with_others.contains(&program),
        };
        if !is_wanted {
            continue;
        }
        for file in files.into_iter().filter(|file| query.is_answered_by(file)) {
            let candidate =
                by_id.entry(file.id).or_insert_with(|| Candidate { file, addresses: BTreeSet::new() });
            candidate.addresses.insert(address);
        }
    }
    let is_named = by_id.values().any(|candidate| !query.is_found_by_id(&candidate.file));
    by_id.into_values().filter(|candidate| !is_named || !query.is_found_by_id(&candidate.file)).collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn ambiguous(query: &Query, candidates: &[Candidate]) -> RoleError {
    let mut text = format!(
        "{} different files in the local network match {}; choose one with --id:",
        candidates.len(),
        Item::File(query.clone())
    );
    for Candidate { file, addresses } in candidates.iter().take(LISTED_MAX) {
        let hosts: BTreeSet<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        let hosts: Vec<String> = hosts.into_iter().collect();
        text += &format!(
            "\n  {} {} {} on {}",
            file.id.short(),
            file.name,
            counted(file.size, "byte"),
            hosts.join(" and ")
        );
    }
    RoleError::new(Fault::Usage, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::FileName;

    fn found(host: u8, name: &str, number: u8) -> Found {
        let name = FileName::new(name).unwrap();
        let file = FileSummary { id: FileId([number; 32]), name, size: 9, chunks: 1 };
        Found {
            address: SocketAddr::from(([10, 0, 0, host], 7000)),
            program: Nonce(host.into()),
            service: Service::Files { port: 7000, files: vec![file], truncated: false },
        }
    }

    fn named(name: &str) -> Query {
        Query::of_name(FileName::new(name).unwrap())
    }

    #[test]
    fn hosts_of_one_file_are_one_candidate_and_different_files_are_listed() {
        let answers = || vec![found(1, "a.bin", 7), found(2, "a.bin", 7), found(3, "a.bin", 8)];
        let all = candidates(&named("a.bin"), answers(), None);
        assert_eq!(all.iter().map(|one| one.addresses.len()).collect::<Vec<_>>(), [2, 1]);
        let text = ambiguous(&named("a.bin"), &all).text;
        assert!(text.contains("07070707 a.bin 9 bytes on 10.0.0.1 and 10.0.0.2"), "{text}");
        let from = candidates(&named("a.bin"), answers(), Some(&[[10, 0, 0, 3].into()]));
        assert_eq!(from.iter().map(|one| one.file.id).collect::<Vec<_>>(), [FileId([8; 32])]);
        assert!(candidates(&named("b.bin"), answers(), None).is_empty());
        let at = |found: Found, address: &str| Found { address: address.parse().unwrap(), ..found };
        let twice = || vec![at(found(1, "a.bin", 7), "[fe80::1%2]:7000"), found(1, "a.bin", 7)];
        let addresses = |found| candidates(&named("a.bin"), found, None).pop().unwrap().addresses;
        assert_eq!(addresses(twice()), BTreeSet::from(["10.0.0.1:7000".parse().unwrap()]));
        assert_eq!(addresses(twice()[..1].to_vec()), BTreeSet::from(["[fe80::1%2]:7000".parse().unwrap()]));
    }

    #[test]
    fn digits_of_an_id_are_compared_here_and_a_name_takes_precedence() {
        let query = named("07070707");
        assert_eq!(subject(&query, Nonce(1)), Wanted::Files);
        let both = candidates(&query, vec![found(1, "a.bin", 7), found(2, "07070707", 8)], None);
        assert_eq!(both.iter().map(|one| one.file.id).collect::<Vec<_>>(), [FileId([8; 32])]);
        let by_id = candidates(&query, vec![found(1, "a.bin", 7)], None);
        assert_eq!(by_id.len(), 1);
    }
}
