//! Drives the state machine of a tracker or manager with arbitrary events, and checks each effect against a simple
//! model of the registered peers.
//!
//! Invariants: a request is answered once, before its other effects, to its sender, and over UDP with a datagram that
//! fits; no message is sent to a closed connection; no peer with an expired lease is listed; an announced payload
//! follows; log lines have no control characters; after all peers have left, no state remains.

use crate::requests::Ask;
use crate::{fits_in_a_datagram, is_one_line, survives};
use arbitrary::Arbitrary;
use shoal::content::{FileId, Manifest, ManifestSizes};
use shoal::protocol::tracker::{
    Claim, FoundFile, PeerSummary, SetKey, Token, TrackerRequest, TrackerResponse,
};
use shoal::protocol::{Message, frame, status::Status};
use shoal::swarm::Moment;
use shoal::swarm::keeping::ExecutorTask;
use shoal::swarm::machine::{ConnectionId, Effect, Machine, Origin};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Lease of a peer.
pub const LEASE: Duration = Duration::from_secs(10);
/// Number of connections that are open at the same time.
const CONNECTIONS: usize = 6;

/// The sender of a request.
#[derive(Arbitrary, Debug, Clone, Copy)]
pub enum Sender {
    /// A UDP source, by number.
    Datagram(u8),
    /// A connection, by number.
    Connection(u8),
}

/// An input of the machine.
#[derive(Arbitrary, Debug)]
pub enum Event {
    /// A request from a sender.
    Request(Sender, Ask),
    /// A connection closes.
    Ends(u8),
    /// Tenths of a second pass, and then the machine's timer runs.
    Passes(u8),
    /// Tenths of a second pass without a call of the machine's timer.
    Elapses(u8),
}

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    connection: Option<ConnectionId>,
    expires: Moment,
}

/// The environment of a machine, and the model of its peers.
pub struct World<M> {
    /// The machine under test.
    pub machine: M,
    /// The current time.
    pub now: Moment,
    /// Whether the machine is a manager, which only keeps the list of members.
    pub is_manager: bool,
    /// Whether the machine is a tracker that replicates files to volunteers.
    pub keeps: bool,
    /// Addresses that need no registration: those of the tracker itself.
    pub always: BTreeSet<SocketAddr>,
    /// Tasks that the machine has started.
    pub tasks: Vec<ExecutorTask>,
    connections: Vec<ConnectionId>,
    next: u64,
    tokens: Vec<Token>,
    peers: BTreeMap<Token, Peer>,
    claims: BTreeMap<(Token, SetKey, u32), Claim>,
    sealed: Vec<FileId>,
    lists: BTreeMap<ConnectionId, Vec<PeerSummary>>,
}

/// A generator of tokens that are consecutive numbers.
pub fn draw() -> impl FnMut() -> u128 + Send + 'static {
    let mut next = 0;
    move || {
        next += 1;
        next
    }
}

impl<M: Machine> World<M> {
    /// An environment without peers.
    pub fn new(machine: M, is_manager: bool) -> Self {
        Self {
            machine,
            now: Moment::ZERO,
            is_manager,
            keeps: false,
            always: BTreeSet::new(),
            tasks: Vec::new(),
            connections: (0..CONNECTIONS as u64).map(ConnectionId).collect(),
            next: CONNECTIONS as u64,
            tokens: Vec::new(),
            peers: BTreeMap::new(),
            claims: BTreeMap::new(),
            sealed: Vec::new(),
            lists: BTreeMap::new(),
        }
    }

    /// Applies an event.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Request(sender, ask) => self.request(sender, ask),
            Event::Ends(number) => self.ends(usize::from(number) % CONNECTIONS),
            Event::Elapses(tenths) => self.now += Duration::from_millis(u64::from(tenths) * 100),
            Event::Passes(tenths) => {
                self.now += Duration::from_millis(u64::from(tenths) * 100);
                self.tick();
            }
        }
    }

    fn origin(&self, sender: Sender) -> Origin {
        match sender {
            Sender::Datagram(host) => Origin::Datagram(([10, 0, 0, host % 4], 9_999).into(), 7),
            Sender::Connection(number) => {
                let at = usize::from(number) % CONNECTIONS;
                let ip = if at == 0 { [127, 0, 0, 1] } else { [10, 0, 0, at as u8 % 4] };
                Origin::Connection(self.connections[at], IpAddr::from(ip))
            }
        }
    }

    fn request(&mut self, sender: Sender, ask: Ask) {
        let origin = self.origin(sender);
        let token = |number: usize| *self.tokens.get(number % (self.tokens.len() + 1)).unwrap_or(&Token(0));
        let sealed = |at: usize| *self.sealed.get(at % (self.sealed.len() + 1)).unwrap_or(&FileId([9; 32]));
        let request = ask.request(token, sealed);
        if matches!(request, TrackerRequest::Volunteer { .. }) && !self.keeps {
            return;
        }
        survives(&request);
        let renewed = self.renews(origin, &request);
        let known = renewed.is_some();
        if let Some(peer) = renewed.and_then(|token| self.peers.get_mut(&token)) {
            peer.expires = self.now + LEASE;
        }
        if let TrackerRequest::Goodbye { token } = &request {
            self.forget_if_alive(*token);
        }
        let effects = self.machine.request(self.now, origin, request.clone());
        let replies = effects.iter().filter(|effect| matches!(effect, Effect::Reply(..))).count();
        assert!(replies <= 1, "{request:?} is answered {replies} times");
        let reply = effects.iter().find_map(|effect| match effect {
            Effect::Reply(to, response) => Some((*to, response.clone())),
            _ => None,
        });
        match &reply {
            Some((to, response)) => {
                assert!(
                    matches!(effects[0], Effect::Reply(..)),
                    "the response to {request:?} is not the first effect"
                );
                assert_eq!(*to, origin);
                if matches!(origin, Origin::Datagram(..)) {
                    assert!(fits_in_a_datagram(response.clone()), "{response:?} does not fit in a datagram");
                }
            }
            None => self.assert_no_reply_expected(origin, &request, &effects),
        }
        self.learn(origin, &request, reply.map(|(_, response)| response), known);
        self.check(effects);
    }

    /// The peer whose lease a request renews.
    fn renews(&self, origin: Origin, request: &TrackerRequest) -> Option<Token> {
        use TrackerRequest as Ask;
        let (token, needs_connection) = match request {
            Ask::Heartbeat { token } => (*token, false),
            _ if self.is_manager => return None,
            Ask::Announce { token, .. } | Ask::AnnounceFiles { token, .. } | Ask::Withdraw { token, .. } => {
                (*token, false)
            }
            Ask::Lookup { token, .. } => ((*token)?, false),
            Ask::JoinSet { token, .. }
            | Ask::Claim { token, .. }
            | Ask::Unclaim { token, .. }
            | Ask::WhereChunk { token, .. }
            | Ask::Unreachable { token, .. }
            | Ask::SetStatus { token, .. }
            | Ask::Volunteer { token, .. } => (*token, true),
            _ => return None,
        };
        let peer = self.peers.get(&token).filter(|peer| self.now < peer.expires)?;
        let here = matches!(origin, Origin::Connection(id, _) if peer.connection == Some(id));
        (!needs_connection || here).then_some(token)
    }

    /// Asserts that a request without a reply is one that is not answered, or is answered by a message with a
    /// payload.
    fn assert_no_reply_expected(&self, origin: Origin, request: &TrackerRequest, effects: &[Effect]) {
        use TrackerRequest as Ask;
        let pushed = effects.iter().any(|effect| {
            matches!((effect, origin), (Effect::PushWith(to, ..), Origin::Connection(id, _)) if *to == id)
        });
        match request {
            Ask::Claim { .. } | Ask::Unclaim { .. } | Ask::Unreachable { .. } | Ask::Volunteer { .. } => {}
            Ask::List | Ask::Manifest { .. } | Ask::Status => assert!(pushed, "{request:?} is not answered"),
            _ => panic!("{request:?} is not answered"),
        }
    }

    fn learn(
        &mut self,
        origin: Origin,
        request: &TrackerRequest,
        reply: Option<TrackerResponse>,
        known: bool,
    ) {
        match (request, reply) {
            (TrackerRequest::Register(_), Some(TrackerResponse::Registered { token, address, .. })) => {
                let connection = match origin {
                    Origin::Connection(id, _) => Some(id),
                    Origin::Datagram(..) => None,
                };
                if connection.is_some() {
                    let before = self.peers.iter().find(|(_, peer)| peer.connection == connection);
                    before.map(|(token, _)| *token).into_iter().for_each(|token| self.forget(token));
                }
                let peer = Peer { address, connection, expires: self.now + LEASE };
                assert!(self.peers.insert(token, peer).is_none(), "a token is used once");
                self.tokens.push(token);
            }
            (TrackerRequest::Heartbeat { .. }, Some(response)) => {
                assert_eq!(response == TrackerResponse::Alive, known, "{response:?}");
            }
            (TrackerRequest::Claim { token, set, index, claim }, None) if known => {
                self.claims.insert((*token, set.clone(), index.0), *claim);
            }
            (TrackerRequest::Unclaim { token, set, index }, None) if known => {
                self.claims.remove(&(*token, set.clone(), index.0));
            }
            _ => {}
        }
    }

    fn forget_if_alive(&mut self, token: Token) {
        if self.peers.get(&token).is_some_and(|peer| self.now < peer.expires) {
            self.forget(token);
        }
    }

    fn forget(&mut self, token: Token) {
        self.peers.remove(&token);
        self.claims.retain(|(of, ..), _| *of != token);
    }

    fn ends(&mut self, at: usize) {
        let id = self.connections[at];
        self.connections[at] = ConnectionId(self.next);
        self.next += 1;
        self.lists.remove(&id);
        let registered = self.peers.iter().find(|(_, peer)| peer.connection == Some(id));
        registered.map(|(token, _)| *token).into_iter().for_each(|token| self.forget(token));
        let effects = self.machine.closed(self.now, id);
        self.check(effects);
    }

    fn tick(&mut self) {
        let gone: Vec<Token> =
            self.peers.iter().filter(|(_, peer)| peer.expires <= self.now).map(|(token, _)| *token).collect();
        gone.into_iter().for_each(|token| self.forget(token));
        let effects = self.machine.tick(self.now);
        self.check(effects);
        let next = self.machine.next_tick();
        assert!(next.is_none_or(|next| next > self.now), "after a tick at {:?}: {next:?}", self.now);
    }

    /// Checks the effects of a call of the machine.
    pub fn check(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Reply(_, response) => self.check_response(&response),
                Effect::Push(to, response) => {
                    assert!(self.connections.contains(&to), "{response:?} to a connection that has ended");
                    assert_eq!(response.payload_length(), 0);
                    self.check_response(&response);
                }
                Effect::PushWith(to, response, payload) => {
                    assert!(self.connections.contains(&to), "{response:?} to a connection that has ended");
                    assert_eq!(response.payload_length(), payload.len() as u64);
                    self.check_response(&response);
                    self.check_payload(to, &response, &payload);
                }
                Effect::Event(line)
                | Effect::Note(line)
                | Effect::Departure(_, line)
                | Effect::Warning(line)
                | Effect::Error(line) => is_one_line(&line),
                Effect::Task(task) => self.tasks.push(task),
                Effect::Answer(..) | Effect::DialBack(_) | Effect::Peer(_) => {}
            }
        }
    }

    fn check_response(&mut self, response: &TrackerResponse) {
        assert!(frame::encode(response).is_ok(), "{response:?} does not fit in a frame");
        survives(response);
        match response {
            TrackerResponse::Found { files, .. } => files.iter().for_each(|found| self.check_found(found)),
            TrackerResponse::ChunkLocation { set, index, claim, holders } => {
                for holder in holders {
                    let has = |token: &Token| self.claims.get(&(*token, set.clone(), index.0)) == Some(claim);
                    let lives = |peer: &Peer| peer.address == holder.first() && self.now < peer.expires;
                    let listed = self.peers.iter().any(|(token, peer)| lives(peer) && has(token));
                    assert!(listed, "{holder} has no claim for chunk {index} of {set:?}, or no lease");
                }
            }
            TrackerResponse::SetSealed { file, .. } => self.sealed.push(*file),
            TrackerResponse::Error { text, .. } => is_one_line(text),
            _ => {}
        }
    }

    fn check_found(&self, found: &FoundFile) {
        let mut all = BTreeSet::new();
        for address in found.whole.iter().chain(&found.partial) {
            let mut alive = self.peers.values().filter(|peer| self.now < peer.expires);
            let here =
                self.always.contains(&address.first()) || alive.any(|peer| peer.address == address.first());
            assert!(here, "{address} is listed without a lease");
            all.insert(address.first());
        }
        assert!(!all.is_empty(), "a file without a holder is listed: {found:?}");
        assert!(all.len() <= found.holders as usize);
    }

    fn check_payload(&mut self, to: ConnectionId, response: &TrackerResponse, payload: &[u8]) {
        match response {
            TrackerResponse::Peers { count, .. } => {
                let list: Vec<PeerSummary> = serde_json::from_slice(payload).expect("a list of peers");
                assert_eq!(list.len(), *count as usize);
                self.lists.insert(to, list);
            }
            TrackerResponse::Listing { count, .. } => {
                let list: Vec<FoundFile> = serde_json::from_slice(payload).expect("a list of files");
                assert_eq!(list.len(), *count as usize);
                list.iter().for_each(|found| self.check_found(found));
            }
            TrackerResponse::Manifest { file, size, chunk_size, .. } => {
                let sizes = ManifestSizes { size: *size, chunk_size: *chunk_size, index: None };
                Manifest::decode(*file, sizes, payload).expect("a manifest of that id");
            }
            TrackerResponse::Status { .. } => {
                serde_json::from_slice::<Status>(payload).expect("a status");
            }
            other => panic!("{other:?} has no payload"),
        }
    }

    /// Waits for the broadcast interval, and asserts that each member of a manager has the current list.
    pub fn assert_lists_are_current(&mut self) {
        self.apply(Event::Passes(2));
        self.apply(Event::Passes(2));
        let mut here: Vec<SocketAddr> = self.peers.values().map(|peer| peer.address).collect();
        here.sort();
        for connection in self.peers.values().filter_map(|peer| peer.connection) {
            let list = self.lists.get(&connection).map(Vec::as_slice).unwrap_or_default();
            let known: Vec<SocketAddr> = list.iter().map(|peer| peer.address.first()).collect();
            assert_eq!(known, here, "the list of {connection:?}");
        }
    }

    /// Removes all peers, half of them by closing their connection and the others by the end of their lease.
    pub fn remove_all_peers(&mut self) {
        (0..CONNECTIONS / 2).for_each(|at| self.ends(at));
        for _ in 0..3 {
            self.apply(Event::Passes(101));
        }
        assert!(self.peers.is_empty());
        (0..CONNECTIONS).for_each(|at| self.ends(at));
        self.apply(Event::Passes(101));
    }

    /// Requests the list of files over a new connection, and returns their number.
    pub fn files(&mut self) -> u32 {
        self.ends(1);
        let origin = self.origin(Sender::Connection(1));
        let effects = self.machine.request(self.now, origin, TrackerRequest::List);
        let count = effects.iter().find_map(|effect| match effect {
            Effect::PushWith(_, TrackerResponse::Listing { count, .. }, _) => Some(*count),
            _ => None,
        });
        self.check(effects);
        count.expect("a list of all files")
    }
}
