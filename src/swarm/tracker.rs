//! The tracker as a pure state machine: requests in, replies and event lines out.
//!
//! It combines the [`Membership`] (peers, leases, files), the chunk sets (agreement) and, if it keeps files,
//! the state for these. A sealed set is announced in the registry like any other file, so that lookups need
//! no knowledge of sets.
//!
//! Invariant: a peer removed from the registry is removed from every set, and no message is sent to it.

mod keeping;
mod queries;
mod set_reports;
mod set_status;
mod sets;
#[cfg(test)]
mod tests;

pub use keeping::{KeepRules, Remembered};

use super::Moment;
use super::keeping::TaskOutcome;
use super::listing::Listing;
use super::machine::{ConnectionId, Effect, Machine, Origin, PeerChange};
use super::membership::{Dialled, Exposure, Leases, Membership, error, unknown_token};
use super::reach::DialResult;
use super::registry::{PeerId, RemovedPeer};
use super::shares::{Budgets, Shares};
use crate::content::fmt::counted;
use crate::content::{FileId, PeerName, limits};
use crate::protocol::ErrorCode;
use crate::protocol::tracker::{
    FileSummary, OfferedFile, Registration, Token, TrackerRequest, TrackerResponse,
};
use keeping::Keeping;
use sets::ChunkSets;
use std::collections::HashSet;

/// Settings of a tracker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Leases of peers.
    pub leases: Leases,
    /// Number of files that each peer may announce.
    pub files_max: usize,
    /// Entries that all peers together may have.
    pub budgets: Budgets,
    /// Number of equal claims that make an agreement.
    pub quorum: usize,
    /// Addresses that are told and believed.
    pub exposure: Exposure,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            leases: Leases::default(),
            files_max: limits::FILES_PER_PEER_MAX,
            budgets: Budgets::default(),
            quorum: limits::QUORUM_MIN,
            exposure: Exposure::default(),
        }
    }
}

/// Reason for which a peer was removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Departure {
    /// Its connection closed; it may return.
    Closed,
    /// Its lease expired.
    Expired,
    /// It disconnected in order.
    Disconnected,
    /// It registered again.
    RegisteredAgain,
}

impl Departure {
    /// Text for log lines.
    fn text(self) -> &'static str {
        match self {
            Departure::Closed => "its connection ended",
            Departure::Expired => "its lease ended",
            Departure::Disconnected => "it disconnected",
            Departure::RegisteredAgain => "it registered again",
        }
    }
}

/// The state of a tracker.
pub struct Tracker {
    peers: Membership,
    sets: ChunkSets,
    random: fastrand::Rng,
    /// The last encoded lists of all files, for requesters on other hosts and on this host.
    listings: [Option<Listing>; 2],
    /// Connections that have requested the list.
    list_connections: HashSet<ConnectionId>,
    /// State for the files that this tracker keeps, if started with `--files`.
    keeping: Option<Keeping>,
    /// Connections that have requested the status.
    status_connections: HashSet<ConnectionId>,
    /// Effects of the event that is being handled.
    effects: Vec<Effect>,
}

impl Machine for Tracker {
    fn prefetch(&self, request: &TrackerRequest) {
        if let TrackerRequest::Heartbeat { token } = request {
            self.peers.registry.prefetch(*token);
        }
    }

    fn request(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Vec<Effect> {
        let response = self.respond(now, origin, request);
        // The reply precedes the messages that the request caused, so that a client reads them in this order.
        if let Some(response) = response {
            self.effects.insert(0, Effect::Reply(origin, response));
        }
        std::mem::take(&mut self.effects)
    }

    fn closed(&mut self, now: Moment, connection: ConnectionId) -> Vec<Effect> {
        self.list_connections.remove(&connection);
        self.status_connections.remove(&connection);
        if let Some((id, removed)) = self.peers.closed(connection) {
            self.depart(now, id, &removed, Departure::Closed);
        }
        std::mem::take(&mut self.effects)
    }

    fn tick(&mut self, now: Moment) -> Vec<Effect> {
        for (id, removed) in self.peers.expire(now) {
            self.depart(now, id, &removed, Departure::Expired);
        }
        self.tick_keeping(now);
        self.report_undecided(now);
        std::mem::take(&mut self.effects)
    }

    fn dialled(&mut self, now: Moment, result: DialResult) -> Vec<Effect> {
        let Dialled { peer, displaced, complete, .. } = self.peers.dialled(now, &result);
        if let Some(id) = peer {
            self.volunteer_reached(now, id);
        }
        for peer in displaced.into_iter().filter_map(|id| self.peers.registry.peer(id)) {
            let text = format!("{} at {} was replaced by a new registration", peer.name, peer.address);
            self.effects.push(Effect::Note(text));
        }
        if let (Some(id), Some(reachability)) = (peer, complete) {
            if let (true, Some(peer)) = (reachability.working.is_empty(), self.peers.registry.peer(id)) {
                let text = format!("{} at {} cannot be reached from this host", peer.name, peer.address);
                self.effects.push(Effect::Note(text));
            }
            self.push(id, TrackerResponse::Reachability(reachability));
        }
        std::mem::take(&mut self.effects)
    }

    fn task_outcome(&mut self, now: Moment, outcome: TaskOutcome) -> Vec<Effect> {
        self.handle_outcome(now, outcome);
        std::mem::take(&mut self.effects)
    }

    fn next_tick(&self) -> Option<Moment> {
        let keeping = self.keeping.as_ref().and_then(Keeping::next_tick);
        let reports = self.sets.reports.next();
        self.peers.registry.next_expiry().into_iter().chain(keeping).chain(reports).min()
    }
}

impl Tracker {
    /// An empty tracker. `draw` returns unguessable numbers; `random` is used for choices that need not be
    /// unguessable.
    pub fn new(rules: Rules, random: fastrand::Rng, draw: impl FnMut() -> u128 + Send + 'static) -> Self {
        let mut peers = Membership::new(rules.leases, rules.exposure, draw);
        peers.registry.files_max = rules.files_max;
        peers.registry.shares = Shares::new(rules.budgets);
        Self {
            peers,
            sets: ChunkSets::new(rules.quorum),
            random,
            listings: [None, None],
            list_connections: HashSet::new(),
            keeping: None,
            status_connections: HashSet::new(),
            effects: Vec::new(),
        }
    }

    /// Handles a request and returns the response, if it has one.
    fn respond(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Option<TrackerResponse> {
        use TrackerRequest as Ask;
        match request {
            // The server has checked the protocol version.
            Ask::Hello { .. } => Some(TrackerResponse::Hello { version: limits::PROTOCOL_VERSION }),
            Ask::Register(registration) => Some(self.register(now, origin, registration)),
            Ask::Heartbeat { token } => Some(self.peers.heartbeat(now, token)),
            Ask::Addresses { token, addresses } => {
                let (response, dials) = self.peers.replace_addresses(now, origin, token, addresses);
                self.effects.extend(dials);
                Some(response)
            }
            Ask::Reachability { token } => Some(self.peers.reachability(now, token)),
            Ask::Goodbye { token } => {
                if let Some((id, removed)) = self.peers.leave(now, token) {
                    self.depart(now, id, &removed, Departure::Disconnected);
                }
                // An unknown peer is not registered: the result that it asked for.
                Some(TrackerResponse::Farewell)
            }
            Ask::Announce { token, file, held, .. } => {
                Some(match self.peers.registry.heartbeat(now, token) {
                    Some(id) => self.announce(id, &file, held),
                    None => unknown_token(),
                })
            }
            Ask::AnnounceFiles { token, files, more } => {
                Some(match self.peers.registry.heartbeat(now, token) {
                    Some(id) => self.announce_files(id, &files, more),
                    None => unknown_token(),
                })
            }
            Ask::Withdraw { token, file, name } => Some(match self.peers.registry.heartbeat(now, token) {
                Some(id) => {
                    self.peers.registry.retract(id, file, name.as_ref());
                    TrackerResponse::Withdrawn { file }
                }
                None => unknown_token(),
            }),
            Ask::Lookup { name, id, limit, token } => {
                let except = token.and_then(|token| self.peers.registry.heartbeat(now, token));
                Some(self.lookup(now, origin, name.as_ref(), id, limit, except))
            }
            Ask::Completed { file, name, .. } => {
                self.note_completed(file, &name);
                Some(TrackerResponse::Noted)
            }
            Ask::Manifest { file } => self.manifest(origin, file),
            Ask::List => self.list(now, origin),
            Ask::JoinSet { token, set } => {
                self.as_member(now, token, origin, |this, id| this.join_set(now, id, set))
            }
            Ask::Claim { token, set, index, claim } => self.as_member(now, token, origin, |this, id| {
                this.in_set(id, set, index, |this, key| this.claim(now, id, key, index, claim))
            }),
            Ask::Unclaim { token, set, index } => self.as_member(now, token, origin, |this, id| {
                this.in_set(id, set, index, |this, key| this.unclaim(id, key, index))
            }),
            Ask::WhereChunk { token, set, index } => self.as_member(now, token, origin, |this, id| {
                this.in_set(id, set, index, |this, key| this.where_chunk(id, key, index))
            }),
            Ask::Unreachable { token, set, index, seconds } => {
                self.as_member(now, token, origin, |this, id| {
                    this.in_set(id, set, index, |this, key| {
                        this.note_unreachable(now, id, key, index, seconds)
                    })
                })
            }
            Ask::SetStatus { token, set } => {
                self.as_member(now, token, origin, |this, id| Some(this.member_set_status(now, id, &set)))
            }
            Ask::Volunteer { token, act } => self
                .as_member(now, token, origin, |this, id| this.handle_volunteer_report(now, id, origin, act)),
            Ask::Status => self.send_status(now, origin),
            Ask::Unknown => Some(error(ErrorCode::UnknownMessage, "unknown message")),
        }
    }

    /// Writes a log line about a completed download of a known file.
    fn note_completed(&mut self, file: FileId, peer: &PeerName) {
        if let Some(name) = self.peers.registry.name_of(file) {
            self.effects.push(Effect::Note(format!("{peer} has downloaded {name}")));
        }
    }

    /// Handles a registration.
    fn register(&mut self, now: Moment, origin: Origin, registration: Registration) -> TrackerResponse {
        let joined = match self.peers.register(now, origin, registration) {
            Ok(joined) => joined,
            Err(refusal) => return refusal,
        };
        if let Some((before, removed)) = joined.replaced {
            self.depart(now, before, &removed, Departure::RegisteredAgain);
        }
        self.effects.extend(joined.notes);
        self.effects.extend(joined.dials);
        joined.response
    }

    /// Handles the announcement of the chunks that a peer has of a file.
    fn announce(&mut self, id: PeerId, file: &FileSummary, held: u32) -> TrackerResponse {
        match self.peers.registry.announce(id, file, held) {
            Ok(changed) => {
                if let (true, Some(peer)) = (changed, self.peers.registry.peer(id)) {
                    let FileSummary { name, size, chunks, id } = file;
                    self.effects.push(Effect::Note(format!(
                        "{} has {held} of {chunks} chunks of {name} ({size} bytes, {})",
                        peer.name,
                        id.short()
                    )));
                }
                TrackerResponse::Announced { file: file.id }
            }
            Err(full) => error(ErrorCode::Busy, full.to_string()),
        }
    }

    /// Handles a batch of announcements, up to the first one that exceeds a limit. The last batch is logged.
    fn announce_files(&mut self, id: PeerId, files: &[OfferedFile], more: bool) -> TrackerResponse {
        let registry = &mut self.peers.registry;
        let results = files.iter().map(|offered| registry.announce(id, &offered.file, offered.held));
        let accepted = results.take_while(Result::is_ok).count();
        if let (false, Some(peer)) = (more && accepted == files.len(), registry.peer(id)) {
            let count = counted(registry.file_count(id) as u64, "file");
            self.effects.push(Effect::Note(format!("{} has announced {count}", peer.name)));
        }
        TrackerResponse::AnnouncedFiles { accepted: accepted as u32 }
    }

    /// Handles a request that needs a connection and the token issued over it.
    fn as_member(
        &mut self,
        now: Moment,
        token: Token,
        origin: Origin,
        then: impl FnOnce(&mut Self, PeerId) -> Option<TrackerResponse>,
    ) -> Option<TrackerResponse> {
        // Sets have no leases: expired peers must leave them first, even before the next tick.
        if self.peers.registry.next_expiry().is_some_and(|due| due <= now) {
            self.effects = self.tick(now);
        }
        match self.peers.over_connection(now, token, origin) {
            Ok(id) => then(self, id),
            Err(refusal) => Some(refusal),
        }
    }

    /// Sends a message to a peer, if it has a connection.
    fn push(&mut self, id: PeerId, response: TrackerResponse) {
        if let Some(connection) = self.peers.connection(id) {
            self.effects.push(Effect::Push(connection, response));
        }
    }

    /// Removes a peer, already removed from the registry, from all other state.
    fn depart(&mut self, now: Moment, id: PeerId, removed: &RemovedPeer, how: Departure) {
        let RemovedPeer { peer, expires, source } = removed;
        let (name, address, why) = (&peer.name, peer.address, how.text());
        let text = match self.may_return(id, how) {
            true => {
                format!("{name} at {address} is away: {why}")
            }
            false if self.offers_storage(id) => {
                format!("{name} at {address} no longer offers storage: {why}")
            }
            false => format!("{name} at {address} is gone: {why}, {}", self.peers.count_text()),
        };
        self.effects.push(Effect::Departure(*source, text));
        self.effects.push(Effect::Peer(PeerChange { name: name.clone(), address, has_joined: false }));
        self.volunteer_left(now, id, *expires, how);
        self.restore_own_entries();
        self.leave_sets(now, id, name);
    }
}
