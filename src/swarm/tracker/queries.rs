//! Requests that only read the tracker's state: lookup, list, status, manifest.

use super::Tracker;
use crate::content::{FileId, FileName, limits};
use crate::protocol::ErrorCode;
use crate::protocol::status::{DaemonKind, Status};
use crate::protocol::tracker::{FoundFile, PeerSummary, TrackerResponse};
use crate::swarm::Moment;
use crate::swarm::agreement::Sealed;
use crate::swarm::command::PeerEntry;
use crate::swarm::listing::Listing;
use crate::swarm::machine::{Effect, Origin};
use crate::swarm::membership::{error, source};
use crate::swarm::registry::PeerId;
use std::net::Ipv4Addr;
use std::sync::Arc;

impl Tracker {
    /// The files with a name or an id, and their holders.
    pub(super) fn lookup(
        &mut self,
        now: Moment,
        origin: Origin,
        name: Option<&FileName>,
        id: Option<FileId>,
        limit: u32,
        except: Option<PeerId>,
    ) -> TrackerResponse {
        let limit = (limit as usize).min(limits::HOLDERS_MAX);
        let (mut files, more) = {
            let registry = &self.peers.registry;
            registry.lookup(now, name, id, except, limit, source(origin), &mut self.random)
        };
        self.complete_lookup(name, &mut files);
        let named = |found: &FoundFile| found.whole.len() + found.partial.len();
        let truncated = more || files.iter().any(|found| named(found) < limit.min(found.holders as usize));
        TrackerResponse::Found { files, truncated }
    }

    /// Sends the list of all files, once per connection: it may be large, and a client must not queue
    /// several of them.
    pub(super) fn list(&mut self, now: Moment, origin: Origin) -> Option<TrackerResponse> {
        let Origin::Connection(connection, from) = origin else {
            return Some(error(ErrorCode::Malformed, "the list of all files needs a TCP connection"));
        };
        if !self.list_connections.insert(connection) {
            return Some(error(
                ErrorCode::Busy,
                "one list per connection; open another connection to get it again",
            ));
        }
        let registry = &self.peers.registry;
        let local = from.to_canonical().is_loopback();
        let last = &mut self.listings[usize::from(local)];
        let listing = match last.take().filter(|listing| listing.holds(now, registry)) {
            Some(listing) => listing,
            None => Listing::of(now, registry, local, &mut self.random),
        };
        let (response, payload) = listing.message();
        self.effects.push(Effect::PushWith(connection, response, payload));
        *last = Some(listing);
        None
    }

    /// Sends the status, once per connection. The server has verified that the client is on the same host.
    pub(super) fn send_status(&mut self, now: Moment, origin: Origin) -> Option<TrackerResponse> {
        let Origin::Connection(connection, _) = origin else {
            return Some(error(ErrorCode::Malformed, "the status needs a TCP connection"));
        };
        if !self.status_connections.insert(connection) {
            return Some(error(
                ErrorCode::Busy,
                "one status per connection; open another connection to get it again",
            ));
        }
        let status = self.status(now);
        // Names, numbers and addresses always serialise.
        let payload: Arc<[u8]> = serde_json::to_vec(&status).unwrap_or_default().into();
        let response = TrackerResponse::Status { length: payload.len() as u64 };
        self.effects.push(Effect::PushWith(connection, response, payload));
        None
    }

    /// Status of peers, files and volunteers.
    pub(super) fn status(&mut self, now: Moment) -> Status {
        let status = self.keeping_status(now);
        let list = self.peer_list();
        let peer = |peer: PeerEntry| PeerSummary { name: peer.name, address: peer.address.into() };
        let local = Ipv4Addr::LOCALHOST.into();
        let (holders, files) = (limits::LISTED_HOLDERS_MAX, limits::STATUS_FILES_MAX);
        let (mut offered, all) = self.peers.registry.list(now, holders, files, local, &mut self.random);
        let listed = offered.len();
        offered.retain(|found| !self.keeps(found.file.id));
        Status {
            kind: if status.is_some() { DaemonKind::KeepingTracker } else { DaemonKind::Tracker },
            peers_known: list.count,
            peers: list.peers.into_iter().map(peer).collect(),
            offered_known: (all - (listed - offered.len())) as u64,
            offered_files: offered,
            sets_known: self.sets.by_key.len() as u64,
            sets: self.set_statuses(now),
            ..status.unwrap_or_default()
        }
    }

    /// Sends the manifest of a sealed set.
    pub(super) fn manifest(&mut self, origin: Origin, file: FileId) -> Option<TrackerResponse> {
        let Some(sealed) = self.sets.sealed(file) else {
            return Some(error(ErrorCode::NotFound, format!("no chunk set is sealed as {file}")));
        };
        let Origin::Connection(connection, _) = origin else {
            return Some(error(ErrorCode::Malformed, "a manifest needs a TCP connection"));
        };
        let Sealed { size, chunk_size, ref payload, .. } = *sealed;
        let response = TrackerResponse::Manifest { file, size, chunk_size, length: payload.len() as u64 };
        self.effects.push(Effect::PushWith(connection, response, payload.clone()));
        None
    }
}
