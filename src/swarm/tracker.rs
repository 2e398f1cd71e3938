//! The tracker as a pure state machine: requests in, replies and event lines out.
//!
//! It combines the [`Membership`] (peers, leases, files) with the [`ChunkSet`]s (agreement). A sealed set is
//! announced in the registry like any other file, so that lookups need no knowledge of sets.
//!
//! Invariant: a peer removed from the registry is removed from every set, and no message is sent to it.

mod keeping;

pub use keeping::{KeepRules, Remembered};

use super::Moment;
use super::agreement::{ChunkSet, Outcome, Sealed};
use super::keeping::TaskOutcome;
use super::listing::Listing;
use super::machine::{ConnectionId, Effect, Machine, Origin};
use super::membership::{Leases, Membership, error, unknown_token};
use super::registry::{PeerId, RemovedPeer};
use crate::content::limits::{self, TRACKER_NAME};
use crate::content::{ChunkIndex, FileId, FileName};
use crate::protocol::ErrorCode;
use crate::protocol::tracker::{
    Claim, FileSummary, FoundFile, Registration, SetKey, Token, TrackerRequest, TrackerResponse,
};
use keeping::{Departure, Keeping};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Maximum number of other sets of the same name that a joining member is told of.
const OTHER_COUNTS: usize = 8;

/// Settings of a tracker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// When peers are alive.
    pub leases: Leases,
    /// Number of equal claims that make an agreement.
    pub quorum: usize,
    /// The address that the tracker listens on: a client with this source address is on the same host.
    pub local: IpAddr,
}

impl Default for Rules {
    fn default() -> Self {
        Self { leases: Leases::default(), quorum: limits::QUORUM_MIN, local: limits::TRACKER_ADDRESS.ip() }
    }
}

/// The state of a tracker.
pub struct Tracker {
    quorum: usize,
    peers: Membership,
    sets: HashMap<SetKey, ChunkSet>,
    /// The sets of each member.
    memberships: HashMap<PeerId, BTreeSet<SetKey>>,
    /// The sets behind each id of a sealed set: several sets may have the same content.
    sealed: HashMap<FileId, BTreeSet<SetKey>>,
    /// Number of claims and waiting members in all sets, and its limit.
    entries: usize,
    entries_max: usize,
    random: fastrand::Rng,
    /// The last encoded list of all files.
    listing: Option<Listing>,
    /// Connections that have requested the list.
    listed: HashSet<ConnectionId>,
    /// State for the files that this tracker keeps, if started with `--files`.
    keeping: Option<Keeping>,
    /// Connections that have requested the status.
    told_status: HashSet<ConnectionId>,
    /// Listen address: like loopback addresses, a source address that marks a client on the same host.
    local: IpAddr,
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
        self.listed.remove(&connection);
        self.told_status.remove(&connection);
        if let Some((id, gone)) = self.peers.closed(connection) {
            self.depart(now, id, &gone, Departure::Closed);
        }
        std::mem::take(&mut self.effects)
    }

    fn tick(&mut self, now: Moment) -> Vec<Effect> {
        for (id, gone) in self.peers.expire(now) {
            self.depart(now, id, &gone, Departure::Expired);
        }
        self.tick_keeping(now);
        std::mem::take(&mut self.effects)
    }

    fn task_outcome(&mut self, now: Moment, outcome: TaskOutcome) -> Vec<Effect> {
        self.handle_outcome(now, outcome);
        std::mem::take(&mut self.effects)
    }

    fn next_tick(&self) -> Option<Moment> {
        let keeping = self.keeping.as_ref().and_then(Keeping::next_tick);
        self.peers.registry.next_expiry().into_iter().chain(keeping).min()
    }
}

impl Tracker {
    /// An empty tracker. `draw` returns unguessable numbers; `random` is used for choices that need not be
    /// unguessable.
    pub fn new(rules: Rules, random: fastrand::Rng, draw: impl FnMut() -> u128 + Send + 'static) -> Self {
        Self {
            quorum: rules.quorum,
            peers: Membership::new(rules.leases, draw),
            sets: HashMap::new(),
            memberships: HashMap::new(),
            sealed: HashMap::new(),
            entries: 0,
            entries_max: limits::CHUNK_ENTRIES_MAX,
            random,
            listing: None,
            listed: HashSet::new(),
            keeping: None,
            told_status: HashSet::new(),
            local: rules.local,
            effects: Vec::new(),
        }
    }

    fn respond(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Option<TrackerResponse> {
        use TrackerRequest as Ask;
        match request {
            // The daemon has checked the protocol version.
            Ask::Hello { .. } => Some(TrackerResponse::Hello { version: limits::PROTOCOL_VERSION }),
            Ask::Register(registration) => Some(self.register(now, origin, registration)),
            Ask::Heartbeat { token } => Some(self.peers.heartbeat(now, token)),
            Ask::Goodbye { token } => {
                if let Some((id, gone)) = self.peers.leave(now, token) {
                    self.depart(now, id, &gone, Departure::Goodbye);
                }
                // An unknown peer is not registered: the result that it asked for.
                Some(TrackerResponse::Farewell)
            }
            Ask::Announce { token, file, held } => Some(match self.peers.registry.heartbeat(now, token) {
                Some(id) => self.announce(id, &file, held),
                None => unknown_token(),
            }),
            Ask::Withdraw { token, file } => Some(match self.peers.registry.heartbeat(now, token) {
                Some(id) => {
                    self.peers.registry.retract(id, file);
                    TrackerResponse::Withdrawn { file }
                }
                None => unknown_token(),
            }),
            Ask::Lookup { name, id, limit, token } => {
                let except = token.and_then(|token| self.peers.registry.heartbeat(now, token));
                Some(self.lookup(now, name.as_ref(), id, limit, except))
            }
            Ask::Manifest { file } => self.manifest(origin, file),
            Ask::List => self.list(now, origin),
            Ask::JoinSet { token, set } => self.as_member(now, token, origin, |this, id| this.join(id, set)),
            Ask::Claim { token, set, index, claim } => self.as_member(now, token, origin, |this, id| {
                this.in_set(id, set, index, |this, key| this.claim(id, key, index, claim))
            }),
            Ask::Unclaim { token, set, index } => self.as_member(now, token, origin, |this, id| {
                this.in_set(id, set, index, |this, key| this.unclaim(id, key, index))
            }),
            Ask::WhereChunk { token, set, index } => self.as_member(now, token, origin, |this, id| {
                this.in_set(id, set, index, |this, key| this.where_chunk(id, key, index))
            }),
            Ask::Volunteer { token, act } => {
                self.as_member(now, token, origin, |this, id| this.volunteer_says(now, id, act))
            }
            Ask::Status => self.tell_status(origin),
            Ask::Unknown => Some(error(ErrorCode::UnknownMessage, "unknown message")),
        }
    }

    fn register(&mut self, now: Moment, origin: Origin, registration: Registration) -> TrackerResponse {
        let joined = match self.peers.register(now, origin, registration) {
            Ok(joined) => joined,
            Err(refusal) => return refusal,
        };
        if let Some((before, gone)) = joined.replaced {
            self.depart(now, before, &gone, Departure::Again);
        }
        self.effects.push(Effect::Note(joined.note));
        joined.response
    }

    fn lookup(
        &mut self,
        now: Moment,
        name: Option<&FileName>,
        id: Option<FileId>,
        limit: u32,
        except: Option<PeerId>,
    ) -> TrackerResponse {
        let limit = (limit as usize).min(limits::HOLDERS_MAX);
        let (mut files, more) = self.peers.registry.lookup(now, name, id, except, limit, &mut self.random);
        self.add_md5(&mut files);
        let named = |found: &FoundFile| found.whole.len() + found.partial.len();
        let truncated = more || files.iter().any(|found| named(found) < limit.min(found.holders as usize));
        TrackerResponse::Found { files, truncated }
    }

    /// Sends the list of all files, once per connection: it may be large, and a client must not queue many of
    /// them.
    fn list(&mut self, now: Moment, origin: Origin) -> Option<TrackerResponse> {
        let Origin::Connection(connection, _) = origin else {
            return Some(error(ErrorCode::Malformed, "the list of all files needs a TCP connection"));
        };
        if !self.listed.insert(connection) {
            return Some(error(
                ErrorCode::Busy,
                "one list per connection; open another connection to get it again",
            ));
        }
        let registry = &self.peers.registry;
        let listing = match self.listing.take().filter(|listing| listing.holds(now, registry)) {
            Some(listing) => listing,
            None => Listing::of(now, registry, &mut self.random),
        };
        let (response, payload) = listing.message();
        self.effects.push(Effect::PushWith(connection, response, payload));
        self.listing = Some(listing);
        None
    }

    /// Sends the status of volunteers and files to a client on the same host, once per connection.
    fn tell_status(&mut self, origin: Origin) -> Option<TrackerResponse> {
        let Origin::Connection(connection, from) = origin else {
            return Some(error(ErrorCode::Malformed, "the status needs a TCP connection"));
        };
        let from = from.to_canonical();
        if !from.is_loopback() && from != self.local.to_canonical() {
            return Some(error(ErrorCode::Refused, "the status is available only on the tracker's own host"));
        }
        if !self.told_status.insert(connection) {
            return Some(error(
                ErrorCode::Busy,
                "one status per connection; open another connection to get it again",
            ));
        }
        let Some(status) = self.status() else {
            return Some(error(
                ErrorCode::NotFound,
                "this tracker keeps no files; start it with --files DIR",
            ));
        };
        // Names, numbers and addresses always serialise.
        let payload: Arc<[u8]> = serde_json::to_vec(&status).unwrap_or_default().into();
        let response = TrackerResponse::Status { length: payload.len() as u64 };
        self.effects.push(Effect::PushWith(connection, response, payload));
        None
    }

    fn manifest(&mut self, origin: Origin, file: FileId) -> Option<TrackerResponse> {
        let key = self.sealed.get(&file).and_then(BTreeSet::first);
        let Some(sealed) = key.and_then(|key| self.sets.get(key)?.sealed()) else {
            return Some(error(ErrorCode::NotFound, format!("no chunk set is sealed as {file}")));
        };
        let Origin::Connection(connection, _) = origin else {
            return Some(error(ErrorCode::Malformed, "a manifest needs a TCP connection"));
        };
        let Sealed { size, chunk_size, ref payload, .. } = **sealed;
        let response = TrackerResponse::Manifest { file, size, chunk_size, length: payload.len() as u64 };
        self.effects.push(Effect::PushWith(connection, response, payload.clone()));
        None
    }

    fn claim(
        &mut self,
        id: PeerId,
        key: &SetKey,
        index: ChunkIndex,
        claim: Claim,
    ) -> Option<TrackerResponse> {
        if claim.size > limits::CHUNK_SIZE_MAX {
            return Some(error(ErrorCode::Malformed, "the chunk is too large"));
        }
        if self.is_full() && !self.sets.get(key)?.claims(id, index) {
            return Some(self.full());
        }
        let (before, outcomes, after) =
            self.change(key, |set| (set.claim_state(id), set.claim(id, index, claim), set.claim_state(id)))?;
        let sealed = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Sealed(_)));
        self.settle(key, outcomes);
        if before != after {
            self.update_holder(id, key);
        }
        // Sealing the set may make other members complete holders.
        if sealed || before != after {
            self.tell_complete(key);
        }
        None
    }

    fn unclaim(&mut self, id: PeerId, key: &SetKey, index: ChunkIndex) -> Option<TrackerResponse> {
        let (before, outcomes, after) =
            self.change(key, |set| (set.claim_state(id), set.unclaim(id, index), set.claim_state(id)))?;
        self.settle(key, outcomes);
        if before != after {
            self.update_holder(id, key);
        }
        None
    }

    fn where_chunk(&mut self, id: PeerId, key: &SetKey, index: ChunkIndex) -> Option<TrackerResponse> {
        if self.is_full() && !self.sets.get(key)?.waits(id, index) {
            return Some(self.full());
        }
        match self.change(key, |set| set.want(id, index))? {
            true => self.location(id, key, index),
            false => {
                let line = format!("{TRACKER_NAME},CHUNK_LOCATION_UNKNOWN,{index}");
                self.effects.push(Effect::Event(line));
                Some(TrackerResponse::ChunkUnknown { set: key.clone(), index })
            }
        }
    }

    /// Changes a set and updates the entry count of all sets.
    fn change<T>(&mut self, key: &SetKey, change: impl FnOnce(&mut ChunkSet) -> T) -> Option<T> {
        let set = self.sets.get_mut(key)?;
        self.entries -= set.entries();
        let result = change(set);
        self.entries += set.entries();
        Some(result)
    }

    fn is_full(&self) -> bool {
        self.entries >= self.entries_max
    }

    fn full(&self) -> TrackerResponse {
        let text = format!("limit of claims and requests for chunks reached ({})", self.entries_max);
        error(ErrorCode::Busy, text)
    }

    fn announce(&mut self, id: PeerId, file: &FileSummary, held: u32) -> TrackerResponse {
        match self.peers.registry.announce(id, file, held) {
            Ok(news) => {
                if let (true, Some(peer)) = (news, self.peers.registry.peer(id)) {
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

    fn join(&mut self, id: PeerId, key: SetKey) -> Option<TrackerResponse> {
        if key.count == 0 || key.count > limits::CHUNKS_MAX {
            let text = format!("a set has 1 to {} chunks, not {}", limits::CHUNKS_MAX, key.count);
            return Some(error(ErrorCode::Malformed, text));
        }
        let peer = self.peers.registry.peer(id)?;
        let joined = self.memberships.entry(id).or_default();
        if joined.len() >= limits::SETS_PER_PEER_MAX && !joined.contains(&key) {
            let text = format!("set limit of this peer reached ({})", limits::SETS_PER_PEER_MAX);
            return Some(error(ErrorCode::Busy, text));
        }
        joined.insert(key.clone());
        let quorum = self.quorum;
        let set = self.sets.entry(key.clone()).or_insert_with(|| ChunkSet::new(key.count, quorum));
        set.join(id, peer.address);
        let SetKey { set: name, count } = &key;
        self.effects.push(Effect::Note(format!("{} joined the set {name} of {count} chunks", peer.name)));
        if let (Some(sealed), Some(connection)) = (set.sealed(), self.peers.connection(id)) {
            let response = TrackerResponse::SetSealed { set: key.clone(), file: sealed.id };
            self.effects.push(Effect::Push(connection, response));
        }
        let same_name = self.sets.keys().filter(|other| other.set == key.set && other.count != key.count);
        let others = same_name.map(|other| other.count).take(OTHER_COUNTS).collect();
        Some(TrackerResponse::SetJoined { set: key, others })
    }

    /// Handles a request for a chunk of a set that the peer has joined.
    fn in_set(
        &mut self,
        id: PeerId,
        key: SetKey,
        index: ChunkIndex,
        then: impl FnOnce(&mut Self, &SetKey) -> Option<TrackerResponse>,
    ) -> Option<TrackerResponse> {
        match self.memberships.get(&id).is_some_and(|joined| joined.contains(&key)) {
            true if index.0 < key.count => then(self, &key),
            true => Some(error(
                ErrorCode::Malformed,
                format!("the set has {} chunks, there is no chunk {index}", key.count),
            )),
            false => Some(error(ErrorCode::NotFound, format!("join the set {} first", key.set))),
        }
    }

    /// The holders of a chunk, for a member that asked for it. Also writes the event line.
    fn location(&mut self, id: PeerId, key: &SetKey, index: ChunkIndex) -> Option<TrackerResponse> {
        let set = self.sets.get(key)?;
        let claim: Claim = set.agreed(index)?;
        let mut holders = set.holders(index, id);
        self.random.shuffle(&mut holders);
        holders.truncate(limits::HOLDERS_MAX);
        let mut line = format!("{TRACKER_NAME},GET_CHUNK_FROM,{index},{}", claim.sha256);
        for holder in &holders {
            line += &format!(",{},{}", holder.ip(), holder.port());
        }
        self.effects.push(Effect::Event(line));
        Some(TrackerResponse::ChunkLocation { set: key.clone(), index, claim, holders })
    }

    /// Sends the consequences of a change in a set to its members.
    fn settle(&mut self, key: &SetKey, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            match outcome {
                Outcome::Differs(id, index, claim) => {
                    let name =
                        self.peers.registry.peer(id).map(|peer| peer.name.to_string()).unwrap_or_default();
                    self.effects.push(Effect::Note(format!(
                        "{name} claims another hash for chunk {index} of {} than was agreed upon",
                        key.set
                    )));
                    self.push(id, TrackerResponse::ClaimDiffers { set: key.clone(), index, claim });
                }
                Outcome::Located(id, index) => {
                    if let Some(response) = self.location(id, key, index) {
                        self.push(id, response);
                    }
                }
                Outcome::Sealed(sealed) => self.seal(key, &sealed),
                Outcome::Unsealed(sealed) => self.unseal(key, sealed.id),
            }
        }
    }

    fn push(&mut self, id: PeerId, response: TrackerResponse) {
        if let Some(connection) = self.peers.connection(id) {
            self.effects.push(Effect::Push(connection, response));
        }
    }

    fn members(&self, key: &SetKey) -> Vec<PeerId> {
        self.sets.get(key).map(|set| set.members().collect()).unwrap_or_default()
    }

    fn seal(&mut self, key: &SetKey, sealed: &Sealed) {
        let (file, size) = (sealed.id, sealed.size);
        self.sealed.entry(file).or_default().insert(key.clone());
        self.effects.push(Effect::Note(format!(
            "the set {} is agreed upon: {} chunks, {size} bytes, file {file}",
            key.set, key.count
        )));
        for id in self.members(key) {
            self.push(id, TrackerResponse::SetSealed { set: key.clone(), file });
            self.update_holder(id, key);
        }
    }

    fn unseal(&mut self, key: &SetKey, file: FileId) {
        let mut others = self.sealed.remove(&file).unwrap_or_default();
        others.remove(key);
        if !others.is_empty() {
            self.sealed.insert(file, others.clone());
        }
        let members = self.members(key);
        // When all members have left, no peer needs a missing chunk.
        if !members.is_empty() {
            let text = format!(
                "the set {} lost the last holder of a chunk: it is no longer available as a file",
                key.set
            );
            self.effects.push(Effect::Note(text));
        }
        for id in members {
            self.peers.registry.retract(id, file);
            // A member that is also in another set with the same content remains a holder through that set.
            for other in &others {
                if self.sets.get(other).is_some_and(|set| set.is_member(id)) {
                    self.update_holder(id, other);
                }
            }
        }
    }

    /// Updates the registry entry of a member of a sealed set.
    fn update_holder(&mut self, id: PeerId, key: &SetKey) {
        let Some(set) = self.sets.get(key) else { return };
        let Some(sealed) = set.sealed() else { return };
        let summary =
            FileSummary { id: sealed.id, name: key.set.clone().into(), size: sealed.size, chunks: key.count };
        let mut same = self.sealed.get(&sealed.id).into_iter().flatten().filter_map(|key| self.sets.get(key));
        let held = if same.any(|set| set.is_whole(id)) { key.count } else { 0 };
        if let Err(full) = self.peers.registry.announce(id, &summary, held) {
            self.effects.push(Effect::Note(full.to_string()));
        }
    }

    /// Notifies all members when every member holds all chunks.
    fn tell_complete(&mut self, key: &SetKey) {
        if self.sets.get(key).is_some_and(ChunkSet::is_complete) {
            for id in self.members(key) {
                self.push(id, TrackerResponse::SetComplete { set: key.clone() });
            }
        }
    }

    /// Removes a peer, already removed from the registry, from all other state.
    fn depart(&mut self, now: Moment, id: PeerId, gone: &RemovedPeer, how: Departure) {
        let RemovedPeer { peer, expires } = gone;
        let (name, address, why) = (&peer.name, peer.address, how.text());
        let text = match self.may_come_back(id, how) {
            true => {
                let left = expires.saturating_sub(now).as_secs_f64();
                format!(
                    "{name} at {address} is away: {why}; it counts as dead unless it returns within {left:.1} s"
                )
            }
            false => format!("{name} at {address} is gone: {why}, {} peers", self.peers.registry.len()),
        };
        self.effects.push(Effect::Note(text));
        self.volunteer_left(now, id, *expires, how);
        for key in self.memberships.remove(&id).unwrap_or_default() {
            let left = self.change(&key, |set| (set.is_whole(id), set.leave(id)));
            let Some((whole, outcomes)) = left else { continue };
            let sealed = outcomes.iter().any(|outcome| matches!(outcome, Outcome::Sealed(_)));
            self.settle(&key, outcomes);
            // No member waited for a complete one.
            if sealed || !whole {
                self.tell_complete(&key);
            }
            if self.sets.get(&key).is_some_and(ChunkSet::is_empty) {
                self.sets.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
