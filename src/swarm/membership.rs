//! Who is there: registrations, leases, and the connections that some peers registered over.
//!
//! What a tracker and a manager have in common. Invariants: a connection has at most one peer, and a peer that
//! registered over a connection is gone when it ends; a token is known only while its peer is.

use super::Moment;
use super::machine::{ConnectionId, Origin};
use super::registry::{Peer, PeerId, Registry};
use crate::content::EntityName;
use crate::content::limits;
use crate::protocol::ErrorCode;
use crate::protocol::tracker::{Token, TrackerResponse};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// When peers are alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leases {
    /// How often peers are to send a heartbeat.
    pub heartbeat: Duration,
    /// How long a peer counts as alive after one.
    pub lease: Duration,
}

impl Default for Leases {
    fn default() -> Self {
        Self { heartbeat: limits::HEARTBEAT, lease: limits::LEASE }
    }
}

/// What follows from a registration.
#[derive(Debug)]
pub struct Joined {
    /// The new peer.
    pub id: PeerId,
    /// What it is told.
    pub response: TrackerResponse,
    /// The peer that had registered over the same connection before.
    pub replaced: Option<(PeerId, Peer)>,
    /// For the log.
    pub note: String,
}

/// Peers and their connections.
pub struct Membership {
    leases: Leases,
    /// Peers, leases, files.
    pub registry: Registry,
    connections: HashMap<PeerId, ConnectionId>,
    registered: HashMap<ConnectionId, PeerId>,
    /// Draws unguessable numbers for tokens.
    draw: Box<dyn FnMut() -> u128 + Send>,
}

impl Membership {
    /// Nobody yet. `draw` gives unguessable numbers.
    pub fn new(leases: Leases, draw: impl FnMut() -> u128 + Send + 'static) -> Self {
        Self {
            leases,
            registry: Registry::new(leases.lease),
            connections: HashMap::new(),
            registered: HashMap::new(),
            draw: Box::new(draw),
        }
    }

    /// The address under which others would be told of a peer.
    pub fn address(origin: Origin, port: u16, advertise: Option<SocketAddr>) -> SocketAddr {
        let source = match origin {
            Origin::Datagram(source, _) => source.ip(),
            Origin::Connection(_, ip) => ip,
        };
        advertise.unwrap_or(SocketAddr::new(source, port))
    }

    /// Takes a peer in.
    ///
    /// # Errors
    /// The refusal to be sent: an address that nobody can connect to, or too many peers.
    pub fn register(
        &mut self,
        now: Moment,
        origin: Origin,
        name: EntityName,
        port: u16,
        advertise: Option<SocketAddr>,
    ) -> Result<Joined, TrackerResponse> {
        let address = Self::address(origin, port, advertise);
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            let text = format!("{address} is not an address that others can connect to");
            return Err(error(ErrorCode::Malformed, text));
        }
        let token = Token((self.draw)());
        let registered = self.registry.register(now, token, name.clone(), address);
        let id = registered.map_err(|full| error(ErrorCode::Busy, full.to_string()))?;
        let replaced = match origin {
            Origin::Connection(connection, _) => {
                let replaced = self.closed(connection);
                self.connections.insert(id, connection);
                self.registered.insert(connection, id);
                replaced
            }
            Origin::Datagram(..) => None,
        };
        let milliseconds = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
        let response = TrackerResponse::Registered {
            token,
            address,
            heartbeat_ms: milliseconds(self.leases.heartbeat),
            lease_ms: milliseconds(self.leases.lease),
        };
        let note = format!("{name} joined at {address}, {} peers", self.registry.len());
        Ok(Joined { id, response, replaced, note })
    }

    /// Renews a lease, and says whether it did.
    pub fn heartbeat(&mut self, now: Moment, token: Token) -> TrackerResponse {
        self.registry.heartbeat(now, token).map_or_else(unknown_token, |_| TrackerResponse::Alive)
    }

    /// A peer says goodbye.
    pub fn leave(&mut self, now: Moment, token: Token) -> Option<(PeerId, Peer)> {
        let id = self.registry.by_token(now, token)?;
        self.remove(id)
    }

    /// A connection has ended, and with it the peer that registered over it.
    pub fn closed(&mut self, connection: ConnectionId) -> Option<(PeerId, Peer)> {
        let id = *self.registered.get(&connection)?;
        self.remove(id)
    }

    /// Removes the peers whose lease has ended.
    pub fn expire(&mut self, now: Moment) -> Vec<(PeerId, Peer)> {
        let gone = self.registry.expire(now);
        gone.iter().for_each(|(id, _)| self.disconnect(*id));
        gone
    }

    fn remove(&mut self, id: PeerId) -> Option<(PeerId, Peer)> {
        self.disconnect(id);
        self.registry.remove(id).map(|peer| (id, peer))
    }

    fn disconnect(&mut self, id: PeerId) {
        if let Some(connection) = self.connections.remove(&id) {
            self.registered.remove(&connection);
        }
    }

    /// The connection that a peer registered over.
    pub fn connection(&self, id: PeerId) -> Option<ConnectionId> {
        self.connections.get(&id).copied()
    }

    /// The peer that registered over a connection.
    pub fn registered_over(&self, connection: ConnectionId) -> Option<&Peer> {
        self.registry.peer(*self.registered.get(&connection)?)
    }

    /// All connections that peers registered over.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.connections.values().copied()
    }

    /// The peer of a token, for what is only done over the connection that it registered over. Who asks is alive: its
    /// lease is renewed.
    ///
    /// # Errors
    /// The refusal to be sent.
    pub fn over_connection(
        &mut self,
        now: Moment,
        token: Token,
        origin: Origin,
    ) -> Result<PeerId, TrackerResponse> {
        let Origin::Connection(connection, _) = origin else {
            return Err(error(ErrorCode::Malformed, "this needs a connection"));
        };
        let id = self.registry.by_token(now, token);
        let id = id.filter(|id| self.connection(*id) == Some(connection)).ok_or_else(unknown_token)?;
        self.registry.heartbeat(now, token);
        Ok(id)
    }

    #[cfg(test)]
    pub(super) fn is_clean(&self) -> bool {
        self.registry.is_empty() && self.connections.is_empty() && self.registered.is_empty()
    }
}

/// A refusal.
pub(super) fn error(code: ErrorCode, text: impl Into<String>) -> TrackerResponse {
    TrackerResponse::Error { code, text: text.into() }
}

/// The refusal for a token that is not known, or not for this.
pub(super) fn unknown_token() -> TrackerResponse {
    error(ErrorCode::UnknownToken, "this token is not known (any more): register again")
}
