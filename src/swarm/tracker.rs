//! The tracker as a pure state machine: requests in, responses and event lines out.
//!
//! It composes the [`Membership`] (peers, leases, files) with the [`ChunkSet`]s (agreement). A sealed set is
//! announced in the registry like any other file, so that lookups need to know nothing of sets.
//!
//! Invariant: a peer that is gone from the registry is gone from every set, and nothing is ever sent to it.

use super::Moment;
use super::agreement::{ChunkSet, Outcome};
use super::listing::Listing;
use super::machine::{ConnectionId, Effect, Machine, Origin};
use super::membership::{Leases, Membership, error, unknown_token};
use super::registry::{Peer, PeerId};
use crate::content::limits::{self, TRACKER_ENTITY};
use crate::content::{ChunkIndex, EntityName, FileId, FileName, Manifest};
use crate::protocol::ErrorCode;
use crate::protocol::tracker::{
    Claim, FileSummary, FoundFile, SetKey, Token, TrackerRequest, TrackerResponse,
};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

/// What a tracker can be set to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// When peers are alive.
    pub leases: Leases,
    /// How many claims make an agreement.
    pub quorum: usize,
}

impl Default for Rules {
    fn default() -> Self {
        Self { leases: Leases::default(), quorum: limits::QUORUM }
    }
}

/// The state of a tracker.
pub struct Tracker {
    quorum: usize,
    peers: Membership,
    sets: HashMap<SetKey, ChunkSet>,
    /// The sets that a peer is a member of.
    memberships: HashMap<PeerId, BTreeSet<SetKey>>,
    /// The sets behind the ids of sealed ones.
    sealed: HashMap<FileId, SetKey>,
    random: fastrand::Rng,
    /// The list of all files as it was last sent.
    listing: Option<Listing>,
    /// Connections that have had it.
    listed: HashSet<ConnectionId>,
    effects: Vec<Effect>,
}

impl Machine for Tracker {
    fn request(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Vec<Effect> {
        let response = self.respond(now, origin, request);
        // The answer comes before what the request caused, so that a client reads them in order.
        if let Some(response) = response {
            self.effects.insert(0, Effect::Reply(origin, response));
        }
        std::mem::take(&mut self.effects)
    }

    fn closed(&mut self, _: Moment, connection: ConnectionId) -> Vec<Effect> {
        self.listed.remove(&connection);
        if let Some((id, peer)) = self.peers.closed(connection) {
            self.depart(id, &peer, "its connection ended");
        }
        std::mem::take(&mut self.effects)
    }

    fn tick(&mut self, now: Moment) -> Vec<Effect> {
        for (id, peer) in self.peers.expire(now) {
            self.depart(id, &peer, "its lease ended");
        }
        std::mem::take(&mut self.effects)
    }

    fn next_tick(&self) -> Option<Moment> {
        self.peers.registry.next_expiry()
    }
}

impl Tracker {
    /// An empty tracker. `draw` gives unguessable numbers; `random` decides what may be guessed.
    pub fn new(rules: Rules, random: fastrand::Rng, draw: impl FnMut() -> u128 + Send + 'static) -> Self {
        Self {
            quorum: rules.quorum,
            peers: Membership::new(rules.leases, draw),
            sets: HashMap::new(),
            memberships: HashMap::new(),
            sealed: HashMap::new(),
            random,
            listing: None,
            listed: HashSet::new(),
            effects: Vec::new(),
        }
    }

    fn respond(&mut self, now: Moment, origin: Origin, request: TrackerRequest) -> Option<TrackerResponse> {
        use TrackerRequest as Ask;
        match request {
            // The daemon checks versions before anything gets here.
            Ask::Hello { .. } => Some(TrackerResponse::Hello { version: limits::PROTOCOL_VERSION }),
            Ask::Register { name, port, advertise } => {
                Some(self.register(now, origin, name, port, advertise))
            }
            Ask::Heartbeat { token } => Some(self.peers.heartbeat(now, token)),
            Ask::Goodbye { token } => {
                if let Some((id, peer)) = self.peers.leave(now, token) {
                    self.depart(id, &peer, "it said goodbye");
                }
                // A peer that is not known is gone already: that is what it asked for.
                Some(TrackerResponse::Farewell)
            }
            Ask::Announce { token, file, held } => Some(match self.peers.registry.by_token(now, token) {
                Some(id) => self.announce(id, &file, held),
                None => unknown_token(),
            }),
            Ask::Withdraw { token, file } => Some(match self.peers.registry.by_token(now, token) {
                Some(id) => {
                    self.peers.registry.retract(id, file);
                    TrackerResponse::Withdrawn { file }
                }
                None => unknown_token(),
            }),
            Ask::Lookup { name, id, limit, token } => {
                let except = token.and_then(|token| self.peers.registry.by_token(now, token));
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
            Ask::Unknown => Some(error(ErrorCode::UnknownMessage, "this message is not known here")),
        }
    }

    fn register(
        &mut self,
        now: Moment,
        origin: Origin,
        name: EntityName,
        port: u16,
        advertise: Option<SocketAddr>,
    ) -> TrackerResponse {
        let joined = match self.peers.register(now, origin, name, port, advertise) {
            Ok(joined) => joined,
            Err(refusal) => return refusal,
        };
        if let Some((before, peer)) = joined.replaced {
            self.depart(before, &peer, "it registered again");
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
        let files = self.peers.registry.lookup(now, name, id, except, limit, &mut self.random);
        let named = |found: &FoundFile| found.whole.len() + found.partial.len();
        let truncated = files.iter().any(|found| named(found) < limit.min(found.holders as usize));
        TrackerResponse::Found { files, truncated }
    }

    /// Sends the list of all files, once for each connection: it may be long, and nobody is to pile up many.
    fn list(&mut self, now: Moment, origin: Origin) -> Option<TrackerResponse> {
        let Origin::Connection(connection, _) = origin else {
            return Some(error(ErrorCode::Malformed, "the list of all files needs a connection"));
        };
        if !self.listed.insert(connection) {
            return Some(error(ErrorCode::Busy, "one list for each connection; ask again over another"));
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

    fn manifest(&mut self, origin: Origin, file: FileId) -> Option<TrackerResponse> {
        let key = self.sealed.get(&file);
        let Some(manifest) = key.and_then(|key| self.sets.get(key)?.sealed().cloned()) else {
            return Some(error(ErrorCode::NotFound, format!("no chunk set is sealed as {file}")));
        };
        let Origin::Connection(connection, _) = origin else {
            return Some(error(ErrorCode::Malformed, "a manifest needs a connection"));
        };
        let (payload, layout) = (manifest.payload(), manifest.layout());
        let response = TrackerResponse::Manifest {
            file,
            size: layout.size(),
            chunk_size: layout.chunk_size(),
            length: payload.len() as u64,
        };
        self.effects.push(Effect::PushWith(connection, response, payload.into()));
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
        let outcomes = self.sets.get_mut(key).map(|set| set.claim(id, index, claim));
        self.settle(key, outcomes.unwrap_or_default());
        self.update_holder(id, key);
        self.tell_complete(key);
        None
    }

    fn unclaim(&mut self, id: PeerId, key: &SetKey, index: ChunkIndex) -> Option<TrackerResponse> {
        let outcomes = self.sets.get_mut(key).map(|set| set.unclaim(id, index));
        self.settle(key, outcomes.unwrap_or_default());
        self.update_holder(id, key);
        None
    }

    fn where_chunk(&mut self, id: PeerId, key: &SetKey, index: ChunkIndex) -> Option<TrackerResponse> {
        match self.sets.get_mut(key).is_some_and(|set| set.want(id, index)) {
            true => self.location(id, key, index),
            false => {
                let line = format!("{TRACKER_ENTITY},CHUNK_LOCATION_UNKNOWN,{index}");
                self.effects.push(Effect::Event(line));
                Some(TrackerResponse::ChunkUnknown { set: key.clone(), index })
            }
        }
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

    /// For what needs a connection and a token that was given over it.
    fn as_member(
        &mut self,
        now: Moment,
        token: Token,
        origin: Origin,
        then: impl FnOnce(&mut Self, PeerId) -> Option<TrackerResponse>,
    ) -> Option<TrackerResponse> {
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
            let text = format!("no peer is in more than {} sets", limits::SETS_PER_PEER_MAX);
            return Some(error(ErrorCode::Busy, text));
        }
        joined.insert(key.clone());
        let quorum = self.quorum;
        let set = self.sets.entry(key.clone()).or_insert_with(|| ChunkSet::new(key.count, quorum));
        set.join(id, peer.address);
        let SetKey { set: name, count } = &key;
        self.effects.push(Effect::Note(format!("{} joined the set {name} of {count} chunks", peer.name)));
        if let (Some(manifest), Some(connection)) = (set.sealed(), self.peers.connection(id)) {
            let response = TrackerResponse::SetSealed { set: key.clone(), file: manifest.id() };
            self.effects.push(Effect::Push(connection, response));
        }
        Some(TrackerResponse::SetJoined { set: key })
    }

    /// For what concerns a chunk of a set that the peer has joined.
    fn in_set(
        &mut self,
        id: PeerId,
        key: SetKey,
        index: ChunkIndex,
        then: impl FnOnce(&mut Self, &SetKey) -> Option<TrackerResponse>,
    ) -> Option<TrackerResponse> {
        match self.memberships.get(&id).is_some_and(|joined| joined.contains(&key)) {
            true if index.0 < key.count => then(self, &key),
            true => {
                Some(error(ErrorCode::Malformed, format!("the set has {} chunks, not {index}", key.count)))
            }
            false => Some(error(ErrorCode::NotFound, format!("join the set {} first", key.set))),
        }
    }

    /// Where a chunk is, for a member that wants it, with the event line that says so.
    fn location(&mut self, id: PeerId, key: &SetKey, index: ChunkIndex) -> Option<TrackerResponse> {
        let set = self.sets.get(key)?;
        let claim: Claim = set.agreed(index)?;
        let mut holders = set.holders(index, id);
        self.random.shuffle(&mut holders);
        holders.truncate(limits::HOLDERS_MAX);
        let mut line = format!("{TRACKER_ENTITY},GET_CHUNK_FROM,{index},{}", claim.sha256);
        for holder in &holders {
            line += &format!(",{},{}", holder.ip(), holder.port());
        }
        self.effects.push(Effect::Event(line));
        Some(TrackerResponse::ChunkLocation { set: key.clone(), index, claim, holders })
    }

    /// Tells members what has changed in a set.
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
                Outcome::Sealed(manifest) => self.seal(key, &manifest),
                Outcome::Unsealed(manifest) => self.unseal(key, &manifest),
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

    fn seal(&mut self, key: &SetKey, manifest: &Manifest) {
        let (file, size) = (manifest.id(), manifest.layout().size());
        self.sealed.insert(file, key.clone());
        self.effects.push(Effect::Note(format!(
            "the set {} is agreed upon: {} chunks, {size} bytes, file {file}",
            key.set, key.count
        )));
        for id in self.members(key) {
            self.push(id, TrackerResponse::SetSealed { set: key.clone(), file });
            self.update_holder(id, key);
        }
    }

    fn unseal(&mut self, key: &SetKey, manifest: &Manifest) {
        let file = manifest.id();
        self.sealed.remove(&file);
        let members = self.members(key);
        // When everybody has left that is no loss, but the end.
        if !members.is_empty() {
            let text =
                format!("the set {} has lost the last holder of a chunk and is no file any more", key.set);
            self.effects.push(Effect::Note(text));
        }
        for id in members {
            self.peers.registry.retract(id, file);
        }
    }

    /// Keeps the registry in step with what a member holds of a sealed set.
    fn update_holder(&mut self, id: PeerId, key: &SetKey) {
        let Some(set) = self.sets.get(key) else { return };
        let Some(manifest) = set.sealed() else { return };
        let summary = FileSummary {
            id: manifest.id(),
            name: key.set.clone().into(),
            size: manifest.layout().size(),
            chunks: key.count,
        };
        let held = if set.is_whole(id) { key.count } else { 0 };
        if let Err(full) = self.peers.registry.announce(id, &summary, held) {
            self.effects.push(Effect::Note(full.to_string()));
        }
    }

    /// Nobody needs anything of anybody in this set any more.
    fn tell_complete(&mut self, key: &SetKey) {
        if self.sets.get(key).is_some_and(ChunkSet::is_complete) {
            for id in self.members(key) {
                self.push(id, TrackerResponse::SetComplete { set: key.clone() });
            }
        }
    }

    /// Takes a peer that the registry has removed out of everything else.
    fn depart(&mut self, id: PeerId, peer: &Peer, why: &str) {
        let (name, address) = (&peer.name, peer.address);
        self.effects.push(Effect::Note(format!(
            "{name} at {address} is gone: {why}, {} peers",
            self.peers.registry.len()
        )));
        for key in self.memberships.remove(&id).unwrap_or_default() {
            let outcomes = self.sets.get_mut(&key).map(|set| set.leave(id));
            self.settle(&key, outcomes.unwrap_or_default());
            self.tell_complete(&key);
            if self.sets.get(&key).is_some_and(ChunkSet::is_empty) {
                self.sets.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Digest;
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn tracker() -> Tracker {
        let mut next = 0;
        let draw = move || {
            next += 1;
            next
        };
        Tracker::new(Rules::default(), fastrand::Rng::with_seed(1), draw)
    }

    fn connection(number: u64) -> Origin {
        Origin::Connection(ConnectionId(number), IpAddr::from([10, 0, 0, number as u8]))
    }

    fn datagram(number: u8) -> Origin {
        Origin::Datagram(SocketAddr::from(([10, 0, 0, number], 9999)), 5)
    }

    /// Registers a peer and returns its token.
    fn register(tracker: &mut Tracker, now: u64, origin: Origin, name: &str) -> Token {
        let name = EntityName::new(name).unwrap();
        let request = TrackerRequest::Register { name, port: 7000, advertise: None };
        match &tracker.request(at(now), origin, request)[0] {
            Effect::Reply(_, TrackerResponse::Registered { token, .. }) => *token,
            other => panic!("{other:?}"),
        }
    }

    fn key() -> SetKey {
        SetKey { set: EntityName::new("default").unwrap(), count: 2 }
    }

    fn claim(number: u8) -> Claim {
        Claim { sha256: Digest([number; 32]), size: 10 }
    }

    fn member(tracker: &mut Tracker, number: u64) -> Token {
        let token = register(tracker, 0, connection(number), &format!("peer{number}"));
        let joined =
            tracker.request(at(0), connection(number), TrackerRequest::JoinSet { token, set: key() });
        assert_eq!(joined[0], Effect::Reply(connection(number), TrackerResponse::SetJoined { set: key() }));
        token
    }

    fn claims(tracker: &mut Tracker, number: u64, token: Token, index: u32, value: u8) -> Vec<Effect> {
        let (set, index) = (key(), ChunkIndex(index));
        let request = TrackerRequest::Claim { token, set, index, claim: claim(value) };
        tracker.request(at(1), connection(number), request)
    }

    fn wants(tracker: &mut Tracker, number: u64, token: Token, index: u32) -> Vec<Effect> {
        let request = TrackerRequest::WhereChunk { token, set: key(), index: ChunkIndex(index) };
        tracker.request(at(1), connection(number), request)
    }

    fn code(effects: &[Effect]) -> Option<ErrorCode> {
        match effects.first() {
            Some(Effect::Reply(_, TrackerResponse::Error { code, .. })) => Some(*code),
            _ => None,
        }
    }

    #[test]
    fn a_seeder_is_found_until_its_lease_ends() {
        let mut tracker = tracker();
        let token = register(&mut tracker, 0, datagram(1), "s");
        let name = FileName::new("f").unwrap();
        let file = FileSummary { id: FileId([1; 32]), name: name.clone(), size: 1, chunks: 1 };
        tracker.request(at(0), datagram(1), TrackerRequest::Announce { token, file, held: 1 });
        let mut found = |now| {
            let lookup = TrackerRequest::Lookup { name: Some(name.clone()), id: None, limit: 9, token: None };
            match tracker.request(at(now), datagram(2), lookup).remove(0) {
                Effect::Reply(_, TrackerResponse::Found { files, truncated: false }) => files,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(found(9)[0].whole, [SocketAddr::from(([10, 0, 0, 1], 7000))]);
        assert!(found(10).is_empty());
        assert_eq!(tracker.next_tick(), Some(at(10)));
        let effects = tracker.tick(at(10));
        assert!(matches!(&effects[..], [Effect::Note(note)] if note.contains("its lease ended")));
    }

    #[test]
    fn the_list_is_sent_once_for_each_connection_and_is_never_stale() {
        let mut tracker = tracker();
        let list = |tracker: &mut Tracker, now, number| match &tracker.request(
            at(now),
            connection(number),
            TrackerRequest::List,
        )[..]
        {
            [Effect::PushWith(_, TrackerResponse::Listing { count, length }, payload)] => {
                assert_eq!(*length, payload.len() as u64);
                let files: Vec<FoundFile> = serde_json::from_slice(payload).unwrap();
                assert_eq!(*count as usize, files.len());
                Ok((files.into_iter().map(|found| found.file.name.to_string()).collect(), payload.clone()))
            }
            effects => Err(code(effects)),
        };
        let names = |listed: &Result<(Vec<String>, Arc<[u8]>), _>| listed.as_ref().unwrap().0.clone();
        assert!(names(&list(&mut tracker, 0, 1)).is_empty());
        assert_eq!(list(&mut tracker, 0, 1), Err(Some(ErrorCode::Busy)));
        tracker.closed(at(0), ConnectionId(1));
        let token = register(&mut tracker, 0, datagram(1), "s");
        for (number, name) in [(1, "b"), (2, "a")] {
            let name = FileName::new(name).unwrap();
            let file = FileSummary { id: FileId([number; 32]), name, size: 1, chunks: 1 };
            tracker.request(at(0), datagram(1), TrackerRequest::Announce { token, file, held: 1 });
        }
        let (first, second) = (list(&mut tracker, 1, 1), list(&mut tracker, 2, 2));
        assert_eq!(names(&first), ["a", "b"]);
        assert!(Arc::ptr_eq(&first.unwrap().1, &second.unwrap().1), "made once");
        assert!(names(&list(&mut tracker, 10, 3)).is_empty(), "the lease has ended");
        let datagram = tracker.request(at(10), datagram(1), TrackerRequest::List);
        assert_eq!(code(&datagram), Some(ErrorCode::Malformed));
    }

    #[test]
    fn nobody_speaks_for_another() {
        let mut tracker = tracker();
        let token = register(&mut tracker, 0, datagram(1), "s");
        let forged = Token(token.0 + 1);
        let file = FileSummary { id: FileId([1; 32]), name: FileName::new("f").unwrap(), size: 1, chunks: 1 };
        for request in [
            TrackerRequest::Heartbeat { token: forged },
            TrackerRequest::Announce { token: forged, file, held: 1 },
            TrackerRequest::JoinSet { token, set: key() },
        ] {
            let effects = tracker.request(at(1), connection(2), request);
            assert_eq!(code(&effects), Some(ErrorCode::UnknownToken));
        }
        tracker.request(at(1), datagram(2), TrackerRequest::Goodbye { token: forged });
        let alive = tracker.request(at(1), datagram(1), TrackerRequest::Heartbeat { token });
        assert_eq!(alive, [Effect::Reply(datagram(1), TrackerResponse::Alive)]);
    }

    #[test]
    fn a_set_from_claims_to_a_file() {
        let mut tracker = tracker();
        let (one, two, three) = (member(&mut tracker, 1), member(&mut tracker, 2), member(&mut tracker, 3));
        claims(&mut tracker, 1, one, 0, 7);
        let unknown = wants(&mut tracker, 3, three, 0);
        assert!(matches!(unknown[0], Effect::Reply(_, TrackerResponse::ChunkUnknown { .. })));
        assert_eq!(unknown[1], Effect::Event("P2PTracker,CHUNK_LOCATION_UNKNOWN,1".into()));

        let effects = claims(&mut tracker, 2, two, 0, 7);
        let line = format!("P2PTracker,GET_CHUNK_FROM,1,{},10.0.0.", Digest([7; 32]));
        assert!(matches!(&effects[0], Effect::Event(event) if event.starts_with(&line)), "{effects:?}");
        assert!(matches!(
            &effects[1],
            Effect::Push(ConnectionId(3), TrackerResponse::ChunkLocation { holders, .. }) if holders.len() == 2
        ));

        claims(&mut tracker, 1, one, 1, 8);
        let sealed = claims(&mut tracker, 3, three, 1, 8);
        let file = sealed
            .iter()
            .find_map(|effect| match effect {
                Effect::Push(_, TrackerResponse::SetSealed { file, .. }) => Some(*file),
                _ => None,
            })
            .expect("the set is sealed");
        let manifest = tracker.request(at(1), connection(9), TrackerRequest::Manifest { file });
        let [Effect::PushWith(ConnectionId(9), TrackerResponse::Manifest { size: 20, .. }, payload)] =
            &manifest[..]
        else {
            panic!("{manifest:?}")
        };
        assert_eq!(Manifest::decode(file, 20, 0, payload).map(|manifest| manifest.id()), Ok(file));
        let name = Some(FileName::new("default").unwrap());
        let lookup = TrackerRequest::Lookup { name, id: None, limit: 9, token: None };
        let found = tracker.request(at(1), datagram(9), lookup.clone());
        let Effect::Reply(_, TrackerResponse::Found { files, .. }) = &found[0] else { panic!("{found:?}") };
        assert_eq!((files[0].file.id, files[0].whole.len(), files[0].partial.len()), (file, 1, 2));

        // Chunk 1 was held by peers 1 and 2: when both are gone the set is no file any more.
        tracker.closed(at(1), ConnectionId(1));
        tracker.closed(at(1), ConnectionId(2));
        let found = tracker.request(at(1), datagram(9), lookup);
        assert!(
            matches!(&found[0], Effect::Reply(_, TrackerResponse::Found { files, .. }) if files.is_empty())
        );
        tracker.closed(at(1), ConnectionId(3));
        assert!(tracker.sets.is_empty() && tracker.memberships.is_empty() && tracker.peers.is_clean());
    }

    #[test]
    fn all_are_told_when_all_have_everything() {
        let mut tracker = tracker();
        let tokens = [1, 2, 3].map(|number| (number, member(&mut tracker, number)));
        let complete = |effects: &[Effect]| {
            let told =
                |effect: &&Effect| matches!(effect, Effect::Push(_, TrackerResponse::SetComplete { .. }));
            effects.iter().filter(told).count()
        };
        for (number, token) in tokens {
            assert_eq!(complete(&claims(&mut tracker, number, token, 0, 7)), 0);
        }
        for (number, token) in &tokens[..2] {
            assert_eq!(complete(&claims(&mut tracker, *number, *token, 1, 8)), 0);
        }
        assert_eq!(complete(&claims(&mut tracker, 3, tokens[2].1, 1, 9)), 0, "not as agreed");
        assert_eq!(complete(&claims(&mut tracker, 3, tokens[2].1, 1, 8)), 3);
        let late = member(&mut tracker, 4);
        assert_eq!(complete(&claims(&mut tracker, 4, late, 0, 7)), 0);
        assert_eq!(complete(&tracker.closed(at(1), ConnectionId(4))), 3);
    }

    #[test]
    fn who_differs_is_told_and_not_named() {
        let mut tracker = tracker();
        let (one, two, three) = (member(&mut tracker, 1), member(&mut tracker, 2), member(&mut tracker, 3));
        claims(&mut tracker, 3, three, 0, 66);
        claims(&mut tracker, 1, one, 0, 7);
        let effects = claims(&mut tracker, 2, two, 0, 7);
        let differs = TrackerResponse::ClaimDiffers { set: key(), index: ChunkIndex(0), claim: claim(7) };
        assert!(effects.contains(&Effect::Push(ConnectionId(3), differs)), "{effects:?}");
        let located = wants(&mut tracker, 3, three, 0);
        let Effect::Reply(_, TrackerResponse::ChunkLocation { holders, .. }) = &located[0] else {
            panic!("{located:?}")
        };
        let mut ips: Vec<_> = holders.iter().map(SocketAddr::ip).collect();
        ips.sort();
        assert_eq!(ips, [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_code() {
        let mut tracker = tracker();
        let token = member(&mut tracker, 1);
        let (set, index) = (key(), ChunkIndex(2));
        let past = TrackerRequest::WhereChunk { token, set: set.clone(), index };
        assert_eq!(code(&tracker.request(at(1), connection(1), past)), Some(ErrorCode::Malformed));
        let other = SetKey { count: 3, ..set.clone() };
        let stranger = TrackerRequest::WhereChunk { token, set: other, index };
        assert_eq!(code(&tracker.request(at(1), connection(1), stranger)), Some(ErrorCode::NotFound));
        let empty = TrackerRequest::JoinSet { token, set: SetKey { count: 0, ..set.clone() } };
        assert_eq!(code(&tracker.request(at(1), connection(1), empty)), Some(ErrorCode::Malformed));
        let loose = TrackerRequest::JoinSet { token, set };
        assert_eq!(code(&tracker.request(at(1), datagram(1), loose)), Some(ErrorCode::Malformed));
        let name = EntityName::new("x").unwrap();
        let nowhere = TrackerRequest::Register { name, port: 0, advertise: None };
        assert_eq!(code(&tracker.request(at(1), datagram(1), nowhere)), Some(ErrorCode::Malformed));
        let unknown = tracker.request(at(1), datagram(1), TrackerRequest::Unknown);
        assert_eq!(code(&unknown), Some(ErrorCode::UnknownMessage));
    }

    #[test]
    fn registering_again_on_a_connection_replaces_the_first() {
        let mut tracker = tracker();
        let first = member(&mut tracker, 1);
        let second = register(&mut tracker, 1, connection(1), "again");
        let old = tracker.request(at(1), datagram(1), TrackerRequest::Heartbeat { token: first });
        assert_eq!(code(&old), Some(ErrorCode::UnknownToken));
        tracker.request(at(1), connection(1), TrackerRequest::Goodbye { token: second });
        assert!(tracker.peers.is_clean());
    }
}
